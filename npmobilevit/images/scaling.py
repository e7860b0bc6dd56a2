"""What a value means: from numbers of any width to 8-bit levels, a part of the picture at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npmobilevit.errors import ImageError
from npmobilevit.images.options import ValueRange

Values = NDArray[Any]
Levels = NDArray[np.uint8]

# Pixels that are converted at a time: few enough that the temporaries, up to 100 bytes per pixel, do not count.
PART_PIXELS = 2**18

UNIT = (0.0, 1.0)
BYTE = (0.0, 255.0)
_USUAL_RANGES = (UNIT, (-1.0, 1.0), BYTE, (0.0, 65535.0))


def parts(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Cut a picture into spans of rows and columns of at most ``PART_PIXELS`` pixels; most often whole rows."""
    columns = min(width, PART_PIXELS)
    rows = max(1, PART_PIXELS // columns)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield slice(top, min(top + rows, height)), slice(left, min(left + columns, width))


def scaler(dtype: np.dtype[Any], value_range: ValueRange) -> Callable[[Values], Levels]:
    """Return the function that turns values of a dtype into levels; the first of the range becomes black.

    The values have to be within the range, which runs downwards where 0 means white.
    """
    if dtype.kind == "f":
        return lambda values: unit_to_uint8(_position(values, value_range))
    if value_range == BYTE:
        return lambda values: values.astype(np.uint8)
    if dtype.itemsize == 2 and dtype.kind == "u":
        table = _rounded_levels(np.arange(2**16), value_range)
        return lambda values: table[values]
    return lambda values: _rounded_levels(values, value_range)


def unit_to_uint8(values: NDArray[np.floating]) -> Levels:
    """Scale 0..1 to 0..255 and truncate, rounding to float32 first as transformers does."""
    return (values.astype(np.float64) * 255).astype(np.float32).astype(np.uint8)


def _rounded_levels(values: Values, value_range: ValueRange) -> Levels:
    low, high = value_range
    # one division, so that a value halfway between two levels is met exactly and all others are not
    return np.rint((values.astype(np.float64) - low) * 255 / (high - low)).clip(0, 255).astype(np.uint8)


def _position(values: Values, value_range: ValueRange) -> NDArray[np.float64]:
    """Place values in 0..1; the clip is for ends of the range that the dtype of the values cannot hold exactly."""
    low, high = value_range
    return ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)


def extremes(pieces: Iterable[Values]) -> tuple[Any, Any] | None:
    """Return the least and the greatest value as Python numbers, NaN if there is one; None of no values at all."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        ends = [(piece.min(), piece.max()) for piece in pieces if piece.size]
        return (np.min(ends).item(), np.max(ends).item()) if ends else None


def check_finite(array: NDArray[np.generic], source: str) -> None:
    """Refuse NaN and infinity, naming the first place where one is."""
    if array.dtype.kind != "f":
        return
    ends = extremes([array])  # needs no memory, unlike isfinite of the whole array
    if ends is None or np.isfinite(ends).all():
        return
    finite = np.isfinite(array)
    first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), array.shape))
    raise ImageError(
        f"cannot use {source}: {int((~finite).sum())} values are not finite, the first is {array[first]} at index "
        f"{first}. Replace them first.",
        code="array-not-finite",
    )


def check_range(found: tuple[Any, Any], dtype: np.dtype[Any], value_range: ValueRange | None, source: str) -> None:
    """Refuse values outside the range, which without `value_range` is 0..255 for integers and 0..1 for floats."""
    low, high = value_range or natural_range(dtype)
    if dtype.kind == "f":  # 0.1 is a little more as a float32, and still in (0, 0.1)
        with np.errstate(over="ignore"):
            low, high = min(low, float(dtype.type(low))), max(high, float(dtype.type(high)))
    if low <= found[0] and found[1] <= high:
        return
    kind = "floats" if dtype.kind == "f" else "integers"
    allowed = f"value_range = {_pair(value_range)}" if value_range else f"{low:g}..{high:g} for {kind}"
    raise ImageError(
        f"cannot use {source}: its values have to be within {allowed}, found {_text(found[0])}..{_text(found[1])}. "
        f"Pass {_suggestion(found)}.",
        code="array-range",
    )


def natural_range(dtype: np.dtype[Any]) -> ValueRange:
    """Return the values that mean black and white in an array of which nothing is said."""
    return UNIT if dtype.kind == "f" else BYTE


def _suggestion(found: tuple[Any, Any]) -> str:
    """Name the first usual range that holds all values."""
    for low, high in _USUAL_RANGES:
        if low <= found[0] and found[1] <= high:
            return f"value_range={_pair((low, high))} if these mean black and white, or the two values that do"
    return "value_range=(low, high), the values that mean black and white"


def _pair(ends: tuple[Any, Any]) -> str:
    return f"({_text(ends[0])}, {_text(ends[1])})"


def _text(number: Any) -> str:
    return str(number) if isinstance(number, int) else f"{number:.7g}"
