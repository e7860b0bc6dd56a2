"""Networks for the tests: settings, seeded weights and pixels. Nothing here comes from a file.

Fresh weights of transformers would be useless: its batch normalisations start with weights of about 0.02, so
that the logits are near 1e-40 and any port agrees. The weights made here keep values of every layer near one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from benchmarks import cases
from seeded import random_weights

from npmobilevit import models
from npmobilevit.config import MobileViTConfig, expected_parameters

VARIANTS: Mapping[str, dict[str, Any]] = {
    "xxs": cases.VARIANTS["xx-small"],
    "xs": cases.VARIANTS["x-small"],
    "s": cases.VARIANTS["small"],  # the defaults
}

# No two widths that meet are equal, so that a mix-up of axes or of layers shows as a wrong shape.
TINY: Mapping[str, Any] = {
    "hidden_sizes": [8, 12, 16],
    "neck_hidden_sizes": [4, 6, 8, 10, 12, 14, 20],
    "expand_ratio": 2.0,
    "aspp_out_channels": 9,
    "atrous_rates": [1, 2, 3],  # within the small maps of the tests, where 6, 12, 18 would see nothing but padding
    "num_labels": 5,
}

# Layers of the three transformers, for tests whose time goes with them; of the paper there are 2, 4 and 3.
FEWER_LAYERS = (2, 1, 1)

MODELS: Mapping[str | None, type[models.PreTrainedModel]] = {
    None: models.MobileViTModel,
    "classification": models.MobileViTForImageClassification,
    "segmentation": models.MobileViTForSemanticSegmentation,
}


def tiny(**changes: Any) -> MobileViTConfig:
    """A config small enough for a forward pass in some milliseconds."""
    return MobileViTConfig(**{**TINY, **changes})


def counters(weights: Mapping[str, np.ndarray], value: int = 0) -> dict[str, np.ndarray]:
    """The ``num_batches_tracked`` that belong to the weights."""
    names = (name.removesuffix("running_var") for name in weights if name.endswith("running_var"))
    return {f"{name}num_batches_tracked": np.array(value, np.int64) for name in names}


def sine_weights(config: MobileViTConfig, head: Any) -> dict[str, np.ndarray]:
    """The weights of the golden vectors: sines of the position of a value and of its tensor.

    The tensor's position counts all keys of transformers' state dict in sorted order, the counters too.
    """
    shapes = expected_parameters(config, head=head)
    keys = sorted([*shapes, *(n.replace("running_var", "num_batches_tracked") for n in shapes if "running_var" in n)])
    weights = {}
    for position, key in enumerate(keys):
        if key not in shapes:
            continue
        shape = shapes[key]
        s = np.sin(0.7 * np.arange(math.prod(shape)) + 1.3 * position).reshape(shape)
        if len(shape) > 1:
            weights[key] = s * math.sqrt(2 / math.prod(shape[1:]))
        elif key.endswith("running_var"):
            weights[key] = 1 + 0.5 * s
        elif key.endswith("weight"):
            weights[key] = 1 + 0.3 * s
        else:
            weights[key] = 0.1 * s
    return weights


def sine_pixels(height: int, width: int) -> np.ndarray:
    """The image of the golden vectors, (1, 3, H, W)."""
    i = np.arange(3 * height * width)
    return (0.5 + 0.5 * np.sin(0.01 * i + 0.37 * (i // 97))).reshape(1, 3, height, width)


def pixels(n: int = 1, channels: int = 3, height: int = 32, width: int = 32, *, dtype: Any = np.float64) -> np.ndarray:
    """Random pixels in 0..1, the same for both dtypes."""
    values = np.random.default_rng([n, channels, height, width]).random((n, channels, height, width), np.float32)
    return values.astype(dtype)


def make_model(
    head: Any = None,
    config: MobileViTConfig | None = None,
    *,
    precision: str = "float64",
    seed: int = 0,
    **options: Any,
) -> Any:
    """A model of the tiny config, or of another, with random weights."""
    config = tiny() if config is None else config
    weights = random_weights(config, head, seed=seed, expand_output=options.get("expand_output", True))
    return MODELS[head](config, weights, precision=precision, **options)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected value; shapes and dtypes must agree."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    assert actual.dtype == expected.dtype, (actual.dtype, expected.dtype)
    largest = float(np.abs(expected).max())
    difference = float(np.abs(actual - expected).max())
    assert math.isfinite(difference)
    assert largest > 1e-3, "values that tell nothing"
    return difference / largest


class RecordingWeights(Mapping[str, np.ndarray]):
    """Weights that remember which of them were read."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights
        self.read: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.append(name)
        return self._weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
