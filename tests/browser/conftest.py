"""One browser for all tests of pages; each test skips with what is missing where there is none."""

import headless
import pytest


@pytest.fixture(scope="session")
def chromium():
    lacking = headless.missing()
    if lacking:
        pytest.skip(lacking)
    with headless.Browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium):
    """The browser, of which no page may complain, and in which none may load anything but itself."""
    yield chromium
    assert chromium.trouble() == []
