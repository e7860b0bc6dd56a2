"""tools/make_reference.py makes what lies in reference/, the same every time, without npmobilevit."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.framework

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "make_reference.py"
REFERENCE = ROOT / "reference"

FILES = [
    "golden/models/classification-odd-batch.safetensors",
    "golden/models/base-model.safetensors",
    "golden/models/segmentation-os8-batch.safetensors",
    "golden/operators/activation.safetensors",
    "golden/operators/resize.safetensors",
    "golden/processor.safetensors",
    "golden/sine_recipe.json",
    "names/xx-small-segmentation.json",
]


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("make_reference", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_reference"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    threads = module.torch.get_num_threads()
    module.torch.set_num_threads(1)  # as its main does
    yield module
    module.torch.set_num_threads(threads)
    del sys.modules["make_reference"]


@pytest.fixture
def committed(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of reference/ that the tool takes for the real one, so that no test can harm that."""
    copy = tmp_path / "reference"
    shutil.copytree(REFERENCE, copy)
    monkeypatch.setattr(tool, "REFERENCE", copy)
    return copy


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_nothing_of_ours_is_the_witness() -> None:
    modules = set()
    for node in ast.walk(ast.parse(TOOL.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or ".").partition(".")[0])
    assert "npmobilevit" not in modules
    assert "." not in modules


def test_the_files_are_those_that_the_tool_makes(tool: ModuleType) -> None:
    made = set(tool.jobs(tool.SHIPPED))
    there = {str(p.relative_to(REFERENCE)) for folder in ("golden", "names") for p in (REFERENCE / folder).rglob("*.*")}
    assert there == made


@pytest.mark.parametrize("name", FILES)
def test_a_file_made_anew_agrees_with_the_committed_one(tool: ModuleType, name: str, tmp_path: Path) -> None:
    path = tmp_path / Path(name).name
    tool.jobs(tool.SHIPPED)[name](path)
    difference, where = tool.compare(path, REFERENCE / name)
    assert difference <= 1e-12, where


def test_two_runs_give_the_same_bytes(tool: ModuleType, tmp_path: Path) -> None:
    for name in (FILES[1], FILES[3], FILES[6]):
        make = tool.jobs(tool.SHIPPED)[name]
        paths = [tmp_path / run / Path(name).name for run in ("first", "second")]
        for path in paths:
            make(path)
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_check_reports_and_writes_nothing(
    tool: ModuleType, committed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(committed)
    assert tool.main(["--check", "--only", "operators/pool"]) == 0
    assert "golden/operators/pool.safetensors" in capsys.readouterr().out
    assert hashes(committed) == before


@pytest.mark.parametrize("damage", ["value", "name", "metadata", "missing"])
def test_check_fails_on_a_changed_file(tool: ModuleType, committed: Path, damage: str) -> None:
    path = committed / "golden" / "operators" / "pool.safetensors"
    tensors, metadata = tool.read_golden(path)
    metadata = {key: value for key, value in metadata.items() if key not in ("aliases", "sha256")}
    if damage == "value":
        tensors["7x5.output"][0, 0] += 1e-11
    elif damage == "name":
        tensors["7x5.result"] = tensors.pop("7x5.output")
    elif damage == "metadata":
        metadata["precision"] = "float16"
    path.unlink()
    if damage != "missing":
        tool.write_golden(path, tensors, metadata)
    assert tool.main(["--check", "--only", "operators/pool"]) == 1


def test_writing_keeps_arrays_that_are_not_contiguous(tool: ModuleType, tmp_path: Path) -> None:
    """safetensors 0.8.0 writes wrong values for them; equal arrays lie in the file once."""
    x = np.arange(12.0).reshape(3, 4)
    tensors = {"plain": x, "turned": x.T, "stepped": x[:, ::2], "backwards": x[::-1], "again": x.copy()}
    tool.write_golden(tmp_path / "x.safetensors", tensors | {"wide": np.broadcast_to(x[0], (5, 4))}, {"case": "x"})
    found, metadata = tool.read_golden(tmp_path / "x.safetensors")
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value, strict=True)
    assert json.loads(metadata["aliases"]) == {"again": "plain"}
    assert not list(tmp_path.glob("*.partial"))


def test_useless_networks_are_refused(tool: ModuleType) -> None:
    """As transformers initialises them, a network of any port would agree."""
    model = tool.build("classification", tool.TINY)
    taps, _ = tool.record(model, tool.tensor(tool.images_in_0_1("test", 1, 3, 32, 32)))
    with pytest.raises(AssertionError, match="of little use"):
        tool.check_scale("fresh", {name: value.numpy() for name, value in taps.items()})
