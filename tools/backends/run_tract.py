"""tract on the CPU, from the ONNX export.

It folds a normalization into the convolution before it, and computes that convolution once more where it is an output;
what it shows there is not what it went on with, and is left out.

pip install tract==0.23.9 onnx==1.23.2 numpy safetensors
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import tract
from runner import Pixels, Request, Taps, serve


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    """The optimized network of the export."""
    # tract keeps the order of the outputs but not what they are called.
    names = [output.name for output in onnx.load(request.model).graph.output]
    network = tract.onnx().load(str(request.model)).into_model().into_runnable()

    def run(x: Pixels) -> Taps:
        values = {name: value.to_numpy() for name, value in zip(names, network.run([x]), strict=True)}
        return {name: value for name, value in values.items() if _normalized(name) not in values}

    return run


def _normalized(name: str) -> str:
    """The tap of the normalization behind a convolution; of other taps no tap at all."""
    return name.removesuffix("convolution") + "normalization" if name.endswith(".convolution") else ""


if __name__ == "__main__":
    serve(prepare, ["tract"])
