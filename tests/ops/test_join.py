"""Sums and concatenations of branches: by definition, and nothing is broadcast."""

import numpy as np
import pytest

from npmobilevit.errors import ShapeError
from npmobilevit.ops import add, concat_channels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_add_adds_element_by_element(dtype):
    x, y = np.array([[1, -2.5]], dtype), np.array([[0.25, 4]], dtype)
    result = add(x, y)
    assert result.dtype == dtype
    assert result.tolist() == [[1.25, 1.5]]


@pytest.mark.parametrize("y", [np.zeros((2, 1)), np.zeros((1, 3)), np.zeros(())])
def test_add_broadcasts_and_promotes_nothing(y):
    with pytest.raises(ShapeError, match="must be alike") as caught:
        add(np.zeros((2, 3)), y)
    assert caught.value.code == "join-shape"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_concat_channels_keeps_the_order(dtype):
    maps = [np.full((2, channels, 3, 4), channels, dtype) for channels in (2, 1, 3)]
    result = concat_channels(maps)
    assert result.shape == (2, 6, 3, 4)
    assert result.dtype == dtype
    assert result[1, :, 2, 3].tolist() == [2, 2, 1, 3, 3, 3]


@pytest.mark.parametrize(
    "maps",
    [
        [],
        [np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 3, 5))],
        [np.zeros((1, 2, 3, 4)), np.zeros((2, 2, 3, 4))],
    ],
)
def test_concat_channels_refuses_maps_that_differ(maps):
    with pytest.raises(ShapeError, match="alike but in their channels"):
        concat_channels(maps)
