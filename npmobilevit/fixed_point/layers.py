"""Convolution and linear layer on words of 8 or 16 bits, exact.

The sums are those of integers, and are computed by float64 products of matrices: a product of two words is an integer
of at most 2**30, and as long as ``sum |w| * max |x| < 2**53``, every partial sum, in whatever order it is taken, is an
integer that float64 has. So nothing is rounded. :func:`check_accumulator` refuses what lies beyond: more than eight
million words of 16 bits in a sum.
"""

from __future__ import annotations

import numpy as np

from npmobilevit import ops
from npmobilevit.errors import ShapeError
from npmobilevit.fixed_point.formats import Integers, QFormat, check_integers

WORD_WIDTHS = (8, 16)
ACCUMULATOR_WIDTHS = (32, 64)
EXACT = 2**53  # integers up to here are float64 numbers


def conv2d(
    x: Integers,
    *,
    weight: Integers,
    bias: Integers | None = None,
    accumulator: int = 32,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Integers:
    """Cross-correlate maps of words with kernels of words; see :func:`npmobilevit.ops.conv2d`.

    Parameters
    ----------
    x : (N, C, H, W) int8 or int16 array
    weight : (O, C / groups, KH, KW) int8 or int16 array
    bias : (O,) array of signed integers, optional
        In steps of the accumulator: the step of `x` times that of `weight`.
    accumulator : {32, 64}
        Bits of a sum.
    stride, padding, dilation, groups
        As there. The padding is the word 0.

    Returns
    -------
    (N, O, H', W') array, int32 or int64
        The sums, exact; :func:`requantize` makes words of them.

    Raises
    ------
    ShapeError
        If shapes or types do not belong together, or some `x` could overflow the accumulator.

    Examples
    --------
    >>> x = np.array([[[[1, -2], [3, 127]]]], np.int8)
    >>> conv2d(x, weight=np.array([[[[2, 0], [0, 1]]]], np.int8), bias=np.array([-5]))
    array([[[[124]]]], dtype=int32)
    """
    _check_words("x", x)
    check_accumulator(weight, bias, width=8 * x.itemsize, accumulator=accumulator)
    sums = ops.conv2d(
        x.astype(np.float64),
        weight=weight.astype(np.float64),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    return _plus(sums, None if bias is None else bias[:, np.newaxis, np.newaxis], accumulator)


def linear(x: Integers, *, weight: Integers, bias: Integers | None = None, accumulator: int = 32) -> Integers:
    """Apply an affine map of words to the last axis; see :func:`npmobilevit.ops.linear`.

    Parameters
    ----------
    x : (..., D_in) int8 or int16 array
    weight : (D_out, D_in) int8 or int16 array
    bias : (D_out,) array of signed integers, optional
    accumulator : {32, 64}
        As in :func:`conv2d`.

    Returns
    -------
    (..., D_out) array, int32 or int64
        The sums, exact.

    Raises
    ------
    ShapeError
        As :func:`conv2d`.

    Examples
    --------
    >>> linear(np.array([3, -4], np.int8), weight=np.array([[100, 100], [1, 2]], np.int8))
    array([-100,   -5], dtype=int32)
    """
    _check_words("x", x)
    check_accumulator(weight, bias, width=8 * x.itemsize, accumulator=accumulator)
    return _plus(ops.linear(x.astype(np.float64), weight=weight.astype(np.float64)), bias, accumulator)


def check_accumulator(weight: Integers, bias: Integers | None, *, width: int, accumulator: int) -> None:
    """Raise ShapeError unless no input of a width, in no order of the sum, can overflow the accumulator.

    That is ``sum |w| * 2**(width - 1) + |b| <= 2**(accumulator - 1) - 1`` for every output. It does not depend on the
    picture: a layer that passes is right for all of them.

    Parameters
    ----------
    weight : (O, ...) int8 or int16 array
    bias : (O,) array of signed integers or None
    width : {8, 16}
        Bits of an input.
    accumulator : {32, 64}
    """
    _check_words("weight", weight)
    if type(width) is not int or width not in WORD_WIDTHS:
        raise ShapeError(f"width must be 8 or 16, found {width!r}", "argument-range")
    if type(accumulator) is not int or accumulator not in ACCUMULATOR_WIDTHS:
        raise ShapeError(f"accumulator must be 32 or 64, found {accumulator!r}", "argument-range")
    outputs = len(weight)
    if bias is not None:
        check_integers("bias", bias)
        if bias.shape != (outputs,):
            raise ShapeError(f"bias must have shape ({outputs},), found {bias.shape}", "parameter-shape")
    if not weight.size:
        return
    sizes = np.abs(weight.astype(np.int64)).reshape(outputs, -1).sum(axis=1)
    products = [int(size) * 2 ** (width - 1) for size in sizes]
    sums = [p + abs(int(b)) for p, b in zip(products, [0] * outputs if bias is None else bias, strict=True)]
    worst = max(range(outputs), key=sums.__getitem__)
    limit = QFormat(accumulator, 0).highest
    if sums[worst] > limit:
        raise ShapeError(
            f"the sum of output {worst} can reach {sums[worst]:,}, beyond {limit:,} of an accumulator of "
            f"{accumulator} bits; take a wider accumulator or narrower words",
            "accumulator-overflow",
        )
    if max(products) >= EXACT:
        message = f"a sum of products can reach {max(products):,}; only below {EXACT:,} is it computed here"
        raise ShapeError(message, "accumulator-overflow")


def _check_words(name: str, words: Integers) -> None:
    check_integers(name, words)
    if 8 * words.itemsize not in WORD_WIDTHS:
        raise ShapeError(f"{name} must be int8 or int16, found {words.dtype}", "array-dtype")
    if not words.ndim:
        raise ShapeError(f"{name} must have axes, found a scalar", "array-ndim")


def _plus(sums: np.ndarray, bias: Integers | None, accumulator: int) -> Integers:
    whole = sums.astype(np.int64)
    return np.asarray(whole if bias is None else whole + bias, f"int{accumulator}")
