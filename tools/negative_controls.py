"""Count the false alarms: check every honest port of tools/ports.py, in which there is nothing to find.

    pip install torch==2.13.0 transformers==5.23.0    # group `framework` of pyproject.toml
    python tools/negative_controls.py --workers 2 --state controls.jsonl --output reference/measured/negative_controls.json
    python tools/negative_controls.py --only "^(eager|fp16)/xx-small/" --state some.jsonl

Networks are the three variants and a segmenter with well-scaled random weights, and both shipped checkpoints; sizes
128x128, 224x224 and 203x157; one and two pictures; five seeds. Shipped checkpoints also see a whole picture, with the
image processor before them. Finished checks are lines of the state file and are not done again; Ctrl-C ends a run
early with the summary of what is finished. A verdict of "fail"
is a false alarm, and then the tool fails; findings that are "unusual" are counted apart.
"""  # noqa: E501

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import numpy as np
import ports
import torch
import transformers
from resumable import Json, perform_all, read_state
from verdicts import digest

from npmobilevit.validation import check

SIZES = ((128, 128), (224, 224), (203, 157))
BATCHES = (1, 2)
SEEDS = 5
PICTURE = (240, 320)
PORTS = {port.id: port for port in ports.PORTS}


class Control(NamedTuple):
    """One check. A batch of 0 is a picture before the image processor."""

    port: str
    network: str
    height: int
    width: int
    batch: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.port}/{self.network}/{self.height}x{self.width}/{self.batch or 'picture'}/{self.seed}"


def controls() -> Iterator[Control]:
    """All checks in `SEEDS` rounds: each has every port on every network and input once, with the seeds in turn."""
    for turn in range(SEEDS):
        seeds = itertools.count(turn)
        for network in ports.NETWORKS:
            inputs = [(*size, batch) for size, batch in itertools.product(SIZES, BATCHES)]
            inputs += [(*PICTURE, 0)] if network in ports.SHIPPED else []
            is_segmenter = ports.SEGMENTATION in network or "deeplab" in network
            for port, given in itertools.product(ports.PORTS, inputs):
                overflows = port.id == "softmax-bare" and network in ports.SHIPPED  # N18 is for scores below 88
                if (is_segmenter or port.task is None) and not overflows:
                    yield Control(port.id, network, *given, next(seeds) % SEEDS)


def perform(control: Control) -> Json:
    """Run one port, check it, and say what came of it."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    port, network = PORTS[control.port], ports.network(control.network)
    height, width, batch, seed = control[2:]
    image = None if batch else ports.picture(height, width, seed)
    x = network.ours.processor.preprocess(image)["pixel_values"] if image is not None else None
    x = ports.pixel_values(height, width, batch, seed) if x is None else x
    report = check(ports.run(port, network.theirs, x), network.ours, image=image, profile=port.profile)
    return {"check": control.name, "port": port.id, **digest(report), "seconds": time.perf_counter() - start}


def summary(results: Iterable[Json]) -> list[Json]:
    """One row a port."""
    rows = []
    for port in ports.PORTS:
        own = [result for result in results if result["port"] == port.id]
        if own:
            rows.append(
                {
                    "port": port.id,
                    "control": port.control,
                    "profile": port.profile,
                    "description": port.description,
                    "checks": len(own),
                    "judgements": sum(result["judgements"] for result in own),
                    "false_alarms": sum(result["verdict"] == "fail" for result in own),
                    "screened": sum(result["verdict"] == "screened" for result in own),
                    "unusual_findings": sum(len(result["unusual"]) for result in own),
                    "largest_ratio": max(result["largest_ratio"] for result in own),
                    "behaves_as": sorted({str(result["behaves_as"]) for result in own}),
                }
            )
    return rows


def table(rows: list[Json]) -> str:
    lines = [
        f"{'port':20} {'control':7} {'profile':13} {'checks':>6} {'false':>6} {'screened':>8} {'unusual':>7}   ratio"
    ]
    for row in rows:
        lines.append(
            f"{row['port']:20} {row['control']:7} {row['profile']:13} {row['checks']:6} {row['false_alarms']:6} "
            f"{row['screened']:8} {row['unusual_findings']:7}   {row['largest_ratio']:.3g}"
        )
    return "\n".join(lines)


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{m.__name__: m.__version__ for m in (torch, transformers, np)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--only", default="", help="regular expression: port/network/size/batch/seed")
    parser.add_argument("--rounds", type=int, default=SEEDS, help="of the five that take every seed to everything")
    parser.add_argument("--state", type=Path, required=True, help="file of finished checks")
    parser.add_argument("--output", type=Path, help="write the summary there, as JSON")
    arguments = parser.parse_args()
    every = list(controls())
    planned = every[: len(every) * arguments.rounds // SEEDS]
    planned = [control for control in planned if re.search(arguments.only, control.name)]
    finished = read_state(arguments.state, "check")
    todo = [control for control in planned if control.name not in finished]
    random.Random(0).shuffle(todo)  # a run that is cut short has seen something of everything
    print(f"{len(planned)} checks, {len(planned) - len(todo)} of them finished", flush=True)
    try:
        for i, result in enumerate(perform_all(perform, todo, arguments.workers, arguments.state), start=1):
            finished[result["check"]] = result
            print(f"{i}/{len(todo)} {result['seconds']:5.1f} s {result['verdict']:8} {result['check']}", flush=True)
            for alarm in result["alarms"]:
                print(f"    {alarm}", flush=True)
    except KeyboardInterrupt:
        print("interrupted; this is what was finished", flush=True)
    results = [finished[control.name] for control in planned if control.name in finished]
    rows = summary(results)
    print(table(rows))
    alarms = {result["check"]: result["alarms"] for result in results if result["verdict"] == "fail"}
    if arguments.output:
        totals = {key: sum(row[key] for row in rows) for key in ("checks", "judgements", "false_alarms")}
        report = {"versions": versions(), "planned": len(planned), **totals, "ports": rows, "alarms": alarms}
        arguments.output.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if alarms:
        raise SystemExit(f"error: {len(alarms)} false alarms, the first in {next(iter(alarms))}")


if __name__ == "__main__":
    main()
