"""The tolerances: by their definition in plain loops, against honest and dishonest arithmetic, and carried through.

``tools/measure_tolerances.py`` has the honest ways to compute; here they run on small cases.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import measure_tolerances as measured
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops import definitions as by_definition

from npmobilevit import ops
from npmobilevit.errors import ConfigError
from npmobilevit.validation import bounds
from npmobilevit.validation.bounds import SLOPES, Arithmetic, Bounded, Deferred, joined
from npmobilevit.validation.profiles import PROFILES, Profile
from npmobilevit.validation.trial import compared

LINES = ("proof", "fail", "usual")
CERTIFIED = ("proof", "fail")
FP32 = PROFILES["fp32"]
IDEAL = Profile("ideal", operand=0.0, accumulate=0.0, store=0.0, smallest=0.0)  # only what is carried is left
FLOATS = tuple(profile for profile in PROFILES.values() if not profile.quantized)

every_line = pytest.mark.parametrize("tier", LINES)
every_certified = pytest.mark.parametrize("tier", CERTIFIED)


# ---- the operators, with their terms by definition ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator on a few numbers: with bounds, without, and (n, S, L) from plain loops."""

    inputs: Mapping[str, np.ndarray]
    bounded: Callable[..., Any]  # (arithmetic, **inputs)
    plain: Callable[..., np.ndarray]
    terms: Callable[..., tuple[int, np.ndarray, np.ndarray]]
    product: bool = False

    def __call__(self, profile: Profile, tier: str, inputs: Mapping[str, Bounded] | None = None, **options) -> Bounded:
        given = {name: Bounded(x) for name, x in self.inputs.items()} if inputs is None else inputs
        found = self.bounded(Arithmetic(profile, tier, **options), **given)
        return found.whole() if isinstance(found, Deferred) else found


def normal(*shape, seed=0):
    return by_definition.normal(*shape, seed=seed)


def positive(*shape, seed=0):
    return np.abs(normal(*shape, seed=seed)) + 0.1


def inner_product(inputs, bounded, plain, definition, n) -> Operator:
    """An operator whose definition also gives S and L, from the sizes and squares of its inputs."""

    def terms(**x):
        sizes = {name: np.abs(value) for name, value in x.items()}
        squares = {name: np.square(value) for name, value in x.items()}
        return n, definition(**sizes), np.sqrt(definition(**squares))

    return Operator(inputs, bounded, plain, terms, product=True)


def convolution(x, weight, bias, **geometry) -> Operator:
    inputs = {"x": normal(*x), "weight": normal(*weight, seed=1)} | ({"bias": normal(weight[0])} if bias else {})
    n = math.prod(weight[1:]) + bias + 4  # four roundings of weights that a normalisation was folded into
    call = functools.partial(ops.conv2d, **geometry)
    return inner_product(
        inputs,
        lambda arithmetic, **i: arithmetic.conv2d(**i, **geometry),
        lambda x, **i: call(x, **i),
        functools.partial(by_definition.conv2d, **geometry),
        n,
    )


def scores(query, key):
    y = np.zeros((*query.shape[:-1], key.shape[-2]))
    for s, h, i, j in np.ndindex(*y.shape):
        y[s, h, i, j] = math.fsum(float(a) * float(b) for a, b in zip(query[s, h, i], key[s, h, j], strict=True))
    return y


def scores_terms(query, key):
    width = query.shape[-1]
    S = scores(np.abs(query), np.abs(key)) / math.sqrt(width)
    return width + 2, S, np.sqrt(scores(query**2, key**2) / width)


def attend(probs, value):
    y = np.zeros((*probs.shape[:-1], value.shape[-1]))
    for s, h, i, d in np.ndindex(*y.shape):
        y[s, h, i, d] = math.fsum(float(p) * float(v) for p, v in zip(probs[s, h, i], value[s, h, :, d], strict=True))
    return y


def pool_terms(x):
    count = x.shape[2] * x.shape[3]
    L = np.sqrt(by_definition.global_avg_pool(x**2) / count)
    return count + 1, by_definition.global_avg_pool(np.abs(x)), L


def function_terms(n, size):
    """A function has no terms: its roundings all have the size S."""
    return lambda **x: (n, S := size(**x), S / math.sqrt(n))


def silu_size(x):
    return 1.25 * np.maximum(np.abs(x) / 2, np.abs(x / (1 + np.exp(-x))))


def softmax_size(x):
    y = np.zeros(x.shape)
    for row in np.ndindex(*x.shape[:-1]):
        p, top = by_definition.softmax([float(v) for v in x[row]]), max(x[row])
        sizes = [abs(v) + top - v for v in x[row]]
        shared = math.fsum(a * b for a, b in zip(p, sizes, strict=True))
        y[row] = [a * (1 + b + shared) for a, b in zip(p, sizes, strict=True)]
    return y


