import os
import threading

import pytest

from npmobilevit.checkpoints.files import read_at_once, regular_file_size, shown, write_atomically
from npmobilevit.errors import CheckpointError


def test_size_of_a_file_and_of_a_link_to_it(tmp_path):
    (tmp_path / "blob").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "blob")  # the Hub's cache is made of links
    assert regular_file_size(tmp_path / "blob") == 5
    assert regular_file_size(tmp_path / "link") == 5


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer for ever
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for path, code in [
        (tmp_path / "pipe", "checkpoint-not-a-file"),
        (tmp_path, "checkpoint-not-a-file"),
        (tmp_path / "dangling", "checkpoint-file-missing"),
        (tmp_path / ("x" * 300), "checkpoint-unreadable"),
        (tmp_path / "a\0b", "checkpoint-unreadable"),
    ]:
        with pytest.raises(CheckpointError) as caught:
            regular_file_size(path)
        assert caught.value.code == code


def test_a_file_that_vanishes_before_it_is_read(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        read_at_once(tmp_path / "gone")
    assert caught.value.code == "checkpoint-unreadable"


def test_replacing_a_file_that_others_read(tmp_path):
    """A reader sees the old or the new contents, never a part: a plain write would show an empty file."""
    path, old, new = tmp_path / "file", b"a" * 300_000, b"b" * 300_000
    path.write_bytes(old)
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for data in [new, old] * 50:
        write_atomically(path, data)
    done.set()
    reader.join()
    assert seen <= {old, new}
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CheckpointError, match="No space left") as caught:
        write_atomically(path, b"new")
    assert caught.value.code == "checkpoint-unwritable"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_written_file_follows_the_umask(tmp_path):
    """Files of `tempfile` are readable by their owner alone."""
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_in_messages_are_quoted_cut_and_counted():
    assert shown(["a\0b", "c"]) == "'a\\x00b', 'c'"
    assert len(shown(["x" * 10_000])) < 100
    assert shown([str(i) for i in range(377)]).endswith("'9' and 367 more")
