"""Any checkpoint to a Hugging Face folder: config.json, preprocessor_config.json and model.safetensors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from npmobilevit.checkpoints.checkpoint import ARCHITECTURES, CheckpointContents, read_checkpoint
from npmobilevit.checkpoints.families import infer_head
from npmobilevit.checkpoints.files import shown, write_atomically
from npmobilevit.checkpoints.folder import CONFIG, PROCESSOR, WEIGHTS
from npmobilevit.checkpoints.json_file import write_json_object
from npmobilevit.checkpoints.weights_file import bfloat16_bits, safetensors_bytes, write_safetensors
from npmobilevit.config import MobileViTConfig, expected_parameters
from npmobilevit.errors import CheckpointError, ConfigError, WeightsError

Dtype: TypeAlias = Literal["float32", "float16", "bfloat16"]

# What the settings of every family take for granted; see MobileViTImageProcessor.
_PROCESSOR_DEFAULTS = {
    "image_processor_type": "MobileViTImageProcessor",
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
}


def convert(
    source: str | os.PathLike[str], folder: str | os.PathLike[str], *, dtype: Dtype | None = None
) -> CheckpointContents:
    """Write the checkpoint `source` into `folder`, so that transformers loads it without a warning.

    Parameters
    ----------
    source : str or path
        As in `find_checkpoint`.
    folder : str or path
        It is made if need be; a checkpoint that it holds is replaced, once the new one is whole.
    dtype : {"float32", "float16", "bfloat16"}, optional
        Of the weights, rounded to the nearest, halves to even. By default as stored, or float32 where they are stored
        in several dtypes or another one.

    Returns
    -------
    CheckpointContents
        What was read.

    Raises
    ------
    CheckpointError
        If the source cannot be had, ``folder`` holds it, or a file cannot be written.
    ConfigError
        If `dtype` is another one.
    WeightsError
        If the weights do not belong to the config, or a value is beyond `dtype`.
    """
    if dtype is not None and dtype not in get_args(Dtype):
        raise ConfigError(f"dtype must be one of {', '.join(get_args(Dtype))}, found {dtype!r}", "dtype")
    contents = read_checkpoint(source)
    target = _target(folder, contents)
    chosen = dtype or _stored_dtype(contents)
    weights = _complete(contents)
    converted = {name: _rounded(values, chosen, name) for name, values in weights.items()}
    partial = target / f".{os.getpid()}.partial"  # all the files are whole before the first is put in place
    try:
        write_json_object(partial / CONFIG, _config_settings(contents, chosen))
        if contents.processor is not None:
            write_json_object(partial / PROCESSOR, {**_PROCESSOR_DEFAULTS, **contents.processor})
        if chosen == "bfloat16":
            data = safetensors_bytes(converted, {"format": "pt"}, uint16_as="BF16")
            write_atomically(partial / WEIGHTS, data)
        else:
            write_safetensors(partial / WEIGHTS, converted)
        _put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return contents


def _put_in_place(partial: Path, target: Path) -> None:
    """Move the files of a checkpoint; settings of another one that was in the target do not outlive it."""
    names = (WEIGHTS, CONFIG, PROCESSOR)
    folders = [name for name in names if (target / name).is_dir()]
    if folders:
        raise CheckpointError(f"{target / folders[0]} is a folder; remove it", "checkpoint-unwritable")
    try:
        for name in names:
            if (partial / name).exists():
                os.replace(partial / name, target / name)
            else:
                (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error}", "checkpoint-unwritable") from error


def _target(folder: str | os.PathLike[str], contents: CheckpointContents) -> Path:
    source = contents.weights_path.parent
    try:
        target = Path(folder).expanduser()
        is_source = os.path.realpath(target) == os.path.realpath(source)
        is_source = is_source or (target.exists() and os.path.samefile(target, source))
    except (RuntimeError, TypeError, ValueError, OSError) as error:  # no such user, no path, no name of a file
        raise CheckpointError(f"{folder!r} cannot be written: {error}", "checkpoint-unwritable") from error
    if is_source:
        raise CheckpointError(
            f"{target} is where {contents.name} lies; name another folder", "checkpoint-overwrites-source"
        )
    return target


def _stored_dtype(contents: CheckpointContents) -> str:
    return contents.dtypes[0] if len(contents.dtypes) == 1 and contents.dtypes[0] in get_args(Dtype) else "float32"


def _complete(contents: CheckpointContents) -> dict[str, NDArray[Any]]:
    """The whole state dict, with counters of zero where the file has none."""
    weights, head = contents.weights, infer_head(contents.weights)
    expanded = "conv_1x1_exp.convolution.weight" in weights
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_parameters(contents.config, head=head, expand_output=expanded).items():
        shapes[name] = shape
        if name.endswith("running_var"):
            shapes[name.replace("running_var", "num_batches_tracked")] = ()
    found = {name: np.zeros((), np.int64) for name in shapes if name.endswith("num_batches_tracked")} | weights
    differing = sorted(shapes.keys() ^ found.keys())
    differing += [name for name in sorted(shapes.keys() & found.keys()) if found[name].shape != shapes[name]]
    if differing:
        raise WeightsError(
            f"{contents.weights_path}: the weights do not belong to the config: {len(differing)} tensors are missing, "
            f"unexpected or of another shape: {shown(differing)}",
            "weights-names",
        )
    wrong = [name for name in shapes if found[name].dtype.kind != ("i" if name.endswith("_tracked") else "f")]
    if wrong:
        raise WeightsError(f"{contents.weights_path}: {shown(wrong)} must hold floats", "weights-dtype")
    return {name: found[name] for name in shapes}


def _config_settings(contents: CheckpointContents, dtype: str) -> dict[str, Any]:
    named = {"architectures": [ARCHITECTURES[infer_head(contents.weights)]], "dtype": dtype}
    settings = contents.config.to_dict() | named
    settings.pop("torch_dtype", None)  # the name of the same entry up to transformers 4
    return MobileViTConfig.from_dict(settings).to_dict()


def _rounded(values: NDArray[Any], dtype: str, name: str) -> NDArray[Any]:
    """Floats in `dtype`, bfloat16 as its bits (uint16); integers as they are."""
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    with np.errstate(over="ignore"):  # becomes infinity, which is refused
        rounded = bfloat16_bits(values) if dtype == "bfloat16" else values.astype(dtype)
    finite = (rounded & 0x7F80) != 0x7F80 if dtype == "bfloat16" else np.isfinite(rounded)
    if not finite.all():
        raise WeightsError(f"{shown([name])} holds values beyond {dtype}; choose another dtype", "weights-not-finite")
    return rounded
