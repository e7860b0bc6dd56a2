"""From a picture to its labels: load a checkpoint, prepare the picture, run the network, name the classes."""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from npmobilevit import checkpoints, ops
from npmobilevit.config import MobileViTConfig
from npmobilevit.errors import CheckpointError, ConfigError, ModelFallbackWarning
from npmobilevit.image_processing import MobileViTImageProcessor
from npmobilevit.images import ImageSource, to_rgb
from npmobilevit.models import (
    MobileViTForImageClassification,
    MobileViTForSemanticSegmentation,
    MobileViTModel,
    PreTrainedModel,
)

MODEL_VARIABLE = "NPMOBILEVIT_MODEL"
DEFAULT_MODEL = "apple/mobilevit-xx-small"
SHIPPED_MODEL = "cifar10-xx-small"

# With these the default model is out of reach, and no fault of the checkpoint: the shipped one takes its place.
OUT_OF_REACH = ("hub-unreachable", "hub-offline", "hub-not-installed")

ARCHITECTURES: Mapping[str, type[PreTrainedModel]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (MobileViTForImageClassification, MobileViTForSemanticSegmentation, MobileViTModel)
    }
)


class Prediction(NamedTuple):
    """One class that a picture may belong to.

    Attributes
    ----------
    label : str
    score : float
        In 0..1.
    index : int
        Position of the class among the logits.
    """

    label: str
    score: float
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class Pipeline:
    """A checkpoint ready for use: :func:`load` makes it. It can be pickled.

    Attributes
    ----------
    name : str
        Name of the checkpoint in use.
    network : MobileViTForImageClassification, MobileViTForSemanticSegmentation or MobileViTModel
    processor : MobileViTImageProcessor
    revision : str or None
        Commit on the Hub that the checkpoint comes from.
    """

    def __init__(
        self, name: str, network: PreTrainedModel, processor: MobileViTImageProcessor, revision: str | None = None
    ) -> None:
        self.name = name
        self.network = network
        self.processor = processor
        self.revision = revision

    @property
    def config(self) -> MobileViTConfig:
        """The network's configuration."""
        return self.network.config

    def __repr__(self) -> str:
        kind = type(self.network).__name__
        return f"<Pipeline {self.name}: {kind}, {self.config.num_labels} labels, {self.network.precision}>"

    def pixel_values(self, image: ImageSource) -> NDArray[np.float32]:
        """Prepare one picture for the network.

        Parameters
        ----------
        image
            See :func:`predict`.

        Returns
        -------
        (1, C, H, W) float32 array
        """
        # the layout is named because a picture three pixels high could be taken for channels first
        prepared = self.processor.preprocess(to_rgb(image), input_data_format="channels_last")
        pixel_values: NDArray[np.float32] = prepared["pixel_values"]
        return pixel_values

    def require_classifier(self) -> None:
        """Raise ConfigError unless the network is a classifier of RGB pictures with at least one label."""
        config = self.config
        if not isinstance(self.network, MobileViTForImageClassification) or not config.num_labels:
            raise ConfigError(
                f"{self.name} is no classifier ({type(self.network).__name__}, {config.num_labels} labels); "
                "load a classification checkpoint",
                "not-a-classifier",
            )
        if config.num_channels != 3:
            raise ConfigError(
                f"{self.name} takes {config.num_channels} channels, and pictures have three; call its network",
                "not-a-classifier",
            )

    def predict(self, image: Any, *, top_k: int = 5) -> Any:
        """Name what a picture shows; see :func:`predict`."""
        if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
            raise ConfigError(f"top_k must be an integer of at least 1, found {top_k!r}", "top-k")
        self.require_classifier()
        if isinstance(image, list | tuple):
            # one at a time: a result does not depend on its neighbours, and memory stays flat
            return [self._predict_one(item, top_k) for item in image]
        return self._predict_one(image, top_k)

    def _predict_one(self, image: ImageSource, top_k: int) -> list[Prediction]:
        scores = class_scores(self.network(self.pixel_values(image)).logits[0], self.config)
        best = np.argsort(-scores, kind="stable")[:top_k]  # stable: of equal scores the lower index comes first
        return [Prediction(self.config.id2label[int(i)], float(scores[i]), int(i)) for i in best]


