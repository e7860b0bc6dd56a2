"""The names of the classes, against facts that anybody can look up."""

from collections import Counter

import pytest

from npmobilevit.checkpoints import labels
from npmobilevit.checkpoints.labels import VOC_LABELS, imagenet_labels, labels_for


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (0, "tench, Tinca tinca"),
        (1, "goldfish, Carassius auratus"),
        (207, "golden retriever"),
        (281, "tabby, tabby cat"),
        (285, "Egyptian cat"),
        (638, "maillot"),
        (639, "maillot, tank suit"),
        (999, "toilet tissue, toilet paper, bathroom tissue"),
    ],
)
def test_imagenet_classes_stand_where_they_should(index, name):
    assert imagenet_labels()[index] == name


def test_there_are_a_thousand_imagenet_classes_and_only_crane_occurs_twice():
    names = imagenet_labels()
    assert len(names) == 1000
    assert {name: count for name, count in Counter(names).items() if count > 1} == {"crane": 2}
    assert (names[134], names[517]) == ("crane", "crane")
    assert all(name == name.strip() and name.isascii() and name for name in names)


def test_the_file_carries_its_source_and_its_licence():
    text = labels._IMAGENET_FILE.read_text(encoding="utf-8")
    assert "timm 1.0.31 (Apache License 2.0)" in text
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in text
    assert text.count("\n#") < 40


def test_voc_classes_are_spelt_as_in_the_configs_of_apple():
    assert len(VOC_LABELS) == len(set(VOC_LABELS)) == 21
    assert VOC_LABELS[0] == "background"
    assert list(VOC_LABELS[1:]) == sorted(VOC_LABELS[1:])
    assert (VOC_LABELS[8], VOC_LABELS[16], VOC_LABELS[20]) == ("cat", "pottedplant", "tvmonitor")


@pytest.mark.parametrize(
    ("num_labels", "head", "first", "last"),
    [
        (1000, "classification", "tench, Tinca tinca", "toilet tissue, toilet paper, bathroom tissue"),
        (21, "segmentation", "background", "tvmonitor"),
    ],
)
def test_published_numbers_of_classes_have_names(num_labels, head, first, last):
    names = labels_for(num_labels, head)
    assert list(names) == list(range(num_labels))
    assert (names[0], names[num_labels - 1]) == (first, last)
    names[0] = "changed"
    assert labels_for(num_labels, head)[0] == first  # every dict is the caller's own


@pytest.mark.parametrize(
    ("num_labels", "head"),
    [(999, "classification"), (21, "classification"), (1000, "segmentation"), (1000, None), (0, "classification")],
)
def test_other_numbers_of_classes_have_none(num_labels, head):
    assert labels_for(num_labels, head) is None
