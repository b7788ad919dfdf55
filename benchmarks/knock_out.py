"""What a model relies on: how much worse it judges photographs without a scale, without places, without attention.

    python benchmarks/knock_out.py demo-run/photographs/blind --checkpoint demo

The photographs of `evaluate_photographs.py`, at a shorter side of 300 pixels, untouched and spoilt, are scored by the
whole model and by the same weights with one thing taken from it:

- the tokens of one scale;
- the places: the hash indices of the tokens are shuffled within each scale;
- attention's choice: in every block each token takes all values alike, instead of by its weights.

Printed are the rank correlation of severity and score over all pictures (-1 is best), what the loss costs, and the
middle 95 % of that cost when the pictures are drawn again with replacement. A model trained without the thing might do
better.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from evaluate_photographs import SEVEN, order, reduced, versions

import musiq_ref as mq
from musiq_ref.image.tokenize import scales_of
from musiq_ref.model.head import expected_score
from musiq_ref.pictures.photographs import load_photographs

SIDE = 300


class Ablated(NamedTuple):
    """A row of the table.

    name: what was taken
    tokens: a function from an image's tokens to those that are left
    tap: of `mq.forward`, or None
    """

    name: str
    tokens: Callable[[mq.Tokens], mq.Tokens]
    tap: Callable[[str, np.ndarray], np.ndarray] | None = None


def without_scale(scale: int) -> Callable[[mq.Tokens], mq.Tokens]:
    """Takes the tokens of one scale away."""
    return lambda tokens: tokens._replace(mask=tokens.mask & (tokens.scale_index != scale))


def without_places(tokens: mq.Tokens) -> mq.Tokens:
    """Shuffles the hash indices of the valid tokens within each scale."""
    index, rng = tokens.hash_index.copy(), np.random.default_rng(0)
    for scale in np.unique(tokens.scale_index):
        at = np.flatnonzero(tokens.mask & (tokens.scale_index == scale))
        index[at] = index[rng.permutation(at)]
    return tokens._replace(hash_index=index)


def alike(name: str, array: np.ndarray) -> np.ndarray:
    """A tap: equal attention weights."""
    return np.full_like(array, 1 / array.shape[-1]) if name.endswith("attention/weights") else array


def ablations(config: mq.MusiqConfig) -> list[Ablated]:
    """The whole model, then one loss a row."""
    scales = scales_of(SIDE, SIDE, config)  # in the order of their indices
    names = [f"scale of {scale.longer_side} pixels" if scale.longer_side else "native scale" for scale in scales]
    return [
        Ablated("nothing", lambda tokens: tokens),
        *(Ablated(name, without_scale(scale)) for scale, name in enumerate(names)),
        Ablated("places", without_places),
        Ablated("attention's choice", lambda tokens: tokens, alike),
    ]


def score(tokens: mq.Tokens, params: Any, config: mq.MusiqConfig, row: Ablated) -> float:
    """Of the tokens that the row leaves."""
    left = row.tokens(tokens)
    left = mq.Tokens(*(array[left.mask] for array in left))
    if row.tap is None:
        logits = mq.predict(params, left, config)[None]
    else:
        logits, _ = mq.forward(params, mq.batch([left]), config, row.tap)
    return float(expected_score(logits)[0].score[0])


def rate(photographs: Sequence[Any], checkpoint: mq.Checkpoint, rows: Sequence[Ablated]) -> Iterator[np.ndarray]:
    """For every photograph an array (versions, 1 + rows): severity, then the scores."""
    for one in photographs:
        picture = reduced(one.pixels, SIDE)
        if picture is None:
            continue
        seen = [(severity, mq.tokenize(image, checkpoint.config)) for _, severity, image in versions(picture, SEVEN)]
        yield np.array([[s, *(score(t, checkpoint.params, checkpoint.config, row) for row in rows)] for s, t in seen])
        print(one.name, file=sys.stderr)


def costs(rated: Sequence[np.ndarray], rows: Sequence[Ablated], resamples: int = 1000) -> list[tuple[float, ...]]:
    """For every row (correlation, cost, low, high), from the arrays of `rate`."""

    def correlations(pictures: Sequence[np.ndarray]) -> np.ndarray:
        severity, *scores = np.concatenate(pictures).T
        return np.array([order(severity.tolist(), values.tolist()) for values in scores])

    whole, rng = correlations(rated), np.random.default_rng(0)
    drawn = np.array(
        [correlations([rated[i] for i in rng.integers(len(rated), size=len(rated))]) for _ in range(resamples)]
    )
    low, high = np.quantile(drawn - drawn[:, :1], [0.025, 0.975], axis=0)
    return [(whole[i], whole[i] - whole[0], low[i], high[i]) for i in range(len(rows))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="+", help="files or folders")
    parser.add_argument("--checkpoint", default="demo")
    args = parser.parse_args()
    checkpoint = mq.load_checkpoint(args.checkpoint)
    rows = ablations(checkpoint.config)
    rated = list(rate(load_photographs(args.photographs), checkpoint, rows))
    if not rated:
        sys.exit(f"no photograph has a shorter side of {SIDE} pixels or more; name larger ones")
    print(f"{len(rated)} photographs, shorter side {SIDE}, {sum(map(len, rated))} images, checkpoint {args.checkpoint}")
    print(f"{'without':<20} {'SRCC':>6}  {'cost':>6}  95 % of the costs")
    for row, (correlation, cost, low, high) in zip(rows, costs(rated, rows), strict=True):
        print(f"{row.name:<20} {correlation:6.2f}  {cost:6.2f}  {low:5.2f} … {high:.2f}")


if __name__ == "__main__":
    main()
