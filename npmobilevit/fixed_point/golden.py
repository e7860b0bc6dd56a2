"""Single layers of a network in fixed point: words in, words out, for the test bench of a circuit.

A layer is a convolution with its batch normalisation folded in (``MobileViTConvLayer`` without its activation), or a
linear one. Each runs on the words of what the float network puts into it, and on nothing that another fixed-point
layer made. What the files are is described in reference/fixed_point.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from npmobilevit.checkpoints import shown
from npmobilevit.engine import folding
from npmobilevit.errors import BundleError, ConfigError, ShapeError
from npmobilevit.files import write_atomically
from npmobilevit.fixed_point.formats import (
    Doubles,
    Integers,
    QFormat,
    Rounding,
    check_rounding,
    quantize,
    requantize,
)
from npmobilevit.fixed_point.layers import ACCUMULATOR_WIDTHS, WORD_WIDTHS, conv2d, linear
from npmobilevit.fixed_point.ranges import Range
from npmobilevit.models import PreTrainedModel
from npmobilevit.ops.arrays import Array, pair
from npmobilevit.scope import Scope
from npmobilevit.validation.bundles import PIXELS, Bundle, path_of
from npmobilevit.validation.exports import Layout, export, require_empty
from npmobilevit.validation.replay import blank_picture

FORMAT = "npmobilevit-fixed-point/1"
LAYERS = "layers.json"
RECORDED = "recorded"
CONVOLUTION = ".convolution"  # ends the name of the convolution in a convolution layer
NEAR = 0.9  # similarity of a name that may have been meant: all names of a block have much in common


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer, and what it is connected to.

    Attributes
    ----------
    name : str
        Of transformers' module: that of the convolution layer, not of the convolution in it.
    operation : {"conv2d", "linear"}
    inputs : tuple of str
        The tap that it reads, or those that are joined along the channels to its input.
    output : str
        The tap that it writes: the normalisation, where there is one.
    geometry : mapping
        Stride, padding and dilation of a convolution, (height, width) each, and its groups.
    """

    name: str
    operation: str
    inputs: tuple[str, ...]
    output: str
    geometry: Mapping[str, Any]


class Arithmetic(NamedTuple):
    """How layers are computed.

    Attributes
    ----------
    width : {8, 16}
        Bits of inputs, weights and outputs.
    accumulator : {32, 64}
    rounding : {"half-even", "half-up", "truncate"}
        From the accumulator to the output. What is rounded before the circuit runs, weights, biases and the inputs,
        is always rounded to nearest, halves to even.
    """

    width: int = 8
    accumulator: int = 32
    rounding: Rounding = "half-even"


class Vectors(NamedTuple):
    """A layer in words, with the format of each: what goes in, its parameters, and what has to come out.

    `shift` is what the accumulator is shifted to the right by; its steps are those of the input times those of the
    weight.
    """

    inputs: Mapping[str, Integers]
    weight: Integers
    bias: Integers
    output: Integers
    input_format: QFormat
    weight_format: QFormat
    bias_format: QFormat
    output_format: QFormat
    shift: int


Made: TypeAlias = Sequence[tuple[Layer, Vectors]]


def layer_names(network: PreTrainedModel) -> list[str]:
    """The layers of a network that can be had in fixed point, in the order of its parameters."""
    weights = [name.removesuffix(".weight") for name, x in network.parameters().items() if x.ndim > 1]
    return [name.removesuffix(CONVOLUTION) for name in weights]


def traced(network: PreTrainedModel, names: str | Collection[str]) -> list[Layer]:
    """Find what layers are connected to, by a forward pass over a small blank picture.

    Parameters
    ----------
    network : PreTrainedModel
    names : str or collection of str
        See :func:`layer_names`. "X.convolution" means the layer X that the convolution is in: taps and modules have
        this name.

    Returns
    -------
    list of Layer
        In the order of the forward pass.

    Raises
    ------
    ConfigError
        If there is no layer of a name, or its input is neither a tap nor made of taps.
    """
    weights = network.parameters()
    wanted = {
        name: name.removesuffix(CONVOLUTION) if f"{name}.weight" in weights else name
        for name in ([names] if isinstance(names, str) else names)
    }
    known = layer_names(network)
    unknown = sorted(name for name, layer in wanted.items() if layer not in known)
    if unknown or not wanted:
        near = difflib.get_close_matches(unknown[0].removesuffix(CONVOLUTION), known, cutoff=NEAR) if unknown else []
        advice = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ConfigError(
            f"the network has no convolution or linear layer {shown(unknown)}; {advice}"
            "`npmobilevit info --layers` lists them",
            "layer-unknown",
        )
    trace, blank = _Trace(network.scope(), set(wanted.values())), blank_picture(network)
    trace.listen(PIXELS, blank)
    with np.errstate(over="ignore", invalid="ignore"):  # of no consequence: the values are not looked at
        network.forward(trace.listening(), blank)
    return trace.layers


