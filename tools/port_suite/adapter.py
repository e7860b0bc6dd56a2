"""A port of MobileViT as its author would hand it to npmobilevit: transformers' model in PyTorch behind `Backend`.

PORT_MISTAKE names a mistake to make on purpose, for whoever wants to see the check fail: "heads" (one head instead of
four) or "padding" (TensorFlow's SAME where the stride is 2).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MobileViTForImageClassification
from transformers.models.mobilevit.modeling_mobilevit import MobileViTSelfAttention

CHECKPOINT = "cifar10-xx-small"


def checkpoint_folder() -> str:
    """The checkpoint that npmobilevit brings along."""
    from npmobilevit.checkpoints import find_checkpoint

    return str(find_checkpoint(CHECKPOINT).weights_path.parent)


def make_one_head(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, MobileViTSelfAttention):
            module.num_attention_heads, module.attention_head_size = 1, module.all_head_size


def pad_behind(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.forward = lambda x, own=module: F.conv2d(  # type: ignore[method-assign]
                F.pad(x, (x.shape[3] % 2, 1, x.shape[2] % 2, 1)), own.weight, stride=2, groups=own.groups
            )


MISTAKES = {"heads": make_one_head, "padding": pad_behind}


class Backend:
    """The port: whole network, single modules, operators."""

    def __init__(self) -> None:
        model = MobileViTForImageClassification.from_pretrained(checkpoint_folder())
        self.model = model.to(torch.float32).eval()
        mistake = os.environ.get("PORT_MISTAKE")
        if mistake:
            MISTAKES[mistake](self.model)

    @torch.no_grad()
    def run(self, pixel_values: NDArray[np.float32]) -> dict[str, Any]:
        taps: dict[str, Any] = {"pixel_values": pixel_values}

        def listen(name: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                output = output[0] if isinstance(output, tuple) else output
                if isinstance(output, Tensor):
                    taps[name] = output.clone()

            return hook

        hooks = [m.register_forward_hook(listen(name)) for name, m in self.model.named_modules() if name]
        try:
            taps["logits"] = self.model(torch.from_numpy(pixel_values.copy())).logits
        finally:
            for hook in hooks:
                hook.remove()
        return taps

    @torch.no_grad()
    def region(self, name: str, inputs: Sequence[NDArray[np.float32]]) -> Any:
        return self.model.get_submodule(name)(torch.from_numpy(inputs[0].copy()))

    def op(self, name: str, arrays: Mapping[str, NDArray[np.float32]], attributes: Mapping[str, Any]) -> Tensor:
        if name not in OPERATORS:
            raise NotImplementedError(name)
        return OPERATORS[name](**{key: torch.from_numpy(value.copy()) for key, value in arrays.items()}, **attributes)


OPERATORS: dict[str, Any] = {
    "conv2d": lambda x, weight, bias=None, **geometry: F.conv2d(x, weight, bias, **geometry),
    "batch_norm": lambda x, weight, bias, running_mean, running_var, eps: F.batch_norm(
        x, running_mean, running_var, weight, bias, eps=eps
    ),
    "layer_norm": lambda x, weight, bias, eps: F.layer_norm(x, x.shape[-1:], weight, bias, eps=eps),
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "silu": lambda x: F.silu(x),
    "relu": lambda x: F.relu(x),
    "softmax": lambda x, axis=-1: x.softmax(axis),
    "scaled_dot_product_attention": F.scaled_dot_product_attention,
    "resize_bilinear": lambda x, size: F.interpolate(x, size=size, mode="bilinear", align_corners=False),
    "global_avg_pool": lambda x: x.mean((2, 3)),
}
