"""The page of mistakes says what the catalogue says."""

import dataclasses

import make_mistakes_page as tool
import pytest

from npmobilevit.validation.mutants import CATALOGUE, MODES, Change, Mutant, changes
from npmobilevit.validation.mutants.pictures import PICTURE_MUTANTS
from npmobilevit.validation.mutants.results import RESULT_MUTANTS

MADE_UP = Mutant("CNV-99", "{value} | *; expected `a`", "Bad.", "Mend it.", make=changes(Change("out", "a", print)))


def other(**fields):
    return dataclasses.replace(MADE_UP, **fields)


def lines(*mutants, probes=()):
    return "\n".join(tool.entry(mutants, probes)).splitlines()


def test_the_page_in_the_repository_is_the_one_the_catalogue_gives():
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run python tools/make_mistakes_page.py"


@pytest.mark.parametrize("field", ["id", "variant", "description", "consequence", "fix", "equivalent"])
@pytest.mark.parametrize("position", [0, 100, len(CATALOGUE) - 1])
def test_another_word_in_the_catalogue_is_another_page(field, position):
    mutant = dataclasses.replace(tool.ALL[position], **{field: "CNV-77, made up"})
    changed = (*tool.ALL[:position], mutant, *tool.ALL[position + 1 :])
    assert tool.page(changed) != tool.page()
    assert "CNV-77, made up" in tool.page(changed)


def test_a_form_more_or_less_is_another_page():
    assert tool.page((*tool.ALL, MADE_UP)) != tool.page() != tool.page(tool.ALL[:-1])


def test_a_probe_that_is_made_for_something_else_is_another_page():
    first, *others = tool.PROBES
    for fields in ({"catches": ("SEG-01",)}, {"why": "For nothing."}, {"name": "other"}):
        assert tool.page(probes=(dataclasses.replace(first, **fields), *others)) != tool.page()


@pytest.mark.parametrize("catalogue", [CATALOGUE, PICTURE_MUTANTS, RESULT_MUTANTS])
def test_every_form_has_its_row(catalogue):
    rows = [line.split(" | ")[0] for line in tool.page().splitlines()]
    assert [mutant.name for mutant in catalogue if rows.count(f"| {mutant.name}") != 1] == []


def test_everything_a_mode_needs_is_said():
    assert set(tool.NEEDS) == set(MODES)


def test_an_id_of_no_part_is_an_error():
    with pytest.raises(KeyError, match="XYZ"):
        tool.page([other(id="XYZ-01")])


def test_what_is_the_same_of_all_forms_is_said_once():
    text = lines(MADE_UP, other(variant="b"))
    assert text[1:] == [
        "### CNV-99",
        "",
        "| form | found; expected |",
        "|---|---|",
        r"| CNV-99 | *value* \| \*; expected \`a\` |",
        r"| CNV-99-b | *value* \| \*; expected \`a\` |",
        "",
        "- what follows: Bad.",
        "- fix: Mend it.",
    ]


def test_what_differs_is_said_of_each_form():
    text = lines(MADE_UP, other(variant="b", fix="Leave it."), other(variant="c", mode="two runs"))
    start = text.index("- fix:")
    assert text[start:] == [
        "- fix:",
        "  - CNV-99, CNV-99-c: Mend it.",
        "  - CNV-99-b: Leave it.",
        "- needs:",
        "  - CNV-99-c: two runs of the same input, `check_backend`",
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"fitted": True}, "- remark: fitted"),
        ({"by_shape": True}, "- remark: by shape"),
        ({"continuous": True, "fitted": True}, "- remark: searched, fitted"),
        ({"equivalent": "All are | alike."}, r"- remark: equivalent: All are \| alike."),
        ({"mode": "taps + picture"}, "- needs: the picture, `image=` or `--image`"),
    ],
)
def test_a_remark_is_made(fields, said):
    assert lines(other(**fields))[-1] == said


def test_results_say_which_tensor_is_needed():
    (mask,) = (mutant for mutant in RESULT_MUTANTS if mutant.name == "SEG-12")
    assert lines(mask)[-1] == "- needs: `mask` beside the logits"


def test_probes_are_named():
    probes = [dataclasses.replace(tool.PROBES[0], name=name, catches=("CNV-99",)) for name in ("one", "two")]
    probes.append(dataclasses.replace(tool.PROBES[0], catches=("CNV-01",)))
    assert lines(MADE_UP, probes=probes)[-1] == "- probes: one, two"


def test_every_probe_has_its_row():
    text = tool.page().splitlines()
    probe = next(probe for probe in tool.PROBES if probe.name == "conv2d-border")
    assert f"| conv2d-border | {probe.why} | CNV-07 |" in text
    assert text[-len(tool.PROBES) :] == [tool.row(probe) for probe in tool.PROBES]


def test_parts_come_in_their_order_and_ids_are_sorted():
    text = tool.page([other(id="SYS-01"), other(id="CNV-02"), other(id="CNV-01")]).splitlines()
    heads = [line for line in text if line.startswith("##")]
    parts = ["## Convolutions", "### CNV-01", "### CNV-02", "## State, batches and dumps", "### SYS-01", "## Probes"]
    assert heads == parts
    assert "3 forms of 3 mistakes" in "\n".join(text)


def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "PAGE", tmp_path / "mistakes.md")
    tool.main()
    assert (tmp_path / "mistakes.md").read_text(encoding="utf-8") == tool.page()
    assert capsys.readouterr().out == f"mistakes.md: {len(tool.ALL)} forms\n"
