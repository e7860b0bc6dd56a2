"""Tinted pictures and their legend."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageChops, ImageFont

from npmobilevit.errors import ConfigError, ShapeError
from npmobilevit.visual import overlay as module
from npmobilevit.visual.lettering import font_of_size
from npmobilevit.visual.overlay import overlay, with_legend
from npmobilevit.visual.palettes import voc_palette

VOC_NAMES = """background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike
person pottedplant sheep sofa train tvmonitor"""
VOC = [(tuple(colour), name) for colour, name in zip(voc_palette(21).tolist(), VOC_NAMES.split(), strict=True)]
RED, GREEN = (200, 10, 20), (10, 210, 30)
WHITE = (255, 255, 255)

HOSTILE = [
    "",
    " ",
    "<script>alert(1)</script>",
    "two\nlines\r\n\x00\x1b[31m\x7f",
    "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\N{CAT FACE}",
    "\N{CJK UNIFIED IDEOGRAPH-732B}",
    "\N{HEBREW LETTER ALEF}\N{RIGHT-TO-LEFT OVERRIDE}abc",
    "\ud800 alone",
    "\N{COMBINING ACUTE ACCENT}" * 50,
    "W" * 10_000,
    "jjjj",
]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Overlay


def overlay_by_definition(rgb, mask, colours, alpha):
    """Pixel by pixel. The second of the two roundings that Python has, halves to even, is NumPy's too."""
    out = rgb.copy()
    for y, x in np.ndindex(mask.shape):
        if int(mask[y, x]) in colours:
            for channel in range(3):
                tint = colours[int(mask[y, x])][channel]
                out[y, x, channel] = round((1 - alpha) * int(rgb[y, x, channel]) + alpha * tint)
    return out


IDS = st.sampled_from([-(2**31), -100, -1, 0, 1, 2, 7, 255, 2**31 - 1])
COLOURS = st.dictionaries(IDS, st.tuples(*[st.integers(0, 255)] * 3))
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5))
CASES = SHAPES.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, (*shape, 3)), hnp.arrays(st.sampled_from([np.int32, np.int64]), shape, elements=IDS)
    )
)


@given(case=CASES, colours=COLOURS, alpha=st.floats(0, 1))
@settings(deadline=None)
def test_every_pixel_is_that_of_the_definition(case, colours, alpha):
    rgb, mask = case
    before = rgb.copy(), mask.copy()
    tinted = overlay(rgb, mask, colours, alpha=alpha)
    np.testing.assert_array_equal(tinted, overlay_by_definition(rgb, mask, colours, alpha), strict=True)
    np.testing.assert_array_equal(rgb, before[0])
    np.testing.assert_array_equal(mask, before[1])
    assert not np.shares_memory(tinted, rgb)


@given(case=CASES, colours=COLOURS)
def test_alpha_0_is_the_picture_and_alpha_1_the_colours(case, colours):
    rgb, mask = case
    np.testing.assert_array_equal(overlay(rgb, mask, colours, alpha=0), rgb, strict=True)
    covered = overlay(rgb, mask, colours, alpha=1)
    for label, colour in colours.items():
        assert (covered[mask == label] == colour).all()


@given(case=CASES, colours=COLOURS, alpha=st.floats(0, 1))
def test_pixels_without_a_colour_keep_every_bit(case, colours, alpha):
    rgb, mask = case
    rest = ~np.isin(mask, list(colours))
    np.testing.assert_array_equal(overlay(rgb, mask, colours, alpha=alpha)[rest], rgb[rest], strict=True)


def test_halves_are_rounded_to_even():
    rgb = np.array([[[0, 1, 2]]], np.uint8)
    assert overlay(rgb, np.zeros((1, 1), int), {0: (1, 2, 3)}, alpha=0.5).tolist() == [[[0, 2, 2]]]


@pytest.mark.parametrize("shape", [(7, 11), (1, 50), (50, 1)])
def test_bands_fit_together(shape, monkeypatch):
    rgb, mask = noise(*shape, 3), noise(*shape, seed=1).astype(np.int32) % 4
    colours = {1: RED, 3: GREEN}
    whole = overlay(rgb, mask, colours, alpha=0.3)
    monkeypatch.setattr(module, "BAND_PIXELS", 23)
    np.testing.assert_array_equal(overlay(rgb, mask, colours, alpha=0.3), whole, strict=True)
    np.testing.assert_array_equal(whole, overlay_by_definition(rgb, mask, colours, 0.3), strict=True)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int64])
def test_any_kind_of_integer_and_any_strides(kind):
    rgb, mask = noise(9, 14, 3)[::-1, ::2], (noise(7, 9, seed=1) % 3).astype(kind).T
    tinted = overlay(rgb, mask, {255: RED, 2: GREEN, -1: RED}, alpha=np.float32(0.25))
    np.testing.assert_array_equal(tinted, overlay_by_definition(rgb, mask, {2: GREEN}, 0.25), strict=True)


