"""Fixed point, for those who build circuits: number formats, ranges of taps, and layers whose every bit is right.

``QFormat`` is a format Qm.n, ``quantize`` and ``requantize`` round to it; ``conv2d`` and ``linear`` work on its words.
``Range`` counts which values a tap takes, and ``export_layers`` writes test vectors. The formulas and the files:
reference/fixed_point.md of the project.
"""

from npmobilevit.fixed_point.formats import ROUNDINGS, QFormat, Rounding, dequantize, quantize, requantize
from npmobilevit.fixed_point.golden import (
    Arithmetic,
    Layer,
    Vectors,
    export_layers,
    layer_names,
    quantized,
    recorded_formats,
    traced,
    vectors,
)
from npmobilevit.fixed_point.layers import check_accumulator, conv2d, linear
from npmobilevit.fixed_point.ranges import Range, merged, tap_names, tap_ranges

__all__ = [
    "ROUNDINGS",
    "Arithmetic",
    "Layer",
    "QFormat",
    "Range",
    "Rounding",
    "Vectors",
    "check_accumulator",
    "conv2d",
    "dequantize",
    "export_layers",
    "layer_names",
    "linear",
    "merged",
    "quantize",
    "quantized",
    "recorded_formats",
    "requantize",
    "tap_names",
    "tap_ranges",
    "traced",
    "vectors",
]
