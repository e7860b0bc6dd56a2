"""The convolutional blocks of the network as stages of a plan: the stem and the inverted residual.

A block divides its work among the workers by rows, channels or pixel positions, such that within a stage none needs
what another makes. Its buffers stay for the whole plan, those in between are scratch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from npmobilevit.engine import kernels
from npmobilevit.engine.folded import InvertedResidual
from npmobilevit.engine.folding import Exponential, Floats
from npmobilevit.engine.layout import FlatMap, every_other
from npmobilevit.engine.program import Allocate, Arena, Program, Scratch, Stage, from_heap, parts, pieces

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
        self._arena = Arena(shared)
        self.allocate = self._arena.zeros
        self.stages: list[Stage] = []
        self._scratch = [Scratch(from_heap) for _ in range(workers)]

    @property
    def size(self) -> int:
        """Bytes of memory that the stages work in."""
        return 4 * (self._arena.taken + sum(scratch.most for scratch in self._scratch))

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
                with scratch.frame():
                    emit(program, first, last)
            programs.append(tuple(program.calls))
        self.stages.append(Stage(name, tuple(programs)))


def bands(first: int, last: int, values_of_a_row: int) -> list[tuple[int, int]]:
    """Cut rows first..last in bands of nearly the same height that keep within BAND_VALUES, if a row does."""
    rows = max(1, BAND_VALUES // values_of_a_row)
    return [(first + start, first + stop) for start, stop in pieces(last - first, rows)]


def stem(build: Builder, name: str, weights: Floats, pixels: Floats) -> FlatMap:
    """3x3 convolution of stride 2, batch normalisation, SiLU. (C, H, W) -> map of half the size, rounded up."""
    channels, height, width = pixels.shape
    out = build.map(len(weights), -(-height // 2), -(-width // 2))

    def emit(program: Program, first: int, last: int) -> None:
        for start, stop in bands(first, last, weights.shape[1] * out.pitch):
            with program.scratch.frame():
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
        program.call(np.matmul, weights, patches, y)
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
            with program.scratch.frame():
                emit_band(program, start, stop)

    def emit_band(program: Program, first: int, last: int) -> None:
        start, stop = out.span(first, last)
        filtered = program.scratch.take(len(weights.expand) + 1, stop - start)
        program.call(filtered[-1].fill, kernels.ONE)
        expand(program, weights, x, first, last, filtered[:-1], build.exponential)
        program.call(np.add, filtered[:-1], weights.bias, filtered[:-1])
        kernels.silu(program, filtered[:-1], build.exponential)
        y = out.data[:-1, start:stop]
        program.call(np.matmul, weights.reduce, filtered, y)
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
    program.call(np.matmul, weights.expand, x.data[:, start - reach : stop + reach], wide)
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
    program.call(np.matmul, weights.expand, planes, wide)
    kernels.silu(program, wide, f)
    kernels.depthwise_stride_2(program, wide, weights.taps, -(-x.width // 2) + 1, out)
