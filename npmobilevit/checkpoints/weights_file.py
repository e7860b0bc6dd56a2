"""model.safetensors: named arrays in and out, with every damaged or foreign file refused by name.

The format is eight bytes with the length of a JSON header, the header, and the raw values:
https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npmobilevit.checkpoints.files import read_at_once, regular_file_size, shown, write_atomically
from npmobilevit.errors import WeightsError

MAX_WEIGHTS_BYTES = 4 * 2**30
"""Largest file that is read. The largest published MobileViT has 26 MB."""

MAX_TENSORS = 10_000
"""Most tensors a file may hold. A MobileViT has 377; 200 000 one-byte tensors take seconds to parse."""

_STORED_AS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}
_WRITABLE = ("float64", "float32", "float16", "int64")

_MAX_HEADER_BYTES = 10_000_000  # more than MAX_TENSORS entries need; less than "PK\x03\x04" read as a length
_SAVE_AGAIN = "load the model with transformers and save it again with save_pretrained(folder)"
_RENAME = "if torch wrote it, rename it to pytorch_model.bin, which is read without running code"
_DOWNLOAD_AGAIN = "download it again"
_FOREIGN = (
    (b"PK\x03\x04", "weights-pickle", "a zip archive, as torch.save writes", _RENAME),
    (b"\x80", "weights-pickle", "a Python pickle (pickles can run code)", _SAVE_AGAIN),
    (b"\x89HDF", "weights-hdf5", "an HDF5 file, as TensorFlow writes", _SAVE_AGAIN),
    (b"version https://git-lfs", "weights-lfs-pointer", "a Git LFS pointer, not the file itself", "run git lfs pull"),
    (b"<", "weights-html", "an HTML or XML page, perhaps of a proxy or a log-in", _DOWNLOAD_AGAIN),
    (b"{", "weights-text", "JSON text, perhaps a server's error message", _DOWNLOAD_AGAIN),
)


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read all tensors of the safetensors file at `path`.

    The file is read at once, not mapped: a mapped file that shrinks kills the process.

    Parameters
    ----------
    path : Path
        A regular file of at most `MAX_WEIGHTS_BYTES` bytes and `MAX_TENSORS` tensors.

    Returns
    -------
    dict of str to ndarray
        Float64, float32, float16 and int64 as stored; bfloat16 as float32, which holds each of its values
        exactly. Every array owns its memory.

    Raises
    ------
    WeightsError
        If the file is damaged, is of another format, holds another dtype, NaN, infinity or a negative variance.
    CheckpointError
        If the file cannot be read.
    """
    import safetensors

    size = regular_file_size(path)
    if size > MAX_WEIGHTS_BYTES:
        raise WeightsError(f"{path}: {size} bytes, but at most {MAX_WEIGHTS_BYTES} are read", "weights-too-large")
    data = read_at_once(path)
    _refuse_too_many_tensors(data, path)
    try:
        entries = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        code, reason = _diagnosis(data)
        raise WeightsError(f"{path} is not a whole safetensors file: {reason}", code) from error
    _refuse_dtypes({name: entry["dtype"] for name, entry in entries.items()}, path)
    tensors = {name: _array(entry, name, path) for name, entry in entries.items()}
    refuse_values(tensors, path)
    return tensors


