"""Make reference/golden and reference/names with transformers and torch alone, in float64.

    python tools/make_reference.py                    write everything
    python tools/make_reference.py --only seg         write the files whose path contains "seg"
    python tools/make_reference.py --check            make everything elsewhere and compare with what is there

Nothing of npmobilevit is imported: the witness of our network is somebody else's. What the files hold, and how to
read them in any language, is told in reference/README.md. The same machine makes the same bytes every time;
another one may differ in the last bits of a float, which ``--check`` allows for.

Needs torch and transformers (see pyproject.toml, group ``framework``).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import json
import math
import os
import platform
import re
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import torch
import transformers
from PIL import Image
from recipe import numbers, parameter
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F
from transformers import (
    MobileViTConfig,
    MobileViTForImageClassification,
    MobileViTForSemanticSegmentation,
    MobileViTImageProcessorPil,
    MobileViTModel,
)
from transformers.activations import ACT2FN
from transformers.models.mobilevit.modeling_mobilevit import MobileViTAttention, MobileViTLayer

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "reference"
IMAGES = REFERENCE / "images"
SHIPPED = ROOT / "npmobilevit" / "checkpoints" / "shipped"

FORMAT = "npmobilevit-golden/1"  # later versions of the format only add keys
TOLERANCE = 1e-12  # of a float64 tensor, relative to its largest value
FLOAT32_RESIZE_TOLERANCE = 1e-6  # torch's float32 kernel: coordinates agree, the weighted sum is rounded otherwise

Arrays = dict[str, np.ndarray]
Json = dict[str, Any]

MODELS = {
    "classification": MobileViTForImageClassification,
    "segmentation": MobileViTForSemanticSegmentation,
    "base": MobileViTModel,
}

# Every field that the network reads, small enough that all its taps can be stored.
TINY: Json = {
    "num_channels": 3,
    "patch_size": 2,
    "hidden_sizes": [8, 8, 12],
    "neck_hidden_sizes": [4, 4, 4, 8, 8, 12, 16],
    "num_attention_heads": 4,
    "mlp_ratio": 2.0,
    "expand_ratio": 2.0,
    "hidden_act": "silu",
    "conv_kernel_size": 3,
    "output_stride": 32,
    "layer_norm_eps": 1e-5,
    "qkv_bias": True,
    "num_labels": 5,
    "aspp_out_channels": 8,
    "atrous_rates": [1, 2, 3],
    "semantic_loss_ignore_index": 255,
}


@dataclasses.dataclass(frozen=True)
class ModelCase:
    """A small network, its input, and the mistakes (ids of the catalogue of porting bugs) that it is there for."""

    name: str
    task: str
    config: Json  # what differs from TINY
    shape: tuple[int, int, int, int]
    seed: int
    catches: str
    labels: str | None = None  # kind of labels for the loss
    effect: float = 0.1  # at least this far another input must move the last tap, relative to its largest value


CASES = (
    ModelCase(
        "classification-plain", "classification", {}, (1, 3, 64, 32), 2,
        "The structure of the published networks, whole patches in layers 2 and 3: CNV-01..12, NRM-01..14, "
        "MV2-01..07, UNF-01..04, ATT-01..10, TRF-01..10, FUS-01..05, HED-01..03, WGT-01..06; height and "
        "width exchanged.",
        "single_label",
    ),
    ModelCase(
        "classification-odd-batch", "classification", {}, (2, 3, 19, 35), 1,
        "Odd maps resized to whole patches and back, two pictures: UNF-06, UNF-08, UNF-09, UNF-10, UNF-12, HED-02, "
        "SYS-01, SYS-03; floor instead of ceil in stride 2.",
        "single_label",
    ),
    ModelCase(
        "classification-patch-3-kernel-5", "classification",
        {"patch_size": 3, "conv_kernel_size": 5, "hidden_act": "hardswish",
         "neck_hidden_sizes": [4, 6, 4, 8, 8, 12, 16]},
        (1, 3, 24, 36), 8,
        "Patch size and kernel that are not those of the published networks, no residual in layer 0: UNF-11, CNV-07, "
        "TRF-06; sizes written into the code.",
    ),
    ModelCase(
        "classification-gelu-no-qkv-bias", "classification",
        {"qkv_bias": False, "hidden_act": "gelu", "num_attention_heads": 2, "mlp_ratio": 1.7, "layer_norm_eps": 1e-3},
        (1, 3, 32, 32), 20,
        "Two heads, no biases of query, key and value, exact GELU, MLP width truncated: ATT-01, ATT-06, TRF-05, "
        "TRF-06, TRF-09, NRM-05, NRM-06; the LayerNorm eps used for BatchNorm.",
        "multi_label",
    ),
    ModelCase(
        "classification-grey-one-label", "classification",
        {"num_channels": 1, "num_labels": 1, "hidden_act": "relu", "expand_ratio": 3.0, "num_attention_heads": 8,
         "hidden_sizes": [8, 8, 16], "neck_hidden_sizes": [4, 4, 4, 12, 12, 12, 16]},
        (1, 1, 16, 28), 6,
        "One channel in and one label out, equal widths across a stride (no residual there), expansion 3: MV2-04, "
        "MV2-05, MV2-06, ATT-01; the residual added wherever the widths agree.",
        "regression",
    ),
    ModelCase(
        "classification-no-classifier", "classification",
        {"num_labels": 0, "patch_size": 1, "conv_kernel_size": 1, "hidden_act": "gelu_new"}, (1, 3, 24, 24), 21,
        "The pooled features are the logits, one token a pixel, 1x1 convolutions: UNF-03, HED-02, HED-03, TRF-06.",
    ),
    ModelCase(
        "classification-one-pixel", "classification", {}, (1, 3, 1, 1), 10,
        "Every map is one pixel and is resized to 2x2 and back: UNF-06, UNF-08; out-of-range reads in convolution and "
        "resize.",
        effect=1e-3,  # kernels of 3x3 meet one pixel, so the biases rule
    ),
    ModelCase(
        "base-model", "base", {"hidden_act": "relu6"}, (1, 3, 25, 31), 13,
        "No head and no prefix of the names; last_hidden_state after and hidden_states before conv_1x1_exp: HED-01, "
        "HED-02.",
    ),
    ModelCase(
        "segmentation-os16", "segmentation", {"output_stride": 16}, (1, 3, 32, 64), 9,
        "Layer 4 keeps its size, nothing in the backbone is dilated or resized: SEG-02..08, SEG-13.",
        "map",
    ),
    ModelCase(
        "segmentation-os8-batch", "segmentation",
        {"output_stride": 8, "hidden_act": "leaky_relu", "neck_hidden_sizes": [4, 4, 4, 8, 8, 8, 16],
         "atrous_rates": [1, 2, 4]},
        (2, 3, 20, 28), 5,
        "Dilation 2 in the depthwise convolution of layer 4 only, odd maps, residuals where stride 1 meets equal "
        "widths, ReLU in the head, two pictures: SEG-01, SEG-02, SEG-03, SEG-07, UNF-06, SYS-01.",
        "map",
    ),
    ModelCase(
        "segmentation-os32-odd", "segmentation", {"atrous_rates": [2, 1, 6]}, (1, 3, 33, 33), 11,
        "A rate larger than the map, rates out of order, pooling branch on a 2x2 map: SEG-03, SEG-04, SEG-05.",
        "map",
    ),
)  # fmt: skip

VARIANTS: dict[str, Json] = {
    "xx-small": {
        "hidden_sizes": [64, 80, 96],
        "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320],
        "expand_ratio": 2.0,
    },
    "x-small": {
        "hidden_sizes": [96, 120, 144],
        "neck_hidden_sizes": [16, 32, 48, 64, 80, 96, 384],
        "expand_ratio": 4.0,
    },
    "small": {
        "hidden_sizes": [144, 192, 240],
        "neck_hidden_sizes": [16, 32, 64, 96, 128, 160, 640],
        "expand_ratio": 4.0,
    },
}


# Numbers -----------------------------------------------------------------------------------------------------------


def sine_parameter(position: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recipe of the vectors in sine_recipe.json, whose text is RECIPE."""
    s = np.sin(0.7 * np.arange(math.prod(shape)) + 1.3 * position).reshape(shape)
    if len(shape) > 1:
        return s * math.sqrt(2 / math.prod(shape[1:]))
    if name.endswith("running_var"):
        return 1 + 0.5 * s
    return 1 + 0.3 * s if name.endswith("weight") else 0.1 * s


