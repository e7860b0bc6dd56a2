"""The blocks, against definitions written out here in another form: loops and einsum, in float64."""

import math
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from networks import make_model, pixels, random_weights, relative_error, tiny

from npmobilevit import layers, network, ops
from npmobilevit import scope as scope_module
from npmobilevit.config import HIDDEN_ACTS, MobileViTConfig
from npmobilevit.scope import OpTable, Scope

ROUNDING = 1e-13


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


class Part:
    """The parameters of one part of the network, read by their names relative to it."""

    def __init__(self, weights: Mapping[str, np.ndarray], name: str) -> None:
        self.weights, self.name = weights, name

    def __getitem__(self, leaf: str) -> np.ndarray:
        return self.weights[f"{self.name}.{leaf}"]

    def at(self, name: str) -> "Part":
        return Part(self.weights, f"{self.name}.{name}")


# definitions (spec.md 1.2)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.0)


def identity(x: np.ndarray) -> np.ndarray:
    return x


def define_conv(x: np.ndarray, weight: np.ndarray, *, stride: int, dilation: int, depthwise: bool) -> np.ndarray:
    kernel = weight.shape[-1]
    padding = (kernel - 1) // 2 * dilation
    n, _, height, width = x.shape
    out_h, out_w = -(-height // stride), -(-width // stride)  # an odd kernel with this padding
    y = np.zeros((n, weight.shape[0], out_h, out_w))
    for i in range(out_h):
        for j in range(out_w):
            for ky in range(kernel):
                for kx in range(kernel):
                    row, column = i * stride + ky * dilation - padding, j * stride + kx * dilation - padding
                    if 0 <= row < height and 0 <= column < width:
                        pixel, taps = x[:, :, row, column], weight[:, :, ky, kx]
                        y[:, :, i, j] += pixel * taps[:, 0] if depthwise else np.einsum("nc,oc->no", pixel, taps)
    return y


def define_conv_layer(
    p: Part,
    x: np.ndarray,
    act: Callable[[np.ndarray], np.ndarray] = identity,
    *,
    stride: int = 1,
    dilation: int = 1,
    depthwise: bool = False,
    normalize: bool = True,
) -> np.ndarray:
    y = define_conv(x, p["convolution.weight"], stride=stride, dilation=dilation, depthwise=depthwise)
    if normalize:
        mean, var, gamma, beta = (
            p[f"normalization.{leaf}"][:, None, None] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        y = (y - mean) / np.sqrt(var + 1e-5) * gamma + beta
    return act(y)


def define_inverted_residual(p: Part, x: np.ndarray, act: Any, *, stride: int = 1, dilation: int = 1) -> np.ndarray:
    y = define_conv_layer(p.at("expand_1x1"), x, act)
    y = define_conv_layer(p.at("conv_3x3"), y, act, stride=stride, dilation=dilation, depthwise=True)
    y = define_conv_layer(p.at("reduce_1x1"), y)
    return y + x if y.shape == x.shape else y


def define_layer_norm(p: Part, x: np.ndarray, eps: float) -> np.ndarray:
    mean = x.sum(-1, keepdims=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1, keepdims=True) / x.shape[-1]
    return (x - mean) / np.sqrt(variance + eps) * p["weight"] + p["bias"]


def define_linear(p: Part, x: np.ndarray, *, bias: bool = True) -> np.ndarray:
    y = np.einsum("...d,od->...o", x, p["weight"])
    return y + p["bias"] if bias else y


def define_self_attention(p: Part, x: np.ndarray, heads: int, *, bias: bool = True) -> np.ndarray:
    query, key, value = (define_linear(p.at(name), x, bias=bias) for name in ("query", "key", "value"))
    d = x.shape[-1] // heads
    y = np.zeros_like(x)
    for sequence in range(x.shape[0]):
        for head in range(heads):
            columns = slice(head * d, (head + 1) * d)
            for token in range(x.shape[1]):
                scores = [query[sequence, token, columns] @ k[columns] / math.sqrt(d) for k in key[sequence]]
                powers = [math.exp(score) for score in scores]
                for power, v in zip(powers, value[sequence], strict=True):
                    y[sequence, token, columns] += power / sum(powers) * v[columns]
    return y


def define_transformer_layer(p: Part, x: np.ndarray, *, heads: int, eps: float, act: Any) -> np.ndarray:
    y = define_self_attention(p.at("attention.attention"), define_layer_norm(p.at("layernorm_before"), x, eps), heads)
    x = x + define_linear(p.at("attention.output.dense"), y)
    y = act(define_linear(p.at("intermediate.dense"), define_layer_norm(p.at("layernorm_after"), x, eps)))
    return x + define_linear(p.at("output.dense"), y)


def define_mobilevit_block(p: Part, x: np.ndarray, config: MobileViTConfig, act: Any, depth: int) -> np.ndarray:
    """With stride 2, for maps whose size is a multiple of the patch size."""
    size, eps = config.patch_size, config.layer_norm_eps
    x = define_inverted_residual(p.at("downsampling_layer"), x, act, stride=2)
    y = define_conv_layer(p.at("conv_kxk"), x, act)
    y = define_conv_layer(p.at("conv_1x1"), y, normalize=False)
    n, d, height, width = y.shape
    folded = np.zeros_like(y)
    for image in range(n):
        for py in range(size):
            for px in range(size):  # the pixels at one place of their patches, in reading order
                tokens = y[image, :, py::size, px::size].reshape(1, d, -1).swapaxes(1, 2)  # (1, L, D)
                for i in range(depth):
                    layer = p.at(f"transformer.layer.{i}")
                    tokens = define_transformer_layer(layer, tokens, heads=config.num_attention_heads, eps=eps, act=act)
                tokens = define_layer_norm(p.at("layernorm"), tokens, eps)
                folded[image, :, py::size, px::size] = tokens[0].T.reshape(d, height // size, width // size)
    y = define_conv_layer(p.at("conv_projection"), folded, act)
    return define_conv_layer(p.at("fusion"), np.concatenate([x, y], axis=1), act)


def define_aspp(p: Part, x: np.ndarray, rates: tuple[int, ...]) -> np.ndarray:
    branches = [define_conv_layer(p.at("convs.0"), x, relu)]
    branches += [define_conv_layer(p.at(f"convs.{i}"), x, relu, dilation=rate) for i, rate in enumerate(rates, start=1)]
    mean = x.reshape(*x.shape[:2], -1).sum(-1)[:, :, None, None] / (x.shape[2] * x.shape[3])
    pooled = define_conv_layer(p.at("convs.4.conv_1x1"), mean, relu)
    branches.append(pooled * np.ones((1, 1, *x.shape[2:])))
    return define_conv_layer(p.at("project"), np.concatenate(branches, axis=1), relu)


# the parts, each with random weights


def parts(head: Any = None, **changes: Any) -> tuple[MobileViTConfig, dict[str, np.ndarray]]:
    config = tiny(**changes)
    return config, random_weights(config, head, seed=1)


@pytest.mark.parametrize("activation", ["silu", "relu", "linear", None])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 2)])
def test_conv_layer(activation, stride, size):
    _, weights = parts()
    x = normal(2, 3, *size)
    act = {"silu": silu, "relu": relu, "linear": identity, None: identity}[activation]
    y = layers.conv_layer(Scope(weights, "conv_stem"), x, activation=activation, stride=stride)
    assert relative_error(y, define_conv_layer(Part(weights, "conv_stem"), x, act, stride=stride)) < ROUNDING


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_conv_layer_pads_so_that_the_size_stays(kernel, dilation):
    _, weights = parts(conv_kernel_size=kernel)
    x = normal(1, 10, 7, 6)
    name = "encoder.layer.2.conv_kxk"
    y = layers.conv_layer(Scope(weights, name), x, activation="silu", dilation=dilation)
    assert y.shape == x.shape
    assert relative_error(y, define_conv_layer(Part(weights, name), x, silu, dilation=dilation)) < ROUNDING


