"""Operator probes: each is caught out by the mistakes it was made for, and by no honest arithmetic."""

import re

import numpy as np
import pytest
from narrow import cut_to, float16

from npmobilevit import ops
from npmobilevit.layers import attention
from npmobilevit.scope import OpTable
from npmobilevit.validation.lazy import forced
from npmobilevit.validation.mutants import CATALOGUE
from npmobilevit.validation.probes import PROBES, applied, expected, judge
from npmobilevit.validation.profiles import BFLOAT16, FLOAT16, PROFILES
from npmobilevit.validation.replay import ReplayScope
from npmobilevit.validation.trial import representable

BY_NAME = {probe.name: probe for probe in PROBES}
FP32 = PROFILES["fp32"]
HALVES = {"fp16": float16, "bf16": cut_to(8)}

BLOCK = "encoder.layer.2"
LAYER = f"{BLOCK}.transformer.layer.0"
ASPP = "segmentation_head.aspp"

# Where the network has an operator: the node that calls it and, below it, the one with the parameters.
PLACES = {
    "conv2d": [
        (node, "convolution")
        for node in (
            "conv_stem",
            f"{BLOCK}.downsampling_layer.conv_3x3",
            f"{BLOCK}.conv_kxk",
            f"{BLOCK}.conv_1x1",
            f"{ASPP}.convs.1",
            "segmentation_head.classifier",
        )
    ],
    "batch_norm": [(f"{BLOCK}.conv_kxk", "normalization")],
    "layer_norm": [(f"{BLOCK}.layernorm", "")],
    "linear": [(f"{LAYER}.attention.attention.query", ""), ("classifier", "")],
    "silu": [(f"{BLOCK}.conv_kxk", ""), (LAYER, ""), (f"{LAYER}.intermediate", "")],
    "relu": [(f"{ASPP}.convs.1", "")],
    "softmax": [(f"{LAYER}.attention.attention", "")],
    "scaled_dot_product_attention": [(f"{LAYER}.attention.attention", "")],
    "multi_head_attention": [(f"{LAYER}.attention", "")],
    "unfold_patches": [(BLOCK, "")],
    "fold_patches": [(BLOCK, "")],
    "resize_bilinear": [(BLOCK, "")],
    "global_avg_pool": [("", ""), (f"{ASPP}.convs.4", "")],
}
ATTENTION_NODES = {
    **{name: f"{LAYER}.attention.attention.{name}" for name in ("query", "key", "value")},
    "output": f"{LAYER}.attention.output.dense",
}


def run_true(probe, table=None):
    return applied(OpTable() if table is None else table, probe.op, probe.arrays, probe.attributes)


def at_node(probe, node, leaf, changes):
    """The probe, run as the network does at a node, with mistakes."""
    arrays, op, attributes = probe.arrays, probe.op, dict(probe.attributes)
    below = ".".join(filter(None, (node, leaf)))
    weights = {}
    for name, array in arrays.items():
        module, _, parameter = name.rpartition(".")
        weights[f"{ATTENTION_NODES.get(module, below)}.{parameter}"] = array
    root = ReplayScope(weights, table=OpTable(), changes=tuple(changes)).of_node("")
    s = root.of_node(node)
    if op == "multi_head_attention":
        return forced(attention(s, arrays["x"], **attributes))
    if op in ("conv2d", "batch_norm", "layer_norm", "linear"):
        parameters = root.of_node(below).params()
        return forced(root.of_node(below).out(getattr(s.ops, op)(arrays["x"], **parameters, **attributes)))
    return forced(applied(s.ops, op, arrays, attributes))


def second_as_first(result, **_):
    """The second picture's result is the first's once more."""
    half = len(result) // 2
    return np.concatenate([result[:half], result[:half]])


