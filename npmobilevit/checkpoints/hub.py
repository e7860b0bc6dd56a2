"""Files of a checkpoint on the Hugging Face Hub.

In this order:

1. the local cache, without any request;
2. one question for a file's metadata, which must be answered within `ANSWER_SECONDS`, without retries;
3. the download. It may take as long as it moves.

huggingface_hub by itself retries for 23 seconds when the connection is refused and for minutes when a host is
silent, does not compare what it downloads with the hash that the Hub names, and asks even for what is cached.

Every file is compared with its hash, on its way into the cache and again on its way out: the Hub sends it as the ETag,
by which the cache names the file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar
from urllib.parse import urlsplit

from npmobilevit.checkpoints.catalogue import near_names
from npmobilevit.checkpoints.files import read_at_once, regular_file_size, write_atomically
from npmobilevit.errors import CheckpointError

T = TypeVar("T")

ANSWER_SECONDS = 5.0
"""How long the Hub may take to answer the first question."""

_SHA1 = re.compile("[0-9a-f]{40}")  # of a commit, or of a file in git
_SHA256 = re.compile("[0-9a-f]{64}")  # of a file in large-file storage
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
_ADVICE = {
    "hub-unreachable": f"no answer (at most {ANSWER_SECONDS:.0f} s are waited for it); check the connection, "
    "pass a folder, or set HF_HUB_OFFLINE=1 to use only what is cached",
    "hub-download-failed": "the download broke off; try again",
    "hub-unauthorized": "not allowed, or no such repository; check the name, and for a private one log in with "
    "`hf auth login` or pass token=",
    "hub-gated": "its owner grants access on request; ask for it on the repository's page, then log in",
    "hub-repository-not-found": "no such repository",
    "hub-revision-not-found": "no such revision",
    "hub-file-not-found": "no such file; where weights have another name, download the file and pass its path",
    "hub-server-error": "the server failed; try again later",
    "hub-bad-answer": "something answers there, but not as a Hub does: perhaps a proxy or the log-in page of a network",
    "hub-cache-damaged": "the cache cannot be read; delete the repository's folder there or pass cache_dir=",
    "hub-cache-unwritable": "the cache cannot be written; free space there or pass cache_dir=",
    "hub-offline": "offline mode is set, and not all of it is cached; go online once, or pass a folder",
}


class HubArguments(TypedDict, total=False):
    """The keyword arguments of every function that takes a checkpoint's name; see `npmobilevit.load`."""

    revision: str | None
    cache_dir: str | Path | None
    local_files_only: bool
    token: str | bool | None
    force_download: bool


@dataclass(frozen=True)
class HubOptions:
    """How to get it; every field as in huggingface_hub."""

    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    token: str | bool | None = None
    force_download: bool = False


@dataclass(frozen=True)
class HubRequest:
    """What is wanted, from where.

    Attributes
    ----------
    repo : str
        Hub id ``owner/name``.
    places : tuple of (str, str)
        Branch, tag or commit, and file name; the first of these files that exists is taken.
    others : tuple of str
        Names of files wanted too, from the same commit; the repository may lack them.
    options : HubOptions
        Its ``revision`` is what the user asked for, from which the caller made `places`.
    """

    repo: str
    places: tuple[tuple[str, str], ...]
    others: tuple[str, ...]
    options: HubOptions


@dataclass(frozen=True)
class HubFiles:
    """Files of one commit.

    Attributes
    ----------
    paths : dict of str to Path
        By file name; the first is the one found in one of the places.
    commit : str
    verified : bool
        Whether every file was compared with its hash. It is not where the ETag is none, or the cache has no links.
    """

    paths: dict[str, Path]
    commit: str
    verified: bool


@dataclass(frozen=True)
class _Answer:
    """What the Hub says of a file that exists."""

    commit: str
    etag: str


def fetch(request: HubRequest) -> HubFiles:
    """Files for `request`, from the cache or the Hub.

    Raises
    ------
    CheckpointError
        Its code begins with ``hub-`` and names the cause. The token is in no message.
    """
    _require_client()
    if not request.options.force_download:
        for revision, name in request.places:
            cached = _cached_files(request, revision, name)
            if cached is not None:
                return cached
    _refuse_offline(request)
    _refuse_malformed_token(request.options.token)
    return _download(request, *_first_answer(request))


