"""Training in several processes, on one computer or many: every process takes a share of each batch (MPI, by mpi4py).

`mpiexec -n 4 musiq-ref train …` takes, but for rounding, the steps of one process. A process computes the gradient of
its share; process 0 adds them in float64 and hands the sum to all, so that all hold the same bits and take the same
step. Process 0 alone logs, validates and writes. A process that fails stops all of them, and process 0 says why.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import platform
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from musiq_ref.backend import Array, namespace, to_host
from musiq_ref.config import MusiqConfig
from musiq_ref.extras import needs
from musiq_ref.image.tokenize import Tokens
from musiq_ref.model.parameters import Params, flatten, map_params, nest
from musiq_ref.training.state import TrainingError
from musiq_ref.training.step import BatchGradient, batch_gradient

# Where MPICH, Open MPI and Slurm say how many processes they started.
STARTED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
EXPECTED = (ValueError, OSError, RuntimeError)  # errors whose message is a sentence for the user
Made = TypeVar("Made")


def cores() -> set[int]:
    """The cores that this process may use, by number; all of them where the system does not tell.

    >>> len(cores()) >= 1
    True
    """
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


class World(NamedTuple):
    """The processes that train together, seen from one of them; by default it is alone.

    rank: this process, from 0
    size: how many there are
    communicator: mpi4py's, None for a process alone

    Every method but `share` must be called by every process, in the same order.

    >>> World().share([10, 11, 12])
    [10, 11, 12]
    """

    rank: int = 0
    size: int = 1
    communicator: Any = None

    def share(self, items: Sequence[Made], micro_batch: int = 1) -> Sequence[Made]:
        """This process's share: consecutive items, whole micro-batches of them; empty if there are too few.

        >>> [World(rank, 3).share(range(8), micro_batch=2) for rank in range(3)]
        [range(0, 4), range(4, 6), range(6, 8)]
        """
        each, more = divmod(math.ceil(len(items) / micro_batch), self.size)  # the first `more` processes take one more
        first = self.rank * each + min(self.rank, more)
        return items[first * micro_batch : (first + each + (self.rank < more)) * micro_batch]

    def threads(self) -> int:
        """The cores for this process: those it may use, divided by the number of processes that may use them.

        >>> World().threads() == len(cores())
        True
        """
        mine = cores()
        if self.communicator is None:
            return len(mine)
        here = platform.node()
        rivals = sum(node == here and bool(cores & mine) for node, cores in self.exchange((here, mine)))
        return max(1, len(mine) // rivals)

    def place(self) -> int:
        """How many processes of a lower rank run on this computer: which of its GPUs is this process's own.

        >>> World().place()
        0
        """
        return self.exchange(platform.node())[: self.rank].count(platform.node())

    def exchange(self, value: Any = None, error: Exception | None = None) -> list[Any]:
        """The values of all processes, by rank. Raises TrainingError where another process gives an error instead.

        >>> World().exchange(7)
        [7]
        """
        if self.communicator is None:
            return [value]
        kind = "" if isinstance(error, EXPECTED) else f"{type(error).__name__}: "
        report = error and f"rank {self.rank} of {self.size}: {kind}{error}"
        values, reports = zip(*self.communicator.allgather((value, report)), strict=True)
        if error is None and any(reports):
            raise _Stopped(next(filter(None, reports)))
        return list(values)

    def from_first(self, make: Callable[[], Made]) -> Made:
        """make() on process 0 alone, and what it made on all.

        >>> World().from_first(lambda: "a state")
        'a state'
        """
        if self.communicator is None:
            return make()
        made = make() if self.rank == 0 else None
        self.exchange()  # nobody waits for what could not be made
        return self.communicator.bcast(made)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The rows (n, …) of all processes one after another, on all.

        >>> World().gather(np.array([1.0, 2.0]))
        array([1., 2.])
        """
        if self.communicator is None:
            return rows
        return np.concatenate([piece for piece in self.exchange(rows) if len(piece)])

    def sum_gradients(self, mine: BatchGradient) -> BatchGradient:
        """Losses and gradients added over the processes, scores one after another: the same bits on all.

        Process 0 gets the sum in float64 and hands it out, so that in no MPI library two processes round differently.
        The sum is made in host memory, wherever the gradients are.

        >>> World().sum_gradients(BatchGradient(0.5, {"head": np.ones(2)}, np.zeros(3))).loss
        0.5
        """
        if self.communicator is None:
            return mine
        self.exchange()  # nobody waits below for a process that failed before

        def add(array: Array) -> Array:
            total = np.empty(array.shape)
            self.communicator.Reduce(to_host(array).astype(np.float64, order="C"), total)
            self.communicator.Bcast(total)
            return namespace(array).asarray(total.astype(array.dtype))

        loss = float(add(np.array([mine.loss]))[0])
        in_one_order = sorted(flatten(mine.gradients), key=lambda leaf: leaf[0])
        gradients = nest({path: add(array) for path, array in in_one_order})
        return BatchGradient(loss, gradients, self.gather(to_host(mine.scores)))


