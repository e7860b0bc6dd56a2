"""What is wrong is named where it can be, and where it cannot, nothing is blamed."""

import dataclasses
import functools
import re

import networks
import numpy as np
import pytest
from narrow import OPERATORS

from npmobilevit import ops
from npmobilevit.validation import check
from npmobilevit.validation.candidates import read_candidate
from npmobilevit.validation.diagnosis import MOST_NEAR, MOST_UNKNOWN, NEAR, diagnosed
from npmobilevit.validation.mutants import CATALOGUE, Change, Mutant, changes, mutant_named
from npmobilevit.validation.mutants.places import BLOCK
from npmobilevit.validation.profiles import PROFILES
from npmobilevit.validation.replay import in_float64, run_changed
from npmobilevit.validation.trial import Trial

pytestmark = pytest.mark.usefixtures("fewer_layers")

PIXELS = networks.pixels(2, height=40, width=50, dtype=np.float32)
BLOCK_2 = r"encoder\.layer\.2"
CONV = "mobilevit.encoder.layer.2.conv_kxk.convolution"
FUSIONS = [f"mobilevit.encoder.layer.{i}.fusion.convolution" for i in (2, 3, 4)]


@functools.cache
def network():
    return networks.make_model("classification", precision="float32")


def made(name, value=None):
    """The changes of a mistake of the catalogue."""
    return mutant_named(name).make(value)


def port(*mistakes, without="nothing", profile="fp32"):
    """What a port with some mistakes dumps; of the taps that match `without` nothing."""
    taps = run_changed(network(), PIXELS, mistakes, **OPERATORS[profile])
    return {name: value for name, value in taps.items() if not re.fullmatch(without, name)}


def findings_of(dump, catalogue=CATALOGUE, profile="fp32"):
    trial = Trial(in_float64(network()), read_candidate(dump), PROFILES[profile])
    trial.run(PIXELS.astype(np.float64))
    return trial.findings, diagnosed(trial, PIXELS.astype(np.float64), catalogue)


def failures_of(dump, catalogue=CATALOGUE, profile="fp32"):
    return [finding for finding in findings_of(dump, catalogue, profile)[1] if finding.severity == "fail"]


def at_conv(function):
    """A mistake of one tap."""
    return Change("out", rf"{BLOCK_2}\.conv_kxk\.convolution", lambda s, x: function(x.copy()))


# --- what is in no catalogue


def scale_a_channel(x):
    x[:, 3] *= np.float32(1.01)
    return x


def shift_a_column(x):
    x[..., -1] += np.float32(0.1)
    return x


def roll_channels(x):
    x[1] = np.roll(x[1], 1, axis=0)
    return x


@pytest.mark.parametrize(
    ("function", "seen"),
    [
        (scale_a_channel, "; only in channels 3 of 10; there it is 1.01 times what is expected"),
        (shift_a_column, "; only in columns 6 of 7; there it is +0.1 beside what is expected"),
        (roll_channels, "; only in pictures 1 of 2"),
    ],
)
def test_a_mistake_of_no_catalogue_stays_unknown_and_is_located(function, seen):
    (finding,) = failures_of(port(at_conv(function)))
    assert (finding.tap, finding.cause, finding.diagnosis) == (CONV, None, None)
    assert finding.message.endswith(seen)
    assert finding.near == ()


@pytest.mark.parametrize("factor", [1.01, 0.9])
@pytest.mark.parametrize("place", ["transformer.layer.0.output.dense", "conv_projection.normalization", "layernorm"])
def test_no_mistake_is_blamed_for_another_of_one_channel(factor, place):
    where = rf"{BLOCK_2}\.{re.escape(place)}"
    channel = np.ones(8, np.float32)
    channel[5] = factor

    def scaled(s, x):
        return x * (channel if x.ndim == 3 else np.resize(channel, x.shape[1])[:, None, None])

    (finding,) = failures_of(port(Change("out", where, scaled)))
    assert finding.cause is None


def test_without_a_mistake_there_is_no_cause():
    for profile in ("fp32", "tf32", "fp16", "bf16"):
        assert findings_of(port(profile=profile), profile=profile)[1] == []


def blend(s, own, x):
    return np.float32(0.8) * ops.gelu(x) + np.float32(0.2) * own(x)


