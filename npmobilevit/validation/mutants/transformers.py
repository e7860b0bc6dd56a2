"""Mistakes in the transformer: the rows TRF."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from npmobilevit.layers import attention, layer_norm, linear_layer, transformer_layer
from npmobilevit.scope import Scope
from npmobilevit.validation.mutants.changes import Change, moved
from npmobilevit.validation.mutants.mutant import Mutant, changes
from npmobilevit.validation.mutants.places import BLOCK, TOKEN_LAYER, TRANSFORMER
from npmobilevit.validation.mutants.weights import with_features

# Those with a tolerance but the right one and other spellings of these
OTHER_ACTIVATIONS = (
    "relu", "gelu_pytorch_tanh", "hardswish", "relu6", "quick_gelu", "mish", "leaky_relu", "sigmoid", "tanh", "linear",
)  # fmt: skip


def activate_with(name: str, where: str) -> Change:
    """Another activation."""
    return Change("activation", where, lambda s, own, x: s.ops.activations[name](x))


def in_place_of_sum(number: int, function: Callable[..., Any]) -> Change:
    """``function(s, y, x, activation)`` in place of the sum of a branch y and its input x: of the attention's (0), or
    of the feed-forward layer's (1)."""

    def run(s: Any, own: Callable[..., Any], x: Any, **settings: Any) -> Any:
        calls = itertools.count()

        def add(y: Any, x: Any) -> Any:
            return function(s, y, x, settings["activation"]) if next(calls) == number else s.ops.add(y, x)

        return own(dataclasses.replace(s, ops=s.ops._replace(add=add)), x, **settings)

    return Change("transformer_layer", TOKEN_LAYER, run)


def normalise_afterwards(
    s: Scope, own: Callable[..., Any], x: Any, *, num_heads: int, eps: float, activation: str
) -> Any:
    """Each normalisation behind the sum and not before the branch."""
    y = attention(s.at("attention"), x, num_heads=num_heads)
    x = layer_norm(s.at("layernorm_before"), s.ops.add(y, x), eps=eps)
    output = s.at("output")
    y = linear_layer(output.at("dense"), _intermediate(s, x, activation))
    return s.out(layer_norm(s.at("layernorm_after"), output.out(s.ops.add(y, x)), eps=eps))


def ignore_first_dense(
    s: Scope, own: Callable[..., Any], x: Any, *, num_heads: int, eps: float, activation: str
) -> Any:
    """The second dense layer reads what the first read, with as much of its matrix as fits."""
    y = layer_norm(s.at("layernorm_before"), x, eps=eps)
    x = s.ops.add(attention(s.at("attention"), y, num_heads=num_heads), x)
    y = layer_norm(s.at("layernorm_after"), x, eps=eps)
    _intermediate(s, y, activation)
    output = s.at("output")
    dense = output.at("dense")
    parameters: dict[str, Any] = dense.params()
    width = min(y.shape[-1], parameters["weight"].shape[-1])
    parameters["weight"] = moved(parameters["weight"], lambda a: a[:, :width])
    y = dense.out(dense.ops.linear(moved(y, lambda a: a[..., :width]), **parameters))
    return s.out(output.out(s.ops.add(y, x)))


def _intermediate(s: Scope, x: Any, activation: str) -> Any:
    """What the first dense layer and its activation make."""
    intermediate = s.at("intermediate")
    y = s.ops.activations[activation](linear_layer(intermediate.at("dense"), x))
    return intermediate.out(intermediate.at("intermediate_act_fn").out(y))


def stop_early(missing: int) -> tuple[Change, ...]:
    """The last layers left out, where there are more than that."""

    def run(s: Scope, own: Callable[..., Any], x: Any, *, depth: int, **settings: Any) -> Any:
        return own(s, x, depth=depth - missing if depth > missing else depth, **settings)

    return (Change("transformer", TRANSFORMER, run),)


def start_late(s: Scope, own: Callable[..., Any], x: Any, *, depth: int, **settings: Any) -> Any:
    """The first layer left out."""
    for i in range(1, depth):
        x = transformer_layer(s.at(f"layer.{i}"), x, **settings)
    return s.out(x)


