"""What is measured of a network at a picture."""

import dataclasses
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
from commandline import ROOT
from networks import make_model, pixels, tiny

import npmobilevit as nm
from npmobilevit.cost import cost_table
from npmobilevit.explanation import evidence
from npmobilevit.explanation.evidence import (
    MOST_CHANNELS,
    Stopwatch,
    class_maps,
    gather,
    look_inside,
    occlude,
    seen_by_network,
    view,
)
from npmobilevit.pipeline import Pipeline
from npmobilevit.scope import Scope

CHELSEA = ROOT / "reference" / "images" / "chelsea.png"
SETTINGS = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}


def made_pipeline(head, **changes):
    model = make_model(head, tiny(**changes), precision="float32", engine="fast")
    return Pipeline("made", model, nm.MobileViTImageProcessor(**SETTINGS))


def gathered(pipeline, image, **options):
    return gather(view(pipeline, image, **options))


@pytest.fixture(scope="module")
def classifier():
    return made_pipeline("classification")


@pytest.fixture(scope="module")
def segmenter():
    return made_pipeline("segmentation", output_stride=16)


# the picture


@pytest.mark.parametrize("flip", [True, False])
def test_the_picture_is_what_pixel_values_hold(classifier, flip):
    processor = dataclasses.replace(classifier.processor, do_flip_channel_order=flip)
    values = Pipeline("made", classifier.network, processor).pixel_values(CHELSEA)
    seen = seen_by_network(values, processor)
    assert (seen.shape, seen.dtype) == ((64, 64, 3), np.uint8)
    rgb = values[0, ::-1] if flip else values[0]
    np.testing.assert_allclose(np.moveaxis(seen, -1, 0) / 255, rgb, atol=1e-6)


def test_a_classifier_sees_the_crop_and_a_segmenter_the_whole(classifier, segmenter):
    found = gathered(classifier, CHELSEA)
    assert (found.picture_size, found.seen.shape) == ((300, 451), (64, 64, 3))
    assert found.geometry.resized == (72, 108)
    found = gathered(segmenter, CHELSEA)
    assert found.seen.shape == (72, 108, 3)
    assert found.geometry.network == (72, 108)
    assert segmenter.processor.do_center_crop


def test_a_file_is_read_once(classifier):
    with CHELSEA.open("rb") as file:
        found = gathered(classifier, file)
    np.testing.assert_array_equal(found.seen, gathered(classifier, CHELSEA).seen)


class Named(os.PathLike):
    def __fspath__(self):
        return str(CHELSEA)


def test_a_picture_has_the_name_of_its_file_without_folders(classifier):
    for path in (str(CHELSEA), CHELSEA, Named()):
        assert gathered(classifier, path).picture_name == "chelsea.png"
    with CHELSEA.open("rb") as file:
        assert gathered(classifier, file).picture_name is None
    for picture in (CHELSEA.read_bytes(), np.zeros((40, 50, 3), np.uint8)):
        assert gathered(classifier, picture).picture_name is None


def test_options_of_reading_and_limits_reach_their_places(classifier):
    values = np.linspace(-5, 5, 40 * 50 * 3).reshape(3, 40, 50)
    found = gathered(classifier, values, layout="CHW", value_range=(-5, 5))
    expected = classifier.pixel_values(values, layout="CHW", value_range=(-5, 5))
    np.testing.assert_array_equal(found.seen, seen_by_network(expected, classifier.processor))
    for option in ("max_pixels", "max_resized_pixels", "max_network_pixels"):
        with pytest.raises(nm.ImageError):
            gathered(classifier, CHELSEA, **{option: 50})


# the answer


def test_the_answer_of_a_classifier_is_that_of_predict(classifier):
    found = gathered(classifier, CHELSEA)
    assert list(found.predictions) == list(classifier.predict(CHELSEA))
    assert (found.segmentation, found.class_maps) == (None, ())


def test_the_answer_of_a_segmenter_is_that_of_segment(segmenter):
    found = gathered(segmenter, CHELSEA)
    expected = segmenter.segment(CHELSEA)
    np.testing.assert_array_equal(found.segmentation.mask, expected.mask)
    assert found.segmentation.classes == expected.classes
    assert (found.predictions, found.occlusion) == (None, None)
    assert [one.found for one in found.class_maps] == list(expected.classes)


def test_class_maps_are_softmax_probabilities():
    logits = np.random.default_rng(0).normal(size=(20, 3, 4)) * 3
    found = [nm.SegmentedClass(i, str(i), 0.1, 0.5) for i in (7, 2, *range(8, 20))]
    maps = class_maps(SimpleNamespace(classes=found), logits)
    assert [one.found.id for one in maps] == [7, 2, *range(8, 18)]  # twelve
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    for one in maps:
        np.testing.assert_allclose(one.probability, probabilities[one.found.id], rtol=1e-6)


def cornered(score):
    """A pipeline whose network looks at some pixels alone: `score` of (1, 3, H, W) is the logit of class 1."""

    def network(x):
        return SimpleNamespace(logits=np.array([[0.0, score(x)]]))

    config = tiny(num_labels=2)
    return SimpleNamespace(network=network, config=config, processor=nm.MobileViTImageProcessor())


