"""Runs cases in processes with limits: one that dies or hangs costs one case, and the next process goes on after it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import selectors
import shutil
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

FINE = ("refused", "right")
VERDICTS = (*FINE, "wrong", "crashed", "over")
MEMORY = 2 * 2**30  # bytes more than a process had when it was started
WAITING = 6  # times as long as it may compute, a case may wait
CHUNKS = 13  # processes a kind, at least; each meets one of the thirteen commands and runs it undisturbed once


class Kind(NamedTuple):
    """A kind of input.

    prepare: () -> what all cases need, such as unchanged files; done once
    case: (prepared, random numbers, an empty folder) -> (verdict, words)
    seconds: of computing, for one case
    weight: how many cases are one case's worth of time
    """

    prepare: Callable[[], Any]
    case: Callable[[Any, random.Random, Path], tuple[str, str]]
    seconds: float = 10.0
    weight: float = 1.0


class Failure(NamedTuple):
    """A case that did not go well; the folder has its files."""

    kind: str
    number: int
    verdict: str
    words: str
    folder: Path


def judge(
    read: Callable[[], Any], right: Callable[[Any], bool], refusals: tuple[type, ...], name: str
) -> tuple[str, str]:
    """How a reader took an input: the verdict and, in words, why.

    refusals: the exceptions that mean "no", themselves and not those derived from them
    name: what a refusal must name
    """
    try:
        value = read()
    except MemoryError as error:
        return "over", f"MemoryError: {error}"
    except Exception as error:
        text = str(error)
        if type(error) not in refusals:
            return "crashed", f"{type(error).__name__}: {text}"
        plain = not re.search(r"[\0-\x1f\x7f\x85\u2028]", text) and name in text and len(text) < 1000
        return ("refused", text) if plain else ("crashed", f"not a sentence that names {name}: {text}")
    return ("right", "") if right(value) else ("wrong", "read without an error")


def numbers(seed: int, kind: str, number: int) -> random.Random:
    """The random numbers of a case."""
    return random.Random(f"{seed}/{kind}/{number}")


def torture(
    kinds: dict[str, Kind],
    counts: dict[str, int],
    seed: int,
    jobs: int,
    folder: Path,
    tell: Callable[[Failure], object],
    only: int | None = None,
) -> dict[str, Counter]:
    """{kind: how often which verdict}; the files of failures are left in the folder.

    counts: {kind: number of cases}
    jobs: processes at a time
    tell: is given each failure
    only: this case alone
    """
    prepared = {name: kinds[name].prepare() for name in counts}
    waiting = [(n, list(range(i, counts[n], CHUNKS))) for i in range(CHUNKS) for n in counts if counts[n] > i]
    if only is not None:
        waiting = [(name, [only]) for name in counts]
    found: dict[str, Counter] = {name: Counter() for name in counts}
    running = selectors.DefaultSelector()

    def end(worker: Worker, verdict: str, words: str) -> None:
        found[worker.name][verdict] += 1
        place = folder / f"{worker.name}-{worker.cases.pop(0)}"
        if verdict not in FINE:
            place.mkdir(parents=True, exist_ok=True)  # a process may be killed before it has written anything
            tell(Failure(worker.name, int(place.name.rpartition("-")[2]), verdict, words, place))
        worker.begun = time.monotonic()

    while waiting or running.get_map():
        while waiting and len(running.get_map()) < jobs:
            name, cases = waiting.pop(0)
            worker = Worker(name, cases, kinds[name], prepared[name], seed, folder)
            running.register(worker.pipe, selectors.EVENT_READ, worker)
        for key, _ in running.select(timeout=0.5):
            worker = key.data
            data = os.read(worker.pipe, 2**16)
            *lines, worker.rest = (worker.rest + data).split(b"\n")
            for line in lines:
                end(worker, *json.loads(line))
            if not data:
                running.unregister(worker.pipe)
                status = worker.wait()
                if worker.cases:
                    late = worker.late or status == signal.SIGXCPU
                    end(worker, "over" if late else "crashed", f"the process ended with {status}")
                if worker.cases:
                    waiting.insert(0, (worker.name, worker.cases))
        for key in list(running.get_map().values()):
            worker = key.data
            if time.monotonic() - worker.begun > WAITING * kinds[worker.name].seconds:
                worker.late = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.process, signal.SIGKILL)
    return found


class Worker:
    """A forked process that does cases in order and writes a line about each."""

    def __init__(self, name: str, cases: list[int], kind: Kind, prepared: Any, seed: int, folder: Path) -> None:
        self.name, self.cases, self.rest = name, cases, b""
        self.begun, self.late = time.monotonic(), False
        self.pipe, write = os.pipe()
        self.process = os.fork()
        if self.process:
            os.close(write)
            return
        try:
            os.setpgid(0, 0)
            os.close(self.pipe)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff talks
            limit_memory()
            warnings.simplefilter("ignore")
            for number in cases:
                place = folder / f"{name}-{number}"
                shutil.rmtree(place, ignore_errors=True)  # of an earlier time
                place.mkdir()
                limit_time(kind.seconds)
                try:
                    verdict, words = kind.case(prepared, numbers(seed, name, number), place)
                except Exception:
                    verdict, words = "crashed", f"the case itself: {traceback.format_exc()[-300:]}"
                if verdict in FINE:
                    shutil.rmtree(place, ignore_errors=True)
                os.write(write, f"{json.dumps((verdict, words[:600]))}\n".encode())
        finally:
            os._exit(0)

    def wait(self) -> int:
        os.close(self.pipe)
        return os.waitpid(self.process, 0)[1]


def limit_time(seconds: float) -> None:
    """So much computing from now on, then the end; other programs on the machine do not count."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 1, resource.RLIM_INFINITY))


def limit_memory(more: int = MEMORY) -> None:
    """So much address space more than there is now, where Linux says how much that is."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)


def table(found: dict[str, Counter]) -> Iterable[str]:
    """The lines of the table that is printed."""
    yield f"{'':12}{'tried':>8}" + "".join(f"{verdict:>9}" for verdict in VERDICTS)
    for name, counter in found.items():
        yield f"{name:12}{counter.total():8}" + "".join(f"{counter[verdict]:9}" for verdict in VERDICTS)
