"""The weights of a whole network, folded: what every plan of it shares, whatever the size of the picture.

The values between two blocks are stored as multiples of what they stand for (:func:`folding.rescaled`): an output of
SiLU as ``a`` times its value, the output of an inverted residual as itself, or, where its input is added, as the
multiple that this is stored as. Every layer here takes and gives what its neighbours store.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from npmobilevit.config import (
    DOWNSAMPLING_DILATIONS,
    DOWNSAMPLING_STRIDES,
    MOBILENET_DEPTHS,
    TRANSFORMER_DEPTHS,
    Head,
    MobileViTConfig,
)
from npmobilevit.engine import folding
from npmobilevit.engine.folding import Affine, Exponential, Floats, Weights


class InvertedResidual(NamedTuple):
    """``reduce(silu(filter(silu(expand(x)))))``, and x added if `residual`."""

    expand: Floats  # (E, C + 1)
    taps: Floats  # (E, 3, 3): the depthwise kernels
    bias: Floats  # (E, 1): of the depthwise convolution
    reduce: Floats  # (M, E + 1)
    stride: int
    dilation: int
    residual: bool
    scale: float  # multiple that the output is stored as


class Convolution(NamedTuple):
    """A 3x3 convolution in Winograd's form."""

    kernels: Floats  # (16, M, K)
    bias: Floats  # (M, 1)


class TransformerLayer(NamedTuple):
    """One layer of the transformer on centred tokens; see :func:`folding.centred`."""

    query_key_value: Floats  # (3 D + h, D + 1)
    attention_output: Floats  # (D, D + h)
    intermediate: Floats  # (F, D + 1)
    output: Floats  # (D, F + 1)


class MobileViTBlock(NamedTuple):
    """What follows the downsampling block of an encoder layer."""

    downsampling: InvertedResidual
    local: Convolution  # conv_kxk
    embed: Floats  # (D, C): conv_1x1, centred
    layers: tuple[TransformerLayer, ...]
    project: Floats  # (C, D + 1): layernorm and conv_projection
    fusion: Convolution
    num_heads: int
    eps: float


class Linear(NamedTuple):
    """A linear layer."""

    weight: Floats  # (M, K)
    bias: Floats  # (M,)


class Classifier(NamedTuple):
    """The widening 1x1 convolution, and the linear layer behind the average if there is one."""

    expand: Floats  # (M, C + 1)
    linear: Linear | None


class Dilated(NamedTuple):
    """A dilated 3x3 convolution by rows of its taps: matrices over the three columns of taps, then the channels."""

    rate: int
    above: Floats  # (A, 3 * C)
    middle: Floats  # (A, 3 * C + 1): with the bias
    below: Floats  # (A, 3 * C)


class SegmentationHead(NamedTuple):
    """ASPP and the classifier of every pixel; the activation is ReLU."""

    pixel: Floats  # (A, C + 1)
    dilated: tuple[Dilated, ...]
    pooled: Floats  # (A, C + 1)
    project: Floats  # (A, 4 A): of the branches that are maps
    project_pooled: Floats  # (A, A + 1): of the branch that is constant, and the bias
    classifier: Floats  # (labels, A + 1)


class FoldedNetwork(NamedTuple):
    """A network ready to be planned for any size."""

    exponential: Exponential
    stem: Floats  # (C, 9 * channels + 1)
    mobilenet: tuple[tuple[InvertedResidual, ...], ...]  # encoder layers 0 and 1
    mobilevit: tuple[MobileViTBlock, ...]  # encoder layers 2, 3 and 4
    head: Classifier | SegmentationHead | None


def fold(config: MobileViTConfig, weights: Weights, head: Head | None, *, expand_output: bool) -> FoldedNetwork:
    """Fold the weights of a network of SiLU with 3x3 kernels and 2x2 patches.

    Parameters
    ----------
    config : MobileViTConfig
    weights : mapping of str to array
        Under transformers' names (:func:`npmobilevit.config.expected_parameters`).
    head : {"classification", "segmentation"}, optional
        None is the base model.
    expand_output : bool
        Whether the base model has the widening 1x1 convolution.
    """
    return _Folding(config, weights, "" if head is None else "mobilevit.").network(head, expand_output)


