"""`musiq-ref convert`: rewrites a checkpoint for another program."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from musiq_ref.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    save_official,
    save_pyiqa,
    to_official,
    to_pyiqa,
)
from musiq_ref.checkpoint.infer import infer_config
from musiq_ref.checkpoint.load import find_checkpoint
from musiq_ref.checkpoint.weights import LAYOUTS
from musiq_ref.model.parameters import flatten
from musiq_ref.outputs import check_output

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
    parser.add_argument(
        "--force",
        action="store_true",
        help="overwrite OUT if it exists; write it though it cannot hold all of the configuration",
    )
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
    """Exit code 0: written; 2: IN could not be read, or OUT not written."""
    target, source = Path(args.target), find_checkpoint(args.source)
    layout = target_format(target, args.to)
    check_output(target, [source], force=True)
    if target.exists() and not args.force:
        raise ValueError(f"{target}: already exists; add --force to overwrite it")
    checkpoint = load_checkpoint(args.source, dtype=None, heads=args.heads, longer_sides=args.longer_sides)
    gone = lost(checkpoint, layout, args.longer_sides)
    if gone and not args.force:
        raise ValueError(f"{target}: not written, for it would not hold {'; nor '.join(gone)}; add --force to write it")
    if layout == "native":
        save_checkpoint(target, checkpoint.params, checkpoint.config)
    else:
        {"official": save_official, "pyiqa": save_pyiqa}[layout](target, checkpoint.params)
    result = {"path": str(target), "from": checkpoint.format, "to": layout}
    count = sum(array.size for _, array in flatten(checkpoint.params))
    notes = list(checkpoint.notes)
    if layout != "native" and checkpoint.format not in ("native", layout):
        notes.append(
            f"{target} loads with the conventions of {layout}; --conventions {checkpoint.format} gives the scores of IN"
        )
    if args.json:
        print(json.dumps({**result, "parameters": count, "notes": notes, "lost": gone}))
        return 0
    print(f"{target}: {layout} layout, converted from {checkpoint.format}, {count:,} parameters")
    for note in (*notes, *(f"{target} does not hold {part}" for part in gone)):
        print(f"note: {note}", file=sys.stderr)
    return 0


def lost(checkpoint: Checkpoint, layout: str, longer_sides: list[int] | None) -> list[str]:
    """A phrase for every part of the configuration that a file of that layout would not bring back by itself.

    longer_sides: those that the user had to give for IN, which did not hold them either
    """
    before = checkpoint.config
    if layout == "native":
        return []
    if checkpoint.format != "native":  # each program has conventions of its own, which no file says
        before = before.replace(conventions=LAYOUTS[layout].conventions)
    else:
        longer_sides = None
    tensors = {"official": to_official, "pyiqa": to_pyiqa}[layout](checkpoint.params)
    tensors, why = LAYOUTS[layout].canonical(tensors), None
    for given in ((), ("heads",), ("longer_sides",), ("heads", "longer_sides")):
        told = {"longer_sides": longer_sides, **{name: getattr(before, name) for name in given}}
        try:
            after = infer_config(tensors, LAYOUTS[layout], **told)
        except CheckpointError as error:
            why = why or error
            continue
        values, loaded = (dict(flatten(config.to_dict())) for config in (before, after))
        names = [name for name in values if values[name] != loaded[name]]
        return [f"{name} = {values[name]}, without which it cannot be loaded" for name in given] + [
            f"{name} = {values[name]}, and loads with {loaded[name]}" for name in names
        ]
    return [f"all of its configuration ({why})"]
