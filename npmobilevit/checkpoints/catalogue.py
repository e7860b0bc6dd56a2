"""The checkpoints that are known by name: published ones, their aliases, and those shipped in this package."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from npmobilevit.errors import CheckpointError

_APPLE_LICENCE = "Apple sample code licence ('other' on the Hub)"
_TIMM_LICENCE = "weights of Apple's ml-cvnets; see the licence on the model card"
_TIMM_RESULTS = "results/results-imagenet.csv of huggingface/pytorch-image-models"
_IMAGENET, _VOC = "ImageNet-1k (1000)", "PASCAL VOC (21)"

Task: TypeAlias = Literal["classification", "segmentation"]


@dataclass(frozen=True)
class Entry:
    """One checkpoint of the catalogue.

    Attributes
    ----------
    name : str
        Shipped name, or Hub id ``owner/name``.
    aliases : tuple of str
        Shorter names for it.
    task : {"classification", "segmentation"}
    input_size : int
        Height and width in pixels of what the processor cuts out for the network.
    labels : str
        The data set whose classes it knows, and their number.
    accuracy : str
        As published: on the validation set of that data set, or the test set of CIFAR-10.
    source : str
        Where that figure is published.
    licence : str
        A note, not legal advice.
    megabytes : float
        Size of the weights file in float32 safetensors, or as shipped, in 10^6 bytes.
    shipped : bool
        Whether it is part of this package.
    """

    name: str
    aliases: tuple[str, ...]
    task: Task
    input_size: int
    labels: str
    accuracy: str
    source: str
    licence: str
    megabytes: float
    shipped: bool = False


def _classifier(variant: str, accuracy: str, megabytes: float) -> Entry:
    repo = f"apple/mobilevit-{variant}"
    source = f"https://huggingface.co/{repo}"
    return Entry(repo, (variant,), "classification", 256, _IMAGENET, accuracy, source, _APPLE_LICENCE, megabytes)


def _segmenter(variant: str, accuracy: str, megabytes: float, licence: str = _APPLE_LICENCE) -> Entry:
    repo, alias = f"apple/deeplabv3-mobilevit-{variant}", f"deeplabv3-{variant}"
    source = f"https://huggingface.co/{repo}"
    return Entry(repo, (alias,), "segmentation", 512, _VOC, accuracy, source, licence, megabytes)


def _timm(letters: str, variant: str, accuracy: str, megabytes: float) -> Entry:
    repo, alias = f"timm/mobilevit_{letters}.cvnets_in1k", f"timm-{variant}"
    return Entry(repo, (alias,), "classification", 256, _IMAGENET, accuracy, _TIMM_RESULTS, _TIMM_LICENCE, megabytes)


def _shipped(name: str, task: Task, input_size: int, labels: str, accuracy: str, megabytes: float) -> Entry:
    source = "its README.md in npmobilevit/checkpoints/shipped, measured by npmobilevit"
    return Entry(name, (), task, input_size, labels, accuracy, source, "Apache-2.0", megabytes, shipped=True)


CATALOGUE: tuple[Entry, ...] = (
    _shipped("cifar10-xx-small", "classification", 64, "CIFAR-10 (10)", "86.24 % top-1", 1.96),
    _shipped("camvid-deeplabv3-xx-small", "segmentation", 360, "CamVid (11)", "51.3 % mIoU", 3.77),
    _classifier("xx-small", "69.0 % top-1", 5.15),
    _classifier("x-small", "74.8 % top-1", 9.35),
    _classifier("small", "78.4 % top-1", 22.4),
    _segmenter("xx-small", "73.6 % mIoU", 7.50),
    _segmenter("x-small", "77.1 % mIoU", 11.9),
    _segmenter("small", "79.1 % mIoU", 25.5, f"{_APPLE_LICENCE}, later the Apple model licence apple-amlr"),
    _timm("xxs", "xx-small", "68.94 % top-1", 5.14),
    _timm("xs", "x-small", "74.62 % top-1", 9.34),
    _timm("s", "small", "78.30 % top-1", 22.4),
)
"""What is shipped, what Apple published, and the same classifiers as timm has them."""

ALIASES = {alias: entry.name for entry in CATALOGUE for alias in entry.aliases}
"""Short names of the checkpoints in the catalogue."""

_SHIPPED = Path(__file__).parent / "shipped"
_MAIN = "main"
_APPLE_SAFETENSORS = "refs/pr/2"  # the pull request with model.safetensors, not merged when last seen
_APPLES = frozenset(entry.name for entry in CATALOGUE if entry.name.startswith("apple/"))
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_HUB_ID = re.compile(f"{_PART}/{_PART}")
_REVISION = re.compile(r"(?!.*\.\.)[^\s/\\][^\s\\]*")  # it becomes part of a path in the cache


def shipped_names() -> list[str]:
    """Names of the checkpoints inside this package, sorted."""
    return sorted(config.parent.name for config in _SHIPPED.glob("*/config.json"))


def shipped_folder(name: str) -> Path:
    """Folder of the shipped checkpoint `name`."""
    return _SHIPPED / name


def hub_id(name: str) -> str:
    """Hub id ``owner/name`` that `name` stands for: an alias, or such an id itself.

    Raises
    ------
    CheckpointError
        ``checkpoint-name-invalid``, with the nearest known names.
    """
    name = ALIASES.get(name, name)
    if not _HUB_ID.fullmatch(name) or len(name) > 96 or "--" in name or ".." in name or name.endswith(".git"):
        raise CheckpointError(
            f"{name[:200]!r} is no checkpoint: give a shipped name, an alias, a Hub id 'owner/name', or a folder, "
            "one that exists or a path that starts with '.', '/' or '~', or a file of weights (.safetensors, .bin, "
            f".pt){near_names(name)}",
            "checkpoint-name-invalid",
        )
    return name


def hub_revisions(repo: str, revision: str | None) -> tuple[str, ...]:
    """Revisions of the Hub repository `repo` to look in, in this order; a `revision` asked for is the only one.

    The six repositories of Apple have no model.safetensors on ``main``, only in a pull request.

    Raises
    ------
    CheckpointError
        ``checkpoint-revision-invalid``.
    """
    if revision is not None:
        if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
            raise CheckpointError(f"{str(revision)[:200]!r} is no branch, tag or commit", "checkpoint-revision-invalid")
        return (revision,)
    return (_MAIN, _APPLE_SAFETENSORS) if repo in _APPLES else (_MAIN,)


def near_names(name: str) -> str:
    """``"; did you mean 'a', 'b'?"`` with the known names nearest to `name`; if none is, all, except for a Hub id."""
    known = [*shipped_names(), *ALIASES, *ALIASES.values()]
    near = [other for other in difflib.get_close_matches(name[:200], known) if other != name]
    if near:
        return f"; did you mean {', '.join(map(repr, near))}?"
    return "" if "/" in name else f"; shipped: {', '.join(shipped_names())}; aliases: {', '.join(ALIASES)}"