def layer_norm_terms(x, weight, bias):
    n = x.shape[-1] + 8
    S, L = np.zeros(x.shape), np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        row = x[place[:-1]]
        mean = math.fsum(row) / len(row)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in row) / len(row) + 1e-5)
        g, b = abs(weight[place[-1]]), abs(bias[place[-1]])
        size = abs(x[place]) + math.fsum(abs(v) for v in row) / len(row) + 2 * abs(x[place] - mean)
        S[place] = g * size / deviation + b
        L[place] = math.hypot(S[place] / math.sqrt(n), g * mean / deviation / 2)
    return n, S, L


def batch_norm_size(x, weight, bias, running_mean, running_var):
    y = np.zeros(x.shape)
    for n, c, i, j in np.ndindex(*x.shape):
        scale = abs(weight[c]) / math.sqrt(running_var[c] + 1e-5)
        y[n, c, i, j] = 1.25 * (scale * (abs(x[n, c, i, j]) + abs(running_mean[c])) + abs(bias[c]))
    return y


def add_terms(x, y):
    return 1, np.abs(x) + np.abs(y), np.abs(x) + np.abs(y)


def plain_linear(x, **i):
    return ops.linear(x, **i)


BATCH_NORM = {"weight": normal(3), "bias": normal(3, seed=1), "running_mean": normal(3, seed=2)}
OPERATORS = {
    "conv2d": convolution((2, 4, 5, 4), (6, 2, 3, 3), True, stride=2, padding=1, groups=2),
    "conv2d depthwise": convolution((1, 4, 5, 6), (4, 1, 3, 3), False, padding=2, dilation=2, groups=4),
    "linear": inner_product(
        {"x": normal(2, 3, 5), "weight": normal(4, 5, seed=1), "bias": normal(4, seed=2)},
        Arithmetic.linear,
        plain_linear,
        by_definition.linear,
        6,
    ),
    "linear, long": inner_product(
        {"x": normal(2, 80), "weight": normal(3, 80, seed=1)}, Arithmetic.linear, plain_linear, by_definition.linear, 80
    ),
    "attention_scores": Operator(
        {"query": normal(2, 2, 3, 4), "key": normal(2, 2, 5, 4)},
        Arithmetic.attention_scores,
        ops.attention_scores,
        scores_terms,
        product=True,
    ),
    "attend": inner_product(
        {"probs": ops.softmax(normal(1, 2, 3, 5)), "value": normal(1, 2, 5, 4)},
        Arithmetic.attend,
        ops.attend,
        attend,
        5,
    ),
    "global_avg_pool": Operator(
        {"x": normal(2, 3, 4, 5)}, Arithmetic.global_avg_pool, ops.global_avg_pool, pool_terms, product=True
    ),
    "add": Operator({"x": normal(3, 4), "y": normal(3, 4, seed=1)}, Arithmetic.add, ops.add, add_terms),
    "silu": Operator(
        {"x": 3 * normal(40)},
        lambda arithmetic, x: arithmetic.activation("silu", x),
        ops.silu,
        function_terms(8, silu_size),
    ),
    "softmax": Operator(
        {"x": 2 * normal(2, 3, 5)}, Arithmetic.softmax, ops.softmax, function_terms(5 + 8, softmax_size)
    ),
    "layer_norm": Operator(
        {"x": normal(2, 3, 6) + 1, "weight": normal(6), "bias": normal(6, seed=1)},
        Arithmetic.layer_norm,
        lambda x, **i: ops.layer_norm(x, **i),
        layer_norm_terms,
    ),
    "batch_norm": Operator(
        {"x": normal(2, 3, 4, 2), **BATCH_NORM, "running_var": positive(3)},
        Arithmetic.batch_norm,
        lambda x, **i: ops.batch_norm(x, **i),
        function_terms(6, batch_norm_size),
    ),
}
# A resize also has errors of its coordinates, which are no terms.
RESIZE = Operator(
    {"x": normal(1, 2, 3, 5)},
    lambda arithmetic, x: arithmetic.resize_bilinear(x, (4, 7)),
    lambda x: ops.resize_bilinear(x, (4, 7)),
    function_terms(8, lambda x: 1.25 * by_definition.resize_bilinear(np.abs(x), (4, 7))),
)

BY_BLOCKS = (OPERATORS["attend"], OPERATORS["attention_scores"])  # the terms of a whole are not kept
every_operator = pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS)
with_resize = pytest.mark.parametrize("op", [*OPERATORS.values(), RESIZE], ids=[*OPERATORS, "resize_bilinear"])


def line(profile: Profile, tier: str, terms, y, *, product: bool) -> np.ndarray:
    """The formula at the head of bounds.py, once more."""
    n, S, L = terms
    u_a, u_o, u_x = profile.accumulate, profile.store, profile.operand if product else profile.store
    if tier == "usual":
        squared = n * u_a**2 * (L**2 + y**2) + 2 * u_x**2 * L**2 + u_o**2 * y**2
        return np.sqrt(squared + profile.smallest**2)
    size = np.minimum(S, np.abs(y) + 6.8 * L) if tier == "fail" and product and u_x > 2 * u_a else S
    k = n if tier == "proof" else min(n, 6.8 * math.sqrt(n))
    own = k * u_a * S + 2 * u_x * size
    return own + u_o * (np.abs(y) + own) + (n if u_a == u_o else 1) * profile.smallest


