"""Batch normalisation (with its running statistics) and layer normalisation."""

from __future__ import annotations

import numpy as np

from npmobilevit.errors import ShapeError
from npmobilevit.ops.arrays import Array, check_float, check_parameter

BATCH_NORM_EPS = 1e-5  # of MobileViT, everywhere


def _check_eps(eps: float) -> float:
    if not isinstance(eps, int | float | np.number) or not 0 <= eps <= 1:
        raise ShapeError(f"eps must be a number in 0..1, found {eps!r}", "argument-range")
    return float(eps)


def batch_norm(
    x: Array, *, weight: Array, bias: Array, running_mean: Array, running_var: Array, eps: float = BATCH_NORM_EPS
) -> Array:
    """Normalise each channel with the statistics stored at training time (``torch.nn.BatchNorm2d.eval()``).

    ``y = (x - running_mean) / sqrt(running_var + eps) * weight + bias``, evaluated as one multiplication and
    one addition a pixel.

    Parameters
    ----------
    x : (N, C, H, W) array, float32 or float64
    weight, bias, running_mean, running_var : (C,) arrays
    eps : float
        MobileViT uses 1e-5 everywhere, whatever the configuration's ``layer_norm_eps`` says.

    Returns
    -------
    (N, C, H, W) array, same dtype as `x`.

    Raises
    ------
    ShapeError
        If a parameter has not one value a channel or another dtype, or a variance is negative.
    """
    check_float(x, ndim=4)
    shape = (x.shape[1],)
    check_parameter("weight", weight, shape, x.dtype)
    check_parameter("bias", bias, shape, x.dtype)
    check_parameter("running_mean", running_mean, shape, x.dtype)
    check_parameter("running_var", running_var, shape, x.dtype)
    variance = running_var + x.dtype.type(_check_eps(eps))  # (C,)
    if not np.all(running_var >= 0) or not np.all(variance > 0):
        raise ShapeError(
            f"running_var must not be negative, and with eps above zero, found {running_var.min()} and {eps}",
            "parameter-range",
        )
    scale = weight / np.sqrt(variance)  # (C,)
    shift = bias - running_mean * scale  # (C,)
    y = x * scale[:, np.newaxis, np.newaxis]
    y += shift[:, np.newaxis, np.newaxis]
    return y


def layer_norm(x: Array, *, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Normalise the last axis to mean 0 and variance 1, then scale and shift (``torch.nn.LayerNorm``).

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with the biased variance (divided by D).

    Parameters
    ----------
    x : (..., D) array, float32 or float64
    weight, bias : (D,) arrays
    eps : float

    Returns
    -------
    (..., D) array, same dtype as `x`.

    Raises
    ------
    ShapeError
        If a parameter has not D values or another dtype.
    """
    check_float(x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ShapeError(f"layer_norm needs a last axis with at least one value, found shape {x.shape}", "array-ndim")
    check_parameter("weight", weight, x.shape[-1:], x.dtype)
    check_parameter("bias", bias, x.shape[-1:], x.dtype)
    centred: Array = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    centred /= np.sqrt(variance + x.dtype.type(_check_eps(eps)))
    centred *= weight
    centred += bias
    return centred
