"""Code that says what it prints: ``print(value)  # -> text``."""

import builtins
import io
import re
import sys
from typing import Any

SAID = re.compile(r"^\s*print\(.*\)  # -> (.*)$")


def said(code: str) -> dict[int, list[str]]:
    """What the comments behind the prints say, by line."""
    found = ((number, SAID.match(line)) for number, line in enumerate(code.splitlines(), start=1))
    return {number: [match[1]] for number, match in found if match}


def printed(code: str, namespace: dict[str, Any], name: str = "code") -> dict[int, list[str]]:
    """Run code and return what its own prints gave, by their line."""
    texts: dict[int, list[str]] = {}

    def noted(*values: Any, **options: Any) -> None:
        out = io.StringIO()
        builtins.print(*values, **{"file": out, **options})
        texts.setdefault(sys._getframe(1).f_lineno, []).append(out.getvalue().removesuffix("\n"))

    exec(compile(code, name, "exec"), {"print": noted, "__name__": "__main__", **namespace})
    return texts


def differences(code: str, namespace: dict[str, Any] | None = None, name: str = "code") -> list[str]:
    """Run code; the lines that print something else than they say."""
    found = printed(code, namespace or {}, name)
    return [
        f"{name}:{line} prints {found.get(line, [])}, and says {texts}"
        for line, texts in said(code).items()
        if found.get(line, []) != texts
    ]
