"""Whole files in and out: only regular files are read, and a file being written is never seen half done."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from npmobilevit import files
from npmobilevit.errors import CheckpointError


def regular_file_size(path: Path) -> int:
    """Size in bytes of the regular file at `path`; a folder, pipe or device is refused before it is opened.

    Raises
    ------
    CheckpointError
        ``checkpoint-file-missing``, ``checkpoint-not-a-file`` or ``checkpoint-unreadable``.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist", "checkpoint-file-missing") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "checkpoint-unreadable") from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file", "checkpoint-not-a-file")
    return status.st_size


def read_at_once(path: Path) -> bytes:
    """Contents of the file at `path`.

    Raises
    ------
    CheckpointError
        ``checkpoint-unreadable``.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "checkpoint-unreadable") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`: afterwards the file is whole, or as it was before. Its folder is made if need be.

    Raises
    ------
    CheckpointError
        ``checkpoint-unwritable``.
    """
    try:
        files.write_atomically(path.expanduser(), data)
    except (OSError, RuntimeError, ValueError) as error:  # ~ of a user that does not exist; no name of a file
        raise CheckpointError(f"{path} cannot be written: {error}", "checkpoint-unwritable") from error


def shown(names: Sequence[str]) -> str:
    """`names` for a message: the first ten, each quoted and cut, since a file may hold any text as a name."""
    listed = ", ".join(repr(name if len(name) <= 80 else name[:77] + "...") for name in names[:10])
    return listed if len(names) <= 10 else f"{listed} and {len(names) - 10} more"
