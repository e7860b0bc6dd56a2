"""Results as fragments of HTML, for notebooks.

A fragment holds all it needs: the picture as a data URI, styles inline, no script, nothing from the network. Text has
the colour of the page around it, so that it can be read in light and in dark themes; without styles, as some sites
show notebooks, the tables still say everything.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npmobilevit.visual.lettering import shown_text
from npmobilevit.visual.palettes import Colour
from npmobilevit.visual.standalone import data_uri

__all__ = ["bars_html", "classes_html", "jpeg_bytes"]

JPEG_QUALITY = 85
JPEG_LONGEST = 65_500  # pixels: libjpeg writes no longer side
MAX_TEXT = 120  # characters

_BAR_COLOUR = "#3b82f6"  # a contrast of more than 3 with white and with black
_LEFT, _RIGHT = ("text-align:left;padding:0.2em 0.8em", "text-align:right;padding:0.2em 0.8em")


def jpeg_bytes(rgb: NDArray[np.uint8], *, longest: int | None = None) -> bytes:
    """Encode a picture as JPEG.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (H, W, 3)
        The picture. It is not written to.
    longest : int or None
        The picture is scaled down, its proportions kept, so that its longer side has at most this many pixels. None
        keeps the size, up to what the format can hold.

    Returns
    -------
    bytes
    """
    limit = JPEG_LONGEST if longest is None else min(longest, JPEG_LONGEST)
    step = max(1, max(rgb.shape[:2]) // (2 * limit))  # of a much larger picture, every so many pixels are enough
    picture = Image.fromarray(np.ascontiguousarray(rgb[::step, ::step]))
    picture.thumbnail((limit, limit), Image.Resampling.BOX)
    file = BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def bars_html(picture: bytes, caption: str, rows: Sequence[tuple[str, float]]) -> str:
    """Show a picture beside a bar for each class.

    Parameters
    ----------
    picture : bytes
        A JPEG; empty for none.
    caption : str
        Stands above the bars, and for the picture where it is not shown.
    rows : sequence of (name, probability)
        Probabilities are in 0..1.

    Returns
    -------
    str
        A fragment of HTML.
    """
    body = [_cell(_text(name), _LEFT) + _percentage(value) + _bar(value) for name, value in rows]
    heads = _head("class", _LEFT) + _head("probability", _LEFT, columns=2)
    return _beside(picture, caption, _table(caption, heads, body))


def classes_html(picture: bytes, caption: str, rows: Sequence[tuple[Colour, str, float, float]]) -> str:
    """Show a segmented picture beside the table of its classes.

    Parameters
    ----------
    picture : bytes
        A JPEG; empty for none.
    caption : str
        Stands above the table, and for the picture where it is not shown.
    rows : sequence of ((red, green, blue), name, share, probability)
        Colour of the class, its share of the pixels and its mean probability, both in 0..1.

    Returns
    -------
    str
        A fragment of HTML.
    """
    heads = _head("class", _LEFT) + _head("share of pixels", _RIGHT) + _head("mean probability", _RIGHT)
    body = [
        _cell(_swatch(colour) + _text(name), _LEFT) + _percentage(share) + _percentage(probability)
        for colour, name, share, probability in rows
    ]
    return _beside(picture, caption, _table(caption, heads, body))


def _text(text: str) -> str:
    return html.escape(shown_text(text, MAX_TEXT))


def _beside(picture: bytes, caption: str, table: str) -> str:
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start">{_image(picture, caption)}'
        f"<div>{table}</div></div>"
    )


def _image(picture: bytes, caption: str) -> str:
    if not picture:
        return ""
    source, style = data_uri(picture, "image/jpeg"), "max-width:100%;height:auto;margin:0"
    return f'<img src="{source}" alt="{_text(caption)}" style="{style}">'


def _table(caption: str, heads: str, rows: Sequence[str]) -> str:
    """Lay out a table; `heads` and each of `rows` are cells."""
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        '<table style="border-collapse:collapse;margin:0">'
        f'<caption style="caption-side:top;color:inherit;{_LEFT}">{_text(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    )


def _head(text: str, style: str, *, columns: int = 1) -> str:
    return f'<th scope="col" colspan="{columns}" style="{style}">{text}</th>'


def _cell(content: str, style: str) -> str:
    return f'<td style="{style}">{content}</td>'


def _percentage(value: float) -> str:
    return _cell(f"{value:.1%}", _RIGHT + ";font-variant-numeric:tabular-nums")


def _bar(value: float) -> str:
    share = min(1.0, max(0.0, value))  # of NaN, 0
    style = f"width:{share:.1%};height:0.8em;background:{_BAR_COLOUR};border-radius:2px"
    return _cell(f'<div style="width:10em"><div style="{style}"></div></div>', _LEFT)


def _swatch(colour: Colour) -> str:
    red, green, blue = colour
    style = f"background:rgb({red:d},{green:d},{blue:d});border:1px solid;width:0.9em;height:0.9em"
    return f'<span style="display:inline-block;{style};margin-right:0.6em;vertical-align:-0.1em"></span>'
