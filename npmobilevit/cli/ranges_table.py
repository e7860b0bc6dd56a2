"""The command ranges: which values every tap takes over many pictures, and test vectors of layers in fixed point."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from npmobilevit.cli import reports, targets
from npmobilevit.cli.batch import Batch, Content, pictures_of, progress_of, reading_options, run_batch
from npmobilevit.cli.console import printable, say
from npmobilevit.cli.ending import EXIT_INPUT, STOPPING, Stop, as_stop, usage
from npmobilevit.cli.model import load_model
from npmobilevit.cli.targets import Job
from npmobilevit.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from npmobilevit.fixed_point import Arithmetic, Layer, Range
    from npmobilevit.images import ImageSource
    from npmobilevit.pipeline import PictureOptions, Pipeline

WIDTHS = (8, 16)  # of the formats in the table


@dataclasses.dataclass
class Tally:
    """What is known so far.

    Attributes
    ----------
    ranges : dict of str to Range
        Of the taps, over the pictures that were finished.
    pictures : int
        How many these are.
    first : (1, C, H, W) array or None
        The pixel values of the first of them.
    """

    ranges: dict[str, Range] = dataclasses.field(default_factory=dict)
    pictures: int = 0
    first: NDArray[Any] | None = None


@dataclasses.dataclass(frozen=True)
class Export:
    """What test vectors are to be written when all pictures have been seen."""

    folder: str
    layers: Sequence[Layer]
    taps: Sequence[str]  # recorded besides the inputs of the layers
    arithmetic: Arithmetic
    layout: Any
    force: bool


def run_ranges(options: argparse.Namespace) -> int:
    """Tell which values the taps take, and write test vectors if asked to."""
    from npmobilevit.fixed_point import tap_names

    reading = reading_options(options)
    _check_options(options)
    inputs = pictures_of(options)
    if options.output is not None:
        targets.check_file(options.output, options.existing, targets.file_ids(inputs))
    pipeline = _seeing(load_model(options.model))
    chosen = ["all"] if options.taps is None else _names(options.taps)
    names = tap_names(pipeline.network, chosen[0] if len(chosen) == 1 else chosen)
    vectors = _vectors(pipeline, names, options) if options.export is not None else None
    out = None if options.output is None else io.StringIO()
    report = Report(pipeline, names, vectors, options, out)
    jobs = targets.plan(inputs, {})
    code = run_batch(_batch(pipeline, report, jobs, reading), report, progress_of(len(jobs), report))
    if out is not None and out.getvalue():
        targets.write_report(options.output, out.getvalue())
    return report.export_stop.exit_code if report.export_stop is not None else code


def _names(text: str) -> list[str]:
    """The names of a list with commas; spaces beside these are of no meaning."""
    return [name.strip() for name in text.split(",")]


def _seeing(pipeline: Pipeline) -> Pipeline:
    """The pipeline that sees pictures as predict does, or as segment does, without a crop."""
    from npmobilevit.models import MobileViTForSemanticSegmentation

    pipeline.require_pictures()
    return pipeline.without_crop() if isinstance(pipeline.network, MobileViTForSemanticSegmentation) else pipeline


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before any work is done."""
    if not 50 <= options.percentile <= 100:
        raise usage("usage", f"--percentile must be in 50 to 100, found {options.percentile:g}")
    own = ("layers", "width", "rounding", "accumulator", "layout")
    if options.export is None:
        given = [f"--{name}" for name in own if getattr(options, name) is not None]
        if given:
            raise usage("usage", f"{', '.join(given)}: for test vectors only; name their folder with --export")
        return
    if options.layers is None:
        raise usage("usage", "--export writes the test vectors of layers; name them with --layers NAME,NAME")
    folder = os.path.expanduser(options.export)
    targets.check_export_folder(folder, options.existing)
    targets.check_file(os.path.join(folder, "layers.json"), "replace", ())
    if options.output is not None and _overlap(options.output, folder):
        message = f"{options.output!r} and the folder of the test vectors, {folder!r}, lie in one another; name another"
        raise usage("output-twice", message)


