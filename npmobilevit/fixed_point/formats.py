"""Signed fixed-point numbers: which there are, rounding to them, and the shift from an accumulator to a result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.errors import ConfigError, ShapeError

Rounding: TypeAlias = Literal["half-even", "half-up", "truncate"]
Integers: TypeAlias = NDArray[np.signedinteger[Any]]
Doubles: TypeAlias = NDArray[np.float64]

ROUNDINGS: tuple[Rounding, ...] = ("half-even", "half-up", "truncate")
WIDTHS = (8, 16, 32, 64)  # words of tensors, and of accumulators
MAX_FRACTION = 900  # so that all numbers and steps are normal float64 numbers


@dataclasses.dataclass(frozen=True)
class QFormat:
    """A format of signed fixed-point numbers, Qm.n: two's complement with a sign, m bits before and n behind the point.

    A word q stands for ``q * 2**-n``; there is no zero point. m and n may be negative: Q-2.9 has bits behind the point
    from the third on, and Q9.-2 counts in steps of 4.

    Parameters
    ----------
    width : {8, 16, 32, 64}
        Bits of a word.
    fraction : int
        n, from -900 to 900.

    Raises
    ------
    ConfigError
        If either is out of its range.

    Examples
    --------
    >>> q = QFormat(8, 5)
    >>> str(q), q.step, q.smallest, q.largest
    ('Q2.5', 0.03125, -4.0, 3.96875)
    """

    width: int
    fraction: int

    def __post_init__(self) -> None:
        if type(self.width) is not int or self.width not in WIDTHS:
            raise ConfigError(f"width must be one of {', '.join(map(str, WIDTHS))}, found {self.width!r}", "width")
        if type(self.fraction) is not int or abs(self.fraction) > MAX_FRACTION:
            message = f"fraction must be an integer from -{MAX_FRACTION} to {MAX_FRACTION}, found {self.fraction!r}"
            raise ConfigError(message, "fraction")

    def __str__(self) -> str:
        return f"Q{self.integer_bits}.{self.fraction}"

    @property
    def integer_bits(self) -> int:
        """m, the number of bits before the point, without the sign: ``width - 1 - fraction``."""
        return self.width - 1 - self.fraction

    @property
    def step(self) -> float:
        """Distance between neighbours: the scale of a word."""
        return math.ldexp(1.0, -self.fraction)

    @property
    def lowest(self) -> int:
        """Lowest word."""
        return -(1 << (self.width - 1))

    @property
    def highest(self) -> int:
        """Highest word."""
        return (1 << (self.width - 1)) - 1

    @property
    def smallest(self) -> float:
        """Lowest number."""
        return math.ldexp(self.lowest, -self.fraction)

    @property
    def largest(self) -> float:
        """Highest number; of 64 bits, rounded to float64."""
        return math.ldexp(self.highest, -self.fraction)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type of a word."""
        return np.dtype(f"int{self.width}")

    @classmethod
    def holding(cls, width: int, low: float, high: float) -> Self:
        """The finest format whose numbers reach from `low` to `high`, so that nothing between them saturates.

        Parameters
        ----------
        width : int
        low, high : float
            Zero is always held. If there is nothing else, m is 0.

        Returns
        -------
        QFormat

        Raises
        ------
        ConfigError
            If the width is unknown.
        ShapeError
            If a limit is no finite number or beyond any format, or `low` is above `high`.

        Examples
        --------
        >>> str(QFormat.holding(8, -4.0, 3.9)), str(QFormat.holding(8, -3.0, 4.0)), str(QFormat.holding(8, 0.0, 0.01))
        ('Q2.5', 'Q3.4', 'Q-6.13')
        """
        cls(width, 0)  # refuses widths that there are not
        low, high = _finite(low), _finite(high)
        if low > high:
            raise ShapeError(f"low must not be above high, found {low} to {high}", "argument-range")
        integer_bits = []
        if high > 0:
            mantissa, exponent = math.frexp(high)  # high == mantissa * 2**exponent, 0.5 <= mantissa < 1
            integer_bits.append(exponent + (mantissa > 1 - 2.0 ** (1 - width)))  # the last word is missing above
        if low < 0:
            mantissa, exponent = math.frexp(-low)
            integer_bits.append(exponent - (mantissa == 0.5))  # -2**m itself is a number
        fraction = width - 1 - max(integer_bits, default=0)
        if fraction < -MAX_FRACTION:
            raise ShapeError(f"no format reaches from {low} to {high}", "fixed-point-range")
        return cls(width, min(fraction, MAX_FRACTION))


