import math

import definitions
import numpy as np
import pytest
from definitions import DTYPES, assert_refused, integers, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.ops import binary_cross_entropy_with_logits, cross_entropy, mean_squared_error

quick = settings(derandomize=True, deadline=None, max_examples=25)

RTOL = {np.float64: 1e-12, np.float32: 3e-6}  # float32: some forty roundings; 600 random cases stayed below 2e-7


def classes(shape, count, seed=0, ignored=None, every=3):
    labels = np.random.default_rng([seed, *shape]).integers(0, count, size=shape)
    if ignored is not None:
        labels.flat[::every] = ignored
    return labels


# ---- cross-entropy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 3), (1, 1), (2, 5, 3), (2, 3, 4, 5), (3, 3, 3, 3)])
@pytest.mark.parametrize("ignored", [None, -100])
def test_cross_entropy_definition(shape, ignored, dtype):
    """(3, 3, 3, 3): classes on the wrong axis (SEG-12)."""
    logits = 3 * normal(*shape, dtype=dtype)
    labels = classes((shape[0], *shape[2:]), shape[1], ignored=ignored, every=2)
    if not np.any(labels != -100):
        labels[...] = 0
    actual = cross_entropy(logits, labels)
    assert type(actual) is float
    np.testing.assert_allclose(actual, definitions.cross_entropy(logits, labels), rtol=RTOL[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_golden(dtype):
    """Probabilities 1/4, 3/4 and 1/2, 1/2: the mean of ln 4 and ln 2 (not of softmax twice, HED-04)."""
    logits = np.array([[0, math.log(3)], [5, 5]], dtype)
    np.testing.assert_allclose(cross_entropy(logits, np.array([0, 1])), 1.5 * math.log(2), rtol=RTOL[dtype])


def test_ignored_positions_do_not_count_in_the_mean():
    """255 is the segmentation head's value and fits in uint8; -100 is the default, and 0 may be ignored too."""
    logits = np.log(np.array([[1.0, 3.0], [1.0, 1.0], [1.0, 7.0]]))
    expected = (math.log(4 / 3) + math.log(8)) / 2
    for ignored, dtype in [(255, np.uint8), (255, np.int64), (-100, np.int32), (-1, np.int8)]:
        labels = np.array([1, ignored, 0], dtype)
        np.testing.assert_allclose(cross_entropy(logits, labels, ignore_index=ignored), expected, rtol=1e-14)
    np.testing.assert_allclose(cross_entropy(logits, np.array([1, -100, 0])), expected, rtol=1e-14)
    np.testing.assert_allclose(cross_entropy(logits, np.array([1, 0, 0]), ignore_index=0), math.log(4 / 3), rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_ignored_is_nan(dtype):
    """As in torch, and without a warning about the mean of nothing."""
    assert math.isnan(cross_entropy(np.ones((2, 3), dtype), np.array([-100, -100])))
    assert math.isnan(cross_entropy(np.ones((1, 3, 2, 2), dtype), np.full((1, 2, 2), 255), ignore_index=255))
    assert math.isnan(cross_entropy(np.ones((0, 3), dtype), np.ones(0, int)))


@quick
@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 4), st.integers(-100, 100))
def test_cross_entropy_is_one_hot_with_log_softmax_and_ignores_a_shift(seed, batch, count, shift):
    logits, labels = integers(batch, count, 2, seed=seed), classes((batch, 2), count, seed=seed)
    one_hot = np.moveaxis(np.eye(count)[labels], -1, 1)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = cross_entropy(logits, labels)
    np.testing.assert_allclose(loss, -(one_hot * log_probs).sum(axis=1).mean(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(cross_entropy(logits + shift, labels), loss, rtol=1e-13, atol=1e-15)


@quick
@given(st.integers(0, 999), st.integers(2, 5))
def test_cross_entropy_follows_a_permutation_of_the_classes(seed, count):
    logits, labels = normal(4, count, 3, seed=seed), classes((4, 3), count, seed=seed)
    order = np.random.default_rng(seed).permutation(count)
    renamed = np.argsort(order)[labels]
    np.testing.assert_allclose(cross_entropy(logits[:, order], renamed), cross_entropy(logits, labels), rtol=1e-13)


@quick
@given(st.integers(0, 999))
def test_ignoring_is_leaving_out(seed):
    logits, labels = normal(6, 3, seed=seed), classes((6,), 3, seed=seed, ignored=-100)
    kept = labels != -100
    np.testing.assert_allclose(cross_entropy(logits, labels), cross_entropy(logits[kept], labels[kept]), rtol=1e-14)


@quick
@given(st.integers(0, 999))
def test_two_classes_are_a_yes_or_no_question(seed):
    logits, labels = normal(5, 2, seed=seed), classes((5,), 2, seed=seed)
    difference = logits[:, 1] - logits[:, 0]
    binary = binary_cross_entropy_with_logits(difference, labels.astype(float))
    np.testing.assert_allclose(cross_entropy(logits, labels), binary, rtol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_of_large_logits_are_exact_and_do_not_warn(dtype):
    big = dtype(1e15)
    assert cross_entropy(np.array([[big, 0]], dtype), np.array([1])) == float(big)
    assert cross_entropy(np.array([[big, 0]], dtype), np.array([0])) == 0
    assert binary_cross_entropy_with_logits(np.array([big, -big]), np.array([0, 1], dtype)) == float(big)
    assert binary_cross_entropy_with_logits(np.array([big, -big]), np.array([1, 0], dtype)) == 0
    np.testing.assert_allclose(mean_squared_error(np.array([big]), np.array([-big])), 4e30, rtol=1e-6)


def test_cross_entropy_refuses():
    logits, labels = normal(2, 3, 4, 5), np.zeros((2, 4, 5), int)
    for bad in [
        labels[0],
        labels[..., 0],
        np.zeros((2, 3, 4, 5), int),
        np.zeros((1, 4, 5), int),
        np.zeros((2, 5, 4), int),
    ]:
        assert_refused("labels-shape", cross_entropy, logits, bad)
    assert_refused("labels-shape", cross_entropy, np.ones(3), np.array(1))
    for dtype in (float, np.float32, bool, complex, object, "U1"):
        assert_refused("labels-dtype", cross_entropy, logits, labels.astype(dtype))
    for value in (3, -1, -99, 255, 2**40):
        bad = labels.copy()
        bad[1, 2, 3] = value
        assert_refused("labels-range", cross_entropy, logits, bad, match=str(value))
    assert_refused("labels-range", cross_entropy, logits, labels - 100, ignore_index=255)
    assert_refused("labels-range", cross_entropy, logits, np.full((2, 4, 5), 254, np.uint8), ignore_index=255)
    for bad in (np.float16, int):
        assert_refused("array-dtype", cross_entropy, logits.astype(bad), labels)


# ---- binary cross-entropy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 3), (7,), (1, 1), (2, 3, 4)])
def test_binary_definition(shape, dtype):
    logits = 3 * normal(*shape, dtype=dtype)
    labels = np.random.default_rng(1).integers(0, 5, size=shape).astype(dtype) / 4
    actual = binary_cross_entropy_with_logits(logits, labels)
    assert type(actual) is float
    np.testing.assert_allclose(actual, definitions.binary_cross_entropy(logits, labels), rtol=RTOL[dtype])


def test_binary_golden():
    """At logit 0 ln 2, whatever the target; sigmoid(ln 3) = 3/4; the mean is over all elements, not the batch."""
    assert binary_cross_entropy_with_logits(np.zeros((2, 3)), np.array([[0, 1, 0.5]] * 2)) == pytest.approx(math.log(2))
    logits = np.array([[math.log(3), math.log(3)]])
    expected = (math.log(4 / 3) + math.log(4)) / 2
    assert binary_cross_entropy_with_logits(logits, np.array([[1.0, 0.0]])) == pytest.approx(expected, rel=1e-15)


@quick
@given(st.integers(0, 999))
def test_binary_is_symmetric(seed):
    logits, labels = 5 * normal(3, 4, seed=seed), np.random.default_rng(seed).random((3, 4))
    loss = binary_cross_entropy_with_logits(logits, labels)
    np.testing.assert_allclose(binary_cross_entropy_with_logits(-logits, 1 - labels), loss, rtol=1e-13)


def test_binary_refuses():
    logits = normal(2, 3)
    for shape in [(3,), (2, 1), (1, 3), (3, 2), (2, 3, 1), ()]:  # the first three would broadcast
        assert_refused("labels-shape", binary_cross_entropy_with_logits, logits, np.ones(shape))
    for dtype in (int, bool, complex, object):
        assert_refused("labels-dtype", binary_cross_entropy_with_logits, logits, np.ones((2, 3), dtype))
    assert_refused("array-empty", binary_cross_entropy_with_logits, np.ones((0, 3)), np.ones((0, 3)))
    assert_refused("array-dtype", binary_cross_entropy_with_logits, logits.astype(np.float16), np.ones((2, 3)))


# ---- squared error -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 3), (7,), (1, 1), ()])
def test_squared_definition(shape, dtype):
    logits, labels = normal(*shape, dtype=dtype), normal(*shape, seed=1, dtype=dtype)
    actual = mean_squared_error(logits, labels)
    assert type(actual) is float
    np.testing.assert_allclose(actual, definitions.mean_squared_error(logits, labels), rtol=RTOL[dtype])


def test_squared_golden():
    """(1 + 9 + 4) / 3, neither halved nor summed nor rooted; whole numbers will do as labels."""
    logits = np.array([1.0, 2.0, 3.0])
    for dtype in (float, np.float32, int, np.uint8):
        assert mean_squared_error(logits, np.array([2, 5, 1], dtype)) == pytest.approx(14 / 3, rel=1e-15)


@quick
@given(st.integers(0, 999))
def test_squared_is_symmetric_and_zero_for_equals(seed):
    a, b = normal(3, 4, seed=seed), normal(3, 4, seed=seed + 1)
    assert mean_squared_error(a, b) == mean_squared_error(b, a)
    assert mean_squared_error(a, a) == 0


def test_squared_refuses():
    logits = normal(2, 3)
    for shape in [(3,), (2, 1), (1, 3), (3, 2), (2, 3, 1), ()]:
        assert_refused("labels-shape", mean_squared_error, logits, np.ones(shape))
    for dtype in (bool, complex, object, "U1"):
        assert_refused("labels-dtype", mean_squared_error, logits, np.ones((2, 3), dtype))
    assert_refused("array-empty", mean_squared_error, np.ones((0, 3)), np.ones((0, 3)))
    assert_refused("array-dtype", mean_squared_error, logits.astype(np.float16), np.ones((2, 3)))
