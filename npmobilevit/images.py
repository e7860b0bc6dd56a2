"""Any ordinary picture -> RGB pixels, with limits.

:func:`to_rgb` takes a path, encoded bytes, a binary file object, a PIL image or an array. Whatever cannot be
read with a definite meaning ends in an :class:`~npmobilevit.errors.ImageError` that names the source, what was
found, what is allowed and what to do. ``code`` is one of:

=================== ========================================================================================
file-missing        no such file
file-is-folder      a folder where a picture was expected
file-not-regular    a pipe, socket or device
file-unreadable     the system refused (permission, name too long, read error)
file-too-large      more than ``MAX_FILE_BYTES`` encoded bytes
stream-text         a file object opened in text mode
stream-unreadable   a file object that is closed, not readable or failed
image-empty         zero bytes
image-unknown       the bytes are not in one of the accepted formats
image-truncated     the picture ends too early
image-corrupt       the picture is damaged
image-too-large     more than ``MAX_PIXELS`` pixels
image-no-pixels     height or width is zero
image-mode          a PIL mode whose values have no fixed range (``I;16``, ``I``, ``F``)
image-type          not a kind of object that holds a picture
array-masked        a masked array
array-dtype         an array dtype other than uint8, float16, float32, float64
array-shape         not (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
array-channel-first (C, H, W)
array-batch         more than three dimensions
array-not-finite    NaN or infinity
array-range         floats outside 0..1
=================== ========================================================================================
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from npmobilevit.errors import ImageError

__all__ = [
    "FORMATS",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "ImageSource",
    "check_finite",
    "describe",
    "flatten",
    "raw_pixels",
    "to_rgb",
    "unit_to_uint8",
]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.generic]"

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_FILE_BYTES = 256 * 2**20
READ_BYTES = 2**20  # of a stream at a time
MAX_PIXELS = 100_000_000

# The list of warning filters belongs to the process: two threads that change and restore it in turn would leave
# it changed.
_WARNINGS_LOCK = threading.Lock()

_OPAQUE_MODES = ("RGB", "L", "1", "P", "CMYK", "YCbCr", "RGBX", "HSV", "LAB")
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

_EXIF_ORIENTATION = 0x0112
_UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_PICTURE_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
_OTHER_SIGNATURES = {
    b"%PDF": "a PDF document; export the page as PNG",
    b"%!PS": "a PostScript file; export it as PNG",
    b"\x93NUMPY": "a NumPy .npy file; pass numpy.load(path)",
    b"version https://git-lfs": "a Git LFS pointer, not the picture itself; run `git lfs pull`",
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"\x1f\x8b": "a gzip file; unpack it",
    b"8BPS": "a Photoshop file; export it as PNG",
}


def to_rgb(image: ImageSource) -> NDArray[np.uint8]:
    """Read one picture as 8-bit RGB, the right way up.

    Parameters
    ----------
    image : str, path, bytes, binary file object, PIL.Image.Image or ndarray
        Files and bytes are JPEG, PNG, WebP, BMP, GIF or TIFF (recognised by content, not by name; of several
        frames the first). Arrays are uint8, or float16/32/64 in 0..1, of shape (H, W), (H, W, 1), (H, W, 3) or
        (H, W, 4), with any strides.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new C-contiguous array; the input is never written to.

    Raises
    ------
    ImageError
        For everything else. The codes are listed at the top of this module.

    Notes
    -----
    EXIF orientation is applied, transparency is laid on white, and CMYK, YCbCr, palette and grey pictures are
    converted by Pillow; ICC profiles are ignored. Floats become ``uint8(float32(x * 255))``, which truncates as
    the PIL image processor of transformers does.

    Examples
    --------
    >>> import numpy as np
    >>> to_rgb(np.array([[0.0, 0.5, 1.0]]))[0].tolist()
    [[0, 0, 0], [127, 127, 127], [255, 255, 255]]
    """
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image)
    if isinstance(image, Image.Image):
        return _picture_to_rgb(image, describe(image))
    source = describe(image)
    return _picture_to_rgb(_open(_read(image, source), source), source)


def describe(image: object) -> str:
    """Name an image source for a message, without its contents or its address in memory."""
    if isinstance(image, str | os.PathLike):
        return repr(os.fspath(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return f"image data of {memoryview(image).nbytes:,} bytes"
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "")
        return f"PIL image ({image.mode}, {image.width} x {image.height})" + (f" from {name!r}" if name else "")
    if isinstance(image, np.ndarray):
        return f"array of shape {image.shape} and dtype {image.dtype}"
    kind = f"{type(image).__module__}.{type(image).__qualname__}".removeprefix("builtins.")
    if hasattr(image, "read"):
        name = getattr(image, "name", None)
        return f"file object {kind}" + (f" of {name!r}" if isinstance(name, str) else "")
    return f"object of type {kind}"


def flatten(picture: Image.Image) -> Image.Image:
    """Convert a PIL image to mode RGB, transparency laid on white (``convert_to_rgb`` of transformers)."""
    keyed = picture.mode in ("1", "L", "P", "RGB") and picture.has_transparency_data
    if picture.mode not in _ALPHA_MODES and not keyed:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    if picture.mode == "La":  # Pillow has no direct way from premultiplied grey to RGBA
        picture = picture.convert("LA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def raw_pixels(picture: Image.Image) -> NDArray[np.generic]:
    """Return the values a PIL image stores, whatever its mode: (H, W), or (H, W, C) for several bands."""
    source = describe(picture)
    _check_size(picture.height, picture.width, source)
    with _pillow(source, _encoded(picture)):
        return np.array(picture)


def unit_to_uint8(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Scale 0..1 to 0..255 and truncate, rounding to float32 first as transformers does."""
    return (values.astype(np.float64) * 255).astype(np.float32).astype(np.uint8)


