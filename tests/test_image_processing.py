"""The image processor against plain-loop definitions, its settings, files and refusals."""

from __future__ import annotations

import io
import json
import pickle
import sys
import types
from dataclasses import FrozenInstanceError
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from npmobilevit.errors import CheckpointError, ConfigError, ImageError, ShapeError
from npmobilevit.image_processing import (
    MAX_RESIZED_PIXELS,
    MobileViTFeatureExtractor,
    MobileViTImageProcessor,
    center_crop,
    resized_size,
)
from npmobilevit.images import to_rgb

IMAGES = Path(__file__).parents[1] / "reference" / "images"
RAW = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_flip_channel_order": False}

FILE_OF_2022 = {
    "crop_size": 256,
    "do_center_crop": True,
    "do_flip_channels": True,
    "do_resize": True,
    "feature_extractor_type": "MobileViTFeatureExtractor",
    "resample": 2,
    "size": 288,
}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def refused(error: type, code: str, call: object, *args: object, **kwargs: object) -> str:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code, str(caught.value)
    assert " at 0x" not in str(caught.value)
    return str(caught.value)


# Steps, by definition


def crop_by_loops(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pad to at least the crop, odd rest at the top and left; then cut, odd rest at the bottom and right."""
    channels, old_height, old_width = image.shape
    pad_top, pad_left = max(0, height - old_height), max(0, width - old_width)
    pad_top, pad_left = pad_top - pad_top // 2, pad_left - pad_left // 2
    top, left = max(0, old_height - height) // 2, max(0, old_width - width) // 2
    result = np.zeros((channels, height, width), image.dtype)
    for y in range(height):
        for x in range(width):
            source_y, source_x = y + top - pad_top, x + left - pad_left
            if 0 <= source_y < old_height and 0 <= source_x < old_width:
                result[:, y, x] = image[:, source_y, source_x]
    return result


def test_logits_of_other_dtypes_are_refused() -> None:
    for dtype in (np.int64, np.int8, bool, np.float16, object, np.complex64):
        outputs = SimpleNamespace(logits=np.ones((1, 2, 3, 3), dtype))
        for targets in (None, [(8, 8)]):
            with pytest.raises(ShapeError, match="float32 or float64") as caught:
                MobileViTImageProcessor().post_process_semantic_segmentation(outputs, targets)
            assert caught.value.code == "logits-dtype"


def test_target_sizes_have_a_limit() -> None:
    outputs = SimpleNamespace(logits=np.ones((1, 2, 3, 3), np.float32))
    with pytest.raises(ShapeError, match="100,000,000"):
        MobileViTImageProcessor().post_process_semantic_segmentation(outputs, [(10_001, 10_000)])


def test_the_limit_of_the_resize_can_be_set_for_pictures_and_maps() -> None:
    processor = MobileViTImageProcessor(size=20, crop_size=20)
    picture, label_map = np.zeros((20, 40, 3), np.uint8), np.zeros((20, 60), np.uint8)
    assert processor(picture, label_map, max_resized_pixels=1200)["labels"].shape == (1, 20, 20)
    for limit in (799, 1199):
        with pytest.raises(ImageError, match="max_resized_pixels"):
            processor(picture, label_map, max_resized_pixels=limit)


@hypothesis_settings(max_examples=150, deadline=None)
@given(*[st.integers(1, 9)] * 4)
def test_center_crop_by_loops(height: int, width: int, new_height: int, new_width: int) -> None:
    """Catches: floor for ceil in the padding, ceil for floor in the cut, swapped axes."""
    image = 1 + noise(2, height, width) // 2
    cropped = center_crop(image, new_height, new_width)
    np.testing.assert_array_equal(cropped, crop_by_loops(image, new_height, new_width), strict=True)


def test_odd_rests() -> None:
    row = np.arange(1, 6)[None, None]  # 1 2 3 4 5
    assert center_crop(row, 1, 2).ravel().tolist() == [2, 3]
    assert center_crop(row, 1, 8).ravel().tolist() == [0, 0, 1, 2, 3, 4, 5, 0]


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_long_side_is_truncated(height: int, width: int, target: int) -> None:
    """Catches: rounding, a scale of floats applied to both sides, swapped sides."""
    short, long = min(height, width), max(height, width)
    new = resized_size(height, width, {"shortest_edge": target})
    # The quotient is rounded to float first, which matters only next to a whole number.
    assert min(new) == target
    assert max(new) == int(float(Fraction(target * long, short)))
    assert (new[0] <= new[1]) == (height <= width) or new[0] == new[1]


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (480, 640, {"shortest_edge": 288}, (288, 384)),
        (427, 640, {"shortest_edge": 288}, (288, 431)),  # 431.66
        (640, 427, {"shortest_edge": 288}, (431, 288)),
        (300, 300, {"shortest_edge": 288}, (288, 288)),
        (1, 1, {"shortest_edge": 288}, (288, 288)),
        (427, 640, {"height": 5, "width": 7}, (5, 7)),
        (427, 640, {"shortest_edge": 288, "longest_edge": 500}, (288, 431)),
        (427, 640, {"shortest_edge": 288, "longest_edge": 400}, (267, 400)),  # 266.9
        (640, 427, {"shortest_edge": 288, "longest_edge": 400}, (400, 267)),
        (300, 300, {"shortest_edge": 288, "longest_edge": 200}, (200, 200)),
        (100, 200, {"shortest_edge": 50, "longest_edge": 25}, (12, 25)),  # 12.5 rounds to even
        (12, 25, {"shortest_edge": 50, "longest_edge": 25}, (12, 25)),
    ],
)
def test_resized_sizes(height: int, width: int, size: dict[str, int], expected: tuple[int, int]) -> None:
    assert resized_size(height, width, size) == expected


@pytest.mark.parametrize(("height", "width"), [(3, 5), (5, 3), (9, 9), (1, 5), (17, 9)])
def test_nearest_resize_by_index(height: int, width: int) -> None:
    """Nearest takes source pixel floor((i + 0.5) * n_in / n_out); an odd n_in keeps the quotient off whole numbers."""
    image = noise(height, width, 3)
    pixels = MobileViTImageProcessor(**{**RAW, "do_resize": True, "resample": 0, "size": 6})(Image.fromarray(image))
    new_height, new_width = resized_size(height, width, {"shortest_edge": 6})
    rows = [(2 * i + 1) * height // (2 * new_height) for i in range(new_height)]
    columns = [(2 * i + 1) * width // (2 * new_width) for i in range(new_width)]
    expected = image[rows][:, columns].transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels["pixel_values"][0], expected, strict=True)


def test_bilinear_halving_by_definition() -> None:
    """Halving weighs four neighbours 1 3 3 1: antialiased, unlike torch's interpolate."""
    row = np.array([0, 0, 0, 0, 80, 80, 160, 160], np.uint8)
    image = Image.fromarray(np.repeat(np.repeat(row[None, :, None], 8, 0), 3, 2))
    settings = {**RAW, "do_resize": True, "size": 4, "resample": 2}
    pixels = MobileViTImageProcessor(**settings)(image)["pixel_values"][0, 0, 0]
    # 80 / 8; (3 * 80 + 3 * 80 + 160) / 8; at the border the three weights inside: (80 + 3 * 160 + 3 * 160) / 7
    assert pixels.tolist() == [0, 10, 80, 149]


def test_rescale_gives_the_nearest_float32_to_v_over_255() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    pixels = MobileViTImageProcessor(do_resize=False, do_center_crop=False)(levels)["pixel_values"]
    assert pixels.dtype == np.float32
    assert pixels[0, 0].ravel().tolist() == [float(np.float32(v / 255)) for v in range(256)]


def test_channels_are_flipped() -> None:
    image = noise(5, 6, 3)
    pixels = MobileViTImageProcessor(**{**RAW, "do_flip_channel_order": True})(image)["pixel_values"]
    np.testing.assert_array_equal(pixels[0], image[:, :, [2, 1, 0]].transpose(2, 0, 1), strict=True)
    rgba = MobileViTImageProcessor(**{**RAW, "do_flip_channel_order": True})(noise(5, 6, 4))["pixel_values"]
    np.testing.assert_array_equal(rgba[0], noise(5, 6, 4)[:, :, [3, 2, 1, 0]].transpose(2, 0, 1), strict=True)


@pytest.mark.parametrize(("name", "size"), [("chelsea", 288), ("coffee", 544)])
def test_photograph_step_by_step(name: str, size: int) -> None:
    """The settings of the published checkpoints, written out with Pillow."""
    with Image.open(IMAGES / f"{name}.png") as file:
        photo = file.convert("RGB")
    scale = Fraction(size, min(photo.size))
    small = photo.resize((int(photo.width * scale), int(photo.height * scale)), Image.Resampling.BILINEAR)
    left, top = (small.width - size + 32) // 2, (small.height - size + 32) // 2
    cropped = np.array(small.crop((left, top, left + size - 32, top + size - 32)))
    expected = (cropped[:, :, ::-1].transpose(2, 0, 1) / 255).astype(np.float32)

    pixels = MobileViTImageProcessor(size=size, crop_size=size - 32, resample=2)(photo)["pixel_values"]
    np.testing.assert_array_equal(pixels, expected[None], strict=True)
    assert pixels.flags.c_contiguous


# Kinds of input


def test_sources_agree(tmp_path: Path) -> None:
    processor = MobileViTImageProcessor(size=20, crop_size=16)
    image = noise(21, 34, 3)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    expected = processor(image)["pixel_values"]
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), Image.fromarray(image)):
        np.testing.assert_array_equal(processor(source)["pixel_values"], expected, strict=True)
    for layout in (image.transpose(2, 0, 1), np.asfortranarray(image), image[None], image.astype(np.int64)):
        np.testing.assert_array_equal(processor.preprocess(layout)["pixel_values"], expected, strict=True)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    processor = MobileViTImageProcessor(size=20, crop_size=16)
    picture = Image.fromarray(noise(21, 34, 4)).convert("RGB").convert(mode)
    expected = processor(Image.fromarray(to_rgb(picture)))["pixel_values"]
    np.testing.assert_array_equal(processor(picture)["pixel_values"], expected, strict=True)


