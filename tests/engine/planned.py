"""Plans of small networks for the tests, and the order in which the workers of a stage come."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from networks import MODELS, pixels, random_weights, tiny

from npmobilevit.engine.crews import arithmetic
from npmobilevit.engine.folded import fold
from npmobilevit.engine.plan import Plan, make_plan
from npmobilevit.engine.program import Call, Stage, run

HEADS = (None, "classification", "segmentation")
# Largest difference over the largest value. The engine reaches 2.8e-6, the readable network in float32 1.5e-6.
WITHIN = 5e-6


def zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.float32)


def planned(head: Any, height: int, width: int, workers: int = 1, **changes: Any) -> Plan:
    """A plan of the tiny network, with a picture in place."""
    config = tiny(**changes)
    weights = random_weights(config, head, dtype=np.float32)
    folded = fold(config, weights, head, expand_output=head != "segmentation")
    plan = make_plan(folded, (3, height, width), workers, zeros)
    plan.pixels[...] = pixels(1, 3, height, width)[0]
    return plan


def readable(head: Any, height: int, width: int, **changes: Any) -> dict[str, np.ndarray]:
    """The taps of the readable network for the same picture in float64, without batch axis and prefix."""
    config = tiny(**changes)
    model = MODELS[head](config, random_weights(config, head), precision="float64")
    taps = model.taps(pixels(1, 3, height, width))
    return {name.removeprefix("mobilevit."): value[0] for name, value in taps.items()}


Order = Callable[[Stage], Iterable[Call]]


def one_after_the_other(stage: Stage) -> Iterator[Call]:
    for program in stage.programs:
        yield from program


def last_first(stage: Stage) -> Iterator[Call]:
    for program in reversed(stage.programs):
        yield from program


def in_turn(stage: Stage) -> Iterator[Call]:
    """A call of each worker at a time."""
    for i in range(max(map(len, stage.programs))):
        for program in stage.programs:
            yield from program[i : i + 1]


ORDERS = (one_after_the_other, last_first, in_turn)


def run_plan(plan: Plan, order: Order = one_after_the_other) -> dict[str, np.ndarray]:
    """One forward pass; the values of all taps, "pooled" and "logits" among them."""
    with arithmetic():
        for stage in plan.stages:
            run(tuple(order(stage)))
    taps = plan.taps | {"pooled": plan.pooled, "logits": plan.logits}
    return {name: tap.value() for name, tap in taps.items() if tap is not None}


def assert_agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Every tap of the plan is that of the readable network, within what float32 rounds."""
    for name, value in found.items():
        witness = expected["conv_1x1_exp"].mean(axis=(1, 2)) if name == "pooled" else expected[name]
        assert value.dtype == np.float32
        assert value.shape == witness.shape, name
        assert np.abs(value - witness).max() < WITHIN * np.abs(witness).max(), name
