"""What there is to see of a network at a picture, as arrays: measured here, shown by ``page``."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from npmobilevit import ops
from npmobilevit.config import MAX_SIZE, MOBILENET_DEPTHS, TRANSFORMER_DEPTHS
from npmobilevit.cost import cost_table
from npmobilevit.errors import ImageError
from npmobilevit.explanation.attention import AttentionGatherer, BlockAttention
from npmobilevit.image_processing import Geometry, MobileViTImageProcessor
from npmobilevit.images import ImageSource, ReadOptions, to_rgb
from npmobilevit.models import MobileViTForSemanticSegmentation, PreTrainedModel
from npmobilevit.ops.arrays import Array
from npmobilevit.pipeline import PictureOptions, Pipeline, class_scores, within_memory
from npmobilevit.results import Predictions, Segmentation, SegmentedClass

LIMITS = ("max_pixels", "max_resized_pixels", "max_network_pixels")
TOP_CLASSES = 5
MOST_CLASS_MAPS = 12
MOST_CHANNELS = 24
OCCLUSION_STEPS = 8  # along the longer side: at most 64 forward passes
MOST_TIMED_RUNS, TIMED_SECONDS = 5, 1.0  # no further run begins when so much time is spent
PATCH_STEPS = 2  # side of the grey patch, in strides

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, eq=False)
class Occlusion:
    """How the probability of a class changes when a part of the picture is covered.

    Attributes
    ----------
    stride : int
        Pixels between neighbouring places of the patch.
    side : int
        Of the patch, in pixels. It is centred on a square of `stride` pixels, and cut off at the border.
    fall : (rows, columns) float64 array
        Probability without the patch less that with it there; negative where covering helps.
    """

    stride: int
    side: int
    fall: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A part of the network and what it put out.

    Attributes
    ----------
    name : str
        Of the tap at its end.
    title : str
    shape : (C, H, W) or None
        Of the map that it puts out; None of a part that puts out no map.
    channels : sequence of int
        Those shown: the ones whose values vary most over the picture, in their order in the map.
    maps : (len(channels), H, W) float32 array
    seconds : float
        Of one forward pass of the readable network.
    transformer_seconds : float
        Of these, in the transformer.
    macs, transformer_macs : int
        Multiply-accumulates of the same.
    """

    name: str
    title: str
    shape: tuple[int, int, int] | None
    channels: Sequence[int]
    maps: NDArray[np.float32]
    seconds: float
    transformer_seconds: float
    macs: int
    transformer_macs: int


@dataclasses.dataclass(frozen=True, eq=False)
class ClassMap:
    """The probability of a class at each pixel of the logits, (h, w) in 0..1."""

    found: SegmentedClass
    probability: NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """What a network makes of a picture.

    Attributes
    ----------
    model : str
    num_labels : int
    precision : str
        Of the network.
    picture_name : str or None
        Name of the picture's file, without folders; None of a picture that was not read from a path.
    picture_size : (int, int)
        Height and width of the picture, upright, before the preparation.
    geometry : Geometry
        What became of that size: the resize and the crop.
    seen : (H, W, 3) uint8 array
        The picture as the network sees it: `pixel_values` in RGB.
    predictions : Predictions or None
        The five best classes of a classifier.
    occlusion : Occlusion or None
        Of the best class of a classifier.
    segmentation : Segmentation or None
        Of a segmenter, as :func:`npmobilevit.segment` returns it.
    class_maps : sequence of ClassMap
        Of a segmenter: the classes with the largest shares.
    attention : sequence of BlockAttention
    stages : sequence of Stage
        In the order of the forward pass.
    timed_apart : bool
        Whether the seconds of the stages are those of a forward pass that nothing else was done in; else, of the pass
        whose values were looked at, without the time of looking.
    timed_passes : int
        How many forward passes were timed: the seconds are those of the fastest.
    """

    model: str
    num_labels: int
    precision: str
    picture_name: str | None
    picture_size: tuple[int, int]
    geometry: Geometry
    seen: NDArray[np.uint8]
    predictions: Predictions | None
    occlusion: Occlusion | None
    segmentation: Segmentation | None
    class_maps: Sequence[ClassMap]
    attention: Sequence[BlockAttention]
    stages: Sequence[Stage]
    timed_apart: bool
    timed_passes: int

    def __repr__(self) -> str:
        height, width = self.seen.shape[:2]
        return f"<Evidence of {self.model} at {height} x {width} pixels>"


