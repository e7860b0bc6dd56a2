"""Which values the taps of a network take, over any number of pictures and in a memory that does not grow.

A :class:`Range` knows the smallest and the largest value exactly, and counts the others in bins: 64 an octave of
\\|x|, from 2**-32 to 2**32, on both sides of zero. The edges of the bins are the float64 numbers of 6 fraction bits,
so that the bin of a value is read from its bits. A percentile is told as the outer edge of its bin: at most 1/64 of
its size too far out, or 2**-32, and never too far in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.checkpoints import shown
from npmobilevit.errors import ConfigError, ShapeError, WeightsError
from npmobilevit.models import PreTrainedModel
from npmobilevit.validation import replay
from npmobilevit.validation.bundles import SELECTIONS, selected

BITS = 6  # of the mantissa: 64 bins an octave
OCTAVES = 32  # on either side of 1
BINS = 2 * OCTAVES * 2**BITS  # on either side of zero; the last one has all that is larger
BLOCK_VALUES = 2**20  # at a time, for little memory

Array: TypeAlias = NDArray[Any]

# Integers of the same size, bits of the mantissa, and exponent of 1, of the floats that networks compute with.
_LAYOUTS: Mapping[str, tuple[type[np.signedinteger[Any]], int, int]] = {
    "float32": (np.int32, 23, 127),
    "float64": (np.int64, 52, 1023),
}


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that something has taken.

    Attributes
    ----------
    minimum, maximum : float
        Exact.
    counts : (2 * BINS + 1,) int64 array
        Values in each bin, from the lowest: those about zero, smaller than 2**-32, are in the middle one.
    """

    minimum: float
    maximum: float
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: Array) -> Self:
        """The range of an array of float32 or float64.

        Raises
        ------
        ShapeError
            If it is none, is empty, or holds NaN or infinity.

        Examples
        --------
        >>> found = Range.of(np.arange(-100.0, 1001.0))
        >>> found.minimum, found.maximum, found.size
        (-100.0, 1000.0, 1101)
        >>> found.lower(10), found.upper(90)  # 10 and 890 are exact
        (10.0, 896.0)
        """
        if not isinstance(values, np.ndarray):
            raise ShapeError(f"values must be an array of floats, found {type(values).__name__}", "array-dtype")
        if values.dtype.name not in _LAYOUTS or not values.size:
            raise ShapeError(f"values must be floats, found {values.dtype} of shape {values.shape}", "array-dtype")
        minimum, maximum = float(values.min()), float(values.max())
        if not (math.isfinite(minimum) and math.isfinite(maximum)):
            raise ShapeError("values must be finite, found NaN or infinity", "not-finite")
        flat = values.reshape(-1)
        counts = np.zeros(2 * BINS + 1, np.int64)
        for start in range(0, flat.size, BLOCK_VALUES):
            counts += np.bincount(_bins(flat[start : start + BLOCK_VALUES]), minlength=len(counts))
        return cls(minimum, maximum, counts)

    def merged(self, other: Range) -> Range:
        """The range of the values of both."""
        minimum, maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        return Range(minimum, maximum, self.counts + other.counts)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    def upper(self, percent: float) -> float:
        """A bound that a percentile does not exceed: the upper edge of its bin, or the maximum if that is lower.

        The percentile is the value at place ceil(percent / 100 * (size - 1)) of all in order, from 0: that of
        ``np.percentile(..., method="higher")``.

        Raises
        ------
        ConfigError
            Unless `percent` is in 0..100.
        """
        place = math.ceil(_share(percent) * (self.size - 1))
        return min(self.maximum, _edge(self._bin(place) + 1))

    def lower(self, percent: float) -> float:
        """A bound that a percentile does not fall below: the lower edge of its bin, or the minimum if that is higher.

        The percentile is the value at place floor(percent / 100 * (size - 1)): that of ``method="lower"``.

        Raises
        ------
        ConfigError
            Unless `percent` is in 0..100.
        """
        place = math.floor(_share(percent) * (self.size - 1))
        return max(self.minimum, _edge(self._bin(place)))

    def _bin(self, place: int) -> int:
        return int(np.searchsorted(np.cumsum(self.counts), place, side="right"))


