"""ranges: which values the taps take, in three forms; test vectors; failures and interruptions on the way."""

import contextlib
import csv
import dataclasses
import errno
import io
import json
import re
from pathlib import Path

import networks
import numpy as np
import pytest
from commandline import codes, files_below, names, run, run_json, write_picture

import npmobilevit as nm
from npmobilevit import cli
from npmobilevit.cli import targets
from npmobilevit.fixed_point import QFormat
from npmobilevit.validation import check, read_candidate

pytestmark = pytest.mark.usefixtures("clean_environment")

STEM = "mobilevit.conv_stem"


def all_values(model, pictures):
    """All values of every tap."""
    loaded = nm.load(model[1])
    taps = [loaded.network.taps(loaded.pixel_values(picture)) for picture in pictures]
    return {name: np.stack([values[name] for values in taps]) for name in taps[0]}


def test_the_document_has_every_tap_and_parameter(capsys, pictures, model):
    code, document = run_json(capsys, "ranges", *pictures, *model, "--percentile", "99")
    assert code == 0
    assert list(document) == ["schema", "version", "model", "results", "pictures", "percentiles", "ranges"]
    assert document["schema"] == "npmobilevit.ranges/1"
    assert (document["pictures"], document["percentiles"]) == (3, [1.0, 99.0])
    assert document["results"] == [{"input": name} for name in pictures]
    expected = all_values(model, pictures)
    parameters = nm.load(model[1]).network.parameters()
    rows = document["ranges"]
    assert [row["name"] for row in rows if row["kind"] == "tap"] == list(expected)
    assert [row["name"] for row in rows if row["kind"] == "parameter"] == list(parameters)
    for row in rows:
        x = (expected if row["kind"] == "tap" else parameters)[row["name"]].astype(np.float64)
        assert (row["values"], row["min"], row["max"]) == (x.size, x.min(), x.max())
        assert x.min() <= row["lower"] <= np.percentile(x, 1, method="lower")
        assert np.percentile(x, 99, method="higher") <= row["upper"] <= x.max()
        for key, limits in (("all", (x.min(), x.max())), ("clipped", (row["lower"], row["upper"]))):
            for width in (8, 16):
                format = QFormat.holding(width, *map(float, limits))
                parts = {"integer_bits": format.integer_bits, "fraction": format.fraction, "step": format.step}
                assert row[key][f"int{width}"] == parts


