"""What an installation takes: the files of some distributions and of all that they ask for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from resumable import Json

import npmobilevit

INSTALLATIONS = {
    "PyTorch and transformers": ("torch", "transformers", "pillow"),
    "ONNX Runtime": ("onnxruntime", "numpy", "pillow"),
    "npmobilevit": ("npmobilevit",),
}


def measure() -> Json:
    return {name: installation(roots) for name, roots in INSTALLATIONS.items()}


def installation(roots: Iterable[str]) -> Json:
    """Number of distributions and of bytes, without compiled bytecode.

    Raises
    ------
    SystemExit
        If one of them is not installed here.
    """
    try:
        found = closure(map(Requirement, roots))
    except PackageNotFoundError as error:
        raise SystemExit(f"error: {error.name} is not installed, so that its size is not known") from error
    return {"distributions": len(found), "bytes": sum(map(size, found.values()))}


def closure(roots: Iterable[Requirement]) -> dict[str, Distribution]:
    """The distributions that are asked for, directly or not, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = list(roots)
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        found[name] = distribution(name)
        new = [extra for extra in ("", *sorted(wanted.extras)) if (name, extra) not in seen]
        seen |= {(name, extra) for extra in new}
        waiting += required(found[name], new)
    return found


def required(asking: Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    """What a distribution asks for here, with these of its extras; "" is none."""
    for requirement in map(Requirement, asking.requires or ()):
        if any(requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement


def size(one: Distribution) -> int:
    """Bytes of its files; of our own, which may be linked to and not copied, of the package's folder."""
    if canonicalize_name(one.name) == "npmobilevit":
        files = [path for path in Path(npmobilevit.__file__).parent.rglob("*") if path.is_file()]
    else:
        files = [Path(str(one.locate_file(file))) for file in one.files or ()]
    return sum(path.stat().st_size for path in files if path.suffix != ".pyc" and path.exists())
