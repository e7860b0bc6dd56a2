"""The tools that train, evaluate and time, on the smallest of inputs."""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import npmobilevit as nm

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import camvid  # noqa: E402
import cifar10  # noqa: E402
import draw_street  # noqa: E402
import evaluate  # noqa: E402
import train_classifier  # noqa: E402
import train_segmenter  # noqa: E402

from npmobilevit.checkpoints import find_checkpoint  # noqa: E402

pytestmark = [pytest.mark.framework, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """CIFAR-10 in little: 16 pictures a split, the classes told apart by their colour."""
    folder = tmp_path_factory.mktemp("cifar10")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, colour in (("cat", (200, 40, 40)), ("ship", (40, 40, 200))):
            (folder / split / label).mkdir(parents=True)
            for i in range(8):
                pixels = np.clip(rng.normal(colour, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{i:04}.jpg")
    return folder


def run(monkeypatch, tool, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{tool.__name__}.py", *map(str, arguments)])
    tool.main()


def test_training_resumes_and_ends_in_a_checkpoint_that_npmobilevit_loads(data, tmp_path, monkeypatch, capsys):
    arguments = ("--data", data, "--out", tmp_path, "--batch-size", 8)
    monkeypatch.setattr(
        train_classifier, "PHASES", (train_classifier.Phase(1, 32, 1.0), train_classifier.Phase(1, 48, 0.1))
    )
    monkeypatch.setattr(
        train_classifier, "CYCLES", (train_classifier.Cycle(1, 1e-3, 2), train_classifier.Cycle(1, 1e-4, 2))
    )

    class Killed(Exception):
        pass

    def save_once(*saved):
        if (tmp_path / "state.pt").exists():
            raise Killed
        save(*saved)

    save = torch.save
    monkeypatch.setattr(torch, "save", save_once)
    with pytest.raises(Killed):  # at the end of the second epoch: only the first is saved
        run(monkeypatch, train_classifier, *arguments)
    assert "epoch 1/2" in capsys.readouterr().out
    monkeypatch.setattr(torch, "save", save)
    run(monkeypatch, train_classifier, *arguments)
    resumed = capsys.readouterr().out
    assert "epoch 1/2" not in resumed
    assert "epoch 2/2" in resumed
    run(monkeypatch, train_classifier, *arguments)
    assert "epoch " not in capsys.readouterr().out  # nothing is left to do
    pipeline = nm.load(tmp_path)
    assert [p.label for p in pipeline.predict(np.zeros((40, 50, 3), np.uint8), top_k=10)]
    assert pipeline.config.id2label == dict(enumerate(cifar10.LABELS))
    assert dict(pipeline.processor.crop_size) == {"height": 64, "width": 64}
    with pytest.raises(SystemExit, match="another recipe"):
        run(monkeypatch, train_classifier, *arguments, "--seed", 2)


def test_augmented_pictures_are_what_the_processor_makes():
    pictures = torch.zeros(8, 32, 32, 3, dtype=torch.uint8)
    pictures[..., 0] = 255  # red
    for seed in range(4):
        x = train_classifier.augment(pictures, 48, torch.Generator().manual_seed(seed), 1.0)
        assert x.shape == (8, 3, 48, 48)
        assert x.dtype == torch.float32
        assert 0 <= x.min() <= x.max() <= 1
        assert (x[:, 2].mean() > x[:, 0].mean() + 0.3).item()  # red is the last channel: BGR


def test_evaluate_counts_right_answers_and_compares_with_torch(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "report.json"
    run(monkeypatch, evaluate, "--data", data, "--torch", "--out", out)
    report = json.loads(out.read_text())
    assert report == json.loads(capsys.readouterr().out)
    pictures, labels = cifar10.read_split(data, "test")
    shipped = nm.load("cifar10-xx-small")
    right = [shipped.predict(p)[0].index == label for p, label in zip(pictures, labels, strict=True)]
    assert (report["pictures"], report["right"]) == (16, sum(right))
    assert report["accuracy"] == sum(right) / 16
    assert report["per_class"] == {"cat": sum(right[:8]) / 8, "ship": sum(right[8:]) / 8}
    assert report["torch"]["right"] == report["right"]
    assert report["torch"]["largest_logit_error"] < 1e-5
    assert report["torch"]["disagreements"] == []


def test_evaluate_reads_photographs(data, monkeypatch, capsys):
    run(monkeypatch, evaluate, "--photos", data / "test")
    assert json.loads(capsys.readouterr().out)["pictures"] == 16


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """CamVid in little: the drawn street in 16, 8 and 8 copies of other brightness, sky above and road below."""
    labels = np.full((360, 480), camvid.LABELS.index("road"), np.uint8)
    labels[:120], labels[:, :20] = camvid.LABELS.index("sky"), 11  # void
    labels[300:, 20:460] = np.arange(11).repeat(40)  # every class occurs
    path = tmp_path_factory.mktemp("camvid") / "camvid.tar"
    with tarfile.open(path, "w") as archive:
        for split, count in (("train", 16), ("val", 8), ("test", 8)):
            for i in range(count):
                pixels = (np.asarray(draw_street.street()) * (0.5 + i / 32)).astype(np.uint8)
                for name, array, kind in ((f"images/{i}.jpg", pixels, "JPEG"), (f"labels/{i}.png", labels, "PNG")):
                    data = io.BytesIO()
                    Image.fromarray(array).save(data, kind)
                    member = tarfile.TarInfo(f"{split}/{name}")
                    member.size = len(data.getvalue())
                    archive.addfile(member, io.BytesIO(data.getvalue()))
    return path


def test_the_split_of_camvid_has_void_as_ignored(streets):
    pictures, labels = camvid.read_split(streets, "val")
    assert pictures.shape == (8, 360, 480, 3)
    assert set(np.unique(labels)) == {*range(11), camvid.IGNORED}
    with pytest.raises(SystemExit, match="holds no dev/images"):
        camvid.read_split(streets, "dev")


def test_a_segmenter_is_trained_resumed_and_loaded(streets, tmp_path, monkeypatch, capsys):
    shipped = find_checkpoint("cifar10-xx-small").weights_path.parent
    arguments = ("--data", streets, "--backbone", shipped, "--state", tmp_path / "state.pt", "--out", tmp_path / "out")
    monkeypatch.setattr(train_segmenter, "CROP", 64)
    run(monkeypatch, train_segmenter, *arguments, "--epochs", 1)
    assert "epoch 1/1" in capsys.readouterr().out
    run(monkeypatch, train_segmenter, *arguments, "--epochs", 1)
    out = capsys.readouterr().out
    assert "epoch " not in out  # nothing is left to do but the end
    assert "test mIoU" in out
    with pytest.raises(SystemExit, match="give another one"):
        run(monkeypatch, train_segmenter, *arguments, "--epochs", 2)
    pipeline = nm.load(tmp_path / "out")
    assert pipeline.config.id2label == dict(enumerate(camvid.LABELS))
    assert pipeline.segment(draw_street.street()).mask.shape == (360, 480)
    picture = camvid.read_split(streets, "test")[0][:1]
    expected = pipeline.processor(picture[0], input_data_format="channels_last")["pixel_values"]
    np.testing.assert_array_equal(train_segmenter.pixel_values(torch.from_numpy(picture)).numpy(), expected)


def test_labels_are_cut_out_with_their_pictures():
    """What is red is labelled 1, what is blue 2; outside the picture nothing is labelled."""
    pictures, labels = torch.zeros(16, 360, 480, 3, dtype=torch.uint8), torch.zeros(16, 360, 480, dtype=torch.uint8)
    pictures[:, :, :240, 0], labels[:, :, :240] = 255, 1
    pictures[:, :, 240:, 2], labels[:, :, 240:] = 255, 2
    x, y = train_segmenter.augment(pictures, labels, torch.Generator().manual_seed(0))
    assert set(y.unique().tolist()) == {1, 2, camvid.IGNORED}
    inside = y != camvid.IGNORED
    is_red = x[:, 2] > x[:, 0]  # BGR
    assert (is_red[inside] == (y[inside] == 1)).float().mean() > 0.99
    assert x.permute(0, 2, 3, 1)[~inside].abs().max() < 1


def test_evaluate_scores_streets_and_compares_with_torch(streets, monkeypatch, capsys):
    run(monkeypatch, evaluate, "--streets", streets, "--torch")
    report = json.loads(capsys.readouterr().out)
    pictures, truths = camvid.read_split(streets, "test")
    masks = np.stack([found.mask for found in nm.segment(list(pictures), "camvid-deeplabv3-xx-small")])
    counted = truths != camvid.IGNORED
    assert report["pixel_accuracy"] == pytest.approx((masks == truths)[counted].mean())
    road = camvid.LABELS.index("road")
    both = ((masks == road) & (truths == road))[counted].sum()
    either = ((masks == road) | (truths == road))[counted].sum()
    assert report["per_class_iou"]["road"] == pytest.approx(both / either)
    assert report["torch"]["pixel_accuracy"] == pytest.approx(report["pixel_accuracy"], abs=1e-5)
    assert report["torch"]["largest_logit_error"] < 1e-3
    assert report["torch"]["beyond_near_ties"] == []


def test_the_drawn_street_is_the_one_in_the_repository():
    with Image.open(Path(__file__).parents[2] / "reference" / "images" / "street.png") as committed:
        difference = np.asarray(draw_street.street(), int) - np.asarray(committed, int)
    assert np.abs(difference).mean() < 1  # versions of Pillow may draw edges otherwise
