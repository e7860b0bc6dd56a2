"""What predict, segment and info print as JSON follows reference/schemas, whatever happens; and what record writes."""

import copy
import json
from pathlib import Path

import networks
import numpy as np
import pytest
from commandline import SHIPPED, run, write_picture
from safetensors import safe_open

import npmobilevit as nm
from npmobilevit.cli import targets
from npmobilevit.errors import BundleError
from npmobilevit.validation.bundles import record
from npmobilevit.validation.candidates import read_candidate
from npmobilevit.validation.exports import export

jsonschema = pytest.importorskip("jsonschema")

SCHEMAS = Path(__file__).parents[2] / "reference" / "schemas"

pytestmark = [pytest.mark.framework, pytest.mark.usefixtures("clean_environment")]


def validator(name):
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with pictures, a file that is none, and a model for each command."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "in/c.png"):
        write_picture(Path(name))
    Path("text.png").write_text("no picture")
    with open(b"\xff.png", "wb") as file:
        file.write(Path("a.png").read_bytes())
    return tmp_path


@pytest.fixture
def models(classifier_folder, segmenter_folder):
    return {"predict": ["--model", str(classifier_folder)], "segment": ["--model", str(segmenter_folder)]}


GOOD = [
    ["a.png"],
    ["in", "b.png", "\udcff.png"],
    ["a.png", "missing.png", "text.png", "none*.png", "@none.txt", "in"],
    ["missing.png"],
    ["a.png", "--background", "blue", "--max-pixels", "10"],
]
CASES = [
    *((command, arguments, None) for command in ("predict", "segment") for arguments in GOOD),
    ("predict", ["a.png", "--top-k", "1"], None),
    ("predict", ["a.png", "--save-plot", "p.png"], None),
    ("predict", ["in", "a.png", "a.png", "--save-plot", "out"], None),
    ("segment", ["a.png", "-o", "m.png"], None),
    ("segment", ["in", "a.png", "a.png", "-o", "out", "--overlay", "out2", "--crop"], None),
    *((command, ["a.png", "--frobnicate"], 2) for command in ("predict", "segment")),
    *((command, [], 2) for command in ("predict", "segment")),
    *((command, ["a.png", "-o", "a.png"], 2) for command in ("predict", "segment")),
    *((command, ["a.png", "--model", "no such model"], 3) for command in ("predict", "segment")),
    ("segment", ["a.png", *SHIPPED], 2),
]


@pytest.mark.parametrize(("command", "arguments", "code"), CASES)
def test_outputs_follow_their_schemas(capsys, folder, models, command, arguments, code):
    model = [] if "--model" in arguments else models[command]
    for form, name in (("--json", "document"), ("--jsonl", "line")):
        actual, out, _ = run(capsys, command, *model, form, "--force", *arguments)
        assert actual == code if code else actual in (0, 1)
        texts = [out] if form == "--json" else out.splitlines()
        assert texts
        for text in texts:
            validator(f"{command}-{name}").validate(json.loads(text))
        assert ("error" in json.loads(texts[-1])) >= bool(code)


@pytest.mark.parametrize("command", ["predict", "segment"])
@pytest.mark.parametrize("raised", [KeyboardInterrupt(), MemoryError(), nm.WeightsError("NaN", "logits-not-finite")])
def test_batches_that_end_early_follow_them_too(capsys, folder, models, monkeypatch, command, raised):
    name = {"predict": "stream_predictions", "segment": "stream_segmentations"}[command]
    stream = getattr(nm.Pipeline, name)

    def fail(self, images, **options):
        yield next(stream(self, images, **options))
        raise raised

    monkeypatch.setattr(nm.Pipeline, name, fail)
    _, out, _ = run(capsys, command, "a.png", "b.png", "--json", *models[command])
    document = json.loads(out)
    validator(f"{command}-document").validate(document)
    assert (len(document["results"]), "error" in document) == (1, True)
    _, out, _ = run(capsys, command, "a.png", "b.png", "--jsonl", *models[command])
    for line in out.splitlines():
        validator(f"{command}-line").validate(json.loads(line))
    assert list(json.loads(out.splitlines()[-1])) == ["schema", "model", "error"]


