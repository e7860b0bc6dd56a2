"""The golden files are whole and readable, and npmobilevit gives what they say. Nothing here writes to reference/."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from npmobilevit import models, network, ops
from npmobilevit.config import HIDDEN_ACTS, MobileViTConfig, expected_parameters
from npmobilevit.image_processing import MobileViTImageProcessor
from npmobilevit.scope import EXTRA_TAPS, OpTable, Scope, ignore

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "reference"
GOLDEN = REFERENCE / "golden"
SHIPPED = ROOT / "npmobilevit" / "checkpoints" / "shipped"
MODEL_FILES = sorted((GOLDEN / "models").glob("*.safetensors"))
OPERATOR_FILES = sorted((GOLDEN / "operators").glob("*.safetensors"))
CHECKPOINT_FILES = sorted((GOLDEN / "checkpoints").glob("*.safetensors"))
NAME_FILES = sorted((REFERENCE / "names").glob("*.json"))
ALL_FILES = sorted(GOLDEN.rglob("*.safetensors"))

# Relative to the largest value of a tensor (issue: taps and logits of float32)
FLOAT64 = 1e-12
FLOAT32_TAPS = 3e-5
FLOAT32_LOSS = 5e-6  # it inherits the rounding of the logits, up to 60 here; of equal logits it is far below 1e-6
FLOAT32_LOGITS = {"classification": 5e-6, "base": 5e-6, "segmentation": 2e-5}

CLASSES: Mapping[str, type[models.PreTrainedModel]] = {
    "classification": models.MobileViTForImageClassification,
    "segmentation": models.MobileViTForSemanticSegmentation,
    "base": models.MobileViTModel,
}

Arrays = Mapping[str, np.ndarray]


class Golden(NamedTuple):
    """A golden file: its tensors, aliases resolved, and its metadata with the JSON parsed."""

    tensors: dict[str, np.ndarray]
    facts: dict[str, Any]

    def select(self, names: list[str]) -> dict[str, np.ndarray]:
        return {name: self.tensors[name] for name in names}

    def weights(self) -> dict[str, np.ndarray]:
        prefix = "weights."
        return {n.removeprefix(prefix): v for n, v in self.tensors.items() if n.startswith(prefix)}


@functools.cache
def read(path: Path) -> Golden:
    with safe_open(path, "np") as file:
        facts = {key: _parsed(value) for key, value in file.metadata().items()}
        names = sorted(file.keys(), key=lambda name: _offset(path)[name])  # in the order of the file
        tensors = {name: file.get_tensor(name) for name in names}
    tensors |= {name: tensors[stored] for name, stored in facts["aliases"].items()}
    for value in tensors.values():
        value.flags.writeable = False
    return Golden(tensors, facts)


@functools.cache
def _offset(path: Path) -> dict[str, int]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


def _parsed(value: str) -> Any:
    return json.loads(value) if value[:1] in "[{" else value


def difference(ours: np.ndarray, golden: np.ndarray) -> float:
    """Largest difference over the largest golden value; infinite for NaN and for another shape."""
    if ours.shape != golden.shape:
        return math.inf
    largest = max(float(np.abs(golden).max(initial=0)), 1e-300)
    worst = float(np.abs(ours.astype(np.float64) - golden.astype(np.float64)).max(initial=0)) / largest
    return worst if worst == worst else math.inf


def differing(ours: Arrays, golden: Arrays, tolerance: float) -> list[str]:
    """Names, in order, of the tensors that differ. Other names, or another order of them, are an error."""
    return [
        name
        for (our_name, value), (name, expected) in zip(ours.items(), golden.items(), strict=True)
        if our_name != name or difference(value, expected) > tolerance
    ]


def build(golden: Golden, precision: str) -> Any:
    config = MobileViTConfig.from_dict(golden.facts["config"])
    return CLASSES[golden.facts["task"]](config, golden.weights(), precision=precision)


def by_stem(paths: list[Path]) -> dict[str, Any]:
    return {"argvalues": paths, "ids": [path.stem for path in paths]}


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_written() -> Iterator[None]:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in REFERENCE.rglob("*")}
    yield
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in REFERENCE.rglob("*")} == before


# The files ---------------------------------------------------------------------------------------------------------


def test_the_cases_cover_every_structural_branch() -> None:
    cases = [read(path).facts for path in MODEL_FILES]
    configs = [case["config"] for case in cases]

    def values(field: str) -> set[Any]:
        return {config[field] for config in configs}

    assert {case["task"] for case in cases} == {"classification", "segmentation", "base"}
    assert values("output_stride") == {8, 16, 32}
    assert values("patch_size") == {1, 2, 3}
    assert values("conv_kernel_size") == {1, 3, 5}
    assert values("qkv_bias") == {True, False}
    assert values("num_labels") >= {0, 1, 5}
    assert values("num_channels") == {1, 3}
    assert len(values("num_attention_heads")) > 1
    assert len(values("expand_ratio")) > 1
    assert len(values("mlp_ratio")) > 1
    assert len(values("layer_norm_eps")) > 1
    assert len(values("hidden_act")) >= 6
    necks = [config["neck_hidden_sizes"] for config in configs]
    assert {neck[0] == neck[1] for neck in necks} == {True, False}, "residual in layer 0: with and without"
    dilated = [c["neck_hidden_sizes"] for c in configs if c["output_stride"] == 8]
    assert any(neck[4] == neck[5] for neck in dilated), "residual in a dilated MobileViT layer"
    shapes = [read(path).tensors["pixel_values"].shape for path in MODEL_FILES]
    assert any(shape[0] > 1 for shape in shapes)
    assert any(shape[2] % 2 and shape[3] % 2 for shape in shapes)


@pytest.mark.parametrize("path", **by_stem(ALL_FILES))
def test_metadata_and_hashes_are_right(path: Path) -> None:
    tensors, facts = read(path)
    assert facts["format"] == "npmobilevit-golden/1"
    assert facts["case"] == path.stem
    assert facts["generator"] == "tools/make_reference.py"
    assert facts["versions"].keys() >= {"torch", "transformers", "numpy", "python"}
    stored = {n: v for n, v in tensors.items() if n not in facts["aliases"] and not n.startswith("weights.")}
    assert facts["sha256"] == {name: sha256_of(value) for name, value in stored.items()}
    keys = [(v.dtype, v.shape, v.tobytes()) for n, v in tensors.items() if n not in facts["aliases"]]
    assert len(set(keys)) == len(keys), "equal arrays are stored once"
    assert all(np.isfinite(value).all() for value in tensors.values())
    if "input_sha256" in facts:
        assert facts["input_sha256"] == sha256_of(tensors["pixel_values"])


@pytest.mark.parametrize("path", **by_stem(MODEL_FILES))
def test_a_model_file_is_complete_and_well_scaled(path: Path) -> None:
    golden = read(path)
    facts = golden.facts
    hashes = "".join(sha256_of(value) for value in golden.weights().values())
    assert facts["weights_sha256"] == hashlib.sha256(hashes.encode()).hexdigest()
    assert facts["precision"] == "float64"
    assert len(facts["catches"]) > 20
    taps = golden.select(facts["taps"] + facts["extra_taps"])
    others = {n for n in golden.tensors if n.startswith(("weights.", "outputs.")) or n == "labels"}
    assert taps.keys() | others == golden.tensors.keys()
    for name, value in taps.items():
        assert value.dtype == np.float64
        assert 1e-2 < np.abs(value).max() < 1e3, f"{name}: a wrong port might agree with it"


def sha256_of(array: np.ndarray) -> str:
    data = array.astype("<f8") if array.dtype.kind == "f" else array
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def test_all_of_it_is_small() -> None:
    def size(*folders: str) -> int:
        paths = [path for folder in folders for path in (REFERENCE / folder).rglob("*")]
        return sum(path.stat().st_size for path in paths if path.is_file())

    golden, guide = size("golden", "names", "images", "figures"), size("guide")
    assert golden < 12_000_000
    assert guide < 800_000
    assert size(".") - golden - guide < 1_500_000


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REFERENCE / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_names_every_case_and_its_reader_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REFERENCE / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.stem}`" in text for path in MODEL_FILES)
    assert "chelsea.png`: CC0 by Stefan van der Walt" in text
    assert "coffee.png`: CC0 by Rachel Michetti" in text
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(code_blocks()[0], names)
    assert capsys.readouterr().out.splitlines()[1] == "mobilevit.conv_stem.convolution (1, 4, 32, 16)"
    for path in ALL_FILES:
        tensors, _ = names["read"](path)
        ours = read(path).tensors
        assert tensors.keys() == ours.keys()
        assert all(np.array_equal(tensors[name], ours[name]) for name in ours)


@pytest.mark.parametrize("path", **by_stem(MODEL_FILES))
def test_weights_and_input_follow_from_the_recipe(path: Path) -> None:
    """With the plain Python of the README: the cases are reproducible in any language."""
    names: dict[str, Any] = {}
    exec(code_blocks()[1], names)
    golden = read(path)
    seed = golden.facts["seed"]
    pixels = golden.tensors["pixel_values"]
    for i in {1, pixels.size // 2 + 1, pixels.size}:
        assert pixels.flat[i - 1] == (names["number"](seed, "pixel_values", i) + 1) / 2
    for name, value in golden.weights().items():
        u = names["number"](seed, name, value.size)
        if value.ndim > 1:
            u *= math.sqrt((8 if value.ndim == 4 else 5) / math.prod(value.shape[1:]))
        elif name.endswith("running_var"):
            u = 1 + 0.5 * u
        else:
            u = 1 + 0.4 * u if name.endswith("weight") else 0.3 * u
        assert value.dtype == np.float32
        assert value.flat[-1] == np.float32(u), name


# Networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", **by_stem(MODEL_FILES))
def test_every_tap_in_float64(path: Path) -> None:
    golden = read(path)
    model = build(golden, "float64")
    pixels = golden.tensors["pixel_values"]
    taps = model.taps(pixels)
    assert {value.dtype for value in taps.values()} == {np.dtype(np.float64)}
    assert differing(taps, golden.select(golden.facts["taps"]), FLOAT64) == []
    extras = model.taps(pixels, names=golden.facts["extra_taps"])
    assert differing(extras, golden.select(golden.facts["extra_taps"]), FLOAT64) == []


@pytest.mark.parametrize("path", **by_stem(MODEL_FILES))
def test_every_tap_in_float32(path: Path) -> None:
    golden = read(path)
    taps = build(golden, "float32").taps(golden.tensors["pixel_values"].astype(np.float32))
    assert {value.dtype for value in taps.values()} == {np.dtype(np.float32)}
    assert differing(taps, golden.select(golden.facts["taps"]), FLOAT32_TAPS) == []
    if "logits" in taps:
        assert difference(taps["logits"], golden.tensors["logits"]) <= FLOAT32_LOGITS[golden.facts["task"]]


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("path", **by_stem(MODEL_FILES))
def test_outputs_and_loss(path: Path, precision: str) -> None:
    golden = read(path)
    arguments = {"labels": golden.tensors["labels"]} if "labels" in golden.tensors else {}
    pixels = golden.tensors["pixel_values"].astype(precision)
    output = build(golden, precision)(pixels, output_hidden_states=True, **arguments)
    ours = {f"hidden_states.{i}": value for i, value in enumerate(output["hidden_states"])}
    ours |= {name: np.asarray(output[name]) for name in output if name not in ("hidden_states", "logits")}
    expected = {n.removeprefix("outputs."): v for n, v in golden.tensors.items() if n.startswith("outputs.")}
    tolerance = FLOAT64 if precision == "float64" else FLOAT32_TAPS
    assert len(expected) >= 5
    if "loss" in expected:
        assert differing({"loss": ours["loss"]}, {"loss": expected["loss"]}, min(tolerance, FLOAT32_LOSS)) == []
    assert differing(dict(sorted(ours.items())), dict(sorted(expected.items())), tolerance) == []


def test_vectors_of_the_sine_recipe() -> None:
    """Weights from a formula; the numbers of spec.md 1.8, here with all their digits."""
    content = json.loads((GOLDEN / "sine_recipe.json").read_text())
    transcribed = [-1.42417426, -0.046560489, 1.65238743, -1.61815771, 0.471115856]
    assert content["cases"][0]["first_logits"] == pytest.approx(transcribed, rel=1e-8)
    assert content["cases"][3]["sum_of_logits"] == pytest.approx(-130.020432, rel=1e-8)
    assert len(content["cases"]) == 4
    for case in content["cases"]:
        config = MobileViTConfig.from_dict(case["config"])
        shapes = expected_parameters(config, head=case["task"])
        counters = [n.replace("running_var", "num_batches_tracked") for n in shapes if n.endswith("running_var")]
        weights = {
            name: sine_parameter(n, name, shapes[name])
            for n, name in enumerate(sorted([*shapes, *counters]))
            if name in shapes
        }
        i = np.arange(math.prod(case["input_shape"]))
        pixels = (0.5 + 0.5 * np.sin(0.01 * i + 0.37 * (i // 97))).reshape(case["input_shape"])
        output = CLASSES[case["task"]](config, weights, precision="float64")(pixels, output_hidden_states=True)
        assert list(output.logits.shape) == case["logits_shape"]
        np.testing.assert_allclose(output.logits.flat[:5], case["first_logits"], rtol=1e-10)
        assert output.logits.sum() == pytest.approx(case["sum_of_logits"], rel=1e-10)
        sums = [value.sum() for value in output.hidden_states]
        np.testing.assert_allclose(sums, case["sums_of_hidden_states"], rtol=1e-10)


def sine_parameter(position: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    s = np.sin(0.7 * np.arange(math.prod(shape)) + 1.3 * position).reshape(shape)
    if len(shape) > 1:
        return s * math.sqrt(2 / math.prod(shape[1:]))
    if name.endswith("running_var"):
        return 1 + 0.5 * s
    return 1 + 0.3 * s if name.endswith("weight") else 0.1 * s


def test_every_shipped_checkpoint_has_a_golden_file() -> None:
    shipped = sorted(path.parent.name for path in SHIPPED.glob("*/model.safetensors"))
    assert [path.stem for path in CHECKPOINT_FILES] == shipped, "run tools/make_reference.py --only checkpoints"


@pytest.mark.parametrize("path", **by_stem(CHECKPOINT_FILES))
def test_trained_checkpoint_from_picture_to_logits(path: Path) -> None:
    check_checkpoint(read(path), SHIPPED / path.stem)


def check_checkpoint(golden: Golden, folder: Path) -> None:
    tensors, facts = golden
    assert facts["weights_file_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    pictures = [ROOT / name for name in facts["images"]]
    assert facts["images_sha256"] == [hashlib.sha256(picture.read_bytes()).hexdigest() for picture in pictures]
    images = [np.asarray(Image.open(picture).convert("RGB")) for picture in pictures]
    own = MobileViTImageProcessor.from_pretrained(folder)
    processor = MobileViTImageProcessor.from_dict(facts["processor"])
    assert dataclasses.replace(own, size=processor.size) == processor  # a segmenter's picture is smaller here
    pixels = processor(images)["pixel_values"]
    np.testing.assert_array_equal(pixels, tensors["pixel_values"], strict=True)
    expected = golden.select(facts["taps"])
    assert len(expected) > 30
    for precision, tolerance, logits in (("float64", FLOAT64, FLOAT64), ("float32", FLOAT32_TAPS, 5e-6)):
        model = CLASSES[facts["task"]].from_pretrained(folder, precision=precision)
        taps = model.taps(pixels.astype(precision), names=facts["taps"])
        assert differing(taps, expected, tolerance) == []
        assert difference(taps["logits"], expected["logits"]) <= logits


# Mistakes ----------------------------------------------------------------------------------------------------------


def flipped_conv2d(x: Any, *, weight: Any, **rest: Any) -> Any:
    return ops.conv2d(x, weight=weight[..., ::-1, ::-1], **rest)


def undilated_conv2d(x: Any, *, padding: int, dilation: int, **rest: Any) -> Any:
    return ops.conv2d(x, padding=padding // dilation, dilation=1, **rest)


def edge_padded_conv2d(x: Any, *, padding: int, **rest: Any) -> Any:
    return ops.conv2d(np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode="edge"), **rest)


def align_corners(x: Any, size: tuple[int, int]) -> Any:
    for axis, n in ((2, size[0]), (3, size[1])):
        position = np.linspace(0, x.shape[axis] - 1, n)
        first = np.floor(position).astype(int)
        second = np.minimum(first + 1, x.shape[axis] - 1)
        weight = (position - first).reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, first, axis) * (1 - weight) + np.take(x, second, axis) * weight
    return x


def nearest(x: Any, size: tuple[int, int]) -> Any:
    rows, columns = ((np.arange(n) * old) // n for n, old in zip(size, x.shape[2:], strict=True))
    return x[:, :, rows[:, np.newaxis], columns]


def quarters(x: Any, patch_size: int) -> Any:
    n, d, height, width = x.shape
    area = patch_size**2
    return x.reshape(n, d, area, height * width // area).transpose(0, 2, 3, 1).reshape(n * area, -1, d)


def interleaved_heads(x: Any, num_heads: int) -> Any:
    s, tokens, d = x.shape
    return x.reshape(s, tokens, d // num_heads, num_heads).transpose(0, 3, 1, 2)


# id, case, the first wrong tap, what is replaced
FIRST_BLOCK = "mobilevit.encoder.layer.2.transformer.layer.0"
MISTAKES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("CNV-05", "classification-plain", "mobilevit.conv_stem.convolution", {"conv2d": flipped_conv2d}),
    ("CNV-07", "classification-plain", "mobilevit.conv_stem.convolution", {"conv2d": edge_padded_conv2d}),
    ("NRM-01", "classification-plain", "mobilevit.conv_stem.normalization",
     {"batch_norm": functools.partial(ops.batch_norm, eps=1e-3)}),
    ("NRM-05", "classification-plain", f"{FIRST_BLOCK}.layernorm_before",
     {"layer_norm": lambda x, eps, **parameters: ops.layer_norm(x, **parameters, eps=1e-6)}),
    ("UNF-01", "classification-plain", f"{FIRST_BLOCK}.layernorm_before", {"unfold_patches": quarters}),
    ("ATT-03", "classification-plain", f"{FIRST_BLOCK}.attention.attention",
     {"attention_scores": lambda q, k: q @ k.swapaxes(-1, -2)}),
    ("ATT-04", "classification-plain", f"{FIRST_BLOCK}.attention.attention",
     {"softmax": functools.partial(ops.softmax, axis=-2)}),
    ("ATT-08", "classification-plain", f"{FIRST_BLOCK}.attention.attention", {"split_heads": interleaved_heads}),
    ("UNF-09", "classification-odd-batch", f"{FIRST_BLOCK}.layernorm_before", {"resize_bilinear": align_corners}),
    ("UNF-10", "classification-odd-batch", f"{FIRST_BLOCK}.layernorm_before", {"resize_bilinear": nearest}),
    ("TRF-06", "classification-gelu-no-qkv-bias", "mobilevit.conv_stem.activation",
     {"activations": {"gelu": ops.gelu_pytorch_tanh}}),
    ("HED-02", "classification-plain", "classifier", {"global_avg_pool": lambda x: x.max(axis=(2, 3))}),
    ("SEG-01", "segmentation-os8-batch", "segmentation_head.aspp.convs.0.activation",
     {"activations": ops.ACTIVATIONS | {"relu": ops.leaky_relu}}),
    ("SEG-02", "segmentation-os16", "segmentation_head.aspp.convs.2.convolution", {"conv2d": undilated_conv2d}),
]  # fmt: skip


def wrong_taps(case: str, table: OpTable, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    golden = read(GOLDEN / "models" / f"{case}.safetensors")
    model = build(golden, "float64")
    monkeypatch.setattr(model, "scope", lambda tap=ignore: Scope(model._weights, tap=tap, ops=table))
    return differing(model.taps(golden.tensors["pixel_values"]), golden.select(golden.facts["taps"]), FLOAT64)


@pytest.mark.parametrize(("case", "first", "replaced"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_caught_at_its_place(
    case: str, first: str, replaced: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = wrong_taps(case, OpTable()._replace(**replaced), monkeypatch)
    assert wrong[0] == first
    assert wrong[-1] == "logits"


def test_the_resize_needs_the_odd_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all patches are whole, a wrong resize goes unseen but for the pooling branch of one pixel."""
    assert wrong_taps("segmentation-os16", OpTable()._replace(resize_bilinear=align_corners), monkeypatch) == []


