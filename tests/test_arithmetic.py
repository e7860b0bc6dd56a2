"""What `precision` chooses; above all that "bitexact" has the same bits on every machine, and those of the file."""

import json
import platform
import sys

import bitexact as tool
import numpy as np
import pytest
from networks import make_model, pixels, relative_error, tiny

from npmobilevit.arithmetic import PRECISIONS
from npmobilevit.errors import ConfigError

CASES = {case.name: case for case in tool.cases()}
QUICK = [name for name in CASES if not name.startswith("recipe")]
HASHES = json.loads(tool.HASHES.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("head", ["classification", "segmentation", None])
@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
def test_bitexact_is_close_to_float64_at_every_tap(head, activation, size):
    config, x = tiny(hidden_act=activation, output_stride=16), pixels(2, height=size[0], width=size[1])
    exact, bits = (make_model(head, config, precision=p).taps(x) for p in ("float64", "bitexact"))
    assert bits.keys() == exact.keys()
    assert max(relative_error(bits[name], exact[name]) for name in exact) < 1e-11


def test_bitexact_refuses_other_activations():
    with pytest.raises(ConfigError, match=r"silu.*'mish'; use float64") as caught:
        make_model("classification", tiny(hidden_act="mish"), precision="bitexact")
    assert caught.value.code == "precision-activation"


@pytest.mark.parametrize("name", QUICK)
def test_bits_are_those_of_the_file(name):
    """The larger cases are for `python tools/bitexact.py verify`."""
    found = tool.hashes(CASES[name], "bitexact")
    assert [tap for tap, value in HASHES[name].items() if found[tap] != value] == []
    assert found.keys() == HASHES[name].keys()


def test_the_file_has_all_cases_and_other_bits_than_float64():
    assert HASHES.keys() == CASES.keys()
    ordinary = tool.hashes(CASES["golden/classification-plain"], "float64")
    assert tool.differing({"golden/classification-plain": ordinary}, HASHES) > 200


def test_a_changed_weight_shows_where_it_acts():
    case = CASES["golden/classification-plain"]
    weights = dict(case.make("bitexact").state_dict())
    name = "mobilevit.encoder.layer.4.fusion.convolution.weight"
    weights[name] = np.float64(np.nextafter(np.float32(weights[name]), np.float32(1)))
    model = type(case.make("bitexact"))(case.make("bitexact").config, weights, precision="bitexact")
    found = tool.record(model, case.pixel_values()).facts["sha256"]
    first = next(tap for tap, value in HASHES[case.name].items() if found[tap] != value)
    assert first == name.removesuffix(".weight")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="kernels of OpenBLAS for x86-64")
def test_other_kernels_threads_and_instructions_change_float64_only():
    """The oldest kernels, and NumPy's baseline; the larger study is `python tools/bitexact.py study`."""
    only = "golden/classification-(plain|odd-batch)"
    (*_, instructions) = tool.instruction_sets(sys.executable)
    variables = {"OPENBLAS_CORETYPE": "Nehalem", "OPENBLAS_NUM_THREADS": "2",
                 "NPY_DISABLE_CPU_FEATURES": " ".join(instructions)}  # fmt: skip
    row, taps = tool.run(tool.Setting("old", variables), only)
    assert "not_run" not in row, row
    assert tool.differing(taps["bitexact"], HASHES) == 0
    if row["kernels"] != tool.openblas_kernels():
        here = {name: tool.hashes(CASES[name], "float64") for name in taps["float64"]}
        assert tool.differing(taps["float64"], here) > 0, "the setting had no effect"


def test_the_readme_says_what_the_study_measured():
    study = json.loads((tool.ROOT / "reference" / "measured" / "bitexact.json").read_text(encoding="utf-8"))
    ran = [row for row in study["settings"] if "not_run" not in row]
    assert {row["bitexact_differing"] for row in ran} == {0}
    most = max(row["float64_differing"] for row in ran)
    worst = max(row["bitexact"]["error"] for row in study["costs"])
    times = [row["bitexact_time_over_float32"] for row in study["costs"]]
    readme = (tool.ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| {len(ran)} settings: " in readme
    assert f"| equal bits; of float64, up to {most:,} values differ |" in readme
    assert f"| {worst:.1e} |" in readme
    assert f"| {min(times):.1f} to {max(times):.0f} |" in readme


def test_verifying_says_where_bits_differ(tmp_path, monkeypatch, capsys):
    document = json.loads(tool.HASHES.read_text(encoding="utf-8"))
    name = "golden/classification-one-pixel"
    document["cases"][name]["logits"] = "0" * 64
    monkeypatch.setattr(tool, "HASHES", tmp_path / "bitexact.json")
    tool.HASHES.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(SystemExit, match=f"other bits .* in {name}"):
        tool.verify([CASES[name]])
    assert "1 differ, the first logits" in capsys.readouterr().out


def test_a_setting_that_cannot_run_says_so(tmp_path):
    row, taps = tool.run(tool.Setting("homeless", {"PYTHONHOME": str(tmp_path)}), "golden/classification-one-pixel")
    assert row.keys() == {"setting", "not_run"}
    assert taps == {}


def test_every_precision_keeps_its_dtype():
    assert {name: arithmetic.dtype.name for name, arithmetic in PRECISIONS.items()} == {
        "float32": "float32",
        "float64": "float64",
        "bitexact": "float64",
    }
