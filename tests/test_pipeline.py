"""load, predict and segment: which model, which picture, which score, which pixel."""

import dataclasses
import io
import pickle
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import networks
import numpy as np
import pytest
from memory import peak_growth
from PIL import Image, ImageSequence

import npmobilevit as nm
from npmobilevit import checkpoints, pipeline

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("clean_environment")

CHELSEA = ROOT / "reference" / "images" / "chelsea.png"
STREET = ROOT / "reference" / "images" / "street.png"
SHIPPED = "cifar10-xx-small"


@pytest.fixture(scope="module")
def shipped():
    return nm.load(SHIPPED)


@pytest.fixture(scope="module")
def classifier(classifier_folder):
    return nm.load(classifier_folder)


# Predictions


def test_the_shipped_classifier_knows_a_cat(shipped):
    predictions = shipped.predict(CHELSEA)
    assert predictions[0].label == "cat"
    assert predictions[0].score > 0.6
    assert len(predictions) == 5


def test_predictions_are_the_softmax_of_the_logits_best_first(classifier):
    """Caught here: scores of another order, index and label that do not belong together, a forgotten softmax."""
    picture = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    pixels = classifier.processor.preprocess(Image.fromarray(picture))["pixel_values"]
    logits = classifier.network(pixels).logits[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    predictions = classifier.predict(picture)
    assert [p.score for p in predictions] == sorted((p.score for p in predictions), reverse=True)
    assert {p.index for p in predictions} == set(range(5))
    for prediction in predictions:
        assert prediction.label == "abcde"[prediction.index]
        assert prediction.score == pytest.approx(expected[prediction.index], abs=1e-6)


def test_equal_scores_keep_the_order_of_the_classes(classifier):
    config = classifier.config
    weights = {name: value.copy() for name, value in classifier.network.parameters().items()}
    weights["classifier.weight"][...] = 0
    weights["classifier.bias"][...] = [1, 2, 1, 2, 1]
    network = nm.MobileViTForImageClassification(config, weights)
    tied = nm.Pipeline("tied", network, classifier.processor)
    assert [p.index for p in tied.predict(np.zeros((9, 9, 3), np.uint8))] == [1, 3, 0, 2, 4]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_labels": 3}, [0.09003057, 0.24472847, 0.66524096]),  # softmax of 0, 1, 2
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, [0.5, 0.73105858, 0.88079708]),  # sigmoids
        ({"num_labels": 1}, [0.5]),
        ({"num_labels": 3, "problem_type": "single_label_classification"}, [0.09003057, 0.24472847, 0.66524096]),
    ],
)
def test_scores_are_chosen_as_in_transformers_pipeline(settings, expected):
    config = nm.MobileViTConfig(**settings)
    logits = np.arange(config.num_labels, dtype=np.float64)
    np.testing.assert_allclose(pipeline.class_scores(logits, config), expected, atol=1e-8, strict=True)


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (5, 5), (6, 5), (10**9, 5)])
def test_top_k_above_the_number_of_labels_returns_all(classifier, top_k, count):
    assert len(classifier.predict(np.zeros((9, 9, 3), np.uint8), top_k=top_k)) == count


@pytest.mark.parametrize("top_k", [0, -1, 2.0, True, "3", None])
def test_a_wrong_top_k_is_refused(classifier, top_k):
    with pytest.raises(nm.ConfigError, match="top_k") as caught:
        classifier.predict(np.zeros((9, 9, 3), np.uint8), top_k=top_k)
    assert caught.value.code == "top-k"


def test_every_way_to_hand_over_a_picture_gives_the_same_answer(shipped):
    image = Image.open(CHELSEA).convert("RGB")
    expected = shipped.predict(CHELSEA)
    data = CHELSEA.read_bytes()
    for other in (str(CHELSEA), data, io.BytesIO(data), image, np.asarray(image)):
        assert shipped.predict(other) == expected


def test_a_list_gives_a_list_of_lists_and_no_picture_changes_another(classifier):
    pictures = [np.random.default_rng(i).integers(0, 256, (30 + i, 40, 3), np.uint8) for i in range(3)]
    together = classifier.predict(pictures)
    assert together == [classifier.predict(picture) for picture in pictures]
    assert classifier.predict(pictures[::-1]) == together[::-1]
    assert classifier.predict(tuple(pictures)) == together
    assert classifier.predict([]) == []


@pytest.mark.parametrize("shape", [(3, 200, 3), (4, 90, 3), (1, 64, 3), (3, 3, 3)])
def test_a_flat_picture_is_not_taken_for_channels_first(classifier, shape):
    picture = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    assert classifier.predict(picture) == classifier.predict(Image.fromarray(picture))


