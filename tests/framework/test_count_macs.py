"""The tool that counts what transformers' models cost: its figures come out again, and it sees what it should."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import count_macs as tool  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]

MEASURED = json.loads(tool.MEASURED.read_text(encoding="utf-8"))
UNUSUAL = "unusual settings, no head"


def as_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", ["xx-small/classification/256", "odd size, two pictures", UNUSUAL])
def test_what_is_counted_comes_out_again(name):
    found = tool.counted(tool.COUNTED[name])
    expected = MEASURED["counted"][name]
    assert list(found["modules"]) == MEASURED["names"][expected["names"]]
    assert as_json({**found, "names": expected["names"], "modules": list(found["modules"].values())}) == expected


def test_what_is_differentiated_comes_out_again():
    assert as_json(tool.differentiated(tool.DIFFERENTIATED[UNUSUAL])) == MEASURED["receptive_fields"][UNUSUAL]


def test_the_file_has_all_cases():
    assert list(MEASURED["counted"]) == list(tool.COUNTED)
    assert list(MEASURED["receptive_fields"]) == list(tool.DIFFERENTIATED)


def test_networks_with_the_same_modules_share_their_names():
    networks = {
        "1": {"modules": {"a": 1, "b": 2}},
        "2": {"modules": {"b": 3, "a": 4}},
        "3": {"modules": {"a": 5, "b": 6}},
    }
    shared, names = tool.with_shared_names(networks)
    assert names == {"1": ["a", "b"], "2": ["b", "a"]}
    assert shared == {
        "1": {"names": "1", "modules": [1, 2]},
        "2": {"names": "2", "modules": [3, 4]},
        "3": {"names": "1", "modules": [5, 6]},
    }


@pytest.fixture
def sequence(monkeypatch):
    """Layers in the place of a network; returns how to set them."""

    def put(*layers):
        monkeypatch.setattr(tool.Case, "model", lambda case: nn.Sequential(*layers).eval())
        return tool.Case({"num_channels": 2}, None, 20, 16)

    return put


def test_receptive_fields_of_convolutions_known_by_hand(sequence):
    case = sequence(
        nn.Conv2d(2, 3, 3, padding=1, stride=2),
        nn.Conv2d(3, 3, (3, 1), dilation=2),
        nn.Conv2d(3, 3, 3, padding=9, dilation=9),  # beyond the map: the pixel alone
        nn.AdaptiveAvgPool2d(1),
    )
    assert tool.receptive_fields(case) == {
        **{"0": (3, 3), "1": (3 + 2 * 4, 3), "2": (3 + 2 * 4, 3), "3": (20, 16), "": (20, 16)},
    }


def test_counts_of_layers_known_by_hand(sequence):
    case = sequence(nn.Conv2d(2, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.ReLU())
    found = tool.counted(case)
    maps, elements = [1, 6, 20, 16], 6 * 20 * 16
    assert as_json(found["modules"]) == {
        "0": [maps, 6 * 9 + 6, 0, [["convolution", elements * 9, elements * 4]]],
        "1": [maps, 12, 12, [["batch_norm", 0, elements * 4]]],
        "2": [maps, 0, 0, [["activation", 0, elements * 4]]],
    }
    assert found["macs"] == elements * 9


def test_an_operation_that_the_tool_does_not_know_is_an_error(sequence):
    with pytest.raises(KeyError, match="max_pool2d"):
        tool.counted(sequence(nn.MaxPool2d(2)))
