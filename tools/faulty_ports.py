"""Ports of MobileViT with one mistake each, and where a check must find it.

A mistake is injected into a copy of transformers' model. `catalogue` is its id in the catalogue of porting bugs.

    pip install torch==2.13.0 transformers==5.23.0    # group `framework` of pyproject.toml
    python tools/faulty_ports.py                      # list them

tools/injected_mistakes.py holds a check against them, tools/ports.py has the ports that are right.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import ports
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import SiLUActivation
from transformers.models.mobilevit.modeling_mobilevit import (
    MobileViTASPP,
    MobileViTASPPPooling,
    MobileViTLayer,
    MobileViTOutput,
    MobileViTSelfAttention,
    MobileViTTransformerLayer,
)

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]  # of the right network's taps, in the order of the forward pass
Where: TypeAlias = Callable[[Shapes], frozenset[str]]
Change: TypeAlias = Callable[[nn.Module], None]

BLOCK = r"encoder\.layer\.[234]"
TOKEN_LAYER = BLOCK + r"\.transformer\.layer\.\d"
ATTENTION = TOKEN_LAYER + r"\.attention\.attention"
LAYER_NORM = rf"{BLOCK}\.(layernorm|transformer\.layer\.\d\.layernorm_(before|after))"


def at(*patterns: str) -> Where:
    """The taps whose whole name, without "mobilevit.", matches one of the patterns."""
    wanted = re.compile("|".join(rf"(?:{pattern})" for pattern in patterns))
    return lambda shapes: frozenset(tap for tap in shapes if wanted.fullmatch(tap.removeprefix("mobilevit.")))


def nowhere(_shapes: Shapes) -> frozenset[str]:
    return frozenset()


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes
    ----------
    id : str
    catalogue : str
    description : str
    inject : callable (model) -> None
    where : callable (shapes) -> set of str
        The taps that are not what the taps before them should have become, when all taps are dumped. Empty where
        the input cannot show the mistake.
    also : callable (shapes) -> set of str
        Taps that may be blamed besides, as the mistake passes through them too.
    task : {"classification", "segmentation"} or None
        The only task that can have it.
    behaves_as : str or None
        The profile that explains what was found.
    combines : bool
        Whether other mistakes can be injected elsewhere at the same time.
    """

    id: str
    catalogue: str
    description: str
    inject: Change
    where: Where
    also: Where = nowhere
    task: str | None = None
    behaves_as: str | None = None
    combines: bool = True


def run(mistakes: Iterable[Mistake], model: nn.Module, pixel_values: NDArray[np.float32]) -> ports.Taps:
    """What a port with these mistakes dumps; see `ports.run`."""

    def inject(ported: nn.Module) -> None:
        for mistake in mistakes:
            mistake.inject(ported)

    return ports.run(ports.Port("faulty", "", "fp32", "", inject), model, pixel_values)


def shapes_of(taps: ports.Taps) -> Shapes:
    return {name: value.shape for name, value in taps.items()}


INNER_LEAVES = re.compile(
    r".*\.(convolution|normalization|activation|intermediate_act_fn|dense|query|key|value|global_pool)"
)


def is_module_level(tap: str) -> bool:
    """Whether a port whose layers are fused would still have this tap."""
    return not INNER_LEAVES.fullmatch(tap)


def at_module_level(taps: Iterable[str]) -> frozenset[str]:
    """Where mistakes at these taps appear if only taps at the level of modules are dumped: in the layer around."""
    return frozenset(tap if is_module_level(tap) else tap.rpartition(".")[0] for tap in taps)


# Injecting ---------------------------------------------------------------------------------------------------------


def named(model: nn.Module, pattern: str) -> list[Any]:
    """The modules whose whole name, without "mobilevit.", matches."""
    wanted = re.compile(pattern)
    return [module for name, module in list(model.named_modules()) if wanted.fullmatch(name.removeprefix("mobilevit."))]


def each(pattern: str, change: Callable[[Any], None]) -> Change:
    """Change all modules of this name."""

    def inject(model: nn.Module) -> None:
        for module in named(model, pattern):
            change(module)

    return inject


def every(kind: Any, change: Callable[[Any], None]) -> Change:
    """Change all modules of this class."""

    def inject(model: nn.Module) -> None:
        for module in ports.modules(model, kind):
            change(module)

    return inject


