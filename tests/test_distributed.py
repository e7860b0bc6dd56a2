"""PredictBatch and SegmentBatch by themselves: what is pickled, what comes back, what is refused, what is loaded."""

import dataclasses
import io
import itertools
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from commandline import codes, run_json
from PIL import Image

import npmobilevit as nm
from npmobilevit import pipeline
from npmobilevit.distributed import PredictBatch, SegmentBatch

pytestmark = pytest.mark.usefixtures("clean_environment")

IMAGES = Path(__file__).parents[1] / "reference" / "images"
CHELSEA, COFFEE, STREET = (str(IMAGES / f"{name}.png") for name in ("chelsea", "coffee", "street"))
CLASSIFIER, SEGMENTER = "cifar10-xx-small", "camvid-deeplabv3-xx-small"


@pytest.fixture
def loads(monkeypatch):
    """The names of the models that are loaded, one entry for each time."""
    names = []
    load = pipeline.load

    def counted(name, **options):
        names.append(name)
        return load(name, **options)

    monkeypatch.setattr(pipeline, "load", counted)
    return names


# Pickling


def test_a_pickled_copy_is_small_and_gives_the_same_rows(segmenter_folder):
    for call in (
        PredictBatch(CLASSIFIER, top_k=2, background=(0, 0, 0), max_pixels=10**6),
        SegmentBatch(segmenter_folder, crop=True, mask=True),
    ):
        rows = call([CHELSEA])
        data = pickle.dumps(call)  # after the model was loaded
        assert len(data) < 500
        assert pickle.loads(data)([CHELSEA]) == rows


@pytest.mark.parametrize("call", [PredictBatch(CLASSIFIER), SegmentBatch(SEGMENTER)])
def test_it_is_frozen(call):
    for field in dataclasses.fields(call):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(call, field.name, None)


