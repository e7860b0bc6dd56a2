"""What a report on a backend is in JSON is what reference/schemas says, and its schema refuses what is damaged."""

import json
from pathlib import Path

import made_reports as made
import numpy as np
import pytest
from foreign import dump
from networks import make_model, pixels
from test_check_schema import damaged

from npmobilevit import ops
from npmobilevit.validation import check_backend
from npmobilevit.validation.backends import BackendReport, Part
from npmobilevit.validation.report import Diagnosis, NearMiss

jsonschema = pytest.importorskip("jsonschema")
referencing = pytest.importorskip("referencing")

SCHEMAS = Path(__file__).parents[2] / "reference" / "schemas"
SCHEMA, CHECK = (
    json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("check-backend-document", "check-document")
)

pytestmark = pytest.mark.framework


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    check = referencing.Resource.from_contents(CHECK)
    registry = referencing.Registry().with_resource("check-document.json", check)
    return jsonschema.Draft202012Validator(SCHEMA, registry=registry)


def of_every_kind():
    """A report with a part of each kind, and in them whatever a report can hold."""
    report = made.mixed()
    named = made.failure(
        "silu-range", cause="TRF-05", diagnosis=Diagnosis("TRF-05", "GELU", "Bad.", "Mend.", 0.1, ("b",))
    )
    unknown = made.failure("linear-long", near=(NearMiss("NUM-01", "sums in float16", 0.5),))
    probe = Part("probe:silu-range", (named, unknown), (made.wrong("silu-range"), made.judgement("b", **made.EXACT)))
    parts = [
        probe,
        Part("probe:relu-range", not_run=("relu: the backend does not have it",)),
        Part("regions", report.findings, reports=(report, made.report([made.judgement("a")]))),
        Part("input:a\nb", report.findings, reports=(report,)),
        Part("first-input-again"),
    ]
    return BackendReport(made.MODEL, "fp32", tuple(parts))


class Port:
    """A port with some operators and no layers, that is right in its first run only."""

    def __init__(self, model):
        self.model, self.runs = model, 0

    def run(self, x):
        self.runs += 1
        return {name: value * np.float32(self.runs) for name, value in dump(self.model, x).items()}

    def op(self, name, arrays, attributes):
        if name == "softmax":
            return np.full(3, np.nan)
        if name not in ("silu", "relu"):
            raise NotImplementedError
        return getattr(ops, name)(arrays["x"])


def test_a_report_of_every_kind_follows_the_schema(validator):
    document = json.loads(of_every_kind().to_json())
    validator.validate(document)
    assert {part["status"] for part in document["parts"]} == {"pass", "fail", "not run"}


def test_the_report_on_a_port_follows_the_schema(validator):
    model = make_model("classification", precision="float32")
    report = check_backend(Port(model), model, pixel_values={"small": pixels(dtype=np.float32)})
    assert {finding.kind for finding in report.failures} == {"shape", "unsteady"}
    validator.validate(json.loads(report.to_json()))


def test_it_refuses_whatever_is_damaged(validator):
    document = json.loads(of_every_kind().to_json())
    accepted = [where for where, worse in damaged(document) if validator.is_valid(worse)]
    assert accepted
    assert {where[-3:] for where in accepted} == {("producer", "framework", "less")}  # is the port's own matter


@pytest.mark.parametrize(
    ("name", "value"),
    [("name", "probes"), ("name", "input"), ("status", "unknown"), ("not_run", [""]), ("reports", [{}])],
)
def test_it_refuses_values_that_cannot_be(validator, name, value):
    document = json.loads(of_every_kind().to_json())
    document["parts"][0][name] = value
    assert not validator.is_valid(document)


def test_it_describes_everything_and_allows_nothing_else():
    objects = [SCHEMA, *SCHEMA["$defs"].values()]
    assert len(objects) == 3
    for entry in objects:
        assert entry["additionalProperties"] is False
        assert set(entry["required"]) == set(entry["properties"])
        assert entry["description"].endswith(".")
        described = [value for key, value in entry["properties"].items() if key != "schema"]
        assert all("description" in value or "$ref" in value for value in described)


def test_a_report_in_it_has_all_that_a_report_by_itself_has():
    by_itself = set(CHECK["$defs"]["report"]["properties"])
    assert by_itself - set(SCHEMA["$defs"]["report"]["properties"]) == {"schema", "version", "verdict"}