class _Trace:
    """Finds the layers of a forward pass: an array that an operator is given is known by its identity as a tap's.

    Parameters
    ----------
    scope : Scope
        The root of the network.
    names : collection of str
        The layers wanted.

    Attributes
    ----------
    layers : list of Layer
        Those found so far.
    """

    def __init__(self, scope: Scope, names: Collection[str]) -> None:
        self.layers: list[Layer] = []
        self._scope = scope
        self._names = names
        self._owners = {id(value): name.removesuffix(".weight") for name, value in scope.weights.items()}
        self._taps: dict[int, tuple[str, ...]] = {}
        self._held: list[Array] = []  # so that no array of the pass takes the place, and the id, of another

    def listening(self) -> Scope:
        """The scope to run the network in."""
        ops = self._scope.ops._replace(conv2d=self._conv2d, linear=self._linear, concat_channels=self._join)
        return dataclasses.replace(self._scope, tap=self.listen, ops=ops)

    def listen(self, name: str, x: Array) -> None:
        """Take note of a tap; of several names for one array the last holds, which is that of the block."""
        self._held.append(x)
        self._taps[id(x)] = (name,)

    def _join(self, parts: Sequence[Array]) -> Array:
        joined = self._scope.ops.concat_channels(parts)
        self._held.append(joined)
        if all(id(part) in self._taps for part in parts):
            self._taps[id(joined)] = tuple(name for part in parts for name in self._taps[id(part)])
        return joined

    def _conv2d(self, x: Array, *, weight: Array, groups: int, **geometry: Any) -> Array:
        pairs = {key: pair(key, geometry[key], minimum=0) for key in ("stride", "padding", "dilation")}
        self._note("conv2d", x, weight, {**pairs, "groups": groups})
        return self._scope.ops.conv2d(x, weight=weight, groups=groups, **geometry)

    def _linear(self, x: Array, *, weight: Array, **bias: Array) -> Array:
        self._note("linear", x, weight, {})
        return self._scope.ops.linear(x, weight=weight, **bias)

    def _note(self, operation: str, x: Array, weight: Array, geometry: Mapping[str, Any]) -> None:
        """Take note of a layer, if it is wanted."""
        owner = self._owners[id(weight)]
        name = owner.removesuffix(CONVOLUTION)
        if name not in self._names:
            return
        if id(x) not in self._taps:
            raise ConfigError(
                f"the input of {name} is neither a tap nor taps joined along the channels, so that there is no "
                "recording of it; name other layers",
                "layer-input",
            )
        norm = f"{name}.normalization"
        output = norm if f"{norm}.weight" in self._scope.weights else owner
        self.layers.append(Layer(name, operation, self._taps[id(x)], output, geometry))


def recorded_formats(layers: Sequence[Layer], ranges: Mapping[str, Range], width: int) -> dict[str, QFormat]:
    """The format of every tap that has a range: that which holds it, or the coarsest of those that are joined.

    Parameters
    ----------
    layers : sequence of Layer
        Which taps are joined.
    ranges : mapping of str to Range
    width : {8, 16}

    Returns
    -------
    dict of str to QFormat

    Raises
    ------
    ConfigError
        If the width is unknown, or the input of a layer has no range.
    """
    _require("range", ranges, [name for layer in layers for name in layer.inputs])
    formats = {name: QFormat.holding(width, found.minimum, found.maximum) for name, found in ranges.items()}
    while True:
        before = dict(formats)
        for layer in layers:
            coarsest = min((formats[name] for name in layer.inputs), key=lambda format: format.fraction)
            formats |= dict.fromkeys(layer.inputs, coarsest)
        if formats == before:  # a tap may be joined in two places
            return formats


