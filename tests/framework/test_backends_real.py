"""Real backends, each run in a process of its own by its script in tools/backends, and what the check says of them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npmobilevit import load
from npmobilevit.checkpoints import find_checkpoint
from npmobilevit.validation import check

pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]

ROOT = Path(__file__).parents[2]
CLASSIFIER, SEGMENTER = "cifar10-xx-small", "camvid-deeplabv3-xx-small"
SIZE = {"height": 45, "width": 59}  # no whole number of patches on any level


def run(script, *arguments):
    subprocess.run([sys.executable, ROOT / "tools" / "backends" / script, *map(str, arguments)], check=True)


def folder_of(name):
    return find_checkpoint(name).weights_path.parent


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A file of pixel values, of a photograph."""
    processor = load(CLASSIFIER).processor
    picture = ROOT / "reference" / "images" / "chelsea.png"
    values = processor.preprocess(picture, size={"shortest_edge": 59}, crop_size=SIZE)["pixel_values"]
    path = tmp_path_factory.mktemp("pixels") / "chelsea.npy"
    np.save(path, values)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory, pixels):
    """The classifier in ONNX, by the variant of the export."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx")
    for variant in ("taps", "fused"):
        run("export_onnx.py", "--checkpoint", folder_of(CLASSIFIER), "--shape", *np.load(pixels).shape,
            "--out", folder / variant, "--variant", variant)  # fmt: skip
    return {variant: folder / variant for variant in ("taps", "fused")}


def dumped_by(script, pixels, out, checkpoint, variant, *more):
    run(script, "--checkpoint", checkpoint, "--pixels", pixels, "--out", out, "--variant", variant, *more)
    return out / f"{pixels.stem}.safetensors"


@pytest.mark.parametrize("name", [CLASSIFIER, SEGMENTER])
def test_pytorch_passes(pixels, tmp_path, name):
    dump = dumped_by("run_torch.py", pixels, tmp_path, folder_of(name), "float32")
    report = check(dump, name)
    assert (report.verdict, report.unchecked) == ("pass", ())


@pytest.mark.parametrize(
    ("variant", "graph", "profile", "verdict", "taps"),
    [
        ("float32", "taps", "fp32", "pass", 284),
        ("fused", "fused", "fp32", "screened", 1),  # a certified tolerance from input to output says little
        ("int8", "taps", "int8-dynamic", "pass", 284),
    ],
)
def test_onnxruntime_is_not_blamed(pixels, exported, tmp_path, variant, graph, profile, verdict, taps):
    dump = dumped_by("run_onnxruntime.py", pixels, tmp_path, folder_of(CLASSIFIER), variant, "--model", exported[graph])
    report = check(dump, CLASSIFIER, profile=profile)
    assert (report.verdict, len(report.judgements), report.failures) == (verdict, taps, ())


def test_a_convolution_that_is_off_by_a_hundredth_fails_there(pixels, tmp_path):
    wrong = "mobilevit.encoder.layer.3.conv_kxk.convolution"
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(folder_of(CLASSIFIER), checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    weights[f"{wrong}.weight"] = (weights[f"{wrong}.weight"] * 1.01).astype(np.float16)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    report = check(dumped_by("run_torch.py", pixels, tmp_path, checkpoint, "float32"), CLASSIFIER)
    assert report.verdict == "fail"
    assert [judgement.tap for judgement in report.judgements if judgement.status == "wrong"] == [wrong]


def test_the_minimal_case_of_onnxruntime_says_what_this_processor_does():
    pytest.importorskip("onnxruntime")
    script = ROOT / "tools" / "backends" / "minimal_onnxruntime_int8.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    found = int(re.search(r"gives (\d+), right is 64770", done.stdout)[1])
    assert (done.returncode, found) in ((1, 32767), (0, 64770))
