"""The benchmark without frameworks: its cases, its contest, what it makes of figures, and the figures of the page."""

import json
import re
import sys
import types
import xml.etree.ElementTree as ElementTree

import benchmark as tool
import numpy as np
import pytest
from benchmarks import bars, cold_start, contest, install_size, material, picture, tables, worker
from benchmarks.cases import CASES, COLD_STARTS, CONTESTANTS, INSTALL_SIZE, MODES, PARTS, Case
from packaging.requirements import Requirement

import npmobilevit as nm

FOREIGN = ("eager-1", "eager-2", "ort-1", "ort-2", "evaluator")


# The contest --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Material of a small input, with our own answer in float64 in the place of the witness's."""
    folder = tmp_path_factory.mktemp("material")
    material.write_checkpoint("xx-small", folder)
    x = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    np.save(folder / "pixel_values.npy", x)
    np.save(folder / "witness.npy", nm.load(folder, precision="float64", engine="reference").network(x).logits)
    return folder


def test_contestants_that_are_right_are_timed(folder):
    result = contest.hold(Case("xx-small", 32, 1, 3, ("readable",)), folder)
    found = result["contestants"]["readable"]
    assert (result["shape"], result["rounds"], len(found["seconds"])) == ([1, 3, 32, 32], 3, 3)
    assert 0 < found["error"] < 1e-5
    assert 30 < found["peak_mib"] < 200
    assert tool.not_run("case", result) == []


@pytest.mark.parametrize(("factor", "said"), [(1 + 2e-5, "2.0e-05"), (np.nan, "nan")])
def test_wrong_answers_are_not_timed(folder, tmp_path, factor, said):
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "witness.npy").unlink()
    np.save(tmp_path / "witness.npy", np.load(folder / "witness.npy") * factor)
    result = contest.hold(Case("xx-small", 32, 1, 1, ("readable",)), tmp_path)
    assert result["contestants"] == {"readable": {"not_run": f"wrong by {said} of its largest logit"}}
    assert tool.not_run("case", result) == [f"case, readable: wrong by {said} of its largest logit"]


def test_a_contestant_that_cannot_run_says_why(tmp_path):
    np.save(tmp_path / "witness.npy", np.ones((1, 2)))
    result = contest.hold(Case("xx-small", 32, 1, 1, ("readable",)), tmp_path)
    assert "pixel_values.npy" in result["contestants"]["readable"]["not_run"]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"engine": "reference", "workers": "1 thread"}, "runs otherwise than asked for: the plan"),
        ({"engine": "fast", "workers": "2 threads"}, "runs otherwise than asked for: the plan"),
        ({"engine": "fast", "workers": "2 processes"}, None),
    ],
)
def test_an_engine_that_fell_back_is_not_timed_as_the_engine(monkeypatch, plan, message):
    class Plan(types.SimpleNamespace):
        __str__ = lambda self: "the plan"  # noqa: E731

    network = types.SimpleNamespace(plan=lambda height, width: Plan(**plan))
    monkeypatch.setattr(nm, "load", lambda folder, **options: types.SimpleNamespace(network=network))
    _, facts = worker.run_engine("", np.zeros((1, 3, 32, 64)), "processes", expected="2 processes")
    if message is None:
        assert facts() == {"plan": "the plan"}
    else:
        with pytest.raises(RuntimeError, match=message):
            facts()


