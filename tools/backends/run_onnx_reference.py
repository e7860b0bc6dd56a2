"""The reference evaluator of ONNX, plain NumPy, on what `export_onnx.py --variant taps` made.

pip install onnx==1.23.2 safetensors==0.8.0
"""

from __future__ import annotations

from collections.abc import Callable

from onnx.reference import ReferenceEvaluator
from runner import Pixels, Request, Taps, serve


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    evaluator = ReferenceEvaluator(str(request.model))
    return lambda x: dict(zip(evaluator.output_names, evaluator.run(None, {"pixel_values": x}), strict=True))


if __name__ == "__main__":
    serve(prepare, ["onnx"])
