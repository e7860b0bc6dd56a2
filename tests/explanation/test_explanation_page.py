"""The page: what a parser finds in it. What it does in a browser is tested in tests/browser."""

import base64
import dataclasses
import hashlib
import json
import os
import re
from io import BytesIO

import numpy as np
import pytest
from commandline import ROOT
from networks import VARIANTS, make_model, tiny
from pages import Page as Parsed
from PIL import Image

import npmobilevit as nm
from npmobilevit.explanation.evidence import Occlusion
from npmobilevit.explanation.page import packed, to_html
from npmobilevit.pipeline import Pipeline

IMAGES = ROOT / "reference" / "images"
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "p", "h1", "h2", "h3", "nav", "ul", "li", "main",
    "section", "div", "figure", "img", "figcaption", "table", "thead", "tbody", "tr", "th", "td", "span", "i", "strong",
    "em", "label", "select", "option", "canvas", "fieldset", "legend", "input", "output", "footer", "script",
}  # fmt: skip
HOSTILE = ["<script>alert(1)</script>", '" onload="x', "$lead ${title}", "\ud800\x00\u202e", "&lt;b&gt;", "é" * 300]


class ParsedPage(Parsed):
    void = frozenset({"meta", "input", "img"})

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def by_id(self, name):
        (element,) = [element for element in self.elements if element[1].get("id") == name]
        return element


def made_pipeline(head, *, crop=64, name="made", **changes):
    settings = {"size": {"shortest_edge": crop + 8}, "crop_size": {"height": crop, "width": crop}}
    model = make_model(head, tiny(**changes), precision="float32", engine="fast")
    return Pipeline(name, model, nm.MobileViTImageProcessor(**settings))


PIPELINES = {
    "classifier": lambda **changes: made_pipeline("classification", **changes),
    "segmenter": lambda **changes: made_pipeline("segmentation", output_stride=16, **changes),
}


@pytest.fixture(scope="module", params=PIPELINES)
def made(request):
    return nm.explain(IMAGES / "chelsea.png", PIPELINES[request.param]())


@pytest.fixture(scope="module")
def classified():
    return nm.explain(IMAGES / "chelsea.png", "cifar10-xx-small")


@pytest.fixture(scope="module")
def segmented():
    return nm.explain(IMAGES / "street.png", made_pipeline("segmentation", output_stride=8))


# any page


