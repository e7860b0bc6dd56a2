"""Texts in pictures: where they are drawn, and what becomes of letters that the font lacks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from npmobilevit.visual.lettering import (
    draw_text,
    flow,
    font_of_size,
    shown_text,
    shown_value,
    text_size,
    text_width,
    without_accents,
)


def written(text: str, size: int) -> np.ndarray:
    """Rows and columns that a text at (20, 10) covers, of a white strip."""
    strip = Image.new("RGB", (600, 80), (255, 255, 255))
    draw_text(ImageDraw.Draw(strip), (20, 10), text, font_of_size(size), (0, 0, 0))
    return np.argwhere(np.array(strip).min(axis=-1) < 255)


@pytest.mark.parametrize("size", [10, 13, 30])
@pytest.mark.parametrize("text", ["H", "jog", "a longer text", "fj"])
def test_a_text_begins_at_its_corner_and_is_as_wide_as_measured(text, size):
    found = written(text, size)
    width = text_width(text, font_of_size(size))
    assert found[:, 1].min() >= 20
    assert found[:, 1].max() - 20 <= width
    assert found[:, 1].max() - 20 >= width - 3 - size / 8  # the last letter has white beside it
    assert found[:, 0].min() >= 10 - 1
    assert found[:, 0].max() <= 10 + 1.5 * size


@pytest.mark.parametrize("size", [10, 11, 13, 24])
def test_capitals_are_centred_in_the_box(size):
    rows = written("H", size)[:, 0]
    assert abs((rows.min() - 10) - (10 + size - 1 - rows.max())) <= 1


def test_without_freetype_the_bitmap_font_serves(without_freetype):
    font = font_of_size(30)
    assert isinstance(font, ImageFont.ImageFont)
    assert text_size(font) == 11
    assert len(written("\N{CAT FACE} cat", 30)) > 0
    assert text_width("\N{CAT FACE}", font) == text_width("?", font)


def test_accents_are_left_out():
    assert without_accents("café Ångström 猫") == "cafe Angstrom 猫"
    assert without_accents("e\N{COMBINING ACUTE ACCENT}") == "e"


def test_boxes_flow_from_left_to_right_and_down():
    assert flow([50, 50, 60], 115, 15) == [(0, 0), (65, 0), (0, 1)]
    assert flow([50, 50], 114, 15) == [(0, 0), (0, 1)]
    assert flow([500, 50], 114, 15) == [(0, 0), (0, 1)]
    assert flow([], 114, 15) == []


def test_any_value_can_be_shown():
    assert shown_value("a" * 500) == "'" + "a" * 79
    assert shown_value(10**5000) == "a number too long to print"


def test_long_texts_are_cut():
    assert shown_text("x" * 40, 40) == "x" * 40
    assert shown_text("x" * 41, 40) == "x" * 37 + "..."
    assert shown_text("x" * 10_000, 40) == "x" * 37 + "..."


def test_what_does_not_print_is_replaced():
    assert shown_text("a\nb\x00\x1b\x7f\ud800\N{RIGHT-TO-LEFT OVERRIDE}c", 40) == "a\ufffdb" + "\ufffd" * 5 + "c"
    assert shown_text("größe \N{CAT FACE} 猫", 40) == "größe \N{CAT FACE} 猫"


@given(st.text(), st.integers(4, 30))
def test_a_shown_text_is_one_line_within_the_limit(text, limit):
    shown = shown_text(text, limit)
    assert len(shown) == min(len(text), limit)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