class View(NamedTuple):
    """A picture in front of a network.

    Attributes
    ----------
    pipeline : Pipeline
        A segmenter without its crop.
    name : str or None
        Of the picture's file, without folders.
    rgb : (H, W, 3) uint8 array
    geometry : Geometry
        What becomes of its size.
    pixel_values : (1, 3, H', W') float32 array
    limits : mapping
        Those of the options that hold for the array as well.
    """

    pipeline: Pipeline
    name: str | None
    rgb: NDArray[np.uint8]
    geometry: Geometry
    pixel_values: Array
    limits: Mapping[str, Any]


def view(pipeline: Pipeline, image: ImageSource, **options: Unpack[PictureOptions]) -> View:
    """Read and prepare a picture; see :func:`npmobilevit.explain`."""
    given: dict[str, Any] = {**options}
    if isinstance(pipeline.network, MobileViTForSemanticSegmentation):
        pipeline.require_segmenter()
        pipeline = pipeline.without_crop()
    else:
        pipeline.require_classifier()

    def prepared(image: ImageSource) -> View:
        rgb = to_rgb(image, **{name: given[name] for name in ReadOptions.__optional_keys__ if name in given})
        limits = {name: given[name] for name in LIMITS if name in given}  # what else there is to reading has been done
        geometry = pipeline.processor.geometry(rgb.shape[0], rgb.shape[1])
        pixel_values = pipeline.pixel_values(rgb, **limits)
        if max(geometry.network) > MAX_SIZE:
            raise ImageError(
                f"a picture of {rgb.shape[0]} x {rgb.shape[1]} (height x width) would enter the network as "
                f"{geometry.network[0]} x {geometry.network[1]}, and a side may have at most {MAX_SIZE:,} pixels here. "
                "Crop it.",
                "network-too-large",
            )
        return View(pipeline, file_name(image), rgb, geometry, pixel_values, limits)

    return within_memory(prepared)(image)


def file_name(image: ImageSource) -> str | None:
    """Name of the file that a picture is read from, without folders; None if it is not named by a path."""
    return os.path.basename(os.fsdecode(image)) if isinstance(image, (str, os.PathLike)) else None


def gather(seen: View) -> Evidence:
    """Look at a picture with a network, and at the network while it looks; see :func:`npmobilevit.explain`."""
    return within_memory(_gather)(seen)


def _gather(seen: View) -> Evidence:
    pipeline, name, rgb, geometry, pixel_values, limits = seen
    segments = isinstance(pipeline.network, MobileViTForSemanticSegmentation)
    segmentation = pipeline.segment(rgb, **limits) if segments else None
    predictions = None if segments else pipeline.predict(rgb, top_k=TOP_CLASSES, **limits)
    inside = look_inside(pipeline, pixel_values)
    return Evidence(
        model=pipeline.name,
        num_labels=pipeline.config.num_labels,
        precision=pipeline.network.precision,
        picture_name=name,
        picture_size=(rgb.shape[0], rgb.shape[1]),
        geometry=geometry,
        seen=seen_by_network(pixel_values, pipeline.processor),
        predictions=predictions,
        occlusion=None if predictions is None else occlude(pipeline, pixel_values, predictions[0].index),
        segmentation=segmentation,
        class_maps=() if segmentation is None else class_maps(segmentation, inside.logits),
        attention=inside.attention,
        stages=inside.stages,
        timed_apart=inside.timed_apart,
        timed_passes=inside.timed_passes,
    )


