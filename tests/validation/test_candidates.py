import io
import json
import os
import random
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from memory import peak_growth
from safetensors.numpy import save_file

from npmobilevit.checkpoints import safetensors_bytes
from npmobilevit.errors import BundleError
from npmobilevit.validation import candidates
from npmobilevit.validation.candidates import DTYPES, MAX_TAPS, hex_words, read_candidate, read_pixel_values

RNG = np.random.default_rng(0)
ARRAYS = {
    "float64": RNG.normal(size=(1, 2, 3, 4)),
    "float32": np.array([1.5, np.nan, -np.inf, -0.0], np.float32),
    "float16": np.arange(6, dtype=np.float16).reshape(2, 3),
    **{f"int{b}": np.array([-(2 ** (b - 1)), 0, 2 ** (b - 1) - 1], f"int{b}") for b in (64, 32, 16, 8)},
    **{f"uint{b}": np.array([0, 1, 2**b - 1], f"uint{b}") for b in (64, 32, 16, 8)},
    "bool": np.array([True, False, True]),
    "scalar": np.array(3.0),
    "empty": np.zeros((0, 3), np.float32),
}


def refusal(source):
    """The error that a candidate ends in, at once or when its taps are read."""
    with pytest.raises(BundleError) as caught:
        dict(read_candidate(source).tensors)
    assert caught.value.code.startswith("bundle-")
    assert len(str(caught.value)) < 1500
    return caught.value


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def write_manifest(folder, taps, **more):
    (folder / "manifest.json").write_text(json.dumps({"taps": taps, **more}), encoding="utf-8")
    return folder


def npy(array, *, allow_pickle=False):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


# Mappings


def test_a_mapping_of_arrays_of_any_type_and_value_is_taken_as_it_is():
    found = read_candidate(ARRAYS)
    same(found.tensors, ARRAYS)
    assert dict(found.dtypes) == {name: array.dtype.name for name, array in ARRAYS.items()}
    assert found.tensors["float64"] is ARRAYS["float64"]  # dumps are large
    assert (found.scales, found.ranges, found.parameter_scales, found.producer) == ({}, {}, {}, {})


def test_the_metadata_of_a_safetensors_file_say_who_made_it(tmp_path):
    made_by = {"port": "mine", "device": "board 7"}
    save_file({"logits": np.zeros((1, 2), np.float32)}, tmp_path / "a.safetensors", {"format": "pt", **made_by})
    assert read_candidate(tmp_path / "a.safetensors").producer == made_by


def test_lists_numbers_and_other_byte_orders_become_arrays():
    found = read_candidate({"list": [[1.0, 2.0]], "number": 3, "big": np.array([1, 2], ">f4")})
    same(found.tensors, {"list": np.array([[1.0, 2.0]]), "number": np.array(3), "big": np.array([1, 2], np.float32)})
    assert found.tensors["big"].dtype.isnative


class Tensor:
    """As torch's: NumPy cannot read it while it is in a graph, nor in bfloat16."""

    def __init__(self, array, dtype, state="in a graph on a device"):
        self.array, self.dtype, self.state = array, dtype, state

    def detach(self):
        return Tensor(self.array, self.dtype, "on a device")

    def cpu(self):
        assert self.state == "on a device"
        return Tensor(self.array, self.dtype, "readable")

    def float(self):
        return Tensor(self.array.astype(np.float32), "torch.float32", self.state)

    def __array__(self, dtype=None, copy=None):
        if self.state != "readable" or self.dtype == "torch.bfloat16":
            raise RuntimeError("call detach(), cpu() or float()")
        return self.array


def test_tensors_of_torch_are_read_without_torch():
    values = np.array([1.0, 2.0])
    found = read_candidate({"a": Tensor(values, "torch.float64"), "b": Tensor(values, "torch.bfloat16")})
    same(found.tensors, {"a": values, "b": values.astype(np.float32)})
    assert dict(found.dtypes) == {"a": "float64", "b": "bfloat16"}


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise ZeroDivisionError("no values today")


