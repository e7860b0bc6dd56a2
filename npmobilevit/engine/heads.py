"""The two heads of the network as stages of a plan: the classifier, and DeepLabV3."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from npmobilevit.engine import kernels
from npmobilevit.engine.blocks import Builder, bands
from npmobilevit.engine.folded import Classifier, Dilated, SegmentationHead
from npmobilevit.engine.folding import Floats
from npmobilevit.engine.layout import FlatMap, spread
from npmobilevit.engine.program import Program


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
    dense = build.array(channels + 1, height, width)
    dense[-1] = 1
    mean = build.array(channels + 1)
    mean[-1] = 1
    logits = build.array(len(weights.classifier), height, width)

    def take_in(program: Program, first: int, last: int) -> None:
        program.call(np.copyto, dense[first:last], x.pixels[first:last])
        program.call(np.add.reduce, dense[first:last], (1, 2), None, mean[first:last])
        program.call(np.multiply, mean[first:last], np.float32(1 / (height * width)), mean[first:last])

    def classify(program: Program, first: int, last: int) -> None:
        pooled = program.scratch.take(len(weights.pooled) + 1)
        constant = program.scratch.take(len(weights.project))
        program.call(np.matmul, weights.pooled, mean, pooled[:-1])
        program.call(kernels.relu, pooled[:-1])
        program.call(pooled[-1:].fill, kernels.ONE)
        program.call(np.matmul, weights.project_pooled, pooled, constant)
        for start, stop in bands(first, last, 4 * len(weights.pixel) * width):
            with program.scratch.frame():
                _classify_band(program, weights, dense, start, stop, constant, logits)

    build.stage("segmentation_head: pooling", channels, take_in)
    build.stage("segmentation_head", height, classify)
    return logits


def _classify_band(
    program: Program,
    weights: SegmentationHead,
    dense: Floats,
    first: int,
    last: int,
    constant: Floats,
    logits: Floats,
) -> None:
    """The logits (labels, H, W) of some rows of a map and its channel of ones (C + 1, H, W)."""
    branch, length = len(weights.pixel), (last - first) * dense.shape[2]
    branches = program.scratch.take(4 * branch, spread(length))[:, :length]
    program.call(np.matmul, weights.pixel, dense[:, first:last].reshape(len(dense), -1), branches[:branch])
    for i, dilated in enumerate(weights.dilated, start=1):
        _dilated_band(program, dilated, dense[:-1], first, last, branches[i * branch : (i + 1) * branch])
    program.call(kernels.relu, branches)
    y = program.scratch.take(branch + 1, spread(length))[:, :length]
    program.call(np.matmul, weights.project, branches, y[:-1])
    program.call(np.add, y[:-1], constant[:, np.newaxis], y[:-1])
    program.call(kernels.relu, y[:-1])
    program.call(y[-1].fill, kernels.ONE)
    program.call(np.matmul, weights.classifier, y, logits[:, first:last].reshape(len(logits), -1))


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
            some = term.reshape(-1)[: len(out) * (stop - start) * width].reshape(len(out), -1)
            program.call(np.matmul, matrix, shifted[:-1, columns(start + shift, stop + shift)], some)
            to = out[:, (start - first) * width : (stop - first) * width]
            program.call(np.add, to, some, to)
