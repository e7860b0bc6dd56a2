"""The operators whose results depend on the machine, computed so that they do not.

A BLAS adds the terms of a product of matrices in an order that follows from the processor, the number of threads and
the shapes, and rounds after each; ``np.exp`` is another polynomial on another processor. Here nothing is rounded but in
steps that IEEE 754 defines to the last bit (one addition, multiplication, division or square root), in an order that is
written down:

- factors of a matrix product are cut into whole numbers so small that every sum of their products is exact, in whatever
  order it is taken (:func:`matmul`; the idea of Ozaki, Ogita, Oishi and Rump, Numerical Algorithms 59, 2012);
- the exponential is a fixed polynomial (:func:`exp`), other sums are folded in halves (:func:`sum_last_axis`).

All arrays are float64, and finite: what becomes of NaN and infinity is left to the machine. Values are kept within
2**-900 and 2**1000, as those of networks are. What is not here needs no other form: additions, batch
normalisation and bilinear resizing consist of such steps already. Shapes are those of the operators of the same name in
:mod:`npmobilevit.ops`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from npmobilevit.ops.activation import normal_cdf
from npmobilevit.ops.arrays import Array
from npmobilevit.ops.conv import convolve

SIGNIFICAND_BITS = 53  # of float64: whole numbers up to 2**53 are exact
LOWEST_EXPONENT = -900  # no row is cut finer, so that no factor of a cut is infinite; what is far below vanishes

LOG2_E = float.fromhex("0x1.71547652b82fep+0")  # in bits, as everything here: no mathematical library is asked
# ln 2 = LN2_HIGH + LN2_LOW; n * LN2_HIGH is exact, as LN2_HIGH has 32 bits and n at most 11
LN2_HIGH, LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
EXP_COEFFICIENTS = tuple(1 / math.factorial(i) for i in range(13, -1, -1))  # the rest is below 2**-57 for |r| < 0.35
EXP_ZERO_BELOW = -708.0  # exp(-708) is still a normal number
BLOCK = 2**13  # elements of an elementwise function that stay in the cache together


# Products -----------------------------------------------------------------------------------------------------------


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """Product of matrices with the same bits everywhere. (..., M, K), (..., K, N) -> (..., M, N).

    Rows of `a` and columns of `b` are cut to two whole numbers each of (53 - log2 K) / 2 bits, so that all four sums
    of K products stay below 2**53: they are exact. What is beyond the second cut is rounded off, for K = 144 an error
    of at most 2**-44 of the largest value of the row or column. K must be at least 1. `out` is where to put it.
    """
    bits = (SIGNIFICAND_BITS - (a.shape[-1] - 1).bit_length()) // 2
    a_high, a_low, a_step = _cut(a, bits, axis=-1)
    b_high, b_low, b_step = _cut(b, bits, axis=-2)
    y: Array = np.matmul(a_low, b_low, out=out)
    y *= 2.0**-bits
    y += 0.0  # a sum of products that are all -0 may be either zero, and is +0 from here on
    y += a_high @ b_low + a_low @ b_high
    y *= 2.0**-bits
    y += a_high @ b_high
    y *= a_step
    y *= b_step
    return y


def _cut(x: Array, bits: int, axis: int) -> tuple[Array, Array, Array]:
    """`x` as ``(high + low * 2**-bits) * step``: whole numbers of at most 2**bits, and one step along `axis`."""
    largest = np.maximum(x.max(axis, keepdims=True), -x.min(axis, keepdims=True))
    exponent = np.maximum(np.frexp(largest)[1], LOWEST_EXPONENT)  # largest < 2**exponent
    scaled = x * np.ldexp(1.0, bits - exponent)  # exact: a power of two
    high = np.rint(scaled)
    scaled -= high
    scaled *= 2.0**bits
    return high, np.rint(scaled, out=scaled), np.ldexp(1.0, exponent - bits)


def weighted_sum(kernels: Array, columns: Array, out: Array) -> None:
    """One kernel a group: what it sees times its weights, added up from the first to the last.

    (G, 1, K) and (G, K, N), put into (G, 1, N).
    """
    out[:] = 0
    for k in range(columns.shape[1]):
        out += columns[:, np.newaxis, k] * kernels[..., k, np.newaxis]


def conv2d(x: Array, *, weight: Array, groups: int = 1, **options: Any) -> Array:
    """:func:`npmobilevit.ops.conv2d`. The few terms of a depthwise convolution are added up one after the other."""
    depthwise = weight.shape[1] == 1 and weight.shape[0] == groups
    return convolve(weighted_sum if depthwise else matmul, x, weight=weight, groups=groups, **options)


def linear(x: Array, *, weight: Array, bias: Array | None = None) -> Array:
    """:func:`npmobilevit.ops.linear`."""
    y = matmul(x, weight.T)
    if bias is not None:
        y += bias
    return y


def attention_scores(query: Array, key: Array) -> Array:
    """:func:`npmobilevit.ops.attention_scores`."""
    scores = matmul(query, key.swapaxes(-1, -2))
    scores /= math.sqrt(query.shape[-1])
    return scores


def attend(probs: Array, value: Array) -> Array:
    """:func:`npmobilevit.ops.attend`."""
    return matmul(probs, value)


# Sums ---------------------------------------------------------------------------------------------------------------


def sum_last_axis(x: Array) -> Array:
    """Sum over the last axis: the second half is added to the first until one value is left. (..., n) -> (..., 1)."""
    while (n := x.shape[-1]) > 1:
        half = (n + 1) // 2
        folded = x[..., :half].copy()
        folded[..., : n - half] += x[..., half:]
        x = folded
    return x


def layer_norm(x: Array, *, weight: Array, bias: Array, eps: float) -> Array:
    """:func:`npmobilevit.ops.layer_norm`."""
    centred: Array = x - sum_last_axis(x) / x.shape[-1]
    variance = sum_last_axis(np.square(centred)) / x.shape[-1]
    centred /= np.sqrt(variance + eps)
    centred *= weight
    centred += bias
    return centred


def softmax(x: Array) -> Array:
    """:func:`npmobilevit.ops.softmax` along the last axis."""
    y = exp(x - x.max(axis=-1, keepdims=True))
    y /= sum_last_axis(y)
    return y


def global_avg_pool(x: Array) -> Array:
    """:func:`npmobilevit.ops.global_avg_pool`."""
    flat = x.reshape(*x.shape[:2], -1)  # (N, C, H*W)
    return np.asarray(sum_last_axis(flat)[..., 0] / flat.shape[-1])


# Functions of one value ---------------------------------------------------------------------------------------------


def _in_blocks(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The function, applied to pieces small enough for the cache: it goes over each many times."""

    @functools.wraps(function)
    def run(x: Array) -> Array:
        flat = x.reshape(-1)
        y = np.empty_like(flat)
        for start in range(0, flat.size, BLOCK):
            y[start : start + BLOCK] = function(flat[start : start + BLOCK])
        return y.reshape(x.shape)

    return run


