import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import pytest
from fakehub import commit_of
from test_families import foreign

import npmobilevit as nm
from npmobilevit.checkpoints import (
    CATALOGUE,
    Checkpoint,
    catalogue,
    find_checkpoint,
    is_cached,
    load_config_settings,
    load_processor_settings,
    local_path,
    read_checkpoint,
    read_model,
    write_safetensors,
)
from npmobilevit.checkpoints.labels import VOC_LABELS, imagenet_labels
from npmobilevit.errors import CheckpointError, ConfigError, WeightsError

fuzz_readers = pytest.importorskip("fuzz_readers")  # it needs resource, which only Unix has

APPLE = "apple/mobilevit-xx-small"
TIMM = "timm/mobilevit_xxs.cvnets_in1k"
CONFIG, PROCESSOR, WEIGHTS, BIN = (
    *("config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"),
)
PIXELS = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
PICTURE = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
TIMM_CONFIG = {
    "architecture": "mobilevit_xxs",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 256, 256],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
    },
}


def network(head="classification", **changes):
    config = networks.tiny(**changes)
    return networks.MODELS[head](config, networks.random_weights(config, head))


def torch_file(tensors):
    """The file that torch.save would write."""
    return fuzz_readers.torch_file({name: fuzz_readers.tensor(values) for name, values in tensors.items()})


def safetensors(tensors, folder):
    path = folder / "made.safetensors"
    write_safetensors(path, tensors)
    return path.read_bytes()


def write(folder, **files):
    """Files of these contents: bytes, or what becomes JSON; the dots of the names are underscores."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        data = contents if isinstance(contents, bytes) else json.dumps(contents).encode()
        (folder / name).write_bytes(data)
    return folder


def make_folder(folder, mark="here", processor=True):
    """A checkpoint whose label and picture size tell it from others."""
    network(num_labels=1, id2label={0: mark}).save_pretrained(folder)
    if processor:
        nm.MobileViTImageProcessor(size=36, crop_size=32, resample=2).save_pretrained(folder)
    return folder


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def label(contents):
    return contents.config.id2label[0]


def same_logits(contents, original, head="classification"):
    found = networks.MODELS[head](contents.config, contents.weights)(PIXELS).logits
    np.testing.assert_array_equal(found, original(PIXELS).logits, strict=True)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_SHIPPED", tmp_path / "shipped")
    return make_folder(tmp_path / "shipped" / "ours", "shipped")


@pytest.fixture
def apple(hub, tmp_path):
    """As Apple's: main has everything but safetensors, the pull request everything."""
    pull_request = files_of(make_folder(tmp_path / "apple", "refs/pr/2"))
    main = files_of(make_folder(tmp_path / "main", "main"))
    del main[WEIGHTS]
    hub.repos[APPLE] = {
        "main": {**main, BIN: torch_file(network(num_labels=1).state_dict())},
        "refs/pr/2": pull_request,
    }
    return hub


# Finding


def test_a_folder(tmp_path):
    folder = make_folder(tmp_path / "model")
    assert find_checkpoint(folder) == Checkpoint(
        name=str(folder),
        source="folder",
        weights_path=folder / WEIGHTS,
        config_path=folder / CONFIG,
        processor_path=folder / PROCESSOR,
        revision=None,
        verified=False,
    )
    assert load_config_settings(str(folder)) == json.loads((folder / CONFIG).read_text())
    assert load_processor_settings(folder) == json.loads((folder / PROCESSOR).read_text())


def test_every_way_to_name_a_folder(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "home" / "model")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(folder)
    for name in (".", "../model", "~/model", str(folder), folder, Path("../model"), WEIGHTS, f"./{WEIGHTS}"):
        assert label(read_checkpoint(name)) == "here"
    monkeypatch.chdir(tmp_path / "home")
    for name in ("model", f"model/{WEIGHTS}"):
        assert label(read_checkpoint(name)) == "here"


