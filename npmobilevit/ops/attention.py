"""Softmax attention."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from npmobilevit.errors import ShapeError
from npmobilevit.ops.activation import softmax
from npmobilevit.ops.arrays import Array, check_float, check_positive
from npmobilevit.ops.linear import linear


def attention_scores(query: Array, key: Array) -> Array:
    """Scaled dot products of every query with every key, ``query @ key.T / sqrt(d)``.

    Parameters
    ----------
    query : (..., L, d) array, float32 or float64
    key : (..., M, d) array of the same dtype and leading axes

    Returns
    -------
    (..., L, M) array

    Raises
    ------
    ShapeError
        If the shapes or dtypes do not belong together.
    """
    check_float(query, "query")
    check_float(key, "key")
    if (
        query.ndim < 2
        or query.ndim != key.ndim
        or query.shape[:-2] != key.shape[:-2]
        or query.shape[-1:] != key.shape[-1:]
        or not query.shape[-1]
    ):
        raise ShapeError(
            f"query (..., L, d) and key (..., M, d) must agree in all axes but the last but one, "
            f"found {query.shape} and {key.shape}",
            "attention-shape",
        )
    if query.dtype != key.dtype:
        raise ShapeError(f"query is {query.dtype} but key is {key.dtype}", "array-dtype")
    return np.asarray((query / math.sqrt(query.shape[-1])) @ key.swapaxes(-1, -2))


def attend(probs: Array, value: Array) -> Array:
    """Average the values with the attention probabilities, ``probs @ value``.

    Parameters
    ----------
    probs : (..., L, M) array, float32 or float64
    value : (..., M, d) array of the same dtype and leading axes

    Returns
    -------
    (..., L, d) array

    Raises
    ------
    ShapeError
        If the shapes or dtypes do not belong together.
    """
    check_float(probs, "probs")
    check_float(value, "value")
    if probs.ndim < 2 or probs.shape[:-2] != value.shape[:-2] or probs.shape[-1:] != value.shape[-2:-1]:
        raise ShapeError(
            f"value must have as many rows as there are keys, found {value.shape} for probabilities {probs.shape}",
            "attention-shape",
        )
    if probs.dtype != value.dtype:
        raise ShapeError(f"value is {value.dtype} but query and key are {probs.dtype}", "array-dtype")
    return np.asarray(probs @ value)


def scaled_dot_product_attention(query: Array, key: Array, value: Array) -> Array:
    """Mix the values of all tokens, ``softmax(query @ key.T / sqrt(d)) @ value``.

    Parameters
    ----------
    query : (..., L, d) array, float32 or float64
    key, value : (..., M, d) arrays of the same dtype and leading axes

    Returns
    -------
    (..., L, d) array

    Raises
    ------
    ShapeError
        If the shapes or dtypes do not belong together.

    Notes
    -----
    Equals ``torch.nn.functional.scaled_dot_product_attention`` without mask or dropout.
    """
    return attend(softmax(attention_scores(query, key)), value)


def split_heads(x: Array, num_heads: int) -> Array:
    """Cut the width into heads; head i owns the i-th block of channels.

    Parameters
    ----------
    x : (S, L, D) array, float32 or float64
    num_heads : int
        A divisor of D.

    Returns
    -------
    (S, num_heads, L, D / num_heads) array

    Raises
    ------
    ShapeError
        If `x` has not three axes or `num_heads` does not divide D.
    """
    check_float(x, ndim=3)
    sequences, tokens, width = x.shape
    if width % check_positive("num_heads", num_heads):
        raise ShapeError(f"num_heads={num_heads} does not divide the width {width}", "attention-heads")
    return x.reshape(sequences, tokens, num_heads, width // num_heads).transpose(0, 2, 1, 3)


def merge_heads(x: Array) -> Array:
    """Put the heads side by side: the inverse of :func:`split_heads`.

    Parameters
    ----------
    x : (S, h, L, d) array, float32 or float64

    Returns
    -------
    (S, L, h * d) array

    Raises
    ------
    ShapeError
        If `x` has not four axes.
    """
    check_float(x, ndim=4)
    sequences, heads, tokens, head_width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(sequences, tokens, heads * head_width)


def multi_head_attention(
    x: Array,
    *,
    query: Mapping[str, Array],
    key: Mapping[str, Array],
    value: Mapping[str, Array],
    output: Mapping[str, Array],
    num_heads: int,
) -> Array:
    """Self-attention in several heads: project, attend, merge, project (paper section 3.1).

    Parameters
    ----------
    x : (S, L, D) array, float32 or float64
        S sequences of L tokens.
    query, key, value, output : mapping
        Each with "weight" (D, D) and optionally "bias" (D,).
    num_heads : int
        A divisor of D.

    Returns
    -------
    (S, L, D) array

    Raises
    ------
    ShapeError
        If the shapes or dtypes do not belong together.

    Notes
    -----
    Equals ``MobileViTAttention`` of transformers in evaluation mode.
    """
    check_float(x, ndim=3)
    q, k, v = (split_heads(linear(x, **projection), num_heads) for projection in (query, key, value))
    return linear(merge_heads(scaled_dot_product_attention(q, k, v)), **output)
