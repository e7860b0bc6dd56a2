"""From a picture to its labels: load a checkpoint, prepare the picture, run the network, name the classes."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, NamedTuple, Self, TypeAlias, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npmobilevit import checkpoints, ops
from npmobilevit.config import MobileViTConfig
from npmobilevit.engine import Workers
from npmobilevit.errors import CheckpointError, ConfigError, ImageError, ModelFallbackWarning, WeightsError
from npmobilevit.image_processing import MAX_RESIZED_PIXELS, Geometry, MobileViTImageProcessor
from npmobilevit.images import ImageSource, ReadOptions, describe, to_rgb
from npmobilevit.images.options import checked_limit
from npmobilevit.label_maps import Axis, labelled
from npmobilevit.models import (
    MobileViTForImageClassification,
    MobileViTForSemanticSegmentation,
    MobileViTModel,
    PreTrainedModel,
)
from npmobilevit.results import Prediction, Predictions, Segmentation, SegmentedClass
from npmobilevit.visual.notebook import jpeg_bytes

MODEL_VARIABLE = "NPMOBILEVIT_MODEL"
# Below 1 GiB for xx-small at output stride 16; the time of attention grows with the square of the pixels.
MAX_NETWORK_PIXELS = 1_500_000

THUMBNAIL_PIXELS = 320  # the longest side of the picture that a result keeps, in some 15 kB

Task: TypeAlias = Literal["classification", "segmentation"]
Pixels: TypeAlias = NDArray[np.float32]
Given = TypeVar("Given")
Half = TypeVar("Half")
Result = TypeVar("Result")

DEFAULT_MODELS: Mapping[Task, str] = MappingProxyType(
    {"classification": "apple/mobilevit-xx-small", "segmentation": "apple/deeplabv3-mobilevit-xx-small"}
)
SHIPPED_MODELS: Mapping[Task, str] = MappingProxyType(
    {"classification": "cifar10-xx-small", "segmentation": "camvid-deeplabv3-xx-small"}
)

# With these the default model is out of reach, and no fault of the checkpoint: the shipped one takes its place.
OUT_OF_REACH = ("hub-unreachable", "hub-offline", "hub-not-installed")

ARCHITECTURES: Mapping[str, type[PreTrainedModel]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (MobileViTForImageClassification, MobileViTForSemanticSegmentation, MobileViTModel)
    }
)


class PictureOptions(ReadOptions, total=False):
    """How a picture is read and prepared; every option may be left out.

    Attributes
    ----------
    background, value_range, layout, max_pixels, max_file_bytes : optional
        See :func:`npmobilevit.images.to_rgb`.
    max_resized_pixels : int
        Limit of its pixels after the resize, before the crop: 64 million unless given.
    max_network_pixels : int
        Limit of the pixels that go into the network; the time of attention grows with their square. 1.5 million unless
        given.
    """

    max_resized_pixels: int
    max_network_pixels: int


class Pipeline:
    """A checkpoint ready for use: :func:`load` makes it. It can be pickled.

    Attributes
    ----------
    name : str
        Name of the checkpoint in use.
    network : MobileViTForImageClassification, MobileViTForSemanticSegmentation or MobileViTModel
    processor : MobileViTImageProcessor
    revision : str or None
        Commit on the Hub that the checkpoint comes from.
    """

    def __init__(
        self, name: str, network: PreTrainedModel, processor: MobileViTImageProcessor, revision: str | None = None
    ) -> None:
        self.name = name
        self.network = network
        self.processor = processor
        self.revision = revision

    @property
    def config(self) -> MobileViTConfig:
        """The network's configuration."""
        return self.network.config

    def __repr__(self) -> str:
        kind = type(self.network).__name__
        return f"<Pipeline {self.name}: {kind}, {self.config.num_labels} labels, {self.network.precision}>"

    def close(self) -> None:
        """End the threads or processes of the fast engine; the next call makes them again."""
        self.network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def pixel_values(self, image: ImageSource, **options: Unpack[PictureOptions]) -> NDArray[np.float32]:
        """Prepare one picture for the network.

        Parameters
        ----------
        image, **options
            See :func:`predict`.

        Returns
        -------
        (1, C, H, W) float32 array
        """
        check_names(options, "pixel_values")
        return self._prepare(self.processor, image, **options).pixel_values

    def _prepare(
        self,
        processor: MobileViTImageProcessor,
        image: ImageSource,
        *,
        max_resized_pixels: int = MAX_RESIZED_PIXELS,
        max_network_pixels: int = MAX_NETWORK_PIXELS,
        **reading: Unpack[ReadOptions],
    ) -> _Prepared:
        checked_limit("max_network_pixels", max_network_pixels)
        rgb = to_rgb(image, **reading)
        geometry = processor.geometry(rgb.shape[0], rgb.shape[1])
        # the layout is named because a picture three pixels high could be taken for channels first
        prepare = functools.partial(processor.preprocess, rgb, input_data_format="channels_last")
        if math.prod(geometry.network) > max_network_pixels:
            raise ImageError(
                f"a picture of {rgb.shape[0]} x {rgb.shape[1]} (height x width) would enter the network as "
                f"{geometry.network[0]} x {geometry.network[1]}, more than the limit max_network_pixels of "
                f"{max_network_pixels:,}. Crop it, or raise the limit: the time of attention grows with its square.",
                "network-too-large",
            )
        return _Prepared(rgb, geometry, prepare(max_resized_pixels=max_resized_pixels)["pixel_values"])

    def require_classifier(self) -> None:
        """Raise ConfigError unless the network is a classifier of RGB pictures with at least one label."""
        config = self.config
        if not isinstance(self.network, MobileViTForImageClassification) or not config.num_labels:
            raise ConfigError(
                f"{self.name} is no classifier ({type(self.network).__name__}, {config.num_labels} labels); "
                "load a classification checkpoint",
                "not-a-classifier",
            )
        self.require_pictures("not-a-classifier")

    def require_segmenter(self) -> None:
        """Raise ConfigError unless the network segments RGB pictures."""
        if not isinstance(self.network, MobileViTForSemanticSegmentation):
            raise ConfigError(
                f"{self.name} does not segment ({type(self.network).__name__}); load a segmentation checkpoint, such "
                "as deeplabv3-xx-small",
                "not-a-segmenter",
            )
        self.require_pictures("not-a-segmenter")

    def require_pictures(self, code: str = "takes-no-pictures") -> None:
        """Raise ConfigError, of this code, unless the network takes RGB pictures as the processor prepares them."""
        if self.config.num_channels != 3:
            raise ConfigError(
                f"{self.name} takes {self.config.num_channels} channels, and pictures have three; call its network",
                code,
            )
        if not self.processor.do_rescale:
            raise ConfigError(
                f"{self.name} has do_rescale switched off among its processor's settings, but the network takes values "
                "in 0..1; switch it on",
                code,
            )

    def without_crop(self) -> Pipeline:
        """The same network behind a processor without a centre crop: it sees whole pictures, as in :meth:`segment`."""
        processor = dataclasses.replace(self.processor, do_center_crop=False)
        return Pipeline(self.name, self.network, processor, self.revision)

    def predict(self, image: Any, *, top_k: int = 5, **options: Unpack[PictureOptions]) -> Any:
        """Name what a picture shows; see :func:`predict`."""
        return _results(image, self._predicting(top_k, options))

    def segment(self, image: Any, *, crop: bool = False, **options: Unpack[PictureOptions]) -> Any:
        """Tell the class of every pixel of a picture; see :func:`segment`."""
        return _results(image, self._segmenting(crop, options))

    def stream_predictions(
        self, images: Iterable[ImageSource], *, top_k: int = 5, **options: Unpack[PictureOptions]
    ) -> Iterator[Predictions | ImageError]:
        """Name what each of any number of pictures shows, one after the other and in flat memory.

        The next picture is read in another thread while the network looks at this one. A result does not depend on
        its neighbours.

        Parameters
        ----------
        images : iterable
            Taken from as results are asked for; file objects are read in the caller's thread.
        top_k, **options
            See :func:`predict`.

        Yields
        ------
        Predictions or ImageError
            One for each picture, in their order; the error of a picture that cannot be used is not raised.

        Raises
        ------
        ConfigError
            If an option is out of its range or the network is no classifier.
        """
        return _stream(images, self._predicting(top_k, options))

    def stream_segmentations(
        self, images: Iterable[ImageSource], *, crop: bool = False, **options: Unpack[PictureOptions]
    ) -> Iterator[Segmentation | ImageError]:
        """Tell the class of every pixel of any number of pictures, as :meth:`stream_predictions` does.

        Parameters
        ----------
        images : iterable
        crop, **options
            See :func:`segment`.

        Yields
        ------
        Segmentation or ImageError

        Raises
        ------
        ConfigError
            If an option is out of its range or the network does not segment.
        """
        return _stream(images, self._segmenting(crop, options))

    def _predicting(self, top_k: int, options: PictureOptions) -> _Halves[tuple[bytes, Pixels], Predictions]:
        if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
            raise ConfigError(f"top_k must be an integer of at least 1, found {top_k!r}", "top-k")
        check_names(options, "predict")
        self.require_classifier()

        def prepare(image: ImageSource) -> tuple[bytes, Pixels]:
            prepared = self._prepare(self.processor, image, **options)
            return jpeg_bytes(prepared.rgb, longest=THUMBNAIL_PIXELS), prepared.pixel_values

        def finish(prepared: tuple[bytes, Pixels]) -> Predictions:
            picture, pixel_values = prepared
            scores = class_scores(self._finite_logits(pixel_values), self.config)
            best = np.argsort(-scores, kind="stable")[:top_k]  # stable: of equal scores the lower index comes first
            found = (Prediction(self.config.id2label[int(i)], float(scores[i]), int(i)) for i in best)
            return Predictions(found, model=self.name, picture=picture)

        return _Halves(within_memory(prepare), within_memory(finish))

    def _segmenting(self, crop: bool, options: PictureOptions) -> _Halves[_Prepared, Segmentation]:
        if not isinstance(crop, bool | np.bool_):
            raise ConfigError(f"crop must be True or False, found {crop!r}", "crop")
        check_names(options, "segment")
        self.require_segmenter()
        processor = self.processor if crop else self.without_crop().processor
        prepare = functools.partial(self._prepare, processor, **options)
        return _Halves(within_memory(prepare), within_memory(self._segmentation))

    def _segmentation(self, prepared: _Prepared) -> Segmentation:
        logits = self._finite_logits(prepared.pixel_values)  # (C, h, w)
        shape, geometry = prepared.rgb.shape[:2], prepared.geometry
        axes = (
            Axis(shape[i], geometry.resized[i], geometry.origin[i], geometry.network[i], logits.shape[1 + i])
            for i in range(2)
        )
        (rows, row_sources), (columns, column_sources) = (axis.seen(logits.dtype) for axis in axes)
        found = labelled(logits, row_sources, column_sources)
        ignored = self.config.semantic_loss_ignore_index
        mask = found.mask
        if mask.shape != shape:
            mask = np.full(shape, ignored, np.int32)
            mask[rows, columns] = found.mask
        classes = (
            SegmentedClass(i, self.config.id2label[i], int(count) / math.prod(shape), float(probability))
            for i, (count, probability) in enumerate(zip(found.pixels, found.probability, strict=True))
            if count
        )
        return Segmentation(
            mask=mask,
            labels=dict(self.config.id2label),
            classes=tuple(sorted(classes, key=lambda found: -found.share)),
            image=prepared.rgb,
            model=self.name,
            ignore_index=ignored,
        )

    def _finite_logits(self, pixel_values: NDArray[np.float32]) -> NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are refused
            logits: NDArray[Any] = self.network(pixel_values).logits[0]
        if not np.isfinite(logits).all():
            raise WeightsError(
                f"{self.name} answers with NaN or infinity: its values grow beyond {logits.dtype}. The weights are "
                "damaged, or were trained for other pixel values",
                "logits-not-finite",
            )
        return logits