def test_the_order_of_names(shipped, hub, tmp_path, monkeypatch):
    """Shipped, alias, local folder, Hub: each first one hides the later ones."""
    monkeypatch.chdir(tmp_path)
    for name in ("ours", "small", "apple/mobilevit-small"):
        make_folder(tmp_path / name, f"folder {name}")
    assert find_checkpoint("ours").source == "shipped"
    assert find_checkpoint(Path("ours")).source == "folder"
    assert find_checkpoint("./ours").source == "folder"
    assert find_checkpoint("apple/mobilevit-small").source == "folder"
    assert hub.log == []
    with pytest.raises(CheckpointError) as caught:  # the alias leads to the Hub, past both folders
        find_checkpoint("small")
    assert caught.value.code == "hub-repository-not-found"


def test_only_a_file_that_may_hold_weights_hides_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path / "x", **{"model": b"", "model.pt": b""}).parent)
    assert local_path("x/model") is None
    assert local_path("x/gone.pt") is None
    assert local_path("x/model.pt") == Path("x/model.pt")


@pytest.mark.case("112", "../x, /etc/passwd, ~nobody, '' and other names of nothing", "an error at once, no request")
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("./gone", "checkpoint-not-found"),
        ("../gone", "checkpoint-not-found"),
        ("/gone/model", "checkpoint-not-found"),
        ("~/gone-model", "checkpoint-not-found"),
        ("~no-such-user/model", "checkpoint-not-found"),
        (Path("gone"), "checkpoint-not-found"),
        ("..\\x", "checkpoint-not-found"),
        ("./a\0b", "checkpoint-not-found"),
        ("/etc/passwd", "checkpoint-not-a-folder"),
        ("", "checkpoint-name-invalid"),
        ("gone", "checkpoint-name-invalid"),
        ("a/b/c", "checkpoint-name-invalid"),
        ("a\0b/c", "checkpoint-name-invalid"),
        ("x" * 100_000, "checkpoint-name-invalid"),
        (None, "checkpoint-name-invalid"),
        (7, "checkpoint-name-invalid"),
        (b"a/b", "checkpoint-name-invalid"),
    ],
)
@pytest.mark.parametrize("function", [find_checkpoint, read_model, load_config_settings, load_processor_settings])
def test_names_that_lead_nowhere(hub, name, code, function):
    with pytest.raises(CheckpointError) as caught:
        function(name)
    assert caught.value.code == code
    assert len(str(caught.value)) < 700
    assert hub.log == []


# From the Hub


def test_apples_weights_come_from_the_pull_request_with_all_that_belongs_to_them(apple):
    checkpoint = find_checkpoint("xx-small")
    assert (checkpoint.name, checkpoint.source, checkpoint.verified) == (APPLE, "hub", True)
    assert checkpoint.revision == commit_of(apple.repos[APPLE]["refs/pr/2"])
    apple.log.clear()
    contents = read_checkpoint(APPLE)
    assert label(contents) == "refs/pr/2"
    assert (contents.revision, contents.verified) == (checkpoint.revision, True)
    assert load_config_settings("xx-small")["id2label"] == {"0": "refs/pr/2"}
    assert load_processor_settings(APPLE, local_files_only=True) == contents.processor
    assert apple.log == []


def test_apples_main_is_used_once_it_has_weights(apple):
    apple.repos[APPLE]["main"][WEIGHTS] = apple.repos[APPLE]["refs/pr/2"][WEIGHTS]
    assert label(read_checkpoint(APPLE)) == "main"


def test_an_asked_for_revision_is_the_only_one_looked_in(apple):
    contents = read_checkpoint(APPLE, revision="main")
    assert contents.weights_path.name == BIN
    assert label(contents) == "main"
    assert not any("refs/pr/2" in path for _, path in apple.log)
    del apple.repos[APPLE]["main"][BIN]
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} or {BIN}") as caught:
        find_checkpoint(APPLE, revision="main", force_download=True)
    assert caught.value.code == "hub-file-not-found"


def test_without_safetensors_anywhere_apples_torch_file_is_read(apple):
    del apple.repos[APPLE]["refs/pr/2"]
    contents = read_checkpoint(APPLE)
    assert (contents.weights_path.name, contents.family, label(contents)) == (BIN, "transformers", "main")
    same_logits(contents, network(num_labels=1))


