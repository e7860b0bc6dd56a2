"""Time the readable network and the engine against PyTorch and ONNX Runtime, and write the tables and the picture.

    python tools/benchmark.py                       # all, some 25 minutes; let nothing else run meanwhile
    python tools/benchmark.py --missing             # what an interrupted run has left over
    python tools/benchmark.py --case '^small/256$'  # this part anew
    python tools/benchmark.py --case '^small/256$' --rounds 5 --only 'eager-2|engine'   # tried, and not written
    python tools/benchmark.py --write-only          # the page and the picture from the figures

Each contestant is a process of its own, woken in turn; all run the same seeded weights and pixels in float32, and are
timed only if their logits are those of PyTorch in float64. The result is the ratio of two times of a round, and its
median over the rounds. Needs the group `framework` of pyproject.toml, a C++ compiler for torch.compile, and Linux, as
memory is read from /proc. What more than two cores would make of it is not looked at: two are used.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import cold_start, contest, install_size, material, picture, tables
from benchmarks.cases import CASES, COLD_STARTS, CONTESTANTS, PARTS, Case
from marks import Marks
from resumable import Json

from npmobilevit.cli.machine import describe_machine
from npmobilevit.cli.turns import ProgramFailed
from npmobilevit.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "reference" / "measured" / "benchmark.json"
PAGE = ROOT / "reference" / "performance.md"
README = ROOT / "README.md"
PICTURE = ROOT / "reference" / "figures" / "performance.svg"
MARKS = Marks("<!-- the tables of tools/benchmark.py -->", "<!-- end of the tables -->")  # of both pages

PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "numpy", "pillow", "safetensors", "huggingface_hub")
CORES = 2


# Measuring ----------------------------------------------------------------------------------------------------------


def perform(part: str, folder: Path) -> Json:
    """Measure one part of a run; `folder` keeps what several of them use."""
    if part in CASES:
        return perform_case(CASES[part], folder)
    if part in COLD_STARTS:
        checkpoint = folder / part.replace("/", "-")
        material.write_checkpoint(COLD_STARTS[part], checkpoint)
        return cold_start.measure(checkpoint)
    return install_size.measure()


def perform_case(case: Case, folder: Path) -> Json:
    place = folder / case.material.replace("/", "-")
    material.write_material(case, place, onnx=any(CONTESTANTS[name].needs_onnx for name in case.contestants))
    return contest.hold(case, place)


def not_run(part: str, result: Json) -> list[str]:
    """The contestants that could not run or were wrong."""
    found = result.get("contestants", {})
    return [f"{part}, {name}: {one['not_run']}" for name, one in found.items() if "not_run" in one]


def told(part: str, result: Json) -> str:
    """A part as it is printed."""
    return "\n\n".join(tables.measurements({part: result}))


def run(parts: list[str], folder: Path, *, missing: bool) -> list[str]:
    """Measure, write the figures after each part, and say what could not run."""
    results = earlier(is_whole=not missing and len(parts) == len(PARTS))
    todo = [part for part in parts if not (missing and part in results["parts"])]
    write_figures(results)
    failures = []
    for i, part in enumerate(todo, start=1):
        begin = time.perf_counter()
        try:
            result = perform(part, folder)
        except (ProgramFailed, subprocess.CalledProcessError) as failure:
            failures.append(f"{part}: {failure}")
            continue
        results["parts"][part] = result
        write_figures(results)
        print(f"{i}/{len(todo)} {time.perf_counter() - begin:.0f} s\n{told(part, result)}\n", flush=True)
        failures += not_run(part, result)
    return failures


def attempt(parts: list[str], folder: Path, rounds: int | None, only: str) -> list[str]:
    """Measure cases with other rounds, or some of their contestants; print, and say what could not run."""
    failures = []
    for part in parts:
        case = CASES[part]
        chosen = tuple(name for name in case.contestants if re.search(only, name))
        if chosen:
            case = case._replace(rounds=case.rounds if rounds is None else rounds, contestants=chosen)
            result = perform_case(case, folder)
            print(f"{told(part, result)}\n", flush=True)
            failures += not_run(part, result)
    return failures


# Figures and documents ----------------------------------------------------------------------------------------------


def surroundings() -> Json:
    """What all figures of a file have in common."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"machine": describe_machine(), "packages": packages}


def earlier(*, is_whole: bool) -> Json:
    """The figures that a run adds to: none if it makes all of them."""
    here = surroundings()
    if is_whole or not MEASURED.exists():
        return {**here, "parts": {}}
    found: Json = json.loads(MEASURED.read_text(encoding="utf-8"))
    if found["parts"] and {key: found[key] for key in here} != here:
        raise SystemExit(f"error: {MEASURED.name} was measured with other packages or on another machine: measure all")
    return {**here, "parts": found["parts"]}


def write_figures(results: Json) -> None:
    """With the parts in their order; each on a line of its own."""
    parts = {name: results["parts"][name] for name in PARTS if name in results["parts"]}
    lines = [f"{json.dumps(name)}: {json.dumps(part, allow_nan=False)}" for name, part in parts.items()]
    head = [f"{json.dumps(key)}: {json.dumps(results[key])}" for key in ("machine", "packages")]
    body = ",\n".join([*head, '"parts": {\n' + ",\n".join(lines) + "\n}"])
    write_atomically(MEASURED, f"{{\n{body}\n}}\n".encode())


def write_documents() -> Json:
    """Write the pages and the picture of the figures, and return these."""
    results: Json = json.loads(MEASURED.read_text(encoding="utf-8"))
    for page, made in ((PAGE, tables.sections(results)), (README, tables.summary(results))):
        write_atomically(page, MARKS.filled(page.read_text(encoding="utf-8"), made).encode())
    write_atomically(PICTURE, picture.svg(results).encode())
    return results


# The command --------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="regular expression of the parts to measure")
    parser.add_argument("--missing", action="store_true", help="measure the parts that the figures lack")
    parser.add_argument("--rounds", type=int, help="try cases with so many rounds, and write nothing")
    parser.add_argument("--only", default="", help="try these contestants, a regular expression, and write nothing")
    parser.add_argument("--write-only", action="store_true", help="write the page and the picture from the figures")
    arguments = parser.parse_args()
    chosen = [part for part in PARTS if re.search(arguments.case, part)]
    is_trial = arguments.rounds is not None or arguments.only != ""
    if is_trial:
        chosen = [part for part in chosen if part in CASES]
    if not chosen:
        parser.error(f"--case {arguments.case!r} leaves nothing; there are {', '.join(PARTS)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, found {arguments.rounds}")
    failures = []
    if not arguments.write_only:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # of all that is started, too
        with tempfile.TemporaryDirectory() as name:
            if is_trial:
                failures = attempt(chosen, Path(name), arguments.rounds, arguments.only)
            else:
                failures = run(chosen, Path(name), missing=arguments.missing)
    if not is_trial:
        print(tables.standing(write_documents()))
    if failures:
        raise SystemExit("error: " + "\n".join(failures))


if __name__ == "__main__":
    main()