def one_pass(x, *, weight, bias, eps):
    """Layer normalisation whose mean of squares is held in float16."""
    mean = float16(x.mean(-1, keepdims=True))
    variance = float16(float16(np.square(x).mean(-1, keepdims=True)) - float16(mean * mean))
    return (x - mean) / np.sqrt(np.maximum(variance, 0) + np.float32(eps)) * weight + bias


def half_sums(x, axis=-1):
    """Softmax with a sum in float16."""
    e = np.exp(x - x.max(-1, keepdims=True)).astype(np.float16)
    total = np.add.accumulate(e, -1, dtype=np.float16)[..., -1:]
    return e.astype(np.float32) / total.astype(np.float32)


def naive_softmax(x):
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(x)
        return e / e.sum(-1, keepdims=True)


def attending_naively(arrays):
    scores = ops.attention_scores(arrays["query"], arrays["key"])
    return ops.attend(naive_softmax(scores), arrays["value"])


def half_sum_of_products(arrays):
    products = (arrays["x"][:, np.newaxis] * arrays["weight"]).astype(np.float16)
    return np.add.accumulate(products, -1, dtype=np.float16)[..., -1].astype(np.float32)


def coarse_root(x, *, weight, bias, eps):
    """Layer normalisation with a reciprocal root of eight bits, as one from a table is."""
    inverse = cut_to(8)(1 / np.sqrt(x.var(-1, keepdims=True) + np.float32(eps)))
    return (x - x.mean(-1, keepdims=True)) * inverse * weight + bias


def of_straight_pieces(x):
    """SiLU from a table with steps of a half."""
    knots = np.arange(-16, 16.5, 0.5)
    return np.where(np.abs(x) > 16, np.maximum(x, 0), np.interp(x, knots, ops.silu(knots)))


def corners_aligned(arrays, size):
    x = arrays["x"]
    for axis, n in zip((2, 3), size, strict=True):
        at = np.linspace(0, x.shape[axis] - 1, n)
        low = np.minimum(at.astype(int), x.shape[axis] - 2)
        share = (at - low).reshape(-1, *(1,) * (3 - axis))
        x = x.take(low, axis) * (1 - share) + x.take(low + 1, axis) * share
    return x


# Mistakes that no single operator of the network shows, or that the catalogue makes elsewhere: (probe, row).
BY_HAND = {
    ("conv2d-pointwise", "SYS-01"): lambda p: second_as_first(run_true(p)),
    ("unfold_patches-addresses", "SYS-01"): lambda p: second_as_first(run_true(p)),
    ("global_avg_pool-odd", "SYS-01"): lambda p: second_as_first(run_true(p)),
    ("layer_norm-large-mean", "NRM-10"): lambda p: one_pass(**p.arrays, **p.attributes),
    ("layer_norm-axes", "NUM-08"): lambda p: coarse_root(**p.arrays, **p.attributes),
    ("silu-range", "NUM-03"): lambda p: of_straight_pieces(p.arrays["x"]),
    ("unfold_patches-addresses", "UNF-11"): lambda p: ops.unfold_patches(p.arrays["x"], 4),
    ("softmax-long", "NUM-10"): lambda p: half_sums(p.arrays["x"]),
    ("softmax-large", "ATT-13"): lambda p: naive_softmax(p.arrays["x"]),
    ("scaled_dot_product_attention-large", "ATT-13"): lambda p: attending_naively(p.arrays),
    ("linear-long", "NUM-01"): lambda p: half_sum_of_products(p.arrays),
    ("linear-fractions", "NUM-02"): lambda p: ops.linear(**{n: cut_to(11)(a) for n, a in p.arrays.items()}),
    ("resize_bilinear-mask", "SEG-10"): lambda p: corners_aligned(p.arrays, p.attributes["size"]),
}
HALF_ONLY = ("NRM-10", "NUM-01", "NUM-10")  # mistakes of those who compute in float16
CLAIMS = [(probe.name, row) for probe in PROBES for row in probe.catches]


