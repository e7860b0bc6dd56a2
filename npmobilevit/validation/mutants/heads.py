"""Mistakes in the fusion of a MobileViT block and in the heads: the rows FUS, HED and SEG of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from npmobilevit.layers import conv_layer
from npmobilevit.scope import Scope
from npmobilevit.validation.mutants.changes import Change, moved
from npmobilevit.validation.mutants.mutant import Mutant, Site, changes
from npmobilevit.validation.mutants.places import ASPP, BLOCK
from npmobilevit.validation.mutants.weights import reread_as_transposed, without_bias

PROJECTION_BACK = rf"{BLOCK}\.conv_projection"
FUSION = rf"{BLOCK}\.fusion"
EXPANSION = "conv_1x1_exp"
BASE_MODEL = "(mobilevit)?"  # the node that pools
BRANCHES = rf"{ASPP}\.convs\.[123]"
HEAD_LAYERS = rf"{ASPP}\.(convs\.[0123]|convs\.4\.conv_1x1|project)"
POOLING = rf"{ASPP}\.convs\.4"


def as_it_is(s: Scope, own: Callable[..., Any], x: Any, **parameters: Any) -> Any:
    """An operator that does nothing."""
    return x


# Bare convolutions ---------------------------------------------------------------------------------------------------


def bare(id: str, where: str) -> tuple[Mutant, ...]:
    """A layer without its activation, its normalisation, or both."""
    norm, act = Change("batch_norm", where, as_it_is), Change("activation", where, as_it_is)
    forms = (
        ("", "no activation; expected hidden_act of config.json behind the normalisation", (act,)),
        ("norm", "no batch normalisation; expected it behind the convolution", (norm,)),
        ("both", "a bare convolution; expected batch normalisation and activation behind it", (norm, act)),
    )
    return tuple(
        Mutant(
            id,
            description,
            consequence="What follows works on values that it was not trained for: labels are mostly wrong.",
            fix="Make the layer of convolution, batch normalisation and activation.",
            make=changes(*mistakes),
            variant=variant,
        )
        for variant, description, mistakes in forms
    )


# Fusion --------------------------------------------------------------------------------------------------------------


def add_halves(kept: int) -> Change:
    """What is joined is added up, and only the first half of the kernel used (0), or the second (1)."""

    def convolve(s: Scope, own: Callable[..., Any], x: Any, *, weight: Any, **settings: Any) -> Any:
        half = x.shape[1] // 2
        summed = s.ops.add(moved(x, lambda a: a[:, :half]), moved(x, lambda a: a[:, half:]))
        return own(summed, weight=moved(weight, lambda a: np.split(a, 2, axis=1)[kept]), **settings)

    return Change("conv2d", FUSION, convolve)


# Pooling -------------------------------------------------------------------------------------------------------------


def largest(s: Scope, own: Callable[..., Any], x: Any) -> Any:
    return moved(x, lambda a: a.max((2, 3)))


def first_window(side: int) -> tuple[Change, ...]:
    """A window of fixed size, which covers a corner of a larger map."""
    return (Change("global_avg_pool", BASE_MODEL, lambda s, own, x: own(moved(x, lambda a: a[:, :, :side, :side]))),)


def windows_as_pictures(side: int) -> tuple[Change, ...]:
    """Windows of fixed size, and all that is left of them read as (pictures, C)."""

    def pool(s: Scope, own: Callable[..., Any], x: Any) -> Any:
        n, channels, height, width = x.shape
        rows, columns = height // side, width // side
        if not rows or not columns:
            return own(x)
        cut = moved(x, lambda a: a[:, :, : rows * side, : columns * side])
        cut = moved(cut, lambda a: a.reshape(n, channels, rows, side, columns, side).swapaxes(3, 4))
        pooled = own(moved(cut, lambda a: a.reshape(n, -1, side, side)))
        return moved(pooled, lambda a: a.reshape(-1, channels))

    return (Change("global_avg_pool", BASE_MODEL, pool),)


def windows(site: Site) -> Iterable[int]:
    """Sides of windows that leave out a part of the map, the usual ones first."""
    call = site.call("global_avg_pool")
    sides = [] if call is None else range(1, max(call.arguments[0].shape[2:]))
    return sorted(sides, key=lambda side: abs(side - 8))


# DeepLabV3 -----------------------------------------------------------------------------------------------------------


def rates(change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Change:
    """Other atrous rates."""
    return Change("aspp", ASPP, lambda s, own, x, *, atrous_rates: own(s, x, atrous_rates=change(tuple(atrous_rates))))


def pad_by(padding: Callable[[int], int], dilation: Callable[[int], int]) -> tuple[Change, ...]:
    """Padding that does not belong to the rate, where the kernel still fits; maps are cropped to be joined."""

    def convolve(s: Scope, own: Callable[..., Any], x: Any, **settings: Any) -> Any:
        rate = settings["dilation"]
        mistaken = {"dilation": dilation(rate), "padding": padding(rate)}
        fits = min(x.shape[2:]) + 2 * mistaken["padding"] > 2 * mistaken["dilation"]
        return own(x, **settings | (mistaken if fits else {}))

    def join(s: Scope, own: Callable[..., Any], maps: Sequence[Any]) -> Any:
        height, width = (min(x.shape[axis] for x in maps) for axis in (2, 3))
        return own([moved(x, lambda a: a[:, :, :height, :width]) for x in maps])

    return Change("conv2d", BRANCHES, convolve), Change("concat_channels", ASPP, join)


def forget_pooling(s: Scope, own: Callable[..., Any], maps: Sequence[Any]) -> Any:
    return own([*maps[:-1], moved(maps[-1], np.zeros_like)])


def pool_last(s: Scope, own: Callable[..., Any], x: Any) -> Any:
    """The pooling branch convolves the map and not its mean."""
    y = conv_layer(s.at("conv_1x1"), x, activation="relu")
    pooled: Any = s.ops.global_avg_pool(y)
    y = s.at("global_pool").out(pooled[:, :, np.newaxis, np.newaxis])
    return s.out(s.ops.resize_bilinear(y, (x.shape[2], x.shape[3])))


def joined_as(order: str) -> tuple[Change, ...]:
    """Branches joined in another order."""
    places = [int(branch) for branch in order.split(", ")]
    return (Change("concat_channels", ASPP, lambda s, own, maps: own([maps[i] for i in places])),)


OTHER_BRANCH_ORDERS = (
    "4, 0, 1, 2, 3",
    "4, 3, 2, 1, 0",
    "0, 4, 1, 2, 3",
    "1, 2, 3, 0, 4",
    "1, 2, 3, 4, 0",
    "0, 3, 2, 1, 4",
)


def keep_stride(s: Scope, own: Callable[..., Any], x: Any, config: Any, **settings: Any) -> Any:
    return own(s, x, config, **settings | {"stride": 2, "dilation": 1})


def dilate_at_once(s: Scope, own: Callable[..., Any], x: Any, config: Any, **settings: Any) -> Any:
    """Already the layer whose stride is dropped dilates."""
    factor = 2 if settings["stride"] == 1 else 1
    return own(s, x, config, **settings | {"dilation": factor * settings["dilation"]})


def end_earlier(s: Scope, own: Callable[..., Any], x: Any, config: Any) -> Any:
    """The map before the last in its place, if it has as many channels."""
    maps = own(s, x, config)
    widths = config.neck_hidden_sizes
    return (*maps[:-1], maps[-2]) if widths[4] == widths[5] else maps


OTHER_SURROUNDINGS = "Pixels are judged by other surroundings than the network was trained for: masks are coarser."
OTHER_STRIDE = "Set the strides of the blocks to 2, 2, 1 and all dilations to 1 for output_stride 16."

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "FUS-01",
        "input channels [projected, residual]; expected [residual, projected]",
        consequence="The fusion sees each kind of map with the weights of the other: labels are mostly wrong.",
        fix="Concatenate the block's input first and the output of conv_projection second, along channels.",
        make=changes(Change("concat_channels", BLOCK, lambda s, own, maps: own(maps[::-1]))),
    ),
    *bare("FUS-02", PROJECTION_BACK),
    *bare("FUS-04", FUSION),
    Mutant(
        "FUS-05",
        "maps added and convolved with the first half of the kernel; expected maps laid side by side",
        consequence="Half of the weights are not used: labels are mostly wrong.",
        fix="Concatenate the block's input and the output of conv_projection along channels; only v3 adds.",
        make=changes(add_halves(0)),
    ),
    Mutant(
        "FUS-05",
        "maps added and convolved with the second half of the kernel; expected maps laid side by side",
        consequence="Half of the weights are not used: labels are mostly wrong.",
        fix="Concatenate the block's input and the output of conv_projection along channels; only v3 adds.",
        make=changes(add_halves(1)),
        variant="second",
    ),
    *bare("HED-01", EXPANSION),
    Mutant(
        "HED-02",
        "the largest value of each channel; expected its mean",
        consequence="Logits are too large, and labels often wrong.",
        fix="Average each channel over all pixels.",
        make=changes(Change("global_avg_pool", BASE_MODEL, largest)),
    ),
    Mutant(
        "HED-02",
        "the mean of the first {value} rows and columns; expected that of all pixels",
        consequence="Right for pictures of one size only; of larger ones only a corner counts.",
        fix="Average over the whole map, whatever its size.",
        make=first_window,
        variant="window",
        values=windows,
        examples=(1,),
    ),
    Mutant(
        "HED-02",
        "means of windows of {value}x{value}, read as so many pictures; expected one mean of all pixels",
        consequence="There are more logits than pictures, and channels are mixed up.",
        fix="Average over the whole map, whatever its size.",
        make=windows_as_pictures,
        variant="windows",
        values=windows,
        examples=(1,),
    ),
    Mutant(
        "HED-03",
        "no bias; expected the bias of the checkpoint",
        consequence="All logits of a class are shifted alike: rare labels come up too often.",
        fix="Load classifier.bias.",
        make=changes(without_bias("classifier")),
    ),
    Mutant(
        "HED-03",
        "weight read as (in, out); expected (out, in)",
        consequence="Weights of all classes are mixed up: labels are wrong.",
        fix="Read classifier.weight as num_labels rows.",
        make=changes(reread_as_transposed("classifier")),
        variant="transposed",
    ),
    Mutant(
        "SEG-01",
        "activation {value}; expected relu, whatever hidden_act of config.json says",
        consequence="Values drift a little in every layer of the head: masks get worse without an error.",
        fix="Use ReLU in all layers of the ASPP; SiLU is for the network before it.",
        make=lambda name: (Change("activation", HEAD_LAYERS, lambda s, own, x: s.ops.activations[name](x)),),
        values=lambda site: ("silu", "relu6", "gelu", "gelu_pytorch_tanh", "hardswish", "leaky_relu", "linear"),
        examples=("silu",),
    ),
    Mutant(
        "SEG-02",
        "dilation 1; expected the branch's rate of atrous_rates",
        consequence=OTHER_SURROUNDINGS,
        fix="Give the three 3x3 branches their rates as dilation and as padding; some converters drop the dilation.",
        make=changes(rates(lambda own: (1,) * len(own))),
    ),
    Mutant(
        "SEG-02",
        "dilation 1, but padding of the rate; expected dilation and padding of the branch's rate",
        consequence="The map is larger than that of the other branches, and cannot be joined to them.",
        fix="Give the three 3x3 branches their rates as dilation and as padding; some converters drop the dilation.",
        make=lambda _value: pad_by(lambda rate: rate, lambda rate: 1),
        variant="padding",
    ),
    Mutant(
        "SEG-02",
        "padding {value}; expected padding as large as the branch's rate",
        consequence="The map is smaller than that of the other branches, and cannot be joined to them.",
        fix="Pad the three 3x3 branches by their rates.",
        make=lambda padding: pad_by(lambda rate: padding, lambda rate: rate),
        variant="unpadded",
        values=lambda site: (1, 0),
        examples=(1, 0),
    ),
    Mutant(
        "SEG-03",
        "rates in the order 18, 12, 6; expected 6, 12, 18",
        consequence=OTHER_SURROUNDINGS,
        fix="Give the branches the rates in the order of atrous_rates in config.json.",
        make=changes(rates(lambda own: own[::-1])),
    ),
    Mutant(
        "SEG-03",
        "rates twice as large as atrous_rates; expected them as they are, whatever the output stride",
        consequence=OTHER_SURROUNDINGS,
        fix="Give the branches the rates of config.json; other DeepLabs double them at output stride 8.",
        make=changes(rates(lambda own: tuple(2 * rate for rate in own))),
        variant="doubled",
    ),
    Mutant(
        "SEG-03",
        "rates half as large as atrous_rates; expected them as they are, whatever the output stride",
        consequence=OTHER_SURROUNDINGS,
        fix="Give the branches the rates of config.json; other DeepLabs halve them at output stride 32.",
        make=changes(rates(lambda own: tuple(max(rate // 2, 1) for rate in own))),
        variant="halved",
    ),
    Mutant(
        "SEG-04",
        "nothing from the pooling branch; expected the mean of the map",
        consequence="The whole picture counts for nothing: masks get worse, above all of large areas.",
        fix="Compute the fifth branch: mean, convolution, normalisation, ReLU, and the result for every pixel.",
        make=changes(
            Change("out", POOLING, lambda s, x: moved(x, np.zeros_like)),
            Change("concat_channels", ASPP, forget_pooling),
        ),
    ),
    Mutant(
        "SEG-04",
        "convolved before pooling; expected the mean of the map first",
        consequence="ReLU acts on pixels and not on their mean: masks get worse.",
        fix="Average the map first, then convolve, normalise and activate the mean.",
        make=changes(Change("aspp_pooling", POOLING, pool_last)),
        variant="order",
    ),
    Mutant(
        "SEG-05",
        "branches joined in the order {value}; expected 0, 1, 2, 3, 4",
        consequence="Each branch meets the weights of another: masks are wrong.",
        fix="Concatenate the 1x1 branch, the three dilated ones in the order of their rates, and pooling last.",
        make=joined_as,
        values=lambda site: OTHER_BRANCH_ORDERS,
        examples=OTHER_BRANCH_ORDERS[:2],
    ),
    Mutant(
        "SEG-06",
        "stride 2; expected stride 1 from output_stride on",
        consequence="The mask has half the resolution that it should have.",
        fix=OTHER_STRIDE,
        make=changes(Change("mobilevit_block", r"encoder\.layer\.[34]", keep_stride)),
    ),
    Mutant(
        "SEG-07",
        "dilation 2 in the block whose stride is dropped; expected it in the block behind that",
        consequence="Pixels are judged by other surroundings than the network was trained for: masks get worse.",
        fix=OTHER_STRIDE,
        make=changes(Change("mobilevit_block", r"encoder\.layer\.[34]", dilate_at_once)),
    ),
    Mutant(
        "SEG-08",
        "reads encoder.layer.3; expected encoder.layer.4",
        consequence="The head works on a map that it was not trained for: masks are wrong.",
        fix="Feed the head the last map of the encoder, without conv_1x1_exp.",
        make=changes(
            Change("encoder", "encoder", end_earlier),
            # where it shows
            Change("out", BASE_MODEL, lambda s, x: x),
            Change("aspp", ASPP, lambda s, own, x, **settings: own(s, x, **settings)),
        ),
    ),
    Mutant(
        "SEG-13",
        "no bias; expected the bias of the checkpoint",
        consequence="All scores of a class are shifted alike: rare classes are missing or everywhere.",
        fix="Load segmentation_head.classifier.convolution.bias; it is the only convolution that has one.",
        make=changes(without_bias(r"segmentation_head\.classifier\.convolution")),
    ),
)