class _Prepared(NamedTuple):
    """A picture (H, W, 3), what becomes of its size, and the network's input (1, 3, H', W')."""

    rgb: NDArray[np.uint8]
    geometry: Geometry
    pixel_values: Pixels


class _Halves(NamedTuple, Generic[Half, Result]):
    """The work on one picture: to read and prepare it, which another thread can do, and to run the network."""

    prepare: Callable[[ImageSource], Half]
    finish: Callable[[Half], Result]


def _results(image: Any, work: _Halves[Half, Result]) -> Result | list[Result]:
    """The result of an image, or the list of the results of a list of images; an error is raised."""
    if not isinstance(image, list | tuple):
        return work.finish(work.prepare(image))
    results: list[Result] = []
    for result in _stream(image, work):
        if isinstance(result, ImageError):
            raise ImageError(f"image {len(results) + 1} of {len(image)}: {result}", result.code) from result
        results.append(result)
    return results


def check_names(options: PictureOptions, function: str) -> None:
    """Raise the TypeError that a function of named arguments would, in the name of `function`."""
    for name in options:
        if name not in PictureOptions.__optional_keys__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def within_memory(work: Callable[[Given], Result]) -> Callable[[Given], Result]:
    """The same work, but too little memory for a picture is an error of the picture."""

    def bounded(given: Given) -> Result:
        try:
            return work(given)
        except MemoryError as error:
            raise ImageError(
                "there is not enough memory for this picture. Scale it down or crop it.", "image-memory"
            ) from error

    return bounded


