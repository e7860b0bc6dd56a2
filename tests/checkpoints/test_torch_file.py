import io
import math
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import pytest

fuzz_readers = pytest.importorskip("fuzz_readers")  # it needs resource, which only Unix has

from fuzz_readers import (  # noqa: E402
    Parameter,
    Storage,
    Tensor,
    archive,
    bfloat16,
    sealed,
    state_dict,
    tensor,
    torch_file,
    torch_members,
)

from npmobilevit.checkpoints import torch_file as module  # noqa: E402
from npmobilevit.checkpoints.torch_file import MAX_OPCODES, NESTED, read_torch  # noqa: E402
from npmobilevit.checkpoints.weights_file import MAX_TENSORS, MAX_WEIGHTS_BYTES  # noqa: E402
from npmobilevit.errors import CheckpointError, WeightsError  # noqa: E402

GRID = np.arange(12, dtype="<f4").reshape(3, 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pytorch_model.bin"


@pytest.fixture
def read(path):
    def read(data):
        path.write_bytes(data)
        return read_torch(path)

    return read


@pytest.fixture
def refusal(path, read):
    """The error that a file with these contents ends in."""

    def refusal(data):
        with pytest.raises(WeightsError) as caught:
            read(data)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert len(message) < 900
        assert message.isprintable()
        return caught.value

    return refusal


# Reading

DTYPES = ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "<i1", "<u1"]


@pytest.mark.case("75", "float64, float32, float16 and whole numbers in a torch file", "read as stored")
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype_is_read_bit_by_bit(read, dtype):
    values = np.frombuffer(np.random.default_rng(0).bytes(48 * 8), dtype)
    values = values[np.isfinite(values)][:24].reshape(2, 3, 4)
    tensors = read(torch_file({"a": tensor(values), "b": tensor(values[0, 0, 0])}))
    np.testing.assert_array_equal(tensors["a"], values, strict=True)
    np.testing.assert_array_equal(tensors["b"], values[0, 0, 0], strict=True)
    assert tensors["b"].shape == ()


def test_bool_is_true_for_any_byte_but_zero(read):
    flags = Tensor(Storage("Bool", b"\0\1\2", 3), 0, (3,), (1,))
    np.testing.assert_array_equal(read(torch_file({"a": flags}))["a"], [False, True, True], strict=True)
    assert read(torch_file({"a": flags}))["a"].tobytes() == b"\0\1\1"


@pytest.mark.case("73", "bfloat16 in a torch file", "float32, every value exact")
def test_every_bfloat16_is_exact(read):
    bits = np.arange(2**16, dtype="<u4")
    values = (bits[bits & 0x7F80 != 0x7F80] << 16).view("<f4")
    tensors = read(torch_file({"a": bfloat16(values), "b": bfloat16(values[5])}))
    assert tensors["a"].tobytes() == values.tobytes()  # the sign of zero too
    np.testing.assert_array_equal(tensors["b"], np.array(values[5]), strict=True)


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">f2", ">i8", ">i2"])
def test_a_big_endian_file_gives_the_same_values(read, dtype):
    values = np.arange(6, dtype=dtype)
    stored = Storage({"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i2": "Short"}[dtype[1:]], b"", 6)
    members = torch_members({"a": Tensor(stored, 0, (6,), (1,))})
    data = archive(members | {"data/0": values.tobytes(), "byteorder": b"big"})
    np.testing.assert_array_equal(read(data)["a"], np.arange(6, dtype=dtype[1:]), strict=True)


def test_big_endian_bfloat16(read):
    members = torch_members({"a": bfloat16(np.zeros(1, "<f4"))})
    assert read(archive(members | {"data/0": b"\x3f\x80", "byteorder": b"big"}))["a"].tolist() == [1.0]


def test_a_file_without_byte_order_is_little_endian(read):
    members = torch_members({"a": tensor(GRID)})
    del members["byteorder"]
    np.testing.assert_array_equal(read(archive(members))["a"], GRID, strict=True)


@pytest.mark.parametrize("order", [b"", b"littl", b"little\n", b"BIG", b"\xff" * 1000])
def test_another_byte_order_is_refused(refusal, order):
    assert refusal(archive(torch_members({"a": tensor(GRID)}) | {"byteorder": order})).code == "weights-damaged"


