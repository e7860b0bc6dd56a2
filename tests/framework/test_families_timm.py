"""Checkpoints of timm against timm itself: its weights, renamed by `families`, give its logits.

timm imports torchvision, and its MobileViT uses nothing of it: where torchvision is not installed (its wheels on PyPI
do not load next to a torch for the CPU alone) something empty stands in for it while timm is imported.
"""

import importlib.util
import json
import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest
from networks import VARIANTS, pixels, relative_error

from npmobilevit import MobileViTConfig, MobileViTForImageClassification
from npmobilevit.checkpoints.families import (
    family,
    infer_config,
    is_timm_config,
    processor_settings,
    timm_labels,
    timm_processor_settings,
    to_transformers,
)
from npmobilevit.checkpoints.labels import imagenet_labels
from npmobilevit.errors import WeightsError

torch = pytest.importorskip("torch")
if importlib.util.find_spec("timm") is None:
    pytest.skip("timm is not installed: pip install --no-deps timm==1.0.31", allow_module_level=True)

from scaled_weights import scale_weights  # noqa: E402  # needs torch

TORCHVISION = (
    "torchvision",
    *("torchvision.datasets", "torchvision.ops", "torchvision.ops.misc", "torchvision.utils", "torchvision.models"),
    *("torchvision.models.feature_extraction", "torchvision.transforms", "torchvision.transforms.functional"),
)


class Anything(type):
    """Classes that have every attribute: an empty class of the same kind."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(cls, name, Anything(name, (), {}))
        return cls.__dict__[name]


class StandIn(types.ModuleType):
    """A module in which every name is such a class."""

    __path__ = ()
    __getattr__ = Anything.__getattr__


@contextmanager
def torchvision_or_a_stand_in():
    missing = () if importlib.util.find_spec("torchvision") else TORCHVISION
    for name in missing:
        sys.modules[name] = StandIn(name)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, sys.modules[name])
    try:
        yield
    finally:
        for name in missing:  # transformers would take it for the real one
            del sys.modules[name]


with torchvision_or_a_stand_in():
    import timm
    from timm.models import save_for_hf

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]

LIMIT = {"float32": 2e-6, "float64": 1e-12}  # largest difference over the largest logit


def timm_model(variant, dtype=torch.float64, seed=0, **options):
    """A model of timm with well-scaled weights: fresh ones give logits near zero."""
    model = timm.create_model(f"mobilevit_{variant}", **options).eval()
    scale_weights(model, seed)
    return model.to(dtype)


def arrays(model):
    return {name: values.numpy() for name, values in model.state_dict().items()}


@pytest.mark.parametrize("size", [(256, 256), (200, 232)])
@pytest.mark.parametrize("precision", LIMIT)
@pytest.mark.parametrize("variant", VARIANTS)
def test_timms_weights_give_timms_logits(variant, precision, size):
    model = timm_model(variant, getattr(torch, precision))
    tensors = arrays(model)
    assert (family(tensors), len(tensors)) == ("timm", 311)
    renamed = to_transformers(tensors)
    ours = MobileViTForImageClassification(infer_config(renamed), renamed, precision=precision)
    rgb = pixels(1, 3, *size, dtype=np.dtype(precision))
    with torch.no_grad():
        expected = model(torch.from_numpy(rgb)).numpy()
    assert expected.shape == (1, 1000)
    assert relative_error(ours(rgb).logits, expected) < LIMIT[precision]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_inferred_config_is_that_of_the_variant(variant):
    renamed = to_transformers(arrays(timm_model(variant)))
    expected = MobileViTConfig(**VARIANTS[variant], id2label=dict(enumerate(imagenet_labels())))
    assert infer_config(renamed) == expected


def test_a_model_without_a_classifier_gives_its_features():
    model = timm_model("xxs", num_classes=0)
    renamed = to_transformers(arrays(model))
    ours = MobileViTForImageClassification(infer_config(renamed), renamed, precision="float64")
    rgb = pixels(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(torch.from_numpy(rgb)).numpy()
    assert relative_error(ours(rgb).logits, expected) < LIMIT["float64"]


def test_the_config_that_timm_writes_is_understood(tmp_path):
    model = timm_model("xxs", torch.float32, num_classes=2)
    names = {"label_names": ["n1", "n2"], "label_descriptions": {"n1": "cat", "n2": "dog"}}
    save_for_hf(model, tmp_path, model_config=names, safe_serialization=False)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert is_timm_config(settings)
    assert timm_labels(settings) == {0: "cat", 1: "dog"}
    assert timm_processor_settings(settings) == processor_settings("timm", "classification", MobileViTConfig())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_settings_are_those_of_timms_own_transform(variant):
    timms = timm.data.resolve_model_data_config(timm.create_model(f"mobilevit_{variant}"))
    assert (timms["mean"], timms["std"]) == ((0, 0, 0), (1, 1, 1))  # RGB in 0..1
    expected = processor_settings("timm", "classification", MobileViTConfig())
    assert timm_processor_settings({"pretrained_cfg": timms}) == expected
    assert expected["size"] == {"shortest_edge": int(timms["input_size"][1] / timms["crop_pct"])}
    assert (timms["interpolation"], expected["resample"]) == ("bicubic", 3)


def test_the_labels_are_timms():
    info = timm.data.ImageNetInfo()
    assert [info.index_to_description(i) for i in range(1000)] == list(imagenet_labels())


@pytest.mark.parametrize(
    ("name", "code"), [("mobilevitv2_050", "weights-unknown-names"), ("resnet18", "weights-family")]
)
def test_other_networks_of_timm_are_refused(name, code):
    with pytest.raises(WeightsError) as caught:
        to_transformers(arrays(timm.create_model(name)))
    assert caught.value.code == code
