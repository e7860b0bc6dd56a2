"""MobileViT in plain NumPy: image classification and segmentation, and the reference that ports are checked against.

>>> import npmobilevit as nm
>>> nm.predict("reference/images/chelsea.png", "cifar10-xx-small")[0].label
'cat'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from npmobilevit import ops
from npmobilevit.config import MobileViTConfig
from npmobilevit.errors import (
    BundleError,
    CheckpointError,
    ConfigError,
    ImageError,
    ModelFallbackWarning,
    NpMobileViTError,
    ShapeError,
    WeightsError,
)
from npmobilevit.models import MobileViTForImageClassification, MobileViTForSemanticSegmentation, MobileViTModel

if TYPE_CHECKING:
    from npmobilevit.explanation import Page, explain
    from npmobilevit.image_processing import MobileViTFeatureExtractor, MobileViTImageProcessor
    from npmobilevit.pipeline import Pipeline, load, predict, segment
    from npmobilevit.results import Prediction, Predictions, Segmentation, SegmentedClass

__all__ = [
    "BundleError",
    "CheckpointError",
    "ConfigError",
    "ImageError",
    "MobileViTConfig",
    "MobileViTFeatureExtractor",
    "MobileViTForImageClassification",
    "MobileViTForSemanticSegmentation",
    "MobileViTImageProcessor",
    "MobileViTModel",
    "ModelFallbackWarning",
    "NpMobileViTError",
    "Page",
    "Pipeline",
    "Prediction",
    "Predictions",
    "Segmentation",
    "SegmentedClass",
    "ShapeError",
    "WeightsError",
    "explain",
    "load",
    "ops",
    "predict",
    "segment",
]

# Modules that import more than NumPy and the standard library; they are imported at the first use of a name.
_LAZY = {
    "MobileViTFeatureExtractor": "image_processing",
    "MobileViTImageProcessor": "image_processing",
    "Page": "explanation",
    "Pipeline": "pipeline",
    "Prediction": "results",
    "Predictions": "results",
    "Segmentation": "results",
    "SegmentedClass": "results",
    "explain": "explanation",
    "load": "pipeline",
    "predict": "pipeline",
    "segment": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # a tenth of the time that importing the package takes

        return version("npmobilevit")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
