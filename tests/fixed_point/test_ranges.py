"""Ranges of taps against NumPy on all values at once."""

import functools
import itertools
import math
import tracemalloc
from fractions import Fraction

import networks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npmobilevit.errors import ConfigError, ShapeError, WeightsError
from npmobilevit.fixed_point import Range, merged, tap_names, tap_ranges

PERCENTS = (0, 0.1, 1, 25, 50, 75, 99, 99.9, 100)
values = st.lists(
    st.one_of(
        st.floats(-1e3, 1e3),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-32, -(2.0**-32), 2.0**32, 1e-300, 5e-324]),
    ),
    min_size=1,
    max_size=30,
)


def check(found, x):
    """Minimum and maximum are exact; percentiles are bounds, and no further out than is said."""
    assert (found.minimum, found.maximum, found.size) == (x.min(), x.max(), x.size)
    in_order = np.sort(x.ravel()).astype(np.float64)
    for percent in PERCENTS:
        place = Fraction(str(percent)) / 100 * (x.size - 1)
        high, low = float(in_order[math.ceil(place)]), float(in_order[math.floor(place)])
        upper, lower = found.upper(percent), found.lower(percent)
        assert high <= upper <= x.max()
        assert x.min() <= lower <= low
        if abs(high) < 2.0**32:
            assert Fraction(upper) - Fraction(high) <= max(Fraction(abs(high)) / 64, Fraction(2) ** -31)
        if abs(low) < 2.0**32:
            assert Fraction(low) - Fraction(lower) <= max(Fraction(abs(low)) / 64, Fraction(2) ** -31)


@given(values, st.sampled_from([np.float32, np.float64]))
def test_a_range_is_what_numpy_says(x, dtype):
    with np.errstate(over="ignore"):
        x = np.array(x).astype(dtype)
    x = x[np.isfinite(x)] if np.isfinite(x).any() else np.zeros(1, dtype)
    check(Range.of(x), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_percentiles_are_bounds_of_numpys(dtype):
    x = np.random.default_rng(0).standard_normal((3, 50, 70)).astype(dtype) ** 3
    found = Range.of(x)
    check(found, x)
    for percent in (0.1, 1, 99, 99.9):
        exact = np.percentile(x.astype(np.float64), percent)
        assert found.lower(percent) <= exact <= found.upper(percent)
        assert found.upper(percent) - found.lower(percent) <= abs(exact) / 16  # two bins, and the gap between values


def test_every_edge_is_in_the_bin_that_begins_there():
    """A value just below an edge belongs to the bin before; the edges are 64 an octave."""
    edges = np.array([math.ldexp(1 + k / 64, e) for e in (-32, -1, 0, 5, 31) for k in range(64)])
    for x in edges:
        assert Range.of(np.array([0.0, x, 1e12])).lower(50) == x
        below = np.nextafter(x, 0)
        found = Range.of(np.array([-1e12, below, 1e12])).upper(50)
        assert found == x
        assert Range.of(np.array([-1e12, -x, 0.0])).upper(50) == -x


def test_the_order_of_merging_does_not_matter():
    generator = np.random.default_rng(1)
    parts = [generator.standard_normal(n).astype(np.float32) * 10.0**n for n in (1, 2, 3, 4)]
    whole = Range.of(np.concatenate(parts))
    for order in itertools.permutations(parts):
        found = functools.reduce(Range.merged, map(Range.of, order))
        assert (found.minimum, found.maximum) == (whole.minimum, whole.maximum)
        np.testing.assert_array_equal(found.counts, whole.counts)
    left, right = map(Range.of, parts[:2])
    assert merged({"a": left, "b": left}, {"b": right, "c": right}).keys() == {"a", "b", "c"}
    assert merged({"b": left}, {"b": right})["b"].size == 3


@pytest.mark.parametrize(
    "x", [np.zeros(0), np.zeros(2, int), np.zeros(2, np.float16), np.array([1.0, np.nan]), [1.0], 1.0, np.float64(1)]
)
def test_what_has_no_range_is_refused(x):
    with pytest.raises(ShapeError):
        Range.of(x)


def test_bytes_may_be_in_the_other_order():
    x = np.array([-3.0, 0.1, 500.0])
    for dtype in (">f4", ">f8", "<f4", "<f8"):
        check(Range.of(x.astype(dtype)), x.astype(dtype))


@pytest.mark.parametrize("percent", [-0.1, 100.1, math.nan, "50", True])
def test_a_percent_that_is_none_is_refused(percent):
    with pytest.raises(ConfigError):
        Range.of(np.ones(3)).upper(percent)


# Of a network


@pytest.fixture(scope="module")
def network():
    config = networks.tiny()
    return networks.MODELS["classification"](config, networks.random_weights(config, "classification"))


def test_the_ranges_of_all_taps_over_pictures(network):
    names = [*tap_names(network, "all"), "mobilevit.encoder.layer.2.folded",
             "mobilevit.encoder.layer.2.transformer.layer.0.attention.attention.scores"]  # fmt: skip
    pictures = [networks.pixels(n, height=40, width=56)[:1] for n in range(1, 4)]
    found = functools.reduce(merged, (tap_ranges(network, picture, names) for picture in pictures))
    taps = [network.taps(picture, names) for picture in pictures]
    assert set(found) == set(names)
    for name in names:
        check(found[name], np.stack([values[name] for values in taps]))


def test_memory_does_not_grow_with_pictures(network):
    names = tap_names(network, "all")
    picture = networks.pixels(height=40, width=56)

    def peak(count):
        tracemalloc.start()
        found = {}
        for _ in range(count):
            found = merged(found, tap_ranges(network, picture, names))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(6) < 1.05 * peak(2)


def test_names_of_taps(network):
    assert tap_names(network, "all") == list(network.taps(networks.pixels(height=32, width=32)))
    assert tap_names(network, "stages")[-1] == "logits"
    assert tap_names(network, ["logits", "mobilevit.conv_stem"]) == ["mobilevit.conv_stem", "logits"]
    assert tap_names(network, "logits") == ["logits"]
    with pytest.raises(ConfigError, match="did you mean 'logits'") as caught:
        tap_names(network, ["lgits"])
    assert caught.value.code == "tap-unknown"


def test_the_range_of_one_name(network):
    picture = networks.pixels(height=32, width=32)
    assert list(tap_ranges(network, picture, "logits")) == ["logits"]
    for names in ("lgits", ["logits", "lgits"]):
        with pytest.raises(ConfigError, match="no tap 'lgits'") as caught:
            tap_ranges(network, picture, names)
        assert caught.value.code == "tap-unknown"


def test_a_network_that_gives_nan_is_refused():
    config = networks.tiny()
    weights = networks.random_weights(config, "classification")
    name = "mobilevit.conv_stem.normalization.weight"
    weights[name] = np.full_like(weights[name], 3e38)
    network = networks.MODELS["classification"](config, weights)
    with pytest.raises(WeightsError) as caught:  # and no warning of NumPy
        tap_ranges(network, networks.pixels(height=32, width=32), ["logits"])
    assert caught.value.code == "tap-not-finite"
