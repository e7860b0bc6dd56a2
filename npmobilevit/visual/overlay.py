"""A segmentation shown on its picture: classes tinted in their colours, and a legend below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from npmobilevit.errors import ConfigError, ShapeError
from npmobilevit.visual.lettering import (
    Font,
    draw_text,
    flow,
    font_of_size,
    shown_text,
    shown_value,
    text_size,
    text_width,
    without_accents,
)
from npmobilevit.visual.palettes import Colour

__all__ = ["overlay", "with_legend"]

_Entry: TypeAlias = tuple[Colour | None, str]  # no colour: a text without a swatch

MAX_ENTRIES = 40
MAX_TEXT = 40  # characters
BAND_PIXELS = 2**16

_WHITE = (255, 255, 255)
_INK = (32, 32, 32)


def overlay(
    rgb: NDArray[np.uint8], mask: NDArray[np.integer], colours: Mapping[int, Colour], *, alpha: float
) -> NDArray[np.uint8]:
    """Tint the pixels of some classes.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (H, W, 3)
        The picture. It is not written to.
    mask : ndarray of int, shape (H, W)
        Class id of each pixel. Any value may occur.
    colours : mapping of int to (red, green, blue)
        Colours of the ids to tint, each part in 0..255. Pixels of other ids stay as they are.
    alpha : float
        Weight of the colour in 0..1: 0 leaves the picture as it is, 1 covers it.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        ``round((1 - alpha) * rgb + alpha * colour)`` where the id has a colour; halves are rounded to even.

    Raises
    ------
    ConfigError
        ``alpha`` is not a number in 0..1 (code ``option``).
    ShapeError
        Picture and mask differ in height or width (code ``mask-shape``).
    """
    weight = _checked_alpha(alpha)
    if rgb.shape[:2] != mask.shape:
        raise ShapeError(
            f"cannot lay a mask of shape {mask.shape} on a picture of shape {rgb.shape}: height and width must be the "
            "same. Resize the mask to the picture.",
            code="mask-shape",
        )
    tinted = rgb.copy()
    ids = np.array(sorted(colours), np.int64)
    palette = np.array([colours[i] for i in ids.tolist()], np.float64)
    rows = max(1, BAND_PIXELS // max(1, mask.shape[1]))
    for top in range(0, len(mask) if colours else 0, rows):  # in bands, so that the floats take little memory
        _tint(tinted[top : top + rows], mask[top : top + rows], ids, palette, weight)
    return tinted


def with_legend(rgb: NDArray[np.uint8], entries: Sequence[tuple[Colour, str]]) -> Image.Image:
    """Put a legend below a picture.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (H, W, 3)
        The picture. It fills the top left of the result unchanged.
    entries : sequence of ((red, green, blue), text)
        Swatch and text of each entry. Of more than 40 entries, the first 40 are shown and the others counted; texts
        are cut to 40 characters. Without entries the picture is returned as it is.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, as wide as the picture, or wider where one entry needs more room; white where there is nothing.
    """
    picture = Image.fromarray(rgb)
    if not entries:
        return picture
    legend = _legend(picture.width, _legend_entries(entries))
    canvas = Image.new("RGB", (legend.width, picture.height + legend.height), _WHITE)
    canvas.paste(picture, (0, 0))
    canvas.paste(legend, (0, picture.height))
    return canvas


def _checked_alpha(alpha: object) -> float:
    if isinstance(alpha, int | float | np.integer | np.floating) and not isinstance(alpha, bool) and 0 <= alpha <= 1:
        return float(alpha)
    raise ConfigError(
        f"alpha must be a number from 0, the picture alone, to 1, the colours alone; found {shown_value(alpha)}.",
        code="option",
    )


def _tint(
    rgb: NDArray[np.uint8],
    mask: NDArray[np.integer],
    ids: NDArray[np.int64],
    palette: NDArray[np.float64],
    alpha: float,
) -> None:
    """Blend the colours (K, 3) of the ids (K,), which are sorted, into `rgb` in place."""
    nearest = np.minimum(np.searchsorted(ids, mask), len(ids) - 1)
    has_colour = ids[nearest] == mask
    rgb[has_colour] = np.rint((1 - alpha) * rgb[has_colour] + alpha * palette[nearest[has_colour]])


def _legend_entries(entries: Sequence[tuple[Colour, str]]) -> list[_Entry]:
    shown: list[_Entry] = [(colour, _legend_text(text)) for colour, text in entries[:MAX_ENTRIES]]
    more = len(entries) - MAX_ENTRIES
    return [*shown, (None, f"and {more:,} more")] if more > 0 else shown


def _legend_text(text: str) -> str:
    return shown_text(without_accents(text), MAX_TEXT)


def _legend(width: int, entries: Sequence[_Entry]) -> Image.Image:
    """Draw the entries in rows on a strip at least `width` wide. All lengths go with the text size."""
    font = font_of_size(min(48, max(10, round(width / 40))))
    size = text_size(font)
    margin, line = size, round(1.75 * size)
    widths = [_entry_width(entry, font, size) for entry in entries]
    width = max(width, max(widths) + 2 * margin)
    places = flow(widths, width - 2 * margin, gap=round(1.5 * size))
    height = places[-1][1] * line + size + 2 * margin
    strip = Image.new("RGB", (width, height), _WHITE)
    draw = ImageDraw.Draw(strip)
    for entry, (x, row) in zip(entries, places, strict=True):
        _draw_entry(draw, (margin + x, margin + row * line), entry, font, size)
    return strip


def _entry_width(entry: _Entry, font: Font, size: int) -> int:
    colour, text = entry
    return _text_offset(colour, size) + text_width(text, font)


def _text_offset(colour: Colour | None, size: int) -> int:
    return 0 if colour is None else size + round(0.5 * size)


def _draw_entry(draw: ImageDraw.ImageDraw, corner: tuple[int, int], entry: _Entry, font: Font, size: int) -> None:
    """Draw a swatch of `size` pixels with its top left in `corner`, and the text to the right of it."""
    (x, y), (colour, text) = corner, entry
    if colour is not None:
        draw.rectangle((x, y, x + size - 1, y + size - 1), colour, _INK, width=max(1, size // 16))
    draw_text(draw, (x + _text_offset(colour, size), y), text, font, _INK)  # capitals are centred on the swatch
