"""Scope: a place in the network, with the parameters, the operators and the listener that belong to it.

A layer is a plain function ``layer(s, x, ...)``. Its scope answers four questions: where am I (`name`), which
parameters are here (`params`), which operators do I use (`ops`), and who wants to see what I made (`out`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeAlias, TypeVar

import numpy as np

from npmobilevit import ops
from npmobilevit.ops.arrays import Array

Tap: TypeAlias = Callable[[str, Array], object]

PARAMETER_LEAVES = ("weight", "bias", "running_mean", "running_var")

# Attention is computed for so many queries at a time that it has at most about this many scores (4 MiB in float32).
PART_ELEMENTS = 2**20

# Values inside a layer that are no module of transformers' network; recorded only when asked for by name.
EXTRA_TAPS = ("scores", "probs", "unfolded", "folded")


def is_extra(name: str) -> bool:
    """Whether a tap is a value inside a layer, and no module of transformers' network."""
    return name.rpartition(".")[2] in EXTRA_TAPS


class OpTable(NamedTuple):
    """The operators that layers may use. Another arithmetic, or a deliberate mistake, is another table."""

    add: Callable[[Array, Array], Array] = ops.add
    concat_channels: Callable[[Sequence[Array]], Array] = ops.concat_channels
    conv2d: Callable[..., Array] = ops.conv2d
    batch_norm: Callable[..., Array] = ops.batch_norm
    layer_norm: Callable[..., Array] = ops.layer_norm
    linear: Callable[..., Array] = ops.linear
    attention_scores: Callable[[Array, Array], Array] = ops.attention_scores
    softmax: Callable[[Array], Array] = ops.softmax
    attend: Callable[[Array, Array], Array] = ops.attend
    split_heads: Callable[[Array, int], Array] = ops.split_heads
    merge_heads: Callable[[Array], Array] = ops.merge_heads
    unfold_patches: Callable[[Array, int], Array] = ops.unfold_patches
    fold_patches: Callable[[Array, int, int, int], Array] = ops.fold_patches
    resize_bilinear: Callable[[Array, tuple[int, int]], Array] = ops.resize_bilinear
    global_avg_pool: Callable[[Array], Array] = ops.global_avg_pool
    activations: Mapping[str, Callable[[Array], Array]] = ops.ACTIVATIONS


def ignore(name: str, x: Array) -> None:
    """The tap of an ordinary forward pass: nobody listens."""


def everything(name: str) -> bool:
    """What a tap wants that does not say so."""
    return True


@dataclasses.dataclass(frozen=True)
class Scope:
    """A node of the network.

    Parameters
    ----------
    weights : mapping of str to array
        All parameters, under transformers' names.
    name : str
        Path of this node, such as "mobilevit.encoder.layer.2"; empty at the root.
    tap : callable (name, array)
        Told of every value; what it returns is ignored, and it must not change the array.
    ops : OpTable
    wants : callable (name) -> bool
        Whether to tell the tap of this "….scores" or "….probs", too: they are never there as a whole for anything else,
        and have L x L values a head.
    """

    weights: Mapping[str, Array]
    name: str = ""
    tap: Tap = ignore
    ops: OpTable = OpTable()  # noqa: RUF009  (a NamedTuple cannot be changed)
    wants: Callable[[str], bool] = everything

    def at(self, child: str) -> Self:
        """The scope of a node below this one."""
        return self.of_node(f"{self.name}.{child}" if self.name else child)

    def of_node(self, name: str) -> Self:
        """The scope of a node of this name. Another scope may use other operators at each."""
        return dataclasses.replace(self, name=name)

    def params(self) -> dict[str, Array]:
        """The parameters that this node itself holds, by leaf name: the keyword arguments of its operator."""
        names = ((leaf, f"{self.name}.{leaf}") for leaf in PARAMETER_LEAVES)
        return {leaf: self.weights[name] for leaf, name in names if name in self.weights}

    def out(self, x: Array) -> Array:
        """Report the value of this node and return it unchanged. A layer goes on with what this returns."""
        self.tap(self.name, x)
        return x

    def enter(self, block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a block of the network at this node. Another scope may put another in its place."""
        return block(self, *args, **kwargs)

    def in_parts(self, attend: Callable[..., Array], query: Array, key: Array, value: Array) -> Array:
        """Run attention head by head and for some queries at a time, so that few of all L x L scores are there at once.

        Parameters
        ----------
        attend : callable (scope, query, key, value)
            What it reports, (S, 1, Q, L), is put together for a tap that wants it.
        query, key, value : (S, h, L, d) arrays

        Returns
        -------
        (S, h, L, d) array
        """
        sequences, heads, tokens, _ = query.shape
        step = max(1, PART_ELEMENTS // (sequences * tokens))
        y = np.empty(query.shape, query.dtype)
        wholes: dict[str, Array] = {}

        def reporting(part: Any) -> Scope:
            def put(name: str, x: Array) -> None:
                if self.tap is not ignore and self.wants(name):
                    if name not in wholes:
                        wholes[name] = np.empty((sequences, heads, tokens, x.shape[-1]), x.dtype)
                    wholes[name][part] = x

            return dataclasses.replace(self, tap=put)

        for head, start in itertools.product(range(heads), range(0, tokens, step)):
            keys = np.s_[:, head : head + 1]
            queries = np.s_[:, head : head + 1, start : start + step]
            y[queries] = attend(reporting(queries), query[queries], key[keys], value[keys])
        for name, whole in wholes.items():
            self.tap(name, whole)
        return y


P = ParamSpec("P")
R = TypeVar("R")


def block(function: Callable[Concatenate[Scope, P], R]) -> Callable[Concatenate[Scope, P], R]:
    """Mark a function of a scope as a block of the network: its scope is asked to run it."""

    @functools.wraps(function)
    def run(s: Scope, /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = s.enter(function, *args, **kwargs)
        return result

    return run
