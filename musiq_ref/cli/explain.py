"""`musiq-ref explain`: a picture of what the model does with a photograph."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.cli.score import warn_if_untrained
from musiq_ref.explain.picture import picture
from musiq_ref.image.decode import ImageError

HELP = "draw a photograph's scales, patches, attention and gradient"
EXAMPLE = "musiq-ref explain photo.jpg -o picture.png"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="FILE")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path("picture.png"), help="PNG to write")
    parser.add_argument("--checkpoint", default="demo", help='a file, or a name such as "koniq"')


def run(args: argparse.Namespace) -> int:
    checkpoint = load_checkpoint(args.checkpoint)
    warn_if_untrained(checkpoint)
    try:
        figure = picture(args.image, checkpoint)
    except (ImportError, ImageError) as error:
        print(f"musiq-ref explain: {error}", file=sys.stderr)
        return 1
    try:
        figure.savefig(args.output, dpi=110)
    except OSError as error:
        raise ValueError(f"{args.output} cannot be written ({error.strerror or error}); name another file") from None
    print(f"{args.image}: the picture is in {args.output}")
    return 0