def _require_client() -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            "a checkpoint on the Hub needs the package huggingface_hub: install it, or pass a folder",
            "hub-not-installed",
        ) from error


def _cached_files(request: HubRequest, revision: str, first: str) -> HubFiles | None:
    """Files in the cache; None if `first` is missing, or another is and is not known to be absent from the commit."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    found: dict[str, Path] = {}
    for name in (first, *request.others):
        with _explained(request, name, revision, otherwise="hub-cache-damaged"):
            path = try_to_load_from_cache(request.repo, name, cache_dir=request.options.cache_dir, revision=revision)
        if isinstance(path, str):
            found[name] = Path(path)
        elif name == first or path is not _CACHED_NO_EXIST:
            return None
    verified = [_is_as_cached(path) for path in found.values()]
    return HubFiles(found, _commit_of(found[first]), verified=all(verified))


def _is_as_cached(path: Path) -> bool:
    """Compare a file of the cache with its hash: it is a link, named as in the repository, to a file named by its ETag.

    False where there is no such hash. The file is kept if it differs, as someone may have edited it on purpose.
    """
    etag = Path(os.readlink(path)).name if path.is_symlink() else ""
    found = _hash(path, etag)
    if found not in (None, etag):
        raise CheckpointError(
            f"{path} is not what the Hub sent: its hash is {found} now; remove it or pass force_download=True to "
            "download it again, or copy the folder and pass that if the change was meant",
            "hub-cache-damaged",
        )
    return found is not None


def _commit_of(path: Path) -> str:
    return path.parent.name  # the cache's layout: snapshots/<commit>/<file>


def _refuse_offline(request: HubRequest) -> None:
    from huggingface_hub import constants

    if request.options.local_files_only or constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"cannot get {request.repo} from {_host()}: {_ADVICE['hub-offline']} "
            f"(wanted: {_first_names(request)}{''.join(f', {name}' for name in request.others)}; "
            f"cache: {request.options.cache_dir or constants.HF_HUB_CACHE})",
            "hub-offline",
        )


def _refuse_malformed_token(token: str | bool | None) -> None:
    if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
        # The HTTP client would refuse it too, but with the token in its message.
        raise CheckpointError("the token is empty or has characters that no token has", "hub-token-malformed")


def _first_names(request: HubRequest) -> str:
    return " or ".join(dict.fromkeys(name for _, name in request.places))


def _first_answer(request: HubRequest) -> tuple[str, str, _Answer]:
    """First of the places where there is a file: revision, file name, and what the Hub says of it."""
    *earlier, last = request.places
    for revision, name in earlier:
        try:
            return revision, name, _ask(request, name, revision)
        except CheckpointError as error:
            if error.code not in ("hub-file-not-found", "hub-revision-not-found"):
                raise
    revision, name = last
    return revision, name, _ask(request, name, revision, called=_first_names(request))


def _ask(request: HubRequest, name: str, revision: str, called: str | None = None) -> _Answer:
    """Metadata of the file `name`, which errors call `called`."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    called, token = called or name, request.options.token
    with _explained(request, called, revision, otherwise="hub-unreachable"):
        url = hf_hub_url(request.repo, name, revision=revision)
        metadata = _within(ANSWER_SECONDS, lambda: get_hf_file_metadata(url, timeout=ANSWER_SECONDS, token=token))
    if not _SHA1.fullmatch(metadata.commit_hash or "") or not metadata.etag:
        raise _error(request, called, revision, "hub-bad-answer")
    return _Answer(str(metadata.commit_hash), metadata.etag)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Result of `call`, or TimeoutError after `seconds`.

    The client's own timeout starts afresh for each step (name look-up, connection, its telemetry request, answer).
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(timeout=seconds)


