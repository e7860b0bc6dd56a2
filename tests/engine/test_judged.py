"""The suite that judges foreign backends judges the engine, too: and it sees when a part of it is broken."""

from typing import Any

import networks
import numpy as np
import pytest
from networks import pixels

import npmobilevit as nm
from npmobilevit.engine import blas, folding, kernels
from npmobilevit.engine.program import Program
from npmobilevit.validation import Report, check, checking


def judged(model: Any, x: np.ndarray) -> Report:
    taps = model.engine_taps(x)
    with blas.single_thread():  # the check's products are small
        return check(taps, model, pixel_values=x)


def fast(head: Any = "classification") -> Any:
    return networks.make_model(head, precision="float32", engine="fast")


@pytest.mark.parametrize("size", [(32, 64), (47, 65)])
@pytest.mark.parametrize("head", networks.MODELS)
def test_the_engine_passes_under_fp32(head, size):
    model, x = fast(head), pixels(1, 3, *size, dtype=np.float32)
    report = judged(model, x)
    assert report.passed
    assert report.profile == "fp32"
    assert report.findings == ()
    taps = list(model.engine_taps(x))
    assert [judgement.tap for judgement in report.judgements] == taps
    model.close()


@pytest.mark.parametrize("name", ["cifar10-xx-small", "camvid-deeplabv3-xx-small"])
def test_the_engine_passes_with_the_shipped_weights(name):
    network = nm.load(name).network
    assert network.engine == "fast"
    report = judged(network, pixels(1, 3, 32, 64, dtype=np.float32))
    assert report.passed
    assert report.findings == ()
    network.close()


normalize = kernels.normalize


def a_hundredth_too_large(program: Program, tokens: kernels.Tokens, eps: float) -> None:
    normalize(program, tokens, eps)
    program.call(np.multiply, tokens.normed[:-1], np.float32(1.01), tokens.normed[:-1])


# what is broken: (module, name, what takes its place)
BROKEN: dict[str, tuple[Any, str, Any]] = {
    "the eps of batch normalisation": (folding, "BATCH_NORM_EPS", 1e-3),
    "layer normalisation": (kernels, "normalize", a_hundredth_too_large),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_suite_sees_when_something_is_broken(what, monkeypatch):
    module, name, replacement = BROKEN[what]
    monkeypatch.setattr(module, name, replacement)
    monkeypatch.setattr(checking, "diagnosed", lambda trial, _pixel_values: trial.findings)  # its name is not asked for
    model, x = fast(), pixels(1, 3, 33, 48, dtype=np.float32)
    assert not judged(model, x).passed
    model.close()
