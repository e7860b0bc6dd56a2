import definitions
import numpy as np
import pytest
from definitions import DTYPES, assert_close, assert_refused, integers, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.ops import global_avg_pool


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 2, 1, 7), (2, 2, 9, 2), (4, 4, 4, 4)])
def test_definition(shape, dtype):
    """HED-02: the maximum, or a window of fixed size, is another number."""
    x = normal(*shape, dtype=dtype)
    pixels = shape[2] * shape[3]
    assert_close(global_avg_pool(x), definitions.global_avg_pool(x), roundings=pixels, magnitude=abs(x).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_golden(dtype):
    x = np.arange(24, dtype=dtype).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(global_avg_pool(x), np.array([[2.5, 8.5], [14.5, 20.5]], dtype), strict=True)


def test_large_float32_map_is_averaged_accurately():
    """NUM-01: adding up pixel by pixel in float32 is off by one per cent here."""
    x = np.full((1, 2, 1024, 1024), 0.7, np.float32)
    np.testing.assert_allclose(global_avg_pool(x), x[:, :, 0, 0], rtol=1e-6, strict=True)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_order_of_pixels_does_not_matter_and_maps_do_not_mix(seed, images, channels, height, width):
    x = integers(images, channels, height, width, seed=seed)
    y = global_avg_pool(x)
    shuffled = np.random.default_rng(seed).permuted(x.reshape(images, channels, -1), axis=2).reshape(x.shape)
    np.testing.assert_array_equal(global_avg_pool(shuffled), y, strict=True)
    for n, c in np.ndindex(images, channels):
        np.testing.assert_array_equal(y[n : n + 1, c : c + 1], global_avg_pool(x[n : n + 1, c : c + 1]), strict=True)


def test_refuses():
    assert_refused("array-ndim", global_avg_pool, np.ones((2, 3, 4)))
    assert_refused("array-ndim", global_avg_pool, np.ones((2, 3, 4, 5, 6)))
    assert_refused("array-empty", global_avg_pool, np.ones((2, 3, 0, 4)))
    assert_refused("array-empty", global_avg_pool, np.ones((2, 3, 4, 0)))
