"""What the documents show of torch is run, and prints what stands below it."""

import itertools
import re
from pathlib import Path

import pytest
import test_documents

pytestmark = pytest.mark.framework
pytest.importorskip("transformers")

NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?")


def shown():
    """Code that imports torch, and the beginning of what it prints."""
    for path in test_documents.DOCUMENTS:
        found = test_documents.blocks(path.read_text(encoding="utf-8"))
        for (language, code, line), (below, text, _) in itertools.pairwise(found):
            if language == "python" and "import torch" in code:
                assert below == "text"
                yield pytest.param(code, text, id=f"{path.name}:{line}")


def test_there_is_a_walk_through():
    assert len(list(shown())) >= 1


@pytest.mark.parametrize(("code", "text"), list(shown()))
def test_code_with_torch_prints_what_is_shown(code, text, capsys, monkeypatch):
    """Up to a line of dots. Numbers with a point may differ by a percent from machine to machine; all else may not."""
    monkeypatch.chdir(Path(__file__).parents[2])
    exec(compile(code, "document", "exec"), {"__name__": "document"})
    text = text.removesuffix("...\n")
    lines = text.splitlines()
    printed = capsys.readouterr().out.splitlines()[: len(lines)]
    assert [NUMBER.sub("#", line) for line in printed] == [NUMBER.sub("#", line) for line in lines]
    numbers = [float(number) for number in NUMBER.findall(text)]
    assert [float(number) for number in NUMBER.findall("\n".join(printed))] == pytest.approx(numbers, rel=0.01)
