"""The network once more, each part on the tensors that the port itself gave for its input.

The layer functions are the package's own. What differs is the scope: its operators compute bounds
(:mod:`npmobilevit.validation.bounds`), and where a layer reports its value, the port's own is put in its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from npmobilevit.models import MobileViTModel, PreTrainedModel
from npmobilevit.ops.arrays import Array
from npmobilevit.scope import Scope, is_extra
from npmobilevit.validation.bounds import Arithmetic, Bounded, Deferred, Terms, Tier
from npmobilevit.validation.profiles import Profile

# Told the name and the expected value of each tap; gives the value that the next layer is to work on.
Meet: TypeAlias = Callable[[str, Bounded | Deferred], Bounded | Deferred]


@dataclasses.dataclass(frozen=True)
class ReplayScope(Scope):
    """A scope that goes on with what `meet` answers."""

    meet: Meet = lambda name, x: x

    def out(self, x: Any) -> Any:
        return self.meet(self.name, x)


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """The same network in float64."""
    if isinstance(model, MobileViTModel):
        expand_output = model.expand_output
        return MobileViTModel(model.config, model.state_dict(), precision="float64", expand_output=expand_output)
    return type(model)(model.config, model.state_dict(), precision="float64")


def replay(
    model: PreTrainedModel,
    pixel_values: Bounded,
    arithmetic: Arithmetic,
    meet: Meet,
    parameter_errors: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Run a float64 model in another arithmetic, telling `meet` of every tap in forward order.

    Parameters
    ----------
    model : PreTrainedModel
        In float64.
    pixel_values : Bounded
    arithmetic : Arithmetic
    meet : callable
    parameter_errors : mapping of str to float
        How far the port's parameters may be from the model's; those left out are the same.
    """

    def parameter(name: str, value: Array) -> Any:
        error = parameter_errors.get(name)
        return value if error is None else Bounded(value, np.full(value.shape, error))

    weights: Any = {name: parameter(name, value) for name, value in model.parameters().items()}
    scope = ReplayScope(weights, tap=meet, ops=arithmetic.table(), meet=meet)  # type: ignore[arg-type]
    with np.errstate(over="ignore", invalid="ignore"):  # a port's tensors may hold anything; what is not finite fails
        model.forward(scope, pixel_values)  # type: ignore[arg-type]


def tap_names(model: PreTrainedModel) -> list[str]:
    """Names of all taps but the extras, in forward order."""
    side = model.config.output_stride
    blank = np.zeros((1, model.config.num_channels, side, side), np.float32)
    return list(model.taps(blank))


def recorded_terms(model: PreTrainedModel, pixel_values: Array) -> Iterator[tuple[str, Array, Terms]]:
    """What a bundle with bounds holds: for each tap its value and its terms, from exact inputs.

    Where several operations lie between a tap and those before it, n counts the roundings of all of them, and S and
    L are sums of what each of them brings to the end. Taps that repeat another or only move it are left out: no
    difference is allowed there.

    Parameters
    ----------
    model : PreTrainedModel
    pixel_values : (N, num_channels, H, W) array

    Returns
    -------
    iterator of (name, float64 array, Terms)
        In forward order.
    """
    model = in_float64(model)
    pixels = Bounded(model.check_pixel_values(pixel_values))
    sizes, roots = (_carried_terms(model, pixels, tier) for tier in ("S", "L"))
    for name, x in sizes.items():
        yield name, x.value, Terms(x.n, _in_units(x), _in_units(roots[name]))


# So small that nothing of second order is left.
_UNIT = Profile("unit", operand=0.0, accumulate=2.0**-60, store=0.0, smallest=0.0)


def _carried_terms(model: PreTrainedModel, pixels: Bounded, tier: Tier) -> dict[str, Bounded]:
    """The S or the L of each tap that is computed, as its error."""
    found: dict[str, Bounded] = {}

    def meet(name: str, x: Bounded | Deferred) -> Bounded | Deferred:
        if isinstance(x, Deferred) or is_extra(name):
            return x
        if x.error is not None:
            found[name] = x
        return Bounded(x.value)

    replay(model, pixels, Arithmetic(_UNIT, tier), meet)
    return found


def _in_units(x: Bounded) -> Array:
    assert x.error is not None
    return np.asarray(x.error / _UNIT.accumulate)