VIEWS = {  # offset, shape, strides in a storage of 0 to 11
    "dense": (0, (3, 4), (4, 1), GRID),
    "transposed": (0, (4, 3), (1, 4), GRID.T),
    "stepped": (1, (3, 2), (4, 2), GRID[:, 1::2]),
    "repeated": (5, (2, 3), (0, 1), np.broadcast_to(GRID[1, 1:], (2, 3))),
    "overlapping": (0, (3, 3), (1, 1), np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4]], "<f4")),
    "one element": (11, (), (), np.float32(11)),
    "dimensions of one": (3, (1, 2, 1), (2**62, 1, 999), np.array([[[3], [4]]], "<f4")),
    "empty": (0, (0, 4), (4, 1), GRID[:0]),
    "empty at the end": (12, (2, 0), (1, 1), np.zeros((2, 0), "<f4")),
    "64 dimensions": (2, (1,) * 64, (1,) * 64, np.full((1,) * 64, 2, "<f4")),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_a_storage(read, name):
    offset, shape, strides, expected = VIEWS[name]
    storage = Storage("Float", GRID.tobytes(), 12)
    array = read(torch_file({"a": Tensor(storage, offset, shape, strides)}))["a"]
    np.testing.assert_array_equal(array, expected, strict=True)
    assert array.flags.c_contiguous


def test_tensors_that_share_a_storage_come_out_apart(read, path):
    storage = Storage("Float", GRID.tobytes(), 12)
    tensors = read(torch_file({"a": Tensor(storage, 0, (12,), (1,)), "b": Tensor(storage, 0, (3, 4), (4, 1))}))
    path.write_bytes(b"")
    tensors["a"][:] = 7
    np.testing.assert_array_equal(tensors["b"], GRID, strict=True)


def test_parameters_metadata_and_other_entries(read):
    state = OrderedDict(a=Parameter(tensor(GRID)), note="text", count=3)
    state._metadata = OrderedDict({"": {"version": 1}})
    assert list(read(torch_file(state))) == ["a"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_torch(read, protocol):
    expected = read(torch_file(state_dict()))
    tensors = read(torch_file(state_dict(), protocol))
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array, strict=True)


def test_more_values_than_one_byte_counts(read):
    """Each tensor keeps several values for later; they are fetched by longer instructions from the 257th on."""
    state = {f"{i}.weight": tensor(np.arange(i, i + 3, dtype="<f4")) for i in range(300)}
    shared = Tensor(Storage("Float", GRID.tobytes(), 12), 1, (2, 3), (4, 1))
    tensors = read(torch_file(state | {"a": Parameter(shared), "b": Parameter(shared)}))
    assert [tensors[f"{i}.weight"][0] for i in range(300)] == list(range(300))
    np.testing.assert_array_equal(tensors["a"], GRID[:2, 1:], strict=True)
    np.testing.assert_array_equal(tensors["b"], GRID[:2, 1:], strict=True)


OTHERS = {"epoch": 300, "lr": [1e-3, None], "args": ("x", True, 2**40), "loss": tensor(np.float32(0.5)), "model_ema": 3}


@pytest.mark.parametrize("name", NESTED)
def test_a_nested_state_dict_is_found(read, name):
    tensors = read(torch_file(OTHERS | {name: OrderedDict(a=tensor(GRID))}))
    assert list(tensors) == ["a"]


def test_the_first_of_several_is_taken(read):
    holders = {name: {name: tensor(GRID)} for name in reversed(NESTED)}
    assert list(read(torch_file(holders))) == [NESTED[0]]
    holders[NESTED[0]] = {"no": "tensors"}
    assert list(read(torch_file(holders))) == [NESTED[1]]


