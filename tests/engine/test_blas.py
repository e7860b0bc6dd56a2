"""The number of threads of NumPy's products: one while the engine's workers share the work, and else untouched."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from leftovers import output_of, succeeds_in_a_fork

from npmobilevit.engine import blas

pytestmark = pytest.mark.skipif(blas.thread_control() is None, reason="NumPy has no OpenBLAS here")


@pytest.fixture
def number(monkeypatch):
    """Sets the number of threads to three for the time of a test, and reads it."""
    control = blas.thread_control()
    before = control.read()
    control.set(3)
    yield control.read
    control.set(before)


def test_one_thread_inside_and_as_before_outside(number):
    assert (number(), blas.threads()) == (3, 3)
    with blas.single_thread():
        assert number() == 1
        assert blas.threads() == 3  # it is asked for what there is without the engine
    assert number() == 3


def test_nested_use_ends_with_the_outermost(number):
    with blas.single_thread():
        with blas.single_thread():
            assert number() == 1
        assert number() == 1
    assert number() == 3


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_after_an_exception_all_is_as_before(number, error):
    with pytest.raises(error), blas.single_thread():
        raise error
    assert number() == 3
    with blas.single_thread():
        assert number() == 1
    assert number() == 3


def test_the_last_of_several_threads_gives_back_what_was_before_the_first(number):
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with blas.single_thread():
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second() -> list[int]:
        first_is_in.wait(10)
        with blas.single_thread():
            second_is_in.set()
            first_is_out.wait(10)
            return [number(), blas.threads()]

    with ThreadPoolExecutor(2) as pool:
        pool.submit(first)
        assert pool.submit(second).result() == [1, 3]
    assert number() == 3


def test_many_threads_leave_it_as_it_was(number):
    def work(_: int) -> int:
        for _ in range(200):
            with blas.single_thread():
                found = number()
        return found

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(8))) == {1}
    assert number() == 3


def test_a_number_that_was_changed_in_between_is_the_one_to_return_to(number):
    with blas.single_thread():
        pass
    blas.thread_control().set(2)
    with blas.single_thread():
        assert (number(), blas.threads()) == (1, 2)
    assert number() == 2


def test_a_fork_forgets_what_other_threads_asked_for(number):
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with blas.single_thread():
            inside.set()
            leave.wait(20)

    def child() -> None:
        assert number() == 3
        with blas.single_thread():
            assert number() == 1
        assert (number(), blas.threads()) == (3, 3)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    assert succeeds_in_a_fork(child)
    leave.set()
    thread.join()
    assert number() == 3


def test_a_fork_remembers_what_its_own_thread_asked_for(number):
    def child() -> None:
        assert number() == 1

    with blas.single_thread():
        assert succeeds_in_a_fork(child)
    assert number() == 3


def test_a_fork_does_not_wait_for_a_lock_of_another_thread(number):
    def child() -> None:
        with blas.single_thread():
            assert number() == 1
        assert number() == 3

    with blas._SINGLE_THREAD.lock:  # as if another thread were just asking
        assert succeeds_in_a_fork(child)


def test_without_openblas_nothing_changes(monkeypatch):
    monkeypatch.setattr(blas, "thread_control", lambda: None)
    with blas.single_thread():
        assert blas.threads() == 1
    assert blas.threads() == 1


def test_a_library_without_the_functions_has_no_control(monkeypatch):
    monkeypatch.setattr(blas, "DECORATIONS", (("nobody_", ""),))
    blas.thread_control.cache_clear()
    assert blas.thread_control() is None
    blas.thread_control.cache_clear()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_environment_says_how_many(threads):
    code = "from npmobilevit.engine import blas; say(blas.threads(), blas.thread_control().read())"
    assert output_of(code, threads=threads) == [f"{threads} {threads}"]
