"""Before and after the network: sound steps pass, each wrong one is blamed alone and says what it looks like."""

import dataclasses
import io
import math
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from npmobilevit import MobileViTConfig, ops
from npmobilevit.errors import ImageError
from npmobilevit.images import to_rgb
from npmobilevit.ops.resize import sources_at
from npmobilevit.validation.profiles import PROFILES
from npmobilevit.validation.surroundings import judge_labels, judge_mask, judge_picture, judge_probabilities

FP32 = PROFILES["fp32"]
ALL_STEPS = ("picture", "resized", "center_cropped", "rescaled", "pixel_values")


def photo(height=61, width=83):
    """A picture (H, W, 3) with slopes, edges and texture in which no two channels, rows or columns are alike."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([120 + 60 * np.sin(x / 7 + y / 11), 90 + y, 40 + 1.6 * x], axis=-1)
    picture = np.clip(slopes + rng.normal(0, 12, slopes.shape), 0, 255).astype(np.uint8)
    picture[20:30, 30:45] //= 20  # where one rounding is small
    return picture


def resize(picture, height, width, filter=Image.Resampling.BILINEAR):
    return np.asarray(Image.fromarray(picture).resize((width, height), filter))


def crop(picture, top=2, left=8, size=32):
    return picture[top : top + size, left : left + size]


def port(source=None, **wrong):
    """All tensors of a port, written without the code under test; a function in `wrong` takes a step's place."""

    steps = {
        "picture": lambda picture: picture,
        "resized": lambda picture: resize(picture, 36, 48),  # 48.98 is cut off
        "center_cropped": crop,
        "rescaled": lambda cropped: (cropped * np.float32(1 / 255)).astype(np.float32).transpose(2, 0, 1),
        "pixel_values": lambda rescaled: rescaled[None, ::-1],
    }
    tensors, value = {}, photo() if source is None else source
    for name, step in (steps | wrong).items():
        tensors[name] = value = step(value)
    return tensors


def statuses(judged):
    return {judgement.tap: judgement.status for judgement, _ in judged}


def only(judged, kind):
    """The one failing finding among all, of this kind, with its judgement."""
    findings = [(judgement, finding) for judgement, found in judged for finding in found]
    ((judgement, finding),) = findings
    assert (finding.severity, finding.kind, finding.tap) == ("fail", kind, judgement.tap)
    assert judgement.status == "wrong"
    assert judgement.ratio > 1
    assert judgement.beyond > 0 or 0 in judgement.shape
    return judgement, finding


def told(finding):
    """What is said of a finding, with the name of its cause."""
    diagnosis = finding.diagnosis
    assert finding.cause == (diagnosis and diagnosis.mutant[:6])
    return f"{finding.message} [{diagnosis and diagnosis.mutant}]"


def blamed(processor, tensors, image=None, profile=FP32):
    """The tap that is blamed, and the words."""
    _, finding = only(judge_picture(tensors, photo() if image is None else image, processor, profile), "preprocessing")
    return finding.tap, told(finding)


# --- sound steps


@pytest.mark.parametrize("given", [ALL_STEPS, ALL_STEPS[::2], ("pixel_values",), ("center_cropped",), ()])
def test_a_sound_port_passes_with_any_of_the_steps(processor, given):
    tensors = {name: tensor for name, tensor in port().items() if name in given}
    tensors["unrelated"] = np.full(3, np.nan)
    judged = judge_picture(tensors, photo(), processor, FP32)
    assert statuses(judged) == dict.fromkeys(given, "right")
    assert [judgement.tap for judgement, _ in judged] == [name for name in ALL_STEPS if name in given]
    assert not any(findings for _, findings in judged)
    for judgement, _ in judged:
        rescales = judgement.tap == "rescaled" or (judgement.tap == "pixel_values" and "rescaled" not in given)
        assert judgement.test == ("local" if rescales else "exact")
        assert judgement.shape == tensors[judgement.tap].shape
        assert judgement.ratio <= 1
        assert (judgement.resolution > 0) == rescales


