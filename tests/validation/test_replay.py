"""The network once more: the same values, told in order, and going on with what one is told."""

import dataclasses
import math

import networks
import numpy as np
import pytest

from npmobilevit import ops
from npmobilevit.scope import EXTRA_TAPS, Scope
from npmobilevit.validation.bounds import Arithmetic, Bounded, Deferred
from npmobilevit.validation.checking import check
from npmobilevit.validation.lazy import forced
from npmobilevit.validation.profiles import PROFILES
from npmobilevit.validation.replay import in_float64, recorded_terms, replay, tap_names

FP32 = PROFILES["fp32"]
STRIDES = (8, 16, 32)
HEADS = (None, "classification", "segmentation")

every_head = pytest.mark.parametrize("head", HEADS)


def small(head=None, stride=32, **options):
    return networks.make_model(head, networks.tiny(output_stride=stride), **options)


PIXELS = networks.pixels(2, height=40, width=50)  # 50 is no multiple of anything: maps are resized for their patches


def told(model, pixels=PIXELS, meet=lambda name, x: x, **options):
    """What `meet` is told, extras and repetitions included: names and values."""
    seen = []

    def record(name, x):
        x = forced(x)
        seen.append((name, x.whole() if isinstance(x, Deferred) else x))
        return meet(name, x)

    replay(model, Bounded(pixels), Arithmetic(FP32, "fail").table(), record, **options)
    return seen


@every_head
@pytest.mark.parametrize("stride", STRIDES)
def test_a_replay_gives_the_taps_of_the_float64_network_in_its_order(head, stride):
    model = small(head, stride)
    taps = model.taps(PIXELS)
    seen = [(name, x) for name, x in told(model) if name and name.rpartition(".")[2] not in EXTRA_TAPS]
    assert ["pixel_values", *(name for name, _ in seen)] == list(taps)
    for name, x in seen:
        np.testing.assert_allclose(x.value, taps[name], rtol=0, atol=1e-12 * np.abs(taps[name]).max(), strict=True)


def test_the_extras_are_told_too():
    model = small("classification")
    names = [name for name, _ in told(model) if name.rpartition(".")[2] in EXTRA_TAPS]
    for name, x in told(model):
        if name in names:
            expected = model.taps(PIXELS, [name])[name]
            np.testing.assert_allclose(x.value, expected, rtol=0, atol=1e-12 * np.abs(expected).max(), strict=True)
    assert len(names) == 2 * 9 + 2 * 3  # scores and probs of nine layers, unfolded and folded of three blocks


def test_the_next_layer_works_on_what_meet_answers():
    model = small("classification")
    place = "mobilevit.encoder.layer.1.layer.0.expand_1x1.convolution"
    answer = {}

    def meet(name, x):
        if name == place:
            answer[name] = Bounded(x.value + 1)
            return answer[name]
        return x

    seen = dict(told(model, meet=meet))
    plain = dict(told(model))
    norm = place.replace("convolution", "normalization")
    parameters = Scope(model.parameters(), norm).params()
    np.testing.assert_allclose(seen[norm].value, ops.batch_norm(answer[place].value, **parameters), rtol=1e-12)
    np.testing.assert_array_equal(seen[place].value, plain[place].value)  # told what its own input gives
    assert np.abs(seen["logits"].value - plain["logits"].value).max() > 1e-6


def test_an_exact_answer_stops_errors_and_others_carry_them_on():
    model = small("classification")
    exact = dict(told(model, meet=lambda name, x: x if isinstance(x, Deferred) else Bounded(x.value)))
    carried = dict(told(model))
    assert exact["mobilevit.conv_stem"].error is None  # the value of its activation, repeated
    ratio = carried["classifier"].error / exact["classifier"].error
    assert ratio.min() > 1e3


def test_parameters_may_be_known_inexactly_only_where_it_is_said():
    model = small("classification")
    weight = "classifier.weight"
    exact = lambda name, x: x if isinstance(x, Deferred) else Bounded(x.value)  # noqa: E731
    plain = dict(told(model, meet=exact))
    inexact = dict(told(model, meet=exact, parameter_errors={weight: 2.0**-9}))
    pooled = ops.global_avg_pool(plain["mobilevit.conv_1x1_exp"].value)
    share = np.abs(pooled).sum(1, keepdims=True) * 2.0**-9
    added = inexact["classifier"].error - plain["classifier"].error
    np.testing.assert_allclose(added, np.broadcast_to(share, added.shape), rtol=1e-4)
    for name in plain.keys() - {"classifier"}:
        np.testing.assert_array_equal(plain[name].error, inexact[name].error)


