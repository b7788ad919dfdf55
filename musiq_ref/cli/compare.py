"""`musiq-ref compare`: is a port MUSIQ? If not, where does it begin to differ, and why?"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from musiq_ref.cli.shared import add_force, add_threads
from musiq_ref.outputs import check_output, write_output
from musiq_ref.verify.adapters import bisect, compare_port, load_callable, run_command, single_step
from musiq_ref.verify.comparison.climb import compare
from musiq_ref.verify.comparison.junit import as_junit
from musiq_ref.verify.comparison.page import as_page, as_suite_page
from musiq_ref.verify.comparison.report import Comparison
from musiq_ref.verify.comparison.self_test import SelfTest, self_test, to_plant
from musiq_ref.verify.comparison.suite import SuiteComparison, compare_suite, over_cases
from musiq_ref.verify.ladder.fixture import Fixture, load_fixture
from musiq_ref.verify.ladder.precision import UNIT, at_precision
from musiq_ref.verify.ladder.suite import is_suite, load_suite

EVERY = 10.0  # seconds between two lines about how far a self-test has come
EXAMPLE = "musiq-ref compare reference/ mine/ --html comparison.html"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "fixture", metavar="FIXTURE", type=Path, help="a folder made by `musiq-ref fixture`, or a suite"
    )
    parser.add_argument(
        "mine",
        metavar="MINE",
        nargs="?",
        help="a folder of .npy files named like the stages, a .npz or .safetensors file, or FILE.py:FUNCTION or "
        "MODULE:FUNCTION, a callable (see docs/port-guide.md); for a suite, a folder with a folder for each case, or a "
        "callable",
    )
    parser.add_argument(
        "--command", metavar="COMMAND", help="run this with the fixture and an empty folder as its last two arguments"
    )
    parser.add_argument(
        "--require",
        metavar="NAME|GLOB",
        nargs="+",
        action="extend",
        default=[],
        help="it does not pass without these stages",
    )
    parser.add_argument("--allow-unknown", action="store_true", help="accept arrays whose names are no stage")
    parser.add_argument(
        "--precision", choices=["float32", *UNIT], default="float32", help="what the port multiplies in"
    )
    parser.add_argument(
        "--single-step", action="store_true", help="give every stage of a callable the reference's input"
    )
    parser.add_argument("--bisect", action="store_true", help="find the first wrong encoder block of a callable")
    parser.add_argument("--budget", type=float, default=30.0, metavar="SECONDS", help="for the diagnosis (default: 30)")
    parser.add_argument("--no-diagnosis", action="store_true", help="do not look for known conventions and bugs")
    parser.add_argument("--self-test", action="store_true", help="plant every known fault; each must be named")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write the report as one page")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="also write it as JUnit XML, for a CI's page")
    add_force(parser, "--html and --junit")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: it agrees; 1: it differs, or lacks what is required; 2: it cannot be compared."""
    read = [*args.fixture.rglob("*"), *(Path(args.mine).rglob("*") if args.mine else ()), args.mine or args.fixture]
    for output, endings in ((args.html, (".html", ".htm")), (args.junit, (".xml",))):
        if output:
            check_output(output, read, args.force, endings)
            if args.fixture.resolve() in output.resolve().parents:
                raise ValueError(f"{output} lies in the fixture, which takes no other file; name another")
    one = bool(args.self_test or args.bisect)
    if not args.self_test and bool(args.mine) == bool(args.command):
        raise ValueError("name MINE, or a program with --command, one of the two")
    if (args.single_step or args.bisect) and not (args.mine and ":" in args.mine):
        raise ValueError("--single-step and --bisect need a callable, FILE.py:FUNCTION or MODULE:FUNCTION")
    if is_suite(args.fixture):
        if one:
            raise ValueError(f"{args.fixture} is a suite; for --self-test and --bisect name one of the folders in it")
        return _suite(args)
    fixture = load_fixture(args.fixture)
    if "training" in fixture.manifest and (args.self_test or args.bisect or args.single_step):
        raise ValueError(f"{args.fixture} is a fixture of training, which can only be compared")
    if args.self_test:
        return _self_test(at_precision(fixture, args.precision), args.json)
    if args.bisect:
        found = bisect(at_precision(fixture, args.precision, back=False), load_callable(args.mine))
        said = f"first wrong: {found}" if found else "all blocks agree"
        print(json.dumps({"first_wrong_block": found or None}) if args.json else said)
        return 1 if found else 0
    comparison = _compare(fixture, args, not args.no_diagnosis, args.require)
    _report(args, comparison, as_page, {args.fixture.resolve().name: comparison}, {})
    return 0 if comparison.passed else 1


