import errno
import os
import subprocess
import sys
import time
import traceback

import pytest
from fakehub import FakeHub, commit_of, etag_of

from npmobilevit.checkpoints import hub as hub_module
from npmobilevit.checkpoints.hub import HubOptions, HubRequest, fetch
from npmobilevit.errors import CheckpointError

REPO = "someone/model"
WEIGHTS, BIN, CONFIG, PROCESSOR = "model.safetensors", "pytorch_model.bin", "config.json", "preprocessor_config.json"
FILES = {CONFIG: b"{}", PROCESSOR: b'{"a": 1}', WEIGHTS: bytes(range(256)) * 400}
OTHER_FILES = {name: data[::-1] for name, data in FILES.items()}  # of the same sizes: the client compares those


def request(repo=REPO, revisions=("main",), names=(WEIGHTS, BIN), others=(CONFIG, PROCESSOR), **options):
    """For the first of the names at any of the revisions, else the next."""
    places = tuple((revision, name) for name in names for revision in revisions)
    return HubRequest(repo, places, others, HubOptions(**options))


def contents(files):
    return {name: path.read_bytes() for name, path in files.paths.items()}


def refusal(wanted):
    with pytest.raises(CheckpointError) as caught:
        fetch(wanted)
    return caught.value


@pytest.fixture
def repo(hub):
    hub.repos[REPO] = {"main": dict(FILES)}
    return hub


# Download and cache


def test_a_download_and_then_the_cache_without_any_request(repo):
    files = fetch(request())
    assert contents(files) == FILES
    assert files.commit == commit_of(FILES)
    assert repo.log[0] == ("HEAD", f"/{REPO}/resolve/main/{WEIGHTS}")
    repo.log.clear()
    assert fetch(request()) == files
    assert fetch(request(revisions=(files.commit,))) == files
    assert fetch(request(local_files_only=True)) == files
    assert repo.log == []


def test_what_the_client_downloaded_itself_is_found(repo):
    """transformers shares this cache."""
    from huggingface_hub import hf_hub_download

    for name in FILES:
        hf_hub_download(REPO, name)
    repo.log.clear()
    assert contents(fetch(request())) == FILES
    assert repo.log == []


def test_the_client_finds_what_is_downloaded_here(repo):
    from huggingface_hub import hf_hub_download

    files = fetch(request())
    repo.log.clear()
    for name, path in files.paths.items():
        assert hf_hub_download(REPO, name, local_files_only=True) == str(path)


def test_one_file_alone(repo):
    files = fetch(request(names=(CONFIG,), others=()))
    assert contents(files) == {CONFIG: FILES[CONFIG]}
    assert [path for method, path in repo.log if method == "GET"] == [f"/{REPO}/resolve/{files.commit}/{CONFIG}"]
    repo.log.clear()
    assert fetch(request(names=(CONFIG,), others=())) == files
    assert repo.log == []


def test_a_file_that_the_repository_lacks_is_asked_for_once(repo):
    del repo.repos[REPO]["main"][PROCESSOR]
    assert set(fetch(request()).paths) == {WEIGHTS, CONFIG}
    repo.log.clear()
    assert set(fetch(request()).paths) == {WEIGHTS, CONFIG}
    assert repo.log == []


def test_what_the_cache_lacks_is_added_to_it(repo):
    fetch(request(names=(CONFIG,), others=()))
    repo.log.clear()
    assert contents(fetch(request())) == FILES
    assert not any(method == "GET" and path.endswith(f"/{CONFIG}") for method, path in repo.log)


def test_a_branch_is_not_mistaken_for_another(repo):
    repo.repos[REPO]["v2"] = OTHER_FILES
    assert contents(fetch(request())) == FILES
    assert contents(fetch(request(revisions=("v2",)))) == OTHER_FILES
    assert contents(fetch(request(revisions=(commit_of(OTHER_FILES),)))) == OTHER_FILES
    assert contents(fetch(request())) == FILES


def test_a_forced_download_replaces_the_cache(repo):
    fetch(request())
    repo.repos[REPO]["main"] = OTHER_FILES
    assert contents(fetch(request())) == FILES
    assert contents(fetch(request(force_download=True))) == OTHER_FILES
    assert contents(fetch(request())) == OTHER_FILES


