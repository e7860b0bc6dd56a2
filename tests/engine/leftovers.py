"""What a process holds: children, open files, shared memory, threads; and code run in processes of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from npmobilevit.engine.crews import processes_are_missing

SOURCES = Path(__file__).parents[2]
needs_processes = pytest.mark.skipif(processes_are_missing() is not None, reason="no crews of processes here")


def state(process: int) -> str:
    """Its state as in /proc: R, S, T, Z...; empty if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_alive(process: int) -> bool:
    return state(process) not in ("", "Z", "X")


def children(process: int | None = None) -> set[int]:
    """The processes that a process has forked and not waited for, the dead ones among them."""
    parent, found = os.getpid() if process is None else process, set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(folder.name))
    return found


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def shared_blocks() -> int:
    """How many blocks of memory that forks share are mapped."""
    return Path("/proc/self/maps").read_text().count("/dev/zero (deleted)")


def workers_threads() -> int:
    return sum(thread.name == "npmobilevit-engine" for thread in threading.enumerate())


def held() -> tuple[set[int], int, int, int]:
    return children(), open_files(), shared_blocks(), workers_threads()


def eventually(condition: Callable[[], bool], seconds: float = 3.0) -> bool:
    """Whether it comes true in this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """What lasts longer has failed; what never ends is ended."""
    started = time.monotonic()
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it does not end"))
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < seconds


def succeeds_in_a_fork(function: Callable[[], object]) -> bool:
    """Call it in a fork of this process, which has 30 seconds for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)
            function()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


PRELUDE = """
import os, signal, sys, threading, time
sys.path[:0] = {paths!r}
import numpy as np
from networks import make_model, pixels
x = pixels(1, 3, 32, 32, dtype=np.float32)
def model(workers="processes", **options):
    return make_model("classification", precision="float32", engine="fast", workers=workers, **options)
def twins():
    from leftovers import children
    return children()
def say(*words):
    print(*words, flush=True)
"""


@contextlib.contextmanager
def program(code: str, *, threads: int = 2) -> Iterator[subprocess.Popen[str]]:
    """Python code in a process group of its own, with this number of threads for NumPy's products.

    In the end the whole group is killed.
    """
    paths = [str(SOURCES / folder) for folder in ("tests/engine", "tests", "tools", ".")]
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE.format(paths=paths) + code],
        env=os.environ | {"OPENBLAS_NUM_THREADS": str(threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def output_of(code: str, *, threads: int = 2) -> list[str]:
    """The lines that code prints; it has to end well within a minute."""
    with program(code, threads=threads) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert not err
    return out.splitlines()
