"""Mistakes in the arithmetic: the rows NUM."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npmobilevit import ops
from npmobilevit.ops.arrays import Array
from npmobilevit.validation.bounds import Bounded, Deferred
from npmobilevit.validation.mutants.changes import Change, moved, raw
from npmobilevit.validation.mutants.mutant import Mutant, Site
from npmobilevit.validation.mutants.places import ANYWHERE, ATTENTION, BLOCK, LAYER_NORM

Function = Callable[[Array], Array]

NO_EXTRAS = r"(?!.*\.(scores|probs|unfolded|folded)$).*"
BACKBONE = r"(?!segmentation_head).*"  # the activations of the head are ReLU, which nobody approximates
FINEST = 2.0**-22  # a float32 program knows the argument of a table no better, in units of the table's reach


# What a mistake makes of values with error bounds --------------------------------------------------------------------


def rising(x: Any, function: Function) -> Any:
    """A function that never falls, of every element: what an error becomes lies between its values at both ends."""
    if isinstance(x, Deferred):
        return Deferred(x.shape, lambda rows: rising(x.rows(rows), function))
    if not isinstance(x, Bounded):
        return function(x)
    value = function(x.value)
    if x.error is None:
        return dataclasses.replace(x, value=value)
    error = np.maximum(function(x.value + x.error) - value, value - function(x.value - x.error))
    return dataclasses.replace(x, value=value, error=error)


def put(x: Any, value: Array, slack: Array | float = 0.0) -> Any:
    """Other numbers in place of those of `x`, off by as much as these and by `slack`."""
    if not isinstance(x, Bounded):
        return value.astype(x.dtype)
    error = (0.0 if x.error is None else x.error) + slack
    return dataclasses.replace(x, value=value, error=np.broadcast_to(error, x.shape))


def comparable(site: Site) -> bool:
    """Whether what was found can be compared with what was expected."""
    return site.found.shape == site.expected.shape and site.found.size > 0 and bool(np.isfinite(site.found).all())


def only(node: str) -> str:
    """The place that is this node alone."""
    return re.escape(node.removeprefix("mobilevit."))


def rms(x: Array) -> float:
    return math.sqrt(float(np.square(x).mean()))


def out(where: str, function: Callable[[Any], Any]) -> tuple[Change, ...]:
    """The change of what nodes report."""
    return (Change("out", where, lambda s, x: function(x)),)


# NUM-01: sums in float16. In which order and in blocks of how many is the port's own secret, so that no replay can
# repeat it: on values with bounds nothing is changed, and no tap is ever explained. ----------------------------------


def in_half(parts: Iterable[Array]) -> Array:
    """The sum of the parts, in float16 after each."""
    total: Any = np.float16(0)
    for part in parts:
        total = total + part.astype(np.float16)
    return np.asarray(total, np.float32)


def blocks(count: int, size: int = 8) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def conv_in_half(_s: Any, own: Any, x: Any, *, weight: Any, bias: Any = None, **geometry: Any) -> Any:
    """Eight channels at a time, or one row of a depthwise kernel."""
    if not isinstance(x, np.ndarray):
        return own(x, weight=weight, bias=bias, **geometry)
    rows = np.eye(weight.shape[2], dtype=weight.dtype)[:, :, np.newaxis]  # each leaves one row of a kernel
    if geometry.get("groups", 1) == 1:
        parts = [own(x[:, part], weight=weight[:, part], **geometry) for part in blocks(x.shape[1])]
    else:
        parts = [own(x, weight=weight * row, **geometry) for row in rows]
    return in_half(parts if bias is None else [*parts, bias[:, np.newaxis, np.newaxis]]).astype(x.dtype)


def linear_in_half(_s: Any, own: Any, x: Any, *, weight: Any, bias: Any = None) -> Any:
    if not isinstance(x, np.ndarray):
        return own(x, weight=weight, bias=bias)
    parts = [own(x[..., part], weight=weight[:, part]) for part in blocks(x.shape[-1])]
    return in_half(parts if bias is None else [*parts, bias]).astype(x.dtype)


def scores_in_half(_s: Any, own: Any, query: Any, key: Any) -> Any:
    if not isinstance(query, np.ndarray):
        return own(query, key)
    width = query.shape[-1]
    parts = (
        own(query[..., part], key[..., part]) * math.sqrt(len(range(width)[part]) / width) for part in blocks(width)
    )
    return in_half(parts).astype(query.dtype)


def attend_in_half(_s: Any, own: Any, probs: Any, value: Any) -> Any:
    if not isinstance(probs, np.ndarray):
        return own(probs, value)
    parts = (own(probs[..., part], value[..., part, :]) for part in blocks(probs.shape[-1]))
    return in_half(parts).astype(value.dtype)


SUMS_IN_HALF = (
    Change("conv2d", ANYWHERE, conv_in_half),
    Change("linear", ANYWHERE, linear_in_half),
    Change("attention_scores", ATTENTION, scores_in_half),
    Change("attend", ATTENTION, attend_in_half),
)


# NUM-02: factors of fewer digits -------------------------------------------------------------------------------------


def shortened(x: Array, *, digits: int, ties: str) -> Array:
    """float32 numbers without the last binary digits: rounded to nearest, with ties to "even" or "away" from zero, or
    "cut" off."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    half = np.uint32(1 << (digits - 1))
    if ties == "away":
        bits = bits + half
    elif ties == "even":
        bits = bits + (half - 1) + (bits >> digits & 1)
    kept = bits & np.uint32(0xFFFFFFFF << digits & 0xFFFFFFFF)
    return np.asarray(kept.view(np.float32), x.dtype)


