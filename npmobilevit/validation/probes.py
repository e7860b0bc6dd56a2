"""Operator probes: small inputs for single operators, each made to expose mistakes of the catalogue.

A backend that can run one operator gets these: addresses (each element holds its own index), impulses, rows of small
variance, sizes at which two conventions part. All values are made by formulas, and but for one probe all of them are
numbers of bfloat16 and float16, so that no port has to round its input.

Results of mere movement and of small integers allow no difference; the others have the tolerances of
:mod:`npmobilevit.validation.bounds`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npmobilevit.errors import BundleError
from npmobilevit.ops.arrays import Array
from npmobilevit.scope import OpTable
from npmobilevit.validation.bounds import Arithmetic, Bounded
from npmobilevit.validation.candidates import read_candidate
from npmobilevit.validation.comparing import compare, unmeasured
from npmobilevit.validation.profiles import Profile
from npmobilevit.validation.report import Finding, Judgement

Arrays = Mapping[str, Array]

# What an operator works on; the other arrays are its parameters.
_DATA = ("x",)
_ATTENDING = ("query", "key", "value")
_WITH_PARAMETERS = ("conv2d", "batch_norm", "layer_norm", "linear")


@dataclasses.dataclass(frozen=True)
class Probe:
    """An input for one operator.

    Attributes
    ----------
    name : str
    op : str
        Name in :mod:`npmobilevit.ops`.
    make : callable
        Gives the arrays by the names of the operator's arguments; those of a mapping are "query.weight" and so on.
    attributes : mapping
        The other arguments of the operator, by name.
    catches : tuple of str
        Rows of the catalogue of mistakes.
    why : str
        What the input is made for, one sentence.
    integer : bool
        Whether all sums are of integers that add up to no more than 256 in size: then every partial sum is exact
        in any order, even in bfloat16.
    """

    name: str
    op: str
    make: Callable[[], Arrays]
    attributes: Mapping[str, Any]
    catches: tuple[str, ...]
    why: str
    integer: bool = False

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays, made anew each time."""
        return {name: np.array(value, np.float32) for name, value in self.make().items()}


class Outcome(NamedTuple):
    """What became of a probe.

    Attributes
    ----------
    judgement : Judgement
    finding : Finding or None
        None if the result is right.
    """

    judgement: Judgement
    finding: Finding | None


# --- judging