def _overlap(file: str, folder: str) -> bool:
    """Whether one of the paths is the other or lies below it, wherever links lead."""
    one, other = (Path(os.path.normcase(os.path.realpath(path))) for path in (file, folder))
    return one.is_relative_to(other) or other.is_relative_to(one)


def _vectors(pipeline: Pipeline, names: Sequence[str], options: argparse.Namespace) -> Export:
    from npmobilevit.fixed_point import Arithmetic, traced

    width = options.width or 8
    arithmetic = Arithmetic(width, options.accumulator or {8: 32, 16: 64}[width], options.rounding or "half-even")
    layers = traced(pipeline.network, _names(options.layers))
    extra = () if options.taps is None else names
    force = options.existing == "replace"
    return Export(options.export, layers, extra, arithmetic, options.layout or "NCHW", force)


def _batch(pipeline: Pipeline, report: Report, jobs: Sequence[Job], reading: PictureOptions) -> Batch:
    from npmobilevit.fixed_point import merged, tap_ranges

    tally, names = report.tally, report.measured

    def stream(images: Iterable[ImageSource]) -> Iterator[NDArray[Any] | ImageError]:
        for image in images:
            try:
                yield pipeline.pixel_values(image, **reading)
            except ImageError as error:
                yield error

    def finish(job: Job, pixel_values: NDArray[Any]) -> Content:
        found = tap_ranges(pipeline.network, pixel_values, names)
        tally.ranges = merged(tally.ranges, found)  # of whole pictures only
        tally.pictures += 1
        tally.first = pixel_values if tally.first is None else tally.first
        return {}, []

    return Batch(jobs, stream, finish)


