"""The commands of reference/fixed_point.md do what it says, and its Python and its Verilog are of the same vectors."""

import json
import re

import pytest

from npmobilevit import cli

STEM = "mobilevit.conv_stem"


class Called(Exception):
    """A command would run now."""


def test_the_python_has_the_arguments_of_the_command(document, export, monkeypatch):
    (code,) = (
        block for block in re.findall(r"^```python\n(.*?)^```$", document, re.MULTILINE | re.DOTALL) if "main(" in block
    )

    def called(arguments):
        raise Called(*arguments)

    monkeypatch.setattr(cli, "main", called)
    found = {}
    with pytest.raises(Called) as caught:
        exec(compile(code, "document", "exec"), found)
    assert [word.replace(str(found["folder"]), "vectors") for word in caught.value.args] == export
    assert found["names"] == export[export.index("--layers") + 1].split(",")


def test_the_command_writes_what_check_judges(commands, written, monkeypatch, capsys):
    assert (written / "vectors.csv").read_text().startswith("name,kind,")
    (check,) = (words for words in commands if words[0] == "check")
    monkeypatch.chdir(written)
    assert cli.main(check) == 0
    assert "SCREENED" in capsys.readouterr().out


def test_the_numbers_of_the_bench_are_those_of_the_layer(document, written):
    (source,) = re.findall(r"^```verilog\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    numbers = {name: int(number) for name, number in re.findall(r"\b([A-Z]+) = (\d+)", source)}
    folder = written / "vectors"
    layer = json.loads((folder / "layers.json").read_text())["layers"][STEM]
    taps = [json.loads((folder / part / "manifest.json").read_text())["taps"] for part in ("recorded", "")]
    maps = [*taps[0][layer["inputs"][0]]["shape"][1:], *taps[1][layer["output"]]["shape"][1:]]
    assert [numbers[name] for name in "IHWOPQ"] == maps
    assert numbers["SHIFT"] == layer["shift"]
    assert (layer["stride"], layer["padding"], layer["dilation"], layer["groups"]) == ([2, 2], [1, 1], [1, 1], 1)
