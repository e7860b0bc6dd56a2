"""The command explain: what a network makes of a picture, as a page of HTML."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from npmobilevit.cli import reports, targets
from npmobilevit.cli.batch import reading_options
from npmobilevit.cli.console import bars, in_options, printable, say, terminal_columns
from npmobilevit.cli.ending import EXIT_GOOD, EXIT_INPUT, Stop, usage
from npmobilevit.cli.inputs import find_inputs
from npmobilevit.cli.model import load_model
from npmobilevit.errors import ImageError

if TYPE_CHECKING:
    from npmobilevit.explanation import Evidence
    from npmobilevit.pipeline import Pipeline

SUFFIXES = (".html", ".htm")
LARGE_INPUT = 500_000  # pixels: a classifier, which is asked 65 times, takes some half a minute


def run_explain(options: argparse.Namespace) -> int:
    """Write the page of a picture, and say what it is about."""
    from npmobilevit.explanation import page_of
    from npmobilevit.explanation.evidence import view

    reading = reading_options(options)
    inputs = find_inputs([options.picture], recursive=False)
    if not inputs.one_picture:
        raise usage("one-picture", f"a page is about one picture, found {options.picture!r}; name a file, or -")
    output = os.path.expanduser(options.output)
    targets.check_file(output, options.existing, targets.file_ids(inputs))
    if os.path.splitext(output)[1].lower() not in SUFFIXES:
        raise usage("output-suffix", f"page {output!r} has to end in {' or '.join(SUFFIXES)}")
    (picture,) = inputs.pictures
    with load_model(options.model) as pipeline:
        try:
            seen = view(pipeline, picture.source, **reading)
            _note_size(seen.geometry.network)
            page = page_of(seen)
            page.save(output)
        except ImageError as error:
            raise Stop(EXIT_INPUT, error.code, in_options(str(error))) from error
        height, width = page.evidence.seen.shape[:2]
        facts = {"input": picture.name, "output": output, "bytes": len(page.html), "seen": [height, width]}
        if options.json:
            reports.print_facts("explain", pipeline, facts | _answer(page.evidence))
        else:
            print(*_lines(pipeline, page.evidence, facts), sep="\n")
    return EXIT_GOOD


def _lines(pipeline: Pipeline, evidence: Evidence, facts: Mapping[str, Any]) -> list[str]:
    """What is said of the page."""
    rows = [(share, name, "") for name, share in _shares(evidence)]
    return [
        f"model {printable(pipeline.name)} ({pipeline.config.num_labels} labels)",
        printable(facts["input"]),
        *bars(rows, terminal_columns(sys.stdout)),
        f"  page: {printable(facts['output'])} ({facts['bytes']:,} bytes)",
    ]


def _note_size(size: tuple[int, int]) -> None:
    """Say before it begins that the work on a large input takes long."""
    if (pixels := math.prod(size)) >= LARGE_INPUT:
        height, width = size
        say(
            "note",
            f"the network sees {height} x {width} (height x width), {pixels:,} pixels; the time of attention grows "
            "with their square, so that this may take minutes",
        )


def _answer(evidence: Evidence) -> dict[str, Any]:
    """The classes, as predict and segment give them in JSON."""
    if evidence.segmentation is not None:
        return {"classes": evidence.segmentation.to_dict()["classes"]}
    assert evidence.predictions is not None
    return {"predictions": evidence.predictions.to_dict()["predictions"]}


def _shares(evidence: Evidence) -> list[tuple[str, float]]:
    """Names of classes with their probabilities or shares of the picture."""
    if evidence.segmentation is not None:
        return [(found.name, found.share) for found in evidence.segmentation.classes]
    return [(found.label, found.score) for found in evidence.predictions or ()]
