"""The blocks of the network as stages of a plan, bottom-up like :mod:`npmobilevit.layers`.

A block divides its work among the workers by rows, channels or pixel positions, such that within a stage none needs
what another makes. Its buffers stay for the whole plan, those in between are scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from npmobilevit import ops
from npmobilevit.engine import kernels
from npmobilevit.engine.folded import (
    Classifier,
    Convolution,
    Dilated,
    InvertedResidual,
    MobileViTBlock,
    SegmentationHead,
)
from npmobilevit.engine.folding import Exponential, Floats
from npmobilevit.engine.layout import FlatMap, PhasePlanes, every_other, spread
from npmobilevit.engine.program import Allocate, Arena, Program, Scratch, Stage, from_heap, parts

POSITIONS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of the pixels of a patch, in the order of its sequences
BAND_VALUES = 1 << 19  # of the widest map inside a block that are made at a time: 2 MiB


class Builder:
    """Collects the stages of a plan.

    Parameters
    ----------
    workers : int
    exponential : Exponential
    shared : Allocate
        Obtains memory that all workers see.
    """

    def __init__(self, workers: int, exponential: Exponential, shared: Allocate) -> None:
        self.workers = workers
        self.exponential = exponential
        self.allocate = Arena(shared).zeros
        self.stages: list[Stage] = []
        self._scratch = [Scratch(from_heap) for _ in range(workers)]

    def array(self, *shape: int) -> Floats:
        """An array of zeros that stays."""
        return self.allocate(int(np.prod(shape))).reshape(shape)

    def map(self, channels: int, height: int, width: int, pad: int = 1) -> FlatMap:
        """A map of zeros that stays."""
        return FlatMap(channels, height, width, pad, self.allocate)

    def stage(self, name: str, length: int, emit: Callable[[Program, int, int], None]) -> None:
        """Add a stage whose work 0..length is divided among the workers: ``emit(program, first, last)``."""
        programs = []
        for scratch, (first, last) in zip(self._scratch, parts(length, self.workers), strict=True):
            program = Program(scratch)
            if first < last:
                emit(program, first, last)
            scratch.release()
            programs.append(tuple(program.calls))
        self.stages.append(Stage(name, tuple(programs)))


def bands(first: int, last: int, values_of_a_row: int) -> list[tuple[int, int]]:
    """Cut rows first..last in bands of nearly the same height that keep within BAND_VALUES, if a row does."""
    height = last - first
    count = min(height, -(-height * values_of_a_row // BAND_VALUES))
    return [(first + start, first + stop) for start, stop in parts(height, count)]


def stem(build: Builder, name: str, weights: Floats, pixels: Floats) -> FlatMap:
    """3x3 convolution of stride 2, batch normalisation, SiLU. (C, H, W) -> map of half the size, rounded up."""
    channels, height, width = pixels.shape
    out = build.map(len(weights), -(-height // 2), -(-width // 2))

    def emit(program: Program, first: int, last: int) -> None:
        for start, stop in bands(first, last, weights.shape[1] * out.pitch):
            emit_band(program, start, stop)

    def emit_band(program: Program, first: int, last: int) -> None:
        planes = phase_band(program, pixels, first, last)  # (2, 2, C, (n + 1) * P)
        start, stop = out.span(first, last)
        length = stop - start
        patches = program.scratch.take(9 * channels + 1, length)
        program.call(patches[-1].fill, kernels.ONE)
        for i in range(3):  # row 2y - 1 is row y - 1 of the odd plane, rows 2y and 2y + 1 are row y of the planes
            for j in range(3):
                offset = (out.pitch if i else 0) + (1 if j else 0)
                tap = planes[(i + 1) % 2, (j + 1) % 2][:, offset : offset + length]
                row = (3 * i + j) * channels
                program.call(np.copyto, patches[row : row + channels], tap)
        y = program.scratch.take(len(weights), length)
        kernels.product(program, weights, patches, y)
        kernels.silu(program, y, build.exponential)
        program.call(np.copyto, out.data[:-1, start:stop], y)
        program.call(out.margins(first, last).fill, kernels.ZERO)

    build.stage(name, out.height, emit)
    return out


def phase_band(program: Program, pixels: Floats, first: int, last: int) -> Floats:
    """Planes of every other pixel for the outputs first..last of a stride of two.

    (C, H, W) -> (2, 2, C, (n + 1) * P): from row `first - 1` of the planes on, each row behind a zero.
    """
    channels, height, width = pixels.shape
    pitch = -(-width // 2) + 1
    planes = program.scratch.take(2, 2, channels, last - first + 1, pitch)
    program.call(planes.fill, kernels.ZERO)
    for p in range(2):
        rows = range(max(first - 1, 0), min(last, every_other(height, p)))  # that the plane has
        for q in range(2):
            columns = every_other(width, q)
            to = planes[p, q, :, rows.start - first + 1 : rows.stop - first + 1, 1 : 1 + columns]
            program.call(np.copyto, to, pixels[:, 2 * rows.start + p : 2 * rows.stop : 2, q::2])
    return planes.reshape(2, 2, channels, -1)


def inverted_residual(build: Builder, name: str, weights: InvertedResidual, x: FlatMap) -> FlatMap:
    """Widen, filter each channel, narrow, in bands of rows; the wide maps never exist as a whole."""
    if weights.stride == 1:
        out = build.map(len(weights.reduce), x.height, x.width, x.pad)
        expand = _expand_and_filter
    else:
        out = build.map(len(weights.reduce), -(-x.height // 2), -(-x.width // 2))
        expand = _expand_and_filter_stride_2
    width = len(weights.expand) * weights.stride**2

    def emit(program: Program, first: int, last: int) -> None:
        for start, stop in bands(first, last, width * out.pitch):
            emit_band(program, start, stop)

    def emit_band(program: Program, first: int, last: int) -> None:
        start, stop = out.span(first, last)
        filtered = program.scratch.take(len(weights.expand) + 1, stop - start)
        program.call(filtered[-1].fill, kernels.ONE)
        expand(program, weights, x, first, last, filtered[:-1], build.exponential)
        program.call(np.add, filtered[:-1], weights.bias, filtered[:-1])
        kernels.silu(program, filtered[:-1], build.exponential)
        y = out.data[:-1, start:stop]
        kernels.product(program, weights.reduce, filtered, y)
        if weights.residual:
            program.call(np.add, y, x.data[:-1, start:stop], y)
        program.call(out.margins(first, last).fill, kernels.ZERO)

    build.stage(name, out.height, emit)
    return out


def _expand_and_filter(
    program: Program, weights: InvertedResidual, x: FlatMap, first: int, last: int, out: Floats, f: Exponential
) -> None:
    """The wide map of the rows around a band, and its filtered rows."""
    start, stop = x.span(first, last)
    reach = weights.dilation * (x.pitch + 1)
    wide = program.scratch.take(len(weights.expand), stop - start + 2 * reach)
    kernels.product(program, weights.expand, x.data[:, start - reach : stop + reach], wide)
    kernels.silu(program, wide, f)
    kernels.depthwise(program, wide, weights.taps, x.pitch, weights.dilation, out)


def _expand_and_filter_stride_2(
    program: Program, weights: InvertedResidual, x: FlatMap, first: int, last: int, out: Floats, f: Exponential
) -> None:
    """The wide map of every other pixel in four planes, and its filtered rows at half the size.

    The planes hold the constant channel of the map, too: zeros in the margin stay zeros in the wide map.
    """
    planes = phase_band(program, x.pixels_and_constant, first, last)
    wide = program.scratch.take(2, 2, len(weights.expand), planes.shape[-1])
    kernels.product(program, weights.expand, planes, wide)
    kernels.silu(program, wide, f)
    kernels.depthwise_stride_2(program, wide, weights.taps, -(-x.width // 2) + 1, out)


def mobilevit_block(build: Builder, name: str, weights: MobileViTBlock, x: FlatMap, pad: int) -> FlatMap:
    """What follows the downsampling block: local convolution, transformer over patches, fusion.

    The fusion reads a map of 2 C channels, of which the first half is `x` and the second is what the transformer made;
    no other copy of the two is put side by side. Its transformed tiles of `x` are those of the local convolution.
    """
    channels, height, width = x.channels, x.height, x.width
    planes = PhasePlanes(2 * channels, height, width, build.allocate)
    tiles = build.array(16, 2 * channels, planes.length)
    local = build.array(2, 2, channels, planes.rows * planes.pitch)

    def take_in(program: Program, first: int, last: int) -> None:
        for p, q in POSITIONS:
            program.call(np.copyto, planes.pixels(p, q)[first:last], x.pixels[first:last, p::2, q::2])
        kernels.winograd_input(program, planes, slice(first, last), tiles)

    def fuse_in(program: Program, first: int, last: int) -> None:
        kernels.winograd_input(program, planes, slice(channels + first, channels + last), tiles)

    start, stop = planes.span
    wanted = tiles[:, :, start:stop]
    build.stage(f"{name}.conv_kxk: tiles", channels, take_in)
    _local_convolution(build, f"{name}.conv_kxk", weights.local, wanted[:, :channels], local)
    if height % 2 or width % 2:
        _transform_resized(build, f"{name}.transformer", weights, local, planes)
    else:
        _transform(build, f"{name}.transformer", weights, local, planes)
    build.stage(f"{name}.fusion: tiles", channels, fuse_in)
    out = build.map(channels, height, width, pad)
    _fusion(build, f"{name}.fusion", weights.fusion, wanted, planes, out)
    return out


def _local_convolution(build: Builder, name: str, weights: Convolution, tiles: Floats, out: Floats) -> None:
    """(16, C, L) tiles -> (2, 2, C, L): the outputs of each pixel position."""

    def emit(program: Program, first: int, last: int) -> None:
        y = out[:, :, first:last]
        kernels.winograd_output(program, tiles, weights, slice(first, last), y)
        for block in [y] if y.flags.c_contiguous else [y[p, q] for p, q in POSITIONS]:
            kernels.silu(program, block, build.exponential)

    build.stage(name, out.shape[2], emit)


def _fusion(build: Builder, name: str, weights: Convolution, tiles: Floats, planes: PhasePlanes, out: FlatMap) -> None:
    """(16, 2 * C, L) tiles -> map (C, H, W)."""

    def emit(program: Program, first: int, last: int) -> None:
        y = program.scratch.take(2, 2, last - first, tiles.shape[-1])
        kernels.winograd_output(program, tiles, weights, slice(first, last), y)
        kernels.silu(program, y, build.exponential)
        for p, q in POSITIONS:
            to = out.pixels[first:last, p::2, q::2]
            program.call(np.copyto, to, planes.of_tiles(y[p, q], *to.shape[1:]))

    build.stage(name, out.channels, emit)


def _transform(build: Builder, name: str, weights: MobileViTBlock, local: Floats, planes: PhasePlanes) -> None:
    """The transformer, where patches fill the map: the planes are its sequences. Writes the planes' second half."""
    channels = local.shape[2]
    size = (planes.rows, planes.columns)

    def emit(program: Program, first: int, last: int) -> None:
        positions = POSITIONS[first:last]
        given = [planes.of_tiles(local[p, q], *size) for p, q in positions]
        y, sequences = _patches_transformed(program, weights, build.exponential, given)
        kernels.silu(program, y, build.exponential)
        for (p, q), sequence in zip(positions, sequences, strict=True):
            program.call(np.copyto, planes.pixels(p, q)[channels:], sequence.reshape(channels, *size))

    build.stage(name, 4, emit)


