"""Candidates: what a port put out at its taps, from a mapping, an archive, a folder or a manifest.

Whatever is mistaken or hostile about them ends in BundleError. NaN and infinity are let through: a port may well
compute them, and the check says where they begin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.checkpoints import from_bfloat16_bits, read_json_object, regular_file_size, shown
from npmobilevit.errors import BundleError
from npmobilevit.validation.bundles import PIXELS, Bundle, as_bundle_errors, path_of, producer, read_tensors

MAX_TAPS = 10_000
"""Most taps of a candidate. A MobileViT has about 320."""

MAX_BYTES = 4 * 2**30
"""Most bytes of a candidate's file, and of all arrays of an archive when they are unpacked."""

MANIFEST = "manifest.json"
DTYPES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    *(f"{u}int{b}" for u in ("", "u") for b in (64, 32, 16, 8)),
    "bool",
)
LAYOUTS = ("NCHW", "NHWC")
KERNEL_LAYOUTS = ("OIHW", "OHWI")  # of parameters
RAW, HEX, NPY = (".raw", ".bin"), (".hex", ".mem", ".txt"), (".npy",)

_HEADER_BYTES = 20_000  # more than the header of an .npy file of one array may take
_MAX_AXES = 32
_READ_AGAIN = "write it again"

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a port put out.

    Attributes
    ----------
    tensors : mapping of str to ndarray
        Values by tap: quantised ones as real numbers in float64, bfloat16 as float32, four axes as N, C, H, W.
        A tap of a file may be read each time it is asked for, and then, too, end in BundleError.
    dtypes : mapping of str to str
        Types as stored: names of NumPy and "bfloat16".
    scales : mapping of str to float
        Step between neighbouring values of each quantised tap.
    ranges : mapping of str to (float, float)
        Smallest and largest value that each quantised tap can hold.
    parameter_scales : mapping of str to float
        Steps of quantised weights, by parameter.
    producer : mapping of str to str
        Who made the tensors, as far as they say.
    """

    tensors: Mapping[str, Array]
    dtypes: Mapping[str, str]
    scales: Mapping[str, float] = dataclasses.field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    parameter_scales: Mapping[str, float] = dataclasses.field(default_factory=dict)
    producer: Mapping[str, str] = dataclasses.field(default_factory=dict)


class LazyTensors(Mapping[str, Array]):
    """Arrays that are made when they are asked for, and not kept."""

    def __init__(self, readers: Mapping[str, Callable[[], Array]]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> Array:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def read_candidate(source: Mapping[str, Any] | str | os.PathLike[str]) -> Candidate:
    """Read what a port put out.

    Parameters
    ----------
    source : mapping of str to array_like, or path
        Arrays by tap (tensors of torch, too); a bundle or any other safetensors file; an .npz archive; a folder of
        .npy files that bear the names of the taps; or a folder with a manifest.json (see reference/bundles.md).

    Returns
    -------
    Candidate

    Raises
    ------
    BundleError
        If it cannot be read, is damaged, or is none.
    """
    if isinstance(source, Bundle):
        return _of_bundle(source)
    if isinstance(source, Mapping):
        return _of_mapping(source)
    if not isinstance(source, str | os.PathLike):
        raise BundleError(
            f"a candidate is a mapping of names to arrays or a path, not {type(source).__name__}", "bundle-type"
        )
    path = path_of(source)
    if os.path.isdir(path):
        return _of_manifest(path) if os.path.lexists(path / MANIFEST) else _of_npy_files(path)
    _file_size(path)
    readers = {".npz": _of_npz, ".safetensors": _of_safetensors}
    if path.suffix.lower() not in readers:
        raise BundleError(
            f"{path} has to be an .npz or .safetensors file, or a folder of .npy files or with a {MANIFEST}",
            "bundle-format",
        )
    return readers[path.suffix.lower()](path)


def read_pixel_values(source: str | os.PathLike[str]) -> Array:
    """The input of a network: an .npy file, or the tap "pixel_values" of anything that `read_candidate` takes.

    Raises
    ------
    BundleError
        If it cannot be read, is damaged, or has no such tap.
    """
    path = path_of(source)
    if path.suffix.lower() in NPY and not os.path.isdir(path):
        size = _file_size(path)
        return _npy_file(path, size, _npy_header(_head(path), size, str(path)))
    tensors = read_candidate(path).tensors
    if PIXELS not in tensors:
        raise BundleError(f"{path} holds no {PIXELS}, but {shown(list(tensors))}", "bundle-no-pixels")
    return tensors[PIXELS]


# Mappings ----------------------------------------------------------------------------------------------------------


def _of_mapping(source: Mapping[str, Any]) -> Candidate:
    _check_names(source, "the candidate")
    arrays = {name: _from_anything(source, name) for name in source}
    return Candidate(
        MappingProxyType({name: array for name, (array, _) in arrays.items()}),
        MappingProxyType({name: dtype for name, (_, dtype) in arrays.items()}),
    )


def _from_anything(source: Mapping[str, Any], name: str) -> tuple[Array, str]:
    """An array and the name of the type it had."""
    try:
        value = source[name]
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError("a masked array, whose mask would be lost; use .filled(value)")
        array, dtype = _as_array(value)
    except Exception as error:  # what frameworks and ragged lists raise differs
        message = f"tap {shown([name])} cannot be read as an array: {str(error)[:300]}"
        raise BundleError(message, "bundle-array") from error
    return array, _known_dtype(array.dtype, f"tap {shown([name])}") if dtype is None else dtype


def _as_array(value: Any) -> tuple[Array, str | None]:
    if callable(getattr(value, "detach", None)):  # a tensor of torch: away from its graph and device
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            return np.asarray(value.float()), "bfloat16"
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":  # of ml_dtypes, as jax has it
        return array.astype(np.float32), "bfloat16"
    return array.astype(array.dtype.newbyteorder("="), copy=False), None


def _known_dtype(dtype: np.dtype[Any], where: str) -> str:
    """Its name; raise BundleError if it is none of a tap."""
    if dtype.hasobject:
        raise BundleError(
            f"{where} holds Python objects, and only numbers are read: pickles can run code", "bundle-pickle"
        )
    if dtype.name not in DTYPES:
        raise BundleError(f"{where} is of dtype {str(dtype)[:80]}; only {', '.join(DTYPES)} are read", "bundle-dtype")
    return dtype.name


def _check_names(names: Collection[Any], where: str) -> None:
    if not names:
        raise BundleError(f"{where} holds no tap; record at least the logits", "bundle-empty")
    if len(names) > MAX_TAPS:
        raise BundleError(f"{where} holds {len(names)} taps, but at most {MAX_TAPS} are read", "bundle-too-many-taps")
    for name in names:
        if not isinstance(name, str) or not _is_text(name):
            raise BundleError(f"{where}: the name of a tap must be text, found {repr(name)[:80]}", "bundle-name")


def _is_text(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:  # half a surrogate pair
        return False


# safetensors -------------------------------------------------------------------------------------------------------


def _of_bundle(bundle: Bundle) -> Candidate:
    dtypes = {name: value.dtype.name for name, value in bundle.items()}
    return Candidate(bundle, MappingProxyType(dtypes), producer=MappingProxyType(producer(bundle)))


def _of_safetensors(path: Path) -> Candidate:
    stored = read_tensors(path)
    if Bundle.is_one(stored):
        return _of_bundle(Bundle.from_stored(stored, path))
    _check_names(stored, str(path))
    made_by = {key: text for key, text in stored.metadata.items() if key != "format"}  # "pt" in torch's files
    return Candidate(stored, MappingProxyType(dict(stored.dtypes)), producer=MappingProxyType(made_by))


# .npy and .npz -----------------------------------------------------------------------------------------------------


class _Npy(NamedTuple):
    """What the header of an .npy file says; `start` is where the values begin."""

    dtype: np.dtype[Any]
    shape: Shape
    fortran: bool
    start: int


def _npy_header(head: bytes, size: int, where: str, *, bfloat16: bool = False) -> _Npy:
    """The header of an .npy file of `size` bytes that begins with `head`, which has to describe all of the file."""
    file = io.BytesIO(head)
    try:
        with warnings.catch_warnings():  # NumPy speaks of headers of Python 2 and of old names of types
            warnings.simplefilter("ignore")
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran, dtype = read(file)
    except Exception as error:  # the header is Python source, and what parsing it raises differs
        raise BundleError(f"{where} is no whole .npy file of one array; {_READ_AGAIN}", "bundle-damaged") from error
    if not (bfloat16 and dtype.str in ("<u2", "|V2", "<V2")):  # its bits, as we and as ml_dtypes write them
        _known_dtype(dtype, where)
    _check_shape(shape, dtype.itemsize, where)
    header = _Npy(np.dtype("<u2") if bfloat16 else dtype, shape, fortran, file.tell())
    _check_file_size(size - header.start, shape, dtype.itemsize, where)
    return header


def _check_shape(shape: object, itemsize: int, where: str) -> None:
    good = isinstance(shape, list | tuple) and all(type(n) is int and 0 <= n <= MAX_BYTES for n in shape)
    if not good or len(shape) > _MAX_AXES or math.prod(max(n, 1) for n in shape) * itemsize > MAX_BYTES:  # type: ignore[arg-type,attr-defined]
        raise BundleError(
            f"{where}: shape must be at most {_MAX_AXES} sizes from 0 of at most {MAX_BYTES} bytes in all, found "
            f"{repr(shape)[:80]}",
            "bundle-shape",
        )


def _check_file_size(found: int, shape: Shape, itemsize: int, where: str) -> None:
    expected = math.prod(shape) * itemsize
    if found != expected:
        raise BundleError(
            f"{where}: {found} bytes of values, but shape {tuple(shape)} of {itemsize} bytes each makes {expected}",
            "bundle-size",
        )


def _npy_array(data: bytes, header: _Npy) -> Array:
    numbers = _numbers(memoryview(data)[header.start :], header.dtype)
    return numbers.reshape(header.shape, order="F" if header.fortran else "C")


def _numbers(data: bytes | memoryview, dtype: np.dtype[Any]) -> Array:
    """One axis of numbers, in the byte order of this machine."""
    stored: Array = np.frombuffer(data, np.uint8 if dtype.kind == "b" else dtype)
    if dtype.kind == "b":
        return np.not_equal(stored, 0)  # a byte may be neither False nor True
    return np.asarray(stored, dtype.newbyteorder("="))


def _of_npz(path: Path) -> Candidate:
    with _archive_errors(path):
        archive = _open_archive(path)  # stays open, and is closed with the last of the readers
        members = _members(path, archive)
    _check_names([info.filename.removesuffix(".npy") for info in members], str(path))
    readers: dict[str, Callable[[], Array]] = {}
    dtypes: dict[str, str] = {}
    with _archive_errors(path):
        for info in members:
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as file:
                header = _npy_header(file.read(_HEADER_BYTES), info.file_size, f"{path}, tap {shown([name])}")
            readers[name] = functools.partial(_npz_array, path, archive, info, header)
            dtypes[name] = header.dtype.name
    return Candidate(LazyTensors(readers), MappingProxyType(dtypes))


def _members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """What the archive holds; raise BundleError unless they are arrays that fit into memory."""
    members = archive.infolist()
    odd = [info.filename for info in members if not info.filename.endswith(".npy")]
    coded = [
        i.filename
        for i in members
        if i.flag_bits & 1 or i.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]
    if odd or coded:
        raise BundleError(
            f"{path}: {shown(odd or coded)} are no arrays as numpy.savez and savez_compressed write them",
            "bundle-format",
        )
    _refuse_repeated([info.filename for info in members], path)
    size = sum(info.file_size for info in members)
    if size > MAX_BYTES:
        raise BundleError(f"{path} unpacks to {size} bytes, but at most {MAX_BYTES} are read", "bundle-too-large")
    return members


def _refuse_repeated(names: Iterable[str], path: Path) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise BundleError(f"{path} holds {shown(repeated)} more than once", "bundle-duplicate-name")


def _open_archive(path: Path) -> zipfile.ZipFile:
    if _entries_at_most(path) > 2 * MAX_TAPS:  # before zipfile makes an object of each
        raise BundleError(f"{path} holds far more than the {MAX_TAPS} taps that are read", "bundle-too-many-taps")
    return zipfile.ZipFile(path)


@contextlib.contextmanager
def _archive_errors(path: Path) -> Iterator[None]:
    """Whatever is found wrong with a zip archive is a BundleError."""
    try:
        yield
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}", "bundle-unreadable") from error
    except Exception as error:  # what zipfile lets through differs between versions of Python
        raise BundleError(f"{path} is no whole .npz archive: {error}; {_READ_AGAIN}", "bundle-damaged") from error


def _entries_at_most(path: Path) -> int:
    """A bound of the number of entries in the archive's directory, in flat memory."""
    mark, count, rest = b"PK\x01\x02", 0, b""
    with path.open("rb") as file:
        while piece := file.read(2**22):
            count += (rest + piece).count(mark)
            rest = piece[-len(mark) + 1 :]
    return count


