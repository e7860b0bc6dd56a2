"""What lies before and after the network: the picture's way to pixel values, and the logits' way to a result.

Each step is judged on the tensor that the port itself gave for the step before, so that a wrong step blames no later
one. A failing tensor is tried under the mistakes of :mod:`npmobilevit.validation.mutants.pictures` and
:mod:`npmobilevit.validation.mutants.results`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.config import MobileViTConfig
from npmobilevit.errors import ImageError
from npmobilevit.image_processing import MobileViTImageProcessor
from npmobilevit.images import ImageSource, read_stream, to_rgb
from npmobilevit.label_maps import label_map, resized_parts
from npmobilevit.ops.arrays import Array
from npmobilevit.ops.resize import Sources, sources
from npmobilevit.pipeline import class_scores
from npmobilevit.validation.comparing import compare, root_mean_square, unmeasured
from npmobilevit.validation.mutants.pictures import Stored, stored_picture
from npmobilevit.validation.mutants.results import FUNCTIONS, RESULT_MUTANTS, Function, LabelMap, ResultMutant
from npmobilevit.validation.profiles import BFLOAT16, FLOAT16, FLOAT32, Profile
from npmobilevit.validation.report import Finding, Judgement, NearMiss, Test
from npmobilevit.validation.retracing import LEFT, Explained, Scene, explained
from npmobilevit.validation.structure import layout

UNEXPLAINED = Explained()

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

SCORE_ROUNDINGS = 8  # of one exponential, the division and what is around them
RESIZE_ROUNDINGS = 8  # of one blended value
COORDINATE_ROUNDINGS = 4  # of a source coordinate: scale, product, difference
TRIAL_PIXELS = 2**18  # of a mask, to try explanations on
EXPLAINED = 0.01  # share of pixels that a rounding may decide otherwise in an explanation
UNDECIDED = 0.1  # and share of those that it may leave open, as logits are equal there
FEWEST_LABELS = 3  # that have to agree with an explanation


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
    of the profile away: one of the factor 1/255, one of the result. What EXIF data, palettes and alpha channels have
    to do with a difference can only be told of an image that still has them: of no array but (H, W) and (H, W, 4).
    """
    if hasattr(image, "read"):
        image = read_stream(image)  # it is read again to explain a difference
    before = _Before("image", "the image", np.moveaxis(to_rgb(image), -1, 0)[None], image)
    unit = max(profile.store, FLOAT32)
    judged: Judged = []
    for name in STEPS:
        if name in tensors:
            found = np.asarray(tensors[name])
            step = _Step(name, before, processor, unit, scales.get(name, 0.0), frozenset(tensors))
            judgement, findings = _judged_step(step, found)
            judged.append((judgement, findings))
            is_explained = any(finding.cause for finding in findings)
            pixels = _pixels(step, found)
            if pixels is not None and pixels.shape[1] == 3 and (is_explained or not step.unusable(found)):
                before = _Before(name, f"the port's own {name}", pixels)
    return judged


class _Before(NamedTuple):
    """What a step is judged on: its name, also in words, its pixels (1, 3, H, W), RGB, and where these come from."""

    name: str
    words: str
    pixels: NDArray[Any]
    source: ImageSource | None = None


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
        names = ["image", *STEPS]
        between = names[names.index(self.before.name) + 1 : names.index(self.name) + 1]
        return tuple(name for name in between if STEPS[name] is None or getattr(self.processor, str(STEPS[name])))

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

    def roundings(self, found: NDArray[Any]) -> int:
        """Two of what is rescaled, one of floats that change their type, none of anything else."""
        before = self.before.pixels.dtype
        is_stored_anew = before.kind == "f" and found.dtype != before
        return 2 if "rescaled" in self.taken else 1 if is_stored_anew else 0

    def unusable(self, found: NDArray[Any]) -> str | None:
        """Why a tensor cannot be compared with what is expected, in words."""
        whole = self.name in BYTES and self.before.pixels.dtype.kind in "iu"
        return _unusable(found, "iu" if whole else "iuf")

    def explained(self, found: NDArray[Any], expected: NDArray[Any]) -> Explained:
        """What is known of the cause of a difference."""
        pixels, source = _pixels(self, found), self.before.source
        if pixels is None:
            return UNEXPLAINED
        is_stored = source is not None and "picture" in self.taken
        stored = Stored(self.before.pixels[0], stored_picture(source) if is_stored and source is not None else None)
        roundings = self.roundings(found)
        scene = Scene(stored, self.taken, self.name, self.processor, roundings, self.unit, self.step)
        return explained(scene, pixels[0].astype(expected.dtype), expected[0])


