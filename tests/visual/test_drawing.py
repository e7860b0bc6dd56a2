"""Pictures of arrays, bars and curves: sizes, colours, proportions, and that nothing is cut."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from npmobilevit.errors import ConfigError, ShapeError
from npmobilevit.visual import drawing, lines
from npmobilevit.visual.drawing import arranged, bars, colour_map, curves, heatmap, picture, sheet
from npmobilevit.visual.lettering import font_of_size, plain_line, text_width

MAPS = ("sequential", "diverging", "grey")
MAGENTA = (255, 0, 255)
BAR = (59, 130, 246)
NAN, INF = float("nan"), float("inf")

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
MATRICES = hnp.arrays(np.float64, SHAPES, elements=st.floats())


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.array(image)


def cells(image: Image.Image, cell: int) -> np.ndarray:
    """One pixel of each square; every square has one colour."""
    rgb = pixels(image)
    few = rgb[::cell, ::cell]
    np.testing.assert_array_equal(few.repeat(cell, axis=0).repeat(cell, axis=1), rgb)
    return few


def places(image: Image.Image, colours: str, cell: int = 1) -> list[list[int]]:
    """Where in the colour map the colour of each square stands."""
    table = [tuple(colour) for colour in colour_map(colours).tolist()]
    return [[table.index(tuple(colour)) for colour in row] for row in cells(image, cell).tolist()]


def coloured(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return (pixels(image) == colour).all(axis=-1)


def white_border(image: Image.Image, width: int) -> bool:
    rgb = pixels(image)
    inner = np.zeros(rgb.shape[:2], bool)
    inner[width:-width, width:-width] = True
    return bool((rgb[~inner] == 255).all())


# Colour maps


@pytest.mark.parametrize("name", MAPS)
def test_a_colour_map_has_256_colours_that_change_little_from_one_to_the_next(name):
    table = colour_map(name)
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert np.abs(np.diff(table.astype(int), axis=0)).max() <= 4
    assert MAGENTA not in set(map(tuple, table.tolist()))


# Of the published table: github.com/BIDS/colormap, option_d.py, rounded to 8 bits.
VIRIDIS = {
    0: (68, 1, 84), 20: (72, 29, 111), 43: (68, 58, 131), 64: (59, 82, 139), 100: (42, 118, 142), 128: (33, 145, 140),
    170: (53, 183, 121), 192: (94, 201, 98), 220: (162, 218, 55), 240: (216, 226, 25), 255: (253, 231, 37),
}  # fmt: skip


def test_the_sequential_map_is_near_viridis():
    table = colour_map("sequential").astype(int)
    for place, colour in VIRIDIS.items():
        assert np.abs(table[place] - colour).max() <= 5, place
    luma = table @ [0.299, 0.587, 0.114]
    assert (np.diff(luma[::3]) > 0).all()  # those next to each other may differ less than their rounding


def test_the_diverging_map_is_white_in_the_middle_and_darker_to_both_sides():
    table = colour_map("diverging").astype(int)
    assert table[127].tolist() == table[128].tolist() == [255, 255, 255]
    luma = table @ [0.299, 0.587, 0.114]
    assert (np.diff(luma[:128]) > 0).all()
    assert (np.diff(luma[128:]) < 0).all()
    assert (table[:127, 2] > table[:127, 0]).all()
    assert (table[129:, 0] > table[129:, 2]).all()


def test_grey_is_grey():
    np.testing.assert_array_equal(colour_map("grey"), np.arange(256).repeat(3).reshape(256, 3))


@pytest.mark.parametrize("name", ["jet", "", None, ["grey"], 10**5000], ids=lambda name: type(name).__name__)
def test_other_colour_maps_are_refused(name):
    for call in (lambda: colour_map(name), lambda: heatmap([[1]], colours=name)):
        with pytest.raises(ConfigError, match="no colour map") as caught:
            call()
        assert caught.value.code == "option"


# Heat maps


@pytest.mark.parametrize("colours", MAPS)
def test_the_largest_value_has_the_last_colour_and_the_least_the_first(colours):
    image = heatmap([[-3, 0], [1, 3]], colours=colours, cell=4)
    assert image.size == (8, 8)
    assert places(image, colours, 4) in ([[0, 128], [170, 255]], [[0, 127], [170, 255]])


def test_places_are_linear_between_the_limits():
    assert places(heatmap([[0, 51, 102, 255]], cell=1), "sequential") == [[0, 51, 102, 255]]
    assert places(heatmap([[0, 51, 102, 255]], low=51, high=102, cell=1), "sequential") == [[0, 0, 255, 255]]
    assert places(heatmap([[0, 51, 102]], high=510, cell=1), "sequential") == [[0, 26, 51]]
    assert places(heatmap([[0, 51, 102]], low=-408, cell=1), "sequential") == [[204, 230, 255]]
    assert places(heatmap([[-9, -8]], low=0, cell=1), "sequential") == [[0, 0]]  # all below the limit


def test_diverging_colours_have_white_at_zero_whatever_the_limits():
    for options in ({}, {"high": 5}, {"low": -5}, {"low": -5, "high": 5}):
        image = heatmap([[0.0, 0.5, 2.0]], colours="diverging", cell=1, **options)
        assert pixels(image)[0, 0].tolist() == [255, 255, 255]
        assert pixels(image)[0, 1, 0] > pixels(image)[0, 1, 2]  # red
    assert places(heatmap([[1, -4]], colours="diverging", cell=1), "diverging") == [[159, 0]]


@given(matrix=MATRICES, colours=st.sampled_from(MAPS), cell=st.integers(1, 3))
def test_any_values_have_colours_in_their_order(matrix, colours, cell):
    before = matrix.copy()
    image = heatmap(matrix, colours=colours, cell=cell)
    assert image.size == (matrix.shape[1] * cell, matrix.shape[0] * cell)
    np.testing.assert_array_equal(matrix, before)
    few = cells(image, cell)
    known = ~np.isnan(matrix)
    assert (few[~known] == MAGENTA).all()
    table = {tuple(colour): place for place, colour in reversed(list(enumerate(colour_map(colours).tolist())))}
    found = [table[tuple(colour)] for colour in few[known].tolist()]
    by_value = [place for _, place in sorted(zip(matrix[known].tolist(), found, strict=True))]
    assert by_value == sorted(by_value)


@pytest.mark.parametrize("colours", MAPS)
@pytest.mark.parametrize("value", [0, 7, -1e308, True, 5e-324])
def test_constant_values_have_one_colour(value, colours):
    few = cells(heatmap(np.full((2, 3), value), colours=colours, cell=2), 2)
    assert len(np.unique(few.reshape(-1, 3), axis=0)) == 1


def test_infinities_have_the_outermost_colours_and_nan_one_of_its_own():
    image = heatmap([[-INF, 0, 1, INF]], cell=1)
    assert places(image, "sequential") == [[0, 0, 255, 255]]
    assert pixels(heatmap([[NAN, 1]], cell=1))[0, 0].tolist() == list(MAGENTA)
    assert (cells(heatmap([[NAN, NAN]], cell=2), 2) == MAGENTA).all()


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 1), (240, 240)), ((8, 12), (240, 160)), ((100, 7), (14, 200)), ((3, 500), (500, 3))]
)
def test_without_a_size_of_cells_the_longer_side_is_about_240(shape, size):
    assert heatmap(np.zeros(shape)).size == size


def test_numbers_are_written_in_a_contrast_and_fit():
    values = np.array([[0, 1, -12345], [0.123456, NAN, 1e-300], [-1.5e8, INF, 99]])
    plain = heatmap(values, colours="grey", low=0, high=1, cell=1)
    image = heatmap(values, colours="grey", low=0, high=1, cell=1, numbers=True)
    cell = image.width // 3
    assert image.size == (3 * cell, 3 * cell)
    assert cell >= text_width("-1.5e+08", font_of_size(11)) + 4
    for y, x in np.ndindex(3, 3):
        square = pixels(image)[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell].astype(int)
        ground = pixels(plain)[y, x].astype(int)
        changed = np.argwhere((square != ground).any(axis=-1))
        assert len(changed) > 5, (y, x)
        assert changed.min() >= 2
        assert changed.max() < cell - 2
        text = square[np.abs(square - ground).sum(axis=-1) == np.abs(square - ground).sum(axis=-1).max()]
        assert np.abs(text[0] @ [0.299, 0.587, 0.114] - ground @ [0.299, 0.587, 0.114]) > 100
    other = values.copy()
    other[0, 0] = -2
    assert heatmap(other, colours="grey", low=0, high=1, cell=1, numbers=True).tobytes() != image.tobytes()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0, "-0"), (3.0, "3"), (-99999.0, "-99999"), (1e5, "1e+05"), (0.12345, "0.123"), (NAN, "nan")],
)
def test_numbers_are_short(value, text):
    assert drawing._number(value) == text


@pytest.mark.parametrize("values", [[], [[]], 1, [1, 2], np.zeros((1, 2, 3)), [[1, 2], [3]]])
def test_a_heat_map_needs_a_matrix(values):
    with pytest.raises(ShapeError) as caught:
        heatmap(values)
    assert caught.value.code == "array-shape"


@pytest.mark.parametrize("values", [[["a"]], [[1j]], [[None]], np.array([["2000-01-01"]], "datetime64[D]")])
def test_a_heat_map_needs_real_numbers(values):
    with pytest.raises(ShapeError) as caught:
        heatmap(values)
    assert caught.value.code == "array-dtype"


@pytest.mark.parametrize(
    "options",
    [
        {"cell": 0}, {"cell": -1}, {"cell": 1.0}, {"cell": True}, {"cell": "1"}, {"cell": 10**5000}, {"cell": 10_001},
        {"low": NAN}, {"high": INF}, {"low": "0"}, {"high": True}, {"low": -(10**400)}, {"low": 2, "high": 1},
        {"low": 1, "colours": "diverging"}, {"high": -1, "colours": "diverging"},
    ],
    ids=lambda options: ",".join(f"{k}-{type(v).__name__}" for k, v in options.items()),
)  # fmt: skip
def test_options_out_of_their_range_are_refused(options):
    with pytest.raises(ConfigError) as caught:
        heatmap([[0, 1]], **options)
    assert caught.value.code == "option"
    assert len(str(caught.value)) < 250


# Pixels


@given(rgb=hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))), cell=st.integers(1, 4))
def test_a_picture_shows_its_pixels_enlarged(rgb, cell):
    np.testing.assert_array_equal(cells(picture(rgb, cell=cell), cell), rgb)
    np.testing.assert_array_equal(cells(picture(rgb / 255, cell=cell), cell), rgb)
    np.testing.assert_array_equal(cells(picture((rgb / 255).astype(np.float16), cell=cell), cell), rgb)


@pytest.mark.parametrize(
    ("rgb", "code"),
    [
        (np.zeros((2, 2), np.uint8), "array-shape"),
        (np.zeros((3, 2, 2), np.uint8), "array-shape"),
        (np.zeros((0, 2, 3), np.uint8), "array-shape"),
        (np.zeros((1, 1, 3), np.int64), "array-dtype"),
        (np.zeros((1, 1, 3), bool), "array-dtype"),
        (np.full((1, 1, 3), 1.01), "array-range"),
        (np.full((1, 1, 3), -0.01), "array-range"),
        (np.full((1, 1, 3), NAN), "array-range"),
    ],
)
def test_other_arrays_are_no_pictures(rgb, code):
    with pytest.raises(ShapeError) as caught:
        picture(rgb)
    assert caught.value.code == code


# Sheets


@pytest.mark.parametrize(
    ("count", "columns", "grid"),
    [(1, None, (1, 1)), (5, None, (3, 2)), (16, None, (4, 4)), (5, 2, (2, 3)), (2, 9, (2, 1))],
)
@pytest.mark.parametrize(("cell", "gap"), [(1, 2), (3, 0), (2, 5)])
def test_a_sheet_has_each_map_in_its_place_on_its_own_scale(count, columns, grid, cell, gap):
    maps = np.random.default_rng(0).normal(size=(count, 4, 3)) * np.arange(1, count + 1)[:, None, None]
    image = sheet(maps, columns=columns, cell=cell, gap=gap)
    across, down = grid
    assert image.size == (across * (3 * cell + gap) - gap, down * (4 * cell + gap) - gap)
    rest = pixels(image).copy()
    for i, one in enumerate(maps):
        y, x = i // across * (4 * cell + gap), i % across * (3 * cell + gap)
        place = np.s_[y : y + 4 * cell, x : x + 3 * cell]
        np.testing.assert_array_equal(pixels(image)[place], pixels(heatmap(one, cell=cell)))
        rest[place] = 255
    assert (rest == 255).all()


def test_a_sheet_has_the_colours_asked_for():
    image = sheet(np.zeros((2, 1, 1)), colours="diverging", gap=0)
    assert (pixels(image) == 255).all()


@pytest.mark.parametrize("options", [{"columns": 0}, {"cell": 0}, {"gap": -1}, {"gap": 0.5}, {"colours": "jet"}])
def test_options_of_a_sheet_are_checked(options):
    with pytest.raises(ConfigError):
        sheet(np.zeros((2, 2, 2)), **options)


@pytest.mark.parametrize("maps", [np.zeros((2, 2)), np.zeros((0, 2, 2)), np.zeros((1, 2, 0))])
def test_a_sheet_needs_maps(maps):
    with pytest.raises(ShapeError):
        sheet(maps)


# Bars


def lengths(image: Image.Image) -> list[int]:
    """Length of the bars, one after the other from above."""
    rows = coloured(image, BAR).sum(axis=1).tolist()
    return [length for length, _ in itertools.groupby(rows) if length]


@given(st.lists(st.floats(0.05, 1), min_size=1, max_size=6), st.integers(100, 900))
@settings(deadline=None)
def test_the_length_of_a_bar_goes_with_its_value(values, width):
    image = bars([(f"class {i}", value, f"{value:.1%}") for i, value in enumerate(values)], width=width)
    assert image.width == width
    assert white_border(image, 3)
    found = lengths_of_each(image, len(values))
    for value, length in zip(values, found, strict=True):
        assert abs(length - max(found) * value / max(values)) <= 1
    assert max(found) >= width / 5 - 20


def lengths_of_each(image: Image.Image, count: int) -> list[int]:
    line = (image.height - 6) // count
    blue = coloured(image, BAR)
    return [int(blue[6 + i * line : 6 + (i + 1) * line].sum(axis=1).max()) for i in range(count)]


def test_a_limit_is_the_value_of_a_full_bar():
    rows = [("a", 0.5, "x"), ("a", 1.0, "x"), ("a", 7, "x")]
    half, full, beyond = lengths_of_each(bars(rows, limit=1), 3)
    assert full == beyond
    assert abs(half - full / 2) <= 1
    whole = lengths_of_each(bars(rows[:1]), 1)[0]
    assert whole == full
    assert lengths_of_each(bars(rows, limit=70), 3)[2] == round(full / 10)


@pytest.mark.parametrize("value", [0, NAN, 0.0])
@pytest.mark.parametrize("largest", [0, 1])
def test_nothing_has_no_bar(value, largest):
    first, second = lengths_of_each(bars([("a", value, "0"), ("b", largest, "0")]), 2)
    assert (first, second > 0) == (0, largest > 0)


def test_an_infinite_bar_is_full_and_does_not_shrink_the_others():
    for value in (INF, 10**400):
        first, second = lengths_of_each(bars([("a", value, "x"), ("b", 3, "x")]), 2)
        assert first == second > 0


@pytest.mark.parametrize("width", [100, 480])
def test_long_names_and_texts_are_cut_to_leave_room_for_the_bars(width):
    image = bars(
        [("name " * 99, 1.0, "text " * 99), ("\N{CAT FACE}\n\ud800", 0.5, ""), ("", 0.1, "größe")], width=width
    )
    assert white_border(image, 3)
    full, half, _ = lengths_of_each(image, 3)
    assert full >= width / 5 - 20
    assert abs(half - full / 2) <= 1


def test_names_stand_left_and_texts_right_of_the_bars():
    def ink(name, text):
        image = bars([(name, 1.0, text)])
        blue = np.argwhere(coloured(image, BAR))[:, 1]
        dark = (pixels(image).max(axis=-1) < 120).any(axis=0)
        return dark[: blue.min()].any(), dark[blue.max() + 1 :].any()

    assert ink("name", "") == (True, False)
    assert ink("", "text") == (False, True)


def test_no_rows_are_an_empty_picture():
    image = bars([])
    assert image.width == 480
    assert (pixels(image) == 255).all()


@pytest.mark.parametrize("value", [-0.1, -INF, "1", None, True])
def test_a_bar_needs_a_number_from_0(value):
    with pytest.raises(ConfigError) as caught:
        bars([("a", value, "")])
    assert caught.value.code == "option"


@pytest.mark.parametrize("options", [{"width": 99}, {"width": 10_001}, {"limit": NAN}, {"limit": "1"}])
def test_options_of_bars_are_checked(options):
    with pytest.raises(ConfigError):
        bars([("a", 1, "")], **options)


# Curves


COLOURS = [colour for colour, _, _ in lines.STYLES]
X = np.arange(100.0)


def test_a_line_goes_through_its_points():
    """Up, down and along: each in its part of the picture, and nowhere else."""
    for y, higher in ((X, True), (-X, False)):
        found = np.argwhere(coloured(curves({"": (X, y)}), COLOURS[0]))
        left, right = (found[found[:, 1] == column, 0].mean() for column in (found[:, 1].min(), found[:, 1].max()))
        assert (right < left) == higher
    found = np.argwhere(coloured(curves({"": (X, 0 * X)}), COLOURS[0]))
    assert np.ptp(found[:, 0]) <= 1
    assert np.ptp(found[:, 1]) > 350


def test_a_logarithm_makes_an_exponential_straight():
    found = np.argwhere(coloured(curves({"": (X, np.exp(-X))}, log_y=True), COLOURS[0])).astype(float)
    rows, columns = found.T
    slope, offset = np.polyfit(columns, rows, 1)
    assert np.abs(rows - slope * columns - offset).max() < 2


def test_lines_differ_in_colour_and_in_dashes():
    series = {f"line {i}": (X, X * (i + 1)) for i in range(7)}
    image = curves(series)
    assert len({(colour, dashes) for colour, dashes, _ in lines.STYLES}) == 7
    assert len({dashes for _, dashes, _ in lines.STYLES}) == 7
    for colour in COLOURS:
        assert coloured(image, colour).sum() > 100
    solid, dashed = (
        coloured(curves({**{f"{i}": ([0], [0]) for i in range(before)}, "": (X, 0 * X + 1)}), COLOURS[before])
        for before in (0, 1)
    )
    assert gaps(solid) == 0
    assert gaps(dashed) > 10


def gaps(drawn: np.ndarray) -> int:
    """How often the longest row of the drawn pixels is interrupted."""
    row = drawn[drawn.sum(axis=1).argmax()]
    return int((np.diff(row.astype(int)) == 1).sum()) - 1 + int(row[0])


@pytest.mark.parametrize("count", [40, 41])
def test_few_points_have_markers(count):
    drawn = coloured(curves({"": (np.arange(count), np.zeros(count))}), COLOURS[0])
    rows = np.argwhere(drawn)[:, 0]
    assert (np.ptp(rows) >= 5) == (count == 40)


@pytest.mark.parametrize(("value", "log_y"), [(NAN, False), (INF, False), (1e251, False), (0, True), (-1, True)])
def test_what_cannot_be_shown_leaves_a_gap(value, log_y):
    drawn = coloured(curves({"": (np.arange(5), [1, 1, value, 1, 1])}, log_y=log_y), COLOURS[0])
    columns = np.flatnonzero(drawn.any(axis=0))
    assert np.diff(columns).max() > 150  # two of the four parts, less the markers


def test_a_single_point_is_seen():
    y = np.full(100, NAN)
    y[50] = 1
    assert coloured(curves({"": (X, y)}), COLOURS[0]).sum() > 20


SERIES = st.dictionaries(
    st.text(max_size=30),
    st.integers(0, 5).flatmap(lambda n: st.tuples(*[st.lists(st.floats(), min_size=n, max_size=n)] * 2)),
    max_size=9,
)


@given(series=SERIES, log_y=st.booleans(), width=st.integers(100, 500), labels=st.tuples(st.text(), st.text()))
@settings(deadline=None)
def test_any_series_can_be_drawn(series, log_y, width, labels):
    image = curves(series, width=width, height=100, log_y=log_y, x_label=labels[0], y_label=labels[1])
    assert image.size == (width, 100)
    assert image.mode == "RGB"


@pytest.mark.parametrize("labels", [("", ""), ("epoch", "loss"), ("gypqj " * 9, "gypqj " * 9)])
@pytest.mark.parametrize("scale", [1, 1e-4, 1e9])
@pytest.mark.parametrize("size", [(480, 280), (200, 150)])
def test_nothing_is_cut(labels, scale, size):
    series = {"train": (X * scale, X**2 * scale), "a long name of a line": (X[:9], -X[:9] / 7)}
    image = curves(series, width=size[0], height=size[1], x_label=labels[0], y_label=labels[1])
    assert white_border(image, 2)


def test_wide_ticks_are_not_cut():
    for x in ([0, 1e-9], [1000000.1, 1000000.9], [-1e200, -9e199]):
        assert white_border(curves({"": (x, [1, 5])}, width=100, height=100), 2)


def test_long_labels_do_not_meet():
    corner = pixels(curves({"": (X, X)}, width=200, height=150, x_label="M" * 99, y_label="M" * 99))[-16:, :16]
    assert (corner == 255).all()


def test_labels_and_names_are_drawn():
    plain = curves({"": (X, X)})
    for other in (
        curves({"": (X, X)}, x_label="epoch"),
        curves({"": (X, X)}, y_label="loss"),
        curves({"train": (X, X)}),
    ):
        assert (pixels(other) < 120).sum() > (pixels(plain) < 120).sum()


@pytest.mark.parametrize(
    ("x", "y", "code"),
    [
        ([1, 2], [1], "array-shape"),
        ([[1]], [[1]], "array-shape"),
        (1, 1, "array-shape"),
        ([[1], [1, 2]], [1, 2], "array-shape"),
        (["a"], [1], "array-dtype"),
        ([1], [1j], "array-dtype"),
    ],
)
def test_a_line_needs_as_many_x_as_y(x, y, code):
    with pytest.raises(ShapeError) as caught:
        curves({"a": (x, y)})
    assert caught.value.code == code


@pytest.mark.parametrize("options", [{"width": 99}, {"height": 99}, {"width": 480.0}])
def test_options_of_curves_are_checked(options):
    with pytest.raises(ConfigError):
        curves({}, **options)


# Arranged


def block(width, height, colour):
    return Image.new("RGB", (width, height), colour)


RED, GREEN, BLUE = (200, 10, 20), (10, 210, 30), (5, 6, 250)


def test_pictures_stand_beside_each_other_and_keep_their_pixels():
    image = arranged([block(30, 20, RED), block(10, 40, GREEN)], gap=5)
    assert image.size == (5 + 30 + 5 + 10 + 5, 5 + 40 + 5)
    assert (pixels(image)[5:25, 5:35] == RED).all()
    assert (pixels(image)[5:45, 40:50] == GREEN).all()
    assert (pixels(image) == 255).all(axis=-1).sum() == 55 * 50 - 30 * 20 - 10 * 40


def test_columns_make_rows():
    image = arranged([block(30, 20, RED), block(10, 40, GREEN), block(50, 7, BLUE)], columns=2, gap=0)
    assert image.size == (50 + 10, 40 + 7)
    assert (pixels(image)[40:, :50] == BLUE).all()
    assert (pixels(image)[:40, 50:] == GREEN).all()
    assert arranged([block(3, 2, RED)], columns=9, gap=0).size == (3, 2)


@pytest.mark.parametrize(
    "caption", ["short", "a caption longer than its picture gypqj", "x" * 199, "größe \N{CAT FACE}\n"]
)
def test_captions_are_not_cut_and_cover_nothing(caption):
    image = arranged([(block(20, 20, RED), caption), (block(20, 20, GREEN), "other")], gap=10)
    assert white_border(image, 10)
    red = np.argwhere(coloured(image, RED))
    assert len(red) == coloured(image, GREEN).sum() == 400
    assert red[:, 1].min() == 10
    top = pixels(image)[: red[:, 0].min() - 1]
    assert (top < 120).any()
    between = np.argwhere(coloured(image, GREEN))[:, 1].min()
    assert between >= 10 + text_width(plain_line(caption), font_of_size(13)) + 10


def test_only_rows_with_captions_have_room_for_them():
    one, two = block(20, 20, RED), block(20, 20, GREEN)
    plain = arranged([one, two], columns=1).height
    assert arranged([(one, ""), (two, "")], columns=1).height == plain
    assert arranged([(one, "a"), two], columns=1).height == plain + 26
    assert arranged([(one, "a"), (two, "b")], columns=1).height == plain + 52


def test_pictures_of_other_modes_are_shown():
    image = arranged([Image.new("L", (3, 3), 7), Image.new("1", (3, 3), 1)], gap=0)
    assert (pixels(image)[:, :3] == 7).all()


@pytest.mark.parametrize(
    ("parts", "options"), [([], {}), ([block(1, 1, RED)], {"columns": 0}), ([block(1, 1, RED)], {"gap": -1})]
)
def test_arranging_nothing_and_wrong_options_are_refused(parts, options):
    with pytest.raises(ConfigError) as caught:
        arranged(parts, **options)
    assert caught.value.code == "option"


# All


def everything():
    values = np.random.default_rng(0).normal(size=(6, 5, 4))
    yield heatmap(values[0], numbers=True)
    yield sheet(values, cell=3)
    yield bars([("a", 0.4, "40 %"), ("b", 0.2, "20 %")])
    yield curves({"a": (X, X**2), "b": (X[:5], X[:5])}, x_label="x", y_label="y")
    yield arranged([(picture(np.zeros((4, 4, 3), np.uint8)), "a"), heatmap(values[1])])


def test_pictures_are_the_same_every_time():
    for first, second in zip(everything(), everything(), strict=True):
        assert first.tobytes() == second.tobytes()


def test_without_freetype_the_bitmap_font_serves(without_freetype):
    for image in (*everything(), bars([("größe \N{CAT FACE}", 1, "\ud800")])):
        assert len(image.getcolors(10**6)) > 1


def test_pictures_are_light():
    for image in everything():
        file = io.BytesIO()
        image.save(file, "PNG")
        assert len(file.getvalue()) < 16_384
