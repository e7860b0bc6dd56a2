import definitions
import numpy as np
import pytest
from definitions import DTYPES, assert_refused
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.ops import fold_patches, unfold_patches

quick = settings(derandomize=True, deadline=None, max_examples=40)


def addresses(*shape, dtype=np.float64):
    """Every element encodes its own place, so that any confusion shows, exactly."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "p"),
    [
        ((1, 1, 4, 4), 2),
        ((2, 3, 4, 6), 2),  # not square: height and width confused (UNF-04, UNF-08)
        ((2, 3, 6, 4), 2),
        ((1, 2, 3, 5), 1),
        ((2, 2, 6, 9), 3),
        ((1, 4, 4, 4), 4),  # a single patch
        ((1, 2, 4, 4), 2),  # as many patches as pixels a patch: P and L confused (UNF-02)
        ((1, 2, 8, 4), 4),
    ],
)
def test_definition(shape, p, dtype):
    x = addresses(*shape, dtype=dtype)
    tokens = unfold_patches(x, p)
    np.testing.assert_array_equal(tokens, definitions.unfold_patches(x, p), strict=True)
    np.testing.assert_array_equal(fold_patches(tokens, p, *shape[2:]), x, strict=True)


def test_golden():
    """A plain reshape (UNF-01) would give quarters of the map; attention inside a patch (UNF-02) 0, 1, 6, 7."""
    x = addresses(1, 1, 4, 6)
    golden = [[0, 2, 4, 12, 14, 16], [1, 3, 5, 13, 15, 17], [6, 8, 10, 18, 20, 22], [7, 9, 11, 19, 21, 23]]
    np.testing.assert_array_equal(unfold_patches(x, 2)[:, :, 0], np.array(golden, float), strict=True)


def test_fold_golden():
    """Two channels, two images: element (s, l, d) of image n is 16n + ..., written out by hand."""
    tokens = addresses(8, 2, 2)
    y = fold_patches(tokens, 2, 2, 4)
    golden = [
        [[[0, 4, 2, 6], [8, 12, 10, 14]], [[1, 5, 3, 7], [9, 13, 11, 15]]],
        [[[16, 20, 18, 22], [24, 28, 26, 30]], [[17, 21, 19, 23], [25, 29, 27, 31]]],
    ]
    np.testing.assert_array_equal(y, np.array(golden, float), strict=True)


sizes = {"n": st.integers(1, 3), "d": st.integers(1, 3), "rows": st.integers(1, 4), "columns": st.integers(1, 4)}


@quick
@given(**sizes, p=st.integers(1, 4))
def test_unfold_and_fold_are_inverse(n, d, rows, columns, p):
    x = addresses(n, d, rows * p, columns * p)
    tokens = unfold_patches(x, p)
    assert tokens.shape == (n * p * p, rows * columns, d)
    np.testing.assert_array_equal(tokens, definitions.unfold_patches(x, p), strict=True)
    np.testing.assert_array_equal(fold_patches(tokens, p, rows * p, columns * p), x, strict=True)
    other = addresses(n * p * p, rows * columns, d)
    np.testing.assert_array_equal(unfold_patches(fold_patches(other, p, rows * p, columns * p), p), other, strict=True)


@quick
@given(**sizes, p=st.integers(1, 3))
def test_a_sequence_is_the_map_at_one_offset(n, d, rows, columns, p):
    x = addresses(n, d, rows * p, columns * p)
    tokens = unfold_patches(x, p).reshape(n, p, p, rows * columns, d)
    for py, px in np.ndindex(p, p):
        every = x[:, :, py::p, px::p].reshape(n, d, -1).transpose(0, 2, 1)
        np.testing.assert_array_equal(tokens[:, py, px], every)


@quick
@given(**sizes, p=st.integers(1, 3))
def test_images_stay_together(n, d, rows, columns, p):
    """SYS-01: the sequences of an image follow each other."""
    x = addresses(n, d, rows * p, columns * p)
    alone = [unfold_patches(x[i : i + 1], p) for i in range(n)]
    np.testing.assert_array_equal(unfold_patches(x, p), np.concatenate(alone), strict=True)


@pytest.mark.parametrize("size", [(5, 4), (4, 5), (3, 3), (1, 4), (0, 4), (4, 0)])
def test_refuses_a_size_that_does_not_divide(size):
    """UNF-06: the last row or column must not be dropped."""
    assert_refused("patch-divisible", unfold_patches, np.ones((1, 2, *size)), 2)
    if min(size):
        assert_refused("patch-divisible", fold_patches, np.ones((4, 4, 2)), 2, *size)


def test_refuses():
    x, tokens = np.ones((1, 2, 4, 4)), np.ones((4, 4, 2))
    assert_refused("array-ndim", unfold_patches, x[0], 2)
    assert_refused("array-ndim", unfold_patches, x[None], 2)
    assert_refused("array-ndim", fold_patches, tokens[0], 2, 4, 4)
    assert_refused("array-ndim", fold_patches, tokens[None], 2, 4, 4)
    for p in (0, -2, 2.0, (2, 2), True, None):
        assert_refused("argument-range", unfold_patches, x, p)
        assert_refused("argument-range", fold_patches, tokens, p, 4, 4)
    for size in [(0, 4), (4, 0), (4.0, 4), (4, -4)]:
        assert_refused("argument-range", fold_patches, tokens, 2, *size)
    for shape in [(3, 4, 2), (5, 4, 2), (4, 3, 2), (4, 8, 2), (2, 8, 2), (4, 1, 8), (4, 0, 2)]:
        assert_refused("patch-tokens", fold_patches, np.ones(shape), 2, 4, 4)


def test_fold_is_the_inverse_without_channels_too():
    """Not an accident inside reshape."""
    tokens = unfold_patches(np.ones((1, 0, 4, 4)), 2)
    np.testing.assert_array_equal(fold_patches(tokens, 2, 4, 4), np.ones((1, 0, 4, 4)), strict=True)