def test_a_disk_that_fills_follows_them_too(capsys, folder, models, monkeypatch):
    def fail(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(targets, "write_atomically", fail)
    for command in ("predict", "segment"):
        code, out, _ = run(capsys, command, "a.png", "--json", "-o", "new.png", *models[command])
        assert code == 1
        validator(f"{command}-document").validate(json.loads(out))


def info_documents(capsys, models):
    for options in (
        models["segment"],
        [*models["predict"], "--size", "40", "33"],
        ["--model", "no such model"],
        ["--csv"],
    ):
        yield json.loads(run(capsys, "info", "--json", *options)[1])


def test_info_follows_its_schema(capsys, folder, models):
    documents = list(info_documents(capsys, models))
    assert ["error" in document for document in documents] == [False, False, True, True]
    for document in documents:
        validator("info-document").validate(document)


def test_the_schema_of_info_refuses_what_is_damaged(capsys, folder, models):
    document = next(info_documents(capsys, models))
    short = {**document, "blocks": document["blocks"][:1], "layers": document["layers"][:1]}
    accepted = [worse for worse in damaged(copy.deepcopy(short)) if validator("info-document").is_valid(worse)]
    assert accepted == []


LAYERS = "mobilevit.conv_stem,mobilevit.encoder.layer.2.transformer.layer.0.attention.attention.query"


def ranges_documents(capsys, models):
    given = ["a.png", "missing.png", "--taps", "mobilevit.conv_stem.convolution", *models["predict"]]
    narrow = ["--export", "w", "--layers", LAYERS, "--width", "16", "--accumulator", "32"]
    for arguments in (
        given,
        ["missing.png", *models["predict"], "--percentile", "100"],
        [*given, *narrow],
        ["a.png", "--model", "no such model"],
        ["a.png", "--percentile", "3"],
    ):
        yield json.loads(run(capsys, "ranges", "--json", *arguments)[1])


def test_ranges_follow_their_schema(capsys, folder, models):
    documents = list(ranges_documents(capsys, models))
    assert ["error" in document for document in documents] == [False, False, True, True, True]
    assert ["ranges" in document for document in documents] == [True, True, True, False, False]
    for document in documents:
        validator("ranges-document").validate(document)


def test_the_schema_of_ranges_refuses_what_is_damaged(capsys, folder, models):
    document = next(ranges_documents(capsys, models))
    assert {row["kind"] for row in document["ranges"]} == {"tap", "parameter"}
    accepted = [worse for worse in damaged(copy.deepcopy(document)) if validator("ranges-document").is_valid(worse)]
    # that a picture failed, no schema can know
    used = [document["results"][0], {"input": document["results"][1]["input"]}]
    assert accepted == [{**document, "results": used}]


@pytest.mark.parametrize("width", ["8", "16"])
def test_the_description_of_test_vectors_follows_its_schema(capsys, folder, models, width):
    options = ["--export", "v", "--layers", LAYERS, "--width", width]
    assert run(capsys, "ranges", "a.png", *models["predict"], *options)[0] == 0
    document = json.loads(Path("v/layers.json").read_text())
    assert [layer["operation"] for layer in document["layers"].values()] == ["conv2d", "linear"]
    validator("layers").validate(document)
    for part in ("v", "v/recorded"):
        validator("manifest").validate(json.loads((Path(part) / "manifest.json").read_text()))
    accepted = [worse for worse in damaged(copy.deepcopy(document)) if validator("layers").is_valid(worse)]
    # which layers there are, no schema can know
    fewer = [{name: layer for name, layer in document["layers"].items() if name != gone} for gone in document["layers"]]
    assert accepted == [{**document, "layers": layers} for layers in fewer]


def explain_documents(capsys, models):
    for arguments in (
        ["a.png", "-o", "p.html", "--force", *models["predict"]],
        ["a.png", "-o", "p.html", "--force", *models["segment"]],
        ["\udcff.png", "-o", "\udcff.html", "--force", *models["predict"]],
        ["missing.png", "-o", "p.html", *models["predict"]],
        ["a.png", "-o", "p.png", *models["predict"]],
        ["a.png", "-o", "q.html", "--model", "no such model"],
        ["a.png"],
    ):
        yield json.loads(run(capsys, "explain", "--json", *arguments)[1])


def test_explain_follows_its_schema(capsys, folder, models):
    documents = list(explain_documents(capsys, models))
    assert ["error" in document for document in documents] == [False] * 3 + [True] * 4
    for document in documents:
        validator("explain-document").validate(document)


def test_the_schema_of_explain_refuses_what_is_damaged(capsys, folder, models):
    for document, _ in zip(explain_documents(capsys, models), range(2), strict=False):
        accepted = [w for w in damaged(copy.deepcopy(document)) if validator("explain-document").is_valid(w)]
        assert accepted == []


def damaged(value):
    """Copies of a JSON value with one key less, one more, or one value of another type, anywhere."""
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            for worse in damaged(value[key]):
                yield {**value, key: worse}
        yield {**value, "surplus": 1}
    elif isinstance(value, list):
        for i, item in enumerate(value):
            for worse in damaged(item):
                yield [*value[:i], worse, *value[i + 1 :]]
    yield [] if value is not None and not isinstance(value, list) else 2.5


@pytest.mark.parametrize("command", ["predict", "segment"])
def test_the_schemas_refuse_what_is_damaged(capsys, folder, models, command):
    arguments = {"segment": ["-o", "out", "--overlay", "out"], "predict": ["--save-plot", "out"]}[command]
    good = ["a.png", "missing.png", *arguments, *models[command]]
    document = json.loads(run(capsys, command, *good, "--json", "--force")[1])
    lines = [json.loads(line) for line in run(capsys, command, *good, "--jsonl", "--force")[1].splitlines()]
    for name, value in (("document", document), ("line", lines[0]), ("line", lines[1])):
        accepted = [worse for worse in damaged(copy.deepcopy(value)) if validator(f"{command}-{name}").is_valid(worse)]
        # a line of an error without an input is the end of a batch
        end = {key: value[key] for key in ("schema", "model", "error") if key in value}
        assert accepted == ([end] if name == "line" and "error" in value else [])


@pytest.mark.parametrize(
    "name",
    [
        "predict-document",
        "predict-line",
        "segment-document",
        "segment-line",
        "info-document",
        "ranges-document",
        "explain-document",
    ],
)
def test_schemas_describe_everything_and_allow_nothing_else(name):
    def objects(value):
        if isinstance(value, dict):
            if value.get("type") == "object":
                yield value
            for item in value.values():
                yield from objects(item)

    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    found = list(objects(schema))
    assert len(found) >= 5
    for entry in found:
        assert entry["additionalProperties"] is False
        assert set(entry["required"]) <= set(entry["properties"])
        assert entry["description"].endswith(".")


# What record writes


@pytest.fixture(scope="module")
def recording():
    config = networks.tiny()
    network = networks.MODELS["segmentation"](config, networks.random_weights(config, "segmentation"))
    names = ["mobilevit.encoder.layer.2.folded", "mobilevit.conv_stem", "segmentation_head", "logits"]
    names += ["mobilevit.encoder.layer.4.conv_1x1"]
    pixels = networks.pixels(dtype=np.float32)
    return record(network, pixels, taps=names, max_bytes_per_tap=3000, with_bounds=True)


def test_the_metadata_of_bundles_follow_their_schema(tmp_path, recording, classifier_folder):
    assert all(recording.facts[key] for key in ("extra_taps", "aliases", "fingerprints", "bounds"))
    for bundle in (recording, record(str(classifier_folder), networks.pixels(dtype=np.float32))):
        bundle.save(tmp_path / "b.safetensors")
        with safe_open(tmp_path / "b.safetensors", "np") as file:
            facts = {key: json.loads(text) if text[:1] in "[{" else text for key, text in file.metadata().items()}
        validator("bundle").validate(facts)


def test_the_schema_of_bundles_refuses_what_is_damaged(recording):
    facts = dict(recording.facts)
    config = facts.pop("config")
    mappings = ("versions", "sha256", "aliases", "fingerprints", "bounds")
    # that an entry of a mapping is gone or new, no schema can see
    lacking = [
        {**facts, key: {k: v for k, v in facts[key].items() if k != gone}} for key in mappings for gone in facts[key]
    ]
    more = [{**facts, "bounds": {**facts["bounds"], "surplus": 1}}]
    optional = [{k: v for k, v in facts.items() if k != key} for key in ("extra_taps", "bounds", "precision")]
    *inside, _ = damaged(facts)
    accepted = [worse for worse in inside if validator("bundle").is_valid({**worse, "config": config})]
    assert all(worse in [*lacking, *more, *optional] for worse in accepted)
    assert len(accepted) == len(lacking) + len(more) + len(optional)
    assert not validator("bundle").is_valid(facts)


def manifests():
    tap = {"file": "a.raw", "dtype": "int8", "shape": [1, 2, 2, 3], "layout": "NHWC", "scale": 0.5, "zero_point": 3}
    more = {"producer": {"name": "port"}, "parameters": {"classifier.weight": {"scale": 0.25}}}
    yield {"taps": {"logits": tap}, **more}
    yield {"taps": {"logits": {"file": "sub/a.HEX", "dtype": "bfloat16", "shape": []}}}
    yield {"taps": {"logits": tap}, "parameters": {"classifier.weight": {**tap, "layout": "OHWI"}}}


@pytest.mark.parametrize("manifest", list(manifests()))
def test_the_schema_of_manifests_and_the_reader_agree(tmp_path, manifest):
    """On what is good, and on what is damaged in any place, but for what only one of them can know."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.raw").write_bytes(bytes(12))
    (tmp_path / "sub" / "a.HEX").write_text("3F80")
    seen = set()
    for value in [manifest, *damaged(copy.deepcopy(manifest))]:
        (tmp_path / "manifest.json").write_text(json.dumps(value))
        try:
            read_candidate(tmp_path)
            readable = True
        except BundleError as error:
            readable = False
            if error.code == "bundle-size":  # the files have the size of the good manifest
                continue
        assert validator("manifest").is_valid(value) == readable, value
        seen.add(readable)
    assert seen == {True, False}


def test_exports_follow_the_schema_of_manifests(tmp_path, recording):
    for form in ("npy", "raw", "hex"):
        export(recording, tmp_path / form, form=form, layout="NHWC", dtype="bfloat16")
        validator("manifest").validate(json.loads((tmp_path / form / "manifest.json").read_text()))