def _transform_resized(build: Builder, name: str, weights: MobileViTBlock, local: Floats, planes: PhasePlanes) -> None:
    """The transformer, where the map is enlarged to whole patches, and reduced again.

    Resizing is linear over pixels, and its weights sum to one; 1x1 convolutions are affine over channels. So each may
    come first, and the map is resized where it has fewer channels: before ``conv_1x1`` and after ``conv_projection``.
    """
    channels = local.shape[2]
    size, grid = (planes.height, planes.width), (2 * planes.rows, 2 * planes.columns)
    patches = build.array(4, channels, planes.rows, planes.columns)
    there, back = resizing(size, grid), resizing(grid, size)

    def enlarge(program: Program, first: int, last: int) -> None:
        dense = program.scratch.take(last - first, *size)
        for p, q in POSITIONS:
            to = dense[:, p::2, q::2]
            program.call(np.copyto, to, planes.of_tiles(local[p, q, first:last], *to.shape[1:]))
        wide = _resized(program, dense, there)
        for position, (p, q) in enumerate(POSITIONS):
            program.call(np.copyto, patches[position, first:last], wide[:, p::2, q::2])

    def transform(program: Program, first: int, last: int) -> None:
        mine = patches[first:last]
        _, sequences = _patches_transformed(program, weights, build.exponential, list(mine))
        for sequence, to in zip(sequences, mine, strict=True):
            program.call(np.copyto, to, sequence.reshape(to.shape))

    def reduce(program: Program, first: int, last: int) -> None:
        wide = program.scratch.take(last - first, *grid)
        for position, (p, q) in enumerate(POSITIONS):
            program.call(np.copyto, wide[:, p::2, q::2], patches[position, first:last])
        dense = _resized(program, wide, back)
        kernels.silu(program, dense, build.exponential)
        for p, q in POSITIONS:
            program.call(np.copyto, planes.pixels(p, q)[channels + first : channels + last], dense[:, p::2, q::2])

    build.stage(f"{name}: enlarge", channels, enlarge)
    build.stage(name, 4, transform)
    build.stage(f"{name}: reduce", channels, reduce)


