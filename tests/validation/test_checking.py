"""The check as a whole, on ports whose operators are ours but for the mistake in question."""

import io
import json

import numpy as np
import pytest
from foreign import cut_to, dump, float16, stored, with_operands
from memory import peak_growth
from networks import FEWER_LAYERS, MODELS, random_weights, tiny
from PIL import Image

import npmobilevit as nm
from npmobilevit import ops
from npmobilevit.errors import BundleError, ConfigError, ShapeError
from npmobilevit.scope import OpTable, Scope
from npmobilevit.validation import check, checking

pytestmark = pytest.mark.usefixtures("fewer_layers")

BLOCK = "mobilevit.encoder.layer.2"
LAYER = f"{BLOCK}.transformer.layer.0"
TASKS = (None, "classification", "segmentation")


def model_of(task="classification", seed=0, **changes):
    config = tiny(**changes)
    weights = random_weights(config, task, seed=seed, dtype=np.float32)
    return MODELS[task](config, weights)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def x():
    return pixels(1, 3, 64, 96)


@pytest.fixture(scope="module")
def honest(model, x):
    return dump(model, x)


@pytest.fixture(scope="module")
def judgements(model, honest):
    """Those of the honest port, by tap."""
    return {judgement.tap: judgement for judgement in check(honest, model).judgements}


@pytest.fixture
def without_names(monkeypatch):
    """Judge without trying the catalogue, which takes its time on large regions; tests/validation/test_diagnosis.py
    has the names."""
    monkeypatch.setattr(checking, "diagnosed", lambda trial, _pixel_values: trial.findings)


unnamed = pytest.mark.usefixtures("without_names")


def failing(report):
    return [finding.tap for finding in report.failures]


def kinds(report):
    return {finding.tap: finding.kind for finding in report.findings}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 57, 83)])
def test_an_honest_port_passes_at_every_tap(task, shape):
    model = model_of(task)
    taps = dump(model, pixels(*shape))
    report = check(taps, model)
    assert report.verdict == "pass"
    assert report.findings == ()
    assert report.unchecked == ()
    assert report.behaves_as == "fp32"
    assert [j.tap for j in report.judgements] == list(taps)[1:]
    assert all(j.ratio <= 1 and j.status == "right" for j in report.judgements)
    assert {j.test for j in report.judgements} == {"local", "exact"}


def conv_with(condition, **changed):
    """conv2d with other arguments where the condition on the weight holds."""

    def conv2d(x, *, weight, **arguments):
        found = changed if condition(weight, arguments) else {}
        return ops.conv2d(x, **{"weight": weight, **arguments, **{k: f(weight, arguments) for k, f in found.items()}})

    return conv2d


def once(condition, wrong, right):
    """An operator that is wrong at its calls for which the condition holds."""
    return lambda *a, **k: (wrong if condition(*a, **k) else right)(*a, **k)


