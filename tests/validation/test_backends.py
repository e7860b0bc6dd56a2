"""A backend that can be run: operator by operator, layer by layer, and on whole pictures, each twice."""

import dataclasses
import json
import re

import numpy as np
import pytest
from foreign import dump
from narrow import float16, stored
from networks import make_model, pixels, tiny

from npmobilevit import ops
from npmobilevit.errors import BundleError, ConfigError, ShapeError
from npmobilevit.scope import OpTable, Scope
from npmobilevit.validation import backends, check_backend, checking
from npmobilevit.validation.backends import BackendTrial, Part, default_inputs, describe, headline
from npmobilevit.validation.mutants import Change
from npmobilevit.validation.probes import PROBES, applied
from npmobilevit.validation.replay import run_changed
from npmobilevit.validation.report import Diagnosis, Finding

ATTENTION = "mobilevit.encoder.layer.2.transformer.layer.0.attention"
SMALL = {"even": pixels(dtype=np.float32), "odd": pixels(2, height=37, width=45, dtype=np.float32)}
REPORTS: dict = {}
ONE = {"only": SMALL["even"]}


class Runs:
    """A port that can run whole pictures only."""

    def __init__(self, model, **operators):
        self.model, self.operators = model, operators

    def run(self, x):
        return dump(self.model, x, **self.operators)


class Port(Runs):
    """A port with everything: the network with other operators."""

    def __init__(self, model, **operators):
        super().__init__(model, **operators)
        self.blocks = {}

        @dataclasses.dataclass(frozen=True)
        class Learning(Scope):
            def enter(s, block, *args, **kwargs):
                self.blocks[s.name] = block, kwargs
                return super().enter(block, *args, **kwargs)

        blank = np.zeros((1, model.config.num_channels, 32, 32), np.float32)
        model.forward(Learning(model.parameters()), blank)

    def op(self, name, arrays, attributes):
        return applied(OpTable()._replace(**self.operators), name, arrays, attributes)

    def region(self, name, inputs):
        (x,) = inputs
        block, settings = self.blocks[name]
        scope = Scope(self.model.parameters(), name, ops=OpTable()._replace(**self.operators))
        return block(scope, x, **settings)


class Answers(Runs):
    """A port whose dump is edited before it is handed out."""

    def __init__(self, model, edit):
        super().__init__(model)
        self.edit, self.runs = edit, 0

    def run(self, x):
        self.runs += 1
        return self.edit(super().run(x), self.runs)


@pytest.fixture(scope="module")
def model():
    return make_model("classification", precision="float32")


def digest(tensors):
    """What tells two sets of tensors apart."""
    arrays = {name: np.asarray(x) for name, x in tensors.items()}
    return hash(tuple((name, x.dtype.str, x.shape, x.tobytes()) for name, x in arrays.items()))


@pytest.fixture(autouse=True)
def remembered(monkeypatch):
    """Most of these backends dump the same tensors, which need be checked only once."""

    def check(candidate, model, **options):
        key = [digest(candidate), id(model), checking.diagnosed]
        key += [digest(x) if isinstance(x, dict) else digest({"x": x}) for x in options.values()]
        if tuple(key) not in REPORTS:
            REPORTS[tuple(key)] = checking.check(candidate, model, **options), model
        return REPORTS[tuple(key)][0]

    monkeypatch.setattr(backends, "check", check)


def without_causes(trial, *_):
    return list(trial.findings)


@pytest.fixture
def undiagnosed(monkeypatch):
    """The search for the cause of a mistake that is in no catalogue takes long."""
    monkeypatch.setattr(checking, "diagnosed", without_causes)


def parts_of(report):
    return {part.name: part for part in report.parts}


def wrong(report):
    return [part.name for part in report.parts if part.status == "fail"]


def only_finding(report):
    (finding,) = report.failures
    return finding


# honest ports


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_an_honest_port_passes_in_every_part(task):
    model = make_model(task, precision="float32")
    report = check_backend(Port(model), model, pixel_values=SMALL)
    assert {part.name: part.status for part in report.parts if part.status != "pass"} == {}
    assert [part.name for part in report.parts] == [
        *(f"probe:{probe.name}" for probe in PROBES),
        "regions",
        "input:even",
        "input:odd",
        "first-input-again",
    ]
    assert report.verdict == "pass"
    assert report.passed
    assert report.failures == ()
    assert list(report.reports) == ["even", "odd"]
    assert len(report.probes) == len(PROBES)
    assert report.to_text().startswith("PASS: from input to output")


