"""What a report says in words and in JSON, and how it is saved."""

import dataclasses
import itertools
import json
import math
import os
from importlib.metadata import version

import made_reports as made
import pytest
from made_reports import EXACT, KINDS, failure, judgement, report, wrong

from npmobilevit.errors import BundleError, ConfigError
from npmobilevit.validation import texts
from npmobilevit.validation.report import Finding

every_kind = pytest.mark.parametrize("kind", KINDS)


def first_line(given):
    return given.to_text().splitlines()[0]


def lines_with(text, *parts):
    return [line for line in text.splitlines() if all(part in line for part in parts)]


# verdict


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (report([judgement("a")]), "pass"),
        (report([judgement("a", **EXACT)]), "pass"),
        (report([judgement("a", status="unusual")], [Finding("a", "unusual", "screen", "So.")]), "pass"),
        (report([judgement("a"), judgement("b", test="screened")]), "screened"),
        (report([judgement("a")], complete=False), "screened"),
        (report([]), "screened"),
        (report([judgement("a")], [failure("b")]), "fail"),
        (report([judgement("a", test="screened")], [failure("b")], complete=False), "fail"),
    ],
)
def test_the_verdict_follows_from_findings_tests_and_completeness(given, verdict):
    assert given.verdict == verdict
    assert given.passed == (verdict != "fail")
    assert first_line(given).startswith(f"{verdict.upper()}: ")


def test_failures_are_the_findings_that_decide_in_their_order():
    assert [finding.tap for finding in made.mixed().failures] == ["attention", "folded"]


# the first lines


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            made.mixed(),
            "FAIL: 2 of 7 taps are wrong; first: attention; tf32 would explain all of it: is that its profile?",
        ),
        (report([wrong("a")], [failure("a"), failure("a")]), "FAIL: 1 of 1 tap is wrong; first: a"),
        (report([judgement("a")], [failure("mask")]), "FAIL: 1 of 2 taps is wrong; first: mask"),
        (
            report([judgement("a"), judgement("b")]),
            "PASS: from input to output all is what its own inputs should have become; 2 taps judged",
        ),
        (
            report([judgement("a", status="unusual"), judgement("b")]),
            "PASS: from input to output all is what its own inputs should have become; 2 taps judged, though 1 of them "
            "is unusual",
        ),
        (
            report([judgement("a", test="screened"), judgement("b")], complete=False),
            "SCREENED: nothing wrong was seen, but 1 of 2 taps could only be screened and not every region from input "
            "to output was judged",
        ),
        (
            report([judgement("a", test="screened")]),
            "SCREENED: nothing wrong was seen, but 1 of 1 tap could only be screened",
        ),
        (
            report([judgement("a")], complete=False),
            "SCREENED: nothing wrong was seen, but not every region from input to output was judged",
        ),
        (report([]), "SCREENED: nothing wrong was seen, but no tap could be judged"),
    ],
)
def test_the_first_line_gives_the_reason(given, line):
    assert first_line(given) == line


def test_what_was_checked_follows():
    assert made.mixed().to_text().splitlines()[1:4] == [
        "model    a/model, MobileViTModel, weights sha256 0123456789abcdef",
        "port     framework made up",
        "profile  declared fp32, behaves as tf32",
    ]


@pytest.mark.parametrize("behaves_as", ["fp32", None])
def test_a_profile_that_is_as_declared_or_unknown_is_not_contrasted(behaves_as):
    text = report([judgement("a")], behaves_as=behaves_as).to_text()
    assert "profile  fp32\n" in text
    assert "behaves" not in text


def test_a_port_that_says_nothing_of_itself_is_said_to():
    assert "port     does not say what it is" in report([], producer={}).to_text()


# findings


def test_a_failure_comes_with_its_numbers_its_region_and_its_cause():
    text = made.mixed().to_text()
    start, end = text.index("Wrong (2)"), text.index("  folded (error)")
    assert (
        text[start:end]
        == """\
Wrong (2)
  attention (error)
      It is not what it should be.
      at [0, 1, 2]: found 1.25, expected 1, tolerance 1e-05
      3 of 6 elements beyond the tolerance, by more than any order of roundings could give; largest
        error 0.25, 0.125 of the rms 2
      spans 2 taps that were not given: query, key
      cause: head-count
"""
    )


def test_causes_stand_first_each_once_with_its_taps_and_what_to_do():
    text = made.explained().to_text()
    start, end = text.index("Causes (2)"), text.index("Wrong (5)")
    assert (
        text[start:end].rstrip()
        == """\
Causes (2)
  ATT-05-order at 2 taps: query, key
      key and query are swapped; expected the order query, key, value.
      What follows: Tokens look for something else than they should.
      Fix: Pack query, key and value in the order in which they are cut apart.
  NRM-05 at 1 tap: norm
      eps 1e-06; expected 1e-05.
      What follows: Flat tokens are too large.
      Fix: Use layer_norm_eps of config.json."""
    )