def test_a_relative_path_of_a_model_is_that_of_the_folder_where_the_callable_was_made(
    classifier_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(classifier_folder.parent)
    for model in (classifier_folder.name, Path(classifier_folder.name), f"./{classifier_folder.name}"):
        monkeypatch.chdir(classifier_folder.parent)
        data = pickle.dumps(PredictBatch(model))
        monkeypatch.chdir(tmp_path)
        assert pickle.loads(data).model == str(classifier_folder)
        assert "predictions" in pickle.loads(data)([CHELSEA])[0]


def test_a_path_of_a_picture_is_that_of_the_working_directory_of_the_call(monkeypatch):
    call = PredictBatch(CLASSIFIER)
    assert call(["chelsea.png"])[0]["error"]["code"] == "file-missing"
    monkeypatch.chdir(IMAGES)
    assert call(["chelsea.png"])[0]["predictions"][0]["label"] == "cat"


# Rows


@pytest.mark.parametrize("command", ["predict", "segment"])
def test_rows_are_what_the_command_prints_as_json(command, segmenter_folder, tmp_path, monkeypatch, capsys):
    """Bad pictures keep their places. Caught here: another form, another order, another score."""
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no picture")
    images = [COFFEE, "missing.png", CHELSEA, "text.png", STREET]
    if command == "predict":
        rows = PredictBatch(CLASSIFIER, top_k=3)(images)
        _, document = run_json(capsys, command, *images, "--model", CLASSIFIER, "--top-k", "3")
    else:
        rows = SegmentBatch(segmenter_folder)(images)
        _, document = run_json(capsys, command, *images, "--model", segmenter_folder)
    files = {"mask", "overlay", "plot"}  # that the command would have written
    assert rows == [{key: row[key] for key in row if key not in files} for row in document["results"]]
    assert codes(rows) == [None, "file-missing", None, "image-unknown", None]


def test_paths_and_bytes_give_the_same_under_other_names():
    data = Path(CHELSEA).read_bytes()
    rows = PredictBatch(CLASSIFIER)([CHELSEA, Path(CHELSEA), data, data[:1000], b""])
    assert [row["input"] for row in rows] == [
        CHELSEA,
        CHELSEA,
        f"image data of {len(data):,} bytes",
        "image data of 1,000 bytes",
        "image data of 0 bytes",
    ]
    assert rows[0]["predictions"] == rows[1]["predictions"] == rows[2]["predictions"]
    assert [row["error"]["code"] for row in rows[3:]] == ["image-truncated", "image-empty"]
    assert json.loads(json.dumps(rows)) == rows


def test_a_name_that_is_no_text_is_one_in_the_row():
    path = os.fsdecode(b"\xff.png")
    assert PredictBatch(CLASSIFIER)([path])[0]["input"] == path


def column(images):
    array = np.empty(len(images), object)
    array[:] = images
    return array


@pytest.mark.parametrize("kind", [list, tuple, iter, column, lambda images: (image for image in images)])
def test_a_batch_is_any_iterable(kind):
    images = [CHELSEA, b"no picture", Path(COFFEE).read_bytes()]
    rows = PredictBatch(CLASSIFIER, top_k=1)(kind(images))
    assert [row["input"] for row in rows] == [
        CHELSEA,
        "image data of 10 bytes",
        f"image data of {len(images[2]):,} bytes",
    ]
    assert ["error" in row for row in rows] == [False, True, False]


@pytest.mark.parametrize("call", [PredictBatch(CLASSIFIER), SegmentBatch(SEGMENTER)])
def test_an_empty_batch_has_no_rows(call):
    assert call([]) == []


def test_a_row_does_not_depend_on_the_batch():
    images = [CHELSEA, COFFEE, b"", STREET]
    call = PredictBatch(CLASSIFIER)
    assert call(images) == list(itertools.chain.from_iterable(call([image]) for image in images))


@pytest.mark.parametrize("crop", [False, True])
def test_the_mask_is_there_if_asked_for(crop, segmenter_folder):
    expected = nm.segment(STREET, segmenter_folder, crop=crop)
    row, failed = SegmentBatch(segmenter_folder, crop=crop, mask=True)([STREET, b""])
    mask = Image.open(io.BytesIO(row["mask"]), formats=["PNG"])
    np.testing.assert_array_equal(np.asarray(mask), expected.mask)
    assert row | {"model": expected.model} == expected.to_dict() | {"input": STREET, "mask": row["mask"]}
    assert failed.keys() == {"input", "error"}


# What is refused


@pytest.mark.parametrize("kind", [PredictBatch, SegmentBatch])
@pytest.mark.parametrize("model", [None, 5, b"cifar10-xx-small"])
def test_a_model_has_a_name_or_path(kind, model):
    with pytest.raises(nm.CheckpointError) as caught:
        kind(model)
    assert caught.value.code == "checkpoint-name-invalid"


def test_a_loaded_model_is_refused():
    """It would be pickled with its weights."""
    with pytest.raises(nm.CheckpointError, match="not Pipeline"):
        PredictBatch(nm.load(CLASSIFIER))


@pytest.mark.parametrize("mask", [1, "yes", None])
def test_mask_is_a_truth_value(mask):
    with pytest.raises(nm.ConfigError) as caught:
        SegmentBatch(SEGMENTER, mask=mask)
    assert caught.value.code == "mask"


@pytest.mark.parametrize(
    ("call", "kind", "code"),
    [
        (PredictBatch(CLASSIFIER, top_k=0), nm.ConfigError, "top-k"),
        (PredictBatch(CLASSIFIER, max_pixels=0), nm.ConfigError, "option"),
        (PredictBatch(CLASSIFIER, background="no colour"), nm.ConfigError, "option"),
        (PredictBatch(SEGMENTER), nm.ConfigError, "not-a-classifier"),
        (PredictBatch("./no/such/folder"), nm.CheckpointError, "checkpoint-not-found"),
        (SegmentBatch(SEGMENTER, crop="yes"), nm.ConfigError, "crop"),
        (SegmentBatch(CLASSIFIER), nm.ConfigError, "not-a-segmenter"),
    ],
)
def test_what_no_picture_could_pass_is_raised_and_not_made_a_row(call, kind, code):
    with pytest.raises(kind) as caught:
        call([CHELSEA])
    assert caught.value.code == code


@pytest.mark.parametrize("call", [PredictBatch(CLASSIFIER, backgroud="red"), SegmentBatch(SEGMENTER, top_k=1)])
def test_an_option_that_there_is_not_is_named(call):
    with pytest.raises(TypeError, match=r"unexpected keyword argument '(backgroud|top_k)'"):
        call([CHELSEA])


@pytest.mark.parametrize("batch", [CHELSEA, Path(CHELSEA), b"", {"path": [CHELSEA]}, None])
def test_a_batch_that_is_none_is_refused(batch):
    with pytest.raises(nm.ImageError) as caught:
        PredictBatch(CLASSIFIER)(batch)
    assert caught.value.code == "image-type"


# Loading


def test_making_and_pickling_load_nothing(loads):
    pickle.loads(pickle.dumps(PredictBatch(CLASSIFIER)))
    SegmentBatch("./no/such/folder")
    assert loads == []


def test_the_model_is_loaded_once_however_many_threads_copies_and_batches_there_are(loads, classifier_folder):
    copies = [pickle.loads(pickle.dumps(PredictBatch(classifier_folder, top_k=k))) for k in (1, 2, 3)]
    with ThreadPoolExecutor(3) as threads:
        rows = list(threads.map(lambda call: call([COFFEE, CHELSEA]), copies * 2))
    assert loads == [classifier_folder]
    assert [len(row[1]["predictions"]) for row in rows] == [1, 2, 3] * 2