MISTAKES = {
    "kernels flipped": (
        {
            "conv2d": conv_with(
                lambda w, a: a["groups"] > 1 and a["stride"] == 2, weight=lambda w, a: w[:, :, ::-1, ::-1]
            )
        },
        [
            "mobilevit.encoder.layer.1.layer.0.conv_3x3.convolution",
            *(f"mobilevit.encoder.layer.{i}.downsampling_layer.conv_3x3.convolution" for i in (2, 3, 4)),
        ],
    ),
    "scale of the attention twice": (
        {"attention_scores": lambda q, k: ops.attention_scores(q, k) / 2},
        [
            f"mobilevit.encoder.layer.{i}.transformer.layer.{j}.attention.attention"
            for i, depth in zip((2, 3, 4), FEWER_LAYERS, strict=True)
            for j in range(depth)
        ],
    ),
    "two heads for four": (
        {"split_heads": lambda x, heads: ops.split_heads(x, 2)},
        [
            f"mobilevit.encoder.layer.{i}.transformer.layer.{j}.attention.attention"
            for i, depth in zip((2, 3, 4), FEWER_LAYERS, strict=True)
            for j in range(depth)
        ],
    ),
    "concatenated in the wrong order": (
        {"concat_channels": lambda maps: ops.concat_channels(maps[::-1])},
        [f"mobilevit.encoder.layer.{i}.fusion.convolution" for i in (2, 3, 4)],
    ),
    "maximum for average": (
        {"global_avg_pool": lambda x: x.max(axis=(2, 3))},
        ["classifier"],
    ),
    "raster quarters for patches": (  # seen by three taps, blamed at the first
        {
            "unfold_patches": lambda x, p: (
                x.reshape(x.shape[0], x.shape[1], p * p, -1)
                .transpose(0, 2, 3, 1)
                .reshape(x.shape[0] * p * p, -1, x.shape[1])
            )
        },
        [f"mobilevit.encoder.layer.{i}.transformer.layer.0.layernorm_before" for i in (2, 3, 4)],
    ),
    "eps of the batch normalisation": (
        {"batch_norm": lambda x, **k: ops.batch_norm(x, **k, eps=1e-3)},
        "every normalization",
    ),
    "eps of the layer normalisation": (
        {"layer_norm": lambda x, *, eps, **k: ops.layer_norm(x, **k, eps=1e-3)},
        "every layernorm",
    ),
    "GELU for SiLU in the transformer": (
        {"activations": {**ops.ACTIVATIONS, "silu": once(lambda x: x.ndim == 3, ops.gelu, ops.silu)}},
        "every intermediate_act_fn",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_where_it_is_and_nowhere_else(name, model, x):
    operators, places = MISTAKES[name]
    report = check(dump(model, x, **operators), model)
    if isinstance(places, str):
        leaf = places.removeprefix("every ")
        names = [j.tap for j in report.judgements]
        places = [n for n in names if n.rpartition(".")[2].startswith(leaf)]
    assert report.verdict == "fail"
    assert sorted(failing(report)) == sorted(places)
    assert not report.passed


def test_several_mistakes_are_all_found(model, x):
    chosen = ["kernels flipped", "scale of the attention twice", "maximum for average"]
    operators = {k: v for name in chosen for k, v in MISTAKES[name][0].items()}
    report = check(dump(model, x, **operators), model)
    assert sorted(failing(report)) == sorted(place for name in chosen for place in MISTAKES[name][1])


@pytest.mark.parametrize("index", [0, 3, 7])
def test_one_wrong_element_is_found_and_only_its_tap_and_its_reader_can_tell(model, honest, judgements, index):
    """Three tolerances in one element: the tap itself fails."""
    name = f"{BLOCK}.conv_kxk.convolution"
    wrong = np.array(honest[name], np.float64)
    wrong.reshape(-1)[index] += 3 * judgements[name].resolution
    report = check({**honest, name: wrong}, model)
    assert failing(report)[0] == name
    assert set(failing(report)) <= {name, f"{BLOCK}.conv_kxk.normalization"}


def findings_of(report, tap):
    return {finding.kind for finding in report.findings if finding.tap == tap}


def test_a_fault_below_the_tolerance_is_unusual(model, honest, judgements):
    """A slope of all elements: none of them leaves its tolerance."""
    name = "mobilevit.encoder.layer.1.layer.1.expand_1x1.convolution"
    sloped = np.float64(honest[name]) * (1 + 0.3 * judgements[name].resolution / np.abs(honest[name]).max())
    report = check({**honest, name: sloped}, model)
    assert report.passed
    assert "structure" in findings_of(report, name)
    assert next(j for j in report.judgements if j.tap == name).status == "unusual"


def test_an_error_of_several_times_the_usual_is_unusual(model, honest):
    some = {name: value for name, value in honest.items() if name != "classifier"}
    judgement = check(some, model).judgements[-1]
    wrong = np.array(honest["logits"], np.float64)
    wrong[judgement.worst] = judgement.expected + 0.6 * judgement.tolerance
    report = check({**some, "logits": wrong}, model)
    assert report.passed
    assert findings_of(report, "logits") == {"screen"}


@unnamed
def test_a_coarse_region_is_calibrated_and_a_small_mistake_found_there(model, x, honest):
    """Certified, the tolerance of all that lies between two stages would let it pass."""
    stages = ("pixel_values", "mobilevit.encoder.layer.2", "mobilevit.encoder.layer.3", "logits")
    right = {name: honest[name] for name in stages}
    before = {j.tap: j for j in check(right, model).judgements}
    assert before[stages[1]].test == "screened"
    assert all(0 < before[name].resolution < 0.01 * before[name].scale for name in stages[1:3])
    name = stages[2]
    wrong = np.float64(honest[name]) + 3 * before[name].resolution
    assert failing(check({**right, name: wrong}, model))[0] == name
    wrong = dump(model, x, layer_norm=lambda x, *, eps, **k: ops.layer_norm(x, **k, eps=1e-3))
    assert failing(check({name: wrong[name] for name in stages}, model))[0] == stages[1]


def test_taps_that_are_missing_widen_the_region(model, x, honest):
    keep = ("pixel_values", "logits", "fusion", "conv_3x3", "conv_stem")
    some = {name: value for name, value in honest.items() if name.rpartition(".")[2] in keep}
    report = check(some, model)
    assert report.passed
    assert set(report.unchecked) == honest.keys() - some.keys()
    stem = report.judgements[0]
    assert stem.tap == "mobilevit.conv_stem"
    assert stem.region == tuple(
        f"mobilevit.conv_stem.{leaf}" for leaf in ("convolution", "normalization", "activation")
    )
    assert next(j for j in report.judgements if j.tap == f"{BLOCK}.downsampling_layer.conv_3x3").test == "local"


@unnamed
def test_a_mistake_within_a_region_is_found_at_its_end(model, x):
    taps = dump(model, x, batch_norm=lambda x, **k: ops.batch_norm(x, **k, eps=1e-3))
    some = {name: value for name, value in taps.items() if name in ("pixel_values", "mobilevit.conv_stem", "logits")}
    assert failing(check(some, model))[0] == "mobilevit.conv_stem"


@unnamed
def test_the_ends_alone_are_screened(model, x, honest):
    ends = {name: honest[name] for name in ("pixel_values", "logits")}
    report = check(ends, model)
    assert report.verdict == "screened"
    assert report.passed
    assert report.judgements[-1].test == "screened"
    wrong = dump(model, x, split_heads=lambda x, heads: ops.split_heads(x, 2))
    assert check({**ends, "logits": wrong["logits"]}, model).verdict == "fail"


def test_without_the_last_tap_the_verdict_is_screened(model, honest):
    some = {name: value for name, value in honest.items() if name not in ("logits", "classifier")}
    assert check(some, model).verdict == "screened"
    some["classifier"] = honest["classifier"]  # the same values as the logits
    assert check(some, model).verdict == "pass"


@pytest.mark.case(
    "161", "NaN in a port's tensors from some layer on", "found at that layer; nothing behind it is blamed"
)
def test_not_a_number_is_found_where_it_begins(model, honest):
    taps = {name: np.array(value) for name, value in honest.items()}
    names = list(taps)
    first = names.index(f"{BLOCK}.conv_kxk.activation")
    for name in names[first:]:
        taps[name].reshape(-1)[: taps[name].size // 2] = np.nan
    report = check(taps, model)
    assert failing(report) == [f"{BLOCK}.conv_kxk.activation"]
    assert kinds(report)[f"{BLOCK}.conv_kxk.activation"] == "non-finite"
    assert "NaN" in report.failures[0].message
    assert report.verdict == "fail"


def test_infinity_in_one_tap_alone_is_that_taps(model, honest):
    name = f"{LAYER}.intermediate.dense"
    wrong = np.array(honest[name])
    wrong[0, 0, 0] = np.inf
    report = check({**honest, name: wrong}, model)
    assert failing(report) == [name]
    assert report.failures[0].kind == "non-finite"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.transpose(0, 2, 3, 1), "N, H, W, C"),
        (lambda a: a.transpose(0, 1, 3, 2), "N, C, W, H"),
        (lambda a: a[:, ::-1], "channels"),
        (lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).reshape(a.shape), "N, H, W, C"),
        (lambda a: a.byteswap(), "bytes are in the other order"),
        (lambda a: a.view(np.int32), "float32, and were read as int32"),
    ],
)
def test_a_dump_in_another_layout_is_said_and_blames_nobody_else(model, honest, change, words):
    name = f"{BLOCK}.fusion.convolution"
    report = check({**honest, name: change(honest[name])}, model)
    assert failing(report) == [name]
    assert report.failures[0].kind == "layout"
    assert words in report.failures[0].message