def quantized(bundle: Bundle, formats: Mapping[str, QFormat]) -> tuple[Bundle, dict[str, float]]:
    """A recording in words.

    Parameters
    ----------
    bundle : Bundle
    formats : mapping of str to QFormat
        Of every tap.

    Returns
    -------
    Bundle
    dict of str to float
        The scale of each tap, for :func:`npmobilevit.validation.export`.

    Raises
    ------
    ConfigError
        If a tap has no format.
    ShapeError
        If a tap is no array of floats, or not finite.
    """
    _require("format", formats, bundle)
    words = {name: quantize(array, formats[name]) for name, array in bundle.items()}
    return Bundle(words, bundle.facts, {}, {}), {name: formats[name].step for name in words}


def vectors(
    network: PreTrainedModel,
    layer: Layer,
    recorded: Mapping[str, Array],
    formats: Mapping[str, QFormat],
    output_range: Range,
    arithmetic: Arithmetic,
) -> Vectors:
    """Compute a layer in fixed point on a recorded input.

    Parameters
    ----------
    network : PreTrainedModel
    layer : Layer
    recorded : mapping of str to array
        The layer's inputs, as the float network makes them.
    formats : mapping of str to QFormat
        Theirs: see :func:`recorded_formats`.
    output_range : Range
        Of the layer's output, which its format has to hold.
    arithmetic : Arithmetic

    Returns
    -------
    Vectors

    Raises
    ------
    ConfigError
        If the arithmetic is none, or an input of the layer is not recorded or has no format.
    ShapeError
        If the accumulator could overflow; the message names the layer.
    """
    check_arithmetic(arithmetic)
    _require("recording", recorded, layer.inputs)
    _require("format", formats, layer.inputs)
    width, accumulator, rounding = arithmetic
    weights = network.parameters()
    find = folding.convolution if layer.operation == "conv2d" else folding.linear
    weight, bias = find(weights, layer.name)
    inputs = {name: quantize(recorded[name], formats[name]) for name in layer.inputs}
    input_format = formats[layer.inputs[0]]
    weight_format = QFormat.holding(width, float(weight.min()), float(weight.max()))
    bias_format = QFormat(accumulator, input_format.fraction + weight_format.fraction)
    output_format = QFormat.holding(width, output_range.minimum, output_range.maximum)
    words = quantize(weight, weight_format)
    x = np.concatenate(list(inputs.values()), axis=1) if len(inputs) > 1 else inputs[layer.inputs[0]]
    shift = bias_format.fraction - output_format.fraction
    try:
        shifts = _bias_words(bias, bias_format)
        if layer.operation == "conv2d":
            sums = conv2d(x, weight=words, bias=shifts, accumulator=accumulator, **layer.geometry)
        else:
            sums = linear(x, weight=words, bias=shifts, accumulator=accumulator)
    except ShapeError as error:
        raise ShapeError(f"{layer.name}: {error}", error.code) from error
    output = requantize(sums, shift=shift, width=width, rounding=rounding)
    return Vectors(inputs, words, shifts, output, input_format, weight_format, bias_format, output_format, shift)


def _bias_words(bias: Doubles, format: QFormat) -> Integers:
    """Words of the accumulator; no bias may saturate, for nobody would see it."""
    if bias.size and (bias.max() > format.largest or bias.min() < format.smallest):
        raise ShapeError(
            f"the bias reaches {np.abs(bias).max():.4g}, beyond {format.largest:.4g} of an accumulator of "
            f"{format.width} bits with {format.fraction} behind the point; take a wider accumulator or narrower words",
            "accumulator-overflow",
        )
    return quantize(bias, format)


