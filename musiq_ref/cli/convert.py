"""`musiq-ref convert`: rewrites a checkpoint for another program."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

from musiq_ref.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    save_official,
    save_pyiqa,
)
from musiq_ref.cli.shared import say_which_model
from musiq_ref.model.parameters import flatten

EXAMPLE = "musiq-ref convert koniq_ckpt.npz koniq.safetensors"

EXTENSIONS = {"official": ".npz", "pyiqa": ".safetensors", "native": ".safetensors"}


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convert`."""
    parser.add_argument("source", metavar="IN", help="a checkpoint file of any kind, or the name of a downloaded one")
    parser.add_argument("target", metavar="OUT", help="the file to write")
    parser.add_argument(
        "--to", choices=tuple(EXTENSIONS), help="layout to write (default: .npz official, .safetensors native)"
    )
    parser.add_argument(
        "--heads", type=int, metavar="N", help="attention heads, where a pyiqa file's size has no preset"
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT if it exists")
    parser.add_argument(
        "--longer-sides", type=int, nargs="*", metavar="L", help="of the resized scales, if they are not 224 and 384"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def target_format(target: Path, chosen: str | None) -> str:
    """The layout to write, from --to or the extension; raises ValueError where the two do not fit.

    >>> target_format(Path("a.npz"), None)
    'official'
    """
    if target.suffix in (".pth", ".pt"):
        raise ValueError(f"{target}: .pth is read but not written; name a .safetensors file and add --to pyiqa")
    guess = {".npz": "official", ".safetensors": "native"}.get(target.suffix)
    if chosen is None and guess is None:
        raise ValueError(f"{target}: no layout goes with that extension; name it .npz or .safetensors")
    layout = chosen or guess or ""
    if target.suffix != EXTENSIONS[layout]:
        raise ValueError(f"{target}: the {layout} layout is written as {EXTENSIONS[layout]}; change the extension")
    return layout


def run(args: argparse.Namespace) -> int:
    """Exit code 0: written; 1: IN could not be read or OUT not written; 2: bad use."""
    target = Path(args.target)
    layout = target_format(target, args.to)
    if target.exists() and not args.force:
        raise ValueError(f"{target}: already exists; add --force to overwrite it")
    try:
        checkpoint = load_checkpoint(args.source, dtype=None, heads=args.heads, longer_sides=args.longer_sides)
        if layout == "native":
            save_checkpoint(target, checkpoint.params, checkpoint.config)
        else:
            {"official": save_official, "pyiqa": save_pyiqa}[layout](target, checkpoint.params)
    except CheckpointError as error:
        print(f"musiq-ref convert: {error}", file=sys.stderr)
        return 1
    for difference in lost(checkpoint, target, args.longer_sides):
        print(f"note: {target} does not hold {difference}", file=sys.stderr)
    say_which_model(checkpoint)
    count = sum(array.size for _, array in flatten(checkpoint.params))
    if args.json:
        print(json.dumps({"path": str(target), "from": checkpoint.format, "to": layout, "parameters": count}))
    else:
        print(f"{target}: {layout} layout, converted from {checkpoint.format}, {count:,} parameters")
    return 0


def lost(checkpoint: Checkpoint, target: Path, longer_sides: list[int] | None) -> list[str]:
    """A sentence for every part of the configuration that the written file does not bring back by itself."""
    before, heads = checkpoint.config, checkpoint.config.heads
    try:
        after = load_checkpoint(target, dtype=None, heads=heads, longer_sides=longer_sides).config
    except CheckpointError as error:
        return [f"all of its configuration; pass config= to load it ({error})"]
    return [
        f"{field.name} = {getattr(before, field.name)!r}; it loads with {getattr(after, field.name)!r}"
        for field in fields(before)
        if getattr(before, field.name) != getattr(after, field.name)
    ]
