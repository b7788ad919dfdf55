"""A comparison as JUnit XML, which the pages of most continuous integrations show: a test case for every stage."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as xml

from musiq_ref.verify.comparison.coverage import group_of
from musiq_ref.verify.comparison.report import Comparison, Rung, describe, diagnosis_lines

MARK = "<!-- made by musiq_ref -->"


def as_junit(cases: Mapping[str, Comparison], failed: Mapping[str, str] | None = None) -> str:
    """The whole file.

    cases: {name of a suite of tests: comparison}
    failed: {name: why it could not be compared}

    >>> '<testcase classname="MUSIQ.encoder" name="encoder/norm" />' in as_junit(
    ...     {"MUSIQ": Comparison([Rung("encoder/norm", "equal")], {})}
    ... )
    True
    """
    root = xml.Element("testsuites", name="musiq-ref compare")
    for name, c in cases.items():
        suite = xml.SubElement(root, "testsuite", {"name": name, **counts(c)})
        for rung in c.rungs:
            test = xml.SubElement(suite, "testcase", classname=f"{name}.{group_of(rung.name)}", name=rung.name)
            _outcome(test, rung, c)
    for name, why in (failed or {}).items():
        suite = xml.SubElement(root, "testsuite", name=name, tests="1", failures="0", errors="1", skipped="0")
        xml.SubElement(xml.SubElement(suite, "testcase", classname=name, name="all stages"), "error", message=why)
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, 0)) for suite in root)))
    xml.indent(root, " ")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{MARK}\n{xml.tostring(root, "unicode")}\n'


def counts(c: Comparison) -> dict[str, str]:
    """How many tests there are, and what became of them."""
    wrong = sum(not r.fine and (r.status != "missing" or r.name in c.lacking) for r in c.rungs)
    skipped = sum(r.status == "missing" and r.name not in c.lacking for r in c.rungs)
    return {"tests": str(len(c.rungs)), "failures": str(wrong), "errors": "0", "skipped": str(skipped)}


def _outcome(test: xml.Element, rung: Rung, c: Comparison) -> None:
    if rung.fine:
        return
    if rung.status == "missing":
        required = rung.name in c.lacking
        xml.SubElement(test, "failure" if required else "skipped", message="required" if required else "not given")
        return
    lines = describe(rung)
    failure = xml.SubElement(test, "failure", message=lines[0])
    failure.text = "\n".join([*lines, *(diagnosis_lines(c) if rung is c.first else [])])