def class_scores(logits: NDArray[Any], config: MobileViTConfig) -> NDArray[Any]:
    """Turn logits (num_labels,) into scores in 0..1, as transformers' image-classification pipeline chooses.

    Sigmoid for one label and for several independent labels, else softmax.
    """
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return ops.sigmoid(logits)
    return ops.softmax(logits)


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    precision: str = "float32",
    engine: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    force_download: bool = False,
) -> Pipeline:
    """Load a checkpoint.

    Parameters
    ----------
    model : str or path, optional
        A shipped name ("cifar10-xx-small"), an alias ("xx-small", "x-small", "small", "deeplabv3-xx-small", ...),
        a Hub id ("apple/mobilevit-small") or a local folder with config.json and model.safetensors.
        None: the environment variable NPMOBILEVIT_MODEL, else apple/mobilevit-xx-small from the cache or the Hub.
        If that is not cached and the Hub does not answer within 5 s or offline mode is set, the shipped
        checkpoint with a ModelFallbackWarning.
    precision : {"float32", "float64"}
    engine : {"reference"}, optional
        The only one so far, and the default.
    revision : str, optional
        Branch, tag or commit on the Hub.
    cache_dir : str or path, optional
        The Hub cache to use.
    local_files_only : bool
        Never ask the Hub.
    token : str or bool, optional
        Hub access token; True for the stored one.
    force_download : bool
        Download even what is cached.

    Returns
    -------
    Pipeline

    Raises
    ------
    CheckpointError
        If there is no such checkpoint, or it cannot be reached.
    ConfigError, WeightsError
        If its files are damaged or do not belong together, or `precision` or `engine` is unknown.

    Examples
    --------
    >>> load("cifar10-xx-small").config.num_labels
    10
    """
    arguments: checkpoints.HubArguments = {
        "revision": revision,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "token": token,
        "force_download": force_download,
    }
    name = _default_name() if model is None else model
    checkpoint = _find_default(arguments) if name is None else checkpoints.find_checkpoint(name, **arguments)
    settings = checkpoints.load_config_dict(checkpoint)
    weights = checkpoints.load_weights(checkpoint)
    kind = _architecture(settings, weights)
    options: dict[str, Any] = {"precision": precision, "engine": "reference" if engine is None else engine}
    if kind is MobileViTModel:
        options["expand_output"] = any(name.startswith("conv_1x1_exp.") for name in weights)
    network = kind(MobileViTConfig.from_dict(settings), weights, **options)
    return Pipeline(checkpoint.name, network, _processor(checkpoint), checkpoint.revision)


def _default_name() -> str | None:
    """The default model that the environment names; None if it names none."""
    return os.environ.get(MODEL_VARIABLE) or None


def _processor(checkpoint: checkpoints.Checkpoint) -> MobileViTImageProcessor:
    settings = checkpoints.load_processor_dict(checkpoint)
    if settings is None:  # the defaults would prepare pictures in a way that the network was not trained for
        raise CheckpointError(
            f"{checkpoint.name} has no {checkpoints.PROCESSOR}, which says how pictures are prepared; write one with "
            "MobileViTImageProcessor(...).save_pretrained(folder)",
            "checkpoint-no-processor",
        )
    return MobileViTImageProcessor.from_dict(settings)


def _find_default(arguments: checkpoints.HubArguments) -> checkpoints.Checkpoint:
    """The default checkpoint, or the shipped one where that is out of reach."""
    try:
        return checkpoints.find_checkpoint(DEFAULT_MODEL, **arguments)
    except CheckpointError as error:
        if error.code not in OUT_OF_REACH:
            raise
        warnings.warn(
            f"{DEFAULT_MODEL} is out of reach ({error}); using {SHIPPED_MODEL} in its place, which knows ten classes. "
            f"Name a model, or set {MODEL_VARIABLE}, to be rid of this warning",
            ModelFallbackWarning,
            stacklevel=3,
        )
        return checkpoints.find_checkpoint(SHIPPED_MODEL)


def _architecture(settings: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> type[PreTrainedModel]:
    """The class that a checkpoint was saved from: as its config says, or else by the head among its weights."""
    named = settings.get("architectures")
    for name in named if isinstance(named, list) else []:
        if isinstance(name, str) and name in ARCHITECTURES:
            return ARCHITECTURES[name]
    if any(name.startswith("segmentation_head.") for name in weights):
        return MobileViTForSemanticSegmentation
    if any(name.startswith("mobilevit.") for name in weights):
        return MobileViTForImageClassification
    return MobileViTModel


@functools.lru_cache(maxsize=8)
def _loaded_once(name: str | Path | None) -> Pipeline:
    return load(name)


_LOADING = threading.Lock()  # lru_cache alone would let several threads load the same name


def as_pipeline(model: Pipeline | str | os.PathLike[str] | None) -> Pipeline:
    """Return `model` if it is a pipeline, else the checkpoint of that name, which is loaded once per process."""
    if isinstance(model, Pipeline):
        return model
    name = _default_name() if model is None else model
    folder = None if name is None else checkpoints.local_folder(name)
    if folder is not None:
        name = folder.absolute()  # of the working directory as it is now
    with _LOADING:
        return _loaded_once(name if name is None or isinstance(name, Path) else os.fspath(name))


@overload
def predict(
    image: list[Any] | tuple[Any, ...], model: Pipeline | str | os.PathLike[str] | None = None, *, top_k: int = 5
) -> list[list[Prediction]]: ...


@overload
def predict(
    image: ImageSource, model: Pipeline | str | os.PathLike[str] | None = None, *, top_k: int = 5
) -> list[Prediction]: ...


def predict(image: Any, model: Pipeline | str | os.PathLike[str] | None = None, *, top_k: int = 5) -> Any:
    """Name what a picture shows.

    Parameters
    ----------
    image : path, bytes, file object, PIL image or array, or a list of these
        Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, or floats in 0..1.
    model : Pipeline, str or path, optional
        A loaded pipeline, or what :func:`load` takes; a name is loaded once per process.
    top_k : int
        How many classes to return; all if there are fewer.

    Returns
    -------
    list of Prediction
        ``(label, score, index)``, best first; equal scores by index. For a list of images a list of such lists.

    Raises
    ------
    ImageError
        If a picture cannot be used.
    ConfigError
        If `top_k` is below 1 or the model is no classifier.
    CheckpointError, WeightsError
        If the model cannot be loaded.

    Examples
    --------
    >>> best = predict("reference/images/chelsea.png", "cifar10-xx-small")[0]
    >>> best.label
    'cat'
    """
    return as_pipeline(model).predict(image, top_k=top_k)
