"""Mistakes between the logits and a result: the rows HED and SEG of probabilities, labels and masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit import ops
from npmobilevit.ops.arrays import Array
from npmobilevit.ops.resize import Sources, blend, sources
from npmobilevit.validation.mutants.mutant import Mode
from npmobilevit.validation.mutants.pictures import asymmetric, corner_aligned, nearest

Function: TypeAlias = Literal["softmax", "sigmoid"]
FUNCTIONS: dict[Function, Callable[[Array], Array]] = {"softmax": ops.softmax, "sigmoid": ops.sigmoid}


class Scores(NamedTuple):
    """Scores (N, K): a function of something; None: that itself."""

    of: Array
    function: Function | None


class LabelMap(NamedTuple):
    """Label maps (N, H, W), and where each of their pixels lies among the logits (N, K, h, w).

    Attributes
    ----------
    units : (float, float)
        Relative sizes of roundings, of values and of coordinates.
    """

    logits: Array
    labels: NDArray[np.int64]
    rows: Sources
    columns: Sources
    units: tuple[float, float] = (0.0, 0.0)

    @property
    def fits(self) -> bool:
        """Whether the labels have the shape that they should have."""
        return self.labels.shape == (len(self.logits), len(self.rows.first), len(self.columns.first))


@dataclasses.dataclass(frozen=True)
class ResultMutant:
    """A mistake that ports make after the logits. Fields are those of `Mutant`, but for two.

    Attributes
    ----------
    result : {"probabilities", "labels", "mask"}
    make : callable
        Of probabilities, ``(logits, right function)`` -> :class:`Scores`. Of labels, the right ones for those found,
        (N, k). Of a mask, the :class:`LabelMap` that it would be right for, given the one that it should be.
    """

    id: str
    description: str
    consequence: str
    fix: str
    result: Literal["probabilities", "labels", "mask"]
    make: Callable[..., Any]
    variant: str = ""
    mode: Mode = "taps"

    @property
    def name(self) -> str:
        """Id and variant."""
        return f"{self.id}-{self.variant}" if self.variant else self.id


def _scores_twice(logits: Array, right: Function) -> Scores:
    return Scores(FUNCTIONS[right](logits), right)


def _scores_of(function: Function) -> Callable[[Array, Function], Scores]:
    return lambda logits, _right: Scores(logits, function)


def _moved(by: int) -> Callable[[LabelMap], LabelMap]:
    return lambda given: given._replace(labels=given.labels - by)


def _sampled(at: Callable[[int, int], Sources]) -> Callable[[LabelMap], LabelMap]:
    """The logits resized to the same size, with other coordinates."""

    def make(given: LabelMap) -> LabelMap:
        lengths, size = given.logits.shape[2:], (len(given.rows.first), len(given.columns.first))
        rows, columns = (at(length, out) for length, out in zip(lengths, size, strict=True))
        return given._replace(rows=rows, columns=columns)

    return make


def _bilinear(length: int, out: int) -> Sources:
    return sources(length, out, np.dtype(np.float64))


def _unresized(given: LabelMap) -> LabelMap:
    rows, columns = (_bilinear(length, length) for length in given.logits.shape[2:])
    return given._replace(rows=rows, columns=columns)


def _sides_swapped(given: LabelMap) -> LabelMap:
    height, width = given.logits.shape[2:]
    rows, columns = _bilinear(height, len(given.columns.first)), _bilinear(width, len(given.rows.first))
    return given._replace(rows=rows, columns=columns)


def _transposed(given: LabelMap) -> LabelMap:
    return given._replace(labels=given.labels.transpose(0, 2, 1))


def _largest_row(given: LabelMap) -> LabelMap:
    """The argmax over the rows of the resized logits: of each class and column, (N, K, W)."""
    resized = blend(given.logits, given.rows, axis=2).transpose(0, 2, 1, 3)  # (N, H, K, w)
    return given._replace(logits=resized, rows=_bilinear(resized.shape[2], resized.shape[2]))


def _largest_column(given: LabelMap) -> LabelMap:
    """The argmax over the columns of the resized logits: of each class and row, (N, K, H)."""
    resized = blend(given.logits, given.columns, axis=3).transpose(0, 3, 1, 2)  # (N, W, K, h)
    return given._replace(logits=resized, rows=_bilinear(resized.shape[2], resized.shape[2]), columns=given.rows)


def _read_as_channels_last(given: LabelMap) -> LabelMap:
    """(K, h, w) in memory, read as (h, w, K)."""
    pictures, classes, height, width = given.logits.shape
    misread = given.logits.reshape(pictures, height, width, classes)
    return given._replace(logits=np.ascontiguousarray(misread.transpose(0, 3, 1, 2)))


def _read_as_channels_first(given: LabelMap) -> LabelMap:
    """(h, w, K) in memory, read as (K, h, w)."""
    misread = np.ascontiguousarray(given.logits.transpose(0, 2, 3, 1))
    return given._replace(logits=misread.reshape(given.logits.shape))


_RAW = "The order of the classes is right, but the scores mean nothing: thresholds and confidences fail."
_SHIFT = "Every class is named by its neighbour: no label is right, though the network is."
_IDS = "Number the classes as id2label of config.json does: 0 is the first, and there is no class for the background."
_BORDERS = "Classes change at other pixels: the borders of objects are jagged or lie off."
_RESIZE = "Resize the logits bilinearly (align_corners=False) to (height, width), then take the argmax over classes."
_MIXED = "The mask is a pattern of stripes and shows nothing."
_CLASSES = "Take the argmax over the axis of the classes: 1 of (N, K, H, W), the last of (N, H, W, K)."

RESULT_MUTANTS: tuple[ResultMutant, ...] = (
    ResultMutant(
        "HED-04",
        "softmax or sigmoid applied twice; expected once",
        "The best class keeps its place, but all scores are nearly equal: thresholds and confidences fail.",
        "Apply the function once: in the graph, or outside of it.",
        "probabilities",
        _scores_twice,
        variant="twice",
    ),
    ResultMutant(
        "HED-04",
        "sigmoid of the logits; expected their softmax",
        _RAW,
        "Apply softmax over the classes: problem_type is not multi_label_classification.",
        "probabilities",
        _scores_of("sigmoid"),
        variant="sigmoid",
    ),
    ResultMutant(
        "HED-04",
        "softmax of the logits; expected the sigmoid of each",
        _RAW,
        "Apply the sigmoid to each logit: problem_type is multi_label_classification, or there is one label.",
        "probabilities",
        _scores_of("softmax"),
        variant="softmax",
    ),
    ResultMutant(
        "HED-04",
        "logits; expected softmax or sigmoid of them",
        _RAW,
        "Apply softmax over the classes, or the sigmoid where problem_type is multi_label_classification.",
        "probabilities",
        lambda logits, _right: Scores(logits, None),
        variant="logits",
    ),
    ResultMutant(
        "HED-04",
        "ids one too high; expected those of id2label",
        _SHIFT,
        _IDS,
        "labels",
        lambda labels: labels - 1,
    ),
    ResultMutant(
        "HED-04",
        "ids one too low; expected those of id2label",
        _SHIFT,
        _IDS,
        "labels",
        lambda labels: labels + 1,
        variant="low",
    ),
    ResultMutant(
        "HED-04",
        "ids one too high; expected those of id2label",
        _SHIFT,
        _IDS,
        "mask",
        _moved(1),
        variant="mask",
    ),
    ResultMutant(
        "HED-04",
        "ids one too low; expected those of id2label",
        _SHIFT,
        _IDS,
        "mask",
        _moved(-1),
        variant="mask-low",
    ),
    ResultMutant(
        "SEG-09",
        "labels of the logits' size, resized to the nearest; expected the labels of the resized logits",
        _BORDERS,
        _RESIZE,
        "mask",
        _sampled(nearest(0.0)),
    ),
    ResultMutant(
        "SEG-09",
        "labels of the logits' size, resized to the nearest; expected the labels of the resized logits",
        _BORDERS,
        _RESIZE,
        "mask",
        _sampled(nearest(0.5)),
        variant="centres",
    ),
    ResultMutant(
        "SEG-09",
        "labels of the logits' size, not resized; expected the labels of the resized logits",
        "The mask does not lie on the picture.",
        _RESIZE,
        "mask",
        _unresized,
        variant="small",
    ),
    ResultMutant(
        "SEG-10",
        "logits resized with align_corners=True; expected False",
        _BORDERS,
        _RESIZE,
        "mask",
        _sampled(corner_aligned),
    ),
    ResultMutant(
        "SEG-10",
        "logits resized with coordinates that lack half a pixel; expected pixel centres at halves",
        _BORDERS,
        _RESIZE,
        "mask",
        _sampled(asymmetric),
        variant="asymmetric",
    ),
    ResultMutant(
        "SEG-10",
        "logits resized to (width, height); expected (height, width)",
        "The mask is distorted, and fits the picture only if that is square.",
        _RESIZE,
        "mask",
        _sides_swapped,
        variant="size",
    ),
    ResultMutant(
        "SEG-12",
        "rows and columns exchanged; expected (height, width)",
        "The mask is mirrored at its diagonal.",
        "Keep height before width, and exchange no axes after the argmax.",
        "mask",
        _transposed,
        variant="transposed",
    ),
    ResultMutant("SEG-12", "argmax over the rows; expected over the classes", _MIXED, _CLASSES, "mask", _largest_row),
    ResultMutant(
        "SEG-12",
        "argmax over the columns; expected over the classes",
        _MIXED,
        _CLASSES,
        "mask",
        _largest_column,
        variant="columns",
    ),
    ResultMutant(
        "SEG-12",
        "logits (classes, height, width) read as (height, width, classes); expected as they are",
        _MIXED,
        _CLASSES,
        "mask",
        _read_as_channels_last,
        variant="channels-last",
    ),
    ResultMutant(
        "SEG-12",
        "logits (height, width, classes) read as (classes, height, width); expected as they are",
        _MIXED,
        _CLASSES,
        "mask",
        _read_as_channels_first,
        variant="channels-first",
    ),
)
