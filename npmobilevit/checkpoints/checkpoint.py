"""From a checkpoint's name to its config, weights and processor settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

from numpy.typing import NDArray

from npmobilevit.checkpoints import catalogue, hub
from npmobilevit.checkpoints.folder import folder_files
from npmobilevit.checkpoints.json_file import read_json_object
from npmobilevit.checkpoints.weights_file import read_safetensors
from npmobilevit.errors import CheckpointError

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"

Source = Literal["shipped", "folder", "hub"]


@dataclass(frozen=True)
class Checkpoint:
    """The files of one checkpoint.

    Attributes
    ----------
    name : str
        What the user named; an alias is replaced by the Hub id it stands for.
    source : {"shipped", "folder", "hub"}
        Where the files come from.
    config_path, weights_path : Path
        config.json and model.safetensors.
    processor_path : Path or None
        preprocessor_config.json, which a checkpoint may lack.
    revision : str or None
        Commit on the Hub that all the files come from.
    """

    name: str
    source: Source
    config_path: Path
    weights_path: Path
    processor_path: Path | None = None
    revision: str | None = None


@dataclass(frozen=True)
class _Found:
    name: str
    source: Source
    paths: dict[str, Path]
    revision: str | None = None


def find_checkpoint(name: str | os.PathLike[str], **arguments: Unpack[hub.HubArguments]) -> Checkpoint:
    """Find the checkpoint `name`, and download it if need be.

    Parameters
    ----------
    name : str or path-like
        Looked up in this order: a checkpoint shipped in this package; an alias such as ``xx-small``; a local folder
        (any path object, and any string that names one or starts with ``.``, ``/`` or ``~``); a Hub id.
    revision : str, optional
        Branch, tag or commit on the Hub. By default ``main``, and for the six repositories of Apple, while ``main``
        has no model.safetensors, the pull request that adds it (found with one more request).
    cache_dir, local_files_only, token, force_download : optional
        As in huggingface_hub. These and `revision` have no meaning for local files, and are ignored for them.

    Returns
    -------
    Checkpoint

    Raises
    ------
    CheckpointError
        If it cannot be had; the code says why.
    """
    options = hub.HubOptions(**arguments)
    found = _find(name, (WEIGHTS, CONFIG), (PROCESSOR,), options)
    return _checkpoint(found)


def _checkpoint(found: _Found) -> Checkpoint:
    return Checkpoint(
        name=found.name,
        source=found.source,
        config_path=found.paths[CONFIG],
        weights_path=found.paths[WEIGHTS],
        processor_path=found.paths.get(PROCESSOR),
        revision=found.revision,
    )


def find_model(name: str | os.PathLike[str], **arguments: Unpack[hub.HubArguments]) -> Checkpoint:
    """As `find_checkpoint`, without the settings of the processor, which a network alone does not need."""
    found = _find(name, (WEIGHTS, CONFIG), (), hub.HubOptions(**arguments))
    return _checkpoint(found)


def load_config_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    """Contents of the checkpoint's config.json."""
    return read_json_object(checkpoint.config_path)


def load_processor_dict(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Contents of the checkpoint's preprocessor_config.json; None if it has none."""
    return None if checkpoint.processor_path is None else read_json_object(checkpoint.processor_path)


def load_weights(checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    """All tensors of the checkpoint's model.safetensors, see `read_safetensors`."""
    return read_safetensors(checkpoint.weights_path)


def load_config_settings(
    name_or_folder: str | os.PathLike[str], **arguments: Unpack[hub.HubArguments]
) -> dict[str, Any]:
    """Contents of config.json alone; the arguments as in `find_checkpoint`."""
    options = hub.HubOptions(**arguments)
    return read_json_object(_find(name_or_folder, (CONFIG,), (), options).paths[CONFIG])


def load_processor_settings(
    name_or_folder: str | os.PathLike[str], **arguments: Unpack[hub.HubArguments]
) -> dict[str, Any]:
    """Contents of preprocessor_config.json alone; the arguments as in `find_checkpoint`."""
    options = hub.HubOptions(**arguments)
    return read_json_object(_find(name_or_folder, (PROCESSOR,), (), options).paths[PROCESSOR])


def _find(
    name: str | os.PathLike[str], required: tuple[str, ...], optional: tuple[str, ...], options: hub.HubOptions
) -> _Found:
    if name in catalogue.shipped_names():
        return _Found(str(name), "shipped", folder_files(catalogue.shipped_folder(str(name)), required, optional))
    folder = local_folder(name)
    if folder is not None:
        return _Found(os.fspath(name), "folder", folder_files(folder, required, optional))
    repo = catalogue.hub_id(os.fspath(name))
    revisions = catalogue.hub_revisions(repo, options.revision)
    files = hub.fetch(hub.HubRequest(repo, revisions, required, optional, options))
    return _Found(repo, "hub", files.paths, files.commit)


def local_folder(name: str | os.PathLike[str]) -> Path | None:
    """The local folder that `name` is taken for; None for a shipped name, an alias and a Hub id."""
    return _expanded(name) if _names_a_folder(name) else None


def _names_a_folder(name: str | os.PathLike[str]) -> bool:
    if isinstance(name, os.PathLike):
        return True
    if not isinstance(name, str):
        raise CheckpointError(f"a name or path is needed, not {type(name).__name__}", "checkpoint-name-invalid")
    if name in catalogue.ALIASES or name in catalogue.shipped_names():
        return False
    return name.startswith((".", "~")) or os.path.isabs(name) or os.path.isdir(name)


def _expanded(name: str | os.PathLike[str]) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # no such user
        raise CheckpointError(f"{name}: {error}", "checkpoint-not-found") from error
