"""Small pictures of arrays and numbers: heat maps, contact sheets, bars and curves, drawn with Pillow.

Every function returns a new picture of mode RGB, white where there is nothing, and the same one for the same arguments
and version of Pillow. Pictures of arrays are enlarged by whole numbers and not smoothed: each value is a square of one
colour.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from npmobilevit.errors import ConfigError, ShapeError
from npmobilevit.visual.axes import FARTHEST, linear_ticks, log_ticks, scaled, span, tick_shares
from npmobilevit.visual.lettering import (
    draw_text,
    fitted,
    font_of_size,
    plain_line,
    shown_value,
    text_size,
    text_width,
)
from npmobilevit.visual.lines import draw_axes, draw_legend, draw_line
from npmobilevit.visual.palettes import Colour

__all__ = ["arranged", "bars", "colour_map", "curves", "heatmap", "picture", "sheet"]

_Values: TypeAlias = NDArray[np.float64]
_Levels: TypeAlias = NDArray[np.uint8]

LONGEST_SIDE = 240  # pixels of a heat map whose cells have no given size
NARROWEST = 100  # pixels: the least width of a chart
MOST_PIXELS = 10_000  # the largest length that can be asked for

_WHITE, _BLACK, _INK = (255, 255, 255), (0, 0, 0), (32, 32, 32)
_NOT_A_NUMBER = (255, 0, 255)  # in none of the colour maps
_BAR = (59, 130, 246)

# fmt: off
_VIRIDIS = (
    (68, 1, 84), (72, 23, 105), (71, 42, 122), (67, 61, 132), (61, 78, 138), (53, 94, 141),
    (46, 109, 142), (41, 123, 142), (35, 137, 142), (31, 151, 139), (33, 165, 133), (46, 179, 124),
    (70, 192, 111), (101, 203, 94), (137, 213, 72), (176, 221, 47), (216, 226, 25), (253, 231, 37),
)  # every fifteenth colour
# fmt: on
_BLUES, _REDS = ((16, 60, 150), (110, 160, 225)), ((235, 130, 105), (150, 20, 30))
_COLOUR_MAPS: Mapping[str, tuple[Sequence[int], Sequence[Colour]]] = {
    # Places in the table, and the colours there.
    "sequential": (range(0, 256, 15), _VIRIDIS),
    "diverging": ((0, 64, 127, 128, 191, 255), (*_BLUES, _WHITE, _WHITE, *_REDS)),
    "grey": ((0, 255), (_BLACK, _WHITE)),
}

MAX_MARKED = 40  # points: of a line with more, markers would hide the line


def colour_map(name: str) -> NDArray[np.uint8]:
    """The colours that values are shown in, from the lowest to the highest.

    Parameters
    ----------
    name : str
        ``"sequential"``, ``"diverging"`` or ``"grey"``.

    Returns
    -------
    ndarray of uint8, shape (256, 3)

    Raises
    ------
    ConfigError
        There is no such map (code ``option``).

    Notes
    -----
    ``"sequential"`` is viridis (Nathaniel Smith and Stéfan van der Walt, CC0), interpolated linearly between 18 of its
    256 colours and therefore not equal to the published table in the others. ``"diverging"`` goes from blue over white
    in its two middle places to red.
    """
    if not isinstance(name, str) or name not in _COLOUR_MAPS:
        raise ConfigError(
            f"there is no colour map {shown_value(name)}: choose one of {', '.join(map(repr, _COLOUR_MAPS))}.",
            code="option",
        )
    places, colours = _COLOUR_MAPS[name]
    channels = [np.interp(np.arange(256), places, channel) for channel in zip(*colours, strict=True)]
    table: _Levels = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)  # (256, 3)
    return table


def heatmap(
    values: ArrayLike,
    *,
    low: float | None = None,
    high: float | None = None,
    colours: str = "sequential",
    cell: int | None = None,
    numbers: bool = False,
) -> Image.Image:
    """Show each value of a matrix as a square of one colour.

    Parameters
    ----------
    values : array_like of numbers, shape (H, W)
        At least one. Infinities have the first and the last colour; NaN is magenta.
    low, high : float or None
        The values of the first and the last colour; what lies beyond has that colour too. None takes the least and
        the largest finite value; with diverging colours ``-m`` and ``m``, where ``m`` is the other limit or the largest
        absolute value, so that white means 0. Where both are the same, that value has the middle colour.
    colours : {"sequential", "diverging", "grey"}
        See `colour_map`.
    cell : int or None
        Side of a square in pixels. None makes the longer side of the picture about 240 pixels.
    numbers : bool
        Write the values into their squares, which are enlarged until all numbers fit.

    Returns
    -------
    PIL.Image.Image
        ``W * cell`` pixels wide and ``H * cell`` high.

    Raises
    ------
    ShapeError
        The values are no matrix of real numbers (codes ``array-shape``, ``array-dtype``).
    ConfigError
        There are no such colours, ``cell`` is not a positive integer, or the limits are not finite or the wrong way
        round (code ``option``).
    """
    matrix = _numbers(values, ndim=2)
    cell = max(1, LONGEST_SIDE // max(matrix.shape)) if cell is None else _whole("cell", cell)
    levels = _places(matrix, *_limits(matrix, low, high, symmetric=colours == "diverging"))  # (H, W)
    rgb = colour_map(colours)[levels]  # (H, W, 3)
    rgb[np.isnan(matrix)] = _NOT_A_NUMBER
    return _with_numbers(rgb, matrix, cell) if numbers else _enlarged(rgb, cell)


def picture(rgb: ArrayLike, *, cell: int = 1) -> Image.Image:
    """Show an array of pixels, enlarged.

    Parameters
    ----------
    rgb : array_like of uint8, or of floats in 0..1, shape (H, W, 3)
        Floats are rounded to the nearest of 256 levels.
    cell : int
        Side of the square that shows a pixel.

    Returns
    -------
    PIL.Image.Image
        ``W * cell`` pixels wide and ``H * cell`` high.

    Raises
    ------
    ShapeError
        The array has another shape, dtype or range (codes ``array-shape``, ``array-dtype``, ``array-range``).
    ConfigError
        ``cell`` is not a positive integer (code ``option``).
    """
    pixels = _array(rgb)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ShapeError(f"a picture has shape (H, W, 3) and at least one pixel, found {pixels.shape}.", "array-shape")
    if pixels.dtype.kind == "f":
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # of NaN, false
            raise ShapeError("the floats of a picture must lie in 0..1: scale or clip them first.", "array-range")
        pixels = np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ShapeError(f"a picture holds uint8, or floats in 0..1; found {pixels.dtype}.", "array-dtype")
    return _enlarged(pixels, _whole("cell", cell))


def sheet(
    maps: ArrayLike, *, columns: int | None = None, cell: int = 1, gap: int = 2, colours: str = "sequential"
) -> Image.Image:
    """Show the maps of a feature array side by side, row after row.

    Parameters
    ----------
    maps : array_like of numbers, shape (C, H, W)
        Each is coloured on a scale of its own, from its least to its largest value; see `heatmap`.
    columns : int or None
        Maps in a row. None makes about as many columns as rows.
    cell : int
        Side of the square that shows a value, in pixels.
    gap : int
        White pixels between maps.
    colours : {"sequential", "diverging", "grey"}
        See `colour_map`.

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    ShapeError
        The maps are no array of real numbers with three axes (codes ``array-shape``, ``array-dtype``).
    ConfigError
        An option is out of its range (code ``option``).
    """
    array = _numbers(maps, ndim=3)
    count, height, width = array.shape
    columns = _columns(columns, count, otherwise=math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    gap, cell = _whole("gap", gap, least=0), _whole("cell", cell)
    step_x, step_y = width * cell + gap, height * cell + gap
    canvas = Image.new("RGB", (columns * step_x - gap, rows * step_y - gap), _WHITE)
    for i, one in enumerate(array):
        canvas.paste(heatmap(one, cell=cell, colours=colours), (i % columns * step_x, i // columns * step_y))
    return canvas


def bars(rows: Iterable[tuple[str, float, str]], *, width: int = 480, limit: float | None = None) -> Image.Image:
    """Draw a horizontal bar for each row, between its name and its text.

    Parameters
    ----------
    rows : iterable of (name, value, text)
        Values are not negative, and the length of a bar goes with its value; NaN has no bar. Names and texts that need
        more than two fifths of the width are cut.
    width : int
        Of the picture in pixels, at least 100.
    limit : float or None
        Value of a bar of full length, which larger ones have too. None takes the largest finite value.

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    ConfigError
        A value is negative, or an option out of its range (code ``option``).
    """
    width = _whole("width", width, least=NARROWEST)
    font = font_of_size(13)
    size = text_size(font)
    gap, line = size // 2, 2 * size
    most = 2 * width // 5 - gap
    entries = [(fitted(name, font, most), _length(name, value), fitted(text, font, most)) for name, value, text in rows]
    full = _largest(value for _, value, _ in entries) if limit is None else _finite("limit", limit)
    left = 2 * gap + max((text_width(name, font) for name, _, _ in entries), default=0)
    room = width - left - 2 * gap - max((text_width(text, font) for _, _, text in entries), default=0)
    canvas = Image.new("RGB", (width, line * len(entries) + gap), _WHITE)
    draw = ImageDraw.Draw(canvas)
    for i, (name, value, text) in enumerate(entries):
        y, length = gap + i * line, round(room * _share(value, full))
        if length > 0:
            draw.rectangle((left, y, left + length - 1, y + size - 1), _BAR)
        draw_text(draw, (gap, y), name, font, _INK)
        draw_text(draw, (left + length + gap, y), text, font, _INK)
    return canvas


def curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    width: int = 480,
    height: int = 280,
    x_label: str = "",
    y_label: str = "",
    log_y: bool = False,
) -> Image.Image:
    """Draw lines over two axes, with a legend above them.

    Parameters
    ----------
    series : mapping of str to (x, y)
        Name of each line and its points, in the order in which they are joined. Lines differ in colour, in dashes and,
        where they have at most 40 points, in markers; after seven the styles begin again. A point that is not finite,
        lies beyond 1e250, or on a logarithmic axis is not above 1e-250, leaves a gap.
    width, height : int
        Of the picture in pixels, at least 100.
    x_label, y_label : str
        What the axes show.
    log_y : bool
        Make the vertical axis logarithmic.

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    ShapeError
        The x and y of a line are not equally long rows of real numbers (codes ``array-shape``, ``array-dtype``).
    ConfigError
        Width or height is out of its range (code ``option``).
    """
    width, height = _whole("width", width, least=NARROWEST), _whole("height", height, least=NARROWEST)
    lines = [_points(name, x, y, log_y=log_y) for name, (x, y) in series.items()]  # of (2, N) each
    x_low, x_high = span([line[0] for line in lines])
    y_low, y_high = span([line[1] for line in lines], logarithms=log_y)
    x_ticks = linear_ticks(x_low, x_high)
    y_ticks = log_ticks(y_low, y_high) if log_y else linear_ticks(y_low, y_high)
    canvas = Image.new("RGB", (width, height), _WHITE)
    marked = [line.shape[1] <= MAX_MARKED for line in lines]
    top = draw_legend(canvas, dict(zip(series, marked, strict=True)))
    ticks = tick_shares(x_ticks, x_low, x_high), tick_shares(y_ticks, y_low, y_high)
    box = draw_axes(canvas, top, *ticks, (x_label, y_label))
    for i, (x, y) in enumerate(lines):
        columns = box.left + (box.right - box.left) * scaled(x, x_low, x_high)
        rows = box.bottom - (box.bottom - box.top) * scaled(y, y_low, y_high)
        draw_line(ImageDraw.Draw(canvas), np.stack([columns, rows], axis=-1), i, marked=marked[i])
    return canvas


def arranged(
    parts: Iterable[Image.Image | tuple[Image.Image, str]], *, columns: int | None = None, gap: int = 12
) -> Image.Image:
    """Lay out pictures beside each other, each below its caption, on white.

    Parameters
    ----------
    parts : iterable of PIL.Image.Image or (PIL.Image.Image, str)
        Pictures, with or without a caption of one line. A column is as wide as its widest picture or caption.
    columns : int or None
        Pictures in a row. None puts all into one row.
    gap : int
        White pixels around each picture and its caption.

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    ConfigError
        There are no pictures, or an option is out of its range (code ``option``).
    """
    pairs = [(part, "") if isinstance(part, Image.Image) else part for part in parts]
    if not pairs:
        raise ConfigError("there is nothing to arrange: give at least one picture.", code="option")
    columns, gap = _columns(columns, len(pairs), otherwise=len(pairs)), _whole("gap", gap, least=0)
    font = font_of_size(13)
    captions = [plain_line(caption) for _, caption in pairs]
    rows = [range(first, min(first + columns, len(pairs))) for first in range(0, len(pairs), columns)]
    heads = [2 * text_size(font) if any(captions[i] for i in row) else 0 for row in rows]
    widths = [max(pairs[i][0].width, text_width(captions[i], font)) for i in range(len(pairs))]
    lefts = _starts([max(widths[column::columns]) for column in range(columns)], gap)
    tops = _starts([head + max(pairs[i][0].height for i in row) for head, row in zip(heads, rows, strict=True)], gap)
    canvas = Image.new("RGB", (lefts[-1], tops[-1]), _WHITE)
    draw = ImageDraw.Draw(canvas)
    for y, head, row in zip(tops, heads, rows, strict=False):  # tops end with the height
        for x, i in zip(lefts, row, strict=False):
            draw_text(draw, (x, y + text_size(font) // 4), captions[i], font, _INK)
            canvas.paste(pairs[i][0].convert("RGB"), (x, y + head))
    return canvas


# Checks of arguments


def _array(values: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise ShapeError("the values are no array: their rows differ in length or kind.", "array-shape") from error


def _numbers(values: ArrayLike, *, ndim: int) -> _Values:
    array = _array(values)
    if array.ndim != ndim or array.size == 0:
        raise ShapeError(
            f"expected an array with {ndim} axes and at least one value, found shape {array.shape}.", "array-shape"
        )
    return _real(array)


def _real(array: NDArray[Any]) -> _Values:
    if array.dtype.kind not in "biuf":
        raise ShapeError(f"expected real numbers, found {array.dtype}; convert them with .astype.", "array-dtype")
    with np.errstate(over="ignore"):  # of a long double beyond float64
        return array.astype(np.float64)


def _whole(name: str, value: int, *, least: int = 1) -> int:
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and least <= value <= MOST_PIXELS:
        return int(value)
    raise ConfigError(
        f"{name} must be an integer in {least}..{MOST_PIXELS}; found {shown_value(value)}.", code="option"
    )


def _columns(columns: int | None, count: int, *, otherwise: int) -> int:
    return min(count, otherwise if columns is None else _whole("columns", columns))


def _finite(name: str, value: float) -> float:
    if _is_number(value) and abs(value) <= sys.float_info.max:  # of NaN, false
        return float(value)
    raise ConfigError(f"{name} must be a finite number; found {shown_value(value)}.", code="option")


def _length(name: str, value: float) -> float:
    if _is_number(value) and not value < 0:
        return math.inf if value > sys.float_info.max else float(value)
    raise ConfigError(f"the bar of {shown_value(name)} needs a number from 0; found {shown_value(value)}.", "option")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _points(name: str, x: ArrayLike, y: ArrayLike, *, log_y: bool) -> _Values:
    """The points (2, N) of a line, in the units of the axes; NaN where there is a gap."""
    columns, rows = _array(x), _array(y)
    if columns.ndim != 1 or columns.shape != rows.shape:
        raise ShapeError(
            f"x and y of the line {shown_value(name)} must be rows of the same length, found shapes {columns.shape} "
            f"and {rows.shape}.",
            "array-shape",
        )
    points = np.stack([_real(columns), _real(rows)])  # (2, N)
    usable = (np.abs(points) <= FARTHEST).all(axis=0)  # of NaN, false
    if log_y:
        usable &= points[1] > 1 / FARTHEST
        points[1] = np.log10(points[1], where=usable, out=points[1])
    points[:, ~usable] = np.nan
    return points


# Values and their places on a scale


def _limits(values: _Values, low: float | None, high: float | None, *, symmetric: bool) -> tuple[float, float]:
    """The values of the first and the last colour."""
    finite = values[np.isfinite(values)]
    first, last = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    low, high = (None if limit is None else _finite(name, limit) for name, limit in (("low", low), ("high", high)))
    if symmetric:
        largest = max(abs(first), abs(last))
        first, last = -largest if high is None else -high, largest if low is None else -low
    else:
        first, last = first if high is None else min(first, high), last if low is None else max(last, low)
    low, high = first if low is None else low, last if high is None else high
    if low > high:
        raise ConfigError(f"low must not be above high; found {low:g} and {high:g}.", code="option")
    return low, high


def _places(values: _Values, low: float, high: float) -> NDArray[np.intp]:
    """Places of the values in a colour map; of NaN, 0."""
    return np.rint(np.nan_to_num(255 * scaled(values, low, high))).astype(np.intp)


def _largest(values: Iterable[float]) -> float:
    return max(filter(math.isfinite, values), default=0.0)


def _share(value: float, full: float) -> float:
    if math.isnan(value) or full <= 0:
        return 0.0
    return min(1.0, value / full)


def _starts(sizes: Iterable[int], gap: int) -> list[int]:
    """Where boxes in a row begin with a gap before, between and after them; and where the row ends."""
    starts = [gap]
    for size in sizes:
        starts.append(starts[-1] + size + gap)
    return starts


# Pixels


def _enlarged(rgb: _Levels, cell: int) -> Image.Image:
    return Image.fromarray(rgb.repeat(cell, axis=0).repeat(cell, axis=1))  # (H * cell, W * cell, 3)


def _with_numbers(rgb: _Levels, values: _Values, cell: int) -> Image.Image:
    font = font_of_size(11)
    texts = [[_number(value) for value in row] for row in values.tolist()]
    widest = max(text_width(text, font) for row in texts for text in row)
    cell = max(cell, widest + 6, 2 * text_size(font))
    canvas = _enlarged(rgb, cell)
    draw = ImageDraw.Draw(canvas)
    for y, x in np.ndindex(values.shape):
        text, place = texts[y][x], (x * cell, y * cell)
        corner = place[0] + (cell - text_width(text, font)) // 2, place[1] + (cell - text_size(font)) // 2
        draw_text(draw, corner, text, font, _contrast(rgb[y, x]))
    return canvas


def _number(value: float) -> str:
    return f"{value:.0f}" if value == 0 or (value.is_integer() and abs(value) < 1e5) else f"{value:.3g}"


def _contrast(colour: _Levels) -> Colour:
    red, green, blue = colour.tolist()
    return _BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 127 else _WHITE  # luma of BT.601