def assign(**values: Any) -> Callable[[Any], None]:
    """Give attributes of a module these values."""

    def change(module: nn.Module) -> None:
        for name, value in values.items():
            setattr(module, name, value)

    return change


def weigh(edit: Callable[[Tensor], Tensor]) -> Callable[[Any], None]:
    """Replace a module's weight."""

    def change(module: nn.Module) -> None:
        module.weight.data = edit(module.weight.data).contiguous()

    return change


def without_bias(module: nn.Module) -> None:
    module.bias.data.zero_()


def compute(forward: Callable[..., Any]) -> Callable[[Any], None]:
    """Let ``forward(module, ...)`` take the place of the module's own."""
    return lambda module: ports.replace_forward(module, forward)


def activate_result(module: nn.Module) -> None:
    own = module.forward
    module.forward = lambda x: F.silu(own(x))


def exchange(first: str, second: str) -> Callable[[Any], None]:
    """Swap two parameters, or the parameters of two children, of a module."""

    def change(module: Any) -> None:
        a, b = getattr(module, first), getattr(module, second)
        for x, y in [(a, b)] if isinstance(a, Tensor) else zip(a.parameters(), b.parameters(), strict=True):
            x.data, y.data = y.data.clone(), x.data.clone()

    return change


# Convolutions ------------------------------------------------------------------------------------------------------

NETWORK_3X3 = rf"(conv_stem|encoder\..*\.conv_3x3|{BLOCK}\.(conv_kxk|fusion))\.convolution"
CONVOLUTION_3X3 = rf"({NETWORK_3X3}|segmentation_head\.aspp\.convs\.[123]\.convolution)"
DEPTHWISE = r"encoder\..*\.conv_3x3\.convolution"


def pad_like_tensorflow(convolution: nn.Conv2d) -> None:
    """SAME: what is missing on both sides together, the larger half behind."""
    if convolution.stride != (2, 2):
        return

    def forward(convolution: nn.Conv2d, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (same_padding(side) for side in x.shape[2:])
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, convolution.weight, stride=2, groups=convolution.groups)

    ports.replace_forward(convolution, forward)


