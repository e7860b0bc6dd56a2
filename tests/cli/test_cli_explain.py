"""explain: the page of a picture, and what the command says of it."""

import json
import os
from pathlib import Path

import pytest
from commandline import CHELSEA, files_below, process, run, run_json

import npmobilevit as nm

pytestmark = pytest.mark.usefixtures("clean_environment")


def without_times(html):
    return html.split('<section id="time"')[0]


def test_explain_writes_the_page_and_says_the_answer(capsys, picture, model, classifier_folder):
    code, out, err = run(capsys, "explain", picture, "-o", "new/page.html", *model)
    assert (code, err) == (0, "")
    html = Path("new/page.html").read_text(encoding="ascii")
    page = nm.explain(picture, str(classifier_folder))
    assert " makes of a.png</h1>" in html
    assert without_times(html) == without_times(page.html)
    lines = out.splitlines()
    assert lines[:2] == [f"model {classifier_folder} (5 labels)", "a.png"]
    for line, found in zip(lines[2:7], page.evidence.predictions, strict=True):
        assert line.split()[:2] == [f"{found.score:.1%}", found.label]
    assert lines[7:] == [f"  page: new/page.html ({len(html):,} bytes)"]
    assert files_below(".") == ["a.png", "new/page.html"]


def test_explain_of_a_segmenter(capsys, picture, segmenter_folder):
    code, out, _ = run(capsys, "explain", picture, "-o", "page.html", "--model", segmenter_folder)
    assert code == 0
    expected = nm.segment(picture, str(segmenter_folder))
    assert [line.split()[1] for line in out.splitlines()[2:-1]] == [found.name for found in expected.classes]


def test_explain_json(capsys, picture, model, segmenter_folder):
    code, document = run_json(capsys, "explain", picture, "-o", "page.html", *model)
    assert code == 0
    assert document["schema"] == "npmobilevit.explain/1"
    assert document["bytes"] == os.path.getsize("page.html")
    assert (document["input"], document["output"], document["seen"]) == ("a.png", "page.html", [32, 32])
    assert [found["label"] for found in document["predictions"]] == [p.label for p in nm.predict(picture, model[1])]
    code, document = run_json(capsys, "explain", picture, "-o", "b.html", "--model", segmenter_folder)
    assert code == 0
    assert document["seen"] == [36, 48]
    assert document["classes"] == nm.segment(picture, str(segmenter_folder)).to_dict()["classes"]
    assert "predictions" not in document


@pytest.mark.parametrize(("limit", "large"), [(36 * 48, True), (36 * 48 + 1, False)])
def test_a_large_input_is_announced_before_the_work_begins(
    capsys, picture, segmenter_folder, monkeypatch, limit, large
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("npmobilevit.cli.explain_page.LARGE_INPUT", limit)
    monkeypatch.setattr("npmobilevit.explanation.evidence.look_inside", interrupted)
    code, out, err = run(capsys, "explain", picture, "-o", "page.html", "--model", segmenter_folder)
    note = (
        "note: the network sees 36 x 48 (height x width), 1,728 pixels; the time of attention grows with their square, "
        "so that this may take minutes\n"
    )
    assert (code, out, err) == (130, "", note * large + "error: interrupted\n")


def test_a_picture_that_is_too_large_is_not_announced(capsys, tmp_path, segmenter_folder):
    from PIL import Image

    Image.new("L", (4000, 3)).save(tmp_path / "long.png")
    code, _, err = run(capsys, "explain", tmp_path / "long.png", "-o", tmp_path / "p.html", "--model", segmenter_folder)
    assert code == 1
    assert err.startswith("error: a picture of 3 x 4000 (height x width) would enter the network as 36 x 48000")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["b.HTML", "b.htm"])
def test_names_of_pages(capsys, picture, model, name):
    code, _, _ = run(capsys, "explain", picture, "-o", name, *model)
    assert code == 0
    assert files_below(".") == ["a.png", name]


def test_a_page_that_is_not_named_as_one_is_told_how(capsys, picture, model):
    code, _, err = run(capsys, "explain", picture, "-o", "x.png", *model)
    assert (code, err) == (2, "error: page 'x.png' has to end in .html or .htm\n")


