"""What is wrong with a tensor beyond "it differs": moved axes, another tap's values, faults below the tolerance.

`layout` and `misnamed` look at a tensor that failed. `anomalies` looks at one that may well have passed: rounding
errors scatter, so that a fault which all elements of a channel, a row or a tensor share stands out long before any
one element leaves its tolerance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npmobilevit.ops.arrays import Array

REPORTED = 6.0  # z from which an anomaly is reported

# What all elements of a channel may share, see `anomalies`.
SHARED_ROUNDINGS = 8
SHARED_FINE, SHARED_COARSE = 0.5, 2.0
COARSE = 2.0**-20  # from this `systematic` on

SCATTER = 0.5  # standard deviation of sound errors over the usual one, twice what is common
SOUND_SPREAD = 1.0  # largest root mean square of sound errors over the usual one
ROW_FACTOR = 2.0  # between rows of a sound tensor, in root mean square
MOST = 1e9  # of any z: where nothing scatters
FEWEST = 16  # independent elements, without which a mean says nothing

_SAMPLES = 64
_AXES = {2: "NC", 3: "SLD", 4: "NCHW"}
_LINES = {2: {0: "batch"}, 3: {0: "sequence", 1: "patch"}, 4: {0: "batch", 2: "row", 3: "column"}}
_NOUNS = {"N": "pictures", "C": "channels", "H": "rows", "W": "columns", "S": "sequences", "L": "patches"}


class Layout(NamedTuple):
    """How a tensor holds the right values in another order.

    Attributes
    ----------
    description : str
        What is different about the tensor, to follow its name: "its channels are in reverse order".
    restored : array
        The tensor in the expected order.
    """

    description: str
    restored: NDArray[Any]


class Anomaly(NamedTuple):
    """Something that sound rounding errors do not show.

    Attributes
    ----------
    kind : str
        "slope" or "offset" (of a channel), "mean", "spread", "tail", or the axis along which one index stands
        out: "batch", "row", "column", "sequence", "patch".
    z : float
        In standard deviations, less what the number of looks explains.
    message : str
        One sentence.
    """

    kind: str
    z: float
    message: str


# the right values in another order


def layout(found: NDArray[Any], expected: Array, tolerance: Array | float) -> Layout | None:
    """Tell whether a tensor is the expected one with its axes in another order or one of them reversed.

    Parameters
    ----------
    found : array
        Of any shape: a tensor that was written with its axes in one order and is labelled with another is seen too.
    expected : array
    tolerance : array like `expected`, or number
        How far each element may be from the expected one; 0.0 for none at all.

    Returns
    -------
    Layout or None
        None also if nothing is out of order.
    """
    if found.size != expected.size or not found.size:
        return None
    if found.shape == expected.shape and _within(found, expected, tolerance):
        return None
    sample = _Sample.of(expected, tolerance)
    for description, restored in itertools.chain(_reordered(found, expected.shape), _reversed(found, expected.shape)):
        if sample.fits(restored) and _within(restored, expected, tolerance):
            return Layout(description, restored)
    return None


def reinterpreted(found: NDArray[Any], expected: Array, tolerance: Array | float) -> Layout | None:
    """Tell whether the bytes of a tensor are the expected ones, read in the wrong order or as another type.

    Parameters
    ----------
    found : array
        As it was dumped.
    expected : array
    tolerance : array like `expected`, or number

    Returns
    -------
    Layout or None
    """
    if found.shape != expected.shape or not found.size or found.dtype.kind not in "iuf":
        return None
    found = np.ascontiguousarray(found)
    ways: dict[str, NDArray[Any]] = {"its bytes are in the other order": found.byteswap()}
    if found.dtype.itemsize == 4:
        other = np.float32 if found.dtype.kind in "iu" else np.int32
        ways[f"its bytes are {other.__name__}, and were read as {found.dtype.name}"] = found.view(other)
    for description, values in ways.items():
        with np.errstate(invalid="ignore"):
            restored = values.astype(np.float64)
        if _within(restored, expected, tolerance):
            return Layout(description, restored)
    return None


def misnamed(expected: Array, tolerance: Array | float, others: Mapping[str, NDArray[Any]]) -> str | None:
    """Name the tap that holds what was expected elsewhere.

    Parameters
    ----------
    expected : array
    tolerance : array like `expected`, or number
    others : mapping of str to array
        Taps that could have been mistaken for the one that was expected.

    Returns
    -------
    str or None
        The first that fits.
    """
    if not expected.size:
        return None
    sample = _Sample.of(expected, tolerance)
    same_shape = (name for name, other in others.items() if other.shape == expected.shape)
    fitting = (name for name in same_shape if sample.fits(others[name]))
    return next((name for name in fitting if _within(others[name], expected, tolerance)), None)


class _Sample(NamedTuple):
    """A few elements of a tensor: whatever differs there need not be compared as a whole."""

    flat: NDArray[np.intp]
    expected: Array
    tolerance: Array | float

    @classmethod
    def of(cls, expected: Array, tolerance: Array | float) -> _Sample:
        # at random, for places at equal distances may all be zeros of the padding
        flat = np.random.default_rng(0).integers(expected.size, size=_SAMPLES)
        return cls(flat, expected.flat[flat], tolerance.flat[flat] if isinstance(tolerance, np.ndarray) else tolerance)

    def fits(self, array: NDArray[Any]) -> bool:
        return _within(array.flat[self.flat], self.expected, self.tolerance)


def _within(found: NDArray[Any], expected: Array, tolerance: Array | float) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        return bool((np.abs(found - expected) <= tolerance).all())


def _reordered(found: NDArray[Any], shape: tuple[int, ...]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every other order of the axes that the values can be in; each order in memory once."""
    letters = _AXES.get(len(shape), "0123456789"[: len(shape)])
    # Axes of length 1 lie anywhere; of the orders that differ in them alone the one with the tensor's own shape comes
    # first, and its words are used.
    orders = sorted(itertools.permutations(range(len(shape))), key=lambda order: found.shape != _permuted(shape, order))
    in_memory = {_in_memory(shape, range(len(shape)))} if found.shape == shape else set()
    for order in orders:
        if _in_memory(shape, order) in in_memory:
            continue
        in_memory.add(_in_memory(shape, order))
        permuted, listed = _permuted(shape, order), ", ".join(letters[axis] for axis in order)
        words = f"its axes are in the order {listed}"
        if found.shape != permuted:
            words = f"its values are in the order {listed} under another shape"
        if order == tuple(range(len(shape))):
            words = f"its values are right, but in the shape {found.shape}"
        yield words, found.reshape(permuted).transpose(np.argsort(order))


