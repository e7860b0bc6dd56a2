"""predict: text, one document, lines; into a file; failures and interruptions on the way."""

import errno
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import CHELSEA, SHIPPED, codes, files_below, names, run, run_json, run_lines, write_picture
from PIL import Image

import npmobilevit as nm
from npmobilevit import cli, pipeline
from npmobilevit.cli import targets

pytestmark = pytest.mark.usefixtures("clean_environment")


def at_each_result(monkeypatch, do):
    """Call `do` with the number of each result, from 1, when it is there and has not been reported."""
    stream = nm.Pipeline.stream_predictions

    def watched(self, images, **options):
        for number, result in enumerate(stream(self, images, **options), 1):
            do(number)
            yield result

    monkeypatch.setattr(nm.Pipeline, "stream_predictions", watched)


def end_at(monkeypatch, last, raised):
    """Raise in place of a result."""

    def fail(number):
        if number == last:
            raise raised

    at_each_result(monkeypatch, fail)


# Text


def test_text_names_the_model_the_picture_and_five_classes(capsys):
    code, out, err = run(capsys, "predict", CHELSEA, *SHIPPED)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[:2] == ["model cifar10-xx-small (10 labels)", CHELSEA]
    assert len(lines) == 7
    score, label, bar = lines[2].split()
    assert label == "cat"
    assert bar == "#" * round(0.3 * float(score.removesuffix("%")))


@pytest.mark.case("123", "good and bad inputs mixed", "results of the good, one line for each bad, exit code 1")
def test_one_bad_picture_does_not_stop_the_others(capsys, pictures, model):
    Path("text.jpg").write_text("<html>not a picture</html>")
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:300])
    Path("folder").mkdir()
    arguments = ["text.jpg", "a.png", "missing.png", "cut.png", "folder", "*.none", "@no.txt", "b.png"]
    code, out, err = run(capsys, "predict", *arguments, *model)
    assert code == 1
    assert [line for line in out.splitlines() if not line.startswith(" ")][1:] == ["a.png", "b.png"]
    assert len(err.splitlines()) == 6
    for line, name in zip(err.splitlines(), ["text.jpg", *arguments[2:7]], strict=True):
        assert line.startswith("error: ")
        assert name.removeprefix("@") in line


# JSON


def test_json_is_one_document_with_all_inputs(capsys):
    code, out, err = run(capsys, "predict", CHELSEA, "missing.png", CHELSEA, "--json", "--top-k", "2", *SHIPPED)
    document = json.loads(out)
    assert code == 1
    assert len(err.splitlines()) == 1
    assert list(document) == ["schema", "version", "model", "results"]
    assert document["schema"] == "npmobilevit.predict/2"
    assert document["version"] == nm.__version__
    assert document["model"] == {"name": "cifar10-xx-small", "revision": None, "precision": "float32"}
    first, failed, again = document["results"]
    assert first == again
    assert list(first) == ["input", "predictions", "plot"]
    assert first["plot"] is None
    assert first["input"] == CHELSEA
    assert [list(p) for p in first["predictions"]] == [["label", "score", "index"]] * 2
    assert first["predictions"][0]["label"] == "cat"
    assert failed["input"] == "missing.png"
    assert sorted(failed["error"]) == ["code", "message"]
    assert f"error: {failed['error']['message']}\n" == err


def test_results_are_those_of_the_library(capsys, pictures, model):
    code, document = run_json(capsys, "predict", *pictures, *model)
    network = nm.load(model[1])
    expected = [network.predict(picture).to_dict()["predictions"] for picture in pictures]
    assert code == 0
    assert [result["predictions"] for result in document["results"]] == expected
    assert len({json.dumps(predictions) for predictions in expected}) == 3  # a mix-up would show


@pytest.mark.case("120", "--top-k above the number of classes", "all classes")
@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (4, 4), (5, 5), (5000, 5), (999999999, 5)])
def test_top_k_is_the_number_of_classes(capsys, pictures, model, top_k, count):
    _, document = run_json(capsys, "predict", "a.png", "--top-k", str(top_k), *model)
    assert len(document["results"][0]["predictions"]) == count