def narrow_factors(narrow: Function) -> tuple[Change, ...]:
    """Both factors of every product of matrices are made narrow, biases are not."""

    def product(_s: Any, own: Any, x: Any, *, weight: Any, **rest: Any) -> Any:
        return own(rising(x, narrow), weight=rising(weight, narrow), **rest)

    def of_attention(_s: Any, own: Any, x: Any, y: Any) -> Any:
        return own(rising(x, narrow), rising(y, narrow))

    return (
        Change("conv2d", ANYWHERE, product),
        Change("linear", ANYWHERE, product),
        Change("attention_scores", ATTENTION, of_attention),
        Change("attend", ATTENTION, of_attention),
    )


def needs_wide_factors(site: Site) -> Iterable[None]:
    """Once, unless what the port declares is as narrow: then so few digits lost would explain other mistakes, too."""
    expected = site.result.force()
    error = getattr(expected, "error", None)
    is_wide = error is not None and np.median(error) < 2.0**-13 * rms(expected.value)
    return [None] if is_wide else []


def of_narrow_factors(variant: str, name: str, digits: int, ties: str) -> Mutant:
    def make(_value: Any) -> tuple[Change, ...]:
        return narrow_factors(functools.partial(shortened, digits=digits, ties=ties))

    return Mutant(
        "NUM-02",
        f"factors of products are {name}; expected float32, as the declared profile says",
        consequence="Results have about three decimal digits: labels rarely change, comparisons to float32 fail.",
        fix="Switch the fast mode of matrix products off (allow_tf32, fp32_precision, fast math), or declare a "
        "profile such as tf32 or bf16.",
        variant=variant,
        values=needs_wide_factors,
        make=make,
    )


# NUM-03: SiLU approximated -------------------------------------------------------------------------------------------


class Approximation(NamedTuple):
    """A function in place of another.

    Attributes
    ----------
    text : str
    function : callable
    """

    text: str
    function: Function

    def __str__(self) -> str:
        return self.text


def table_of_silu(reach: float, points: int, kind: str, *, clamps: bool = False) -> Approximation:
    """SiLU from so many points of -reach to reach, with straight "lines" between them, or the one that is "nearest" or
    "below". Beyond the ends it is x or 0, or if it clamps the last point."""
    grid = np.linspace(-reach, reach, points)
    heights = ops.silu(grid)

    def silu(x: Array) -> Array:
        if kind == "lines":
            y = np.interp(x, grid, heights)
        else:
            position = (np.clip(x, -reach, reach) + reach) * ((points - 1) / (2 * reach))
            y = heights[(np.rint(position) if kind == "nearest" else np.floor(position)).astype(np.intp)]
        return np.asarray(y) if clamps else np.where(np.abs(x) > reach, np.maximum(x, 0), y)

    how = {"lines": "straight lines between", "nearest": "the nearest of", "below": "the one below of"}[kind]
    ends = ", and no further" if clamps else ""
    return Approximation(f"{how} {points} points of {-reach:g} to {reach:g}{ends}", silu)


