import definitions
import numpy as np
import pytest
from definitions import DTYPES, assert_close, assert_refused, integers, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.ops import linear

quick = settings(derandomize=True, deadline=None, max_examples=25)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("leading", "d_in", "d_out"),
    [((), 3, 5), ((4,), 3, 5), ((2, 3), 4, 4), ((2, 1, 3), 5, 2), ((2,), 1, 1)],
)
def test_definition(leading, d_in, d_out, with_bias, dtype):
    """Square weights catch one that is not transposed (WGT-03, HED-03)."""
    x, weight = normal(*leading, d_in, dtype=dtype), normal(d_out, d_in, seed=1, dtype=dtype)
    bias = normal(d_out, seed=2, dtype=dtype) if with_bias else None
    expected = definitions.linear(x, weight, bias)
    magnitude = definitions.linear(abs(x), abs(weight), None if bias is None else abs(bias)).max()
    assert_close(linear(x, weight=weight, bias=bias), expected, roundings=2 * d_in + 1, magnitude=magnitude)


@pytest.mark.parametrize("dtype", DTYPES)
def test_golden(dtype):
    """Row o of the weight makes output o: (1, 10) . (1, 2) = 21, (1, 10) . (3, 4) = 43."""
    weight = np.array([[1, 2], [3, 4]], dtype)
    y = linear(np.array([[1, 10]], dtype), weight=weight, bias=np.array([100, 200], dtype))
    np.testing.assert_array_equal(y, np.array([[121, 243]], dtype), strict=True)


@quick
@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 5), st.integers(-3, 3))
def test_linear_in_the_tokens_and_the_weight(seed, d_in, d_out, factor):
    x, other_x = integers(2, 3, d_in, seed=seed), integers(2, 3, d_in, seed=seed + 1)
    weight, other_w = integers(d_out, d_in, seed=seed + 2), integers(d_out, d_in, seed=seed + 3)
    y = linear(x, weight=weight)
    np.testing.assert_array_equal(
        linear(factor * x + other_x, weight=weight), factor * y + linear(other_x, weight=weight)
    )
    np.testing.assert_array_equal(linear(x, weight=factor * weight + other_w), factor * y + linear(x, weight=other_w))


@quick
@given(st.integers(0, 999), st.integers(1, 4))
def test_tokens_are_independent(seed, tokens):
    x, weight, bias = integers(2, tokens, 3, seed=seed), integers(4, 3, seed=seed + 1), integers(4, seed=seed + 2)
    y = linear(x, weight=weight, bias=bias)
    for s, token in np.ndindex(2, tokens):
        np.testing.assert_array_equal(y[s, token], linear(x[s, token], weight=weight, bias=bias), strict=True)


def test_refuses():
    x, weight = normal(2, 3, 4), normal(5, 4)
    assert_refused("array-ndim", linear, np.array(1.0), weight=np.ones((1, 1)))
    assert_refused("array-ndim", linear, x, weight=np.ones(4))
    assert_refused("array-ndim", linear, x, weight=np.ones((2, 5, 4)))  # matmul would broadcast
    assert_refused("parameter-shape", linear, x, weight=normal(4, 5))
    assert_refused("parameter-shape", linear, x, weight=normal(5, 1))
    for shape in [(), (1,), (4,), (5, 1), (1, 5), (3, 5)]:
        assert_refused("parameter-shape", linear, x, weight=weight, bias=np.ones(shape), match="bias")
