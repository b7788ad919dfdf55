"""A comparison as text for the terminal, and as JSON values (the schema is in docs/port-guide.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from musiq_ref.verify.comparison.coverage import GROUPS, gaps, group_of
from musiq_ref.verify.ladder.distance import Distance
from musiq_ref.verify.ladder.stages import BACK
from musiq_ref.verify.mistakes.diagnosis import Diagnosis

SCHEMA = 1

ABOUT = ("generator", "preset", "weights", "image", "precision", "config_sha256", "config")
MARKS = {"equal": "=", "rounding": "≈", "differs": "✗", "misshapen": "✗", "missing": "·"}


@dataclass(frozen=True)
class Rung:
    """One stage compared.

    status: "equal" (to the bit of float32), "rounding", "differs", "misshapen" or "missing"
    excess: of the tolerance; above 1 float32 rounding does not explain the distance
    float32: bulk distance of the reference's own float32 run
    ulps: median error in units of the last place of float32
    where: of the largest error
    layout: what had to be done to the array
    note: why it differs, where its numbers do not tell it
    histogram: of log10(error / rms of the reference), −10 … 1 in halves

    >>> Rung("score", "equal").fine
    True
    """

    name: str
    status: str
    distance: Distance | None = None
    excess: float = 0.0
    float32: float = 0.0
    ulps: float = 0.0
    where: dict[str, Any] = field(default_factory=dict)
    layout: str = ""
    note: str = ""
    histogram: list[int] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.status in ("equal", "rounding")


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: all rungs in the order of the ladder, what was adapted, and the diagnosis.

    lacking: names of required stages that were not given

    >>> Comparison([Rung("score", "equal")], {}).passed
    True
    """

    rungs: list[Rung]
    fixture: dict[str, Any]
    layouts: list[str] = field(default_factory=list)
    diagnosis: Diagnosis | None = None
    notes: list[str] = field(default_factory=list)
    mode: str = "free-running"
    lacking: list[str] = field(default_factory=list)

    @property
    def compared(self) -> list[str]:
        """The names of the stages that were given."""
        return [r.name for r in self.rungs if r.status != "missing"]

    @property
    def first(self) -> Rung | None:
        """The first rung that differs, or None."""
        return next((r for r in self.rungs if r.status in ("differs", "misshapen")), None)

    @property
    def passed(self) -> bool:
        """Whether something was compared, nothing differs, and nothing required is missing."""
        return self.first is None and not self.lacking and any(r.fine for r in self.rungs)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return as_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values; docs/port-guide.md describes the schema.

        >>> Comparison([], {}).to_dict()["schema"]
        1
        """
        return as_dict(self)


def grouped(rungs: list[Rung]) -> dict[str, list[Rung]]:
    """{title: rungs} in the order of the ladder."""
    found: dict[str, list[Rung]] = {title: [] for title, _ in GROUPS}
    for rung in rungs:
        found.setdefault(group_of(rung.name), []).append(rung)
    return {title: members for title, members in found.items() if members}


def as_text(c: Comparison) -> str:
    """What `musiq-ref compare` prints.

    >>> print(as_text(Comparison([Rung("score", "equal")], {})))
    head and score              1 equal
    PASSED: 1 of 1 stages compared, none differs
    """
    lines = []
    for title, rungs in grouped(c.rungs).items():
        counts = {
            s: sum(r.status == s for r in rungs) for s in ("equal", "rounding", "differs", "misshapen", "missing")
        }
        words = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
        worst = max((r for r in rungs if r.distance), key=lambda r: r.excess, default=None)
        tail = f"   worst {worst.name}: {worst.excess:.2g} × allowed" if worst and 0 < worst.excess < math.inf else ""
        lines.append(f"{title:<26}  {words}{tail}")
    lines += [f"layout    {text}" for text in c.layouts[:12]]
    lines += [f"note      {text}" for text in c.notes]
    if c.first:
        lines += ["", f"FIRST DIVERGENCE: {c.first.name}", *_indented(describe(c.first))]
    if c.diagnosis is not None and (c.diagnosis.findings or c.diagnosis.unexplained):
        lines += ["", "DIAGNOSIS", *_indented(diagnosis_lines(c))]
    return "\n".join([*lines, *([""] if c.first else []), verdict(c)])


def verdict(c: Comparison) -> str:
    """The last line: whether it agrees, and how much of the ladder that says.

    >>> verdict(Comparison([Rung("patches", "missing"), Rung("score", "equal")], {}))
    'PASSED: 1 of 2 stages compared, none differs; not compared: what comes before score; one stage proves little'
    """
    failed = sum(r.status in ("differs", "misshapen") for r in c.rungs)
    how = "none differs" if not failed else "1 differs" if failed == 1 else f"{failed} differ"
    parts = [f"{len(c.compared)} of {len(c.rungs)} stages compared, {how}"]
    if c.lacking:
        more = f" and {len(c.lacking) - 1} more" if len(c.lacking) > 1 else ""
        parts.append(f"required and not given: {c.lacking[0]}{more}")
    parts.append(gaps([r.name for r in c.rungs], set(c.compared)))
    if len(c.compared) == 1 < len(c.rungs):
        parts.append("one stage proves little")
    parts.append(judged_as(c))
    return f"{'PASSED' if c.passed else 'FAILED'}: {'; '.join(filter(None, parts))}"


def judged_as(c: Comparison) -> str:
    """The part of a verdict that says in which precision a port was judged; "" for float32.

    >>> judged_as(Comparison([], {"precision": "int8"}))
    'judged as int8, which hides faults of some percent'
    """
    precision = c.fixture.get("precision")
    hides = ", which hides faults of some percent" if precision == "int8" else ""
    return f"judged as {precision}{hides}" if precision else ""


def histogram(reference: np.ndarray, mine: np.ndarray, valid: np.ndarray | None) -> list[int]:
    """Counts of log10(|error| / rms of the reference) in 22 bins from −10 to 1, smaller and larger at the ends.

    >>> sum(histogram(np.ones(4), np.ones(4), None))
    4
    """
    use = np.broadcast_to(True if valid is None else valid, reference.shape)
    r, m = reference[use].astype(np.float64), mine[use].astype(np.float64)
    scale = float(np.sqrt((r * r).mean())) if r.size else 0.0
    with np.errstate(all="ignore"):
        size = np.log10(np.nan_to_num(np.abs(m - r), nan=np.inf, posinf=np.inf) / (scale or 1.0))
    return np.histogram(np.clip(size, -9.99, 0.99), bins=22, range=(-10, 1))[0].tolist()


def describe(rung: Rung) -> list[str]:
    """The size and the place of a divergence, in sentences."""
    d, where = rung.distance, dict(rung.where)
    if d is None:
        return [rung.note]
    if rung.note:
        lines = [rung.note]
    elif not math.isfinite(d.bulk):
        lines = [f"most of its values are 0 in the reference, and are not here; largest error {d.max:.3g}"]
    else:
        lines = [
            f"median error {d.bulk:.2g} of the median value; length of the error {d.norm:.2g}; cosine {d.cosine:.8f}",
            f"largest error {d.max:.3g}; median {rung.ulps:.3g} units in the last place of float32",
            f"float32 rounding explains {rung.float32:.1g}: this is {rung.excess:.3g} times what is allowed",
        ]
        if abs(d.gain) > 1e-3:
            lines.append(f"{1 + d.gain:.4g} times the reference would fit it best")
    if where:
        index, expected, actual = where.pop("index"), where.pop("expected"), where.pop("actual")
        named = "".join(f", {name} {value}" for name, value in where.items())
        lines.append(f"largest at index {index}{named}: expected {expected:.6g}, got {actual:.6g}")
    return lines


def amount(rung: Rung) -> str:
    """How far a stage is off, in a few words.

    >>> amount(Rung("score", "rounding", excess=0.25)), amount(Rung("score", "differs", excess=math.inf))
    ('0.25 × allowed', 'far beyond what is allowed')
    """
    return rung.note or (f"{rung.excess:.2g} × allowed" if math.isfinite(rung.excess) else "far beyond what is allowed")


def diagnosis_lines(c: Comparison) -> list[str]:
    """What the port does otherwise, and what to do."""
    lines = []
    if c.diagnosis is None:
        return lines
    for f in c.diagnosis.findings:
        lines.append(f"{f.kind}: {f.name} (first seen at {f.stage}); {f.about}")
        if f.others:
            lines.append(f"  the same numbers come from: {', '.join(f.others)}")
    if c.diagnosis.unexplained and not c.diagnosis.hints:
        lines.append(f"what differs from {c.diagnosis.unexplained} on was not looked at; repair this first")
    if c.diagnosis.untried:
        lines.append(
            f"{c.diagnosis.untried} known mistakes were not tried: the time was over (a larger budget tries them)"
        )
    elif c.diagnosis.complete and c.diagnosis.findings:
        back = c.diagnosis.findings[-1].stage.startswith(BACK)
        lines.append("with that, every stage agrees" if back else "with that, every stage up to the score agrees")
    return lines


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def as_dict(c: Comparison) -> dict[str, Any]:
    """A comparison as JSON values; numbers that are not finite become null."""
    d = c.diagnosis
    return {
        "schema": SCHEMA,
        "passed": c.passed,
        "mode": c.mode,
        "fixture": {k: c.fixture.get(k) for k in ABOUT},
        "verdict": verdict(c),
        "compared": len(c.compared),
        "required_missing": c.lacking,
        "first_divergence": c.first.name if c.first else None,
        "stages": [rung_dict(r) for r in c.rungs],
        "layouts": c.layouts,
        "notes": c.notes,
        "diagnosis": None
        if d is None
        else {
            "findings": [
                {"name": f.name, "stage": f.stage, "kind": f.kind, "about": f.about, "others": list(f.others)}
                for f in d.findings
            ],
            "complete": d.complete,
            "unexplained": d.unexplained or None,
            "hints": d.hints,
            "conventions": d.conventions,
            "untried": d.untried,
        },
    }


def rung_dict(r: Rung) -> dict[str, Any]:
    """One stage as JSON values.

    >>> rung_dict(Rung("score", "missing"))["status"]
    'missing'
    """
    row: dict[str, Any] = {"name": r.name, "group": group_of(r.name), "status": r.status}
    if r.distance is None:
        return {**row, "note": r.note or None}
    numbers = {k: v for k, v in r.distance._asdict().items() if k != "at"}
    row |= {k: _finite(v) for k, v in {**numbers, "ulps": r.ulps, "excess": r.excess, "float32": r.float32}.items()}
    return {
        **row,
        "where": {k: _finite(v) if isinstance(v, float) else v for k, v in r.where.items()} or None,
        "layout": r.layout or None,
        "note": r.note or None,
        "histogram": r.histogram,
    }


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None