def _in_memory(shape: tuple[int, ...], order: Iterable[int]) -> tuple[int, ...]:
    """The order without the axes that make no difference to it."""
    return tuple(axis for axis in order if shape[axis] > 1)


def _permuted(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in order)


def _reversed(found: NDArray[Any], shape: tuple[int, ...]) -> Iterator[tuple[str, NDArray[Any]]]:
    if found.shape != shape:
        return
    letters = _AXES.get(len(shape), "")
    for axis, length in enumerate(shape):
        if length > 1:
            noun = _NOUNS.get(letters[axis : axis + 1], "features" if axis == len(shape) - 1 else f"axis {axis}")
            yield f"its {noun} {'is' if ' ' in noun else 'are'} in reverse order", np.flip(found, axis)


# what a difference looks like


def differences(found: NDArray[Any], expected: Array, tolerance: Array) -> str:
    """Say where and how a tensor differs, for the eye of whoever looks for the reason.

    Parameters
    ----------
    found, expected, tolerance : arrays of one shape
        Of other shapes nothing is said.

    Returns
    -------
    str
        Such as "only in channel 3; there it is 1.02 times what is expected"; empty if nothing stands out.
    """
    if found.shape != expected.shape or not found.size or not np.isfinite(found).all():
        return ""
    wrong = ~(np.abs(found - expected) <= tolerance)
    if not wrong.any():
        return ""
    where = [text for axis in range(found.ndim) if (text := _confined(wrong, axis))]
    borders = [] if any("row" in text or "column" in text for text in where) else _at_borders(wrong)
    return "; ".join([*where, *borders, *_line(found, expected, tolerance, wrong)])


_MOST_INDICES = 4


