"""pytorch_model.bin and .pt files: the tensors of a state dict, read without torch and without running a pickle.

`torch.save` writes a zip archive of uncompressed members: ``<root>/data.pkl``, a pickle that describes the tensors,
and ``<root>/data/<key>`` with the raw values of each storage, a one-dimensional array that tensors are views of:
https://pytorch.org/docs/stable/notes/serialization.html.

A pickle is a program. `pickle.Unpickler` would import and call what it names, and allocate what it asks for; here a
small machine carries out only the instructions that a state dict needs, on inert data: nothing is imported, no object
gets attributes, and names stand for themselves.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npmobilevit.checkpoints.files import read_at_once, regular_file_size, shown
from npmobilevit.checkpoints.weights_file import MAX_TENSORS, MAX_WEIGHTS_BYTES, foreign_format, refuse_values
from npmobilevit.errors import WeightsError

MAX_GROWTH = 8
"""How many times larger than the file its tensors may be. Tensors that share memory, or repeat it, come out apart."""

MAX_OPCODES = 500_000
"""Most instructions a pickle may have. `MAX_TENSORS` tensors need about 330 000, and a second."""

NESTED = ("state_dict", "model_state_dict", "model", "ema_state_dict", "state_dict_ema", "model_ema", "ema")
"""Entries of a training checkpoint that may hold the state dict, in the order of preference."""

_MAX_PICKLE_BYTES = 16 * 2**20
_MAX_MEMBERS = MAX_TENSORS + 100
_MAX_DIMENSIONS = 64  # as NumPy; the product of many more would take long
_INTEGER_BITS = 63  # without the sign; an integer key of any size could be made to collide with many others
_DOWNLOAD_AGAIN = "download it again"
_ONLY_STATE_DICT = "only files of torch.save(model.state_dict(), path) or of a checkpoint that holds one are read"
_SAVE_AS_ZIP = "torch.save(torch.load(path, weights_only=True), path) of PyTorch 1.13 or later writes it anew"

_STORED_AS = {
    "torch DoubleStorage": "f8",
    "torch FloatStorage": "f4",
    "torch HalfStorage": "f2",
    "torch BFloat16Storage": "u2",
    "torch LongStorage": "i8",
    "torch IntStorage": "i4",
    "torch ShortStorage": "i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "u1",
}
_LEGACY_STARTS = (b"l\xfc\x9cF\xf9 j\xa8P\x19", b"L119547037146038801333356L")  # binary and text pickles


def read_torch(path: Path) -> dict[str, NDArray[Any]]:
    """Read the state dict in the file at `path`, which `torch.save` wrote.

    Parameters
    ----------
    path : Path
        A regular file of at most `MAX_WEIGHTS_BYTES` bytes, in the zip format that PyTorch writes since version 1.6,
        with pickle protocol 2 to 5. It holds a state dict, or a dict with one under the first of `NESTED` that holds
        tensors. All other entries are ignored.

    Returns
    -------
    dict of str to ndarray
        All dtypes as stored, in the machine's byte order; bfloat16 as float32, which holds each of its values
        exactly. Every array owns its memory, at most `MAX_GROWTH` times the size of the file in all.

    Raises
    ------
    WeightsError
        If the file is damaged, is of another format, asks for anything but tensors, holds another dtype, NaN,
        infinity or a negative variance. Nothing that the file asks for is ever run.
    CheckpointError
        If the file cannot be read.
    """
    size = regular_file_size(path)
    if size > MAX_WEIGHTS_BYTES:
        raise WeightsError(f"{path}: {size} bytes, but at most {MAX_WEIGHTS_BYTES} are read", "weights-too-large")
    try:
        tensors = _read(read_at_once(path))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}", error.code) from error
    refuse_values(tensors, path)
    return tensors


def _read(data: bytes) -> dict[str, NDArray[Any]]:
    members = _members(data)
    found = _state_dict(_Machine().run(bytes(_pickle(members))))
    _refuse_growth(found, len(data))
    order = _byte_order(members)
    return {name: _array(tensor, members, order, name) for name, tensor in found.items()}


# the archive


def _members(data: bytes) -> dict[str, memoryview]:
    """Contents of the members by name, without the root folder that all of them share."""
    entries = _entries(data)
    _refuse_odd_entries(entries, len(data))
    roots = [entry.filename[: -len("data.pkl")] for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(roots) != 1:
        raise WeightsError(
            f"a zip archive with {len(roots)} members '<folder>/data.pkl' in place of one, so not of torch.save; "
            f"{_ONLY_STATE_DICT}",
            "weights-damaged",
        )
    inside = [entry for entry in entries if entry.filename.startswith(roots[0])]
    return {entry.filename.removeprefix(roots[0]): _contents(entry, data) for entry in inside}


def _entries(data: bytes) -> list[zipfile.ZipInfo]:
    _refuse_foreign(data)
    if data.count(b"PK\x01\x02") > _MAX_MEMBERS:  # before zipfile makes an object of each
        raise WeightsError(f"more than {_MAX_MEMBERS} members are in the archive", "weights-too-many-tensors")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.infolist()
    except Exception as error:  # what zipfile lets through differs between versions of Python
        if b"PK\x05\x06" not in data[-(2**16) :]:
            raise WeightsError(
                f"the end of the archive is not there; {_DOWNLOAD_AGAIN}", "weights-truncated"
            ) from error
        raise WeightsError(f"the archive's directory is damaged; {_DOWNLOAD_AGAIN}", "weights-damaged") from error


def _refuse_foreign(data: bytes) -> None:
    if not data:
        raise WeightsError(f"it is empty; {_DOWNLOAD_AGAIN}", "weights-empty")
    if data.startswith(b"PK"):
        return
    if data[257:262] == b"ustar" or any(start in data[:40] for start in _LEGACY_STARTS):
        raise WeightsError(f"the format that PyTorch wrote before version 1.6; {_SAVE_AS_ZIP}", "weights-torch-legacy")
    code, reason = foreign_format(data) or ("weights-damaged", f"it is no zip archive; {_DOWNLOAD_AGAIN}")
    raise WeightsError(f"not a file of torch.save: {reason}", code)


def _refuse_odd_entries(entries: list[zipfile.ZipInfo], file_size: int) -> None:
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise WeightsError(
            "a TorchScript program (of torch.jit.save), which is not run; "
            "torch.save(torch.jit.load(path).state_dict(), new_path) writes its weights alone",
            "weights-torchscript",
        )
    repeated = [name for name, count in Counter(entry.filename for entry in entries).items() if count > 1]
    if repeated:
        raise WeightsError(f"{shown(repeated)} is there more than once in the archive", "weights-damaged")
    coded = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1]
    if coded:
        raise WeightsError(
            f"{shown(coded)} is compressed or encrypted, which torch.save never does; give the file as it wrote it",
            "weights-damaged",
        )
    if sum(entry.file_size for entry in entries) > file_size:  # or one long stretch would be read for each member
        raise WeightsError(f"the archive's members are larger than the file; {_DOWNLOAD_AGAIN}", "weights-truncated")


def _contents(entry: zipfile.ZipInfo, data: bytes) -> memoryview:
    """The bytes of a member, where they lie in `data`."""
    name = shown([entry.filename])
    start = entry.header_offset + 30
    header = data[max(0, entry.header_offset) : start]
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise WeightsError(f"{name} is not where the archive says; {_DOWNLOAD_AGAIN}", "weights-damaged")
    start += sum(struct.unpack_from("<2H", header, 26))  # lengths of the name and of the extra fields
    contents = memoryview(data)[start : start + entry.file_size]
    if len(contents) < entry.file_size:
        raise WeightsError(f"{name} goes on beyond the end of the file; {_DOWNLOAD_AGAIN}", "weights-truncated")
    if entry.CRC not in (0, zlib.crc32(contents)):  # 0: torch.serialization.set_crc32_options(False)
        raise WeightsError(f"{name} has another checksum than it should; {_DOWNLOAD_AGAIN}", "weights-damaged")
    return contents


def _pickle(members: Mapping[str, memoryview]) -> memoryview:
    pickled = members["data.pkl"]
    if len(pickled) > _MAX_PICKLE_BYTES:
        message = f"data.pkl has {len(pickled)} bytes, but at most {_MAX_PICKLE_BYTES} are read"
        raise WeightsError(message, "weights-too-large")
    return pickled


def _byte_order(members: Mapping[str, memoryview]) -> str:
    order = bytes(members.get("byteorder", memoryview(b"little"))[:7])  # PyTorch before 2.1 does not write it
    if order not in (b"little", b"big"):
        raise WeightsError(f"the byte order {order!r} is neither 'little' nor 'big'", "weights-damaged")
    return "<" if order == b"little" else ">"


# the pickle


@dataclass(frozen=True, eq=False, slots=True)
class _Global:
    """What the pickle names as ``module name``."""

    name: str


@dataclass(frozen=True, eq=False, slots=True)
class _Storage:
    dtype: str  # a key of _STORED_AS
    key: str
    numel: int


@dataclass(frozen=True, eq=False, slots=True)
class _Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MAX_ARGUMENTS = 7


def _empty_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise ValueError("torch.save fills an OrderedDict afterwards")
    return {}


def _tensor(arguments: tuple[Any, ...]) -> _Tensor:
    if len(arguments) > _MAX_ARGUMENTS:  # before they are taken apart, which would copy them
        raise ValueError("more arguments than a tensor has")
    storage, offset, shape, strides, *_ = arguments  # and requires_grad, hooks, metadata
    if not (isinstance(storage, _Storage) and all(map(_are_counts, ((offset,), shape, strides)))):
        raise ValueError("not a storage, an offset, a shape and strides")
    return _Tensor(storage, offset, shape, strides)


def _are_counts(values: object) -> bool:
    return (
        type(values) is tuple
        and len(values) <= _MAX_DIMENSIONS
        and all(type(value) is int and value >= 0 for value in values)
    )


def _parameter(arguments: tuple[Any, ...]) -> Any:
    return arguments[0]  # and requires_grad, hooks


def _nothing(arguments: tuple[Any, ...]) -> None:
    """A NumPy scalar, such as the best metric that ml-cvnets keeps in its checkpoints: not needed."""


_CALLABLES: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections OrderedDict": _empty_dict,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "numpy.core.multiarray scalar": _nothing,
    "numpy._core.multiarray scalar": _nothing,
    "numpy dtype": _nothing,
    "_codecs encode": _nothing,
}


def _global(name: str) -> _Global:
    if name in _CALLABLES or name in _STORED_AS:
        return _Global(name)
    module, _, attribute = name.rpartition(" ")
    asked = shown([f"{module}.{attribute}"])
    if (module in ("torch", "torch.storage") and attribute.endswith("Storage")) or attribute == "_rebuild_tensor_v3":
        dtypes = ", ".join(stored.split()[1] for stored in _STORED_AS)
        raise WeightsError(
            f"its tensors are of a dtype ({asked}) that is not read, only {dtypes}: convert the weights to float32",
            "weights-dtype",
        )
    raise WeightsError(
        f"its pickle asks for {asked}, which was not run; {_ONLY_STATE_DICT}. "
        "If you do not know what it is for, do not open the file with other programs either",
        "weights-pickle-forbidden",
    )


def _persistent(value: object) -> _Storage:
    match value:
        case ("storage", _Global(name), str(key), str(), int(numel)) if name in _STORED_AS and numel >= 0:
            return _Storage(name, key, numel)
    raise ValueError("not the reference to a storage that torch.save writes")


_OPCODES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
_NUMBERS = {  # how the number that follows the opcode is packed
    "BININT": "<i",
    "BININT1": "<B",
    "BININT2": "<H",
    "BINFLOAT": ">d",
    "BINGET": "<B",
    "LONG_BINGET": "<I",
    "BINPUT": "<B",
    "LONG_BINPUT": "<I",
    "PROTO": "<B",
    "FRAME": "<Q",
}
_COUNTED = {  # how the count of the bytes that follow the opcode is packed
    "BINUNICODE": "<I",
    "SHORT_BINUNICODE": "<B",
    "BINBYTES": "<I",
    "SHORT_BINBYTES": "<B",
    "LONG1": "<B",
}


def _instructions(pickled: bytes) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the instructions up to STOP; one that no state dict needs is refused unread.

    Not `pickletools.genops`, which decodes texts with escape sequences and warns of bad ones.
    """
    file = io.BytesIO(pickled)
    name = ""
    while name != "STOP":
        code = _exactly(file, 1)
        if code not in _OPCODES:
            raise ValueError("no instruction")
        name = _OPCODES[code]
        if name not in _ADMITTED:
            raise WeightsError(
                f"its pickle has the instruction {name}, which no state dict needs; {_ONLY_STATE_DICT}, "
                "with pickle_protocol 2 to 5",
                "weights-pickle-forbidden",
            )
        yield name, _argument(name, file)


