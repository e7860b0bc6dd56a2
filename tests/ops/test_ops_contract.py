"""What every operator promises alike: dtype, untouched input, any memory layout, empty batches, refused dtypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from definitions import DTYPES, UNIT, assert_refused, layouts, normal

from npmobilevit import ops

LABELS = np.array([[0, 2, -100, 1], [2, 2, 1, 0]])


def multi_head_attention(x: np.ndarray, **flat: np.ndarray) -> np.ndarray:
    """Gather "query_weight" and the like into the mappings that the operator takes."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key, value in flat.items():
        name, leaf = key.split("_")
        groups.setdefault(name, {})[leaf] = value
    return ops.multi_head_attention(x, **groups, num_heads=2)


@dataclass
class Case:
    """One call; the first array has the batch first, `batched` names the others whose first axis goes with it."""

    op: str
    call: Callable[..., Any]
    arrays: dict[str, np.ndarray]
    batched: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()  # may be of another dtype than the first array


BATCH_NORM = {name: abs(normal(3, seed=i)) for i, name in enumerate(["weight", "bias", "running_mean", "running_var"])}
PROJECTIONS = {
    f"{name}_{leaf}": normal(*shape, seed=i)
    for i, name in enumerate(["query", "key", "value", "output"])
    for leaf, shape in {"weight": (4, 4), "bias": (4,)}.items()
}
QKV = {name: normal(2, 3, 4, seed=i) for i, name in enumerate(["query", "key", "value"])}

MAPS = {"x": normal(2, 3, 4, 5), "y": normal(2, 1, 4, 5, seed=1)}

CASES = [
    Case(
        "conv2d",
        lambda **a: ops.conv2d(**a, padding=1, stride=2, groups=2),
        {"x": normal(2, 4, 5, 6), "weight": normal(6, 2, 3, 3), "bias": normal(6)},
    ),
    Case(
        "conv2d",
        lambda **a: ops.conv2d(**a),  # no padding: the caller's own memory is read through strides
        {"x": normal(2, 4, 5, 6), "weight": normal(3, 4, 2, 3), "bias": normal(3)},
    ),
    Case(
        "conv2d",
        lambda **a: ops.conv2d(**a, groups=4, dilation=2),
        {"x": normal(2, 4, 5, 6), "weight": normal(4, 1, 2, 2), "bias": normal(4)},
    ),
    Case("batch_norm", ops.batch_norm, {"x": normal(2, 3, 4, 5), **BATCH_NORM}),
    Case("layer_norm", ops.layer_norm, {"x": normal(2, 3, 5), "weight": normal(5, seed=1), "bias": normal(5)}),
    Case("linear", ops.linear, {"x": normal(2, 3, 5), "weight": normal(4, 5), "bias": normal(4)}),
    Case("softmax", ops.softmax, {"x": normal(2, 3, 5)}),
    Case("attention_scores", ops.attention_scores, {"query": QKV["query"], "key": QKV["key"]}, ("key",)),
    Case("attend", ops.attend, {"probs": normal(2, 3, 3), "value": QKV["value"]}, ("value",)),
    Case("scaled_dot_product_attention", ops.scaled_dot_product_attention, QKV, ("key", "value")),
    Case("split_heads", lambda x: ops.split_heads(x, 2), {"x": normal(2, 3, 4)}),
    Case("merge_heads", ops.merge_heads, {"x": normal(2, 3, 4, 5)}),
    Case("multi_head_attention", multi_head_attention, {"x": normal(2, 3, 4), **PROJECTIONS}),
    Case("unfold_patches", lambda x: ops.unfold_patches(x, 2), {"x": normal(2, 3, 4, 6)}),
    Case("unfold_patches", lambda x: ops.unfold_patches(x, 1), {"x": normal(2, 3, 4, 6)}),
    Case("fold_patches", lambda x: ops.fold_patches(x, 2, 4, 6), {"x": normal(8, 6, 3)}),
    Case("resize_bilinear", lambda x: ops.resize_bilinear(x, (5, 3)), {"x": normal(2, 3, 4, 6)}),
    Case("resize_bilinear", lambda x: ops.resize_bilinear(x, (4, 6)), {"x": normal(2, 3, 4, 6)}),
    Case("add", ops.add, {"x": normal(2, 3, 4), "y": normal(2, 3, 4, seed=1)}, ("y",)),
    Case("concat_channels", lambda x, y: ops.concat_channels([x, y]), MAPS, ("y",)),
    Case("global_avg_pool", ops.global_avg_pool, {"x": normal(2, 3, 4, 6)}),
    Case("cross_entropy", lambda logits: ops.cross_entropy(logits, LABELS), {"logits": normal(2, 3, 4)}),
    Case(
        "binary_cross_entropy_with_logits",
        ops.binary_cross_entropy_with_logits,
        {"logits": normal(2, 3), "labels": abs(normal(2, 3, seed=1))},
        promoted=("labels",),
    ),
    Case(
        "mean_squared_error",
        ops.mean_squared_error,
        {"logits": normal(2, 3), "labels": normal(2, 3, seed=1)},
        promoted=("labels",),
    ),
    *(Case(f"ACTIVATIONS[{name}]", function, {"x": normal(2, 3, 5)}) for name, function in ops.ACTIVATIONS.items()),
]
LOSSES = {"cross_entropy", "binary_cross_entropy_with_logits", "mean_squared_error"}

