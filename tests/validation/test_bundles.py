import hashlib
import json
import math
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import networks
import numpy as np
import pytest
from safetensors import safe_open

from npmobilevit.checkpoints import safetensors_bytes
from npmobilevit.errors import BundleError, CheckpointError, ConfigError, ShapeError
from npmobilevit.pipeline import load
from npmobilevit.scope import EXTRA_TAPS
from npmobilevit.validation import bundles
from npmobilevit.validation.bundles import (
    Bundle,
    fingerprint,
    fingerprint_indices,
    in_transformers_order,
    record,
    selected,
    tensor_sha256,
)
from npmobilevit.validation.candidates import read_candidate

REFERENCE = Path(__file__).parents[2] / "reference"


def model(head="classification", precision="float64", **changes):
    config = networks.tiny(**changes)
    return networks.MODELS[head](config, networks.random_weights(config, head), precision=precision)


@pytest.fixture(scope="module")
def network():
    return model()


@pytest.fixture(scope="module")
def bundle(network):
    return record(network, networks.pixels())


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


# Recording


@pytest.mark.parametrize("head", networks.MODELS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_all_taps_are_recorded_bit_by_bit_in_forward_order(head, precision):
    network = model(head, precision)
    pixels = networks.pixels(height=24, width=40)
    found = record(network, pixels)
    same(found, network.taps(pixels))
    assert found.facts["taps"] == list(found)
    assert found.facts["dtype"] == precision
    assert found.facts["class"] == type(network).__name__
    assert not any(name.rpartition(".")[2] in EXTRA_TAPS for name in found)
    assert "extra_taps" not in found.facts


STAGES = ["pixel_values", "conv_stem", *(f"encoder.layer.{i}" for i in range(5))]
BLOCKS = [
    "pixel_values", "conv_stem", "encoder.layer.0.layer.0", "encoder.layer.0",
    "encoder.layer.1.layer.0", "encoder.layer.1.layer.1", "encoder.layer.1.layer.2", "encoder.layer.1",
    *(
        f"encoder.layer.{i}{part}"
        for i, depth in ((2, 2), (3, 4), (4, 3))
        for part in (
            ".downsampling_layer", ".conv_kxk", ".conv_1x1", *(f".transformer.layer.{k}" for k in range(depth)),
            ".layernorm", ".conv_projection", ".fusion", "",
        )
    ),
]  # fmt: skip
ASPP = [*(f"segmentation_head.aspp.convs.{i}" for i in range(5)), "segmentation_head.aspp.project"]


def prefixed(names, prefix):
    own = ("pixel_values", "logits", "classifier")
    return [name if name in own or name.startswith("segmentation_head") else prefix + name for name in names]


@pytest.mark.parametrize(
    ("head", "prefix", "stages", "blocks"),
    [
        (None, "", ["conv_1x1_exp"], ["conv_1x1_exp"]),
        ("classification", "mobilevit.", ["conv_1x1_exp", "logits"], ["conv_1x1_exp", "classifier", "logits"]),
        (
            "segmentation",
            "mobilevit.",
            ["segmentation_head.aspp", "logits"],
            [*ASPP, "segmentation_head.aspp", "segmentation_head.classifier", "logits"],
        ),
    ],
)
def test_blocks_and_stages_are_those_of_the_network(head, prefix, stages, blocks):
    names = list(model(head).taps(networks.pixels()))
    assert selected(names, "stages") == prefixed(STAGES + stages, prefix)
    assert selected(names, "blocks") == prefixed(BLOCKS + blocks, prefix)
    assert selected([*names, "a.scores", "unfolded"], "all") == names


def test_names_choose_taps_and_pixels_are_always_kept(network):
    scores = "mobilevit.encoder.layer.2.transformer.layer.0.attention.attention.scores"
    found = record(network, networks.pixels(), taps=(name for name in ["logits", scores]))
    same(found, network.taps(networks.pixels(), ["pixel_values", scores, "logits"]))
    assert found.facts["extra_taps"] == [scores]
    assert list(record(network, networks.pixels(), taps="mobilevit.conv_stem")) == [
        "pixel_values",
        "mobilevit.conv_stem",
    ]
    assert list(record(network, networks.pixels(), taps="stages")) == selected(
        network.taps(networks.pixels()), "stages"
    )


@pytest.mark.case("155", "recording taps that there are not, wrong pixels, a model that is none", "our errors")
@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"taps": "logit"}, ConfigError, "tap-unknown"),
        ({"taps": ["logits", "lgits"]}, ConfigError, "tap-unknown"),
        ({"taps": 5}, ConfigError, "taps"),
        ({"taps": [5]}, ConfigError, "taps"),
        ({"taps": None}, ConfigError, "taps"),
        ({"max_bytes_per_tap": -1}, ConfigError, "max-bytes"),
        ({"max_bytes_per_tap": 1.5}, ConfigError, "max-bytes"),
        ({"pixel_values": np.zeros((1, 4, 8, 8))}, ShapeError, "pixel-values"),
        ({"pixel_values": np.full((1, 3, 8, 8), np.nan)}, ShapeError, "pixel-values"),
        ({"model": "no such model"}, CheckpointError, None),
    ],
)
def test_what_cannot_be_recorded_is_refused(network, options, error, code):
    arguments = {"model": network, "pixel_values": networks.pixels(), **options}
    with pytest.raises(error) as caught:
        record(arguments.pop("model"), arguments.pop("pixel_values"), **arguments)
    assert code in (caught.value.code, None)
    if code == "tap-unknown":
        assert "'logits'" in str(caught.value)


