"""What was asked of the engine, and where it stands."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from benchmarks.cases import MODES, SEGMENTER, VARIANTS
from resumable import Json

from npmobilevit.cli.turns import Ratio, paired

DEFAULT = "engine-threads"


class Standing(NamedTuple):
    """A ratio, and the numbers that it is held against."""

    what: str
    network: str
    ratio: Ratio
    bar: float
    goal: float | None
    is_speedup: bool = False  # the more the better

    @property
    def verdict(self) -> str:
        if self.goal is not None and self._reaches(self.goal):
            return "goal met"
        return "bar met" if self._reaches(self.bar) else "missed"

    def _reaches(self, number: float) -> bool:
        return self.ratio.median >= number if self.is_speedup else self.ratio.median <= number


def standings(parts: Mapping[str, Json]) -> Iterator[Standing]:
    """All that can be told of the parts that are there."""
    sizes = {**dict.fromkeys(VARIANTS, 256), SEGMENTER: 512}
    for network, size in sizes.items():
        segments = network == SEGMENTER
        one, eight = (times(parts, f"{network}/{size}{suffix}") for suffix in ("", "/batch-8"))
        yield from held("engine's best mode / eager, 2 threads", network, one, best(one, "eager-2"), "eager-2",
                        (0.35, 0.25) if segments else (0.6, 0.45))  # fmt: skip
        yield from held("engine's default mode / eager, 2 threads", network, one, DEFAULT, "eager-2",
                        (0.45, 0.3) if segments else (0.9, 0.6))  # fmt: skip
        yield from held("engine's best mode / ONNX Runtime, 2 threads", network, one, best(one, "ort-2"), "ort-2",
                        (1.1, 1.0) if segments else (1.35, 1.0))  # fmt: skip
        yield from held("batch 8: engine's best mode / ONNX Runtime, 2 threads", network, eight, best(eight, "ort-2"),
                        "ort-2", (0.95, 0.9) if segments else (1.25, 0.9))  # fmt: skip
        yield from held("readable network / eager, 2 threads", network, one, "readable", "eager-2", (2.0, None))
    for network, numbers in (("xx-small", (5.0, 8.0)), ("small", (4.0, 5.0))):
        yield from large(parts, network, *numbers)
    for network, numbers in (("xx-small", (20.0, 25.0)), ("small", (12.0, None))):
        yield from cold(parts, network, *numbers)


def times(parts: Mapping[str, Json], case: str) -> dict[str, list[float]]:
    """Seconds of the contestants that ran in a case."""
    contestants = parts.get(case, {}).get("contestants", {})
    return {name: found["seconds"] for name, found in contestants.items() if "seconds" in found}


def best(case: Mapping[str, list[float]], other: str) -> str:
    """The mode of the engine that is fastest beside another contestant; the default if none ran."""
    there = [mode for mode in MODES if mode in case and other in case]
    return min(there, key=lambda mode: paired(case[mode], case[other]).median, default=DEFAULT)


def held(
    what: str, network: str, case: Mapping[str, list[float]], mine: str, other: str, numbers: tuple[float, float | None]
) -> Iterator[Standing]:
    """The standing of a ratio of times, if both were timed."""
    if mine in case and other in case:
        yield Standing(what, network, paired(case[mine], case[other]), *numbers)


def large(parts: Mapping[str, Json], network: str, bar: float, goal: float) -> Iterator[Standing]:
    """How much faster than eager the engine is at 1024 x 1024, and its memory."""
    name = f"{network}/1024"
    case = times(parts, name)
    mode = best(case, "eager-2")
    if mode in case and "eager-2" in case:
        ratio = paired(case["eager-2"], case[mode])
        yield Standing("1024 x 1024: eager, 2 threads / engine's best mode", network, ratio, bar, goal, True)
        memory = {one: parts[name]["contestants"][one]["peak_mib"] for one in (mode, "eager-2")}
        ratio = paired([memory[mode]], [memory["eager-2"]])
        yield Standing("1024 x 1024: peak memory of the same mode / eager's", network, ratio, 0.25, None)


def cold(parts: Mapping[str, Json], network: str, bar: float, goal: float | None) -> Iterator[Standing]:
    """How much sooner than transformers a new process has a label, and its memory."""
    programs = parts.get(f"{network}/cold-start", {}).get("programs")
    if programs:
        ours, theirs = programs["npmobilevit"], programs["transformers"]
        ratio = paired(theirs["seconds"], ours["seconds"])
        yield Standing("cold start: transformers / ours", network, ratio, bar, goal, True)
        memory = [statistics.median(one["peak_mib"]) for one in (ours, theirs)]
        ratio = paired(memory[:1], memory[1:])
        yield Standing("cold start: peak memory, ours / transformers'", network, ratio, 0.25, None)
