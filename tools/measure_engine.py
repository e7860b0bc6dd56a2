"""Where a forward pass of the engine spends its time, how near that is to what the machine can do, and what each idea
of the engine brings.

    python tools/measure_engine.py                # prints
    python tools/measure_engine.py --write        # also into reference/measured/engine.json and the page

Plans for one worker and one thread are run call by call. The time of a call is its shortest of several runs: sums of
these do not know of other processes, nor of the time between calls. An idea is switched off, or turned the other way,
by another value of a constant; both plans are measured in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "reference" / "measured" / "engine.json"
PAGE = ROOT / "reference" / "performance.md"

ROUNDS = 10
NAMES = {"weighted_sum": "einsum: depthwise", "_sum_of_squares": "einsum: norms", "attend": "attention"}

if __name__ == "__main__" and os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # read when NumPy is imported
    raise SystemExit(subprocess.call([sys.executable, *sys.argv], env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}))

import numpy as np  # noqa: E402
from benchmarks.cases import NETWORKS, SEGMENTER  # noqa: E402
from benchmarks.tables import markdown  # noqa: E402
from marks import Marks  # noqa: E402
from resumable import Json  # noqa: E402
from seeded import random_weights  # noqa: E402

import npmobilevit as nm  # noqa: E402
from npmobilevit.cli.machine import describe_machine  # noqa: E402
from npmobilevit.engine import blocks, kernels  # noqa: E402
from npmobilevit.engine.crews import arithmetic  # noqa: E402
from npmobilevit.engine.folded import FoldedNetwork, fold  # noqa: E402
from npmobilevit.engine.plan import Plan, make_plan  # noqa: E402
from npmobilevit.engine.program import from_heap  # noqa: E402
from npmobilevit.files import write_atomically  # noqa: E402

MARKS = Marks("<!-- the tables of tools/measure_engine.py -->", "<!-- end of those -->")

Times: TypeAlias = dict[tuple[int, int, int], float]  # stage, worker, number of the call: seconds


class Idea(NamedTuple):
    """A choice of the engine, and the other one."""

    what: str
    module: ModuleType
    values: dict[str, Any]  # of its constants


IDEAS = (
    Idea("bands of a quarter the height", blocks, {"BAND_VALUES": blocks.BAND_VALUES // 4}),
    Idea("bands of four times the height", blocks, {"BAND_VALUES": blocks.BAND_VALUES * 4}),
    Idea("attention over all keys at a time", kernels, {"KEYS": 1 << 20, "QUERIES": 32}),
    Idea("attention of twice as many queries at a time", kernels, {"QUERIES": 2 * kernels.QUERIES}),
    Idea("scores of all heads at once up to 300 tokens", kernels, {"FEW_TOKENS": 300}),
    Idea("SiLU in chunks of an eighth", kernels, {"SILU_CHUNK": kernels.SILU_CHUNK // 8}),
)


def folded(network: str) -> FoldedNetwork:
    """A network with seeded weights."""
    task, settings = NETWORKS[network]
    config = nm.MobileViTConfig(**settings)
    return fold(config, random_weights(config, task, dtype=np.float32), task, expand_output=True)


def size_of(network: str) -> int:
    return 512 if network == SEGMENTER else 256


def planned(network: FoldedNetwork, size: int, workers: int = 1) -> Plan:
    """A plan with random pixels in it."""
    plan = make_plan(network, (3, size, size), workers, from_heap)
    plan.pixels[...] = np.random.default_rng(0).random(plan.pixels.shape, np.float32)
    return plan


def shortest(plan: Plan, times: Times) -> None:
    """Run a plan once, and lower the times of its calls to what they took."""
    with arithmetic():
        for i, stage in enumerate(plan.stages):
            for j, program in enumerate(stage.programs):
                for k, (function, arguments) in enumerate(program):
                    begin = time.perf_counter()
                    function(*arguments)
                    seconds = time.perf_counter() - begin
                    times[i, j, k] = min(seconds, times.get((i, j, k), math.inf))


def measured_in_turn(plans: list[Plan]) -> list[Times]:
    times: list[Times] = [{} for _ in plans]
    for _ in range(ROUNDS):
        for plan, found in zip(plans, times, strict=True):
            shortest(plan, found)
    return times


def fastest_product() -> float:
    """Multiplications a second of a product as large as suits the machine."""
    a, b = (np.random.default_rng(0).random(shape, np.float32) for shape in ((512, 512), (512, 2064)))
    out = np.empty((512, 2064), np.float32)
    best = math.inf
    for _ in range(30):
        begin = time.perf_counter()
        np.matmul(a, b, out)
        best = min(best, time.perf_counter() - begin)
    return float(a.size) * b.shape[1] / best


def multiplications(function: Any, arguments: tuple[Any, ...]) -> int:
    """Of the matrix products in a call."""
    if function is kernels.attend:
        positions, heads, width, length = arguments[0].query.shape
        return int(positions * heads * length**2 * (2 * width + 1))
    if function is np.matmul:
        a, _, out = arguments
        return int(out.size) * int(a.shape[-1])
    return 0


def profile(plan: Plan, times: Times, rate: float) -> dict[str, Any]:
    """Shares of the time by kind of call, and what the products would take at the fastest rate."""
    by_kind: Counter[str] = Counter()
    needed = 0.0
    for (i, j, k), seconds in times.items():
        function, arguments = plan.stages[i].programs[j][k]
        by_kind[NAMES.get(function.__name__, function.__name__)] += seconds
        needed += multiplications(function, arguments) / rate
    total = sum(by_kind.values())
    return {
        "calls": len(times),
        "shares": {kind: round(seconds / total, 4) for kind, seconds in by_kind.most_common()},
        "products_at_best": round(needed / total, 4),
    }


def critical(times: Times, workers: int) -> float:
    """Seconds of the slowest worker of each stage, summed."""
    stages: Counter[tuple[int, int]] = Counter()
    for (i, j, _), seconds in times.items():
        stages[i, j] += seconds
    return sum(max(stages[i, j] for j in range(workers)) for i in {i for i, _ in stages})


@contextlib.contextmanager
def turned(idea: Idea) -> Iterator[None]:
    """The other way, for plans that are made or run meanwhile."""
    before = {name: getattr(idea.module, name) for name in idea.values}
    try:
        for name, value in idea.values.items():
            setattr(idea.module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(idea.module, name, value)


def measure(network: str) -> dict[str, Any]:
    """All figures of a network."""
    made, size = folded(network), size_of(network)
    plan = planned(made, size)
    alone, together = measured_in_turn([plan, planned(made, size, 2)])
    result = profile(plan, alone, fastest_product())
    result["two_workers"] = round(critical(together, 2) / sum(alone.values()), 4)
    result["ideas"] = {}
    for idea in IDEAS:
        with turned(idea):
            other = planned(made, size)
        theirs: Times = {}
        ours: Times = {}
        for _ in range(ROUNDS):
            with turned(idea):
                shortest(other, theirs)
            shortest(plan, ours)
        result["ideas"][idea.what] = round(sum(theirs.values()) / sum(ours.values()), 3)
    return result


def tables(results: Json) -> str:
    networks = results["networks"]
    kinds = list(dict.fromkeys(kind for one in networks.values() for kind in one["shares"]))
    shares = [(kind, *(percent(one["shares"].get(kind, 0)) for one in networks.values())) for kind in kinds]
    shares = [row for row in shares if any(cell != percent(0) for cell in row[1:])]
    rows = [
        *shares,
        (
            "the products, at the rate of the fastest one",
            *(percent(one["products_at_best"]) for one in networks.values()),
        ),
        ("two workers: the slower one of each stage", *(percent(one["two_workers"]) for one in networks.values())),
        ("calls", *(f"{one['calls']:,}" for one in networks.values())),
    ]
    ideas = [(idea.what, *(f"{one['ideas'][idea.what]:.2f}" for one in networks.values())) for idea in IDEAS]
    return "\n\n".join(
        [
            markdown(("share of the time of all calls", *networks), rows),
            markdown(("turned the other way, time over that of the engine", *networks), ideas),
        ]
    )


def percent(share: float) -> str:
    return f"{share:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the figures and their tables")
    arguments = parser.parse_args()
    results: Json = {"machine": describe_machine(), "networks": {}}
    for name in NETWORKS:
        results["networks"][name] = measure(name)
        print(f"measured {name}", file=sys.stderr, flush=True)
    print(tables(results))
    if arguments.write:
        write_atomically(MEASURED, (json.dumps(results, indent=1) + "\n").encode())
        write_atomically(PAGE, MARKS.filled(PAGE.read_text(encoding="utf-8"), tables(results)).encode())


if __name__ == "__main__":
    main()
