"""Threads and processes that run stages together, and what becomes of them when something goes wrong."""

import contextlib
import gc
import os
import resource
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from leftovers import (
    children,
    eventually,
    held,
    is_alive,
    needs_processes,
    output_of,
    shared_blocks,
    state,
    succeeds_in_a_fork,
    within,
    workers_threads,
)

from npmobilevit.engine import blas, crews
from npmobilevit.engine.crews import Alone, Processes, Threads, WorkerLost, shared_memory
from npmobilevit.engine.program import Stage

KINDS = [Threads, pytest.param(Processes, marks=needs_processes)]
both = pytest.mark.parametrize("kind", KINDS)


class Ring:
    """Each worker writes its own place, then all read those of all others: one that runs ahead reads the past."""

    def __init__(self, count: int, **extra: Callable[[], object]) -> None:
        self.given = shared_memory(1)
        self.first, self.second = shared_memory(count), shared_memory(count)
        write, read = [], []
        for worker in range(count):
            mine = slice(worker, worker + 1)
            write.append(((np.multiply, (self.given, np.float32(worker + 1), self.first[mine])),))
            read.append(((np.add.reduce, (self.first, None, None, self.second[mine], True)),))
        more = [Stage(name, tuple(((call, ()),) for _ in range(count))) for name, call in extra.items()]
        self.stages = (Stage("write", tuple(write)), *more, Stage("read", tuple(read)))

    def goes_round(self, crew: crews.Crew, value: int) -> None:
        self.given[...] = value
        crew.run()
        count = len(self.first)
        assert self.second.tolist() == [value * count * (count + 1) / 2] * count


@pytest.fixture(scope="module", autouse=True)
def no_garbage_of_other_tests():
    gc.collect()


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = held()
    yield
    assert eventually(lambda: held() == before), (held(), before)


def one_call(count: int, worker: int, call: Callable[[], object]) -> tuple[Stage, ...]:
    """A stage in which one worker makes a call, between two in which none does anything."""
    idle: Stage = Stage("idle", ((),) * count)
    return (idle, Stage("call", tuple(((call, ()),) if i == worker else () for i in range(count))), idle)


@both
@pytest.mark.parametrize("count", [2, 3, 4])
def test_no_worker_begins_a_stage_before_all_have_ended_the_last(kind, count):
    ring = Ring(count)
    crew = kind(ring.stages)
    for value in range(1, 60):
        ring.goes_round(crew, value)
    crew.close()


def test_alone_everything_runs_in_the_calling_thread():
    ring = Ring(3)
    crew = Alone(ring.stages)
    ring.goes_round(crew, 5)
    crew.close()
    ring.goes_round(crew, 6)


@both
def test_a_slow_worker_is_waited_for(kind):
    ring = Ring(2, slow=lambda: time.sleep(0.2 if threading.current_thread().name == "npmobilevit-engine" else 0.01))
    crew = kind(ring.stages)
    ring.goes_round(crew, 3)
    crew.close()


@pytest.mark.parametrize("kind", [Alone, *KINDS])
def test_settings_of_numpy_are_the_callers_own(kind):
    ring, sizes = Ring(2), []
    ring.stages += one_call(2, 0, lambda: sizes.append((np.getbufsize(), np.geterr()["over"])))
    crew = kind(ring.stages)
    before = np.getbufsize(), np.geterr()
    assert before[0] != crews.BUFFER_VALUES
    ring.goes_round(crew, 1)
    assert (np.getbufsize(), np.geterr()) == before
    with np.errstate(over="raise"):
        ring.goes_round(crew, 2)
        assert np.geterr()["over"] == "raise"
    assert sizes == 2 * [(crews.BUFFER_VALUES, "ignore")]
    crew.close()


@both
def test_products_use_one_thread_while_a_crew_works_and_as_many_as_before_afterwards(kind):
    before = blas.thread_control().read()
    seen = shared_memory(2)

    def note(worker: int) -> None:
        seen[worker] = blas.thread_control().read()

    crew = kind((Stage("note", tuple(((note, (worker,)),) for worker in range(2))),))
    crew.run()
    assert seen.tolist() == [1, 1]
    assert blas.thread_control().read() == before
    crew.close()


# Exceptions


@both
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt, SystemExit])
def test_an_exception_of_the_caller_is_raised(kind, count, error):
    def fail() -> None:
        raise error("mine")

    before = blas.thread_control().read(), np.getbufsize()
    crew = kind(one_call(count, 0, fail))
    with within(5), pytest.raises(error, match="mine"):
        crew.run()
    assert (blas.thread_control().read(), np.getbufsize()) == before
    crew.close()


@pytest.mark.parametrize("error", [ValueError, MemoryError, SystemExit])
def test_an_exception_of_another_thread_is_raised(error):
    def fail() -> None:
        raise error("theirs")

    crew = Threads(one_call(3, 2, fail))
    with within(5), pytest.raises(error, match="theirs"):
        crew.run()
    crew.close()