def test_values_beyond_the_precision_are_refused():
    config = networks.tiny()
    weights = networks.random_weights(config, "classification")
    name = "mobilevit.encoder.layer.1.layer.0.expand_1x1.convolution.weight"
    weights[name] = np.full_like(weights[name], 1e38)
    wrong = networks.MODELS["classification"](config, weights, precision="float32")
    with np.errstate(all="ignore"), pytest.raises(BundleError) as caught:
        record(wrong, networks.pixels(dtype=np.float32))
    assert caught.value.code == "bundle-not-finite"
    assert str(caught.value).startswith("mobilevit.encoder.layer.1.layer.")


# Facts


def test_the_facts_say_what_was_recorded(network, bundle):
    facts = bundle.facts
    assert facts["format"] == "npmobilevit-bundle/1"
    assert facts["config"] == network.config.to_dict()
    assert facts["versions"] == {
        "npmobilevit": bundles.version("npmobilevit"),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    assert list(facts["sha256"]) == list(bundle)
    for name, array in bundle.items():
        assert facts["sha256"][name] == hashlib.sha256(array.astype("<f8").tobytes()).hexdigest()
    assert facts["input_sha256"] == facts["sha256"]["pixel_values"]
    assert not {"model", "checkpoint_sha256", "bounds"} & facts.keys()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_hash_of_weights_is_that_of_the_golden_files(precision):
    """Of transformers' weights in the order of transformers' state dict, as tools/make_reference.py hashed them."""
    path = REFERENCE / "golden" / "models" / "classification-plain.safetensors"
    with safe_open(path, "np") as file:
        facts = file.metadata()
        weights = {k.removeprefix("weights."): file.get_tensor(k) for k in file.keys() if k.startswith("weights.")}  # noqa: SIM118
        pixels = file.get_tensor("pixel_values")
    config = networks.MobileViTConfig.from_dict(json.loads(facts["config"]))
    network = networks.MODELS["classification"](config, weights, precision=precision)
    assert bundles.weights_sha256(network) == facts["weights_sha256"]
    found = record(network, pixels, taps="stages")
    assert found.facts["weights_sha256"] == facts["weights_sha256"]
    assert found.facts["input_sha256"] == facts["input_sha256"]


@pytest.mark.parametrize("path", sorted((REFERENCE / "names").glob("*.json")), ids=lambda path: path.stem)
def test_the_order_of_parameters_is_that_of_transformers(path):
    content = json.loads(path.read_text())
    config = networks.MobileViTConfig.from_dict(content["config"])
    names = list(networks.expected_parameters(config, head=content["task"]))
    expected = list(content["parameters"])
    assert in_transformers_order(names) == expected != names


def test_a_hash_is_of_float64_and_large_arrays_are_hashed_whole():
    values = np.random.default_rng(0).normal(size=(3, 2**20 // 2)).astype(np.float32)
    expected = hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()
    assert tensor_sha256(values) == tensor_sha256(values.astype(np.float64)) == expected
    assert tensor_sha256(np.asfortranarray(values)) == tensor_sha256(values.astype(">f4")) == expected
    assert tensor_sha256(np.array(3)) == hashlib.sha256(struct.pack("<q", 3)).hexdigest()
    assert tensor_sha256(np.zeros((0, 2))) == hashlib.sha256(b"").hexdigest()


def test_a_model_from_a_file_brings_its_name_and_hash(classifier_folder):
    weights = hashlib.sha256((classifier_folder / "model.safetensors").read_bytes()).hexdigest()
    pixels = networks.pixels(dtype=np.float32)
    by_path = record(classifier_folder, pixels, taps="stages")
    assert by_path.facts["model"] == load(classifier_folder).name
    assert by_path.facts["checkpoint_sha256"] == weights
    assert by_path.facts["dtype"] == "float32"
    loaded = load(classifier_folder, precision="float64")
    by_pipeline = record(loaded, pixels, taps="stages")
    assert by_pipeline.facts["checkpoint_sha256"] == weights
    assert by_pipeline.facts["dtype"] == "float64"
    loaded.name = "made by hand"
    assert "checkpoint_sha256" not in record(loaded, pixels, taps="stages").facts


# Files


@pytest.fixture
def path(tmp_path):
    return tmp_path / "b.safetensors"


@pytest.fixture(scope="module")
def full(network):
    """A bundle with all that one can hold."""
    names = [*selected(network.taps(networks.pixels()), "all"), "mobilevit.encoder.layer.2.unfolded"]
    return record(network, networks.pixels(), taps=names, max_bytes_per_tap=3000, with_bounds=True)


def test_the_fixture_holds_all_that_a_bundle_can(full):
    assert full.bounds
    assert full.fingerprints
    assert full.facts["aliases"]
    assert full.facts["extra_taps"] == ["mobilevit.encoder.layer.2.unfolded"]


def test_a_bundle_comes_back_as_it_was_saved(path, full):
    full.save(path)
    found = Bundle.load(path)
    same(found, full)
    assert found.facts == full.facts
    assert list(found.facts["taps"]) == list(full.facts["taps"])
    assert list(found.fingerprints) == list(full.fingerprints) != []
    for name, expected in full.fingerprints.items():
        *numbers, values = found.fingerprints[name]
        assert tuple(numbers) == expected[:-1]
        np.testing.assert_array_equal(values, expected.values, strict=True)
    assert list(found.bounds) == list(full.bounds) != []
    for name, expected in full.bounds.items():
        assert found.bounds[name].n == expected.n
        np.testing.assert_array_equal(found.bounds[name].S, expected.S, strict=True)
        np.testing.assert_array_equal(found.bounds[name].L, expected.L, strict=True)


def test_the_same_recording_is_the_same_file(tmp_path, network):
    for name in "ab":
        record(network, networks.pixels(), taps="blocks", max_bytes_per_tap=3000).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_equal_arrays_are_stored_once(path, bundle):
    bundle.save(path)
    with safe_open(path, "np") as file:
        stored = set(file.keys())
    aliases = bundle.facts["aliases"]
    assert aliases["logits"] == "classifier"
    assert aliases["mobilevit.conv_stem"] == "mobilevit.conv_stem.activation"
    assert stored == set(bundle) - set(aliases)
    assert not set(aliases.values()) & set(aliases)
    assert Bundle.load(path)["logits"] is not None


def test_arrays_of_equal_values_and_other_shapes_are_not_the_same(network):
    made = bundles._Recorder(lambda name: True, None)
    for name, array in (
        ("a", np.zeros((2, 3))),
        ("b", np.zeros((3, 2))),
        ("c", np.zeros((2, 3))),
        ("d", -np.zeros((2, 3))),
    ):
        made.add(name, array)
    assert made.aliases == {"c": "a"}


def test_a_bundle_is_a_candidate(path, full):
    full.save(path)
    for source in (path, full):
        found = read_candidate(source)
        same(found.tensors, dict(full))
        assert set(found.dtypes.values()) == {"float64"}
        assert found.producer == {"producer": "npmobilevit", **full.facts["versions"]}


def test_saving_replaces_a_file_whole_or_says_why_not(tmp_path, bundle):
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "a\0b", tmp_path / ("x" * 300), "~no such user/b", 5):
        with pytest.raises(BundleError) as caught:
            bundle.save(target)
        assert caught.value.code in ("bundle-unwritable", "bundle-path")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    bundle.save(tmp_path / "new" / "b.safetensors")
    assert Bundle.load(tmp_path / "new" / "b.safetensors").facts == bundle.facts


def test_bundles_are_compared_by_identity_and_say_what_they_are(bundle):
    assert bundle == bundle
    assert bundle != dict(bundle)
    assert len({bundle, bundle}) == 1
    assert repr(bundle) == f"<Bundle of MobileViTForImageClassification: {len(bundle)} taps, float64>"


# Fingerprints


@pytest.mark.parametrize(
    ("size", "some"), [(1, [0]), (2, [0, 1]), (64, [0, 1, 63]), (65, [0, 1, 64]), (1000, [0, 15, 999])]
)
def test_a_fingerprint_takes_evenly_spaced_elements_with_both_ends(size, some):
    found = fingerprint_indices(size).tolist()
    assert found[:2] + found[-1:] == some[:2] + some[-1:]
    assert len(found) == len(set(found)) == min(64, size)
    steps = np.diff(found)
    assert size < 3 or steps.max() - steps.min() <= 1


def test_a_fingerprint_describes_the_array():
    array = np.array([[1.0, -2.0], [3.0, 4.0]], np.float32).T
    found = fingerprint(array)
    assert found[:7] == ((2, 2), "float32", tensor_sha256(array), -2.0, 4.0, 1.5, math.sqrt(7.5))
    np.testing.assert_array_equal(found.values, np.array([1, 3, -2, 4], np.float32), strict=True)


def test_taps_larger_than_the_limit_leave_fingerprints(network):
    whole = network.taps(networks.pixels())
    limit = whole["mobilevit.encoder.layer.1"].nbytes
    found = record(network, networks.pixels(), max_bytes_per_tap=limit)
    large = [name for name, array in whole.items() if array.nbytes > limit and name != "pixel_values"]
    assert list(found.fingerprints) == large != []
    assert list(found) == [name for name in whole if name not in large]
    assert found.facts["taps"] == list(whole)
    for name in large:
        array = whole[name]
        *numbers, values = found.fingerprints[name]
        assert numbers[:5] == [array.shape, "float64", tensor_sha256(array), array.min(), array.max()]
        np.testing.assert_allclose(numbers[5:], [array.mean(), np.sqrt((array**2).mean())], rtol=1e-12)
        np.testing.assert_array_equal(values, array.ravel()[fingerprint_indices(array.size)], strict=True)
        with pytest.raises(KeyError):
            found[name]
        assert name not in found


# Bounds


class Terms(NamedTuple):
    n: int
    S: np.ndarray
    L: np.ndarray


def test_bounds_are_recorded_for_the_taps_that_are_kept(monkeypatch, network, path):
    from npmobilevit.validation import replay

    def stand_in(given, pixel_values):
        assert given is network
        taps = given.taps(pixel_values)
        for i, (name, array) in enumerate(taps.items()):
            if any(array is taps[before] for before in list(taps)[:i]):
                continue  # the value of another tap
            yield name, array, Terms(i, np.abs(array) + 1, np.abs(array) / 3)

    monkeypatch.setattr(replay, "recorded_terms", stand_in)
    found = record(network, networks.pixels(), taps="stages", with_bounds=True)
    found.save(path)
    found = Bundle.load(path)
    assert list(found.bounds) == [name for name in found if name not in found.facts["aliases"]]
    names = list(network.taps(networks.pixels()))
    for name, bound in found.bounds.items():
        first = {"mobilevit.conv_stem": "mobilevit.conv_stem.activation", "logits": "classifier"}.get(name)
        assert first is None or bound.n == names.index(first)
        np.testing.assert_array_equal(bound.S, (np.abs(found[name]) + 1).astype(np.float32), strict=True)
        np.testing.assert_array_equal(bound.L, (np.abs(found[name]) / 3).astype(np.float32), strict=True)
    with safe_open(path, "np") as file:
        assert {"bounds.logits.S", "bounds.logits.L"} <= set(file.keys())
        assert json.loads(file.metadata()["bounds"])["logits"] == names.index("classifier")


def test_stages_have_bounds_though_they_repeat_the_value_of_what_is_inside(network):
    """`mobilevit.conv_stem` is what `mobilevit.conv_stem.activation` is, and only that has terms of its own."""
    found = record(network, networks.pixels(), taps="stages", with_bounds=True)
    whole = record(network, networks.pixels(), with_bounds=True)
    assert set(found) - set(found.bounds) <= {"pixel_values", "logits"}  # what enters the classifier is no tap
    assert found.bounds["mobilevit.conv_stem"].n == whole.bounds["mobilevit.conv_stem.activation"].n
    assert "mobilevit.conv_stem" not in whole.bounds


def test_real_bounds_have_the_shapes_of_their_taps(network):
    found = record(network, networks.pixels(), with_bounds=True)
    assert len(found.bounds) > 50
    for name, bound in found.bounds.items():
        assert bound.n >= 0
        assert bound.S.shape == bound.L.shape == found[name].shape
        assert (bound.S >= bound.L * (1 - 1e-6)).all()


# Damage


def edited(path, bundle, edit):
    """Save a bundle with a change of its metadata (parsed) or tensors."""
    bundle.save(path)
    with safe_open(path, "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts = {k: json.loads(v) if v[:1] in "[{" else v for k, v in metadata.items()}
    edit(facts, tensors)
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    path.write_bytes(safetensors_bytes(tensors, texts))
    return path


def drop(key):
    return lambda facts, tensors: facts.pop(key)


def change(key, value):
    return lambda facts, tensors: facts.update({key: value})


def change_inside(key, value):
    return lambda facts, tensors: facts[key].update({next(iter(facts[key])): value})


REQUIRED = ["producer", "versions", "class", "config", "dtype", "weights_sha256", "input_sha256", "taps", "sha256"]


@pytest.mark.case("156", "bundles whose metadata or tensors were changed", "BundleError that says what is wrong")
@pytest.mark.parametrize(
    "edit",
    [
        *(pytest.param(drop(key), id=f"no {key}") for key in [*REQUIRED, "aliases", "fingerprints", "bounds"]),
        pytest.param(change("taps", {"a": 1}), id="taps no list"),
        pytest.param(change("taps", ["pixel_values"] * 2), id="taps twice"),
        pytest.param(change("taps", ["logits"]), id="no pixels"),
        pytest.param(change("taps", ["pixel_values", 5]), id="a number among taps"),
        pytest.param(lambda facts, tensors: facts["taps"].append("new"), id="a tap without values"),
        pytest.param(lambda facts, tensors: facts["taps"].remove("classifier"), id="a tap left out"),
        pytest.param(change("versions", "1.0"), id="versions no JSON"),
        pytest.param(change("versions", {"numpy": 2}), id="versions no text"),
        pytest.param(change("config", "NaN"), id="NaN"),
        pytest.param(change("config", "[" * 100_000), id="nested"),
        pytest.param(change("aliases", []), id="aliases no object"),
        pytest.param(change_inside("aliases", "nowhere"), id="alias to nowhere"),
        pytest.param(change_inside("aliases", ["a"]), id="alias no text"),
        pytest.param(change_inside("sha256", "0" * 64), id="another hash"),
        pytest.param(change_inside("sha256", 5), id="hash no text"),
        pytest.param(change_inside("fingerprints", 5), id="fingerprint no object"),
        pytest.param(change_inside("fingerprints", {"shape": [2]}), id="fingerprint lacks entries"),
        pytest.param(change_inside("bounds", -1), id="negative n"),
        pytest.param(change_inside("bounds", 1.5), id="n no integer"),
        pytest.param(lambda facts, tensors: tensors.pop("pixel_values"), id="no values"),
        pytest.param(lambda facts, tensors: tensors.update(more=np.zeros(2)), id="a stranger"),
        pytest.param(
            lambda facts, tensors: tensors.update(classifier=tensors["classifier"] + 1e-9), id="values changed"
        ),
    ],
)
def test_a_damaged_bundle_is_refused(path, full, edit):
    edited(path, full, edit)
    for read in (Bundle.load, read_candidate):
        with pytest.raises(BundleError) as caught:
            read(path)
        assert caught.value.code == "bundle-damaged"
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "change_one",
    [
        {"shape": "2"},
        {"shape": [2.0]},
        {"shape": [-1]},
        {"shape": [2**50]},
        {"shape": [2]},
        {"dtype": "float32"},
        {"mean": "high"},
        {"rms": None},
    ],
)
def test_a_damaged_fingerprint_is_refused(path, full, change_one):
    edited(path, full, lambda facts, tensors: next(iter(facts["fingerprints"].values())).update(change_one))
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    assert caught.value.code == "bundle-damaged"


def test_an_unchanged_bundle_is_read(path, full):
    edited(path, full, lambda facts, tensors: facts.update({"later": "keys are added"}))
    assert Bundle.load(path).facts["later"] == "keys are added"


def test_other_safetensors_files_are_no_bundles(path):
    path.write_bytes(safetensors_bytes({"a": np.zeros(2)}, {"format": "pt"}))
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    assert caught.value.code == "bundle-format"
    with pytest.raises(BundleError) as caught:
        Bundle.load(path.with_name("missing"))
    assert caught.value.code == "bundle-file-missing"
