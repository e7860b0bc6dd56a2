"""Measure a model with npmobilevit itself: accuracy on labelled pictures, and agreement with PyTorch.

    python tools/evaluate.py --data cifar10.tar.xz --torch      # the 10,000 test pictures of CIFAR-10
    python tools/evaluate.py --photos class_photos              # photographs, one folder a class
    python tools/evaluate.py --streets camvid.tar --torch       # the 233 test pictures of CamVid

A right answer is one whose highest score is the picture's label. ``--torch`` runs transformers on the same pixels
and lists every picture on which the two disagree, with the margin between the two best logits: below 1e-4 rounding
alone may decide. Photographs are few and unevenly spread, so their figure is the mean of the classes' shares.

Streets go through `segment`: whole pictures, logits resized to their size. Intersection over union is counted over the
whole set, void left out; ``mean_iou`` is its mean over the 11 classes. A pixel may go either way when its two best
resized logits differ by less than 1e-3, some hundred roundings: the others on which PyTorch disagrees are listed.

Only ``--torch`` needs torch and transformers.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import camvid
import numpy as np
from cifar10 import read_split
from numpy.typing import NDArray
from PIL import Image

import npmobilevit as nm

NEAR_TIE = 1e-4
NEAR_TIE_OF_PIXELS = 1e-3
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


def confusion(truth: NDArray[np.uint8], answer: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Pixels by class (rows) and answer (columns); those without a class are left out."""
    counted = truth != camvid.IGNORED
    pairs = truth[counted].astype(np.int64) * classes + answer[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def scores(counts: NDArray[np.int64], labels: list[str]) -> dict:
    """Mean over the classes of intersection / union, and the share of right pixels."""
    right = counts.diagonal()
    either = counts.sum(axis=0) + counts.sum(axis=1) - right
    iou = right / np.maximum(either, 1)  # 0 for a class that neither the labels nor the answers have
    return {
        "mean_iou": float(iou.mean()),
        "pixel_accuracy": float(right.sum() / counts.sum()),
        "per_class_iou": dict(zip(labels, iou.tolist(), strict=True)),
    }


def evaluate_streets(pipeline: nm.Pipeline, archive: Path, torch_model: object) -> dict:
    """Score `segment` on the test pictures, and compare every pixel with the torch model's when there is one."""
    labels = [pipeline.config.id2label[i] for i in range(pipeline.config.num_labels)]
    pictures, truths = camvid.read_split(archive, "test")
    ours, theirs = np.zeros((2, len(labels), len(labels)), np.int64)
    worst, differing, beyond_ties = 0.0, 0, []
    for i, (found, picture, truth) in enumerate(
        zip(pipeline.stream_segmentations(pictures), pictures, truths, strict=True)
    ):
        ours += confusion(truth, found.mask, len(labels))
        if torch_model is None:
            continue
        pixels = pipeline.processor(picture, do_center_crop=False, input_data_format="channels_last")["pixel_values"]
        logits = torch_logits(torch_model, pixels, truth.shape)[0]
        theirs += confusion(truth, logits.argmax(axis=0), len(labels))
        own = nm.ops.resize_bilinear(pipeline.network(pixels).logits, truth.shape)[0]
        worst = float(np.maximum(worst, np.abs(own - logits).max() / np.abs(logits).max()))
        differs = found.mask != logits.argmax(axis=0)
        second, first = np.sort(logits[:, differs], axis=0)[-2:]
        differing += int(differs.sum())
        beyond_ties += [{"picture": i, "margin": float(m)} for m in first - second if m >= NEAR_TIE_OF_PIXELS]
    report = {"model": pipeline.name, "pictures": len(pictures), **scores(ours, labels)}
    if torch_model is not None:
        report["torch"] = {
            **scores(theirs, labels),
            "largest_logit_error": worst,
            "differing_pixels": differing,
            "beyond_near_ties": beyond_ties,
        }
    return report


def load_torch_model(folder: Path) -> object:
    import torch
    import transformers

    (name,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    return getattr(transformers, name).from_pretrained(folder).to(torch.float32).eval()


def torch_logits(
    model: object, pixels: NDArray[np.float32], size: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Logits of the torch model; those of a segmenter are resized to `size`."""
    import torch

    with torch.no_grad():
        logits = model(pixel_values=torch.from_numpy(pixels)).logits
        if size is not None:
            logits = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits.numpy()


def read_photos(folder: Path, label2id: dict[str, int]) -> Iterator[tuple[Image.Image, int]]:
    for path in sorted(folder.glob("*/*.*")):
        yield Image.open(io.BytesIO(path.read_bytes())).convert("RGB"), label2id[path.parent.name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="shipped name or folder (default: the shipped one of the task)")
    pictures = parser.add_mutually_exclusive_group(required=True)
    pictures.add_argument("--data", type=Path, help="cifar10.tar.xz or the folder it unpacks to: its test pictures")
    pictures.add_argument("--photos", type=Path, help="a folder of photographs, <class>/*.jpg")
    pictures.add_argument("--streets", type=Path, help="camvid.tar: its test pictures")
    parser.add_argument("--torch", action="store_true", help="compare with transformers on the same pixels")
    parser.add_argument("--out", type=Path, help="also write the report to this JSON file")
    arguments = parser.parse_args()

    model = arguments.model or ("camvid-deeplabv3-xx-small" if arguments.streets else "cifar10-xx-small")
    pipeline = nm.load(model)
    torch_model = None
    if arguments.torch:
        from npmobilevit.checkpoints import find_checkpoint

        torch_model = load_torch_model(find_checkpoint(model).weights_path.parent)
    if arguments.streets:
        report = evaluate_streets(pipeline, arguments.streets, torch_model)
    else:
        report = evaluate_labelled(pipeline, arguments, torch_model)
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def evaluate_labelled(pipeline: nm.Pipeline, arguments: argparse.Namespace, torch_model: object) -> dict:
    """Read the pictures that the command line names, and evaluate a classifier on them."""
    if arguments.data:
        arrays, labels = read_split(arguments.data, "test")
        labelled = [(Image.fromarray(array), int(label)) for array, label in zip(arrays, labels, strict=True)]
    else:
        labelled = list(read_photos(arguments.photos, dict(pipeline.config.label2id)))
    return evaluate(pipeline, [p for p, _ in labelled], [label for _, label in labelled], torch_model)


if __name__ == "__main__":
    main()
