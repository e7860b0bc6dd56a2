"""Make every mistake of the catalogue in a port, and hold the check and its diagnosis against it. NumPy only.

    python tools/mutation_study.py --state study.jsonl --workers 2 --output reference/measured/mutation_study.json
    python tools/mutation_study.py --state study.jsonl --only "^ATT.*/fp32"

The port is this network in the arithmetic of a profile, with one mistake in it. Each mistake is made with each of its
examples, in each network that can have it, on each input. What is told of it:

visible   whether the mistake changes any tap by more than the roundings of float64
detected  the check fails
hidden    not detected, and in exact arithmetic the mistake is within the tolerance at every tap: rounding hides it
placed    the first tap that fails is the first that the mistake changes, and no tap fails that is not the mistake's
named     the first failure is given the id of the mistake, or of one that is the same on this input
misnamed  any failure is given another id
blamed    taps that fail, but that the mistake does not change

Checks that are finished are kept in the state file, and not run again; it can be stopped at any time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import numpy as np
from narrow import OPERATORS
from numpy.typing import NDArray
from resumable import Json, perform_all, read_state
from seeded import random_weights

import npmobilevit as nm
from npmobilevit.models import PreTrainedModel
from npmobilevit.validation import check
from npmobilevit.validation.candidates import read_candidate
from npmobilevit.validation.mutants import CATALOGUE, Change, Mutant
from npmobilevit.validation.profiles import PROFILES
from npmobilevit.validation.replay import in_float64, run_changed
from npmobilevit.validation.trial import Trial as ValidationTrial

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
SMALL = {"hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 64], "expand_ratio": 2.0}
NETWORKS = {
    "cifar10-xx-small": "classification",
    "seeded-classifier": "classification",
    "camvid-deeplabv3-xx-small": "segmentation",
    "seeded-segmenter": "segmentation",
}
INPUTS = {"natural": (96, 128, 1), "224": (224, 224, 1), "odd": (75, 101, 1), "batch": (64, 96, 2)}  # H, W, pictures
ALL_PROFILES_ON = (("cifar10-xx-small", "natural"), ("seeded-segmenter", "odd"))


class Trial(NamedTuple):
    """One mistake in one port."""

    mutant: str
    example: int
    network: str
    input: str
    profile: str

    @property
    def name(self) -> str:
        return f"{self.mutant}.{self.example}/{self.network}/{self.input}/{self.profile}"


BY_NAME = {mutant.name: mutant for mutant in CATALOGUE}


def trials() -> Iterator[Trial]:
    """Everything in fp32, and some of it in the other profiles."""
    for mutant in CATALOGUE:
        if mutant.equivalent or mutant.mode not in ("taps", "quantised"):
            continue
        for example, network, given in itertools.product(range(len(mutant.examples)), NETWORKS, INPUTS):
            if NETWORKS[network] in tasks(mutant, example):
                for profile in OPERATORS if (network, given) in ALL_PROFILES_ON else ("fp32",):
                    yield Trial(mutant.name, example, network, given, profile)


@cache
def nodes(task: str) -> frozenset[str]:
    """All nodes of a network."""
    found: set[str] = set()

    def meet(name: str, _x: Any) -> None:
        parts = name.split(".")
        found.update(".".join(parts[:i]) for i in range(len(parts) + 1))

    model = network("seeded-classifier" if task == "classification" else "seeded-segmenter")
    model.forward(model.scope(meet), model.check_pixel_values(np.zeros((1, 3, 32, 32), np.float32)))
    return frozenset(found)


def tasks(mutant: Mutant, example: int) -> list[str]:
    """The tasks whose networks have a node that the mistake changes."""
    changes = mutant.make(mutant.examples[example])
    return [
        task for task in ("classification", "segmentation") if any(c.is_at(n) for c in changes for n in nodes(task))
    ]


@cache
def network(name: str) -> PreTrainedModel:
    if not name.startswith("seeded"):
        return nm.load(name).network
    kind = NETWORKS[name]
    settings = {**SMALL, "num_labels": 10}
    if kind == "segmentation":
        settings |= {"output_stride": 16, "aspp_out_channels": 24, "atrous_rates": [2, 4, 6]}
    config = nm.MobileViTConfig(**settings)
    model = nm.MobileViTForImageClassification if kind == "classification" else nm.MobileViTForSemanticSegmentation
    return model(config, random_weights(config, kind, seed=6, dtype=np.float32))


def pixel_values(given: str) -> NDArray[np.float32]:
    """Parts of photographs, (N, 3, H, W)."""
    height, width, count = INPUTS[given]
    processor = nm.MobileViTImageProcessor(
        size={"shortest_edge": max(height, width)}, crop_size={"height": height, "width": width}
    )
    pictures = [REFERENCE / "images" / name for name in ("chelsea.png", "coffee.png")]
    return np.concatenate([processor.preprocess(picture)["pixel_values"] for picture in pictures[:count]])


def changed_taps(
    model: PreTrainedModel, x: NDArray[Any], changes: tuple[Change, ...], profile: str
) -> tuple[list[str], float]:
    """The taps that are not, in float64, what the taps before them should have become, and by how many tolerances of
    the profile they are off at most."""
    exact = in_float64(model)
    x = x.astype(np.float64)
    trial = ValidationTrial(exact, read_candidate(run_changed(exact, x, changes)), PROFILES[profile])
    trial.run(x)
    off = [j for j in trial.judgements if j.status == "wrong" or j.error > 1e-11 * j.scale]
    return [j.tap for j in off], max((j.ratio for j in off), default=0.0)


def perform(trial: Trial) -> Json:
    """Run one port, check it, and compare what is said with what is so."""
    start = time.perf_counter()
    model, x, mutant = network(trial.network), pixel_values(trial.input), BY_NAME[trial.mutant]
    result: Json = {"trial": trial.name, **trial._asdict()}
    try:
        changes = mutant.make(mutant.examples[trial.example])
        dump = run_changed(model, x, changes, **OPERATORS[trial.profile])
        places, largest = changed_taps(model, x, changes, trial.profile)
    except ValueError as error:
        return {**result, "impossible": str(error)}  # shapes that this network does not have
    report = check(dump, model, profile=trial.profile)
    failing = [finding.tap for finding in report.failures]
    causes = Counter(str(finding.cause) for finding in report.failures)
    own = {finding.tap for finding in report.failures if finding.cause == mutant.id}
    first = report.failures[0] if report.failures else None
    return {
        **result,
        "visible": bool(places),
        "verdict": report.verdict,
        "detected": report.verdict == "fail",
        "hidden": report.verdict != "fail" and largest <= 1,
        "largest_ratio": min(largest, 1e300),
        "placed": bool(places and first and first.tap == places[0]),
        "named": bool(first and first.cause == mutant.id),
        "causes": dict(causes),
        "blamed": [tap for tap in dict.fromkeys(failing) if tap not in places and tap not in own],
        "behaves_as": report.behaves_as,
        "seconds": round(time.perf_counter() - start, 1),
    }


def in_turn(planned: list[Trial]) -> list[Trial]:
    """At random, but each mistake once in each profile before any of them twice: a run that is cut short has seen
    something of everything."""
    shuffled = random.Random(0).sample(planned, len(planned))
    turns: Counter[tuple[str, int, str]] = Counter()

    def turn(trial: Trial) -> int:
        turns[trial.mutant, trial.example, trial.profile] += 1
        return turns[trial.mutant, trial.example, trial.profile]

    return sorted(shuffled, key=turn)


COUNTS = ("visible", "detected", "hidden", "missed", "placed", "named", "unknown", "misnamed", "blamed")


def counts(results: Iterable[Json]) -> Json:
    """How many of the visible mistakes were found, placed and named."""
    visible = [r for r in results if r.get("visible")]
    found = [r for r in visible if r["detected"]]
    return {
        "visible": len(visible),
        "detected": len(found),
        "hidden": sum(r["hidden"] for r in visible),
        "missed": sum(not r["detected"] and not r["hidden"] for r in visible),
        "placed": sum(r["placed"] for r in found),
        "named": sum(r["named"] for r in found),
        "unknown": sum(set(r["causes"]) == {"None"} for r in found),
        "misnamed": sum(bool(set(r["causes"]) - {"None", BY_NAME[r["mutant"]].id}) for r in found),
        "blamed": sum(bool(r["blamed"]) for r in found),
    }


def summary(results: list[Json]) -> Json:
    """Totals of each profile, and a row for each mistake and profile."""
    rows = []
    for mutant, profile in itertools.product(CATALOGUE, OPERATORS):
        own = [r for r in results if r["mutant"] == mutant.name and r["profile"] == profile]
        if own:
            rows.append({"mutant": mutant.name, "profile": profile, "trials": len(own), **counts(own)})
    totals = {profile: counts(r for r in results if r["profile"] == profile) for profile in OPERATORS}
    return {"totals": totals, "rows": rows}


def odd(result: Json) -> bool:
    """Whether a result is not what it should be."""
    if "impossible" in result or not result["visible"] or result["hidden"]:
        return False
    return not (result["placed"] and result["named"] and set(result["causes"]) == {BY_NAME[result["mutant"]].id})


def line(result: Json) -> str:
    if "impossible" in result:
        return f"impossible  {result['trial']}: {result['impossible'][:60]}"
    words = [word for word in ("visible", "detected", "hidden", "placed", "named") if result[word]]
    text = f"{'ODD' if odd(result) else 'ok':4} {result['seconds']:5.1f} s  {result['trial']}: {' '.join(words)}"
    if odd(result):
        text += f"\n      causes {result['causes']}, blamed {result['blamed'][:3]}, {result['largest_ratio']:.3g}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--only", default="", help="regular expression: mutant.example/network/input/profile")
    parser.add_argument("--state", type=Path, required=True, help="file of finished trials")
    parser.add_argument("--most", type=int, help="trials to run; 0 only sums up what is finished")
    parser.add_argument("--output", type=Path, help="write the summary there, as JSON")
    arguments = parser.parse_args()
    planned = [trial for trial in trials() if re.search(arguments.only, trial.name)]
    finished = read_state(arguments.state, "trial")
    todo = [trial for trial in in_turn(planned) if trial.name not in finished][: arguments.most]
    print(f"{len(planned)} trials, {sum(trial.name in finished for trial in planned)} of them finished", flush=True)
    try:
        for i, result in enumerate(perform_all(perform, todo, arguments.workers, arguments.state), start=1):
            finished[result["trial"]] = result
            print(f"{i}/{len(todo)} {line(result)}", flush=True)
    except KeyboardInterrupt:
        print("interrupted; this is what was finished", flush=True)
    results = [finished[trial.name] for trial in planned if trial.name in finished]
    report = summary(results)
    for profile, total in report["totals"].items():
        print(f"{profile:13}" + "".join(f" {total[word]:5} {word}" for word in COUNTS))
    if arguments.output:
        versions = {"python": platform.python_version(), "numpy": np.__version__, "npmobilevit": nm.__version__}
        document = {"versions": versions, "planned": len(planned), "finished": len(results), **report}
        document["odd"] = [result for result in results if odd(result)]
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
        arguments.output.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