def test_memory_is_little_more_than_the_picture():
    rgb, mask = np.zeros((1500, 2000, 3), np.uint8), np.ones((1500, 2000), np.int32)
    tracemalloc.start()
    try:
        overlay(rgb, mask, {1: RED}, alpha=0.5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < rgb.nbytes + 8 * 2**20


OUTSIDE = [-0.01, 1.01, float("nan"), float("inf"), True, False, np.True_, "0.5", "x" * 999, None, 1j, [0.5], 10**5000]


@pytest.mark.parametrize("alpha", OUTSIDE, ids=lambda alpha: type(alpha).__name__)
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ConfigError, match=r"alpha must be a number from 0") as caught:
        overlay(noise(1, 1, 3), np.zeros((1, 1), int), {}, alpha=alpha)
    assert caught.value.code == "option"
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (6, 5), (4,), (4, 4, 1)])
def test_a_mask_of_another_size_is_refused(shape):
    with pytest.raises(ShapeError) as caught:
        overlay(noise(4, 4, 3), np.zeros(shape, int), {0: RED}, alpha=0.5)
    assert caught.value.code == "mask-shape"


# Legend


def inked(strip: Image.Image) -> tuple[int, int, int, int]:
    """The box around everything that is not white."""
    box = ImageChops.difference(strip, Image.new("RGB", strip.size, WHITE)).getbbox()
    assert box is not None
    return box


def strip_of(picture: Image.Image, rgb: np.ndarray) -> Image.Image:
    """The legend; everything beside the picture is white, and the picture is what it was."""
    assert picture.mode == "RGB"
    height, width, _ = rgb.shape
    pixels = np.array(picture)
    np.testing.assert_array_equal(pixels[:height, :width], rgb, strict=True)
    assert (pixels[:height, width:] == 255).all()
    return picture.crop((0, height, picture.width, picture.height))


def colours_in(strip: Image.Image) -> set[tuple[int, int, int]]:
    return {colour for _, colour in strip.getcolors(strip.width * strip.height)}


def swatches(strip: Image.Image, colour: tuple[int, int, int]) -> int:
    """How many boxes have this colour: so many pixels have it, but neither the one above nor the one to the left."""
    found = (np.array(strip) == colour).all(axis=-1)
    padded = np.pad(found, 1)
    corners = padded[1:-1, 1:-1] & ~padded[:-2, 1:-1] & ~padded[1:-1, :-2]
    return int(corners.sum())


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (90, 120), (50, 451), (20, 1500), (10, 4000)])
def test_a_legend_of_voc_has_every_colour_and_leaves_the_picture_alone(shape):
    rgb = noise(*shape, 3)
    before = rgb.copy()
    strip = strip_of(with_legend(rgb, VOC), rgb)
    np.testing.assert_array_equal(rgb, before)
    assert {colour for colour, _ in VOC} <= colours_in(strip)
    coloured = [colour for colour, _ in VOC if len(set(colour)) > 1]  # greys are at the edges of letters too
    assert [swatches(strip, colour) for colour in coloured] == [1] * 19
    margin, top, right, bottom = inked(strip)
    assert margin >= 10
    assert top == margin
    assert strip.width - right >= margin  # nothing is clipped, and nothing comes near
    assert strip.height - bottom >= margin // 2  # a descender may reach into it


