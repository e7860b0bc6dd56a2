"""Pictures on many machines: callables that an engine such as Dask sends to its workers and feeds with batches.

Scheduling, retries and clusters are the engine's; nothing here imports one. A callable is pickled with the name of its
model and never with the weights, which each worker process loads at its first batch and keeps.

A model's local path is that of the working directory in which the callable was made: it is made absolute there, and
has to lead to the same files on every worker, as on a shared disk. Paths of pictures are opened by the worker, in its
own working directory; absolute paths, or bytes, do not depend on it.

One thread for each worker is enough, for the workers already share the processors of a machine, and more threads add
work. Dask's nanny sets OPENBLAS_NUM_THREADS, MKL_NUM_THREADS and OMP_NUM_THREADS to 1 for its workers, unless they are
set where it runs; other engines have to be told, for they count only before NumPy is imported. The last bits of a score
depend on the processor and this number: where both are the same, rows are those of a local call to the last bit.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar, Unpack

from npmobilevit import checkpoints
from npmobilevit.errors import ConfigError, ImageError
from npmobilevit.images import ImageSource, describe
from npmobilevit.pipeline import PictureOptions, as_pipeline
from npmobilevit.results import Predictions, Segmentation

__all__ = ["PredictBatch", "SegmentBatch"]

Row: TypeAlias = dict[str, Any]
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, eq=False)
class _BatchCall:
    """What is pickled: the name or absolute path of a model, and the keyword arguments of its stream."""

    model: str
    options: Mapping[str, Any]


class PredictBatch(_BatchCall):
    """Name what each picture of a batch shows: :meth:`npmobilevit.Pipeline.stream_predictions` for an engine's workers.

    Parameters
    ----------
    model : str or path
        What :func:`npmobilevit.load` takes, but None: the default of one worker need not be that of another.
    top_k, **options
        See :func:`npmobilevit.predict`. They are checked with the first batch.

    Raises
    ------
    CheckpointError
        If `model` is neither a name nor a path.

    Examples
    --------
    >>> rows = PredictBatch("cifar10-xx-small", top_k=1)(["reference/images/chelsea.png", b"no picture"])
    >>> rows[0]["predictions"][0]["label"], rows[1]["error"]["code"]
    ('cat', 'image-unknown')
    """

    def __init__(self, model: str | os.PathLike[str], *, top_k: int = 5, **options: Unpack[PictureOptions]) -> None:
        super().__init__(_located(model), {"top_k": top_k, **options})

    def __call__(self, batch: Iterable[ImageSource]) -> list[Row]:
        """Return a row for each picture.

        Parameters
        ----------
        batch : iterable of path, bytes, or whatever else :func:`npmobilevit.predict` takes
            A list, a tuple, an iterator, a column of a table.

        Returns
        -------
        list of dict
            In the order of the batch, what ``npmobilevit predict --json`` prints of a picture: ``"input"``, the path or
            a description of the bytes, and ``"predictions"``, dicts of ``"label"``, ``"score"`` and ``"index"``; of a
            picture that cannot be used ``"input"`` and ``"error"``, a dict of ``"code"`` and ``"message"``.

        Raises
        ------
        ImageError
            If the batch is a picture itself, a mapping, or nothing to be gone through.
        ConfigError
            If an option is out of its range or the model is no classifier.
        TypeError
            If there is no such option.
        CheckpointError, WeightsError
            If the worker cannot load the model.
        """
        stream = functools.partial(as_pipeline(self.model).stream_predictions, **self.options)
        return _rows(batch, stream, Predictions.to_dict)


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class SegmentBatch(_BatchCall):
    """Tell the classes of each picture of a batch: :meth:`npmobilevit.Pipeline.stream_segmentations` for workers.

    Parameters
    ----------
    model : str or path
        As for :class:`PredictBatch`.
    crop, **options
        See :func:`npmobilevit.segment`. They are checked with the first batch.
    mask : bool
        Whether rows hold the mask.

    Raises
    ------
    CheckpointError
        If `model` is neither a name nor a path.
    ConfigError
        If `mask` is not True or False.
    """

    mask: bool

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        crop: bool = False,
        mask: bool = False,
        **options: Unpack[PictureOptions],
    ) -> None:
        if not isinstance(mask, bool):
            raise ConfigError(f"mask must be True or False, found {mask!r}", "mask")
        super().__init__(_located(model), {"crop": crop, **options})
        object.__setattr__(self, "mask", mask)  # as a frozen dataclass sets its fields

    def __call__(self, batch: Iterable[ImageSource]) -> list[Row]:
        """Return a row for each picture.

        Parameters
        ----------
        batch : iterable of path, bytes, or whatever else :func:`npmobilevit.segment` takes
            A list, a tuple, an iterator, a column of a table.

        Returns
        -------
        list of dict
            In the order of the batch: ``"input"``, the path or a description of the bytes, ``"height"``, ``"width"``
            and ``"classes"``, dicts of ``"id"``, ``"name"``, ``"share"`` and ``"probability"``, largest first. With
            ``mask=True`` also ``"mask"``, the bytes of the PNG file of
            :meth:`npmobilevit.Segmentation.mask_image`. A picture that cannot be used has ``"input"`` and ``"error"``,
            a dict of ``"code"`` and ``"message"``.

        Raises
        ------
        ImageError
            If the batch is a picture itself, a mapping, or nothing to be gone through.
        ConfigError
            If an option is out of its range or the model does not segment.
        TypeError
            If there is no such option.
        CheckpointError, WeightsError
            If the worker cannot load the model.
        """
        stream = functools.partial(as_pipeline(self.model).stream_segmentations, **self.options)
        return _rows(batch, stream, _with_mask if self.mask else Segmentation.to_dict)


def _located(model: str | os.PathLike[str]) -> str:
    """The name of a model, or its path from the root."""
    path = checkpoints.local_path(model)
    return os.fspath(model) if path is None else str(path.absolute())


def _rows(
    batch: Iterable[ImageSource],
    stream: Callable[[Iterable[ImageSource]], Iterator[Result | ImageError]],
    content: Callable[[Result], Row],
) -> list[Row]:
    """A row for each picture: its name with the content of its result, or with its error."""
    if not isinstance(batch, Iterable) or isinstance(batch, str | bytes | Mapping):
        raise ImageError(
            f"{describe(batch)} is no batch; pass an iterable of pictures, such as a list, or that column of a table "
            "which holds paths or bytes.",
            "image-type",
        )
    images = list(batch) if isinstance(batch, Iterator) else batch  # gone through twice
    return [_row(image, result, content) for image, result in zip(images, stream(images), strict=True)]


def _row(image: ImageSource, result: Result | ImageError, content: Callable[[Result], Row]) -> Row:
    row: Row = {"input": os.fsdecode(image) if isinstance(image, str | os.PathLike) else describe(image)}
    if isinstance(result, ImageError):
        return row | {"error": {"code": result.code, "message": str(result)}}
    return row | {key: value for key, value in content(result).items() if key != "model"}


def _with_mask(segmentation: Segmentation) -> Row:
    buffer = io.BytesIO()
    segmentation.mask_image().save(buffer, "PNG")
    return segmentation.to_dict() | {"mask": buffer.getvalue()}
