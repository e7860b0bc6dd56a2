"""Honest ports of MobileViT: transformers' network computed in every way in which a right one may differ.

Each is made from a copy of a model of transformers and gives what an engineer would dump from it: a mapping of tap
name to array. All of them are right, so a check that finds a mistake in one of them raises a false alarm. `control`
is the number of the negative control in the catalogue of porting bugs.

    pip install torch==2.13.0 transformers==5.23.0    # group `framework` of pyproject.toml
    python tools/ports.py                             # list them

tools/negative_controls.py counts the false alarms, tools/faulty_ports.py has the ports that are wrong.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers
from backends.torch_network import dump
from benchmarks.cases import VARIANTS
from numpy.typing import NDArray
from scaled_weights import scale_weights
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from transformers import MobileViTConfig, MobileViTForImageClassification, MobileViTForSemanticSegmentation
from transformers.activations import SiLUActivation
from transformers.models.mobilevit.modeling_mobilevit import (
    MobileViTASPP,
    MobileViTASPPPooling,
    MobileViTConvLayer,
    MobileViTLayer,
    MobileViTModel,
    MobileViTSelfAttention,
)

import npmobilevit as nm
from npmobilevit.checkpoints import find_checkpoint

Taps: TypeAlias = dict[str, NDArray[Any]]
MatMul: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (..., M, K), (..., K, N) -> (..., M, N)


@dataclasses.dataclass(frozen=True)
class Port:
    """An implementation of the network.

    Attributes
    ----------
    id : str
    control : str
        Number of the negative control, or "eager".
    profile : str
        The arithmetic that it declares.
    description : str
    change : callable (model) -> None
        Makes a copy of transformers' model into the port.
    prepare : callable (tensor) -> tensor
        What enters the network, from pixel values in float32.
    show : callable (tap name, tensor) -> tensor or None
        What is dumped; None leaves the tap out.
    around : callable () -> context manager
        In which the network runs.
    task : {"segmentation"} or None
        The only task that it is a port of.
    """

    id: str
    control: str
    profile: str
    description: str
    change: Callable[[nn.Module], None]
    prepare: Callable[[Tensor], Tensor] = lambda x: x
    show: Callable[[str, Tensor], Tensor | None] = lambda _name, value: value
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    task: str | None = None


def run(port: Port, model: nn.Module, pixel_values: NDArray[np.float32]) -> Taps:
    """What the port dumps for pixel values (N, 3, H, W).

    Parameters
    ----------
    port : Port
    model : MobileViTForImageClassification or MobileViTForSemanticSegmentation of transformers
        In evaluation mode, float32. It is copied.
    pixel_values : (N, 3, H, W) float32 array

    Returns
    -------
    dict of str to array
        float32, in the order of the forward pass, under the names of ``named_modules()``; "pixel_values" first and
        "logits" last.
    """
    ported = copy.deepcopy(model)
    port.change(ported)
    with port.around():
        taps = dump(ported, port.prepare(torch.from_numpy(pixel_values)))
    shown = ((name, port.show(name, value)) for name, value in taps.items())
    return {name: value.float().contiguous().numpy() for name, value in shown if value is not None}


# Networks and pictures ---------------------------------------------------------------------------------------------

SEGMENTATION = "-segmentation"
SHIPPED = ("cifar10-xx-small", "camvid-deeplabv3-xx-small")
NETWORKS = (*VARIANTS, f"xx-small{SEGMENTATION}", *SHIPPED)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of transformers, and what it is checked with: ours of the same weights, in a pipeline if it is
    trained."""

    theirs: nn.Module
    ours: nm.Pipeline | nm.MobileViTForImageClassification | nm.MobileViTForSemanticSegmentation

    @property
    def task(self) -> str:
        return "segmentation" if isinstance(self.theirs, MobileViTForSemanticSegmentation) else "classification"


@functools.lru_cache(maxsize=2)
def network(name: str) -> Network:
    """One of NETWORKS: a shipped checkpoint, or a variant with well-scaled random weights."""
    if name in SHIPPED:
        pipeline = nm.load(name)
        kind = getattr(transformers, type(pipeline.network).__name__)
        theirs = kind.from_pretrained(find_checkpoint(name).weights_path.parent)
        return Network(theirs.to(torch.float32).eval(), pipeline)
    settings = VARIANTS[name.removesuffix(SEGMENTATION)]
    if name.endswith(SEGMENTATION):
        return random_network(MobileViTForSemanticSegmentation, {**settings, "output_stride": 16, "num_labels": 21})
    return random_network(MobileViTForImageClassification, {**settings, "num_labels": 1000})


