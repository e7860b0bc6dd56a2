"""Global average pooling."""

from __future__ import annotations

import numpy as np

from npmobilevit.errors import ShapeError
from npmobilevit.ops.arrays import Array, check_float


def global_avg_pool(x: Array) -> Array:
    """Average each channel over all pixels (``torch.nn.AdaptiveAvgPool2d(1)``, without the two axes of size 1).

    Parameters
    ----------
    x : (N, C, H, W) array, float32 or float64

    Returns
    -------
    (N, C) array, same dtype as `x`.

    Raises
    ------
    ShapeError
        If `x` has not four axes, or a map has no pixel.
    """
    check_float(x, ndim=4)
    if not x.shape[2] * x.shape[3]:
        raise ShapeError(f"there is no pixel to average in shape {x.shape}", "array-empty")
    return np.asarray(x.mean(axis=(2, 3)))
