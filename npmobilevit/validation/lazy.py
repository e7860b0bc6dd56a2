"""Values that are computed when they are asked for: of a walk through a network only what is looked at costs time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from npmobilevit.ops.arrays import Array
from npmobilevit.scope import OpTable


class Lazy:
    """The result of an operation that is yet to be run.

    Parameters
    ----------
    function : callable
    arguments : sequence
        May hold other lazy values, also within lists.
    keywords : mapping
    op : str
        Name of the operator in the table; "" for a mere move.
    node : str
        Name of the scope that asked for it.
    """

    __slots__ = ("_done", "_value", "arguments", "function", "keywords", "node", "op")

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        keywords: Mapping[str, Any] | None = None,
        op: str = "",
        node: str = "",
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.keywords = keywords or {}
        self.op = op
        self.node = node
        self._done = False
        self._value: Any = None

    def force(self) -> Any:
        """The value itself."""
        if not self._done:
            self._value = forced(self.function(*(forced(x) for x in self.arguments), **self.keywords))
            self._done = True
        return self._value

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.force().shape
        return shape

    def __getitem__(self, index: Any) -> Lazy:
        return self.moved(lambda x: x[index])

    def moved(self, move: Callable[[Array], Array]) -> Lazy:
        """The same values at other places."""
        return Lazy(moved, (self, move))

    def calls(self) -> Iterator[Lazy]:
        """This operation and those it rests on, each once, the last first."""
        seen: set[int] = set()
        waiting: list[Any] = [self]
        while waiting:
            x = waiting.pop(0)
            if isinstance(x, list | tuple):
                waiting += x
            elif isinstance(x, Lazy) and id(x) not in seen:
                seen.add(id(x))
                yield x
                waiting += x.arguments


def moved(x: Any, move: Callable[[Array], Array]) -> Any:
    """The values of an array, or of what stands for one, at other places."""
    return x.moved(move) if hasattr(x, "moved") else move(x)


def forced(x: Any) -> Any:
    """The value behind a lazy one, also in a list; anything else as it is."""
    if isinstance(x, list | tuple):
        return [forced(item) for item in x]
    return x.force() if isinstance(x, Lazy) else x


def postponed(table: OpTable, node: str) -> OpTable:
    """A table of operators that give lazy values."""

    def later(op: str, function: Callable[..., Any]) -> Callable[..., Lazy]:
        return lambda *arguments, **keywords: Lazy(function, arguments, keywords, op=op, node=node)

    operators: dict[str, Any] = table._asdict()
    activations = _Activations(operators.pop("activations"), later)
    lazy: dict[str, Any] = {op: later(op, function) for op, function in operators.items()}
    return OpTable(**lazy, activations=activations)


class _Activations(Mapping[str, Callable[..., Any]]):
    """The activations of a table, each made lazy when it is taken out."""

    def __init__(self, own: Mapping[str, Callable[..., Any]], later: Callable[..., Callable[..., Lazy]]) -> None:
        self._own, self._later = own, later

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._later("activation", self._own[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)
