import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import VARIANTS, RecordingWeights, pixels, random_weights, tiny

from npmobilevit import network, ops
from npmobilevit.config import HIDDEN_ACTS, MobileViTConfig, expected_parameters, make_divisible
from npmobilevit.errors import ConfigError
from npmobilevit.scope import Scope

quick = settings(derandomize=True, deadline=None, max_examples=100)

# transformers 5.23, MobileViTConfig()
HF_DEFAULTS = {
    "num_channels": 3,
    "image_size": 256,
    "patch_size": 2,
    "hidden_sizes": [144, 192, 240],
    "neck_hidden_sizes": [16, 32, 64, 96, 128, 160, 640],
    "num_attention_heads": 4,
    "mlp_ratio": 2.0,
    "expand_ratio": 4.0,
    "hidden_act": "silu",
    "conv_kernel_size": 3,
    "output_stride": 32,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-5,
    "qkv_bias": True,
    "aspp_out_channels": 256,
    "atrous_rates": [6, 12, 18],
    "aspp_dropout_prob": 0.1,
    "semantic_loss_ignore_index": 255,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "problem_type": None,
    "output_hidden_states": False,
    "return_dict": True,
    "model_type": "mobilevit",
}

NAN, INF = math.nan, math.inf
NO_INTEGERS = (True, False, "4", 16.0, 0, -1, 10**9, NAN, INF, -INF, None, {}, np.float32(3))
NO_LISTS = (None, 3, "abc", "1,2,3", {}, {1, 2, 3}, [], [1], [1, 2, 3, 4], [1] * 8, [[1, 2, 3]], np.ones(3, int))
NO_PROBABILITIES = (-0.1, 1.5, NAN, INF, True, "0.1", None, [0.1])
NO_FLAGS = (0, 1, "true", None, 1.0, [])

# field: values that must be refused. Where transformers takes some of them, its network fails later or is wrong.
REFUSED: dict[str, tuple[Any, ...]] = {
    "num_channels": (*NO_INTEGERS, [3]),
    "image_size": (*NO_INTEGERS, "256", [256], [256, 256, 256], [256, 0], [256.0, 256], (True, 256)),
    "patch_size": (*NO_INTEGERS, [2, 2], (2, 2), 65, 20_000),  # a small picture is enlarged to a whole patch
    "hidden_sizes": (*NO_LISTS, *([64, value, 96] for value in NO_INTEGERS)),
    "neck_hidden_sizes": (*NO_LISTS, [8] * 6, *([8, 8, 8, 8, 8, 8, value] for value in NO_INTEGERS)),
    "num_attention_heads": (*NO_INTEGERS, [4]),
    "mlp_ratio": (0, 0.0, -2.0, NAN, INF, 10**9, True, "2.0", None, [2.0], 1e-3),
    "expand_ratio": (0, 0.0, -4.0, NAN, INF, 10**9, True, "4.0", None, [4.0]),
    "hidden_act": ("SiLU", "prelu", "xielu", "", "gelu ", None, ["silu"], 1, len),
    "conv_kernel_size": (*NO_INTEGERS, 2, 4, [3, 3]),
    "output_stride": (0, 1, 4, 7, 64, -8, 16.0, True, "32", None, [32], NAN),
    "hidden_dropout_prob": NO_PROBABILITIES,
    "attention_probs_dropout_prob": NO_PROBABILITIES,
    "classifier_dropout_prob": NO_PROBABILITIES,
    "aspp_dropout_prob": NO_PROBABILITIES,
    "initializer_range": (-0.02, NAN, INF, True, "0.02", None),
    "layer_norm_eps": (0, 0.0, -1e-5, NAN, INF, 2.0, True, "1e-5", None),
    "qkv_bias": NO_FLAGS,
    "aspp_out_channels": NO_INTEGERS,
    "atrous_rates": (*NO_LISTS, [6, 12], [6, 12, 257], [20_000] * 3, *([6, value, 18] for value in NO_INTEGERS)),
    "semantic_loss_ignore_index": (1.5, 255.0, True, "255", None, [255], NAN, 2**31, -(2**31) - 1),
    "num_labels": (True, "3", 2.0, -1, 10**9, NAN, [2]),
    "id2label": (
        ["cat", "dog"],
        "cat",
        3,
        {0: "cat", 2: "dog"},  # a gap
        {1: "cat", 2: "dog"},  # from one
        {"0": "cat", 0: "dog"},  # twice
        {"0": "cat", "00": "dog"},
        {0: "cat", -1: "dog"},
        {0: 5},
        {0: None},
        {"zero": "cat"},
        {"0x0": "cat"},
        {"": "cat"},
        {"²": "cat"},
        {0.0: "cat"},
        {False: "cat"},
        {None: "cat"},
    ),
    "label2id": (["cat"], "cat", {"cat": "0"}, {"cat": True}, {"cat": 0.0}, {"cat": None}),
    "problem_type": ("binary", "Regression", "", 1, True, ["regression"]),
    "output_hidden_states": NO_FLAGS,
    "return_dict": NO_FLAGS,
}


