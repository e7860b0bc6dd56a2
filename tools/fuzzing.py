"""What the fuzzing tools share: damage to bytes, child processes that read what came of it, and the summary.

Case number `index` depends on the seed and `index` alone. Children with little address space read the cases, so that
a crash, a hang or a flood of memory ends a child and not the tool. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ADDRESS_SPACE = 2 * 2**30  # bytes of a child
BATCH = 2000  # cases of one child: what leaks shows in its peak, and does not add up
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
FAILURES = ("foreign", "warning", "crash", "hang")


class Seed(NamedTuple):
    """A good file and the options that it is read with."""

    name: str
    data: bytes
    options: Mapping[str, Any] = MappingProxyType({})


Mutation = Callable[[bytes, random.Random, list[Seed]], bytes]


# mutations of any bytes


def flip_bytes(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Replace some bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flip_early_bytes(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Replace bytes where headers are."""
    return flip_bytes(data[:100], rng, seeds) + data[100:]


def extreme_integer(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Write an extreme number of one, two or four bytes, in either order, most often near the start."""
    start = rng.randrange(1 + (min(len(data), 120) if rng.random() < 0.7 else len(data)))
    size = rng.choice((1, 2, 4))
    number = rng.choice(EXTREMES) % 2 ** (8 * size)
    return data[:start] + number.to_bytes(size, rng.choice(("big", "little"))) + data[start + size :]


def truncate(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Cut off the end."""
    return data[: rng.randrange(len(data) + 1)]


def delete_span(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Leave a span out."""
    start, stop = span(data, rng)
    return data[:start] + data[stop:]


def double_span(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Write a span twice."""
    start, stop = span(data, rng)
    return data[:stop] + data[start:]


def splice(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Go on as another good file."""
    other = rng.choice(seeds).data
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


BYTE_MUTATIONS: tuple[Mutation, ...] = (
    flip_bytes,
    flip_early_bytes,
    extreme_integer,
    truncate,
    delete_span,
    double_span,
    splice,
)


def span(data: bytes, rng: random.Random) -> tuple[int, int]:
    """Return start and stop of a span, of any length but more often short."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 4, 16, 64, rng.randrange(1, len(data) + 2))))


# a child: reads cases, and says what became of each


def examine(read: Callable[[], str], ours: type[Exception] | tuple[type[Exception], ...]) -> str:
    """Return what `read` does, the code of an error of `ours`, or "foreign: ..." or "warning: ..."."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome = read()
        except ours as error:
            outcome = str(getattr(error, "code", "foreign: no code"))
        except Exception as error:
            outcome = f"foreign: {type(error).__name__}: {str(error)[:200]}"
    return f"warning: {caught[0].message}" if caught else outcome


def run_child(start: int, stop: int, prepare: Callable[[int], Callable[[], str]]) -> None:
    """Print one line of JSON before and one after each case; `prepare` gives what reads case number `index`."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for index in range(start, stop):
        read = prepare(index)
        say(begin=index)
        before = time.perf_counter()
        outcome = read()
        say(end=index, outcome=outcome, seconds=time.perf_counter() - before, peak=peak_mib())


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def peak_mib() -> float:
    """Largest memory this process has had (ru_maxrss would count what its parent had, too)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# the parent


@dataclass
class Summary:
    """What became of all cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)  # seconds, index
    peak: float = 0.0  # MiB of the largest child
    stderr_bytes: int = 0

    def add(self, index: int, outcome: str, seconds: float, peak: float = 0.0) -> None:
        kind = outcome.partition(":")[0]
        self.outcomes[kind] += 1
        if kind in FAILURES:
            self.failures.append((index, outcome))
        self.slowest = max(self.slowest, (seconds, index))
        self.peak = max(self.peak, peak)

    def __str__(self) -> str:
        rows = [f"{count:9,}  {kind}" for kind, count in self.outcomes.most_common()]
        rows += [
            f"{self.outcomes.total():9,}  cases",
            f"slowest: {self.slowest[0]:.2f} s (case {self.slowest[1]}); peak memory of a child: {self.peak:.0f} MiB",
            f"warnings: {self.outcomes['warning']}; bytes written to stderr: {self.stderr_bytes:,}",
        ]
        rows += [f"FAILED case {index}: {outcome}" for index, outcome in sorted(self.failures)]
        return "\n".join(rows)


@dataclass(frozen=True)
class Job:
    """The cases 0 to `count`, the command that reads some of them, and what one may take."""

    command: tuple[str, ...]  # arguments of Python; "--child START STOP" is added
    count: int
    processes: int
    seconds: float


class Child:
    """A process that works on some of the cases, and what it has said so far."""

    def __init__(self, job: Job, start: int, stop: int) -> None:
        self.next, self.stop, self.limit = start, stop, job.seconds
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in finish)
        command = [sys.executable, *job.command, "--child", str(start), str(stop)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OPENBLAS_NUM_THREADS": "1",  # its threads would take up the address space
        }
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.stderr, env=environment)
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self.text = b""
        self.begun: tuple[int, float] | None = None  # case being read, and since when

    def collect(self, summary: Summary) -> bool:
        """Take in what the process has said; return whether it still works."""
        piece = os.read(self.output.fileno(), 2**16)
        *lines, self.text = (self.text + piece).split(b"\n")
        for line in lines:
            facts = json.loads(line)
            if "begin" in facts:
                self.begun = facts["begin"], time.perf_counter()
                continue
            summary.add(facts["end"], facts["outcome"], facts["seconds"], facts["peak"])
            self.next, self.begun = facts["end"] + 1, None
        return bool(piece)

    def is_stuck(self) -> bool:
        return self.begun is not None and time.perf_counter() - self.begun[1] > self.limit

    def finish(self, summary: Summary, *, stuck: bool) -> None:
        """Count the case that ended the process, if one did."""
        if stuck:
            self.process.kill()
        status = self.process.wait()
        self.output.close()
        summary.stderr_bytes += os.fstat(self.stderr.fileno()).st_size
        self.stderr.seek(0)
        last_words = self.stderr.read().decode(errors="replace")[-500:].strip()
        self.stderr.close()
        if self.begun is not None:
            index, since = self.begun
            outcome = f"hang: more than {self.limit:g} s" if stuck else f"crash: status {status} {last_words}"
            summary.add(index, outcome, time.perf_counter() - since)
            self.next = index + 1
        elif status:
            raise SystemExit(f"a child failed before its first case: {last_words}")


