"""Every operator against its counterpart in torch 2.13 and transformers 5.23."""

from __future__ import annotations

import math

import numpy as np
import pytest

from npmobilevit import ops
from npmobilevit.errors import ShapeError

pytestmark = pytest.mark.framework

torch = pytest.importorskip("torch")
F = torch.nn.functional

DTYPES = (np.float32, np.float64)
# Largest difference, relative to the largest value of the answer. float64: the two sums differ in order only.
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-13}

each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32).astype(dtype)


def assert_same(actual, expected, scale=1.0):
    expected = expected.detach().numpy()
    tolerance = TOLERANCE[expected.dtype.type] * max(1e-300, float(np.abs(expected).max(initial=0))) * scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, strict=True)


def tensors(*arrays):
    return tuple(None if array is None else torch.from_numpy(array) for array in arrays)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_assert_same_fails():
    x = np.array([1.0, 2.0])
    for wrong in (x + 1e-12, x[None], x.astype(np.float32)):
        with pytest.raises(AssertionError):
            assert_same(wrong, torch.from_numpy(x))


# ---- activations -------------------------------------------------------------------------------------------------


def act2fn():
    return pytest.importorskip("transformers.activations").ACT2FN


def test_every_activation_of_transformers_without_parameters_is_there():
    """ "prelu" and "xielu" have parameters of their own."""
    assert set(ops.ACTIVATIONS) == set(act2fn()) - {"prelu", "xielu"}


@each_dtype
@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activation(name, dtype):
    """TRF-06: absolute and relative to the value, so that a neighbour cannot hide behind large outputs."""
    points = [np.linspace(-12, 12, 2001), np.linspace(-120, 120, 301), 20 + np.linspace(-1e-3, 1e-3, 21)]
    x = np.concatenate(points).astype(dtype)
    expected = act2fn()[name](torch.from_numpy(x)).numpy()
    eps = np.finfo(dtype).eps
    # gelu of transformers forms 1 + erf(x), which cancels below: an absolute error of |x| * eps
    largest = np.maximum(1, np.maximum(np.abs(x), np.abs(expected)))
    assert ops.ACTIVATIONS[name](x).dtype == expected.dtype == dtype
    assert np.max(np.abs(ops.ACTIVATIONS[name](x) - expected) / largest) <= 8 * eps


@each_dtype
@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activation_at_the_ends_of_the_range(name, dtype):
    info = np.finfo(dtype)
    edge = np.array([0, info.smallest_subnormal, info.tiny, 1e4, 1e15, info.max / 2, info.max], dtype)
    x = np.concatenate([edge, -edge])
    expected = act2fn()[name](torch.from_numpy(x)).numpy()
    keep = np.isfinite(expected) | (name == "relu2")  # some forms of torch give inf * 0 = nan up there; ours do not
    np.testing.assert_allclose(ops.ACTIVATIONS[name](x)[keep], expected[keep], rtol=1e-6, atol=info.tiny)
    assert keep.sum() >= 10


@each_dtype
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax(axis, dtype):
    x = 10 * normal(4, 5, 6, dtype=dtype)
    assert_same(ops.softmax(x, axis=axis), torch.softmax(torch.from_numpy(x), dim=axis))


# ---- convolution, normalisation, linear, pooling -------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "with_bias", "options"),
    [
        ((2, 3, 9, 11), (8, 3, 3, 3), False, {"stride": 2, "padding": 1}),  # the stem
        ((1, 3, 8, 8), (8, 3, 3, 3), False, {"stride": 2, "padding": 1}),
        ((2, 16, 7, 9), (16, 1, 3, 3), False, {"padding": 1, "groups": 16}),  # depthwise
        ((2, 16, 8, 9), (16, 1, 3, 3), False, {"stride": 2, "padding": 1, "groups": 16}),
        ((1, 8, 9, 9), (8, 1, 3, 3), False, {"padding": 2, "dilation": 2, "groups": 8}),  # output stride 8
        ((1, 8, 20, 13), (4, 8, 3, 3), False, {"padding": 6, "dilation": 6}),  # ASPP
        ((1, 8, 5, 4), (4, 8, 3, 3), False, {"padding": 18, "dilation": 18}),
        ((2, 12, 6, 7), (9, 4, 3, 3), True, {"padding": 1, "groups": 3}),
        ((2, 12, 6, 7), (8, 6, 3, 3), True, {"padding": 1, "groups": 2}),
        ((2, 4, 6, 7), (8, 1, 3, 3), True, {"padding": 1, "groups": 4}),
        ((2, 12, 6, 7), (21, 12, 1, 1), True, {}),
        ((1, 6, 11, 12), (4, 6, 5, 5), False, {"padding": 2}),
        ((1, 3, 9, 12), (2, 3, 2, 3), True, {"stride": (1, 2), "padding": (2, 0), "dilation": (3, 1)}),
    ],
)
def test_conv2d(x_shape, w_shape, with_bias, options, dtype):
    x, weight = normal(*x_shape, dtype=dtype), normal(*w_shape, seed=1, dtype=dtype)
    bias = normal(w_shape[0], seed=2, dtype=dtype) if with_bias else None
    tx, tw, tb = tensors(x, weight, bias)
    assert_same(ops.conv2d(x, weight=weight, bias=bias, **options), F.conv2d(tx, tw, tb, **options))


