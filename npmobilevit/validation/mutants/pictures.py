"""Mistakes on the way from a picture to pixel values: the rows PRE.

The way has eight parts, and a mistake stands in for one or two of them:

=========  ==========================================  =========================================================
part       function                                    what it does
=========  ==========================================  =========================================================
decode     ``(stored)`` -> pixels                      what a :class:`Stored` picture shows
size       ``(height, width, processor)`` -> size      (height, width) after the resize
filter     ``(processor)`` -> int                      Pillow's number of the filter
sample     ``(pixels, size, filter)`` -> pixels        the resize to that size
crop       ``(pixels, processor)`` -> pixels
scale      ``(processor)`` -> :class:`Affine`          the rescaling
normalise  ``(processor)`` -> :class:`Affine`          whatever else is done to the values: nothing
order      ``(pixels, processor)`` -> pixels           the order of the channels
=========  ==========================================  =========================================================

Pixels are (C, H, W), R first before the last part. A mistake that cannot be made with a picture or a processor leaves
everything as it should be.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npmobilevit.image_processing import MobileViTImageProcessor, center_crop, resized_size
from npmobilevit.images import MAX_FILE_BYTES, MAX_PIXELS, ImageSource, describe
from npmobilevit.images.pictures import open_picture
from npmobilevit.images.sources import read_source
from npmobilevit.ops.arrays import Array
from npmobilevit.ops.resize import Sources, blend, sources, sources_at
from npmobilevit.validation.mutants.mutant import Mode

Pixels = NDArray[Any]
Size = tuple[int, int]
Parts = Mapping[str, Callable[..., Any]]

OTHER_LIBRARY = 1.0  # grey levels by which the same resize of another library may differ
OTHER_LIBRARY_BICUBIC = 2.0  # which overshoots, and is cut off after each pass or at the end
FLOAT_RESIZE = 0.01  # grey levels between two resizes in single precision


class Affine(NamedTuple):
    """gain * x + offset, with a number for all channels or one for each, (3, 1, 1)."""

    gain: Array | float = 1.0
    offset: Array | float = 0.0

    def then(self, other: Affine) -> Affine:
        """Another one after this one."""
        return Affine(self.gain * other.gain, self.offset * other.gain + other.offset)


class Stored(NamedTuple):
    """A picture: its pixels as they should be, (3, H, W), and how it is stored, if that is known."""

    upright: Pixels
    picture: Image.Image | None = None

    @property
    def orientation(self) -> int:
        """As EXIF has it, 1 to 8."""
        try:
            found = 1 if self.picture is None else int(self.picture.getexif().get(0x0112, 1))
        except Exception:  # damaged EXIF data raise nearly everything
            return 1
        return found if found in _AS_STORED else 1

    @property
    def mode(self) -> str:
        """Pillow's name for what the picture holds; empty if that is not known."""
        return "" if self.picture is None else self.picture.mode

    def shown(self, picture: Image.Image) -> Pixels:
        """The pixels (C, H, W), turned upright, of a picture that was made of the stored one."""
        values = np.asarray(picture)
        values = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
        return _AS_STORED[_OPPOSITE.get(self.orientation, self.orientation)](values)


def stored_picture(image: ImageSource) -> Image.Image | None:
    """The picture of a source that :func:`npmobilevit.images.to_rgb` takes, before anything is made of its values.

    None for arrays other than bytes, which no file holds.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        is_stored = image.dtype == np.uint8 and image.shape[2:] != (1,)
        return Image.fromarray(np.ascontiguousarray(image)) if is_stored else None
    source = describe(image)
    picture = open_picture(read_source(image, source, MAX_FILE_BYTES), source, MAX_PIXELS)
    picture.load()
    return picture


# From the upright picture (C, H, W) to the one that is stored, for each orientation of EXIF.
_AS_STORED: Mapping[int, Callable[[Pixels], Pixels]] = {
    1: lambda x: x,
    2: lambda x: x[:, :, ::-1],
    3: lambda x: x[:, ::-1, ::-1],
    4: lambda x: x[:, ::-1],
    5: lambda x: x.swapaxes(1, 2),
    6: lambda x: np.rot90(x, 1, (1, 2)),
    7: lambda x: x.swapaxes(1, 2)[:, ::-1, ::-1],
    8: lambda x: np.rot90(x, -1, (1, 2)),
}
_OPPOSITE = {6: 8, 8: 6}  # all others are their own


# --- the parts as they should be


def pillow(pixels: Pixels, size: Size, resample: int) -> Pixels:
    """Pillow's resize of bytes (C, H, W)."""
    values = np.ascontiguousarray(np.moveaxis(pixels.astype(np.uint8), 0, -1))
    picture = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    resized = np.asarray(picture.resize(size[::-1], resample=resample))
    return resized[None] if resized.ndim == 2 else np.moveaxis(resized, -1, 0)


