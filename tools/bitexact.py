"""Hashes of everything that the network puts out with precision="bitexact": write them, or hold a machine to them.

    python tools/bitexact.py verify                     # does this machine give the bits of reference/bitexact.json?
    python tools/bitexact.py verify --only small        # of some cases: a regular expression
    python tools/bitexact.py write                      # make the file anew
    python tools/bitexact.py study --numpy 2.0.0 --output reference/measured/bitexact.json

Cases are the small networks and the shipped checkpoints of reference/golden, and the published variants at 256x256 with
weights that recipe.py makes of integers, so that they are the same everywhere, too. `study` runs `verify` with every
kernel of OpenBLAS that this machine can run, one and two threads, fewer and fewer instructions for NumPy, and the
versions of NumPy that are asked for, and does the same with float32 and float64 to see how far these would differ. It
also measures accuracy, against float64, and time. NumPy and npmobilevit only.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.cases import VARIANTS
from numpy.typing import NDArray
from recipe import numbers, parameter
from safetensors import safe_open

import npmobilevit as nm
from npmobilevit.arithmetic import PRECISIONS
from npmobilevit.cli.machine import openblas_kernels, processor
from npmobilevit.config import expected_parameters
from npmobilevit.models import PreTrainedModel
from npmobilevit.validation import record

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "reference" / "golden"
HASHES = ROOT / "reference" / "bitexact.json"
FORMAT = "npmobilevit-bitexact/1"

CLASSES = {
    "base": nm.MobileViTModel,
    "classification": nm.MobileViTForImageClassification,
    "segmentation": nm.MobileViTForSemanticSegmentation,
}
NETWORKS = {name: ("classification", {**settings, "num_labels": 1000}) for name, settings in VARIANTS.items()}
NETWORKS["deeplabv3-small"] = ("segmentation", {**VARIANTS["small"], "num_labels": 21, "output_stride": 16})
SIZE = 256

# Core types that OpenBLAS can be told for x86-64, oldest first. It takes other kernels where a machine or the build has
# not those of a type.
CORETYPES = ("Prescott", "Core2", "Nehalem", "Barcelona", "Bulldozer", "Sandybridge", "Haswell", "Zen", "SkylakeX",
             "Cooperlake", "SapphireRapids")  # fmt: skip


# Cases --------------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A network, ready to be made in any precision, and its input."""

    name: str
    make: Callable[[str], PreTrainedModel]
    pixel_values: Callable[[], NDArray[Any]]


def cases() -> Iterator[Case]:
    """All of them, the small ones first."""
    for path in sorted(GOLDEN.glob("models/*.safetensors")):
        if golden_config(path).hidden_act in PRECISIONS["bitexact"].ops.activations:
            yield Case(
                f"golden/{path.stem}", functools.partial(golden_model, path), functools.partial(golden_pixels, path)
            )
    for path in sorted(GOLDEN.glob("checkpoints/*.safetensors")):
        yield Case(f"shipped/{path.stem}", functools.partial(shipped_model, path.stem),
                   functools.partial(golden_pixels, path))  # fmt: skip
    for name in NETWORKS:
        yield Case(f"recipe/{name}", functools.partial(variant_model, name), variant_pixels)


def golden_config(path: Path) -> nm.MobileViTConfig:
    with safe_open(path, "np") as file:
        return nm.MobileViTConfig.from_dict(json.loads(file.metadata()["config"]))


def golden_model(path: Path, precision: str) -> PreTrainedModel:
    config = golden_config(path)
    with safe_open(path, "np") as file:
        facts = file.metadata()
        kind = CLASSES[facts["task"]]
        stored = json.loads(facts["aliases"])
        names = {name: f"weights.{name}" for name in expected_parameters(config, head=kind.head)}
        weights = {name: file.get_tensor(stored.get(entry, entry)) for name, entry in names.items()}
    return kind(config, weights, precision=precision)


def golden_pixels(path: Path) -> NDArray[Any]:
    with safe_open(path, "np") as file:
        return file.get_tensor("pixel_values")


def shipped_model(name: str, precision: str) -> PreTrainedModel:
    return nm.load(name, precision=precision).network


def variant_model(name: str, precision: str) -> PreTrainedModel:
    task, settings = NETWORKS[name]
    config, kind = nm.MobileViTConfig(**settings), CLASSES[task]
    shapes = expected_parameters(config, head=kind.head)
    weights = {n: parameter("0", n, shape) for n, shape in shapes.items()}
    return kind(config, weights, precision=precision)