def test_every_small_layer_is_run_alone(model):
    port = Port(model)
    part = BackendTrial(port, model, pixel_values=ONE).regions()
    judged = {judgement.tap for report in part.reports for judgement in report.judgements}
    chosen = ("conv_layer", "linear_layer", "layer_norm", "self_attention", "inverted_residual", "aspp_pooling")
    assert judged == {name for name, (block, _) in port.blocks.items() if block.__name__ in chosen}
    assert part.not_run == ()


def test_a_port_without_layers_and_operators_passes_with_what_it_has(model):
    report = check_backend(Runs(model), model, pixel_values=SMALL)
    assert report.verdict == "pass"
    assert {part.status for part in report.probes} == {"not run"}
    assert parts_of(report)["regions"].status == "not run"
    text = report.to_text()
    assert "regions: layers: the backend has no region(name, inputs)" in text
    assert "conv2d: the backend has no op(name, arrays, attributes)" in text


def test_a_port_that_gives_logits_only_is_screened(model):
    report = check_backend(Answers(model, lambda taps, _: {"logits": taps["logits"]}), model, pixel_values=ONE)
    assert report.verdict == "screened"
    assert report.passed
    assert report.to_text().startswith("SCREENED: nothing wrong was seen, but")


def test_half_precision_passes_where_it_is_declared(model, undiagnosed):
    port = Port(model, **stored(float16))
    part = BackendTrial(port, model, profile="fp16", pixel_values=ONE).regions()
    assert part.failures == ()
    assert part.status == "screened"  # as some tolerances are wide then


def test_of_fixed_point_no_operator_is_judged(model):
    part = BackendTrial(Port(model), model, profile="fixed", pixel_values=ONE).probe(PROBES[0])
    assert part.status == "not run"
    assert "states no step" in part.not_run[0]


# mistakes


def test_a_mistake_shows_in_operators_layers_and_pictures_with_its_cause(model):
    port = Port(model, attention_scores=lambda q, k: ops.attention_scores(q, k) * np.float32(np.sqrt(q.shape[-1])))
    report = check_backend(port, model, pixel_values=ONE)
    assert wrong(report) == [
        "probe:scaled_dot_product_attention-square",
        "probe:multi_head_attention-heads",
        "regions",
        "input:only",
    ]
    regions = parts_of(report)["regions"]
    assert {finding.tap.rpartition(".layer.")[2][1:] for finding in regions.failures} == {".attention.attention"}
    assert {finding.cause for finding in regions.failures} == {"ATT-03"}
    assert regions.failures[0].tap == f"{ATTENTION}.attention"
    assert headline(regions.findings).startswith(f"{ATTENTION}.attention: ATT-03: scores not scaled")
    assert report.verdict == "fail"
    assert not report.passed
    first_line = report.to_text().splitlines()[0]
    assert first_line.startswith("FAIL: 4 of 31 parts are wrong; first: probe:scaled_dot_product_attention-square")


def test_one_wrong_layer_is_the_only_one_that_is_blamed(model, undiagnosed):
    name = "mobilevit.encoder.layer.3.transformer.layer.1.layernorm_after"

    class OneWrong(Port):
        def region(self, asked, inputs):
            y = super().region(asked, inputs)
            return y * np.float32(1.001) if asked == name else y

    part = BackendTrial(OneWrong(model), model, pixel_values=ONE).regions()
    assert [finding.tap for finding in part.failures] == [name]
    assert part.status == "fail"


@pytest.mark.parametrize("name", ["mobilevit.encoder.layer.2.downsampling_layer", f"{ATTENTION}.attention"])
def test_a_layer_that_holds_others_is_judged_on_its_own_input(model, undiagnosed, name):
    class OneWrong(Port):
        def region(self, asked, inputs):
            y = super().region(asked, inputs)
            return np.roll(y, 1, -1) if asked == name else y

    part = BackendTrial(OneWrong(model), model, pixel_values=ONE).regions()
    assert {finding.tap for finding in part.failures} == {name}


# runs that differ


