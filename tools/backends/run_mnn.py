"""MNN on the CPU in its high precision, from the ONNX export with taps, through MNN's own converter.

    pip install MNN==3.6.1 onnx==1.23.2 numpy safetensors

Variants: "default" is MNN as it is; "small-tiles" keeps it from using Winograd's method with large tiles.
The converter is called where it lies: the package around it, MNN.tools, runs pip and reports what it converts to a
server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import _tools
import MNN
import numpy as np
import onnx
from runner import Pixels, Request, Taps, serve

WINOGRAD_MEMORY_LEVEL = 3  # MNN::Interpreter::HintMode


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    """The converted network; its outputs are named after the taps."""
    model = onnx.load(request.model)
    names = list(kept(model.graph))
    for output in [output for output in model.graph.output if output.name not in names]:
        model.graph.output.remove(output)
    cut, converted = str(request.work / "network.onnx"), str(request.work / "network.mnn")
    onnx.save(model, cut)
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", cut, "--MNNModel", converted, "--bizCode", "b"])
    runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "precision": "high"},))
    if request.variant == "small-tiles":
        runtime.set_hint(WINOGRAD_MEMORY_LEVEL, 1)
    network = MNN.nn.load_module_from_file(converted, ["pixel_values"], names, runtime_manager=runtime)

    def run(x: Pixels) -> Taps:
        values = network.forward([MNN.expr.const(x, list(x.shape), MNN.expr.NCHW)])
        values = [np.array(MNN.expr.convert(value, MNN.expr.NCHW).read()) for value in values]
        return dict(zip(names, values, strict=True))

    return run


def kept(graph: onnx.GraphProto) -> Iterator[str]:
    """The outputs that are still there when MNN has put operations together: of equal ones it keeps one, a
    normalization becomes part of the convolution before it, and the widening linear layers lose their shape."""
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    for output in graph.output:
        normalized = output.name.removesuffix("convolution") + "normalization"
        is_folded = output.name.endswith(".convolution") and normalized in made_by
        if made_by[output.name] != "Identity" and not is_folded and not output.name.endswith(".intermediate.dense"):
            yield output.name


if __name__ == "__main__":
    serve(prepare, ["MNN"])