def test_the_page_is_well_formed_ascii_of_known_elements(made):
    made.html.encode("ascii")
    assert made.html.startswith("<!DOCTYPE html>\n<html lang=")
    found = ParsedPage(made.html)
    assert {tag for tag, _, _ in found.elements} == ALLOWED
    assert [found.all(tag)[0][1].get("lang") for tag in ("html",)] == ["en"]
    ids = [attributes["id"] for _, attributes, _ in found.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert "$" not in re.sub(r"<script.*?</script>", "", made.html, flags=re.DOTALL)


def test_the_page_loads_nothing(made):
    found = ParsedPage(made.html)
    ids = {attributes.get("id") for _, attributes, _ in found.elements}
    for tag, attributes, _ in found.elements:
        assert not {"srcset", "action", "xlink:href", "ping", "formaction"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        if "href" in attributes:
            assert tag == "a"
            assert attributes["href"].startswith("#")
            assert attributes["href"][1:] in ids
        if "src" in attributes:
            assert tag == "img"
            assert re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*$", attributes["src"])
            Image.open(BytesIO(base64.b64decode(attributes["src"].partition(",")[2]))).load()
        assert "url(" not in attributes.get("style", "")
    (style,), (data, script) = found.texts("style"), found.texts("script")
    assert re.findall(r"url\((.{10})", style) == ["data:image"]
    assert "@import" not in style
    assert not re.search(r"\b(https?|file|wss?)://", made.html)
    assert not re.search(r"fetch|XMLHttp|import|innerHTML|document\.write|eval|WebSocket|localStorage", script)
    json.loads(data)


def test_a_browser_is_told_to_load_nothing_and_to_run_this_script_only(made):
    found = ParsedPage(made.html)
    (policy,) = [a["content"] for _, a, _ in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(found.texts("script")[-1].encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
        "base-uri 'none'",
    ]
    assert [a.get("type") for _, a, _ in found.all("script")] == ["application/json", None]


def test_the_page_says_what_made_it(made):
    assert f"Made by npmobilevit {nm.__version__}. " in made.html


def test_the_page_can_be_read_without_seeing_it(made):
    """Every picture has words, every section and control a name, and headings follow each other."""
    found = ParsedPage(made.html)
    assert all(attributes.get("alt") for _, attributes, _ in found.all("img"))
    for _, attributes, _ in found.all("section"):
        assert found.by_id(attributes["aria-labelledby"])[2]
    for _, attributes, _ in found.all("canvas"):
        assert attributes["aria-hidden"] == "true"
    assert [tag for tag, _, _ in found.elements if tag in ("header", "main", "footer", "nav", "h1")] == [
        "header", "h1", "nav", "main", "footer",
    ]  # fmt: skip
    labels = [text for text in found.texts("label") if text.strip()]
    assert [text.split()[0] for text in labels[:3]] == ["Block", "Transformer", "Head"]
    assert found.by_id("attended")[1]["aria-live"] == "polite"
    assert found.by_id("map")[1]["tabindex"] == "0"
    assert found.by_id("map")[1]["aria-label"]
    assert all(attributes.get("scope") in ("col", "row") for _, attributes, _ in found.all("th"))


def test_the_page_is_whole_without_its_script(made):
    found = ParsedPage(made.html)
    assert "hidden" in found.by_id("attention-live")[1]
    assert "hidden" not in found.by_id("attention-static")[1]
    sheets = re.search(r'<div id="attention-static">.*?</div>', made.html, re.DOTALL)[0]
    assert sheets.count("<img") == 3


def numbers(data, block):
    """Attention (T, O, h, Q, K) from the page's data, as its script reads it."""
    layers = []
    for layer in block["layers"]:
        peaks = np.frombuffer(base64.b64decode(layer["peaks"]), "<u2")
        halves = np.frombuffer(base64.b64decode(layer["levels"]), np.uint8)
        levels = np.stack([halves & 15, halves >> 4], axis=-1).ravel()
        rows = (peaks / 65535) ** 2
        keys = -(-block["rows"] // block["keyStep"]) * -(-block["columns"] // block["keyStep"])
        layers.append(rows[:, np.newaxis] * (levels[: len(rows) * keys].reshape(-1, keys) / 15) ** 2)
    layers = np.stack(layers)
    return layers.reshape(len(layers), len(block["offsets"]), block["heads"], -1, layers.shape[-1])


def test_the_script_is_given_the_attention_of_the_network(made):
    data = json.loads(ParsedPage(made.html).by_id("attention-data")[2])
    assert len(data["blocks"]) == 3
    for given, block in zip(data["blocks"], made.evidence.attention, strict=True):
        assert (given["rows"], given["columns"]) == block.patches
        assert [tuple(offset) for offset in given["offsets"]] == block.offsets
        np.testing.assert_allclose(numbers(data, given), block.probabilities(), rtol=1e-12)
    assert set(data) == {"colours", "blocks"}


def test_attention_from_the_picture_to_the_page(classified):
    """From the data in the page to the taps of the model, with the tolerance that the page states: 16 steps."""
    pipeline = nm.load("cifar10-xx-small", engine="reference")
    data = json.loads(ParsedPage(classified.html).by_id("attention-data")[2])
    names = [f"mobilevit.encoder.layer.2.transformer.layer.{i}.attention.attention.probs" for i in range(2)]
    taps = pipeline.network.taps(pipeline.pixel_values(IMAGES / "chelsea.png"), names)
    expected = np.stack([taps[name] for name in names])
    found = numbers(data, data["blocks"][0])
    largest = np.sqrt(expected.max(axis=-1, keepdims=True))
    assert np.all(np.abs(np.sqrt(found) - np.sqrt(expected)) <= largest / 30 + 2e-5)


def test_an_odd_number_of_levels_is_packed():
    assert packed(np.array([[1, 2, 15]], np.uint8)) == bytes([0x21, 0x0F])


def test_all_but_the_times_is_equal_for_equal_input():
    def pieces(page):
        return re.split(r'<section id="time".*?</section>', page.html, flags=re.DOTALL)

    one, other = (nm.explain(IMAGES / "coffee.png", made_pipeline("classification")) for _ in range(2))
    assert len(pieces(one)) == 2
    assert pieces(one) == pieces(other)


# what stands there


def test_the_page_of_a_classifier(classified):
    found = ParsedPage(classified.html)
    assert found.texts("title") == found.texts("h1") == ["What cifar10-xx-small makes of chelsea.png"]
    assert "cat" in found.texts("strong")
    rows = re.findall(r"<tr>.*?</tr>", re.search(r'<table id="predictions">.*?</table>', classified.html, re.DOTALL)[0])
    assert len(rows) == 1 + 5
    for row, prediction in zip(rows[1:], classified.evidence.predictions, strict=True):
        assert prediction.label in row
        assert f"{prediction.score:.1%}" in row
        assert f"width: {100 * prediction.score:.2f}%" in row
    photo = next(a for _, a, _ in found.all("img") if a["alt"] == "The picture as the network sees it")
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(photo["src"].partition(",")[2]))).convert("RGB"))
    np.testing.assert_array_equal(pixels, classified.evidence.seen)
    assert "the middle of the picture of 300 × 451 (height × width), resized to 64 × 96" in found.by_id("photo")[2]
    fall = classified.evidence.occlusion.fall
    row, column = np.unravel_index(fall.argmax(), fall.shape)
    assert f"at row {row + 1}, column {column + 1} of 8 × 8 places" in found.by_id("occlusion")[2]
    assert "a grey patch of\n16 × 16 pixels, in steps of 8, at 64 places" in found.by_id("occlusion")[2]
    assert not {"mask", "classes", "probabilities"} & {a.get("id") for _, a, _ in found.elements}


def test_the_page_of_a_segmenter(segmented):
    page, found = segmented, ParsedPage(segmented.html)
    classes, maps = found.by_id("classes")[2], found.by_id("probabilities")[2]
    assert len(page.evidence.segmentation.classes) > 2
    for present in page.evidence.segmentation.classes:
        assert f"{present.name}{present.share:.1%}{present.probability:.2f}" in classes
        assert f"{present.name}{present.share:.1%} of the picture" in maps
    assert not {"occlusion", "predictions"} & {a.get("id") for _, a, _ in found.elements}


def test_the_page_says_what_was_joined_and_what_was_left_out(monkeypatch):
    monkeypatch.setattr("npmobilevit.explanation.evidence.occlude", lambda *_: Occlusion(36, 72, np.zeros((8, 8))))
    big = nm.explain(IMAGES / "coffee.png", made_pipeline("classification", crop=288))
    text = ParsedPage(big.html).by_id("attention")[2]
    assert "groups of up to 2 × 2 patches of encoder layer 2 are shown together, as they attend to groups" in text
    assert text.count("To keep this file small") == 1
    large_patches = nm.explain(IMAGES / "coffee.png", made_pipeline("classification", patch_size=5))
    assert "Of 25 positions in a patch, 16 are shown." in ParsedPage(large_patches.html).by_id("attention")[2]


def lead(page, share):
    """The first sentence about a segmenter whose largest class has this share."""
    (largest, *_) = page.evidence.segmentation.classes
    segmentation = dataclasses.replace(page.evidence.segmentation, classes=(largest._replace(share=share),))
    html = to_html(dataclasses.replace(page.evidence, segmentation=segmentation))
    return re.findall(r'<p class="lead">(.*?)</p>', html, re.DOTALL)[0]


@pytest.mark.parametrize("share", [0.48, 0.9])
def test_the_lead_of_a_segmenter_names_the_largest_share(segmented, share):
    """Which need not be most of the picture."""
    name = segmented.evidence.segmentation.classes[0].name
    expected = f"It names a class for every pixel; the largest share of the picture, {share:.1%}, is"
    assert lead(segmented, share).startswith(f"{expected} <strong>{name}</strong>. ")


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "0.0%"), (0.0004, "&lt; 0.1%"), (0.0006, "0.1%"), (0.004, "0.4%"), (1, "100.0%")]
)
def test_a_share_that_is_there_does_not_vanish(segmented, share, shown):
    assert f", {shown}, is" in lead(segmented, share)