def _exp(x: Array) -> Array:
    x = np.maximum(x, EXP_ZERO_BELOW - 1)
    n = np.rint(x * LOG2_E)  # at least -1023
    r = x - n * LN2_HIGH
    r -= n * LN2_LOW  # |r| <= ln(2) / 2
    y: Array = np.full_like(r, EXP_COEFFICIENTS[0])
    for coefficient in EXP_COEFFICIENTS[1:]:
        y *= r
        y += coefficient
    y *= ((n.astype(np.int64) + 1023) << 52).view(np.float64)  # 2**n, from its exponent's bits
    y[x < EXP_ZERO_BELOW] = 0
    return y


@_in_blocks
def exp(x: Array) -> Array:
    """``exp(x)`` of values not above zero, to 2 units in the last place; zero below -708."""
    return _exp(x)


@_in_blocks
def silu(x: Array) -> Array:
    """:func:`npmobilevit.ops.silu`."""
    decay = _exp(-np.abs(x))
    y: Array = np.where(x < 0, decay, 1.0)
    decay += 1
    y /= decay
    y *= x
    return y


def relu(x: Array) -> Array:
    """:func:`npmobilevit.ops.relu`; of both zeros it makes +0."""
    return np.where(x <= 0, 0.0, x)


@_in_blocks
def gelu(x: Array) -> Array:
    """:func:`npmobilevit.ops.gelu`."""
    return x * normal_cdf(x, _exp)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"gelu": gelu, "gelu_python": gelu, "relu": relu, "silu": silu, "swish": silu}
)