def test_swapped_names_are_said_and_blame_nobody_else(model, honest):
    query, key = (f"{LAYER}.attention.attention.{leaf}" for leaf in ("query", "key"))
    report = check({**honest, query: honest[key], key: honest[query]}, model)
    assert failing(report) == [query, key]
    assert {finding.kind for finding in report.failures} == {"misnamed"}


def test_a_wrong_shape_is_said_and_blames_nobody_else(model, honest):
    name = f"{BLOCK}.conv_projection.activation"
    report = check({**honest, name: honest[name][:, :-1]}, model)
    assert failing(report) == [name]
    assert report.failures[0].kind == "shape"
    assert str(honest[name].shape) in report.failures[0].message


def test_integers_without_a_scale_are_said(model, honest):
    name = f"{BLOCK}.fusion.convolution"
    report = check({**honest, name: np.round(honest[name] * 256).astype(np.int16)}, model)
    assert "int16 without a scale" in report.failures[0].message


@pytest.mark.case("162", "check: names that are no taps, or nothing beside pixel_values", "BundleError")
def test_a_candidate_without_any_tap_is_refused(model, x):
    for taps in ({}, {"mobilevit_conv_stem": x}):
        with pytest.raises(BundleError, match="npmobilevit taps") as caught:
            check({"pixel_values": x, **taps}, model)
        assert caught.value.code == "bundle-no-tap"


