"""The model of a command, and the commands that look at nothing else: info and taps."""

from __future__ import annotations

import argparse
import csv
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npmobilevit.cli import reports, targets
from npmobilevit.cli.console import printable, warnings_as_lines
from npmobilevit.cli.ending import EXIT_GOOD, EXIT_INPUT, EXIT_MODEL, Stop, usage
from npmobilevit.errors import ImageError, NpMobileViTError
from npmobilevit.files import file_sha256

if TYPE_CHECKING:
    from PIL import Image

    from npmobilevit.cost import CostTable, Row
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
    """Describe the model, and what a forward pass costs."""
    from npmobilevit.cost import cost_table

    if options.plot is not None:
        _check_plot(options.plot, options.existing)
    pipeline = load_model(options.model)
    size, itemsize = _input_size(pipeline, options.size), pipeline.network.dtype.itemsize
    table = cost_table(pipeline.config, size, head=pipeline.network.head, itemsize=itemsize)
    if options.plot is not None:
        _write_plot(options.plot, table)
    if options.csv:
        print(_csv(table), end="")
        return EXIT_GOOD
    facts, total = _facts(pipeline, table), table.total()
    if options.json:
        rows = {"blocks": table.blocks(), "layers": table.rows}
        costs = {key: [_described(row, total) for row in part] for key, part in rows.items()}
        names = [pipeline.config.id2label[i] for i in range(pipeline.config.num_labels)]
        reports.print_facts("info", pipeline, {**facts, **costs, "label_names": names})
        return EXIT_GOOD
    print(f"model {printable(pipeline.name)}")
    for fact, value in facts.items():
        print(f"{fact:18} {value:,}" if isinstance(value, int) else f"{fact:18} {value}")
    lines = _cost_lines(table, table.rows, "layer") if options.layers else _cost_lines(table, table.blocks(), "block")
    print(*lines, sep="\n")
    return EXIT_GOOD


def _facts(pipeline: Pipeline, table: CostTable) -> dict[str, Any]:
    from npmobilevit.checkpoints import read_checkpoint
    from npmobilevit.validation.bundles import weights_sha256

    config, processor, contents = pipeline.config, pipeline.processor, read_checkpoint(pipeline.name)
    total = table.total()
    return {
        "architecture": type(pipeline.network).__name__,
        "family": contents.family,
        "labels": config.num_labels,
        "input": dict(processor.crop_size) if processor.do_center_crop else dict(processor.size),
        "output_stride": config.output_stride,
        "hidden_sizes": list(config.hidden_sizes),
        "neck_hidden_sizes": list(config.neck_hidden_sizes),
        "dtype": ", ".join(contents.dtypes),
        "sha256": file_sha256(contents.weights_path),
        "weights_sha256": weights_sha256(pipeline.network),
        "parameters": total.parameters,
        "buffers": total.buffers,
        "input_shape": list(table.input_shape),
        "precision": pipeline.network.dtype.name,
        "macs": total.macs,
    }


def _input_size(pipeline: Pipeline, size: Sequence[int] | None) -> tuple[int, int]:
    """Height and width that were asked for, or those that the model's processor makes of a picture of its size."""
    image_size = pipeline.config.image_size
    picture = (image_size, image_size) if isinstance(image_size, int) else image_size
    height, width = size or pipeline.processor.geometry(*picture).network
    return height, width


def _described(row: Row, total: Row) -> dict[str, Any]:
    """A row for programs, with its share of the multiply-accumulates."""
    described = row._asdict()
    shape, field = described.pop("shape"), described.pop("receptive_field")
    return {**described, "mac_share": row.macs / total.macs, "shape": list(shape), "receptive_field": list(field)}


def _csv(table: CostTable) -> str:
    """A line for each layer below a line of names (RFC 4180)."""
    text, total = io.StringIO(), table.total()
    lines = [_described(row, total) for row in table.rows]
    for line in lines:
        line["shape"], line["receptive_field"] = _times(line["shape"]), _times(line["receptive_field"])
    writer = csv.DictWriter(text, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _cost_lines(table: CostTable, rows: Sequence[Row], what: str) -> list[str]:
    """The rows for people, and their sum."""
    total = table.total()
    cells = [("macs", "share", "", "parameters", "weight bytes", "activation bytes", "field", "output", what)]
    for row in [*rows, total]:
        share = row.macs / total.macs
        field = "all" if row.receptive_field == table.input_shape[2:] else _times(row.receptive_field)
        cells.append(
            (
                *(f"{row.macs:,}", f"{share:.1%}", "#" * round(10 * share) if row is not total else ""),
                *(f"{row.parameters:,}", f"{row.weight_bytes:,}", f"{row.activation_bytes:,}"),
                *(field, _times(row.shape), row.name),
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:{sign}{width}}" for cell, sign, width in zip(line, ">><>>>>><", widths, strict=True)).rstrip()
        for line in cells
    ]


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _check_plot(path: str, existing: targets.Existing) -> None:
    suffixes = targets.FORMATS["plot"]
    if os.path.splitext(path)[1].lower() not in suffixes:
        raise usage("output-suffix", f"plot file {path!r} has to end in {', '.join(suffixes)}")
    targets.check_file(path, existing, ())


def _write_plot(path: str, table: CostTable) -> None:
    try:
        targets.write(path, targets.encode("plot", _cost_picture(table), path))
    except ImageError as error:
        raise Stop(EXIT_INPUT, error.code, str(error)) from error


def _cost_picture(table: CostTable) -> Image.Image:
    """Bars of the multiply-accumulates and of the parameters of each block."""
    from npmobilevit.visual.drawing import arranged, bars

    blocks, total = table.blocks(), table.total()
    return arranged(
        [
            (bars([(row.name, row.macs, f"{row.macs:,}") for row in blocks]), f"{total.macs:,} multiply-accumulates"),
            (bars([(r.name, r.parameters, f"{r.parameters:,}") for r in blocks]), f"{total.parameters:,} parameters"),
        ]
    )


def run_taps(options: argparse.Namespace) -> int:
    """List the taps of a forward pass, in its order."""
    pipeline = load_model(options.model)
    height, width = _input_size(pipeline, options.size)
    blank = np.zeros((1, pipeline.config.num_channels, height, width), np.float32)
    shapes = {name: list(value.shape) for name, value in pipeline.network.taps(blank).items()}
    if options.json:
        reports.print_facts("taps", pipeline, {"taps": shapes})
    else:
        for name, shape in shapes.items():
            print(f"{name}  {tuple(shape)}")
    return EXIT_GOOD