def _compare(fixture: Fixture, args: argparse.Namespace, diagnose: bool, require: list[str]) -> Comparison:
    options = {**_options(args), "require": require}
    if args.command:
        return compare(fixture, run_command(args.command, fixture), diagnose=diagnose, **options)
    if ":" not in args.mine:
        return compare(fixture, args.mine, diagnose=diagnose, **options)
    port = load_callable(args.mine)
    if args.single_step:
        return single_step(fixture, port, **options)
    return compare_port(fixture, port, diagnose=diagnose, **options)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {"allow_unknown": args.allow_unknown, "precision": args.precision, "budget": args.budget}


def _suite(args: argparse.Namespace) -> int:
    fixtures = load_suite(args.fixture)
    options: dict[str, Any] = {"diagnose": not args.no_diagnosis, "require": args.require}
    if args.command or ":" in args.mine:
        found = over_cases(fixtures, lambda _, fixture, **given: _compare(fixture, args, **given), **options)
    else:
        found = compare_suite(fixtures, args.mine, **options, **_options(args))
    lacking = dict.fromkeys(found.missing, "nothing was given, and some stages are required") if args.require else {}
    _report(args, found, as_suite_page, found.cases, {**found.failed, **lacking})
    return 0 if found.passed else 1 if found.differs else 2


def _report(
    args: argparse.Namespace,
    found: Comparison | SuiteComparison,
    page: Any,
    cases: dict[str, Comparison],
    failed: dict[str, str],
) -> None:
    print(json.dumps(found.to_dict(), indent=1) if args.json else str(found))
    if args.html:
        write_output(args.html, page(found))
    if args.junit:
        write_output(args.junit, as_junit(cases, failed))


def _watched(rows: Iterable[SelfTest], total: int) -> Iterator[SelfTest]:
    """The same rows; on stderr how many there will be, how far they are, and how long it will take."""
    print(f"{total} known faults are planted one by one; with a tiny fixture that takes some minutes", file=sys.stderr)
    if sys.stderr.isatty():
        yield from tqdm(rows, total=total, unit="fault")
        return
    begun = said = time.monotonic()
    for done, row in enumerate(rows, 1):
        yield row
        now = time.monotonic()
        if now - said >= EVERY and done < total:
            left = (now - begun) / done * (total - done) / 60
            print(f"{done} of {total}, about {left:.1f} minutes left", file=sys.stderr)
            said = now


def _self_test(fixture: Fixture, as_json: bool) -> int:
    rows = list(_watched(self_test(fixture), len(to_plant(fixture))))
    hidden = [r for r in rows if not r.shows]
    failed = [r for r in rows if r.shows and not (r.detected and r.named)]
    if as_json:
        print(json.dumps([r._asdict() for r in rows], indent=1))
    else:
        for r in rows:
            verdict = "named" if r.named else "DETECTED, NOT NAMED" if r.detected else "MISSED" if r.shows else "hidden"
            print(f"{verdict:<8} {r.fault}" + (f" ({r.stage})" if r.stage else ""))
        for r in hidden:
            print(f"{r.fault}: changes no number of this fixture; of another image, or a suite, it may")
        planted = len(rows) - len(hidden)
        print(f"{planted - len(failed)} of {planted} planted faults detected and named")
    return 1 if failed else 0
