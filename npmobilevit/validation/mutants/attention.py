"""Mistakes in multi-head attention: the rows ATT.

Queries, keys and values are (S, h, L, d): sequences, heads, tokens, channels of a head; D = h*d.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.ops.arrays import Array
from npmobilevit.scope import Scope
from npmobilevit.validation.bounds import as_bounded, joined
from npmobilevit.validation.mutants.changes import Change, moved, raw
from npmobilevit.validation.mutants.mutant import Mutant, Site, changes
from npmobilevit.validation.mutants.places import ATTENTION, PROJECTION, TOKEN_LAYER
from npmobilevit.validation.mutants.weights import parameters_of, revalued, with_features, without_bias

OUTPUT_DENSE = rf"{TOKEN_LAYER}\.attention\.output\.dense"
PROJECTIONS = ("query", "key", "value")

Rows: TypeAlias = NDArray[np.intp]


def whole(x: Any) -> Any:
    """An attention matrix that may be kept as blocks of rows, in one piece."""
    return x.whole() if hasattr(x, "whole") else x


# Heads ---------------------------------------------------------------------------------------------------------------


def other_numbers_of_heads(site: Site) -> Iterable[int]:
    """All divisors of the width but the right one."""
    call = site.call("split_heads")
    if call is None:
        return []
    width = call.arguments[0].shape[-1]
    return [h for h in range(1, width + 1) if width % h == 0 and h != site.config.num_attention_heads]


def use_heads(heads: int) -> tuple[Change, ...]:
    """Another number of heads, in the blocks whose width it divides."""

    def split(s: Scope, own: Callable[..., Any], x: Any, right: int) -> Any:
        return own(x, right if x.shape[-1] % heads else heads)

    return (Change("split_heads", ATTENTION, split),)


def split_interleaved(s: Scope, own: Callable[..., Any], x: Any, heads: int) -> Any:
    """(S, L, D) read as (S, L, d, h)."""
    return moved(x, lambda a: a.reshape(*a.shape[:2], -1, heads).transpose(0, 3, 1, 2))


def merge_interleaved(s: Scope, own: Callable[..., Any], x: Any) -> Any:
    """(S, h, L, d) written as (S, L, d, h)."""
    return moved(x, lambda a: a.transpose(0, 2, 3, 1).reshape(a.shape[0], a.shape[2], -1))


def split_unmoved(s: Scope, own: Callable[..., Any], x: Any, heads: int) -> Any:
    """(S, L, D) read as (S, h, L, d)."""
    return moved(x, lambda a: a.reshape(a.shape[0], heads, a.shape[1], -1))


def merge_unmoved(s: Scope, own: Callable[..., Any], x: Any) -> Any:
    """(S, h, L, d) read as (S, L, D)."""
    return moved(x, lambda a: a.reshape(a.shape[0], a.shape[2], -1))


def heads_mixed(variant: str, description: str, *mistakes: tuple[str, Callable[..., Any]]) -> Mutant:
    """Heads cut out of the width or put together in another way."""
    return Mutant(
        "ATT-08",
        description,
        consequence="All shapes agree, but every head sees channels of all heads: labels are mostly wrong.",
        fix="Split with reshape(S, L, h, d).transpose(0, 2, 1, 3), merge with transpose(0, 2, 1, 3).reshape(S, L, D).",
        make=changes(*(Change(op, ATTENTION, function) for op, function in mistakes)),
        variant=variant,
    )


# Packed projections --------------------------------------------------------------------------------------------------


def _stacked(parts: Sequence[Any]) -> Any:
    """Parameters one below the other."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return joined([as_bounded(part) for part in parts], axis=0)


