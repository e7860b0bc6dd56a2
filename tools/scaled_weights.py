"""Random weights for networks of PyTorch: as they are initialised, logits are near zero and any port agrees."""

from __future__ import annotations

import torch
from torch import nn


def scale_weights(model: nn.Module, seed: int = 0) -> None:
    """Fill a model with random weights that keep the values of every layer near one."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in model.state_dict().items():
        r = torch.randn(values.shape, generator=generator)
        if values.ndim > 1:
            values.copy_(r * (1.6 / values[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            values.copy_(torch.exp(0.3 * r))
        elif name.endswith("weight"):
            values.copy_(1 + 0.2 * r)
        elif values.ndim == 1:
            values.copy_(0.1 * r)