@pytest.mark.parametrize(("width", "size"), [(1, 10), (400, 10), (600, 15), (1000, 25), (1920, 48), (4000, 48)])
def test_the_legend_is_drawn_in_proportion_to_the_width(width, size):
    rgb = noise(2, width, 3)
    strip = strip_of(with_legend(rgb, [(RED, "x")]), rgb)
    assert strip.height == 3 * size  # a swatch between two margins
    assert inked(strip)[:2] == (size, size)
    found = np.argwhere((np.array(strip) == RED).all(axis=-1))
    outline = max(1, size // 16)
    assert found.min() == size + outline
    assert found.max() == 2 * size - 1 - outline


def test_the_text_says_the_name():
    """It is dark, on white, in the place of the text, and other names give other texts."""
    rgb = noise(2, 800, 3)
    strips = [strip_of(with_legend(rgb, [(RED, name)]), rgb) for name in ("cat", "dog", "cat")]
    assert strips[0].tobytes() == strips[2].tobytes() != strips[1].tobytes()
    texts = [np.array(strip)[:, 45:].astype(int) for strip in strips]
    assert texts[0].min() < 60
    assert (np.ptp(texts[0], axis=-1) == 0).all()  # grey only: the swatch ends before


def test_capitals_stand_level_with_the_swatch():
    rgb = noise(2, 1600, 3)
    strip = strip_of(with_legend(rgb, [(RED, "HHH")]), rgb)  # text size 40: the swatch has rows 40 to 79
    _, top, _, bottom = inked(strip.crop((90, 0, strip.width, strip.height)))
    assert abs((top + bottom) / 2 - 60) <= 1


def test_entries_flow_into_rows():
    few, many = noise(2, 600, 3), noise(2, 300, 3)
    one_row = strip_of(with_legend(few, VOC[:4]), few)
    rows = strip_of(with_legend(many, VOC[:12]), many)
    assert one_row.height == 45
    assert rows.width == 300
    assert rows.height > 3 * 10 + 2 * 17


def test_a_text_wider_than_the_picture_widens_the_canvas():
    rgb = noise(30, 30, 3)
    strip = strip_of(with_legend(rgb, [(RED, "W" * 40)]), rgb)
    whole = noise(2, 400, 3)  # the text size is the same, and there is room to spare
    wide = strip_of(with_legend(whole, [(RED, "W" * 40)]), whole)
    assert strip.width > 300
    assert inked(strip) == inked(wide)


def test_without_entries_there_is_only_the_picture():
    rgb = noise(5, 7, 3)
    picture = with_legend(rgb, [])
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.array(picture), rgb, strict=True)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
@pytest.mark.parametrize("width", [1, 900])
def test_no_text_crashes_or_is_clipped(text, width):
    rgb = noise(3, width, 3)
    strip = strip_of(with_legend(rgb, [(RED, text), (GREEN, "next")]), rgb)
    assert swatches(strip, RED) == swatches(strip, GREEN) == 1
    left, _, right, _ = inked(strip)
    assert strip.width - right >= left == max(10, width // 40)
    assert strip.width <= max(width, 500)  # 40 letters of 10 pixels, and the margins


@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=4), width=st.integers(1, 500))
@settings(deadline=None, max_examples=40)
def test_nothing_is_drawn_outside_the_margins(texts, width):
    rgb = noise(1, width, 3)
    strip = strip_of(with_legend(rgb, [(RED, text) for text in texts]), rgb)
    left, top, right, _ = inked(strip)
    assert left == top == max(10, round(width / 40))
    assert strip.width - right >= left


def test_a_text_does_not_run_into_its_swatch_or_its_neighbour():
    """A j reaches back to the left of its origin; the swatch keeps its outline and its gap."""
    rgb = noise(1, 2000, 3)
    strip = np.array(strip_of(with_legend(rgb, [(RED, "jjj"), (GREEN, "jjj")]), rgb))
    assert (strip[:, 96:120] == 255).all()
    first = int(np.argwhere((strip == GREEN).all(axis=-1))[:, 1].min())
    assert (strip[:, first - 3 - 60 : first - 3] == 255).all()


def test_more_than_40_entries_are_counted(monkeypatch):
    drawn = []
    draw_entry = module._draw_entry
    monkeypatch.setattr(module, "_draw_entry", lambda *args: (drawn.append(args[2]), draw_entry(*args)))
    rgb = noise(2, 500, 3)
    entries = [((i, 0, 0), f"class {i}") for i in range(40)]
    with_legend(rgb, entries)
    assert drawn == entries
    drawn.clear()
    strip = strip_of(with_legend(rgb, [*entries, *[(RED, "left out")] * 1234]), rgb)
    assert drawn == [*entries, (None, "and 1,234 more")]
    assert RED not in colours_in(strip)


def test_accents_are_left_out_as_the_font_has_none():
    rgb = noise(2, 500, 3)
    plain = with_legend(rgb, [(RED, "Cafe Strasse 1/2")])
    for text in ("Café Strasse 1/2", "Cafe\N{COMBINING ACUTE ACCENT} Strasse 1/2"):
        assert with_legend(rgb, [(RED, text)]).tobytes() == plain.tobytes()
    half = with_legend(rgb, [(RED, "\N{VULGAR FRACTION ONE HALF}")])  # not 12
    assert half.tobytes() != with_legend(rgb, [(RED, "12")]).tobytes()


@pytest.mark.parametrize("width", [1, 500, 2000])
def test_without_freetype_the_bitmap_font_serves(width, without_freetype):
    rgb = noise(2, width, 3)
    entries = [(RED, "cat"), *((GREEN, text) for text in HOSTILE)]
    strip = strip_of(with_legend(rgb, entries), rgb)
    assert isinstance(font_of_size(10), ImageFont.ImageFont)
    assert swatches(strip, RED) == 1
    assert swatches(strip, GREEN) == len(HOSTILE)
    left, top, right, _ = inked(strip)
    assert left == top == 11
    assert strip.width - right >= 11
