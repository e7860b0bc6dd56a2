"""Arrays -> RGB pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npmobilevit.errors import ImageError
from npmobilevit.images.options import Colour, Options
from npmobilevit.images.pictures import check_size, flatten
from npmobilevit.images.scaling import Levels, check_finite, check_range, extremes, natural_range, parts, scaler

_CHANNELS = (1, 3, 4)
_FLOATS = (np.float16, np.float32, np.float64)


def array_to_rgb(array: NDArray[Any], source: str, options: Options) -> Levels:
    """Turn an array into a new one of shape (H, W, 3)."""
    _check_dtype(array, source)
    array = np.asarray(array)
    if options.layout == "CHW" and array.ndim == 3:
        array = _channels_last(array, source)
    _check_shape(array.shape, source)
    height, width = array.shape[:2]
    check_size(height, width, source, options.max_pixels)
    check_finite(array, source)
    check_range(extremes([array]) or (0, 0), array.dtype, options.value_range, source)
    scale = scaler(array.dtype, options.value_range or natural_range(array.dtype))
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    for part in parts(height, width):
        rgb[part] = _three_channels(scale(array[part]), options.background)
    return rgb


def _three_channels(levels: Levels, background: Colour) -> Levels:
    """Make (h, w) or (h, w, C) fit to be assigned to (h, w, 3)."""
    if levels.ndim == 2:
        return levels[:, :, None]
    if levels.shape[2] == 4:
        return np.asarray(flatten(Image.fromarray(np.ascontiguousarray(levels)), background))
    return levels


def _check_dtype(array: NDArray[Any], source: str) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise ImageError(
            f"cannot use a masked {source}: the mask has no meaning here. Pass array.filled(value).",
            code="array-masked",
        )
    if array.dtype.kind in "iu" or array.dtype.newbyteorder("=") in _FLOATS:
        return
    remedies = {
        "b": "Pass array.astype(np.uint8) * 255.",
        "c": "Pass its real part, or np.abs(array).",
        "f": "Pass array.astype(np.float64).",
        "O": "If its items are numbers in 0..255, pass array.astype(np.uint8).",
    }
    raise ImageError(
        f"cannot use {source}: the dtype has to be an integer (0..255), or float16, float32 or float64 (0..1). "
        + remedies.get(array.dtype.kind, "Pass an array of pixel values."),
        code="array-dtype",
    )


def _channels_last(array: NDArray[Any], source: str) -> NDArray[Any]:
    """Turn (C, H, W) into (H, W, C)."""
    if array.shape[0] not in _CHANNELS:
        raise ImageError(
            f"cannot use {source}: with layout='CHW' the shape has to be (1, H, W), (3, H, W) or (4, H, W). "
            "If the channels come last, leave layout out.",
            code="array-shape",
        )
    return np.moveaxis(array, 0, -1)


def _check_shape(shape: tuple[int, ...], source: str) -> None:
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS):
        return
    if len(shape) > 3:
        raise ImageError(f"cannot use {source}: it looks like a batch. Pass a list of images.", code="array-batch")
    if len(shape) == 3 and shape[0] in _CHANNELS:
        raise ImageError(
            f"cannot use {source}: it looks channel-first. Pass layout='CHW', or transpose it to (H, W, {shape[0]}) "
            "with np.moveaxis(array, 0, -1).",
            code="array-channel-first",
        )
    raise ImageError(
        f"cannot use {source}: the shape has to be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).", code="array-shape"
    )
