"""A checkpoint as an ONNX file for one shape of the pixel values: with all taps as outputs, or as it is shipped.

    python export_onnx.py --checkpoint FOLDER --shape N C H W --out FILE.onnx --variant taps|fused

`taps` names the outputs after the taps; `fused` has the logits alone, so that whoever runs it may fuse all it likes.

    pip install torch==2.13.0 transformers==5.23.0 onnx==1.23.2
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from exporter import serve
from torch_network import Plain, Tapped, load, tap_names

OPSET = 18


def export(checkpoint: Path, shape: tuple[int, ...], out: Path, variant: str) -> None:
    model = load(checkpoint)
    module = Tapped(model) if variant == "taps" else Plain(model)
    names = tap_names(model, shape) if variant == "taps" else ["logits"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter by tracing is deprecated, and it warns of each baked-in size
        torch.onnx.export(
            module, (torch.zeros(shape),), out, dynamo=False, opset_version=OPSET,
            input_names=["pixel_values"], output_names=names,
        )  # fmt: skip


if __name__ == "__main__":
    serve(export, ("taps", "fused"))
