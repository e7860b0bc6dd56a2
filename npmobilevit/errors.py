"""The exceptions that mistaken or hostile input ends in.

::

    Exception
    └── NpMobileViTError            catch this one to catch them all
        ├── ImageError              (ValueError)  a picture or pixel array that cannot be used
        ├── ConfigError             (ValueError)  a config, processor setting or option out of its range
        ├── WeightsError            (ValueError)  weights that do not belong to the config, or a damaged file
        ├── ShapeError              (ValueError)  an array of the wrong shape, dtype or range given to an operator
        ├── BundleError             (ValueError)  a bundle of recorded tensors that cannot be used
        └── CheckpointError         (OSError)     a checkpoint that cannot be found, reached or read

Each message says what was being done, what was found, what is allowed and what to do. ``code`` is a short
name of the cause that stays the same when the wording changes.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CheckpointError",
    "ConfigError",
    "ImageError",
    "ModelFallbackWarning",
    "NpMobileViTError",
    "ShapeError",
    "WeightsError",
]


class NpMobileViTError(Exception):
    """Base of all errors that npmobilevit raises on purpose.

    Parameters
    ----------
    message : str
        What happened, what is allowed, what to do.
    code : str
        Stable name of the cause, for example ``"image-truncated"``.
    """

    def __init__(self, message: str, code: str = "unknown") -> None:
        super().__init__(message)
        self.code = code


class ImageError(NpMobileViTError, ValueError):
    """A picture or pixel array that cannot be used."""


class ConfigError(NpMobileViTError, ValueError):
    """A configuration value, processor setting or option outside its range."""


class WeightsError(NpMobileViTError, ValueError):
    """Weights that do not belong to the configuration, or a damaged weights file."""


class ShapeError(NpMobileViTError, ValueError):
    """An array of the wrong shape, dtype or range given to an operator or a model."""


class BundleError(NpMobileViTError, ValueError):
    """A bundle of recorded tensors that cannot be used."""


class CheckpointError(NpMobileViTError, OSError):
    """A checkpoint that cannot be found, reached or read."""


class ModelFallbackWarning(UserWarning):
    """The default model could not be had, and the shipped one is used in its place."""
