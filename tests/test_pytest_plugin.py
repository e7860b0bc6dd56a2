"""The pytest plugin, as users meet it: pytest in a folder of their own."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

ADAPTER = """
import npmobilevit as nm
from npmobilevit.scope import OpTable
from npmobilevit.validation.probes import applied

NETWORK = nm.MobileViTForImageClassification.from_pretrained("tiny-model")

class Backend:
    def run(self, x):
        return NETWORK.taps(x)

class WithOperators(Backend):
    def op(self, name, arrays, attributes):
        return applied(OpTable(), name, arrays, attributes)

class Turned(WithOperators):
    def op(self, name, arrays, attributes):
        if name == "conv2d":
            arrays["weight"] = arrays["weight"][:, :, ::-1, ::-1]
        return super().op(name, arrays, attributes)

def make():
    return WithOperators()

instance = WithOperators()
nothing = object()

def broken():
    raise RuntimeError("no\\ndevice")

def leaving():
    raise SystemExit(3)
"""


def run(folder, *options, code="", **files):
    """pytest with the plugin and no other, in a folder with these files."""
    (folder / "adapter.py").write_text(ADAPTER, encoding="utf-8")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    start = ["-c", f"import sys\n{code}\nimport pytest\nsys.exit(pytest.main(sys.argv[1:]))"]
    plugin = ["-p", "npmobilevit.pytest_plugin", "-p", "no:cacheprovider", "-W", "error", "--strict-markers"]
    done = subprocess.run(
        [sys.executable, "-P", *start, *plugin, *options],
        cwd=folder,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(PROJECT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def tiny_model(tmp_path, classifier_folder):
    shutil.copytree(classifier_folder, tmp_path / "tiny-model")


MODEL = ["--npmobilevit-model", "tiny-model"]


def backend(name):
    return ["--npmobilevit-backend", f"adapter:{name}", *MODEL]


def test_an_empty_folder_needs_no_test_file(tmp_path):
    code, text = run(tmp_path, *backend("WithOperators"), "--npmobilevit-report", "new/r.json", "-rs")
    assert code == 0, text
    assert "33 passed, 1 skipped" in text
    assert "layers: the backend has no region(name, inputs)" in text
    assert "npmobilevit: report written to new/r.json" in text
    document = json.loads((tmp_path / "new" / "r.json").read_text(encoding="ascii"))
    assert document["verdict"] == "pass"
    assert document["model"]["name"] == "tiny-model"
    assert len(document["parts"]) == 34


def test_a_mistake_fails_where_it_is_made(tmp_path):
    code, text = run(tmp_path, *backend("Turned"), "-k", "probe", "--npmobilevit-report", "r.txt")
    assert code == 1
    failed = [line.split("probe:")[1].split()[0] for line in text.splitlines() if line.startswith("FAILED")]
    assert {"conv2d-orientation", "conv2d-depthwise"} <= set(failed)
    assert all(name.startswith("conv2d-") for name in failed)
    assert "6 deselected" in text
    assert "CNV-05" in text
    assert "Traceback" not in text
    assert (tmp_path / "r.txt").read_text(encoding="ascii").startswith("FAIL: ")


def test_items_can_be_chosen_and_are_marked(tmp_path):
    files = {"test_own": "def test_own():\n    pass\n"}
    code, text = run(tmp_path, *backend("make"), "--collect-only", "-q", "-k", "orientation or own", **files)
    assert code == 0
    assert text.splitlines()[:2] == ["test_own.py::test_own", "npmobilevit::probe:conv2d-orientation"]
    code, text = run(tmp_path, *backend("instance"), "-q", "-m", "not npmobilevit", **files)
    assert code == 0
    assert "1 passed, 34 deselected" in text


WRONG_VALUES = {
    "must be MODULE:NAME, found 'adapter'": ["--npmobilevit-backend", "adapter"],
    "ModuleNotFoundError: No module named 'no_such_module'": ["--npmobilevit-backend", "no_such_module:Backend"],
    "has no attribute 'Nope'": backend("Nope"),
    "backend needs a method run(pixel_values)": backend("nothing"),
    "cannot be had: RuntimeError: no device": backend("broken"),
    "cannot be had: SystemExit: 3": backend("leaving"),
    "profile must be one of fp32": [*backend("Backend"), "--npmobilevit-profile", "fp8"],
    "'no-such-model' is no checkpoint": [*backend("Backend"), "--npmobilevit-model", "no-such-model"],
    "ends in .json, .html, .htm, .txt; found 'r.pdf'": [*backend("Backend"), "--npmobilevit-report", "r.pdf"],
    "--npmobilevit-report needs --npmobilevit-backend": ["--npmobilevit-report", "r.json"],
}
ALL_OF_THEM = f"""
import pytest
for options in {list(WRONG_VALUES.values())!r}:
    sys.stderr.write("code %d\\n" % pytest.main(sys.argv[1:] + options))
