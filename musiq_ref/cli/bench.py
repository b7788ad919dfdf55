"""`musiq-ref bench`: how fast this machine is."""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from musiq_ref.backend import get_backend
from musiq_ref.bench.cases import CASES, chosen
from musiq_ref.bench.contenders import available
from musiq_ref.bench.machine import processor
from musiq_ref.bench.measure import Setup, measure, steps
from musiq_ref.bench.plot import plot
from musiq_ref.bench.tables import file_name, markdown, text
from musiq_ref.cli.shared import add_backend, add_force, add_threads
from musiq_ref.config import PRESETS
from musiq_ref.evaluation.files import can_draw
from musiq_ref.extras import needs
from musiq_ref.outputs import METADATA, check_output, write_output
from musiq_ref.training.parallel import cores

EXAMPLE = "musiq-ref bench --quick --only 'score-*' --json speed.json --plot speed.png"
PLOTS = (".png", ".svg", ".pdf")
BAR = "{percentage:3.0f}%|{bar:20}| {elapsed} {desc}"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="GLOB",
        help=f"may be repeated: {', '.join(case.name for case in CASES)} (default: all but the longest)",
    )
    parser.add_argument("--quick", action="store_true", help="a minute or two: small cases, few rounds")
    parser.add_argument("--preset", default="small", choices=PRESETS, help="variant of the model (default: small)")
    add_backend(parser)
    add_threads(parser)
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument(
        "--json",
        metavar="FILE|FOLDER",
        type=Path,
        help="also write all figures; in a folder, under the processor's name",
    )
    parser.add_argument("--plot", metavar="FILE", type=Path, help="also draw them (.png, .svg or .pdf)")
    add_force(parser, "--json and --plot")


def run(args: argparse.Namespace) -> int:
    cases, threads, most = chosen(args.only, args.quick), args.threads or len(cores()), len(cores())
    if threads > most:
        raise ValueError(f"--threads is {threads}, but this process may use {most} cores; name no more than those")
    if args.json and args.json.is_dir():
        args.json = args.json / file_name(processor() if args.backend == "numpy" else f"{args.backend} {processor()}")
    for output, endings in ((args.json, (".json",)), (args.plot, PLOTS)):
        if output:
            check_output(output, [], args.force, endings)
    if args.plot and not can_draw():
        raise ImportError(f"--plot needs matplotlib; install it with: {needs('pictures')}")
    get_backend(args.backend)  # says what is missing before anything is measured
    makers, left_out = available(args.preset, args.backend)
    report: dict[str, Any] = {"left_out": left_out}
    with tempfile.TemporaryDirectory() as scratch:
        setup = Setup(makers, args.preset, threads, args.quick, scratch, args.backend)
        with tqdm(total=steps(setup, cases), disable=not sys.stderr.isatty(), bar_format=BAR) as bar:
            try:
                measure(setup, cases, report, lambda what: _say(bar, what))
            finally:  # what was measured before an interruption counts, too
                bar.close()
                if report.get("results"):
                    _show(report, args)
    return 0


def _say(bar: tqdm, what: str) -> None:
    bar.set_description_str(what, refresh=False)
    bar.update()


def _show(report: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints the report, then writes what was asked for."""
    print(markdown(report) if args.markdown else text(report), end="")
    if args.json:
        write_output(args.json, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print(f"the figures are in {args.json}", file=sys.stderr)
    if args.plot:
        kind, file = args.plot.suffix.lower().removeprefix("."), io.BytesIO()
        plot(report).savefig(file, format=kind, dpi=110, metadata=METADATA[kind])
        write_output(args.plot, file.getvalue())
        print(f"the picture is in {args.plot}", file=sys.stderr)
