"""Files of a checkpoint on the Hugging Face Hub.

In this order:

1. the local cache, without any request;
2. one question for a file's metadata, which must be answered within `ANSWER_SECONDS`, without retries;
3. the download. It may take as long as it moves.

huggingface_hub by itself retries for 23 seconds when the connection is refused and for minutes when a host is
silent, does not compare what it downloads with the hash that the Hub names, and asks even for what is cached.
"""

from __future__ import annotations

import errno
import hashlib
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
from npmobilevit.checkpoints.files import write_atomically
from npmobilevit.errors import CheckpointError

T = TypeVar("T")

ANSWER_SECONDS = 5.0
"""How long the Hub may take to answer the first question."""

_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")
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
    "hub-file-not-found": "no such file; only safetensors weights are read: load the model with transformers, save it "
    "with save_pretrained(folder), and pass that folder",
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
    revisions : tuple of str
        Branches, tags or commits to look in; one without ``required[0]`` is passed over for the next.
    required, optional : tuple of str
        File names. All come from one commit.
    options : HubOptions
        Its ``revision`` is what the user asked for, from which the caller made `revisions`.
    """

    repo: str
    revisions: tuple[str, ...]
    required: tuple[str, ...]
    optional: tuple[str, ...]
    options: HubOptions


@dataclass(frozen=True)
class HubFiles:
    """Files on disk by file name, and the commit they come from."""

    paths: dict[str, Path]
    commit: str


def fetch(request: HubRequest) -> HubFiles:
    """Files for `request`, from the cache or the Hub.

    Raises
    ------
    CheckpointError
        Its code begins with ``hub-`` and names the cause. The token is in no message.
    """
    _require_client()
    if not request.options.force_download:
        for revision in request.revisions:
            cached = _cached_files(request, revision)
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


def _cached_files(request: HubRequest, revision: str) -> HubFiles | None:
    """Files in the cache; None if any is missing, or an optional one is not known to be absent from the commit."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    found: dict[str, Path] = {}
    for name in (*request.required, *request.optional):
        with _explained(request, name, revision, otherwise="hub-cache-damaged"):
            path = try_to_load_from_cache(request.repo, name, cache_dir=request.options.cache_dir, revision=revision)
        if isinstance(path, str):
            found[name] = Path(path)
        elif name in request.required or path is not _CACHED_NO_EXIST:
            return None
    return HubFiles(found, _commit_of(found[request.required[0]]))


def _commit_of(path: Path) -> str:
    return path.parent.name  # the cache's layout: snapshots/<commit>/<file>


def _refuse_offline(request: HubRequest) -> None:
    from huggingface_hub import constants

    if request.options.local_files_only or constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"cannot get {request.repo} from {_host()}: {_ADVICE['hub-offline']} "
            f"(wanted: {', '.join((*request.required, *request.optional))}; "
            f"cache: {request.options.cache_dir or constants.HF_HUB_CACHE})",
            "hub-offline",
        )


def _refuse_malformed_token(token: str | bool | None) -> None:
    if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
        # The HTTP client would refuse it too, but with the token in its message.
        raise CheckpointError("the token is empty or has characters that no token has", "hub-token-malformed")


def _first_answer(request: HubRequest) -> tuple[str, str, str]:
    """First of the revisions that has ``required[0]``; its commit, and that file's ETag."""
    *earlier, last = request.revisions
    for revision in earlier:
        try:
            return revision, *_commit_and_etag(request, revision)
        except CheckpointError as error:
            if error.code not in ("hub-file-not-found", "hub-revision-not-found"):
                raise
    return last, *_commit_and_etag(request, last)


def _commit_and_etag(request: HubRequest, revision: str) -> tuple[str, str]:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    name, token = request.required[0], request.options.token
    with _explained(request, name, revision, otherwise="hub-unreachable"):
        url = hf_hub_url(request.repo, name, revision=revision)
        metadata = _within(ANSWER_SECONDS, lambda: get_hf_file_metadata(url, timeout=ANSWER_SECONDS, token=token))
    if not _COMMIT.fullmatch(metadata.commit_hash or "") or not metadata.etag:
        raise _error(request, name, revision, "hub-bad-answer")
    return str(metadata.commit_hash), metadata.etag


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


def _download(request: HubRequest, revision: str, commit: str, etag: str) -> HubFiles:
    """All files of the commit. `etag` is that of ``required[0]``."""
    # By the commit: asked for by its branch, the client puts what the branch holds a moment later under this commit.
    paths = {name: _download_file(request, name, commit) for name in request.required}
    for name in request.optional:
        try:
            paths[name] = _download_file(request, name, commit)
        except CheckpointError as error:
            if error.code != "hub-file-not-found":
                raise
    first = paths[request.required[0]]
    _verify(first, etag, request)
    if revision != commit:
        _note_revision(first, revision, commit)
    return HubFiles(paths, commit)


def _note_revision(path: Path, revision: str, commit: str) -> None:
    """Note in the cache that `revision` is `commit`, as the client does, so that it is found without a request.

    Only now, when all files are there: a download that fails leaves the revision at the commit it was at.
    """
    reference = path.parents[2] / "refs" / revision
    with suppress(OSError):  # in a cache that cannot be written the Hub is asked again next time
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(reference, commit.encode())


def _download_file(request: HubRequest, name: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _explained(request, name, revision, otherwise="hub-download-failed"):
        return Path(
            hf_hub_download(
                request.repo,
                name,
                revision=revision,
                cache_dir=request.options.cache_dir,
                token=request.options.token,
                force_download=request.options.force_download,
            )
        )


def _verify(path: Path, etag: str, request: HubRequest) -> None:
    """Compare the file with its SHA-256, which is the ETag of files in large-file storage."""
    if not _SHA256.fullmatch(etag):
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != etag:
        for damaged in (path.resolve(), path):  # the blob, and the link to it
            damaged.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path.name} of {request.repo} came damaged from {_host()}: its SHA-256 is {found}, the Hub says {etag}; "
            "it was deleted, try again",
            "hub-hash-mismatch",
        )


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
