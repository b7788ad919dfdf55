"""`musiq-ref download`: fetches a published checkpoint."""

from __future__ import annotations

import argparse
import json

from musiq_ref.checkpoint.catalogue import CATALOGUE
from musiq_ref.checkpoint.fetch import download, sha256

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
    """Exit code 0: it is there and verified; 2: it could not be fetched, or is not the published file."""
    name = args.name if args.format == "official" else f"{args.name}-pyiqa"
    path = download(name, args.cache)
    evidence, digest = CATALOGUE[name].evidence, sha256(path)
    use = name if args.cache is None else str(path)
    if args.json:
        found = {"name": name, "path": str(path), "format": args.format, "checked": evidence, "sha256": digest}
        print(json.dumps(found))
    else:
        print(f"{path}: verified; use it with --checkpoint {use}\nchecked: {evidence}\nSHA-256: {digest}")
    return 0
