"""Test vectors of layers: what they hold, that others can read them, and that they reproduce the layers."""

import json
import re
from fractions import Fraction

import networks
import numpy as np
import pytest
from manifests import parameters_of

from npmobilevit import ops
from npmobilevit.engine import folding
from npmobilevit.errors import BundleError, ConfigError, ShapeError
from npmobilevit.fixed_point import (
    Arithmetic,
    QFormat,
    Range,
    dequantize,
    export_layers,
    layer_names,
    quantize,
    quantized,
    recorded_formats,
    tap_ranges,
    traced,
    vectors,
)
from npmobilevit.validation import Bundle, check, export, read_candidate, record

ALL = "mobilevit.encoder.layer.2"
SOME = [
    "mobilevit.conv_stem",  # of the picture itself, stride 2
    "mobilevit.encoder.layer.0.layer.0.conv_3x3",  # depthwise
    f"{ALL}.conv_1x1",  # without normalisation
    f"{ALL}.transformer.layer.0.attention.attention.query",  # linear
    f"{ALL}.conv_projection",  # its input is a value inside of a module
    f"{ALL}.fusion",  # its input is joined of two taps
]


def made(head="classification", output_stride=32):
    config = networks.tiny(output_stride=output_stride)
    network = networks.MODELS[head](config, networks.random_weights(config, head))
    return network, networks.pixels(height=32, width=32)


def exported(network, pixels, names, folder, arithmetic, **options):
    layers = traced(network, names)
    inputs = [name for layer in layers for name in layer.inputs]
    needed = {"pixel_values", *inputs, *(layer.output for layer in layers)}
    ranges = tap_ranges(network, pixels, needed)
    recorded = record(network, pixels, taps=inputs)
    export_layers(network, layers, recorded, ranges, folder, arithmetic=arithmetic, **options)
    return layers, recorded, ranges


@pytest.mark.parametrize("head", ["classification", "segmentation"])
def test_every_layer_is_found_and_connected(head):
    network, pixels = made(head)
    names = [name for name in layer_names(network) if name != "classifier"]
    layers = traced(network, names)
    assert sorted(layer.name for layer in layers) == sorted(names)
    taps = network.taps(pixels, {name for layer in layers for name in (*layer.inputs, layer.output)})
    weights = network.parameters()
    for layer in layers:
        x = np.concatenate([taps[name] for name in layer.inputs], axis=1) if layer.inputs[1:] else taps[layer.inputs[0]]
        if layer.operation == "linear":
            weight, bias = (value.astype(x.dtype) for value in folding.linear(weights, layer.name))
            y = ops.linear(x, weight=weight, bias=bias)
        else:
            weight, bias = (value.astype(x.dtype) for value in folding.convolution(weights, layer.name))
            y = ops.conv2d(x, weight=weight, bias=bias, **layer.geometry)
        np.testing.assert_allclose(y, taps[layer.output], rtol=0, atol=1e-4 * np.abs(y).max(), err_msg=layer.name)


@pytest.mark.parametrize(
    ("width", "accumulator", "layout", "rounding"),
    [(8, 32, "NHWC", "truncate"), (16, 64, "NCHW", "half-even"), (16, 64, "NHWC", "half-up")],
)
def test_vectors_pass_the_check_of_ports(tmp_path, width, accumulator, layout, rounding):
    network, pixels = made()
    exported(network, pixels, SOME, tmp_path / "v", Arithmetic(width, accumulator, rounding), layout=layout)
    report = check(tmp_path / "v", network, profile="fixed", inputs=tmp_path / "v" / "recorded")
    assert report.passed, str(report)
    assert report.verdict == "screened"  # for only some layers were looked at
    assert {judgement.tap for judgement in report.judgements} == {layer.output for layer in traced(network, SOME)}
    assert {judgement.status for judgement in report.judgements} == {"right"}


