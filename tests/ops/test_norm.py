import math

import definitions
import numpy as np
import pytest
from definitions import DTYPES, assert_close, assert_refused, integers, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.ops import batch_norm, layer_norm

quick = settings(derandomize=True, deadline=None, max_examples=25)


def batch_norm_parameters(channels, dtype=np.float64, seed=0):
    return {
        "weight": normal(channels, seed=seed + 1, dtype=dtype),
        "bias": normal(channels, seed=seed + 2, dtype=dtype),
        "running_mean": normal(channels, seed=seed + 3, dtype=dtype),
        "running_var": normal(channels, seed=seed + 4, dtype=dtype) ** 2,
    }


# ---- batch normalisation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 4, 4, 4), (3, 1, 1, 1), (1, 5, 1, 7)])
@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.5])
def test_batch_norm_definition(shape, eps, dtype):
    """NRM-02 and WGT-06: mistaken roles of the four vectors; 4 channels of 4x4: a wrong axis (NRM-07)."""
    x = normal(*shape, dtype=dtype)
    p = batch_norm_parameters(shape[1], dtype)
    expected = definitions.batch_norm(x, p["weight"], p["bias"], p["running_mean"], p["running_var"], eps)
    scale = abs(p["weight"].astype(float)) / np.sqrt(p["running_var"].astype(float) + eps)
    magnitude = np.max(abs(p["bias"]) + scale * (abs(p["running_mean"]) + abs(x).max()))
    assert_close(batch_norm(x, **p, eps=eps), expected, roundings=8, magnitude=magnitude)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_golden(dtype):
    """sqrt(3 + 1) = 2: y = (x - 5) / 2 * 8 + 0.25. eps outside the root would divide by 2.73, var by 4 or 3."""
    x = np.array([5.0, 6.0, 4.0, 9.0], dtype).reshape(1, 1, 2, 2)
    vectors = {"weight": 8.0, "bias": 0.25, "running_mean": 5.0, "running_var": 3.0}
    y = batch_norm(x, **{name: np.array([value], dtype) for name, value in vectors.items()}, eps=1.0)
    np.testing.assert_array_equal(y, np.array([0.25, 4.25, -3.75, 16.25], dtype).reshape(1, 1, 2, 2), strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_default_eps_is_1e_5(dtype):
    """NRM-01: with Keras's 1e-3 the answer would be 0.1, with 1e-6 3.2, without eps infinite."""
    x = np.full((1, 1, 1, 1), math.sqrt(1e-5), dtype)
    one, zero = np.ones(1, dtype), np.zeros(1, dtype)
    y = batch_norm(x, weight=one, bias=zero, running_mean=zero, running_var=zero)
    np.testing.assert_allclose(y, np.ones_like(x), rtol=4e-7 if dtype is np.float32 else 1e-15, strict=True)


@quick
@given(st.integers(0, 999), st.integers(1, 4), st.integers(1, 3))
def test_batch_norm_does_not_look_at_the_batch(seed, channels, images):
    """NRM-11 (statistics of the batch) and SYS-01: a pixel's answer does not depend on other pixels or images."""
    x = normal(images, channels, 3, 2, seed=seed)
    p = batch_norm_parameters(channels, seed=seed)
    y = batch_norm(x, **p)
    for n, i, j in np.ndindex(images, 3, 2):
        pixel = batch_norm(x[n : n + 1, :, i : i + 1, j : j + 1], **p)
        np.testing.assert_array_equal(y[n : n + 1, :, i : i + 1, j : j + 1], pixel)


@quick
@given(st.integers(0, 999))
def test_batch_norm_channels_are_independent(seed):
    x, p = normal(2, 4, 3, 3, seed=seed), batch_norm_parameters(4, seed=seed)
    order = np.random.default_rng(seed).permutation(4)
    shuffled = batch_norm(x[:, order], **{name: value[order] for name, value in p.items()})
    np.testing.assert_array_equal(shuffled, batch_norm(x, **p)[:, order])


def test_batch_norm_can_be_the_identity():
    x = integers(2, 3, 4, 5)
    one, zero = np.ones(3), np.zeros(3)
    y = batch_norm(x, weight=one, bias=zero, running_mean=zero, running_var=one, eps=0)
    np.testing.assert_array_equal(y, x, strict=True)


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (4,), (3, 1), (1, 3), (3, 1, 1)])
def test_batch_norm_refuses_a_parameter_that_would_be_broadcast(name, shape):
    x, p = normal(2, 3, 4, 3), batch_norm_parameters(3)
    assert_refused("parameter-shape", batch_norm, x, **(p | {name: np.ones(shape)}), match=name)


def test_batch_norm_refuses():
    x, p = normal(2, 3, 4, 3), batch_norm_parameters(3)
    assert_refused("array-ndim", batch_norm, x[0], **p)
    assert_refused("array-ndim", batch_norm, x[..., None], **p)
    negative = np.array([1.0, -1e-9, 1.0])
    assert_refused("parameter-range", batch_norm, x, **(p | {"running_var": negative}), match="running_var")
    for eps in (-1e-5, math.inf, math.nan):
        assert_refused("argument-range", batch_norm, x, **p, eps=eps, match="eps")


def test_batch_norm_accepts_a_variance_of_zero():
    x, p = normal(2, 3, 4, 3), batch_norm_parameters(3)
    assert np.isfinite(batch_norm(x, **(p | {"running_var": np.array([0.0, -0.0, 1.0])}))).all()