def test_lines_can_be_understood_without_the_others(capsys, pictures, model):
    code, lines = run_lines(capsys, "predict", "a.png", "missing.png", "b.png", *model)
    _, document = run_json(capsys, "predict", "a.png", "missing.png", "b.png", *model)
    assert code == 1
    assert [list(line) for line in lines] == [
        ["schema", "model", "input", *keys] for keys in (["predictions", "plot"], ["error"], ["predictions", "plot"])
    ]
    for line, result in zip(lines, document["results"], strict=True):
        assert line == {"schema": document["schema"], "model": document["model"], **result}


@pytest.mark.parametrize("form", [[], ["--jsonl"]])
def test_results_leave_the_process_before_the_next_picture_is_done(pictures, model, monkeypatch, form):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))
    seen = []
    at_each_result(monkeypatch, lambda _: seen.append(raw.getvalue().count(b".png")))
    assert cli.main(["predict", *pictures, *form, *model]) == 0
    assert seen == [0, 1, 2]


# Options of reading


def test_the_options_of_reading_reach_the_picture(capsys, tmp_path, model):
    transparent, deep = tmp_path / "clear.png", tmp_path / "deep.png"
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(transparent)
    Image.new("I;16", (40, 40), 1000).save(deep)
    network = nm.load(model[1])

    def first(picture, *options):
        code, document = run_json(capsys, "predict", picture, *options, *model)
        assert code == 0, document
        return document["results"][0]["predictions"][0]["score"]

    for picture, options, reading in [
        (transparent, [], {}),
        (transparent, ["--background", "blue"], {"background": "blue"}),
        (deep, [], {}),
        (deep, ["--value-range", "0", "2e3"], {"value_range": (0.0, 2000.0)}),
        (deep, ["--value-range", "-1000", "1000.5"], {"value_range": (-1000.0, 1000.5)}),
    ]:
        assert first(picture, *options) == network.predict(picture, **reading)[0].score
    scores = [first(transparent), first(transparent, "--background", "blue"), first(deep)]
    assert len({*scores, first(deep, "--value-range", "0", "2e3")}) == 4


def test_max_pixels_refuses_larger_pictures(capsys, pictures, model):
    assert codes(run_json(capsys, "predict", "a.png", "--max-pixels", "191", *model)[1]["results"]) == [
        "image-too-large"
    ]
    assert codes(run_json(capsys, "predict", "a.png", "--max-pixels", "192", *model)[1]["results"]) == [None]


# Into a file


@pytest.mark.parametrize("form", [[], ["--json"], ["--jsonl"]])
def test_output_takes_what_would_go_to_stdout(capsys, pictures, model, form):
    code, expected, said = run(capsys, "predict", "a.png", "missing.png", *form, *model)
    file = Path("new", "folder", "result.txt")
    assert run(capsys, "predict", "a.png", "missing.png", *form, *model, "-o", file) == (code, "", said)
    assert file.read_text(encoding="utf-8") == expected
    assert files_below("new") == ["folder/result.txt"]


@pytest.mark.case("119", "the output file exists", "exit code 2 before any work, the file as it was; --force replaces")
def test_an_existing_output_is_not_replaced_unless_forced(capsys, pictures, model, monkeypatch):
    Path("r.json").write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "load", None)  # before any work
        code, document = run_json(capsys, "predict", "a.png", "-o", "r.json", *model)
    assert (code, document["error"]["code"]) == (2, "output-exists")
    assert Path("r.json").read_text() == "old"
    Path("link.json").symlink_to("nowhere")
    assert run_json(capsys, "predict", "a.png", "-o", "link.json", *model)[1]["error"]["code"] == "output-exists"
    assert run(capsys, "predict", "a.png", "--json", "--force", "-o", "r.json", *model) == (0, "", "")
    assert names(json.loads(Path("r.json").read_text())["results"]) == ["a.png"]


