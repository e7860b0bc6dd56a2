"""Numbers that are the same on every machine and in every language: the recipe of reference/README.md. NumPy only."""

from __future__ import annotations

import hashlib
import math

import numpy as np


def numbers(key: str, *shape: int) -> np.ndarray:
    """Even numbers in [-1, 1), multiples of 2**-23: SplitMix64 started from the SHA-256 of `key`.

    Integers only, so that any language makes the same ones; reference/README.md has the recipe.
    """
    start = np.frombuffer(hashlib.sha256(key.encode()).digest()[:8], "<u8")
    count = math.prod(shape)
    z = start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1).reshape(shape)


def parameter(key: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 parameter of a sensible size: maps keep their magnitude and attention is neither even nor one-hot."""
    u = numbers(f"{key}/{name}", *shape)
    if len(shape) > 1:
        value = u * math.sqrt((8 if len(shape) == 4 else 5) / math.prod(shape[1:]))  # convolution or linear
    elif name.endswith("running_var"):
        value = 1 + 0.5 * u
    elif name.endswith("weight"):
        value = 1 + 0.4 * u
    else:
        value = 0.3 * u
    return value.astype(np.float32)