def _detached(error: ImageError) -> ImageError:
    """The same error without its traceback, whose frames hold on to the picture; many may be kept."""
    for link in (error, error.__cause__, error.__context__):
        if link is not None:
            traceback.clear_frames(link.__traceback__)
    return ImageError(str(error), error.code)


def _stream(images: Iterable[ImageSource], work: _Halves[Half, Result]) -> Iterator[Result | ImageError]:
    """Finish one picture while the next is prepared in another thread; an ImageError stands in a result's place.

    The other thread works only while the caller waits for a result: warning filters, which reading changes for a
    moment, belong to the whole process.
    """

    def begin(image: ImageSource) -> Future[Half]:
        if isinstance(image, str | os.PathLike | bytes):
            return thread.submit(work.prepare, image)
        # Here and now: the caller may change an array or a PIL image when asked for the next one, and nothing could
        # interrupt another thread that waits for a stream.
        ready: Future[Half] = Future()
        try:
            ready.set_result(work.prepare(image))
        except Exception as error:
            ready.set_exception(error)
        return ready

    def outcome(half: Future[Half]) -> Result | ImageError:
        try:
            return work.finish(half.result())
        except ImageError as error:
            return _detached(error)

    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        raise ImageError(f"{describe(images)} is one image; pass a list or another iterable of images.", "image-type")
    source = iter(images)
    with ThreadPoolExecutor(1, "npmobilevit-pictures") as thread:
        current: Future[Half] | None = None
        while True:
            upcoming, failure = None, None
            try:
                upcoming = begin(next(source))
            except StopIteration:
                pass
            except Exception as error:  # of the caller's iterable: not before the result that is under way
                failure = error
            if current is not None:
                result = outcome(current)
                if upcoming is not None:
                    wait([upcoming])
                yield result
            if failure is not None:
                raise failure
            if upcoming is None:
                return
            current = upcoming


