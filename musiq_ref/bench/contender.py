"""Who is timed: what all contenders have in common.

A contender's method for a kind of case prepares all that is not to be timed and returns a function to call, which gives
numbers by which the contenders' results can be compared. The weights are made from integers: their scores mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from musiq_ref.bench.cases import Case

Run = Callable[[], list[float]]
OURS, FLOOR = "musiq_ref", "products"
SEED, RATE, MOMENTUM = 1, 1e-6, 0.9  # of the weights; of the training steps


class Contender:
    """What all have in common.

    preset: of the model
    threads: that it may use
    scratch: a folder, in which all contenders find the same photographs
    about: {library: version}
    """

    def __init__(self, preset: str, threads: int, scratch: str) -> None:
        self.preset, self.threads, self.scratch = preset, threads, Path(scratch)
        self.about: dict[str, str] = {}

    def prepare(self, case: Case) -> Run:
        """The function to time."""
        return getattr(self, case.kind)(case)
