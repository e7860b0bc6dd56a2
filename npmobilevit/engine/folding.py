"""Identities that move work from every forward pass into the weights, once.

Each function states an identity ``layer(x) == other_layer(x')`` for all x, with its proof, and is computed in float64,
so that the rounding to float32 at the end is the only one. Weights are (M, K, ...), biases (M,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.ops.arrays import Array
from npmobilevit.ops.norm import BATCH_NORM_EPS

Weights: TypeAlias = Mapping[str, Array]
Doubles: TypeAlias = NDArray[np.float64]
Floats: TypeAlias = NDArray[np.float32]


class Affine(NamedTuple):
    """A linear or convolutional layer and its bias."""

    weight: Doubles  # (M, K) or (M, K, kernel, kernel)
    bias: Doubles  # (M,)


class Exponential(NamedTuple):
    """A function f and a number a with ``f(a * u) == exp(-u)``: two to the power, or the exponential itself.

    NumPy has fast code for ``exp`` in float32 on every processor, and code of twice that speed for ``exp2`` on some.
    Networks are folded for the one in use, so that neither costs a multiplication.
    """

    function: Callable[..., Any]
    scale: float


def fastest_exponential() -> Exponential:
    """``exp2`` where NumPy has vector code for it on this processor, else ``exp``."""
    found = np.lib.introspect.opt_func_info(func_name="^exp2$", signature="^float32$")
    targets = [implementation["current"] for implementation in found.get("exp2", {}).values()]
    if targets and not targets[0].startswith("baseline"):
        return Exponential(np.exp2, -math.log2(math.e))
    return Exponential(np.exp, -1.0)


def linear(weights: Weights, name: str) -> Affine:
    """The linear layer of a name; zeros stand for a bias that it does not have."""
    weight = np.asarray(weights[f"{name}.weight"], np.float64)
    bias = weights.get(f"{name}.bias")
    return Affine(weight, np.zeros(len(weight)) if bias is None else np.asarray(bias, np.float64))


def convolution(weights: Weights, name: str) -> Affine:
    """The convolution of a layer, with its batch normalisation folded into it if there is one.

    ``gamma * (W x + b - mean) / s + beta == (gamma / s * W) x + (gamma / s * (b - mean) + beta)``, with
    ``s = sqrt(variance + eps)``: both are affine in x.
    """
    weight, bias = linear(weights, f"{name}.convolution")
    norm = f"{name}.normalization"
    if f"{norm}.weight" not in weights:
        return Affine(weight, bias)
    beta, mean = (np.asarray(weights[f"{norm}.{leaf}"], np.float64) for leaf in ("bias", "running_mean"))
    factor = batch_norm_factor(weights, norm)
    return Affine(weight * _along_outputs(factor, weight), (bias - mean) * factor + beta)


def batch_norm_factor(weights: Weights, norm: str) -> Doubles:
    """What a batch normalisation multiplies each channel by, ``gamma / sqrt(variance + eps)``. -> (C,)."""
    gamma, variance = (np.asarray(weights[f"{norm}.{leaf}"], np.float64) for leaf in ("weight", "running_var"))
    return np.asarray(gamma / np.sqrt(variance + BATCH_NORM_EPS))


def rescaled(layer: Affine, *, inputs: float | Doubles = 1.0, outputs: float = 1.0) -> Affine:
    """The layer between maps that are stored as multiples of what they stand for.

    With ``x' = s * x`` and ``y' = t * y``: ``y' == (t * W / s) x' + t * b`` if ``y == W x + b``. This is how SiLU
    becomes three passes over its values: with f and a of an :class:`Exponential` and ``z = a * u``,
    ``z / (1 + f(z)) == a * u / (1 + exp(-u)) == a * silu(u)``, and both factors a are in the weights around it.

    Parameters
    ----------
    layer : Affine
    inputs : float or (K,) array
        The multiple s that each input channel is stored as.
    outputs : float
        The multiple t that the output is to be stored as.
    """
    factor = outputs / np.asarray(inputs, np.float64)
    shape = (1, -1, *(1,) * (layer.weight.ndim - 2)) if factor.ndim else ()
    return Affine(layer.weight * factor.reshape(shape), layer.bias * outputs)


def centred(layer: Affine) -> Affine:
    """The layer with the mean over its outputs taken away: ``C (W x + b)``, ``C = I - 1 1^T / M``.

    Layer normalisation begins with C, and ``C C == C``. The sum of centred values is centred. So if all that is added
    to a residual stream is centred where it is made, its layer normalisations need not subtract a mean.
    """
    return Affine(layer.weight - layer.weight.mean(axis=0), layer.bias - layer.bias.mean())


def after_layer_norm(layer: Affine, gamma: Array, beta: Array) -> Affine:
    """The layer that takes ``n`` in place of ``gamma * n + beta``.

    ``W (gamma * n + beta) + b == (W * gamma) n + (W beta + b)``.
    """
    gamma, beta = np.asarray(gamma, np.float64), np.asarray(beta, np.float64)
    return Affine(layer.weight * gamma, layer.weight @ beta + layer.bias)


def with_constant_row(layer: Affine) -> Floats:
    """The layer as one matrix (M, K + 1) for inputs whose last row is constant.

    ``[W b] [x; 1] == W x + b``: the bias costs no pass. Where the row holds 0 in place of 1, and x is 0, so is the
    output: a row of ones at the pixels of a map and zeros at its margin keeps the margin zero.
    """
    weight = layer.weight.reshape(len(layer.weight), -1)
    return np.ascontiguousarray(np.concatenate([weight, layer.bias[:, np.newaxis]], axis=1), np.float32)


def query_key_value(query: Affine, key: Affine, value: Affine, num_heads: int, exponential: Exponential) -> Affine:
    """Three projections as one, ready for ``softmax(scores) @ value`` without a pass for scale, sum or base.

    Rows: D of the query, D of the key, and d + 1 of the value for each head (d = D / num_heads).

    - ``softmax(q^T k / sqrt(d))`` is made of ``exp(q^T k / sqrt(d)) == f(q'^T k)`` with ``q' = -a / sqrt(d) * q``.
    - The last row of each head's values is 1 (weight 0, bias 1), so that the last row of ``values @ f(scores)`` is
      the sum of f(scores): the denominator of the softmax.
    """
    d = len(value.weight) // num_heads
    query = rescaled(query, outputs=-exponential.scale / math.sqrt(d))
    layers = [query, key]
    ones = Affine(np.zeros((1, value.weight.shape[1])), np.ones(1))
    for start in range(0, len(value.weight), d):
        layers += [Affine(value.weight[start : start + d], value.bias[start : start + d]), ones]
    return Affine(np.concatenate([x.weight for x in layers]), np.concatenate([x.bias for x in layers]))


def after_attention(layer: Affine, num_heads: int) -> Floats:
    """The output projection (M, num_heads * (d + 1)) of heads that carry their denominators along.

    Divided by itself, the denominator of a head is 1. In the first head it takes the bias, as in
    :func:`with_constant_row`; in the others its weight is 0.
    """
    heads = layer.weight.reshape(len(layer.weight), num_heads, -1)  # (M, h, d)
    last = np.zeros((len(layer.weight), num_heads, 1))
    last[:, 0, 0] = layer.bias
    return np.ascontiguousarray(np.concatenate([heads, last], axis=2).reshape(len(layer.weight), -1), np.float32)


# Winograd's F(2x2, 3x3) as in Lavin and Gray, arXiv 1509.09308, section 4.1: y = A^T ((G g G^T) * (B^T d B)) A.
WINOGRAD_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def winograd(weight: Doubles) -> Floats:
    """The kernels (M, K, 3, 3) of a convolution as 16 matrices (16, M, K): ``G g G^T``, coefficient by coefficient."""
    outputs, inputs = weight.shape[:2]
    both = np.kron(WINOGRAD_G, WINOGRAD_G)  # (16, 9): of a kernel as a row, G g G^T as a row
    transformed = np.empty((16, outputs, inputs), np.float32)
    for start in range(0, outputs, 32):  # some output channels at a time, for little memory
        kernels = weight[start : start + 32].reshape(-1, 9)
        transformed[:, start : start + 32] = (both @ kernels.T).reshape(16, -1, inputs)
    return transformed


def _along_outputs(factor: Doubles, weight: Doubles) -> Doubles:
    return factor.reshape(-1, *(1,) * (weight.ndim - 1))