def assert_equal(actual, expected, *, rtol=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=0, strict=True)


@with_resize
@pytest.mark.parametrize("tier", [*LINES])
def test_values_are_those_of_the_float64_operators(op, tier):
    expected = op.plain(**op.inputs)
    np.testing.assert_allclose(op(FP32, tier).value, expected, rtol=1e-13, atol=1e-14, strict=True)


@every_operator
@every_line
def test_tolerances_follow_the_formula_with_terms_from_plain_loops(op, tier):
    terms = op.terms(**op.inputs)
    for profile in FLOATS:
        found = op(profile, tier)
        expected = line(profile, tier, terms, found.value, product=op.product)
        if profile.smallest < 2.0**-100:
            assert_equal(found.error, expected)
        else:  # and what operands that are too small for all digits may be off
            assert (found.error >= expected * (1 - 1e-12)).all()
            assert (found.error <= expected + 50 * profile.smallest * (1 + np.abs(found.value)).max()).all()


def test_float16_operands_too_small_for_all_digits_may_be_off_by_more_than_their_share():
    x = np.full((1, 1, 3, 3), 1.4 * 2.0**-25)  # a step is 2**-24: written as zero or one
    weight = np.full((1, 1, 3, 3), 40.0)
    found = Arithmetic(PROFILES["fp16"], "fail").conv2d(Bounded(x), weight=weight)
    written = x.astype(np.float16).astype(np.float64)
    assert (np.abs(ops.conv2d(written, weight=weight) - found.value) <= found.error).all()
    without = Arithmetic(dataclasses.replace(PROFILES["fp16"], smallest=0.0), "fail")
    assert (
        np.abs(ops.conv2d(written, weight=weight) - found.value) > without.conv2d(Bounded(x), weight=weight).error
    ).all()


def test_a_fast_convolution_is_as_far_off_as_the_largest_of_its_tile():
    """Plain 3x3 convolutions alone: others are sums of their own."""
    x = np.zeros((1, 2, 12, 12))
    x[..., 5, 5] = 1
    weight = np.abs(normal(3, 2, 3, 3)) + 0.1
    plain = Arithmetic(FP32, "fail").conv2d(Bounded(x), weight=weight, padding=1).error
    dilated = Arithmetic(FP32, "fail").conv2d(Bounded(x), weight=weight, padding=2, dilation=2).error
    near = 2.0**-126
    assert plain[0, 0, 5, 9] > 1e3 * near  # four from the nearest value that is not zero, within a tile of it
    assert plain[0, 0, 5, 10] <= 100 * near
    assert dilated[0, 0, 5, 9] <= 100 * near


@every_operator
def test_terms_alone_are_those_of_plain_loops(op):
    """What bundles hold; in units so small that nothing of second order is left."""
    unit = Profile("unit", operand=0.0, accumulate=2.0**-60, store=0.0, smallest=0.0)
    n, S, L = op.terms(**op.inputs)
    for tier, expected in (("S", S), ("L", L)):
        found = op(unit, tier)
        if op not in BY_BLOCKS:
            assert found.n == n
        np.testing.assert_allclose(found.error / unit.accumulate, expected, rtol=1e-9)


def test_a_resize_adds_the_errors_of_its_coordinates():
    for profile in FLOATS:
        for tier in CERTIFIED:
            found = RESIZE(profile, tier)
            terms = RESIZE.terms(**RESIZE.inputs)
            coordinates = coordinate_error(RESIZE.inputs["x"], (4, 7), profile.accumulate)
            expected = line(profile, tier, terms, found.value, product=False) + (1 + profile.store) * coordinates
            assert_equal(found.error, expected)


def test_a_resize_to_the_same_size_is_exact():
    x = Bounded(normal(1, 2, 3, 5))
    assert Arithmetic(FP32, "fail").resize_bilinear(x, (3, 5)) is x


def coordinate_error(x: np.ndarray, size, accumulate: float) -> np.ndarray:
    """Four roundings of the coordinate in float32, and of the weight, times the steepest step next to the sources."""
    y = np.zeros((*x.shape[:2], *size))
    sources = [by_definition.resize_axis(x.shape[axis + 2], size[axis], np.float64) for axis in (0, 1)]
    for n, c, i, j in np.ndindex(*y.shape):
        rows, columns = sources[0][i], sources[1][j]
        for plane, at, across in ((x[n, c], rows, columns), (x[n, c].T, columns, rows)):
            steps = [
                abs(plane[k, other] - plane[k + 1, other])
                for k in range(at[0] - 1, at[1] + 1)
                for other in across[:2]
                if k >= 0 and k + 1 < plane.shape[0]
            ]
            y[n, c, i, j] += 4 * (2**-24 * (at[0] + at[2]) + accumulate) * max(steps, default=0)
    return y


