"""What was launched for one image, launched again at once for the next of its size: a captured CUDA graph.

A graph holds addresses, not arrays: those of the parameters, of buffers that each image is copied into, and of memory
from a pool of its own, which nobody else gets. So it is made when a shape comes for the second time, and believed when,
for the third, it has given what plain launches give. Where anything is refused in a capture, launches stay plain. And
where they leave too little memory, all are dropped, and half as many are kept from then on.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.backend import Array, on_host

MOST = 8  # keys that are remembered at first; the graph of each keeps the memory of one image's activations
AGREE = 1e-3  # by how much of the largest result a graph may differ from plain launches

log = logging.getLogger(__name__)


class Captured(NamedTuple):
    """A graph, where its input and output lie, what must not be freed while it is used, and whether it is believed."""

    graph: Any
    inputs: list[Any]
    found: Any
    keep: tuple[Any, ...]
    right: bool = False


def copied(found: Any) -> Any:
    """A copy of an array."""
    return found.copy()


class Graphs:
    """Calls functions of arrays on the GPU, from a graph where it has one.

    cupy: the module
    """

    def __init__(self, cupy: Any) -> None:
        self.cupy, self.lock, self.most = cupy, Lock(), MOST
        self.states = OrderedDict[Hashable, Any]()  # "seen" once; "plain", and to stay so; or Captured

    def __call__(
        self,
        function: Callable[..., Any],
        key: Hashable,
        arrays: Sequence[Array],
        taken: Callable[[Any], Any] = copied,
    ) -> Any:
        """taken(function(*arrays on the GPU, where some may lie already)).

        key: what else the function reads; two calls with equal keys and shapes launch the same
        taken: makes, of what a function returns, an array, or a tuple of arrays, which the next call does not overwrite
        """
        key = key, tuple((a.shape, a.dtype.str) for a in arrays)
        with self.lock:
            result, state = None, self.states.pop(key, None)
            try:
                result, state = self._answer(function, arrays, taken, state)
            except MemoryError:
                state = None
            if state is None:  # what is missing may be what graphs keep
                self.states.clear()
                result, state = self._answer(function, arrays, taken, None)
                self.most //= 2
            self.states[key] = state
            while len(self.states) > self.most:
                self.states.popitem(last=False)
        return result

    @property
    def used(self) -> int:
        """How many graphs there are that are believed."""
        return sum(isinstance(state, Captured) and state.right for state in self.states.values())

    def _answer(self, function, arrays, taken, state: Any) -> tuple[Any, Any]:
        """The result, and the state of its key from now on."""
        if isinstance(state, Captured) and state.right:
            return taken(self._replay(state, arrays)), state
        result = taken(function(*map(self.cupy.asarray, arrays)))
        if isinstance(state, Captured):
            right = self._agree(taken(self._replay(state, arrays)), result)
            return result, state._replace(right=True) if right else "plain"
        if state != "seen":
            return result, state or "seen"
        try:
            return result, self._capture(function, arrays)
        except (RuntimeError, MemoryError) as error:  # CuPy's errors, and its NotImplementedError, are RuntimeErrors
            log.info("launches for %s stay plain: %s", arrays[0].shape, error)
            return result, "plain"

    def _capture(self, function, arrays) -> Captured:
        cuda = self.cupy.cuda
        inputs, pool, stream = [self.cupy.array(a) for a in arrays], cuda.MemoryPool(), cuda.Stream(non_blocking=True)
        cuda.get_current_stream().synchronize()
        with cuda.using_allocator(pool.malloc), stream:
            stream.begin_capture()
            try:
                found = function(*inputs)
            except BaseException:
                with suppress(Exception):  # the first error says what is wrong
                    stream.end_capture()
                raise
            return Captured(stream.end_capture(), inputs, found, (pool, function))

    def _replay(self, captured: Captured, arrays):
        for there, here in zip(captured.inputs, arrays, strict=True):
            if on_host(here):
                there.set(np.ascontiguousarray(here))
            else:
                there[...] = here
        captured.graph.launch()
        return captured.found

    def _agree(self, one, other) -> bool:
        pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
        hosts = [(self.cupy.asnumpy(a), self.cupy.asnumpy(b)) for a, b in pairs]
        with np.errstate(invalid="ignore"):  # what overflows in both is the same, not a fault of the graph
            right = all(
                np.array_equal(a, b, equal_nan=True) or bool(np.abs(a - b).max() <= AGREE * np.abs(b).max())
                for a, b in hosts
            )
        if not right:
            log.warning("a captured graph gave another result than plain launches, which are used instead")
        return right
