"""Measure how close honest arithmetic comes to the tolerances of npmobilevit.validation.bounds. Needs NumPy alone.

    python tools/measure_tolerances.py --output reference/measured/tolerances.json

Every operator is computed in the ways in which sound implementations differ (order of the sum, formula of the
function), on shapes of the published networks and three kinds of data, and compared with float64. Per operator and
number of terms n, the result is the ratio of the "fail" line to the largest error of all ways and data: below 1 it
would be a false alarm, a large one lets mistakes pass. The ways are also compared with "usual", of which 0.3 to 2 is
expected. Sums in order of size are the worst that an honest order can do and are reported apart. Other profiles are
measured with fewer ways. Exit code 1 if anything is beyond its "fail" line. Takes about a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit import ops
from npmobilevit.validation.bounds import Arithmetic, Bounded, Tier
from npmobilevit.validation.profiles import PROFILES

Array: TypeAlias = NDArray[Any]
Inputs: TypeAlias = Mapping[str, Array]
Results: TypeAlias = Iterator[tuple[str, Array]]  # name of a way to compute something, and what it gives
Sums: TypeAlias = Callable[[Array, Array], Results]

KINDS = ("signs", "activations", "positive")
WORST_ORDER = "sorted"
PARAMETERS = ("weight", "bias", "running_mean", "running_var")
RATIO_WANTED, TERMS_WANTED = 100, 2880


# ---- data ------------------------------------------------------------------------------------------------------------


def activations(kind: str, rng: np.random.Generator, *shape: int) -> Array:
    """What a layer may get: random signs, what SiLU leaves, or nothing below zero."""
    x = rng.standard_normal(shape)
    if kind == "activations":
        x = ops.silu(2 * x)
    elif kind == "positive":
        x = rng.random(shape)
    return x.astype(np.float32)


def weights(kind: str, rng: np.random.Generator, *shape: int) -> Array:
    """Well-scaled weights; like trained ones, with long tails and channels of different size; or positive ones."""
    scale = 1 / math.sqrt(math.prod(shape[1:]))
    w = rng.standard_normal(shape)
    if kind == "activations":
        w = rng.laplace(size=shape) * np.exp(0.5 * rng.standard_normal((shape[0], *(1,) * (len(shape) - 1))))
    elif kind == "positive":
        w = rng.random(shape)
    return (w * scale).astype(np.float32)


def per_channel(kind: str, rng: np.random.Generator, channels: int) -> dict[str, Array]:
    """Parameters of a normalisation."""
    sign = np.abs if kind == "positive" else np.asarray
    found = {
        "weight": 1 + 0.3 * rng.standard_normal(channels),
        "bias": sign(0.3 * rng.standard_normal(channels)),
        "running_mean": sign(0.5 * rng.standard_normal(channels)),
        "running_var": np.exp(rng.standard_normal(channels)),
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


# ---- sums of products: left (G, M, n) times right (G, n, P), in the dtype of both ------------------------------------


def term(left: Array, right: Array, k: int) -> Array:
    return left[:, :, k, np.newaxis] * right[:, k, np.newaxis, :]


def one_after_another(left: Array, right: Array, order: Sequence[int]) -> Array:
    total = term(left, right, order[0])
    for k in order[1:]:
        total += term(left, right, k)
    return total


def in_groups(left: Array, right: Array, groups: Sequence[Sequence[int]]) -> Array:
    """A sum for each group of terms, then the sum of these."""
    total = one_after_another(left, right, groups[0])
    for group in groups[1:]:
        total += one_after_another(left, right, group)
    return total


def in_pairs(left: Array, right: Array, start: int, stop: int) -> Array:
    if stop - start == 1:
        return term(left, right, start)
    middle = (start + stop) // 2
    return in_pairs(left, right, start, middle) + in_pairs(left, right, middle, stop)


def fused(left: Array, right: Array) -> Array:
    """One rounding a term, as a fused multiply-add has."""
    wide_left, wide_right = left.astype(np.float64), right.astype(np.float64)
    total = term(wide_left, wide_right, 0).astype(left.dtype)
    for k in range(1, left.shape[-1]):
        total = (total + term(wide_left, wide_right, k)).astype(left.dtype)
    return total


def cut_off(left: Array, right: Array, *, step: int = 4) -> Array:
    """As in tensor cores: a few terms at a time are added exactly, and digits beyond float32 are cut off."""
    wide_left, wide_right = left.astype(np.float64), right.astype(np.float64)
    total = np.zeros((*left.shape[:2], right.shape[-1]))
    for k in range(0, left.shape[-1], step):
        total += wide_left[:, :, k : k + step] @ wide_right[:, k : k + step]
        total = toward_zero(total)
    return total.astype(np.float32)


def toward_zero(x: Array) -> Array:
    """Cut float64 numbers off to float32 precision."""
    return (x.view(np.uint64) & np.uint64(2**64 - 2**29)).view(np.float64)


def by_size(left: Array, right: Array) -> Array:
    """All negative terms first: no order keeps larger partial sums."""
    terms = np.stack([term(left, right, k) for k in range(left.shape[-1])])
    terms.sort(axis=0)
    total: Array = terms[0]
    for value in terms[1:]:
        total += value
    return total


def honest_sums(left: Array, right: Array) -> Results:
    n = left.shape[-1]
    forward = range(n)
    yield "blas", left @ right
    yield "sequential", one_after_another(left, right, forward)
    yield "reversed", one_after_another(left, right, forward[::-1])
    yield "permuted", one_after_another(left, right, np.random.default_rng(n).permutation(n).tolist())
    yield "pairwise", in_pairs(left, right, 0, n)
    yield "blocks of 32", in_groups(left, right, [forward[start : start + 32] for start in range(0, n, 32)])
    yield "split in 4", in_groups(left, right, [forward[start::4] for start in range(min(4, n))])
    yield "fused", fused(left, right)
    yield WORST_ORDER, by_size(left, right)


def float32_sums(left: Array, right: Array) -> Results:
    """A few of them for operands that were rounded before, and that of tensor cores."""
    yield "blas", left @ right
    yield "sequential", one_after_another(left, right, range(left.shape[-1]))
    yield "tensor core", cut_off(left, right)


def float16_sums(left: Array, right: Array) -> Results:
    yield "sequential", one_after_another(left, right, range(left.shape[-1]))
    yield "pairwise", in_pairs(left, right, 0, left.shape[-1])


def exact_sums(left: Array, right: Array) -> Results:
    yield "exact", left @ right


# ---- rounding to other formats ---------------------------------------------------------------------------------------


def float16(x: Array) -> Array:
    return x.astype(np.float16).astype(np.float32)


def bits_kept(x: Array, bits: int, *, cut: bool = False) -> Array:
    """Float32 numbers with so many bits fewer than 32: to nearest even, or cut off."""
    spare = 32 - bits
    pattern = np.ascontiguousarray(x, np.float32).view(np.uint32)
    if not cut:
        half = np.uint32(2 ** (spare - 1) - 1)
        pattern = pattern + half + ((pattern >> np.uint32(spare)) & np.uint32(1))
    return (pattern & np.uint32(2**32 - 2**spare)).view(np.float32)


def bfloat16(x: Array) -> Array:
    return bits_kept(x, 16)


def tf32(x: Array) -> Array:
    return bits_kept(x, 19)


def tf32_cut(x: Array) -> Array:
    return bits_kept(x, 19, cut=True)


def int8_activations(x: Array, *, steps: int) -> Array:
    """Rounded to `steps` steps between the smallest and the largest value, zero being one of them."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / steps or 1.0
    zero = round(-low / step)
    return ((np.clip(np.rint(x / step) + zero, 0, steps) - zero) * step).astype(np.float64)


