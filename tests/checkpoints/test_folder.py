from pathlib import Path

import pytest

from npmobilevit.checkpoints.folder import LocalFiles, local_files, settings_file
from npmobilevit.errors import CheckpointError


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        local_files(path)
    assert str(path) in str(caught.value)
    return caught.value


def make(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


def test_the_settings_may_be_absent(tmp_path):
    weights = make(tmp_path, "model.safetensors") / "model.safetensors"
    assert local_files(tmp_path) == LocalFiles(weights, None, None)
    config = make(tmp_path, "config.json") / "config.json"
    assert local_files(tmp_path) == LocalFiles(weights, config, None)
    processor = make(tmp_path, "preprocessor_config.json") / "preprocessor_config.json"
    assert local_files(tmp_path) == LocalFiles(weights, config, processor)


def test_safetensors_come_before_torch_and_names_of_hugging_face_before_others(tmp_path):
    for name in ("mobilevit_s.pt", "pytorch_model.bin", "model.safetensors"):
        make(tmp_path, name)
        assert local_files(tmp_path).weights == tmp_path / name


def test_several_files_of_torch_are_not_chosen_from(tmp_path):
    error = refusal(make(tmp_path, "b.pt", "a.pt"))
    assert error.code == "checkpoint-ambiguous"
    assert "'a.pt', 'b.pt'; name the one you mean" in str(error)


@pytest.mark.parametrize("name", ["mobilevit_s.pt", "pytorch_model.bin", "other.safetensors"])
def test_a_file_of_weights_brings_the_settings_next_to_it(tmp_path, name):
    make(tmp_path, name, "config.json", "preprocessor_config.json", "model.safetensors")
    expected = LocalFiles(tmp_path / name, tmp_path / "config.json", tmp_path / "preprocessor_config.json")
    assert local_files(tmp_path / name) == expected


def test_a_missing_path_is_told_from_a_folder_without_weights(tmp_path):
    assert refusal(tmp_path / "gone").code == "checkpoint-not-found"
    assert refusal(tmp_path / "gone.pt").code == "checkpoint-not-found"
    error = refusal(make(tmp_path, "config.json"))
    assert error.code == "checkpoint-file-missing"
    assert all(name in str(error) for name in ("model.safetensors", "pytorch_model.bin", ".pt"))
    assert str(error).endswith(".pt file")


@pytest.mark.parametrize("name", ["config.json", "weights.h5", "weights", "weights.pt.txt"])
def test_a_file_that_holds_no_weights_by_its_name(tmp_path, name):
    assert refusal(make(tmp_path, name) / name).code == "checkpoint-not-a-folder"


@pytest.mark.parametrize(
    ("other", "advice"),
    [
        ("tf_model.h5", "convert_tf.py"),
        ("model.safetensors.index.json", "in one"),
        ("pytorch_model.bin.index.json", "in one"),
    ],
)
def test_weights_that_are_not_read_come_with_advice(tmp_path, other, advice):
    error = refusal(make(tmp_path, other))
    assert error.code == "checkpoint-file-missing"
    assert f"{other} is there" in str(error)
    assert advice in str(error)


def test_settings_of_a_path_that_is_no_checkpoint(tmp_path):
    make(tmp_path, "config.json", "notes.txt")
    assert settings_file(tmp_path, "config.json") == tmp_path / "config.json"
    for path in (tmp_path / "gone", tmp_path / "gone.pt", tmp_path / "notes.txt"):
        assert settings_file(path, "config.json") is None


@pytest.mark.parametrize("name", ["./" + "a" * 300, "a\0b.pt", "./a\0b"])
def test_names_that_no_file_can_have_are_errors_of_ours(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        local_files(Path(name))
    assert caught.value.code in ("checkpoint-not-found", "checkpoint-unreadable")


def test_a_folder_that_may_not_be_searched_is_an_error_of_ours(tmp_path, monkeypatch):
    def refuse(self, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(CheckpointError, match="Permission denied") as caught:
        local_files(tmp_path)
    assert caught.value.code == "checkpoint-unreadable"
