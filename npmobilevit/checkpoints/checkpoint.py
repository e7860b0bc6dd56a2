"""From a checkpoint's name to its config, weights and processor settings, whichever library it comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Unpack

from numpy.typing import NDArray

from npmobilevit.checkpoints import catalogue, hub
from npmobilevit.checkpoints.families import (
    Family,
    family,
    infer_config,
    infer_head,
    is_timm_config,
    processor_settings,
    timm_labels,
    timm_processor_settings,
    to_transformers,
)
from npmobilevit.checkpoints.folder import (
    CONFIG,
    PROCESSOR,
    SUFFIXES,
    TORCH_WEIGHTS,
    WEIGHTS,
    local_files,
    settings_file,
)
from npmobilevit.checkpoints.json_file import read_json_object
from npmobilevit.checkpoints.torch_file import read_torch
from npmobilevit.checkpoints.weights_file import read_safetensors
from npmobilevit.config import Head, MobileViTConfig
from npmobilevit.errors import CheckpointError, ConfigError, WeightsError

Source = Literal["shipped", "folder", "hub"]

ARCHITECTURES: Mapping[Head | None, str] = MappingProxyType(
    {
        None: "MobileViTModel",
        "classification": "MobileViTForImageClassification",
        "segmentation": "MobileViTForSemanticSegmentation",
    }
)
"""Names of the classes by the head they have, as in a config.json."""

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Checkpoint:
    """The files of one checkpoint.

    Attributes
    ----------
    name : str
        What the user named; an alias is replaced by the Hub id it stands for.
    source : {"shipped", "folder", "hub"}
        Where the files come from; "folder" is any path.
    weights_path : Path
        A file of safetensors, or one that torch wrote (.bin, .pt).
    config_path, processor_path : Path or None
        config.json and preprocessor_config.json, which a checkpoint may lack.
    revision : str or None
        Commit on the Hub that all the files come from.
    verified : bool
        Whether every file has the hash that the Hub names. False for files from elsewhere, and for those to which the
        Hub, or its cache, names none.
    """

    name: str
    source: Source
    weights_path: Path
    config_path: Path | None = None
    processor_path: Path | None = None
    revision: str | None = None
    verified: bool = False


@dataclass(frozen=True)
class CheckpointContents:
    """A checkpoint that was read; behind it no trace is left of the library it comes from.

    Attributes
    ----------
    name, source, revision, weights_path, verified
        See :class:`Checkpoint`.
    family : {"transformers", "timm", "ml-cvnets", "tensorflow"}
        Whose names the weights had.
    config : MobileViTConfig
        Of config.json, or from the shapes of the weights.
    architecture : str or None
        Class that its config.json names, one of `ARCHITECTURES`.
    weights : dict of str to ndarray
        Under transformers' names.
    processor : dict or None
        Settings of the image processor: of preprocessor_config.json, or those that are known of the family; what is
        left out has its default. None where nobody tells.
    dtypes : tuple of str
        Of the floats in the file, sorted. Those of a torch file are as read: bfloat16 counts as float32.
    """

    name: str
    source: Source
    revision: str | None
    weights_path: Path
    verified: bool
    family: Family
    config: MobileViTConfig
    architecture: str | None
    weights: dict[str, NDArray[Any]]
    processor: dict[str, Any] | None
    dtypes: tuple[str, ...]

    @property
    def class_name(self) -> str:
        """The architecture that config.json names, or else the one whose head the weights have."""
        return self.architecture or ARCHITECTURES[infer_head(self.weights)]

    def require_processor(self) -> dict[str, Any]:
        """The processor's settings.

        Raises
        ------
        CheckpointError
            ``checkpoint-no-processor``: the defaults would prepare pictures in a way that the network was not
            trained for.
        """
        if self.processor is None:
            raise CheckpointError(
                f"{self.name} has no {PROCESSOR}, which says how pictures are prepared; write one with "
                "MobileViTImageProcessor(...).save_pretrained(folder)",
                "checkpoint-no-processor",
            )
        return self.processor


def find_checkpoint(name: str | os.PathLike[str], **arguments: Unpack[hub.HubArguments]) -> Checkpoint:
    """Find the checkpoint `name`, and download it if need be.

    Parameters
    ----------
    name : str or path-like
        Looked up in this order: a checkpoint shipped in this package; an alias such as ``xx-small``; a local folder
        or file of weights (any path object, and any string that names one or starts with ``.``, ``/`` or ``~``; see
        `local_files`); a Hub id, where model.safetensors is preferred to pytorch_model.bin.
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
    return _find(name, (CONFIG, PROCESSOR), hub.HubOptions(**arguments))


