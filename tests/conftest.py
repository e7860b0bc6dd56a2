"""Fixtures that several files share, and a Hub that no test reaches by mistake."""

import os
import signal
import tempfile
from pathlib import Path

# huggingface_hub reads both when it is imported: no test asks the real Hub or sees its user's cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="npmobilevit-tests-")

# A shell lets what it starts in the background ignore Ctrl-C, and that is inherited. Tests send it, to programs also.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import networks
import pytest
from fakehub import FakeHub

from npmobilevit import MobileViTForImageClassification, MobileViTForSemanticSegmentation
from npmobilevit.engine import blas
from npmobilevit.image_processing import MobileViTImageProcessor


@pytest.fixture(scope="module", autouse=True)
def products_of_one_thread():
    """Most matrices here are so small that several threads spend more time on meeting than they save. The engine
    still sees how many there are, and makes as many workers. The tests of tests/engine are without this."""
    with blas.single_thread():
        yield


@pytest.fixture(scope="session")
def processor() -> MobileViTImageProcessor:
    return MobileViTImageProcessor(size=36, crop_size=32, resample=2)


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory, processor) -> Path:
    """A checkpoint with five labels and random weights."""
    folder = tmp_path_factory.mktemp("classifier")
    config = networks.tiny(num_labels=None, id2label=dict(enumerate("abcde")))
    MobileViTForImageClassification(config, networks.random_weights(config, "classification")).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def segmenter_folder(tmp_path_factory, processor) -> Path:
    folder = tmp_path_factory.mktemp("segmenter")
    config = networks.tiny(output_stride=16)
    MobileViTForSemanticSegmentation(config, networks.random_weights(config, "segmentation")).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def clean_environment(monkeypatch):
    """The default model is nobody's setting, and nothing is loaded yet."""
    from npmobilevit import pipeline

    monkeypatch.delenv(pipeline.MODEL_VARIABLE, raising=False)
    pipeline._LOADED.clear()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A loopback Hub that huggingface_hub talks to in this process, with an empty cache."""
    from huggingface_hub import constants, file_download

    with FakeHub({}) as server:
        # All of these are read from the environment when huggingface_hub is imported.
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
            if hasattr(file_download, name):  # early versions copy some of them
                monkeypatch.setattr(file_download, name, value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server
