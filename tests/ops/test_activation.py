import inspect
import math

import numpy as np
import pytest
from definitions import DTYPES, UNIT, assert_close, assert_refused, integers, layouts, normal
from definitions import softmax as softmax_definition
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.ops import ACTIVATIONS, gelu, sigmoid, softmax
from npmobilevit.ops import activation as module

quick = settings(derandomize=True, deadline=None, max_examples=25)


# ---- the definitions, of one Python float ------------------------------------------------------------------------


def exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def plain_sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def softplus(x: float) -> float:
    """As torch has it: x itself above 20, which sqrtsoftplus shows in the tenth digit."""
    return x if x > 20 else math.log1p(exp(x))


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def tanh_gelu(x: float, factor: float) -> float:
    return 0.5 * x * (1 + math.tanh(factor * (x + 0.044715 * x * x * x)))


DEFINITIONS = {
    "gelu": lambda x: x * normal_cdf(x),
    "gelu_10": lambda x: min(10.0, max(-10.0, x * normal_cdf(x))),
    "gelu_accurate": lambda x: tanh_gelu(x, math.sqrt(2 / math.pi)),
    "gelu_fast": lambda x: tanh_gelu(x, 0.7978845608),
    "gelu_new": lambda x: tanh_gelu(x, math.sqrt(2 / math.pi)),
    "gelu_python": lambda x: x * normal_cdf(x),
    "gelu_python_tanh": lambda x: tanh_gelu(x, math.sqrt(2 / math.pi)),
    "gelu_pytorch_tanh": lambda x: tanh_gelu(x, math.sqrt(2 / math.pi)),
    "hardswish": lambda x: x * min(6.0, max(0.0, x + 3)) / 6,
    "laplace": lambda x: normal_cdf((x - 0.707107) / 0.282095),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "linear": lambda x: x,
    "mish": lambda x: x * math.tanh(softplus(x)),
    "quick_gelu": lambda x: x * plain_sigmoid(1.702 * x),
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "relu6": lambda x: min(6.0, max(x, 0.0)),
    "sigmoid": plain_sigmoid,
    "silu": lambda x: x * plain_sigmoid(x),
    "sqrtsoftplus": lambda x: math.sqrt(softplus(x)),
    "swish": lambda x: x * plain_sigmoid(x),
    "tanh": math.tanh,
}

# Dense where the functions bend, and where implementations change their formula (0.47 * sqrt(2), 4 * sqrt(2), 20)
POINTS = np.concatenate([np.linspace(-8, 8, 321), np.linspace(-60, 60, 61), 20 + np.linspace(-0.01, 0.01, 5)])


def test_every_activation_has_a_definition():
    """ACT2FN of transformers 5.23 without the two that have parameters (spec.md 1.1)."""
    assert sorted(ACTIVATIONS) == sorted(DEFINITIONS)


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        ACTIVATIONS["mine"] = np.abs  # type: ignore[index]


@pytest.mark.parametrize("name", sorted(set(DEFINITIONS) - {"linear"}))
def test_public_name_is_the_one_in_the_table(name):
    assert getattr(module, name) is ACTIVATIONS[name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_definition(name, dtype):
    """TRF-05, TRF-06 and NUM-03: a neighbour, the tanh form or a table in place of the function.

    Ten roundings of numbers no larger than max(1, |x|, |y|); in float64 1e-12 of the same.
    """
    x = POINTS.astype(dtype)
    expected = np.array([DEFINITIONS[name](float(value)) for value in x])
    unit = max(1e-13, UNIT[np.dtype(dtype)])
    error = np.abs(ACTIVATIONS[name](x).astype(float) - expected)
    largest = np.maximum(1, np.maximum(abs(x.astype(float)), abs(expected)))
    assert np.all(error <= 10 * unit * largest), f"largest error {np.max(error / largest)}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("sigmoid", {0: 0.5, math.log(3): 0.75, -math.log(3): 0.25}),
        ("silu", {0: 0, math.log(3): 0.75 * math.log(3), -math.log(3): -0.25 * math.log(3)}),
        ("quick_gelu", {0: 0, math.log(3) / 1.702: 0.75 * math.log(3) / 1.702}),
        # erf(1 / sqrt(2)) = 0.6827 of a normal distribution lies within one deviation, 0.9545 within two
        ("gelu", {0: 0, 1: 0.8413447460685429, -1: -0.15865525393145705, 2: 1.9544997361036416}),
        ("gelu_10", {1: 0.8413447460685429, 11: 10, -11: 0}),
        ("gelu_pytorch_tanh", {0: 0, 1: 0.8411919906082768, -1: -0.15880800939172324}),  # visibly not 0.84134
        ("relu", {-1: 0, 0: 0, 2.5: 2.5}),
        ("relu2", {-1: 0, 3: 9}),
        ("relu6", {-1: 0, 3: 3, 6.5: 6}),
        ("leaky_relu", {-1: -0.01, 3: 3}),
        ("hardswish", {-4: 0, -3: 0, -1: -1 / 3, 0: 0, 1: 2 / 3, 3: 3, 4: 4}),
        ("mish", {0: 0, math.log(math.e - 1): math.log(math.e - 1) * math.tanh(1)}),
        ("sqrtsoftplus", {math.log(math.e - 1): 1, 0: math.sqrt(math.log(2)), 25: 5}),
        ("laplace", {0.707107: 0.5, 0.707107 + 0.282095: 0.8413447460685429}),
        ("tanh", {0: 0, math.log(2): 0.6}),
    ],
)
def test_golden(name, points, dtype):
    y = ACTIVATIONS[name](np.array(list(points), dtype))
    assert y.dtype == dtype
    np.testing.assert_allclose(y, list(points.values()), rtol=0, atol=1e-15 if dtype is np.float64 else 1e-6)