@pytest.fixture
def undiagnosed(monkeypatch):
    """What judges failures without the search for their causes, which takes most of the time and excuses none."""

    def judged(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr("npmobilevit.validation.checking.diagnosed", lambda trial, pixel_values: trial.findings)
            return check(*arguments, **options)

    return judged


def test_the_check_of_ports_finds_a_wrong_word(tmp_path, undiagnosed):
    network, pixels = made()
    names = [SOME[0], SOME[3]]
    exported(network, pixels, names, tmp_path / "v", Arithmetic(16, 64))
    for layer in traced(network, names):
        path = tmp_path / "v" / f"{layer.output}.mem"
        before = path.read_text()
        words = before.split()
        words[len(words) // 2] = f"{(int(words[len(words) // 2], 16) ^ 0x1000):04X}"
        path.write_text("\n".join(words))
        report = undiagnosed(tmp_path / "v", network, profile="fixed", inputs=tmp_path / "v" / "recorded")
        assert [j.tap for j in report.judgements if j.status == "wrong"] == [layer.output]
        path.write_text(before)


@pytest.mark.parametrize(("layer", "leaf"), [(SOME[0], "weight"), (SOME[0], "bias"), (SOME[3], "weight")])
def test_the_check_of_ports_takes_stated_parameters_for_coarse(tmp_path, undiagnosed, layer, leaf):
    """Parameters in steps of 1/8, a result in steps of 2**-20: right where the manifest states 1/8, else wrong.

    One channel of the first layer has large weights and a small factor, so that its folded weights round to zero.
    """
    config = networks.tiny()
    weights = networks.random_weights(config, "classification")
    weights[f"{SOME[0]}.convolution.weight"][1] *= 10
    weights[f"{SOME[0]}.normalization.weight"][1] *= 0.01
    network, pixels = networks.MODELS["classification"](config, weights), networks.pixels()
    (found,) = traced(network, [layer])
    recorded = network.taps(pixels, [*found.inputs, "pixel_values"])
    find = folding.linear if found.operation == "linear" else folding.convolution
    parameters = find(network.parameters(), layer)._asdict()
    parameters[leaf] = np.round(parameters[leaf] * 8) / 8
    operator = ops.linear if found.operation == "linear" else ops.conv2d
    y = operator(recorded[found.inputs[0]].astype(np.float64), **parameters, **found.geometry)
    facts = record(network, pixels, taps="stages").facts
    words = Bundle({found.output: np.round(y * 2**20).astype(np.int32)}, facts, {}, {})
    export(words, tmp_path, scales={found.output: 2.0**-20})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for stated, judge, passes in (({f"{layer}.{leaf}": {"scale": 0.125}}, check, True), ({}, undiagnosed, False)):
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "parameters": stated}))
        assert judge(tmp_path, network, profile="fixed", inputs=recorded).passed == passes


@pytest.mark.parametrize("width", [8, 16])
def test_what_the_files_hold(tmp_path, width):
    network, pixels = made()
    arithmetic = Arithmetic(width, 64, "half-up")
    layers, recorded, ranges = exported(network, pixels, SOME, tmp_path / "v", arithmetic, layout="NHWC")
    own, inputs = read_candidate(tmp_path / "v"), read_candidate(tmp_path / "v" / "recorded")
    parameters = parameters_of(tmp_path / "v")
    document = json.loads((tmp_path / "v" / "layers.json").read_text())
    assert {key: document[key] for key in ("format", "width", "accumulator", "rounding")} == {
        "format": "npmobilevit-fixed-point/1",
        "width": width,
        "accumulator": 64,
        "rounding": "half-up",
    }
    assert list(document["layers"]) == [layer.name for layer in layers]
    assert set(inputs.tensors) == {"pixel_values", *(name for layer in layers for name in layer.inputs)}
    for name, array in inputs.tensors.items():  # nothing saturates: the ranges are those of this picture
        assert np.abs(array - recorded[name]).max() <= inputs.scales[name] / 2
    for layer in layers:
        entry = document["layers"][layer.name]
        weight, bias = folding.linear(network.parameters(), layer.name) if layer.operation == "linear" else (
            folding.convolution(network.parameters(), layer.name))  # fmt: skip
        steps = own.parameter_scales
        assert np.abs(parameters[entry["weight"]] - weight).max() <= steps[entry["weight"]] / 2
        assert np.abs(parameters[entry["bias"]] - bias).max() <= steps[entry["bias"]] / 2
        assert steps[entry["bias"]] == steps[entry["weight"]] * inputs.scales[layer.inputs[0]]
        assert own.scales[layer.output] == steps[entry["bias"]] * 2.0 ** entry["shift"]
        assert len({inputs.scales[name] for name in layer.inputs}) == 1
        true = ranges[layer.output]
        assert own.tensors[layer.output].min() >= true.minimum - abs(true.minimum) / 2


def test_memory_files_are_what_readmemh_reads(tmp_path):
    network, pixels = made()
    exported(network, pixels, SOME, tmp_path / "v", Arithmetic(8, 32))
    files = list((tmp_path / "v").rglob("*.mem"))
    assert len(files) == 3 * len(SOME) + 7  # and seven taps go in, of which two are joined
    for path in files:
        digits = 8 if path.name.endswith(".bias.mem") else 2
        lines = path.read_text().splitlines()
        assert all(len(line) == digits and set(line) <= set("0123456789ABCDEF") for line in lines), path


