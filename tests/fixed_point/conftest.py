"""What reference/fixed_point.md shows on the command line, and the test vectors that its command writes."""

import re
import shlex
from pathlib import Path

import pytest

from npmobilevit.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def document():
    """The text of the document."""
    return (ROOT / "reference" / "fixed_point.md").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def commands(document):
    """The arguments of its npmobilevit commands, by the first one of each."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    found = [shlex.split(block.replace("\\\n", " ")) for block in blocks]
    assert {words[0] for words in found} == {"npmobilevit"}
    return [words[1:] for words in found]


@pytest.fixture(scope="session")
def export(commands):
    """The arguments of the one that writes test vectors."""
    (found,) = (words for words in commands if "--export" in words)
    return found


@pytest.fixture(scope="session")
def written(tmp_path_factory, export):
    """The folder in which this command was run; that of the vectors, "vectors", is in it."""
    folder = tmp_path_factory.mktemp("document")
    (folder / "reference").symlink_to(ROOT / "reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(export) == 0
    return folder
