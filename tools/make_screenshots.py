"""Make the two screenshots of the README: what `npmobilevit explain` shows of a classifier and of a segmenter.

Each is the part of the page where a patch is pointed at. Needed: what tools/headless.py needs. The pictures depend on
the fonts of the machine, so no test compares them.

Run:  python tools/make_screenshots.py
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from headless import Browser, Place, missing
from PIL import Image

import npmobilevit as nm

REFERENCE = Path(__file__).parents[1] / "reference"
WIDTH = 920  # pixels, about that of a README
MARGIN = 16
LARGEST = 150_000  # bytes


class Shot(NamedTuple):
    """A picture and a checkpoint, what to choose on the page, and where in the picture to point."""

    picture: str
    model: str
    block: str
    layer: str
    head: str
    place: Place


SHOTS = {
    "explain-classifier.png": Shot("chelsea.png", "cifar10-xx-small", "0", "1", "1", (0.4, 0.4)),
    "explain-segmenter.png": Shot("street.png", "camvid-deeplabv3-xx-small", "1", "2", "1", (0.5, 0.8)),
}


def screenshot(browser: Browser, page: Path, shot: Shot) -> bytes:
    """PNG of the attention that is chosen, with one patch under the mouse."""
    browser.open(page, width=WIDTH, height=1000)
    for name, value in (("block", shot.block), ("layer", shot.layer), ("head", shot.head)):
        browser.choose(name, value)
    browser.script("document.activeElement.blur()")
    browser.hover(browser.element("#map"), shot.place)
    left, top, width, _ = browser.box(browser.element("#attention-live"))
    _, last, _, height = browser.box(browser.element("#attended"))  # what is below it only says how to use the page
    scrolled = browser.script("return scrollY")
    clip = (left - MARGIN, top + scrolled - MARGIN, width + 2 * MARGIN, last + height - top + 2 * MARGIN)
    return browser.screenshot(clip)


def packed(png: bytes) -> bytes:
    """The same picture, smaller than the browser writes it."""
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> int:
    lacking = missing()
    if lacking:
        print(lacking, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        for name, shot in SHOTS.items():
            page = Path(folder) / "page.html"
            nm.explain(REFERENCE / "images" / shot.picture, shot.model).save(page)
            png = packed(screenshot(browser, page, shot))
            if len(png) > LARGEST:
                print(f"{name} would have {len(png):,} bytes; at most {LARGEST:,}", file=sys.stderr)
                return 1
            (REFERENCE / "figures" / name).write_bytes(png)
            print(f"{name}: {len(png):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
