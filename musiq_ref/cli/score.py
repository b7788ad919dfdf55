"""`musiq-ref score`: scores of image files."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

from tqdm import tqdm

from musiq_ref.checkpoint import Checkpoint, load_checkpoint
from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.image.decode import find_images
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
    conventions = NAMED_CONVENTIONS.get(args.conventions)
    one = scorer(checkpoint, args.backend, args.dtype, conventions)
    warn_if_untrained(checkpoint)
    if args.csv:
        args.csv.touch()  # a file that cannot be written is better noticed before the work
    rows, failed = [], 0
    for path in tqdm(files, unit="image", disable=len(files) < 2 or not sys.stderr.isatty()):
        try:
            rows.append(_row(one(path)))
            line = f"{rows[-1]['score']:10.4f}  {path}"
        except (ValueError, OSError) as error:
            failed += 1
            rows.append({"path": str(path), "score": None, "distribution": None, "error": str(error)})
            line = f"     error  {error}"
        if not args.json:
            tqdm.write(line)
    if args.json:
        print(json.dumps(rows, indent=2))
    if args.csv:
        _write_csv(args.csv, rows)
    if failed:
        print(f"{failed} of {len(files)} images could not be scored", file=sys.stderr)
    return 1 if failed else 0


def warn_if_untrained(checkpoint: Checkpoint) -> None:
    """Says loudly that scores of made-up weights mean nothing."""
    if checkpoint.format == "deterministic":
        print(
            "warning: no trained model is installed; scores come from made-up weights and MEAN NOTHING.\n"
            "         For real scores: musiq-ref download koniq, then add --checkpoint koniq",
            file=sys.stderr,
        )


def _row(score: Score) -> dict:
    distribution = None if score.distribution is None else score.distribution.tolist()
    return {
        "path": score.path,
        "score": score.value,
        "distribution": distribution,
        "height": score.height,
        "width": score.width,
    }


def _write_csv(path: Path, rows: list[dict]) -> None:
    outputs = max((len(row["distribution"] or []) for row in rows), default=0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "score", "height", "width", *(f"p{k}" for k in range(1, outputs + 1)), "error"])
        for row in rows:
            p = row["distribution"] or [""] * outputs
            writer.writerow([row["path"], row["score"], row.get("height"), row.get("width"), *p, row.get("error", "")])
