"""Colours of classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["voc_palette"]


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
