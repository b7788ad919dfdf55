"""The measurement: for every case the contenders run in turn, and what they took becomes a row of the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from musiq_ref.bench.cases import Case
from musiq_ref.bench.contender import FLOOR, OURS
from musiq_ref.bench.machine import machine
from musiq_ref.bench.parts import PARTS
from musiq_ref.bench.products import PADDED, macs
from musiq_ref.bench.worker import Worker
from musiq_ref.image.tokenize import scales_of

Say = Callable[[str], object]


class Spread(NamedTuple):
    """A median, and between what the middle half of the values lies."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The quartiles.

    >>> spread([3.0, 1.0, 2.0, 5.0, 4.0])
    Spread(median=3.0, low=2.0, high=4.0)
    """
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Our time as a multiple of theirs, round by round: below 1 where ours is less.

    >>> ratios([1.0, 2.0], [2.0, 4.0]).median
    0.5
    """
    return spread([a / b for a, b in zip(ours, theirs, strict=False)])  # stopped, one may have a run more


def interleaved(runs: Mapping[str, Callable[[], float]], rounds: int, seconds: dict[str, list[float]]) -> None:
    """Fills {name: seconds of every run}: in turn, the order reversed from round to round."""
    seconds.update({name: [] for name in runs})
    for number in range(rounds):
        for name in runs if number % 2 == 0 else reversed(list(runs)):
            seconds[name].append(runs[name]())


class Setup(NamedTuple):
    """How everything is measured.

    makers: {name: class} of the contenders
    preset: of the model
    threads: of each contender
    quick: fewer rounds, and the memory of musiq_ref alone
    scratch: a folder for pictures and checkpoints
    backend: on which everybody computes
    """

    makers: Mapping[str, Any]
    preset: str
    threads: int
    quick: bool
    scratch: str
    backend: str = "numpy"

    def start(self, name: str) -> Worker:
        """A new process of a contender."""
        return Worker(name, self.makers[name], self.threads, self.preset, self.threads, self.scratch, self.backend)

    def rounds(self, case: Case) -> int:
        """How often each contender runs a case."""
        return case.quick if self.quick else case.rounds


def measure(setup: Setup, cases: Iterable[Case], report: dict[str, Any], say: Say) -> None:
    """Fills a report as it goes, so that an interrupt leaves what there is.

    report: a dict; "left_out" in it, {name: reason}, is kept
    say: is told what is being done, once for each of `steps`
    """
    report |= {"made_by": "musiq_ref", "complete": False, "quick": setup.quick, "preset": setup.preset}
    report |= {"backend": setup.backend, "left_out": report.get("left_out", {})}
    report |= {"machine": machine(setup.threads), "results": []}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in setup.makers:
            say(f"starting {name}")
            with _optional(name, name, report["left_out"]):
                workers[name] = stack.enter_context(setup.start(name))
                report["machine"] |= workers[name].about
        for case in cases:
            row = _row(case, setup.preset)
            try:
                _time(row, case, workers, setup.rounds(case), report["left_out"], say)
                _look_inside(row, case, workers, report["left_out"], say)
                _weigh(row, case, setup, report["left_out"], say)
            finally:
                if row["runs"]:
                    report["results"].append(row)
        report["complete"] = True


@contextmanager
def _optional(name: str, what: str, left_out: dict[str, str]) -> Iterator[None]:
    """In its block a failure of anybody but ourselves is noted, and we go on."""
    try:
        yield
    except RuntimeError as error:
        if name in (OURS, FLOOR):
            raise
        left_out[what] = str(error)


def steps(setup: Setup, cases: Sequence[Case]) -> int:
    """How often `measure` says something, at most."""
    return len(setup.makers) + sum(len(setup.makers) * (3 + setup.rounds(case)) for case in cases)


def plays(name: str, make: Any, case: Case) -> bool:
    """Whether a contender takes part in a case."""
    if name == FLOOR:
        return True
    return hasattr(make, case.kind) and (case.rivals or name == OURS)


