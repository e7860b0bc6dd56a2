"""The network once more, each part on the tensors that the port itself gave for its input.

The layer functions are the package's own. What differs is the scope: its operators compute bounds
(:mod:`npmobilevit.validation.bounds`) when somebody looks at their results, where a layer reports its value the port's
own is put in its place, and a mistake may be put in besides (:mod:`npmobilevit.validation.mutants`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self, TypeAlias

import numpy as np

from npmobilevit.models import MobileViTModel, PreTrainedModel
from npmobilevit.ops.arrays import Array
from npmobilevit.scope import OpTable, Scope, is_extra
from npmobilevit.validation.bounds import Arithmetic, Bounded, Terms, Tier
from npmobilevit.validation.lazy import Lazy, forced, postponed
from npmobilevit.validation.mutants.changes import OPERATORS, Change
from npmobilevit.validation.profiles import Profile

# Told the name and the value of each tap, a Bounded or Deferred one that may be lazy; gives what the next layer is to
# work on.
Meet: TypeAlias = Callable[[str, Any], Any]


@dataclasses.dataclass(frozen=True)
class ReplayScope(Scope):
    """A scope that goes on with what `meet` answers, and in which mistakes can be made.

    Parameters
    ----------
    table : OpTable
        The operators, on values as they are.
    meet : callable
    changes : tuple of Change
    known : callable (name) -> value or None
        What a block puts out, if it need not be run.
    """

    table: OpTable = OpTable()  # noqa: RUF009  (a NamedTuple cannot be changed)
    meet: Meet = lambda name, x: x
    changes: tuple[Change, ...] = ()
    known: Callable[[str], Any] = lambda name: None

    def of_node(self, name: str) -> Self:
        here = [change for change in self.changes if change.target in OPERATORS and change.is_at(name)]
        table = self._changed(here, name) if here else self.table  # at most nodes there is none
        return dataclasses.replace(self, name=name, ops=postponed(table, name))

    def _changed(self, changes: Sequence[Change], name: str) -> OpTable:
        """The operators with changes; these reach the true ones through their scope."""
        scope = dataclasses.replace(self, name=name, ops=self.table)
        changed: dict[str, Any] = self.table._asdict()
        for target, _, function in changes:
            if target == "activation":
                own = changed["activations"]
                changed["activations"] = {key: functools.partial(function, scope, own[key]) for key in own}
            else:
                changed[target] = functools.partial(function, scope, changed[target])
        return OpTable(**changed)

    def _changes_at(self, node: str, target: str) -> list[Change]:
        return [change for change in self.changes if change.target == target and change.is_at(node)]

    def params(self) -> dict[str, Any]:
        parameters = super().params()
        for change in self._changes_at(self.name, "parameters"):
            parameters = change.function(self, parameters)
        return parameters

    def out(self, x: Any) -> Any:
        for change in self._changes_at(self.name, "out"):
            x = Lazy(functools.partial(change.function, self), (x,), op="out", node=self.name)
        return self.meet(self.name, x)

    def enter(self, block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = block.__name__
        known = None if name == "encoder" else self.known(self.name)  # that returns five maps
        if known is not None:
            return known
        for change in [] if name in OPERATORS else self._changes_at(self.name, name):
            block = functools.partial(_instead_of, block, change.function)
        return block(self, *args, **kwargs)

    def in_parts(self, attend: Callable[..., Any], query: Any, key: Any, value: Any) -> Any:
        return attend(self, query, key, value)  # lazy, and in parts when it is looked at


def _instead_of(block: Callable[..., Any], function: Callable[..., Any], s: Scope, *args: Any, **kwargs: Any) -> Any:
    return function(s, block, *args, **kwargs)


def run_changed(
    model: PreTrainedModel, pixel_values: Array, changes: Sequence[Change], **operators: Any
) -> dict[str, Array]:
    """What a port with mistakes dumps.

    Parameters
    ----------
    model : PreTrainedModel
    pixel_values : (N, num_channels, H, W) array
    changes : sequence of Change
    **operators
        Those of another arithmetic, by their names in the table.

    Returns
    -------
    dict of str to array
        All taps but the extras, in forward order.
    """
    taps = {"pixel_values": pixel_values}

    def meet(name: str, x: Any) -> Array:
        value: Array = forced(x)
        if name and not is_extra(name):
            taps[name] = value
        return value

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a mistake may overflow
        scope = ReplayScope(model.parameters(), tap=meet, table=OpTable()._replace(**operators), meet=meet)
        model.forward(dataclasses.replace(scope, changes=tuple(changes)).of_node(""), pixel_values)
    return taps


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """The same network in float64."""
    if isinstance(model, MobileViTModel):
        expand_output = model.expand_output
        return MobileViTModel(model.config, model.state_dict(), precision="float64", expand_output=expand_output)
    return type(model)(model.config, model.state_dict(), precision="float64")


def replay(
    model: PreTrainedModel,
    pixel_values: Any,
    table: OpTable,
    meet: Meet,
    parameter_errors: Mapping[str, float | Array] = MappingProxyType({}),
    changes: Sequence[Change] = (),
    known: Callable[[str], Any] = lambda name: None,
) -> None:
    """Run a float64 model with other operators, telling `meet` of every tap in forward order.

    Parameters
    ----------
    model : PreTrainedModel
        In float64.
    pixel_values : Bounded, or what else the operators work on
    table : OpTable
        Of an :class:`Arithmetic`, or the plain one.
    meet : callable
    parameter_errors : mapping of str to float or array
        How far the port's parameters may be from the model's; those left out are the same.
    changes : sequence of Change
        Mistakes to make on the way.
    known : callable (name) -> value or None
        What a block puts out, if it need not be run.
    """

    weights: dict[str, Any] = dict(model.parameters())
    for name, error in parameter_errors.items():
        weights[name] = Bounded(weights[name], np.full(weights[name].shape, error))
    scope = ReplayScope(weights, tap=meet, table=table, meet=meet, changes=tuple(changes), known=known)
    with np.errstate(over="ignore", invalid="ignore"):  # a port's tensors may hold anything; what is not finite fails
        model.forward(scope.of_node(""), pixel_values)


def tap_names(model: PreTrainedModel) -> list[str]:
    """Names of all taps but the extras, in forward order."""
    return list(model.taps(blank_picture(model)))


def blank_picture(model: PreTrainedModel) -> Array:
    """The smallest input of a network (1, C, S, S), black: for a look at what is in it."""
    side = model.config.output_stride
    return np.zeros((1, model.config.num_channels, side, side), model.dtype)


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

    def meet(name: str, x: Any) -> Any:
        if is_extra(name):
            return x
        bounded: Bounded = forced(x)
        if bounded.error is not None:
            found[name] = bounded
        return Bounded(bounded.value)

    replay(model, pixels, Arithmetic(_UNIT, tier).table(), meet)
    return found


def _in_units(x: Bounded) -> Array:
    assert x.error is not None
    return np.asarray(x.error / _UNIT.accumulate)
