"""Unfold a map into the token sequences of a MobileViT block, and fold them back (paper section 3.1, figure 1b)."""

from __future__ import annotations

from npmobilevit.errors import ShapeError
from npmobilevit.ops.arrays import Array, check_float, check_positive


def unfold_patches(x: Array, patch_size: int) -> Array:
    """Cut a map into patches and collect, for each pixel position in the patch, one token from every patch.

    A sequence holds the pixels at the *same offset inside their patch*; attention therefore links a pixel
    with its counterparts in all other patches. Sequence ``n*P + py*patch_size + px`` holds offset (py, px)
    of image n; token ``iy*(W/patch_size) + ix`` is the patch in row iy and column ix.

    Parameters
    ----------
    x : (N, D, H, W) array, float32 or float64
        H and W divisible by `patch_size` (the network resizes the map first when they are not).
    patch_size : int

    Returns
    -------
    (N*P, L, D) array
        P = patch_size**2 pixels a patch, L = (H/patch_size)*(W/patch_size) patches.

    Raises
    ------
    ShapeError
        If H or W is not a multiple of `patch_size`.

    Notes
    -----
    Equals ``MobileViTLayer.unfolding`` of transformers without its resize.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> unfold_patches(x, 2)[:, :, 0]
    array([[ 0.,  2.,  8., 10.],
           [ 1.,  3.,  9., 11.],
           [ 4.,  6., 12., 14.],
           [ 5.,  7., 13., 15.]])
    """
    check_float(x, ndim=4)
    p = check_positive("patch_size", patch_size)
    n, d, height, width = x.shape
    _check_divisible(height, width, p)
    rows, columns = height // p, width // p
    x = x.reshape(n, d, rows, p, columns, p)
    x = x.transpose(0, 3, 5, 2, 4, 1)  # (N, p, p, rows, columns, D)
    return x.reshape(n * p * p, rows * columns, d)


def fold_patches(x: Array, patch_size: int, height: int, width: int) -> Array:
    """Put the tokens of :func:`unfold_patches` back in their places: its inverse.

    Parameters
    ----------
    x : (N*P, L, D) array, float32 or float64
    patch_size : int
    height, width : int
        Size of the map, multiples of `patch_size` with ``height*width == P*L``.

    Returns
    -------
    (N, D, height, width) array

    Raises
    ------
    ShapeError
        If the sizes do not belong together.
    """
    check_float(x, ndim=3)
    p = check_positive("patch_size", patch_size)
    height, width = check_positive("height", height), check_positive("width", width)
    _check_divisible(height, width, p)
    rows, columns = height // p, width // p
    sequences, tokens, d = x.shape
    if sequences % (p * p) or tokens != rows * columns:
        raise ShapeError(
            f"a map of {height}x{width} in patches of {p}x{p} needs a multiple of {p * p} sequences of "
            f"{rows * columns} tokens, found shape {x.shape}",
            "patch-tokens",
        )
    n = sequences // (p * p)
    x = x.reshape(n, p, p, rows, columns, d)
    x = x.transpose(0, 5, 3, 1, 4, 2)  # (N, D, rows, p, columns, p)
    return x.reshape(n, d, height, width)


def _check_divisible(height: int, width: int, patch_size: int) -> None:
    if height % patch_size or width % patch_size or not height or not width:
        raise ShapeError(
            f"height and width must be multiples of patch_size={patch_size}, found {height}x{width}; "
            "resize the map first (ops.resize_bilinear)",
            "patch-divisible",
        )
