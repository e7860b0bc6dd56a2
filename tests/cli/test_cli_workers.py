"""--workers of predict and segment: the same results, and no process that outlives the command."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from commandline import run, run_json, write_picture

import npmobilevit as nm
from npmobilevit import pipeline
from npmobilevit.cli import console
from npmobilevit.engine import blas, crews

pytestmark = pytest.mark.usefixtures("clean_environment")

needs_processes = pytest.mark.skipif(
    crews.processes_are_missing() is not None or blas.threads() == 1, reason="there are no processes to share the work"
)
PROCESSES = ["--workers", "processes"]
STREAMS = {"predict": "stream_predictions", "segment": "stream_segmentations"}


@pytest.fixture
def models(classifier_folder, segmenter_folder):
    return {"predict": ["--model", str(classifier_folder)], "segment": ["--model", str(segmenter_folder)]}


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """a.png to c.png, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return [write_picture(Path(f"{name}.png"), seed=i).name for i, name in enumerate("abc")]


@pytest.fixture
def twins(monkeypatch):
    """The processes that are forked. Pipelines are kept, so that only what closes them ends their twins."""
    forked, loaded = [], []
    fork, load = os.fork, pipeline.load

    def watched_fork():
        forked.append(fork())
        return forked[-1]

    def watched_load(*arguments, **options):
        loaded.append(load(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(os, "fork", watched_fork)
    monkeypatch.setattr(pipeline, "load", watched_load)
    yield forked
    for kept in loaded:
        kept.close()


def alive(processes):
    """Those that have not ended, or that nobody has waited for."""
    found = []
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, 0)
            found.append(process)
    return found


def floats(value):
    """All floats in a document, in its order."""
    if isinstance(value, dict | list):
        return [x for part in (value.values() if isinstance(value, dict) else value) for x in floats(part)]
    return [value] if isinstance(value, float) else []


def without_floats(document):
    return json.loads(json.dumps(document), parse_float=lambda _: None)


@needs_processes
@pytest.mark.parametrize("command", STREAMS)
def test_results_are_those_of_threads(capsys, pictures, models, twins, command):
    arguments = [command, *pictures, "none.png", *models[command]]
    code, expected = run_json(capsys, *arguments)
    assert twins == []  # the default is threads
    assert run_json(capsys, *arguments, "--workers", "threads") == (code, expected)
    assert twins == []
    found = run_json(capsys, *arguments, *PROCESSES)
    assert len(twins) == min(4, blas.threads()) - 1
    assert alive(twins) == []
    assert found[0] == code == 1
    assert without_floats(found[1]) == without_floats(expected)
    assert floats(found[1]) == pytest.approx(floats(expected), rel=0, abs=1e-6)
    assert len(floats(expected)) > len(pictures)


@needs_processes
@pytest.mark.parametrize("command", STREAMS)
@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (KeyboardInterrupt(), 130),
        (MemoryError(), 1),
        (nm.WeightsError("the weights give NaN", "logits-not-finite"), 3),
        (BrokenPipeError(), 0),
        (ZeroDivisionError(), None),  # a mistake of ours
    ],
)
def test_no_process_outlives_the_command(capsys, pictures, models, twins, monkeypatch, command, raised, code):
    stream = getattr(nm.Pipeline, STREAMS[command])

    def ending(self, images, **options):
        results = stream(self, images, **options)
        yield next(results)
        assert alive(twins) == twins != []
        raise raised

    monkeypatch.setattr(nm.Pipeline, STREAMS[command], ending)
    monkeypatch.setattr(console, "drop", lambda stream: None)  # of a pipe that is broken; this one is not
    with suppress(ZeroDivisionError):
        assert run(capsys, command, *pictures, *PROCESSES, *models[command])[0] == code
    assert alive(twins) == []


@needs_processes
@pytest.mark.case("122", "Ctrl-C while processes share the work", "a last line, exit code 130, no process is left")
def test_ctrl_c_ends_all_processes(pictures, models):
    """At a terminal, the signal comes to all of them."""
    Path("list.txt").write_text("a.png\n" * 100_000)
    command = [sys.executable, "-m", "npmobilevit", "predict", "@list.txt", "--jsonl", *PROCESSES, *models["predict"]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, start_new_session=True) as child:
        first = child.stdout.readline()
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=60)
    last = json.loads((first + out).splitlines()[-1])
    assert (child.returncode, last["error"]["code"]) == (130, "interrupted")
    assert err == f"error: {last['error']['message']}\n".encode()
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


@pytest.mark.parametrize("command", STREAMS)
def test_other_workers_are_usage(capsys, pictures, models, command):
    code, document = run_json(capsys, command, *pictures, "--workers", "fibres", *models[command])
    assert (code, document["error"]["code"]) == (2, "usage")
    assert "'fibres'" in document["error"]["message"]
