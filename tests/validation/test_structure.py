"""Order and structure: what moved is recognised, small faults stand out, and sound rounding does not."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from npmobilevit import ops
from npmobilevit.validation.structure import REPORTED, anomalies, layout, misnamed

# --- the right values in another order


def numbers(*shape):
    return np.random.default_rng(list(shape)).standard_normal(shape)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 3, 3), (4, 5, 6), (6, 5)])
def test_every_order_of_the_axes_is_recognised_and_undone(shape):
    expected = numbers(*shape)
    letters = {4: "NCHW", 3: "SLD", 2: "NC"}[len(shape)]
    for order in list(itertools.permutations(range(len(shape))))[1:]:
        found = np.ascontiguousarray(expected.transpose(order))
        seen = layout(found, expected, 0.0)
        assert seen.description == f"its axes are in the order {', '.join(letters[i] for i in order)}"
        np.testing.assert_array_equal(seen.restored, expected, strict=True)


@pytest.mark.parametrize(
    ("shape", "axis", "words"),
    [
        ((2, 3, 4, 5), 0, "its pictures are in reverse order"),
        ((2, 3, 4, 5), 1, "its channels are in reverse order"),
        ((2, 3, 4, 5), 2, "its rows are in reverse order"),
        ((2, 3, 4, 5), 3, "its columns are in reverse order"),
        ((4, 5, 6), 0, "its sequences are in reverse order"),
        ((4, 5, 6), 1, "its patches are in reverse order"),
        ((4, 5, 6), 2, "its features are in reverse order"),
        ((2, 2, 2, 2, 3), 1, "its axis 1 is in reverse order"),
        ((7,), 0, "its features are in reverse order"),
    ],
)
def test_a_reversed_axis_is_recognised_and_undone(shape, axis, words):
    expected = numbers(*shape)
    seen = layout(np.flip(expected, axis), expected, 0.0)
    assert seen.description == words
    np.testing.assert_array_equal(seen.restored, expected, strict=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.transpose(0, 2, 3, 1), "its axes are in the order N, H, W, C"),
        (
            lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape),
            "its values are in the order N, H, W, C under another shape",
        ),
        (lambda x: x.transpose(0, 2, 3, 1)[0], "its values are in the order N, H, W, C under another shape"),
        (lambda x: x[0], "its values are right, but in the shape (3, 4, 5)"),
        (lambda x: x.ravel(), "its values are right, but in the shape (60,)"),
    ],
)
def test_the_words_fit_the_shape_where_an_axis_has_length_one(change, words):
    expected = numbers(1, 3, 4, 5)
    seen = layout(change(expected), expected, 0.0)
    assert seen.description == words
    np.testing.assert_array_equal(seen.restored, expected, strict=True)


def test_a_layout_is_judged_by_the_tolerance_of_each_element():
    expected = numbers(1, 6, 7, 8)
    tolerance = np.abs(expected) * 1e-3
    found = (expected + 0.9 * tolerance).transpose(0, 2, 3, 1)
    assert layout(found, expected, tolerance) is not None
    assert layout(found, expected, 0.0) is None
    for index in np.ndindex(3, 4):  # wherever one element is off
        off = found.copy()
        off[0, index[0], index[1], 5] += 0.2 * tolerance[0, 5, index[0], index[1]]
        assert layout(off, expected, tolerance) is None


@pytest.mark.parametrize(
    "found",
    [
        numbers(2, 3, 4, 5),
        numbers(2, 3, 4, 5) + 1e-3,
        numbers(2, 3, 4),
        numbers(2, 3, 5, 4),
        np.zeros((2, 3, 4, 5)),
        np.full((2, 3, 4, 5), np.nan),
        np.full((2, 3, 4, 5), np.inf),
        np.zeros(0),
        np.zeros(()),
    ],
)
def test_what_is_in_order_or_another_tensor_has_no_layout(found):
    assert layout(found, numbers(2, 3, 4, 5), 0.0) is None


def test_equal_values_are_in_order_however_they_are_read():
    assert layout(np.ones((1, 3, 2, 2)), np.ones((1, 3, 2, 2)), 0.0) is None
    assert layout(np.zeros(()), np.ones(()), 0.0) is None
    assert layout(np.zeros((0, 3)), np.ones((0, 3)), 0.0) is None


def test_misnamed_finds_the_tap_that_holds_what_is_expected():
    expected = numbers(2, 40, 9, 9)
    tolerance = np.full(expected.shape, 1e-6)
    near = expected.copy()
    near[1, 39, 8, 8] += 2e-6  # the sample alone would not tell
    others = {
        "shape": expected[:1],
        "empty": np.zeros((0, 40, 9, 9)),
        "near": near,
        "lost": np.full(expected.shape, np.nan),
        "right": (expected + 5e-7).astype(np.float32),
        "right too": expected,
    }
    assert misnamed(expected, tolerance, others) == "right"
    assert misnamed(expected, 0.0, others) == "right too"
    assert misnamed(expected + 1, tolerance, others) is None
    assert misnamed(np.zeros((0, 3)), 0.0, {"other": np.zeros((0, 3))}) is None


# --- faults below the tolerance

UNITS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def to_bfloat16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000  # to nearest, half to even
    return rounded.astype(np.uint32).view(np.float32)


STORE = {
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16).astype(np.float32),
    "bfloat16": to_bfloat16,
}


def usual_error(n, norm, y, precision):
    """The usual error of sums of n terms with this root of the sum of squares: of sum, factors and result."""
    unit, smallest = UNITS[precision], 2.0**-25 if precision == "float16" else 0.0
    accumulate = 2.0**-24 if precision == "float32" else 2.0**-23
    return np.sqrt(n * accumulate**2 * (norm**2 + y**2) + 2 * unit**2 * norm**2 + unit**2 * y**2) + smallest


def column(x):
    return x[:, None, None]


class Layer:
    """A convolution with a normalisation after it, with odd sizes; `texture` of its input may be degenerate."""

    def __init__(self, seed, precision, texture="noise"):
        self.rng = rng = np.random.default_rng([seed, 77])
        self.precision, self.store, self.unit = precision, STORE[precision], UNITS[precision]
        pictures, inputs, outputs = rng.integers(1, 3), rng.integers(4, 30), rng.integers(5, 40)
        shape = (pictures, inputs, *rng.integers(9, 33, 2))
        x = rng.standard_normal(shape)
        if texture == "smooth":
            x = np.cumsum(np.cumsum(x, 2), 3) / 20
        if texture == "half flat":
            x = np.abs(x)
            x[:, :, : shape[2] // 2] = 0.37
        if texture == "flat":
            x = np.broadcast_to(x[:, :, :1, :1], shape)
        self.x = self.store(x).astype(np.float64)
        weight = rng.standard_normal((outputs, inputs, 3, 3)) / np.sqrt(inputs * 9)
        self.weight = weight.astype(np.float32).astype(np.float64)
        parameters = {
            "weight": rng.uniform(0.5, 1.5, outputs),
            "bias": rng.standard_normal(outputs),
            "running_mean": rng.standard_normal(outputs),
            "running_var": rng.uniform(0.05, 4, outputs),
        }
        self.norm = {name: value.astype(np.float32).astype(np.float64) for name, value in parameters.items()}

    def conv(self, x=None, padding=1):
        x = self.x if x is None else x
        y = ops.conv2d(x.astype(np.float32), weight=self.store(self.weight), padding=padding)
        return self.store(y).astype(np.float64)

    def exact_conv(self):
        """Exact values, their usual errors, the number of terms and the root of their sum of squares."""
        y = ops.conv2d(self.x, weight=self.weight, padding=1)
        norm = np.sqrt(ops.conv2d(self.x**2, weight=self.weight**2, padding=1))
        n = self.weight[0].size
        return y, usual_error(n, norm, y, self.precision), n, norm

    def batch_norm(self, x, eps=1e-5):
        parameters = {name: value.astype(np.float32) for name, value in self.norm.items()}
        return self.store(ops.batch_norm(x.astype(np.float32), **parameters, eps=eps)).astype(np.float64)

    def exact_batch_norm(self, x):
        y = ops.batch_norm(x, **self.norm)
        return y, usual_error(4, self.norm_terms(np.abs(x)), y, self.precision)

    def norm_terms(self, size):
        scale = column(self.scale)
        return np.sqrt((size * scale) ** 2 + (scale * column(self.norm["running_mean"])) ** 2 + self.bias**2)

    @property
    def bias(self):
        return column(self.norm["bias"])

    @property
    def scale(self):
        return self.norm["weight"] / np.sqrt(self.norm["running_var"] + 1e-5)

    def folded(self):
        """Convolution and normalisation in one, as converters make them; the weights are rounded anew."""
        weight = self.store(self.weight * column(self.scale)[..., None])
        bias = self.store(self.norm["bias"] - self.norm["running_mean"] * self.scale)
        y = ops.conv2d(self.x.astype(np.float32), weight=weight, bias=bias.astype(np.float32), padding=1)
        return self.store(y).astype(np.float64)

    def exact_folded(self):
        y, _, n, norm = self.exact_conv()
        y = ops.batch_norm(y, **self.norm)
        return y, usual_error(n + 6, self.norm_terms(norm), y, self.precision)


def sound_tensors(layer):
    """What layers put out in the precision, with the exact values and the usual errors: (name, found, expected, U)."""
    store, unit, rng = layer.store, layer.unit, layer.rng
    y, usual, _, _ = layer.exact_conv()
    found = layer.conv()
    yield "conv", found, y, usual
    yield "batch norm", layer.batch_norm(found), *layer.exact_batch_norm(found)
    folded, (exact, usual) = layer.folded(), layer.exact_folded()
    yield "folded", folded, exact, usual
    yield "relu", np.maximum(folded, 0), np.maximum(exact, 0), usual
    silu = ops.silu(folded)
    smallest = 2.0**-25 if layer.precision == "float16" else 2.0**-126
    own = np.hypot(unit, 2.0**-22) * np.abs(silu) + smallest
    yield "silu", store(ops.silu(folded.astype(np.float32))).astype(np.float64), silu, own
    yield (
        "fused silu",
        store(ops.silu(folded.astype(np.float32))).astype(np.float64),
        ops.silu(exact),
        np.hypot(1.1 * usual, own),
    )
    tokens = np.moveaxis(folded, 1, -1).reshape(len(folded), -1, folded.shape[1])  # (S, L, D)
    matrix, bias = rng.standard_normal((23, tokens.shape[2])) / 5, rng.standard_normal(23)
    matrix, bias = matrix.astype(np.float32).astype(np.float64), bias.astype(np.float32).astype(np.float64)
    linear = ops.linear(tokens, weight=matrix, bias=bias)
    norm = np.sqrt(ops.linear(tokens**2, weight=matrix**2, bias=bias**2))
    half = store(ops.linear(tokens.astype(np.float32), weight=store(matrix), bias=store(bias))).astype(np.float64)
    yield "linear", half, linear, usual_error(tokens.shape[2], norm, linear, layer.precision)
    if tokens.std(axis=-1).min() > 0.1:
        gain, shift = (v.astype(np.float64) for v in rng.uniform(0.5, 1.5, (2, tokens.shape[2])).astype(np.float32))
        exact = ops.layer_norm(tokens, weight=gain, bias=shift)
        spread = np.abs(tokens).mean(-1, keepdims=True) / tokens.std(-1, keepdims=True)
        norm = np.sqrt((exact - shift) ** 2 + shift**2 + (gain * spread) ** 2)
        single = (v.astype(np.float32) for v in (tokens, gain, shift))
        x, gain, shift = single
        half = store(ops.layer_norm(x, weight=gain, bias=shift)).astype(np.float64)
        yield "layer norm", half, exact, usual_error(tokens.shape[2] + 6, norm, exact, layer.precision)
    logits = linear.mean(axis=1)  # (N, C)
    yield "logits", store(logits).astype(np.float64), logits, np.maximum(unit, 2.0**-24) * np.abs(logits)


@pytest.mark.parametrize("texture", ["noise", "smooth", "half flat", "flat"])
@pytest.mark.parametrize("precision", UNITS)
def test_sound_arithmetic_raises_no_alarm(precision, texture):
    for seed in range(3):
        layer = Layer(seed, precision, texture)
        for name, found, expected, usual in sound_tensors(layer):
            for known in (usual, None):
                assert not anomalies(found, expected, known, layer.unit), (name, seed, known is None)


def kinds(found, expected, usual, unit):
    seen = anomalies(found, expected, usual, unit)
    assert [anomaly.z for anomaly in seen] == sorted((anomaly.z for anomaly in seen), reverse=True)
    assert all(anomaly.z > REPORTED for anomaly in seen)
    assert len({anomaly.kind for anomaly in seen}) == len(seen)
    return {anomaly.kind: anomaly.message for anomaly in seen}


@pytest.mark.parametrize("equal", [True, False])
def test_a_wrong_eps_of_a_normalisation_is_seen_in_float32(equal):
    layer = Layer(0, "float32")
    if equal:
        layer.norm["running_var"][:] = 1
    x = layer.conv()
    expected, usual = layer.exact_batch_norm(x)
    for known in (usual, None):
        seen = kinds(layer.batch_norm(x, eps=1e-3), expected, known, layer.unit)
        assert {"slope", "offset"} <= set(seen)
        assert not kinds(layer.batch_norm(x), expected, known, layer.unit)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("relative", "visible"),
    [(1e-4, {"offset"}), (2e-7, set())],  # the second is what rounded parameters do
)
def test_an_offset_of_one_channel_is_seen(known, relative, visible):
    layer = Layer(1, "float32")
    expected, usual, _, _ = layer.exact_conv()
    found = layer.conv()
    found[:, 3] += relative * np.sqrt((expected[:, 3] ** 2).mean())
    seen = kinds(found, expected, usual if known else None, layer.unit)
    assert visible == set(seen) & {"offset"}
    if visible:
        assert seen["offset"].startswith("in channel 3 the values are off by +")


@pytest.mark.parametrize("known", [True, False])
def test_a_slope_of_one_channel_is_seen(known):
    layer = Layer(2, "float32")
    expected, usual, _, _ = layer.exact_conv()
    found = layer.conv()
    found[:, 4] *= 1 - 2e-5
    seen = kinds(found, expected, usual if known else None, layer.unit)
    assert seen["slope"] == "in channel 4 the residuals grow with the values, by -2e-05 of them"


def test_a_slope_of_the_last_axis_is_seen_in_sequences():
    layer = Layer(2, "float32")
    (_, found, expected, usual) = next(t for t in sound_tensors(layer) if t[0] == "linear")
    found = found.copy()
    found[:, :, 7] *= 1 + 3e-5
    assert "in channel 7" in kinds(found, expected, usual, layer.unit)["slope"]


@pytest.mark.parametrize("known", [True, False])
def test_a_constant_bias_is_seen(known):
    layer = Layer(3, "float32")
    expected, usual, _, _ = layer.exact_conv()
    found = layer.conv() + 3e-6 * np.sqrt((expected**2).mean())
    seen = kinds(found, expected, usual if known else None, layer.unit)
    assert seen["mean"].startswith("the whole tensor is off by +")


@pytest.mark.parametrize("precision", UNITS)
def test_a_border_that_is_replicated_is_seen(precision):
    layer = Layer(4, precision)
    expected, usual, _, _ = layer.exact_conv()
    found = layer.conv()
    last = found.shape[2] - 1
    wrong = layer.conv(np.pad(layer.x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge"), padding=0)
    found[:, :, last] = wrong[:, :, last]
    seen = kinds(found, expected, usual, layer.unit)
    assert seen["row"].startswith(f"the errors of row {last} are ")
    assert "column" not in seen


@pytest.mark.parametrize("precision", UNITS)
@pytest.mark.parametrize(
    ("place", "kind"),
    [((slice(None), slice(None), 5), "row"), ((..., 6), "column"), ((1,), "batch")],
)
def test_one_row_off_is_seen(precision, place, kind):
    layer = Layer(6, precision)
    layer.x = np.concatenate([layer.x] * 2)[:3] + 0.0
    layer.x[1] = layer.x[1, :, ::-1]
    expected, usual, _, _ = layer.exact_conv()
    found = layer.conv()
    assert not kinds(found, expected, usual, layer.unit)
    found[place] += 1.5 * (usual * layer.rng.standard_normal(usual.shape))[place]
    index = next(i for i in (*place[::-1],) if isinstance(i, int))
    assert kinds(found, expected, usual, layer.unit)[kind].startswith(f"the errors of {kind} {index} are ")


def test_one_patch_or_sequence_off_is_seen():
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((4, 50, 60))
    usual = np.full(expected.shape, 1e-6)
    for place, words in (((2,), "the errors of sequence 2 are "), ((slice(None), 9), "the errors of patch 9 are ")):
        found = expected + rng.normal(0, 0.25e-6, expected.shape)
        found[place] += rng.normal(0, 1.5e-6, found[place].shape)
        seen = kinds(found, expected, usual, 2.0**-24)
        assert seen[words.split()[3]].startswith(words)


def test_one_element_far_outside_is_seen_and_named():
    layer = Layer(7, "float32")
    expected, usual, _, _ = layer.exact_conv()
    found = layer.conv()
    found[0, 2, 3, 4] = expected[0, 2, 3, 4] + 6 * usual[0, 2, 3, 4]
    assert kinds(found, expected, usual, layer.unit) == {"tail": "the element (0, 2, 3, 4) is off by 6 usual errors"}


@pytest.mark.parametrize("precision", UNITS)
def test_errors_that_are_larger_everywhere_are_seen(precision):
    layer = Layer(8, precision)
    expected, usual, _, _ = layer.exact_conv()
    found = expected + 1.3 * usual * layer.rng.standard_normal(usual.shape)
    assert "spread" in kinds(found, expected, usual, layer.unit)
    found = expected + 0.8 * usual * layer.rng.standard_normal(usual.shape)
    assert "spread" not in kinds(found, expected, usual, layer.unit)


def test_a_rounding_that_a_whole_channel_shares_is_no_alarm():
    """A folded normalisation: factor and offset of each channel are off by some roundings."""
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((2, 40, 20, 20))
    unit = 2.0**-24
    usual = unit * np.sqrt(100) * np.sqrt(expected**2 + 1)
    noise = rng.normal(0, 0.25, expected.shape) * usual
    shared = unit * (column(rng.uniform(-3, 3, 40)) * expected + column(rng.uniform(-3, 3, 40)))
    for known in (usual, None):
        assert not anomalies(expected + noise + shared, expected, known, unit)
        assert {"slope", "offset"} <= set(kinds(expected + noise + 15 * shared, expected, known, unit))


def test_equal_elements_count_once():
    """A flat picture repeats one error in all its pixels: that is one observation, and no offset."""
    expected = np.broadcast_to(numbers(1, 8, 1, 1), (1, 8, 40, 40)).copy()
    usual = np.full(expected.shape, 1e-6)
    found = expected + np.broadcast_to(1.9e-6 * np.sign(numbers(1, 8, 1, 1)), expected.shape)
    for known in (usual, None):
        assert not anomalies(found, expected, known, 2.0**-24)
    expected += 1e-3 * numbers(1, 8, 40, 40)
    assert "offset" in kinds(expected + 1.9e-6, expected, usual, 2.0**-24)


DEGENERATE = arrays.arrays(
    np.float64,
    arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
    elements=st.sampled_from([0.0, 1.0, 1.0 + 1e-7, -1e-40, 1e30, 3.0]) | st.floats(-1e3, 1e3),
)


@settings(max_examples=60, deadline=None)
@given(
    DEGENERATE, st.sampled_from([0.0, 1e-7, -1.0, 1e200, np.nan, np.inf]), st.sampled_from([None, 0.0, 1e-7, 1e-320])
)
def test_degenerate_tensors_end_in_no_warning_and_no_exception(expected, off, usual):
    known = None if usual is None else np.full(expected.shape, usual)
    for found in (expected, expected + off, np.where(expected == 1, expected + off, expected)):
        for unit in UNITS.values():
            kinds(found, expected, known, unit)
    assert not anomalies(expected, expected, known, 2.0**-24)


def test_an_error_where_none_is_usual_is_measured_by_the_others():
    expected, usual = numbers(1, 8, 20, 20), np.full((1, 8, 20, 20), 1e-6)
    usual[..., 0] = 0
    found = expected.copy()
    assert not anomalies(found, expected, usual, 2.0**-24)
    found[0, 1, 2, 0] += 2e-5
    assert "tail" in kinds(found, expected, usual, 2.0**-24)


@pytest.mark.parametrize(("precision", "share"), [("float32", 0.4), ("float16", 1.5), ("bfloat16", 1.5)])
def test_what_is_left_of_large_products_may_share_their_roundings(precision, share):
    """An edge filter on a smooth picture: rounded weights shift small values by a rounding of the large products."""
    unit = UNITS[precision]
    expected = 1e-3 * numbers(1, 20, 30, 30)
    usual = np.full(expected.shape, unit)
    noise = np.random.default_rng(1).normal(0, 0.25 * unit, expected.shape)
    shift = share * unit * column(np.arange(20) == 3)  # of the worst channel
    assert not anomalies(expected + noise + shift, expected, usual, unit)
    assert "offset" in kinds(expected + noise + 2 * shift, expected, usual, unit)


def test_rows_of_a_sound_tensor_may_differ_in_their_errors():
    """Rows of the sky have simpler numbers than rows of leaves."""
    rng = np.random.default_rng(0)
    expected, usual = numbers(1, 40, 24, 30), np.full((1, 40, 24, 30), 1e-6)
    size = np.full((24, 1), 0.4e-6)
    size[3] = 0.7e-6
    noise = rng.standard_normal(expected.shape)
    assert not anomalies(expected + size * noise, expected, usual, 2.0**-24)
    size[3] = 1.1e-6
    assert set(kinds(expected + size * noise, expected, usual, 2.0**-24)) == {"row"}


def test_groups_of_equal_elements_count_as_their_number():
    """Thirty different values, each in fifty places: a mean that fifteen hundred elements prove, and thirty do not."""
    expected = np.repeat(numbers(1, 1, 30, 1), 50, axis=3)
    usual = np.full(expected.shape, 1e-6)
    assert not anomalies(expected + 0.85e-6, expected, usual, 2.0**-40)
    expected = numbers(1, 1, 30, 50)
    assert "offset" in kinds(expected + 0.85e-6, expected, usual, 2.0**-40)


@pytest.mark.parametrize(("count", "visible"), [(100, True), (300_000, False)])
def test_among_many_elements_one_may_be_farther_outside(count, visible):
    expected, usual = numbers(count), np.full(count, 1e-6)
    found = expected.copy()
    found[7] += 3.5e-6
    assert ("tail" in kinds(found, expected, usual, 2.0**-24)) == visible


@pytest.mark.parametrize(("length", "visible"), [(4, True), (4000, False)])
def test_among_many_rows_one_may_be_farther_off(length, visible):
    """A row of z = 7 is one in 4000 and stands out among four."""
    expected, usual = numbers(1, 1, length, 200), np.full((1, 1, length, 200), 1e-6)
    found = expected + 0.2e-6 * np.resize([1, -1], expected.shape)
    found[0, 0, 2] = expected[0, 0, 2] + 0.765e-6 * np.resize([1, -1], 200)
    assert ("row" in kinds(found, expected, usual, 2.0**-24)) == visible


def test_without_usual_errors_small_channels_are_measured_by_the_largest():
    """What is left in a channel where the normalisation's offset cancels its products has their roundings."""
    unit = 2.0**-24
    expected = numbers(1, 20, 20, 20)
    expected[:, 3] *= 0.01
    found = expected + unit * 0.1 * numbers(1, 20, 20, 20)[:, ::-1]
    found[:, 3] += 2 * unit
    assert not anomalies(found, expected, None, unit)
    found[:, 3] += 20 * unit
    assert set(kinds(found, expected, None, unit)) == {"offset"}