def _read(image: object, source: str) -> bytes:
    if isinstance(image, str | os.PathLike):
        data = _read_file(os.fspath(image), source)
    elif isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
    elif hasattr(image, "read"):
        data = _read_stream(image, source)
    else:
        raise ImageError(
            f"cannot use an {source} as an image. Pass a path, bytes, a binary file object, a PIL image or a NumPy "
            "array of shape (H, W, 3); a list of images goes to a function that takes several, and a tensor of a "
            "framework has to be turned into a NumPy array first.",
            code="image-type",
        )
    if not data:
        hint = " Go back to its start with seek(0)." if hasattr(image, "read") else ""
        raise ImageError(f"cannot read {source}: it is empty (0 bytes).{hint}", code="image-empty")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(
            f"cannot read {source}: it is larger than the limit of {MAX_FILE_BYTES:,} bytes. Save it smaller.",
            code="file-too-large",
        )
    return data


def _read_file(path: str | bytes, source: str) -> bytes:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"cannot read {source}: it is a folder. Pass one picture file.", code="file-is-folder")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe could wait for ever
            raise ImageError(
                f"cannot read {source}: it is a pipe, socket or device. Pass a regular file, or its bytes.",
                code="file-not-regular",
            )
        with open(path, "rb") as file:
            return file.read(min(status.st_size, MAX_FILE_BYTES) + 1)  # read() sets aside as much as it is asked for
    except FileNotFoundError as error:
        web = str(path).startswith(("http://", "https://"))
        hint = "Web addresses are not fetched: download the picture first." if web else "Check the path."
        raise ImageError(f"cannot read {source}: there is no such file. {hint}", code="file-missing") from error
    except OSError as error:
        raise ImageError(f"cannot read {source}: {error.strerror or error}.", code="file-unreadable") from error
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot read {source}: not a valid path ({error}).", code="file-unreadable") from error


def _read_stream(stream: object, source: str) -> bytes:
    parts: list[bytes] = []
    left = MAX_FILE_BYTES + 1
    while left > 0:
        try:
            part = stream.read(min(left, READ_BYTES))  # type: ignore[attr-defined]
        except Exception as error:  # any class can stand behind read()
            raise ImageError(
                f"cannot read {source}: {error}. Pass an open, readable binary stream.", code="stream-unreadable"
            ) from error
        if isinstance(part, str):
            raise ImageError(
                f"cannot read {source}: it gives text. Open the file in binary mode, 'rb'.", code="stream-text"
            )
        if not isinstance(part, bytes | bytearray | memoryview):
            raise ImageError(
                f"cannot read {source}: read() gave {type(part).__name__}, not bytes. Pass a blocking binary stream.",
                code="stream-unreadable",
            )
        if not part:
            break
        parts.append(bytes(part))
        left -= len(part)
    return b"".join(parts)


def _open(data: bytes, source: str) -> Image.Image:
    with _pillow(source, data):
        return Image.open(BytesIO(data), formats=FORMATS)