def test_the_comparison_fails_when_it_should() -> None:
    golden = read(GOLDEN / "models" / "classification-one-pixel.safetensors")
    expected = golden.select(golden.facts["taps"])
    name = "mobilevit.encoder.layer.3.fusion"
    assert differing(expected, expected, 0.0) == []

    nudged = expected[name].copy()
    nudged.flat[-1] += 2e-12 * np.abs(nudged).max()
    assert differing(expected | {name: nudged}, expected, FLOAT64) == [name]
    nudged.flat[-1] = np.nan
    assert differing(expected | {name: nudged}, expected, FLOAT64) == [name]
    assert differing(expected | {name: expected[name].reshape(-1)}, expected, FLOAT64) == [name]

    renamed = {f"{key}2" if key == name else key: value for key, value in expected.items()}
    assert differing(renamed, expected, FLOAT64) == [name]
    exchanged = dict(reversed(expected.items()))
    assert len(differing(exchanged, expected, FLOAT64)) >= len(expected) - 1
    missing = {key: value for key, value in expected.items() if key != "logits"}
    with pytest.raises(ValueError, match="zip"):
        differing(missing, expected, FLOAT64)


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    source = GOLDEN / "models" / "classification-one-pixel.safetensors"
    data = bytearray(source.read_bytes())
    name = "mobilevit.encoder.layer.3.fusion.convolution"
    data[8 + int.from_bytes(data[:8], "little") + _offset(source)[name] + 1] ^= 16  # a bit far below 1e-12
    damaged = tmp_path / source.name
    damaged.write_bytes(data)
    golden = read(damaged)
    assert difference(golden.tensors[name], read(source).tensors[name]) < 1e-12
    with pytest.raises(AssertionError):
        test_metadata_and_hashes_are_right(damaged)


