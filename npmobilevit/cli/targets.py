"""Output files: which picture's results go where, what is never overwritten, and writing."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from npmobilevit.cli.ending import EXIT_INPUT, Stop, usage
from npmobilevit.cli.inputs import RESULT_SUFFIXES, Input, Inputs
from npmobilevit.errors import ImageError
from npmobilevit.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image

# A mask is data, so that it has to be lossless; overlays and plots are there to be looked at.
_LOOKED_AT = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
FORMATS: Mapping[str, Mapping[str, str]] = {"mask": {".png": "PNG"}, "overlay": _LOOKED_AT, "plot": _LOOKED_AT}
# Where the name of one file is at fault, and not the disk or the folder, the next picture may fare better.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)

FileId: TypeAlias = tuple[int, int]
Existing: TypeAlias = Literal["refuse", "replace", "skip"]  # what is done about files that are there already


class Job(NamedTuple):
    """A picture, and the files that its results go to: kind ("mask", "overlay", "plot") to path."""

    input: Input
    targets: Mapping[str, str]


def file_ids(inputs: Inputs) -> set[FileId]:
    """What tells the files that are read from all others, under whatever names and links."""
    paths = [item.source for item in inputs.pictures if isinstance(item.source, str)] + inputs.lists
    return {found for path in paths if (found := _file_id(path)) is not None}


def _file_id(path: str) -> FileId | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _refusal(
    path: str, existing: Existing, read: Collection[FileId], taken: Collection[str] = (), *, skips: bool = False
) -> tuple[str, str] | None:
    """Code and message why `path` may not be written: what is `read`, and what this command writes itself."""
    if os.path.normpath(path) in taken:
        return "output-twice", f"{path!r} is written by this command already; choose another name or folder"
    if os.path.isdir(path) or not os.path.basename(path):
        return "output-is-folder", f"cannot write {path!r}: it is a folder; name a file"
    if _file_id(path) in read:
        return "output-is-input", f"will not write over the input {path!r}; name another file"
    if os.path.exists(path) and not os.path.isfile(path):
        return "output-not-file", f"will not replace {path!r}, which is no regular file; name another"
    if os.path.lexists(path) and existing == "refuse":
        keep = "keep it with --skip-existing, or " if skips else ""
        return "output-exists", f"{path!r} exists already; {keep}replace it with --force"
    return None


def check_file(path: str, existing: Existing, read: Collection[FileId], *, skips: bool = False) -> None:
    """Refuse an output file before any work is done.

    Parameters
    ----------
    path : str
    existing : {"refuse", "replace", "skip"}
        What is done if it is there already.
    read : collection of FileId
        The inputs, which it may never replace.
    skips : bool
        Whether the command has the option --skip-existing.

    Raises
    ------
    Stop
    """
    if (refusal := _refusal(path, existing, read, skips=skips)) is not None:
        raise usage(*refusal)
    _check_folder(os.path.dirname(path))


def _check_folder(folder: str) -> None:
    """Stop unless files can be made in `folder`, or the folder itself where it is to be made."""
    while folder and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    folder = folder or os.curdir
    if not os.path.isdir(folder):
        raise Stop(EXIT_INPUT, "output-unwritable", f"cannot write below {folder!r}: it is no folder")
    if not os.access(folder, os.W_OK):
        raise Stop(EXIT_INPUT, "output-unwritable", f"cannot write into folder {folder!r}: no permission")


def check_export_folder(path: str, existing: Existing) -> None:
    """Refuse a folder that several files are to be written into, before any work is done.

    Parameters
    ----------
    path : str
    existing : {"refuse", "replace", "skip"}
        Whether it may hold files already: only with "replace".

    Raises
    ------
    Stop
    """
    if os.path.lexists(path) and not os.path.isdir(path):
        raise usage("output-not-folder", f"{path!r} has to be a folder, for there are several files")
    if os.path.isdir(path) and os.listdir(path) and existing != "replace":
        raise usage("output-exists", f"{path!r} is not empty; write into it all the same with --force")


def plan(
    inputs: Inputs,
    wanted: Mapping[str, str],
    *,
    existing: Existing = "refuse",
    skips: bool = False,
    taken: Collection[str] = (),
) -> list[Job]:
    """Say where the results of every picture go. A picture whose files may not be written is a failed input.

    Parameters
    ----------
    inputs : Inputs
    wanted : mapping of str to str
        Kind of output to the path that the command line names: a file for one picture, else a folder.
    existing : {"refuse", "replace", "skip"}
        What is done about files that are there already. "skip" leaves out the pictures that lack none of theirs.
    skips : bool
        Whether the command has the option --skip-existing.
    taken : collection of str
        Files that the command writes besides, which none of these may be.

    Returns
    -------
    list of Job

    Raises
    ------
    Stop
        If a path cannot be what it has to be.
    """
    read = file_ids(inputs) if wanted else set()
    files = {kind: path for kind, path in wanted.items() if inputs.one_picture and not _means_folder(path)}
    folders = {kind: path for kind, path in wanted.items() if kind not in files}
    for kind, path in files.items():
        _check_suffix(kind, path)
        check_file(path, existing, read, skips=skips)
    single = [*map(os.path.normpath, (*files.values(), *taken))]
    if len(set(single)) < len(single):
        raise usage("output-twice", "two outputs cannot be the same file; name another")
    for kind, path in folders.items():
        if not _means_folder(path) and os.path.splitext(path)[1].lower() in FORMATS[kind]:
            raise usage(
                "output-not-folder",
                f"{path!r} has the name of a file, and there may be several pictures; name a folder (with a slash at "
                "its end, it may have any name)",
            )
        if os.path.lexists(path) and not os.path.isdir(path):
            raise usage("output-not-folder", f"{path!r} has to be a folder, for there may be several pictures")
        _check_folder(path)
    jobs = [Job(item, files | _names(item, folders)) for item in inputs.pictures]
    if existing == "skip" and wanted:
        jobs = [job._replace(targets=_lacking(job)) for job in jobs]
        jobs = [job for job in jobs if job.targets or job.input.failure is not None]
    if not folders:
        return jobs
    refuse = functools.partial(_refusal, existing=existing, read=read, skips=skips)
    return list(_without_conflicts(jobs, files, single, refuse))


def _lacking(job: Job) -> dict[str, str]:
    return {kind: path for kind, path in job.targets.items() if not os.path.lexists(path)}


def _means_folder(path: str) -> bool:
    return os.path.isdir(path) or path.endswith(("/", os.sep))


def _check_suffix(kind: str, path: str) -> None:
    if os.path.splitext(path)[1].lower() not in FORMATS[kind]:
        raise usage(
            "output-suffix",
            f"{kind} file {path!r} has to end in {', '.join(FORMATS[kind])}; the name of a folder that is to be made "
            "ends in a slash",
        )


def _names(item: Input, folders: Mapping[str, str]) -> dict[str, str]:
    # the suffix of the picture stays: the results of cat.jpg and cat.png are not the same
    return {kind: os.path.join(folder, item.place + RESULT_SUFFIXES[kind]) for kind, folder in folders.items()}


def _without_conflicts(
    jobs: Iterable[Job],
    files: Mapping[str, str],
    taken: Iterable[str],
    refuse: Callable[..., tuple[str, str] | None],
) -> Iterator[Job]:
    """The jobs, failed where a target is refused or another's, too, or one of `taken`; `files` have been checked."""
    taken = set(taken)
    for job in jobs:
        targets = [path for kind, path in job.targets.items() if kind not in files]
        if job.input.failure is None:
            refusals = (refuse(path, taken=taken) for path in targets)
            refusal = next((found for found in refusals if found is not None), None)
            if refusal is None:
                taken |= set(map(os.path.normpath, targets))
            else:
                code, message = refusal
                failure = ImageError(f"{job.input.name!r} is left out: {message}", code)
                job = job._replace(input=job.input._replace(failure=failure))
        yield job


