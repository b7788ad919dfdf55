"""The diagnosis: which conventions a port follows and which known mistakes it makes.

The first stage that differs is taken. Every mistake of the catalogue that would show there first is planted into a
private copy of the reference; the one that gives the port's own numbers is what the port does. With it planted, the
next stage that still differs is taken, until nothing differs or nothing in the catalogue explains it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.verify.ladder.fixture import Fixture, Stage, stored
from musiq_ref.verify.ladder.layouts import LayoutError, fit, sampled_validity
from musiq_ref.verify.ladder.stages import BACK
from musiq_ref.verify.ladder.tolerance import MARGIN_BACK, Tolerance
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.mistake import Mistake
from musiq_ref.verify.mistakes.patterns import patterns
from musiq_ref.verify.mistakes.plant import Reference

MOST = 8  # mistakes that are looked for in one port
PAIRS = 200  # pairs of mistakes that are tried where no single one explains a stage
SHOWN_AT = {  # topic: a stage that shows which convention is followed
    "resized sides": "integers/sides",
    "resize": "pixels/scale_0",
    "hash": "hash_index",
    "scale order": "scale_index",
    "weight std": "stem/conv_root/standardized",
    "eps": "encoder/block_00/norm1",
    "mask": "encoder/block_00/attention/weights",
    "GELU": "encoder/block_00/mlp/gelu",
    "score": "score",
}


@dataclass(frozen=True)
class Finding:
    """One thing that the port does otherwise.

    name: of the mistake
    stage: the first that shows it
    kind: "convention" (another program's choice) or "bug"
    about: what to do
    others: names of mistakes that would look the same

    >>> Finding("erf for tanh", "encoder/block_00/mlp/gelu", "convention", "use tanh").kind
    'convention'
    """

    name: str
    stage: str
    kind: str
    about: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """What the port does otherwise, in the order of the ladder.

    findings: what was found
    complete: whether that explains every given stage (up to the score, where the way there is wrong)
    unexplained: the first stage that it does not explain
    hints: what the numbers there look like
    conventions: {topic: what the port follows}

    >>> Diagnosis([], True).names
    []
    """

    findings: list[Finding]
    complete: bool
    unexplained: str = ""
    hints: list[str] = field(default_factory=list)
    conventions: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the findings."""
        return [f.name for f in self.findings]


def fingerprint(fixture: Fixture, mine: Mapping[str, Any]) -> Diagnosis:
    """Which conventions a port follows, and which known mistakes it makes, from its stages.

    Nothing of the library is changed meanwhile: other threads may score and train.

    fixture: from `load_fixture` or `build_fixture`
    mine: {stage name: array}, as for `compare`; the more stages, the more can be told apart

    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture(image=np.zeros((40, 50, 3), np.uint8))
    >>> fingerprint(fixture, {"score": fixture.stages["score"].array - 1}).names
    ['scores 0 … C−1']
    """
    examined, findings = Examination(Reference(fixture), mine), []
    while len(examined.mistakes) < MOST and (here := examined.first_difference()):
        found = examined.explain(here)
        if not found:
            return Diagnosis(findings, False, here, examined.looks(here), conventions(examined, findings, here))
        findings += [finding(alternatives, here) for alternatives in found]
        if any(best.recognise for best, *_ in found):  # chance: what comes after it cannot be repeated
            return Diagnosis(findings, False, "", [], conventions(examined, findings))
        examined = examined.after([best for best, *_ in found], here)
    here = examined.first_difference()
    return Diagnosis(findings, not here, here, [], conventions(examined, findings))


def finding(alternatives: Sequence[Mistake], here: str) -> Finding:
    """The first of several mistakes that look the same, as a finding."""
    best, *others = alternatives
    kind = "convention" if best.conventions else "bug"
    return Finding(best.name, here, kind, best.remedy, tuple(m.name for m in others))


class Match(NamedTuple):
    """A mistake that gives the port's numbers at a stage, and how well. Matches sort from the best to the worst.

    reach: minus how many of the given stages agree, from the start, with it planted
    far: stages between the first that it would show at and the one that it explains
    excess: of the tolerance
    """

    reach: int
    far: int
    excess: float
    mistake: Mistake


class Examination:
    """A port's stages, against the reference with the mistakes that have been found planted into it.

    mine: {stage name: array} of the port
    mistakes: found so far
    planted: the stages of the reference with them, for those names that it still has
    """

    def __init__(self, reference: Reference, mine: Mapping[str, Any], mistakes: Sequence[Mistake] = ()) -> None:
        self.reference, self.mine, self.mistakes = reference, mine, list(mistakes)
        back = any(name.startswith(BACK) for name in mine)
        self.planted = self.replanted([], back) if mistakes else reference.fixture
        self.order = {name: i for i, name in enumerate(self.planted.stages)}

    def after(self, found: Sequence[Mistake], here: str) -> Examination:
        """The port with more mistakes found, of which the last shows at a stage."""
        mine = self.mine
        if not here.startswith(BACK):  # gradients of a wrong forward are wrong: repair it, then compare them
            mine = {name: array for name, array in mine.items() if not name.startswith(BACK)}
        return Examination(self.reference, mine, [*self.mistakes, *found])

    def first_difference(self) -> str:
        """The first given stage that differs from the planted reference's, or ""."""
        return first_difference(self.planted, self.mine)

    def explain(self, here: str) -> list[list[Mistake]]:
        """What explains a stage: one mistake, or two; each with those that look the same."""
        possible = self.candidates(here)
        chance = [m for m in possible if m.recognise and self.by_chance(m, here)]
        if chance:
            return [chance[:1]]
        possible = [m for m in possible if not m.recognise]
        matches = [match for m in possible if (match := self.match(m, here))]
        if len(matches) > 1:  # the same at this stage: see who is right further down
            matches = [match._replace(reach=-self.reach(match.mistake, here)) for match in matches]
            matches = [match for match in matches if match.reach == min(m.reach for m in matches)]
        if matches:
            return [[match.mistake for match in sorted(matches, key=lambda match: match[:3])]]
        return [[m] for m in self.two(possible, here)]

    def candidates(self, here: str) -> list[Mistake]:
        """The mistakes that would show at this stage, and at none that was given before (and so agrees)."""
        known = [m for m in MISTAKES.values() if m.stage and m not in self.mistakes and m.applies(self.planted.config)]
        return [m for m in known if 0 <= self.shows(m, here) <= self.order[here]]

    def shows(self, mistake: Mistake, here: str) -> int:
        """Where in the ladder, after the last stage that was given before this one, a mistake shows first; or −1."""
        names = list(self.order)
        agreed = max((i for i in range(self.order[here]) if names[i] in self.mine), default=-1)
        return next((i for i in range(agreed + 1, len(names)) if fnmatch(names[i], mistake.stage or "")), -1)

    def match(self, mistake: Mistake, here: str) -> Match | None:
        """How a mistake gives the port's numbers at a stage, if it does."""
        there = self.plant([mistake], here)
        if there is None:
            return None
        excess = excess_of(there, self.mine, here)
        if 1 < excess < np.inf and self.much_closer(there, here):  # it may amplify rounding
            rough = self.reference.run([*self.mistakes, mistake], "float32", here)
            excess = excess_of(loosened(there, {here: rough[here]}), self.mine, here)
        return Match(0, self.order[here] - self.shows(mistake, here), excess, mistake) if excess <= 1 else None

    def two(self, possible: Sequence[Mistake], here: str) -> list[Mistake]:
        """Two mistakes that together give the port's numbers at a stage, conventions first; [] if there are none."""
        ordered = sorted(possible, key=lambda m: not m.conventions)
        for pair in itertools.islice(itertools.combinations(ordered, 2), PAIRS):
            if pair[0].topic and pair[0].topic == pair[1].topic:
                continue
            there = self.plant(pair, here)
            if there and excess_of(there, self.mine, here) <= 1:
                return list(pair)
        return []

    def plant(self, more: Sequence[Mistake], here: str) -> Fixture | None:
        """The planted reference up to a stage with more mistakes in it; None where they cannot be combined."""
        try:
            run = self.reference.run([*self.mistakes, *more], until=here)
        except (ValueError, IndexError, TypeError):
            return None
        return as_fixture(self.planted, run) if here in run else None

    def replanted(self, more: Sequence[Mistake], back: bool) -> Fixture:
        """The fixture that a port with these mistakes would have written, as far as it runs.

        A mistake can make later stages more sensitive to rounding, so tolerances are measured once more, and the larger
        kept.
        """
        fixture, mistakes = self.reference.fixture, [*self.mistakes, *more]
        exact = self.reference.run(mistakes, back=back)
        stages = as_fixture(fixture, exact).stages
        whole = fixture._replace(stages={name: stages[name] for name in fixture.stages if name in exact})
        return loosened(whole, self.reference.run(mistakes, "float32", back=back))

    def reach(self, mistake: Mistake, here: str) -> int:
        """How many of the given stages agree, from the start, with this mistake planted, too."""
        planted = self.replanted([mistake], here.startswith(BACK))
        given = [name for name in planted.stages if name in self.mine]
        wrong = first_difference(planted, self.mine)
        return given.index(wrong) if wrong else len(given)

    def much_closer(self, there: Fixture, here: str) -> bool:
        """Whether a planted reference is at least five times closer to the port than the reference is."""
        before, now = (fit(f.stages[here], self.mine[here], f)[2] for f in (self.planted, there))
        return now.norm <= before.norm / 5 and now.bulk <= max(before.bulk / 5, there.stages[here].tolerance.bulk)

    def by_chance(self, mistake: Mistake, here: str) -> bool:
        """Whether the numbers of a stage look like those of a mistake that no planting can repeat."""
        stage = self.planted.stages[here]
        try:
            array, _, _ = fit(stage, self.mine[here], self.planted)
        except LayoutError:
            return False
        valid = sampled_validity(stage, self.planted)
        valid = np.broadcast_to(True if valid is None else valid, stage.array.shape)
        return mistake.recognise is not None and mistake.recognise(stage.array[valid], array[valid])

    def looks(self, here: str) -> list[str]:
        """What the numbers of an unexplained stage have in common with the right ones."""
        stages = self.planted.stages
        stage = stages[here]
        try:
            given, _, _ = fit(stage, self.mine[here], self.planted)
        except LayoutError:
            return [f"its shape is {np.shape(self.mine[here])}, the reference's {stage.shape}"]
        if stage.sample:
            return []
        relatives = {n: s.array for n, s in stages.items() if n != here and s.shape == stage.shape and not s.sample}
        return list(patterns(stage.array, given, relatives))[:3]


def first_difference(fixture: Fixture, mine: Mapping[str, Any]) -> str:
    """The first given stage that differs from the fixture's by more than float32 rounding explains, or ""."""
    return next((n for n in fixture.stages if n in mine and excess_of(fixture, mine, n) > 1), "")


def excess_of(fixture: Fixture, mine: Mapping[str, Any], here: str) -> float:
    """How many times larger than allowed the distance of a stage is; infinite for another shape."""
    stage = fixture.stages[here]
    try:
        return stage.tolerance.excess(fit(stage, mine[here], fixture)[2])
    except LayoutError:
        return np.inf


def as_fixture(fixture: Fixture, run: Mapping[str, Any]) -> Fixture:
    """The fixture with the stages of a run in the place of its own, and its own tolerances."""
    stages = {}
    for name, value in run.items():
        array, count = stored(value)
        tolerance = fixture.stages[name].tolerance if name in fixture.stages else Tolerance(1e-5, 1e-5, None, 0)
        stages[name] = Stage(name, array, np.shape(value), count, tolerance)
    return fixture._replace(stages={**fixture.stages, **stages})


def loosened(fixture: Fixture, rough: Mapping[str, Any]) -> Fixture:
    """The fixture with the tolerances that a float32 run of the same mistakes asks for, where they are larger."""

    def one(name: str, stage: Stage) -> Stage:
        tolerance = stage.tolerance
        if name not in rough or stage.array.dtype.kind != "f" or tolerance.absolute is not None:
            return stage
        d = fit(stage, rough[name], fixture)[2]
        bulk, norm = max(tolerance.bulk, MARGIN_BACK * d.bulk), max(tolerance.norm, MARGIN_BACK * d.norm)
        return stage._replace(tolerance=tolerance._replace(bulk=bulk, norm=norm))

    return fixture._replace(stages={name: one(name, stage) for name, stage in fixture.stages.items()})


def conventions(examined: Examination, findings: Sequence[Finding], until: str = "") -> dict[str, str]:
    """{topic: the mistake found, "as the reference", or "not shown"}."""
    order = list(examined.reference.fixture.stages)
    shown = set(order[: order.index(until)] if until in order else order) & set(examined.mine)
    table = {}
    for topic, stage in SHOWN_AT.items():
        names = [f.name for f in findings if MISTAKES[f.name].topic == topic]
        table[topic] = ", ".join(names) or ("as the reference" if stage in shown else "not shown")
    return table