def test_conv_layer_without_normalisation_reads_none():
    weights = {"c.convolution.weight": normal(2, 3, 1, 1), "c.convolution.bias": normal(2)}
    x = normal(1, 3, 2, 2)
    y = layers.conv_layer(Scope(weights, "c"), x, activation=None, normalize=False)
    expected = np.einsum("nchw,oc->nohw", x, weights["c.convolution.weight"][:, :, 0, 0])
    assert relative_error(y, expected + weights["c.convolution.bias"][:, None, None]) < ROUNDING


def test_batch_norm_keeps_its_own_eps():
    """Variances near zero: only there is eps seen, and the config's eps is for the layer normalisations alone."""
    _, weights = parts(layer_norm_eps=1e-3)
    weights["conv_stem.normalization.running_var"][:] = [0, 1e-6, 1e-5, 1e-4]
    x = normal(1, 3, 4, 4)
    y = layers.conv_layer(Scope(weights, "conv_stem"), x, activation=None, stride=2)
    assert relative_error(y, define_conv_layer(Part(weights, "conv_stem"), x, stride=2)) < ROUNDING


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layer", ["layer.1.layer.0", "layer.1.layer.1"])  # 6 -> 8 channels, 8 -> 8 channels
def test_inverted_residual(layer, stride, dilation):
    _, weights = parts()
    name = f"encoder.{layer}"
    x = normal(2, 6 if layer.endswith("0") else 8, 5, 6)
    y = layers.inverted_residual(Scope(weights, name), x, activation="silu", stride=stride, dilation=dilation)
    expected = define_inverted_residual(Part(weights, name), x, silu, stride=stride, dilation=dilation)
    assert relative_error(y, expected) < ROUNDING


