import pytest

from npmobilevit.checkpoints.folder import folder_files
from npmobilevit.errors import CheckpointError

REQUIRED = ("model.safetensors", "config.json")


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        folder_files(folder, REQUIRED)
    assert str(folder) in str(caught.value)
    return caught.value


def test_an_optional_file_may_be_absent(tmp_path):
    for name in REQUIRED:
        (tmp_path / name).touch()
    paths = {name: tmp_path / name for name in REQUIRED}
    assert folder_files(tmp_path, REQUIRED, ("extra",)) == paths
    (tmp_path / "extra").touch()
    assert folder_files(tmp_path, REQUIRED, ("extra",)) == {**paths, "extra": tmp_path / "extra"}


def test_a_missing_folder_says_what_was_looked_for(tmp_path):
    error = refusal(tmp_path / "gone")
    assert error.code == "checkpoint-not-found"
    assert all(name in str(error) for name in REQUIRED)


def test_a_file_in_place_of_its_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert refusal(tmp_path / "model.safetensors").code == "checkpoint-not-a-folder"


def test_all_missing_files_are_named_at_once(tmp_path):
    error = refusal(tmp_path)
    assert error.code == "checkpoint-file-missing"
    assert all(name in str(error) for name in REQUIRED)
    assert "transformers" not in str(error)


@pytest.mark.parametrize("other", ["pytorch_model.bin", "tf_model.h5"])
def test_weights_of_another_format_come_with_the_way_to_convert_them(tmp_path, other):
    (tmp_path / "config.json").touch()
    (tmp_path / other).touch()
    error = refusal(tmp_path)
    assert error.code == "checkpoint-file-missing"
    assert other in str(error)
    assert "save_pretrained" in str(error)
    assert "config.json" not in str(error)
