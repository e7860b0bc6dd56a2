"""The page that explains a picture, as a person uses it in a browser; what it says is compared with taps."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import made_reports
import networks
import numpy as np
import page_checks as checks
import pytest

import npmobilevit as nm
from npmobilevit.explanation import Page
from npmobilevit.pipeline import Pipeline

pytestmark = pytest.mark.browser

IMAGES = Path(__file__).parents[2] / "reference" / "images"
SIDE = 2  # of a patch, in both checkpoints


@dataclasses.dataclass
class Explained:
    """A page, its address, and the attention (S, h, L, L) of each layer, from a forward pass of its own."""

    file: Path
    page: Page
    probs: list[list[np.ndarray]]  # by block and transformer layer

    def grid(self, block):
        return self.page.evidence.attention[block]


def explained(folder, image, model):
    page = nm.explain(image, model)
    file = folder / f"{Path(image).stem}.html"
    page.save(file)
    pipeline = nm.load(model, engine="reference")
    names = [
        [f"{block.name}.transformer.layer.{i}.attention.attention.probs" for i in range(len(block.levels))]
        for block in page.evidence.attention
    ]
    taps = pipeline.network.taps(pipeline.pixel_values(image), itertools.chain.from_iterable(names))
    return Explained(file, page, [[taps[name] for name in layers] for layers in names])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("classifier"), IMAGES / "chelsea.png", "cifar10-xx-small")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("segmenter"), IMAGES / "street.png", "camvid-deeplabv3-xx-small")


@pytest.fixture(params=["classifier", "segmenter"])
def either(request):
    return request.getfixturevalue(request.param)


# what the network says


def attended(given, block, layer, head, position, patch):
    """What a group of patches attends to in each group, and how far the page may be off; head None is their mean.

    The page keeps square roots in 15 steps of the largest: what is off by half a step there is off by this here.
    """
    grid = given.grid(block)
    rows, columns = grid.patches
    probs = given.probs[block][layer][position].astype(np.float64)  # (h, L, L)
    if head is not None:
        probs = probs[head : head + 1]
    maps = probs.reshape(len(probs), rows, columns, rows, columns)
    row, column = (index * grid.query_step for index in patch)
    queries = maps[:, row : row + grid.query_step, column : column + grid.query_step].mean(axis=(1, 2))  # (h, R, C)
    means = np.array([group_means(x, grid.key_step) for x in queries])  # (h, r, c)
    largest = means.max(axis=(1, 2), keepdims=True)
    half = 1 / 30 + 1 / 65535
    off = largest * half * (2 * np.sqrt(means / largest) + half)
    return means.mean(axis=0), off.mean(axis=0)


def group_means(x, step):
    rows, columns = x.shape
    return [[x[r : r + step, c : c + step].mean() for c in range(0, columns, step)] for r in range(0, rows, step)]


# what the page says and draws


def choose(browser, block, layer, head, position):
    browser.choose("block", str(block))
    browser.choose("layer", str(layer))
    browser.choose("head", "mean" if head is None else str(head))
    browser.click(browser.element(f"canvas.position[data-position='{position}']"))


def middle(grid, patch):
    """Where in the map a group of patches has its middle, across and down."""
    ends = [
        (index * grid.query_step, min((index + 1) * grid.query_step, count))
        for index, count in zip(patch, grid.patches, strict=True)
    ]
    down, across = ((start + end) / 2 / count for (start, end), count in zip(ends, grid.patches, strict=True))
    return across, down


def hover(browser, grid, patch):
    browser.hover(browser.element("#map"), middle(grid, patch))


def numbers(browser):
    """The data of the map, as numbers."""
    return {
        name: float(value)
        for name, value in browser.script("return {...document.getElementById('map').dataset}").items()
    }


def patch_of(browser):
    said = numbers(browser)
    return int(said["row"]), int(said["column"])


def scale(browser):
    """Colours of a map from least to most, (n, 3)."""
    return np.array(
        json.loads(browser.script("return document.getElementById('attention-data').textContent"))["colours"]
    )


def drawn(browser, canvas, grid):
    """What a map shows of each group, from 0, the colour of nothing, to 1, that of the most."""
    width, height, pixels = browser.script(
        "const canvas = document.querySelector(arguments[0]), {width, height} = canvas;"
        "const copy = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});"
        "copy.drawImage(canvas, 0, 0);"
        "return [width, height, [...copy.getImageData(0, 0, width, height).data]]",
        canvas,
    )
    assert (height, width) == tuple(grid.patches)
    pixels = np.array(pixels).reshape(height, width, 4)
    assert (pixels[..., 3] == 255).all()
    rows, columns = np.arange(height) // grid.key_step, np.arange(width) // grid.key_step
    groups = pixels[:: grid.key_step, :: grid.key_step, :3]
    assert (pixels[..., :3] == groups[rows][:, columns]).all()  # a group has one colour
    colours = scale(browser)
    distances = np.abs(groups[:, :, np.newaxis] - colours).sum(axis=-1)
    assert (distances.min(axis=-1) == 0).all()
    return distances.argmin(axis=-1) / (len(colours) - 1), 1 / (len(colours) - 1)


def assert_is_shown(browser, given, block, layer, head, position, patch, canvas="#map-heat"):
    """The map is that of the taps: colours by the square root of the share of the largest."""
    grid = given.grid(block)
    values, off = attended(given, block, layer, head, position, patch)
    shown, step = drawn(browser, canvas, grid)
    low = np.sqrt(np.maximum(values - off, 0) / (values + off).max())
    high = np.sqrt(np.minimum((values + off) / (values - off).max(), 1))
    assert (shown >= low - step).all()
    assert (shown <= high + step).all()


def assert_is_told(browser, given, block, layer, head, position, patch):
    """The numbers and the sentence are those of the taps: which three groups get most, and how much."""
    grid = given.grid(block)
    values, off = attended(given, block, layer, head, position, patch)
    sizes = np.outer(*(sizes_of(count, grid.key_step) for count in grid.patches))
    shares, margins = 100 * values * sizes, 100 * off * sizes
    said = numbers(browser)
    assert patch_of(browser) == patch
    assert (said["rows"], said["columns"]) == tuple(-(-n // grid.query_step) for n in grid.patches)
    most = int(said["mostRow"]), int(said["mostColumn"])
    assert abs(said["mostPercent"] - shares[most]) <= margins[most] + 0.005

    scale = re.fullmatch(r"(about )?([\d.]+)% attention to one patch", browser.element("#most").text)
    largest = np.unravel_index(values.argmax(), values.shape)
    assert bool(scale[1]) == (head is None)
    assert float(scale[2]) == pytest.approx(100 * values[largest], rel=0.06, abs=100 * off.max())

    sentence = browser.element("#attended").text
    assert f"Patch {spoken(grid, patch, grid.query_step)}, pixel position {divmod(position, SIDE)}, " in sentence
    assert ("all heads" if head is None else f"head {head + 1}:") in sentence
    if shares.size == 1:
        assert sentence.endswith("there is only one patch, and it attends to itself.")
        return
    groups = {spoken(grid, group, grid.key_step): group for group in np.ndindex(shares.shape)}
    told = [
        (groups[place], bool(about), float(share))
        for place, about, share in re.findall(r"(rows? [^;(]*) \((about )?([\d.]+)%\)", sentence)
    ]
    assert len(told) == min(3, shares.size)
    assert (told[0][0], told[0][2]) == (most, pytest.approx(said["mostPercent"], abs=0.5))
    assert head is not None or all(about for _, about, _ in told)
    rest = shares - margins
    for group, about, share in told:
        # what is not "about" is the largest of one head, of which only the peak is rounded
        off = margins[group] + (0.05 if share < 1 else 0.5) if about else 0.01 + (0.05 if share < 10 else 0.5)
        assert share == pytest.approx(shares[group], abs=off)
        assert about or values[group] == pytest.approx(values.max(), rel=0.01)
        assert shares[group] + margins[group] >= rest.max()
        rest[group] = 0


def sizes_of(count, step):
    return [min(step, count - start) for start in range(0, count, step)]


def spoken(grid, group, step):
    """The rows and columns of a group, counted from 1."""
    words = []
    for name, index, count in zip(("row", "column"), group, grid.patches, strict=True):
        first, last = index * step + 1, min((index + 1) * step, count)
        words.append(f"{name} {first}" if first == last else f"{name}s {first} to {last}")
    return ", ".join(words)


# for everybody


def test_the_page_is_whole_and_readable_on_every_screen(browser, either):
    assert checks.everything(browser, either.file, (1200, 700, 360)) == {}


@pytest.mark.parametrize("width", [1200, 360])
def test_tab_reaches_every_control_in_order_and_shows_where_it_is(browser, either, width):
    browser.open(either.file, width=width)
    assert checks.keyboard(browser) == []


def test_the_page_is_small_and_all_its_pictures_are_there(browser, either):
    browser.open(either.file)
    assert either.file.stat().st_size < 3_000_000
    sizes = browser.script("return Array.from(document.images, (image) => image.naturalWidth * image.naturalHeight)")
    assert len(sizes) > 5
    assert min(sizes) > 0


def test_without_script_all_is_there_but_what_needs_it(browser, either):
    browser.open(either.file, script=False)
    assert browser.element("#attention-static").is_displayed()
    assert len(browser.elements("#attention-static img")) == 3  # blocks
    assert not [control for control in browser.elements("select, input, button, #map") if control.is_displayed()]
    assert checks.contrast(browser) == []
    assert checks.layout(browser, 1200) == []
    browser.open(either.file)
    assert not browser.element("#attention-static").is_displayed()
    assert browser.element("#map").is_displayed()


def test_nothing_moves_for_who_wants_no_motion(browser, classifier):
    browser.open(classifier.file, reduced_motion=True)
    moving = browser.script(
        "const moves = ({transitionDuration, animationDuration, scrollBehavior}) =>"
        " parseFloat(transitionDuration) || parseFloat(animationDuration) || scrollBehavior !== 'auto';"
        "return Array.from(document.querySelectorAll('*'), (e) => getComputedStyle(e)).filter(moves).length"
    )
    assert moving == 0


def test_paper_has_the_maps_and_no_controls(browser, either):
    browser.open(either.file)
    browser.media("print")
    assert not browser.element("#block").is_displayed()
    assert browser.element("#map").is_displayed()
    assert checks.contrast(browser) == []


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        ("classification", made_reports.HOSTILE[:5]),  # the table has five
        ("classification", made_reports.HOSTILE[5:10]),
        ("classification", made_reports.HOSTILE[10:]),
        ("segmentation", [f"{i}{'long' * 1000}" for i in range(5)]),
    ],
)
def test_labels_that_are_markup_or_long_are_text(browser, tmp_path, processor, head, labels):
    config = networks.tiny(num_labels=None, id2label=dict(enumerate(labels)), output_stride=16)
    model = networks.make_model(head, config, precision="float32")
    file = tmp_path / "page.html"
    picture = tmp_path / f"{'long' * 50}.png"
    picture.write_bytes((IMAGES / "chelsea.png").read_bytes())
    page = nm.explain(picture, Pipeline("made", model, processor))
    page.save(file)
    shown = page.evidence.predictions or page.evidence.segmentation.classes
    assert len(shown) == len(labels) if head == "classification" else len(shown) > 1
    assert checks.everything(browser, file) == {}
    assert apart(browser) == []
    assert len(browser.elements("script")) == 2  # the page's data and its program
    assert browser.element("#attended").text  # which ran


def long_picture(folder, height, width):
    """A page of a small segmenter about noise of this size, which it sees as it is."""
    config = networks.tiny(output_stride=16)
    model = networks.make_model("segmentation", config, precision="float32")
    processor = nm.MobileViTImageProcessor(do_resize=False, do_center_crop=False)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = folder / "long.html"
    nm.explain(pixels, Pipeline("made", model, processor)).save(file)
    return file


@pytest.mark.parametrize(("height", "width"), [(160, 90), (240, 80), (80, 240), (1500, 10), (10, 1500)])
@pytest.mark.parametrize("screen", [(1200, 800), (360, 740)])
def test_a_long_picture_is_seen_as_a_whole(browser, tmp_path, height, width, screen):
    file = long_picture(tmp_path, height, width)
    browser.open(file, width=screen[0], height=screen[1])
    ratio = min(6, max(1 / 6, width / height))
    for name in ("#map", "#photo img", "#mask img", ".cards img"):
        for _, _, across, down in map(browser.box, browser.elements(name)):
            assert down <= 0.76 * screen[1]
            assert across / down == pytest.approx(ratio, rel=0.02)
    boxes = [browser.box(field) for field in browser.elements(".positions .stage")]
    assert all(across / down == pytest.approx(ratio, rel=0.05) for _, _, across, down in boxes)
    assert max(top + down for _, top, _, down in boxes) - min(top for _, top, _, _ in boxes) <= screen[1]
    sheets = [browser.box(sheet) for sheet in browser.elements(".sheets img")]
    assert max(down for _, _, _, down in sheets) <= screen[1] + 1
    assert checks.everything(browser, file, screen[:1]) == {}


def broken(browser):
    """Words on two lines, in the names and headings of tables and at the ends of scales."""
    return browser.script(
        "const broken = [];"
        "for (const cell of document.querySelectorAll('th, .scale span')) {"
        "  const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);"
        "  while (texts.nextNode()) for (const word of texts.currentNode.data.matchAll(/\\S+/g)) {"
        "    const range = document.createRange();"
        "    range.setStart(texts.currentNode, word.index);"
        "    range.setEnd(texts.currentNode, word.index + word[0].length);"
        "    if (new Set(Array.from(range.getClientRects(), (box) => box.top)).size > 1) broken.push(word[0]);"
        "  }"
        "} return broken"
    )


def apart(browser):
    """Names of classes whose colour does not stand in their first line."""
    return browser.script(
        "return Array.from(document.querySelectorAll('.named')).filter((name) => {"
        "  const range = document.createRange();"
        "  range.selectNodeContents(name.lastChild);"
        "  const [line] = range.getClientRects(), key = name.firstChild.getBoundingClientRect();"
        "  return key.top < line.top || key.bottom > line.bottom || key.right > line.left;"
        "}).map((name) => name.textContent)"
    )


@pytest.mark.parametrize("width", [1100, 700, 390, 360])
def test_words_in_tables_and_scales_are_whole_and_stand_beside_their_colour(browser, either, width):
    browser.open(either.file, width=width)
    assert broken(browser) == []
    assert checks.layout(browser, width) == []
    assert apart(browser) == []


# pointing


def test_each_patch_under_the_mouse_shows_what_it_attends_to(browser, classifier):
    browser.open(classifier.file)
    choose(browser, 0, 0, 2, 0)
    seen = set()
    for patch in itertools.product(range(4), range(4)):
        hover(browser, classifier.grid(0), patch)
        assert_is_told(browser, classifier, 0, 0, 2, 0, patch)
        assert_is_shown(browser, classifier, 0, 0, 2, 0, patch)
        seen.add(browser.element("#attended").text)
    assert len(seen) == 16


@pytest.mark.parametrize(("head", "position"), [(0, 1), (1, 3), (2, 0), (3, 2), (None, 1)])
def test_every_block_layer_position_and_head_has_its_own_map(browser, classifier, head, position):
    browser.open(classifier.file)
    for block, layers in enumerate(classifier.probs):
        grid = classifier.grid(block)
        patch = (grid.patches[0] - 1, 0)
        for layer in range(len(layers)):
            choose(browser, block, layer, head, position)
            hover(browser, grid, patch)
            assert_is_told(browser, classifier, block, layer, head, position, patch)
            assert_is_shown(browser, classifier, block, layer, head, position, patch)


@pytest.mark.parametrize(
    ("block", "layer", "head", "position"), [(0, 0, 1, 0), (0, 1, None, 3), (1, 3, 0, 2), (2, 2, 3, 1)]
)
def test_groups_of_patches_show_what_they_attend_to_on_average(browser, segmenter, block, layer, head, position):
    browser.open(segmenter.file)
    choose(browser, block, layer, head, position)
    grid = segmenter.grid(block)
    last = [-(-n // grid.query_step) - 1 for n in grid.patches]
    for patch in [(0, 0), (2, 3), (last[0], 1), (last[0], last[1])]:
        hover(browser, grid, patch)
        assert_is_told(browser, segmenter, block, layer, head, position, patch)
        assert_is_shown(browser, segmenter, block, layer, head, position, patch)


def test_the_maps_of_all_positions_are_shown_apart(browser, either):
    browser.open(either.file)
    choose(browser, 0, 0, 1, 2)
    hover(browser, either.grid(0), (1, 2))
    maps = []
    for position in range(SIDE**2):
        canvas = f"canvas.position[data-position='{position}']"
        assert_is_shown(browser, either, 0, 0, 1, position, (1, 2), canvas)
        maps.append(drawn(browser, canvas, either.grid(0))[0])
    assert (maps[2] == drawn(browser, "#map-heat", either.grid(0))[0]).all()
    assert all((one != other).any() for one, other in itertools.combinations(maps, 2))
    places = [browser.box(canvas)[:2] for canvas in browser.elements("canvas.position")]
    assert places[0][1] == places[1][1] < places[2][1] == places[3][1]  # as they lie in the patch
    assert places[0][0] == places[2][0] < places[1][0] == places[3][0]


@pytest.mark.parametrize("inset", [0.1, 0.9])
def test_a_patch_reaches_to_its_borders_and_the_frame_is_around_it(browser, either, inset):
    browser.open(either.file)
    grid = either.grid(0)
    last = [-(-n // grid.query_step) - 1 for n in grid.patches]
    field = browser.element("#map")
    for group in [(0, 0), (1, last[1]), (last[0], 2), (last[0] - 1, 1), (last[0], last[1])]:
        starts = [index * grid.query_step / count for index, count in zip(group, grid.patches, strict=True)]
        ends = [min(1, (i + 1) * grid.query_step / n) for i, n in zip(group, grid.patches, strict=True)]
        down, across = (start + inset * (end - start) for start, end in zip(starts, ends, strict=True))
        browser.hover(field, (across, down))
        assert patch_of(browser) == group
        left, top, width, height = browser.box(field)
        around = [left + width * starts[1], top + height * starts[0]]
        around += [width * (ends[1] - starts[1]), height * (ends[0] - starts[0])]
        assert browser.box(browser.element("#map-patch")) == pytest.approx(around, abs=1)


def test_a_finger_on_a_patch_chooses_it(browser, classifier):
    browser.open(classifier.file, width=360, height=740, touch=True)
    for patch in [(0, 3), (2, 1)]:
        browser.tap(browser.element("#map"), middle(classifier.grid(0), patch))
        assert_is_told(browser, classifier, 0, 0, None, 0, patch)
        (_, top, _, _), (_, below, _, height) = (browser.box(browser.element(name)) for name in ("#map", "#attended"))
        assert below + height - top < 740  # both are seen at once
    browser.tap(browser.element("canvas.position[data-position='3']"))
    assert_is_told(browser, classifier, 0, 0, None, 3, (2, 1))
    assert checks.layout(browser, 360) == []


# keys


def focus(browser, name):
    browser.script("document.getElementById(arguments[0]).focus({preventScroll: true})", name)


def test_arrow_keys_move_from_patch_to_patch_and_not_the_page(browser, classifier):
    browser.open(classifier.file)
    hover(browser, classifier.grid(0), (1, 1))
    browser.hover(browser.element("h1"))
    browser.script("document.getElementById('map').scrollIntoView({block: 'center', behavior: 'instant'})")
    focus(browser, "map")
    before = browser.script("return scrollY")
    moves = {"ARROW_RIGHT": (1, 2), "ARROW_DOWN": (2, 2), "ARROW_LEFT": (2, 1), "ARROW_UP": (1, 1)}
    for key, patch in moves.items():
        browser.press(key)
        assert_is_told(browser, classifier, 0, 0, None, 0, patch)
        assert_is_shown(browser, classifier, 0, 0, None, 0, patch)
    browser.press("END")
    assert patch_of(browser) == (1, 3)
    browser.press("HOME")
    assert patch_of(browser) == (1, 0)
    browser.press("ARROW_LEFT", "ARROW_UP", "ARROW_UP", "ARROW_UP")  # the border holds
    assert patch_of(browser) == (0, 0)
    browser.press(*["ARROW_DOWN"] * 6, *["ARROW_RIGHT"] * 6)
    assert patch_of(browser) == (3, 3)
    assert browser.script("return scrollY") == before


def test_every_group_of_a_large_map_is_reached_by_keys(browser, segmenter):
    browser.open(segmenter.file)
    rows, columns = (-(-n // segmenter.grid(0).query_step) for n in segmenter.grid(0).patches)
    focus(browser, "map")
    browser.press("HOME", *["ARROW_UP"] * rows)
    reached = [patch_of(browser)]
    for _ in range(columns - 1):
        browser.press("ARROW_RIGHT")
        reached.append(patch_of(browser))
    for _ in range(rows - 1):
        browser.press("ARROW_DOWN")
        reached.append(patch_of(browser))
    assert reached == [(0, c) for c in range(columns)] + [(r, columns - 1) for r in range(1, rows)]


def test_block_layer_head_and_position_are_chosen_by_keys(browser, classifier):
    browser.open(classifier.file)
    focus(browser, "block")
    browser.press("ARROW_DOWN")  # block 1, of 2 x 2 patches: the chosen patch stays where it was
    patch = patch_of(browser)
    assert_is_told(browser, classifier, 1, 0, None, 0, patch)
    browser.press("TAB", *["ARROW_DOWN"] * 3)
    assert_is_told(browser, classifier, 1, 3, None, 0, patch)
    browser.press("TAB", "ARROW_DOWN")
    assert_is_told(browser, classifier, 1, 3, 0, 0, patch)
    browser.press("END")
    assert_is_told(browser, classifier, 1, 3, 3, 0, patch)
    browser.press("TAB")
    assert browser.script("return document.activeElement.id") == "map"
    browser.press("TAB", "ARROW_DOWN")
    assert_is_told(browser, classifier, 1, 3, 3, 1, patch)
    assert_is_shown(browser, classifier, 1, 3, 3, 1, patch)


def test_a_block_offers_its_own_layers_and_keeps_what_it_can(browser, classifier):
    browser.open(classifier.file)
    offered = []
    for block in range(3):
        browser.choose("block", str(block))
        offered.append([len(browser.elements(f"#{name} option")) for name in ("layer", "head")])
    assert offered == [[2, 5], [4, 5], [3, 5]]
    browser.choose("block", "1")
    browser.choose("layer", "3")
    browser.choose("head", "2")
    browser.choose("block", "0")  # which has no fourth layer
    assert_is_told(browser, classifier, 0, 0, 2, 0, patch_of(browser))


def test_the_chosen_patch_stays_in_its_place_when_the_grid_changes(browser, classifier):
    browser.open(classifier.file)
    hover(browser, classifier.grid(0), (3, 0))
    browser.hover(browser.element("h1"))
    for block, patch in [(1, (1, 0)), (2, (0, 0)), (0, (3, 0))]:
        browser.choose("block", str(block))
        assert patch_of(browser) == patch


def test_a_screen_reader_is_told_what_is_attended_to(browser, classifier):
    browser.open(classifier.file)
    hover(browser, classifier.grid(0), (1, 2))
    nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    (field,) = [node for node in nodes if not node["ignored"] and node["role"]["value"] == "application"]
    assert field["description"]["value"] == browser.element("#attended").text
    (status,) = [node for node in nodes if not node["ignored"] and node["role"]["value"] == "status"]
    assert {"name": "live", "value": {"type": "token", "value": "polite"}} in status["properties"]


def test_what_was_chosen_holds_for_who_comes_back(browser, classifier):
    browser.open(classifier.file)
    choose(browser, 1, 2, 3, 1)
    browser.driver.get("about:blank")
    browser.driver.back()
    kept = [browser.element(f"#{name}").get_property("value") for name in ("block", "layer", "head")]
    position = int(browser.element("input[name=position]:checked").get_property("value"))
    head = None if kept[2] == "mean" else int(kept[2])
    assert_is_told(browser, classifier, int(kept[0]), int(kept[1]), head, position, patch_of(browser))