def _judged_step(step: _Step, found: NDArray[Any]) -> tuple[Judgement, list[Finding]]:
    region = tuple(name for name in step.taken if name not in (step.name, "picture") and name not in step.given)
    try:
        # whole pictures are large, and float32 tells their bytes apart
        expected: Array = step.expected().astype(np.float32 if step.name in BYTES else np.float64)
    except ImageError as error:
        if step.before.source is not None:
            raise
        fault = f"cannot be judged on {step.before.words}: {error}"
        return _unmeasured(step.name, found.shape, region), [_failure(step.name, fault)]
    tolerance = step.roundings(found) * step.unit * np.abs(expected) + step.step
    order = _axis_order(step.name, found.shape)
    right, allowed = _laid(expected, order), _laid(tolerance, order)
    fault = step.unusable(found) or ""
    if not fault and found.shape != right.shape:
        seen = layout(found, expected, tolerance)
        words = f": {seen.description}" if seen else ""
        fault = f"has the shape {found.shape} where {right.shape} is expected{words}"
    if fault:
        finding = _failure(step.name, fault, why=step.explained(found, expected))
        return _unmeasured(step.name, found.shape, region), [finding]
    values = found.astype(expected.dtype)
    judgement = _judgement(step.name, values, right, allowed, region, "local" if tolerance.any() else "exact")
    if judgement.status == "right":
        return judgement, []
    words = next(_seen(step, _restored(values, order), expected, tolerance))
    fault = f"is not what the image processor makes of {step.before.words}: {words}"
    return judgement, [_failure(step.name, fault, why=step.explained(found, expected))]


def _failure(tap: str, message: str, kind: str = "preprocessing", why: Explained = UNEXPLAINED) -> Finding:
    return Finding(tap, "fail", kind, message, why.cause, why.diagnosis, why.near)


def _unusable(found: NDArray[Any], allowed: str) -> str | None:
    """Why a tensor cannot be compared with anything, in words; `allowed` are kinds of dtypes."""
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


def _pixels(step: _Step, found: NDArray[Any]) -> NDArray[Any] | None:
    """The pixels (1, C, H, W) of a tensor; None if there are none."""
    order = _axis_order(step.name, found.shape)
    if _unusable(found, "iuf") is not None or not found.size or found.ndim != len(order):
        return None
    pixels = _restored(found, order)
    return pixels if len(pixels) == 1 else None


# What a picture that differs shows. All pictures here are (1, 3, H, W).


def _seen(step: _Step, found: Array, expected: Array, tolerance: Array) -> Iterator[str]:
    """In words what a picture shows that is not the expected one: what is certain first."""
    moved = layout(found, expected, tolerance)
    if moved is not None:
        yield moved.description
    for name, size in (("float16", FLOAT16), ("bfloat16", BFLOAT16)):
        if step.white != 255 and _near(found, expected, size * np.abs(expected)):
            yield f"its values are those expected, to the precision of {name}"
    yield from _shift_seen(found, expected, tolerance)
    grey = np.abs(found - expected) * (255 / step.white)
    beyond = (np.abs(found - expected) > tolerance).any(axis=1)
    yield f"{np.count_nonzero(beyond)} of {beyond.size} pixels differ, by up to {grey.max():.3g} grey levels"


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
    fault = _score_fault(logits) or _unusable(found, "iuf")
    if not fault and found.shape != logits.shape:
        fault = f"has the shape {found.shape} where that of the logits, {logits.shape}, is expected"
    if fault:
        return [(_unmeasured(name, found.shape, test="local"), [_failure(name, fault, name)])]
    values = found.astype(np.float64)
    function: Function = "softmax" if class_scores(np.ones(2), config)[0] == 0.5 else "sigmoid"  # that of 1 is 0.73
    expected = class_scores(logits, config)
    tolerance = _score_tolerance(logits, expected, function, profile)
    judgement = _judgement(name, values, expected, tolerance)
    findings = []
    if judgement.status == "wrong":
        seen = _scores_seen(values, expected, tolerance, function)
        why = _scores_explained(logits, values, expected, function, profile)
        findings.append(_failure(name, f"is not the {function} of the port's own logits: {seen}", name, why))
    return [(judgement, findings)]


