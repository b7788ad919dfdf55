"""`musiq-ref fixture`: writes a fixture to check a port against."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.verify.ladder.descent import curve, make_training_fixture
from musiq_ref.verify.ladder.fixture import PRESETS, make_fixture
from musiq_ref.verify.ladder.suite import make_suite

EXAMPLE = "musiq-ref fixture reference/ --preset tiny --conventions official"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder")
    parser.add_argument(
        "--preset", choices=PRESETS, default="tiny", help="tiny: two layers; small: the published model (needs minutes)"
    )
    parser.add_argument("--conventions", choices=NAMED_CONVENTIONS, default="official", help="whose numbers (SPEC 5)")
    parser.add_argument("--outputs", type=int, metavar="C", help="outputs of the model with made weights (default 10)")
    parser.add_argument("--checkpoint", metavar="FILE|NAME", help="take the weights from a checkpoint instead")
    parser.add_argument("--image", metavar="FILE", help="an image instead of the made one")
    parser.add_argument(
        "--suite",
        action="store_true",
        help="write a folder of small fixtures: portrait, panorama, 12 layers, …",
    )
    parser.add_argument(
        "--training", action="store_true", help="write five steps of two optimisers on two images instead"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Exit code 0: written; 2: bad use."""
    if args.suite or args.training:
        return _made(args)
    if args.outputs is not None and (args.outputs < 1 or args.checkpoint):
        raise ValueError("--outputs is a number of at least 1, for made weights only; leave it out with --checkpoint")
    fixture = make_fixture(
        args.folder,
        args.preset,
        args.conventions,
        outputs=args.outputs,
        checkpoint=args.checkpoint,
        image=args.image,
    )
    if args.json:
        digest = fixture.manifest["content_sha256"]
        print(json.dumps({"path": str(args.folder), "stages": len(fixture.stages), "content_sha256": digest}))
    else:
        print(f"{args.folder}: {len(fixture.stages)} stages; compare yours with: musiq-ref compare {args.folder} MINE")
    return 0


def _made(args: argparse.Namespace) -> int:
    """A suite or a fixture of training, whose models and images are their own."""
    if args.suite and args.training:
        raise ValueError("--suite and --training write different folders; give one of the two")
    if args.preset != "tiny" or args.outputs or args.checkpoint or args.image:
        raise ValueError("--suite and --training have models and images of their own; add --conventions only")
    if args.suite:
        cases = {name: len(fixture.stages) for name, fixture in make_suite(args.folder, args.conventions).items()}
        said, about = f"{len(cases)} cases", {"cases": cases}
    else:
        fixture = make_training_fixture(args.folder, args.conventions)
        said, about = f"{len(fixture.stages)} stages", {"stages": len(fixture.stages)}
        print("" if args.json else curve(fixture) + "\n", end="")
    command = f"musiq-ref compare {args.folder} MINE"
    about = json.dumps({"path": str(args.folder), **about})
    print(about if args.json else f"{args.folder}: {said}; compare yours with: {command}")
    return 0