def assert_refused(name: str, **fields: Any) -> None:
    """ConfigError itself, with its code, that begins with the field's name and shows what was found."""
    with pytest.raises(ConfigError) as caught:
        MobileViTConfig(**fields)
    assert type(caught.value) is ConfigError
    assert isinstance(caught.value, ValueError)
    assert caught.value.code == "config-value"
    message = str(caught.value)
    assert message.startswith(f"config: {name}"), message
    assert " must be " in message
    assert ", found " in message
    assert len(message) < 400


# defaults


def test_defaults_are_those_of_transformers():
    assert MobileViTConfig().to_dict() == HF_DEFAULTS


def test_every_field_has_a_default_and_a_list_of_refused_values():
    names = {field.name for field in dataclasses.fields(MobileViTConfig)} - {"extra"}
    assert names == set(REFUSED)
    assert names - {"num_labels"} == set(HF_DEFAULTS) - {"model_type"}


def test_the_activations_are_those_of_ops():
    assert len(HIDDEN_ACTS) == len(set(HIDDEN_ACTS))
    assert set(HIDDEN_ACTS) == set(ops.ACTIVATIONS)
    assert "prelu" not in HIDDEN_ACTS  # has parameters of its own
    for name in HIDDEN_ACTS:
        assert MobileViTConfig(hidden_act=name).hidden_act == name


# refused values


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_values_are_refused_with_the_name_of_the_field(name):
    for value in REFUSED[name]:
        assert_refused(name, **{name: value})
        if value is not None or name not in ("num_labels", "id2label", "label2id"):
            with pytest.raises(ConfigError, match=name):
                MobileViTConfig.from_dict({name: value})


def test_the_element_of_a_list_is_named():
    assert_refused("hidden_sizes[1]", hidden_sizes=[64, 0, 96])
    assert_refused("neck_hidden_sizes[6]", neck_hidden_sizes=[8, 8, 8, 8, 8, 8, "8"])
    assert_refused("atrous_rates[2]", atrous_rates=[6, 12, -18])
    assert_refused("image_size[0]", image_size=[0, 256])


def test_heads_must_divide_every_width():
    assert_refused("hidden_sizes[1]", hidden_sizes=[64, 81, 96])
    assert_refused("hidden_sizes[0]", num_attention_heads=5)  # the heads were changed, the widths do not fit them
    assert MobileViTConfig(num_attention_heads=6).num_attention_heads == 6
    assert MobileViTConfig(num_attention_heads=1, hidden_sizes=[3, 5, 7]).hidden_sizes == (3, 5, 7)


def test_a_long_value_is_cut_in_the_message():
    assert_refused("hidden_act", hidden_act="silu" * 1000)
    assert_refused("id2label", id2label={i: "x" for i in range(1, 1000)})


def test_the_message_says_what_is_allowed():
    with pytest.raises(ConfigError, match=r"output_stride must be one of 8, 16, 32, found 7"):
        MobileViTConfig(output_stride=7)
    with pytest.raises(ConfigError, match=r"hidden_act must be one of 'gelu', .*'tanh', found 'prelu'"):
        MobileViTConfig(hidden_act="prelu")
    with pytest.raises(ConfigError, match=r"conv_kernel_size must be an odd integer, found 4"):
        MobileViTConfig(conv_kernel_size=4)