each_case = pytest.mark.parametrize("case", CASES, ids=[f"{case.op}-{i}" for i, case in enumerate(CASES)])
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def call(case: Case, arrays: dict[str, np.ndarray]) -> Any:
    first, *rest = arrays
    if case.op in {"attention_scores", "attend", "scaled_dot_product_attention"} | LOSSES:
        return case.call(*arrays.values())
    return (
        case.call(**arrays)
        if case.op == "conv2d"
        else case.call(arrays[first], **{name: arrays[name] for name in rest})
    )


def cast(case: Case, dtype: Any) -> dict[str, np.ndarray]:
    return {name: value.astype(dtype) for name, value in case.arrays.items()}


def test_every_public_operator_is_here():
    activations = {function.__name__ for function in ops.ACTIVATIONS.values()}
    aliases = {name for name in ops.__all__ if getattr(ops, name) in ops.ACTIVATIONS.values()}
    assert {"gelu", "silu", "tanh", "relu"} <= activations & aliases
    assert {case.op for case in CASES if "[" not in case.op} == set(ops.__all__) - aliases - {"ACTIVATIONS"}
    assert all(hasattr(ops, name) for name in ops.__all__)


@each_dtype
@each_case
def test_dtype_is_kept(case, dtype):
    """A single np.sqrt(int) lifts a float32 network to float64, unseen."""
    result = call(case, cast(case, dtype))
    if case.op in LOSSES:
        assert type(result) is float
    else:
        assert isinstance(result, np.ndarray)
        assert result.dtype == dtype


@each_dtype
@each_case
def test_input_is_read_only(case, dtype):
    """Works on arrays that cannot be written, and leaves those that can as they were."""
    arrays = cast(case, dtype)
    before = {name: value.copy() for name, value in arrays.items()}
    result = call(case, arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, before[name], strict=True)
        value.flags.writeable = False
    np.testing.assert_array_equal(call(case, arrays), result, strict=True)


@each_dtype
@each_case
def test_memory_layout_does_not_matter(case, dtype):
    """A stride forgotten, or counted in elements, would show. Sums may be taken in another order."""
    arrays = cast(case, dtype)
    expected = np.asarray(call(case, arrays))
    for name, value in arrays.items():
        for layout, other in layouts(value):
            actual = np.asarray(call(case, arrays | {name: other}))
            tolerance = 64 * UNIT[np.dtype(dtype)] * max(1, np.max(abs(expected)))
            np.testing.assert_allclose(
                actual, expected, rtol=0, atol=tolerance, strict=True, err_msg=f"{name} {layout}"
            )


@each_dtype
@each_case
def test_an_empty_batch_gives_an_empty_answer(case, dtype):
    """The means of nothing are NaN (cross_entropy, as torch) or refused; neither warns."""
    arrays = cast(case, dtype)
    first = next(iter(arrays))
    empty = arrays | {name: arrays[name][:0] for name in (first, *case.batched, *case.promoted)}
    if case.op == "cross_entropy":
        assert np.isnan(ops.cross_entropy(empty["logits"], LABELS[:0]))
    elif case.op in LOSSES:
        assert_refused("array-empty", call, case, empty)
    else:
        full, result = call(case, arrays), call(case, empty)
        assert result.shape == (0, *full.shape[1:])
        assert result.dtype == dtype


@each_dtype
@each_case
def test_large_values_do_not_warn(case, dtype):
    """Warnings are errors here, and every value of 1e15 in size has a finite answer."""
    first = next(iter(case.arrays))
    names = (first, *case.batched, *case.promoted)
    for factor in (1e15, -1e15):
        arrays = cast(case, dtype)
        arrays |= {name: (np.sign(arrays[name]) * dtype(factor)) for name in names}
        if case.op == "attend":
            arrays["probs"] = np.abs(arrays["probs"]) / dtype(1e15)
        assert np.isfinite(call(case, arrays)).all()


@each_dtype
@each_case
def test_mixed_dtypes_are_refused(case, dtype):
    arrays, other = cast(case, dtype), np.float64 if dtype is np.float32 else np.float32
    for name in set(list(arrays)[1:]) - set(case.promoted):
        assert_refused("array-dtype", call, case, arrays | {name: arrays[name].astype(other)})


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.int32, np.uint8, bool, complex, object, ">f8"])
@each_case
def test_other_dtypes_are_refused(case, dtype):
    for name in set(case.arrays) - set(case.promoted):
        assert_refused(
            "array-dtype", call, case, case.arrays | {name: case.arrays[name].astype(dtype)}, match=name[-4:]
        )


@each_case
def test_lists_and_scalars_are_refused(case):
    for name in set(case.arrays) - set(case.promoted):
        for bad in (case.arrays[name].tolist(), 1.0, np.float64(1), None):
            if name.endswith("bias") and bad is None and case.op != "layer_norm" and case.op != "batch_norm":
                continue  # optional
            assert_refused("array-type", call, case, case.arrays | {name: bad})
