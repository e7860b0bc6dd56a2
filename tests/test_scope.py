import dataclasses
import tracemalloc

import numpy as np
import pytest

from npmobilevit import ops, scope
from npmobilevit.scope import EXTRA_TAPS, PARAMETER_LEAVES, OpTable, Scope, block, ignore, is_extra


def make_weights() -> dict[str, np.ndarray]:
    names = ("a.weight", "a.bias", "a.b.weight", "ab.weight", "a.running_mean", "a.num_batches_tracked", "weight")
    return {name: np.full(1, float(i)) for i, name in enumerate(names)}


def test_at_joins_names_with_dots():
    root = Scope({})
    assert root.name == ""
    assert root.at("mobilevit").name == "mobilevit"
    assert root.at("encoder").at("layer.2").at("conv_1x1").name == "encoder.layer.2.conv_1x1"


def test_at_keeps_everything_but_the_name_and_leaves_its_parent_alone():
    def listen(name, x):
        pass

    weights, table = make_weights(), OpTable()._replace(conv2d=ops.linear)
    parent = Scope(weights, "a", listen, table)
    child = parent.at("b")
    assert child.weights is weights
    assert child.tap is listen
    assert child.ops is table
    assert parent.name == "a"


def test_params_are_the_leaves_of_this_node_alone():
    weights = make_weights()
    root = Scope(weights)
    params = root.at("a").params()
    assert params == {leaf: weights[f"a.{leaf}"] for leaf in ("weight", "bias", "running_mean")}
    assert params["weight"] is weights["a.weight"]
    assert root.at("a").at("b").params() == {"weight": weights["a.b.weight"]}
    assert root.at("nothing").params() == {}


def test_the_leaves_are_the_arguments_of_batch_norm():
    assert set(PARAMETER_LEAVES) < set(ops.batch_norm.__annotations__)


def test_out_tells_the_listener_and_returns_the_same_array():
    heard = []
    scope = Scope({}, tap=lambda name, x: heard.append((name, x))).at("encoder")
    x = np.ones(3)
    assert scope.out(x) is x
    [(name, value)] = heard
    assert name == "encoder"
    assert value is x


def test_what_a_listener_returns_is_ignored():
    x = np.ones(3)
    assert Scope({}, tap=lambda name, value: value + 1).at("a").out(x) is x


def test_nobody_listens_by_default():
    x = np.ones(3)
    assert Scope({}).tap is ignore
    assert ignore("a", x) is None
    assert Scope({}).at("a").out(x) is x


def test_a_scope_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Scope({}).name = "other"
    with pytest.raises(AttributeError):
        Scope({}).ops.conv2d = ops.linear


@pytest.mark.parametrize("field", OpTable._fields)
def test_the_table_holds_the_operators_of_the_same_names(field):
    expected = ops.ACTIVATIONS if field == "activations" else getattr(ops, field)
    assert getattr(Scope({}).ops, field) is expected


def test_extras_are_no_parameters():
    assert EXTRA_TAPS == ("scores", "probs", "unfolded", "folded")
    assert not set(EXTRA_TAPS) & set(PARAMETER_LEAVES)


@pytest.mark.parametrize("leaf", EXTRA_TAPS)
def test_extras_are_known_by_the_end_of_their_names(leaf):
    assert is_extra(leaf)
    assert is_extra(f"mobilevit.encoder.layer.2.{leaf}")
    assert not is_extra(f"{leaf}.convolution")
    assert not is_extra(f"mobilevit.not_{leaf}")


@block
def doubled(s: Scope, x: np.ndarray, *, plus: float = 0.0) -> np.ndarray:
    """Twice."""
    return s.out(2 * x + plus)


def test_a_block_runs_at_its_scope_with_all_its_arguments():
    heard = []
    scope = Scope({}, tap=lambda name, x: heard.append((name, float(x)))).at("a")
    assert doubled(scope, np.float64(3)) == 6
    assert doubled(scope, np.float64(3), plus=1.0) == 7
    assert heard == [("a", 6.0), ("a", 7.0)]


def test_a_block_keeps_its_name_and_its_description():
    assert doubled.__name__ == "doubled"
    assert doubled.__doc__ == "Twice."
    assert doubled.__wrapped__(Scope({}), np.float64(1)) == 2


def test_another_scope_may_run_something_else_in_place_of_a_block():
    asked = []

    class Other(Scope):
        def enter(self, function, *args, **kwargs):
            asked.append((self.name, function, args, kwargs))
            return "something else"

    assert doubled(Other({}, "a"), 3, plus=1.0) == "something else"
    assert asked == [("a", doubled.__wrapped__, (3,), {"plus": 1.0})]


def test_a_block_takes_its_scope_by_position_only():
    with pytest.raises(TypeError):
        doubled(s=Scope({}), x=np.ones(1))


# attention in parts


QUERY, KEY, VALUE = np.random.default_rng(0).standard_normal((3, 2, 3, 5, 4))  # 2 sequences, 3 heads, 5 tokens


def mixed(s: Scope, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Attention without its softmax."""
    return s.at("scores").out(query @ key.swapaxes(-1, -2)) @ value


@pytest.mark.parametrize("elements", [1, 10, 29, 30, 49, 50, 2**20])  # 1, 1, 2, 3, 4, 5 and all 5 queries at a time
def test_parts_are_put_together(elements, monkeypatch):
    monkeypatch.setattr(scope, "PART_ELEMENTS", elements)
    queries = max(1, min(5, elements // (2 * 5)))
    shapes, heard = [], []

    def attend(s, query, key, value):
        shapes.append((query.shape, key.shape, value.shape))
        return mixed(s, query, key, value)

    here = Scope({}, "a", tap=lambda name, x: heard.append((name, x)))
    y = here.in_parts(attend, QUERY, KEY, VALUE)
    np.testing.assert_allclose(y, QUERY @ KEY.swapaxes(-1, -2) @ VALUE, rtol=1e-12, atol=1e-12)
    [(name, scores)] = heard
    assert name == "a.scores"
    np.testing.assert_allclose(scores, QUERY @ KEY.swapaxes(-1, -2), rtol=1e-12, atol=1e-12)
    cuts = [min(queries, 5 - start) for start in range(0, 5, queries)]
    assert shapes == [((2, 1, cut, 4), (2, 1, 5, 4), (2, 1, 5, 4)) for _head in range(3) for cut in cuts]


@pytest.mark.parametrize("elements", [1, 30, 2**20])
def test_a_tap_of_parts_changes_no_bit(elements, monkeypatch):
    monkeypatch.setattr(scope, "PART_ELEMENTS", elements)
    parts = [x.astype(np.float32) for x in (QUERY, KEY, VALUE)]
    plain = Scope({}).in_parts(mixed, *parts)
    assert plain.dtype == np.float32
    assert Scope({}, tap=lambda name, x: None).in_parts(mixed, *parts).tobytes() == plain.tobytes()


def test_no_whole_is_made_that_nobody_wants():
    """Of 3 heads with 400 tokens each, the scores of one are there at a time."""
    heard = []

    def listen(name, x):
        heard.append(name)

    query = np.zeros((1, 3, 400, 4))
    one_head = 400 * 400 * 8
    wanted = Scope({}, "a", tap=listen, wants=lambda name: name == "a.scores")
    unwanted = Scope({}, "b", tap=listen, wants=lambda name: name == "a.scores")
    for here, least, most in ((wanted, 4, 5), (unwanted, 1, 2), (Scope({}), 1, 2)):
        tracemalloc.start()
        try:
            here.in_parts(mixed, query, query, query)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert least * one_head < peak < most * one_head
    assert heard == ["a.scores"]
