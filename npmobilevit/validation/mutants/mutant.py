"""A mistake of the catalogue as a change of the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from numpy.typing import NDArray

from npmobilevit.config import MobileViTConfig
from npmobilevit.ops.arrays import Array
from npmobilevit.validation.lazy import Lazy
from npmobilevit.validation.mutants.changes import Change, enclosing, raw

Mode: TypeAlias = Literal["taps", "taps + picture", "two runs", "adapter", "quantised"]
MODES: tuple[Mode, ...] = get_args(Mode)


class Site(NamedTuple):
    """A tap that is not what the network makes of the taps before it.

    Attributes
    ----------
    tap : str
    expected : float64 array
        What the network makes.
    found : float64 array
        What the port has; perhaps of another shape.
    result : Lazy
        The operations between the taps before it and this one; :meth:`call` finds one of them.
    config : MobileViTConfig
    """

    tap: str
    expected: Array
    found: Array
    result: Lazy
    config: MobileViTConfig

    def call(self, op: str) -> Lazy | None:
        """The last call of an operator among them."""
        return next((x for x in self.result.calls() if x.op == op), None)

    def ends_with(self, op: str) -> tuple[list[NDArray[Any]], dict[str, Any]] | None:
        """Arguments and keywords of the call whose result this tap shows, as plain numbers; None if it shows that of
        another operator."""
        if self.result.op != op:
            return None
        return [raw(x) for x in self.result.arguments], {
            name: raw(x) if hasattr(x, "shape") else x for name, x in self.result.keywords.items()
        }


def once(_site: Site) -> Iterable[Any]:
    """The only value of a mistake without a number in it."""
    return (None,)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A mistake that ports make, as a change of the network.

    Attributes
    ----------
    id : str
        Row of the catalogue, such as "FUS-01".
    description : str
        What is found and what is expected, to follow the name of a tap: "input channels [projected, residual];
        expected [residual, projected]". "{value}" stands for the value.
    consequence : str
        What a user of the port notices.
    fix : str
        What to do.
    make : callable
        Gives the changes for a value; :func:`changes` makes it for a mistake without one.
    variant : str
        Tells several forms of one row apart.
    mode : {"taps", "taps + picture", "two runs", "adapter", "quantised"}
        What is needed to see it.
    values : callable
        Gives the values to try at a :class:`Site`: numbers such as an eps, or whatever is fitted to what was found.
    continuous : bool
        Whether the value is a positive number, and those between the values are worth a search.
    examples : tuple
        Values with which to make the mistake.
    fitted : bool
        Whether the value is so free that a mistake without one is to be preferred.
    by_shape : bool
        Whether the shape of a tap is all that can be recognised, as the port has other weights than the checkpoint.
    equivalent : str
        Why nothing can see it, if so.
    """

    id: str
    description: str
    consequence: str
    fix: str
    make: Callable[[Any], tuple[Change, ...]]
    variant: str = ""
    mode: Mode = "taps"
    values: Callable[[Site], Iterable[Any]] = once
    continuous: bool = False
    examples: tuple[Any, ...] = (None,)
    fitted: bool = False
    by_shape: bool = False
    equivalent: str = ""

    @property
    def name(self) -> str:
        """Id and variant."""
        return f"{self.id}-{self.variant}" if self.variant else self.id

    def sentence(self, value: Any) -> str:
        """The description with a value in it."""
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        return self.description.replace("{value}", shown)

    def applies_to(self, site: Site) -> bool:
        """Whether its changes can concern a tap."""
        value = next(iter(self.values(site)), self.examples[0])
        return any(_concerns(change, site) for change in self.make(value))


def changes(*changes: Change) -> Callable[[Any], tuple[Change, ...]]:
    """The `make` of a mistake without a number in it."""
    return lambda _value: changes


def _concerns(change: Change, site: Site) -> bool:
    if change.target == "out":
        return change.is_at(site.tap)
    calls = [call for call in site.result.calls() if call.op]
    if change.target == "parameters":
        leaves = ("", ".convolution", ".normalization")
        return any(change.is_at(call.node + leaf) for call in calls for leaf in leaves)
    if change.target in {call.op for call in calls}:
        return any(change.is_at(call.node) for call in calls if call.op == change.target)
    nodes = {site.tap, *(call.node for call in calls)}
    return any(change.is_at(outer) for node in nodes for outer in enclosing(node))
