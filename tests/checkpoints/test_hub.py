import errno
import os
import subprocess
import sys
import time
import traceback

import pytest
from fakehub import FakeHub, commit_of

from npmobilevit.checkpoints import find_checkpoint, find_model
from npmobilevit.checkpoints.hub import HubOptions, HubRequest, fetch
from npmobilevit.errors import CheckpointError

REPO = "someone/model"
WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
FILES = {CONFIG: b"{}", PROCESSOR: b'{"a": 1}', WEIGHTS: bytes(range(256)) * 400}
OTHER_FILES = {name: data[::-1] for name, data in FILES.items()}  # of the same sizes: the client compares those


def request(repo=REPO, revisions=("main",), required=(WEIGHTS, CONFIG), optional=(PROCESSOR,), **options):
    return HubRequest(repo, revisions, required, optional, HubOptions(**options))


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
    files = fetch(request(required=(CONFIG,), optional=()))
    assert contents(files) == {CONFIG: FILES[CONFIG]}
    assert [path for method, path in repo.log if method == "GET"] == [f"/{REPO}/resolve/{files.commit}/{CONFIG}"]
    repo.log.clear()
    assert fetch(request(required=(CONFIG,), optional=())) == files
    assert repo.log == []


def test_a_file_that_the_repository_lacks_is_asked_for_once(repo):
    del repo.repos[REPO]["main"][PROCESSOR]
    assert set(fetch(request()).paths) == {WEIGHTS, CONFIG}
    repo.log.clear()
    assert set(fetch(request()).paths) == {WEIGHTS, CONFIG}
    assert repo.log == []


def test_what_the_cache_lacks_is_added_to_it(repo):
    fetch(request(required=(CONFIG,), optional=()))
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


def test_nothing_is_printed_where_no_terminal_watches(repo, capfd):
    fetch(request())
    assert capfd.readouterr() == ("", "")


# Refusals


@pytest.mark.parametrize(
    ("wanted", "code", "hint"),
    [
        (request("someone/else"), "hub-repository-not-found", "someone/else"),
        (request("apple/mobilevit-xxsmall"), "hub-repository-not-found", "did you mean 'apple/mobilevit-xx-small'"),
        (request(revisions=("v9",)), "hub-revision-not-found", "v9"),
        (request(revisions=("v8", "v9")), "hub-revision-not-found", "v9"),
        (request(required=("nothing.safetensors", CONFIG)), "hub-file-not-found", "save_pretrained"),
        (request(required=(WEIGHTS, "nothing.json")), "hub-file-not-found", "nothing.json"),
    ],
)
def test_what_is_not_there_is_named(repo, wanted, code, hint):
    error = refusal(wanted)
    assert error.code == code
    assert hint in str(error)
    assert repo.url.removeprefix("http://") in str(error)


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


@pytest.mark.parametrize(("status", "code"), [(401, "hub-unauthorized"), (403, "hub-unauthorized")])
def test_a_status_that_comes_during_the_download(repo, status, code):
    """The client hides the 403 behind "check your connection"."""
    repo.fault[CONFIG] = status
    assert refusal(request()).code == code


def test_an_optional_file_that_fails_is_not_taken_for_absent(repo):
    repo.fault[PROCESSOR] = 403
    assert refusal(request()).code == "hub-unauthorized"


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


def test_a_host_that_is_no_hub(repo):
    repo.fault[WEIGHTS] = "no-commit"
    error = refusal(request())
    assert error.code == "hub-bad-answer"
    assert "log-in page" in str(error)


def test_a_body_cut_short_leaves_nothing_behind(repo, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client waits a second between its attempts to resume
    repo.fault[WEIGHTS] = "truncate"
    error = refusal(request())
    assert error.code == "hub-download-failed"
    assert isinstance(error, OSError)
    repo.fault.clear()
    assert contents(fetch(request())) == FILES


def test_wrong_bytes_of_the_right_size_are_deleted(repo):
    repo.fault[WEIGHTS] = "corrupt"
    error = refusal(request())
    assert error.code == "hub-hash-mismatch"
    assert WEIGHTS in str(error)
    repo.log.clear()
    repo.fault.clear()
    assert contents(fetch(request())) == FILES
    assert any(method == "GET" and path.endswith(WEIGHTS) for method, path in repo.log)


def test_a_cache_that_cannot_be_written_names_the_cause(repo, tmp_path):
    (tmp_path / "file").touch()
    error = refusal(request(cache_dir=tmp_path / "file"))
    assert error.code == "hub-cache-unwritable"
    assert error.__cause__.errno in (errno.ENOTDIR, errno.EEXIST)


# Offline, refused, silent, not installed


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
    fetch(request(required=(WEIGHTS, CONFIG), optional=()))
    assert refusal(request(local_files_only=True)).code == "hub-offline"


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
    find_checkpoint("someone/model")
except CheckpointError as error:
    print(error.code, round(time.monotonic() - start, 1))
"""


def run_with(hub_url, cache, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", FETCH_IN_A_NEW_PROCESS],
        env={
            **os.environ,
            "HF_ENDPOINT": hub_url,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_a_silent_host_ends_in_six_seconds(tmp_path):
    """In a new process, where the client's telemetry request comes on top of the five seconds."""
    with FakeHub({REPO: {"main": FILES}}) as silent:
        silent.silent = True
        result = run_with(silent.url, tmp_path, HF_HUB_DISABLE_TELEMETRY="0", DO_NOT_TRACK="0")
    code, seconds = result.stdout.split()
    assert code == "hub-unreachable"
    assert 4 < float(seconds) <= 6
    assert result.stderr == ""


def test_offline_by_the_environment(tmp_path):
    with FakeHub({REPO: {"main": FILES}}) as server:
        result = run_with(server.url, tmp_path, HF_HUB_OFFLINE="1")
        assert server.log == []
    assert result.stdout.split()[0] == "hub-offline"


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    error = refusal(request())
    assert error.code == "hub-not-installed"
    assert "folder" in str(error)


def test_a_network_alone_needs_no_processor_settings_from_the_cache(repo):
    from huggingface_hub import hf_hub_download

    for name in (CONFIG, WEIGHTS):
        hf_hub_download(REPO, name)
    repo.log.clear()
    assert find_model(REPO).config_path.name == CONFIG
    assert repo.log == []
    with pytest.raises(CheckpointError):
        find_checkpoint(REPO, local_files_only=True)


def test_a_damaged_cache_is_named(repo, tmp_path):
    fetch(request())
    (tmp_path / "hub-cache" / "models--someone--model" / "refs" / "main").write_bytes(b"\xff\xfe")
    assert refusal(request()).code == "hub-cache-damaged"