def _patches_transformed(
    program: Program, weights: MobileViTBlock, f: Exponential, given: list[Floats]
) -> tuple[Floats, list[Floats]]:
    """Embed the pixels of some positions, transform them, and project them to channels, before the activation.

    Each (C, rows, columns) -> all as columns (C, T), and the part of each position in it (C, L).
    """
    channels, rows, columns = given[0].shape
    compact = program.scratch.take(len(given), channels, rows * columns)
    for x, to in zip(given, compact, strict=True):
        program.call(np.copyto, to.reshape(x.shape), x)
    tokens = kernels.Tokens(program, len(weights.embed), len(given), rows * columns)
    program.call(np.matmul, weights.embed, compact, tokens.by_position(tokens.stream))
    kernels.transformer(program, tokens, weights.layers, weights.num_heads, weights.eps, f)
    y = tokens.array(channels)
    program.call(np.matmul, weights.project, tokens.used(tokens.normed), tokens.used(y))
    return y, list(tokens.by_position(y))


def resizing(size: tuple[int, int], other: tuple[int, int]) -> tuple[Floats, Floats]:
    """The matrices (H', H) and (W, W') of a bilinear resize: what it makes of the unit vectors."""
    rows, columns = (
        ops.resize_bilinear(np.eye(n, dtype=np.float32)[np.newaxis, np.newaxis], (m, n))[0, 0]
        for n, m in zip(size, other, strict=True)
    )
    return rows, np.ascontiguousarray(columns.T)


