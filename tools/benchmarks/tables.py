"""The measurements as tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.bars import standings, times
from benchmarks.cases import CASES, COLD_STARTS, CONTESTANTS, INSTALL_SIZE, NETWORKS, SEGMENTER
from benchmarks.cold_start import SIZE
from resumable import Json

from npmobilevit.cli.turns import Ratio, paired

OTHERS = {  # that ratios are taken over
    "eager-1": "eager, 1",
    "eager-2": "eager, 2",
    "compiled-2": "compiled, 2",
    "ort-1": "ORT, 1",
    "ort-2": "ORT, 2",
    "evaluator": "evaluator",
    "readable": "readable",
}


def sections(results: Json) -> str:
    """All that the page shows of the measurements."""
    return "\n\n".join(
        ["## The machine", machine(results), "## Standing", standing(results), *measurements(results["parts"])]
    )


def measurements(parts: Json) -> Iterator[str]:
    """Headings and tables of the parts that are there."""
    for name, case in CASES.items():
        if name in parts:
            yield f"## {name}: {'x'.join(map(str, case.shape))}, {parts[name]['rounds']} rounds"
            yield contest(parts[name], times(parts, name))
    if any(name in parts for name in COLD_STARTS):
        yield f"## Cold start: a process from a JPEG of {SIZE[0]} x {SIZE[1]} to a label"
        yield cold_starts(parts)
    if INSTALL_SIZE in parts:
        yield "## Size of an installation"
        yield installations(parts[INSTALL_SIZE])


def summary(results: Json) -> str:
    """The medians that a reader of the README asks for first."""
    cases = {name: times(results["parts"], f"{name}/{512 if name == SEGMENTER else 256}") for name in NETWORKS}
    pairs = [(mine, other) for other in ("eager-2", "ort-2") for mine in ("engine-processes", "engine-threads")]
    rows = []
    for mine, other in [*pairs, ("readable", "eager-2")]:
        ratios = (paired(case[mine], case[other]).median for case in cases.values())
        rows.append((f"{CONTESTANTS[mine].title} / {CONTESTANTS[other].title}", *(f"{ratio:.2f}" for ratio in ratios)))
    sizes = {name: "512 x 512" if name == SEGMENTER else "256 x 256" for name in NETWORKS}
    return markdown(("time over time", *(f"{name}, {size}" for name, size in sizes.items())), rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def machine(results: Json) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in results["packages"].items())
    return markdown(("what", "is"), [*results["machine"].items(), ("packages", packages)])


def standing(results: Json) -> str:
    head = ("ratio", "network", "median (lowest to highest)", "bar", "goal", "standing")
    return markdown(
        head,
        (
            (s.what, s.network, str(s.ratio), limit(s.bar, s.is_speedup), limit(s.goal, s.is_speedup), s.verdict)
            for s in standings(results["parts"])
        ),
    )


def limit(number: float | None, is_speedup: bool) -> str:
    return "" if number is None else f"{'at least' if is_speedup else 'at most'} {number:g}"


def contest(part: Json, seconds: dict[str, list[float]]) -> str:
    """A case: the time of each contestant over those of others, then what holds for this machine only."""
    others = [name for name in OTHERS if name in seconds]
    head = ["time of", *(f"over {OTHERS[name]}" for name in others), "ms here", "logits differ by", "peak MiB"]
    return markdown(head, contest_rows(part, seconds, others))


def contest_rows(part: Json, seconds: dict[str, list[float]], others: list[str]) -> Iterator[list[str]]:
    for name, found in part["contestants"].items():
        title = CONTESTANTS[name].title
        if name not in seconds:
            yield [title, f"not run: {found['not_run']}", *[""] * (len(others) + 2)]
            continue
        ratios = ["" if name == other else str(paired(seconds[name], seconds[other])) for other in others]
        absolute = f"{statistics.median(seconds[name]) * 1000:,.1f}"
        yield [title, *ratios, absolute, f"{found['error']:.1e}", f"{found['peak_mib']:.0f}"]


def cold_starts(parts: Json) -> str:
    rows = []
    for part, network in COLD_STARTS.items():
        programs = parts.get(part, {}).get("programs", {})
        for name, found in programs.items():
            ratio: Ratio = paired(found["seconds"], programs["npmobilevit"]["seconds"])
            seconds, memory = (statistics.median(found[key]) for key in ("seconds", "peak_mib"))
            rows.append((network, name, "" if name == "npmobilevit" else str(ratio), f"{seconds:.2f}", f"{memory:.0f}"))
    return markdown(("network", "program", "time over ours", "seconds here", "peak MiB"), rows)


def installations(found: Json) -> str:
    ours = found["npmobilevit"]["bytes"]
    rows = (
        (name, f"{one['bytes'] / ours:.1f}", f"{one['bytes'] / 1e6:.0f}", str(one["distributions"]))
        for name, one in found.items()
    )
    return markdown(("installation", "size over ours", "MB", "distributions"), rows)
