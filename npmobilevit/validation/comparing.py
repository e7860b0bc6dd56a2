"""Two tensors against a tolerance: the one place where a judgement is made."""

from __future__ import annotations

import math

import numpy as np

from npmobilevit.ops.arrays import Array
from npmobilevit.validation.report import Judgement, Test


def compare(
    tap: str,
    found: Array,
    expected: Array,
    tolerance: Array,
    *,
    region: tuple[str, ...] = (),
    test: Test = "local",
) -> Judgement:
    """The judgement of a finite tensor of the expected shape."""
    error = np.abs(found - expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / tolerance)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)  # a tolerance that overflowed explains nothing
    # where no difference is allowed all ratios are infinite, and the largest difference is the worst
    sorting = ratio if tolerance.any() else error
    worst = tuple(int(i) for i in np.unravel_index(sorting.argmax(), sorting.shape)) if sorting.size else ()
    beyond = int(np.count_nonzero(ratio > 1))
    return Judgement(
        tap=tap,
        shape=found.shape,
        region=region,
        status="wrong" if beyond else "right",
        test=test,
        error=float(error.max(initial=0)),
        worst=worst,
        found=float(found[worst]) if sorting.size else 0.0,
        expected=float(expected[worst]) if sorting.size else 0.0,
        tolerance=float(tolerance[worst]) if sorting.size else 0.0,
        ratio=float(ratio[worst]) if sorting.size else 0.0,
        beyond=beyond,
        screen=0.0,
        resolution=float((tolerance + np.minimum(error, tolerance)).max(initial=0)),
        scale=root_mean_square(expected),
    )


def unmeasured(
    tap: str,
    shape: tuple[int, ...],
    *,
    region: tuple[str, ...] = (),
    test: Test = "exact",
    worst: tuple[int, ...] = (),
    found: float = math.nan,
    expected: float = math.nan,
    scale: float = math.nan,
) -> Judgement:
    """The judgement of a tensor that cannot be compared."""
    return Judgement(
        tap=tap,
        shape=shape,
        region=region,
        status="wrong",
        test=test,
        error=math.inf,
        worst=worst,
        found=found,
        expected=expected,
        tolerance=0.0,
        ratio=math.inf,
        beyond=math.prod(shape),
        screen=math.inf,
        resolution=0.0,
        scale=scale,
    )


def root_mean_square(x: Array) -> float:
    """0 for an empty array."""
    return math.sqrt(float(np.square(x, dtype=np.float64).mean())) if x.size else 0.0
