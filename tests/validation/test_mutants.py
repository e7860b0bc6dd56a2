"""The catalogue of mistakes inside the network: each, made in a port, fails the check and is named where it begins."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import networks
import numpy as np
import pytest

from npmobilevit import layers
from npmobilevit.validation.candidates import read_candidate
from npmobilevit.validation.diagnosis import diagnosed
from npmobilevit.validation.mutants import CATALOGUE, MODES, Change, Mutant, changes, mutant_named
from npmobilevit.validation.mutants.changes import BLOCKS, OPERATORS
from npmobilevit.validation.mutants.pictures import PICTURE_MUTANTS
from npmobilevit.validation.mutants.places import BLOCK
from npmobilevit.validation.mutants.results import RESULT_MUTANTS
from npmobilevit.validation.profiles import PROFILES
from npmobilevit.validation.replay import in_float64, run_changed
from npmobilevit.validation.trial import Trial

pytestmark = pytest.mark.usefixtures("fewer_layers")

NAMES = [mutant.name for mutant in CATALOGUE]

# The rows of the survey of porting bugs.
ROWS = re.findall(
    r"\S+",
    """
PRE-01 PRE-02 PRE-03 PRE-04 PRE-06 PRE-07 PRE-08 PRE-09 PRE-10 PRE-11 PRE-12 PRE-13 PRE-14 CNV-01 CNV-02 CNV-03 CNV-05
CNV-06 CNV-07 CNV-08 CNV-10 CNV-11 CNV-12 NRM-01 NRM-02 NRM-03 NRM-05 NRM-06 NRM-07 NRM-08 NRM-10 NRM-11 NRM-12 NRM-13
NRM-14 MV2-01 MV2-02 MV2-04 MV2-05 MV2-06 MV2-07 MV2-08 UNF-01 UNF-02 UNF-03 UNF-04 UNF-06 UNF-08 UNF-09 UNF-10 UNF-11
UNF-12 ATT-01 ATT-02 ATT-03 ATT-04 ATT-05 ATT-06 ATT-08 ATT-09 ATT-10 ATT-11 ATT-12 ATT-13 TRF-01 TRF-02 TRF-04 TRF-05
TRF-06 TRF-07 TRF-08 TRF-09 TRF-10 FUS-01 FUS-02 FUS-04 FUS-05 HED-01 HED-02 HED-03 HED-04 SEG-01 SEG-02 SEG-03 SEG-04
SEG-05 SEG-06 SEG-07 SEG-08 SEG-09 SEG-10 SEG-12 SEG-13 NUM-01 NUM-02 NUM-03 NUM-04 NUM-05 NUM-07 NUM-08 NUM-09 NUM-10
NUM-11 WGT-01 WGT-02 WGT-03 WGT-05 WGT-06 WGT-07 SYS-01 SYS-03 SYS-04 SYS-05 SYS-06
""",
)


# --- the ports


class Setting(NamedTuple):
    """A network and an input on which a mistake shows.

    `factors` is a part of the names of weights, and what these are multiplied by. `asked` is a regular expression for
    the ends of names of taps: of those that fail, the first two such are asked for their cause.
    """

    head: str = "classification"
    config: tuple[tuple[str, Any], ...] = ()
    size: tuple[int, int, int] = (2, 40, 50)  # pictures, height, width: 50 gives maps that are no multiples of patches
    factors: tuple[str, float] = ("", 1.0)
    asked: str = ""


AT_16 = (("output_stride", 16),)
AT_8 = (("output_stride", 8),)
SETTINGS = {
    "ATT-09": Setting("segmentation", AT_16),  # as many tokens as channels of a head
    "ATT-13": Setting(factors=("attention.query", 8.0)),  # exp of a score is beyond float16
    "MV2-08": Setting(config=(("expand_ratio", 1.0),)),
    "SEG-03-halved": Setting("segmentation", (*AT_16, ("atrous_rates", (2, 4, 6)))),  # not all of them become 1
    "SEG-06": Setting("segmentation", AT_8),
    "SEG-07": Setting("segmentation", AT_8),
    "SEG-08": Setting("segmentation", (*AT_16, ("neck_hidden_sizes", (4, 6, 8, 10, 12, 12, 20)))),  # equal widths
    "SYS-06-aspp": Setting("segmentation", AT_16),
    "SYS-06-channels": Setting("segmentation", AT_16),
    "SYS-06-pooled": Setting(config=(("num_labels", 40),)),  # the features follow from the logits
    # variances so different that the table shows in them
    "NUM-08-fitted": Setting(size=(2, 96, 128), asked=r"layer\.2\.transformer\.layer\.1\.layernorm_before"),
    **{name: Setting("segmentation", AT_16) for name in NAMES if re.match("SEG-(0[1245]|13|03$|03-doubled)", name)},
}

# What the diagnosis does not name, and why.
UNNAMED = {
    "NUM-01": "the order of the sums is the port's secret: no replay repeats it",
    "SYS-04": "it takes two runs to see that they differ",
}


@functools.cache
def network(setting):
    """The network and itself in float64."""
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in setting.config}
    config = networks.tiny(**settings)
    part, factor = setting.factors
    weights = networks.random_weights(config, setting.head)
    weights = {name: value * factor if part in name else value for name, value in weights.items()}
    model = networks.MODELS[setting.head](config, weights, precision="float32")
    return model, in_float64(model)


class QuickTrial(Trial):
    """What is right is not looked at any closer."""

    judges_usual = False


class Outcome(NamedTuple):
    failing: list[str]  # all taps that fail
    asked: list[Any]  # findings with their causes, of the first of them


def outcome(setting, mutant, value, catalogue=CATALOGUE):
    """A port with one mistake before the check."""
    model, exact = network(setting)
    n, height, width = setting.size
    pixels = networks.pixels(n, height=height, width=width, dtype=np.float32)
    trial = QuickTrial(exact, read_candidate(run_changed(model, pixels, mutant.make(value))), PROFILES["fp32"])
    trial.run(pixels.astype(np.float64))
    failures = [finding for finding in trial.findings if finding.severity == "fail"]
    trial.findings = [finding for finding in failures if re.search(f"{setting.asked}$", finding.tap)][:2]
    return Outcome([f.tap for f in failures], diagnosed(trial, pixels.astype(np.float64), catalogue))


CASES = [
    pytest.param(mutant, value, id=f"{mutant.name}-{i}" if len(mutant.examples) > 1 else mutant.name)
    for mutant in CATALOGUE
    for i, value in enumerate(mutant.examples)
]


@pytest.mark.parametrize(("mutant", "value"), CASES)
def test_a_port_with_the_mistake_fails_and_the_mistake_is_named(mutant, value):
    found = outcome(SETTINGS.get(mutant.name, Setting()), mutant, value)
    assert found.failing
    causes = {finding.cause for finding in found.asked}
    assert causes == {None if mutant.name in UNNAMED else mutant.id}
    for finding in found.asked:
        assert (finding.diagnosis is None) == (mutant.name in UNNAMED)


def test_no_mistake_is_named_where_none_is_made():
    found = outcome(Setting(), Mutant("", "", "", "", make=changes()), None)
    assert found == Outcome([], [])


def test_what_is_special_about_a_mistake_is_about_one_of_the_catalogue():
    assert set(SETTINGS) | set(UNNAMED) <= set(NAMES)


@pytest.mark.parametrize("name", ["ATT-09", "ATT-13", "MV2-08", "SEG-08"])
def test_some_mistakes_need_their_setting(name):
    """Elsewhere they change nothing, and must not be named."""
    mutant = mutant_named(name)
    assert outcome(Setting(), mutant, mutant.examples[0]) == Outcome([], [])


# --- the catalogue itself


EVERYWHERE = (*CATALOGUE, *PICTURE_MUTANTS, *RESULT_MUTANTS)


def test_every_row_of_the_survey_is_there_and_nothing_else():
    assert {mutant.id for mutant in EVERYWHERE} == set(ROWS)
    assert len(ROWS) == len(set(ROWS)) == 114


def test_names_are_unique():
    names = [mutant.name for mutant in EVERYWHERE]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("mutant", CATALOGUE, ids=NAMES)
def test_a_mistake_is_described(mutant):
    assert re.fullmatch("[A-Z0-9]{3}-[0-9]{2}", mutant.id)
    assert re.fullmatch("[A-Za-z0-9-]*", mutant.variant)
    assert mutant.mode in MODES
    assert mutant.examples
    assert not mutant.description.endswith(".")
    for sentence in (mutant.consequence, mutant.fix):
        assert re.fullmatch(r"\S.*\.", sentence)
    for value in mutant.examples:
        assert value is None or not re.search("[{}]|None", mutant.sentence(value))


def test_descriptions_say_what_is_expected():
    silent = {mutant.name for mutant in CATALOGUE if "expected" not in mutant.description}
    # of these it is plain
    assert silent <= {"CNV-03-HWIO", "CNV-03-OIHW", "CNV-06", "CNV-06-reverse", "CNV-12-normalisation", "CNV-12-both"}


TARGETS = {*OPERATORS, *BLOCKS, "parameters", "out"}


@functools.cache
def nodes(setting):
    """All nodes of a network, also those without a tap."""
    model, _ = network(setting)
    taps = {""}
    model.forward(model.scope(lambda name, _x: taps.add(name)), model.check_pixel_values(networks.pixels()))
    return taps | {name[: dot.start()] for name in taps for dot in re.finditer(r"\.", name)}


def test_changes_are_of_what_the_network_has():
    for mutant in CATALOGUE:
        setting = SETTINGS.get(mutant.name, Setting())
        made = [change for value in mutant.examples for change in mutant.make(value)]
        assert made
        for change in made:
            assert change.target in TARGETS, mutant.name
            assert any(change.is_at(node) for node in nodes(setting)), mutant.name


def test_the_blocks_are_those_of_the_layers():
    wrapped = {name for name, value in vars(layers).items() if hasattr(value, "__wrapped__")}
    assert set(BLOCKS) == wrapped - {"layer_norm"}


def own_mutant(make: Callable[[Any], tuple[Change, ...]]) -> Mutant:
    """As the head of the package says how to add one."""
    return Mutant(
        "FUS-09",
        "input channels [projected, residual]; expected [residual, projected]",
        consequence="The fusion sees each kind of map with the weights of the other: labels are mostly wrong.",
        fix="Concatenate the block's input first and the output of conv_projection second, along channels.",
        make=make,
    )


def test_a_mistake_can_be_added():
    added = own_mutant(changes(Change("concat_channels", BLOCK, lambda s, own, maps: own(maps[::-1]))))
    found = outcome(Setting(), added, None, [added])
    assert found.failing == [f"mobilevit.encoder.layer.{i}.fusion.convolution" for i in (2, 3, 4)]
    for finding in found.asked:
        assert finding.cause == "FUS-09"
        assert finding.diagnosis.mutant == "FUS-09"
        assert finding.diagnosis.description == added.description
        assert finding.diagnosis.consequence == added.consequence
        assert finding.diagnosis.fix == added.fix
        assert finding.diagnosis.remaining < 1e-3


def test_a_mistake_that_is_made_otherwise_is_not_named():
    """The same name over another change: the name alone explains nothing."""
    added = own_mutant(changes(Change("concat_channels", BLOCK, lambda s, own, maps: own(maps[::-1]))))
    doubled = own_mutant(changes(Change("concat_channels", BLOCK, lambda s, own, maps: own([maps[0], maps[0]]))))
    found = outcome(Setting(), added, None, [doubled])
    assert [finding.cause for finding in found.asked] == [None, None]


def test_mutants_are_found_by_name():
    assert [mutant_named(name) for name in NAMES] == list(CATALOGUE)
    with pytest.raises(KeyError):
        mutant_named("FUS-1")