def _npz_array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: _Npy) -> Array:
    with _archive_errors(path), archive.open(info) as file:
        data = file.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise BundleError(f"{path}: {shown([info.filename])} is cut off; {_READ_AGAIN}", "bundle-truncated")
    return _npy_array(data, header)


# Folders -----------------------------------------------------------------------------------------------------------


def _file_size(path: Path) -> int:
    with as_bundle_errors():
        size = regular_file_size(path)
    if size > MAX_BYTES:
        raise BundleError(f"{path}: {size} bytes, but at most {MAX_BYTES} are read", "bundle-too-large")
    return size


def _bytes(path: Path, size: int) -> bytes:
    """The contents of a file that had `size` bytes when the candidate was read."""
    try:
        with path.open("rb") as file:
            data = file.read(size + 1)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}", "bundle-unreadable") from error
    if len(data) != size:
        raise BundleError(f"{path} is no longer of {size} bytes: it was changed while it was read", "bundle-changed")
    return data


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}", "bundle-unreadable") from error


def _inside(folder: Path, file: object, where: str) -> Path:
    """The path of a file that is named relative to `folder` and lies in it, wherever links lead."""
    if not isinstance(file, str) or not file or "\0" in file:
        raise BundleError(f"{where}: file must be the name of a file, found {repr(file)[:80]}", "bundle-manifest")
    try:
        root, path = folder.resolve(), (folder / file).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links that go in a circle
        raise BundleError(f"{where}: file {shown([file])} cannot be reached: {error}", "bundle-unreadable") from error
    if Path(file).is_absolute() or not path.is_relative_to(root):
        raise BundleError(f"{where}: file {shown([file])} lies outside of {folder}; put it inside", "bundle-outside")
    return path


