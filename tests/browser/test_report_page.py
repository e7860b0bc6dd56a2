"""The page of a port's report as a person uses it, in a browser."""

import made_reports as made
import page_checks as checks
import pytest

pytestmark = pytest.mark.browser

LAYERS = [f"mobilevit.encoder.layer.{i % 5}.attention.query{i}" for i in range(40)]


@pytest.fixture
def mixed(tmp_path):
    return written(tmp_path, made.mixed())


@pytest.fixture
def tall(tmp_path):
    """40 layers, every seventh wrong, each with a card above the table."""
    layers = [
        made.wrong(name, ratio=1000.0 - i) if i % 7 == 0 else made.judgement(name, ratio=0.5 / (i + 1))
        for i, name in enumerate(LAYERS)
    ]
    return written(tmp_path, made.report(layers, [made.failure(name) for name in LAYERS[::7]]))


def written(folder, report):
    page = folder / "report.html"
    page.write_text(report.to_html(), encoding="ascii")
    return page


def names(browser):
    """Taps in the rows that can be seen, from the top down."""
    rows = browser.script(
        "return Array.from(document.querySelectorAll('#layers tbody tr'), (row) => "
        "[row.getBoundingClientRect().top, row.checkVisibility(), row.querySelector('code').textContent])"
    )
    return [name for _, visible, name in sorted(rows) if visible]


def shown(browser):
    return browser.element("#shown").text


def numbers(browser):
    """The boxes of numbers that can be seen: tap and extent each."""
    return browser.script(
        "return Array.from(document.querySelectorAll('.numbers')).filter((box) => box.checkVisibility())"
        ".map((box) => [box.querySelector('code').textContent, box.getBoundingClientRect().top])"
    )


def focused(browser):
    return browser.script("return document.activeElement.id")


# for everybody


@pytest.mark.parametrize("kind", made.KINDS)
def test_every_page_is_whole_and_readable_on_every_screen(browser, tmp_path, kind):
    page = written(tmp_path, made.KINDS[kind]())
    wrong = checks.everything(browser, page, (1200, 1080, 700, 360) if kind in ("mixed", "not finite") else (1200, 360))
    if kind == "hostile":  # a name of no letters makes an empty heading
        del wrong["structure"]
    assert wrong == {}


def test_tab_reaches_cards_tools_and_rows_in_their_order_and_shows_where_it_is(browser, tall):
    browser.open(tall)
    assert checks.keyboard(browser) == []


def test_without_script_all_layers_are_there_and_no_tools(browser, mixed):
    browser.open(mixed, script=False)
    assert len(names(browser)) == 7
    assert not browser.element("#tools").is_displayed()


def test_names_that_a_port_chose_run_nothing(browser, tmp_path):
    browser.open(written(tmp_path, made.hostile()))
    assert len(browser.elements("script")) == 1
    assert not browser.elements("img")
    assert shown(browser) == "11 of 11 shown"  # and the page's own script did run


# order and filter


def test_layers_stand_in_forward_order_until_the_worst_are_wanted_first(browser, mixed):
    browser.open(mixed)
    forward = ["stem", "attention", "unfolded", "folded", "norm", "dense", "logits"]
    assert names(browser) == forward
    assert browser.element("#tools").is_displayed()
    browser.choose("order", "worst")
    assert names(browser) == ["folded", "attention", "norm", "stem", "logits", "dense", "unfolded"]
    browser.choose("order", "forward")
    assert names(browser) == forward


def test_the_order_is_chosen_by_keys(browser, mixed):
    browser.open(mixed)
    browser.script("document.getElementById('order').focus()")
    browser.press("ARROW_DOWN")
    assert names(browser)[0] == "folded"


def test_the_filter_keeps_the_names_that_hold_what_is_typed_in_any_case(browser, mixed):
    browser.open(mixed)
    assert shown(browser) == "7 of 7 shown"
    browser.click(browser.element("#filter"))
    browser.press(*"FOLD ")
    assert names(browser) == ["unfolded", "folded"]
    assert shown(browser) == "2 of 7 shown"
    browser.choose("order", "worst")
    assert names(browser) == ["folded", "unfolded"]
    browser.click(browser.element("#filter"))
    browser.press("x")
    assert (names(browser), shown(browser)) == ([], "0 of 7 shown")
    browser.press(*["BACKSPACE"] * 6)
    assert len(names(browser)) == 7


def test_the_count_is_told_to_who_cannot_see_it(browser, mixed):
    browser.open(mixed)
    (role,) = [
        node
        for node in browser.command("Accessibility.getFullAXTree")["nodes"]
        if node.get("role", {}).get("value") == "status"
    ]
    live = {p["name"]: p["value"]["value"] for p in role["properties"]}
    assert live["live"] == "polite"


