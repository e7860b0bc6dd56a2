import importlib
import tracemalloc

import definitions
import numpy as np
import pytest
from definitions import DTYPES, assert_close, assert_refused, integers, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.errors import ShapeError
from npmobilevit.ops import conv2d

conv_module = importlib.import_module("npmobilevit.ops.conv")

quick = settings(derandomize=True, deadline=None, max_examples=25)

# name: (x, weight, with a bias, options). The name says what the case would catch.
CASES = {
    "plain 3x3": ((2, 3, 5, 6), (4, 3, 3, 3), False, {"padding": 1}),
    "bias": ((2, 3, 5, 6), (4, 3, 3, 3), True, {"padding": 1}),
    "input and output channels swapped (CNV-03)": ((1, 3, 4, 4), (3, 3, 1, 1), False, {}),
    "no padding by default": ((1, 2, 5, 5), (2, 2, 3, 3), False, {}),
    "stride 2 on an even size (CNV-01)": ((1, 2, 6, 8), (3, 2, 3, 3), False, {"stride": 2, "padding": 1}),
    "stride 2 on an odd size": ((1, 2, 5, 7), (3, 2, 3, 3), False, {"stride": 2, "padding": 1}),
    "stride 3 leaves rows over": ((1, 2, 6, 9), (3, 2, 2, 2), False, {"stride": 3}),
    "depthwise": ((2, 4, 5, 5), (4, 1, 3, 3), False, {"padding": 1, "groups": 4}),
    "depthwise with stride and bias": ((2, 4, 5, 6), (4, 1, 3, 3), True, {"stride": 2, "padding": 1, "groups": 4}),
    "depthwise with two kernels a channel": ((1, 3, 4, 4), (6, 1, 3, 3), False, {"padding": 1, "groups": 3}),
    "groups of several channels (CNV-02)": ((2, 6, 4, 5), (4, 3, 3, 3), True, {"padding": 1, "groups": 2}),
    "dilation with padding = rate (SEG-02)": ((1, 2, 7, 6), (2, 2, 3, 3), False, {"padding": 2, "dilation": 2}),
    "dilation without padding": ((1, 2, 7, 8), (2, 2, 3, 3), False, {"dilation": 3}),
    "depthwise with dilation": ((1, 3, 6, 6), (3, 1, 3, 3), False, {"padding": 2, "dilation": 2, "groups": 3}),
    "dilation beyond the map": ((1, 2, 3, 3), (2, 2, 3, 3), False, {"padding": 6, "dilation": 6}),
    "stride and dilation": ((1, 2, 9, 9), (2, 2, 3, 3), False, {"stride": 2, "padding": 2, "dilation": 2}),
    "the two axes differ in everything": (
        (1, 2, 7, 9),
        (3, 2, 2, 3),
        True,
        {"stride": (1, 2), "padding": (2, 0), "dilation": (3, 1)},
    ),
    "1x1": ((2, 5, 3, 4), (7, 5, 1, 1), True, {}),
    "1x1 with stride": ((1, 3, 5, 4), (2, 3, 1, 1), False, {"stride": 2}),
    "even kernel": ((1, 2, 5, 5), (2, 2, 4, 4), False, {"padding": 1}),
    "kernel as large as the map": ((1, 2, 3, 4), (2, 2, 3, 4), False, {}),
    "map of one pixel": ((2, 2, 1, 1), (3, 2, 3, 3), False, {"stride": 2, "padding": 1}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_definition(case, dtype):
    x_shape, w_shape, with_bias, options = case
    x, weight = normal(*x_shape, dtype=dtype), normal(*w_shape, seed=1, dtype=dtype)
    bias = normal(w_shape[0], seed=2, dtype=dtype) if with_bias else None
    expected = definitions.conv2d(x, weight, bias, **options)
    terms = int(np.prod(w_shape[1:])) + 1
    magnitude = definitions.conv2d(abs(x), abs(weight), None if bias is None else abs(bias), **options).max()
    assert_close(conv2d(x, weight=weight, bias=bias, **options), expected, roundings=2 * terms, magnitude=magnitude)


# ---- golden: weights that are powers of two, so that every output tells which weights reached it ----------------

POWERS = 2.0 ** np.arange(9).reshape(1, 1, 3, 3)  # 1, 2, 4 / 8, 16, 32 / 64, 128, 256


@pytest.mark.parametrize("dtype", DTYPES)
def test_impulse_shows_the_kernel_turned_around(dtype):
    """A true convolution (CNV-05) would show it the right way round."""
    x = np.zeros((1, 1, 3, 3), dtype)
    x[0, 0, 1, 1] = 1
    y = conv2d(x, weight=POWERS.astype(dtype), padding=1)
    np.testing.assert_array_equal(y, np.array([[[[256, 128, 64], [32, 16, 8], [4, 2, 1]]]], dtype), strict=True)


@pytest.mark.parametrize("depthwise", [False, True])
def test_impulse_at_every_pixel_and_channel(depthwise):
    """Each output holds the bit of the one weight that belongs there, for every pixel, in and out channel."""
    channels, height, width, stride = 2, 4, 5, 2
    weight = 2.0 ** np.arange(18 if depthwise else 36).reshape(2, 1 if depthwise else channels, 3, 3)
    for c, row, column in np.ndindex(channels, height, width):
        x = np.zeros((1, channels, height, width))
        x[0, c, row, column] = 1
        y = conv2d(x, weight=weight, stride=stride, padding=1, groups=2 if depthwise else 1)
        assert y.shape == (1, 2, 2, 3)
        for o, i, j in np.ndindex(2, 2, 3):
            ky, kx = row - (i * stride - 1), column - (j * stride - 1)
            reached = 0 <= ky < 3 and 0 <= kx < 3 and (o == c or not depthwise)
            assert y[0, o, i, j] == (weight[o, 0 if depthwise else c, ky, kx] if reached else 0)


@pytest.mark.parametrize("groups", [1, 2], ids=["dense", "depthwise"])
def test_border_is_zero(groups):
    """Replicated edges (CNV-07) would give 511 everywhere; the corner sees only the weights 16, 32, 128, 256."""
    weight = np.repeat(POWERS, groups, axis=0)
    y = conv2d(np.ones((1, groups, 3, 3)), weight=weight, padding=1, groups=groups)
    golden = [[16 + 32 + 128 + 256, 511 - 7, 8 + 16 + 64 + 128], [511 - 73, 511, 511 - 292], [54, 511 - 448, 27]]
    np.testing.assert_array_equal(y, np.broadcast_to(np.array(golden, float), (1, groups, 3, 3)), strict=True)


def test_stride_two_pads_on_both_sides():
    """SAME padding of Keras (CNV-01) pads (0, 1) here, and would show 1 in the corner."""
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 0, 0] = 1
    np.testing.assert_array_equal(conv2d(x, weight=POWERS, stride=2, padding=1)[0, 0], [[16, 0], [0, 0]])
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 3, 3] = 1
    np.testing.assert_array_equal(conv2d(x, weight=POWERS, stride=2, padding=1)[0, 0], [[0, 0], [0, 256]])


