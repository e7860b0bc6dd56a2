"""Files of a checkpoint on this machine: in a folder, or a file of weights with what lies next to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    weights = _weights_in(path) if path.is_dir() else _checked_weights(path)
    return LocalFiles(weights, config=settings_file(path, CONFIG), processor=settings_file(path, PROCESSOR))


def settings_file(path: Path, name: str) -> Path | None:
    """The file `name` of the checkpoint at `path`, see `local_files`; None if it is not there."""
    if path.is_dir():
        found = path / name
    elif path.suffix in SUFFIXES and path.exists():
        found = path.parent / name
    else:
        return None
    return found if found.exists() else None


def _weights_in(folder: Path) -> Path:
    for name in (WEIGHTS, TORCH_WEIGHTS):
        if (folder / name).exists():
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
    if not path.exists():
        raise CheckpointError(f"there is no file or folder {path}", "checkpoint-not-found")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            f"{path} is no folder, and no file of weights by its name ({', '.join(SUFFIXES)})",
            "checkpoint-not-a-folder",
        )
    return path


def _advice(folder: Path) -> str:
    return "".join(f"; {name} is there: {advice}" for name, advice in _ADVICE.items() if (folder / name).exists())