def test_options_of_reading_are_passed_on(capsys, tmp_path, model):
    from PIL import Image

    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    pages = []
    for colour in ("white", "black"):
        target = tmp_path / f"{colour}.html"
        code, _, _ = run(capsys, "explain", tmp_path / "clear.png", "-o", target, "--background", colour, *model)
        assert code == 0
        pages.append(without_times(target.read_text()))
    assert pages[0] != pages[1]
    code, _, err = run(capsys, "explain", CHELSEA, "-o", tmp_path / "c.html", "--max-pixels", "1000", *model)
    assert code == 1
    assert "--max-pixels" in err
    code, _, err = run(capsys, "explain", CHELSEA, "-o", tmp_path / "c.html", "--value-range", "3", "3", *model)
    assert code == 2


def test_a_picture_on_stdin(picture, model, tmp_path):
    with open(picture, "rb") as file:
        done = process("explain", "-", "-o", "page.html", "--json", *model, stdin=file, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["bytes"] == (tmp_path / "page.html").stat().st_size
    assert " makes of a picture</h1>" in (tmp_path / "page.html").read_text()


def test_what_is_there_is_replaced_only_if_asked(capsys, picture, model, tmp_path):
    (tmp_path / "page.html").write_text("old")
    code, out, err = run(capsys, "explain", picture, "-o", "page.html", *model)
    assert (code, out) == (2, "")
    assert err == "error: 'page.html' exists already; replace it with --force\n"
    assert (tmp_path / "page.html").read_text() == "old"
    code, _, _ = run(capsys, "explain", picture, "-o", "page.html", "--force", *model)
    assert code == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000


@pytest.mark.case("171", "explain: wrong pictures, outputs, options and models", "one line, and a code")
@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["missing.png", "-o", "p.html"], 1, "file-missing"),
        (["text.png", "-o", "p.html"], 1, "image-unknown"),
        (["a.png", "-o", "a.png", "--force"], 2, "output-is-input"),
        (["a.png", "-o", "page.png"], 2, "output-suffix"),
        (["a.png", "-o", "page.html.gz"], 2, "output-suffix"),
        (["a.png", "-o", "page"], 2, "output-suffix"),
        (["a.png", "-o", "."], 2, "output-is-folder"),
        (["a.png", "-o", "a.png/p.html"], 1, "output-unwritable"),
        (["a.png", "-o", "x" * 300 + ".html"], 1, "page-unwritable"),
        (["a.png"], 2, "usage"),
        (["a.png", "b.png", "-o", "p.html"], 2, "usage"),
        ([".", "-o", "p.html"], 2, "one-picture"),
        (["*.png", "-o", "p.html"], 2, "one-picture"),
        (["a.png", "-o", "p.html", "--background", "no colour"], 2, "option"),
        (["a.png", "-o", "p.html", "--model", "./nothing"], 3, "checkpoint-not-found"),
    ],
)
def test_errors(capsys, picture, tmp_path, model, arguments, code, name):
    (tmp_path / "text.png").write_text("no picture")
    arguments = arguments if "--model" in arguments else [*arguments, *model]
    found, document = run_json(capsys, "explain", *arguments)
    assert (found, document["error"]["code"]) == (code, name)
    assert document["schema"] == "npmobilevit.explain/1"
    assert not (tmp_path / "p.html").exists()


def test_a_model_without_a_head_is_a_mistake_of_usage(capsys, picture, tmp_path, processor):
    import networks

    networks.make_model(None, precision="float32").save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    code, document = run_json(capsys, "explain", picture, "-o", "p.html", "--model", tmp_path / "base")
    assert (code, document["error"]["code"]) == (2, "not-a-classifier")


def test_an_interrupt_ends_with_130_and_leaves_nothing(capsys, picture, model, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("npmobilevit.explanation.evidence.look_inside", interrupted)
    code, _, err = run(capsys, "explain", picture, "-o", "p.html", *model)
    assert (code, err) == (130, "error: interrupted\n")
    assert files_below(".") == ["a.png"]