def variant_pixels() -> NDArray[Any]:
    return (numbers("0/pixel_values", 1, 3, SIZE, SIZE) + 1) / 2


def hashes(case: Case, precision: str) -> dict[str, str]:
    """SHA-256 of every tap, of its values as little-endian float64 in C order."""
    found: dict[str, str] = dict(record(case.make(precision), case.pixel_values()).facts["sha256"])
    return found


# Commands -----------------------------------------------------------------------------------------------------------


def write(chosen: list[Case]) -> None:
    """Make the file."""
    taps = {case.name: hashes(case, "bitexact") for case in chosen}
    document = {"format": FORMAT, "generator": "tools/bitexact.py write", "versions": versions(), "cases": taps}
    HASHES.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(map(len, taps.values()))} taps of {len(taps)} cases")


def verify(chosen: list[Case]) -> None:
    """Compute, and compare with the file."""
    expected = json.loads(HASHES.read_text(encoding="utf-8"))["cases"]
    wrong = []
    for case in chosen:
        found, known = hashes(case, "bitexact"), expected.get(case.name, {})
        parted = unlike(found, known)
        text = f"{len(parted)} differ, the first {parted[0]}" if parted else "all equal"
        print(f"{case.name:45} {len(found):4} taps, {text}", flush=True)
        wrong += [case.name] if parted else []
    if wrong:
        raise SystemExit(f"error: other bits than those of {HASHES.name} in {', '.join(wrong)}")


def versions() -> dict[str, str]:
    return {"npmobilevit": nm.__version__, "numpy": np.__version__, "python": platform.python_version(),
            "machine": platform.machine()}  # fmt: skip


# The study ----------------------------------------------------------------------------------------------------------


FIRST = "one thread"  # the setting with which float32 and float64 are compared


class Setting(NamedTuple):
    """What a process is told, by its environment and its NumPy."""

    name: str
    environment: Mapping[str, str]
    python: str = sys.executable


def settings(numpys: Mapping[str, str]) -> Iterator[Setting]:
    """One after another; the first has the kernels that OpenBLAS takes by itself."""
    yield Setting(FIRST, {"OPENBLAS_NUM_THREADS": "1"})
    for kernels, core in available_kernels().items():
        for threads in ("1", "2"):
            variables = {"OPENBLAS_CORETYPE": core, "OPENBLAS_NUM_THREADS": threads}
            yield Setting(f"OpenBLAS for {kernels}, {threads} thread{'s' * (threads > '1')}", variables)
    for version, python in {np.__version__: sys.executable, **numpys}.items():
        for features in instruction_sets(python):
            name = f"NumPy {version}, 2 threads" + (f", without {' '.join(features)}" if features else "")
            variables = {"OPENBLAS_NUM_THREADS": "2", "NPY_DISABLE_CPU_FEATURES": " ".join(features)}
            yield Setting(name, variables, python)


def available_kernels() -> dict[str, str]:
    """Names of the kernels that OpenBLAS has for this machine, each with a core type that makes it choose them."""
    found: dict[str, str] = {}
    for core in CORETYPES:
        row, _ = run(Setting(core, {"OPENBLAS_CORETYPE": core}), "no case")
        found.setdefault(row.get("kernels", ""), core)
    found.pop("", None)
    return found


FEATURES = """
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(*(feature for feature in __cpu_dispatch__ if __cpu_features__[feature]))
"""


def instruction_sets(python: str) -> list[list[str]]:
    """What NumPy can be told not to use: nothing, the newest instructions, ever more, all beyond its baseline."""
    usable = subprocess.run([python, "-c", FEATURES], check=True, capture_output=True, text=True).stdout.split()
    return [usable[i:] for i in reversed(range(len(usable) + 1))]


COMPUTE = "import bitexact, sys; bitexact.compute(sys.argv[1])"


def compute(only: str) -> None:
    """In a process of a setting: print the hashes of all precisions."""
    chosen = [case for case in cases() if re.search(only, case.name)]
    taps = {p: {case.name: hashes(case, p) for case in chosen} for p in PRECISIONS}
    print(json.dumps({"blas": openblas_kernels() or "unknown", "taps": taps}))


