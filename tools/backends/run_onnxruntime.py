"""ONNX Runtime on the CPU, with all its optimisations of the graph, on what export_onnx.py made.

    --variant float32            --model from `export_onnx.py --variant taps`
    --variant fused              --model from `export_onnx.py --variant fused`
    --variant int8               its dynamic quantization of the model of `taps`, weights of 0 to 255
    --variant int8-signed        the same, but weights of -127 to 127, which is the default of ONNX Runtime

int8-signed gives wrong numbers on an x86 processor with AVX2 and without VNNI: its MatMulInteger of uint8 and int8 adds
products in pairs that saturate at 16 bits (microsoft/onnxruntime issue 6004). So the note says whether there is VNNI.

    pip install onnxruntime==1.32.0 onnx==1.23.2 safetensors==0.8.0
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from runner import Pixels, Request, Taps, serve

WEIGHTS = {"int8": QuantType.QUInt8, "int8-signed": QuantType.QInt8}


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    session = onnxruntime.InferenceSession(_model(request), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(names, {"pixel_values": x}), strict=True))


def _model(request: Request) -> Path:
    if request.variant in ("float32", "fused"):
        return request.model
    quantized = request.work / "quantized.onnx"
    quantize_dynamic(request.model, quantized, weight_type=WEIGHTS[request.variant])
    return quantized


def note() -> dict[str, str]:
    cpu = Path("/proc/cpuinfo")
    has_vnni = "vnni" in cpu.read_text(encoding="utf-8") if cpu.exists() else "unknown"
    return {"provider": "CPUExecutionProvider", "processor has VNNI": str(has_vnni)}


if __name__ == "__main__":
    serve(prepare, ["onnxruntime", "onnx"], note)
