"""The tool that compares published checkpoints with published logits, on made-up checkpoints: it needs the internet."""

from types import SimpleNamespace

import check_published as tool
import numpy as np
import pytest

from npmobilevit import CheckpointError, Prediction
from npmobilevit.checkpoints.catalogue import CATALOGUE


def pipeline(logits, score=0.5, index=3):
    """Answers as the network would, whatever the picture."""
    return SimpleNamespace(
        pixel_values=lambda picture: picture,
        network=lambda pixels: SimpleNamespace(logits=logits[None]),
        predict=lambda picture, top_k: [Prediction("cat", score, index)],
    )


def answer(name):
    """Logits of the network's own shape that begin with what was published."""
    expected = tool.expected_logits(name)
    logits = np.zeros((1000,) if expected.ndim == 1 else (21, 32, 32))
    logits[tuple(slice(0, 3) for _ in expected.shape)] = expected
    return logits


def test_every_entry_has_something_to_be_compared_with():
    published = {entry.name for entry in CATALOGUE if not entry.shipped}
    assert published == {*tool.CLASSIFIERS, *tool.SEGMENTERS, *tool.TIMM}
    assert set(tool.TIMM.values()) <= set(tool.CLASSIFIERS)


@pytest.mark.parametrize("name", [*tool.CLASSIFIERS, *tool.SEGMENTERS])
def test_right_logits_agree_and_wrong_ones_do_not(name):
    right = answer(name)
    found, allowed = tool.difference(name, "picture", lambda _: pipeline(right))
    assert found == 0
    for wrong in (right + 2 * allowed, right[::-1], right.T + 0.01):
        assert tool.difference(name, "picture", lambda _, wrong=wrong: pipeline(wrong))[0] > allowed


def test_timms_are_compared_with_apples():
    answers = {"timm/mobilevit_s.cvnets_in1k": pipeline(None, 0.50), "apple/mobilevit-small": pipeline(None, 0.52)}
    found, allowed = tool.difference("timm/mobilevit_s.cvnets_in1k", "picture", answers.__getitem__)
    assert found == pytest.approx(0.02)
    assert found < allowed
    answers["apple/mobilevit-small"] = pipeline(None, 0.50, index=4)
    assert tool.difference("timm/mobilevit_s.cvnets_in1k", "picture", answers.__getitem__)[0] == np.inf


def test_what_cannot_be_had_is_said_and_counts(monkeypatch, capsys, tmp_path):
    def refuse(*arguments):
        raise CheckpointError("no network here", "hub-offline")

    monkeypatch.setattr(tool, "difference", refuse)
    monkeypatch.setattr("sys.argv", ["check_published.py", "--picture", str(tmp_path / "cats.jpg")])
    assert tool.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all(line.startswith("not tried") for line in lines)
