"""The operators of the network in narrow arithmetics, computed in float32. NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit import ops
from npmobilevit.scope import OpTable

Array: TypeAlias = NDArray[Any]
Narrow: TypeAlias = Callable[[Array], Array]
Operators: TypeAlias = dict[str, Any]


def cut_to(bits: int) -> Narrow:
    """Rounding of float32 numbers to so many significant bits: 11 for TF32, 8 for bfloat16."""
    drop = np.uint32(24 - bits)
    one = np.uint32(1)

    def narrow(x: Array) -> Array:
        integers = np.ascontiguousarray(x, np.float32).view(np.uint32)
        to_even = (one << (drop - one)) - one + ((integers >> drop) & one)
        return ((integers + to_even) >> drop << drop).view(np.float32)

    return narrow


def float16(x: Array) -> Array:
    """Rounding to float16."""
    return x.astype(np.float16).astype(np.float32)


def with_operands(narrow: Narrow) -> Operators:
    """Operators whose inner products round their factors, as tensor cores do."""

    def conv2d(x: Array, *, weight: Array, bias: Array | None = None, **geometry: Any) -> Array:
        return ops.conv2d(narrow(x), weight=narrow(weight), bias=bias, **geometry)

    def linear(x: Array, *, weight: Array, bias: Array | None = None) -> Array:
        return ops.linear(narrow(x), weight=narrow(weight), bias=bias)

    return {
        "conv2d": conv2d,
        "linear": linear,
        "attention_scores": lambda q, k: ops.attention_scores(narrow(q), narrow(k)),
        "attend": lambda p, v: ops.attend(narrow(p), narrow(v)),
    }


def stored(narrow: Narrow) -> Operators:
    """Operators of a narrow format: factors and results are rounded, sums are wide."""
    table = OpTable()._replace(**with_operands(narrow))
    wrapped = {
        name: lambda *a, _f=function, **k: narrow(_f(*a, **k))
        for name, function in table._asdict().items()
        if callable(function)
    }
    activations = {name: lambda x, _f=f: narrow(_f(x)) for name, f in ops.ACTIVATIONS.items()}
    return {**wrapped, "activations": activations}


def quantized() -> Operators:
    """Dynamic int8: activations in 255 steps of their range, weights in 127 on each side of zero, sums exact."""

    def activations(x: Array) -> Array:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        step = (high - low) / 255 or 1.0
        return (np.round(x / step) * step).astype(x.dtype)

    def weights(w: Array) -> Array:
        step = float(np.abs(w).max()) / 127 or 1.0
        return (np.round(w / step) * step).astype(w.dtype)

    def conv2d(x: Array, *, weight: Array, bias: Array | None = None, **geometry: Any) -> Array:
        return ops.conv2d(activations(x), weight=weights(weight), bias=bias, **geometry)

    def linear(x: Array, *, weight: Array, bias: Array | None = None) -> Array:
        return ops.linear(activations(x), weight=weights(weight), bias=bias)

    return {"conv2d": conv2d, "linear": linear}


OPERATORS: dict[str, Operators] = {
    "fp32": {},
    "tf32": with_operands(cut_to(11)),
    "fp16": stored(float16),
    "bf16": stored(cut_to(8)),
    "int8-dynamic": quantized(),
}
