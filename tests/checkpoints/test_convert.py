import json
import os
import struct

import networks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_families import foreign

import npmobilevit as nm
from npmobilevit import files
from npmobilevit.checkpoints import convert, read_checkpoint, read_safetensors, write_safetensors
from npmobilevit.checkpoints.weights_file import bfloat16_bits
from npmobilevit.errors import CheckpointError, ConfigError, WeightsError


def network(head="classification", **changes):
    config = networks.tiny(**changes)
    return networks.MODELS[head](config, networks.random_weights(config, head))


@pytest.fixture
def timm_file(tmp_path):
    """Weights of timm without the counters, in a folder of their own."""
    path = tmp_path / "timm" / "model.safetensors"
    state = network(num_labels=1000).state_dict()
    write_safetensors(path, foreign({n: v for n, v in state.items() if "num_batches" not in n}, "timm"))
    return path


@pytest.mark.parametrize("dtype", [None, "float32", "float16", "bfloat16"])
def test_a_checkpoint_of_timm_becomes_a_folder_of_hugging_face(timm_file, tmp_path, dtype):
    read = convert(timm_file, tmp_path / "out", dtype=dtype)
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    written = read_checkpoint(tmp_path / "out")
    assert (read.family, written.family) == ("timm", "transformers")
    assert written.dtypes == (dtype or "float32",)
    assert written.config.id2label == read.config.id2label
    assert written.config.id2label[134] == "crane"
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["architectures"] == ["MobileViTForImageClassification"]
    assert (settings["dtype"], settings["model_type"]) == (dtype or "float32", "mobilevit")
    assert settings["id2label"]["0"] == "tench, Tinca tinca"
    assert written.processor.items() >= read.processor.items()
    assert written.processor["image_processor_type"] == "MobileViTImageProcessor"
    assert nm.load(tmp_path / "out").processor == nm.load(timm_file).processor
    bound = {None: 0, "float32": 0, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    state = nm.MobileViTForImageClassification(written.config, written.weights).state_dict()
    assert written.weights.keys() == state.keys()  # the counters too
    assert {int(values) for name, values in written.weights.items() if "num_batches" in name} == {0}
    for name, values in read.weights.items():
        np.testing.assert_allclose(
            written.weights[name].astype(np.float32), values, rtol=bound, atol=1e-7 * (bound > 0)
        )


@pytest.mark.parametrize("head", [None, "segmentation"])
def test_other_heads_keep_their_architecture_and_counters(tmp_path, head):
    original = network(head, output_stride=16) if head else network(None)
    state = {n: v + 3 if "num_batches" in n else v for n, v in original.state_dict().items()}
    original.save_pretrained(tmp_path / "in")
    write_safetensors(tmp_path / "in" / "model.safetensors", state)
    convert(tmp_path / "in", tmp_path / "out")
    written = read_checkpoint(tmp_path / "out")
    assert written.architecture == type(original).__name__
    assert written.config.output_stride == original.config.output_stride
    assert not (tmp_path / "out" / "preprocessor_config.json").exists()  # there was none
    assert written.weights.keys() == state.keys()
    for name, values in state.items():
        np.testing.assert_array_equal(written.weights[name], values, strict=True)


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_without_a_dtype_the_stored_one_stays_and_the_bits_with_it(timm_file, tmp_path, stored):
    convert(timm_file, tmp_path / "half", dtype=stored)
    convert(tmp_path / "half", tmp_path / "again")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("half", "again"))
    assert first == second
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == stored


def test_float64_and_mixed_weights_become_float32(tmp_path):
    state = network().state_dict()
    for dtype, names in [("f8", state), ("f2", ["classifier.bias"])]:
        mixed = {n: v.astype(dtype) if n in names and v.dtype.kind == "f" else v for n, v in state.items()}
        write_safetensors(tmp_path / "in.safetensors", mixed)
        convert(tmp_path / "in.safetensors", tmp_path / "out")
        assert read_checkpoint(tmp_path / "out").dtypes == ("float32",)


