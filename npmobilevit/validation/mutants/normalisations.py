"""Mistakes in normalisations: the rows NRM."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.scope import Scope
from npmobilevit.validation.mutants.changes import Change, moved, raw
from npmobilevit.validation.mutants.mutant import Mutant, Site, changes
from npmobilevit.validation.mutants.places import ANYWHERE, LAYER_NORM

EPS = 1e-5  # of batch normalisation
USUAL_EPS = (1e-3, 1e-6, 1e-4, 1e-2, 1e-8)
LARGEST_EPS = 1.0

# An estimate below this is of an eps of 0, from which 1e-12 cannot be told.
SMALLEST_EPS = 3e-7

HALF = 2.0**-11  # how far float16 rounds
STEPS = tuple(2.0**-k for k in range(16))

Own: TypeAlias = Callable[..., Any]
Numbers: TypeAlias = NDArray[np.float64]

# Told the tokens (T, D) and eps: by what each normalised token is multiplied, and what is added to it. Both (T,)
Correction: TypeAlias = Callable[[Numbers, float], tuple[Numbers, Numbers]]


# Batch normalisation ------------------------------------------------------------------------------------------------


def batch_norm(parameters: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Other parameters in all batch normalisations: `parameters` makes those that differ of the right ones."""
    return Change("batch_norm", ANYWHERE, lambda _s, own, x, **given: own(x, **given | parameters(given)))


def fresh(*names: str) -> Change:
    """Parameters as a new layer has them."""
    values = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
    return batch_norm(lambda given: {name: np.full_like(raw(given[name]), values[name]) for name in names})


def of_the_batch(s: Scope, own: Own, x: Any, *, weight: Any, bias: Any, **_running: Any) -> Any:
    """Statistics of what is there: a layer normalisation of all pixels of a channel, then scale and shift."""
    images, channels, *size = x.shape
    pixels = np.ones(images * math.prod(size), raw(weight).dtype)
    y = moved(x, lambda a: a.swapaxes(0, 1).reshape(channels, -1))
    y = s.ops.layer_norm(y, weight=pixels, bias=0 * pixels, eps=EPS)
    y = moved(y, lambda a: a.reshape(channels, images, *size).swapaxes(0, 1))
    return _scaled(own, y, weight, bias)


def _scaled(batch_norm: Own, x: Any, scale: Any, shift: Any) -> Any:
    """Each channel of a map times a number, and a number added: what is left of the operator `batch_norm`."""
    one = np.ones(x.shape[1], raw(scale).dtype)
    return batch_norm(x, weight=scale, bias=shift, running_mean=0 * one, running_var=one, eps=0.0)


def _is_square(s: Scope) -> bool:
    """Whether a convolution with a normalisation has as many inputs as outputs."""
    outputs, inputs, *_ = s.weights[f"{s.name}.convolution.weight"].shape
    return bool(outputs == inputs) and f"{s.name}.normalization.weight" in s.weights


def kernel_scaled_along_inputs(s: Scope, own: Own, x: Any, *, weight: Any, **options: Any) -> Any:
    """The kernel times what the normalisation behind it multiplies outputs by."""
    if not _is_square(s):
        return own(x, weight=weight, **options)
    gamma, variance = (raw(s.weights[f"{s.name}.normalization.{leaf}"]) for leaf in ("weight", "running_var"))
    scale = gamma / np.sqrt(variance + EPS)
    return own(x, weight=raw(weight) * scale[:, np.newaxis, np.newaxis], **options)


def only_shifted(s: Scope, own: Own, x: Any, *, weight: Any, **parameters: Any) -> Any:
    """What is left of a normalisation whose scale went into the kernel before it."""
    if not _is_square(s):
        return own(x, weight=weight, **parameters)
    bias, mean, variance = (raw(parameters[leaf]) for leaf in ("bias", "running_mean", "running_var"))
    scale = raw(weight) / np.sqrt(variance + EPS)
    return _scaled(own, x, np.ones_like(scale), bias - mean * scale)


# Layer normalisation ------------------------------------------------------------------------------------------------


def layer_norm(function: Callable[..., Any]) -> Change:
    """Another function ``(s, own, x, *, weight, bias, eps)`` for all layer normalisations."""
    return Change("layer_norm", LAYER_NORM, function)


def with_layer_eps(eps: float) -> tuple[Change, ...]:
    return (layer_norm(lambda _s, own, x, **parameters: own(x, **parameters | {"eps": eps})),)


