"""segment: what it prints, where masks and overlays go, and what is never written over."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from commandline import codes, files_below, names, run, run_json, run_lines, write_picture
from PIL import Image

import npmobilevit as nm
from npmobilevit import pipeline
from npmobilevit.cli import targets
from npmobilevit.errors import ImageError

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def model(segmenter_folder):
    return ["--model", str(segmenter_folder)]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """a.png, b.png, and pictures below the folder `in`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(["a.png", "b.png", "in/a.png", "in/a.jpg", "in/sub/a.png"]):
        write_picture(tmp_path / name, seed=i)
    return files_below(".")


def added(pictures, folder="."):
    """The files that were not there before."""
    return sorted(set(files_below(folder)) - set(pictures))


# What is printed


def test_text_is_a_line_for_the_picture_and_one_for_each_class(capsys, pictures, model):
    code, out, err = run(capsys, "segment", "a.png", *model)
    head, name, *rows = out.splitlines()
    classes = nm.load(model[1]).segment("a.png").classes
    assert (code, err) == (0, "")
    assert head == f"model {model[1]} (5 labels)"
    assert name == "a.png  16 x 12 pixels"
    assert len(classes) >= 2
    assert rows == [
        f"  {c.share:6.1%}  {c.name:20} p {c.probability:.2f}  {'#' * round(30 * c.share)}".rstrip() for c in classes
    ]
    assert added(pictures) == []


def test_json_holds_size_classes_and_files(capsys, pictures, model):
    code, document = run_json(capsys, "segment", "a.png", "none.png", "b.png", "-o", "masks", *model)
    first, failed, second = document["results"]
    library = nm.load(model[1])
    assert code == 1
    assert document["schema"] == "npmobilevit.segment/1"
    for result, name in ((first, "a.png"), (second, "b.png")):
        expected = library.segment(name).to_dict()
        del expected["model"]
        assert result == {"input": name, **expected, "mask": f"masks/{name}.mask.png", "overlay": None}
    assert list(first) == ["input", "height", "width", "classes", "mask", "overlay"]
    assert codes([failed]) == ["file-missing"]


def test_lines_hold_the_same(capsys, pictures, model):
    _, document = run_json(capsys, "segment", "a.png", "none.png", *model)
    code, lines = run_lines(capsys, "segment", "a.png", "none.png", *model)
    assert code == 1
    for line, result in zip(lines, document["results"], strict=True):
        assert line == {"schema": document["schema"], "model": document["model"], **result}


# Which file


def test_one_picture_goes_into_files(capsys, pictures, model):
    code, document = run_json(capsys, "segment", "a.png", "-o", "new/m.PNG", "--overlay", "o.jpeg", *model)
    result = nm.load(model[1]).segment("a.png")
    assert code == 0
    assert added(pictures) == ["new/m.PNG", "o.jpeg"]
    assert (document["results"][0]["mask"], document["results"][0]["overlay"]) == ("new/m.PNG", "o.jpeg")
    with Image.open("new/m.PNG") as mask:
        assert (mask.format, mask.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.asarray(mask).astype(np.int32), result.mask, strict=True)
    with Image.open("o.jpeg") as overlay:
        assert (overlay.format, overlay.size) == ("JPEG", result.overlay().size)


@pytest.mark.parametrize(("suffix", "form"), [("png", "PNG"), ("jpg", "JPEG"), ("JPEG", "JPEG"), ("webp", "WEBP")])
def test_the_suffix_says_the_format_of_an_overlay(capsys, pictures, model, suffix, form):
    assert run(capsys, "segment", "a.png", "--overlay", f"o.{suffix}", *model)[0] == 0
    with Image.open(f"o.{suffix}") as overlay:
        difference = np.asarray(overlay.convert("RGB")).astype(int) - nm.load(model[1]).segment("a.png").overlay()
        assert overlay.format == form
    assert np.abs(difference).mean() <= (0 if form == "PNG" else 20)
    assert added(pictures) == [f"o.{suffix}"]