def test_occlusion_finds_the_corner_that_a_network_looks_at():
    x = np.zeros((1, 3, 64, 64), np.float32)
    x[:, :, :8, 56:] = 1
    pipeline = cornered(lambda x: 8 * float(x[:, :, :8, 56:].mean()) - 4)
    found = occlude(pipeline, x, 1)
    assert (found.stride, found.side, found.fall.shape) == (8, 16, (8, 8))
    touched = found.fall > 1e-9
    expected = np.zeros((8, 8), bool)
    expected[:2, 6:] = True  # the patch reaches half a stride beyond its square
    np.testing.assert_array_equal(touched, expected)
    assert np.unravel_index(found.fall.argmax(), (8, 8)) == (0, 7)
    before, after = 1 / (1 + np.exp(-4)), 1 / 2  # grey has the logit 0
    np.testing.assert_allclose(found.fall[0, 7], before - after, rtol=1e-6)
    np.testing.assert_array_equal(x[:, :, 0, 63], 1)  # the pixel values are whole


def test_occlusion_shows_where_covering_helps():
    x = np.zeros((1, 3, 40, 24), np.float32)
    found = occlude(cornered(lambda x: float(x[:, :, -5:, :5].sum())), x, 1)
    assert (found.stride, found.side, found.fall.shape) == (5, 10, (8, 5))
    assert found.fall.min() == found.fall[7, 0] < 0
    assert found.fall.max() == 0


def test_the_number_of_forward_passes_is_bounded():
    calls = []
    pipeline = cornered(lambda x: calls.append(x.shape) or 0.0)
    occlude(pipeline, np.zeros((1, 3, 199, 200), np.float32), 1)
    assert len(calls) == 65
    calls.clear()
    occlude(pipeline, np.zeros((1, 3, 3, 5), np.float32), 1)
    assert len(calls) == 16


# the inside


def test_each_stage_shows_maps_of_its_tap(classifier):
    x = classifier.pixel_values(CHELSEA)
    taps = classifier.network.taps(x)
    stages = look_inside(classifier, x).stages
    assert [stage.name.removeprefix("mobilevit.") for stage in stages] == [
        "conv_stem", *(f"encoder.layer.{i}" for i in range(5)), "conv_1x1_exp", "classifier",
    ]  # fmt: skip
    for stage in stages[:-1]:
        value = taps[stage.name][0]
        assert stage.shape == value.shape
        assert len(stage.channels) == min(MOST_CHANNELS, len(value))
        np.testing.assert_array_equal(stage.maps, value[list(stage.channels)])
        left_out = np.delete(value, stage.channels, axis=0)
        assert not len(left_out) or left_out.std(axis=(1, 2)).max() <= stage.maps.std(axis=(1, 2)).min() + 1e-7
    assert stages[-1].shape is None


def test_only_the_most_varied_channels_are_shown(segmenter):
    config = tiny(aspp_out_channels=MOST_CHANNELS + 6, output_stride=16)
    pipeline = Pipeline("made", make_model("segmentation", config, precision="float32"), segmenter.processor)
    x = pixels(1, 3, 64, 64, dtype=np.float32)
    stage = next(s for s in look_inside(pipeline, x).stages if s.name.endswith("aspp"))
    value = pipeline.network.taps(x, stage.name)[stage.name][0]
    order = sorted(range(len(value)), key=lambda i: -value[i].std())
    assert list(stage.channels) == sorted(order[:MOST_CHANNELS])


def test_a_large_channel_that_does_not_vary_is_not_shown(monkeypatch):
    monkeypatch.setattr(evidence, "MOST_CHANNELS", 2)
    x = np.stack([np.full((2, 2), 100.0), np.eye(2), [[-5, 5], [5, -5]], np.eye(2) / 2, np.full((2, 2), -100.0)])
    assert evidence._strongest(x).channels == (1, 2)


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_time_and_multiplications_are_shared_out_whole(kind, request):
    pipeline = request.getfixturevalue(kind)
    x = pixels(1, 3, 96, 64, dtype=np.float32)
    stages = look_inside(pipeline, x).stages
    total = cost_table(pipeline.config, (96, 64), head=pipeline.network.head).total()
    assert sum(stage.macs for stage in stages) == total.macs
    for stage in stages:
        assert stage.seconds > 0
        has_transformer = stage.name.rpartition("layer.")[2] in ("2", "3", "4")
        assert (stage.transformer_macs > 0, stage.transformer_seconds > 0) == (has_transformer, has_transformer)
        assert stage.transformer_macs <= stage.macs
        assert stage.transformer_seconds <= stage.seconds


