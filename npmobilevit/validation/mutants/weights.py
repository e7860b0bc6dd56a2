"""Mistakes in the weights: the rows WGT."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from npmobilevit.config import MobileViTConfig, expected_parameters
from npmobilevit.ops.arrays import Array
from npmobilevit.scope import Scope
from npmobilevit.validation.lazy import Lazy
from npmobilevit.validation.mutants.changes import Change, moved, raw
from npmobilevit.validation.mutants.mutant import Mutant, Site, changes
from npmobilevit.validation.mutants.places import ATTENTION, LAYER_NORM, PROJECTION, TOKEN_LAYER

HEADS = r"classifier|segmentation_head\.classifier\.convolution"


def parameters_of(s: Scope, node: str) -> dict[str, Any]:
    """The parameters of another node, by leaf name."""
    return Scope(s.weights, node).params()


def revalued(x: Any, change: Callable[[Array], Array]) -> Any:
    """Other numbers with the same errors."""
    return dataclasses.replace(x, value=change(x.value)) if hasattr(x, "value") else change(x)


def with_features(where: str, count: Callable[[int], int], axis: int = 0) -> Change:
    """Parameters of another number of output (axis 0) or input features (axis 1): the checkpoint's, again and again."""

    def repeat(s: Scope, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        def stretched(x: Array) -> Array:
            return np.take(x, range(count(x.shape[axis])), axis, mode="wrap")

        return {leaf: moved(x, stretched) if len(x.shape) > axis else x for leaf, x in parameters.items()}

    return Change("parameters", where, repeat)


def without_bias(where: str) -> Change:
    """The bias left out."""

    def drop(s: Scope, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return {leaf: value for leaf, value in parameters.items() if leaf != "bias"}

    return Change("parameters", where, drop)


def reread_as_transposed(where: str) -> Change:
    """The numbers of a matrix (out, in) taken for one of (in, out); of a square one that is its transpose."""

    def transpose(s: Scope, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**parameters, "weight": moved(parameters["weight"], lambda a: a.reshape(a.shape[::-1]).T)}

    return Change("parameters", where, transpose)


def exchanged(where: str, first: str, second: str) -> Change:
    """Two parameters of a node swapped."""

    def swap(s: Scope, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**parameters, first: parameters[second], second: parameters[first]}

    return Change("parameters", where, swap)


def swap_key_and_value(s: Scope, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    parent, _, name = s.name.rpartition(".")
    return parameters_of(s, f"{parent}.{'value' if name == 'key' else 'key'}")


# Layers --------------------------------------------------------------------------------------------------------------

# All with parameters in a layer that is one of several of the same shapes
REPEATED = rf"(?:{TOKEN_LAYER}|encoder\.layer\.1\.layer\.[12])\..*"
INDEX = re.compile(r"(.*\.layer\.)(\d+)(\..*)")  # of the innermost layer


def load_shifted(offset: int) -> tuple[Change, ...]:
    """Each layer has the parameters of the layer so many behind it, if there is one with the same shapes."""

    def of_another(s: Scope, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        found = INDEX.fullmatch(s.name)
        assert found is not None  # by REPEATED
        before, index, behind = found.groups()
        others = parameters_of(s, f"{before}{int(index) + offset}{behind}")
        alike = {k: v.shape for k, v in others.items()} == {k: v.shape for k, v in parameters.items()}
        return others if alike else parameters

    return (Change("parameters", REPEATED, of_another),)


class Loaded(NamedTuple):
    """A node, and the one whose parameters it has."""

    node: str
    source: str

    def __str__(self) -> str:
        return self.source


LEAF = re.compile(r"(\.convolution|\.normalization)?\.(weight|bias|running_mean|running_var)")


def load_from(loaded: Loaded) -> tuple[Change, ...]:
    """One node, or convolution and normalisation of one layer, with the parameters of another."""

    def of_another(s: Scope, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        prefix, _, behind = s.name.partition(loaded.node)
        return parameters_of(s, f"{prefix}{loaded.source}{behind}")

    return (Change("parameters", rf"{re.escape(loaded.node)}(\.convolution|\.normalization)?", of_another),)


def of_the_same_shapes(site: Site) -> Iterable[Loaded]:
    """All nodes whose parameters would fit, those of the same name first."""
    call = next((call for call in site.result.calls() if call.op in HAVE_PARAMETERS), None)
    if call is None:
        return []
    shapes = _shapes(site.config)
    here = call.node.removeprefix("mobilevit.")
    names = [name for name in shapes if name != here and shapes[name] == shapes.get(here)]
    leaf = here.rpartition(".")[2]
    names.sort(key=lambda name: name.rpartition(".")[2] != leaf)
    return [Loaded(here, name) for name in names]


HAVE_PARAMETERS = ("conv2d", "batch_norm", "layer_norm", "linear")


def _shapes(config: MobileViTConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """For each node or layer of any head the shapes of its parameters."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for head in ("classification", "segmentation"):
        for name, shape in expected_parameters(config, head=head).items():
            leaf = LEAF.search(name)
            assert leaf is not None
            found.setdefault(name[: leaf.start()].removeprefix("mobilevit."), {})[leaf.group()] = shape
    return found


# Bits ----------------------------------------------------------------------------------------------------------------

Number: TypeAlias = Literal["float32", "float16"]
BITS: Mapping[Number, tuple[int, Any]] = {"float32": (32, np.uint32), "float16": (16, np.uint16)}

# An output channel with fewer elements cannot tell one weight from another.
FEWEST = 8

# A channel stands out if it differs so many times as much, in the mean square, as the others do.
STANDS_OUT = 1e4


class Flip(NamedTuple):
    """One bit of one stored number, counted from the lowest."""

    node: str
    leaf: str
    place: tuple[int, ...]
    number: Number
    bit: int

    def __str__(self) -> str:
        return f"bit {self.bit} of {self.leaf}[{', '.join(map(str, self.place))}] as {self.number}"


def flips_of(value: float, number: Number) -> Array:
    """A number with each of its bits flipped, from the lowest on. (bits,)"""
    bits, unsigned = BITS[number]
    stored = np.full(bits, value, number).view(unsigned)
    flipped = (stored ^ (1 << np.arange(bits)).astype(unsigned)).view(number)
    return np.asarray(flipped, np.float64)


def flip(flip: Flip) -> tuple[Change, ...]:
    """A parameter with one bit flipped."""

    def changed(a: Array) -> Array:
        a = a.copy()
        a[flip.place] = flips_of(float(a[flip.place]), flip.number)[flip.bit]
        return a

    def parameters(s: Scope, own: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**own, flip.leaf: revalued(own[flip.leaf], changed)}

    return (Change("parameters", re.escape(flip.node), parameters),)


def itself(value: Any) -> Any:
    return value


class Lever(NamedTuple):
    """A parameter that moves one output channel: by `effect` times what ``of(value)`` changes by.

    `effect` has one number for each element of the channel.
    """

    node: str
    leaf: str
    place: tuple[int, ...]
    value: float
    effect: Array
    of: Callable[[Any], Any] = itself


def levers(result: Any, channel: int, scale: float = 1.0) -> Iterator[Lever]:
    """The parameters that move an output channel, of the last operation and of those whose results only get scaled or
    added to."""
    if not isinstance(result, Lazy):
        return
    if result.op == "add":
        for argument in result.arguments:
            yield from levers(argument, channel, scale)
    if result.op not in HAVE_PARAMETERS:
        return
    node = result.node.removeprefix("mobilevit.")
    x = raw(result.arguments[0])
    settings = {name: raw(v) if hasattr(v, "shape") else v for name, v in result.keywords.items()}
    of_op = {"conv2d": _of_conv2d, "linear": _of_linear, "batch_norm": _of_batch_norm, "layer_norm": _of_layer_norm}
    for lever in of_op[result.op](node, x, settings, channel):
        yield lever._replace(effect=scale * lever.effect.ravel())
    if result.op == "batch_norm":
        slope = settings["weight"][channel] / np.sqrt(settings["running_var"][channel] + settings.get("eps", 1e-5))
        yield from levers(result.arguments[0], channel, scale * float(slope))


def _of_conv2d(node: str, x: Array, settings: Mapping[str, Any], channel: int) -> Iterator[Lever]:
    node, weight = f"{node}.convolution", settings["weight"]
    stride, padding, dilation = settings["stride"], settings["padding"], settings["dilation"]
    first = channel // (weight.shape[0] // settings["groups"]) * weight.shape[1]  # input channel of the group
    x = np.pad(x[:, first : first + weight.shape[1]], ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows, columns = (
        (x.shape[axis] - dilation * (weight.shape[axis] - 1) - 1) // stride * stride + 1 for axis in (2, 3)
    )
    for index in np.ndindex(*weight.shape[1:]):
        c, top, left = index[0], dilation * index[1], dilation * index[2]
        seen = x[:, c, top : top + rows : stride, left : left + columns : stride]
        yield Lever(node, "weight", (channel, *index), float(weight[(channel, *index)]), seen)
    if settings.get("bias") is not None:
        yield Lever(node, "bias", (channel,), float(settings["bias"][channel]), np.ones(seen.shape))


def _of_linear(node: str, x: Array, settings: Mapping[str, Any], channel: int) -> Iterator[Lever]:
    for c, value in enumerate(settings["weight"][channel]):
        yield Lever(node, "weight", (channel, c), float(value), x[..., c])
    if settings.get("bias") is not None:
        yield Lever(node, "bias", (channel,), float(settings["bias"][channel]), np.ones(x.shape[:-1]))


def _of_batch_norm(node: str, x: Array, settings: Mapping[str, Any], channel: int) -> Iterator[Lever]:
    node, eps = f"{node}.normalization", settings.get("eps", 1e-5)
    names = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, var = (float(settings[name][channel]) for name in names)
    centred, deviation = x[:, channel] - mean, np.sqrt(var + eps)
    yield Lever(node, "weight", (channel,), weight, centred / deviation)
    yield Lever(node, "bias", (channel,), bias, np.ones(centred.shape))
    yield Lever(node, "running_mean", (channel,), mean, np.full(centred.shape, -weight / deviation))
    yield Lever(node, "running_var", (channel,), var, weight * centred, lambda v: 1 / np.sqrt(v + eps))


def _of_layer_norm(node: str, x: Array, settings: Mapping[str, Any], channel: int) -> Iterator[Lever]:
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + settings["eps"])
    yield Lever(node, "weight", (channel,), float(settings["weight"][channel]), normal[..., channel])
    yield Lever(node, "bias", (channel,), float(settings["bias"][channel]), np.ones(x.shape[:-1]))


def flips_that_fit(site: Site) -> Iterable[Flip]:
    """Bits that move the only wrong channel by as much as it is off, the nearest first.

    The difference r of that channel is to be a multiple of what one parameter acts on, and the multiple is to be what
    one of the parameter's bits changes.
    """
    if site.found.shape != site.expected.shape or not np.isfinite(site.found).all():
        return []
    axis = 1 if site.found.ndim == 4 else -1
    difference = np.moveaxis(site.found - site.expected, axis, 0).reshape(site.found.shape[axis], -1)
    squares = np.square(difference).mean(-1)
    channel = int(squares.argmax())
    others = np.delete(squares, channel)
    rounding = np.finfo(np.float32).eps ** 2 * np.square(site.expected.take(channel, axis)).mean() / 64
    noise = max(float(np.median(others)) if others.size else 0.0, float(rounding))
    r = difference[channel]
    if r.size < FEWEST or squares[channel] < STANDS_OUT * max(noise, others.max(initial=0) / 100):
        return []
    fits: list[tuple[float, Flip]] = []
    for lever in levers(site.result, channel):
        fits.extend(_fits(lever, r, noise))
    return [flip for _, flip in sorted(fits, key=lambda fit: fit[0])]


def _fits(lever: Lever, r: Array, noise: float) -> Iterator[tuple[float, Flip]]:
    """The bits of one parameter that leave no more of r than noise, with what they leave."""
    power = float(lever.effect @ lever.effect)
    if not power:
        return
    change = float(lever.effect @ r) / power
    left = r - change * lever.effect
    allowed = 9 * noise * r.size + 1e-10 * float(r @ r)
    if left @ left > allowed:
        return
    spread = 25 * noise / power + 1e-12 * change**2  # of the change, squared
    for number in BITS:
        steps = lever.of(flips_of(lever.value, number)) - lever.of(lever.value)
        off = np.square(steps - change)
        for bit in np.flatnonzero(off <= spread):
            yield float(off[bit]), Flip(lever.node, lever.leaf, lever.place, number, int(bit))


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "WGT-01",
        "key and value are swapped; expected the weights of the same name",
        consequence="Tokens look for what they should take: labels are mostly wrong.",
        fix="Load attention.key and attention.value into the projections of the same name.",
        make=changes(Change("parameters", rf"{ATTENTION}\.(key|value)", swap_key_and_value)),
    ),
    Mutant(
        "WGT-02",
        "weights of the layer {value} further on; expected its own",
        consequence="All shapes agree, but layers do each other's work: labels are mostly wrong.",
        fix="Count layers from 0, as the names in the checkpoint do.",
        make=load_shifted,
        values=lambda site: (1, -1, 2, -2, 3, -3),
        examples=(1, -1),
    ),
    Mutant(
        "WGT-03",
        "weight transposed; expected (out, in)",
        consequence="The matrix is square, so that no error is raised: labels are mostly wrong.",
        fix="Leave weights of nn.Linear as they are for x @ weight.T, or transpose all of them, also square ones.",
        make=changes(reread_as_transposed(rf"{PROJECTION}|{TOKEN_LAYER}\.attention\.output\.dense")),
    ),
    Mutant(
        "WGT-06",
        "weight and bias are swapped; expected the scale in weight",
        consequence="Channels are scaled by what should shift them: labels are mostly wrong.",
        fix="Load weight as the scale and bias as the shift of batch normalisations.",
        make=changes(exchanged(r".*\.normalization", "weight", "bias")),
    ),
    Mutant(
        "WGT-06",
        "weight and bias are swapped; expected the scale in weight",
        consequence="Channels are scaled by what should shift them: labels are mostly wrong.",
        fix="Load weight as the scale and bias as the shift of layer normalisations.",
        make=changes(exchanged(LAYER_NORM, "weight", "bias")),
        variant="layer-norm",
    ),
    Mutant(
        "WGT-02",
        "weights of {value}; expected its own",
        consequence="All shapes agree, but one layer does another's work: labels are mostly wrong.",
        fix="Load every parameter under its own name.",
        make=load_from,
        variant="other",
        values=of_the_same_shapes,
        examples=(
            Loaded(
                "encoder.layer.2.transformer.layer.0.attention.attention.query",
                "encoder.layer.2.transformer.layer.1.attention.attention.key",
            ),
        ),
        fitted=True,
    ),
    Mutant(
        "WGT-07",
        "{value} is flipped; expected the checkpoint's",
        consequence="One channel is off, by little or by much: accuracy may drop without an error.",
        fix="Transfer the weights again, and compare checksums.",
        make=flip,
        values=flips_that_fit,
        examples=(
            Flip("encoder.layer.3.conv_kxk.convolution", "weight", (3, 5, 1, 1), "float32", 22),
            Flip("encoder.layer.2.transformer.layer.0.intermediate.dense", "weight", (3, 5), "float32", 23),
            Flip("encoder.layer.1.layer.0.conv_3x3.normalization", "running_var", (2,), "float32", 24),
            Flip("encoder.layer.2.layernorm", "bias", (1,), "float32", 31),
        ),
        fitted=True,
    ),
    Mutant(
        "WGT-05",
        "{value} classes; expected those of the checkpoint",
        consequence="The head is not the checkpoint's: labels mean something else.",
        fix="Load the head from the same checkpoint as the rest of the network.",
        make=lambda count: (with_features(HEADS, lambda _count: count),),
        values=lambda site: (site.found.shape[1],) if site.found.ndim > 1 else (),
        examples=(21,),
        by_shape=True,
    ),
)
