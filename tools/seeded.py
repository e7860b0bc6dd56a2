"""Seeded weights for networks that nobody trained. NumPy only.

Fresh weights of transformers would be useless: its batch normalisations start with weights of about 0.02, so that the
logits are near 1e-40 and any port agrees. These keep the values of every layer near one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npmobilevit.config import MobileViTConfig, expected_parameters


def random_weights(
    config: MobileViTConfig, head: Any = None, *, expand_output: bool = True, seed: int = 0, dtype: Any = np.float64
) -> dict[str, np.ndarray]:
    """Well-scaled weights; the same for every dtype, as all of them are float32 numbers."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in expected_parameters(config, head=head, expand_output=expand_output).items():
        r = rng.standard_normal(shape)
        if len(shape) > 1:
            value = r * math.sqrt(1.6 / math.prod(shape[1:]))
        elif name.endswith("running_var"):
            value = np.exp(0.3 * r)
        elif name.endswith("weight"):
            value = 1 + 0.2 * r
        else:
            value = 0.1 * r
        weights[name] = value.astype(np.float32).astype(dtype)
    return weights