def test_one_bad_picture_raises(classifier):
    with pytest.raises(nm.ImageError, match=r"image 2 of 3: .*missing\.png") as caught:
        classifier.predict([np.zeros((9, 9, 3), np.uint8), "missing.png", "other.png"])
    assert caught.value.code == "file-missing"


def test_a_network_without_classes_does_not_predict(segmenter_folder, processor):
    with pytest.raises(nm.ConfigError, match="no classifier") as caught:
        nm.predict(np.zeros((9, 9, 3), np.uint8), segmenter_folder)
    assert caught.value.code == "not-a-classifier"
    config = networks.tiny(num_labels=0)
    network = nm.MobileViTForImageClassification(config, networks.random_weights(config, "classification"))
    with pytest.raises(nm.ConfigError, match="0 labels"):
        nm.Pipeline("features", network, processor).predict(np.zeros((9, 9, 3), np.uint8))


def test_predictions_can_be_looked_at_and_written(shipped):
    predictions = shipped.predict(CHELSEA, top_k=2)
    assert predictions.model == SHIPPED
    assert predictions.to_dict() == {
        "model": SHIPPED,
        "predictions": [{"label": p.label, "score": p.score, "index": p.index} for p in predictions],
    }
    seen = Image.open(io.BytesIO(predictions.picture))
    assert seen.size == (320, 213)  # of 451 x 300
    expected = np.asarray(Image.open(CHELSEA).convert("RGB").resize(seen.size, Image.Resampling.BOX), int)
    assert np.abs(np.asarray(seen, int) - expected).mean() < 6
    assert pickle.loads(pickle.dumps(predictions)).to_dict() == predictions.to_dict()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"background": "no such colour"}, "option"),
        ({"value_range": (1, 1)}, "option"),
        ({"max_pixels": 0}, "option"),
        ({"max_network_pixels": 0}, "option"),
        ({"max_resized_pixels": 1.5}, "option"),
    ],
)
def test_options_out_of_range_are_refused(classifier, options, code):
    with pytest.raises(nm.ConfigError) as caught:
        classifier.predict(np.zeros((9, 9, 3), np.uint8), **options)
    assert caught.value.code == code


def test_an_unknown_option_is_a_type_error(classifier):
    with pytest.raises(TypeError, match=r"^predict\(\) got an unexpected keyword argument 'backgroud'"):
        classifier.predict(np.zeros((9, 9, 3), np.uint8), backgroud="black")


def test_options_reach_the_picture(classifier):
    rgba = np.zeros((40, 40, 4), np.uint8)
    black = classifier.predict(np.zeros((40, 40, 3), np.uint8))
    assert classifier.predict(rgba, background="black") == black
    assert classifier.predict(rgba) != black
    assert classifier.predict(np.zeros((3, 40, 40)), layout="CHW", value_range=(0, 7)) == black
    for limit in ("max_pixels", "max_resized_pixels", "max_network_pixels"):
        with pytest.raises(nm.ImageError, match=limit):
            classifier.predict(rgba, **{limit: 1000})


# Streams: any number of pictures


def test_a_stream_gives_one_outcome_for_each_picture_in_order(classifier):
    good = np.random.default_rng(5).integers(0, 256, (30, 40, 3), np.uint8)
    pictures = [good, "missing.png", good[::-1], b"no picture", io.BytesIO(b""), io.BytesIO(CHELSEA.read_bytes())]
    outcomes = list(classifier.stream_predictions(pictures, top_k=1))
    assert [getattr(o, "code", "good") for o in outcomes] == [
        "good",
        "file-missing",
        "good",
        "image-unknown",
        "image-empty",
        "good",
    ]
    assert outcomes[0] == classifier.predict(good, top_k=1)
    assert outcomes[2] == classifier.predict(good[::-1], top_k=1)
    assert outcomes[5] == classifier.predict(CHELSEA, top_k=1)


def test_a_stream_takes_at_most_one_picture_ahead(classifier):
    taken = []

    def pictures():
        for i in range(10):
            taken.append(i)
            yield np.zeros((9, 9, 3), np.uint8)

    stream = classifier.stream_predictions(pictures())
    assert taken == []
    for count in range(1, 4):
        next(stream)
        assert taken == list(range(count + 1))
    stream.close()
    assert len(taken) == 4


def test_a_picture_that_changes_afterwards_gave_the_answer_of_before(classifier):
    """A generator may fill one array again and again, and an iterator of frames gives one PIL image every time."""
    frames = [np.random.default_rng(i).integers(0, 256, (700, 900, 3), np.uint8) for i in range(4)]
    expected = [classifier.predict(frame) for frame in frames]

    def refilled():
        buffer = np.empty_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield buffer

    assert list(classifier.stream_predictions(refilled())) == expected
    data = io.BytesIO()
    first, *others = map(Image.fromarray, frames)
    first.save(data, "TIFF", save_all=True, append_images=others)
    with Image.open(data) as pages:
        assert list(classifier.stream_predictions(ImageSequence.Iterator(pages))) == expected


