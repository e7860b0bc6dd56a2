"""The console: bars, progress, odd names, and streams that are closed, full, narrow or in ASCII."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from commandline import CHELSEA, SHIPPED, process, run, write_picture

from npmobilevit.cli import batch, console, reports

pty = pytest.importorskip("pty") if sys.platform != "win32" else None
no_terminals = pytest.mark.skipif(pty is None, reason="Windows has no pseudo-terminals here")

pytestmark = pytest.mark.usefixtures("clean_environment")

COMMAND = f"{sys.executable} -m npmobilevit"


@pytest.fixture
def picture(tmp_path):
    return str(write_picture(tmp_path / "a.png"))


def shell(command):
    """A command line of bash; streams are buffered, as they are unless somebody asks for it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, env=environment)


# Bars


def test_bars_have_thirty_signs_where_there_is_no_terminal():
    rows = [(1.0, "cat", ""), (0.5, "dog", ""), (0.0, "emu", "")]
    assert console.bars(rows, None) == [
        "  100.0%  cat                  " + "#" * 30,
        "   50.0%  dog                  " + "#" * 15,
        "    0.0%  emu",
    ]
    assert console.bars([], None) == []


@pytest.mark.parametrize("columns", [20, 31, 32, 33, 60, 80, 200])
@pytest.mark.case("121", "terminals 20 to 200 columns wide", "no bar beyond the last column but one")
def test_bars_fill_the_terminal(columns):
    label = "a label of more than twenty signs"
    full, half = console.bars([(1.0, label, ""), (0.5, "dog", "")], columns)
    head = f"  100.0%  {label} "
    assert full == (head + "#" * max(0, columns - 1 - len(head))).rstrip()
    assert half.count("#") == round(full.count("#") / 2)
    assert half.startswith(f"   50.0%  {'dog':{len(label)}}"[: len(half)])
    assert len(full) == max(columns - 1, len(head) - 1)


def test_bars_escape_names():
    assert console.bars([(0.25, "a\x1b[31m\n", "")], None) == ["   25.0%  a\\x1b[31m\\n          ########"]


# Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "60")
    return now


def test_progress_is_one_line_written_over(capsys, clock):
    progress = console.Progress(12345, shown=True)
    progress.show()
    clock[0] += 2
    progress.advance(failed=False)
    clock[0] += 0.05
    progress.advance(failed=True)  # too early to be shown
    clock[0] += 0.15
    for _ in range(123):
        progress.advance(failed=False)
    progress.clear()
    progress.clear()
    lines = capsys.readouterr().err.split("\r")
    assert lines[1:4] == [
        "0/12345  0 failed  0.0 pictures/s",
        "1/12345  0 failed  0.5 pictures/s",
        "3/12345  1 failed  1.4 pictures/s",
    ]
    assert lines[4:] == [" " * len(lines[3]), ""]
    assert (progress.done, progress.failed) == (125, 1)


def test_a_shorter_line_leaves_nothing_of_a_longer_one(capsys, clock):
    progress = console.Progress(9, shown=True)
    clock[0] += 1e-4
    for seconds in (0, 100):
        clock[0] += seconds
        progress.advance(failed=False)
    first, second = capsys.readouterr().err.split("\r")[1:]
    assert first == "1/9  0 failed  1000 pictures/s"
    assert second == "2/9  0 failed  0.0 pictures/s "
    progress.clear()
    clock[0] += 0.01
    progress.advance(failed=False)  # at once, for the line is not there
    assert "3/9" in capsys.readouterr().err