def test_an_integer_of_thousands_of_digits():
    with pytest.raises(ConfigError, match="patch_size"):
        MobileViTConfig(patch_size=10**5000)


@pytest.mark.parametrize("extra", [None, 3, "abc", ["abc"]])
def test_extra_must_be_a_mapping(extra):
    with pytest.raises(ConfigError):
        MobileViTConfig(extra=extra)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(MobileViTConfig) if field.type == "float"])
def test_integers_in_float_fields_are_written_as_floats(name):
    config = MobileViTConfig(**{name: 1})
    assert type(getattr(config, name)) is float
    assert type(config.to_dict()[name]) is float


def test_unknown_arguments_are_a_type_error():
    with pytest.raises(TypeError, match="num_lables"):
        MobileViTConfig(num_lables=3)


@pytest.mark.parametrize("settings", [None, [], "{}", 3])
def test_from_dict_takes_an_object_only(settings):
    with pytest.raises(ConfigError, match="must be an object") as caught:
        MobileViTConfig.from_dict(settings)
    assert caught.value.code == "config-value"


@pytest.mark.parametrize("model_type", ["mobilevitv2", "vit", "", None, 1])
def test_other_networks_are_refused(model_type):
    with pytest.raises(ConfigError, match="model_type") as caught:
        MobileViTConfig.from_dict({"model_type": model_type})
    assert caught.value.code == "config-value"


# labels


def test_string_keys_of_id2label_become_integers_in_order():
    config = MobileViTConfig.from_dict(
        {"id2label": {"2": "c", "0": "a", "10": "k", **{str(i): "x" for i in range(3, 10)}, "1": "b"}}
    )
    assert list(config.id2label) == list(range(11))
    assert (config.id2label[2], config.id2label[10]) == ("c", "k")
    assert config.num_labels == 11