def noisy(taps, number):
    """The last bit of one element varies."""
    x = taps["mobilevit.encoder.layer.0"].copy()
    x[0, 0, 0, 0] = np.nextafter(x[0, 0, 0, 0], np.float32(np.inf if number % 2 else -np.inf))
    return taps | {"mobilevit.encoder.layer.0": x}


def test_results_that_vary_from_run_to_run_are_found_at_the_first_tap(model, undiagnosed):
    report = check_backend(Answers(model, noisy), model, pixel_values=SMALL)
    findings = [finding for finding in report.failures if finding.kind == "unsteady"]
    assert [finding.tap for finding in findings] == ["mobilevit.encoder.layer.0"] * 2
    assert {finding.cause for finding in findings} == {"SYS-04"}
    assert "1 of" in findings[0].message
    assert parts_of(report)["first-input-again"].status == "not run"


def sums_in_any_order(model):
    """A port whose inner products add up in another order every time."""
    random = np.random.default_rng(0)

    def linear(x, *, weight, bias=None):
        order = random.permutation(x.shape[-1])
        return ops.linear(x[..., order], weight=weight[:, order], bias=bias)

    return Runs(model, linear=linear)


def test_sums_in_a_varying_order_are_right_and_unsteady(model, undiagnosed):
    report = check_backend(sums_in_any_order(model), model, pixel_values=ONE)
    finding = only_finding(report)
    assert (finding.kind, finding.cause) == ("unsteady", "SYS-04")
    assert finding.tap.startswith(f"{ATTENTION}.attention.")


class WithDropout(Runs):
    """A port in training mode: dropout behind some nodes."""

    def __init__(self, model, where, target="out"):
        super().__init__(model)
        self.random = np.random.default_rng(0)
        self.changes = (Change(target, where, self.dropped),)

    def dropped(self, _s, *values, **parameters):
        *own, x = values
        return own[0](self.thinned(x), **parameters) if own else self.thinned(x)

    def thinned(self, x):
        return np.where(self.random.random(x.shape) < 0.1, 0, x / np.float32(0.9)).astype(np.float32)

    def run(self, x):
        return run_changed(self.model, x, self.changes)


@pytest.mark.parametrize(
    ("where", "target", "tap"),
    [
        (r".*layer\.2\.transformer\.layer\.0\.attention\.output", "out", f"{ATTENTION}.output"),
        (r"encoder\.layer\.2\.conv_1x1", "out", "mobilevit.encoder.layer.2.conv_1x1"),
    ],
)
def test_dropout_is_told_from_other_causes(model, undiagnosed, where, target, tap):
    report = check_backend(WithDropout(model, where, target), model, pixel_values=ONE)
    findings = [finding for finding in report.failures if finding.kind == "unsteady"]
    assert [(finding.tap, finding.cause) for finding in findings] == [(tap, "SYS-06")]
    assert "evaluation mode" in findings[0].message


def test_dropout_before_a_sum_is_told_by_the_tap_before_it(model, undiagnosed):
    class Port(Runs):
        random = np.random.default_rng(0)

        def run(self, x):
            taps = super().run(x)
            layer = "mobilevit.encoder.layer.4.transformer.layer.2.output"
            y = taps[f"{layer}.dense"]
            kept = np.where(self.random.random(y.shape) < 0.1, 0, y / np.float32(0.9))
            return taps | {layer: taps[layer] - y + kept.astype(np.float32)}

    report = check_backend(Port(model), model, pixel_values=ONE)
    causes = {finding.cause for finding in report.failures if finding.kind == "unsteady"}
    assert causes == {"SYS-06"}


@pytest.mark.parametrize("only", [(), ("logits",)])
def test_dropout_without_a_pattern_gets_no_name(model, undiagnosed, only):
    """Before the classifier's product, or where too few taps are given to see it."""

    def keep(taps):
        return {name: taps[name] for name in only} if only else taps

    class Port(WithDropout):
        def run(self, x):
            return keep(super().run(x))

    report = check_backend(Port(model, "classifier", "linear"), model, pixel_values=ONE)
    (finding,) = [finding for finding in report.failures if finding.kind == "unsteady"]
    assert finding.tap == ("logits" if only else "classifier")
    assert finding.cause is None
    assert "dropout may be active, or" in finding.message


