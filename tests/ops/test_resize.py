import definitions
import numpy as np
import pytest
from definitions import DTYPES, assert_refused, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.ops import resize_bilinear

quick = settings(derandomize=True, deadline=None, max_examples=30)


def row(*values, dtype=np.float64):
    return np.array(values, dtype).reshape(1, 1, 1, -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size_in", "size_out"),
    [
        ((1, 1), (2, 2)),
        ((1, 1), (3, 5)),  # the pooled map of ASPP: a broadcast
        ((3, 5), (4, 6)),  # the network's own case: odd to even
        ((4, 6), (3, 5)),  # and back
        ((7, 8), (8, 8)),
        ((2, 2), (4, 4)),
        ((4, 4), (2, 2)),
        ((5, 3), (13, 11)),
        ((13, 11), (5, 3)),
        ((9, 2), (1, 1)),
        ((6, 4), (4, 6)),  # height and width confused (UNF-08, SEG-10)
    ],
)
def test_definition(size_in, size_out, dtype):
    """UNF-09, UNF-10, PRE-07: align_corners, nearest, no half pixel, or averaging while shrinking.

    float32: six roundings of values no larger than the largest pixel.
    """
    x = normal(2, 3, *size_in, dtype=dtype)
    expected = definitions.resize_bilinear(x, size_out)
    actual = resize_bilinear(x, size_out)
    definitions.assert_close(actual, expected, roundings=6, magnitude=abs(x).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], [0, 0.25, 0.75, 1]),  # align_corners=True: 0, 1/3, 2/3, 1
        ([0, 1, 2, 3], [0.5, 2.5]),
        ([0, 1, 2], [0, 0.625, 1.375, 2]),  # odd to even
        ([0, 1, 2], [0, 0.4, 1, 1.6, 2]),
        ([0, 3, 6, 9, 12], [1, 6, 11]),  # even spacing 5/3, first at 1/3
        ([8, 0, 0, 8], [0]),  # antialias would see the eights
        ([4], [4, 4, 4]),
        ([0, 8], [0, 0, 1, 3, 5, 7, 8, 8]),  # the border is repeated
        ([1, 2, 3, 4, 5, 6], [2, 5]),
    ],
)
def test_golden(values, expected, dtype):
    for transposed in (False, True):
        x, y = row(*values, dtype=dtype), row(*expected, dtype=dtype)
        if transposed:
            x, y = x.swapaxes(2, 3), y.swapaxes(2, 3)
        np.testing.assert_allclose(
            resize_bilinear(x, y.shape[2:]), y, rtol=0, atol=6 * np.finfo(dtype).eps, strict=True
        )


def test_golden_plane():
    """Rows weigh by height, columns by width."""
    x = np.array([[0.0, 4.0], [16.0, 20.0]]).reshape(1, 1, 2, 2)
    golden = [[0, 1, 3, 4], [8, 9, 11, 12], [16, 17, 19, 20]]
    np.testing.assert_array_equal(resize_bilinear(x, (3, 4))[0, 0], golden)


@pytest.mark.parametrize(
    ("size_in", "size_out"),
    [(32, 513), (33, 500), (57, 1000), (375, 999), (640, 321), (1000, 701), (2047, 2048), (500, 499), (7, 1023)],
)
def test_float32_coordinates_are_rounded_once(size_in, size_out):
    """spec.md 1.5: float64 coordinates differ from torch by up to 1.3e-5, coordinates rounded twice by 6e-6."""
    x = normal(1, 1, 1, size_in, dtype=np.float32)
    expected = definitions.resize_bilinear(x, (1, size_out))
    np.testing.assert_allclose(resize_bilinear(x, (1, size_out)), expected.astype(np.float32), rtol=0, atol=6e-7)
    column = resize_bilinear(x.swapaxes(2, 3), (size_out, 1))
    np.testing.assert_allclose(column, expected.astype(np.float32).swapaxes(2, 3), rtol=0, atol=6e-7, strict=True)


