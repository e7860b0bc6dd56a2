"""The page and the fragment: what a parser finds in them."""

import base64
import hashlib
import math
import re

import made_reports as made
import pytest
from made_reports import EXACT, HOSTILE, KINDS, failure, judgement, report, wrong
from pages import Page

from npmobilevit.validation import texts

ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "main", "dl", "dt", "dd",
    "section", "article", "a", "code", "span", "ul", "li", "div", "label", "select", "option", "input", "output",
    "svg", "defs", "g", "circle", "path", "rect", "line", "use", "text", "table", "thead", "tbody", "tr", "th", "td",
    "b", "wbr", "footer", "script",
}  # fmt: skip

every_kind = pytest.mark.parametrize("kind", KINDS)


class ReportPage(Page):
    void = frozenset({"meta", "input", "wbr", "circle", "path", "rect", "line", "use"})

    def handle_startendtag(self, tag, attrs):
        assert tag in self.void
        self.handle_starttag(tag, attrs)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def all(self, tag, name=None):
        return [entry for entry in super().all(tag) if name is None or name in entry[1].get("class", "").split()]

    def texts(self, tag, name=None):
        return [text for _, _, text in self.all(tag, name)]

    def within(self, element):
        """The elements below one, by its place in the document."""
        start = next(i for i, other in enumerate(self.elements) if other is element)
        same = [i for i, other in enumerate(self.elements) if other[0] == element[0] and i > start]
        return self.elements[start + 1 : same[0] if same else None]


def page(given):
    return ReportPage(given.to_html())


def row_of(given, tap):
    """The row of a tap, and what is below it."""
    found = page(given)
    index = next(i for i, layer in enumerate(given.judgements) if layer.tap == tap)
    (row,) = [element for element in found.all("tr") if element[1].get("id") == f"t{index}"]
    return row, found.within(row)


def cells(given, tap):
    return [text for tag, _, text in row_of(given, tap)[1] if tag == "td"]


# any page


@every_kind
def test_the_page_is_well_formed_and_of_known_elements(kind):
    source = KINDS[kind]().to_html()
    assert source.isascii()
    assert source.startswith("<!DOCTYPE html>\n<html lang")
    assert {tag for tag, _, _ in ReportPage(source).elements} <= ALLOWED
    ids = [attributes["id"] for _, attributes, _ in ReportPage(source).elements if "id" in attributes]
    assert len(ids) == len(set(ids))


