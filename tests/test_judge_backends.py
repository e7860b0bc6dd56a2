"""The judge of real programs, with programs that the tests write: an honest one, a wrong one and one that dies."""

import json
import re
import sys
from pathlib import Path

import judge_backends as tool
import numpy as np
import pytest
from backends.catalogue import BACKENDS, ENVIRONMENTS, Backend, Export, Finding

from npmobilevit.engine import Engine, blas
from npmobilevit.errors import BundleError
from npmobilevit.validation.profiles import PROFILES

MEASURED = tool.ROOT / "reference" / "measured" / "backends.json"

RUNNER = """
import sys
sys.path.insert(0, {runners!r})
import numpy as np
import npmobilevit as nm
from runner import serve

def prepare(request):
    network = nm.load(str(request.checkpoint)).network
    assert request.shape == (1, 3, 32, 40)
    {check}
    def run(x):
        taps = network.taps(x)
        {change}
        return taps
    return run

serve(prepare, ["pillow"], lambda: {{"kernels": "ours"}})
"""
EXPORTER = """
import argparse, pathlib
parser = argparse.ArgumentParser()
for name in ("--checkpoint", "--out", "--variant"):
    parser.add_argument(name)
parser.add_argument("--shape", nargs=4)
arguments = parser.parse_args()
out = pathlib.Path(arguments.out)
out.write_text(" ".join(arguments.shape) + " " + arguments.variant)
(out.parents[2] / "exports").open("a").write("once ")
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Makes the job of a backend whose runner is this program, in an environment that is this one."""
    (tmp_path / "here" / "bin").mkdir(parents=True)
    python = tmp_path / "here" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "export.py").write_text(EXPORTER)
    monkeypatch.setattr(tool, "RUNNERS", tmp_path)
    runners = str(tool.ROOT / "tools" / "backends")

    def make(change="pass", check="pass", environment="here", **fields):
        (tmp_path / "runner.py").write_text(RUNNER.format(runners=runners, change=change, check=check))
        backend = Backend("mine", "fp32", "a | b", ("pillow",), environment, "runner.py", **fields)
        monkeypatch.setitem(tool.ALL, "mine", backend)
        return tool.Job("mine", "cifar10-xx-small", 32, 40, tmp_path)

    return make


def test_an_honest_program_passes_on_every_picture(job):
    result = tool.perform(job())
    assert [check["verdict"] for check in result["pictures"].values()] == ["pass"] * 3
    assert result["versions"].keys() == {"python", "numpy", "pillow", "kernels"}
    assert result["job"] == "mine/cifar10-xx-small/32x40"


def test_a_program_with_a_mistake_fails(job):
    result = tool.perform(job("taps['mobilevit.conv_1x1_exp'] = taps['mobilevit.conv_1x1_exp'] * np.float32(1.001)"))
    assert [check["verdict"] for check in result["pictures"].values()] == ["fail"] * 3
    assert result["pictures"]["street"]["alarms"][0].startswith("mobilevit.conv_1x1_exp")
    (row,) = tool.summary({result["job"]: result})
    assert row["verdicts"] == {"pass": 0, "screened": 0, "fail": 3}
    assert row["false_alarms"] == row["alarms"] != []


@pytest.mark.parametrize(("taps", "is_known"), [("conv_1x1_exp", True), ("classifier", False)])
def test_a_finding_excuses_its_own_taps_only(job, taps, is_known):
    mistake = "taps['mobilevit.conv_1x1_exp'] = taps['mobilevit.conv_1x1_exp'] * np.float32(1.001)"
    result = tool.perform(job(mistake, finding=Finding("off by a thousandth", taps)))
    (row,) = tool.summary({result["job"]: result})
    assert (row["finding"], row["false_alarms"] == []) == ("off by a thousandth", is_known)


def test_a_dump_that_cannot_be_judged_is_wrong(job, monkeypatch):
    def refuse(*_arguments, **_options):
        raise BundleError("too many taps", "bundle-taps")

    monkeypatch.setattr(tool, "check", refuse)
    found = tool.perform(job())["pictures"]["street"]
    assert (found["verdict"], found["alarms"]) == ("fail", ["dump: too many taps"])


def test_few_taps_are_screened(job):
    result = tool.perform(job("taps = {'logits': taps['logits']}"))
    assert {check["verdict"] for check in result["pictures"].values()} == {"screened"}


def test_the_last_words_of_a_program_that_dies_are_in_the_table(job):
    result = tool.perform(job(check="raise SystemExit('no such | instruction')"))
    assert result["not_run"] == "no such | instruction"
    assert "pictures" not in result
    (row,) = tool.summary({result["job"]: result})
    assert tool.table([row]).splitlines()[-1] == (
        "| `mine`: a \\| b |  | fp32 |  |  |  |  | not run: no such \\| instruction |"
    )


def test_a_part_that_was_not_run_is_told_beside_the_rest(job):
    good = tool.perform(job())
    bad = {"job": "other", "backend": "mine", "not_run": "out of memory"}
    (row,) = tool.summary({"good": good, "other": bad})
    assert tool.table([row]).splitlines()[-1].endswith("; not all were run: out of memory |")


def test_an_environment_that_cannot_be_made_says_what_pip_said(job, tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS, "gone", ("not a requirement",))
    tool.make("gone", tmp_path)
    assert "equirement" in tool.perform(job(environment="gone"))["not_run"]


