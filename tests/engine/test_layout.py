"""Where the pixels of a map lie, and that its margins are zeros."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.engine.layout import FlatMap, PhasePlanes, every_other, spread, windows

quick = settings(derandomize=True, deadline=None, max_examples=30)
sizes = st.integers(1, 6)


def zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.float32)


def numbered(channels: int, height: int, width: int) -> np.ndarray:
    return np.arange(1, channels * height * width + 1, dtype=np.float32).reshape(channels, height, width)


@quick
@given(sizes, sizes, sizes, st.integers(1, 3))
def test_a_shift_of_a_flat_map_is_a_shift_of_the_map(channels, height, width, pad):
    """Every tap within the margin reads the pixel there, or zero beyond the map: of a neighbour's row nothing."""
    made = FlatMap(channels, height, width, pad, zeros)
    made.pixels[...] = x = numbered(channels, height, width)
    start, stop = made.span(0, height)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    for i in range(-pad, pad + 1):
        for j in range(-pad, pad + 1):
            shifted = made.data[:-1, start + i * made.pitch + j : stop + i * made.pitch + j]
            rows = np.zeros((channels, height * made.pitch), np.float32)
            rows[:, : stop - start] = shifted
            seen = rows.reshape(channels, height, made.pitch)[:, :, :width]
            expected = padded[:, pad + i : pad + i + height, pad + j : pad + j + width]
            assert np.array_equal(seen, expected)


@quick
@given(sizes, sizes, sizes, st.integers(1, 3))
def test_the_last_channel_is_one_at_the_pixels_and_zero_around_them(channels, height, width, pad):
    made = FlatMap(channels, height, width, pad, zeros)
    assert made.data.shape == (channels + 1, (height + 2 * pad) * (width + pad) + pad)
    assert made.data.sum() == height * width
    assert (made.pixels_and_constant[-1] == 1).all()
    assert made.pixels.shape == (channels, height, width)
    assert not made.pixels.any()


@quick
@given(sizes, st.integers(2, 6), sizes, st.integers(1, 3), st.data())
def test_the_margins_of_a_span_are_all_of_it_that_is_no_pixel(channels, height, width, pad, data):
    made = FlatMap(channels, height, width, pad, zeros)
    first = data.draw(st.integers(0, height - 1))
    last = data.draw(st.integers(first + 1, height))
    start, stop = made.span(first, last)
    made.data[:-1, start:stop] = 7
    made.margins(first, last)[...] = 0
    assert (made.pixels[:, first:last] == 7).all()
    assert made.data[:-1].sum() == 7 * channels * (last - first) * width


@quick
@given(sizes, st.integers(1, 7), st.integers(1, 7))
def test_planes_hold_every_other_pixel_and_zeros(channels, height, width):
    planes = PhasePlanes(channels, height, width, zeros)
    x = numbered(channels, height, width)
    for p in range(2):
        for q in range(2):
            planes.pixels(p, q)[...] = x[:, p::2, q::2]
    assert planes.data.sum() == x.sum()  # each pixel once, and else zeros
    assert (planes.rows, planes.columns) == (-(-height // 2), -(-width // 2))
    padded = np.zeros((channels, 2 * planes.rows + 4, 2 * planes.columns + 4), np.float32)
    padded[:, 2 : 2 + height, 2 : 2 + width] = x
    start, stop = planes.span
    for p in range(2):
        for q in range(2):
            for i in (-1, 0, 1):  # a row above, below; a column on either side
                for j in (-1, 0, 1):
                    shift = i * planes.pitch + j
                    behind = np.pad(planes.data[p, q], ((0, 0), (0, 1)))  # the first zero of the next channel
                    flat = np.ascontiguousarray(behind[:, start + shift : stop + shift])
                    seen = planes.of_tiles(flat, planes.rows, planes.columns)
                    rows = slice(2 + p + 2 * i, 2 + p + 2 * i + 2 * planes.rows, 2)
                    columns = slice(2 + q + 2 * j, 2 + q + 2 * j + 2 * planes.columns, 2)
                    assert np.array_equal(seen, padded[:, rows, columns])


@quick
@given(sizes, st.integers(1, 7), st.integers(1, 7))
def test_a_span_of_tiles_can_be_cut_to_the_pixels_that_a_plane_has(channels, height, width):
    planes = PhasePlanes(channels, height, width, zeros)
    start, stop = planes.span
    assert stop - start == planes.rows * planes.pitch
    for p in range(2):
        for q in range(2):
            planes.pixels(p, q)[...] = numbered(channels, *planes.pixels(p, q).shape[1:])
            flat = np.ascontiguousarray(planes.data[p, q, :, start:stop])
            seen = planes.of_tiles(flat, every_other(height, p), every_other(width, q))
            assert np.array_equal(seen, planes.pixels(p, q))


@given(st.integers(1, 50), st.integers(0, 1))
def test_every_other(length, first):
    assert every_other(length, first) == len(range(length)[first::2])


@quick
@given(sizes, st.integers(0, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
def test_windows_are_ranges_of_the_rows(rows, start, count, step, length):
    data = numbered(1, rows, start + (count - 1) * step + length)[0]
    seen = windows(data, start, count, step, length)
    assert seen.shape == (rows, count, length)
    for i in range(count):
        assert np.array_equal(seen[:, i], data[:, start + i * step : start + i * step + length])
    assert np.shares_memory(seen, data)


def test_windows_stay_within_the_row():
    with pytest.raises(AssertionError):
        windows(np.zeros((2, 9), np.float32), 0, 3, 4, 2)
    with pytest.raises(AssertionError):
        windows(np.zeros((2, 9), np.float32), -1, 1, 1, 2)


@given(st.one_of(st.integers(1, 5000), st.integers(1, 80).map(lambda n: 64 * n)))
def test_rows_are_not_a_power_of_two_apart(length):
    assert 0 <= spread(length) - length <= 16
    assert spread(length) % 64
