"""ncnn on the CPU, from the export through pnnx.

    pip install ncnn==1.0.20261020 numpy safetensors

Variants: "float32" turns the storage and the arithmetic in half precision off, "default" leaves all options as ncnn
ships them.
"""

from __future__ import annotations

from collections.abc import Callable

import ncnn
import numpy as np
from runner import Pixels, Request, Taps, serve

HALF = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage")


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    """The network of the export; its outputs are named after the taps."""
    net = ncnn.Net()
    if request.variant == "float32":
        for option in HALF:
            setattr(net.opt, f"use_{option}", False)
    if net.load_param(str(request.model)) or net.load_model(str(request.model.with_suffix(".bin"))):
        raise SystemExit(f"ncnn cannot load {request.model}")

    def run(x: Pixels) -> Taps:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(x, batch_index=0).clone())
        return {name: np.array(extractor.extract(name)[1].numpy(batch_index=0)) for name in net.output_names()}

    return run


if __name__ == "__main__":
    serve(prepare, ["ncnn"])
