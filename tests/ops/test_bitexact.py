"""The operators of precision="bitexact": close to the definitions, and with bits that follow from IEEE 754 alone.

The bits are those of the same formulas in plain loops over Python floats and whole numbers: one rounding a step, in an
order that is written down, and no BLAS, mathematical library or NumPy in sight.
"""

import functools
import itertools
import math
import warnings
from fractions import Fraction

import definitions
import numpy as np
import pytest
from definitions import assert_close, integers, layouts, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from npmobilevit import ops
from npmobilevit.arithmetic import BITEXACT
from npmobilevit.ops import activation, bitexact
from npmobilevit.scope import OpTable

quick = settings(derandomize=True, deadline=None, max_examples=40)


# ---- products ----------------------------------------------------------------------------------------------------


def cut(values, bits):
    """Whole numbers (high, low) of each value, and the exponent of their unit."""
    exponent = max(math.frexp(max(map(abs, values)))[1], -900)
    scaled = [math.ldexp(value, bits - exponent) for value in values]
    high = [round(value) for value in scaled]
    low = [round(math.ldexp(value - whole, bits)) for value, whole in zip(scaled, high, strict=True)]
    return high, low, exponent - bits


def product(row, column):
    """What one element of the product must be, to the bit: sums of whole numbers, then one rounding a step."""
    bits = (53 - math.ceil(math.log2(len(row)))) // 2
    a_high, a_low, a_exponent = cut(row, bits)
    b_high, b_low, b_exponent = cut(column, bits)

    def dot(a, b):
        exact = sum(x * y for x, y in zip(a, b, strict=True))
        assert abs(exact) <= sum(abs(x * y) for x, y in zip(a, b, strict=True)) <= 2**53
        return float(exact)

    y = math.ldexp(dot(a_low, b_low), -bits) + (dot(a_high, b_low) + dot(a_low, b_high))
    return (math.ldexp(y, -bits) + dot(a_high, b_high)) * math.ldexp(1.0, a_exponent) * math.ldexp(1.0, b_exponent)


def same_bits(actual, expected):
    np.testing.assert_array_equal(actual.view(np.int64), np.asarray(expected, np.float64).view(np.int64), strict=True)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 8, 9, 144, 2880])
@pytest.mark.parametrize("spread", [0, 12])
def test_the_bits_of_a_product_are_those_of_whole_numbers(k, spread):
    """Also of values that are 5,000 times apart within a row."""
    a = normal(3, k) * np.exp(spread * normal(3, k, seed=1) / 4)
    b = normal(k, 4, seed=2) / 3
    same_bits(bitexact.matmul(a, b), [[product(row, column) for column in b.T.tolist()] for row in a.tolist()])


@quick
@given(
    arrays(np.float64, (2, 5), elements=st.floats(-1e300, 1e300)),
    arrays(np.float64, (5, 1), elements=st.floats(-1e5, 1e5)),
)
def test_the_bits_of_a_product_whatever_the_values(a, b):
    """Zeros, subnormal numbers, and rows of values 600 digits apart."""
    same_bits(bitexact.matmul(a, b), [[product(row, column) for column in b.T.tolist()] for row in a.tolist()])


@pytest.mark.parametrize("k", [3, 144, 2880])
def test_a_product_is_as_close_as_it_says(k):
    a, b = normal(2, k) / 3, normal(k, 3, seed=1) / 7
    exact = [
        [sum(Fraction(x) * Fraction(y) for x, y in zip(r, c, strict=True)) for c in b.T.tolist()] for r in a.tolist()
    ]
    bits = (53 - math.ceil(math.log2(k))) // 2
    bound = k * 4 * 2.0 ** -(2 * bits + 1) * np.abs(a).max() * np.abs(b).max()
    errors = [
        float(abs(Fraction(float(y)) - e))
        for y, e in zip(bitexact.matmul(a, b).flat, itertools.chain(*exact), strict=True)
    ]
    assert max(errors) < bound < 1e-8


def test_the_order_of_terms_does_not_matter():
    """Of an ordinary product it does: this is what differs between machines."""
    a, b = normal(20, 500) / 3, normal(500, 20, seed=1) / 3
    order = np.random.default_rng(0).permutation(500)
    same_bits(bitexact.matmul(a[:, order], b[order]), bitexact.matmul(a, b))
    assert (a[:, order] @ b[order] != a @ b).any()