def test_dilated_impulse():
    """With rate 2 (SEG-02) the nine weights lie two pixels apart."""
    x = np.zeros((1, 1, 5, 5))
    x[0, 0, 2, 2] = 1
    expected = np.zeros((5, 5))
    expected[::2, ::2] = POWERS[0, 0, ::-1, ::-1]
    np.testing.assert_array_equal(conv2d(x, weight=POWERS, padding=2, dilation=2)[0, 0], expected)


# ---- properties, exact because the values are small integers -----------------------------------------------------


@st.composite
def problems(draw, groups=None):
    """Arrays of small integers, and options that fit them."""
    seed, dtype = draw(st.integers(0, 999)), draw(st.sampled_from(DTYPES))
    groups = draw(st.integers(1, 3)) if groups is None else groups
    in_group, out_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 5))
        for d, k, p in zip(dilation, kernel, padding, strict=True)
    ]
    x = integers(draw(st.integers(1, 3)), groups * in_group, *size, seed=seed, dtype=dtype)
    weight = integers(groups * out_group, in_group, *kernel, seed=seed + 1, dtype=dtype)
    return x, weight, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def same(actual, expected):
    np.testing.assert_array_equal(actual, expected, strict=True)


@quick
@given(problems())
def test_any_problem_equals_the_definition(problem):
    x, weight, options = problem
    y = conv2d(x, weight=weight, **options)
    same(y[-1:], definitions.conv2d(x[-1:], weight, **options).astype(x.dtype))


