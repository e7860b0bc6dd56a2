import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from networks import MODELS, VARIANTS, counters, make_model, pixels, random_weights, tiny

from npmobilevit import models, network, ops
from npmobilevit.config import MobileViTConfig, expected_parameters
from npmobilevit.errors import ConfigError, NpMobileViTError, ShapeError, WeightsError
from npmobilevit.models import MobileViTForImageClassification, MobileViTForSemanticSegmentation, MobileViTModel
from npmobilevit.outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
    SemanticSegmenterOutput,
)
from npmobilevit.scope import Scope

HEADS = (None, "classification", "segmentation")


def refused(kind: type[NpMobileViTError], code: str, function: Any, *args: Any, **kwargs: Any) -> str:
    """The call must raise this very error with this code; returns the message."""
    with pytest.raises(NpMobileViTError) as caught:
        function(*args, **kwargs)
    assert type(caught.value) is kind
    assert caught.value.code == code
    return str(caught.value)


def classifier(weights: dict[str, np.ndarray], **options: Any) -> MobileViTForImageClassification:
    return MobileViTForImageClassification(tiny(), weights, **options)


def task_weights(head: str = "classification", dtype: Any = np.float64) -> dict[str, np.ndarray]:
    return random_weights(tiny(), head, dtype=dtype)


# weights that do not fit


def test_missing_unexpected_and_misshaped_weights_are_listed_together():
    weights = task_weights()
    del weights["classifier.bias"]
    del weights["mobilevit.conv_stem.convolution.weight"]
    weights["classifier.wieght"] = np.zeros(3)
    weights["classifier.weight"] = np.zeros((5, 7))
    weights["mobilevit.conv_1x1_exp.normalization.bias"] = np.zeros(())
    message = refused(WeightsError, "weights-names", classifier, weights)
    assert "2 missing: mobilevit.conv_stem.convolution.weight; classifier.bias" in message
    assert "1 unexpected: classifier.wieght" in message
    assert "2 wrongly shaped: " in message
    assert "classifier.weight: expected (5, 20), found (5, 7)" in message
    assert "mobilevit.conv_1x1_exp.normalization.bias: expected (20,), found ()" in message
    assert f"asks for {len(expected_parameters(tiny(), head='classification'))} tensors" in message
    assert "same checkpoint" in message


def test_only_the_first_ten_of_each_kind_are_named_and_all_are_counted():
    message = refused(WeightsError, "weights-names", classifier, {f"x{i}": np.zeros(1) for i in range(25)})
    assert "315 missing: " in message
    assert "and 305 more" in message
    assert "25 unexpected: x0; " in message
    assert "x9 and 15 more" in message
    assert "x10" not in message
    assert "wrongly shaped" not in message
    assert len(message) < 2500


def test_a_hostile_name_cannot_fill_or_fake_the_terminal():
    weights = task_weights()
    weights["x" * 10_000 + "\x1b[2J\n"] = np.zeros(1)
    weights["\x1b[31m\nok"] = np.zeros(1)
    message = refused(WeightsError, "weights-names", classifier, weights)
    assert len(message) < 600
    assert "\x1b" not in message
    assert "\n" not in message


def test_weights_of_another_variant_or_task():
    config = MobileViTConfig(**VARIANTS["xxs"], num_labels=5)
    message = refused(WeightsError, "weights-names", MobileViTForImageClassification, config, task_weights())
    assert "wrongly shaped" in message
    message = refused(WeightsError, "weights-names", MobileViTForSemanticSegmentation, tiny(), task_weights())
    assert "missing: segmentation_head.aspp.convs.0" in message
    assert "unexpected: mobilevit.conv_1x1_exp" in message
    message = refused(WeightsError, "weights-names", classifier, task_weights("segmentation"))
    assert "missing: mobilevit.conv_1x1_exp" in message
    message = refused(WeightsError, "weights-names", classifier, random_weights(tiny()))  # without the prefix
    assert "missing: mobilevit.conv_stem" in message


@pytest.mark.parametrize(
    "changes", [{"qkv_bias": False}, {"num_labels": 0}, {"conv_kernel_size": 1}, {"num_labels": 6}]
)
def test_weights_of_another_structure(changes):
    refused(WeightsError, "weights-names", MobileViTForImageClassification, tiny(**changes), task_weights())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_must_be_finite(value):
    weights = task_weights()
    weights["classifier.weight"][2, 3] = value
    message = refused(WeightsError, "weights-not-finite", classifier, weights)
    assert message.startswith("classifier.weight ")


def test_weights_beyond_float32():
    weights = task_weights()
    weights["classifier.bias"][0] = 1e300
    refused(WeightsError, "weights-not-finite", classifier, weights)
    assert classifier(weights, precision="float64").state_dict()["classifier.bias"][0] == 1e300


def test_a_variance_may_be_zero_and_not_negative():
    weights = task_weights()
    name = "mobilevit.conv_stem.normalization.running_var"
    weights[name][1] = 0
    assert np.isfinite(classifier(weights)(pixels()).logits).all()
    weights[name][1] = -1e-3
    message = refused(WeightsError, "weights-negative-variance", classifier, weights)
    assert name in message
    assert "-0.001" in message


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, bool, complex, object, "S1"])
def test_weights_must_be_floats(dtype):
    weights: dict[str, np.ndarray] = task_weights()
    weights["classifier.bias"] = np.ones(5).astype(dtype)
    message = refused(WeightsError, "weights-dtype", classifier, weights)
    assert "classifier.bias must hold floats" in message


