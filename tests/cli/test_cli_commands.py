"""The commands as a whole: usage, help, models that are not to be had, info and taps."""

import csv
import io
import json
import shutil

import pytest
from commandline import CHELSEA, SHIPPED, run, run_json
from PIL import Image

import npmobilevit as nm
from npmobilevit import cli, validation
from npmobilevit.cli import parser, targets
from npmobilevit.cost import cost_table
from npmobilevit.visual import drawing

pytestmark = pytest.mark.usefixtures("clean_environment")

WRONG = [
    ["predict"],
    ["predict", "x.png", "--frobnicate"],
    ["predict", "x.png", "--top", "3"],  # no abbreviations: a later option could begin in the same way
    ["predict", "x.png", "-o", ""],
    ["predict", "x.png", "--background", "no colour"],
    ["predict", "x.png", "--value-range", "1", "0"],
    ["predict", "x.png", "--value-range", "1"],
    ["predict", "x.png", "--max-pixels", "0"],
    ["segment", "x.png", "--top-k", "1"],
    ["segment", "x.png", "--overlay", ""],
    ["frobnicate"],
    ["predict", "x.png", "--save-plot", ""],
    ["taps", "--size", "0", "5"],
    ["info", "--csv", "--frobnicate"],
    ["info", "--plot", ""],
]


def schema(command):
    """The name that users know; it grows by one with every change of a command's JSON."""
    return f"npmobilevit.{command}/{ {'info': 2, 'predict': 2}.get(command, 1) }"