def test_an_older_name_of_the_dtype_does_not_stay(tmp_path):
    network().save_pretrained(tmp_path / "in")
    path = tmp_path / "in" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch_dtype": "float32", "mine": 1}))
    convert(tmp_path / "in", tmp_path / "out", dtype="float16")
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (settings["dtype"], settings["mine"]) == ("float16", 1)
    assert "torch_dtype" not in settings


def test_a_shipped_checkpoint_converts_without_a_change(tmp_path):
    contents = convert("cifar10-xx-small", tmp_path / "out")
    written = read_safetensors(tmp_path / "out" / "model.safetensors")
    original = read_safetensors(contents.weights_path)
    assert written.keys() >= original.keys()
    for name, values in original.items():
        np.testing.assert_array_equal(written[name], values, strict=True)


# bfloat16


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**127), max_value=2.0**127))
def test_bfloat16_is_the_nearest_and_of_two_the_even_one(value):
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    below = bits >> 16
    near = [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in (below, below + 1)]
    distances = [abs(value - other) for other in near]
    found = int(bfloat16_bits(np.array([value], np.float32))[0])
    if distances[0] != distances[1]:
        assert found == below + (distances[1] < distances[0])
    else:
        assert found == below + below % 2


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x3F808000, 0x3F80),  # half way, the lower is even
        (0x3F818000, 0x3F82),  # half way, the upper is even
        (0x3F808001, 0x3F81),
        (0x3F807FFF, 0x3F80),
        (0xBF818000, 0xBF82),
        (0x3FFFFFFF, 0x4000),  # the carry reaches the exponent
        (0x80000000, 0x8000),  # -0
        (0x00008000, 0x0000),  # subnormal
        (0x00018000, 0x0002),
    ],
)
def test_bfloat16_by_hand(bits, expected):
    assert bfloat16_bits(np.array([bits], np.uint32).view(np.float32)).tolist() == [expected]