# arithmetic


@pytest.mark.parametrize("precision", ["float16", "double", "", "bitexact ", None, np.float32])
@pytest.mark.parametrize("head", HEADS)
def test_unknown_precisions(head, precision):
    message = refused(ConfigError, "precision", make_model, head, precision=precision)
    assert "float32" in message


@pytest.mark.parametrize("engine", ["quick", "", None])
def test_unknown_engines(engine):
    message = refused(ConfigError, "engine", make_model, "classification", engine=engine)
    assert "reference, fast" in message


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("workers", ["process", "", None, 2, ["threads"]])
def test_unknown_workers(workers, engine):
    options = {"engine": engine, "workers": workers, "precision": "float32"}
    assert "threads, processes" in refused(ConfigError, "workers", make_model, "classification", **options)


@pytest.mark.parametrize("precision", ["float64", "bitexact"])
@pytest.mark.parametrize("head", HEADS)
def test_the_fast_engine_has_one_precision(head, precision):
    message = refused(ConfigError, "engine-precision", make_model, head, engine="fast", precision=precision)
    assert "float32" in message
    assert precision in message


# The dtype of every precision
PRECISIONS = {"float32": np.float32, "float64": np.float64, "bitexact": np.float64}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_weights_of_any_float_dtype_become_the_models(dtype, precision):
    weights = {name: value.astype(dtype) for name, value in task_weights().items()}
    model = classifier(weights, precision=precision)
    assert {value.dtype for value in model._weights.values()} == {model.dtype} == {np.dtype(PRECISIONS[precision])}
    same = classifier({name: value.astype(model.dtype) for name, value in weights.items()}, precision=precision)
    assert np.array_equal(model(pixels()).logits, same(pixels()).logits)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", HEADS)
def test_results_have_the_models_dtype(head, precision, dtype):
    output = make_model(head, precision=precision)(pixels(dtype=dtype), output_hidden_states=True)
    arrays = [*output.hidden_states, *(output[key] for key in output if key != "hidden_states")]
    assert {array.dtype for array in arrays} == {np.dtype(PRECISIONS[precision])}


def test_weights_in_any_memory_layout():
    weights = task_weights()
    twisted = {name: np.asfortranarray(value[::-1])[::-1] for name, value in weights.items()}
    assert np.array_equal(classifier(weights)(pixels()).logits, classifier(twisted)(pixels()).logits)


def test_weights_are_copied():
    weights = task_weights(dtype=np.float32)
    model = classifier(weights)
    before = model(pixels()).logits
    for value in weights.values():
        value[:] = 0
    weights.clear()
    assert np.array_equal(model(pixels()).logits, before)


def test_calls_do_not_change_anything():
    for head in HEADS:
        model, x = make_model(head), pixels(2)
        kept, state = x.copy(), {name: value.copy() for name, value in model.state_dict().items()}
        first = model(x)[-1]
        model(pixels(1, height=17, width=50))
        assert np.array_equal(model(x)[-1], first)
        assert np.array_equal(x, kept)
        assert all(np.array_equal(value, state[name]) for name, value in model.state_dict().items())


# the base model


def test_base_model_from_the_weights_of_a_task():
    config, x = tiny(), pixels()
    for head in ("classification", "segmentation"):
        weights = task_weights(head)
        expand = head == "classification"
        model = MobileViTModel(config, weights, precision="float64", expand_output=expand)
        features = network.base_model(Scope(weights, "mobilevit"), x, config, expand_output=expand)
        assert np.array_equal(model(x).last_hidden_state, features.last_hidden_state)
        assert set(model.ignored_parameters) == {name for name in weights if not name.startswith("mobilevit.")}
        assert len(model.ignored_parameters) == {"classification": 2, "segmentation": 32}[head]
        assert not any(name.startswith("mobilevit.") for name in model.state_dict())


def test_base_model_of_a_classifier_without_expansion():
    weights = task_weights()
    model = MobileViTModel(tiny(), weights, precision="float64", expand_output=False)
    assert sorted(model.ignored_parameters) == sorted(
        ["classifier.weight", "classifier.bias"]
        + [f"conv_1x1_exp.normalization.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")]
        + ["conv_1x1_exp.convolution.weight"]
    )
    classification = classifier(weights, precision="float64")(pixels(), output_hidden_states=True)
    assert np.array_equal(model(pixels()).last_hidden_state, classification.hidden_states[-1])


def test_base_model_needs_the_expansion_if_asked_for():
    message = refused(WeightsError, "weights-names", MobileViTModel, tiny(), task_weights("segmentation"))
    assert "5 missing: conv_1x1_exp" in message


def test_base_model_from_its_own_weights_ignores_nothing():
    model = make_model(None)
    assert model.ignored_parameters == ()
    assert make_model(None, expand_output=False).ignored_parameters == ()
    weights = random_weights(tiny())
    weights["classifier.weight"] = np.zeros((5, 20))  # a head belongs to names with a prefix
    message = refused(WeightsError, "weights-names", MobileViTModel, tiny(), weights)
    assert "1 unexpected: classifier.weight" in message


def test_base_model_refuses_strangers_beside_a_head():
    weights = task_weights() | {"mobilevit.conv_1x2": np.zeros(1)}
    message = refused(WeightsError, "weights-names", MobileViTModel, tiny(), weights)
    assert "1 unexpected: conv_1x2" in message


