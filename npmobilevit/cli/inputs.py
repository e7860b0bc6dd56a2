"""INPUT arguments -> pictures: files, folders, patterns, lists of names, and stdin.

What exists under the very name of an argument is that file or folder, whatever signs the name has. An argument
that leads to no picture is one failed input; the others go on.
"""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import BinaryIO, NamedTuple

from npmobilevit.cli.console import is_terminal
from npmobilevit.cli.ending import usage
from npmobilevit.errors import ImageError

STDIN = "-"
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Of the files that predict and segment write into folders.
RESULT_SUFFIXES = {"mask": ".mask.png", "overlay": ".overlay.png", "plot": ".plot.png"}
MAX_LIST_BYTES = 64 * 2**20


class Input(NamedTuple):
    """A picture to work on, or what came of an argument that led to none.

    Attributes
    ----------
    name : str
        As it is reported.
    source : str or binary file object
        What the library reads.
    place : str
        Relative path of its results below an output folder, without suffix; it never leads out of there.
    failure : ImageError or None
        Why it is not to be read at all.
    """

    name: str
    source: str | BinaryIO
    place: str
    failure: ImageError | None = None


class Inputs(NamedTuple):
    """What the arguments led to.

    Attributes
    ----------
    pictures : list of Input
    lists : list of str
        Files that named pictures.
    skipped : int
        Number of files in folders whose names are not those of pictures, or are those of masks, overlays and
        plots.
    one_picture : bool
        There was one argument, and it was a file or stdin.
    """

    pictures: list[Input]
    lists: list[str]
    skipped: int
    one_picture: bool


def find_inputs(arguments: Sequence[str], *, recursive: bool) -> Inputs:
    """Expand the INPUT arguments, each in its place.

    Parameters
    ----------
    arguments : sequence of str
    recursive : bool
        Whether a folder stands for the pictures in its subfolders, too.

    Returns
    -------
    Inputs

    Raises
    ------
    Stop
        If stdin is named twice, or there is nothing but a keyboard to read from.
    """
    _check_stdin(arguments.count(STDIN))
    kinds = [_kind(argument) for argument in arguments]
    pictures: list[Input] = []
    skipped = 0
    for argument, kind in zip(arguments, kinds, strict=True):
        if kind == "folder":
            found, others = _in_folder(argument, recursive)
            skipped += others
        else:
            found = _EXPAND[kind](argument)
        pictures += found
    lists = [argument[1:] for argument, kind in zip(arguments, kinds, strict=True) if kind == "list"]
    return Inputs(pictures, lists, skipped, one_picture=kinds in (["file"], ["stdin"]))


def _check_stdin(count: int) -> None:
    if count > 1:
        raise usage("stdin-twice", "- may be given once: stdin holds one picture")
    if count and (sys.stdin is None or is_terminal(sys.stdin)):
        raise usage("stdin-terminal", "- reads a picture from stdin: pipe or redirect one into the command")


def _kind(argument: str) -> str:
    """One of "stdin", "folder", "file", "list" and "pattern"; what is not there is a file that is missing."""
    if argument == STDIN:
        return "stdin"
    if os.path.lexists(argument):
        return "folder" if os.path.isdir(argument) else "file"
    if argument.startswith("@"):
        return "list"
    web = argument.startswith(("http://", "https://"))  # the library says what to do about those
    return "pattern" if glob.has_magic(argument) and not web else "file"


def _failed(name: str, code: str, message: str) -> Input:
    return Input(name, name, "", ImageError(message, code))


def inside(path: str) -> str:
    """`path` without drive, root and ``..``: wherever that is joined to, it stays below."""
    pure = PurePath(path)
    parts = pure.parts[1:] if pure.anchor else pure.parts
    return os.path.join("", *(part for part in parts if part != ".."))


# Folders


def _in_folder(folder: str, recursive: bool) -> tuple[list[Input], int]:
    """The pictures in a folder, sorted, each folder before those below it; and the number of other files."""
    found: list[Input] = []
    others = 0
    waiting = [""]
    while waiting:  # no recursion: trees can be deeper than Python's stack
        below = waiting.pop()
        path = os.path.join(folder, below) if below else folder
        try:
            files, folders = _list_folder(path)
        except OSError as error:
            found.append(_failed(path, "folder-unreadable", f"cannot read folder {path!r}: {error.strerror or error}"))
            continue
        pictures = [os.path.join(below, name) for name in files if _is_picture(name)]
        found += [Input(os.path.join(folder, name), os.path.join(folder, name), name) for name in pictures]
        others += len(files) - len(pictures)
        if recursive:
            waiting += [os.path.join(below, name) for name in reversed(folders)]
    if not found:
        hint = "name another folder" if recursive else "-r looks into subfolders as well"
        message = f"no pictures in folder {folder!r} (files ending in {', '.join(SUFFIXES)}); {hint}"
        found.append(_failed(folder, "no-pictures", message))
    return found, others