@pytest.mark.parametrize(
    ("tap", "cause"),
    [
        ("query (error)", "cause: ATT-05-order, key and query are swapped; expected the order query, key, value"),
        (
            "norm (structure)",
            "cause: NRM-05, eps 1e-06; expected 1e-05; or: eps added behind the root; expected under it; or: no eps; "
            "expected 1e-05",
        ),
        (
            "act (error)",
            "cause: unknown; nearest: TRF-06, activation gelu_pytorch_tanh; expected silu (leaves 12% of the "
            "difference); TRF-05, activation gelu; expected silu (leaves 50% of the difference)",
        ),
        ("dense (error)", "cause: unknown"),
    ],
)
def test_each_failure_has_its_cause_or_what_is_nearest(tap, cause):
    lines = made.explained().to_text().split("\n")
    start = lines.index(f"  {tap}")
    after = itertools.takewhile(lambda line: line.startswith("      "), lines[start + 1 :])
    assert " ".join(" ".join(after).split()).endswith(cause)


def test_the_verdict_names_the_first_mistake():
    first, *_ = made.explained().to_text().split("\n")
    assert first == (
        "FAIL: 5 of 5 taps are wrong; first: query: key and query are swapped; expected the order query, key, value"
    )


@pytest.mark.parametrize("kind", ["extra", "layout", "mask"])
def test_nothing_is_said_of_a_cause_that_nobody_looked_for(kind):
    assert "cause" not in report([], [failure("mask", kind=kind)]).to_text()


def test_a_report_without_known_causes_has_no_list_of_them():
    assert "Causes" not in made.mixed().to_text()


def test_an_exact_test_speaks_of_no_tolerance():
    text = made.mixed().to_text()
    part = text[text.index("  folded (error)") : text.index("Unusual (1)")]
    assert "at [0, 1, 2]: found 1.25, expected 1; no difference is allowed" in part
    assert "rounding" not in part
    assert "spans" not in part
    assert "inf" not in part


def test_findings_stand_by_severity_and_notes_bring_no_numbers():
    text = made.mixed().to_text()
    places = [text.index(part) for part in ("Wrong (2)", "Unusual (1)", "Notes (1)", "Layers: ", "Not checked: ")]
    assert places == sorted(places)
    notes = text[text.index("Notes (1)") : text.index("Layers: ")].split("\n")
    assert notes == ["Notes (1)", "  stem (layout)", "      It was given as NHWC.", "", ""]
    assert "7.5 times the usual rounding" in text[text.index("Unusual (1)") : text.index("Notes (1)")]


def test_a_finding_without_a_judgement_is_told_all_the_same():
    text = report((), [failure("pixel_values", "It is RGB.", kind="preprocessing")]).to_text()
    assert text.endswith("Wrong (1)\n  pixel_values (preprocessing)\n      It is RGB.")


def test_of_the_found_nan_no_multiple_is_given():
    text = report([wrong("a", found=math.nan, ratio=math.inf)], [failure("a")]).to_text()
    assert "      at [0, 1, 2]: found nan, expected 1, tolerance 1e-05\n" in text


def test_long_lists_are_cut_and_counted():
    text = made.crowded().to_text()
    assert "\n  and 2980 more; the JSON has all\n" in text
    assert "\n  and 290 more; --every-layer or to_text(every_layer=True) shows all\n" in text
    assert "missing7 and 1992 more" in text
    assert len(text.splitlines()) < 250


@pytest.mark.parametrize(("many", "counted"), [(20, False), (21, True)])
def test_lists_are_cut_no_sooner_than_they_are_long(many, counted):
    names = [f"tap{i}" for i in range(many)]
    text = report(map(wrong, names), map(failure, names)).to_text()
    assert bool(lines_with(text, "and 1 more; the JSON")) == counted
    assert bool(lines_with(text, "and 1 more; --every-layer")) == counted


# layers


def rows(text):
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith("  tap"))
    return lines[start + 1 : lines.index("", start)] if "" in lines[start:] else lines[start + 1 :]


def test_layers_that_are_not_right_stand_in_the_table_in_forward_order():
    assert rows(made.mixed().to_text()) == [
        "X local    ######|######   25000    0.12   2e-05  attention",
        "X exact    ######|######     inf    0.25       0  folded",
        "? local    ######|           0.5   5e-07   2e-05  norm",
    ]