def class_scores(logits: NDArray[Any], config: MobileViTConfig) -> NDArray[Any]:
    """Turn logits (num_labels,) into scores in 0..1, as transformers' image-classification pipeline chooses.

    Sigmoid for one label and for several independent labels, else softmax.
    """
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return ops.sigmoid(logits)
    return ops.softmax(logits)


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    task: Task = "classification",
    precision: str = "float32",
    engine: str | None = None,
    workers: Workers = "threads",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    force_download: bool = False,
) -> Pipeline:
    """Load a checkpoint.

    Parameters
    ----------
    model : str or path, optional
        A shipped name ("cifar10-xx-small"), an alias ("xx-small", "x-small", "small", "deeplabv3-xx-small",
        "timm-small", ...), a Hub id ("apple/mobilevit-small"), a local folder with model.safetensors,
        pytorch_model.bin or one .pt file, or the path of such a file; weights of transformers, timm and ml-cvnets.
        config.json and preprocessor_config.json next to the weights say what belongs to them. Weights without them
        get the config that their shapes tell, and the labels and processor settings of the published checkpoints.
        None: the environment variable NPMOBILEVIT_MODEL, else the default of `task` from the cache or the Hub:
        apple/mobilevit-xx-small or apple/deeplabv3-mobilevit-xx-small. If that is not cached and the Hub does not
        answer within 5 s or offline mode is set, the shipped checkpoint of the task with a ModelFallbackWarning.
    task : {"classification", "segmentation"}
        Whose default is meant by None; of no consequence for a model that is named.
    precision : {"float32", "float64", "bitexact"}
        Arithmetic; see :class:`npmobilevit.models.PreTrainedModel`.
    engine : {"fast", "reference"}, optional
        By default the fast one in "float32", else the readable network, which is the default of the classes of models:
        they are for looking inside (:class:`npmobilevit.models.PreTrainedModel` says more).
    workers : {"threads", "processes"}
        Who shares the work of the fast engine; see there. Processes are ended by :meth:`Pipeline.close`, or when the
        pipeline is left as a context.
    revision : str, optional
        Branch, tag or commit on the Hub.
    cache_dir : str or path, optional
        The Hub cache to use.
    local_files_only : bool
        Never ask the Hub.
    token : str or bool, optional
        Hub access token; True for the stored one.
    force_download : bool
        Download even what is cached.

    Returns
    -------
    Pipeline

    Raises
    ------
    CheckpointError
        If there is no such checkpoint, or it cannot be reached.
    ConfigError, WeightsError
        If its files are damaged or do not belong together, or `precision`, `engine` or `workers` is unknown.

    Examples
    --------
    >>> load("cifar10-xx-small").config.num_labels
    10
    """
    arguments: checkpoints.HubArguments = {
        "revision": revision,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "token": token,
        "force_download": force_download,
    }
    name = _default_name() if model is None else model
    contents = _read_default(task, arguments) if name is None else checkpoints.read_checkpoint(name, **arguments)
    processor = MobileViTImageProcessor.from_dict(contents.require_processor())
    kind = ARCHITECTURES[contents.class_name]
    default = "fast" if precision == "float32" else "reference"
    options: dict[str, Any] = {
        "precision": precision,
        "engine": default if engine is None else engine,
        "workers": workers,
    }
    if kind is MobileViTModel:
        options["expand_output"] = any(name.startswith("conv_1x1_exp.") for name in contents.weights)
    network = kind(contents.config, contents.weights, **options)
    return Pipeline(contents.name, network, processor, contents.revision)