@every_head
@pytest.mark.parametrize("stride", STRIDES)
def test_tap_names_are_those_of_the_network_in_its_order(head, stride):
    model = small(head, stride)
    assert tap_names(model) == list(model.taps(PIXELS))


def test_tap_names_of_a_base_model_without_its_last_convolution():
    model = small(expand_output=False)
    names = tap_names(model)
    assert names == list(model.taps(PIXELS))
    assert not any(name.startswith("conv_1x1_exp") for name in names)


def test_tap_names_of_a_network_of_four_channels():
    model = networks.make_model(None, networks.tiny(num_channels=4))
    assert tap_names(model) == list(model.taps(np.zeros((1, 4, 40, 50), np.float32)))


# ---- float64 -----------------------------------------------------------------------------------------------------


@every_head
def test_in_float64_is_the_same_network(head):
    narrow = small(head, precision="float32")
    wide = in_float64(narrow)
    assert (type(wide), wide.precision, wide.config) == (type(narrow), "float64", narrow.config)
    expected = small(head).taps(PIXELS)
    found = wide.taps(PIXELS)
    assert list(found) == list(expected)
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], strict=True)


def test_in_float64_keeps_a_network_without_its_last_convolution():
    wide = in_float64(small(precision="float32", expand_output=False))
    assert not wide.expand_output
    assert not any(name.startswith("conv_1x1_exp") for name in wide.parameters())


# ---- recorded terms ----------------------------------------------------------------------------------------------


@every_head
def test_terms_are_recorded_in_forward_order_for_what_is_computed(head):
    model = small(head)
    found = list(recorded_terms(model, PIXELS))
    names = [name for name, _, _ in found]
    order = [name for name in tap_names(model) if name in names]
    assert names == order
    taps = model.taps(PIXELS)
    for name, value, terms in found:
        np.testing.assert_allclose(value, taps[name], rtol=0, atol=1e-12 * np.abs(value).max())
        assert type(terms.n) is int
        assert terms.n >= 1
        assert terms.S.shape == terms.L.shape == value.shape
        assert (np.abs(value) <= terms.S * (1 + 1e-12)).all()
        assert (terms.L <= terms.S * (1 + 1e-12)).all()
        assert np.isfinite(terms.S).all()
        assert np.isfinite(terms.L).all()
    first = "conv_stem.convolution" if head is None else "mobilevit.conv_stem.convolution"
    assert names[0] == first
    kinds = {name.rpartition(".")[2] for name in names}
    assert kinds >= {"convolution", "normalization", "activation", "query", "dense", "layernorm_before", "layernorm"}
    assert ("global_pool" in kinds) == (head == "segmentation")


@every_head
def test_taps_that_repeat_another_have_no_terms(head):
    model = small(head)
    names = {name for name, _, _ in recorded_terms(model, PIXELS)}
    taps = model.taps(PIXELS)
    previous = None
    repeated = 0
    for name, value in taps.items():
        single = name.endswith("attention.attention")  # of one token the average is its value, but it is computed
        if previous is not None and np.array_equal(value, previous) and not single:
            repeated += 1
            assert name not in names, name
        previous = value
    assert repeated > 20


def test_a_layer_behind_others_without_a_tap_between_has_the_terms_of_all():
    """Of an odd map, `folded` is resized before the next convolution, and it is an extra."""
    place = "encoder.layer.2.conv_projection.convolution"
    n = {}
    for side in (64, 40):
        model = small()
        terms = {name: found for name, _, found in recorded_terms(model, networks.pixels(height=side, width=side))}
        n[side] = terms[place].n
    assert n[40] == n[64] + 8


@every_head
def test_every_tap_that_is_computed_has_terms(head):
    """All but those that repeat or move another."""
    model = small(head)
    named = {name for name, _, _ in recorded_terms(model, PIXELS)}
    attention = [name for name in tap_names(model) if name.endswith("attention.attention")]
    assert named.issuperset(attention)
    last = {"classification": "classifier", "segmentation": "segmentation_head.classifier.convolution"}
    assert head is None or last[head] in named