def test_warnings_of_the_caller_are_left_alone(classifier, tmp_path):
    """The filters belong to the process: between two results no other thread may change them."""
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((2000, 2000, 3), np.uint8)).save(path)
    before = list(warnings.filters)
    heard = 0
    for _ in classifier.stream_predictions([path] * 6):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            time.sleep(0.05)
            warnings.warn("of the caller", stacklevel=1)
        heard += len(caught)
        assert list(warnings.filters) == before
    assert heard == 6


def test_what_goes_wrong_in_the_callers_iterable_does_not_cost_a_result(classifier):
    def pictures():
        yield CHELSEA
        yield CHELSEA
        raise OSError("the camera is gone")

    stream = classifier.stream_predictions(pictures())
    assert next(stream) == next(stream)
    with pytest.raises(OSError, match="camera"):
        next(stream)


@pytest.mark.parametrize("one", ["cat.png", Path("cat.png"), b"cat", Image.new("RGB", (3, 3))])
def test_one_image_is_not_taken_for_many(classifier, one):
    with pytest.raises(nm.ImageError, match="is one image; pass a list"):
        next(classifier.stream_predictions(one))


def test_errors_that_are_kept_do_not_keep_their_pictures(classifier_folder, tmp_path):
    Image.effect_noise((1500, 1500), 90).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:-1000])
    setup = f"""
import npmobilevit as nm

stream = nm.load({str(classifier_folder)!r}).stream_predictions([{str(tmp_path / "cut.png")!r}] * 40)
errors = [next(stream) for _ in range(5)]
"""
    action = "errors += stream; assert [e.code for e in errors] == ['image-truncated'] * 40"
    assert peak_growth(setup, action) < 20  # MiB, of 70 that the files have


def test_file_objects_are_read_in_the_callers_thread(classifier):
    readers = []

    class Stream(io.BytesIO):
        def read(self, *size):
            readers.append(threading.current_thread())
            return super().read(*size)

    list(classifier.stream_predictions([Stream(CHELSEA.read_bytes()), Stream(b"")]))
    assert set(readers) == {threading.main_thread()}


def test_options_of_a_stream_are_checked_before_a_picture_is_asked_for(classifier):
    with pytest.raises(nm.ConfigError):
        classifier.stream_predictions([], top_k=0)
    with pytest.raises(nm.ConfigError):
        classifier.stream_segmentations([])


def test_a_thousand_pictures_take_no_more_memory_than_fifty(classifier_folder):
    setup = f"""
import itertools
import numpy as np
import npmobilevit as nm

pictures = (np.full((160, 200, 3), i % 256, np.uint8) for i in range(1000))
stream = nm.load({str(classifier_folder)!r}).stream_predictions(pictures)
assert len(list(itertools.islice(stream, 50))) == 50
"""
    action = "assert sum(1 for _ in stream) == 950"
    assert peak_growth(setup, action) < 10  # MiB, of 90 that the pictures have


def test_answers_with_nan_are_no_answers(processor):
    config = networks.tiny()
    weights = networks.random_weights(config, "classification")
    weights["classifier.weight"][...] = 3e38
    weights["mobilevit.conv_1x1_exp.normalization.weight"][...] = 1e30
    weights["mobilevit.conv_stem.normalization.weight"][...] = 3e38
    for engine in ("reference", "fast"):
        network = nm.MobileViTForImageClassification(config, weights, engine=engine)
        with pytest.raises(nm.WeightsError) as caught:  # and no warning of NumPy
            nm.Pipeline("overflowing", network, processor).predict(CHELSEA)
        assert caught.value.code == "logits-not-finite"


def test_too_little_memory_for_preparing_is_an_error_of_the_picture(classifier, monkeypatch):
    preprocess, left = nm.MobileViTImageProcessor.preprocess, [1]

    def exhaust(self, *arguments, **options):
        left[0] -= 1
        if left[0] >= 0:
            raise MemoryError
        return preprocess(self, *arguments, **options)

    monkeypatch.setattr(nm.MobileViTImageProcessor, "preprocess", exhaust)
    first, second = classifier.stream_predictions([CHELSEA, CHELSEA])
    assert first.code == "image-memory"
    assert len(second) == 5


def test_too_little_memory_for_the_network_is_an_error_of_the_picture(classifier, monkeypatch):
    def exhaust(pixel_values):
        raise MemoryError

    monkeypatch.setattr(nm.MobileViTForImageClassification, "__call__", lambda self, x: exhaust(x))
    (outcome,) = classifier.stream_predictions([CHELSEA])
    assert outcome.code == "image-memory"
    with pytest.raises(nm.ImageError, match="memory"):
        classifier.predict(CHELSEA)