def plan(x: Array) -> Array:
    """Four straight lines on each side in place of a sigmoid: Amin, Curtis, Hayes-Gill, IEE Proc. 144, 1997."""
    size = np.abs(x)
    lines = (size / 4 + 0.5, size / 8 + 0.625, size / 32 + 0.84375)
    half = np.where(size < 1, lines[0], np.where(size < 2.375, lines[1], np.minimum(lines[2], 1)))
    return np.where(x < 0, 1 - half, half)


def exp_by_bits(x: Array, shift: int) -> Array:
    """The exponential as an integer that is read as float32: N. N. Schraudolph, Neural Computation 11, 1999."""
    bits = np.clip(x * (2**23 / math.log(2)) + (127 * 2**23 - shift), 0, 255 * 2**23 - 1)
    return np.asarray(bits.astype(np.int32).view(np.float32), np.float64)


def silu_by_bits(x: Array, shift: int) -> Array:
    return np.asarray(x / (1 + exp_by_bits(-x, shift)))


@functools.cache
def approximations_of_silu() -> tuple[Approximation, ...]:
    sizes = [2**k + one for k in range(4, 13) for one in (0, 1)]
    tables = [
        table_of_silu(reach, points, kind, clamps=clamps)
        for reach in (4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0)
        for points in sizes
        for kind in ("lines", "nearest", "below")
        for clamps in (False, True)
    ]
    exponentials = [
        Approximation("an exponential made of the bits of an integer", functools.partial(silu_by_bits, shift=shift))
        for shift in (0, 298765, 366393, 486411)
    ]
    return (
        Approximation("a sigmoid of straight lines (PLAN)", lambda x: x * plan(x)),
        Approximation("a sigmoid clip(x / 5 + 1 / 2, 0, 1)", lambda x: x * np.clip(x / 5 + 0.5, 0, 1)),
        *exponentials,
        *tables,
    )


def approximate(approximation: Approximation) -> tuple[Change, ...]:
    """The approximation in place of every SiLU."""
    function = approximation.function

    def activate(_s: Any, own: Any, x: Any) -> Any:
        value = function(raw(x).astype(np.float64))
        if not isinstance(x, Bounded):
            return put(x, value)
        error = 16 * FINEST + (0.0 if x.error is None else x.error)
        slack = np.maximum(np.abs(function(x.value + error) - value), np.abs(function(x.value - error) - value))
        return put(own(x), value, slack)

    return (Change("activation", BACKBONE, activate),)


def seen_activation(site: Site) -> Array | None:
    """The input of the SiLU whose result a tap shows."""
    call = site.ends_with("activation")
    if call is None or not comparable(site) or site.config.hidden_act not in ("silu", "swish"):
        return None
    return None if "segmentation_head" in site.result.node else np.asarray(call[0][0], np.float64)


