"""Two findings about MNN without a network: one convolution of a map of 10x13, and one average of a map.

    pip install MNN==3.6.1 onnx==1.23.2 numpy
    python minimal_mnn.py

MNN forms 3x3 convolutions by Winograd's method, in tiles as large as suit the map. The larger the tile, the larger the
numbers that cancel in its last step, and in the largest a thousandth of the result is lost, in what MNN calls high
precision. And what its converter makes of GlobalAveragePool with --keepInputFormat averages other numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import _tools
import MNN
import numpy as np
import onnx
from onnx import TensorProto, helper

CHANNELS = 48
WINOGRAD_MEMORY_LEVEL = 3  # MNN::Interpreter::HintMode


def run(node: onnx.NodeProto, x: np.ndarray, constants: Sequence[onnx.TensorProto], *, small_tiles: bool = False,
        flags: Sequence[str] = ()) -> np.ndarray:  # fmt: skip
    """What MNN makes of one node from x to y."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, CHANNELS, None, None))
    graph = helper.make_graph([node], "minimal", [given], [made], constants)
    with tempfile.TemporaryDirectory() as folder:
        source, converted = str(Path(folder, "one.onnx")), str(Path(folder, "one.mnn"))
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), source)
        command = ["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", converted, "--bizCode", "b", *flags]
        _tools.mnnconvert(command)
        runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "precision": "high"},))
        if small_tiles:
            runtime.set_hint(WINOGRAD_MEMORY_LEVEL, 1)
        network = MNN.nn.load_module_from_file(converted, ["x"], ["y"], runtime_manager=runtime)
        (y,) = network.forward([MNN.expr.const(x, list(x.shape), MNN.expr.NCHW)])
        return np.array(MNN.expr.convert(y, MNN.expr.NCHW).read())


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, CHANNELS, 10, 13)).astype(np.float32)
    weight = (rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 20).astype(np.float32)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    right = np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64))
    constant = helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True)
    convolution = helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1])
    for small_tiles in (False, True):
        error = np.abs(run(convolution, x, [constant], small_tiles=small_tiles) - right).max()
        tiles = "small tiles" if small_tiles else "as it is"
        print(f"convolution, {tiles}: largest error {error / np.sqrt(np.square(right).mean()):.1e} of the rms")
    average = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    for flags in ((), ("--keepInputFormat",)):
        error = np.abs(run(average, x, [], flags=flags) - x.mean(axis=(2, 3), keepdims=True)).max()
        print(f"average, {' '.join(flags) or 'as it is'}: largest error {error:.1e}")


if __name__ == "__main__":
    main()
