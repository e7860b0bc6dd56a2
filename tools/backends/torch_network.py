"""transformers' network in PyTorch, from a checkpoint folder, with every tap."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn


def load(checkpoint: Path) -> nn.Module:
    """The model of a folder that transformers saved, in float32 and in evaluation mode."""
    (kind,) = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["architectures"]
    return getattr(transformers, kind).from_pretrained(checkpoint, dtype=torch.float32).eval()


def dump(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Run a network and return the first tensor that each of its modules returns, in the order of the forward pass,
    without dropouts and modules that were silenced; "pixel_values" comes first and "logits" last."""
    taps = {"pixel_values": x}

    def note(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        taps[name] = (output if isinstance(output, Tensor) else output[0]).clone()

    hooks = [
        module.register_forward_hook(functools.partial(note, name))
        for name, module in model.named_modules()
        if name and not isinstance(module, nn.Dropout | nn.Dropout2d) and not getattr(module, "silent", False)
    ]
    try:
        with torch.no_grad():
            taps["logits"] = model(pixel_values=x).logits
    finally:
        for hook in hooks:
            hook.remove()
    return taps


def tap_names(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """The names that :func:`dump` gives, but "pixel_values"."""
    return [name for name in dump(model, torch.zeros(shape)) if name != "pixel_values"]


class Tapped(nn.Module):
    """The network as a function of one tensor that returns all taps but "pixel_values" as a tuple, for exporters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for name, value in dump(self.model, pixel_values).items() if name != "pixel_values")


class Plain(nn.Module):
    """The network as a function of one tensor that returns the logits: what is shipped."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=pixel_values).logits
        return logits
