"""What lies before and after the network: the picture's way to pixel values, and the logits' way to a result.

Each step is judged on the tensor that the port itself gave for the step before, so that a wrong step blames no later
one. What a failing tensor shows is said in words where a cheap trial leaves no doubt about it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit import ops
from npmobilevit.config import MobileViTConfig
from npmobilevit.errors import ImageError
from npmobilevit.image_processing import MobileViTImageProcessor
from npmobilevit.images import ImageSource, to_rgb
from npmobilevit.label_maps import resized_parts
from npmobilevit.ops.arrays import Array
from npmobilevit.ops.resize import Sources, sources, sources_at
from npmobilevit.pipeline import class_scores
from npmobilevit.validation.comparing import compare, unmeasured
from npmobilevit.validation.profiles import BFLOAT16, FLOAT16, FLOAT32, Profile
from npmobilevit.validation.report import Finding, Judgement, Test
from npmobilevit.validation.structure import layout

Judged: TypeAlias = list[tuple[Judgement, list[Finding]]]

# The taps of the image processor in their order, each with the setting that switches its step off.
STEPS: Mapping[str, str | None] = {
    "picture": None,
    "resized": "do_resize",
    "center_cropped": "do_center_crop",
    "rescaled": "do_rescale",
    "pixel_values": "do_flip_channel_order",
}

BYTES = ("picture", "resized", "center_cropped")

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of R, G, B
SCORE_ROUNDINGS = 8  # of one exponential, the division and what is around them
RESIZE_ROUNDINGS = 8  # of one blended value
COORDINATE_ROUNDINGS = 4  # of a source coordinate: scale, product, difference
TRIAL_PIXELS = 2**18  # of a mask, to try explanations on
EXPLAINED = 0.01  # share of pixels that a rounding may decide otherwise in an explanation


def _judgement(
    tap: str, found: Array, expected: Array, tolerance: Array, region: tuple[str, ...] = (), test: Test = "local"
) -> Judgement:
    """Compare two finite tensors of one shape. These tolerances hold for any order of roundings."""
    judgement = compare(tap, found, expected, tolerance, region=region, test=test)
    return dataclasses.replace(judgement, proof=judgement.beyond > 0)


def _unmeasured(tap: str, shape: tuple[int, ...], region: tuple[str, ...] = (), test: Test = "exact") -> Judgement:
    """The judgement of a tensor that cannot be compared."""
    return dataclasses.replace(unmeasured(tap, shape, region=region, test=test), proof=True)


# --- before the network


def judge_picture(
    tensors: Mapping[str, Any],
    image: ImageSource,
    processor: MobileViTImageProcessor,
    profile: Profile,
    scales: Mapping[str, float] = MappingProxyType({}),
) -> Judged:
    """Judge the steps from a picture to pixel values.

    Parameters
    ----------
    tensors : mapping of str to array
        The port's. Looked at are "picture" (decoded and upright), "resized" and "center_cropped", each RGB, uint8 or
        other integers (H, W, 3); "rescaled", RGB, (3, H, W) or (H, W, 3); "pixel_values", (1, 3, H, W).
    image : path, bytes, binary file object, PIL image or array
        See :func:`npmobilevit.images.to_rgb`.
    processor : MobileViTImageProcessor
        Its settings say which steps are taken; the tensor of a step that is not taken has to be the one before.
    profile : Profile
    scales : mapping of str to float
        Steps of those tensors that are quantised: they may be one step away besides.

    Returns
    -------
    list of (Judgement, list of Finding)
        Of the given tensors, in the order of the steps.

    Raises
    ------
    ImageError
        If the image cannot be used.

    Notes
    -----
    Bytes have to be equal, and so have values that only changed their order. Rescaled values may be two roundings
    of the profile away: one of the factor 1/255, one of the result.
    """
    before = _Before("picture", "the image", np.moveaxis(to_rgb(image), -1, 0)[None])
    unit = max(profile.store, FLOAT32)
    judged: Judged = []
    for name in STEPS:
        if name in tensors:
            found = np.asarray(tensors[name])
            judged.append(
                _judged_step(_Step(name, before, processor, unit, scales.get(name, 0.0), frozenset(tensors)), found)
            )
            pixels = _picture(name, found)
            if pixels is not None:
                before = _Before(name, f"the port's own {name}", pixels)
    return judged


class _Before(NamedTuple):
    """The tensor that a step is judged on: its name, what it is in words, and its pixels (1, 3, H, W), RGB."""

    name: str
    words: str
    pixels: NDArray[Any]


class _Step(NamedTuple):
    """One step of the image processor, or several where the port gives no tensor between them."""

    name: str
    before: _Before
    processor: MobileViTImageProcessor
    unit: float
    step: float
    given: frozenset[str]

    @property
    def taken(self) -> tuple[str, ...]:
        """The steps that lead from the tensor before to this one, by the processor's settings."""
        names = list(STEPS)
        between = names[names.index(self.before.name) + 1 : names.index(self.name) + 1]
        return tuple(name for name in between if getattr(self.processor, str(STEPS[name])))

    @property
    def white(self) -> float:
        """The value of white."""
        is_rescaled = self.processor.do_rescale and self.name in ("rescaled", "pixel_values")
        return 255 * self.processor.rescale_factor if is_rescaled else 255

    def expected(self) -> NDArray[Any]:
        """What this step, with all before it that are not given, makes of the tensor before: (1, 3, H, W).

        The rescaling is done here, for its exact result, which the processor rounds to float32.
        """
        if self.name == "picture":
            return self.before.pixels
        switches: dict[str, Any] = {flag: name in self.taken for name, flag in STEPS.items() if flag is not None}
        processor = dataclasses.replace(self.processor, **(switches | {"do_rescale": False}))
        pixels: NDArray[Any] = processor(self.before.pixels[0], input_data_format="channels_first")["pixel_values"]
        return pixels.astype(np.float64) * processor.rescale_factor if "rescaled" in self.taken else pixels

    def tolerance(self, found: NDArray[Any], expected: Array) -> Array:
        """Two roundings of what is rescaled, one of floats that change their type, none of anything else."""
        before = self.before.pixels.dtype
        is_stored_anew = before.kind == "f" and found.dtype != before
        roundings = 2 if "rescaled" in self.taken else 1 if is_stored_anew else 0
        return roundings * self.unit * np.abs(expected) + self.step


