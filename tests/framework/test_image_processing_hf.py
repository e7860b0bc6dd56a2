"""Bit-equality of the image processor with ``MobileViTImageProcessorPil`` of transformers."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers.models.mobilevit.image_processing_pil_mobilevit import (  # noqa: E402
    MobileViTImageProcessorPil,
)

from npmobilevit.errors import ImageError  # noqa: E402
from npmobilevit.image_processing import MobileViTImageProcessor  # noqa: E402
from npmobilevit.images import to_rgb  # noqa: E402

pytestmark = pytest.mark.framework

IMAGES = Path(__file__).parents[2] / "reference" / "images"

# (height, width): one pixel, thin, odd, both orientations, already of the target size.
SIZES = [(1, 1), (2, 5), (5, 2), (7, 40), (40, 7), (29, 43), (43, 29), (32, 32), (61, 35), (64, 96)]
SETTINGS = {
    "default": {},
    "checkpoint": {"size": 36, "crop_size": 32, "resample": 2},
    "odd-pad": {"size": 17, "crop_size": 32, "resample": 3},
    "odd-crop": {"size": 33, "crop_size": {"height": 20, "width": 27}},
    "nearest": {"size": 30, "crop_size": 25, "resample": 0},
    "lanczos": {"size": 31, "crop_size": 31, "resample": 1},
    "box": {"size": 19, "crop_size": 18, "resample": 4},
    "hamming": {"size": 23, "crop_size": 24, "resample": 5},
    "fixed-size": {"size": [21, 34], "crop_size": [40, 15]},
    "fixed-size-dict": {"size": {"height": 34, "width": 21}, "do_center_crop": False},
    "capped": {"size": {"shortest_edge": 30, "longest_edge": 45}, "crop_size": 30},
    "capped-below": {"size": {"shortest_edge": 30, "longest_edge": 20}, "crop_size": 16},
    "no-resize": {"do_resize": False, "crop_size": 33},
    "no-crop": {"size": 24, "do_center_crop": False},
    "no-rescale": {"size": 24, "crop_size": 20, "do_rescale": False},
    "no-flip": {"size": 24, "crop_size": 20, "do_flip_channel_order": False},
    "only-flip": {"do_resize": False, "do_center_crop": False, "do_rescale": False},
    "nothing": {
        "do_resize": False,
        "do_center_crop": False,
        "do_rescale": False,
        "do_flip_channel_order": False,
    },
    "factor": {"size": 24, "crop_size": 20, "rescale_factor": 1 / 127.5},
    "factor-2": {"size": 24, "crop_size": 20, "rescale_factor": 0.3},
    "normalize-is-ignored": {"size": 24, "crop_size": 20, "do_normalize": True},
    "none-is-off": {"do_resize": None, "do_center_crop": None, "do_rescale": None},
    "convert": {"size": 24, "crop_size": 20, "do_convert_rgb": True},
}


def pixels(*shape: int) -> np.ndarray:
    """Noise, the same for a shape in every process."""
    return np.random.default_rng(zlib.crc32(repr(shape).encode())).integers(0, 256, shape, dtype=np.uint8)


def unit_floats(*shape: int) -> np.ndarray:
    values = np.random.default_rng(shape).random(shape)
    values.flat[0], values.flat[-1] = 1.0, 0.99999999  # the last becomes 1.0 in float32, before the truncation
    return values


KINDS = {
    "pil": lambda h, w: Image.fromarray(pixels(h, w, 3)),
    "hwc-uint8": lambda h, w: pixels(h, w, 3),
    "chw-uint8": lambda h, w: pixels(3, h, w),
    "float64-unit": lambda h, w: unit_floats(h, w, 3),
    "float32-unit": lambda h, w: unit_floats(h, w, 3).astype(np.float32),
    "float16-unit": lambda h, w: unit_floats(h, w, 3).astype(np.float16),
    "float32-whole": lambda h, w: pixels(h, w, 3).astype(np.float32),
    "int64": lambda h, w: pixels(h, w, 3).astype(np.int64),
    "zeros-and-ones": lambda h, w: (pixels(h, w, 3) > 127).astype(np.float32),
    "grey": lambda h, w: pixels(h, w, 1),
    "rgba": lambda h, w: pixels(h, w, 4),
    "rgba-float": lambda h, w: unit_floats(h, w, 4).astype(np.float32),
}


def assert_same(images: object, maps: object = None, **settings: object) -> None:
    """Compare values, shapes and dtypes of every output, with settings from the class and from the call."""
    theirs = MobileViTImageProcessorPil()(images, maps, return_tensors="np", **settings)
    for ours in (
        MobileViTImageProcessor(**settings)(images, maps),
        MobileViTImageProcessor()(images, maps, **settings),
    ):
        assert set(ours) == set(theirs)
        for name, array in theirs.items():
            assert ours[name].dtype == array.dtype
            np.testing.assert_array_equal(ours[name], array, strict=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_on_every_size_is_bit_equal(name: str, kind: str) -> None:
    """276 cases of 10 sizes each. Catches: rounding, padding side, channel order, float round trip, filters."""
    for height, width in SIZES if name != "default" else [(29, 43), (300, 270)]:
        assert_same(KINDS[kind](height, width), **SETTINGS[name])


@pytest.mark.parametrize(("name", "size"), [("chelsea", 288), ("coffee", 288), ("chelsea", 544), ("coffee", 544)])
def test_photographs_with_the_settings_of_the_checkpoints(name: str, size: int) -> None:
    with Image.open(IMAGES / f"{name}.png") as picture:
        photo = picture.convert("RGB")
    assert_same(photo, size=size, crop_size=size - 32, resample=2)


@pytest.mark.parametrize(
    "shape", [(3, 20, 3), (3, 3, 3), (1, 20, 3), (4, 20, 3), (3, 20, 1), (20, 3, 3), (20, 3, 1), (3, 20, 30), (1, 9, 8)]
)
@pytest.mark.parametrize("layout", [None, "channels_first", "channels_last"])
@pytest.mark.parametrize("convert", [None, True])
def test_layout_of_arrays(shape: tuple[int, ...], layout: str | None, convert: bool | None) -> None:
    channels = shape[0] if layout == "channels_first" else shape[-1]
    if layout and channels not in (1, 3, 4):
        with pytest.raises(ImageError, match="1, 3 or 4"):  # transformers takes any number that Pillow can resize
            MobileViTImageProcessor(input_data_format=layout)(pixels(*shape))
        return
    assert_same(pixels(*shape), size=9, crop_size=8, input_data_format=layout, do_convert_rgb=convert)


def test_batches_and_nested_lists() -> None:
    settings = {"size": 12, "crop_size": 10}
    assert_same(pixels(3, 20, 30, 3), **settings)
    assert_same([pixels(20, 30, 3), pixels(3, 14, 15), pixels(50, 20, 3)], **settings)
    assert_same([Image.fromarray(pixels(20, 30, 3)), Image.fromarray(pixels(40, 30, 3))], **settings)
    assert_same([[pixels(20, 30, 3)], [pixels(21, 30, 3), pixels(22, 30, 3)]], **settings)
    assert_same([pixels(2, 20, 30, 3), pixels(2, 25, 30, 3)], **settings)


def test_lists_instead_of_tensors() -> None:
    images = [pixels(20, 30, 3), pixels(30, 20, 3)]
    theirs = MobileViTImageProcessorPil()(images, size=10, do_center_crop=False)
    ours = MobileViTImageProcessor()(images, size=10, do_center_crop=False, return_tensors=None)
    assert isinstance(ours["pixel_values"], list)
    for a, b in zip(ours["pixel_values"], theirs["pixel_values"], strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_other_modes_equal_the_conversion_of_transformers(mode: str) -> None:
    """With do_convert_rgb=True transformers has the same rules as to_rgb, white below transparency included."""
    rgba = Image.fromarray(pixels(21, 34, 4))
    picture = rgba.convert("RGB").convert(mode) if mode not in ("RGBA", "LA") else rgba.convert(mode)
    settings = {"size": 20, "crop_size": 18}
    theirs = MobileViTImageProcessorPil(do_convert_rgb=True, **settings)(picture, return_tensors="np")["pixel_values"]
    by_array = MobileViTImageProcessorPil(**settings)(Image.fromarray(to_rgb(picture)), return_tensors="np")
    for convert in (None, True):
        ours = MobileViTImageProcessor(do_convert_rgb=convert, **settings)(picture)["pixel_values"]
        np.testing.assert_array_equal(ours, theirs, strict=True)
        np.testing.assert_array_equal(ours, by_array["pixel_values"], strict=True)


def test_rgb_with_a_transparent_colour() -> None:
    picture = Image.fromarray(np.repeat(np.repeat(pixels(4, 4, 3), 4, axis=0), 4, axis=1))
    picture.info["transparency"] = picture.getpixel((0, 0))
    assert_same(picture, size=16, crop_size=16, do_convert_rgb=True)
    assert_same(picture, size=16, crop_size=16)


@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("name", ["checkpoint", "odd-pad", "odd-crop", "fixed-size", "capped", "no-resize", "no-crop"])
@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "pil", "stack"])
def test_labels(kind: str, name: str, reduce: bool) -> None:
    for height, width in SIZES:
        label_map = pixels(height, width)
        label_map.flat[: min(4, label_map.size)] = [0, 255, 254, 1][: label_map.size]
        given = {
            "uint8": lambda m: m,
            "int64": lambda m: m.astype(np.int64),
            "float32": lambda m: m.astype(np.float32),
            "pil": Image.fromarray,
            "stack": lambda m: m[None],
        }[kind]
        image, settings = pixels(height, width, 3), {**SETTINGS[name], "do_reduce_labels": reduce}
        theirs = MobileViTImageProcessorPil(**settings)(image, given(label_map.copy()), return_tensors="np")
        ours = MobileViTImageProcessor(**settings)(image, given(label_map))
        np.testing.assert_array_equal(ours["labels"], theirs["labels"], strict=True)
        np.testing.assert_array_equal(ours["pixel_values"], theirs["pixel_values"], strict=True)


def test_a_batch_of_labels_of_other_sizes_than_the_images() -> None:
    images, maps = [pixels(20, 30, 3), pixels(33, 21, 3)], [pixels(40, 31), pixels(10, 11)]
    assert_same(images, maps, size=22, crop_size=20)


FILES = {
    "of 2022": {
        "crop_size": 256,
        "do_center_crop": True,
        "do_flip_channels": True,
        "do_resize": True,
        "feature_extractor_type": "MobileViTFeatureExtractor",
        "resample": 2,
        "size": 288,
    },
    "empty": {},
    "nulls": {"do_normalize": None, "do_convert_rgb": None, "image_mean": None, "image_std": None},
    "lists": {"size": [100, 120], "crop_size": [90, 91]},
    "capped": {"size": {"shortest_edge": 20, "longest_edge": 40}, "do_normalize": False, "image_mean": 0.4},
    "all": {
        "do_reduce_labels": True,
        "do_convert_rgb": True,
        "rescale_factor": 0.5,
        "resample": 0,
        "do_rescale": False,
    },
}


@pytest.mark.parametrize("name", FILES)
def test_files_go_both_ways(name: str, tmp_path: Path) -> None:
    theirs, ours = MobileViTImageProcessorPil(**FILES[name]), MobileViTImageProcessor.from_dict(FILES[name])
    assert ours.to_dict() == json.loads(theirs.to_json_string())

    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    reloaded = MobileViTImageProcessorPil.from_pretrained(tmp_path / "ours")
    assert json.loads(reloaded.to_json_string()) == json.loads(theirs.to_json_string())
    written = json.loads((tmp_path / "theirs" / "preprocessor_config.json").read_text())
    assert MobileViTImageProcessor.from_dict(written) == ours


@pytest.mark.parametrize("targets", [None, [(17, 31), (5, 3)], [(8, 8), (64, 64)], np.array([[17, 31], [5, 3]])])
def test_post_processing(targets: object) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 21, 8, 8))
    logits[:, 3] = logits[:, 7]  # ties
    # transformers in its 5.23 form unpacks lists of tuples and tensors, not arrays
    torch_targets = [tuple(map(int, t)) for t in targets] if targets is not None else None
    theirs = MobileViTImageProcessorPil().post_process_semantic_segmentation(
        SimpleNamespace(logits=torch.from_numpy(logits)), torch_targets, return_segmentation_scores=True
    )
    processor = MobileViTImageProcessor()
    ours = processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits), targets, True)
    maps = processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits), targets)
    for a, b, label_map in zip(ours, theirs, maps, strict=True):
        scores = b["segmentation_scores"].numpy()
        np.testing.assert_allclose(a["segmentation_scores"], scores, rtol=0, atol=1e-13, strict=True)
        np.testing.assert_array_equal(a["segmentation"], b["segmentation"].numpy(), strict=True)
        np.testing.assert_array_equal(label_map, a.segmentation, strict=True)
