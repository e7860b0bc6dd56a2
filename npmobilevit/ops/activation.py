"""The activation functions that ``hidden_act`` may name, sigmoid and softmax. All keep the dtype and never warn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from npmobilevit.errors import ShapeError
from npmobilevit.ops.arrays import Array, check_float

Elementwise: TypeAlias = Callable[[Array], Array]

# torch's softplus returns x itself from here on; the difference is 2e-9
SOFTPLUS_THRESHOLD = 20

# transformers.activations.LaplaceActivation
LAPLACE_MU, LAPLACE_SIGMA = 0.707107, 0.282095


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))`` (``torch.sigmoid``).

    Parameters
    ----------
    x : array, float32 or float64

    Returns
    -------
    array in 0..1, same shape and dtype
    """
    y = _one_plus_exp_of_minus(x)
    return np.divide(1, y, out=y)


def softmax(x: Array, axis: int = -1) -> Array:
    """``exp(x) / sum(exp(x))`` along `axis`, after subtracting the largest value (``torch.softmax``).

    Parameters
    ----------
    x : array, float32 or float64
    axis : int

    Returns
    -------
    array, same shape and dtype, summing to 1 along `axis`

    Raises
    ------
    ShapeError
        If there is no such axis or it has no element.
    """
    check_float(x)
    if not -x.ndim <= axis < x.ndim or not x.shape[axis]:
        raise ShapeError(f"softmax needs values along axis {axis}, found shape {x.shape}", "array-ndim")
    with np.errstate(over="ignore"):  # the distance between the largest and the smallest float is inf: exp gives 0
        y: Array = x - x.max(axis=axis, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


def silu(x: Array) -> Array:
    """``x * sigmoid(x)``, also called swish (``torch.nn.SiLU``)."""
    y = _one_plus_exp_of_minus(x)
    return np.divide(x, y, out=y)


def quick_gelu(x: Array) -> Array:
    """``x * sigmoid(1.702 * x)`` (transformers ``QuickGELUActivation``)."""
    check_float(x)
    with np.errstate(over="ignore"):
        scaled = 1.702 * x
    return x * sigmoid(np.asarray(scaled))


def gelu(x: Array) -> Array:
    """``x * Phi(x)`` with the exact normal distribution function, ``Phi(x) = (1 + erf(x / sqrt(2))) / 2``."""
    check_float(x)
    return x * normal_cdf(x)


def gelu_10(x: Array) -> Array:
    """:func:`gelu` clipped to -10..10 (transformers ``ClippedGELUActivation``)."""
    return np.clip(gelu(x), -10, 10)


def gelu_pytorch_tanh(x: Array) -> Array:
    """``x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3)))`` (``torch.nn.GELU("tanh")``)."""
    return _gelu_tanh(x, math.sqrt(2 / math.pi))


def gelu_fast(x: Array) -> Array:
    """:func:`gelu_pytorch_tanh` with the constant cut to 0.7978845608 (transformers ``FastGELUActivation``)."""
    return _gelu_tanh(x, 0.7978845608)


def relu(x: Array) -> Array:
    """``max(x, 0)`` (``torch.nn.ReLU``)."""
    check_float(x)
    return np.maximum(x, 0)


def relu2(x: Array) -> Array:
    """``max(x, 0)**2`` (transformers ``ReLUSquaredActivation``); inf where that exceeds the dtype."""
    with np.errstate(over="ignore"):
        return np.square(relu(x))


def relu6(x: Array) -> Array:
    """``min(max(x, 0), 6)`` (``torch.nn.ReLU6``)."""
    check_float(x)
    return np.clip(x, 0, 6)


def leaky_relu(x: Array) -> Array:
    """``x`` if positive, else ``0.01 * x`` (``torch.nn.LeakyReLU``)."""
    check_float(x)
    return np.where(x > 0, x, 0.01 * x)


def hardswish(x: Array) -> Array:
    """``x * relu6(x + 3) / 6`` (``torch.nn.Hardswish``)."""
    check_float(x)
    return x * (np.clip(x + 3, 0, 6) / 6)


def mish(x: Array) -> Array:
    """``x * tanh(log(1 + exp(x)))`` (``torch.nn.Mish``)."""
    return x * np.tanh(_softplus(x))


def sqrtsoftplus(x: Array) -> Array:
    """``sqrt(log(1 + exp(x)))`` (transformers ``SqrtSoftplusActivation``)."""
    y = _softplus(x)
    return np.sqrt(np.where(x > SOFTPLUS_THRESHOLD, x, y))


def laplace(x: Array) -> Array:
    """Normal distribution function with mean 0.707107 and deviation 0.282095 (transformers ``LaplaceActivation``)."""
    check_float(x)
    with np.errstate(over="ignore"):
        standard = (x - LAPLACE_MU) / LAPLACE_SIGMA
    return normal_cdf(standard)


def linear_activation(x: Array) -> Array:
    """``x`` itself."""
    check_float(x)
    return x


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    check_float(x)
    return np.tanh(x)


def _one_plus_exp_of_minus(x: Array) -> Array:
    """``1 + exp(-x)``; infinite for `x` far below zero, where what is divided by it is zero, as it should be."""
    check_float(x)
    y = np.negative(x, out=np.empty_like(x))
    with np.errstate(over="ignore"):
        np.exp(y, out=y)
    y += 1
    return y


def _gelu_tanh(x: Array, factor: float) -> Array:
    check_float(x)
    with np.errstate(over="ignore"):
        inner = x * (factor * (1 + 0.044715 * np.square(x)))
    y: Array = 0.5 * x * (1 + np.tanh(inner))
    return y


def _softplus(x: Array) -> Array:
    """``log(1 + exp(x))`` without overflow."""
    check_float(x)
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def normal_cdf(x: Array, exp: Elementwise = np.exp) -> Array:
    """``(1 + erf(x / sqrt(2))) / 2``; of float32, the float64 value rounded. `exp` is asked for values below zero."""
    half_tail = 0.5 * _erfc(np.abs(x.astype(np.float64)) * math.sqrt(0.5), exp)
    return np.where(x < 0, half_tail, 1 - half_tail).astype(x.dtype)


# Rational approximations of erf and erfc, relative error below 6e-19: W. J. Cody, "Rational Chebyshev
# approximations for the error function", Mathematics of Computation 23 (1969), coefficients as in CALERF of
# SPECFUN (netlib). Each pair is numerator and denominator, highest power first.
_ERF_SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)  # fmt: skip
_ERFC_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
_ERFC_LARGE = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)  # fmt: skip
_ERFC_ZERO_FROM = 27.0  # erfc is below the smallest float64 from here on