def test_gelu_is_accurate_far_down_the_tail():
    """Computing 1 + erf there cancels every digit: below -6 half of them, below -8.3 all."""
    x = np.linspace(-37, -0.01, 500)
    expected = [value * normal_cdf(value) for value in x.tolist()]
    np.testing.assert_allclose(gelu(x), expected, rtol=2e-13, atol=0)


@pytest.mark.parametrize("name", ["sigmoid", "silu", "quick_gelu", "mish", "sqrtsoftplus", "gelu"])
def test_float32_is_accurate_to_a_few_last_digits(name):
    """Relative, not absolute: also where the answer is small."""
    x = np.linspace(-12, 12, 481).astype(np.float32)
    expected = np.array([DEFINITIONS[name](float(value)) for value in x])
    np.testing.assert_allclose(ACTIVATIONS[name](x), expected, rtol=2e-6, atol=0)


def extremes(dtype) -> np.ndarray:
    """Odd count, so that both the vector loop and the scalar rest of NumPy's kernels see each kind."""
    info = np.finfo(dtype)
    edge = [0.0, info.smallest_subnormal, info.tiny, info.eps, 1e-5, 1, 20, 88, 89, 104, 709, 710, 746, 1e15]
    edge += [math.sqrt(info.max), info.max / 2, info.max / 1.7, info.max]
    positive = np.array(edge, dtype)
    return np.concatenate([positive, -positive, np.tile(positive, 3)[:-1], -positive])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_any_finite_input_gives_the_limit_without_a_warning(name, dtype):
    """Warnings are errors here. ATT-13 and trap T15: exp of a large number overflows."""
    x = extremes(dtype)
    y = ACTIVATIONS[name](x)
    assert y.dtype == dtype
    if name == "relu2":
        np.testing.assert_array_equal(np.isinf(y), x.astype(np.longdouble) ** 2 * (x > 0) > np.finfo(dtype).max)
        return
    assert np.isfinite(y).all()
    huge = x >= 1e4
    limit = {"sigmoid": 1, "laplace": 1, "tanh": 1, "relu6": 6, "gelu_10": 10}.get(name, x[huge])
    limit = np.sqrt(x[huge]) if name == "sqrtsoftplus" else limit
    np.testing.assert_allclose(y[huge], np.broadcast_to(limit, huge.sum()), rtol=4 * np.finfo(dtype).eps)
    below = {"tanh": -1, "linear": x[x <= -1e4], "leaky_relu": dtype(0.01) * x[x <= -1e4]}.get(name, 0)
    np.testing.assert_allclose(y[x <= -1e4], np.broadcast_to(below, (x <= -1e4).sum()), rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_nan_comes_out_as_nan(name, dtype):
    """NUM-11: a comparison or a clamp must not turn NaN into a number."""
    y = ACTIVATIONS[name](np.array([1, np.nan, -1], dtype))
    np.testing.assert_array_equal(np.isnan(y), [False, True, False])


@pytest.mark.parametrize("name", DEFINITIONS)
def test_zero_dimensional_and_empty_arrays(name):
    np.testing.assert_allclose(ACTIVATIONS[name](np.array(0.5)), DEFINITIONS[name](0.5), rtol=1e-14)
    assert ACTIVATIONS[name](np.empty((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_elementwise(name):
    """Neither neighbours nor shape nor memory matter."""
    x = normal(3, 4, 5)
    y = ACTIVATIONS[name](x)
    for index in np.ndindex(*x.shape):
        np.testing.assert_allclose(ACTIVATIONS[name](x[index].reshape(1))[0], y[index], rtol=1e-14)
    for _, other in layouts(x):
        np.testing.assert_allclose(ACTIVATIONS[name](other), y, rtol=1e-14, strict=True)


@quick
@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=8))
def test_sigmoid_is_symmetric_and_between_zero_and_one(values):
    x = np.array(values)
    y = sigmoid(x)
    assert np.all((y >= 0) & (y <= 1))
    np.testing.assert_allclose(y + sigmoid(-x), np.ones_like(x), rtol=3e-16)


@quick
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8))
def test_gelu_forms_split_x(values):
    """x = gelu(x) - gelu(-x), as Phi(x) + Phi(-x) = 1; the same for silu and both tanh forms."""
    x = np.array(values)
    for name in ("gelu", "gelu_new", "gelu_fast", "silu", "quick_gelu"):
        np.testing.assert_allclose(ACTIVATIONS[name](x) - ACTIVATIONS[name](-x), x, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8, np.bool_, np.complex128, np.longdouble, ">f4"])
