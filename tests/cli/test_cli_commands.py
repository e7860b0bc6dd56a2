"""The commands as a whole: usage, help, models that are not to be had, info and taps."""

import json

import pytest
from commandline import CHELSEA, SHIPPED, run, run_json

from npmobilevit import cli
from npmobilevit.cli import parser

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
    ["taps", "--size", "0", "5"],
]


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
    known = [f"npmobilevit.{command}/1" for command in arguments[:1] if command in parser.COMMANDS]
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
    assert document["schema"] == f"npmobilevit.{command[0]}/1"
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


def test_info_counts_the_parameters(capsys):
    code, out, _ = run(capsys, "info", *SHIPPED)
    assert code == 0
    assert "parameters         958,346" in out
    _, document = run_json(capsys, "info", *SHIPPED)
    assert document["parameters"] == 958_346
    assert sum(document["parameters_by_part"].values()) == 958_346
    assert document["label_names"][3] == "cat"
    assert document["architecture"] == "MobileViTForImageClassification"


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
