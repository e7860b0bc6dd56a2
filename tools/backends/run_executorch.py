"""ExecuTorch on the CPU, from its own export: XNNPACK or its portable kernels, as the program says.

pip install torch==2.13.0
pip install --no-deps executorch==1.5.1 torchao==0.18.0
pip install flatbuffers ruamel.yaml tabulate pandas safetensors
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from executorch.runtime import Runtime
from runner import Pixels, Request, Taps, serve


def prepare(request: Request) -> Callable[[Pixels], Taps]:
    """The program of the export, whose outputs are listed beside it."""
    names = json.loads(request.model.with_suffix(".json").read_text(encoding="utf-8"))
    program = Runtime.get().load_program(request.model)
    forward = program.load_method("forward")

    def run(x: Pixels) -> Taps:
        values = forward.execute([torch.from_numpy(x)])
        return {name: value.numpy().copy() for name, value in zip(names, values, strict=True)}

    return run


if __name__ == "__main__":
    serve(prepare, ["executorch", "torch"])
