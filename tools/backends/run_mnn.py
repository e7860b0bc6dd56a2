"""MNN on the CPU, from the ONNX export of the logits alone, through MNN's own converter.

The export with taps does not load: of outputs that are equal MNN keeps one.

    pip install MNN==3.6.1 onnx==1.23.2 numpy safetensors

Variants: "float32" asks for high precision, "default" leaves it at MNN's normal one, "low" allows half precision. The
converter is called where it lies: the package around it, MNN.tools, runs pip and reports what it converts to a server.
"""

from __future__ import annotations

from collections.abc import Callable

import _tools
import MNN
import numpy as np
import onnx
from runner import Pixels, Request, Taps, serve

PRECISION = {"float32": "high", "default": "normal", "low": "low"}


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    """The converted network; its outputs are named after the taps."""
    converted = str(request.work / "network.mnn")
    _tools.mnnconvert(
        ["mnnconvert", "-f", "ONNX", "--modelFile", str(request.model), "--MNNModel", converted, "--bizCode", "biz",
         "--keepInputFormat"]
    )  # fmt: skip
    names = [output.name for output in onnx.load(request.model).graph.output]
    runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "precision": PRECISION[request.variant]},))
    network = MNN.nn.load_module_from_file(converted, ["pixel_values"], names, runtime_manager=runtime)

    def run(x: Pixels) -> Taps:
        values = network.forward([MNN.expr.const(x, list(x.shape), MNN.expr.NCHW)])
        return {
            name: np.array(MNN.expr.convert(v, MNN.expr.NCHW).read()) for name, v in zip(names, values, strict=True)
        }

    return run


if __name__ == "__main__":
    serve(prepare, ["MNN"])