def _resized(program: Program, x: Floats, matrices: tuple[Floats, Floats]) -> Floats:
    """(C, H, W) -> (C, H', W')."""
    rows, columns = matrices
    wide = program.scratch.take(len(x), x.shape[1], columns.shape[1])
    out = program.scratch.take(len(x), len(rows), columns.shape[1])
    program.call(np.matmul, x, columns, wide)
    program.call(np.matmul, rows, wide, out)
    return out


class Pooled(NamedTuple):
    """What the classifier makes, as multiples like all outputs of SiLU but the logits."""

    features: Floats  # (M, H, W)
    mean: Floats  # (M,)
    logits: Floats | None  # (labels,)


def classifier(build: Builder, weights: Classifier, x: FlatMap) -> Pooled:
    """Widening 1x1 convolution, average over the pixels, linear layer."""
    start, _ = x.span(0, x.height)
    length = x.height * x.pitch  # the zeros behind the last row, too
    wide = build.array(len(weights.expand), length)
    mean = build.array(len(weights.expand))
    logits = None if weights.linear is None else build.array(len(weights.linear.weight))

    def expand(program: Program, first: int, last: int) -> None:
        y = wide[first:last]
        program.call(np.matmul, weights.expand[first:last], x.data[:, start : start + length], y)
        kernels.silu(program, y, build.exponential)  # zero stays zero: the margin adds nothing to the sum
        program.call(np.add.reduce, y, 1, None, mean[first:last])
        program.call(np.multiply, mean[first:last], np.float32(1 / (x.height * x.width)), mean[first:last])

    def classify(program: Program, first: int, last: int) -> None:
        assert logits is not None
        assert weights.linear is not None
        program.call(np.matmul, weights.linear.weight[first:last], mean, logits[first:last])
        program.call(np.add, logits[first:last], weights.linear.bias[first:last], logits[first:last])

    build.stage("conv_1x1_exp", len(weights.expand), expand)
    if logits is not None:
        build.stage("classifier", len(logits), classify)
    return Pooled(wide.reshape(-1, x.height, x.pitch)[:, :, : x.width], mean, logits)