def without(*names: str) -> Change:
    """A layer normalisation without scale or shift."""
    neutral = {"weight": 1, "bias": 0}

    def normalize(_s: Scope, own: Own, x: Any, **parameters: Any) -> Any:
        return own(x, **parameters | {name: np.full_like(raw(parameters[name]), neutral[name]) for name in names})

    return layer_norm(normalize)


def _normalized(own: Own, x: Any, eps: float, dtype: Any) -> Any:
    """Normalised along the last axis, neither scaled nor shifted."""
    one = np.ones(x.shape[-1], dtype)
    return own(x, weight=one, bias=0 * one, eps=eps)


def _scaled_channels(s: Scope, x: Any, scale: Any, shift: Any) -> Any:
    """(S, L, D), with a number for each of D."""
    y = moved(x, lambda a: a.swapaxes(1, 2)[..., np.newaxis])
    return moved(_scaled(s.ops.batch_norm, y, scale, shift), lambda a: a[..., 0].swapaxes(1, 2))


def _scaled_tokens(s: Scope, x: Any, scale: Any, shift: Any) -> Any:
    """(S, L, D), with a number for each of S*L."""
    y = moved(x, lambda a: a.reshape(1, -1, a.shape[2], 1))
    return moved(_scaled(s.ops.batch_norm, y, scale, shift), lambda a: a.reshape(x.shape))


def over_the_tokens(s: Scope, own: Own, x: Any, *, weight: Any, bias: Any, eps: float) -> Any:
    y = _normalized(own, moved(x, lambda a: a.swapaxes(1, 2)), eps, raw(weight).dtype)
    return _scaled_channels(s, moved(y, lambda a: a.swapaxes(1, 2)), weight, bias)