def test_batches() -> None:
    processor = MobileViTImageProcessor(size=20, crop_size=16)
    images = [noise(21, 34, 3), noise(40, 30, 3, seed=1), noise(3, 25, 26, seed=2)]
    batch = processor(images)["pixel_values"]
    for one, image in zip(batch, images, strict=True):
        np.testing.assert_array_equal(one, processor(image)["pixel_values"][0], strict=True)
    mixed = processor([Image.fromarray(images[0]), images[1:2], (images[2],)])["pixel_values"]
    np.testing.assert_array_equal(mixed, batch, strict=True)


def test_layout_can_be_told() -> None:
    """A picture 3 pixels high looks channel-first; PIL images never do, and arrays can be told."""
    strip = noise(3, 20, 3)
    processor = MobileViTImageProcessor(size=4, crop_size=4)
    by_picture = processor(Image.fromarray(strip))["pixel_values"]
    by_array = processor(strip, input_data_format="channels_last")["pixel_values"]
    np.testing.assert_array_equal(by_array, by_picture, strict=True)
    assert not np.array_equal(processor(strip)["pixel_values"], by_picture)


def test_float_arrays_are_rescaled_twice_as_in_transformers() -> None:
    image = np.full((8, 8, 3), 0.5)
    settings = {"size": 8, "crop_size": 8}
    level = float(np.float32(127 / 255))
    assert MobileViTImageProcessor(**settings)(image)["pixel_values"][0, 0, 0, 0] == np.float32(level * (1 / 255))
    assert MobileViTImageProcessor(**settings, do_rescale=False)(image)["pixel_values"][0, 0, 0, 0] == level
    whole = MobileViTImageProcessor(**settings)(np.full((8, 8, 3), 127.0))["pixel_values"]
    assert whole[0, 0, 0, 0] == np.float32(127 / 255)