def _cropped(pixels: Pixels, processor: MobileViTImageProcessor) -> Pixels:
    return center_crop(pixels, processor.crop_size["height"], processor.crop_size["width"])


RIGHT: Parts = MappingProxyType(
    {
        "decode": lambda stored: stored.upright,
        "size": lambda height, width, processor: resized_size(height, width, processor.size),
        "filter": lambda processor: processor.resample,
        "sample": lambda pixels, size, resample: pillow(pixels, size, resample),
        "crop": _cropped,
        "scale": lambda processor: Affine(processor.rescale_factor),
        "normalise": lambda _processor: Affine(),
        "order": lambda pixels, processor: pixels[::-1] if processor.do_flip_channel_order else pixels,
    }
)

_VALUE_PARTS = {"scale", "normalise", "order"}


@dataclasses.dataclass(frozen=True, eq=False)  # each is equal to itself only
class PictureMutant:
    """A mistake that ports make on the way to pixel values. Fields are those of `Mutant`, but for three.

    Attributes
    ----------
    parts : mapping of str to callable
        What stands in for parts of the way.
    levels : float
        Grey levels by which the result may differ: where other libraries do the same, but round otherwise.
    is_common : bool
        Whether it is worth the time to look for it together with another one of the pixels.
    """

    id: str
    description: str
    consequence: str
    fix: str
    parts: Parts
    variant: str = ""
    levels: float = 0.0
    is_common: bool = False
    mode: Mode = "taps + picture"

    @property
    def name(self) -> str:
        """Id and variant."""
        return f"{self.id}-{self.variant}" if self.variant else self.id

    @property
    def is_of_values(self) -> bool:
        """Whether it leaves alone which pixels there are."""
        return _VALUE_PARTS.issuperset(self.parts)


# --- mistakes in decoding


def _transparent(of: Callable[[Image.Image], Image.Image]) -> Callable[[Stored], Pixels]:
    """Of a picture with an alpha channel, what a function makes of it as RGBA."""

    def decode(stored: Stored) -> Pixels:
        if stored.picture is None or not stored.picture.has_transparency_data:
            return stored.upright
        return stored.shown(of(stored.picture.convert("RGBA")))

    return decode


def _on_black(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture).convert("RGB")


def _stored_as(modes: Sequence[str], levels: Callable[[Pixels], Pixels]) -> Callable[[Stored], Pixels]:
    """Of a picture in one of some modes, what a function makes of its values, (H, W) or (H, W, 3)."""

    def decode(stored: Stored) -> Pixels:
        if stored.picture is None or stored.picture.mode not in modes:
            return stored.upright
        values = levels(np.asarray(stored.picture))
        return stored.shown(Image.fromarray(values if values.ndim == 3 else np.stack([values] * 3, axis=-1)))

    return decode


def _as_planes(pixels: Pixels) -> Pixels:
    """The bytes of (H, W, C), read as (C, H, W)."""
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1)).reshape(pixels.shape)


_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")


# --- mistakes in the resize and the crop


def _short_edge(size: Callable[[int], int]) -> Callable[[int, int, MobileViTImageProcessor], Size]:
    """The short edge resized to a length that depends on the crop."""

    def resized(height: int, width: int, processor: MobileViTImageProcessor) -> Size:
        return resized_size(height, width, {"shortest_edge": size(min(processor.crop_size.values()))})

    return resized


def _squashed(
    of: Callable[[MobileViTImageProcessor], Size],
) -> Callable[[int, int, MobileViTImageProcessor], Size]:
    """A size that does not depend on the picture's. Of a square one nobody could tell."""

    def resized(height: int, width: int, processor: MobileViTImageProcessor) -> Size:
        return resized_size(height, width, processor.size) if height == width else of(processor)

    return resized