def wrong_results(probe, row):
    """The probe under every form of a mistake; forms that cannot be made of it are left out."""
    if (probe.name, row) in BY_HAND:
        yield BY_HAND[probe.name, row](probe)
        return
    for mutant in CATALOGUE:
        for value in mutant.examples if mutant.id == row else ():
            for node, leaf in PLACES[probe.op]:
                try:
                    with np.errstate(all="ignore"):
                        yield at_node(probe, node, leaf, mutant.make(value))
                except (ValueError, TypeError, KeyError, IndexError):
                    continue


@pytest.mark.parametrize(("name", "row"), CLAIMS)
def test_a_probe_catches_the_mistakes_it_names(name, row):
    probe = BY_NAME[name]
    profile = PROFILES["fp16" if row in HALF_ONLY else "fp32"]
    findings = [judge(probe, result, profile).finding for result in wrong_results(probe, row)]
    caught = [finding for finding in findings if finding is not None]
    assert caught, f"{len(findings)} forms of {row} pass"
    assert row in caught[0].message
    assert caught[0].tap == name
    assert caught[0].severity == "fail"


# What coarser arithmetics hide.
HIDDEN = {
    "fp16": {("layer_norm-axes", "NUM-08"), ("linear-fractions", "NUM-02")},
    "bf16": {
        ("layer_norm-axes", "NUM-08"),
        ("linear-fractions", "NUM-02"),
        ("layer_norm-axes", "NRM-13"),
        ("multi_head_attention-heads", "ATT-02"),
        ("multi_head_attention-heads", "ATT-03"),
    },
}


@pytest.mark.parametrize("profile", HIDDEN)
def test_coarser_profiles_hide_little(profile):
    def is_caught(name, row):
        probe = BY_NAME[name]
        return any(judge(probe, result, PROFILES[profile]).finding for result in wrong_results(probe, row))

    assert {claim for claim in CLAIMS if not is_caught(*claim)} <= HIDDEN[profile]


@pytest.mark.parametrize("name", BY_NAME)
def test_at_a_node_without_a_mistake_a_probe_passes(name):
    probe = BY_NAME[name]
    for node, leaf in PLACES[probe.op]:
        assert judge(probe, at_node(probe, node, leaf, ()), FP32).finding is None


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_true_operator_passes_at_every_profile(name, dtype):
    probe = BY_NAME[name]
    arrays = {key: value.astype(dtype) for key, value in probe.arrays.items()}
    result = applied(OpTable(), probe.op, arrays, probe.attributes)
    for profile in PROFILES.values():
        if not profile.stated:
            outcome = judge(probe, result, profile)
            assert outcome.finding is None, profile.name
            assert outcome.judgement.status == "right"


def narrowed(table, narrow):
    """The operators of a port that stores every result in few digits."""

    def storing(function):
        return lambda *a, **k: narrow(np.asarray(function(*a, **k), np.float32))

    changed = {op: storing(function) for op, function in table._asdict().items() if op != "activations"}
    activations = {name: storing(function) for name, function in table.activations.items()}
    return OpTable(**changed, activations=activations)


@pytest.mark.parametrize("profile", HALVES)
@pytest.mark.parametrize("name", BY_NAME)
def test_results_and_operands_in_half_precision_pass_where_they_are_declared(name, profile):
    probe, narrow = BY_NAME[name], HALVES[profile]
    arrays = {key: narrow(value) for key, value in probe.arrays.items()}
    result = applied(narrowed(OpTable(), narrow), probe.op, arrays, probe.attributes)
    assert judge(probe, result, PROFILES[profile]).finding is None


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "linear-fractions"])
def test_no_port_has_to_round_its_input(name):
    for key, value in BY_NAME[name].arrays.items():
        assert value.dtype == np.float32
        assert representable(value, BFLOAT16), key
        assert representable(value, FLOAT16), key


