"""The building blocks of MobileViT, bottom-up: each uses only those above it.

A block is a function of its scope and its input. Names of scopes are those of transformers' modules; the class
that a function equals in evaluation mode is named in its docstring. Dropout does nothing then and is left out.
"""

from __future__ import annotations

import numpy as np

from npmobilevit.config import DOWNSAMPLING_DILATIONS, DOWNSAMPLING_STRIDES, TRANSFORMER_DEPTHS, MobileViTConfig
from npmobilevit.ops.arrays import Array
from npmobilevit.scope import Scope, block


@block
def conv_layer(
    s: Scope,
    x: Array,
    *,
    activation: str | None,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    normalize: bool = True,
) -> Array:
    """Convolution, batch normalisation, activation (``MobileViTConvLayer``). (N, C, H, W) -> (N, C', H', W').

    The map is padded with zeros so that stride 1 keeps its size.
    """
    convolution, normalization = s.at("convolution"), s.at("normalization")
    parameters = convolution.params()
    padding = (parameters["weight"].shape[-1] - 1) // 2 * dilation
    x = s.ops.conv2d(x, **parameters, stride=stride, padding=padding, dilation=dilation, groups=groups)
    x = convolution.out(x)
    if normalize:
        x = normalization.out(s.ops.batch_norm(x, **normalization.params()))
    if activation is not None:
        x = s.at("activation").out(s.ops.activations[activation](x))
    return s.out(x)


@block
def inverted_residual(s: Scope, x: Array, *, activation: str, stride: int = 1, dilation: int = 1) -> Array:
    """MobileNetV2 block: widen, filter each channel, narrow (``MobileViTInvertedResidual``). (N, C, H, W) -> same.

    The narrow output has no activation. The input is added whenever it has the shape of the output.
    """
    y = conv_layer(s.at("expand_1x1"), x, activation=activation)
    y = conv_layer(
        s.at("conv_3x3"), y, activation=activation, stride=stride, dilation=dilation, groups=y.shape[1]
    )  # depthwise
    y = conv_layer(s.at("reduce_1x1"), y, activation=None)
    if stride == 1 and x.shape[1] == y.shape[1]:
        y = s.ops.add(x, y)
    return s.out(y)


@block
def mobilenet_layer(s: Scope, x: Array, *, depth: int, stride: int, activation: str) -> Array:
    """`depth` inverted residuals, the first with the stride (``MobileViTMobileNetLayer``)."""
    for i in range(depth):
        x = inverted_residual(s.at(f"layer.{i}"), x, activation=activation, stride=stride if i == 0 else 1)
    return s.out(x)


@block
def linear_layer(s: Scope, x: Array) -> Array:
    """Fully connected layer with the parameters of this scope (``nn.Linear``)."""
    return s.out(s.ops.linear(x, **s.params()))


@block
def layer_norm(s: Scope, x: Array, *, eps: float) -> Array:
    """Layer normalisation with the parameters of this scope (``nn.LayerNorm``)."""
    return s.out(s.ops.layer_norm(x, **s.params(), eps=eps))


@block
def self_attention(s: Scope, x: Array, *, num_heads: int) -> Array:
    """Every token looks at all tokens of its sequence (``MobileViTSelfAttention``). (S, L, D) -> (S, L, D)."""
    query, key, value = (
        s.ops.split_heads(linear_layer(s.at(projection), x), num_heads) for projection in ("query", "key", "value")
    )  # each (S, h, L, D/h)
    return s.out(s.ops.merge_heads(s.in_parts(scaled_dot_product_attention, query, key, value)))


def scaled_dot_product_attention(s: Scope, query: Array, key: Array, value: Array) -> Array:
    """Mix the values of all tokens, ``softmax(query @ key.T / sqrt(d)) @ value``, for some heads and queries.

    (S, h, Q, d), (S, h, L, d), (S, h, L, d) -> (S, h, Q, d).
    """
    scores = s.at("scores").out(s.ops.attention_scores(query, key))  # (S, h, Q, L)
    probs = s.at("probs").out(s.ops.softmax(scores))
    return s.ops.attend(probs, value)


@block
def attention(s: Scope, x: Array, *, num_heads: int) -> Array:
    """Self-attention and its output projection (``MobileViTAttention``). (S, L, D) -> (S, L, D)."""
    x = self_attention(s.at("attention"), x, num_heads=num_heads)
    output = s.at("output")
    return s.out(output.out(linear_layer(output.at("dense"), x)))


@block
def transformer_layer(s: Scope, x: Array, *, num_heads: int, eps: float, activation: str) -> Array:
    """Attention and feed-forward layer, each after a normalisation and with its input added
    (``MobileViTTransformerLayer``). (S, L, D) -> (S, L, D)."""
    y = layer_norm(s.at("layernorm_before"), x, eps=eps)
    x = s.ops.add(attention(s.at("attention"), y, num_heads=num_heads), x)
    y = layer_norm(s.at("layernorm_after"), x, eps=eps)
    intermediate, output = s.at("intermediate"), s.at("output")
    y = linear_layer(intermediate.at("dense"), y)  # (S, L, int(D*mlp_ratio))
    y = intermediate.out(intermediate.at("intermediate_act_fn").out(s.ops.activations[activation](y)))
    y = linear_layer(output.at("dense"), y)
    return s.out(output.out(s.ops.add(y, x)))