def int8_weights(w: Array, *, per_row: bool) -> Array:
    """Rounded to 127 steps on either side of zero: of the whole, or of each output channel."""
    size = np.abs(w).max(axis=-1, keepdims=True) if per_row else np.abs(w).max()
    step = np.maximum(size, 1e-30).astype(np.float64) / 127
    return np.asarray(np.rint(w / step) * step)


# ---- cases: an operator, its inputs, and the ways to compute it ------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """An operator on some inputs.

    Attributes
    ----------
    op, data : str
    n : int
        Terms that are added up in an element.
    inputs : mapping of str to float32 array
    bounded : callable (arithmetic, inputs as Bounded)
    summed : callable (inputs, sums), gives (name, result) pairs
        Of an inner product: by each way to sum.
    formulas : callable (inputs), gives (name, result) pairs
        Of a function, or further ones of an inner product; in the dtype of the inputs.
    """

    op: str
    data: str
    n: int
    inputs: Inputs
    bounded: Callable[[Arithmetic, Any], Bounded]
    formulas: Callable[[Inputs], Results] | None = None
    summed: Callable[[Inputs, Sums], Results] | None = None

    def expected(self, profile: str, tier: Tier) -> Bounded:
        inputs = {name: Bounded(value.astype(np.float64)) for name, value in self.inputs.items()}
        return self.bounded(Arithmetic(PROFILES[profile], tier), inputs)

    def ways(self, inputs: Inputs, sums: Sums) -> Results:
        if self.summed is not None:
            yield from self.summed(inputs, sums)
        if self.formulas is not None:
            yield from self.formulas(inputs)


def columns(x: Array, size: int, *, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1) -> Array:
    """What the kernel of a convolution sees at each place: (N, C, H, W) -> (groups, C/groups*size*size, N*H'*W')."""
    channels = x.shape[1]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    reach = dilation * (size - 1)
    seen = [
        x[:, :, i * dilation : x.shape[2] - reach + i * dilation : stride,
          j * dilation : x.shape[3] - reach + j * dilation : stride]
        for i in range(size) for j in range(size)
    ]  # fmt: skip
    stacked = np.stack(seen, axis=2).transpose(1, 2, 0, 3, 4)  # (C, size*size, N, H', W')
    return stacked.reshape(groups, channels // groups * size * size, -1)


def convolution(
    op: str, data: str, x: tuple[int, ...], weight: tuple[int, ...], *, bias: bool = False, **geometry: int
) -> Case:
    rng = np.random.default_rng([*x, *weight])
    inputs = {"x": activations(data, rng, *x), "weight": weights(data, rng, *weight)}
    if bias:
        inputs["bias"] = weights(data, rng, weight[0])

    def summed(given: Inputs, sums: Sums) -> Results:
        for name, y in sums(*factors(given, **geometry)):
            yield name, y.reshape(weight[0], x[0], -1).swapaxes(0, 1)

    def bounded(arithmetic: Arithmetic, given: Any) -> Bounded:
        y = arithmetic.conv2d(**given, **geometry)
        return y.moved(lambda a: a.reshape(*a.shape[:2], -1))

    return Case(op, data, math.prod(weight[1:]) + bias, inputs, bounded, summed=summed)


def factors(given: Inputs, **geometry: int) -> tuple[Array, Array]:
    """A convolution as a product of matrices, the bias being one more term."""
    weight = given["weight"]
    groups = geometry.get("groups", 1)
    left = weight.reshape(groups, weight.shape[0] // groups, -1)
    right = columns(given["x"], weight.shape[-1], **geometry)
    return with_bias(left, right, given.get("bias"))


def with_bias(left: Array, right: Array, bias: Array | None) -> tuple[Array, Array]:
    if bias is None:
        return left, right
    left = np.concatenate([left, bias.reshape(1, -1, 1)], axis=2)
    return left, np.concatenate([right, np.ones_like(right[:, :1])], axis=1)


def linear(data: str, tokens: int, width: int, width_out: int) -> Case:
    rng = np.random.default_rng([tokens, width, width_out])
    inputs = {
        "x": activations(data, rng, tokens, width),
        "weight": weights(data, rng, width_out, width),
        "bias": weights(data, rng, width_out),
    }

    def summed(given: Inputs, sums: Sums) -> Results:
        for name, y in sums(*with_bias(given["weight"][np.newaxis], given["x"].T[np.newaxis], given["bias"])):
            yield name, y[0].T

    return Case("linear", data, width + 1, inputs, lambda a, i: a.linear(**i), summed=summed)


def attention_scores(data: str, tokens: int, width: int) -> Case:
    rng = np.random.default_rng([tokens, width])
    inputs = {name: activations(data, rng, 1, 4, tokens, width) for name in ("query", "key")}

    def factors(given: Inputs) -> tuple[Array, Array, Any]:
        return given["query"][0], given["key"][0].swapaxes(1, 2), given["query"].dtype.type(math.sqrt(width))

    def summed(given: Inputs, sums: Sums) -> Results:
        query, key, root = factors(given)
        for name, y in sums(query, key):
            yield name, y / root

    def formulas(given: Inputs) -> Results:
        query, key, root = factors(given)
        yield "scaled before", (query * (1 / root)) @ key
        yield "both scaled", (query / np.sqrt(root)) @ (key / np.sqrt(root))
        yield "times reciprocal", (query @ key) * (1 / root)

    def bounded(arithmetic: Arithmetic, given: Any) -> Bounded:
        return arithmetic.attention_scores(**given).whole()[0]

    return Case("attention_scores", data, width, inputs, bounded, formulas, summed)


def attend(data: str, tokens: int, width: int) -> Case:
    rng = np.random.default_rng([tokens, width, 1])
    probs = ops.softmax(2 * activations(data, rng, 1, 2, tokens, tokens).astype(np.float64))[:, :, : 2**11 // width]
    inputs = {"probs": probs.astype(np.float32), "value": activations(data, rng, 1, 2, tokens, width)}

    def summed(given: Inputs, sums: Sums) -> Results:
        return sums(given["probs"][0], given["value"][0])

    return Case("attend", data, tokens, inputs, lambda a, i: a.attend(**i)[0], summed=summed)


def attention(data: str, tokens: int, width: int) -> Case:
    """Scores, softmax and average in one kernel: nothing between them can be seen, and their bounds are carried."""
    rng = np.random.default_rng([tokens, width, 2])
    inputs = {name: activations(data, rng, 1, 4, tokens, width) for name in ("query", "key", "value")}

    def formulas(given: Inputs) -> Results:
        query, key, value = (given[name][0] for name in inputs)
        scores = query @ key.swapaxes(1, 2) / query.dtype.type(math.sqrt(width))
        yield "in three steps", softmax(scores) @ value
        yield "divided last", divided_last(scores, value)
        yield "online", online_attention(scores, value)

    def bounded(arithmetic: Arithmetic, given: Any) -> Bounded:
        probs = arithmetic.softmax(arithmetic.attention_scores(given["query"], given["key"]))
        return arithmetic.attend(probs, given["value"])[0]

    return Case("attention (region)", data, tokens, inputs, bounded, formulas)


def folded_normalization(data: str, x: tuple[int, ...], weight: tuple[int, ...]) -> Case:
    """A normalisation folded into the convolution before it."""
    rng = np.random.default_rng([*x, *weight, 3])
    inputs = {"x": activations(data, rng, *x), "kernels": weights(data, rng, *weight)}
    inputs |= per_channel(data, rng, weight[0])

    def formulas(given: Inputs) -> Results:
        parameters = {name: given[name] for name in PARAMETERS}
        kernels = given["kernels"].reshape(weight[0], -1)
        for name, dtype in (("folded in float32", given["x"].dtype), ("folded in float64", np.dtype(np.float64))):
            scale, shift = scale_and_shift({name: value.astype(dtype) for name, value in parameters.items()})
            left = (kernels * scale[:, np.newaxis]).astype(kernels.dtype)[np.newaxis]
            right = columns(given["x"], weight[-1], padding=weight[-1] // 2)
            left, right = with_bias(left, right, shift.astype(kernels.dtype))
            yield name, left @ right
            yield f"{name}, sequential", one_after_another(left, right, range(left.shape[-1]))

    def bounded(arithmetic: Arithmetic, given: Any) -> Bounded:
        y = arithmetic.conv2d(given["x"], weight=given["kernels"], padding=weight[-1] // 2)
        y = arithmetic.batch_norm(y, **{name: given[name] for name in PARAMETERS})
        return y.moved(lambda a: a.reshape(1, a.shape[1], -1))

    return Case("conv2d and batch_norm (region)", data, math.prod(weight[1:]), inputs, bounded, formulas)


# ---- functions, by the formulas in use; all keep the dtype -----------------------------------------------------------


def softmax(x: Array) -> Array:
    y = np.exp(x - x.max(-1, keepdims=True))
    return y / y.sum(-1, keepdims=True)


def online_softmax(x: Array, block: int) -> Array:
    """Largest value and sum in one pass over the blocks, the sum rescaled whenever a larger value comes."""
    largest, total = online_sums(x, block)
    return np.exp(x - largest) / total


def online_sums(x: Array, block: int) -> tuple[Array, Array]:
    largest = np.full((*x.shape[:-1], 1), -np.inf, x.dtype)
    total = np.zeros_like(largest)
    for start in range(0, x.shape[-1], block):
        part = x[..., start : start + block]
        larger = np.maximum(largest, part.max(-1, keepdims=True))
        total = total * np.exp(largest - larger) + np.exp(part - larger).sum(-1, keepdims=True)
        largest = larger
    return largest, total


def divided_last(scores: Array, value: Array) -> Array:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return (powers @ value) / powers.sum(-1, keepdims=True)


def online_attention(scores: Array, value: Array, block: int = 16) -> Array:
    largest = np.full((*scores.shape[:-1], 1), -np.inf, scores.dtype)
    total = np.zeros_like(largest)
    y = np.zeros((*scores.shape[:-1], value.shape[-1]), scores.dtype)
    for start in range(0, scores.shape[-1], block):
        part = scores[..., start : start + block]
        larger = np.maximum(largest, part.max(-1, keepdims=True))
        powers, before = np.exp(part - larger), np.exp(largest - larger)
        total = total * before + powers.sum(-1, keepdims=True)
        y = y * before + powers @ value[..., start : start + block, :]
        largest = larger
    return y / total


def softmax_ways(given: Inputs) -> Results:
    x = given["x"]
    powers = np.exp(x - x.max(-1, keepdims=True))
    bare = np.exp(x)
    yield "less maximum", powers / powers.sum(-1, keepdims=True)
    yield "sum one by one", powers / in_turn(powers)
    yield "times reciprocal", powers * (1 / powers.sum(-1, keepdims=True))
    yield "without maximum", bare / bare.sum(-1, keepdims=True)
    yield "online, one by one", online_softmax(x, 1)
    yield "online, in blocks", online_softmax(x, 16)
    twos = np.exp2((x - x.max(-1, keepdims=True)) * x.dtype.type(math.log2(math.e)))
    yield "powers of two", twos / twos.sum(-1, keepdims=True)


def in_turn(x: Array) -> Array:
    """Sum along the last axis, one value after another."""
    return np.add.accumulate(x, axis=-1)[..., -1:]


def layer_norm_ways(given: Inputs) -> Results:
    x, g, b = (given[name] for name in ("x", "weight", "bias"))
    one, eps, width = x.dtype.type(1), x.dtype.type(1e-5), x.dtype.type(x.shape[-1])
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    variance = np.square(centred).mean(-1, keepdims=True)
    inverse = one / np.sqrt(variance + eps)
    yield "two passes", centred / np.sqrt(variance + eps) * g + b
    yield "times reciprocal", centred * inverse * g + b
    yield "scale and shift", (x * inverse + -mean * inverse) * g + b
    yield "one scale", x * (inverse * g) + (b - mean * (inverse * g))
    slow = in_turn(x) / width
    slow_variance = in_turn(np.square(x - slow)) / width
    yield "sum one by one", (x - slow) / np.sqrt(slow_variance + eps) * g + b
    running, running_variance = welford(x)
    yield "Welford", (x - running) / np.sqrt(running_variance + eps) * g + b


def welford(x: Array) -> tuple[Array, Array]:
    """Mean and variance along the last axis, updated with each value."""
    mean, squares = np.zeros_like(x[..., :1]), np.zeros_like(x[..., :1])
    for k in range(x.shape[-1]):
        step = x[..., k : k + 1] - mean
        mean = mean + step / x.dtype.type(k + 1)
        squares = squares + step * (x[..., k : k + 1] - mean)
    return mean, squares / x.dtype.type(x.shape[-1])


def scale_and_shift(given: Inputs) -> tuple[Array, Array]:
    variance = given["running_var"] + given["running_var"].dtype.type(1e-5)
    scale = given["weight"] / np.sqrt(variance)
    return scale, given["bias"] - given["running_mean"] * scale


def batch_norm_ways(given: Inputs) -> Results:
    x = given["x"]
    g, b, mean, var = (given[name][:, np.newaxis, np.newaxis] for name in PARAMETERS)
    deviation = np.sqrt(var + x.dtype.type(1e-5))
    scale, shift = (a[:, np.newaxis, np.newaxis] for a in scale_and_shift(given))
    yield "scale and shift", x * scale + shift
    yield "centred, one scale", (x - mean) * scale + b
    yield "quotient", (x - mean) / deviation * g + b
    yield "times reciprocal", (x - mean) * (1 / deviation) * g + b


def silu_ways(given: Inputs) -> Results:
    x = given["x"]
    half = x.dtype.type(0.5)
    yield "quotient", x / (1 + np.exp(-x))
    yield "times sigmoid", x * (1 / (1 + np.exp(-x)))
    yield "by tanh", half * x * (1 + np.tanh(half * x))


def gelu_ways(given: Inputs) -> Results:
    x = given["x"]
    half = x.dtype.type(0.5)
    scaled = x * x.dtype.type(math.sqrt(0.5))
    yield "by erf", half * x * (1 + np.vectorize(math.erf)(scaled).astype(x.dtype))
    yield "by erfc", half * x * np.vectorize(math.erfc)(-scaled).astype(x.dtype)


def pool_ways(given: Inputs) -> Results:
    x = given["x"]
    flat = x.reshape(*x.shape[:2], -1)
    count = x.dtype.type(flat.shape[-1])
    yield "pairwise", flat.mean(-1)
    yield "sum one by one", in_turn(flat)[..., 0] / count
    yield "reversed", in_turn(flat[..., ::-1])[..., 0] / count
    yield "times reciprocal", in_turn(flat)[..., 0] * (1 / count)
    yield "each times reciprocal", in_turn(flat * (1 / count))[..., 0]
    yield "rows, then columns", x.mean(3).mean(2)


def resize_ways(given: Inputs, size: tuple[int, int]) -> Results:
    x = given["x"]
    yield "coordinates of torch", in_two_passes(x, *(torch_position(x, size, axis) for axis in (2, 3)))
    yield "rounded at each step", in_two_passes(x, *(rounded_position(x, size, axis) for axis in (2, 3)))
    exact = [(np.arange(size[axis - 2]) + 0.5) * (x.shape[axis] / size[axis - 2]) - 0.5 for axis in (2, 3)]
    yield "exact coordinates", in_two_passes(x, *exact)
    yield "a + w*(b - a)", by_differences(x, *exact)
    yield "four weights", with_four_weights(x, *exact)


def torch_position(x: Array, size: tuple[int, int], axis: int) -> Array:
    scale = np.float64(np.float32(x.shape[axis] / size[axis - 2]))
    return ((np.arange(size[axis - 2]) + 0.5) * scale - 0.5).astype(np.float32)


def rounded_position(x: Array, size: tuple[int, int], axis: int) -> Array:
    """The scale as reciprocal of the scale of sizes, and a rounding after each operation."""
    scale = 1 / np.float32(np.float32(size[axis - 2]) / np.float32(x.shape[axis]))
    half = np.float32(0.5)
    return (np.arange(size[axis - 2], dtype=np.float32) + half) * scale - half


def neighbours(position: Array, count: int, dtype: Any) -> tuple[Array, Array, Array]:
    position = np.maximum(position, 0)
    first = np.minimum(position.astype(np.intp), count - 1)
    weight = np.clip(position - first, 0, 1).astype(dtype)
    return first, np.minimum(first + 1, count - 1), weight


def in_two_passes(x: Array, rows: Array, columns_: Array) -> Array:
    first, second, weight = neighbours(columns_, x.shape[3], x.dtype)
    x = x[..., first] * (1 - weight) + x[..., second] * weight
    first, second, weight = neighbours(rows, x.shape[2], x.dtype)
    weight = weight[:, np.newaxis]
    return x[:, :, first] * (1 - weight) + x[:, :, second] * weight


def by_differences(x: Array, rows: Array, columns_: Array) -> Array:
    first, second, weight = neighbours(columns_, x.shape[3], x.dtype)
    x = x[..., first] + weight * (x[..., second] - x[..., first])
    first, second, weight = neighbours(rows, x.shape[2], x.dtype)
    return x[:, :, first] + weight[:, np.newaxis] * (x[:, :, second] - x[:, :, first])


def with_four_weights(x: Array, rows: Array, columns_: Array) -> Array:
    left, right, wx = neighbours(columns_, x.shape[3], x.dtype)
    top, bottom, wy = neighbours(rows, x.shape[2], x.dtype)
    wy = wy[:, np.newaxis]
    upper = x[:, :, top][..., left] * ((1 - wy) * (1 - wx)) + x[:, :, top][..., right] * ((1 - wy) * wx)
    return upper + x[:, :, bottom][..., left] * (wy * (1 - wx)) + x[:, :, bottom][..., right] * (wy * wx)


# ---- the cases -------------------------------------------------------------------------------------------------------


def inner_products(data: str) -> Iterator[Case]:
    """Shapes of the published networks; of the largest layers not all output channels."""
    yield convolution("conv2d 3x3, strided", data, (1, 3, 64, 64), (16, 3, 3, 3), stride=2, padding=1)
    for channels in (48, 96, 160, 320):
        yield convolution("conv2d 3x3", data, (1, channels, 8, 8), (64, channels, 3, 3), padding=1)
    yield convolution("conv2d 3x3, dilated", data, (1, 160, 16, 16), (16, 160, 3, 3), padding=6, dilation=6)
    for channels in (16, 64, 160, 640, 1280):
        yield convolution("conv2d 1x1", data, (1, channels, 8, 8), (64, channels, 1, 1))
    yield convolution("conv2d 1x1, bias", data, (1, 256, 16, 16), (21, 256, 1, 1), bias=True)
    for geometry in ({"stride": 1, "padding": 1}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2}):
        yield convolution("conv2d depthwise", data, (1, 128, 16, 16), (128, 1, 3, 3), groups=128, **geometry)
    for width, width_out in ((64, 192), (80, 80), (144, 144), (240, 240), (480, 240), (640, 1000)):
        yield linear(data, 2**13 // width_out, width, width_out)
    for tokens, width in ((16, 24), (64, 16), (64, 36), (64, 60)):
        yield attention_scores(data, tokens, width)
    for tokens, width in ((16, 24), (64, 20), (256, 16), (1024, 16)):
        yield attend(data, tokens, width)


def functions(data: str) -> Iterator[Case]:
    def case(op: str, n: int, inputs: Inputs, bounded: Any, formulas: Any) -> Case:
        return Case(op, data, n, inputs, bounded, formulas)

    rng = np.random.default_rng(4)
    for width in (16, 64, 256, 1024):
        inputs = {"x": 3 * activations(data, rng, 2**15 // width, width)}
        yield case("softmax", width, inputs, lambda a, i: a.softmax(i["x"]), softmax_ways)
    for width in (64, 96, 144, 240):
        inputs = {"x": 2 * activations(data, rng, 256, width)} | per_channel(data, rng, width)
        inputs = {name: inputs[name] for name in ("x", "weight", "bias")}
        yield case("layer_norm", width, inputs, lambda a, i: a.layer_norm(**i), layer_norm_ways)
    inputs = {"x": 2 * activations(data, rng, 1, 64, 32, 32)} | per_channel(data, rng, 64)
    yield case("batch_norm", 1, inputs, lambda a, i: a.batch_norm(**i), batch_norm_ways)
    wide = {"x": 4 * activations(data, rng, 2**16)}
    yield case("silu", 1, wide, lambda a, i: a.activation("silu", i["x"]), silu_ways)
    yield case("gelu", 1, wide, lambda a, i: a.activation("gelu", i["x"]), gelu_ways)
    yield case(
        "relu", 1, wide, lambda a, i: a.activation("relu", i["x"]), lambda i: iter([("maximum", ops.relu(i["x"]))])
    )
    inputs = {name: activations(data, rng, 2**16) for name in ("x", "y")}
    yield case("add", 2, inputs, lambda a, i: a.add(**i), lambda i: iter([("sum", i["x"] + i["y"])]))
    for side in (7, 8, 16, 32):
        inputs = {"x": activations(data, rng, 1, 640, side, side)}
        yield case("global_avg_pool", side * side, inputs, lambda a, i: a.global_avg_pool(i["x"]), pool_ways)
    for side, size in ((7, (8, 8)), (16, (15, 13)), (1, (16, 16)), (63, (64, 64)), (32, (511, 384))):
        inputs = {"x": activations(data, rng, 1, 2, side, side)}

        def resized(a: Arithmetic, i: Any, size: tuple[int, int] = size) -> Bounded:
            return a.resize_bilinear(i["x"], size)

        def formulas(i: Inputs, size: tuple[int, int] = size) -> Results:
            return resize_ways(i, size)

        yield case("resize_bilinear", 4, inputs, resized, formulas)


def regions(data: str) -> Iterator[Case]:
    for tokens, width in ((16, 24), (64, 20), (256, 16)):
        yield attention(data, tokens, width)
    for x, weight in (((1, 160, 8, 8), (64, 160, 1, 1)), ((1, 320, 8, 8), (64, 320, 3, 3))):
        yield folded_normalization(data, x, weight)


# ---- measuring -------------------------------------------------------------------------------------------------------


def share(found: Array, expected: Bounded) -> float:
    """Largest difference over its tolerance; where none is allowed, infinity for any."""
    difference = np.abs(found.astype(np.float64) - expected.value)
    if expected.error is None:
        return math.inf if difference.any() else 0.0
    return float(np.max(difference / expected.error))


def in_float32(case: Case) -> dict[str, Any]:
    """The measurements of all ways of a case against the profile "fp32"."""
    lines = {tier: case.expected("fp32", tier) for tier in ("proof", "fail", "usual")}
    shares: dict[str, dict[str, float]] = {tier: {} for tier in lines}
    for name, y in case.ways(case.inputs, honest_sums):
        for tier, line in lines.items():
            shares[tier][name] = share(y, line)
    honest = {tier: max(v for name, v in found.items() if name != WORST_ORDER) for tier, found in shares.items()}
    measured: dict[str, Any] = {"op": case.op, "n": case.n, "data": case.data}
    if not honest["fail"]:
        return measured | {"exact": True, "over_fail": 0.0}
    measured |= {"over_fail": honest["fail"], "ratio": 1 / honest["fail"], "proof_ratio": 1 / honest["proof"]}
    if WORST_ORDER in shares["fail"]:
        measured["sorted_over_fail"] = shares["fail"][WORST_ORDER]
    return measured | {"over_usual": shares["usual"]}


def other_profiles(case: Case) -> Iterator[tuple[str, str, Array]]:
    """Profile, way and result of a case in other arithmetics: rounded operands, stored results."""

    def given(rounded: Callable[[Array], Array]) -> Inputs:
        return {name: rounded(value) for name, value in case.inputs.items()}

    for profile, rounded in (("fp16", float16), ("bf16", bfloat16)):
        for name, y in case.ways(given(rounded), float32_sums):
            yield profile, name, rounded(y)
    for name, y in case.ways(given(lambda x: x.astype(np.float16)), float16_sums):
        yield "fp16-acc16", name, y
    if case.summed is not None:
        for way, rounded in (("to nearest", tf32), ("cut off", tf32_cut)):
            for name, y in case.ways(given(rounded), float32_sums):
                yield "tf32", f"{way}, {name}", y
    if case.summed is not None and "weight" in case.inputs:
        yield from quantized(case)


def quantized(case: Case) -> Iterator[tuple[str, str, Array]]:
    """Dynamic int8: sums of integers are exact, and the bias is added in float32."""
    for steps in (255, 127):
        for per_row in (False, True):
            weight = case.inputs["weight"]
            rows = int8_weights(weight.reshape(weight.shape[0], -1), per_row=per_row).reshape(weight.shape)
            given = dict(case.inputs) | {"x": int8_activations(case.inputs["x"], steps=steps), "weight": rows}
            given = {name: value.astype(np.float64) for name, value in given.items()}
            name = f"{steps} steps, {'per channel' if per_row else 'per tensor'}"
            for _, y in case.ways(given, exact_sums):
                yield "int8-dynamic", name, y.astype(np.float32)


def in_other_profiles(case: Case) -> list[dict[str, Any]]:
    """The largest error over the "fail" line for each other profile."""
    found: dict[str, dict[str, float]] = {}
    results = list(other_profiles(case))
    lines = {profile: case.expected(profile, "fail") for profile in {profile for profile, _, _ in results}}
    for profile, name, y in results:
        found.setdefault(profile, {})[name] = share(y, lines[profile])
    return [
        {"profile": profile, "op": case.op, "n": case.n, "data": case.data, "over_fail": max(ways.values()),
         "worst": max(ways, key=ways.__getitem__)}
        for profile, ways in found.items()
    ]  # fmt: skip


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per operator and n: over all kinds of data, and the ratio also for each kind alone."""
    places = dict.fromkeys((row["op"], row["n"]) for row in rows)
    found = []
    for op, n in places:
        own = [row for row in rows if (row["op"], row["n"]) == (op, n)]
        if any("exact" in row for row in own):
            found.append({"op": op, "n": n, "exact": all("exact" in row for row in own)})
            continue
        usual = [share for row in own for name, share in row["over_usual"].items() if name != WORST_ORDER]
        ordered = [row["over_usual"][WORST_ORDER] for row in own if WORST_ORDER in row["over_usual"]]
        by_data = {row["data"]: min(r["ratio"] for r in own if r["data"] == row["data"]) for row in own}
        entry = {
            "op": op,
            "n": n,
            "ratio": min(row["ratio"] for row in own),
            "ratio_by_data": by_data,
            "proof_ratio": min(row["proof_ratio"] for row in own),
            "over_usual": [min(usual), max(usual)],
        }
        found.append(entry | ({"sorted_over_usual": max(ordered)} if ordered else {}))
    return found


