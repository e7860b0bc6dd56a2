"""What the training tools share: the average of the weights, and the statistics of BatchNorm."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the averaged state towards the model's; the first steps forget faster."""
    keep = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - keep)
        else:
            mean.copy_(value)


def forget_statistics(model: nn.Module) -> None:
    """Let BatchNorm gather its statistics anew: in training mode, as the plain mean over the batches."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over the batches
    model.train()