def styles(style):
    return {name.strip(): value.strip() for name, _, value in (part.partition(":") for part in style.split(";"))}


def test_the_map_of_covered_places_lies_on_the_picture(classified):
    """Its last row and column reach beyond, as the picture of 60 x 100 pixels ends within them."""
    evidence = dataclasses.replace(
        classified.evidence, seen=np.zeros((60, 100, 3), np.uint8), occlusion=Occlusion(13, 26, np.zeros((5, 8)))
    )
    found = ParsedPage(to_html(evidence))
    (style,) = [a["style"] for _, a, _ in found.all("img") if a["alt"].startswith("Red where covering")]
    assert styles(style) == {"width": "104.000%", "height": "108.333%"}  # 8 x 13 of 100, 5 x 13 of 60


def test_the_table_of_times_tells_transformers_from_the_rest(classified):
    """A row for each part: its seconds and its multiply-accumulates over all, and a bar of two pieces."""
    numbers = [(0.5, 0.125, 30), (1.5, 0.0, 10)]
    stages = [
        dataclasses.replace(stage, seconds=seconds, transformer_seconds=within, macs=macs)
        for stage, (seconds, within, macs) in zip(classified.evidence.stages, numbers, strict=False)
    ]
    page = to_html(dataclasses.replace(classified.evidence, stages=stages))
    section = re.search(r'<section id="time".*?</section>', page, re.DOTALL)[0]
    assert "took 2000 ms" in section
    found = ParsedPage(re.search(r"<tbody>.*</tbody>", section, re.DOTALL)[0])
    bars = [styles(a["style"])["width"] for _, a, _ in found.all("i")]
    assert bars == ["18.75%", "6.25%", "75.00%", "0.00%"]
    texts = [re.sub("<.*?>", " ", row).split()[-3:] for row in re.findall(r"<tr>.*?</tr>", section, re.DOTALL)[1:]]
    assert texts == [["500.0", "25.0%", "75.0%"], ["1500.0", "75.0%", "25.0%"]]
    keys = re.search(r'<p class="keys soft">.*?</p>', section, re.DOTALL)[0]
    assert keys.index('class="key"') < keys.index("convolutions and the rest") < keys.index('class="key second"')


