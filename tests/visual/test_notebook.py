"""The fragments of HTML: what a parser finds in them."""

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import Page
from PIL import Image

from npmobilevit.visual.notebook import bars_html, classes_html, jpeg_bytes


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


PICTURE = jpeg_bytes(noise(30, 40, 3))
HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=y>", "a\nb\x00", "\N{GRINNING FACE}", "&amp;", "\ud800"]


def bars(name="cat", value=0.5, *, caption="a model", picture=PICTURE):
    return bars_html(picture, caption, [(name, value)])


def classes(name="cat", value=0.5, *, caption="a model", picture=PICTURE):
    return classes_html(picture, caption, [((1, 2, 3), name, value, 0.25)])


both = pytest.mark.parametrize("fragment", [bars, classes])


# JPEG


def decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    assert picture.format == "JPEG"
    return picture


@pytest.mark.parametrize(
    ("shape", "longest", "size"),
    [
        ((30, 40), None, (40, 30)),
        ((30, 40), 40, (40, 30)),
        ((30, 40), 1000, (40, 30)),
        ((30, 40), 20, (20, 15)),
        ((40, 30), 20, (15, 20)),
        ((1, 1), 10, (1, 1)),
        ((1, 300), 30, (30, 1)),
        ((1, 70_000), None, (65_500, 1)),  # more than the format holds
        ((1, 70_000), 70_000, (65_500, 1)),
    ],
)
def test_a_picture_is_scaled_down_to_its_longest_side(shape, longest, size):
    rgb = noise(*shape, 3)
    before = rgb.copy()
    assert decoded(jpeg_bytes(rgb, longest=longest)).size == size
    np.testing.assert_array_equal(rgb, before)


def test_a_jpeg_looks_like_its_picture():
    y, x = np.mgrid[:64, :96]
    rgb = np.stack([2 * x, 3 * y, 255 - x - y], axis=-1).astype(np.uint8)
    error = np.array(decoded(jpeg_bytes(rgb))).astype(int) - rgb
    assert np.abs(error).mean() < 3
    half = np.array(decoded(jpeg_bytes(rgb, longest=48))).astype(int) - rgb[::2, ::2]
    assert np.abs(half).mean() < 5


# Both fragments


@both
def test_the_picture_is_in_the_page_with_a_text_in_its_place(fragment):
    [[_, attributes, _]] = Page(fragment(caption='a "model"')).all("img")
    head, data = attributes["src"].split(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(data, validate=True) == PICTURE
    assert decoded(base64.b64decode(data)).size == (40, 30)
    assert attributes["alt"] == 'a "model"'


@both
def test_without_a_picture_there_is_no_image(fragment):
    page = Page(fragment(picture=b""))
    assert page.all("img") == []
    assert page.texts("caption") == ["a model"]


@both
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_names_and_captions_are_text_whatever_they_hold(fragment, text):
    plain, page = Page(fragment()), Page(fragment(text, caption=text))
    assert [tag for tag, _, _ in page.elements] == [tag for tag, _, _ in plain.elements]
    assert [set(attributes) for _, attributes, _ in page.elements] == [set(a) for _, a, _ in plain.elements]
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text)
    assert page.texts("caption") == [shown]
    assert page.texts("td")[0] == shown
    assert page.all("img")[0][1]["alt"] == shown
    assert fragment(text).encode()


@both
@given(text=st.text())
def test_any_text_leaves_the_tags_balanced(fragment, text):
    page = Page(fragment(text, caption=text, picture=b""))
    assert page.texts("td")[0] == page.texts("caption")[0]
    assert len(page.texts("caption")[0]) == min(len(text), 120)


@both
def test_long_names_are_cut(fragment):
    assert Page(fragment("<" * 120)).texts("td")[0] == "<" * 120  # counted before they are escaped
    page = Page(fragment("x" * 10_000, caption="y" * 10_000))
    assert page.texts("td")[0] == "x" * 117 + "..."
    assert page.texts("caption") == ["y" * 117 + "..."]
    assert page.all("img")[0][1]["alt"] == "y" * 117 + "..."


@both
def test_a_fragment_needs_nothing_else_and_fits_any_theme(fragment):
    text = fragment()
    page = Page(text)
    allowed = {"div", "img", "table", "caption", "thead", "tbody", "tr", "th", "td", "span"}
    assert {tag for tag, _, _ in page.elements} <= allowed
    assert {name for _, attributes, _ in page.elements for name in attributes} <= {
        "style", "src", "alt", "scope", "colspan"
    }  # fmt: skip
    styles = [attributes.get("style", "") for _, attributes, _ in page.elements]
    assert not any("url(" in style or "http" in style for style in styles)
    assert not any(re.search(r"(^|;)color:(?!inherit)", style) for style in styles)
    backgrounds = [found for style in styles for found in re.findall(r"background[^;]*", style)]
    assert backgrounds in (["background:#3b82f6"], ["background:rgb(1,2,3)"])  # the bar, the swatch


@both
def test_numbers_stand_to_the_right_below_heads(fragment):
    page = Page(fragment())
    cells = page.all("td")
    numbers = [attributes["style"] for _, attributes, text in cells if text.endswith("%")]
    assert numbers
    assert all("text-align:right" in style for style in numbers)
    assert "text-align:left" in cells[0][1]["style"]
    heads = page.all("th")
    assert all(attributes["scope"] == "col" and text for _, attributes, text in heads)
    assert sum(int(attributes["colspan"]) for _, attributes, _ in heads) == len(cells)


@both
def test_no_rows_are_an_empty_table(fragment):
    for page in (Page(bars_html(PICTURE, "a", [])), Page(classes_html(PICTURE, "a", []))):
        assert page.all("td") == []
        assert page.all("th")


# What each shows


def test_bars_show_name_percentage_and_bar_of_each_class_in_order():
    page = Page(bars_html(PICTURE, "a model", [("cat", 0.8764), ("dog", 0.1), ("<b>", 0.0), ("all", 1)]))
    assert page.texts("th") == ["class", "probability"]
    assert page.texts("td") == ["cat", "87.6%", "", "dog", "10.0%", "", "<b>", "0.0%", "", "all", "100.0%", ""]
    widths = [m[1] for _, a, _ in page.all("div") if (m := re.search(r"^width:([\d.]+%);", a.get("style", "")))]
    assert widths == ["87.6%", "10.0%", "0.0%", "100.0%"]


@pytest.mark.parametrize(("value", "width"), [(float("nan"), "0.0%"), (1.5, "100.0%"), (-1.0, "0.0%")])
def test_a_bar_stays_within_its_cell(value, width):
    assert f'style="width:{width};' in bars(value=value)


def test_classes_show_swatch_name_share_and_probability():
    rows = [((0, 64, 128), "cat", 0.5, 0.9312), (tuple(np.uint8([255, 0, 7])), "dog", np.float32(0.25), 1.0)]
    page = Page(classes_html(PICTURE, "a model", rows))
    assert page.texts("th") == ["class", "share of pixels", "mean probability"]
    assert page.texts("td") == ["cat", "50.0%", "93.1%", "dog", "25.0%", "100.0%"]
    styles = [attributes["style"] for _, attributes, _ in page.all("span")]
    assert ["rgb(0,64,128)" in style for style in styles] == [True, False]
    assert ["rgb(255,0,7)" in style for style in styles] == [False, True]
