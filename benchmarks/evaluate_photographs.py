"""How far a model can be believed on photographs: spoilt by known degrees, at two sizes, the same for every picture.

    python benchmarks/evaluate_photographs.py demo-run/photographs/blind --checkpoint demo -o demo-run/blind

Every photograph is reduced to shorter sides of 300 and 700 pixels (never enlarged), untouched and with each flaw at
four severities (musiq_ref.pictures.flaws). Printed are, for each size: the rank correlation of severity and score over
all pictures (-1 is best), and what it would be without one of the flaws; for each flaw the median over pictures of the
same within a picture; in how many (picture, flaw) the untouched one is best; the spread of the untouched scores; and
how far a photograph's score changes with its size.
FOLDER gets images.csv, scatter.png, and worst.png with the pictures that were judged most wrongly.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import musiq_ref as mq
from musiq_ref.evaluation.files import TABLE, draw_figures, made_folder, write_table
from musiq_ref.evaluation.rating import Rated
from musiq_ref.metrics import srcc
from musiq_ref.pictures.flaws import FLAWS, score_of, spoil
from musiq_ref.pictures.photographs import load_photographs

SIDES = (300, 700)
SEVEN = ("gaussian_blur", "motion_blur", "pixelation", "white_noise", "jpeg", "contrast", "haze")
SEVERITIES = (0.25, 0.5, 0.75, 1.0)
UNTOUCHED = "untouched"


def reduced(pixels: np.ndarray, side: int) -> np.ndarray | None:
    """The picture with that shorter side; None if it has fewer pixels."""
    h, w = pixels.shape[:2]
    factor = min(h, w) / side
    if factor < 1:
        return None
    return np.asarray(Image.fromarray(pixels).resize((round(w / factor), round(h / factor)), Image.Resampling.LANCZOS))


def versions(picture: np.ndarray, flaws: Sequence[str]) -> Iterator[tuple[str, float, np.ndarray]]:
    """(flaw, severity, image): the untouched picture, then each flaw at each severity; only the severity changes."""
    yield UNTOUCHED, 0.0, picture
    for number, flaw in enumerate(flaws):
        for severity in SEVERITIES:
            yield flaw, severity, spoil(picture, flaw, severity, np.random.default_rng(number))


def order(severities: Sequence[float], scores: Sequence[float]) -> float:
    """Spearman's correlation; 0 where all scores are equal."""
    return srcc(severities, scores) if len(set(scores)) > 1 else 0.0


def summary(scores: dict[str, dict[tuple[str, float], float]], flaws: Sequence[str]) -> dict[str, Any]:
    """The figures of one size, from {picture: {(flaw, severity): score}}."""

    def pooled(but: str = "") -> float:
        return order(*zip(*((s, x) for one in scores.values() for (f, s), x in one.items() if f != but), strict=True))

    clean = {name: one[UNTOUCHED, 0.0] for name, one in scores.items()}

    def within(name: str, flaw: str) -> list[float]:
        return [clean[name], *(scores[name][flaw, severity] for severity in SEVERITIES)]

    lines = {flaw: [within(name, flaw) for name in scores] for flaw in flaws}
    return {
        "pictures": len(scores),
        "srcc": pooled(),
        "srcc, but for one flaw": {f: round(pooled(f), 3) for f in flaws if len(flaws) > 1},
        "order": {f: statistics.median(order((0.0, *SEVERITIES), x) for x in lines[f]) for f in flaws},
        "untouched best": statistics.fmean(x[0] > max(x[1:]) for f in flaws for x in lines[f]),
        "untouched best, by flaw": {f: statistics.fmean(x[0] > max(x[1:]) for x in lines[f]) for f in flaws},
        "mean scores": {f: np.mean(lines[f], axis=0).round(1).tolist() for f in flaws},
        "untouched mean": statistics.fmean(clean.values()),
        "untouched deviation": statistics.pstdev(clean.values()),
        "untouched": {name: round(score, 1) for name, score in clean.items()},
    }


def stability(small: dict[str, float], large: dict[str, float]) -> dict[str, float]:
    """How far the untouched scores of the same pictures lie apart at two sizes."""
    apart = {name: abs(small[name] - large[name]) for name in small if name in large}
    if not apart:
        return {}
    return {"pictures": len(apart), "median": statistics.median(apart.values()), "most": max(apart.values())}


def evaluate(score: Callable[[np.ndarray], float], photographs: Sequence[Any], flaws: Sequence[str]):
    """(figures, rated images) of a scoring function on photographs."""
    figures: dict[str, Any] = {}
    rated: list[Rated] = []
    for side in SIDES:
        scores: dict[str, dict[tuple[str, float], float]] = {}
        for one in photographs:
            picture = reduced(one.pixels, side)
            if picture is None:
                continue
            for flaw, severity, image in versions(picture, flaws):
                value = score(image)
                scores.setdefault(one.name, {})[flaw, severity] = value
                name = f"{one.name} {side} {flaw} {severity:.2f}"
                rated.append(Rated(name, score_of(severity), value, "", image))
            print(side, one.name, round(scores[one.name][UNTOUCHED, 0.0], 1), file=sys.stderr)
        if scores:
            figures[str(side)] = summary(scores, flaws)
    if len(figures) == len(SIDES):
        figures["stability"] = stability(*(figures[str(side)]["untouched"] for side in SIDES))
    return figures, rated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="+", help="files or folders")
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--all", action="store_true", help="every flaw, not the seven usual ones")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    scorer = mq.scorer(args.checkpoint)
    flaws = tuple(FLAWS) if args.all else SEVEN
    figures, rated = evaluate(lambda x: float(scorer(x).value), load_photographs(args.photographs), flaws)
    print(json.dumps(figures, indent=1))
    if args.output:
        with made_folder(args.output):
            write_table(args.output / TABLE, rated)
            draw_figures(args.output, rated, f"{args.checkpoint}, {len(figures)} sizes")
            (args.output / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