def test_the_region_names_the_steps_that_were_not_given(processor):
    tensors = port()
    del tensors["resized"], tensors["rescaled"]
    judged = {judgement.tap: judgement for judgement, _ in judge_picture(tensors, photo(), processor, FP32)}
    assert judged["center_cropped"].region == ("resized",)
    assert judged["pixel_values"].region == ("rescaled",)
    assert judged["picture"].region == ()


def as_bytes(picture):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("source", [Image.fromarray, as_bytes])
def test_the_image_may_be_whatever_the_library_reads(processor, source):
    assert set(statuses(judge_picture(port(), source(photo()), processor, FP32)).values()) == {"right"}


def test_the_picture_is_upright(processor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = tmp_path / "turned.png"
    Image.fromarray(photo()).save(path, exif=exif)
    upright = to_rgb(path)
    assert upright.shape == (83, 61, 3)
    tap, message = blamed(processor, {"picture": photo()}, path)
    assert tap == "picture"
    assert "has the shape (61, 83, 3) where (83, 61, 3) is expected" in message
    assert statuses(judge_picture({"picture": upright}, path, processor, FP32)) == {"picture": "right"}


def test_an_image_that_cannot_be_used_is_the_callers_fault(processor):
    with pytest.raises(ImageError):
        judge_picture(port(), b"no picture", processor, FP32)
    with pytest.raises(ImageError):
        judge_picture({"pixel_values": np.zeros((1, 3, 32, 32))}, np.zeros((60000, 1, 3), np.uint8), processor, FP32)


@pytest.mark.parametrize("flags", [("do_resize",), ("do_center_crop", "do_flip_channel_order"), ("do_rescale",)])
def test_steps_that_are_switched_off_change_nothing(processor, flags):
    changed = dataclasses.replace(processor, **dict.fromkeys(flags, False))
    sound = {name: changed for name in ()}
    if "do_resize" in flags:
        sound = {"resized": lambda picture: picture, "center_cropped": lambda picture: crop(picture, 14, 25)}
    if "do_center_crop" in flags:
        sound = {"center_cropped": lambda resized: resized, "pixel_values": lambda rescaled: rescaled[None]}
    if "do_rescale" in flags:
        sound = {"rescaled": lambda cropped: cropped.transpose(2, 0, 1)}
    judged = judge_picture(port(**sound), photo(), changed, FP32)
    assert statuses(judged) == dict.fromkeys(ALL_STEPS, "right")
    assert any(status == "wrong" for status in statuses(judge_picture(port(), photo(), changed, FP32)).values())


def test_rescaled_may_be_laid_out_either_way(processor):
    tensors = port()
    tensors["rescaled"] = tensors["rescaled"].transpose(1, 2, 0)
    assert set(statuses(judge_picture(tensors, photo(), processor, FP32)).values()) == {"right"}


@pytest.mark.parametrize(("name", "dtype"), [("fp16", np.float16), ("fp32", np.float32), ("fp32", np.float64)])
def test_values_are_rescaled_to_two_roundings(processor, name, dtype):
    unit = max(PROFILES[name].store, 2.0**-24)
    exact = crop(resize(photo(), 36, 48)).transpose(2, 0, 1)[None, ::-1] / 255
    for off, status in ((1.9, "right"), (2.1, "wrong")):
        values = exact * (1 + off * unit)
        assert statuses(judge_picture({"pixel_values": values}, photo(), processor, PROFILES[name])) == {
            "pixel_values": status
        }
    stored = exact.astype(dtype)
    assert statuses(judge_picture({"pixel_values": stored}, photo(), processor, PROFILES[name])) == {
        "pixel_values": "right"
    }


def test_a_flip_is_exact_but_may_store_anew(processor):
    tensors = port(pixel_values=lambda rescaled: rescaled[None, ::-1].astype(np.float16))
    assert set(statuses(judge_picture(tensors, photo(), processor, PROFILES["fp16"])).values()) == {"right"}
    tensors = port(pixel_values=lambda rescaled: np.nextafter(rescaled[None, ::-1], np.float32(2)))
    judgement, finding = only(judge_picture(tensors, photo(), processor, PROFILES["fp16"]), "preprocessing")
    assert finding.tap == "pixel_values"
    assert judgement.ratio == math.inf
    assert judgement.test == "exact"


# --- a wrong step


@pytest.mark.parametrize(
    ("name", "step", "words"),
    [
        ("picture", lambda picture: picture[:, :, ::-1], "its channels are in reverse order [PRE-01-decoded]"),
        ("picture", lambda picture: picture[:, ::-1], "its columns are in reverse order [None]"),
        (
            "resized",
            lambda picture: resize(picture, 36, 49),
            "the shape (36, 49, 3) where (36, 48, 3) is expected [PRE-08]",
        ),
        ("resized", lambda picture: resize(picture, 32, 43), "(36, 48, 3) is expected [PRE-10]"),
        ("resized", lambda picture: resize(picture, 36, 48, Image.Resampling.BICUBIC), "grey levels [PRE-06-bicubic]"),
        ("center_cropped", lambda picture: crop(picture, 3, 8), "shows the picture moved by one pixel up [None]"),
        ("center_cropped", lambda picture: crop(picture, 2, 7), "shows the picture moved by one pixel right"),
        ("center_cropped", lambda picture: crop(picture, 1, 9), "moved by one pixel down and one pixel left"),
        ("rescaled", lambda cropped: cropped.transpose(2, 0, 1) / 255 / 255, "[PRE-03-twice]"),
        (
            "rescaled",
            lambda cropped: cropped.transpose(2, 0, 1) / np.float32(256),
            "1024 of 1024 pixels differ, by up to 0.746 grey levels [None]",
        ),
        ("pixel_values", lambda rescaled: rescaled[None], "its channels are in reverse order [PRE-01]"),
        (
            "pixel_values",
            lambda rescaled: rescaled[None, :, ::-1],
            "grey levels [None]",
        ),  # one fault of two is not known
        ("pixel_values", lambda rescaled: rescaled[None, ::-1].swapaxes(2, 3), "axes are in the order N, C, W, H"),
    ],
)
def test_a_wrong_step_is_blamed_alone(processor, name, step, words):
    tensors = port(**{name: step})
    if tensors["rescaled"].shape != (3, 32, 32):  # the crop of a picture of another size is another one
        tensors = {key: tensors[key] for key in ALL_STEPS[: ALL_STEPS.index(name) + 1]}
    tap, message = blamed(processor, tensors)
    assert tap == name
    assert words in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[:, :, ::-1], "its rows are in reverse order [None]"),
        (lambda x: x[..., ::-1], "its columns are in reverse order [None]"),
        (lambda x: x.swapaxes(2, 3), "its axes are in the order N, C, W, H"),
        (lambda x: x.transpose(0, 2, 3, 1), "its axes are in the order N, H, W, C"),
        (lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape), "in the order N, H, W, C under another shape [PRE-13]"),
        (lambda x: x[0], "its values are right, but in the shape (3, 32, 32)"),
        (lambda x: np.roll(x, 1, axis=3), "it shows the picture moved by one pixel right"),
        (lambda x: x.astype(np.float16), "to the precision of float16"),
        (
            lambda x: np.where(np.arange(32) == 7, x + np.float32(3 / 255), x),
            "32 of 1024 pixels differ, by up to 3 grey levels [None]",
        ),
        (lambda x: x[:, :, :-1], "has the shape (1, 3, 31, 32) where (1, 3, 32, 32) is expected"),
        (lambda x: np.where(x == x.max(), np.nan, x), "holds NaN or infinity"),
        (lambda x: x.astype(complex), "is of complex128 where numbers are expected"),
        (lambda x: x.astype(str), "where numbers are expected"),
        (lambda x: x[0, 0, 0, 0], "has the shape ()"),
        (lambda x: x[:0], "has the shape (0, 3, 32, 32)"),
    ],
)
def test_pixel_values_alone_say_what_they_look_like(processor, change, words):
    tap, message = blamed(processor, {"pixel_values": change(port()["pixel_values"])})
    assert tap == "pixel_values"
    assert words in message


