"""The profiles: their roundings are those of the formats."""

import dataclasses
import re

import measure_tolerances as measured
import numpy as np
import pytest

from npmobilevit.errors import ConfigError
from npmobilevit.validation.profiles import BFLOAT16, FLOAT16, FLOAT32, PROFILES, profile_named

CONVERSIONS = [
    ("fp32", "operand", lambda x: x.astype(np.float32)),
    ("fp32", "store", lambda x: x.astype(np.float32)),
    ("tf32", "operand", lambda x: measured.tf32_cut(x.astype(np.float32))),
    ("tf32", "store", lambda x: x.astype(np.float32)),
    ("tf32", "accumulate", measured.toward_zero),
    ("fp16", "operand", lambda x: x.astype(np.float16)),
    ("fp16", "accumulate", measured.toward_zero),
    ("fp16", "store", lambda x: x.astype(np.float16)),
    ("fp16-acc16", "accumulate", lambda x: x.astype(np.float16)),
    ("fp16-acc16", "store", lambda x: x.astype(np.float16)),
    ("bf16", "operand", lambda x: measured.bfloat16(x.astype(np.float32))),
    ("bf16", "accumulate", measured.toward_zero),
    ("bf16", "store", lambda x: measured.bfloat16(x.astype(np.float32))),
    ("int8-dynamic", "accumulate", lambda x: x.astype(np.float32)),
    ("fixed", "accumulate", lambda x: x.astype(np.float32)),
]


@pytest.mark.parametrize(("name", "rounding", "convert"), CONVERSIONS, ids=[f"{n} {r}" for n, r, _ in CONVERSIONS])
def test_a_rounding_changes_a_number_by_at_most_its_unit_and_nearly_that(name, rounding, convert):
    x = 1 + np.random.default_rng(0).random(10**5)
    x = np.concatenate([x, -x, 1 + 2.0 ** -np.arange(5.0, 30) * 0.999])
    worst = np.abs(convert(x).astype(np.float64) / x - 1).max()
    unit = getattr(PROFILES[name], rounding)
    assert 0.95 * unit < worst <= unit * (1 + 1e-4)  # bfloat16 is made of float32


@pytest.mark.parametrize(
    ("name", "convert"),
    [
        ("fp16", lambda x: x.astype(np.float16)),
        ("fp16-acc16", lambda x: x.astype(np.float16)),
        ("fp32", lambda x: np.where(np.abs(x) < np.finfo(np.float32).tiny, 0, x)),  # flushed to zero
        ("tf32", lambda x: np.where(np.abs(x) < np.finfo(np.float32).tiny, 0, x)),
        ("bf16", lambda x: np.where(np.abs(x) < np.finfo(np.float32).tiny, 0, x)),
    ],
)
def test_small_numbers_change_by_at_most_the_smallest(name, convert):
    profile = PROFILES[name]
    x = np.linspace(-3, 3, 10001) * profile.smallest
    worst = np.abs(convert(x).astype(np.float64) - x).max()
    assert 0.95 * profile.smallest < worst <= profile.smallest


def test_units_are_those_of_the_number_of_digits():
    assert [np.finfo(dtype).eps / 2 for dtype in (np.float32, np.float16)] == [FLOAT32, FLOAT16]
    assert BFLOAT16 == 2.0**-8


@pytest.mark.parametrize("name", PROFILES)
def test_operands_are_rounded_no_less_than_results(name):
    assert profile_named(name) is PROFILES[name]
    assert PROFILES[name].name == name
    assert PROFILES[name].operand >= PROFILES[name].store


def test_profiles_with_scales_are_marked():
    assert [name for name, profile in PROFILES.items() if profile.quantized] == ["int8-dynamic"]
    assert [name for name, profile in PROFILES.items() if profile.stated] == ["fixed"]


@pytest.mark.parametrize("name", ["FP32", "", "float32", None, 32, ["fp32"]])
def test_an_unknown_profile_is_refused_with_the_known_ones(name):
    with pytest.raises(
        ConfigError, match=re.escape("fp32, tf32, fp16, fp16-acc16, bf16, int8-dynamic, fixed")
    ) as caught:
        profile_named(name)
    assert caught.value.code == "profile"


def test_profiles_cannot_be_changed():
    with pytest.raises(TypeError):
        PROFILES["fp32"] = PROFILES["bf16"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROFILES["fp32"].store = 0.0