@pytest.mark.case(
    "119", "the output file is an input, by any name", "exit code 2 even with --force, the input as it was"
)
@pytest.mark.parametrize("output", ["a.png", "./sub/../a.png", "link.png", "hard.png", "list.txt", "other.png"])
def test_an_input_is_never_written_over(capsys, pictures, model, output):
    Path("sub").mkdir()
    Path("link.png").symlink_to("a.png")
    Path("hard.png").hardlink_to("a.png")
    Path("other.png").symlink_to("b.png")
    Path("list.txt").write_text("b.png\n")
    before = {name: Path(name).read_bytes() for name in files_below(".")}
    code, document = run_json(capsys, "predict", "a.png", "@list.txt", "-o", output, "--force", *model)
    assert (code, document["error"]["code"]) == (2, "output-is-input")
    assert {name: Path(name).read_bytes() for name in files_below(".")} == before
    assert Path(output).is_symlink() == (output in ("link.png", "other.png"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files")
@pytest.mark.case("119", "the output is a folder, a device, or below a file", "exit code 2, or 1 if it cannot be made")
@pytest.mark.parametrize(
    ("output", "code", "name"),
    [
        ("folder", 2, "output-is-folder"),
        ("new/", 2, "output-is-folder"),
        ("pipe", 2, "output-not-file"),  # not a real device, which a mistake would replace
        ("b.png/x/r.json", 1, "output-unwritable"),
    ],
)
def test_outputs_that_are_no_files_are_refused(capsys, pictures, model, output, code, name):
    Path("folder").mkdir()
    os.mkfifo("pipe")
    before = files_below(".")
    assert run_json(capsys, "predict", "a.png", "-o", output, "--force", *model)[0] == code
    _, out, err = run(capsys, "predict", "a.png", "-o", output, "--force", *model)
    assert (out, len(err.splitlines())) == ("", 1)
    assert run_json(capsys, "predict", "a.png", "-o", output, "--force", *model)[1]["error"]["code"] == name
    assert files_below(".") == before
    assert Path("pipe").is_fifo()


@pytest.mark.case("118", "a full disk under the output file", "one error line, exit code 1, no half file")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENAMETOOLONG])
def test_an_output_that_cannot_be_written_is_one_line(capsys, pictures, model, monkeypatch, number):
    def fail(path, data):
        raise OSError(number, "for a reason")

    monkeypatch.setattr(targets, "write_atomically", fail)
    code, out, err = run(capsys, "predict", "a.png", "-o", "r.txt", *model)
    assert (code, out, err) == (1, "", "error: cannot write 'r.txt': for a reason\n")
    assert run_json(capsys, "predict", "a.png", "-o", "r.txt", *model)[1]["error"]["code"] == "output-unwritable"
    assert files_below(".") == pictures


def test_a_folder_without_permission_is_found_out_before_any_work(capsys, pictures, model, monkeypatch):
    monkeypatch.setattr(targets.os, "access", lambda path, mode: path != "locked")
    monkeypatch.setattr(pipeline, "load", None)
    Path("locked").mkdir()
    code, _, err = run(capsys, "predict", "a.png", "-o", "locked/sub/r.txt", *model)
    assert (code, err) == (1, "error: cannot write into folder 'locked': no permission\n")


# Plots


def test_the_plot_of_one_picture_goes_into_a_file(capsys, pictures, model):
    code, document = run_json(capsys, "predict", "a.png", "--save-plot", "new/p.PNG", "--top-k", "3", *model)
    assert (code, document["results"][0]["plot"]) == (0, "new/p.PNG")
    assert files_below(".") == [*pictures, "new/p.PNG"]
    with Image.open("new/p.PNG") as plot:
        assert (plot.format, plot.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(plot), nm.load(model[1]).predict("a.png", top_k=3).plot())


def test_the_text_names_the_plot(capsys, pictures, model):
    _, plain, _ = run(capsys, "predict", "a.png", *model)
    _, out, _ = run(capsys, "predict", "a.png", "--save-plot", "p.png", *model)
    assert out == plain + "  plot: p.png\n"


@pytest.mark.parametrize(("suffix", "form"), [("jpg", "JPEG"), ("JPEG", "JPEG"), ("webp", "WEBP")])
def test_the_suffix_says_the_format_of_a_plot(capsys, pictures, model, suffix, form):
    assert run(capsys, "predict", "a.png", "--save-plot", f"p.{suffix}", *model)[0] == 0
    with Image.open(f"p.{suffix}") as plot:
        difference = np.asarray(plot.convert("RGB")).astype(int) - nm.load(model[1]).predict("a.png").plot()
        assert plot.format == form
    assert np.abs(difference).mean() < 5


