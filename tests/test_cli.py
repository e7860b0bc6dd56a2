"""The command line: what it prints where, and how it ends."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npmobilevit import cli

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("clean_environment")

CHELSEA = str(ROOT / "reference" / "images" / "chelsea.png")
MODEL = ["--model", "cifar10-xx-small"]


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    try:
        code = cli.main(arguments)
    except SystemExit as stop:  # argparse ends in this way
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def in_process(*arguments, **options):
    command = [sys.executable, "-m", "npmobilevit", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, **options)


# predict


def test_predict_names_the_model_the_picture_and_five_classes(capsys):
    code, out, err = run(capsys, "predict", CHELSEA, *MODEL)
    lines = out.splitlines()
    assert code == 0
    assert err == ""
    assert lines[0] == "model cifar10-xx-small (10 labels)"
    assert lines[1] == CHELSEA
    assert len(lines) == 7
    assert lines[2].split()[1] == "cat"
    assert set(lines[2].split()[2]) == {"#"}


def test_predict_json_is_one_document_with_all_inputs(capsys, tmp_path):
    code, out, err = run(capsys, "predict", CHELSEA, "missing.png", CHELSEA, "--json", "--top-k", "2", *MODEL)
    document = json.loads(out)
    assert code == 1
    assert err.count("error:") == 1
    assert document["schema"] == "npmobilevit.predict/1"
    assert document["model"] == {"name": "cifar10-xx-small", "revision": None, "precision": "float32"}
    first, failed, again = document["results"]
    assert first == again
    assert first["input"] == CHELSEA
    assert [sorted(p) for p in first["predictions"]] == [["index", "label", "score"]] * 2
    assert first["predictions"][0]["label"] == "cat"
    assert failed["input"] == "missing.png"
    assert failed["error"]["code"]


def test_one_bad_picture_does_not_stop_the_others(capsys, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("<html>not a picture</html>")
    cut = tmp_path / "cut.jpg"
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(data, "JPEG")
    cut.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    code, out, err = run(capsys, "predict", str(text), "missing.png", str(cut), CHELSEA, *MODEL)
    assert code == 1
    assert err.count("error:") == 3
    assert len(err.splitlines()) == 3
    assert "cat" in out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["predict"],
        ["predict", "x.png", "--top-k", "0"],
        ["predict", "x.png", "--top-k", "-1"],
        ["predict", "x.png", "--top-k", "five"],
        ["predict", "x.png", "--frobnicate"],
        ["frobnicate"],
        ["taps", "--size", "0", "5"],
    ],
)
def test_usage_errors_end_with_two(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    if arguments:
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", [["predict", CHELSEA], ["info"], ["taps"]])
def test_a_model_that_is_not_to_be_had_ends_with_three(capsys, tmp_path, command):
    for model in ("apple/mobilevit-small", "no such model", str(tmp_path)):
        code, out, err = run(capsys, *command, "--model", model)
        assert code == 3
        assert out == ""
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1


def test_a_damaged_model_ends_with_three_and_one_line(capsys, tmp_path, classifier_folder):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((classifier_folder / name).read_bytes())
    weights = (classifier_folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    code, out, err = run(capsys, "predict", CHELSEA, "--model", str(tmp_path))
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == 1


def test_a_segmenter_does_not_predict(capsys, segmenter_folder):
    code, out, err = run(capsys, "predict", CHELSEA, "--model", str(segmenter_folder))
    assert (code, out) == (2, "")
    assert "no classifier" in err


def test_without_a_model_the_shipped_one_is_named(capsys):
    code, out, err = run(capsys, "predict", CHELSEA)
    assert code == 0
    assert err.startswith("warning: apple/mobilevit-xx-small is out of reach")
    assert len(err.splitlines()) == 1
    assert out.startswith("model cifar10-xx-small")
    assert json.loads(run(capsys, "predict", CHELSEA, "--json")[1])["model"]["name"] == "cifar10-xx-small"


# info and taps


def test_info_counts_the_parameters(capsys):
    code, out, _ = run(capsys, "info", *MODEL)
    assert code == 0
    assert "parameters         958,346" in out
    document = json.loads(run(capsys, "info", "--json", *MODEL)[1])
    assert document["parameters"] == 958_346
    assert sum(document["parameters_by_part"].values()) == 958_346
    assert document["label_names"][3] == "cat"
    assert document["architecture"] == "MobileViTForImageClassification"


def test_taps_lists_names_and_shapes_in_forward_order(capsys):
    code, out, _ = run(capsys, "taps", *MODEL)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "pixel_values  (1, 3, 64, 64)"
    assert lines[-1] == "logits  (1, 10)"
    assert "mobilevit.encoder.layer.2.fusion  (1, 48, 8, 8)" in lines
    document = json.loads(run(capsys, "taps", "--json", "--size", "96", "64", *MODEL)[1])
    assert document["taps"]["mobilevit.encoder.layer.2.fusion"] == [1, 48, 12, 8]
    assert len(document["taps"]) == len(lines)


# The process


def test_version_and_help(capsys):
    assert run(capsys, "--version")[1].startswith("npmobilevit ")
    code, out, _ = run(capsys, "predict", "--help")
    assert code == 0
    assert "--top-k" in out


def test_interrupted_ends_with_130(capsys, monkeypatch):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_info", interrupt)
    code, _, err = run(capsys, "info", *MODEL)
    assert (code, err) == (130, "error: interrupted\n")


def test_a_reader_that_leaves_is_no_error():
    shell = f"{sys.executable} -m npmobilevit taps --model cifar10-xx-small | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, timeout=60)
    assert done.stdout == b"pixel_values  (1, 3, 64, 64)\n"
    assert done.stderr == b""


def test_an_ascii_console_and_odd_names(tmp_path):
    picture = tmp_path / "Kätzchen\n2.png"
    picture.write_bytes((ROOT / "reference" / "images" / "chelsea.png").read_bytes())
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = in_process("predict", str(picture), "missing-ä.png", *MODEL, env=environment)
    assert done.returncode == 1
    assert b"cat" in done.stdout
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1
    odd = os.fsencode(tmp_path) + b"/\xff.png"
    with open(odd, "wb") as file:
        file.write((ROOT / "reference" / "images" / "chelsea.png").read_bytes())
    for form in ([], ["--json"]):
        done = in_process("predict", odd, *MODEL, *form)
        assert done.returncode == 0, done.stderr
        assert b"cat" in done.stdout


def test_a_name_cannot_steer_the_terminal(tmp_path):
    picture = tmp_path / "a\n\x1b[31m.png"
    picture.write_bytes(Path(CHELSEA).read_bytes())
    done = in_process("predict", str(picture), "missing\x1b[31m.png", *MODEL)
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"a\\n\\x1b[31m.png" in done.stdout


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_not_end_in_a_traceback(redirection):
    command = f"{sys.executable} -m npmobilevit predict missing.png {CHELSEA} --model cifar10-xx-small {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"error" not in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a full disk at hand")
def test_a_full_disk_is_one_line():
    command = f"{sys.executable} -m npmobilevit taps --model cifar10-xx-small > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b"error: cannot write the output: No space left on device\n"


def test_too_little_memory_is_one_line(capsys, monkeypatch):
    def exhaust(options):
        raise MemoryError

    monkeypatch.setattr(cli, "run_taps", exhaust)
    assert run(capsys, "taps", *MODEL) == (1, "", "error: there is not enough memory for this\n")
