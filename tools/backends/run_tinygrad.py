"""tinygrad on the CPU, from the ONNX export. Its compiled kernels need clang.

pip install tinygrad==0.14.0 onnx==1.23.2 numpy safetensors
"""

from __future__ import annotations

import os
from collections.abc import Callable

from runner import Pixels, Request, Taps, serve

os.environ["DEV"] = "CPU"  # read when it is imported

from tinygrad import Tensor
from tinygrad.nn.onnx import OnnxRunner


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    """The network of the export; its outputs are named after the taps."""
    network = OnnxRunner(request.model)
    return lambda x: {name: value.numpy() for name, value in network({"pixel_values": Tensor(x)}).items()}


if __name__ == "__main__":
    serve(prepare, ["tinygrad"])
