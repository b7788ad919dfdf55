"""`musiq-ref download`: fetches a published checkpoint."""

from __future__ import annotations

import argparse
import json
import sys

from musiq_ref.checkpoint.catalogue import CATALOGUE
from musiq_ref.checkpoint.fetch import DownloadError, download

EXAMPLE = "musiq-ref download koniq"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `download`."""
    names = [name for name in CATALOGUE if not name.endswith("-pyiqa")]
    parser.add_argument("name", choices=names, help="the data set it was trained on")
    parser.add_argument(
        "--format", choices=("official", "pyiqa"), default="official", help="the authors' file or the PyTorch port's"
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="folder to keep it in (default: $MUSIQ_REF_CACHE, else musiq_ref in $XDG_CACHE_HOME or ~/.cache)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Exit code 0: it is there and verified; 1: it could not be fetched, or is not the published file."""
    name = args.name if args.format == "official" else f"{args.name}-pyiqa"
    try:
        path = download(name, args.cache)
    except DownloadError as error:
        print(f"musiq-ref download: {error}", file=sys.stderr)
        return 1
    use = name if args.cache is None else str(path)
    if args.json:
        print(json.dumps({"name": name, "path": str(path), "format": args.format}))
    else:
        print(f"{path}: verified; use it with --checkpoint {use}")
    return 0