def test_the_page_says_whether_the_times_are_those_of_the_pass_that_was_looked_at(made):
    def words(timed_apart, passes=1):
        page = to_html(dataclasses.replace(made.evidence, timed_apart=timed_apart, timed_passes=passes))
        return re.search(r'<section id="time".*?</section>', page, re.DOTALL)[0]

    said = "As that takes long, it was done once: these are the times of the pass whose values are shown above, without"
    assert said in words(timed_apart=False)
    assert "done once" not in words(timed_apart=True)
    assert words(timed_apart=True).count("(MACs). Whatever else the machine did") == 1
    assert "the fastest" not in words(timed_apart=True)
    assert "of the readable network, the fastest of 4, took" in words(timed_apart=True, passes=4)


@pytest.mark.parametrize(
    ("height", "width", "ratio", "squeezed"),
    [
        (60, 360, "360 / 60", False),
        (360, 60, "60 / 360", False),
        (60, 420, "360 / 60", True),
        (420, 60, "60 / 360", True),
    ],
)
def test_a_very_long_picture_is_squeezed_and_the_page_says_so(classified, height, width, ratio, squeezed):
    page = to_html(dataclasses.replace(classified.evidence, seen=np.zeros((height, width, 3), np.uint8)))
    assert f"--ratio: {ratio};" in page
    assert ("squeezed, on this page, to 6 times as long as wide" in page) == squeezed
    assert f"{height} &#215; {width} pixels" in page


def test_the_classes_with_the_smallest_shares_are_left_out(segmented):
    evidence = segmented.evidence
    classes = evidence.segmentation.classes
    shown = to_html(dataclasses.replace(evidence, class_maps=evidence.class_maps[:2]))
    assert f"The {len(classes) - 2} classes with the smallest shares are left out." in shown
    assert "left out" not in to_html(evidence)


def test_where_covering_never_hurts_the_page_says_so(classified):
    occlusion = dataclasses.replace(classified.evidence.occlusion, fall=-np.abs(classified.evidence.occlusion.fall))
    assert "Nowhere does covering make it smaller." in to_html(
        dataclasses.replace(classified.evidence, occlusion=occlusion)
    )