@needs_processes
@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt, SystemExit])
def test_a_twin_that_fails_is_lost(error, capfd):
    def fail() -> None:
        raise error("theirs")

    crew = Processes(one_call(3, 2, fail))
    with within(5), pytest.raises(WorkerLost):
        crew.run()
    crew.close()
    assert capfd.readouterr() == ("", "")  # the process has the exception again when it does the work itself


@both
def test_an_interrupt_while_the_caller_waits_for_others(kind):
    main = threading.main_thread().ident
    crew = kind(one_call(2, 1, lambda: time.sleep(0.5)))
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with within(5), pytest.raises(KeyboardInterrupt):
        crew.run()
    crew.close()
    timer.join()


@both
def test_a_crew_leaves_no_cycle_behind(kind):
    """Plans are large: they have to go when their crew goes, and not when Python next looks for garbage."""

    def fail() -> None:
        raise ValueError

    gc.disable()
    try:
        for extra in ((), one_call(2, 0, fail), one_call(2, 1, fail)):
            ring = Ring(2)
            crew = kind(ring.stages + extra)
            try:
                crew.run()
            except (ValueError, WorkerLost):
                assert extra
            gone = weakref.ref(crew), weakref.ref(ring.first)
            crew.close()
            del crew, ring
            assert eventually(lambda: all(ref() is None for ref in gone))  # noqa: B023
    finally:
        gc.enable()


# Twins


@needs_processes
def test_a_closed_crew_has_no_twins():
    crew = Processes(Ring(4).stages)
    twins = children()
    assert len(twins) == 3
    crew.close()
    assert not children() & twins
    crew.close()


@needs_processes
def test_a_twin_ends_when_its_crew_is_forgotten():
    crew = Processes(Ring(2).stages)
    twins = crew._twins
    with pytest.warns(ResourceWarning, match="socket"):
        del crew
    assert eventually(lambda: not any(map(is_alive, twins)))
    for twin in twins:
        os.waitpid(twin, 0)


@needs_processes
@pytest.mark.parametrize("victim", [0, 2])
def test_a_twin_killed_between_two_runs(victim):
    ring = Ring(4)
    crew = Processes(ring.stages)
    ring.goes_round(crew, 1)
    os.kill(crew._twins[victim], signal.SIGKILL)
    assert eventually(lambda: state(crew._twins[victim]) == "Z")
    with within(5), pytest.raises(WorkerLost):
        crew.run()
    crew.close()


@needs_processes
@pytest.mark.parametrize("at", [0.0, 0.05, 0.3])
def test_a_twin_killed_while_it_works(at):
    crew = Processes(one_call(3, 1, lambda: time.sleep(60)))
    timer = threading.Timer(at, os.kill, (crew._twins[0], signal.SIGKILL))
    timer.start()
    with within(5), pytest.raises(WorkerLost):
        crew.run()
    crew.close()
    timer.join()


@needs_processes
def test_a_twin_that_waits_for_long_sleeps():
    """As for a process that its terminal has suspended in the midst of a call."""

    def seconds_of(process: int) -> float:
        with open(f"/proc/{process}/stat") as stat:
            user, system = stat.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    crew = Processes(one_call(2, 0, lambda: time.sleep(0.5)))
    (twin,) = crew._twins
    before = seconds_of(twin)
    crew.run()
    assert seconds_of(twin) - before < 0.2
    crew.close()


@needs_processes
def test_a_twin_that_somebody_else_waited_for():
    """As a process does that reaps all its children, or has told the system that it minds none."""
    crew = Processes(one_call(2, 1, lambda: time.sleep(60)))
    (twin,) = crew._twins

    def reap() -> None:
        os.kill(twin, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # the crew was faster
            os.waitpid(twin, 0)

    timer = threading.Timer(0.1, reap)
    timer.start()
    with within(5), pytest.raises(WorkerLost):
        crew.run()
    killed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
        crew.close()
    assert not killed  # the number may belong to another process by now
    timer.join()


@needs_processes
def test_a_twin_holds_no_file_of_the_process_but_its_socket():
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, open(__file__) as file:
        crew = Processes(Ring(3).stages)
        for twin in crew._twins:
            links = {int(fd): os.readlink(f"/proc/{twin}/fd/{fd}") for fd in os.listdir(f"/proc/{twin}/fd")}
            assert {links.pop(fd) for fd in range(3)} == {"/dev/null"}
            links = {fd: name for fd, name in links.items() if name != "/dev/null"}
            assert len(links) == 1
            assert next(iter(links.values())).startswith("socket:")
            assert file.fileno() not in links
        crew.close()


@needs_processes
def test_a_twin_minds_no_signal_and_the_process_minds_all():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    crew = Processes(Ring(2).stages)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    (twin,) = crew._twins
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGTSTP):
        os.kill(twin, number)
    time.sleep(0.05)
    assert state(twin) == "S"
    crew.run()
    crew.close()


