"""Ports under test: the network with other operators, as a foreign implementation would have them."""

import dataclasses

from narrow import cut_to, float16, stored, with_operands

from npmobilevit.scope import EXTRA_TAPS, OpTable

__all__ = ["cut_to", "dump", "float16", "stored", "with_operands"]


def dump(model, pixel_values, extras=(), **operators):
    """What a port with these operators in place of ours puts out, as `model.taps` has it."""
    taps = {"pixel_values": pixel_values}

    def listen(name, x):
        if name and (name.rpartition(".")[2] not in EXTRA_TAPS or name in extras):
            taps[name] = x

    scope = dataclasses.replace(model.scope(listen), ops=OpTable()._replace(**operators))
    model.forward(scope, pixel_values)
    return taps