@quick
@given(problems(), st.integers(-3, 3))
def test_linear_in_the_map_and_in_the_kernels(problem, factor):
    x, weight, options = problem
    other_x, other_w = integers(*x.shape, seed=77, dtype=x.dtype), integers(*weight.shape, seed=78, dtype=x.dtype)
    y = conv2d(x, weight=weight, **options)
    same(conv2d(factor * x + other_x, weight=weight, **options), factor * y + conv2d(other_x, weight=weight, **options))
    same(conv2d(x, weight=factor * weight + other_w, **options), factor * y + conv2d(x, weight=other_w, **options))


@quick
@given(problems())
def test_bias_is_added_to_its_channel(problem):
    x, weight, options = problem
    bias = integers(len(weight), seed=5, dtype=x.dtype)
    y = conv2d(x, weight=weight, **options)
    same(conv2d(x, weight=weight, bias=bias, **options), y + bias.reshape(1, -1, 1, 1))


@quick
@given(problems())
def test_groups_are_convolutions_side_by_side(problem):
    """CNV-02, CNV-06: each block of outputs sees its own block of inputs and nothing else."""
    x, weight, options = problem
    groups = options.pop("groups")
    blocks = [
        conv2d(part, weight=kernels, **options)
        for part, kernels in zip(np.split(x, groups, axis=1), np.split(weight, groups), strict=True)
    ]
    same(conv2d(x, weight=weight, groups=groups, **options), np.concatenate(blocks, axis=1))


@quick
@given(problems())
def test_dilation_is_a_kernel_with_holes(problem):
    x, weight, options = problem
    dh, dw = options.pop("dilation")
    kh, kw = weight.shape[2:]
    holes = np.zeros((*weight.shape[:2], dh * (kh - 1) + 1, dw * (kw - 1) + 1), x.dtype)
    holes[:, :, ::dh, ::dw] = weight
    same(conv2d(x, weight=weight, dilation=(dh, dw), **options), conv2d(x, weight=holes, **options))


@quick
@given(problems())
def test_stride_is_every_so_many_of_stride_one(problem):
    x, weight, options = problem
    sh, sw = options.pop("stride")
    same(
        conv2d(x, weight=weight, stride=(sh, sw), **options),
        np.ascontiguousarray(conv2d(x, weight=weight, **options)[:, :, ::sh, ::sw]),
    )


@quick
@given(problems())
def test_padding_is_a_frame_of_zeros(problem):
    x, weight, options = problem
    ph, pw = options.pop("padding")
    framed = np.zeros((*x.shape[:2], x.shape[2] + 2 * ph, x.shape[3] + 2 * pw), x.dtype)
    framed[:, :, ph : ph + x.shape[2], pw : pw + x.shape[3]] = x
    same(conv2d(x, weight=weight, padding=(ph, pw), **options), conv2d(framed, weight=weight, **options))


@quick
@given(problems())
def test_images_do_not_mix(problem):
    """SYS-01."""
    x, weight, options = problem
    together = conv2d(x, weight=weight, **options)
    same(together, np.concatenate([conv2d(x[i : i + 1], weight=weight, **options) for i in range(len(x))]))


@quick
@given(problems())
def test_numbers_mean_both_axes_and_lists_are_pairs(problem):
    x, weight, options = problem
    square = {name: value if name == "groups" else max(value) for name, value in options.items()}
    square["padding"] += max(weight.shape[2:]) * square["dilation"]
    pairs = {name: value if name == "groups" else [value, value] for name, value in square.items()}
    same(conv2d(x, weight=weight, **square), conv2d(x, weight=weight, **pairs))


# ---- the bands of the general case -------------------------------------------------------------------------------


@pytest.mark.parametrize("band", [1, 700, 1000, 1500, 2**40])  # 1 to 8 rows of 6 or 9: the last band is cut short
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"groups": 2, "dilation": 2, "padding": 1}])
def test_bands_change_nothing(monkeypatch, band, options):
    """A last band left out, or a band put into the wrong rows, would show.

    Fresh memory may by chance hold the right answer of an earlier call, so it is filled with NaN.
    """
    x = integers(2, 4, 11, 9)
    weight = integers(6, 4 // options.get("groups", 1), 3, 3, seed=1)
    expected = definitions.conv2d(x, weight, **options)
    monkeypatch.setattr(conv_module, "BAND_ELEMENTS", band)
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float, order="C": np.full(shape, np.nan, dtype, order))
    same(conv2d(x, weight=weight, **options), expected)