# Operators ---------------------------------------------------------------------------------------------------------


def operator_cases() -> list[Any]:
    return [
        pytest.param(path, case, id=f"{path.stem}-{case['name']}")
        for path in OPERATOR_FILES
        for case in read(path).facts["cases"]
    ]


def call(case: dict[str, Any], inputs: Arrays) -> np.ndarray:
    arguments: dict[str, Any] = {}
    for name, value in inputs.items():
        argument, _, entry = name.partition(".")
        if entry:
            arguments.setdefault(argument, {})[entry] = value
        else:
            arguments[argument] = value
    arguments |= {name: tuple(v) if isinstance(v, list) else v for name, v in case["arguments"].items()}
    activation = re.fullmatch(r"ACTIVATIONS\[(.*)\]", case["op"])
    function: Callable[..., Any] = ops.ACTIVATIONS[activation[1]] if activation else getattr(ops, case["op"])
    return np.asarray(function(**arguments))


@pytest.mark.parametrize(("path", "case"), operator_cases())
def test_operator(path: Path, case: dict[str, Any]) -> None:
    tensors = read(path).tensors
    inputs = {name: tensors[f"{case['name']}.{name}"] for name in case["inputs"]}
    expected = tensors[f"{case['name']}.output"]
    y = call(case, inputs)
    assert y.dtype == expected.dtype
    assert difference(y, expected) <= case["tolerance"]


