"""The options of reading a picture, and its limits."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, NoReturn, TypedDict

from PIL import ImageColor

from npmobilevit.errors import ConfigError, ImageError

MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 100_000_000

Colour = tuple[int, int, int]
ValueRange = tuple[float, float]


class ReadOptions(TypedDict, total=False):
    """How a picture is read: the options of :func:`npmobilevit.images.to_rgb`.

    Attributes
    ----------
    background : str or (int, int, int)
        The colour that transparency is laid on: a name or ``#rrggbb`` as Pillow knows them, or (r, g, b) in
        0..255. "white" if not given.
    value_range : (float, float) or None
        The values (low, high) that mean black and white, for arrays and for pictures of modes ``I;16``, ``I`` and
        ``F``. None leaves integers in 0..255, floats in 0..1 and 16-bit pictures at their depth.
    layout : "HWC", "CHW" or None
        Of arrays with three dimensions; None means HWC.
    max_pixels : int
        Limit of height times width, checked before decoding; 100,000,000 if not given.
    max_file_bytes : int
        Limit of the encoded bytes; 268,435,456 (256 MiB) if not given.
    """

    background: str | tuple[int, int, int]
    value_range: tuple[float, float] | None
    layout: Literal["HWC", "CHW"] | None
    max_pixels: int
    max_file_bytes: int


class Options(NamedTuple):
    """The same once checked, with the background as (r, g, b)."""

    background: Colour
    value_range: ValueRange | None
    layout: str | None
    max_pixels: int
    max_file_bytes: int


def checked_options(
    background: object, value_range: object, layout: object, max_pixels: object, max_file_bytes: object
) -> Options:
    """Check the options one by one; raise ConfigError for the first that is wrong."""
    if layout is not None and not (isinstance(layout, str) and layout in ("HWC", "CHW")):
        _refuse("layout", layout, "'HWC', 'CHW' or None")
    return Options(
        _checked_background(background),
        None if value_range is None else _checked_range(value_range),
        None if layout is None else str(layout),
        checked_limit("max_pixels", max_pixels),
        checked_limit("max_file_bytes", max_file_bytes),
    )


def checked_limit(name: str, value: Any) -> int:
    """Check that a limit is a positive integer."""
    if not _is_integer(value) or value < 1:
        _refuse(name, value, "a positive integer")
    return int(value)


def unused(name: str, source: str, why: str) -> ImageError:
    """Refuse an option that says nothing about this picture: to drop it silently would hide a mistake."""
    return ImageError(f"{name} does not apply to {source}: {why}. Leave {name} out.", code="option-unused")


def _checked_background(value: Any) -> Colour:
    colour = value
    if isinstance(value, str):
        try:
            colour = ImageColor.getrgb(value)
        except ValueError:
            colour = ()
    if not isinstance(colour, tuple | list) or len(colour) != 3:
        _refuse_background(value)
    if not all(_is_integer(level) and 0 <= level <= 255 for level in colour):
        _refuse_background(value)
    return int(colour[0]), int(colour[1]), int(colour[2])


def _refuse_background(value: object) -> NoReturn:
    _refuse("background", value, "an opaque colour: a name, '#rrggbb', or three integers (r, g, b) in 0..255")


def _checked_range(value: Any) -> ValueRange:
    allowed = "None, or two finite numbers (low, high) with low < high"
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(_is_real, value)):
        _refuse("value_range", value, allowed)
    try:
        low, high = map(float, value)
    except OverflowError:  # an integer beyond all floats
        _refuse("value_range", value, allowed)
    if not low < high or not math.isfinite(high - low):
        _refuse("value_range", value, allowed)
    return low, high


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _refuse(name: str, value: object, allowed: str) -> NoReturn:
    raise ConfigError(f"{name} is {value!r}; it has to be {allowed}.", code="option")