def _long_edge(rounded: Callable[[float], int]) -> Callable[[int, int, MobileViTImageProcessor], Size]:
    def resized(height: int, width: int, processor: MobileViTImageProcessor) -> Size:
        right = resized_size(height, width, processor.size)
        if set(processor.size) != {"shortest_edge"}:
            return right
        short = processor.size["shortest_edge"]
        long = rounded(short * max(height, width) / min(height, width))
        return (long, short) if width <= height else (short, long)

    return resized


def _in_floats(pixels: Pixels, size: Size, resample: int) -> Array:
    """Pillow's resize in single precision, which is that of others too."""
    channels = (Image.fromarray(channel.astype(np.float32)) for channel in pixels)
    return np.stack([np.asarray(channel.resize(size[::-1], resample)) for channel in channels])


def _cut_down(pixels: Pixels, size: Size, resample: int) -> Array:
    cut: Array = np.clip(np.floor(_in_floats(pixels, size, resample) + 1e-4), 0, 255)  # whole numbers stay
    return cut


Sample = Callable[[Pixels, Size, int], Array]
Sampler = Callable[[int, int], Sources]  # of length before and after


def _in_bytes(sample: Sample) -> Sample:
    """A resize in floating point, rounded."""

    def rounded(pixels: Pixels, size: Size, resample: int) -> Array:
        levels: Array = np.clip(np.rint(sample(pixels, size, resample)), 0, 255)
        return levels

    return rounded


def _blended(at: Sampler) -> Sample:
    """A resize that blends two neighbours at most, however much it shrinks."""

    def sample(pixels: Pixels, size: Size, _resample: int) -> Array:
        rows = blend(pixels, at(pixels.shape[1], size[0]), axis=1)
        return blend(rows, at(pixels.shape[2], size[1]), axis=2)

    return sample


def _not_averaged(pixels: Pixels, size: Size, resample: int) -> Array:
    """Of a picture that is enlarged nobody could tell."""
    if all(out >= length for length, out in zip(pixels.shape[1:], size, strict=True)):
        return pillow(pixels, size, resample)
    return _blended(lambda length, out: sources(length, out, np.dtype(np.float64)))(pixels, size, resample)


def corner_aligned(length: int, out: int) -> Sources:
    """``align_corners=True``: the first and the last value stay where they are."""
    return sources_at(np.arange(out) * ((length - 1) / max(out - 1, 1)), length, np.dtype(np.float64))


def asymmetric(length: int, out: int) -> Sources:
    """Coordinates without half a pixel, as in TensorFlow 1."""
    return sources_at(np.arange(out) * (length / out), length, np.dtype(np.float64))


def nearest(origin: float, dtype: type[np.floating] = np.float64) -> Sampler:
    """The nearest value: torch and OpenCV count from the corner of a pixel, 0.0, and Pillow from its centre, 0.5.

    On the border between two pixels the precision of coordinates decides.
    """

    def at(length: int, out: int) -> Sources:
        position = (np.arange(out).astype(dtype) + dtype(origin)) * dtype(length / out)
        index = np.minimum(np.floor(position).astype(np.intp), length - 1)
        return Sources(index, index, np.zeros(out))

    return at


def _cubic(pixels: Pixels, size: Size, _resample: int) -> Array:
    """Of four neighbours in each direction, with the factor -0.75 of OpenCV and torch."""
    values: Array = pixels
    for axis in (1, 2):
        length, out = pixels.shape[axis], size[axis - 1]
        position = (np.arange(out) + 0.5) * (length / out) - 0.5
        first = np.floor(position).astype(np.intp)
        blended: Array = np.zeros(())
        for k in range(-1, 3):
            weight = _cubic_weight(np.abs(position - first - k)).reshape(-1, *(1,) * (2 - axis))
            blended = blended + weight * np.take(values, np.clip(first + k, 0, length - 1), axis)
        values = blended
    return values


def _cubic_weight(x: Array, a: float = -0.75) -> Array:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    weight: Array = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return weight