class Clock:
    """A clock that stands still but where it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def at(self, seconds, then=lambda *_: None):
        """A function that takes so long."""

        def run(*arguments):
            self.now += seconds
            return then(*arguments)

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


STAGES = {"mobilevit.conv_stem": 1.0, "mobilevit.encoder.layer.2": 8.0, "classifier": 2.0}
BLOCK = {"conv_kxk": 0.5, "conv_1x1": 0.25, "transformer": 4.0}  # the rest of the block takes 3.25


def timed_network(clock, speeds):
    """A network whose forward passes take so many times the seconds above, one after the other."""
    speeds = iter(speeds)

    def forward(scope, x):
        speed = next(speeds)
        for name, seconds in STAGES.items():
            spent = 0.0
            for part, inner in BLOCK.items() if "layer" in name else ():
                clock.now += speed * inner
                scope.tap(f"{name}.{part}", x)
                spent += inner
            clock.now += speed * (seconds - spent)
            scope.tap(name, x)

    return SimpleNamespace(forward=forward, scope=lambda tap: Scope({}, tap=tap))


def test_the_times_are_those_of_the_fastest_run(clock):
    """Of the transformer, from the convolution before it to its end."""
    speeds = [1 / 64, 1 / 256, 1 / 128, 1 / 256, 1 / 64, 1]
    moments, runs = evidence._fastest(timed_network(clock, speeds), np.zeros(1))
    found = evidence._times(moments, STAGES)
    assert found == {
        "mobilevit.conv_stem": (1 / 256, 0),
        "mobilevit.encoder.layer.2": (8 / 256, 4 / 256),
        "classifier": (2 / 256, 0),
    }
    assert clock.now == 100 + 11 * sum(speeds[:5])
    assert runs == 5


def test_no_run_begins_after_a_second(clock):
    _, runs = evidence._fastest(timed_network(clock, [1 / 16, 1 / 16, 1]), np.zeros(1))
    assert clock.now == 100 + 22 / 16
    assert runs == 2


def test_a_stopwatch_leaves_out_what_is_not_to_count(clock):
    watch = Stopwatch()
    clock.now += 2
    look = watch.outside(clock.at(50, lambda a, b: a + b))
    assert look(3, 4) == 7
    assert watch.seconds() == 2
    clock.now += 3
    look(3, 4)
    assert watch.seconds() == 5


@pytest.mark.parametrize(("limit", "passes"), [(1e9, 1 + 5), (0, 1)])
def test_a_pass_that_takes_long_is_not_repeated(classifier, monkeypatch, limit, passes):
    """Its own times are given, without those of looking, which are made long here."""
    looked = []

    def slowed(holder, name):
        function = getattr(holder, name)

        def run(*given):
            looked.append(name)
            time.sleep(0.005)
            return function(*given)

        monkeypatch.setattr(holder, name, run)

    slowed(evidence, "_strongest")
    slowed(evidence.AttentionGatherer, "_reduced")
    slowed(evidence.AttentionGatherer, "_heard")
    monkeypatch.setattr(evidence, "TIMED_SECONDS", limit)
    calls, forward = [], classifier.network.forward
    monkeypatch.setattr(classifier.network, "forward", lambda *given: calls.append(1) or forward(*given))
    begin = time.perf_counter()
    inside = look_inside(classifier, pixels(1, 3, 64, 64, dtype=np.float32))
    took = time.perf_counter() - begin
    assert (len(calls), inside.timed_apart) == (passes, passes > 1)
    assert inside.timed_passes == max(1, passes - 1)
    assert {name: looked.count(name) for name in looked} == {"_strongest": 7, "_reduced": 9 * 4, "_heard": 9}
    assert all(stage.seconds > 0 for stage in inside.stages)
    assert sum(stage.seconds for stage in inside.stages) < took - 0.005 * len(looked)


def test_looking_changes_nothing_and_repeats(classifier):
    x = pixels(1, 3, 64, 64, dtype=np.float32)
    one, other = look_inside(classifier, x), look_inside(classifier, x)
    logits, _ = classifier.network.forward(classifier.network.scope(), x)
    np.testing.assert_array_equal(one.logits, logits[0])
    for a, b in zip(one.attention, other.attention, strict=True):
        np.testing.assert_array_equal(a.levels, b.levels)
        np.testing.assert_array_equal(a.peaks, b.peaks)


# errors


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_a_side_that_no_table_of_costs_takes_is_an_error_of_the_picture(kind, request, monkeypatch):
    """Before the network runs."""
    monkeypatch.setattr(evidence, "MAX_SIZE", 100)
    pipeline = request.getfixturevalue(kind)
    processor = dataclasses.replace(pipeline.processor, do_center_crop=False)
    monkeypatch.setattr(evidence, "look_inside", None)
    with pytest.raises(nm.ImageError) as caught:
        gathered(Pipeline("made", pipeline.network, processor), CHELSEA)
    assert caught.value.code == "network-too-large"
    assert "72 x 108, and a side may have at most 100 pixels here" in str(caught.value)


def test_a_model_without_a_head_is_refused(classifier):
    with pytest.raises(nm.ConfigError) as caught:
        gathered(Pipeline("made", make_model(None, precision="float32"), classifier.processor), CHELSEA)
    assert caught.value.code == "not-a-classifier"


def test_too_little_memory_is_an_error_of_the_picture(classifier, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr("npmobilevit.explanation.evidence.look_inside", exhausted)
    with pytest.raises(nm.ImageError) as caught:
        gathered(classifier, CHELSEA)
    assert caught.value.code == "image-memory"
