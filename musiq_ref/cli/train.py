"""`musiq-ref train`: trains a model by a recipe, or the models of an ablation, or goes on where that was stopped."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from musiq_ref.ablations import ABLATIONS, grid, markdown, run_grid
from musiq_ref.backend import VISIBLE, use_device
from musiq_ref.cli.shared import add_backend
from musiq_ref.training.curves import draw_curves
from musiq_ref.training.limits import short
from musiq_ref.training.parallel import World, cores, together
from musiq_ref.training.run import train
from musiq_ref.training.settings import recipe

EXAMPLE = """musiq-ref train --recipe koniq --data koniq10k/ -o run1 --set batch=32 --set model.layers=6
musiq-ref train --ablation grid -o ablations --jobs 2 --seeds 3"""


def configure(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", help="koniq, spaq, ava, paq2piq, imagenet, synthetic, or a .toml file")
    what.add_argument(
        "--ablation",
        metavar="NAME",
        help=f"train small models on synthetic pictures, the paper's table beside: {', '.join(ABLATIONS)}, all",
    )
    parser.add_argument("--data", metavar="FOLDER|CSV", help="the data set; the synthetic one needs none")
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, help="where the run is kept, to go on from")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="change a setting; tables with a dot, as TOML"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="of an ablation: how often each model is trained (2)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="of an ablation: models trained at a time, on a core each (all cores)"
    )
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="go on although labels, images or split are not those of before; what was held out stays held out",
    )
    add_backend(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and no progress bar")


def run(args: argparse.Namespace) -> int:
    with together() as world:
        if args.ablation:
            return run_ablation(args, world)
        if args.seeds is not None or args.jobs is not None:
            raise ValueError("--seeds and --jobs are for --ablation; a recipe has --set seed=N and --set threads=N")
        settings = recipe(args.recipe, **parse_changes(args.set))
        if args.backend != "numpy" and args.device is None:
            use_own_device(world)
        result = train(settings, args.output, args.data, not args.json, world, args.accept_changed_data, args.backend)
    if world.rank > 0:
        return 0
    if args.json:
        files = {name: path and str(path) for name, path in result._asdict().items() if name != "validation"}
        print(json.dumps({**files, **result.validation}))
        return 0
    print(f"last {result.last}\nbest {result.best or '– (it was removed)'}\nlog  {result.log}")
    try:
        if curves := draw_curves(result.log, Path(args.output) / "curves.png"):
            print(f"curves {curves}")
    except Exception as error:  # whatever goes wrong with a picture, the training has gone well
        print(f"musiq-ref train: the curves were not drawn ({error})", file=sys.stderr)
    return 0


def use_own_device(world: World) -> None:
    """Of several processes on one computer each uses another GPU, unless it was started to see one alone."""
    place, visible = world.place(), os.environ.get(VISIBLE, "").split(",")
    if world.size > 1 and (visible == [""] or len(visible) > 1):
        use_device(place)


def run_ablation(args: argparse.Namespace, world: World) -> int:
    """Exit code 0: all cells are done; 1: some failed."""
    if args.data or args.accept_changed_data:
        which = "--data" if args.data else "--accept-changed-data"
        raise ValueError(f"an ablation is trained on synthetic pictures; leave out {which}")
    if args.backend != "numpy":
        raise ValueError("an ablation is trained on the processor; leave out --backend")
    if world.size > 1:
        raise ValueError("an ablation starts processes of its own; leave out mpiexec, and set --jobs")
    planned = grid(args.ablation, args.seeds, **parse_changes(args.set))
    jobs = len(cores()) if args.jobs is None else args.jobs
    made = run_grid(planned, args.output, jobs, progress=not args.json)
    print(json.dumps(made, indent=1) if args.json else markdown(made).rstrip())
    if not args.json:
        print(f"\nwrote {Path(args.output, 'ablation.md')} and {Path(args.output, 'ablation.json')}", file=sys.stderr)
    return 1 if made["problems"] else 0


def parse_changes(texts: list[str]) -> dict:
    """["batch=32", "model.layers=6"] -> {"batch": 32, "model": {"layers": 6}}; a value that is no TOML is a string.

    >>> parse_changes(["learning_rate=1e-3", "model.layers=6", "loss=emd"])
    {'learning_rate': 0.001, 'model': {'layers': 6}, 'loss': 'emd'}
    """
    changes: dict = {}
    for text in texts:
        name, equals, value = text.partition("=")
        *tables, key = (part.strip() for part in name.split("."))
        if not equals or not all((*tables, key)):
            raise ValueError(f"--set {short(text)} is not NAME=VALUE; for example --set batch=32")
        inner = changes
        for table in tables:
            inner = inner.setdefault(table, {}) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            raise ValueError(
                f"--set {short(text)} names a value in what another --set made a plain value; leave out one"
            )
        inner[key] = parse_value(value)
    return changes


def parse_value(text: str) -> Any:
    """A value of TOML; any other text is itself.

    >>> parse_value("[1.5, 2]"), parse_value("koniq")
    ([1.5, 2], 'koniq')
    """
    try:
        [(_, value)] = tomllib.loads(f"value = {text}").items()
        return value
    except (ValueError, RecursionError):
        return text
