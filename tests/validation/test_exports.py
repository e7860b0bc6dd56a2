import json
import math
import re

import networks
import numpy as np
import pytest
from manifests import parameters_of

from npmobilevit import files
from npmobilevit.errors import BundleError, ConfigError
from npmobilevit.validation.bundles import Bundle, record
from npmobilevit.validation.candidates import read_candidate
from npmobilevit.validation.exports import export


@pytest.fixture(scope="module")
def bundle():
    config = networks.tiny()
    network = networks.MODELS["segmentation"](
        config, networks.random_weights(config, "segmentation"), precision="float64"
    )
    return record(network, networks.pixels(height=24, width=40), taps="blocks")


def made(**arrays):
    """A bundle of any arrays."""
    facts = {"producer": "test", "versions": {"python": "3"}, "class": "none", "dtype": "float64", "aliases": {}}
    return Bundle(arrays, facts, {}, {})


def rounded(array, dtype):
    """To nearest, ties to even: from the definition, with exact integers of Python's float."""
    bits, smallest = {"float64": (53, -1074), "float32": (24, -149), "float16": (11, -24), "bfloat16": (8, -133)}[dtype]

    def one(x):
        unit = max(math.frexp(x)[1] - bits, smallest)
        return math.ldexp(round(math.ldexp(x, -unit)), unit)  # round() takes ties to even

    kept = "float32" if dtype == "bfloat16" else dtype
    return np.array([one(float(x)) for x in array.ravel()]).reshape(array.shape).astype(kept)


@pytest.mark.parametrize("dtype", [None, "float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("form", ["npy", "raw", "hex"])
def test_an_export_is_read_back_in_every_form(tmp_path, bundle, form, layout, dtype):
    small = {name: bundle[name] for name in list(bundle)[-9:]} | {"logits": bundle["logits"]}
    small = Bundle(small, bundle.facts, {}, {})
    written = export(small, tmp_path / "out", form=form, layout=layout, dtype=dtype)
    found = read_candidate(tmp_path / "out")
    assert list(found.tensors) == list(small)
    for name, array in small.items():
        np.testing.assert_array_equal(found.tensors[name], rounded(array, dtype or "float64"), strict=True)
    assert set(found.dtypes.values()) == {dtype or "float64"}
    assert found.producer == {"producer": "npmobilevit", **bundle.facts["versions"]}
    assert [path.name for path in written] == [*(f"{name}.{form}" for name in small), "manifest.json"]
    assert sorted(written) == sorted((tmp_path / "out").iterdir())


def test_a_whole_bundle_is_exported(tmp_path, bundle):
    export(bundle, tmp_path)
    assert list(read_candidate(tmp_path).tensors) == list(bundle)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), bundle["logits"], strict=True)


def test_the_bytes_of_each_form(tmp_path):
    """1.5 = 3FC0 in bfloat16 and 3E00 in float16, -2 = C000 in both; by hand."""
    pair = made(a=np.array([1.5, -2.0]))
    expected = {
        ("raw", "bfloat16"): b"\xc0\x3f\x00\xc0",
        ("raw", "float16"): b"\x00\x3e\x00\xc0",
        ("hex", "bfloat16"): b"3FC0\nC000\n",
        ("hex", "float16"): b"3E00\nC000\n",
        ("hex", "float32"): b"3FC00000\nC0000000\n",
        ("hex", "float64"): b"3FF8000000000000\nC000000000000000\n",
    }
    for (form, dtype), data in expected.items():
        export(pair, tmp_path / form / dtype, form=form, dtype=dtype)
        assert (tmp_path / form / dtype / f"a.{form}").read_bytes() == data
    export(pair, tmp_path / "npy", dtype="bfloat16")
    np.testing.assert_array_equal(np.load(tmp_path / "npy" / "a.npy"), np.array([0x3FC0, 0xC000], "<u2"), strict=True)


def test_the_manifest_says_what_the_files_hold(tmp_path):
    arrays = made(image=np.zeros((1, 3, 4, 5)), tokens=np.zeros((4, 6, 2), np.float32))
    export(arrays, tmp_path, form="raw", layout="NHWC")
    assert json.loads((tmp_path / "manifest.json").read_text()) == {
        "producer": {"producer": "test", "python": "3"},
        "taps": {
            "image": {"file": "image.raw", "dtype": "float64", "shape": [1, 4, 5, 3], "layout": "NHWC"},
            "tokens": {"file": "tokens.raw", "dtype": "float32", "shape": [4, 6, 2]},
        },
    }


def test_channels_last_is_what_it_says(tmp_path):
    image = np.arange(24.0).reshape(1, 2, 3, 4)
    export(made(a=image), tmp_path, form="raw", layout="NHWC")
    found = np.fromfile(tmp_path / "a.raw", "<f8")
    assert found[:4].tolist() == [0, 12, 1, 13]  # both channels of the first pixel, then of its right neighbour


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1 + 2.0**-11, "float16", 1.0),  # a tie, to even
        (1 + 3 * 2.0**-11, "float16", 1 + 2.0**-9),
        (1 + 2.0**-11 + 2.0**-40, "float16", 1 + 2.0**-10),  # above the tie by less than float32 could tell
        (1 + 2.0**-8 + 2.0**-40, "bfloat16", 1 + 2.0**-7),
        (1 + 2.0**-8, "bfloat16", 1.0),
        (1 + 3 * 2.0**-8, "bfloat16", 1 + 2.0**-6),
        (2.0**-25, "float16", 0.0),
        (3 * 2.0**-25, "float16", 2.0**-23),
    ],
)
def test_values_are_rounded_once(tmp_path, value, dtype, expected):
    export(made(a=np.array([value])), tmp_path, dtype=dtype)
    assert read_candidate(tmp_path).tensors["a"].tolist() == [expected]


