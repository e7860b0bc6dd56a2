"""Mistakes in convolutions and inverted residuals: the rows CNV and MV2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npmobilevit.config import make_divisible
from npmobilevit.layers import conv_layer
from npmobilevit.ops import conv2d
from npmobilevit.ops.arrays import Array
from npmobilevit.scope import Scope
from npmobilevit.validation.mutants.changes import Change, moved, raw
from npmobilevit.validation.mutants.mutant import Mutant, Site, changes
from npmobilevit.validation.mutants.places import BLOCK, CONVOLUTION_3X3, INVERTED_RESIDUAL

STEM = r"conv_stem"
INTO_TOKENS = rf"{BLOCK}\.conv_1x1"
EXPANSION = rf"(?:{INVERTED_RESIDUAL})\.expand_1x1"
DEPTHWISE = rf"(?:{INVERTED_RESIDUAL})\.conv_3x3"
REDUCTION = rf"(?:{INVERTED_RESIDUAL})\.reduce_1x1"
KERNELS = r".*\.convolution"
WIDTHS = rf"(?:{EXPANSION}|{DEPTHWISE}|{REDUCTION})\.(?:convolution|normalization)"

# A bias is fitted to no fewer pixels than this, and where they differ by more than this share of their size.
FEWEST_PIXELS, LEAST_VARIATION = 4, 0.01

# What integer 0 is to pixels whose zero point is -128.
ZERO_OF_INT8_PIXELS = 128 / 255

Own = Callable[..., Any]


# Padding ------------------------------------------------------------------------------------------------------------


def padded_by(pads: Callable[[Sequence[int]], list[tuple[int, int]]]) -> Change:
    """Where the stride is 2, pad in another way: `pads` is told the lengths of the two sides."""

    def convolve(_s: Scope, own: Own, x: Any, **options: Any) -> Any:
        if options["stride"] == 1:
            return own(x, **options)
        x = moved(x, lambda a: np.pad(a, [(0, 0), (0, 0), *pads(a.shape[2:])]))
        return own(x, **options | {"padding": 0})

    return Change("conv2d", CONVOLUTION_3X3, convolve)


def same_padding(side: int) -> tuple[int, int]:
    """What TensorFlow's SAME adds to a side for a kernel of 3 and a stride of 2: the larger half behind."""
    total = (-(-side // 2) - 1) * 2 + 3 - side
    return total // 2, total - total // 2


def padded_like(mode: Any) -> Change:
    """Pad with copies of the map instead of zeros; `mode` is one of ``np.pad``."""

    def convolve(_s: Scope, own: Own, x: Any, *, padding: int, **options: Any) -> Any:
        pads = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
        return own(moved(x, lambda a: np.pad(a, pads, mode)), padding=0, **options)

    return Change("conv2d", CONVOLUTION_3X3, convolve)


def padded_with(value: float) -> tuple[Change, ...]:
    """Pad with a number v: (x - v) padded with zeros, and v times the sum of a kernel as its bias."""

    def convolve(s: Scope, own: Own, x: Any, *, weight: Any, **options: Any) -> Any:
        weights = raw(weight)
        one = np.ones(x.shape[1], weights.dtype)
        shifted = s.ops.batch_norm(x, weight=one, bias=-value * one, running_mean=0 * one, running_var=one, eps=0.0)
        return own(shifted, weight=weight, bias=value * weights.sum((1, 2, 3)), **options)

    return (Change("conv2d", CONVOLUTION_3X3, convolve),)


def values_of_padding(site: Site) -> Iterator[float]:
    """What integer 0 is to pixels, and the number that a frame has to hold for what was found at the border."""
    yield ZERO_OF_INT8_PIXELS
    call = site.ends_with("conv2d")
    if call is None or site.found.shape != site.expected.shape:
        return
    (x,), options = call
    p = options["padding"]
    frame = np.pad(np.zeros((1, *x.shape[1:])), [(0, 0), (0, 0), (p, p), (p, p)], constant_values=1)
    influence = conv2d(frame, **options | {"padding": 0})
    clear = np.broadcast_to(np.abs(influence) > 0.3 * np.abs(influence).max(), site.found.shape)
    value = float(np.median(((site.found - site.expected) / np.where(influence == 0, 1, influence))[clear]))
    largest = np.abs(x).max()
    if 1e-3 * largest < abs(value) < 2 * largest:  # a number that integers with the scale of this map can be
        yield value


# Kernels ------------------------------------------------------------------------------------------------------------


def kernels(where: str, move: Callable[[Array], Array]) -> Change:
    """Put the weights of each kernel that `where` names at other places."""
    return Change(
        "parameters", where, lambda _s, parameters: parameters | {"weight": moved(parameters["weight"], move)}
    )


def dense(move: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Leave depthwise kernels as they are."""
    return lambda weight: weight if weight.shape[1] == 1 else move(weight)


def exchanged(weight: Array) -> Array:
    """Input and output channels exchanged, which only shows where they are as many."""
    return weight.swapaxes(0, 1) if weight.shape[0] == weight.shape[1] else weight


def read_as_hwio(weight: Array) -> Array:
    """(O, I, h, w) in memory, read as (h, w, I, O)."""
    outputs, inputs, height, width = weight.shape
    return weight.reshape(height, width, inputs, outputs).transpose(3, 2, 0, 1)


def read_as_oihw(weight: Array) -> Array:
    """(h, w, I, O) in memory, read as (O, I, h, w)."""
    return weight.transpose(2, 3, 1, 0).reshape(weight.shape)


# Groups, biases, activations ---------------------------------------------------------------------------------------


def first_channel_for_all(_s: Scope, own: Own, x: Any, **options: Any) -> Any:
    return own(x[:, :1], **options | {"groups": 1})


def every_channel_for_all(_s: Scope, own: Own, x: Any, *, weight: Any, groups: int, **options: Any) -> Any:
    """A dense convolution whose kernels are all alike in the inputs: (C, 1, h, w) becomes (C, C, h, w)."""
    return own(x, weight=moved(weight, lambda w: np.repeat(w, groups, axis=1)), groups=1, **options)


def with_bias(bias: Any) -> tuple[Change, ...]:
    """Add a bias to the projections to tokens. `bias` is an array (O,), or makes one of the weight."""

    def convolve(_s: Scope, own: Own, x: Any, *, weight: Any, **options: Any) -> Any:
        weights = raw(weight)
        added = np.asarray(bias(weights) if callable(bias) else bias, weights.dtype)
        if added.shape == weights.shape[:1]:
            options.setdefault("bias", added)
        return own(x, weight=weight, **options)

    return (Change("conv2d", INTO_TOKENS, convolve),)


def biases(site: Site) -> Iterator[NDArray[Any]]:
    """What every pixel of a channel has too much."""
    call = site.ends_with("conv2d")
    if call is None or "bias" in call[1] or site.found.shape != site.expected.shape:
        return
    (x,) = call[0]
    pixels = site.found.size // site.found.shape[1]
    # where all pixels are alike, any other kernel would look like a bias
    if pixels >= FEWEST_PIXELS and np.median(x.std((0, 2, 3))) > LEAST_VARIATION * np.sqrt(np.square(x).mean()):
        yield np.median(site.found - site.expected, axis=(0, 2, 3))


def activation_at(where: str) -> Callable[[str], tuple[Change, ...]]:
    """Another activation on what nodes report."""
    return lambda name: (Change("out", where, lambda s, x: s.ops.activations[name](x)),)


def usual_activations(site: Site) -> Iterable[str]:
    return dict.fromkeys((site.config.hidden_act, "relu6", "relu"))


def other_activations(site: Site) -> Iterable[str]:
    return [name for name in ("relu6", "relu", "hardswish", "gelu") if name != site.config.hidden_act]


def replaced(where: str) -> Callable[[str], tuple[Change, ...]]:
    """An activation instead of another."""
    return lambda name: (Change("activation", where, lambda s, _own, x: s.ops.activations[name](x)),)


def fresh_normalization(s: Scope, x: Any, eps: float) -> Any:
    """Batch normalisation with the parameters that it is created with."""
    one = np.ones(x.shape[1], raw(x).dtype)
    return s.ops.batch_norm(x, weight=one, bias=0 * one, running_mean=0 * one, running_var=one, eps=eps)


def normalized_tokens(activation: str | None) -> Callable[[float], tuple[Change, ...]]:
    """A fresh normalisation, and perhaps an activation, behind the projection to tokens; its value is the eps."""

    def make(eps: float) -> tuple[Change, ...]:
        def out(s: Scope, x: Any) -> Any:
            y = fresh_normalization(s, x, eps)
            return y if activation is None else s.ops.activations[activation](y)

        return (Change("out", INTO_TOKENS, out),)

    return make


def unchanged(_s: Scope, _own: Own, x: Any, **_parameters: Any) -> Any:
    """Nothing is done."""
    return x


# Inverted residuals -------------------------------------------------------------------------------------------------


def stride_at(place: str) -> Change:
    """The stride of a block at another of its convolutions."""

    def inverted_residual(s: Scope, own: Own, x: Any, *, activation: str, stride: int = 1, dilation: int = 1) -> Any:
        if stride == 1:
            return own(s, x, activation=activation, dilation=dilation)
        strides = dict.fromkeys(("expand_1x1", "conv_3x3", "reduce_1x1"), 1) | {place: stride}
        y = conv_layer(s.at("expand_1x1"), x, activation=activation, stride=strides["expand_1x1"])
        y = conv_layer(s.at("conv_3x3"), y, activation=activation, dilation=dilation, groups=y.shape[1])
        return s.out(conv_layer(s.at("reduce_1x1"), y, activation=None, stride=strides["reduce_1x1"]))

    return Change("inverted_residual", INVERTED_RESIDUAL, inverted_residual)


def without_stride(s: Scope, own: Own, x: Any, *, activation: str, stride: int = 1, dilation: int = 1) -> Any:
    return own(s, x, activation=activation, dilation=dilation)


def widened(width: Callable[[int, Any], int]) -> Callable[[Any], tuple[Change, ...]]:
    """Blocks of another width: `width` is told that of the input and the ratio. Weights are repeated or cut off.

    Those of a port are not known: of its tensors only the shapes will be these.
    """

    def make(ratio: Any) -> tuple[Change, ...]:
        def fitting(s: Scope, parameters: dict[str, Any]) -> dict[str, Any]:
            block, layer, _leaf = s.name.rsplit(".", 2)
            wide, narrow, *_ = s.weights[f"{block}.expand_1x1.convolution.weight"].shape
            taken = np.arange(width(narrow, ratio)) % wide
            if layer != "reduce_1x1":
                return {name: moved(p, lambda a: a[taken]) for name, p in parameters.items()}
            return {name: moved(p, lambda a: a[:, taken]) if p.shape[1:] else p for name, p in parameters.items()}

        return (Change("parameters", WIDTHS, fitting),)

    return make


def other_ratios(site: Site) -> Iterator[int]:
    """The ratio that a block of the width that was found has."""
    if site.found.ndim != 4 or site.found.shape[2:] != site.expected.shape[2:]:
        return
    ratio = site.config.expand_ratio * site.found.shape[1] / site.expected.shape[1]
    if site.found.shape[1] != site.expected.shape[1] and abs(ratio - round(ratio)) < 0.1:
        yield round(ratio)


def skipped_expansion(s: Scope, own: Own, x: Any, **options: Any) -> Any:
    """No expansion where it would not widen the map."""
    wide, narrow, *_ = s.weights[f"{s.name}.convolution.weight"].shape
    return own(s, x, **options) if wide > narrow else x


ALL_WRONG = "All shapes agree, but the network sees other features: labels are mostly wrong."

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "CNV-01",
        "padding (0, 1) where a side is even, as SAME of TensorFlow pads; expected (1, 1)",
        consequence="Every halved map is shifted by a pixel: accuracy drops without an error.",
        fix="Pad by one on all sides and convolve without padding (VALID) where the stride is 2.",
        make=changes(padded_by(lambda sides: [same_padding(side) for side in sides])),
    ),
    Mutant(
        "CNV-01",
        "padding (0, 1) on even and odd sides alike; expected (1, 1)",
        variant="always",
        consequence="Every halved map is shifted by a pixel, and is one pixel smaller where the side is odd.",
        fix="Pad by one on all sides and convolve without padding (VALID) where the stride is 2.",
        make=changes(padded_by(lambda _sides: [(0, 1), (0, 1)])),
    ),
    Mutant(
        "CNV-02",
        "every filter sees the first channel; expected groups equal to the number of channels",
        consequence="The depthwise convolutions see one channel of many: labels are mostly wrong.",
        fix="Give the depthwise convolutions as many groups as channels.",
        make=changes(Change("conv2d", DEPTHWISE, first_channel_for_all)),
    ),
    Mutant(
        "CNV-02",
        "every filter sees the sum of all channels; expected groups equal to the number of channels",
        variant="dense",
        consequence="The depthwise convolutions mix all channels: labels are mostly wrong.",
        fix="Give the depthwise convolutions as many groups as channels, or fill the dense kernel with zeros.",
        make=changes(Change("conv2d", DEPTHWISE, every_channel_for_all)),
    ),
    Mutant(
        "CNV-03",
        "input and output channels of the kernel exchanged; expected (out, in, height, width)",
        consequence=ALL_WRONG,
        fix="Keep the order (out, in, height, width), or transpose by (2, 3, 1, 0) for (height, width, in, out).",
        make=changes(kernels(KERNELS, dense(exchanged))),
    ),
    Mutant(
        "CNV-03",
        "the kernel (out, in, height, width) read as (height, width, in, out)",
        variant="HWIO",
        consequence=ALL_WRONG,
        fix="Transpose the kernel, do not reshape it: (2, 3, 1, 0) makes (height, width, in, out) of it.",
        make=changes(kernels(KERNELS, dense(read_as_hwio))),
    ),
    Mutant(
        "CNV-03",
        "a kernel (height, width, in, out) read as (out, in, height, width)",
        variant="OIHW",
        consequence=ALL_WRONG,
        fix="Transpose the kernel by (3, 2, 0, 1), do not reshape it.",
        make=changes(kernels(KERNELS, dense(read_as_oihw))),
    ),
    Mutant(
        "CNV-03",
        "rows and columns of the kernel exchanged; expected (out, in, height, width)",
        variant="rows",
        consequence="The kernels see the picture mirrored at its diagonal: accuracy drops without an error.",
        fix="Transpose by (3, 2, 0, 1) from (height, width, in, out); a full transposition exchanges height and width.",
        make=changes(kernels(KERNELS, lambda weight: weight.swapaxes(2, 3))),
    ),
    Mutant(
        "CNV-05",
        "the kernel is turned by 180 degrees; expected a correlation, which does not turn it",
        consequence="The kernels see the picture turned around: labels are mostly wrong.",
        fix="Use a correlation, or turn the kernels before a true convolution.",
        make=changes(kernels(KERNELS, lambda weight: weight[:, :, ::-1, ::-1])),
    ),
    Mutant(
        "CNV-06",
        "the depthwise kernel (channels, 1, height, width) read as (height, width, channels, 1)",
        consequence="Each depthwise filter is made of weights of several: labels are mostly wrong.",
        fix="Transpose the depthwise kernels by (2, 3, 0, 1), do not reshape them.",
        make=changes(
            kernels(rf"{DEPTHWISE}\.convolution", lambda w: w.reshape(w[0].size, -1).T.reshape(w.shape)),
        ),
    ),
    Mutant(
        "CNV-06",
        "a depthwise kernel (height, width, channels, 1) read as (channels, 1, height, width)",
        variant="reverse",
        consequence="Each depthwise filter is made of weights of several: labels are mostly wrong.",
        fix="Transpose the depthwise kernels by (2, 3, 0, 1), do not reshape them.",
        make=changes(
            kernels(rf"{DEPTHWISE}\.convolution", lambda w: w.reshape(len(w), -1).T.reshape(w.shape)),
        ),
    ),
    Mutant(
        "CNV-07",
        "padded with copies of the edge; expected zeros",
        consequence="Values near the borders are off, in small maps nearly all of them.",
        fix="Pad with zeros.",
        make=changes(padded_like("edge")),
    ),
    Mutant(
        "CNV-07",
        "padded with the map mirrored at its edge; expected zeros",
        variant="mirrored",
        consequence="Values near the borders are off, in small maps nearly all of them.",
        fix="Pad with zeros.",
        make=changes(padded_like("reflect")),
    ),
    Mutant(
        "CNV-08",
        "padded with {value}; expected 0, which is the zero point of a quantised map and not integer 0",
        consequence="Values near the borders are off, in small maps nearly all of them.",
        fix="Pad quantised maps with their zero point.",
        make=padded_with,
        values=values_of_padding,
        examples=(ZERO_OF_INT8_PIXELS,),
        fitted=True,
    ),
    Mutant(
        "CNV-10",
        "a bias is added; expected none, as this convolution has bias=False",
        consequence="Every channel is off by a number of its own.",
        fix="Do not pass a bias here; a generic layer must not read one from unset or foreign memory.",
        make=with_bias,
        values=biases,
        examples=(lambda weight: 0.1 * weight[:, 0, 0, 0],),
        fitted=True,
    ),
    Mutant(
        "CNV-11",
        "{value} behind the projection to tokens; expected neither normalisation nor activation",
        consequence="Tokens lose their negative values: labels are mostly wrong.",
        fix="conv_1x1 of a MobileViT block is a bare convolution: leave out the activation.",
        make=activation_at(INTO_TOKENS),
        values=usual_activations,
        examples=("silu",),
    ),
    Mutant(
        "CNV-11",
        "fresh batch normalisation of eps {value} and silu behind the projection to tokens; expected neither",
        variant="normalised",
        consequence="Tokens lose their negative values: labels are mostly wrong.",
        fix="conv_1x1 of a MobileViT block is a bare convolution: leave out normalisation and activation.",
        make=normalized_tokens("silu"),
        values=lambda _site: (1e-5, 1e-3),
        examples=(1e-3,),
    ),
    Mutant(
        "CNV-11",
        "fresh batch normalisation of eps {value} behind the projection to tokens; expected none",
        variant="only-normalised",
        consequence="Tokens are a little too small, and the checkpoint has no parameters for this layer.",
        fix="conv_1x1 of a MobileViT block is a bare convolution: leave out the normalisation.",
        make=normalized_tokens(None),
        values=lambda _site: (1e-5, 1e-3),
        examples=(1e-3,),
    ),
    Mutant(
        "CNV-12",
        "no activation in the stem; expected hidden_act",
        consequence="All layers work on values they were not trained for: labels are mostly wrong.",
        fix="Put normalisation and activation behind the convolution of the stem.",
        make=changes(Change("activation", STEM, unchanged)),
    ),
    Mutant(
        "CNV-12",
        "no normalisation in the stem",
        variant="normalisation",
        consequence="All layers work on values they were not trained for: labels are mostly wrong.",
        fix="Put normalisation and activation behind the convolution of the stem.",
        make=changes(Change("batch_norm", STEM, unchanged)),
    ),
    Mutant(
        "CNV-12",
        "neither normalisation nor activation in the stem",
        variant="both",
        consequence="All layers work on values they were not trained for: labels are mostly wrong.",
        fix="Put normalisation and activation behind the convolution of the stem.",
        make=changes(Change("batch_norm", STEM, unchanged), Change("activation", STEM, unchanged)),
    ),
    Mutant(
        "MV2-01",
        "{value} behind reduce_1x1; expected no activation there",
        consequence="The narrow maps lose their negative values: labels are mostly wrong.",
        fix="Leave the activation out of the last convolution of an inverted residual.",
        make=activation_at(REDUCTION),
        values=usual_activations,
        examples=("silu",),
    ),
    Mutant(
        "MV2-01",
        "{value} behind the whole block; expected no activation there",
        variant="block",
        consequence="The narrow maps lose their negative values: labels are mostly wrong.",
        fix="Leave the activation out of the end of an inverted residual, behind its addition, too.",
        make=activation_at(INVERTED_RESIDUAL),
        values=usual_activations,
        examples=("silu",),
    ),
    Mutant(
        "MV2-02",
        "no activation behind the expansion; expected hidden_act",
        consequence="Expansion and depthwise convolution collapse into one linear map: labels are mostly wrong.",
        fix="Put the activation behind expand_1x1.",
        make=changes(Change("activation", EXPANSION, unchanged)),
    ),
    Mutant(
        "MV2-02",
        "no activation behind the depthwise convolution; expected hidden_act",
        variant="depthwise",
        consequence="Depthwise convolution and reduction collapse into one linear map: labels are mostly wrong.",
        fix="Put the activation behind conv_3x3.",
        make=changes(Change("activation", DEPTHWISE, unchanged)),
    ),
    Mutant(
        "MV2-02",
        "{value} in an inverted residual, as MobileNetV2 may have; expected hidden_act of config.json",
        variant="other",
        consequence="Small and negative values come out different: accuracy drops without an error.",
        fix="Use hidden_act of config.json, silu in all released checkpoints.",
        make=replaced(f"{EXPANSION}|{DEPTHWISE}"),
        values=other_activations,
        examples=("relu6", "relu"),
    ),
    Mutant(
        "MV2-04",
        "the input is not added; expected a residual where the stride is 1 and the widths agree",
        consequence="What the blocks before found is lost: labels are mostly wrong.",
        fix="Add the input of an inverted residual to its output where both have the same shape.",
        make=changes(Change("add", INVERTED_RESIDUAL, lambda _s, _own, _x, y: y)),
    ),
    Mutant(
        "MV2-05",
        "{value} times as wide as the input; expected expand_ratio of config.json",
        consequence="The checkpoint does not fit, and weights that were made to fit mean nothing.",
        fix="Read expand_ratio from config.json: 2 for xxs, 4 for xs and s.",
        make=widened(lambda narrow, ratio: make_divisible(round(narrow * ratio))),
        values=other_ratios,
        examples=(4,),
        by_shape=True,
    ),
    Mutant(
        "MV2-06",
        "int(width * {value}) channels; expected that rounded to a multiple of 8",
        consequence="The checkpoint does not fit where the width of the expansion is no multiple of 8.",
        fix="Round expanded widths as make_divisible of transformers does.",
        make=widened(lambda narrow, ratio: int(narrow * ratio)),
        values=lambda site: (site.config.expand_ratio,),
        examples=(2.0,),
        by_shape=True,
        equivalent="All expanded widths of the released networks are multiples of 8.",
    ),
    Mutant(
        "MV2-07",
        "stride 1 in a block that halves the map; expected 2",
        variant="none",
        consequence="The map never shrinks: all later layers see the picture at another scale.",
        fix="Give the stride of an inverted residual to its depthwise convolution.",
        make=changes(Change("inverted_residual", INVERTED_RESIDUAL, without_stride)),
    ),
    Mutant(
        "MV2-07",
        "the stride is in reduce_1x1; expected in conv_3x3",
        variant="reduce",
        consequence="Maps of the depthwise convolution are four times as large as they need to be.",
        fix="Give the stride of an inverted residual to its depthwise convolution.",
        make=changes(stride_at("reduce_1x1")),
    ),
    Mutant(
        "MV2-07",
        "the stride is in expand_1x1; expected in conv_3x3",
        consequence="Three pixels of four are not looked at: labels are mostly wrong.",
        fix="Give the stride of an inverted residual to its depthwise convolution.",
        make=changes(stride_at("expand_1x1")),
    ),
    Mutant(
        "MV2-08",
        "no expansion where it does not widen the map; expected expand_1x1 in every inverted residual",
        consequence="A convolution of the checkpoint is left out where expand_ratio is 1.",
        fix="Run expand_1x1 whatever expand_ratio is.",
        make=changes(Change("conv_layer", EXPANSION, skipped_expansion)),
    ),
)
