"""The diagnosis: which conventions a port follows and which known bugs it has.

The first stage that differs is taken. Every fault of the catalogue that would show there first is planted into the
reference; the one that gives the port's own numbers is what the port does. With it planted, the next stage that still
differs is taken, until nothing differs or nothing in the catalogue explains it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import map_params
from musiq_ref.verify.ladder.fixture import Fixture, Stage, stored
from musiq_ref.verify.ladder.layouts import LayoutError, fit, sampled_validity
from musiq_ref.verify.ladder.tolerance import MARGIN_BACK, Tolerance
from musiq_ref.verify.mistakes.catalogue import FAULTS
from musiq_ref.verify.mistakes.patterns import patterns
from musiq_ref.verify.mistakes.plant import Fault, run_planted

MOST = 8  # faults that are looked for in one port
PAIRS = 200  # pairs of faults that are tried where no single one explains a stage
BACK = ("gradient/", "dparams/", "step/")
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

    stage: the first that shows it;  kind: "convention" (another program's choice) or "bug";  others: names of faults
    that would look the same

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

    complete: whether that explains every given stage (up to the score, where the way there is wrong);
    unexplained: the first stage that it does not explain;  hints: what the numbers there look like;
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
    """Which conventions a port follows, and which known bugs it has, from its stages.

    mine: {stage name: array}, as for `compare`; the more stages, the more can be told apart

    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture(image=np.zeros((40, 50, 3), np.uint8))
    >>> fingerprint(fixture, {"score": fixture.stages["score"].array - 1}).names
    ['scores 0 … C−1']
    """
    active: list[Fault] = []
    findings: list[Finding] = []
    current, tried = fixture, set()
    for _ in range(MOST):
        here = first_difference(current, mine)
        if not here:
            return Diagnosis(findings, True, conventions=conventions(fixture, mine, findings))
        matches = explain(current, mine, here, active, tried)
        both = [] if matches else explain_by_two(current, mine, here, active, tried)
        for fault in both[:1]:
            findings.append(_finding(fault, here))
            active.append(fault)
            tried.add(fault.name)
        if both:
            matches = both[1:]
        if not matches:
            return Diagnosis(
                findings, False, here, looks(current, mine, here), conventions(fixture, mine, findings, here)
            )
        best = matches[0]
        findings.append(_finding(best, here, matches[1:]))
        active.append(best)
        tried.add(best.name)
        if best.recognise:  # chance: what comes after it cannot be repeated
            return Diagnosis(findings, False, "", [], conventions(fixture, mine, findings))
        if not here.startswith(BACK):  # gradients of a wrong forward are wrong: repair it, then compare them
            mine = {name: array for name, array in mine.items() if not name.startswith(BACK)}
        current = replant(fixture, active, any(name.startswith(BACK) for name in mine))
    here = first_difference(current, mine)
    return Diagnosis(findings, not here, here, [], conventions(fixture, mine, findings))


def _finding(fault: Fault, here: str, others: Sequence[Fault] = ()) -> Finding:
    kind = "convention" if fault.conventions else "bug"
    return Finding(fault.name, here, kind, fault.about, tuple(f.name for f in others))


def first_difference(fixture: Fixture, mine: Mapping[str, Any]) -> str:
    """The first given stage that differs from the fixture's, or ""."""
    return next((n for n, s in fixture.stages.items() if n in mine and not agrees(s, mine[n], fixture)), "")


def agrees(stage: Stage, mine: Any, fixture: Fixture) -> bool:
    """Whether float32 rounding explains how far a stage of mine is from the fixture's."""
    return excess_of(stage, mine, fixture) <= 1


def excess_of(stage: Stage, mine: Any, fixture: Fixture) -> float:
    """How many times larger than allowed the distance of a stage is; infinite for another shape."""
    try:
        return stage.tolerance.excess(fit(stage, mine, fixture)[2])
    except LayoutError:
        return np.inf