def study(only: str, numpys: list[str], output: Path | None) -> None:
    """Run every setting, compare, and say what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        pythons = {version: environment(Path(folder) / version, version) for version in numpys}
        rows, expected = [], json.loads(HASHES.read_text(encoding="utf-8"))["cases"]
        first: dict[str, Any] = {}
        for setting in settings(pythons):
            row, taps = run(setting, only)
            if setting.name == FIRST and not taps:
                raise SystemExit(f"error: not even {FIRST} can run: {row['not_run']}")
            first = first or taps
            if taps:
                compared = {"bitexact": expected, "float64": first["float64"], "float32": first["float32"]}
                row |= {f"{p}_differing": differing(taps[p], compared[p]) for p in PRECISIONS}
                row["taps"] = sum(map(len, taps["bitexact"].values()))
            rows.append(row)
            print(json.dumps(row), flush=True)
    costs = [
        cost(case) for case in cases() if case.name.startswith(("shipped", "recipe")) and re.search(only, case.name)
    ]
    for row in costs:
        print(json.dumps(row), flush=True)
    report = {"versions": versions(), "processor": processor(), "settings": rows, "costs": costs}
    if output:
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    wrong = [row["setting"] for row in rows if row.get("bitexact_differing")]
    if wrong:
        raise SystemExit(f"error: other bits than those of {HASHES.name} with {'; '.join(wrong)}")


def run(setting: Setting, only: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute in a process of its own, which kernels that the machine cannot run would end."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "tools"), **setting.environment}
    done = subprocess.run([setting.python, "-c", COMPUTE, only], env=variables, capture_output=True, text=True)
    row: dict[str, Any] = {"setting": setting.name}
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended by signal {-done.returncode}"]
        return {**row, "not_run": last[0]}, {}
    found = json.loads(done.stdout)
    return {**row, "kernels": found["blas"]}, found["taps"]


def environment(folder: Path, version: str) -> str:
    """An environment with this NumPy."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    packages = (f"numpy=={version}", "pillow", "safetensors", "huggingface_hub")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages, str(ROOT)], check=True)
    return python


def unlike(found: Mapping[str, str], known: Mapping[str, str]) -> list[str]:
    """The taps of a case that have other bits, or are on one side only."""
    return [name for name in {**known, **found} if found.get(name) != known.get(name)]


def differing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> int:
    """How many taps of all cases do."""
    return sum(len(unlike(taps, expected[case])) for case, taps in found.items())


def cost(case: Case) -> dict[str, Any]:
    """Largest difference from float64, over the largest value of the tap, and time over that of float32."""
    networks = {precision: case.make(precision) for precision in PRECISIONS}
    x = case.pixel_values()
    times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for _ in range(5):  # side by side, the best of five
        for precision, network in networks.items():
            start = time.perf_counter()
            network(x)
            times[precision].append(time.perf_counter() - start)
    best = {precision: min(values) for precision, values in times.items()}
    taps = {precision: network.taps(x) for precision, network in networks.items()}
    errors = {p: {name: relative(taps[p][name], value) for name, value in taps["float64"].items()} for p in PRECISIONS}
    row: dict[str, Any] = {"case": case.name, "shape": list(x.shape)}
    for precision in ("bitexact", "float32"):
        worst = max(errors[precision], key=errors[precision].__getitem__)
        row[precision] = {"worst_tap": worst, "error": errors[precision][worst],
                          "error_of_logits": errors[precision]["logits"]}  # fmt: skip
    row["bitexact_time_over_float32"] = best["bitexact"] / best["float32"]
    row["float64_time_over_float32"] = best["float64"] / best["float32"]
    return row


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("verify", "write", "study"))
    parser.add_argument("--only", default="", help="cases to verify or study, a regular expression")
    parser.add_argument("--numpy", action="append", default=[], metavar="VERSION", help="of a setting of the study")
    parser.add_argument("--output", type=Path, help="write the study there, as JSON")
    arguments = parser.parse_args()
    chosen = [case for case in cases() if re.search(arguments.only, case.name)]
    if not chosen or (arguments.only and arguments.command == "write"):
        parser.error(f"--only {arguments.only!r} leaves no case, or is for write, which has to write all of them")
    if arguments.command == "study":
        study(arguments.only, arguments.numpy, arguments.output)
    elif arguments.command == "verify":
        verify(chosen)
    else:
        write(list(cases()))


if __name__ == "__main__":
    main()
