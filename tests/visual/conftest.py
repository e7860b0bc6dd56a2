"""A Pillow as others have it."""

import pytest
from PIL import ImageFont


class NoFreeType:
    """What stands in Pillow for the missing module."""

    def __getattr__(self, name: str) -> object:
        raise ImportError("The _imagingft C module is not installed")


@pytest.fixture
def without_freetype(monkeypatch):
    """Pillow built without FreeType."""
    monkeypatch.setattr(ImageFont, "core", NoFreeType())
