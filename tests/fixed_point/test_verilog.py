"""The test bench of reference/fixed_point.md, run by a Verilog simulator on the vectors that the document writes."""

import re
import shutil
import subprocess

import pytest

STEM = "mobilevit.conv_stem"

pytestmark = pytest.mark.skipif(
    not (shutil.which("iverilog") and shutil.which("vvp")), reason="the simulator Icarus Verilog is not installed"
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory, document, written):
    """A folder of test vectors, with the compiled bench beside them."""
    folder = tmp_path_factory.mktemp("verilog") / "vectors"
    shutil.copytree(written / "vectors", folder)
    (source,) = re.findall(r"^```verilog\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
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