def test_the_bound_above_is_sharp_enough():
    """The same definition with float64 coordinates is further away than 6e-7, so the test can tell."""
    x = normal(1, 1, 1, 375, dtype=np.float32)
    once = definitions.resize_bilinear(x, (1, 999))
    assert np.abs(definitions.resize_bilinear(x.astype(np.float64), (1, 999)) - once).max() > 2e-6


shapes = {
    "height": st.integers(1, 6),
    "width": st.integers(1, 6),
    "size": st.tuples(st.integers(1, 9), st.integers(1, 9)),
}


@quick
@given(**shapes, dtype=st.sampled_from(DTYPES), value=st.floats(-1e6, 1e6, width=32))
def test_constants_are_kept(height, width, size, dtype, value):
    x = np.full((1, 1, height, width), value, dtype)
    expected = np.full((1, 1, *size), value, dtype)
    np.testing.assert_allclose(resize_bilinear(x, size), expected, rtol=3 * np.finfo(dtype).eps, strict=True)


@quick
@given(**shapes, dtype=st.sampled_from(DTYPES), seed=st.integers(0, 999))
def test_result_stays_between_the_smallest_and_the_largest_pixel(height, width, size, dtype, seed):
    x = normal(2, 1, height, width, seed=seed, dtype=dtype)
    y, slack = resize_bilinear(x, size), 3 * np.finfo(dtype).eps * abs(x).max()
    assert y.min() >= x.min() - slack
    assert y.max() <= x.max() + slack


@quick
@given(**shapes, seed=st.integers(0, 999))
def test_axes_are_treated_alike_and_from_both_ends(height, width, size, seed):
    x = normal(1, 2, height, width, seed=seed)
    y = resize_bilinear(x, size)
    np.testing.assert_allclose(resize_bilinear(x.swapaxes(2, 3), size[::-1]), y.swapaxes(2, 3), rtol=0, atol=1e-14)
    np.testing.assert_allclose(resize_bilinear(x[..., ::-1, ::-1], size), y[..., ::-1, ::-1], rtol=0, atol=1e-13)


@quick
@given(**shapes, seed=st.integers(0, 999))
def test_one_axis_after_the_other(height, width, size, seed):
    x = normal(1, 2, height, width, seed=seed)
    in_steps = resize_bilinear(resize_bilinear(x, (size[0], width)), size)
    np.testing.assert_allclose(resize_bilinear(x, size), in_steps, rtol=0, atol=1e-14)


@quick
@given(**shapes, seed=st.integers(0, 999))
def test_maps_do_not_mix(height, width, size, seed):
    x = normal(2, 3, height, width, seed=seed)
    y = resize_bilinear(x, size)
    for n, c in np.ndindex(2, 3):
        np.testing.assert_array_equal(resize_bilinear(x[n : n + 1, c : c + 1], size), y[n : n + 1, c : c + 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_size_is_a_copy_to_the_bit(dtype):
    x = normal(2, 3, 5, 7, dtype=dtype)
    y = resize_bilinear(x, (5, 7))
    np.testing.assert_array_equal(y, x, strict=True)
    assert not np.shares_memory(y, x)


def test_a_list_will_do_as_size():
    x = normal(1, 1, 3, 4)
    np.testing.assert_array_equal(resize_bilinear(x, [2, np.int64(5)]), resize_bilinear(x, (2, 5)), strict=True)


def test_refuses():
    x = normal(1, 2, 3, 4)
    assert_refused("array-ndim", resize_bilinear, x[0], (2, 2))
    assert_refused("array-ndim", resize_bilinear, x[None], (2, 2))
    for size in [(0, 2), (2, 0), (-1, 2), (2.0, 2), (2, "2"), (True, 2), (2,), (2, 2, 2), 2, None, "22"]:
        assert_refused("argument-range", resize_bilinear, x, size)
    assert_refused("array-empty", resize_bilinear, x[:, :, :0], (2, 2))
    assert_refused("array-empty", resize_bilinear, x[..., :0], (2, 2))