def _judged_step(step: _Step, found: NDArray[Any]) -> tuple[Judgement, list[Finding]]:
    region = tuple(name for name in step.taken if name != step.name and name not in step.given)
    fault = _unusable(step.name, found)
    try:
        # whole pictures are large, and float32 tells their bytes apart
        expected: Array = step.expected().astype(np.float32 if step.name in BYTES else np.float64)
    except ImageError as error:
        if step.before.words == "the image":
            raise
        fault = f"cannot be judged on {step.before.words}: {error}"
    if fault:
        return _unmeasured(step.name, found.shape, region), [_failure(step.name, fault)]
    tolerance = step.tolerance(found, expected)
    order = _axis_order(step.name, found.shape)
    values, right, allowed = found.astype(expected.dtype), _laid(expected, order), _laid(tolerance, order)
    if values.shape != right.shape:
        seen = layout(values, expected, tolerance)
        words = f": {seen.description}" if seen else ""
        fault = f"has the shape {found.shape} where {right.shape} is expected{words}"
        return _unmeasured(step.name, found.shape, region), [_failure(step.name, fault)]
    judgement = _judgement(step.name, values, right, allowed, region, "local" if tolerance.any() else "exact")
    if judgement.status == "right":
        return judgement, []
    seen_words = next(_seen(step, _restored(values, order), expected, tolerance))
    return judgement, [
        _failure(step.name, f"is not what the image processor makes of {step.before.words}: {seen_words}")
    ]


def _failure(tap: str, message: str, kind: str = "preprocessing") -> Finding:
    return Finding(tap, "fail", kind, message)


