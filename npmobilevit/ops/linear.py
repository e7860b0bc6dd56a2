"""The fully connected layer."""

from __future__ import annotations

import math

from npmobilevit.errors import ShapeError
from npmobilevit.ops.arrays import Array, check_float, check_parameter


def linear(x: Array, *, weight: Array, bias: Array | None = None) -> Array:
    """Apply an affine map to the last axis, ``y = x @ weight.T + bias`` (``torch.nn.Linear``).

    Parameters
    ----------
    x : (..., D_in) array, float32 or float64
    weight : (D_out, D_in) array
    bias : (D_out,) array, optional

    Returns
    -------
    (..., D_out) array, same dtype as `x`.

    Raises
    ------
    ShapeError
        If the shapes or dtypes do not belong together.
    """
    check_float(x)
    check_float(weight, "weight", ndim=2)
    if x.ndim == 0:
        raise ShapeError("linear needs at least one axis, found a scalar", "array-ndim")
    check_parameter("weight", weight, (weight.shape[0], x.shape[-1]), x.dtype)
    *leading, width = x.shape
    y = x.reshape(math.prod(leading), width) @ weight.T  # one large product is faster than many small ones
    if bias is not None:
        check_parameter("bias", bias, weight.shape[:1], x.dtype)
        y += bias
    return y.reshape(*leading, weight.shape[0])
