"""models, download, convert and info: the checkpoints themselves."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from commandline import run, run_json

import npmobilevit as nm
from npmobilevit import checkpoints
from npmobilevit.checkpoints.catalogue import CATALOGUE

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_models_lists_names_aliases_and_where_they_are(capsys):
    code, out, err = run(capsys, "models")
    head, *rows, last = out.splitlines()
    assert (code, err) == (0, "")
    assert head.split() == ["name", "aliases", "task", "input", "labels", "accuracy", "MB", "where"]
    assert [row.split()[0] for row in rows] == [entry.name for entry in CATALOGUE]
    assert {row.split()[-1] for row in rows} == {"shipped", "Hub"}
    assert max(map(len, out.splitlines())) < 160
    assert "works too" in last


def test_models_json_has_sources_and_licences(capsys):
    code, document = run_json(capsys, "models")
    assert (code, document["schema"]) == (0, "npmobilevit.models/1")
    assert [model["name"] for model in document["models"]] == [entry.name for entry in CATALOGUE]
    for model in document["models"]:
        assert model["source"]
        assert model["licence"]
        assert model["cached"] is False


def test_download_says_where_the_files_are(capsys, classifier_folder):
    code, out, err = run(capsys, "download", "cifar10-xx-small")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "cifar10-xx-small (comes with the package)"
    assert all(Path(line.strip()).is_file() for line in out.splitlines()[1:])
    assert run(capsys, "download", str(classifier_folder))[1].splitlines()[0].endswith("(a local checkpoint)")
    code, document = run_json(capsys, "download", "cifar10-xx-small")
    assert document["source"] == "shipped"
    assert len(document["files"]) == 3


def test_download_fills_the_cache_so_that_models_finds_it(capsys, hub, classifier_folder):
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    hub.repos["apple/mobilevit-xx-small"] = {"main": {name: (classifier_folder / name).read_bytes() for name in names}}
    code, out, err = run(capsys, "download", "xx-small")
    assert code == 0, err
    head, *files = out.splitlines()
    assert re.fullmatch(r"apple/mobilevit-xx-small \(commit [0-9a-f]{40}, hashes verified\)", head)
    assert sorted(Path(file.strip()).name for file in files) == sorted(names)
    where = {line.split()[0]: line.split()[-1] for line in run(capsys, "models")[1].splitlines()}
    assert where["apple/mobilevit-xx-small"] == "cached"
    assert where["apple/mobilevit-small"] == "Hub"
    hub.log.clear()
    assert run(capsys, "download", "xx-small")[0] == 0
    assert hub.log == []  # all is there
    assert run(capsys, "download", "apple/mobilevit-small")[0] == 3


@pytest.mark.parametrize("name", ["nope", "apple/mobilevit-small", "./missing"])
def test_what_is_not_to_be_had_ends_with_three(capsys, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["download", name], ["convert", name, "out"]):
        code, out, err = run(capsys, *command)
        assert (code, out) == (3, "")
        assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_convert_writes_a_folder_that_gives_the_same_answers(capsys, tmp_path, dtype):
    target = tmp_path / "out"
    code, out, err = run(capsys, "convert", "cifar10-xx-small", str(target), "--dtype", dtype)
    assert (code, err) == (0, "")
    assert out == f"cifar10-xx-small (transformers, MobileViTForImageClassification) -> {target}\n"
    found = checkpoints.read_checkpoint(target)
    assert found.dtypes == (dtype,)
    picture = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    ours, shipped = nm.predict(picture, target, top_k=10), nm.predict(picture, "cifar10-xx-small", top_k=10)
    scores = {p.label: p.score for p in shipped}
    assert all(abs(p.score - scores[p.label]) < (0.05 if dtype == "bfloat16" else 1e-6) for p in ours)


def test_convert_replaces_nothing_unasked_and_never_its_source(capsys, tmp_path, classifier_folder, monkeypatch):
    target = tmp_path / "out"
    arguments = ["convert", str(classifier_folder), str(target)]
    assert run(capsys, *arguments)[0] == 0
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "--force" in err
    assert run(capsys, *arguments, "--force")[0] == 0
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(capsys, "convert", str(classifier_folder), "~/out")[0] == 2  # quoted, or where no shell expands it
    before = (classifier_folder / "model.safetensors").read_bytes()
    assert run(capsys, "convert", str(classifier_folder), str(classifier_folder), "--force")[0] == 2
    assert (classifier_folder / "model.safetensors").read_bytes() == before
    (tmp_path / "file").touch()
    assert run(capsys, "convert", str(classifier_folder), str(tmp_path / "file" / "below"))[0] == 1


def test_convert_json(capsys, tmp_path, segmenter_folder):
    code, document = run_json(capsys, "convert", str(segmenter_folder), str(tmp_path / "out"))
    assert code == 0
    assert document["schema"] == "npmobilevit.convert/1"
    assert document["family"] == "transformers"
    assert document["architecture"] == "MobileViTForSemanticSegmentation"


def test_info_names_family_dtype_and_hash(capsys, classifier_folder):
    code, document = run_json(capsys, "info", "--model", str(classifier_folder))
    weights = (classifier_folder / "model.safetensors").read_bytes()
    assert code == 0
    assert document["sha256"] == hashlib.sha256(weights).hexdigest()
    assert (document["family"], document["dtype"]) == ("transformers", "float32")
    assert "family             transformers" in run(capsys, "info", "--model", str(classifier_folder))[1].splitlines()


@pytest.mark.parametrize("arguments", [["convert", "a"], ["convert", "a", "b", "--dtype", "int8"], ["download"]])
def test_usage_errors_end_with_two(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