def _unusable(name: str, found: NDArray[Any]) -> str | None:
    """Why a tensor cannot be compared with anything, in words."""
    allowed = "iu" if name in BYTES else "iuf"
    if found.dtype.kind not in allowed:
        return f"is of {found.dtype} where {'whole numbers' if allowed == 'iu' else 'numbers'} are expected"
    if not np.isfinite(found).all():
        return "holds NaN or infinity"
    return None


def _axis_order(name: str, shape: tuple[int, ...]) -> str:
    """How a tap lays out its pixels: "NCHW", "CHW" or "HWC"."""
    if name == "pixel_values":
        return "NCHW"
    if name == "rescaled":
        return "HWC" if shape[-1:] == (3,) and shape[:1] != (3,) else "CHW"
    return "HWC"


def _laid(pixels: NDArray[Any], order: str) -> NDArray[Any]:
    """Lay out (1, 3, H, W) in an order."""
    if order == "NCHW":
        return pixels
    return pixels[0] if order == "CHW" else np.moveaxis(pixels[0], 0, -1)


def _restored(pixels: NDArray[Any], order: str) -> NDArray[Any]:
    """Bring pixels in an order back to (1, 3, H, W)."""
    if order == "NCHW":
        return pixels
    return pixels[None] if order == "CHW" else np.moveaxis(pixels, -1, 0)[None]


def _picture(name: str, found: NDArray[Any]) -> NDArray[Any] | None:
    """The pixels (1, 3, H, W) of a tensor; None if the next step cannot be judged on it."""
    if _unusable(name, found) is not None or not found.size:
        return None
    order = _axis_order(name, found.shape)
    if found.ndim != len(order) or found.shape[order.index("C")] != 3:
        return None
    return _restored(found, order)


# What a picture that differs shows. All pictures here are (1, 3, H, W).


def _seen(step: _Step, found: Array, expected: Array, tolerance: Array) -> Iterator[str]:
    """In words what a picture shows that is not the expected one: what is certain first."""
    moved = layout(found, expected, tolerance)
    if moved is not None:
        yield moved.description
    if step.white != 255:
        yield from _values_seen(step, found, expected, tolerance)
    yield from _shift_seen(found, expected, tolerance)
    grey = np.abs(found - expected) * (255 / step.white)
    if step.white != 255 and "resized" in step.taken:
        levels = found * (255 / step.white)
        broken = np.abs(levels - np.round(levels)) > 0.02
        if 0.3 < grey.max() <= 1 and broken.mean() > 0.25:
            yield (
                f"its values are no whole grey levels, and at most {grey.max():.2f} of one away: it was resized in "
                "floating point without rounding to bytes"
            )
    beyond = (np.abs(found - expected) > tolerance).any(axis=1)
    yield f"{np.count_nonzero(beyond)} of {beyond.size} pixels differ, by up to {grey.max():.3g} grey levels"


def _values_seen(step: _Step, found: Array, expected: Array, tolerance: Array) -> Iterator[str]:
    """Faults of the values' scale, also with the channels in the wrong order."""
    factor, unit = step.processor.rescale_factor, step.unit
    for channels, also in ((slice(None), ""), (slice(None, None, -1), ", and its channels are in reverse order")):
        right, allowed = expected[:, channels], tolerance[:, channels] + unit * np.abs(expected[:, channels])
        if _near(found * factor, right, allowed):
            yield f"its values are not rescaled by {factor:.6g}{also}"
        if _near(found / factor, right, allowed):
            yield f"its values are rescaled by {factor:.6g} twice{also}"
        for name, mean, deviation in _statistics():
            if _near(found * deviation + mean, right, allowed + 4 * unit):
                yield f"{name} were applied to its values, which have to be within 0..1{also}"
    for name, size in (("float16", FLOAT16), ("bfloat16", BFLOAT16)):
        if _near(found, expected, size * np.abs(expected)):
            yield f"its values are those expected, to the precision of {name}"


