"""`musiq-ref follow`: one page on which the model runs, forward and backward, on a photograph."""

from __future__ import annotations

import argparse
from pathlib import Path

from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.cli.shared import add_checkpoint, add_force, say_which_model
from musiq_ref.explorer import page
from musiq_ref.outputs import check_output, write_output

EXAMPLE = "musiq-ref follow photo.jpg -o page.html"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="FILE", help="an image file")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("page.html"), help=".html to write (page.html)"
    )
    add_force(parser, "-o")
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    checkpoint = load_checkpoint(args.checkpoint)
    check_output(args.output, [args.image, *filter(None, [checkpoint.path])], args.force, (".html", ".htm"))
    text = page(args.image, checkpoint, Path(args.image).name)
    write_output(args.output, text)
    say_which_model(checkpoint)
    print(f"{args.image}: the page is in {args.output}, {len(text.encode()) / 1e6:.1f} MB; open it in a browser")
    return 0
