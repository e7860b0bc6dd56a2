"""Text in pictures, set in the font that Pillow brings along.

The font has little more than ASCII. Accents are left out of texts, and any other letter that it lacks shows as an
empty box.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import TypeAlias

from PIL import ImageDraw, ImageFont

from npmobilevit.visual.palettes import Colour

__all__ = [
    "Font",
    "draw_text",
    "fitted",
    "flow",
    "font_of_size",
    "plain_line",
    "shown_text",
    "shown_value",
    "text_size",
    "text_width",
    "without_accents",
]

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

MAX_TEXT = 200  # characters of a line
_BITMAP_SIZE = 11  # height of Pillow's bitmap font, which has one size only


def font_of_size(size: int) -> Font:
    """Pillow's own font with capitals of about ``0.7 * size`` pixels; its bitmap font where there is no FreeType."""
    try:
        return ImageFont.load_default(size)
    except ImportError:  # a Pillow built without FreeType has the bitmap font only
        return ImageFont.load_default()


def text_size(font: Font) -> int:
    """The size that the font was asked for, or that of the bitmap font."""
    return round(font.size) if isinstance(font, ImageFont.FreeTypeFont) else _BITMAP_SIZE


def text_width(text: str, font: Font) -> int:
    """Pixels from the first to the last column of a line of text."""
    left, _, right, _ = font.getbbox(_drawable(text, font))
    return math.ceil(right - left)


def draw_text(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, font: Font, colour: Colour) -> None:
    """Write a line of text into the box of ``text_size(font)`` rows whose top left is `corner`.

    Capitals are centred in the rows. Descenders may reach below the box by half a size.
    """
    (x, y), shown = corner, _drawable(text, font)
    _, top, _, bottom = font.getbbox("H")
    left = font.getbbox(shown)[0]  # below 0 where a letter, such as j, reaches back
    draw.text((x - left, y + (text_size(font) - top - bottom) // 2), shown, colour, font)


def shown_text(text: str, limit: int) -> str:
    """One line of at most `limit` characters: what does not print is replaced, what is too long ends in ``...``."""
    head = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in head)


def shown_value(value: object) -> str:
    """A refused argument as an error message shows it: its repr, at most 80 characters of it."""
    try:
        return repr(value)[:80]
    except ValueError:  # Python does not print integers of thousands of digits
        return "a number too long to print"


def without_accents(text: str) -> str:
    """Replace each accented Latin letter by the letter: the font has nothing but ASCII letters."""
    letters = unicodedata.normalize("NFC", text)
    return "".join(unicodedata.normalize("NFD", c).encode("ascii", "ignore").decode() or c for c in letters)


def plain_line(text: str) -> str:
    """A text as one line in the letters that the font has, of at most 200 characters."""
    return shown_text(without_accents(text), MAX_TEXT)


def fitted(text: str, font: Font, room: int) -> str:
    """The text, or as much of its beginning as fits into so many pixels with ``...`` behind it."""
    shown = plain_line(text)
    end = len(shown)
    while end > 0 and text_width(shown, font) > room:
        end -= 1
        shown = plain_line(text)[:end].rstrip() + "..."
    return shown


def flow(widths: Sequence[int], space: int, gap: int) -> list[tuple[int, int]]:
    """Place boxes from left to right, in a new row where one does not fit: (x, row) of each."""
    places = []
    x = row = 0
    for width in widths:
        if x > 0 and x + width > space:
            x, row = 0, row + 1
        places.append((x, row))
        x += width + gap
    return places


def _drawable(text: str, font: Font) -> str:
    """Replace what the bitmap font refuses. FreeType draws a box for what it lacks."""
    return text.encode("latin-1", "replace").decode("latin-1") if isinstance(font, ImageFont.ImageFont) else text