def test_pixel_values_of_another_layout_come_with_advice(model, honest, x):
    for wrong, words in ((x.transpose(0, 2, 3, 1), "N, H, W, C"), (x[0], "axis of the pictures")):
        with pytest.raises(BundleError, match=words):
            check({**honest, "pixel_values": wrong}, model)


def test_names_that_mean_nothing_are_told_but_decide_nothing(model, honest, x):
    strange = {"mobilevit.frobnicator": np.zeros(3), "mobilevit.x.dropout": np.zeros(3), "conv_stem.normalisation": x}
    report = check({**honest, **strange}, model)
    assert report.verdict == "pass"
    assert kinds(report) == {"mobilevit.frobnicator": "extra", "conv_stem.normalisation": "extra"}
    assert "did you mean mobilevit.conv_stem.normalization?" in report.findings[1].message


def test_the_prefix_may_be_left_out(model, honest):
    report = check({name.removeprefix("mobilevit."): value for name, value in honest.items()}, model)
    assert report.verdict == "pass"
    assert report.findings == ()


def test_extras_are_judged_when_they_are_there(model, x):
    extras = [
        f"{LAYER}.attention.attention.scores",
        f"{LAYER}.attention.attention.probs",
        f"{BLOCK}.unfolded",
        f"{BLOCK}.folded",
    ]
    taps = dump(model, x, extras)
    report = check(taps, model)
    assert report.verdict == "pass"
    tests = {j.tap: j.test for j in report.judgements}
    assert [tests[name] for name in extras] == ["local", "local", "exact", "exact"]
    taps[extras[2]] = np.nextafter(taps[extras[2]], np.float32(9))  # moved data may not change at all
    assert extras[2] in failing(check(taps, model))


