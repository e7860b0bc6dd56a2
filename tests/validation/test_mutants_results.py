"""The catalogue of mistakes after the logits: each, made without the code under test, is named."""

import numpy as np
import pytest

from npmobilevit import MobileViTConfig
from npmobilevit.validation.mutants.mutant import MODES
from npmobilevit.validation.mutants.results import RESULT_MUTANTS
from npmobilevit.validation.profiles import PROFILES
from npmobilevit.validation.surroundings import judge_labels, judge_mask, judge_probabilities

FP32 = PROFILES["fp32"]
SIZE = (45, 70)
LOGITS = np.random.default_rng(3).normal(0, 4, (3, 7))
MAPS = np.random.default_rng(8).normal(0, 3, (2, 5, 8, 11))


def config(**settings):
    return MobileViTConfig(id2label={i: f"class {i}" for i in range(7)}, num_labels=None, **settings)


SEVERAL = config(problem_type="multi_label_classification")


def softmax(s):
    return np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)


def sigmoid(s):
    return 1 / (1 + np.exp(-s))


def axis_weights(length, position):
    """The matrix of a blend of neighbours at some positions, the border repeated."""
    matrix = np.zeros((len(position), length))
    for i, at in enumerate(position):
        for j in (int(np.floor(at)), int(np.floor(at)) + 1):
            matrix[i, min(max(j, 0), length - 1)] += 1 - abs(at - j)
    return matrix


def resize(maps, size=SIZE, position=lambda i, n, out: (i + 0.5) * n / out - 0.5):
    rows, columns = (
        axis_weights(n, position(np.arange(out), n, out)) for n, out in zip(maps.shape[2:], size, strict=True)
    )
    return np.einsum("yh,nkhw,xw->nkyx", rows, maps, columns)


def nearest(labels, origin):
    rows, columns = (
        ((np.arange(out) + origin) * n / out).astype(int) for n, out in zip(labels.shape[1:], SIZE, strict=True)
    )
    return labels[:, rows][:, :, columns]


def mask_of(maps, *arguments):
    return resize(maps, *arguments).argmax(axis=1)


def misread(maps):
    """(K, h, w) in memory, read as (h, w, K)."""
    n, k, h, w = maps.shape
    return maps.reshape(n, h, w, k).transpose(0, 3, 1, 2)


SCORES = [
    ("HED-04-twice", config(), lambda s: softmax(softmax(s))),
    ("HED-04-twice", SEVERAL, lambda s: sigmoid(sigmoid(s.astype(np.float32)))),
    ("HED-04-sigmoid", config(), sigmoid),
    ("HED-04-softmax", SEVERAL, softmax),
    ("HED-04-logits", config(), lambda s: s),
    ("HED-04-logits", SEVERAL, lambda s: s),
    (None, config(), lambda s: softmax(s / 2)),
    (None, config(), lambda s: softmax(s) * (1 + 1e-3)),
    (None, SEVERAL, lambda s: softmax(s) * (1 + 1e-3)),
    (None, SEVERAL, lambda s: sigmoid(s) * (1 + 3e-6)),
    (None, config(), lambda s: np.log(softmax(s))),
]

IDS = [
    ("HED-04", lambda labels: labels + 1),
    ("HED-04-low", lambda labels: labels - 1),
    (None, lambda labels: labels + 2),
    (None, lambda labels: labels[:, ::-1]),
    (None, lambda labels: np.where(np.arange(3) < 2, labels + 1, labels)),
]

MASKS = [
    ("HED-04-mask", lambda s: mask_of(s) + 1),
    ("HED-04-mask-low", lambda s: mask_of(s) - 1),
    ("SEG-09", lambda s: nearest(s.argmax(axis=1), 0.0)),
    ("SEG-09-centres", lambda s: nearest(s.argmax(axis=1), 0.5)),
    ("SEG-09-small", lambda s: s.argmax(axis=1)),
    ("SEG-10", lambda s: mask_of(s, SIZE, lambda i, n, out: i * (n - 1) / (out - 1))),
    ("SEG-10-asymmetric", lambda s: mask_of(s, SIZE, lambda i, n, out: i * n / out)),
    ("SEG-10-size", lambda s: mask_of(s, SIZE[::-1])),
    ("SEG-12-transposed", lambda s: mask_of(s).swapaxes(1, 2)),
    ("SEG-12", lambda s: resize(s).argmax(axis=2)),
    ("SEG-12-columns", lambda s: resize(s).argmax(axis=3)),
    ("SEG-12-channels-last", lambda s: mask_of(misread(s))),
    ("SEG-12-channels-first", lambda s: mask_of(np.ascontiguousarray(s.transpose(0, 2, 3, 1)).reshape(s.shape))),
    (None, lambda s: mask_of(s)[:, :, ::-1]),
    (None, lambda s: np.roll(mask_of(s), 1, axis=2)),
    (None, lambda s: np.roll(mask_of(s), 1, axis=0)),
    (None, lambda s: mask_of(s[:, [1, 0, 2, 3, 4]])),
    (None, lambda s: mask_of(softmax(s))),
    (None, lambda s: mask_of(s + np.float64([0, 0, 0, 0, 2]).reshape(1, 5, 1, 1))),
    (None, lambda s: mask_of(s, (45, 69))),
    (None, lambda s: mask_of(-s)),
    (None, lambda s: mask_of(s) * 0 + 1),
]


