"""Files of a checkpoint on this machine: in a folder, or a file of weights with what lies next to it."""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from npmobilevit.checkpoints.files import shown
from npmobilevit.errors import CheckpointError

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
TORCH_WEIGHTS = "pytorch_model.bin"
SUFFIXES = (".safetensors", ".bin", ".pt")
"""Of files of weights that are read."""

_ADVICE = {
    "tf_model.h5": "tools/convert_tf.py of npmobilevit's repository converts it",
    "model.safetensors.index.json": "weights in several files are not read: save the model in one",
    "pytorch_model.bin.index.json": "weights in several files are not read: save the model in one",
}


@dataclass(frozen=True)
class LocalFiles:
    """Files that are there; None for what is not."""

    weights: Path
    config: Path | None
    processor: Path | None


def local_files(path: Path) -> LocalFiles:
    """Files of the checkpoint at `path`.

    Parameters
    ----------
    path : Path
        A folder with model.safetensors, else pytorch_model.bin, else one file ``*.pt``; or such a file of any name.
        config.json and preprocessor_config.json next to the weights belong to them.

    Raises
    ------
    CheckpointError
        ``checkpoint-not-found``, ``checkpoint-not-a-folder``, ``checkpoint-file-missing`` or ``checkpoint-ambiguous``.
    """
    weights = _weights_in(path) if _kind(path) == "folder" else _checked_weights(path)
    return LocalFiles(weights, config=settings_file(path, CONFIG), processor=settings_file(path, PROCESSOR))


def settings_file(path: Path, name: str) -> Path | None:
    """The file `name` of the checkpoint at `path`, see `local_files`; None if it is not there."""
    kind = _kind(path)
    if kind == "folder":
        found = path / name
    elif kind == "file" and path.suffix in SUFFIXES:
        found = path.parent / name
    else:
        return None
    return found if _kind(found) else None


def _kind(path: Path) -> Literal["folder", "file"] | None:
    """What there is at `path`; None for nothing."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}", "checkpoint-unreadable") from error
    return "folder" if stat.S_ISDIR(mode) else "file"


def _weights_in(folder: Path) -> Path:
    for name in (WEIGHTS, TORCH_WEIGHTS):
        if _kind(folder / name):
            return folder / name
    found = sorted(folder.glob("*.pt"))
    if len(found) > 1:
        raise CheckpointError(
            f"{folder} has several files of weights, {shown([path.name for path in found])}; name the one you mean",
            "checkpoint-ambiguous",
        )
    if not found:
        raise CheckpointError(
            f"{folder} has no {WEIGHTS}, no {TORCH_WEIGHTS} and no .pt file{_advice(folder)}",
            "checkpoint-file-missing",
        )
    return found[0]


def _checked_weights(path: Path) -> Path:
    if _kind(path) is None:
        raise CheckpointError(f"there is no file or folder {path}", "checkpoint-not-found")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            f"{path} is no folder, and no file of weights by its name ({', '.join(SUFFIXES)})",
            "checkpoint-not-a-folder",
        )
    return path


def _advice(folder: Path) -> str:
    return "".join(f"; {name} is there: {advice}" for name, advice in _ADVICE.items() if _kind(folder / name))
