"""Any picture as a person sees it -> RGB pixels, with limits.

:func:`to_rgb` takes a path, encoded bytes, a binary file object, a PIL image or an array. Whatever cannot be
read with a definite meaning ends in an :class:`~npmobilevit.errors.ImageError` that names the source, what was
found, what is allowed and what to do. ``code`` is one of:

=================== ========================================================================================
file-missing        no such file
file-is-folder      a folder where a picture was expected
file-not-regular    a pipe, socket or device
file-unreadable     the system refused (permission, name too long, read error)
file-too-large      more than ``max_file_bytes`` encoded bytes
stream-text         a file object opened in text mode
stream-unreadable   a file object that is closed, not readable or failed
image-empty         zero bytes
image-unknown       the bytes are not in one of the accepted formats
image-truncated     the picture ends too early
image-corrupt       the picture is damaged, or of a kind of its format that Pillow cannot read
image-closed        a PIL image that was closed before its pixels were read
image-too-large     more pixels than ``max_pixels``, or than Pillow opens
image-memory        not enough memory for the pixels
image-no-pixels     height or width is zero
image-mode          a PIL mode whose values have no fixed range (``I``, ``F``), without ``value_range``
image-type          not a kind of object that holds a picture
array-masked        a masked array
array-dtype         an array of anything but integers, float16, float32 or float64
array-shape         not (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
array-channel-first (C, H, W), without ``layout="CHW"``
array-batch         more than three dimensions
array-not-finite    NaN or infinity, in an array or a picture of mode ``F``
array-range         integers outside 0..255, floats outside 0..1, or values outside ``value_range``
option-unused       ``layout`` with a picture that is no array, ``value_range`` with one of 8 bits per channel
=================== ========================================================================================

An option that is wrong whatever the picture ends in :class:`~npmobilevit.errors.ConfigError`, code ``option``.

The modules: ``options`` (limits and options), ``sources`` (paths, bytes, streams), ``pictures`` (decoding with
Pillow), ``arrays``, and ``scaling`` (what a value means) below the last two.
"""

from __future__ import annotations

from contextlib import closing
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npmobilevit.images.arrays import array_to_rgb
from npmobilevit.images.options import MAX_FILE_BYTES, MAX_PIXELS, ReadOptions, checked_options
from npmobilevit.images.pictures import FORMATS, flatten, open_picture, picture_to_rgb, raw_pixels
from npmobilevit.images.scaling import check_finite, unit_to_uint8
from npmobilevit.images.sources import ImageSource, describe, read_source, read_stream

__all__ = [
    "FORMATS",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "ImageSource",
    "ReadOptions",
    "check_finite",
    "describe",
    "flatten",
    "raw_pixels",
    "read_stream",
    "to_rgb",
    "unit_to_uint8",
]


def to_rgb(
    image: ImageSource,
    *,
    background: str | tuple[int, int, int] = "white",
    value_range: tuple[float, float] | None = None,
    layout: Literal["HWC", "CHW"] | None = None,
    max_pixels: int = MAX_PIXELS,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> NDArray[np.uint8]:
    """Read one picture as 8-bit RGB, the right way up.

    Parameters
    ----------
    image : str, path, bytes, binary file object, PIL.Image.Image or ndarray
        Files and bytes are JPEG, PNG, WebP, BMP, GIF or TIFF (recognised by content, not by name; of several
        frames the first). A PIL image is read at the frame that it stands at. Arrays are integers in 0..255, or
        float16/32/64 in 0..1, of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), with any strides and byte order.
    background : str or (int, int, int)
        The colour that transparency is laid on: a name or ``#rrggbb`` as Pillow knows them, or (r, g, b) in 0..255.
    value_range : (float, float), optional
        The values (low, high) that mean black and white, for arrays and for pictures with one channel of more
        than 8 bits: of modes ``I;16``, ``I`` and ``F``. Values outside are refused. The channels of an array,
        alpha too, share the range.
    layout : "HWC", "CHW" or None
        Of arrays with three dimensions. None means HWC, whatever the shape looks like.
    max_pixels : int
        Limit of height times width, checked before decoding.
    max_file_bytes : int
        Limit of the encoded bytes.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new C-contiguous array; the input is never written to.

    Raises
    ------
    ImageError
        If there is no picture, or none with a definite meaning. The codes are listed at the top of this module.
    ConfigError
        If an option is not valid.

    Notes
    -----
    EXIF orientation is applied; CMYK, YCbCr, LAB, palette and grey pictures are converted by Pillow; ICC profiles
    are ignored. Grey of 16 bits is scaled over its full depth and rounded to nearest (a TIFF that says so, of 12
    bits over those, or with white as 0); colours of 16 bits are cut to 8 by Pillow. With `value_range` integers
    are rounded to nearest, and (low, high) are the stored values, whatever else the file says of their meaning.
    Floats become ``uint8(float32(x * 255))``, which truncates as the PIL image processor of transformers does.

    Beside what Pillow takes to decode (4 bytes per pixel, more for WebP and compressed TIFF), memory is needed for
    the result only. About a damaged TIFF libtiff may write lines to the process's standard error.

    Examples
    --------
    >>> import numpy as np
    >>> to_rgb(np.array([[0.0, 0.5, 1.0]]))[0].tolist()
    [[0, 0, 0], [127, 127, 127], [255, 255, 255]]
    >>> to_rgb(np.array([[-1000, 0, 1000]]), value_range=(-1000, 1000))[0].tolist()
    [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
    """
    options = checked_options(background, value_range, layout, max_pixels, max_file_bytes)
    source = describe(image)
    if isinstance(image, np.ndarray):
        return array_to_rgb(image, source, options)
    if isinstance(image, Image.Image):
        return picture_to_rgb(image, source, options)
    data = read_source(image, source, options.max_file_bytes)
    with closing(open_picture(data, source, options.max_pixels)) as picture:
        return picture_to_rgb(picture, source, options)
