"""How well a model's scores follow people's on a data set, by the protocol of the paper (SPEC 7), or synthetic ones.

The test part is the published one where there is one, otherwise a seeded fifth of the images. The paper's own figures
for KonIQ-10k and SPAQ are means over ten such splits, for each of which a model was trained.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.metrics import METRICS, evaluate, srcc
from musiq_ref.pictures.distortions import DISTORTIONS
from musiq_ref.pictures.synthetic import SyntheticExample
from musiq_ref.scorers import Score
from musiq_ref.training.datasets import Dataset, Example, shrink, split


class Published(NamedTuple):
    """A published result: data set, test protocol, SRCC, PLCC, where it is printed."""

    dataset: str
    protocol: str
    srcc: float
    plcc: float
    source: str


ALL = "all images"
PAPER = "Ke et al. 2021"
PYIQA = "pyiqa, tests/NR_benchmark_results.csv, commit 0d00073"
PUBLISHED = (
    Published("koniq", "mean of 10 random splits", 0.916, 0.928, f"{PAPER}, appendix table 6"),
    Published("koniq", "fixed split", 0.924, 0.937, f"{PAPER}, appendix table 7"),
    Published("koniq", "musiq-koniq, fixed split, images of 512×384", 0.8654, 0.8958, PYIQA),
    Published("spaq", "mean of 10 random splits, shorter side 512", 0.917, 0.921, f"{PAPER}, appendix table 8"),
    Published("spaq", "mean of 10 random splits, full size", 0.916, 0.919, f"{PAPER}, appendix table 8"),
    Published("spaq", "musiq-koniq, all images, shorter side 448", 0.8676, 0.8626, PYIQA),
    Published("ava", "published test part", 0.726, 0.738, PAPER),
)


class Rated(NamedTuple):
    """One image with what people and the model say.

    name: of the image
    target: people's score, of votes 1 … C their mean
    score: the model's, nan if there is none
    error: why there is none
    image: to show it, a path or an array, or None
    """

    name: str
    target: float
    score: float
    error: str
    image: Path | np.ndarray | None


class Selection(NamedTuple):
    """Which images to test with.

    what: in words
    positions: of the examples; several tuples where metrics are means over several
    """

    what: str
    positions: tuple[tuple[int, ...], ...]


def choose_parts(dataset: Dataset, splits: int = 0, index: int | None = None, everything: bool = False) -> Selection:
    """Which images to test with: the published test part, or the random split `index` (0 where nothing is published).

    splits: instead, the test parts of as many random splits (10 in the paper)
    everything: instead, all images

    >>> examples = tuple(Example(Path(f"{i}.jpg"), (50.0,), f"{i}.jpg") for i in range(10))
    >>> choose_parts(Dataset("ten", examples, 1, (0, 100), None, ()))
    Selection(what='test part of random split 0', positions=((3, 5),))
    """
    if everything:
        return Selection(ALL, (tuple(range(len(dataset.examples))),))
    if splits:
        parts = tuple(split(dataset, index=i).test for i in range(splits))
        return Selection(f"mean over the test parts of {splits} random splits", parts)
    published = dataset.published
    if published and index is None and (published.test or published.validation):
        name = "test" if published.test else "validation"
        return Selection(f"published {name} part", (published.test or published.validation,))
    return Selection(f"test part of random split {index or 0}", (split(dataset, index=index or 0).test,))


def rate(
    scores: Callable[[list[Any], Callable[[np.ndarray], np.ndarray]], Iterable[tuple[int, Score | Exception]]],
    examples: Iterable[Example],
    side: int = 0,
) -> list[Rated]:
    """Scores images; what cannot be read or scored becomes a Rated with an error.

    scores: gives (position, Score or exception) for images and a function of their pixels, as `Scorer.map` takes them,
        in any order
    side: see `shrink`

    >>> from musiq_ref.scoring import scorer
    >>> grey = Example(np.full((8, 8, 3), 9, np.uint8), (0.5, 0.0, 0.5), "grey")
    >>> [one] = rate(lambda images, prepare: enumerate(scorer("demo").map(images, prepare=prepare)), [grey])
    >>> one.target, one.error
    (2.0, '')
    """
    examples = list(examples)
    results = dict(scores([example.image for example in examples], partial(shrink, side=side)))
    rated = []
    for i, example in enumerate(examples):
        votes, result, score, error = example.target, results[i], float("nan"), ""
        target = votes[0] if len(votes) == 1 else sum(k * share for k, share in enumerate(votes, start=1))
        name = str(example.image) if isinstance(example.image, Path) else example.group
        if isinstance(result, Exception):
            error = str(result) if name in str(result) else f"{name}: {result}"
        else:
            score = float(result.value)
            error = "" if math.isfinite(score) else f"{name}: its score is {score}; check the checkpoint"
        rated.append(Rated(name, target, score, error, example.image))
    return rated


def summarize(parts: Sequence[Sequence[Rated]], resamples: int = 1000) -> dict[str, dict[str, float]]:
    """SRCC, PLCC, KRCC and RMSE of one test part with 95 % bootstrap intervals, or their mean over several.

    Returns {"srcc": {"value": …, "low": …, "high": …}, …}, of several parts {"srcc": {"value": …, "deviation": …}, …}
    with the standard deviation over the parts.  Raises ValueError if a metric has no value.

    >>> rated = [Rated(str(i), i, i**2, "", None) for i in range(5)]
    >>> summarize([rated, rated[1:]])["srcc"]
    {'value': 1.0, 'deviation': ...}
    """
    pairs = [([r.score for r in part if not r.error], [r.target for r in part if not r.error]) for part in parts]
    if len(pairs) == 1:
        return evaluate(*pairs[0], resamples=resamples)
    result = {}
    for name, metric in METRICS.items():
        values = [metric(*pair) for pair in pairs]
        result[name] = {"value": statistics.fmean(values), "deviation": statistics.stdev(values)}
    return result


class SyntheticResult(NamedTuple):
    """What `rate_synthetic` finds.

    rated: all images
    order: of every distortion, the median over the pictures of Spearman's correlation between score and severity, the
        sign such that 1 is best
    pristine_best: share of (picture, distortion) in which the untouched picture scores above all its distorted
        versions
    kinds: {"photographs" or "scenes": {"srcc", "pristine_best"}}, the same for each kind of picture by itself
    """

    rated: list[Rated]
    order: dict[str, float]
    pristine_best: float
    kinds: dict[str, dict[str, float]]


def rate_synthetic(score_one: Callable[[Any], Any], examples: Iterable[SyntheticExample]) -> SyntheticResult:
    """Scores `synthetic.held_out_examples`. Scores that are equal at all severities count as correlation 0.

    >>> from types import SimpleNamespace
    >>> from musiq_ref.pictures.synthetic import held_out_examples
    >>> examples = held_out_examples(size=64, crops=1, scenes=0, severities=(0.5, 1.0), mixtures=0)
    >>> result = rate_synthetic(lambda pixels: SimpleNamespace(value=pixels.mean()), examples)
    >>> len(result.rated) == 1 + 2 * len(result.order)
    True
    """
    rated, scores, kinds = [], {}, {}
    for example in examples:
        value = float(score_one(example.image).value)
        kinds.setdefault(_kind(example.source), []).append((value, example.score))
        scores.setdefault(example.source, {}).setdefault(example.distortion, []).append((1 - example.severity, value))
        name = f"{example.source}, {example.distortion} {example.severity:.2f}"
        rated.append(Rated(name, example.score, value, "", example.image))
    order: dict[str, list[float]] = {}
    wins = {kind: [] for kind in kinds}
    for source, by_distortion in scores.items():
        [(_, untouched)] = by_distortion["pristine"]
        for distortion in [name for name in by_distortion if name in DISTORTIONS]:  # without mixtures
            quality, values = zip(*by_distortion[distortion], strict=True)
            order.setdefault(distortion, []).append(_order(values, quality))
            wins[_kind(source)].append(untouched > max(values))
    medians = {distortion: statistics.median(values) for distortion, values in order.items()}
    by_kind = {
        kind: {"srcc": _order(*zip(*pairs, strict=True)), "pristine_best": statistics.fmean(wins[kind])}
        for kind, pairs in kinds.items()
    }
    return SyntheticResult(rated, medians, statistics.fmean(chain(*wins.values())), by_kind)


def _kind(source: str) -> str:
    return "scenes" if source.startswith("scene ") else "photographs"


def _order(values: Sequence[float], quality: Sequence[float]) -> float:
    return 0.0 if len(set(values)) == 1 else srcc(values, quality)


def worst(rated: Sequence[Rated], count: int = 12) -> list[Rated]:
    """The images whose ranks by the model and by people lie furthest apart, worst first.

    Ranks, not scores: a model need not use the scale of the data set.

    >>> [one.name for one in worst([Rated(str(i), i, (i + 3) % 5, "", None) for i in range(5)], 2)]
    ['0', '1']
    """
    known = [one for one in rated if not one.error]
    ranks = [np.argsort(np.argsort([getattr(one, what) for one in known])) for what in ("score", "target")]
    apart = np.abs(ranks[0] - ranks[1])
    return [known[i] for i in np.argsort(-apart, kind="stable")[:count]]
