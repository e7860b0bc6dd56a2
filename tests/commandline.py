"""The command line under test: in this process where that will do, and in one of its own where it matters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from npmobilevit import cli

ROOT = Path(__file__).parents[1]
CHELSEA = str(ROOT / "reference" / "images" / "chelsea.png")
SHIPPED = ["--model", "cifar10-xx-small"]


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    code = cli.main([os.fspath(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys, *arguments):
    """Exit code and document of a command."""
    code, out, _ = run(capsys, *arguments, "--json")
    return code, json.loads(out)


def run_lines(capsys, *arguments):
    """Exit code and objects of a command."""
    code, out, _ = run(capsys, *arguments, "--jsonl")
    return code, [json.loads(line) for line in out.splitlines()]


def process(*arguments, **options):
    """A command as a process of its own."""
    return subprocess.run([sys.executable, "-m", "npmobilevit", *arguments], timeout=60, capture_output=True, **options)


def write_picture(path, *, seed=0):
    """A small PNG of noise; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def names(results):
    """Inputs of the results, in their order."""
    return [result["input"] for result in results]


def codes(results):
    """Error codes of the results; None for one that is good."""
    return [result.get("error", {}).get("code") for result in results]


def files_below(folder):
    """Relative names of all files, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if not path.is_dir())
