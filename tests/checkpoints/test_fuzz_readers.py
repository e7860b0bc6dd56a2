"""Many damaged checkpoint files, read in processes of their own; and the tool that does it."""

import re
from pathlib import Path

import pytest

fuzz = pytest.importorskip("fuzz_readers")  # it needs resource, which only Unix has

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux does")

EXPECTED = {
    "safetensors": {"weights-damaged", "weights-truncated", "weights-dtype", "weights-negative-variance"},
    "torch": {"weights-damaged", "weights-truncated", "weights-pickle-forbidden", "weights-no-state-dict"},
    "config": {"json-syntax", "json-encoding", "config-value", "json-duplicate-key"},
}


@pytest.mark.case(
    "58-72, 87-93", "random mutations of weights and config files", "a value or our error; nothing is run"
)
@pytest.mark.parametrize("reader", fuzz.READERS)
def test_damaged_files_end_in_a_value_or_in_our_error(reader, tmp_path, capsys):
    arguments = ["--reader", reader, "--count", "600", "--processes", "2", "--output", str(tmp_path / "failures")]
    assert fuzz.main(arguments) == 0
    out = capsys.readouterr().out
    counts = {kind: int(count.replace(",", "")) for count, kind in re.findall(r"^ *([0-9,]+)  (\S+)$", out, re.M)}
    assert counts.pop("cases") == sum(counts.values()) == 600
    assert counts["value"] > 30  # else the mutations would end at the first check, and show nothing
    assert EXPECTED[reader] <= set(counts)
    assert "warnings: 0" in out
    assert not (tmp_path / "failures").exists()


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_the_files_that_are_mutated_are_good(reader, tmp_path):
    chosen = fuzz.READERS[reader]
    for seed in chosen.seeds():
        path = tmp_path / "case"
        path.write_bytes(seed.data)
        value = chosen.read(path)
        assert chosen.fine(value)
        assert value


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_a_case_depends_on_seed_and_index_only(reader):
    chosen = fuzz.READERS[reader]
    seeds, again = chosen.seeds(), chosen.seeds()
    cases = [fuzz.mutated(index, 0, chosen, seeds) for index in range(200)]
    assert [fuzz.mutated(index, 0, chosen, again) for index in reversed(range(200))] == cases[::-1]
    assert len(set(cases)) > 150
    assert fuzz.mutated(5, 1, chosen, seeds) != cases[5]


# The tool itself: a planted reader goes wrong at one case. Crashes and hangs are those of test_hostile_pictures.py.

PLANTED = """
import os
import npmobilevit.checkpoints.torch_file
from pathlib import Path
bad = Path(__file__).with_name("bad.bin").read_bytes()
def read(path):
    if path.read_bytes() == bad:
        {fault}
    return npmobilevit.checkpoints.torch_file.read_torch(path)
"""

FAULTS = {
    "foreign: KeyError": "raise KeyError('planted')",
    "foreign: result": "import numpy; return {'a': numpy.array(numpy.nan)}",
    "foreign: did os.system": "os.system('true')",
    "foreign: did open": "path.write_bytes(b'')",
    "foreign: did import": "import wave",
}


@pytest.mark.parametrize("outcome", FAULTS)
def test_the_tool_finds_every_fault(outcome, tmp_path, monkeypatch, capsys):
    (tmp_path / "planted_torch.py").write_text(PLANTED.format(fault=FAULTS[outcome]), encoding="utf-8")
    torch = fuzz.READERS["torch"]
    (tmp_path / "bad.bin").write_bytes(fuzz.mutated(3, 0, torch, torch.seeds()))
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--count", "6", "--processes", "1", "--output", str(tmp_path / "failures")]
    assert fuzz.main(["--reader", "torch", "--function", "planted_torch:read", *options]) == 1
    out = capsys.readouterr().out
    assert f"FAILED case 3: {outcome}" in out
    assert out.count("FAILED") == 1
    assert "6  cases" in out  # the others were read all the same
    saved = tmp_path / "failures" / "torch" / "0-3.bin"
    assert saved.read_bytes() == (tmp_path / "bad.bin").read_bytes()
    assert str(saved) in out
