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
import socket
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
FREE_SPINS = 400  # times that a process looks for the others before it offers them its processor: some 50 us
BUSY = 0.02  # seconds that a worker does so before it looks whether they are alive, and sleeps in between
PAUSE = 2e-4  # seconds that it sleeps then
PATIENCE = 1.0  # seconds that a twin waits before it looks whether its process is alive
START = 5.0  # seconds in which a twin has to come to life
REST = 0.02  # seconds for which products must not have been seen before a fork


class WorkerLost(Exception):
    """A worker cannot be had, is gone or has failed: what the plan's arrays hold is of no use."""


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

    Raises
    ------
    WorkerLost
        If no thread can be started.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._owner = os.getpid()
        count = len(stages[0].programs)
        self._done = [0] * count  # stages that each worker has done in its life
        self._failures: list[BaseException] = []
        self._stopped = False
        self._go = [threading.Semaphore(0) for _ in range(count)]
        try:
            for worker in range(1, count):
                threading.Thread(target=self._serve, args=(worker,), name="npmobilevit-engine", daemon=True).start()
        except RuntimeError as error:
            self.close()
            raise WorkerLost("no thread can be started") from error

    def run(self) -> None:
        """One forward pass. After an exception the crew is of no further use."""
        with single_thread():
            for go in self._go[1:]:
                go.release()
            self._work(0)
        if self._failures:
            raise self._failures.pop(0)
        if self._stopped:
            raise WorkerLost("the crew was closed in the midst of its work")

    def close(self) -> None:
        """End the threads, each when it comes to the end of its stage."""
        if os.getpid() != self._owner:  # a copy in a fork of the process, which has no such threads
            return
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
                    begun = time.monotonic()
                    while min(self._done) < self._done[worker]:
                        if self._stopped:
                            return
                        time.sleep(0 if time.monotonic() - begun < BUSY else PAUSE)  # the others need the interpreter
        except BaseException as error:
            self._failures.append(error)
            self._stopped = True


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
    """Memory that a process shares with those that it forks; the last one to let it go frees it."""
    try:
        block = mmap.mmap(-1, 4 * size)
    except OSError as error:
        raise MemoryError(f"no {4 * size:,} bytes to share") from error
    return np.frombuffer(block, np.float32, size)


