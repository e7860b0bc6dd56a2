"""Every check of a page finds what it is for, in a page made to have it; and the browser that they measure in."""

import importlib.util
import re
import shutil
from pathlib import Path

import headless
import page_checks as checks
import pytest

GOOD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>A page</title>
<style>
:root { color-scheme: light dark; }
body { margin: 10px; background: #fff; color: #222; font: 16px/1.5 sans-serif; }
button, input { font: inherit; padding: 4px; margin: 4px; }
::placeholder { color: inherit; opacity: 1; }
#map { width: 100px; height: 100px; background: #888; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } }
</style></head><body><main>
<h1>Title</h1>
<p>Some words.</p>
<h2>Part</h2>
<svg width="60" height="20" role="img" aria-label="a bar"><text y="15" fill="currentColor">words</text></svg>
<div id="map" tabindex="0" role="application" aria-label="map"></div>
<label>Name <input placeholder="any" style="--x: 0"></label>
<button>Press</button> <a href="#map">To the map</a>
</main></body></html>
"""

# What is done to the good page, and what is said of it then.
LAYOUT = {
    "wide": ("<p>Some", '<p style="width: 500px">Some', "the page is 510 wide on 360"),
    "long": ("Some words", "x" * 100, '"x+" reaches from 10 to'),
    "left": ("<p>Some", '<p style="margin-left: -40px">Some', '"Some words." reaches from -30'),
    "cut": ("<p>Some", '<p style="width: 30px; height: 20px; overflow: hidden">Some', '"Some words." is cut by p'),
    "on text": ("<h2>", '<h2 style="margin-top: -40px">', '"Some words." and "Part" overlap'),
    "on control": ("<button>", '<button style="margin-left: -60px">', "input and button overlap"),
}
CONTRAST = {
    "faint": ("<p>", '<p style="color: #999; background: #fff">', 'p: "Some words." has a contrast of 2.85'),
    "transparent": ("<p>", '<p style="opacity: 0.3">', 'p: "Some words." has a contrast of'),
    "behind": (
        "<p>",
        '<p style="background: color-mix(in srgb, currentColor 60%, #0000)">',
        '"Some words." has a',
    ),
    "on a picture": ("<p>", '<p style="background: linear-gradient(red, blue)">', '"Some words." on a picture'),
    "svg": ('fill="currentColor"', 'fill="#777"', 'text: "words" has a contrast of'),
    "placeholder": ("--x: 0", "color: #888; background: #777", 'input: "any" has a contrast of'),
}
STRUCTURE = {
    "language": (' lang="en"', "", "no lang"),
    "title": ("<title>A page</title>", "", "no title"),
    "main": ("main>", "div>", "not one main"),
    "no h1": ("h1>", "h2>", "not one h1"),
    "two h1": ("h2>", "h1>", "not one h1"),
    "level": ("h2>", "h3>", 'h3 "Part" comes after h1'),
    "empty heading": ("Part", "", "h2 is empty"),
    "ids": ("<p>", '<p id="map">', "#map stands twice"),
    "reference": ("<p>", '<p aria-describedby="no">', "p names #no, which is not there"),
    "tabindex": ('tabindex="0"', 'tabindex="3"', "div#map has tabindex 3"),
    "image": (' aria-label="a bar"', "", "image without a name"),
    "button": ("Press", "", "button without a name"),
    "field": ("<label>Name", "<label></label><label>", "textbox without a name"),
    "role": (' role="application"', "", "takes the focus and has no role"),
}
KEYBOARD = {
    "no outline": ("--x: 0", "outline: none", "input has the focus and no outline"),
    "same colour": ("<button>", '<button style="outline: 2px solid #fff">', "button looks the same with the focus"),
    "no stand-in": ("--x: 0", "opacity: 0", "input looks the same with the focus"),
    "trap": ("<button>", "<button onkeydown='event.preventDefault()'>", "Tab reaches"),
    "order": ("<button>", '<button tabindex="2">', "Tab reaches"),
    "covered": (
        "<main>",
        '<main><div style="position: fixed; inset: 0; background: #fff"></div>',
        "button has the focus under div",
    ),
    "out of sight": ("<button>", '<button style="position: fixed; left: -500px">', "button has the focus out of sight"),
}
TARGETS = {
    "button": ("<button>", '<button style="padding: 0; font-size: 8px">', "button is"),
    "labelled": ("--x: 0", "padding: 0; font-size: 8px", "input is"),
}
TROUBLE = {
    "error": ("</main>", "</main><script>nothing()</script>", "nothing is not defined"),
    "message": ("</main>", "</main><script>console.warn('beware')</script>", "beware"),
    "image": ("</main>", '</main><img alt="" src="https://example.org/x.png">', "loads https://example.org/x.png"),
    "file": ("</main>", '</main><img alt="" src="other.png">', "other.png"),
    "blob": ("</main>", "</main><script>fetch(URL.createObjectURL(new Blob(['x'])))</script>", "loads blob:"),
    "refused": (
        "<head>",
        "<head><meta http-equiv='Content-Security-Policy' content=\"script-src 'none'\"><script>1</script>",
        "Content Security Policy",
    ),
}


def broken(table):
    return pytest.mark.parametrize(("old", "new", "said"), table.values(), ids=table.keys())


def made(folder: Path, old: str = "", new: str = "") -> Path:
    """The good page with one thing exchanged."""
    assert old in GOOD
    page = folder / "page.html"
    page.write_text(GOOD.replace(old, new) if old else GOOD, encoding="utf-8")
    return page


def says(faults: list[str], said: str) -> bool:
    pattern = re.escape(said).replace(r"x\+", "x+")
    return any(re.search(pattern, fault) for fault in faults)


@pytest.mark.browser
def test_a_good_page_has_no_faults(browser, tmp_path):
    page = made(tmp_path)
    assert checks.everything(browser, page) == {}
    browser.open(page)
    assert checks.keyboard(browser) == []


@pytest.mark.browser
@broken(LAYOUT)
def test_layout(browser, tmp_path, old, new, said):
    browser.open(made(tmp_path, old, new), width=360)
    assert says(checks.layout(browser, 360), said)


@pytest.mark.browser
@broken(CONTRAST)
@pytest.mark.parametrize("dark", [False, True])
def test_contrast(browser, tmp_path, dark, old, new, said):
    browser.open(made(tmp_path, old, new), dark=dark)
    faults = checks.contrast(browser)
    assert says(faults, said)
    assert len(faults) == 1


@pytest.mark.browser
@broken(STRUCTURE)
def test_structure(browser, tmp_path, old, new, said):
    browser.open(made(tmp_path, old, new))
    assert says(checks.structure(browser), said)


@pytest.mark.browser
@broken(KEYBOARD)
def test_keyboard(browser, tmp_path, old, new, said):
    browser.open(made(tmp_path, old, new))
    assert says(checks.keyboard(browser), said)


@pytest.mark.browser
@broken(TARGETS)
def test_targets(browser, tmp_path, old, new, said):
    browser.open(made(tmp_path, old, new))
    assert says(checks.targets(browser), said)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 360])
def test_a_page_that_is_white_in_the_dark_is_found(browser, tmp_path, width):
    page = made(tmp_path, "(prefers-color-scheme: dark)", "(max-width: 1px)")
    assert "its background is not of its scheme" in checks.everything(browser, page)[f"{width} px, dark"]


@pytest.mark.browser
@broken(TROUBLE)
def test_the_browser_tells_errors_and_what_a_page_loads(browser, tmp_path, old, new, said):
    browser.open(made(tmp_path, old, new))
    assert says(browser.trouble(), said)


@pytest.mark.browser
def test_a_page_finds_what_it_was_opened_with(browser, tmp_path):
    def media():
        queries = ["(prefers-color-scheme: dark)", "(prefers-reduced-motion: reduce)", "(pointer: coarse)", "print"]
        return browser.script("return [innerWidth, ...arguments[0].map((query) => matchMedia(query).matches)]", queries)

    page = made(tmp_path, "</main>", "</main><script>document.title = 'ran'</script>")
    browser.open(page, width=360, dark=True, touch=True, reduced_motion=True, script=False)
    assert (media(), browser.driver.title) == ([360, True, True, True, False], "A page")
    browser.media("print")
    browser.open(page)
    assert (media(), browser.driver.title) == ([1200, False, False, False, False], "ran")


@pytest.mark.browser
def test_nothing_of_the_browser_is_left_behind(chromium, tmp_path):
    with headless.Browser() as browser:
        folder = Path(browser.driver.capabilities["chrome"]["userDataDir"]).parent
        assert folder.exists()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("programs", "module", "said"),
    [
        ({"chromium", "chromedriver"}, True, None),
        ({"chromedriver"}, True, "no chromium here; to install: apt-get install chromium"),
        ({"chromium"}, True, "no chromium-driver here; to install: apt-get install chromium-driver"),
        (set(), False, "no chromium and no chromium-driver here; to install: apt-get install chromium chromium-driver"),
        ({"chromium", "chromedriver"}, False, "no selenium here; to install: python -m pip install --group browser"),
    ],
)
def test_what_is_missing_is_named_with_how_to_install_it(monkeypatch, programs, module, said):
    monkeypatch.setattr(shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if module else None)
    assert headless.missing() == said
