"""Values that are computed when they are asked for, and not before."""

import numpy as np
import pytest

from npmobilevit import ops
from npmobilevit.scope import OpTable
from npmobilevit.validation.lazy import Lazy, forced, moved, postponed


class Counter:
    """A function that counts how often it is run."""

    def __init__(self, function):
        self.function, self.runs = function, 0

    def __call__(self, *arguments, **keywords):
        self.runs += 1
        return self.function(*arguments, **keywords)


def test_nothing_is_run_until_it_is_asked_for_and_then_once():
    add = Counter(np.add)
    lazy = Lazy(add, (np.arange(3), 1))
    assert add.runs == 0
    first = lazy.force()
    assert lazy.force() is first
    assert add.runs == 1
    np.testing.assert_array_equal(first, [1, 2, 3], strict=True)


def test_what_is_not_looked_at_is_not_run():
    unused = Counter(np.negative)
    Lazy(unused, (Lazy(unused, (np.ones(1),)),))
    assert unused.runs == 0


def test_arguments_are_forced_also_within_lists():
    inner = Lazy(np.negative, (np.arange(2),))
    joined = Lazy(np.concatenate, ([inner, np.ones(1, int), inner],))
    np.testing.assert_array_equal(joined.force(), [0, -1, 1, 0, -1], strict=True)


def test_a_lazy_result_of_a_function_is_forced_too():
    assert Lazy(lambda x: Lazy(lambda y: y + 1, (x,)), (1,)).force() == 2


def test_keywords_reach_the_function():
    np.testing.assert_array_equal(Lazy(np.sum, (np.ones((2, 3)),), {"axis": 0}).force(), [2.0, 2.0, 2.0], strict=True)


def test_shape_asks_for_the_value():
    zeros = Counter(np.zeros)
    lazy = Lazy(zeros, ((2, 3),))
    # a tuple among the arguments may hold lazy values: it becomes a list
    assert lazy.shape == (2, 3)
    assert zeros.runs == 1


def test_indices_and_moves_are_lazy():
    arange = Counter(np.arange)
    lazy = Lazy(arange, (6,))
    part, turned = lazy[1:3], lazy.moved(lambda x: x[::-1])
    assert arange.runs == 0
    np.testing.assert_array_equal(part.force(), [1, 2], strict=True)
    np.testing.assert_array_equal(turned.force(), [5, 4, 3, 2, 1, 0], strict=True)
    assert arange.runs == 1
    assert part.op == turned.op == ""


def test_moved_works_on_arrays_and_on_what_stands_for_one():
    np.testing.assert_array_equal(moved(np.arange(3), np.flip), [2, 1, 0], strict=True)
    lazy = moved(Lazy(np.arange, (3,)), np.flip)
    assert isinstance(lazy, Lazy)
    np.testing.assert_array_equal(lazy.force(), [2, 1, 0], strict=True)


def test_forced_leaves_the_rest_alone():
    x = np.ones(2)
    assert forced(x) is x
    assert forced(None) is None
    assert forced((Lazy(int, ("3",)), [4, Lazy(int, ("5",))])) == [3, [4, 5]]


def test_calls_are_told_once_each_the_last_first():
    first = Lazy(np.negative, (np.ones(1),), op="a")
    second = Lazy(np.negative, (first,), op="b")
    last = Lazy(np.concatenate, ([first, second],), op="c")
    assert [call.op for call in last.calls()] == ["c", "a", "b"]
    assert list(first.calls()) == [first]


def test_a_table_of_lazy_operators_gives_what_the_operators_give():
    rng = np.random.default_rng(0)
    x, weight, bias = rng.random((2, 3)), rng.random((4, 3)), rng.random(4)
    table = postponed(OpTable(), "some.node")
    lazy = table.linear(x, weight=weight, bias=bias)
    assert isinstance(lazy, Lazy)
    assert (lazy.op, lazy.node) == ("linear", "some.node")
    np.testing.assert_array_equal(lazy.force(), ops.linear(x, weight=weight, bias=bias), strict=True)


@pytest.mark.parametrize("name", sorted(ops.ACTIVATIONS))
def test_activations_are_lazy_too(name):
    x = np.linspace(-3, 3, 7)
    table = postponed(OpTable(), "some.node")
    assert sorted(table.activations) == sorted(ops.ACTIVATIONS)
    assert len(table.activations) == len(ops.ACTIVATIONS)
    lazy = table.activations[name](x)
    assert (lazy.op, lazy.node) == ("activation", "some.node")
    np.testing.assert_array_equal(lazy.force(), ops.ACTIVATIONS[name](x), strict=True)


def test_a_chain_of_operators_knows_its_calls():
    table = postponed(OpTable(), "n")
    x = np.ones((1, 2, 2, 2))
    y = table.add(table.activations["silu"](x), table.concat_channels([x[:, :1], table.activations["relu"](x)[:, 1:]]))
    assert [call.op for call in y.calls() if call.op] == ["add", "activation", "concat_channels", "activation"]
    assert y.shape == (1, 2, 2, 2)
