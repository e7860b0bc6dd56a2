"""A plan is made of NumPy calls on fixed arrays: what is decided once is not decided in every forward pass."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from npmobilevit.engine.folding import Floats

Call: TypeAlias = tuple[Callable[..., object], tuple[Any, ...]]
Allocate: TypeAlias = Callable[[int], Floats]  # number of values to a new array

PIECE = 1 << 22  # values: 16 MiB


class Arena:
    """Memory for the arrays of a plan, taken from the system in large pieces: Linux maps these in large pages.

    Parameters
    ----------
    obtain : callable
        Number of values to a new array of any content.
    """

    def __init__(self, obtain: Allocate) -> None:
        self._obtain = obtain
        self._piece = np.zeros(0, np.float32)
        self._used = 0
        self.taken = 0  # values in all

    def empty(self, size: int) -> Floats:
        """An array of any content."""
        if self._used + size > self._piece.size:
            self._piece, self._used = self._obtain(max(size, PIECE)), 0
        start, self._used = self._used, self._used + size + gap(size)
        self.taken += size
        return self._piece[start : start + size]

    def zeros(self, size: int) -> Floats:
        """An array of zeros."""
        array = self.empty(size)
        array.fill(0)
        return array


def from_heap(size: int) -> Floats:
    """Memory of this process alone; what is not touched yet costs nothing."""
    return np.empty(size, np.float32)


def gap(size: int) -> int:
    """How many values to leave free behind an array.

    The next one begins at a cache line, and some further: arrays at the same offset of a page would evict one another.
    """
    return -size % 16 + 48


class Scratch:
    """Working memory of one worker, used anew in every stage.

    Parameters
    ----------
    allocate : callable
        Number of values to a new array of any content.
    """

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._block = np.zeros(0, np.float32)
        self._used = 0
        self.most = 0  # values at a time

    def take(self, *shape: int) -> Floats:
        """A contiguous array of any content, which lasts to the end of the frame."""
        size = math.prod(shape)
        if self._used + size > self._block.size:  # views of a smaller block stay with the calls that hold them
            self._block, self._used = self._allocate(max(size, 2 * self._block.size, PIECE)), 0
        start, self._used = self._used, self._used + size + gap(size)
        self.most = max(self.most, self._used)
        return self._block[start : start + size].reshape(shape)

    @contextlib.contextmanager
    def frame(self) -> Iterator[None]:
        """While this lasts, memory is taken; afterwards it is free for what follows, as between two stages."""
        block, used = self._block, self._used
        yield
        self._used = used if self._block is block else 0  # what was taken before lies in a smaller block


class Program:
    """NumPy calls to be made one after the other.

    Parameters
    ----------
    scratch : Scratch
    """

    def __init__(self, scratch: Scratch) -> None:
        self.calls: list[Call] = []
        self.scratch = scratch

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Add a call. Its result is ignored: the arguments say where it goes."""
        self.calls.append((function, arguments))


class Stage(NamedTuple):
    """Programs that may run at the same time, one for each worker; the next stage needs all of them."""

    name: str
    programs: tuple[tuple[Call, ...], ...]


def run(calls: tuple[Call, ...]) -> None:
    """Make the calls."""
    for function, arguments in calls:
        function(*arguments)


def parts(length: int, count: int) -> Iterator[tuple[int, int]]:
    """Cut 0..length in `count` ranges of nearly the same size; some are empty if there is too little.

    >>> list(parts(5, 2))
    [(0, 2), (2, 5)]
    """
    for i in range(count):
        yield length * i // count, length * (i + 1) // count


def pieces(length: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut 0..length in as few ranges of nearly the same size as are needed for `most` at most.

    >>> list(pieces(5, 3))
    [(0, 2), (2, 5)]
    """
    return parts(length, -(-length // most))
