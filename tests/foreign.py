"""Ports under test: the network with other operators, as a foreign implementation would have them."""

import dataclasses

import numpy as np

from npmobilevit import ops
from npmobilevit.scope import EXTRA_TAPS, OpTable


def dump(model, pixel_values, extras=(), **operators):
    """What a port with these operators in place of ours puts out, as `model.taps` has it."""
    taps = {"pixel_values": pixel_values}

    def listen(name, x):
        if name and (name.rpartition(".")[2] not in EXTRA_TAPS or name in extras):
            taps[name] = x

    scope = dataclasses.replace(model.scope(listen), ops=OpTable()._replace(**operators))
    model.forward(scope, pixel_values)
    return taps


def cut_to(bits):
    """Rounding of float32 numbers to so many significant bits: 11 for TF32, 8 for bfloat16."""
    drop = np.uint32(24 - bits)
    one = np.uint32(1)

    def narrow(x):
        integers = np.ascontiguousarray(x, np.float32).view(np.uint32)
        to_even = (one << (drop - one)) - one + ((integers >> drop) & one)
        return ((integers + to_even) >> drop << drop).view(np.float32)

    return narrow


def float16(x):
    """Rounding to float16."""
    return x.astype(np.float16).astype(np.float32)


def with_operands(narrow):
    """Operators whose inner products round their factors, as tensor cores do."""

    def conv2d(x, *, weight, bias=None, **geometry):
        return ops.conv2d(narrow(x), weight=narrow(weight), bias=bias, **geometry)

    def linear(x, *, weight, bias=None):
        return ops.linear(narrow(x), weight=narrow(weight), bias=bias)

    return {
        "conv2d": conv2d,
        "linear": linear,
        "attention_scores": lambda q, k: ops.attention_scores(narrow(q), narrow(k)),
        "attend": lambda p, v: ops.attend(narrow(p), narrow(v)),
    }


def stored(narrow):
    """Operators of a narrow format: factors and results are rounded, sums are wide."""
    table = OpTable()._replace(**with_operands(narrow))
    wrapped = {
        name: lambda *a, _f=function, **k: narrow(_f(*a, **k))
        for name, function in table._asdict().items()
        if callable(function)
    }
    activations = {name: lambda x, _f=f: narrow(_f(x)) for name, f in ops.ACTIVATIONS.items()}
    return {**wrapped, "activations": activations}