def test_an_environment_is_made_anew_for_other_requirements(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(tool.venv, "create", lambda place, **_options: place.mkdir(exist_ok=True))
    monkeypatch.setattr(tool, "run", lambda command: made.append(command[-1]))
    for requirements in (("one",), ("one",), ("one", "-n two")):
        monkeypatch.setitem(ENVIRONMENTS, "some", requirements)
        tool.make("some", tmp_path)
    assert made == ["one", "one", "two"]


def test_an_export_is_made_once_a_size(job, tmp_path):
    export = Export("here", "export.py", "taps", ".txt")
    check = "assert request.model.read_text() == '1 3 32 40 taps'"
    for _ in range(2):
        assert "pictures" in tool.perform(job(check=check, export=export))
    assert (tmp_path / "exports").read_text() == "once "


several_workers = pytest.mark.skipif(blas.threads() == 1, reason="the engine has one worker here")


@several_workers
@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_the_engine_is_judged_at_the_ends_of_its_blocks(workers, monkeypatch):
    monkeypatch.setattr(tool, "PICTURES", ("street",))
    job = tool.Job(f"npmobilevit-engine-{workers}", "cifar10-xx-small", 32, 40, Path())
    result = tool.perform(job)
    assert result["pictures"]["street"]["verdict"] == "screened"
    assert 10 < result["pictures"]["street"]["judgements"] < 30
    assert result["versions"]["workers"].endswith(f" {workers}")
    assert result["processor"]


@several_workers
def test_an_engine_that_is_wrong_fails(monkeypatch):
    monkeypatch.setattr(tool, "PICTURES", ("street",))
    job = tool.Job("npmobilevit-engine-threads", "cifar10-xx-small", 32, 40, Path())
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda *arguments, **options: with_wrong_logits(run(*arguments, **options)))
    found = tool.perform(job)["pictures"]["street"]
    assert found["verdict"] == "fail"
    assert found["alarms"][0].startswith("logits: ")


def with_wrong_logits(values):
    return values._replace(logits=values.logits * np.float32(1.001))


def test_a_row_of_the_engine_is_of_the_workers_that_it_names(monkeypatch):
    monkeypatch.setattr(blas, "threads", lambda: 1)
    result = tool.perform(tool.Job("npmobilevit-engine-processes", "cifar10-xx-small", 32, 40, Path()))
    assert "1 thread" in result["not_run"]
    assert "pictures" not in result


def test_rows_are_put_among_those_that_were_recorded(tmp_path, monkeypatch):
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text(tool.MARKS.filled("before", "stale") + "after")
    monkeypatch.setattr(tool, "PAGE", page)
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["backends"]
    tool.write(figures, rows[3:] + rows[:2])
    changed = {**rows[4], "description": "again"}
    tool.write(figures, [rows[2], changed])
    expected = [*rows[:4], changed, *rows[5:]]
    assert json.loads(figures.read_text(encoding="utf-8")) == {"backends": expected}
    assert page.read_text() == tool.MARKS.filled("before", tool.table(expected)) + "after"


def test_rows_of_some_jobs_are_not_written(tmp_path, monkeypatch, capsys):
    output = tmp_path / "figures.json"
    for only, is_torn in (("^npmobilevit-", False), ("^npmobilevit-.*256x256", True), ("", False)):
        planned = [job for job in tool.jobs(Path()) if re.search(only, job.name)]
        assert bool(tool.torn_backends(planned)) == is_torn
    options = ["--environments", tmp_path, "--state", tmp_path / "state", "--only", "256x256", "--output", output]
    monkeypatch.setattr(sys, "argv", ["judge_backends.py", *map(str, options)])
    with pytest.raises(SystemExit):
        tool.main()
    assert "--only leaves out some jobs of executorch, " in capsys.readouterr().err
    assert not output.exists()


def test_backends_of_the_catalogue_are_whole():
    scripts = {path.name for path in tool.RUNNERS.glob("run_*.py")} | {p.name for p in tool.RUNNERS.glob("export_*.py")}
    exports = {backend.export for backend in BACKENDS if backend.export}
    assert scripts == {backend.runner for backend in BACKENDS} | {export.script for export in exports}
    used = {backend.environment for backend in BACKENDS} | {export.environment for export in exports}
    assert used == set(ENVIRONMENTS)
    assert all(backend.profile in PROFILES for backend in BACKENDS)
    assert len(tool.ALL) == len(BACKENDS) + len(tool.OWN)


def test_the_table_of_the_page_is_the_one_of_the_figures():
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["backends"]
    page = tool.PAGE.read_text(encoding="utf-8")
    assert tool.MARKS.filled(page, tool.table(rows)) == page, "run tools/judge_backends.py --output"
    assert tool.MARKS.filled(page, tool.table(rows[1:])) != page


def test_documents_say_what_the_figures_are():
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["backends"]
    honest = [row for row in rows if row["checks"] and not row["finding"]]
    assert all(row["verdicts"]["fail"] == 0 for row in honest)
    checks, judgements = (sum(row[key] for row in honest) for key in ("checks", "judgements"))
    assert f"{len(honest)} of these rows, with {checks} checks and {judgements:,} judgements" in tool.PAGE.read_text()
    said = f"no false alarm in {checks} checks with {judgements:,} judgements of {len(honest)} honest ways"
    assert said in (tool.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_figures_are_of_all_backends_and_jobs():
    rows = {row["backend"]: row for row in json.loads(MEASURED.read_text(encoding="utf-8"))["backends"]}
    planned = [job.backend for job in tool.jobs(Path())]
    assert {name: row["jobs"] for name, row in rows.items()} == {name: planned.count(name) for name in tool.ALL}
