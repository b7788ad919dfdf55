"""`python -m tests.torture`: a table of what came of each kind of input; exit code 1 if anything went wrong."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from musiq_ref.training.parallel import cores

from .core import Failure, Kind, table, torture

KINDS = ("checkpoints", "images", "tables", "manifests", "recipes", "states", "commands")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--count", type=int, default=30_000, help="of inputs, over all kinds (default 30,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(cores()), help="processes (default: all cores)")
    parser.add_argument("--kind", action="append", choices=KINDS, help="may be repeated (default: all)")
    parser.add_argument("--only", type=int, metavar="N", help="case N of each kind alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the inputs that failed are left")
    args = parser.parse_args(argv)
    kinds: dict[str, Kind] = {
        name: importlib.import_module(f".{name}", __package__).KIND for name in args.kind or KINDS
    }
    shares = {name: 1 / kind.weight for name, kind in kinds.items()}
    counts = {name: max(1, round(args.count * share / sum(shares.values()))) for name, share in shares.items()}
    keep = args.keep or Path(tempfile.mkdtemp(prefix="torture-"))
    keep.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    failures = []

    def tell(one: Failure) -> None:
        failures.append(one)
        print(f"{one.kind} {one.number} {one.verdict}: {one.words.encode('unicode_escape').decode()}", flush=True)

    found = torture(kinds, counts, args.seed, args.jobs, keep.resolve(), tell, args.only)
    print("\n".join(table(found)))
    if not any(keep.iterdir()):
        keep.rmdir()
    print(f"{time.monotonic() - begun:.0f} s, seed {args.seed}" + (f"; the inputs are in {keep}" if failures else ""))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
