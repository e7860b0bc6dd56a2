"""Programs timed in turn: small ones that the tests write."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from npmobilevit.cli import turns
from npmobilevit.cli.turns import Program, ProgramFailed, fastest, paired, take_turns

# The module alone, without site-packages: it needs the standard library only.
PROGRAM = """
import os, sys, time
sys.path.insert(0, {folder!r})
from turns import serve
def prepare():
    print("what a library says is no answer")
    {prepare}
    return run, lambda output: {{"output": output}}
serve(prepare)
"""


def program(prepare):
    """A program whose `prepare` has this body, which makes `run`."""
    code = PROGRAM.format(folder=str(Path(turns.__file__).parent), prepare="\n    ".join(prepare.splitlines()))
    return Program([sys.executable, "-S", "-c", code])


def in_proc():
    if not sys.platform.startswith("linux"):
        pytest.skip("the memory of other processes is read from /proc")


def test_a_program_runs_once_and_then_three_times_a_turn(tmp_path):
    log = tmp_path / "log"
    with program(f"run = lambda: open({str(log)!r}, 'a').write('x')") as one:
        assert one.facts["output"] == 1
        assert log.read_text() == "x"
        assert one.turn() > 0
        assert log.read_text() == "x" * 4


def test_they_run_one_after_the_other_in_every_round(tmp_path):
    log = tmp_path / "log"
    with (
        program(f"run = lambda: open({str(log)!r}, 'a').write('a')") as a,
        program(f"run = lambda: open({str(log)!r}, 'a').write('b')") as b,
    ):
        times = take_turns({"a": a, "b": b}, 2)
    assert log.read_text() == "ab" + "aaabbb" * 2
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 2, "b": 2}


def test_a_time_is_the_faster_of_two_after_a_first(monkeypatch):
    clock = iter([10.0, 13.0, 20.0, 22.0])  # begin and end of the second and third run
    monkeypatch.setattr(turns.time, "perf_counter", lambda: next(clock))
    runs = []
    assert fastest(lambda: runs.append(1)) == 2.0
    assert len(runs) == 3


@pytest.mark.parametrize(
    ("prepare", "message", "code"),
    [
        ("raise ValueError('no such | thing')", "no such | thing", "program-failed"),
        ("raise MemoryError", "MemoryError", "out-of-memory"),
        ("error = OSError('gone'); error.code = 'checkpoint-missing'; raise error", "gone", "checkpoint-missing"),
        ("os._exit(3)", "ended with code 3", "program-failed"),
        ("os.kill(os.getpid(), 9)", "ended by signal 9", "program-failed"),
        ("run = lambda: 1 / 0", "division by zero", "program-failed"),
    ],
)
def test_a_program_that_cannot_run_says_why(prepare, message, code):
    with pytest.raises(ProgramFailed) as found:
        program(prepare)
    assert (str(found.value), found.value.code) == (message, code)


@pytest.mark.parametrize(("end", "message"), [("os._exit(3)", "ended with code 3"), ("1 / 0", "division by zero")])
def test_a_program_that_dies_in_its_turn_says_why(end, message):
    with program(f"runs = []\ndef run():\n    runs.append(1)\n    if len(runs) > 2: {end}") as one:
        for said in (message, "ended with code"):  # whoever asks again is told, too
            with pytest.raises(ProgramFailed, match=said):
                one.turn()


def test_the_peak_of_the_first_run_is_its_memory():
    in_proc()
    with program("run = lambda: len(bytearray(64 << 20))") as large, program("run = lambda: 0") as small:
        assert 60 < large.facts["peak_mib"] - small.facts["peak_mib"] < 70


FORKING = """\
def run():
    ready, done = os.pipe()
    child = os.fork()
    if not child:
        held = bytearray(64 << 20)
        os.write(done, b"x")
        time.sleep(60)
    os.read(ready, 1)
import atexit, signal
children = []
fork = os.fork
os.fork = lambda: children.append(fork()) or children[-1]
atexit.register(lambda: children[-1] and os.kill(children[-1], signal.SIGKILL))
"""


def test_processes_that_it_has_forked_count():
    in_proc()
    with program(FORKING) as forked, program("run = lambda: 0") as single:
        assert 60 < forked.facts["peak_mib"] - single.facts["peak_mib"] < 64 + 2 * single.facts["peak_mib"]


def test_without_proc_it_is_what_the_system_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(turns, "PROC", tmp_path)
    pytest.importorskip("resource")
    assert 5 < turns.peak_memory() < 100_000
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    assert turns.peak_memory() is None


def test_an_interrupt_of_the_terminal_is_the_business_of_the_parent():
    with program("run = lambda: 0") as one:
        assert os.getpgid(one._process.pid) != os.getpgid(0)


def test_a_program_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(turns, "TIME_TO_END", 0.2)
    one = program("runs = []\ndef run():\n    runs.append(1)\n    if len(runs) > 1: time.sleep(60)")
    one._process.stdin.write("turn\n")
    one._process.stdin.flush()
    one.close()
    assert one._process.returncode == -signal.SIGKILL


def test_nothing_is_left_of_a_program_that_failed(monkeypatch):
    made = []
    popen = subprocess.Popen
    monkeypatch.setattr(turns.subprocess, "Popen", lambda *a, **k: made.append(popen(*a, **k)) or made[-1])
    with pytest.raises(ProgramFailed):
        program("raise ValueError")
    assert made[0].returncode is not None


def test_ratios_are_those_of_the_rounds():
    ratio = paired([1.0, 6.0, 4.0], [2.0, 3.0, 4.0])
    assert ratio == (1.0, 0.5, 2.0)  # of the medians it would be 4/3
    assert str(ratio) == "1.00 (0.50 to 2.00)"
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0])
