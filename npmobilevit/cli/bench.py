"""How fast the network is on this machine: the readable one, and the engine in each of its modes, timed in turn.

Each is a process of its own (see ``turns``). The answers are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from npmobilevit.cli import reports
from npmobilevit.cli.console import printable
from npmobilevit.cli.ending import EXIT_GOOD, EXIT_INPUT, EXIT_VALIDATION, Stop
from npmobilevit.cli.machine import describe_machine
from npmobilevit.cli.model import load_model
from npmobilevit.cli.turns import Program, ProgramFailed, Ratio, paired, serve, take_turns

DEFAULT_MODEL = "cifar10-xx-small"  # comes with the package: to measure needs no network
READABLE = "readable"
MODES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        READABLE: {"engine": "reference"},
        "threads": {"engine": "fast", "workers": "threads"},
        "processes": {"engine": "fast", "workers": "processes"},
    }
)
TOLERANCE = 1e-5  # of the largest value; float32 makes some 1e-6


class Mode(NamedTuple):
    """What was measured of one way to run the network.

    Attributes
    ----------
    facts : dict
        "peak_mib"; of the engine, "engine", "reason", "workers" and "plan": what runs, and why.
    times : list of float
        Seconds of a batch, one a round.
    ratio : Ratio
        Over those of the readable network.
    """

    facts: dict[str, Any]
    times: list[float]
    ratio: Ratio


class Measured(NamedTuple):
    """Modes that ran, and why the others did not.

    Attributes
    ----------
    modes : dict of str to Mode
    failures : dict of str to ProgramFailed
    """

    modes: dict[str, Mode]
    failures: dict[str, ProgramFailed]


def run_bench(options: argparse.Namespace) -> int:
    """Measure, and print what came of it."""
    pipeline = load_model(options.model or DEFAULT_MODEL)
    crop = pipeline.processor.crop_size
    height, width = options.size or (crop["height"], crop["width"])
    shape = (options.batch, pipeline.config.num_channels, height, width)
    measured = measure(options.model or DEFAULT_MODEL, shape, options.rounds)
    machine = describe_machine()
    if options.json:
        facts = {"machine": machine, "shape": list(shape), "rounds": options.rounds}
        reports.print_facts("bench", pipeline, {**facts, "modes": _document(measured, shape)})
    else:
        print(f"model {printable(pipeline.name)}, {options.batch} x {height} x {width} pixels, {options.rounds} rounds")
        print(*_text(measured, shape, machine), sep="\n")
    return EXIT_INPUT if measured.failures else EXIT_GOOD


def measure(model: str, shape: tuple[int, ...], rounds: int) -> Measured:
    """Time the network in all modes, in turn.

    Parameters
    ----------
    model : str
        See :func:`npmobilevit.load`.
    shape : (N, num_channels, H, W)
        Of the seeded noise that it looks at; its content makes no difference.
    rounds : int

    Returns
    -------
    Measured

    Raises
    ------
    Stop
        If the readable network cannot run, a mode dies in its rounds, or the engine's answer is another one.
    """
    programs: dict[str, Program] = {}
    failures: dict[str, ProgramFailed] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for mode in MODES:
            try:
                programs[mode] = stack.enter_context(Program(_command(mode, model, shape, folder)))
            except ProgramFailed as failure:
                if mode == READABLE:
                    raise _stop("the readable network", failure) from failure
                failures[mode] = failure
        _compare(folder, list(programs))
        try:
            times = take_turns(programs, rounds)
        except ProgramFailed as failure:
            raise _stop("a mode", failure) from failure
        facts = {mode: program.facts for mode, program in programs.items()}
    return Measured(
        {mode: Mode(facts[mode], times[mode], paired(times[mode], times[READABLE])) for mode in programs}, failures
    )


def _stop(who: str, failure: ProgramFailed) -> Stop:
    return Stop(EXIT_INPUT, failure.code, f"{who} cannot be timed: {failure}")


def _compare(folder: Path, modes: Sequence[str]) -> None:
    """Raise Stop if the output of a mode is not that of the readable network."""
    expected = np.load(folder / f"{READABLE}.npy")
    for mode in modes:
        found = np.load(folder / f"{mode}.npy")
        error = float(np.abs(found - expected).max()) / (float(np.abs(expected).max()) or 1.0)
        if not error <= TOLERANCE:  # NaN is not
            raise Stop(
                EXIT_VALIDATION,
                "engine-differs",
                f"the engine ({mode}) differs from the readable network by {error:.1e} of its largest value, more than "
                f"{TOLERANCE:.0e}; please report this, with what npmobilevit bench --json says of the machine",
            )


# A mode, in its process ---------------------------------------------------------------------------------------------


def _command(mode: str, model: str, shape: tuple[int, ...], folder: Path) -> list[str]:
    """The same interpreter, with the same paths, and :func:`serve_mode`."""
    request = json.dumps([mode, model, shape, str(folder)])
    code = f"import sys; sys.path[:] = {sys.path!r}; from npmobilevit.cli.bench import serve_mode; serve_mode()"
    return [sys.executable, "-c", code, request]


def serve_mode() -> None:
    """Be the program of a mode."""
    mode, model, shape, folder = json.loads(sys.argv[1])
    serve(lambda: _prepare(mode, model, shape, Path(folder)))


def _prepare(mode: str, model: str, shape: Sequence[int], folder: Path) -> Any:
    from npmobilevit.pipeline import load

    options: Any = MODES[mode]
    network: Any = load(model, **options).network
    x = np.random.default_rng(0).random(tuple(shape), np.float32)

    def describe(output: tuple[Any, ...]) -> dict[str, Any]:
        np.save(folder / f"{mode}.npy", output[0])
        if mode == READABLE:
            return {}
        plan = network.plan(*shape[2:])
        return {"engine": plan.engine, "reason": plan.reason, "workers": plan.workers, "plan": str(plan)}

    return lambda: network(x, return_dict=False), describe


# What is printed ----------------------------------------------------------------------------------------------------


def _document(measured: Measured, shape: tuple[int, ...]) -> dict[str, Any]:
    """For programs."""
    found: dict[str, Any] = {}
    for mode, (facts, times, ratio) in measured.modes.items():
        found[mode] = {
            "time_over_readable": ratio._asdict(),
            "pictures_per_second": shape[0] / statistics.median(times),
            "seconds": times,
            **facts,
        }
    for mode, failure in measured.failures.items():
        found[mode] = {"error": reports.describe_error(failure)}
    return found


def _text(measured: Measured, shape: tuple[int, ...], machine: Mapping[str, str]) -> list[str]:
    """For people: ratios, then what holds for this machine only, then what runs."""
    lines = [f"{'':18} {'time over readable':22} {'pictures/s here':>15} {'peak memory':>13}"]
    for mode, (facts, times, ratio) in measured.modes.items():
        memory = "unknown" if facts["peak_mib"] is None else f"{facts['peak_mib']:.0f} MiB"
        rate = f"{shape[0] / statistics.median(times):,.1f}"
        said = "1" if mode == READABLE else str(ratio)
        lines.append(f"{_title(mode):18} {said:22} {rate:>15} {memory:>13}")
    lines += [f"{_title(mode):18} not timed: {printable(str(why))}" for mode, why in measured.failures.items()]
    lines += ["", "machine"]
    lines += [f"  {fact:10} {printable(value)}" for fact, value in machine.items()]
    plans = {mode: facts["plan"] for mode, (facts, _, _) in measured.modes.items() if "plan" in facts}
    if plans:
        lines += ["", "what runs", *(f"  {mode:10} {plan}" for mode, plan in plans.items())]
    return lines


def _title(mode: str) -> str:
    return mode if mode == READABLE else f"engine, {mode}"