# Segmentation


@pytest.fixture(scope="module")
def segmenter(segmenter_folder):
    return nm.load(segmenter_folder)


def picture(height, width):
    """Something smooth, so that the network has more to tell than noise."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + 1), np.sin(y / 7 + x / 23), np.cos(x / 31 - y / 5)]
    return (127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(36, 36), (36, 61), (90, 50), (7, 12), (301, 452)])
def test_the_mask_is_that_of_transformers_post_processing_in_the_pictures_size(segmenter, height, width):
    """Caught here: a mask of the logits' or the network's size, labels resized in place of logits, a centre crop."""
    image = picture(height, width)
    pixels = segmenter.processor.preprocess(image, do_center_crop=False, input_data_format="channels_last")
    outputs = segmenter.network(pixels["pixel_values"])
    (expected,) = segmenter.processor.post_process_semantic_segmentation(outputs, [(height, width)])
    found = segmenter.segment(image)
    np.testing.assert_array_equal(found.mask, expected.astype(np.int32), strict=True)
    assert len(np.unique(found.mask)) > 1
    np.testing.assert_array_equal(found.image, image, strict=True)


@pytest.mark.parametrize(("height", "width"), [(36, 36), (36, 61), (90, 36)])
def test_with_crop_the_centre_is_that_of_transformers_and_the_rest_has_no_class(segmenter, height, width):
    """The resize leaves these sizes as they are, so the crop of 32 x 32 lies on whole pixels."""
    image = picture(height, width)
    outputs = segmenter.network(segmenter.processor.preprocess(image)["pixel_values"])
    (expected,) = segmenter.processor.post_process_semantic_segmentation(outputs, [(32, 32)])
    mask = segmenter.segment(image, crop=True).mask
    top, left = (height - 32) // 2, (width - 32) // 2
    inside = np.zeros((height, width), bool)
    inside[top : top + 32, left : left + 32] = True
    np.testing.assert_array_equal(mask[inside].reshape(32, 32), expected)
    assert (mask[~inside] == 255).all()


def test_with_crop_a_resized_picture_keeps_its_geometry(segmenter):
    """Ten times the size: every pixel of the small crop becomes ten by ten."""
    image = picture(360, 610)
    mask = segmenter.segment(image, crop=True).mask
    assert mask.shape == (360, 610)
    seen = mask != 255
    assert seen[20:340, 140:460].all()  # (36 - 32) // 2 and (61 - 32) // 2, times ten
    assert seen.sum() == 320 * 320


def test_where_the_processor_does_not_crop_neither_does_segment(segmenter):
    processor = dataclasses.replace(segmenter.processor, do_center_crop=False)
    whole = nm.Pipeline("whole", segmenter.network, processor)
    image = picture(50, 80)
    np.testing.assert_array_equal(whole.segment(image, crop=True).mask, segmenter.segment(image).mask, strict=True)


def test_a_crop_larger_than_the_picture_is_padded_and_the_padding_left_out(segmenter):
    processor = dataclasses.replace(segmenter.processor, crop_size={"height": 64, "width": 64})
    padded = nm.Pipeline("padded", segmenter.network, processor)
    image = picture(36, 50)
    pixels = processor.preprocess(image)["pixel_values"]
    (expected,) = processor.post_process_semantic_segmentation(segmenter.network(pixels), [(64, 64)])
    mask = padded.segment(image, crop=True).mask
    np.testing.assert_array_equal(mask, expected[14:50, 7:57])


def test_classes_tell_share_and_probability_largest_first(segmenter):
    found = segmenter.segment(picture(90, 120))
    ids, counts = np.unique(found.mask, return_counts=True)
    assert {c.id: round(c.share * found.mask.size) for c in found.classes} == dict(zip(ids, counts, strict=True))
    assert sum(c.share for c in found.classes) == pytest.approx(1)
    assert [c.share for c in found.classes] == sorted((c.share for c in found.classes), reverse=True)
    assert all(1 / 5 <= c.probability <= 1 for c in found.classes)
    assert all(c.name == found.labels[c.id] == f"LABEL_{c.id}" for c in found.classes)
    assert len(found.labels) == 5
    assert pickle.loads(pickle.dumps(found)).to_dict() == found.to_dict()
    cropped = segmenter.segment(picture(90, 120), crop=True)
    assert sum(c.share for c in cropped.classes) == pytest.approx((cropped.mask != 255).mean())


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (1, 4), (4, 1)])
def test_a_crop_that_shows_no_pixel_has_no_class(segmenter, shape):
    """Resized to 36 x 72, the centres of 1 x 2 pixels lie outside the 32 x 32 in the middle."""
    found = segmenter.segment(np.zeros((*shape, 3), np.uint8), crop=True)
    assert (found.mask == 255).all() == (not found.classes)
    assert found.mask.shape == shape


def test_outside_the_crop_is_the_models_own_ignore_index(segmenter):
    config = dataclasses.replace(segmenter.config, semantic_loss_ignore_index=-100)
    network = nm.MobileViTForSemanticSegmentation(config, segmenter.network.parameters())
    found = nm.Pipeline("other", network, segmenter.processor).segment(picture(36, 60), crop=True)
    assert found.ignore_index == -100
    assert (found.mask == -100).sum() == 36 * 60 - 32 * 32
    assert np.unique(np.asarray(found.mask_image())).max() == 255


def test_memory_is_bounded_for_any_shape(segmenter_folder, tmp_path):
    """A processor of fixed height and width takes pictures of any length."""
    setup = f"""