def rounded(x: Any) -> Any:
    """Numbers to three digits: more would say something about one machine."""
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    if isinstance(x, list):
        return [rounded(value) for value in x]
    return float(f"{x:.3g}") if isinstance(x, float) else x


def as_json(found: dict[str, Any]) -> str:
    """One line a row."""
    entries = []
    for key, value in found.items():
        rows = ",\n".join(f"  {json.dumps(row)}" for row in value) if isinstance(value, list) else ""
        entries.append(f" {json.dumps(key)}: " + (f"[\n{rows}\n ]" if rows else json.dumps(value)))
    return "{\n" + ",\n".join(entries) + "\n}\n"


def print_summary(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'operator':32} {'n':>5}  {'fail line / error':>17} {'proof line / error':>18}  error / usual   sorted")
    for row in rows:
        if "ratio" not in row:
            print(f"{row['op']:32} {row['n']:5}  {'exact' if row['exact'] else 'not exact':>17}")
            continue
        low, high = row["over_usual"]
        ordered = f"{row['sorted_over_usual']:8.3g}" if "sorted_over_usual" in row else ""
        print(
            f"{row['op']:32} {row['n']:5}  {row['ratio']:17.3g} {row['proof_ratio']:18.3g}  {low:.2f} to {high:<6.3g}"
            f" {ordered}"
        )


