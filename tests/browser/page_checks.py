"""What a page must be for everybody: readable in both schemes, whole on a narrow screen, usable without a mouse.

Every check measures the page that is open and returns what is wrong with it, as a list of sentences.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from headless import Browser
from PIL import Image

LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3, level AA, for text of any size
LEAST_TARGET = 24  # pixels, WCAG 2.2, 2.5.8

# Roles of the accessibility tree that somebody operates: each needs a name.
CONTROLS = {
    "button", "checkbox", "combobox", "gridcell", "link", "listbox", "menuitem", "option", "radio", "searchbox",
    "slider", "spinbutton", "switch", "tab", "textbox", "DisclosureTriangle",
}  # fmt: skip
IMAGES = {"image", "img", "Canvas"}

SOURCE = Path(__file__).with_name("page_checks.js").read_text(encoding="ascii")


def measured(browser: Browser, function: str, *arguments: Any) -> Any:
    """The value of a function of page_checks.js in the open page."""
    return browser.script(f"{SOURCE}\nreturn {function}(...arguments)", *arguments)


def contrast(browser: Browser) -> list[str]:
    """Text that is too faint."""
    return measured(browser, "faint", LEAST_CONTRAST)


def is_dark(browser: Browser) -> bool:
    return measured(browser, "brightness") < 0.05


def layout(browser: Browser, width: int) -> list[str]:
    """What is wider than the screen, cut, or lies on something else."""
    return [*measured(browser, "spilling", width), *measured(browser, "cut"), *measured(browser, "overlapping")]


def targets(browser: Browser) -> list[str]:
    """Controls too small for a finger."""
    return measured(browser, "small", LEAST_TARGET)


def structure(browser: Browser) -> list[str]:
    """Headings, language, references between elements; and what a screen reader has to say of images and controls."""
    return [*measured(browser, "structure"), *nameless(browser)]


def nameless(browser: Browser) -> list[str]:
    """Images and controls without a name, and what takes the focus and is nothing to a screen reader."""
    browser.command("Accessibility.enable")
    nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    found = []
    for node in nodes:
        if node["ignored"]:
            continue
        role, name = node["role"]["value"], node.get("name", {}).get("value", "").strip()
        focusable = any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", ()))
        if role in CONTROLS | IMAGES and not name:
            found.append(f"{role} without a name")
        if focusable and role in ("generic", "none", "GenericContainer"):
            found.append(f"{name or 'something'} takes the focus and has no role")
    return found


def keyboard(browser: Browser) -> list[str]:
    """Controls that Tab does not reach in the order of the page, and stops where the focus cannot be seen."""
    browser.script("document.activeElement.blur(); window.scrollTo(0, 0)")
    wanted = measured(browser, "controls")
    names = [measured(browser, "label", element) for element in wanted]
    stops, found = [], []
    kinds = set()  # an outline is looked at once of each kind
    for _ in range(len(wanted) + 2):
        browser.press("TAB")
        browser.settle()
        stop = browser.script("return document.activeElement")
        if stop.tag_name == "body" or stop in stops:
            break
        stops.append(stop)
        kind = stop.tag_name, stop.get_attribute("class")
        marks = [measured(browser, "covered", stop), measured(browser, "unmarked", stop)]
        if kind not in kinds:
            marks.append(unseen(browser, stop))
        kinds.add(kind)
        found += [mark for mark in marks if mark]
    reached = [measured(browser, "label", stop) for stop in stops]
    if stops != wanted:
        found.append(f"Tab reaches {reached}, and the page has {names}")
    return found


def unseen(browser: Browser, element: Any) -> str | None:
    """The element, if the focus changes nothing in its picture."""
    focused = picture_of(browser, element)
    browser.script("arguments[0].blur()", element)
    plain = picture_of(browser, element)
    browser.script("arguments[0].focus({preventScroll: true})", element)
    if (focused != plain).any():
        return None
    return f"{measured(browser, 'label', element)} looks the same with the focus"


def picture_of(browser: Browser, element: Any, margin: int = 6) -> np.ndarray:
    """(H, W, 3): an element with a margin around it."""
    left, top, width, height = browser.box(element)
    across, down = browser.script("return [scrollX, scrollY]")
    clip = (left + across - margin, top + down - margin, width + 2 * margin, height + 2 * margin)
    return np.asarray(Image.open(BytesIO(browser.screenshot(clip))).convert("RGB"))


def everything(browser: Browser, page: Path, widths: Sequence[int] = (1200, 360)) -> dict[str, list[str]]:
    """What is wrong with a page: its structure, and on every screen in both schemes its contrast and layout."""
    browser.open(page)
    found = {"structure": structure(browser)}
    for width in widths:
        for dark in (False, True):
            browser.open(page, width=width, height=800, dark=dark, touch=width < 500)
            faults = [*contrast(browser), *layout(browser, width), *targets(browser)]
            if is_dark(browser) != dark:
                faults.append("its background is not of its scheme")
            found[f"{width} px, {'dark' if dark else 'light'}"] = faults
    return {where: faults for where, faults in found.items() if faults}