@block
def transformer(s: Scope, x: Array, *, depth: int, num_heads: int, eps: float, activation: str) -> Array:
    """`depth` transformer layers (``MobileViTTransformer``). (S, L, D) -> (S, L, D)."""
    for i in range(depth):
        x = transformer_layer(s.at(f"layer.{i}"), x, num_heads=num_heads, eps=eps, activation=activation)
    return s.out(x)


@block
def mobilevit_block(s: Scope, x: Array, config: MobileViTConfig, *, depth: int, stride: int, dilation: int) -> Array:
    """The MobileViT block behind its downsampling block (``MobileViTLayer``; paper section 3.1, figure 1b).

    (N, C, H, W) -> (N, C', H/stride, W/stride). Convolutions see the neighbourhood of a pixel, the transformer
    all patches, and the fusion joins what came in with what the transformer made.
    """
    activation, patch_size = config.hidden_act, config.patch_size
    x = inverted_residual(s.at("downsampling_layer"), x, activation=activation, stride=stride, dilation=dilation)
    y = conv_layer(s.at("conv_kxk"), x, activation=activation)
    y = conv_layer(s.at("conv_1x1"), y, activation=None, normalize=False)  # (N, D, H, W)

    height, width = y.shape[2:]
    grid = (-(-height // patch_size) * patch_size, -(-width // patch_size) * patch_size)  # rounded up to whole patches
    if grid != (height, width):
        y = s.ops.resize_bilinear(y, grid)
    y = s.at("unfolded").out(s.ops.unfold_patches(y, patch_size))  # (N*P, L, D)
    y = transformer(
        s.at("transformer"),
        y,
        depth=depth,
        num_heads=config.num_attention_heads,
        eps=config.layer_norm_eps,
        activation=activation,
    )
    y = layer_norm(s.at("layernorm"), y, eps=config.layer_norm_eps)
    y = s.ops.fold_patches(y, patch_size, *grid)  # (N, D, H, W)
    if grid != (height, width):
        y = s.ops.resize_bilinear(y, (height, width))
    y = s.at("folded").out(y)

    y = conv_layer(s.at("conv_projection"), y, activation=activation)
    y = s.ops.concat_channels([x, y])  # (N, 2*C', H, W): what came in first
    return s.out(conv_layer(s.at("fusion"), y, activation=activation))


@block
def encoder(s: Scope, x: Array, config: MobileViTConfig) -> tuple[Array, ...]:
    """Two MobileNet layers and three MobileViT blocks; returns the five maps (``MobileViTEncoder``).

    Where a smaller `output_stride` asks for a larger map, a stride is dropped, and the layer after a dropped
    stride dilates the depthwise convolution of its downsampling block in its place.
    """
    activation = config.hidden_act
    x = mobilenet_layer(s.at("layer.0"), x, depth=1, stride=1, activation=activation)
    hidden_states = [x]
    x = mobilenet_layer(s.at("layer.1"), x, depth=3, stride=2, activation=activation)
    hidden_states.append(x)
    strides = DOWNSAMPLING_STRIDES[config.output_stride]
    dilations = DOWNSAMPLING_DILATIONS[config.output_stride]
    for i, (depth, stride, dilation) in enumerate(zip(TRANSFORMER_DEPTHS, strides, dilations, strict=True), start=2):
        x = mobilevit_block(s.at(f"layer.{i}"), x, config, depth=depth, stride=stride, dilation=dilation)
        hidden_states.append(x)
    hidden_states[-1] = s.out(x)
    return tuple(hidden_states)


@block
def aspp_pooling(s: Scope, x: Array) -> Array:
    """The whole map's average as a constant map (``MobileViTASPPPooling``). (N, C, H, W) -> (N, A, H, W)."""
    pooled = s.ops.global_avg_pool(x)[:, :, np.newaxis, np.newaxis]  # (N, C, 1, 1)
    y = conv_layer(s.at("conv_1x1"), s.at("global_pool").out(pooled), activation="relu")
    return s.out(s.ops.resize_bilinear(y, (x.shape[2], x.shape[3])))


@block
def aspp(s: Scope, x: Array, *, atrous_rates: tuple[int, ...]) -> Array:
    """Look at the map in five ways: pixel, three widths of surroundings, whole (``MobileViTASPP``).

    (N, C, H, W) -> (N, A, H, W). The activation is ReLU, whatever `hidden_act` says.
    """
    convs = s.at("convs")
    branches = [conv_layer(convs.at("0"), x, activation="relu")]
    for i, rate in enumerate(atrous_rates, start=1):
        branches.append(conv_layer(convs.at(str(i)), x, activation="relu", dilation=rate))
    branches.append(aspp_pooling(convs.at("4"), x))
    y = s.ops.concat_channels(branches)  # (N, 5*A, H, W)
    return s.out(conv_layer(s.at("project"), y, activation="relu"))


@block
def deeplabv3(s: Scope, x: Array, *, atrous_rates: tuple[int, ...]) -> Array:
    """ASPP and a classifier of every pixel (``MobileViTDeepLabV3``). (N, C, H, W) -> (N, num_labels, H, W)."""
    y = aspp(s.at("aspp"), x, atrous_rates=atrous_rates)
    return s.out(conv_layer(s.at("classifier"), y, activation=None, normalize=False))