def test_every_layer_stands_in_the_table_when_asked_for():
    table = rows(made.mixed().to_text(every_layer=True))
    assert [line.split()[-1] for line in table] == [
        "stem", "attention", "unfolded", "folded", "norm", "dense", "logits",
    ]  # fmt: skip
    assert table[0] == "  local    ####  |           0.1   5e-07   2e-05  stem"
    assert table[2] == "  exact          |             0       0       0  unfolded"
    assert len(rows(made.crowded().to_text(every_layer=True))) == 310


def test_the_heading_stands_above_its_columns():
    lines = made.mixed().to_text().splitlines()
    head = next(line for line in lines if line.endswith("  tap"))
    row = lines[lines.index(head) + 1]
    assert head.index(" 1 ") + 1 == row.index("|")
    assert head.index("10^-3") == row.index("#")
    assert head.index("tap") == row.index("attention")


def test_totals_are_given_even_where_all_is_right():
    text = report([judgement("a"), judgement("b", **EXACT), judgement("c", resolution=4e-3)]).to_text()
    assert "Layers: 3 taps judged: 3 right; 2 local, 1 exact\n" in text
    assert " ".join(text.split()).endswith(
        "In any one element, an error of 2e-05 of the layer's rms would have been caught in the median layer, and one "
        "of 0.002 in each; the layer with the widest tolerance is c."
    )
    assert "Layers: 7 taps judged: 4 right, 1 unusual, 2 wrong; 4 local, 2 exact, 1 screened" in made.mixed().to_text()


def test_a_layer_that_catches_nothing_is_the_widest():
    for resolution in (math.inf, math.nan):
        given = report([judgement("a", resolution=resolution), judgement("b"), judgement("c", scale=0.0)])
        assert texts.power(given).endswith(f"{resolution} in each; the layer with the widest tolerance is a.")
    assert texts.power(report([judgement("c", scale=0.0)])) == ""


@pytest.mark.parametrize(
    ("ratio", "drawn"),
    [
        (0.0, "      |      "),
        (1e-9, "      |      "),
        (1.1e-3, "#     |      "),
        (0.011, "###   |      "),
        (0.1, "####  |      "),
        (1.0, "######|      "),
        (1.0000001, "######|#     "),
        (9.9, "######|##    "),
        (999.0, "######|######"),
        (1e9, "######|######"),
        (math.inf, "######|######"),
        (math.nan, "######|######"),
    ],
)
def test_bars_pass_the_line_exactly_where_the_error_passes_the_tolerance(ratio, drawn):
    assert texts.bar(ratio) == drawn


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234.5, "1234"), (99_999.0, "99999"), (123_456.0, "1.23e+05"), (-5000.0, "-5000"), (12.3456, "12.3")],
)
def test_numbers_are_short(value, text):
    assert texts.number(value) == text


# not given


def test_taps_that_were_not_given_are_grouped_by_what_is_known_of_them():
    text = made.mixed().to_text()
    assert text[text.index("Not checked") :].splitlines() == [
        "Not checked: 5 taps, and of these",
        "  1 within regions judged right",
        "  1 within regions that were only screened: pool",
        "  2 within regions judged wrong: query, key",
        "  1 in no region that was judged: mask",
    ]


@pytest.mark.parametrize(
    ("many", "end"), [(1, "mask: t0"), (8, ", t7"), (9, ", t7 and 1 more"), (10, ", t7 and 2 more")]
)
def test_names_are_cut_no_sooner_than_they_are_many(many, end):
    names = tuple(f"t{i}" for i in range(many))
    assert f"mask: {texts.some(names)}".endswith(end)


def test_a_tap_in_several_regions_counts_where_most_is_known_of_it():
    layers = [
        judgement("a", region=("x", "y", "z")),
        wrong("b", region=("x", "w")),
        judgement("c", region=("w", "y"), status="unusual"),
    ]
    for order in (layers, layers[::-1]):
        assert texts.coverage(report(order, unchecked=("w", "x", "y", "z"))) == [
            ("within regions judged right", ["x", "y", "z"]),
            ("within regions judged unusual", ["w"]),
        ]


def test_nothing_is_said_of_taps_when_all_were_given():
    assert "given" not in report([judgement("a")]).to_text()
    assert texts.coverage(report([judgement("a", region=("b",))])) == []


# any report


@every_kind
@pytest.mark.parametrize("every_layer", [False, True])
def test_text_is_ascii_without_control_characters_and_not_wide(kind, every_layer):
    text = KINDS[kind]().to_text(every_layer=every_layer)
    assert text.isascii()
    assert all(line.isprintable() for line in text.split("\n"))
    assert not lines_with(text, "\x1b")
    if kind not in ("hostile", "crowded", "explained by anything"):  # whose names are long
        _verdict, *lines = text.splitlines()  # that is one line, whatever it says
        assert max(map(len, lines)) <= 100