def encode(kind: str, picture: Image.Image, path: str) -> bytes:
    """Encode a mask, overlay or plot in the format that its file name asks for; ImageError if that cannot hold it."""
    buffer = BytesIO()
    name = FORMATS[kind][os.path.splitext(path)[1].lower()]
    try:
        picture.save(buffer, name, quality=95)  # PNG knows no quality and takes no offence
    except (OSError, ValueError) as error:
        message = f"cannot write {path!r}: {name} does not take {picture.height} x {picture.width} pixels ({error})"
        raise ImageError(f"{message}; name a .png file", "output-format") from error
    return buffer.getvalue()


def write(path: str, data: bytes) -> None:
    """Write a file whole or not at all.

    Parameters
    ----------
    path : str
    data : bytes

    Raises
    ------
    ImageError
        If the name of this file is at fault.
    Stop
        If none could be written.
    """
    try:
        write_atomically(Path(path), data)
    except OSError as error:
        message = f"cannot write {path!r}: {error.strerror or error}"
        if error.errno in _NAME_ERRORS:
            raise ImageError(message, "output-unwritable") from error
        raise Stop(EXIT_INPUT, "output-unwritable", message) from error


def write_report(path: str, text: str) -> None:
    """Write what would else have gone to stdout; raise Stop if that cannot be done."""
    try:
        write(path, text.encode())
    except ImageError as error:
        raise Stop(EXIT_INPUT, error.code, str(error)) from error