@pytest.mark.parametrize("multiarray", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_a_numpy_number_in_a_checkpoint_is_passed_over(read, multiarray):
    """The dtype and the number as NumPy pickles them with protocol 2."""
    number = f"c{multiarray}\nscalar\ncnumpy\ndtype\nX\2\0\0\0f8K\0K\1\x87R".encode("latin-1")
    number += b"(K\3X\1\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    number += b"c_codecs\nencode\nX\x08\0\0\0abcdefghX\6\0\0\0latin1\x86R\x86R"
    members = torch_members({"state_dict": {"a": tensor(GRID)}, "best": None})
    changed = members["data.pkl"].replace(b"NsU", number + b"sU").replace(b"Nu.", number + b"u.")
    assert changed != members["data.pkl"]
    assert list(read(archive(members | {"data.pkl": changed}))) == ["a"]


def test_checksums_that_torch_was_told_not_to_compute(read):
    data = torch_file({"a": tensor(GRID)})
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        for info in opened.infolist():
            data = data.replace(struct.pack("<I", info.CRC), bytes(4))
    np.testing.assert_array_equal(read(data)["a"], GRID, strict=True)


# Refused by name


def with_pickle(pickled):
    """A file that has `pickled` in place of its pickle."""
    return archive(torch_members({"a": tensor(GRID)}) | {"data.pkl": pickled})


def in_front(pickled):
    """A file that reads `pickled` and throws nothing away before it goes on."""
    good = torch_members({"a": tensor(GRID)})["data.pkl"]
    return with_pickle(good[:2] + pickled + good[2:])


class Command:
    def __reduce__(self):
        import os

        return os.system, ("touch canary",)


TOUCH = b"X\x0c\0\0\0touch canary"
CALL = TOUCH + b"\x85R"
ATTACKS = {
    "os.system": b"cos\nsystem\n" + CALL,
    "posix.system": b"cposix\nsystem\n" + CALL,
    "as Python writes it": pickle.dumps(Command(), 2)[2:-1],
    "as Python writes it, protocol 4": pickle.dumps(Command(), 4)[2:-1],
    "protocol 0": pickle.dumps(Command(), 0)[:-1],
    "eval": b"cbuiltins\neval\n" + CALL,
    "exec": b"cbuiltins\nexec\n" + CALL,
    "eval of Python 2": b"c__builtin__\neval\n" + CALL,
    "getattr": b"cbuiltins\ngetattr\nccollections\nOrderedDict\nX\6\0\0\0update\x86R",
    "subprocess": b"csubprocess\nPopen\n" + CALL,
    "importlib": b"cimportlib\nimport_module\n" + CALL,
    "torch.load itself": b"ctorch.storage\n_load_from_bytes\n" + CALL,
    "dotted name": b"\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93" + CALL,
    "name with a line": b"\x8c\x02os\x8c\x07system\n\x93" + CALL,
    "INST": b"(" + TOUCH + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + TOUCH + b"o",
    "NEWOBJ": b"cos\nsystem\n" + TOUCH + b"\x85\x81",
    "NEWOBJ_EX": b"cos\nsystem\n" + TOUCH + b"\x85}\x92",
    "STACK_GLOBAL from the memo": b"\x8c\x06systemq\x07\x8c\x02osq\x06h\x06h\x07\x93" + CALL,
    "in a persistent id": b"(X\7\0\0\0storagecos\nsystem\n" + CALL + b"X\1\0\0\x000X\3\0\0\0cpuK\4tQ",
    "in the state of BUILD": b"ccollections\nOrderedDict\n)Rcos\nsystem\n" + CALL + b"b",
    "copyreg": b"ccopyreg\n_reconstructor\n)R",
    "EXT1": b"\x82\1",
    "EXT2": b"\x83\1\0",
    "EXT4": b"\x84\1\0\0\0",
    "numpy load": b"cnumpy\nload\n" + CALL,
    "numpy's other pickles": b"cnumpy.core.multiarray\n_reconstruct\n" + CALL,
    "NEXT_BUFFER": b"\x97",
    "BYTEARRAY8": b"\x96\1\0\0\0\0\0\0\0x",
    "DUP": b"N2",
    "POP": b"N0",
    "a set": b"\x8f",
    "huge bytes, 8": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc",
    "huge text, 8": b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc",
    "negative LONG4": b"\x8b\xff\xff\xff\xff",
    "huge LONG4": b"\x8b\xff\xff\xff\x7f",
    "LONG4": b"\x8b\1\0\0\0\1",
}


@pytest.mark.case("84", "a torch file whose pickle asks for anything but tensors", "refused by name, nothing is run")
@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_pickle_asks_for_is_never_run(refusal, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data in (in_front(ATTACKS[name]), with_pickle(b"\x80\2" + ATTACKS[name] + b".")):
        assert refusal(data).code == "weights-pickle-forbidden"
    assert not (tmp_path / "canary").exists()


def test_the_canary_would_be_seen(tmp_path, monkeypatch):
    """Without this the tests above could not fail."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(b"\x80\2" + ATTACKS["os.system"] + b".")
    assert (tmp_path / "canary").exists()


def test_the_message_names_what_was_asked_for(refusal):
    assert "'os.system', which was not run" in str(refusal(in_front(ATTACKS["os.system"])))
    assert "'torch.nn.Linear'" in str(refusal(in_front(b"ctorch.nn\nLinear\n")))
    assert "the instruction EXT1" in str(refusal(in_front(ATTACKS["EXT1"])))
    assert "..." in str(refusal(in_front(b"c" + b"o\x1b" * 10_000 + b"\nsystem\n")))


@pytest.mark.case("74, 76", "complex, quantised and 8-bit float tensors in a torch file", "weights-dtype")
@pytest.mark.parametrize(
    "name", ["torch\nComplexFloatStorage", "torch\nQInt8Storage", "torch._utils\n_rebuild_tensor_v3"]
)
def test_other_dtypes_are_named(refusal, name):
    error = refusal(in_front(b"c" + name.encode() + b"\n"))
    assert error.code == "weights-dtype"
    assert name.split("\n")[1] in str(error)


NONSENSE = {
    "call of a storage": b"ctorch\nFloatStorage\n)R",
    "call of a text": TOUCH + b")R",
    "call of None": b"N)R",
    "arguments in a list": b"ccollections\nOrderedDict\n]R",
    "OrderedDict of pairs": b"ccollections\nOrderedDict\n]\x85R",
    "OrderedDict of itself": b"ccollections\nOrderedDict\nh\0\x85R",
    "a tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "a tensor of numbers": b"ctorch._utils\n_rebuild_tensor_v2\n(K\1K\0K\1\x85K\1\x85tR",
    "a parameter of nothing": b"ctorch._utils\n_rebuild_parameter\n)R",
    "persistent id: None": b"NQ",
    "persistent id: text": TOUCH + b"Q",
    "persistent id: empty": b")Q",
    "persistent id: numbers": b"(K\1K\1K\1K\1K\1tQ",
    "persistent id: itself": b"]q\x09h\x09aQ",
    "persistent id: no storage": b"(X\7\0\0\0storageccollections\nOrderedDict\nX\1\0\0\x000X\3\0\0\0cpuK\4tQ",
    "persistent id: negative": b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuJ\xff\xff\xff\xfftQ",
    "empty stack": b"R",
    "no mark": b"t",
    "not in the memo": b"h\x63",
    "items of a text": TOUCH + b"NNs",
    "an odd number of items": b"}(Nu",
    "append to a dict": b"}Na",
    "STACK_GLOBAL of numbers": b"K\1K\1\x93",
    "unknown opcode": b"\xff",
    "cut number": b"J\1",
    "cut line": b"ccollections\nOrderedDict",
    "cut text": b"X\xff\0\0\0abc",
    "huge text": b"X\xff\xff\xff\xffabc",
    "huge bytes": b"B\xff\xff\xff\xffabc",
    "text that is not UTF-8": b"X\1\0\0\0\xff",
    "protocol 99": b"\x80\x63\xff",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_pickle_that_makes_no_sense_is_damaged(refusal, name):
    assert refusal(with_pickle(b"\x80\2" + NONSENSE[name] + b".")).code == "weights-damaged"


@pytest.mark.parametrize(
    "pair", [b"]N", b")N", b"NN", b"K\1K\2\x86K\3", b"G?\xe0\0\0\0\0\0\0N", b"K\1\x8a\x09" + b"\xff" * 8 + b"\0"]
)
def test_what_lies_beside_the_weights_may_have_any_key_and_any_number(refusal, pair):
    """A training state may hold a table by pairs, or the seed of a generator: that is no damage."""
    assert refusal(with_pickle(b"\x80\2}" + pair + b"s.")).code == "weights-no-state-dict"


@pytest.mark.parametrize("text", [rb"c\_\n\_" + b"\n\n", b"V\\_\n", b"S'\\_'\n", b"V\\u00e4\n"])
def test_texts_are_not_decoded_before_they_are_refused(refusal, text):
    r"""Found by fuzzing: pickletools decodes ``\_`` and warns, and imports the codec of old texts."""
    assert refusal(in_front(text)).code == "weights-pickle-forbidden"


@pytest.mark.parametrize("frame", [0, 2**63, 2**64 - 1])
def test_the_length_of_a_frame_means_nothing(read, frame):
    good = torch_members({"a": tensor(GRID)})["data.pkl"]
    framed = good[:2] + b"\x95" + struct.pack("<Q", frame) + good[2:]
    np.testing.assert_array_equal(read(with_pickle(framed))["a"], GRID, strict=True)


def test_attributes_of_the_state_are_not_kept(read):
    """BUILD could give an OrderedDict other methods."""
    good = torch_members(OrderedDict(a=tensor(GRID)))["data.pkl"]
    attributes = b"}X\5\0\0\0itemsNsX\x08\0\0\0__dict__Nsb"
    np.testing.assert_array_equal(read(with_pickle(good[:-1] + attributes + b"."))["a"], GRID, strict=True)


# Tensors that do not fit

BAD_TENSORS = {
    "shape beyond the storage": (0, (13,), (1,)),
    "offset beyond the storage": (1, (12,), (1,)),
    "offset far beyond": (2**62, (1,), (1,)),
    "strides beyond the storage": (0, (3, 4), (5, 1)),
    "negative offset": (-1, (2,), (1,)),
    "negative shape": (0, (-2,), (1,)),
    "negative stride": (11, (3,), (-1,)),
    "fewer strides": (0, (3, 4), (4,)),
    "more strides": (0, (0,), (4, 1)),
    "huge stride": (0, (2,), (2**62,)),
    "stride that overflows in NumPy": (0, (2,), (2**63 - 1,)),
    "strides that overflow together": (0, (2, 2), (2**62, 2**62)),
    "empty, with a shape NumPy cannot hold": (0, (2**62, 0), (1, 1)),
    "65 dimensions": (0, (1,) * 65, (1,) * 65),
    "shape of truth values": (0, (True,), (1,)),
    "shape of texts": (0, ("3",), (1,)),
    "shape of reals": (0, (3.0,), (1,)),
    "shape in a list": (0, [3], (1,)),
    "offset None": (None, (3,), (1,)),
}


@pytest.mark.case("65-70", "offsets, strides and shapes of a torch file that leave the storage", "weights-damaged")
@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_tensor_that_leaves_its_storage_is_refused(refusal, name):
    storage = Storage("Float", GRID.tobytes(), 12)
    assert refusal(torch_file({"odd": Tensor(storage, *BAD_TENSORS[name])})).code == "weights-damaged"


def test_an_empty_bfloat16_that_only_fits_as_stored(refusal):
    storage = Storage("BFloat16", b"", 0)
    assert refusal(torch_file({"odd": Tensor(storage, 0, (0, 2**61), (1, 1))})).code == "weights-damaged"


@pytest.mark.parametrize(("kind", "size"), [("Bool", 1), ("Half", 2), ("BFloat16", 2), ("Float", 4), ("Double", 8)])
@pytest.mark.parametrize("stride", [2**63 - 1, 2**63 - 2, 2**62, 2**62 - 1, 2**61, 2**60])
def test_strides_that_overflow_in_numpy_are_refused(refusal, kind, size, stride):
    """Found by fuzzing: NumPy 2.4.6 took a stride of 2**63 - 1 bytes for good, and reading it killed the process."""
    for shape, strides in (((2,), (stride,)), ((2, 2), (stride, 2**62)), ((2, 2, 3), (stride, 2**63 - 1, 1))):
        odd = Tensor(Storage(kind, bytes(16 * size), 16), 0, shape, strides)
        assert refusal(torch_file({"odd": odd})).code == "weights-damaged"


@pytest.mark.parametrize("numel", [13, 2**62])
def test_a_storage_shorter_than_promised_is_truncated(refusal, numel):
    error = refusal(torch_file({"odd": Tensor(Storage("Float", GRID.tobytes(), numel), 0, (12,), (1,))}))
    assert error.code == "weights-truncated"
    assert "48 bytes" in str(error)
    assert "'odd'" in str(error)


def test_a_storage_ends_where_it_says(read, refusal):
    """Even where more bytes are there: torch rounds the size of some storages down."""
    shorter = Storage("Float", GRID.tobytes(), 11)
    np.testing.assert_array_equal(read(torch_file({"a": Tensor(shorter, 8, (3,), (1,))}))["a"], [8, 9, 10])
    assert refusal(torch_file({"a": Tensor(shorter, 8, (4,), (1,))})).code == "weights-damaged"


def test_a_storage_that_is_not_there_is_named(refusal):
    members = torch_members({"odd": tensor(GRID)})
    del members["data/0"]
    error = refusal(archive(members))
    assert error.code == "weights-damaged"
    assert "'odd'" in str(error)


@pytest.mark.parametrize("shape", [(2**31, 2**31), (2**62,) * 64, (10_000_000,)])
def test_a_file_cannot_ask_for_much_more_memory_than_it_has(refusal, shape):
    storage = Storage("Float", GRID.tobytes(), 12)
    assert refusal(torch_file({"odd": Tensor(storage, 0, shape, (0,) * len(shape))})).code == "weights-too-large"


def test_the_limit_of_growth_counts_all_tensors(read, refusal):
    data = bytes(4000)
    storage = Storage("Half", data, 2000)
    few = {f"{i}": Tensor(storage, 0, (2000,), (1,)) for i in range(4)}
    assert len(read(torch_file(few))) == 4
    many = {f"{i}": Tensor(storage, 0, (2000,), (1,)) for i in range(40)}
    assert refusal(torch_file(many)).code == "weights-too-large"


def test_bfloat16_counts_as_the_float32_it_becomes(read, refusal):
    for kind in ("Half", "BFloat16"):
        storage = Storage(kind, bytes(4000), 2000)
        data = torch_file({f"{i}": Tensor(storage, 0, (2000,), (1,)) for i in range(7)})
        if kind == "Half":
            assert len(read(data)) == 7
        else:
            assert refusal(data).code == "weights-too-large"


# Values and names


@pytest.mark.case("81", "NaN, infinity or a negative variance in a torch file", "all such tensors named")
def test_bad_values_are_named_together(refusal):
    bad = {"a": tensor(np.array([1, math.nan], "<f4")), "b": bfloat16(np.array([math.inf], "<f4"))}
    error = refusal(torch_file({**bad, "c.running_var": tensor(np.array([-1.0])), "fine": tensor(GRID)}))
    assert error.code == "weights-not-finite"
    assert all(name in str(error) for name in ("'a'", "'b'", "'c.running_var'"))
    assert "fine" not in str(error)


def test_a_negative_variance_is_refused(refusal):
    assert refusal(torch_file({"x.running_var": tensor(np.array([-1.0]))})).code == "weights-negative-variance"


@pytest.mark.case("82", "hostile names of tensors in a torch file", "names only: quoted and cut in messages")
def test_names_from_the_file_are_only_names(read, refusal):
    names = ["../../etc/passwd", "", "\0", "__class__", "items"]
    assert list(read(torch_file({name: tensor(GRID) for name in names}))) == names
    flood = "x\n" * 1_000_000
    assert len(str(refusal(torch_file({flood: tensor(np.array([math.nan]))})))) < 500


def test_numbers_as_names_are_refused(refusal):
    error = refusal(torch_file({"a": tensor(GRID), 3: tensor(GRID)}))
    assert error.code == "weights-no-state-dict"
    assert "'3'" in str(error)


@pytest.mark.parametrize(
    "value", [None, [], 3, "text", {}, {"other": {"a": tensor(GRID)}}, [tensor(GRID)], tensor(GRID)]
)
def test_a_file_without_a_state_dict_says_what_it_holds(refusal, value):
    error = refusal(torch_file(value))
    assert error.code == "weights-no-state-dict"
    assert ("'other'" if value and isinstance(value, dict) else "no names") in str(error)


@pytest.mark.case("83", "too many tensors, members or instructions in a torch file", "refused before they are made")
def test_too_many_tensors_are_refused(refusal, monkeypatch):
    monkeypatch.setattr(module, "MAX_TENSORS", 3)
    storage = Storage("Float", GRID.tobytes(), 12)
    state = {f"{i}": Tensor(storage, 0, (1,), (1,)) for i in range(4)}
    assert refusal(torch_file(state)).code == "weights-too-many-tensors"


def test_too_many_members_are_refused_before_zipfile_reads_them(refusal, monkeypatch):
    monkeypatch.setattr(zipfile, "ZipFile", lambda _: pytest.fail("opened"))
    assert refusal(b"PK\3\4" + b"PK\1\2" * (MAX_TENSORS + 101)).code == "weights-too-many-tensors"


def test_a_file_too_large_is_not_read(path, monkeypatch):
    with path.open("wb") as file:
        file.truncate(MAX_WEIGHTS_BYTES + 1)  # a hole: no disk is used
    monkeypatch.setattr(module, "read_at_once", lambda _: pytest.fail("read"))
    with pytest.raises(WeightsError) as caught:
        read_torch(path)
    assert caught.value.code == "weights-too-large"


def test_a_pickle_too_large_is_not_taken_apart(refusal, monkeypatch):
    monkeypatch.setattr(module, "_instructions", lambda _: pytest.fail("read"))
    assert refusal(with_pickle(bytes(2**24 + 1))).code == "weights-too-large"


def test_a_missing_file_is_a_checkpoint_error(path):
    with pytest.raises(CheckpointError) as caught:
        read_torch(path)
    assert caught.value.code == "checkpoint-file-missing"


# The archive


def test_a_file_cut_anywhere_says_so(refusal):
    whole = torch_file({"a": tensor(GRID)})
    codes = [refusal(whole[:size]).code for size in range(2, len(whole))]
    assert set(codes) == {"weights-truncated", "weights-damaged"}
    assert set(codes[:-22]) == {"weights-truncated"}  # without the last record


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_refused(refusal, method):
    """It could be a bomb, and torch.load does not read it either."""
    members = [(f"archive/{name}", data) for name, data in torch_members({"a": tensor(np.zeros(10**6))}).items()]
    error = refusal(sealed(members, method))
    assert error.code == "weights-damaged"
    assert "compressed" in str(error)


def directory_entry(data, name):
    """Where the entry of a member is in the directory."""
    return data.rindex(b"archive/" + name) - 46


def patched(data, position, value):
    return data[:position] + value + data[position + len(value) :]


WHOLE = torch_file({"a": tensor(GRID)})
ENTRY = directory_entry(WHOLE, b"data/0")
BEYOND = len(WHOLE) - WHOLE.index(GRID.tobytes()) + 1
DAMAGED = {
    "other checksum": (patched(WHOLE, ENTRY + 16, b"\1\2\3\4"), "weights-damaged", "checksum"),
    "other contents": (WHOLE.replace(GRID.tobytes(), GRID.tobytes()[::-1]), "weights-damaged", "checksum"),
    "encrypted": (patched(WHOLE, ENTRY + 8, b"\1\0"), "weights-damaged", "encrypted"),
    "other place": (patched(WHOLE, ENTRY + 42, b"\5\0\0\0"), "weights-damaged", "not where"),
    "place beyond the end": (patched(WHOLE, ENTRY + 42, b"\xff\xff\xff\x7f"), "weights-damaged", "not where"),
    "longer than the file": (patched(WHOLE, ENTRY + 20, b"\xff\xff\xff\x7f" * 2), "weights-truncated", "larger"),
    "beyond the end": (
        patched(patched(WHOLE, ENTRY + 20, struct.pack("<2I", BEYOND, BEYOND)), ENTRY + 16, bytes(4)),
        "weights-truncated",
        "beyond the end",
    ),
    "no pickle": (archive({"data/0": b"1234"}), "weights-damaged", "0 members"),
    "two pickles": (archive({"data.pkl": b"N.", "x/data.pkl": b"N."}), "weights-damaged", "2 members"),
    "a name twice": (
        sealed([("archive/data.pkl", b"N."), ("archive/data/0", b"1"), ("archive/data/0", b"2")]),
        "weights-damaged",
        "more than once",
    ),
    "TorchScript": (archive({"data.pkl": b"N.", "constants.pkl": b"N."}), "weights-torchscript", "jit.load"),
    "no members": (sealed([]), "weights-damaged", "0 members"),
    "PK and no more": (b"PK\3\4" + bytes(100), "weights-truncated", "download"),
    "damaged directory": (WHOLE.replace(b"PK\1\2", b"PK\1\3"), "weights-damaged", "directory"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_archive_says_what_is_wrong(refusal, name):
    data, code, hint = DAMAGED[name]
    error = refusal(data)
    assert error.code == code
    assert hint in str(error)


def test_one_long_stretch_is_not_read_for_every_member(refusal, monkeypatch):
    """Directory entries may all point to the same bytes."""
    members = [
        ("archive/data.pkl", b"N."),
        *((f"archive/data/{i}", b"") for i in range(50)),
        ("archive/big", bytes(5000)),
    ]
    data = sealed(members)
    big = data.index(b"archive/big") - 30
    for i in range(50):
        entry = directory_entry(data, f"data/{i}".encode())
        data = patched(data, entry + 20, struct.pack("<2I", 5000, 5000))
        data = patched(data, entry + 42, struct.pack("<I", big))
    monkeypatch.setattr(zlib, "crc32", lambda _: pytest.fail("read"))
    assert refusal(data).code in ("weights-truncated", "weights-damaged")  # newer zipfile sees the overlap


def test_zip64_records_are_read(read):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, data in torch_members({"a": tensor(GRID)}).items():
            with written.open(f"archive/{name}", "w", force_zip64=True) as member:
                member.write(data)
    np.testing.assert_array_equal(read(file.getvalue())["a"], GRID, strict=True)


@pytest.mark.case(
    "84", "old torch formats, LFS pointers, HTML, HDF5 and text named as torch files", "named, with advice"
)
@pytest.mark.parametrize(
    ("data", "code", "hint"),
    [
        pytest.param(b"", "weights-empty", "download", id="empty"),
        pytest.param(pickle.dumps(119547037146038801333356, 2), "weights-torch-legacy", "torch.save(", id="legacy"),
        pytest.param(pickle.dumps(119547037146038801333356, 4), "weights-torch-legacy", "torch.save(", id="legacy, 4"),
        pytest.param(pickle.dumps(119547037146038801333356, 0), "weights-torch-legacy", "torch.save(", id="legacy, 0"),
        pytest.param(bytes(257) + b"ustar" + bytes(300), "weights-torch-legacy", "weights_only=True", id="tar"),
        pytest.param(pickle.dumps({"a": 1}), "weights-pickle", "save_pretrained", id="another pickle"),
        pytest.param(b"\x89HDF\r\n\x1a\n" + bytes(90), "weights-hdf5", "save_pretrained", id="HDF5"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "weights-lfs-pointer", "git lfs pull", id="LFS"),
        pytest.param(b"<!DOCTYPE html>", "weights-html", "log-in", id="HTML"),
        pytest.param(b'{"error":"Not Found"}', "weights-text", "error message", id="JSON"),
        pytest.param(bytes(300), "weights-damaged", "no zip archive", id="zeros"),
        pytest.param(b"P", "weights-damaged", "no zip archive", id="one byte"),
    ],
)
def test_files_of_other_formats_are_named(refusal, data, code, hint):
    error = refusal(data)
    assert error.code == code
    assert hint in str(error)


# Bombs, in a process that has little memory and time

LAUGHS = b"]q\0" + b"".join(b"]q" + bytes([i]) + (b"h" + bytes([i - 1]) + b"a") * 2 for i in range(1, 100))
COLLIDING = b"".join(b"\x8a\x08" + (i << 40).to_bytes(8, "little") + b"N" for i in range(2**17))
MANY_ARGUMENTS = (  # each call would take the rest of them apart
    b"ctorch._utils\n_rebuild_tensor_v2\nq\0((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x0ctQ"
    + b"K\0K\1\x85K\1\x85"
    + b"N" * 240_000
    + b"tq\1"
)
BOMBS = {
    "a tensor of many arguments, many times": MANY_ARGUMENTS + b"h\0h\1R" * 50_000,
    "deep tuples": b"N" + b"\x85" * 100_000,
    "deep lists": b"]" * 100_000 + b"a" * 99_999,
    "deep dicts": b"}" + b"K\0}" * 100_000 + b"s" * 100_000,
    "deep marks": b"(" * 100_000,
    "memo with a huge index": b"Nr\xff\xff\xff\xff",
    "a billion laughs": LAUGHS,
    "a billion laughs as a key": b"}" + LAUGHS + b"Ns",
    "a billion laughs as a persistent id": LAUGHS + b"Q",
    "a billion laughs as a shape": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\0" + LAUGHS + LAUGHS + b"tR",
    "a billion laughs as tuples, as a key": b"}" + b"N\x85q\0" + b"h\0h\0\x86q\0" * 100 + b"Ns",
    "a list in itself": b"]q\0h\0a",
    "a dict in itself, as a state dict": b"}q\0X\5\0\0\0modelh\0s",
    "a long shape": b"}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n("
    + b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x0ctQ"
    + b"K\0(" + b"J\xff\xff\xff\x7f" * 400_000 + b"t(" + b"K\0" * 90_000 + b"ttRs",
    "keys that collide": b"}(" + COLLIDING + b"u",
    "too many instructions": b"N" * 1_000_000,
    "all instructions": b"(" + b"N" * (MAX_OPCODES - 4) + b"t",
}  # fmt: skip

LIMITED = """
import resource, sys
from pathlib import Path
import numpy
from npmobilevit.checkpoints.torch_file import read_torch
from npmobilevit.errors import WeightsError
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
for path in sys.argv[1:]:
    try:
        read_torch(Path(path))
    except WeightsError as error:
        print(error.code)
"""


def test_bombs_cost_little_time_and_memory(tmp_path):
    paths = [tmp_path / f"{index}.bin" for index in range(len(BOMBS))]
    for path, bomb in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(with_pickle(b"\x80\2" + bomb + b"."))
    command = [sys.executable, "-c", LIMITED, *map(str, paths)]
    environment = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    codes = dict(zip(BOMBS, done.stdout.split(), strict=True))
    large = {"too many instructions": "weights-too-large"}
    nothing = (
        "deep tuples",
        "deep lists",
        "deep dicts",
        "memo with a huge index",
        "a billion laughs",
        "a list in itself",
    )
    nothing += ("a dict in itself, as a state dict", "keys that collide", "all instructions")
    expected = dict.fromkeys(BOMBS, "weights-damaged") | dict.fromkeys(nothing, "weights-no-state-dict") | large
    assert codes == expected
