"""Read CamVid in the split of SegNet from the archive of pictures and label maps."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LABELS = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
IGNORED = 255


def read_split(archive: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return ``<split>/images/*.jpg`` and their ``<split>/labels/*.png`` in the order of their names.

    Parameters
    ----------
    archive : Path
        ``camvid.tar``.
    split : {"train", "val", "test"}

    Returns
    -------
    pictures : (N, 360, 480, 3) uint8 array, RGB
    labels : (N, 360, 480) uint8 array, indices of LABELS, or IGNORED
    """
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile() and member.name.startswith(f"{split}/")]
        files = {member.name: tar.extractfile(member).read() for member in members}
    names = sorted(Path(name).stem for name in files if name.startswith(f"{split}/images/"))
    if not names:
        raise SystemExit(f"error: {archive} holds no {split}/images/*.jpg")
    pictures = np.stack([_pixels(files[f"{split}/images/{name}.jpg"]) for name in names])
    labels = np.stack([_pixels(files[f"{split}/labels/{name}.png"]) for name in names])
    return pictures, np.where(labels == len(LABELS), np.uint8(IGNORED), labels)  # the index after the last: void


def _pixels(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(file)))