def seen_by_network(pixel_values: Array, processor: MobileViTImageProcessor) -> NDArray[np.uint8]:
    """Pixel values (1, 3, H, W) as a picture (H, W, 3) in RGB."""
    levels = np.rint(pixel_values[0] / np.float32(processor.rescale_factor)).clip(0, 255).astype(np.uint8)
    rgb = levels[::-1] if processor.do_flip_channel_order else levels
    return np.ascontiguousarray(np.moveaxis(rgb, 0, -1))


# the answer


def occlude(pipeline: Pipeline, pixel_values: Array, index: int) -> Occlusion:
    """Cover one part of the picture after the other with a grey patch, and see what becomes of a class.

    Parameters
    ----------
    pipeline : Pipeline
        A classifier; its engine runs.
    pixel_values : (1, 3, H, W) float32 array
    index : int
        Of the class.

    Returns
    -------
    Occlusion

    Notes
    -----
    The occlusion sensitivity of Zeiler and Fergus, https://arxiv.org/abs/1311.2901, section 4.2.
    """

    def score(x: Array) -> float:
        return float(class_scores(pipeline.network(x).logits[0], pipeline.config)[index])

    height, width = pixel_values.shape[2:]
    stride = -(-max(height, width) // OCCLUSION_STEPS)
    side = PATCH_STEPS * stride
    margin = (side - stride) // 2
    grey = 127.5 * pipeline.processor.rescale_factor
    before = score(pixel_values)
    fall = np.empty((-(-height // stride), -(-width // stride)), np.float64)
    for row, column in np.ndindex(fall.shape):
        top, left = row * stride - margin, column * stride - margin
        covered = pixel_values.copy()
        covered[:, :, max(0, top) : top + side, max(0, left) : left + side] = grey
        fall[row, column] = before - score(covered)
    return Occlusion(stride, side, fall)


def class_maps(segmentation: Segmentation, logits: Array) -> tuple[ClassMap, ...]:
    """Probabilities of the classes with the largest shares, from logits (num_labels, h, w)."""
    probabilities = ops.softmax(logits, axis=0)
    return tuple(
        ClassMap(found, probabilities[found.id].astype(np.float32)) for found in segmentation.classes[:MOST_CLASS_MAPS]
    )


# the inside


class Inside(NamedTuple):
    """What the readable network lets see: logits of the one picture, and what is in :class:`Evidence`."""

    logits: Array
    attention: tuple[BlockAttention, ...]
    stages: tuple[Stage, ...]
    timed_apart: bool
    timed_passes: int


class Stopwatch:
    """Seconds since it was made, without those that were spent in functions that are not to count."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    def outside(self, function: Callable[P, R]) -> Callable[P, R]:
        """The same function, which stops the watch while it runs."""

        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            before = self.seconds()
            result = function(*args, **kwargs)
            self._begin += self.seconds() - before
            return result

        return run


def look_inside(pipeline: Pipeline, pixel_values: Array) -> Inside:
    """Run the readable network to see its values, and, unless that takes long, again to see how long each part takes.

    Parameters
    ----------
    pipeline : Pipeline
    pixel_values : (1, 3, H, W) float32 array

    Returns
    -------
    Inside
    """
    network = pipeline.network
    x = network.check_pixel_values(pixel_values)
    titles = stage_titles(segments=network.head == "segmentation")
    maps: dict[str, _Maps] = {}
    moments: dict[str, float] = {}
    gatherer = AttentionGatherer(pipeline.config.patch_size)

    def keep(name: str, x: Array) -> None:
        moments[name] = watch.seconds()
        if name in titles:
            maps[name] = _strongest(x[0]) if x.ndim == 4 else _Maps(None, (), np.empty((0, 1, 1), np.float32))

    watch = Stopwatch()
    scope = gatherer.scope(network.scope(), watch.outside(keep))
    scope = dataclasses.replace(scope, reduce=watch.outside(scope.reduce), heard=watch.outside(scope.heard))
    logits, _ = network.forward(scope, x)
    timed_apart = watch.seconds() < TIMED_SECONDS
    passes = 1
    if timed_apart:
        moments, passes = _fastest(network, x)
    times, macs = _times(moments, titles), _macs(pipeline, x, titles)
    stages = (Stage(name, title, *maps[name], *times[name], *macs[name]) for name, title in titles.items())
    return Inside(logits[0], gatherer.blocks(), tuple(stages), timed_apart, passes)


def stage_titles(*, segments: bool) -> dict[str, str]:
    """The taps at the ends of the parts of a classifier or segmenter, in forward order, and what the parts are."""
    layer = "mobilevit.encoder.layer."
    titles = {"mobilevit.conv_stem": "Stem: a convolution with stride 2"}
    for i, depth in enumerate(MOBILENET_DEPTHS):
        titles[f"{layer}{i}"] = f"Encoder layer {i}: {depth} inverted residual{'s' * (depth > 1)}"
    for i in range(len(MOBILENET_DEPTHS), len(MOBILENET_DEPTHS) + len(TRANSFORMER_DEPTHS)):
        titles[f"{layer}{i}"] = f"Encoder layer {i}: MobileViT block"
    if segments:
        return titles | {
            "segmentation_head.aspp": "Head: atrous spatial pyramid pooling",
            "segmentation_head": "Head: a score for every class and pixel",
        }
    return titles | {
        "mobilevit.conv_1x1_exp": "Widening convolution",
        "classifier": "Head: mean over the map, and a score for every class",
    }


class _Maps(NamedTuple):
    """Shape, channels and maps of a :class:`Stage`."""

    shape: tuple[int, int, int] | None
    channels: tuple[int, ...]
    maps: NDArray[np.float32]


def _strongest(x: Array) -> _Maps:
    """The channels of (C, H, W) whose values vary most."""
    varies = x.std(axis=(1, 2))
    channels = np.sort(np.argsort(-varies, kind="stable")[:MOST_CHANNELS])
    depth, height, width = x.shape
    return _Maps((depth, height, width), tuple(channels.tolist()), x[channels].astype(np.float32))


def _macs(pipeline: Pipeline, x: Array, stages: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Multiply-accumulates of each stage, and how many of them in its transformer."""
    found = dict.fromkeys(stages, (0, 0))
    for row in cost_table(pipeline.config, (x.shape[2], x.shape[3]), head=pipeline.network.head).rows:
        stage = next((stage for stage in found if row.name.startswith(stage)), None)
        if stage is not None:
            whole, inner = found[stage]
            inside = row.name.startswith(f"{stage}.transformer.")
            found[stage] = whole + row.macs, inner + inside * row.macs
    return found


def _times(moments: Mapping[str, float], stages: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Seconds that each stage takes, and how many of them its transformer, of when each tap was there."""
    found, start = {}, 0.0
    for name in stages:
        within = moments.get(f"{name}.transformer", 0.0) - moments.get(f"{name}.conv_1x1", 0.0)
        found[name] = moments[name] - start, within
        start = moments[name]
    return found


def _fastest(network: PreTrainedModel, x: Array) -> tuple[dict[str, float], int]:
    """When each tap is there in the fastest of a few runs, in seconds from its begin, and how many runs there were."""
    runs = [_moments(network, x)]
    while len(runs) < MOST_TIMED_RUNS and sum(map(_end, runs)) < TIMED_SECONDS:
        runs.append(_moments(network, x))
    return min(runs, key=_end), len(runs)


def _end(moments: Mapping[str, float]) -> float:
    return max(moments.values())


def _moments(network: PreTrainedModel, x: Array) -> dict[str, float]:
    moments: dict[str, float] = {}
    watch = Stopwatch()

    def note(name: str, _: Array) -> None:
        moments[name] = watch.seconds()

    network.forward(dataclasses.replace(network.scope(note), wants=lambda name: False), x)
    return moments
