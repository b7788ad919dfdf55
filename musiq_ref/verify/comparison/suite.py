"""A port against all cases of a suite: one table, case by rung, and one verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from musiq_ref.suggest import did_you_mean
from musiq_ref.verify.comparison.climb import compare, refuse_python
from musiq_ref.verify.comparison.coverage import NothingGiven, matching
from musiq_ref.verify.comparison.report import (
    MARKS,
    SCHEMA,
    Comparison,
    Rung,
    as_dict,
    describe,
    diagnosis_lines,
    grouped,
    judged_as,
)
from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.ladder.suite import load_suite

SHORT = {
    "pixels and patches": "pixels",
    "head and score": "head",
    "gradients of activations": "grad. act.",
    "gradients of parameters": "grad. par.",
}
"""What stands over a column of the table, where the rung's title is too long."""


@dataclass(frozen=True)
class SuiteComparison:
    """What `compare_suite` found.

    cases: {case: its comparison}
    missing: cases for which nothing was given
    failed: {case: why it could not be compared}
    required: whether a missing case is a failure, because some stages are required
    notes: sentences about folders that are no case

    >>> SuiteComparison({"portrait": Comparison([Rung("score", "equal")], {})}).passed
    True
    """

    cases: dict[str, Comparison]
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    required: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def differs(self) -> list[str]:
        """The cases that do not pass, and those that are missing where they are required."""
        return [name for name, c in self.cases.items() if not c.passed] + (self.missing if self.required else [])

    @property
    def passed(self) -> bool:
        """Whether something was compared, every case passes that was given, and none failed."""
        return bool(self.cases) and not self.differs and not self.failed

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return suite_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values.

        >>> SuiteComparison({}, ["portrait"]).to_dict()["not_given"]
        ['portrait']
        """
        cases = {name: as_dict(c) for name, c in self.cases.items()}
        about = {"schema": SCHEMA, "passed": self.passed, "verdict": suite_verdict(self)}
        return {**about, "cases": cases, "not_given": self.missing, "failed": self.failed, "notes": self.notes}


def compare_suite(suite: str | Path | Mapping[str, Fixture], mine: Any, **options: Any) -> SuiteComparison:
    """Compares a port with every case of a suite.

    suite: a folder, or {case: fixture}
    mine: {case: stages}, or a folder with a sub-folder for each case
    options: those of `compare`; of several cases that differ only the first is diagnosed

    Raises FixtureError for a damaged suite, ValueError when nothing of mine is a case or a stage.

    >>> from musiq_ref.verify.ladder.suite import build_case
    >>> fixture = build_case("one_patch")
    >>> score = {"score": fixture.stages["score"].array}
    >>> print(compare_suite({"one_patch": fixture}, {"one_patch": score}).passed)
    True
    """
    fixtures = suite if isinstance(suite, Mapping) else load_suite(suite)
    names = list(mine) if isinstance(mine, Mapping) else sub_folders(Path(mine))
    unknown = [name for name in names if name not in fixtures]
    if unknown and not options.get("allow_unknown"):
        raise ValueError(
            f"{unknown[0]!r} is no case of the suite; the cases are {', '.join(fixtures)}; rename it, or add "
            f"--allow-unknown (allow_unknown=True){did_you_mean(unknown[0], fixtures)}"
        )
    given = mine if isinstance(mine, Mapping) else {name: Path(mine) / name for name in names}

    def one(case: str, fixture: Fixture, **options: Any) -> Comparison | None:
        return compare(fixture, given[case], **options) if case in given else None

    notes = [f"{name} is no case of the suite" for name in unknown]
    return replace(over_cases(fixtures, one, **options), notes=notes)


def over_cases(
    fixtures: Mapping[str, Fixture],
    one: Callable[..., Comparison | None],
    *,
    diagnose: bool = True,
    require: Iterable[str] = (),
    **options: Any,
) -> SuiteComparison:
    """Compares case by case.

    one: `one(case, fixture, **options)` compares one, or returns None where there is nothing; a ValueError that it
        raises is noted, and the next case taken
    require, options: those of `compare`

    Raises ValueError where nothing at all could be compared.
    """
    require = [require] if isinstance(require, str) else list(require)
    matching({name: 0 for fixture in fixtures.values() for name in fixture.stages}, require)
    found, missing, failed = {}, [], {}
    for case, fixture in fixtures.items():
        wanted = [p for p in require if any(fnmatch(name, p) for name in fixture.stages)]
        untroubled = all(c.passed for c in found.values())
        try:
            result = one(case, fixture, diagnose=diagnose and untroubled, require=wanted, **options)
        except NothingGiven:
            result = None
        except ValueError as error:
            failed[case] = " ".join(str(error).split())
            continue
        if result is None:
            missing.append(case)
        else:
            found[case] = replace(result, fixture={**result.fixture, "case": case})
    if not found:
        raise ValueError(next(iter(failed.values()), "nothing to compare: no case was given"))
    return SuiteComparison(found, missing, failed, bool(require))


def sub_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder."""
    refuse_python(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: is no folder; a suite is compared with a folder that has one for each case")
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def table_rows(s: SuiteComparison) -> tuple[list[str], dict[str, list[Rung | None]]]:
    """Titles of the rungs, and for each case the worst stage of each that was given; None where none was."""
    titles = list(dict.fromkeys(title for c in s.cases.values() for title in grouped(c.rungs)))
    rows: dict[str, list[Rung | None]] = {}
    for case, c in s.cases.items():
        groups = grouped(c.rungs)
        given = [[r for r in groups.get(title, []) if r.status != "missing"] for title in titles]
        rows[case] = [max(some, key=lambda r: (not r.fine, r.excess), default=None) for some in given]
    return titles, rows


def suite_text(s: SuiteComparison) -> str:
    """What `musiq-ref compare` prints for a suite."""
    titles, rows = table_rows(s)
    heads = [SHORT.get(title, title) for title in titles]
    width = max(map(len, [*s.cases, *s.missing, *s.failed]))
    lines = [" " * width + "".join(f"  {head}" for head in heads)]
    for case, worst in rows.items():
        marks = [MARKS[r.status] if r else MARKS["missing"] for r in worst]
        lines.append(
            f"{case:<{width}}" + "".join(f"  {m:^{len(h)}}" for m, h in zip(marks, heads, strict=True)).rstrip()
        )
    lines += [f"{case:<{width}}  nothing given" for case in s.missing]
    lines += [f"{case:<{width}}  cannot be compared: {why}" for case, why in s.failed.items()]
    said: dict[str, str] = {}
    for case, c in s.cases.items():
        said |= {note: case for note in c.notes if note not in said}  # what several cases say is said of the first
    lines += [f"note      {text}" for text in s.notes] + [f"note      {note} ({case})" for note, case in said.items()]
    for case, c in s.cases.items():
        if c.first:
            lines += ["", f"FIRST DIVERGENCE in {case}: {c.first.name}", *(f"  {line}" for line in describe(c.first))]
        lines += ["", "DIAGNOSIS", *(f"  {line}" for line in diagnosis_lines(c))] if diagnosis_lines(c) else []
    return "\n".join([*lines, "", suite_verdict(s)])


def suite_verdict(s: SuiteComparison) -> str:
    """The last line: how many cases agree, and what was compared.

    >>> suite_verdict(SuiteComparison({"portrait": Comparison([Rung("score", "equal")], {})}, ["panorama"]))
    'PASSED: 1 of 2 cases compared, 1 of 1 stages in them, none differs; nothing given: panorama'
    """
    compared = sum(len(c.compared) for c in s.cases.values())
    total = sum(len(c.rungs) for c in s.cases.values())
    wrong = ", ".join(name for name, c in s.cases.items() if c.first)
    how = f"these differ: {wrong}" if wrong else "none differs"
    cases = f"{len(s.cases)} of {len(s.cases) + len(s.missing) + len(s.failed)} cases compared"
    parts = [f"{cases}, {compared} of {total} stages in them, {how}"]
    parts += [f"nothing given: {', '.join(s.missing)}"] if s.missing else []
    parts += [f"cannot be compared: {', '.join(s.failed)}"] if s.failed else []
    lacking = next((f"{case}/{c.lacking[0]}" for case, c in s.cases.items() if c.lacking), "")
    parts += [f"required and not given: {lacking}"] if lacking else []
    parts += list(filter(None, dict.fromkeys(judged_as(c) for c in s.cases.values())))
    return f"{'PASSED' if s.passed else 'FAILED'}: {'; '.join(parts)}"
