"""The diagnosis: which conventions a port follows, which known mistakes it makes, and what else is wrong, and where.

The first stage that differs is taken. Every mistake of the catalogue that may show there is planted into a private copy
of the reference; the one that gives the port's own numbers is what the port does. Where none does, the stage is
described, and the reference goes on from the port's own array. So on to the next stage that differs, until none does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any

from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.ladder.stages import BACK
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.describe import described
from musiq_ref.verify.mistakes.evidence import Clock, Evidence
from musiq_ref.verify.mistakes.examination import Examination, Match
from musiq_ref.verify.mistakes.mistake import Mistake
from musiq_ref.verify.mistakes.reference import Reference

MOST = 8  # findings that are looked for in one port
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
UNEXPLAINED = "unexplained"


@dataclass(frozen=True)
class Finding:
    """One thing that the port does otherwise.

    name: of the mistake; "no known mistake" where nothing in the catalogue gives the port's numbers
    stage: the first that shows it
    kind: "convention" (another program's choice), "bug" or "unexplained"
    about: what to do, or what the numbers look like
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

    findings: what was found, described where it has no name
    complete: whether that explains every given stage (up to the score, where the way there is wrong)
    unexplained: the first stage that it does not explain
    hints: what the numbers there look like
    conventions: {topic: what the port follows}
    untried: mistakes that were not tried, because the time was over

    >>> Diagnosis([], True).names
    []
    """

    findings: list[Finding]
    complete: bool
    unexplained: str = ""
    hints: list[str] = field(default_factory=list)
    conventions: dict[str, str] = field(default_factory=dict)
    untried: int = 0

    @property
    def names(self) -> list[str]:
        """The names of what was found and has one."""
        return [f.name for f in self.findings if f.kind != UNEXPLAINED]


def fingerprint(
    fixture: Fixture,
    mine: Mapping[str, Any],
    budget: float = 30.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Diagnosis:
    """Which conventions a port follows, and which known mistakes it makes, from its stages.

    Nothing of the library is changed meanwhile: other threads may score and train.

    fixture: from `load_fixture` or `build_fixture`
    mine: {stage name: array}, as for `compare`; the more stages, the more can be told apart
    budget: seconds after which no more mistakes are tried
    progress: called with (stage, mistakes tried, of how many)

    >>> import numpy as np
    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture(image=np.zeros((40, 50, 3), np.uint8))
    >>> fingerprint(fixture, {"score": fixture.stages["score"].array - 1}).names
    ['scores 0 … C−1']
    """
    clock = Clock(budget, progress)
    examined = Examination(Reference(fixture), mine, clock)
    findings: list[Finding] = []
    hints: dict[str, list[str]] = {}  # {unexplained stage: what its numbers look like}
    here = examined.first_difference()
    together = examined.whole_sets(here) if here else []
    if together:
        findings += [finding([m], stage) for m, stage in together]
        examined = after(examined, [m for m, _ in together])
    rough: set[str] = set()  # stages where planting gives a finding's numbers but for rounding
    misshapen = False  # whether an unexplained stage has another shape, which those after it only follow
    while (here := examined.first_difference()) and len(findings) < MOST:
        if general(here) in rough or (misshapen and examined.misshapen(here)):
            examined = after(examined, [], here)
            continue
        found = [] if general(here) in map(general, hints) else examined.explain(here)
        if not found and examined.weak(here):
            examined = after(examined, [], here)
            continue
        if not found or not strong(found, examined, here):
            misshapen = misshapen or examined.misshapen(here)
            hints[here] = [*coincidences(found), *described(examined, here)][:4]
            findings = joined(findings, Finding("no known mistake", here, UNEXPLAINED, "; ".join(hints[here])))
            examined = after(examined, [], here)
            continue
        for matches in found:
            findings = joined(findings, local(finding([m.mistake for m in matches], here), matches[0], examined))
        planted = [matches[0].mistake for matches in found if matches[0].everywhere]
        rough |= {general(here) for matches in found if matches[0].rough}
        examined = after(examined, planted, here if len(planted) < len(found) or general(here) in rough else "")
    first = next(iter(hints), here)
    table = conventions(fixture, mine, findings, first)
    return Diagnosis(findings, not here and not hints, first, hints.get(first, []), table, clock.untried)


def after(examined: Examination, found: Sequence[Mistake], take: str = "") -> Examination:
    """The port with more mistakes found, or with a stage taken as it is there."""
    mine, taken = examined.mine, dict(examined.taken)
    if take:
        taken[take] = examined.whole(take)
        if taken[take] is None or take.startswith(BACK[1:]) or take == "gradient/image":  # nothing can go on from it
            mine = {n: a for n, a in mine.items() if n != take and n != take.replace("dparams/", "step/")}
            del taken[take]
    follow = {"score": ("loss/l1", "loss/mse", "loss/huber"), "probabilities": ("loss/emd", "loss/cross_entropy")}
    mine = {n: a for n, a in mine.items() if n not in follow.get(take, ())}
    if not take.startswith(BACK) and not (found and all((m.stage or "").startswith(BACK) for m in found)):
        mine = {n: a for n, a in mine.items() if not n.startswith(BACK)}  # gradients of a wrong forward are wrong
    return Examination(
        examined.reference, mine, examined.clock, [*examined.mistakes, *found], taken, examined.recognised
    )


def strong(found: Sequence[Sequence[Match]], examined: Examination, here: str) -> bool:
    """Whether an explanation is more than a coincidence: of a single number there must be no second kind of cause."""
    kinds = [{(match.mistake.op, match.mistake.stage) for match in matches} for matches in found]
    return examined.size(here) > 1 or all(len(kind) == 1 for kind in kinds)


def coincidences(found: Sequence[Sequence[Match]]) -> list[str]:
    """What to say of causes that a single number cannot tell apart."""
    names = [m.mistake.name for matches in found for m in matches]
    shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    return (
        [f"{len(names)} causes would give this number: {shown}; give more stages to tell them apart"] if names else []
    )


def finding(alternatives: Sequence[Mistake], here: str) -> Finding:
    """The first of several mistakes that look the same, as a finding."""
    best, *others = alternatives
    kind = "convention" if best.conventions else "bug"
    return Finding(best.name, here, kind, best.remedy, tuple(m.name for m in others))


def local(found: Finding, match: Match, examined: Examination) -> Finding:
    """A finding that says so if the same mistake would show at earlier stages, too, and these are right."""
    earlier = any(fnmatch(name, match.mistake.stage or "") for name in examined.agreed(found.stage))
    return replace(found, about=f"only from here on; {found.about}") if earlier and not match.everywhere else found


def general(stage: str) -> str:
    """The name of a stage whatever the block or the scale."""
    return re.sub(r"block_\d+|scale_\d+", "", stage)


def joined(findings: Sequence[Finding], new: Finding) -> list[Finding]:
    """Findings and a new one; what is like an earlier one in another block is told there."""
    for k, old in enumerate(findings):
        if {old.name, new.name} == {"kept in float16", "kept in TF32"}:  # most numbers of TF32 are of float16, too
            old, new = (replace(one, name="kept in TF32") for one in (old, new))
        alike = old.about.partition("; ")[0] == new.about.partition("; ")[0]
        alike = alike and old.stage.startswith(BACK) and new.stage.startswith(BACK)
        if old.name == new.name and (old.kind != UNEXPLAINED or general(old.stage) == general(new.stage) or alike):
            about = f"{old.about}{', ' if '; also at ' in old.about else '; also at '}{new.stage}"
            return [*findings[:k], replace(old, about=about), *findings[k + 1 :]]
    return [*findings, new]


def first_difference(fixture: Fixture, mine: Mapping[str, Any]) -> str:
    """The first given stage that differs from the fixture's by more than float32 rounding explains, or ""."""
    return Evidence(Reference(fixture), mine, Clock(0.0)).first_difference()


def conventions(fixture: Fixture, mine: Mapping[str, Any], findings: Sequence[Finding], until: str) -> dict[str, str]:
    """{topic: the mistake found, "as the reference", or "not shown"}."""
    order = list(fixture.stages)
    shown = set(order[: order.index(until)] if until in order else order) & set(mine)
    table = {}
    for topic, stage in SHOWN_AT.items():
        names = [f.name for f in findings if f.name in MISTAKES and MISTAKES[f.name].topic == topic]
        table[topic] = ", ".join(names) or ("as the reference" if stage in shown else "not shown")
    return table