def _stretched(pixels: Pixels, processor: MobileViTImageProcessor) -> Pixels:
    crop = processor.crop_size["height"], processor.crop_size["width"]
    height, width = (max(pair) for pair in zip(pixels.shape[1:], crop, strict=True))
    if (height, width) == pixels.shape[1:]:
        return _cropped(pixels, processor)
    return _cropped(pillow(pixels, (height, width), processor.resample), processor)


def _padded_with_edge(pixels: Pixels, processor: MobileViTImageProcessor) -> Pixels:
    """Repeats the border where zeros should be."""
    return _cropped(np.pad(pixels, _padding(pixels, processor, math.ceil), mode="edge"), processor)


def _padded_behind(pixels: Pixels, processor: MobileViTImageProcessor) -> Pixels:
    return _cropped(np.pad(pixels, _padding(pixels, processor, math.floor)), processor)


def _padding(pixels: Pixels, processor: MobileViTImageProcessor, half: Callable[[float], int]) -> list[Size]:
    """What is missing to the crop before and after the pixels, along each axis."""
    crop = processor.crop_size["height"], processor.crop_size["width"]
    missing = [max(target - length, 0) for target, length in zip(crop, pixels.shape[1:], strict=True)]
    return [(0, 0), *((half(rest / 2), rest - half(rest / 2)) for rest in missing)]


# --- mistakes in the values


def _statistics(mean: Sequence[float], deviation: Sequence[float]) -> Callable[[MobileViTImageProcessor], Affine]:
    m, d = (np.array(values).reshape(3, 1, 1) for values in (mean, deviation))
    return lambda _processor: Affine(1 / d, -m / d)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of R, G, B


def _twice(processor: MobileViTImageProcessor) -> Affine:
    return Affine(processor.rescale_factor) if processor.do_rescale else Affine()


# --- the catalogue


def _interleaved(variant: str, what: str, **parts: Callable[..., Any]) -> PictureMutant:
    return PictureMutant(
        "PRE-13",
        f"interleaved {what} read as (3, H, W); expected planes, channel after channel",
        "The network sees three small interleaved copies of the picture: labels are wrong.",
        "Bring (H, W, 3) into (3, H, W) by moving the axis, not by naming the shape.",
        parts,
        variant=variant,
    )


def _of_mode(variant: str, description: str, consequence: str, **parts: Callable[..., Any]) -> PictureMutant:
    fix = (
        "Bring every picture to RGB first: lay transparent ones on white, and take palettes, grey and inks for the "
        "colours that they mean."
    )
    is_common = variant in ("dropped", "black")
    return PictureMutant("PRE-14", description, consequence, fix, parts, variant=variant, is_common=is_common)


def _of_size(variant: str, what: str, length: Callable[[int], int]) -> PictureMutant:
    return PictureMutant(
        "PRE-10",
        f"short edge resized to {what}; expected to size, 288 (or 544) in the published checkpoints",
        "The network sees the picture at another scale than it was trained on: accuracy drops.",
        "Resize the short edge to size of preprocessor_config.json, then crop to crop_size.",
        {"size": _short_edge(length)},
        variant=variant,
        is_common=True,
    )


def _filtered(name: str, resample: int, levels: float = 0.0) -> PictureMutant:
    return PictureMutant(
        "PRE-06",
        f"resized with the filter {name!r}; expected the one that resample names",
        _BLURRED,
        _FIT_FILTER,
        {"filter": lambda _processor: resample},
        variant=name,
        levels=levels,
        is_common=name in ("bicubic", "bilinear"),
    )


def _aliased(variant: str, what: str, sample: Sample) -> tuple[PictureMutant, PictureMutant]:
    in_floats = PictureMutant(
        "PRE-07",
        f"resized {what} without averaging over all that falls into a pixel (no antialias); expected with",
        "Fine texture of a picture that is much larger turns into noise: logits move, some labels change.",
        "Average over all pixels that fall into one: Image.resize of Pillow, or antialias=True in torch; cv2.resize "
        "with INTER_LINEAR does not.",
        {"sample": sample},
        variant=variant,
        levels=OTHER_LIBRARY,
        is_common=not variant,
    )
    name = f"{variant}-bytes".lstrip("-")
    return in_floats, dataclasses.replace(in_floats, parts={"sample": _in_bytes(sample)}, variant=name)