def test_a_single_wrong_byte_is_found_where_it_is(processor):
    tensors = port()
    for name in ("picture", "resized", "center_cropped"):
        changed = {key: value.copy() for key, value in tensors.items() if key == name}
        changed[name][3, 5, 1] ^= 1
        judgement, _ = only(judge_picture(changed, photo(), processor, FP32), "preprocessing")
        assert judgement.worst == (3, 5, 1)
        assert (judgement.beyond, judgement.error, judgement.ratio) == (1, 1.0, math.inf)
        assert abs(judgement.found - judgement.expected) == 1.0


def test_a_picture_of_another_size_leaves_what_follows_right(processor):
    judged = judge_picture(port(photo(62, 84)), photo(), processor, FP32)
    assert statuses(judged) == {**dict.fromkeys(ALL_STEPS, "right"), "picture": "wrong"}


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("picture", np.zeros((61, 83, 3)), "is of float64 where whole numbers are expected"),
        ("resized", np.zeros((3, 36, 48), np.uint8), "has the shape (3, 36, 48) where (36, 48, 3) is expected"),
        ("center_cropped", np.zeros((32, 32, 4), np.uint8), "has the shape (32, 32, 4)"),
        ("center_cropped", np.zeros((0, 0, 3), np.uint8), "has the shape (0, 0, 3)"),
        ("rescaled", np.full((3, 32, 32), np.inf), "holds NaN or infinity"),
        ("rescaled", np.zeros((32, 32), np.float32), "has the shape (32, 32)"),
    ],
)
def test_a_tensor_that_is_no_picture_is_told_and_passed_over(processor, name, tensor, words):
    """What follows is judged on the last one that is."""
    judged = judge_picture({**port(), name: tensor}, photo(), processor, FP32)
    _, finding = only(judged, "preprocessing")
    assert finding.tap == name
    assert words in finding.message
    assert len(judged) == len(ALL_STEPS)
    assert not any(judgement.region for judgement, _ in judged)  # all were given


