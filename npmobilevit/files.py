"""Files written whole or not at all, and what tells them apart."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`: afterwards the file is whole, or as it was before. Its folder is made if need be.

    Raises
    ------
    OSError
        If it cannot be written; nothing half-written stays behind.
    """
    # Not `tempfile`: its files are private (0600), and the finished one should follow the user's umask.
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
