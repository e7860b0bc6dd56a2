"""Axes with ticks, lines with dashes and markers, and the legend that names them: parts of a chart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from npmobilevit.visual.axes import Ticks
from npmobilevit.visual.lettering import Font, draw_text, fitted, flow, font_of_size, text_size, text_width
from npmobilevit.visual.palettes import Colour

__all__ = ["STYLES", "Box", "draw_axes", "draw_legend", "draw_line"]

_Points: TypeAlias = NDArray[np.float64]  # (N, 2), column and row in pixels; NaN where there is a gap

MARKER = 3  # pixels from the middle of a marker to its edge

_EDGE = 4  # pixels that texts keep from the edges of a picture
_WHITE, _INK, _FAINT = (255, 255, 255), (32, 32, 32), (222, 222, 222)

STYLES: Sequence[tuple[Colour, tuple[int, ...], str]] = (
    # Colours of Okabe and Ito, told apart also by the colour-blind; pixels drawn and left out in turn; marker.
    ((0, 114, 178), (), "disc"),
    ((213, 94, 0), (8, 4), "square"),
    ((0, 158, 115), (2, 3), "triangle"),
    ((204, 121, 167), (10, 3, 2, 3), "cross"),
    ((230, 159, 0), (14, 4), "disc"),
    ((86, 180, 233), (5, 2), "square"),
    ((0, 0, 0), (2, 6), "triangle"),
)


class Box(NamedTuple):
    """The pixels between the axes."""

    left: int
    top: int
    right: int
    bottom: int


def draw_legend(canvas: Image.Image, marked: Mapping[str, bool]) -> int:
    """Draw a piece of each line, with a marker where it has any, and its name; return the first row below."""
    font = font_of_size(12)
    size = text_size(font)
    sample, line = 3 * size, round(1.5 * size)
    texts = [fitted(name, font, canvas.width - sample - 3 * size) for name in marked]
    shown = [i for i, text in enumerate(texts) if text]
    draw = ImageDraw.Draw(canvas)
    places = flow([sample + text_width(texts[i], font) + size // 2 for i in shown], canvas.width - 2 * size, size)
    for i, (x, row) in zip(shown, places, strict=True):
        left, y = size + x, size // 2 + row * line
        middle = y + size / 2
        draw_line(draw, np.array([[left, middle], [left + sample, middle]]), i, marked=False)
        if list(marked.values())[i]:
            draw_line(draw, np.array([[left + sample / 2, middle]]), i, marked=True)
        draw_text(draw, (left + sample + size // 2, y), texts[i], font, _INK)
    return size // 2 + line * (1 + places[-1][1] if places else 0)


def draw_axes(canvas: Image.Image, top: int, x_ticks: Ticks, y_ticks: Ticks, labels: tuple[str, str]) -> Box:
    """Draw axes below row `top`, with ticks at shares 0..1 of their lengths; return the box between them."""
    font = font_of_size(12)
    size = text_size(font)
    line = round(1.5 * size)
    ends = canvas.width - _EDGE, canvas.height - line  # of the texts along the axes
    x_label, y_label = fitted(labels[0], font, ends[0] - line), fitted(labels[1], font, ends[1] - top)
    beside = size + max(text_width(text, font) for _, text in y_ticks) + (line if y_label else 0)
    below = 2 * size + (line if x_label else 0)
    first, last = (text_width(x_ticks[i][1], font) for i in (0, -1))
    left = max(beside, first // 2 + size // 2)
    right = max(left + 1, canvas.width - size - last // 2)
    box = Box(left, top + size // 2, right, max(top + size // 2 + 1, canvas.height - below))
    draw = ImageDraw.Draw(canvas)
    every = _thinning(x_ticks, box.right - box.left, size // 2 + max(text_width(text, font) for _, text in x_ticks))
    for i, (share, text) in enumerate(x_ticks):
        x = round(box.left + share * (box.right - box.left))
        draw.line((x, box.top, x, box.bottom), _FAINT)
        if i % every == 0:
            draw_text(draw, (x - text_width(text, font) // 2, box.bottom + size // 2), text, font, _INK)
    every = _thinning(y_ticks, box.bottom - box.top, size)
    for i, (share, text) in enumerate(y_ticks):
        y = round(box.bottom - share * (box.bottom - box.top))
        draw.line((box.left, y, box.right, y), _FAINT)
        if i % every == 0:
            draw_text(draw, (box.left - size // 2 - text_width(text, font), y - size // 2), text, font, _INK)
    draw.line([(box.left, box.top), (box.left, box.bottom), (box.right, box.bottom)], _INK)
    x = _centred(text_width(x_label, font), box.left, box.right, ends[0])
    draw_text(draw, (x, canvas.height - line), x_label, font, _INK)
    if y_label:
        upright = _text_picture(y_label, font).rotate(90, expand=True)
        canvas.paste(upright, (size // 4, _centred(upright.height, box.top, box.bottom, ends[1])))
    return box


def _thinning(ticks: Ticks, length: int, need: int) -> int:
    """Of how many ticks one has room for `need` pixels of text, on an axis of so many pixels."""
    nearest = min(second - first for (first, _), (second, _) in itertools.pairwise(ticks))
    return math.ceil(need / (nearest * length))


def _centred(length: int, first: int, last: int, end: int) -> int:
    """Where a text has to begin to be in the middle from `first` to `last`, as far as `end` lets it."""
    return min((first + last - length) // 2, end - length)


def _text_picture(text: str, font: Font) -> Image.Image:
    size = text_size(font)
    strip = Image.new("RGB", (max(1, text_width(text, font)), round(1.5 * size)), _WHITE)
    draw_text(ImageDraw.Draw(strip), (0, size // 4), text, font, _INK)
    return strip


def draw_line(draw: ImageDraw.ImageDraw, points: _Points, style: int, *, marked: bool) -> None:
    """Join points (N, 2) of (column, row), with gaps at NaN. A point alone has a marker in any case."""
    colour, dashes, marker = STYLES[style % len(STYLES)]
    for run in _runs(~np.isnan(points[:, 0])):
        piece = points[run]
        for dash in _dashed(piece, dashes):
            draw.line([tuple(point) for point in dash.tolist()], colour, width=2, joint="curve")
        if marked or len(piece) == 1:
            for x, y in piece.tolist():
                _draw_marker(draw, x, y, marker, colour)


def _runs(present: NDArray[np.bool_]) -> list[slice]:
    """The stretches of true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(np.int8)))
    return [slice(*pair) for pair in edges.reshape(-1, 2).tolist()]


def _dashed(points: _Points, dashes: Sequence[int]) -> list[_Points]:
    """Cut a line of points (N, 2) into pieces, of which `dashes` gives the pixels drawn and left out in turn."""
    if not dashes or len(points) == 1:
        return [points]
    travelled = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    steps = np.arange(0.0, travelled[-1] + 1)
    path = np.stack([np.interp(steps, travelled, axis) for axis in points.T], axis=-1)  # a point for each pixel
    turn = np.searchsorted(np.cumsum(dashes), steps % sum(dashes), side="right")
    drawn: NDArray[np.bool_] = turn % 2 == 0
    return [path[run] for run in _runs(drawn)]


def _draw_marker(draw: ImageDraw.ImageDraw, x: float, y: float, marker: str, colour: Colour) -> None:
    r = MARKER
    if marker == "disc":
        draw.ellipse((x - r, y - r, x + r, y + r), colour)
    elif marker == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), colour)
    elif marker == "triangle":
        draw.polygon([(x - r, y + r), (x + r, y + r), (x, y - r)], colour)
    else:
        draw.line((x - r, y - r, x + r, y + r), colour, width=2)
        draw.line((x - r, y + r, x + r, y - r), colour, width=2)
