"""The arithmetic of a plan: each function adds to a program the NumPy calls that compute one operation.

The calls write into given arrays, contiguous where that can be, so that NumPy runs over them as over one long row and
no memory is fetched anew. Layouts are those of :mod:`layout`, multiples those of :mod:`folded`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from npmobilevit.engine.folded import Convolution, TransformerLayer
from npmobilevit.engine.folding import Exponential, Floats
from npmobilevit.engine.layout import PhasePlanes, spread, windows
from npmobilevit.engine.program import Program, pieces

SILU_CHUNK = 65536  # values of which a temporary stays in the processor's cache
KEYS, QUERIES = 256, 128  # whose scores are held at a time: they stay in the processor's cache
FEW_TOKENS = 144  # up to which the scores of all heads are made at once

ZERO, ONE = np.float32(0), np.float32(1)

# Denominators of softmax for which no maximum has to be taken away. Each of its terms is at most 2^60, so that none has
# overflowed, nor has a sum of terms times values below 2^67. Those that became zero, each below 2^-126, are together
# less than a 2^-25th, the rounding of the sum, if there are fewer than 2^41 of them.
SAFE_LOW, SAFE_HIGH = np.float32(2.0**-60), np.float32(2.0**60)


def silu(program: Program, z: Floats, exponential: Exponential) -> None:
    """``z / (1 + f(z))`` in place, which is SiLU on values stored as `exponential` says; z is contiguous."""
    flat = z.reshape(-1)
    temporary = program.scratch.take(min(flat.size, SILU_CHUNK))
    for start in range(0, flat.size, SILU_CHUNK):
        chunk = flat[start : start + SILU_CHUNK]
        term = temporary[: chunk.size]
        program.call(exponential.function, chunk, term)
        program.call(np.add, term, ONE, term)
        program.call(np.divide, chunk, term, chunk)


def relu(x: Floats) -> None:
    """The larger of x and zero, in place."""
    np.maximum(x, ZERO, out=x)


def weighted_sum(rows: Floats, taps: Floats, out: Floats) -> None:
    """``out[c] = sum over i of taps[c, i] * rows[c, i]``: (C, n, L), (C, n) -> (C, L)."""
    np.einsum("cil,ci->cl", rows, taps, out=out)


def depthwise(program: Program, x: Floats, taps: Floats, pitch: int, dilation: int, out: Floats) -> None:
    """Filter each channel by 3x3 taps of a flat map.

    Parameters
    ----------
    x : (C, L + 2 * dilation * (pitch + 1)) array
    taps : (C, 3, 3) array
    pitch : int
        Values from one row of the map to the next.
    dilation : int
    out : (C, L) array, contiguous
    """
    length = out.shape[1]
    columns = [out, program.scratch.take(*out.shape), program.scratch.take(*out.shape)]
    for j, column in enumerate(columns):  # the three rows of a column at a time
        rows = windows(x, j * dilation, 3, dilation * pitch, length)
        program.call(weighted_sum, rows, np.ascontiguousarray(taps[:, :, j]), column)
    for column in columns[1:]:
        program.call(np.add, out, column, out)


def depthwise_stride_2(program: Program, planes: Floats, taps: Floats, pitch: int, out: Floats) -> None:
    """Filter each channel by 3x3 taps at every other pixel, given the four planes of every other pixel.

    Parameters
    ----------
    planes : (2, 2, C, (n + 1) * pitch) array
        As in :class:`layout.PhasePlanes`, from the row above the first of n rows of outputs on.
    taps : (C, 3, 3) array
    pitch : int
    out : (C, n * pitch - 1) array, contiguous
        From the first pixel on; pixel (y, x) is at ``y * pitch + x``.

    Notes
    -----
    Output y has the taps 2y - 1, 2y and 2y + 1: rows y - 1 and y of the odd plane and row y of the even one.
    """
    length = out.shape[1]
    term = program.scratch.take(*out.shape)
    for j in range(3):
        q, offset = (1, 0, 1)[j], (0, 1, 1)[j]
        odd = windows(planes[1, q], offset, 2, pitch, length)
        program.call(weighted_sum, odd, np.ascontiguousarray(taps[:, ::2, j]), term if j else out)
        if j:
            program.call(np.add, out, term, out)
        even = planes[0, q][:, pitch + offset : pitch + offset + length]
        program.call(np.multiply, even, np.ascontiguousarray(taps[:, 1, j, np.newaxis]), term)
        program.call(np.add, out, term, out)


def winograd_input(program: Program, planes: PhasePlanes, channels: slice, transformed: Floats) -> None:
    """Transform the tiles of some channels: ``B^T d B`` of Winograd's F(2x2, 3x3).

    Tile (y, x) reads pixels 2y - 1 ... 2y + 2 of the map: in the planes, row y - 1 of the odd one, row y of the even
    and the odd one, and row y + 1 of the even one; and so for columns. All are shifts of flat arrays.

    Parameters
    ----------
    planes : PhasePlanes
    channels : slice
    transformed : (16, C, length of a plane) array
        Coefficient (i, j), number 4 * i + j, of tile (y, x) where pixel (y, x) is in a plane. Other places hold nothing
        of use.
    """
    even, odd = planes.data[0][:, channels], planes.data[1][:, channels]  # (2, c, length)
    count, length, pitch = even.shape[1], planes.length, planes.pitch
    rows = program.scratch.take(4, 2, count * length)
    for q in range(2):  # the rows, of every column: B^T d
        e, o = (plane[q].reshape(-1) for plane in (even, odd))
        inner = slice(pitch, e.size - pitch)
        above, below = slice(0, e.size - 2 * pitch), slice(2 * pitch, e.size)
        program.call(np.subtract, o[above], o[inner], rows[0, q, inner])
        program.call(np.add, e[inner], o[inner], rows[1, q, inner])
        program.call(np.subtract, o[inner], e[inner], rows[2, q, inner])
        program.call(np.subtract, e[inner], e[below], rows[3, q, inner])
    inner = slice(pitch + 1, count * length - pitch - 1)
    left, right = slice(inner.start - 1, inner.stop - 1), slice(inner.start + 1, inner.stop + 1)
    for i in range(4):  # the columns: (B^T d) B
        e, o = rows[i]
        flat = [transformed[4 * i + j, channels].reshape(-1) for j in range(4)]
        program.call(np.subtract, o[left], o[inner], flat[0][inner])
        program.call(np.add, e[inner], o[inner], flat[1][inner])
        program.call(np.subtract, o[inner], e[inner], flat[2][inner])
        program.call(np.subtract, e[inner], e[right], flat[3][inner])


def winograd_output(program: Program, transformed: Floats, weights: Convolution, channels: slice, out: Floats) -> None:
    """Multiply by the kernels and transform back: ``A^T m A``, for some of the output channels.

    Parameters
    ----------
    transformed : (16, K, L) array
        From :func:`winograd_input`, of the tiles that are wanted.
    weights : Convolution
    channels : slice
    out : (2, 2, c, L) array, contiguous
        Output (p, q) of each tile.
    """
    kernels, bias = weights.kernels[:, channels], weights.bias[channels]
    length = transformed.shape[-1]
    coefficients = program.scratch.take(16, kernels.shape[1], length)
    program.call(np.matmul, kernels, transformed, coefficients)
    program.call(np.add, coefficients[5], bias, coefficients[5])  # number (1, 1) is once in each output
    m = coefficients.reshape(4, -1)  # A^T m: rows
    rows = program.scratch.take(2, 4, m.shape[1] // 4)
    first, second = (row.reshape(-1) for row in rows)
    program.call(np.add, m[0], m[1], first)
    program.call(np.add, first, m[2], first)
    program.call(np.subtract, m[1], m[2], second)
    program.call(np.subtract, second, m[3], second)
    for p in range(2):  # (A^T m) A: columns
        first, second = (out[p, q].reshape(-1) for q in range(2))
        program.call(np.add, rows[p, 0], rows[p, 1], first)
        program.call(np.add, first, rows[p, 2], first)
        program.call(np.subtract, rows[p, 1], rows[p, 2], second)
        program.call(np.subtract, second, rows[p, 3], second)


class Tokens:
    """The tokens of some of the four pixel positions, and the working memory of a transformer over them.

    Each position is a sequence of its own: token t of position p is column ``p * L + t``. Products are made of these
    T = positions * L columns alone. Other operations run over whole arrays, whose rows are longer (:func:`spread`):
    what is left over at their ends holds numbers that no operation minds.

    Parameters
    ----------
    program : Program
    width : int
        D.
    positions, length : int
        How many sequences, and L, their tokens.

    Attributes
    ----------
    stream : (D, T') array
        The residual stream, centred.
    normed : (D + 1, T') array
        The stream after a layer normalisation without weights, and a row of ones.
    """

    def __init__(self, program: Program, width: int, positions: int, length: int) -> None:
        self.program = program
        self.positions, self.length = positions, length
        self.count = positions * length
        self.stream = self.array(width)
        self.normed = self.array(width + 1)
        self.sum = self.array(width)
        self.factor = self.array(1)[0]
        program.call(self.normed[-1].fill, ONE)

    def array(self, rows: int) -> Floats:
        """Working memory (rows, T') with ones at the ends of its rows."""
        array = self.program.scratch.take(rows, spread(self.count))
        if array.shape[1] > self.count:
            self.program.call(array[:, self.count :].fill, ONE)
        return array

    def used(self, x: Floats) -> Floats:
        """The columns that are tokens, (rows, T)."""
        return x[:, : self.count]

    def by_position(self, x: Floats) -> Floats:
        """The tokens of x cut into sequences: (positions, rows, L)."""
        return self.used(x).reshape(len(x), self.positions, self.length).transpose(1, 0, 2)

    def by_head(self, x: Floats, num_heads: int) -> Floats:
        """The rows of x cut into heads, the tokens into sequences: (positions, heads, rows of a head, L)."""
        return self.used(x).reshape(num_heads, -1, self.positions, self.length).transpose(2, 0, 1, 3)


def normalize(program: Program, tokens: Tokens, eps: float) -> None:
    """Layer normalisation without weights of a stream that is centred: divide each token by its root mean square."""
    stream, factor = tokens.stream, tokens.factor
    program.call(_sum_of_squares, stream, factor)
    program.call(np.multiply, factor, np.float32(1 / len(stream)), factor)
    program.call(np.add, factor, np.float32(eps), factor)
    program.call(np.sqrt, factor, factor)
    program.call(np.divide, ONE, factor, factor)
    program.call(np.multiply, stream, factor, tokens.normed[:-1])


def _sum_of_squares(x: Floats, out: Floats) -> None:
    np.einsum("dt,dt->t", x, x, out=out)


class LayerBuffers(NamedTuple):
    """Where the layers of a transformer keep what they make on the way."""

    projected: Floats  # (3 * D + h, T'): query, key and value
    heads: Floats  # (D + h, T'): what each head found, and its denominators
    hidden: Floats  # (F + 1, T'): inside the feed-forward layer, and a row of ones


def transformer(
    program: Program, tokens: Tokens, layers: Sequence[TransformerLayer], num_heads: int, eps: float, f: Exponential
) -> None:
    """All layers and the last normalisation, whose result is ``tokens.normed``."""
    width, inner = len(tokens.stream), len(layers[0].intermediate)
    buffers = LayerBuffers(
        tokens.array(3 * width + num_heads), tokens.array(width + num_heads), tokens.array(inner + 1)
    )
    program.call(buffers.hidden[-1].fill, ONE)
    normed, projected, heads, hidden, total = map(tokens.used, (tokens.normed, *buffers, tokens.sum))
    for layer in layers:
        with program.scratch.frame():
            normalize(program, tokens, eps)
            program.call(np.matmul, layer.query_key_value, normed, projected)
            attention(program, tokens, buffers, num_heads, f)
            program.call(np.matmul, layer.attention_output, heads, total)
            program.call(np.add, tokens.stream, tokens.sum, tokens.stream)
            normalize(program, tokens, eps)
            program.call(np.matmul, layer.intermediate, normed, hidden[:-1])
            silu(program, buffers.hidden[:-1], f)
            program.call(np.matmul, layer.output, hidden, total)
            program.call(np.add, tokens.stream, tokens.sum, tokens.stream)
    normalize(program, tokens, eps)


class Heads(NamedTuple):
    """What the heads of all sequences look for, look at and find: (positions, heads, d or d + 1, L)."""

    query: Floats
    key: Floats
    value: Floats
    found: Floats


class ScoreBuffers(NamedTuple):
    """Memory for scores, and for the part of an average that some of the keys make."""

    scores: Floats
    part: Floats


def attention(program: Program, tokens: Tokens, buffers: LayerBuffers, num_heads: int, f: Exponential) -> None:
    """Each head's average of the values, and ones where its denominators were; see :func:`attend`."""
    width = (len(buffers.projected) - num_heads) // 3
    rows = (
        buffers.projected[:width],
        buffers.projected[width : 2 * width],
        buffers.projected[2 * width :],
        buffers.heads,
    )
    heads = Heads(*(tokens.by_head(x, num_heads) for x in rows))
    length = tokens.length
    if length <= FEW_TOKENS:
        scores = program.scratch.take(tokens.positions * num_heads * length**2)
    else:
        scores = program.scratch.take(max(KEYS * QUERIES, length))
    memory = ScoreBuffers(scores, program.scratch.take((width // num_heads + 1) * QUERIES))
    whole = buffers.heads.reshape(num_heads, width // num_heads + 1, -1)
    program.call(attend, heads, whole, memory, program.scratch.take(num_heads, 1, whole.shape[2]), f)


def attend(heads: Heads, whole: Floats, memory: ScoreBuffers, inverse: Floats, f: Exponential) -> None:
    """``softmax(scores)`` averages of the values, with the denominators that the last value of each head makes.

    The exponentials are made without taking a maximum away, of which softmax is independent. Where a denominator
    shows that this was not safe, all is done again with the maximum taken away.

    Parameters
    ----------
    heads : Heads
    whole : (heads, d + 1, T') array
        What is found, with the ends of its rows; the last of each head is the denominator.
    memory : ScoreBuffers
    inverse : (heads, 1, T') array
        Working memory.
    f : Exponential
    """
    averages(heads, memory, f, stable=False)
    denominators = whole[:, -1:]
    if not (denominators.min() >= SAFE_LOW and denominators.max() <= SAFE_HIGH):  # nor does NaN lie between
        averages(heads, memory, f, stable=True)
    np.divide(ONE, denominators, inverse)
    np.multiply(whole, inverse, whole)


def averages(heads: Heads, memory: ScoreBuffers, f: Exponential, *, stable: bool) -> None:
    """``value @ f(key^T @ query)`` of every head and sequence, of `stable` scores less their maximum."""
    positions, count, _, length = heads.query.shape
    if length <= FEW_TOKENS:  # all in one call: a call costs about as much as the work of one head
        everything = memory.scores.reshape(positions, count, length, length)
        weighted_values(heads, everything, heads.found, f, stable=stable)
        return
    keys_at_once, queries_at_once = KEYS, QUERIES
    if stable:  # a maximum is one over all keys
        keys_at_once, queries_at_once = length, max(1, KEYS * QUERIES // length)
    for at in itertools.product(range(positions), range(count)):
        head = Heads(*(x[at] for x in heads))
        for start, stop in pieces(length, queries_at_once):
            query, found = head.query[:, start:stop], head.found[:, start:stop]
            for first, last in pieces(length, keys_at_once):
                part = Heads(query, head.key[:, first:last], head.value[:, first:last], found)
                scores = memory.scores[: (last - first) * (stop - start)].reshape(last - first, stop - start)
                if first == 0:
                    weighted_values(part, scores, found, f, stable=stable)
                else:
                    term = memory.part[: found.size].reshape(found.shape)
                    weighted_values(part, scores, term, f, stable=stable)
                    np.add(found, term, found)


def weighted_values(heads: Heads, scores: Floats, out: Floats, f: Exponential, *, stable: bool) -> None:
    """``value @ f(key^T @ query)``: (..., d, queries), (..., d, keys), (..., d + 1, keys) -> (..., d + 1, queries).

    The scores, (..., keys, queries), are overwritten.
    """
    np.matmul(heads.key.swapaxes(-1, -2), heads.query, scores)
    if stable:
        np.subtract(scores, scores.max(axis=-2, keepdims=True), scores)
    f.function(scores, scores)
    np.matmul(heads.value, scores, out)
