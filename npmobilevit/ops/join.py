"""Two ways in which branches meet again: by sum (residuals) and side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npmobilevit.errors import ShapeError
from npmobilevit.ops.arrays import Array, check_float, check_parameter


def add(x: Array, y: Array) -> Array:
    """Add what came in to what a branch made of it, ``x + y``; nothing is broadcast.

    Parameters
    ----------
    x, y : arrays of one shape and dtype, float32 or float64

    Returns
    -------
    array of the same shape and dtype

    Raises
    ------
    ShapeError
        If shapes or dtypes differ.
    """
    check_float(x)
    check_float(y, "y")
    if x.shape != y.shape:
        raise ShapeError(f"x {x.shape} and y {y.shape} must be alike: nothing is broadcast", "join-shape")
    check_parameter("y", y, x.shape, x.dtype)
    return np.asarray(x + y)


def concat_channels(maps: Sequence[Array]) -> Array:
    """Lay maps side by side along the channels, in the order given (``torch.cat(maps, dim=1)``).

    Parameters
    ----------
    maps : sequence of (N, C_i, H, W) arrays, float32 or float64
        At least one; all alike but in C_i.

    Returns
    -------
    (N, sum of C_i, H, W) array of the same dtype

    Raises
    ------
    ShapeError
        If there is no map, or they differ in more than their channels.
    """
    for x in maps:
        check_float(x, ndim=4)
    if len({(x.shape[0], *x.shape[2:]) for x in maps}) != 1:
        found = ", ".join(str(x.shape) for x in maps)
        raise ShapeError(f"maps must be alike but in their channels, found {found or 'none'}", "join-shape")
    for x in maps:
        check_parameter("a map", x, x.shape, maps[0].dtype)
    return np.concatenate(maps, axis=1)
