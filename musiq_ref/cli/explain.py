"""`musiq-ref explain`: a page, or a picture, of what the model does with a photograph."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from musiq_ref.backend import get_backend
from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.cli.shared import add_backend, add_checkpoint, add_force, add_threads, say_which_model
from musiq_ref.config import MusiqConfig
from musiq_ref.explain.picture import picture
from musiq_ref.explain.report import PATCHES, check_patches, count_patches, report
from musiq_ref.explorer import size_in_page
from musiq_ref.explorer.origin import check_origin, check_page
from musiq_ref.image.decode import decode
from musiq_ref.outputs import METADATA, check_output, write_output

EXAMPLE = "musiq-ref explain photo.jpg -o report.html"
ENDINGS = (".html", ".png", ".pdf", ".svg")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="FILE", help="an image file")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("report.html"),
        help=".html, .png, .pdf or .svg to write (report.html)",
    )
    parser.add_argument(
        "--follow", metavar="PAGE", help="the page that musiq-ref follow wrote, for links to its stations"
    )
    add_force(parser, "-o")
    add_checkpoint(parser)
    add_backend(parser)
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    if args.follow is not None and args.output.suffix.lower() != ".html":
        raise ValueError(f"--follow puts links into a page, and {args.output} is none; name a .html, or leave it out")
    page, note = _followed(args), ""
    checkpoint = load_checkpoint(args.checkpoint)
    if isinstance(page, Path) and page.exists():
        check_origin(page, args.image, checkpoint)
    elif isinstance(page, Path):
        note = f"{page} is not there yet, and links lead nowhere: musiq-ref follow {args.image} -o {page} writes it\n"
    check_output(args.output, [args.image, *filter(None, [checkpoint.path])], args.force, ENDINGS)
    kind = args.output.suffix.lower().removeprefix(".")
    pixels = decode(args.image)
    height, width = pixels.shape[:2]
    check_patches(height, width, checkpoint, args.backend)
    if (patches := count_patches(height, width, checkpoint.config)) > PATCHES:
        print(
            f"{args.image} has {patches} patches, and the time grows with their square: this may take minutes; a "
            "reduced copy is explained sooner, but it is another picture, with a score of its own",
            file=sys.stderr,
        )
    with get_backend(args.backend).guard():
        if kind == "html":
            name, address = Path(args.image).name, _address(page, args.output)
            reduced = _reduced_there(height, width, checkpoint.config) if page else ""
            made = report(pixels, checkpoint, name, address, args.backend, reduced)
        else:
            file = io.BytesIO()
            picture(pixels, checkpoint, args.backend).savefig(file, format=kind, dpi=110, metadata=METADATA[kind])
            made = file.getvalue()
    write_output(args.output, made)
    say_which_model(checkpoint)
    print(f"{args.image}: the {'page' if kind == 'html' else 'picture'} is in {args.output}")
    print(note, end="", file=sys.stderr)
    return 0


def _followed(args: argparse.Namespace) -> str | Path | None:
    """`--follow` as an address on the web, or as a file; a station that it ends with is left out.

    Raises ValueError for what cannot be a page of `musiq-ref follow`.
    """
    page = args.follow
    if page is None:
        return None
    if not os.path.exists(page):
        page = page.partition("#")[0]
    if "://" in page:
        parts = urlsplit(page)
        if parts.scheme not in ("http", "https", "file") or not (parts.netloc or parts.scheme == "file"):
            raise ValueError(f"--follow {page} is no address of a page; name a file, or what begins with https://")
        if parts.scheme != "file":
            return page
        page = url2pathname(parts.path)
    path = Path(page)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--follow {args.follow} does not end in .html; name the page that musiq-ref follow writes")
    if not path.parent.is_dir():
        raise ValueError(f"--follow {page}: there is no folder {path.parent}; name a page of musiq-ref follow")
    if os.path.realpath(path) == os.path.realpath(args.output):
        raise ValueError(f"--follow and -o both name {page}, and the report would replace the page; name two files")
    if path.exists():
        check_page(path)
    return path


def _reduced_there(height: int, width: int, config: MusiqConfig) -> str:
    """What a reader who follows the links should know of a large photograph."""
    rows, columns = size_in_page(height, width, config)
    if (rows, columns) == (height, width):
        return ""
    return f"The linked page shows the photograph reduced to {columns}×{rows} pixels, so its score is another."


def _address(page: str | Path | None, output: Path) -> str:
    """The page to link to, as the report will find it from where it lies."""
    if isinstance(page, Path):
        return quote(Path(os.path.relpath(page, output.parent)).as_posix())
    return page or ""
