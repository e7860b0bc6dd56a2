"""The engine itself sets how many threads products use, and gives the number back: it finds what it finds anywhere."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def products_of_one_thread():
    """Not here."""