def test_the_input_is_added_only_when_stride_and_channels_allow():
    """With a narrow output of zero, what comes out is the input that was added, or nothing."""
    _, weights = parts()
    for name, value in weights.items():
        if "reduce_1x1" in name and name.endswith(("weight", "bias", "running_mean")):
            value[:] = 0
    residual = Scope(weights, "encoder.layer.1.layer.1")
    x = normal(2, 8, 5, 6)
    assert np.array_equal(layers.inverted_residual(residual, x, activation="silu"), x)
    assert np.array_equal(layers.inverted_residual(residual, x, activation="silu", dilation=2), x)
    assert not layers.inverted_residual(residual, x, activation="silu", stride=2).any()
    one_pixel = normal(1, 8, 1, 1)  # stride 2 keeps the shape of a single pixel, and still nothing is added
    assert not layers.inverted_residual(residual, one_pixel, activation="silu", stride=2).any()
    wider = Scope(weights, "encoder.layer.1.layer.0")
    assert not layers.inverted_residual(wider, normal(2, 6, 5, 6), activation="silu").any()


def test_mobilenet_layer_strides_in_its_first_block():
    _, weights = parts()
    p = Part(weights, "encoder.layer.1")
    x = normal(1, 6, 6, 7)
    y = layers.mobilenet_layer(Scope(weights, "encoder.layer.1"), x, depth=3, stride=2, activation="silu")
    expected = x
    for i, stride in enumerate((2, 1, 1)):
        expected = define_inverted_residual(p.at(f"layer.{i}"), expected, silu, stride=stride)
    assert relative_error(y, expected) < ROUNDING


def test_linear_layer_and_layer_norm():
    _, weights = parts()
    name = "encoder.layer.2.transformer.layer.1"
    x = normal(3, 5, 8)
    y = layers.linear_layer(Scope(weights, f"{name}.intermediate.dense"), x)
    assert relative_error(y, define_linear(Part(weights, f"{name}.intermediate.dense"), x)) < ROUNDING
    for eps in (1e-12, 1e-5, 1e-1):
        y = layers.layer_norm(Scope(weights, f"{name}.layernorm_after"), x, eps=eps)
        assert relative_error(y, define_layer_norm(Part(weights, f"{name}.layernorm_after"), x, eps)) < ROUNDING


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_self_attention(heads):
    _, weights = parts()
    name = "encoder.layer.2.transformer.layer.0.attention.attention"
    x = normal(3, 5, 8)
    y = layers.self_attention(Scope(weights, name), x, num_heads=heads)
    assert relative_error(y, define_self_attention(Part(weights, name), x, heads)) < ROUNDING


