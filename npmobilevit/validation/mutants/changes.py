"""How a mistake is put into the network, which knows nothing of it: changes at the nodes of its scope.

A change has a target and a place, and a function that stands in for what is there:

==========================  =======================================  =========================================
target                      function                                 what it changes
==========================  =======================================  =========================================
an operator ("conv2d")      ``(s, own, *arguments, **keywords)``     a call of the operator by the node `s`
"activation"                ``(s, own, x)``                          a call of whichever activation it is
"parameters"                ``(s, parameters)``                      what ``s.params()`` returns
"out"                       ``(s, x)``                               the value that the node reports
a block ("conv_layer")      ``(s, own, x, **keywords)``              the block of :mod:`npmobilevit.layers`
==========================  =======================================  =========================================

`own` is what is replaced: of an operator with its own arguments, of a block with a scope before them, ``own(s, x)``.
Values are arrays in a plain run, and :class:`~npmobilevit.validation.bounds.Bounded` in a replay; functions that keep
to operators (``own``, ``s.ops``) and to :func:`moved`, :func:`raw` work on both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npmobilevit.scope import OpTable
from npmobilevit.validation.lazy import forced, moved

__all__ = ["BLOCKS", "OPERATORS", "Change", "enclosing", "forced", "moved", "raw"]

OPERATORS = (*(op for op in OpTable._fields if op != "activations"), "activation")
BLOCKS = (  # without layer_norm, which has the name of its operator and does nothing else
    "conv_layer", "inverted_residual", "mobilenet_layer", "linear_layer", "self_attention", "attention",
    "transformer_layer", "transformer", "mobilevit_block", "encoder", "aspp_pooling", "aspp", "deeplabv3",
)  # fmt: skip


class Change(NamedTuple):
    """One change of the network.

    Attributes
    ----------
    target : str
        Name of an operator or of a block, "activation", "parameters" or "out".
    where : str
        Regular expression that the whole name of the node has to match, without its "mobilevit.".
    function : callable
        See the head of this module.
    """

    target: str
    where: str
    function: Callable[..., Any]

    def is_at(self, node: str) -> bool:
        """Whether it concerns a node."""
        return re.fullmatch(self.where, node.removeprefix("mobilevit.")) is not None


def raw(x: Any) -> NDArray[Any]:
    """The mere numbers of an array, or of what stands for one."""
    x = forced(x)
    if hasattr(x, "whole"):
        x = x.whole()
    return np.asarray(getattr(x, "value", x))


def enclosing(node: str) -> Sequence[str]:
    """The node and all nodes around it."""
    parts = node.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
