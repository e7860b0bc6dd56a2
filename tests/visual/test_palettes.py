"""The colours of PASCAL VOC's and CamVid's classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npmobilevit.visual import palettes
from npmobilevit.visual.palettes import voc_palette

# As others publish them, entry by entry: the table of ml-cvnets, and that of SegNet-Tutorial's
# Scripts/test_segmentation_camvid.py, whose road markings are of the class road here.
VOC = {
    "background": (0, 0, 0), "aeroplane": (128, 0, 0), "bicycle": (0, 128, 0), "bird": (128, 128, 0),
    "boat": (0, 0, 128), "bottle": (128, 0, 128), "bus": (0, 128, 128), "car": (128, 128, 128), "cat": (64, 0, 0),
    "chair": (192, 0, 0), "cow": (64, 128, 0), "diningtable": (192, 128, 0), "dog": (64, 0, 128),
    "horse": (192, 0, 128), "motorbike": (64, 128, 128), "person": (192, 128, 128), "pottedplant": (0, 64, 0),
    "sheep": (128, 64, 0), "sofa": (0, 192, 0), "train": (128, 192, 0), "tvmonitor": (0, 64, 128),
}  # fmt: skip
CAMVID = {
    "sky": (128, 128, 128), "building": (128, 0, 0), "pole": (192, 192, 128), "road": (128, 64, 128),
    "pavement": (60, 40, 222), "tree": (128, 128, 0), "sign": (192, 128, 128), "fence": (64, 64, 128),
    "car": (64, 0, 128), "pedestrian": (64, 64, 0), "bicyclist": (0, 128, 192),
}  # fmt: skip


@pytest.mark.parametrize("table", [VOC, CAMVID], ids=["voc", "camvid"])
def test_every_class_has_its_published_colour(table):
    found = palettes.class_colours(dict(enumerate(table)))
    assert list(found.values()) == list(table.values())
    assert list(found) == list(range(len(table)))


def test_the_published_colours_cover_all_classes():
    assert len(VOC) == 21
    assert set(palettes.CAMVID) == set(CAMVID)


def colour_by_definition(label: int) -> tuple[int, ...]:
    """VOCcolormap of the VOC development kit, for one id."""
    colour = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            bit = (label >> (3 * place + channel)) & 1
            colour[channel] |= bit << (7 - place)
    return tuple(colour)


@pytest.mark.parametrize(
    ("label", "colour"),
    [
        (0, (0, 0, 0)),
        (1, (128, 0, 0)),
        (2, (0, 128, 0)),
        (15, (192, 128, 128)),
        (20, (0, 64, 128)),
        (255, (224, 224, 192)),
        (256, (0, 0, 32)),
        (2**21, (1, 0, 0)),  # the first to reach the lowest bit
    ],
)
def test_published_colours(label, colour):
    assert tuple(voc_palette(label + 1)[label].tolist()) == colour
    assert colour_by_definition(label) == colour


def test_every_colour_is_that_of_the_definition():
    expected = np.array([colour_by_definition(label) for label in range(1000)], np.uint8)
    np.testing.assert_array_equal(voc_palette(1000), expected, strict=True)


@given(st.integers(1, 600))
def test_a_shorter_palette_is_the_beginning_of_a_longer_one(count):
    palette = voc_palette(count)
    assert palette.shape == (count, 3)
    np.testing.assert_array_equal(palette, voc_palette(600)[:count], strict=True)


def test_no_two_classes_share_a_colour():
    assert len(np.unique(voc_palette(4096), axis=0)) == 4096


def test_camvids_classes_have_camvids_colours_and_all_others_vocs() -> None:
    names = dict(enumerate(palettes.CAMVID))
    assert palettes.class_colours(names)[3] == (128, 64, 128)  # road
    assert palettes.class_colours({5: "road"}) == {5: (128, 64, 128)}
    assert palettes.class_colours({0: "background", 2: "road"}) == {0: (0, 0, 0), 2: (0, 128, 0)}
    assert palettes.class_colours({}) == {}
    assert len(set(palettes.CAMVID.values())) == 11
