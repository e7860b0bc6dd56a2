"""The array type of the operators, and the checks that they share."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.errors import ShapeError

Array: TypeAlias = NDArray[np.floating[Any]]

FLOAT_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def check_float(x: Array, name: str = "x", *, ndim: int | None = None) -> None:
    """Raise ShapeError unless `x` is a float32 or float64 array, with `ndim` axes when that is given."""
    if not isinstance(x, np.ndarray):
        raise ShapeError(f"{name} must be a NumPy array, found {type(x).__name__}; use np.asarray", "array-type")
    if x.dtype not in FLOAT_DTYPES:
        raise ShapeError(f"{name} must be float32 or float64, found {x.dtype}; convert it with .astype", "array-dtype")
    if ndim is not None and x.ndim != ndim:
        raise ShapeError(f"{name} must have {ndim} axes, found shape {x.shape}", "array-ndim")


def check_parameter(name: str, value: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise ShapeError unless parameter `name` has this shape and dtype, so that nothing is broadcast or promoted."""
    check_float(value, name)
    if value.shape != shape:
        raise ShapeError(f"{name} must have shape {shape}, found {value.shape}", "parameter-shape")
    if value.dtype != dtype:
        raise ShapeError(f"{name} is {value.dtype} but x is {dtype}; convert one of them with .astype", "array-dtype")


def check_positive(name: str, value: int, *, minimum: int = 1) -> int:
    """Return `value` as an int, or raise ShapeError unless it is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ShapeError(f"{name} must be an integer of at least {minimum}, found {value!r}", "argument-range")
    return int(value)


def pair(name: str, value: int | tuple[int, int], *, minimum: int = 1) -> tuple[int, int]:
    """Return an int or a (height, width) pair as a pair of ints, each at least `minimum`."""
    height, width = value if isinstance(value, tuple | list) and len(value) == 2 else (value, value)
    return (
        check_positive(name, height, minimum=minimum),
        check_positive(name, width, minimum=minimum),
    )
