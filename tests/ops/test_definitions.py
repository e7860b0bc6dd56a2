"""The checkers of definitions.py must be able to fail."""

import definitions
import numpy as np
import pytest

from npmobilevit.errors import NpMobileViTError, ShapeError


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([1.0, 2.0 + 1e-11]),  # one element off by more than 1e-12 of the largest
        np.array([1.0, np.nan]),
        np.array([[1.0, 2.0]]),  # shape that would broadcast
        np.array([1, 2]),  # dtype
        np.array([1.0, 2.0 + 1e-6], np.float32),
    ],
    ids=["value", "nan", "shape", "dtype", "float32"],
)
def test_assert_close_fails(wrong: np.ndarray) -> None:
    with pytest.raises((AssertionError, KeyError)):
        definitions.assert_close(wrong, np.array([1.0, 2.0]), roundings=1)


def test_assert_close_accepts_one_rounding() -> None:
    definitions.assert_close(np.array([1.0, 2 / 3], np.float32), np.array([1.0, 2 / 3]), roundings=1)


def refuse(error: Exception) -> None:
    raise error


def test_assert_refused_fails() -> None:
    with pytest.raises(AssertionError):  # the right class with another code
        definitions.assert_refused("array-ndim", refuse, ShapeError("x", "array-dtype"))
    with pytest.raises(pytest.fail.Exception):  # nothing was refused
        definitions.assert_refused("array-ndim", abs, -1)
    with pytest.raises(ValueError, match="numpy"):  # an accident, not a refusal
        definitions.assert_refused("array-ndim", refuse, ValueError("numpy"))
    with pytest.raises(NpMobileViTError):  # another member of the family
        definitions.assert_refused("array-ndim", refuse, NpMobileViTError("x", "array-ndim"))


def test_layouts_hold_the_same_values_in_other_memory() -> None:
    x = definitions.normal(2, 3, 4)
    found = dict(definitions.layouts(x))
    assert list(found) == ["fortran", "negative strides", "gaps"]
    for y in found.values():
        np.testing.assert_array_equal(y, x, strict=True)
        assert y.strides != x.strides