@every_kind
def test_the_page_needs_nothing_else_and_runs_nothing_of_the_port(kind):
    found = page(KINDS[kind]())
    ids = {attributes.get("id") for _, attributes, _ in found.elements}
    for tag, attributes, _ in found.elements:
        assert not {"src", "srcset", "action", "style", "xlink:href"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        if "href" in attributes:
            assert tag in ("a", "use")
            assert attributes["href"].startswith("#")
            assert attributes["href"][1:] in ids
    (style,), (script,) = found.texts("style"), found.texts("script")
    assert not re.search(r"url\(|@import|https?:", style)
    assert not re.search(r"https?:|fetch|XMLHttp|import|innerHTML|document\.write|eval", script)
    assert (style, script) == (page(report()).texts("style")[0], page(report()).texts("script")[0])


def test_a_browser_is_told_to_load_nothing_and_to_run_this_script_only():
    found = page(made.hostile())
    (policy,) = [a["content"] for _, a, _ in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(found.texts("script")[0].encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'", "base-uri 'none'",
    ]  # fmt: skip


def test_hostile_names_are_shown_as_they_are_and_do_nothing():
    found = page(made.hostile())
    assert [row[1]["id"] for row in found.all("tr")[1:]] == [f"t{i}" for i in range(len(HOSTILE))]
    for name, card in zip(HOSTILE, found.texts("article"), strict=True):
        shown = texts.printable(name)
        message, cause = (texts.printable(text, texts.MESSAGE_LENGTH) for text in (name, f"Cause: {name}"))
        assert card.startswith(f"{shown}{shown}{message}{cause}at [0, ")
    assert found.texts("title") == [f"FAIL: a port of {HOSTILE[0]}"]
    assert "$reason ${style} {name}" in found.texts("article")[3]
    assert len(found.all("script")) == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_name_stands_in_the_page_unescaped(name):
    given = made.hostile()
    for source in (given.to_html(), given._repr_html_()):
        if set(name) & set("<>&\"'\n\x00\u202e\ud800\U0001f600"):
            assert name not in source
    assert "<img" not in given.to_html()


def test_a_page_of_all_layers_is_small():
    names = [f"mobilevit.encoder.layer.4.transformer.layer.1.attention.attention.query{i}" for i in range(310)]
    honest = report([judgement(name) for name in names])
    assert len(honest.to_html()) < 400_000
    assert len(made.crowded().to_html()) < 400_000


# what it says


@pytest.mark.parametrize("kind", ["mixed", "pass", "screened"])
def test_the_banner_has_the_verdict_and_the_reason(kind):
    given = KINDS[kind]()
    found = page(given)
    assert found.texts("header", given.verdict) == [f"\n{given.verdict.upper()}\n{texts.reason(given)}\n"]
    assert found.texts("title") == [f"{given.verdict.upper()}: a port of a/model"]
    assert f"\n.{given.verdict}" in found.texts("style")[0] or f", .{given.verdict}" in found.texts("style")[0]


def test_the_facts_are_those_of_the_text():
    found = page(made.mixed())
    assert list(zip(found.texts("dt"), found.texts("dd"), strict=True)) == list(texts.facts(made.mixed()))
    assert "declared fp32, behaves as tf32" in found.texts("dd")


def test_failures_are_cards_with_their_numbers_and_a_link_to_their_row():
    found = page(made.mixed())
    given = made.mixed()
    assert found.texts("h2") == ["Wrong (2)", "Unusual (1)", "Notes (1)", "Layers", "Not checked (5 taps)"]
    cards = found.all("article")
    assert [card[1]["class"] for card in cards] == ["card wrong", "card wrong", "card unusual", "card note"]
    assert found.texts("h3") == ["attentionerror", "foldederror", "normscreen", "stemlayout"]
    assert [a["href"] for _, a, _ in found.all("a")] == ["#t1", "#t3", "#t4", "#t0"]
    assert [text for tag, _, text in found.within(cards[0]) if tag == "li"] == texts.details(given.judgements[1])
    assert "Cause: head-count" in cards[0][2]
    assert "Cause: unknown" in cards[1][2]
    assert "Cause" not in cards[2][2]
    assert cards[3][2] == "stemlayoutIt was given as NHWC."


def test_causes_are_cards_before_all_others():
    found = page(made.explained())
    assert found.texts("h2")[:2] == ["Causes (2)", "Wrong (5)"]
    cards = found.texts("article")
    assert cards[:2] == [
        "ATT-05-order"
        "key and query are swapped; expected the order query, key, value."
        "What follows: Tokens look for something else than they should."
        "Fix: Pack query, key and value in the order in which they are cut apart."
        "at 2 taps: query, key",
        "NRM-05"
        "eps 1e-06; expected 1e-05."
        "What follows: Flat tokens are too large."
        "Fix: Use layer_norm_eps of config.json."
        "at 1 tap: norm",
    ]
    assert len(cards) == 2 + 5


def test_each_card_has_its_cause_or_what_is_nearest():
    given = made.explained()
    found = page(given)
    told = [[text for tag, _, text in found.within(card) if tag == "p"][:2] for card in found.all("article")[2:]]
    for paragraphs, finding in zip(told, given.findings, strict=True):
        (cause,) = texts.causes_of(finding)
        assert paragraphs == ["It is not what it should be.", f"C{cause.removeprefix('c')}"]


def test_descriptions_of_mistakes_are_text_whatever_they_hold():
    given = made.explained_by_anything()
    for source in (given.to_html(), given._repr_html_()):
        assert source.isascii()
        for name in HOSTILE:
            if set(name) & set("<>&\"'\n\x00\u202e\ud800\U0001f600"):
                assert name not in source
    assert len(page(given).all("script")) == 1


def test_a_finding_without_a_row_has_no_link():
    found = page(report([], [failure("mask", kind="mask")]))
    assert found.texts("article") == ["maskmaskIt is not what it should be."]
    assert not found.all("a")
    assert not found.all("table")


@pytest.mark.parametrize(("many", "counted"), [(60, False), (61, True)])
def test_many_cards_are_cut_and_counted(many, counted):
    found = page(report([], [failure(f"t{i}") for i in range(many)]))
    assert len(found.all("article")) == 60
    assert ("and 1 more; the JSON has all" in found.texts("p")) == counted


def test_what_was_not_given_is_grouped():
    assert page(made.mixed()).texts("ul")[-1] == "".join(
        [
            "1 within regions judged right: value",
            "1 within regions that were only screened: pool",
            "2 within regions judged wrong: query, key",
            "1 in no region that was judged: mask",
        ]
    )
    assert page(made.crowded()).texts("ul")[-1].endswith("missing6, missing7 and 1992 more")


# layers


def test_every_tap_has_a_row_in_forward_order_with_sign_and_word():
    given = made.mixed()
    rows = page(given).all("tr")[1:]
    assert [row[1]["class"] for row in rows] == [layer.status for layer in given.judgements]
    assert all(row[1]["tabindex"] == "0" for row in rows)
    assert cells(given, "stem") == ["\u2713 right", "local", "", "0.1", "5e-07", "2e-05"]
    assert cells(given, "norm") == ["\u25b2 unusual", "local", "", "0.5", "5e-07", "2e-05"]
    assert cells(given, "folded") == ["\u2715 wrong", "exact", "", "inf", "0.25", "0"]
    assert cells(given, "logits")[:2] == ["\u2713 right", "screened"]


def test_a_row_has_its_numbers_to_be_shown_when_it_is_pointed_at_or_focused():
    given = made.mixed()
    _, below = row_of(given, "attention")
    (numbers,) = [text for tag, a, text in below if tag == "div" and a["class"] == "numbers"]
    assert numbers == "attention 1 \u00d7 2 \u00d7 3" + "".join(texts.details(given.judgements[1]))
    (style,) = page(given).texts("style")
    assert "tr:hover .numbers, tr:focus .numbers { display: block; }" in style


def test_rows_know_their_place_from_the_worst_to_the_best():
    layers = [
        judgement("right", ratio=0.5),
        judgement("unusual", ratio=0.2, status="unusual"),
        wrong("wrong", ratio=2.0),
        judgement("zero", ratio=0.0),
        wrong("nan", ratio=math.nan),
        wrong("wronger", ratio=30.0),
        wrong("infinite", ratio=math.inf),
        judgement("equal", ratio=0.5),
    ]
    rows = page(report(layers)).all("tr")[1:]
    order = sorted(range(len(layers)), key=lambda i: int(rows[i][1]["data-rank"]))
    assert [layers[i].tap for i in order] == [
        "nan", "infinite", "wronger", "wrong", "unusual", "right", "equal", "zero",
    ]  # fmt: skip
    assert sorted(int(row[1]["data-rank"]) for row in rows) == list(range(8))


def drawn(given, tap):
    """Places in a tap's bar, in percent: its end, the usual rounding, what would have been caught; and the shape."""
    _, below = row_of(given, tap)
    (extent,) = [a for tag, a, _ in below if tag == "rect"]
    usual = [percent(a["x1"]) for tag, a, _ in below if tag == "line" and a["class"] == "usual"]
    shapes, place = {}, None
    for tag, attributes, _ in below:
        place = attributes["x"] if tag == "svg" and "x" in attributes else place
        if tag == "use" and place is not None:
            shapes[attributes["href"]] = percent(place)
    caught = shapes.pop("#caught", None)
    ((shape, end),) = shapes.items()
    assert percent(extent["width"]) == end
    return end, usual[0] if usual else None, caught, shape


def percent(text):
    assert text.endswith("%")
    value = float(text[:-1])
    assert 0 <= value <= 100
    return value


def labels(given):
    """Label of each decade and its place in percent."""
    return {text: percent(a["x"]) for _, a, text in page(given).all("text")}


def test_bars_lie_on_a_log_scale_with_the_tolerance_at_1():
    given = report([
        judgement("tenth", ratio=0.1, screen=0.5, tolerance=1e-5, resolution=1e-4),
        wrong("wrong", ratio=100.0, screen=1000.0, tolerance=1e-5, resolution=1e-5),
    ])  # fmt: skip
    scale = labels(given)
    assert scale == {"0.001": 0.0, "0.01": 20.0, "0.1": 40.0, "1": 60.0, "10": 80.0, "100": 100.0}
    usual = round(100 * (math.log10(0.2) + 3) / 5, 1)
    assert drawn(given, "tenth") == (scale["0.1"], usual, scale["10"], "#end-right")
    assert drawn(given, "wrong") == (scale["100"], scale["0.1"], scale["1"], "#end-wrong")
    (limit,) = [a for _, a, _ in page(given).all("line", "limit") if "%" in a["x1"]]
    assert percent(limit["x1"]) == scale["1"]
    assert len([a for _, a, _ in page(given).all("line", "grid")]) == len(scale) - 1


def test_what_is_infinite_or_no_number_ends_at_the_border():
    given = made.not_finite()
    for tap in ("odd0", "none", "all"):
        assert drawn(given, tap)[::3] == (100.0, "#end-wrong")
    assert drawn(given, "zero")[:2] == (0.0, None)
    assert drawn(given, "none")[1:3] == (None, None)
    assert drawn(given, "all")[1:3] == (None, None)


def test_marks_that_lie_nowhere_are_left_out():
    given = report([judgement("a", resolution=math.inf, screen=math.inf), judgement("b", resolution=0.0, screen=0.0)])
    assert drawn(given, "a")[1:3] == drawn(given, "b")[1:3] == (None, None)


def test_exact_tests_have_no_marks():
    assert drawn(made.mixed(), "unfolded") == (0.0, None, None, "#end-right")
    assert drawn(made.mixed(), "folded") == (100.0, None, None, "#end-wrong")


def test_the_scale_has_no_more_decades_and_labels_than_can_be_read():
    given = report([judgement("tiny", ratio=1e-300), wrong("huge", ratio=1e300)])
    scale = labels(given)
    assert set(scale) == {"1e-6", "0.001", "1", "1000", "1e6"}
    assert scale["1"] == 50.0
    assert drawn(given, "tiny")[0] == 0.0
    assert drawn(given, "huge")[0] == 100.0


def test_the_tools_are_there_for_the_script_and_hidden_without_it():
    found = page(made.mixed())
    ids = {attributes["id"]: attributes for _, attributes, _ in found.elements if "id" in attributes}
    assert "hidden" in ids["tools"]
    (script,) = found.texts("script")
    named = set(re.findall(r'getElementById\("(\w+)"\)', script)) | set(re.findall(r'\["order".*?\]', script))
    assert named == {"tools", '["order", "filter", "shown"]'}
    assert {"tools", "order", "filter", "shown", "layers"} <= set(ids)
    assert [a["value"] for _, a, _ in found.all("option")] == ["forward", "worst"]


def test_colours_follow_the_theme_and_paper_needs_none():
    (style,) = page(made.mixed()).texts("style")
    assert "@media (prefers-color-scheme: dark)" in style
    assert "@media print" in style
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= set(re.findall(r"(--[\w-]+):", style))


def contrast(a, b):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_is_readable_in_both_themes(theme):
    (style,) = page(report()).texts("style")
    colours = dict(re.findall(r"(--\w+): (#[0-9a-f]{6});", style.split(":root")[theme + 1]))
    for state in ("--right", "--unusual", "--wrong", "--ink", "--soft"):
        assert contrast(colours[state], colours["--paper"]) >= 4.5
        assert contrast(colours[state], colours["--raised"]) >= 4.5
    for state in ("--right", "--unusual", "--wrong"):
        assert contrast(colours["--on"], colours[state]) >= 4.5


# notebooks


@every_kind
def test_the_fragment_is_short_and_needs_nothing_else(kind):
    source = KINDS[kind]()._repr_html_()
    found = ReportPage(source)
    assert source.isascii()
    assert {tag for tag, _, _ in found.elements} <= {"div", "p", "b", "ul", "li", "code"}
    assert all(set(attributes) <= {"style"} for _, attributes, _ in found.elements)
    assert not re.search(r"url\(", source)
    assert len(source) < 2000 or kind == "hostile"


def test_the_fragment_has_the_gist():
    found = ReportPage(made.mixed()._repr_html_())
    assert found.texts("b") == ["FAIL"]
    assert found.texts("li") == [
        "attention: It is not what it should be.; cause: head-count",
        "folded: It is not what it should be.; cause: unknown",
    ]
    assert texts.reason(made.mixed()) in found.texts("p")[0]
    assert "profile: declared fp32, behaves as tf32" in found.texts("p")[1]
    assert ReportPage(made.crowded()._repr_html_()).texts("p")[-1] == "and 2995 more"
    assert len(ReportPage(made.crowded()._repr_html_()).all("li")) == 5
    assert not ReportPage(report([judgement("a", **EXACT)])._repr_html_()).all("ul")


def test_the_banner_of_the_fragment_is_readable():
    for kind in ("pass", "screened", "mixed"):
        (_, attributes, _) = ReportPage(KINDS[kind]()._repr_html_()).all("b")[0]
        (background,) = re.findall(r"background:(#\w{6});color:#fff;", attributes["style"])
        assert contrast(background, "#ffffff") >= 4.5
