"""The arithmetics in which the network can be computed: what the argument `precision` names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from npmobilevit.ops import bitexact
from npmobilevit.scope import OpTable


class Arithmetic(NamedTuple):
    """A way to compute: the dtype of all values, and the operators."""

    dtype: np.dtype[Any]
    ops: OpTable = OpTable()


BITEXACT = OpTable(
    conv2d=bitexact.conv2d,
    linear=bitexact.linear,
    layer_norm=bitexact.layer_norm,
    attention_scores=bitexact.attention_scores,
    softmax=bitexact.softmax,
    attend=bitexact.attend,
    global_avg_pool=bitexact.global_avg_pool,
    activations=bitexact.ACTIVATIONS,
)

PRECISIONS: Mapping[str, Arithmetic] = MappingProxyType(
    {
        "float32": Arithmetic(np.dtype(np.float32)),
        "float64": Arithmetic(np.dtype(np.float64)),
        "bitexact": Arithmetic(np.dtype(np.float64), BITEXACT),
    }
)