def test_num_labels_makes_names():
    config = MobileViTConfig(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_num_labels_zero_and_one():
    assert MobileViTConfig(num_labels=0).id2label == {}
    assert MobileViTConfig(num_labels=1).id2label == {0: "LABEL_0"}
    assert MobileViTConfig(id2label={}).num_labels == 0


def test_num_labels_follows_id2label_and_may_not_contradict_it():
    names = {0: "cat", 1: "dog", 2: "owl"}
    assert MobileViTConfig(id2label=names).num_labels == 3
    assert MobileViTConfig(id2label=names, num_labels=3).label2id == {"cat": 0, "dog": 1, "owl": 2}
    assert_refused("num_labels", id2label=names, num_labels=4)
    assert_refused("num_labels", id2label=names, num_labels=True)


def test_null_labels_of_a_file_mean_not_set():
    config = MobileViTConfig.from_dict({"id2label": None, "label2id": None, "num_labels": None, "problem_type": None})
    assert config == MobileViTConfig()


# keeping what was given


@pytest.mark.case("94", "unknown keys, among them auto_map", "kept and without effect: no code is looked up or run")
def test_unknown_keys_are_kept_and_have_no_effect():
    unknown = {"transformers_version": "5.23.0", "architectures": ["X"], "torch_dtype": None, "nested": {"a": [1, {}]}}
    config = MobileViTConfig.from_dict({"hidden_act": "relu", "model_type": "mobilevit", **unknown})
    assert config.extra == unknown
    assert config.to_dict() == {**HF_DEFAULTS, "hidden_act": "relu", **unknown}
    assert MobileViTConfig.from_dict(config.to_dict()) == config


def test_extra_cannot_overrule_a_field():
    config = MobileViTConfig(extra={"output_stride": 7, "id2label": {}, "model_type": "vit", "note": 1})
    assert config.to_dict() == {**HF_DEFAULTS, "note": 1}


ROUND_TRIPS = {
    "defaults": {},
    "xxs": VARIANTS["xxs"],
    "everything changed": {
        "num_channels": 4,
        "image_size": [128, 160],
        "patch_size": 3,
        "hidden_sizes": [24, 48, 72],
        "neck_hidden_sizes": [1, 2, 3, 4, 5, 6, 7],
        "num_attention_heads": 8,
        "mlp_ratio": 2.3,
        "expand_ratio": 1,
        "hidden_act": "gelu",
        "conv_kernel_size": 5,
        "output_stride": 8,
        "hidden_dropout_prob": 0,
        "attention_probs_dropout_prob": 1.0,
        "classifier_dropout_prob": 0.5,
        "initializer_range": 0,
        "layer_norm_eps": 1e-3,
        "qkv_bias": False,
        "aspp_out_channels": 1,
        "atrous_rates": [1, 1, 1],
        "aspp_dropout_prob": 0.3,
        "semantic_loss_ignore_index": -1,
        "id2label": {0: "cat", 1: "дом", 2: "cat"},
        "label2id": {"cat": 2, "дом": 1},
        "problem_type": "regression",
        "output_hidden_states": True,
        "return_dict": False,
    },
    "no labels": {"num_labels": 0},
}


@pytest.mark.parametrize("fields", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_round_trip_through_json(fields, tmp_path):
    config = MobileViTConfig(**fields)
    text = json.dumps(config.to_dict(), allow_nan=False)
    assert MobileViTConfig.from_dict(json.loads(text)) == config
    assert MobileViTConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    for name, value in fields.items():
        kept = getattr(config, name)
        assert (list(kept) if isinstance(kept, tuple) else kept) == value

    config.save_pretrained(tmp_path / "new" / "folder")
    assert MobileViTConfig.from_pretrained(tmp_path / "new" / "folder") == config
    assert json.loads((tmp_path / "new" / "folder" / "config.json").read_text(encoding="utf-8")) == config.to_dict()


def test_the_everything_case_changes_every_field():
    changed = ROUND_TRIPS["everything changed"]
    assert set(changed) == set(HF_DEFAULTS) - {"model_type"}
    assert all(changed[name] != HF_DEFAULTS[name] for name in changed)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    heads=st.integers(1, 8),
    widths=st.tuples(*[st.integers(1, 40)] * 3),
    necks=st.lists(st.integers(1, 700), min_size=7, max_size=7),
    ratio=st.floats(1, 64),
    stride=st.sampled_from([8, 16, 32]),
    act=st.sampled_from(HIDDEN_ACTS),
    labels=st.integers(0, 30),
    extra=st.dictionaries(st.sampled_from(["note", "größe", ""]), st.none() | st.integers() | st.text(max_size=5)),
)
def test_any_valid_config_survives_a_round_trip(heads, widths, necks, ratio, stride, act, labels, extra):
    config = MobileViTConfig(
        num_attention_heads=heads,
        hidden_sizes=[heads * width for width in widths],
        neck_hidden_sizes=necks,
        mlp_ratio=ratio,
        output_stride=stride,
        hidden_act=act,
        num_labels=labels,
        extra=extra,
    )
    assert MobileViTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_cannot_be_changed():
    config = MobileViTConfig()
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))
    assert all(
        isinstance(value, tuple) for value in (config.hidden_sizes, config.neck_hidden_sizes, config.atrous_rates)
    )


def test_what_the_caller_passed_is_copied():
    widths, names, ids, extra = [64, 80, 96], {0: "cat"}, {"cat": 0}, {"note": 1}
    config = MobileViTConfig(hidden_sizes=widths, id2label=names, label2id=ids, extra=extra)
    before = config.to_dict()
    widths[0], names[0], ids["dog"], extra["more"] = 1, "dog", 1, 2
    assert config.to_dict() == before
    config.to_dict()["hidden_sizes"].append(5)
    config.to_dict()["id2label"]["1"] = "dog"
    assert config.to_dict() == before


# make_divisible


def test_make_divisible_examples():
    cases = {1: 8, 8: 8, 11: 16, 12: 16, 16: 16, 19: 24, 20: 24, 28: 32, 36: 40, 90: 88, 92: 96, 100: 104, 128: 128}
    assert {value: make_divisible(value) for value in cases} == cases
    assert make_divisible(10, 4) == 12
    assert make_divisible(3, 16) == 16


@quick
@given(value=st.floats(0.1, 1e6), divisor=st.sampled_from([1, 2, 4, 8, 16]))
def test_make_divisible_is_a_near_multiple_that_loses_no_tenth(value, divisor):
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= divisor
    assert rounded >= 0.9 * value
    assert rounded <= value + divisor
    assert type(rounded) is int