def _erfc(x: Array, exp: Elementwise) -> Array:
    """Complementary error function of non-negative float64 values."""
    y = np.where(np.isnan(x), x, 0.0)
    small, large = x <= 0.46875, (x > 4) & (x < _ERFC_ZERO_FROM)
    middle = (x > 0.46875) & (x <= 4)
    a = x[small]
    y[small] = 1 - a * _ratio(_ERF_SMALL, a * a)
    a = x[middle]
    y[middle] = _exp_minus_square(a, exp) * _ratio(_ERFC_MIDDLE, a)
    a = x[large]
    inverse = 1 / (a * a)
    y[large] = _exp_minus_square(a, exp) * (1 / math.sqrt(math.pi) - inverse * _ratio(_ERFC_LARGE, inverse)) / a
    return y


def _exp_minus_square(x: Array, exp: Elementwise) -> Array:
    """``exp(-x*x)``, the square split into an exact part and a small rest so that its rounding is not amplified."""
    coarse = np.trunc(x * 16) / 16
    return exp(-coarse * coarse) * exp(-(x - coarse) * (x + coarse))


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    numerator, denominator = coefficients
    return np.polyval(np.array(numerator), x) / np.polyval(np.array(denominator), x)


# Names under which transformers knows the same functions
swish = silu
gelu_python = gelu
gelu_accurate = gelu_new = gelu_python_tanh = gelu_pytorch_tanh

# transformers.activations.ACT2FN without "prelu" and "xielu", which have parameters of their own
ACTIVATIONS: Mapping[str, Elementwise] = MappingProxyType(
    {
        "gelu": gelu,
        "gelu_10": gelu_10,
        "gelu_accurate": gelu_accurate,
        "gelu_fast": gelu_fast,
        "gelu_new": gelu_new,
        "gelu_python": gelu_python,
        "gelu_python_tanh": gelu_python_tanh,
        "gelu_pytorch_tanh": gelu_pytorch_tanh,
        "hardswish": hardswish,
        "laplace": laplace,
        "leaky_relu": leaky_relu,
        "linear": linear_activation,
        "mish": mish,
        "quick_gelu": quick_gelu,
        "relu": relu,
        "relu2": relu2,
        "relu6": relu6,
        "sigmoid": sigmoid,
        "silu": silu,
        "sqrtsoftplus": sqrtsoftplus,
        "swish": swish,
        "tanh": tanh,
    }
)