def all_cases() -> Iterator[Case]:
    for data in KINDS:
        yield from inner_products(data)
        yield from functions(data)
        yield from regions(data)


def measure(cases: Iterator[Case]) -> dict[str, Any]:
    """All measurements, and what is beyond its "fail" line."""
    rows: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for case in cases:
        rows.append(in_float32(case))
        if "exact" not in rows[-1]:
            others += in_other_profiles(case)
    beyond = [row for row in [*rows, *others] if not row["over_fail"] <= 1]
    beyond += [row for row in rows if not row.get("sorted_over_fail", 0) <= 1]
    return {
        "numpy": np.__version__,
        "summary": summary(rows),
        "beyond": beyond,
        "fp32": rows,
        "other_profiles": others,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        found = measure(all_cases())
    print_summary(found["summary"])
    profiles = {row["profile"]: 0.0 for row in found["other_profiles"]}
    for row in found["other_profiles"]:
        profiles[row["profile"]] = max(profiles[row["profile"]], row["over_fail"])
    for profile, largest in profiles.items():
        print(f"{profile:14} largest error: {largest:.2f} of its fail line")
    loose = [r for r in found["summary"] if r.get("ratio", 0) > RATIO_WANTED and r["n"] <= TERMS_WANTED]
    for row in loose:
        print(f"loose: {row['op']}, n = {row['n']}: {row['ratio']:.3g}")
    for row in found["beyond"]:
        print(f"BEYOND: {json.dumps(rounded(row))}")
    if arguments.output:
        arguments.output.write_text(as_json(rounded(found)))
    sys.exit(1 if found["beyond"] else 0)


if __name__ == "__main__":
    main()