def test_conv2d_random_options():
    generator = np.random.default_rng(0)
    for seed in range(120):
        groups, kernel = int(generator.integers(1, 4)), tuple(generator.integers(1, 5, 2).tolist())
        options = {
            "stride": tuple(generator.integers(1, 4, 2).tolist()),
            "padding": tuple(generator.integers(0, 5, 2).tolist()),
            "dilation": tuple(generator.integers(1, 4, 2).tolist()),
            "groups": groups,
        }
        x = normal(int(generator.integers(1, 3)), 2 * groups, *generator.integers(1, 14, 2), seed=seed)
        weight = normal(3 * groups, 2, *kernel, seed=seed)
        try:
            expected = F.conv2d(*tensors(x, weight), **options)
        except RuntimeError:  # the kernel does not fit
            with pytest.raises(ShapeError):
                ops.conv2d(x, weight=weight, **options)
        else:
            assert_same(ops.conv2d(x, weight=weight, **options), expected)


@each_dtype
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_batch_norm(eps, dtype):
    x = 3 * normal(2, 5, 6, 7, dtype=dtype) + 1
    weight, bias, mean = (normal(5, seed=i, dtype=dtype) for i in range(3))
    var = normal(5, seed=3, dtype=dtype) ** 2
    actual = ops.batch_norm(x, weight=weight, bias=bias, running_mean=mean, running_var=var, eps=eps)
    tx, tw, tb, tm, tv = tensors(x, weight, bias, mean, var)
    assert_same(actual, F.batch_norm(tx, tm, tv, tw, tb, training=False, eps=eps))


def test_batch_norm_default_is_that_of_torch():
    x, module = 1e-3 * normal(1, 2, 3, 3), torch.nn.BatchNorm2d(2, dtype=torch.float64).eval()
    module.running_var.zero_()
    state = {name: value.numpy() for name, value in module.state_dict().items() if name != "num_batches_tracked"}
    assert_same(ops.batch_norm(x, **state), module(torch.from_numpy(x)))


@each_dtype
@pytest.mark.parametrize("shape", [(7,), (3, 5), (4, 9, 144)])
@pytest.mark.parametrize(("spread", "eps"), [(1, 1e-5), (1e-3, 1e-5), (1, 1e-2), (100, 1e-12)])
def test_layer_norm(shape, spread, eps, dtype):
    x = spread * normal(*shape, dtype=dtype) + dtype(0.5)
    weight, bias = normal(shape[-1], seed=1, dtype=dtype), normal(shape[-1], seed=2, dtype=dtype)
    x = x.astype(dtype)
    actual = ops.layer_norm(x, weight=weight, bias=bias, eps=eps)
    tx, tw, tb = tensors(x, weight, bias)
    # a spread of 1e-3 around 0.5 magnifies the rounding of the mean
    assert_same(actual, F.layer_norm(tx, shape[-1:], tw, tb, eps), scale=100 if spread < 1 else 1)


def test_layer_norm_default_is_that_of_torch():
    x, module = 1e-3 * normal(3, 4), torch.nn.LayerNorm(4, dtype=torch.float64)
    assert_same(ops.layer_norm(x, weight=np.ones(4), bias=np.zeros(4)), module(torch.from_numpy(x)))


@each_dtype
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 5, 6), (2, 3, 4, 6)])
def test_linear(shape, bias, dtype):
    x, weight = normal(*shape, dtype=dtype), normal(6, 6, seed=1, dtype=dtype)
    b = normal(6, seed=2, dtype=dtype) if bias else None
    assert_same(ops.linear(x, weight=weight, bias=b), F.linear(*tensors(x, weight, b)))


