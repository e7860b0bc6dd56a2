"""Where a picture comes from: paths, bytes and streams, read with a limit, and their names in messages."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npmobilevit.errors import ImageError
from npmobilevit.images.options import MAX_FILE_BYTES, checked_limit

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.generic]"

READ_BYTES = 2**20  # of a stream at a time


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
        if name == "<stdin>":
            return "stdin"
        return f"file object {kind}" + (f" of {name!r}" if isinstance(name, str) else "")
    return f"object of type {kind}"


def read_source(image: object, source: str, max_file_bytes: int) -> bytes:
    """Return the encoded bytes that a path, bytes or a stream stands for."""
    if isinstance(image, str | os.PathLike):
        return _checked(_read_file(os.fspath(image), source, max_file_bytes), source, max_file_bytes)
    if isinstance(image, bytes | bytearray | memoryview):
        return _checked(bytes(image), source, max_file_bytes)
    if hasattr(image, "read"):
        return read_stream(image, max_file_bytes=max_file_bytes)
    raise ImageError(
        f"cannot use an {source} as an image. Pass a path, bytes, a binary file object, a PIL image or a NumPy "
        f"array of shape (H, W, 3){_conversion(image)}.",
        code="image-type",
    )


def _conversion(image: object) -> str:
    """How an object that is no image can become one, or several, as far as can be told."""
    if hasattr(image, "__array__"):
        return ", such as tensor.detach().cpu().numpy() of a tensor (channels first: with layout='CHW')"
    if hasattr(image, "__next__"):
        return "; of a generator, list(generator)"
    return ""


def read_stream(stream: object, *, max_file_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Read a binary stream from where it stands to its end.

    Parameters
    ----------
    stream : binary file object
        Whatever has ``read(size)`` that returns bytes; it need not seek.
    max_file_bytes : int
        Limit of the bytes; no more than one byte beyond it is asked for.

    Returns
    -------
    bytes
        At least one.

    Raises
    ------
    ImageError
        If the stream is closed, in text mode, failing, empty or longer than the limit.
    ConfigError
        If the limit is no positive integer.
    """
    source = describe(stream)
    left = checked_limit("max_file_bytes", max_file_bytes) + 1
    pieces: list[bytes] = []
    while left > 0:
        piece = _read_piece(stream, min(left, READ_BYTES), source)
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    hint = "Perhaps the command before the pipe failed." if source == "stdin" else "Go back to its start with seek(0)."
    return _checked(b"".join(pieces), source, max_file_bytes, f" {hint}")


def _read_piece(stream: object, size: int, source: str) -> bytes:
    try:
        piece = stream.read(size)  # type: ignore[attr-defined]
    except Exception as error:  # any class can stand behind read()
        raise ImageError(
            f"cannot read {source}: {error}. Pass an open, readable binary stream.", code="stream-unreadable"
        ) from error
    if isinstance(piece, str):
        raise ImageError(
            f"cannot read {source}: it gives text. Open the file in binary mode, 'rb'.", code="stream-text"
        )
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise ImageError(
            f"cannot read {source}: read() gave {type(piece).__name__}, not bytes. Pass a blocking binary stream.",
            code="stream-unreadable",
        )
    return bytes(piece)


def _checked(data: bytes, source: str, max_file_bytes: int, hint: str = "") -> bytes:
    if not data:
        raise ImageError(f"cannot read {source}: it is empty (0 bytes).{hint}", code="image-empty")
    if len(data) > max_file_bytes:
        raise ImageError(
            f"cannot read {source}: it is larger than the limit max_file_bytes = {max_file_bytes:,}. "
            "Save it smaller, or raise max_file_bytes.",
            code="file-too-large",
        )
    return data


def _read_file(path: str | bytes, source: str, max_file_bytes: int) -> bytes:
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
            return file.read(min(status.st_size, max_file_bytes) + 1)  # read() sets aside as much as it is asked for
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