def _default_name() -> str | None:
    """The default model that the environment names; None if it names none."""
    return os.environ.get(MODEL_VARIABLE) or None


def _read_default(task: Task, arguments: checkpoints.HubArguments) -> checkpoints.CheckpointContents:
    """The default checkpoint of a task, or the shipped one where that is out of reach."""
    if task not in DEFAULT_MODELS:
        raise ConfigError(f"task is {task!r}; it has to be one of {', '.join(DEFAULT_MODELS)}", "task")
    default, shipped = DEFAULT_MODELS[task], SHIPPED_MODELS[task]
    try:
        return checkpoints.read_checkpoint(default, **arguments)
    except CheckpointError as error:
        if error.code not in OUT_OF_REACH:
            raise
        warnings.warn(
            f"using {shipped}, which knows few classes, for {default} is out of reach ({error.code}). Name the "
            f"model you mean, or set {MODEL_VARIABLE}, to be rid of this warning",
            ModelFallbackWarning,
            stacklevel=3,
        )
        return checkpoints.read_checkpoint(shipped)


_LOADED: dict[tuple[str | Path | None, Task], Future[Pipeline]] = {}
_LOADED_LOCK = threading.Lock()


def _loaded_once(name: str | Path | None, task: Task) -> Pipeline:
    """Load a checkpoint, or wait until another thread has; a failure is forgotten."""
    key = (name, task)
    with _LOADED_LOCK:
        pipeline, is_mine = _LOADED.get(key), key not in _LOADED
        if pipeline is None:
            pipeline = _LOADED[key] = Future()
    if is_mine:
        try:
            pipeline.set_result(load(name, task=task))
        except BaseException as error:
            del _LOADED[key]
            pipeline.set_exception(error)
    return pipeline.result()


def as_pipeline(model: Pipeline | str | os.PathLike[str] | None, task: Task = "classification") -> Pipeline:
    """Return `model` if it is a pipeline, else the checkpoint of that name, which is loaded once per process.

    Parameters
    ----------
    model, task
        See :func:`load`.

    Returns
    -------
    Pipeline
    """
    if isinstance(model, Pipeline):
        return model
    name = _default_name() if model is None else model
    path = None if name is None else checkpoints.local_path(name)
    if path is not None:
        name = path.absolute()  # of the working directory as it is now
    if name is not None:
        task = "classification"  # of no consequence: one entry of the cache for both
    return _loaded_once(name if name is None or isinstance(name, Path) else os.fspath(name), task)


