"""What each convention, and each common mistake, does to the score: the table of docs/conventions.md.

    python benchmarks/measure_conventions.py [--checkpoint koniq] [--longer-side 256] [-o docs/measured_conventions.md]

Every bundled photograph, as it is and spoilt by blur, noise and JPEG, is scored in float64 with one thing changed at a
time. Changes are given in units of the score and as multiples of the spread, the standard deviation of these scores:
what matters is whether a change is small against the differences that the model is there to tell.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import musiq_ref as mq
from musiq_ref.image.resize import resized_sides
from musiq_ref.pictures.distortions import DISTORTIONS
from musiq_ref.pictures.synthetic import PHOTOGRAPHS

CONVENTIONS = {
    "`resize`: bicubic instead of the authors' Gaussian": {"resize": "bicubic"},
    "`resized_sides`: float64 instead of float32": {"resized_sides": "float64"},
    "`gelu`: exact instead of tanh": {"gelu": "erf"},
    "`weight_std_ddof`: 1 instead of 0": {"weight_std_ddof": 1},
    "`mask`: filled with −1e3 instead of −1e10 added": {"mask": "fill", "mask_value": -1e3},
    "`mask_value`: −∞ instead of −1e10": {"mask_value": -math.inf},
    "`hash`: rounded instead of cut off": {"hash": "round"},
    "`scale_order`: native first instead of last": {"scale_order": "native_first"},
    "`patch_layout`: channels first": {"patch_layout": "channel_row_column"},
}
PROGRAMS = {"all of pyiqa's": mq.PYIQA, "all of the paper's text": mq.PAPER}


def bgr(image: np.ndarray) -> np.ndarray:
    """Red and blue exchanged, as OpenCV reads files."""
    return np.ascontiguousarray(image[..., ::-1])


def halved(image: np.ndarray) -> np.ndarray:
    """Reduced to half the size before scoring."""
    return np.array(Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2), Image.Resampling.LANCZOS))


def cropped(image: np.ndarray) -> np.ndarray:
    """The middle half of each side."""
    h, w = image.shape[0] // 4, image.shape[1] // 4
    return np.ascontiguousarray(image[h:-h, w:-w])


def turned(image: np.ndarray) -> np.ndarray:
    """On its side, as when the EXIF orientation is not applied."""
    return np.ascontiguousarray(np.rot90(image))


MISTAKES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "blue and red exchanged": bgr,
    "orientation not applied": turned,
    "reduced to half its size first": halved,
    "only the middle quarter": cropped,
}


def size_that_differs(config: mq.MusiqConfig, longer_side: int) -> tuple[int, int] | None:
    """An image size whose resized sides differ between float32 and float64, if a small one exists."""
    for height in range(longer_side // 4, longer_side):
        for width in range(longer_side // 4, longer_side):
            for side in config.longer_sides:
                if resized_sides(height, width, side) != resized_sides(height, width, side, "float64"):
                    return height, width
    return None


def images(config: mq.MusiqConfig, longer_side: int) -> list[np.ndarray]:
    """The bundled photographs, reduced, each untouched and spoilt in three ways; and one of a size that differs."""
    found = []
    for path in sorted(PHOTOGRAPHS.glob("*.png")):
        photo = Image.fromarray(mq.decode(path))
        photo.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS)
        pixels = np.array(photo)
        found.append(pixels)
        for name in ("gaussian_blur", "white_noise", "jpeg"):
            found.append(DISTORTIONS[name](pixels, 0.5, np.random.default_rng(0)))
    if size := size_that_differs(config, longer_side):
        photo = Image.fromarray(mq.decode(PHOTOGRAPHS / "cat.png"))
        found.append(np.array(photo.resize(size[::-1], Image.Resampling.LANCZOS)))
    return found


def measure(checkpoint: mq.Checkpoint, longer_side: int) -> str:
    """The tables, in Markdown."""
    pictures = images(checkpoint.config, longer_side)
    variants: list[tuple[str, mq.Conventions, Callable | None]] = [
        *((name, replace(mq.OFFICIAL, **change), None) for name, change in CONVENTIONS.items()),
        *((name, conventions, None) for name, conventions in PROGRAMS.items()),
        *((name, mq.OFFICIAL, change) for name, change in MISTAKES.items()),
    ]

    def scores(conventions, change) -> np.ndarray:
        with warnings.catch_warnings(action="ignore"):  # untrained weights are named in the caption
            one = mq.scorer(checkpoint, dtype="float64", conventions=conventions)
        return np.array([one(change(picture) if change else picture).value for picture in pictures])

    reference = scores(mq.OFFICIAL, None)
    spread = reference.std()
    config = checkpoint.config
    kind = "untrained, deterministic" if checkpoint.format == "deterministic" else Path(checkpoint.path or "").name
    lines = [
        f"Weights: {kind}; {config.layers} layers of width {config.width}, {config.scales} scales. "
        f"{len(pictures)} images of at most {longer_side} pixels; scores from {reference.min():.4g} to "
        f"{reference.max():.4g}, spread {spread:.4g}.",
        "",
        "| what is changed | images whose score changes | mean change | largest change | largest, in spreads |",
        "|---|---|---|---|---|",
    ]
    for name, conventions, change in tqdm(variants, unit="variant"):
        difference = np.abs(scores(conventions, change) - reference)
        changed = int((difference > 1e-12 * max(1, abs(reference).max())).sum())
        lines.append(
            f"| {name} | {changed} of {len(pictures)} | {number(difference.mean())} "
            f"| {number(difference.max())} | {number(difference.max() / spread)} |"
        )
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Two digits, without an exponent where it is easy to read."""
    return "0" if value == 0 else f"{value:.2g}" if value > 1e-4 else f"{value:.0e}"


def main() -> None:
    """Prints the tables, or writes them to a file."""
    parser = argparse.ArgumentParser(description="measure what conventions and mistakes do to the score")
    parser.add_argument("--checkpoint", default="demo", help='a file, a name, or "tiny": deterministic weights')
    parser.add_argument("--longer-side", type=int, default=256, help="to which the photographs are reduced")
    parser.add_argument("-o", "--output", type=Path, help="file to write; default: print")
    args = parser.parse_args()
    if args.checkpoint == "tiny":
        config = mq.MusiqConfig.preset("tiny")
        checkpoint = mq.Checkpoint(mq.verify.deterministic_params(config, 1, "float64"), config, "deterministic", None)
    else:
        checkpoint = mq.load_checkpoint(args.checkpoint, dtype="float64")
    table = measure(checkpoint, args.longer_side)
    if args.output:
        args.output.write_text(table, encoding="utf-8")
    else:
        print(table, end="")


if __name__ == "__main__":
    main()
