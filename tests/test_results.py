"""Results to read, to look at, to write."""

import dataclasses
import io
import itertools
import json
import pickle

import numpy as np
import pytest
from PIL import Image

import npmobilevit as nm
from npmobilevit.visual import palettes

PREDICTIONS = nm.Predictions(
    [nm.Prediction("tabby <cat>", 0.75, 3), nm.Prediction("dog", 0.031, 1)], model="made-up", picture=b""
)


def jpeg(height, width):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 20)).save(file, "JPEG", quality=95)
    return file.getvalue()


def reddish(image):
    """Where the picture of `jpeg` shows."""
    return (np.abs(np.asarray(image).astype(int) - [200, 10, 20]) <= 3).all(axis=-1)


def blue_lengths(image):
    """Of the bars, from above."""
    rows = (np.asarray(image) == [59, 130, 246]).all(axis=-1).sum(axis=1).tolist()
    return [length for length, _ in itertools.groupby(rows) if length]


def segmentation(**changes):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    mask = np.zeros((40, 60), np.int32)
    mask[:, 20:50], mask[:, 50:] = 2, 255
    classes = (
        nm.SegmentedClass(2, "<b>road</b>", 0.5, 0.9),
        nm.SegmentedClass(0, "background", 1 / 3, 0.8),
    )
    labels = {0: "background", 1: "sky", 2: "<b>road</b>"}
    made = nm.Segmentation(mask=mask, labels=labels, classes=classes, image=image, model="made-up")
    return dataclasses.replace(made, **changes)


def test_predictions_are_a_list_that_prints_as_bars():
    assert list(PREDICTIONS) == [("tabby <cat>", 0.75, 3), ("dog", 0.031, 1)]
    assert str(PREDICTIONS).splitlines() == [
        " 75.0%  tabby <cat>          ######################",
        "  3.1%  dog                  #",
    ]
    assert repr(PREDICTIONS) == repr(list(PREDICTIONS))
    assert str(nm.Predictions()) == ""


def test_slices_are_predictions_too():
    assert isinstance(PREDICTIONS[:1], nm.Predictions)
    assert PREDICTIONS[:1].model == "made-up"
    assert str(PREDICTIONS[1:]) == "  3.1%  dog                  #"
    assert PREDICTIONS[-1] == ("dog", 0.031, 1)


@pytest.mark.parametrize(("height", "width", "cell"), [(200, 300, 1), (64, 48, 3), (1, 7, 34), (320, 100, 1)])
def test_a_plot_is_the_picture_beside_its_bars(height, width, cell):
    plain = PREDICTIONS.plot()
    plot = nm.Predictions(PREDICTIONS, model="made-up", picture=jpeg(height, width)).plot()
    assert plot.mode == plain.mode == "RGB"
    assert plot.width == plain.width + width * cell + 12
    found = np.argwhere(reddish(plot))
    top, left = found.min(axis=0)
    assert left == 12
    assert (found.max(axis=0) - [top, left] + 1).tolist() == [height * cell, width * cell]
    assert len(found) == height * cell * width * cell
    bars = np.asarray(plot)[: plain.height, 12 + width * cell :]
    np.testing.assert_array_equal(bars, np.asarray(plain))
    cat, dog = blue_lengths(plot)
    assert abs(dog / cat - 0.031 / 0.75) < 0.01


def test_a_full_bar_of_a_plot_is_certainty():
    def longest(score):
        return blue_lengths(nm.Predictions([nm.Prediction("cat", score, 0)]).plot())[0]

    assert abs(longest(0.25) / longest(1.0) - 0.25) < 0.02


def test_a_plot_names_the_model_and_the_classes():
    def dark(**changes):
        label, model = changes.get("label", ""), changes.get("model", "")
        return int((np.asarray(nm.Predictions([nm.Prediction(label, 0.5, 0)], model=model).plot()) < 120).sum())

    assert dark() < dark(label="cat") < dark(label="cat", model="apple/mobilevit-small")


@pytest.mark.parametrize("text", ["", "größe", "猫 😀", "a\nb\x00\x1b[31m", "\ud800", "x" * 5000], ids=ascii)
@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_any_name_can_be_plotted(text, score):
    plot = nm.Predictions([nm.Prediction(text, score, 0)], model=text, picture=jpeg(9, 9)).plot()
    assert plot.width < 1200
    assert (np.asarray(plot)[-3:] == 255).all()


def test_no_predictions_can_be_plotted():
    assert nm.Predictions().plot().mode == "RGB"
    assert blue_lengths(nm.Predictions(picture=jpeg(9, 9)).plot()) == []


def test_what_is_no_picture_cannot_be_plotted():
    with pytest.raises(nm.ImageError):
        nm.Predictions(PREDICTIONS, picture=b"no picture").plot()