def _row(case: Case, preset: str) -> dict[str, Any]:
    config = case.config(preset)
    kept = [sum(scale.kept for scale in scales_of(*size, config)) for size in case.sizes]
    return {
        "name": case.name,
        "images": len(case.sizes),
        "tokens": sum(kept),
        "macs": macs(case, config),
        "share": case.share,
        "padded": case.kind in PADDED,
        **{key: {} for key in ("runs", "seconds", "ratios", "gflops", "peak_mib", "parts")},
        "disagreement": None,
    }


def _time(
    row: dict, case: Case, workers: Mapping[str, Worker], rounds: int, left_out: dict[str, str], say: Say
) -> None:
    """Warms up, which also shows whether all agree, and lets the contenders run in turn."""
    values: dict[str, list[float]] = {}
    for name, worker in workers.items():
        if plays(name, worker.make, case):
            say(f"{case.name}: {name} warms up")
            with _optional(name, f"{name}, {case.name}", left_out):
                worker.prepare(case)
                values[name] = worker.run()[1]

    def timed(name: str) -> Callable[[], float]:
        def run() -> float:
            say(f"{case.name}: {name}")
            with _optional(name, f"{name}, {case.name}", left_out):
                return workers[name].run()[0] / case.share
            return math.nan

        return run

    runs: dict[str, list[float]] = {}
    try:
        interleaved({name: timed(name) for name in values}, rounds, runs)
    finally:
        if all(runs.get(name) for name in values):
            whole = {name: taken for name, taken in runs.items() if not any(map(math.isnan, taken))}
            row |= _summary(whole, row["macs"], values)


def _summary(runs: dict[str, list[float]], work: int, values: dict[str, list[float]]) -> dict[str, Any]:
    """What the runs of a case come to."""
    seconds = {name: spread(taken)._asdict() for name, taken in runs.items()}
    return {
        "runs": runs,
        "seconds": seconds,
        "ratios": {name: ratios(runs[OURS], runs[name])._asdict() for name in runs if name != OURS},
        "gflops": {name: 2e-9 * work / one["median"] for name, one in seconds.items()},
        "disagreement": disagreement(values),
    }


def disagreement(values: Mapping[str, Sequence[float]]) -> float | None:
    """How far another's results are from ours, in parts of the result; None where nobody has any.

    >>> disagreement({"musiq_ref": [2.0, 4.0], "PyTorch": [2.0, 5.0]})
    0.25
    """
    others = [other for name, other in values.items() if name != OURS and other]
    pairs = [pair for other in others for pair in zip(values[OURS], other, strict=True)]
    return max((abs(b - a) / max(abs(a), 1e-12) for a, b in pairs), default=None)


def _look_inside(row: dict, case: Case, workers: Mapping[str, Worker], left_out: dict[str, str], say: Say) -> None:
    """Each part's share of the time."""
    look, names = PARTS.get(case.name, (None, ()))
    for name in (name for name in names if name in row["runs"]):
        say(f"{case.name}: the parts of {name}")
        with _optional(name, f"{name}, parts of {case.name}", left_out):
            found = workers[name].call(look, case)
            whole = sum(part.seconds for part in found)
            row["parts"][name] = [{**part._asdict(), "share": part.seconds / whole} for part in found]


def _weigh(row: dict, case: Case, setup: Setup, left_out: dict[str, str], say: Say) -> None:
    """The most memory that a new process has, which does nothing but the case once; with quick, ours alone."""
    for name in row["runs"]:
        if name != FLOOR and (name == OURS or not setup.quick):
            say(f"{case.name}: memory of {name}")
            with _optional(name, f"{name}, memory of {case.name}", left_out), setup.start(name) as worker:
                worker.prepare(case)
                worker.run()
                row["peak_mib"][name] = worker.peak()
