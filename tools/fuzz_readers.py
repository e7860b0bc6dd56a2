"""Feed damaged and hostile checkpoint files to a reader and see that each ends in a value or in one of our errors.

    python tools/fuzz_readers.py --reader torch --count 100000

``safetensors`` is `read_safetensors`, ``torch`` is `read_torch`, ``config`` is `read_json_object` and
`MobileViTConfig.from_dict`. Good files are made in memory, and mutated: as any bytes, and as what they are (JSON
values and keys, instructions of a pickle, members and fields of a zip archive, with right checksums or not). While a
file is read, an audit hook sees whether anything else is opened, imported, compiled or started. Exit status 1 if any
case ended in a foreign exception, such an action, a crash, a hang or a warning; the bytes of these cases are written
to `--output`. Linux only.
"""

from __future__ import annotations

import codecs
import contextlib
import copy
import importlib
import io
import itertools
import json
import pickle
import pickletools
import random
import struct
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import fuzzing
import numpy as np
from fuzzing import Seed

from npmobilevit.checkpoints.json_file import read_json_object
from npmobilevit.checkpoints.torch_file import read_torch
from npmobilevit.checkpoints.weights_file import read_safetensors
from npmobilevit.config import MobileViTConfig
from npmobilevit.errors import NpMobileViTError

# files as torch.save writes them


class Global(str):
    """Something that a pickle names, as ``module name``."""

    def __call__(self) -> None:
        """pickle asks that what it is to call later can be called."""


class Storage(NamedTuple):
    """One-dimensional values that tensors are views of; `kind` as in FloatStorage."""

    kind: str
    data: bytes
    numel: int


class Tensor:
    """A view of a storage; offset and strides count elements."""

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.parts = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return Global("torch._utils _rebuild_tensor_v2"), self.parts