import dataclasses
import numpy as np
import npmobilevit as nm

loaded = nm.load({str(segmenter_folder)!r})
pipeline = nm.Pipeline("fixed", loaded.network, dataclasses.replace(loaded.processor, size=[36, 36]))
wide = np.zeros((1, 2_000_000, 3), np.uint8)
"""
    assert peak_growth(setup, "assert pipeline.segment(wide).mask.shape == (1, 2_000_000)") < 150


def test_a_processor_that_does_not_rescale_is_refused_at_once(classifier):
    processor = dataclasses.replace(classifier.processor, do_rescale=False)
    pipeline = nm.Pipeline("raw", classifier.network, processor)
    with pytest.raises(nm.ConfigError, match="do_rescale"):
        pipeline.predict(CHELSEA)
    with pytest.raises(nm.ConfigError, match="do_rescale") as caught:
        pipeline.require_pictures()
    assert caught.value.code == "takes-no-pictures"


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("head", [None, "classification", "segmentation"])
def test_a_network_that_takes_no_pictures_is_told(processor, head, channels):
    network = networks.make_model(head, networks.tiny(num_channels=channels))
    with pytest.raises(nm.ConfigError, match=f"takes {channels} channels") as caught:
        nm.Pipeline("grey", network, processor).require_pictures()
    assert caught.value.code == "takes-no-pictures"
    nm.Pipeline("coloured", networks.make_model(head), processor).require_pictures()


def test_without_a_crop_the_whole_picture_is_seen(segmenter):
    assert segmenter.processor.do_center_crop
    whole = segmenter.without_crop()
    wide = np.zeros((30, 60, 3), np.uint8)
    assert whole.pixel_values(wide).shape == (1, 3, 36, 72)
    assert segmenter.pixel_values(wide).shape == (1, 3, 32, 32)
    assert (whole.name, whole.network, whole.revision) == (segmenter.name, segmenter.network, segmenter.revision)


def test_the_mask_stands_upright_with_the_picture(segmenter):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(np.rot90(picture(60, 90)).copy()).save(data, "PNG", exif=exif)
    found = segmenter.segment(data.getvalue())
    np.testing.assert_array_equal(found.mask, segmenter.segment(picture(60, 90)).mask, strict=True)


def test_a_list_of_pictures_gives_a_list_and_no_picture_changes_another(segmenter):
    images = [picture(40 + i, 60) for i in range(3)]
    for found, alone in zip(segmenter.segment(images), map(segmenter.segment, images), strict=True):
        np.testing.assert_array_equal(found.mask, alone.mask, strict=True)
        assert found.classes == alone.classes
    with pytest.raises(nm.ImageError):
        segmenter.segment([images[0], "missing.png"])


def test_who_does_not_segment_says_so(classifier, processor):
    with pytest.raises(nm.ConfigError, match="does not segment") as caught:
        classifier.segment(picture(9, 9))
    assert caught.value.code == "not-a-segmenter"
    config = networks.tiny(num_channels=1)
    network = nm.MobileViTForSemanticSegmentation(config, networks.random_weights(config, "segmentation"))
    with pytest.raises(nm.ConfigError, match="1 channels"):
        nm.Pipeline("grey", network, processor).segment(picture(9, 9))


@pytest.mark.parametrize("crop", [None, 1, "yes"])
def test_crop_is_true_or_false(segmenter, crop):
    with pytest.raises(nm.ConfigError, match="crop"):
        segmenter.segment(picture(9, 9), crop=crop)


def test_a_picture_too_long_for_the_network_is_refused_before_it_is_resized(segmenter):
    with pytest.raises(nm.ImageError, match="max_network_pixels") as caught:
        segmenter.segment(np.zeros((1, 2000, 3), np.uint8))  # 36 x 72,000
    assert caught.value.code == "network-too-large"
    assert segmenter.segment(np.zeros((1, 30, 3), np.uint8)).mask.shape == (1, 30)


def test_a_photograph_of_twelve_megapixels_adds_less_than_300_megabytes(segmenter_folder, tmp_path):
    Image.fromarray(picture(300, 400)).resize((4000, 3000)).save(tmp_path / "photo.jpg")
    setup = f"""
