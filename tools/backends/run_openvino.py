"""OpenVINO's CPU plugin, from the ONNX export.

    pip install openvino==2026.4.1 numpy safetensors

Variants: "float32" asks for float32 arithmetic; "fused" leaves the choice to the plugin, on the export of the logits
alone, where it may fuse what it likes. The metadata tells what the plugin chose.
"""

from __future__ import annotations

from collections.abc import Callable

import openvino
from openvino import properties
from runner import Pixels, Request, Taps, serve

_chosen: dict[str, str] = {}


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    """The compiled network of the export; its outputs are named after the taps."""
    core = openvino.Core()
    hints = {properties.hint.inference_precision: openvino.Type.f32} if request.variant == "float32" else {}
    compiled = core.compile_model(core.read_model(request.model), "CPU", hints)
    _chosen["inference_precision"] = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    _chosen["device"] = core.get_property("CPU", properties.device.full_name)

    def run(x: Pixels) -> Taps:
        results = compiled(x)
        return {tap_name(output.names): results[output].copy() for output in compiled.outputs}

    return run


def tap_name(names: set[str]) -> str:
    """Of the names of one tensor that which the export gave it; those that it has inside of the graph are paths."""
    (name,) = (name for name in names if "/" not in name)
    return name


if __name__ == "__main__":
    serve(prepare, ["openvino"], lambda: _chosen)