ANOTHER_NETWORK = "The network is another than the one that was trained: labels are mostly wrong."
DRIFT = "Values drift a little in every layer: accuracy drops without an error."
DEPTHS = "Run 2, 4 and 3 layers in the three blocks, each of them from layer 0 on."

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "TRF-01",
        "normalised after the sum; expected layer normalisation before attention and before the feed-forward layer",
        consequence=ANOTHER_NETWORK,
        fix="Compute x + attention(layernorm_before(x)), then x + mlp(layernorm_after(x)).",
        make=changes(Change("transformer_layer", TOKEN_LAYER, normalise_afterwards)),
    ),
    Mutant(
        "TRF-02",
        "not normalised; expected layer normalisation behind the last transformer layer",
        consequence="Tokens are folded back far too large or too small: labels are mostly wrong.",
        fix="Apply layernorm of each MobileViT block to the tokens before folding; the paper's figure leaves it out.",
        make=changes(Change("layer_norm", rf"{BLOCK}\.layernorm", lambda s, own, x, **_parameters: x)),
    ),
    Mutant(
        "TRF-04",
        "input not added to the result of the feed-forward layer; expected a residual",
        consequence=ANOTHER_NETWORK,
        fix="Return output.dense(...) plus the input of layernorm_after.",
        make=changes(in_place_of_sum(1, lambda s, y, x, activation: y)),
    ),
    Mutant(
        "TRF-04",
        "input not added to the result of attention; expected a residual",
        consequence=ANOTHER_NETWORK,
        fix="Add the input of layernorm_before to the result of attention.",
        make=changes(in_place_of_sum(0, lambda s, y, x, activation: y)),
        variant="attention",
    ),
    Mutant(
        "TRF-05",
        "GELU; expected hidden_act of config.json, SiLU in all released checkpoints",
        consequence=DRIFT,
        fix="Use SiLU in the feed-forward layers, not the GELU of other vision transformers.",
        make=changes(activate_with("gelu", TOKEN_LAYER)),
    ),
    Mutant(
        "TRF-06",
        "activation {value}; expected hidden_act of config.json, silu in all released checkpoints",
        consequence=DRIFT,
        fix="Use SiLU, x * sigmoid(x), in the feed-forward layers.",
        make=lambda name: (activate_with(name, TOKEN_LAYER),),
        values=lambda site: OTHER_ACTIVATIONS,
        examples=("relu", "gelu_pytorch_tanh", "hardswish"),
    ),
    Mutant(
        "TRF-07",
        "activation behind the second dense layer, too; expected none before the input is added",
        consequence=ANOTHER_NETWORK,
        fix="Leave the result of output.dense as it is: only intermediate.dense has an activation.",
        make=changes(in_place_of_sum(1, lambda s, y, x, activation: s.ops.add(s.ops.activations[activation](y), x))),
    ),
    Mutant(
        "TRF-07",
        "activation behind the second dense layer, too; expected none",
        consequence=ANOTHER_NETWORK,
        fix="Leave the result of output.dense as it is: only intermediate.dense has an activation.",
        make=changes(
            Change(
                "linear",
                rf"{TOKEN_LAYER}\.output\.dense",
                lambda s, own, x, **parameters: s.ops.activations["silu"](own(x, **parameters)),
            )
        ),
        variant="dense",
    ),
    Mutant(
        "TRF-07",
        "activation behind the feed-forward layer's sum; expected none",
        consequence=ANOTHER_NETWORK,
        fix="Leave the sum as it is: only intermediate.dense has an activation.",
        make=changes(in_place_of_sum(1, lambda s, y, x, activation: s.ops.activations[activation](s.ops.add(y, x)))),
        variant="sum",
    ),
    Mutant(
        "TRF-08",
        "reads the input of the feed-forward layer; expected the result of intermediate.dense and its activation",
        consequence=ANOTHER_NETWORK,
        fix="Pass on the result of each dense layer to the next: a loop must not start from its input again.",
        make=changes(Change("transformer_layer", TOKEN_LAYER, ignore_first_dense)),
    ),
    Mutant(
        "TRF-10",
        "{value} transformer layers short; expected 2, 4 and 3 layers in the three blocks",
        consequence=ANOTHER_NETWORK,
        fix=DEPTHS,
        make=stop_early,
        values=lambda site: (1, 2, 3),
        examples=(1,),
    ),
    Mutant(
        "TRF-10",
        "layer 0 is left out; expected 2, 4 and 3 layers in the three blocks",
        consequence=ANOTHER_NETWORK,
        fix=DEPTHS,
        make=changes(Change("transformer", TRANSFORMER, start_late)),
        variant="first",
    ),
    Mutant(
        "TRF-09",
        "mlp_ratio {value}; expected mlp_ratio of config.json, 2 in all released checkpoints",
        consequence="The checkpoint does not fit, and weights that were made to fit mean nothing.",
        fix="Read mlp_ratio from config.json.",
        make=lambda ratio: (
            with_features(rf"{TOKEN_LAYER}\.intermediate\.dense", lambda count: int(count * ratio / 2)),
            with_features(rf"{TOKEN_LAYER}\.output\.dense", lambda count: int(count * ratio / 2), axis=1),
        ),
        values=lambda site: (site.config.mlp_ratio * site.found.shape[-1] / site.expected.shape[-1],),
        examples=(4.0,),
        by_shape=True,
    ),
)