@pytest.mark.parametrize("path", ["p.bmp", "p", "p.gif"])
def test_other_formats_of_a_plot_are_refused(capsys, pictures, model, path):
    code, document = run_json(capsys, "predict", "a.png", "--save-plot", path, *model)
    assert (code, document["error"]["code"]) == (2, "output-suffix")
    assert files_below(".") == pictures


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.png", "b.png"], ["a.png.plot.png", "b.png.plot.png"]),
        (["in", "-r"], ["a.png.plot.png", "sub/a.jpg.plot.png"]),
        (["in/**/*.jpg"], ["sub/a.jpg.plot.png"]),
    ],
)
def test_plots_of_several_pictures_go_into_a_folder(capsys, pictures, model, arguments, expected):
    write_picture(Path("in/a.png"))
    write_picture(Path("in/sub/a.jpg"))
    code, document = run_json(capsys, "predict", *arguments, "--save-plot", "out", *model)
    assert code == 0
    assert files_below("out") == expected
    assert [result["plot"] for result in document["results"]] == [f"out/{name}" for name in expected]


def test_plots_are_no_pictures_to_predict(capsys, pictures, model):
    Path("in").mkdir()
    Path("a.png").rename("in/a.png")
    arguments = ["predict", "in", "--save-plot", "in", "--force", *model]
    assert run(capsys, *arguments)[::2] == (0, "")
    assert run(capsys, *arguments)[::2] == (0, "note: left out 1 file whose names are not those of pictures\n")
    assert files_below("in") == ["a.png", "a.png.plot.png"]


def test_an_existing_plot_is_kept_unless_forced(capsys, pictures, model, monkeypatch):
    """The message names no option that predict lacks."""
    Path("a.png.plot.png").write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "load", None)  # before any work
        code, document = run_json(capsys, "predict", "a.png", "--save-plot", "a.png.plot.png", *model)
    assert (code, document["error"]["code"]) == (2, "output-exists")
    assert document["error"]["message"] == "'a.png.plot.png' exists already; replace it with --force"
    code, document = run_json(capsys, "predict", "a.png", "b.png", "--save-plot", ".", *model)
    assert (code, codes(document["results"])) == (1, ["output-exists", None])
    assert "--skip-existing" not in document["results"][0]["error"]["message"]
    assert Path("a.png.plot.png").read_text() == "old"
    assert run(capsys, "predict", "a.png", "--save-plot", "a.png.plot.png", "--force", *model)[0] == 0
    with Image.open("a.png.plot.png") as plot:
        assert plot.format == "PNG"


def test_a_plot_never_replaces_an_input(capsys, pictures, model):
    Path("c.png").rename("a.png.plot.png")
    Path("hard.png").hardlink_to("b.png")
    before = {name: Path(name).read_bytes() for name in files_below(".")}
    for path in ("a.png", "./a.png"):
        code, document = run_json(capsys, "predict", "a.png", "--save-plot", path, "--force", *model)
        assert (code, document["error"]["code"]) == (2, "output-is-input")
    arguments = ["predict", "a.png", "a.png.plot.png", "--save-plot", "./", "--force", *model]
    code, document = run_json(capsys, *arguments)
    assert (code, codes(document["results"])) == (1, ["output-is-input", None])
    assert {name: Path(name).read_bytes() for name in before} == before


def test_report_and_plot_do_not_share_a_file(capsys, pictures, model):
    code, document = run_json(capsys, "predict", "a.png", "-o", "x.png", "--save-plot", "./x.png", *model)
    assert (code, document["error"]["code"]) == (2, "output-twice")
    report = ["-o", "out/a.png.plot.png", "--json"]
    assert run(capsys, "predict", "a.png", "b.png", *report, "--save-plot", "out", *model)[0] == 1
    results = json.loads(Path("out/a.png.plot.png").read_text())["results"]
    assert codes(results) == ["output-twice", None]
    assert files_below("out") == ["a.png.plot.png", "b.png.plot.png"]