@pytest.mark.case("113", "a repository that changes between two requests", "all files of one commit")
@pytest.mark.parametrize("change_at", [1, 2, 3, 4, 5, 6])
def test_all_files_come_from_one_commit(repo, change_at):
    """The repository changes just before the n-th request: nothing old may be mixed with anything new.

    Asked by branch, huggingface_hub 2.4.0 reads the commit in one request and the contents in the next.
    """
    repo.repos[REPO] = {"main": FILES, "old": FILES}

    def push(_):
        if len(repo.log) == change_at:
            repo.repos[REPO]["main"] = OTHER_FILES

    repo.on_request = push
    files = fetch(request())
    assert contents(files) in (FILES, OTHER_FILES)
    assert contents(files) == contents(fetch(request()))
    assert files.commit == commit_of(contents(files))


def test_a_failed_update_leaves_the_cached_checkpoint_usable(repo):
    old = fetch(request())
    repo.repos[REPO]["main"] = OTHER_FILES
    repo.fault[WEIGHTS] = "corrupt"
    assert refusal(request(force_download=True)).code == "hub-hash-mismatch"
    repo.log.clear()
    assert fetch(request()) == old
    assert contents(old) == FILES
    assert repo.log == []


def test_the_next_revision_serves_where_the_first_lacks_the_weights(repo):
    main = {CONFIG: b'{"on": "main"}', PROCESSOR: b"{}"}
    repo.repos[REPO] = {"main": main, "refs/pr/2": FILES}
    wanted = request(revisions=("main", "refs/pr/2"))
    files = fetch(wanted)
    assert contents(files) == FILES
    assert repo.log[:2] == [
        ("HEAD", f"/{REPO}/resolve/main/{WEIGHTS}"),
        ("HEAD", f"/{REPO}/resolve/refs/pr/2/{WEIGHTS}"),
    ]
    repo.log.clear()
    assert fetch(wanted) == files
    assert repo.log == []


def test_the_first_revision_serves_once_it_has_the_weights(repo):
    repo.repos[REPO]["refs/pr/2"] = OTHER_FILES
    assert contents(fetch(request(revisions=("main", "refs/pr/2")))) == FILES
    assert not any("refs/pr/2" in path for _, path in repo.log)


def test_the_cache_folder_is_chosen_by_the_caller(repo, tmp_path):
    files = fetch(request(cache_dir=tmp_path / "mine"))
    assert all(path.is_relative_to(tmp_path / "mine") for path in files.paths.values())
    assert fetch(request(cache_dir=tmp_path / "mine", local_files_only=True)) == files


def test_torch_weights_are_second_to_safetensors(repo):
    torch_files = {CONFIG: FILES[CONFIG], PROCESSOR: FILES[PROCESSOR], BIN: b"torch"}
    repo.repos[REPO]["main"] = torch_files
    files = fetch(request())
    assert list(files.paths) == [BIN, CONFIG, PROCESSOR]
    assert contents(files) == torch_files
    assert repo.log[:2] == [("HEAD", f"/{REPO}/resolve/main/{WEIGHTS}"), ("HEAD", f"/{REPO}/resolve/main/{BIN}")]
    repo.log.clear()
    assert fetch(request()) == files
    assert repo.log == []
    repo.repos[REPO]["main"] = {**torch_files, WEIGHTS: FILES[WEIGHTS]}
    assert list(fetch(request(force_download=True)).paths) == [WEIGHTS, CONFIG, PROCESSOR]
    assert list(fetch(request()).paths) == [WEIGHTS, CONFIG, PROCESSOR]


def test_nothing_is_printed_where_no_terminal_watches(repo, capfd):
    fetch(request())
    assert capfd.readouterr() == ("", "")


# Refusals


@pytest.mark.case("101-103", "no such repository, revision or file", "three codes, near names offered")
@pytest.mark.parametrize(
    ("wanted", "code", "hint"),
    [
        (request("someone/else"), "hub-repository-not-found", "someone/else"),
        (request("apple/mobilevit-xxsmall"), "hub-repository-not-found", "did you mean 'apple/mobilevit-xx-small'"),
        (request(revisions=("v9",)), "hub-revision-not-found", "v9"),
        (request(revisions=("v8", "v9")), "hub-revision-not-found", "v9"),
        (request(names=("nothing.safetensors", BIN)), "hub-file-not-found", f"nothing.safetensors or {BIN}"),
        (request(names=("nothing.json",)), "hub-file-not-found", "pass its path"),
    ],
)
def test_what_is_not_there_is_named(repo, wanted, code, hint):
    error = refusal(wanted)
    assert error.code == code
    assert hint in str(error)
    assert repo.url.removeprefix("http://") in str(error)


