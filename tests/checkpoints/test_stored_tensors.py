"""Any tensors of a safetensors file: read_stored and its writer."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from memory import peak_growth

from npmobilevit.checkpoints import bfloat16_bits, from_bfloat16_bits, read_stored, safetensors_bytes
from npmobilevit.errors import WeightsError

TYPES = [*(f"{kind}{b}" for kind in ("int", "uint") for b in (64, 32, 16, 8)), "float64", "float32", "float16", "bool"]
ARRAYS = {dtype: np.array([[0, 1, 1], [1, 0, 1]], dtype) for dtype in TYPES}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def packed(header, body=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + body


def test_what_is_written_is_what_the_library_reads(path):
    arrays = {**ARRAYS, "scalar": np.array(3.0), "empty": np.zeros((0, 2)), "fortran": np.arange(6.0).reshape(2, 3).T}
    path.write_bytes(safetensors_bytes(arrays, {"z": "1", "a": "ü"}))
    found = safetensors.numpy.load_file(path)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"z": "1", "a": "ü"}


def test_what_the_library_writes_is_read(path):
    path.write_bytes(safetensors.numpy.save(ARRAYS, {"key": "text"}))
    found = read_stored(path)
    assert dict(found.dtypes) == {name: name for name in found}
    assert found.metadata == {"key": "text"}
    assert len(found) == len(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_values_are_aligned_and_keep_their_order(path):
    arrays = {"b": np.zeros(3, np.int8), "a": np.zeros(2), "c": np.zeros(1, np.int8), "d": np.zeros(1)}
    path.write_bytes(safetensors_bytes(arrays, {}))
    found = read_stored(path)
    assert list(found) == ["a", "d", "b", "c"]
    assert all(found[name].flags.aligned for name in found)


def test_views_share_the_bytes_of_the_file_and_cannot_be_written(path):
    path.write_bytes(safetensors_bytes({"a": np.zeros(2), "b": np.zeros(2)}, {}))
    found = read_stored(path)
    assert np.shares_memory(found["a"], found["a"])
    assert not found["a"].flags.writeable


def test_a_byte_of_a_bool_may_be_anything(path):
    path.write_bytes(packed({"a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}, b"\0\1\7"))
    assert read_stored(path)["a"].tolist() == [False, True, True]


def test_bfloat16_comes_back_for_every_number():
    bits = np.arange(2**16, dtype=np.uint16)
    values = from_bfloat16_bits(bits)
    nan = np.isnan(values)
    assert nan.sum() == 2 * 127
    np.testing.assert_array_equal(bfloat16_bits(values)[~nan], bits[~nan], strict=True)
    assert np.isnan(from_bfloat16_bits(bfloat16_bits(values[nan]))).all()
    low = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)  # would round to infinity or zero
    assert np.isnan(from_bfloat16_bits(bfloat16_bits(low))).all()
    assert bfloat16_bits(np.array([1e300, -np.inf])).tolist() == [0x7F80, 0xFF80]


ENTRY = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"__metadata__": {"a": 1}, "a": ENTRY}, id="metadata no text"),
        pytest.param({"__metadata__": [], "a": ENTRY}, id="metadata no object"),
        pytest.param({"a": []}, id="entry no object"),
        pytest.param({"a": {"dtype": "U8", "shape": [2]}}, id="no offsets"),
        pytest.param({"a": ENTRY | {"dtype": 5}}, id="dtype a number"),
        pytest.param({"a": ENTRY | {"shape": [2.0]}}, id="shape a float"),
        pytest.param({"a": ENTRY | {"shape": [True, 2]}}, id="shape a bool"),
        pytest.param({"a": ENTRY | {"shape": [-2]}}, id="shape negative"),
        pytest.param({"a": ENTRY | {"shape": [1]}}, id="shape too small"),
        pytest.param({"a": ENTRY | {"shape": [3]}}, id="shape too large"),
        pytest.param({"a": ENTRY | {"dtype": "U16", "shape": [2]}}, id="type too large"),
        pytest.param({"a": ENTRY | {"data_offsets": [0, 2, 2]}}, id="three offsets"),
        pytest.param({"a": ENTRY | {"data_offsets": [2, 0]}}, id="reversed"),
        pytest.param({"a": ENTRY | {"data_offsets": [-2, 0]}}, id="negative offset"),
        pytest.param({"a": ENTRY | {"shape": [1], "data_offsets": [0, 1]}}, id="left over"),
        pytest.param({"a": ENTRY | {"shape": [1], "data_offsets": [1, 2]}}, id="hole"),
        pytest.param({"a": ENTRY, "b": ENTRY}, id="overlap"),
        pytest.param({"a": ENTRY, "b": ENTRY | {"shape": [1], "data_offsets": [1, 2]}}, id="overlap in part"),
        pytest.param({"\ud800": ENTRY}, id="half a surrogate pair"),
        pytest.param({"a": ENTRY | {"shape": [10**400]}}, id="huge"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param("text", id="text"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(path, header):
    path.write_bytes(packed(header, b"\1\2"))
    with pytest.raises(WeightsError) as caught:
        read_stored(path, advice="write it again")
    assert caught.value.code in ("weights-damaged", "weights-truncated")
    assert str(path) in str(caught.value)
    with pytest.raises(safetensors.SafetensorError):  # no stricter than the library
        safetensors.deserialize(path.read_bytes())


def test_a_name_that_comes_twice_is_refused(path):
    entry = b'{"dtype":"U8","shape":[2],"data_offsets":[0,2]}'
    path.write_bytes(packed(b'{"a":' + entry + b',"a":' + entry + b"}", b"\1\2"))
    with pytest.raises(WeightsError) as caught:
        read_stored(path)
    assert caught.value.code == "weights-damaged"


def test_advice_takes_the_place_of_ours(path):
    path.write_bytes(safetensors_bytes({"a": np.zeros(2)}, {})[:-1])
    with pytest.raises(WeightsError, match=r"download it again$"):
        read_stored(path)
    with pytest.raises(WeightsError, match=r"; write it again$") as caught:
        read_stored(path, advice="write it again")
    assert "download" not in str(caught.value)


def test_a_large_file_is_in_memory_once(path):
    path.write_bytes(safetensors_bytes({f"t{i}": np.full(2**20, i, np.float32) for i in range(8)}, {}))  # 32 MiB
    setup = f"""
import pathlib
from npmobilevit.checkpoints import read_stored
path = pathlib.Path({str(path)!r})
"""
    assert (
        peak_growth(setup, "found = read_stored(path); assert sum(float(found[n][0]) for n in found) == 28") < 1.4 * 32
    )