def test_names_cannot_steer_a_terminal():
    evil = nm.Predictions([nm.Prediction("a\x1b[31m\nb" + "c" * 100, 0.5, 0)], model="m")
    assert "\x1b" not in str(evil)
    assert len(str(evil).splitlines()) == 1
    assert len(str(evil)) < 100
    shown = repr(segmentation(classes=(nm.SegmentedClass(0, "a\x1b[31m\nb", 1.0, 0.5),)))
    assert "\x1b" not in shown
    assert "\n" not in shown


def test_the_background_is_known_by_its_name():
    found = segmentation(classes=(nm.SegmentedClass(2, "background", 0.5, 0.9), nm.SegmentedClass(0, "road", 0.3, 0.8)))
    pixels = np.asarray(found.overlay(alpha=1, legend=False))
    np.testing.assert_array_equal(pixels[:, 20:50], found.image[:, 20:50])
    assert (pixels[:, :20] == 0).all()  # the colour of class 0


def test_results_become_json():
    written = json.loads(json.dumps(PREDICTIONS.to_dict()))
    assert written["model"] == "made-up"
    assert written["predictions"][1] == {"label": "dog", "score": 0.031, "index": 1}
    found = json.loads(json.dumps(segmentation().to_dict(), allow_nan=False))
    assert found["classes"][0] == {"id": 2, "name": "<b>road</b>", "share": 0.5, "probability": 0.9}
    assert (found["model"], found["height"], found["width"]) == ("made-up", 40, 60)


def test_results_can_be_pickled():
    assert pickle.loads(pickle.dumps(PREDICTIONS)).to_dict() == PREDICTIONS.to_dict()
    copy = pickle.loads(pickle.dumps(segmentation()))
    np.testing.assert_array_equal(copy.mask, segmentation().mask, strict=True)


def test_a_segmentation_says_what_it_is():
    assert repr(segmentation()) == "<Segmentation 40 x 60 by made-up: <b>road</b> 50.0%, background 33.3%>"
    many = tuple(nm.SegmentedClass(i, str(i), 0.1, 0.5) for i in range(5))
    assert repr(segmentation(classes=many)).endswith("0 10.0%, 1 10.0%, 2 10.0% and 2 more>")
    assert repr(segmentation(classes=())).endswith("no class>")


def test_the_overlay_colours_the_classes_and_leaves_the_background():
    found = segmentation()
    image, pixels = found.image.astype(int), np.asarray(found.overlay(legend=False), int)
    assert pixels.shape == (40, 60, 3)
    np.testing.assert_array_equal(pixels[:, :20], image[:, :20])  # background
    np.testing.assert_array_equal(pixels[:, 50:], image[:, 50:])  # no class
    green = np.array([0, 128, 0])  # the second colour of PASCAL VOC
    assert np.abs(pixels[:, 20:50] - (image[:, 20:50] + green) / 2).max() <= 0.5
    solid = np.asarray(found.overlay(alpha=1, legend=False))
    assert (solid[:, 20:50] == green).all()
    for alpha in (-0.1, 1.1, float("nan"), "half"):
        with pytest.raises(nm.ConfigError):
            found.overlay(alpha=alpha)


def test_the_legend_is_added_below_the_picture():
    found = segmentation()
    with_legend, without = found.overlay(), found.overlay(legend=False)
    assert with_legend.mode == "RGB"
    assert with_legend.height > without.height
    np.testing.assert_array_equal(np.asarray(with_legend)[:40, :60], np.asarray(without))
    assert (np.asarray(with_legend)[40:] == [0, 128, 0]).all(axis=2).any()  # the swatch


def test_the_mask_is_saved_without_loss():
    found = segmentation()
    data = io.BytesIO()
    found.mask_image().save(data, "PNG")
    saved = Image.open(data)
    assert saved.mode == "P"
    np.testing.assert_array_equal(np.asarray(saved), found.mask)
    colours = np.asarray(saved.convert("RGB"))
    np.testing.assert_array_equal(colours[0, 30], palettes.voc_palette(3)[2])


@pytest.mark.parametrize("ignored", [-100, 255, 1000])
def test_no_class_is_the_largest_value_if_its_own_does_not_fit(ignored):
    found = segmentation(ignore_index=ignored, mask=np.where(segmentation().mask == 255, ignored, 0).astype(np.int32))
    assert np.unique(np.asarray(found.mask_image())).tolist() == [0, 255]


def test_more_classes_than_a_byte_holds_make_a_mask_of_16_bits():
    found = segmentation(labels={i: str(i) for i in range(300)}, mask=np.full((2, 2), 299, np.int32))
    data = io.BytesIO()
    found.mask_image().save(data, "PNG")
    assert np.asarray(Image.open(data)).tolist() == [[299, 299], [299, 299]]


@pytest.mark.parametrize("result", [PREDICTIONS, segmentation()], ids=["predictions", "segmentation"])
def test_a_notebook_shows_escaped_names(result):
    html = result._repr_html_()
    assert "made-up" in html
    assert "<cat>" not in html
    assert "<b>" not in html
    assert "&lt;" in html
