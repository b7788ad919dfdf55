"""`musiq-ref score`: scores of image files."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from musiq_ref.checkpoint import Checkpoint, load_checkpoint
from musiq_ref.checkpoint.load import DEMO
from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.image.decode import EXTENSIONS, find_images
from musiq_ref.scoring import Score, scorer

HELP = "score image files, or all images in folders"
EXAMPLE = "musiq-ref score photo.jpg holiday/ --checkpoint koniq --csv scores.csv"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="FILE|FOLDER", help="image files, or folders to search for them")
    parser.add_argument(
        "--checkpoint", default="demo", help='a file, or a name such as "koniq" (see `musiq-ref download`)'
    )
    parser.add_argument("--conventions", choices=NAMED_CONVENTIONS, help="default: those the checkpoint was made for")
    parser.add_argument("--backend", default="numpy", help="numpy (default) or cupy")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of lines")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="also write the scores to a CSV file")


def run(args: argparse.Namespace) -> int:
    files = find_images(args.images)
    checkpoint = load_checkpoint(args.checkpoint, args.dtype)
    with warnings.catch_warnings(action="ignore"):  # said below, louder
        one = scorer(checkpoint, args.backend, args.dtype, NAMED_CONVENTIONS.get(args.conventions))
    say_which_model(checkpoint)
    rows, failed = [], 0
    with _csv_table(args.csv, checkpoint.config.outputs) as write_row:
        try:
            for path in tqdm(files, unit="image", disable=len(files) < 2 or not sys.stderr.isatty()):
                row = _scored(one, path)
                failed += row["error"] is not None
                rows.append(row)
                write_row(row)
                if not args.json:
                    tqdm.write(
                        f"{row['score']:10.4f}  {path}" if row["error"] is None else f"     error  {row['error']}"
                    )
        finally:  # what was scored before an interruption is printed, too
            if args.json:
                print(json.dumps(rows, indent=2))
    if failed:
        print(f"{failed} of {len(files)} images could not be scored", file=sys.stderr)
    return 1 if failed else 0


def _scored(one: Callable[[Path], Score], path: Path) -> dict[str, Any]:
    """One image's row; what went wrong, if anything, under "error"."""
    row: dict[str, Any] = dict.fromkeys(("path", "score", "distribution", "height", "width", "error"))
    row["path"] = str(path)
    try:
        score = one(path)
    except (ValueError, OSError) as error:
        return {**row, "error": str(error)}
    except MemoryError:
        return {**row, "error": f"{path}: too large for the memory of this machine; reduce it, or use another"}
    distribution = None if score.distribution is None else score.distribution.tolist()
    return {**row, "score": score.value, "distribution": distribution, "height": score.height, "width": score.width}


@contextlib.contextmanager
def _csv_table(path: Path | None, outputs: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes a row to the file, at once, so that nothing is lost if the work is interrupted."""
    if path is None:
        yield lambda row: None
        return
    if path.suffix.lower() in EXTENSIONS:
        raise ValueError(f"--csv {path} names an image, which would be overwritten; name a .csv file")
    try:
        file = open(path, "w", newline="", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"--csv {path} cannot be written ({error.strerror}); name another file") from None
    with file:
        writer = csv.writer(file)
        probabilities = [f"p{k}" for k in range(1, outputs + 1)] if outputs > 1 else []
        writer.writerow(["path", "score", "height", "width", *probabilities, "error"])

        def write_row(row: dict[str, Any]) -> None:
            p = row["distribution"] or [None] * len(probabilities)
            writer.writerow([row["path"], row["score"], row["height"], row["width"], *p, row["error"]])

        yield write_row


def say_which_model(checkpoint: Checkpoint) -> None:
    """Says, on stderr, when scores come from the bundled model, and loudly when they come from made-up weights."""
    if checkpoint.format == "deterministic":
        print("warning: these weights are made up; their scores MEAN NOTHING", file=sys.stderr)
    elif checkpoint.path == DEMO:
        print(
            "scored by the bundled model, which learned to judge synthetic distortions, not people's opinions;\n"
            "for the authors' weights: musiq-ref download koniq, then add --checkpoint koniq",
            file=sys.stderr,
        )