def test_pixel_values_may_come_apart(model, x, honest):
    rest = {name: value for name, value in honest.items() if name != "pixel_values"}
    with pytest.raises(BundleError, match="pixel_values") as caught:
        check(rest, model)
    assert caught.value.code == "bundle-no-input"
    assert check(rest, model, pixel_values=x).verdict == "pass"
    assert check(honest, model, pixel_values=x).verdict == "pass"
    report = check(honest, model, pixel_values=x + np.float32(0.1))
    assert failing(report) == ["pixel_values"]  # and the port is judged on its own
    with pytest.raises(ShapeError):
        check(rest, model, pixel_values=x[0])
    with pytest.raises(BundleError, match="pixel_values"):
        check({**honest, "pixel_values": x[0]}, model)


def test_pixel_values_beyond_those_of_pictures_are_unusual(model, x):
    report = check(dump(model, x * 255), model)
    assert report.passed
    assert kinds(report) == {"pixel_values": "preprocessing"}


def test_injection_judges_each_region_on_the_recorded_input(model, x):
    golden = {name: np.float64(value) for name, value in dump(model, x).items()}
    name = f"{BLOCK}.conv_kxk.normalization"
    port = {**golden, name: golden[name] * 1.01}
    report = check(port, model, inputs=golden)
    assert failing(report) == [name]
    assert failing(check(port, model)) == [name, f"{BLOCK}.conv_kxk.activation"]


def test_a_float32_port_passes_on_recorded_float64_inputs(model, x):
    """Each layer of the device runs on the float32 numbers next to the recorded ones."""
    wide = MODELS["classification"](model.config, model.state_dict(), precision="float64")
    golden = wide.taps(np.float64(x))
    narrow = {name: np.float32(value) for name, value in golden.items()}
    made = {}

    class Device(Scope):
        def out(self, value):
            made[self.name] = value
            return narrow.get(self.name, value)

    model.forward(Device(model.parameters()), x)
    port = {name: made[name] for name in golden if name in made}
    report = check(port, model, inputs=golden)
    assert report.failures == ()
    name = f"{BLOCK}.conv_kxk.convolution"
    port[name] = np.full_like(port[name], np.nan)
    port[f"{BLOCK}.conv_kxk.normalization"] = port[f"{BLOCK}.conv_kxk.normalization"] * np.float32(1.1)
    assert failing(check(port, model, inputs=golden))[:2] == [name, f"{BLOCK}.conv_kxk.normalization"]
    with pytest.raises(BundleError, match="NaN"):
        check(
            port, model, inputs={**golden, "mobilevit.conv_stem": np.full(golden["mobilevit.conv_stem"].shape, np.nan)}
        )


@unnamed
def test_layers_that_ran_alone_are_judged_on_the_recorded_tensors_before_them(model, x):
    golden = dump(model, x)
    names = [f"{BLOCK}.conv_kxk.normalization", f"{LAYER}.attention.attention.query", f"{LAYER}.intermediate.dense"]
    port = {name: golden[name] for name in names}
    report = check(port, model, inputs=golden)
    assert report.verdict == "screened"  # most layers did not run
    assert [j.tap for j in report.judgements] == names
    assert all(j.region == () and j.test == "local" for j in report.judgements)
    port[names[0]] = port[names[0]] * np.float32(1.001)
    assert failing(check(port, model, inputs=golden)) == names[:1]
    other = dump(model, x[:, :, ::-1].copy())
    assert failing(check({name: golden[name] for name in names}, model, inputs=other)) == names
    with pytest.raises(BundleError, match="same picture"):
        check(port, model, inputs={**dump(model, x[:, :, :32]), "pixel_values": x})


