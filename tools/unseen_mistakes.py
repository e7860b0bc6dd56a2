"""Eleven mistakes that the catalogue has not, made up when it was complete: what does a check say of them?

They are injected as those of tools/faulty_ports.py are; `python tools/injected_mistakes.py --unseen` holds the check
against them. `catalogue` is empty: any name is a wrong one.
"""

from __future__ import annotations

from typing import Any

import ports
import torch
from faulty_ports import (
    ASPP,
    ATTENTION,
    BLOCK,
    LAYER_NORM,
    Mistake,
    at,
    compute,
    each,
    every,
    in_uneven_blocks,
    unfold_with,
    weigh,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mobilevit.modeling_mobilevit import MobileViTASPP, MobileViTInvertedResidual, MobileViTLayer


def without_mean(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """RMSNorm: the root mean square in place of the standard deviation, and no mean taken away."""
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.weight + norm.bias


def weaken_residual(block: MobileViTInvertedResidual, x: Tensor) -> Tensor:
    y = block.reduce_1x1(block.conv_3x3(block.expand_1x1(x)))
    return x * 0.5**0.5 + y if block.use_residual else y


def look_back(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every token sees only itself and those before it."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ value


def warm_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """A temperature of its own for each head."""
    warmth = torch.tensor([1.0, 1.1, 1.2, 1.3])[:, None, None]
    return ports.weighted_mean(query / warmth, key, value)


def interleave(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Channels of the two maps in turn: x0, y0, x1, y1, ..."""
    mixed = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return F.conv2d(mixed, convolution.weight, padding=convolution.padding)


def upside_down(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """The map comes out with its last row first."""
    return F.conv2d(x, convolution.weight, None, convolution.stride, convolution.padding).flip(2)


def repeat_edge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The last row and column once more, where the map is no multiple of the patch."""
    return F.pad(x, (0, size[1] - x.shape[3], 0, size[0] - x.shape[2]), mode="replicate")


def exchange_two_channels(convolution: nn.Conv2d) -> None:
    order = list(range(convolution.out_channels))
    order[3], order[7] = order[7], order[3]
    convolution.weight.data = convolution.weight.data[order]


def double_pool(aspp: MobileViTASPP, x: Tensor) -> Tensor:
    """The pooling branch counts twice."""
    *branches, pool = (branch(x) for branch in aspp.convs)
    return aspp.project(torch.cat((*branches, 2 * pool), dim=1))


def without_border(x: Tensor) -> Tensor:
    """The mean of all pixels but those at the border."""
    return x[..., 1:-1, 1:-1].mean(dim=(2, 3))


def mistake(number: int, description: str, inject: Any, where: Any, **more: Any) -> Mistake:
    return Mistake(f"NEW-{number:02}", "", description, inject, where, **more)


UNSEEN: tuple[Mistake, ...] = (
    mistake(
        1, "layer normalisation without taking the mean away",
        each(LAYER_NORM, compute(without_mean)), at(LAYER_NORM),
    ),
    mistake(
        2, "residuals weakened by the root of two",
        every(MobileViTInvertedResidual, compute(weaken_residual)), at(r"encoder\.layer\.(0\.layer\.0|1\.layer\.[12])"),
    ),
    mistake(3, "attention looks back only", ports.attend_by(look_back), at(ATTENTION)),
    mistake(4, "a temperature for each head", ports.attend_by(warm_heads), at(ATTENTION)),
    mistake(
        5, "channels of the fused maps interleaved",
        each(rf"{BLOCK}\.fusion\.convolution", compute(interleave)), at(rf"{BLOCK}\.fusion\.convolution"),
    ),
    mistake(
        6, "the stem's map upside down",
        each(r"conv_stem\.convolution", compute(upside_down)), at(r"conv_stem\.convolution"),
    ),
    mistake(
        7, "maps padded to whole patches with their edges, not resized",
        every(MobileViTLayer, unfold_with(repeat_edge)), in_uneven_blocks("transformer.layer.0.layernorm_before"),
        also=in_uneven_blocks("transformer.layer.0.layernorm_after", "transformer.layer.0.output"),
    ),
    mistake(
        8, "weights of the last fusion stored as bfloat16",
        each(r"encoder\.layer\.4\.fusion\.convolution", weigh(lambda w: w.bfloat16().float())),
        at(r"encoder\.layer\.4\.fusion\.convolution"),
    ),
    mistake(
        9, "two output channels of a convolution exchanged",
        each(r"encoder\.layer\.3\.conv_kxk\.convolution", exchange_two_channels),
        at(r"encoder\.layer\.3\.conv_kxk\.convolution"),
    ),
    mistake(
        10, "the pooling branch counts twice", each(ASPP, compute(double_pool)), at(rf"{ASPP}\.project\.convolution"),
        task="segmentation",
    ),
    mistake(
        11, "the mean over the map without its border", ports.pool_by(without_border), at("classifier"),
        task="classification",
    ),
)  # fmt: skip
