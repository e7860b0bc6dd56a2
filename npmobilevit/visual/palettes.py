"""Colours of classes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = ["CAMVID", "class_colours", "voc_palette"]

Colour = tuple[int, int, int]

CAMVID: Mapping[str, Colour] = MappingProxyType(
    {
        "sky": (128, 128, 128),
        "building": (128, 0, 0),
        "pole": (192, 192, 128),
        "road": (128, 64, 128),
        "pavement": (60, 40, 222),
        "tree": (128, 128, 0),
        "sign": (192, 128, 128),
        "fence": (64, 64, 128),
        "car": (64, 0, 128),
        "pedestrian": (64, 64, 0),
        "bicyclist": (0, 128, 192),
    }
)
"""The colours that SegNet gave the classes of CamVid (github.com/alexgkendall/SegNet-Tutorial)."""


def class_colours(labels: Mapping[int, str]) -> dict[int, Colour]:
    """The colour of each class: CamVid's for its classes, else PASCAL VOC's for the class id.

    Parameters
    ----------
    labels : mapping of int to str
        Name of each class, by its id.

    Returns
    -------
    dict of int to (red, green, blue)
    """
    if labels and set(labels.values()) <= set(CAMVID):
        return {i: CAMVID[name] for i, name in labels.items()}
    palette = voc_palette(max(labels, default=0) + 1).tolist()
    return {i: tuple(palette[i]) for i in labels}


def voc_palette(count: int) -> NDArray[np.uint8]:
    """Colour map of PASCAL VOC: the colour of each class id.

    Parameters
    ----------
    count : int
        Number of colours, at least 1. Ids above 255, which VOC does not have, go on by the same rule.

    Returns
    -------
    ndarray of uint8, shape (count, 3)
        Red, green and blue of the ids 0 to ``count - 1``.

    Notes
    -----
    The lowest three bits of the id are the highest bits of red, green and blue, the next three bits the second
    highest, and so on: ids that are near each other get colours that are far apart.

    Examples
    --------
    >>> voc_palette(3).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    ids = np.arange(count)
    palette = np.zeros((count, 3), np.uint8)
    for bit in range(7, -1, -1):
        palette |= ((ids[:, None] >> np.arange(3) & 1) << bit).astype(np.uint8)
        ids >>= 3
    return palette