@pytest.mark.case("145", "taps that are ragged, objects, text, complex, dates, masked", "BundleError naming the tap")
@pytest.mark.parametrize(
    ("value", "code"),
    [
        pytest.param([[1.0], [1.0, 2.0]], "bundle-array", id="ragged"),
        pytest.param(Broken(), "bundle-array", id="broken"),
        pytest.param(np.ma.masked_array([1.0], [True]), "bundle-array", id="masked"),
        pytest.param(None, "bundle-pickle", id="None"),
        pytest.param({"a": 1}, "bundle-pickle", id="dict"),
        pytest.param(np.array([1, "a"], object), "bundle-pickle", id="objects"),
        pytest.param("text", "bundle-dtype", id="text"),
        pytest.param(b"bytes", "bundle-dtype", id="bytes"),
        pytest.param(1j, "bundle-dtype", id="complex"),
        pytest.param(np.array(["2020-01-01"], "M8[D]"), "bundle-dtype", id="date"),
        pytest.param(np.zeros(2, np.longdouble), "bundle-dtype", id="long double"),
        pytest.param(np.zeros(2, [("a", "f4")]), "bundle-dtype", id="record"),
    ],
)
def test_values_that_are_no_numbers_are_named(value, code):
    error = refusal({"fine": np.zeros(2), "odd.tap": value})
    assert error.code == code
    assert "'odd.tap'" in str(error)


@pytest.mark.case("146", "no taps, 10 001 taps, names that are no text", "BundleError")
@pytest.mark.parametrize(
    ("source", "code"),
    [
        ({}, "bundle-empty"),
        ({f"t{i}": 0 for i in range(MAX_TAPS + 1)}, "bundle-too-many-taps"),
        ({1: np.zeros(2)}, "bundle-name"),
        ({"": np.zeros(2)}, "bundle-name"),
        ({"\ud800": np.zeros(2)}, "bundle-name"),
        (5, "bundle-type"),
        (None, "bundle-type"),
        ([np.zeros(2)], "bundle-type"),
        (b"dump.npz", "bundle-type"),
    ],
)
def test_what_is_no_mapping_of_names_to_arrays_is_refused(source, code):
    assert refusal(source).code == code


def test_as_many_taps_as_are_allowed_are_read():
    assert len(read_candidate({f"t{i}": 0.0 for i in range(MAX_TAPS)}).tensors) == MAX_TAPS


# Files


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_archive(tmp_path, save):
    save(tmp_path / "dump.npz", **ARRAYS)
    found = read_candidate(tmp_path / "dump.npz")
    same(found.tensors, ARRAYS)
    assert dict(found.dtypes) == {name: array.dtype.name for name, array in ARRAYS.items()}


def test_a_safetensors_file_of_any_type(tmp_path):
    path = tmp_path / "dump.safetensors"
    path.write_bytes(safetensors_bytes(ARRAYS, {}))
    found = read_candidate(str(path))
    same(dict(sorted(found.tensors.items())), dict(sorted(ARRAYS.items())))
    path.write_bytes(safetensors_bytes({"a": np.array([0x3F80, 0xC000, 0x7FC0], np.uint16)}, {}, uint16_as="BF16"))
    found = read_candidate(str(path))
    same(found.tensors, {"a": np.array([1.0, -2.0, np.nan], np.float32)})
    assert dict(found.dtypes) == {"a": "bfloat16"}


def test_a_folder_of_npy_files_in_either_order_of_axes_and_bytes(tmp_path):
    arrays = {
        "a.b": ARRAYS["float64"],
        "c": np.asfortranarray(ARRAYS["float16"]),
        "d": np.array([1, 2], ">i2"),
        "e": np.array(True),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "notes.txt").write_text("not a tap")
    found = read_candidate(tmp_path)
    same(found.tensors, {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()})
    assert dict(found.dtypes) == {"a.b": "float64", "c": "float16", "d": "int16", "e": "bool"}


def test_a_format_of_npy_with_a_long_header(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.arange(3.0), version=(2, 0))
    (tmp_path / "a.npy").write_bytes(file.getvalue())
    same(read_candidate(tmp_path).tensors, {"a": np.arange(3.0)})


def test_pixel_values_come_alone_or_as_a_tap(tmp_path):
    pixels = RNG.random((1, 3, 4, 4), np.float32)
    np.save(tmp_path / "p.npy", pixels)
    np.savez(tmp_path / "p.npz", pixel_values=pixels, other=0)
    for name in ("p.npy", "p.npz"):
        np.testing.assert_array_equal(read_pixel_values(tmp_path / name), pixels, strict=True)
    np.savez(tmp_path / "q.npz", pixels=pixels)
    with pytest.raises(BundleError, match="'pixels'") as caught:
        read_pixel_values(tmp_path / "q.npz")
    assert caught.value.code == "bundle-no-pixels"


