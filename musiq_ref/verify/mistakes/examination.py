"""What explains a stage that differs: the mistakes that give the port's own numbers there."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import NamedTuple

import numpy as np

from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.verify.ladder.fixture import Stage
from musiq_ref.verify.ladder.layouts import LayoutError, sampled_validity
from musiq_ref.verify.ladder.tolerance import MARGIN
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.evidence import IMPOSSIBLE, WEAK, Evidence
from musiq_ref.verify.mistakes.mistake import Mistake

PAIRS = 200  # pairs of mistakes that are tried where no single one explains a stage
NEAR = 60  # mistakes that are tried once more in float32
CLOSE, EXPLAINED = 4, 1e4  # times what is allowed, where all but so little of a difference is explained
FEW = 4  # numbers that can agree by chance
INTEGERS = ("integers/hash", "hash_index", "scale_index", "mask")  # what acts beside the patches
CUT = re.compile(  # stages through which everything before them acts on what follows
    r"patches|stem/(conv_root|gn_root|relu_root|pool|sum|output)|.*_embedding|encoder/(input|norm)|.*/residual1|"
    r".*/output|head/.*|probabilities|score"
)


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


class Examination(Evidence):
    """The search of the catalogue for what explains a port's stages."""

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
            absent = 0 if m.stage.startswith("integers/") else -1  # the cases of a suite do without these stages
            shows = max((i for i, n in enumerate(names) if fnmatch(n, m.stage)), default=absent)
            blocked = max(after if m.stage in INTEGERS else cuts, default=-1)
            if shows > blocked:
                found.append((int(shows <= max(agreed, default=-1)), shows < self.order[here], m))
        rank: Counter[tuple[str, str | None]] = Counter()
        ranked = []
        for far, earlier, m in found:
            ranked.append((far, earlier, 0 if m.conventions else 1 + rank[m.op, m.stage], m))
            rank[m.op, m.stage] += 1
        return [(far, m) for far, *_, m in sorted(ranked, key=lambda r: r[:3])]

    def explain(self, here: str) -> list[list[Match]]:
        """What explains a stage: one mistake, or two; each with those that look the same."""
        if here.startswith("step/") and here.replace("step/", "dparams/") in self.mine:
            return []  # the gradient is right, and the catalogue has no optimisers
        weak = self.weak(here)
        if weak and self.before(here) is self.taken and self.agreed(here):
            return []
        possible = [(far, m) for far, m in self.candidates(here) if not (weak and far)]
        end = self.clock.share(here == [n for n in self.order if n in self.mine][-1])
        chance = [m for far, m in possible if m.recognise and not far and self.by_chance(m, here)]
        if known := [m for m in chance if m in self.recognised]:
            return [[Match(False, 0, 0, 0.0, known[0])]]
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
        matches, later = [], []
        for k, (far, mistake) in enumerate(itertools.chain(possible, later)):
            self.clock.progress(here, min(k, len(possible)), len(possible))
            if self.clock.over(end):
                few = self.size(here) <= FEW  # numbers, which an untried mistake may give as well
                self.clock.untried += max(len(possible) - k, 0) + len(later) if few or not matches else 0
                break
            if far and matches and self.size(here) > FEW and mistake.stage != matches[0].mistake.stage:
                continue  # of what is less likely, only what may look the same
            likely = k >= len(possible) or self.likely(mistake, here)
            if not likely:
                later += [(far, mistake)] if likely is not None else []
                continue
            match = self.match(mistake, here, far, dtype)
            matches += [match] if match else []
        return matches

    def match(self, mistake: Mistake, here: str, far: int, dtype: str = "float64") -> Match | None:
        """How a mistake gives the port's numbers at a stage, if it does."""
        there = self.plant([mistake], here, self.before(here, dtype), dtype)
        if there is None or np.shape(self.mine[here]) == self.stages[here].shape != there[here].shape:
            return None  # it cannot be planted, or would give another shape than the reference's and the port's
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
        if not everywhere and self.denied(mistake, here, dtype):
            return None
        rough = dtype == "float32"
        return Match(everywhere, 0, far, excess, mistake, rough) if everywhere or not far else None

    def likely(self, mistake: Mistake, here: str) -> bool | None:
        """Whether a mistake changes just those tokens that differ at a stage, seen without computing the stem; None if
        it does not change all of them, and so cannot be it.
        """
        if not here.startswith(("stem/", "patch_embedding")) or "patches" in self.mine or mistake.stage in INTEGERS:
            return True
        if here not in self.differing:
            self.differing[here] = self.tokens_that_differ(here)
        differ = self.differing[here]
        if differ is None or mistake.op in ("batch", "scales_of"):
            return True
        shows = next((n for n in self.order if fnmatch(n, mistake.stage or "")), "")
        if shows.startswith(("stem/", "patch_embedding")):
            return bool(differ.all())
        try:
            run = self.reference.run([*self.mistakes, mistake], until="patches", given=self.taken)
            other, right = (a["patches"][0][self.valid].reshape(len(differ), -1) for a in (run, self.exact))
        except IMPOSSIBLE:  # another number of tokens
            return True
        far = np.linalg.norm(other - right, axis=1) / (np.linalg.norm(right, axis=1) + 1e-9)
        return bool(differ[far > 1e-3].all()) if (far[differ] > 1e-7).all() else None

    def tokens_that_differ(self, here: str) -> np.ndarray | None:
        """Which valid tokens differ at a stage of the stem; None where that cannot be said."""
        mine, right = self.whole(here), np.asarray(self.exact[here])
        if mine is None or here.endswith("standardized"):
            return None
        mine, right = (a.reshape(self.valid.size, -1)[self.valid] for a in (mine, right))
        off = np.linalg.norm(mine - right, axis=1)
        return off > 5 * self.stages[here].tolerance.norm * np.linalg.norm(right, axis=1)

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
        most = {here: WEAK}  # for what goes into it is rounded, too
        return all(n in whole and self.excess(whole, n) <= most.get(n, 1) for n in reversed(given))

    def denied(self, mistake: Mistake, here: str, dtype: str) -> bool:
        """Whether parameters that were exchanged would show at a stage of the same block that agrees.

        Other mistakes may be made at one of two like places in a block, and single layers may be rounded; who reads one
        layer's parameters in another reads them there, whatever the block.
        """
        same = [n for n in self.agreed(here) if n not in self.taken and n.rpartition("/")[0] == here.rpartition("/")[0]]
        if not mistake.load or mistake.stage == "*" or not fnmatch(here, "encoder/block_*") or not same:
            return False
        given = {n: a for n, a in self.before(here, dtype).items() if n not in same}
        there = self.plant([mistake], here, given, dtype)
        return there is not None and any(self.excess(there, n) > 1 for n in same)

    def two(self, possible: Sequence[Mistake], here: str, end: float) -> list[list[Match]]:
        """Two mistakes that together give the port's numbers at a stage, conventions first; [] if there are none."""
        for pair in itertools.islice(itertools.combinations(possible, 2), PAIRS):
            if (
                (pair[0].topic and pair[0].topic == pair[1].topic)
                or pair[0].op == pair[1].op != ""
                or pair[0].remedy == pair[1].remedy
            ):
                continue
            if self.clock.over(end):
                break
            there = self.plant(pair, here, self.before(here))
            if there and self.excess(there, here) <= 1 and not any(self.denied(m, here, "float64") for m in pair):
                return [[Match(True, 0, 0, 0.0, m)] for m in pair]
        return []

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
