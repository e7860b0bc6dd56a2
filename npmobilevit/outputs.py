"""What a model call returns: the fields of transformers' output classes as attributes and as keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from npmobilevit.ops.arrays import Array


@dataclasses.dataclass(frozen=True, eq=False)
class ModelOutput:
    """Base of the outputs. Every field is an attribute; those that are not None are keys, in order.

    An integer index or a slice takes from the tuple of the fields that are not None.
    """

    def keys(self) -> tuple[str, ...]:
        """Names of the fields that are not None."""
        return tuple(f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None: what a call with ``return_dict=False`` returns."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"{key!r}; there are {', '.join(self.keys())}")
            return getattr(self, key)
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())


@dataclasses.dataclass(frozen=True, eq=False)
class BaseModelOutputWithPoolingAndNoAttention(ModelOutput):
    """Output of ``MobileViTModel``.

    Attributes
    ----------
    last_hidden_state : (N, C, H', W') array
    pooler_output : (N, C) array or None
    hidden_states : tuple of 5 arrays or None
        Outputs of the encoder layers; neither the stem nor the last 1x1 convolution is among them.
    """

    last_hidden_state: Array
    pooler_output: Array | None = None
    hidden_states: tuple[Array, ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ImageClassifierOutputWithNoAttention(ModelOutput):
    """Output of ``MobileViTForImageClassification``.

    Attributes
    ----------
    loss : float or None
    logits : (N, num_labels) array
    hidden_states : tuple of 5 arrays or None
    """

    loss: float | None
    logits: Array
    hidden_states: tuple[Array, ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class SemanticSegmenterOutput(ModelOutput):
    """Output of ``MobileViTForSemanticSegmentation``.

    Attributes
    ----------
    loss : float or None
    logits : (N, num_labels, H/output_stride, W/output_stride) array
    hidden_states : tuple of 5 arrays or None
    attentions : None
        transformers has the field and never fills it.
    """

    loss: float | None
    logits: Array
    hidden_states: tuple[Array, ...] | None = None
    attentions: None = None
