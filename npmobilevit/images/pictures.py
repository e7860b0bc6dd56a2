"""Decoding with Pillow: encoded bytes -> PIL image -> RGB pixels, and what its failures mean."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from npmobilevit.errors import ImageError
from npmobilevit.images.options import MAX_PIXELS, Colour, Options, ValueRange, unused
from npmobilevit.images.scaling import Levels, check_finite, check_range, extremes, parts, scaler
from npmobilevit.images.sources import describe

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

_WHITE = (255, 255, 255)
_OPAQUE_MODES = ("RGB", "L", "1", "P", "CMYK", "YCbCr", "RGBX", "HSV", "LAB")
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_NUMBER_MODES = ("I", "F")

_BITS_PER_SAMPLE = 258  # TIFF tags
_PHOTOMETRIC_INTERPRETATION = 262
_WHITE_IS_ZERO = 0
_SAMPLE_FORMAT = 339
_UNSIGNED = (1,)

_EXIF_ORIENTATION = 0x0112
# How the upright picture (H, W, 3) is seen from the one that the camera wrote; all are views.
_AS_STORED: dict[int, Callable[[Levels], Levels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],  # the camera was turned by 90 degrees
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}
_SIDES_SWAPPED = (5, 6, 7, 8)

_PICTURE_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"RIFF": "WebP",
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


def flatten(picture: Image.Image, background: Colour = _WHITE) -> Image.Image:
    """Convert a PIL image to mode RGB, transparency laid on white (``convert_to_rgb`` of transformers) or a colour."""
    keyed = picture.mode in ("1", "L", "P", "RGB") and picture.has_transparency_data
    if picture.mode not in _ALPHA_MODES and not keyed:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    if picture.mode == "La":  # Pillow has no direct way from premultiplied grey to RGBA
        picture = picture.convert("LA")
    below = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(below, picture.convert("RGBA")).convert("RGB")


def raw_pixels(picture: Image.Image) -> NDArray[np.generic]:
    """Return the values a PIL image stores, whatever its mode: (H, W), or (H, W, C) for several bands."""
    source = describe(picture)
    check_size(picture.height, picture.width, source, MAX_PIXELS)
    with _pillow(source, MAX_PIXELS, _encoded(picture)):
        return np.array(picture)


def open_picture(data: bytes, source: str, max_pixels: int) -> Image.Image:
    """Recognise the format and read the header; the pixels are not decoded yet."""
    with _pillow(source, max_pixels, data):
        return Image.open(BytesIO(data), formats=FORMATS)


def picture_to_rgb(picture: Image.Image, source: str, options: Options) -> Levels:
    """Decode a PIL image at its frame, and turn it upright."""
    if options.layout is not None:
        raise unused("layout", source, "it is for arrays, and a picture knows its own")
    check_size(picture.height, picture.width, source, options.max_pixels)
    with _pillow(source, options.max_pixels, _encoded(picture)):
        _load(picture, source)
        orientation = _orientation(picture)
        convert = _converter(picture, source, options)
        sides = picture.size if orientation in _SIDES_SWAPPED else picture.size[::-1]
        upright = np.empty((*sides, 3), dtype=np.uint8)
        stored = _AS_STORED[orientation](upright)
        for rows, columns in parts(picture.height, picture.width):
            stored[rows, columns] = convert(_cut(picture, rows, columns))
    return upright


def _load(picture: Image.Image, source: str) -> None:
    try:
        picture.load()
    except (AssertionError, AttributeError, ValueError) as error:
        stream = getattr(picture, "fp", None)
        if stream is None or getattr(stream, "closed", False):
            raise ImageError(
                f"cannot read {source}: it was closed before it was read. Use it inside its `with` block, or call its "
                "load() there.",
                code="image-closed",
            ) from error
        raise


def check_size(height: int, width: int, source: str, max_pixels: int) -> None:
    """Refuse pictures without pixels and with too many."""
    if height < 1 or width < 1:
        raise ImageError(
            f"cannot use {source}: it has no pixels. Height and width have to be at least 1.", code="image-no-pixels"
        )
    if height * width > max_pixels:
        raise ImageError(
            f"cannot read {source}: {height} x {width} (height x width) is more than the limit max_pixels = "
            f"{max_pixels:,}. Scale it down first, or raise max_pixels.",
            code="image-too-large",
        )


def _converter(picture: Image.Image, source: str, options: Options) -> Callable[[Image.Image], Levels]:
    """Return what turns a part of a decoded picture into something that fits into (h, w, 3)."""
    mode = picture.mode
    if mode in _SIXTEEN_BIT_MODES + _NUMBER_MODES:
        return _number_converter(picture, source, options)
    if mode not in _OPAQUE_MODES + _ALPHA_MODES:
        raise ImageError(
            f"cannot use {source}: its mode {mode} is not known here. Pass image.convert('RGB').", code="image-mode"
        )
    if options.value_range is not None:
        raise unused("value_range", source, f"its mode {mode} has a fixed range. It is for arrays, I;16, I and F")
    if mode in ("P", "PA") and picture.palette is None:  # cutting would add one, and all would be black
        raise _damaged(source, b"", "it has no palette")
    return lambda part: np.asarray(flatten(part, options.background))


def _number_converter(picture: Image.Image, source: str, options: Options) -> Callable[[Image.Image], Levels]:
    """The same for one channel of more than 8 bits; its numbers are seen twice if they have to be checked."""
    value_range = options.value_range or _depth(picture)
    if value_range is None:
        raise ImageError(
            f"cannot use {source}: its mode {picture.mode} has no fixed range of values. "
            "Pass value_range=(low, high), the values that mean black and white.",
            code="image-mode",
        )
    numbers_of = _unsigned if _is_unsigned(picture) else np.asarray
    dtype = numbers_of(picture.crop((0, 0, 1, 1))).dtype
    key, colour = _transparent_value(picture), np.array(options.background, dtype=np.uint8)
    if options.value_range is not None:
        pieces = (numbers_of(_cut(picture, *part)) for part in parts(picture.height, picture.width))
        ends = extremes(pieces if key is None else (piece[piece != key] for piece in pieces))
        if ends is not None:  # else all is transparent
            check_finite(np.asarray(picture), source)
            check_range(ends, dtype, options.value_range, source)
    scale = scaler(dtype, value_range)

    def convert(part: Image.Image) -> Levels:
        numbers = numbers_of(part)
        levels = scale(numbers)[:, :, None]  # (h, w, 1)
        return levels if key is None else np.where((numbers == key)[:, :, None], colour, levels)

    return convert


def _is_unsigned(picture: Image.Image) -> bool:
    """Whether a TIFF says that its 32-bit integers are unsigned: Pillow reads them as signed ones."""
    tags = getattr(picture, "tag_v2", {})
    return (
        picture.mode == "I" and tags.get(_BITS_PER_SAMPLE) == (32,) and tags.get(_SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED
    )


def _unsigned(part: Image.Image) -> NDArray[np.uint32]:
    return np.asarray(part).view(np.uint32)


def _depth(picture: Image.Image) -> ValueRange | None:
    """Return the 16-bit values that are black and white; a TIFF can have 12 bits, and 0 for white."""
    if picture.mode not in _SIXTEEN_BIT_MODES:
        return None
    tags = getattr(picture, "tag_v2", {})
    white = 2.0**12 - 1 if tags.get(_BITS_PER_SAMPLE) == (12,) else 2.0**16 - 1
    return (white, 0.0) if tags.get(_PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO else (0.0, white)


def _transparent_value(picture: Image.Image) -> int | None:
    key = picture.info.get("transparency")
    return key if isinstance(key, int) else None


def _cut(picture: Image.Image, rows: slice, columns: slice) -> Image.Image:
    return picture.crop((columns.start, rows.start, columns.stop, rows.stop))


class _Silence:
    """Pillow's warnings are not shown while any thread decodes.

    The list of warning filters belongs to the process: threads that change and restore it in turn would leave it
    changed. So the first that comes changes it, and the last that goes restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._saved.__exit__(None, None, None)