@pytest.mark.case("147", "a missing file, a folder, a pipe, a device, another suffix", "BundleError naming the path")
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing.npz", "bundle-file-missing"),
        ("missing", "bundle-file-missing"),
        ("pipe.npz", "bundle-not-a-file"),
        ("pipe.safetensors", "bundle-not-a-file"),
        ("device.npz", "bundle-not-a-file"),
        ("empty", "bundle-empty"),
        ("folder.npz", "bundle-empty"),
        ("dump.pt", "bundle-format"),
        ("single.npy", "bundle-format"),
        ("loop.npz", "bundle-unreadable"),
        ("x" * 300 + ".npz", "bundle-unreadable"),
        ("a\0b.npz", "bundle-unreadable"),
        ("~no such user/a.npz", "bundle-path"),
    ],
)
def test_what_is_no_file_to_be_read_is_named(tmp_path, monkeypatch, name, code):
    monkeypatch.chdir(tmp_path)
    for pipe in ("pipe.npz", "pipe.safetensors"):
        os.mkfifo(pipe)
    os.symlink("/dev/zero", "device.npz")
    os.symlink("loop.npz", "loop.npz")
    for folder in ("empty", "folder.npz"):
        os.mkdir(folder)
    for file in ("dump.pt", "single.npy"):
        Path(file).write_bytes(npy(np.zeros(2)))
    error = refusal(name)
    assert error.code == code
    assert name[:20].replace("\0", "")[:1] in str(error)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    np.savez(tmp_path / "a.npz", a=0)
    (tmp_path / "a.npz").chmod(0)
    assert refusal(tmp_path / "a.npz").code == "bundle-unreadable"


