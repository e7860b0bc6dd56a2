"""Judge real programs: make the environment of each backend, run it, check what it puts out, and write the table.

    python tools/judge_backends.py --environments ENVIRONMENTS --state backends.jsonl
    python tools/judge_backends.py --environments ENVIRONMENTS --state backends.jsonl --only "^onnxruntime-.*/256x256"
    python tools/judge_backends.py --environments ENVIRONMENTS --state backends.jsonl \
        --output reference/measured/backends.json          # writes the table of reference/backends.md too
    python tools/judge_backends.py --environments ENVIRONMENTS --state backends.jsonl --only "^npmobilevit-" \
        --output reference/measured/backends.json          # these rows anew; the others stay as they were recorded

Which backends there are is in backends/catalogue.py; each is given both shipped checkpoints, three pictures and three
sizes, the last of which is no whole number of patches. Environments are made in the folder ENVIRONMENTS when they are
not there, and may take some gigabytes. What is finished stands in the state file and is not done again. A backend that
cannot be had, or does not run, has its own words for why in the table, and is tried again the next time. This runs
where npmobilevit is installed, and needs nothing else. The tool fails if a backend does not run, or is wrong where no
finding says so.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import platform
import re
import shutil
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from backends.catalogue import BACKENDS, ENVIRONMENTS, Backend, Export
from marks import Marks
from numpy.typing import NDArray
from resumable import Json, perform_all, read_state
from safetensors import safe_open
from safetensors.numpy import save_file
from verdicts import digest

import npmobilevit as nm
from npmobilevit.checkpoints import find_checkpoint
from npmobilevit.cli.machine import processor
from npmobilevit.validation import check, record

ROOT = Path(__file__).resolve().parents[1]
RUNNERS = ROOT / "tools" / "backends"
IMAGES = ROOT / "reference" / "images"
PAGE = ROOT / "reference" / "backends.md"
MARKS = Marks("<!-- the table of tools/judge_backends.py -->", "<!-- end of the table -->")

CHECKPOINTS = {"cifar10-xx-small": "classification", "camvid-deeplabv3-xx-small": "segmentation"}
SMALLEST = (75, 101)
SIZES = ((256, 256), (128, 192), SMALLEST)
PICTURES = ("chelsea", "coffee", "street")
TIME_LIMIT = 1800  # seconds of one exporter or runner

# Our own network: readable, in the arithmetics that are no reference for itself, and the engine.
ENGINE = "engine"
OWN = tuple(
    Backend(f"npmobilevit-{name}", "fp32", description, ("npmobilevit", "numpy"), "", runner, variant)
    for name, description, runner, variant in (
        ("float32", "the readable network in float32", "float32", ""),
        ("bitexact", 'precision="bitexact"', "bitexact", ""),
        ("engine-threads", "the fast engine, in threads", ENGINE, "threads"),
        ("engine-processes", "the fast engine, in processes", ENGINE, "processes"),
    )
)
ALL = {backend.id: backend for backend in (*OWN, *BACKENDS)}


class Job(NamedTuple):
    """A backend on a checkpoint, with all pictures of one size."""

    backend: str
    checkpoint: str
    height: int
    width: int
    environments: Path

    @property
    def name(self) -> str:
        return f"{self.backend}/{self.checkpoint}/{self.height}x{self.width}"


def jobs(environments: Path) -> Iterator[Job]:
    for backend, checkpoint, size in itertools.product(ALL.values(), CHECKPOINTS, SIZES):
        if CHECKPOINTS[checkpoint] in backend.tasks and (size == SMALLEST or not backend.is_slow):
            yield Job(backend.id, checkpoint, *size, environments)


class NotToBeHad(Exception):
    """A backend that cannot be installed or run, with its own words."""


# Running ------------------------------------------------------------------------------------------------------------


def perform(job: Job) -> Json:
    """Run one backend on all pictures, check what it gives, and say what came of it."""
    start = time.perf_counter()
    backend = ALL[job.backend]
    result: Json = {"job": job.name, "backend": job.backend, "processor": processor()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            dumps = own(job, folder) if backend in OWN else foreign(job, folder)
        except NotToBeHad as error:
            return {**result, "not_run": str(error), "seconds": time.perf_counter() - start}
        result["versions"] = versions(next(iter(dumps.values())))
        result["pictures"] = {picture: judged(job, picture, dump) for picture, dump in dumps.items()}
    return {**result, "seconds": time.perf_counter() - start}


def judged(job: Job, picture: str, dump: Path) -> Json:
    """What the check says; a dump that cannot be judged is wrong."""
    try:
        report = check(
            dump, pipeline(job.checkpoint), pixel_values=pixel_values(job, picture), profile=ALL[job.backend].profile
        )
    except nm.NpMobileViTError as error:
        return {"verdict": "fail", "behaves_as": None, "alarms": [f"dump: {error}"], "unusual": [], "judgements": 0,
                "largest_ratio": 0.0}  # fmt: skip
    return digest(report)


@functools.lru_cache
def pipeline(checkpoint: str) -> nm.Pipeline:
    return nm.load(checkpoint)


def pixel_values(job: Job, picture: str) -> NDArray[np.float32]:
    """A picture in the size of a job, (1, 3, H, W): its shortest edge resized to the longer side, then cut."""
    pixels: NDArray[np.float32] = pipeline(job.checkpoint).processor.preprocess(
        IMAGES / f"{picture}.png",
        do_resize=True,
        size={"shortest_edge": max(job.height, job.width)},
        do_center_crop=True,
        crop_size={"height": job.height, "width": job.width},
    )["pixel_values"]
    return pixels


def own(job: Job, folder: Path) -> dict[str, Path]:
    """What our own network gives, in files as those of the others."""
    backend = ALL[job.backend]
    files = {picture: folder / f"{picture}.safetensors" for picture in PICTURES}
    if backend.runner == ENGINE:
        dump_engine(job, files, backend.variant)
    else:
        network = nm.load(job.checkpoint, precision=backend.runner)
        for picture, file in files.items():
            record(network, pixel_values(job, picture)).save(file)
    return files


def dump_engine(job: Job, files: Mapping[str, Path], workers: Any) -> None:
    """Write what the engine gives, if those share its work that the row is of."""
    with contextlib.closing(nm.load(job.checkpoint, engine="fast", workers=workers)) as loaded:
        plan = loaded.network.plan(job.height, job.width)
        if plan.engine != "fast" or not plan.workers.endswith(workers):
            raise NotToBeHad(str(plan))
        made_by = {"npmobilevit": nm.__version__, "numpy": np.__version__, "python": platform.python_version()}
        for picture, file in files.items():
            taps = loaded.network.engine_taps(pixel_values(job, picture))
            tensors = {tap: np.ascontiguousarray(value) for tap, value in taps.items()}
            save_file(tensors, file, {**made_by, "workers": plan.workers})


def foreign(job: Job, folder: Path) -> dict[str, Path]:
    """Run a backend in its environment; the files that it wrote, by picture."""
    backend = ALL[job.backend]
    inputs = []
    for picture in PICTURES:
        inputs.append(folder / f"{picture}.npy")
        np.save(inputs[-1], pixel_values(job, picture))
    checkpoint = find_checkpoint(job.checkpoint).weights_path.parent
    command = [RUNNERS / backend.runner, "--checkpoint", checkpoint, "--pixels", *inputs, "--out", folder / "out"]
    command += ["--variant", backend.variant] if backend.variant else []
    command += ["--model", exported(job, backend.export)] if backend.export else []
    run_in(backend.environment, job.environments, command)
    return {picture: folder / "out" / f"{picture}.safetensors" for picture in PICTURES}


def exported(job: Job, export: Export) -> Path:
    """The file that an exporter makes of the checkpoint for the size, if it is not there; others may lie beside it."""
    size = f"{job.height}x{job.width}"
    folder = job.environments / "exported" / "-".join((Path(export.script).stem, export.variant, job.checkpoint, size))
    name = f"model{export.suffix}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{job.backend}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        checkpoint = find_checkpoint(job.checkpoint).weights_path.parent
        shape = ["--shape", "1", "3", str(job.height), str(job.width)]
        command = [RUNNERS / export.script, "--checkpoint", checkpoint, *shape, "--out", partial / name]
        run_in(export.environment, job.environments, [*command, "--variant", export.variant])
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # no other job has made it meanwhile
                raise
            shutil.rmtree(partial)
    return folder / name


def run_in(environment: str, folder: Path, command: list[Any]) -> None:
    """Run a script with the Python of an environment."""
    python = folder / environment / "bin" / "python"
    if not python.exists():
        raise NotToBeHad((folder / f"{environment}.failed").read_text(encoding="utf-8"))
    run([python, *command])


def run(command: list[Any]) -> None:
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise NotToBeHad(f"{Path(command[1]).name} took longer than {TIME_LIMIT} s") from error
    if done.returncode:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")]  # pip goes on after it
        told = (errors or said or [f"ended with code {done.returncode}"])[-1]
        raise NotToBeHad(told[:300])


def make(environment: str, folder: Path) -> None:
    """Make an environment, or make it anew when it shall hold something else; if that fails, leave a note of what pip
    said."""
    place, note = folder / environment, folder / f"{environment}.failed"
    finished, contents = place / "finished", "\n".join(ENVIRONMENTS[environment])
    if finished.exists() and finished.read_text(encoding="utf-8") == contents:
        return
    note.unlink(missing_ok=True)
    print(f"making the environment {environment}", flush=True)
    venv.create(place, with_pip=True, clear=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        for requirement in ENVIRONMENTS[environment]:
            options = ["--no-deps"] if requirement.startswith("-n ") else []
            name = requirement.removeprefix("-n ")
            run([*pip, *options, name])
    except NotToBeHad as error:
        note.write_text(str(error), encoding="utf-8")
        (place / "bin" / "python").unlink()
        print(f"    {error}", flush=True)
    else:
        finished.write_text(contents, encoding="utf-8")


def versions(dump: Path) -> dict[str, str]:
    with safe_open(dump, "np") as file:
        made_by: dict[str, str] = file.metadata()
    return json.loads(made_by["versions"]) if "versions" in made_by else made_by  # in our own bundles they are JSON


# The table ----------------------------------------------------------------------------------------------------------


def summary(results: Mapping[str, Json]) -> list[Json]:
    """One row a backend."""
    rows = []
    for backend in ALL.values():
        done = [result for result in results.values() if result["backend"] == backend.id]
        checks = [check for result in done for check in result.get("pictures", {}).values()]
        row: Json = {"backend": backend.id, "profile": backend.profile, "description": backend.description}
        row["finding"] = backend.finding.name if backend.finding else ""
        reasons = sorted({result["not_run"] for result in done if "not_run" in result})
        row |= {"jobs": len(done), "not_run": reasons, "checks": len(checks)}
        if checks:
            row |= {
                "processor": next(result["processor"] for result in done if "versions" in result),
                "versions": next(result["versions"] for result in done if "versions" in result),
                "verdicts": {v: sum(c["verdict"] == v for c in checks) for v in ("pass", "screened", "fail")},
                "judgements": sum(c["judgements"] for c in checks),
                "unusual": sum(len(c["unusual"]) for c in checks),
                "largest_ratio": max(c["largest_ratio"] for c in checks),
                "behaves_as": sorted({str(c["behaves_as"]) for c in checks}),
                "alarms": sorted({alarm for c in checks for alarm in c["alarms"]}),
            }
            row["false_alarms"] = [alarm for alarm in row["alarms"] if not is_known(backend, alarm)]
        if done:
            rows.append(row)
    return rows


def is_known(backend: Backend, alarm: str) -> bool:
    """Whether an alarm is at a tap where a finding says that the backend is wrong."""
    return backend.finding is not None and re.search(backend.finding.taps, alarm.partition(": ")[0]) is not None


def table(rows: list[Json]) -> str:
    """The rows in Markdown."""
    lines = [
        "| backend | versions | profile | pass | screened | fail | regions judged | largest error, of its tolerance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = f"; finding: {row['finding']}" if row["finding"] else ""
        cells = [f"`{row['backend']}`: {row['description']}{found}"]
        if row["checks"]:
            packages = ALL[row["backend"]].packages
            named = ", ".join(f"{name} {row['versions'][name]}" for name in packages)
            counts = [str(row["verdicts"][verdict]) for verdict in ("pass", "screened", "fail")]
            cells += [named, row["profile"], *counts, f"{row['judgements']:,}", f"{row['largest_ratio']:.2g}"]
            cells[-1] += f"; not all were run: {'; '.join(row['not_run'])}" if row["not_run"] else ""
        else:
            cells += ["", row["profile"], "", "", "", "", f"not run: {'; '.join(row['not_run'])}"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def write(path: Path, rows: list[Json]) -> None:
    """Write these rows in the place of those of the same backends; the others stay as they were recorded."""
    recorded = json.loads(path.read_text(encoding="utf-8"))["backends"] if path.exists() else []
    found = {row["backend"]: row for row in (*recorded, *rows)}
    merged = [found[name] for name in ALL if name in found]
    path.write_text(json.dumps({"backends": merged}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    PAGE.write_text(MARKS.filled(PAGE.read_text(encoding="utf-8"), table(merged)), encoding="utf-8")


def torn_backends(planned: list[Job]) -> list[str]:
    """The backends of which some jobs are planned, and others are not."""
    names = {job.name for job in planned}
    left_out = {job.backend for job in jobs(Path()) if job.name not in names}
    return sorted({job.backend for job in planned} & left_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder of the environments")
    parser.add_argument("--state", type=Path, required=True, help="file of finished jobs")
    parser.add_argument("--only", default="", help="regular expression: backend/checkpoint/size")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the rows there, as JSON, and the table into its page")
    arguments = parser.parse_args()
    folder = arguments.environments.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    planned = [job for job in jobs(folder) if re.search(arguments.only, job.name)]
    if arguments.output and (torn := torn_backends(planned)):
        parser.error(f"--output takes backends as a whole, and --only leaves out some jobs of {', '.join(torn)}")
    finished = {name: done for name, done in read_state(arguments.state, "job").items() if "not_run" not in done}
    todo = [job for job in planned if job.name not in finished]
    print(f"{len(planned)} jobs, {len(planned) - len(todo)} of them finished", flush=True)
    for environment in dict.fromkeys(needed(todo)):
        make(environment, folder)
    for i, result in enumerate(perform_all(perform, todo, arguments.workers, arguments.state), start=1):
        finished[result["job"]] = result
        told = [check["verdict"] for check in result.get("pictures", {}).values()] or [result["not_run"]]
        print(f"{i}/{len(todo)} {result['seconds']:5.0f} s {result['job']}: {', '.join(told)}", flush=True)
    rows = summary({job.name: finished[job.name] for job in planned})
    print(table(rows))
    if arguments.output:
        write(arguments.output, rows)
    wrong = [row["backend"] for row in rows if row["not_run"] or row.get("false_alarms")]
    if wrong:
        raise SystemExit(f"error: not run, or wrong where no finding says so: {', '.join(wrong)}")


def needed(todo: list[Job]) -> Iterator[str]:
    """The environments of these jobs."""
    for backend in (ALL[job.backend] for job in todo):
        if backend not in OWN:
            yield from (backend.environment, *([backend.export.environment] if backend.export else []))


if __name__ == "__main__":
    main()
