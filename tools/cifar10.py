"""Read CIFAR-10 from the archive of JPEGs, or from the folder it unpacks to."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def read_split(data: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the pictures of ``<split>/<class>/*.jpg`` in the order of their sorted paths.

    Parameters
    ----------
    data : Path
        ``cifar10.tar.xz``, or a folder that holds the splits.
    split : {"train", "test"}

    Returns
    -------
    pictures : (N, 32, 32, 3) uint8 array, RGB
    labels : (N,) int64 array, indices of LABELS
    """
    if data.is_dir():
        files = {str(path.relative_to(data)): path.read_bytes() for path in data.glob(f"{split}/*/*.jpg")}
    else:
        with tarfile.open(data) as archive:
            members = [m for m in archive if m.isfile() and f"{split}/" in m.name and m.name.endswith(".jpg")]
            files = {m.name: archive.extractfile(m).read() for m in members}
    names = sorted(files)
    if not names:
        raise SystemExit(f"error: {data} holds no {split}/<class>/*.jpg")
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(files[name])).convert("RGB")) for name in names])
    return pictures, np.array([LABELS.index(Path(name).parent.name) for name in names])
