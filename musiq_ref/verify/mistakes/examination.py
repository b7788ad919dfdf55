"""A port's stages against the reference: where they begin to differ,
and what planted there gives the port's numbers."""

from __future__ import annotations

import functools
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.verify.ladder.distance import Distance
from musiq_ref.verify.ladder.fixture import Fixture, Stage, stored
from musiq_ref.verify.ladder.layouts import LayoutError, fit, sampled_validity
from musiq_ref.verify.ladder.stages import BACK
from musiq_ref.verify.ladder.tolerance import MARGIN, MARGIN_BACK, Tolerance
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.mistake import Mistake
from musiq_ref.verify.mistakes.plant import Reference

PAIRS = 200  # pairs of mistakes that are tried where no single one explains a stage
NEAR = 40  # mistakes that are tried once more in float32
WEAK = 1.6  # times what is allowed, below which a difference may be rounding that mistakes amplify
CLOSE, EXPLAINED = 4, 1e4  # times what is allowed, where all but so little of a difference is explained
FEW = 4  # numbers that can agree by chance
INTEGERS = ("integers/hash", "hash_index", "scale_index", "mask")  # what acts beside the patches
CUT = re.compile(  # stages through which everything before them acts on what follows
    r"patches|stem/(conv_root|gn_root|relu_root|pool|sum|output)|.*_embedding|encoder/(input|norm)|.*/residual1|"
    r".*/output|head/.*|probabilities|score"
)
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


class Match(NamedTuple):
    """A mistake that gives the port's numbers at a stage. Matches sort from the best to the worst.

    everywhere: whether the stages before agree with it, too; if not, it is made at this stage alone
    reach: minus how many of the given stages agree, from the start, with it planted
    far: whether it would show before the last stage that agrees
    excess: of the tolerance
    rough: whether only a float32 run of it does, the rounding of which depends on how it is written
    """

    everywhere: bool
    reach: int
    far: int
    excess: float
    mistake: Mistake
    rough: bool = False


