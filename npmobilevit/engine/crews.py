"""Crews that run the stages of a plan: one thread, several, or processes that share the plan's arrays.

All have the same face: ``run()`` does one forward pass, ``close()`` gives back what the crew holds. A crew works for
one caller at a time.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import platform
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, Protocol

import numpy as np

from npmobilevit.engine.blas import single_thread, thread_control
from npmobilevit.engine.folding import Floats
from npmobilevit.engine.program import Stage, run

BUFFER_VALUES = 256  # NumPy copies rows that do not lie side by side into buffers, and its default size costs a cache
FREE_SPINS = 400  # times that a process looks for the others before it offers them its processor: a few microseconds
SPINS = 20_000  # times that it looks before it looks whether they are alive
PATIENCE = 1.0  # seconds that a twin waits before it looks whether its process is alive


class WorkerLost(Exception):
    """A process of a crew is gone, or has failed: what the plan's arrays hold is of no use."""


class Crew(Protocol):
    """Runs the stages that it was made for."""

    def run(self) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def arithmetic() -> Iterator[None]:
    """NumPy's settings for a forward pass: overflow is no news to an exponential. They are the thread's own."""
    with np.errstate(all="ignore"):
        np.setbufsize(BUFFER_VALUES)
        yield


class Alone:
    """The calling thread; products use NumPy's threads.

    Parameters
    ----------
    stages : sequence of Stage
        Of one program each.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages

    def run(self) -> None:
        """One forward pass."""
        with arithmetic():
            for stage in self._stages:
                for program in stage.programs:
                    run(program)

    def close(self) -> None:
        """Nothing is held."""


class Threads:
    """The calling thread and others, one for each further program; products use one thread each.

    Parameters
    ----------
    stages : sequence of Stage
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        count = len(stages[0].programs)
        self._done = [0] * count  # stages that each worker has done in its life
        self._failure: BaseException | None = None
        self._stopped = False
        self._go = [threading.Semaphore(0) for _ in range(count)]
        for worker in range(1, count):
            threading.Thread(target=self._serve, args=(worker,), name="npmobilevit-engine", daemon=True).start()

    def run(self) -> None:
        """One forward pass. After an exception the crew is of no further use."""
        with single_thread():
            for go in self._go[1:]:
                go.release()
            self._work(0)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the threads."""
        self._stopped = True
        for go in self._go[1:]:
            go.release()

    def _serve(self, worker: int) -> None:
        while True:
            self._go[worker].acquire()
            if self._stopped:
                return
            self._work(worker)

    def _work(self, worker: int) -> None:
        try:
            with arithmetic():
                for stage in self._stages:
                    run(stage.programs[worker])
                    self._done[worker] += 1
                    while min(self._done) < self._done[worker]:
                        if self._failure is not None:
                            return
                        time.sleep(0)  # lets the others have the interpreter
        except BaseException as error:
            self._failure = error


def processes_are_missing() -> str | None:
    """Why there can be no crew of processes here; None if there can."""
    if not hasattr(os, "fork") or not sys.platform.startswith("linux"):
        return f"{sys.platform} has no fork that is safe beside threads"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"on {platform.machine()} one process may see what another writes in another order"
    if thread_control() is None:
        return "NumPy is not built with OpenBLAS, whose threads could be held at one"
    return None


def shared_memory(size: int) -> Floats:
    """An array of zeros that a process shares with those that it forks; the last one to let it go frees it."""
    return np.frombuffer(mmap.mmap(-1, max(4 * size, 1)), np.float32, size)


class Processes:
    """The calling process and forked twins, one for each further program; products use one thread each.

    A twin has all that the process has at the moment of the fork, the stages among it, and shares the arrays that
    :func:`shared_memory` made. It does nothing but to run its programs when told to, and ends with the process.

    Parameters
    ----------
    stages : sequence of Stage
        On arrays of :func:`shared_memory`.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._owner = os.getpid()
        count = len(stages[0].programs)
        self._done = memoryview(mmap.mmap(-1, 64 * count)).cast("q")  # every eighth: a cache line for each worker
        self._twins: list[int] = []
        self._go: list[int] = []
        for worker in range(1, count):
            receiver, sender = os.pipe()
            with warnings.catch_warnings():  # that there are threads; a twin takes no lock that one of them could hold
                warnings.simplefilter("ignore", DeprecationWarning)
                twin = os.fork()
            if twin == 0:
                self._be_twin(worker, receiver)
            os.close(receiver)
            self._twins.append(twin)
            self._go.append(sender)

    def run(self) -> None:
        """One forward pass. After an exception the crew is of no further use.

        Raises
        ------
        WorkerLost
            If a twin is gone.
        """
        try:
            for sender in self._go:
                os.write(sender, b"g")
        except OSError as error:
            raise WorkerLost("a twin has ended") from error
        with single_thread():
            self._work(0, self._twin_has_ended)

    def close(self) -> None:
        """End the twins, whatever they do, and wait until they have."""
        if os.getpid() != self._owner:  # a copy in a fork of the process: the twins are not its own
            return
        for sender in self._go:
            os.close(sender)
        for twin in self._twins:
            os.kill(twin, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(twin, 0)
        self._go, self._twins = [], []

    def _work(self, worker: int, is_lost: Callable[[], bool]) -> None:
        done, mine, others = self._done, 8 * worker, [i for i in range(0, len(self._done), 8) if i != 8 * worker]
        with arithmetic():
            for stage in self._stages:
                run(stage.programs[worker])
                number = done[mine] + 1
                done[mine] = number
                spins = 0
                for other in others:
                    while done[other] < number:
                        spins += 1
                        if spins % SPINS == 0 and is_lost():
                            raise WorkerLost("a twin has ended")
                        if spins > FREE_SPINS:
                            os.sched_yield()  # the other may need this processor

    def _twin_has_ended(self) -> bool:
        return any(os.waitpid(twin, os.WNOHANG) != (0, 0) for twin in self._twins)

    def _be_twin(self, worker: int, receiver: int) -> NoReturn:
        """Work until the process ends; touch nothing of it, raise nothing, clean up nothing."""
        try:
            gc.disable()
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the process decides what becomes of it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            let_go_of_files(receiver)
            with single_thread():
                while self._told_to_work(receiver):
                    self._work(worker, self._is_orphan)
        finally:
            os._exit(0)

    def _is_orphan(self) -> bool:
        return os.getppid() != self._owner

    def _told_to_work(self, receiver: int) -> bool:
        """Wait for the process; False when it has ended, even if a fork of it holds the other end of the pipe."""
        while not select.select([receiver], [], [], PATIENCE)[0]:
            if self._is_orphan():
                return False
        return os.read(receiver, 1) == b"g"


def let_go_of_files(kept: int) -> None:
    """Close what a fork has inherited, so that pipes and sockets can end; standard streams lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