def _of_npy_files(folder: Path) -> Candidate:
    try:
        files = sorted(name for name in os.listdir(folder) if name.endswith(".npy"))
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error}", "bundle-unreadable") from error
    if not files:
        raise BundleError(f"{folder} holds neither a {MANIFEST} nor .npy files", "bundle-empty")
    _check_names([name.removesuffix(".npy") for name in files], str(folder))
    readers: dict[str, Callable[[], Array]] = {}
    dtypes: dict[str, str] = {}
    for file in files:
        path = _inside(folder, file, str(folder))
        size = _file_size(path)
        header = _npy_header(_head(path), size, str(path))
        readers[file.removesuffix(".npy")] = functools.partial(_npy_file, path, size, header)
        dtypes[file.removesuffix(".npy")] = header.dtype.name
    return Candidate(LazyTensors(readers), MappingProxyType(dtypes))


def _npy_file(path: Path, size: int, header: _Npy) -> Array:
    return _npy_array(_bytes(path, size), header)


# Manifests ---------------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """A tap of a manifest."""

    read: Callable[[], Array]  # as stored, bfloat16 as float32
    dtype: str
    layout: str
    scale: float | None
    zero_point: int

    def values(self) -> Array:
        """The real numbers, channels before pixels."""
        array = self.read()
        if self.layout == "NHWC" and array.ndim == 4:
            array = array.transpose(0, 3, 1, 2)
        return array if self.scale is None else (array.astype(np.float64) - self.zero_point) * self.scale