@contextmanager
def _pillow(source: str, data: bytes = b"") -> Iterator[None]:
    """Silence Pillow's warnings and turn whatever its decoders raise into ImageError."""
    try:
        with _WARNINGS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MemoryError as error:
        raise ImageError(
            f"cannot read {source}: there is not enough memory for its pixels. Scale it down first.",
            code="image-memory",
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(source) from error
    except UnidentifiedImageError as error:
        raise _unidentified(source, data) from error
    except Exception as error:  # damaged files raise nearly every class there is
        raise _damaged(source, data, str(error)) from error


def _too_large(source: str) -> ImageError:
    return ImageError(
        f"cannot read {source}: it has more pixels than the limit of {MAX_PIXELS:,}. Scale it down first.",
        code="image-too-large",
    )


def _damaged(source: str, data: bytes, detail: str) -> ImageError:
    unfinished = (data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data) or (
        data.startswith(b"\x89PNG") and b"IEND" not in data
    )
    if unfinished or "truncated" in detail.lower():
        return ImageError(
            f"cannot read {source}: the picture is truncated, its data end too early. Copy or download it again.",
            code="image-truncated",
        )
    return ImageError(
        f"cannot read {source}: the picture is damaged ({detail}). Copy or save it again.", code="image-corrupt"
    )


def _unidentified(source: str, data: bytes) -> ImageError:
    for signature, name in _PICTURE_SIGNATURES.items():
        if data.startswith(signature):
            return _damaged(source, data, f"starts as {name}, then is not valid {name}")
    return ImageError(
        f"cannot read {source}: it is not a picture in an accepted format ({', '.join(FORMATS)}). "
        f"It looks like {_looks_like(data)}.",
        code="image-unknown",
    )


def _looks_like(data: bytes) -> str:
    for signature, name in _OTHER_SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[4:8] == b"ftyp":
        return "a HEIF, AVIF or video file; convert it to JPEG or PNG"
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in head:
        return "an SVG drawing; export it as PNG"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page; a download may have returned a web page instead of the picture"
    if head and all(byte in b"\t\n\r\f\x1b" or 32 <= byte < 127 for byte in head):
        return "a text file"
    return f"unknown binary data starting with {data[:8].hex(' ')}"


def _picture_to_rgb(picture: Image.Image, source: str) -> NDArray[np.uint8]:
    _check_size(picture.height, picture.width, source)
    if picture.mode not in _OPAQUE_MODES + _ALPHA_MODES:
        raise ImageError(
            f"cannot use {source}: its mode {picture.mode} has no fixed range of values. "
            "Scale the values to 0..255 and pass a uint8 array, or an image of mode L or RGB.",
            code="image-mode",
        )
    with _pillow(source, _encoded(picture)):
        picture.load()
        return np.array(_upright(flatten(picture), _orientation(picture)))


def _encoded(picture: Image.Image) -> bytes:
    """Return the bytes a picture is being decoded from, if we read them ourselves."""
    stream = getattr(picture, "fp", None)
    return stream.getvalue() if isinstance(stream, BytesIO) and not stream.closed else b""


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF data say nothing, and leave the pixels as good as before
        return 1


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    transpose = _UNDO_ORIENTATION.get(orientation)
    return picture if transpose is None else picture.transpose(transpose)


def _check_size(height: int, width: int, source: str) -> None:
    if height < 1 or width < 1:
        raise ImageError(
            f"cannot use {source}: it has no pixels. Height and width have to be at least 1.", code="image-no-pixels"
        )
    if height * width > MAX_PIXELS:
        raise _too_large(source)


def _array_to_rgb(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    source = describe(array)
    _check_dtype(array, source)
    _check_shape(array.shape, source)
    _check_size(array.shape[0], array.shape[1], source)
    array = np.asarray(array)
    pixels = array if array.dtype == np.uint8 else _unit_pixels(array, source)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]  # (H, W, 1)
    if pixels.shape[2] == 4:
        return np.array(flatten(Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))))
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), dtype=np.uint8, order="C")


def _check_dtype(array: NDArray[np.generic], source: str) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise ImageError(
            f"cannot use a masked {source}: the mask has no meaning here. Pass array.filled(value).",
            code="array-masked",
        )
    if array.dtype.newbyteorder("=") in (np.uint8, np.float16, np.float32, np.float64):
        return
    remedies = {
        "b": "Pass array.astype(np.uint8) * 255.",
        "i": "If its values are 0..255, pass array.astype(np.uint8).",
        "u": "If its values are 0..255, pass array.astype(np.uint8); if 0..65535, (array // 257).astype(np.uint8).",
        "f": "Pass array.astype(np.float64).",
    }
    raise ImageError(
        f"cannot use {source}: the dtype has to be uint8 (0..255) or float16, float32, float64 (0..1). "
        + remedies.get(array.dtype.kind, "Pass real pixel values."),
        code="array-dtype",
    )


def _check_shape(shape: tuple[int, ...], source: str) -> None:
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
        return
    if len(shape) > 3:
        raise ImageError(f"cannot use {source}: it looks like a batch. Pass a list of images.", code="array-batch")
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        raise ImageError(
            f"cannot use {source}: it looks channel-first. Transpose it to (H, W, {shape[0]}) with "
            "np.moveaxis(array, 0, -1).",
            code="array-channel-first",
        )
    raise ImageError(
        f"cannot use {source}: the shape has to be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).", code="array-shape"
    )


def _unit_pixels(array: NDArray[np.generic], source: str) -> NDArray[np.uint8]:
    check_finite(array, source)
    low, high = float(np.min(array)), float(np.max(array))
    if low < 0 or high > 1:
        raise ImageError(
            f"cannot use {source}: floats have to be within 0..1, found {low:g}..{high:g}. "
            "If they are 0..255, divide them by 255 or pass array.astype(np.uint8).",
            code="array-range",
        )
    return unit_to_uint8(array)  # type: ignore[arg-type]


def check_finite(array: NDArray[np.generic], source: str) -> None:
    """Refuse NaN and infinity, naming the first place where one is."""
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ImageError(
            f"cannot use {source}: {int((~finite).sum())} values are not finite, the first is {array[first]} at index "
            f"{first}. Replace them first.",
            code="array-not-finite",
        )
