"""A plan: everything that a forward pass at one size needs, prepared once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from npmobilevit.engine import blocks, heads, mobilevit
from npmobilevit.engine.folded import Classifier, FoldedNetwork
from npmobilevit.engine.folding import Floats
from npmobilevit.engine.program import Allocate, Stage

HIDDEN_STATES = tuple(f"encoder.layer.{i}" for i in range(5))  # taps


class Tap(NamedTuple):
    """Where a value of the network lies after a run, and the multiple that it is stored as."""

    stored: Floats
    scale: float

    def value(self) -> Floats:
        """A copy of the value itself."""
        return self.stored / np.float32(self.scale) if self.scale != 1 else self.stored.copy()


class Plan(NamedTuple):
    """A network at one size.

    Attributes
    ----------
    pixels : (C, H, W) float32 array
        Where the picture goes.
    stages : tuple of Stage
        To be run in order; see :mod:`npmobilevit.engine.crews`.
    taps : dict of str to Tap
        The outputs of the base model's blocks, without batch axis, in the order of the forward pass.
    pooled : Tap or None
        The average over the pixels (M,).
    logits : Tap or None
        (labels,), or (labels, h, w) of a segmentation.
    size : int
        Bytes of its arrays.
    """

    pixels: Floats
    stages: tuple[Stage, ...]
    taps: dict[str, Tap]
    pooled: Tap | None
    logits: Tap | None
    size: int


def make_plan(network: FoldedNetwork, shape: tuple[int, int, int], workers: int, shared: Allocate) -> Plan:
    """Plan a network for pictures of a shape (C, H, W).

    Parameters
    ----------
    network : FoldedNetwork
    shape : (int, int, int)
    workers : int
        How many programs each stage is divided into.
    shared : callable
        Number of values to a new array of any content that all workers see.
    """
    build = blocks.Builder(workers, network.exponential, shared)
    pixels = build.array(*shape)
    silu = network.exponential.scale
    taps: dict[str, Tap] = {}

    x = blocks.stem(build, "conv_stem", network.stem, pixels)
    taps["conv_stem"] = Tap(x.pixels, silu)
    for layer, residuals in enumerate(network.mobilenet):
        for i, residual in enumerate(residuals):
            name = f"encoder.layer.{layer}.layer.{i}"
            x = blocks.inverted_residual(build, name, residual, x)
            taps[name] = Tap(x.pixels, residual.scale)
        taps[f"encoder.layer.{layer}"] = taps[name]
    reach = [block.downsampling.dilation for block in network.mobilevit[1:]] + [1]  # of the taps that read the output
    for layer, (block, pad) in enumerate(zip(network.mobilevit, reach, strict=True), start=2):
        name, down = f"encoder.layer.{layer}", f"encoder.layer.{layer}.downsampling_layer"
        x = blocks.inverted_residual(build, down, block.downsampling, x)
        taps[down] = Tap(x.pixels, block.downsampling.scale)
        x = mobilevit.mobilevit_block(build, name, block, x, pad)
        taps[name] = Tap(x.pixels, silu)

    pooled = logits = None
    if isinstance(network.head, Classifier):
        made = heads.classifier(build, network.head, x)
        taps["conv_1x1_exp"] = Tap(made.features, silu)
        pooled = Tap(made.mean, silu)
        logits = None if made.logits is None else Tap(made.logits, 1)
    elif network.head is not None:
        logits = Tap(heads.segmentation_head(build, network.head, x), 1)
    return Plan(pixels, tuple(build.stages), taps, pooled, logits, build.size)
