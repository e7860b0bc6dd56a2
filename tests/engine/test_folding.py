"""Every identity that moves work into the weights, alone: the folded layer computes what the layers before it did."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit import ops
from npmobilevit.engine import folding
from npmobilevit.engine.folding import Affine, Exponential

quick = settings(derandomize=True, deadline=None, max_examples=25)

EXP = Exponential(np.exp, -1.0)
EXP2 = Exponential(np.exp2, -math.log2(math.e))
EXPONENTIALS = pytest.mark.parametrize("exponential", [EXP, EXP2], ids=["exp", "exp2"])

sizes = st.integers(1, 5)
seeds = st.integers(0, 1000)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def affine(outputs: int, inputs: int, *kernel: int, seed: int = 0) -> Affine:
    return Affine(normal(outputs, inputs, *kernel, seed=seed), normal(outputs, seed=seed + 1))


def applied(layer: Affine, x: np.ndarray) -> np.ndarray:
    """(K, T) -> (M, T)."""
    return layer.weight @ x + layer.bias[:, np.newaxis]


def assert_same(actual: np.ndarray, expected: np.ndarray, within: float = 1e-12) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=within * (1 + np.abs(expected).max()), strict=True)


# What a layer is


def test_a_layer_without_bias_has_zeros():
    layer = folding.linear({"x.weight": np.ones((3, 2), np.float32)}, "x")
    assert layer.weight.dtype == layer.bias.dtype == np.float64
    assert layer.bias.tolist() == [0, 0, 0]


def test_a_layer_keeps_its_bias():
    weights = {"x.weight": np.ones((3, 2), np.float32), "x.bias": np.array([1, 2, 3], np.float32)}
    assert folding.linear(weights, "x").bias.tolist() == [1, 2, 3]


@quick
@given(sizes, sizes, st.booleans(), st.booleans(), seeds)
def test_a_convolution_takes_its_batch_normalisation_in(outputs, inputs, depthwise, with_bias, seed):
    """Caught here: eps left out or outside of the root, the mean taken from the bias with the wrong factor."""
    groups = outputs if depthwise else 1
    layer = affine(outputs, 1 if depthwise else inputs, 3, 3, seed=seed)
    norm = {
        "weight": normal(outputs, seed=seed + 2),
        "bias": normal(outputs, seed=seed + 3),
        "running_mean": normal(outputs, seed=seed + 4),
        "running_var": 1e-4 * np.exp(normal(outputs, seed=seed + 5)),  # eps weighs a tenth
    }
    weights = {"x.convolution.weight": layer.weight} | {f"x.normalization.{n}": v for n, v in norm.items()}
    if with_bias:
        weights["x.convolution.bias"] = layer.bias
    x = normal(2, outputs if depthwise else inputs, 4, 5, seed=seed)
    options = {"padding": 1, "groups": groups}
    expected = ops.conv2d(x, weight=layer.weight, bias=layer.bias if with_bias else None, **options)
    folded = folding.convolution(weights, "x")
    actual = ops.conv2d(x, weight=folded.weight, bias=folded.bias, **options)
    assert_same(actual, ops.batch_norm(expected, **norm), 1e-10)


def test_a_convolution_without_normalisation_stays_as_it_is():
    layer = affine(3, 2, 1, 1)
    same = folding.convolution({"x.convolution.weight": layer.weight, "x.convolution.bias": layer.bias}, "x")
    assert np.array_equal(same.weight, layer.weight)
    assert np.array_equal(same.bias, layer.bias)


# Multiples


@EXPONENTIALS
def test_an_exponential_is_the_exponential_of_the_negative(exponential):
    u = np.linspace(-30, 30, 101)
    np.testing.assert_allclose(exponential.function(exponential.scale * u), np.exp(-u), rtol=1e-13)


@EXPONENTIALS
@quick
@given(seed=seeds)
def test_silu_takes_three_passes(exponential, seed):
    """``z / (1 + f(z))`` is silu of what z stands for, as the same multiple."""
    u = 3 * normal(20, seed=seed)
    z = exponential.scale * u
    assert_same(z / (1 + exponential.function(z)), exponential.scale * ops.silu(u))


@EXPONENTIALS
@quick
@given(outputs=sizes, inputs=sizes, seed=seeds)
def test_multiples_before_and_after_silu_are_in_the_weights(exponential, outputs, inputs, seed):
    first, second = affine(outputs, inputs, seed=seed), affine(inputs, outputs, seed=seed + 5)
    x = normal(inputs, 4, seed=seed)
    z = applied(folding.rescaled(first, outputs=exponential.scale), x)
    z = z / (1 + exponential.function(z))
    assert_same(
        applied(folding.rescaled(second, inputs=exponential.scale), z), applied(second, ops.silu(applied(first, x)))
    )


@quick
@given(sizes, sizes, st.booleans(), seeds)
def test_each_input_channel_may_be_another_multiple(outputs, inputs, is_convolution, seed):
    kernel = (3, 3) if is_convolution else (1, 1)
    layer = affine(outputs, inputs, *kernel, seed=seed)
    multiples = np.exp(normal(inputs, seed=seed + 2))
    x = normal(1, inputs, 4, 3, seed=seed)
    stored = x * multiples[:, np.newaxis, np.newaxis]
    folded = folding.rescaled(layer, inputs=multiples, outputs=-2.5)
    actual = ops.conv2d(stored, weight=folded.weight, bias=folded.bias, padding=kernel[0] // 2)
    assert_same(actual, -2.5 * ops.conv2d(x, weight=layer.weight, bias=layer.bias, padding=kernel[0] // 2), 1e-11)


# Layer normalisation


@quick
@given(sizes, sizes, seeds)
def test_a_centred_layer_has_no_mean(outputs, inputs, seed):
    layer, x = affine(outputs, inputs, seed=seed), normal(inputs, 4, seed=seed)
    expected = applied(layer, x)
    assert_same(applied(folding.centred(layer), x), expected - expected.mean(axis=0))


@quick
@given(st.integers(2, 6), st.integers(1, 4), seeds)
def test_normalisation_needs_no_mean_down_a_centred_residual_stream(width, depth, seed):
    """Every sum of the chain is normalised: only the layers that add to the stream are centred."""
    eps = 1e-5
    first = affine(width, 3, seed=seed)
    layers = [affine(width, width, seed=seed + 10 * i) for i in range(1, depth + 1)]
    x = normal(3, 4, seed=seed)
    stream, centred = applied(first, x), applied(folding.centred(first), x)
    for layer in layers:
        ones, zeros = np.ones(width), np.zeros(width)
        normed = ops.layer_norm(stream.T.copy(), weight=ones, bias=zeros, eps=eps).T
        quick_normed = centred / np.sqrt((centred**2).mean(axis=0) + eps)
        assert_same(quick_normed, normed, 1e-9)
        stream = stream + applied(layer, normed)
        centred = centred + applied(folding.centred(layer), quick_normed)


@quick
@given(sizes, st.integers(2, 6), seeds)
def test_a_linear_layer_takes_the_weights_of_a_normalisation_in(outputs, width, seed):
    layer = affine(outputs, width, seed=seed)
    gamma, beta = normal(width, seed=seed + 2), normal(width, seed=seed + 3)
    x = normal(4, width, seed=seed)
    normed = ops.layer_norm(x, weight=np.ones(width), bias=np.zeros(width))
    expected = ops.linear(ops.layer_norm(x, weight=gamma, bias=beta), weight=layer.weight, bias=layer.bias)
    assert_same(applied(folding.after_layer_norm(layer, gamma, beta), normed.T).T, expected, 1e-11)


# Biases


@quick
@given(sizes, sizes, seeds)
def test_a_constant_row_takes_the_bias(outputs, inputs, seed):
    layer, x = affine(outputs, inputs, 1, 1, seed=seed), normal(inputs, 4, seed=seed)
    matrix = folding.with_constant_row(layer)
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    flat = Affine(layer.weight[:, :, 0, 0], layer.bias)
    assert_same(matrix @ np.vstack([x, np.ones((1, 4))]), applied(flat, x), 1e-6)
    assert not (matrix @ np.zeros((inputs + 1, 4))).any()  # a margin of zeros stays one


# Attention


def attention_of_loops(layers: list[Affine], num_heads: int, x: np.ndarray) -> np.ndarray:
    """(K, T) -> (D, T): a head, a query and a key at a time."""
    query, key, value = (applied(layer, x) for layer in layers)
    out, d = np.zeros_like(value), len(value) // num_heads
    for head in range(num_heads):
        rows = slice(head * d, (head + 1) * d)
        for t in range(x.shape[1]):
            weights = [math.exp(query[rows, t] @ key[rows, s] / math.sqrt(d)) for s in range(x.shape[1])]
            for s, weight in enumerate(weights):
                out[rows, t] += weight / sum(weights) * value[rows, s]
    return out


@EXPONENTIALS
@quick
@given(num_heads=st.integers(1, 3), d=st.integers(1, 3), inputs=sizes, tokens=st.integers(1, 4), seed=seeds)
def test_attention_without_a_pass_for_scale_sum_or_base(exponential, num_heads, d, inputs, tokens, seed):
    width = num_heads * d
    layers = [affine(width, inputs, seed=seed + 10 * i) for i in range(3)]
    output = affine(4, width, seed=seed + 50)
    x = normal(inputs, tokens, seed=seed)

    projected = applied(folding.query_key_value(*layers, num_heads, exponential), x)
    assert len(projected) == 3 * width + num_heads
    query, key, value = np.split(projected, [width, 2 * width])
    heads = []
    for h in range(num_heads):
        rows = slice(h * d, (h + 1) * d)
        scores = exponential.function(key[rows].T @ query[rows])  # (keys, queries)
        found = value[h * (d + 1) : (h + 1) * (d + 1)] @ scores
        np.testing.assert_allclose(found[-1], scores.sum(axis=0), rtol=1e-12)  # the denominators
        heads.append(found / found[-1])
    expected = attention_of_loops(layers, num_heads, x)
    assert_same(np.concatenate([head[:-1] for head in heads]), expected, 1e-10)

    after = folding.after_attention(output, num_heads)
    assert (after.dtype, after.shape) == (np.dtype(np.float32), (4, width + num_heads))
    assert_same(after @ np.concatenate(heads), applied(output, expected), 1e-6)


def test_the_loops_are_the_attention_of_the_readable_network():
    """What the test above compares with."""
    layers, x = [affine(6, 4, seed=i) for i in range(3)], normal(4, 5)
    tokens = x.T[np.newaxis].copy()
    query, key, value = (
        ops.split_heads(ops.linear(tokens, weight=layer.weight, bias=layer.bias), 2) for layer in layers
    )
    expected = ops.merge_heads(ops.scaled_dot_product_attention(query, key, value))[0].T
    assert_same(attention_of_loops(layers, 2, x), expected)


# Winograd

A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])  # arXiv 1509.09308, equation 8, as B^T and A^T
B = np.array([[1, 0, 0, 0], [0, 1, -1, 1], [-1, 1, 1, 0], [0, 0, 0, -1]])


@quick
@given(sizes, sizes, st.integers(1, 6), st.integers(1, 6), seeds)
def test_winograds_product_is_the_convolution(outputs, inputs, height, width, seed):
    """Tile by tile, pixel by pixel of a tile; an odd map has outputs beyond it."""
    weight = normal(outputs, inputs, 3, 3, seed=seed)
    x = normal(1, inputs, height, width, seed=seed)
    kernels = folding.winograd(weight)
    assert (kernels.dtype, kernels.shape) == (np.dtype(np.float32), (16, outputs, inputs))
    kernels = kernels.reshape(4, 4, outputs, inputs)
    rows, columns = -(-height // 2), -(-width // 2)
    padded = np.zeros((inputs, 2 * rows + 2, 2 * columns + 2))
    padded[:, 1 : height + 1, 1 : width + 1] = x[0]
    y = np.zeros((outputs, 2 * rows, 2 * columns))
    for row in range(rows):
        for column in range(columns):
            tiles = padded[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
            for m in range(outputs):
                total = sum(kernels[:, :, m, k] * (B.T @ tiles[k] @ B) for k in range(inputs))
                y[m, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = A.T @ total @ A
    assert_same(y[:, :height, :width], ops.conv2d(x, weight=weight, padding=1)[0], 2e-6)


# Which exponential


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"exp2": {"float32": {"current": "AVX512_SKX", "available": "..."}}}, EXP2),
        ({"exp2": {"float32": {"current": "baseline(SSE SSE2 SSE3)", "available": "..."}}}, EXP),
        ({"exp2": {}}, EXP),
        ({}, EXP),  # a NumPy that says nothing about it
    ],
)
def test_the_fastest_exponential_of_the_processor(monkeypatch, answer, expected):
    asked = {}

    def opt_func_info(**arguments):
        asked.update(arguments)
        return answer

    monkeypatch.setattr(np.lib.introspect, "opt_func_info", opt_func_info)
    assert folding.fastest_exponential() == expected
    assert asked == {"func_name": "^exp2$", "signature": "^float32$"}


def test_numpy_tells_which_code_it_runs():
    """The form of the answer that the choice above reads."""
    found = np.lib.introspect.opt_func_info(func_name="^exp2$", signature="^float32$")
    assert all(isinstance(one["current"], str) for one in found.get("exp2", {}).values())
    assert folding.fastest_exponential() in (EXP, EXP2)