@pytest.mark.parametrize("name", [probe.name for probe in PROBES if probe.integer])
def test_integers_stay_integers_in_any_order_of_the_sum(name):
    probe = BY_NAME[name]
    for value in probe.arrays.values():
        np.testing.assert_array_equal(value, np.round(value))
    sizes = applied(OpTable(), probe.op, {key: np.abs(a) for key, a in probe.arrays.items()}, probe.attributes)
    assert sizes.max() <= 256
    assert judge(probe, run_true(probe), PROFILES["bf16"]).judgement.test == "exact"


def test_every_element_of_what_is_only_moved_has_an_address():
    moved = [probe for probe in PROBES if probe.name.endswith("-addresses")]
    assert {probe.op for probe in moved} == {"unfold_patches", "fold_patches"}
    for probe in moved:
        assert np.unique(probe.arrays["x"]).size == probe.arrays["x"].size
        assert judge(probe, run_true(probe), FP32).judgement.test == "exact"


def test_arrays_are_made_anew_and_are_the_same_every_time():
    for probe in PROBES:
        for array in probe.arrays.values():
            array += 1
        again = applied(OpTable(), probe.op, probe.arrays, probe.attributes)
        assert judge(probe, again, FP32).finding is None


def test_names_say_the_operator_and_are_different():
    assert len(BY_NAME) == len(PROBES)
    for probe in PROBES:
        assert re.fullmatch(r"[a-z0-9_]+-[a-z0-9-]+", probe.name)
        assert probe.name.startswith(f"{probe.op}-")
        assert callable(getattr(ops, probe.op))
        assert probe.why.endswith(".")
        assert probe.catches
        assert len(set(probe.catches)) == len(probe.catches)
    assert set(PLACES) == {probe.op for probe in PROBES}


def test_rows_are_those_of_the_catalogue():
    known = {mutant.id for mutant in CATALOGUE} | {row for _, row in BY_HAND}
    assert {row for probe in PROBES for row in probe.catches} <= known


@pytest.mark.parametrize(
    ("result", "kind", "text"),
    [
        (None, "result", "no array"),
        ("junk", "result", "no array"),
        ([[1, 2], [3]], "result", "no array"),
        (np.array([object()]), "result", "no array"),
        (np.zeros((1, 2, 3)), "shape", r"\(1, 2, 3\), expected \(2, 3\)"),
        (np.full((2, 3), np.nan), "non-finite", r"nan at index \(0, 0\)"),
        (np.zeros((2, 3)), "error", "times the tolerance off"),
        (np.zeros((2, 3), np.int64), "error", "elements are wrong"),
    ],
)
def test_whatever_a_backend_gives_ends_in_a_finding(result, kind, text):
    outcome = judge(BY_NAME["global_avg_pool-odd"], result, FP32)
    assert outcome.finding.kind == kind
    assert re.search(text, outcome.finding.message)
    assert outcome.judgement.status == "wrong"


def test_exact_results_allow_no_difference_and_others_little():
    probe = BY_NAME["unfold_patches-addresses"]
    right = run_true(probe)
    right[3, 2, 1] = np.nextafter(right[3, 2, 1], np.float32(np.inf))
    outcome = judge(probe, right, PROFILES["bf16"])
    assert outcome.judgement.worst == (3, 2, 1)
    probe = BY_NAME["global_avg_pool-odd"]
    bounded = expected(probe, FP32)
    assert judge(probe, bounded.value + 0.99 * bounded.error, FP32).finding is None
    assert judge(probe, bounded.value + 1.01 * bounded.error, FP32).finding is not None


def test_dynamic_quantisation_is_allowed_where_it_is_declared():
    probe = BY_NAME["linear-square"]

    def quantised(a):
        step = np.abs(a).max() / 127
        return np.round(a / step) * step

    a = probe.arrays
    result = ops.linear(quantised(a["x"]), weight=quantised(a["weight"]), bias=a["bias"])
    assert judge(probe, result, PROFILES["int8-dynamic"]).finding is None
    assert judge(probe, result, FP32).finding is not None