def test_progress_fits_the_terminal(capsys, clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    console.Progress(12345, shown=True).show()
    assert capsys.readouterr().err == "\r0/12345  0 failed  "


def test_progress_that_is_not_shown_counts(capsys, clock):
    progress = console.Progress(3, shown=False)
    progress.advance(failed=True)
    progress.clear()
    assert capsys.readouterr() == ("", "")
    assert (progress.done, progress.failed) == (1, 1)


@pytest.mark.parametrize(
    ("report", "into_file", "total", "out", "err", "shown"),
    [
        (reports.Text, False, 2, "pipe", "terminal", True),
        (reports.Lines, False, 2, "pipe", "terminal", True),
        (reports.Text, False, 1, "pipe", "terminal", False),
        (reports.Text, False, 2, "pipe", "pipe", False),
        (reports.Text, False, 2, "terminal", "pipe", False),
        (reports.Text, False, 2, "terminal", "terminal", False),  # results scroll by there
        (reports.Lines, False, 2, "terminal", "terminal", False),
        (reports.Document, False, 2, "terminal", "terminal", True),  # printed at the end
        (reports.Text, True, 2, "terminal", "terminal", True),
        (reports.Text, False, 2, "another", "terminal", True),
        (reports.Text, False, 2, None, "terminal", True),
        (reports.Text, False, 2, "terminal", None, False),
    ],
)
def test_progress_is_shown_where_it_disturbs_nothing(monkeypatch, report, into_file, total, out, err, shown):
    if pty is None:
        pytest.skip("Windows has no pseudo-terminals here")
    ends = [*pty.openpty(), *pty.openpty(), *os.pipe()]
    numbers = {"terminal": ends[1], "another": ends[3], "pipe": ends[5]}
    with ExitStack() as stack:
        for end in ends:
            stack.callback(os.close, end)
        patched = stack.enter_context(monkeypatch.context())
        for name, kind in (("stdout", out), ("stderr", err)):
            stream = None if kind is None else stack.enter_context(open(numbers[kind], "w", closefd=False))
            patched.setattr(sys, name, stream)
        progress = batch.progress_of(total, report("predict", None, io.StringIO() if into_file else None))
    assert (progress.shown, progress.total) == (shown, total)


def at_terminal(command, columns=60, **streams):
    """What a process prints to a terminal, and what to its pipes."""
    import fcntl
    import struct
    import termios

    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    options = {name: its for name, kind in streams.items() if kind == "terminal"}
    options |= {name: subprocess.PIPE for name, kind in streams.items() if kind == "pipe"}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, **options) as child:
        os.close(its)
        piped = (child.stdout or child.stderr).read() if subprocess.PIPE in options.values() else b""
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # Linux: all other ends are closed
            pass
    os.close(ours)
    return shown.decode(), piped.decode()


@no_terminals
def test_a_terminal_sees_progress_and_whole_error_lines(picture, model):
    command = [sys.executable, "-m", "npmobilevit", "predict", picture, "missing.png", picture, "--json", *model]
    shown, piped = at_terminal(command, stdout="pipe", stderr="terminal")
    *lines, last = shown.replace("\r\n", "\n").split("\n")
    assert len(json.loads(piped)["results"]) == 3
    assert len(lines) == 1
    before, cleared, error = lines[0].split("\r")[-3:]
    assert before.startswith(("0/3", "1/3"))
    assert cleared == " " * len(before)
    assert error.startswith("error: cannot read 'missing.png'")
    assert last == "" or last.endswith("\r")
    assert "\x1b" not in shown


@no_terminals
@pytest.mark.case("121", "NO_COLOR, and a terminal of 60 columns", "no escape sequence at all; bars to its width")
def test_a_terminal_sees_bars_of_its_width_and_no_colours(picture, model):
    command = [sys.executable, "-m", "npmobilevit", "predict", CHELSEA, picture, *SHIPPED]
    shown, _ = at_terminal(command, columns=60, stdout="terminal", stderr="terminal")
    lines = shown.replace("\r\n", "\n").splitlines()
    assert len(lines) == 13
    assert "\r" not in "".join(lines)
    assert "\x1b" not in shown
    score, label, bar = lines[2].split()
    assert label == "cat"
    assert len(bar) == round(28 * float(score.removesuffix("%")) / 100)  # 60, less 31 and the last column


# Odd names