def _share(percent: float) -> Fraction:
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        raise ConfigError(f"percent must be a number in 0 to 100, found {percent!r}", "percent")
    return Fraction(str(percent)) / 100  # 99.9 is meant, and not the nearest float


def _bins(values: Array) -> NDArray[np.int64]:
    """The bin of each value, from 0: its sign, exponent and the first bits of its mantissa, as they stand in it."""
    integers, mantissa, exponent = _LAYOUTS[values.dtype.name]
    bits = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).view(integers)
    size = (bits & np.iinfo(integers).max) >> (mantissa - BITS)  # grows with |x|
    size = np.clip(size - ((exponent - OCTAVES) * 2**BITS - 1), 0, BINS)  # 0 below 2**-OCTAVES
    return np.asarray(np.where(bits < 0, BINS - size, BINS + size), np.int64)


def _edge(index: int) -> float:
    """The lower edge of a bin, which is the upper one of the bin before; those of the last bins are infinite."""
    if index <= BINS:
        return -_edge(2 * BINS + 1 - index)
    octave, part = divmod(index - BINS - 1, 2**BITS)
    return math.ldexp(1 + part / 2**BITS, octave - OCTAVES) if index <= 2 * BINS else math.inf


def tap_names(network: PreTrainedModel, taps: str | Collection[str]) -> list[str]:
    """The names of a choice of taps, in the order of the forward pass.

    Parameters
    ----------
    network : PreTrainedModel
    taps : {"all", "blocks", "stages"}, str or collection of str
        As for :func:`npmobilevit.validation.record`.

    Returns
    -------
    list of str

    Raises
    ------
    ConfigError
        If there is no tap of a name.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of no consequence: the values are not looked at
        if isinstance(taps, str) and taps in ("all", *SELECTIONS):
            return selected(replay.tap_names(network), taps)
        try:
            return list(network.taps(replay.blank_picture(network), [taps] if isinstance(taps, str) else list(taps)))
        except ConfigError as error:
            raise ConfigError(f"{error} (all, blocks or stages, alone, choose many at once)", error.code) from error


def tap_ranges(network: PreTrainedModel, pixel_values: Array, names: str | Collection[str]) -> dict[str, Range]:
    """The range of each of some taps on one input; none of their values is kept.

    Parameters
    ----------
    network : PreTrainedModel
    pixel_values : (N, num_channels, H, W) float array
    names : str or collection of str
        See :func:`tap_names`.

    Returns
    -------
    dict of str to Range

    Raises
    ------
    ConfigError
        If there is no tap of a name.
    ShapeError
        If `pixel_values` do not fit.
    WeightsError
        If the network puts out NaN or infinity.
    """
    wanted = frozenset([names] if isinstance(names, str) else names)
    ranges: dict[str, Range] = {}

    def note(name: str, x: Array) -> None:
        if name in wanted:
            if not np.isfinite(x).all():
                raise WeightsError(f"{name} holds NaN or infinity; the weights are damaged", "tap-not-finite")
            ranges[name] = Range.of(x)

    x = network.check_pixel_values(pixel_values)
    note("pixel_values", x)
    with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are refused
        network.forward(dataclasses.replace(network.scope(note), wants=wanted.__contains__), x)
    if unknown := sorted(wanted - ranges.keys()):
        raise ConfigError(f"the network has no tap {shown(unknown)}; see `npmobilevit taps`", "tap-unknown")
    return ranges


def merged(first: Mapping[str, Range], second: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges of all values of both; a name may be in one of them only."""
    both = {**first, **second}
    return {name: first[name].merged(x) if name in first and name in second else x for name, x in both.items()}
