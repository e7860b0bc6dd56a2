"""One case: all its contestants in turn, after each has shown that its answer is right."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.cases import CONTESTANTS, THREAD_VARIABLES, Case, Contestant
from resumable import Json

from npmobilevit.cli.turns import Program, ProgramFailed, take_turns

WORKER = Path(__file__).with_name("worker.py")
TOLERANCE = 1e-5  # of the largest logit


def command(contestant: Contestant, folder: Path, logits: Path) -> list[str]:
    return [sys.executable, str(WORKER), contestant.program, str(folder), str(logits), json.dumps(contestant.options)]


def environment(threads: int | None) -> dict[str, str]:
    """This process's, with so many threads, or with none given; libraries neither ask a server nor draw bars."""
    others = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    others |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return others | ({name: str(threads) for name in THREAD_VARIABLES} if threads else {})


def relative_error(found: Any, expected: Any) -> float:
    """Largest difference, of the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def hold(case: Case, folder: Path) -> Json:
    """Time the contestants of a case on its material; what came of each, "not_run" if it could not or is wrong.

    Raises
    ------
    ProgramFailed
        If one dies in its rounds.
    """
    expected = np.load(folder / "witness.npy")
    found: dict[str, Json] = {}
    programs: dict[str, Program] = {}
    with contextlib.ExitStack() as stack:
        for name in case.contestants:
            contestant, logits = CONTESTANTS[name], folder / f"{name}.npy"
            try:
                program = Program(command(contestant, folder, logits), environment(contestant.threads))
            except ProgramFailed as failure:
                found[name] = {"not_run": str(failure)[:300]}
                continue
            stack.enter_context(program)
            error = relative_error(np.load(logits), expected)
            if not error <= TOLERANCE:  # NaN is not
                found[name] = {"not_run": f"wrong by {error:.1e} of its largest logit"}
                continue
            found[name] = {"error": error, **program.facts}
            programs[name] = program
        times = take_turns(programs, case.rounds)
    for name, seconds in times.items():
        found[name]["seconds"] = [float(f"{value:.5g}") for value in seconds]
    return {"shape": list(case.shape), "rounds": case.rounds, "contestants": found}
