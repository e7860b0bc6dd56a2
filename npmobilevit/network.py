"""MobileViT as a whole: pixels in, logits out. The blocks are in :mod:`npmobilevit.layers`."""

from __future__ import annotations

from typing import NamedTuple

from npmobilevit.config import MobileViTConfig
from npmobilevit.layers import conv_layer, deeplabv3, encoder, linear_layer
from npmobilevit.ops.arrays import Array
from npmobilevit.scope import Scope


class Features(NamedTuple):
    """What the base model makes of a batch of images."""

    last_hidden_state: Array  # (N, C, H/output_stride, W/output_stride)
    pooled: Array | None  # (N, C), the mean of last_hidden_state over the pixels
    hidden_states: tuple[Array, ...]  # the outputs of the five encoder layers


def base_model(s: Scope, pixel_values: Array, config: MobileViTConfig, *, expand_output: bool) -> Features:
    """Stem, encoder and, if `expand_output`, the widening 1x1 convolution and pooling (``MobileViTModel``).

    Parameters
    ----------
    s : Scope
    pixel_values : (N, num_channels, H, W) array
        BGR in 0..1.
    config : MobileViTConfig
    expand_output : bool
    """
    x = conv_layer(s.at("conv_stem"), pixel_values, activation=config.hidden_act, stride=2)
    hidden_states = encoder(s.at("encoder"), x, config)
    if not expand_output:
        return Features(s.out(hidden_states[-1]), None, hidden_states)
    x = conv_layer(s.at("conv_1x1_exp"), hidden_states[-1], activation=config.hidden_act)
    return Features(s.out(x), s.ops.global_avg_pool(x), hidden_states)


def image_classification(s: Scope, pixel_values: Array, config: MobileViTConfig) -> tuple[Array, tuple[Array, ...]]:
    """Logits (N, num_labels) and the five hidden states (``MobileViTForImageClassification``).

    With `num_labels` 0 the logits are the pooled features (N, neck_hidden_sizes[6]).
    """
    features = base_model(s.at("mobilevit"), pixel_values, config, expand_output=True)
    pooled = features.pooled
    assert pooled is not None  # expand_output pools
    classifier = s.at("classifier")
    logits = linear_layer(classifier, pooled) if config.num_labels else classifier.out(pooled)
    s.tap("logits", logits)
    return logits, features.hidden_states


def semantic_segmentation(s: Scope, pixel_values: Array, config: MobileViTConfig) -> tuple[Array, tuple[Array, ...]]:
    """Logits (N, num_labels, H/output_stride, W/output_stride) and the five hidden states
    (``MobileViTForSemanticSegmentation``)."""
    features = base_model(s.at("mobilevit"), pixel_values, config, expand_output=False)
    logits = deeplabv3(s.at("segmentation_head"), features.hidden_states[-1], atrous_rates=tuple(config.atrous_rates))
    s.tap("logits", logits)
    return logits, features.hidden_states