@pytest.mark.parametrize(
    "arguments", [["-o", "m.jpg"], ["-o", "m"], ["--overlay", "o.bmp"], ["-o", "x.png", "--overlay", "./x.png"]]
)
def test_suffixes_that_do_not_fit_are_refused(capsys, pictures, model, arguments):
    code, out, err = run(capsys, "segment", "a.png", *arguments, *model)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert added(pictures) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.png", "-o", "out/"], ["a.png.mask.png"]),
        (["a.png", "--overlay", "out/"], ["a.png.overlay.png"]),
        (["a.png", "b.png", "-o", "out"], ["a.png.mask.png", "b.png.mask.png"]),
        (["in", "-o", "out"], ["a.jpg.mask.png", "a.png.mask.png"]),
        (["in", "-r", "-o", "out"], ["a.jpg.mask.png", "a.png.mask.png", "sub/a.png.mask.png"]),
        (["in/*.jpg", "-o", "out"], ["a.jpg.mask.png"]),
        (["in/**/*.png", "-o", "out"], ["a.png.mask.png", "sub/a.png.mask.png"]),
        (["@list.txt", "-o", "out"], ["a.png.mask.png", "in/sub/a.png.mask.png"]),
        (
            ["in", "-o", "out", "--overlay", "out"],
            [f"a.{s}.{k}.png" for s in ("jpg", "png") for k in ("mask", "overlay")],
        ),
    ],
)
def test_several_pictures_go_into_a_folder(capsys, pictures, model, arguments, expected):
    Path("list.txt").write_text("a.png\n../" + Path.cwd().name + "/in/sub/a.png\n")
    if "@list.txt" in arguments:
        expected = ["a.png.mask.png", f"{Path.cwd().name}/in/sub/a.png.mask.png"]
    assert run(capsys, "segment", *arguments, *model)[0] == 0
    assert files_below("out") == expected


def test_an_existing_folder_is_one_for_a_single_picture_too(capsys, pictures, model):
    Path("out.png").mkdir()
    assert run(capsys, "segment", "a.png", "-o", "out.png", *model)[0] == 0
    assert files_below("out.png") == ["a.png.mask.png"]


def test_stdin_has_a_name_for_its_results(capsys, pictures, model, monkeypatch):
    with open("a.png", "rb") as file, open(file.fileno(), closefd=False) as text:
        monkeypatch.setattr("sys.stdin", text)
        assert run(capsys, "segment", "-", "-o", "out/", *model)[0] == 0
    with open("a.png", "rb") as file, open(file.fileno(), closefd=False) as text:
        monkeypatch.setattr("sys.stdin", text)
        assert run(capsys, "segment", "-", "-o", "mask.png", *model)[0] == 0
    assert added(pictures) == ["mask.png", "out/stdin.mask.png"]


def test_names_never_lead_out_of_the_folder(capsys, pictures, model):
    Path("deep/er").mkdir(parents=True)
    Path("list.txt").write_text(f"../../a.png\n{Path.cwd()}/b.png\nx/../../../in/a.png\n")
    os.chdir("deep/er")
    _, document = run_json(capsys, "segment", "@../../list.txt", "-o", "out", *model)
    os.chdir("../..")
    masks = [result.get("mask") for result in document["results"]]
    assert masks[:2] == ["out/a.png.mask.png", os.path.join("out", *Path.cwd().parts[1:], "b.png.mask.png")]
    assert [name for name in added(pictures) if name != "list.txt" and not name.startswith("deep/er/out/")] == []


def test_two_pictures_with_the_same_place_do_not_share_a_file(capsys, pictures, model):
    code, document = run_json(capsys, "segment", "a.png", "in/a.png", "a.png", "b.png", "-o", "out", "--force", *model)
    assert code == 1
    assert codes(document["results"]) == [None, "output-twice", "output-twice", None]
    mask = np.asarray(Image.open("out/a.png.mask.png")).astype(np.int32)
    np.testing.assert_array_equal(mask, nm.load(model[1]).segment("a.png").mask, strict=True)


def test_mask_and_overlay_do_not_share_a_file(capsys, pictures, model):
    code, document = run_json(
        capsys, "segment", "a.png", "-o", "out/../out/a.png.overlay.png", "--overlay", "out/", *model
    )
    assert (code, codes(document["results"])) == (1, ["output-twice"])
    assert added(pictures) == []


def test_a_picture_that_failed_takes_no_name(capsys, pictures, model):
    _, document = run_json(capsys, "segment", "gone/*.png", "gone/*.jpg", "in/a.png", "-o", "out", *model)
    assert codes(document["results"]) == ["no-pictures", "no-pictures", None]


# What is not written over


@pytest.mark.case(
    "119", "masks that exist", "one picture: exit code 2; several: failed inputs before they are computed"
)
def test_existing_results_are_kept_unless_forced(capsys, pictures, model, monkeypatch):
    Path("out").mkdir()
    Path("out/a.png.mask.png").write_text("old")
    code, document = run_json(capsys, "segment", "a.png", "-o", "out/a.png.mask.png", *model)
    assert (code, document["error"]["code"]) == (2, "output-exists")
    assert "keep it with --skip-existing, or replace it with --force" in document["error"]["message"]
    seen = []
    stream = nm.Pipeline.stream_segmentations
    monkeypatch.setattr(
        nm.Pipeline,
        "stream_segmentations",
        lambda self, images, **options: stream(self, map(lambda i: seen.append(i) or i, images), **options),
    )
    code, document = run_json(capsys, "segment", "a.png", "b.png", "-o", "out", *model)
    assert (code, codes(document["results"])) == (1, ["output-exists", None])
    assert "--skip-existing" in document["results"][0]["error"]["message"]
    assert Path("out/a.png.mask.png").read_text() == "old"
    assert seen == ["b.png"]
    code, document = run_json(capsys, "segment", "a.png", "b.png", "-o", "out", "--force", *model)
    assert (code, codes(document["results"])) == (0, [None, None])
    with Image.open("out/a.png.mask.png") as mask:
        assert mask.format == "PNG"


