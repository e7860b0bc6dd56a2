"""The names a checkpoint may have: shipped ones, aliases and Hub ids."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from npmobilevit.errors import CheckpointError

ALIASES = {
    "xx-small": "apple/mobilevit-xx-small",
    "x-small": "apple/mobilevit-x-small",
    "small": "apple/mobilevit-small",
    "deeplabv3-xx-small": "apple/deeplabv3-mobilevit-xx-small",
    "deeplabv3-x-small": "apple/deeplabv3-mobilevit-x-small",
    "deeplabv3-small": "apple/deeplabv3-mobilevit-small",
}
"""Short names of the checkpoints that Apple published."""

_SHIPPED = Path(__file__).parent / "shipped"
_MAIN = "main"
_APPLE_SAFETENSORS = "refs/pr/2"  # the pull request with model.safetensors, not merged when last seen
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_HUB_ID = re.compile(f"{_PART}/{_PART}")
_REVISION = re.compile(r"(?!.*\.\.)[^\s/\\][^\s\\]*")  # it becomes part of a path in the cache


def shipped_names() -> list[str]:
    """Names of the checkpoints inside this package, sorted."""
    return sorted(config.parent.name for config in _SHIPPED.glob("*/config.json"))


def shipped_folder(name: str) -> Path:
    """Folder of the shipped checkpoint `name`."""
    return _SHIPPED / name


def hub_id(name: str) -> str:
    """Hub id ``owner/name`` that `name` stands for: an alias, or such an id itself.

    Raises
    ------
    CheckpointError
        ``checkpoint-name-invalid``, with the nearest known names.
    """
    name = ALIASES.get(name, name)
    if not _HUB_ID.fullmatch(name) or len(name) > 96 or "--" in name or ".." in name or name.endswith(".git"):
        raise CheckpointError(
            f"{name[:200]!r} is no checkpoint: give a shipped name, an alias, a Hub id 'owner/name', or a folder, "
            f"one that exists or a path that starts with '.', '/' or '~'{near_names(name)}",
            "checkpoint-name-invalid",
        )
    return name


def hub_revisions(repo: str, revision: str | None) -> tuple[str, ...]:
    """Revisions of the Hub repository `repo` to look in, in this order; a `revision` asked for is the only one.

    The six repositories of Apple have no model.safetensors on ``main``, only in a pull request.

    Raises
    ------
    CheckpointError
        ``checkpoint-revision-invalid``.
    """
    if revision is not None:
        if not _REVISION.fullmatch(revision):
            raise CheckpointError(f"{revision[:200]!r} is no branch, tag or commit", "checkpoint-revision-invalid")
        return (revision,)
    return (_MAIN, _APPLE_SAFETENSORS) if repo in ALIASES.values() else (_MAIN,)


def near_names(name: str) -> str:
    """``"; did you mean 'a', 'b'?"`` with the known names nearest to `name`; if none is, all, except for a Hub id."""
    known = [*shipped_names(), *ALIASES, *ALIASES.values()]
    near = [other for other in difflib.get_close_matches(name[:200], known) if other != name]
    if near:
        return f"; did you mean {', '.join(map(repr, near))}?"
    return "" if "/" in name else f"; shipped: {', '.join(shipped_names())}; aliases: {', '.join(ALIASES)}"