def test_tf32_undeclared_is_recognised(model, x):
    taps = dump(model, x, **with_operands(cut_to(11)))
    report = check(taps, model)
    assert report.verdict == "fail"
    assert report.behaves_as == "tf32"
    declared = check(taps, model, profile="tf32")
    assert declared.verdict == "pass"
    assert declared.behaves_as == "tf32"


@pytest.mark.parametrize(("profile", "narrow"), [("bf16", cut_to(8)), ("fp16", float16)])
@unnamed
def test_half_precision_is_recognised(model, x, profile, narrow):
    taps = dump(model, x, **stored(narrow))
    report = check(taps, model)
    assert report.verdict == "fail"
    assert report.behaves_as == profile
    assert check(taps, model, profile=profile).passed


@unnamed
def test_a_mistake_is_no_arithmetic(model, x):
    operators, _ = MISTAKES["two heads for four"]
    taps = dump(model, x, **operators)
    ends = {name: taps[name] for name in ("pixel_values", "logits")}
    for candidate in (taps, ends):
        report = check(candidate, model)
        assert report.verdict == "fail"
        assert report.behaves_as is None


def test_float32_declared_as_bfloat16_behaves_as_float32(model, honest):
    report = check(honest, model, profile="bf16")
    assert report.passed
    assert report.behaves_as == "fp32"


def test_results_are_judged_on_the_ports_own_logits(model, honest):
    probabilities = ops.softmax(honest["logits"])
    labels = honest["logits"].argmax(-1)
    report = check({**honest, "probabilities": probabilities, "labels": labels}, model)
    assert report.verdict == "pass"
    report = check({**honest, "probabilities": probabilities[:, ::-1], "labels": labels + 1}, model)
    assert failing(report) == ["probabilities", "labels"]
    some = {"pixel_values": honest["pixel_values"], "conv_stem": honest["mobilevit.conv_stem"], "labels": labels}
    assert "labels" in check(some, model).unchecked


def test_a_mask_is_judged_at_its_size():
    model = model_of("segmentation", output_stride=16)
    taps = dump(model, pixels(1, 3, 64, 96))
    resized = ops.resize_bilinear(taps["logits"], (64, 96)).argmax(1)
    assert check({**taps, "mask": resized}, model, target_size=(64, 96)).verdict == "pass"
    assert check({**taps, "mask": taps["logits"].argmax(1)}, model).verdict == "pass"
    assert failing(check({**taps, "mask": (resized + 1) % 5}, model, target_size=(64, 96))) == ["mask"]


@pytest.mark.usefixtures("all_layers")
def test_the_picture_is_judged_with_the_processor():
    pipeline = nm.load("cifar10-xx-small")
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    pixel_values = pipeline.pixel_values(picture)
    taps = dump(pipeline.network, pixel_values)
    assert check(taps, pipeline, image=picture).verdict == "pass"
    rest = {name: value for name, value in taps.items() if name != "pixel_values"}
    assert check(rest, pipeline, image=picture).passed
    wrong = dump(pipeline.network, pixel_values[:, ::-1].copy())
    assert failing(check(wrong, pipeline, image=picture)) == ["pixel_values"]
    assert failing(check(rest, pipeline, image=picture, pixel_values=pixel_values[:, ::-1]))[0] == "pixel_values"
    assert failing(check(taps, pipeline, image=picture, pixel_values=pixel_values * 0)) == ["pixel_values"]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    file.seek(0)
    assert check(taps, pipeline, image=file).verdict == "pass"
    nhwc = {**taps, "pixel_values": pixel_values.transpose(0, 2, 3, 1)}
    assert "N, H, W, C" in " ".join(f.message for f in check(nhwc, pipeline, image=picture).failures)
    with pytest.raises(ConfigError, match="processor"):
        check(taps, pipeline.network, image=picture)