def images_in_0_1(key: str, *shape: int) -> np.ndarray:
    return (numbers(key, *shape) + 1) / 2


# Files -------------------------------------------------------------------------------------------------------------


def digest(array: np.ndarray) -> str:
    """SHA-256 of the little-endian C-order bytes; floats of any width are hashed as float64."""
    dtype = np.dtype(np.float64) if array.dtype.kind == "f" else array.dtype
    return hashlib.sha256(np.ascontiguousarray(array, dtype.newbyteorder("<")).tobytes()).hexdigest()


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def versions(*modules: Any) -> str:
    found = {module.__name__: module.__version__ for module in (torch, transformers, np, *modules)}
    return compact(found | {"python": platform.python_version()})


def store_once(tensors: Mapping[str, np.ndarray]) -> tuple[Arrays, dict[str, str]]:
    """Split off the tensors whose dtype, shape and bits are those of an earlier one: (stored, {name: stored name})."""
    stored: Arrays = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    for name, value in tensors.items():
        key = (value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
        if key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            stored[name] = np.array(value, order="C", copy=True)
    return stored, aliases


DTYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "uint8": "U8"}


def safetensors_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The file as bytes. Made here because safetensors' own writer puts the metadata in a random order, and its
    version 0.8.0 damages arrays that are not contiguous."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    body, end = [], 0
    for name, value in sorted(tensors.items(), key=lambda item: -item[1].itemsize):  # stable; keeps data aligned
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        header[name] = {"dtype": DTYPES[value.dtype.name], "shape": list(value.shape)}
        header[name]["data_offsets"] = [end, end + len(data)]
        body.append(data)
        end += len(data)
    head = compact(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(body)


def write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def write_golden(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a golden file, equal arrays once, and read it back through safetensors."""
    stored, aliases = store_once(tensors)
    metadata = {
        "format": FORMAT,
        **metadata,
        "generator": "tools/make_reference.py",
        "aliases": compact(aliases),
        "sha256": compact({name: digest(v) for name, v in stored.items() if not name.startswith("weights.")}),
    }
    write_bytes(path, safetensors_bytes(stored, metadata))
    again, found = read_golden(path)
    if found != metadata or again.keys() != tensors.keys():
        raise AssertionError(f"{path}: names or metadata changed on the way to the disk")
    for name, value in tensors.items():
        np.testing.assert_array_equal(again[name], value, strict=True, err_msg=f"{path}: {name}")


def read_golden(path: Path) -> tuple[Arrays, dict[str, str]]:
    """All tensors, aliases resolved, and the metadata."""
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    return tensors | {name: tensors[of] for name, of in json.loads(metadata["aliases"]).items()}, metadata


# Networks ----------------------------------------------------------------------------------------------------------


def build(task: str, config: Json) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[task](MobileViTConfig(**config)).double().eval()


def load_weights(model: nn.Module, make: Callable[[str, tuple[int, ...]], np.ndarray]) -> Arrays:
    """Give every parameter of the model a value, and return them; the counters of training steps keep theirs."""
    state = model.state_dict()
    names = [name for name in state if not name.endswith(".num_batches_tracked")]
    weights = {name: make(name, tuple(state[name].shape)) for name in names}
    state |= {name: torch.from_numpy(value.astype(np.float64)) for name, value in weights.items()}
    model.load_state_dict(state, strict=True)
    return weights


EXTRA_TAPS = ("scores", "probs", "unfolded", "folded")


def record(model: nn.Module, pixel_values: torch.Tensor, **arguments: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Run the model; return what its modules put out, in the order of the forward pass, and its output.

    Names are those of named_modules(). Modules that return several values give the first. Besides, below the
    self-attentions: "scores" and "probs" (before and after the softmax), and below the MobileViT blocks:
    "unfolded" (what enters the transformer) and "folded" (what enters conv_projection).
    """
    taps = {"pixel_values": pixel_values}

    def note(name: str, value: Any) -> None:
        assert name not in taps, f"{name} ran twice"
        taps[name] = (value if isinstance(value, torch.Tensor) else value[0]).detach().clone()

    def listen(name: str, module: nn.Module) -> Iterator[Any]:
        place, _, leaf = name.rpartition(".")
        before = {"transformer": "unfolded", "conv_projection": "folded"}.get(leaf)
        if before is not None:
            yield module.register_forward_pre_hook(lambda _module, args: note(f"{place}.{before}", args[0]))
        if name and not isinstance(module, nn.Dropout | nn.Dropout2d):
            yield module.register_forward_hook(lambda _module, _args, out: note(name, out))

    attentions = [name for name, _ in model.named_modules() if name.endswith(".attention.attention")]
    softmax = nn.functional.softmax

    def noted_softmax(scores: torch.Tensor, dim: int) -> torch.Tensor:
        name = attentions.pop(0)  # attention is the only caller
        note(f"{name}.scores", scores)
        probs = softmax(scores, dim=dim)
        note(f"{name}.probs", probs)
        return probs

    hooks = [hook for name, module in model.named_modules() for hook in listen(name, module)]
    nn.functional.softmax = noted_softmax
    try:
        with torch.no_grad():
            output = model(pixel_values=pixel_values, output_hidden_states=True, **arguments)
    finally:
        nn.functional.softmax = softmax
        for hook in hooks:
            hook.remove()
    assert not attentions
    if hasattr(output, "logits"):
        note("logits", output.logits)
    return taps, output


def is_extra(tap: str) -> bool:
    return tap.rpartition(".")[2] in EXTRA_TAPS


def labels_for(case: ModelCase) -> np.ndarray | None:
    """Labels of every kind of loss, among them one of each value that is to be left out."""
    count, batch = TINY["num_labels"], case.shape[0]
    if case.labels is None:
        return None
    if case.labels == "single_label":
        return np.arange(3, 3 + batch, dtype=np.int64) % count
    if case.labels == "multi_label":
        return (np.arange(batch * count) % 3 == 0).astype(np.float64).reshape(batch, count)
    if case.labels == "regression":
        return np.full(batch, 0.75)
    labels = np.arange(batch * 13 * 17, dtype=np.int64).reshape(batch, 13, 17) // 7 % (count + 1)
    labels[labels == count] = TINY["semantic_loss_ignore_index"]
    return labels


def check_scale(case: str, taps: Mapping[str, np.ndarray]) -> None:
    """Refuse taps so small, so large or so even that a wrong port would agree with them."""
    for name, value in taps.items():
        largest = np.abs(value).max()
        if not 1e-2 < largest < 1e3 or (value.size > 40 and value.std() < 1e-3 * largest):
            raise AssertionError(
                f"{case}: {name} lies in {value.min():.3g}..{value.max():.3g}, of little use in a test"
            )


def check_condition(case: ModelCase, model: nn.Module, pixels: np.ndarray, taps: Arrays) -> None:
    """Refuse a network that makes much of float32 roundings, for which no tolerance would suit all machines, and one
    that gives nearly the same answer to all inputs, which would hide a mistake in its first layers."""
    last = list(taps)[-1]
    rounded = pixels * (1 + 2.0**-24 * np.sign(numbers(f"{case.seed}/rounding", *case.shape)))
    narrow = copy.deepcopy(model).float()
    for again, most, at_last in (
        (record(model, torch.from_numpy(rounded))[0], 1e-6, 1e-6),
        (record(narrow, torch.from_numpy(pixels).float())[0], 6e-6, 1.5e-6),
    ):
        for name, value in taps.items():
            moved = relative_difference(again[name].double().numpy(), value)
            if moved > (at_last if name == last else most):
                raise AssertionError(f"{case.name}: roundings move {name} by {moved:.1e}; change the seed")
    other, _ = record(model, torch.from_numpy(images_in_0_1(f"{case.seed}/another", *case.shape)))
    if (moved := relative_difference(other[last].numpy(), taps[last])) < case.effect:
        raise AssertionError(f"{case.name}: another input moves {last} by {moved:.1e} only; change the seed")


def make_model_case(case: ModelCase, path: Path) -> None:
    config = TINY | case.config
    model = build(case.task, config)
    key = f"{case.seed}"
    weights = load_weights(model, lambda name, shape: parameter(key, name, shape))
    pixels = images_in_0_1(f"{key}/pixel_values", *case.shape)
    labels = labels_for(case)
    arguments = {} if labels is None else {"labels": torch.from_numpy(labels)}
    taps, output = record(model, torch.from_numpy(pixels), **arguments)
    arrays = {name: value.numpy() for name, value in taps.items()}
    check_scale(case.name, arrays)
    check_condition(case, model, pixels, arrays)
    outputs = {f"outputs.hidden_states.{i}": value.numpy() for i, value in enumerate(output.hidden_states)}
    for name in ("loss", "last_hidden_state", "pooler_output"):
        if output.get(name) is not None:
            outputs[f"outputs.{name}"] = output[name].numpy()
    metadata = {
        "kind": "model",
        "case": case.name,
        "task": case.task,
        "catches": case.catches,
        "config": compact(config),
        "precision": "float64",
        "seed": str(case.seed),
        "versions": versions(),
        "input_sha256": digest(pixels),
        "weights_sha256": hashlib.sha256("".join(digest(w) for w in weights.values()).encode()).hexdigest(),
        "taps": compact([name for name in taps if not is_extra(name)]),
        "extra_taps": compact([name for name in taps if is_extra(name)]),
    }
    tensors = arrays | outputs | ({} if labels is None else {"labels": labels})
    write_golden(path, tensors | {f"weights.{name}": value for name, value in weights.items()}, metadata)


# What a region of the network puts out; the taps inside the regions of a trained network would need megabytes.
BLOCK_TAPS = re.compile(
    r"pixel_values|logits|classifier|mobilevit\.conv_(stem|1x1_exp)"
    r"|mobilevit\.encoder(\.layer\.[01])?"
    r"|mobilevit\.encoder\.layer\.[234](\.(downsampling_layer|conv_kxk|conv_1x1|transformer(\.layer\.\d)?|layernorm"
    r"|conv_projection|fusion))?"
)


HEAD_TAPS = re.compile(r"segmentation_head(\.aspp(\.convs\.\d|\.project)?|\.classifier)?")


def make_checkpoint_case(folder: Path, path: Path) -> None:
    """Pictures through a trained network: its own processor, taps of blocks, logits.

    A segmenter's own input would make 30 MB of taps, so that its picture is made smaller than it would be.
    """
    config = json.loads((folder / "config.json").read_text())
    segments = config["architectures"] == ["MobileViTForSemanticSegmentation"]
    task, settings, names = (
        ("segmentation", {"size": {"shortest_edge": 32}}, ["street.png"])
        if segments
        else ("classification", {}, ["chelsea.png", "coffee.png"])
    )
    processor = MobileViTImageProcessorPil.from_pretrained(folder, **settings)
    pictures = [IMAGES / name for name in names]
    images = [np.asarray(Image.open(picture).convert("RGB")) for picture in pictures]
    pixels = processor(images, return_tensors="np")["pixel_values"]  # float32
    model = MODELS[task].from_pretrained(folder).double().eval()
    taps, _ = record(model, torch.from_numpy(pixels).double())
    kept = (BLOCK_TAPS, HEAD_TAPS)
    arrays = {name: value.numpy() for name, value in taps.items() if any(pattern.fullmatch(name) for pattern in kept)}
    metadata = {
        "kind": "checkpoint",
        "case": folder.name,
        "task": task,
        "catches": "Trained weights and pictures: the whole way from picture to logits; PRE-01..14, WGT-01..07.",
        "config": compact(config),
        "processor": compact(json.loads((folder / "preprocessor_config.json").read_text()) | settings),
        "precision": "float64",
        "versions": versions(PIL),
        "images": compact([f"reference/images/{picture.name}" for picture in pictures]),
        "images_sha256": compact([hashlib.sha256(picture.read_bytes()).hexdigest() for picture in pictures]),
        "weights_file_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "input_sha256": digest(pixels),
        "taps": compact(list(arrays)),
        "extra_taps": "[]",
    }
    write_golden(path, arrays | {"pixel_values": pixels}, metadata)


# Operators ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class OpCase:
    """A call ``npmobilevit.ops.<op>(**inputs, **arguments)`` and what torch makes of it."""

    name: str
    op: str
    inputs: Arrays  # "query.weight" is the entry "weight" of the argument "query"
    output: np.ndarray
    catches: str
    arguments: Json = dataclasses.field(default_factory=dict)
    tolerance: float = TOLERANCE


def exact(key: str, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Float64 numbers that float32 holds exactly, if `scale` is a power of two."""
    return scale * numbers(f"operators/{key}", *shape)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def conv_cases() -> Iterator[OpCase]:
    table: tuple[tuple[str, tuple[int, ...], tuple[int, ...], bool, Json, str], ...] = (
        ("1x1", (2, 5, 4, 6), (7, 5, 1, 1), False, {}, "CNV-03 input and output channels exchanged"),
        ("3x3-pad", (1, 3, 6, 7), (4, 3, 3, 3), True, {"padding": 1}, "CNV-05 flipped kernel, CNV-07 border, bias"),
        ("3x3-stride-even", (1, 3, 8, 10), (4, 3, 3, 3), False, {"stride": 2, "padding": 1}, "CNV-01 padding (0, 1)"),
        ("3x3-stride-odd", (1, 3, 7, 9), (4, 3, 3, 3), False, {"stride": 2, "padding": 1}, "output size"),
        ("3x3-no-pad", (1, 2, 5, 4), (3, 2, 3, 3), False, {}, "output size"),
        ("5x5-pad", (1, 2, 6, 5), (3, 2, 5, 5), False, {"padding": 2}, "kernel 5"),
        ("2x3-kernel-pairs", (1, 2, 6, 9), (3, 2, 2, 3), True,
         {"stride": [1, 2], "padding": [1, 0], "dilation": [2, 3]}, "height and width exchanged"),
        ("dilated", (1, 3, 7, 8), (2, 3, 3, 3), False, {"padding": 2, "dilation": 2}, "SEG-02 dilation ignored"),
        ("dilation-beyond-map", (1, 3, 3, 4), (2, 3, 3, 3), False, {"padding": 6, "dilation": 6},
         "only the middle of the kernel meets the map"),
        ("depthwise", (2, 6, 5, 7), (6, 1, 3, 3), False, {"padding": 1, "groups": 6}, "CNV-02, CNV-06"),
        ("depthwise-stride-dilated", (1, 4, 9, 8), (4, 1, 3, 3), False,
         {"stride": 2, "padding": 2, "dilation": 2, "groups": 4}, "SEG-07"),
        ("groups", (1, 6, 4, 5), (4, 3, 3, 3), True, {"padding": 1, "groups": 2}, "order of groups"),
        ("depthwise-multiplier", (1, 3, 4, 5), (6, 1, 3, 3), False, {"padding": 1, "groups": 3}, "two outputs a group"),
    )  # fmt: skip
    for name, shape, kernel, with_bias, arguments, catches in table:
        inputs = {"x": exact(f"conv2d/{name}/x", *shape), "weight": exact(f"conv2d/{name}/weight", *kernel)}
        if with_bias:
            inputs["bias"] = exact(f"conv2d/{name}/bias", kernel[0])
        output = F.conv2d(*(tensor(value) for value in inputs.values()), **arguments)
        yield OpCase(name, "conv2d", inputs, output.numpy(), catches, arguments)


def norm_cases() -> Iterator[OpCase]:
    for name, eps, scale in (("batch", 1e-5, 1.0), ("batch-eps", 1e-3, 1.0), ("batch-small-variance", 1e-5, 2.0**-16)):
        inputs = {leaf: exact(f"{name}/{leaf}", 4) for leaf in ("weight", "bias", "running_mean")}
        inputs["running_var"] = (exact(f"{name}/running_var", 4) + 1) * scale
        inputs = {"x": exact(f"{name}/x", 2, 4, 3, 5)} | inputs
        x, weight, bias, mean, variance = map(tensor, inputs.values())
        output = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        catches = "NRM-01 eps, NRM-02 deviation for variance, NRM-11 statistics of the batch, WGT-06"
        yield OpCase(name, "batch_norm", inputs, output.numpy(), catches, {"eps": eps})
    table = (
        ("layer", (3, 5, 8), 1e-5, 1.0, 0.0), ("layer-eps", (2, 6), 1e-3, 1.0, 0.0),
        ("layer-small-variance", (4, 7), 1e-5, 2.0**-9, 0.0), ("layer-large-mean", (4, 8), 1e-5, 1.0, 1024.0),
        ("layer-one-value", (3, 1), 1e-5, 1.0, 0.0),
    )  # fmt: skip
    for name, shape, eps, scale, mean in table:
        inputs = {
            "x": np.round(exact(f"{name}/x", *shape) * 2**10) / 2**10 * scale + mean,  # exact in float32, too
            "weight": exact(f"{name}/weight", shape[-1]),
            "bias": exact(f"{name}/bias", shape[-1]),
        }
        x, weight, bias = map(tensor, inputs.values())
        output = F.layer_norm(x, shape[-1:], weight, bias, eps=eps)
        # subtracting the mean of a row costs as many digits as the mean is larger than the rest
        tolerance = TOLERANCE * max(1.0, mean)
        catches = "NRM-05..10 eps, axis, unbiased variance, one-pass variance"
        yield OpCase(name, "layer_norm", inputs, output.numpy(), catches, {"eps": eps}, tolerance)


def linear_cases() -> Iterator[OpCase]:
    for name, shape, weight_shape, with_bias in (
        ("tokens", (2, 3, 6), (4, 6), True), ("square", (3, 5), (5, 5), True), ("no-bias", (4, 3), (7, 3), False),
    ):  # fmt: skip
        inputs = {"x": exact(f"{name}/x", *shape), "weight": exact(f"{name}/weight", *weight_shape)}
        if with_bias:
            inputs["bias"] = exact(f"{name}/bias", weight_shape[0])
        output = F.linear(*map(tensor, inputs.values()))
        yield OpCase(name, "linear", inputs, output.numpy(), "WGT-03 square weight not transposed")


def activation_cases() -> Iterator[OpCase]:
    grid = np.arange(-128, 129) / 16  # -8..8
    extreme = np.array([-1e30, -1e4, -750, -100, -30, -20.5, -20, -(2.0**-40), -0.0, 0, 2.0**-40, 20, 20.5, 100, 1e4])
    extreme = extreme.astype(np.float32).astype(np.float64)
    for op in sorted(set(ACT2FN) - {"prelu", "xielu"}):
        for name, x in (("grid", grid), ("extreme", extreme)):
            if op.startswith("gelu") and name == "extreme":
                x = x[1:]  # the tanh forms cube -1e30, which is NaN in torch
            output = ACT2FN[op](tensor(x)).numpy()
            yield OpCase(f"{op}-{name}", f"ACTIVATIONS[{op}]", {"x": x}, output, "TRF-05, TRF-06 another activation")
    x = exact("softmax/x", 3, 4, 6, scale=8.0)
    for name, value, axis in (("softmax", x, -1), ("softmax-axis", x, 1), ("softmax-large", x * 128, -1)):
        output = torch.softmax(tensor(value), dim=axis).numpy()
        yield OpCase(name, "softmax", {"x": value}, output, "ATT-04 axis, ATT-13 overflow", {"axis": axis})


def attention_cases() -> Iterator[OpCase]:
    for name, queries, keys in (("square", (2, 4, 4), (2, 4, 4)), ("heads", (2, 3, 5, 4), (2, 3, 7, 4))):
        inputs = {
            "query": exact(f"{name}/query", *queries, scale=4.0),
            "key": exact(f"{name}/key", *keys, scale=4.0),
            "value": exact(f"{name}/value", *keys),
        }
        output = F.scaled_dot_product_attention(*map(tensor, inputs.values())).numpy()
        catches = "ATT-03 scale, ATT-04 axis, ATT-09 key not transposed"
        yield OpCase(name, "scaled_dot_product_attention", inputs, output, catches)
    for name, width, heads, bias in (("four-heads", 8, 4, True), ("two-heads-no-bias", 6, 2, False)):
        config = MobileViTConfig(num_attention_heads=heads, qkv_bias=bias)
        module = MobileViTAttention(config, width).double().eval()
        state = {key: exact(f"{name}/{key}", *value.shape) for key, value in module.state_dict().items()}
        module.load_state_dict({key: tensor(value) for key, value in state.items()})
        x = exact(f"{name}/x", 3, 5, width, scale=2.0)
        inputs = {"x": x} | {re.sub(r"^(attention|output\.dense)\.", _argument, k): v for k, v in state.items()}
        with torch.no_grad():
            output = module(tensor(x)).numpy()
        catches = "ATT-01 heads, ATT-02 scale, ATT-05 order, ATT-06 biases, ATT-08 split, ATT-10 output, WGT-01"
        yield OpCase(name, "multi_head_attention", inputs, output, catches, {"num_heads": heads})


def _argument(match: re.Match[str]) -> str:
    """attention.query.weight -> query.weight; output.dense.weight -> output.weight."""
    return "" if match[1] == "attention" else "output."


def patches_cases() -> Iterator[OpCase]:
    for name, shape, size in (
        ("2", (1, 3, 4, 6), 2), ("2-batch", (2, 2, 6, 4), 2), ("3", (1, 2, 6, 9), 3), ("1", (1, 2, 3, 4), 1),
    ):  # fmt: skip
        x = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)  # every element is its own address
        layer = SimpleNamespace(patch_width=size, patch_height=size)
        patches, info = MobileViTLayer.unfolding(layer, tensor(x))
        folded = MobileViTLayer.folding(layer, patches, info)
        assert torch.equal(folded, tensor(x))
        catches = "UNF-01..04 order of pixels, patches and channels"
        yield OpCase(f"unfold-{name}", "unfold_patches", {"x": x}, patches.numpy(), catches, {"patch_size": size})
        arguments = {"patch_size": size, "height": shape[2], "width": shape[3]}
        yield OpCase(f"fold-{name}", "fold_patches", {"x": patches.numpy()}, folded.numpy(), catches, arguments)


def resize_cases() -> Iterator[OpCase]:
    sizes = (
        ((5, 7), (6, 8)), ((6, 8), (5, 7)), ((3, 4), (3, 4)), ((1, 1), (2, 2)), ((2, 2), (1, 1)), ((1, 1), (5, 3)),
        ((4, 6), (13, 17)), ((13, 17), (4, 6)), ((7, 3), (7, 9)), ((2, 9), (8, 2)), ((16, 16), (100, 75)),
    )  # fmt: skip
    for old, new in sizes:
        name = f"{old[0]}x{old[1]}-to-{new[0]}x{new[1]}"
        for dtype, tolerance in ((np.float64, TOLERANCE), (np.float32, FLOAT32_RESIZE_TOLERANCE)):
            x = exact(f"resize/{name}/x", 1, 2 if math.prod(new) < 1000 else 1, *old).astype(dtype)
            output = F.interpolate(tensor(x), size=new, mode="bilinear", align_corners=False).numpy()
            catches = "UNF-08 height and width exchanged, UNF-09 align_corners, UNF-10 nearest, SEG-10; antialiasing"
            case = f"{name}-{np.dtype(dtype).name}"
            yield OpCase(case, "resize_bilinear", {"x": x}, output, catches, {"size": list(new)}, tolerance)


def pool_cases() -> Iterator[OpCase]:
    for name, shape in (("7x5", (2, 3, 7, 5)), ("1x1", (1, 4, 1, 1))):
        x = exact(f"{name}/x", *shape)
        output = F.adaptive_avg_pool2d(tensor(x), 1).flatten(1).numpy()
        yield OpCase(name, "global_avg_pool", {"x": x}, output, "HED-02 maximum, or a window of fixed size")


def loss_cases() -> Iterator[OpCase]:
    logits = exact("loss/logits", 4, 5, scale=4.0)
    labels = np.array([0, 4, 2, -100])
    maps = np.arange(2 * 3 * 4).reshape(2, 3, 4) % 5
    maps[0, 1] = 255
    map_logits = exact("loss/map_logits", 2, 5, 3, 4, scale=4.0)
    many = (numbers("loss/many", 4, 5) > 0).astype(np.float64)
    large = logits * 256
    table: tuple[tuple[str, str, np.ndarray, np.ndarray, Json, Callable[..., torch.Tensor], str], ...] = (
        ("classes", "cross_entropy", logits, labels, {}, F.cross_entropy, "label -100 counted"),
        ("large-logits", "cross_entropy", large, labels, {}, F.cross_entropy, "overflow of exp"),
        ("maps", "cross_entropy", map_logits, maps, {"ignore_index": 255}, F.cross_entropy, "ignore index counted"),
        ("yes-no", "binary_cross_entropy_with_logits", logits, many, {}, F.binary_cross_entropy_with_logits, "sum"),
        ("yes-no-large", "binary_cross_entropy_with_logits", large, many, {}, F.binary_cross_entropy_with_logits,
         "overflow of exp"),
        ("soft-targets", "binary_cross_entropy_with_logits", logits, images_in_0_1("loss/soft", 4, 5), {},
         F.binary_cross_entropy_with_logits, "targets rounded"),
        ("squares", "mean_squared_error", logits, many, {}, F.mse_loss, "sum or half of the squares"),
    )  # fmt: skip
    for name, op, x, y, arguments, function, catches in table:
        output = function(tensor(x), tensor(y), **arguments).numpy()
        yield OpCase(name, op, {"logits": x, "labels": y}, output, catches, arguments)


FAMILIES = {
    "activation": activation_cases,
    "attention": attention_cases,
    "conv": conv_cases,
    "linear": linear_cases,
    "loss": loss_cases,
    "norm": norm_cases,
    "patches": patches_cases,
    "pool": pool_cases,
    "resize": resize_cases,
}


def make_operator_file(family: str, path: Path) -> None:
    cases = list(FAMILIES[family]())
    tensors: Arrays = {}
    for case in cases:
        tensors |= {f"{case.name}.{name}": value for name, value in case.inputs.items()}
        tensors[f"{case.name}.output"] = np.asarray(case.output)
    described = [
        {"name": c.name, "op": c.op, "inputs": list(c.inputs), "arguments": c.arguments, "tolerance": c.tolerance,
         "catches": c.catches}
        for c in cases
    ]  # fmt: skip
    metadata = {
        "kind": "operators",
        "case": family,
        "precision": "that of x",
        "versions": versions(),
        "cases": compact(described),
    }
    write_golden(path, tensors, metadata)


# Image processor ---------------------------------------------------------------------------------------------------


def chelsea() -> np.ndarray:
    with Image.open(IMAGES / "chelsea.png") as picture:
        return np.asarray(picture.convert("RGB"))


def bytes_for(key: str, *shape: int) -> np.ndarray:
    return ((numbers(f"processor/{key}", *shape) + 1) * 128).astype(np.uint8)


def processor_images() -> Arrays:
    photo = chelsea()
    rows, columns = np.meshgrid(np.arange(30), np.arange(47), indexing="ij")
    return {
        "wide": photo[60:129, 110:217].copy(),  # 69 x 107, eyes of the cat
        "tall": photo[20:129, 150:211].copy(),  # 109 x 61
        "address": np.stack([rows * 8, columns * 5, rows + columns], axis=-1).astype(np.uint8),  # 30 x 47
        "tiny": bytes_for("tiny", 5, 2, 3),
        "one-pixel": np.array([[[10]], [[120]], [[250]]], np.uint8),  # channels first
        "thin": bytes_for("thin", 7, 40, 3),
        "exact": bytes_for("exact", 24, 24, 3),
        "channels-first": bytes_for("channels-first", 3, 29, 21),
        "grey": bytes_for("grey", 29, 21, 1),
        "four-channels": bytes_for("four-channels", 21, 29, 4),
        "unit-floats": images_in_0_1("processor/unit-floats", 23, 19, 3).astype(np.float32),
        "labels-wide": (np.arange(69 * 107, dtype=np.uint8).reshape(69, 107) // 5 % 7),
        "labels-void": bytes_for("labels-void", 41, 33) // 64 * 85,  # 0, 85, 170, 255
    }


CHECKPOINT_LIKE: Json = {"size": {"shortest_edge": 27}, "crop_size": {"height": 24, "width": 24}, "resample": 2}

# name, image, label map, settings, what it catches
PROCESSOR_CASES: tuple[tuple[str, str, str | None, Json, str], ...] = (
    ("wide", "wide", None, CHECKPOINT_LIKE, "PRE-01..10: order of channels, scale, antialiasing, truncated long side"),
    ("tall", "tall", None, CHECKPOINT_LIKE, "PRE-08; height and width exchanged"),
    ("address", "address", None, CHECKPOINT_LIKE, "PRE-13 layout, PRE-10 offset of the crop"),
    ("no-shrink", "exact", None, CHECKPOINT_LIKE | {"size": {"shortest_edge": 24}}, "a resize to the same size"),
    ("tiny", "tiny", None, CHECKPOINT_LIKE, "enlarging"),
    ("one-pixel", "one-pixel", None, CHECKPOINT_LIKE, "one pixel"),
    ("thin", "thin", None, CHECKPOINT_LIKE, "long side from a ratio of 5.7"),
    ("bicubic", "wide", None, CHECKPOINT_LIKE | {"resample": 3}, "PRE-06"),
    ("nearest", "wide", None, CHECKPOINT_LIKE | {"resample": 0}, "PRE-06"),
    ("lanczos", "tall", None, CHECKPOINT_LIKE | {"resample": 1}, "PRE-06"),
    ("class-defaults-reduced", "tall", None, {"size": {"shortest_edge": 21}, "crop_size": {"height": 24, "width": 24}},
     "bicubic, and padding as the class defaults have it: PRE-11"),
    ("pad-even", "thin", None, CHECKPOINT_LIKE | {"do_resize": False}, "PRE-11"),
    ("pad-odd", "tiny", None, CHECKPOINT_LIKE | {"do_resize": False}, "PRE-11; the odd row on the wrong side"),
    ("crop-odd", "address", None, CHECKPOINT_LIKE | {"do_resize": False, "crop_size": {"height": 15, "width": 22}},
     "half a pixel of the crop rounded up"),
    ("height-width", "wide", None, {"size": {"height": 20, "width": 41}, "crop_size": {"height": 24, "width": 24},
     "resample": 2}, "PRE-04 (here it is asked for)"),
    ("capped", "thin", None, CHECKPOINT_LIKE | {"size": {"shortest_edge": 30, "longest_edge": 45}}, "longest edge"),
    ("no-crop", "tall", None, CHECKPOINT_LIKE | {"do_center_crop": False, "size": {"shortest_edge": 20}}, "switch"),
    ("no-flip", "wide", None, CHECKPOINT_LIKE | {"do_flip_channel_order": False}, "PRE-01"),
    ("no-rescale", "wide", None, CHECKPOINT_LIKE | {"do_rescale": False}, "PRE-03; dtype uint8"),
    ("factor", "wide", None, CHECKPOINT_LIKE | {"rescale_factor": 1 / 127.5}, "PRE-03; rounding of the product"),
    ("mean-ignored", "exact", None, CHECKPOINT_LIKE | {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5],
     "image_std": [0.5, 0.5, 0.5]}, "PRE-02"),
    ("channels-first", "channels-first", None, CHECKPOINT_LIKE, "PRE-13"),
    ("grey-array", "grey", None, CHECKPOINT_LIKE, "PRE-14"),
    ("four-channels", "four-channels", None, CHECKPOINT_LIKE, "PRE-14: all four are reversed"),
    ("unit-floats", "unit-floats", None, CHECKPOINT_LIKE, "PRE-03, PRE-09: floats pass through uint8, scaled twice"),
    ("labels", "wide", "labels-wide", CHECKPOINT_LIKE, "labels resized by nearest; not rescaled, not flipped"),
    ("labels-reduced", "wide", "labels-wide", CHECKPOINT_LIKE | {"do_reduce_labels": True}, "0 -> 255, k -> k - 1"),
    ("labels-void-padded", "tall", "labels-void", {"size": {"shortest_edge": 20}, "crop_size": {"height": 32,
     "width": 32}, "do_reduce_labels": True}, "255 stays 255; padding is 0; another size than the picture's"),
)  # fmt: skip

# Whole photographs: only the SHA-256 of the result is kept.
PUBLISHED_CLASSIFICATION: Json = {"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 256}}
PUBLISHED_SEGMENTATION: Json = {"size": {"shortest_edge": 544}, "crop_size": {"height": 512, "width": 512}}
DIGEST_CASES: tuple[tuple[str, Json], ...] = tuple(
    (picture, settings)
    for picture in ("reference/images/chelsea.png", "reference/images/coffee.png")
    for settings in (PUBLISHED_CLASSIFICATION | {"resample": 2}, PUBLISHED_SEGMENTATION | {"resample": 2}, {})
)


def post_process_cases() -> Iterator[tuple[Json, Arrays]]:
    logits = numbers("post-process/logits", 2, 5, 6, 8).astype(np.float32)
    ties = np.round(logits)
    table: tuple[tuple[str, np.ndarray, list[list[int]] | None, str], ...] = (
        ("logit-size", logits, None, "SEG-12 axis of argmax"),
        ("target-sizes", logits, [[29, 41], [5, 3]], "SEG-09 argmax before the resize, SEG-10 align_corners, order"),
        ("ties", ties, None, "the last of equal logits"),
    )
    for name, values, sizes, catches in table:
        outputs = SimpleNamespace(logits=tensor(values))
        found = MobileViTImageProcessorPil().post_process_semantic_segmentation(
            outputs, target_sizes=sizes, return_segmentation_scores=True
        )
        arrays = {f"post-{name}.logits": values}
        for i, item in enumerate(found):
            arrays[f"post-{name}.segmentation.{i}"] = item["segmentation"].numpy()
            arrays[f"post-{name}.segmentation_scores.{i}"] = item["segmentation_scores"].numpy()
        yield {"name": f"post-{name}", "target_sizes": sizes, "catches": catches}, arrays


def make_processor_file(path: Path) -> None:
    images = processor_images()
    tensors = {f"images.{name}": value for name, value in images.items()}
    cases, digests, post = [], [], []
    for name, image, label_map, settings, catches in PROCESSOR_CASES:
        maps = None if label_map is None else images[label_map].copy()  # transformers may write into it
        found = MobileViTImageProcessorPil(**settings)(images[image].copy(), maps, return_tensors="np")
        tensors |= {f"{name}.{key}": np.asarray(value) for key, value in found.items()}
        cases.append({"name": name, "image": f"images.{image}", "settings": settings, "catches": catches})
        if label_map is not None:
            cases[-1]["segmentation_map"] = f"images.{label_map}"
    for picture, settings in DIGEST_CASES:
        photo = np.asarray(Image.open(ROOT / picture).convert("RGB"))
        pixels = MobileViTImageProcessorPil(**settings)(photo, return_tensors="np")["pixel_values"]
        found = {"shape": list(pixels.shape), "dtype": str(pixels.dtype), "pixel_values_sha256": digest(pixels)}
        digests.append({"image": picture, "settings": settings, **found})
    for described, arrays in post_process_cases():
        post.append(described)
        tensors |= arrays
    metadata = {
        "kind": "processor",
        "case": "processor",
        "precision": "float32",
        "versions": versions(PIL),
        "images": "crops of chelsea.png (CC0 by Stefan van der Walt) and synthetic pictures",
        "cases": compact(cases),
        "digest_cases": compact(digests),
        "post_process_cases": compact(post),
    }
    write_golden(path, tensors, metadata)


# Text files --------------------------------------------------------------------------------------------------------


def make_names_file(variant: str, task: str, path: Path) -> None:
    """Names and shapes of the parameters and taps of a published variant; nothing is computed."""
    config = VARIANTS[variant] | (
        {"num_labels": 21, "output_stride": 16} if task == "segmentation" else {"num_labels": 1000}
    )
    shape = (1, 3, 512, 512) if task == "segmentation" else (1, 3, 256, 256)
    with torch.device("meta"):
        model = MODELS[task](MobileViTConfig(**config)).eval()
    taps, _ = record(model, torch.empty(shape, device="meta"))
    parameters = {name: list(value.shape) for name, value in model.state_dict().items()}
    content = {
        "format": FORMAT,
        "variant": variant,
        "task": task,
        "config": config,
        "versions": json.loads(versions()),
        "input_shape": list(shape),
        "parameters": {name: size for name, size in parameters.items() if not name.endswith("num_batches_tracked")},
        "counters": [name for name in parameters if name.endswith("num_batches_tracked")],
        "taps": {name: list(value.shape) for name, value in taps.items() if not is_extra(name)},
        "extra_taps": {name: list(value.shape) for name, value in taps.items() if is_extra(name)},
    }
    write_json(path, content)


RECIPE = (
    "Sort all names of the state dict, the counters num_batches_tracked among them. For the name at position n, from "
    "0, with i = 0.. over its elements in C order: s = sin(0.7*i + 1.3*n). More than one axis: s*sqrt(2/fan), fan = "
    "product of all sizes but the first. Names ending in running_var: 1 + 0.5*s; other names ending in weight: "
    "1 + 0.3*s; all others: 0.1*s; counters have no effect. Input: 0.5 + 0.5*sin(0.01*i + 0.37*floor(i/97)), i over "
    "its elements in C order. All in float64."
)
SINE_CASES: tuple[tuple[str, Json, tuple[int, int, int, int]], ...] = (
    ("classification", {"num_labels": 10}, (1, 3, 64, 64)),
    ("classification", {"num_labels": 10}, (1, 3, 72, 104)),
    ("segmentation", {"num_labels": 5, "output_stride": 16}, (1, 3, 64, 96)),
    ("segmentation", {"num_labels": 5, "output_stride": 8}, (1, 3, 64, 96)),
)


def make_sine_file(path: Path) -> None:
    """Logits of xx-small networks whose weights are a formula: a check that needs no file at all."""
    cases = []
    for task, fields, shape in SINE_CASES:
        config = VARIANTS["xx-small"] | fields
        model = build(task, config)
        positions = {name: n for n, name in enumerate(sorted(model.state_dict()))}
        load_weights(model, lambda name, size, positions=positions: sine_parameter(positions[name], name, size))
        i = np.arange(math.prod(shape))
        pixels = (0.5 + 0.5 * np.sin(0.01 * i + 0.37 * (i // 97))).reshape(shape)
        with torch.no_grad():
            output = model(torch.from_numpy(pixels), output_hidden_states=True)
        case = {
            "task": task,
            "config": config,
            "input_shape": list(shape),
            "logits_shape": list(output.logits.shape),
            "first_logits": output.logits.flatten()[:5].tolist(),
            "sum_of_logits": output.logits.sum().item(),
            "sums_of_hidden_states": [value.sum().item() for value in output.hidden_states],
        }
        cases.append(case)
    write_json(path, {"format": FORMAT, "recipe": RECIPE, "versions": json.loads(versions()), "cases": cases})


def write_json(path: Path, content: Json) -> None:
    """One name a line, lists of numbers on one line."""
    text = json.dumps(content, indent=1, allow_nan=False)
    text = re.sub(
        r"\[[^][{}\"]*\]", lambda match: re.sub(r",\s+", ", ", re.sub(r"\[\s+|\s+\]", _bracket, match[0])), text
    )
    if json.loads(text) != content:
        raise AssertionError(f"{path}: the text does not read back")
    write_bytes(path, (text + "\n").encode())


def _bracket(match: re.Match[str]) -> str:
    return match[0].strip()


# Command line ------------------------------------------------------------------------------------------------------


def jobs(shipped: Path) -> dict[str, Callable[[Path], None]]:
    """What makes each file, by its path below reference/."""
    found: dict[str, Callable[[Path], None]] = {}
    for case in CASES:
        found[f"golden/models/{case.name}.safetensors"] = lambda path, case=case: make_model_case(case, path)
    for family in FAMILIES:
        found[f"golden/operators/{family}.safetensors"] = lambda path, name=family: make_operator_file(name, path)
    found["golden/processor.safetensors"] = make_processor_file
    found["golden/sine_recipe.json"] = make_sine_file
    for weights in sorted(shipped.glob("*/model.safetensors")):
        name = f"golden/checkpoints/{weights.parent.name}.safetensors"
        found[name] = lambda path, folder=weights.parent: make_checkpoint_case(folder, path)
    for variant in VARIANTS:
        for task in ("classification", "segmentation"):
            name = f"names/{variant}-{task}.json"
            found[name] = lambda path, variant=variant, task=task: make_names_file(variant, task, path)
    return found


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest value; infinite if shape or dtype differ, or only one of them is NaN."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return math.inf
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    if np.array_equal(ours, theirs, equal_nan=True):
        return 0.0
    difference = float(np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), 1e-300))
    return math.inf if math.isnan(difference) else difference


def compare(made: Path, committed: Path) -> tuple[float, str]:
    """Largest relative difference of any number in two files of the same kind, and where it is."""
    if made.suffix == ".json":
        ours, theirs = dict(_leaves(json.loads(made.read_text()))), dict(_leaves(json.loads(committed.read_text())))
    else:
        (ours, our_facts), (theirs, their_facts) = read_golden(made), read_golden(committed)
        for key in our_facts.keys() | their_facts.keys():
            if key not in ("versions", "sha256", "aliases") and our_facts.get(key) != their_facts.get(key):
                return math.inf, f"metadata {key}"
    if list(ours) != list(theirs):
        return math.inf, f"names: {sorted(ours.keys() ^ theirs.keys())[:3]}"
    return max(((relative_difference(ours[name], theirs[name]), name) for name in ours), default=(0.0, ""))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if (path, key) != ("", "versions"):
                yield from _leaves(item, f"{path}/{key}")
    elif isinstance(value, list) and not all(isinstance(item, int | float) for item in value):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}/{i}")
    elif isinstance(value, str | None):
        yield f"{path}={value}", np.zeros(())
    else:
        yield path, np.asarray(value)


def check(selected: Mapping[str, Callable[[Path], None]]) -> int:
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, make in selected.items():
            make(Path(folder, name))
            if not (REFERENCE / name).is_file():
                difference, where = math.inf, "no such file"
            else:
                difference, where = compare(Path(folder, name), REFERENCE / name)
            print(f"{difference:9.2e}  {name}  {where if difference else ''}", flush=True)
            worst = max(worst, difference)
    print(f"largest difference {worst:.2e}, allowed {TOLERANCE:.0e}")
    return 0 if worst <= TOLERANCE else 1


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="only files whose path contains TEXT")
    parser.add_argument("--check", action="store_true", help="compare instead of writing; exit status 1 if they differ")
    parser.add_argument("--shipped", type=Path, default=SHIPPED, metavar="FOLDER", help="of trained checkpoints")
    options = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(1)  # the order of sums must not depend on the machine's cores
    found = jobs(options.shipped)
    selected = {name: make for name, make in found.items() if options.only in name}
    if not selected:
        parser.error(f"--only {options.only!r} matches none of {', '.join(found)}")
    if options.check:
        return check(selected)
    for name, make in selected.items():
        make(REFERENCE / name)
        print(f"{(REFERENCE / name).stat().st_size:9,d} bytes  {name}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