def test_dropout_inside_of_a_region_without_taps_gets_no_name(model, undiagnosed):
    class Port(WithDropout):
        def run(self, x):
            taps = super().run(x)
            return {name: taps[name] for name in ("mobilevit.encoder.layer.1", "mobilevit.encoder.layer.2", "logits")}

    report = check_backend(Port(model, r"encoder\.layer\.2\.conv_1x1"), model, pixel_values=ONE)
    (finding,) = [finding for finding in report.failures if finding.kind == "unsteady"]
    assert (finding.tap, finding.cause) == ("mobilevit.encoder.layer.2", None)


def test_the_first_tap_is_found_in_whatever_order_they_are_dumped(model, undiagnosed):
    report = check_backend(
        Answers(model, lambda taps, number: {n: x * number for n, x in reversed(taps.items()) if n != "pixel_values"}),
        model,
        pixel_values=ONE,
    )
    (finding,) = [finding for finding in report.failures if finding.kind == "unsteady"]
    assert finding.tap == "mobilevit.conv_stem.convolution"


def test_rounding_and_scaled_noise_are_no_dropout():
    before = np.random.default_rng(0).random(1000) + 1
    kept = np.arange(1000) % 10 > 0
    dropped = np.where(kept, before / 0.9, 0)
    assert backends._is_dropout(dropped, np.roll(dropped, 1) * 0 + before / 0.9, None)
    assert not backends._is_dropout(np.where(kept, before, 0), np.where(kept, before, 1e-9), None)
    assert backends._is_dropout(5 + dropped, 5 + before / 0.9, before)
    assert not backends._is_dropout(5 + before, 5 + before * 1.01, before)
    assert not backends._is_dropout(dropped[:4], before[:4] / 0.9, None)


def test_layers_behind_a_resize_run_on_what_it_made(model):
    part = BackendTrial(Port(model), model, pixel_values={"odd": SMALL["odd"]}).regions()
    assert part.status == "pass"
    (leaves, _) = part.reports
    (first,) = [j for j in leaves.judgements if j.tap == f"{ATTENTION[: -len('attention')]}layernorm_before"]
    assert first.region == ()


class FirstSize(Runs):
    """A port that keeps the largest size it saw."""

    largest = 0

    def run(self, x):
        taps = super().run(x)
        self.largest = max(self.largest, x.size)
        if x.size < self.largest:
            taps["logits"] = taps["classifier"] = taps["logits"] * np.float32(1 + 2**-23)
        return taps


def test_state_that_is_kept_from_another_size_is_found(model, undiagnosed):
    report = check_backend(FirstSize(model), model, pixel_values=SMALL)
    again = parts_of(report)["first-input-again"]
    (finding,) = again.failures
    assert (finding.tap, finding.kind, finding.cause) == ("classifier", "state", "SYS-03")
    assert "'even'" in finding.message


def test_with_one_input_there_is_no_other_size(model):
    report = check_backend(Runs(model), model, pixel_values=ONE)
    assert parts_of(report)["first-input-again"].not_run == ("there is one input only",)


def test_buffers_that_are_used_again_are_told_from_equal_results(model, undiagnosed):
    class Port(Answers):
        buffers: dict = {}  # noqa: RUF012

        def run(self, x):
            for name, value in super().run(x).items():
                self.buffers.setdefault(name, np.empty_like(value))[:] = value
            return self.buffers

    assert check_backend(Port(model, lambda taps, _: taps), model, pixel_values=ONE).verdict == "pass"
    varying = check_backend(Port(model, noisy), model, pixel_values=ONE)
    assert "unsteady" in {finding.kind for finding in varying.failures}


def test_a_tap_that_is_missing_or_misshapen_in_one_run_is_found(model, undiagnosed):
    def missing(taps, number):
        return {name: x for name, x in taps.items() if number == 1 or not name.endswith("layer.1")}

    def misshapen(taps, number):
        return taps | {"logits": taps["logits"][:, : 6 - number]}

    for edit, text in ((missing, "in one of two runs"), (misshapen, r"has shape \(1, 5\) in one run, and \(1, 4\)")):
        report = check_backend(Answers(model, edit), model, pixel_values=ONE)
        assert re.search(text, only_finding(report).message)


# backends that break


class Boom(Exception):
    pass