@pytest.mark.parametrize(("path", "case"), operator_cases())
def test_operator_in_float32(path: Path, case: dict[str, Any]) -> None:
    """The inputs are exact in float32, so the float64 result is the right one; resize has float32 cases of its own."""
    tensors = read(path).tensors
    inputs = {name: tensors[f"{case['name']}.{name}"] for name in case["inputs"]}
    narrow = {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in inputs.items()}
    expected = tensors[f"{case['name']}.output"]
    y = call(case, narrow)
    loss = path.stem == "loss"
    assert y.dtype == (np.float64 if loss else np.float32)  # losses are Python floats
    finite = np.abs(expected) < np.finfo(np.float32).max
    assert np.array_equal(np.isfinite(y), finite)
    assert difference(y[finite], expected[finite]) <= (3e-5 if path.stem == "resize" else 4e-6)


def test_every_public_operator_has_a_case() -> None:
    covered = {case["op"] for path in OPERATOR_FILES for case in read(path).facts["cases"]}
    assert {f"ACTIVATIONS[{name}]" for name in HIDDEN_ACTS} <= covered
    helpers = {"attend", "attention_scores", "merge_heads", "split_heads"}  # parts of multi_head_attention
    helpers |= {"add", "concat_channels"}  # every network has them
    public = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    assert public - {name for name in public if name in ops.ACTIVATIONS} - helpers <= covered