def test_a_network_alone_needs_no_processor_settings_from_the_cache(apple):
    """As transformers leaves it, when the model alone was loaded."""
    from huggingface_hub import hf_hub_download

    for name in (CONFIG, BIN):
        hf_hub_download(APPLE, name)
    apple.log.clear()
    assert label(read_model(APPLE)) == "main"
    assert apple.log == []
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(APPLE, local_files_only=True)
    assert caught.value.code == "hub-offline"


def test_a_repository_of_timm_predicts_with_its_own_labels_and_preprocessing(hub, tmp_path):
    original = network(num_labels=1000)
    tensors = foreign(original.state_dict(), "timm")
    hub.repos[TIMM] = {"main": {CONFIG: json.dumps(TIMM_CONFIG).encode(), WEIGHTS: safetensors(tensors, tmp_path)}}
    for local in (False, True):
        loaded = nm.load("timm-xx-small", engine="reference", local_files_only=local)
        assert (loaded.name, loaded.revision) == (TIMM, commit_of(hub.repos[TIMM]["main"]))
        assert [loaded.config.id2label[i] for i in (0, 134, 517)] == ["tench, Tinca tinca", "crane", "crane"]
        expected = nm.MobileViTImageProcessor(
            size={"shortest_edge": 284}, crop_size=256, resample=3, do_flip_channel_order=False
        )
        np.testing.assert_array_equal(loaded.pixel_values(PICTURE), expected.preprocess(PICTURE)["pixel_values"])
        np.testing.assert_array_equal(loaded.network(PIXELS).logits, original(PIXELS).logits, strict=True)
    hub.log.clear()
    assert nm.MobileViTConfig.from_pretrained(TIMM) == loaded.config
    assert nm.MobileViTImageProcessor.from_pretrained(TIMM, local_files_only=True) == loaded.processor
    assert nm.MobileViTForImageClassification.from_pretrained(TIMM).config.num_labels == 1000
    assert [path for _, path in hub.log if "preprocessor_config.json" not in path] == []


