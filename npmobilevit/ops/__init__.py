"""The operations of MobileViT as pure functions: arrays in, arrays out, the dtype of ``x`` kept.

Shape letters, with the paper's symbol where it has another:

====  ==========================================================
N     images in the batch
C     channels of a map
H, W  height and width of a map
P     pixels in a patch, ``patch_size**2`` (paper: P = w*h)
L     patches of a map, so tokens of a sequence (paper: N)
S     sequences, N*P
D     width of a token (paper: d)
h     attention heads
====  ==========================================================

Parameters bear the names of the checkpoint's leaves: ``weight``, ``bias``, ``running_mean``, ``running_var``.
"""

from npmobilevit.ops.activation import (
    ACTIVATIONS,
    gelu,
    gelu_10,
    gelu_accurate,
    gelu_fast,
    gelu_new,
    gelu_python,
    gelu_python_tanh,
    gelu_pytorch_tanh,
    hardswish,
    laplace,
    leaky_relu,
    mish,
    quick_gelu,
    relu,
    relu2,
    relu6,
    sigmoid,
    silu,
    softmax,
    sqrtsoftplus,
    swish,
    tanh,
)
from npmobilevit.ops.attention import (
    attend,
    attention_scores,
    merge_heads,
    multi_head_attention,
    scaled_dot_product_attention,
    split_heads,
)
from npmobilevit.ops.conv import conv2d
from npmobilevit.ops.join import add, concat_channels
from npmobilevit.ops.linear import linear
from npmobilevit.ops.loss import binary_cross_entropy_with_logits, cross_entropy, mean_squared_error
from npmobilevit.ops.norm import batch_norm, layer_norm
from npmobilevit.ops.patches import fold_patches, unfold_patches
from npmobilevit.ops.pool import global_avg_pool
from npmobilevit.ops.resize import resize_bilinear

__all__ = [
    "ACTIVATIONS",
    "add",
    "attend",
    "attention_scores",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "concat_channels",
    "conv2d",
    "cross_entropy",
    "fold_patches",
    "gelu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_python_tanh",
    "gelu_pytorch_tanh",
    "global_avg_pool",
    "hardswish",
    "laplace",
    "layer_norm",
    "leaky_relu",
    "linear",
    "mean_squared_error",
    "merge_heads",
    "mish",
    "multi_head_attention",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "resize_bilinear",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "split_heads",
    "sqrtsoftplus",
    "swish",
    "tanh",
    "unfold_patches",
]
