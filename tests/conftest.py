"""Fixtures that several files share, and a Hub that no test reaches by mistake."""

import os
import tempfile
from pathlib import Path

# huggingface_hub reads both when it is imported: no test asks the real Hub or sees its user's cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="npmobilevit-tests-")

import networks
import pytest

from npmobilevit import MobileViTForImageClassification, MobileViTForSemanticSegmentation, pipeline
from npmobilevit.image_processing import MobileViTImageProcessor


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
    monkeypatch.delenv(pipeline.MODEL_VARIABLE, raising=False)
    pipeline._loaded_once.cache_clear()