def _finite(limit: object) -> float:
    if isinstance(limit, bool | np.bool_) or not isinstance(limit, int | float | np.integer | np.floating):
        raise ShapeError(f"a limit of a range must be a number, found {limit!r}", "argument-range")
    try:
        number = float(limit)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise ShapeError(f"a limit of a range must be a finite float64, found {limit!r}", "not-finite")
    return number


def check_rounding(rounding: str) -> None:
    """Raise ConfigError unless there is such a rounding."""
    if rounding not in ROUNDINGS:
        raise ConfigError(f"rounding must be one of {', '.join(ROUNDINGS)}, found {rounding!r}", "rounding")


def quantize(x: NDArray[Any], format: QFormat, *, rounding: Rounding = "half-even") -> Integers:
    """Round real numbers to the words of a format; what lies beyond them becomes the last one (saturation).

    Parameters
    ----------
    x : float array
    format : QFormat
    rounding : {"half-even", "half-up", "truncate"}
        To the nearest word, halves to the even one or upwards; or downwards, as a shift to the right does.

    Returns
    -------
    array of x's shape and `format.dtype`

    Raises
    ------
    ConfigError
        If the rounding is unknown, or `format` is none.
    ShapeError
        If `x` is no array of floats, or not finite.

    Examples
    --------
    >>> quantize(np.array([0.75, -0.25, 1.25, 99.0]), QFormat(8, 1))
    array([  2,   0,   2, 127], dtype=int8)
    """
    check_rounding(rounding)
    check_format(format)
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        found = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise ShapeError(f"x must be an array of floats, found {found}", "array-dtype")
    if not np.isfinite(x).all():
        raise ShapeError("x must be finite, found NaN or infinity", "not-finite")
    with np.errstate(over="ignore", under="ignore"):  # far beyond all words, or far below the step
        scaled = np.ldexp(x.astype(np.float64), format.fraction)  # else exact: only the exponent changes
    scaled = np.clip(scaled, -(2.0**64), 2.0**64)
    rounded = _ROUNDED[rounding](scaled)
    if rounding == "truncate":
        rounded = np.where((scaled == 0) & (x < 0), -1.0, rounded)  # what was too small for a float64
    beyond = 2.0 ** (format.width - 1)
    words = np.clip(rounded, -beyond, np.nextafter(beyond, 0.0)).astype(np.int64)
    return np.where(rounded >= beyond, format.highest, words).astype(format.dtype)


def _half_up(x: Doubles) -> Doubles:
    below = np.floor(x)
    return np.asarray(below + (x - below >= 0.5))  # not floor(x + 0.5), whose sum rounds


_ROUNDED: Mapping[str, Callable[[Doubles], Doubles]] = MappingProxyType(
    {"half-even": np.rint, "half-up": _half_up, "truncate": np.floor}
)


def dequantize(words: Integers, format: QFormat) -> Doubles:
    """The numbers that words stand for, ``words * 2**-n``: exact up to 53 bits.

    Parameters
    ----------
    words : array of signed integers
    format : QFormat

    Returns
    -------
    float64 array

    Raises
    ------
    ConfigError
        If `format` is none.
    ShapeError
        If `words` holds no signed integers.

    Examples
    --------
    >>> dequantize(np.array([-128, 1], np.int8), QFormat(8, 5))
    array([-4.     ,  0.03125])
    """
    check_format(format)
    check_integers("words", words)
    return np.asarray(np.ldexp(words.astype(np.float64), -format.fraction))


