"""transformers' network in TensorFlow, from a checkpoint folder, with every tap. Import it before TensorFlow."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # the classes are written for Keras 2
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tf_keras
import transformers

PACKAGES = ("tensorflow-cpu", "tf-keras", "transformers")
WITHOUT_TAP = (tf_keras.layers.ZeroPadding2D, tf_keras.layers.Dropout)
FUNCTIONS = ("activation", "intermediate_act_fn")  # modules in PyTorch, plain functions here


def load(checkpoint: Path) -> Any:
    """The model of a folder that transformers saved from PyTorch, in float32."""
    (kind,) = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["architectures"]
    return getattr(transformers, f"TF{kind}").from_pretrained(checkpoint, from_pt=True)


def tapped(model: Any) -> Callable[[Any], dict[str, Any]]:
    """The network as a function pixel_values -> taps, in the order of the forward pass, "logits" last. Maps have
    TensorFlow's layout (N, H, W, C), but for the logits. A layer that does not return one tensor is no tap."""
    taps: dict[str, Any] = {}

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapper(*inputs: Any, **options: Any) -> Any:
            output = call(*inputs, **options)
            if tf.is_tensor(output):
                taps[name] = output
            return output

        return wrapper

    for name, layer in layers(model):
        layer.call = noted(name, layer.call)
        for attribute in FUNCTIONS:
            if type(layer).__module__.startswith("transformers") and getattr(layer, attribute, None):
                setattr(layer, attribute, noted(f"{name}.{attribute}", getattr(layer, attribute)))

    def run(pixel_values: Any) -> dict[str, Any]:
        taps.clear()
        logits = model(pixel_values, training=False).logits
        return {**taps, "logits": logits}

    return run


def layers(parent: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every layer below this one, by the name of its module in PyTorch, if it has one there."""
    for layer in parent._flatten_layers(recursive=False, include_self=False):
        if not isinstance(layer, WITHOUT_TAP) and layer.name != "pooler":
            yield prefix + layer.name, layer
            yield from layers(layer, f"{prefix}{layer.name}.")


def to_torch(name: str, value: np.ndarray) -> np.ndarray:
    """A tap in PyTorch's layout, (N, C, H, W)."""
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 and name != "logits" else value
