"""The catalogue of mistakes before the network: each, made by a port of its own, is found where it is and named."""

import dataclasses
import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image

from npmobilevit import MobileViTImageProcessor
from npmobilevit.images import to_rgb
from npmobilevit.validation.mutants.mutant import MODES
from npmobilevit.validation.mutants.pictures import PICTURE_MUTANTS
from npmobilevit.validation.profiles import PROFILES
from npmobilevit.validation.surroundings import judge_picture

FP32 = PROFILES["fp32"]
STEPS = ("picture", "resized", "center_cropped", "rescaled", "pixel_values")
NAMES = [mutant.name for mutant in PICTURE_MUTANTS]


# --- pictures


def photo(height=93, width=126):
    """Slopes, edges and fine texture in which no two channels, rows or columns are alike: (H, W, 3)."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([120 + 60 * np.sin(x / 17 + y / 31), 30 + y, 220 - 0.8 * x], axis=-1)
    texture = 40 * np.sin(x * y / 40)[:, :, None] + rng.normal(0, 25, slopes.shape)
    picture = np.clip(slopes + texture, 0, 255).astype(np.uint8)
    picture[30:45, 45:65] //= 20
    return picture


def encoded(picture, form="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def turned(orientation):
    """The photo as a file with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(photo()), exif=exif)


def cut_out():
    """The photo with soft, transparent borders."""
    alpha = np.clip(np.hypot(*np.mgrid[-46:47, -63:63]) * 8 - 120, 0, 255)
    return Image.fromarray(np.dstack([photo(), 255 - alpha.astype(np.uint8)]))


def sixteen_bits():
    return Image.fromarray((photo()[:, :, 0].astype(np.uint16) << 8) + photo()[:, :, 1])


PICTURES = {
    "array": photo(),
    "file": encoded(Image.fromarray(photo())),
    "tall": photo(126, 93),
    "small": photo(13, 17),
    "square": photo(90, 90),
    "between": photo(34, 50),  # smaller than the size, larger than the crop
    "tie": photo(80, 104),  # where single precision decides between two pixels
    **{f"turned {o}": turned(o) for o in range(2, 9)},
    "cut out": encoded(cut_out()),
    "cut out array": np.asarray(cut_out()),
    "grey": Image.fromarray(photo()[:, :, 0]),
    "grey array": photo()[:, :, 0],
    "palette": encoded(Image.fromarray(photo()).quantize(50), "GIF"),
    "bits": Image.fromarray(photo()).convert("1"),
    "inks": Image.fromarray(photo()).convert("CMYK"),
    "16 bits": encoded(sixteen_bits()),
}


# --- a port, written without the code under test


def pillow(picture, height, width, resample=Image.Resampling.BILINEAR):
    bands = picture[:, :, 0] if picture.shape[2] == 1 else np.ascontiguousarray(picture)
    return np.asarray(Image.fromarray(bands).resize((width, height), resample)).reshape(height, width, -1)


def short_edge(picture, size, long=int):
    height, width = picture.shape[:2]
    other = long(size * max(height, width) / min(height, width))
    return (size, other) if height <= width else (other, size)