def published_tolerance(value, terms):
    """What a reader of a bundle makes of n, S and L for a float32 port, by the formula of bounds.py."""
    unit = 2.0**-24
    own = min(terms.n, 6.8 * math.sqrt(terms.n)) * unit * terms.S + 2 * unit * terms.S
    return own + unit * (np.abs(value) + own) + terms.n * 2.0**-126


@dataclasses.dataclass(frozen=True)
class Rounding(Scope):
    """A float32 network of which every tap goes on from given values; keeps what each made of them."""

    given: dict = dataclasses.field(default_factory=dict)
    made: dict = dataclasses.field(default_factory=dict)

    def out(self, x):
        self.made[self.name] = x
        return self.given.get(self.name, x)


@every_head
def test_recorded_terms_cover_a_float32_network_on_the_same_inputs(head):
    """Every layer works on the float32 numbers of the golden taps; the golden network on the same numbers."""
    model, narrow = small(head), small(head, precision="float32")
    given = {name: x.astype(np.float32) for name, x in model.taps(PIXELS).items()}
    scope = Rounding(narrow.parameters(), given=given)
    narrow.forward(scope, PIXELS.astype(np.float32))

    wide = Rounding(model.parameters(), given={name: x.astype(np.float64) for name, x in given.items()})
    model.forward(wide, PIXELS)
    terms = {name: found for name, _, found in recorded_terms(model, PIXELS)}
    shares = {}
    for name, found in terms.items():
        if name == "logits":
            continue
        error = np.abs(scope.made[name] - wide.made[name])
        shares[name] = float((error / published_tolerance(wide.made[name], found)).max())
    assert max(shares.values()) <= 1, max(shares, key=shares.get)
    assert min(share for share in shares.values() if share) > 0.001
    assert sum(share == 0 for share in shares.values()) < 5  # attention to a single token, one pixel resized


# ---- the check ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Disturbed(Scope):
    """A float32 network that goes on from taps of which one element was changed."""

    amounts: dict = dataclasses.field(default_factory=dict)

    def out(self, x):
        if self.name in self.amounts:
            x = x.copy()
            x.reshape(-1)[x.size // 2] += np.float32(self.amounts[self.name])
        self.tap(self.name, x)
        return x


LAYER = "mobilevit.encoder.layer.3."
PLACES = [
    "mobilevit.conv_stem.convolution",
    "mobilevit.encoder.layer.1.layer.0.conv_3x3.convolution",
    "mobilevit.encoder.layer.1.layer.0.conv_3x3.normalization",
    "mobilevit.encoder.layer.1.layer.0.conv_3x3.activation",
    "mobilevit.encoder.layer.1.layer.1",  # a sum
    LAYER + "transformer.layer.0.attention.attention.query",
    LAYER + "transformer.layer.0.attention.attention",  # scores, softmax and average in one
    LAYER + "transformer.layer.1.layernorm_after",
    LAYER + "fusion.convolution",
    "classifier",
]


def dumped(model, amounts):
    taps = {"pixel_values": PIXELS.astype(np.float32)}

    def record(name, x):
        if name and name.rpartition(".")[2] not in EXTRA_TAPS:
            taps[name] = x.copy()

    model.forward(Disturbed(model.parameters(), tap=record, amounts=amounts), taps["pixel_values"])
    return taps


def tolerances(model, taps):
    """Of each tap, judged on the taps before it."""
    found = {}

    def meet(name, x):
        if name not in taps:
            return x
        found[name] = forced(x).error
        return Bounded(taps[name].astype(np.float64))

    replay(in_float64(model), Bounded(PIXELS), Arithmetic(FP32, "fail").table(), meet)
    return found


def test_the_check_finds_errors_of_three_tolerances_in_one_element_of_many_layers_and_blames_no_other():
    model = small("classification", precision="float32")
    plain = dumped(model, {})
    assert check(plain, model).verdict == "pass"
    allowed = tolerances(model, plain)
    errors = {place: allowed[place].reshape(-1)[plain[place].size // 2] for place in PLACES}
    report = check(dumped(model, {place: 4 * error for place, error in errors.items()}), model)  # one may be its own
    assert [finding.tap for finding in report.failures] == PLACES
    found = {judged.tap: judged for judged in report.judgements if judged.tap in PLACES}
    assert [judged.beyond for judged in found.values()] == [1] * len(PLACES)
    assert all(2.9 < judged.ratio < 5.1 for judged in found.values())
    assert not check(dumped(model, {place: 0.5 * error for place, error in errors.items()}), model).failures