def export_layers(
    network: PreTrainedModel,
    layers: Sequence[Layer],
    recorded: Bundle,
    ranges: Mapping[str, Range],
    folder: str | os.PathLike[str],
    *,
    arithmetic: Arithmetic,
    layout: Layout = "NCHW",
    force: bool = False,
) -> list[Path]:
    """Write the test vectors of some layers: memory files for ``$readmemh``, and what describes them.

    Parameters
    ----------
    network : PreTrainedModel
    layers : sequence of Layer
        From :func:`traced`.
    recorded : Bundle
        One input of the network, with "pixel_values", the inputs of all layers and whatever else is to be written.
    ranges : mapping of str to Range
        Of all taps of `recorded` and all outputs of the layers, over as many pictures as there are.
    folder : path
        Made if need be. "recorded" in it has the recorded taps; it has itself what the layers have to make of them,
        and their parameters; "layers.json" tells which is which.
    arithmetic : Arithmetic
    layout : {"NCHW", "NHWC"}
        Of maps; kernels are "OIHW" or "OHWI".
    force : bool
        Write into a folder that is not empty.

    Returns
    -------
    list of Path

    Raises
    ------
    ConfigError
        If an option is none of the above, or a range or a recording is lacking.
    ShapeError
        If the accumulator of a layer could overflow.
    BundleError
        If a file cannot be written.
    """
    check_arithmetic(arithmetic)
    target = path_of(folder)
    require_empty(target, force=force)
    formats = recorded_formats(layers, ranges, arithmetic.width)
    words, scales = quantized(recorded, formats)
    _require("range", ranges, [layer.output for layer in layers])
    made = [(layer, vectors(network, layer, recorded, formats, ranges[layer.output], arithmetic)) for layer in layers]
    written = export(words, target / RECORDED, form="mem", layout=layout, scales=scales, force=force)
    _write_description(target, made, arithmetic)
    return [*written, target / LAYERS, *_export_made(made, recorded.facts, target, layout)]


def _require(what: str, held: Collection[str], names: Iterable[str]) -> None:
    """Raise ConfigError unless all names are among those that are held."""
    lacking = [name for name in names if name not in held]
    if lacking:
        raise ConfigError(f"there is no {what} of {shown(lacking)}", "tap-missing")


def _write_description(target: Path, made: Made, arithmetic: Arithmetic) -> None:
    entries = {layer.name: _described(layer, found) for layer, found in made}
    document = {"format": FORMAT, **arithmetic._asdict(), "layers": entries}
    try:
        write_atomically(target / LAYERS, f"{json.dumps(document, indent=1)}\n".encode())
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error}", "bundle-unwritable") from error


def _export_made(made: Made, facts: Mapping[str, Any], target: Path, layout: Layout) -> list[Path]:
    """Write the parameters of the layers, and what they have to make of the recording."""
    outputs = {layer.output: found.output for layer, found in made}
    scales = {layer.output: found.output_format.step for layer, found in made}
    parameters: dict[str, Integers] = {}
    for layer, found in made:
        weight, bias = _parameters_of(layer)
        parameters |= {weight: found.weight, bias: found.bias}
        scales |= {weight: found.weight_format.step, bias: found.bias_format.step}
    bundle = Bundle(outputs, facts, {}, {})
    return export(bundle, target, form="mem", layout=layout, scales=scales, parameters=parameters, force=True)


def _parameters_of(layer: Layer) -> tuple[str, str]:
    return f"{layer.name}.weight", f"{layer.name}.bias"


def check_arithmetic(arithmetic: Arithmetic) -> None:
    """Raise ConfigError unless all is one of what there is."""
    check_rounding(arithmetic.rounding)
    if type(arithmetic.width) is not int or arithmetic.width not in WORD_WIDTHS:
        raise ConfigError(f"width must be 8 or 16, found {arithmetic.width!r}", "width")
    if type(arithmetic.accumulator) is not int or arithmetic.accumulator not in ACCUMULATOR_WIDTHS:
        raise ConfigError(f"accumulator must be 32 or 64, found {arithmetic.accumulator!r}", "accumulator")


def _described(layer: Layer, found: Vectors) -> dict[str, Any]:
    weight, bias = _parameters_of(layer)
    return {
        "operation": layer.operation,
        "inputs": list(layer.inputs),
        "weight": weight,
        "bias": bias,
        "output": layer.output,
        **layer.geometry,
        "formats": {
            "input": str(found.input_format),
            "weight": str(found.weight_format),
            "bias": str(found.bias_format),
            "output": str(found.output_format),
        },
        "shift": found.shift,
    }