def raising(*_):
    raise Boom("no luck\x1b[31m")


def absent(*_):
    raise NotImplementedError


def test_what_a_backend_raises_is_a_finding(model, undiagnosed):
    port = Port(model)
    port.run = port.op = port.region = raising
    report = check_backend(port, model, pixel_values=SMALL)
    assert {part.status for part in report.probes} == {"fail"}
    assert parts_of(report)["regions"].status == parts_of(report)["input:odd"].status == "fail"
    assert {finding.kind for finding in report.failures} == {"raised"}
    assert all("raised Boom: no luck" in finding.message for finding in report.failures)
    assert parts_of(report)["first-input-again"].status == "not run"
    assert report.verdict == "fail"
    assert "\x1b" not in report.to_text()


def test_what_a_backend_does_not_have_is_not_run_and_not_passed(model):
    port = Port(model)
    port.run = port.op = port.region = absent
    report = check_backend(port, model, pixel_values=SMALL)
    assert {part.status for part in report.parts} == {"not run"}
    assert report.verdict == "screened"


def test_a_port_may_lack_some_layers_operators_and_sizes(model):
    class Some(Port):
        def run(self, x):
            return absent() if x.shape[0] == 2 else super().run(x)

        def op(self, name, arrays, attributes):
            return absent() if name == "conv2d" else super().op(name, arrays, attributes)

        def region(self, name, inputs):
            return absent() if name.endswith("fusion") else super().region(name, inputs)

    report = check_backend(Some(model), model, pixel_values=SMALL)
    parts = parts_of(report)
    assert {part.name.partition("-")[0] for part in report.probes if part.status == "not run"} == {"probe:conv2d"}
    assert parts["regions"].not_run == tuple(f"mobilevit.encoder.layer.{i}.fusion" for i in (2, 3, 4))
    assert parts["regions"].status == "pass"
    assert parts["input:odd"].status == "not run"
    assert report.verdict == "pass"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "must return tensors by the names of taps, not NoneType"),
        ([np.zeros(3)], "not list"),
        ("logits.npz", "not str"),
        ({}, "holds no tap"),
        ({"logits": "junk"}, "cannot be read"),
        ({1: np.zeros(3)}, "name of a tap must be text"),
        ({"made-up": np.zeros(3)}, "nothing that can be judged"),
    ],
)
def test_junk_is_a_finding(model, result, text):
    report = check_backend(Answers(model, lambda *_: result), model, pixel_values=ONE)
    finding = only_finding(report)
    assert (finding.tap, finding.kind) == ("run", "result")
    assert text in finding.message
    assert report.verdict == "fail"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_a_finding_of_its_tap_and_the_same_in_both_runs(model, undiagnosed, value):
    report = check_backend(
        Answers(model, lambda taps, _: taps | {"logits": np.full_like(taps["logits"], value)}),
        model,
        pixel_values=ONE,
    )
    finding = only_finding(report)
    assert (finding.tap, finding.kind) == ("logits", "non-finite")


def test_junk_of_layers_and_operators_is_a_finding(model, undiagnosed):
    port = Port(model)
    port.op = port.region = lambda *_: "junk"
    report = check_backend(port, model, pixel_values=ONE)
    assert {finding.kind for finding in report.failures} == {"result"}
    assert parts_of(report)["input:only"].status == "pass"


def test_an_input_that_is_overwritten_is_a_finding_and_spoils_nothing(model):
    class Port(Runs):
        def run(self, x):
            taps = super().run(x.copy())
            x *= 0
            return taps

    report = check_backend(Port(model), model, pixel_values=SMALL)
    assert [(finding.tap, finding.kind) for finding in report.failures] == [("pixel_values", "in-place")] * 3
    assert all(part.verdict == "pass" for part in report.reports.values())


def test_what_is_given_to_layers_and_operators_may_be_overwritten(model):
    class Port2(Port):
        def region(self, name, inputs):
            y = super().region(name, inputs).copy()
            inputs[0][...] = 0
            return y

        def op(self, name, arrays, attributes):
            y = np.array(super().op(name, arrays, attributes))
            for array in arrays.values():
                array[...] = 0
            attributes.clear()
            return y

    report = check_backend(Port2(model), model, pixel_values=ONE)
    assert report.verdict == "pass"
    assert report.failures == ()