def _confined(wrong: NDArray[np.bool_], axis: int) -> str:
    """That only some indices of an axis have wrong elements."""
    others = tuple(i for i in range(wrong.ndim) if i != axis)
    indices = np.flatnonzero(wrong.any(others))
    if len(indices) > min(_MOST_INDICES, wrong.shape[axis] // 2):
        return ""
    name = _NOUNS.get(_AXES.get(wrong.ndim, "")[axis : axis + 1], f"indices of axis {axis}")
    return f"only in {name} {', '.join(map(str, indices))} of {wrong.shape[axis]}"


def _at_borders(wrong: NDArray[np.bool_]) -> list[str]:
    """That only elements at the borders of maps are wrong."""
    if wrong.ndim != 4 or min(wrong.shape[2:]) < 5:
        return []
    for width in (1, 2):
        if not wrong[..., width:-width, width:-width].any():
            return [f"only within {width} of the borders of the map"]
    return []


def _line(found: NDArray[Any], expected: Array, tolerance: Array, wrong: NDArray[np.bool_]) -> list[str]:
    """That all wrong elements are the expected ones on another scale, or shifted."""
    x, y, allowed = expected[wrong], found[wrong], tolerance[wrong]
    if x.size < FEWEST:
        return []
    if (np.abs(y) <= 0).all():
        return ["there it is 0"]
    square = float(np.square(x).sum())
    factor = float((x * y).sum()) / square if square else 0.0
    if (np.abs(y - factor * x) <= allowed * max(1.0, abs(factor))).all():
        return [f"there it is {factor:.6g} times what is expected"]
    shift = float((y - x).mean())
    if (np.abs(y - x - shift) <= allowed).all():
        return [f"there it is {shift:+.6g} beside what is expected"]
    return []


# faults below the tolerance


def anomalies(
    found: NDArray[Any], expected: Array, usual: Array | None, systematic: float, above: float = REPORTED
) -> list[Anomaly]:
    """Look for what the rounding errors of a sound implementation do not show.

    Parameters
    ----------
    found, expected : arrays of one shape
        (N, C, H, W), (S, L, D), (N, C), or any other.
    usual : array like `expected`, or None
        The usual rounding error of each element, which the largest of sound errors reach. None: not known. Then
        four times the scatter around each channel's line stands in for it, more is allowed, and spread, tail and
        single rows are not looked at.
    systematic : float
        Relative size of one rounding of a parameter: 2**-24 in float32, 2**-11 in float16, 2**-8 in bfloat16.
    above : float
        z from which an anomaly is reported.

    Returns
    -------
    list of Anomaly
        Those with a larger z, the largest first; at most one of a kind. None if a value is not finite.

    Notes
    -----
    r = found - expected are the residuals, e the expected values, U the usual errors. Of sound arithmetic,
    ``|r| <= 2*U``, about, and the standard deviation of r is U/4, about; half of U is counted on.

    *Slope and offset*, of each channel (axis 1 of four, the last of three; else, and where channels have fewer than 16
    elements, the whole tensor is one): the least
    squares line r = offset + slope*(e - mean e). Then offset = mean(r), slope = sum(d*r)/sum(d**2) with d = e - mean e,
    and for independent errors of variances v their variances are sum(v)/n**2 and sum(d**2*v)/sum(d**2)**2. v is the
    square of what the line leaves of the element, or of U/2 where that is larger: a few elements far out pull the
    line to themselves, and leave nothing. *Mean*: the same as the offset, of the whole tensor.

    *What a channel may share.* A parameter is rounded once and then used in all of a channel. A folded normalisation
    rounds factor and offset some times: 8 roundings of the typical value, ``8*systematic*rms(e)``, are allowed.
    Rounded weights shift the channel's values by less than one rounding of the products, whatever is left of these
    in the sum. Where `systematic` is a half precision, that rounding is what U consists of: 2*U is allowed. In
    float32 U is larger than it by the root of the number of terms: U/2 is allowed. Where U is not known and small
    values may be what is left of large ones, 2*U of the estimate and the rms of the channel with the largest values
    are taken. This allowance is subtracted before anything is called a deviation; in a slope, divided by the standard
    deviation of e.

    *Independent elements.* Where the input does not change, all elements have one and the same error. Elements that
    differ from what is expected count in groups of equal e: n_independent = n**2 / sum of squares of the groups'
    sizes. A z above the line is divided by sqrt(n/n_independent); with fewer than 16 it is dropped. (That takes a
    sort, and is done only for what would be reported.)

    *Spread*: rms(q) of q = r/U should be below 1. Its standard deviation is std(q**2)/(2*rms(q)*sqrt(n)), at least
    rms(q)/sqrt(2*n), the value for a normal distribution. *Rows*, columns, and indices of the batch, of sequences and
    patches: the largest rms(q) of one index, against twice the (lower) median of all of them, or against 1/2 where
    that is larger, with the same standard deviation. *Tail*: the largest |q| over rms(q), or over 1/2 where that is
    larger.

    *Number of looks.* The largest of m values of a normal distribution exceeds z with m times the probability of one,
    which for the tail exp(-z**2/2) means: z of m is worth sqrt(z**2 - 2*log(m)). m counts all looks at this tensor,
    for the tail its elements.
    """
    if not found.size or not np.isfinite(found).all() or not np.isfinite(expected).all():
        return []
    with np.errstate(all="ignore"):
        tensor = _Residuals.of(found, expected, usual, systematic)
        found_kinds = [*_shared(tensor), *_scattered(tensor)]
    reported = (anomaly for anomaly in found_kinds if anomaly.z > above)
    return sorted(reported, key=lambda anomaly: -anomaly.z)


class _Residuals(NamedTuple):
    """Residuals `r` and expected values `e`, with the axis of the channels.

    That is None, and the tensor is treated as one channel, where there is no such axis, or too few elements in each.
    """

    r: Array
    e: Array
    usual: Array | None
    systematic: float
    channel: int | None
    looks: int

    @classmethod
    def of(cls, found: NDArray[Any], expected: Array, usual: Array | None, systematic: float) -> _Residuals:
        channel = {4: 1, 3: 2}.get(found.ndim)
        if channel is not None and found.size < FEWEST * found.shape[channel]:
            channel = None
        channels = 1 if channel is None else found.shape[channel]
        r = found.astype(np.float64) - expected
        return cls(r, expected, usual, systematic, channel, looks=2 * channels + sum(found.shape) + 2)

    def at(self, axis: int | None, index: int) -> tuple[Array, Array]:
        """Residuals and expected values at one index of an axis, or all of them, (channels, elements)."""
        place: tuple[slice, ...] = ()
        if axis is not None:
            place = (slice(None),) * axis + (slice(index, index + 1),)
        return _matrix(self.r[place], self.channel), _matrix(self.e[place], self.channel)


def _independent(r: Array, e: Array) -> tuple[int, float]:
    """Elements of (channels, elements) that differ, and how many of them are independent."""
    count, squares = 0, 0.0
    for residuals, values in zip(r, e, strict=True):
        wrong = np.sort(values[residuals != 0].astype(np.float32))  # what float64 makes of equal inputs may differ
        edges = np.flatnonzero(np.diff(wrong, prepend=np.nan, append=np.nan) != 0)
        count += wrong.size
        squares += float((np.diff(edges).astype(np.float64) ** 2).sum())
    return count, count**2 / squares if squares else 0.0


def _worth(z: float, looks: int) -> float:
    """What a z that is the largest of this many is worth by itself."""
    return math.sqrt(max(z**2 - 2 * math.log(looks), 0.0)) if z > 0 else 0.0


def _corrected(tensor: _Residuals, z: float, axis: int | None, index: int) -> float:
    """A z of an index along an axis, or of everything, in view of the number of looks and of equal elements."""
    if _worth(z, tensor.looks) <= REPORTED:
        return 0.0
    count, independent = _independent(*tensor.at(axis, index))
    if independent < FEWEST:
        return 0.0
    return _worth(z * math.sqrt(independent / count), tensor.looks)


def _largest(tensor: _Residuals, z: Array, axis: int | None) -> tuple[int, float]:
    """The index of the largest z along an axis, after correction, and that z."""
    order = [int(index) for index in np.argsort(-z)]
    best, best_z = order[0], 0.0
    for index in order:
        if _worth(float(z[index]), tensor.looks) <= max(best_z, REPORTED):
            break  # a correction only makes it smaller
        corrected = _corrected(tensor, float(z[index]), axis, index)
        if corrected > best_z:
            best, best_z = index, corrected
    return best, best_z


def _rms(x: Array, axis: int | None = None) -> Array:
    rms: Array = np.sqrt(np.mean(x * x, axis=axis))
    return rms


def _excess(statistic: Array, allowed: Array | float, noise: Array) -> Array:
    """By how many standard deviations the statistic is beyond what is allowed."""
    z: Array = np.maximum(np.abs(statistic) - allowed, 0.0) / np.maximum(noise, np.finfo(np.float64).tiny)
    return np.minimum(z, MOST)


def _shared(tensor: _Residuals) -> Iterator[Anomaly]:
    """Slope and offset of the worst channels, and the mean."""
    line = _Line.of(tensor)
    z = _excess(line.slope, line.shared_slope, np.sqrt(line.slope_variance))
    yield _of_channel(tensor, "slope", z, line.slope, "the residuals grow with the values, by {:+.2g} of them")
    if tensor.channel is not None:
        z = _excess(line.offset, line.shared, np.sqrt(line.offset_variance))
        yield _of_channel(tensor, "offset", z, line.offset, "the values are off by {:+.2g} on average")

    mean, channels = line.offset.mean(), line.offset.size
    noise = np.sqrt(line.offset_variance.sum()) / channels
    z = _excess(mean, _rms(line.shared), noise)
    yield Anomaly("mean", _corrected(tensor, float(z), None, 0), f"the whole tensor is off by {mean:+.2g} on average")


class _Line(NamedTuple):
    """Least squares lines, residual against expected value, one of each channel; every entry is (channels,).

    `shared` and `shared_slope` are what the elements of a channel of sound values may have in common.
    """

    slope: Array
    offset: Array
    slope_variance: Array
    offset_variance: Array
    shared_slope: Array
    shared: Array

    @classmethod
    def of(cls, tensor: _Residuals) -> _Line:
        e, r = (_matrix(x, tensor.channel) for x in (tensor.e, tensor.r))  # (channels, elements)
        offset, rms = r.mean(axis=1), _rms(e, 1)
        d = e - e.mean(axis=1, keepdims=True)
        deviation = _rms(d, 1)
        slanted = deviation > 1e-9 * rms  # else d is the rounding of float64
        divisor = np.where(slanted, deviation, 1.0)
        slope = np.where(slanted, (d * r).mean(axis=1) / divisor**2, 0.0)
        left = r - offset[:, None] - slope[:, None] * d
        parameters = SHARED_ROUNDINGS * tensor.systematic * rms
        if tensor.usual is None:
            usual = np.broadcast_to(4 * _rms(left, 1)[:, None], left.shape)
            shared = parameters.max() + SHARED_COARSE * usual[:, 0]
        else:
            usual = _matrix(tensor.usual, tensor.channel)
            shared = parameters + (SHARED_FINE if tensor.systematic < COARSE else SHARED_COARSE) * _rms(usual, 1)
        variance = np.maximum(left**2, (SCATTER * usual) ** 2)
        return cls(
            slope,
            offset,
            slope_variance=(d**2 * variance).mean(axis=1) / divisor**4 / r.shape[1],
            offset_variance=variance.mean(axis=1) / r.shape[1],
            shared_slope=shared / divisor,
            shared=shared,
        )


def _matrix(x: Array, channel: int | None) -> Array:
    """Reshape to (channels, elements)."""
    return x.reshape(1, -1) if channel is None else np.moveaxis(x, channel, 0).reshape(x.shape[channel], -1)


def _of_channel(tensor: _Residuals, kind: str, z: Array, statistic: Array, words: str) -> Anomaly:
    index, corrected = _largest(tensor, z, tensor.channel)
    where = "" if tensor.channel is None else f"in channel {index} "
    return Anomaly(kind, corrected, where + words.format(float(statistic[index])))


def _scattered(tensor: _Residuals) -> Iterator[Anomaly]:
    """Spread, tail and the worst rows, in units of the usual errors."""
    if tensor.usual is None or not tensor.usual.any():
        return
    # An element that is exact for sound arithmetic and is not exact here is measured by the others.
    q = tensor.r / np.where(tensor.usual > 0, tensor.usual, tensor.usual.max())
    squares = q * q
    level = math.sqrt(float(squares.mean()))
    noise = _noise_of_rms(squares, None)
    z = float(_excess(np.asarray(level), SOUND_SPREAD, noise))
    yield Anomaly("spread", _corrected(tensor, z, None, 0), f"the errors are {level:.2g} times the usual ones")

    place = np.unravel_index(int(squares.argmax()), q.shape)
    far = abs(float(q[place])) / max(level, SCATTER)
    where = tuple(int(i) for i in place)
    yield Anomaly("tail", _worth(far, q.size), f"the element {where} is off by {abs(q[place]):.2g} usual errors")

    for axis, kind in _LINES.get(q.ndim, {}).items():
        if q.shape[axis] > 1:
            yield _worst_line(tensor, squares, axis, kind)


def _noise_of_rms(squares: Array, axes: tuple[int, ...] | None) -> Array:
    count = squares.size if axes is None else math.prod(squares.shape[axis] for axis in axes)
    rms = np.sqrt(squares.mean(axis=axes))
    measured = squares.std(axis=axes) / np.where(rms > 0, 2 * rms, 1.0)
    noise: Array = np.maximum(measured, rms / math.sqrt(2)) / math.sqrt(count)
    return noise


def _worst_line(tensor: _Residuals, squares: Array, axis: int, kind: str) -> Anomaly:
    """Whether one index of an axis has larger errors than the others."""
    axes = tuple(other for other in range(squares.ndim) if other != axis)
    rms = np.sqrt(squares.mean(axis=axes))
    median = float(np.sort(rms)[(len(rms) - 1) // 2])
    z = _excess(rms, max(ROW_FACTOR * median, SCATTER), _noise_of_rms(squares, axes))
    index, corrected = _largest(tensor, z, axis)
    ratio = (
        f"{rms[index] / median:.2g} times those of the others" if median else f"{rms[index]:.2g} times the usual ones"
    )
    return Anomaly(kind, corrected, f"the errors of {kind} {index} are {ratio}")
