"""Scales: where values lie between two limits, and round ticks on the axes of a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["FARTHEST", "Ticks", "linear_ticks", "log_ticks", "scaled", "span", "tick_shares"]

Ticks: TypeAlias = list[tuple[float, str]]  # place on the axis, and text
_Values: TypeAlias = NDArray[np.float64]

FARTHEST = 1e250  # the largest absolute value on an axis, and the inverse of the least difference


def scaled(values: _Values, low: float, high: float) -> _Values:
    """Places of the values between `low`, 0, and `high`, 1; what lies beyond has the nearer of these. NaN stays."""
    unit = max(abs(low), abs(high)) or 1.0  # so that no difference overflows
    with np.errstate(over="ignore"):
        parts = values / unit
    if low == high:
        return np.asarray(0.5 + 0.5 * np.sign(parts - low / unit))
    return np.asarray(np.clip((parts - low / unit) / (high / unit - low / unit), 0.0, 1.0))


def span(values: Sequence[_Values], *, logarithms: bool = False) -> tuple[float, float]:
    """From the least to the largest of all values that are not NaN, and a little more on both sides.

    Where there is one value only, the axis goes half as far again, or with decimal logarithms from a third to the
    threefold.
    """
    present = np.concatenate([*values, np.array([], np.float64)])
    present = present[~np.isnan(present)]
    if present.size == 0:
        return 0.0, 1.0
    low, high = float(present.min()), float(present.max())
    largest = max(abs(low), abs(high))
    if high - low > max(1e-9 * largest, 1 / FARTHEST):
        pad = 0.04 * (high - low)
    else:  # one value, as far as ticks can tell
        pad = 0.5 if logarithms or largest <= 1 / FARTHEST else largest / 2
    return low - pad, high + pad


def linear_ticks(low: float, high: float) -> Ticks:
    """Two to seven multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    ticks = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    largest = max(map(abs, ticks))
    if largest == 0 or 1e-4 <= largest < 1e6:
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(tick, f"{tick:.{places}f}") for tick in ticks]
    digits = 1 + max(0, math.floor(math.log10(largest) + 1e-9) - math.floor(math.log10(step) + 1e-9))
    return [(tick, f"{tick:.{digits}g}") for tick in ticks]


def log_ticks(low: float, high: float) -> Ticks:
    """Ticks between two decimal logarithms: powers of ten; where there are too few, closer ones."""
    powers = range(math.ceil(low), math.floor(high) + 1)
    if len(powers) >= 2:
        return [(float(k), f"{10.0**k:g}") for k in powers[:: math.ceil(len(powers) / 7)]]
    closer = [k + math.log10(factor) for k in range(math.floor(low), math.floor(high) + 1) for factor in (1, 2, 5)]
    inside = [tick for tick in closer if low <= tick <= high]
    if len(inside) >= 2:
        return [(tick, f"{10.0**tick:.3g}") for tick in inside]
    return [(math.log10(value), text) for value, text in linear_ticks(10.0**low, 10.0**high)]


def tick_shares(ticks: Ticks, low: float, high: float) -> Ticks:
    """The ticks with their places as shares of the axis from `low` to `high`."""
    places = scaled(np.array([tick for tick, _ in ticks]), low, high).tolist()
    return [(place, text) for place, (_, text) in zip(places, ticks, strict=True)]