# arguments and inputs


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"backend": object()}, ConfigError),
        ({"backend": None}, ConfigError),
        ({"profile": "fp8"}, ConfigError),
        ({"pixel_values": {}}, ConfigError),
        ({"pixel_values": np.zeros((1, 3, 32, 32))}, ConfigError),
        ({"pixel_values": {"a": np.zeros((1, 1, 32, 32))}}, ShapeError),
        ({"model": "no-such-model"}, OSError),
    ],
)
def test_wrong_arguments_end_in_our_exceptions(model, arguments, error):
    with pytest.raises(error):
        check_backend(**{"backend": Runs(model), "model": model} | arguments)


@pytest.mark.parametrize("widths", [[64, 80, 96], [96, 120, 144], [144, 192, 240], [8, 12, 16]])
def test_default_inputs_meet_the_conditions_of_the_catalogue(widths):
    inputs = default_inputs(tiny(hidden_sizes=widths))
    assert list(inputs) == ["picture", "odd-grid", "odd", "batch"]
    for x in inputs.values():
        assert x.dtype == np.float32
        assert x.min() >= 0
        assert x.max() <= 1
        assert x.size < 60_000
    steps = inputs["picture"] * 255
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)

    def maps(name):
        """Sizes of the maps in the three MobileViT blocks."""
        height, width = inputs[name].shape[2:]
        return [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32)]

    assert [h % 2 or w % 2 for h, w in maps("picture")] == [0, 0, 0]
    assert [h % 2 and w % 2 for h, w in maps("odd-grid")] == [0, 0, 1]
    assert maps("odd") == [(10, 14), (5, 7), (3, 4)]
    assert inputs["batch"].shape[0] == 2
    if widths[0] > 8:  # tokens of the first block, and the width of a head
        height, width = maps("batch")[0]
        assert height * width // 4 == widths[0] // 4


# reports


def finding(**changes):
    return Finding(**{"tap": "a.b", "severity": "fail", "kind": "error", "message": "is wrong"} | changes)


def test_the_headline_names_the_cause_if_it_is_known():
    diagnosis = Diagnosis("NRM-01", "eps 1e-3; expected 1e-5", "", "")
    assert headline([finding(severity="note"), finding(cause="NRM-01", diagnosis=diagnosis)]) == (
        "a.b: NRM-01: eps 1e-3; expected 1e-5"
    )
    assert headline([finding(cause="SYS-04")]) == "a.b: SYS-04: is wrong"
    assert headline([finding(message="is\nwrong")]) == r"a.b: is\nwrong"
    assert headline([]) == ""


def test_a_part_is_described_once():
    text = describe(Part("input:x", (finding(cause="SYS-04"),)))
    assert text.splitlines() == ["a.b: SYS-04: is wrong", "", "  a.b (error)", "      is wrong", "      cause: SYS-04"]


def test_a_report_can_be_saved_in_every_form(model, undiagnosed, tmp_path):
    report = check_backend(
        Answers(model, lambda taps, _: taps | {"logits": taps["logits"] * np.nan}), model, pixel_values=ONE
    )
    report.save(tmp_path / "new" / "r.json")
    document = json.loads((tmp_path / "new" / "r.json").read_text(encoding="ascii"))
    assert document["schema"] == "npmobilevit.check-backend/1"
    assert document["verdict"] == "fail"
    assert document["model"]["class"] == "MobileViTForImageClassification"
    assert [part["status"] for part in document["parts"] if part["name"] == "input:only"] == ["fail"]
    report.save(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="ascii")
    assert "<pre>FAIL: 1 of" in page
    report.save(tmp_path / "r.txt")
    assert (tmp_path / "r.txt").read_text(encoding="ascii") == f"{report}\n"
    with pytest.raises(ConfigError, match=r"ends in \.json"):
        report.save(tmp_path / "r.pdf")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot write the report"):
        report.save(tmp_path / "file" / "r.json")


def test_what_a_backend_says_cannot_steer_the_page(model):
    def fail(*_):
        raise ValueError("</pre><script>alert(1)</script>")

    port = Runs(model)
    port.run = fail
    report = check_backend(port, model, pixel_values=ONE)
    assert "<script>" not in report.to_html()
    assert "&lt;script&gt;" in report.to_html()
