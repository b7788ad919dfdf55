"""Scores of many image files by the workers of a Dask cluster, which `dask scheduler` and `dask worker` started.

The workers read the images, from a file system that they share with this process, and the checkpoint: from the path or
name that it has here if that is the same model there, else from a copy that they are sent once. Only this process
writes anything. Each score is computed by one thread, and is that of `Scorer(…, threads=1)` to the bit on equal
processors and versions, to rounding on others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple, cast

import numpy as np

from musiq_ref.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from musiq_ref.checkpoint.load import find_checkpoint
from musiq_ref.config import Conventions
from musiq_ref.extras import needs
from musiq_ref.image.decode import ImageError
from musiq_ref.score_table import model_mark
from musiq_ref.scorers import Score, Scorer
from musiq_ref.version import __version__

BATCH = 64  # images a task, at most
PATIENCE = 30.0  # seconds without an answer from the scheduler, or without a worker
LOST = "the scheduler was lost; start it anew, then this command again"
PREPARE = Callable[[np.ndarray], np.ndarray] | None


class ClusterError(RuntimeError):
    """What is wrong with a cluster; the message is one sentence that says what to do.

    >>> issubclass(ClusterError, RuntimeError)
    True
    """


class Model(NamedTuple):
    """What a worker needs to know to score: a few words, sent with every batch.

    checkpoint: name or absolute path
    file: name of the file, under which a copy is sent
    mark: `score_table.model_mark`, which the worker's copy must have
    backend, dtype, conventions, max_pixels: of the `Scorer`
    version: of musiq_ref
    """

    checkpoint: str
    file: str
    mark: str
    backend: str
    dtype: str
    conventions: Conventions | None
    max_pixels: int | None
    version: str

    @classmethod
    def of(cls, name: str, loaded: Checkpoint, one: Scorer) -> Model:
        """That of a scorer whose checkpoint was loaded from a name or path.

        >>> loaded = load_checkpoint("demo")
        >>> Model.of("demo", loaded, Scorer(loaded)).file
        'demo.safetensors'
        """
        _, backend, dtype, conventions, _, max_pixels = one.arguments
        if loaded.path is None:
            raise ClusterError(f"{name}: only a checkpoint in a file can be sent to a cluster; save it first")
        place = str(Path(name).absolute()) if loaded.path == Path(name) else name
        mark = model_mark(loaded, conventions, dtype)
        return cls(place, loaded.path.name, mark, backend, dtype, conventions, max_pixels, __version__)


# ---- In a worker


class NoSuchModel(Exception):
    """The worker has no copy of the checkpoint."""


LOADING = threading.Lock()


@lru_cache(maxsize=2)
def _scorer(model: Model) -> Scorer:
    """From the checkpoint under its own name, or from the copy that was sent."""
    from distributed import get_worker

    for place in (model.checkpoint, os.path.join(get_worker().local_directory, model.file)):
        with contextlib.suppress(CheckpointError):
            loaded = load_checkpoint(place, model.dtype)
            if model_mark(loaded, model.conventions, model.dtype) == model.mark:
                return Scorer(loaded, model.backend, model.dtype, model.conventions, 1, model.max_pixels)
    raise NoSuchModel


def score_batch(model: Model, images: Sequence[Any], prepare: PREPARE) -> list[Score | str | None]:
    """What a worker does: scores, sentences that say why there is none, None for a file that it does not see."""
    if model.version != __version__:
        raise ClusterError(f"a worker has musiq_ref {__version__}, and this is {model.version}; install the same")
    with LOADING:
        one = _scorer(model)
    results = one.map(images, prepare=prepare)
    seen = (not isinstance(image, str) or os.path.lexists(image) for image in images)
    return [
        (str(result) if isinstance(result, Exception) else result) if there else None
        for result, there in zip(results, seen, strict=True)
    ]


# ---- In this process


def score_on_cluster(
    address: str, model: Model, images: Sequence[Any], prepare: PREPARE = None
) -> Iterator[tuple[int, Score | Exception]]:
    """(position, Score or exception) of every image once, as they come.

    A worker that dies costs nothing but time. Where batches die again and again with their workers, their images are
    sent singly, and those that still do, one after the other with nothing beside them; who dies even then is at fault.

    address: of the scheduler, such as "tcp://10.0.0.1:8786"
    images: paths, which are made absolute, or arrays
    prepare: a function of pixels, see `Scorer.map`; it must be importable by the workers

    Raises ClusterError where there is no scheduler or worker, where versions differ, and when they are lost.
    """
    sources = [os.path.abspath(image) if isinstance(image, str | os.PathLike) else image for image in images]
    with _connected(address) as client:
        run = _Run(client, model, images, sources, prepare)
        todo: Sequence[int] = range(len(sources))
        size = max(1, min(BATCH, len(sources) // (4 * run.threads())))
        for length, alone in ((size, False), (1, False), (1, True)):
            run.condemned = []
            yield from run.scores([todo[i : i + length] for i in range(0, len(todo), length)], alone)
            todo = sorted(run.condemned)
        for i in todo:
            what = f"{run.name(i)}: every worker that scored it was killed, the last few with nothing else to do"
            yield i, ImageError(f"{what}; try it on this machine, it may need more memory than a worker has")


class _Run:
    """Batches of images on their way through a cluster, a few for each thread of its workers at a time."""

    def __init__(
        self, client: Any, model: Model, images: Sequence[Any], sources: Sequence[Any], prepare: PREPARE
    ) -> None:
        self.client, self.model, self.prepare = client, model, prepare
        self.images, self.sources = images, sources
        self.condemned: list[int] = []  # whose workers were killed too often
        self.sent = False

    def threads(self) -> int:
        """Of all workers; waits for the first."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if threads := sum(self.client.nthreads().values()):
                    return threads
            except OSError:
                raise ClusterError(LOST) from None
            if time.monotonic() > end:
                raise ClusterError("the scheduler has no workers; start some: dask worker ADDRESS --nthreads 1")
            time.sleep(0.2)

    def scores(self, batches: Sequence[Sequence[int]], alone: bool) -> Iterator[tuple[int, Score | Exception]]:
        waiting, running, finished = deque(batches), {}, Queue()
        while waiting or running:
            window = 1 if alone else 2 * self.threads()
            while waiting and len(running) < window:
                positions = waiting.popleft()
                task = self.client.submit(
                    score_batch, self.model, [self.sources[i] for i in positions], self.prepare, pure=False
                )
                running[task.key] = positions, self.sent
                task.add_done_callback(finished.put)
            task = self._next(finished)
            positions, sent = running.pop(task.key)
            results = self._results(task, positions, sent)
            task.release()  # or the scheduler would have it done again if its worker died
            if results is None:
                waiting.append(positions)
            else:
                yield from zip(positions, results, strict=False)

    def _next(self, finished: Queue) -> Any:
        while True:
            with contextlib.suppress(Empty):
                return finished.get(timeout=PATIENCE)
            self.threads()

    def _results(self, task: Any, positions: Sequence[int], sent: bool) -> list[Score | Exception] | None:
        """Of a batch; [] if it is condemned, None if it is to be sent again."""
        from distributed import CancelledError, KilledWorker

        try:
            found = task.result()
        except KilledWorker:
            self.condemned += positions
            return []
        except NoSuchModel:
            if sent:
                raise ClusterError(f"{self.model.file} does not reach the workers; put it where they see it") from None
            self._send()
            return None
        except CancelledError:
            raise ClusterError(LOST) from None
        except ClusterError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ClusterError(
                f"a worker cannot score ({what}); install musiq_ref {__version__} and what it needs for all workers"
            ) from None
        return [self._checked(i, result) for i, result in zip(positions, found, strict=True)]

    def _checked(self, i: int, result: Score | str | None) -> Score | Exception:
        if result is None and os.path.exists(self.sources[i]):
            raise ClusterError(f"a worker does not see {self.sources[i]}; put images where all see them by one path")
        if isinstance(result, Score):
            return result
        said = result or f"{self.sources[i]} does not exist; check the path"
        return ImageError(said.replace(str(self.sources[i]), self.name(i), 1))  # as it was given

    def name(self, i: int) -> str:
        """How an image was named."""
        return str(self.images[i]) if isinstance(self.sources[i], str) else "the image"

    def _send(self) -> None:
        """Sends the checkpoint to all workers, also to those that come later."""
        from distributed.diagnostics.plugin import UploadFile

        if not self.sent:
            copy = UploadFile(str(find_checkpoint(self.model.checkpoint)), load=False)
            self.client.register_plugin(copy, name=f"musiq_ref {self.model.mark}")
            self.sent = True


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """A client of the scheduler, which says nothing by itself."""
    try:
        import distributed
        from distributed.comm.addressing import get_address_host_port
    except ImportError:
        raise ClusterError(f"a cluster needs Dask; install it with: {needs('dask')}") from None
    for name in ("distributed", "distributed.client", "distributed.comm", "distributed.batched"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings(action="ignore"):  # of versions, said below
        try:
            get_address_host_port(address)  # a client that fails at this would wait for itself when it is removed
            client = distributed.Client(address, timeout=PATIENCE / 3, set_as_default=False)
        except (OSError, ValueError, TypeError, ImportError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            how = "start one (dask scheduler), and give the address that it prints"
            raise ClusterError(f"no scheduler answers at {address} ({reason}); {how}") from None
    try:
        check_versions(cast(dict[str, Any], client.get_versions()))
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=2)


def check_versions(versions: dict[str, Any]) -> None:
    """Raises ClusterError where scheduler or workers have another Dask or Python than this process.

    versions: as from `Client.get_versions`

    >>> here = {"packages": {"distributed": "2026.8.0", "python": "3.12.1.final.0"}}
    >>> check_versions({"client": here, "scheduler": here, "workers": {}})
    """
    here = _versions(versions["client"])
    for name, there in (("the scheduler", versions["scheduler"]), *versions["workers"].items()):
        for package, version in _versions(there or {}).items():
            if version != here[package]:
                who = name if name == "the scheduler" else f"the worker {name}"
                raise ClusterError(f"{who} has {package} {version}, and this is {here[package]}; install the same")


def _versions(of: dict[str, Any]) -> dict[str, str]:
    packages = of.get("packages", {})
    python = ".".join(str(packages.get("python")).split(".")[:2])
    return {"distributed": str(packages.get("distributed")), "Python": python}
