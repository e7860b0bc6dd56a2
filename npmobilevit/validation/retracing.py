"""The way from a picture to a tensor gone again, with mistakes: which of them make what the port has?"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npmobilevit.image_processing import MAX_RESIZED_PIXELS, MobileViTImageProcessor
from npmobilevit.ops.arrays import Array
from npmobilevit.validation.mutants.pictures import (
    PICTURE_MUTANTS,
    RIGHT,
    Affine,
    Parts,
    PictureMutant,
    Pixels,
    Stored,
)
from npmobilevit.validation.report import Diagnosis, NearMiss

Mutants = tuple[PictureMutant, ...]

LEFT = 0.25  # of the difference that a mistake is to explain, what it may leave
NEAR = 0.6  # and what is left by one that is called near
MOST_NEAR = MOST_ALSO = 3
MOST_MISTAKES = 4  # at once
SAMPLE = 256  # values that are compared before all are

NORMALISING = 4  # roundings: of mean, difference, deviation and quotient

# The step that each part belongs to; the last two, wherever their effect can be seen.
_STEP: Mapping[str, str] = MappingProxyType(
    {
        "decode": "picture",
        **dict.fromkeys(("size", "filter", "sample"), "resized"),
        "crop": "center_cropped",
        "scale": "rescaled",
    }
)
_LATE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"normalise": ("rescaled", "pixel_values"), "order": ("pixel_values",)}
)


class Scene(NamedTuple):
    """Where a tensor on the way comes from.

    Attributes
    ----------
    before : Stored
        The picture, or the port's own pixels of the step before.
    steps : tuple of str
        The taps from there to the tensor that the processor's settings take.
    tap : str
        The tensor's own.
    processor : MobileViTImageProcessor
    roundings, unit, step : float
        An element of a sound tensor may differ by so many roundings of the relative size `unit`, and by `step`.
    """

    before: Stored
    steps: tuple[str, ...]
    tap: str
    processor: MobileViTImageProcessor
    roundings: float
    unit: float
    step: float

    def has(self, mutant: PictureMutant) -> bool:
        """Whether the tensor can show a mistake."""
        return all(self.tap in _LATE[part] if part in _LATE else _STEP[part] in self.steps for part in mutant.parts)

    def pixels(self, parts: Parts) -> Pixels:
        """What is made of the picture before its values are: (C, H, W). ValueError if that is no picture."""
        way, processor = {**RIGHT, **parts}, self.processor
        pixels: Pixels = way["decode"](self.before) if "picture" in self.steps else self.before.upright
        if "resized" in self.steps:
            size = way["size"](*pixels.shape[1:], processor)
            if min(size) < 1 or math.prod(size) > MAX_RESIZED_PIXELS:
                raise ValueError
            pixels = way["sample"](pixels, size, way["filter"](processor))
            pixels = pixels.astype(np.float32) if pixels.dtype == np.float64 else pixels  # many are kept
        return way["crop"](pixels, processor) if "center_cropped" in self.steps else pixels

    def affine(self, parts: Parts) -> Affine:
        """What is done to the values."""
        way = {**RIGHT, **parts}
        scale: Affine = way["scale"](self.processor) if "rescaled" in self.steps else Affine()
        return scale.then(way["normalise"](self.processor))

    def ordered(self, parts: Parts, values: Pixels) -> Pixels:
        """The values as they lie in the tensor."""
        if self.tap != "pixel_values":
            return values
        ordered: Pixels = {**RIGHT, **parts}["order"](values, self.processor)
        return ordered


class Explained(NamedTuple):
    """What is found out about the cause of a difference."""

    cause: str | None = None
    diagnosis: Diagnosis | None = None
    near: tuple[NearMiss, ...] = ()

    @classmethod
    def by(cls, mutants: Sequence[Any], remaining: float, also: Iterable[str] = ()) -> Explained:
        """A mistake of a catalogue, or several at once; `also` are descriptions of others that do as well."""
        others = dict.fromkeys(other for other in also if other != described(mutants))
        diagnosis = Diagnosis(
            " + ".join(mutant.name for mutant in mutants),
            described(mutants),
            " ".join(dict.fromkeys(mutant.consequence for mutant in mutants)),
            " ".join(dict.fromkeys(mutant.fix for mutant in mutants)),
            remaining,
            tuple(others)[:MOST_ALSO],
        )
        return cls(mutants[0].id, diagnosis)


def described(mutants: Sequence[Any]) -> str:
    """All their descriptions in one."""
    return "; and ".join(mutant.description for mutant in mutants)


def explained(scene: Scene, found: Array, expected: Array) -> Explained:
    """Which mistakes make of the picture what the port has.

    Parameters
    ----------
    scene : Scene
    found : (C, H, W) array
        The port's tensor.
    expected : (C, H, W) array
        What it should be; perhaps of another shape.

    Returns
    -------
    Explained

    Notes
    -----
    As few mistakes as possible are taken, and of several that do the first of the catalogue. Each has to take away
    three quarters of the difference that there is without it.
    """
    search = _Search(scene, found, expected)
    fits = search.fits(0) or search.fits(1) or search.fits(2)
    if not fits:
        return Explained(near=search.near())
    (mutants, left), *others = sorted(fits, key=_preference)
    return Explained.by(mutants, left, (described(other) for other, _ in others))


def _preference(fit: tuple[Mutants, float]) -> tuple[float, list[int]]:
    """What leaves less comes first, and then what stands first in the catalogue."""
    mutants, left = fit
    return round(left, 2), [PICTURE_MUTANTS.index(mutant) for mutant in mutants]


class _Search:
    """The catalogue tried on one tensor."""

    def __init__(self, scene: Scene, found: Array, expected: Array) -> None:
        self.scene, self.found = scene, found
        self.some = np.random.default_rng(0).integers(found.size, size=SAMPLE)
        self.whole = found - expected if found.shape == expected.shape else found - found.mean()
        self._pixels: dict[Mutants, Pixels | None] = {}
        self._order: dict[tuple[Mutants, tuple[int, ...]], NDArray[np.intp]] = {}

    @functools.cached_property
    def of_values(self) -> list[PictureMutant]:
        """The mistakes that leave alone which pixels there are."""
        return [m for m in PICTURE_MUTANTS if m.is_of_values and self.scene.has(m) and self._changes_values(m)]

    @functools.cached_property
    def of_pixels(self) -> list[PictureMutant]:
        """The others; a large picture takes its time. Some resizes are other ones at other sizes only."""
        others = (m for m in PICTURE_MUTANTS if not m.is_of_values and self.scene.has(m))
        return [m for m in others if "sample" in m.parts or self._changes_pixels(m) or self._changes_values(m)]

    def fits(self, count: int) -> list[tuple[Mutants, float]]:
        """The mistakes that explain the tensor, with what they leave: so many of the pixels, and as few as possible of
        the values."""
        some = [m for m in self.of_pixels if count == 1 or m.is_common] if count else []
        of_pixels = list(_subsets(some, count))
        for more in range(MOST_MISTAKES - count + 1):
            pairs = itertools.product(of_pixels, _subsets(self.of_values, more))
            combinations = (one + other for one, other in pairs if _are_apart(one + other))
            fitting = [mutants for mutants in combinations if mutants and self._fits(mutants)]
            needed = [mutants for mutants in fitting if self._all_are_needed(mutants)]
            if needed:
                return [(mutants, self._left(mutants)) for mutants in needed]
        return []

    def near(self) -> tuple[NearMiss, ...]:
        """The single mistakes that leave least."""
        lefts = ((self._left((mutant,)), mutant) for mutant in (*self.of_values, *self.of_pixels))
        nearest = sorted((pair for pair in lefts if pair[0] < NEAR), key=lambda pair: pair[0])
        return tuple(NearMiss(mutant.name, mutant.description, left) for left, mutant in nearest[:MOST_NEAR])

    def _changes_values(self, mutant: PictureMutant) -> bool:
        if not all(map(np.array_equal, self.scene.affine(mutant.parts), self.scene.affine({}))):
            return True
        few = np.arange(6).reshape(3, 1, 2)  # enough to see the order by
        return not np.array_equal(self.scene.ordered(mutant.parts, few), self.scene.ordered({}, few))

    def _changes_pixels(self, mutant: PictureMutant) -> bool:
        right, pixels = self._made(()), self._made((mutant,))
        if pixels is None or right is None:
            return pixels is not right
        return not np.array_equal(pixels, right)

    def _made(self, mutants: Mutants) -> Pixels | None:
        """The pixels that mistakes make; None if there are none."""
        key = tuple(mutant for mutant in mutants if not mutant.is_of_values)
        if key not in self._pixels:
            try:
                self._pixels[key] = self.scene.pixels(_parts(key))
            except ValueError:
                self._pixels[key] = None
        return self._pixels[key]

    def _places(self, mutants: Mutants, shape: tuple[int, ...]) -> NDArray[np.intp]:
        """Where among the pixels some elements of the tensor come from; empty if of another shape."""
        key = tuple(mutant for mutant in mutants if "order" in mutant.parts), shape
        if key not in self._order:
            at = np.empty(0, np.intp)
            if self.scene.tap != "pixel_values":
                at = self.some if shape == self.found.shape else at
            else:
                places = self.scene.ordered(_parts(key[0]), np.arange(math.prod(shape)).reshape(shape))
                at = places.ravel()[self.some] if places.shape == self.found.shape else at
            self._order[key] = at
        return self._order[key]

    def _fits(self, mutants: Mutants) -> bool:
        """Whether mistakes make the tensor: first of some elements, then of all."""
        pixels = self._made(mutants)
        if pixels is None or not self._places(mutants, pixels.shape).size:
            return False
        at = self._places(mutants, pixels.shape)
        values, tolerance = self._changed(mutants, pixels.ravel()[at], at // math.prod(pixels.shape[1:]))
        if not _near(self.found.ravel()[self.some], values, tolerance):
            return False
        made = self._whole(mutants)
        return made is not None and _near(self.found, *made)

    def _whole(self, mutants: Mutants) -> tuple[Array, Array] | None:
        """The tensor that mistakes make and its tolerance; None if it is of another shape."""
        pixels = self._made(mutants)
        if pixels is None or not self._places(mutants, pixels.shape).size:
            return None
        made = self._changed(mutants, pixels, np.arange(len(pixels)).reshape(-1, 1, 1))
        values, tolerance = (self.scene.ordered(_parts(mutants), np.broadcast_to(x, pixels.shape)) for x in made)
        return values, tolerance

    def _changed(self, mutants: Mutants, pixels: Pixels, channel: Pixels) -> tuple[Array, Array]:
        """What mistakes make of the values of pixels, each of a channel, and the tolerance of that."""
        parts = _parts(mutants)
        gain, offset = (_of_channel(x, channel) for x in self.scene.affine(parts))
        values = pixels * gain + offset
        roundings = self.scene.roundings + (NORMALISING if "normalise" in parts else 0)
        levels = max((mutant.levels for mutant in mutants), default=0.0)
        tolerance = roundings * self.scene.unit * (np.abs(values) + np.abs(offset)) if roundings else 0.0
        return values, tolerance + levels * np.abs(gain) + self.scene.step

    def _all_are_needed(self, mutants: Mutants) -> bool:
        left = self._left(mutants)
        return all(left <= LEFT * self._left(but_one) for but_one in itertools.combinations(mutants, len(mutants) - 1))

    def _left(self, mutants: Mutants) -> float:
        """What mistakes leave of the difference, in root mean square; infinite if they make another shape."""
        if not mutants:
            return 1.0
        made = self._whole(mutants)
        return math.inf if made is None else _rms(self.found - made[0]) / (_rms(self.whole) or math.inf)


def _of_channel(x: Array | float, channel: Pixels) -> Array:
    """The numbers, (C, 1, 1) or one for all, that belong to channels."""
    numbers = np.ravel(x)
    return numbers[np.minimum(channel, len(numbers) - 1)]


def _parts(mutants: Mutants) -> Parts:
    return {part: function for mutant in mutants for part, function in mutant.parts.items()}


def _are_apart(mutants: Mutants) -> bool:
    """Whether no two stand in for the same part."""
    return len(_parts(mutants)) == sum(len(mutant.parts) for mutant in mutants)


def _subsets(mutants: Sequence[PictureMutant], count: int) -> list[Mutants]:
    return list(filter(_are_apart, itertools.combinations(mutants, count)))


def _near(found: Array, values: Array, tolerance: Array) -> bool:
    return bool((np.abs(found - values) <= tolerance).all())


def _rms(x: Array) -> float:
    return math.sqrt(float(np.square(x).mean())) if x.size else 0.0