def same_padding(side: int) -> tuple[int, int]:
    total = (-(-side // 2) - 1) * 2 + 3 - side
    return total // 2, total - total // 2


def where_padding_is_uneven(shapes: Shapes) -> frozenset[str]:
    """The convolutions of stride 2 whose input has an even side: an odd one is padded by one on either side."""
    inputs = {"mobilevit.conv_stem.convolution": "pixel_values"}
    for tap in shapes:
        if tap.endswith(".conv_3x3.convolution"):
            inputs[tap] = tap.replace("conv_3x3.convolution", "expand_1x1")
    return frozenset(
        tap
        for tap, source in inputs.items()
        if shapes[tap][2:] != shapes[source][2:] and any(side % 2 == 0 for side in shapes[source][2:])
    )


def replicate_edges(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """What is beyond the edge is like the edge."""
    (padding, _) = convolution.padding
    x = F.pad(x, [padding] * 4, mode="replicate")
    return F.conv2d(x, convolution.weight, None, convolution.stride, 0, convolution.dilation, convolution.groups)


def filter_first_channel(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Groups ignored: every filter sees the first channel."""
    return F.conv2d(x[:, :1], convolution.weight, None, convolution.stride, convolution.padding, convolution.dilation)


def flip_one_bit(convolution: nn.Conv2d) -> None:
    """The highest bit of the mantissa of one weight."""
    bits = convolution.weight.data.view(torch.int32)
    bits[3, 5, 1, 1] ^= 1 << 22


# Normalisations ----------------------------------------------------------------------------------------------------

BATCH_NORM = r".*\.normalization"


def variance_is_deviation(norm: nn.BatchNorm2d) -> None:
    norm.running_var = norm.running_var**2


def use_batch_statistics(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def fold_with_wrong_eps(model: nn.Module) -> None:
    every(nn.BatchNorm2d, assign(eps=1e-3))(model)
    ports.fold_normalization(model)


def normalise_tokens(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Over the tokens of a sequence, not over a token's channels."""
    variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
    return (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


def normalise_only(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, eps=norm.eps)


# Patches -----------------------------------------------------------------------------------------------------------


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool | None = False, mode: str = "bilinear") -> Tensor:
    return F.interpolate(x, size=size, mode=mode, align_corners=align_corners)


def whole_patches(x: Tensor) -> tuple[int, int]:
    height, width = (side + side % 2 for side in x.shape[2:])
    return height, width


def unfold_with(change: Callable[[Tensor, tuple[int, int]], Tensor]) -> Callable[[Any], None]:
    """Resize to whole patches in another way."""

    def patch(block: MobileViTLayer) -> None:
        def unfolding(x: Tensor) -> tuple[Tensor, dict[str, Any]]:
            grid = whole_patches(x)
            tokens, info = MobileViTLayer.unfolding(block, change(x, grid))
            return tokens, info | {"orig_size": tuple(x.shape[2:]), "interpolate": grid != tuple(x.shape[2:])}

        block.unfolding = unfolding

    return patch


def fold_with(change: Callable[[Tensor, tuple[int, int]], Tensor]) -> Callable[[Any], None]:
    """Resize from whole patches in another way."""

    def patch(block: MobileViTLayer) -> None:
        def folding(tokens: Tensor, info: dict[str, Any]) -> Tensor:
            y = MobileViTLayer.folding(block, tokens, info | {"interpolate": False})
            return change(y, info["orig_size"])

        block.folding = folding

    return patch


def align_corners(block: MobileViTLayer) -> None:
    def aligned(x: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(x, size, align_corners=True)

    unfold_with(aligned)(block)
    fold_with(aligned)(block)


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    return resize(x, size, mode="nearest", align_corners=None)


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x[..., : size[0], : size[1]]


def reshape_instead_of_unfold(block: MobileViTLayer) -> None:
    """Pixels in raster order, cut into four sequences; and back."""

    def unfolding(x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        tokens, info = MobileViTLayer.unfolding(block, x)
        raster = resize(x, whole_patches(x)).flatten(2).transpose(1, 2)  # (N, H*W, D)
        return raster.reshape(tokens.shape), info

    def folding(tokens: Tensor, info: dict[str, Any]) -> Tensor:
        sides = [2 * info[f"num_patches_{axis}"] for axis in ("height", "width")]
        raster = tokens.reshape(info["batch_size"], -1, info["channels"])
        return resize(raster.transpose(1, 2).unflatten(2, sides), info["orig_size"])

    block.unfolding, block.folding = unfolding, folding


def transpose_patches(block: MobileViTLayer) -> None:
    """Rows and columns of a patch swapped on the way back."""

    def folding(tokens: Tensor, info: dict[str, Any]) -> Tensor:
        swapped = tokens.unflatten(0, (-1, 4))[:, [0, 2, 1, 3]].flatten(0, 1)
        return MobileViTLayer.folding(block, swapped, info)

    block.folding = folding


def resize_after_projection(block: MobileViTLayer) -> None:
    fold_with(lambda y, _size: y)(block)
    ports.replace_forward(block, ports.block_forward, join=lambda x, y: torch.cat((x, resize(y, x.shape[2:])), dim=1))


def uneven_blocks(shapes: Shapes) -> list[str]:
    """The MobileViT blocks whose map is not made of whole patches."""
    maps = {tap.removesuffix(".conv_1x1"): shape for tap, shape in shapes.items() if tap.endswith(".conv_1x1")}
    return [block for block, shape in maps.items() if ".layer." in block and (shape[2] % 2 or shape[3] % 2)]


def in_uneven_blocks(*leaves: str) -> Where:
    return lambda shapes: frozenset(f"{block}.{leaf}" for block in uneven_blocks(shapes) for leaf in leaves)


# The first tokens are no tap: a mistake in them shows where they are read first, and perhaps where they are read again.
FIRST_READER = "transformer.layer.0.layernorm_before"
LATER_READERS = ("transformer.layer.0.layernorm_after", "transformer.layer.0.output")
FOLD_READER = "conv_projection.convolution"


# Attention ---------------------------------------------------------------------------------------------------------


def set_heads(heads: int) -> Change:
    def change(attention: MobileViTSelfAttention) -> None:
        attention.num_attention_heads, attention.attention_head_size = heads, attention.all_head_size // heads

    return every(MobileViTSelfAttention, change)


def scale_scores(factor: Callable[[Tensor], float]) -> Change:
    """Multiply the scaled scores by a factor that depends on the query (S, h, L, d)."""
    return ports.attend_by(lambda query, key, value: ports.weighted_mean(query * factor(query), key, value))


def softmax_over_queries(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return F.softmax(scores, dim=-2) @ value


def cut_by_head(module: MobileViTSelfAttention, packed: Tensor) -> tuple[Tensor, ...]:
    """Read rows that are packed (3, h, d) as (h, 3, d)."""
    by_head = packed.unflatten(-1, (module.num_attention_heads, 3, -1))
    return tuple(part.flatten(-2) for part in by_head.unbind(dim=-2))


def interleave_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Heads that own every h-th channel, (d, h) where (h, d) is meant. All (S, h, L, d)"""

    def split_again(x: Tensor) -> Tensor:
        return ports.merge_heads(x).unflatten(-1, (-1, x.shape[1])).permute(0, 3, 1, 2)

    return ports.weighted_mean(*(split_again(x) for x in (query, key, value)))


# Transformer -------------------------------------------------------------------------------------------------------


def normalise_afterwards(layer: MobileViTTransformerLayer, x: Tensor) -> Tensor:
    x = layer.layernorm_before(layer.attention(x) + x)
    return layer.layernorm_after(layer.output(layer.intermediate(x), x))


def forget_residual(output: MobileViTOutput, x: Tensor, _residual: Tensor) -> Tensor:
    return output.dense(x)


def activate_twice(output: MobileViTOutput, x: Tensor, residual: Tensor) -> Tensor:
    return F.silu(output.dense(x)) + residual


def drop_last_layer(model: nn.Module) -> None:
    (transformer,) = named(model, r"encoder\.layer\.4\.transformer")
    transformer.layer = transformer.layer[:-1]


def load_next_layer(model: nn.Module) -> None:
    first, second = named(model, r"encoder\.layer\.3\.transformer\.layer\.[01]")
    first.load_state_dict(copy.deepcopy(second.state_dict()))


PARAMETERS_OF_A_LAYER = (
    r"layernorm_before", r"attention\.attention\.(query|key|value)", r"attention\.output\.dense", r"layernorm_after",
    r"(intermediate|output)\.dense",
)  # fmt: skip


# Fusion and heads --------------------------------------------------------------------------------------------------


def swap_halves(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    x, y = x.chunk(2, dim=1)
    return F.conv2d(torch.cat((y, x), dim=1), convolution.weight, padding=convolution.padding)


def add_halves(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    x, y = x.chunk(2, dim=1)
    return F.conv2d(x + y, convolution.weight[:, : x.shape[1]], padding=convolution.padding)


def first_picture_again(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """What came into the block is taken from a buffer that only the first picture wrote to."""
    x, y = x.chunk(2, dim=1)
    x = x[:1].expand_as(x)
    return F.conv2d(torch.cat((x, y), dim=1), convolution.weight, padding=convolution.padding)


def where_there_are_two_pictures(shapes: Shapes) -> frozenset[str]:
    return at(rf"{BLOCK}\.fusion\.convolution")(shapes) if shapes["pixel_values"][0] > 1 else frozenset()


ASPP = r"segmentation_head\.aspp"


def pool_first(aspp: MobileViTASPP, x: Tensor) -> Tensor:
    *branches, pool = (branch(x) for branch in aspp.convs)
    return aspp.project(torch.cat((pool, *branches), dim=1))


def no_pool(pooling: MobileViTASPPPooling, x: Tensor) -> Tensor:
    channels = pooling.conv_1x1.convolution.out_channels
    return x.new_zeros(len(x), channels, *x.shape[2:])


def dilate(change: Callable[[list[int]], Iterable[int]]) -> Change:
    """Give the three dilated branches other rates."""

    def inject(model: nn.Module) -> None:
        convolutions = named(model, rf"{ASPP}\.convs\.[123]\.convolution")
        rates = change([convolution.dilation[0] for convolution in convolutions])
        for convolution, rate in zip(convolutions, rates, strict=True):
            convolution.dilation = convolution.padding = (rate, rate)

    return inject


# Arithmetic --------------------------------------------------------------------------------------------------------

INNER_PRODUCTS = at(r".*\.(convolution|query|key|value|dense)", r"classifier", ATTENTION)


def sum_in_half(a: Tensor, b: Tensor) -> Tensor:
    return ports.in_half(a.half(), b.half()).float()


def table_of_silu(_module: nn.Module, x: Tensor) -> Tensor:
    """Straight lines between 257 points of -8..8."""
    points = F.silu(torch.linspace(-8, 8, 257))
    position = (x.clamp(-8, 8) + 8) * 16
    below = position.floor().clamp(max=255).long()
    line = points[below] + (position - below) * (points[below + 1] - points[below])
    return torch.where(x > 8, x, torch.where(x < -8, torch.zeros(()), line))


MISTAKES: tuple[Mistake, ...] = (
    # convolutions
    Mistake(
        "CNV-01", "CNV-01", "SAME padding of TensorFlow where the stride is 2",
        each(CONVOLUTION_3X3, pad_like_tensorflow), where_padding_is_uneven,
    ),
    Mistake(
        "CNV-02", "CNV-02", "groups ignored in depthwise convolutions",
        each(DEPTHWISE, compute(filter_first_channel)), at(DEPTHWISE),
    ),
    Mistake(
        "CNV-03", "CNV-03", "input and output channels of conv_kxk swapped",
        each(rf"{BLOCK}\.conv_kxk\.convolution", weigh(lambda w: w.transpose(0, 1))),
        at(rf"{BLOCK}\.conv_kxk\.convolution"),
    ),
    Mistake(
        "CNV-05", "CNV-05", "kernels of 3x3 turned by 180 degrees, those of the head left out",  # some see one pixel
        each(NETWORK_3X3, weigh(lambda w: w.flip(2, 3))), at(NETWORK_3X3),
    ),
    Mistake(
        "CNV-06", "CNV-06", "depthwise kernels (C, 1, h, w) read as (h, w, C)",
        each(DEPTHWISE, weigh(lambda w: w.reshape(9, -1).T.reshape(w.shape))), at(DEPTHWISE),
    ),
    Mistake(
        "CNV-07", "CNV-07", "edges repeated instead of zeros",
        each(CONVOLUTION_3X3, compute(replicate_edges)), at(CONVOLUTION_3X3),
    ),
    Mistake(
        "CNV-10", "CNV-10", "a bias added in the projection to tokens",
        each(rf"{BLOCK}\.conv_1x1\.convolution", lambda c: assign(bias=nn.Parameter(0.1 * c.weight[:, 0, 0, 0]))(c)),
        at(rf"{BLOCK}\.conv_1x1\.convolution"),
    ),
    Mistake(
        "CNV-11", "CNV-11", "SiLU after the projection to tokens",
        each(rf"{BLOCK}\.conv_1x1", activate_result), at(rf"{BLOCK}\.conv_1x1"),
    ),
    Mistake("CNV-12", "CNV-12", "no activation", each("conv_stem", assign(activation=None)), at("conv_stem")),
    # normalisations
    Mistake("NRM-01", "NRM-01", "BatchNorm eps 1e-3", every(nn.BatchNorm2d, assign(eps=1e-3)), at(BATCH_NORM)),
    Mistake(
        "NRM-02", "NRM-02", "running variance taken for the deviation",
        every(nn.BatchNorm2d, variance_is_deviation), at(BATCH_NORM),
    ),
    Mistake(
        "NRM-03", "NRM-03", "running statistics not loaded",
        every(nn.BatchNorm2d, nn.BatchNorm2d.reset_running_stats), at(BATCH_NORM),
    ),
    Mistake("NRM-06", "NRM-06", "LayerNorm eps 1e-3", every(nn.LayerNorm, assign(eps=1e-3)), at(LAYER_NORM)),
    Mistake(
        "NRM-07", "NRM-07", "LayerNorm over the tokens",
        every(nn.LayerNorm, compute(normalise_tokens)), at(LAYER_NORM),
    ),
    Mistake(
        "NRM-08", "NRM-08", "LayerNorm without gamma and beta",
        every(nn.LayerNorm, compute(normalise_only)), at(LAYER_NORM),
    ),
    Mistake(
        "NRM-11", "NRM-11", "statistics of the batch",
        every(nn.BatchNorm2d, compute(use_batch_statistics)), at(BATCH_NORM), task="classification",
    ),
    Mistake(
        "NRM-12", "NRM-12", "BatchNorm folded with eps 1e-3",
        fold_with_wrong_eps, at(BATCH_NORM), combines=False,
    ),
    Mistake(
        "WGT-06", "WGT-06", "gamma and beta of BatchNorm swapped",
        every(nn.BatchNorm2d, exchange("weight", "bias")), at(BATCH_NORM),
    ),
    # inverted residuals
    Mistake(
        "MV2-01", "MV2-01", "activation after reduce_1x1",
        each(r"encoder\..*\.reduce_1x1", activate_result), at(r"encoder\..*\.reduce_1x1"),
    ),
    Mistake(
        "MV2-02", "MV2-02", "no activation after the expansion",
        each(r"encoder\..*\.expand_1x1", assign(activation=None)), at(r"encoder\..*\.expand_1x1"),
    ),
    Mistake(
        "MV2-04", "MV2-04", "no residual in repeated blocks",
        each(r"encoder\.layer\.1\.layer\.[12]", assign(use_residual=False)), at(r"encoder\.layer\.1\.layer\.[12]"),
    ),
    # patches
    Mistake(
        "UNF-01", "UNF-01", "reshape instead of unfolding and folding",
        every(MobileViTLayer, reshape_instead_of_unfold), at(rf"{BLOCK}\.({FIRST_READER}|{FOLD_READER})"),
        also=at(*(rf"{BLOCK}\.{leaf}" for leaf in LATER_READERS)),
    ),
    Mistake(
        "UNF-04", "UNF-04", "rows and columns of patches swapped in folding",
        every(MobileViTLayer, transpose_patches), at(rf"{BLOCK}\.{FOLD_READER}"),
    ),
    Mistake(
        "UNF-08", "UNF-08", "cropped, not resized, after folding",
        every(MobileViTLayer, fold_with(crop)), in_uneven_blocks(FOLD_READER),
    ),
    Mistake(
        "UNF-09", "UNF-09", "corners aligned in both resizings",
        every(MobileViTLayer, align_corners), in_uneven_blocks(FIRST_READER, FOLD_READER),
        also=in_uneven_blocks(*LATER_READERS),
    ),
    Mistake(
        "UNF-10", "UNF-10", "nearest pixel in the resizing before unfolding",
        every(MobileViTLayer, unfold_with(nearest)), in_uneven_blocks(FIRST_READER),
        also=in_uneven_blocks(*LATER_READERS),
    ),
    Mistake(
        "UNF-12", "UNF-12", "resized after the projection, not before",
        every(MobileViTLayer, resize_after_projection), in_uneven_blocks(FOLD_READER),
        also=in_uneven_blocks(
            "conv_projection.normalization", "conv_projection.activation", "conv_projection", "fusion.convolution",
            "fusion",
        ),
        combines=False,
    ),
    # attention
    Mistake("ATT-01", "ATT-01", "two heads instead of four", set_heads(2), at(ATTENTION)),
    Mistake("ATT-01-one", "ATT-01", "one head instead of four", set_heads(1), at(ATTENTION)),
    Mistake(
        "ATT-02", "ATT-02", "scores over the root of the whole width",
        scale_scores(lambda query: query.shape[1] ** -0.5), at(ATTENTION),
    ),
    Mistake(
        "ATT-03", "ATT-03", "scores not scaled", scale_scores(lambda query: query.shape[-1] ** 0.5), at(ATTENTION)
    ),
    Mistake(
        "ATT-03-twice", "ATT-03", "scores scaled twice", scale_scores(lambda query: query.shape[-1] ** -0.5),
        at(ATTENTION),
    ),
    Mistake("ATT-04", "ATT-04", "softmax over the queries", ports.attend_by(softmax_over_queries), at(ATTENTION)),
    Mistake(
        "ATT-05", "ATT-05", "packed query, key and value read head by head",
        lambda model: ports.pack_projections(model, cut_by_head), at(rf"{ATTENTION}\.(query|key|value)"),
        combines=False,
    ),
    Mistake(
        "ATT-06", "ATT-06", "no biases of query, key and value",
        each(rf"{ATTENTION}\.(query|key|value)", without_bias), at(rf"{ATTENTION}\.(query|key|value)"),
    ),
    Mistake("ATT-08", "ATT-08", "channels of heads interleaved", ports.attend_by(interleave_heads), at(ATTENTION)),
    Mistake(
        "ATT-10", "ATT-10", "no bias of attention's output",
        each(rf"{TOKEN_LAYER}\.attention\.output\.dense", without_bias),
        at(rf"{TOKEN_LAYER}\.attention\.output\.dense"),
    ),
    Mistake(
        "ATT-10-skipped", "ATT-10", "attention's output not projected",
        each(rf"{TOKEN_LAYER}\.attention\.output", compute(lambda _output, x: x)),
        at(rf"{TOKEN_LAYER}\.attention\.output"), combines=False,
    ),
    # transformer
    Mistake(
        "TRF-01", "TRF-01", "normalised after, not before",
        every(MobileViTTransformerLayer, compute(normalise_afterwards)),
        at(rf"{TOKEN_LAYER}(\.layernorm_before|\.attention\.attention\.(query|key|value)|\.intermediate\.dense)?"),
        also=at(rf"{TOKEN_LAYER}\.(layernorm_after|output)"), combines=False,  # they read one sum, which is no tap
    ),
    Mistake(
        "TRF-02", "TRF-02", "no normalisation behind the transformer",
        each(rf"{BLOCK}\.layernorm", compute(lambda _norm, x: x)), at(rf"{BLOCK}\.layernorm"),
    ),
    Mistake(
        "TRF-04", "TRF-04", "no residual around the feed-forward layer",
        every(MobileViTOutput, compute(forget_residual)), at(rf"{TOKEN_LAYER}\.output"),
    ),
    Mistake(
        "TRF-05", "TRF-05", "GELU in the feed-forward layer",
        each(rf"{TOKEN_LAYER}\.intermediate\.intermediate_act_fn", compute(lambda _module, x: F.gelu(x))),
        at(rf"{TOKEN_LAYER}\.intermediate\.intermediate_act_fn"),
    ),
    Mistake(
        "TRF-06", "TRF-06", "hard-swish in the feed-forward layer",
        each(rf"{TOKEN_LAYER}\.intermediate\.intermediate_act_fn", compute(lambda _module, x: F.hardswish(x))),
        at(rf"{TOKEN_LAYER}\.intermediate\.intermediate_act_fn"),
    ),
    Mistake(
        "TRF-07", "TRF-07", "activation behind the second layer, too",
        every(MobileViTOutput, compute(activate_twice)), at(rf"{TOKEN_LAYER}\.output"),
    ),
    Mistake(
        "TRF-10", "TRF-10", "one layer short in the last block",
        drop_last_layer, at(r"encoder\.layer\.4\.transformer"), combines=False,
    ),
    # fusion and heads
    Mistake(
        "FUS-01", "FUS-01", "concatenated in the other order",
        each(rf"{BLOCK}\.fusion\.convolution", compute(swap_halves)), at(rf"{BLOCK}\.fusion\.convolution"),
    ),
    Mistake(
        "FUS-02", "FUS-02", "no normalisation in conv_projection",
        each(rf"{BLOCK}\.conv_projection", assign(normalization=None)), at(rf"{BLOCK}\.conv_projection\.activation"),
        combines=False,
    ),
    Mistake(
        "FUS-04", "FUS-04", "no activation in fusion",
        each(rf"{BLOCK}\.fusion", assign(activation=None)), at(rf"{BLOCK}\.fusion"),
    ),
    Mistake(
        "FUS-05", "FUS-05", "added instead of concatenated",
        each(rf"{BLOCK}\.fusion\.convolution", compute(add_halves)), at(rf"{BLOCK}\.fusion\.convolution"),
    ),
    Mistake(
        "SYS-01", "SYS-01", "the second picture meets the map of the first",
        each(rf"{BLOCK}\.fusion\.convolution", compute(first_picture_again)), where_there_are_two_pictures,
    ),
    Mistake(
        "HED-01", "HED-01", "no activation in conv_1x1_exp",
        each("conv_1x1_exp", assign(activation=None)), at("conv_1x1_exp"), task="classification",
    ),
    Mistake(
        "HED-02", "HED-02", "maximum instead of mean in pooling",
        ports.pool_by(lambda x: x.amax(dim=(2, 3))), at("classifier"), task="classification",
    ),
    Mistake("HED-03", "HED-03", "no bias in the classifier", each("classifier", without_bias), at("classifier"),
            task="classification"),
    Mistake(
        "SEG-01", "SEG-01", "SiLU in the head",
        each(rf"{ASPP}\..*\.activation", compute(lambda _module, x: F.silu(x))), at(rf"{ASPP}\..*\.activation"),
        task="segmentation",
    ),
    Mistake(
        "SEG-02", "SEG-02", "dilation ignored", dilate(lambda rates: [1 for _ in rates]),
        at(rf"{ASPP}\.convs\.[123]\.convolution"), task="segmentation",
    ),
    Mistake(
        "SEG-03", "SEG-03", "dilations in the order 18, 12, 6", dilate(reversed),
        at(rf"{ASPP}\.convs\.[13]\.convolution"), task="segmentation",
    ),
    Mistake(
        "SEG-04", "SEG-04", "zeros from the pooling branch",
        each(rf"{ASPP}\.convs\.4", compute(no_pool)), at(rf"{ASPP}\.convs\.4"), task="segmentation", combines=False,
    ),
    Mistake(
        "SEG-05", "SEG-05", "the pooling branch is joined first",
        each(ASPP, compute(pool_first)), at(rf"{ASPP}\.project\.convolution"), task="segmentation",
    ),
    Mistake(
        "SEG-07", "SEG-07", "dilation 2 in the last block at output stride 16",
        each(r"encoder\.layer\.4\.downsampling_layer\.conv_3x3\.convolution", assign(dilation=(2, 2), padding=(2, 2))),
        at(r"encoder\.layer\.4\.downsampling_layer\.conv_3x3\.convolution"), task="segmentation",
    ),
    Mistake(
        "SEG-13", "SEG-13", "no bias in the head's classifier",
        each(r"segmentation_head\.classifier\.convolution", without_bias),
        at(r"segmentation_head\.classifier\.convolution"), task="segmentation",
    ),
    # weights
    Mistake(
        "WGT-01", "WGT-01", "key and value swapped",
        every(MobileViTSelfAttention, exchange("key", "value")), at(rf"{ATTENTION}\.(key|value)"),
    ),
    Mistake(
        "WGT-02", "WGT-02", "a transformer layer has the weights of the next",
        load_next_layer, at(*(rf"encoder\.layer\.3\.transformer\.layer\.0\.{leaf}" for leaf in PARAMETERS_OF_A_LAYER)),
    ),
    Mistake(
        "WGT-03", "WGT-03", "square matrices not transposed",
        each(rf"({ATTENTION}\.(query|key|value)|{TOKEN_LAYER}\.attention\.output\.dense)", weigh(lambda w: w.T)),
        at(rf"{ATTENTION}\.(query|key|value)", rf"{TOKEN_LAYER}\.attention\.output\.dense"),
    ),
    Mistake(
        "WGT-07", "WGT-07", "one bit of one weight",
        each(r"encoder\.layer\.3\.conv_kxk\.convolution", flip_one_bit),
        at(r"encoder\.layer\.3\.conv_kxk\.convolution"),
    ),
    # arithmetic that was not declared
    Mistake("NUM-01", "NUM-01", "sums in float16", ports.multiply_by(sum_in_half), INNER_PRODUCTS, combines=False),
    Mistake(
        "NUM-02", "NUM-02", "factors in TF32", ports.multiply_by(ports.round_factors(ports.tf32)),
        at(r"conv_stem\.convolution"), also=INNER_PRODUCTS, behaves_as="tf32", combines=False,
    ),
    Mistake(
        "NUM-03", "NUM-03", "SiLU from a table of 257 points",
        every(SiLUActivation, compute(table_of_silu)),
        at(r"(conv_stem|conv_1x1_exp|encoder\..*)\.activation", r".*\.intermediate_act_fn"),
    ),
)  # fmt: skip


def main() -> None:
    for mistake in MISTAKES:
        print(f"{mistake.id:15} {mistake.task or 'both':15} {mistake.description}")


if __name__ == "__main__":
    main()