def test_self_attention_with_as_many_tokens_as_channels():
    """8 tokens of width 8: a forgotten transposition has the right shape."""
    _, weights = parts()
    name = "encoder.layer.2.transformer.layer.0.attention.attention"
    x = normal(1, 8, 8)
    y = layers.self_attention(Scope(weights, name), x, num_heads=1)
    assert relative_error(y, define_self_attention(Part(weights, name), x, 1)) < ROUNDING


def test_self_attention_without_biases():
    _, weights = parts(qkv_bias=False)
    name = "encoder.layer.2.transformer.layer.0.attention.attention"
    x = normal(2, 3, 8)
    y = layers.self_attention(Scope(weights, name), x, num_heads=4)
    assert relative_error(y, define_self_attention(Part(weights, name), x, 4, bias=False)) < ROUNDING


@pytest.mark.parametrize("heads", [1, 4])
def test_self_attention_needs_no_memory_for_all_scores(heads):
    """1024 tokens: all scores of a head are 16 MiB for the four sequences of a picture, and there are as many probs."""
    weights = {f"{name}.weight": np.zeros((16, 16), np.float32) for name in ("query", "key", "value")}
    x = np.ones((4, 1024, 16), np.float32)
    tracemalloc.start()
    try:
        layers.self_attention(Scope(weights), x, num_heads=heads)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 2**20  # scores and probs of a part, 4 MiB each


@pytest.mark.parametrize("elements", [1, 64, 2**20])
def test_self_attention_in_parts_shows_all_scores(elements, monkeypatch):
    """In parts of 1, 2 and all 8 queries."""
    monkeypatch.setattr(scope_module, "PART_ELEMENTS", elements)
    _, weights = parts()
    name = "encoder.layer.2.transformer.layer.0.attention.attention"
    x = normal(4, 8, 8)
    heard: dict[str, np.ndarray] = {}
    y = layers.self_attention(Scope(weights, name, tap=heard.__setitem__), x, num_heads=2)
    assert relative_error(y, define_self_attention(Part(weights, name), x, 2)) < ROUNDING
    query, key = (ops.split_heads(heard[f"{name}.{projection}"], 2) for projection in ("query", "key"))
    scores = np.einsum("shqd,shkd->shqk", query, key) / 2
    assert relative_error(heard[f"{name}.scores"], scores) < ROUNDING
    powers = np.exp(scores)
    assert relative_error(heard[f"{name}.probs"], powers / powers.sum(-1, keepdims=True)) < ROUNDING
    assert list(heard) == [f"{name}{leaf}" for leaf in (".query", ".key", ".value", ".scores", ".probs", "")]
    assert layers.self_attention(Scope(weights, name), x, num_heads=2).tobytes() == y.tobytes()


def test_attention_projects_its_output():
    _, weights = parts()
    name = "encoder.layer.3.transformer.layer.3.attention"
    x = normal(2, 4, 12)
    y = layers.attention(Scope(weights, name), x, num_heads=4)
    p = Part(weights, name)
    expected = define_linear(p.at("output.dense"), define_self_attention(p.at("attention"), x, 4))
    assert relative_error(y, expected) < ROUNDING


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
@pytest.mark.parametrize(("activation", "act"), [("silu", silu), ("relu", relu)])
@pytest.mark.parametrize("heads", [2, 4])
def test_transformer_layer(heads, activation, act, eps):
    _, weights = parts(mlp_ratio=2.3)
    name = "encoder.layer.3.transformer.layer.1"
    x = normal(2, 3, 12)
    y = layers.transformer_layer(Scope(weights, name), x, num_heads=heads, eps=eps, activation=activation)
    expected = define_transformer_layer(Part(weights, name), x, heads=heads, eps=eps, act=act)
    assert relative_error(y, expected) < ROUNDING


