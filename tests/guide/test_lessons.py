"""The guide: every lesson runs, prints what it says and makes its figure, and the answers to its exercises hold."""

import re
from pathlib import Path

import numpy as np
import printed
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "reference" / "guide"
LESSONS = sorted(GUIDE.glob("[0-9]*.py"))
MISTAKES = (ROOT / "reference" / "mistakes.md").read_text(encoding="utf-8")
# A text drawn by another version of Pillow lies differently by parts of a pixel.
FIGURE_TOLERANCE = 4  # of 255, in the mean over all pixels

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def markdown(code: str) -> str:
    """The text of the markdown cells."""
    cells = re.split(r"^# %%", code, flags=re.MULTILINE)
    texts = [cell.partition("\n")[2] for cell in cells if cell.startswith(" [markdown]")]
    return re.sub(r"^# ?", "", "\n".join(texts), flags=re.MULTILINE)


def answer(path: Path) -> Path:
    return GUIDE / "answers" / path.name


@pytest.fixture
def as_a_script(monkeypatch, tmp_path):
    """What is run finds lesson.py, as it would from its own folder, and writes its figures elsewhere."""
    monkeypatch.syspath_prepend(str(GUIDE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NPMOBILEVIT_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "figures"


@each_lesson
def test_a_lesson_prints_what_it_says_and_makes_its_figures(path, as_a_script):
    code = path.read_text(encoding="utf-8")
    assert printed.differences(code, name=path.name) == []
    assert len(printed.said(code)) >= 5
    made = sorted(figure.name for figure in as_a_script.iterdir())
    assert made == sorted(figure.name for figure in (GUIDE / "figures").glob(f"{path.stem}*"))
    for name in made:
        assert difference(GUIDE / "figures" / name, as_a_script / name) < FIGURE_TOLERANCE, name
        assert (GUIDE / "figures" / name).stat().st_size < 60_000, name


def difference(one: Path, other: Path) -> float:
    """Mean difference of two pictures of one size, in 0..255."""
    pixels = [np.asarray(Image.open(path).convert("RGB"), float) for path in (one, other)]
    assert pixels[0].shape == pixels[1].shape
    return float(np.abs(pixels[0] - pixels[1]).mean())


@each_lesson
def test_the_answers_hold(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code = answer(path).read_text(encoding="utf-8")
    assert printed.differences(code, name=path.name) == []


@each_lesson
def test_a_lesson_has_what_every_lesson_has(path):
    code = path.read_text(encoding="utf-8")
    text = markdown(code)
    number = int(path.name[:2])
    assert text.lstrip().startswith(f"# {number}. ")
    assert re.search(r"arxiv\.org/abs/\d{4}\.\d{4,5}|section \d|equation \d", text), "the source"
    exercises = text.partition("\n## Exercises\n")[2]
    assert re.findall(r"^(\d)\. ", exercises, re.MULTILINE) == ["1", "2", "3"]
    assert f"(answers/{path.name})" in exercises
    figures = re.findall(r"!\[([^\]]{30,})\]\((figures/[^)]+)\)", text)
    assert figures, "a figure with a text for those who do not see it"
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            assert (GUIDE / file).exists(), target
            assert not anchor or f"\n### {anchor.upper()}\n" in MISTAKES, target


@each_lesson
def test_every_answer_is_checked_by_its_code(path):
    code = answer(path).read_text(encoding="utf-8")
    parts = re.split(r"^# ## (\d)\. .*$", code, flags=re.MULTILINE)[1:]
    assert parts[::2] == ["1", "2", "3"]
    assert all(re.search(r"^\s*(assert |with pytest)", part, re.MULTILINE) for part in parts[1::2])


def test_the_lessons_are_those_of_the_contents():
    contents = (GUIDE / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((\d\d_\w+\.py)\)", contents)
    assert linked == [path.name for path in LESSONS]
    assert sorted(path.name for path in (GUIDE / "answers").glob("*.py")) == linked
    assert [int(name[:2]) for name in linked] == list(range(1, 13))


def test_the_checks_find_what_is_wrong(tmp_path):
    assert printed.differences("print(1 + 1)  # -> 2\nprint(3)\nprint(4)  # -> 4\n") == []
    assert printed.differences("print(3)\nprint(1 + 1)  # -> 3\n") == ["code:2 prints ['2'], and says ['3']"]
    assert printed.differences("if False:\n    print(2)  # -> 2\n") == ["code:2 prints [], and says ['2']"]
    for name, grey in (("a", 100), ("b", 105)):
        Image.new("RGB", (9, 9), (grey,) * 3).save(tmp_path / f"{name}.png")
    assert difference(tmp_path / "a.png", tmp_path / "b.png") == 5
