"""Write reference/hostile_input.md: every case of mistaken or hostile input, its outcome, and the test that shows it.

The table is collected from the tests themselves: a test that shows a case carries a mark

    @pytest.mark.case("38", "a folder, a missing file, a device", "ImageError that names the path")

A test of the default run compares the file with what this tool would write.

Run:  python tools/make_case_table.py
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "reference" / "hostile_input.md"

# The numbers of each part of the table, and the part's title.
PARTS = {
    range(1, 41): "Picture files",
    range(41, 57): "Arrays and other inputs",
    range(57, 87): "Weights",
    range(87, 95): "Configs",
    range(95, 114): "The Hub",
    range(114, 126): "The command line",
    range(145, 166): "Recordings, and tensors of ports",
    range(166, 169): "Ranges and test vectors",
    range(169, 172): "Pages that explain",
}

HEAD = """\
# Mistaken and hostile input

What becomes of every case of a study that was made before the code, and of those that came up later, and the test that
shows it. The first column is the number of the case; cases that belong together share a row. Made from the marks
`case` of the tests by `python tools/make_case_table.py`; a test compares.
"""


class Case(NamedTuple):
    """One mark: the numbers it covers, what is tried, what comes of it, and the test."""

    numbers: str
    case: str
    outcome: str
    test: str

    def covered(self) -> set[int]:
        """All numbers of the case."""
        found: set[int] = set()
        for part in self.numbers.split(","):
            first, _, last = part.strip().partition("-")
            found |= set(range(int(first), int(last or first) + 1))
        return found


def marks(path: Path) -> Iterator[Case]:
    """The marks of the tests in a file; a mark whose arguments are not three literal strings is an error."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.case":
                numbers, case, outcome = (ast.literal_eval(argument) for argument in decorator.args)
                yield Case(numbers, case, outcome, f"{path.relative_to(ROOT).as_posix()}::{node.name}")


def cases(folder: Path = ROOT / "tests") -> list[Case]:
    """All cases, in the order of their first numbers."""
    found = [case for path in sorted(folder.rglob("test_*.py")) for case in marks(path)]
    return sorted(found, key=lambda case: (min(case.covered()), case.numbers, case.case))


def missing(found: list[Case]) -> list[int]:
    """The numbers that no test shows."""
    covered = set().union(*(case.covered() for case in found))
    return [number for numbers in PARTS for number in numbers if number not in covered]


def strays(found: list[Case]) -> list[str]:
    """The cases whose number belongs to no part, so that the table would lack them."""
    numbers = set().union(*PARTS)
    return [case.test for case in found if min(case.covered()) not in numbers]


def table(found: list[Case]) -> str:
    """The document."""
    lines = [HEAD]
    for numbers, title in PARTS.items():
        lines += [f"## {title}\n", "| case | what is tried | what comes of it | test |", "|---|---|---|---|"]
        lines += [_row(case) for case in found if min(case.covered()) in numbers]
        lines.append("")
    return "\n".join(lines)


def _row(case: Case) -> str:
    path, name = case.test.split("::")
    link = f"[{name.removeprefix('test_').replace('_', ' ')}](../{path})"
    return f"| {case.numbers} | {_cell(case.case)} | {_cell(case.outcome)} | {link} |"


def _cell(text: str) -> str:
    return re.sub(r"([|<>*_`\[\]])", r"\\\1", text)


def main() -> None:
    """Write the table, or tell what is missing."""
    found = cases()
    if missing(found):
        raise SystemExit(f"no test shows the cases {missing(found)}")
    if strays(found):
        raise SystemExit(f"PARTS has no place for the cases of {strays(found)}")
    TABLE.write_text(table(found), encoding="utf-8")
    print(f"{TABLE.relative_to(ROOT)}: {len(found)} rows")


if __name__ == "__main__":
    main()
