"""The reader of reference/fixed_point.md, which shares no line with the package, reproduces every kind of layer."""

import re
from pathlib import Path

import networks
import pytest

from npmobilevit.fixed_point import Arithmetic, export_layers, layer_names, tap_ranges, traced
from npmobilevit.validation import record

DOCUMENT = Path(__file__).parents[2] / "reference" / "fixed_point.md"


@pytest.fixture(scope="module")
def reader():
    """The document's functions."""
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "def run(" in block)
    assert "numpy" not in code
    assert "npmobilevit" not in code
    found = {}
    exec(compile("import json\n" + code, "reader", "exec"), found)
    return found["run"]


@pytest.mark.parametrize(
    ("head", "output_stride", "arithmetic"),
    [
        ("classification", 32, Arithmetic(8, 32, "half-even")),
        ("segmentation", 16, Arithmetic(16, 64, "half-up")),
        ("segmentation", 8, Arithmetic(8, 64, "truncate")),
    ],
)
def test_the_reader_reproduces_the_layers(tmp_path, reader, head, output_stride, arithmetic):
    config = networks.tiny(output_stride=output_stride)
    network = networks.MODELS[head](config, networks.random_weights(config, head))
    pixels = networks.pixels(height=32, width=48)
    wanted = (
        r"conv_stem$|layer\.1\.layer\.0\.|layer\.[34]\.(downs|conv|fusion)|layer\.3\.transformer\.layer\.0|aspp|head"
    )
    names = [name for name in layer_names(network) if re.search(wanted, name)]
    layers = traced(network, names)
    inputs = {name for layer in layers for name in layer.inputs}
    ranges = tap_ranges(network, pixels, {*inputs, "pixel_values", *(layer.output for layer in layers)})
    export_layers(network, layers, record(network, pixels, taps=inputs), ranges, tmp_path / "v", arithmetic=arithmetic)
    for name in names:
        found, expected = reader(tmp_path / "v", name)
        assert found == expected, name
        assert len(set(found)) > 1, name


def test_the_reader_finds_a_wrong_word(tmp_path, reader):
    config = networks.tiny()
    network = networks.MODELS["classification"](config, networks.random_weights(config, "classification"))
    pixels = networks.pixels()
    layers = traced(network, ["mobilevit.conv_stem"])
    ranges = tap_ranges(network, pixels, {"pixel_values", layers[0].output})
    recorded = record(network, pixels, taps=["pixel_values"])
    export_layers(network, layers, recorded, ranges, tmp_path / "v", arithmetic=Arithmetic(8, 32))
    for file in ("mobilevit.conv_stem.weight.mem", "recorded/pixel_values.mem", "mobilevit.conv_stem.bias.mem"):
        path = tmp_path / "v" / file
        before = path.read_text()
        path.write_text("7" + before[1:])
        found, expected = reader(tmp_path / "v", "mobilevit.conv_stem")
        assert found != expected, file
        path.write_text(before)