def _statistics() -> Iterator[tuple[str, Array, Array]]:
    """Means and standard deviations that other networks' pictures are normalised with, (3, 1, 1) or numbers."""
    mean, deviation = (np.array(values).reshape(3, 1, 1) for values in IMAGENET)
    yield "ImageNet's mean and standard deviation", mean, deviation
    yield "ImageNet's mean and standard deviation", mean[::-1], deviation[::-1]
    yield "a mean and a standard deviation of 0.5", np.array(0.5), np.array(0.5)


def _shift_seen(found: Array, expected: Array, tolerance: Array) -> Iterator[str]:
    height, width = expected.shape[2:]
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            to = (..., slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0)))
            of = (..., slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0)))
            if (down or right) and found[to].size and _near(found[to], expected[of], tolerance[of]):
                ways = [
                    f"one pixel {way}"
                    for way, is_it in (("down", down > 0), ("up", down < 0), ("right", right > 0), ("left", right < 0))
                    if is_it
                ]
                yield f"it shows the picture moved by {' and '.join(ways)}"


def _near(found: Array, expected: Array, tolerance: Array) -> bool:
    return bool((np.abs(found - expected) <= tolerance).all())


# --- after the network


def judge_probabilities(logits: Array, probabilities: Any, config: MobileViTConfig, profile: Profile) -> Judged:
    """Judge the scores of a classifier on its logits.

    Parameters
    ----------
    logits : (N, K) float64 array
        The port's.
    probabilities : (N, K) array
        The port's.
    config : MobileViTConfig
        Tells whether the scores are the softmax or the sigmoid, see `npmobilevit.pipeline.class_scores`.
    profile : Profile

    Returns
    -------
    list of (Judgement, list of Finding)

    Notes
    -----
    With u for sums and functions, v for what is stored, and m the largest logit: the exponent s - m may be off by
    v*|s - m|, which changes the softmax p by p times that, and the sum below it by the mean of that with weights p;
    sum, exponential and division add (n + 8)*u, storing of numerator, sum and result 4*v. For the sigmoid p of s the
    exponent is s itself, which acts on p by the factor 1 - p.
    """
    name, found = "probabilities", np.asarray(probabilities)
    fault = _score_fault(logits) or _unusable(name, found)
    if not fault and found.shape != logits.shape:
        fault = f"has the shape {found.shape} where that of the logits, {logits.shape}, is expected"
    if fault:
        return [(_unmeasured(name, found.shape, test="local"), [_failure(name, fault, name)])]
    values = found.astype(np.float64)
    is_softmax = class_scores(np.ones(2), config)[0] == 0.5  # the sigmoid of 1 is 0.73
    expected = class_scores(logits, config)
    tolerance = _score_tolerance(logits, expected, is_softmax, profile)
    judgement = _judgement(name, values, expected, tolerance)
    findings = []
    if judgement.status == "wrong":
        seen = next(_scores_seen(logits, values, is_softmax, profile))
        function = "softmax" if is_softmax else "sigmoid"
        findings.append(_failure(name, f"is not the {function} of the port's own logits: {seen}", name))
    return [(judgement, findings)]


def _score_fault(logits: Array) -> str | None:
    if logits.ndim != 2 or not logits.size or not np.isfinite(logits).all():
        return f"cannot be judged: the logits of a classifier are finite numbers (N, K), found shape {logits.shape}"
    return None


def _score_tolerance(logits: Array, scores: Array, is_softmax: bool, profile: Profile) -> Array:
    store, n = max(profile.store, profile.accumulate), logits.shape[1]
    if is_softmax:
        below = np.abs(logits - logits.max(axis=1, keepdims=True))
        exponent = below + (scores * below).sum(axis=1, keepdims=True)
    else:
        exponent, n = np.abs(logits) * (1 - scores), 1
    relative = exponent * store + (n + SCORE_ROUNDINGS) * profile.accumulate + 4 * store
    tolerance: Array = scores * relative + max(profile.smallest, 2.0**-126)
    return tolerance