class _Stopped(TrainingError):
    """Another process has failed, and all know it."""


def world_gradient(
    world: World,
    params: Params,
    tokens: Sequence[Tokens],
    targets: np.ndarray,
    config: MusiqConfig,
    loss: str = "l1",
    **options: Any,
) -> BatchGradient:
    """`batch_gradient` of a batch of which every process has a share: the same result on all of them.

    tokens, targets: this process's share, which may be empty
    options: as of `batch_gradient`

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> tokens = [mq.tokenize(np.full((40, 50, 3), u, np.uint8), config) for u in (0, 200)]
    >>> world_gradient(World(), mq.init_params(config), tokens, np.array([1.0, 3.0]), config).loss
    2.0
    """
    if world.communicator is None:
        return batch_gradient(params, tokens, targets, config, loss, **options)
    counts = world.exchange(len(tokens))
    if tokens:
        whole, first = sum(counts), sum(counts[: world.rank])
        mine = batch_gradient(params, tokens, targets, config, loss, whole_batch=whole, first=first, **options)
    else:
        mine = BatchGradient(0.0, map_params(np.zeros_like, params), np.zeros(0))
    return world.sum_gradients(mine)


@contextlib.contextmanager
def together() -> Iterator[World]:
    """The processes that mpiexec started, for the block; if the block fails in one of them, it ends in all.

    Process 0 then raises the error, as TrainingError if it is another's; the other processes exit in silence.
    Alone, mpi4py is not needed. Raises TrainingError where several processes were started that cannot work together.

    >>> with together() as world:
    ...     world
    World(rank=0, size=1, communicator=None)
    """
    world = _connect()
    try:
        with _deaf() if world.rank else contextlib.nullcontext():  # what an interrupt means is for rank 0 to say
            yield world
        world.exchange()
    except KeyboardInterrupt as stop:
        if world.communicator is not None:  # the others wait for this one; they end with it, once it has spoken
            atexit.register(world.communicator.Abort, getattr(stop, "code", 130))
        raise
    except _Stopped as stopped:
        if world.rank:
            raise SystemExit(2) from None  # rank 0 speaks for all
        raise TrainingError(str(stopped)) from None
    except Exception as error:
        world.exchange(error=error)
        if world.rank and isinstance(error, EXPECTED):
            raise SystemExit(2) from None
        raise  # rank 0's own; or a fault of the program, whose traceback is wanted from any process


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """In its block neither Ctrl-C nor SIGTERM is heard."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connect() -> World:
    started = max(int(os.environ.get(name) or 1) for name in STARTED)
    if started == 1:
        return World()
    try:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of what is said below
            from mpi4py import MPI
    except ImportError as error:
        needed = f"{started} processes were started, which need mpi4py ({error})"
        raise TrainingError(f"{needed}; {needs('mpi')}") from None
    communicator = MPI.COMM_WORLD
    if communicator.size == 1:
        raise TrainingError(
            f"{started} processes were started that do not see each other; use the mpiexec that mpi4py belongs to; "
            f"this brings one: {needs('mpi')}"
        )
    return World(communicator.rank, communicator.size, communicator)