def named(judged):
    """The name of the cause of the one finding, and the finding."""
    ((_, (finding,)),) = judged
    name = finding.diagnosis and finding.diagnosis.mutant
    assert finding.severity == "fail"
    assert finding.cause == (name and name[:6])
    return name


def test_every_mistake_has_a_name_of_its_own_and_is_made_here():
    names = [mutant.name for mutant in RESULT_MUTANTS]
    assert len(set(names)) == len(names)
    assert set(names) == {name for name, *_ in (*SCORES, *IDS, *MASKS)} - {None}
    for mutant in RESULT_MUTANTS:
        assert "; expected " in mutant.description
        assert mutant.consequence.endswith(".")
        assert mutant.fix.endswith(".")
        assert mutant.mode in MODES


@pytest.mark.parametrize(("name", "settings", "scores"), SCORES)
def test_mistaken_scores_are_named(name, settings, scores):
    assert named(judge_probabilities(LOGITS, scores(LOGITS), settings, FP32)) == name


@pytest.mark.parametrize(("name", "change"), IDS)
def test_mistaken_ids_are_named(name, change):
    labels = np.argsort(-LOGITS, axis=1)[:, :3]
    assert named(judge_labels(LOGITS, change(labels), config())) == name


def test_one_label_may_be_a_neighbour_by_chance():
    label = LOGITS[:1].argmax(axis=1)
    ((_, (finding,)),) = judge_labels(LOGITS[:1], label + 1, config())
    assert finding.cause is None
    assert [(near.mutant, near.remaining) for near in finding.near] == [("HED-04", 0.0)]


@pytest.mark.parametrize(("name", "make"), MASKS)
def test_mistaken_masks_are_named(name, make):
    assert named(judge_mask(MAPS, make(MAPS), SIZE, FP32)) == name


@pytest.mark.parametrize("name", ["SEG-09-small", "SEG-10-size", "SEG-12"])
def test_a_mask_of_another_shape_needs_no_batch_axis(name):
    mask = dict(MASKS)[name](MAPS[:1])[0]
    assert named(judge_mask(MAPS[:1], mask, SIZE, FP32)) == name


@pytest.mark.parametrize("make", [mask_of, lambda s: mask_of(s.astype(np.float32))])
def test_right_results_raise_nothing(make):
    assert judge_mask(MAPS, make(MAPS), SIZE, FP32)[0][1] == []
    assert judge_probabilities(LOGITS, softmax(LOGITS), config(), FP32)[0][1] == []
    assert judge_probabilities(LOGITS, sigmoid(LOGITS), SEVERAL, FP32)[0][1] == []
    assert judge_labels(LOGITS, np.argsort(-LOGITS, axis=1), config())[0][1] == []


def test_a_mask_of_one_class_shows_no_mistake():
    maps = MAPS + np.float64([99, 0, 0, 0, 0]).reshape(1, 5, 1, 1)
    assert named(judge_mask(maps, np.ones((2, *SIZE), int), SIZE, FP32)) is None


def test_a_mistake_that_leaves_all_open_explains_nothing():
    """Of the misread logits of this edge all classes are equal, so that no label would be wrong."""
    maps, size = np.zeros((1, 2, 8, 11)), (40, 440)
    maps[0, 1] = np.arange(11) - 5.55
    mask = mask_of(maps, size, lambda i, n, out: i * (n - 1) / (out - 1))
    ((_, (finding,)),) = judge_mask(maps, mask, size, FP32)
    assert finding.cause == "SEG-10"
    assert finding.diagnosis.also == ()