def is_cached(entry: catalogue.Entry | str, cache_dir: str | Path | None = None) -> bool:
    """Whether a checkpoint can be loaded without any request: it is shipped, or whole in the cache.

    Parameters
    ----------
    entry : Entry or str
        Of the catalogue, or a name that `find_checkpoint` takes.
    cache_dir : str or path, optional
        The Hub cache to look in.

    Returns
    -------
    bool
        False too without the package huggingface_hub, for a cached file that is damaged, and for what is no name.
    """
    name = entry.name if isinstance(entry, catalogue.Entry) else entry
    try:
        find_checkpoint(name, cache_dir=cache_dir, local_files_only=True)
    except CheckpointError:
        return False
    return True


def read_checkpoint(name: str | os.PathLike[str], **arguments: Unpack[hub.HubArguments]) -> CheckpointContents:
    """Read the checkpoint `name`, whatever library and file format it comes from.

    Parameters
    ----------
    name, **arguments
        See `find_checkpoint`.

    Returns
    -------
    CheckpointContents

    Raises
    ------
    CheckpointError
        If it cannot be had.
    ConfigError, WeightsError
        If a file is damaged, or is no MobileViT's. Whether config and weights fit is the model's to check.
    """
    return _contents(find_checkpoint(name, **arguments), with_processor=True)


def read_model(name: str | os.PathLike[str], **arguments: Unpack[hub.HubArguments]) -> CheckpointContents:
    """As `read_checkpoint`, without the settings of the processor, which a network alone does not need."""
    checkpoint = _find(name, (CONFIG,), hub.HubOptions(**arguments))
    return _contents(checkpoint, with_processor=False)


def load_config_settings(name: str | os.PathLike[str], **arguments: Unpack[hub.HubArguments]) -> dict[str, Any]:
    """Contents of config.json alone, or such contents made from the weights; the arguments as in `find_checkpoint`."""
    path = _settings_path(name, CONFIG, hub.HubOptions(**arguments))
    settings = None if path is None else read_json_object(path)
    if settings is None or is_timm_config(settings):
        return read_model(name, **arguments).config.to_dict()
    return settings


def load_processor_settings(name: str | os.PathLike[str], **arguments: Unpack[hub.HubArguments]) -> dict[str, Any]:
    """Contents of preprocessor_config.json alone, or the family's settings; the arguments as in `find_checkpoint`."""
    path = _settings_path(name, PROCESSOR, hub.HubOptions(**arguments))
    return read_checkpoint(name, **arguments).require_processor() if path is None else read_json_object(path)


# Finding


def _find(name: str | os.PathLike[str], others: tuple[str, ...], options: hub.HubOptions) -> Checkpoint:
    path = _path(name)
    if path is not None:
        here = local_files(path)
        source: Source = "shipped" if name in catalogue.shipped_names() else "folder"
        return Checkpoint(os.fspath(name), source, here.weights, here.config, here.processor)
    repo = catalogue.hub_id(os.fspath(name))
    revisions = catalogue.hub_revisions(repo, options.revision)
    places = (*((revision, WEIGHTS) for revision in revisions), (revisions[0], TORCH_WEIGHTS))
    found = hub.fetch(hub.HubRequest(repo, places, others, options))
    weights, *_ = found.paths.values()
    settings = (found.paths.get(CONFIG), found.paths.get(PROCESSOR))
    return Checkpoint(repo, "hub", weights, *settings, found.commit, found.verified)


def _settings_path(name: str | os.PathLike[str], file: str, options: hub.HubOptions) -> Path | None:
    """Path of one file of settings, without the weights; None where it is missing, or out of reach."""
    path = _path(name)
    if path is not None:
        return settings_file(path, file)
    repo = catalogue.hub_id(os.fspath(name))
    places = tuple((revision, file) for revision in catalogue.hub_revisions(repo, options.revision))
    try:
        return hub.fetch(hub.HubRequest(repo, places, (), options)).paths[file]
    except CheckpointError as error:
        # Offline it may be known to the cache that there is no such file.
        if error.code not in ("hub-file-not-found", "hub-offline"):
            raise
        return None