def _scores_seen(logits: Array, found: Array, is_softmax: bool, profile: Profile) -> Iterator[str]:
    """In words what scores show that are not the expected ones."""
    right, other = (ops.softmax, ops.sigmoid) if is_softmax else (ops.sigmoid, ops.softmax)
    names = ("softmax", "sigmoid") if is_softmax else ("sigmoid", "softmax")
    once = right(logits)
    for words, of, scores, soft in (
        (f"it is the {names[0]} of the {names[0]}, taken twice", once, right(once), is_softmax),
        (f"it is the {names[1]}", logits, other(logits), not is_softmax),
    ):
        if _near(found, scores, 4 * _score_tolerance(of, scores, soft, profile)):
            yield words
    if np.array_equal(found, logits):
        yield "it is the logits themselves"
    sums = found.sum(axis=1)
    row = int(np.abs(sums - 1).argmax())
    difference = f"the largest difference is {np.abs(found - once).max():.3g}"
    if is_softmax and abs(sums[row] - 1) > _score_tolerance(logits, once, True, profile)[row].sum():
        yield f"it sums to {sums[row]:.6g} in row {row}, and not to 1; {difference}"
    yield difference


class _Worst(NamedTuple):
    """Classes that have not the largest logit: how many, and the one that is worst in units of its tolerance."""

    beyond: int = 0
    place: tuple[int, ...] = ()
    label: int = 0
    best: int = 0
    shortfall: float = 0.0
    tolerance: float = 0.0

    @property
    def ratio(self) -> float:
        if not self.shortfall:
            return 0.0
        return self.shortfall / self.tolerance if self.tolerance else math.inf

    def judgement(self, tap: str, shape: tuple[int, ...], logits: Array, resolution: float = 0.0) -> Judgement:
        return Judgement(
            tap=tap,
            shape=shape,
            region=(),
            status="wrong" if self.beyond else "right",
            test="local" if resolution else "exact",
            error=self.shortfall,
            worst=self.place[-len(shape) :],
            found=self.label,
            expected=self.best,
            tolerance=self.tolerance,
            ratio=self.ratio,
            beyond=self.beyond,
            screen=0.0,
            resolution=resolution,
            scale=math.sqrt(float(np.square(logits).mean())),
            proof=self.beyond > 0,
        )


def judge_labels(logits: Array, labels: Any, config: MobileViTConfig) -> Judged:
    """Judge the classes that a classifier names on its logits.

    Parameters
    ----------
    logits : (N, K) float64 array
        The port's.
    labels : (N,) or (N, k) array of whole numbers
        The port's: indices of classes, best first. Those of equal logits may stand in any order.
    config : MobileViTConfig
        For the names of the classes.

    Returns
    -------
    list of (Judgement, list of Finding)
        `found` and `expected` of the judgement are classes.
    """
    found = np.asarray(labels)
    fault = _score_fault(logits) or _label_fault(logits, found)
    if fault:
        return [(_unmeasured("labels", found.shape), [_failure("labels", fault, "labels")])]
    given = found.reshape(len(logits), -1).astype(np.int64)
    wrong = _misplaced(logits, given)
    if not wrong.any():
        return [(_Worst().judgement("labels", found.shape, logits), [])]
    row, place = (int(i) for i in np.argwhere(wrong)[0])
    label = int(given[row, place])
    best = int(np.argsort(-logits[row], kind="stable")[place])
    # a class that is named twice is wrong even where its logit is as large as the right one
    away = abs(float(logits[row, best] - logits[row, label])) if 0 <= label < logits.shape[1] else math.inf
    count = int(np.count_nonzero(wrong))
    worst = _Worst(count, (row, place)[: found.ndim], label, best, away or math.inf)
    message = (
        f"{_shift_of_labels(logits, given)}picture {row}, place {place + 1} is {_named(label, config)}, and by the "
        f"port's own logits {_named(best, config)}; {count} of {wrong.size} are wrong"
    )
    return [(worst.judgement("labels", found.shape, logits), [_failure("labels", message, "labels")])]