# Image processor ---------------------------------------------------------------------------------------------------

PROCESSOR = read(GOLDEN / "processor.safetensors")


@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in PROCESSOR.facts["cases"]])
def test_processor_is_bit_equal(case: dict[str, Any]) -> None:
    processor = MobileViTImageProcessor.from_dict(case["settings"])
    maps = PROCESSOR.tensors[case["segmentation_map"]] if "segmentation_map" in case else None
    found = processor(PROCESSOR.tensors[case["image"]], maps)
    assert set(found) == ({"pixel_values"} if maps is None else {"pixel_values", "labels"})
    for name, value in found.items():
        np.testing.assert_array_equal(value, PROCESSOR.tensors[f"{case['name']}.{name}"], strict=True)


@pytest.mark.parametrize("case", PROCESSOR.facts["digest_cases"], ids=lambda case: Path(case["image"]).stem)
def test_processor_on_photographs(case: dict[str, Any]) -> None:
    photo = np.asarray(Image.open(ROOT / case["image"]).convert("RGB"))
    pixels = MobileViTImageProcessor.from_dict(case["settings"])(photo)["pixel_values"]
    assert list(pixels.shape) == case["shape"]
    assert str(pixels.dtype) == case["dtype"]
    assert sha256_of(pixels) == case["pixel_values_sha256"]


