"""What a report is in JSON is what reference/schemas says, and its schema refuses what is damaged."""

import json
from pathlib import Path

import made_reports as made
import pytest
from made_reports import KINDS

from npmobilevit.cli.ending import usage
from npmobilevit.cli.reports import print_failure

jsonschema = pytest.importorskip("jsonschema")

PATH = Path(__file__).parents[2] / "reference" / "schemas" / "check-document.json"
SCHEMA = json.loads(PATH.read_text(encoding="utf-8"))

pytestmark = pytest.mark.framework


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"hostile"}))
def test_reports_follow_the_schema(validator, kind):
    validator.validate(json.loads(KINDS[kind]().to_json()))


def test_the_schema_finds_what_is_no_name_of_ours_in_a_hostile_report(validator):
    """The port chooses names and messages, which may be anything; kinds, messages and hashes come from us."""
    document = json.loads(made.hostile().to_json())
    assert not validator.is_valid(document)
    for finding in document["findings"]:
        finding |= {"kind": "extra", "message": finding["message"] or "none"}
    document["model"]["sha256"] = "0" * 64
    validator.validate(document)


def test_a_failure_of_the_command_follows_it_too(validator, capsys):
    print_failure("check", usage("usage", "no such option"), lines=False)
    validator.validate(json.loads(capsys.readouterr().out))


def damaged(value, path=()):
    """Where a JSON value has one key less, one more, or a value of another type, and the copy."""
    if isinstance(value, dict):
        for key in value:
            yield (*path, key, "less"), {k: v for k, v in value.items() if k != key}
            for where, worse in damaged(value[key], (*path, key)):
                yield where, {**value, key: worse}
        yield (*path, "more"), {**value, "surplus": 1}
    elif isinstance(value, list):
        for i, item in enumerate(value):
            for where, worse in damaged(item, (*path, i)):
                yield where, [*value[:i], worse, *value[i + 1 :]]
    yield (*path, "type"), {"surplus": 1} if isinstance(value, list) else [None]


@pytest.mark.parametrize("report", [made.mixed(), made.explained()], ids=["mixed", "explained"])
def test_it_refuses_whatever_is_damaged(validator, report):
    document = json.loads(report.to_json())
    accepted = [where for where, worse in damaged(document) if validator.is_valid(worse)]
    assert accepted == [("producer", "framework", "less")]  # what a port says of itself is its own matter


@pytest.mark.parametrize(
    ("name", "value"),
    [("ratio", -1.0), ("ratio", "-Infinity"), ("found", "nan"), ("status", "good"), ("beyond", 0.5), ("worst", [-1])],
)
def test_it_refuses_values_that_cannot_be(validator, name, value):
    document = json.loads(made.mixed().to_json())
    document["judgements"][0][name] = value
    assert not validator.is_valid(document)


def test_it_describes_everything_and_allows_nothing_else():
    entries = [*SCHEMA["$defs"].values()]
    objects = [entry for entry in entries if entry.get("type") == "object"]
    assert len(objects) == 8
    for entry in objects:
        assert entry["additionalProperties"] is False
        assert set(entry["required"]) == set(entry["properties"])
        described = [value for key, value in entry["properties"].items() if key != "schema"]
        assert all("description" in value or "$ref" in value for value in described)
    assert all(entry["description"].endswith(".") for entry in entries)