def test_a_picture_that_no_processor_takes_is_told(processor):
    """One of the port's own, 1 x 60000, would be resized to 2 million columns of 36 rows."""
    picture = np.zeros((1, 60000, 3), np.uint8)
    judged = judge_picture({"picture": picture, "pixel_values": np.zeros((1, 3, 32, 32))}, photo(), processor, FP32)
    assert statuses(judged) == {"picture": "wrong", "pixel_values": "wrong"}
    assert "cannot be judged on the port's own picture" in judged[1][1][0].message


# --- probabilities


def config(**changes):
    return MobileViTConfig(**{"id2label": {i: f"class {i}" for i in range(7)}, "num_labels": None, **changes})


def some_logits(rows=3, classes=7):
    return np.random.default_rng(3).normal(0, 4, (rows, classes))


PROBLEMS = [(config(), ops.softmax), (config(problem_type="multi_label_classification"), ops.sigmoid)]


@pytest.mark.parametrize(("settings", "scores"), PROBLEMS)
@pytest.mark.parametrize(("name", "dtype"), [("fp32", np.float32), ("fp16", np.float16), ("fp32", np.float64)])
def test_probabilities_in_the_declared_precision_pass(settings, scores, name, dtype):
    logits = np.concatenate([some_logits(), some_logits() * 20])  # saturated too
    found = scores(logits.astype(np.float32 if dtype is np.float16 else dtype)).astype(dtype)
    ((judgement, findings),) = judge_probabilities(logits, found, settings, PROFILES[name])
    assert judgement.status == "right"
    assert judgement.test == "local"
    assert not findings


def test_the_tolerance_of_probabilities_is_near_their_rounding():
    logits = some_logits(classes=1000)
    found = ops.softmax(logits.astype(np.float32))
    ((judgement, _),) = judge_probabilities(logits, found, config(), FP32)
    assert 0.001 < judgement.ratio < 0.5
    found[1, int(found[1].argmax())] *= np.float32(1 + 1e-4)
    judgement, _ = only(judge_probabilities(logits, found, config(), FP32), "probabilities")
    assert judgement.worst == (1, int(found[1].argmax()))
    assert judgement.beyond == 1


