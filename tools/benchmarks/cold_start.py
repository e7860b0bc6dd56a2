"""A whole process, from a JPEG to a label: transformers and npmobilevit in turn."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contest import environment
from PIL import Image
from resumable import Json

from npmobilevit.cli.turns import PAUSE

PICTURE = Path(__file__).resolve().parents[2] / "reference" / "images" / "chelsea.png"
SIZE = (640, 480)
ROUNDS = 7

PROGRAMS = {
    "transformers": """
import sys, torch
from PIL import Image
from transformers import AutoImageProcessor, MobileViTForImageClassification
folder, picture = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(folder)
model = MobileViTForImageClassification.from_pretrained(folder)
with torch.inference_mode():
    logits = model(**processor(Image.open(picture), return_tensors="pt")).logits
print(model.config.id2label[int(logits.argmax())])
""",
    "npmobilevit": """
import sys
import npmobilevit as nm
folder, picture = sys.argv[1:]
print(nm.load(folder).predict(picture)[0].label)
""",
}
MEMORY = """
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def start(name: str, checkpoint: Path, picture: Path) -> tuple[float, float, str]:
    """Seconds, peak memory in MiB and label of one process."""
    command = [sys.executable, "-c", PROGRAMS[name] + MEMORY, str(checkpoint), str(picture)]
    surroundings = environment(None)
    surroundings.pop("PYTHONDONTWRITEBYTECODE", None)  # what pip installs is compiled, and so is ours after one start
    begin = time.perf_counter()
    done = subprocess.run(command, env=surroundings, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - begin
    label, memory = done.stdout.split()
    return seconds, int(memory) / 1024, label


def measure(checkpoint: Path) -> Json:
    """Start both in turn, after each was started once; they have to give the same label."""
    picture = checkpoint / "picture.jpg"
    with Image.open(PICTURE) as image:
        image.convert("RGB").resize(SIZE).save(picture)
    found: dict[str, Json] = {name: {"seconds": [], "peak_mib": []} for name in PROGRAMS}
    labels = {start(name, checkpoint, picture)[2] for name in PROGRAMS}
    if len(labels) > 1:
        raise SystemExit(f"error: the labels of a cold start differ: {', '.join(sorted(labels))}")
    for _ in range(ROUNDS):
        for name, result in found.items():
            seconds, memory, _ = start(name, checkpoint, picture)
            result["seconds"].append(float(f"{seconds:.5g}"))
            result["peak_mib"].append(round(memory, 1))
            time.sleep(PAUSE)
    return {"rounds": ROUNDS, "programs": found}
