"""Files of a checkpoint in a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from npmobilevit.errors import CheckpointError

_NOT_READ = ("pytorch_model.bin", "tf_model.h5")


def folder_files(folder: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Path]:
    """Paths of the `required` files in `folder`, and of those `optional` ones that are there, by file name.

    Raises
    ------
    CheckpointError
        ``checkpoint-not-found``, ``checkpoint-not-a-folder`` or ``checkpoint-file-missing``.
    """
    if not folder.is_dir():
        _refuse_folder(folder, required)
    missing = [name for name in required if not (folder / name).exists()]
    if missing:
        raise CheckpointError(f"{folder} has no {' and no '.join(missing)}{_advice(folder)}", "checkpoint-file-missing")
    return {name: folder / name for name in (*required, *optional) if (folder / name).exists()}


def _refuse_folder(folder: Path, required: Sequence[str]) -> None:
    if folder.exists():
        raise CheckpointError(f"{folder} is a file; name the folder that holds it", "checkpoint-not-a-folder")
    raise CheckpointError(
        f"there is no folder {folder}; looked there for {' and '.join(required)}", "checkpoint-not-found"
    )


def _advice(folder: Path) -> str:
    found = [name for name in _NOT_READ if (folder / name).exists()]
    if not found:
        return ""
    return (
        f"; {' and '.join(found)} there cannot be read (pickle and HDF5 are not supported): "
        "load the model with transformers and save it with save_pretrained(folder), which writes model.safetensors"
    )
