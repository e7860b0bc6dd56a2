"""The models against transformers on torch: every tap, output, loss and file.

Run ``pytest -m framework tests/framework/test_models_hf.py -s`` to see the largest errors at the end.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import networks
import numpy as np
import pytest
from networks import VARIANTS, pixels, random_weights, relative_error, tiny

from npmobilevit import models
from npmobilevit.config import MobileViTConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]

HF = {
    None: transformers.MobileViTModel,
    "classification": transformers.MobileViTForImageClassification,
    "segmentation": transformers.MobileViTForSemanticSegmentation,
}

# Largest difference over the tensor's largest value. float64: rounding. float32: both sides round, in another order.
TAP_LIMIT = {"float64": 1e-12, "float32": 3e-5}
LOGITS_LIMIT = {
    ("classification", "float64"): 1e-12,
    ("segmentation", "float64"): 1e-12,
    ("classification", "float32"): 5e-6,
    ("segmentation", "float32"): 2e-5,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The maps are small: threads would only wait for one another, and for other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def worst() -> Iterator[dict[tuple[str, str], tuple[float, str]]]:
    """Collects the largest error of each kind, and prints them at the end."""
    found: dict[tuple[str, str], tuple[float, str]] = {}
    yield found
    print("\nlargest error, relative to the largest value of the tensor")
    for (kind, precision), (error, where) in sorted(found.items()):
        print(f"  {kind:28} {precision}  {error:.1e}  {where}")


def note(worst: dict, kind: str, precision: str, error: float, where: str) -> None:
    worst[kind, precision] = max(worst.get((kind, precision), (0.0, "")), (error, where))


def hf_config(config: MobileViTConfig) -> Any:
    settings = config.to_dict()
    return transformers.MobileViTConfig(**{key: value for key, value in settings.items() if key != "model_type"})


def build(config: MobileViTConfig, head: Any, precision: str, *, expand_output: bool = True, seed: int = 0) -> tuple:
    """The model of transformers and ours, with the same weights."""
    weights = random_weights(config, head, expand_output=expand_output, seed=seed, dtype=precision)
    options = {} if head else {"expand_output": expand_output}
    theirs = HF[head](hf_config(config), **options).to(getattr(torch, precision)).eval()
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    loaded = theirs.load_state_dict(tensors, strict=False)
    assert loaded.unexpected_keys == []
    assert all(name.endswith("num_batches_tracked") for name in loaded.missing_keys)
    assert {name: tuple(value.shape) for name, value in theirs.state_dict().items() if value.is_floating_point()} == {
        name: value.shape for name, value in weights.items()
    }
    ours = networks.MODELS[head](config, weights, precision=precision, **options)
    return theirs, ours


def hooked(model: Any, x: np.ndarray) -> tuple[dict[str, np.ndarray], Any]:
    """The first tensor that each module returns, in the order in which they finish; and the output."""
    values: dict[str, np.ndarray] = {}
    handles = []
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):

            def hook(module: Any, inputs: Any, output: Any, name: str = name) -> None:
                values[name] = (output if isinstance(output, torch.Tensor) else output[0]).numpy()

            handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        output = model(pixel_values=torch.from_numpy(x))
    for handle in handles:
        handle.remove()
    return values, output


def compare(worst: dict, where: str, config: MobileViTConfig, head: str, n: int, size: tuple[int, int]) -> None:
    for precision in ("float64", "float32"):
        theirs, ours = build(config, head, precision)
        x = pixels(n, config.num_channels, *size, dtype=precision)
        expected, output = hooked(theirs, x)
        taps = ours.taps(x)
        assert list(taps) == ["pixel_values", *expected, "logits"]
        for name, value in expected.items():
            error = relative_error(taps[name], value)
            note(worst, f"taps, {head}", precision, error, f"{where} {name}")
            assert error < TAP_LIMIT[precision], f"{where}: {name} in {precision}"
        error = relative_error(taps["logits"], output.logits.numpy())
        note(worst, f"logits, {head}", precision, error, where)
        assert error < LOGITS_LIMIT[head, precision], f"{where}: logits in {precision}"


# the published variants


@pytest.mark.parametrize(("variant", "size"), [("xxs", (256, 256)), ("xs", (96, 128)), ("s", (64, 96))])
def test_classification(variant, size, worst):
    config = MobileViTConfig(**VARIANTS[variant], num_labels=1000)
    compare(worst, f"{variant} {size}", config, "classification", 1, size)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(("variant", "size"), [("xxs", (96, 128)), ("xs", (64, 96)), ("s", (64, 64))])
def test_segmentation(variant, size, output_stride, worst):
    config = MobileViTConfig(**VARIANTS[variant], num_labels=21, output_stride=output_stride)
    compare(worst, f"{variant} {size} stride {output_stride}", config, "segmentation", 1, size)


# config and size variations: what is changed, images, size. Half with the widths of xxs, half with the tiny ones.
XXS: dict[str, Any] = {**VARIANTS["xxs"], "num_labels": 7, "aspp_out_channels": 32}
VARIATIONS: list[tuple[dict[str, Any], int, tuple[int, int]]] = [
    ({}, 2, (64, 64)),
    ({}, 3, (33, 47)),
    ({}, 1, (200, 72)),
    ({}, 1, (1, 1)),
    ({}, 2, (5, 130)),
    ({"patch_size": 1}, 1, (48, 80)),
    ({"patch_size": 3}, 2, (50, 70)),
    ({"patch_size": 4}, 1, (75, 64)),
    ({"conv_kernel_size": 1}, 1, (48, 64)),
    ({"conv_kernel_size": 5}, 2, (41, 64)),
    ({"qkv_bias": False}, 1, (64, 48)),
    ({"num_attention_heads": 8, "hidden_sizes": [64, 80, 96]}, 1, (64, 64)),
    ({"num_attention_heads": 1}, 1, (64, 64)),
    ({"mlp_ratio": 2.3}, 1, (40, 56)),
    ({"mlp_ratio": 3.0}, 2, (32, 32)),
    ({"layer_norm_eps": 1e-3}, 1, (64, 64)),
    ({"expand_ratio": 1.0}, 1, (64, 64)),
    ({"expand_ratio": 2.5, "neck_hidden_sizes": [17, 19, 21, 23, 25, 27, 29]}, 1, (64, 64)),
    ({"neck_hidden_sizes": [16] * 7, "output_stride": 8}, 1, (64, 80)),
    ({"neck_hidden_sizes": [24] * 7, "output_stride": 16}, 1, (63, 80)),
    ({"num_channels": 1}, 2, (64, 64)),
    ({"num_channels": 4}, 1, (64, 64)),
    ({"num_labels": 1}, 2, (64, 64)),
    ({"num_labels": 0}, 2, (64, 64)),
    ({"atrous_rates": [3, 1, 2], "output_stride": 8}, 1, (96, 64)),
    ({"hidden_act": "relu"}, 1, (64, 64)),
    ({"hidden_act": "relu6"}, 1, (64, 64)),
    ({"hidden_act": "gelu"}, 2, (45, 64)),
    ({"hidden_act": "gelu_new"}, 1, (64, 64)),
    ({"hidden_act": "quick_gelu", "output_stride": 16}, 1, (64, 64)),
    ({"hidden_act": "hardswish"}, 1, (64, 64)),
    ({"hidden_act": "mish"}, 1, (64, 64)),
    ({"hidden_act": "leaky_relu"}, 1, (64, 64)),
    ({"hidden_act": "tanh"}, 1, (64, 64)),
    ({"hidden_act": "swish", "patch_size": 3, "output_stride": 8, "conv_kernel_size": 5}, 2, (37, 90)),
]


@pytest.mark.parametrize(("changes", "n", "size"), VARIATIONS, ids=str)
@pytest.mark.parametrize("head", ["classification", "segmentation"])
def test_variations(changes, n, size, head, worst):
    if head == "segmentation" and changes.get("num_labels") == 0:
        return  # transformers' own network fails
    compare(worst, f"{changes} {n}x{size}", MobileViTConfig(**{**XXS, **changes}), head, n, size)


# outputs


def assert_same(ours: Any, theirs: Any, limit: float) -> None:
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b, limit)
    elif theirs.ndim == 0:
        assert ours == pytest.approx(float(theirs), rel=limit)
    else:
        assert relative_error(ours, theirs.numpy()) < limit


CALLS = [{"output_hidden_states": s, "return_dict": d} for s in (None, True, False) for d in (None, True, False)]
DEFAULTS = [{}, {"output_hidden_states": True, "return_dict": False}]


@pytest.mark.parametrize("defaults", DEFAULTS, ids=str)
@pytest.mark.parametrize(
    ("head", "expand_output"), [(None, True), (None, False), ("classification", True), ("segmentation", True)]
)
def test_fields_of_the_outputs(head, expand_output, defaults):
    theirs, ours = build(tiny(**defaults), head, "float64", expand_output=expand_output)
    x = pixels(2, height=40, width=56)
    labels = {"classification": np.array([1, 4]), "segmentation": np.ones((2, 9, 8), np.int64)}
    for call in CALLS:
        for with_labels in (False, True) if head else (False,):
            given = {"labels": labels[head]} if with_labels else {}
            tensors = {name: torch.from_numpy(value) for name, value in given.items()}
            with torch.no_grad():
                expected = theirs(pixel_values=torch.from_numpy(x), **tensors, **call)
            output = ours(pixel_values=x, **given, **call)
            if isinstance(expected, tuple):
                assert type(output) is tuple
                assert_same(output, expected, 1e-12)
            else:
                assert type(output).__name__ == type(expected).__name__
                assert list(output.keys()) == list(expected.keys())
                assert_same(output.to_tuple(), expected.to_tuple(), 1e-12)
                fields = type(expected).__dataclass_fields__
                assert all(getattr(output, name) is None for name in fields if expected.get(name) is None)


# losses

LOSSES: dict[str, tuple[dict[str, Any], Any]] = {
    "classes": ({}, np.array([1, 4, 0])),
    "classes, named": ({"problem_type": "single_label_classification"}, np.array([1, 4, 0])),
    "classes, some left out": ({}, np.array([1, -100, 0])),
    "classes, all left out": ({}, np.array([-100, -100, -100])),
    "several labels": ({}, np.array([[0, 1, 1, 0, 0.5], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])),
    "several labels, named": ({"problem_type": "multi_label_classification"}, np.eye(3, 5)),
    "regression of one": ({"num_labels": 1}, np.array([0.5, -1.5, 2.0])),
    "regression of one, as a column": ({"num_labels": 1}, np.array([[0.5], [-1.5], [2.0]])),
    "regression of several": ({"problem_type": "regression"}, np.linspace(-1, 1, 15).reshape(3, 5)),
}


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("case", LOSSES)
def test_classification_losses(case, precision, worst):
    changes, labels = LOSSES[case]
    labels = labels.astype(precision) if labels.dtype.kind == "f" else labels
    theirs, ours = build(tiny(**changes), "classification", precision)
    x = pixels(3, dtype=precision)
    with torch.no_grad():
        expected = float(theirs(pixel_values=torch.from_numpy(x), labels=torch.from_numpy(labels)).loss)
    check_loss(worst, ours(x, labels).loss, expected, precision, case)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("ignored", [255, 0, -100])
@pytest.mark.parametrize("size", [(33, 47), (2, 3), (1, 1)])
def test_segmentation_loss(size, ignored, precision, worst):
    theirs, ours = build(tiny(semantic_loss_ignore_index=ignored, output_stride=16), "segmentation", precision)
    x = pixels(2, height=32, width=48, dtype=precision)
    labels = np.random.default_rng(0).integers(0, 5, (2, *size))
    labels[0] = ignored
    labels[1, 0, 0] = 3
    with torch.no_grad():
        expected = float(theirs(pixel_values=torch.from_numpy(x), labels=torch.from_numpy(labels)).loss)
    check_loss(worst, ours(x, labels).loss, expected, precision, f"segmentation {size}")


def test_segmentation_loss_of_nothing_is_nan():
    theirs, ours = build(tiny(), "segmentation", "float64")
    labels = np.full((1, 4, 4), 255)
    with torch.no_grad():
        assert math.isnan(theirs(torch.from_numpy(pixels()), torch.from_numpy(labels)).loss)
    assert math.isnan(ours(pixels(), labels).loss)


def check_loss(worst: dict, loss: float, expected: float, precision: str, where: str) -> None:
    assert type(loss) is float
    if math.isnan(expected):
        assert math.isnan(loss)
        return
    error = abs(loss - expected) / abs(expected)
    note(worst, "loss", precision, error, where)
    assert error < {"float32": 1e-6, "float64": 1e-12}[precision]


# the base model


@pytest.mark.parametrize("expand_output", [True, False])
def test_base_model(expand_output, worst):
    for precision in ("float64", "float32"):
        theirs, ours = build(tiny(), None, precision, expand_output=expand_output)
        x = pixels(2, height=37, width=64, dtype=precision)
        expected, _ = hooked(theirs, x)
        taps = ours.taps(x)
        assert list(taps) == ["pixel_values", *expected]
        for name, value in expected.items():
            error = relative_error(taps[name], value)
            note(worst, "taps, base model", precision, error, name)
            assert error < TAP_LIMIT[precision]


# folders


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("head", [None, "classification", "segmentation"])
def test_a_folder_of_transformers_is_read(head, precision, tmp_path):
    config = tiny(id2label={i: f"name {i}" for i in range(5)}, output_stride=16)
    theirs, ours = build(config, head, precision)
    theirs.save_pretrained(tmp_path)
    read = networks.MODELS[head].from_pretrained(tmp_path, precision=precision)
    assert read.config.id2label == config.id2label
    for name, value in ours.state_dict().items():
        assert np.array_equal(read.state_dict()[name], value), name
    x = pixels(2, dtype=precision)
    assert np.array_equal(read(x)[0], ours(x)[0])


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("head", [None, "classification", "segmentation"])
def test_our_folder_is_read_by_transformers(head, precision, tmp_path):
    config = tiny(id2label={i: f"name {i}" for i in range(5)}, output_stride=16, extra={"note": "kept"})
    theirs, ours = build(config, head, precision)
    ours.save_pretrained(tmp_path)
    read, information = HF[head].from_pretrained(tmp_path, output_loading_info=True)
    for kind, problems in information.items():
        assert not problems, (kind, problems)
    assert str(read.dtype) == f"torch.{precision}"
    assert read.config.id2label == config.id2label
    assert read.config.note == "kept"
    expected = theirs.state_dict()
    for name, value in read.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert list(read.state_dict()) == list(expected)


def test_a_task_folder_of_transformers_gives_a_base_model(tmp_path):
    theirs, _ = build(tiny(), "segmentation", "float64")
    theirs.save_pretrained(tmp_path)
    x = pixels()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x), output_hidden_states=True).hidden_states[-1].numpy()
    read = models.MobileViTModel.from_pretrained(tmp_path, precision="float64", expand_output=False)
    assert relative_error(read(x).last_hidden_state, expected) < 1e-12
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["model_type"] == "mobilevit"