def test_the_worse_of_two_pictures_is_seen():
    expected, usual = numbers(2, 10, 20, 20), np.full((2, 10, 20, 20), 1e-6)
    found = expected + 0.2e-6 * numbers(2, 10, 20, 20)[::-1]
    assert not anomalies(found, expected, usual, 2.0**-24)
    found[1] += 0.8e-6 * numbers(10, 20, 20)
    assert kinds(found, expected, usual, 2.0**-24)["batch"].startswith("the errors of batch 1 are ")


def test_a_slope_is_seen_where_values_vary_little():
    expected = 1000 + 0.1 * numbers(1, 2, 30, 30)
    found = expected + 0.05 * (expected - 1000)
    seen = kinds(found, expected, np.full(expected.shape, 1e-4), 2.0**-24)
    assert seen["slope"].endswith("the residuals grow with the values, by +0.05 of them")


def test_the_channel_that_is_named_is_the_worst_after_equal_elements_count_once():
    expected = numbers(1, 3, 40, 50)
    expected[0, 0] = np.repeat(numbers(40, 1), 50, axis=1)
    found = expected + column(np.array([3e-6, 2e-6, 0.0]))
    seen = kinds(found, expected, np.full(expected.shape, 1e-6), 2.0**-40)
    assert seen["offset"] == "in channel 1 the values are off by +2e-06 on average"