@pytest.mark.parametrize(
    ("settings", "change", "words"),
    [
        (PROBLEMS[0][0], lambda s: ops.softmax(ops.softmax(s)), "the largest difference is 0.688 [HED-04-twice]"),
        (PROBLEMS[0][0], lambda s: ops.softmax(ops.softmax(s.astype(np.float32))), "[HED-04-twice]"),
        (PROBLEMS[0][0], ops.sigmoid, "[HED-04-sigmoid]"),
        (PROBLEMS[1][0], ops.softmax, "[HED-04-softmax]"),
        (PROBLEMS[1][0], lambda s: ops.sigmoid(ops.sigmoid(s)), "[HED-04-twice]"),
        (PROBLEMS[0][0], lambda s: s, "[HED-04-logits]"),
        (PROBLEMS[0][0], lambda s: ops.softmax(s) * 1.01, "it sums to 1.01 in row"),
        (PROBLEMS[0][0], lambda s: ops.softmax(s, axis=0), "it sums to"),
        (PROBLEMS[0][0], lambda s: ops.softmax(s)[:, ::-1], "the largest difference is"),
        (PROBLEMS[0][0], lambda s: ops.softmax(s)[:, :6], "has the shape (3, 6) where that of the logits, (3, 7)"),
        (PROBLEMS[0][0], lambda s: ops.softmax(s) * np.nan, "holds NaN or infinity"),
        (PROBLEMS[0][0], lambda s: ops.softmax(s) > 0.5, "is of bool"),
    ],
)
def test_wrong_probabilities_say_what_they_look_like(settings, change, words):
    _, finding = only(judge_probabilities(some_logits(), change(some_logits()), settings, FP32), "probabilities")
    assert words in told(finding)


@pytest.mark.parametrize("logits", [np.zeros(7), np.zeros((0, 7)), np.full((1, 7), np.nan)])
def test_unusable_logits_are_told(logits):
    for judged, kind in (
        (judge_probabilities(logits, logits, config(), FP32), "probabilities"),
        (judge_labels(logits, np.zeros(len(logits), int), config()), "labels"),
        (judge_mask(logits, np.zeros((1, 1), int), None, FP32), "mask"),
    ):
        ((judgement, (finding,)),) = judged
        assert (judgement.status, finding.kind, finding.severity) == ("wrong", kind, "fail")
        assert "cannot be judged" in finding.message


# --- labels


def ranked(logits, k):
    return np.argsort(-logits, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_labels_in_the_order_of_the_logits_pass(k, dtype):
    labels = ranked(some_logits(), k).astype(dtype)
    for given in (labels, labels[:, 0]):
        ((judgement, findings),) = judge_labels(some_logits(), given, config())
        assert (judgement.status, judgement.test, judgement.shape) == ("right", "exact", given.shape)
        assert judgement.ratio == 0
        assert not findings


def test_equal_logits_may_stand_in_any_order():
    logits = np.array([[1.0, 5.0, 3.0, 5.0, 3.0]])
    for labels in ([1, 3, 2, 4, 0], [3, 1, 4, 2, 0], [3, 1, 2]):
        assert judge_labels(logits, np.array([labels]), config())[0][0].status == "right"
    judgement, _ = only(judge_labels(logits, np.array([[3, 2, 1, 4, 0]]), config()), "labels")
    assert (judgement.worst, judgement.beyond, judgement.error) == ((0, 1), 2, 2.0)
    assert (judgement.found, judgement.expected, judgement.ratio) == (2, 3, math.inf)


def test_a_class_that_is_named_twice_is_wrong():
    logits = np.array([[1.0, 5.0, 5.0]])
    judgement, _ = only(judge_labels(logits, np.array([[1, 1]]), config()), "labels")
    assert (judgement.worst, judgement.ratio) == ((0, 1), math.inf)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda labels: labels + 1, "9 of 9 are wrong [HED-04]"),
        (lambda labels: labels - 1, "9 of 9 are wrong [HED-04-low]"),
        (lambda labels: labels[:, ::-1], "6 of 9 are wrong [None]"),
        (lambda labels: labels * 1000, "which is no class"),
        (lambda labels: labels.astype(float), "is of float64 where whole numbers are expected"),
        (lambda labels: labels[:2], "has the shape (2, 3) where (3,) or (3, k) is expected"),
        (lambda labels: labels[:, :0], "has the shape (3, 0)"),
        (lambda labels: labels[None], "has the shape (1, 3, 3)"),
        (lambda labels: np.tile(labels, 3), "has 9 labels a picture where there are 7 classes"),
        (lambda labels: np.int64(3), "has the shape ()"),
    ],
)
def test_wrong_labels_say_what_they_look_like(change, words):
    _, finding = only(judge_labels(some_logits(), change(ranked(some_logits(), 3)), config()), "labels")
    assert words in told(finding)


