"""`musiq-ref explain`: a page, or a picture, of what the model does with a photograph."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.cli.shared import add_checkpoint, add_threads, say_which_model
from musiq_ref.explain.picture import picture
from musiq_ref.explain.report import report
from musiq_ref.image.decode import ImageError

EXAMPLE = "musiq-ref explain photo.jpg -o report.html"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="FILE")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("report.html"), help=".html or .png to write"
    )
    add_checkpoint(parser)
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    kind = args.output.suffix.lower()
    if kind not in (".html", ".png", ".pdf", ".svg"):
        raise ValueError(f"--output {args.output} is of no known kind; name a file ending in .html or .png")
    if args.output.exists() and Path(args.image).exists() and args.output.samefile(args.image):
        raise ValueError(f"--output {args.output} is the photograph itself; name another file")
    checkpoint = load_checkpoint(args.checkpoint)
    say_which_model(checkpoint)
    try:
        if kind == ".html":
            content = report(args.image, checkpoint, Path(args.image).name).encode()
        else:
            file = io.BytesIO()
            picture(args.image, checkpoint).savefig(file, format=kind[1:], dpi=110)
            content = file.getvalue()
    except (ImportError, ImageError) as error:
        print(f"musiq-ref explain: {error}", file=sys.stderr)
        return 1
    try:
        args.output.write_bytes(content)
    except OSError as error:
        raise ValueError(f"{args.output} cannot be written ({error.strerror or error}); name another file") from None
    print(f"{args.image}: the {'page' if kind == '.html' else 'picture'} is in {args.output}")
    return 0