def test_one_and_four_channels_are_kept_unless_told() -> None:
    settings = {"size": 8, "crop_size": 8}
    for channels in (1, 4):
        image = noise(9, 10, channels)
        assert MobileViTImageProcessor(**settings)(image)["pixel_values"].shape == (1, channels, 8, 8)
        converted = MobileViTImageProcessor(**settings, do_convert_rgb=True)(image)["pixel_values"]
        expected = MobileViTImageProcessor(**settings)(to_rgb(image))["pixel_values"]
        assert np.abs(converted - expected).max() <= 1.5 / 255  # Pillow composites in integers


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("settings", [{}, RAW, {"do_convert_rgb": True, "do_resize": False}])
def test_inputs_are_not_changed_nor_shared(settings: dict[str, bool], dtype: type) -> None:
    image = (noise(20, 21, 3) / (1 if dtype is np.uint8 else 255)).astype(dtype)
    labels = noise(20, 21)
    before = image.copy(), labels.copy()
    for return_tensors in ("np", None):
        for one_image, one_map in ((image, labels), (image[None], labels[None])):
            output = MobileViTImageProcessor(do_reduce_labels=True, **settings)(
                one_image, one_map, return_tensors=return_tensors
            )
            output["pixel_values"][0][:] = 3
            output["labels"][0][:] = 3
    np.testing.assert_array_equal(image, before[0], strict=True)
    np.testing.assert_array_equal(labels, before[1], strict=True)


