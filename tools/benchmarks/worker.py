"""A contestant, in its process: loads a network, runs it once, saves its logits, and waits for its turns.

    python worker.py PROGRAM FOLDER LOGITS.npy OPTIONS

FOLDER is what material.py has made, OPTIONS are those of the program below, in JSON. Nothing is imported that the
contestant does not need, as its memory is measured.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]

Run: TypeAlias = Callable[[], Any]  # gives the logits
Facts: TypeAlias = Callable[[], Mapping[str, Any]]


def run_torch(
    folder: Path, x: NDArray[np.float32], threads: int, dtype: str = "float32", compiled: bool = False
) -> tuple[Run, Facts]:
    """transformers' network, eager or compiled."""
    import torch
    from torch_network import Plain, load

    torch.set_num_threads(threads)
    precision = getattr(torch, dtype)
    pixel_values = torch.from_numpy(x).to(precision)
    network = Plain(load(folder).to(precision))
    if compiled:
        network = torch.compile(network, fullgraph=True)  # a break of the graph is an error

    def run() -> Any:
        with torch.inference_mode():
            return network(pixel_values)

    return run, dict


def run_onnxruntime(folder: Path, x: NDArray[np.float32], threads: int) -> tuple[Run, Facts]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["logits"], {"pixel_values": x})[0], dict


def run_evaluator(folder: Path, x: NDArray[np.float32]) -> tuple[Run, Facts]:
    from run_onnx_reference import prepare
    from runner import Request

    run = prepare(Request(folder, x.shape, folder / "model.onnx", "fused", folder))
    return lambda: run(x)["logits"], dict


def run_readable(folder: Path, x: NDArray[np.float32]) -> tuple[Run, Facts]:
    import npmobilevit as nm

    network = nm.load(folder, engine="reference").network
    return lambda: network(x).logits, dict


def run_engine(folder: Path, x: NDArray[np.float32], workers: str, expected: str) -> tuple[Run, Facts]:
    """Our engine, which must fall back neither on the readable network nor on other workers than expected."""
    import npmobilevit as nm

    network = nm.load(folder, engine="fast", workers=workers).network

    def facts() -> Mapping[str, Any]:
        plan = network.plan(*x.shape[2:])
        if (plan.engine, plan.workers) != ("fast", expected):
            raise RuntimeError(f"runs otherwise than asked for: {plan}")
        return {"plan": str(plan)}

    return lambda: network(x).logits, facts


PROGRAMS = {
    "torch": run_torch,
    "onnxruntime": run_onnxruntime,
    "evaluator": run_evaluator,
    "readable": run_readable,
    "engine": run_engine,
}


def main() -> None:
    program, folder, logits, options = sys.argv[1:]
    sys.path.insert(0, str(ROOT / "tools" / "backends"))
    turns = load_turns()

    def prepare() -> tuple[Run, Callable[[Any], Mapping[str, Any]]]:
        x = np.load(Path(folder) / "pixel_values.npy")
        run, facts = PROGRAMS[program](Path(folder), x, **json.loads(options))

        def describe(output: Any) -> Mapping[str, Any]:
            np.save(logits, np.asarray(output))
            return facts()

        return run, describe

    turns.serve(prepare)


def load_turns() -> Any:
    """npmobilevit/cli/turns.py alone: the package would add to the memory of the others."""
    path = ROOT / "npmobilevit" / "cli" / "turns.py"
    spec = importlib.util.spec_from_file_location("turns", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