def test_kernels_may_be_channels_last(tmp_path):
    network, pixels = made()
    exported(network, pixels, SOME[:2], tmp_path / "first", Arithmetic(8, 32))
    exported(network, pixels, SOME[:2], tmp_path / "last", Arithmetic(8, 32), layout="NHWC")
    entries = [json.loads((tmp_path / name / "manifest.json").read_text())["parameters"] for name in ("first", "last")]
    shapes = [(entry["mobilevit.conv_stem.weight"]["shape"], entry["mobilevit.conv_stem.weight"]["layout"])
              for entry in entries]  # fmt: skip
    assert shapes == [([4, 3, 3, 3], "OIHW"), ([4, 3, 3, 3], "OHWI")]
    first, last = (parameters_of(tmp_path / name) for name in ("first", "last"))
    assert len(first) == 2 * len(SOME[:2])
    for name in first:
        np.testing.assert_array_equal(first[name], last[name], strict=True)
    texts = [(tmp_path / name / "mobilevit.conv_stem.weight.mem").read_text() for name in ("first", "last")]
    assert texts[0] != texts[1]


def test_vectors_are_the_formula():
    """y = clip(round((sum w x + b) / 2**shift)), with Python's integers."""
    network, pixels = made()
    (layer,) = traced(network, [SOME[3]])
    recorded = network.taps(pixels, [*layer.inputs, layer.output])
    ranges = {name: Range.of(x) for name, x in recorded.items()}
    found = vectors(
        network, layer, recorded, recorded_formats([layer], ranges, 8), ranges[layer.output], Arithmetic(8, 32)
    )
    (x,) = found.inputs.values()
    for row, outputs in zip(x.reshape(-1, x.shape[-1]), found.output.reshape(-1, found.output.shape[-1]), strict=True):
        for weights, bias, y in zip(found.weight, found.bias, outputs, strict=True):
            total = sum(int(a) * int(b) for a, b in zip(weights, row, strict=True)) + int(bias)
            assert int(y) == min(max(round(Fraction(total) / Fraction(2) ** found.shift), -128), 127)


def test_joined_taps_have_one_format():
    network, _ = made()
    (fusion,) = traced(network, [SOME[-1]])
    small, large = Range.of(np.array([-0.1, 0.1])), Range.of(np.array([-3.0, 3.0]))
    formats = recorded_formats([fusion], {fusion.inputs[0]: small, fusion.inputs[1]: large, "other": small}, 8)
    assert [str(formats[name]) for name in (*fusion.inputs, "other")] == ["Q2.5", "Q2.5", "Q-3.10"]


def test_what_there_is_no_vector_of_is_refused(tmp_path):
    network, pixels = made()
    with pytest.raises(ConfigError, match=r"did you mean 'mobilevit\.conv_stem'") as caught:
        traced(network, ["mobilevit.conv_stm"])
    assert caught.value.code == "layer-unknown"
    with pytest.raises(ConfigError):
        traced(network, [])
    with pytest.raises(ConfigError, match=r"layer 'mobilevit\.conv_stm'; did you mean"):
        traced(network, "mobilevit.conv_stm")
    with pytest.raises(ConfigError, match="classifier") as caught:
        traced(network, ["classifier"])
    assert caught.value.code == "layer-input"
    for arithmetic, code in (
        (Arithmetic(12), "width"),
        (Arithmetic(8.0), "width"),
        (Arithmetic(8, 16), "accumulator"),
        (Arithmetic(8, 32.0), "accumulator"),
        (Arithmetic(8, 32, "floor"), "rounding"),
    ):
        with pytest.raises(ConfigError) as caught:
            exported(network, pixels, SOME[:1], tmp_path / "v", arithmetic)
        assert caught.value.code == code
    assert not (tmp_path / "v").exists()


def test_only_names_that_are_near_are_offered():
    network, _ = made()
    for name, offered in (
        ("mobilevit.conv_stm.convolution", ["mobilevit.conv_stem"]),
        ("mobilevit.conv", []),
        ("mobilevit.encoder.layer.2", []),
        ("mobilevit.conv_stem.normalization", []),
        ("classifier.convolution", ["classifier"]),
        ("stem", []),
    ):
        with pytest.raises(ConfigError) as caught:
            traced(network, name)
        said = str(caught.value)
        assert said.endswith("`npmobilevit info --layers` lists them")
        assert re.findall("'([^']+)'", said) == [name, *offered]
        assert ("did you mean" in said) == bool(offered)


def test_one_layer_may_be_named_alone():
    network, _ = made()
    assert traced(network, SOME[0]) == traced(network, [SOME[0]])


