"""Who is timed: what all contenders have in common.

A contender's method for a kind of case prepares all that is not to be timed and returns a function to call, which gives
numbers by which the contenders' results can be compared. The weights are made from integers: their scores mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from musiq_ref.backend import get_backend
from musiq_ref.bench.cases import Case
from musiq_ref.bench.machine import peak_mib

Run = Callable[[], list[float]]
OURS, FLOOR = "musiq_ref", "products"
SEED, RATE, MOMENTUM = 1, 1e-6, 0.9  # of the weights; of the training steps


class Contender:
    """What all have in common.

    preset: of the model
    threads: that it may use
    scratch: a folder, in which all contenders find the same photographs
    backend: where arrays live: "numpy" or another that `get_backend` knows, on which everybody then computes
    about: {library: version}
    """

    def __init__(self, preset: str, threads: int, scratch: str, backend: str = "numpy") -> None:
        self.preset, self.threads, self.scratch, self.backend = preset, threads, Path(scratch), backend
        self.device = get_backend(backend)
        self.about: dict[str, str] = {}

    def prepare(self, case: Case) -> Run:
        """The function to time."""
        return getattr(self, case.kind)(case)

    def peak(self) -> float | None:
        """The most memory so far, in MiB, of what it computes on."""
        return peak_mib()