def known_approximations(site: Site) -> Iterable[Approximation]:
    """Those that leave less than a tenth of the difference."""
    x = seen_activation(site)
    if x is None:
        return []
    some = slice(None, None, max(1, x.size // 4000))
    x, expected, found = x.ravel()[some], site.expected.ravel()[some], site.found.ravel()[some]
    limit = rms(found - expected) / 10
    left = {a: rms(a.function(x) - found) for a in approximations_of_silu()}
    return sorted((a for a in left if left[a] < limit), key=lambda a: left[a])


class Correction(NamedTuple):
    """What has to be added at one node, and how well that is known."""

    node: str
    amount: Array
    slack: Array

    def __str__(self) -> str:
        return f"{np.abs(self.amount).max():.2g}"


NEIGHBOURS = 4  # on each side
LEAST_ELEMENTS = 1000
LEAST_TURNS = 6


def fitted_correction(site: Site) -> Iterator[Correction]:
    """How far the port is from SiLU, if that is a small function of the input alone that goes up and down as tables
    and minimax formulas do. What is said of an element comes from the others whose inputs are next to its own."""
    x = seen_activation(site)
    if x is None or x.size < LEAST_ELEMENTS:
        return
    off = site.found - site.expected
    if np.abs(off).max() > min(0.05, 0.1 * np.ptp(site.expected)) or is_rounded(site.found):
        return
    order = np.argsort(x, axis=None, kind="stable")
    sorted_off = off.ravel()[order]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(sorted_off, NEIGHBOURS, "edge"), 2 * NEIGHBOURS + 1)
    others = np.delete(around, NEIGHBOURS, axis=1)  # (elements, 2*NEIGHBOURS)
    near = others[:, NEIGHBOURS - 1 : NEIGHBOURS + 1].mean(1)
    spread = 2 * np.ptp(others, axis=1)
    size = rms(off)
    is_function = np.median(np.abs(sorted_off - near)) < 0.05 * size and np.median(spread) < size  # of noise: 6 times
    if not is_function or turns(sorted_off, 0.2 * float(np.abs(off).max())) < LEAST_TURNS:
        return
    amount, slack = np.empty(x.size), np.empty(x.size)
    amount[order], slack[order] = near, spread
    yield Correction(site.result.node, amount.reshape(x.shape), slack.reshape(x.shape))


def turns(x: Array, least: float) -> int:
    """How often a sequence turns round after it went one way by more than `least`."""
    count, rises, extreme = 0, True, float(x[0])
    for value in x.tolist():
        if (value > extreme) == rises:
            extreme = value
        elif abs(value - extreme) > least:
            count, rises, extreme = count + 1, not rises, value
    return count


def is_rounded(x: Array) -> bool:
    """Whether all values are float16, bfloat16 or 8-bit integers: also a function of each, but no approximation."""
    with np.errstate(over="ignore"):
        half = np.array_equal(x, x.astype(np.float16))
    return half or np.array_equal(x, shortened(x, digits=16, ties="cut")) or len(np.unique(x)) <= 256


def correct(value: Correction) -> tuple[Change, ...]:
    def activate(_s: Any, own: Any, x: Any) -> Any:
        y = own(x)
        return put(y, raw(y) + value.amount, value.slack)

    return (Change("activation", only(value.node), activate),)


# NUM-04, NUM-07, NUM-09, NUM-11: what a result is stored in ----------------------------------------------------------


class Range(NamedTuple):
    """The least and the largest number that a place can hold."""

    low: float
    high: float
    where: str = NO_EXTRAS

    def __str__(self) -> str:
        ends = [f"{end:.6g}" for end in (self.low, self.high) if math.isfinite(end)]
        return " and ".join(ends)


def seen_range(site: Site) -> Iterator[Range]:
    """The least and the largest value found, where at least two elements that should lie beyond are at one of them. An
    end at zero would be an activation."""
    if not comparable(site):
        return
    low, high = float(site.found.min()), float(site.found.max())
    above = np.count_nonzero((site.found == high) & (site.expected > high)) if high > 0 else 0
    below = np.count_nonzero((site.found == low) & (site.expected < low)) if low < 0 else 0
    if max(above, below) >= 2:
        yield Range(low if below else -math.inf, high if above else math.inf, only(site.tap))


# Each of so many values is a multiple to a thousandth by chance once in 500 times.
LEAST_LEVELS, MOST_STEPS = 8, 2**13


class Steps(NamedTuple):
    """The distance between the numbers that a place can hold."""

    size: float
    where: str = NO_EXTRAS

    def __str__(self) -> str:
        return f"{self.size:.6g}"


def seen_steps(site: Site) -> Iterator[Steps]:
    """The distance of which all values found are multiples, of at most MOST_STEPS."""
    if not comparable(site):
        return
    levels = np.unique(site.found)
    if len(levels) < LEAST_LEVELS:
        return
    for parts in range(1, 9):  # two neighbours may be some steps apart
        size = float(np.diff(levels).min()) / parts
        if np.abs(levels).max() > MOST_STEPS * size:
            return
        for _ in range(3):
            count = np.rint(levels / size)
            size = float(levels @ count) / float(count @ count)
        if (np.abs(levels / size - np.rint(levels / size)) < 1e-3).all():
            yield Steps(size, only(site.tap))
            return


TO_STEPS: dict[str, tuple[str, Function]] = {
    "floor": ("cut off downwards to", np.floor),
    "toward-zero": ("cut off towards zero to", np.trunc),
    "nearest": ("rounded to", np.rint),
}


def of_steps(variant: str) -> Mutant:
    text, function = TO_STEPS[variant]

    def make(steps: Steps) -> tuple[Change, ...]:
        return out(steps.where, lambda x: rising(x, lambda a: function(a / steps.size) * steps.size))

    return Mutant(
        "NUM-07",
        f"values {text} multiples of {{value}}; "
        + ("expected float32 numbers" if variant == "nearest" else "expected the nearest ones"),
        consequence="All values are off by up to a step, and if they are cut off all to the same side.",
        fix="Add half a step before the shift, or round to nearest; or declare the profile fixed, with its scales.",
        variant=variant,
        mode="quantised",
        values=seen_steps,
        fitted=True,
        examples=(Steps(2.0**-6),),
        make=make,
    )


def flushed(x: Array, least: float) -> Array:
    """Zeros in place of what is smaller than `least`."""
    return np.where(np.abs(x) < least, np.zeros_like(x), x)


def seen_zeros(site: Site) -> Iterable[float]:
    """The smallest normal number of float16, if there is a zero that should be none."""
    if not comparable(site) or not ((site.found == 0) & (site.expected != 0)).any():
        return []
    return [2.0**-14]


class Spots(NamedTuple):
    """A few elements of one tap, and what they hold."""

    where: str
    mask: NDArray[np.bool_]
    values: Array
    number: str

    def __str__(self) -> str:
        return f"{np.count_nonzero(self.mask)} of {self.mask.size} elements hold {self.number}"


# The largest numbers of float16, of bfloat16, of float32, and of the two kinds of float8.
LARGEST = {
    65504.0: "float16", 3.3895313892515355e38: "bfloat16", 3.4028234663852886e38: "float32", 57344.0: "float8_e5m2",
    448.0: "float8_e4m3fn",
}  # fmt: skip


def seen_spots(site: Site) -> Iterator[Spots]:
    """Single elements that hold the largest number of a type, where one far smaller belongs."""
    if not comparable(site):
        return
    for largest, name in LARGEST.items():
        mask = (np.abs(site.found) == largest) & (np.abs(site.expected) < largest / 2)
        if 0 < np.count_nonzero(mask) <= max(3, site.found.size // 1000):
            yield Spots(only(site.tap), mask, site.found, f"the largest {name}, {largest:g}")


def spoil(value: Spots | float) -> tuple[Change, ...]:
    """Put the spots in their place; of a number, make one."""
    if isinstance(value, Spots):
        return out(value.where, lambda x: put(x, np.where(value.mask, value.values, raw(x))))

    def one_element(x: Any) -> Any:
        numbers = raw(x).copy()
        numbers.flat[numbers.size // 3] = value
        return put(x, numbers)

    return out(rf"{BLOCK}\.conv_kxk\.normalization", one_element)


# NUM-05: weights of 8 bits -------------------------------------------------------------------------------------------


def in_8_bits(weight: Array, axes: tuple[int, ...] | None, levels: float, scale: Array | float = 1.0) -> Array:
    """Multiples of one step, for the tensor or for what `axes` run over; after a factor that is taken out again."""
    scaled = weight * scale
    step = np.abs(scaled).max(axis=axes, keepdims=True) / levels
    step = np.where(step == 0, 1, step).astype(weight.dtype)
    return np.asarray(np.rint(scaled / step) * step / scale, weight.dtype)


def folded_scale(s: Any) -> Array:
    """What folding the normalisation behind a convolution multiplies each of its output channels with."""
    name = s.name.removesuffix("convolution") + "normalization"
    if f"{name}.weight" not in s.weights:
        return np.ones((1, 1, 1, 1))
    scale = raw(s.weights[f"{name}.weight"]) / np.sqrt(raw(s.weights[f"{name}.running_var"]) + 1e-5)
    return np.where(scale == 0, 1, scale)[:, np.newaxis, np.newaxis, np.newaxis]


def of_8_bits(variant: str, text: str, expected: str, fix: str) -> Mutant:
    def quantise(levels: float) -> Callable[..., Any]:
        def change(s: Any, parameters: dict[str, Any]) -> dict[str, Any]:
            weight = parameters.get("weight")
            if weight is None or len(weight.shape) < 2:
                return parameters
            axes = tuple(range(1, len(weight.shape))) if variant == "channel" else None
            scale = folded_scale(s) if variant == "folded" and len(weight.shape) == 4 else 1.0
            narrow = in_8_bits(raw(weight), axes, levels, scale)
            return parameters | {"weight": put(weight, narrow)}

        return change

    return Mutant(
        "NUM-05",
        f"weights of 8 bits {text}; expected {expected}",
        consequence="Depthwise filters with small weights keep a few levels, or none: accuracy drops, often to nothing."
        if variant != "channel"
        else "Results are off by about a hundredth: labels sometimes change.",
        fix=fix,
        variant=variant,
        make=lambda levels: (Change("parameters", ANYWHERE, quantise(levels)),),
        values=lambda site: (127.0, 127.5, 128.0),
        examples=(127.0,),
    )


# NUM-08: the reciprocal square root of a layer normalisation ---------------------------------------------------------


def root_by_bits(x: Array, steps: int) -> Array:
    """1 / sqrt(x) from the bits of float32, and so many steps of Newton's method after it."""
    y = np.asarray((0x5F3759DF - (x.astype(np.float32).view(np.int32) >> 1)).view(np.float32), np.float64)
    for _ in range(steps):
        y = y * (1.5 - x / 2 * y * y)
    return y


def root_of_cut(x: Array, bits: int, *, middle: bool) -> Array:
    """1 / sqrt(x) from a table for so many bits behind the first, made for the low end or the middle of entries."""
    fraction, exponent = np.frexp(x)
    fraction = (np.floor(fraction * 2 ** (bits + 1)) + (0.5 if middle else 0)) / 2 ** (bits + 1)
    return np.asarray(1 / np.sqrt(np.ldexp(fraction, exponent)))


ROOTS: tuple[Approximation, ...] = (
    *(
        Approximation(f"the bits of a float and {steps} Newton steps", functools.partial(root_by_bits, steps=steps))
        for steps in (0, 1)
    ),
    *(
        Approximation(f"a table for {bits} bits", functools.partial(root_of_cut, bits=bits, middle=middle))
        for bits in range(2, 11)
        for middle in (False, True)
    ),
    Approximation("float16 numbers", lambda x: (1 / np.sqrt(x)).astype(np.float16).astype(np.float64)),
    Approximation("bfloat16 numbers", lambda x: shortened(1 / np.sqrt(x), digits=16, ties="even")),
)


class Factors(NamedTuple):
    """One factor a token, at one node."""

    node: str
    factors: Array

    def __str__(self) -> str:
        return f"{np.abs(self.factors - 1).max():.2g}"


def variance_of(x: Any, eps: float) -> Array:
    """What a layer normalisation takes the root of."""
    return np.asarray(raw(x).astype(np.float64).var(-1, keepdims=True) + eps)


def rescaled(own: Any, x: Any, factors: Array, slack: Array | float, parameters: dict[str, Any]) -> Any:
    """A layer normalisation whose normal values are multiplied by factors that may be off by `slack`."""
    y = own(x, **parameters)
    normal = raw(y) - raw(parameters["bias"])
    return put(y, raw(y) + normal * (factors - 1), np.abs(normal) * slack)


def take_root(value: Approximation | Factors) -> tuple[Change, ...]:
    def normalise(s: Any, own: Any, x: Any, **parameters: Any) -> Any:
        if isinstance(value, Factors):
            return rescaled(own, x, value.factors, 0.0, parameters)
        root = value.function
        variance = variance_of(x, parameters["eps"])
        near = [variance * (1 + off) for off in (0, FINEST, -FINEST)]  # next to an entry it may be the other one
        factors, *others = (root(v) * np.sqrt(v) for v in near)
        slack = np.maximum(*(np.abs(other - factors) for other in others))
        return rescaled(own, x, factors, slack, parameters)

    return (Change("layer_norm", only(value.node) if isinstance(value, Factors) else LAYER_NORM, normalise),)


def seen_factors(site: Site) -> tuple[Array, Array] | None:
    """For each token the factor that fits best, and what it should have taken the root of."""
    call = site.ends_with("layer_norm")
    if call is None or not comparable(site):
        return None
    (x,), parameters = call
    normal = site.expected - parameters["bias"]
    off = ((site.found - site.expected) * normal).sum(-1, keepdims=True)
    factors = 1 + off / np.square(normal).sum(-1, keepdims=True)
    if np.abs(factors - 1).max() > 0.1 or rms(site.expected + normal * (factors - 1) - site.found) > 0.1 * rms(
        site.found - site.expected
    ):
        return None
    return factors, variance_of(x, parameters["eps"])


def known_roots(site: Site) -> Iterable[Approximation]:
    """Those that leave less than a fifth of what the factors are off by."""
    seen = seen_factors(site)
    if seen is None:
        return []
    factors, variance = seen
    limit = rms(factors - 1) / 5
    left = {root: rms(root.function(variance) * np.sqrt(variance) - factors) for root in ROOTS}
    return sorted((root for root in left if left[root] < limit), key=lambda root: left[root])


def fitted_roots(site: Site) -> Iterator[Factors]:
    """The factors themselves, if they are a function of the variance that goes up and down as a table's does: another
    eps, or another formula, goes one way."""
    seen = seen_factors(site)
    if seen is None or seen[0].size < 4 * LEAST_TURNS or np.abs(seen[0] - 1).max() > 0.02:
        return
    factors = seen[0].ravel()[np.argsort(seen[1], axis=None)]
    spread = float(np.ptp(factors))
    if spread < 1e-4:  # rounding shows in factors, too
        return
    alike = np.square(np.diff(factors)).sum() < 0.5 * np.square(factors - factors.mean()).sum()
    if alike and turns(factors, spread / 4) >= LEAST_TURNS:
        yield Factors(site.result.node, seen[0])


# NUM-10: the sum of a softmax in float16 -----------------------------------------------------------------------------


def softmax_in_half(_s: Any, own: Any, x: Any) -> Any:
    if not isinstance(x, np.ndarray):
        return own(x)
    size = np.exp(x - x.max(-1, keepdims=True))
    return size / size.sum(-1, keepdims=True, dtype=np.float16).astype(x.dtype)


def sum_in_half(value: Factors | None) -> tuple[Change, ...]:
    """Every row of the attention matrix times a factor; None: those of a sum in float16."""
    if value is None:
        return (Change("softmax", ATTENTION, softmax_in_half),)
    factors = value.factors

    def scaled(_s: Any, own: Any, x: Any) -> Any:
        y = own(x)
        if isinstance(y, Deferred):
            return Deferred(y.shape, lambda rows: moved(y.rows(rows), lambda a: a * factors[..., rows, :]))
        return moved(y, lambda a: a * factors)

    return (Change("softmax", only(value.node), scaled),)


def half_sums(site: Site) -> Iterator[Factors]:
    """The factors that turn the sums of exponentials into float16 numbers, if those that fit are such. A row whose
    factor is all it shares has d elements of the attention's result."""
    softmax = site.call("softmax")
    if softmax is None or not comparable(site) or site.result.op not in ("softmax", "merge_heads"):
        return
    found, expected = site.found, site.expected
    if site.result.op == "merge_heads":
        heads = softmax.shape[1]
        found, expected = ops.split_heads(found, heads), ops.split_heads(expected, heads)
    factors = (found * expected).sum(-1, keepdims=True) / np.square(expected).sum(-1, keepdims=True)
    left = rms(found - expected * factors)
    if np.abs(factors - 1).max() > 2.0**-6 or left > 0.1 * rms(found - expected) or expected.shape[-1] < 2:
        return
    scores = raw(softmax.arguments[0])
    for start in (scores.max(-1, keepdims=True), 0.0):
        sums = np.exp(scores - start).sum(-1, keepdims=True)
        halves = (sums / factors).astype(np.float16).astype(np.float64)
        steps = np.spacing(halves.astype(np.float16)).astype(np.float64)
        if np.median(np.abs(sums / factors - halves) / steps) < 0.03:  # by chance 0.25
            yield Factors(softmax.node, sums / halves)


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "NUM-01",
        "sums of products in float16; expected float32 sums",
        consequence="The error grows with the number of terms: three decimal digits, or two in the widest layers.",
        fix="Accumulate in float32, or declare the profile fp16-acc16.",
        make=lambda _value: SUMS_IN_HALF,
        values=lambda site: (),
    ),
    of_narrow_factors("tf32", "TF32 or float16 numbers (10 binary digits behind the point, ties to even)", 13, "even"),
    of_narrow_factors("tf32-away", "TF32 numbers (10 binary digits behind the point, ties away from zero)", 13, "away"),
    of_narrow_factors("tf32-cut", "TF32 numbers (10 binary digits behind the point, the others cut off)", 13, "cut"),
    of_narrow_factors("bf16", "bfloat16 numbers", 16, "even"),
    Mutant(
        "NUM-03",
        "SiLU from {value}; expected x / (1 + exp(-x))",
        consequence="Every activation is a little off; the errors add up over the layers.",
        fix="Compute the exponential to the precision of the profile, or use a finer table.",
        make=approximate,
        values=known_approximations,
        examples=(table_of_silu(8.0, 257, "lines"), table_of_silu(6.0, 1024, "nearest")),
    ),
    of_8_bits(
        "", "with one scale for the whole tensor", "float32 weights, or a scale for each output channel",
        "Quantise the weights of convolutions with a scale for each output channel.",
    ),
    of_8_bits(
        "folded", "with one scale for the whole tensor after folding the normalisation",
        "float32 weights, or a scale for each output channel",
        "Quantise the weights of convolutions with a scale for each output channel.",
    ),
    of_8_bits(
        "channel", "with a scale for each output channel", "float32 weights, as the declared profile says",
        "Declare a quantised profile, or use the float32 weights.",
    ),
    Mutant(
        "NUM-08",
        "1 / sqrt(variance + eps) from {value}; expected its value to float32 precision",
        consequence="Each token is scaled a little wrongly.",
        fix="Add a step of Newton's method, or use a finer table.",
        make=take_root,
        values=known_roots,
        examples=(
            Approximation("the bits of a float and 1 Newton steps", functools.partial(root_by_bits, steps=1)),
            Approximation("a table for 7 bits", functools.partial(root_of_cut, bits=7, middle=False)),
        ),
    ),
    Mutant(
        "NUM-09",
        "numbers smaller than {value} flushed to zero; expected all numbers, also small ones",
        consequence="Only values near zero change: labels stay the same.",
        fix="Switch flushing of subnormal numbers off, or keep these values in float32.",
        make=lambda least: out(ANYWHERE, lambda x: rising(x, lambda a: flushed(a, least))),
        values=seen_zeros,
        examples=(2.0**-14,),
    ),
    Mutant(
        "NUM-04",
        "values saturate at {value}; expected values beyond",
        consequence="Strong responses are cut off, only in some pictures: labels of those change.",
        fix="Choose the range of the number format from many pictures, with a margin.",
        make=lambda held: out(held.where, lambda x: rising(x, lambda a: np.clip(a, held.low, held.high))),
        values=seen_range,
        fitted=True,
        examples=(Range(-1.5, 1.5),),
    ),
    *(of_steps(variant) for variant in TO_STEPS),
    Mutant(
        "NUM-11",
        "{value}; expected numbers of ordinary size: a NaN or infinity hidden by a saturating conversion",
        consequence="One broken element spoils all that depends on it, and no check for NaN sees it.",
        fix="Look for the NaN, infinity or overflow before the conversion.",
        make=spoil,
        values=seen_spots,
        fitted=True,
        examples=(65504.0, 448.0),
    ),
    Mutant(
        "NUM-10",
        "attention rows off by up to {value}, a factor a row: the sum of softmax is a float16 number; expected a "
        "float32 sum",
        consequence="The weights of a row do not add up to one; with more tokens the error grows.",
        fix="Accumulate the sum of softmax in float32.",
        make=sum_in_half,
        values=half_sums,
        fitted=True,
    ),
    Mutant(
        "NUM-08",
        "tokens off by up to {value}, a factor a token that changes to and fro with the variance: 1 / sqrt(variance + "
        "eps) approximated; expected its value to float32 precision",
        consequence="Each token is scaled a little wrongly.",
        fix="Add a step of Newton's method, or use a finer table.",
        variant="fitted",
        make=take_root,
        values=fitted_roots,
        fitted=True,
        examples=(
            Approximation("a table for 5 bits of the root", lambda x: np.floor(64 / np.sqrt(x) + 0.5) / 64),
        ),
    ),
    Mutant(
        "NUM-03",
        "SiLU approximated, off by up to {value}, which is a function of the input alone; expected x / (1 + exp(-x))",
        consequence="Every activation is a little off; the errors add up over the layers.",
        fix="Compute the exponential to the precision of the profile, or use a finer table.",
        variant="fitted",
        make=lambda value: approximate(value) if isinstance(value, Approximation) else correct(value),
        values=fitted_correction,
        fitted=True,
        examples=(table_of_silu(7.0, 150, "lines"),),
    ),
)  # fmt: skip
