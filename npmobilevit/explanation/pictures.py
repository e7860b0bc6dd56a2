"""The pictures of the page, as data URIs: each small, as browsers enlarge them."""

from __future__ import annotations

import dataclasses
import math
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npmobilevit.explanation.attention import LEVELS, BlockAttention, group_sizes, grouped
from npmobilevit.results import Segmentation
from npmobilevit.visual.drawing import colour_map, heatmap, sheet
from npmobilevit.visual.notebook import jpeg_bytes
from npmobilevit.visual.standalone import data_uri

MOST_EXACT_PIXELS = 90_000  # of a picture without loss, in some 150 kB
LONGEST, LONGEST_BACKDROP = 560, 384  # pixels of a side
CELL = 64  # pixels of a map in a sheet
SHEET_COLUMNS = 8
SHEET_LEVELS = 31  # the largest: 32 colours make a sheet half as large, and look nearly the same
STRONGEST_TINT = 0.85

_WHITE = (255, 255, 255)


def is_exact(rgb: NDArray[np.uint8]) -> bool:
    """Whether :func:`photo` shows each pixel as it is."""
    return bool(math.prod(rgb.shape[:2]) <= MOST_EXACT_PIXELS)


def photo(rgb: NDArray[np.uint8]) -> str:
    """A picture (H, W, 3): without loss if it is small, else as JPEG."""
    return png(Image.fromarray(rgb)) if is_exact(rgb) else _jpeg(rgb, LONGEST)


def backdrop(rgb: NDArray[np.uint8]) -> str:
    """A picture (H, W, 3) as JPEG, to lie below colours."""
    return _jpeg(rgb, LONGEST_BACKDROP)


def _jpeg(rgb: NDArray[np.uint8], longest: int) -> str:
    return data_uri(jpeg_bytes(rgb, longest=longest), "image/jpeg")


def png(image: Image.Image, *, clear_white: bool = False) -> str:
    """A picture without loss, with a palette where that can hold its colours; white may let the page through."""
    mode = image.mode
    pixels = np.asarray(image)
    if mode == "RGB":
        packed = pixels.astype(np.uint32) @ np.array([1, 2**8, 2**16], np.uint32)  # (H, W)
        colours, places = np.unique(packed, return_inverse=True)
        if len(colours) <= 256:
            palette = colours[:, np.newaxis] >> np.array([0, 8, 16], np.uint32) & 255  # (K, 3)
            image = Image.fromarray(places.reshape(packed.shape).astype(np.uint8))
            image.putpalette(palette.astype(np.uint8).tobytes())
            white = np.flatnonzero(colours == 0xFFFFFF)
            return _encoded(image, int(white[0]) if clear_white and len(white) else None)
    return _encoded(image, _WHITE if clear_white and mode == "RGB" else None)


def _encoded(image: Image.Image, clear: int | tuple[int, int, int] | None) -> str:
    file = BytesIO()
    image.save(file, "PNG", optimize=True, **({} if clear is None else {"transparency": clear}))
    return data_uri(file.getvalue(), "image/png")


def attention_colours() -> list[list[int]]:
    """The colour (red, green, blue) of each level of attention."""
    places = np.rint(np.linspace(0, 255, LEVELS + 1)).astype(int)
    colours: list[list[int]] = colour_map("sequential")[places].tolist()
    return colours


def attention_sheet(block: BlockAttention) -> str:
    """What the patch in the middle attends to in the first transformer layer: a column a head, a row a position."""
    queries = tuple(-(-n // block.query_step) for n in block.patches)
    keys = tuple(-(-n // block.key_step) for n in block.patches)
    middle = queries[0] // 2 * queries[1] + queries[1] // 2
    levels = block.levels[0, :, :, middle]  # (O, h, K)
    maps = levels.reshape(-1, *keys)
    cell = max(1, CELL // max(keys))
    return png(sheet(maps, columns=levels.shape[1], cell=cell, gap=4), clear_white=True)


def feature_sheet(maps: NDArray[np.float32]) -> str:
    """Maps (n, h, w), each on a scale of its own."""
    small = np.stack([_levels(_shrunk(one)) for one in maps])
    cell = max(1, CELL // max(small.shape[1:]))
    return png(sheet(small, columns=SHEET_COLUMNS, cell=cell, gap=4), clear_white=True)


def _shrunk(one: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map (h, w) with at most 64 values along each side, means of the others."""
    height, width = one.shape
    step = -(-max(height, width) // CELL)
    means: NDArray[np.float32] = (grouped(one, (0, 1), step) / group_sizes((height, width), step)).astype(np.float32)
    return means


def _levels(one: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = float(one.min()), float(one.max())
    return np.rint(SHEET_LEVELS * (one.astype(np.float64) - low) / ((high - low) or 1))


def tint(values: NDArray[np.float64]) -> str:
    """Values (h, w) to lie over a picture: red above 0, blue below, and the clearer the smaller."""
    share = values / (np.abs(values).max() or 1)  # in -1..1
    ends = colour_map("diverging")[[40, 215]]
    rgba = np.empty((*values.shape, 4), np.uint8)
    rgba[..., :3] = ends[(share > 0).astype(int)]
    rgba[..., 3] = np.rint(255 * STRONGEST_TINT * np.abs(share))
    return png(Image.fromarray(rgba))


def probability_map(probability: NDArray[np.float32]) -> str:
    """Probabilities (h, w), from 0 to 1."""
    return png(heatmap(_shrunk(probability), low=0, high=1, cell=1))


def overlay(segmentation: Segmentation) -> str:
    """The mask over the picture."""
    step = max(1, max(segmentation.mask.shape) // (2 * LONGEST))  # of a much larger picture, every so many pixels
    seen = np.s_[::step, ::step]
    small = dataclasses.replace(segmentation, mask=segmentation.mask[seen], image=segmentation.image[seen])
    return _jpeg(np.asarray(small.overlay(legend=False)), LONGEST)