def applied(table: OpTable, op: str, arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    """An operator of `npmobilevit.ops`, by those of a table.

    Parameters
    ----------
    table : OpTable
    op : str
    arrays : mapping of str to value
        Values that the table works on.
    attributes : mapping

    Returns
    -------
    value
    """
    if op == "scaled_dot_product_attention":
        return _attended(table, *(arrays[name] for name in _ATTENDING))
    x = arrays["x"]
    if op == "multi_head_attention":
        heads = attributes["num_heads"]
        mixed = _attended(
            table, *(table.split_heads(table.linear(x, **_leaves(arrays, name)), heads) for name in _ATTENDING)
        )
        return table.linear(table.merge_heads(mixed), **_leaves(arrays, "output"))
    if op == "softmax":  # the table's is along the last axis
        return table.softmax(x)
    function = getattr(table, op) if op in table._fields else table.activations[op]
    if op in _WITH_PARAMETERS:
        parameters = {name: value for name, value in arrays.items() if name not in _DATA}
        return function(x, **parameters, **attributes)
    return function(x, *attributes.values())


def _attended(table: OpTable, query: Any, key: Any, value: Any) -> Any:
    return table.attend(table.softmax(table.attention_scores(query, key)), value)


def _leaves(arrays: Mapping[str, Any], module: str) -> dict[str, Any]:
    prefix = f"{module}."
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def expected(probe: Probe, profile: Profile) -> Bounded:
    """The right result, and how far an honest port of this profile may be from it.

    Parameters
    ----------
    probe : Probe
    profile : Profile

    Returns
    -------
    Bounded
    """
    arrays: dict[str, Any] = {name: np.asarray(value, np.float64) for name, value in probe.arrays.items()}
    arrays |= {name: Bounded(arrays[name]) for name in (*_DATA, *_ATTENDING) if name in arrays}
    result: Bounded = applied(Arithmetic(profile, "fail").table(), probe.op, arrays, probe.attributes)
    return dataclasses.replace(result, error=None) if probe.integer and not profile.quantized else result


def can_judge(profile: Profile) -> bool:
    """Whether tolerances are known: those of fixed point follow from steps, which no operator states."""
    return not profile.stated


def judge(probe: Probe, result: Any, profile: Profile) -> Outcome:
    """The outcome of a probe.

    Parameters
    ----------
    probe : Probe
    result : array_like
        What a backend made of it; anything may come.
    profile : Profile

    Returns
    -------
    Outcome
    """
    right = expected(probe, profile)
    try:
        found = np.asarray(read_candidate({probe.name: result}).tensors[probe.name], np.float64)
    except BundleError as error:
        return _unusable(probe, "result", f"gives what is no array: {error}", ())
    if found.shape != right.shape:
        return _unusable(probe, "shape", f"gives shape {found.shape}, expected {right.shape}", found.shape)
    finite = np.isfinite(found)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        text = f"gives {found[first]} at index {first}, where {right.value[first]:.6g} is expected"
        return _unusable(probe, "non-finite", text, found.shape)
    tolerance = np.zeros(right.shape) if right.error is None else right.error
    judgement = compare(probe.name, found, right.value, tolerance, test="exact" if right.error is None else "local")
    return Outcome(judgement, _finding(probe, "error", _difference(judgement)) if judgement.beyond else None)


def _difference(judgement: Judgement) -> str:
    by = "" if math.isinf(judgement.ratio) else f", {judgement.ratio:.3g} times the tolerance off"
    return (
        f"gives {judgement.found:.6g} at index {judgement.worst}, expected {judgement.expected:.6g}{by}; "
        f"{judgement.beyond} of {math.prod(judgement.shape)} elements are wrong"
    )


def _unusable(probe: Probe, kind: str, text: str, shape: tuple[int, ...]) -> Outcome:
    return Outcome(unmeasured(probe.name, shape), _finding(probe, kind, text))


def _finding(probe: Probe, kind: str, text: str) -> Finding:
    return Finding(probe.name, "fail", kind, f"{text}; the probe is made for {', '.join(probe.catches)}")


# --- values


def addresses(*shape: int, start: int = 0) -> Array:
    """Each element holds its own index."""
    return np.arange(start, start + math.prod(shape), dtype=np.float64).reshape(shape)


def mixed(*shape: int, most: int, seed: int = 0) -> Array:
    """Integers from -most to most without a visible order."""
    i = np.arange(math.prod(shape)) + seed
    return np.asarray((i * i * 5 + i * 11) // 3 % (2 * most + 1) - most, np.float64).reshape(shape)


def _two_impulses() -> Arrays:
    x = np.zeros((1, 2, 5, 9))
    x[0, 0, 2, 2] = x[0, 1, 2, 6] = 1  # so far apart that their responses do not meet
    return {"x": x, "weight": addresses(2, 2, 3, 3, start=1)}


def _convolved(x: Array, *weight_shape: int, bias: bool = False) -> Callable[[], Arrays]:
    arrays = {"x": x, "weight": mixed(*weight_shape, most=2, seed=3)}
    return lambda: arrays | ({"bias": addresses(weight_shape[0], start=1)} if bias else {})


def _normalized_maps() -> Arrays:
    return {
        "x": mixed(2, 3, 2, 3, most=8) / 4,
        "weight": np.array([1.5, -0.5, 2]),
        "bias": np.array([0.25, 1, -2]),
        "running_mean": np.array([0.5, -1, 2]),
        "running_var": np.array([2.0**-10, 0.25, 4]),
    }


def _normalized_tokens(x: Array) -> Callable[[], Arrays]:
    width = x.shape[-1]
    return lambda: {"x": x, "weight": 0.5 + addresses(width) / 4, "bias": mixed(width, most=3, seed=1) / 2}


def _of_small_variance() -> Array:
    return np.asarray(mixed(1, 4, 8, most=4) * np.array([2.0**-10, 2.0**-11, 2.0**-8, 1])[:, np.newaxis])


def _fractions() -> Arrays:
    return {"x": (1 + addresses(2, 16)) / 7, "weight": np.sin(1 + addresses(3, 16))}


def _around_zero() -> Arrays:
    steps = np.arange(-48, 49) / 4
    return {"x": np.array([*steps, -0.0, 2.0**-10, -(2.0**-10), 100, -100])}


def _long_row() -> Array:
    """One score of 0 and 255 of -8: 2**-11.5 of its weight each, and together a twelfth."""
    scores = np.full((1, 1, 1, 256), -8.0)
    scores[..., 0] = 0
    return scores


def _heads(scale: float) -> Callable[[], Arrays]:
    return lambda: {
        "query": mixed(1, 2, 4, 4, most=3) * scale,
        "key": mixed(1, 2, 4, 4, most=3, seed=5) * scale,
        "value": mixed(1, 2, 4, 4, most=9, seed=2),
    }


def _projected_heads() -> Arrays:
    arrays = {"x": mixed(2, 3, 8, most=2) / 2}
    for seed, name in enumerate((*_ATTENDING, "output")):
        arrays[f"{name}.weight"] = mixed(8, 8, most=3, seed=11 * seed) / 4
        arrays[f"{name}.bias"] = mixed(8, most=3, seed=7 * seed + 2) / 2
    return arrays


def _only(x: Array) -> Callable[[], Arrays]:
    return lambda: {"x": x}


# --- the probes


def _probe(name: str, make: Callable[[], Arrays], catches: str, why: str, *, integer: bool = False, **a: Any) -> Probe:
    """The operator is what the name begins with."""
    return Probe(name, name.partition("-")[0], make, MappingProxyType(a), tuple(catches.split()), why, integer)


def _conv2d(
    name: str,
    make: Callable[[], Arrays],
    catches: str,
    why: str,
    *,
    integer: bool = True,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Probe:
    """Where Winograd's algorithm may compute it, integers do not stay integers."""
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _probe(f"conv2d-{name}", make, catches, why, integer=integer, **geometry)


PROBES: tuple[Probe, ...] = (
    _conv2d(
        "orientation", _two_impulses, "CNV-03 CNV-05",
        "Impulses show every kernel as it is applied: not turned, and its channels not exchanged.",
        integer=False,
    ),
    _conv2d(
        "border", lambda: {"x": addresses(1, 1, 4, 6, start=8), "weight": addresses(1, 1, 3, 3, start=1)}, "CNV-07",
        "All pixels are large, so that a border of anything but zeros shows.",
        integer=False,
    ),
    _conv2d(
        "stride-2-even", _convolved(mixed(2, 2, 6, 8, most=3), 3, 2, 3, 3), "CNV-01",
        "At even sides padding of one on each side and 'same' padding of (0, 1) part.",
        stride=2,
    ),
    _conv2d(
        "stride-2-odd", _convolved(mixed(2, 2, 5, 7, most=3, seed=1), 3, 2, 3, 3), "CNV-01",
        "At odd sides the output has one row and column more than half.",
        stride=2,
    ),
    _conv2d(
        "depthwise", _convolved(mixed(1, 4, 5, 6, most=3), 4, 1, 3, 3), "CNV-02 CNV-05 CNV-06",
        "Every channel has a filter of its own, and no two filters are alike.",
        groups=4,
    ),
    _conv2d(
        "dilated", _convolved(mixed(1, 2, 7, 9, most=3), 2, 2, 3, 3), "SEG-02",
        "The taps of the kernel lie two pixels apart, and the padding is two.",
        padding=2, dilation=2,
    ),
    _conv2d(
        "pointwise", _convolved(mixed(2, 3, 3, 5, most=9), 3, 3, 1, 1, bias=True), "CNV-03 SEG-13 SYS-01",
        "A square kernel, a bias that differs for each channel, and two pictures.",
        padding=0,
    ),
    _probe(
        "batch_norm-statistics", _normalized_maps, "NRM-01 NRM-02 NRM-03 NRM-11 WGT-06",
        "One variance is as small as the eps of 1e-3, one is below 1 and one above; means and biases are not zero.",
        eps=1e-5,
    ),
    _probe(
        "layer_norm-small-variance", _normalized_tokens(_of_small_variance()), "NRM-05 NRM-06 NRM-14",
        "Variances of tokens are around eps, which decides their size.",
        eps=1e-5,
    ),
    _probe(
        "layer_norm-large-mean", _normalized_tokens(128 + mixed(1, 3, 16, most=3)), "NRM-10",
        "The mean is large beside the deviation: the square of the mean swallows a variance found in one pass.",
        eps=1e-5,
    ),
    _probe(
        "layer_norm-axes", _normalized_tokens(mixed(2, 5, 5, most=9) / 2), "NRM-07 NRM-08 NRM-13 NUM-08",
        "As many tokens as channels, so that any axis can be normalised; means are no integers.",
        eps=1e-5,
    ),
    _probe(
        "linear-square",
        lambda: {"x": mixed(2, 3, 4, most=5), "weight": mixed(4, 4, most=3, seed=4), "bias": addresses(4, start=1)},
        "WGT-03 HED-03 ATT-06",
        "A square weight fits transposed, too, and every element of the bias differs.",
        integer=True,
    ),
    _probe(
        "linear-long", lambda: {"x": np.ones((1, 4096)), "weight": np.ones((2, 4096)) * [[1], [0.5]]}, "NUM-01",
        "4096 ones: a sum in half precision stops growing at 2048.",
    ),
    _probe(
        "linear-fractions", _fractions, "NUM-02",
        "Factors with all digits of float32, of which TF32 drops thirteen bits.",
    ),
    _probe(
        "silu-range", _around_zero, "TRF-05 TRF-06 NUM-03",
        "A fine grid around zero, where all such functions differ, and ends at which exp overflows.",
    ),
    _probe("relu-range", _around_zero, "SEG-01", "A fine grid around zero: negative numbers become zero exactly."),
    _probe(
        "softmax-axis", _only(mixed(1, 2, 4, 4, most=3)), "ATT-04",
        "As many rows as columns: sums along either axis have the right shape.",
        axis=-1,
    ),
    _probe(
        "softmax-large", _only(np.array([[[[100.0, 99, 0, -100], [12, 10, 11, -12]]]])), "ATT-13",
        "Scores whose exp overflows in float32 and in float16.",
        axis=-1,
    ),
    _probe(
        "softmax-long", _only(_long_row()), "NUM-10",
        "One large and 255 small terms, which a sum in half precision loses.",
        axis=-1,
    ),
    _probe(
        "scaled_dot_product_attention-square", _heads(0.5), "ATT-03 ATT-04 ATT-09",
        "As many tokens as channels: keys that are not transposed fit, too.",
    ),
    _probe(
        "scaled_dot_product_attention-large", _heads(8.0), "ATT-13",
        "Scores of some hundreds, whose exp overflows unless the largest is subtracted.",
    ),
    _probe(
        "multi_head_attention-heads", _projected_heads,
        "ATT-01 ATT-02 ATT-03 ATT-05 ATT-06 ATT-08 ATT-10 WGT-01 WGT-03",
        "No two rows of the projections are alike, so that any other order or number of heads shows.",
        num_heads=4,
    ),
    _probe(
        "unfold_patches-addresses", _only(addresses(2, 2, 4, 8)), "UNF-01 UNF-02 UNF-03 UNF-11 SYS-01",
        "Every pixel holds its own address, and the map is not square.",
        patch_size=2,
    ),
    _probe(
        "fold_patches-addresses", _only(addresses(8, 8, 2)), "UNF-01 UNF-03 UNF-04",
        "Every token holds its own address, and the map is not square.",
        patch_size=2, height=4, width=8,
    ),
    _probe(
        "resize_bilinear-up", _only(mixed(2, 1, 3, 5, most=9)), "UNF-09 UNF-10",
        "From an odd, non-square map to whole patches.",
        size=(4, 6),
    ),
    _probe(
        "resize_bilinear-down", _only(mixed(1, 2, 4, 6, most=9)), "UNF-08 UNF-09 UNF-10",
        "And back: a map that becomes a little smaller, without averaging.",
        size=(3, 5),
    ),
    _probe(
        "resize_bilinear-mask", _only(mixed(1, 2, 2, 3, most=9)), "SEG-10",
        "Four times as large, as logits are on their way to a mask.",
        size=(8, 12),
    ),
    _probe(
        "global_avg_pool-odd", _only(mixed(2, 3, 5, 7, most=9)), "HED-02 SYS-01",
        "Sides that no window divides, with numbers of both signs, and two pictures.",
    ),
)  # fmt: skip