def test_threads_are_given_or_left_to_the_program(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    assert contest.environment(1)["OPENBLAS_NUM_THREADS"] == "1"
    assert "OPENBLAS_NUM_THREADS" not in contest.environment(None)


@pytest.mark.framework
@pytest.mark.filterwarnings("default")
def test_frameworks_run_and_are_right(tmp_path):
    pytest.importorskip("torch")
    case = Case("xx-small", 64, 1, 1, FOREIGN)
    material.write_material(case, tmp_path / "material", onnx=True)
    result = contest.hold(case, tmp_path / "material")
    assert tool.not_run("case", result) == []
    errors = {name: found["error"] for name, found in result["contestants"].items()}
    assert errors.keys() == set(FOREIGN)
    assert 0 < min(errors.values()) <= max(errors.values()) < 1e-5


# Cold start and installation ----------------------------------------------------------------------------------------


def test_a_cold_start_gives_a_label(folder, tmp_path):
    seconds, memory, label = cold_start.start("npmobilevit", folder, cold_start.PICTURE)
    assert 0.01 < seconds < 60
    assert 30 < memory < 300
    assert label == nm.predict(cold_start.PICTURE, folder)[0].label


def test_cold_starts_are_of_both_in_turn_after_each_was_started_once(tmp_path, monkeypatch):
    log = tmp_path / "log"
    programs = {name: f"open({str(log)!r}, 'a').write({name!r}); print('cat')" for name in "ab"}
    monkeypatch.setattr(cold_start, "PROGRAMS", programs)
    monkeypatch.setattr(cold_start, "ROUNDS", 2)
    result = cold_start.measure(tmp_path)
    assert log.read_text() == "ab" * 3
    assert {name: len(one["seconds"]) for name, one in result["programs"].items()} == {"a": 2, "b": 2}
    monkeypatch.setitem(programs, "b", "print('dog')")
    with pytest.raises(SystemExit, match="the labels of a cold start differ: cat, dog"):
        cold_start.measure(tmp_path)


def test_an_installation_is_all_that_is_asked_for_and_no_more():
    ours = install_size.closure([Requirement("npmobilevit")])
    assert {"npmobilevit", "numpy", "pillow", "safetensors", "huggingface-hub", "tqdm"} <= set(ours)
    assert "hypothesis" not in ours
    assert "hypothesis" in install_size.closure([Requirement("npmobilevit[test]")])
    sizes = {name: install_size.size(one) for name, one in ours.items()}
    assert 20e6 < sizes["numpy"] < 200e6
    assert 1e6 < sizes["npmobilevit"] < 50e6
    assert install_size.installation(["npmobilevit"]) == {"distributions": len(ours), "bytes": sum(sizes.values())}


def test_what_is_not_installed_has_no_size():
    with pytest.raises(SystemExit, match="error: no-such-thing is not installed"):
        install_size.installation(["no-such-thing"])


# What it makes of figures -------------------------------------------------------------------------------------------


def made_part(part, milliseconds):
    """A part in which each contestant takes so many milliseconds; the readable network half as many again, once."""
    if part in COLD_STARTS:
        times = {"transformers": 5.0, "npmobilevit": 0.25}
        programs = {name: {"seconds": [t] * 7, "peak_mib": [100 * t] * 7} for name, t in times.items()}
        return {"rounds": 7, "programs": programs}
    if part == INSTALL_SIZE:
        names = enumerate(reversed(install_size.INSTALLATIONS), start=1)
        return {name: {"distributions": i, "bytes": i * 10**8} for i, name in names}
    case = CASES[part]
    found = {}
    for name in case.contestants:
        one = milliseconds[name] / 1000
        seconds = [one, one * (1.5 if name == "readable" else 1), *[one] * (case.rounds - 2)]
        found[name] = {"error": 1e-6, "peak_mib": milliseconds[name], "seconds": seconds}
    return {"shape": list(case.shape), "rounds": case.rounds, "contestants": found}


MILLISECONDS = {"eager-1": 150, "eager-2": 100, "compiled-2": 90, "ort-1": 70, "ort-2": 50, "evaluator": 900,
                "readable": 200, "engine-1": 80, "engine-threads": 60, "engine-processes": 40}  # fmt: skip


def made(**changed):
    parts = {part: made_part(part, MILLISECONDS | changed) for part in PARTS}
    return {"machine": {"processor": "a | b"}, "packages": {"torch": "2"}, "parts": parts}


def standing(results, what, network):
    (found,) = (s for s in bars.standings(results["parts"]) if (s.what, s.network) == (what, network))
    return found


def test_every_bar_has_a_standing_once_all_is_measured():
    assert len(list(bars.standings(made()["parts"]))) == 4 * 5 + 2 * 2 + 2 * 2
    assert list(bars.standings({})) == []


@pytest.mark.parametrize(
    ("milliseconds", "verdict"), [(60.1, "missed"), (60, "bar met"), (45.1, "bar met"), (45, "goal met")]
)
def test_a_verdict_is_that_of_the_median(milliseconds, verdict):
    results = made(**dict.fromkeys(MODES, milliseconds))
    found = standing(results, "engine's best mode / eager, 2 threads", "small")
    assert (round(found.ratio.median, 3), found.verdict) == (milliseconds / 100, verdict)


@pytest.mark.parametrize(("milliseconds", "verdict"), [(21, "missed"), (20, "bar met"), (12.5, "goal met")])
def test_a_speedup_is_the_better_the_larger(milliseconds, verdict):
    results = made(**{"engine-processes": milliseconds})
    found = standing(results, "1024 x 1024: eager, 2 threads / engine's best mode", "xx-small")
    assert (round(found.ratio.median, 3), found.verdict) == (round(100 / milliseconds, 3), verdict)


def test_the_best_mode_is_the_faster_and_the_default_is_threads():
    results = made()
    assert standing(results, "engine's best mode / eager, 2 threads", "small").ratio.median == pytest.approx(0.4)
    assert standing(results, "engine's default mode / eager, 2 threads", "small").ratio.median == pytest.approx(0.6)
    memory = standing(results, "1024 x 1024: peak memory of the same mode / eager's", "small")
    assert memory.ratio.median == pytest.approx(0.4)
    assert memory.verdict == "missed"


def test_a_contestant_that_did_not_run_is_told_and_has_no_standing():
    results = made()
    results["parts"]["small/256"]["contestants"]["eager-2"] = {"not_run": "no | memory"}
    whats = [s.what for s in bars.standings(results["parts"]) if s.network == "small"]
    assert "engine's best mode / eager, 2 threads" not in whats
    assert "engine's best mode / ONNX Runtime, 2 threads" in whats
    lines = tables.sections(results).partition("## small/256:")[2].splitlines()
    (row,) = (line for line in lines[:15] if line.startswith("| PyTorch eager, 2 threads"))
    assert "not run: no \\| memory" in row
    assert row.count("|") - row.count("\\|") == lines[2].count("|")


def test_a_table_has_the_ratio_of_every_pair():
    text = tables.sections(made()).partition("## small/256:")[2].partition("## ")[0]
    _, head, _, *rows = (line for line in text.splitlines() if line)
    assert head == (
        "| time of | over eager, 1 | over eager, 2 | over ORT, 1 | over ORT, 2 | over readable | ms here | "
        "logits differ by | peak MiB |"
    )
    assert [row.split("|")[1].strip() for row in rows] == [
        CONTESTANTS[name].title for name in CASES["small/256"].contestants
    ]
    assert rows[3].split("|")[2:] == [
        " 0.33 (0.33 to 0.33) ", " 0.50 (0.50 to 0.50) ", " 0.71 (0.71 to 0.71) ", "  ", " 0.25 (0.17 to 0.25) ",
        " 50.0 ", " 1.0e-06 ", " 50 ", "",
    ]  # fmt: skip


def test_the_picture_has_a_bar_for_each_ratio():
    root = ElementTree.fromstring(picture.svg(made()))
    bars_drawn = [one for one in root if one.tag.endswith("rect") and one.get("fill") != "#ffffff"]
    assert len(bars_drawn) == len(picture.CASES) * len(picture.COLOURS)
    width, height = int(root.get("width")), int(root.get("height"))
    for one in bars_drawn:
        assert float(one.get("x")) + float(one.get("width")) < width
        assert float(one.get("y")) < height
    widths = [float(one.get("width")) for one in bars_drawn[: len(picture.COLOURS)]]
    assert widths == [picture.UNIT * MILLISECONDS[name] / 100 for name in picture.COLOURS]


# Runs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where a run writes to, with parts that are made and not measured."""
    monkeypatch.setattr(tool, "MEASURED", tmp_path / "figures.json")
    monkeypatch.setattr(tool, "PICTURE", tmp_path / "picture.svg")
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(tool, "README", tmp_path / "readme.md")
    for page in (tool.PAGE, tool.README):
        page.write_text(tool.MARKS.filled("before\n", "stale") + "\nafter\n")
    monkeypatch.setattr(tool, "surroundings", lambda: {"machine": {"processor": "this"}, "packages": {}})
    monkeypatch.setattr(tool, "perform", lambda part, folder: made_part(part, MILLISECONDS))
    monkeypatch.setattr(tool.os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr(tool.os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    return tmp_path


def start(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    tool.main()


def figures():
    return json.loads(tool.MEASURED.read_text())["parts"]


def test_a_run_writes_figures_page_and_picture(place, monkeypatch, capsys):
    start(monkeypatch)
    assert list(figures()) == list(PARTS)
    page = tool.PAGE.read_text()
    assert re.fullmatch(r"before\n.*## Standing.*\nafter\n", page, re.DOTALL)
    assert "stale" not in page
    assert tables.summary(made()) in tool.README.read_text()
    ElementTree.parse(tool.PICTURE)
    assert capsys.readouterr().out.endswith(tables.standing(made()) + "\n")
    tool.PICTURE.unlink()
    start(monkeypatch, "--write-only")
    assert tool.PAGE.read_text() == page
    assert tool.PICTURE.exists()


def test_an_interrupted_run_is_completed(place, monkeypatch):
    performed = []

    def perform(part, folder):
        performed.append(part)
        if len(performed) == 3:
            raise KeyboardInterrupt
        return made_part(part, MILLISECONDS)

    monkeypatch.setattr(tool, "perform", perform)
    with pytest.raises(KeyboardInterrupt):
        start(monkeypatch)
    assert list(figures()) == list(PARTS[:2])
    start(monkeypatch, "--missing")
    assert performed == [*PARTS[:3], *PARTS[2:]]
    assert list(figures()) == list(PARTS)


def test_a_part_is_measured_anew_on_the_same_machine_only(place, monkeypatch):
    start(monkeypatch)
    monkeypatch.setattr(tool, "perform", lambda part, folder: made_part(part, MILLISECONDS | {"eager-2": 7}))
    start(monkeypatch, "--case", "^small/256$")
    assert figures()["small/256"] != made_part("small/256", MILLISECONDS)
    assert figures()["small/1024"] == made_part("small/1024", MILLISECONDS)
    monkeypatch.setattr(tool, "surroundings", lambda: {"machine": {"processor": "that"}, "packages": {}})
    with pytest.raises(SystemExit, match="on another machine"):
        start(monkeypatch, "--case", "^small/256$")
    start(monkeypatch)
    assert list(figures()) == list(PARTS)


def test_a_run_fails_if_a_contestant_did_not_run(place, monkeypatch):
    def perform(part, folder):
        if part == "small/1024":
            raise tool.ProgramFailed("ended by signal 9")
        result = made_part(part, MILLISECONDS)
        if part == "small/256":
            result["contestants"]["ort-1"] = {"not_run": "wrong by 1"}
        return result

    monkeypatch.setattr(tool, "perform", perform)
    with pytest.raises(SystemExit) as found:
        start(monkeypatch)
    assert str(found.value) == "error: small/256, ort-1: wrong by 1\nsmall/1024: ended by signal 9"
    assert list(figures()) == [part for part in PARTS if part != "small/1024"]
    assert "not run: wrong by 1" in tool.PAGE.read_text()


def test_a_trial_writes_nothing(place, monkeypatch, capsys):
    tried = []

    def perform_case(case, folder):
        tried.append((case.name, case.rounds, case.contestants))
        result = made_part(case.name, MILLISECONDS)
        return result | {"contestants": {name: result["contestants"][name] for name in case.contestants}}

    monkeypatch.setattr(tool, "perform_case", perform_case)
    before = sorted(place.iterdir())
    start(monkeypatch, "--case", "^small/(256|cold)", "--only", "evaluator|readable", "--rounds", "2")
    shared = ("readable",)
    assert tried == [
        ("small/256", 2, shared),
        ("small/256/batch-8", 2, shared),
        ("small/256/evaluator", 2, ("evaluator", "readable")),
    ]
    assert sorted(place.iterdir()) == before
    assert "## small/256/evaluator" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [("--case", "no such"), ("--rounds", "0"), ("--case", "install", "--rounds", "2")]
)
def test_wrong_arguments_are_refused(place, monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as found:
        start(monkeypatch, *arguments)
    assert found.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_cases_have_names_of_their_own_and_known_contestants():
    assert len(CASES) == len(list(tool.PARTS)) - len(COLD_STARTS) - 1
    assert {name for case in CASES.values() for name in case.contestants} == set(CONTESTANTS)


# The figures of the page --------------------------------------------------------------------------------------------


def test_the_tables_and_the_picture_are_those_of_the_figures():
    results = json.loads(tool.MEASURED.read_text(encoding="utf-8"))
    for path, tables_of in ((tool.PAGE, tables.sections), (tool.README, tables.summary)):
        page = path.read_text(encoding="utf-8")
        assert tool.MARKS.filled(page, tables_of(results)) == page, "run tools/benchmark.py --write-only"
        assert tool.MARKS.filled(page, tables_of(made())) != page
    assert picture.svg(results) == tool.PICTURE.read_text(encoding="utf-8"), "run tools/benchmark.py --write-only"


def test_the_figures_are_those_of_a_whole_run():
    parts = json.loads(tool.MEASURED.read_text(encoding="utf-8"))["parts"]
    assert list(parts) == list(PARTS), "run tools/benchmark.py, or with --missing"
    for name, case in CASES.items():
        assert parts[name]["rounds"] == case.rounds
        assert list(parts[name]["contestants"]) == list(case.contestants)
        assert all(len(one["seconds"]) == case.rounds for one in parts[name]["contestants"].values())
        assert all(one["error"] <= contest.TOLERANCE for one in parts[name]["contestants"].values())