def _of_manifest(folder: Path) -> Candidate:
    with as_bundle_errors():
        manifest = read_json_object(folder / MANIFEST)
    path = folder / MANIFEST
    _refuse_unknown(manifest, {"taps", "producer", "parameters"}, str(path))
    taps = _object(manifest.get("taps"), f"{path}: taps")
    _check_names(taps, str(path))
    entries = {name: _entry(folder, value, f"{path}: tap {shown([name])}") for name, value in taps.items()}
    quantized = {name: entry for name, entry in entries.items() if entry.scale is not None}
    return Candidate(
        tensors=LazyTensors({name: entry.values for name, entry in entries.items()}),
        dtypes=MappingProxyType({name: entry.dtype for name, entry in entries.items()}),
        scales=MappingProxyType({name: entry.scale for name, entry in quantized.items() if entry.scale is not None}),
        ranges=MappingProxyType({name: _range(entry) for name, entry in quantized.items()}),
        parameter_scales=MappingProxyType(_parameter_scales(folder, manifest.get("parameters", {}), path)),
        producer=MappingProxyType(_texts(manifest.get("producer", {}), f"{path}: producer")),
    )


def _parameter_scales(folder: Path, value: object, path: Path) -> dict[str, float]:
    """The scales of a manifest's parameters. Their files are checked as those of taps are, but nothing reads them."""
    scales: dict[str, float] = {}
    for name, entry in _object(value, f"{path}: parameters").items():
        where = f"{path}: parameter {shown([name])}"
        fields = _object(entry, where)
        scales[name] = _positive(fields.get("scale"), where)
        if fields.keys() != {"scale"}:
            _entry(folder, fields, where, KERNEL_LAYOUTS)
    return scales