import npmobilevit as nm

pipeline = nm.load({str(segmenter_folder)!r})
pipeline.segment({str(CHELSEA)!r})
"""
    action = f"assert pipeline.segment({str(tmp_path / 'photo.jpg')!r}).mask.shape == (3000, 4000)"
    assert 80 < peak_growth(setup, action) < 300  # MiB; picture and mask alone make 80


def test_the_shipped_segmenter_knows_a_street():
    found = nm.segment(STREET, "camvid-deeplabv3-xx-small")
    shares = {c.name: c.share for c in found.classes}
    assert shares["building"] > 0.3
    assert shares["road"] > 0.1
    names = np.vectorize(found.labels.get)(found.mask)
    assert (names[300:, 150:300] == "road").mean() > 0.8
    assert (names[20:60, 200:280] == "sky").mean() > 0.8
    assert names[215, 288] == "car"


def test_out_of_reach_the_shipped_segmenter_takes_the_place_of_the_default():
    with pytest.warns(nm.ModelFallbackWarning, match=r"camvid-deeplabv3-xx-small.*apple/deeplabv3-mobilevit-xx-small"):
        assert nm.segment(STREET).model == "camvid-deeplabv3-xx-small"


def test_the_environment_names_the_segmenter_too(segmenter_folder, monkeypatch):
    monkeypatch.setenv(pipeline.MODEL_VARIABLE, str(segmenter_folder))
    assert nm.segment(picture(9, 9)).model == str(segmenter_folder)


# Loading


def test_a_task_that_is_none_is_refused():
    with pytest.raises(nm.ConfigError, match="classification, segmentation"):
        nm.load(task="detection")


@pytest.mark.parametrize(
    ("fixture", "kind"),
    [
        ("classifier_folder", nm.MobileViTForImageClassification),
        ("segmenter_folder", nm.MobileViTForSemanticSegmentation),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_the_architecture_is_named_by_the_config_or_seen_in_the_weights(request, tmp_path, fixture, kind, named):
    folder = request.getfixturevalue(fixture)
    for name in (checkpoints.WEIGHTS, checkpoints.PROCESSOR):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    settings = nm.MobileViTConfig.from_pretrained(folder).to_dict()
    if not named:
        del settings["architectures"]
    nm.MobileViTConfig.from_dict(settings).save_pretrained(tmp_path)
    loaded = nm.load(tmp_path)
    assert type(loaded.network) is kind
    assert loaded.name == str(tmp_path)


def test_a_base_model_loads(tmp_path, processor):
    config = networks.tiny()
    nm.MobileViTModel(config, networks.random_weights(config)).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(nm.load(tmp_path).network) is nm.MobileViTModel


def test_a_checkpoint_without_processor_settings_is_refused(tmp_path, classifier_folder):
    """With the defaults it would be prepared in a way it was not trained for, and answer all the same."""
    for name in (checkpoints.WEIGHTS, checkpoints.CONFIG):
        (tmp_path / name).write_bytes((classifier_folder / name).read_bytes())
    with pytest.raises(nm.CheckpointError, match=r"preprocessor_config\.json") as caught:
        nm.load(tmp_path)
    assert caught.value.code == "checkpoint-no-processor"


def test_precision_and_engine_reach_the_network(classifier_folder):
    assert nm.load(classifier_folder, precision="float64").network.precision == "float64"
    made = nm.load(classifier_folder, engine="fast", workers="processes").network
    assert (made.precision, made.engine, made.workers) == ("float32", "fast", "processes")
    assert nm.load(classifier_folder, engine="reference").network.engine == "reference"
    for code, options in {
        "precision": {"precision": "float16"},
        "engine": {"engine": "slow"},
        "workers": {"workers": "people"},
        "engine-precision": {"engine": "fast", "precision": "float64"},
    }.items():
        with pytest.raises(nm.ConfigError) as caught:
            nm.load(classifier_folder, **options)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("precision", "engine"), [("float32", "fast"), ("float64", "reference"), ("bitexact", "reference")]
)
def test_the_engine_is_the_fast_one_where_there_is_one(classifier_folder, precision, engine):
    network = nm.load(classifier_folder, precision=precision).network
    assert (network.engine, network.workers) == (engine, "threads")


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_both_engines_see_the_same_in_a_picture(classifier_folder, segmenter_folder, workers):
    picture = np.random.default_rng(4).integers(0, 256, (50, 70, 3), np.uint8)
    fast, readable = (nm.load(classifier_folder, engine=engine, workers=workers) for engine in ("fast", "reference"))
    for found, expected in zip(fast.predict(picture), readable.predict(picture), strict=True):
        assert found.label == expected.label
        assert found.score == pytest.approx(expected.score, abs=1e-6)
    fast.close()
    fast, readable = (nm.load(segmenter_folder, engine=engine, workers=workers) for engine in ("fast", "reference"))
    assert np.mean(fast.segment(picture).mask == readable.segment(picture).mask) > 0.999
    fast.close()
    assert np.array_equal(fast.segment(picture).mask, fast.segment(picture).mask)
    fast.close()


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_a_stream_of_pictures_of_many_sizes_through_the_fast_engine(segmenter_folder, workers):
    pictures = [np.random.default_rng(i).integers(0, 256, (40 + 9 * (i % 5), 40, 3), np.uint8) for i in range(10)]
    loaded = nm.load(segmenter_folder, workers=workers)
    found = [result.mask for result in loaded.stream_segmentations(pictures)]
    assert all(np.array_equal(a, loaded.segment(b).mask) for a, b in zip(found, pictures, strict=True))
    loaded.close()


def test_the_processor_is_the_checkpoints(classifier):
    assert dict(classifier.processor.crop_size) == {"height": 32, "width": 32}
    assert classifier.pixel_values(np.zeros((50, 60, 3), np.uint8)).shape == (1, 3, 32, 32)


def test_a_name_is_loaded_once(classifier_folder, monkeypatch):
    loads = []
    original = pipeline.load
    monkeypatch.setattr(pipeline, "load", lambda name, **task: loads.append(name) or original(name, **task))
    for _ in range(2):
        nm.predict(np.zeros((9, 9, 3), np.uint8), classifier_folder)
        nm.predict(np.zeros((9, 9, 3), np.uint8), str(classifier_folder))
    assert loads == [classifier_folder]


def test_a_pipeline_is_picklable(classifier):
    picture = np.random.default_rng(3).integers(0, 256, (40, 40, 3), np.uint8)
    copy = pickle.loads(pickle.dumps(classifier))
    assert copy.predict(picture) == classifier.predict(picture)
    assert repr(copy) == repr(classifier)
    assert "5 labels" in repr(copy)
    assert (copy.network.engine, copy.network.workers) == ("fast", "threads")
    copy.close()


# The default model


def test_the_environment_names_the_default(classifier_folder, monkeypatch):
    monkeypatch.setenv(pipeline.MODEL_VARIABLE, str(classifier_folder))
    assert nm.load().name == str(classifier_folder)
    assert nm.predict(np.zeros((9, 9, 3), np.uint8), top_k=1)[0].label in "abcde"


def test_out_of_reach_the_shipped_one_takes_its_place_and_says_so():
    with pytest.warns(nm.ModelFallbackWarning, match=r"cifar10-xx-small, which knows few.*apple/mobilevit-xx-small"):
        assert nm.load().name == SHIPPED
    with pytest.warns(nm.ModelFallbackWarning):
        assert nm.predict(CHELSEA)[0].label == "cat"


@pytest.mark.parametrize("code", ["hub-unreachable", "hub-offline", "hub-not-installed"])
def test_these_failures_fall_back(monkeypatch, code):
    _default_fails_with(monkeypatch, code)
    with pytest.warns(nm.ModelFallbackWarning):
        assert nm.load().name == SHIPPED


@pytest.mark.parametrize(
    "code", ["hub-unauthorized", "hub-repository-not-found", "hub-hash-mismatch", "hub-bad-answer"]
)
def test_any_other_failure_is_raised(monkeypatch, code):
    _default_fails_with(monkeypatch, code)
    with pytest.raises(nm.CheckpointError) as caught:
        nm.load()
    assert caught.value.code == code


def test_a_named_model_out_of_reach_is_an_error_and_no_fallback():
    with pytest.raises(nm.CheckpointError) as caught:
        nm.load("apple/mobilevit-xx-small")
    assert caught.value.code == "hub-offline"


def test_a_cached_default_is_used_without_a_warning(monkeypatch, classifier_folder):
    original = checkpoints.read_checkpoint
    monkeypatch.setattr(checkpoints, "read_checkpoint", lambda name, **_: original(classifier_folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nm.load().name == str(classifier_folder)


def _default_fails_with(monkeypatch, code):
    original = checkpoints.read_checkpoint

    def read(name, **arguments):
        if name in pipeline.DEFAULT_MODELS.values():
            raise nm.CheckpointError("made up", code)
        return original(name, **arguments)

    monkeypatch.setattr(checkpoints, "read_checkpoint", read)


# One process, several threads and working directories


def test_threads_load_a_name_once(classifier_folder, monkeypatch):
    loads = []
    original = pipeline.load

    def slow(name, **task):
        loads.append(name)
        time.sleep(0.05)
        return original(name, **task)

    monkeypatch.setattr(pipeline, "load", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(pipeline.as_pipeline, [str(classifier_folder)] * 8))
    assert len(loads) == 1
    assert len(set(map(id, found))) == 1


def test_a_load_does_not_wait_for_that_of_another_model(classifier_folder, segmenter_folder, monkeypatch):
    original, started, go_on = pipeline.load, threading.Event(), threading.Event()

    def slow(name, **task):
        if Path(name) == segmenter_folder:
            started.set()
            assert go_on.wait(20)
        return original(name, **task)

    monkeypatch.setattr(pipeline, "load", slow)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(pipeline.as_pipeline, segmenter_folder)
        assert started.wait(20)
        assert pipeline.as_pipeline(classifier_folder).name == str(classifier_folder)
        go_on.set()
        assert loading.result().name == str(segmenter_folder)


def test_a_load_that_failed_is_tried_again(tmp_path, classifier_folder):
    with pytest.raises(nm.CheckpointError):
        nm.predict(CHELSEA, tmp_path / "model")
    (tmp_path / "model").symlink_to(classifier_folder)
    assert len(nm.predict(CHELSEA, tmp_path / "model")) == 5


def test_threads_leave_the_warning_filters_as_they_were(classifier):
    before = list(warnings.filters)
    data = CHELSEA.read_bytes()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(classifier.predict, [data] * 24))
    assert all(answer == answers[0] for answer in answers)
    assert list(warnings.filters) == before


def test_a_path_object_is_a_folder_even_if_it_reads_like_an_alias(classifier_folder, tmp_path, monkeypatch):
    (tmp_path / "xx-small").symlink_to(classifier_folder)
    monkeypatch.chdir(tmp_path)
    picture = np.zeros((9, 9, 3), np.uint8)
    assert nm.predict(picture, Path("xx-small"))[0].label in "abcde"
    with pytest.raises(nm.CheckpointError) as caught:
        nm.predict(picture, "xx-small")
    assert caught.value.code == "hub-offline"


def test_a_relative_folder_is_that_of_the_working_directory(classifier_folder, tmp_path, monkeypatch):
    picture = np.zeros((9, 9, 3), np.uint8)
    for place in ("one", "two"):
        folder = tmp_path / place / "model"
        config = networks.tiny(num_labels=None, id2label={0: place, 1: place})
        weights = networks.random_weights(config, "classification")
        nm.MobileViTForImageClassification(config, weights).save_pretrained(folder)
        nm.load(classifier_folder).processor.save_pretrained(folder)
        monkeypatch.chdir(tmp_path / place)
        assert nm.predict(picture, "./model")[0].label == place


@pytest.mark.parametrize("model", [5, b"xx-small", nm.MobileViTConfig(), ["xx-small"]])
def test_what_names_no_model_is_refused(model):
    with pytest.raises(nm.CheckpointError) as caught:
        nm.predict(np.zeros((9, 9, 3), np.uint8), model)
    assert caught.value.code == "checkpoint-name-invalid"


def test_a_base_model_without_its_last_convolution_loads(tmp_path, processor):
    config = networks.tiny()
    weights = networks.random_weights(config, expand_output=False)
    nm.MobileViTModel(config, weights, expand_output=False).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert nm.load(tmp_path).network.expand_output is False


def test_a_classifier_of_grey_pictures_says_so(processor):
    config = networks.tiny(num_channels=1)
    network = nm.MobileViTForImageClassification(config, networks.random_weights(config, "classification"))
    with pytest.raises(nm.ConfigError, match="1 channels"):
        nm.Pipeline("grey", network, processor).predict(np.zeros((9, 9, 3), np.uint8))


def test_numpy_integers_count(classifier):
    assert len(classifier.predict(np.zeros((9, 9, 3), np.uint8), top_k=np.int64(2))) == 2


def test_a_home_that_nobody_has_is_an_error_of_ours(tmp_path, monkeypatch):
    for call in (nm.load, lambda name: nm.predict(np.zeros((9, 9, 3), np.uint8), name)):
        with pytest.raises(nm.CheckpointError) as caught:
            call("~nobody-of-this-name/model")
        assert caught.value.code == "checkpoint-not-found"
    with pytest.raises(nm.CheckpointError) as caught:
        nm.MobileViTConfig().save_pretrained("~nobody-of-this-name/model")
    assert caught.value.code == "checkpoint-unwritable"
    monkeypatch.setenv("HOME", str(tmp_path))
    nm.MobileViTConfig().save_pretrained("~/model")
    assert nm.MobileViTConfig.from_pretrained("~/model") == nm.MobileViTConfig()