def segmentation_head(build: Builder, weights: SegmentationHead, x: FlatMap) -> Floats:
    """ASPP and the classifier of every pixel. Map (C, H, W) -> logits (labels, H, W).

    The pooled branch of ASPP is the same at every pixel: what the projection makes of it is added like a bias.
    """
    channels, height, width = x.channels, x.height, x.width
    dense = build.array(channels + 1, height * width)
    dense[-1] = 1
    mean = build.array(channels + 1)
    mean[-1] = 1
    logits = build.array(len(weights.classifier), height * width)

    def take_in(program: Program, first: int, last: int) -> None:
        mine = dense[first:last]
        program.call(np.copyto, mine.reshape(-1, height, width), x.pixels[first:last])
        program.call(np.add.reduce, mine, 1, None, mean[first:last])
        program.call(np.multiply, mean[first:last], np.float32(1 / (height * width)), mean[first:last])

    def classify(program: Program, first: int, last: int) -> None:
        pooled = program.scratch.take(len(weights.pooled) + 1)
        constant = program.scratch.take(len(weights.project))
        program.call(np.matmul, weights.pooled, mean, pooled[:-1])
        program.call(kernels.relu, pooled[:-1])
        program.call(pooled[-1:].fill, kernels.ONE)
        program.call(np.matmul, weights.project_pooled, pooled, constant)
        for start, stop in bands(first, last, 4 * len(weights.pixel) * width):
            _classify_band(program, weights, dense, (height, width), start, stop, constant, logits)

    build.stage("segmentation_head: pooling", channels, take_in)
    build.stage("segmentation_head", height, classify)
    return logits.reshape(-1, height, width)


def _classify_band(
    program: Program,
    weights: SegmentationHead,
    dense: Floats,
    size: tuple[int, int],
    first: int,
    last: int,
    constant: Floats,
    logits: Floats,
) -> None:
    """The logits of some rows of pixels."""
    (height, width), branch = size, len(weights.pixel)
    mine = slice(first * width, last * width)
    length = mine.stop - mine.start
    branches = program.scratch.take(4 * branch, spread(length))[:, :length]
    program.call(np.matmul, weights.pixel, dense[:, mine], branches[:branch])
    for i, dilated in enumerate(weights.dilated, start=1):
        y = branches[i * branch : (i + 1) * branch]
        _dilated_band(program, dilated, dense[:-1].reshape(-1, height, width), first, last, y)
    program.call(kernels.relu, branches)
    y = program.scratch.take(branch + 1, spread(length))[:, :length]
    program.call(np.matmul, weights.project, branches, y[:-1])
    program.call(np.add, y[:-1], constant[:, np.newaxis], y[:-1])
    program.call(kernels.relu, y[:-1])
    program.call(y[-1].fill, kernels.ONE)
    program.call(np.matmul, weights.classifier, y, logits[:, mine])


def _dilated_band(program: Program, weights: Dilated, x: Floats, first: int, last: int, out: Floats) -> None:
    """Some rows of a dilated 3x3 convolution: (C, H, W) -> (A, (last - first) * W).

    The three columns of taps are three shifted copies of the map, which one product takes together. The three rows of
    taps are three products, each of those rows only that do not lie in the padding.
    """
    rate = weights.rate
    channels, height, width = x.shape
    top, bottom = max(0, first - rate), min(height, last + rate)
    count = (bottom - top) * width
    shifted = program.scratch.take(3 * channels + 1, spread(count))[:, :count]
    program.call(shifted[-1].fill, kernels.ONE)
    copies = shifted[:-1].reshape(3, channels, bottom - top, width)
    rows = x[:, top:bottom]
    for j, copy in enumerate(copies):
        shift = min(abs(j - 1) * rate, width)
        there, source, margin = (
            (copy[..., shift:], rows[..., : width - shift], copy[..., :shift])
            if j < 1
            else (copy[..., : width - shift], rows[..., shift:], copy[..., width - shift :])
        )
        program.call(np.copyto, there, source)
        program.call(margin.fill, kernels.ZERO)

    def columns(first_row: int, last_row: int) -> slice:
        return slice((first_row - top) * width, (last_row - top) * width)

    program.call(np.matmul, weights.middle, shifted[:, columns(first, last)], out)
    term = program.scratch.take(*out.shape)
    for shift, matrix in ((-rate, weights.above), (rate, weights.below)):
        start, stop = max(first, -shift), min(last, height - shift)  # rows whose tap lies in the map
        if start < stop:
            product = term.reshape(-1)[: len(out) * (stop - start) * width].reshape(len(out), -1)
            program.call(np.matmul, matrix, shifted[:-1, columns(start + shift, stop + shift)], product)
            to = out[:, (start - first) * width : (stop - first) * width]
            program.call(np.add, to, product, to)