# ---- honest and dishonest results --------------------------------------------------------------------------------


def small_cases(data: str) -> list[measured.Case]:
    return [
        measured.convolution("conv2d", data, (1, 16, 6, 6), (8, 16, 3, 3), padding=1),
        measured.convolution("conv2d, bias", data, (1, 30, 4, 4), (8, 30, 1, 1), bias=True),
        measured.convolution("conv2d depthwise", data, (1, 16, 9, 9), (16, 1, 3, 3), groups=16, stride=2, padding=1),
        measured.linear(data, 12, 144, 20),
        measured.attention_scores(data, 16, 36),
        measured.attend(data, 64, 20),
        measured.attention(data, 64, 20),
        measured.folded_normalization(data, (1, 24, 5, 5), (16, 24, 3, 3)),
        *(case for case in measured.functions(data) if case.n <= 64 and case.op != "gelu"),
    ]


@functools.cache
def honest_results(data: str):
    """Each small case with its results in float32, but for the worst order."""
    with np.errstate(over="ignore"):
        return [
            (case, {n: y for n, y in case.ways(case.inputs, measured.honest_sums) if n != measured.WORST_ORDER})
            for case in small_cases(data)
        ]


@pytest.mark.parametrize("data", measured.KINDS)
def test_honest_float32_lies_within_its_certified_tolerances_and_near_the_usual(data):
    for case, results in honest_results(data):
        lines = {tier: case.expected("fp32", tier) for tier in LINES}
        shares = {tier: max(measured.share(y, line) for y in results.values()) for tier, line in lines.items()}
        where = (case.op, case.n, shares)
        assert shares["proof"] <= shares["fail"] * (1 + 1e-12) <= 1, where
        if case.op != "relu":
            assert 0.2 < shares["usual"] < 4, where
            assert shares["fail"] > (0.005 if "region" in case.op else 0.01), where  # a hundred times the error at most


