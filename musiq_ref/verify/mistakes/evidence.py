"""A port's stages beside those of the reference with mistakes planted into it: what agrees, and what goes into what."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from musiq_ref.verify.ladder.distance import Distance
from musiq_ref.verify.ladder.fixture import Fixture, Stage, stored
from musiq_ref.verify.ladder.layouts import LayoutError, fit
from musiq_ref.verify.ladder.stages import BACK
from musiq_ref.verify.ladder.tolerance import MARGIN_BACK, Tolerance
from musiq_ref.verify.mistakes.mistake import Mistake
from musiq_ref.verify.mistakes.reference import Reference

WEAK = 1.6  # times what is allowed, below which a difference may be rounding that mistakes amplify
IMPOSSIBLE = (ValueError, IndexError, TypeError, KeyError, StopIteration)  # mistakes that cannot be combined


class Clock:
    """How much time is left, and what was not done for want of it.

    >>> Clock(0.0).over()
    True
    """

    def __init__(self, seconds: float, progress: Callable[[str, int, int], None] | None = None) -> None:
        self.end, self.untried = time.monotonic() + seconds, 0
        self.progress = progress or (lambda stage, done, of: None)

    def over(self, end: float | None = None) -> bool:
        """Whether the time, or a part of it, is over."""
        return time.monotonic() > (self.end if end is None else end)

    def share(self, last: bool) -> float:
        """The moment when two thirds of what is left will be over; all of it for the last stage."""
        return self.end if last else (time.monotonic() + 2 * self.end) / 3


class Evidence:
    """A port's stages, and the reference with the mistakes that have been found planted into it.

    mine: {stage name: array} of the port
    mistakes: found so far
    taken: {stage: array} of the port's that nothing explains, from which the reference goes on
    recognised: mistakes of chance that have been found
    """

    def __init__(
        self,
        reference: Reference,
        mine: Mapping[str, Any],
        clock: Clock,
        mistakes: Sequence[Mistake] = (),
        taken: Mapping[str, Any] | None = None,
        recognised: Sequence[Mistake] = (),
    ) -> None:
        self.reference, self.fixture, self.clock = reference, reference.fixture, clock
        self.mistakes, self.taken = list(mistakes), dict(taken or {})
        self.recognised = list(recognised)
        self.inputs: dict[str, dict[str, Any]] = {}
        self.differing: dict[str, np.ndarray | None] = {}
        self.mine = {name: array for name, array in mine.items() if name in self.fixture.stages}
        self.stages = self.planted([]) if self.mistakes or self.taken else self.fixture.stages
        self.order = {name: i for i, name in enumerate(self.stages)}

    def frame(self, stages: Mapping[str, Stage]) -> Fixture:
        """What says which tokens are valid: the reference, unless there is another number of them."""
        same = "mask" not in stages or stages["mask"].shape == self.fixture.stages["mask"].shape
        return self.fixture if same else self.fixture._replace(stages=dict(stages))

    def fitted(self, stage: Stage, stages: Mapping[str, Stage] | None = None) -> tuple[np.ndarray, Distance]:
        """The port's array of a stage in the reference's layout, and its distance."""
        array, _, d = fit(stage, self.mine[stage.name], self.frame(stages or self.stages))
        return array, d

    def excess(self, stages: Mapping[str, Stage], here: str) -> float:
        """How many times larger than allowed the distance of a stage is; infinite for another shape."""
        try:
            return stages[here].tolerance.excess(self.fitted(stages[here], stages)[1])
        except LayoutError:
            return np.inf

    def first_difference(self, stages: Mapping[str, Stage] | None = None) -> str:
        """The first given stage, of those not taken from the port, that differs by more than rounding, or ""."""
        stages = self.stages if stages is None else stages
        given = (n for n in stages if n in self.mine and n not in self.taken)
        return next((n for n in given if self.excess(stages, n) > 1), "")

    def misshapen(self, here: str) -> bool:
        """Whether the port's array of a stage has a shape that no layout makes the reference's."""
        try:
            self.fitted(self.stages[here])
        except LayoutError:
            return True
        return False

    def weak(self, here: str) -> bool:
        """Whether a difference may be rounding after all, which what was found amplifies more than is known."""
        return self.stages is not self.fixture.stages and self.excess(self.stages, here) < WEAK

    def size(self, here: str) -> int:
        """How many numbers a stage has."""
        return int(np.prod(self.stages[here].shape))

    @functools.cached_property
    def valid(self) -> np.ndarray:
        """Which tokens are valid, (N,)."""
        return np.asarray(self.frame(self.stages).mask).astype(bool)

    @functools.cached_property
    def exact(self) -> dict[str, np.ndarray]:
        """Whole stages of the reference with what has been found."""
        back = any(name.startswith(BACK) for name in self.mine)
        return self.reference.run(self.mistakes, back=back, given=self.taken)

    def planted(self, more: Sequence[Mistake], back: bool | None = None) -> dict[str, Stage]:
        """The stages that a port with these mistakes, too, would have written.

        A mistake can make later stages more sensitive to rounding, so tolerances are measured once more, and the larger
        kept.
        """
        mistakes, run = [*self.mistakes, *more], self.reference.run
        back = any(name.startswith(BACK) for name in self.mine) if back is None else back
        exact = self.exact if not more else run(mistakes, back=back, given=self.taken)
        stages = as_stages(self.fixture, exact)
        stages = {name: stages[name] for name in self.fixture.stages if name in exact}
        return self.loosened(stages, run(mistakes, "float32", back=back, given=self.taken))

    def loosened(self, stages: Mapping[str, Stage], rough: Mapping[str, Any]) -> dict[str, Stage]:
        """Stages with the tolerances that a float32 run of the same mistakes asks for, where they are larger."""

        def one(name: str, stage: Stage) -> Stage:
            tolerance = stage.tolerance
            if name not in rough or stage.array.dtype.kind != "f":
                return stage
            d = fit(stage, rough[name], self.frame(stages))[2]
            if tolerance.absolute is not None:  # of what cancels, which it may not do with a mistake
                return stage._replace(
                    tolerance=tolerance._replace(absolute=max(tolerance.absolute, MARGIN_BACK * d.rms))
                )
            bulk, norm = max(tolerance.bulk, MARGIN_BACK * d.bulk), max(tolerance.norm, MARGIN_BACK * d.norm)
            if name.startswith("loss/"):  # score minus target: a score near the target leaves little but rounding
                was, now = (float(np.abs(s.array).max()) for s in (self.fixture.stages[name], stage))
                bulk, norm = (t * max(1.0, was / max(now, 1e-30)) for t in (bulk, norm))
            return stage._replace(tolerance=tolerance._replace(bulk=bulk, norm=norm))

        return {name: one(name, stage) for name, stage in stages.items()}

    def plant(
        self, more: Sequence[Mistake], here: str, given: Mapping[str, Any], dtype: str = "float64"
    ) -> dict[str, Stage] | None:
        """The stages up to one with more mistakes, going on from those given; None where they cannot be combined."""
        until = "mask" if here in ("hash_index", "scale_index") else here  # which says how many tokens there are
        try:
            run = self.reference.run([*self.mistakes, *more], dtype, until, given=given)
        except IMPOSSIBLE:
            return None
        return as_stages(self._replaced, run) if here in run else None

    @property
    def _replaced(self) -> Fixture:
        return self.fixture._replace(stages=dict(self.stages))

    def agreed(self, here: str) -> list[str]:
        """The given stages before one: all agree, or have been taken."""
        return [n for n in list(self.order)[: self.order[here]] if n in self.mine]

    def before(self, here: str, dtype: str = "float64") -> dict[str, Any]:
        """What goes into a stage: the given stages before it, as the port has them.

        Not where the stage follows from them: then something grew from stage to stage, which they would hide.
        """
        if here.startswith(BACK) or dtype == "float32":
            return self.taken
        if here not in self.inputs:
            floats = {n: self.whole(n) for n in self.agreed(here) if self.stages[n].array.dtype.kind == "f"}
            given = {n: self.exact[n] for n in self.agreed(here) if n in self.exact} | usable(floats) | self.taken
            there = self.plant([], here, given)
            self.inputs[here] = self.taken if there and self.excess(there, here) <= 1 else given
        return self.inputs[here]

    def whole(self, here: str) -> np.ndarray | None:
        """The port's array of a stage in the reference's layout, all of it; None if that cannot be."""
        known, stage = self.reference.whole, self.stages[here]
        if here not in known:
            if stage.sample and here in self.exact:
                stage = stage._replace(array=np.asarray(self.exact[here]), sample=None)
            try:
                array, d = self.fitted(stage)
            except LayoutError:
                return None
            known[here] = array if np.isfinite(d.norm) and not stage.sample else None
        return known[here]

    def reach(self, more: Sequence[Mistake], here: str) -> int:
        """How many of the given stages agree, from the start, with these mistakes planted, too."""
        try:
            planted = self.planted(more, here.startswith(BACK))
        except IMPOSSIBLE:
            return -1
        given = [name for name in planted if name in self.mine]
        wrong = self.first_difference(planted)
        return given.index(wrong) if wrong else len(given)


def usable(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Those from which a run can go on: finite, at padded tokens, too.

    >>> list(usable({"a": np.ones(2), "b": np.full(2, np.nan), "c": None}))
    ['a']
    """
    return {name: a for name, a in arrays.items() if a is not None and np.isfinite(a).all()}


def as_stages(fixture: Fixture, run: Mapping[str, Any]) -> dict[str, Stage]:
    """The fixture's stages with those of a run in their place, and the fixture's tolerances."""
    stages = {}
    for name, value in run.items():
        array, count = stored(value)
        tolerance = fixture.stages[name].tolerance if name in fixture.stages else Tolerance(1e-5, 1e-5, None, 0)
        stages[name] = Stage(name, array, np.shape(value), count, tolerance)
    return {**fixture.stages, **stages}