def over_sequences(count: int) -> tuple[Change, ...]:
    """Over all values of so many sequences."""

    def normalize(s: Scope, own: Own, x: Any, *, weight: Any, bias: Any, eps: float) -> Any:
        y = _normalized(own, moved(x, lambda a: a.reshape(len(a) // count, -1)), eps, raw(weight).dtype)
        return _scaled_channels(s, moved(y, lambda a: a.reshape(x.shape)), weight, bias)

    return (layer_norm(normalize),)


def corrected(correction: Correction) -> tuple[Change, ...]:
    """Each token normalised with another mean and another variance."""

    def normalize(s: Scope, own: Own, x: Any, *, weight: Any, bias: Any, eps: float) -> Any:
        dtype = raw(weight).dtype
        scale, shift = correction(np.asarray(raw(x), np.float64).reshape(-1, x.shape[-1]), eps)
        if len(scale) * x.shape[-1] != math.prod(x.shape):  # fitted to another layer
            return own(x, weight=weight, bias=bias, eps=eps)
        y = _normalized(own, x, eps, dtype)
        return _scaled_channels(s, _scaled_tokens(s, y, scale.astype(dtype), shift.astype(dtype)), weight, bias)

    return (layer_norm(normalize),)


def _with_statistics(x: Numbers, eps: float, mean: Numbers, variance: Numbers) -> tuple[Numbers, Numbers]:
    """The correction that puts this mean and variance in the place of the right ones."""
    deviation = np.sqrt(variance + eps)
    return np.sqrt(x.var(-1) + eps) / deviation, (x.mean(-1) - mean) / deviation


def floored_mean(step: float, *, about_it: bool) -> Correction:
    """The mean rounded down to a multiple of a step, and the variance about it or about the right one."""

    def correction(x: Numbers, eps: float) -> tuple[Numbers, Numbers]:
        mean = np.floor(x.mean(-1) / step) * step
        variance = x.var(-1) + (np.square(x.mean(-1) - mean) if about_it else 0)
        return _with_statistics(x, eps, mean, variance)

    return correction


def one_pass_in_half(x: Numbers, eps: float) -> tuple[Numbers, Numbers]:
    """Mean of squares minus square of the mean, in float16."""
    narrow = x.astype(np.float16)
    mean = narrow.mean(-1, dtype=np.float16)
    squares = np.square(narrow).mean(-1, dtype=np.float16)
    variance = np.maximum(squares - np.square(mean), 0)
    return _with_statistics(x, eps, mean.astype(np.float64), variance.astype(np.float64))


# What a port did, from its own numbers ------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """What went into a layer normalisation, (T, D), and what its statistics must have been, (T,)."""

    x: Numbers
    eps: float
    scale: Numbers
    shift: Numbers
    mean: Numbers
    variance: Numbers


def tokens(site: Site) -> Tokens | None:
    """The scale and shift, relative to right ones, that come nearest to each token of a port."""
    call = site.ends_with("layer_norm")
    if call is None or site.found.shape != site.expected.shape:
        return None
    (x,), options = call
    gamma, bias, eps = options["weight"], options["bias"], options["eps"]
    x = x.reshape(-1, x.shape[-1])
    deviation = np.sqrt(x.var(-1) + eps)
    normal = (x - x.mean(-1, keepdims=True)) / deviation[:, np.newaxis]
    weights = np.square(gamma) / np.square(gamma).sum()  # so that nothing is divided by a small gamma
    found = (site.found.reshape(x.shape) - bias) * gamma / np.square(gamma).sum()  # weights * normal of the port
    one, n = found.sum(-1), normal @ weights
    scale = ((found * normal).sum(-1) - one * n) / (np.square(normal) @ weights - n * n)
    shift = one - scale * n
    return Tokens(x, eps, scale, shift, x.mean(-1) - shift / scale * deviation, np.square(deviation / scale) - eps)


def _of_small_variance(eps: Numbers, variance: Numbers) -> float:
    """The median of what was found for eps where it has most weight."""
    chosen = np.argsort(variance)[: max(3, len(variance) // 4)]
    return float(np.median(eps[chosen]))


def eps_of_tokens(site: Site) -> float | None:
    found = tokens(site)
    if found is None:
        return None
    return _of_small_variance(found.variance + found.eps - found.x.var(-1), found.x.var(-1))


def eps_of_channels(site: Site) -> float | None:
    """The eps with which a batch normalisation gives what a port has."""
    call = site.ends_with("batch_norm")
    if call is None or site.found.shape != site.expected.shape:
        return None
    (x,), p = call
    distance = x - p["running_mean"][:, np.newaxis, np.newaxis]
    found = site.found - p["bias"][:, np.newaxis, np.newaxis]
    axes = (0, 2, 3)
    alive = np.abs(p["weight"]) > 1e-3 * np.abs(p["weight"]).max()
    slope = (found * distance).sum(axes)[alive] / np.square(distance).sum(axes)[alive]
    variance = p["running_var"][alive]
    return _of_small_variance(np.square(p["weight"][alive] / slope) - variance, variance)


def near(estimate: float) -> list[float]:
    """Values for an eps: the usual one that is nearest, and the estimate itself."""
    usual = min(USUAL_EPS, key=lambda eps: abs(math.log(eps / estimate)))
    return list(dict.fromkeys((usual, float(f"{estimate:.1e}"), estimate)))


def eps_of_batch_norm(site: Site) -> Sequence[float]:
    estimate = eps_of_channels(site)
    if estimate is None:
        return (*USUAL_EPS, 0.0)
    return near(estimate) if SMALLEST_EPS < estimate < LARGEST_EPS else (0.0,)


def smaller_eps(site: Site) -> Sequence[float]:
    right, estimate = site.config.layer_norm_eps, eps_of_tokens(site)
    if estimate is None:
        return [eps for eps in USUAL_EPS if eps < right]
    return near(estimate) if SMALLEST_EPS < estimate < 0.8 * right else ()


def larger_eps(site: Site) -> Sequence[float]:
    right, estimate = site.config.layer_norm_eps, eps_of_tokens(site)
    if estimate is None:
        return [eps for eps in USUAL_EPS if eps > right]
    return near(estimate) if 1.25 * right < estimate < LARGEST_EPS else ()


def no_eps(site: Site) -> Iterable[None]:
    estimate = eps_of_tokens(site)
    return (None,) if estimate is None or estimate <= SMALLEST_EPS else ()


FEWEST_LEVELS = 3  # of rounded means, to tell that they are rounded


def steps_of_means(site: Site) -> Iterator[float]:
    """The steps whose multiples below the right means a port has."""
    found = tokens(site)
    if found is None:
        return
    for step in STEPS:
        floored = np.floor(found.x.mean(-1) / step) * step
        levels = np.unique(floored).size  # a single one may be no mean at all
        if levels >= FEWEST_LEVELS and np.median(np.abs(found.mean - floored)) < 0.05 * step:
            yield step


def one_pass_corrections(site: Site) -> Iterator[Correction]:
    """The scales and shifts of a port's tokens, if they look like a variance from two large numbers in float16."""
    found = tokens(site)
    if found is not None and _is_one_pass(found):
        yield lambda _x, _eps: (found.scale, found.shift)


def _is_one_pass(found: Tokens) -> bool:
    squares, variance = np.square(found.x).mean(-1), found.x.var(-1)
    error = np.abs(found.variance - variance)
    of_mean = np.abs(found.mean - found.x.mean(-1))
    small = np.quantile(error / squares, 0.95) < 8 * HALF and np.quantile(of_mean**2 / squares, 0.95) < (4 * HALF) ** 2
    return bool(small) and (_grows(error / variance, squares / variance) or (_in_half(found.mean, found.variance)))


def _grows(error: Numbers, ratio: Numbers) -> bool:
    """Whether relative errors are larger where the mean is large beside the deviation."""
    order = np.argsort(ratio)
    low, high = order[: len(order) // 2], order[len(order) // 2 :]
    growth = np.median(ratio[high]) / np.median(ratio[low])
    return bool(growth > 2 and np.median(error[high]) > 0.7 * growth * np.median(error[low]))


def _in_half(*values: Numbers) -> bool:
    """Whether nearly all are float16 numbers."""
    narrow = [value.astype(np.float16).astype(np.float64) for value in values]
    return all(
        np.quantile(np.abs(a - b) / np.spacing(np.abs(b).astype(np.float16)), 0.9) < 0.05
        for a, b in zip(values, narrow, strict=True)
    )


MOSTLY_WRONG = "Every layer works on values of another size: labels are mostly wrong."
FIX_STATISTICS = "Load running_mean and running_var of every batch normalisation, and evaluate with them."
FIX_EPS = "Set eps of every layer normalisation to layer_norm_eps of config.json, 1e-5 in all released checkpoints."
FIX_LAYER_NORM = "Normalise the channels of each token by themselves: the last axis of (sequences, tokens, channels)."

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "NRM-01",
        "eps {value}; expected 1e-05",
        consequence="Channels of small variance come out too small, or too large.",
        fix="Set eps to 1e-5 in every batch normalisation (Keras has 1e-3), or fold it with that.",
        make=lambda eps: (batch_norm(lambda _: {"eps": eps}),),
        values=eps_of_batch_norm,
        continuous=True,
        examples=(1e-3,),
    ),
    Mutant(
        "NRM-02",
        "divided by the running variance; expected by its root",
        consequence=MOSTLY_WRONG,
        fix="Divide by sqrt(running_var + eps).",
        make=changes(batch_norm(lambda p: {"running_var": np.square(raw(p["running_var"]))})),
    ),
    Mutant(
        "NRM-02",
        "divided by running variance + eps; expected by the root of that",
        variant="eps",
        consequence=MOSTLY_WRONG,
        fix="Divide by sqrt(running_var + eps).",
        make=changes(batch_norm(lambda p: {"running_var": np.square(raw(p["running_var"]) + EPS), "eps": 0.0})),
    ),
    Mutant(
        "NRM-03",
        "mean 0 and variance 1, as in a new layer; expected running_mean and running_var of the checkpoint",
        consequence=MOSTLY_WRONG,
        fix=FIX_STATISTICS,
        make=changes(fresh("running_mean", "running_var")),
    ),
    Mutant(
        "NRM-03",
        "mean 0, as in a new layer; expected running_mean of the checkpoint",
        variant="mean",
        consequence=MOSTLY_WRONG,
        fix=FIX_STATISTICS,
        make=changes(fresh("running_mean")),
    ),
    Mutant(
        "NRM-03",
        "variance 1, as in a new layer; expected running_var of the checkpoint",
        variant="variance",
        consequence=MOSTLY_WRONG,
        fix=FIX_STATISTICS,
        make=changes(fresh("running_var")),
    ),
    Mutant(
        "NRM-03",
        "scale 1 and shift 0, as in a new layer; expected weight and bias of the checkpoint",
        variant="affine",
        consequence=MOSTLY_WRONG,
        fix="Load weight and bias of every batch normalisation.",
        make=changes(fresh("weight", "bias")),
    ),
    Mutant(
        "NRM-03",
        "all parameters as in a new layer; expected those of the checkpoint",
        variant="all",
        consequence=MOSTLY_WRONG,
        fix=FIX_STATISTICS,
        make=changes(fresh("weight", "bias", "running_mean", "running_var")),
    ),
    Mutant(
        "NRM-14",
        "eps far below 1e-06, such as 0 or 1e-12; expected layer_norm_eps of config.json, 1e-05",
        consequence="Tokens of small variance come out too large, those without any as NaN.",
        fix=FIX_EPS + " A converter may have to be told.",
        make=lambda _: with_layer_eps(0.0),
        values=no_eps,
    ),
    Mutant(
        "NRM-05",
        "eps {value}; expected layer_norm_eps of config.json, 1e-05",
        consequence="Tokens of small variance come out too large.",
        fix=FIX_EPS,
        make=with_layer_eps,
        values=smaller_eps,
        continuous=True,
        examples=(1e-6,),
    ),
    Mutant(
        "NRM-06",
        "eps {value}; expected layer_norm_eps of config.json, 1e-05",
        consequence="Tokens of small variance come out too small.",
        fix=FIX_EPS + " Keras has 1e-3.",
        make=with_layer_eps,
        values=larger_eps,
        continuous=True,
        examples=(1e-3,),
    ),
    Mutant(
        "NRM-07",
        "normalised over the tokens of a sequence; expected over the channels of a token",
        consequence="All shapes agree, but tokens are compared with each other: labels are mostly wrong.",
        fix=FIX_LAYER_NORM,
        make=changes(layer_norm(over_the_tokens)),
    ),
    Mutant(
        "NRM-07",
        "normalised over all tokens and channels of a sequence; expected over the channels of a token",
        variant="sequence",
        consequence="Tokens keep their different sizes: labels are often wrong.",
        fix=FIX_LAYER_NORM,
        make=lambda _: over_sequences(1),
    ),
    Mutant(
        "NRM-07",
        "normalised over a whole picture, in groups of {value} sequences; expected over the channels of a token",
        variant="picture",
        consequence="Tokens keep their different sizes: labels are often wrong.",
        fix=FIX_LAYER_NORM + " GroupNorm with one group is of MobileViTv2.",
        make=over_sequences,
        values=lambda site: (site.config.patch_size**2,),
        examples=(4,),
    ),
    Mutant(
        "NRM-08",
        "neither scaled nor shifted; expected weight and bias of the checkpoint",
        consequence=MOSTLY_WRONG,
        fix="Multiply by weight and add bias after normalising.",
        make=changes(without("weight", "bias")),
    ),
    Mutant(
        "NRM-08",
        "not scaled; expected weight of the checkpoint",
        variant="weight",
        consequence=MOSTLY_WRONG,
        fix="Multiply by weight and add bias after normalising.",
        make=changes(without("weight")),
    ),
    Mutant(
        "NRM-08",
        "not shifted; expected bias of the checkpoint",
        variant="bias",
        consequence=MOSTLY_WRONG,
        fix="Multiply by weight and add bias after normalising.",
        make=changes(without("bias")),
    ),
    Mutant(
        "NRM-10",
        "variance from the mean of squares minus the square of the mean, in float16; expected from the differences",
        consequence="Tokens of large mean and small variance come out in another size, some as good as unnormalised.",
        fix="Subtract the mean before squaring, or compute mean and variance in float32.",
        make=corrected,
        values=one_pass_corrections,
        examples=(one_pass_in_half,),
        fitted=True,
    ),
    Mutant(
        "NRM-11",
        "statistics of this batch; expected running_mean and running_var of the checkpoint",
        consequence="The answer for a picture depends on what is in the batch with it: labels are often wrong.",
        fix="Evaluate with the running statistics: eval() in torch, training=False in Keras.",
        make=changes(Change("batch_norm", ANYWHERE, of_the_batch)),
    ),
    Mutant(
        "NRM-12",
        "folded into the kernel along its inputs; expected along its outputs",
        consequence="All shapes agree where inputs and outputs are as many, but features are wrong: labels are, too.",
        fix="Multiply kernels (out, in, height, width) by weight / sqrt(running_var + eps) along out.",
        make=changes(
            Change("conv2d", ANYWHERE, kernel_scaled_along_inputs), Change("batch_norm", ANYWHERE, only_shifted)
        ),
    ),
    Mutant(
        "NRM-13",
        "mean rounded down to a multiple of {value}; expected the mean",
        consequence="Every token is off by up to this step.",
        fix="Round the mean of fixed-point numbers to nearest, with digits to spare.",
        make=lambda step: corrected(floored_mean(step, about_it=True)),
        values=steps_of_means,
        examples=(2.0**-4,),
    ),
    Mutant(
        "NRM-13",
        "mean rounded down to a multiple of {value}, variance not; expected the mean",
        variant="mean",
        consequence="Every token is off by up to this step.",
        fix="Round the mean of fixed-point numbers to nearest, with digits to spare.",
        make=lambda step: corrected(floored_mean(step, about_it=False)),
        values=steps_of_means,
        examples=(2.0**-4,),
    ),
)