@pytest.mark.parametrize("data", measured.KINDS)
def test_an_error_of_three_tolerances_in_one_element_fails_and_nothing_else_does(data):
    for case, results in honest_results(data):
        expected = case.expected("fp32", "fail")
        if expected.error is None:
            continue
        found = next(iter(results.values())).astype(np.float64)
        worst = tuple(int(size) // 2 for size in found.shape)
        assert compared("tap", expected, found, expected.error).status == "right"
        for sign in (3, -3):
            wrong = found.copy()
            wrong[worst] = expected.value[worst] + sign * expected.error[worst]
            judged = compared("tap", expected, wrong, expected.error)
            assert (judged.status, judged.beyond, judged.worst) == ("wrong", 1, worst)
            assert judged.ratio == pytest.approx(3)


def test_the_smallest_difference_in_what_is_exact_fails():
    x = normal(1, 2, 3, 4)
    expected = Arithmetic(FP32, "fail").activation("relu", Bounded(np.abs(x)))
    wrong = np.abs(x)
    wrong[0, 1, 2, 3] = np.nextafter(wrong[0, 1, 2, 3], np.inf)
    judged = compared("tap", expected, wrong, np.zeros(x.shape))
    assert (judged.status, judged.test, judged.beyond, judged.worst) == ("wrong", "exact", 1, (0, 1, 2, 3))


@pytest.mark.parametrize("data", measured.KINDS)
def test_other_formats_lie_within_their_own_tolerances_and_beyond_those_of_float32(data):
    wide = measured.convolution("conv2d", data, (1, 160, 3, 3), (4, 160, 3, 3), padding=1)
    functions = [case for case in small_cases(data) if case.op in ("add", "batch_norm", "resize_bilinear")]
    for case in [wide, *small_cases(data)[:8], *functions[:-1]]:
        beyond = case.expected("fp32", "fail")
        with np.errstate(over="ignore"):
            results = list(measured.other_profiles(case))
        for profile, way, y in results:
            assert measured.share(y, case.expected(profile, "fail")) <= 1, (profile, case.op, way)
            assert measured.share(y, case.expected(profile, "proof")) <= 1, (profile, case.op, way)
            # all of a 3x3 map is its border, where the tolerance is that of the largest of a tile
            assert case is wide or measured.share(y, beyond) > 1, (profile, case.op, way)


def test_operands_that_all_round_alike_lie_within_the_tolerance():
    """All the same, as in a picture of one colour: the error grows with the number of terms, not with its root."""
    value = np.float64(1 + 0.99 * 2.0**-8)
    x, weight = np.full((1, 1024), value), np.full((1, 1024), value)
    expected = Arithmetic(PROFILES["bf16"], "fail").linear(Bounded(x), weight=weight)
    assert 0.5 < measured.share(np.array([[1024.0]]), expected) <= 1  # 1024 * 1.0 * 1.0


def test_equal_numbers_added_in_turn_stay_within_up_to_some_hundred():
    """The limit that the module's head states: beyond 26x26 pixels of one colour the fail line may not hold."""
    colours = np.random.default_rng(0).random((1, 500, 1, 1), np.float32)
    shares = {}
    for side in (26, 64):
        x = np.broadcast_to(colours, (1, 500, side, side))
        found = np.add.accumulate(x.reshape(1, 500, -1), axis=-1)[..., -1] / np.float32(side * side)
        wide = Bounded(x.astype(np.float64))
        shares[side] = measured.share(found, Arithmetic(FP32, "fail").global_avg_pool(wide))
        assert measured.share(found, Arithmetic(FP32, "proof").global_avg_pool(wide)) <= 1
    assert shares[26] <= 1 < shares[64]


@pytest.mark.parametrize("name", sorted(SLOPES))
def test_every_activation_in_float32_lies_within_its_tolerance(name):
    x = np.linspace(-12, 12, 40001).astype(np.float32)
    expected = Arithmetic(FP32, "fail").activation(name, Bounded(x.astype(np.float64)))
    found = ops.ACTIVATIONS[name](x)
    assert measured.share(found, expected) <= 1
    exact = name in ("relu", "relu6", "linear")
    assert (expected.error is None) == exact
    if not exact:
        usual = Arithmetic(FP32, "usual").activation(name, Bounded(x.astype(np.float64)))
        assert 0.005 < measured.share(found, usual) < 4


@pytest.mark.parametrize("size", [(128, 66), (126, 63), (1023, 3)])
def test_coordinates_rounded_to_float32_lie_within_the_tolerance_and_need_their_share_of_it(size):
    x = normal(1, 1, size[0] - 1 if size[0] < 1000 else 1021, 65 if size[1] > 3 else 3)
    expected = Arithmetic(FP32, "fail").resize_bilinear(Bounded(x), size)
    with np.errstate(all="raise"):
        ways = dict(measured.resize_ways({"x": x.astype(np.float32)}, size))
    ways["npmobilevit"] = ops.resize_bilinear(x.astype(np.float32), size)
    shares = {way: measured.share(y, expected) for way, y in ways.items()}
    assert max(shares.values()) <= 1, shares
    alone = line(FP32, "fail", (8, 1.25 * ops.resize_bilinear(np.abs(x), size), 0), expected.value, product=False)
    assert (np.abs(ways["rounded at each step"] - expected.value) > alone).any()


# ---- int8 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv2d", "linear"])
def test_quantized_factors_may_be_off_by_half_a_step_each_and_a_whole_one_at_the_ends(name):
    op, profile = OPERATORS[name], PROFILES["int8-dynamic"]
    x, weight = op.inputs["x"], op.inputs["weight"]
    product = functools.partial(op.terms, bias=np.zeros(weight.shape[0]))

    def off_by(values, step):
        ends = (values - values.min() <= step / 2) | (values.max() - values <= step / 2)
        return step / 2 * (1 + ends)

    dx, dw = off_by(x, (x.max() - x.min()) / 127), off_by(weight, np.abs(weight).max() / 127)
    assert (dx != dx.min()).any()
    bound = sum(product(x=a, weight=b)[1] for a, b in ((dx, weight), (x, dw), (dx, dw)))
    for tier in ("proof", "fail"):
        assert_equal(op(profile, tier).error, op(FP32, tier).error + bound * (1 + 2**-24))


def test_equal_values_that_are_quantized_are_off_by_the_same():
    """Half of the inputs at one place between two steps: no root of squares would bound their sum."""
    x = np.where(np.arange(512) % 2, 0.5 / 127, np.linspace(0, 1, 512))[np.newaxis]
    weight = np.where(np.arange(512) % 2, 1.0, 1e-3)[np.newaxis]
    quantized = np.ceil(x * 127 - 1e-9) / 127
    found = Arithmetic(PROFILES["int8-dynamic"], "fail").linear(Bounded(x), weight=weight)
    error = np.abs(quantized @ weight.T - found.value)
    assert (error <= found.error).all()
    assert (error > 0.3 * found.error).all()


def test_a_simulated_port_rounds_its_factors_to_steps():
    x, weight = normal(2, 3, 6), normal(4, 6, seed=1)
    values = [
        Arithmetic(PROFILES["int8-dynamic"], "sample", np.random.default_rng(seed))
        .linear(Bounded(x), weight=weight)
        .value
        for seed in range(40)
    ]
    exact = Arithmetic(PROFILES["int8-dynamic"], "proof").linear(Bounded(x), weight=weight)
    spread = np.std(values, axis=0)
    assert (np.abs(np.mean(values, axis=0) - exact.value) <= spread).all()
    assert (spread > 0.02 * exact.error).all()
    assert (spread < 0.5 * exact.error).all()


def test_a_constant_that_is_quantized_has_no_range_and_no_error_of_it():
    weight = normal(4, 5)
    found = Arithmetic(PROFILES["int8-dynamic"], "proof").linear(Bounded(np.zeros((3, 5))), weight=weight)
    assert (found.error <= 5 * 2.0**-126).all()


# ---- moved values ------------------------------------------------------------------------------------------------


TABLE = Arithmetic(FP32, "fail").table()
MOVES = {
    "split_heads": (normal(2, 3, 8), lambda t, x: t.split_heads(x, 4), lambda x: ops.split_heads(x, 4)),
    "merge_heads": (normal(2, 4, 3, 2), lambda t, x: t.merge_heads(x), ops.merge_heads),
    "unfold": (normal(1, 3, 4, 6), lambda t, x: t.unfold_patches(x, 2), lambda x: ops.unfold_patches(x, 2)),
    "fold": (normal(4, 6, 3), lambda t, x: t.fold_patches(x, 2, 4, 6), lambda x: ops.fold_patches(x, 2, 4, 6)),
    "concat": (normal(1, 3, 2, 2), lambda t, x: t.concat_channels([x, x]), lambda x: ops.concat_channels([x, x])),
    "index": (normal(2, 3), lambda t, x: x[:, :, np.newaxis, 1:], lambda x: x[:, :, np.newaxis, 1:]),
    "linear": (normal(2, 3), lambda t, x: t.activations["linear"](x), lambda x: x),
}
every_move = pytest.mark.parametrize(("x", "bounded", "plain"), MOVES.values(), ids=MOVES)


@every_move
def test_what_is_only_moved_stays_exact(x, bounded, plain):
    if bounded is MOVES["index"][1]:
        x = x[..., np.newaxis]
    found = bounded(TABLE, Bounded(x))
    assert found.error is None
    np.testing.assert_array_equal(found.value, plain(x), strict=True)


@every_move
def test_errors_move_with_their_values(x, bounded, plain):
    if bounded is MOVES["index"][1]:
        x = x[..., np.newaxis]
    error = np.abs(normal(*x.shape, seed=1))
    found = bounded(TABLE, Bounded(x, error, spans=("a",), tainted=True))
    np.testing.assert_array_equal(found.error, plain(error), strict=True)
    assert (found.spans, found.tainted) == (("a",), True)


def test_roundings_add_up_along_the_longest_way():
    first = OPERATORS["global_avg_pool"](FP32, "fail")
    assert first[:, :, np.newaxis].n == first.n
    assert TABLE.add(first, Bounded(first.value)).n == first.n + 1


@pytest.mark.parametrize("name", ["relu", "relu6"])
def test_clipping_is_exact_and_keeps_errors(name):
    x, error = 5 * normal(3, 4), positive(3, 4)
    assert TABLE.activations[name](Bounded(x)).error is None
    found = TABLE.activations[name](Bounded(x, error))
    np.testing.assert_array_equal(found.value, ops.ACTIVATIONS[name](x))
    np.testing.assert_array_equal(found.error, error)


def test_parts_with_and_without_errors_are_laid_side_by_side():
    exact, inexact = Bounded(normal(1, 2, 3, 1)), Bounded(normal(1, 1, 3, 1), np.full((1, 1, 3, 1), 0.5))
    found = joined([exact, inexact], axis=1)
    np.testing.assert_array_equal(found.error[0, :, 0, 0], [0, 0, 0.5])
    assert joined([exact, exact], axis=1).error is None


@with_resize
def test_what_was_passed_and_what_was_useless_is_remembered(op):
    for name in op.inputs:
        marked = {n: Bounded(x, spans=(f"before {n}", "both"), tainted=n == name) for n, x in op.inputs.items()}
        found = op(FP32, "fail", marked)
        assert sorted(found.spans) == sorted(["both", *(f"before {n}" for n in op.inputs)])
        assert found.tainted
        assert not op(FP32, "fail").tainted
        assert op(FP32, "fail").spans == ()


# ---- carried errors ----------------------------------------------------------------------------------------------

PARAMETERS = ("weight", "bias", "running_mean", "running_var")


def with_errors(op: Operator, rng: np.random.Generator) -> dict[str, Bounded]:
    """Every input with errors of its own size, from far below to above the values; of a parameter, one for all."""
    found = {}
    for name, x in op.inputs.items():
        size = 10.0 ** rng.uniform(-6, 0.5)
        found[name] = Bounded(x, size * (rng.random(x.shape) if name not in PARAMETERS else np.ones(x.shape)))
    return found


def perturbed(given: Mapping[str, Bounded], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The inputs somewhere within their errors, half of them at the very end."""
    found = {}
    for name, x in given.items():
        share = np.clip(2 * rng.uniform(-1, 1, x.shape), -1, 1)
        found[name] = x.value + share * x.error
    if "running_var" in found:
        found["running_var"] = np.maximum(found["running_var"], 0)
    return found


@with_resize
@every_certified
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_perturbation_within_the_errors_of_the_inputs_leaves_the_carried_bound(op, tier, seed):
    rng = np.random.default_rng(seed)
    inexact = with_errors(op, rng)
    found = op(IDEAL, tier, inexact)
    exact = op(IDEAL, tier)
    for _ in range(4):
        moved = np.abs(op.plain(**perturbed(inexact, rng)) - exact.value)
        coordinates = 0 if exact.error is None else exact.error
        assert (moved <= (found.error + coordinates) * (1 + 1e-9) + 1e-12).all()


def slopes(op: Operator, name: str) -> np.ndarray:
    """Derivatives of every result with respect to every element of an input, numerically: (results, elements)."""
    x, step = op.inputs[name], 1e-5
    columns = []
    for place in np.ndindex(*x.shape):
        shifted = []
        for sign in (step, -step):
            other = x.copy()
            other[place] += sign
            shifted.append(op.plain(**{**op.inputs, name: other}).ravel())
        columns.append((shifted[0] - shifted[1]) / (2 * step))
    return np.stack(columns, axis=1)


def one_inexact(op: Operator, name: str, error: np.ndarray) -> dict[str, Bounded]:
    return {other: Bounded(x, error if other == name else None) for other, x in op.inputs.items()}


def worst_moves(op: Operator, name: str, error: np.ndarray) -> np.ndarray:
    """How far small errors of one input can move the results: every sign as it makes most of it."""
    return np.abs(slopes(op, name)) @ error.ravel()


@pytest.mark.parametrize("name", [*sorted(OPERATORS.keys() - {"silu", "softmax", "layer_norm"}), "resize_bilinear"])
@every_certified
def test_carried_bounds_of_linear_operators_are_just_what_the_worst_signs_do(name, tier):
    op = {**OPERATORS, "resize_bilinear": RESIZE}[name]
    nothing = op(IDEAL, tier).error
    for other, x in op.inputs.items():
        error = 1e-7 * positive(*x.shape, seed=5)
        found = op(IDEAL, tier, one_inexact(op, other, error)).error - (0 if nothing is None else nothing)
        np.testing.assert_allclose(found.ravel(), worst_moves(op, other, error), rtol=1e-4, atol=1e-15)


@pytest.mark.parametrize(("name", "width"), [("softmax", 1.001), ("layer_norm", 3.0)])
@every_certified
def test_carried_bounds_of_functions_are_little_wider_than_the_worst_signs(name, width, tier):
    op = OPERATORS[name]
    wide = dataclasses.replace(op, inputs={other: np.tile(x, 4) for other, x in op.inputs.items()})
    error = np.full(wide.inputs["x"].shape, 1e-7)
    found = wide(IDEAL, tier, one_inexact(wide, "x", error)).error.ravel()
    ratio = found / worst_moves(wide, "x", error)
    assert ratio.min() >= 1 - 1e-4
    assert ratio.max() <= width


@every_certified
def test_an_error_of_a_single_value_is_carried_to_all_of_its_row(tier):
    op = OPERATORS["layer_norm"]
    shape = op.inputs["x"].shape
    for place in np.ndindex(*shape):
        error = np.zeros(shape)
        error[place] = 1e-7
        found = op(IDEAL, tier, one_inexact(op, "x", error)).error.ravel()
        assert (found >= worst_moves(op, "x", error) * (1 - 1e-4)).all(), place


@pytest.mark.parametrize("name", sorted(OPERATORS.keys() - {"silu", "layer_norm"}))
def test_usual_errors_are_carried_in_squares(name):
    op = OPERATORS[name]
    for other in set(op.inputs) - {"running_mean", "running_var"}:
        error = 1e-5 * positive(*op.inputs[other].shape, seed=5)
        found = op(IDEAL, "usual", one_inexact(op, other, error)).error
        expected = np.sqrt(np.square(slopes(op, other)) @ np.square(error.ravel()))
        np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)


def test_usual_errors_of_a_normalisation_are_carried_about_in_squares():
    op = OPERATORS["layer_norm"]
    wide = dataclasses.replace(op, inputs={name: np.tile(x, 4) for name, x in op.inputs.items()})
    error = np.full(wide.inputs["x"].shape, 1e-5)
    found = wide(IDEAL, "usual", one_inexact(wide, "x", error)).error.ravel()
    ratio = found / np.sqrt(np.square(slopes(wide, "x")) @ np.square(error.ravel()))
    assert ratio.min() >= 1
    assert ratio.max() < 1.5


def test_errors_without_limit_stay_within_what_the_function_can_give():
    huge = 1e9
    x = normal(2, 3, 5)
    softmax = Arithmetic(FP32, "fail").softmax(Bounded(x, np.full(x.shape, huge)))
    assert (softmax.error <= 1 + 1e-5).all()
    weight, bias = np.ones(5), np.zeros(5)
    normalized = Arithmetic(FP32, "fail").layer_norm(Bounded(x, np.full(x.shape, huge)), weight=weight, bias=bias)
    assert (normalized.error <= 2 * math.sqrt(5) + 1e-4).all()


# ---- attention in blocks -----------------------------------------------------------------------------------------


@every_line
@pytest.mark.parametrize("block", [1, 30, 61, 10**6])
def test_attention_gives_the_same_whatever_its_blocks(monkeypatch, tier, block):
    arithmetic = Arithmetic(FP32, tier)
    query, key, value = (Bounded(normal(2, 3, 7, 4, seed=i), positive(2, 3, 7, 4)) for i in range(3))

    def attended():
        scores = arithmetic.attention_scores(query, key)
        probs = arithmetic.softmax(scores)
        return scores.whole(), probs.whole(), arithmetic.attend(probs, value)

    expected = attended()
    monkeypatch.setattr(bounds, "BLOCK_ELEMENTS", block)
    rows = [part.shape[2] for part in arithmetic.attention_scores(query, key).blocks()]
    assert (sum(rows), max(rows)) == (7, {1: 1, 30: 1, 61: 1, 10**6: 7}[block])
    for found, whole in zip(attended(), expected, strict=True):
        np.testing.assert_allclose(found.value, whole.value, rtol=1e-13)
        np.testing.assert_allclose(found.error, whole.error, rtol=1e-12)


def test_blocks_have_as_many_rows_as_their_limit_allows(monkeypatch):
    monkeypatch.setattr(bounds, "BLOCK_ELEMENTS", 100)  # two rows of 2*3*7 elements
    scores = Arithmetic(FP32, "fail").attention_scores(Bounded(normal(2, 3, 7, 4)), Bounded(normal(2, 3, 7, 4)))
    assert scores.shape == (2, 3, 7, 7)
    assert [part.shape[2] for part in scores.blocks()] == [2, 2, 2, 1]


# ---- activations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(ops.ACTIVATIONS) - set(SLOPES)))
def test_an_activation_without_a_tolerance_is_refused(name):
    with pytest.raises(ConfigError, match=name) as caught:
        Arithmetic(FP32, "fail").activation(name, Bounded(np.ones(3)))
    assert caught.value.code == "profile-activation"


def test_only_two_activations_have_no_tolerance():
    assert set(ops.ACTIVATIONS) - set(SLOPES) == {"relu2", "sqrtsoftplus"}
    assert SLOPES.keys() <= ops.ACTIVATIONS.keys()


@pytest.mark.parametrize("name", sorted(SLOPES))
def test_slopes_are_the_steepest_of_their_activation(name):
    x = np.arange(-13, 13, 1e-4)
    steepest = np.abs(np.diff(ops.ACTIVATIONS[name](x)) / np.diff(x)).max()
    assert steepest * (1 - 1e-9) <= SLOPES[name] <= 1.05 * steepest


@every_certified
def test_an_activation_carries_errors_by_its_slope(tier):
    x, error = Bounded(normal(3, 4)), positive(3, 4)
    for name, slope in SLOPES.items():
        found = Arithmetic(IDEAL, tier).activation(name, Bounded(x.value, error)).error
        assert_equal(found, (1.0 if name in ("relu", "relu6", "linear") else slope) * error)


# ---- samples -----------------------------------------------------------------------------------------------------


def sampled(op: Operator, seed: int) -> np.ndarray:
    found = op(PROFILES["fp16"], "sample", generator=np.random.default_rng(seed))
    assert found.error is None
    return found.value


@every_operator
def test_samples_are_reproducible_and_of_half_the_usual_size(op):
    usual = op(PROFILES["fp16"], "usual")
    np.testing.assert_array_equal(sampled(op, 1), sampled(op, 1))
    noise = np.stack([(sampled(op, seed) - usual.value) / usual.error for seed in range(100)])
    assert 0.45 < math.sqrt(np.square(noise).mean()) < 0.55
    assert abs(noise.mean()) < 0.05


# ---- the published measurements ----------------------------------------------------------------------------------


def test_the_measuring_tool_reports_what_is_beyond(monkeypatch):
    cases = [measured.convolution("conv2d", "positive", (1, 96, 3, 3), (8, 96, 3, 3), padding=1)]
    assert not measured.measure(iter(cases))["beyond"]
    monkeypatch.setattr(bounds, "LAMBDA", 0.1)
    beyond = measured.measure(iter(cases))["beyond"]
    assert beyond[0]["op"] == "conv2d"
    assert beyond[0]["over_fail"] > 1


def test_published_ratios_are_within_a_hundred(pytestconfig):
    text = (pytestconfig.rootpath / "reference/measured/tolerances.json").read_text()
    published = json.loads(text)
    rows = published["summary"]
    assert not published["beyond"]
    assert {row["op"] for row in rows} >= {"linear", "attention_scores", "attend", "softmax", "layer_norm", "silu"}
    assert max(row["n"] for row in rows) == 2880
    for row in rows:
        assert row["exact"] if row["op"] == "relu" else 1 < row["ratio"] <= 100
