"""A checkpoint as a program of ExecuTorch for one shape of the pixel values.

    python export_executorch.py --checkpoint FOLDER --shape N C H W --out FILE.pte --variant taps|fused

`taps` has all taps as outputs, from ExecuTorch's portable kernels: XNNPACK's partitioner refuses a program in which one
value is several outputs. `fused` has the logits alone, and XNNPACK does what it can. FILE.json lists the outputs.

    pip install torch==2.13.0 transformers==5.23.0
    pip install --no-deps executorch==1.5.1 torchao==0.18.0
    pip install flatbuffers ruamel.yaml tabulate pandas
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from exporter import serve
from torch_network import Plain, Tapped, load, tap_names


def export(checkpoint: Path, shape: tuple[int, ...], out: Path, variant: str) -> None:
    model = load(checkpoint)
    module = Plain(model) if variant == "fused" else Tapped(model)
    names = ["logits"] if variant == "fused" else tap_names(model, shape)
    partitioners = [XnnpackPartitioner()] if variant == "fused" else []
    program = torch.export.export(module.eval(), (torch.zeros(shape),))
    lowered = to_edge_transform_and_lower(program, partitioner=partitioners)
    out.write_bytes(lowered.to_executorch().buffer)
    out.with_suffix(".json").write_text(json.dumps(names), encoding="utf-8")


if __name__ == "__main__":
    serve(export, ("taps", "fused"))