def random_network(kind: type[nn.Module], settings: dict[str, Any]) -> Network:
    theirs = kind(MobileViTConfig(**settings)).eval()
    scale_weights(theirs)
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
    return Network(theirs, getattr(nm, kind.__name__)(nm.MobileViTConfig(**settings), weights))


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Something like a photograph, (H, W, 3): smooth shades, in front of them discs with sharp edges."""
    rng = np.random.default_rng([height, width, seed])
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    noise = rng.standard_normal((4, *frequency.shape, 2)) @ (1, 1j) / (frequency + 0.005) ** 2
    light, *colours = np.fft.irfft2(noise, (height, width))  # (H, W) each
    shades = np.stack([light + 0.4 * colour for colour in colours], axis=-1)
    pixels = 0.45 + 0.2 * (shades - shades.mean()) / shades.std()
    y, x = np.mgrid[:height, :width]
    for _ in range(6):
        centre, radius = rng.random(2) * (height, width), rng.uniform(0.05, 0.3) * min(height, width)
        inside = np.hypot(y - centre[0], x - centre[1]) < radius
        pixels[inside] = 0.3 * pixels[inside] + 0.7 * rng.random(3)
    return np.round(pixels.clip(0, 1) * 255).astype(np.uint8)


def pixel_values(height: int, width: int, batch: int, seed: int) -> NDArray[np.float32]:
    """Pictures as the network takes them, (N, 3, H, W): BGR in 0..1."""
    pictures = np.stack([picture(height, width, 100 * seed + i) for i in range(batch)])
    return np.ascontiguousarray(pictures[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255))


# Patching ----------------------------------------------------------------------------------------------------------


def modules(model: nn.Module, kind: Any) -> Iterator[Any]:
    return (module for module in list(model.modules()) if isinstance(module, kind))


def replace_forward(module: nn.Module, forward: Callable[..., Any], **settings: Any) -> None:
    """Let ``forward(module, ...)`` take the place of the module's own; its hooks stay."""
    module.forward = functools.partial(forward, module, **settings)


def replace_all(model: nn.Module, kind: Any, forward: Callable[..., Any], **settings: Any) -> None:
    for module in modules(model, kind):
        replace_forward(module, forward, **settings)


def nothing(_model: nn.Module) -> None:
    """transformers' own model."""


