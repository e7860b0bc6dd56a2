"""The MobileViT block as stages of a plan: local convolution, transformer over patches, fusion."""

from __future__ import annotations

import numpy as np

from npmobilevit import ops
from npmobilevit.engine import kernels
from npmobilevit.engine.blocks import Builder
from npmobilevit.engine.folded import Convolution, MobileViTBlock
from npmobilevit.engine.folding import Exponential, Floats
from npmobilevit.engine.layout import FlatMap, PhasePlanes
from npmobilevit.engine.program import Program

POSITIONS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of the pixels of a patch, in the order of its sequences


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
