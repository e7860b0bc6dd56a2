"""The commands that have to do with other implementations: record and check."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npmobilevit.cli import reports, targets
from npmobilevit.cli.console import printable, say
from npmobilevit.cli.ending import EXIT_GOOD, EXIT_INPUT, EXIT_VALIDATION, Stop, usage
from npmobilevit.cli.inputs import Input, Inputs
from npmobilevit.cli.model import load_model
from npmobilevit.errors import BundleError, ImageError, ShapeError
from npmobilevit.files import file_sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from npmobilevit.pipeline import Pipeline
    from npmobilevit.validation.bundles import Bundle

TENSOR_SUFFIXES = (".npy", ".npz", ".safetensors")


def run_record(options: argparse.Namespace) -> int:
    """Record what the network puts out at its taps."""
    from npmobilevit.validation.bundles import SELECTIONS, record

    output = os.path.expanduser(options.output)
    _check_output(options, output)
    pipeline = load_model(options.model, precision=options.precision)
    pixel_values = _pixel_values(pipeline, options.input)
    names = options.taps if options.taps in ("all", *SELECTIONS) else options.taps.split(",")
    bundle = record(
        pipeline,
        pixel_values,
        taps=names,
        with_bounds=options.with_bounds,
        max_bytes_per_tap=options.max_bytes_per_tap,
    )
    written = _written(bundle, output, options)
    facts: dict[str, Any] = {
        "output": output,
        "taps": len(bundle),
        "fingerprints": len(bundle.fingerprints),
        "files": len(written),
        "bytes": sum(path.stat().st_size for path in written),
        "sha256": None if options.export else file_sha256(written[0]),
        "weights_sha256": bundle.facts["weights_sha256"],
        "input_sha256": bundle.facts["input_sha256"],
    }
    if options.json:
        reports.print_facts("record", pipeline, facts)
        return EXIT_GOOD
    print(f"model {printable(pipeline.name)} ({options.precision})")
    for fact, value in facts.items():
        if value is not None:
            print(f"{fact:18} {value:,}" if isinstance(value, int) else f"{fact:18} {printable(value)}")
    return EXIT_GOOD


def _check_output(options: argparse.Namespace, output: str) -> None:
    """Refuse what cannot be written, or is not to be written over, before any work is done."""
    if not options.export and not output.endswith(".safetensors"):
        raise usage("output-suffix", f"{output!r}: a bundle is a .safetensors file; or write a folder with --export")
    if not options.export and (options.layout or options.dtype):
        raise usage("usage", "--layout and --dtype are for --export; a bundle holds values as they are computed")
    if options.export and (options.with_bounds or options.max_bytes_per_tap):
        raise usage("usage", "--with-bounds and --max-bytes-per-tap are for bundles; leave out --export")
    if options.export:
        targets.check_export_folder(output, options.existing)
        return
    read = targets.file_ids(Inputs([Input(options.input, options.input, "")], [], 0, True))
    targets.check_file(output, options.existing, read)


def _pixel_values(pipeline: Pipeline, source: str) -> NDArray[Any]:
    from npmobilevit.validation.candidates import read_pixel_values

    try:
        if source.lower().endswith(TENSOR_SUFFIXES):
            return pipeline.network.check_pixel_values(read_pixel_values(source))
        return pipeline.pixel_values(source)
    except (BundleError, ImageError, ShapeError) as error:
        raise Stop(EXIT_INPUT, error.code, str(error)) from error


def _written(bundle: Bundle, output: str, options: argparse.Namespace) -> list[Path]:
    """The files, after they have been written."""
    from npmobilevit.validation.exports import export

    try:
        if not options.export:
            bundle.save(output)
            return [Path(output)]
        layout = {"layout": options.layout} if options.layout else {}
        return export(bundle, output, form=options.export, dtype=options.dtype, force=True, **layout)
    except BundleError as error:
        if error.code == "bundle-unwritable":
            raise Stop(EXIT_INPUT, error.code, str(error)) from error
        raise


def run_check(options: argparse.Namespace) -> int:
    """Judge a port by its tensors: print the report, and write it to files."""
    from npmobilevit.validation import check
    from npmobilevit.validation.report import require_form

    outputs = [os.path.expanduser(name) for name in options.output]
    given = [name for name in (options.candidate, options.image, options.inputs) if name is not None]
    read = targets.file_ids(Inputs([Input(name, name, "") for name in given], [], 0, True))
    for output in outputs:
        require_form(output)
        targets.check_file(output, options.existing, read)
    pipeline = load_model(options.model)
    try:
        report = check(
            options.candidate,
            pipeline,
            image=options.image,
            target_size=options.target_size and tuple(options.target_size),
            profile=options.profile,
            inputs=options.inputs,
        )
    except (BundleError, ImageError) as error:
        raise Stop(EXIT_INPUT, error.code, str(error)) from error
    print(report.to_json() if options.json else report.to_text(every_layer=options.every_layer), flush=True)
    code = EXIT_GOOD if report.passed else EXIT_VALIDATION
    for output in outputs:
        try:
            report.save(output)
            say("report", output)
        except BundleError as error:
            say("error", error)
            code = code or EXIT_INPUT
    return code
