"""The commands that look at pictures: predict and segment."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from npmobilevit.cli import reports, targets
from npmobilevit.cli.console import Progress, bars, in_options, is_terminal, printable, say, terminal_columns
from npmobilevit.cli.ending import EXIT_GOOD, EXIT_INPUT, EXIT_INTERRUPTED, STOPPING, Stop, as_stop
from npmobilevit.cli.inputs import Inputs, find_inputs
from npmobilevit.cli.model import load_model
from npmobilevit.cli.targets import Job
from npmobilevit.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

    from npmobilevit.images import ImageSource
    from npmobilevit.pipeline import PictureOptions, Pipeline
    from npmobilevit.results import Predictions, Segmentation

# The results of one picture, for programs (entries of its JSON object) and for people (lines).
Content = tuple[Mapping[str, Any], Sequence[str]]


class Batch(NamedTuple):
    """Pictures on their way: what is done with each.

    Attributes
    ----------
    jobs : sequence of Job
    stream : callable
        Sources of pictures to their results or errors, one by one and in order.
    finish : callable
        A job and its result to what is reported of it; writes the files of the job.
    """

    jobs: Sequence[Job]
    stream: Callable[[Iterable[ImageSource]], Iterator[Any]]
    finish: Callable[[Job, Any], Content]


def run_predict(options: argparse.Namespace) -> int:
    """Name what every picture shows; one that fails does not stop the others."""
    reading = reading_options(options)
    inputs = pictures_of(options)
    taken = [] if options.output is None else [options.output]
    for path in taken:
        targets.check_file(path, options.existing, targets.file_ids(inputs))
    wanted = {} if options.save_plot is None else {"plot": options.save_plot}
    jobs = targets.plan(inputs, wanted, existing=options.existing, taken=taken)
    with load_model(options.model, "classification", workers=options.workers) as pipeline:
        return _predict(pipeline, jobs, reading, options)


def _predict(pipeline: Pipeline, jobs: Sequence[Job], reading: PictureOptions, options: argparse.Namespace) -> int:
    pipeline.require_classifier()  # before the first picture is read
    out = None if options.output is None else io.StringIO()
    report = options.report("predict", pipeline, out)
    columns = terminal_columns(sys.stdout) if out is None else None

    def stream(images: Iterable[ImageSource]) -> Iterator[Predictions | ImageError]:
        return pipeline.stream_predictions(images, top_k=options.top_k, **reading)

    def finish(job: Job, predictions: Predictions) -> Content:
        rows = [(found.score, found.label, "") for found in predictions]
        written = _write_pictures(job, {"plot": predictions.plot})
        content = {"predictions": predictions.to_dict()["predictions"], **written}
        return content, [printable(job.input.name), *bars(rows, columns), *_written_lines(job)]

    code = run_batch(Batch(jobs, stream, finish), report, progress_of(len(jobs), report))
    if out is not None:
        targets.write_report(options.output, out.getvalue())
    return code


def run_segment(options: argparse.Namespace) -> int:
    """Tell which class every pixel of every picture belongs to, and write masks and overlays if asked to."""
    reading = reading_options(options)
    inputs = pictures_of(options)
    wanted = {"mask": options.output, "overlay": options.overlay}
    wanted = {kind: path for kind, path in wanted.items() if path is not None}
    jobs = targets.plan(inputs, wanted, existing=options.existing, skips=True)
    if done := len(inputs.pictures) - len(jobs):
        say("note", f"left out {done} picture{'s' * (done > 1)} whose files exist already")
    with load_model(options.model, "segmentation", workers=options.workers) as pipeline:
        return _segment(pipeline, jobs, reading, options)


def _segment(pipeline: Pipeline, jobs: Sequence[Job], reading: PictureOptions, options: argparse.Namespace) -> int:
    pipeline.require_segmenter()
    report = options.report("segment", pipeline)
    columns = terminal_columns(sys.stdout)

    def stream(images: Iterable[ImageSource]) -> Iterator[Segmentation | ImageError]:
        return pipeline.stream_segmentations(images, crop=options.crop, **reading)

    def finish(job: Job, segmentation: Segmentation) -> Content:
        written = _write_pictures(job, {"mask": segmentation.mask_image, "overlay": segmentation.overlay})
        content = {key: value for key, value in segmentation.to_dict().items() if key != "model"}
        content |= written
        rows = [(found.share, found.name, f"p {found.probability:.2f}  ") for found in segmentation.classes]
        unseen = 1 - sum(found.share for found in segmentation.classes)
        rows += [(unseen, "(outside the crop)", "")] if unseen > 1e-9 else []
        head = f"{printable(job.input.name)}  {content['width']} x {content['height']} pixels"
        return content, [head, *bars(rows, columns), *_written_lines(job)]

    return run_batch(Batch(jobs, stream, finish), report, progress_of(len(jobs), report))


def _write_pictures(job: Job, pictures: Mapping[str, Callable[[], Image.Image]]) -> dict[str, str | None]:
    """Write the files of a job; return the path of each kind of picture, None if it was not asked for."""
    for kind, path in job.targets.items():
        targets.write(path, targets.encode(kind, pictures[kind](), path))
    return {kind: job.targets.get(kind) for kind in pictures}


def _written_lines(job: Job) -> list[str]:
    return [f"  {kind}: {printable(path)}" for kind, path in job.targets.items()]


def reading_options(options: argparse.Namespace) -> PictureOptions:
    """The options of reading and preparing that were given, checked before the first picture is."""
    from npmobilevit.images import MAX_FILE_BYTES, MAX_PIXELS
    from npmobilevit.images.options import checked_options

    reading: PictureOptions = {
        "background": options.background,
        "value_range": None if options.value_range is None else tuple(options.value_range),
        "max_pixels": MAX_PIXELS if options.max_pixels is None else options.max_pixels,
    }
    checked_options(reading["background"], reading["value_range"], None, reading["max_pixels"], MAX_FILE_BYTES)
    if options.max_network_pixels is not None:
        reading["max_network_pixels"] = options.max_network_pixels
    return reading


def pictures_of(options: argparse.Namespace) -> Inputs:
    """The pictures that were named, with a note of what was left out."""
    inputs = find_inputs(options.inputs, recursive=options.recursive)
    if inputs.skipped:
        say(
            "note",
            f"left out {inputs.skipped} file{'s' * (inputs.skipped > 1)} whose names are not those of pictures",
        )
    return inputs


def progress_of(total: int, report: reports.Report) -> Progress:
    """The line of progress of a batch, which is shown where it does not mix with the results."""
    scrolls = not isinstance(report, reports.Document) and report.out is None and _same_terminal()
    return Progress(total, is_terminal(sys.stderr) and total > 1 and not scrolls)


def _same_terminal() -> bool:
    """Whether results and progress would mix on one screen."""
    if not (is_terminal(sys.stdout) and is_terminal(sys.stderr)):
        return False
    return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))


def run_batch(batch: Batch, report: reports.Report, progress: Progress) -> int:
    """Report the pictures one by one, until all are done or none can follow."""
    stop: Stop | None = None
    try:
        report.begin()
        progress.show()
        with closing(_in_step(batch)) as results:
            for job, result in results:
                outcome = _outcome(batch, job, result)
                _add(report, progress, job.input.name, outcome)
    except STOPPING as error:
        stop = as_stop(error)
        if stop.exit_code == EXIT_INTERRUPTED:
            message = f"interrupted after {progress.done} of {progress.total} pictures"
            stop = Stop(EXIT_INTERRUPTED, stop.code, message)
    finally:
        progress.clear()
    if stop is not None:
        say("error", stop)
    elif progress.failed and progress.total > 10:  # the errors may have scrolled by
        say("note", f"{progress.failed} of {progress.total} inputs failed")
    report.end(stop)
    return stop.exit_code if stop is not None else EXIT_INPUT if progress.failed else EXIT_GOOD


def _in_step(batch: Batch) -> Generator[tuple[Job, Any], None, None]:
    """Each job with its result or error, in order. One that has failed already does not reach the network."""
    begun: deque[Job] = deque()

    def sources() -> Iterator[ImageSource]:
        for job in batch.jobs:
            begun.append(job)
            if job.input.failure is None:
                yield job.input.source

    for result in batch.stream(sources()):
        while (failure := begun[0].input.failure) is not None:
            yield begun.popleft(), failure
        yield begun.popleft(), result
    yield from ((job, job.input.failure) for job in begun)


def _outcome(batch: Batch, job: Job, result: Any) -> Content | ImageError:
    try:
        return result if isinstance(result, ImageError) else batch.finish(job, result)
    except ImageError as error:  # its files cannot be written; those of others may
        return error


def _add(report: reports.Report, progress: Progress, name: str, outcome: Content | ImageError) -> None:
    if isinstance(outcome, ImageError):
        progress.clear()
        message = in_options(str(outcome))
        say("error", message if repr(name)[1:-1] in message else f"{name}: {message}")
        report.add(name, {"error": reports.describe_error(outcome)}, [])
    else:
        report.add(name, *outcome)
    progress.advance(failed=isinstance(outcome, ImageError))