@overload
def predict(
    image: list[Any] | tuple[Any, ...],
    model: Pipeline | str | os.PathLike[str] | None = None,
    *,
    top_k: int = 5,
    **options: Unpack[PictureOptions],
) -> list[Predictions]: ...


@overload
def predict(
    image: ImageSource,
    model: Pipeline | str | os.PathLike[str] | None = None,
    *,
    top_k: int = 5,
    **options: Unpack[PictureOptions],
) -> Predictions: ...


def predict(
    image: Any,
    model: Pipeline | str | os.PathLike[str] | None = None,
    *,
    top_k: int = 5,
    **options: Unpack[PictureOptions],
) -> Any:
    """Name what a picture shows.

    Parameters
    ----------
    image : path, bytes, file object, PIL image or array, or a list of these
        Files are JPEG, PNG, WebP, BMP, GIF or TIFF. Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): whole numbers
        in 0..255, or floats in 0..1.
    model : Pipeline, str or path, optional
        A loaded pipeline, or what :func:`load` takes; a name is loaded once per process.
    top_k : int
        How many classes to return; all if there are fewer.
    background : str or (int, int, int)
        The colour that a transparent picture is laid on, by default "white".
    value_range : (low, high)
        The values that mean black and white in an array, or in a picture of 16 or 32 bits or floats.
    layout : "HWC" or "CHW"
        Of three-dimensional arrays, by default "HWC".
    max_file_bytes, max_pixels, max_resized_pixels, max_network_pixels : int
        Limits: of the encoded picture (256 MiB), of the decoded one (100 million), after the resize (64 million), of
        the network's input (1.5 million).

    Returns
    -------
    Predictions
        A list of :class:`Prediction` ``(label, score, index)``, best first; equal scores by index. For a list of
        images a list of such lists. (Where single failures should not end it: :meth:`Pipeline.stream_predictions`.)

    Raises
    ------
    ImageError
        If a picture cannot be used.
    ConfigError
        If an option is out of its range or the model is no classifier.
    CheckpointError, WeightsError
        If the model cannot be loaded.

    Examples
    --------
    >>> best = predict("reference/images/chelsea.png", "cifar10-xx-small")[0]
    >>> best.label
    'cat'
    """
    return as_pipeline(model).predict(image, top_k=top_k, **options)


@overload
def segment(
    image: list[Any] | tuple[Any, ...],
    model: Pipeline | str | os.PathLike[str] | None = None,
    *,
    crop: bool = False,
    **options: Unpack[PictureOptions],
) -> list[Segmentation]: ...


@overload
def segment(
    image: ImageSource,
    model: Pipeline | str | os.PathLike[str] | None = None,
    *,
    crop: bool = False,
    **options: Unpack[PictureOptions],
) -> Segmentation: ...


def segment(
    image: Any,
    model: Pipeline | str | os.PathLike[str] | None = None,
    *,
    crop: bool = False,
    **options: Unpack[PictureOptions],
) -> Any:
    """Tell the class of every pixel of a picture.

    Parameters
    ----------
    image : path, bytes, file object, PIL image or array, or a list of these
        See :func:`predict`.
    model : Pipeline, str or path, optional
        A loaded pipeline, or what :func:`load` takes; a name is loaded once per process.
    crop : bool
        False: the network sees the whole picture, its shortest edge resized. True: the centre alone, as in
        transformers.
    **options
        How pictures are read, and limits: see :func:`predict`.

    Returns
    -------
    Segmentation
        Its ``mask`` has the size of the picture, upright if its EXIF data say how it was held. For a list of images a
        list of them.

    Raises
    ------
    ImageError
        If a picture cannot be used.
    ConfigError
        If an option is out of its range or the model does not segment.
    CheckpointError, WeightsError
        If the model cannot be loaded.

    Notes
    -----
    The logits are resized to the picture's size, bilinearly, as ``post_process_semantic_segmentation`` of transformers
    does with the picture's size as target; of a crop, to the part of the picture that it shows.
    """
    return as_pipeline(model, "segmentation").segment(image, crop=crop, **options)