# outputs


@pytest.mark.parametrize("expand_output", [True, False])
def test_fields_of_the_base_model(expand_output):
    model, x = make_model(None, expand_output=expand_output), pixels(2)
    output = model(x)
    assert type(output) is BaseModelOutputWithPoolingAndNoAttention
    fields = ("last_hidden_state", "pooler_output") if expand_output else ("last_hidden_state",)
    assert output.keys() == fields
    assert output.last_hidden_state.shape == ((2, 20, 1, 1) if expand_output else (2, 14, 1, 1))
    output = model(x, output_hidden_states=True)
    assert output.keys() == (*fields, "hidden_states")
    assert len(output.hidden_states) == 5
    pair = model(x, return_dict=False)
    assert type(pair) is tuple
    assert len(pair) == len(fields)
    assert np.array_equal(pair[0], output.last_hidden_state)
    assert len(model(x, return_dict=False, output_hidden_states=True)) == len(fields) + 1
    if expand_output:
        assert output.pooler_output.shape == (2, 20)
        assert np.array_equal(pair[1], output.pooler_output)
    else:
        assert output.pooler_output is None
        assert output.last_hidden_state is output.hidden_states[-1]


@pytest.mark.parametrize(
    ("head", "kind", "labels"),
    [
        ("classification", ImageClassifierOutputWithNoAttention, np.array([1, 4])),
        ("segmentation", SemanticSegmenterOutput, np.zeros((2, 32, 32), int)),
    ],
)
def test_fields_of_the_task_models(head, kind, labels):
    model, x = make_model(head), pixels(2)
    assert type(model(x)) is kind
    assert model(x).keys() == ("logits",)
    assert model(x, labels).keys() == ("loss", "logits")
    assert model(x, output_hidden_states=True).keys() == ("logits", "hidden_states")
    full = model(pixel_values=x, labels=labels, output_hidden_states=True, return_dict=True)
    assert full.keys() == ("loss", "logits", "hidden_states")
    assert type(full.loss) is float
    for with_labels in (False, True):
        for with_states in (False, True):
            parts = model(x, labels if with_labels else None, with_states, False)
            assert type(parts) is tuple
            names = ["loss"] * with_labels + ["logits"] + ["hidden_states"] * with_states
            for name, part in zip(names, parts, strict=True):
                if name == "hidden_states":
                    assert all(np.array_equal(a, b) for a, b in zip(part, full.hidden_states, strict=True))
                else:
                    assert np.array_equal(part, full[name])


@pytest.mark.parametrize("head", HEADS)
def test_the_config_says_what_a_call_leaves_open(head):
    x = pixels()
    model = make_model(head, tiny(output_hidden_states=True))
    assert "hidden_states" in model(x)
    assert "hidden_states" not in model(x, output_hidden_states=False)
    model = make_model(head, tiny(return_dict=False))
    assert type(model(x)) is tuple
    assert type(model(x, return_dict=True)) is not tuple
    model = make_model(head, tiny(return_dict=False, output_hidden_states=True))
    assert len(model(x)) == (3 if head is None else 2)


def test_hidden_states_are_the_outputs_of_the_encoder_layers():
    for head in HEADS:
        model, x = make_model(head), pixels()
        prefix = "" if head is None else "mobilevit."
        taps = model.taps(x)
        states = model(x, output_hidden_states=True).hidden_states
        for i, state in enumerate(states):
            assert np.array_equal(state, taps[f"{prefix}encoder.layer.{i}"])


# pixel values


@pytest.mark.parametrize("head", HEADS)
def test_pixel_values_that_cannot_be_used(head):
    model = make_model(head)
    x = pixels(2)

    def with_value(value: float) -> np.ndarray:
        y = x.copy()
        y[1, 2, 3, 4] = value
        return y

    wrong = {
        "is missing": None,
        "must be floats in 0..1, found uint8": np.zeros((1, 3, 32, 32), np.uint8),
        "must be floats in 0..1, found int64": np.zeros((1, 3, 32, 32), int),
        "must be floats in 0..1, found bool": np.zeros((1, 3, 32, 32), bool),
        "must be floats in 0..1, found complex128": x + 0j,
        "must be floats in 0..1, found <U": "cat.png",
        "found (3, 32, 32)": x[0],
        "found (1, 2, 3, 32, 32)": x[np.newaxis],
        "found ()": 0.5,
        "found (2, 1, 32, 32)": x[:, :1],
        "found (2, 32, 32, 3)": x.transpose(0, 2, 3, 1),
        "found (0, 3, 32, 32)": x[:0],
        "found (2, 3, 0, 32)": x[:, :, :0],
        "found (2, 3, 32, 0)": x[..., :0],
        "finite, found nan at index (1, 2, 3, 4)": with_value(math.nan),
        "finite, found inf at index (1, 2, 3, 4)": with_value(math.inf),
        "finite, found -inf at index (1, 2, 3, 4)": with_value(-math.inf),
    }
    for part, value in wrong.items():
        for call in (model, model.taps):
            message = refused(ShapeError, "pixel-values", call, value)
            assert message.startswith("pixel_values ")
            assert part in message
    refused(ShapeError, "pixel-values", model)


def test_pixel_values_beyond_the_models_precision():
    refused(ShapeError, "pixel-values", make_model("classification", precision="float32"), np.full((1, 3, 8, 8), 1e300))