# ---- layer normalisation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 4, 4), (2, 3, 2, 6), (3, 1)])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_layer_norm_definition(shape, eps, dtype):
    """(2, 4, 4): NRM-07, normalising over the tokens; the vectors' roles: NRM-08, WGT-06."""
    x = normal(*shape, dtype=dtype)
    weight, bias = normal(shape[-1], seed=1, dtype=dtype), normal(shape[-1], seed=2, dtype=dtype)
    expected = definitions.layer_norm(x, weight, bias, eps)
    magnitude = float(np.max(abs(weight)) * 3 * math.sqrt(shape[-1]) + np.max(abs(bias)))
    assert_close(layer_norm(x, weight=weight, bias=bias, eps=eps), expected, roundings=20, magnitude=magnitude)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_golden(dtype):
    """Mean 3, squares 4 + 1 + 0 + 9 = 14, 14/4 + 0.5 = 4, root 2. Divided by D - 1: sqrt(5.17); eps outside: 2.37."""
    x = np.array([[1, 2, 3, 6]], dtype)
    y = layer_norm(x, weight=np.array([2, 4, 8, -2], dtype), bias=np.array([0, 0, 1, 0.5], dtype), eps=0.5)
    np.testing.assert_array_equal(y, np.array([[-2, -2, 1, -2.5]], dtype), strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_default_eps_is_1e_5(dtype):
    """NRM-05, NRM-06: tokens of low variance show eps. x = +-sqrt(1e-5) has variance 1e-5, so y = +-sqrt(1/2)."""
    x = np.array([[math.sqrt(1e-5), -math.sqrt(1e-5)]], dtype)
    y = layer_norm(x, weight=np.ones(2, dtype), bias=np.zeros(2, dtype))
    expected = np.array([[math.sqrt(0.5), -math.sqrt(0.5)]], dtype)
    np.testing.assert_allclose(y, expected, rtol=6e-7 if dtype is np.float32 else 1e-15, strict=True)


def test_layer_norm_survives_a_large_mean():
    """NRM-10: E[x**2] - mean**2 in float32 has no correct digit here, or is negative."""
    x = np.array([[4096, 4097, 4098, 4101]], np.float32)
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    y = layer_norm(x, weight=one, bias=zero, eps=0.5)
    np.testing.assert_array_equal(y, np.array([[-1, -0.5, 0, 1.5]], np.float32), strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_of_equal_values_is_the_bias(dtype):
    weight, bias = normal(5, seed=1, dtype=dtype), normal(5, seed=2, dtype=dtype)
    x = np.full((2, 3, 5), 3, dtype)
    np.testing.assert_array_equal(layer_norm(x, weight=weight, bias=bias), np.broadcast_to(bias, x.shape), strict=True)


@quick
@given(st.integers(0, 999), st.integers(2, 9), st.integers(-50, 50), st.integers(1, 16))
def test_layer_norm_ignores_shift_and_scale(seed, width, shift, factor):
    x = normal(3, width, seed=seed)
    weight, bias = normal(width, seed=seed + 1), normal(width, seed=seed + 2)
    y = layer_norm(x, weight=weight, bias=bias, eps=0)
    moved = layer_norm(factor * x + shift, weight=weight, bias=bias, eps=0)
    spread = np.std(x, axis=-1).min()
    np.testing.assert_allclose(moved, y, rtol=0, atol=1e-13 * (1 + abs(shift)) / min(1, spread) * 3)


@quick
@given(st.integers(0, 999), st.integers(1, 9))
def test_layer_norm_has_mean_zero_and_variance_one(seed, width):
    x = 10 * normal(4, width, seed=seed)
    y = layer_norm(x, weight=np.ones(width), bias=np.zeros(width), eps=1e-5)
    variance = x.var(axis=-1)
    np.testing.assert_allclose(y.mean(axis=-1), np.zeros(4), rtol=0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=-1), variance / (variance + 1e-5), rtol=1e-11, atol=0)


@quick
@given(st.integers(0, 999))
def test_layer_norm_tokens_are_independent(seed):
    x, weight, bias = normal(2, 5, 4, seed=seed), normal(4, seed=seed + 1), normal(4, seed=seed + 2)
    y = layer_norm(x, weight=weight, bias=bias)
    for s, token in np.ndindex(2, 5):
        np.testing.assert_array_equal(y[s, token], layer_norm(x[s, token], weight=weight, bias=bias), strict=True)


def test_layer_norm_refuses():
    x, weight, bias = normal(2, 3, 4), normal(4), normal(4)
    assert_refused("array-ndim", layer_norm, np.array(1.0), weight=weight, bias=bias)
    assert_refused("array-ndim", layer_norm, np.ones((3, 0)), weight=np.ones(0), bias=np.ones(0))
    for shape in [(), (1,), (3,), (3, 4), (1, 4), (4, 1)]:
        assert_refused("parameter-shape", layer_norm, x, weight=np.ones(shape), bias=bias, match="weight")
        assert_refused("parameter-shape", layer_norm, x, weight=weight, bias=np.ones(shape), match="bias")
    for eps in (-1e-5, math.inf, math.nan):
        assert_refused("argument-range", layer_norm, x, weight=weight, bias=bias, eps=eps, match="eps")