@pytest.mark.case(
    "98-100, 104",
    "401, 403, a gated repository, 404 without a cause, 429, 500, 503",
    "the status and what to do, after one request",
)
@pytest.mark.parametrize(
    ("status", "error_code", "code"),
    [
        (401, None, "hub-unauthorized"),
        (403, None, "hub-unauthorized"),
        (403, "GatedRepo", "hub-gated"),
        (404, None, "hub-server-error"),
        (429, None, "hub-server-error"),
        (500, None, "hub-server-error"),
        (503, None, "hub-server-error"),
    ],
)
def test_a_status_has_its_code_and_is_not_asked_for_twice(repo, status, error_code, code):
    repo.fault[WEIGHTS], repo.error_code = status, error_code
    error = refusal(request())
    assert error.code == code
    assert f"HTTP {status}" in str(error)
    assert len(repo.log) == 1


@pytest.mark.case("99", "403 for the second file", "hub-unauthorized")
@pytest.mark.parametrize(("status", "code"), [(401, "hub-unauthorized"), (403, "hub-unauthorized")])
def test_a_status_that_comes_during_the_download(repo, status, code):
    """The client hides the 403 behind "check your connection"."""
    repo.fault[CONFIG] = status
    assert refusal(request()).code == code


def test_an_optional_file_that_fails_is_not_taken_for_absent(repo):
    repo.fault[PROCESSOR] = 403
    assert refusal(request()).code == "hub-unauthorized"


@pytest.mark.case("98", "a wrong token, or none", "hub-unauthorized, the token in no message")
def test_a_token_opens_the_repository_and_is_never_shown(repo):
    repo.token = "hf_right"
    for token in ("hf_secret", None):
        error = refusal(request(token=token))
        assert error.code == "hub-unauthorized"
        assert "hf_secret" not in "".join(traceback.format_exception(error))
    assert contents(fetch(request(token="hf_right"))) == FILES


@pytest.mark.parametrize("token", ["hf_secret\n", "", "hf secret", "hf_sécret"])
def test_a_token_that_no_header_can_carry_is_not_shown_either(repo, token):
    """httpx puts it into its error."""
    error = refusal(request(token=token))
    assert error.code == "hub-token-malformed"
    assert "cret" not in str(error)
    assert error.__cause__ is None
    assert repo.log == []


@pytest.mark.case("107", "a page without the headers of a Hub, as of a network's log-in", "hub-bad-answer")
def test_a_host_that_is_no_hub(repo):
    repo.fault[WEIGHTS] = "no-commit"
    error = refusal(request())
    assert error.code == "hub-bad-answer"
    assert "log-in page" in str(error)


@pytest.mark.case("106", "a body cut short", "hub-download-failed, nothing left in the cache")
def test_a_body_cut_short_leaves_nothing_behind(repo, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client waits a second between its attempts to resume
    repo.fault[WEIGHTS] = "truncate"
    error = refusal(request())
    assert error.code == "hub-download-failed"
    assert isinstance(error, OSError)
    repo.fault.clear()
    assert contents(fetch(request())) == FILES


@pytest.mark.case(
    "107",
    "wrong bytes of the right size, of a large file (SHA-256) or a small one (the SHA-1 of git)",
    "hub-hash-mismatch with both hashes, the file deleted, the next try sound",
)
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, PROCESSOR])
def test_wrong_bytes_of_the_right_size_are_deleted(repo, name, tmp_path):
    repo.fault[name] = "corrupt"
    error = refusal(request())
    assert error.code == "hub-hash-mismatch"
    assert name in str(error)
    assert etag_of(name, FILES[name]) in str(error)
    assert not list(tmp_path.rglob(f"blobs/{etag_of(name, FILES[name])}"))
    repo.log.clear()
    repo.fault.clear()
    assert contents(fetch(request())) == FILES
    assert any(method == "GET" and path.endswith(f"/{name}") for method, path in repo.log)


def test_what_carries_a_known_hash_is_verified_on_its_way_in_and_out(repo):
    for files in (fetch(request()), fetch(request())):
        assert files.verified is True


@pytest.mark.parametrize("etag", ["0123abcd", "a" * 63, "b" * 41, "A" * 40, "c" * 32])
def test_an_etag_that_is_no_hash_leaves_the_files_unverified(repo, etag):
    repo.etags[CONFIG] = etag
    for files in (fetch(request()), fetch(request())):
        assert contents(files) == FILES
        assert files.verified is False


def test_a_cache_without_links_has_no_hashes(repo):
    """As on Windows without the right to make links."""
    for path in fetch(request()).paths.values():
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    repo.log.clear()
    files = fetch(request())
    assert contents(files) == FILES
    assert files.verified is False
    assert repo.log == []


