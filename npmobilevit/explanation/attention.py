"""What the tokens of each MobileViT block attend to, kept small enough for a page.

Attention is gathered while the network runs, part after part: as a whole it would have L x L values for each head and
pixel position. What is kept are means over groups of neighbouring patches, each as one of 16 levels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from npmobilevit.ops.arrays import Array
from npmobilevit.scope import Scope, Tap

Patches: TypeAlias = tuple[int, int]  # rows and columns

LEVELS = 15  # the largest; with 0 they fit into half a byte
PEAK_LEVELS = 65535
MOST_GROUPS = 256  # of patches, that attend and that are attended to: 16 x 16
MOST_VALUES = 2_400_000  # of a page: 1.2 MB, and a third more in base64
MOST_OFFSETS = 4  # along an axis of a patch


@dataclasses.dataclass(frozen=True, eq=False)
class BlockAttention:
    """What is attended to in one MobileViT block.

    T transformer layers, O pixel positions, h heads, Q groups of patches that attend, K groups that are attended to.
    A group has `query_step` or `key_step` patches along each axis, the last of a row or column what is left of them.

    Attributes
    ----------
    name : str
        Of the block, such as "mobilevit.encoder.layer.2".
    patches : (int, int)
        Rows and columns of patches.
    patch_size : int
    offsets : sequence of (py, px)
        The pixel positions within a patch: each attends to the same position in other patches.
    query_step, key_step : int
    peaks : (T, O, h, Q) uint16 array
        The square root of the largest attention of each row, in steps of 1/65535.
    levels : (T, O, h, Q, K) uint8 array
        The square root of attention over that of the largest of its row, in steps of 1/15.
    """

    name: str
    patches: Patches
    patch_size: int
    offsets: Sequence[tuple[int, int]]
    query_step: int
    key_step: int
    peaks: NDArray[np.uint16]
    levels: NDArray[np.uint8]

    def probabilities(self) -> NDArray[np.float64]:
        """Attention (T, O, h, Q, K) as the page has it: the mean of a patch of the one group to one of the other.

        It is off by rounding: its square root by at most 1/30 of the square root of the row's largest value.
        """
        largest = np.square(self.peaks / PEAK_LEVELS)[..., np.newaxis]
        return largest * np.square(self.levels / LEVELS)


class Sums(NamedTuple):
    """Attention summed over groups of patches, (T, O, h, rows, columns, rows, columns), and the steps of the groups."""

    name: str
    patches: Patches
    query_step: int
    key_step: int
    values: NDArray[Any]

    def coarser(self) -> Sums:
        """The same with fewer groups: those that attend first, as fine maps tell more than a fine choice of them."""
        if math.prod(self.values.shape[3:5]) > 1:
            return self._replace(query_step=2 * self.query_step, values=grouped(self.values, (3, 4), 2))
        return self._replace(key_step=2 * self.key_step, values=grouped(self.values, (5, 6), 2))

    def quantised(self, patch_size: int) -> BlockAttention:
        """Means in levels."""
        queries, keys = (group_sizes(self.patches, step) for step in (self.query_step, self.key_step))  # (r, c) each
        layers, offsets, heads = self.values.shape[:3]
        sums = self.values.reshape(layers, offsets, heads, queries.size, keys.size).astype(np.float64)
        means = sums / (queries.reshape(-1, 1) * keys.ravel())
        largest = means.max(axis=-1)
        return BlockAttention(
            name=self.name,
            patches=self.patches,
            patch_size=patch_size,
            offsets=offsets_shown(patch_size),
            query_step=self.query_step,
            key_step=self.key_step,
            peaks=np.rint(PEAK_LEVELS * np.sqrt(largest)).astype(np.uint16),
            levels=np.rint(LEVELS * np.sqrt(means / largest[..., np.newaxis])).astype(np.uint8),
        )


@dataclasses.dataclass(frozen=True)
class WatchingScope(Scope):
    """A scope that tells of the attention of every head, part after part.

    Parameters
    ----------
    reduce : callable (array) -> array
        What to keep of probabilities (S, 1, Q, L).
    heard : callable (name, parts, heads)
        Told of what was kept in one self-attention, in the order of heads and then queries.
    """

    reduce: Callable[[Array], Array] = lambda x: x
    heard: Callable[[str, Sequence[Array], int], object] = lambda name, parts, heads: None

    def in_parts(self, attend: Callable[..., Array], query: Array, key: Array, value: Array) -> Array:
        parts: list[Array] = []

        def keep(name: str, x: Array) -> None:
            if name.endswith(".probs"):
                parts.append(self.reduce(x))

        def watched(s: Scope, *projections: Array) -> Array:
            return attend(dataclasses.replace(s, tap=keep), *projections)

        y = super().in_parts(watched, query, key, value)
        self.heard(self.name, parts, query.shape[1])
        return y


class AttentionGatherer:
    """Gathers the attention of a forward pass of one picture.

    Parameters
    ----------
    patch_size : int
    """

    def __init__(self, patch_size: int) -> None:
        self.patch_size = patch_size
        self._sequences = [py * patch_size + px for py, px in offsets_shown(patch_size)]
        self._patches: Patches = (1, 1)
        self._layers: dict[str, tuple[Patches, list[NDArray[Any]]]] = {}

    def scope(self, scope: Scope, tap: Tap) -> WatchingScope:
        """The root of the network, with this listener beside `tap`."""

        def hear(name: str, x: Array) -> None:
            if name.endswith(".conv_1x1") and x.ndim == 4:  # the map that is cut into patches, rounded up
                self._patches = (-(-x.shape[2] // self.patch_size), -(-x.shape[3] // self.patch_size))
            tap(name, x)

        return WatchingScope(
            scope.weights, tap=hear, ops=scope.ops, wants=scope.wants, reduce=self._reduced, heard=self._heard
        )

    def blocks(self, most_values: int = MOST_VALUES) -> tuple[BlockAttention, ...]:
        """What was gathered, coarse enough to have at most so many values in all."""
        sums = [
            Sums(name, patches, step := group_step(patches), step, np.stack(layers))
            for name, (patches, layers) in self._layers.items()
        ]
        return tuple(found.quantised(self.patch_size) for found in within(sums, most_values))

    def _reduced(self, probabilities: Array) -> Array:
        """(P, 1, Q, L) of a part -> (O, 1, Q, rows, columns): the positions shown, summed over groups of patches."""
        x = probabilities[self._sequences]
        x = x.reshape(*x.shape[:3], *self._patches)
        return grouped(x, (3, 4), group_step(self._patches))

    def _heard(self, name: str, parts: Sequence[Array], heads: int) -> None:
        x = np.concatenate(parts, axis=2)  # (O, 1, h*L, rows, columns)
        x = x.reshape(len(x), heads, *self._patches, *x.shape[3:])  # (O, h, rows, columns, rows, columns)
        block = name.partition(".transformer.")[0]
        layers = self._layers.setdefault(block, (self._patches, []))[1]
        layers.append(grouped(x, (2, 3), group_step(self._patches)))


def offsets_shown(patch_size: int) -> list[tuple[int, int]]:
    """The pixel positions (py, px) that are shown: all of a patch of up to 4 x 4, else 16 that are spread over it."""
    shown = min(patch_size, MOST_OFFSETS)
    along = [i * patch_size // shown for i in range(shown)]
    return [(py, px) for py in along for px in along]


def group_step(patches: Patches, most: int = MOST_GROUPS) -> int:
    """The fewest patches along each axis of a group with which there are at most so many groups."""
    step = 1
    while math.prod(-(-n // step) for n in patches) > most:
        step += 1
    return step


def grouped(x: NDArray[Any], axes: Iterable[int], step: int) -> NDArray[Any]:
    """Sums over so many neighbours along each of the axes; the last group of an axis has what is left."""
    for axis in axes if step > 1 else ():
        along = np.moveaxis(x, axis, 0)
        sums = along[::step].copy(order="K")
        for i in range(1, step):  # several times faster than np.add.reduceat
            members = along[i::step]
            sums[: len(members)] += members
        x = np.moveaxis(sums, 0, axis)
    return x


def group_sizes(patches: Patches, step: int) -> NDArray[np.int64]:
    """How many patches each group has, (rows, columns)."""
    return grouped(np.ones(patches, np.int64), (0, 1), step)


def within(blocks: Sequence[Sums], most_values: int) -> list[Sums]:
    """The blocks, the largest made coarser until all together have at most so many values."""
    found = list(blocks)
    while sum(block.values.size for block in found) > most_values:
        i = max(range(len(found)), key=lambda i: found[i].values.size)
        if math.prod(found[i].values.shape[3:]) == 1:
            break  # nothing is left to join
        found[i] = found[i].coarser()
    return found
