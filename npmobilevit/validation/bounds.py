"""How far the result of an operation may lie from the exact one: the operators of the network with error bounds.

Every value is a :class:`Bounded`: what float64 makes of the port's own tensors, and how far an honest port may be
from it. The operators below take and give such values; with them in the ops table, the network's own layer functions
compute tolerances, and nothing about the network is written twice.

The formula
-----------
Each operation is described by three quantities, its :class:`Terms`: n, the number of roundings that may add up in
one result; S, the sum of the sizes of what is added, so that one rounding of relative size u changes the result by
at most u*S; L, the same as a root of a sum of squares. For an inner product y = sum of w_i*x_i + b they are the
number of terms, sum |w_i*x_i| + |b| and sqrt(sum (w_i*x_i)**2 + b**2). With u_a, u_x and u_o the roundings of the
profile (:mod:`npmobilevit.validation.profiles`) for sums, operands and results::

    E   = k(n) * u_a * S  +  2 * u_x * size         what one operation may add
    tol = E + u_o * (|y| + E) + smallest             what its tap may show

=========  ====================  ====================  ========================================================
tier       k(n)                  size                  holds
=========  ====================  ====================  ========================================================
"proof"    n                     S                     always: any order of the sum, fused or not
"fail"     min(n, 6.8*sqrt(n))   min(S, |y| + 6.8*L)   but for a probability of 1e-3 in a whole check
=========  ====================  ====================  ========================================================

Where operands are rounded no more than sums are (u_x <= 2*u_a), size is S; of functions it is, too, and u_x is u_o.
Where results are as precise as sums (u_a = u_o), each of the n roundings may fall below the smallest number:
n*smallest.

"proof" is the bound of Jeannerod and Rump for sums and inner products in any order, n*u*S without second-order terms
(C.-P. Jeannerod, S. M. Rump, SIAM J. Matrix Anal. Appl. 34, 2013). "fail" is the martingale bound lambda*sqrt(n)*u*S,
which needs no more than an order of summation fixed before the data (N. J. Higham, T. Mary, SIAM J. Sci. Comput. 41,
2019; I. C. F. Ipsen, H. Zhou, SIAM J. Matrix Anal. Appl. 41, 2020), with lambda = sqrt(2*log(2*M/delta)) for M = 5e6
elements and delta = 1e-3. It wants roundings that differ: when equal numbers are added one after another, they all fall
alike, and from about 700 numbers on (the mean of a map of one colour beyond 26x26) that can pass this line. Of the
roundings of operands only what differs from term to term adds up like that; what they share, because digits were cut
off or because all operands are the same number, changes y in proportion: |y|.

The third tier, "usual", is no bound but what sound arithmetic shows,
``sqrt(n*u_a**2*(L**2 + y**2) + 2*u_x**2*L**2 + u_o**2*y**2)``: the largest difference of a tensor is usually 0.3 to 2
of it. Four times that is called unusual.

Two things are wider than that. Winograd's algorithm shares sums among tiles of outputs, so S of a plain 3x3 convolution
is the largest of its surroundings; and float16 operands that are too small for all digits count as off by half a step.

Errors of the inputs are carried through: |w|*e for a factor, in "usual" as the root of a sum of squares. What is
only moved (heads, patches, concatenation) has no tolerance.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from npmobilevit import ops
from npmobilevit.errors import ConfigError
from npmobilevit.ops.arrays import Array
from npmobilevit.ops.resize import sources
from npmobilevit.scope import OpTable
from npmobilevit.validation.profiles import FLOAT32, Profile

Tier: TypeAlias = Literal["proof", "fail", "usual", "sample", "value", "S", "L"]

LAMBDA = 6.8

# Roundings inside of a function: of exp (in units of the last place), and of the arithmetic around it.
EXP_ROUNDINGS = 4
AROUND_EXP = 4

# A normalisation that was folded into the weights before them leaves this many roundings in each of them.
FOLDED = 4

# int8: activations have 255 steps, or 127 where a kernel needs the spare bit; weights 127 on each side of zero.
ACTIVATION_STEPS, WEIGHT_STEPS = 127, 127

# Attention is looked at in blocks of queries, so that no array has more than about this many elements.
BLOCK_ELEMENTS = 2**21

# Largest slope of each activation: how much an error of its input can grow.
SLOPES: Mapping[str, float] = MappingProxyType(
    {
        "gelu": 1.13,
        "gelu_10": 1.13,
        "gelu_accurate": 1.13,
        "gelu_fast": 1.13,
        "gelu_new": 1.13,
        "gelu_python": 1.13,
        "gelu_python_tanh": 1.13,
        "gelu_pytorch_tanh": 1.13,
        "hardswish": 1.5,
        "laplace": 1.42,
        "leaky_relu": 1.0,
        "linear": 1.0,
        "mish": 1.09,
        "quick_gelu": 1.1,
        "relu": 1.0,
        "relu6": 1.0,
        "sigmoid": 0.25,
        "silu": 1.1,
        "swish": 1.1,
        "tanh": 1.0,
    }
)


class Terms(NamedTuple):
    """What an operation's rounding errors are made of; see the head of this module."""

    n: int
    S: Array
    L: Array


