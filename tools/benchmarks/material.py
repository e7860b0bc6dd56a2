"""What the contestants of a case are given: weights, pixels, an ONNX file, and the logits of a witness."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from benchmarks.cases import NETWORKS, WITNESS, Case
from benchmarks.contest import command, environment
from seeded import random_weights

import npmobilevit as nm
from npmobilevit.cli.turns import Program

EXPORTER = Path(__file__).resolve().parents[1] / "backends" / "export_onnx.py"
CLASSES = {
    "classification": nm.MobileViTForImageClassification,
    "segmentation": nm.MobileViTForSemanticSegmentation,
}


def write_checkpoint(network: str, folder: Path) -> None:
    """A folder that transformers and npmobilevit load, with weights that keep the values of every layer near one."""
    task, settings = NETWORKS[network]
    config = nm.MobileViTConfig(**settings)
    folder.mkdir(parents=True, exist_ok=True)
    CLASSES[task](config, random_weights(config, task, dtype=np.float32)).save_pretrained(folder)
    nm.MobileViTImageProcessor(size=288, crop_size=256, resample=2).save_pretrained(folder)


def write_material(case: Case, folder: Path, *, onnx: bool) -> None:
    """Make what is not yet there."""
    if not (folder / "witness.npy").exists():
        write_checkpoint(case.network, folder)
        np.save(folder / "pixel_values.npy", np.random.default_rng(0).random(case.shape, np.float32))
        witness = command(WITNESS, folder, folder / "witness.npy")
        with Program(witness, environment(WITNESS.threads)):
            pass  # its first run leaves the logits
    if onnx and not (folder / "model.onnx").exists():
        shape = list(map(str, case.shape))
        out = folder / "model.onnx"
        options = ["--checkpoint", folder, "--shape", *shape, "--out", out, "--variant", "fused"]
        subprocess.run([sys.executable, EXPORTER, *options], env=environment(WITNESS.threads), check=True)