def _score_fault(logits: Array) -> str | None:
    if logits.ndim != 2 or not logits.size or not np.isfinite(logits).all():
        return f"cannot be judged: the logits of a classifier are finite numbers (N, K), found shape {logits.shape}"
    return None


def _score_tolerance(logits: Array, scores: Array, function: Function, profile: Profile) -> Array:
    store, n = max(profile.store, profile.accumulate), logits.shape[1]
    if function == "softmax":
        below = np.abs(logits - logits.max(axis=1, keepdims=True))
        exponent = below + (scores * below).sum(axis=1, keepdims=True)
    else:
        exponent, n = np.abs(logits) * (1 - scores), 1
    relative = exponent * store + (n + SCORE_ROUNDINGS) * profile.accumulate + 4 * store
    tolerance: Array = scores * relative + max(profile.smallest, 2.0**-126)
    return tolerance


def _scores_seen(found: Array, expected: Array, tolerance: Array, function: Function) -> str:
    """In words what scores show that are not the expected ones."""
    sums = found.sum(axis=1)
    row = int(np.abs(sums - 1).argmax())
    difference = f"the largest difference is {np.abs(found - expected).max():.3g}"
    if function == "softmax" and abs(sums[row] - 1) > tolerance[row].sum():
        return f"it sums to {sums[row]:.6g} in row {row}, and not to 1; {difference}"
    return difference


def _scores_explained(logits: Array, found: Array, expected: Array, right: Function, profile: Profile) -> Explained:
    explaining = []
    for mutant in _mutants_of("probabilities"):
        of, function = mutant.make(logits, right)
        scores = of if function is None else FUNCTIONS[function](of)
        # of a function of a function, there are the roundings of both
        tolerance = 4 * _score_tolerance(of, scores, function, profile) if function else np.zeros_like(of)
        left = root_mean_square(found - scores) / root_mean_square(found - expected)
        if left <= LEFT and _near(found, scores, tolerance):
            explaining.append((mutant, left))
    return _first_of(explaining)


def _mutants_of(result: str) -> list[ResultMutant]:
    return [mutant for mutant in RESULT_MUTANTS if mutant.result == result]


def _first_of(explaining: list[tuple[ResultMutant, float]]) -> Explained:
    """The first of some mistakes, with what each leaves of the difference."""
    if not explaining:
        return UNEXPLAINED
    (mutant, left), *others = explaining
    return Explained.by([mutant], left, (other.description for other, _ in others))


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
        f"picture {row}, place {place + 1} is {_named(label, config)}, and by the "
        f"port's own logits {_named(best, config)}; {count} of {wrong.size} are wrong"
    )
    why = _labels_explained(logits, given)
    return [(worst.judgement("labels", found.shape, logits), [_failure("labels", message, "labels", why)])]


def _label_fault(logits: Array, found: NDArray[Any]) -> str | None:
    pictures, classes = logits.shape
    if found.dtype.kind not in "iu":
        return f"is of {found.dtype} where whole numbers are expected"
    if found.shape != (pictures,) and (found.shape[:1] != (pictures,) or found.ndim != 2 or not found.size):
        return f"has the shape {found.shape} where ({pictures},) or ({pictures}, k) is expected"
    if found.size > pictures * classes:
        return f"has {found.shape[1]} labels a picture where there are {classes} classes"
    return None


def _labels_explained(logits: Array, labels: NDArray[np.int64]) -> Explained:
    """One label may be the neighbour of the right one by chance, and then a mistake is near at most."""
    fitting = [mutant for mutant in _mutants_of("labels") if not _misplaced(logits, mutant.make(labels)).any()]
    if labels.size < FEWEST_LABELS:
        return Explained(near=tuple(NearMiss(mutant.name, mutant.description, 0.0) for mutant in fitting))
    return _first_of([(mutant, 0.0) for mutant in fitting])


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
    fault, why = _mask_fault(logits, found), UNEXPLAINED
    if not fault and found.shape not in ((len(logits), *size), size if len(logits) == 1 else None):
        fault = f"has the shape {found.shape} where {(len(logits), *size)} is expected"
        if found.ndim in (2, 3):
            why = _mask_explained(_mask_of(logits, found, size, profile), 1.0)
    if fault:
        return [(_unmeasured("mask", found.shape, test="local"), [_failure("mask", fault, "mask", why)])]
    given = _mask_of(logits, found, size, profile)
    first, worst = _wrong_pixels(given)
    judgement = worst.judgement("mask", found.shape, logits, _mask_resolution(given))
    if not worst.beyond:
        return [(judgement, [])]
    message = (
        f"{worst.beyond} of {found.size} pixels have another class than the largest of the "
        f"{'logits' if size == logits.shape[2:] else 'resized logits'}, the first at {first[-found.ndim :]}"
    )
    return [(judgement, [_failure("mask", message, "mask", _mask_explained(given, _share(given)))])]