class Processes:
    """The calling process and forked twins, one for each further program; products use one thread each.

    A twin has all that the process has at the moment of the fork, the stages among it, and shares the arrays that
    :func:`shared_memory` made. It does nothing but to run its programs when told to, and ends with the process.

    Parameters
    ----------
    stages : sequence of Stage
        On arrays of :func:`shared_memory`.

    Raises
    ------
    WorkerLost
        If no process can be made.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._owner = os.getpid()
        count = len(stages[0].programs)
        self._done = memoryview(mmap.mmap(-1, 64 * count)).cast("q")  # every eighth: a cache line for each worker
        self._twins: list[int] = []
        self._go: list[socket.socket] = []  # to each twin; it ends when this is closed
        try:
            with single_thread():  # which stays so in the twins
                await_other_products()
                for worker in range(1, count):
                    self._add_twin(worker)
            self._await_twins()
        except OSError as error:
            self.close()
            raise WorkerLost("no process can be made") from error
        except BaseException:
            self.close()
            raise

    def run(self) -> None:
        """One forward pass. After an exception the crew is of no further use.

        Raises
        ------
        WorkerLost
            If a twin is gone.
        """
        with single_thread():
            try:
                for sender in self._go:
                    sender.send(b"g", socket.MSG_NOSIGNAL)
            except OSError as error:
                raise WorkerLost("a twin has ended") from error
            self._work(0, self._twin_has_ended)

    def close(self) -> None:
        """End the twins, whatever they do, and wait until they have."""
        for sender in self._go:
            sender.close()
        for twin in self._twins:
            if not has_ended(twin):  # in a fork of the process, the twins are not its own
                os.kill(twin, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(twin, 0)
        self._go, self._twins = [], []

    def _add_twin(self, worker: int) -> None:
        ignore_warnings_of_threads()
        with signals_held():
            sender, receiver = socket.socketpair()
            self._go.append(sender)
            with receiver:
                twin = os.fork()
                if twin == 0:
                    self._be_twin(worker, receiver)
                self._twins.append(twin)

    def _await_twins(self) -> None:
        """Wait until all have come to life. One that does not has inherited a lock that nobody will open."""
        self._done[0] = 1
        deadline = time.monotonic() + START
        while not all(self._done[::8]):
            if time.monotonic() > deadline or self._twin_has_ended():
                raise WorkerLost("a twin has not come to life")
            time.sleep(1e-4)

    def _work(self, worker: int, is_lost: Callable[[], bool]) -> None:
        done, mine, others = self._done, 8 * worker, [i for i in range(0, len(self._done), 8) if i != 8 * worker]
        with arithmetic():
            for stage in self._stages:
                run(stage.programs[worker])
                number = done[mine] + 1
                done[mine] = number
                for other in others:
                    spins = 0
                    while done[other] < number:
                        spins += 1
                        if spins > FREE_SPINS:
                            self._await(other, number, is_lost)

    def _await(self, other: int, number: int, is_lost: Callable[[], bool]) -> None:
        """Wait for a worker that may need this processor, or more time, or is gone."""
        started = time.monotonic()
        while self._done[other] < number:
            if time.monotonic() - started < BUSY:
                os.sched_yield()
            elif is_lost():
                raise WorkerLost("a worker has ended")
            else:
                time.sleep(PAUSE)

    def _twin_has_ended(self) -> bool:
        """Whether one has, or the crew was closed."""
        living = [twin for twin in self._twins if not has_ended(twin)]
        is_lost = len(living) < len(self._twins) or not living
        self._twins = living  # the number of one that is gone may be given to another process
        return is_lost

    def _be_twin(self, worker: int, receiver: socket.socket) -> NoReturn:
        """Work until the process ends; touch nothing of it, raise nothing, clean up nothing.

        All signals stay held: of what comes to the whole group, from a terminal say, the process decides what becomes.
        """
        try:
            gc.disable()
            let_go_of_files(receiver.fileno())
            rehearse()
            self._done[8 * worker] = 1
            self._serve(worker, receiver)
        finally:
            os._exit(0)

    def _serve(self, worker: int, receiver: socket.socket) -> None:
        word = select.poll()
        word.register(receiver, select.POLLIN)

        def is_left() -> bool:
            """Whether the process has ended or closed the crew."""
            return os.getppid() != self._owner or bool(word.poll(0) and receiver.recv(1, socket.MSG_PEEK) == b"")

        while True:
            if word.poll(1000 * PATIENCE):
                if receiver.recv(1) != b"g":
                    return
                self._work(worker, is_left)
            elif os.getppid() != self._owner:  # and a fork of the process holds the other end of the socket
                return


def has_ended(process: int) -> bool:
    """Whether a process is gone, or none that this one has forked."""
    try:
        return os.waitpid(process, os.WNOHANG) != (0, 0)
    except ChildProcessError:  # also where somebody else has waited for it
        return True


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """No signal interrupts this thread; a process that it forks is not interrupted at all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def await_other_products() -> None:
    """Wait for products of other threads, begun before their number of threads was held at one.

    OpenBLAS ends its threads at a fork, and would wait forever for one that is in the midst of a product. One product
    may wait for another, or be on its way to the threads: only a while of rest shows that all have ended.
    """
    if threading.active_count() == 1:
        return
    begun = rested = time.monotonic()
    while time.monotonic() - rested < REST:
        if "R" in states_of_foreign_threads():
            rested = time.monotonic()
            if rested - begun > START:
                raise WorkerLost("NumPy's products take too long to fork beside them")
        time.sleep(1e-3)


def states_of_foreign_threads() -> set[str]:
    """The states, R if they run, of the threads that are not Python's."""
    ours = {str(thread.native_id) for thread in threading.enumerate()}
    states = set()
    for task in set(os.listdir("/proc/self/task")) - ours:
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/stat") as stat:  # it may have ended
            states.add(stat.read().rpartition(")")[2].split()[0])
    return states


def ignore_warnings_of_threads() -> None:
    """Python warns of a fork beside threads, whose locks the new process could wait for; a twin takes none of them.

    The filter names this module and stays: to restore the list of filters would undo what other threads do to it.
    """
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning, __name__)


def let_go_of_files(kept: int) -> None:
    """Close what a fork has inherited, so that pipes and sockets can end; standard streams lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    for file in map(int, os.listdir("/proc/self/fd")):
        if file > 2 and file != kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(file)


def rehearse() -> None:
    """A product that is large enough for OpenBLAS to take its lock."""
    square = np.ones((256, 256), np.float32)
    square @ square