def test_a_full_disk_under_the_plots_ends_the_batch(capsys, pictures, model, monkeypatch):
    write = targets.write_atomically

    def fail(path, data):
        if path.name.startswith("b.png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(targets, "write_atomically", fail)
    code, out, err = run(capsys, "predict", *pictures, "--save-plot", "out", "--json", *model)
    document = json.loads(out)
    assert (code, err) == (1, "error: cannot write 'out/b.png.plot.png': No space left on device\n")
    assert names(document["results"]) == ["a.png"]
    assert files_below("out") == ["a.png.plot.png"]


# Interruptions


@pytest.mark.case("122", "Ctrl-C in the middle of a batch", "the results so far, a last line, exit code 130")
@pytest.mark.case("124", "Ctrl-C with --json", "one JSON document with the results so far and the error")
def test_an_interrupted_batch_keeps_its_results(capsys, pictures, model, monkeypatch):
    for form in ("--json", "--jsonl", None):
        with monkeypatch.context() as patched:
            end_at(patched, 3, KeyboardInterrupt)
            code, out, err = run(capsys, "predict", "missing.png", *pictures, *[form] * bool(form), *model)
        assert code == 130
        assert err.splitlines()[-1] == "error: interrupted after 2 of 4 pictures"
        assert len(err.splitlines()) == 2
        error = {"code": "interrupted", "message": "interrupted after 2 of 4 pictures"}
        if form == "--json":
            document = json.loads(out)
            assert list(document) == ["schema", "version", "model", "results", "error"]
            assert names(document["results"]) == ["missing.png", "a.png"]
            assert document["error"] == error
        elif form == "--jsonl":
            first, second, last = map(json.loads, out.splitlines())
            assert names([first, second]) == ["missing.png", "a.png"]
            assert list(last) == ["schema", "model", "error"]
            assert last["error"] == error
        else:
            assert [line for line in out.splitlines()[1:] if not line.startswith(" ")] == ["a.png"]


@pytest.mark.case("122", "Ctrl-C with -o FILE", "the file holds the results so far")
def test_an_interrupted_batch_writes_its_file(capsys, pictures, model, monkeypatch):
    end_at(monkeypatch, 3, KeyboardInterrupt)
    code, out, err = run(capsys, "predict", *pictures, "--json", "-o", "r.json", *model)
    assert (code, out, err) == (130, "", "error: interrupted after 2 of 3 pictures\n")
    document = json.loads(Path("r.json").read_text())
    assert names(document["results"]) == ["a.png", "b.png"]
    assert document["error"]["code"] == "interrupted"
    assert files_below(".") == [*pictures, "r.json"]


@pytest.mark.parametrize(
    ("raised", "code", "name"),
    [
        (MemoryError(), 1, "out-of-memory"),
        (nm.WeightsError("the weights give NaN", "logits-not-finite"), 3, "logits-not-finite"),
    ],
)
def test_what_ends_a_batch_is_said_in_its_document(capsys, pictures, model, monkeypatch, raised, code, name):
    end_at(monkeypatch, 2, raised)
    actual, out, err = run(capsys, "predict", *pictures, "--json", *model)
    document = json.loads(out)
    assert actual == code
    assert names(document["results"]) == ["a.png"]
    assert document["error"]["code"] == name
    assert len(err.splitlines()) == 1


def test_a_long_batch_ends_with_how_many_failed(capsys, pictures, model):
    names = [f"missing-{i}.png" for i in range(11)]
    assert run(capsys, "predict", *names, *model)[2].splitlines()[-1] == "note: 11 of 11 inputs failed"
    assert "note: " not in run(capsys, "predict", *names[:10], *model)[2]


def test_messages_name_the_options_of_the_command(capsys, pictures, model):
    Image.fromarray(np.full((4, 4), 7, np.int32)).save("deep.tiff")
    err = run(capsys, "predict", "deep.tiff", *model)[2]
    assert "--value-range" in err
    assert "value_range" not in err
    assert "--max-pixels" in run(capsys, "predict", "deep.tiff", "--max-pixels", "1", *model)[2]


@pytest.mark.parametrize("command", [["predict"], ["ranges"], ["explain", "-o", "page.html"]])
def test_the_limit_of_the_networks_pixels_is_an_option_wherever_its_error_names_it(capsys, picture, model, command):
    code, _, err = run(capsys, *command, picture, *model, "--max-network-pixels", "1000")
    assert code == 1
    assert "more than the limit --max-network-pixels of 1,000" in err
    assert run(capsys, *command, picture, *model, "--max-network-pixels", "1024")[0] == 0