def _argument(name: str, file: io.BytesIO) -> Any:
    if name in _NUMBERS:
        return _number(file, _NUMBERS[name])
    if name in _COUNTED:
        data = _exactly(file, _number(file, _COUNTED[name]))
        if name == "LONG1":
            return _long(data)
        return data.decode() if "UNICODE" in name else data
    if name == "GLOBAL":
        return f"{_line(file)} {_line(file)}"
    return None


def _exactly(file: io.BytesIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("the pickle ends too early")
    return data


def _number(file: io.BytesIO, layout: str) -> Any:
    return struct.unpack(layout, _exactly(file, struct.calcsize(layout)))[0]


def _long(data: bytes) -> int | None:
    """The number; None where it is larger than any size, such as the seed of a random number generator."""
    value = int.from_bytes(data, "little", signed=True)
    return value if value.bit_length() <= _INTEGER_BITS else None


def _line(file: io.BytesIO) -> str:
    return file.readline()[:-1].decode()  # where no line ends, the pickle does, which is refused at the next read


class _Machine:
    """Carries out the instructions that a state dict needs; see pickletools for what each one means."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each MARK
        self.memo: dict[int, Any] = {}

    def run(self, pickled: bytes) -> Any:
        """Return the value that `pickled` describes."""
        try:
            for count, (name, argument) in enumerate(_instructions(pickled)):
                if count >= MAX_OPCODES:
                    message = f"its pickle has more than {MAX_OPCODES} instructions"
                    raise WeightsError(message, "weights-too-large")
                self.step(name, argument)
            return self.stack.pop()
        except WeightsError:
            raise
        except (ValueError, LookupError) as error:
            raise WeightsError(f"its pickle is damaged; {_DOWNLOAD_AGAIN}", "weights-damaged") from error

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.push(argument)
        elif name in _MADE:
            self.push(_MADE[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)

    def push(self, value: Any) -> None:
        self.stack.append(value)  # looked up here: since_mark puts another stack in place

    def mark(self, _: None) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self.outer.pop()
        return values

    def last(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def drop(self) -> None:
        self.stack.pop()

    def keep(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def add(self, pairs: list[Any]) -> None:
        """Add the pairs of the flat list ``key, value, key, value`` to the dict on the stack.

        A state dict has names, and an optimizer numbers; what has other keys is none of the weights.
        """
        target = self.stack[-1]
        if type(target) is not dict:
            raise ValueError("not a dict")
        found = zip(pairs[::2], pairs[1::2], strict=True)
        target.update((key, value) for key, value in found if type(key) in (str, int))

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("not a list")
        target.extend(values)

    def stack_global(self, _: None) -> None:
        module, name = self.last(2)
        if type(module) is not str or type(name) is not str:
            raise ValueError("not the name of a global")
        self.push(_global(f"{module} {name}"))

    def call(self, _: None) -> None:
        function, arguments = self.last(2)
        if not isinstance(function, _Global) or type(arguments) is not tuple:
            raise ValueError("not a global and its arguments")
        self.push(_CALLABLES[function.name](arguments))


_CONSTANTS = (*_COUNTED, "BININT", "BININT1", "BININT2", "BINFLOAT")
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.last(3))),
    "APPEND": lambda machine, _: machine.extend(machine.last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.add(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.add(machine.since_mark()),
    "BINPUT": _Machine.keep,
    "LONG_BINPUT": _Machine.keep,
    "MEMOIZE": lambda machine, _: machine.keep(len(machine.memo)),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": lambda machine, name: machine.push(_global(name)),
    "STACK_GLOBAL": _Machine.stack_global,
    "BINPERSID": lambda machine, _: machine.push(_persistent(machine.stack.pop())),
    "REDUCE": _Machine.call,
    "BUILD": lambda machine, _: machine.drop(),  # attributes, such as _metadata of a state dict
}
_ADMITTED = {*_CONSTANTS, *_MADE, *_ACTIONS, "PROTO", "FRAME", "STOP"}  # the last three have no effect


# the tensors


def _state_dict(value: Any) -> dict[str, _Tensor]:
    """The tensors of the dict that holds the weights: the first of `NESTED` with tensors, or `value` itself."""
    outer = value if type(value) is dict else {}
    for holder in (*(outer.get(name) for name in NESTED), outer):
        tensors = {k: v for k, v in holder.items() if isinstance(v, _Tensor)} if type(holder) is dict else {}
        if tensors:
            break
    else:
        names = [name for name in outer if isinstance(name, str)]
        raise WeightsError(
            f"no tensors are in it, nor in its entries {', '.join(NESTED)}; it holds {shown(names) or 'no names'}; "
            f"{_ONLY_STATE_DICT}",
            "weights-no-state-dict",
        )
    unnamed = [str(name) for name in tensors if not isinstance(name, str)]
    if unnamed:
        raise WeightsError(f"the tensors {shown(unnamed)} have numbers in place of names", "weights-no-state-dict")
    if len(tensors) > MAX_TENSORS:
        message = f"{len(tensors)} tensors, but at most {MAX_TENSORS} are read"
        raise WeightsError(message, "weights-too-many-tensors")
    return tensors


def _refuse_growth(tensors: Mapping[str, _Tensor], file_size: int) -> None:
    allowed = min(MAX_GROWTH * file_size, MAX_WEIGHTS_BYTES)
    needed = sum(math.prod(tensor.shape) * _item_size(tensor.storage) for tensor in tensors.values())
    if needed > allowed:
        raise WeightsError(
            f"its tensors would need more than {allowed} bytes, too much for a file of {file_size} bytes",
            "weights-too-large",
        )


def _item_size(storage: _Storage) -> int:
    return 4 if storage.dtype == "torch BFloat16Storage" else np.dtype(_STORED_AS[storage.dtype]).itemsize


def _array(tensor: _Tensor, members: Mapping[str, memoryview], order: str, name: str) -> NDArray[Any]:
    dtype = np.dtype(order + _STORED_AS[tensor.storage.dtype])
    buffer = _buffer(tensor.storage, members, dtype.itemsize, name)
    try:
        return _values(_view(tensor, buffer, dtype), tensor.storage.dtype)
    except (ValueError, OverflowError) as error:
        raise WeightsError(
            f"{shown([name])} does not lie within its storage of {tensor.storage.numel} values, or has a shape "
            "NumPy cannot hold",
            "weights-damaged",
        ) from error


def _buffer(storage: _Storage, members: Mapping[str, memoryview], item_size: int, name: str) -> memoryview:
    buffer = members.get(f"data/{storage.key}")
    if buffer is None:
        raise WeightsError(f"the values of {shown([name])} are not in the archive", "weights-damaged")
    if len(buffer) < storage.numel * item_size:
        raise WeightsError(
            f"{len(buffer)} bytes are there for the {storage.numel} values of {item_size} bytes that "
            f"{shown([name])} is part of; {_DOWNLOAD_AGAIN}",
            "weights-truncated",
        )
    return buffer


def _view(tensor: _Tensor, buffer: memoryview, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The tensor where it lies in `buffer`."""
    pairs = list(zip(tensor.shape, tensor.strides, strict=True))
    if 0 in tensor.shape:
        return np.empty(tensor.shape, dtype)
    # Not left to NumPy: where a stride is near 2**63, its own check overflows, and it reads outside (2.4.6).
    if tensor.offset + sum((size - 1) * stride for size, stride in pairs) >= tensor.storage.numel:
        raise ValueError("not within its storage")
    # the stride of a dimension of one is never taken, and may be anything
    steps = tuple(stride * dtype.itemsize if size > 1 else 0 for size, stride in pairs)
    return np.ndarray(tensor.shape, dtype, buffer, tensor.offset * dtype.itemsize, steps)


def _values(stored: NDArray[Any], stored_as: str) -> NDArray[Any]:
    """A copy in the machine's byte order."""
    if stored_as == "torch BFloat16Storage":
        bits = stored.astype(np.uint32, order="C")
        bits <<= 16  # bfloat16 is the upper half of a float32
        return bits.view(np.float32)
    native = np.dtype(bool) if stored_as == "torch BoolStorage" else stored.dtype.newbyteorder("=")
    return stored.astype(native, order="C")