@pytest.mark.case("169", "explain: labels and model names that are markup", "shown as text; no element, no script")
@pytest.mark.parametrize("kind", PIPELINES)
def test_hostile_names_are_shown_and_do_nothing(kind):
    pipeline = PIPELINES[kind](name=HOSTILE[0], num_labels=None, id2label=dict(enumerate(HOSTILE)))
    page = nm.explain(IMAGES / "chelsea.png", pipeline)
    found = ParsedPage(page.html)
    assert {tag for tag, _, _ in found.elements} == ALLOWED
    assert len(found.all("script")) == 2
    assert found.texts("title") == [f"What {HOSTILE[0]} makes of chelsea.png"]
    table = found.by_id("predictions" if kind == "classifier" else "classes")[2]
    shown = (
        [p.label for p in page.evidence.predictions]
        if kind == "classifier"
        else [c.name for c in page.evidence.segmentation.classes]
    )
    assert len(shown) >= 3
    for name in shown:
        expected = name if name.isprintable() else "\ufffd" * 3
        assert (expected if len(name) <= 120 else f"{name[:117]}...") in table
    assert not [name for _, attributes, _ in found.elements for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("name", [*HOSTILE, "a.png' onload='x", "$" * 200, " ", "</title></h1><img>"])
def test_a_hostile_name_of_a_picture_is_text(classified, name):
    found = ParsedPage(to_html(dataclasses.replace(classified.evidence, picture_name=name)))
    assert {tag for tag, _, _ in found.elements} == ALLOWED
    assert [len(found.all(tag)) for tag in ("script", "title", "h1")] == [2, 1, 1]
    expected = name if name.isprintable() else "\ufffd" * 3
    expected = expected if len(name) <= 120 else f"{name[:117]}..."
    assert found.texts("title") == found.texts("h1") == [f"What cifar10-xx-small makes of {expected}"]
    assert not [key for _, attributes, _ in found.elements for key in attributes if key.startswith("on")]


def test_a_picture_without_a_name_is_a_picture(classified):
    found = ParsedPage(to_html(dataclasses.replace(classified.evidence, picture_name=None)))
    assert found.texts("title") == found.texts("h1") == ["What cifar10-xx-small makes of a picture"]


def test_a_block_of_one_patch_says_that_it_attends_to_itself(classified):
    options = ParsedPage(classified.html).texts("option")
    assert options == [
        "encoder layer 2: 4 \u00d7 4 patches",
        "encoder layer 3: 2 \u00d7 2 patches",
        "encoder layer 4: 1 \u00d7 1 patch, which attends to itself",
    ]


# size


def seen_large(head, settings, size):
    config = nm.MobileViTConfig(**settings)
    picture = np.random.default_rng(0).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    image = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
    processor = nm.MobileViTImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_center_crop=False
    )
    return nm.explain(image, Pipeline("large", make_model(head, config, precision="float32", engine="fast"), processor))


@pytest.mark.parametrize(
    ("head", "settings", "size", "at_least"),
    [
        ("classification", {**VARIANTS["s"], "num_labels": 1000}, 256, 1_500_000),
        ("segmentation", {**VARIANTS["xxs"], "num_labels": 21, "output_stride": 16}, 512, 1_500_000),
    ],
)
def test_the_page_of_a_large_network_has_less_than_three_megabytes(monkeypatch, head, settings, size, at_least):
    """It is timed once, and falls are made up, for they take time and no bytes."""
    module, falls = "npmobilevit.explanation.evidence", np.linspace(-1, 1, 64).reshape(8, 8)
    monkeypatch.setattr(f"{module}.TIMED_SECONDS", 0)
    monkeypatch.setattr(f"{module}.occlude", lambda *_: Occlusion(32, 64, falls))
    page = seen_large(head, settings, size)
    print(f"{head}: {len(page.html):,} bytes")
    assert at_least < len(page.html) < 3_000_000


# saving


def test_a_page_is_saved_whole(classified, tmp_path):
    path = tmp_path / "new" / "page.html"
    classified.save(path)
    assert path.read_text(encoding="ascii") == classified.html
    classified.save(os.fspath(path))
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


@pytest.mark.case("170", "explain: a page that cannot be written", "ImageError, and nothing half-written")
@pytest.mark.parametrize("name", ["", "a\0b", "x" * 300])
def test_a_page_that_cannot_be_written_is_one_of_our_errors(classified, tmp_path, name):
    with pytest.raises(nm.ImageError) as caught:
        classified.save(f"{tmp_path}/{name}" if name else tmp_path)
    assert caught.value.code == "page-unwritable"
    assert not list(tmp_path.iterdir())


def test_a_page_says_what_it_is(classified):
    assert (
        repr(classified)
        == f"<Page of {len(classified.html):,} bytes: <Evidence of cifar10-xx-small at 64 x 64 pixels>>"
    )


def test_in_a_notebook_the_page_stands_in_a_frame(classified):
    found = ParsedPage(classified._repr_html_())
    ((tag, attributes, _),) = found.elements
    assert (tag, attributes["sandbox"]) == ("iframe", "allow-scripts")
    assert attributes["srcdoc"] == classified.html


# errors


def test_errors():
    with pytest.raises(nm.ImageError):
        nm.explain("no/such/picture.png", "cifar10-xx-small")
    with pytest.raises(nm.ImageError):
        nm.explain([IMAGES / "chelsea.png"], "cifar10-xx-small")
    with pytest.raises(nm.CheckpointError):
        nm.explain(IMAGES / "chelsea.png", "./no-such-folder")
    with pytest.raises(TypeError, match=r"explain\(\) got an unexpected keyword argument 'top_k'"):
        nm.explain(IMAGES / "chelsea.png", "cifar10-xx-small", top_k=3)
    with pytest.raises(nm.ConfigError):
        nm.explain(IMAGES / "chelsea.png", "cifar10-xx-small", background="no colour")