def test_a_wrong_label_of_a_later_picture_is_named():
    labels = ranked(some_logits(), 1)[:, 0]
    labels[2] = (labels[2] + 3) % 7
    judgement, finding = only(judge_labels(some_logits(), labels, config()), "labels")
    assert judgement.worst == (2,)
    assert f"picture 2, place 1 is {labels[2]} (class {labels[2]})" in finding.message
    assert "1 of 3 are wrong" in finding.message


# --- masks

SIZE = (45, 70)


def scene(pictures=2, classes=5, height=8, width=11, dtype=np.float64):
    rng = np.random.default_rng(8)
    return rng.normal(0, 3, (pictures, classes, height, width)).astype(np.float32).astype(dtype)


def mask_of(logits, size=SIZE):
    return ops.resize_bilinear(logits, size).argmax(axis=1)


@pytest.mark.parametrize(("name", "dtype"), [("fp32", np.float32), ("fp32", np.float64), ("fp16", np.float16)])
def test_masks_in_the_declared_precision_pass(name, dtype):
    logits = scene()
    if dtype is np.float16:
        logits = logits.astype(np.float16).astype(np.float64)
        mask = ops.resize_bilinear(logits.astype(np.float32), SIZE).astype(np.float16).argmax(axis=1)
        assert (mask != mask_of(logits)).any()  # of equal half precision numbers the first
    else:
        mask = mask_of(logits.astype(dtype))
    for given in (mask, mask.astype(np.uint8)):
        ((judgement, findings),) = judge_mask(logits, given, SIZE, PROFILES[name])
        assert (judgement.status, judgement.test) == ("right", "local")
        assert judgement.ratio <= 1
        assert 0 < judgement.resolution < 0.1
        assert not findings


def test_masks_of_the_logits_own_size_are_exact():
    logits = scene()
    mask = logits.argmax(axis=1)
    assert judge_mask(logits, mask, None, FP32)[0][0].status == "right"
    assert judge_mask(logits, mask, (8, 11), FP32)[0][0].test == "exact"
    logits[1, (mask[1, 4, 6] + 1) % 5, 4, 6] = np.nextafter(logits[1, mask[1, 4, 6], 4, 6], np.inf)
    judgement, finding = only(judge_mask(logits, mask, None, FP32), "mask")
    assert (judgement.worst, judgement.beyond, judgement.test) == ((1, 4, 6), 1, "exact")
    assert judgement.ratio == math.inf
    assert "of the logits, the first at (1, 4, 6)" in finding.message


def test_one_picture_needs_no_batch_axis():
    logits = scene(pictures=1)
    mask = mask_of(logits)[0]
    assert judge_mask(logits, mask, SIZE, FP32)[0][0].shape == SIZE
    mask[30, 50] = (mask[30, 50] + 1) % 5
    mask[31, 2] = (mask[31, 2] + 1) % 5
    judgement, finding = only(judge_mask(logits, mask, SIZE, FP32), "mask")
    assert judgement.worst in ((30, 50), (31, 2))
    assert "2 of 3150 pixels have another class than the largest of the resized logits" in finding.message
    assert finding.message.endswith("the first at (30, 50)")