def test_channels_are_named_as_the_config_has_them():
    message = refused(ShapeError, "pixel-values", make_model("classification", tiny(num_channels=1)), pixels())
    assert "(N, 1, H, W)" in message


def test_pixel_values_as_nested_lists_and_in_any_layout():
    model, x = make_model("classification"), pixels(height=8, width=8)
    logits = model(x).logits
    assert np.array_equal(model(x.tolist()).logits, logits)
    assert np.array_equal(model(np.asfortranarray(x)).logits, logits)
    assert np.array_equal(model(x[:, ::-1, ::-1][:, ::-1, ::-1]).logits, logits)


# losses


def plain_cross_entropy(logits: np.ndarray, labels: np.ndarray, ignored: int) -> float:
    """Position by position; logits (N, C, ...), labels (N, ...)."""
    losses = []
    for index in np.ndindex(labels.shape):
        if labels[index] != ignored:
            scores = [float(v) for v in logits[(index[0], slice(None), *index[1:])]]
            losses.append(math.log(sum(math.exp(score) for score in scores)) - scores[labels[index]])
    return sum(losses) / len(losses)


def plain_binary_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    losses = [
        -y * math.log(1 / (1 + math.exp(-v))) - (1 - y) * math.log(1 - 1 / (1 + math.exp(-v)))
        for v, y in zip(logits.ravel(), labels.ravel(), strict=True)
    ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_loss_of_classes(problem_type, dtype):
    model, x = make_model("classification", tiny(problem_type=problem_type)), pixels(3)
    labels = np.array([4, 0, 2], dtype)
    output = model(x, labels)
    assert output.loss == pytest.approx(plain_cross_entropy(output.logits, labels, -100), rel=1e-12)
    assert model(x, labels.reshape(3, 1)).loss == output.loss
    assert model(x, labels.tolist()).loss == output.loss


def test_loss_of_classes_leaves_out_minus_100():
    model, x = make_model("classification"), pixels(3)
    labels = np.array([4, -100, 2])
    output = model(x, labels)
    assert output.loss == pytest.approx(plain_cross_entropy(output.logits, labels, -100), rel=1e-12)
    assert math.isnan(model(x, np.array([-100, -100, -100])).loss)


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_loss_of_several_labels(problem_type):
    model, x = make_model("classification", tiny(problem_type=problem_type)), pixels(2)
    labels = np.array([[0, 1, 1, 0, 0.25], [1, 1, 0, 0, 1]])
    output = model(x, labels)
    assert output.loss == pytest.approx(plain_binary_cross_entropy(output.logits, labels), rel=1e-12)


@pytest.mark.parametrize("problem_type", [None, "regression"])
@pytest.mark.parametrize("labels", [np.array([0.5, -2.0]), np.array([[0.5], [-2.0]]), np.array([1, -2])])
def test_loss_of_regression_with_one_label(problem_type, labels):
    model, x = make_model("classification", tiny(num_labels=1, problem_type=problem_type)), pixels(2)
    output = model(x, labels)
    expected = sum((v - y) ** 2 for v, y in zip(output.logits.ravel(), labels.ravel(), strict=True)) / 2
    assert output.loss == pytest.approx(expected, rel=1e-12)


def test_loss_of_regression_of_one_image():
    model, x = make_model("classification", tiny(num_labels=1)), pixels(1)
    output = model(x, np.array([3.0]))
    assert output.loss == pytest.approx((output.logits[0, 0] - 3) ** 2, rel=1e-12)


def test_loss_of_regression_with_several_labels():
    model, x = make_model("classification", tiny(problem_type="regression")), pixels(2)
    labels = np.linspace(-1, 1, 10).reshape(2, 5)
    output = model(x, labels)
    expected = sum((v - y) ** 2 for v, y in zip(output.logits.ravel(), labels.ravel(), strict=True)) / 10
    assert output.loss == pytest.approx(expected, rel=1e-12)


def test_the_problem_type_is_chosen_anew_for_each_call():
    """transformers writes the first choice into the config; a documented difference."""
    model, x = make_model("classification"), pixels(1)
    first = model(x, np.array([2])).loss
    model(x, np.ones((1, 5)))
    assert model(x, np.array([2])).loss == first
    assert model.config.problem_type is None


@pytest.mark.parametrize("ignored", [255, 0, -1])
def test_loss_of_segmentation(ignored):
    config = tiny(semantic_loss_ignore_index=ignored, output_stride=16)
    model, x = make_model("segmentation", config), pixels(2, height=32, width=48)
    labels = np.random.default_rng(0).integers(0, 5, (2, 7, 9))
    labels[:, 2:4] = ignored
    output = model(x, labels)
    resized = ops.resize_bilinear(output.logits, (7, 9))
    assert output.loss == pytest.approx(plain_cross_entropy(resized, labels, ignored), rel=1e-12)
    assert output.logits.shape == (2, 5, 2, 3)
    same_size = labels[:, :2, :3]
    loss = model(x, same_size).loss
    if (same_size != ignored).any():
        assert loss == pytest.approx(plain_cross_entropy(output.logits, same_size, ignored), rel=1e-12)


def test_loss_of_segmentation_with_nothing_to_count_is_nan():
    model = make_model("segmentation")
    assert math.isnan(model(pixels(), np.full((1, 4, 4), 255)).loss)


def test_loss_in_float32():
    x, labels = pixels(2), np.array([1, 3])
    exact = make_model("classification")(x, labels).loss
    assert make_model("classification", precision="float32")(x, labels).loss == pytest.approx(exact, rel=1e-6)


def test_labels_that_cannot_be_used():
    model, x = make_model("classification"), pixels(2)
    for code, labels in (
        ("labels-shape", np.array([1])),
        ("labels-shape", np.array([1, 2, 3])),
        ("labels-shape", np.ones((2, 4))),
        ("labels-shape", np.ones(2)),
        ("labels-range", np.array([1, 5])),
        ("labels-range", np.array([-1, 2])),
    ):
        refused(ShapeError, code, model, x, labels)
    model = make_model("classification", tiny(problem_type="single_label_classification"))
    refused(ShapeError, "labels-dtype", model, x, np.array([1.0, 2.0]))
    model = make_model("classification", tiny(problem_type="multi_label_classification"))
    refused(ShapeError, "labels-dtype", model, x, np.ones((2, 5), int))
    model = make_model("classification", tiny(num_labels=1))
    refused(ShapeError, "labels-shape", model, x, np.ones(3))
    refused(ShapeError, "labels-dtype", model, x, np.array(["a", "b"]))
    model = make_model("segmentation")
    for code, labels in (
        ("labels-shape", np.zeros(2, int)),
        ("labels-shape", np.zeros((2, 1, 4, 4), int)),
        ("labels-shape", np.zeros((1, 4, 4), int)),
        ("labels-dtype", np.zeros((2, 4, 4))),
        ("labels-range", np.full((2, 4, 4), 5)),
        ("labels-range", np.full((2, 4, 4), -100)),
    ):
        refused(ShapeError, code, model, x, labels)


def test_segmentation_with_one_label_or_none():
    model = make_model("segmentation", tiny(num_labels=1))
    assert model(pixels()).logits.shape == (1, 1, 1, 1)
    message = refused(ConfigError, "config-value", model, pixels(), np.zeros((1, 4, 4), int))
    assert "num_labels" in message
    weights = task_weights("segmentation")
    message = refused(ConfigError, "config-value", MobileViTForSemanticSegmentation, tiny(num_labels=0), weights)
    assert "num_labels" in message


# taps


def test_tap_names_of_the_stem_and_of_a_transformer_layer_in_order():
    names = list(make_model("classification").taps(pixels()))
    assert names[:5] == [
        "pixel_values",
        "mobilevit.conv_stem.convolution",
        "mobilevit.conv_stem.normalization",
        "mobilevit.conv_stem.activation",
        "mobilevit.conv_stem",
    ]
    at = "mobilevit.encoder.layer.2.transformer.layer.0"
    inside = [name.removeprefix(at + ".") for name in names if name.startswith(at + ".")]
    assert inside == [
        "layernorm_before",
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.attention",
        "attention.output.dense",
        "attention.output",
        "attention",
        "layernorm_after",
        "intermediate.dense",
        "intermediate.intermediate_act_fn",
        "intermediate",
        "output.dense",
        "output",
    ]
    assert names[-7:] == [
        "mobilevit.conv_1x1_exp.convolution",
        "mobilevit.conv_1x1_exp.normalization",
        "mobilevit.conv_1x1_exp.activation",
        "mobilevit.conv_1x1_exp",
        "mobilevit",
        "classifier",
        "logits",
    ]


def test_tap_names_of_the_segmentation_head_in_order():
    names = list(make_model("segmentation").taps(pixels()))
    assert names[-9:] == [
        "segmentation_head.aspp.project.convolution",
        "segmentation_head.aspp.project.normalization",
        "segmentation_head.aspp.project.activation",
        "segmentation_head.aspp.project",
        "segmentation_head.aspp",
        "segmentation_head.classifier.convolution",
        "segmentation_head.classifier",
        "segmentation_head",
        "logits",
    ]
    pool = [name.partition("convs.4")[2] for name in names if "aspp.convs.4" in name]
    parts = (
        ".global_pool",
        ".conv_1x1.convolution",
        ".conv_1x1.normalization",
        ".conv_1x1.activation",
        ".conv_1x1",
        "",
    )
    assert tuple(pool) == parts
    assert not any("conv_1x1_exp" in name for name in names)


@pytest.mark.parametrize(("head", "count"), [(None, 282), ("classification", 285), ("segmentation", 310)])
def test_number_of_taps(head, count):
    assert len(make_model(head).taps(pixels())) == count


def test_taps_begin_with_the_pixels_and_end_with_the_logits():
    for head in HEADS:
        model, x = make_model(head, precision="float32"), pixels(dtype=np.float32)
        taps = model.taps(x)
        assert np.array_equal(taps["pixel_values"], x)
        assert "" not in taps
        if head is not None:
            assert np.array_equal(taps["logits"], model(x).logits)
        assert {value.dtype for value in taps.values()} == {np.dtype(np.float32)}


def test_taps_that_are_named_come_alone_and_in_the_order_of_the_forward_pass():
    model, x = make_model("classification"), pixels()
    everything = model.taps(x)
    names = ["logits", "mobilevit.conv_stem", "pixel_values", "mobilevit.encoder.layer.3"]
    some = model.taps(x, iter(names))
    assert list(some) == ["pixel_values", "mobilevit.conv_stem", "mobilevit.encoder.layer.3", "logits"]
    assert all(np.array_equal(some[name], everything[name]) for name in names)
    assert model.taps(x, []) == {}


def test_extras_come_only_when_named():
    model, x = make_model("classification"), pixels(2, height=48, width=80)
    extras = [f"mobilevit.encoder.layer.{i}.{extra}" for i in (2, 3, 4) for extra in ("unfolded", "folded")]
    extras += [
        f"mobilevit.encoder.layer.{layer}.transformer.layer.{i}.attention.attention.{extra}"
        for layer, depth in ((2, 2), (3, 4), (4, 3))
        for i in range(depth)
        for extra in ("scores", "probs")
    ]
    assert not set(extras) & set(model.taps(x))
    taps = model.taps(x, extras)
    assert sorted(taps) == sorted(extras)
    at = "mobilevit.encoder.layer.2."
    assert taps[at + "unfolded"].shape == (2 * 4, 15, 8)
    assert taps[at + "folded"].shape == (2, 8, 6, 10)
    for name, value in taps.items():
        if name.endswith("probs"):
            assert value.shape[1] == 4
            assert value.shape[2] == value.shape[3]
            assert value.min() > 0
            np.testing.assert_allclose(value.sum(axis=-1), 1, rtol=1e-12)
            scores = taps[name.replace("probs", "scores")]
            np.testing.assert_allclose(ops.softmax(scores), value, rtol=1e-12)


def test_scores_are_scaled_by_the_width_of_a_head():
    model, x = make_model("classification"), pixels()
    at = "mobilevit.encoder.layer.2.transformer.layer.0.attention.attention."
    taps = model.taps(x, [at + leaf for leaf in ("query", "key", "scores")])
    query, key = taps[at + "query"][0, :, 2:4], taps[at + "key"][0, :, 2:4]  # the second of four heads of width 2
    np.testing.assert_allclose(taps[at + "scores"][0, 1], query @ key.T / math.sqrt(2), rtol=1e-10, atol=1e-12)


def test_one_tap_may_be_named_by_a_string():
    assert list(make_model("classification").taps(pixels(), "logits")) == ["logits"]


def test_an_unknown_tap_is_an_error_with_a_suggestion():
    model, x = make_model("classification"), pixels()
    message = refused(ConfigError, "tap-unknown", model.taps, x, ["logits", "mobilevit.conv_stm"])
    assert "'mobilevit.conv_stm'" in message
    assert "did you mean 'mobilevit.conv_stem'" in message
    message = refused(ConfigError, "tap-unknown", model.taps, x, ["???"])
    assert "npmobilevit taps" in message
    message = refused(ConfigError, "tap-unknown", model.taps, x, ["segmentation_head"])
    assert "segmentation_head" in message


# state dict, files and pickles


@pytest.mark.parametrize("head", HEADS)
def test_state_dict_has_the_keys_of_transformers(head):
    model = make_model(head, precision="float32")
    expected = expected_parameters(tiny(), head=head)
    state = model.state_dict()
    assert set(state) == {*expected, *counters(expected)}
    assert len(state) == {None: 345, "classification": 347, "segmentation": 377}[head]
    for name, value in state.items():
        if name in expected:
            assert (value.shape, value.dtype) == (expected[name], np.float32)
        else:
            assert (value.shape, value.dtype, int(value)) == ((), np.int64, 0)
    names = list(state)
    at = names.index(
        "conv_stem.normalization.running_var" if head is None else "mobilevit.conv_stem.normalization.running_var"
    )
    assert names[at + 1] == names[at].replace("running_var", "num_batches_tracked")
    again = type(model)(model.config, state)
    assert np.array_equal(again(pixels())[0], model(pixels())[0])


def test_counters_are_kept():
    weights = task_weights()
    model = classifier(weights | counters(weights, 1234))
    state = model.state_dict()
    assert all(int(state[name]) == 1234 for name in counters(weights))


def test_counters_are_copied():
    weights = task_weights()
    given = counters(weights, 5)
    model = classifier(weights | given)
    for value in given.values():
        value[...] = 6
    assert all(int(model.state_dict()[name]) == 5 for name in given)


def test_counters_must_belong_to_the_network_and_be_integers():
    weights = task_weights()
    name = next(iter(counters(weights)))
    for stranger in ({"foo.num_batches_tracked": np.array(0)}, {name: np.zeros((3, 3))}, {name: np.array("x")}):
        try:
            state = classifier(weights | stranger).state_dict()
        except WeightsError:
            continue
        assert "foo.num_batches_tracked" not in state
        assert (state[name].shape, state[name].dtype) == ((), np.int64)


def test_counters_of_a_task_checkpoint_are_kept_by_the_base_model():
    weights = task_weights("segmentation")
    model = MobileViTModel(tiny(), weights | counters(weights, 7), expand_output=False)
    state = model.state_dict()
    assert set(state) == {
        *expected_parameters(tiny(), expand_output=False),
        *counters(random_weights(tiny(), expand_output=False)),
    }
    assert all(int(value) == 7 for name, value in state.items() if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", HEADS)
def test_saving_and_loading(head, precision, tmp_path):
    config = tiny(output_stride=16, id2label={i: f"name {i}" for i in range(5)}, extra={"note": "kept"})
    model = make_model(head, config, precision=precision)
    model.save_pretrained(tmp_path / "new" / "folder")
    again = MODELS[head].from_pretrained(tmp_path / "new" / "folder", precision=precision)
    saved = {"architectures": [MODELS[head].__name__], "dtype": np.dtype(PRECISIONS[precision]).name}
    assert again.config.to_dict() == config.to_dict() | saved
    for (name, value), (same_name, same) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert (name, value.dtype) == (same_name, same.dtype)
        assert np.array_equal(value, same)
    assert np.array_equal(again(pixels())[0], model(pixels())[0])
    model.save_pretrained(str(tmp_path / "new" / "folder"))  # once more, over the first


def test_loading_the_base_model_from_a_task_folder(tmp_path):
    model = make_model("segmentation")
    model.save_pretrained(tmp_path)
    base = MobileViTModel.from_pretrained(tmp_path, expand_output=False, precision="float64")
    states = model(pixels(), output_hidden_states=True).hidden_states
    assert np.array_equal(base(pixels()).last_hidden_state, states[-1])


def test_loading_a_task_from_the_folder_of_another(tmp_path):
    make_model("segmentation").save_pretrained(tmp_path)
    message = refused(WeightsError, "weights-names", MobileViTForImageClassification.from_pretrained, tmp_path)
    assert "missing: mobilevit.conv_1x1_exp" in message


@pytest.mark.parametrize("head", HEADS)
def test_a_model_can_be_pickled(head):
    model = make_model(head)
    copy = pickle.loads(pickle.dumps(model))
    assert type(copy) is type(model)
    assert (copy.config, copy.precision) == (model.config, model.precision)
    assert np.array_equal(copy(pixels())[0], model(pixels())[0])


def test_errors_of_a_model_can_be_pickled():
    for call in (lambda: classifier({}), lambda: make_model("classification")(None), lambda: tiny(patch_size=0)):
        with pytest.raises(NpMobileViTError) as caught:
            call()
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (type(copy), str(copy), copy.code) == (type(caught.value), str(caught.value), caught.value.code)


def test_arguments_after_the_weights_are_named():
    with pytest.raises(TypeError):
        MobileViTForImageClassification(tiny(), task_weights(), "float64")
    with pytest.raises(TypeError):
        MobileViTForImageClassification(tiny(), task_weights(), expand_output=True)
    with pytest.raises(TypeError):
        make_model(None)(pixels(), labels=np.array([1]))


def test_no_warning_on_extreme_but_valid_pixels():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for head in HEADS:
            for precision in ("float32", "float64"):
                model = make_model(head, precision=precision)
                for value in (0.0, 1.0, -1e3, 1e3, 1e-40):
                    x = np.full((1, 3, 9, 9), value)
                    assert np.isfinite(model(x)[0]).all()


def test_models_list_of_this_module_is_complete():
    """A new task must be added to the tests too."""
    heads = {
        kind.head
        for kind in vars(models).values()
        if isinstance(kind, type) and issubclass(kind, models.PreTrainedModel)
    }
    assert heads == set(MODELS) == set(HEADS)


def test_arguments_of_the_wrong_kind_are_refused():
    weights = task_weights()
    with pytest.raises(ConfigError, match="MobileViTConfig"):
        MobileViTForImageClassification({}, weights)
    for wrong in (None, [], {1: np.zeros(3)}):
        with pytest.raises(WeightsError, match="mapping of names"):
            MobileViTForImageClassification(tiny(), wrong)
    name = next(iter(weights))
    with pytest.raises(WeightsError, match="masked"):
        classifier(weights | {name: np.ma.masked_array(weights[name])})
    with pytest.raises(ShapeError, match="masked"):
        classifier(weights)(np.ma.masked_array(pixels()))
    with pytest.raises(ShapeError, match="cannot be read"):
        classifier(weights)([[1.0], [1.0, 2.0]])
    with pytest.raises(ConfigError, match="precision"):
        MobileViTForImageClassification(tiny(), weights, precision=["float32"])


# the fast engine; that it computes the same is tested in tests/engine


def fast_model(head: Any = "classification", config: MobileViTConfig | None = None, **options: Any) -> Any:
    return make_model(head, config, precision="float32", engine="fast", **options)


@pytest.mark.parametrize("workers", ["threads", "processes"])
@pytest.mark.parametrize("head", HEADS)
def test_a_fast_model_answers_as_the_readable_one(head, workers):
    model, x = fast_model(head, workers=workers), pixels(2, height=33, width=64)
    assert (model.engine, model.workers) == ("fast", workers)
    readable = make_model(head)
    for with_states in (False, True):
        output, expected = model(x, output_hidden_states=with_states), readable(x, output_hidden_states=with_states)
        assert type(output) is type(expected)
        assert output.keys() == expected.keys()
        for name in expected:
            pair = (output[name], expected[name]) if name == "hidden_states" else ([output[name]], [expected[name]])
            for actual, witness in zip(*pair, strict=True):
                assert (actual.dtype, actual.shape) == (np.dtype(np.float32), witness.shape)
                assert np.abs(actual - witness).max() < 5e-6 * np.abs(witness).max()
    assert type(model(x, return_dict=False)) is tuple
    model.close()


def test_a_fast_base_model_without_its_last_convolution():
    model, x = fast_model(None, expand_output=False), pixels()
    output, expected = model(x), make_model(None, expand_output=False)(x)
    assert output.keys() == expected.keys() == ("last_hidden_state",)
    assert np.abs(output.last_hidden_state - expected.last_hidden_state).max() < 1e-5
    model.close()


def test_a_fast_model_without_labels_pools():
    config, x = tiny(num_labels=0), pixels(2)
    model = fast_model(config=config)
    expected = make_model("classification", config)(x).logits
    assert np.abs(model(x).logits - expected).max() < 5e-6 * np.abs(expected).max()
    model.close()


def test_losses_of_a_fast_model():
    x, labels = pixels(2), np.array([1, 3])
    model = fast_model()
    assert model(x, labels).loss == pytest.approx(make_model("classification")(x, labels).loss, rel=1e-5)
    model.close()
    model, maps = fast_model("segmentation"), np.ones((2, 32, 32), int)
    assert model(x, maps).loss == pytest.approx(make_model("segmentation")(x, maps).loss, rel=1e-5)
    model.close()


def test_the_plan_of_a_fast_model():
    model = fast_model(config=tiny(image_size=[48, 80]))
    plan = model.plan()
    assert (plan.engine, plan.reason, plan.size) == ("fast", None, (48, 80))
    assert plan.stages > 10
    assert plan.calls > 100
    assert str(plan).startswith("48 x 80 pixels: the fast engine, ")
    assert model.plan(64).size == (64, 80)
    assert model.plan(width=np.int64(96)).size == (48, 96)
    model.close()


# what keeps the fast engine from running: (settings, height and width, what the reason tells)
OUT_OF_REACH = {
    "flat": ({}, (31, 64), "31 x 64"),
    "narrow": ({}, (64, 9), "64 x 9"),
    "activation": ({"hidden_act": "relu"}, (32, 32), "hidden_act 'silu', and the config has 'relu'"),
    "patches": ({"patch_size": 4}, (64, 64), "patch_size 2, and the config has 4"),
    "kernels": ({"conv_kernel_size": 5}, (32, 32), "conv_kernel_size 3, and the config has 5"),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", OUT_OF_REACH)
def test_where_the_fast_engine_does_not_reach_the_readable_network_runs(case, head):
    settings, (height, width), reason = OUT_OF_REACH[case]
    config, x = tiny(**settings), pixels(2, height=height, width=width)
    model, readable = fast_model(head, config), make_model(head, config, precision="float32")
    plan = model.plan(height, width)
    assert (plan.engine, plan.size, plan.calls) == ("reference", (height, width), 0)
    assert reason in plan.reason
    assert str(plan) == f"{height} x {width} pixels: the readable network, because {plan.reason}"
    output, expected = (one(x, output_hidden_states=True).to_tuple() for one in (model, readable))
    assert all(np.array_equal(a, b) for a, b in zip(output[:-1], expected[:-1], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(output[-1], expected[-1], strict=True))
    kind = ShapeError if case in ("flat", "narrow") else ConfigError  # a matter of the picture, or of the model
    assert reason in refused(kind, "engine-not-in-use", model.engine_taps, x)
    model.close()


def test_the_plan_of_a_readable_model():
    model = make_model("classification")
    assert model.plan(64, 64).reason == "the model was made with engine 'reference'"
    assert "engine 'reference'" in refused(ConfigError, "engine-not-in-use", model.engine_taps, pixels())
    model.close()  # holds nothing


@pytest.mark.parametrize("size", [(0, 64), (64, -1), (2.5, 64), ("64", 64), (True, 64)])
@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_a_plan_is_one_for_a_size(size, engine):
    model = make_model("classification", precision="float32", engine=engine)
    with pytest.raises(ShapeError):
        model.plan(*size)


@pytest.mark.parametrize("head", HEADS)
def test_taps_of_the_fast_engine_are_some_of_the_readable_ones(head):
    model, x = fast_model(head), pixels(height=47, width=64)
    taps, readable = model.engine_taps(x), make_model(head).taps(x)
    assert list(taps) == [name for name in readable if name in taps]
    assert next(iter(taps)) == "pixel_values"
    assert ("logits" in taps) == (head is not None)
    for name, value in taps.items():
        assert (value.dtype, value.shape) == (np.dtype(np.float32), readable[name].shape)
        assert np.abs(value - readable[name]).max() < 5e-6 * np.abs(readable[name]).max(), name
    model.close()


def test_taps_of_a_fast_model_are_those_of_the_readable_network():
    taps = fast_model().taps(pixels())
    readable = make_model("classification", precision="float32").taps(pixels())
    assert list(taps) == list(readable)
    assert all(np.array_equal(value, readable[name]) for name, value in taps.items())


def test_a_fast_model_refuses_the_same_pixels():
    model = fast_model()
    refused(ShapeError, "pixel-values", model, np.zeros((1, 3, 64, 64), np.uint8))
    refused(ShapeError, "pixel-values", model, np.full((1, 3, 64, 64), np.nan))
    refused(ShapeError, "pixel-values", model, np.zeros((0, 3, 64, 64)))
    refused(ShapeError, "pixel-values", model.engine_taps, np.zeros((1, 64, 64)))


def test_no_warning_of_the_fast_engine_on_extreme_but_valid_pixels():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for head in HEADS:
            model = fast_model(head)
            for value in (0.0, 1.0, -1e3, 1e3, 1e-40):
                assert np.isfinite(model(np.full((1, 3, 32, 32), value))[0]).all()
            model.close()


@pytest.mark.parametrize("head", HEADS)
def test_a_fast_model_is_saved_and_loaded_as_any(head, tmp_path):
    model = fast_model(head)
    model.save_pretrained(tmp_path)
    again = MODELS[head].from_pretrained(tmp_path, engine="fast", workers="processes")
    assert (again.engine, again.workers) == ("fast", "processes")
    assert MODELS[head].from_pretrained(tmp_path).engine == "reference"
    assert np.array_equal(again(pixels())[0], model(pixels())[0])
    for one in (model, again):
        one.close()