REFUSED_ARRAYS = [
    (noise(8, 9), "array-shape", "to_rgb"),
    (noise(8, 9, 5), "array-shape", "1, 3 or 4"),
    (noise(1, 2, 3, 4, 5), "array-shape", "batch"),
    (np.zeros((0, 9, 3), np.uint8), "image-no-pixels", "at least 1"),
    (np.full((8, 9, 3), np.nan), "array-not-finite", "(0, 0, 0)"),
    (np.full((8, 9, 3), 300), "array-range", "300"),
    (np.full((8, 9, 3), -1), "array-range", "-1"),
    (np.full((8, 9, 3), 1.5), "array-range", "1.5"),
    (np.zeros((8, 9, 3), complex), "array-dtype", "complex"),
    (np.zeros((8, 9, 3), object), "array-dtype", "object"),
    (np.ma.zeros((8, 9, 3)), "array-masked", "filled"),
    ([], "no-images", "at least one"),
    (None, "image-type", "NoneType"),
    ("no-such-file.png", "file-missing", "no-such-file.png"),
]


@pytest.mark.parametrize(("image", "code", "words"), REFUSED_ARRAYS)
def test_refused_images(image: object, code: str, words: str) -> None:
    assert words in refused(ImageError, code, MobileViTImageProcessor(), image)


def test_unequal_results_do_not_make_a_batch() -> None:
    processor = MobileViTImageProcessor(size=10, do_center_crop=False)
    images = [noise(20, 30, 3), noise(30, 20, 3)]
    assert "(3, 10, 15), (3, 15, 10)" in refused(ImageError, "batch-shapes", processor, images)
    arrays = processor(images, return_tensors=None)["pixel_values"]
    assert [array.shape for array in arrays] == [(3, 10, 15), (3, 15, 10)]


@pytest.mark.parametrize("shape", [(1, 50_000), (50_000, 1)])
def test_a_thin_picture_is_refused_before_it_is_resized(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "resize", None)
    picture = Image.new("RGB", shape)
    message = refused(ImageError, "resized-too-large", MobileViTImageProcessor(), picture)
    assert "aspect ratio is 50000" in message
    assert f"{MAX_RESIZED_PIXELS:,}" in message


def test_a_picture_that_would_vanish() -> None:
    processor = MobileViTImageProcessor(size={"shortest_edge": 100, "longest_edge": 50})
    refused(ImageError, "resized-no-pixels", processor, noise(1, 500, 3), input_data_format="channels_last")


# Segmentation maps