@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in PROCESSOR.facts["post_process_cases"]])
def test_label_maps_from_logits(case: dict[str, Any]) -> None:
    logits = PROCESSOR.tensors[f"{case['name']}.logits"]
    found = MobileViTImageProcessor().post_process_semantic_segmentation(
        SimpleNamespace(logits=logits), case["target_sizes"], return_segmentation_scores=True
    )
    expected = [n for n in PROCESSOR.tensors if n.startswith(f"{case['name']}.segmentation.")]
    for i, (item, name) in enumerate(zip(found, sorted(expected), strict=True)):
        np.testing.assert_array_equal(item["segmentation"], PROCESSOR.tensors[name], strict=True)
        scores = PROCESSOR.tensors[f"{case['name']}.segmentation_scores.{i}"]
        assert item["segmentation_scores"].dtype == scores.dtype
        assert difference(item["segmentation_scores"], scores) <= 1e-6


# Names -------------------------------------------------------------------------------------------------------------


def test_names_of_all_published_variants_are_there() -> None:
    variants = ("small", "x-small", "xx-small")
    expected = [f"{variant}-{task}" for variant in variants for task in ("classification", "segmentation")]
    assert sorted(path.stem for path in NAME_FILES) == expected


@pytest.mark.parametrize("path", **by_stem(NAME_FILES))
def test_names_and_shapes(path: Path) -> None:
    content = json.loads(path.read_text())
    config = MobileViTConfig.from_dict(content["config"])
    shapes = expected_parameters(config, head=content["task"])
    assert {name: list(shape) for name, shape in shapes.items()} == content["parameters"]
    counters = {n.replace("running_var", "num_batches_tracked") for n in shapes if n.endswith("running_var")}
    assert counters == set(content["counters"])

    found: dict[str, list[int]] = {}
    scope = Scope(
        {name: zeros(*shape) for name, shape in shapes.items()},
        tap=lambda name, x: found.setdefault(name, list(x.shape)),
        ops=SHAPES_ONLY,
    )
    function = {"classification": network.image_classification, "segmentation": network.semantic_segmentation}
    function[content["task"]](scope, zeros(*content["input_shape"]), config)
    extra = {name: shape for name, shape in found.items() if name.rpartition(".")[2] in EXTRA_TAPS}
    taps = {"pixel_values": content["input_shape"]} | {n: v for n, v in found.items() if n and n not in extra}
    assert list(taps) == list(content["taps"])
    assert taps == content["taps"]
    assert extra == content["extra_taps"]