def test_fixed_point_is_judged_by_the_stated_scales(tmp_path, model, x):
    """A port in fixed point: every value rounded to a step of its tap, each region on the rounded one."""
    step = 2.0**-8
    entries = {}

    def fixed(x):
        return np.round(np.asarray(x, np.float64) / step) * step

    wrapped = {
        name: (lambda *a, _f=f, **k: fixed(_f(*a, **k)).astype(np.float32))
        for name, f in OpTable()._asdict().items()
        if callable(f) and name not in ("softmax", "attention_scores")
    }
    activations = {name: (lambda x, _f=f: fixed(_f(x)).astype(np.float32)) for name, f in ops.ACTIVATIONS.items()}
    current = dump(model, fixed(x).astype(np.float32), **wrapped, activations=activations)
    for i, (name, value) in enumerate(current.items()):
        np.round(value / step).astype("<i4").tofile(tmp_path / f"{i}.bin")
        entries[name] = {
            "file": f"{i}.bin",
            "dtype": "int32",
            "shape": list(value.shape),
            "layout": "NCHW",
            "scale": step,
            "zero_point": 0,
        }
    (tmp_path / "manifest.json").write_text(json.dumps({"taps": entries}))
    report = check(tmp_path, model, profile="fixed")
    assert report.failures == ()
    name = f"{BLOCK}.conv_kxk.convolution"
    wrong = np.round(current[name] / step)
    wrong[0, 0, 0, 0] += 40
    wrong.astype("<i4").tofile(tmp_path / entries[name]["file"])
    assert name in failing(check(tmp_path, model, profile="fixed"))


@pytest.mark.case("164", "a tap given twice, with and without its prefix", "BundleError")
def test_a_tap_under_two_spellings_is_refused(model, honest):
    with pytest.raises(BundleError, match="twice"):
        check({**honest, "conv_stem": honest["mobilevit.conv_stem"] * 9}, model)


@pytest.mark.case("165", "check: a target_size that is none", "ConfigError")
@pytest.mark.parametrize("size", [(64.0, 96.0), 64, (0, 0), "ab", (-1, 5), (1, 2, 3)])
def test_a_target_size_that_is_none_is_refused(model, honest, size):
    with pytest.raises(ConfigError, match="target_size"):
        check(honest, model, target_size=size)


def test_results_behind_unusable_logits_are_not_blamed(model, honest):
    rest = {"probabilities": ops.softmax(honest["logits"]), "labels": honest["logits"].argmax(-1)}
    report = check({**honest, **rest, "logits": np.full_like(honest["logits"], np.nan)}, model)
    assert failing(report) == ["logits"]
    assert {"probabilities", "labels"} <= set(report.unchecked)


def test_a_profile_that_does_not_exist_is_refused(model, honest):
    with pytest.raises(ConfigError, match="fp32, tf32"):
        check(honest, model, profile="fp23")


def test_the_same_candidate_gets_the_same_report(model, honest):
    ends = {name: honest[name] for name in ("pixel_values", "mobilevit.encoder.layer.2", "logits")}
    assert check(ends, model).to_json() == check(ends, model).to_json()


@pytest.mark.case("163", "a port's tensor with values near the largest float32", "wrong at its tap")
def test_huge_values_are_wrong_and_end_nothing(model, honest):
    name = "mobilevit.conv_stem.normalization"
    wrong = np.array(honest[name])
    wrong[0, 0, 0, 0] = 1e38
    report = check({**honest, name: wrong}, model)
    assert failing(report)[0] == name


def test_all_taps_of_an_xx_small_port_take_little_memory():
    setup = """
import numpy as np, npmobilevit as nm
from npmobilevit.engine import blas
from npmobilevit.validation import check
pipeline = nm.load("cifar10-xx-small")
with blas.single_thread():
    taps = pipeline.network.taps(np.random.default_rng(0).random((1, 3, 256, 256), np.float32))
"""
    assert peak_growth(setup, "with blas.single_thread(): assert check(taps, pipeline).verdict == 'pass'") < 400
