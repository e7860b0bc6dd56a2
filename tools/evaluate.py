"""Measure a classifier with npmobilevit itself: accuracy on labelled pictures, and agreement with PyTorch.

    python tools/evaluate.py --data cifar10.tar.xz --torch      # the 10,000 test pictures of CIFAR-10
    python tools/evaluate.py --photos class_photos              # photographs, one folder a class

A right answer is one whose highest score is the picture's label. ``--torch`` runs transformers on the same pixels
and lists every picture on which the two disagree, with the margin between the two best logits: below 1e-4 rounding
alone may decide. Photographs are few and unevenly spread, so their figure is the mean of the classes' shares.

Only ``--torch`` needs torch and transformers.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cifar10 import read_split
from numpy.typing import NDArray
from PIL import Image

import npmobilevit as nm

NEAR_TIE = 1e-4
BATCH = 100


def evaluate(pipeline: nm.Pipeline, pictures: list[Image.Image], labels: list[int], torch_model: object) -> dict:
    """Count right answers, and compare with the torch model on the same pixels when there is one."""
    answers: list[int] = []
    disagreements = []
    worst = 0.0
    torch_right = 0
    for start in range(0, len(pictures), BATCH):
        pixels = np.concatenate([pipeline.pixel_values(picture) for picture in pictures[start : start + BATCH]])
        logits = pipeline.network(pixels).logits
        answers += logits.argmax(axis=1).tolist()
        if torch_model is None:
            continue
        theirs = torch_logits(torch_model, pixels)
        worst = float(np.maximum(worst, np.abs(theirs - logits).max() / np.abs(theirs).max()))  # NaN stays NaN
        torch_right += int((theirs.argmax(axis=1) == labels[start : start + BATCH]).sum())
        for i in np.flatnonzero(theirs.argmax(axis=1) != logits.argmax(axis=1)):
            second, first = np.sort(logits[i])[-2:]
            disagreements.append({"picture": start + int(i), "margin": float(first - second)})
    right = np.array(answers) == np.array(labels)
    per_class = {
        pipeline.config.id2label[label]: float(right[np.array(labels) == label].mean()) for label in sorted(set(labels))
    }
    report = {
        "model": pipeline.name,
        "pictures": len(pictures),
        "right": int(right.sum()),
        "accuracy": float(right.mean()),
        "mean_over_classes": float(np.mean(list(per_class.values()))),
        "per_class": per_class,
    }
    if torch_model is not None:
        report["torch"] = {
            "right": torch_right,
            "largest_logit_error": worst,
            "disagreements": disagreements,
            "all_near_ties": all(d["margin"] < NEAR_TIE for d in disagreements),
        }
    return report


def load_torch_model(folder: Path) -> object:
    import torch
    from transformers import MobileViTForImageClassification

    return MobileViTForImageClassification.from_pretrained(folder).to(torch.float32).eval()


def torch_logits(model: object, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        return model(pixel_values=torch.from_numpy(pixels)).logits.numpy()


def read_photos(folder: Path, label2id: dict[str, int]) -> Iterator[tuple[Image.Image, int]]:
    for path in sorted(folder.glob("*/*.*")):
        yield Image.open(io.BytesIO(path.read_bytes())).convert("RGB"), label2id[path.parent.name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10-xx-small", help="shipped name or folder (default: %(default)s)")
    pictures = parser.add_mutually_exclusive_group(required=True)
    pictures.add_argument("--data", type=Path, help="cifar10.tar.xz or the folder it unpacks to: its test pictures")
    pictures.add_argument("--photos", type=Path, help="a folder of photographs, <class>/*.jpg")
    parser.add_argument("--torch", action="store_true", help="compare with transformers on the same pixels")
    parser.add_argument("--out", type=Path, help="also write the report to this JSON file")
    arguments = parser.parse_args()

    pipeline = nm.load(arguments.model)
    if arguments.data:
        arrays, labels = read_split(arguments.data, "test")
        labelled = [(Image.fromarray(array), int(label)) for array, label in zip(arrays, labels, strict=True)]
    else:
        labelled = list(read_photos(arguments.photos, dict(pipeline.config.label2id)))
    torch_model = None
    if arguments.torch:
        from npmobilevit.checkpoints import find_checkpoint

        torch_model = load_torch_model(find_checkpoint(arguments.model).config_path.parent)
    report = evaluate(pipeline, [p for p, _ in labelled], [label for _, label in labelled], torch_model)
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
