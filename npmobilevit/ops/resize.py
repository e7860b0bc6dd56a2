"""Bilinear resizing by torch's rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npmobilevit.errors import ShapeError
from npmobilevit.ops.arrays import Array, check_float, check_positive


def resize_bilinear(x: Array, size: tuple[int, int]) -> Array:
    """Resize maps bilinearly (``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``).

    Pixel centres lie at half-integers, the border is repeated, and shrinking does not average (no antialias).

    Parameters
    ----------
    x : (N, C, H, W) array, float32 or float64
    size : (height, width)

    Returns
    -------
    (N, C, height, width) array, same dtype as `x`.

    Raises
    ------
    ShapeError
        If `x` has not four axes or no pixels, or a size is not a positive integer.

    Notes
    -----
    In float32, torch rounds the scale and the source coordinate to float32. That moves a value by up to 1e-5,
    so the same coordinates are formed here; what is left is the rounding of the weighted sum.

    Examples
    --------
    >>> import numpy as np
    >>> resize_bilinear(np.array([[[[0.0, 1.0]]]]), (1, 4))[0, 0]
    array([[0.  , 0.25, 0.75, 1.  ]])
    """
    check_float(x, ndim=4)
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ShapeError(f"size must be (height, width), found {size!r}", "argument-range")
    height, width = check_positive("height", size[0]), check_positive("width", size[1])
    if not x.shape[2] * x.shape[3]:
        raise ShapeError(f"there is no pixel to resize in shape {x.shape}", "array-empty")
    if x.shape[2:] == (height, width):
        return x.copy()
    # Columns first on the few input rows, then rows: two passes of one blend each.
    left, right, weight = _sources(x.shape[3], width, x.dtype)
    x = x[..., left] * (1 - weight) + x[..., right] * weight
    upper, lower, weight = _sources(x.shape[2], height, x.dtype)
    weight = weight[:, np.newaxis]
    y: Array = x[..., upper, :] * (1 - weight) + x[..., lower, :] * weight
    return y


def _sources(size_in: int, size_out: int, dtype: np.dtype[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    """For each output position: the two input positions that are blended, and the weight of the second."""
    scale = np.float64(dtype.type(size_in / size_out))
    # One rounding after multiply and subtract, as in torch's fused multiply-add.
    position = np.maximum((np.arange(size_out) + 0.5) * scale - 0.5, 0).astype(dtype)
    first = np.minimum(position.astype(np.intp), size_in - 1)
    second = np.minimum(first + 1, size_in - 1)
    weight = np.clip(position - first.astype(dtype), 0, 1)
    return first, second, weight