@each_dtype
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 5, 7, 9), (2, 2, 1, 1)])
def test_global_avg_pool(shape, dtype):
    x = normal(*shape, dtype=dtype)
    expected = F.adaptive_avg_pool2d(torch.from_numpy(x), 1).flatten(1)
    assert_same(ops.global_avg_pool(x), expected)
    assert_same(ops.global_avg_pool(x), torch.mean(torch.from_numpy(x), dim=[-2, -1]))  # as MobileViTModel has it


# ---- attention and patches -----------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize(("leading", "queries", "keys", "d"), [((2, 4), 9, 9, 16), ((3,), 4, 7, 5), ((1, 1), 6, 6, 6)])
def test_scaled_dot_product_attention(leading, queries, keys, d, dtype):
    q, k = normal(*leading, queries, d, dtype=dtype), normal(*leading, keys, d, seed=1, dtype=dtype)
    v = normal(*leading, keys, d, seed=2, dtype=dtype)
    tq, tk, tv = tensors(q, k, v)
    assert_same(ops.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(tq, tk, tv))
    assert_same(ops.attention_scores(q, k), tq @ tk.transpose(-1, -2) / math.sqrt(d))
    probs = ops.softmax(ops.attention_scores(q, k))
    assert_same(ops.attend(probs, v), torch.from_numpy(probs) @ tv)


def mobilevit():
    return pytest.importorskip("transformers.models.mobilevit.modeling_mobilevit")


def config(**changes):
    return pytest.importorskip("transformers").MobileViTConfig(**changes)


@each_dtype
@pytest.mark.parametrize(("width", "heads", "qkv_bias"), [(16, 4, True), (12, 1, True), (8, 8, False)])
def test_multi_head_attention(width, heads, qkv_bias, dtype):
    module = mobilevit().MobileViTAttention(config(num_attention_heads=heads, qkv_bias=qkv_bias), width).eval()
    module.to(torch.float32 if dtype is np.float32 else torch.float64)
    for number, parameter in enumerate(module.parameters()):
        parameter.copy_(torch.from_numpy(normal(*parameter.shape, seed=number, dtype=dtype)) / 2)
    groups: dict[str, dict[str, np.ndarray]] = {"output": {}}
    for name, value in module.state_dict().items():
        *_, group, leaf = name.split(".")
        groups.setdefault("output" if group == "dense" else group, {})[leaf] = value.numpy()
    assert ("bias" in groups["query"]) == qkv_bias
    x = normal(3, 9, width, dtype=dtype)
    actual = ops.multi_head_attention(x, **groups, num_heads=heads)
    # float32: a rounding of a score of 20 is magnified by exp
    assert_same(actual, module(torch.from_numpy(x)), scale=10 if dtype is np.float32 else 1)


@pytest.mark.parametrize(("patch", "height", "width"), [(2, 4, 6), (2, 6, 4), (1, 3, 5), (3, 9, 6), (4, 4, 8)])
def test_patches(patch, height, width):
    """UNF-01 ... UNF-04: the sequences of transformers, to the bit."""
    layer = mobilevit().MobileViTLayer(config(patch_size=patch), 4, 5, stride=1, hidden_size=144, num_stages=1)
    x = np.arange(2.0 * 3 * height * width).reshape(2, 3, height, width)
    patches, info = layer.unfolding(torch.from_numpy(x))
    tokens = ops.unfold_patches(x, patch)
    np.testing.assert_array_equal(tokens, patches.numpy(), strict=True)
    other = normal(*tokens.shape)
    folded = layer.folding(torch.from_numpy(other), info).numpy()
    np.testing.assert_array_equal(ops.fold_patches(other, patch, height, width), folded, strict=True)


@pytest.mark.parametrize(("height", "width"), [(5, 4), (5, 7), (1, 1), (3, 6)])
def test_patches_of_a_map_that_does_not_divide(height, width):
    """Resize, unfold, fold, resize back: what the block does (UNF-06, UNF-08, UNF-09)."""
    layer = mobilevit().MobileViTLayer(config(), 4, 5, stride=1, hidden_size=144, num_stages=1)
    x = normal(2, 3, height, width)
    patches, info = layer.unfolding(torch.from_numpy(x))
    size = (height + height % 2, width + width % 2)
    assert_same(ops.unfold_patches(ops.resize_bilinear(x, size), 2), patches)
    other = normal(*patches.shape)
    actual = ops.resize_bilinear(ops.fold_patches(other, 2, *size), (height, width))
    assert_same(actual, layer.folding(torch.from_numpy(other), info))


