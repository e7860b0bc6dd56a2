"""Two-dimensional convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from npmobilevit.errors import ShapeError
from npmobilevit.ops.arrays import Array, check_float, check_parameter, check_positive, pair

MatMul: TypeAlias = Callable[[Array, Array, Array], object]  # (G, M, K) times (G, K, N), put into (G, M, N)

# Columns and products are made for bands of output rows, so that even for a large picture neither has more than
# about this many elements (2 MiB in float32: as fast as any larger band).
BAND_ELEMENTS = 2**19


def conv2d(
    x: Array,
    *,
    weight: Array,
    bias: Array | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Array:
    """Cross-correlate a batch of maps with a bank of kernels (``torch.nn.functional.conv2d``).

    ::

        y[n, o, i, j] = bias[o] + sum over c, ky, kx of
                        weight[o, c, ky, kx] * x[n, group(o) * C/groups + c,
                                                 i*stride - padding + ky*dilation,
                                                 j*stride - padding + kx*dilation]

    with zeros outside of `x`. The kernel is not flipped.

    Parameters
    ----------
    x : (N, C, H, W) array, float32 or float64
    weight : (O, C / groups, KH, KW) array
    bias : (O,) array, optional
    stride, padding, dilation : int or (int, int)
        One number for both axes, or (height, width).
    groups : int
        Output channels are dealt evenly to this many groups of input channels. ``groups == C`` is a
        depthwise convolution.

    Returns
    -------
    (N, O, H', W') array
        ``H' = (H + 2*padding - dilation*(KH - 1) - 1) // stride + 1``, and W' likewise. Same dtype as `x`.

    Raises
    ------
    ShapeError
        If the shapes or dtypes do not belong together, or the kernel is larger than the padded map.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, weight=np.ones((1, 1, 3, 3)), padding=1)[0, 0]
    array([[ 8., 15., 12.],
           [21., 36., 27.],
           [20., 33., 24.]])
    """
    return convolve(
        np.matmul, x, weight=weight, bias=bias, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def convolve(
    matmul: MatMul,
    x: Array,
    *,
    weight: Array,
    bias: Array | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Array:
    """:func:`conv2d` with another product of matrices."""
    check_float(x, ndim=4)
    check_float(weight, "weight", ndim=4)
    groups = check_positive("groups", groups)
    n, channels, height, width = x.shape
    out_channels, group_channels, kernel_h, kernel_w = weight.shape
    if channels != group_channels * groups or out_channels % groups or not channels or not out_channels:
        raise ShapeError(
            f"weight {weight.shape} with groups={groups} takes {group_channels * groups} input channels and needs "
            f"at least one channel and output channels divisible by {groups}, but x has shape {x.shape}",
            "conv-channels",
        )
    check_parameter("weight", weight, weight.shape, x.dtype)
    if bias is not None:
        check_parameter("bias", bias, (out_channels,), x.dtype)
    stride_h, stride_w = pair("stride", stride)
    padding_h, padding_w = pair("padding", padding, minimum=0)
    dilation_h, dilation_w = pair("dilation", dilation)
    out_h = (height + 2 * padding_h - dilation_h * (kernel_h - 1) - 1) // stride_h + 1
    out_w = (width + 2 * padding_w - dilation_w * (kernel_w - 1) - 1) // stride_w + 1
    if out_h < 1 or out_w < 1 or kernel_h < 1 or kernel_w < 1:
        raise ShapeError(
            f"a kernel of {kernel_h}x{kernel_w} with dilation ({dilation_h}, {dilation_w}) does not fit into a map of "
            f"{height}x{width} with padding ({padding_h}, {padding_w}); enlarge the map or the padding",
            "conv-kernel",
        )

    if padding_h or padding_w:
        inside = x
        x = np.zeros((n, channels, height + 2 * padding_h, width + 2 * padding_w), x.dtype)
        x[:, :, padding_h : padding_h + height, padding_w : padding_w + width] = inside
    # taps[n, c, ky, kx, i, j] = x[n, c, i*stride + ky*dilation, j*stride + kx*dilation]: a view, nothing is copied
    step_n, step_c, step_h, step_w = x.strides
    taps = np.lib.stride_tricks.as_strided(
        x,
        (n, channels, kernel_h, kernel_w, out_h, out_w),
        (step_n, step_c, step_h * dilation_h, step_w * dilation_w, step_h * stride_h, step_w * stride_w),
        writeable=False,
    )
    y = _convolved(matmul, taps, weight, groups)
    if bias is not None:
        y += bias[:, np.newaxis, np.newaxis]
    return y


def _convolved(matmul: MatMul, taps: Array, weight: Array, groups: int) -> Array:
    """Matrix products, kernels times columns of taps; of a depthwise convolution, one row each. -> (N, O, H', W')."""
    n, channels, kernel_h, kernel_w, out_h, out_w = taps.shape
    out_channels = weight.shape[0]
    kernels = weight.reshape(groups, out_channels // groups, -1)  # (groups, O/groups, C/groups*KH*KW)
    y = np.empty((n, groups, out_channels // groups, out_h * out_w), taps.dtype)
    band = max(1, BAND_ELEMENTS // (max(channels * kernel_h * kernel_w, out_channels) * out_w))
    for image, result in zip(taps, y, strict=True):
        for top in range(0, out_h, band):
            bottom = min(top + band, out_h)
            columns = image[..., top:bottom, :].reshape(groups, kernels.shape[-1], -1)  # (groups, K, rows*W')
            matmul(kernels, columns, result[..., top * out_w : bottom * out_w])
    return y.reshape(n, out_channels, out_h, out_w)
