"""What the runners share: the command line, the inputs and the dump. NumPy and safetensors only.

A runner is a script `run_*.py` that runs in the environment of a backend, where npmobilevit is not installed:

    python run_NAME.py --checkpoint FOLDER --pixels A.npy B.npy --out FOLDER [--model FILE] [--variant NAME]

For each file of pixel values, float32 (N, 3, H, W) and all of one shape, it writes FOLDER/A.safetensors: what the
backend exposes, under the tap names of transformers' modules, with "pixel_values" and "logits". The metadata has the
versions of what ran.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Pixels: TypeAlias = NDArray[np.float32]
Taps: TypeAlias = dict[str, NDArray[Any]]


class Request(NamedTuple):
    """What a runner is asked for."""

    checkpoint: Path  # a folder with config.json and model.safetensors, as transformers saves it
    shape: tuple[int, int, int, int]  # of the pixel values, (N, 3, H, W)
    model: Path | None  # what an exporter made of the checkpoint for this shape
    variant: str  # which of its ways the backend shall go; empty if it has one
    work: Path  # an empty folder for what is made on the way


def serve(
    prepare: Callable[[Request], Callable[[Pixels], Taps]],
    packages: Sequence[str],
    note: Callable[[], Mapping[str, str]] = dict,
) -> None:
    """Answer the command line.

    Parameters
    ----------
    prepare : callable (Request) -> callable (pixel_values) -> taps
        Loads the network once; what it returns runs it, and gives the taps in the order of the forward pass.
    packages : sequence of str
        Distributions whose versions stand for the result.
    note : callable () -> mapping of str to str
        What else a reader must know to get the same result.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--pixels", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--variant", default="")
    arguments = parser.parse_args()
    inputs = {path.stem: np.load(path) for path in arguments.pixels}
    (shape,) = {x.shape for x in inputs.values()}
    work = arguments.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    run = prepare(Request(arguments.checkpoint, shape, arguments.model, arguments.variant, work))
    versions = {name: importlib.metadata.version(name) for name in ("numpy", *packages)}
    for name, x in inputs.items():
        taps = {"pixel_values": x, **run(x.copy())}
        made_by = {**versions, "python": platform.python_version(), **note()}
        tensors = {tap: np.ascontiguousarray(value) for tap, value in taps.items()}
        save_file(tensors, arguments.out / f"{name}.safetensors", made_by)