def test_labels_and_preprocessing_in_timms_config_are_used(tmp_path):
    weights = torch_file(foreign(network(num_labels=2).state_dict(), "timm"))
    entries = {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bilinear"}
    config = {**TIMM_CONFIG, "num_classes": 2, "label_names": ["left", "right"], "pretrained_cfg": entries}
    contents = read_checkpoint(write(tmp_path, **{CONFIG: config, BIN: weights}))
    assert contents.config.id2label == {0: "left", 1: "right"}
    assert contents.processor == {
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "resample": 2,
        "do_flip_channel_order": False,
    }


def test_a_hub_checkpoint_without_config_is_read_by_its_shapes(hub, tmp_path):
    original = network(num_labels=1000)
    hub.repos["someone/bare"] = {"main": {BIN: torch_file(foreign(original.state_dict(), "ml-cvnets"))}}
    for _ in range(2):
        contents = read_checkpoint("someone/bare")
        assert (contents.family, contents.architecture, contents.verified) == ("ml-cvnets", None, True)
        assert tuple(contents.config.id2label.values()) == imagenet_labels()
        same_logits(contents, original)
        hub.fault = {name: "hang" for name in (CONFIG, PROCESSOR, WEIGHTS, BIN)}  # they are not asked for again
    assert load_config_settings("someone/bare", local_files_only=True) == contents.config.to_dict()
    assert load_processor_settings("someone/bare", local_files_only=True) == contents.processor


def test_is_cached_asks_nothing(apple, shipped, tmp_path):
    entry = next(entry for entry in CATALOGUE if entry.name == APPLE)
    assert not is_cached(entry)
    assert apple.log == []
    path = find_checkpoint(APPLE).weights_path
    apple.log.clear()
    assert is_cached(entry)
    assert is_cached("xx-small")
    assert is_cached("ours")
    assert not is_cached(entry, cache_dir=tmp_path / "other")
    assert not is_cached("timm-small")
    assert not is_cached("no name")
    path.unlink()
    assert not is_cached(entry)
    assert apple.log == []


# What is read


@pytest.mark.parametrize("name", [BIN, "mobilevit_s.pt", WEIGHTS])
@pytest.mark.parametrize("library", ["transformers", "timm", "ml-cvnets"])
def test_bare_weights_of_every_library_and_format(tmp_path, name, library):
    original = network(num_labels=1000)
    state = original.state_dict()
    tensors = state if library == "transformers" else foreign(state, library)
    data = safetensors(tensors, tmp_path) if name == WEIGHTS else torch_file(tensors)
    folder = write(tmp_path / "model", **{name: data})
    for path in (folder, folder / name):
        contents = read_checkpoint(path)
        assert (contents.name, contents.source, contents.family) == (str(path), "folder", library)
        assert (contents.revision, contents.verified, contents.dtypes) == (None, False, ("float32",))
        assert contents.class_name == "MobileViTForImageClassification"
        assert contents.config.id2label[134] == "crane"
        same_logits(contents, original)
        processor = nm.load(path).processor
        assert processor.do_flip_channel_order is (library != "timm")
        assert (processor.size["shortest_edge"], processor.resample) == ((284, 3) if library == "timm" else (288, 2))
        assert nm.MobileViTConfig.from_pretrained(path) == contents.config
        assert nm.MobileViTImageProcessor.from_pretrained(path) == processor


def test_a_bare_segmenter_of_ml_cvnets(tmp_path):
    original = network("segmentation", num_labels=21, output_stride=16, atrous_rates=[6, 12, 18])
    path = write(tmp_path, **{"deeplab.pt": torch_file(foreign(original.state_dict(), "ml-cvnets"))}) / "deeplab.pt"
    contents = read_checkpoint(path)
    assert tuple(contents.config.id2label.values()) == VOC_LABELS
    same_logits(contents, original, "segmentation")
    loaded = nm.load(path)
    assert type(loaded.network) is nm.MobileViTForSemanticSegmentation
    assert dict(loaded.processor.crop_size) == {"height": 512, "width": 512}


def test_settings_next_to_a_file_belong_to_it(tmp_path):
    """Its labels and picture size would otherwise be guessed, and wrong."""
    folder = make_folder(tmp_path / "model")
    contents = read_checkpoint(folder / WEIGHTS)
    assert label(contents) == "here"
    assert contents.processor == load_processor_settings(folder / WEIGHTS)
    assert contents.processor["crop_size"] == {"height": 32, "width": 32}


def test_a_config_of_transformers_overrides_what_shapes_cannot_tell(tmp_path):
    config = networks.tiny(num_attention_heads=2, id2label=dict(enumerate("abcde")), num_labels=None)
    original = nm.MobileViTForImageClassification(config, networks.random_weights(config, "classification"))
    tensors = foreign(original.state_dict(), "timm")
    contents = read_checkpoint(write(tmp_path, **{CONFIG: config.to_dict(), BIN: torch_file(tensors)}))
    assert contents.config == config
    same_logits(contents, original)
    assert contents.processor is not None  # timm's own


def test_someones_own_training_without_processor_settings_has_none(tmp_path):
    """The settings of the published checkpoints would give answers, and wrong ones."""
    folder = make_folder(tmp_path / "model", processor=False)
    contents = read_checkpoint(folder)
    assert contents.processor is None
    for action in (contents.require_processor, lambda: load_processor_settings(folder), lambda: nm.load(folder)):
        with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json") as caught:
            action()
        assert caught.value.code == "checkpoint-no-processor"


@pytest.mark.parametrize(
    ("architectures", "expected"),
    [
        (["MobileViTModel"], "MobileViTModel"),
        (["Other", 7, "MobileViTForSemanticSegmentation"], "MobileViTForSemanticSegmentation"),
        (["Other"], None),
        ([["MobileViTModel"]], None),
        ("MobileViTModel", None),
        (None, None),
    ],
)
def test_the_architecture_is_as_the_file_says(tmp_path, architectures, expected):
    folder = make_folder(tmp_path / "model")
    settings = json.loads((folder / CONFIG).read_text()) | {"architectures": architectures}
    write(folder, **{CONFIG: settings})
    contents = read_checkpoint(folder)
    assert contents.architecture == expected
    assert contents.class_name == (expected or "MobileViTForImageClassification")


def test_the_stored_dtypes_are_told(tmp_path):
    state = network().state_dict()
    half = {name: v.astype(np.float16) if v.dtype.kind == "f" else v for name, v in state.items()}
    mixed = {**half, "classifier.bias": state["classifier.bias"].astype(np.float64)}
    for tensors, expected in [(state, ("float32",)), (half, ("float16",)), (mixed, ("float16", "float64"))]:
        for name, data in [(WEIGHTS, safetensors(tensors, tmp_path)), ("x.pt", torch_file(tensors))]:
            assert read_checkpoint(write(tmp_path / "model", **{name: data}) / name).dtypes == expected


@pytest.mark.parametrize(
    ("files", "error", "code", "named"),
    [
        ({WEIGHTS: {"a.weight": 1}}, WeightsError, "weights-family", WEIGHTS),
        ({WEIGHTS: {"seg_head.aux_head.x": 1, "conv_1.x": 1}}, WeightsError, "weights-other-task", WEIGHTS),
        ({WEIGHTS: {"mobilevit.conv_stem.x": 1}}, WeightsError, "weights-config", WEIGHTS),
        ({WEIGHTS: {"conv_stem.x": 1}, CONFIG: {"patch_size": 0}}, ConfigError, "config-value", CONFIG),
        ({WEIGHTS: {"conv_stem.x": 1}, CONFIG: []}, ConfigError, "json-not-an-object", CONFIG),
        ({WEIGHTS: {"conv_stem.x": 1}, CONFIG: {}, PROCESSOR: []}, ConfigError, "json-not-an-object", PROCESSOR),
        ({WEIGHTS: {"conv_stem.x": 1}, CONFIG: {"architecture": "x"}}, WeightsError, "weights-config", WEIGHTS),
        ({WEIGHTS: None, CONFIG: {"architecture": "x", "std": [2]}}, ConfigError, "config-value", CONFIG),
        ({BIN: b"PK\x03\x04"}, WeightsError, "weights-truncated", BIN),
    ],
)
def test_errors_name_the_file_once(tmp_path, files, error, code, named):
    files = dict(files)
    if WEIGHTS in files:
        given = files[WEIGHTS] or foreign(network().state_dict(), "timm")
        tensors = {name: np.asarray(value, getattr(value, "dtype", np.float32)) for name, value in given.items()}
        files[WEIGHTS] = safetensors(tensors, tmp_path)
    folder = write(tmp_path / "model", **files)
    with pytest.raises(error) as caught:
        read_checkpoint(folder)
    assert caught.value.code == code
    assert str(caught.value).startswith(str(folder / named))
    assert str(caught.value).count(str(folder)) == 1


def test_the_contents_cannot_be_exchanged(tmp_path):
    contents = read_checkpoint(make_folder(tmp_path / "model"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        contents.name = "other"


# Without the Hub


def test_without_huggingface_hub_everything_local_is_read(shipped):
    """It may not be installed."""
    code = f"""
import sys
sys.modules["huggingface_hub"] = None
from pathlib import Path
from npmobilevit.checkpoints import catalogue, is_cached, read_checkpoint
catalogue._SHIPPED = Path({str(shipped.parent)!r})
print(read_checkpoint("ours").source, read_checkpoint({str(shipped)!r}).source)
print(is_cached("ours"), is_cached("xx-small"))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["shipped", "folder", "True", "False"]


def test_importing_loads_neither_safetensors_nor_the_hub():
    code = "import sys, npmobilevit.checkpoints; print({'safetensors', 'huggingface_hub'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_paths_of_bytes_and_numbers_as_revisions_are_errors_of_ours():
    class Bytes:
        def __fspath__(self):
            return b"folder"

    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(Bytes())
    assert caught.value.code == "checkpoint-name-invalid"
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint("apple/mobilevit-small", revision=1)
    assert caught.value.code == "checkpoint-revision-invalid"


def test_a_file_of_weights_that_is_not_there_is_missed_as_a_file():
    with pytest.raises(CheckpointError, match=r"no file or folder nothere\.pt"):
        read_checkpoint("nothere.pt")