class Report(reports.Document):
    """The table, when all pictures have been seen, or as many as there were; and the test vectors.

    Without a picture there is no table: that of the parameters alone would look like a success.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        names: Sequence[str],
        vectors: Export | None,
        options: argparse.Namespace,
        out: TextIO | None,
    ) -> None:
        super().__init__("ranges", pipeline, out)
        self.tally = Tally()
        self.names = names
        self.vectors = vectors
        self.percentile: float = options.percentile
        self.lower_percentile = float(100 - Decimal(str(options.percentile)))
        self.form: str = options.form
        self.export_stop: Stop | None = None

    @property
    def measured(self) -> list[str]:
        """The taps of the table, and those that the test vectors need a range of."""
        if self.vectors is None:
            return list(self.names)
        layers = self.vectors.layers
        of_layers = [name for layer in layers for name in (*layer.inputs, layer.output)]
        return list(dict.fromkeys([*self.names, "pixel_values", *of_layers]))

    def end(self, stop: Stop | None) -> None:
        exported = self._export(self.vectors) if stop is None and self.vectors is not None else None
        if isinstance(exported, Stop):
            stop = self.export_stop = exported
        if self.form == "json":
            super().end(stop)
        elif self.tally.pictures:
            {"csv": self._print_csv, "text": self._print_text}[self.form]()
        if exported is not None:  # below the table, which is long
            say("error" if isinstance(exported, Stop) else "note", exported)

    def _export(self, vectors: Export) -> Stop | str:
        """Write the test vectors; say what was written, or why nothing."""
        if self.tally.first is None:
            return "no test vectors, for no picture could be used"
        try:
            count = _write_vectors(self.pipeline, vectors, self.tally.first, self.tally.ranges)
        except STOPPING as error:
            stop = as_stop(error)
            if stop.code == "bundle-unwritable":
                stop = Stop(EXIT_INPUT, stop.code, str(stop))
            return stop
        return f"wrote {count} files below {vectors.folder}"

    def _rows(self) -> list[dict[str, Any]]:
        """What is known of each tap, and of each parameter of the modules that the taps are of."""
        from npmobilevit.fixed_point import Range

        if not self.tally.pictures:
            return []
        found = self.tally.ranges
        rows = [self._row(name, "tap", found[name]) for name in self.names if name in found]
        of = set(self.names)
        parameters = self.pipeline.network.parameters()
        own = {name: value for name, value in parameters.items() if name.rpartition(".")[0] in of and value.size}
        return rows + [self._row(name, "parameter", Range.of(value)) for name, value in own.items()]

    def _row(self, name: str, kind: str, found: Range) -> dict[str, Any]:
        from npmobilevit.fixed_point import QFormat

        lower, upper = found.lower(self.lower_percentile), found.upper(self.percentile)
        row: dict[str, Any] = {"name": name, "kind": kind, "values": found.size}
        row |= {"min": found.minimum, "lower": lower, "upper": upper, "max": found.maximum}
        limits = {"all": (found.minimum, found.maximum), "clipped": (lower, upper)}
        return row | {
            key: {f"int{width}": QFormat.holding(width, *limit) for width in WIDTHS} for key, limit in limits.items()
        }

    def facts(self) -> Mapping[str, Any]:
        return {
            "pictures": self.tally.pictures,
            "percentiles": [self.lower_percentile, self.percentile],
            "ranges": [_plain(row) for row in self._rows()],
        }

    def _print_csv(self) -> None:
        keys = [(key, f"int{width}") for key in ("all", "clipped") for width in WIDTHS]
        plain = ("name", "kind", "values", "min", "lower", "upper", "max")
        columns = [f"{key}_{width}_{part}" for key, width in keys for part in ("m", "n")]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*plain, *columns])
        for row in self._rows():
            formats = [row[key][width] for key, width in keys]
            parts = [part for format in formats for part in (format.integer_bits, format.fraction)]
            writer.writerow([*(row[key] for key in plain), *parts])
        print(text.getvalue(), end="", file=self.out, flush=True)

    def _print_text(self) -> None:
        rows = self._rows()
        lower, upper = f"{self.lower_percentile}%", f"{self.percentile}%"
        heads = ["min", lower, upper, "max", "int8", "int16", "int8 clipped", "int16 clipped"]
        keys = ("min", "lower", "upper", "max")
        cells = [
            [f"{row[key]:.6g}" for key in keys]
            + [str(row[key][f"int{width}"]) for key in ("all", "clipped") for width in WIDTHS]
            for row in rows
        ]
        widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
        name_width = max((len(row["name"]) for row in rows), default=0)
        pictures = f"{self.tally.pictures} picture{'s' * (self.tally.pictures != 1)}"
        lines = [f"model {printable(self.pipeline.name)} ({pictures})", ""]
        for name, cells_of in zip(["", *(row["name"] for row in rows)], [heads, *cells], strict=True):
            padded = (f"{cell:>{width}}" for cell, width in zip(cells_of, widths, strict=True))
            lines.append(f"{name:{name_width}}  {'  '.join(padded)}")
        print("\n".join(lines), file=self.out, flush=True)


def _write_vectors(pipeline: Pipeline, vectors: Export, pixel_values: NDArray[Any], ranges: Mapping[str, Range]) -> int:
    """Write the test vectors of one picture; return how many files these are."""
    from npmobilevit.fixed_point import export_layers
    from npmobilevit.validation import record

    inputs = [name for layer in vectors.layers for name in layer.inputs]
    with np.errstate(over="ignore", invalid="ignore"):  # no words are made of NaN and infinity
        recorded = record(pipeline, pixel_values, taps=[*vectors.taps, *inputs])
    written = export_layers(
        pipeline.network,
        vectors.layers,
        recorded,
        ranges,
        vectors.folder,
        arithmetic=vectors.arithmetic,
        layout=vectors.layout,
        force=vectors.force,
    )
    return len(written)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for JSON: of each format its parts."""
    parts = {
        key: {
            width: {"integer_bits": format.integer_bits, "fraction": format.fraction, "step": format.step}
            for width, format in row[key].items()
        }
        for key in ("all", "clipped")
    }
    return {**row, **parts}
