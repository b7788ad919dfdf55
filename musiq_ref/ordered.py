"""Work that several threads do ahead, its results in the order in which it was given, its progress, and its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from threading import Lock
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: int | None = None,
    stop: Callable[[], object] = lambda: None,
) -> Iterator[Result]:
    """work(item) of every item, in the order of the items.

    The items are taken in the caller's thread, whose context, such as `numpy.errstate`, the work has. What the work
    raises is raised here, in its turn. The generator ends, even by an interrupt, after the work that was begun.

    work: is called in other threads
    items: are taken as they are needed
    workers: threads
    ahead: items that may be taken before a result; None for eight a worker
    stop: is called before the work that was begun is waited for

    >>> list(in_order(abs, [-3, 2, -1], workers=2))
    [3, 2, 1]
    """
    ahead = 8 * workers if ahead is None else ahead
    pool, waiting = ThreadPoolExecutor(workers), deque[Future]()
    try:
        for item in items:
            waiting.append(pool.submit(copy_context().run, work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stop()
        pool.shutdown(cancel_futures=True)


class Stopped(BaseException):
    """Ends work whose result nobody waits for any more."""


class Shares:
    """How much of several pieces of work at once is done, told to one function by one thread at a time.

    >>> told = []
    >>> shares = Shares(told.append)
    >>> with shares.of_one() as one, shares.of_one() as other:
    ...     one(0.5), other(0.25)
    (None, None)
    >>> told
    [0.5, 0.75, 1.5, 2]
    """

    def __init__(self, progress: Callable[[float], object] | None) -> None:
        self.progress, self.lock, self.done, self.stopped = progress, Lock(), 0, False
        self.shares: dict[object, float] = {}

    @contextmanager
    def of_one(self) -> Iterator[Callable[[float], None]]:
        """A function that is told the share of one piece; at the end of the block the piece is done."""
        key = object()

        def say(share: float) -> None:
            if self.stopped:
                raise Stopped
            with self.lock:
                self.shares[key] = share
                self._tell()

        yield say
        with self.lock:
            self.shares.pop(key, None)
            self.done += 1
            self._tell()

    def stop(self) -> None:
        """Pieces that tell their share after this end with Stopped."""
        with self.lock:
            self.stopped = True

    def _tell(self) -> None:
        if self.progress and not self.stopped:
            self.progress(self.done + sum(self.shares.values()))