def write_safetensors(path: Path, tensors: Mapping[str, ArrayLike], metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors` to the safetensors file at `path`, so that transformers loads it.

    Parameters
    ----------
    path : Path
        The file is replaced whole or not at all.
    tensors : mapping of str to array_like
        Float64, float32, float16 or int64 in any memory layout and byte order.
    metadata : mapping of str to str, default {"format": "pt"}
        Text for the header. transformers loads only files that carry a ``format``.

    Raises
    ------
    WeightsError
        ``weights-dtype``, for an array of another dtype.
    CheckpointError
        ``checkpoint-unwritable``.
    """
    from safetensors.numpy import save

    arrays = {name: np.asarray(values) for name, values in tensors.items()}
    refused = [f"{name} ({array.dtype})" for name, array in arrays.items() if array.dtype.name not in _WRITABLE]
    if refused:
        raise WeightsError(f"{path}: cannot store {shown(refused)}; only {', '.join(_WRITABLE)}", "weights-dtype")
    stored = {name: _dense(array) for name, array in arrays.items()}
    write_atomically(path, save(stored, metadata={"format": "pt"} if metadata is None else dict(metadata)))


def _dense(array: NDArray[Any]) -> NDArray[Any]:
    # safetensors 0.8.0 writes the bytes from the array's first element on, whatever its strides: other layouts
    # come out wrong without an error. Not np.ascontiguousarray, which gives a scalar array a dimension.
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _array(entry: Mapping[str, Any], name: str, path: Path) -> NDArray[Any]:
    stored = np.frombuffer(entry["data"], dtype=_STORED_AS[entry["dtype"]])
    if entry["dtype"] == "BF16":
        values = (stored.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is the upper half of a float32
    else:
        values = stored.astype(stored.dtype.newbyteorder("="))
    try:
        return values.reshape(entry["shape"])
    except (ValueError, OverflowError) as error:
        raise WeightsError(f"{path}: {shown([name])} has a shape NumPy cannot hold", "weights-damaged") from error


def _refuse_too_many_tensors(data: bytes, path: Path) -> None:
    header_end = 8 + int.from_bytes(data[:8], "little")
    count = data.count(b'"data_offsets"', 8, header_end) if header_end <= len(data) else 0
    if count > MAX_TENSORS:
        raise WeightsError(f"{path}: {count} tensors, but at most {MAX_TENSORS} are read", "weights-too-many-tensors")


def _refuse_dtypes(dtypes: Mapping[str, str], path: Path) -> None:
    refused = [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype not in _STORED_AS]
    if refused:
        raise WeightsError(
            f"{path}: cannot read {shown(refused)}; only {', '.join(_STORED_AS)}: convert the weights to float32",
            "weights-dtype",
        )


def refuse_values(tensors: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Refuse `tensors` of the file at `path` that no training leaves behind.

    Raises
    ------
    WeightsError
        ``weights-not-finite`` or ``weights-negative-variance``, naming all such tensors.
    """
    infinite = [name for name, values in tensors.items() if not np.isfinite(values).all()]
    negative = [name for name, values in tensors.items() if name.endswith("running_var") and (values < 0).any()]
    if infinite or negative:
        found = [f"NaN or infinity in {shown(infinite)}"] * bool(infinite)
        found += [f"negative variances in {shown(negative)}"] * bool(negative)
        code = "weights-not-finite" if infinite else "weights-negative-variance"
        raise WeightsError(f"{path}: {'; '.join(found)}; the weights are damaged: {_DOWNLOAD_AGAIN}", code)


def _diagnosis(data: bytes) -> tuple[str, str]:
    """Code and reason for bytes that the safetensors library refused."""
    if not data:
        return "weights-empty", f"it is empty; {_DOWNLOAD_AGAIN}"
    expected = _expected_size(data)
    if expected is not None and expected > len(data):
        return "weights-truncated", f"{len(data)} bytes of at least {expected} are there; {_DOWNLOAD_AGAIN}"
    foreign = foreign_format(data)
    if foreign is not None:
        return foreign
    if len(data) < 8:
        return "weights-truncated", f"only {len(data)} bytes are there; {_DOWNLOAD_AGAIN}"
    return "weights-damaged", f"its header does not fit its contents; {_DOWNLOAD_AGAIN}"


def foreign_format(data: bytes) -> tuple[str, str] | None:
    """Code and reason for `data` that start as another format does; None where they do not."""
    for start, code, description, advice in _FOREIGN:
        if data[:64].lstrip().startswith(start):
            return code, f"it looks like {description}; {advice}"
    return None


def _expected_size(data: bytes) -> int | None:
    """Size that the header promises, as far as it can be read; None where it is no such header."""
    header_end = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or header_end > 8 + _MAX_HEADER_BYTES:
        return None
    if header_end > len(data):
        return header_end
    try:
        header = json.loads(data[8:header_end])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return header_end + max(int(end) for end in ends)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return None