def peak_bytes(function):
    tracemalloc.start()
    try:
        result = function()
        return tracemalloc.get_traced_memory()[1], result.nbytes
    finally:
        tracemalloc.stop()


def test_memory_of_the_general_case_is_bounded_by_bands():
    """All columns at once would take nine times the map, 151 MB."""
    x = np.zeros((1, 16, 512, 512), np.float32)
    weight = np.zeros((8, 16, 3, 3), np.float32)
    padded = 16 * 514 * 514 * 4
    peak, output = peak_bytes(lambda: conv2d(x, weight=weight, padding=1))
    assert peak < padded + output + 3 * conv_module.BAND_ELEMENTS * 4


def test_memory_of_a_depthwise_convolution_is_one_image_more_than_its_output():
    x = np.zeros((3, 16, 256, 256), np.float32)
    weight = np.zeros((16, 1, 3, 3), np.float32)
    padded = 3 * 16 * 258 * 258 * 4
    peak, output = peak_bytes(lambda: conv2d(x, weight=weight, padding=1, groups=16))
    assert peak < padded + output + x[0].nbytes + 2**16


# ---- errors ------------------------------------------------------------------------------------------------------

X = np.ones((1, 4, 5, 5))
W = np.ones((6, 4, 3, 3))


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("array-ndim", {"x": X[0]}),
        ("array-ndim", {"x": X[None]}),
        ("array-ndim", {"weight": W[0]}),
        ("conv-channels", {"weight": W[:, :3]}),
        ("conv-channels", {"weight": W[:, :1]}),  # would broadcast
        ("conv-channels", {"groups": 2}),
        ("conv-channels", {"weight": W[:, :2], "groups": 4}),
        ("conv-channels", {"weight": W[:5, :2], "groups": 2}),  # five outputs from two groups
        ("conv-channels", {"weight": np.ones((6, 2, 3, 3)), "groups": 3}),
        ("parameter-shape", {"bias": np.ones(5)}),
        ("parameter-shape", {"bias": np.ones(1)}),  # would broadcast
        ("parameter-shape", {"bias": np.ones((6, 1, 1))}),
        ("conv-kernel", {"weight": np.ones((6, 4, 6, 3))}),
        ("conv-kernel", {"weight": np.ones((6, 4, 3, 6))}),
        ("conv-kernel", {"dilation": 3}),  # 7 > 5
        ("conv-kernel", {"weight": np.ones((6, 4, 0, 1))}),
        ("conv-kernel", {"weight": np.ones((6, 4, 1, 0))}),
        ("conv-kernel", {"x": np.ones((1, 4, 0, 5))}),
        ("argument-range", {"stride": 0}),
        ("argument-range", {"stride": -1}),
        ("argument-range", {"stride": 1.0}),
        ("argument-range", {"stride": True}),
        ("argument-range", {"stride": (1, 0)}),
        ("argument-range", {"stride": (1, 1, 1)}),
        ("argument-range", {"padding": -1}),
        ("argument-range", {"padding": (0, -1)}),
        ("argument-range", {"padding": "same"}),
        ("argument-range", {"dilation": 0}),
        ("argument-range", {"groups": 0}),
        ("argument-range", {"groups": (2, 2)}),
    ],
)
def test_refuses(code, arguments):
    assert_refused(code, conv2d, **({"x": X, "weight": W} | arguments))


def test_largest_kernel_that_fits_is_accepted():
    assert conv2d(X, weight=np.ones((6, 4, 5, 5))).shape == (1, 6, 1, 1)
    assert conv2d(X, weight=W, dilation=2).shape == (1, 6, 1, 1)


@pytest.mark.parametrize(
    ("x", "weight"),
    [(X[:, :0], W[:, :0]), (X, W[:0])],
    ids=["no input channel", "no output channel"],
)
def test_no_channels_are_refused_not_an_accident(x, weight):
    """The docstring promises ShapeError; an accident inside reshape is a plain ValueError."""
    with pytest.raises(ShapeError):
        conv2d(x, weight=weight)
