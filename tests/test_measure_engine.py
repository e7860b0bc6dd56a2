"""The study of where the engine spends its time, and its tables."""

import json

import measure_engine as tool
import numpy as np
import pytest

from npmobilevit.engine import kernels


def test_the_tables_are_those_of_the_figures():
    results = json.loads(tool.MEASURED.read_text(encoding="utf-8"))
    page = tool.PAGE.read_text(encoding="utf-8")
    assert tool.MARKS.filled(page, tool.tables(results)) == page, "run tools/measure_engine.py --write"
    results["networks"]["small"]["two_workers"] += 0.1
    assert tool.MARKS.filled(page, tool.tables(results)) != page
    assert list(results["networks"]) == list(tool.NETWORKS)


@pytest.mark.parametrize("idea", tool.IDEAS, ids=[idea.what for idea in tool.IDEAS])
def test_an_idea_is_turned_for_a_while(idea):
    before = {name: getattr(idea.module, name) for name in idea.values}
    assert before != idea.values
    with tool.turned(idea):
        assert {name: getattr(idea.module, name) for name in idea.values} == idea.values
    assert {name: getattr(idea.module, name) for name in idea.values} == before


def test_multiplications_of_products_and_of_attention():
    a, b, c = np.zeros((4, 5)), np.zeros((5, 6)), np.zeros((4, 6))
    assert tool.multiplications(np.matmul, (a, b, c)) == 4 * 5 * 6
    heads = kernels.Heads(*(np.zeros((2, 3, width, 10)) for width in (5, 5, 6, 6)))
    assert tool.multiplications(kernels.attend, (heads,)) == 2 * 3 * 10 * 10 * (5 + 6)
    assert tool.multiplications(np.add, (a, a, a)) == 0


def test_a_profile_shares_the_time_among_kinds_of_calls(monkeypatch):
    monkeypatch.setattr(tool, "ROUNDS", 1)
    network = tool.folded("xx-small")
    plan = tool.planned(network, 64)
    (times,) = tool.measured_in_turn([plan])
    found = tool.profile(plan, times, rate=1e12)
    assert found["calls"] == len(times) == sum(len(program) for stage in plan.stages for program in stage.programs)
    assert sum(found["shares"].values()) == pytest.approx(1, abs=0.01)
    assert {"matmul", "attention", "einsum: depthwise"} <= set(found["shares"])
    assert tool.critical(times, 1) == pytest.approx(sum(times.values()))
