"""Names of the classes of published checkpoints, for weights that come without them.

``imagenet_labels.txt`` next to this module holds those of ImageNet-1k, with their source and licence: taken from
timm (Apache License 2.0), the words from WordNet 3.0 (its licence stands in the file).
"""

from __future__ import annotations

import functools
from pathlib import Path

from npmobilevit.config import Head

_IMAGENET_FILE = Path(__file__).parent / "imagenet_labels.txt"

VOC_LABELS = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Classes of PASCAL VOC 2012, spelt as in the configs of Apple (ml-cvnets writes potted_plant and tv_monitor)."""


@functools.cache
def imagenet_labels() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k; "crane" is both 134, the bird, and 517, the machine."""
    lines = _IMAGENET_FILE.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def labels_for(num_labels: int, head: Head | None) -> dict[int, str] | None:
    """Names of the classes that a checkpoint with `num_labels` classes must be taken to have.

    Parameters
    ----------
    num_labels : int
    head : {"classification", "segmentation"} or None

    Returns
    -------
    dict of int to str, or None
        Those of ImageNet-1k for a classifier of 1000 classes, of PASCAL VOC for a segmenter of 21; None where no
        published checkpoint has that number.
    """
    if (head, num_labels) == ("classification", 1000):
        return dict(enumerate(imagenet_labels()))
    if (head, num_labels) == ("segmentation", len(VOC_LABELS)):
        return dict(enumerate(VOC_LABELS))
    return None
