import math

import definitions
import numpy as np
import pytest
from definitions import DTYPES, assert_close, assert_refused, integers, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.ops import (
    attend,
    attention_scores,
    linear,
    merge_heads,
    multi_head_attention,
    scaled_dot_product_attention,
    split_heads,
)

quick = settings(derandomize=True, deadline=None, max_examples=25)

NAMES = ("query", "key", "value", "output")


def projections(width, *, bias=True, dtype=np.float64, seed=0):
    """Four projections, each different, so that none can stand in for another (WGT-01, ATT-05, ATT-06, ATT-10)."""
    result = {}
    for number, name in enumerate(NAMES, start=10 * seed + 1):
        result[name] = {"weight": normal(width, width, seed=number, dtype=dtype)}
        if bias:
            result[name]["bias"] = normal(width, seed=number, dtype=dtype)
    return result


def identity(width, *names):
    return {name: {"weight": np.eye(width) if name in names else np.zeros((width, width))} for name in NAMES}


# ---- one head ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("leading", "queries", "keys", "d", "e"),
    [
        ((), 3, 5, 2, 4),
        ((2,), 4, 4, 4, 4),  # all sizes equal: a key that is not transposed, ATT-09
        ((2, 3), 2, 3, 5, 5),
        ((1,), 1, 6, 3, 2),
        ((2,), 5, 1, 3, 3),
    ],
)
def test_definition(leading, queries, keys, d, e, dtype):
    query, key = normal(*leading, queries, d, dtype=dtype), normal(*leading, keys, d, seed=1, dtype=dtype)
    value = normal(*leading, keys, e, seed=2, dtype=dtype)
    scores, mixed = np.zeros((*leading, queries, keys)), np.zeros((*leading, queries, e))
    for index in np.ndindex(*leading):
        mixed[index] = definitions.attention(query[index], key[index], value[index])
        scores[index] = definitions.linear(query[index], key[index]) / math.sqrt(d)
    assert_close(attention_scores(query, key), scores, roundings=2 * d + 2, magnitude=10 * d)
    actual = scaled_dot_product_attention(query, key, value)
    assert_close(actual, mixed, roundings=60, magnitude=abs(value).max())
    probs = definitions.normal(*leading, queries, keys, seed=3, dtype=dtype)
    expected = np.zeros((*leading, queries, e))
    for index in np.ndindex(*leading):
        expected[index] = definitions.linear(probs[index], value[index].T)
    assert_close(attend(probs, value), expected, roundings=2 * keys, magnitude=10 * keys)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_golden(dtype):
    """d = 4: divided by 2, once (ATT-02, ATT-03)."""
    query = np.array([[1, 2, 3, 4], [0, 0, 0, 2]], dtype)
    key = np.array([[1, 1, 1, 1], [2, 0, 0, 0], [0, 0, 0, 1]], dtype)
    expected = np.array([[5, 1, 2], [1, 0, 1]], dtype)
    np.testing.assert_array_equal(attention_scores(query, key), expected, strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_golden(dtype):
    """Scores ln 3 and 0 after the division by 2: weights 3/4 and 1/4. Without it 9/10; twice 0.634."""
    query = np.array([[2, 0, 0, 0]], dtype)
    key = np.array([[math.log(3), 5, 5, 5], [0, 7, 7, 7]], dtype)
    value = np.array([[4, 0], [8, 1]], dtype)
    y = scaled_dot_product_attention(query, key, value)
    np.testing.assert_allclose(y, np.array([[5, 0.25]], dtype), rtol=4 * np.finfo(dtype).eps, strict=True)


def test_attend_golden():
    """Row i of the probabilities makes row i; not symmetric, so a transposed matrix shows."""
    probs, value = np.array([[1.0, 0.0], [0.25, 0.75]]), np.array([[10.0, 20.0, 30.0], [2.0, 4.0, 8.0]])
    np.testing.assert_array_equal(attend(probs, value), [[10, 20, 30], [4, 8, 13.5]])


@quick
@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_equal_keys_mean_the_mean_of_the_values(seed, queries, keys, d):
    query, value = normal(2, queries, d, seed=seed), normal(2, keys, 3, seed=seed + 1)
    key = np.repeat(normal(2, 1, d, seed=seed + 2), keys, axis=1)
    y = scaled_dot_product_attention(query, key, value)
    np.testing.assert_allclose(y, np.repeat(value.mean(axis=1, keepdims=True), queries, axis=1), rtol=1e-13, atol=1e-14)


@quick
@given(st.integers(0, 999))
def test_order_of_keys_does_not_matter_and_order_of_queries_is_kept(seed):
    query, key, value = (normal(2, 5, 3, seed=seed + i) for i in range(3))
    order = np.random.default_rng(seed).permutation(5)
    y = scaled_dot_product_attention(query, key, value)
    shuffled = scaled_dot_product_attention(query, key[:, order], value[:, order])
    np.testing.assert_allclose(shuffled, y, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(scaled_dot_product_attention(query[:, order], key, value), y[:, order], rtol=1e-13)


@quick
@given(st.integers(0, 999), st.integers(-9, 9))
def test_linear_in_the_values_and_between_them(seed, factor):
    query, key, value, other = (normal(2, 4, 3, seed=seed + i) for i in range(4))
    y = scaled_dot_product_attention(query, key, value)
    assert np.all(y <= value.max(axis=1, keepdims=True) + 1e-14)
    assert np.all(y >= value.min(axis=1, keepdims=True) - 1e-14)
    mixed = scaled_dot_product_attention(query, key, factor * value + other)
    np.testing.assert_allclose(mixed, factor * y + scaled_dot_product_attention(query, key, other), rtol=0, atol=1e-13)


@quick
@given(st.integers(0, 999))
def test_the_same_shift_of_all_keys_does_not_matter(seed):
    """It moves all scores of a query alike; with the softmax over the queries (ATT-04) it would matter."""
    query, key, value = (normal(2, 4, 3, seed=seed + i) for i in range(3))
    y = scaled_dot_product_attention(query, key, value)
    moved = scaled_dot_product_attention(query, key + normal(2, 1, 3, seed=seed + 3), value)
    np.testing.assert_allclose(moved, y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores_pick_one_value_without_a_warning(dtype):
    """ATT-13."""
    key = np.array([[1e15, 0], [0, 1e15]], dtype)
    value = np.array([[1, 2], [3, 4]], dtype)
    np.testing.assert_array_equal(scaled_dot_product_attention(key, key, value), value, strict=True)


def test_one_head_refuses():
    query, key, value = normal(2, 3, 4), normal(2, 5, 4), normal(2, 5, 6)
    for bad in [normal(2, 5, 3), normal(3, 5, 4), normal(5, 4), normal(1, 5, 4), normal(1, 2, 5, 4)]:
        assert_refused("attention-shape", attention_scores, query, bad)  # (1, 5, 4) would broadcast
        assert_refused("attention-shape", scaled_dot_product_attention, query, bad, value)
    assert_refused("attention-shape", attention_scores, np.ones(4), np.ones(4))
    assert_refused("attention-shape", attention_scores, np.array(1.0), np.array(1.0))
    assert_refused("attention-shape", attention_scores, np.ones((3, 0)), np.ones((3, 0)))  # 0 / sqrt(0)
    probs = np.ones((2, 3, 5))
    for bad in [normal(2, 4, 6), normal(1, 5, 6), normal(5, 6), normal(2, 6, 5), np.ones(5), np.array(1.0)]:
        assert_refused("attention-shape", attend, probs, bad)
        assert_refused("attention-shape", scaled_dot_product_attention, query, key, bad)
    assert_refused("attention-shape", attend, np.ones(5), np.ones((5, 6)))
    assert_refused("array-ndim", scaled_dot_product_attention, query, key[:, :0], value[:, :0])  # no key to attend to


@pytest.mark.parametrize("queries", [1, 4])
def test_scores_refuse_a_key_without_a_token_axis(queries):
    assert_refused("attention-shape", attention_scores, np.ones((queries, 4)), np.ones(4))


# ---- heads -------------------------------------------------------------------------------------------------------


def test_split_heads_golden():
    """Head i owns a block of channels, not every h-th (ATT-05, ATT-08)."""
    x = np.arange(12.0).reshape(1, 2, 6)  # two tokens: 0..5 and 6..11
    expected = [[[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]]]]
    np.testing.assert_array_equal(split_heads(x, 2), np.array(expected, float), strict=True)
    np.testing.assert_array_equal(merge_heads(np.array(expected, float)), x, strict=True)


@quick
@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_split_and_merge_are_inverse(seed, sequences, tokens, heads, size):
    x = normal(sequences, tokens, heads * size, seed=seed)
    split = split_heads(x, heads)
    assert split.shape == (sequences, heads, tokens, size)
    for s, head, token, d in np.ndindex(*split.shape):
        assert split[s, head, token, d] == x[s, token, head * size + d]
    np.testing.assert_array_equal(merge_heads(split), x, strict=True)


def test_heads_refuse():
    assert_refused("array-ndim", split_heads, np.ones((2, 6)), 2)
    assert_refused("array-ndim", split_heads, np.ones((1, 2, 3, 6)), 2)
    assert_refused("attention-heads", split_heads, np.ones((1, 2, 6)), 4)
    assert_refused("attention-heads", split_heads, np.ones((1, 2, 6)), 12)
    for heads in (0, -2, 2.0, True, None, "2"):
        assert_refused("argument-range", split_heads, np.ones((1, 2, 6)), heads)
    assert_refused("array-ndim", merge_heads, np.ones((2, 3, 4)))
    assert_refused("array-ndim", merge_heads, np.ones((1, 2, 3, 4, 5)))


# ---- several heads with their projections ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("sequences", "tokens", "width", "heads"),
    [(2, 3, 8, 4), (1, 4, 4, 1), (2, 4, 4, 4), (1, 8, 8, 2), (3, 1, 6, 3)],
)
def test_multi_head_definition(sequences, tokens, width, heads, bias, dtype):
    """ATT-01: another number of heads fits the same shapes; one token: ATT-10, WGT-01."""
    x, p = normal(sequences, tokens, width, dtype=dtype), projections(width, bias=bias, dtype=dtype)
    p = {name: {leaf: value / 2 for leaf, value in group.items()} for name, group in p.items()}
    expected = definitions.multi_head_attention(x, p, heads)
    actual = multi_head_attention(x, **p, num_heads=heads)
    # float32: exp magnifies the roundings of a score by its size. Measured, 120 random cases: at most 7.3 roundings
    assert_close(actual, expected, roundings=30)


def test_optional_bias_is_per_projection():
    """qkv_bias=False keeps the bias of the output projection (spec.md 1.1)."""
    x, p = normal(2, 3, 4), projections(4)
    for name in NAMES:
        some = {**p, name: {"weight": p[name]["weight"]}}
        expected = definitions.multi_head_attention(x, some, 2)
        assert_close(multi_head_attention(x, **some, num_heads=2), expected, roundings=0)
        if name != "key":  # a bias of the keys moves all scores of a query alike: no effect
            assert np.abs(expected - definitions.multi_head_attention(x, p, 2)).max() > 1e-3


def test_one_token_attends_to_itself():
    x, p = integers(3, 1, 4), {name: {"weight": integers(4, 4, seed=i)} for i, name in enumerate(NAMES)}
    expected = linear(linear(x, **p["value"]), **p["output"])
    np.testing.assert_array_equal(multi_head_attention(x, **p, num_heads=2), expected, strict=True)


def test_zero_queries_give_every_token_the_mean():
    x = integers(2, 4, 6)
    y = multi_head_attention(x, **identity(6, "value", "output"), num_heads=3)
    np.testing.assert_allclose(y, np.repeat(x.mean(axis=1, keepdims=True), 4, axis=1), rtol=1e-14, atol=1e-14)


@quick
@given(st.integers(0, 999), st.sampled_from([1, 2, 3, 6]))
def test_each_head_sees_its_own_channels_only(seed, heads):
    """ATT-01, ATT-08: with identity projections, head i is attention among channels i*D/h .. (i+1)*D/h."""
    x = normal(2, 4, 6, seed=seed)
    y = multi_head_attention(x, **identity(6, *NAMES), num_heads=heads)
    parts = [scaled_dot_product_attention(part, part, part) for part in np.split(x, heads, axis=2)]
    np.testing.assert_allclose(y, np.concatenate(parts, axis=2), rtol=1e-12, atol=1e-13)


@quick
@given(st.integers(0, 999))
def test_tokens_may_be_permuted_and_sequences_do_not_mix(seed):
    """There is no position encoding (negative control N4), and SYS-01."""
    x, p = normal(3, 5, 4, seed=seed), projections(4, seed=seed % 7)
    order = np.random.default_rng(seed).permutation(5)
    y = multi_head_attention(x, **p, num_heads=2)
    np.testing.assert_allclose(multi_head_attention(x[:, order], **p, num_heads=2), y[:, order], rtol=0, atol=1e-12)
    for s in range(3):
        alone = multi_head_attention(x[s : s + 1], **p, num_heads=2)
        np.testing.assert_allclose(alone, y[s : s + 1], rtol=0, atol=1e-12)


def test_multi_head_refuses():
    x, p = normal(2, 3, 4), projections(4)
    assert_refused("array-ndim", multi_head_attention, x[0], **p, num_heads=2)
    assert_refused("attention-heads", multi_head_attention, x, **p, num_heads=3)
    assert_refused("argument-range", multi_head_attention, x, **p, num_heads=0)
    for name in NAMES:
        for shape in [(4, 5), (4,), (1, 4, 4)]:
            bad = {**p, name: {"weight": np.ones(shape)}}
            code = "parameter-shape" if len(shape) == 2 else "array-ndim"
            assert_refused(code, multi_head_attention, x, **bad, num_heads=2)
        bad = {**p, name: {**p[name], "bias": np.ones(1)}}
        assert_refused("parameter-shape", multi_head_attention, x, **bad, num_heads=2)
    narrow = {**p, "key": {"weight": np.ones((2, 4))}}
    assert_refused("attention-shape", multi_head_attention, x, **narrow, num_heads=2)
    with pytest.raises(TypeError, match="gamma"):  # a stray leaf is not swallowed
        multi_head_attention(x, **{**p, "query": {**p["query"], "gamma": np.ones(4)}}, num_heads=2)