@pytest.mark.case("115", "names with newlines, control signs, emoji, no UTF-8", "results, names escaped")
@pytest.mark.case("121", "an ASCII console, or one in cp1252", "what it cannot show is escaped")
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_odd_names_on_consoles(tmp_path, picture, model, encoding):
    names = [b"K\xc3\xa4tzchen\n2.png", b"\x1b[31m.png", "\U0001f431.png".encode(), b"\xff.png", b"-x.png"]
    for name in names:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(Path(picture).read_bytes())
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = process("predict", *model, "--", *names, "missing-ä.png", env=environment, cwd=tmp_path)
    assert done.returncode == 1
    shown = [line.decode(encoding) for line in done.stdout.splitlines() if not line.startswith((b" ", b"model"))]
    ae = {"ascii": "\\xe4", "cp1252": "ä", "utf-8": "ä"}[encoding]
    cat = "\U0001f431.png" if encoding == "utf-8" else "\\U0001f431.png"
    assert shown == [f"K{ae}tzchen\\n2.png", "\\x1b[31m.png", cat, "\\udcff.png", "-x.png"]
    assert done.stderr.count(b"\n") == 1
    assert f"missing-{ae}.png".encode(encoding) in done.stderr


@pytest.mark.case("115", "a name that is no UTF-8, in JSON", "surrogate escapes, which lead back to the file")
def test_names_survive_in_json(tmp_path, picture, model):
    names = [b"\xff \xc3\xa4.png", b"a\n.png"]
    for name in names:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(Path(picture).read_bytes())
    done = process("predict", *names, "--json", *model, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert [os.fsencode(result["input"]) for result in json.loads(done.stdout)["results"]] == names


def test_model_names_cannot_steer_the_terminal(capsys, tmp_path, picture, classifier_folder):
    (tmp_path / "\x1b[31m").symlink_to(classifier_folder)
    for command in (["predict", picture], ["info"]):
        code, out, _ = run(capsys, *command, "--model", tmp_path / "\x1b[31m")
        assert code == 0
        assert "\x1b" not in out


# Streams


@pytest.mark.case("118", "a reader that leaves (| head -1)", "quiet")
def test_a_reader_that_leaves_is_no_error(picture, classifier_folder):
    inputs = f"{picture} " * 100  # more than a pipe holds, so that it notices
    done = shell(f"set -o pipefail; {COMMAND} predict {inputs} --jsonl --model {classifier_folder} | head -1")
    assert done.stdout.count(b"\n") == 1
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.case("118", "stdout or stderr closed", "the exit code alone; nothing goes to the other stream")
@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_do_not_end_in_a_traceback(picture, classifier_folder, redirection):
    done = shell(f"{COMMAND} predict missing.png {picture} --model {classifier_folder} {redirection}")
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"error" not in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a full disk at hand")
@pytest.mark.case("118", "a full disk under stdout", "one error line, exit code 1")
def test_a_full_disk_is_one_line(picture, classifier_folder):
    done = shell(f"{COMMAND} predict {picture} --json --model {classifier_folder} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == b"error: cannot write the output: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a full disk at hand")
def test_messages_that_cannot_be_written_change_nothing(picture, classifier_folder):
    done = shell(f"{COMMAND} predict missing.png {picture} --model {classifier_folder} 2> /dev/full")
    assert done.returncode == 1
    assert picture.encode() in done.stdout


@pytest.mark.case("122", "SIGINT while a long list is worked on", "a last line, exit code 130, the results so far")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_ends_a_batch(tmp_path, picture, model):
    (tmp_path / "list.txt").write_text(f"{picture}\n" * 100_000)
    command = [sys.executable, "-m", "npmobilevit", "predict", f"@{tmp_path}/list.txt", "--jsonl", *model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        first = child.stdout.readline()  # a result is there while the rest are to come
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    *lines, last = [json.loads(line) for line in (first + out).splitlines()]
    assert child.returncode == 130
    # the signal may come when a result is printed and not yet counted
    assert last["error"]["message"] in [f"interrupted after {len(lines) - i} of 100000 pictures" for i in (0, 1)]
    assert err == f"error: {last['error']['message']}\n".encode()
    assert last["error"]["code"] == "interrupted"
    assert all("predictions" in line for line in lines)


@pytest.mark.case("125", "no HOME, a HOME that is not there, a working directory that is read-only", "no matter")
@pytest.mark.parametrize("home", [{}, {"HOME": "/nonexistent"}])
def test_homes_and_working_directories_do_not_matter(tmp_path, home):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"} | home
    done = process("predict", CHELSEA, env=environment, cwd=locked)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(b"warning: ")
    assert done.stderr.count(b"\n") == 1
    assert list(locked.iterdir()) == []
