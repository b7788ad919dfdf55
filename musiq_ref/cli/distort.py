"""`musiq-ref distort`: versions of a photograph spoilt on purpose, to see what a model makes of them."""

from __future__ import annotations

import argparse
import io
import itertools
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from musiq_ref.cli.shared import add_force, add_max_pixels
from musiq_ref.evaluation.files import made_folder
from musiq_ref.image.decode import decode
from musiq_ref.image.find import find_images
from musiq_ref.outputs import SOFTWARE, check_output, write_output
from musiq_ref.pictures.distortions import DISTORTIONS

EXAMPLE = "musiq-ref distort photo.jpg -o spoilt/ --distortion jpeg --severity 0.3 --severity 0.9"
USUAL = ("gaussian_blur", "white_noise", "jpeg", "pixelation")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="FILE|FOLDER", help="image files, or folders to search for them")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True, help="where the PNG files go")
    parser.add_argument(
        "--distortion",
        action="append",
        choices=DISTORTIONS,
        metavar="NAME",
        help=f"may be repeated: {', '.join(DISTORTIONS)} (default: {', '.join(USUAL)})",
    )
    parser.add_argument(
        "--severity",
        action="append",
        type=float,
        metavar="S",
        help="from 0, untouched, to 1; may be repeated (default: 0.2, 0.6 and 1)",
    )
    add_force(parser, "the pictures")
    add_max_pixels(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of directions (default 0)")


def run(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; it must not be negative")
    found = find_images(args.images)
    if found.left_out:
        print(found.summary(), file=sys.stderr)
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"{args.output} is a file; name a folder")
    wanted = list(dict.fromkeys(itertools.product(args.distortion or USUAL, args.severity or (0.2, 0.6, 1.0))))
    places = Counter(_place(args.output, path, *how) for path in found.files for how in wanted)
    [(place, times)] = places.most_common(1)
    if times > 1:
        raise ValueError(f"two pictures would be called {place}; make them in two calls, in two folders")
    with made_folder(args.output):
        for place in places:
            check_output(place, found.files, args.force)
        for path in found.files:
            pixels = decode(path, max_pixels=args.max_pixels)
            if pixels.dtype != np.uint8:
                pixels = np.rint(255 * pixels).astype(np.uint8)
            for name, severity in wanted:
                spoilt = DISTORTIONS[name](pixels, severity, np.random.default_rng(args.seed))
                _write(_place(args.output, path, name, severity), spoilt, args)
    return 0


def _place(folder: Path, path: Path, distortion: str, severity: float) -> Path:
    return folder / f"{path.stem}_{distortion}_{severity:.2f}.png"


def _write(path: Path, pixels: np.ndarray, args: argparse.Namespace) -> None:
    """Writes a PNG, but not over another picture."""
    if path.exists() and not args.force and not np.array_equal(decode(path, max_pixels=args.max_pixels), pixels):
        raise ValueError(f"{path} is there already and holds another picture; name another folder, or add --force")
    buffer, maker = io.BytesIO(), PngInfo()
    maker.add_text("Software", SOFTWARE)
    Image.fromarray(pixels).save(buffer, "png", pnginfo=maker)
    write_output(path, buffer.getvalue())
    print(path)
