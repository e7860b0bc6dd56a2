"""Each operation alone, on memory that held NaN before, against the readable one in float64."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit import ops
from npmobilevit.engine import folding, kernels
from npmobilevit.engine.crews import arithmetic
from npmobilevit.engine.folded import Convolution
from npmobilevit.engine.folding import Exponential
from npmobilevit.engine.layout import FlatMap, PhasePlanes, every_other
from npmobilevit.engine.program import Program, Scratch, run

quick = settings(derandomize=True, deadline=None, max_examples=25)

EXP = Exponential(np.exp, -1.0)
EXP2 = Exponential(np.exp2, -math.log2(math.e))
EXPONENTIALS = pytest.mark.parametrize("exponential", [EXP, EXP2], ids=["exp", "exp2"])

seeds = st.integers(0, 1000)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def nans(*shape: int) -> np.ndarray:
    return np.full(shape, np.nan, np.float32)


def zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.float32)


def made(emit: Callable[[Program], None]) -> None:
    """Make a program, and run it in working memory that holds NaN."""
    program = Program(Scratch(nans))
    emit(program)
    with arithmetic():
        run(tuple(program.calls))


def assert_close(actual: np.ndarray, expected: np.ndarray, within: float = 2e-6) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=within * np.abs(expected).max())


@EXPONENTIALS
@pytest.mark.parametrize("size", [1, kernels.SILU_CHUNK, kernels.SILU_CHUNK + 1, 2 * kernels.SILU_CHUNK + 7])
def test_silu_of_any_length(exponential, size):
    u = 4 * normal(size)
    z = (exponential.scale * u).astype(np.float32)
    made(lambda program: kernels.silu(program, z, exponential))
    assert_close(z, exponential.scale * ops.silu(u.astype(np.float64)))


@EXPONENTIALS
def test_silu_of_values_whose_exponential_overflows(exponential):
    u = np.array([-1e30, -1000, -100, 0, 100, 1000, 1e30], np.float32)
    z = (exponential.scale * u).astype(np.float32)
    made(lambda program: kernels.silu(program, z, exponential))
    np.testing.assert_allclose(z / exponential.scale, [0, 0, 0, 0, 100, 1000, 1e30], rtol=1e-5, atol=1e-30)


def test_relu():
    x = np.array([-2, 0, 3], np.float32)
    kernels.relu(x)
    assert x.tolist() == [0, 0, 3]


@quick
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), seeds)
def test_depthwise_is_a_convolution_of_each_channel(channels, height, width, dilation, seed):
    x = FlatMap(channels, height, width, dilation, zeros)
    x.pixels[...] = normal(channels, height, width, seed=seed)
    taps = normal(channels, 3, 3, seed=seed)
    start, stop = x.span(0, height)
    reach = dilation * (x.pitch + 1)
    out = nans(channels, stop - start)
    around = x.data[:-1, start - reach : stop + reach]
    made(lambda program: kernels.depthwise(program, around, taps, x.pitch, dilation, out))
    pixels = np.zeros((channels, height * x.pitch), np.float32)
    pixels[:, : stop - start] = out
    options = {"padding": dilation, "dilation": dilation, "groups": channels}
    x64 = x.pixels[np.newaxis].astype(np.float64)
    expected = ops.conv2d(x64, weight=taps[:, np.newaxis].astype(np.float64), **options)[0]
    assert_close(pixels.reshape(channels, height, x.pitch)[:, :, :width], expected)


@quick
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), seeds)
def test_depthwise_of_stride_two(channels, height, width, seed):
    planes = PhasePlanes(channels, height, width, zeros)
    x, taps = normal(channels, height, width, seed=seed), normal(channels, 3, 3, seed=seed)
    for p in range(2):
        for q in range(2):
            planes.pixels(p, q)[...] = x[:, p::2, q::2]
    given_rows = np.ascontiguousarray(planes.data[..., : (planes.rows + 1) * planes.pitch])
    out = nans(channels, planes.rows * planes.pitch - 1)
    made(lambda program: kernels.depthwise_stride_2(program, given_rows, taps, planes.pitch, out))
    pixels = np.pad(out, ((0, 0), (0, 1))).reshape(channels, planes.rows, planes.pitch)[:, :, : planes.columns]
    x64, taps64 = x[np.newaxis].astype(np.float64), taps[:, np.newaxis].astype(np.float64)
    assert_close(pixels, ops.conv2d(x64, weight=taps64, stride=2, padding=1, groups=channels)[0])


@quick
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.integers(1, 3), seeds)
def test_winograd_in_and_out_is_a_convolution(inputs, outputs, height, width, workers, seed):
    """In parts of the channels, as workers share them."""
    planes = PhasePlanes(inputs, height, width, zeros)
    x, weight, bias = (
        normal(*shape, seed=seed) for shape in ((inputs, height, width), (outputs, inputs, 3, 3), (outputs,))
    )
    for p in range(2):
        for q in range(2):
            planes.pixels(p, q)[...] = x[:, p::2, q::2]
    tiles = nans(16, inputs, planes.length)
    start, stop = planes.span
    layer = Convolution(folding.winograd(weight.astype(np.float64)), bias[:, np.newaxis])
    y = nans(outputs, height, width)

    def convolve(program: Program) -> None:
        for first in range(0, inputs, workers):
            kernels.winograd_input(program, planes, slice(first, min(first + workers, inputs)), tiles)
        for first in range(0, outputs, workers):
            channels = slice(first, min(first + workers, outputs))
            out = nans(2, 2, channels.stop - first, stop - start)
            kernels.winograd_output(program, tiles[:, :, start:stop], layer, channels, out)
            for p in range(2):
                for q in range(2):
                    size = every_other(height, p), every_other(width, q)
                    program.call(np.copyto, y[channels, p::2, q::2], planes.of_tiles(out[p, q], *size))

    made(convolve)
    x64 = x[np.newaxis].astype(np.float64)
    expected = ops.conv2d(x64, weight=weight.astype(np.float64), bias=bias.astype(np.float64), padding=1)[0]
    assert_close(y, expected, 1e-5)


# The transformer


def tokens_of(program: Program, stream: np.ndarray, positions: int) -> kernels.Tokens:
    """(D, positions * L) -> the tokens, and the call that sets their stream."""
    width, total = stream.shape
    tokens = kernels.Tokens(program, width, positions, total // positions)
    program.call(np.copyto, tokens.used(tokens.stream), stream)
    return tokens


@pytest.mark.parametrize(("positions", "length"), [(1, 1), (1, 7), (4, 16), (2, 64)])
def test_a_centred_stream_is_normalised(positions, length):
    x = 3 * normal(10, positions * length) + 1
    found = {}

    def emit(program: Program) -> None:
        found["tokens"] = tokens = tokens_of(program, x - x.mean(axis=0), positions)
        kernels.normalize(program, tokens, 0.1)

    made(emit)
    normed = found["tokens"].used(found["tokens"].normed)
    expected = ops.layer_norm(x.T.astype(np.float64).copy(), weight=np.ones(10), bias=np.zeros(10), eps=0.1).T
    assert_close(normed[:-1], expected)
    assert (normed[-1] == 1).all()


def attended(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, num_heads: int, positions: int, f: Exponential
) -> np.ndarray:
    """(D, T) each -> (D + h, T): what :func:`kernels.attention` finds, and its denominators divided by themselves."""
    width, total = query.shape
    ones = np.ones((num_heads, 1, total), np.float32)
    values = np.concatenate([value.reshape(num_heads, -1, total), ones], axis=1).reshape(-1, total)
    found = np.zeros((width + num_heads, total), np.float32)

    def emit(program: Program) -> None:
        tokens = kernels.Tokens(program, width, positions, total // positions)
        memory = kernels.LayerBuffers(*(tokens.array(rows) for rows in (3 * width + num_heads, width + num_heads, 1)))
        program.call(np.copyto, tokens.used(memory.projected), np.concatenate([query, key, values]))
        kernels.attention(program, tokens, memory, num_heads, f)
        program.call(np.copyto, found, tokens.used(memory.heads))

    made(emit)
    return found


def softmax_of(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, num_heads: int, positions: int, base: float
) -> np.ndarray:
    """The same in float64, a head and a sequence at a time, with the maximum taken away."""
    out = []
    by_head = (x.astype(np.float64).reshape(num_heads, -1, x.shape[1]) for x in (query, key, value))
    for q, k, v in zip(*by_head, strict=True):
        found = []
        for sequence in np.split(np.arange(q.shape[1]), positions):
            scores = k[:, sequence].T @ q[:, sequence] * math.log(base)  # (keys, queries)
            weights = np.exp(scores - scores.max(axis=0))
            found.append(v[:, sequence] @ (weights / weights.sum(axis=0)))
        out.append(np.concatenate([np.concatenate(found, axis=1), np.ones((1, q.shape[1]))]))
    return np.concatenate(out)


@pytest.fixture
def careful(monkeypatch) -> list[int]:
    """Grows with each time that all is done again with the maximum taken away."""
    times: list[int] = []
    averages = kernels.averages

    def counted(*arguments, stable):
        if stable:
            times.append(1)
        averages(*arguments, stable=stable)

    monkeypatch.setattr(kernels, "averages", counted)
    return times


# below and above the number of tokens whose scores are made at once, and of those that are looked at in blocks
LENGTHS = [
    (4, 1),
    (4, 5),
    (1, kernels.FEW_TOKENS),
    (2, kernels.FEW_TOKENS + 3),
    (1, kernels.KEYS + kernels.QUERIES + 9),
]


@EXPONENTIALS
@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize(("positions", "length"), LENGTHS)
def test_attention_in_ordinary_cases_takes_no_maximum_away(exponential, positions, length, num_heads, careful):
    query, key, value = (normal(2 * num_heads, positions * length, seed=seed) for seed in range(3))
    heads = attended(query, key, value, num_heads, positions, exponential)
    assert_close(heads, softmax_of(query, key, value, num_heads, positions, exponential.function(1.0)))
    assert not careful


# name: what whole numbers of queries and keys, whose scores are exact, are multiplied by
EXTREMES = {
    "overflows": 40,
    "overflows by far": 1000,
    "underflows": -1000,
    "underflows to terms that are no normal": -22,
}


@EXPONENTIALS
@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize(("positions", "length"), LENGTHS)
def test_attention_of_scores_whose_exponential(exponential, positions, length, name, careful):
    rng = np.random.default_rng(length)
    query, key = (rng.integers(1, 3, (4, positions * length)).astype(np.float32) for _ in range(2))
    query *= EXTREMES[name]
    value = normal(4, positions * length)
    heads = attended(query, key, value, 2, positions, exponential)
    assert_close(heads, softmax_of(query, key, value, 2, positions, exponential.function(1.0)))
    assert careful


@EXPONENTIALS
def test_one_query_is_enough_to_take_care(exponential, careful):
    query, key, value = (normal(6, 200, seed=seed) for seed in range(3))
    query[:, 77] *= 1e4
    key[:, 5] = np.sign(query[:, 77])
    heads = attended(query, key, value, 3, 1, exponential)
    assert_close(heads, softmax_of(query, key, value, 3, 1, exponential.function(1.0)), 1e-5)
    assert len(careful) == 1


def test_nan_stays_nan_and_is_no_reason_to_go_on_forever(careful):
    query, key, value = (normal(4, 8, seed=seed) for seed in range(3))
    query[0, 3] = np.nan
    heads = attended(query, key, value, 2, 1, EXP)
    assert np.isnan(heads[:3, 3]).all()
    assert np.isfinite(heads[3:]).all()
    assert careful
