"""`musiq-ref evaluate`: how well a model's scores follow people's on a data set."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from tqdm import tqdm

from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.cli.shared import (
    add_force,
    add_max_pixels,
    add_scheduler,
    add_scoring,
    check_scheduler,
    say_which_model,
    scores_of,
)
from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.evaluation import rating
from musiq_ref.evaluation.files import FIGURES, TABLE, can_draw, draw_figures, made_folder, write_table
from musiq_ref.extras import needs
from musiq_ref.outputs import check_output
from musiq_ref.pictures.synthetic import held_out_examples
from musiq_ref.scoring import scorer
from musiq_ref.training.datasets import SHORTER_SIDES, Dataset, DatasetError, open_dataset

MORE = "--all takes all images, not only the test part"
FEW = 10  # images
LISTED = 10  # problems that are printed; JSON has them all
EXAMPLE = "musiq-ref evaluate --dataset koniq --data koniq10k/ --checkpoint koniq -o results"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="NAME|CSV",
        help="koniq, spaq, ava, paq2piq, synthetic, or a CSV file of images (path) with scores (score) or votes (p1 …)",
    )
    parser.add_argument(
        "--data", metavar="FOLDER", help="where the data set lies, or a CSV file's images where they are not beside it"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--splits",
        type=int,
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
    add_max_pixels(parser)
    add_scheduler(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, nothing else")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, help="write a CSV file and figures there")
    add_force(parser, "-o")


def run(args: argparse.Namespace) -> int:
    _check(args)
    dataset = None if args.dataset == "synthetic" else open_dataset(args.dataset, args.data)
    selection = dataset and _choose(args, dataset)
    files = _files(args, dataset)
    checkpoint = load_checkpoint(args.checkpoint, args.dtype)
    conventions = NAMED_CONVENTIONS.get(args.conventions)
    one = scorer(checkpoint, args.backend, args.dtype, conventions, max_pixels=args.max_pixels)
    say_which_model(checkpoint)

    answer: dict = {"dataset": args.dataset, "checkpoint": args.checkpoint}
    with made_folder(args.output) if args.output else contextlib.nullcontext():
        if dataset is None or selection is None:
            result = rating.rate_synthetic(one, _progress(held_out_examples()))
            rated, parts, problems = result.rated, [result.rated], []
            answer |= {"part": "held-out pictures", "order": result.order, "pristine_best": result.pristine_best}
            answer |= {"kinds": result.kinds}
        else:
            chosen = sorted(set().union(*selection.positions))
            side = SHORTER_SIDES.get(args.dataset, 0) if args.shorter_side is None else args.shorter_side

            def scores(images, prepare):
                return _progress(scores_of(args, one, checkpoint, images, prepare=prepare), len(images))

            rated = rating.rate(scores, [dataset.examples[i] for i in chosen], side)
            at = dict(zip(chosen, rated, strict=True))
            parts = [[at[i] for i in part] for part in selection.positions]
            problems = [*dataset.problems, *(r.error for r in rated if r.error)]
            answer |= {"part": selection.what, "shorter_side": side}
        answer |= {"images": sum(not r.error for r in rated), "problems": problems}
        published = [p._asdict() for p in rating.PUBLISHED if p.dataset == args.dataset]
        answer |= {"metrics": {}, "published": published, "files": [str(file) for file in files]}
        try:  # the results are printed before the files, which may fail, and the files are there even without results
            answer["metrics"] = _metrics(args, parts, problems)
            print(json.dumps(answer, indent=2) if args.json else _text(answer))
        finally:
            _write(args, rated, f"{args.dataset}, {answer['part']}")
    return 1 if problems else 0


def _check(args: argparse.Namespace) -> None:
    check_scheduler(args)
    if (args.splits is not None and args.splits < 2) or (args.split or 0) < 0 or (args.shorter_side or 0) < 0:
        raise ValueError("--splits must be at least 2, --split and --shorter-side must not be negative")
    if args.resamples < 1:
        raise ValueError(f"--resamples is {args.resamples}; it must be at least 1")
    parts = args.splits or args.split is not None or args.all
    if args.dataset == "synthetic" and (args.data or parts or args.shorter_side or args.scheduler):
        options = "--data, --splits, --split, --all, --scheduler or resizing"
        raise ValueError(f"the synthetic test set is evaluated as a whole, without {options}")


def _choose(args: argparse.Namespace, dataset: Dataset) -> rating.Selection:
    try:
        return rating.choose_parts(dataset, args.splits or 0, args.split, args.all)
    except DatasetError as error:
        raise DatasetError(f"{error}; {MORE}") from None


def _files(args: argparse.Namespace, dataset: Dataset | None) -> list[Path]:
    """What will be written, checked against what is read."""
    if not args.output:
        return []
    inputs = [Path(name) for name in (args.dataset, args.data, args.checkpoint) if name]
    inputs += [one.image for one in dataset.examples if isinstance(one.image, Path)] if dataset else []
    files = [args.output / name for name in (TABLE, *(FIGURES if can_draw() else ()))]
    for file in files if args.output.is_dir() else ():
        check_output(file, inputs, args.force)
    return files


def _write(args: argparse.Namespace, rated: list[rating.Rated], title: str) -> None:
    """The table and, with matplotlib, the figures."""
    if not args.output:
        return
    files = [write_table(args.output / TABLE, rated), *draw_figures(args.output, rated, title, args.max_pixels)]
    if not can_draw():
        print(f"no figures without matplotlib; {needs('pictures')}", file=sys.stderr)
    for file in () if args.json else files:
        print(f"wrote {file}")


def _progress(examples, total=None):
    return tqdm(examples, total=total, unit="image", disable=not sys.stderr.isatty())


def _metrics(args: argparse.Namespace, parts: list[list[rating.Rated]], problems: list[str]) -> dict:
    try:
        return rating.summarize(parts, args.resamples)
    except ValueError as error:
        more = "" if args.all or args.dataset == "synthetic" else f"; {MORE}"
        first = f"; the first of {len(problems)} problems with images: {problems[0]}" if problems else ""
        raise ValueError(f"{error}{more}{first}") from None


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
    if answer["images"] < FEW:
        lines.append(f"so few images say little about a model{'' if answer['part'] == rating.ALL else f'; {MORE}'}")
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
    return "\n".join(lines)
