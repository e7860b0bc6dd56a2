import dataclasses

import networks
import numpy as np
import pytest
from safetensors.numpy import save

from npmobilevit.checkpoints import catalogue
from npmobilevit.checkpoints.catalogue import (
    ALIASES,
    CATALOGUE,
    hub_id,
    hub_revisions,
    near_names,
    shipped_folder,
    shipped_names,
)
from npmobilevit.config import MobileViTConfig, expected_parameters
from npmobilevit.errors import CheckpointError

BY_NAME = {entry.name: entry for entry in CATALOGUE}
SIZES = {"xx-small": "xxs", "x-small": "xs", "small": "s"}


def test_the_catalogue_has_what_is_shipped_and_what_was_published():
    published = {f"apple/{kind}-{size}" for kind in ("mobilevit", "deeplabv3-mobilevit") for size in SIZES}
    published |= {f"timm/mobilevit_{letters}.cvnets_in1k" for letters in SIZES.values()}
    assert {entry.name for entry in CATALOGUE if not entry.shipped} == published
    assert sorted(entry.name for entry in CATALOGUE if entry.shipped) == shipped_names()
    assert len(BY_NAME) == len(CATALOGUE)


def test_every_name_and_alias_means_one_checkpoint():
    aliases = [alias for entry in CATALOGUE for alias in entry.aliases]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(BY_NAME)
    assert {entry.name for entry in CATALOGUE if not entry.shipped} == set(ALIASES.values())
    for alias, name in ALIASES.items():
        assert hub_id(alias) == hub_id(name) == name


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_an_entry_is_whole(entry):
    assert all(
        getattr(entry, field.name) for field in dataclasses.fields(entry) if field.name not in ("aliases", "shipped")
    )
    unit = {"classification": "% top-1", "segmentation": "% mIoU"}[entry.task]
    assert entry.accuracy.endswith(unit)


@pytest.mark.parametrize("entry", [e for e in CATALOGUE if not e.shipped], ids=lambda entry: entry.name)
def test_the_sizes_of_the_published_files_are_those_of_such_networks(entry):
    """Where the size was not published it was computed; both agree to a hundredth of the file, its names apart."""
    size = next(short for name, short in SIZES.items() if entry.aliases[0].endswith(name))  # the longest name first
    labels = {"classification": 1000, "segmentation": 21}[entry.task]
    config = MobileViTConfig(**networks.VARIANTS[size], num_labels=labels)
    shapes = expected_parameters(config, head=entry.task)
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    assert entry.megabytes == pytest.approx(len(save(weights | networks.counters(weights))) / 1e6, rel=0.01)


@pytest.mark.parametrize("entry", [e for e in CATALOGUE if e.shipped], ids=lambda entry: entry.name)
def test_the_facts_of_a_shipped_checkpoint_are_those_of_its_files(entry):
    folder = shipped_folder(entry.name)
    config = MobileViTConfig.from_pretrained(folder)
    assert entry.input_size == config.image_size
    assert entry.labels.endswith(f"({config.num_labels})")
    assert entry.megabytes == pytest.approx((folder / "model.safetensors").stat().st_size / 1e6, abs=0.005)
    assert entry.accuracy.split(" ")[0] in (folder / "README.md").read_text(encoding="utf-8")
    assert (config.to_dict()["architectures"] == ["MobileViTForImageClassification"]) is (
        entry.task == "classification"
    )


def test_aliases_stand_for_the_published_repositories():
    assert hub_id("xx-small") == "apple/mobilevit-xx-small"
    assert hub_id("deeplabv3-small") == "apple/deeplabv3-mobilevit-small"
    assert hub_id("timm-x-small") == "timm/mobilevit_xs.cvnets_in1k"
    assert hub_id("someone/my_model.v1") == "someone/my_model.v1"


@pytest.mark.case(
    "112",
    "a/b/c, a/../b, ..\\\\x, spaces, control characters and other names that are no Hub id",
    "checkpoint-name-invalid",
)
@pytest.mark.parametrize(
    "name",
    [
        *["", "mobilevit-xx-small", "a/b/c", "a/../b", "a/..b", "a/b..c", "a/b--c", "a/-b", "a/b.", "a\\b", "..\\x"],
        *["a/b\n", "a b/c", "a/b.git", "ä/b", "a/b?x=1", "https://huggingface.co/apple/mobilevit-small"],
        *["model.safetensors", "a/" + "b" * 95],
    ],
)
def test_what_is_no_hub_id_is_refused(name):
    with pytest.raises(CheckpointError, match="'owner/name', or a folder") as caught:
        hub_id(name)
    assert caught.value.code == "checkpoint-name-invalid"


def test_near_names_are_offered():
    with pytest.raises(CheckpointError, match="did you mean 'apple/mobilevit-xx-small'"):
        hub_id("mobilevit-xx-small")
    assert "'xx-small'" in near_names("xxsmall")
    assert "'timm/mobilevit_s.cvnets_in1k'" in near_names("timm/mobilevit_s")
    assert near_names("entirely/different-thing") == ""
    assert near_names("wrong").startswith(f"; shipped: {', '.join(shipped_names())}; aliases: xx-small, ")


def test_the_longest_name_allowed():
    assert hub_id("a/" + "b" * 94) == "a/" + "b" * 94


def test_only_apples_repositories_are_also_looked_for_in_the_pull_request():
    assert hub_revisions("apple/mobilevit-small", None) == ("main", "refs/pr/2")
    assert hub_revisions("apple/deeplabv3-mobilevit-x-small", None) == ("main", "refs/pr/2")
    assert hub_revisions("apple/mobilevit-small", "v1") == ("v1",)
    assert hub_revisions("apple/mobilevitv2-1.0", None) == ("main",)
    assert hub_revisions("timm/mobilevit_s.cvnets_in1k", None) == ("main",)
    assert hub_revisions("someone/model", "refs/pr/7") == ("refs/pr/7",)


@pytest.mark.case("112", "a revision such as ../../etc", "checkpoint-revision-invalid, no path is made of it")
@pytest.mark.parametrize("revision", ["", "../../etc", "a/../b", "/etc", "a b", "a\\b", "a\n"])
def test_a_revision_cannot_lead_out_of_the_cache(revision):
    with pytest.raises(CheckpointError) as caught:
        hub_revisions("someone/model", revision)
    assert caught.value.code == "checkpoint-revision-invalid"


def test_shipped_names_are_the_folders_that_hold_a_config(tmp_path, monkeypatch):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    (tmp_path / "__pycache__").mkdir()
    monkeypatch.setattr(catalogue, "_SHIPPED", tmp_path)
    assert shipped_names() == ["a", "b"]