def test_the_bfloat16_file_is_whole_by_the_format_and_the_library(timm_file, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    convert(timm_file, tmp_path, dtype="bfloat16")
    data = (tmp_path / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    header = json.loads(data[8 : 8 + size])
    assert header.pop("__metadata__") == {"format": "pt"}
    spans = sorted(entry["data_offsets"] for entry in header.values())
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == len(data) - 8 - size
    assert {entry["dtype"] for entry in header.values()} == {"BF16", "I64"}
    assert all(entry["data_offsets"][0] % 8 == 0 for entry in header.values() if entry["dtype"] == "I64")
    assert len(safetensors.deserialize(data)) == len(header)


# Refusals


@pytest.mark.parametrize("dtype", ["float64", "int8", "", 16, "bf16"])
def test_another_dtype_is_refused_before_anything_is_read(tmp_path, dtype):
    with pytest.raises(ConfigError, match="float32, float16, bfloat16") as caught:
        convert(tmp_path / "gone", tmp_path / "out", dtype=dtype)
    assert caught.value.code == "dtype"


@pytest.mark.parametrize("name", ["", "model.safetensors"])
@pytest.mark.parametrize("link", [True, False])
def test_the_source_is_not_written_over(tmp_path, name, link):
    folder = tmp_path / "in"
    network().save_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(CheckpointError) as caught:
        convert(folder / name, tmp_path / "link" if link else tmp_path / "in" / "." / "", dtype="float16")
    assert caught.value.code == "checkpoint-overwrites-source"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_values_beyond_the_dtype_are_refused_and_nothing_is_written(tmp_path):
    for value, dtype in [(70000, "float16"), (3.4e38, "bfloat16")]:
        state = {**network().state_dict(), "classifier.bias": np.full(5, value, np.float32)}
        write_safetensors(tmp_path / "in.safetensors", state)
        with pytest.raises(WeightsError, match=r"classifier\.bias.*" + dtype) as caught:
            convert(tmp_path / "in.safetensors", tmp_path / "out", dtype=dtype)
        assert caught.value.code == "weights-not-finite"
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_the_config_are_not_written(tmp_path, change):
    network().save_pretrained(tmp_path / "in")
    state = network().state_dict()
    if change == "missing":
        del state["classifier.bias"]
    else:
        state["classifier.bias" if change == "shape" else "classifier.other"] = np.zeros(7, np.float32)
    write_safetensors(tmp_path / "in" / "model.safetensors", state)
    with pytest.raises(WeightsError, match=r"1 tensors.*'classifier\.") as caught:
        convert(tmp_path / "in", tmp_path / "out")
    assert caught.value.code == "weights-names"
    assert not (tmp_path / "out").exists()


def test_a_target_that_cannot_be_written(timm_file, tmp_path):
    (tmp_path / "file").touch()
    for target in (tmp_path / "file", tmp_path / "file" / "below", "~nobody-of-this-name/x"):
        with pytest.raises(CheckpointError) as caught:
            convert(timm_file, target)
        assert caught.value.code == "checkpoint-unwritable"


def contents_of(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


@pytest.mark.parametrize("written_before", [0, 1, 2])
def test_a_write_that_fails_leaves_the_checkpoint_that_was_there(
    tmp_path, classifier_folder, monkeypatch, written_before
):
    convert("cifar10-xx-small", tmp_path / "out")
    before = contents_of(tmp_path / "out")
    written, write = [], files.write_atomically

    def fail(path, data):
        if len(written) == written_before:
            raise OSError(28, "No space left on device")
        written.append(path)
        write(path, data)

    monkeypatch.setattr(files, "write_atomically", fail)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        convert(classifier_folder, tmp_path / "out")
    assert caught.value.code == "checkpoint-unwritable"
    assert contents_of(tmp_path / "out") == before


def test_a_folder_in_the_place_of_a_file_changes_nothing(tmp_path):
    (tmp_path / "out" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="is a folder"):
        convert("cifar10-xx-small", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["model.safetensors"]


def test_settings_of_another_checkpoint_do_not_outlive_it(tmp_path, classifier_folder):
    """The old processor would prepare the new model's pictures, wrongly and without a word."""
    convert("cifar10-xx-small", tmp_path / "out")
    (tmp_path / "source").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "source" / name).write_bytes((classifier_folder / name).read_bytes())
    convert(tmp_path / "source", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "model.safetensors"]
    with pytest.raises(CheckpointError) as caught:
        nm.load(tmp_path / "out")
    assert caught.value.code == "checkpoint-no-processor"


@pytest.mark.parametrize("folder", ["b\0", "b\ud800", b"bytes", None, 5])
def test_what_names_no_folder_is_an_error_of_ours(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        convert("cifar10-xx-small", folder)
    assert caught.value.code == "checkpoint-unwritable"


def test_integers_are_no_weights(tmp_path, classifier_folder):
    tensors = read_safetensors(classifier_folder / "model.safetensors")
    name = "classifier.bias"
    write_safetensors(tmp_path / "in" / "model.safetensors", tensors | {name: tensors[name].astype(np.int64)})
    (tmp_path / "in" / "config.json").write_bytes((classifier_folder / "config.json").read_bytes())
    with pytest.raises(WeightsError, match=r"classifier\.bias") as caught:
        convert(tmp_path / "in", tmp_path / "out")
    assert caught.value.code == "weights-dtype"


def test_float64_becomes_bfloat16_in_one_rounding():
    """By way of float32 the first would become a half, and go down to the even neighbour."""
    values = np.array([1 + 2**-8 + 2**-30, 1 + 2**-8 - 2**-30, 1 + 2**-8, -1 - 2**-8 - 2**-30, 1 + 3 * 2**-8 - 2**-30])
    assert [hex(bits) for bits in bfloat16_bits(values)] == ["0x3f81", "0x3f80", "0x3f80", "0xbf81", "0x3f81"]