def _mask_of(logits: Array, labels: NDArray[Any], size: tuple[int, ...], profile: Profile) -> LabelMap:
    rows, columns = (sources(logits.shape[2 + axis], size[axis], np.dtype(np.float64)) for axis in range(2))
    units = (0.0, 0.0) if size == logits.shape[2:] else (max(profile.store, profile.accumulate), profile.accumulate)
    return LabelMap(logits, labels.reshape(-1, *labels.shape[-2:]).astype(np.int64), rows, columns, units)


def _mask_fault(logits: Array, found: NDArray[Any]) -> str | None:
    if logits.ndim != 4 or not logits.size or not np.isfinite(logits).all():
        return f"cannot be judged: the logits of a segmentation are finite (N, K, h, w), found shape {logits.shape}"
    if found.dtype.kind not in "iu":
        return f"is of {found.dtype} where whole numbers are expected"
    return None


def _mask_explained(given: LabelMap, share: float) -> Explained:
    """What makes of the logits the labels of a mask of which a share is wrong. Those of one class show nothing."""
    if not given.labels.size or (given.labels == given.labels.flat[0]).all():
        return UNEXPLAINED
    least, explaining = min(EXPLAINED, share / 10), []
    for mutant in _mutants_of("mask"):
        made = mutant.make(given)
        left = _share(made) if made.fits else 1.0
        if left <= least and _differing(made) <= UNDECIDED:
            explaining.append((mutant, left / share))
    return _first_of(explaining)


def _share(mask: LabelMap) -> float:
    """Share of wrong pixels, of some."""
    some = _some(mask)
    return _wrong_pixels(some)[1].beyond / some.labels.size


def _differing(mask: LabelMap) -> float:
    """Share of labels, of some, that are not the first of the largest logits."""
    some = _some(mask)
    expected = [label_map(logits, some.rows, some.columns) for logits in some.logits]
    return float(np.mean(np.stack(expected) != some.labels))


def _some(mask: LabelMap) -> LabelMap:
    """Pixels of a mask at equal distances."""
    step = math.ceil(math.sqrt(math.prod(mask.labels.shape[1:]) / TRIAL_PIXELS))
    rows, columns = (
        Sources(axis.first[::step], axis.second[::step], axis.weight[::step]) for axis in (mask.rows, mask.columns)
    )
    return mask._replace(labels=mask.labels[:, ::step, ::step], rows=rows, columns=columns)


def _wrong_pixels(mask: LabelMap) -> tuple[tuple[int, ...], _Worst]:
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
    mask: LabelMap, i: int, part: Array, at: tuple[NDArray[np.intp], NDArray[np.intp]], start: tuple[int, int]
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
    mask: LabelMap, i: int, classes: NDArray[np.intp], y: NDArray[np.intp], x: NDArray[np.intp]
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


def _mask_resolution(mask: LabelMap) -> float:
    """The largest tolerance of any two logits, at most."""
    value, coordinate = mask.units
    steps = (mask.logits.shape[1 + axis] * _largest_steps(x, axis).max() for x in mask.logits for axis in (1, 2))
    size = float(np.abs(mask.logits).max())
    return 2 * (RESIZE_ROUNDINGS * value * size + 2 * COORDINATE_ROUNDINGS * coordinate * float(max(steps)))


def _pair(axis: Sources, at: NDArray[np.intp]) -> tuple[tuple[NDArray[np.intp], Array], ...]:
    """The two positions that are blended at each place, with their weights."""
    return (axis.first[at], 1 - axis.weight[at]), (axis.second[at], axis.weight[at])
