"""Convert a checkpoint to TensorFlow Lite for one shape, through transformers' TensorFlow classes.

    python export_tflite.py --checkpoint FOLDER --shape N C H W --out FILE.tflite --variant plain|default

The environment is that of run_tensorflow.py. Variants: "plain" has float32 weights, and every tap as an output, so that
normalisations stay apart from the convolutions before them; "default" is the documented conversion,
optimizations=[DEFAULT], int8 weights and activations quantised on the fly, with only those outputs that the converter
would have kept anyway, so that what runs is what is shipped. The names of the outputs, in the order of the model's, are
written to FILE.json beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_network
from exporter import serve


def export(checkpoint: Path, shape: tuple[int, ...], out: Path, variant: str) -> None:
    model = tf_network.load(checkpoint)
    network = tf_network.tapped(model)

    def outputs(pixel_values: Any) -> dict[str, Any]:
        taps = network(pixel_values)
        return taps if variant == "plain" else without_fused(taps)

    traced = tf.function(outputs, input_signature=[tf.TensorSpec(shape, tf.float32)])
    concrete = traced.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
    converter.experimental_lower_to_saved_model = False  # there, a resized map has no known shape for the convolution
    if variant == "default":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    out.write_bytes(converter.convert())
    out.with_suffix(".json").write_text(json.dumps(sorted(concrete.structured_outputs)), encoding="utf-8")


def without_fused(taps: dict[str, Any]) -> dict[str, Any]:
    """What is left of the taps once normalisations and ReLUs are part of the convolutions before them."""
    gone = {f"{name.rpartition('.')[0]}.convolution" for name in taps if name.endswith(".normalization")}
    gone |= {f"{name}.normalization" for name in taps if name.startswith("segmentation_head")}
    return {name: value for name, value in taps.items() if name not in gone}


if __name__ == "__main__":
    serve(export, ("plain", "default"))
