import json
import math
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npmobilevit.checkpoints import weights_file
from npmobilevit.checkpoints.weights_file import MAX_TENSORS, read_safetensors, write_safetensors
from npmobilevit.errors import CheckpointError, WeightsError


def packed(tensors, header_suffix=b""):
    """A safetensors file written by hand: {name: (dtype, shape, values as bytes)}."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode() + header_suffix
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def refusal(path, data):
    """The error that a file with these contents ends in."""
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)
    return caught.value


# Reading


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("F64", struct.pack("<3d", 0.1, -2.0, 1e300), np.array([0.1, -2.0, 1e300])),
        ("F32", struct.pack("<3f", 0.5, -2.0, 1e38), np.array([0.5, -2.0, 1e38], np.float32)),
        ("F16", struct.pack("<3e", 0.5, -2.0, 65504), np.array([0.5, -2.0, 65504], np.float16)),
        # 1.0, -2.0, the smallest denormal: the upper halves of 3F800000, C0000000, 00010000
        ("BF16", struct.pack("<3H", 0x3F80, 0xC000, 0x0001), np.array([1.0, -2.0, math.ldexp(1, -133)], np.float32)),
        ("I64", struct.pack("<3q", 0, -1, 2**53 + 1), np.array([0, -1, 2**53 + 1])),
    ],
)
def test_each_dtype_is_read_bit_by_bit(path, dtype, values, expected):
    path.write_bytes(packed({"a": (dtype, [3, 1], values), "b": (dtype, [], values[: len(values) // 3])}))
    tensors = read_safetensors(path)
    np.testing.assert_array_equal(tensors["a"], expected[:, None], strict=True)
    np.testing.assert_array_equal(tensors["b"], expected[0], strict=True)
    assert tensors["b"].shape == ()


def test_every_bfloat16_is_exact(path):
    bits = [b for b in range(2**16) if b & 0x7F80 != 0x7F80]  # all but infinities and NaN
    path.write_bytes(packed({"a": ("BF16", [len(bits)], struct.pack(f"<{len(bits)}H", *bits))}))
    expected = np.array([struct.unpack("<f", struct.pack("<HH", 0, b))[0] for b in bits], np.float32)
    read = read_safetensors(path)["a"]
    assert read.tobytes() == expected.tobytes()  # the sign of zero too


@pytest.mark.case("85", "a file that shrinks while it is in use", "no matter: it is read at once and not mapped")
def test_arrays_are_the_callers_own(path):
    path.write_bytes(packed({"a": ("F32", [2], bytes(8)), "b": ("BF16", [2], bytes(4))}))
    tensors = read_safetensors(path)
    tensors["a"][:] = tensors["b"][:] = 7
    path.write_bytes(b"")  # a mapped file would now kill the process
    assert [values.tolist() for values in tensors.values()] == [[7, 7], [7, 7]]
    assert not np.shares_memory(tensors["a"], tensors["b"])


def test_empty_tensors_and_leading_spaces_are_read(path):
    path.write_bytes(packed({"a": ("F32", [0, 3], b"")}, header_suffix=b"   "))
    assert read_safetensors(path)["a"].shape == (0, 3)


@pytest.mark.case("57", "a safetensors file of 0 bytes, and other damage", "WeightsError that says what is wrong")
@pytest.mark.parametrize(
    ("data", "code", "hint"),
    [
        pytest.param(b"", "weights-empty", "download", id="empty"),
        pytest.param(b"\x10\0\0", "weights-truncated", "3 bytes", id="3 bytes"),
        pytest.param(bytes(8), "weights-damaged", "download", id="8 zero bytes"),
        pytest.param(struct.pack("<Q", 2**63) + b"{}", "weights-damaged", "download", id="header of 2^63 bytes"),
        pytest.param(struct.pack("<Q", 2**64 - 1) + b"{}", "weights-damaged", "download", id="header of 2^64-1 bytes"),
        pytest.param(struct.pack("<Q", 5) + b"[1,2]", "weights-damaged", "download", id="header is a list"),
        pytest.param(struct.pack("<Q", 2) + b"\xff\xfe", "weights-damaged", "download", id="header not UTF-8"),
        pytest.param(
            struct.pack("<Q", 200_000) + b"[" * 200_000, "weights-damaged", "download", id="header nested deeply"
        ),
        pytest.param(
            packed({"a": ("F32", [2], bytes(8))}) + b"more", "weights-damaged", "download", id="bytes left over"
        ),
        pytest.param(packed({"a": ("F32", [3], bytes(8))}), "weights-damaged", "download", id="shape does not fit"),
        pytest.param(
            packed({"a": ("F32", [2**62, 2**62], bytes(8))}), "weights-damaged", "download", id="shape overflows"
        ),
        pytest.param(
            packed({"a": ("F32", [0, 2**63], b"")}), "weights-damaged", "NumPy", id="empty shape NumPy cannot hold"
        ),
        pytest.param(packed({"a": ("F32", [1] * 65, bytes(4))}), "weights-damaged", "NumPy", id="65 dimensions"),
        pytest.param(pickle.dumps({"a": [1.0] * 9}), "weights-pickle", "save_pretrained", id="pickle"),
        pytest.param(pickle.dumps({"a": [1.0] * 9}, 2), "weights-pickle", "save_pretrained", id="pickle, protocol 2"),
        pytest.param(b"PK\x03\x04" + bytes(40), "weights-pickle", "pytorch_model.bin", id="zip"),
        pytest.param(b"\x89HDF\r\n\x1a\n" + bytes(90), "weights-hdf5", "save_pretrained", id="HDF5"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5145720\n",
            "weights-lfs-pointer",
            "git lfs pull",
            id="LFS pointer",
        ),
        pytest.param(b"\n<!DOCTYPE html><html></html>", "weights-html", "log-in", id="HTML"),
        pytest.param(b'{"error":"Not Found"}', "weights-text", "error message", id="JSON"),
    ],
)
def test_damaged_and_foreign_files_are_named(path, data, code, hint):
    error = refusal(path, data)
    assert error.code == code
    assert hint in str(error)


def test_a_torch_zip_is_named(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    error = refusal(path, path.read_bytes())
    assert error.code == "weights-pickle"
    assert "torch.save" in str(error)


def test_a_file_cut_anywhere_says_so(path):
    whole = packed({"a": ("F32", [4], bytes(16)), "b": ("F64", [2], bytes(16))})
    assert {refusal(path, whole[:size]).code for size in range(1, len(whole))} == {"weights-truncated"}
    assert f"{len(whole) - 1} bytes of at least {len(whole)}" in str(refusal(path, whole[:-1]))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "BOOL", "U8", "I32"])
def test_other_dtypes_are_named_with_their_tensors(path, dtype):
    size = 4 if dtype == "I32" else 1
    error = refusal(path, packed({"fine": ("F32", [1], bytes(4)), "odd": (dtype, [1], bytes(size))}))
    assert error.code == "weights-dtype"
    assert f"'odd ({dtype})'" in str(error)
    assert "fine" not in str(error)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_refused(path, dtype, value):
    values = {
        "F64": struct.pack("<2d", 1, value),
        "F32": struct.pack("<2f", 1, value),
        "F16": struct.pack("<2e", 1, value),
        "BF16": struct.pack("<2f", 1, value)[2:4] + struct.pack("<2f", 1, value)[6:8],
    }[dtype]
    error = refusal(path, packed({"fine": ("F32", [1], bytes(4)), "odd": (dtype, [2], values)}))
    assert error.code == "weights-not-finite"
    assert "'odd'" in str(error)
    assert "fine" not in str(error)


def test_a_negative_variance_is_refused(path):
    negative = struct.pack("<2f", 1, -1e-30)
    error = refusal(path, packed({"x.bias": ("F32", [2], negative), "x.running_var": ("F32", [2], negative)}))
    assert error.code == "weights-negative-variance"
    assert "'x.running_var'" in str(error)
    assert "bias" not in str(error)


def test_all_bad_tensors_are_named_together(path):
    nan = struct.pack("<f", math.nan)
    tensors = {"a": ("F32", [1], nan), "b": ("F32", [1], nan)}
    error = refusal(path, packed({**tensors, "c.running_var": ("F32", [1], struct.pack("<f", -1))}))
    assert all(name in str(error) for name in ("'a'", "'b'", "'c.running_var'"))


def test_names_from_the_file_cannot_flood_or_forge_the_message(path):
    name = "x\n" * 1_000_000
    message = str(refusal(path, packed({name: ("U8", [1], b"0")})))
    assert len(message) < 500
    assert "\n" not in message


def test_the_number_of_tensors_is_capped_before_they_are_parsed(path, monkeypatch):
    path.write_bytes(packed({f"{i}": ("U8", [0], b"") for i in range(MAX_TENSORS + 1)}))
    monkeypatch.setattr(weights_file.json, "loads", lambda *_, **__: pytest.fail("parsed"))
    with pytest.raises(WeightsError) as caught:
        read_safetensors(path)
    assert caught.value.code == "weights-too-many-tensors"


def test_a_file_too_large_is_not_read(path):
    with path.open("wb") as file:
        file.truncate(weights_file.MAX_WEIGHTS_BYTES + 1)  # a hole: no disk is used
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as caught:
            read_safetensors(path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    assert caught.value.code == "weights-too-large"


def test_a_missing_file_is_a_checkpoint_error(path):
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(path)
    assert caught.value.code == "checkpoint-file-missing"


WHOLE = packed({"a": ("F32", [4], struct.pack("<4f", 1, 2, 3, 4)), "b.running_var": ("BF16", [2], bytes(4))})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_bytes_give_tensors_or_a_weights_error(path, changes):
    data = bytearray(WHOLE)
    for position, byte in changes:
        data[position] = byte
    path.write_bytes(data)
    try:
        tensors = read_safetensors(path)
    except WeightsError:
        return
    assert all(np.isfinite(values).all() for values in tensors.values())


# Writing

GRID = np.arange(24, dtype=np.float32).reshape(4, 6)
LAYOUTS = {
    "dense": GRID,
    "transposed": GRID.T,
    "stepped": GRID[:, ::2],
    "reversed": GRID[::-1],
    "reversed in part": GRID[:, ::-1],
    "broadcast": np.broadcast_to(GRID[0], (4, 6)),
    "broadcast scalar": np.broadcast_to(np.float32(3), (2, 2)),
    "fortran": np.asfortranarray(GRID),
    "offset": GRID[1:, 1:],
    "big-endian": GRID.astype(">f4"),
    "scalar": np.array(5),
    "empty": GRID[:0],
    "float16": GRID.astype(np.float16).T,
    "float64": GRID.astype(np.float64)[::-2],
    "read-only": np.frombuffer(GRID.tobytes(), np.float32),
}


@pytest.mark.case(
    "86", "saving transposed, stepped and broadcast arrays", "made dense first: what is written reads back"
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_array_of_any_layout_comes_back(path, layout):
    """safetensors 0.8.0 stores others than dense ones wrongly, and neighbouring memory with them."""
    array = LAYOUTS[layout]
    before = array.copy()
    write_safetensors(path, {"a": array, "b": GRID})
    tensors = read_safetensors(path)
    np.testing.assert_array_equal(tensors["a"], array.astype(array.dtype.newbyteorder("=")), strict=True)
    np.testing.assert_array_equal(tensors["b"], GRID, strict=True)
    np.testing.assert_array_equal(array, before, strict=True)


def header_and_values(data):
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), data[end:]


def test_the_bytes_of_a_written_file(path):
    """Little-endian, with the metadata that transformers asks for; read here without any library."""
    write_safetensors(path, {"a": np.array([[1, 2], [3, 4]], ">f4").T})
    header, values = header_and_values(path.read_bytes())
    assert header == {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    }
    assert struct.unpack("<4f", values) == (1, 3, 2, 4)


def test_other_metadata(path):
    metadata = {"format": "pt", "trained_by": "tools/train.py"}
    write_safetensors(path, {"a": GRID}, metadata)
    assert header_and_values(path.read_bytes())[0]["__metadata__"] == metadata


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.complex64, object, "U3", "M8[s]", np.longdouble])
def test_arrays_that_cannot_be_read_back_are_not_written(path, dtype):
    with pytest.raises(WeightsError) as caught:
        write_safetensors(path, {"fine": GRID, "odd": np.zeros(2, dtype)})
    assert caught.value.code == "weights-dtype"
    assert "odd" in str(caught.value)
    assert not path.exists()
