"""What several subcommands share: options, and a word on where scores come from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from musiq_ref.checkpoint import Checkpoint
from musiq_ref.checkpoint.load import DEMO
from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.scorers import Score, Scorer


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """`--checkpoint`, the bundled one if it is left out."""
    parser.add_argument(
        "--checkpoint",
        default="demo",
        metavar="FILE|NAME",
        help='a file, or a name such as "koniq" (see `musiq-ref download`; default: demo)',
    )


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """`--checkpoint` and how it is to be run."""
    add_checkpoint(parser)
    parser.add_argument("--conventions", choices=NAMED_CONVENTIONS, help="default: those the checkpoint was made for")
    add_backend(parser)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    add_threads(parser)


def add_backend(parser: argparse.ArgumentParser) -> None:
    """`--backend`, and `--device`, which `main` heeds."""
    parser.add_argument("--backend", default="numpy", help="numpy (default), cupy, cupy:tf32 or cupy:float16")
    parser.add_argument("--device", type=_device, metavar="N", help="which GPU, counted from 0 (default: the first)")


def add_force(parser: argparse.ArgumentParser, options: str) -> None:
    """`--force`, for `outputs.check_output`."""
    parser.add_argument(
        "--force", action="store_true", help=f"let {options} replace a file that musiq-ref did not write"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """`--threads`, which `main` heeds."""
    parser.add_argument(
        "--threads", type=_number_of("cores"), metavar="N", help="processor cores to use (default: all)"
    )


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """`--max-pixels`"""
    parser.add_argument(
        "--max-pixels",
        type=_number_of("pixels"),
        metavar="N",
        help="accept images of up to N pixels (default: 50 million, fewer in a file too small for a photograph)",
    )


def _device(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no GPU's number; give 0 or more, as `nvidia-smi -L` lists them")
    return int(text)


def add_scheduler(parser: argparse.ArgumentParser) -> None:
    """`--scheduler`, for `scores_of`."""
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="let the workers of a Dask cluster score, who must see the images by the same paths (tcp://HOST:8786)",
    )


def check_scheduler(args: argparse.Namespace) -> None:
    """Raises ValueError for options that say nothing to a cluster."""
    if args.scheduler and args.threads:
        raise ValueError("--threads is of this machine; of a worker, say it to dask worker: --nthreads")


def scores_of(
    args: argparse.Namespace, one: Scorer, checkpoint: Checkpoint, images: Sequence[Any], **options: Any
) -> Iterator[tuple[int, Score | Exception]]:
    """(position, Score or exception) of every image, by this machine in their order, or by a cluster as they come.

    one: made of that checkpoint
    options: `progress`, which is told nothing by a cluster, and `prepare`, of `Scorer.map`
    """
    if not args.scheduler:
        return enumerate(one.map(images, **options))
    from musiq_ref.cluster import Model, score_on_cluster

    model = Model.of(args.checkpoint, checkpoint, one)
    return score_on_cluster(args.scheduler, model, images, options.get("prepare"))


def _number_of(things: str) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {things}; give 1 or more")
        return int(text)

    return number


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
