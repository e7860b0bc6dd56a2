"""The console: streams that no name breaks, messages of one line, bars, and the line that shows progress."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from npmobilevit.errors import ModelFallbackWarning

BAR_WIDTH = 30  # where there is no terminal to fill
LABEL_WIDTH = 20
SECONDS_BETWEEN_UPDATES = 0.1


def prepare_streams() -> None:
    """Escape what a console cannot show: a name is no reason to stop."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop(stream: TextIO) -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not fail on it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: str) -> str:
    """Escape what could steer a terminal, or is no character: a file's name may hold anything but a slash."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def in_options(message: str) -> str:
    """Name the options of a message of the library as they are called here."""
    message = re.sub(r"\bvalue_range=\(([^(),]+), ([^(),]+)\)", r"--value-range \1 \2", message)
    return re.sub(r"\b(value_range|max_pixels|max_network_pixels)\b", lambda m: "--" + m[0].replace("_", "-"), message)


def say(kind: str, message: object) -> None:
    """Print one line to stderr."""
    _to_stderr(f"{kind}: {printable(' '.join(str(message).split()))}\n")


def _to_stderr(text: str) -> None:
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # nobody listens: no reason to stop
        drop(sys.stderr)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print our own warning as one line, without the source line that Python adds."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ModelFallbackWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, ModelFallbackWarning):
            say("warning", warning.message)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def bars(rows: Sequence[tuple[float, str, str]], columns: int | None) -> list[str]:
    """Lines of a share in 0..1, a name, a remark and a bar.

    `columns` is the width of the terminal, which the bars fill; None: a full bar has BAR_WIDTH signs.
    """
    names = [printable(name) for _, name, _ in rows]
    width = max([LABEL_WIDTH, *map(len, names)])
    heads = [f"  {share:6.1%}  {name:{width}} {remark}" for (share, _, remark), name in zip(rows, names, strict=True)]
    # a line that ends in the last column makes some terminals begin another
    full = BAR_WIDTH if columns is None else max(0, columns - 1 - max(map(len, heads), default=0))
    return [f"{head}{'#' * round(full * row[0])}".rstrip() for head, row in zip(heads, rows, strict=True)]


def is_terminal(stream: object) -> bool:
    """Whether `stream` is a terminal; a closed one is none."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        return False


def terminal_columns(stream: object) -> int | None:
    """Width of the terminal that `stream` is; None if it is none."""
    return shutil.get_terminal_size().columns if is_terminal(stream) else None


class Progress:
    """How far a batch is, on a line of stderr that is written over again and again.

    Parameters
    ----------
    total : int
        Number of pictures.
    shown : bool
        False: count, and print nothing.
    """

    def __init__(self, total: int, shown: bool) -> None:
        self.total = total
        self.shown = shown
        self.done = 0
        self.failed = 0
        self._begin = time.monotonic()
        self._next = self._begin
        self._printed = ""

    def advance(self, *, failed: bool) -> None:
        """Count one picture."""
        self.done += 1
        self.failed += failed
        self.show()

    def show(self) -> None:
        """Print the line, unless that was done just now."""
        now = time.monotonic()
        if not self.shown or now < self._next:
            return
        self._next = now + SECONDS_BETWEEN_UPDATES
        rate = self.done / max(now - self._begin, 1e-3)
        line = f"{self.done}/{self.total}  {self.failed} failed  {rate:.{0 if rate >= 10 else 1}f} pictures/s"
        line = line[: shutil.get_terminal_size().columns - 1]  # a longer one would not be written over as a whole
        _to_stderr("\r" + line.ljust(len(self._printed)))
        self._printed = line

    def clear(self) -> None:
        """Take the line away, so that another can be printed in its place."""
        if self._printed:
            _to_stderr("\r" + " " * len(self._printed) + "\r")
        self._printed = ""
        self._next = self._begin
