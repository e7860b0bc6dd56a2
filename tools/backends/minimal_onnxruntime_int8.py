"""The finding "MatMulInteger saturates" without a network: one product of two numbers by two.

    pip install onnx==1.23.2 onnxruntime==1.32.0
    python minimal_onnxruntime_int8.py

On an x86 processor with AVX2 and without VNNI, ONNX Runtime adds the products of uint8 and int8 in pairs that saturate
at 16 bits (vpmaddubsw). Its dynamic quantization makes such weights unless it is told otherwise.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What ONNX Runtime makes of MatMulInteger."""
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    weight = helper.make_tensor("b", TensorProto.INT8, b.shape, b.tobytes(), raw=True)
    given = helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)
    made = helper.make_tensor_value_info("y", TensorProto.INT32, (a.shape[0], b.shape[1]))
    model = helper.make_model(
        helper.make_graph([node], "minimal", [given], [made], [weight]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"a": a})[0]


def main() -> None:
    a, b = np.full((1, 2), 255, np.uint8), np.full((2, 1), 127, np.int8)
    found, right = int(product(a, b)[0, 0]), 2 * 255 * 127
    print(f"255*127 + 255*127: onnxruntime {onnxruntime.__version__} gives {found}, right is {right}")
    raise SystemExit(found != right)


if __name__ == "__main__":
    main()
