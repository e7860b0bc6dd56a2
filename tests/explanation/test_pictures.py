"""The pictures of the page, decoded again."""

import base64
import dataclasses
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from npmobilevit.explanation import pictures
from npmobilevit.explanation.attention import BlockAttention
from npmobilevit.results import Segmentation, SegmentedClass
from npmobilevit.visual.drawing import colour_map, heatmap


def decoded(uri, media_type="image/png"):
    head, data = uri.split(",")
    assert head == f"data:{media_type};base64"
    return Image.open(BytesIO(base64.b64decode(data, validate=True)))


def noise(*shape):
    return np.random.default_rng(list(shape)).integers(0, 256, shape, np.uint8)


def test_a_small_photo_is_exact_and_a_large_one_a_small_jpeg():
    rgb = noise(256, 256, 3)
    assert pictures.is_exact(rgb)
    np.testing.assert_array_equal(np.asarray(decoded(pictures.photo(rgb))), rgb)
    rgb = np.repeat(np.repeat(noise(40, 60, 3), 32, axis=0), 32, axis=1)  # 1280 x 1920
    assert not pictures.is_exact(rgb)
    picture = decoded(pictures.photo(rgb), "image/jpeg")
    assert max(picture.size) == pictures.LONGEST
    assert len(pictures.photo(rgb)) < 300_000


@pytest.mark.parametrize("colours", [2, 256, 257])
def test_png_loses_nothing(colours):
    palette = np.arange(colours, dtype=np.uint32) * 65_521  # white is none of them
    packed = np.random.default_rng(0).permutation(np.resize(palette, 600)).reshape(20, 30)
    rgb = (packed[..., np.newaxis] >> np.array([0, 8, 16], np.uint32) & 255).astype(np.uint8)
    rgb[0, 0] = 255
    picture = decoded(pictures.png(Image.fromarray(rgb), clear_white=True))
    assert picture.mode == ("P" if colours < 256 else "RGB")
    rgba = np.asarray(picture.convert("RGBA"))
    np.testing.assert_array_equal(rgba[..., :3], rgb)
    np.testing.assert_array_equal(rgba[..., 3] == 0, (rgb == 255).all(axis=-1))


def test_white_stays_where_nothing_is_to_show_through():
    picture = decoded(pictures.png(Image.new("RGB", (3, 2), "white")))
    assert "transparency" not in picture.info


def test_colours_of_attention_go_from_the_first_to_the_last():
    colours = pictures.attention_colours()
    assert len(colours) == 16
    assert (colours[0], colours[-1]) == (colour_map("sequential")[0].tolist(), colour_map("sequential")[-1].tolist())


def test_the_sheet_of_attention_has_a_column_a_head_and_a_row_a_position():
    levels = np.zeros((2, 4, 3, 6, 6), np.uint8)
    levels[0, 2, 1, 4] = np.arange(6)  # first layer, third position, second head, patch (1, 1) of 2 x 3
    block = BlockAttention(
        "x.2", (2, 3), 2, [(0, 0), (0, 1), (1, 0), (1, 1)], 1, 1, np.ones((2, 4, 3, 6), np.uint16), levels
    )
    picture = np.asarray(decoded(pictures.attention_sheet(block)).convert("RGB"))
    cell = pictures.CELL // 3
    height, width = 2 * cell + 4, 3 * cell + 4
    assert picture.shape == (4 * height - 4, 3 * width - 4, 3)
    part = picture[2 * height : 3 * height - 4, width : 2 * width - 4]
    np.testing.assert_array_equal(part, np.asarray(heatmap(np.arange(6).reshape(2, 3), cell=cell)))


def test_the_sheet_of_features_shows_each_map_on_its_own_scale():
    maps = (
        np.stack([np.linspace(-1, 1, 12), np.linspace(0, 100, 12), np.full(12, 3.0)])
        .reshape(3, 3, 4)
        .astype(np.float32)
    )
    picture = np.asarray(decoded(pictures.feature_sheet(maps)).convert("RGB"))
    cell = pictures.CELL // 4
    width = 4 * cell + 4
    one, two, three = (picture[:, i * width : (i + 1) * width - 4] for i in range(3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[0, 0], colour_map("sequential")[0])
    np.testing.assert_array_equal(one[-1, -1], colour_map("sequential")[-1])
    assert len(np.unique(three.reshape(-1, 3), axis=0)) == 1


def test_maps_of_features_have_32_colours_and_64_values_along_a_side():
    """From the least to the largest in even steps."""
    maps = np.linspace(-3, 5, 64, dtype=np.float32).reshape(1, 1, 64)
    picture = np.asarray(decoded(pictures.feature_sheet(maps)).convert("RGB"))
    assert picture.shape == (1, 64, 3)
    steps = np.rint(np.arange(64) * 31 / 63).astype(int)
    expected = np.asarray(heatmap(steps[np.newaxis].astype(float), cell=1))
    np.testing.assert_array_equal(picture, expected)
    assert len(np.unique(picture[0], axis=0)) == 32


def test_large_maps_are_shrunk_to_means():
    maps = np.zeros((1, 130, 70), np.float32)
    maps[0, :3, :3] = 9
    picture = np.asarray(decoded(pictures.feature_sheet(maps)).convert("RGB"))
    assert picture.shape == (44, 24, 3)  # steps of 3: the last row has one of 130
    np.testing.assert_array_equal(picture[0, 0], colour_map("sequential")[-1])
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 2


def test_at_the_border_a_mean_is_of_what_is_left():
    maps = np.zeros((1, 130, 70), np.float32)
    maps[0, -1, -1] = 9  # alone in its square of 3 x 3
    maps[0, :3, :3] = 9
    picture = np.asarray(decoded(pictures.feature_sheet(maps)).convert("RGB"))
    np.testing.assert_array_equal(picture[-1, -1], picture[0, 0])


def test_a_tint_is_red_above_zero_and_blue_below():
    rgba = np.asarray(decoded(pictures.tint(np.array([[0.4, -0.2, 0.0]]))))
    red, blue, clear = rgba[0].astype(int)
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert (red[3], blue[3], clear[3]) == (round(255 * 0.85), round(255 * 0.425), 0)
    assert (np.asarray(decoded(pictures.tint(np.zeros((2, 2)))))[..., 3] == 0).all()


def test_probabilities_have_the_same_colours_in_all_maps():
    uri = pictures.probability_map(np.array([[0.5, 0.25]], np.float32))
    picture = np.asarray(decoded(uri).convert("RGB"))
    np.testing.assert_array_equal(picture, colour_map("sequential")[[[128, 64]]])


def test_the_overlay_of_a_huge_mask_is_small():
    mask = np.zeros((2600, 3000), np.int32)
    mask[1300:] = 1
    found = Segmentation(
        mask, {0: "a", 1: "b"}, (SegmentedClass(1, "b", 0.5, 0.9),), np.full((2600, 3000, 3), 200, np.uint8), "m"
    )
    picture = np.asarray(decoded(pictures.overlay(found), "image/jpeg"))
    assert max(picture.shape) <= pictures.LONGEST
    top, bottom = picture[10, 10].astype(int), picture[-10, 10].astype(int)
    np.testing.assert_allclose(top, 200, atol=3)
    np.testing.assert_allclose(bottom, [164, 100, 100], atol=4)
    assert dataclasses.is_dataclass(found)