@dataclasses.dataclass(frozen=True, slots=True)
class Bounded:
    """A value, and how far an honest port's may be from it.

    Attributes
    ----------
    value : float64 array
    error : float64 array or None
        None: not at all.
    spans : tuple of str
        Taps passed since the last that the port gave.
    n : int
        Roundings that may add up since then.
    made_by : frozenset of int
        Numbers of the operations since then: what two values have in common.
    tainted : bool
        Whether it rests on a tap of the port that could not be used.
    """

    value: Array
    error: Array | None = None
    spans: tuple[str, ...] = ()
    n: int = 0
    made_by: frozenset[int] = frozenset()
    tainted: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def __getitem__(self, index: Any) -> Bounded:
        return self.moved(lambda x: x[index])

    def moved(self, move: Callable[[Array], Array]) -> Bounded:
        """The same values at other places."""
        error = None if self.error is None else move(self.error)
        return Bounded(move(self.value), error, *history(self))


class Deferred:
    """An attention matrix (S, h, L, L) that is computed block by block of its rows, when it is needed.

    Parameters
    ----------
    shape : tuple of int
    rows : callable
        Gives the Bounded value of a slice of rows.
    """

    def __init__(self, shape: tuple[int, ...], rows: Callable[[slice], Bounded]) -> None:
        self.shape = shape
        self.rows = rows

    def blocks(self) -> Iterator[Bounded]:
        """The matrix from its first row to its last."""
        count = self.shape[-2]
        step = max(1, BLOCK_ELEMENTS * count // math.prod(self.shape))
        return (self.rows(slice(start, start + step)) for start in range(0, count, step))

    def whole(self) -> Bounded:
        """All of it at once."""
        return joined(list(self.blocks()), axis=-2)


def joined(parts: Sequence[Bounded], *, axis: int) -> Bounded:
    """Values laid side by side along an axis."""
    value = np.concatenate([part.value for part in parts], axis)
    errors = [np.zeros(part.shape) if part.error is None else part.error for part in parts]
    error = None if all(part.error is None for part in parts) else np.concatenate(errors, axis)
    return Bounded(value, error, *history(*parts))


def history(*inputs: Bounded, roundings: int = 0) -> tuple[tuple[str, ...], int, frozenset[int], bool]:
    """What another operation, with so many roundings, makes of the spans, n, operations and taint of `inputs`."""
    spans = dict.fromkeys(name for x in inputs for name in x.spans)
    n = max((x.n for x in inputs), default=0) + roundings
    made_by = frozenset([next(_operations)]).union(*(x.made_by for x in inputs))
    return tuple(spans), n, made_by, any(x.tainted for x in inputs)


_operations = itertools.count()


def as_bounded(x: Array | Bounded) -> Bounded:
    """A parameter is exact, unless it comes with an error."""
    return x if isinstance(x, Bounded) else Bounded(x)


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """The operators of the network on Bounded values, for one profile and tier.

    Parameters
    ----------
    profile : Profile
    tier : {"proof", "fail", "usual", "sample", "value", "S", "L"}
        "sample" has no errors, but adds random ones of the usual size to the values; "value" has none at all. "S" and
        "L" are no errors but what they are made of, in units of the profile's `accumulate`, carried to the end of a
        region.
    generator : numpy Generator, optional
        For "sample".
    step : callable
        For fixed point: the step to which the next result is rounded.
    """

    profile: Profile
    tier: Tier
    generator: np.random.Generator | None = None
    step: Callable[[], float] = float

    def table(self) -> OpTable:
        """The operators as a table for :class:`npmobilevit.scope.Scope`."""
        table: Any = {
            "add": self.add,
            "concat_channels": functools.partial(joined, axis=1),
            "conv2d": self.conv2d,
            "batch_norm": self.batch_norm,
            "layer_norm": self.layer_norm,
            "linear": self.linear,
            "attention_scores": self.attention_scores,
            "softmax": self.softmax,
            "attend": self.attend,
            "split_heads": lambda x, heads: x.moved(lambda a: ops.split_heads(a, heads)),
            "merge_heads": lambda x: x.moved(ops.merge_heads),
            "unfold_patches": lambda x, size: x.moved(lambda a: ops.unfold_patches(a, size)),
            "fold_patches": lambda x, *sizes: x.moved(lambda a: ops.fold_patches(a, *sizes)),
            "resize_bilinear": self.resize_bilinear,
            "global_avg_pool": self.global_avg_pool,
            "activations": {name: functools.partial(self.activation, name) for name in ops.ACTIVATIONS},
        }
        return OpTable(**table)

    # --- the formula

    @property
    def squares(self) -> bool:
        """Whether errors add up as their squares do."""
        return self.tier in ("usual", "sample", "L")

    def _size(self, x: Array) -> Array:
        return np.square(x) if self.squares else np.abs(x)

    def _unsize(self, x: Array) -> Array:
        return np.sqrt(x) if self.squares else x

    def _sum(self, *errors: Array | None) -> Array | None:
        known = [self._size(error) for error in errors if error is not None]
        return self._unsize(functools.reduce(np.add, known)) if known else None

    def own_error(self, value: Array, terms: Terms, *, product: bool) -> Array:
        """What one operation adds, before its result is stored."""
        n, S, L = terms
        accumulate = self.profile.accumulate
        operand = self.profile.operand if product else self.profile.store
        if self.tier in ("S", "L"):
            return accumulate * (S if self.tier == "S" else L)
        if self.squares:
            squared = n * accumulate**2 * (np.square(L) + np.square(value)) + 2 * operand**2 * np.square(L)
            return np.sqrt(squared)
        if self.tier == "proof":
            return (n * accumulate + 2 * operand) * S
        count = min(n, LAMBDA * math.sqrt(n))
        size = np.minimum(S, np.abs(value) + LAMBDA * L) if self._needs_both(product) else S
        return count * accumulate * S + 2 * operand * size

    def _needs_both(self, product: bool) -> bool:
        """Whether the operands' roundings are so much larger than those of the sum that L pays in "fail"."""
        return product and self.profile.operand > 2 * self.profile.accumulate

    def made(
        self, inputs: Sequence[Bounded], value: Array, terms: Terms, *carried: Array | None, product: bool = False
    ) -> Bounded:
        """The result of an operation on `inputs`: its own error, those `carried` through it, and its storage."""
        past = history(*inputs, roundings=terms.n)
        if self.tier == "value":
            return Bounded(value, None, *past)
        error = self._sum(self.own_error(value, terms, product=product), *carried)
        assert error is not None
        profile = self.profile
        if self.squares:
            error = np.sqrt(np.square(error) + (profile.store * value) ** 2 + profile.smallest**2 + self.step() ** 2)
        else:
            flushed = terms.n if profile.accumulate == profile.store else 1
            error = error + profile.store * (np.abs(value) + error) + flushed * profile.smallest + self.step()
        if self.tier == "sample":
            assert self.generator is not None
            noise = self.generator.standard_normal(value.shape, np.float32)
            return Bounded(value + error * noise * 0.5, None, *past)
        return Bounded(value, error, *past)

    def _used(self, x: Bounded) -> Bounded:
        """A value as an operation reads it: float16 numbers that are too small for all digits are off by more than
        their share."""
        smallest = self.profile.smallest
        if smallest < 2.0**-100 or self.tier == "value":
            return x
        error = self._sum(np.full(x.shape, smallest), x.error)
        return dataclasses.replace(x, error=error)

    # --- inner products

    def _product(
        self,
        apply: Callable[[Array, Array, Array | None], Array],
        x: Bounded,
        weight: Bounded,
        bias: Bounded | None,
        n: int,
        *,
        fast: bool = False,
    ) -> Bounded:
        """An operation that is linear in `x` and in `weight`, `apply(x, weight, bias)`, with sums of n terms; `fast`,
        if Winograd's algorithm may compute it."""
        x, weight = self._used(x), self._used(weight)
        b = None if bias is None else bias.value
        if self.profile.quantized and self.tier == "sample":
            narrow_x = self._simulated(x.value, _activation_step(x.value))
            value = apply(narrow_x, self._simulated(weight.value, _weight_step(weight.value)), b)
        else:
            value = apply(x.value, weight.value, b)
        both = self._needs_both(True)
        S: Array = np.empty(0)
        L: Array = S
        inputs = [x, weight] if bias is None else [x, weight, bias]
        if self.tier == "value":
            return self.made(inputs, value, Terms(n, S, L))
        if not self.squares or both:
            S = apply(np.abs(x.value), np.abs(weight.value), None if b is None else np.abs(b))
        if self.squares or both:
            squared = apply(np.square(x.value), np.square(weight.value), None if b is None else np.square(b))
            L = np.sqrt(np.maximum(squared, 0))
        if fast and not self.squares and self.tier != "S":
            S = largest_of_tile(S)
        size, unsize = self._size, self._unsize
        carried = [None if bias is None else self._spread(bias.error, value)]
        if x.error is not None:
            carried.append(unsize(apply(size(x.error), size(weight.value), None)))
        if weight.error is not None:
            carried.append(unsize(apply(size(x.value), size(weight.error), None)))
            if x.error is not None:
                carried.append(unsize(apply(size(x.error), size(weight.error), None)))
        if self.profile.quantized and not self.squares:
            carried.append(self._quantization(apply, x.value, weight.value))
        return self.made(inputs, value, Terms(n, S, L), *carried, product=True)

    @staticmethod
    def _spread(error: Array | None, value: Array) -> Array | None:
        """The error of a bias for every element: along the channels of a map or the last axis."""
        if error is None:
            return None
        return np.broadcast_to(error[:, np.newaxis, np.newaxis] if value.ndim == 4 else error, value.shape)

    def _quantization(self, apply: Callable[[Array, Array, Array | None], Array], x: Array, weight: Array) -> Array:
        """What dynamic quantisation adds: each factor is off by at most half a step of its scale, and next to the
        ends of its range by a whole one, for zero has to be a step. Equal values are off by the same, so that no
        root of squares bounds the sum."""
        dx, dw = _off_by(x, _activation_step(x)), _off_by(weight, _weight_step(weight))
        return apply(dx, np.abs(weight), None) + apply(np.abs(x), dw, None) + apply(dx, dw, None)

    def _simulated(self, x: Array, step: float) -> Array:
        """One way to quantise: the steps may lie anywhere."""
        if not step:
            return x
        assert self.generator is not None
        place = self.generator.random()
        return (np.round(x / step + place) - place) * step

    def conv2d(self, x: Bounded, *, weight: Any, bias: Any = None, **geometry: Any) -> Bounded:
        weight = as_bounded(weight)
        n = math.prod(weight.shape[1:]) + (bias is not None) + FOLDED
        apply = functools.partial(_conv2d, geometry=geometry)
        fast = weight.shape[2:] == (3, 3) and geometry_is_plain(geometry)
        return self._product(apply, x, weight, None if bias is None else as_bounded(bias), n, fast=fast)

    def linear(self, x: Bounded, *, weight: Any, bias: Any = None) -> Bounded:
        weight = as_bounded(weight)
        n = weight.shape[-1] + (bias is not None)
        return self._product(_linear, x, weight, None if bias is None else as_bounded(bias), n)

    def attention_scores(self, query: Bounded, key: Bounded) -> Deferred:
        """Two more roundings than terms: the scale, and its place before or after the sum."""
        width = query.shape[-1]
        scaled = query.moved(lambda a: a / math.sqrt(width))
        shape = (*query.shape[:-1], key.shape[-2])
        return Deferred(shape, lambda rows: self._product(_scores, scaled[:, :, rows], key, None, width + 2))

    def attend(self, probs: Deferred | Bounded, value: Bounded) -> Bounded:
        tokens = value.shape[-2]
        blocks = probs.blocks() if isinstance(probs, Deferred) else iter([probs])
        return joined([self._product(_attend, block, value, None, tokens) for block in blocks], axis=-2)

    def global_avg_pool(self, x: Bounded) -> Bounded:
        x = self._used(x)
        n = x.shape[2] * x.shape[3]
        axes = (2, 3)
        L = np.sqrt(np.square(x.value).sum(axes)) / n
        terms = Terms(n + 1, np.abs(x.value).mean(axes), L)
        carried = None if x.error is None else self._unsize(self._size(x.error).sum(axes)) / n
        return self.made([x], x.value.mean(axes), terms, carried, product=True)

    # --- element by element

    def add(self, x: Bounded, y: Bounded) -> Bounded:
        x, y = self._used(x), self._used(y)
        size = np.abs(x.value) + np.abs(y.value)
        return self.made([x, y], x.value + y.value, Terms(1, size, size), x.error, y.error)

    def activation(self, name: str, x: Bounded) -> Bounded:
        """x*sigmoid(x) and its kin. Written as x/2*(1 + tanh(x/2)), the error is one of x/2 and not of the result."""
        if name not in SLOPES:
            raise ConfigError(f"no tolerance has been derived for hidden_act {name!r}", "profile-activation")
        value = ops.ACTIVATIONS[name](x.value)
        if name in ("relu", "relu6", "linear"):  # nothing is rounded
            return Bounded(value, x.error, *history(x))
        x = self._used(x)
        n = EXP_ROUNDINGS + AROUND_EXP
        share = 0.5 if name in ("silu", "swish") else 1.0
        S = 1.25 * np.maximum(np.abs(value), share * np.abs(x.value))
        if name == "laplace":  # its mean and deviation are rounded, too, which shows most one deviation from the mean
            S = np.maximum(S, 0.15)
        carried = None if x.error is None else SLOPES[name] * x.error
        return self.made([x], value, Terms(n, S, S / math.sqrt(n)), carried)

    def batch_norm(
        self, x: Bounded, *, weight: Any, bias: Any, running_mean: Any, running_var: Any, eps: float = 1e-5
    ) -> Bounded:
        """Six roundings: of the sum, the root and the quotient of the scale, its product, the shift, the sum."""
        x = self._used(x)
        parameters = [as_bounded(p) for p in (weight, bias, running_mean, running_var)]
        g, b, mean, var = (p.value[:, np.newaxis, np.newaxis] for p in parameters)
        scale = g / np.sqrt(var + eps)
        value = x.value * scale + (b - mean * scale)
        S = 1.25 * (np.abs(x.value * scale) + np.abs(mean * scale) + np.abs(b))
        carried = [None if x.error is None else np.abs(scale) * x.error]
        if x.error is not None and x.n:  # folded into a sum before it, the shift is part of every partial sum
            shift = np.broadcast_to(np.abs(b - mean * scale), value.shape)
            carried.append(self.own_error(np.zeros(()), Terms(x.n, shift, shift), product=False))
        if any(p.error is not None for p in parameters):
            dg, db, dmean, dvar = (_or_zero(p)[:, np.newaxis, np.newaxis] for p in parameters)
            dscale = np.abs(scale) * (np.sqrt((var + eps) / (np.maximum(var - dvar, 0) + eps)) - 1)
            dscale = dscale + dg / np.sqrt(np.maximum(var - dvar, 0) + eps)
            distance = np.abs(x.value - mean) + dmean + (0 if x.error is None else x.error)
            carried.append(dscale * distance + np.abs(scale) * dmean + db)
        return self.made([x, *parameters], value, Terms(6, S, S / math.sqrt(6)), *carried)

    def layer_norm(self, x: Bounded, *, weight: Any, bias: Any, eps: float = 1e-5) -> Bounded:
        """Running error analysis: of the mean, of what is left without it, of its variance, of the quotient."""
        x = self._used(x)
        g, b = as_bounded(weight), as_bounded(bias)
        width = x.shape[-1]
        mean = x.value.mean(-1, keepdims=True)
        centred = x.value - mean
        variance = np.square(centred).mean(-1, keepdims=True)
        inverse = 1 / np.sqrt(variance + eps)
        normal = centred * inverse
        value = normal * g.value + b.value
        n = width + EXP_ROUNDINGS + AROUND_EXP
        size = np.abs(x.value)
        input_size = np.abs(g.value) * inverse * (size + size.mean(-1, keepdims=True))
        S = input_size + 2 * np.abs(normal * g.value) + np.abs(b.value)
        of_mean = np.abs(g.value) * inverse * np.abs(mean) / 2  # partial sums of the mean, if it is not near zero
        L = np.hypot(S / math.sqrt(n), of_mean)
        carried = []
        largest = np.abs(normal)
        if x.error is not None:
            of_normal = self._normalized_error(x.error, centred, variance + eps, normal)
            carried.append(np.abs(g.value) * of_normal)
            largest = largest + of_normal
        if g.error is not None:
            carried.append(largest * g.error)
        if b.error is not None:
            carried.append(np.broadcast_to(b.error, value.shape))
        return self.made([x, g, b], value, Terms(n, S, L), *carried)

    def _normalized_error(self, error: Array, centred: Array, variance: Array, normal: Array) -> Array:
        """Error of (x - mean) / sqrt(variance), never more than the largest such value, sqrt(D), on either side."""
        width = error.shape[-1]
        if self.squares:
            of_mean = np.sqrt(np.square(error).sum(-1, keepdims=True)) / width
            of_centred = np.hypot(error, of_mean)
            of_variance = 2 * np.sqrt(np.square(centred * of_centred).sum(-1, keepdims=True)) / width
            quotient = of_variance / variance / 2
            found = np.hypot(of_centred / np.sqrt(variance), normal * quotient)
        else:
            of_centred = error + error.mean(-1, keepdims=True)
            of_variance = (2 * np.abs(centred) * of_centred + np.square(of_centred)).mean(-1, keepdims=True)
            least = np.maximum(variance - of_variance, variance * 1e-6)
            quotient = np.sqrt(variance / least) - 1
            found = of_centred / np.sqrt(least) + np.abs(normal) * quotient
        return np.asarray(np.minimum(found, 2 * math.sqrt(width)))

    def softmax(self, x: Deferred | Bounded) -> Deferred | Bounded:
        if isinstance(x, Deferred):
            return Deferred(x.shape, lambda rows: self._softmax(x.rows(rows)))
        return self._softmax(x)

    def _softmax(self, x: Bounded) -> Bounded:
        """exp turns an absolute error of a score into a relative one, and all of a row share the sum below: the odds
        p / (1 - p) change by a factor of exp(e + largest e) at most, and so p by no more than p*(1 - p) times that."""
        value = ops.softmax(x.value)
        size = np.abs(x.value - x.value.max(-1, keepdims=True)) + np.abs(x.value)
        n = x.shape[-1] + EXP_ROUNDINGS + AROUND_EXP
        S = value * (1 + size + (value * size).sum(-1, keepdims=True))
        carried = None
        if x.error is not None and self.squares:
            others = np.square(value * x.error).sum(-1, keepdims=True) - np.square(value * x.error)
            own = np.square((1 - value) * x.error)
            carried = np.minimum(value * np.sqrt(own + np.maximum(others, 0)), 1)
        elif x.error is not None:
            worst = np.minimum(x.error + x.error.max(-1, keepdims=True), 700)  # exp(710) overflows
            carried = np.minimum(value * (1 - value) * np.expm1(worst), 1)
        return self.made([x], value, Terms(n, S, S / math.sqrt(n)), carried)

    def resize_bilinear(self, x: Bounded, size: tuple[int, int]) -> Bounded:
        """Eight roundings of the weighted sum, and those of the coordinates, which frameworks form in float32."""
        if x.shape[2:] == tuple(size):
            return x
        value = ops.resize_bilinear(x.value, size)
        S = 1.25 * ops.resize_bilinear(np.abs(x.value), size)
        carried = None if x.error is None else ops.resize_bilinear(x.error, size)
        coordinates = coordinate_error(x.value, size, self.profile.accumulate)
        return self.made([x], value, Terms(8, S, S / math.sqrt(8)), carried, coordinates)


def geometry_is_plain(geometry: Mapping[str, Any]) -> bool:
    """Whether a convolution has no stride, dilation or groups."""
    return all(geometry.get(name, 1) in (1, (1, 1)) for name in ("stride", "dilation", "groups"))


def largest_of_tile(size: Array) -> Array:
    """Winograd's algorithm makes tiles of up to 4x4 outputs from sums that all of them share, so that each is as far
    off as the largest of its tile; where the tiles begin is not known."""
    for axis in (2, 3):
        padded = np.pad(size, [(3, 3) if i == axis else (0, 0) for i in range(4)])
        size = np.lib.stride_tricks.sliding_window_view(padded, 7, axis).max(-1)
    return size


def _activation_step(x: Array) -> float:
    return float(max(x.max(initial=0), 0) - min(x.min(initial=0), 0)) / ACTIVATION_STEPS


def _weight_step(weight: Array) -> float:
    return float(np.abs(weight).max(initial=0)) / WEIGHT_STEPS


def _off_by(x: Array, step: float) -> Array:
    """How far quantisation may move each value: half a step, and a whole one at the ends of the range."""
    at_an_end = (x <= x.min(initial=0) + step / 2) | (x >= x.max(initial=0) - step / 2)
    return np.where(at_an_end, step, step / 2)


def coordinate_error(x: Array, size: tuple[int, int], accumulate: float) -> Array:
    """How far a resize may be off because its source coordinates were rounded to float32, and the weights that come
    of them to the precision of sums: four roundings of each, times the steepest slope next to it."""
    rows, columns = (sources(x.shape[axis], size[axis - 2], x.dtype) for axis in (2, 3))
    found = np.zeros((*x.shape[:2], *size))
    for axis, at in ((2, rows), (3, columns)):
        slope = _steepest(x, axis)
        slope = np.maximum(slope.take(rows.first, 2), slope.take(rows.second, 2))
        slope = np.maximum(slope.take(columns.first, 3), slope.take(columns.second, 3))
        rounding = 4 * (min(FLOAT32, accumulate) * (at.first + at.weight) + accumulate)
        found += slope * rounding.reshape(-1, *(1,) * (3 - axis))
    return found


def _steepest(x: Array, axis: int) -> Array:
    """Larger difference of each element to its two neighbours along an axis."""
    steps = np.abs(np.diff(x, axis=axis))
    before = np.insert(steps, 0, 0, axis=axis)
    after = np.insert(steps, steps.shape[axis], 0, axis=axis)
    return np.asarray(np.maximum(before, after))


def _conv2d(x: Array, weight: Array, bias: Array | None, *, geometry: Mapping[str, Any]) -> Array:
    return ops.conv2d(x, weight=weight, bias=bias, **geometry)


def _linear(x: Array, weight: Array, bias: Array | None) -> Array:
    return ops.linear(x, weight=weight, bias=bias)


def _scores(query: Array, key: Array, bias: Array | None) -> Array:
    return np.asarray(query @ key.swapaxes(-1, -2))


def _attend(probs: Array, value: Array, bias: Array | None) -> Array:
    return ops.attend(probs, value)


def _or_zero(x: Bounded) -> Array:
    return np.zeros(x.shape) if x.error is None else x.error
