"""The networks of the paper at full size, by everyone who may share the work."""

import networks
import numpy as np
import pytest
from seeded import random_weights

from npmobilevit.config import MobileViTConfig
from npmobilevit.engine import blas

SEGMENTER = {**networks.VARIANTS["xxs"], "output_stride": 16, "num_labels": 21}
# head, settings, height and width
CASES = {
    **{name: ("classification", {**v, "num_labels": 1000}, (256, 256)) for name, v in networks.VARIANTS.items()},
    "xxs segmenting": ("segmentation", SEGMENTER, (512, 512)),
    "xxs segmenting, sizes that are no whole patches": ("segmentation", SEGMENTER, (250, 357)),
}
TOLERANCE = 2e-6  # of the logits, over the largest of them


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_float64(case, monkeypatch):
    head, settings, size = CASES[case]
    config = MobileViTConfig(**settings)
    weights = random_weights(config, head, dtype=np.float32)
    x = networks.pixels(1, 3, *size, dtype=np.float32)
    with blas.single_thread():  # the readable network's products are small
        expected = networks.MODELS[head](config, weights, precision="float64")(x).logits
    for workers, threads in (("threads", 1), ("threads", 2), ("processes", 2)):
        monkeypatch.setattr(blas, "threads", lambda threads=threads: threads)
        with networks.MODELS[head](config, weights, engine="fast", workers=workers) as model:
            logits = model(x).logits
        assert logits.dtype == np.float32
        error = np.abs(logits - expected).max() / np.abs(expected).max()
        assert error < TOLERANCE, f"{error:.1e} by {threads} {workers}"
