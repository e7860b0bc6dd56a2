import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakehub import commit_of

from npmobilevit.checkpoints import (
    Checkpoint,
    catalogue,
    find_checkpoint,
    load_config_dict,
    load_config_settings,
    load_processor_dict,
    load_processor_settings,
    load_weights,
    write_safetensors,
)
from npmobilevit.errors import CheckpointError

APPLE = "apple/mobilevit-xx-small"
WEIGHTS = {"classifier.bias": np.array([1, 2], np.float32)}


def make_folder(folder, mark="here", processor=True):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"mark": mark}))
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps({"processor of": mark}))
    write_safetensors(folder / "model.safetensors", WEIGHTS)
    return folder


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_SHIPPED", tmp_path / "shipped")
    return make_folder(tmp_path / "shipped" / "ours", "shipped")


@pytest.fixture
def apple(hub, tmp_path):
    pull_request = files_of(make_folder(tmp_path / "apple", "refs/pr/2"))
    main = {name: data.replace(b"refs/pr/2", b"main") for name, data in pull_request.items()}
    del main["model.safetensors"]
    hub.repos[APPLE] = {"main": {**main, "pytorch_model.bin": b""}, "refs/pr/2": pull_request}
    return hub


def test_a_folder(tmp_path):
    folder = make_folder(tmp_path / "model")
    checkpoint = find_checkpoint(folder)
    assert checkpoint == Checkpoint(
        name=str(folder),
        source="folder",
        config_path=folder / "config.json",
        weights_path=folder / "model.safetensors",
        processor_path=folder / "preprocessor_config.json",
        revision=None,
    )
    assert load_config_dict(checkpoint) == {"mark": "here"}
    assert load_processor_dict(checkpoint) == {"processor of": "here"}
    np.testing.assert_equal(load_weights(checkpoint), WEIGHTS)
    assert load_config_settings(str(folder)) == {"mark": "here"}
    assert load_processor_settings(folder) == {"processor of": "here"}


def test_a_folder_without_processor_settings(tmp_path):
    folder = make_folder(tmp_path / "model", processor=False)
    assert load_processor_dict(find_checkpoint(folder)) is None
    with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json") as caught:
        load_processor_settings(folder)
    assert caught.value.code == "checkpoint-file-missing"


def test_every_way_to_name_a_folder(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "home" / "model")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(folder)
    for name in (".", "../model", "~/model", str(folder), folder, Path("../model")):
        assert load_config_dict(find_checkpoint(name)) == {"mark": "here"}
    monkeypatch.chdir(tmp_path / "home")
    assert load_config_dict(find_checkpoint("model")) == {"mark": "here"}


def test_the_order_of_names(shipped, hub, tmp_path, monkeypatch):
    """Shipped, alias, local folder, Hub: each first one hides the later ones."""
    monkeypatch.chdir(tmp_path)
    for name in ("ours", "small", "apple/mobilevit-small"):
        make_folder(tmp_path / name, f"folder {name}")
    assert find_checkpoint("ours").source == "shipped"
    assert find_checkpoint(Path("ours")).source == "folder"
    assert find_checkpoint("./ours").source == "folder"
    assert find_checkpoint("apple/mobilevit-small").source == "folder"
    assert hub.log == []
    with pytest.raises(CheckpointError) as caught:  # the alias leads to the Hub, past both folders
        find_checkpoint("small")
    assert caught.value.code == "hub-repository-not-found"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("./gone", "checkpoint-not-found"),
        ("../gone", "checkpoint-not-found"),
        ("/gone/model", "checkpoint-not-found"),
        ("~/gone-model", "checkpoint-not-found"),
        ("~no-such-user/model", "checkpoint-not-found"),
        (Path("gone"), "checkpoint-not-found"),
        ("..\\x", "checkpoint-not-found"),
        ("./a\0b", "checkpoint-not-found"),
        ("", "checkpoint-name-invalid"),
        ("gone", "checkpoint-name-invalid"),
        ("a/b/c", "checkpoint-name-invalid"),
        ("a\0b/c", "checkpoint-name-invalid"),
        ("x" * 100_000, "checkpoint-name-invalid"),
        (None, "checkpoint-name-invalid"),
        (7, "checkpoint-name-invalid"),
        (b"a/b", "checkpoint-name-invalid"),
    ],
)
def test_names_that_lead_nowhere(hub, name, code):
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(name)
    assert caught.value.code == code
    assert len(str(caught.value)) < 600
    assert hub.log == []


def test_apples_weights_come_from_the_pull_request_with_all_that_belongs_to_them(apple):
    checkpoint = find_checkpoint("xx-small")
    assert (checkpoint.name, checkpoint.source) == (APPLE, "hub")
    assert checkpoint.revision == commit_of(apple.repos[APPLE]["refs/pr/2"])
    assert load_config_dict(checkpoint) == {"mark": "refs/pr/2"}
    assert load_processor_dict(checkpoint) == {"processor of": "refs/pr/2"}
    np.testing.assert_equal(load_weights(checkpoint), WEIGHTS)
    apple.log.clear()
    assert find_checkpoint(APPLE) == checkpoint
    assert load_config_settings("xx-small") == {"mark": "refs/pr/2"}
    assert load_processor_settings(APPLE, local_files_only=True) == {"processor of": "refs/pr/2"}
    assert apple.log == []


def test_apples_main_is_used_once_it_has_weights(apple):
    apple.repos[APPLE]["main"]["model.safetensors"] = apple.repos[APPLE]["refs/pr/2"]["model.safetensors"]
    assert load_config_dict(find_checkpoint(APPLE)) == {"mark": "main"}


def test_an_asked_for_revision_is_the_only_one_looked_in(apple):
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(APPLE, revision="main")
    assert caught.value.code == "hub-file-not-found"
    assert not any("refs/pr/2" in path for _, path in apple.log)


def test_a_hub_checkpoint_without_processor_settings(hub, tmp_path):
    hub.repos["someone/model"] = {"main": files_of(make_folder(tmp_path / "model", processor=False))}
    assert load_processor_dict(find_checkpoint("someone/model")) is None


def test_a_shipped_checkpoint_needs_no_hub(shipped):
    """Nor even the package: it may not be installed."""
    code = f"""
import sys
sys.modules["huggingface_hub"] = None
from pathlib import Path
from npmobilevit.checkpoints import catalogue, find_checkpoint, load_weights
catalogue._SHIPPED = Path({str(shipped.parent)!r})
print(find_checkpoint("ours").source, *load_weights(find_checkpoint("ours")))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["shipped", "classifier.bias"]


def test_importing_loads_neither_safetensors_nor_the_hub():
    code = "import sys, npmobilevit.checkpoints; print({'safetensors', 'huggingface_hub'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