class _Folding:
    """The weights on their way into a :class:`FoldedNetwork`."""

    def __init__(self, config: MobileViTConfig, weights: Weights, prefix: str) -> None:
        self.config = config
        self.weights = weights
        self.prefix = prefix
        self.exponential = folding.fastest_exponential()
        self.silu = self.exponential.scale  # multiple that an output of SiLU is stored as

    def network(self, head: Head | None, expand_output: bool) -> FoldedNetwork:
        stem = folding.rescaled(self.convolution("conv_stem"), outputs=self.silu)
        # the columns of the patches that the stem multiplies are in the order (row, column, channel)
        stem = stem._replace(weight=stem.weight.transpose(0, 2, 3, 1))
        scale = self.silu
        mobilenet = []
        for layer, depth in enumerate(MOBILENET_DEPTHS):
            blocks = []
            for i in range(depth):
                stride = 2 if layer == 1 and i == 0 else 1
                blocks.append(self.inverted_residual(f"encoder.layer.{layer}.layer.{i}", scale, stride))
                scale = blocks[-1].scale
            mobilenet.append(tuple(blocks))
        mobilevit = []
        strides = DOWNSAMPLING_STRIDES[self.config.output_stride]
        dilations = DOWNSAMPLING_DILATIONS[self.config.output_stride]
        for i, (depth, stride, dilation) in enumerate(zip(TRANSFORMER_DEPTHS, strides, dilations, strict=True)):
            name = f"encoder.layer.{i + 2}"
            downsampling = self.inverted_residual(f"{name}.downsampling_layer", scale, stride, dilation)
            mobilevit.append(self.mobilevit_block(name, downsampling, depth))
            scale = self.silu
        top: Classifier | SegmentationHead | None = None
        if head == "segmentation":
            top = self.segmentation_head()
        elif head == "classification" or expand_output:
            top = self.classifier()
        return FoldedNetwork(self.exponential, folding.with_constant_row(stem), tuple(mobilenet), tuple(mobilevit), top)

    def convolution(self, name: str) -> Affine:
        return folding.convolution(self.weights, self.prefix + name)

    def inverted_residual(self, name: str, scale: float, stride: int, dilation: int = 1) -> InvertedResidual:
        """The block whose input is stored as `scale` times its value."""
        expand = self.convolution(f"{name}.expand_1x1")
        depthwise = self.convolution(f"{name}.conv_3x3")
        reduce = self.convolution(f"{name}.reduce_1x1")
        residual = stride == 1 and expand.weight.shape[1] == len(reduce.weight)
        stored = scale if residual else 1.0  # what is added has to be stored as the same multiple
        return InvertedResidual(
            folding.with_constant_row(folding.rescaled(expand, inputs=scale, outputs=self.silu)),
            np.ascontiguousarray(depthwise.weight[:, 0], np.float32),  # same multiple in and out: no change
            _column(depthwise.bias * self.silu),
            folding.with_constant_row(folding.rescaled(reduce, inputs=self.silu, outputs=stored)),
            stride,
            dilation,
            residual,
            stored,
        )

    def mobilevit_block(self, name: str, downsampling: InvertedResidual, depth: int) -> MobileViTBlock:
        local = folding.rescaled(self.convolution(f"{name}.conv_kxk"), inputs=downsampling.scale, outputs=self.silu)
        embed = folding.centred(folding.rescaled(self.convolution(f"{name}.conv_1x1"), inputs=self.silu))
        project = self.after_norm(self.convolution(f"{name}.conv_projection"), f"{name}.layernorm")
        channels = len(local.weight)
        multiples = np.repeat([downsampling.scale, self.silu], channels)  # what came in, and the projection
        fusion = folding.rescaled(self.convolution(f"{name}.fusion"), inputs=multiples, outputs=self.silu)
        return MobileViTBlock(
            downsampling,
            Convolution(folding.winograd(local.weight), _column(local.bias)),
            np.ascontiguousarray(embed.weight[:, :, 0, 0], np.float32),
            tuple(self.transformer_layer(f"{name}.transformer.layer.{i}") for i in range(depth)),
            folding.with_constant_row(folding.rescaled(project, outputs=self.silu)),
            Convolution(folding.winograd(fusion.weight), _column(fusion.bias)),
            self.config.num_attention_heads,
            self.config.layer_norm_eps,
        )

    def transformer_layer(self, name: str) -> TransformerLayer:
        heads = self.config.num_attention_heads
        query, key, value = (
            self.after_norm(self.linear(f"{name}.attention.attention.{projection}"), f"{name}.layernorm_before")
            for projection in ("query", "key", "value")
        )
        attention_output = folding.centred(self.linear(f"{name}.attention.output.dense"))
        intermediate = self.after_norm(self.linear(f"{name}.intermediate.dense"), f"{name}.layernorm_after")
        output = folding.centred(folding.rescaled(self.linear(f"{name}.output.dense"), inputs=self.silu))
        return TransformerLayer(
            folding.with_constant_row(folding.query_key_value(query, key, value, heads, self.exponential)),
            folding.after_attention(attention_output, heads),
            folding.with_constant_row(folding.rescaled(intermediate, outputs=self.silu)),
            folding.with_constant_row(output),
        )

    def linear(self, name: str) -> Affine:
        return folding.linear(self.weights, self.prefix + name)

    def after_norm(self, layer: Affine, norm: str) -> Affine:
        matrix = layer._replace(weight=layer.weight.reshape(len(layer.weight), -1))  # a 1x1 convolution is linear
        name = self.prefix + norm
        return folding.after_layer_norm(matrix, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def classifier(self) -> Classifier:
        expand = folding.rescaled(self.convolution("conv_1x1_exp"), inputs=self.silu, outputs=self.silu)
        linear = None
        if "classifier.weight" in self.weights:  # behind the average, which is linear: it takes the multiple away
            layer = folding.rescaled(folding.linear(self.weights, "classifier"), inputs=self.silu)
            linear = Linear(np.ascontiguousarray(layer.weight, np.float32), layer.bias.astype(np.float32))
        return Classifier(folding.with_constant_row(expand), linear)

    def segmentation_head(self) -> SegmentationHead:
        aspp = "segmentation_head.aspp"

        def branch(name: str) -> Affine:
            return folding.rescaled(folding.convolution(self.weights, f"{aspp}.convs.{name}"), inputs=self.silu)

        def dilated(name: str, rate: int) -> Dilated:
            layer = branch(name)
            by_row = layer.weight.transpose(2, 0, 3, 1)  # (row, A, column, C)
            above, middle, below = by_row.reshape(3, len(layer.weight), -1)
            return Dilated(
                rate,
                np.ascontiguousarray(above, np.float32),
                folding.with_constant_row(Affine(middle, layer.bias)),
                np.ascontiguousarray(below, np.float32),
            )

        project = folding.convolution(self.weights, f"{aspp}.project")
        matrix = project.weight[:, :, 0, 0]
        width = self.config.aspp_out_channels
        return SegmentationHead(
            folding.with_constant_row(branch("0")),
            tuple(dilated(str(i), rate) for i, rate in enumerate(self.config.atrous_rates, start=1)),
            folding.with_constant_row(branch("4.conv_1x1")),
            np.ascontiguousarray(matrix[:, : 4 * width], np.float32),
            folding.with_constant_row(Affine(matrix[:, 4 * width :], project.bias)),
            folding.with_constant_row(folding.convolution(self.weights, "segmentation_head.classifier")),
        )


def _column(bias: Any) -> Floats:
    return np.ascontiguousarray(bias[:, np.newaxis], np.float32)
