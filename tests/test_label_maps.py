"""The class of every pixel: in bands as at once, and in the picture's own geometry."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from npmobilevit import label_maps
from npmobilevit.label_maps import Axis, label_map, labelled
from npmobilevit.ops import resize_bilinear, softmax
from npmobilevit.ops.resize import sources


def random_logits(classes, height, width, dtype=np.float32):
    return np.random.default_rng([classes, height, width]).standard_normal((classes, height, width)).astype(dtype)


def whole(logits, height, width):
    """Rows and columns of a resize of the whole map."""
    return sources(logits.shape[1], height, logits.dtype), sources(logits.shape[2], width, logits.dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("band", [1, 37, 400, 10**6])
def test_parts_change_no_bit(monkeypatch, band, dtype):
    """Caught here: rows of one part taken with the sources of another, a last part cut off."""
    monkeypatch.setattr(label_maps, "PART_VALUES", band)
    logits = random_logits(4, 5, 6, dtype)
    resized = resize_bilinear(logits[None], (17, 23))[0]
    put_together, covered = np.zeros_like(resized), np.zeros((17, 23), int)
    for (rows, columns), part in label_maps.resized_parts(logits, *whole(logits, 17, 23)):
        put_together[:, rows, columns] = part
        covered[rows, columns] += 1
        assert part.size <= max(band, 4)
    np.testing.assert_array_equal(put_together, resized, strict=True)
    assert (covered == 1).all()
    mask = label_map(logits, *whole(logits, 17, 23))
    np.testing.assert_array_equal(mask, resized.argmax(axis=0).astype(np.int32), strict=True)


@pytest.mark.parametrize("band", [37, 10**6])
def test_pixels_and_probabilities_are_those_of_the_softmax(monkeypatch, band):
    monkeypatch.setattr(label_maps, "PART_VALUES", band)
    logits = random_logits(4, 5, 6, np.float64) * 3
    logits[2] = -50  # nowhere the largest
    found = labelled(logits, *whole(logits, 17, 23))
    probabilities = softmax(resize_bilinear(logits[None], (17, 23))[0], axis=0)
    np.testing.assert_array_equal(found.mask, label_map(logits, *whole(logits, 17, 23)), strict=True)
    assert found.pixels.sum() == 17 * 23
    for c in range(4):
        where = found.mask == c
        assert found.pixels[c] == where.sum()
        expected = probabilities[c][where].mean() if where.any() else 0
        assert math.isclose(found.probability[c], expected, rel_tol=1e-12)
    assert found.pixels[2] == 0


def test_of_equal_logits_the_lowest_class_wins():
    logits = np.zeros((3, 2, 2), np.float32)
    assert (label_map(logits, *whole(logits, 4, 5)) == 0).all()
    assert labelled(logits, *whole(logits, 4, 5)).probability.tolist() == pytest.approx([1 / 3, 0, 0])


def test_extreme_logits_give_a_probability_without_a_warning():
    logits = np.array([[[3e38]], [[-3e38]]], np.float32)
    assert labelled(logits, *whole(logits, 2, 2)).probability.tolist() == [1, 0]


def by_definition(axis):
    """(picture index, position among the logits) of every pixel whose centre lies in the crop, in plain Python."""
    for i in range(axis.picture):
        centre = (i + 0.5) * axis.resized / axis.picture - axis.origin
        if 0 <= centre < axis.network:
            yield i, min(max(centre * axis.logits / axis.network - 0.5, 0), axis.logits - 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 12))
@example(picture=45, resized=26, network=1, logits=1)  # the centre of pixel 22 lies on the far edge of the crop
def test_the_geometry_of_a_crop(picture, resized, network, logits):
    """Caught here: a crop that begins a pixel off, a scale of the crop for that of the picture, edges left out."""
    axis = Axis(picture, resized, (resized - network) // 2, network, logits)
    span, at = axis.seen(np.dtype(np.float64))
    expected = list(by_definition(axis))
    assert list(range(picture))[span] == [i for i, _ in expected]
    positions = at.first + at.weight * (at.second - at.first)
    np.testing.assert_allclose(positions, [p for _, p in expected], atol=1e-9)


def test_without_a_crop_it_is_the_resize_of_torch():
    span, at = Axis(picture=451, resized=38, origin=0, network=38, logits=3).seen(np.dtype(np.float32))
    assert span == slice(0, 451)
    for found, expected in zip(at, sources(3, 451, np.dtype(np.float32)), strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)


def test_a_crop_that_shows_no_pixel_centre_is_empty():
    span, at = Axis(picture=1, resized=20, origin=11, network=3, logits=1).seen(np.dtype(np.float32))
    assert range(1)[span] == range(0)
    assert len(at.first) == 0
    logits = random_logits(3, 1, 1)
    some = sources(1, 2, logits.dtype)
    for rows, columns in ((at, some), (some, at), (at, at)):
        found = labelled(logits, rows, columns)
        assert found.mask.shape == (len(rows.first), len(columns.first))
        assert found.pixels.tolist() == [0, 0, 0]