def test_transformer_runs_its_layers_in_order_without_a_norm_at_the_end():
    _, weights = parts()
    name = "encoder.layer.4.transformer"
    x = normal(1, 4, 16)
    y = layers.transformer(Scope(weights, name), x, depth=3, num_heads=4, eps=1e-5, activation="silu")
    expected = x
    for i in range(3):
        layer = Part(weights, f"{name}.layer.{i}")
        expected = define_transformer_layer(layer, expected, heads=4, eps=1e-5, act=silu)
    assert relative_error(y, expected) < ROUNDING


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (8, 12)),
        ({"patch_size": 1}, (4, 6)),
        ({"patch_size": 3}, (6, 12)),
        ({"patch_size": 4}, (8, 16)),
        ({"conv_kernel_size": 1, "num_attention_heads": 2}, (8, 8)),
        ({"conv_kernel_size": 5, "layer_norm_eps": 1e-3}, (8, 8)),
    ],
    ids=str,
)
@pytest.mark.parametrize(("activation", "act"), [("silu", silu), ("relu", relu)])
def test_mobilevit_block(changes, size, activation, act):
    config, weights = parts(hidden_act=activation, **changes)
    name = "encoder.layer.2"
    x = normal(2, 8, *size)
    y = layers.mobilevit_block(Scope(weights, name), x, config, depth=2, stride=2, dilation=1)
    expected = define_mobilevit_block(Part(weights, name), x, config, act, depth=2)
    assert relative_error(y, expected) < 10 * ROUNDING


# the block with plain parameters, so that one sees where each pixel goes


def plain_block(channels: int) -> dict[str, np.ndarray]:
    """Everything passes through, and the transformer adds the mean of its sequence to every token."""
    eye = np.eye(channels)
    weights: dict[str, np.ndarray] = {"conv_1x1.convolution.weight": eye[:, :, None, None]}

    def conv(name: str, matrix: np.ndarray, kernel: int, *, depthwise: bool = False) -> None:
        weight = np.zeros((matrix.shape[0], 1 if depthwise else matrix.shape[1], kernel, kernel))
        weight[:, :, kernel // 2, kernel // 2] = 1 if depthwise else matrix
        weights[f"{name}.convolution.weight"] = weight
        for leaf, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1 - 1e-5)):
            weights[f"{name}.normalization.{leaf}"] = np.full(matrix.shape[0], float(value))

    conv("downsampling_layer.expand_1x1", eye, 1)
    conv("downsampling_layer.conv_3x3", eye, 3, depthwise=True)
    conv("downsampling_layer.reduce_1x1", 0 * eye, 1)  # the residual is all that is left
    conv("conv_kxk", eye, 3)
    conv("conv_projection", eye, 1)
    conv("fusion", np.hstack([eye, 10 * eye]), 3)  # what came in, plus ten times what the transformer made
    zero = np.zeros(channels)
    layer = "transformer.layer.0"
    for name, matrix in (("query", 0 * eye), ("key", 0 * eye), ("value", eye)):
        weights[f"{layer}.attention.attention.{name}.weight"] = matrix
    for name, matrix in (("attention.output.dense", eye), ("intermediate.dense", 0 * eye), ("output.dense", 0 * eye)):
        weights[f"{layer}.{name}.weight"], weights[f"{layer}.{name}.bias"] = matrix, zero
    for name in (f"{layer}.layernorm_before", f"{layer}.layernorm_after", "layernorm"):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = zero + 1, zero
    return weights


NO_NORM = OpTable()._replace(layer_norm=lambda x, **_: x)


@pytest.mark.parametrize(("patch_size", "size"), [(1, (3, 4)), (2, (4, 6)), (3, (6, 3)), (4, (4, 8))])
def test_a_token_meets_the_pixels_at_its_own_place_in_all_patches(patch_size, size):
    """Every pixel carries its own address, so a pixel in a wrong place or a wrong sequence shows."""
    x = np.arange(2.0 * 4 * math.prod(size)).reshape(2, 4, *size)
    config = tiny(patch_size=patch_size, hidden_act="linear")
    y = layers.mobilevit_block(Scope(plain_block(4), ops=NO_NORM), x, config, depth=1, stride=1, dilation=1)
    seen = x.copy()
    for py in range(patch_size):
        for px in range(patch_size):
            place = np.s_[:, :, py::patch_size, px::patch_size]
            seen[place] += x[place].mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(y, x + 10 * seen, rtol=1e-12)


