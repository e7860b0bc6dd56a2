"""The test bench of reference/fixed_point.md, run by a Verilog simulator on the vectors that the document writes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from npmobilevit.cli import main

ROOT = Path(__file__).parents[2]
STEM = "mobilevit.conv_stem"

pytestmark = pytest.mark.skipif(
    not (shutil.which("iverilog") and shutil.which("vvp")), reason="the simulator Icarus Verilog is not installed"
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A folder of test vectors, with the compiled bench beside them."""
    folder = tmp_path_factory.mktemp("verilog") / "vectors"
    pictures = ["ranges", str(ROOT / "reference" / "images"), "--model", "cifar10-xx-small"]
    options = ["--export", str(folder), "--layers", STEM, "--width", "8", "--rounding", "half-even"]
    assert main([*pictures, "-o", str(folder.parent / "ranges.txt"), *options]) == 0
    text = (ROOT / "reference" / "fixed_point.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```verilog\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (folder / "bench.v").write_text(source)
    command = ["iverilog", "-Wall", "-Wno-timescale", "-o", "bench", "bench.v"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout + done.stderr == ""
    return folder


def simulated(folder):
    done = subprocess.run(["vvp", "-n", "bench"], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout + done.stderr


def test_the_bench_makes_every_word(bench):
    assert simulated(bench) == "0 errors in 16384 words\n"


def test_the_numbers_of_the_bench_are_those_of_the_layer(bench):
    source = (bench / "bench.v").read_text()
    numbers = {name: int(number) for name, number in re.findall(r"\b([A-Z]+) = (\d+)", source)}
    layer = json.loads((bench / "layers.json").read_text())["layers"][STEM]
    taps = [json.loads((bench / part / "manifest.json").read_text())["taps"] for part in ("recorded", "")]
    maps = [*taps[0][layer["inputs"][0]]["shape"][1:], *taps[1][layer["output"]]["shape"][1:]]
    assert [numbers[name] for name in "IHWOPQ"] == maps
    assert numbers["SHIFT"] == layer["shift"]
    assert (layer["stride"], layer["padding"], layer["dilation"], layer["groups"]) == ([2, 2], [1, 1], [1, 1], 1)


def test_the_bench_counts_wrong_words(bench):
    file = bench / f"{STEM}.normalization.mem"
    before = file.read_text()
    words = before.splitlines()
    for i in (0, len(words) // 2, len(words) - 1):
        words[i] = f"{int(words[i], 16) ^ 1:02X}"
    file.write_text("\n".join(words))
    try:
        assert simulated(bench) == "3 errors in 16384 words\n"
    finally:
        file.write_text(before)