def _entry(folder: Path, value: object, where: str, layouts: Sequence[str] = LAYOUTS) -> _Entry:
    fields = _object(value, where)
    _refuse_unknown(fields, {"file", "dtype", "shape", "layout", "scale", "zero_point"}, where)
    path = _inside(folder, fields.get("file"), where)
    dtype, layout = fields.get("dtype"), fields.get("layout", layouts[0])
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BundleError(
            f"{where}: dtype must be one of {', '.join(DTYPES)}, found {repr(dtype)[:80]}", "bundle-dtype"
        )
    if not isinstance(layout, str) or layout not in layouts:
        raise BundleError(f"{where}: layout must be {' or '.join(layouts)}, found {repr(layout)[:80]}", "bundle-layout")
    stored = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
    shape = fields.get("shape")
    _check_shape(shape, stored.itemsize, where)
    read = _reader(path, stored, tuple(shape), where, bfloat16=dtype == "bfloat16")  # type: ignore[arg-type]
    if dtype == "bfloat16":
        read = functools.partial(_from_bits, read)
    return _Entry(read, dtype, layout, *_scale(fields, dtype, where))


def _from_bits(read: Callable[[], Array]) -> Array:
    return from_bfloat16_bits(read())


def _reader(path: Path, dtype: np.dtype[Any], shape: Shape, where: str, *, bfloat16: bool) -> Callable[[], Array]:
    """What reads a file of a tap, after a look at its size and, where it has one, its header."""
    size, suffix = _file_size(path), path.suffix.lower()
    if suffix in RAW:
        _check_file_size(size, shape, dtype.itemsize, where)
        return functools.partial(_raw_array, path, size, dtype, shape)
    if suffix in HEX:
        # room for a line feed and some more behind each word: what is far larger is something else
        if size > 4 * (2 * dtype.itemsize + 1) * (math.prod(shape) + 1000):
            raise BundleError(f"{where}: {path.name} has {size} bytes, too many for shape {shape}", "bundle-size")
        return functools.partial(_hex_array, path, size, dtype, shape)
    if suffix in NPY:
        header = _npy_header(_head(path), size, where, bfloat16=bfloat16)
        if (header.dtype.name, header.shape) != (dtype.name, shape):
            raise BundleError(
                f"{where}: {path.name} holds {header.dtype.name} of shape {header.shape}, not {dtype.name} of {shape}",
                "bundle-size",
            )
        return functools.partial(_npy_file, path, size, header)
    raise BundleError(
        f"{where}: the name of a file must end in {', '.join((*RAW, *HEX, *NPY))}, found {shown([path.name])}",
        "bundle-format",
    )