@needs_processes
def test_a_process_with_very_many_files():
    """More than select() can name."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        pytest.skip(f"no more than {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        ring = Ring(2)
        crew = Processes(ring.stages)
        ring.goes_round(crew, 4)
        crew.close()
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@needs_processes
def test_a_crew_made_in_another_thread():
    ring, made = Ring(3), []
    thread = threading.Thread(target=lambda: made.append(Processes(ring.stages)))
    thread.start()
    thread.join()
    ring.goes_round(made[0], 2)
    made[0].close()


@needs_processes
def test_a_fork_of_the_process_does_not_end_its_twins():
    ring = Ring(3)
    crew = Processes(ring.stages)
    assert succeeds_in_a_fork(crew.close)
    ring.goes_round(crew, 7)
    crew.close()


def test_a_fork_of_the_process_has_no_threads_to_end():
    ring = Ring(3)
    crew = Threads(ring.stages)
    with crew._go[1]._cond:  # as if the thread were just waking up
        assert succeeds_in_a_fork(crew.close)
    ring.goes_round(crew, 7)
    crew.close()


# Where none can be had


@needs_processes
@pytest.mark.parametrize("successful", [0, 1])
def test_where_no_process_can_be_forked_a_crew_is_lost_and_leaves_nothing(monkeypatch, successful):
    fork, times = os.fork, []

    def failing() -> int:
        times.append(1)
        if len(times) > successful:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", failing)
    with pytest.raises(WorkerLost):
        Processes(Ring(3).stages)


@needs_processes
@pytest.mark.parametrize(("rehearse", "patience"), [(lambda: time.sleep(60), 0.2), (lambda: 1 / 0, 60)])
def test_a_twin_that_does_not_come_to_life_is_lost(monkeypatch, rehearse, patience):
    monkeypatch.setattr(crews, "rehearse", rehearse)
    monkeypatch.setattr(crews, "START", patience)
    with within(5), pytest.raises(WorkerLost, match="come to life"):
        Processes(Ring(3).stages)


@needs_processes
def test_an_interrupt_while_a_crew_is_made_leaves_nothing(monkeypatch):
    monkeypatch.setattr(crews, "rehearse", lambda: time.sleep(60))
    timer = threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with within(5), pytest.raises(KeyboardInterrupt):
        Processes(Ring(3).stages)
    timer.join()


def test_where_no_thread_can_be_started_a_crew_is_lost_and_leaves_nothing(monkeypatch):
    start, times = threading.Thread.start, []

    def failing(thread: threading.Thread) -> None:
        times.append(1)
        if len(times) > 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    with pytest.raises(WorkerLost):
        Threads(Ring(3).stages)
    assert eventually(lambda: workers_threads() == 0)


def test_where_no_memory_can_be_shared(monkeypatch):
    def failing(*arguments):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(crews.mmap, "mmap", failing)
    with pytest.raises(MemoryError):
        shared_memory(5)


def test_shared_memory_is_zeros_that_go_with_the_last_array():
    before = shared_blocks()
    array = shared_memory(70_000)
    part = array[5:9].reshape(2, 2)
    assert array.dtype == np.float32
    assert array.shape == (70_000,)
    assert not array.any()
    part[...] = 1
    assert shared_blocks() == before + 1
    del array
    assert part.sum() == 4
    del part
    assert shared_blocks() == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda patch: patch.delattr(os, "fork"), "no fork"),
        (lambda patch: patch.setattr("sys.platform", "darwin"), "darwin has no fork"),
        (lambda patch: patch.setattr("platform.machine", lambda: "aarch64"), "aarch64"),
        (lambda patch: patch.setattr(crews, "thread_control", lambda: None), "OpenBLAS"),
    ],
)
def test_why_there_are_no_processes(monkeypatch, change, reason):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(crews, "thread_control", lambda: blas.ThreadControl(lambda: 2, lambda n: None))
    assert crews.processes_are_missing() is None
    change(monkeypatch)
    assert reason in crews.processes_are_missing()


# Surroundings that only a process of its own can have


RING = """
sys.path.insert(0, {folder!r})
from test_crews import Ring
from npmobilevit.engine.crews import Processes, WorkerLost
"""
RING = RING.format(folder=os.path.dirname(__file__))


@needs_processes
def test_products_of_other_threads_do_not_keep_a_fork_from_ending():
    """OpenBLAS waits at a fork for its threads, and forever for those in the midst of a product."""
    code = """
square, stop = np.ones((1500, 1500), np.float32), threading.Event()
def multiply():
    while not stop.is_set():
        square @ square
threading.Thread(target=multiply).start()
try:
    ring = Ring(2)
    for i in range(5):
        crew = Processes(ring.stages)
        ring.goes_round(crew, i)
        crew.close()
finally:
    stop.set()
say("done")
"""
    assert output_of(RING + code) == ["done"]


@needs_processes
@pytest.mark.parametrize("setting", ["signal.SIGPIPE, signal.SIG_DFL", "signal.SIGCHLD, signal.SIG_IGN"])
def test_a_lost_twin_does_not_end_a_process_that_set_signals_otherwise(setting):
    code = f"""
signal.signal({setting})
ring = Ring(3)
crew = Processes(ring.stages)
ring.goes_round(crew, 2)
os.kill(crew._twins[0], signal.SIGKILL)
time.sleep(0.1)
try:
    crew.run()
except WorkerLost:
    say("lost")
crew.close()
"""
    assert output_of(RING + code) == ["lost"]