@pytest.mark.case("157", "an export of values beyond its dtype, or into a folder that is not empty", "BundleError")
@pytest.mark.parametrize(("value", "dtype"), [(65520.0, "float16"), (3.5e38, "float32"), (3.4e38, "bfloat16")])
def test_values_beyond_the_dtype_are_refused(tmp_path, value, dtype):
    with pytest.raises(BundleError, match="large") as caught:
        export(made(fine=np.ones(2), large=np.array([-value])), tmp_path, dtype=dtype)
    assert caught.value.code == "bundle-dtype"
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.case("157", "an export of values beyond its dtype, or into a folder that is not empty", "BundleError")
def test_a_folder_that_is_not_empty_is_left_alone_unless_forced(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(BundleError) as caught:
        export(made(a=np.ones(2)), tmp_path)
    assert caught.value.code == "bundle-exists"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    export(made(a=np.ones(2)), tmp_path, force=True)
    assert (tmp_path / "mine").read_text() == "precious"
    assert read_candidate(tmp_path).tensors["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "code"),
    [({"form": "txt"}, "form"), ({"layout": "HWCN"}, "layout"), ({"dtype": "int8"}, "dtype"), ({"form": None}, "form")],
)
def test_unknown_options_are_refused(tmp_path, options, code):
    with pytest.raises(ConfigError) as caught:
        export(made(a=np.ones(2)), tmp_path, **options)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../a", "a/b", ".a", "a\0", "", "a b"])
def test_a_name_that_no_file_may_have_is_refused(tmp_path, name):
    with pytest.raises(BundleError) as caught:
        export(made(fine=np.ones(2), **{name: np.ones(2)}), tmp_path / "out")
    assert caught.value.code == "bundle-name"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["file", "file/below", "x" * 300, "a\0b"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, target):
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=re.escape(target[:20].replace("\0", "")[:1])) as caught:
        export(made(a=np.ones(2)), tmp_path / target)
    assert caught.value.code == "bundle-unwritable"


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    """The disk is full at the second file: the first is whole, and no manifest speaks of what is not there."""
    replace, calls = files.os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(BundleError) as caught:
        export(made(a=np.ones(2), b=np.ones(2)), tmp_path)
    assert caught.value.code == "bundle-unwritable"
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


# Words


WORDS = np.arange(-12, 12, dtype=np.int8).reshape(1, 2, 3, 4)


@pytest.mark.parametrize("form", ["npy", "raw", "hex", "mem"])
def test_words_and_their_scales_are_read_back(tmp_path, form):
    bias = np.array([-(2**31), 7], np.int32)
    written = export(
        made(map=WORDS, tokens=np.array([[-32768, 1]], np.int16)),
        tmp_path,
        form=form,
        layout="NHWC",
        dtype="float16",  # is for floats, and there are none
        scales={"map": 2.0**-4, "tokens": 2.0, "a.weight": 0.5, "a.bias": 2.0**-20},
        parameters={"a.weight": WORDS, "a.bias": bias},
    )
    found = read_candidate(tmp_path)
    np.testing.assert_array_equal(found.tensors["map"], WORDS / 16.0, strict=True)
    np.testing.assert_array_equal(found.tensors["tokens"], [[-65536.0, 2.0]])
    parameters = parameters_of(tmp_path)
    np.testing.assert_array_equal(parameters["a.weight"], WORDS / 2.0, strict=True)
    np.testing.assert_array_equal(parameters["a.bias"], bias * 2.0**-20)
    assert dict(found.parameter_scales) == {"a.weight": 0.5, "a.bias": 2.0**-20}
    assert dict(found.dtypes) == {"map": "int8", "tokens": "int16"}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    entry = {"dtype": "int8", "shape": [1, 3, 4, 2]}
    assert manifest["taps"]["map"] == {"file": f"map.{form}", **entry, "layout": "NHWC", "scale": 2.0**-4}
    weight = {"file": f"a.weight.{form}", **entry, "layout": "OHWI", "scale": 0.5}
    assert manifest["parameters"]["a.weight"] == weight
    assert [path.name for path in written] == [
        *(f"{name}.{form}" for name in ("map", "tokens", "a.weight", "a.bias")),
        "manifest.json",
    ]


def test_memory_files_are_words_of_twos_complement(tmp_path):
    words = {"a": np.array([-128, -1, 0, 127], np.int8), "b": np.array([-32768, 258], np.int16)}
    export(made(**words), tmp_path, form="mem", scales={"a": 1.0, "b": 1.0})
    assert (tmp_path / "a.mem").read_text() == "80\nFF\n00\n7F\n"
    assert (tmp_path / "b.mem").read_text() == "8000\n0102\n"


def test_a_parameter_without_a_scale_is_refused(tmp_path):
    with pytest.raises(BundleError, match="a\\.weight") as caught:
        export(made(a=np.ones(2)), tmp_path, parameters={"a.weight": WORDS})
    assert caught.value.code == "bundle-scale"
    assert list(tmp_path.iterdir()) == []
