"""The examples in the docstrings of the package give what they show."""

import doctest
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import npmobilevit

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NAMES = ["npmobilevit"] + [
    module.name
    for module in pkgutil.walk_packages(npmobilevit.__path__, "npmobilevit.")
    if "__main__" not in module.name
]


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


WITH_EXAMPLES = [name for name in NAMES if examples(importlib.import_module(name))]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_give_what_they_show(name, monkeypatch, clean_environment):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert doctest.testmod(importlib.import_module(name), optionflags=FLAGS).failed == 0


def test_examples_are_found_and_a_wrong_one_fails(capsys):
    assert {"npmobilevit", "npmobilevit.pipeline", "npmobilevit.ops.conv", "npmobilevit.config"} <= set(WITH_EXAMPLES)
    wrong = ModuleType("wrong")
    wrong.__doc__ = ">>> 1 + 1\n3\n"
    assert len(examples(wrong)) == 1
    assert doctest.testmod(wrong, optionflags=FLAGS).failed == 1
    assert "Expected:\n    3\nGot:\n    2" in capsys.readouterr().out
