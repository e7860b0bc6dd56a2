"""Named arrays in safetensors files, in and out, with every damaged or foreign file refused by name.

The format is eight bytes with the length of a JSON header, the header, and the raw values:
https://huggingface.co/docs/safetensors. `read_stored` takes any tensors, `read_safetensors` only what can be weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npmobilevit.checkpoints.files import read_at_once, regular_file_size, shown, write_atomically
from npmobilevit.errors import WeightsError

MAX_WEIGHTS_BYTES = 4 * 2**30
"""Largest file that is read. The largest published MobileViT has 26 MB."""

MAX_TENSORS = 10_000
"""Most tensors a file may hold. A MobileViT has 377; 200 000 one-byte tensors take seconds to parse."""

STORED_AS: Mapping[str, str] = MappingProxyType(
    {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    | {f"I{bits}": f"int{bits}" for bits in (64, 32, 16, 8)}
    | {f"U{bits}": f"uint{bits}" for bits in (64, 32, 16, 8)}
    | {"BOOL": "bool"}
)
"""Types of the format, by NumPy's names and that of bfloat16, which NumPy has not."""

_IN_BYTES = {"bfloat16": "uint16", "bool": "uint8"}  # a byte may be neither False nor True
_OF_WEIGHTS = ("F64", "F32", "F16", "BF16", "I64")
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


class StoredTensors(Mapping[str, NDArray[Any]]):
    """The tensors of a safetensors file, in the order of their bytes.

    They are read-only views of the bytes of the file, of which there is no second copy. What NumPy cannot view is
    converted whenever it is asked for: bfloat16 to float32, which holds each of its values exactly, and bool.

    Attributes
    ----------
    dtypes : mapping of str to str
        Types as stored: names of NumPy and "bfloat16".
    metadata : mapping of str to str
    """

    def __init__(
        self, views: Mapping[str, NDArray[Any]], dtypes: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        self._views = views
        self.dtypes = dtypes
        self.metadata = metadata

    def __getitem__(self, name: str) -> NDArray[Any]:
        view = self._views[name]
        if self.dtypes[name] == "bfloat16":
            return from_bfloat16_bits(view)
        return view != 0 if self.dtypes[name] == "bool" else view.astype(view.dtype.newbyteorder("="), copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def read_stored(path: Path, *, allowed: Collection[str] = tuple(STORED_AS), advice: str | None = None) -> StoredTensors:
    """Read the safetensors file at `path`, whatever values it holds.

    The file is read at once, not mapped: a mapped file that shrinks kills the process. The header is read here and
    not by the safetensors library, which would copy all that follows it.

    Parameters
    ----------
    path : Path
        A regular file of at most `MAX_WEIGHTS_BYTES` bytes and `MAX_TENSORS` tensors.
    allowed : collection of str
        Of the types of `STORED_AS`.
    advice : str, optional
        What to do about a damaged file, where that is not to get a whole or another checkpoint.

    Returns
    -------
    StoredTensors

    Raises
    ------
    WeightsError
        If the file is damaged, is of another format or holds another dtype.
    CheckpointError
        If the file cannot be read.
    """
    size = regular_file_size(path)
    if size > MAX_WEIGHTS_BYTES:
        raise WeightsError(f"{path}: {size} bytes, but at most {MAX_WEIGHTS_BYTES} are read", "weights-too-large")
    data = read_at_once(path)
    _refuse_too_many_tensors(data, path)
    try:
        header, metadata = _header(data)
        entries = _entries(header)
        _refuse_dtypes({name: entry.dtype for name, entry in entries.items()}, allowed, path)
        body = memoryview(data)[_header_end(data) :]
        _refuse_gaps(entries, len(body))
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        code, reason = _diagnosis(data)
        reason = reason if advice is None else f"{reason.rpartition('; ')[0]}; {advice}"
        raise WeightsError(f"{path} is not a whole safetensors file: {reason}", code) from error
    where = f"{path} is not a whole safetensors file"
    views = {
        name: _view(body, entry, f"{where}: {shown([name])}", advice or _DOWNLOAD_AGAIN)
        for name, entry in entries.items()
    }
    return StoredTensors(views, {name: STORED_AS[entry.dtype] for name, entry in entries.items()}, metadata)


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read all tensors of the safetensors file at `path`, which have to be such as weights are.

    Parameters
    ----------
    path : Path
        See `read_stored`.

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
    tensors = {name: np.array(view) for name, view in read_stored(path, allowed=_OF_WEIGHTS).items()}
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


def safetensors_bytes(
    tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], *, uint16_as: str = "U16"
) -> bytes:
    """The safetensors file of `tensors`: always the same bytes, as the library's metadata are in an order of chance.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        In any of NumPy's types in `STORED_AS`.
    metadata : mapping of str to str
    uint16_as : {"U16", "BF16"}
        "BF16" where they are the bits of bfloat16 numbers, a type that NumPy has not.

    Returns
    -------
    bytes
    """
    types = {numpy: stored for stored, numpy in STORED_AS.items()} | {"uint16": uint16_as}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    body, end = [], 0
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].itemsize):  # so all of them are aligned
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": types[array.dtype.name], "shape": array.shape, "data_offsets": [begin, end]}
        body.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *body])