def test_the_taps_of_the_block_show_the_tokens():
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    heard = {}
    scope = Scope(plain_block(1), tap=lambda name, value: heard.setdefault(name, value), ops=NO_NORM)
    layers.mobilevit_block(scope, x, tiny(num_attention_heads=1, hidden_act="linear"), depth=1, stride=1, dilation=1)
    assert heard["unfolded"].shape == (4, 4, 1)
    np.testing.assert_allclose(heard["unfolded"][1, :, 0], [1, 3, 9, 11], rtol=1e-12)
    assert heard["folded"].shape == (1, 1, 4, 4)
    np.testing.assert_allclose(heard["folded"][0, 0, 0], [0 + 5, 1 + 6, 2 + 5, 3 + 6], rtol=1e-12)
    np.testing.assert_array_equal(heard["transformer.layer.0.attention.attention.probs"], np.full((4, 1, 4, 4), 0.25))


@pytest.mark.parametrize(
    ("patch_size", "size", "grid"),
    [
        (2, (4, 6), None),
        (2, (4, 5), (4, 6)),
        (2, (1, 1), (2, 2)),
        (3, (6, 9), None),
        (3, (7, 9), (9, 9)),
        (4, (5, 2), (8, 4)),
        (1, (5, 7), None),
    ],
)
def test_the_map_is_resized_to_whole_patches_and_back_only_if_need_be(patch_size, size, grid):
    calls = []

    def resize(x: np.ndarray, target: tuple[int, int]) -> np.ndarray:
        calls.append((x.shape[2:], tuple(target)))
        return ops.resize_bilinear(x, target)

    config, weights = parts(patch_size=patch_size)
    scope = Scope(weights, "encoder.layer.2", ops=OpTable()._replace(resize_bilinear=resize))
    x = normal(1, 8, *size)
    y = layers.mobilevit_block(scope, x, config, depth=2, stride=1, dilation=1)
    assert y.shape == (1, 10, *size)
    assert calls == ([] if grid is None else [(size, grid), (grid, size)])


def test_the_tokens_are_resized_and_not_the_wide_map():
    """Both resizes act on the D channels between conv_1x1 and conv_projection."""
    heard: dict[str, np.ndarray] = {}
    config, weights = parts()
    scope = Scope(weights, "encoder.layer.2", tap=lambda name, value: heard.setdefault(name, value))
    layers.mobilevit_block(scope, normal(1, 8, 5, 7), config, depth=2, stride=1, dilation=1)
    at = "encoder.layer.2."
    resized = ops.resize_bilinear(heard[at + "conv_1x1"], (6, 8))
    assert np.array_equal(heard[at + "unfolded"], ops.unfold_patches(resized, 2))
    folded = ops.resize_bilinear(ops.fold_patches(heard[at + "layernorm"], 2, 6, 8), (5, 7))
    assert np.array_equal(heard[at + "folded"], folded)
    projected = define_conv_layer(Part(weights, at + "conv_projection"), folded, silu)
    assert relative_error(heard[at + "conv_projection"], projected) < ROUNDING


# the encoder