class Examination:
    """A port's stages, against the reference with the mistakes that have been found planted into it.

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

    # --- agreement ---------------------------------------------------------------------------------------------------

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

    def weak(self, here: str) -> bool:
        """Whether a difference may be rounding after all, which what was found amplifies more than is known."""
        return self.stages is not self.fixture.stages and self.excess(self.stages, here) < WEAK

    # --- the reference, with mistakes --------------------------------------------------------------------------------

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
            if name not in rough or stage.array.dtype.kind != "f" or tolerance.absolute is not None:
                return stage
            d = fit(stage, rough[name], self.frame(stages))[2]
            bulk, norm = max(tolerance.bulk, MARGIN_BACK * d.bulk), max(tolerance.norm, MARGIN_BACK * d.norm)
            return stage._replace(tolerance=tolerance._replace(bulk=bulk, norm=norm))

        return {name: one(name, stage) for name, stage in stages.items()}

    def plant(
        self, more: Sequence[Mistake], here: str, given: Mapping[str, Any], dtype: str = "float64"
    ) -> dict[str, Stage] | None:
        """The stages up to one with more mistakes, going on from those given; None where they cannot be combined."""
        try:
            run = self.reference.run([*self.mistakes, *more], dtype, here, given=given)
        except IMPOSSIBLE:
            return None
        return as_stages(self._replaced, run) if here in run else None

    @property
    def _replaced(self) -> Fixture:
        return self.fixture._replace(stages=dict(self.stages))

    # --- what explains a stage ---------------------------------------------------------------------------------------

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

    def candidates(self, here: str) -> list[tuple[int, Mistake]]:
        """(far, mistake) that may show at this stage; first those that would show after the last stage that agrees.

        The first of every family come before the second of any. A mistake is left out where everything that it acts on
        goes through a stage that agrees.
        """
        names = list(self.order)[: self.order[here] + 1]
        agreed = [self.order[n] for n in self.agreed(here)]
        cuts = [i for i in agreed if CUT.fullmatch(names[i])]
        after = [i for i in cuts if names[i].startswith(("encoder/block", "encoder/norm", "head", "probab", "score"))]
        found = []
        for m in MISTAKES.values():
            if not m.stage or m in self.mistakes or not m.applies(self.fixture.config):
                continue
            shows = max((i for i, n in enumerate(names) if fnmatch(n, m.stage)), default=-1)
            blocked = max(after if m.stage in INTEGERS else cuts, default=-1)
            if shows > blocked:
                found.append((int(shows <= max(agreed, default=-1)), m))
        rank: Counter[tuple[str, str | None]] = Counter()
        ranked = []
        for far, m in found:
            ranked.append((far, 0 if m.conventions else 1 + rank[m.op, m.stage], m))
            rank[m.op, m.stage] += 1
        return [(far, m) for far, _, m in sorted(ranked, key=lambda r: r[:2])]

    def explain(self, here: str) -> list[list[Match]]:
        """What explains a stage: one mistake, or two; each with those that look the same."""
        weak = self.weak(here)
        if weak and self.before(here) is self.taken and self.agreed(here):
            return []
        possible = [(far, m) for far, m in self.candidates(here) if not (weak and far)]
        end = self.clock.share(here == [n for n in self.order if n in self.mine][-1])
        chance = [m for far, m in possible if m.recognise and not far and self.by_chance(m, here)]
        if any(m in self.recognised for m in chance):
            return [[Match(False, 0, 0, 0.0, chance[0])]]
        possible = [f for f in possible if not f[1].recognise]
        matches = self.matches(possible, here, end)
        near = [f for f in possible if not f[0]]
        if not matches and len(near) <= NEAR and self.size(here) > FEW:
            matches = self.matches(near, here, end, "float32")
        if len(matches) > 1:  # the same at this stage: see who is right further down
            matches = [m for m in matches if m.everywhere] or matches
            if matches[0].everywhere:
                matches = [m._replace(reach=-self.reach([m.mistake], here)) for m in matches]
            matches = [m for m in matches if m.reach == min(m.reach for m in matches)]
        if matches:
            return [sorted(matches, key=lambda m: m[1:4])]
        if chance:
            self.recognised.append(chance[0])
            return [[Match(False, 0, 0, 0.0, chance[0])]]
        return [] if self.size(here) <= FEW else self.two([m for far, m in possible if not far], here, end)

    def matches(
        self, possible: Sequence[tuple[int, Mistake]], here: str, end: float, dtype: str = "float64"
    ) -> list[Match]:
        """Those of the mistakes that give the port's numbers at a stage, as far as the time allows."""
        matches = []
        for k, (far, mistake) in enumerate(possible):
            self.clock.progress(here, k, len(possible))
            if self.clock.over(end) or (far and matches and self.size(here) > FEW):
                self.clock.untried += 0 if matches else len(possible) - k
                break
            match = self.match(mistake, here, far, dtype)
            matches += [match] if match else []
        return matches

    def size(self, here: str) -> int:
        """How many numbers a stage has."""
        return int(np.prod(self.stages[here].shape))

    def match(self, mistake: Mistake, here: str, far: int, dtype: str = "float64") -> Match | None:
        """How a mistake gives the port's numbers at a stage, if it does."""
        if not self.plausible(mistake, here):
            return None
        there = self.plant([mistake], here, self.before(here, dtype), dtype)
        if there is None:
            return None
        excess = self.excess(there, here)
        if dtype == "float64" and 1 < excess < np.inf and self.much_closer(there, here):  # it may amplify rounding
            rough = self.reference.run([*self.mistakes, mistake], "float32", here, given=self.before(here))
            excess = self.excess(self.loosened(there, {here: rough[here]}), here)
        if excess <= min(CLOSE, self.excess(self.stages, here) / EXPLAINED):  # rounding that other tokens amplify
            excess = min(excess, 1.0)
        if self.weak(here) and excess > self.excess(self.stages, here) / 2:
            return None
        if excess > 1 or (self.size(here) <= FEW and not self.strictly(there, here)):
            return None
        everywhere = self.consistent(mistake, here, dtype)
        rough = dtype == "float32"
        return Match(everywhere, 0, far, excess, mistake, rough) if everywhere or not far else None

    def plausible(self, mistake: Mistake, here: str) -> bool:
        """Whether a mistake changes those tokens that differ at a stage: seen without computing the stem."""
        if not here.startswith(("stem/", "patch_embedding")) or "patches" in self.mine or mistake.stage in INTEGERS:
            return True
        if here not in self.differing:
            self.differing[here] = self.tokens_that_differ(here)
        differ, order = self.differing[here], list(self.order)
        if differ is None or mistake.op in ("batch", "scales_of"):
            return True
        first = next((n for n in order if fnmatch(n, mistake.stage or "")), "")
        if not first or first.startswith("stem/"):
            return first == "" or bool(differ.all())
        try:
            run = self.reference.run([*self.mistakes, mistake], until="patches", given=self.taken)
        except IMPOSSIBLE:
            return False
        other, right = (a["patches"][0][self.valid].reshape(len(differ), -1) for a in (run, self.exact))
        if "patches" not in run or other.shape != right.shape:
            return True
        far = np.linalg.norm(other - right, axis=1) / (np.linalg.norm(right, axis=1) + 1e-9)
        return bool((far[differ] > 1e-7).all() and differ[far > 1e-3].all())

    def tokens_that_differ(self, here: str) -> np.ndarray | None:
        """Which valid tokens differ at a stage of the stem; None where that cannot be said."""
        mine, right = self.whole(here), np.asarray(self.exact[here])
        if mine is None or here.endswith("standardized"):
            return None
        mine, right = (a.reshape(self.valid.size, -1)[self.valid] for a in (mine, right))
        off = np.linalg.norm(mine - right, axis=1)
        return off > 5 * self.stages[here].tolerance.norm * np.linalg.norm(right, axis=1)

    @functools.cached_property
    def valid(self) -> np.ndarray:
        """Which tokens are valid, (N,)."""
        return np.asarray(self.frame(self.stages).mask).astype(bool)

    def strictly(self, there: Mapping[str, Stage], here: str) -> bool:
        """Whether a few numbers agree to rounding, without the allowance for how little is known of it."""
        tolerance = there[here].tolerance
        size = max(MARGIN * tolerance.float32, 1e-6)
        return self.fitted(there[here], there)[1].norm <= size

    def consistent(self, mistake: Mistake, here: str, dtype: str) -> bool:
        """Whether the stages before one agree with a mistake planted."""
        whole = self.plant([mistake], here, self.taken, dtype)
        if whole is None:
            return False
        given = [n for n in [*self.agreed(here), here] if n not in self.taken]
        return all(n in whole and self.excess(whole, n) <= 1 for n in reversed(given))

    def two(self, possible: Sequence[Mistake], here: str, end: float) -> list[list[Match]]:
        """Two mistakes that together give the port's numbers at a stage, conventions first; [] if there are none."""
        for pair in itertools.islice(itertools.combinations(possible, 2), PAIRS):
            if (pair[0].topic and pair[0].topic == pair[1].topic) or pair[0].op == pair[1].op != "":
                continue
            if self.clock.over(end):
                break
            there = self.plant(pair, here, self.before(here))
            if there and self.excess(there, here) <= 1:
                return [[Match(True, 0, 0, 0.0, m)] for m in pair]
        return []

    def reach(self, more: Sequence[Mistake], here: str) -> int:
        """How many of the given stages agree, from the start, with these mistakes planted, too."""
        try:
            planted = self.planted(more, here.startswith(BACK))
        except IMPOSSIBLE:
            return -1
        given = [name for name in planted if name in self.mine]
        wrong = self.first_difference(planted)
        return given.index(wrong) if wrong else len(given)

    def whole_sets(self, here: str) -> list[tuple[Mistake, str]]:
        """The conventions of another program that, taken together, explain more than none: (convention, stage)."""
        best, found = self.reach([], here), []
        for conventions in NAMED_CONVENTIONS.values():
            theirs, ours = vars(conventions), vars(self.fixture.config.conventions)
            changed = {k: v for k, v in theirs.items() if v != ours[k]}
            members = [m for m in MISTAKES.values() if m.conventions and m.conventions.items() <= changed.items()]
            if not members or self.clock.over() or (reach := self.reach(members, here)) <= best:
                continue
            without = {m.name: [n for n in members if n is not m] for m in members}
            needed = [m for m in members if self.reach(without[m.name], here) < reach]
            if len(needed) > 1:
                found = [(m, self.first_difference(self.planted(without[m.name], False))) for m in needed]
                best = reach
        return found

    def much_closer(self, there: Mapping[str, Stage], here: str) -> bool:
        """Whether a planted reference is at least five times closer to the port than the reference is."""
        if self.excess(self.stages, here) == np.inf:  # it has the port's shape, which the reference has not
            return True
        before, now = (self.fitted(stages[here], stages)[1] for stages in (self.stages, there))
        return now.norm <= before.norm / 5 and now.bulk <= max(before.bulk / 5, there[here].tolerance.bulk)

    def by_chance(self, mistake: Mistake, here: str) -> bool:
        """Whether the numbers of a stage look like those of a mistake that no planting can repeat."""
        stage = self.stages[here]
        try:
            array, _ = self.fitted(stage)
        except LayoutError:
            return False
        valid = sampled_validity(stage, self.frame(self.stages))
        valid = np.broadcast_to(True if valid is None else valid, stage.array.shape)
        return mistake.recognise is not None and mistake.recognise(stage.array[valid], array[valid])


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