def test_the_nearest_mistakes_are_listed_with_what_they_leave():
    (finding,) = failures_of(port(Change("activation", rf"{BLOCK_2}\.transformer\.layer\.0", blend)))
    assert finding.cause is None
    shares = {miss.mutant: miss.remaining for miss in finding.near}
    assert shares["TRF-05"] == pytest.approx(0.25, abs=1e-3)  # of 0.8 parts GELU lacks 0.2
    assert list(shares.values()) == sorted(shares.values())
    assert len(shares) <= MOST_NEAR
    assert max(shares.values()) < NEAR
    (gelu,) = [miss for miss in finding.near if miss.mutant == "TRF-05"]
    assert gelu.description == mutant_named("TRF-05").description


def test_only_some_taps_of_a_kind_are_tried_in_vain():
    doubled = Change("out", r".*\.query", lambda s, x: x * np.float32(1.3))
    asked = set()
    spy = Mutant("SPY-01", "", "", "", make=changes(Change("out", ".*", lambda s, x: x)), values=recorder(asked))
    failures = failures_of(port(doubled), [spy])
    assert len(failures) == sum(networks.FEWER_LAYERS)
    assert all(finding.cause is None for finding in failures)
    assert len(asked) == MOST_UNKNOWN


def recorder(asked):
    """Values of a mistake that tell which taps it is tried at."""

    def values(site):
        asked.add(site.tap)
        return (None,)

    return values


# --- numbers


@pytest.mark.parametrize("eps", [3.3e-4, 4.7e-3])
def test_a_number_is_found(eps):
    failures = failures_of(port(*made("NRM-05", eps)))
    assert len(failures) >= 9
    for finding in failures:
        assert finding.cause in ("NRM-05", "NRM-06")
        assert f"eps {eps:.4g}; expected" in finding.diagnosis.description
        assert finding.diagnosis.remaining < 0.5
    assert failures[0].diagnosis.remaining < 1e-3


@pytest.mark.parametrize("factor", [0.3, 1.7, 0.123])
def test_a_number_is_searched_for(factor):
    """Between the values that are tried, which are powers of two."""
    failures = failures_of(port(*made("ATT-03-factor", factor)), [mutant_named("ATT-03-factor")])
    assert failures
    for finding in failures:
        assert finding.cause == "ATT-03"
        value = float(re.match("scores (\\S+) times", finding.diagnosis.description)[1])
        assert value == pytest.approx(factor, rel=1e-2)
    assert failures[0].diagnosis.description.startswith(f"scores {factor} times")


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_a_number_of_heads_is_found(heads):
    failures = failures_of(port(*made("ATT-01", heads)))
    assert {finding.cause for finding in failures} == {"ATT-01"}
    assert {finding.diagnosis.description[:7] for finding in failures} == {f"{heads} heads"}


def test_layers_may_differ_in_their_numbers():
    def heads(layer, count):
        where = rf"encoder\.layer\.{layer}\..*\.attention\.attention"
        return Change("split_heads", where, lambda s, own, x, right: own(x, count))

    failures = failures_of(port(heads(2, 2), heads(3, 1)), [mutant_named("ATT-01")])
    assert {(finding.tap[24], finding.diagnosis.description[:7]) for finding in failures} == {
        ("2", "2 heads"), ("3", "1 heads")
    }  # fmt: skip


# --- several at once


def test_mistakes_at_different_taps_are_named_each():
    failures = failures_of(port(*made("FUS-01"), *made("NRM-08"), *made("HED-03")))
    named = {re.sub(r".*\.", "", re.sub(r"\.convolution$", "", f.tap)): f.cause for f in failures}
    assert named == {
        "fusion": "FUS-01", "layernorm_before": "NRM-08", "layernorm_after": "NRM-08", "layernorm": "NRM-08",
        "classifier": "HED-03",
    }  # fmt: skip


