"""What tests of several commands begin with: a small classifier, and pictures in the working directory."""

import pytest
from commandline import write_picture


@pytest.fixture
def model(classifier_folder):
    return ["--model", str(classifier_folder)]


@pytest.fixture
def picture(tmp_path, monkeypatch):
    """A picture, a.png, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_picture(tmp_path / "a.png").name


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Three pictures, a.png to c.png, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return [write_picture(tmp_path / name, seed=i).name for i, name in enumerate(["a.png", "b.png", "c.png"])]
