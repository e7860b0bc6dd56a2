"""The command check: the verdict on a port's tensors."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from npmobilevit.cli.console import say
from npmobilevit.cli.ending import EXIT_GOOD, EXIT_VALIDATION, usage
from npmobilevit.cli.model import load_model


def run_check(options: argparse.Namespace) -> int:
    """Judge a candidate, print the report and write it to files."""
    from npmobilevit.validation import check  # brings Pillow: not needed for --help and usage errors
    from npmobilevit.validation.report import FORMS

    outputs = [Path(name) for name in options.output]
    for path in outputs:
        if path.suffix.lower() not in FORMS:
            raise usage("report-form", f"{path}: a report ends in one of {', '.join(FORMS)}")
        if path.exists() and not options.force:
            raise usage("output-exists", f"{path} exists already; --force replaces it")
        if any(_same_file(path, given) for given in (options.candidate, options.image, options.inputs)):
            raise usage("output-is-input", f"{path} is an input; name another file")
    report = check(
        options.candidate,
        load_model(options.model),
        image=options.image,
        target_size=options.target_size and tuple(options.target_size),
        profile=options.profile,
        inputs=options.inputs,
    )
    print(report.to_json() if options.json else report.to_text(every_layer=options.every_layer))
    for path in outputs:
        report.save(path)
        say("report", path)
    return EXIT_GOOD if report.passed else EXIT_VALIDATION


def _same_file(path: Path, given: str | None) -> bool:
    return given is not None and path.exists() and os.path.exists(given) and path.samefile(given)
