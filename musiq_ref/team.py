"""A team of threads: each takes a share of the rows through a whole computation and waits for the others where it must.

NumPy lets other threads run while it computes, so a team keeps all cores busy in every operation; a BLAS with threads
of its own does so in matrix products alone. BLAS therefore computes with one thread while a team is at work.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from contextvars import copy_context
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # in glibc's malloc.h


class OneThreadOfBlas(ContextDecorator):
    """In its block, or in a function that it decorates, BLAS computes in the thread that calls it.

    `before` is how many threads it had (0: not known), a number of the whole process. So one object counts its
    users: the first sets the number and the last puts it back, whichever of them that is.

    >>> with ONE_THREAD as before:
    ...     before >= 0
    True
    """

    def __init__(self) -> None:
        self.lock, self.users, self.before, self.limited = threading.Lock(), 0, 0, None

    def __enter__(self) -> int:
        with self.lock:
            if not self.users:
                self.before = max((library.num_threads for library in _blas().lib_controllers), default=0)
                self.limited = _by_any_thread(lambda: _blas().limit(limits=1))
            self.users += 1
            return self.before

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self._restore()

    def after_fork(self) -> None:
        """A child has none of its parent's other threads: not those that hold the lock, nor the teams."""
        if self.users:
            self._restore()
        self.__init__()

    def _restore(self) -> None:
        if self.limited:
            _by_any_thread(self.limited.restore_original_limits)


def _by_any_thread(change: Callable[[], Any]) -> Any:
    """change(), whichever thread asks: threadpoolctl would obey the first that asked, and no other while that lives."""
    try:
        _heed_any()
        return change()
    finally:
        _heed_any()


def _heed_any() -> None:
    for library in _blas().lib_controllers:
        if clear := getattr(library, "clear_controlling_thread", None):  # since threadpoolctl 3.8
            clear(force=True)


@cache
def _blas() -> ThreadpoolController:
    """NumPy's and SciPy's BLAS; looked for once, because looking takes a millisecond."""
    return ThreadpoolController().select(user_api="blas")


ONE_THREAD = OneThreadOfBlas()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ONE_THREAD.after_fork)


def share(rows: int, member: int, members: int) -> slice:
    """The member's part of that many rows.

    >>> [share(7, member, 3) for member in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(rows * member // members, rows * (member + 1) // members)


def together(work: Callable[[int, threading.Barrier], None], members: int) -> None:
    """work(member, barrier) for every member, in as many threads; the caller's own thread is member 0.

    The threads are new ones, which a fork cannot lose, and have the caller's context, such as `numpy.errstate`. What
    one of them raises breaks the barrier, on which the others stop, and is raised here.

    >>> sums = [0, 0]
    >>> def work(member, barrier):
    ...     sums[member] = sum(range(100)[share(100, member, 2)])
    >>> together(work, 2)
    >>> sums
    [1225, 3725]
    """
    barrier, errors = threading.Barrier(members), []

    def run(member: int) -> None:
        try:
            work(member, barrier)
        except threading.BrokenBarrierError:  # another's error is the reason
            pass
        except BaseException as error:  # an interrupt, too, must not leave the others waiting
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=copy_context().run, args=(run, member)) for member in range(1, members)]
    try:
        for thread in threads:
            thread.start()
        run(0)
    except BaseException:  # no thread could be started, or an interrupt between two lines
        barrier.abort()
        raise
    finally:
        for thread in threads:
            if thread.ident:
                thread.join()
    if errors:
        raise errors.pop(0)  # kept nowhere else, or its frames would keep their arrays


def each(run: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """[run(item) for item in items], by a team of as many threads as BLAS may use, each item on one of them.

    Where a team is at work already, the caller's thread does it alone.

    >>> each(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    if ONE_THREAD.users:
        return [run(item) for item in items]
    results: list[Any] = [None] * len(items)
    with ONE_THREAD as before:
        members = max(1, min(before, len(items)))

        def work(member: int, barrier: threading.Barrier) -> None:
            for i in range(member, len(items), members):
                if barrier.broken:  # somebody failed
                    raise threading.BrokenBarrierError
                results[i] = run(items[i])

        together(work, members)
    return results


@cache
def keep_memory() -> None:
    """Up to 256 MiB of freed memory stay with the process for its next arrays, where the C library is glibc.

    By itself glibc gives large arrays back as soon as they are freed, and the kernel zeroes the memory of the next ones
    anew: for a computation that makes arrays of the same sizes over and over, as a gradient does, that costs as much as
    its arithmetic. The settings are those of the whole process, from the first call on.

    >>> keep_memory()
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_TRIM_THRESHOLD, 256 * 2**20)
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # arrays from here on are given back: glibc takes no larger value