def spied(function: Callable[..., np.ndarray], calls: list[dict[str, Any]]) -> Callable[..., np.ndarray]:
    def spy(x: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        y = function(x, *args, **kwargs)
        calls.append({"in": x.shape, "out": y.shape, "args": args, **kwargs})
        return y

    return spy


# stride and dilation of the depthwise convolutions, in order: layer 0, the three of layer 1, layers 2, 3 and 4
DEPTHWISE = {
    32: ([1, 2, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1]),
    16: ([1, 2, 1, 1, 2, 2, 1], [1, 1, 1, 1, 1, 1, 1]),
    8: ([1, 2, 1, 1, 2, 1, 1], [1, 1, 1, 1, 1, 1, 2]),
}


@pytest.mark.parametrize("output_stride", DEPTHWISE)
@pytest.mark.parametrize("kernel", [3, 5])
def test_strides_and_dilations_of_the_encoder(output_stride, kernel):
    calls: list[dict[str, Any]] = []
    config, weights = parts(output_stride=output_stride, conv_kernel_size=kernel)
    scope = Scope(weights, "encoder", ops=OpTable()._replace(conv2d=spied(ops.conv2d, calls)))
    states = layers.encoder(scope, normal(1, 4, 32, 64), config)
    depthwise = [call for call in calls if call["groups"] > 1]
    strides, dilations = DEPTHWISE[output_stride]
    assert [call["stride"] for call in depthwise] == strides
    assert [call["dilation"] for call in depthwise] == dilations
    assert all(call["groups"] == call["in"][1] for call in depthwise)
    others = [call for call in calls if call["groups"] == 1]
    assert all((call["stride"], call["dilation"]) == (1, 1) for call in others)  # conv_kxk and fusion are not dilated
    for call in calls:
        assert call["padding"] == (call["weight"].shape[-1] // 2) * call["dilation"]
    shrinking = {32: (1, 2, 4, 8, 16), 16: (1, 2, 4, 8, 8), 8: (1, 2, 4, 4, 4)}[output_stride]
    assert [state.shape for state in states] == [
        (1, channels, 32 // factor, 64 // factor)
        for channels, factor in zip((6, 8, 10, 12, 14), shrinking, strict=True)
    ]


def test_encoder_is_its_layers_one_after_the_other():
    config, weights = parts(output_stride=32)
    p = Part(weights, "encoder")
    x = normal(1, 4, 16, 32)
    states = layers.encoder(Scope(weights, "encoder"), x, config)
    expected = define_inverted_residual(p.at("layer.0.layer.0"), x, silu)
    assert relative_error(states[0], expected) < ROUNDING
    for i, stride in enumerate((2, 1, 1)):
        expected = define_inverted_residual(p.at(f"layer.1.layer.{i}"), expected, silu, stride=stride)
    assert relative_error(states[1], expected) < ROUNDING
    for i, depth in ((2, 2), (3, 4)):
        expected = define_mobilevit_block(p.at(f"layer.{i}"), expected, config, silu, depth)
        assert relative_error(states[i], expected) < 10 * ROUNDING


def test_equal_necks_add_the_input_of_a_block_whose_stride_was_dropped():
    config, weights = parts(neck_hidden_sizes=[8] * 7, output_stride=8)
    heard: dict[str, np.ndarray] = {}
    layers.encoder(Scope(weights, "encoder", tap=heard.__setitem__), normal(1, 8, 8, 8), config)
    for layer, added in ((2, False), (3, True), (4, True)):
        at = f"encoder.layer.{layer}.downsampling_layer"
        difference = heard[at] - heard[f"{at}.reduce_1x1"]
        assert np.array_equal(heard[at], heard[f"{at}.reduce_1x1"]) is not added
        if added:
            assert relative_error(difference, heard[f"encoder.layer.{layer - 1}"]) < ROUNDING


# the segmentation head


@pytest.mark.parametrize("size", [(4, 6), (1, 1), (5, 3)])
@pytest.mark.parametrize("hidden_act", ["silu", "gelu"])
def test_aspp(hidden_act, size):
    config, weights = parts("segmentation", hidden_act=hidden_act)
    name = "segmentation_head.aspp"
    x = normal(2, 14, *size)
    y = layers.aspp(Scope(weights, name), x, atrous_rates=config.atrous_rates)
    assert relative_error(y, define_aspp(Part(weights, name), x, (1, 2, 3))) < ROUNDING


def test_aspp_dilates_in_the_order_of_the_rates_at_any_output_stride():
    for output_stride in (8, 16, 32):
        calls: list[dict[str, Any]] = []
        config, weights = parts("segmentation", output_stride=output_stride, atrous_rates=[7, 3, 5])
        table = OpTable()._replace(conv2d=spied(ops.conv2d, calls))
        scope = Scope(weights, "segmentation_head.aspp", ops=table)
        layers.aspp(scope, normal(1, 14, 4, 4), atrous_rates=config.atrous_rates)
        kernels = [(c["weight"].shape[-1], c["dilation"], c["padding"], c["stride"]) for c in calls]
        assert kernels == [(1, 1, 0, 1), (3, 7, 7, 1), (3, 3, 3, 1), (3, 5, 5, 1), (1, 1, 0, 1), (1, 1, 0, 1)]
        assert calls[4]["in"] == (1, 14, 1, 1)  # pooled first, then convolved
        assert calls[5]["in"] == (1, 45, 4, 4)


def test_the_branches_lie_in_order():
    """Project picks one branch at a time: its channels must be those of that branch."""
    _, weights = parts("segmentation")
    name = "segmentation_head.aspp"
    x = normal(1, 14, 4, 5)
    heard: dict[str, np.ndarray] = {}
    for index in range(5):
        weight = np.zeros((9, 45, 1, 1))
        weight[:, 9 * index : 9 * index + 9, 0, 0] = np.eye(9)
        weights[f"{name}.project.convolution.weight"] = weight
        layers.aspp(Scope(weights, name, tap=heard.__setitem__), x, atrous_rates=(1, 2, 3))
        assert np.array_equal(heard[f"{name}.project.convolution"], heard[f"{name}.convs.{index}"])
    assert np.ptp(heard[f"{name}.convs.4"], axis=(2, 3)).max() == 0  # the mean of the whole map, everywhere


@pytest.mark.parametrize("hidden_act", [act for act in HIDDEN_ACTS if act != "relu"])
def test_the_head_uses_relu_whatever_the_config_says(hidden_act):
    used: set[str] = set()
    activations = {name: spied(function, []) for name, function in ops.ACTIVATIONS.items()}

    class Recorder(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            used.add(key)
            return super().__getitem__(key)

    config, weights = parts("segmentation", hidden_act=hidden_act)
    table = OpTable()._replace(activations=Recorder(activations))
    head = Scope(weights, "segmentation_head", ops=table)
    layers.deeplabv3(head, normal(1, 14, 2, 2), atrous_rates=config.atrous_rates)
    assert used == {"relu"}
    used.clear()
    network.base_model(Scope(weights, "mobilevit", ops=table), pixels(), config, expand_output=False)
    assert used == {hidden_act}


def test_deeplabv3_classifies_with_a_bias_and_no_activation():
    _, weights = parts("segmentation")
    x = normal(1, 14, 3, 4)
    p = Part(weights, "segmentation_head")
    y = layers.deeplabv3(Scope(weights, "segmentation_head"), x, atrous_rates=(1, 2, 3))
    expected = define_conv_layer(p.at("classifier"), define_aspp(p.at("aspp"), x, (1, 2, 3)), normalize=False)
    assert relative_error(y, expected + p["classifier.convolution.bias"][:, None, None]) < ROUNDING
    assert (y < 0).any()


# taps


@pytest.mark.parametrize("head", [None, "classification", "segmentation"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_taps_observe_only(head, precision):
    model = make_model(head, precision=precision)
    x = pixels(2, height=33, width=41, dtype=precision)
    kept = x.copy()
    weights = {name: value.copy() for name, value in model.state_dict().items()}
    copies: dict[str, np.ndarray] = {}

    def copy_and_answer(name: str, value: np.ndarray) -> np.ndarray:
        copies[name] = value.copy()
        return value + 1  # what a tap returns has no effect

    plain = model.forward(model.scope(), x)
    tapped = model.forward(model.scope(copy_and_answer), x)
    after = model.taps(x)
    for a, b in zip(_arrays(plain), _arrays(tapped), strict=True):
        assert a.tobytes() == b.tobytes()
    for name, value in after.items():  # nothing that was shown is changed later
        if name != "pixel_values":
            assert value.tobytes() == copies[name].tobytes()
    assert np.array_equal(x, kept)
    assert all(np.array_equal(value, weights[name]) for name, value in model.state_dict().items())


def _arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, tuple):
        return [array for item in value for array in _arrays(item)]
    return [] if value is None else [value]


@pytest.mark.parametrize("head", [None, "classification", "segmentation"])
def test_a_pass_over_read_only_arrays_works(head):
    """No layer writes into its input or into the weights."""
    config = tiny()
    weights = random_weights(config, head)
    x = pixels(height=21, width=20)
    for array in (x, *weights.values()):
        array.flags.writeable = False

    def freeze(name: str, value: np.ndarray) -> None:
        value.flags.writeable = False

    scope = Scope(weights, tap=freeze)
    if head == "classification":
        network.image_classification(scope, x, config)
    elif head == "segmentation":
        network.semantic_segmentation(scope, x, config)
    else:
        network.base_model(scope, x, config, expand_output=True)
