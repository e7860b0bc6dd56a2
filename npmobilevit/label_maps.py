"""The logits of a segmentation network -> the class of every pixel of a picture, in little memory.

The logits, not the labels, are resized. That is done part by part: the logits of a 12-megapixel photograph for 21
classes would take a gigabyte at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npmobilevit.ops.arrays import Array
from npmobilevit.ops.resize import Sources, blend, sources, sources_at

PART_VALUES = 2**20  # resized logits at a time: they stay in the cache


class Labelled(NamedTuple):
    """Attributes
    ----------
    mask : (H, W) int32 array
        The class of the largest logit, of equal ones the lowest.
    pixels : (C,) int64 array
        How many pixels each class has.
    probability : (C,) float64 array
        The mean over these pixels of the softmax probability of the class; 0 for a class without pixels.
    """

    mask: NDArray[np.int32]
    pixels: NDArray[np.int64]
    probability: NDArray[np.float64]


class Axis(NamedTuple):
    """The lengths, along one axis, of a picture on its way through resize, crop and network.

    Attributes
    ----------
    picture, resized : int
        Before and after the resize.
    origin : int
        Where in the resized picture the crop begins; negative if the crop is larger.
    network : int
        Length of the crop.
    logits : int
    """

    picture: int
    resized: int
    origin: int
    network: int
    logits: int

    def seen(self, dtype: np.dtype[Any]) -> tuple[slice, Sources]:
        """The picture's pixels whose centres lie within the crop, and where these lie among the logits."""
        if (self.origin, self.network) == (0, self.resized):  # no crop: torch's rule, with its rounding
            return slice(0, self.picture), sources(self.logits, self.picture, dtype)
        # Centres, in pixels of the crop, times 2*picture: whole numbers, so that one on the edge is on its right side.
        doubled = (2 * np.arange(self.picture) + 1) * self.resized - 2 * self.picture * self.origin
        inside = np.flatnonzero((doubled >= 0) & (doubled < 2 * self.picture * self.network))
        centre = doubled / (2 * self.picture)
        span = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)
        return span, sources_at(centre[span] * (self.logits / self.network) - 0.5, self.logits, dtype)


def resized_parts(logits: Array, rows: Sources, columns: Sources) -> Iterator[tuple[tuple[slice, slice], Array]]:
    """Logits (C, h, w), resized to (C, H, W): part after part, each with the spans of its rows and columns."""
    for left, right in _steps(len(columns.first), PART_VALUES // (logits.shape[0] * logits.shape[1])):
        wide = blend(logits, columns.part(left, right), axis=2)  # (C, h, W of this part)
        for top, bottom in _steps(len(rows.first), PART_VALUES // (logits.shape[0] * (right - left))):
            yield (slice(top, bottom), slice(left, right)), blend(wide, rows.part(top, bottom), axis=1)


def _steps(length: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut 0..length into steps, of one where they should be shorter."""
    step = max(1, step)
    return ((start, min(start + step, length)) for start in range(0, length, step))


def label_map(logits: Array, rows: Sources, columns: Sources) -> NDArray[np.int32]:
    """The class (H, W) of the largest of the resized logits (C, h, w)."""
    mask = np.empty((len(rows.first), len(columns.first)), np.int32)
    for spans, part in resized_parts(logits, rows, columns):
        mask[spans] = part.argmax(axis=0)
    return mask


def labelled(logits: Array, rows: Sources, columns: Sources) -> Labelled:
    """As `label_map`, with the number of pixels and the mean probability of each class."""
    classes = len(logits)
    mask = np.empty((len(rows.first), len(columns.first)), np.int32)
    pixels, total = np.zeros(classes, np.int64), np.zeros(classes, np.float64)
    for spans, part in resized_parts(logits, rows, columns):
        mask[spans] = part.argmax(axis=0)
        flat = mask[spans].ravel()
        pixels += np.bincount(flat, minlength=classes)
        total += np.bincount(flat, weights=_largest_probability(part).ravel(), minlength=classes)
    return Labelled(mask, pixels, total / np.maximum(pixels, 1))


def _largest_probability(logits: Array) -> Array:
    """Softmax probability (H, W) of the largest of the logits (C, H, W)."""
    with np.errstate(under="ignore", over="ignore"):  # a difference of -inf is a probability of 0
        probability: Array = 1 / np.exp(logits - logits.max(axis=0)).sum(axis=0)
    return probability