def test_a_tie_within_the_resize_may_go_either_way_and_one_beyond_may_not():
    logits = scene(pictures=1)
    resized = ops.resize_bilinear(logits, SIZE)[0]
    mask = resized.argmax(axis=0)
    second = np.argsort(resized, axis=0)[-2]
    margin = np.sort(resized, axis=0)[-1] - np.sort(resized, axis=0)[-2]
    y, x = np.unravel_index(margin.argmin(), SIZE)
    mask[y, x] = second[y, x]
    ((judgement, _),) = judge_mask(logits, mask, SIZE, FP32)
    assert (judgement.worst, judgement.error) == ((y, x), pytest.approx(margin[y, x]))
    assert (judgement.found, judgement.expected) == (second[y, x], resized[:, y, x].argmax())
    gap = logits.copy()  # the other class is as large as the tolerance allows, or a little less
    for times, status in ((0.9, "right"), (1.1, "wrong")):
        gap[0, int(second[y, x])] = logits[0, int(second[y, x])] + margin[y, x] - times * judgement.tolerance
        assert (
            judge_mask(gap, resized.argmax(axis=0) * 0 + label_map_with(gap, y, x, second), SIZE, FP32)[0][0].status
            == status
        )


def label_map_with(logits, y, x, second):
    """The sound mask of these logits, but for one pixel."""
    mask = mask_of(logits)[0]
    mask[y, x] = second[y, x]
    return mask


def corner_aligned(logits, size):
    rows, columns = (np.linspace(0, n - 1, out) for n, out in zip(logits.shape[2:], size, strict=True))
    at = [sources_at(p, n, np.dtype(float)) for p, n in zip((rows, columns), logits.shape[2:], strict=True)]
    tall = logits[:, :, at[0].first] * (1 - at[0].weight[:, None]) + logits[:, :, at[0].second] * at[0].weight[:, None]
    wide = tall[..., at[1].first] * (1 - at[1].weight) + tall[..., at[1].second] * at[1].weight
    return wide.argmax(axis=1)


def nearest(logits, size, origin):
    mask = logits.argmax(axis=1)
    y, x = (
        np.floor((np.arange(out) + origin) * n / out).astype(int) for n, out in zip(mask.shape[1:], size, strict=True)
    )
    return mask[:, y][:, :, x]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: mask_of(s) + 1, "[HED-04-mask]"),
        (lambda s: mask_of(s) - 1, "[HED-04-mask-low]"),
        (lambda s: nearest(s, SIZE, 0), "[SEG-09]"),
        (lambda s: nearest(s, SIZE, 0.5), "[SEG-09-centres]"),
        (lambda s: corner_aligned(s, SIZE), "[SEG-10]"),
        (
            lambda s: mask_of(s).swapaxes(1, 2),
            "has the shape (2, 70, 45) where (2, 45, 70) is expected [SEG-12-transposed]",
        ),
        (lambda s: mask_of(s, SIZE[::-1]), "has the shape (2, 70, 45) where (2, 45, 70) is expected [SEG-10-size]"),
        (lambda s: s.argmax(axis=1), "where (2, 45, 70) is expected [SEG-09-small]"),
        (lambda s: mask_of(s)[:, :, ::-1], "of the resized logits, the first at (0, 0, 0) [None]"),
        (lambda s: mask_of(s)[:, :40], "has the shape (2, 40, 70) where (2, 45, 70) is expected"),
        (lambda s: np.zeros((2, 70, 45), int), "has the shape (2, 70, 45) where (2, 45, 70) is expected"),
        (lambda s: mask_of(s)[0], "has the shape (45, 70) where (2, 45, 70) is expected"),
        (lambda s: mask_of(s).astype(float), "is of float64 where whole numbers are expected"),
        (lambda s: np.int64(1), "has the shape ()"),
    ],
)
def test_wrong_masks_say_what_they_look_like(make, words):
    logits = scene()
    _, finding = only(judge_mask(logits, make(logits), SIZE, FP32), "mask")
    assert words in told(finding)
    assert words.endswith("]") or finding.cause is None