# ---- resize ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 21, 64])
def test_resize_bilinear_float64(channels):
    generator = np.random.default_rng(channels)
    for seed in range(30):
        size_in, size_out = generator.integers(1, 60, 2), tuple(generator.integers(1, 60, 2).tolist())
        x = normal(1, channels, *size_in, seed=seed)
        expected = F.interpolate(torch.from_numpy(x), size=size_out, mode="bilinear", align_corners=False)
        assert_same(ops.resize_bilinear(x, size_out), expected)


PAIRS = [((32, 32), (512, 512)), ((33, 17), (500, 375)), ((57, 31), (201, 999)), ((375, 500), (99, 101))]
PAIRS += [((7, 7), (8, 8)), ((8, 8), (7, 7)), ((1, 1), (32, 32)), ((2, 1), (1, 2)), ((640, 3), (321, 5))]
PAIRS += [
    ((13, 1000), (12, 701)),
    ((3, 2047), (3, 2048)),
    ((64, 64), (1, 1)),
    ((5, 500), (4, 499)),
    ((2, 7), (2, 1023)),
]


@pytest.mark.parametrize("channels", [1, 3, 21])
@pytest.mark.parametrize(("size_in", "size_out"), PAIRS)
def test_resize_bilinear_float32(size_in, size_out, channels):
    """Coordinates as torch rounds them; one more or one fewer rounding is off by up to 1e-5 (spec.md 1.5)."""
    x = normal(1, channels, *size_in, dtype=np.float32)
    expected = F.interpolate(torch.from_numpy(x), size=size_out, mode="bilinear", align_corners=False).numpy()
    np.testing.assert_allclose(ops.resize_bilinear(x, size_out), expected, rtol=0, atol=6e-7, strict=True)


# ---- losses ---------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize(("shape", "ignore"), [((6, 5), -100), ((2, 5, 7), -100), ((2, 21, 8, 9), 255), ((3, 2), 0)])
def test_cross_entropy(shape, ignore, dtype):
    logits = 5 * normal(*shape, dtype=dtype)
    labels = np.random.default_rng(0).integers(0, shape[1], size=(shape[0], *shape[2:]))
    labels.flat[::3] = ignore
    expected = F.cross_entropy(*tensors(logits, labels), ignore_index=ignore).item()
    assert ops.cross_entropy(logits, labels, ignore_index=ignore) == pytest.approx(expected, rel=TOLERANCE[dtype])


@each_dtype
def test_cross_entropy_of_nothing_is_nan(dtype):
    logits, labels = normal(2, 3, 2, dtype=dtype), np.full((2, 2), 255)
    assert math.isnan(F.cross_entropy(*tensors(logits, labels), ignore_index=255).item())
    assert math.isnan(ops.cross_entropy(logits, labels, ignore_index=255))
    assert math.isnan(F.cross_entropy(*tensors(logits[:0], labels[:0])).item())
    assert math.isnan(ops.cross_entropy(logits[:0], labels[:0]))


@pytest.mark.parametrize("label", [3, -1, 255])
def test_cross_entropy_refuses_what_torch_refuses(label):
    logits, labels = normal(2, 3), np.array([0, label])
    with pytest.raises(IndexError):
        F.cross_entropy(*tensors(logits, labels))
    with pytest.raises(ShapeError):
        ops.cross_entropy(logits, labels)


@each_dtype
@pytest.mark.parametrize("scale", [1, 30, 1000])
def test_binary_cross_entropy(scale, dtype):
    logits, labels = scale * normal(4, 5, dtype=dtype), np.random.default_rng(0).random((4, 5)).astype(dtype)
    expected = F.binary_cross_entropy_with_logits(*tensors(logits, labels)).item()
    actual = ops.binary_cross_entropy_with_logits(logits, labels)
    assert actual == pytest.approx(expected, rel=TOLERANCE[dtype])


@each_dtype
def test_mean_squared_error(dtype):
    logits, labels = normal(4, 5, dtype=dtype), normal(4, 5, seed=1, dtype=dtype)
    expected = F.mse_loss(*tensors(logits, labels)).item()
    assert ops.mean_squared_error(logits, labels) == pytest.approx(expected, rel=TOLERANCE[dtype])
