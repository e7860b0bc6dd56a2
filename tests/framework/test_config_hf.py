"""Configs to and from transformers, through its objects and through files."""

import dataclasses
import json
from typing import Any

import pytest
from networks import VARIANTS

from npmobilevit.config import HIDDEN_ACTS, MobileViTConfig, expected_parameters, make_divisible

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")

from transformers.activations import ACT2FN  # noqa: E402
from transformers.models.mobilevit import modeling_mobilevit  # noqa: E402

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]

FIELDS = [field.name for field in dataclasses.fields(MobileViTConfig) if field.name != "extra"]

CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    **VARIANTS,
    "labels": {"id2label": {0: "cat", 1: "дом", 2: "dog"}, "label2id": {"cat": 0, "дом": 1, "dog": 2}},
    "21 labels": {"num_labels": 21, "output_stride": 16},
    "one label": {"num_labels": 1, "problem_type": "regression"},
    "no labels": {"num_labels": 0},
    "everything": {
        "num_channels": 4,
        "image_size": 512,
        "patch_size": 3,
        "hidden_sizes": [24, 48, 72],
        "neck_hidden_sizes": [1, 2, 3, 4, 5, 6, 7],
        "num_attention_heads": 8,
        "mlp_ratio": 2.3,
        "expand_ratio": 1.0,
        "hidden_act": "gelu",
        "conv_kernel_size": 5,
        "output_stride": 8,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.25,
        "classifier_dropout_prob": 0.5,
        "initializer_range": 0.01,
        "layer_norm_eps": 1e-3,
        "qkv_bias": False,
        "aspp_out_channels": 1,
        "atrous_rates": [1, 2, 3],
        "aspp_dropout_prob": 0.3,
        "semantic_loss_ignore_index": -1,
        "problem_type": "multi_label_classification",
        "output_hidden_states": True,
        "return_dict": False,
    },
}


def assert_same_fields(ours: MobileViTConfig, theirs: Any) -> None:
    for name in FIELDS:
        value, expected = getattr(ours, name), getattr(theirs, name)
        value = list(value) if isinstance(value, tuple) else value
        expected = list(expected) if isinstance(expected, tuple) else expected
        assert (value, type(value)) == (expected, type(expected)), name


def test_defaults():
    assert_same_fields(MobileViTConfig(), transformers.MobileViTConfig())


@pytest.mark.parametrize("case", CASES)
def test_from_transformers(case, tmp_path):
    theirs = transformers.MobileViTConfig(**CASES[case])
    assert_same_fields(MobileViTConfig(**CASES[case]), theirs)
    assert_same_fields(MobileViTConfig.from_dict(theirs.to_dict()), theirs)
    theirs.save_pretrained(tmp_path)
    ours = MobileViTConfig.from_dict(json.loads((tmp_path / "config.json").read_text(encoding="utf-8")))
    assert_same_fields(ours, theirs)
    assert_same_fields(MobileViTConfig.from_pretrained(tmp_path), theirs)
    assert ours.extra["transformers_version"] == transformers.__version__


@pytest.mark.parametrize("case", CASES)
def test_to_transformers(case, tmp_path):
    ours = MobileViTConfig(**CASES[case], extra={"note": [1, {"a": None}], "architectures": ["X"]})
    ours.save_pretrained(tmp_path)
    theirs = transformers.MobileViTConfig.from_pretrained(tmp_path)
    assert_same_fields(ours, theirs)
    assert theirs.note == [1, {"a": None}]
    assert theirs.architectures == ["X"]
    # and back again, by way of its file
    theirs.save_pretrained(tmp_path / "again")
    back = MobileViTConfig.from_pretrained(tmp_path / "again")
    assert dataclasses.replace(back, extra={}) == dataclasses.replace(ours, extra={})
    assert back.extra["note"] == [1, {"a": None}]


@pytest.mark.parametrize("case", CASES)
def test_auto_config_knows_our_file(case, tmp_path):
    MobileViTConfig(**CASES[case]).save_pretrained(tmp_path)
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is transformers.MobileViTConfig


def test_activations_are_all_that_have_no_parameters():
    with_parameters = {"prelu", "xielu"}
    assert set(HIDDEN_ACTS) == set(ACT2FN) - with_parameters


def test_make_divisible():
    for value in range(1, 2000):
        assert make_divisible(value) == modeling_mobilevit.make_divisible(value)


@pytest.mark.parametrize("head", [None, "classification", "segmentation"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "no labels"])
def test_expected_parameters(case, head):
    kind = {
        None: transformers.MobileViTModel,
        "classification": transformers.MobileViTForImageClassification,
        "segmentation": transformers.MobileViTForSemanticSegmentation,
    }[head]
    state = kind(transformers.MobileViTConfig(**CASES[case])).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert expected_parameters(MobileViTConfig(**CASES[case]), head=head) == shapes