def zeros(*shape: int) -> np.ndarray:
    return np.broadcast_to(np.float32(0), shape)  # without memory of its own


def shape_of_conv2d(
    x: Any, *, weight: Any, stride: int, padding: int, dilation: int, bias: Any = None, **_: int
) -> Any:
    size = [(n + 2 * padding - dilation * (weight.shape[-1] - 1) - 1) // stride + 1 for n in x.shape[2:]]
    return zeros(len(x), len(weight), *size)


# The network without its arithmetic: what is left are names and shapes.
SHAPES_ONLY = OpTable(
    conv2d=shape_of_conv2d,
    batch_norm=lambda x, **_: x,
    layer_norm=lambda x, **_: x,
    linear=lambda x, weight, bias: zeros(*x.shape[:-1], len(weight)),
    attention_scores=lambda query, key: zeros(*query.shape[:-1], key.shape[-2]),
    softmax=lambda x: x,
    attend=lambda probs, value: zeros(*probs.shape[:-1], value.shape[-1]),
    resize_bilinear=lambda x, size: zeros(*x.shape[:2], *size),
    global_avg_pool=lambda x: zeros(*x.shape[:2]),
    activations={"silu": lambda x: x, "relu": lambda x: x},
)


def test_taps_of_a_real_run_have_the_shapes_of_the_list() -> None:
    content = json.loads((REFERENCE / "names" / "xx-small-classification.json").read_text())
    config = MobileViTConfig.from_dict(content["config"])
    weights = {name: np.zeros(shape, np.float32) for name, shape in content["parameters"].items()}
    taps = models.MobileViTForImageClassification(config, weights).taps(np.zeros(content["input_shape"], np.float32))
    assert [(n, list(v.shape)) for n, v in taps.items()] == list(content["taps"].items())