def test_labels_by_definition() -> None:
    """Catches: reduction after the resize, interpolated labels, image settings applied to the map."""
    label_map = noise(7, 11)
    label_map[0, :5] = [0, 1, 2, 254, 255]
    processor = MobileViTImageProcessor(size=14, crop_size=(15, 13), do_reduce_labels=True)
    output = processor(noise(9, 9, 3), label_map)
    reduced = np.array([[255 if v in (0, 255) else v - 1 for v in row] for row in label_map.tolist()])
    columns = [(2 * i + 1) * 11 // 44 for i in range(22)]
    expected = crop_by_loops(reduced[np.arange(14) // 2][:, columns][None], 15, 13)
    assert output["labels"].dtype == np.int64
    np.testing.assert_array_equal(output["labels"], expected, strict=True)
    assert (output["labels"][0, 0] == 0).all()  # the padding


def test_reduction_leaves_the_image_alone() -> None:
    image, settings = noise(9, 9, 3), {"size": 8, "crop_size": 8}
    plain = MobileViTImageProcessor(**settings)(image)
    np.testing.assert_array_equal(
        MobileViTImageProcessor(do_reduce_labels=True, **settings)(image)["pixel_values"], plain["pixel_values"]
    )
    assert "labels" not in plain


@pytest.mark.parametrize(
    "make",
    [
        lambda m: m,
        lambda m: m[None],
        lambda m: [m],
        lambda m: m.astype(np.int32),
        Image.fromarray,
        lambda m: m.astype(float),
    ],
)
def test_kinds_of_maps(make: object) -> None:
    label_map = noise(9, 10)
    processor = MobileViTImageProcessor(size=8, crop_size=8)
    expected = processor(noise(9, 9, 3), label_map)["labels"]
    np.testing.assert_array_equal(processor(noise(9, 9, 3), make(label_map))["labels"], expected, strict=True)


def test_palette_maps_keep_their_indices() -> None:
    label_map = noise(8, 8) % 21
    picture = Image.fromarray(label_map).convert("P")
    picture.putpalette(noise(63).tolist())
    output = MobileViTImageProcessor(do_resize=False, crop_size=8)(noise(8, 8, 3), picture)
    np.testing.assert_array_equal(output["labels"][0], label_map.astype(np.int64), strict=True)


@pytest.mark.parametrize(
    ("maps", "code"),
    [
        (Image.new("RGB", (9, 9)), "map-type"),
        ("map.png", "map-type"),
        (noise(9), "map-shape"),
        (np.full((9, 9), 0.5), "map-values"),
        (np.full((9, 9), 256), "array-range"),
        (np.full((9, 9), np.nan), "array-not-finite"),
        (noise(2, 9, 9), "map-count"),
        ([], "map-count"),
    ],
)
def test_refused_maps(maps: object, code: str) -> None:
    refused(ImageError, code, MobileViTImageProcessor(size=8, crop_size=8), noise(9, 9, 3), maps)


# Settings


def test_defaults_are_those_of_the_class_in_transformers() -> None:
    processor = MobileViTImageProcessor()
    assert processor.to_dict() == {
        "crop_size": {"height": 256, "width": 256},
        "do_center_crop": True,
        "do_flip_channel_order": True,
        "do_reduce_labels": False,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "MobileViTImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 224},
    }
    assert processor.do_normalize is None
    assert processor.do_convert_rgb is None
    assert MobileViTFeatureExtractor is MobileViTImageProcessor


@pytest.mark.parametrize(
    ("given_size", "size"),
    [
        (288, {"shortest_edge": 288}),
        (np.int64(288), {"shortest_edge": 288}),
        ([20, 30], {"height": 20, "width": 30}),
        ((20, 30), {"height": 20, "width": 30}),
        ({"height": 20, "width": 30}, {"height": 20, "width": 30}),
        ({"shortest_edge": 20}, {"shortest_edge": 20}),
        ({"shortest_edge": 20, "longest_edge": 30}, {"shortest_edge": 20, "longest_edge": 30}),
    ],
)
def test_forms_of_size(given_size: object, size: dict[str, int]) -> None:
    assert MobileViTImageProcessor(size=given_size).size == size
    if "height" in size:
        assert MobileViTImageProcessor(crop_size=given_size).crop_size == size
    assert MobileViTImageProcessor(crop_size=7).crop_size == {"height": 7, "width": 7}


BAD_SETTINGS = {
    "size": [
        0,
        -1,
        2.5,
        "224",
        True,
        None,
        [1],
        [1, 2, 3],
        [1, 0],
        {},
        {"longest_edge": 5},
        {"height": 5},
        8001,
        {"shortest_edge": "5"},
        {"shortest_edge": 5, "height": 5},
        {"max_height": 5, "max_width": 5},
        [8001, 8000],
    ],
    "crop_size": [0, -1, 2.5, "224", True, None, [1], {"shortest_edge": 5}, {"height": 5, "width": True}, 8001],
    "resample": [-1, 6, 2.0, "bilinear", True, None],
    "rescale_factor": [0, -1.0, float("nan"), float("inf"), "1", None, True],
    "image_mean": ["0.5", [0.5, None], float("nan"), True],
    "image_std": [["0.5"]],
    "input_data_format": ["HWC", 1],
    **{name: [1, "true", [True]] for name in ("do_resize", "do_center_crop", "do_rescale", "do_flip_channel_order")},
    **{name: [0, "no"] for name in ("do_reduce_labels", "do_convert_rgb", "do_normalize")},
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD_SETTINGS.items() for v in values])
def test_refused_settings(name: str, value: object) -> None:
    """At construction, from a file and in a call."""
    for call in (
        lambda: MobileViTImageProcessor(**{name: value}),
        lambda: MobileViTImageProcessor.from_dict({name: value}),
        lambda: MobileViTImageProcessor.from_dict({}, **{name: value}),
        lambda: MobileViTImageProcessor()(noise(4, 4, 3), **{name: value}),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.code in ("setting-type", "setting-range")
        assert str(caught.value).startswith(f"{name} is {value!r}")


def test_unknown_names() -> None:
    image = noise(4, 4, 3)
    assert "do_flip_channels" in refused(
        ConfigError, "setting-unknown", MobileViTImageProcessor(), image, do_flip_channels=True
    )
    refused(ConfigError, "setting-unknown", MobileViTImageProcessor.from_dict, {}, sise=3)
    refused(ConfigError, "setting-range", MobileViTImageProcessor(), image, return_tensors="pt")
    refused(ConfigError, "setting-type", MobileViTImageProcessor.from_dict, [1])
    refused(ConfigError, "setting-type", MobileViTImageProcessor.from_dict, {"other": object()})
    refused(ConfigError, "setting-unsupported", MobileViTImageProcessor.from_dict, {"default_to_square": True})


def test_none_is_off_as_in_transformers() -> None:
    off = MobileViTImageProcessor(do_resize=None, do_center_crop=None, do_rescale=None, do_flip_channel_order=None)
    assert off == MobileViTImageProcessor(**RAW)


def test_overrides_last_for_one_call() -> None:
    processor = MobileViTImageProcessor(size=20, crop_size=16)
    image = noise(30, 30, 3)
    assert processor(image, crop_size=[5, 6])["pixel_values"].shape == (1, 3, 5, 6)
    assert processor(image)["pixel_values"].shape == (1, 3, 16, 16)


def test_normalisation_is_never_applied() -> None:
    image = noise(30, 30, 3)
    plain = MobileViTImageProcessor()(image)["pixel_values"]
    ignored = MobileViTImageProcessor(do_normalize=True, image_mean=0.3, image_std=[0.1, 0.2, 0.3])(image)
    np.testing.assert_array_equal(ignored["pixel_values"], plain, strict=True)


def test_instances_are_values() -> None:
    processor = MobileViTImageProcessor(size=20)
    assert processor == MobileViTImageProcessor(size={"shortest_edge": 20})
    assert processor != MobileViTImageProcessor(size=21)
    assert hash(processor) == hash(MobileViTImageProcessor(size={"shortest_edge": 20}))
    assert "size={'shortest_edge': 20}" in repr(processor)
    assert pickle.loads(pickle.dumps(processor)) == processor
    with pytest.raises(FrozenInstanceError):
        processor.do_resize = False
    with pytest.raises(TypeError):
        processor.size["shortest_edge"] = 30


# Files


def test_the_file_of_2022() -> None:
    processor = MobileViTImageProcessor.from_dict(FILE_OF_2022)
    assert processor == MobileViTImageProcessor(size=288, resample=2, extra={"do_flip_channels": True})
    assert processor.do_flip_channel_order
    unflipped = MobileViTImageProcessor.from_dict({**FILE_OF_2022, "do_flip_channels": False})
    assert unflipped.do_flip_channel_order  # the key is dead, in transformers too
    assert processor.to_dict()["do_flip_channels"] is True
    assert "feature_extractor_type" not in processor.to_dict()
    assert MobileViTImageProcessor.from_dict(FILE_OF_2022, size=100).size == {"shortest_edge": 100}


settings_strategy = st.fixed_dictionaries(
    {},
    optional={
        "size": st.one_of(st.integers(1, 900), st.tuples(st.integers(1, 900), st.integers(1, 900))),
        "crop_size": st.integers(1, 900),
        "resample": st.integers(0, 5),
        "rescale_factor": st.floats(1e-6, 10),
        "do_resize": st.booleans(),
        "do_rescale": st.booleans(),
        "do_normalize": st.sampled_from([None, True, False]),
        "do_convert_rgb": st.sampled_from([None, True, False]),
        "image_mean": st.one_of(st.none(), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=3, max_size=3)),
        "input_data_format": st.sampled_from([None, "channels_first", "channels_last"]),
        "extra": st.dictionaries(st.sampled_from(["a", "b"]), st.lists(st.integers())),
    },
)


@hypothesis_settings(max_examples=100, deadline=None)
@given(settings_strategy)
def test_dict_round_trip(settings: dict[str, object]) -> None:
    processor = MobileViTImageProcessor(**settings)
    text = json.dumps(processor.to_dict(), allow_nan=False)
    assert MobileViTImageProcessor.from_dict(json.loads(text)) == processor


def test_dicts_are_copies() -> None:
    given_dict = {"other": [1]}
    processor = MobileViTImageProcessor.from_dict(given_dict)
    given_dict["other"].append(2)
    processor.to_dict()["other"].append(3)
    processor.to_dict()["size"]["shortest_edge"] = 1
    assert processor.to_dict()["other"] == [1]
    assert processor.size == {"shortest_edge": 224}


def test_save(tmp_path: Path) -> None:
    processor = MobileViTImageProcessor.from_dict(FILE_OF_2022)
    folder = tmp_path / "new" / "folder"
    processor.save_pretrained(folder)
    processor.save_pretrained(str(folder))
    assert [path.name for path in folder.iterdir()] == ["preprocessor_config.json"]
    assert MobileViTImageProcessor.from_dict(json.loads((folder / "preprocessor_config.json").read_text())) == processor
    (tmp_path / "file").touch()
    assert "file" in refused(CheckpointError, "checkpoint-unwritable", processor.save_pretrained, tmp_path / "file")


def test_load_hands_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded, and from where, is the business of the checkpoints package."""
    calls = []

    def load_processor_settings(name: str, **options: object) -> dict[str, object]:
        calls.append((name, options))
        return FILE_OF_2022

    module = types.ModuleType("npmobilevit.checkpoints")
    module.load_processor_settings = load_processor_settings
    monkeypatch.setitem(sys.modules, "npmobilevit.checkpoints", module)
    options = {"revision": "r", "cache_dir": "c", "local_files_only": True, "token": "t", "force_download": True}
    assert MobileViTImageProcessor.from_pretrained("name", **options) == MobileViTImageProcessor.from_dict(FILE_OF_2022)
    assert calls == [("name", options)]


# Post-processing


def logits_of(*shape: int) -> SimpleNamespace:
    return SimpleNamespace(logits=np.random.default_rng(0).normal(size=shape).astype(np.float32))


def test_maps_at_the_size_of_the_logits() -> None:
    outputs = logits_of(2, 5, 4, 6)
    outputs.logits[0, 3] = outputs.logits[0, 1] = 9  # of equal logits, the lowest class
    maps = MobileViTImageProcessor().post_process_semantic_segmentation(outputs)
    for label_map, logits in zip(maps, outputs.logits, strict=True):
        expected = [[max(range(5), key=lambda c: logits[c, y, x]) for x in range(6)] for y in range(4)]
        np.testing.assert_array_equal(label_map, np.array(expected, dtype=np.int64), strict=True)
    assert (maps[0] == 1).all()


def test_logits_are_resized_before_the_argmax() -> None:
    """Between a strong class on either side a third, second on both, wins: nearest labels could not show it."""
    logits = np.array([[9.0, -9.0], [-9.0, 9.0], [4.0, 4.0]], dtype=np.float32).reshape(1, 3, 1, 2)
    maps = MobileViTImageProcessor().post_process_semantic_segmentation(SimpleNamespace(logits=logits), [(2, 8)])
    assert maps[0].tolist() == [[0, 0, 0, 2, 2, 1, 1, 1]] * 2


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda sizes: np.array(sizes, np.int32)])
def test_scores_and_sizes(kind: object) -> None:
    outputs = logits_of(2, 5, 4, 6)
    results = MobileViTImageProcessor().post_process_semantic_segmentation(outputs, kind([(9, 7), (3, 11)]), True)
    for result, size in zip(results, [(9, 7), (3, 11)], strict=True):
        assert result.segmentation.shape == size
        assert result["segmentation_scores"].shape == (5, *size)
        assert result.segmentation_scores.dtype == np.float32
        np.testing.assert_array_equal(result["segmentation"], result.segmentation_scores.argmax(axis=0))
        with pytest.raises(AttributeError, match="segmentation_scores"):
            _ = result.scores


@pytest.mark.parametrize(
    "target_sizes",
    [
        [],
        [(4, 4)],
        [(4, 4)] * 3,
        [(4, 0), (4, 4)],
        [(4, -1), (4, 4)],
        [(4.0, 4.0), (4, 4)],
        [4, 4],
        (9, 9),
        [(4, 4, 4)] * 2,
        "ab",
    ],
)
def test_refused_target_sizes(target_sizes: object) -> None:
    post_process = MobileViTImageProcessor().post_process_semantic_segmentation
    refused(ShapeError, "target-sizes", post_process, logits_of(2, 5, 4, 6), target_sizes)


@pytest.mark.parametrize(
    "outputs", [logits_of(5, 4, 6), logits_of(0, 5, 4, 6), SimpleNamespace(logits=[1]), object(), {}]
)
def test_refused_outputs(outputs: object) -> None:
    refused(ShapeError, "logits-shape", MobileViTImageProcessor().post_process_semantic_segmentation, outputs)


@pytest.mark.parametrize("name", ["rescale_factor", "image_mean"])
@pytest.mark.parametrize("value", [10**400, 1e300, float("inf")])
def test_factors_beyond_all_floats(name: str, value: float) -> None:
    if (name, value) != ("image_mean", 1e300):  # never applied
        with pytest.raises(ConfigError, match=name):
            MobileViTImageProcessor(**{name: value})


def test_nan_has_no_class() -> None:
    logits = np.zeros((1, 2, 3, 3))
    logits[0, 1, 2, 2] = np.nan
    with pytest.raises(ShapeError) as caught:
        MobileViTImageProcessor().post_process_semantic_segmentation(SimpleNamespace(logits=logits))
    assert caught.value.code == "logits-nan"
    with pytest.raises(ShapeError):
        MobileViTImageProcessor().post_process_semantic_segmentation(
            SimpleNamespace(logits=np.zeros((2, 2, 3, 3))), target_sizes=[(3, 3), (3,)]
        )
