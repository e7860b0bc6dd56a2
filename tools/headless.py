"""Pages in a real browser without a window: Debian's Chromium and its driver, through Selenium.

It has no network: Selenium is given the driver, so that it looks for none, and no host name leads anywhere. The profile
and all that the browser leaves behind lie in a folder that goes with it. Needed: `apt-get install chromium
chromium-driver`, and the dependency group `browser` of pyproject.toml.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.remote.webelement import WebElement

PROGRAMS = {"chromium": "chromium", "chromedriver": "chromium-driver"}  # and the packages of Debian they come in

Place: TypeAlias = tuple[float, float]  # in an element, across and down, from 0 to 1

MIDDLE: Place = (0.5, 0.5)

OPTIONS = (
    "--headless=new",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def missing() -> str | None:
    """What this machine lacks for a browser and how it is installed; None if there is all."""
    packages = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if packages:
        return f"no {' and no '.join(packages)} here; to install: apt-get install {' '.join(packages)}"
    if importlib.util.find_spec("selenium") is None:
        return "no selenium here; to install: python -m pip install --group browser"
    return None


class Browser:
    """One window, for one page after the other; a context, which ends the browser.

    Parameters of a page stay what `open` made them; nothing of a page outlives the next `open`.
    """

    def __init__(self) -> None:
        from selenium import webdriver

        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        for option in OPTIONS:
            options.add_argument(option)
        if os.geteuid() == 0:  # Chromium's sandbox refuses root
            options.add_argument("--no-sandbox")
        environment = os.environ | {"TMPDIR": self._folder.name, "HOME": self._folder.name}
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"), env=environment)
        self.driver = webdriver.Chrome(options=options, service=service)
        self._address = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.driver.quit()
        self._folder.cleanup()

    # pages

    def open(
        self,
        page: Path,
        *,
        width: int = 1200,
        height: int = 900,
        dark: bool = False,
        touch: bool = False,
        script: bool = True,
        reduced_motion: bool = False,
        fragment: str = "",
    ) -> None:
        """Load a file as somebody with this screen and these wishes sees it; `touch` is a telephone's."""
        self.command("Emulation.setScriptExecutionDisabled", value=not script)
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch
        )
        self.command("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.media(
            prefers_color_scheme="dark" if dark else "light",
            prefers_reduced_motion="reduce" if reduced_motion else "no-preference",
        )
        self.driver.get("about:blank")  # so that the same page with another fragment is loaded anew, and unscrolled
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self._address = page.resolve().as_uri()
        self.driver.get(self._address + (f"#{fragment}" if fragment else ""))

    def media(self, kind: str = "", **features: str) -> None:
        """What the page's media queries find, in the place of all that was set before; the kind may be "print"."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", media=kind, features=named)

    def trouble(self) -> list[str]:
        """Since the page was opened or this was asked: what the console complained of, and what was loaded besides it.

        A resource that its Content-Security-Policy refused is among the complaints.
        """
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        own = ("data:", "about:blank")
        return said + [f"loads {url}" for url in asked if url != self._address and not url.startswith(own)]

    # what a person does

    def element(self, selector: str) -> WebElement:
        """The only element that a CSS selector finds."""
        (found,) = self.elements(selector)
        return found

    def elements(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", selector)

    def hover(self, element: WebElement, place: Place = MIDDLE) -> None:
        self._at(element, place).perform()

    def click(self, element: WebElement, place: Place = MIDDLE) -> None:
        self._at(element, place).click().perform()

    def tap(self, element: WebElement, place: Place = MIDDLE) -> None:
        """A finger on an element, of a page that was opened with `touch`."""
        self._bring(element)
        left, top, width, height = self.box(element)
        x, y = left + place[0] * width, top + place[1] * height
        self.command("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def choose(self, name: str, value: str) -> None:
        """An option, by its value, of the select of this id."""
        from selenium.webdriver.support.select import Select

        Select(self.element(f"#{name}")).select_by_value(value)

    def press(self, *keys: str) -> None:
        """Keys one after the other, by their name in Selenium (`TAB`, `ARROW_LEFT`) or as the character they write."""
        from selenium.webdriver.common.keys import Keys

        self._chain().send_keys(*(getattr(Keys, key) if len(key) > 1 else key for key in keys)).perform()

    def press_back(self) -> None:
        """Shift and Tab."""
        from selenium.webdriver.common.keys import Keys

        self._chain().key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()

    def _at(self, element: WebElement, place: Place) -> ActionChains:
        self._bring(element)
        _, _, width, height = self.box(element)
        across, down = (place[0] - 0.5) * width, (place[1] - 0.5) * height  # from the middle
        return self._chain().move_to_element_with_offset(element, round(across), round(down))

    def _chain(self) -> ActionChains:
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.driver, duration=0)

    def _bring(self, element: WebElement) -> None:
        """Into view, if it is not: the mouse reaches nothing else."""
        self.script("arguments[0].scrollIntoView({block: 'nearest', inline: 'nearest', behavior: 'instant'})", element)

    def settle(self) -> None:
        """Wait until nothing scrolls any more."""
        self.driver.execute_async_script(
            "const done = arguments[0], place = () => `${scrollX} ${scrollY}`;"
            "const wait = (before, still) => still > 2 ? done() :"
            " requestAnimationFrame(() => wait(place(), place() === before ? still + 1 : 0));"
            "wait('', 0);"
        )

    # what is to be seen

    def script(self, source: str, *arguments: Any) -> Any:
        return self.driver.execute_script(source, *arguments)

    def command(self, name: str, **parameters: Any) -> dict[str, Any]:
        """A command of the Chrome DevTools Protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def box(self, element: WebElement) -> list[float]:
        """Left, top, width and height of an element in the window."""
        return self.script(
            "const box = arguments[0].getBoundingClientRect(); return [box.x, box.y, box.width, box.height]", element
        )

    def screenshot(self, clip: Sequence[float] | None = None, scale: float = 1) -> bytes:
        """PNG of what the window shows, or of a clip (left, top, width, height) of the page, also below the window."""
        if clip is None:
            return self.driver.get_screenshot_as_png()
        box = dict(zip(("x", "y", "width", "height"), clip, strict=True)) | {"scale": scale}
        taken = self.command("Page.captureScreenshot", clip=box, captureBeyondViewport=True)
        return base64.b64decode(taken["data"])
