"""record: what a network puts out, for others to compare with."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from commandline import files_below, process, run, run_json

from npmobilevit import load
from npmobilevit.validation import check
from npmobilevit.validation.bundles import Bundle, record
from npmobilevit.validation.candidates import read_candidate

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_record_writes_a_bundle_in_float64_and_says_what(capsys, picture, model, classifier_folder):
    code, out, err = run(capsys, "record", picture, "-o", "b.safetensors", *model)
    assert (code, err) == (0, "")
    found = Bundle.load("b.safetensors")
    pipeline = load(classifier_folder, precision="float64")
    expected = record(pipeline, pipeline.pixel_values(picture))
    assert found.facts == expected.facts
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    head, *lines = out.splitlines()
    data = Path("b.safetensors").read_bytes()
    assert head == f"model {classifier_folder} (float64)"
    said = dict(line.split(maxsplit=1) for line in lines)
    assert said["output"] == "b.safetensors"
    assert said["taps"] == str(len(expected))
    assert said["bytes"] == f"{len(data):,}"
    assert said["sha256"] == hashlib.sha256(data).hexdigest()
    assert said["weights_sha256"] == found.facts["weights_sha256"]


def test_record_json(capsys, picture, model):
    code, document = run_json(capsys, "record", picture, "-o", "b.safetensors", "--taps", "stages", *model)
    assert code == 0
    assert document["schema"] == "npmobilevit.record/1"
    assert (document["taps"], document["fingerprints"], document["files"]) == (9, 0, 1)
    assert document["model"]["precision"] == "float64"
    assert document["input_sha256"] == Bundle.load("b.safetensors").facts["input_sha256"]


@pytest.mark.parametrize(
    ("arguments", "taps"),
    [
        (["--taps", "stages"], 9),
        (["--taps", "blocks"], 41),
        (["--taps", "logits"], 2),
        (["--taps", "mobilevit.conv_stem,mobilevit.encoder.layer.2.folded"], 3),
    ],
)
def test_taps_are_chosen(capsys, picture, model, arguments, taps):
    assert run(capsys, "record", picture, "-o", "b.safetensors", *model, *arguments)[0] == 0
    assert len(Bundle.load("b.safetensors")) == taps


def test_options_of_bundles(capsys, picture, model):
    options = ["--precision", "float32", "--with-bounds", "--max-bytes-per-tap", "3000"]
    code, document = run_json(capsys, "record", picture, "-o", "b.safetensors", *model, *options)
    found = Bundle.load("b.safetensors")
    assert code == 0
    assert found.facts["dtype"] == "float32"
    assert found.bounds
    assert document["fingerprints"] == len(found.fingerprints) > 0


def test_bits_that_are_the_same_everywhere(capsys, picture, model, classifier_folder):
    code, document = run_json(
        capsys, "record", picture, "-o", "b.safetensors", *model, "--precision", "bitexact", "--with-bounds"
    )
    found = Bundle.load("b.safetensors")
    assert (code, document["model"]["precision"]) == (0, "bitexact")
    assert (found.facts["precision"], found.facts["dtype"]) == ("bitexact", "float64")
    exact = load(classifier_folder, precision="bitexact").network.taps(found["pixel_values"])
    assert all(np.array_equal(found[name], value) for name, value in exact.items())
    assert check(found, classifier_folder).verdict == "pass"


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_the_input_may_be_pixel_values(capsys, picture, model, suffix):
    assert run(capsys, "record", picture, "-o", "first.safetensors", *model)[0] == 0
    pixels = Bundle.load("first.safetensors")["pixel_values"]
    np.save("first.npy", pixels)
    np.savez("first.npz", pixel_values=pixels)
    assert run(capsys, "record", f"first.{suffix}", "-o", "second.safetensors", *model)[0] == 0
    assert Path("first.safetensors").read_bytes() == Path("second.safetensors").read_bytes()


@pytest.mark.parametrize("form", ["npy", "raw", "hex"])
def test_an_export_is_a_folder_that_is_read_back(capsys, picture, model, form):
    options = ["--export", form, "--layout", "NHWC", "--dtype", "float16", "--taps", "stages"]
    code, document = run_json(capsys, "record", picture, "-o", "out", *model, *options)
    assert code == 0
    found = read_candidate("out")
    assert set(found.dtypes.values()) == {"float16"}
    assert len(found.tensors) == 9
    assert document["files"] == 10
    assert document["sha256"] is None
    assert document["bytes"] == sum(len(Path(f"out/{name}").read_bytes()) for name in files_below("out"))
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["taps"]["pixel_values"]["layout"] == "NHWC"


def test_nothing_is_replaced_unasked_and_never_the_input(capsys, picture, model):
    arguments = ["record", picture, *model, "--taps", "stages"]
    for output, more in (("b.safetensors", []), ("out", ["--export", "npy"])):
        assert run(capsys, *arguments, "-o", output, *more)[0] == 0
        code, out, err = run(capsys, *arguments, "-o", output, *more)
        assert (code, out) == (2, "")
        assert "--force" in err
        assert run(capsys, *arguments, "-o", output, *more, "--force")[0] == 0
    before = Path(picture).read_bytes()
    assert run(capsys, *arguments, "-o", picture, "--force")[0] == 2
    assert Path(picture).read_bytes() == before
    assert run(capsys, *arguments, "-o", "out")[0] == 2  # a folder
    assert run(capsys, *arguments, "-o", "b.safetensors", "--export", "npy", "--force")[0] == 2  # a file


@pytest.mark.case(
    "158", "record: wrong options, an input that is none, an output that cannot be", "one line, and a code"
)
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a.png"], 2, "-o"),
        (["-o", "b.safetensors"], 2, "INPUT"),
        (["a.png", "-o", "b.safetensors", "--taps", "lgits"], 2, "'logits'"),
        (["a.png", "-o", "b.safetensors", "--taps", ""], 2, "''"),
        (["a.png", "-o", "b.npz"], 2, ".safetensors"),
        (["a.png", "-o", "b.safetensors", "--precision", "float16"], 2, "float64"),
        (["a.png", "-o", "b", "--layout", "NHWC"], 2, "--export"),
        (["a.png", "-o", "b", "--dtype", "float16"], 2, "--export"),
        (["a.png", "-o", "b", "--export", "npy", "--with-bounds"], 2, "--export"),
        (["a.png", "-o", "b", "--export", "npy", "--max-bytes-per-tap", "5"], 2, "--export"),
        (["a.png", "-o", "b.safetensors", "--max-bytes-per-tap", "0"], 2, "at least 1"),
        (["missing.png", "-o", "b.safetensors"], 1, "missing.png"),
        (["missing.npy", "-o", "b.safetensors"], 1, "missing.npy"),
        (["text.png", "-o", "b.safetensors"], 1, "text.png"),
        (["text.npz", "-o", "b.safetensors"], 1, "text.npz"),
        (["grey.npy", "-o", "b.safetensors"], 1, "(1, 1, 8, 8)"),
        (["other.npz", "-o", "b.safetensors"], 1, "pixel_values"),
        (["a.png", "-o", "a.png/b.safetensors"], 1, "a.png"),
        (["a.png", "-o", "a.png/b", "--export", "npy"], 1, "a.png"),
        (["a.png", "-o", "b.safetensors", "--model", "no such model"], 3, "no such model"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(capsys, picture, model, arguments, code, said):
    for name in ("text.png", "text.npz"):
        Path(name).write_text("no picture")
    np.save("grey.npy", np.zeros((1, 1, 8, 8)))
    np.savez("other.npz", pixels=0)
    before = files_below(".")
    actual, out, err = run(capsys, "record", *model, *arguments)
    assert (actual, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert said in err
    assert files_below(".") == before
    actual, document = run_json(capsys, "record", *model, *arguments)
    assert actual == code
    assert document["schema"] == "npmobilevit.record/1"
    assert document["error"]["code"]


def test_record_as_a_process(picture, model):
    done = process("record", picture, "-o", "b.safetensors", *model, "--taps", "stages")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(Bundle.load("b.safetensors")) == 9
