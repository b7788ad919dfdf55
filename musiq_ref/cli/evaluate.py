"""`musiq-ref evaluate`: how well a model's scores follow people's on a data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.cli.shared import add_scoring, say_which_model
from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.evaluation import rating
from musiq_ref.evaluation.files import draw_figures, write_table
from musiq_ref.extras import needs
from musiq_ref.pictures.synthetic import held_out_examples
from musiq_ref.scoring import scorer
from musiq_ref.training.datasets import SHORTER_SIDES, open_dataset

LISTED = 10  # problems that are printed; JSON has them all
EXAMPLE = "musiq-ref evaluate --dataset koniq --data koniq10k/ --checkpoint koniq -o results"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="NAME|CSV",
        help="koniq, spaq, ava, paq2piq, synthetic, or a CSV file of images (path) with scores (score) or votes (p1 …)",
    )
    parser.add_argument("--data", metavar="FOLDER", help="where the data set lies; a CSV file and synthetic need none")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--splits",
        type=int,
        default=0,
        metavar="N",
        help="average over the test parts of N random 80/20 splits; the paper has 10, and a model trained for each",
    )
    which.add_argument("--split", type=int, metavar="K", help="the test part of random split K, as in training")
    which.add_argument("--all", action="store_true", help="all images, not only the test part")
    parser.add_argument(
        "--shorter-side",
        type=int,
        metavar="PIXELS",
        help="reduce larger images to this shorter side (default: 512 for spaq, otherwise none); 0: full size",
    )
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default 1000)")
    add_scoring(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, nothing else")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, help="write a CSV file and figures there")


def run(args: argparse.Namespace) -> int:
    if args.splits < 0 or args.splits == 1 or (args.split or 0) < 0 or (args.shorter_side or 0) < 0:
        raise ValueError("--splits must be at least 2, --split and --shorter-side must not be negative")
    synthetic = args.dataset == "synthetic"
    if synthetic and (args.splits or args.split is not None or args.all or args.shorter_side):
        raise ValueError("the synthetic test set is evaluated as a whole, without --splits, --split, --all or resizing")
    dataset = None if synthetic else open_dataset(args.dataset, args.data)
    checkpoint = load_checkpoint(args.checkpoint, args.dtype)
    one = scorer(checkpoint, args.backend, args.dtype, NAMED_CONVENTIONS.get(args.conventions))
    say_which_model(checkpoint)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)  # better noticed before the work

    answer: dict = {"dataset": args.dataset, "checkpoint": args.checkpoint}
    if dataset is None:
        result = rating.rate_synthetic(one, _progress(held_out_examples()))
        rated, parts, problems = result.rated, [result.rated], []
        answer |= {"part": "held-out pictures", "order": result.order, "pristine_best": result.pristine_best}
        answer |= {"kinds": result.kinds}
    else:
        what, positions = rating.choose_parts(dataset, args.splits, args.split, args.all)
        chosen = sorted(set().union(*positions))
        side = SHORTER_SIDES.get(args.dataset, 0) if args.shorter_side is None else args.shorter_side
        rated = rating.rate(one, _progress([dataset.examples[i] for i in chosen]), side)
        at = dict(zip(chosen, rated, strict=True))
        parts = [[at[i] for i in part] for part in positions]
        problems = [*dataset.problems, *(r.error for r in rated if r.error)]
        answer |= {"part": what, "shorter_side": side}
    answer |= {"images": sum(not r.error for r in rated), "problems": problems}
    published = [p._asdict() for p in rating.PUBLISHED if p.dataset == args.dataset]
    answer |= {"metrics": {}, "published": published, "files": []}
    try:
        if args.output:
            answer["files"] = _write(args.output, rated, f"{args.dataset}, {answer['part']}")
    finally:  # the results are printed, whatever happens to the files
        answer["metrics"] = _metrics(parts, args.resamples, problems)
        print(json.dumps(answer, indent=2) if args.json else _text(answer))
    return 1 if problems else 0


def _write(folder: Path, rated: list[rating.Rated], title: str) -> list[str]:
    """The table and, with matplotlib, the figures; returns their paths."""
    table, figures = write_table(folder / "images.csv", rated), draw_figures(folder, rated, title)
    if not figures:
        print(f"no figures without matplotlib; {needs('pictures')}", file=sys.stderr)
    return [str(file) for file in (table, *figures)]


def _progress(examples):
    return tqdm(examples, unit="image", disable=not sys.stderr.isatty())


def _metrics(parts: list[list[rating.Rated]], resamples: int, problems: list[str]) -> dict[str, dict[str, float]]:
    try:
        return rating.summarize(parts, resamples)
    except ValueError as error:
        first = f"; the first of {len(problems)} problems with images: {problems[0]}" if problems else ""
        raise ValueError(f"{error}{first}") from None


def _text(answer: dict) -> str:
    lines = [f"{answer['dataset']}, {answer['part']}: {answer['images']} images, checkpoint {answer['checkpoint']}"]
    if answer.get("shorter_side"):
        lines.append(f"larger images reduced to a shorter side of {answer['shorter_side']}")
    for name, found in answer["metrics"].items():
        interval = (
            f"± {found['deviation']:.4f}" if "deviation" in found else f"{found['low']:.4f} … {found['high']:.4f}"
        )
        lines.append(f"{name.upper()}  {found['value']:8.4f}  {interval}")
    if "deviation" in answer["metrics"]["srcc"]:
        lines.append(
            "± is the standard deviation; where this one checkpoint was trained on test images, it is too good"
        )
    else:
        lines.append("with 95 % bootstrap intervals over the images")
    for p in answer["published"]:
        lines.append(f"published SRCC/PLCC {p['srcc']:.3f}/{p['plcc']:.3f}  {p['protocol']} ({p['source']})")
    if "order" in answer:
        lines.append("order of the severities (median over pictures of Spearman's correlation; 1 is best):")
        lines += [f"  {value:6.3f}  {name}" for name, value in answer["order"].items()]
        lines.append(f"pristine above all its distorted versions: {answer['pristine_best']:.1%} of the cases")
        for kind, found in answer["kinds"].items():
            lines.append(f"{kind} alone: SRCC {found['srcc']:.4f}, pristine above {found['pristine_best']:.1%}")
    lines += [f"left out: {problem}" for problem in answer["problems"][:LISTED]]
    if len(answer["problems"]) > LISTED:
        lines.append(f"left out: {len(answer['problems']) - LISTED} more, which --json lists")
    return "\n".join([*lines, *(f"wrote {file}" for file in answer["files"])])
