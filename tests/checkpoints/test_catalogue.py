import pytest

from npmobilevit.checkpoints import catalogue
from npmobilevit.checkpoints.catalogue import hub_id, hub_revisions, near_names, shipped_names
from npmobilevit.errors import CheckpointError


def test_aliases_stand_for_apples_repositories():
    assert hub_id("xx-small") == "apple/mobilevit-xx-small"
    assert hub_id("deeplabv3-small") == "apple/deeplabv3-mobilevit-small"
    assert hub_id("someone/my_model.v1") == "someone/my_model.v1"


@pytest.mark.parametrize(
    "name",
    [
        *["", "mobilevit-xx-small", "a/b/c", "a/../b", "a/..b", "a/b..c", "a/b--c", "a/-b", "a/b.", "a\\b", "..\\x"],
        *["a/b\n", "a b/c", "a/b.git", "ä/b", "a/b?x=1", "https://huggingface.co/apple/mobilevit-small"],
        "a/" + "b" * 95,
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
    assert near_names("entirely/different-thing") == ""
    assert near_names("wrong").startswith("; shipped: camvid-deeplabv3-xx-small, cifar10-xx-small; aliases: xx-small, ")


def test_the_longest_name_allowed():
    assert hub_id("a/" + "b" * 94) == "a/" + "b" * 94


def test_only_apples_repositories_are_also_looked_for_in_the_pull_request():
    assert hub_revisions("apple/mobilevit-small", None) == ("main", "refs/pr/2")
    assert hub_revisions("apple/mobilevit-small", "v1") == ("v1",)
    assert hub_revisions("apple/mobilevitv2-1.0", None) == ("main",)
    assert hub_revisions("someone/model", "refs/pr/7") == ("refs/pr/7",)


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
