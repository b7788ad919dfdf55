"""How many threads NumPy's matrix products (BLAS) use: a number of the whole process, changed in an orderly way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


class BlasThreads:
    """The number of threads of BLAS: the whole process's, so that the last to leave puts back what the first found."""

    def __init__(self) -> None:
        self.lock, self.inside, self.found = threading.Lock(), 0, None

    @contextmanager
    def limited(self, threads: int | None) -> Iterator[None]:
        """Limits them, or leaves them alone if `threads` is None.

        >>> with BLAS.limited(1):
        ...     "one thread"
        'one thread'
        """
        if threads is None:
            yield
            return
        with self.lock:
            limits = threadpool_limits(threads, "blas")
            self.found = self.found or limits
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    self.found.restore_original_limits()
                    self.found = None


BLAS = BlasThreads()
