"""Programs timed in turn: each is a process of its own, woken over a pipe while the others sleep.

So the threads of one do not disturb another, and its memory is its own. A machine is faster in one minute than in the
next: what is compared are times of the same round.

The standard library only, and nothing of this package: a program's memory is measured, and it may be a foreign one.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

PAUSE = 0.02  # seconds between two turns: the threads of the last one stop spinning
TIME_TO_END = 10  # seconds that a program is given when it is no longer needed
PROC = Path("/proc")  # of Linux

Run: TypeAlias = Callable[[], Any]
Describe: TypeAlias = Callable[[Any], Mapping[str, Any]]


class ProgramFailed(Exception):
    """A program cannot go on.

    Parameters
    ----------
    message : str
        In its own words, if it had any.
    code : str
        Stable name of one of our errors, "out-of-memory", or "program-failed".
    """

    def __init__(self, message: str, code: str = "program-failed") -> None:
        super().__init__(message)
        self.code = code


# The program's side -------------------------------------------------------------------------------------------------


def serve(prepare: Callable[[], tuple[Run, Describe]]) -> None:
    """Be such a program: answer each line of stdin with a line of JSON, until there are no more.

    Parameters
    ----------
    prepare : callable () -> (run, describe)
        Loads what is timed. It is run once, and what `describe` says of its output is the first answer, beside the peak
        of the memory until then.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what a library prints is no answer

        def answer(content: Mapping[str, Any]) -> None:
            answers.write(json.dumps(content) + "\n")
            answers.flush()

        try:
            run, describe = prepare()
            output = run()
            peak = peak_memory()
            answer({"peak_mib": peak, **describe(output)})
            for _ in sys.stdin:
                answer({"seconds": fastest(run)})
        except Exception as error:
            code = "out-of-memory" if isinstance(error, MemoryError) else getattr(error, "code", "program-failed")
            answer({"error": str(error) or type(error).__name__, "code": str(code)})


def fastest(run: Run) -> float:
    """Seconds of the faster of two runs, after one that wakes threads and fills caches."""
    run()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_memory() -> float | None:
    """MiB that this process and those that it has forked held at most; pages that they share count in each.

    None where the system does not say.
    """
    if (PROC / "self" / "status").exists():  # ru_maxrss would count what the parent had, too
        return sum(map(_high_water_mark, ["self", *_children(os.getpid())])) / 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _high_water_mark(process: str) -> int:
    """KiB of a process."""
    status = (PROC / process / "status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0])


def _children(parent: int) -> list[str]:
    found = []
    for path in PROC.glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == parent and fields[0] != "Z":  # a zombie holds nothing
            found.append(path.parent.name)
    return found


# The parent's side --------------------------------------------------------------------------------------------------


class Program:
    """A program that has run once and waits for its turns. As a context manager, it ends with its block.

    Parameters
    ----------
    command : sequence of str
        Whose process calls :func:`serve`.
    environment : mapping of str to str, optional
        Its variables; those of this process if None.

    Attributes
    ----------
    facts : dict
        Its first answer: "peak_mib", and what it says of its output.

    Raises
    ------
    ProgramFailed
        If it cannot run.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # of a session of its own: Ctrl-C ends this process, and with it the pipe
            command, stdin=pipe, stdout=pipe, env=environment, encoding="utf-8", start_new_session=True
        )
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def turn(self) -> float:
        """Seconds of the faster of two runs; raises ProgramFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("turn\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ProgramFailed(answer["error"], answer["code"])
        return answer

    def _ended(self) -> ProgramFailed:
        code = self._process.wait()
        return ProgramFailed(f"ended by signal {-code}" if code < 0 else f"ended with code {code}")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # what was not yet sent is of no interest to a process that has ended
            self._process.stdin.close()
        try:
            self._process.wait(TIME_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def take_turns(programs: Mapping[str, Program], rounds: int) -> dict[str, list[float]]:
    """Seconds of every program in every round; raises ProgramFailed."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(program.turn())
            time.sleep(PAUSE)
    return times


# What comes of it ---------------------------------------------------------------------------------------------------


class Ratio(NamedTuple):
    """The times of one program over those of another, round by round.

    Attributes
    ----------
    median, low, high : float
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def paired(times: Iterable[float], others: Iterable[float]) -> Ratio:
    """The ratio of two times of the same round: its median, lowest and highest."""
    ratios = [mine / other for mine, other in zip(times, others, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
