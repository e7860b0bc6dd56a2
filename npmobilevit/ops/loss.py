"""The losses that transformers computes when labels are given. All are means."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npmobilevit.errors import ShapeError
from npmobilevit.ops.arrays import Array, check_float


def cross_entropy(logits: Array, labels: NDArray[np.integer[Any]], *, ignore_index: int = -100) -> float:
    """Mean negative log-probability of the right class (``torch.nn.CrossEntropyLoss``).

    Parameters
    ----------
    logits : (N, C, ...) array, float32 or float64
    labels : (N, ...) integer array
        A class in 0..C-1 for each position, or `ignore_index`: such positions do not count.
    ignore_index : int

    Returns
    -------
    float
        NaN when every position is ignored, as in torch.

    Raises
    ------
    ShapeError
        If the shapes differ, labels are not integers, or a label is neither a class nor `ignore_index`.
    """
    check_float(logits, "logits")
    labels = np.asarray(labels)
    if logits.ndim < 2 or labels.shape != (*logits.shape[:1], *logits.shape[2:]):
        raise ShapeError(f"labels must have the shape of logits {logits.shape} without axis 1, found {labels.shape}",
                         "labels-shape")  # fmt: skip
    if labels.dtype.kind not in "iu":
        raise ShapeError(f"labels must be integers, found {labels.dtype}", "labels-dtype")
    counted = labels != ignore_index
    wrong = counted & ((labels < 0) | (labels >= logits.shape[1]))
    if wrong.any():
        raise ShapeError(
            f"labels must lie in 0..{logits.shape[1] - 1} or be {ignore_index}, found {labels[wrong][0]}",
            "labels-range",
        )
    if not counted.any():
        return float("nan")
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))  # (N, ...)
    chosen = np.take_along_axis(shifted, np.expand_dims(np.where(counted, labels, 0), 1), axis=1).squeeze(1)
    return float((log_sum - chosen)[counted].mean())


def binary_cross_entropy_with_logits(logits: Array, labels: Array) -> float:
    """Mean loss of independent yes-or-no answers (``torch.nn.BCEWithLogitsLoss``).

    Parameters
    ----------
    logits : array, float32 or float64
    labels : float array of the same shape
        Targets, usually 0 or 1.

    Returns
    -------
    float

    Raises
    ------
    ShapeError
        If the shapes differ or labels are not floats.
    """
    check_float(logits, "logits")
    labels = np.asarray(labels)
    if labels.dtype.kind != "f":
        raise ShapeError(f"labels of a multi-label loss must be floats, found {labels.dtype}", "labels-dtype")
    _check_same_shape(logits, labels)
    losses = np.maximum(logits, 0) - logits * labels + np.log1p(np.exp(-np.abs(logits)))
    return float(losses.mean())


def mean_squared_error(logits: Array, labels: NDArray[Any]) -> float:
    """Mean of the squared differences (``torch.nn.MSELoss``).

    Parameters
    ----------
    logits : array, float32 or float64
    labels : number array of the same shape

    Returns
    -------
    float

    Raises
    ------
    ShapeError
        If the shapes differ: torch would broadcast, with a warning.
    """
    check_float(logits, "logits")
    labels = np.asarray(labels)
    if labels.dtype.kind not in "fiu":
        raise ShapeError(f"labels must be numbers, found {labels.dtype}", "labels-dtype")
    _check_same_shape(logits, labels)
    return float(np.square(logits - labels).mean())


def _check_same_shape(logits: Array, labels: NDArray[Any]) -> None:
    if not logits.size:
        raise ShapeError(f"there is no value to average in shape {logits.shape}", "array-empty")
    if labels.shape != logits.shape:
        raise ShapeError(f"labels must have the shape of logits {logits.shape}, found {labels.shape}", "labels-shape")