def test_str_is_the_text():
    assert str(made.mixed()) == made.mixed().to_text()


def test_names_that_are_too_long_are_cut():
    assert texts.printable("x" * 160) == "x" * 160
    assert texts.printable("x" * 161) == "x" * 157 + "..."
    assert texts.printable("a\n\x1b\ud800\u202e") == r"a\n\x1b\ud800\u202e"


# JSON


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def as_json(given):
    """A diagnosis or a near miss: tuples are lists, and what is not finite is text."""
    fields = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(given).items()}
    spelled = {"nan": "NaN", "inf": "Infinity"}
    return fields | {"remaining": spelled.get(str(given.remaining), given.remaining)}


@every_kind
def test_json_holds_every_field(kind):
    given = KINDS[kind]()
    text = given.to_json()
    assert text.isascii()
    document = json.loads(text, parse_constant=refuse)
    assert list(document)[:3] == ["schema", "version", "verdict"]
    assert document["schema"] == "npmobilevit.check/2"
    assert document["version"] == version("npmobilevit")
    assert document["verdict"] == given.verdict
    assert set(document) == {"schema", "version", "verdict"} | {field.name for field in dataclasses.fields(given)}
    assert [finding.pop("near") for finding in document["findings"]] == [
        [as_json(miss) for miss in finding.near] for finding in given.findings
    ]
    assert [finding.pop("diagnosis") for finding in document["findings"]] == [
        finding.diagnosis and as_json(finding.diagnosis) for finding in given.findings
    ]
    names = ("tap", "severity", "kind", "message", "cause")
    assert document["findings"] == [{name: getattr(finding, name) for name in names} for finding in given.findings]
    assert len(document["judgements"]) == len(given.judgements)
    for actual, expected in zip(document["judgements"], given.judgements, strict=True):
        assert set(actual) == {field.name for field in dataclasses.fields(expected)}
        assert actual["tap"] == expected.tap
        assert actual["worst"] == list(expected.worst)
    for name in ("model", "producer", "profile", "behaves_as", "complete"):
        assert document[name] == getattr(given, name)
    assert document["unchecked"] == list(given.unchecked)


def test_numbers_that_are_not_finite_are_strings_that_float_reads():
    layers = {layer["tap"]: layer for layer in json.loads(made.not_finite().to_json())["judgements"]}
    assert [layers[f"odd{i}"]["found"] for i in range(3)] == ["NaN", "Infinity", "-Infinity"]
    assert math.isnan(float(layers["odd0"]["found"]))
    assert float(layers["odd2"]["found"]) == -math.inf
    assert layers["zero"]["ratio"] == 0.0


def test_numbers_of_numpy_are_numbers_in_json():
    (layer,) = json.loads(made.numpy_numbers().to_json())["judgements"]
    assert (layer["error"], layer["beyond"], layer["proof"], layer["worst"]) == (0.25, 0, False, [0, 0, 0])
    assert layer["proof"] is False


@every_kind
def test_a_report_is_told_the_same_way_every_time(kind):
    for form in ("to_text", "to_json", "to_html", "_repr_html_"):
        assert getattr(KINDS[kind](), form)() == getattr(KINDS[kind](), form)()


# saving


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.json", "to_json"), ("a.html", "to_html"), ("A.HTM", "to_html"), ("new/folder/a.b.txt", "to_text")],
)
@pytest.mark.parametrize("kind", [str, None])
def test_save_writes_what_the_suffix_names(tmp_path, name, form, kind):
    path = tmp_path / name
    given = made.hostile()
    given.save(kind(path) if kind else path)
    assert path.read_bytes() == getattr(given, form)().encode("ascii") + b"\n"
    assert os.listdir(path.parent) == [path.name]


def test_save_replaces_a_report(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    report([]).save(path)
    assert path.read_text().startswith("SCREENED")


@pytest.mark.parametrize("name", ["a", "a.pdf", "a.json.gz", ".json", ""])
def test_save_refuses_other_suffixes_and_names_those_there_are(tmp_path, name):
    with pytest.raises(ConfigError, match=r"\.json, \.html, \.htm, \.txt; found") as caught:
        report([]).save(tmp_path / name)
    assert caught.value.code == "report-suffix"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file/a.json", "folder.json", "nul\0.txt", "\ud800.txt"])
def test_save_says_when_a_file_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(BundleError, match=r"cannot write the report to '.*': .*\. Choose a place") as caught:
        made.mixed().save(tmp_path / name)
    assert caught.value.code == "report-unwritable"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.json"]
