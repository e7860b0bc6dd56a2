"""Hold tools/convert_tf.py against the TensorFlow classes of transformers themselves.

    python tools/check_tf.py --out reference/measured/tensorflow.json

Networks of random weights are made in PyTorch, loaded by the TensorFlow classes, saved as tf_model.h5 and converted.
All tensors must come back bit by bit, and the logits of npmobilevit must be TensorFlow's. The report holds the
largest difference over the largest logit; the tool fails if one is beyond the limit.

The TensorFlow classes ended with transformers 4, so this needs an environment of its own, with Python 3.11:

    pip install tensorflow-cpu==2.19.1 tf-keras==2.19.0 transformers==4.57.6 torch==2.13.0
    pip install --no-deps .
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before the import: the classes are written for Keras 2
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import convert_tf
import h5py
import numpy as np
import tensorflow as tf
import tf_keras
import torch
import transformers
from numpy.typing import NDArray
from scaled_weights import scale_weights

import npmobilevit as nm
from npmobilevit.checkpoints import WEIGHTS, read_safetensors

LIMIT = 1e-5

XX_SMALL = {
    "hidden_sizes": [64, 80, 96],
    "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320],
    "expand_ratio": 2.0,
}
TINY = {
    "hidden_sizes": [8, 12, 16],
    "neck_hidden_sizes": [4, 6, 8, 10, 12, 14, 20],
    "expand_ratio": 2.0,
    "aspp_out_channels": 9,
    "atrous_rates": [1, 2, 3],
    "num_labels": 5,
}


class Case(NamedTuple):
    """A network, and the (height, width) of the pictures it is given."""

    name: str
    head: str
    config: dict[str, Any]
    sizes: tuple[tuple[int, int], ...]


CASES = (
    Case("tiny", "ImageClassification", TINY, ((64, 64), (50, 75))),
    Case("xx-small", "ImageClassification", {**XX_SMALL, "num_labels": 1000}, ((256, 256), (200, 232))),
    Case("tiny", "SemanticSegmentation", {**TINY, "output_stride": 16}, ((64, 64), (50, 75))),
    Case("xx-small", "SemanticSegmentation", {**XX_SMALL, "output_stride": 16, "num_labels": 21}, ((512, 512),)),
)


def random_model(case: Case) -> torch.nn.Module:
    """A network of transformers with well-scaled weights: the logits of fresh ones are near 1e-40."""
    kind = getattr(transformers, f"MobileViTFor{case.head}")
    model = kind(transformers.MobileViTConfig(**case.config)).eval()
    scale_weights(model)
    return model


def check(case: Case, folder: Path) -> dict[str, Any]:
    """Take one network all the way round, and say how it fared."""
    model = random_model(case)
    model.save_pretrained(folder / "torch")
    kind = getattr(transformers, f"TFMobileViTFor{case.head}")
    tensorflow_model = kind.from_pretrained(folder / "torch", from_pt=True)
    tensorflow_model.save_pretrained(folder / "tensorflow")
    convert_tf.convert(folder / "tensorflow", folder / "converted")
    ours = getattr(nm, f"MobileViTFor{case.head}").from_pretrained(folder / "converted")

    # TensorFlow has no counters of the batches a normalisation was trained on.
    original = {n: v.numpy() for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    converted = {n: v for n, v in read_safetensors(folder / "converted" / WEIGHTS).items() if "num_batches" not in n}
    return {
        "network": case.name,
        "head": case.head,
        "variables": len(convert_tf.read_variables(folder / "tensorflow" / convert_tf.SOURCE_FILE)),
        "tensors": len(original),
        "tensors_bit_equal": sum(same_bits(converted.get(n), values) for n, values in original.items()),
        "tensors_added": sorted(converted.keys() - original.keys()),
        "logits": [compare(ours, tensorflow_model, size) for size in case.sizes],
    }


def same_bits(found: NDArray[Any] | None, expected: NDArray[Any]) -> bool:
    if found is None or (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    return found.tobytes() == expected.tobytes()


def compare(ours: Any, tensorflow_model: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Compare the logits of two pictures of this size."""
    pixels = np.random.default_rng(size).random((2, 3, *size), np.float32)
    expected = tensorflow_model(pixels, training=False).logits.numpy()
    found = ours(pixels).logits
    assert found.shape == expected.shape, (found.shape, expected.shape)
    largest = float(np.abs(expected).max())
    return {
        "size": list(size),
        "largest_logit": largest,
        "largest_error": float(np.abs(found - expected).max()) / largest,
        "same_argmax": float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
    }


def failures(report: dict[str, Any]) -> list[str]:
    """What in one case's report is not as it must be."""
    found = []
    if report["tensors_bit_equal"] != report["tensors"] or report["tensors"] != report["variables"]:
        found.append("not all tensors came back bit by bit")
    if report["tensors_added"]:
        found.append("there are more tensors than before")
    for logits in report["logits"]:
        if not logits["largest_error"] < LIMIT or logits["largest_logit"] < 1e-3:  # NaN fails too
            found.append(f"logits at {logits['size']} differ by {logits['largest_error']}")
    return [f"{report['network']} {report['head']}: {text}" for text in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the report there, as JSON")
    arguments = parser.parse_args()
    modules = (tf, tf_keras, transformers, torch, np, h5py)
    versions = {"python": platform.python_version(), **{m.__name__: m.__version__ for m in modules}}
    cases = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            cases.append(check(case, Path(folder)))
    report = {"versions": versions, "limit": LIMIT, "cases": cases}
    text = json.dumps(report, indent=2) + "\n"
    print(text, end="")
    wrong = [text for case in cases for text in failures(case)]
    if wrong:
        raise SystemExit("error: " + "; ".join(wrong))
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