def requantize(accumulator: Integers, *, shift: int, width: int, rounding: Rounding = "half-even") -> Integers:
    """Shift sums to the words of a result, round, and saturate.

    ::

        y = clip(round(accumulator / 2**shift), -2**(width - 1), 2**(width - 1) - 1)

    Parameters
    ----------
    accumulator : array of signed integers
    shift : int
        Fraction bits of the accumulator less those of the result. Negative: to the left.
    width : {8, 16, 32, 64}
        Bits of a result.
    rounding : {"half-even", "half-up", "truncate"}
        "half-up" adds half a step before the shift; "truncate" is the shift alone, towards minus infinity.

    Returns
    -------
    array of the shape of `accumulator`, of `width` bits

    Raises
    ------
    ConfigError
        If the rounding or the width is unknown.
    ShapeError
        If `accumulator` holds no signed integers, or `shift` is none.

    Examples
    --------
    >>> sums = np.array([6, 10, -6, -7, 4000], np.int32)
    >>> for rounding in ROUNDINGS:
    ...     print(requantize(sums, shift=2, width=8, rounding=rounding))
    [  2   2  -2  -2 127]
    [  2   3  -1  -2 127]
    [  1   2  -2  -2 127]
    """
    check_rounding(rounding)
    result = QFormat(width, 0)
    check_integers("accumulator", accumulator)
    if isinstance(shift, bool) or not isinstance(shift, int | np.integer):
        raise ShapeError(f"shift must be an integer, found {shift!r}", "argument-range")
    words = accumulator.astype(np.int64)
    shifted = _shifted_right(words, int(shift), rounding) if shift > 0 else _shifted_left(words, -int(shift), width)
    return np.clip(shifted, result.lowest, result.highest).astype(result.dtype)


def _shifted_right(words: NDArray[np.int64], shift: int, rounding: Rounding) -> NDArray[np.int64]:
    if shift > 63:  # at most half a step from zero: a tie at -2**63, which goes to zero either way
        return words >> 63 if rounding == "truncate" else np.zeros_like(words)
    below = words >> shift  # arithmetic: towards minus infinity
    rest = words & np.int64(2**shift - 1)
    half = np.int64(2 ** (shift - 1))
    if rounding == "truncate":
        return below
    goes_up = rest >= half if rounding == "half-up" else (rest > half) | ((rest == half) & (below & 1 == 1))
    return below + goes_up


def _shifted_left(words: NDArray[np.int64], shift: int, width: int) -> NDArray[np.int64]:
    """Up to saturation to `width` bits: what exceeds them before the shift does so after it."""
    beyond = 2 ** (width - 1)
    kept = np.clip(words, -beyond, beyond - 1)
    factor = 2 ** min(shift, width)  # by 2**width, any word but zero leaves the range
    top, bottom = (beyond - 1) // factor, -(beyond // factor)
    inside = np.clip(kept, bottom, top) << min(shift, 63)
    return np.where(kept > top, beyond - 1, np.where(kept < bottom, -beyond, inside))


def check_format(format: object) -> None:
    """Raise ConfigError unless `format` is a QFormat."""
    if not isinstance(format, QFormat):
        raise ConfigError(f"format must be a QFormat, found {format!r}", "format")


def check_integers(name: str, words: object) -> None:
    """Raise ShapeError unless `words` is an array of signed integers."""
    if not isinstance(words, np.ndarray) or words.dtype.kind != "i":
        found = words.dtype if isinstance(words, np.ndarray) else type(words).__name__
        raise ShapeError(f"{name} must be an array of signed integers, found {found}", "array-dtype")