@pytest.mark.case("119", "a mask that would replace an input", "refused even with --force, the input as it was")
def test_inputs_are_never_written_over(capsys, pictures, model):
    Path("out").mkdir()
    Path("out/a.png.mask.png").hardlink_to("b.png")
    before = {name: Path(name).read_bytes() for name in files_below(".")}
    code, document = run_json(capsys, "segment", "a.png", "b.png", "-o", "out", "--force", *model)
    assert (code, codes(document["results"])) == (1, ["output-is-input", None])
    for arguments in (["a.png", "-o", "a.png"], ["a.png", "--overlay", "in/../a.png"]):
        code, document = run_json(capsys, "segment", *arguments, "--force", *model)
        assert (code, document["error"]["code"]) == (2, "output-is-input")
    assert {name: Path(name).read_bytes() for name in before} == before


@pytest.mark.case("119", "a file where a folder is needed, and the reverse", "exit code 2, or a failed input")
def test_folders_and_files_in_the_wrong_place(capsys, pictures, model):
    code, document = run_json(capsys, "segment", "a.png", "b.png", "-o", "in/a.jpg", *model)
    assert (code, document["error"]["code"]) == (2, "output-not-folder")
    code, document = run_json(capsys, "segment", "a.png", "b.png", "-o", "in/a.jpg/x", *model)
    assert (code, document["error"]["code"]) == (1, "output-unwritable")
    Path("out/a.png.mask.png").mkdir(parents=True)
    Path("out/sub").touch()
    code, document = run_json(capsys, "segment", "a.png", "in", "-r", "-o", "out", "--force", *model)
    assert codes(document["results"]) == ["output-is-folder", None, "output-is-folder", "output-unwritable"]
    assert added(pictures) == ["out/a.jpg.mask.png", "out/sub"]


# Failures and interruptions


def test_an_error_that_names_no_picture_is_given_its_name(capsys, pictures, model):
    Image.new("RGB", (3000, 1)).save("wide.png")
    code, _, err = run(capsys, "segment", "a.png", "wide.png", "none.png", *model)
    wide, none = err.splitlines()
    assert code == 1
    assert wide.startswith("error: wide.png: a picture of 1 x 3000 ")
    assert none.startswith("error: cannot read 'none.png'")