_SILENCE = _Silence()


@contextmanager
def _pillow(source: str, max_pixels: int, data: bytes) -> Iterator[None]:
    """Silence Pillow's warnings and turn whatever its decoders raise into ImageError.

    Parameters
    ----------
    source : str
        The picture's name, for the message.
    max_pixels : int
        Limit in force.
    data : bytes
        The encoded picture, if it is known, for a guess at what is wrong with it.
    """
    try:
        with _SILENCE:
            yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(
            f"cannot read {source}: there is not enough memory for its pixels. Scale it down first.",
            code="image-memory",
        ) from error
    except Image.DecompressionBombError as error:
        raise _bomb(source, max_pixels) from error
    except UnidentifiedImageError as error:
        raise _unidentified(source, data) from error
    except Exception as error:  # damaged files raise nearly every class there is
        raise _damaged(source, data, str(error) or type(error).__name__) from error


def _bomb(source: str, max_pixels: int) -> ImageError:
    """Name the limit that a picture exceeds which Pillow does not open."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # at once the limit is a warning only
    if max_pixels <= limit:
        found, remedy = f"max_pixels = {max_pixels:,}", "raise max_pixels"
    else:
        found, remedy = f"2 * PIL.Image.MAX_IMAGE_PIXELS = {limit:,}", "raise PIL.Image.MAX_IMAGE_PIXELS"
    return ImageError(
        f"cannot read {source}: it has more pixels than the limit {found}. Scale it down first, or {remedy}.",
        code="image-too-large",
    )


def _damaged(source: str, data: bytes, detail: str) -> ImageError:
    if _is_unfinished(data) or "truncated" in detail.lower():
        return ImageError(
            f"cannot read {source}: the picture is truncated, its data end too early. Copy or download it again.",
            code="image-truncated",
        )
    return ImageError(
        f"cannot read {source}: the picture is damaged ({detail}). Copy or save it again.", code="image-corrupt"
    )


def _is_unfinished(data: bytes) -> bool:
    if data.startswith(b"RIFF"):  # the length of a WebP stands in its header
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return (data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data) or (
        data.startswith(b"\x89PNG") and b"IEND" not in data
    )


def _unidentified(source: str, data: bytes) -> ImageError:
    for signature, name in _PICTURE_SIGNATURES.items():
        if data.startswith(signature):
            return _damaged(source, data, f"or of a kind of {name} that Pillow cannot read")
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


def _encoded(picture: Image.Image) -> bytes:
    """Return the bytes a picture is being decoded from, if we read them ourselves."""
    stream = getattr(picture, "fp", None)
    return stream.getvalue() if isinstance(stream, BytesIO) and not stream.closed else b""


def _orientation(picture: Image.Image) -> int:
    try:
        orientation = int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF data say nothing, and leave the pixels as good as before
        return 1
    return orientation if orientation in _AS_STORED else 1