@pytest.mark.case("114", "no command", "the help on stderr, exit code 2")
def test_without_a_command_there_is_help(capsys):
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert err.startswith("usage: npmobilevit ")
    for command in parser.COMMANDS:
        assert f"\n    {command} " in err


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_usage_errors_are_one_line_and_end_with_two(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


@pytest.mark.case("120", "--top-k 0, -1, five or 1e3", "exit code 2, one line")
@pytest.mark.parametrize("number", ["0", "-1", "five", "1e3", "", "9999999999", "²"])
def test_top_k_is_a_positive_integer(capsys, number):
    code, out, err = run(capsys, "predict", CHELSEA, "--top-k", number)
    assert (code, out) == (2, "")
    assert err.startswith("error: argument --top-k: ")
    assert len(err.splitlines()) == 1


@pytest.mark.case("124", "a wrong command line with --json", "one JSON document with the error, exit code 2")
@pytest.mark.parametrize("arguments", [*WRONG, ["predict", "x.png", "--jsonl"], [""], []], ids=" ".join)
def test_usage_errors_are_json_where_json_is_asked_for(capsys, arguments):
    code, document = run_json(capsys, *arguments)
    known = [schema(command) for command in arguments[:1] if command in parser.COMMANDS]
    assert code == 2
    assert sorted(document) == ["error", "schema", "version"]
    assert document["schema"] == (known or ["npmobilevit/1"])[0]
    assert sorted(document["error"]) == ["code", "message"]


def test_usage_errors_are_a_line_of_json_where_lines_are_asked_for(capsys):
    code, out, _ = run(capsys, "predict", "x.png", "--jsonl", "--frobnicate")
    assert code == 2
    assert len(out.splitlines()) == 1
    assert json.loads(out)["error"]["code"] == "usage"


def test_json_behind_two_dashes_is_a_file(capsys):
    code, out, err = run(capsys, "predict", "--top-k", "0", "--", "--json")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


def test_what_was_typed_cannot_steer_the_terminal(capsys):
    _, _, err = run(capsys, "predict", "x.png", "--\x1b[31m")
    assert "\x1b" not in err
    assert "--\\x1b[31m" in err


def test_version_and_help(capsys):
    assert run(capsys, "--version")[1].startswith("npmobilevit ")
    code, out, err = run(capsys, "predict", "--help")
    assert (code, err) == (0, "")
    assert "--top-k" in out
    for line in ("INPUT is", "@list.txt", "exit codes: 0 good", "examples:"):
        assert line in out


@pytest.mark.parametrize("command", ["predict", "segment"])
def test_the_examples_of_the_help_are_valid(command):
    text = parser.build_parser()._subparsers._group_actions[0].choices[command].epilog
    examples = [line.split("npmobilevit ")[1] for line in text.splitlines() if "  npmobilevit " in line or "| " in line]
    assert len(examples) >= 3
    for example in examples:
        options = parser.build_parser().parse_args(example.replace('"', "").split())
        assert options.command == command


# The model


@pytest.mark.parametrize(
    "command", [["predict", CHELSEA], ["segment", CHELSEA], ["info"], ["taps"]], ids=lambda c: c[0]
)
def test_a_model_that_is_not_to_be_had_ends_with_three(capsys, tmp_path, command):
    for model in ("apple/mobilevit-small", "no such model", tmp_path):
        code, out, err = run(capsys, *command, "--model", model)
        assert (code, out) == (3, "")
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1


@pytest.mark.case("124", "a model that is not to be had, with --json", "one JSON document with the error, exit code 3")
@pytest.mark.parametrize(
    "command", [["predict", CHELSEA], ["segment", CHELSEA], ["info"], ["taps"]], ids=lambda c: c[0]
)
def test_a_model_that_is_not_to_be_had_is_json_where_json_is_asked_for(capsys, command):
    code, document = run_json(capsys, *command, "--model", "no such model")
    assert code == 3
    assert sorted(document) == ["error", "schema", "version"]
    assert document["schema"] == schema(command[0])
    assert document["error"]["code"].startswith("checkpoint-")


def test_a_damaged_model_ends_with_three_and_one_line(capsys, tmp_path, classifier_folder):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((classifier_folder / name).read_bytes())
    weights = (classifier_folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    code, out, err = run(capsys, "predict", CHELSEA, "--model", tmp_path)
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == 1


def test_a_model_for_the_other_task_is_a_usage_error(capsys, classifier_folder, segmenter_folder):
    code, out, err = run(capsys, "predict", CHELSEA, "--model", segmenter_folder)
    assert (code, out) == (2, "")
    assert "no classifier" in err
    code, document = run_json(capsys, "segment", CHELSEA, "--model", classifier_folder)
    assert (code, document["error"]["code"]) == (2, "not-a-segmenter")
    assert "results" not in document  # found out before the first picture


def test_without_a_model_the_shipped_one_is_named(capsys):
    code, out, err = run(capsys, "predict", CHELSEA)
    assert code == 0
    assert err.startswith("warning: using cifar10-xx-small, which knows few classes")
    assert len(err.splitlines()) == 1
    assert out.startswith("model cifar10-xx-small")
    assert run_json(capsys, "predict", CHELSEA)[1]["model"]["name"] == "cifar10-xx-small"


# info and taps


def test_info_tells_facts_and_what_each_block_costs(capsys):
    code, out, _ = run(capsys, "info", *SHIPPED)
    lines = out.splitlines()
    assert code == 0
    assert "parameters         954,234" in lines
    assert "macs               20,862,336" in lines
    assert "precision          float32" in lines
    head = next(i for i, line in enumerate(lines) if line.endswith("block"))
    assert [line.split()[-1] for line in lines[head + 1 :]] == [
        *("conv_stem", *(f"encoder.layer.{i}" for i in range(5)), "conv_1x1_exp", "global_avg_pool", "classifier"),
        "total",
    ]
    words = lines[head + 4].split()  # of layer 2
    assert words == [
        "9,300,992",
        "44.6%",
        "####",
        "139,888",
        "561,856",
        "933,888",
        "all",
        "1x48x8x8",
        "encoder.layer.2",
    ]
    assert lines[-1].split()[:4] == ["20,862,336", "100.0%", "954,234", "3,833,384"]


def test_info_tells_every_layer(capsys):
    code, out, _ = run(capsys, "info", "--layers", *SHIPPED)
    assert code == 0
    table = cost_table(nm.load("cifar10-xx-small").config, (64, 64), head="classification")
    *_, block, layers = out.partition("  layer\n")
    lines = layers.splitlines()
    assert block
    assert [line.split()[-1] for line in lines] == [*(row.name for row in table.rows), "total"]
    assert lines[0].split() == [
        *("442,368", "2.1%", "432", "1,728", "65,536", "3x3", "1x16x32x32", "mobilevit.conv_stem.convolution")
    ]


def test_info_for_programs(capsys):
    code, document = run_json(capsys, "info", *SHIPPED, "--size", "50", "70")
    assert code == 0
    assert document["schema"] == "npmobilevit.info/2"
    assert document["label_names"][3] == "cat"
    assert document["architecture"] == "MobileViTForImageClassification"
    assert document["input_shape"] == [1, 3, 50, 70]
    table = cost_table(nm.load("cifar10-xx-small").config, (50, 70), head="classification")
    for key, rows in (("layers", table.rows), ("blocks", table.blocks())):
        assert document[key] == [
            json.loads(json.dumps({**row._asdict(), "mac_share": row.macs / table.total().macs})) for row in rows
        ]
    for count in ("parameters", "buffers", "macs"):
        assert document[count] == sum(row[count] for row in document["layers"])


def test_info_as_comma_separated_values(capsys):
    code, out, _ = run(capsys, "info", *SHIPPED, "--csv")
    assert (code, out) == run(capsys, "info", *SHIPPED, "--csv", "--layers")[:2] == (0, out)
    assert out.count("\r\n") == out.count("\n")
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    layers = run_json(capsys, "info", *SHIPPED)[1]["layers"]
    for row, layer in zip(rows, layers, strict=True):
        sizes = {key: "x".join(map(str, layer[key])) for key in ("shape", "receptive_field")}
        assert row == {key: str(value) for key, value in {**layer, **sizes}.items()}


def test_the_hash_of_the_weights_is_that_of_check_and_record(capsys):
    _, document = run_json(capsys, "info", *SHIPPED)
    pipeline = nm.load("cifar10-xx-small", precision="float64")
    bundle = validation.record(pipeline, pipeline.pixel_values(CHELSEA), taps=["logits"])
    assert document["weights_sha256"] == bundle.facts["weights_sha256"]
    assert document["sha256"] == bundle.facts["checkpoint_sha256"] != document["weights_sha256"]


def test_info_of_a_segmenter_in_its_own_size(capsys, segmenter_folder):
    _, document = run_json(capsys, "info", "--model", str(segmenter_folder))
    crop = nm.load(str(segmenter_folder)).processor.crop_size
    assert document["input_shape"] == [1, 3, crop["height"], crop["width"]]
    assert document["blocks"][-1]["name"] == "segmentation_head"


def test_info_of_a_model_that_does_not_crop_takes_what_its_resize_makes(capsys, tmp_path, segmenter_folder):
    folder = shutil.copytree(segmenter_folder, tmp_path / "whole")
    nm.MobileViTImageProcessor(size=64, crop_size=48, do_center_crop=False).save_pretrained(folder)
    _, document = run_json(capsys, "info", "--model", str(folder))
    assert document["input"] == {"shortest_edge": 64}
    assert document["input_shape"] == [1, 3, 64, 64]


def test_a_field_is_all_of_the_picture_only_if_it_covers_both_sides(capsys):
    _, out, _ = run(capsys, "info", *SHIPPED, "--size", "20", "300")
    fields = {line.split()[-1]: line.split()[-3] for line in out.splitlines() if "encoder.layer" in line}
    assert fields["encoder.layer.1"] == "20x27"
    assert fields["encoder.layer.2"] == "all"


def test_info_draws_bars(capsys, monkeypatch, tmp_path):
    drawn, bars = [], drawing.bars
    monkeypatch.setattr(drawing, "bars", lambda rows: drawn.append(rows) or bars(rows))
    path = tmp_path / "costs.png"
    code, out, _ = run(capsys, "info", *SHIPPED, "--plot", path)
    assert (code, out) == (0, run(capsys, "info", *SHIPPED)[1])
    blocks = run_json(capsys, "info", *SHIPPED)[1]["blocks"]
    for rows, count in zip(drawn, ("macs", "parameters"), strict=True):
        assert rows == [(block["name"], block[count], f"{block[count]:,}") for block in blocks]
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert picture.width > 2 * picture.height > 200  # one beside the other
    written = path.read_bytes()
    code, out, err = run(capsys, "info", *SHIPPED, "--plot", path)
    assert (code, out, path.read_bytes()) == (2, "", written)
    assert "exists already" in err
    assert run(capsys, "info", *SHIPPED, "--plot", path, "--force", "--csv")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["--size", "65537", "4"], 2, "argument-range"),
        (["--plot", "costs.txt"], 2, "output-suffix"),
        (["--plot", f"{CHELSEA}/costs.png"], 1, "output-unwritable"),
    ],
)
def test_info_refuses(capsys, monkeypatch, tmp_path, arguments, code, name):
    monkeypatch.chdir(tmp_path)
    found, out, err = run(capsys, "info", *SHIPPED, *arguments)
    assert (found, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert run_json(capsys, "info", *SHIPPED, *arguments)[1]["error"]["code"] == name
    assert list(tmp_path.iterdir()) == []


def test_a_plot_is_written_whole_or_not_at_all(capsys, monkeypatch, tmp_path):
    def fail(path, data):
        raise OSError(28, "No space left on device")

    assert run(capsys, "info", *SHIPPED, "--plot", tmp_path / ("x" * 300 + ".png"))[:2] == (1, "")
    monkeypatch.setattr(targets, "write_atomically", fail)
    code, out, err = run(capsys, "info", *SHIPPED, "--plot", tmp_path / "costs.png")
    assert (code, out) == (1, "")
    assert "No space left" in err
    assert list(tmp_path.iterdir()) == []


def test_taps_lists_names_and_shapes_in_forward_order(capsys):
    code, out, _ = run(capsys, "taps", *SHIPPED)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "pixel_values  (1, 3, 64, 64)"
    assert lines[-1] == "logits  (1, 10)"
    assert "mobilevit.encoder.layer.2.fusion  (1, 48, 8, 8)" in lines
    _, document = run_json(capsys, "taps", "--size", "96", "64", *SHIPPED)
    assert document["taps"]["mobilevit.encoder.layer.2.fusion"] == [1, 48, 12, 8]
    assert len(document["taps"]) == len(lines)


# Ends


@pytest.mark.parametrize(
    ("raised", "code", "name", "message"),
    [
        (KeyboardInterrupt, 130, "interrupted", "interrupted"),
        (MemoryError, 1, "out-of-memory", "there is not enough memory for this"),
    ],
)
def test_interruption_and_exhaustion_are_one_line(capsys, monkeypatch, raised, code, name, message):
    def fail(options):
        raise raised

    monkeypatch.setattr(parser, "run_info", fail)
    assert run(capsys, "info", *SHIPPED) == (code, "", f"error: {message}\n")
    assert run_json(capsys, "info")[1]["error"] == {"code": name, "message": message}


def test_the_entry_point_reads_the_arguments_of_the_process(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["npmobilevit", "taps", "--size", "0", "0"])
    assert cli.main() == 2
    assert "--size" in capsys.readouterr().err