def test_a_square_mask_that_is_transposed_is_told():
    logits = scene()
    _, finding = only(judge_mask(logits, mask_of(logits, (40, 40)).swapaxes(1, 2), (40, 40), FP32), "mask")
    assert finding.diagnosis.mutant == "SEG-12-transposed"


def test_explanations_look_at_some_pixels_of_a_large_mask(monkeypatch):
    monkeypatch.setattr("npmobilevit.validation.surroundings.TRIAL_PIXELS", 300)
    logits = scene()
    _, finding = only(judge_mask(logits, corner_aligned(logits, SIZE), SIZE, FP32), "mask")
    assert finding.cause == "SEG-10"


def test_a_large_mask_needs_little_memory():
    logits = scene(1, 21, 32, 32)
    size = (600, 800)
    mask = np.zeros(size, np.uint8)
    tracemalloc.start()
    judge_mask(logits, mask, size, FP32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # the resized logits alone would be 81 MB at once, and their tolerances four times that


def test_coordinates_in_single_precision_pass():
    """Where the logits are steep, the rounding of a source coordinate decides between two classes."""
    logits, size = scene(1, 2, 2, 900) * 1e3, (60, 9999)
    mask = mask_of(logits.astype(np.float32), size)
    assert (mask != mask_of(logits, size)).any()
    ((judgement, _),) = judge_mask(logits, mask, size, FP32)
    assert judgement.status == "right"
    assert judgement.ratio > 0.01


def test_an_explanation_that_leaves_much_open_is_not_given():
    logits = scene()
    turned = mask_of(logits, SIZE[::-1])
    turned[:, ::3] = 0
    _, finding = only(judge_mask(logits, turned, SIZE, FP32), "mask")
    assert told(finding) == "has the shape (2, 70, 45) where (2, 45, 70) is expected [None]"
    shifted = mask_of(logits) + 1
    shifted[:, ::3] = 0
    _, finding = only(judge_mask(logits, shifted, SIZE, FP32), "mask")
    assert finding.cause is None


def test_an_explanation_of_half_of_a_few_wrong_pixels_is_not_given():
    logits, size = np.zeros((1, 2, 8, 11)), (40, 440)
    logits[0, 1] = np.arange(11) - 5.55  # one edge, which align_corners=True moves a little
    aligned, mask = corner_aligned(logits, size), mask_of(logits, size)
    _, finding = only(judge_mask(logits, aligned, size, FP32), "mask")
    assert finding.cause == "SEG-10"
    assert 0 < (aligned != mask).mean() < 0.01
    aligned[:, :20] = mask[:, :20]
    _, finding = only(judge_mask(logits, aligned, size, FP32), "mask")
    assert finding.cause is None


def test_equal_logits_are_equally_right():
    logits = np.zeros((1, 3, 2, 2))
    logits[0, 2] = -1
    for mask in ([[0, 1], [1, 0]], [[1, 1], [1, 1]]):
        assert judge_mask(logits, np.array(mask), None, FP32)[0][0].status == "right"
    only(judge_mask(logits, np.array([[0, 1], [2, 0]]), None, FP32), "mask")


def test_parts_are_put_together(monkeypatch):
    """Parts go from left to right before they go down: the first wrong pixel may be in a later one."""
    logits = scene(pictures=1)
    mask = mask_of(logits)
    mask[0, 40, 3] = (mask[0, 40, 3] + 1) % 5
    mask[0, 7, 60] = -1  # infinitely wrong
    whole = judge_mask(logits, mask, SIZE, FP32)
    monkeypatch.setattr("npmobilevit.label_maps.PART_VALUES", 300)
    judgement, finding = only(judge_mask(logits, mask, SIZE, FP32), "mask")
    assert [(judgement, [finding])] == whole
    assert finding.message.endswith(
        "2 of 3150 pixels have another class than the largest of the resized logits, the first at (0, 7, 60)"
    )
    assert (judgement.worst, judgement.found, judgement.error) == ((0, 7, 60), -1, math.inf)