def explain(fixture: Fixture, mine: Mapping[str, Any], here: str, active: list[Fault], tried: set[str]) -> list[Fault]:
    """The faults that give the port's numbers at its first differing stage, the one that explains most first."""
    order = {name: i for i, name in enumerate(fixture.stages)}
    back = here.startswith(BACK)
    found: list[tuple[int, int, float, Fault]] = []
    for fault in candidates(fixture, mine, here, tried):
        at = position(fault, order, latest_given(fixture, mine, here)) or 0
        if fault.recognise:
            if by_chance(fault, fixture, mine, here):
                return [fault]
            continue
        try:
            stages = plant(fixture, [*active, fault], back, here)
        except (ValueError, IndexError, TypeError):  # this fault cannot be combined with those found before
            continue
        if here not in stages:
            continue
        there = fixture._replace(stages={**fixture.stages, **stages})
        excess = excess_of(stages[here], mine[here], there)
        if 1 < excess < np.inf and much_closer(fixture, there, mine, here):
            excess = excess_of(loosened(there, [*active, fault], back, here), mine[here], there)
        if excess <= 1:
            found.append((0, order[here] - at, excess, fault))
    if len(found) > 1:  # the same at this stage: see who is right further down
        found = [(-reach(fixture, mine, [*active, f], back), far, excess, f) for _, far, excess, f in found]
        best = min(f[0] for f in found)
        found = [f for f in found if f[0] == best]
    return [f[3] for f in sorted(found, key=lambda f: f[:3])]


def candidates(fixture: Fixture, mine: Mapping[str, Any], here: str, tried: set[str]) -> list[Fault]:
    """The faults that would show at this stage, and at none that was given before."""
    order = {name: i for i, name in enumerate(fixture.stages)}
    after = latest_given(fixture, mine, here)
    found = []
    for fault in FAULTS.values():
        at = position(fault, order, after)
        if fault.name not in tried and at is not None and at <= order[here] and applies(fault, fixture.config):
            found.append(fault)
    return found


def latest_given(fixture: Fixture, mine: Mapping[str, Any], here: str) -> int:
    """The place in the ladder of the last stage before this one that was given, and so agrees; −1 if there is none."""
    names = list(fixture.stages)
    return max((i for i, n in enumerate(names[: names.index(here)]) if n in mine), default=-1)


def much_closer(fixture: Fixture, planted: Fixture, mine: Mapping[str, Any], here: str) -> bool:
    """Whether the planted reference is at least five times closer to the port than the reference is."""
    before, now = (fit(f.stages[here], mine[here], f)[2] for f in (fixture, planted))
    return now.norm <= before.norm / 5 and now.bulk <= max(before.bulk / 5, planted.stages[here].tolerance.bulk)


def loosened(planted: Fixture, faults: list[Fault], gradients: bool, here: str) -> Stage:
    """A stage of the planted reference with the tolerance that its own float32 run asks for."""
    single = map_params(lambda a: a.astype(np.float32), planted.params)
    rough = run_planted(faults, single, planted.image, planted.config, gradients=gradients, until=here)
    return _loosened(planted.stages[here], rough[here], planted)


def _loosened(stage: Stage, rough: Any, planted: Fixture) -> Stage:
    tolerance, d = stage.tolerance, fit(stage, rough, planted)[2]
    if stage.array.dtype.kind != "f" or tolerance.absolute is not None:
        return stage
    bulk, norm = max(tolerance.bulk, MARGIN_BACK * d.bulk), max(tolerance.norm, MARGIN_BACK * d.norm)
    return stage._replace(tolerance=tolerance._replace(bulk=bulk, norm=norm))


def explain_by_two(
    fixture: Fixture, mine: Mapping[str, Any], here: str, active: list[Fault], tried: set[str]
) -> list[Fault]:
    """Two faults that together give the port's numbers at this stage, conventions first; [] if there are none."""
    possible = [f for f in candidates(fixture, mine, here, tried) if not f.recognise]
    possible.sort(key=lambda f: not f.conventions)
    back = here.startswith(BACK)
    for first, second in itertools.islice(itertools.combinations(possible, 2), PAIRS):
        if first.topic and first.topic == second.topic:
            continue
        try:
            stages = plant(fixture, [*active, first, second], back, here)
        except (ValueError, IndexError, TypeError):
            continue
        if here in stages:
            there = fixture._replace(stages={**fixture.stages, **stages})
            if excess_of(stages[here], mine[here], there) <= 1:
                return [first, second]
    return []


def by_chance(fault: Fault, fixture: Fixture, mine: Mapping[str, Any], here: str) -> bool:
    """Whether the numbers of a stage look like those of a fault that no planting can repeat."""
    stage = fixture.stages[here]
    try:
        array, _, _ = fit(stage, mine[here], fixture)
    except LayoutError:
        return False
    valid = sampled_validity(stage, fixture)
    valid = np.broadcast_to(True if valid is None else valid, stage.array.shape)
    return fault.recognise is not None and fault.recognise(stage.array[valid], array[valid])