sys.exit()
"""


def test_wrong_values_are_told_in_one_sentence(tmp_path):
    _, text = run(tmp_path, code=ALL_OF_THEM)
    errors = [line for line in text.splitlines() if line and not line.startswith("code ")]
    assert text.count(f"code {int(pytest.ExitCode.USAGE_ERROR)}\n") == len(WRONG_VALUES)
    for message, line in zip(WRONG_VALUES, errors, strict=True):
        assert line.startswith("ERROR: ")
        assert message in line


def test_a_report_that_cannot_be_written_does_not_hide_the_results(tmp_path):
    (tmp_path / "file").touch()
    options = ["--npmobilevit-report", "file/r.json", "-k", "relu"]
    code, text = run(tmp_path, *backend("WithOperators"), *options)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "npmobilevit: cannot write the report to 'file/r.json'" in text
    assert "1 passed" in text


OWN_TESTS = """
import numpy as np
import pytest
import npmobilevit as nm

X = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)

@pytest.fixture(scope="session")
def dump(npmobilevit_check):  # the fixture is of the session
    return dict(nm.MobileViTForImageClassification.from_pretrained("tiny-model").taps(X))

@pytest.mark.npmobilevit
def test_right(npmobilevit_check, dump):
    report = npmobilevit_check(dump)
    assert report.verdict == "pass"
    assert report.profile == "fp32"
    assert report.model["name"] == "tiny-model"

def test_wrong(npmobilevit_check, dump):
    npmobilevit_check(dump | {"logits": dump["logits"] + 1}, pixel_values=X)

def test_other(npmobilevit_check, dump):
    network = nm.MobileViTForImageClassification.from_pretrained("tiny-model")
    few = {"pixel_values": X, "logits": dump["logits"]}
    assert npmobilevit_check(few, network, profile="bf16").profile == "bf16"
"""


def test_the_fixture_checks_what_a_test_has_at_hand(tmp_path):
    code, text = run(tmp_path, *MODEL, test_own=OWN_TESTS)
    assert code == 1, text
    assert "1 failed, 2 passed" in text
    lines = text.splitlines()
    first = lines[next(i for i, line in enumerate(lines) if "test_wrong" in line and line.startswith("_")) + 1]
    assert first.startswith("logits: is not what its own input gives")
    assert "FAIL: 1 of" in text
    assert "Traceback" not in text


def test_the_options_are_in_the_help(tmp_path):
    code, text = run(tmp_path, "--help")
    assert code == 0
    assert "checking ports of MobileViT:" in text
    for option in ("backend=MODULE:NAME", "model=MODEL", "profile=PROFILE", "report=PATH"):
        assert f"--npmobilevit-{option}" in text
    code, text = run(tmp_path, "--markers")
    assert "@pytest.mark.npmobilevit: a check by npmobilevit" in text


BARE_PACKAGE = f"""
import types
package = types.ModuleType("npmobilevit")  # without what the package itself imports
package.__path__ = [{str(PROJECT / "npmobilevit")!r}]
sys.modules["npmobilevit"] = package
"""


def test_the_plugin_imports_nothing_while_it_is_not_used(tmp_path):
    tests = """
import sys

def test_it():
    assert "npmobilevit.pytest_plugin" in sys.modules
    assert not {"numpy", "PIL", "npmobilevit.errors", "npmobilevit.validation"} & set(sys.modules)
"""
    code, text = run(tmp_path, "-q", code=BARE_PACKAGE, test_cost=tests)
    assert code == 0, text


def test_pytest_finds_the_plugin_by_its_entry_point():
    with (PROJECT / "pyproject.toml").open("rb") as file:
        entries = tomllib.load(file)["project"]["entry-points"]["pytest11"]
    assert entries == {"npmobilevit": "npmobilevit.pytest_plugin"}


def test_an_installed_plugin_is_loaded_once_and_breaks_nothing(tmp_path):
    """As pytest loads it from the metadata of an installed package, with warnings as errors."""
    metadata = tmp_path / "site" / "made_up-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(
        "[pytest11]\nnpmobilevit = npmobilevit.pytest_plugin\n", encoding="utf-8"
    )
    (tmp_path / "test_own.py").write_text(
        "def test_own(npmobilevit_check):\n    assert callable(npmobilevit_check)\n", encoding="utf-8"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "site"), str(PROJECT)])
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
