"""How maps lie in memory: channel by channel, each with a margin of zeros, so that a tap is an offset.

A convolution adds shifted copies of a map. In a map of pitch P (values from one row to the next) whose rows are
separated by zeros, the copy shifted by (i, j) is the flat map moved by ``i * P + j``: the zeros at the end of row y
are those at the beginning of row y + 1, so one column of zeros serves both sides.
"""

from __future__ import annotations

import numpy as np

from npmobilevit.engine.folding import Floats
from npmobilevit.engine.program import Allocate


class FlatMap:
    """A map (C, H, W) with a margin of zeros, and a last channel that is 1 at its pixels and 0 in the margin.

    The last channel takes the bias of 1x1 convolutions (:func:`folding.with_constant_row`): they leave zeros in the
    margin, as the next 3x3 convolution needs them.

    Parameters
    ----------
    channels, height, width : int
    pad : int
        Width of the margin; the largest shift of a tap.
    allocate : callable
        Number of values to an array of zeros.

    Attributes
    ----------
    data : (C + 1, (H + 2 * pad) * P + pad) float32 array, P = W + pad
        Pixel (y, x) is at ``(y + pad) * P + pad + x``.
    pitch : int
        P.
    """

    def __init__(self, channels: int, height: int, width: int, pad: int, allocate: Allocate) -> None:
        self.channels, self.height, self.width, self.pad = channels, height, width, pad
        self.pitch = width + pad
        length = (height + 2 * pad) * self.pitch + pad
        self.data = allocate((channels + 1) * length).reshape(channels + 1, length)
        self._rows(self.data)[channels, pad:-pad, pad:] = 1

    def _rows(self, data: Floats) -> Floats:
        """(channels, H + 2 * pad, P)."""
        return data[:, : data.shape[1] - self.pad].reshape(len(data), self.height + 2 * self.pad, self.pitch)

    @property
    def pixels(self) -> Floats:
        """The map itself, (C, H, W)."""
        return self.pixels_and_constant[:-1]

    @property
    def pixels_and_constant(self) -> Floats:
        """The map with its last channel of ones, (C + 1, H, W)."""
        return self._rows(self.data)[:, self.pad : -self.pad, self.pad :]

    def span(self, first: int, last: int) -> tuple[int, int]:
        """The flat range from the first pixel of row `first` up to the last pixel of row `last - 1`."""
        return (first + self.pad) * self.pitch + self.pad, (last + self.pad) * self.pitch

    def margins(self, first: int, last: int) -> Floats:
        """The zeros between the rows of a span, (C, last - first - 1, pad)."""
        return self._rows(self.data)[:-1, first + self.pad + 1 : last + self.pad, : self.pad]


class PhasePlanes:
    """The four maps of every other pixel of a map: ``plane[p, q][y, x] == map[2 * y + p, 2 * x + q]``.

    The pixels of a plane are the first, second, third or fourth pixels of the 2x2 patches, and the taps of a stride of
    two and the tiles of :func:`folding.winograd` have no stride in them. A plane has a row of zeros above and below
    and a column of zeros on its left, which is also the margin on the right of the row before.

    Parameters
    ----------
    channels, height, width : int
        Of the map. An odd map has no last row, or column, in the planes of the second pixels: zeros are there.
    allocate : callable
        Number of values to an array of zeros.

    Attributes
    ----------
    data : (2, 2, C, (h + 2) * P + 1) float32 array, P = w + 1
        Pixel (y, x) of a plane is at ``(y + 1) * P + 1 + x``.
    rows, columns : int
        h and w: half the height and width of the map, rounded up.
    """

    def __init__(self, channels: int, height: int, width: int, allocate: Allocate) -> None:
        self.height, self.width = height, width
        self.rows, self.columns = -(-height // 2), -(-width // 2)
        self.pitch = self.columns + 1
        self.length = (self.rows + 2) * self.pitch + 1
        self.data = allocate(4 * channels * self.length).reshape(2, 2, channels, self.length)

    def pixels(self, p: int, q: int) -> Floats:
        """The pixels that plane (p, q) has, (C, rows, columns)."""
        channels = self.data.shape[2]
        rows = self.data[p, q, :, :-1].reshape(channels, self.rows + 2, self.pitch)
        return rows[:, 1 : 1 + every_other(self.height, p), 1 : 1 + every_other(self.width, q)]

    def of_tiles(self, y: Floats, height: int, width: int) -> Floats:
        """The first `height` rows and `width` columns of a span (C, rows * P): (C, height, width)."""
        return y.reshape(len(y), self.rows, self.pitch)[:, :height, :width]

    @property
    def span(self) -> tuple[int, int]:
        """The flat range of all rows of a plane, from the first pixel up to the zero behind the last."""
        return self.pitch + 1, (self.rows + 1) * self.pitch + 1


def every_other(length: int, first: int) -> int:
    """How many of 0..length - 1 are first, first + 2, ...

    >>> every_other(5, 0), every_other(5, 1)
    (3, 2)
    """
    return (length + 1 - first) // 2


def windows(data: Floats, start: int, count: int, step: int, length: int) -> Floats:
    """Ranges of the rows of `data`: (rows, count, length), the i-th from ``start + i * step`` on."""
    row = data.strides[0]
    assert start >= 0
    assert start + (count - 1) * step + length <= data.shape[1]
    return np.lib.stride_tricks.as_strided(data[:, start:], (len(data), count, length), (row, 4 * step, 4))


def spread(length: int) -> int:
    """A length of rows for arrays that are multiplied, at least `length`.

    Values of a column that are a power of two apart share few places of the cache: products take up to twice the time.
    """
    return length + 16 if length % 64 == 0 else length