def test_what_was_chosen_holds_for_who_comes_back(browser, mixed):
    browser.open(mixed)
    browser.choose("order", "worst")
    browser.click(browser.element("#filter"))
    browser.press(*"fold")
    browser.driver.get("about:blank")
    browser.driver.back()
    kept = browser.element("#order").get_property("value"), browser.element("#filter").get_property("value")
    assert kept == ("worst", "fold")
    assert names(browser) == ["folded", "unfolded"]


# from a card to its row


def test_a_card_leads_to_its_row_which_is_in_sight_marked_and_tells_its_numbers(browser, tall):
    browser.open(tall, height=500)
    browser.click(browser.elements(".card a")[3])
    assert focused(browser) == "t21"
    assert [name for name, _ in numbers(browser)] == [LAYERS[21]]
    assert in_sight(browser, "t21")


def test_the_address_of_a_row_leads_there(browser, tall):
    browser.open(tall, height=500, fragment="t35")
    assert in_sight(browser, "t35")


@pytest.mark.parametrize("order", ["forward", "worst"])
def test_a_card_leads_to_its_row_also_when_the_filter_has_hidden_it(browser, tall, order):
    browser.open(tall, height=500)
    browser.choose("order", order)
    browser.click(browser.element("#filter"))
    browser.press(*"query1")
    browser.click(browser.elements(".card a")[0])
    assert focused(browser) == "t0"
    assert in_sight(browser, "t0")
    assert shown(browser) == "40 of 40 shown"


def in_sight(browser, row):
    """Whether a row can be seen in the window: below the heads, above its numbers, under nothing."""
    top, bottom, head = browser.script(
        "const row = document.getElementById(arguments[0]), box = row.getBoundingClientRect();"
        "const head = document.querySelector('#layers thead th').getBoundingClientRect();"
        "return [box.top, box.bottom, head.top < 1 ? head.bottom : 0]",
        row,
    )
    below = [edge for _, edge in numbers(browser)] or [browser.script("return innerHeight")]
    return head - 1 <= top < bottom <= below[0] + 1


# the numbers of a row


def test_the_row_under_the_mouse_tells_its_numbers_and_only_that(browser, mixed):
    browser.open(mixed)
    assert numbers(browser) == []
    for tap in ("t1", "t4"):
        browser.hover(browser.element(f"#{tap} td:nth-child(2)"))
        ((name, _),) = numbers(browser)
        assert name == {"t1": "attention", "t4": "norm"}[tap]
    browser.hover(browser.element("h1"))
    assert numbers(browser) == []


def test_the_mouse_goes_before_the_focus(browser, mixed):
    browser.open(mixed)
    browser.script("document.getElementById('t1').focus()")
    assert [name for name, _ in numbers(browser)] == ["attention"]
    browser.hover(browser.element("#t4 td:nth-child(2)"))
    assert [name for name, _ in numbers(browser)] == ["norm"]


def test_keys_go_before_a_mouse_that_rests(browser, mixed):
    browser.open(mixed)
    browser.hover(browser.element("#t4 td:nth-child(2)"))
    browser.script("document.getElementById('filter').focus()")
    browser.press("TAB")
    assert focused(browser) == "t0"
    assert [name for name, _ in numbers(browser)] == ["stem"]


@pytest.mark.parametrize("height", [400, 700])
def test_rows_reached_by_tab_are_never_under_the_heads_or_their_own_numbers(browser, tall, height):
    browser.open(tall, height=height)
    browser.script("document.getElementById('filter').focus({preventScroll: true})")
    for i in range(len(LAYERS)):
        browser.press("TAB")
        assert focused(browser) == f"t{i}"
        assert in_sight(browser, f"t{i}"), f"t{i}"
    for i in reversed(range(len(LAYERS) - 1)):
        browser.press_back()
        assert in_sight(browser, f"t{i}"), f"t{i}, going back"


def test_a_telephone_shows_taps_and_their_states_at_once(browser, tall):
    browser.open(tall, width=360, height=740, touch=True)
    edges = browser.script(
        "return Array.from(document.querySelectorAll('td:nth-child(2)'), (cell) => cell.getBoundingClientRect().right)"
    )
    assert len(edges) == len(LAYERS)
    assert max(edges) <= 360


def test_a_finger_on_a_row_shows_its_numbers(browser, mixed):
    browser.open(mixed, width=360, height=740, touch=True)
    browser.tap(browser.element("#t1 > th > code"))
    ((name, top),) = numbers(browser)
    assert name == "attention"
    assert top < 740
    assert checks.layout(browser, 360) == []


# on paper


def test_paper_has_all_rows_and_nothing_that_only_a_screen_can_do(browser, mixed):
    browser.open(mixed)
    browser.script("document.getElementById('t1').focus()")
    browser.media("print")
    assert numbers(browser) == []
    assert not browser.element("#tools").is_displayed()
    assert len(names(browser)) == 7
    assert checks.contrast(browser) == []
