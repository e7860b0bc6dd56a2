"""Networks of few layers for the tests of verdicts."""

from collections.abc import Iterator

import networks
import pytest

from npmobilevit import config, layers


def set_depths(patch: pytest.MonkeyPatch, depths: tuple[int, ...]) -> None:
    for module in (config, layers):
        patch.setattr(module, "TRANSFORMER_DEPTHS", depths)


@pytest.fixture(scope="module")
def fewer_layers() -> Iterator[tuple[int, ...]]:
    """Fewer layers in the transformers of all networks, where it makes no difference which of them it is; gives how
    many there are else. tests/validation/test_backends.py and others judge networks of all layers."""
    depths = config.TRANSFORMER_DEPTHS
    with pytest.MonkeyPatch.context() as patch:
        set_depths(patch, networks.FEWER_LAYERS)
        yield depths


@pytest.fixture
def all_layers(fewer_layers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them again, for a checkpoint."""
    set_depths(monkeypatch, fewer_layers)