@pytest.mark.case("108", "a file of the cache truncated or changed by hand", "hub-cache-damaged, the file kept")
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?"])
def test_a_cached_file_that_has_changed_is_not_used_and_not_deleted(repo, name, damage):
    path = fetch(request()).paths[name]
    path.resolve().write_bytes(damage(FILES[name]))
    for options in ({}, {"local_files_only": True}):
        error = refusal(request(**options))
        assert error.code == "hub-cache-damaged"
        assert str(path) in str(error)
        assert "force_download=True" in str(error)
    assert path.read_bytes() == damage(FILES[name])
    assert contents(fetch(request(force_download=True))) == FILES
    assert contents(fetch(request(local_files_only=True))) == FILES


@pytest.mark.case(
    "109",
    "a link in the cache that leads nowhere, an empty reference",
    "downloaded again; offline hub-offline, as it is not all there",
)
@pytest.mark.parametrize("damage", ["link", "reference"])
def test_a_cache_with_a_hole_is_mended(repo, damage):
    path = fetch(request()).paths[WEIGHTS]
    if damage == "link":
        path.resolve().unlink()
    else:
        (path.parents[2] / "refs" / "main").write_bytes(b"")
    assert refusal(request(local_files_only=True)).code == "hub-offline"
    assert contents(fetch(request())) == FILES
    assert contents(fetch(request(local_files_only=True))) == FILES


@pytest.mark.case("107", "an answer without the ETag", "hub-bad-answer")
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_file_without_an_etag_is_no_file_of_a_hub(repo, name):
    repo.fault[name] = "no-etag"
    assert refusal(request()).code == "hub-bad-answer"


def test_an_answer_without_a_length_will_do(repo):
    repo.fault[WEIGHTS] = "no-length"
    assert contents(fetch(request())) == FILES


@pytest.mark.case("105", "a slow download", "it may take as long as it moves")
def test_a_slow_download_goes_on_beyond_the_limit_for_answers(repo, monkeypatch):
    monkeypatch.setattr(hub_module, "ANSWER_SECONDS", 0.2)
    repo.fault[WEIGHTS] = "slow"
    start = time.monotonic()
    assert contents(fetch(request())) == FILES
    assert time.monotonic() - start > 0.4


@pytest.mark.case("97", "no answer for one of the files", "hub-unreachable within the limit for answers")
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, PROCESSOR])
def test_a_hub_that_falls_silent_is_given_up(repo, name, monkeypatch):
    monkeypatch.setattr(hub_module, "ANSWER_SECONDS", 0.4)
    repo.fault[name] = "hang"
    start = time.monotonic()
    assert refusal(request()).code == "hub-unreachable"
    assert time.monotonic() - start < 2
    repo.fault.clear()
    assert contents(fetch(request())) == FILES