def rows_read_as(order: str, heads: int, width: int) -> Rows:
    """Which rows of the packed (3, h, d) become query, key and value, if they are read in another order. (3, D)"""
    axes = re.findall("[3hd]", order)
    sizes = {"3": 3, "h": heads, "d": width // heads}
    rows = np.arange(3 * width).reshape([sizes[axis] for axis in axes])
    return rows.transpose([axes.index(axis) for axis in "3hd"]).reshape(3, width)


def rows_packed_as(order: str, heads: int, width: int) -> Rows:
    """The rows that become query, key and value, if they are packed in another order and read as (3, h, d). (3, D)"""
    rows = np.arange(3 * width).reshape(3, heads, width // heads)
    return rows.transpose(["3hd".index(axis) for axis in re.findall("[3hd]", order)]).reshape(3, width)


def repacked(rows: Callable[[str, int, int], Rows]) -> Callable[[str], tuple[Change, ...]]:
    """Query, key and value with rows of each other."""

    def make(order: str) -> tuple[Change, ...]:
        def attend(s: Any, own: Callable[..., Any], x: Any, *, num_heads: int) -> Any:
            weights = dict(s.weights)
            for leaf in parameters_of(s, f"{s.name}.query"):
                packed = _stacked([s.weights[f"{s.name}.{projection}.{leaf}"] for projection in PROJECTIONS])
                for projection, own_rows in zip(PROJECTIONS, rows(order, num_heads, packed.shape[0] // 3), strict=True):
                    weights[f"{s.name}.{projection}.{leaf}"] = packed[own_rows]
            return own(dataclasses.replace(s, weights=weights), x, num_heads=num_heads)

        return (Change("self_attention", ATTENTION, attend),)

    return make


OTHER_PACKINGS = ("(h, 3, d)", "(h, d, 3)", "(3, d, h)", "(d, 3, h)", "(d, h, 3)")


def in_order(order: str) -> tuple[Change, ...]:
    """Query, key and value with the parameters of each other."""
    names = order.split(", ")

    def of_another(s: Scope, _parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        parent, _, projection = s.name.rpartition(".")
        return parameters_of(s, f"{parent}.{names[PROJECTIONS.index(projection)]}")

    return (Change("parameters", PROJECTION, of_another),)


# With query, value, key it is WGT-01
OTHER_ORDERS = tuple(", ".join(order) for order in itertools.permutations(PROJECTIONS) if order[0] != "query")

# Scores --------------------------------------------------------------------------------------------------------------


def scores_times(factor: Callable[[int, int], float]) -> Change:
    """Scores multiplied by ``factor(h, d)``."""

    def scores(s: Scope, own: Callable[..., Any], query: Any, key: Any) -> Any:
        by = factor(query.shape[1], query.shape[3])
        return own(moved(query, lambda a: a * by), key)

    return Change("attention_scores", ATTENTION, scores)


def softmax_over_queries(s: Scope, own: Callable[..., Any], scores: Any) -> Any:
    turned = moved(whole(scores), lambda a: a.swapaxes(-1, -2))
    return moved(own(turned), lambda a: a.swapaxes(-1, -2))


def key_not_transposed(s: Scope, own: Callable[..., Any], query: Any, key: Any) -> Any:
    """query @ key, which is possible where there are as many tokens as channels of a head."""
    square = key.shape[-1] == key.shape[-2]
    return own(query, moved(key, lambda a: a.swapaxes(-1, -2)) if square else key)


# Padding -------------------------------------------------------------------------------------------------------------


def _missing(tokens: int, multiple: int) -> int:
    return -tokens % multiple


def pad_tokens(multiple: int) -> tuple[Change, ...]:
    """Keys and values of zero behind the tokens, up to a multiple."""

    def pad(x: Any) -> Any:
        count = _missing(x.shape[2], multiple)
        return moved(x, lambda a: np.pad(a, ((0, 0), (0, 0), (0, count), (0, 0))))

    return (
        Change("attention_scores", ATTENTION, lambda s, own, query, key: own(query, pad(key))),
        Change("attend", ATTENTION, lambda s, own, probs, value: own(probs, pad(value))),
    )


def pad_inputs(multiple: int) -> tuple[Change, ...]:
    """Tokens of zero before the projections, whose keys and values are the biases."""

    def pad(s: Scope, x: Any, projection: str) -> Any:
        tokens, count = x.shape[2], _missing(x.shape[2], multiple)
        padded = moved(x, lambda a: np.pad(a, ((0, 0), (0, 0), (0, count), (0, 0))))
        bias = parameters_of(s, f"{s.name}.{projection}").get("bias")
        if bias is None:
            return padded

        def fill(a: Array) -> Array:
            a[:, :, tokens:] = raw(bias).reshape(x.shape[1], 1, x.shape[3])
            return a

        return revalued(padded, fill)

    return (
        Change("attention_scores", ATTENTION, lambda s, own, query, key: own(query, pad(s, key, "key"))),
        Change("attend", ATTENTION, lambda s, own, probs, value: own(probs, pad(s, value, "value"))),
    )


def multiples_with_padding(site: Site) -> Iterable[int]:
    """Powers of two of which the number of tokens is no multiple."""
    call = site.call("attend")
    if call is None:
        return []
    tokens = call.arguments[1].shape[2]
    return [m for m in (8, 16, 32, 64, 128, 256, 512, 1024, 4) if tokens % m]


# Overflow ------------------------------------------------------------------------------------------------------------

# Scores above which exp is infinite
LARGEST_SCORES: Mapping[str, float] = {"float16": math.log(65504), "float32": math.log(np.finfo(np.float32).max)}


def without_maximum(number: str) -> tuple[Change, ...]:
    """exp of the scores as they are: inf / inf where one is too large, in the whole row of the context then."""

    def softmax(s: Scope, own: Callable[..., Any], scores: Any) -> Any:
        scores = whole(scores)
        too_large = raw(scores).max(-1, keepdims=True) > LARGEST_SCORES[number]
        return moved(own(scores), lambda a: np.where(too_large, np.nan, a).astype(a.dtype))

    return (Change("softmax", ATTENTION, softmax),)


def where_something_overflowed(site: Site) -> Iterable[str]:
    return [] if np.isfinite(site.found).all() else LARGEST_SCORES


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "ATT-01",
        "{value} heads; expected num_attention_heads of config.json, 4 in all released checkpoints",
        consequence="All shapes agree, but every score mixes other channels: accuracy drops without an error.",
        fix="Read num_attention_heads from config.json; the paper does not give it.",
        make=use_heads,
        values=other_numbers_of_heads,
        examples=(1, 2, 8),
    ),
    Mutant(
        "ATT-02",
        "scores divided by the root of the whole width; expected the root of a head's width",
        consequence="Attention is flatter than it should be: accuracy drops without an error.",
        fix="Divide the scores by sqrt(hidden_size / num_attention_heads).",
        make=changes(scores_times(lambda heads, width: 1 / math.sqrt(heads))),
    ),
    Mutant(
        "ATT-03",
        "scores not scaled; expected scores divided by the root of a head's width",
        consequence="Attention is far too sharp: labels are mostly wrong.",
        fix="Divide the scores by sqrt(hidden_size / num_attention_heads), once.",
        make=changes(scores_times(lambda heads, width: math.sqrt(width))),
    ),
    Mutant(
        "ATT-03",
        "scores divided by the root of a head's width twice; expected once",
        consequence="Attention is nearly an average over all tokens: labels are mostly wrong.",
        fix="Scale once: a fused scaled_dot_product_attention divides by itself.",
        make=changes(scores_times(lambda heads, width: 1 / math.sqrt(width))),
        variant="twice",
    ),
    Mutant(
        "ATT-03",
        "scores {value} times as large as they should be; expected scores divided by the root of a head's width",
        consequence="Attention is too sharp or too flat: accuracy drops without an error.",
        fix="Divide the scores by sqrt(hidden_size / num_attention_heads), and by nothing else.",
        make=lambda factor: (scores_times(lambda heads, width: factor),),
        variant="factor",
        values=lambda site: [2.0**k for k in range(-6, 7) if k],
        continuous=True,
        examples=(0.3, 1.7),
        fitted=True,
    ),
    Mutant(
        "ATT-04",
        "softmax over the queries; expected softmax over the keys",
        consequence="The weights of a token's sources do not add up to 1: labels are mostly wrong.",
        fix="Apply softmax along the last axis of query @ key.T.",
        make=changes(Change("softmax", ATTENTION, softmax_over_queries)),
    ),
    # without taps of query, key and value, (3, d, h) of ATT-05 is the same
    heads_mixed(
        "",
        "heads own every h-th channel; expected blocks of neighbouring channels",
        ("split_heads", split_interleaved),
    ),
    heads_mixed(
        "both",
        "heads own every h-th channel, in the result too; expected blocks of neighbouring channels",
        ("split_heads", split_interleaved),
        ("merge_heads", merge_interleaved),
    ),
    heads_mixed(
        "merged",
        "channels of the heads alternate in the result; expected one head after the other",
        ("merge_heads", merge_interleaved),
    ),
    heads_mixed(
        "reshaped",
        "heads cut by a reshape without a transpose; expected (S, L, h, d) transposed to (S, h, L, d)",
        ("split_heads", split_unmoved),
    ),
    heads_mixed(
        "reshaped-both",
        "heads cut and merged by reshapes without transposes; expected (S, L, h, d) transposed to (S, h, L, d) and "
        "back",
        ("split_heads", split_unmoved),
        ("merge_heads", merge_unmoved),
    ),
    heads_mixed(
        "reshaped-merged",
        "heads merged by a reshape without a transpose; expected (S, h, L, d) transposed to (S, L, h, d) first",
        ("merge_heads", merge_unmoved),
    ),
    Mutant(
        "ATT-05",
        "packed query, key and value are read as {value}; expected (3, h, d)",
        consequence="Queries, keys and values are mixtures of each other: labels are mostly wrong.",
        fix="Cut the packed result into three parts first and each of them into heads, or pack the weights per head.",
        make=repacked(rows_read_as),
        values=lambda site: OTHER_PACKINGS,
        examples=OTHER_PACKINGS[:2],
    ),
    Mutant(
        "ATT-05",
        "query, key and value are packed as {value} and read as (3, h, d); expected both alike",
        consequence="Queries, keys and values are mixtures of each other: labels are mostly wrong.",
        fix="Concatenate the weights of query, key and value one below the other, as they are cut apart.",
        make=repacked(rows_packed_as),
        variant="packed",
        values=lambda site: OTHER_PACKINGS,
        examples=OTHER_PACKINGS[:2],
    ),
    Mutant(
        "ATT-05",
        "query, key and value are {value}; expected the order query, key, value",
        consequence="Tokens look for something else than they should: labels are mostly wrong.",
        fix="Pack query, key and value in the order in which they are cut apart.",
        make=in_order,
        variant="order",
        values=lambda site: OTHER_ORDERS,
        examples=OTHER_ORDERS,
    ),
    Mutant(
        "ATT-06",
        "no bias; expected the bias of the checkpoint",
        consequence="Attention is shifted: accuracy drops without an error.",
        fix="Give query, key and value a bias (qkv_bias is true in all released checkpoints) and load it.",
        make=changes(without_bias(PROJECTION)),
    ),
    Mutant(
        "ATT-09",
        "query @ key; expected query @ key.T",
        consequence="All scores are wrong, without an error where there are as many tokens as channels of a head.",
        fix="Transpose the last two axes of the keys.",
        make=changes(Change("attention_scores", ATTENTION, key_not_transposed)),
    ),
    Mutant(
        "ATT-10",
        "the result of attention is not projected; expected attention.output.dense applied to it",
        consequence="Heads are never mixed: labels are mostly wrong.",
        fix="Apply attention.output.dense, whatever the number of heads.",
        make=changes(Change("linear", OUTPUT_DENSE, lambda s, own, x, **parameters: x)),
        variant="skipped",
    ),
    Mutant(
        "ATT-10",
        "no bias; expected the bias of the checkpoint",
        consequence="What attention adds is shifted: accuracy drops without an error.",
        fix="Load attention.output.dense.bias.",
        make=changes(without_bias(OUTPUT_DENSE)),
    ),
    Mutant(
        "ATT-12",
        "padding takes part: zero keys and values up to a multiple of {value} tokens; expected a mask",
        consequence="All weights are too small, the more the fewer tokens there are: accuracy drops for some sizes.",
        fix="Set the scores of padded keys to -inf before softmax, or do not pad.",
        make=pad_tokens,
        values=multiples_with_padding,
        examples=(8, 256),
    ),
    Mutant(
        "ATT-12",
        "padding takes part: zero tokens up to a multiple of {value}, projected like others; expected a mask",
        consequence="All weights are too small, the more the fewer tokens there are: accuracy drops for some sizes.",
        fix="Set the scores of padded keys to -inf before softmax, or do not pad.",
        make=pad_inputs,
        variant="projected",
        values=multiples_with_padding,
        examples=(8, 256),
    ),
    Mutant(
        "ATT-13",
        "exp of a score is beyond {value}; expected softmax of the scores less their maximum",
        consequence="NaN in the rows of tokens with a large score, and soon everywhere.",
        fix="Subtract the largest score of each row before exp.",
        make=without_maximum,
        values=where_something_overflowed,
        examples=("float16",),
    ),
    Mutant(
        "ATT-11",
        "queries, keys and values of the whole width in each of {value} heads; expected a head's share of it",
        consequence="The checkpoint does not fit, and weights that were made to fit mean nothing.",
        fix="Divide the width by the number of heads: key_dim of Keras's MultiHeadAttention is that of one head.",
        make=lambda heads: (
            with_features(PROJECTION, lambda count: count * heads),
            with_features(OUTPUT_DENSE, lambda count: count * heads, axis=1),
        ),
        values=lambda site: (site.found.shape[-1] // site.expected.shape[-1],),
        examples=(4,),
        by_shape=True,
    ),
)
