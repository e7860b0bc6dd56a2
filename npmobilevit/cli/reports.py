"""What a command prints: text for people, one JSON document, or a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from npmobilevit import __version__
from npmobilevit.cli.console import printable
from npmobilevit.cli.ending import Stop

if TYPE_CHECKING:
    from npmobilevit.pipeline import Pipeline


# Of the forms that have changed; npmobilevit.validation.report.SCHEMA is that of a verdict.
VERSIONS = {"check": 2, "info": 2, "predict": 2}


def schema(command: str | None) -> str:
    """Name of the form of a command's JSON, which grows by one with every change; None: there is no such command."""
    version = VERSIONS.get(command or "", 1)
    return f"npmobilevit.{command}/{version}" if command else "npmobilevit/1"


def describe_error(error: Any) -> dict[str, str]:
    """Code and message of one of our errors, or of a Stop."""
    return {"code": error.code, "message": str(error)}


def describe_model(pipeline: Pipeline) -> dict[str, Any]:
    """What tells one model from another."""
    return {"name": pipeline.name, "revision": pipeline.revision, "precision": pipeline.network.precision}


def print_document(content: Mapping[str, Any], out: TextIO | None = None) -> None:
    """Print one JSON object over several lines, in ASCII. A name that is no UTF-8 has surrogate escapes."""
    print(json.dumps(content, indent=2, allow_nan=False), file=out, flush=True)


def print_facts(command: str, pipeline: Pipeline, facts: Mapping[str, Any]) -> None:
    """Print the document of a command that knows no pictures."""
    print_document({"schema": schema(command), "version": __version__, "model": describe_model(pipeline), **facts})


def print_failure(command: str | None, stop: Stop, *, lines: bool) -> None:
    """Print, in JSON, that a command ended before it had any results."""
    if lines:
        print(json.dumps({"schema": schema(command), "error": describe_error(stop)}), flush=True)
    else:
        print_document({"schema": schema(command), "version": __version__, "error": describe_error(stop)})


class Report:
    """The results of a batch. This form of them says nothing; the forms below do.

    Parameters
    ----------
    command : str
    pipeline : Pipeline
    out : text stream or None
        None: stdout, as it is when something is printed.
    """

    def __init__(self, command: str, pipeline: Pipeline, out: TextIO | None = None) -> None:
        self.schema = schema(command)
        self.pipeline = pipeline
        self.out = out

    def begin(self) -> None:
        """Before the first picture."""

    def add(self, name: str, content: Mapping[str, Any], text: Sequence[str]) -> None:
        """One picture: its name, and its results for programs and for people; failures have no text."""

    def end(self, stop: Stop | None) -> None:
        """After the last picture, or the one before `stop`."""


class Text(Report):
    """Lines for people. Failures are told on stderr."""

    def begin(self) -> None:
        pipeline = self.pipeline
        print(f"model {printable(pipeline.name)} ({pipeline.config.num_labels} labels)", file=self.out, flush=True)

    def add(self, name: str, content: Mapping[str, Any], text: Sequence[str]) -> None:
        if text:
            print(*text, sep="\n", file=self.out, flush=True)


class Document(Report):
    """One JSON document at the end."""

    def __init__(self, command: str, pipeline: Pipeline, out: TextIO | None = None) -> None:
        super().__init__(command, pipeline, out)
        self.results: list[dict[str, Any]] = []

    def add(self, name: str, content: Mapping[str, Any], text: Sequence[str]) -> None:
        self.results.append({"input": name, **content})

    def facts(self) -> Mapping[str, Any]:
        """What there is to say besides the results of the pictures."""
        return {}

    def end(self, stop: Stop | None) -> None:
        document = {
            "schema": self.schema,
            "version": __version__,
            "model": describe_model(self.pipeline),
            "results": self.results,
            **self.facts(),
        }
        if stop is not None:
            document["error"] = describe_error(stop)
        print_document(document, self.out)


class Lines(Report):
    """A JSON object a line, each printed as soon as it is known, and each to be understood without the others."""

    def add(self, name: str, content: Mapping[str, Any], text: Sequence[str]) -> None:
        self._print({"input": name, **content})

    def end(self, stop: Stop | None) -> None:
        if stop is not None:
            self._print({"error": describe_error(stop)})

    def _print(self, content: Mapping[str, Any]) -> None:
        line = {"schema": self.schema, "model": describe_model(self.pipeline), **content}
        print(json.dumps(line, allow_nan=False), file=self.out, flush=True)