@pytest.mark.case("106", "a body that stalls half way", "hub-download-failed after the client's attempts to resume")
def test_a_body_that_stalls_is_given_up(repo, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    repo.fault[WEIGHTS] = "stall"
    assert refusal(request()).code == "hub-download-failed"
    assert not list(tmp_path.rglob("*.incomplete"))
    repo.fault.clear()
    assert contents(fetch(request())) == FILES


@pytest.mark.case("110", "a full disk", "hub-cache-unwritable, nothing half-written left behind")
def test_a_full_disk_leaves_nothing_behind(repo, monkeypatch, tmp_path):
    from huggingface_hub import file_download

    def full(url, temp_file, **_):
        temp_file.write(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(file_download, "http_get", full)
        error = refusal(request())
    assert error.code == "hub-cache-unwritable"
    assert "free space" in str(error)
    assert error.__cause__.errno == errno.ENOSPC
    assert not list(tmp_path.rglob("blobs/*"))
    assert contents(fetch(request())) == FILES


@pytest.mark.case("110", "a cache on a disk that can only be read", "used if all is there, else hub-cache-unwritable")
def test_a_cache_that_can_only_be_read(repo, monkeypatch):
    files = fetch(request())

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "makedirs", "replace", "symlink", "unlink"):  # a mode would not keep root from writing
        monkeypatch.setattr(os, name, refuse)
    repo.log.clear()
    assert fetch(request()) == files
    assert repo.log == []
    repo.repos["someone/else"] = {"main": FILES}
    error = refusal(request("someone/else"))
    assert error.code == "hub-cache-unwritable"
    assert error.__cause__.errno == errno.EROFS


@pytest.mark.case("110", "a file in place of the cache's folder", "hub-cache-unwritable with the cause")
def test_a_cache_that_cannot_be_written_names_the_cause(repo, tmp_path):
    (tmp_path / "file").touch()
    error = refusal(request(cache_dir=tmp_path / "file"))
    assert error.code == "hub-cache-unwritable"
    assert error.__cause__.errno in (errno.ENOTDIR, errno.EEXIST)


# Offline, refused, silent, not installed


@pytest.mark.case("95", "offline and not cached", "hub-offline with the folder looked in, and no request")
def test_offline_mode_asks_nothing(repo, monkeypatch):
    from huggingface_hub import constants

    for wanted in (request(local_files_only=True), request(local_files_only=True, force_download=True)):
        error = refusal(wanted)
        assert error.code == "hub-offline"
        assert constants.HF_HUB_CACHE in str(error)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(request()).code == "hub-offline"
    assert repo.log == []


def test_a_partly_filled_cache_is_not_enough_offline(repo):
    """Without its processor settings a checkpoint would be fed wrongly scaled pictures."""
    fetch(request(others=(CONFIG,)))
    assert refusal(request(local_files_only=True)).code == "hub-offline"


@pytest.mark.case("96", "a refused connection", "hub-unreachable within two seconds")
def test_a_refused_connection_ends_at_once(hub):
    hub.shutdown()
    hub.server_close()
    start = time.monotonic()
    error = refusal(request())
    assert error.code == "hub-unreachable"
    assert "HF_HUB_OFFLINE" in str(error)
    assert hub.url.removeprefix("http://") in str(error)
    assert time.monotonic() - start < 2


FETCH_IN_A_NEW_PROCESS = """
import time
import huggingface_hub.file_download
from npmobilevit.checkpoints import find_checkpoint
from npmobilevit.errors import CheckpointError
start = time.monotonic()
try:
    print(find_checkpoint("someone/model").verified)
except CheckpointError as error:
    print(error.code, round(time.monotonic() - start, 1))
"""


def start_with(hub_url, cache, **environment):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FETCH_IN_A_NEW_PROCESS],
        env={
            **os.environ,
            "HF_ENDPOINT": hub_url,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_with(hub_url, cache, **environment):
    process = start_with(hub_url, cache, **environment)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out


@pytest.mark.case("97", "a host that accepts and stays silent", "hub-unreachable within six seconds")
def test_a_silent_host_ends_in_six_seconds(tmp_path):
    """In a new process, where the client's telemetry request comes on top of the five seconds."""
    with FakeHub({REPO: {"main": FILES}}) as silent:
        silent.silent = True
        result = run_with(silent.url, tmp_path, HF_HUB_DISABLE_TELEMETRY="0", DO_NOT_TRACK="0")
    code, seconds = result.split()
    assert code == "hub-unreachable"
    assert 4 < float(seconds) <= 6


def test_offline_by_the_environment(tmp_path):
    with FakeHub({REPO: {"main": FILES}}) as server:
        result = run_with(server.url, tmp_path, HF_HUB_OFFLINE="1")
        assert server.log == []
    assert result.split()[0] == "hub-offline"


@pytest.mark.case("111", "three processes at once", "all get it, with one download of each file")
def test_processes_at_once_download_once(tmp_path):
    with FakeHub({REPO: {"main": FILES}}) as server:
        server.fault[WEIGHTS] = "slow"  # so that they meet
        processes = [start_with(server.url, tmp_path) for _ in range(3)]
        assert [process.communicate(timeout=60) for process in processes] == [("True\n", "")] * 3
        assert sum(method == "GET" and path.endswith(WEIGHTS) for method, path in server.log) == 1
        server.log.clear()
        assert run_with(server.url, tmp_path) == "True\n"
        assert server.log == []


@pytest.mark.case("111", "a process killed in the middle of a download", "the next one starts anew")
def test_a_killed_download_is_no_obstacle(tmp_path):
    with FakeHub({REPO: {"main": FILES}}) as server:
        server.fault[WEIGHTS] = "stall"
        process = start_with(server.url, tmp_path)
        deadline = time.monotonic() + 30
        while not any(method == "GET" and path.endswith(WEIGHTS) for method, path in list(server.log)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.communicate()
        server.fault.clear()
        assert run_with(server.url, tmp_path) == "True\n"


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    error = refusal(request())
    assert error.code == "hub-not-installed"
    assert "folder" in str(error)


@pytest.mark.case("109", "a reference in the cache that is no text", "hub-cache-damaged")
def test_a_damaged_cache_is_named(repo, tmp_path):
    fetch(request())
    (tmp_path / "hub-cache" / "models--someone--model" / "refs" / "main").write_bytes(b"\xff\xfe")
    assert refusal(request()).code == "hub-cache-damaged"
