"""Scales and ticks."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npmobilevit.visual.axes import FARTHEST, linear_ticks, log_ticks, scaled, span, tick_shares

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.floats(-FARTHEST, FARTHEST)


@given(st.lists(FINITE, min_size=2, max_size=9))
def test_the_limits_are_0_and_1_and_order_is_kept(values):
    low, high = min(values), max(values)
    places = scaled(np.array(sorted(values)), low, high)
    assert (np.diff(places) >= 0).all()
    if low < high:
        assert (places[0], places[-1]) == (0, 1)
    else:
        assert (places == 0.5).all()


def test_places_are_linear_and_stay_within_the_limits():
    values = np.array([-np.inf, -9, -2, 0, 3, 8, 9, np.inf, np.nan])
    np.testing.assert_allclose(scaled(values, -2, 8), [0, 0, 0, 0.2, 0.5, 1, 1, 1, np.nan])
    np.testing.assert_array_equal(scaled(np.array([1.0, 2.0, 3.0]), 2, 2), [0, 0.5, 1])
    np.testing.assert_array_equal(scaled(np.array([0.0, 1e308, 5e-324]), -5e-324, 5e-324), [0.5, 1, 1])


@given(st.lists(VALUES, max_size=9))
def test_a_span_holds_all_values_and_has_room_for_ticks(values):
    low, high = span([np.array(values), np.array([np.nan])])
    assert all(low < value < high for value in values)
    assert low < high
    ticks = linear_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert len({text for _, text in ticks}) == len(ticks)
    assert all(low <= tick <= high for tick, _ in ticks)


@pytest.mark.parametrize(
    ("value", "logarithms", "limits"),
    [
        (0.0, False, (-0.5, 0.5)),
        (-8.0, False, (-12.0, -4.0)),
        (0.0, True, (-0.5, 0.5)),
        (-249.0, True, (-249.5, -248.5)),
    ],
)
def test_a_single_value_is_in_the_middle(value, logarithms, limits):
    assert span([np.array([value, np.nan]), np.array([value])], logarithms=logarithms) == limits


def test_without_values_the_axis_goes_from_0_to_1():
    assert span([]) == span([np.array([np.nan])]) == (0.0, 1.0)


@given(st.lists(VALUES, min_size=1, max_size=9))
def test_texts_of_ticks_are_their_values(values):
    low, high = span([np.array(values)])
    for tick, text in linear_ticks(low, high):
        assert math.isclose(float(text), tick, rel_tol=1e-6, abs_tol=1e-9 * (high - low))


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-0.03, 0.03, ["-0.03", "-0.02", "-0.01", "0.00", "0.01", "0.02", "0.03"]),
        (0, 100, ["0", "20", "40", "60", "80", "100"]),
        (99, 124, ["100", "105", "110", "115", "120"]),
        (0, 3e9, ["0", "5e+08", "1e+09", "1.5e+09", "2e+09", "2.5e+09", "3e+09"]),
        (1e-7, 6e-7, ["1e-07", "2e-07", "3e-07", "4e-07", "5e-07", "6e-07"]),
    ],
)
def test_ticks_are_round(low, high, texts):
    assert [text for _, text in linear_ticks(low, high)] == texts


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (1e-3, 1e3, ["0.001", "0.01", "0.1", "1", "10", "100", "1000"]),
        (1e-9, 1e9, ["1e-09", "1e-06", "0.001", "1", "1000", "1e+06", "1e+09"]),
        (3, 30, ["5", "10", "20"]),
        (11, 19, ["12", "14", "16", "18"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(low, high, texts):
    found = log_ticks(math.log10(low) - 1e-9, math.log10(high) + 1e-9)
    assert [text for _, text in found] == texts
    for tick, text in found:
        assert math.isclose(10**tick, float(text), rel_tol=0.01)


@given(st.floats(-300, 300), st.floats(1e-3, 600))
def test_any_logarithmic_axis_has_ticks_in_it(low, length):
    high = min(low + length, 300.0 + 1e-2)
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(a < b for a, b in itertools.pairwise(tick for tick, _ in ticks))
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks)


def test_shares_of_an_axis():
    assert tick_shares([(1.0, "a"), (2.0, "b")], 0, 4) == [(0.25, "a"), (0.5, "b")]
