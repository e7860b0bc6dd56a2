"""INPUT arguments: which pictures files, folders, patterns, lists and stdin lead to."""

import inspect
import io
import os
import sys
from pathlib import Path

import pytest
from commandline import codes, names, process, run, run_json, write_picture

from npmobilevit.cli import inputs
from npmobilevit.cli.ending import Stop

pytestmark = pytest.mark.usefixtures("clean_environment")

TREE = (
    "b.PNG",
    "a.jpg",
    "c.tiff",
    "notes.txt",
    "Thumbs.db",
    ".hidden.png",
    "sub/d.webp",
    "sub/deep/e.gif",
    ".git/f.png",
)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Folder `pictures` in the working directory."""
    for name in TREE:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pictures"


def find(*arguments, recursive=False):
    return inputs.find_inputs(arguments, recursive=recursive)


def found(*arguments, recursive=False):
    return [item.name for item in find(*arguments, recursive=recursive).pictures]


def failures(*arguments, recursive=False):
    """Name and code of what leads nowhere."""
    return [(item.name, item.failure.code) for item in find(*arguments, recursive=recursive).pictures if item.failure]


def stdin(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# Files


@pytest.mark.case("116", "the same file twice", "two results")
def test_the_same_file_twice_gives_two_results(capsys, tmp_path, model):
    picture = write_picture(tmp_path / "a.png")
    code, document = run_json(capsys, "predict", picture, picture, *model)
    first, second = document["results"]
    assert code == 0
    assert first == second


def test_arguments_keep_their_order(tree):
    assert found("pictures/sub/d.webp", "pictures", "pictures/a.jpg", "x.png") == [
        "pictures/sub/d.webp",
        *("pictures/a.jpg", "pictures/b.PNG", "pictures/c.tiff"),
        "pictures/a.jpg",
        "x.png",
    ]


@pytest.mark.case("115", "names that look like patterns, lists or options", "taken as they are where they exist")
def test_what_exists_is_taken_literally(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = ["a[1].jpg", "@x.jpg", "-x.jpg", "a*.png", " b .png", "\U0001f431.png"]
    for name in [*odd, "a1.jpg"]:
        (tmp_path / name).touch()
    (tmp_path / "x.jpg").write_text("a1.jpg\n")
    assert found(*odd) == odd


def test_an_existing_pattern_that_is_a_folder_is_that_folder(tree):
    tree.rename("pictures[1]")
    assert found("pictures[1]") == ["pictures[1]/a.jpg", "pictures[1]/b.PNG", "pictures[1]/c.tiff"]


def test_missing_files_and_empty_names_fail_one_by_one(capsys, tmp_path, model):
    picture = write_picture(tmp_path / "a.png")
    code, document = run_json(capsys, "predict", "missing.png", "", picture, "https://host/a.png?x", *model)
    assert code == 1
    assert codes(document["results"]) == ["file-missing", "file-missing", None, "file-missing"]
    assert names(document["results"]) == ["missing.png", "", str(picture), "https://host/a.png?x"]
    assert "Web addresses are not fetched" in document["results"][3]["error"]["message"]


# Folders


def test_a_folder_is_its_pictures_sorted(tree):
    assert found("pictures") == ["pictures/a.jpg", "pictures/b.PNG", "pictures/c.tiff"]
    assert found(str(tree)) == [str(tree / name) for name in ("a.jpg", "b.PNG", "c.tiff")]


def test_recursive_takes_the_subfolders_after_the_pictures_of_a_folder(tree):
    (tree / "sub" / "z.jpe").touch()
    (tree / "alpha").mkdir()
    (tree / "alpha" / "y.jfif").touch()
    below = ["alpha/y.jfif", "sub/d.webp", "sub/z.jpe", "sub/deep/e.gif"]
    assert found("pictures", recursive=True) == [f"pictures/{name}" for name in ("a.jpg", "b.PNG", "c.tiff", *below)]


@pytest.mark.parametrize("suffix", inputs.SUFFIXES)
def test_every_suffix_is_one_of_a_picture(tmp_path, suffix):
    (tmp_path / f"a{suffix.upper()}").touch()
    assert found(str(tmp_path)) == [str(tmp_path / f"a{suffix.upper()}")]


def test_files_that_are_no_pictures_are_counted_in_one_note(capsys, tree, model):
    _, _, err = run(capsys, "predict", "pictures", "pictures", *model)
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert notes == ["note: left out 4 files whose names are not those of pictures"]
    write_picture(tree.parent / "good" / "x.png")
    (tree.parent / "good" / "y.txt").touch()
    assert run(capsys, "predict", "good", *model)[2] == "note: left out 1 file whose names are not those of pictures\n"
    assert find("pictures", "good").skipped == 3
    (tree / "sub" / "read.me").touch()
    assert find("pictures", recursive=True).skipped == 3
    assert find("pictures/a.jpg").skipped == 0


@pytest.mark.case("116", "an empty folder", "a failed input that says so, exit code 1")
def test_a_folder_without_pictures_fails(capsys, tmp_path, model):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".a.png").touch()
    picture = write_picture(tmp_path / "sub" / "a.png")
    code, document = run_json(capsys, "predict", tmp_path / "empty", picture, *model)
    assert code == 1
    assert codes(document["results"]) == ["no-pictures", None]
    assert failures(str(tmp_path)) == [(str(tmp_path), "no-pictures")]
    assert failures(str(tmp_path / "empty"), recursive=True) == [(str(tmp_path / "empty"), "no-pictures")]


@pytest.mark.case("116", "links that lead in a circle", "each picture once, and an end")
def test_links_to_folders_are_not_followed(tree):
    for name, target in (("sub/loop", ".."), ("self.jpg", "self.jpg"), ("other", "sub"), ("x.png", "sub")):
        (tree / name).symlink_to(target)
    everything = ["a.jpg", "b.PNG", "c.tiff", "self.jpg", "sub/d.webp", "sub/deep/e.gif"]
    assert found("pictures", recursive=True) == [f"pictures/{name}" for name in everything]
    assert found("pictures/**/*.*g*") == [f"pictures/{name}" for name in ("a.jpg", "self.jpg", "sub/deep/e.gif")]
    assert found("pictures/other") == ["pictures/other/d.webp"]  # named, it is followed
    assert found("pictures/o*/d*") == ["pictures/other/d.webp"]


def test_trees_deeper_than_the_stack_are_walked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / Path(*"d" * 150)).mkdir(parents=True)
    expected = ["d/" * 150 + "a.png"]
    Path(expected[0]).touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 80)
    try:
        assert found("d", recursive=True) == expected
        assert found("d/**/*.png") == expected
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_fails_alone(tree):
    (tree / "sub").chmod(0)
    try:
        assert failures("pictures", recursive=True) == [("pictures/sub", "folder-unreadable")]
    finally:
        (tree / "sub").chmod(0o755)


def test_a_folder_that_the_system_refuses_fails_alone(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert failures("pictures", recursive=True) == [("pictures/sub", "folder-unreadable")]
    assert found("pictures", recursive=True)[:3] == ["pictures/a.jpg", "pictures/b.PNG", "pictures/c.tiff"]
    assert found("pictures/**/*.gif") == ["pictures/**/*.gif"]


# Patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("pictures/*.jpg", ["a.jpg"]),
        ("pictures/[ab].*", ["a.jpg", "b.PNG"]),
        ("pictures/?.tiff", ["c.tiff"]),
        ("pictures/*", ["Thumbs.db", "a.jpg", "b.PNG", "c.tiff", "notes.txt"]),
        ("pictures/*/*", ["sub/d.webp"]),
        ("pictures/**/*.gif", ["sub/deep/e.gif"]),
        ("pictures/**/d.webp", ["sub/d.webp"]),
        ("pictures/**/a.jpg", ["a.jpg"]),
        ("pictures/s*/deep/**", ["sub/deep/e.gif"]),
        ("pictures/**/deep/**/e.*", ["sub/deep/e.gif"]),
        ("pictures/**/**/e.*", ["sub/deep/e.gif"]),
        ("pictures/.*.png", [".hidden.png"]),
        ("pictures/.g*/*", [".git/f.png"]),
        ("pictures/**/*.webp", ["sub/d.webp"]),
    ],
)
def test_patterns_are_expanded_and_sorted(tree, pattern, expected):
    assert found(pattern) == [f"pictures/{name}" for name in expected]
    assert found(str(tree.parent / pattern)) == [str(tree / name) for name in expected]


def test_patterns_without_a_folder_look_into_the_working_directory(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert found("*.jpg") == ["a.jpg"]
    assert found("**/*.gif") == ["sub/deep/e.gif"]
    assert found("../pic*/a*") == ["../pictures/a.jpg"]


@pytest.mark.parametrize("pattern", ["pictures/*.xyz", "nowhere/**/*", "pictures/a.jpg/*", "pictures/["])
def test_a_pattern_that_matches_nothing_fails(tree, pattern):
    assert failures(pattern, "pictures/a.jpg") == [(pattern, "no-pictures")]


# Lists


def test_a_list_names_a_picture_a_line(tmp_path):
    text = "a.png\r\n\r\n  \n two words.png\nsub/*.png\n@b.png\n-\nc\u2028d.png\n\x0b.png".encode()
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + text + b"\n\xff.png")
    expected = ["a.png", " two words.png", "sub/*.png", "@b.png", "-", "c\u2028d.png", "\x0b.png", "\udcff.png"]
    result = find(f"@{tmp_path}/list.txt")
    assert [item.source for item in result.pictures] == expected
    assert result.lists == [f"{tmp_path}/list.txt"]
    assert not result.one_picture


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (None, "list-unreadable"),
        (b"", "no-pictures"),
        (b" \r\n\n", "no-pictures"),
        ("a.png".encode("utf-16"), "list-encoding"),
        (b"x" * 101, "list-too-large"),
    ],
)
def test_lists_that_name_nothing_fail(tmp_path, monkeypatch, data, code):
    monkeypatch.setattr(inputs, "MAX_LIST_BYTES", 100)
    if data is not None:
        (tmp_path / "list.txt").write_bytes(data)
    argument = f"@{tmp_path}/list.txt"
    assert failures(argument) == [(argument, code)]
    assert failures("@") == [("@", "list-unreadable")]
    assert failures(f"@{tmp_path}") == [(f"@{tmp_path}", "list-unreadable")]
    assert failures("@\0") == [("@\0", "list-unreadable")]


def test_lists_are_relative_to_the_working_directory(capsys, tmp_path, monkeypatch, model):
    write_picture(tmp_path / "a.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "l.txt").write_text("a.png\nb.png\n")
    monkeypatch.chdir(tmp_path)
    code, document = run_json(capsys, "predict", "@lists/l.txt", "@none.txt", *model)
    assert code == 1
    assert names(document["results"]) == ["a.png", "b.png", "@none.txt"]
    assert codes(document["results"]) == [None, "file-missing", "list-unreadable"]


# stdin


def test_stdin_is_a_picture(capsys, tmp_path, monkeypatch, model):
    picture = write_picture(tmp_path / "a.png")
    other = write_picture(tmp_path / "b.png", seed=1)
    stdin(monkeypatch, picture.read_bytes())
    code, document = run_json(capsys, "predict", other, "-", picture, *model)
    _, from_stdin, from_file = document["results"]
    assert code == 0
    assert from_stdin["input"] == "-"
    assert from_stdin["predictions"] == from_file["predictions"]


@pytest.mark.case("117", "- with nothing on stdin", "a failed input, exit code 1")
@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_what_is_no_picture_on_stdin_fails(capsys, monkeypatch, model, data):
    stdin(monkeypatch, data)
    code, document = run_json(capsys, "predict", "-", *model)
    assert code == 1
    assert codes(document["results"]) == ["image-unknown" if data else "image-empty"]


@pytest.mark.case("117", "- at a terminal, or with stdin closed", "exit code 2: no wait for a keyboard")
def test_stdin_has_to_be_redirected(capsys, monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    for stream in (Terminal(io.BytesIO()), None):
        monkeypatch.setattr(sys, "stdin", stream)
        code, out, err = run(capsys, "predict", "-")
        assert (code, out) == (2, "")
        assert err.startswith("error: - reads a picture from stdin")


def test_stdin_is_one_picture(monkeypatch):
    stdin(monkeypatch, b"")
    with pytest.raises(Stop, match="once") as caught:
        find("-", "-")
    assert (caught.value.exit_code, caught.value.code) == (2, "stdin-twice")


def test_a_file_called_dash_is_named_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-").touch()
    stdin(monkeypatch, b"")
    assert find("-").pictures[0].source is sys.stdin.buffer
    assert find("./-").pictures[0].source == "./-"


def test_stdin_of_a_process(tmp_path, model):
    data = write_picture(tmp_path / "a.png").read_bytes()
    done = process("predict", "-", *model, input=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[1] == b"-"


# Where results go


def test_places_are_relative_to_the_folder_argument(tree):
    def places(argument, recursive=False):
        return [item.place for item in find(argument, recursive=recursive).pictures]

    assert places(str(tree), recursive=True) == ["a.jpg", "b.PNG", "c.tiff", "sub/d.webp", "sub/deep/e.gif"]
    assert places("pictures/../pictures/a.jpg") == ["a.jpg"]
    assert places("pictures/*/*") == ["sub/d.webp"]
    assert places("pictures/*/../a.jpg") == ["sub/a.jpg"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.png", "a/b.png"),
        ("/a/b.png", "a/b.png"),
        ("../../a/../b.png", "a/b.png"),
        ("./a//b.png", "a/b.png"),
        ("..", ""),
        ("/", ""),
        ("a..b/..c", "a..b/..c"),
    ],
)
def test_inside_never_leads_out(path, expected):
    assert inputs.inside(path) == expected
