"""The command check: verdict, reports, exit codes."""

import json
import shutil

import numpy as np
import pytest
from commandline import CHELSEA, SHIPPED, process, run, run_json

import npmobilevit as nm
from npmobilevit.cli import parser
from npmobilevit.validation.profiles import PROFILES

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture(scope="module")
def taps():
    pipeline = nm.load("cifar10-xx-small")
    return pipeline.network.taps(pipeline.pixel_values(CHELSEA))


@pytest.fixture
def right(taps, tmp_path):
    np.savez(tmp_path / "right.npz", **taps)
    return tmp_path / "right.npz"


@pytest.fixture
def wrong(taps, tmp_path):
    name = "mobilevit.conv_stem.convolution"
    np.savez(tmp_path / "wrong.npz", **{**taps, name: taps[name] * 1.5})
    return tmp_path / "wrong.npz"


def test_a_right_port_ends_with_0(capsys, right):
    code, out, err = run(capsys, "check", right, "--image", CHELSEA, *SHIPPED)
    assert (code, err) == (0, "")
    assert out.startswith("PASS")


def test_a_wrong_port_ends_with_4_and_says_where(capsys, wrong):
    code, out, _ = run(capsys, "check", wrong, *SHIPPED)
    assert code == 4
    assert out.startswith("FAIL")
    assert "mobilevit.conv_stem.convolution" in out


def test_every_layer_is_printed_on_demand(capsys, right):
    _, short, _ = run(capsys, "check", right, *SHIPPED)
    _, long, _ = run(capsys, "check", right, "--every-layer", *SHIPPED)
    assert len(long.splitlines()) > len(short.splitlines()) + 200


def test_json_is_the_report(capsys, wrong):
    code, document = run_json(capsys, "check", wrong, *SHIPPED)
    assert code == 4
    assert document["schema"] == "npmobilevit.check/2"
    assert document["verdict"] == "fail"
    assert document["findings"][0]["tap"] == "mobilevit.conv_stem.convolution"


def test_reports_are_written_beside(capsys, wrong, tmp_path):
    page, data = tmp_path / "new" / "report.html", tmp_path / "report.json"
    code, _, err = run(capsys, "check", wrong, "-o", page, "-o", data, *SHIPPED)
    assert code == 4
    assert err.count("report: ") == 2
    assert page.read_text().lstrip().startswith("<!DOCTYPE html>")
    assert json.loads(data.read_text())["verdict"] == "fail"
    code, _, err = run(capsys, "check", wrong, "-o", data, *SHIPPED)
    assert code == 2
    assert "--force" in err
    assert run(capsys, "check", wrong, "-o", data, "--force", *SHIPPED)[0] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["--profile", "fp23"], 2, "profile"),
        (["-o", "report.pdf"], 2, "report-suffix"),
        (["--target-size", "3"], 2, "usage"),
        (["--image", "missing.png"], 1, "file-missing"),
        (["--inputs", "missing.npz"], 1, None),
    ],
)
def test_mistakes_end_in_one_line_and_an_honest_code(capsys, right, arguments, code, name):
    found, document = run_json(capsys, "check", right, *arguments, *SHIPPED)
    assert found == code
    assert name is None or document["error"]["code"] == name


@pytest.mark.case("159", "check: a candidate that is missing, damaged or no folder of tensors", "one line, exit code 1")
def test_what_is_no_candidate_is_an_input_that_failed(capsys, tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("missing.npz", "broken.npz", "."):
        code, out, err = run(capsys, "check", tmp_path / name, *SHIPPED)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1


@pytest.mark.case("160", "check: a report over the picture or the candidate", "refused before any work, exit code 2")
def test_an_output_is_never_an_input(capsys, taps, tmp_path):
    (tmp_path / "dump").mkdir()
    for name in ("pixel_values", "logits"):
        np.save(tmp_path / "dump" / f"{name}.npy", taps[name])
    picture = tmp_path / "picture.txt"
    shutil.copy(CHELSEA, picture)
    code, _, err = run(capsys, "check", tmp_path / "dump", "--image", picture, "-o", picture, "--force", *SHIPPED)
    assert code == 2
    assert err.startswith("error: ")


def test_a_model_that_is_not_to_be_had_ends_with_3(capsys, right):
    assert run(capsys, "check", right, "--model", "no-such-model")[0] == 3


def test_the_help_names_every_profile(capsys):
    assert run(capsys, "check", "--help")[0] == 0
    _, out, _ = run(capsys, "check", "--help")
    assert all(name in " ".join(out.split()) for name in PROFILES)
    assert "check" in parser.COMMANDS


def test_in_a_process_of_its_own(wrong):
    done = process("check", str(wrong), *SHIPPED)
    assert done.returncode == 4
    assert done.stderr == b""