def _nearest(variant: str, sampler: Sampler) -> PictureMutant:
    return PictureMutant(
        "PRE-06",
        "resized to the nearest pixel; expected the filter that resample names",
        _BLURRED,
        _FIT_FILTER,
        {"sample": _blended(sampler)},
        variant=variant,
    )


_FIT_FILTER = "Resize with the filter that resample of preprocessor_config.json names: 2, bilinear, in all published."
_BLURRED = "Edges and texture differ by some grey levels everywhere: logits move, labels of close cases change."
_UNPLACED = "The network sees objects wider or taller than they are: accuracy drops on pictures that are not square."
_SLIGHT = "Values differ by one grey level at most: logits move in the third or fourth digit."
_LONG = "Resize the long edge to int(size * long / short), which cuts the fraction off."
_TURNED = "Pictures taken with the camera turned come out turned: their labels are mostly wrong."
_UPRIGHT = "Turn the picture as its EXIF orientation says, once: ImageOps.exif_transpose of Pillow."
_PAD = "Where the picture is smaller than the crop, put zeros around it, the odd row or column at the top or left."
_RANGE = "Values are far from those that the network was trained on: labels are mostly wrong."
_NO_STATISTICS = "Feed x / 255 as it is: these networks were trained without mean and standard deviation."

