"""What the operator tests share: the operators as plain loops over Python floats, and two ways to compare.

The loops are written from the formulas (spec.md 1.2, 1.5 and 1.7), not from the code under test, and sum with
``math.fsum``, so that the float64 answer is right to its last digit or two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from npmobilevit.errors import ShapeError

DTYPES = (np.float32, np.float64)
UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}  # largest relative error of one rounding


def normal(*shape: int, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    """Numbers that float32 holds exactly, so that both dtypes of a test see the same input."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32).astype(dtype)


def integers(*shape: int, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    """Small integers: sums of their products are exact in either dtype, whatever the order."""
    return np.random.default_rng([seed, *shape]).integers(-8, 9, size=shape).astype(dtype)


def assert_close(actual: np.ndarray, expected: np.ndarray, *, roundings: int, magnitude: float | None = None) -> None:
    """Compare with a float64 definition: shape and dtype exactly, float64 to 1e-12 of the largest value.

    In float32 the bound is the worst case of `roundings` roundings of intermediate values no larger than
    `magnitude` (the largest expected value when left out).
    """
    assert expected.dtype == np.float64
    largest = float(np.max(np.abs(expected), initial=0))
    if actual.dtype == np.float64:
        atol = 1e-12 * largest
    else:
        atol = (roundings + 1) * UNIT[actual.dtype] * (largest if magnitude is None else magnitude)
    np.testing.assert_allclose(actual, expected.astype(actual.dtype), rtol=0, atol=atol, strict=True)


def assert_refused(
    code: str, function: Callable[..., Any], *args: Any, match: str | None = None, **kwargs: Any
) -> None:
    """The call must raise ShapeError itself, not a relative of it, with this code."""
    with pytest.raises(ShapeError, match=match) as caught:
        function(*args, **kwargs)
    assert type(caught.value) is ShapeError
    assert caught.value.code == code


def layouts(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The same values in other memory: Fortran order, negative strides, gaps between the elements."""
    yield "fortran", np.asfortranarray(x)
    backwards = tuple(slice(None, None, -1) for _ in x.shape)
    yield "negative strides", x[backwards].copy()[backwards]
    gaps = np.full(tuple(2 * size for size in x.shape), np.nan, x.dtype)
    every_other = tuple(slice(None, None, 2) for _ in x.shape)
    gaps[every_other] = x
    yield "gaps", gaps[every_other]


# ---- the definitions -------------------------------------------------------------------------------------------


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> np.ndarray:
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    n, _, height, width = x.shape
    out_channels, in_group, kh, kw = weight.shape
    out_h = math.floor((height + 2 * ph - dh * (kh - 1) - 1) / sh) + 1
    out_w = math.floor((width + 2 * pw - dw * (kw - 1) - 1) / sw) + 1
    y = np.zeros((n, out_channels, out_h, out_w))
    for image, o, i, j in np.ndindex(*y.shape):
        group = o // (out_channels // groups)
        terms = [0.0 if bias is None else float(bias[o])]
        for c, ky, kx in np.ndindex(in_group, kh, kw):
            row, column = i * sh - ph + ky * dh, j * sw - pw + kx * dw
            if 0 <= row < height and 0 <= column < width:
                terms.append(float(weight[o, c, ky, kx]) * float(x[image, group * in_group + c, row, column]))
        y[image, o, i, j] = math.fsum(terms)
    return y


def batch_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float
) -> np.ndarray:
    y = np.zeros(x.shape)
    for n, c, i, j in np.ndindex(*x.shape):
        standard = (float(x[n, c, i, j]) - float(mean[c])) / math.sqrt(float(var[c]) + eps)
        y[n, c, i, j] = standard * float(weight[c]) + float(bias[c])
    return y


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    y = np.zeros(x.shape)
    for token in np.ndindex(*x.shape[:-1]):
        values = [float(value) for value in x[token]]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
        for d, value in enumerate(values):
            y[(*token, d)] = (value - mean) / math.sqrt(variance + eps) * float(weight[d]) + float(bias[d])
    return y


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    y = np.zeros((*x.shape[:-1], weight.shape[0]))
    for *token, o in np.ndindex(*y.shape):
        start = 0.0 if bias is None else float(bias[o])
        row = x[tuple(token)]
        y[(*token, o)] = math.fsum([start, *(float(a) * float(b) for a, b in zip(row, weight[o], strict=True))])
    return y


def softmax(values: list[float]) -> list[float]:
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / math.fsum(powers) for power in powers]


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """One head: (L, d), (M, d), (M, e) -> (L, e)."""
    y = np.zeros((query.shape[0], value.shape[1]))
    for i, q in enumerate(query):
        scores = [math.fsum(float(a) * float(b) for a, b in zip(q, k, strict=True)) / math.sqrt(len(q)) for k in key]
        probs = softmax(scores)
        for e in range(value.shape[1]):
            y[i, e] = math.fsum(p * float(v[e]) for p, v in zip(probs, value, strict=True))
    return y


def multi_head_attention(
    x: np.ndarray, projections: Mapping[str, Mapping[str, np.ndarray]], num_heads: int
) -> np.ndarray:
    sequences, tokens, width = x.shape
    q, k, v = (
        linear(x, projections[name]["weight"], projections[name].get("bias")) for name in ("query", "key", "value")
    )
    merged = np.zeros((sequences, tokens, width))
    size = width // num_heads
    for s, head in itertools.product(range(sequences), range(num_heads)):
        own = slice(head * size, (head + 1) * size)
        merged[s, :, own] = attention(q[s, :, own], k[s, :, own], v[s, :, own])
    return linear(merged, projections["output"]["weight"], projections["output"].get("bias"))


def unfold_patches(x: np.ndarray, p: int) -> np.ndarray:
    n, d, height, width = x.shape
    y = np.full((n * p * p, (height // p) * (width // p), d), np.nan, x.dtype)
    for image, channel, row, column in np.ndindex(*x.shape):
        iy, py = divmod(row, p)
        ix, px = divmod(column, p)
        y[image * p * p + py * p + px, iy * (width // p) + ix, channel] = x[image, channel, row, column]
    return y


def resize_axis(size_in: int, size_out: int, dtype: Any) -> list[tuple[int, int, float]]:
    """Per output position the two sources and the weight of the second; the coordinate is rounded once to `dtype`."""
    scale = Fraction(float(np.dtype(dtype).type(size_in / size_out)))
    sources = []
    for i in range(size_out):
        exact = (i + Fraction(1, 2)) * scale - Fraction(1, 2)
        position = max(0.0, float(np.dtype(dtype).type(float(exact))))
        first = min(math.floor(position), size_in - 1)
        second = min(first + 1, size_in - 1)
        sources.append((first, second, min(1.0, max(0.0, position - first))))
    return sources


def resize_bilinear(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = resize_axis(x.shape[2], size[0], x.dtype)
    columns = resize_axis(x.shape[3], size[1], x.dtype)
    y = np.zeros((*x.shape[:2], *size))
    for n, c, i, j in np.ndindex(*y.shape):
        (top, bottom, wy), (left, right, wx) = rows[i], columns[j]
        plane = x[n, c].astype(np.float64)
        upper = (1 - wx) * plane[top, left] + wx * plane[top, right]
        lower = (1 - wx) * plane[bottom, left] + wx * plane[bottom, right]
        y[n, c, i, j] = (1 - wy) * upper + wy * lower
    return y


def global_avg_pool(x: np.ndarray) -> np.ndarray:
    y = np.zeros(x.shape[:2])
    for n, c in np.ndindex(*y.shape):
        y[n, c] = math.fsum(float(value) for value in x[n, c].flat) / (x.shape[2] * x.shape[3])
    return y


def cross_entropy(logits: np.ndarray, labels: np.ndarray, ignore_index: int = -100) -> float:
    losses = []
    for position in np.ndindex(*labels.shape):
        label = int(labels[position])
        if label != ignore_index:
            values = [float(logits[(position[0], c, *position[1:])]) for c in range(logits.shape[1])]
            largest = max(values)
            losses.append(largest + math.log(math.fsum(math.exp(v - largest) for v in values)) - values[label])
    return math.fsum(losses) / len(losses)


def binary_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """By the textbook, so only for logits of moderate size."""
    losses = []
    for logit, label in zip(logits.flat, labels.flat, strict=True):
        p = 1 / (1 + math.exp(-float(logit)))
        losses.append(-float(label) * math.log(p) - (1 - float(label)) * math.log(1 - p))
    return math.fsum(losses) / len(losses)


def mean_squared_error(logits: np.ndarray, labels: np.ndarray) -> float:
    return math.fsum((float(a) - float(b)) ** 2 for a, b in zip(logits.flat, labels.flat, strict=True)) / logits.size