def _is_picture(name: str) -> bool:
    # what was written here before is no picture to segment
    return name.lower().endswith(SUFFIXES) and not name.endswith(tuple(RESULT_SUFFIXES.values()))


def _list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Names of the files in a folder and of the folders in it; hidden ones and links to folders are neither."""
    with os.scandir(folder) as entries:
        shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    folders = [entry.name for entry in shown if entry.is_dir(follow_symlinks=False)]
    # os.path.isdir, for entry.is_dir() fails on a link to itself; that one is a file, and fails when it is read
    return [entry.name for entry in shown if not os.path.isdir(entry.path)], folders


# Patterns


def _matching(pattern: str) -> list[Input]:
    """The files whose names match; ``**`` stands for any number of folders."""
    parts = PurePath(pattern).parts
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
    root = os.path.join("", *fixed)
    names = sorted(set(_matches(root, parts[len(fixed) :])))
    if not names:
        return [_failed(pattern, "no-pictures", f"no file matches {pattern!r}; check it, and the working directory")]
    return [Input(os.path.join(root, name), os.path.join(root, name), inside(name)) for name in names]


def _matches(folder: str, parts: Sequence[str]) -> Iterator[str]:
    """Relative names of the files below `folder` that match `parts`, one for each level."""
    part, *rest = parts
    if part == "**":
        for below in _folders_below(folder):
            for name in _matches(os.path.join(folder, below), rest or ["*"]):
                yield os.path.join(below, name)
        return
    for name in _names(folder, part):
        is_folder = os.path.isdir(os.path.join(folder, name))
        if rest and is_folder:
            yield from (os.path.join(name, below) for below in _matches(os.path.join(folder, name), rest))
        elif not rest and not is_folder:
            yield name


def _folders_below(folder: str) -> Iterator[str]:
    """Relative names of a folder (empty) and of all folders below it that are neither hidden nor links."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        yield below
        try:
            folders = _list_folder(os.path.join(folder, below) or os.curdir)[1]
        except OSError:  # as in a shell: what cannot be read matches nothing
            continue
        waiting += [os.path.join(below, name) for name in folders]


def _names(folder: str, part: str) -> list[str]:
    """Names in `folder` that one level of a pattern matches; hidden ones only if it begins with a dot itself."""
    if not glob.has_magic(part):
        return [part] if os.path.lexists(os.path.join(folder, part)) else []
    try:
        names = os.listdir(folder or os.curdir)
    except OSError:
        return []
    return [name for name in fnmatch.filter(names, part) if part.startswith(".") or not name.startswith(".")]


# Lists


def _in_list(argument: str) -> list[Input]:
    """The pictures that a text file names, one a line."""
    try:
        with open(argument[1:], "rb") as file:
            data = file.read(MAX_LIST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return [_failed(argument, "list-unreadable", f"cannot read list {argument[1:]!r}: {reason}")]
    if len(data) > MAX_LIST_BYTES:
        message = f"list {argument[1:]!r} is larger than the limit of {MAX_LIST_BYTES:,} bytes; split it"
        return [_failed(argument, "list-too-large", message)]
    if b"\0" in data:
        message = f"list {argument[1:]!r} is no text in UTF-8; save it as UTF-8, one path a line"
        return [_failed(argument, "list-encoding", message)]
    # not splitlines: a name may hold other signs that Unicode counts as ends of lines
    lines = [line.removesuffix("\r") for line in data.decode("utf-8-sig", "surrogateescape").split("\n")]
    names = [line for line in lines if line.strip()]
    if not names:
        return [_failed(argument, "no-pictures", f"list {argument[1:]!r} is empty; write one path a line into it")]
    return [Input(name, name, inside(name)) for name in names]


_EXPAND: Mapping[str, Callable[[str], list[Input]]] = {
    "stdin": lambda argument: [Input(argument, sys.stdin.buffer, "stdin")],
    "file": lambda argument: [Input(argument, argument, os.path.basename(argument))],
    "list": _in_list,
    "pattern": _matching,
}