def _download(request: HubRequest, revision: str, first: str, answer: _Answer) -> HubFiles:
    """The file `first`, which `answer` is about, and the others of its commit."""
    # By the commit: asked for by its branch, the client puts what the branch holds a moment later under this commit.
    commit = answer.commit
    found = {first: _download_file(request, first, answer)}
    root = found[first][0].parents[2]
    for name in request.others:
        try:
            found[name] = _download_file(request, name, _ask(request, name, commit))
        except CheckpointError as error:
            if error.code != "hub-file-not-found":
                raise
            _note(root / ".no_exist" / commit / name, b"")
    if revision != commit:
        # Only now, when all files are there: a download that fails leaves the revision at the commit it was at.
        _note(root / "refs" / revision, commit.encode())
    paths = {name: path for name, (path, _) in found.items()}
    return HubFiles(paths, commit, verified=all(verified for _, verified in found.values()))


def _note(path: Path, data: bytes) -> None:
    """Note in the cache, as the client does, what need not be asked again."""
    with suppress(OSError):  # in a cache that cannot be written the Hub is asked again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)


def _download_file(request: HubRequest, name: str, answer: _Answer) -> tuple[Path, bool]:
    """Path of the file in the cache, and whether its hash was there to be compared."""
    from huggingface_hub import hf_hub_download

    with _explained(request, name, answer.commit, otherwise="hub-download-failed"):
        path = Path(
            hf_hub_download(
                request.repo,
                name,
                revision=answer.commit,
                cache_dir=request.options.cache_dir,
                token=request.options.token,
                force_download=request.options.force_download,
            )
        )
    found = _hash(path, answer.etag)
    if found not in (None, answer.etag):
        for damaged in (path.resolve(), path):  # the blob, and the link to it
            damaged.unlink(missing_ok=True)
        raise CheckpointError(
            f"{name} of {request.repo} came damaged from {_host()}: its hash is {found}, the Hub says {answer.etag}; "
            "it was deleted, try again",
            "hub-hash-mismatch",
        )
    return path, found is not None


def _hash(path: Path, etag: str) -> str | None:
    """Hash of a file, of the kind that `etag` is: SHA-256, or the SHA-1 that git has of it. None for any other."""
    if _SHA256.fullmatch(etag):
        digest = hashlib.sha256()
    elif _SHA1.fullmatch(etag):
        digest = hashlib.sha1(b"blob %d\0" % regular_file_size(path), usedforsecurity=False)
    else:
        return None
    digest.update(read_at_once(path))
    return digest.hexdigest()


@contextmanager
def _explained(request: HubRequest, name: str, revision: str, *, otherwise: str) -> Iterator[None]:
    """Turn whatever the client raises into a CheckpointError; `otherwise` is the code of what it does not name.

    The client raises its own errors, OSErrors, ValueErrors, and errors of its HTTP library that are none of these.
    """
    try:
        yield
    except Exception as error:
        raise _error(request, name, revision, _code_of(error, otherwise), error) from error


def _code_of(error: BaseException, otherwise: str) -> str:
    cause: BaseException | None = error
    while cause is not None:
        code = _own_code(cause)
        if code is not None:
            return code
        cause = cause.__cause__  # "check your connection" hides a 403 or 503 there
    return otherwise


def _own_code(error: BaseException) -> str | None:
    from huggingface_hub import errors

    status = _status(error)
    if isinstance(error, errors.GatedRepoError):
        return "hub-gated"
    if status in (401, 403):
        return "hub-unauthorized"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "hub-repository-not-found"
    if isinstance(error, errors.RevisionNotFoundError):
        return "hub-revision-not-found"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return "hub-file-not-found"
    if isinstance(error, errors.FileMetadataError):
        return "hub-bad-answer"
    if status is not None:
        return "hub-server-error"
    return "hub-cache-unwritable" if isinstance(error, OSError) and error.errno in _DISK_ERRORS else None


def _status(error: BaseException) -> int | None:
    """HTTP status of the answer that `error` is about, if any."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _error(
    request: HubRequest, name: str, revision: str, code: str, cause: BaseException | None = None
) -> CheckpointError:
    status = _status(cause) if cause is not None else None
    details = f" (HTTP {status})" if status is not None else f" ({type(cause).__name__})" if cause is not None else ""
    misspelled = code in ("hub-repository-not-found", "hub-unauthorized")
    return CheckpointError(
        f"cannot get {name} of {request.repo}, revision {revision}, from {_host()}: {_ADVICE[code]}{details}"
        f"{near_names(request.repo) if misspelled else ''}",
        code,
    )


def _host() -> str:
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2] or constants.ENDPOINT