def test_two_mistakes_in_one_region_are_named_together():
    dump = port(*made("ATT-06"), *made("ATT-04"), without=r".*attention\.(query|key|value)")
    failures = failures_of(dump, [mutant_named(name) for name in ("ATT-03", "ATT-04", "ATT-06", "ATT-08")])
    alone = [f.diagnosis.mutant for f in failures if "layer.4" in f.tap]
    assert alone == ["ATT-06"]  # in the last block there is one token, and one way to share it out
    together = [f for f in failures if "layer.4" not in f.tap]
    assert len(together) == 3
    for finding in together:
        assert finding.diagnosis.mutant == "ATT-04 + ATT-06"
        assert finding.cause == "ATT-04"
        for name in ("ATT-04", "ATT-06"):
            for text in ("description", "consequence", "fix"):
                assert getattr(mutant_named(name), text) in getattr(finding.diagnosis, text)


# --- which tap, which mistake first


def swapped(name, where=BLOCK, **settings):
    """Another name for FUS-01."""
    reverse = changes(Change("concat_channels", where, lambda s, own, maps: own(maps[::-1])))
    return Mutant("OWN-01", f"swapped; expected {name}", "", "", make=reverse, variant=name, **settings)


def test_the_smallest_tap_is_tried_first_and_what_it_has_is_tried_on_the_others():
    asked = set()
    names = {
        f.tap: f.diagnosis.mutant for f in failures_of(port(*made("FUS-01")), [swapped("a", values=recorder(asked))])
    }
    assert names == dict.fromkeys(FUSIONS, "OWN-01-a")
    sizes = {tap: port()[tap].size for tap in FUSIONS}
    assert asked == {min(sizes, key=sizes.get)}


def test_the_mistake_that_explains_more_taps_is_preferred():
    catalogue = [swapped("last", r"encoder\.layer\.4"), swapped("all")]
    names = {f.diagnosis.mutant for f in failures_of(port(*made("FUS-01")), catalogue)}
    assert names == {"OWN-01-all"}


def test_of_mistakes_that_explain_as_much_the_first_is_named_and_the_others_are_mentioned():
    catalogue = [swapped("a"), swapped("b"), swapped("c")]
    for finding in failures_of(port(*made("FUS-01")), catalogue):
        assert finding.diagnosis.mutant == "OWN-01-a"
        assert finding.diagnosis.also == (catalogue[1].description, catalogue[2].description)


@pytest.mark.parametrize("freedom", ["fitted", "by_shape"])
def test_a_mistake_that_is_less_free_is_preferred(freedom):
    catalogue = [swapped("free", **{freedom: True}), swapped("strict")]
    for finding in failures_of(port(*made("FUS-01")), catalogue):
        assert finding.diagnosis.mutant == "OWN-01-strict"
        assert finding.diagnosis.also == ()


def test_mistakes_that_cannot_be_made_are_passed_over():
    def stumble(s, own, maps):
        raise ValueError("shapes do not fit")

    def no_values(site):
        raise IndexError

    broken = Mutant("OWN-02", "", "", "", make=changes(Change("concat_channels", BLOCK, stumble)))
    catalogue = [broken, dataclasses.replace(broken, id="OWN-03", values=no_values), swapped("a")]
    assert {f.cause for f in failures_of(port(*made("FUS-01")), catalogue)} == {"OWN-01"}
    assert {f.cause for f in failures_of(port(*made("FUS-01")), catalogue[:2])} == {None}


# --- below the tolerance


def test_a_fault_below_the_tolerance_that_a_known_mistake_explains_is_a_failure():
    before, after = findings_of(port(*made("NRM-05", 1e-6)))
    odd = {f.tap for f in before if f.severity == "unusual"}
    known = {f.tap: f for f in after if f.severity == "fail"}
    assert len(odd & set(known)) >= 3
    for tap in odd & set(known):
        assert known[tap].kind in ("structure", "screen")
        assert known[tap].cause == "NRM-05"
        assert "eps 1e-06" in known[tap].diagnosis.description
    assert len([f for f in after if f.tap in odd & set(known)]) == len(odd & set(known))  # one finding a tap


@pytest.mark.parametrize("function", [lambda s, x: x * np.float32(1 + 1e-6), lambda s, x: x + np.float32(3e-7)])
def test_a_fault_below_the_tolerance_that_nothing_explains_stays_unusual(function):
    dump = port(Change("out", rf"{BLOCK_2}\.layernorm", function))
    before, after = findings_of(dump)
    assert before
    assert after == before
    assert {finding.severity for finding in after} == {"unusual"}
    report = check(dump, network())
    assert report.verdict == "pass"
    assert {f.cause for f in report.findings} == {None}


