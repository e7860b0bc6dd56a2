"""timm's MobileViT in PyTorch, eager, float32; classification only.

It gets the weights as they are: timm takes RGB, but the flip to BGR is a matter of the image processor, and here both
get the same pixel values. Queries, keys and values come out of one layer, and attention is one fused function.

    pip install torch==2.13.0 numpy==2.4.6 safetensors==0.8.0 huggingface_hub==2.4.0 pyyaml==6.0.4 pillow==13.0.0
    pip install --no-deps timm==1.0.31

timm imports torchvision, whose wheels on PyPI do not load next to a torch for the CPU alone, and uses nothing of it
here: something empty stands in for it.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from runner import Pixels, Request, Taps, serve
from safetensors.torch import load_file
from torch import Tensor, nn

for part in ("", ".datasets", ".ops", ".ops.misc", ".utils", ".models", ".models.feature_extraction",
             ".transforms", ".transforms.functional"):  # fmt: skip
    sys.modules[f"torchvision{part}"] = MagicMock()

import timm  # noqa: E402

VARIANTS = {64: "xxs", 96: "xs", 144: "s"}  # by the width of their first attention
QKV = "attention.attention.qkv"
NAMES = (
    (r"^stem", "conv_stem"),
    (r"^final_conv", "conv_1x1_exp"),
    (r"^stages\.([01])\.", r"encoder.layer.\1.layer."),
    (r"^stages\.(\d)\.0", r"encoder.layer.\1.downsampling_layer"),
    (r"^stages\.(\d)\.1", r"encoder.layer.\1"),
    (r"^stages\.", "encoder.layer."),
    (r"\.conv1_1x1", ".expand_1x1"),
    (r"\.conv2_kxk", ".conv_3x3"),
    (r"\.conv3_1x1", ".reduce_1x1"),
    (r"\.conv_1x1", ".conv_1x1.convolution"),
    (r"\.conv_proj", ".conv_projection"),
    (r"\.conv_fusion", ".fusion"),
    (r"\.transformer\.", ".transformer.layer."),
    (r"\.norm1", ".layernorm_before"),
    (r"\.norm2", ".layernorm_after"),
    (r"\.attn\.qkv", f".{QKV}"),
    (r"\.attn\.norm", ".attention.attention"),
    (r"\.attn\.proj", ".attention.output.dense"),
    (r"\.attn$", ".attention"),
    (r"\.mlp\.fc1", ".intermediate.dense"),
    (r"\.mlp\.act", ".intermediate.intermediate_act_fn"),
    (r"\.mlp\.fc2", ".output.dense"),
    (r"\.norm\b", ".layernorm"),
    (r"\.conv\b", ".convolution"),
    (r"\.bn\.act", ".activation"),
    (r"\.bn\.drop|\.bn\b", ".normalization"),
)
EMPTY = nn.Identity | nn.Dropout
NOT_EMPTY = (".bn.drop", ".attn.norm")  # they see what a normalization and an attention put out
WITHOUT_TAP = re.compile(r"^$|^stages$|^head|\.bn$|\.mlp$")


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    model = _load(request.checkpoint)
    taps: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if not WITHOUT_TAP.search(name) and (name.endswith(NOT_EMPTY) or not isinstance(module, EMPTY)):
            module.register_forward_hook(functools.partial(_note, taps, _name(name)))

    def run(x: Pixels) -> Taps:
        taps.clear()
        with torch.no_grad():
            logits = model(torch.from_numpy(x))
        return {name: value.numpy() for name, value in {**taps, "logits": logits}.items()}

    return run


def _load(checkpoint: Path) -> nn.Module:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    model = timm.create_model(f"mobilevit_{VARIANTS[config['hidden_sizes'][0]]}", num_classes=len(config["id2label"]))
    weights = load_file(checkpoint / "model.safetensors")
    model.load_state_dict({name: _weight(weights, name) for name in model.state_dict()})
    return model.eval()


def _name(timms: str) -> str:
    """transformers' name of a module or a parameter."""
    if timms.startswith("head.fc"):
        return timms.replace("head.fc", "classifier")
    for pattern, name in NAMES:
        timms = re.sub(pattern, name, timms)
    return f"mobilevit.{timms}"


def _parts(name: str) -> list[str]:
    return [name.replace(QKV, f"attention.attention.{part}") for part in ("query", "key", "value")]


def _weight(weights: dict[str, Tensor], timms: str) -> Tensor:
    name = _name(timms)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    return torch.cat([weights[part] for part in _parts(name)]) if QKV in name else weights[name].float()


def _note(taps: dict[str, Tensor], name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
    """Keep a copy, as activations work in place."""
    if QKV in name:
        taps.update(zip(_parts(name), output.chunk(3, dim=-1), strict=True))
    else:
        taps[name] = output.clone()


if __name__ == "__main__":
    serve(prepare, ["torch", "timm"])