PICTURE_MUTANTS: tuple[PictureMutant, ...] = (
    PictureMutant(
        "PRE-01",
        "channels in the order R, G, B; expected B, G, R",
        "The network sees red as blue: labels of colourful pictures are wrong, of others less certain.",
        "Reverse the channels after reading the picture as RGB, or leave them as OpenCV reads them.",
        {"order": lambda pixels, _processor: pixels},
    ),
    PictureMutant(
        "PRE-01",
        "channels in the order B, G, R; expected R, G, B",
        "The network sees red as blue: labels of colourful pictures are wrong, of others less certain.",
        "Leave the channels as R, G, B: do_flip_channel_order is off.",
        {"order": lambda pixels, _processor: pixels[::-1]},
        variant="flipped",
    ),
    PictureMutant(
        "PRE-01",
        "picture with channels in the order B, G, R; expected R, G, B, and B, G, R only after the last step",
        "The flip at the end makes R, G, B of it: labels of colourful pictures are wrong.",
        "Convert what OpenCV reads with COLOR_BGR2RGB, or leave the flip at the end out.",
        {"decode": lambda stored: stored.upright[::-1]},
        variant="decoded",
    ),
    PictureMutant(
        "PRE-02",
        "ImageNet's mean and standard deviation applied; expected values in 0..1",
        _RANGE,
        _NO_STATISTICS,
        {"normalise": _statistics(*IMAGENET)},
    ),
    PictureMutant(
        "PRE-02",
        "ImageNet's mean and standard deviation applied, those of R to B; expected values in 0..1",
        _RANGE,
        _NO_STATISTICS,
        {"normalise": _statistics(IMAGENET[0][::-1], IMAGENET[1][::-1])},
        variant="crossed",
    ),
    PictureMutant(
        "PRE-02",
        "a mean and a standard deviation of 0.5 applied, values in -1..1; expected values in 0..1",
        _RANGE,
        _NO_STATISTICS,
        {"normalise": lambda _processor: Affine(2.0, -1.0)},
        variant="half",
    ),
    PictureMutant(
        "PRE-03",
        "values not multiplied by rescale_factor, bytes 0..255; expected 0..1",
        _RANGE,
        "Divide by 255, once: in the graph, or outside of it.",
        {"scale": lambda _processor: Affine()},
    ),
    PictureMutant(
        "PRE-03",
        "values multiplied by rescale_factor twice; expected once",
        "All pictures are almost black to the network: it gives nearly the same label to all.",
        "Divide by 255, once: in the graph, or outside of it.",
        {"normalise": _twice},
        variant="twice",
    ),
    PictureMutant(
        "PRE-04",
        "picture squashed to a square of size; expected its short edge resized to size, and its aspect kept",
        _UNPLACED,
        "Resize the short edge to size and the long one in proportion, then crop the middle.",
        {"size": _squashed(lambda p: (min(p.size.values()), min(p.size.values())))},
        is_common=True,
    ),
    PictureMutant(
        "PRE-04",
        "picture squashed to crop_size; expected its short edge resized to size, its aspect kept, and a crop",
        _UNPLACED,
        "Resize the short edge to size and the long one in proportion, then crop the middle.",
        {"size": _squashed(lambda p: (p.crop_size["height"], p.crop_size["width"]))},
        variant="crop",
        is_common=True,
    ),
    _filtered("bicubic", 3, OTHER_LIBRARY_BICUBIC),
    _filtered("bilinear", 2, OTHER_LIBRARY),
    _filtered("nearest", 0),
    _filtered("lanczos", 1),
    _filtered("hamming", 5),
    _filtered("box", 4, OTHER_LIBRARY),
    _nearest("nearest-single", nearest(0.5, np.float32)),
    _nearest("nearest-corner", nearest(0.0)),
    _nearest("nearest-corner-single", nearest(0.0, np.float32)),
    *_aliased("", "bilinearly", _not_averaged),
    *_aliased("bicubic", "bicubically", _cubic),
    *_aliased("corners", "with align_corners=True", _blended(corner_aligned)),
    *_aliased("asymmetric", "with coordinates that lack half a pixel,", _blended(asymmetric)),
    PictureMutant(
        "PRE-08",
        "long edge rounded to the nearest pixel; expected its fraction cut off",
        "The crop lies up to one pixel off, and the scale is another by less than that: logits move slightly.",
        _LONG,
        {"size": _long_edge(round)},
    ),
    PictureMutant(
        "PRE-08",
        "long edge rounded up; expected its fraction cut off",
        "The crop lies up to one pixel off, and the scale is another by less than that: logits move slightly.",
        _LONG,
        {"size": _long_edge(math.ceil)},
        variant="up",
    ),
    PictureMutant(
        "PRE-09",
        "resized in floating point and left there; expected bytes after each of the two passes",
        _SLIGHT,
        "Resize bytes to bytes, as Pillow does, and rescale after that.",
        {"sample": _in_floats},
        levels=FLOAT_RESIZE,
        is_common=True,
    ),
    PictureMutant(
        "PRE-09",
        "resized in floating point and rounded once; expected bytes after each of the two passes",
        _SLIGHT,
        "Resize bytes to bytes, as Pillow does, rows after columns.",
        {"sample": _in_bytes(_in_floats)},
        variant="once",
        levels=OTHER_LIBRARY,
        is_common=True,
    ),
    PictureMutant(
        "PRE-09",
        "resized in floating point and cut down to whole levels; expected rounded bytes after each of the two passes",
        _SLIGHT,
        "Resize bytes to bytes, as Pillow does, or round before the cast.",
        {"sample": _cut_down},
        variant="cut",
        levels=OTHER_LIBRARY,
    ),
    _of_size("", "crop_size", lambda crop: crop),
    _of_size("0.9", "crop_size / 0.9, as crop_pct of timm has it", lambda crop: int(crop / 0.9)),
    _of_size("0.875", "crop_size / 0.875", lambda crop: int(crop / 0.875)),
    _of_size("default", "224, the default of the class in transformers", lambda _crop: 224),
    PictureMutant(
        "PRE-11",
        "picture smaller than the crop stretched to it; expected zeros around it",
        "Only pictures that are smaller than the crop after the resize: objects are wider or taller than they are.",
        _PAD,
        {"crop": _stretched},
        levels=OTHER_LIBRARY,
    ),
    PictureMutant(
        "PRE-11",
        "odd row or column of zeros around a small picture at the bottom or right; expected at the top or left",
        "Only pictures that are smaller than the crop after the resize: they lie one pixel off.",
        _PAD,
        {"crop": _padded_behind},
        variant="behind",
    ),
    PictureMutant(
        "PRE-11",
        "border of a picture smaller than the crop repeated; expected zeros around it",
        "Only pictures that are smaller than the crop after the resize: logits move.",
        _PAD,
        {"crop": _padded_with_edge},
        variant="edge",
    ),
    PictureMutant(
        "PRE-12",
        "picture as it is stored, its EXIF orientation ignored; expected upright",
        _TURNED,
        _UPRIGHT,
        {"decode": lambda stored: _AS_STORED[stored.orientation](stored.upright)},
        is_common=True,
    ),
    PictureMutant(
        "PRE-12",
        "EXIF orientation applied twice; expected once",
        _TURNED,
        _UPRIGHT,
        {"decode": lambda stored: _AS_STORED[_OPPOSITE.get(stored.orientation, 1)](stored.upright)},
        variant="twice",
    ),
    PictureMutant(
        "PRE-12",
        "picture turned against its EXIF orientation; expected upright",
        _TURNED,
        _UPRIGHT,
        {"decode": lambda stored: _AS_STORED[3 if stored.orientation in _OPPOSITE else 1](stored.upright)},
        variant="opposite",
    ),
    _interleaved("", "values (H, W, 3)", order=lambda x, processor: _as_planes(RIGHT["order"](x, processor))),
    _interleaved("picture", "bytes (H, W, 3) of the picture", decode=lambda stored: _as_planes(stored.upright)),
    _interleaved("rgb", "values (H, W, 3) in the order R, G, B", order=lambda x, _processor: _as_planes(x)),
    _interleaved(
        "flipped",
        "values (H, W, 3), and the planes reversed,",
        order=lambda x, processor: RIGHT["order"](_as_planes(x), processor),
    ),
    _of_mode(
        "dropped",
        "alpha channel dropped; expected the picture laid on white",
        "Transparent parts show whatever colour is stored there.",
        decode=_transparent(lambda picture: picture.convert("RGB")),
    ),
    _of_mode(
        "black",
        "alpha channel laid on black; expected on white",
        "Transparent parts are black to the network: labels of cut-out objects change.",
        decode=_transparent(_on_black),
    ),
    _of_mode(
        "abgr",
        "alpha channel kept: A, B, G, R once reversed; expected three channels of the picture laid on white",
        "The first convolution has three input channels: an error, or channels one off.",
        decode=_transparent(lambda picture: picture),
    ),
    _of_mode(
        "abg",
        "channels A, B, G; expected B, G, R of the picture laid on white",
        "The network sees alpha as blue, blue as green and green as red: labels are wrong.",
        decode=_transparent(lambda picture: picture),
        order=lambda x, _processor: x[::-1][:3],
    ),
    _of_mode(
        "bgra",
        "four channels B, G, R, A; expected B, G, R of the picture laid on white",
        "The first convolution has three input channels: an error.",
        decode=_transparent(lambda picture: picture),
        order=lambda x, _processor: np.concatenate([x[:3][::-1], x[3:]]),
    ),
    _of_mode(
        "grey",
        "one channel of a grey picture; expected three equal ones",
        "The first convolution has three input channels: an error.",
        decode=lambda stored: stored.upright[:1] if stored.mode in ("1", "L", *_SIXTEEN) else stored.upright,
    ),
    _of_mode(
        "palette",
        "indices of a palette taken for grey levels; expected the colours that they stand for",
        "The network sees an arbitrary order of colours as brightness: labels are wrong.",
        decode=_stored_as(("P",), lambda values: values),
    ),
    _of_mode(
        "bits",
        "a picture of black and white with values 0 and 1; expected 0 and 255",
        "The network sees black: all such pictures have the same label.",
        decode=_stored_as(("1",), lambda values: values.astype(np.uint8)),
    ),
    _of_mode(
        "inks",
        "amounts of cyan, magenta and yellow taken for R, G, B; expected the colours that they make",
        "The network sees a negative: labels are wrong.",
        decode=_stored_as(("CMYK",), lambda values: values[:, :, :3]),
    ),
    _of_mode(
        "clipped",
        "16-bit grey clipped at 255; expected scaled from 0..65535 to 0..255",
        "The network sees white nearly everywhere: labels are wrong.",
        decode=_stored_as(_SIXTEEN, lambda values: np.minimum(values, 255).astype(np.uint8)),
    ),
    _of_mode(
        "high-byte",
        "16-bit grey cut to its upper 8 bits; expected scaled from 0..65535 to 0..255 and rounded",
        _SLIGHT,
        decode=_stored_as(_SIXTEEN, lambda values: (values >> 8).astype(np.uint8)),
    ),
)
