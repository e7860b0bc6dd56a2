"""bench: how fast the readable network and the engine are on this machine, each in a process of its own."""

import argparse
import re
import sys

import numpy as np
import pytest
from commandline import run, run_json

from npmobilevit.cli import bench, machine
from npmobilevit.cli.bench import MODES, Measured, Mode
from npmobilevit.cli.ending import EXIT_VALIDATION, Stop
from npmobilevit.cli.turns import ProgramFailed, paired

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture(scope="module")
def document(classifier_folder):
    """What --json prints."""
    options = argparse.Namespace(model=str(classifier_folder), size=[64, 96], batch=2, rounds=3, json=True)
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr(bench.reports, "print_document", printed.append)
        assert bench.run_bench(options) == 0
    (found,) = printed
    return found


def test_all_modes_are_timed_in_turn(document):
    assert (document["schema"], document["shape"], document["rounds"]) == ("npmobilevit.bench/1", [2, 3, 64, 96], 3)
    assert list(document["modes"]) == list(MODES)
    times = {mode: found["seconds"] for mode, found in document["modes"].items()}
    for mode, found in document["modes"].items():
        assert len(times[mode]) == 3
        assert found["time_over_readable"] == paired(times[mode], times["readable"])._asdict()
        assert found["pictures_per_second"] == pytest.approx(2 / sorted(times[mode])[1])
    assert document["modes"]["readable"]["time_over_readable"] == {"median": 1.0, "low": 1.0, "high": 1.0}


def test_the_engine_says_what_runs(document):
    modes = document["modes"]
    assert "engine" not in modes["readable"]
    for mode in ("threads", "processes"):
        assert (modes[mode]["engine"], modes[mode]["reason"]) == ("fast", None)
        assert modes[mode]["plan"].startswith("64 x 96 pixels: the fast engine, ")
    if machine.usable_cores() > 1 and sys.platform.startswith("linux"):
        assert (modes["threads"]["workers"], modes["processes"]["workers"]) == ("2 threads", "2 processes")


def test_memory_and_machine_are_described(document):
    if sys.platform.startswith("linux"):
        assert all(30 < mode["peak_mib"] < 400 for mode in document["modes"].values())
    assert list(document["machine"]) == ["processor", "cores", "caches", "system", "python", "numpy", "blas"]
    assert document["machine"]["numpy"] == np.__version__
    assert all(document["machine"].values())


def test_the_text_has_ratios_machine_and_plans(capsys, segmenter_folder):
    code, out, err = run(capsys, "bench", "--model", segmenter_folder, "--rounds", "1")
    assert (code, err) == (0, "")
    head, columns, readable, threads, processes, *rest = out.splitlines()
    assert head == f"model {segmenter_folder}, 1 x 32 x 32 pixels, 1 rounds"
    assert columns.split() == ["time", "over", "readable", "pictures/s", "here", "peak", "memory"]
    assert re.fullmatch(r"readable +1 +[\d.,]+ +(\d+ MiB|unknown)", readable)
    for mode, line in (("threads", threads), ("processes", processes)):
        ratio = r"\d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)"
        assert re.fullmatch(rf"engine, {mode} +{ratio} +[\d.,]+ +(\d+ MiB|unknown)", line)
    assert rest[:2] == ["", "machine"]
    assert rest[9:11] == ["", "what runs"]
    assert rest[11].startswith("  threads    32 x 32 pixels: ")


# What could happen on other machines


def made(**failures):
    ratio = paired([3.0, 2.0], [4.0, 4.0])
    facts = {"peak_mib": None, "engine": "reference", "reason": "odd", "workers": "1 thread", "plan": "readable: odd"}
    modes = {"readable": Mode({"peak_mib": 50.4}, [4.0, 4.0], paired([1], [1])), "threads": Mode(facts, [3, 2], ratio)}
    return Measured(modes, failures)


def test_what_was_not_timed_is_told():
    text = bench._text(made(processes=ProgramFailed("no fork here", "engine")), (8, 3, 32, 32), {"cores": "1"})
    assert [line.rstrip() for line in text[1:]] == [
        "readable           1                                  2.0        50 MiB",
        "engine, threads    0.62 (0.50 to 0.75)                3.2       unknown",
        "engine, processes  not timed: no fork here",
        "",
        "machine",
        "  cores      1",
        "",
        "what runs",
        "  threads    readable: odd",
    ]
    found = bench._document(made(processes=ProgramFailed("no fork here", "engine")), (8, 3, 32, 32))
    assert found["processes"] == {"error": {"code": "engine", "message": "no fork here"}}
    assert found["threads"]["pictures_per_second"] == 3.2


@pytest.mark.parametrize(("failures", "code"), [({}, 0), ({"processes": ProgramFailed("ended by signal 9")}, 1)])
def test_a_mode_that_cannot_be_timed_ends_with_one(capsys, monkeypatch, failures, code):
    monkeypatch.setattr(bench, "measure", lambda *arguments: made(**failures))
    assert run(capsys, "bench")[0] == code


@pytest.mark.parametrize("wrong", [1 + 2e-5, np.nan, np.inf])
def test_an_engine_that_answers_otherwise_is_not_timed(tmp_path, wrong):
    answer = np.linspace(-1, 1, 10)
    np.save(tmp_path / "readable.npy", answer)
    np.save(tmp_path / "threads.npy", answer * (1 + 1e-6))
    bench._compare(tmp_path, ["readable", "threads"])
    np.save(tmp_path / "processes.npy", answer * wrong)
    with pytest.raises(Stop, match=r"the engine \(processes\) differs") as found:
        bench._compare(tmp_path, ["readable", "threads", "processes"])
    assert (found.value.exit_code, found.value.code) == (EXIT_VALIDATION, "engine-differs")


def test_what_is_too_large_is_one_line(capsys):
    code, out, err = run(capsys, "bench", "--size", "999999999", "999999999")
    assert (code, out) == (1, "")
    assert err.startswith("error: the readable network cannot be timed: ")
    assert len(err.splitlines()) == 1


def test_a_model_that_is_not_to_be_had_ends_with_three(capsys):
    code, out, err = run(capsys, "bench", "--model", "./missing")
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--batch", "x"], ["--size", "5"], ["picture.jpg"]])
def test_wrong_options_are_usage(capsys, arguments):
    code, document = run_json(capsys, "bench", *arguments)
    assert (code, document["error"]["code"]) == (2, "usage")


# The machine


def test_a_processor_is_named_as_far_as_its_system_does(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.processor()  # not Linux
    machine.CPUINFO.write_text("processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: Some CPU\nmodel : 3\n")
    assert machine.processor() == "Some CPU (family 25, model 17)"
    machine.CPUINFO.write_text("model name\t: Some CPU\n")
    assert machine.processor() == "Some CPU"
    machine.CPUINFO.write_text("CPU implementer\t: 0x41\n")  # ARM
    assert machine.processor()


def test_caches_are_those_of_data(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CACHES", tmp_path)
    assert machine.caches() == ""
    rows = [("1", "Data", "32K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K")]
    for i, row in enumerate(rows):
        (tmp_path / f"index{i}").mkdir()
        for name, value in zip(("level", "type", "size"), row, strict=True):
            (tmp_path / f"index{i}" / name).write_text(value + "\n")
    assert machine.caches() == "L1d 32K, L2 1024K"
