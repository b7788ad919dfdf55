"""`musiq-ref summary`: parameters and multiply–accumulates, beside what the paper prints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from musiq_ref.checkpoint import load_checkpoint
from musiq_ref.config import PRESETS, MusiqConfig
from musiq_ref.counts import complexity

EXAMPLE = "musiq-ref summary --preset small --size 224x224"

PRINTED_PARAMETERS = {"small": "27M", "medium": "61M", "large": "98M", "tiny": "-"}  # appendix table 1
PRINTED_MACS = 8.86e9  # appendix section G: the small model, 224×224


def configure(parser: argparse.ArgumentParser) -> None:
    itemised = parser.add_mutually_exclusive_group()
    itemised.add_argument("--preset", default="small", choices=PRESETS, help="the variant to itemise (default: small)")
    itemised.add_argument("--checkpoint", metavar="FILE|NAME", help='a model to itemise instead, such as "demo"')
    parser.add_argument("--size", default="224x224", metavar="HxW", help="image height and width (default: 224x224)")
    parser.add_argument("--outputs", type=int, default=1, help="1 for a score, 10 for AVA (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    size = parse_size(args.size)
    configs = {name: MusiqConfig.preset(name, outputs=args.outputs) for name in PRESETS}
    chosen = args.preset
    if args.checkpoint is not None:
        name = Path(args.checkpoint).name
        chosen = f"{name} (file)" if name in (*PRESETS, "unpadded") else name
        configs[chosen] = load_checkpoint(args.checkpoint).config
    counts = {name: complexity(config, size) for name, config in configs.items()}
    unpadded = complexity(configs[chosen], size, padded=False)
    if args.json:
        print(
            json.dumps({**{name: c._asdict() for name, c in counts.items()}, "unpadded": unpadded._asdict()}, indent=2)
        )
        return 0
    print(f"image {size[0]}×{size[1]}, {counts[chosen].tokens} tokens and the class token\n")
    print(
        f"{'variant':8} {'layers':>6} {'D':>5} {'MLP':>5} {'heads':>5} {'parameters':>12} {'table 1':>8} {'MACs':>15}"
    )
    for name, c in counts.items():
        p = configs[name]
        print(
            f"{name:8} {p.layers:6} {p.width:5} {p.mlp_width:5} {p.heads:5} "
            f"{c.parameters:12,} {PRINTED_PARAMETERS.get(name, '-'):>8} {c.macs:15,}"
        )
    c = counts[chosen]
    for title, parts, total in (
        ("parameters", c.parameters_by_part, c.parameters),
        ("multiply-accumulates", c.macs_by_part, c.macs),
    ):
        print(f"\n{chosen}: {title}")
        for part, n in parts.items():
            print(f"  {part:32} {n:16,} {n / total:7.1%}")
        print(f"  {'total':32} {total:16,}")
    print(f"  {'without padding tokens (score)':32} {unpadded.macs:16,}")
    if chosen == "small" and size == (224, 224):
        print(f"  {'printed as FLOPS in section G':32} {PRINTED_MACS:16,.0f}")
    return 0


def parse_size(text: str) -> tuple[int, int]:
    """ "480x640" -> (480, 640)"""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--size is {text!r}; write height x width, for example 480x640")
    return int(parts[0]), int(parts[1])