def crop(picture, size=32, fill=None):
    height, width = picture.shape[:2]
    rows, columns = max(size - height, 0), max(size - width, 0)
    if rows or columns:
        pad = [((n + 1) // 2, n // 2) for n in (rows, columns)]
        picture = np.pad(picture, [*pad, (0, 0)])
        height, width = picture.shape[:2]
    top, left = (height - size) // 2, (width - size) // 2
    return picture[top : top + size, left : left + size]


def port(source, processor, **wrong):
    """All tensors of a port; a function in `wrong` takes a step's place."""
    steps = {
        "picture": to_rgb,
        "resized": lambda x: pillow(x, *short_edge(x, processor.size["shortest_edge"]), processor.resample),
        "center_cropped": crop,
        "rescaled": lambda x: (x * np.float32(1 / 255)).astype(np.float32).transpose(2, 0, 1),
        "pixel_values": lambda x: x[None, ::-1] if processor.do_flip_channel_order else x[None],
    }
    tensors, value = {}, source
    for name, step in (steps | wrong).items():
        tensors[name] = value = step(value)
    return tensors


def weights(length, out, kernel, radius, *, scale=None, aligned=False, shift=0.5):
    """The matrix (out, length) of a resize along one axis, with the border repeated, or cut off where it averages."""
    step = length / out
    matrix = np.zeros((out, length))
    for i in range(out):
        centre = i * (length - 1) / (out - 1) if aligned else (i + shift) * step - shift
        reach = math.ceil(radius * (scale or 1)) + 1
        for j in range(int(centre) - reach, int(centre) + reach + 1):
            if scale is None or 0 <= j < length:
                matrix[i, min(max(j, 0), length - 1)] += kernel(abs(centre - j) / (scale or 1))
    return matrix / matrix.sum(axis=1, keepdims=True)


def triangle(x):
    return max(0.0, 1 - x)


def cubic(a):
    def kernel(x):
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    return kernel


def resize(picture, size, kernel=triangle, radius=1, *, antialias=False, **where):
    """A resize in floating point, as libraries other than Pillow do it."""
    rows, columns = (
        weights(n, out, kernel, radius, scale=max(n / out, 1) if antialias else None, **where)
        for n, out in zip(picture.shape[:2], size, strict=True)
    )
    return np.einsum("ih,hwc,jw->ijc", rows, picture.astype(float), columns, optimize=True)


def byte(x):
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def to_36(x):
    return short_edge(x, 36)


def nearest(x, origin, dtype):
    rows, columns = (
        np.floor((np.arange(out, dtype=dtype) + dtype(origin)) * dtype(n / out)).astype(int)
        for n, out in zip(x.shape[:2], to_36(x), strict=True)
    )
    return x[rows][:, columns]


def planes(x):
    """(H, W, 3) in memory, read as (3, H, W)."""
    return np.ascontiguousarray(x).reshape(3, *x.shape[:2])


def stored(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def rgba(data):
    return Image.open(io.BytesIO(data)).convert("RGBA")


def on_black(picture):
    values = np.asarray(picture).astype(float)
    return byte(values[:, :, :3] * values[:, :, 3:] / 255)


def normalised(mean, deviation):
    """Of (3, H, W), in single precision."""
    m, d = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (mean, deviation))
    return lambda x: (x - m) / d


IMAGENET = normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CROSSED = normalised((0.406, 0.456, 0.485), (0.225, 0.224, 0.229))


def rescaled(x):
    return (x / np.float32(255)).astype(np.float32).transpose(2, 0, 1)


@dataclasses.dataclass
class Case:
    """A mistake: the step that it is made in, and a picture that shows it."""

    name: str
    step: str
    function: object
    picture: str = "array"
    alone: str | None = None  # its name, if other, where only pixel values are given
    settings: dict = dataclasses.field(default_factory=dict)

    def __str__(self):
        return f"{self.name} {self.picture}"


def filters():
    for name in ("nearest", "lanczos", "bicubic", "box", "hamming"):
        resample = Image.Resampling[name.upper()]
        yield Case(f"PRE-06-{name}", "resized", lambda x, resample=resample: pillow(x, *to_36(x), resample))
    yield Case("PRE-06-bilinear", "resized", lambda x: pillow(x, *to_36(x)), settings={"resample": 3})


PAD = {"size": 20}
CASES = [
    Case("PRE-01", "pixel_values", lambda x: x[None]),
    Case("PRE-01", "pixel_values", lambda x: x[None], "small"),
    Case("PRE-01-flipped", "pixel_values", lambda x: x[None, ::-1], settings={"do_flip_channel_order": False}),
    Case("PRE-01-decoded", "picture", lambda s: to_rgb(s)[:, :, ::-1], alone="PRE-01"),
    Case("PRE-02", "rescaled", lambda x: IMAGENET(rescaled(x))),
    Case("PRE-02", "pixel_values", lambda x: IMAGENET(x)[None, ::-1]),
    Case("PRE-02-crossed", "pixel_values", lambda x: IMAGENET(x[::-1])[None], "tall"),
    Case("PRE-02-half", "rescaled", lambda x: rescaled(x) * 2 - 1),
    Case("PRE-02-half", "pixel_values", lambda x: (x[None, ::-1] - np.float32(0.5)) / np.float32(0.5)),
    Case("PRE-03", "rescaled", lambda x: x.transpose(2, 0, 1)),
    Case("PRE-03", "rescaled", lambda x: x.transpose(2, 0, 1).astype(np.float32), "small"),
    Case("PRE-03-twice", "rescaled", lambda x: rescaled(x) / np.float32(255)),
    Case("PRE-03-twice", "pixel_values", lambda x: x[None, ::-1] / np.float32(255)),
    Case("PRE-04", "resized", lambda x: pillow(x, 36, 36)),
    Case("PRE-04-crop", "resized", lambda x: pillow(x, 32, 32), "tall"),
    *filters(),
    Case("PRE-06-bicubic", "resized", lambda x: byte(resize(x, to_36(x), cubic(-0.5), 2, antialias=True))),
    Case("PRE-06-nearest-corner", "resized", lambda x: nearest(x, 0, float)),
    Case("PRE-06-nearest-corner-single", "resized", lambda x: nearest(x, 0, np.float32), "tie"),
    Case("PRE-06-nearest-single", "resized", lambda x: nearest(x, 0.5, np.float32), "tie"),
    Case("PRE-07", "resized", lambda x: resize(x, to_36(x)).astype(np.float32), "tall"),
    Case("PRE-07-bytes", "resized", lambda x: byte(resize(x, to_36(x)))),
    Case("PRE-07-bicubic", "resized", lambda x: resize(x, to_36(x), cubic(-0.75), 2)),
    Case("PRE-07-bicubic-bytes", "resized", lambda x: byte(resize(x, to_36(x), cubic(-0.75), 2))),
    Case("PRE-07-corners", "resized", lambda x: resize(x, to_36(x), aligned=True)),
    Case("PRE-07-corners-bytes", "resized", lambda x: byte(resize(x, to_36(x), aligned=True))),
    Case("PRE-07-asymmetric", "resized", lambda x: resize(x, to_36(x), shift=0.0)),
    Case("PRE-07-asymmetric-bytes", "resized", lambda x: byte(resize(x, to_36(x), shift=0.0))),
    Case("PRE-08", "resized", lambda x: pillow(x, *short_edge(x, 36, round))),
    Case("PRE-08", "resized", lambda x: pillow(x, *short_edge(x, 36, round)), "tall"),
    Case("PRE-08-up", "resized", lambda x: pillow(x, *short_edge(x, 36, math.ceil)), "small"),
    Case("PRE-09", "resized", lambda x: resize(x, to_36(x), antialias=True).astype(np.float32)),
    Case("PRE-09", "resized", lambda x: resize(x, to_36(x), antialias=True), "small"),
    Case("PRE-09-once", "resized", lambda x: byte(resize(x, to_36(x), antialias=True))),
    Case("PRE-09-cut", "resized", lambda x: resize(x, to_36(x), antialias=True).astype(np.uint8)),
    Case("PRE-10", "resized", lambda x: pillow(x, *short_edge(x, 32))),
    Case("PRE-10", "resized", lambda x: pillow(x, 32, 32), "square"),
    Case("PRE-10-0.9", "resized", lambda x: pillow(x, *short_edge(x, 35)), "tall"),
    Case("PRE-10-0.875", "resized", lambda x: pillow(x, *short_edge(x, 36)), settings={"size": 40}),
    Case("PRE-10-default", "resized", lambda x: pillow(x, *short_edge(x, 224))),
    Case("PRE-11", "center_cropped", lambda x: pillow(x, 32, 32), settings=PAD),
    Case("PRE-11-behind", "center_cropped", lambda x: np.pad(x, [(6, 6), (2, 3), (0, 0)]), settings=PAD),
    Case("PRE-11-edge", "center_cropped", lambda x: np.pad(x, [(6, 6), (3, 2), (0, 0)], "edge"), settings=PAD),
    *(Case("PRE-12", "picture", stored, f"turned {o}") for o in range(2, 9)),
    Case("PRE-12-twice", "picture", lambda s: np.rot90(stored(s), 2), "turned 6"),
    Case("PRE-12-twice", "picture", lambda s: np.rot90(stored(s), 2), "turned 8"),
    Case("PRE-12-opposite", "picture", lambda s: np.rot90(stored(s), 1), "turned 6"),
    Case("PRE-12-opposite", "picture", lambda s: np.rot90(stored(s), -1), "turned 8"),
    Case("PRE-13", "pixel_values", lambda x: planes(x[::-1].transpose(1, 2, 0))[None]),
    Case("PRE-13-rgb", "pixel_values", lambda x: planes(x.transpose(1, 2, 0))[None]),
    Case("PRE-13-flipped", "pixel_values", lambda x: planes(x.transpose(1, 2, 0))[None, ::-1]),
    Case("PRE-13-picture", "picture", lambda s: planes(to_rgb(s)).transpose(1, 2, 0), "file"),
    Case("PRE-14-dropped", "picture", lambda s: np.asarray(rgba(s))[:, :, :3], "cut out"),
    Case("PRE-14-dropped", "picture", lambda s: s[:, :, :3], "cut out array"),
    Case("PRE-14-black", "picture", lambda s: on_black(rgba(s)), "cut out"),
    Case("PRE-14-abgr", "picture", lambda s: np.asarray(rgba(s)), "cut out"),
    Case("PRE-14-grey", "picture", lambda s: np.asarray(s)[:, :, None], "grey"),
    Case("PRE-14-grey", "picture", lambda s: s[:, :, None], "grey array"),
    Case("PRE-14-palette", "picture", lambda s: np.stack([stored(s)] * 3, axis=-1), "palette"),
    Case("PRE-14-bits", "picture", lambda s: np.stack([np.asarray(s)] * 3, axis=-1).astype(np.uint8), "bits"),
    Case("PRE-14-inks", "picture", lambda s: np.asarray(s)[:, :, :3], "inks"),
    Case("PRE-14-clipped", "picture", lambda s: np.stack([stored(s).clip(0, 255)] * 3, -1).astype(np.uint8), "16 bits"),
    Case("PRE-14-high-byte", "picture", lambda s: np.stack([stored(s) >> 8] * 3, -1).astype(np.uint8), "16 bits"),
]


def processor_of(case):
    return MobileViTImageProcessor(**{"size": 36, "crop_size": 32, "resample": 2} | case.settings)


def findings_of(tensors, source, processor, profile=FP32):
    return [finding for _, found in judge_picture(tensors, source, processor, profile) for finding in found]


def test_every_mistake_has_a_name_of_its_own_and_says_what_to_do():
    assert len(set(NAMES)) == len(NAMES)
    rows = {mutant.id for mutant in PICTURE_MUTANTS}
    assert rows == {f"PRE-{n:02}" for n in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14)}
    for mutant in PICTURE_MUTANTS:
        assert "; expected " in mutant.description
        assert mutant.consequence.endswith(".")
        assert mutant.fix.endswith(".")
        assert mutant.mode in MODES


def test_every_mistake_is_made_here():
    made = {case.name for case in CASES} | {name for name, *_ in LATE}
    assert made == set(NAMES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_mistake_is_found_at_its_step_and_named(case):
    processor, source = processor_of(case), PICTURES[case.picture]
    tensors = port(source, processor, **{case.step: case.function})
    found = findings_of(tensors, source, processor)
    assert found[0].tap == case.step
    assert {finding.diagnosis and finding.diagnosis.mutant for finding in found} == {case.name}
    assert {finding.cause for finding in found} == {case.name[:6]}
    assert all(finding.severity == "fail" and finding.kind == "preprocessing" for finding in found)
    assert found[0].diagnosis.remaining < 0.25
    channels = {tensors[name].shape[-1 if name != "pixel_values" else 1] for name in ("picture", "pixel_values")}
    assert len(found) == 1 or channels != {3}  # what has not three channels cannot be judged on


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_mistake_is_named_from_pixel_values_alone(case):
    processor, source = processor_of(case), PICTURES[case.picture]
    values = port(source, processor, **{case.step: case.function})["pixel_values"]
    (finding,) = findings_of({"pixel_values": values}, source, processor)
    assert finding.tap == "pixel_values"
    assert finding.diagnosis.mutant == (case.alone or case.name)


# With four channels up to the last step, and three or four after it.
LATE = [
    ("PRE-14-abg", lambda x: x[None, ::-1][:, :3]),
    ("PRE-14-bgra", lambda x: x[None, [2, 1, 0, 3]]),
]


@pytest.mark.parametrize(("name", "order"), LATE)
def test_an_alpha_channel_that_is_kept_is_told_by_the_order(name, order):
    processor, source = processor_of(CASES[0]), PICTURES["cut out"]
    tensors = port(source, processor, picture=lambda s: np.asarray(rgba(s)), pixel_values=order)
    (finding,) = findings_of({"pixel_values": tensors["pixel_values"]}, source, processor)
    assert finding.diagnosis.mutant == name


SEVERAL = [
    (["PRE-01", "PRE-02"], "array", {"pixel_values": lambda x: IMAGENET(x)[None]}),
    (["PRE-01", "PRE-03"], "array", {"rescaled": lambda x: x.transpose(2, 0, 1), "pixel_values": lambda x: x[None]}),
    (["PRE-02", "PRE-03"], "array", {"rescaled": lambda x: IMAGENET(x.transpose(2, 0, 1).astype(np.float32))}),
    (["PRE-04-crop", "PRE-07"], "array", {"resized": lambda x: resize(x, (32, 32))}),
    (["PRE-04-crop", "PRE-07"], "between", {"resized": lambda x: resize(x, (32, 32))}),
    (["PRE-04-crop", "PRE-09"], "array", {"resized": lambda x: resize(x, (32, 32), antialias=True)}),
    (["PRE-06-bicubic", "PRE-09"], "tall", {"resized": lambda x: resize(x, to_36(x), cubic(-0.5), 2, antialias=True)}),
    (
        ["PRE-01", "PRE-02", "PRE-04-crop", "PRE-07"],
        "tall",
        {"resized": lambda x: resize(x, (32, 32)), "pixel_values": lambda x: IMAGENET(x)[None]},
    ),
    (["PRE-01", "PRE-10"], "array", {"resized": lambda x: pillow(x, 32, 43), "pixel_values": lambda x: x[None]}),
    (["PRE-04", "PRE-12"], "turned 6", {"picture": stored, "resized": lambda x: pillow(x, 36, 36)}),
    (["PRE-06-bicubic", "PRE-10"], "array", {"resized": lambda x: pillow(x, 32, 43, Image.Resampling.BICUBIC)}),
    (
        ["PRE-01", "PRE-14-dropped"],
        "cut out array",
        {"picture": lambda s: s[..., :3], "pixel_values": lambda x: x[None]},
    ),
]


@pytest.mark.parametrize(("names", "picture", "wrong"), SEVERAL)
def test_several_mistakes_are_named_together(names, picture, wrong):
    processor, source = processor_of(CASES[0]), PICTURES[picture]
    values = port(source, processor, **wrong)["pixel_values"]
    (finding,) = findings_of({"pixel_values": values}, source, processor)
    assert sorted(finding.diagnosis.mutant.split(" + ")) == names
    assert finding.diagnosis.description.count("; and ") == len(names) - 1
    assert finding.cause in {name[:6] for name in names}


def test_mistakes_of_two_steps_are_found_at_each_where_both_are_given():
    processor, source = processor_of(CASES[0]), PICTURES["array"]
    tensors = port(source, processor, resized=lambda x: resize(x, (32, 32)), pixel_values=lambda x: IMAGENET(x)[None])
    found = {finding.tap: finding.diagnosis.mutant for finding in findings_of(tensors, source, processor)}
    assert {tap: sorted(name.split(" + ")) for tap, name in found.items()} == {
        "resized": ["PRE-04-crop", "PRE-07"],
        "pixel_values": ["PRE-01", "PRE-02"],
    }


# --- what is right, and what nobody knows


@pytest.mark.parametrize("settings", [{}, {"resample": 3}, {"size": 20}, {"do_flip_channel_order": False}])
@pytest.mark.parametrize("picture", PICTURES)
def test_right_ports_raise_nothing(picture, settings):
    processor, source = processor_of(Case("", "", None, settings=settings)), PICTURES[picture]
    tensors = port(source, processor)
    assert findings_of(tensors, source, processor) == []
    assert findings_of({"pixel_values": tensors["pixel_values"]}, source, processor) == []


def gamma(x):
    return byte(255 * (x / 255) ** 2.2)


def one_level_off(x):
    """As another library's antialiased resize of bytes: here and there by one level."""
    rng = np.random.default_rng(1)
    return np.where(rng.random(x.shape) < 0.01, x + np.where(x < 255, 1, -1), x).astype(np.uint8)


UNKNOWN = {
    "gamma": {"picture": lambda s: gamma(to_rgb(s))},
    "gamma after the resize": {"center_cropped": lambda x: gamma(crop(x))},
    "mirrored": {"picture": lambda s: to_rgb(s)[:, ::-1]},
    "upside down": {"pixel_values": lambda x: x[None, ::-1, ::-1]},
    "hues": {"picture": lambda s: np.roll(to_rgb(s), 1, axis=2)},
    "brighter": {"center_cropped": lambda x: byte(crop(x) + 3.0)},
    "divided by 256": {"rescaled": lambda x: (x / np.float32(256)).transpose(2, 0, 1)},
    "other statistics": {"rescaled": lambda x: normalised((0.5, 0.4, 0.3), (0.2, 0.2, 0.3))(rescaled(x))},
    "one pixel off": {"center_cropped": lambda x: crop(np.roll(x, 1, axis=1))},
    "one level off": {"resized": lambda x: one_level_off(pillow(x, *to_36(x)))},
    "blurred": {"resized": lambda x: byte(pillow(np.roll(x, 1, axis=0), *to_36(x)) / 2.0 + pillow(x, *to_36(x)) / 2.0)},
    "another size": {"resized": lambda x: pillow(x, *short_edge(x, 38))},
    "no channel of blue": {"pixel_values": lambda x: x[None, ::-1] * np.float32([[[[0]], [[1]], [[1]]]])},
    "grey": {"picture": lambda s: np.stack([byte(to_rgb(s).mean(axis=2))] * 3, axis=-1)},
    "one wrong pixel": {"center_cropped": lambda x: crop(x) ^ (np.arange(32) == 5)[:, None].astype(np.uint8)},
    "another crop": {"center_cropped": lambda x: x[:32, :32]},
}


@pytest.mark.parametrize(("name", "picture"), list(zip(UNKNOWN, itertools.cycle(["tall", "cut out", "turned 6"]))))
def test_an_uncatalogued_mistake_stays_unknown(name, picture):
    processor, source = processor_of(CASES[0]), PICTURES[picture]
    tensors = port(source, processor, **UNKNOWN[name])
    found = [
        *findings_of(tensors, source, processor),
        *findings_of({"pixel_values": tensors["pixel_values"]}, source, processor),
    ]
    assert len(found) == 2
    assert [finding.cause for finding in found] == [None, None]
    assert [finding.diagnosis for finding in found] == [None, None]


def test_a_mistake_with_an_unknown_one_is_near_at_most():
    processor, source = processor_of(CASES[0]), PICTURES["array"]
    values = port(source, processor)["pixel_values"][:, ::-1] + np.float32(0.01)
    (finding,) = findings_of({"pixel_values": values}, source, processor)
    assert finding.cause is None
    assert finding.near[0].mutant in ("PRE-01", "PRE-01-decoded")
    assert 0 < finding.near[0].remaining < 0.2


def test_a_channel_order_with_the_resize_of_another_library_is_no_filter():
    """What is left is by far the smaller part of the difference, and must not be put down to another filter."""
    processor, source = processor_of(CASES[0]), PICTURES["array"]
    tensors = port(
        source, processor, resized=lambda x: one_level_off(pillow(x, *to_36(x))), pixel_values=lambda x: x[None]
    )
    (finding,) = findings_of({"pixel_values": tensors["pixel_values"]}, source, processor)
    assert finding.cause is None
    assert {near.mutant for near in finding.near} >= {"PRE-01"}


IN_ANY_PRECISION = ("PRE-01", "PRE-02", "PRE-04", "PRE-07", "PRE-10")


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_a_mistake_is_named_in_the_declared_precision(name):
    unit = PROFILES[name].store
    processor, source = processor_of(CASES[0]), PICTURES["array"]
    for case in (case for case in CASES if case.name in IN_ANY_PRECISION and case.picture == "array"):
        values = port(source, processor, **{case.step: case.function})["pixel_values"]
        values = values * (1 + unit * np.random.default_rng(2).uniform(-0.9, 0.9, values.shape))
        (finding,) = findings_of({"pixel_values": values}, source, processor, PROFILES[name])
        assert finding.diagnosis.mutant == case.name


@pytest.mark.parametrize("kind", ["stream", "path"])
def test_the_file_is_looked_at_again_for_an_explanation(kind, tmp_path):
    path = tmp_path / "turned.png"
    path.write_bytes(turned(6))
    processor = processor_of(CASES[0])
    values = port(turned(6), processor, picture=stored)["pixel_values"]
    source = io.BytesIO(turned(6)) if kind == "stream" else path
    (finding,) = findings_of({"pixel_values": values}, source, processor)
    assert finding.cause == "PRE-12"


def test_other_mistakes_that_explain_as_much_are_told():
    processor = processor_of(CASES[0])
    picture = np.repeat(photo()[:, :, :1], 3, axis=2)  # no order of channels can be seen
    values = IMAGENET(port(picture, processor)["pixel_values"][0])[None]
    (finding,) = findings_of({"pixel_values": values}, picture, processor)
    assert finding.cause == "PRE-02"
    assert finding.diagnosis.also == ()
    source = Image.fromarray(photo()[:, :, 0] // 2)
    for size, name in ((32, "PRE-10"), (35, "PRE-10-0.9")):
        values = port(source, processor, resized=lambda x, size=size: pillow(x, *short_edge(x, size)))["pixel_values"]
        (finding,) = findings_of({"pixel_values": values}, source, processor)
        assert finding.diagnosis.mutant == name


def test_a_mistake_that_would_make_a_giant_picture_is_passed_over(monkeypatch):
    processor, source = processor_of(CASES[0]), PICTURES["array"]
    values = port(source, processor, resized=lambda x: pillow(x, *short_edge(x, 224)))["pixel_values"]
    monkeypatch.setattr("npmobilevit.validation.retracing.MAX_RESIZED_PIXELS", 100 * 200)
    (finding,) = findings_of({"pixel_values": values}, source, processor)
    assert finding.cause is None