def run(job: Job) -> Summary:
    """Have all cases read by children."""
    summary = Summary()
    waiting = [(start, min(start + BATCH, job.count)) for start in range(0, job.count, BATCH)][::-1]
    children: list[Child] = []
    told = time.perf_counter()
    while waiting or children:
        while waiting and len(children) < job.processes:
            children.append(Child(job, *waiting.pop()))
        readable = select.select([child.output for child in children], [], [], 0.2)[0]
        for child in list(children):
            ready = child.output in readable
            stuck = not ready and child.is_stuck()
            if stuck or (ready and not child.collect(summary)):
                child.finish(summary, stuck=stuck)
                children.remove(child)
                if child.next < child.stop:
                    waiting.append((child.next, child.stop))
        if time.perf_counter() - told > 10:
            told = time.perf_counter()
            done = summary.outcomes.total()
            print(f"{done:,} of {job.count:,} cases, {len(summary.failures)} failed", file=sys.stderr, flush=True)
    return summary


def report(summary: Summary, case: Callable[[int], bytes], seed: int, folder: Path) -> int:
    """Print the summary, write the cases that failed as seed-index.bin; return the exit status."""
    print(summary)
    for index, _ in summary.failures:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{seed}-{index}.bin"
        path.write_bytes(case(index))
        print(f"saved {path}")
    return 1 if summary.failures else 0


def parser(description: str, seconds: float, output: Path) -> argparse.ArgumentParser:
    """The arguments that all tools have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--count", type=int, default=100_000, help="number of cases")
    made.add_argument("--seed", type=int, default=0, help="of all random choices")
    made.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    made.add_argument("--seconds", type=float, default=seconds, help="that one case may take")
    made.add_argument("--output", type=Path, default=output, help="folder for cases that fail")
    made.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    return made