class Parameter:
    """A tensor that is trained."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        return Global("torch._utils _rebuild_parameter"), (self.tensor, True, OrderedDict())


KINDS = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char"} | {
    "u1": "Byte",
    "b1": "Bool",
}


def tensor(array: np.ndarray) -> Tensor:
    """A dense tensor with a storage of its own."""
    storage = Storage(KINDS[array.dtype.str[1:]], array.tobytes(), array.size)
    return Tensor(storage, 0, array.shape, tuple(step // array.itemsize for step in np.empty_like(array).strides))


def bfloat16(array: np.ndarray) -> Tensor:
    """The upper halves of float32."""
    upper = (array.astype("<f4").view("<u4") >> 16).astype("<u2")
    return Tensor(Storage("BFloat16", upper.tobytes(), array.size), 0, array.shape, tensor(array).parts[3])


class StatePickler(pickle._Pickler):  # type: ignore[name-defined,misc]  # the one in Python can be changed
    """Pickles `Tensor` as torch does, and keeps the storages."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.storages: list[Storage] = []
        self.globals: dict[str, Global] = {}  # the memo knows objects, not texts

    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, Storage):
            return None
        if not any(value is known for known in self.storages):
            self.storages.append(value)
        key = next(index for index, known in enumerate(self.storages) if known is value)
        return "storage", Global(f"torch {value.kind}Storage"), sys.intern(str(key)), "cpu", value.numel

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if type(value) is not Global:
            super().save(value, save_persistent_id)
            return
        value = self.globals.setdefault(value, value)
        if id(value) in self.memo:
            self.write(self.get(self.memo[id(value)][0]))
            return
        module, name = map(sys.intern, value.split(" "))
        if self.proto >= 4:
            super().save(module)
            super().save(name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(value)


def torch_members(value: Any, protocol: int = 2) -> dict[str, bytes]:
    """Members of the archive that torch.save(value) writes, by name."""
    file = io.BytesIO()
    pickler = StatePickler(file, protocol)
    pickler.dump(value)
    members = {"data.pkl": file.getvalue(), "byteorder": b"little"}
    members |= {f"data/{key}": storage.data for key, storage in enumerate(pickler.storages)}
    return members | {"version": b"3\n"}


def archive(members: Mapping[str, bytes], root: str = "archive/") -> bytes:
    """An uncompressed zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, data in members.items():
            written.writestr(zipfile.ZipInfo(root + name), data)
    return file.getvalue()


def torch_file(value: Any, protocol: int = 2) -> bytes:
    """A file as torch.save(value) writes it, apart from the alignment of its members."""
    return archive(torch_members(value, protocol))


# good files


def arrays() -> dict[str, np.ndarray]:
    """A few arrays of the dtypes that weights have."""
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(2, 3, 1, 1)).astype("<f4"),
        "norm.running_var": np.ones(3, "<f4"),
        "norm.num_batches_tracked": np.array(5),
        "half": np.arange(3, dtype="<f2"),
        "double": np.arange(3, dtype="<f8"),
    }


def state_dict() -> OrderedDict[str, Any]:
    """The arrays as tensors, and more that share a storage; with versions of modules as torch adds them."""
    state: OrderedDict[str, Any] = OrderedDict((name, tensor(array)) for name, array in arrays().items())
    shared = Storage("Float", np.arange(12, dtype="<f4").tobytes(), 12)
    state["rows"], state["columns"] = Tensor(shared, 0, (3, 4), (4, 1)), Tensor(shared, 2, (2, 3), (1, 4))
    state["repeated"] = Parameter(Tensor(shared, 1, (2, 3), (0, 1)))
    state["brain"], state["flags"] = bfloat16(np.arange(3, dtype="<f4")), tensor(np.array([True, False]))
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return state


def torch_seeds() -> list[Seed]:
    """Files as torch.save writes them."""
    checkpoint = {"epoch": 300, "lr": 0.002, "best": None, "lists": [1, (2, True)], "state_dict": state_dict()}
    return [
        Seed("state dict", torch_file(state_dict())),
        Seed("protocol 4", torch_file(state_dict(), 4)),
        Seed("checkpoint", torch_file(checkpoint)),
        Seed("big-endian", archive(torch_members({"a": tensor(np.arange(4))}) | {"byteorder": b"big"})),
    ]


def safetensors_seeds() -> list[Seed]:
    """A file that safetensors wrote, and one with bfloat16."""
    from safetensors.numpy import save

    header = (
        b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"I64","shape":[],"data_offsets":[4,12]}}'
    )
    return [
        Seed("five tensors", save({name: np.array(array) for name, array in arrays().items()}, {"format": "pt"})),
        Seed("bfloat16", struct.pack("<Q", len(header)) + header + bytes(12)),
    ]


def config_seeds() -> list[Seed]:
    """Settings of a classifier and of a segmenter."""
    small = MobileViTConfig(num_labels=3).to_dict()
    segmenter = MobileViTConfig(output_stride=16, num_labels=21).to_dict() | {"auto_map": {"AutoModel": "m.Model"}}
    return [
        Seed("classifier", json.dumps(small).encode()),
        Seed("segmenter", json.dumps(segmenter, indent=2).encode()),
        Seed("as little as can be", b'{"model_type": "mobilevit"}'),
    ]


# mutations of JSON

WIDTHS = (
    ("F64", 8),
    ("F32", 4),
    ("F16", 2),
    ("BF16", 2),
    ("I64", 8),
    ("I32", 4),
    ("U8", 1),
    ("BOOL", 1),
    ("F8_E4M3", 1),
)
ODD_TEXTS = ("", "\0", "../../x", "\ud800", "x" * 5000, "__class__", "__proto__", "running_var", "F32", "BF16", "silu")
ODD_NUMBERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**53 + 1, 2**62, 2**63, 2**64, 10**400, 0.5, -0.0, 1e-320, 1e308)
ODD_VALUES = (*ODD_TEXTS, *ODD_NUMBERS, None, True, False, [], {}, [[]], [1, 2], {"a": 1}, [0] * 70)


def places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key or index) inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *places(inner))]


def edit_json(value: Any, rng: random.Random) -> None:
    """Change, remove, rename, copy or swap something in a JSON value."""
    found = places(value)
    if not found:
        return
    (holder, key), (other, other_key) = rng.choice(found), rng.choice(found)
    action = rng.randrange(6)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[rng.choice(ODD_TEXTS)] = holder.pop(key)
    elif action == 2:
        holder[key], other[other_key] = other[other_key], holder[key]
    elif action == 3:
        holder[key] = json.loads(json.dumps(other[other_key]))
    elif action == 4 and isinstance(holder[key], int | float) and abs(holder[key]) < 2**70:
        holder[key] = holder[key] + rng.choice((-1, 1, 0.5, 4, 1000))
    else:
        holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))  # later edits go on inside


def edited_json(text: bytes, rng: random.Random) -> bytes | None:
    """JSON with one to three edits; None if it is none, or cannot be written any more."""
    try:
        value = json.loads(text)
        for _ in range(rng.randint(1, 3)):
            edit_json(value, rng)
        return json.dumps(value).encode()
    except (ValueError, RecursionError):  # a value swapped into itself, too
        return None


def edit_config(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Edit values and keys."""
    return edited_json(data, rng) or fuzzing.flip_bytes(data, rng, seeds)


def insert_syntax(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Put in what some JSON readers take and others do not."""
    odd = (
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"[" * 100_000,
        b'"a":1,"a":2,',
        b"/**/",
        b"'",
        b"\xff",
        b"\xef\xbb\xbf",
    )
    start, stop = fuzzing.span(data, rng)
    return data[:start] + rng.choice(odd) + data[stop:]


def edit_safetensors_header(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Edit the header, and most often state its right length."""
    stop = 8 + int.from_bytes(data[:8], "little")
    header = edited_json(data[8:stop], rng)
    if header is None:
        return fuzzing.flip_bytes(data, rng, seeds)
    length = len(header) if rng.random() < 0.9 else rng.choice((0, 2**32, 2**63, len(header) + rng.randint(-9, 9)))
    return struct.pack("<Q", max(0, length)) + header + data[stop:]


def edit_safetensors_entries(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Change dtypes, shapes and names so that the file still fits together, or values."""
    stop = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:stop])
        name = rng.choice([name for name in header if "data_offsets" in header[name]])
        entry = header.pop(name)
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        dtype, width = rng.choice(WIDTHS) if rng.random() < 0.5 else (entry["dtype"], dict(WIDTHS)[entry["dtype"]])
        shape = rng.choice([[size // width], [size // width, 1], [1] * 70 + [size // width], entry["shape"]])
        header[rng.choice((*ODD_TEXTS, name, name, name))] = entry | {"dtype": dtype, "shape": shape}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return fuzzing.flip_bytes(data, rng, seeds)
    written = json.dumps(header).encode()
    values = fuzzing.flip_bytes(data[stop:], rng, seeds) if rng.random() < 0.5 else data[stop:]
    return struct.pack("<Q", len(written)) + written + values


# mutations of archives

HOSTILE = (
    b"cos\nsystem\nX\x0c\x00\x00\x00touch canary\x85R",
    b"\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch canary\x85R",
    b"(X\x0c\x00\x00\x00touch canaryios\nsystem\n",
    b"(cos\nsystem\nX\x0c\x00\x00\x00touch canaryo",
    b"cbuiltins\neval\nX\x02\x00\x00\x0011\x85R",
    b"cbuiltins\ngetattr\n",
    b"ctorch\nComplexFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    b"ccollections\nOrderedDict\n]\x85R",
    b"\x82\x01",
    b"r\xff\xff\xff\xff",
    b"q\x00h\x00",
    b"h\x00h\x00s",
    b"h\x00h\x00a",
    b"h\x00h\x00\x86",
    b"2" * 50,
    b"(" * 5000,
    b"]" * 5000,
    b"\x85" * 5000,
    b"}b",
    b"Q",
    b"\x81",
    b"\x8b\xff\xff\xff\x7f",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\xff",
)
ODD_MEMBERS = (
    "data.pkl",
    "data/0",
    "data/1",
    "byteorder",
    "version",
    "../data/0",
    "",
    "data/../data/0",
    "constants.pkl",
)


def members_of(data: bytes) -> list[tuple[str, bytes]] | None:
    """Names and contents of an archive; None where zipfile reads none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            return [(info.filename, opened.read(info)) for info in opened.infolist()]
    except Exception:
        return None


def sealed(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of `members`, with right checksums; a name may be there twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as written:
        for name, data in members:
            info = zipfile.ZipInfo()
            info.filename, info.compress_type = name, method
            if info.filename not in written.NameToInfo:
                written.writestr(info, data)
            else:  # zipfile warns
                del written.NameToInfo[name]
                written.writestr(info, data)
    return file.getvalue()


def edit_members(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Drop, double, rename, shorten, lengthen, compress or damage members."""
    members = members_of(data)
    if not members:
        return fuzzing.flip_bytes(data, rng, seeds)
    position = rng.randrange(len(members))
    name, contents = members.pop(position)
    changed = [
        [],
        [(name, contents), (name, contents)],
        [("archive/" + rng.choice(ODD_MEMBERS), contents)],
        [(name, contents[: rng.randrange(len(contents) + 1)])],
        [(name, contents + bytes(rng.randrange(100)))],
        [(name, rng.choice(fuzzing.BYTE_MUTATIONS)(contents, rng, seeds))],
        [(name, rng.choice(members)[1] if members else b"")],
    ]
    members[position:position] = rng.choice(changed)
    return sealed(members, zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED)


def instructions(pickled: bytes) -> list[bytes]:
    """A pickle, taken apart as far as it can be."""
    starts: list[int] = []
    with contextlib.suppress(ValueError):
        starts.extend(position for _, _, position in pickletools.genops(pickled))
    return [pickled[start:stop] for start, stop in itertools.pairwise([*starts, len(pickled)])]


def edit_pickle(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Drop, double, swap, replace or add instructions of the pickle."""
    members = dict(members_of(data) or ())
    steps = instructions(members.get("archive/data.pkl", b""))
    if not steps:
        return fuzzing.flip_bytes(data, rng, seeds)
    for _ in range(rng.randint(1, 3)):
        steps = edited_steps(steps, rng)
    return sealed(list((members | {"archive/data.pkl": b"".join(steps)}).items()))


def edited_steps(steps: list[bytes], rng: random.Random) -> list[bytes]:
    at, other = rng.randrange(len(steps)), rng.randrange(len(steps))
    changed = list(steps)
    action = rng.randrange(5)
    if action == 0 and len(steps) > 1:
        del changed[at]
    elif action == 1:
        changed.insert(at, steps[other])
    elif action == 2:
        changed[at], changed[other] = changed[other], changed[at]
    elif action == 3:
        changed.insert(at, rng.choice(HOSTILE))
    else:
        changed[at] = edited_step(steps[at], rng)
    return changed


def edited_step(step: bytes, rng: random.Random) -> bytes:
    """Another number or name where there is one."""
    if step[:1] in b"KMJ\x8a":
        return rng.choice(
            (
                b"K\x00",
                b"K\x01",
                b"K\x03",
                b"K\xff",
                b"M\xff\xff",
                b"J\xff\xff\xff\x7f",
                b"J\xff\xff\xff\xff",
                *HOSTILE[-3:-1],
            )
        )
    if step[:1] == b"X":
        text = rng.choice(ODD_TEXTS).encode(errors="surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    if step[:1] == b"c":
        kind = rng.choice(("Double", "Half", "BFloat16", "Char", "Bool", "Long", "Untyped", "QInt8"))
        return f"ctorch\n{kind}Storage\n".encode()
    return step[:1] + rng.randbytes(len(step) - 1)


def edit_zip_fields(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Write an extreme number to a field of a header or of the directory."""
    starts = [at for mark in (b"PK\3\4", b"PK\1\2", b"PK\5\6") for at in found(data, mark)]
    if not starts:
        return fuzzing.flip_bytes(data, rng, seeds)
    start = rng.choice(starts) + rng.randrange(4, 46)
    size = rng.choice((2, 4))
    number = rng.choice((*fuzzing.EXTREMES, len(data), len(data) - 1, 8, 9)) % 2 ** (8 * size)
    return data[:start] + number.to_bytes(size, "little") + data[start + size :]


def found(data: bytes, mark: bytes) -> list[int]:
    """All places of `mark`."""
    return [at for at in range(len(data)) if data.startswith(mark, at)]


# readers


class Reader(NamedTuple):
    """Good files, how they are damaged, and what reads them."""

    seeds: Callable[[], list[Seed]]
    mutations: tuple[fuzzing.Mutation, ...]
    read: Callable[[Path], Any]
    fine: Callable[[Any], bool]  # whether what is read is what it should be


def are_arrays(tensors: Any) -> bool:
    """Whether these are named finite arrays that can be written to, which a view of the file's bytes cannot."""
    return all(
        type(name) is str and isinstance(array, np.ndarray) and array.flags.writeable and np.isfinite(array).all()
        for name, array in tensors.items()
    )


def read_config(path: Path) -> MobileViTConfig:
    """The two steps from a file to a configuration."""
    return MobileViTConfig.from_dict(read_json_object(path))


def is_config(config: Any) -> bool:
    """Whether writing it down and reading it again gives the same."""
    return isinstance(config, MobileViTConfig) and MobileViTConfig.from_dict(config.to_dict()) == config


READERS = {
    "safetensors": Reader(
        safetensors_seeds,
        (*fuzzing.BYTE_MUTATIONS, *[edit_safetensors_header] * 4, *[edit_safetensors_entries] * 9),
        read_safetensors,
        are_arrays,
    ),
    "torch": Reader(
        torch_seeds,
        (*fuzzing.BYTE_MUTATIONS, *[edit_pickle] * 7, *[edit_members] * 3, *[edit_zip_fields] * 3),
        read_torch,
        are_arrays,
    ),
    "config": Reader(
        config_seeds, (*fuzzing.BYTE_MUTATIONS, *[edit_config] * 10, insert_syntax), read_config, is_config
    ),
}


def mutated(index: int, seed: int, reader: Reader, seeds: list[Seed]) -> bytes:
    """Return case number `index`."""
    rng = random.Random(f"{seed}:{index}")
    data = rng.choice(seeds).data
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(reader.mutations)(data, rng, seeds)
    members = members_of(data) if rng.random() < 0.5 else None
    return sealed(members) if members else data


# a child

QUIET = ("object.", "sys._get", "cpython.PyInterpreterState", "builtins.id", "array.", "time.sleep")


class Watch:
    """Notes what is done besides reading one file, from `start` on."""

    def __init__(self) -> None:
        self.active, self.seen = False, ""
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active or event.startswith(QUIET):
            return
        if event != "open" or arguments[1] not in ("r", "rb"):
            self.seen = self.seen or f"{event} {str(arguments)[:100]}"

    def over(self, read: Callable[[], str]) -> str:
        """What `read` returns, or "foreign: did ..."."""
        self.active, self.seen = True, ""
        try:
            outcome = read()
        finally:
            self.active = False
        return f"foreign: did {self.seen}" if self.seen else outcome


def run_child(reader: Reader, seed: int, start: int, stop: int) -> None:
    """Read cases from a folder that is there for nothing else."""
    seeds = reader.seeds()
    watch = Watch()

    def read(path: Path) -> str:
        return "value" if reader.fine(reader.read(path)) else "foreign: result"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case"

        def prepare(index: int) -> Callable[[], str]:
            path.write_bytes(mutated(index, seed, reader, seeds))
            return lambda: watch.over(lambda: fuzzing.examine(lambda: read(path), NpMobileViTError))

        path.write_bytes(seeds[0].data)
        reader.read(path)  # imports what is imported on first use
        for name in ("utf-8-sig", *(f"utf-{bits}{order}" for bits in (16, 32) for order in ("", "-le", "-be"))):
            codecs.lookup(name)  # json.loads does when bytes look like it
        fuzzing.run_child(start, stop, prepare)


def chosen(name: str, function: str | None) -> Reader:
    """The reader called `name`, with `function` (module:name) in place of what reads."""
    reader = READERS[name]
    if function is None:
        return reader
    module, _, attribute = function.partition(":")
    return reader._replace(read=getattr(importlib.import_module(module), attribute))


def main(arguments: list[str] | None = None) -> int:
    parser = fuzzing.parser(__doc__.splitlines()[0], seconds=5, output=Path("runs/fuzz_readers"))
    parser.add_argument("--reader", choices=list(READERS), required=True)
    parser.add_argument("--function", help="module:function that reads in its place, to test this tool itself")
    options = parser.parse_args(arguments)
    reader = chosen(options.reader, options.function)
    if options.child:
        run_child(reader, options.seed, *options.child)
        return 0
    command = [__file__, "--seed", str(options.seed), "--reader", options.reader]
    command += ["--function", options.function] if options.function else []
    summary = fuzzing.run(fuzzing.Job(tuple(command), options.count, options.processes, options.seconds))
    seeds = reader.seeds()
    return fuzzing.report(
        summary,
        lambda index: mutated(index, options.seed, reader, seeds),
        options.seed,
        options.output / options.reader,
    )


if __name__ == "__main__":
    sys.exit(main())