def archive(path, members, *, compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that comes twice
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, data in members:
                file.writestr(name, data)
    return path


def header(text):
    """An .npy file with this text as its header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


GOOD = npy(np.arange(4.0))


@pytest.mark.case("148", "pickles and other wrong arrays in .npy and .npz files", "BundleError; nothing is run")
@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(npy(np.array([1, "a"], object), allow_pickle=True), "bundle-pickle", id="pickle"),
        pytest.param(npy(np.zeros(2, "c8")), "bundle-dtype", id="complex"),
        pytest.param(npy(np.zeros(2, "U3")), "bundle-dtype", id="text"),
        pytest.param(npy(np.zeros(2, [("a", "f4")])), "bundle-dtype", id="records"),
        pytest.param(npy(np.zeros(2, "V2")), "bundle-dtype", id="V2"),
        pytest.param(b"", "bundle-damaged", id="empty"),
        pytest.param(GOOD[:20], "bundle-damaged", id="header cut"),
        pytest.param(GOOD[:-1], "bundle-size", id="values cut"),
        pytest.param(GOOD + b"\0", "bundle-size", id="values left over"),
        pytest.param(b"\x80\x04K\x05.", "bundle-damaged", id="bare pickle"),
        pytest.param(header("__import__('os').system('true')"), "bundle-damaged", id="code"),
        pytest.param(header("(" * 9000), "bundle-damaged", id="nested"),
        pytest.param(header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"), "bundle-shape", id="-1"),
        pytest.param(
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 2**70), }"), "bundle-damaged", id="expression"
        ),
        pytest.param(
            header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': (0, {2**70}), }}"), "bundle-shape", id="2**70"
        ),
        pytest.param(
            header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {(2**31,) * 4}, }}"), "bundle-shape", id="huge"
        ),
        pytest.param(
            header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {(1,) * 65}, }}") + bytes(8),
            "bundle-shape",
            id="65 axes",
        ),
        pytest.param(
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }"), "bundle-size", id="no values"
        ),
    ],
)
def test_a_wrong_array_is_refused(tmp_path, data, code):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "odd.npy").write_bytes(data)
    error = refusal(tmp_path / "folder")
    assert error.code == code
    assert "odd" in str(error)
    error = refusal(archive(tmp_path / "a.npz", [("fine.npy", GOOD), ("odd.npy", data)]))
    assert error.code == code
    assert "'odd'" in str(error)


@pytest.mark.case("149", "a zip bomb, a coded or foreign archive, a name that comes twice", "BundleError, not unpacked")
@pytest.mark.parametrize(
    ("members", "compression", "code"),
    [
        ([], zipfile.ZIP_STORED, "bundle-empty"),
        ([("a.npy", GOOD), ("a.npy", GOOD)], zipfile.ZIP_STORED, "bundle-duplicate-name"),
        ([("a.txt", GOOD)], zipfile.ZIP_STORED, "bundle-format"),
        ([(".npy", GOOD)], zipfile.ZIP_STORED, "bundle-name"),
        ([("a.npy", GOOD)], zipfile.ZIP_BZIP2, "bundle-format"),
        ([(f"{i}.npy", b"") for i in range(MAX_TAPS + 1)], zipfile.ZIP_STORED, "bundle-too-many-taps"),
    ],
)
def test_an_archive_that_is_none_of_arrays(tmp_path, members, compression, code):
    assert refusal(archive(tmp_path / "a.npz", members, compression=compression)).code == code


def test_the_entries_of_an_archive_are_counted_before_they_are_parsed(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.npz", [(f"{i}.npy", b"") for i in range(2 * MAX_TAPS + 1)])
    monkeypatch.setattr(candidates.zipfile, "ZipFile", lambda *_: pytest.fail("parsed"))
    assert refusal(path).code == "bundle-too-many-taps"


def test_a_bomb_is_refused_by_what_it_says_of_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "MAX_BYTES", 10_000)
    path = archive(tmp_path / "a.npz", [("a.npy", npy(np.zeros(2000)))], compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1000
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    assert refusal(path).code == "bundle-too-large"


def test_a_bomb_that_lies_about_its_size_does_not_unpack(tmp_path):
    path = archive(tmp_path / "a.npz", [("a.npy", npy(np.zeros(50_000)))], compression=zipfile.ZIP_DEFLATED)
    data, size = path.read_bytes(), struct.pack("<I", 400_128)
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, struct.pack("<I", 128)))
    assert refusal(path).code == "bundle-damaged"


def test_a_file_too_large_is_not_read(tmp_path):
    for name in ("a.npz", "a.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(candidates.MAX_BYTES + 1)  # a hole: no disk is used
        assert refusal(tmp_path / name).code == "bundle-too-large"


@pytest.mark.case("150", "files that change between two looks at them", "BundleError")
def test_a_file_that_changes_after_it_was_read(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(4))
    found = read_candidate(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros(5))
    with pytest.raises(BundleError) as caught:
        found.tensors["a"]
    assert caught.value.code == "bundle-changed"
    (tmp_path / "a.npy").unlink()
    with pytest.raises(BundleError) as caught:
        found.tensors["a"]
    assert caught.value.code == "bundle-unreadable"


def test_a_damaged_safetensors_file_says_what_to_do(tmp_path):
    path = tmp_path / "a.safetensors"
    data = safetensors_bytes({"a": np.zeros(4)}, {})
    for damaged, code in (
        (data[:-1], "bundle-truncated"),
        (b"PK\x03\x04" + bytes(90), "bundle-pickle"),
        (b"", "bundle-empty"),
    ):
        path.write_bytes(damaged)
        error = refusal(path)
        assert error.code == code
        assert str(error).endswith("write it again")
    path.write_bytes(safetensors_bytes({}, {}))
    assert refusal(path).code == "bundle-empty"


# Manifests


def raw(array, suffix):
    """The contents of a file of a manifest, and nothing of ours to make them."""
    if suffix == ".npy":
        return npy(array)
    if suffix in candidates.RAW:
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    size = array.itemsize
    codes = array.astype(array.dtype.newbyteorder(">")).tobytes()
    words = [int.from_bytes(codes[i : i + size], "big") for i in range(0, len(codes), size)]
    return "\n".join(f"{word:0{2 * size}X}" for word in words).encode()


@pytest.mark.parametrize("suffix", [*candidates.RAW, *candidates.HEX, ".npy", ".RAW"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_manifest_of_each_type_and_form(tmp_path, suffix, dtype):
    stored = np.array([0x3F80, 0xC000], np.uint16) if dtype == "bfloat16" else ARRAYS[dtype]
    expected = np.array([1.0, -2.0], np.float32) if dtype == "bfloat16" else stored
    (tmp_path / f"f{suffix}").write_bytes(raw(stored, suffix.lower()))
    found = read_candidate(
        write_manifest(tmp_path, {"a": {"file": f"f{suffix}", "dtype": dtype, "shape": stored.shape}})
    )
    same(found.tensors, {"a": expected})
    assert dict(found.dtypes) == {"a": dtype}


def test_hexadecimal_words_as_printf_writes_them(tmp_path):
    """-1 and 3 as int16, 1 and -0.5 as float32, worked out by hand; small letters and any white space are good."""
    (tmp_path / "a.hex").write_text("FFFF 0003")
    (tmp_path / "b.mem").write_text("\t3f800000\r\n\r\nbf000000\n")
    taps = {
        "a": {"file": "a.hex", "dtype": "int16", "shape": [2]},
        "b": {"file": "b.mem", "dtype": "float32", "shape": [1, 2]},
    }
    found = read_candidate(write_manifest(tmp_path, taps)).tensors
    same(found, {"a": np.array([-1, 3], np.int16), "b": np.array([[1, -0.5]], np.float32)})


@pytest.mark.parametrize(
    "text",
    [
        "FFF 0003",
        "FF FF 00 03",
        "FFFF0003",
        "FFFFF 003",
        "0xFFFF 0003",
        "FFFG 0003",
        "FFFF 0003 x",
        "FFFF,0003",
        "FFFF 000",
    ],
)
def test_words_of_another_length_are_not_joined(text):
    with pytest.raises(BundleError) as caught:
        hex_words(text.encode(), 4, "a.hex")
    assert caught.value.code == "bundle-hex"
    assert "%04X" in str(caught.value)


@pytest.mark.parametrize("text", ["", " \n"])
def test_no_words_are_no_bytes(text):
    assert hex_words(text.encode(), 4, "a.hex") == b""


def test_channels_last_is_for_four_axes(tmp_path):
    image, tokens = RNG.random((1, 4, 5, 3)), RNG.random((4, 6, 2))
    (tmp_path / "i.raw").write_bytes(image.tobytes())
    (tmp_path / "t.raw").write_bytes(tokens.tobytes())
    taps = {
        "i": {"file": "i.raw", "dtype": "float64", "shape": [1, 4, 5, 3], "layout": "NHWC"},
        "t": {"file": "t.raw", "dtype": "float64", "shape": [4, 6, 2], "layout": "NHWC"},
    }
    found = read_candidate(write_manifest(tmp_path, taps)).tensors
    same(found, {"i": image.transpose(0, 3, 1, 2), "t": tokens})


def test_quantized_taps_become_real_numbers(tmp_path):
    (tmp_path / "a.raw").write_bytes(np.array([-128, -3, 127], np.int8).tobytes())
    (tmp_path / "b.raw").write_bytes(np.array([0, 65535], "<u2").tobytes())
    taps = {
        "a": {"file": "a.raw", "dtype": "int8", "shape": [3], "scale": 0.5, "zero_point": -3},
        "b": {"file": "b.raw", "dtype": "uint16", "shape": [2], "scale": 2},
    }
    more = {"producer": {"name": "port", "version": "1"}, "parameters": {"conv.weight": {"scale": 0.125}}}
    found = read_candidate(write_manifest(tmp_path, taps, **more))
    same(found.tensors, {"a": np.array([-62.5, 0.0, 65.0]), "b": np.array([0.0, 131070.0])})
    assert dict(found.scales) == {"a": 0.5, "b": 2.0}
    assert dict(found.ranges) == {"a": (-62.5, 65.0), "b": (0.0, 131070.0)}
    assert dict(found.parameter_scales) == {"conv.weight": 0.125}
    assert dict(found.producer) == {"name": "port", "version": "1"}
    assert dict(found.dtypes) == {"a": "int8", "b": "uint16"}


TAP = {"file": "a.raw", "dtype": "int16", "shape": [2, 3]}


def test_parameters_may_lie_in_files(tmp_path):
    (tmp_path / "w.raw").write_bytes(bytes(24))
    (tmp_path / "a.raw").write_bytes(bytes(12))
    entry = {"file": "w.raw", "dtype": "int8", "shape": [2, 3, 4, 1], "layout": "OHWI", "scale": 0.25}
    parameters = {"conv.weight": entry, "conv.bias": {"scale": 2}}
    found = read_candidate(write_manifest(tmp_path, {"a": TAP}, parameters=parameters))
    assert dict(found.parameter_scales) == {"conv.weight": 0.25, "conv.bias": 2.0}
    assert list(found.tensors) == ["a"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"scale": None}, "bundle-scale"),
        ({"scale": -1}, "bundle-scale"),
        ({"file": "../outside.raw"}, "bundle-outside"),
        ({"file": "missing.raw"}, "bundle-file-missing"),
        ({"file": None}, "bundle-manifest"),
        ({"shape": [2, 4]}, "bundle-size"),
        ({"dtype": "float16"}, "bundle-scale"),
        ({"layout": "NHWC"}, "bundle-layout"),
        ({"step": 1}, "bundle-manifest"),
    ],
)
def test_a_parameter_that_cannot_be_is_named(folder, change, code):
    parameters = {"odd": TAP | {"scale": 0.5} | change}
    error = refusal(write_manifest(folder, {"fine": TAP}, parameters=parameters))
    assert error.code == code
    assert "'odd'" in str(error) or code == "bundle-file-missing"


@pytest.fixture
def folder(tmp_path):
    """Files of a manifest, and some outside of it."""
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "a.raw").write_bytes(bytes(12))
    (inside / "sub" / "a.raw").write_bytes(bytes(12))
    (inside / "a.hex").write_text("0000\n" * 6)
    (inside / "long.hex").write_text("0000\n" * 7)
    (inside / "endless.hex").write_text(" " * 100_000)
    (inside / "a.npy").write_bytes(npy(np.zeros((2, 3), np.int16)))
    (inside / "f.npy").write_bytes(npy(np.zeros((2, 3), np.float16)))
    (inside / "t.npy").write_bytes(npy(np.zeros((3, 2), np.int16)))
    (inside / "a.dat").write_bytes(bytes(12))
    (tmp_path / "outside.raw").write_bytes(bytes(12))
    os.symlink("../outside.raw", inside / "link.raw")
    os.symlink("a.raw", inside / "good-link.raw")
    os.symlink("loop.raw", inside / "loop.raw")
    os.symlink("/dev/zero", inside / "zero.raw")
    os.mkfifo(inside / "pipe.raw")
    (inside / "folder.raw").mkdir()
    return inside


@pytest.mark.parametrize("file", ["a.raw", "sub/a.raw", "./a.raw", "sub/../a.raw", "good-link.raw", "a.hex", "a.npy"])
def test_files_of_a_manifest_may_lie_anywhere_inside(folder, file):
    found = read_candidate(write_manifest(folder, {"a": TAP | {"file": file}}))
    same(found.tensors, {"a": np.zeros((2, 3), np.int16)})


@pytest.mark.case(
    "151", "a manifest whose files lead out of its folder, or are none", "BundleError, and nothing is read"
)
@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("../outside.raw", "bundle-outside"),
        ("sub/../../outside.raw", "bundle-outside"),
        ("link.raw", "bundle-outside"),
        ("/dev/zero", "bundle-outside"),
        ("zero.raw", "bundle-outside"),
        ("{absolute}", "bundle-outside"),
        ("loop.raw", "bundle-unreadable"),
        ("pipe.raw", "bundle-not-a-file"),
        ("folder.raw", "bundle-not-a-file"),
        ("none.raw", "bundle-file-missing"),
        ("x" * 300 + ".raw", "bundle-unreadable"),
        ("a\0.raw", "bundle-manifest"),
        ("\ud800.raw", "bundle-unreadable"),
        ("", "bundle-manifest"),
        (None, "bundle-manifest"),
        (["a.raw"], "bundle-manifest"),
        ("a.dat", "bundle-format"),
        ("f.npy", "bundle-size"),
        ("t.npy", "bundle-size"),
        ("long.hex", "bundle-size"),
        ("endless.hex", "bundle-size"),
    ],
)
def test_files_of_a_manifest_lie_inside_and_are_files(folder, file, code):
    file = str(folder / "a.raw") if file == "{absolute}" else file
    error = refusal(write_manifest(folder, {"fine": TAP, "odd": TAP | {"file": file}}))
    assert error.code == code


@pytest.mark.case(
    "152", "shapes, dtypes, layouts, scales and names in a manifest that cannot be", "BundleError naming them"
)
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"shape": [2, 2]}, "bundle-size"),
        ({"shape": [2, -3]}, "bundle-shape"),
        ({"shape": [-2, -3]}, "bundle-shape"),
        ({"shape": [2**40, 2**40]}, "bundle-shape"),
        ({"shape": [0, 2**70]}, "bundle-shape"),
        ({"shape": [1] * 33}, "bundle-shape"),
        ({"shape": [2, 3.0]}, "bundle-shape"),
        ({"shape": [2, True]}, "bundle-shape"),
        ({"shape": "23"}, "bundle-shape"),
        ({"shape": None}, "bundle-shape"),
        ({"shape": 6}, "bundle-shape"),
        ({"dtype": "float32"}, "bundle-size"),
        ({"dtype": "complex64"}, "bundle-dtype"),
        ({"dtype": "object"}, "bundle-dtype"),
        ({"dtype": "f4"}, "bundle-dtype"),
        ({"dtype": ["int16"]}, "bundle-dtype"),
        ({"dtype": None}, "bundle-dtype"),
        ({"layout": "CHWN"}, "bundle-layout"),
        ({"layout": {}}, "bundle-layout"),
        ({"scale": 0}, "bundle-scale"),
        ({"scale": -1.0}, "bundle-scale"),
        ({"scale": 1e305}, "bundle-scale"),
        ({"scale": 10**400}, "bundle-scale"),
        ({"scale": True}, "bundle-scale"),
        ({"scale": "0.1"}, "bundle-scale"),
        ({"scale": None}, "bundle-scale"),
        ({"zero_point": 3}, "bundle-scale"),
        ({"scale": 1, "zero_point": 0.5}, "bundle-scale"),
        ({"scale": 1, "zero_point": 2**40}, "bundle-scale"),
        ({"scale": 1, "zero_point": None}, "bundle-scale"),
        ({"dtype": "float16", "scale": 1}, "bundle-scale"),
        ({"dtype": "bfloat16", "scale": 1}, "bundle-scale"),
        ({"zeropoint": 3}, "bundle-manifest"),
    ],
)
def test_a_tap_that_cannot_be_is_named(folder, change, code):
    error = refusal(write_manifest(folder, {"fine": TAP, "odd": TAP | change}))
    assert error.code == code
    assert "'odd'" in str(error)


@pytest.mark.case("153", "a manifest that is damaged, names a tap twice, or has no taps", "BundleError naming the file")
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bundle-json-syntax"),
        ("[1]", "bundle-json-not-an-object"),
        ("{}", "bundle-manifest"),
        ('{"taps": []}', "bundle-manifest"),
        ('{"taps": {}}', "bundle-empty"),
        ('{"taps": {"a": 5}}', "bundle-manifest"),
        ('{"taps": {"a": {}, "a": {}}}', "bundle-json-duplicate-key"),
        ('{"taps": {"": {}}}', "bundle-name"),
        ('{"taps": {"\\ud800": {}}}', "bundle-name"),
        ('{"taps": {"a": {"scale": NaN}}}', "bundle-json-not-finite"),
        ('{"taps": {"a": {"scale": 1e999}}}', "bundle-json-not-finite"),
        ("[" * 100_000, "bundle-json-too-deep"),
        (" " * 1_000_001, "bundle-json-too-large"),
        ("{" + '"taps": {' + ",".join(f'"{i}": {{}}' for i in range(MAX_TAPS + 1)) + "}}", "bundle-too-many-taps"),
        ('{"taps": {"a": {"file": "a.raw", "dtype": "int16", "shape": [6]}}, "extra": 1}', "bundle-manifest"),
        ('{"taps": {"a": {"file": "a.raw", "dtype": "int16", "shape": [6]}}, "producer": 1}', "bundle-manifest"),
        ('{"taps": {"a": {"file": "a.raw", "dtype": "int16", "shape": [6]}}, "producer": {"a": 1}}', "bundle-manifest"),
        ('{"taps": {"a": {"file": "a.raw", "dtype": "int16", "shape": [6]}}, "parameters": []}', "bundle-manifest"),
        (
            '{"taps": {"a": {"file": "a.raw", "dtype": "int16", "shape": [6]}}, "parameters": {"w": {"scale": 0}}}',
            "bundle-scale",
        ),
        (
            '{"taps": {"a": {"file": "a.raw", "dtype": "int16", "shape": [6]}}, "parameters": {"w": 0.5}}',
            "bundle-manifest",
        ),
    ],
)
def test_a_manifest_that_is_none(folder, text, code):
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    error = refusal(folder)
    assert error.code == code
    assert "manifest.json" in str(error)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("nowhere", path)])
def test_a_manifest_that_is_no_file(folder, make):
    make(folder / "manifest.json")
    assert refusal(folder).code in ("bundle-not-a-file", "bundle-file-missing")


# Damage of any kind


def seeds(folder):
    """Good candidates: the path that is read, and the file that is damaged."""
    arrays = {name: ARRAYS[name] for name in ("float64", "float32", "int8", "bool")}
    np.savez(folder / "stored.npz", **arrays)
    np.savez_compressed(folder / "deflated.npz", **arrays)
    (folder / "plain.safetensors").write_bytes(safetensors_bytes(arrays, {"a": "b"}))
    yield from ((folder / name, folder / name) for name in ("stored.npz", "deflated.npz", "plain.safetensors"))
    (folder / "npy").mkdir()
    np.save(folder / "npy" / "a.npy", ARRAYS["float64"])
    yield folder / "npy", folder / "npy" / "a.npy"
    manifest = folder / "manifest"
    manifest.mkdir()
    (manifest / "a.raw").write_bytes(bytes(12))
    (manifest / "b.hex").write_bytes(b"FFFF\n" * 6)
    taps = {"a": TAP | {"scale": 0.5, "zero_point": 3}, "b": TAP | {"file": "b.hex", "layout": "NHWC"}}
    write_manifest(manifest, taps, producer={"a": "b"}, parameters={"w": {"scale": 1}})
    yield from ((manifest, manifest / name) for name in ("manifest.json", "a.raw", "b.hex"))


@pytest.mark.case("154", "random mutations of every kind of candidate", "values or BundleError, within bounded memory")
def test_damaged_candidates_end_in_values_or_in_our_error(tmp_path):
    fuzzing = pytest.importorskip("fuzzing")  # it needs resource, which only Unix has
    outcomes = set()
    for source, file in seeds(tmp_path):
        good, rng = file.read_bytes(), random.Random(0)
        dict(read_candidate(source).tensors)
        seed = fuzzing.Seed("good", good)
        for _ in range(80):
            file.write_bytes(rng.choice(fuzzing.BYTE_MUTATIONS)(good, rng, [seed]))
            try:
                dict(read_candidate(source).tensors)
                outcomes.add("value")
            except BundleError as error:
                outcomes.add(error.code)
        file.write_bytes(good)
    assert {
        "value",
        "bundle-damaged",
        "bundle-truncated",
        "bundle-size",
        "bundle-hex",
        "bundle-json-syntax",
    } <= outcomes


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_a_cut_archive_is_damaged(tmp_path, cut):
    np.savez(tmp_path / "a.npz", a=np.zeros(9))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) * cut // 100])
    assert refusal(tmp_path / "a.npz").code == "bundle-damaged"


# Memory

SETUP = """
import numpy as np, pathlib, tempfile
from npmobilevit.checkpoints import safetensors_bytes
from npmobilevit.validation.candidates import read_candidate
import zipfile, json
np.zeros(2).sum()
read_candidate({{"a": np.zeros(2)}})
path = {path!r}
"""


@pytest.mark.parametrize(("name", "limit"), [("dump.safetensors", 1.3), ("dump.npz", 0.4), ("folder", 0.4)])
def test_a_large_dump_is_not_in_memory_twice(tmp_path, name, limit):
    """A safetensors file is in memory once; of the others, which are read tap by tap, only a part is."""
    arrays = {f"t{i}": np.full((2**20,), i, np.float32) for i in range(12)}  # 48 MiB
    if name == "folder":
        (tmp_path / name).mkdir()
        for tap, array in arrays.items():
            np.save(tmp_path / name / f"{tap}.npy", array)
    elif name.endswith(".npz"):
        np.savez(tmp_path / name, **arrays)
    else:
        (tmp_path / name).write_bytes(safetensors_bytes(arrays, {}))
    action = "assert sum(float(read[n][0]) for read in [read_candidate(path).tensors] for n in read) == 66"
    assert peak_growth(SETUP.format(path=str(tmp_path / name)), action) < limit * 48