def test_a_tap_that_is_explained_below_its_tolerance_is_wrong_in_the_report():
    report = check(port(*made("NRM-05", 1e-6)), network())
    status = {judgement.tap: judgement.status for judgement in report.judgements}
    below = [f.tap for f in report.failures if f.kind in ("structure", "screen")]
    assert below
    assert {status[tap] for tap in below} == {"wrong"}


# --- other shapes


def test_a_wrong_shape_is_explained_by_values():
    stretched = mutant_named("UNF-06").examples[0]
    failures = failures_of(port(*made("UNF-06", stretched)))
    assert [f.kind for f in failures[:2]] == ["shape", "error"]
    assert {f.cause for f in failures} == {"UNF-06"}


@pytest.mark.parametrize(
    ("name", "value", "text"), [("WGT-05", 21, "21 classes"), ("TRF-09", 4.0, "4"), ("ATT-11", 4, "4 heads")]
)
def test_where_the_weights_are_others_the_shape_is_enough(name, value, text):
    failures = failures_of(port(*made(name, value)))
    assert failures[0].kind == "shape"
    assert {f.cause for f in failures} == {name}
    assert all(text in f.diagnosis.description for f in failures)


def test_of_other_weights_there_is_nothing_but_the_shape():
    dump = port()
    dump["classifier"] = dump["logits"] = np.random.default_rng(0).normal(size=(2, 21)).astype(np.float32)
    (finding,) = failures_of(dump)
    assert (finding.tap, finding.kind, finding.cause) == ("classifier", "shape", "WGT-05")


def test_a_shape_that_nobody_makes_stays_unknown():
    dump = port()
    dump["classifier"] = dump["logits"] = np.zeros((2, 5, 1, 3), np.float32)
    assert {(f.kind, f.cause) for f in failures_of(dump)} == {("shape", None)}


# --- fewer taps, and other arithmetic


@pytest.mark.parametrize("name", ["FUS-01", "TRF-02", "CNV-05"])
def test_blocks_alone_are_enough(name):
    mutant = mutant_named(name)
    dump = port(*mutant.make(None), without=r"mobilevit\.encoder\.layer\.\d\..*")
    failures = failures_of(dump, [m for m in CATALOGUE if re.match("FUS|TRF|CNV|UNF", m.name)])
    assert {f.tap for f in failures} >= {f"mobilevit.encoder.layer.{i}" for i in (2, 3, 4)}
    assert {f.cause for f in failures if f.tap.startswith("mobilevit.encoder.layer")} == {name}


@pytest.mark.parametrize(("profile", "name"), [("bf16", "ATT-02"), ("fp16", "CNV-07"), ("tf32", "TRF-05")])
def test_mistakes_are_named_in_other_arithmetics(profile, name):
    failures = failures_of(port(*made(name), profile=profile), profile=profile)
    assert failures
    assert {f.cause for f in failures} == {name}


# --- mistakes of the dump


def test_a_dump_in_another_layout_is_not_a_mistake_of_the_network():
    dump = port()
    dump[CONV] = dump[CONV].transpose(0, 2, 3, 1)
    (finding,) = failures_of(dump)
    assert (finding.tap, finding.kind, finding.cause, finding.diagnosis.mutant) == (CONV, "layout", "SYS-05", "SYS-05")


def test_a_port_in_another_order_is_one():
    """Tokens in another order: the same values, which a dump might hold in the wrong layout, but the next layer has."""
    failures = failures_of(port(*made("UNF-02")))
    assert {f.cause for f in failures} == {"UNF-02"}


def test_findings_keep_their_order_and_those_that_need_no_cause_stay():
    dump = port(*made("FUS-01"), *made("HED-03"))
    dump[CONV] = dump[CONV][:, ::-1]
    before, after = findings_of(dump)
    assert [(f.tap, f.kind) for f in after] == [(f.tap, f.kind) for f in before]
    assert [f.cause for f in after] == ["SYS-05", "FUS-01", "FUS-01", "FUS-01", "HED-03"]


def test_the_report_says_it():
    report = check(port(*made("FUS-01")), network())
    first, *_ = str(report).split("\n")
    assert first.endswith(
        "first: mobilevit.encoder.layer.2.fusion.convolution: input channels [projected, residual]; expected "
        "[residual, projected]"
    )