def test_whole_numbers_are_exact():
    a, b = integers(4, 100), integers(100, 5, seed=1)
    np.testing.assert_array_equal(bitexact.matmul(a, b), a @ b, strict=True)


@pytest.mark.parametrize("scale", [1e-320, 1e-290, 1e-270, 1e150, 1e300])
def test_large_and_small_values_neither_warn_nor_overflow(scale):
    """What is below 1e-284 may vanish."""
    a = normal(2, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = bitexact.matmul(a * scale, np.eye(30))
    np.testing.assert_allclose(y, a * scale, rtol=0, atol=max(1e-13 * scale, 1e-284))


def test_a_row_of_zeros():
    same_bits(bitexact.matmul(np.zeros((1, 3)), normal(3, 2)), np.zeros((1, 2)))


# ---- sums --------------------------------------------------------------------------------------------------------


def folded(values):
    """The second half is added to the first until one is left."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        values = [a + b for a, b in zip(values[:half], values[half:], strict=False)] + values[len(values) - half : half]
    return values[0]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 144])
def test_the_bits_of_a_sum_in_any_memory_layout(n):
    x = normal(2, 3, n) / 3
    expected = [[[folded(x[i, j].tolist())] for j in range(3)] for i in range(2)]
    same_bits(bitexact.sum_last_axis(x), expected)
    for name, other in layouts(x):
        np.testing.assert_array_equal(bitexact.sum_last_axis(other), expected, err_msg=name)


def test_summing_leaves_its_input_alone():
    x = normal(2, 5)
    before = x.copy()
    bitexact.sum_last_axis(x)
    np.testing.assert_array_equal(x, before)


def test_the_bits_of_layer_norm():
    x, weight, bias = normal(1, 4, 6) / 3, normal(6, seed=1), normal(6, seed=2)
    expected = np.zeros(x.shape)
    for token in np.ndindex(1, 4):
        mean = folded(x[token].tolist()) / 6
        centred = [value - mean for value in x[token].tolist()]
        deviation = math.sqrt(folded([value * value for value in centred]) / 6 + 1e-5)
        expected[token] = [
            v / deviation * w + b for v, w, b in zip(centred, weight.tolist(), bias.tolist(), strict=True)
        ]
    same_bits(bitexact.layer_norm(x, weight=weight, bias=bias, eps=1e-5), expected)


def test_the_bits_of_softmax():
    x = 5 * normal(3, 7)
    powers = [[exponential(value - max(row)) for value in row] for row in x.tolist()]
    same_bits(bitexact.softmax(x), [[power / folded(row) for power in row] for row in powers])


def test_the_bits_of_the_pooled_average():
    x = normal(2, 3, 4, 5) / 3
    same_bits(bitexact.global_avg_pool(x), [[folded(m.reshape(-1).tolist()) / 20 for m in image] for image in x])


# ---- functions of one value --------------------------------------------------------------------------------------


def exponential(x):
    """The polynomial, one rounding a step."""
    if x < -708:
        return 0.0
    n = round(x * float.fromhex("0x1.71547652b82fep+0"))
    r = (x - n * float.fromhex("0x1.62e42feep-1")) - n * float.fromhex("0x1.a39ef35793c76p-33")
    y = 1 / math.factorial(13)
    for i in range(12, -1, -1):
        y = y * r + 1 / math.factorial(i)
    return y * math.ldexp(1.0, n)


VALUES = np.concatenate(
    [np.linspace(-40, 0, 501), -np.logspace(-20, 2.85, 200), [0.0, -707.9, -708, -708.1, -1e9, -1e308]]
)


def test_the_bits_of_exp():
    same_bits(bitexact.exp(VALUES), [exponential(value) for value in VALUES.tolist()])


def test_exp_is_right_to_two_units_in_the_last_place():
    expected = [math.exp(value) for value in VALUES.tolist()]
    for value, found, right in zip(VALUES, bitexact.exp(VALUES).tolist(), expected, strict=True):
        assert abs(found - right) <= 2 * math.ulp(right) or (value < -708 and found == 0), value


def test_constants_are_those_of_mathematics():
    assert Fraction(bitexact.LN2_HIGH) + Fraction(bitexact.LN2_LOW) == pytest.approx(math.log(2), abs=1e-17)
    assert int(math.ldexp(bitexact.LN2_HIGH, 32)) == math.ldexp(bitexact.LN2_HIGH, 32)  # 32 bits: n * LN2_HIGH is exact
    assert pytest.approx(math.log2(math.e), rel=2e-16) == bitexact.LOG2_E


def test_the_bits_of_silu():
    x = np.concatenate([VALUES, -VALUES])

    def silu(value):
        decay = exponential(-abs(value))
        return (decay if value < 0 else 1.0) / (decay + 1) * value

    same_bits(bitexact.silu(x), [silu(value) for value in x.tolist()])


def test_the_bits_of_gelu():
    """Its rational approximations, one rounding a step; no power of e but the polynomial's."""
    x = np.concatenate([np.linspace(-9, 9, 181), [-40.0, 40.0]])

    def ratio(coefficients, value):
        numerator, denominator = (functools.reduce(lambda y, c: y * value + c, row, 0.0) for row in coefficients)
        return numerator / denominator

    def minus_square(a):
        coarse = math.trunc(a * 16) / 16
        return exponential(-coarse * coarse) * exponential(-(a - coarse) * (a + coarse))

    def erfc(a):
        if a <= 0.46875:
            return 1 - a * ratio(activation._ERF_SMALL, a * a)
        if a <= 4:
            return minus_square(a) * ratio(activation._ERFC_MIDDLE, a)
        if a >= 27:
            return 0.0
        inverse = 1 / (a * a)
        rest = 1 / math.sqrt(math.pi) - inverse * ratio(activation._ERFC_LARGE, inverse)
        return minus_square(a) * rest / a

    def gelu(value):
        half_tail = 0.5 * erfc(abs(value) * math.sqrt(0.5))
        return value * (half_tail if value < 0 else 1 - half_tail)

    same_bits(bitexact.gelu(x), [gelu(value) for value in x.tolist()])


@pytest.mark.parametrize("name", bitexact.ACTIVATIONS)
def test_activations_keep_nan(name):
    with np.errstate(invalid="ignore"):
        assert np.isnan(bitexact.ACTIVATIONS[name](np.array([1.0, np.nan, -1.0]))).tolist() == [False, True, False]


def test_relu_makes_no_negative_zero():
    same_bits(bitexact.relu(np.array([-2.0, -0.0, 0.0, 3.0])), [0.0, 0.0, 0.0, 3.0])


@pytest.mark.parametrize("size", [0, 1, bitexact.BLOCK - 1, bitexact.BLOCK, bitexact.BLOCK + 1])
def test_functions_do_not_see_the_blocks(size):
    x = -np.abs(normal(max(size, 1)))[:size]
    for function in (bitexact.exp, bitexact.silu, bitexact.gelu):
        expected = [float(function(np.array([value]))[0]) for value in x[-5:]]
        np.testing.assert_array_equal(function(x)[-5:], expected)


@pytest.mark.parametrize("function", [bitexact.silu, bitexact.gelu, bitexact.relu])
def test_functions_take_any_memory_layout(function):
    x = normal(3, 4, 5)
    for name, other in layouts(x):
        np.testing.assert_array_equal(function(other), function(x), err_msg=name)


@pytest.mark.parametrize("name", bitexact.ACTIVATIONS)
def test_activations_are_those_of_the_same_name(name):
    x = np.concatenate([np.linspace(-30, 30, 601), [-1e3, 1e3, -1e300, 1e300]])
    np.testing.assert_allclose(bitexact.ACTIVATIONS[name](x), ops.ACTIVATIONS[name](x), rtol=4e-15, atol=0, strict=True)


# ---- the whole table ---------------------------------------------------------------------------------------------


def attention_arguments():
    return (normal(2, 2, 5, 3), normal(2, 2, 5, 3, seed=1))


ARGUMENTS = {
    "conv2d": lambda: ((normal(2, 4, 7, 6),), {"weight": normal(6, 2, 3, 3, seed=1), "bias": normal(6, seed=2),
                                              "stride": (2, 1), "padding": 1, "dilation": (1, 2), "groups": 2}),
    "linear": lambda: ((normal(2, 5, 7),), {"weight": normal(3, 7, seed=1), "bias": normal(3, seed=2)}),
    "layer_norm": lambda: ((normal(2, 5, 7),), {"weight": normal(7, seed=1), "bias": normal(7, seed=2), "eps": 1e-5}),
    "attention_scores": lambda: (attention_arguments(), {}),
    "softmax": lambda: ((normal(2, 5, 7),), {}),
    "attend": lambda: ((normal(2, 2, 5, 4), normal(2, 2, 4, 3, seed=1)), {}),
    "global_avg_pool": lambda: ((normal(2, 3, 5, 4),), {}),
}  # fmt: skip

# They are made of single roundings already, each element by itself.
SAME = ("add", "concat_channels", "batch_norm", "split_heads", "merge_heads", "unfold_patches", "fold_patches",
        "resize_bilinear")  # fmt: skip


def test_every_operator_is_replaced_or_needs_no_replacement():
    replaced = {name for name, function in BITEXACT._asdict().items() if function is not getattr(OpTable(), name)}
    assert replaced == {*ARGUMENTS, "activations"}
    assert {*replaced, *SAME} == set(OpTable._fields)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_operators_are_those_of_the_same_name(name):
    arguments, options = ARGUMENTS[name]()
    assert_close(getattr(BITEXACT, name)(*arguments, **options), getattr(ops, name)(*arguments, **options), roundings=1)


def test_the_bits_of_short_sums():
    """Depthwise convolution, batch normalisation and the blend of a resize: single roundings in a fixed order."""
    x, weight = normal(1, 3, 5, 4) / 3, normal(3, 1, 3, 3, seed=1) / 3
    parameters = {"weight": normal(3, seed=2), "bias": normal(3, seed=3), "running_mean": normal(3, seed=4),
                  "running_var": np.abs(normal(3, seed=5))}  # fmt: skip
    filtered, normalized = np.zeros(x.shape), np.zeros(x.shape)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for n, c, i, j in np.ndindex(*x.shape):
        for ky, kx in np.ndindex(3, 3):
            filtered[n, c, i, j] = float(filtered[n, c, i, j]) + float(padded[n, c, i + ky, j + kx]) * float(
                weight[c, 0, ky, kx]
            )
        w, b, mean, var = (float(parameters[k][c]) for k in ("weight", "bias", "running_mean", "running_var"))
        scale = w / math.sqrt(var + 1e-5)
        normalized[n, c, i, j] = float(x[n, c, i, j]) * scale + (b - mean * scale)
    same_bits(bitexact.conv2d(x, weight=weight, padding=1, groups=3), filtered)
    same_bits(ops.batch_norm(x, **parameters), normalized)
    line = x[:, :, :1]
    blended = [[[[a * (1 - w) + b * w for a, b, w in blend(row)]] for row in image[:, 0].tolist()] for image in line]
    same_bits(ops.resize_bilinear(line, (1, 7)), blended)


def blend(row):
    """The two sources of each of 7 positions of a row of 4, and the weight of the second."""
    for i in range(7):
        position = max((i + 0.5) * (4 / 7) - 0.5, 0.0)
        first = min(int(position), 3)
        yield row[first], row[min(first + 1, 3)], min(max(position - first, 0.0), 1.0)


def test_convolution_by_its_definition():
    (x,), options = ARGUMENTS["conv2d"]()
    assert_close(bitexact.conv2d(x, **options), definitions.conv2d(x, **options), roundings=1)


@pytest.mark.parametrize("band", [1, 700, 2**40])
def test_the_bands_of_a_convolution_leave_no_trace(band, monkeypatch):
    """A band decides how many columns a product has: of an ordinary one, that changes bits."""
    x, weight = normal(1, 5, 33, 17), normal(6, 5, 3, 3, seed=1)
    whole = bitexact.conv2d(x, weight=weight, padding=1)
    monkeypatch.setattr(ops.conv, "BAND_ELEMENTS", band)
    same_bits(bitexact.conv2d(x, weight=weight, padding=1), whole)