def _path(name: str | os.PathLike[str]) -> Path | None:
    return catalogue.shipped_folder(str(name)) if name in catalogue.shipped_names() else local_path(name)


def local_path(name: str | os.PathLike[str]) -> Path | None:
    """The local folder or file that `name` is taken for; None for a shipped name, an alias and a Hub id."""
    return _expanded(name) if _names_a_path(name) else None


def _names_a_path(name: str | os.PathLike[str]) -> bool:
    if isinstance(name, os.PathLike) and isinstance(os.fspath(name), str):
        return True
    if not isinstance(name, str):
        raise CheckpointError(f"a name or path is needed, not {type(name).__name__}", "checkpoint-name-invalid")
    if name in catalogue.ALIASES or name in catalogue.shipped_names():
        return False
    if name.startswith((".", "~")) or os.path.isabs(name):
        return True
    return os.path.isdir(name) or (name.endswith(SUFFIXES) and (os.path.isfile(name) or "/" not in name))


def _expanded(name: str | os.PathLike[str]) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # no such user
        raise CheckpointError(f"{name}: {error}", "checkpoint-not-found") from error


# Reading


def _contents(checkpoint: Checkpoint, *, with_processor: bool) -> CheckpointContents:
    path = checkpoint.weights_path
    settings = None if checkpoint.config_path is None else read_json_object(checkpoint.config_path)
    tensors = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    with _naming(checkpoint):
        kind = family(tensors)
        weights = to_transformers(tensors)
        config = _config(settings, weights)
    processor = _processor(checkpoint, settings, kind, infer_head(weights), config) if with_processor else None
    return CheckpointContents(
        name=checkpoint.name,
        source=checkpoint.source,
        revision=checkpoint.revision,
        weights_path=path,
        verified=checkpoint.verified,
        family=kind,
        config=config,
        architecture=_architecture(settings),
        weights=weights,
        processor=processor,
        dtypes=_dtypes(path, tensors),
    )


@contextmanager
def _naming(checkpoint: Checkpoint) -> Iterator[None]:
    """Name the file in errors about its contents."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{checkpoint.weights_path}: {error}", error.code) from error
    except ConfigError as error:
        raise ConfigError(f"{checkpoint.config_path or checkpoint.weights_path}: {error}", error.code) from error


def _config(settings: Mapping[str, Any] | None, weights: Mapping[str, NDArray[Any]]) -> MobileViTConfig:
    if settings is None:
        return infer_config(weights)
    if not is_timm_config(settings):
        return MobileViTConfig.from_dict(settings)
    labels = timm_labels(settings)
    return infer_config(weights) if labels is None else infer_config(weights, id2label=labels)


def _processor(
    checkpoint: Checkpoint,
    settings: Mapping[str, Any] | None,
    kind: Family,
    head: Head | None,
    config: MobileViTConfig,
) -> dict[str, Any] | None:
    if checkpoint.processor_path is not None:
        return read_json_object(checkpoint.processor_path)
    if settings is not None and is_timm_config(settings):
        with _naming(checkpoint):
            return timm_processor_settings(settings)
    if settings is not None and kind == "transformers":
        return None  # someone's own training, and its settings were left behind
    return processor_settings(kind, head, config)


def _architecture(settings: Mapping[str, Any] | None) -> str | None:
    named = (settings or {}).get("architectures")
    known = [name for name in named if name in ARCHITECTURES.values()] if isinstance(named, list) else []
    return known[0] if known else None


def _dtypes(path: Path, tensors: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Dtypes of the floats in a file of weights that was read."""
    if path.suffix != ".safetensors":
        return tuple(sorted({str(values.dtype) for values in tensors.values() if values.dtype.kind == "f"}))
    with path.open("rb") as file:  # again: what was bfloat16 is float32 in `tensors`
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return tuple(sorted({_DTYPES[header[name]["dtype"]] for name in tensors if header[name]["dtype"] in _DTYPES}))
