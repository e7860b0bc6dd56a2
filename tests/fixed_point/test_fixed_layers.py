"""Convolution and linear layer on words, against loops over Python's integers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.errors import ShapeError
from npmobilevit.fixed_point import check_accumulator, conv2d, linear


def looped_conv2d(x, weight, bias, stride, padding, dilation, groups):
    """From the definition, with integers that have no end."""
    n, _, height, width = x.shape
    outputs, group_channels, kernel_h, kernel_w = weight.shape
    out_h = (height + 2 * padding[0] - dilation[0] * (kernel_h - 1) - 1) // stride[0] + 1
    out_w = (width + 2 * padding[1] - dilation[1] * (kernel_w - 1) - 1) // stride[1] + 1
    y = np.zeros((n, outputs, out_h, out_w), object)
    for image, o, i, j in itertools.product(range(n), range(outputs), range(out_h), range(out_w)):
        total = 0 if bias is None else int(bias[o])
        first = o // (outputs // groups) * group_channels
        for c, ky, kx in itertools.product(range(group_channels), range(kernel_h), range(kernel_w)):
            row, column = i * stride[0] - padding[0] + ky * dilation[0], j * stride[1] - padding[1] + kx * dilation[1]
            if 0 <= row < height and 0 <= column < width:
                total += int(weight[o, c, ky, kx]) * int(x[image, first + c, row, column])
        y[image, o, i, j] = total
    return y


def words(generator, shape, width):
    """Words of all sizes, the last ones among them."""
    limits = np.iinfo(f"int{width}")
    found = generator.integers(limits.min, limits.max, shape, f"int{width}", endpoint=True)
    ends = generator.random(shape) < 0.2
    return np.where(ends, generator.choice(np.array([limits.min, limits.max], found.dtype), shape), found)


pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    width=st.sampled_from([8, 16]),
    groups=st.integers(1, 3),
    channels=st.integers(1, 3),
    outputs=st.integers(1, 2),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=pairs,
    dilation=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    with_bias=st.booleans(),
)
def test_conv2d_is_the_loop(seed, width, groups, channels, outputs, kernel, stride, dilation, padding, with_bias):
    generator = np.random.default_rng(seed)
    x = words(generator, (2, channels * groups, 6, 7), width)
    weight = words(generator, (outputs * groups, channels, *kernel), width)
    bias = generator.integers(-(2**30), 2**30, outputs * groups) if with_bias else None
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    found = conv2d(x, weight=weight, bias=bias, accumulator=64, **geometry)
    expected = looped_conv2d(x, weight, bias, **geometry)
    assert found.dtype == np.int64
    assert found.tolist() == expected.tolist()


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), width=st.sampled_from([8, 16]), shape=st.sampled_from([(5,), (3, 5), (2, 3, 5)]))
def test_linear_is_the_loop(seed, width, shape):
    generator = np.random.default_rng(seed)
    x, weight = words(generator, shape, width), words(generator, (4, 5), width)
    bias = generator.integers(-(2**40), 2**40, 4)
    found = linear(x, weight=weight, bias=bias, accumulator=64)
    assert found.shape == (*shape[:-1], 4)
    for row, sums in zip(x.reshape(-1, 5), found.reshape(-1, 4), strict=True):
        for o, total in enumerate(sums):
            assert int(total) == int(bias[o]) + sum(int(w) * int(v) for w, v in zip(weight[o], row, strict=True))


def test_large_sums_are_exact():
    """2880 products of the largest words, the longest sum of the published networks: beyond float32 and int32."""
    x = np.full((1, 320, 3, 3), -32768, np.int16)
    weight = np.full((1, 320, 3, 3), 32767, np.int16)
    found = conv2d(x, weight=weight, bias=np.array([1]), accumulator=64)
    assert found.tolist() == [[[[-32768 * 32767 * 2880 + 1]]]]


@pytest.mark.parametrize("accumulator", [32, 64])
def test_the_accumulator_is_refused_one_beyond_its_bound(accumulator):
    """sum |w| 2**7 + |b|: the largest that fits passes, and one more does not, on either side of zero."""
    weight = np.array([[100, -27]], np.int8)  # sum |w| = 127
    room = 2 ** (accumulator - 1) - 1 - 127 * 128
    x = np.array([[-128, 127]], np.int8)
    for sign in (1, -1):
        exact = linear(x, weight=weight, bias=np.array([sign * room]), accumulator=accumulator)
        assert exact.tolist() == [[-128 * 100 - 27 * 127 + sign * room]]
        with pytest.raises(ShapeError, match=f"{2 ** (accumulator - 1):,}") as caught:
            linear(x, weight=weight, bias=np.array([sign * (room + 1)]), accumulator=accumulator)
        assert caught.value.code == "accumulator-overflow"


def test_the_bound_is_reached_by_an_input():
    weight = np.array([[-128, 127, -1]], np.int8)
    x = np.array([[-128, 127, -128]], np.int8)  # as near to the bound as the missing word 128 lets it
    assert linear(x, weight=weight).tolist() == [[128 * 128 + 127 * 127 + 128]]
    check_accumulator(weight, None, width=8, accumulator=32)


def test_words_of_16_bits_overflow_32():
    x, weight = np.zeros((1, 4, 1, 1), np.int16), np.full((2, 4, 1, 1), 32767, np.int16)
    weight[0] = 1
    with pytest.raises(ShapeError, match="output 1 can reach 4,294,836,224, beyond 2,147,483,647"):
        conv2d(x, weight=weight)
    assert conv2d(x, weight=weight, accumulator=64).dtype == np.int64


def test_what_float64_cannot_sum_is_refused():
    weight = np.full((1, 2**23), -32768, np.int16)
    with pytest.raises(ShapeError, match="9,007,199,254,740,992"):
        check_accumulator(weight, None, width=16, accumulator=64)
    check_accumulator(weight[:, :-1], None, width=16, accumulator=64)


INT8 = np.zeros((1, 2, 3, 3), np.int8)


@pytest.mark.parametrize(
    "change",
    [
        {"x": INT8.astype(float)},
        {"x": INT8.astype(np.int32)},
        {"x": INT8.astype(np.uint8)},
        {"weight": INT8.astype(np.float32)},
        {"weight": INT8[:, :1]},
        {"weight": INT8[0]},
        {"x": np.int8(1)},
        {"x": INT8.tolist()},
        {"weight": INT8.tolist()},
        {"bias": [0]},
        {"groups": True},
        {"stride": "1"},
        {"accumulator": True},
        {"bias": np.zeros(2, int)},
        {"bias": np.zeros(1)},
        {"accumulator": 48},
        {"accumulator": 32.0},
        {"stride": 0},
        {"groups": 3},
    ],
)
def test_what_does_not_belong_together_is_refused(change):
    arguments = {"x": INT8, "weight": INT8} | change
    with pytest.raises(ShapeError):
        conv2d(arguments.pop("x"), **arguments)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"weight": [[1]]}, "array-dtype"),
        ({"weight": np.ones((1, 1))}, "array-dtype"),
        ({"weight": np.full((1, 1), -(2**63))}, "array-dtype"),  # whose absolute value int64 does not have
        ({"weight": np.array(1, np.int8)}, "array-ndim"),
        ({"bias": [1]}, "array-dtype"),
        ({"width": True}, "argument-range"),
        ({"width": "8"}, "argument-range"),
        ({"width": 64}, "argument-range"),
        ({"accumulator": True}, "argument-range"),
    ],
)
def test_an_accumulator_of_what_are_no_words_is_refused(change, code):
    arguments = {"weight": np.ones((1, 1), np.int8), "bias": None, "width": 8, "accumulator": 32} | change
    with pytest.raises(ShapeError) as caught:
        check_accumulator(arguments.pop("weight"), arguments.pop("bias"), **arguments)
    assert caught.value.code == code


def test_linear_refuses_likewise():
    for x, weight in ((INT8, INT8), (INT8, INT8[0, 0, :, :2]), (np.array(1, np.int8), INT8[0, 0])):
        with pytest.raises(ShapeError):
            linear(x, weight=weight)
