"""Working memory and the division of work."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npmobilevit.engine.program import PIECE, Arena, Program, Scratch, parts, pieces, run

quick = settings(derandomize=True, deadline=None, max_examples=50)


def zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.float32)


@quick
@given(st.lists(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 900)), min_size=1, max_size=8), max_size=5))
def test_arrays_of_a_frame_never_overlap(frames):
    """Also while the memory grows under them; what earlier frames took stays usable."""
    scratch, kept = Scratch(zeros), []
    for shapes in frames:
        with scratch.frame():
            taken = [scratch.take(*shape) for shape in shapes]
            for value, (array, shape) in enumerate(zip(taken, shapes, strict=True)):
                assert (array.shape, array.dtype) == (shape, np.float32)
                assert array.flags.c_contiguous
                array[...] = value
            assert all((array == value).all() for value, array in enumerate(taken))
            kept += taken
    for array in kept:
        array[...] = 1  # a view of a block that is gone would not bear it


# what is taken before a frame, within it, and afterwards; a piece is what a block holds at least
@quick
@given(*[st.lists(st.sampled_from([1, 100, PIECE // 3, PIECE // 2, PIECE]), max_size=3) for _ in range(3)])
def test_a_frame_within_a_frame_leaves_the_outer_one_alone(before, within, after):
    scratch = Scratch(lambda size: np.zeros(size, np.float32))
    with scratch.frame():
        outer = [scratch.take(size) for size in before]
        with scratch.frame():
            inner = [scratch.take(size) for size in within]
            assert not any(np.shares_memory(a, b) for a in outer for b in inner)
        outer += [scratch.take(size) for size in after]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(outer) for b in outer[:i])


def test_memory_is_used_anew_after_a_frame():
    sizes = []

    def allocate(size: int) -> np.ndarray:
        sizes.append(size)
        return zeros(size)

    scratch = Scratch(allocate)
    with scratch.frame():
        first = scratch.take(PIECE // 2)
    with scratch.frame():
        assert np.shares_memory(scratch.take(100), first)
    for _ in range(20):
        with scratch.frame():
            for _ in range(5):
                scratch.take(PIECE // 2)
    assert sizes == sorted(sizes)
    assert len(sizes) <= 4  # it came to rest


@pytest.mark.parametrize("take", [lambda: Scratch(zeros).take, lambda: Arena(zeros).empty], ids=["scratch", "arena"])
def test_arrays_begin_at_a_cache_line_of_their_block(take):
    taking = take()
    first, *others = [taking(n) for n in (1, 15, 16, 17, 100)]
    assert all((array.ctypes.data - first.ctypes.data) % 64 == 0 for array in others)


@quick
@given(st.lists(st.sampled_from([0, 1, 100, PIECE // 3, PIECE, 2 * PIECE]), max_size=6))
def test_arrays_of_an_arena_never_overlap_and_may_be_zeros(sizes):
    obtained = []

    def obtain(size: int) -> np.ndarray:
        obtained.append(size)
        return np.ones(size, np.float32)

    arena = Arena(obtain)
    arrays = [arena.zeros(size) if i % 2 else arena.empty(size) for i, size in enumerate(sizes)]
    assert [array.size for array in arrays] == sizes
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    assert not any(array.any() for array in arrays[1::2])
    assert all(size >= PIECE for size in obtained)


def test_a_program_makes_its_calls_in_order():
    program, seen = Program(Scratch(zeros)), []
    program.call(seen.append, 1)
    program.call(seen.extend, [2, 3])
    assert seen == []
    run(tuple(program.calls))
    assert seen == [1, 2, 3]


@given(st.integers(0, 100), st.integers(1, 9))
def test_parts_cover_all_once_and_differ_by_one_at_most(length, count):
    cut = list(parts(length, count))
    assert len(cut) == count
    assert [i for first, last in cut for i in range(first, last)] == list(range(length))
    sizes = [last - first for first, last in cut]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", [2, 4])
def test_more_parts_than_work_are_empty(count):
    assert sum(first == last for first, last in parts(1, count)) == count - 1


@given(st.integers(1, 100), st.integers(1, 9))
def test_pieces_are_as_few_as_can_be(length, most):
    cut = list(pieces(length, most))
    assert len(cut) == -(-length // most)
    assert [i for start, stop in cut for i in range(start, stop)] == list(range(length))
    assert max(stop - start for start, stop in cut) <= most


@given(st.integers(0, 100), st.integers(1, 30))
def test_pieces_are_as_few_as_the_limit_allows(length, most):
    cut = list(pieces(length, most))
    assert [i for first, last in cut for i in range(first, last)] == list(range(length))
    assert all(last - first <= most for first, last in cut)
    assert len(cut) == -(-length // most)
