"""The command ``npmobilevit``: parse, call the library, print.

Data goes to stdout, talk to stderr. Exit codes: 0 good, 1 some inputs failed, 2 usage, 3 the model is not to be
had, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from npmobilevit import __version__
from npmobilevit.errors import ImageError, ModelFallbackWarning, NpMobileViTError

if TYPE_CHECKING:
    from npmobilevit.pipeline import Pipeline, Prediction

EXIT_GOOD, EXIT_INPUT, EXIT_USAGE, EXIT_MODEL, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
BAR_WIDTH = 30


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"error: {message}; see {self.prog} --help\n")


class _ModelUnavailable(Exception):
    """The model of a command could not be loaded; the cause says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the console cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    try:
        code: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except _ModelUnavailable as unavailable:
        _say("error", unavailable.__cause__)
        return EXIT_MODEL
    except NpMobileViTError as error:
        _say("error", error)
        return EXIT_USAGE
    except KeyboardInterrupt:
        _say("error", "interrupted")
        return EXIT_INTERRUPTED
    except MemoryError:
        _say("error", "there is not enough memory for this")
        return EXIT_INPUT
    except BrokenPipeError:  # the reader has seen enough
        _drop_output()
        return EXIT_GOOD
    except OSError as error:
        _drop_output()
        _say("error", f"cannot write the output: {error.strerror or error}")
        return EXIT_INPUT


def _drop_output() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not fail on it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog="npmobilevit", description="MobileViT in plain NumPy.")
    parser.add_argument("--version", action="version", version=f"npmobilevit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--model", help="shipped name, alias, Hub id or folder (default: see the README)")
        command.add_argument("--json", action="store_true", help="print one JSON document")
        command.set_defaults(run=run)
        return command

    command = add("predict", run_predict, "name what pictures show")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="a picture file")
    command.add_argument("--top-k", type=_positive, default=5, metavar="K", help="classes to print (default: 5)")
    add("info", run_info, "describe a model: task, labels, parameters")
    command = add("taps", run_taps, "list the names and shapes of all values that the network can report")
    command.add_argument(
        "--size", type=_positive, nargs=2, metavar=("H", "W"), help="input size (default: the model's)"
    )
    return parser


def run_predict(options: argparse.Namespace) -> int:
    """Predict every picture; one that fails does not stop the others."""
    pipeline = _load(options.model)
    pipeline.require_classifier()  # before the first picture is read
    results: list[dict[str, Any]] = []
    failures = 0
    if not options.json:
        print(f"model {pipeline.name} ({pipeline.config.num_labels} labels)")
    for image in options.images:
        try:
            predictions = pipeline.predict(image, top_k=options.top_k)
        except ImageError as error:
            failures += 1
            _say("error", error)
            results.append({"input": image, "error": {"code": error.code, "message": str(error)}})
            continue
        results.append({"input": image, "predictions": [p._asdict() for p in predictions]})
        if not options.json:
            print(_printable(image), *map(_bar, predictions), sep="\n", flush=True)
    if options.json:
        _print_json("predict", pipeline, {"results": results})
    return EXIT_INPUT if failures else EXIT_GOOD


def run_info(options: argparse.Namespace) -> int:
    """Describe the model."""
    pipeline = _load(options.model)
    parts: dict[str, int] = {}
    for name, parameter in pipeline.network.parameters().items():
        part = _part(name)
        parts[part] = parts.get(part, 0) + parameter.size
    config, processor = pipeline.config, pipeline.processor
    facts: dict[str, Any] = {
        "architecture": type(pipeline.network).__name__,
        "labels": config.num_labels,
        "input": dict(processor.crop_size) if processor.do_center_crop else dict(processor.size),
        "output_stride": config.output_stride,
        "hidden_sizes": list(config.hidden_sizes),
        "neck_hidden_sizes": list(config.neck_hidden_sizes),
        "parameters": sum(parts.values()),
    }
    if options.json:
        names = [config.id2label[i] for i in range(config.num_labels)]
        _print_json("info", pipeline, {**facts, "parameters_by_part": parts, "label_names": names})
        return EXIT_GOOD
    print(f"model {pipeline.name}")
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
    pipeline = _load(options.model)
    crop = pipeline.processor.crop_size
    height, width = options.size or (crop["height"], crop["width"])
    blank = np.zeros((1, pipeline.config.num_channels, height, width), np.float32)
    shapes = {name: list(value.shape) for name, value in pipeline.network.taps(blank).items()}
    if options.json:
        _print_json("taps", pipeline, {"taps": shapes})
    else:
        for name, shape in shapes.items():
            print(f"{name}  {tuple(shape)}")
    return EXIT_GOOD


def _load(model: str | None) -> Pipeline:
    from npmobilevit.pipeline import load  # brings Pillow: not needed for --help and usage errors

    with _warnings_as_lines():
        try:
            return load(model)
        except NpMobileViTError as error:
            raise _ModelUnavailable from error


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print our own warning as one line, without the source line that Python adds."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ModelFallbackWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, ModelFallbackWarning):
            _say("warning", warning.message)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _say(kind: str, message: object) -> None:
    if sys.stderr is not None:  # print would turn to stdout
        print(f"{kind}: {_printable(' '.join(str(message).split()))}", file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    """Escape what could steer a terminal, or is no character: a file's name may hold anything but a slash."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _bar(prediction: Prediction) -> str:
    bar = "#" * round(BAR_WIDTH * prediction.score)
    return f"  {prediction.score:6.1%}  {_printable(prediction.label):20} {bar}".rstrip()


def _print_json(command: str, pipeline: Pipeline, content: dict[str, Any]) -> None:
    document = {
        "schema": f"npmobilevit.{command}/1",
        "version": __version__,
        "model": {"name": pipeline.name, "revision": pipeline.revision, "precision": pipeline.network.precision},
        **content,
    }
    print(json.dumps(document, indent=2, allow_nan=False))


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, found {text[:40]!r}")
    return int(text)