def split_heads(module: MobileViTSelfAttention, x: Tensor) -> Tensor:
    """(S, L, D) -> (S, h, L, d)"""
    return x.unflatten(-1, (module.num_attention_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(S, h, L, d) -> (S, L, D)"""
    return x.transpose(1, 2).flatten(2)


def weighted_mean(query: Tensor, key: Tensor, value: Tensor, *, matmul: MatMul = torch.matmul) -> Tensor:
    """Attention as transformers computes it, with another product of matrices."""
    scores = matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    return matmul(F.softmax(scores, dim=-1), value)


def attention_forward(
    module: MobileViTSelfAttention, x: Tensor, *, attend: Callable[[Tensor, Tensor, Tensor], Tensor] = weighted_mean
) -> Tensor:
    """Self-attention with another way from query, key and value, each (S, h, L, d), to the context."""
    query, key, value = (split_heads(module, project(x)) for project in (module.query, module.key, module.value))
    return merge_heads(attend(query, key, value))


# N1, N2, N3, N6: parameters and products put together in another way -------------------------------------------------


def fold_normalization(model: nn.Module) -> None:
    """Scale the convolutions; what a convolution makes is then the normalisation's value."""
    for layer in modules(model, MobileViTConvLayer):
        if layer.normalization is not None:
            convolution, norm = layer.convolution, layer.normalization
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            convolution.silent = True
            layer.normalization = nn.Identity()


def fuse_layers(model: nn.Module) -> None:
    """Convolution, normalisation and activation as one kernel, of which only the result is seen."""
    fold_normalization(model)
    for layer in modules(model, MobileViTConvLayer):
        for part in (layer.convolution, layer.normalization, layer.activation):
            if part is not None:
                part.silent = True


def fold_scale(model: nn.Module) -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.softmax(query @ key.transpose(-1, -2), dim=-1) @ value

    for attention in modules(model, MobileViTSelfAttention):
        scale = 1 / math.sqrt(attention.attention_head_size)
        for parameter in attention.query.parameters():
            parameter.data *= scale
        attention.query.silent = True
        replace_forward(attention, attention_forward, attend=attend)


def in_thirds(_module: MobileViTSelfAttention, packed: Tensor) -> tuple[Tensor, ...]:
    return packed.chunk(3, dim=-1)


def pack_projections(
    model: nn.Module, cut: Callable[[MobileViTSelfAttention, Tensor], tuple[Tensor, ...]] = in_thirds
) -> None:
    """One matrix of 3*D rows makes query, key and value, which are seen as slices of its result."""

    def forward(module: MobileViTSelfAttention, x: Tensor) -> Tensor:
        slices = cut(module, F.linear(x, module.packed_weight, module.packed_bias))
        seen = (probe(part) for probe, part in zip((module.query, module.key, module.value), slices, strict=True))
        return merge_heads(weighted_mean(*(split_heads(module, part) for part in seen)))

    for attention in modules(model, MobileViTSelfAttention):
        projections = (attention.query, attention.key, attention.value)
        attention.packed_weight = torch.cat([p.weight for p in projections])
        attention.packed_bias = torch.cat([p.bias for p in projections])
        attention.query, attention.key, attention.value = nn.Identity(), nn.Identity(), nn.Identity()
        replace_forward(attention, forward)


def sum_instead_of_concat(model: nn.Module) -> None:
    """The convolution behind a concatenation as a sum of one convolution for each thing that is joined."""

    def forward(convolution: nn.Conv2d, x: Tensor, parts: int) -> Tensor:
        pieces = zip(x.chunk(parts, dim=1), convolution.weight.chunk(parts, dim=1), strict=True)
        return sum(F.conv2d(piece, weight, padding=convolution.padding) for piece, weight in pieces)

    for block in modules(model, MobileViTLayer):
        replace_forward(block.fusion.convolution, forward, parts=2)
    for aspp in modules(model, MobileViTASPP):
        replace_forward(aspp.project.convolution, forward, parts=5)


# N4, N16: taps in another order, or few of them ----------------------------------------------------------------------


def block_forward(
    block: MobileViTLayer,
    x: Tensor,
    *,
    after_unfold: Callable[[Tensor], Tensor] = lambda tokens: tokens,
    before_fold: Callable[[Tensor], Tensor] = lambda tokens: tokens,
    after_fold: Callable[[Tensor], Tensor] = lambda x: x,
    join: Callable[[Tensor, Tensor], Tensor] = lambda x, y: torch.cat((x, y), dim=1),
) -> Tensor:
    """transformers' MobileViT block with something in between."""
    x = block.downsampling_layer(x)
    tokens, grid = block.unfolding(block.conv_1x1(block.conv_kxk(x)))
    tokens = block.layernorm(block.transformer(after_unfold(tokens)))
    y = block.conv_projection(after_fold(block.folding(before_fold(tokens), grid)))
    return block.fusion(join(x, y))


PATCH_AREA = 4


def shuffle(tokens: Tensor, *, back: bool = False) -> Tensor:
    """Put the pixels of a patch, and the patches, into another fixed order. (N*P, L, D) -> the same"""
    generator = torch.Generator().manual_seed(0)
    orders = (torch.randperm(count, generator=generator) for count in (PATCH_AREA, tokens.shape[1]))
    pixel_order, patch_order = (order.argsort() if back else order for order in orders)
    return tokens.unflatten(0, (-1, PATCH_AREA))[:, pixel_order][:, :, patch_order].flatten(0, 1)


def shuffle_patches(model: nn.Module) -> None:
    replace_all(
        model,
        MobileViTLayer,
        block_forward,
        after_unfold=shuffle,
        before_fold=functools.partial(shuffle, back=True),
    )


def is_tokens(tap: str) -> bool:
    return ".transformer" in tap or tap.endswith(".layernorm")


def show_unshuffled(tap: str, value: Tensor) -> Tensor:
    return shuffle(value, back=True) if is_tokens(tap) else value


def show_no_tokens(tap: str, value: Tensor) -> Tensor | None:
    return None if is_tokens(tap) else value


def show_matching(pattern: str) -> Callable[[str, Tensor], Tensor | None]:
    """Dump the ends of the network, and the taps whose whole name without the prefix matches."""
    wanted = re.compile(rf"pixel_values|logits|(mobilevit\.)?({pattern})")
    return lambda tap, value: value if wanted.fullmatch(tap) else None


BLOCKS = show_matching(
    r"conv_stem|conv_1x1_exp|encoder\.layer\.\d+(\.(layer\.\d+|downsampling_layer|conv_kxk|conv_1x1|layernorm"
    r"|conv_projection|fusion|transformer(\.layer\.\d+)?))?|segmentation_head\.aspp(\.convs\.\d|\.project)?"
)
STAGES = show_matching(r"conv_stem|encoder\.layer\.\d+|conv_1x1_exp|segmentation_head\.aspp")


def probe_inside(model: nn.Module) -> None:
    """Show what modules pass on between themselves, too: scores, probabilities, tokens before and after."""

    def attend(module: MobileViTSelfAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = module.scores(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]))
        return module.probs(F.softmax(scores, dim=-1)) @ value

    for attention in modules(model, MobileViTSelfAttention):
        attention.scores, attention.probs = nn.Identity(), nn.Identity()
        replace_forward(attention, attention_forward, attend=functools.partial(attend, attention))
    for block in modules(model, MobileViTLayer):
        block.unfolded, block.folded = nn.Identity(), nn.Identity()
        replace_forward(block, block_forward, after_unfold=block.unfolded, after_fold=block.folded)


# N5, N9, N15: other sums -------------------------------------------------------------------------------------------


def columns(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """What each output pixel sees, (N, C*kh*kw, H'*W')."""
    return F.unfold(x, convolution.kernel_size, convolution.dilation, convolution.padding, convolution.stride)


def output_size(convolution: nn.Conv2d, x: Tensor) -> tuple[int, int]:
    stride, padding, dilation, kernel = (
        getattr(convolution, name)[0] for name in ("stride", "padding", "dilation", "kernel_size")
    )
    height, width = ((side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in x.shape[2:])
    return height, width


def add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    """To axis 1."""
    return y if bias is None else y + bias.view(-1, *[1] * (y.ndim - 2))


def conv_by_matmul(convolution: nn.Conv2d, x: Tensor, *, matmul: MatMul) -> Tensor:
    seen = columns(convolution, x)  # (N, C*k*k, L)
    weight = convolution.weight.flatten(1)  # (O, C*k*k), or (C, k*k) if depthwise
    if convolution.groups == 1:
        y = matmul(weight, seen)
    else:
        y = matmul(weight[:, None], seen.unflatten(1, (convolution.groups, -1))).squeeze(2)
    return add_bias(y, convolution.bias).unflatten(2, output_size(convolution, x))


def linear_by_matmul(linear: nn.Linear, x: Tensor, *, matmul: MatMul) -> Tensor:
    return matmul(x, linear.weight.T) + linear.bias


def multiply_by(matmul: MatMul) -> Callable[[nn.Module], None]:
    """Compute every convolution, fully connected layer and product of attention with this product of matrices."""

    def change(model: nn.Module) -> None:
        replace_all(model, nn.Conv2d, conv_by_matmul, matmul=matmul)
        replace_all(model, nn.Linear, linear_by_matmul, matmul=matmul)
        attend = functools.partial(weighted_mean, matmul=matmul)
        replace_all(model, MobileViTSelfAttention, attention_forward, attend=attend)

    return change


def one_by_one(a: Tensor, b: Tensor) -> Tensor:
    """Two roundings a term: the loop of a port in C."""
    total = a[..., :1] * b[..., :1, :]
    for k in range(1, a.shape[-1]):
        total += a[..., k : k + 1] * b[..., k : k + 1, :]
    return total


def fused(a: Tensor, b: Tensor) -> Tensor:
    """One rounding a term: products of float32 numbers are exact in float64."""
    a, b = a.double(), b.double()
    total = (a[..., :1] * b[..., :1, :]).float()
    for k in range(1, a.shape[-1]):
        total = torch.addcmul(total.double(), a[..., k : k + 1], b[..., k : k + 1, :]).float()
    return total


def in_pairs(a: Tensor, b: Tensor) -> Tensor:
    half = a.shape[-1] // 2
    if half < 2:
        return one_by_one(a, b)
    return in_pairs(a[..., :half], b[..., :half, :]) + in_pairs(a[..., half:], b[..., half:, :])


def in_blocks(a: Tensor, b: Tensor, *, size: int = 32) -> Tensor:
    """Blocks of neighbours, added one after the other."""
    return sum(x @ y for x, y in zip(a.split(size, dim=-1), b.split(size, dim=-2), strict=True))


def in_slices(a: Tensor, b: Tensor, *, count: int = 4) -> Tensor:
    """Split-K: every fourth term is added by the same worker."""
    return sum(a[..., i::count] @ b[..., i::count, :] for i in range(min(count, a.shape[-1])))


def from_behind(a: Tensor, b: Tensor) -> Tensor:
    return a.flip(-1) @ b.flip(-2)


SORTED_TERMS = 1 << 22  # held at once


def in_order_of_size(a: Tensor, b: Tensor) -> Tensor:
    """From the most negative term to the largest one: the partial sums get as large as they can."""
    rows = max(1, SORTED_TERMS // max(1, b.numel()))
    return torch.cat([sorted_rows(part.numpy(), b.numpy()) for part in a.split(rows, dim=-2)], dim=-2)


def sorted_rows(a: NDArray[np.float32], b: NDArray[np.float32]) -> Tensor:
    terms = a[..., :, None, :] * b.swapaxes(-1, -2)[..., None, :, :]  # (..., M, N, K)
    terms.sort(axis=-1)
    return torch.from_numpy(np.cumsum(terms, axis=-1, out=terms)[..., -1].copy())


def tf32(x: Tensor) -> Tensor:
    """Ten digits after the point; ties to even."""
    pattern = x.contiguous().view(torch.int32)
    return ((pattern + 0xFFF + ((pattern >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def tf32_cut(x: Tensor) -> Tensor:
    """The rest of the digits cut off."""
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def round_factors(rounded: Callable[[Tensor], Tensor]) -> MatMul:
    return lambda a, b: rounded(a) @ rounded(b)


def in_half(a: Tensor, b: Tensor, *, size: int = 8) -> Tensor:
    """Products of eight terms a step, as a tensor core makes them, added in float16."""
    total = torch.zeros((), dtype=torch.float16)
    for x, y in zip(a.split(size, dim=-1), b.split(size, dim=-2), strict=True):
        total = total + (x.float() @ y.float()).half()
    return total


def channels_last(model: nn.Module) -> None:
    model.to(memory_format=torch.channels_last)


def conv_nhwc(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Sum over pixels of the kernel outside and channels inside, on (N, H, W, C) memory."""
    area = math.prod(convolution.kernel_size)
    seen = columns(convolution, x).unflatten(1, (-1, area)).permute(0, 3, 2, 1).contiguous()  # (N, L, k*k, C)
    weight = convolution.weight.flatten(2).permute(2, 1, 0).contiguous()  # (k*k, C, O), or (k*k, 1, C) if depthwise
    dense = convolution.groups == 1
    y = seen.flatten(2) @ weight.flatten(0, 1) if dense else (seen * weight[:, 0]).sum(dim=2)  # (N, L, O)
    return add_bias(y.transpose(1, 2), convolution.bias).unflatten(2, output_size(convolution, x))


def nhwc(model: nn.Module) -> None:
    replace_all(model, nn.Conv2d, conv_nhwc)


# N10: Winograd -----------------------------------------------------------------------------------------------------

# Rows of B', G and A' of F(m x m, 3 x 3) (Lavin and Gray 2016, arXiv 1509.09308).
WINOGRAD = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}


def conv_winograd(convolution: nn.Conv2d, x: Tensor, *, tile: int) -> Tensor:
    """Stride 1, 3x3, in tiles of `tile` x `tile` output pixels."""
    data, kernel, output = (torch.tensor(rows, dtype=torch.float32) for rows in WINOGRAD[tile])
    height, width = x.shape[2:]
    rest = [-side % tile for side in (height, width)]
    x = F.pad(x, (1, 1 + rest[1], 1, 1 + rest[0]))
    tiles = x.unfold(2, tile + 2, tile).unfold(3, tile + 2, tile)  # (N, C, rows, columns, tile+2, tile+2)
    tiles = data @ tiles @ data.T
    weight = kernel @ convolution.weight @ kernel.T  # (O, C, tile+2, tile+2)
    products = torch.einsum("ncrsij,ocij->norsij", tiles, weight)
    y = output @ products @ output.T  # (N, O, rows, columns, tile, tile)
    return y.transpose(3, 4).flatten(4, 5).flatten(2, 3)[..., :height, :width]


def winograd(tile: int) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for convolution in modules(model, nn.Conv2d):
            geometry = (convolution.kernel_size, convolution.stride, convolution.dilation, convolution.groups)
            if geometry == ((3, 3), (1, 1), (1, 1), 1):
                replace_forward(convolution, conv_winograd, tile=tile)

    return change


# N7, N8, N11, N13, N14, N18: other formulas --------------------------------------------------------------------------


def broadcast_pool(model: nn.Module) -> None:
    def forward(pooling: MobileViTASPPPooling, x: Tensor) -> Tensor:
        return pooling.conv_1x1(pooling.global_pool(x)).expand(-1, -1, *x.shape[2:])

    replace_all(model, MobileViTASPPPooling, forward)


def online_softmax(query: Tensor, key: Tensor, value: Tensor, *, size: int = 16) -> Tensor:
    """Flash attention: blocks of keys, never all scores at once."""
    largest = torch.full((*query.shape[:-1], 1), -torch.inf)
    weights = torch.zeros_like(largest)
    context = torch.zeros_like(query)
    for keys, values in zip(key.split(size, dim=-2), value.split(size, dim=-2), strict=True):
        scores = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
        larger = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
        shrink, exponentials = torch.exp(largest - larger), torch.exp(scores - larger)
        weights = weights * shrink + exponentials.sum(dim=-1, keepdim=True)
        context = context * shrink + exponentials @ values
        largest = larger
    return context / weights


def softmax_without_maximum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    exponentials = torch.exp(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]))
    return (exponentials / exponentials.sum(dim=-1, keepdim=True)) @ value


def attend_by(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[nn.Module], None]:
    return lambda model: replace_all(model, MobileViTSelfAttention, attention_forward, attend=attend)


def activate_by(activation: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    return lambda model: replace_all(model, SiLUActivation, lambda _module, x: activation(x))


def silu_by_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(0.5 * x))


def pool_by(mean: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    """With a mean (N, C, H, W) -> (N, C)."""

    def change(model: nn.Module) -> None:
        for network in modules(model, MobileViTModel):
            own = network.forward

            def forward(*args: Any, own: Any = own, **keywords: Any) -> Any:
                output = own(*args, **keywords)
                if output.pooler_output is not None:
                    output.pooler_output = mean(output.last_hidden_state)
                return output

            network.forward = forward
        for pool in modules(model, nn.AdaptiveAvgPool2d):
            replace_forward(pool, lambda _pool, x: mean(x)[:, :, None, None])

    return change


class InertDropout(nn.Module):
    """Dropout as a graph keeps it: a node that does nothing, with a tap of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def inert_dropouts(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout | nn.Dropout2d):
                setattr(parent, name, InertDropout())


def textbook_norms(model: nn.Module) -> None:
    """Subtract, divide by the root, scale, shift: nothing prepared beforehand."""

    def batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            values.view(-1, 1, 1) for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (x - mean) / torch.sqrt(variance + norm.eps) * weight + bias

    def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        return centred / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias

    replace_all(model, nn.BatchNorm2d, batch_norm)
    replace_all(model, nn.LayerNorm, layer_norm)


# N12, N15: other numbers -------------------------------------------------------------------------------------------


def times_reciprocal(x: Tensor) -> Tensor:
    """The bytes behind pixel values x/255, times 1/255."""
    return torch.round(x * 255) * np.float32(1 / 255)


def to_half(model: nn.Module) -> None:
    model.half()


def to_bfloat16(model: nn.Module) -> None:
    model.bfloat16()


def to_double(model: nn.Module) -> None:
    model.double()


def one_after_another(*changes: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for step in changes:
            step(model)

    return change


@contextlib.contextmanager
def native_kernels() -> Iterator[None]:
    """Without oneDNN's convolutions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its TF32 is for GPUs
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def autocast() -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


def quantize_linear(model: nn.Module) -> None:
    """torch's own dynamic quantisation of fully connected layers, replaced in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of torchao
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)


def quantize_inner_products(*, per_channel: bool) -> Callable[[nn.Module], None]:
    """8-bit integers in convolutions and fully connected layers; the sums of integers are exact."""

    def conv(convolution: nn.Conv2d, x: Tensor) -> Tensor:
        x, x_scale = quantize_activation(x)
        weight, scale = quantize_weight(convolution.weight, per_channel=per_channel)
        y = F.conv2d(x, weight, None, convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
        return add_bias((y * (x_scale * scale.view(-1, 1, 1))).float(), convolution.bias)

    def linear(layer: nn.Linear, x: Tensor) -> Tensor:
        x, x_scale = quantize_activation(x)
        weight, scale = quantize_weight(layer.weight, per_channel=per_channel)
        return ((x @ weight.T) * (x_scale * scale)).float() + layer.bias

    def change(model: nn.Module) -> None:
        replace_all(model, nn.Conv2d, conv)
        replace_all(model, nn.Linear, linear)

    return change


def quantize_activation(x: Tensor) -> tuple[Tensor, float]:
    """Bytes less their zero point, as float64, and the scale of the whole tensor; zero is a byte."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = (high - low) / 255
    zero = round(-low / scale)
    return (torch.round(x / scale) + zero).clamp(0, 255).double() - zero, scale


def quantize_weight(weight: Tensor, *, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Integers in -127..127, as float64, and the scales, (O,) or (1,)."""
    largest = weight.flatten(1).abs().amax(dim=1) if per_channel else weight.abs().max().view(1)
    scale = largest.double() / 127
    return torch.round(weight.double() / scale.view(-1, *[1] * (weight.ndim - 1))), scale


PORTS: tuple[Port, ...] = (
    Port("eager", "eager", "fp32", "transformers' model with hooks", nothing),
    Port("native-kernels", "eager", "fp32", "convolutions without oneDNN", nothing, around=native_kernels),
    Port("probed", "eager", "fp32", "scores, probabilities and tokens dumped besides", probe_inside),
    Port("textbook-norms", "eager", "fp32", "both normalisations by their formula", textbook_norms),
    Port("folded", "N1", "fp32", "BatchNorm folded into the convolutions", fold_normalization),
    Port("fused-layers", "N1", "fp32", "convolution, BatchNorm and activation are one tap", fuse_layers),
    Port("scaled-query", "N2", "fp32", "the scale of attention is in query's weights", fold_scale),
    Port("packed-qkv", "N3", "fp32", "one matrix for query, key and value", pack_projections),
    Port(
        "patch-order", "N4", "fp32", "pixels and patches in another order, dumped in the usual one", shuffle_patches,
        show=show_unshuffled,
    ),
    Port(
        "patch-order-hidden", "N4", "fp32", "pixels and patches in another order, tokens not dumped", shuffle_patches,
        show=show_no_tokens,
    ),
    Port(
        "channels-last", "N5", "fp32", "PyTorch's memory format", channels_last,
        prepare=lambda x: x.contiguous(memory_format=torch.channels_last),
    ),
    Port("nhwc", "N5", "fp32", "convolutions sum channels inside and pixels outside", nhwc),
    Port("summed-parts", "N6", "fp32", "no concatenation, a sum of convolutions", sum_instead_of_concat),
    Port("broadcast-pool", "N7", "fp32", "the pooled value repeated, not resized", broadcast_pool, task="segmentation"),
    Port("online-softmax", "N8", "fp32", "flash attention in blocks of 16 keys", attend_by(online_softmax)),
    Port("fused-attention", "N8", "fp32", "PyTorch's own fused kernel", attend_by(F.scaled_dot_product_attention)),
    Port("one-by-one", "N9", "fp32", "sums from the first term to the last", multiply_by(one_by_one)),
    Port("fma", "N9", "fp32", "fused multiply-add, first term to last", multiply_by(fused)),
    Port("pairwise", "N9", "fp32", "halves of halves", multiply_by(in_pairs)),
    Port("blocked", "N9", "fp32", "blocks of 32 terms", multiply_by(in_blocks)),
    Port("split-k", "N9", "fp32", "four partial sums", multiply_by(in_slices)),
    Port("reversed", "N9", "fp32", "terms from behind", multiply_by(from_behind)),
    Port("sorted", "N9", "fp32", "terms of every sum sorted, the worst fixed order", multiply_by(in_order_of_size)),
    Port("winograd-2", "N10", "fp32", "F(2x2, 3x3) in conv_kxk and fusion", winograd(2)),
    Port("winograd-4", "N10", "fp32", "F(4x4, 3x3) in conv_kxk and fusion", winograd(4)),
    Port("silu-tanh", "N11", "fp32", "SiLU as x/2 (1 + tanh(x/2))", activate_by(silu_by_tanh)),
    Port("silu-exp", "N11", "fp32", "SiLU as x / (1 + exp(-x))", activate_by(lambda x: x / (1 + torch.exp(-x)))),
    Port("reciprocal-255", "N12", "fp32", "bytes times 1/255", nothing, prepare=times_reciprocal),
    Port("mean-flat", "N13", "fp32", "pooling over pixels in one row", pool_by(lambda x: x.flatten(2).mean(dim=2))),
    Port("mean-rows", "N13", "fp32", "pooling over columns, then rows", pool_by(lambda x: x.mean(dim=3).mean(dim=2))),
    Port("inert-dropouts", "N14", "fp32", "dropouts are nodes that do nothing, dumped too", inert_dropouts),
    Port("double", "N15", "fp32", "float64, taps rounded to float32", to_double, prepare=lambda x: x.double()),
    Port("tf32", "N15", "tf32", "factors rounded to 11 digits", multiply_by(round_factors(tf32))),
    Port("tf32-cut", "N15", "tf32", "factors cut to 11 digits", multiply_by(round_factors(tf32_cut))),
    Port("fp16", "N15", "fp16", "PyTorch's half", to_half, prepare=lambda x: x.half()),
    Port(
        "fp16-folded", "N15", "fp16", "folded, then half", one_after_another(fold_normalization, to_half),
        prepare=lambda x: x.half(),
    ),
    Port(
        "fp16-dump", "N15", "fp16", "float32, taps written as half", nothing,
        show=lambda _tap, value: value.half(),
    ),
    Port(
        "fp16-acc16", "N15", "fp16-acc16", "sums in half", one_after_another(to_half, multiply_by(in_half)),
        prepare=lambda x: x.half(),
    ),
    Port("bf16", "N15", "bf16", "PyTorch's bfloat16", to_bfloat16, prepare=lambda x: x.bfloat16()),
    Port(
        "bf16-folded", "N15", "bf16", "folded, then bfloat16", one_after_another(fold_normalization, to_bfloat16),
        prepare=lambda x: x.bfloat16(),
    ),
    Port("bf16-autocast", "N15", "bf16", "automatic mixed precision", nothing, around=autocast),
    Port("int8-torch", "N15", "int8-dynamic", "PyTorch's dynamic quantisation of linear layers", quantize_linear),
    Port(
        "int8-tensor", "N15", "int8-dynamic", "convolutions too, one scale a tensor",
        quantize_inner_products(per_channel=False),
    ),
    Port(
        "int8-channel", "N15", "int8-dynamic", "convolutions too, one weight scale a channel",
        quantize_inner_products(per_channel=True),
    ),
    Port("blocks", "N16", "fp32", "only the taps of blocks", nothing, show=BLOCKS),
    Port("stages", "N16", "fp32", "only the taps of stages", nothing, show=STAGES),
    Port("ends", "N16", "fp32", "only pixel values and logits", nothing, show=show_matching("(?!)")),
    Port("softmax-bare", "N18", "fp32", "softmax without subtracting the maximum", attend_by(softmax_without_maximum)),
)  # fmt: skip


def main() -> None:
    for port in PORTS:
        print(f"{port.id:20} {port.control:6} {port.profile:13} {port.description}")


if __name__ == "__main__":
    main()