def test_the_name_of_the_convolution_in_a_layer_means_the_layer():
    network, _ = made()
    convolutions = [
        name.removesuffix(".weight") for name in network.parameters() if name.endswith("convolution.weight")
    ]
    assert len(convolutions) > 20
    layers = [name.removesuffix(".convolution") for name in convolutions]
    assert traced(network, convolutions) == traced(network, layers)
    assert traced(network, [f"{SOME[0]}.convolution", SOME[0]]) == traced(network, SOME[0])


def test_what_is_lacking_is_named(tmp_path):
    network, pixels = made()
    (layer,) = layers = traced(network, SOME[0])
    recorded = record(network, pixels, taps=layer.inputs)
    ranges = tap_ranges(network, pixels, ["pixel_values", layer.output])
    formats = recorded_formats(layers, ranges, 8)
    only = {name: ranges[name] for name in layer.inputs}
    for work, lacking in (
        (lambda: recorded_formats(layers, {}, 8), "range of 'pixel_values'"),
        (lambda: quantized(recorded, {}), "format of 'pixel_values'"),
        (lambda: vectors(network, layer, {}, formats, ranges[layer.output], Arithmetic()), "recording of 'pixel"),
        (lambda: vectors(network, layer, recorded, {}, ranges[layer.output], Arithmetic()), "format of 'pixel"),
        (lambda: export_layers(network, layers, recorded, only, tmp_path / "v", arithmetic=Arithmetic()),
         f"range of '{layer.output}'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=lacking) as caught:
            work()
        assert caught.value.code == "tap-missing"
    assert not (tmp_path / "v").exists()
    with pytest.raises(ConfigError) as caught:
        vectors(network, layer, recorded, formats, ranges[layer.output], Arithmetic(8, 16))
    assert caught.value.code == "accumulator"


def test_weights_that_overflow_are_traced_in_silence():
    config = networks.tiny()
    weights = networks.random_weights(config, "classification")
    large = {name: np.full_like(x, 3e38) for name, x in weights.items()}
    network = networks.MODELS["classification"](config, large)
    assert len(traced(network, SOME)) == len(SOME)


def test_an_accumulator_that_is_too_narrow_names_the_layer(tmp_path):
    network, pixels = made()
    with pytest.raises(ShapeError, match=r"mobilevit\.conv_stem.* 32 bits") as caught:
        exported(network, pixels, SOME, tmp_path / "v", Arithmetic(16, 32))
    assert caught.value.code == "accumulator-overflow"
    assert not (tmp_path / "v").exists()


def test_a_bias_beyond_the_accumulator_does_not_saturate(tmp_path):
    config = networks.tiny()
    weights = networks.random_weights(config, "classification")
    weights["mobilevit.conv_stem.normalization.bias"][1] = 1e6
    network = networks.MODELS["classification"](config, weights)
    with pytest.raises(ShapeError, match=r"conv_stem: the bias reaches 1e\+06") as caught:
        exported(network, networks.pixels(height=32, width=32), SOME[:1], tmp_path / "v", Arithmetic(8, 32))
    assert caught.value.code == "accumulator-overflow"


def test_a_channel_that_is_switched_off_passes(tmp_path):
    config = networks.tiny()
    weights = networks.random_weights(config, "classification")
    weights["mobilevit.conv_stem.normalization.weight"][:2] = 0.0, 1e-30
    network = networks.MODELS["classification"](config, weights)
    exported(network, networks.pixels(height=32, width=32), SOME[:1], tmp_path / "v", Arithmetic(8, 32))
    report = check(tmp_path / "v", network, profile="fixed", inputs=tmp_path / "v" / "recorded")
    assert report.passed, str(report)


def test_a_folder_that_is_not_empty_is_left_alone_unless_forced(tmp_path):
    network, pixels = made()
    (tmp_path / "mine").touch()
    with pytest.raises(BundleError) as caught:
        exported(network, pixels, SOME[:1], tmp_path, Arithmetic(8, 32))
    assert caught.value.code == "bundle-exists"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    exported(network, pixels, SOME[:1], tmp_path, Arithmetic(8, 32), force=True)
    assert (tmp_path / "layers.json").exists()


def test_a_recording_in_words_is_right_where_each_layer_is_given_what_was_recorded(tmp_path):
    network, pixels = made()
    exact = record(network, pixels, taps="stages")
    formats = {name: QFormat.holding(16, float(x.min()), float(x.max())) for name, x in exact.items()}
    words, scales = quantized(exact, formats)
    export(words, tmp_path, form="mem", layout="NHWC", scales=scales)
    found = read_candidate(tmp_path)
    assert dict(found.scales) == scales
    for name, array in exact.items():
        np.testing.assert_array_equal(found.tensors[name], dequantize(quantize(array, formats[name]), formats[name]))
    assert check(tmp_path, network, profile="fixed", inputs=exact).passed
