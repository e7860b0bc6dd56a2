"""Number formats and roundings, against exact fractions of Python."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npmobilevit.errors import ConfigError, ShapeError
from npmobilevit.fixed_point import ROUNDINGS, QFormat, dequantize, quantize, requantize

floats = st.floats(allow_nan=False, allow_infinity=False)
widths = st.sampled_from([8, 16])


def rounded(x, rounding):
    """A fraction to an integer, from the definitions."""
    below = x.numerator // x.denominator
    rest = x - below
    if rounding == "truncate":
        return below
    if rest == Fraction(1, 2):
        return below + 1 if rounding == "half-up" else below + below % 2
    return below + (rest > Fraction(1, 2))


def saturated(word, width):
    return min(max(word, -(2 ** (width - 1))), 2 ** (width - 1) - 1)


@given(
    st.one_of(floats, st.floats(-300, 300), st.integers(-2000, 2000).map(lambda n: n / 8)),
    widths,
    st.integers(-40, 80),
    st.sampled_from(ROUNDINGS),
)
def test_quantize_is_the_definition(x, width, fraction, rounding):
    expected = saturated(rounded(Fraction(x) * Fraction(2) ** fraction, rounding), width)
    (found,) = quantize(np.array([x]), QFormat(width, fraction), rounding=rounding)
    assert int(found) == expected
    assert found.dtype == f"int{width}"


@pytest.mark.parametrize(
    ("x", "half_even", "half_up", "truncate"),
    [
        (0.5, 0, 1, 0),
        (1.5, 2, 2, 1),
        (-0.5, 0, 0, -1),
        (-1.5, -2, -1, -2),
        (0.49999999999999994, 0, 0, 0),  # floor(x + 0.5) would be 1
        (-0.49999999999999994, 0, 0, -1),
        (-1e-320, 0, 0, -1),
        (127.4, 127, 127, 127),
        (127.5, 127, 127, 127),
        (-128.5, -128, -128, -128),
        (1e300, 127, 127, 127),
        (-1e300, -128, -128, -128),
    ],
)
def test_single_values(x, half_even, half_up, truncate):
    found = {name: int(quantize(np.array([x]), QFormat(8, 0), rounding=name)[0]) for name in ROUNDINGS}
    assert found == {"half-even": half_even, "half-up": half_up, "truncate": truncate}


def test_truncation_goes_down_however_small_the_number():
    """-5e-324 / 2**10 is no float64 but -0."""
    found = quantize(np.array([-5e-324, 5e-324, 0.0, -0.0]), QFormat(8, -10), rounding="truncate")
    assert found.tolist() == [-1, 0, 0, 0]


@pytest.mark.parametrize("width", [32, 64])
def test_wide_words_saturate_to_the_last_one(width):
    top, bottom = 2 ** (width - 1) - 1, -(2 ** (width - 1))
    found = quantize(np.array([1e30, -1e30, 3.0, 1e308]), QFormat(width, 20))
    assert [int(word) for word in found] == [top, bottom, 3 * 2**20, top]


def test_float32_and_any_shape_are_kept():
    x = np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4)
    found = quantize(x, QFormat(16, 12))
    assert found.shape == x.shape
    assert np.abs(dequantize(found, QFormat(16, 12)) - x).max() <= 2.0**-13


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-80, 80), st.sampled_from([8, 16, 32, 64]),
       st.sampled_from(ROUNDINGS))  # fmt: skip
def test_requantize_is_the_definition(sum_, shift, width, rounding):
    expected = saturated(rounded(Fraction(sum_) / Fraction(2) ** shift, rounding), width)
    found = requantize(np.array([sum_]), shift=shift, width=width, rounding=rounding)
    assert (int(found[0]), found.dtype) == (expected, np.dtype(f"int{width}"))


@given(st.integers(-5000, 5000), st.integers(-9, 9), widths, st.sampled_from(ROUNDINGS))
def test_requantize_near_ties_and_ends(sum_, shift, width, rounding):
    expected = saturated(rounded(Fraction(sum_) / Fraction(2) ** shift, rounding), width)
    assert int(requantize(np.array([sum_], np.int32), shift=shift, width=width, rounding=rounding)[0]) == expected


@given(floats, floats, widths)
def test_a_format_holds_its_range_and_none_finer_does(a, b, width):
    low, high = min(a, b), max(a, b)

    def holds(fraction):
        step = Fraction(2) ** -fraction
        below, above = -(2 ** (width - 1)) * step, (2 ** (width - 1) - 1) * step
        return below <= Fraction(low) and Fraction(high) <= above

    if max(abs(low), abs(high)) > 2.0**890:
        return
    found = QFormat.holding(width, low, high)
    assert holds(found.fraction)
    if (low < 0 or high > 0) and found.fraction < 900:
        assert not holds(found.fraction + 1)
    assert found.integer_bits + found.fraction == width - 1


def test_all_that_a_format_holds_comes_back():
    for width in (8, 16):
        found = QFormat.holding(width, -1.0, 0.9)
        words = np.arange(found.lowest, found.highest + 1).astype(found.dtype)
        np.testing.assert_array_equal(quantize(dequantize(words, found), found), words)
    assert (found.smallest, found.largest, found.step) == (-1.0, 1 - 2.0**-15, 2.0**-15)


@pytest.mark.parametrize(
    ("width", "low", "high", "text"),
    [
        (8, -1.0, 0.99, "Q0.7"),
        (8, -1.0, 0.995, "Q1.6"),  # 127/128 is the last one
        (16, -1.0, 0.995, "Q0.15"),
        (8, 0.0, 1.0, "Q1.6"),
        (8, -1.0001, 0.0, "Q1.6"),
        (8, -300.0, 20.0, "Q9.-2"),
        (16, 0.0, 0.001, "Q-9.24"),
        (8, 0.0, 0.0, "Q0.7"),
    ],
)
def test_formats_by_hand(width, low, high, text):
    assert str(QFormat.holding(width, low, high)) == text


@pytest.mark.parametrize(("low", "high"), [(math.nan, 1), (0, math.inf), (-math.inf, 0), (0, 1e308)])
def test_a_range_that_no_format_holds_is_refused(low, high):
    with pytest.raises(ShapeError):
        QFormat.holding(8, low, high)


@pytest.mark.parametrize(
    ("low", "high", "code"),
    [
        (2.0, 1.0, "argument-range"),
        ("0", 1.0, "argument-range"),
        (False, 1.0, "argument-range"),
        (None, 1.0, "argument-range"),
        (np.zeros(2), 1.0, "argument-range"),
        pytest.param(0, 10**400, "not-finite", id="integer-beyond-floats"),
    ],
)
def test_limits_that_are_no_range_are_refused(low, high, code):
    with pytest.raises(ShapeError) as caught:
        QFormat.holding(8, low, high)
    assert caught.value.code == code


@pytest.mark.parametrize("width", [True, 8.0, "8", None, np.int64(8), 24])
def test_a_format_of_another_width_holds_nothing(width):
    with pytest.raises(ConfigError) as caught:
        QFormat.holding(width, 0.0, 1.0)
    assert caught.value.code == "width"


def test_limits_may_be_scalars_of_numpy():
    assert QFormat.holding(8, np.float32(-1), np.int64(3)) == QFormat.holding(8, -1.0, 3.0)


@pytest.mark.parametrize(
    ("width", "fraction", "code"), [(12, 0, "width"), (8.0, 0, "width"), (8, 901, "fraction"), (8, 1.5, "fraction")]
)
def test_a_format_that_is_none_is_refused(width, fraction, code):
    with pytest.raises(ConfigError) as caught:
        QFormat(width, fraction)
    assert caught.value.code == code


@pytest.mark.parametrize("words", [[1], 1, np.array([1.5]), np.array([1], np.uint8), np.array([True])])
def test_what_are_no_words_is_refused(words):
    with pytest.raises(ShapeError) as caught:
        dequantize(words, QFormat(8, 0))
    assert caught.value.code == "array-dtype"


@pytest.mark.parametrize("format", [(8, 5), "Q2.5", None])
def test_what_is_no_format_is_refused(format):
    for work in (lambda: quantize(np.zeros(1), format), lambda: dequantize(np.zeros(1, np.int8), format)):
        with pytest.raises(ConfigError) as caught:
            work()
        assert caught.value.code == "format"


@pytest.mark.parametrize("x", [np.array([np.nan]), np.array([np.inf]), np.array([1]), [1.0], np.array(["a"])])
def test_what_cannot_be_quantized_is_refused(x):
    with pytest.raises(ShapeError):
        quantize(x, QFormat(8, 0))


def test_unknown_roundings_and_wrong_sums_are_refused():
    with pytest.raises(ConfigError) as caught:
        quantize(np.zeros(1), QFormat(8, 0), rounding="nearest")
    assert caught.value.code == "rounding"
    with pytest.raises(ConfigError):
        requantize(np.zeros(1, int), shift=0, width=8, rounding="floor")
    for sums, shift in (
        (np.zeros(1), 0),
        (np.zeros(1, np.uint8), 0),
        (np.zeros(1, int), 1.0),
        (np.zeros(1, int), True),
    ):
        with pytest.raises(ShapeError):
            requantize(sums, shift=shift, width=8)
