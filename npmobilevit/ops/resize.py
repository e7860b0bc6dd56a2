"""Bilinear resizing by torch's rule."""

from __future__ import annotations

from typing import Any, NamedTuple

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
    x = blend(x, sources(x.shape[3], width, x.dtype), axis=3)
    return blend(x, sources(x.shape[2], height, x.dtype), axis=2)


class Sources(NamedTuple):
    """For each output position along one axis: the two input positions that are blended, and the second's weight."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weight: Array

    def part(self, start: int, stop: int) -> Sources:
        """The sources of the output positions from `start` up to `stop`."""
        return Sources(self.first[start:stop], self.second[start:stop], self.weight[start:stop])


def sources(size_in: int, size_out: int, dtype: np.dtype[Any]) -> Sources:
    """Where the output positions of a resize lie in the input, by torch's rule."""
    scale = np.float64(dtype.type(size_in / size_out))
    # One rounding after multiply and subtract, as in torch's fused multiply-add.
    return sources_at((np.arange(size_out) + 0.5) * scale - 0.5, size_in, dtype)


def sources_at(position: NDArray[np.floating], size_in: int, dtype: np.dtype[Any]) -> Sources:
    """Sources of any positions, 0 being the centre of the first input value; beyond the border it is repeated."""
    position = np.maximum(position, 0).astype(dtype)
    first = np.minimum(position.astype(np.intp), size_in - 1)
    second = np.minimum(first + 1, size_in - 1)
    weight = np.clip(position - first.astype(dtype), 0, 1)
    return Sources(first, second, weight)


def blend(x: Array, at: Sources, *, axis: int) -> Array:
    """Blend the sources along one axis, which takes their length."""
    weight = at.weight.reshape(-1, *(1,) * (x.ndim - 1 - axis))
    y: Array = np.take(x, at.first, axis) * (1 - weight) + np.take(x, at.second, axis) * weight
    return y
