"""Everything a document shows is run: commands print what stands below them, Python runs, links lead somewhere."""

import re
import shlex
from pathlib import Path

import printed
import pytest

from npmobilevit import cli

ROOT = Path(__file__).parents[1]

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "reference" / "guide" / "README.md", *(ROOT / "reference").glob("*.md")])
ELSEWHERE = ("import torch", "from distributed import")  # Python with these is run by tests/framework
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text):
    """(language, contents, line number) of every fenced block."""
    return [(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]


def python_blocks():
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        shown = [code for language, code, _ in blocks(text) if language == "python"]
        parts = [code for code in shown if not any(words in code for words in ELSEWHERE)]
        if parts:
            yield pytest.param("\n".join(parts), id=path.name)


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch, clean_environment):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("code", list(python_blocks()))
def test_python_of_a_document_runs_and_prints_what_its_comments_say(code):
    assert printed.differences(code) == []


def test_the_two_blocks_come_first_and_hold_what_ci_runs():
    fenced = [(code, line) for language, code, line in blocks(README) if language == "bash"]
    (install, _), (test, test_line) = fenced[:2]
    assert test_line + len(test.splitlines()) < 15  # the line of the closing fence comes next
    assert install.splitlines()[0] == "python -m pip install ."
    assert install.splitlines()[1].startswith("npmobilevit predict reference/images/chelsea.png")
    assert test.splitlines() == ["python -m pip install '.[test]'", "python -m pytest"]


def test_commands_print_what_the_readme_shows(capsys):
    """A ``text`` block shows what the last npmobilevit command of the bash block before it prints."""
    shown = 0
    command: list[str] = []
    for language, code, _ in blocks(README):
        if language == "bash":
            command = [line for line in code.splitlines() if line.startswith("npmobilevit ")][-1:] or command
        elif language == "python":
            command = []
        elif language == "text" and command:
            assert cli.main(shlex.split(command[0])[1:]) == 0
            assert capsys.readouterr().out == code
            shown += 1
    assert shown >= 1


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_and_named_files_exist(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target
    for tool in re.findall(r"\btools/\w+\.py\b", text):
        assert (ROOT / tool).exists(), tool
