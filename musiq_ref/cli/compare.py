"""`musiq-ref compare`: is a port MUSIQ? If not, where does it begin to differ, and why?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from musiq_ref.cli.shared import add_force, add_threads
from musiq_ref.outputs import check_output, write_output
from musiq_ref.verify.adapters import bisect, compare_port, load_callable, run_command, single_step
from musiq_ref.verify.comparison.climb import compare
from musiq_ref.verify.comparison.page import as_page
from musiq_ref.verify.comparison.report import Comparison
from musiq_ref.verify.comparison.self_test import self_test
from musiq_ref.verify.ladder.fixture import Fixture, load_fixture
from musiq_ref.verify.mistakes.catalogue import MISTAKES

EXAMPLE = "musiq-ref compare reference/ mine/ --html report.html"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("fixture", metavar="FIXTURE", type=Path, help="a folder made by `musiq-ref fixture`")
    parser.add_argument(
        "mine",
        metavar="MINE",
        nargs="?",
        help="a folder of .npy files named like the stages, a .npz or .safetensors file, or FILE.py:FUNCTION or "
        "MODULE:FUNCTION, a callable (see docs/port-guide.md)",
    )
    parser.add_argument(
        "--command", metavar="COMMAND", help="run this with the fixture and an empty folder as its last two arguments"
    )
    parser.add_argument(
        "--single-step", action="store_true", help="give every stage of a callable the reference's input"
    )
    parser.add_argument("--bisect", action="store_true", help="find the first wrong encoder block of a callable")
    parser.add_argument("--no-diagnosis", action="store_true", help="do not look for known conventions and bugs")
    parser.add_argument("--self-test", action="store_true", help="plant every known fault; each must be named")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write the report as one page")
    add_force(parser, "--html")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 0: it agrees; 1: it differs; 2: bad use, or a damaged fixture."""
    if args.html:
        read = [*args.fixture.rglob("*"), *(Path(args.mine).rglob("*") if args.mine else ()), args.mine or args.fixture]
        check_output(args.html, read, args.force, (".html", ".htm"))
        if args.fixture.resolve() in args.html.resolve().parents:
            raise ValueError(f"{args.html} lies in the fixture, which takes no other file; name another")
    fixture = load_fixture(args.fixture)
    if args.self_test:
        return _self_test(fixture, args.json)
    if bool(args.mine) == bool(args.command):
        raise ValueError("name MINE, or a program with --command, one of the two")
    if (args.single_step or args.bisect) and not (args.mine and ":" in args.mine):
        raise ValueError("--single-step and --bisect need a callable, FILE.py:FUNCTION or MODULE:FUNCTION")
    if args.bisect:
        found = bisect(fixture, load_callable(args.mine))
        print(json.dumps({"first_wrong_block": found}) if args.json else found or "all blocks agree")
        return 1 if found else 0
    comparison = _compare(fixture, args)
    print(json.dumps(comparison.to_dict(), indent=1) if args.json else str(comparison))
    if args.html:
        write_output(args.html, as_page(comparison))
    return 0 if comparison.passed else 1


def _compare(fixture: Fixture, args: argparse.Namespace) -> Comparison:
    if args.command:
        return compare(fixture, run_command(args.command, fixture), diagnose=not args.no_diagnosis)
    if ":" not in args.mine:
        return compare(fixture, args.mine, diagnose=not args.no_diagnosis)
    port = load_callable(args.mine)
    if args.single_step:
        return single_step(fixture, port)
    return compare_port(fixture, port, diagnose=not args.no_diagnosis)


def _self_test(fixture: Fixture, as_json: bool) -> int:
    rows = list(tqdm(self_test(fixture), total=len(MISTAKES), unit="fault", disable=not sys.stderr.isatty()))
    failed = [r for r in rows if not (r.detected and r.named)]
    if as_json:
        print(json.dumps([r._asdict() for r in rows], indent=1))
    else:
        for r in rows:
            verdict = "named" if r.named else "DETECTED, NOT NAMED" if r.detected else "MISSED"
            print(f"{verdict:<8} {r.fault}" + (f" ({r.stage})" if r.stage else ""))
        print(f"{len(rows) - len(failed)} of {len(rows)} planted faults detected and named")
    return 1 if failed else 0