def position(fault: Fault, order: Mapping[str, int], after: int = -1) -> int | None:
    """Where in the ladder, after a place, a fault shows first."""
    return next((i for name, i in order.items() if i > after and fnmatch(name, fault.at)), None)


def applies(fault: Fault, config: MusiqConfig) -> bool:
    """Whether the fault would change anything under the fixture's conventions.

    >>> applies(FAULTS["erf for tanh"], MusiqConfig()), applies(FAULTS["tanh for erf"], MusiqConfig())
    (True, False)
    """
    if any(getattr(config.conventions, k) != v for k, v in fault.under.items()):
        return False
    same = [getattr(config.conventions, k) == v for k, v in fault.conventions.items()]
    return not same or not all(same)


def plant(fixture: Fixture, faults: list[Fault], gradients: bool, until: str | None = None) -> dict[str, Stage]:
    """The stages of the reference with faults planted, with the fixture's tolerances."""
    order = {name: i for i, name in enumerate(fixture.stages)}
    stem = order.get("stem/output", len(order))
    later = not gradients and until is not None and order[until] > stem
    later = later and all((position(fault, order) or 0) > stem for fault in faults)
    run = run_planted(
        faults,
        fixture.params,
        fixture.image,
        fixture.config,
        gradients=gradients,
        until=until,
        features=features(fixture) if later else None,
    )
    stages = {}
    for name, value in run.items():
        array, count = stored(value)
        tolerance = fixture.stages[name].tolerance if name in fixture.stages else Tolerance(1e-5, 1e-5, None, 0)
        stages[name] = Stage(name, array, np.shape(value), count, tolerance)
    return stages


def features(fixture: Fixture) -> np.ndarray:
    """The stem's output of the reference, kept while the fixture is the same."""
    key = id(fixture.params)
    if _FEATURES.get("key") != key:
        run = run_planted([], fixture.params, fixture.image, fixture.config, until="stem/output")
        _FEATURES.update(key=key, params=fixture.params, value=run["stem/output"])
    return _FEATURES["value"]


_FEATURES: dict[str, Any] = {}


def replant(fixture: Fixture, faults: list[Fault], gradients: bool) -> Fixture:
    """The fixture that a port with these faults would have written, as far as it runs.

    A fault can make later stages more sensitive to rounding, so tolerances are measured once more, and the larger kept.
    """
    stages = plant(fixture, faults, gradients)
    single = map_params(lambda a: a.astype(np.float32), fixture.params)
    rough = run_planted(faults, single, fixture.image, fixture.config, gradients=gradients)
    here = fixture._replace(stages={**fixture.stages, **stages})
    names = [name for name in fixture.stages if name in stages]
    return fixture._replace(stages={name: _loosened(stages[name], rough[name], here) for name in names})


def reach(fixture: Fixture, mine: Mapping[str, Any], faults: list[Fault], gradients: bool) -> int:
    """How many of the given stages agree, from the start, with these faults planted."""
    planted = replant(fixture, faults, gradients)
    wrong = first_difference(planted, mine)
    given = [name for name in planted.stages if name in mine]
    return given.index(wrong) if wrong else len(given)


def looks(fixture: Fixture, mine: Mapping[str, Any], here: str) -> list[str]:
    """What the numbers of an unexplained stage have in common with the right ones."""
    stage = fixture.stages[here]
    try:
        given, _, _ = fit(stage, mine[here], fixture)
    except LayoutError:
        return [f"its shape is {np.shape(mine[here])}, the reference's {stage.shape}"]
    if stage.sample:
        return []
    relatives = {
        name: s.array for name, s in fixture.stages.items() if name != here and s.shape == stage.shape and not s.sample
    }
    return list(patterns(stage.array, given, relatives))[:3]


def conventions(fixture: Fixture, mine: Mapping[str, Any], findings: list[Finding], until: str = "") -> dict[str, str]:
    """{topic: the fault found, "as the reference", or "not shown"}."""
    order = list(fixture.stages)
    last = order.index(until) if until in order else len(order)
    table = {}
    for topic, stage in SHOWN_AT.items():
        names = [f.name for f in findings if FAULTS[f.name].topic == topic]
        shown = stage in mine and stage in order and order.index(stage) < last
        table[topic] = ", ".join(names) or ("as the reference" if shown else "not shown")
    return table
