"""How many threads NumPy's matrix products use, where NumPy is built with OpenBLAS."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# Names that builds of OpenBLAS give its functions: those in NumPy's wheels, and those of systems.
DECORATIONS = (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", ""))


def openblas_function(name: str) -> Any:
    """A C function of the OpenBLAS that NumPy has loaded, such as "get_num_threads"; None if there is none.

    Results are ints unless its ``restype`` is set.
    """
    try:
        core = importlib.import_module("numpy._core._multiarray_umath")
        library = ctypes.CDLL(core.__file__)  # loaded already: names are also looked up in what it was linked to
    except (ImportError, OSError):
        return None
    names = (f"{prefix}openblas_{name}{suffix}" for prefix, suffix in DECORATIONS)
    return next((getattr(library, found) for found in names if hasattr(library, found)), None)


class ThreadControl(NamedTuple):
    """The two functions of OpenBLAS that read and set the number of threads of the process."""

    read: Callable[[], int]
    set: Callable[[int], object]


@functools.cache
def thread_control() -> ThreadControl | None:
    """The functions of the library that NumPy has loaded; None if it has none of OpenBLAS."""
    read, write = openblas_function("get_num_threads"), openblas_function("set_num_threads")
    return None if read is None or write is None else ThreadControl(read, write)


class _SingleThread:
    """Holds the number of threads at one while anybody asks for it, and gives back what was before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users: dict[object, int] = {}  # the threads that ask for it, each by a mark of its own
        self.before = 0

    @contextlib.contextmanager
    def held(self, control: ThreadControl) -> Iterator[None]:
        mark = object()
        try:
            with self.lock:
                if not self.users:
                    self.before = control.read()
                self.users[mark] = threading.get_ident()  # before the number changes: at a fork, the users tell of it
                control.set(1)
            yield
        finally:
            with self.lock:
                if self.users.pop(mark, None) is not None and not self.users:
                    control.set(self.before)

    def others(self, control: ThreadControl) -> int:
        """The number of threads outside of this."""
        with self.lock:
            return self.before if self.users else control.read()

    def forget_other_threads(self) -> None:
        """In a fork of the process, which has none but the thread that forked."""
        self.lock = threading.Lock()
        users = {mark: user for mark, user in self.users.items() if user == threading.get_ident()}
        control = thread_control()
        if control is not None and self.users and not users:
            control.set(self.before)
        self.users = users


_SINGLE_THREAD = _SingleThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SINGLE_THREAD.forget_other_threads)


def threads() -> int:
    """How many threads NumPy's products use, outside of :func:`single_thread`; 1 if that cannot be told."""
    control = thread_control()
    return 1 if control is None else _SINGLE_THREAD.others(control)


def single_thread() -> contextlib.AbstractContextManager[None]:
    """While this lasts, products use one thread, in the whole process; without OpenBLAS nothing changes."""
    control = thread_control()
    return contextlib.nullcontext() if control is None else _SINGLE_THREAD.held(control)