def _label_fault(logits: Array, found: NDArray[Any]) -> str | None:
    pictures, classes = logits.shape
    if found.dtype.kind not in "iu":
        return f"is of {found.dtype} where whole numbers are expected"
    if found.shape != (pictures,) and (found.shape[:1] != (pictures,) or found.ndim != 2 or not found.size):
        return f"has the shape {found.shape} where ({pictures},) or ({pictures}, k) is expected"
    if found.size > pictures * classes:
        return f"has {found.shape[1]} labels a picture where there are {classes} classes"
    return None


def _shift_of_labels(logits: Array, labels: NDArray[np.int64]) -> str:
    shifts = {"every index is one too high: ": 1, "every index is one too low: ": -1}
    return next((words for words, by in shifts.items() if not _misplaced(logits, labels - by).any()), "")


def _misplaced(logits: Array, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which labels (N, k) have not the logit that belongs at their place, or stand there a second time."""
    inside = (labels >= 0) & (labels < logits.shape[1])
    values = np.take_along_axis(logits, np.where(inside, labels, 0), axis=1)
    ranked = -np.sort(-logits, axis=1)[:, : labels.shape[1]]
    again = np.ones(labels.shape, bool)
    for row, first in zip(again, labels, strict=True):
        row[np.unique(first, return_index=True)[1]] = False
    wrong: NDArray[np.bool_] = ~inside | (values != ranked) | again
    return wrong


def _named(label: int, config: MobileViTConfig) -> str:
    name = config.id2label.get(label)
    return f"{label} ({name})" if name is not None else f"{label}, which is no class"


class _Mask(NamedTuple):
    """Label maps (N, H, W), and where each of their pixels lies among the logits (N, K, h, w)."""

    logits: Array
    labels: NDArray[np.int64]
    rows: Sources
    columns: Sources
    units: tuple[float, float]  # relative sizes of roundings, of values and of coordinates


def judge_mask(logits: Array, mask: Any, target_size: tuple[int, int] | None, profile: Profile) -> Judged:
    """Judge a label map on the logits that it was made of.

    Parameters
    ----------
    logits : (N, K, h, w) float64 array
        The port's.
    mask : (N, H, W) array of whole numbers, or (H, W) where N is 1
        The port's: the class of the largest of the logits, which are resized bilinearly (align_corners=False).
    target_size : (height, width), optional
        Of the mask; None: that of the logits.
    profile : Profile

    Returns
    -------
    list of (Judgement, list of Finding)
        `found` and `expected` of the judgement are classes; its `error` is by how much the logit of the class that
        was found is smaller than the largest, at the pixel where that is most in units of its tolerance.

    Notes
    -----
    Of each of the two logits that are compared, the tolerance is 8 roundings of sum(w*|x|) over the values that are
    blended, and what an error of the coordinate by 4 roundings makes of the class's largest step between neighbours.
    Without a resize there is none.
    """
    found = np.asarray(mask)
    size = logits.shape[2:] if target_size is None else target_size
    fault = _mask_fault(logits, found) or _mask_shape_fault(logits, found, size, profile)
    if fault:
        return [(_unmeasured("mask", found.shape, test="local"), [_failure("mask", fault, "mask")])]
    given = _mask_of(logits, found.reshape(-1, *size), size, profile)
    first, worst = _wrong_pixels(given)
    judgement = worst.judgement("mask", found.shape, logits, _mask_resolution(given))
    if not worst.beyond:
        return [(judgement, [])]
    message = (
        f"{_mask_seen(given)}{worst.beyond} of {found.size} pixels have another class than the largest of the "
        f"{'logits' if size == logits.shape[2:] else 'resized logits'}, the first at {first[-found.ndim :]}"
    )
    return [(judgement, [_failure("mask", message, "mask")])]


def _mask_of(logits: Array, labels: NDArray[Any], size: tuple[int, ...], profile: Profile) -> _Mask:
    rows, columns = (sources(logits.shape[2 + axis], size[axis], np.dtype(np.float64)) for axis in range(2))
    units = (0.0, 0.0) if size == logits.shape[2:] else (max(profile.store, profile.accumulate), profile.accumulate)
    return _Mask(logits, labels.astype(np.int64), rows, columns, units)


def _mask_fault(logits: Array, found: NDArray[Any]) -> str | None:
    if logits.ndim != 4 or not logits.size or not np.isfinite(logits).all():
        return f"cannot be judged: the logits of a segmentation are finite (N, K, h, w), found shape {logits.shape}"
    if found.dtype.kind not in "iu":
        return f"is of {found.dtype} where whole numbers are expected"
    return None


def _mask_shape_fault(logits: Array, found: NDArray[Any], size: tuple[int, ...], profile: Profile) -> str | None:
    """What is wrong with the shape of a mask, in words, with the reason where a trial shows it."""
    count = len(logits)
    if found.shape == (count, *size) or (count == 1 and found.shape == size):
        return None
    fault = f"has the shape {found.shape} where {(count, *size)} is expected"
    own = found.shape[-2:]
    if own not in (size[::-1], logits.shape[2:]) or found.size != count * math.prod(own):
        return fault
    labels = found.reshape(count, *own)
    if _share(_mask_of(logits, labels, own, profile)) <= EXPLAINED:
        return (
            f"{fault}: {'it was not resized' if own == logits.shape[2:] else 'the size was taken for (width, height)'}"
        )
    if own == size[::-1] and _share(_mask_of(logits, labels.transpose(0, 2, 1), size, profile)) <= EXPLAINED:
        return f"{fault}: its rows and columns are exchanged"
    return fault


def _mask_seen(given: _Mask) -> str:
    """In words what a mask with wrong pixels shows, if anything does."""
    least = min(EXPLAINED, _share(given) / 10)
    return next((f"{words}: " for words, mask in _explanations(given) if _share(mask) <= least), "")


def _explanations(given: _Mask) -> Iterator[tuple[str, _Mask]]:
    yield "every label is one too high", given._replace(labels=given.labels - 1)
    yield "every label is one too low", given._replace(labels=given.labels + 1)
    (height, width), lengths = given.labels.shape[1:], given.logits.shape[2:]
    if height == width:
        yield "its rows and columns are exchanged", given._replace(labels=given.labels.transpose(0, 2, 1))
    for origin in (0.0, 0.5):  # torch counts from the corner of a pixel, Pillow from its centre
        rows, columns = _nearest(lengths[0], height, origin), _nearest(lengths[1], width, origin)
        nearest = given._replace(rows=rows, columns=columns)
        yield "the labels were resized, to the nearest, and not the logits", nearest
    rows, columns = _corner_aligned(lengths[0], height), _corner_aligned(lengths[1], width)
    yield "the logits were resized with align_corners=True", given._replace(rows=rows, columns=columns)


def _nearest(length: int, out: int, origin: float) -> Sources:
    index = np.minimum(np.floor((np.arange(out) + origin) * (length / out)).astype(np.intp), length - 1)
    return Sources(index, index, np.zeros(out))


def _corner_aligned(length: int, out: int) -> Sources:
    return sources_at(np.arange(out) * ((length - 1) / max(out - 1, 1)), length, np.dtype(np.float64))


def _share(mask: _Mask) -> float:
    """Share of wrong pixels, of some at equal distances."""
    step = math.ceil(math.sqrt(math.prod(mask.labels.shape[1:]) / TRIAL_PIXELS))
    rows, columns = (
        Sources(axis.first[::step], axis.second[::step], axis.weight[::step]) for axis in (mask.rows, mask.columns)
    )
    some = mask._replace(labels=mask.labels[:, ::step, ::step], rows=rows, columns=columns)
    return _wrong_pixels(some)[1].beyond / some.labels.size


def _wrong_pixels(mask: _Mask) -> tuple[tuple[int, ...], _Worst]:
    """The first wrong pixel, and the worst with the number of them; part by part."""
    firsts, worsts = [], [_Worst()]
    for i, logits in enumerate(mask.logits):
        for (rows, columns), part in resized_parts(logits, mask.rows, mask.columns):
            y, x = np.nonzero(part.argmax(axis=0) != mask.labels[i, rows, columns])
            if len(y):
                first, worst = _worst_of_part(mask, i, part, (y, x), (rows.start, columns.start))
                firsts += first
                worsts.append(worst)
    total = sum(worst.beyond for worst in worsts)
    return min(firsts, default=()), max(worsts, key=lambda worst: worst.ratio)._replace(beyond=total)


def _worst_of_part(
    mask: _Mask, i: int, part: Array, at: tuple[NDArray[np.intp], NDArray[np.intp]], start: tuple[int, int]
) -> tuple[list[tuple[int, ...]], _Worst]:
    """The first wrong one, if there is one, and the worst of some pixels of a part (K, rows, columns) of picture i."""
    y, x = at[0] + start[0], at[1] + start[1]
    labels, best = mask.labels[i, y, x], part[:, at[0], at[1]].argmax(axis=0)
    is_class = (labels >= 0) & (labels < len(part))
    known = np.where(is_class, labels, 0)
    shortfall = np.where(is_class, part[best, *at] - part[known, *at], np.inf)
    tolerance = _resize_tolerance(mask, i, known, y, x) + _resize_tolerance(mask, i, best, y, x)
    wrong = np.flatnonzero(shortfall > tolerance)  # the pixels are in the order of rows
    with np.errstate(divide="ignore", invalid="ignore"):
        k = int(np.where(shortfall > 0, shortfall / tolerance, 0.0).argmax())
    first: list[tuple[int, ...]] = [(i, int(y[w]), int(x[w])) for w in wrong[:1]]
    place = (i, int(y[k]), int(x[k]))
    return first, _Worst(len(wrong), place, int(labels[k]), int(best[k]), float(shortfall[k]), float(tolerance[k]))


def _largest_steps(logits: Array, axis: int) -> Array:
    """Of each class, the largest difference of neighbours along an axis of (K, h, w)."""
    steps: Array = np.abs(np.diff(logits, axis=axis)).max(axis=(1, 2), initial=0.0)
    return steps


def _resize_tolerance(
    mask: _Mask, i: int, classes: NDArray[np.intp], y: NDArray[np.intp], x: NDArray[np.intp]
) -> Array:
    """How far the resized logits of these classes at these pixels of picture i may be from the exact ones."""
    value, coordinate = mask.units
    logits, size = mask.logits[i], np.zeros(len(y))
    for row, row_weight in _pair(mask.rows, y):
        for column, column_weight in _pair(mask.columns, x):
            size += row_weight * column_weight * np.abs(logits[classes, row, column])
    moved = np.zeros(len(y))
    for axis, places, at in ((1, mask.rows, y), (2, mask.columns, x)):
        moved += (places.first[at] + places.weight[at] + 1) * _largest_steps(logits, axis)[classes]
    return RESIZE_ROUNDINGS * value * size + COORDINATE_ROUNDINGS * coordinate * moved


def _mask_resolution(mask: _Mask) -> float:
    """The largest tolerance of any two logits, at most."""
    value, coordinate = mask.units
    steps = (mask.logits.shape[1 + axis] * _largest_steps(x, axis).max() for x in mask.logits for axis in (1, 2))
    size = float(np.abs(mask.logits).max())
    return 2 * (RESIZE_ROUNDINGS * value * size + 2 * COORDINATE_ROUNDINGS * coordinate * float(max(steps)))


def _pair(axis: Sources, at: NDArray[np.intp]) -> tuple[tuple[NDArray[np.intp], Array], ...]:
    """The two positions that are blended at each place, with their weights."""
    return (axis.first[at], 1 - axis.weight[at]), (axis.second[at], axis.weight[at])