def test_refuses_other_dtypes(name, dtype):
    assert_refused("array-dtype", ACTIVATIONS[name], np.zeros(3, dtype))
    assert_refused("array-type", ACTIVATIONS[name], [0.0, 1.0])


# ---- softmax -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [-1, 0, 1, 2, -3])
def test_softmax_definition(axis, dtype):
    """ATT-04: the wrong axis. Every axis has another length, and one case has equal ones."""
    for shape in [(2, 3, 5), (4, 4, 4)]:
        x = 3 * normal(*shape, dtype=dtype)
        expected = np.apply_along_axis(lambda row: softmax_definition(row.tolist()), axis, x.astype(float))
        assert_close(softmax(x, axis=axis), expected, roundings=40, magnitude=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_golden(dtype):
    """exp gives 1, 2, 5 -> eighths; and the default is the last axis."""
    x = np.log(np.array([[1, 2, 5], [3, 3, 2]], float)).astype(dtype)
    expected = np.array([[1 / 8, 2 / 8, 5 / 8], [3 / 8, 3 / 8, 2 / 8]], dtype)
    np.testing.assert_allclose(softmax(x), expected, rtol=4 * np.finfo(dtype).eps, strict=True)


@quick
@given(st.integers(0, 999), st.integers(1, 6), st.integers(-1000, 1000), st.sampled_from([0, 1]))
def test_softmax_sums_to_one_and_ignores_a_shift(seed, size, shift, axis):
    x = integers(size, 4, seed=seed)
    y = softmax(x, axis=axis)
    np.testing.assert_allclose(y.sum(axis=axis), np.ones(y.shape[1 - axis]), rtol=1e-14)
    np.testing.assert_array_equal(softmax(x + shift, axis=axis), y, strict=True)


@quick
@given(st.integers(0, 999))
def test_softmax_follows_a_permutation(seed):
    x, order = normal(3, 6, seed=seed), np.random.default_rng(seed).permutation(6)
    np.testing.assert_allclose(softmax(x[:, order]), softmax(x)[:, order], rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_any_finite_input_does_not_warn(dtype):
    """ATT-13: exp overflows without the subtraction; the distance max - (-max) overflows with it."""
    largest = np.finfo(dtype).max
    x = np.array([[largest, -largest, 0], [-largest, -largest, -largest], [largest, largest, 1]], dtype)
    np.testing.assert_allclose(softmax(x), np.array([[1, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]], dtype), rtol=1e-6)
    y = softmax(extremes(dtype)[None])
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y.sum(), 1, rtol=1e-5)


def test_softmax_refuses():
    for axis in (2, -3, 5):
        assert_refused("array-ndim", softmax, np.ones((2, 3)), axis=axis)
    assert_refused("array-ndim", softmax, np.array(1.0))
    assert_refused("array-ndim", softmax, np.ones((2, 0)))
    assert_refused("array-ndim", softmax, np.ones((0, 2)), axis=0)
    assert_refused("array-dtype", softmax, np.ones((2, 3), np.float16))
    assert softmax(np.ones((0, 2))).shape == (0, 2)
    assert inspect.signature(softmax).parameters["axis"].default == -1