def bfloat16_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Floats as bfloat16, the upper half of a float32; rounded to nearest, halves to even."""
    with np.errstate(over="ignore", invalid="ignore"):  # infinity less infinity, where no half is
        single = values.astype(np.float32)
        # a float64 that float32 rounds to a half lies above or below that half
        beyond = np.nan_to_num(np.sign(np.abs(values) - np.abs(single.astype(values.dtype)))).astype(np.int64)
    bits = single.view(np.uint32)
    bits = np.where(bits & 0xFFFF == 0x8000, bits + beyond, bits).astype(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(single), np.uint16(0x7FC0), rounded)  # else a NaN may round to infinity or zero


def from_bfloat16_bits(bits: NDArray[Any]) -> NDArray[np.float32]:
    """Float32 of the same values."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _dense(array: NDArray[Any]) -> NDArray[Any]:
    # safetensors 0.8.0 writes the bytes from the array's first element on, whatever its strides: other layouts
    # come out wrong without an error. Not np.ascontiguousarray, which gives a scalar array a dimension.
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


class _Entry(NamedTuple):
    """A tensor in the header; `begin` and `end` count bytes behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _header(data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """The header without and with its metadata; raise ValueError or RecursionError if it is none."""
    if len(data) < 8 or _header_end(data) > min(len(data), 8 + _MAX_HEADER_BYTES):
        raise ValueError("length of the header")
    header = json.loads(data[8 : _header_end(data)].decode("utf-8"), object_pairs_hook=_unique)
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("header or metadata is no object")
    return header, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _entries(header: Mapping[str, Any]) -> dict[str, _Entry]:
    """The tensors in the order of their bytes; raise ValueError if they are not described as tensors are."""
    entries = {}
    for name, entry in header.items():
        name.encode()  # half a surrogate pair is no text
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise ValueError("entry")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not (isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
            raise ValueError("dtype, shape or offsets")
        entries[name] = _Entry(dtype, tuple(shape), *offsets)
    return dict(sorted(entries.items(), key=lambda item: item[1][2:]))


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**64 for value in values)


def _refuse_gaps(entries: Mapping[str, _Entry], size: int) -> None:
    """Raise ValueError unless the tensors cover all `size` bytes, one behind the other."""
    end = 0
    for entry in entries.values():
        if entry.begin != end or entry.end < end:
            raise ValueError("hole or overlap")
        end = entry.end
    if end != size:
        raise ValueError("bytes missing or left over")


def _view(body: memoryview, entry: _Entry, where: str, advice: str) -> NDArray[Any]:
    dtype = STORED_AS[entry.dtype]
    stored = np.frombuffer(body[entry.begin : entry.end], np.uint8)
    try:
        return stored.view(np.dtype(_IN_BYTES.get(dtype, dtype)).newbyteorder("<")).reshape(entry.shape)
    except (ValueError, OverflowError) as error:
        raise WeightsError(
            f"{where} has {entry.end - entry.begin} bytes, which are no array that NumPy can hold of {dtype} in the "
            f"shape {str(entry.shape)[:80]}; {advice}",
            "weights-damaged",
        ) from error


def _refuse_too_many_tensors(data: bytes, path: Path) -> None:
    header_end = _header_end(data)
    count = data.count(b'"data_offsets"', 8, header_end) if header_end <= len(data) else 0
    if count > MAX_TENSORS:
        raise WeightsError(f"{path}: {count} tensors, but at most {MAX_TENSORS} are read", "weights-too-many-tensors")


def _refuse_dtypes(dtypes: Mapping[str, str], allowed: Collection[str], path: Path) -> None:
    refused = [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype not in allowed]
    if refused:
        raise WeightsError(
            f"{path}: cannot read {shown(refused)}; only {', '.join(allowed)}: convert them to float32",
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
    foreign = foreign_format(data) if expected is None else None  # the length of a header may look like anything
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
    header_end = _header_end(data)
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