@quick
@given(multiple=st.integers(1, 10**5))
def test_make_divisible_keeps_multiples(multiple):
    assert make_divisible(8 * multiple) == 8 * multiple


# expected_parameters

# spec: parameters of ImageNet classification, of the base model, of segmentation with 21 labels, and BN buffers of
# classification. They are those of transformers' models.
SIZES = {
    "xxs": (1_272_024, 951_024, 1_854_853, 4_144),
    "xs": (2_317_848, 1_932_848, 2_944_069, 8_480),
    "s": (5_578_632, 4_937_632, 6_357_941, 12_288),
}


def split(shapes: dict[str, tuple[int, ...]]) -> tuple[dict, dict]:
    statistics = {name: shape for name, shape in shapes.items() if name.endswith(("running_mean", "running_var"))}
    return {name: shape for name, shape in shapes.items() if name not in statistics}, statistics


def total(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_of_the_published_variants(variant):
    classes = MobileViTConfig(**VARIANTS[variant], num_labels=1000)
    pixel_classes = MobileViTConfig(**VARIANTS[variant], num_labels=21, output_stride=16)
    parameters, statistics = split(expected_parameters(classes, head="classification"))
    base, _ = split(expected_parameters(classes))
    segmentation, pixel_statistics = split(expected_parameters(pixel_classes, head="segmentation"))
    norms = len(statistics) // 2
    assert (len(parameters), norms, len(parameters) + 3 * norms) == (251, 32, 347)
    assert (len(segmentation), len(pixel_statistics) // 2) == (266, 37)
    sizes = (total(parameters), total(base), total(segmentation), total(statistics) + norms)
    assert sizes == SIZES[variant]


def test_modules_of_the_classifier():
    names = expected_parameters(MobileViTConfig(), head="classification")
    assert sum(name.endswith("convolution.weight") for name in names) == 35
    assert sum(len(shape) == 2 for shape in names.values()) == 55
    assert sum("layernorm" in name and name.endswith("weight") for name in names) == 21
    assert sum(name.endswith("convolution.bias") for name in names) == 0


@pytest.mark.parametrize(
    ("variant", "widths"),
    [
        ("xxs", [32, 32, 48, 48, 48, 96, 128]),
        ("xs", [64, 128, 192, 192, 192, 256, 320]),
        ("s", [64, 128, 256, 256, 256, 384, 512]),
    ],
)
def test_expanded_widths_of_the_inverted_residuals(variant, widths):
    shapes = expected_parameters(MobileViTConfig(**VARIANTS[variant]))
    assert [shape[0] for name, shape in shapes.items() if name.endswith("expand_1x1.convolution.weight")] == widths
    assert [shape for name, shape in shapes.items() if name.endswith("conv_3x3.convolution.weight")] == [
        (width, 1, 3, 3) for width in widths
    ]


def test_half_an_expanded_width_is_rounded_to_even():
    # round(2.5 * 5) = 12 -> 16, and not 13 -> 16; round(2.5 * 17) = 42 -> 40, and not 43 -> 48
    shapes = expected_parameters(tiny(neck_hidden_sizes=[17, 6, 8, 10, 12, 14, 20], expand_ratio=2.5))
    assert shapes["encoder.layer.0.layer.0.expand_1x1.convolution.weight"] == (40, 17, 1, 1)


def test_the_feed_forward_width_is_cut_off():
    shapes = expected_parameters(tiny(hidden_sizes=[8, 12, 16], mlp_ratio=2.3))
    inner = [shapes[f"encoder.layer.{i}.transformer.layer.0.intermediate.dense.bias"] for i in (2, 3, 4)]
    assert inner == [(18,), (27,), (36,)]  # 18.4, 27.6, 36.8


def test_some_shapes_in_full():
    shapes = expected_parameters(tiny(conv_kernel_size=5, num_channels=4), head="classification")
    assert shapes["mobilevit.conv_stem.convolution.weight"] == (4, 4, 3, 3)
    assert shapes["mobilevit.encoder.layer.2.conv_kxk.convolution.weight"] == (10, 10, 5, 5)
    assert shapes["mobilevit.encoder.layer.2.conv_1x1.convolution.weight"] == (8, 10, 1, 1)
    assert "mobilevit.encoder.layer.2.conv_1x1.normalization.weight" not in shapes
    assert shapes["mobilevit.encoder.layer.3.conv_projection.convolution.weight"] == (12, 12, 1, 1)
    assert shapes["mobilevit.encoder.layer.4.fusion.convolution.weight"] == (14, 28, 5, 5)
    assert shapes["mobilevit.encoder.layer.4.layernorm.weight"] == (16,)
    assert shapes["mobilevit.conv_1x1_exp.convolution.weight"] == (20, 14, 1, 1)
    assert shapes["classifier.weight"] == (5, 20)
    shapes = expected_parameters(tiny(), head="segmentation")
    assert shapes["segmentation_head.aspp.convs.0.convolution.weight"] == (9, 14, 1, 1)
    assert shapes["segmentation_head.aspp.convs.3.convolution.weight"] == (9, 14, 3, 3)
    assert shapes["segmentation_head.aspp.convs.4.conv_1x1.convolution.weight"] == (9, 14, 1, 1)
    assert shapes["segmentation_head.aspp.project.convolution.weight"] == (9, 45, 1, 1)
    assert shapes["segmentation_head.classifier.convolution.weight"] == (5, 9, 1, 1)
    assert shapes["segmentation_head.classifier.convolution.bias"] == (5,)


def test_depths_of_the_transformers():
    shapes = expected_parameters(MobileViTConfig())
    depths = {
        layer: len({n.split(".")[5] for n in shapes if n.startswith(f"encoder.layer.{layer}.transformer.layer.")})
        for layer in (2, 3, 4)
    }
    assert depths == {2: 2, 3: 4, 4: 3}


STRUCTURES: dict[str, tuple[str | None, bool, dict[str, Any]]] = {
    "classification": ("classification", True, {}),
    "base": (None, True, {}),
    "base without expansion": (None, False, {}),
    "segmentation": ("segmentation", False, {}),
    "segmentation, stride 16": ("segmentation", False, {"output_stride": 16}),
    "segmentation, stride 8": ("segmentation", False, {"output_stride": 8}),
    "segmentation, one label": ("segmentation", False, {"num_labels": 1}),
    "no biases of query, key and value": ("classification", True, {"qkv_bias": False}),
    "no labels": ("classification", True, {"num_labels": 0}),
    "one label": ("classification", True, {"num_labels": 1}),
    "one channel": ("classification", True, {"num_channels": 1}),
    "four channels": ("classification", True, {"num_channels": 4}),
    "no expansion in the residuals": ("classification", True, {"expand_ratio": 1.0}),
    "equal necks": ("segmentation", False, {"neck_hidden_sizes": [8] * 7, "output_stride": 8}),
    "kernel 1": ("classification", True, {"conv_kernel_size": 1}),
    "kernel 5": ("classification", True, {"conv_kernel_size": 5}),
    "mlp ratio 2.3": ("classification", True, {"mlp_ratio": 2.3}),
    "one head": ("classification", True, {"num_attention_heads": 1}),
    "patch 3": ("classification", True, {"patch_size": 3}),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_exactly_the_expected_parameters_are_read_and_each_once(structure):
    head, expand_output, changes = STRUCTURES[structure]
    config = tiny(**changes)
    weights = RecordingWeights(random_weights(config, head, expand_output=expand_output))
    scope, x = Scope(weights), pixels(channels=config.num_channels)
    if head == "classification":
        network.image_classification(scope, x, config)
    elif head == "segmentation":
        network.semantic_segmentation(scope, x, config)
    else:
        network.base_model(scope, x, config, expand_output=expand_output)
    assert sorted(weights.read) == sorted(expected_parameters(config, head=head, expand_output=expand_output))


def test_qkv_bias_removes_three_biases_a_transformer_layer_only():
    with_bias = set(expected_parameters(tiny()))
    without = set(expected_parameters(tiny(qkv_bias=False)))
    assert without < with_bias
    gone = with_bias - without
    assert len(gone) == 3 * (2 + 4 + 3)
    assert all(name.endswith((".query.bias", ".key.bias", ".value.bias")) for name in gone)


def test_a_head_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match=r"head must be one of .*, found 'detection'"):
        expected_parameters(MobileViTConfig(), head="detection")
