"""What the blocks of a plan are put together from; that they compute what they should is tested in test_plan.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import zeros

from npmobilevit import ops
from npmobilevit.engine import blocks, mobilevit
from npmobilevit.engine.crews import arithmetic
from npmobilevit.engine.folding import Exponential
from npmobilevit.engine.program import Program, Scratch, run

quick = settings(derandomize=True, deadline=None, max_examples=40)


@given(st.integers(0, 50), st.integers(1, 60), st.integers(1, 3 * blocks.BAND_VALUES))
def test_bands_cover_the_rows_and_keep_within_the_limit(first, height, values_of_a_row):
    cut = blocks.bands(first, first + height, values_of_a_row)
    assert [row for start, stop in cut for row in range(start, stop)] == list(range(first, first + height))
    assert all(stop - start == 1 or (stop - start) * values_of_a_row <= blocks.BAND_VALUES for start, stop in cut)
    sizes = [stop - start for start, stop in cut]
    assert max(sizes) - min(sizes) <= 1


def test_few_rows_are_one_band():
    assert blocks.bands(3, 7, 10) == [(3, 7)]


@quick
@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.data())
def test_planes_of_a_band_are_those_of_the_whole(channels, height, width, data):
    x = np.arange(1, channels * height * width + 1, dtype=np.float32).reshape(channels, height, width)
    rows, pitch = -(-height // 2), -(-width // 2) + 1
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    program = Program(Scratch(lambda size: np.full(size, np.nan, np.float32)))
    planes = blocks.phase_band(program, x, first, last)
    run(tuple(program.calls))
    padded = np.zeros((channels, 2 * rows + 2, 2 * pitch), np.float32)
    padded[:, 2 : 2 + height, 2 : 2 + width] = x
    for p in range(2):
        for q in range(2):
            seen = planes[p, q].reshape(channels, last - first + 1, pitch)
            whole = padded[:, p::2, q::2]  # a row above, a column on the left
            assert np.array_equal(seen, whole[:, first : last + 1])


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_resizing_as_two_matrices(height, width, new_height, new_width):
    rows, columns = mobilevit.resizing((height, width), (new_height, new_width))
    x = np.random.default_rng(0).standard_normal((2, height, width)).astype(np.float32)
    expected = ops.resize_bilinear(x[np.newaxis].astype(np.float64), (new_height, new_width))[0]
    assert rows.dtype == columns.dtype == np.float32
    np.testing.assert_allclose(rows @ x @ columns, expected, atol=1e-5)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_a_stage_divides_its_work_and_frees_its_scratch(workers):
    build = blocks.Builder(workers, Exponential(np.exp, -1.0), zeros)
    seen, taken = [], {}

    def emit(program: Program, first: int, last: int) -> None:
        taken.setdefault(id(program.scratch), []).append(program.scratch.take(8))
        program.call(seen.append, (first, last))

    for _ in range(2):
        build.stage("x", 3, emit)
    for stage in build.stages:
        assert (stage.name, len(stage.programs)) == ("x", workers)
        with arithmetic():
            for program in stage.programs:
                run(program)
    assert [i for first, last in seen for i in range(first, last)] == [0, 1, 2, 0, 1, 2]
    assert len(taken) == min(workers, 3)  # of each worker its own
    assert all(np.shares_memory(first, second) for first, second in taken.values())


def test_arrays_of_a_builder_stay():
    build = blocks.Builder(1, Exponential(np.exp, -1.0), zeros)
    arrays = [build.array(3, 4), build.array(3, 4), build.map(2, 3, 4).data]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    assert not arrays[0].any()