@pytest.mark.case("118", "a full disk under the masks", "the batch ends: one error line, exit code 1, no half file")
def test_a_full_disk_ends_the_batch(capsys, pictures, model, monkeypatch):
    write = targets.write_atomically
    left = [1]

    def fail(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(targets, "write_atomically", fail)
    code, out, err = run(capsys, "segment", "a.png", "b.png", "in", "-o", "out", "--json", *model)
    document = json.loads(out)
    message = "cannot write 'out/b.png.mask.png': No space left on device"
    assert (code, err) == (1, f"error: {message}\n")
    assert names(document["results"]) == ["a.png"]
    assert document["error"] == {"code": "output-unwritable", "message": message}
    assert added(pictures) == ["out/a.png.mask.png"]


def test_a_name_that_is_too_long_fails_alone(capsys, pictures, model):
    long = "l" * 245 + ".png"
    Path("a.png").rename(long)
    code, document = run_json(capsys, "segment", long, "b.png", "-o", "out", *model)
    assert (code, codes(document["results"])) == (1, ["output-unwritable", None])
    assert files_below("out") == ["b.png.mask.png"]


def test_pictures_that_a_format_cannot_hold_are_refused():
    for suffix, width in (("webp", 16384), ("jpg", 65536)):
        with pytest.raises(ImageError, match=f"does not take 1 x {width} pixels") as caught:
            targets.encode("overlay", Image.new("RGB", (width, 1)), f"o.{suffix}")
        assert caught.value.code == "output-format"


@pytest.mark.case("122", "Ctrl-C in the middle of segment", "the masks so far, whole; exit code 130")
def test_an_interrupted_batch_keeps_its_masks(capsys, pictures, model, monkeypatch):
    replace = os.replace

    def interrupt(source, target):
        if Path(target).name.startswith("b.png"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    code, out, err = run(capsys, "segment", "a.png", "b.png", "in", "-o", "out", *model)
    assert (code, err) == (130, "error: interrupted after 1 of 4 pictures\n")
    assert "a.png  16 x 12 pixels" in out.splitlines()
    assert added(pictures) == ["out/a.png.mask.png"]


# Options


def test_what_lies_outside_the_crop_is_said(capsys, pictures, model):
    _, out, _ = run(capsys, "segment", "a.png", "--crop", *model)
    shares = [float(line.split("%")[0]) for line in out.splitlines()[2:]]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert "(outside the crop)" in out.splitlines()[-1]


def test_an_interrupted_batch_goes_on_where_it_stopped(capsys, pictures, model):
    """Files that are there stay as they are, those that are not are made, and nothing counts as failed."""
    run(capsys, "segment", "a.png", "b.png", "-o", "out/", *model)
    before = {path: Path(path).stat().st_mtime_ns for path in added(pictures)}
    arguments = ["segment", "a.png", "b.png", "in/a.jpg", "-o", "out/", "--overlay", "out/", "--skip-existing", *model]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert "  overlay: out/a.png.overlay.png" in out.splitlines()
    assert "  mask: out/a.png.mask.png" not in out.splitlines()
    assert "  mask: out/a.jpg.mask.png" in out.splitlines()
    assert len(added(pictures)) == 6
    assert {path: Path(path).stat().st_mtime_ns for path in before} == before
    assert run(capsys, *arguments)[::2] == (0, "note: left out 3 pictures whose files exist already\n")
    one = ["segment", "a.png", "-o", "out/a.png.mask.png", "--skip-existing", "--json", *model]
    code, document = run_json(capsys, *one)
    assert (code, document["results"]) == (0, [])
    assert run(capsys, *one, "--force")[0] == 2


@pytest.mark.parametrize("inputs", [["a.png", "b.png"], ["in"], ["*.png"]])
@pytest.mark.parametrize("option", ["-o", "--overlay"])
def test_several_pictures_do_not_go_into_a_folder_with_the_name_of_a_picture(capsys, pictures, model, inputs, option):
    code, _, err = run(capsys, "segment", *inputs, option, "one.png", *model)
    assert code == 2
    assert "name a folder" in err
    assert added(pictures) == []
    assert run(capsys, "segment", *inputs, option, "one.png/", *model)[0] == 0


def test_crop_looks_at_the_middle(capsys, pictures, model):
    write_picture(Path("a.png"))
    _, whole = run_json(capsys, "segment", "a.png", *model)
    _, cropped = run_json(capsys, "segment", "a.png", "--crop", *model)
    library = nm.load(model[1])
    for document, crop in ((whole, False), (cropped, True)):
        assert document["results"][0]["classes"] == library.segment("a.png", crop=crop).to_dict()["classes"]
    assert whole["results"] != cropped["results"]


def test_the_options_of_reading_reach_segment(capsys, pictures, model):
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save("clear.png")
    _, document = run_json(capsys, "segment", "clear.png", "--background", "blue", *model)
    expected = nm.load(model[1]).segment("clear.png", background="blue").to_dict()
    assert document["results"][0]["classes"] == expected["classes"]
    assert expected["classes"] != nm.load(model[1]).segment("clear.png").to_dict()["classes"]


def test_a_folder_segmented_into_itself_twice_does_not_segment_its_masks(capsys, pictures, model):
    arguments = ["segment", "in", "-o", "in", "--overlay", "in/", "--force", *model]
    assert run(capsys, *arguments)[0] == 0
    first = files_below(".")
    written = ["a.jpg.mask.png", "a.jpg.overlay.png", "a.png.mask.png", "a.png.overlay.png"]
    assert added(pictures) == [f"in/{name}" for name in written]
    code, _, err = run(capsys, *arguments)
    assert (code, err) == (0, "note: left out 4 files whose names are not those of pictures\n")
    assert files_below(".") == first


def test_the_limit_of_the_network_can_be_set(capsys, pictures, model):
    Image.new("RGB", (400, 4)).save("long.png")  # 36 x 3600 for the network
    code, _, err = run(capsys, "segment", "long.png", "--max-network-pixels", "100000", *model)
    assert code == 1
    assert "--max-network-pixels of 100,000" in err
    assert run(capsys, "segment", "long.png", "--max-network-pixels", "129600", *model)[0] == 0


def test_without_a_model_the_default_is_one_that_segments(capsys, pictures, monkeypatch):
    asked = []

    def load(model, *, task, precision, workers):
        asked.append((model, task))
        raise nm.CheckpointError("none", "checkpoint-missing")

    monkeypatch.setattr(pipeline, "load", load)
    assert run(capsys, "segment", "a.png")[0] == 3
    assert run(capsys, "predict", "a.png")[0] == 3
    assert asked == [(None, "segmentation"), (None, "classification")]
