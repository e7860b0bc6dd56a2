"""Hold the check against ports with a known mistake, and with three at once (tools/faulty_ports.py).

    pip install torch==2.13.0 transformers==5.23.0    # group `framework` of pyproject.toml
    python tools/injected_mistakes.py --workers 2 --output reference/measured/injected_mistakes.json
    python tools/injected_mistakes.py --only "^ATT"
    python tools/injected_mistakes.py --unseen --output reference/measured/unseen_mistakes.json

Each port runs on one picture of 224x224 and on two of 203x157, and is checked with all its taps and with those at the
level of modules alone. Its mistake is found if the check fails, and placed if the taps that fail are those at which
it is. It is named if each of these is given the id of a mistake that was made, and misnamed if one is given another.
The tool fails if a mistake is missed, misplaced or misnamed, or if another tap is blamed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import faulty_ports
import numpy as np
import ports
import torch
from faulty_ports import MISTAKES, Mistake, Shapes
from negative_controls import versions
from unseen_mistakes import UNSEEN

from npmobilevit.validation import check

Json = dict[str, Any]

INPUTS = ((224, 224, 1), (203, 157, 2))  # height, width, pictures
NETWORKS = {"classification": "xx-small", "segmentation": f"xx-small{ports.SEGMENTATION}"}
LEVELS = ("all", "modules")
TRIPLES = 5
SAME = {"NRM-12": "NRM-01"}  # a normalisation folded with a wrong eps, and one with that eps, are the same numbers
BY_ID = {mistake.id: mistake for mistake in (*MISTAKES, *UNSEEN)}


class Trial(NamedTuple):
    """One check of a port with one mistake, or several."""

    mistakes: tuple[str, ...]
    task: str
    height: int
    width: int
    batch: int
    level: str

    @property
    def name(self) -> str:
        return f"{'+'.join(self.mistakes)}/{self.task}/{self.height}x{self.width}/{self.level}"


def shapes(task: str, height: int, width: int, batch: int) -> Shapes:
    """Of the taps of the right network."""
    x = np.zeros((batch, 3, height, width), np.float32)
    return faulty_ports.shapes_of(ports.run(ports.PORTS[0], ports.network(NETWORKS[task]).theirs, x))


def unseen_trials() -> Iterator[Trial]:
    """Every mistake that the catalogue has not, on every input that can show it, in every network that can have it."""
    for task, given in itertools.product(NETWORKS, INPUTS):
        taps = shapes(task, *given)
        for mistake, level in itertools.product(UNSEEN, LEVELS):
            if mistake.task in (None, task) and mistake.where(taps):
                yield Trial((mistake.id,), task, *given, level)


def trials() -> Iterator[Trial]:
    """Every mistake on every input that can show it, in every network that can have it; then the triples."""
    for task, given in itertools.product(NETWORKS, INPUTS):
        taps = shapes(task, *given)
        visible = [m for m in MISTAKES if m.task in (None, task) and m.where(taps)]
        for mistake, level in itertools.product(visible, LEVELS):
            yield Trial((mistake.id,), task, *given, level)
        for triple in triples(visible, taps):
            yield Trial(triple, task, *given, "all")


def triples(mistakes: list[Mistake], taps: Shapes) -> list[tuple[str, ...]]:
    """Some sets of three mistakes that do not touch the same module."""
    rng = random.Random(0)
    found: list[tuple[str, ...]] = []
    while len(found) < TRIPLES:
        chosen = rng.sample([mistake for mistake in mistakes if mistake.combines], 3)
        touched = [footprint(mistake, taps) for mistake in chosen]
        if all(a.isdisjoint(b) for a, b in itertools.combinations(touched, 2)):
            found.append(tuple(mistake.id for mistake in chosen))
    return found


def footprint(mistake: Mistake, taps: Shapes) -> frozenset[str]:
    """Its taps and the modules around them."""
    where = mistake.where(taps)
    return where | {tap.rpartition(".")[0] for tap in where}


def perform(trial: Trial) -> Json:
    """Run one port, check it, and compare what fails with what must."""
    torch.set_num_threads(1)
    network = ports.network(NETWORKS[trial.task])
    mistakes = [BY_ID[name] for name in trial.mistakes]
    taps = shapes(trial.task, trial.height, trial.width, trial.batch)
    given = faulty_ports.run(
        mistakes, network.theirs, ports.pixel_values(trial.height, trial.width, trial.batch, seed=0)
    )
    must = frozenset[str]().union(*(mistake.where(taps) for mistake in mistakes))
    may = must.union(*(mistake.also(taps) for mistake in mistakes))
    if trial.level == "modules":
        given = {name: value for name, value in given.items() if faulty_ports.is_module_level(name)}
        must, may = faulty_ports.at_module_level(must), faulty_ports.at_module_level(may)
    report = check(given, network.ours)
    failing = {finding.tap for finding in report.failures}
    expected = {mistake.behaves_as for mistake in mistakes}
    ids = {mistake.catalogue for mistake in mistakes} | {SAME[m.catalogue] for m in mistakes if m.catalogue in SAME}
    causes = {str(finding.cause) for finding in report.failures}
    return {
        "trial": trial.name,
        "mistakes": list(trial.mistakes),
        "level": trial.level,
        "places": len(must),
        "found": report.verdict == "fail",
        "missed": sorted(must - failing),
        "blamed": sorted(failing - may),
        "behaves_as": report.behaves_as,
        "arithmetic_named": expected == {None} or report.behaves_as in expected,
        "causes": sorted(causes),
        "named": causes <= ids,
        "misnamed": bool(causes - ids - {"None"}),
    }


def is_placed(result: Json) -> bool:
    return result["found"] and not result["missed"] and not result["blamed"] and result["arithmetic_named"]


def line(result: Json) -> str:
    verdict = "placed" if is_placed(result) else "MISPLACED" if result["found"] else "MISSED"
    name = "named" if result["named"] else "MISNAMED" if result["misnamed"] else "unknown"
    text = f"{verdict:9} {name:8} {result['places']:3} places  {result['trial']}"
    if not result["named"]:
        text += f"  {', '.join(result['causes'])}"
    for kind in ("missed", "blamed"):
        if result[kind]:
            text += f"\n    {kind}: {', '.join(result[kind][:6])}" + (" ..." if len(result[kind]) > 6 else "")
    return text if result["arithmetic_named"] else f"{text}\n    behaves as {result['behaves_as']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--unseen", action="store_true", help="those of unseen_mistakes.py, which have no row")
    parser.add_argument("--only", default="", help="regular expression: mistakes/task/size/level")
    parser.add_argument("--output", type=Path, help="write the results there, as JSON")
    arguments = parser.parse_args()
    every = unseen_trials() if arguments.unseen else trials()
    planned = [trial for trial in every if re.search(arguments.only, trial.name)]
    results = []
    with ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for result in pool.map(perform, planned):
            results.append(result)
            print(line(result), flush=True)
    bad = [result["trial"] for result in results if not is_placed(result) or result["misnamed"]]
    single = {result["mistakes"][0] for result in results if len(result["mistakes"]) == 1}
    totals = {"mistakes": len(single), "trials": len(results), "placed": sum(map(is_placed, results))}
    totals |= {word: sum(result[word] for result in results) for word in ("named", "misnamed")}
    print(f"{len(single)} mistakes, " + ", ".join(f"{count} {word}" for word, count in list(totals.items())[1:]))
    if arguments.output:
        report = {"versions": versions(), **totals, "results": results}
        arguments.output.write_text(json.dumps(report, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
    if bad:
        raise SystemExit(f"error: {len(bad)} missed, misplaced or misnamed, the first is {bad[0]}")


if __name__ == "__main__":
    main()
