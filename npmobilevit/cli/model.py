"""The model of a command, and the commands that look at nothing else: info and taps."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from npmobilevit.cli import reports
from npmobilevit.cli.console import printable, warnings_as_lines
from npmobilevit.cli.ending import EXIT_GOOD, EXIT_MODEL, Stop
from npmobilevit.errors import NpMobileViTError
from npmobilevit.files import file_sha256

if TYPE_CHECKING:
    from npmobilevit.engine import Workers
    from npmobilevit.pipeline import Pipeline, Task


def load_model(
    model: str | None,
    task: Task = "classification",
    *,
    precision: str = "float32",
    workers: Workers = "threads",
) -> Pipeline:
    """Load a model.

    Parameters
    ----------
    model : str or None
        Name or folder; None for the default of `task`.
    task : {"classification", "segmentation"}
    precision : {"float32", "float64", "bitexact"}
    workers : {"threads", "processes"}
        Who shares the work; of processes, the caller has to close the pipeline.

    Returns
    -------
    Pipeline

    Raises
    ------
    Stop
        If it is not to be had.
    """
    from npmobilevit.pipeline import load  # brings Pillow: not needed for --help and usage errors

    with warnings_as_lines():
        try:
            return load(model, task=task, precision=precision, workers=workers)
        except NpMobileViTError as error:
            raise Stop(EXIT_MODEL, error.code, str(error)) from error


def run_info(options: argparse.Namespace) -> int:
    """Describe the model."""
    from npmobilevit.checkpoints import read_checkpoint

    pipeline = load_model(options.model)
    contents = read_checkpoint(pipeline.name)
    parts: dict[str, int] = {}
    for name, parameter in pipeline.network.parameters().items():
        part = _part(name)
        parts[part] = parts.get(part, 0) + parameter.size
    config, processor = pipeline.config, pipeline.processor
    facts: dict[str, Any] = {
        "architecture": type(pipeline.network).__name__,
        "family": contents.family,
        "labels": config.num_labels,
        "input": dict(processor.crop_size) if processor.do_center_crop else dict(processor.size),
        "output_stride": config.output_stride,
        "hidden_sizes": list(config.hidden_sizes),
        "neck_hidden_sizes": list(config.neck_hidden_sizes),
        "dtype": ", ".join(contents.dtypes),
        "sha256": file_sha256(contents.weights_path),
        "parameters": sum(parts.values()),
    }
    if options.json:
        names = [config.id2label[i] for i in range(config.num_labels)]
        reports.print_facts("info", pipeline, {**facts, "parameters_by_part": parts, "label_names": names})
        return EXIT_GOOD
    print(f"model {printable(pipeline.name)}")
    for fact, value in facts.items():
        print(f"{fact:18} {value:,}" if isinstance(value, int) else f"{fact:18} {value}")
    for part, count in parts.items():
        print(f"  {part:26} {count:>9,}")
    return EXIT_GOOD


def _part(name: str) -> str:
    """The part of the network that a parameter is counted under: stem, an encoder layer, or what comes after."""
    path = name.removeprefix("mobilevit.").split(".")
    return ".".join(path[:3]) if path[0] == "encoder" else path[0]


def run_taps(options: argparse.Namespace) -> int:
    """List the taps of a forward pass, in its order."""
    pipeline = load_model(options.model)
    crop = pipeline.processor.crop_size
    height, width = options.size or (crop["height"], crop["width"])
    blank = np.zeros((1, pipeline.config.num_channels, height, width), np.float32)
    shapes = {name: list(value.shape) for name, value in pipeline.network.taps(blank).items()}
    if options.json:
        reports.print_facts("taps", pipeline, {"taps": shapes})
    else:
        for name, shape in shapes.items():
            print(f"{name}  {tuple(shape)}")
    return EXIT_GOOD