def test_csv_has_the_same(capsys, pictures, model):
    _, document = run_json(capsys, "ranges", *pictures, *model)
    code, out, err = run(capsys, "ranges", *pictures, *model, "--csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == len(document["ranges"])
    for row, expected in zip(rows, document["ranges"], strict=True):
        assert row["name"] == expected["name"]
        assert [float(row[key]) for key in ("min", "lower", "upper", "max")] == [
            expected[key] for key in ("min", "lower", "upper", "max")
        ]
        assert int(row["all_int8_m"]) == expected["all"]["int8"]["integer_bits"]
        assert int(row["clipped_int16_n"]) == expected["clipped"]["int16"]["fraction"]


def test_text_is_a_table(capsys, pictures, model):
    code, out, err = run(capsys, "ranges", "a.png", *model, "--taps", "logits,mobilevit.conv_stem.convolution")
    head, blank, columns, *lines = out.splitlines()
    assert (code, err, blank) == (0, "", "")
    assert head == f"model {model[1]} (1 picture)"
    assert " ".join(columns.split()) == "min 0.1% 99.9% max int8 int16 int8 clipped int16 clipped"
    assert [line.split()[0] for line in lines] == [f"{STEM}.convolution", "logits", f"{STEM}.convolution.weight"]
    x = all_values(model, ["a.png"])["logits"]
    assert lines[1].split()[1] == f"{x.min():.6g}"
    assert lines[1].split()[5] == str(QFormat.holding(8, float(x.min()), float(x.max())))


@pytest.mark.parametrize(("taps", "count"), [("all", 285), ("stages", 9), ("blocks", 41)])
def test_taps_are_chosen(capsys, pictures, model, taps, count):
    _, document = run_json(capsys, "ranges", "a.png", *model, "--taps", taps)
    found = [row["name"] for row in document["ranges"] if row["kind"] == "tap"]
    assert len(found) == count if taps != "all" else len(found) == len(all_values(model, ["a.png"]))


def test_spaces_in_lists_are_of_no_meaning(capsys, pictures, model):
    for taps in ("logits,pixel_values", "stages"):
        expected = run(capsys, "ranges", "a.png", *model, "--taps", taps)
        assert expected[0] == 0
        assert run(capsys, "ranges", "a.png", *model, "--taps", f" {taps.replace(',', ' , ')} ") == expected
    layers = f"{STEM} , mobilevit.encoder.layer.2.fusion.convolution"
    assert run(capsys, "ranges", "a.png", *model, "--export", "v", "--layers", layers)[0] == 0
    assert sorted(json.loads(Path("v/layers.json").read_text())["layers"]) == [STEM, "mobilevit.encoder.layer.2.fusion"]


# Failures and interruptions


@pytest.mark.case("166", "ranges: pictures that are none among others", "the ranges of the others, exit code 1")
def test_one_bad_picture_does_not_stop_the_others(capsys, pictures, model):
    Path("text.png").write_text("no picture")
    model = [*model, "--taps", "stages"]
    _, good = run_json(capsys, "ranges", "a.png", "b.png", *model)
    code, document = run_json(capsys, "ranges", "text.png", "a.png", "missing.png", "b.png", "@no.txt", *model)
    assert code == 1
    assert names(document["results"]) == ["text.png", "a.png", "missing.png", "b.png", "@no.txt"]
    assert [found is None for found in codes(document["results"])] == [False, True, False, True, False]
    assert document["ranges"] == good["ranges"]
    assert document["pictures"] == 2
    code, out, err = run(capsys, "ranges", "text.png", "a.png", *model, "--csv")
    assert (code, len(err.splitlines())) == (1, 1)
    assert out.startswith("name,kind,values,")


@pytest.mark.parametrize("form", [[], ["--csv"]])
def test_without_any_picture_there_is_no_table_and_no_file(capsys, pictures, model, form):
    Path("text.png").write_text("no picture")
    Path("old.txt").write_text("old")
    before = files_below(".")
    for inputs in (["missing"], ["text.png", "missing"]):
        for output in ([], ["-o", "r.csv"], ["-o", "old.txt", "--force"]):
            code, out, err = run(capsys, "ranges", *inputs, *model, *form, *output)
            assert (code, out) == (1, "")
            assert [line.split(":")[0] for line in err.splitlines()] == ["error"] * len(inputs)
            assert "missing" in err.splitlines()[-1]
    code, out, err = run(capsys, "ranges", "missing", *model, *form, "--export", "v", "--layers", STEM)
    assert (code, out, err.splitlines()[1:]) == (1, "", ["note: no test vectors, for no picture could be used"])
    assert files_below(".") == before
    assert Path("old.txt").read_text() == "old"


def test_without_any_picture_the_document_has_the_errors(capsys, pictures, model):
    code, document = run_json(capsys, "ranges", "missing.png", *model, "--export", "v", "--layers", STEM)
    assert (code, document["pictures"], document["ranges"]) == (1, 0, [])
    assert list(document) == ["schema", "version", "model", "results", "pictures", "percentiles", "ranges"]
    assert [found is None for found in codes(document["results"])] == [False]
    assert files_below(".") == pictures
    assert run(capsys, "ranges", "missing.png", *model, "--json", "-o", "r.json")[:2] == (1, "")
    assert json.loads(Path("r.json").read_text()) == document


@pytest.mark.parametrize("form", ["--json", None])
def test_an_interruption_before_the_first_picture_leaves_no_table(capsys, pictures, model, monkeypatch, form):
    interrupt_at(monkeypatch, 1)
    code, out, err = run(capsys, "ranges", *pictures, *model, *([form] if form else ["-o", "r.txt"]))
    assert (code, err) == (130, "error: interrupted after 0 of 3 pictures\n")
    assert (json.loads(out)["ranges"] == []) if form else (out == "")
    assert files_below(".") == pictures


def interrupt_at(monkeypatch, number, raised=KeyboardInterrupt):
    """Raise in the midst of the network, at some picture."""
    from npmobilevit.fixed_point import ranges

    calls = []

    def counted(network, pixel_values, wanted):
        calls.append(0)
        found = ranges.tap_ranges(network, pixel_values, wanted)
        if len(calls) == number:
            raise raised
        return found

    monkeypatch.setattr("npmobilevit.fixed_point.tap_ranges", counted)


@pytest.mark.case("167", "ranges: Ctrl-C", "the ranges of the pictures so far, exit code 130, no test vectors")
@pytest.mark.parametrize("form", ["--json", "--csv", None])
def test_an_interruption_leaves_what_there_is(capsys, pictures, model, monkeypatch, form):
    forms = ["--taps", "stages", *([form] if form else [])]
    _, expected, _ = run(capsys, "ranges", "a.png", "b.png", *model, *forms)
    interrupt_at(monkeypatch, 3)
    arguments = ["ranges", *pictures, *model, *forms, "--export", "v", "--layers", STEM]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (130, "error: interrupted after 2 of 3 pictures\n")
    if form == "--json":
        document = json.loads(out)
        assert document["error"] == {"code": "interrupted", "message": "interrupted after 2 of 3 pictures"}
        assert document["ranges"] == json.loads(expected)["ranges"]
    else:
        assert out == expected
    assert files_below(".") == pictures


@pytest.mark.parametrize(("raised", "code"), [(MemoryError(), 1), (nm.WeightsError("NaN", "tap-not-finite"), 3)])
def test_what_ends_a_batch_is_said_in_its_document(capsys, pictures, model, monkeypatch, raised, code):
    interrupt_at(monkeypatch, 2, raised)
    actual, document = run_json(capsys, "ranges", *pictures, *model)
    assert (actual, document["pictures"]) == (code, 1)
    assert document["error"]["code"] in ("out-of-memory", "tap-not-finite")


def test_output_takes_what_would_go_to_stdout(capsys, pictures, model):
    for forms in ([], ["--json"], ["--csv"]):
        forms = ["--taps", "stages", *forms]
        code, expected, _ = run(capsys, "ranges", *pictures, *model, *forms)
        file = f"new/{forms[-1]}"
        assert run(capsys, "ranges", *pictures, *model, *forms, "-o", file) == (code, "", "")
        assert Path(file).read_text() == expected
    assert run_json(capsys, "ranges", "a.png", *model, "-o", file)[1]["error"]["code"] == "output-exists"
    assert (
        run_json(capsys, "ranges", "a.png", *model, "-o", "a.png", "--force")[1]["error"]["code"] == "output-is-input"
    )


@pytest.mark.case("168", "ranges: wrong options, unknown names, outputs that cannot be", "one line, and a code")
@pytest.mark.parametrize(
    ("arguments", "code", "name", "said"),
    [
        (["--taps", "lgits"], 2, "tap-unknown", "'logits'"),
        (["--taps", "blcks"], 2, "tap-unknown", "all, blocks or stages"),
        (["--taps", ""], 2, "tap-unknown", "''"),
        (["--percentile", "40"], 2, "usage", "50 to 100"),
        (["--percentile", "nan"], 2, "usage", "50 to 100"),
        (["--json", "--csv"], 2, "usage", "--csv"),
        (["--layers", STEM], 2, "usage", "--export"),
        (["--width", "16"], 2, "usage", "--export"),
        (["--export", "v"], 2, "usage", "--layers"),
        (["--export", "v", "--layers", "mobilevit.conv_stm"], 2, "layer-unknown", f"'{STEM}'"),
        (["--export", "v", "--layers", "stem"], 2, "layer-unknown", "`npmobilevit info --layers` lists them"),
        (["--export", "v", "--layers", "classifier"], 2, "layer-input", "classifier"),
        (["--export", "v", "--layers", STEM, "--width", "12"], 2, "usage", "16"),
        (["--export", "a.png", "--layers", STEM], 2, "output-not-folder", "a.png"),
        (["--export", ".", "--layers", STEM], 2, "output-exists", "--force"),
        (["--export", "a.png/v", "--layers", STEM], 1, "output-unwritable", "a.png"),
        (["-o", "a.png/x.csv"], 1, "output-unwritable", "a.png"),
        (["--export", "v", "--layers", STEM, "-o", "v/layers.json"], 2, "output-twice", "'v'"),
        (["--export", "v", "--layers", STEM, "-o", "v"], 2, "output-twice", "'v'"),
        (["--export", "v", "--layers", STEM, "-o", "new/../v/./recorded/x"], 2, "output-twice", "'v'"),
        (["--export", "v/w", "--layers", STEM, "-o", "v"], 2, "output-twice", "'v/w'"),
        (["--model", "no such model"], 3, None, "no such model"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(capsys, pictures, model, monkeypatch, arguments, code, name, said):
    if "--model" not in arguments:
        interrupt_at(monkeypatch, 1, AssertionError("no picture may be looked at"))
    actual, out, err = run(capsys, "ranges", "a.png", *model, *arguments)
    assert (actual, out if "--json" not in arguments else "") == (code, "")
    assert len(err.splitlines()) == 1
    assert said in err
    if "--json" not in arguments:
        actual, document = run_json(capsys, "ranges", "a.png", *model, *arguments)
        assert actual == code
        assert document["schema"] == "npmobilevit.ranges/1"
        assert name is None or document["error"]["code"] == name
    assert files_below(".") == pictures


def test_an_output_may_not_lead_into_the_vectors_by_a_link(capsys, pictures, model):
    Path("v").mkdir()
    Path("link").symlink_to("v")
    arguments = ["ranges", "a.png", *model, "--export", "v", "--layers", STEM]
    code, document = run_json(capsys, *arguments, "-o", "link/ranges.json")
    assert (code, document["error"]["code"]) == (2, "output-twice")
    assert files_below(".") == pictures
    assert run(capsys, *arguments, "-o", "v.json")[0] == 0  # a name that begins alike is another


def saved(folder, config, processor, head="classification", change=lambda weights: None):
    """Options that name a checkpoint, whose weights were changed."""
    weights = networks.random_weights(config, head)
    change(weights)
    networks.MODELS[head](config, weights).save_pretrained(folder)
    processor.save_pretrained(folder)
    return ["--model", str(folder)]


@pytest.mark.case("168", "ranges: a model that takes no pictures", "one line before the first picture, exit code 2")
@pytest.mark.parametrize(
    ("channels", "do_rescale", "said"), [(1, True, "1 channels"), (4, True, "4 channels"), (3, False, "do_rescale")]
)
def test_a_model_that_takes_no_pictures_is_told_at_once(
    capsys, pictures, tmp_path, processor, monkeypatch, channels, do_rescale, said
):
    processor = dataclasses.replace(processor, do_rescale=do_rescale)
    model = saved(tmp_path / "m", networks.tiny(num_channels=channels), processor)
    interrupt_at(monkeypatch, 1, AssertionError("no picture may be looked at"))
    code, out, err = run(capsys, "ranges", "a.png", *model)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    code, document = run_json(capsys, "ranges", "a.png", *model)
    assert (code, document["error"]["code"]) == (2, "takes-no-pictures")
    assert run(capsys, "predict", "a.png", *model)[0] == code


def overflowing(weights):
    """Large numbers in place of all weights but the variances."""
    for name, x in weights.items():
        if not name.endswith("running_var"):
            x[...] = np.sign(x) * 3e38


@pytest.mark.parametrize("command", ["predict", "segment", "explain", "ranges"])
def test_weights_that_overflow_are_one_line(capsys, pictures, tmp_path, processor, command):
    """Without NumPy's warnings, which are errors here."""
    head = "segmentation" if command == "segment" else "classification"
    model = saved(tmp_path / "m", networks.tiny(), processor, head, overflowing)
    page = ["-o", "page.html"] if command == "explain" else []
    code, _, err = run(capsys, command, "a.png", *model, *page)
    assert (code, len(err.splitlines())) == (3, 1)
    assert re.match("error: .*NaN or infinity", err)


def test_what_overflows_behind_the_layers_of_the_vectors_is_of_no_consequence(capsys, pictures, tmp_path, processor):
    def late(weights):
        weights["mobilevit.conv_1x1_exp.normalization.weight"][...] = 1e30
        weights["classifier.weight"][...] = 3e38

    model = saved(tmp_path / "m", networks.tiny(), processor, change=late)
    arguments = ["ranges", "a.png", *model, "--taps", STEM, "--export", "v", "--layers", STEM]
    code, _, err = run(capsys, *arguments)
    assert (code, err) == (0, "note: wrote 8 files below v\n")


def test_a_segmenter_is_measured_on_the_whole_picture(capsys, tmp_path, monkeypatch, segmenter_folder):
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "a.png")  # 12 x 16 pixels
    code, document = run_json(capsys, "ranges", "a.png", "--model", segmenter_folder, "--taps", "pixel_values")
    assert (code, document["ranges"][0]["values"]) == (0, 3 * 36 * 48)
    whole = nm.load(segmenter_folder).without_crop().pixel_values("a.png")
    assert (document["ranges"][0]["min"], document["ranges"][0]["max"]) == (whole.min(), whole.max())


def test_a_full_disk_under_the_output_is_one_line(capsys, pictures, model, monkeypatch):
    def fail(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(targets, "write_atomically", fail)
    code, out, err = run(capsys, "ranges", "a.png", *model, "-o", "r.txt")
    assert (code, out, err) == (1, "", "error: cannot write 'r.txt': No space left on device\n")


# Test vectors


@pytest.mark.parametrize("width", ["8", "16"])
def test_vectors_of_the_first_picture_in_formats_of_all(capsys, pictures, model, width):
    options = ["--export", "v", "--layers", f"{STEM},mobilevit.encoder.layer.2.fusion", "--width", width]
    code, _, err = run(capsys, "ranges", "missing.png", *pictures, *model, "--rounding", "truncate", *options)
    assert (code, err.splitlines()[-1]) == (1, "note: wrote 12 files below v")
    own, inputs = read_candidate("v"), read_candidate("v/recorded")
    document = json.loads(Path("v/layers.json").read_text())
    assert (document["width"], document["accumulator"]) == (int(width), {"8": 32, "16": 64}[width])
    assert document["rounding"] == "truncate"
    values = all_values(model, pictures)
    loaded = nm.load(model[1])
    first = loaded.pixel_values("a.png")
    assert np.abs(inputs.tensors["pixel_values"] - first).max() <= inputs.scales["pixel_values"] / 2
    for name, scale in own.scales.items():
        assert scale == QFormat.holding(int(width), float(values[name].min()), float(values[name].max())).step
    assert check("v", loaded, profile="fixed", inputs="v/recorded").passed


def test_chosen_taps_are_recorded_besides(capsys, pictures, model):
    options = ["--export", "v", "--layers", STEM, "--layout", "NHWC", "--taps", "stages"]
    assert run(capsys, "ranges", "a.png", *model, *options)[0] == 0
    manifest = json.loads(Path("v/recorded/manifest.json").read_text())["taps"]
    assert len(manifest) == 9
    assert {entry["layout"] for entry in manifest.values() if len(entry["shape"]) == 4} == {"NHWC"}
    assert json.loads(Path("v/manifest.json").read_text())["parameters"][f"{STEM}.weight"]["layout"] == "OHWI"
    assert run(capsys, "ranges", "a.png", *model, *options)[0] == 2
    assert run(capsys, "ranges", "a.png", *model, *options, "--force")[0] == 0


@pytest.mark.case(
    "168", "ranges: an accumulator that is too narrow for a layer", "the table, and an error that names it"
)
def test_vectors_that_cannot_be_are_told_beside_the_table(capsys, pictures, model):
    options = ["--export", "v", "--layers", STEM, "--width", "16", "--accumulator", "32"]
    code, document = run_json(capsys, "ranges", "a.png", *model, *options)
    assert (code, document["error"]["code"]) == (2, "accumulator-overflow")
    assert STEM in document["error"]["message"]
    assert document["ranges"]
    assert files_below(".") == pictures


@pytest.mark.parametrize("form", [[], ["--csv"]])
def test_what_became_of_the_vectors_is_said_below_the_table(pictures, model, form):
    """On one screen, as stdout and stderr mix there."""
    for width, last in (("16", "error: .*accumulator"), ("8", "note: wrote 7 files below v$")):
        options = ["--export", "v", "--layers", STEM, "--width", width, "--accumulator", "32"]
        screen = io.StringIO()
        with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
            cli.main(["ranges", "a.png", *model, *form, *options])
        lines = screen.getvalue().splitlines()
        assert len(lines) > 100
        assert re.match(last, lines[-1])
        assert not any(re.match("error|note", line) for line in lines[:-1])


def test_a_disk_that_fills_is_told_beside_the_table(capsys, pictures, model, monkeypatch):
    def fail(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("npmobilevit.validation.exports.write_atomically", fail)
    code, document = run_json(capsys, "ranges", "a.png", *model, "--export", "v", "--layers", STEM)
    assert (code, document["error"]["code"]) == (1, "bundle-unwritable")
    assert document["ranges"]
    assert files_below(".") == pictures