def _raw_array(path: Path, size: int, dtype: np.dtype[Any], shape: Shape) -> Array:
    return _numbers(_bytes(path, size), dtype).reshape(shape)


def _hex_array(path: Path, size: int, dtype: np.dtype[Any], shape: Shape) -> Array:
    data = hex_words(_bytes(path, size), 2 * dtype.itemsize, str(path))
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise BundleError(
            f"{path} holds {len(data) // dtype.itemsize} words, but shape {shape} asks for {math.prod(shape)}",
            "bundle-size",
        )
    return _numbers(data, dtype.newbyteorder(">")).reshape(shape)


_NIBBLES = np.full(256, 0xFF, np.uint8)  # 0xFF: no digit; 0xFE: white space
_NIBBLES[[*b"0123456789abcdef"]] = range(16)
_NIBBLES[[*b"ABCDEF"]] = range(10, 16)
_NIBBLES[[*b" \t\r\n\v\f"]] = 0xFE


def hex_words(text: bytes, digits: int, where: str) -> bytes:
    """The bytes of hexadecimal words, each of just so many digits and apart from the next by white space."""
    values = _NIBBLES[np.frombuffer(text, np.uint8)]
    begins = np.empty(len(values), bool)  # a digit behind none
    begins[:1], begins[1:] = True, values[:-1] == 0xFE
    is_digit = values != 0xFE
    values, begins = values[is_digit], begins[is_digit]
    words = np.flatnonzero(begins)
    regular = np.array_equal(words, np.arange(0, len(values), digits)) and len(values) % digits == 0
    if not regular or (values == 0xFF).any():
        raise BundleError(
            f"{where} has to hold hexadecimal words of {digits} digits with white space in between, as "
            f'printf("%0{digits}X\\n") writes them',
            "bundle-hex",
        )
    return np.asarray(values[0::2] << 4 | values[1::2], np.uint8).tobytes()


def _scale(fields: Mapping[str, Any], dtype: str, where: str) -> tuple[float | None, int]:
    """Scale and zero point of a tap; (None, 0) if it is not quantised."""
    if "scale" not in fields:
        if "zero_point" in fields:
            raise BundleError(f"{where}: a zero_point without a scale", "bundle-scale")
        return None, 0
    zero_point = fields.get("zero_point", 0)
    if np.dtype(dtype if dtype != "bfloat16" else "float32").kind not in "iu":
        raise BundleError(f"{where}: a scale is for integers, and the dtype is {dtype}", "bundle-scale")
    if type(zero_point) is not int or abs(zero_point) > 2**32:
        raise BundleError(f"{where}: zero_point must be an integer, found {repr(zero_point)[:80]}", "bundle-scale")
    return _positive(fields["scale"], where), zero_point


def _positive(value: object, where: str) -> float:
    """A scale: JSON has no NaN and no infinity, but an integer may be beyond all floats."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        raise BundleError(f"{where}: scale must be a number above 0, found {repr(value)[:80]}", "bundle-scale")
    return float(value)


def _range(entry: _Entry) -> tuple[float, float]:
    assert entry.scale is not None
    limits = np.iinfo(entry.dtype)
    return (limits.min - entry.zero_point) * entry.scale, (limits.max - entry.zero_point) * entry.scale


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BundleError(f"{where} must be a JSON object, found {repr(value)[:80]}", "bundle-manifest")
    return value


def _texts(value: object, where: str) -> dict[str, str]:
    texts = _object(value, where)
    odd = [name for name, text in texts.items() if not isinstance(text, str)]
    if odd:
        raise BundleError(f"{where}: {shown(odd)} must be text", "bundle-manifest")
    return texts


def _refuse_unknown(fields: Mapping[str, Any], known: Collection[str], where: str) -> None:
    unknown = sorted(fields.keys() - known)
    if unknown:
        message = f"{where} has unknown entries {shown(unknown)}; known are {', '.join(sorted(known))}"
        raise BundleError(message, "bundle-manifest")
