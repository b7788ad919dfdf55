"""How well predicted scores follow people's: correlations and error, each with a bootstrap interval (SPEC 7).

Published results are SRCC and PLCC without a logistic fit. All functions take two NumPy arrays (n,) or sequences of
numbers and return Python floats; what has no answer (scores that are all equal, too few, or not finite) raises
ValueError in one sentence instead of returning nan.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np


def srcc(predictions, targets) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal scores sharing the mean of their ranks.

    >>> round(srcc([1, 2, 3, 4], [1, 10, 10, 1000]), 4)
    0.9487
    """
    return _correlation("spearmanr", predictions, targets)


def plcc(predictions, targets) -> float:
    """Pearson's linear correlation Σ(x − x̄)(y − ȳ) / √(Σ(x − x̄)²·Σ(y − ȳ)²), without a logistic fit.

    >>> round(plcc([1, 2, 3], [2, 4, 7]), 4)
    0.9934
    """
    return _correlation("pearsonr", predictions, targets)


def krcc(predictions, targets) -> float:
    """Kendall's rank correlation τ_b: (concordant − discordant pairs) / √(pairs untied in x · pairs untied in y).

    >>> round(krcc([1, 2, 3, 4], [1, 3, 2, 4]), 4)
    0.6667
    """
    return _correlation("kendalltau", predictions, targets)


def rmse(predictions, targets) -> float:
    """Root of the mean squared error √(Σ(x − y)²/n); it needs one pair of scores, and they may be equal.

    >>> rmse([1, 5], [2, 4])
    1.0
    """
    x, y = _pair(predictions, targets, least=1)
    with np.errstate(over="ignore"):
        value = float(np.sqrt(np.mean((x - y) ** 2)))
    return _finite(value, "error", len(x))


METRICS: dict[str, Callable[..., float]] = {"srcc": srcc, "plcc": plcc, "krcc": krcc, "rmse": rmse}


def bootstrap_interval(
    metric: Callable[[Any, Any], float],
    predictions,
    targets,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap: the metric of images drawn with replacement, `resamples` times; the middle `confidence`.

    A prediction and its target are drawn together. A draw for which the metric raises ValueError (a correlation of
    scores that happen to be all equal) is drawn again; if hardly any draw has a value, ValueError says so.

    >>> low, high = bootstrap_interval(plcc, [1, 2, 3, 4, 5], [1, 2, 4, 4, 6])
    >>> round(low, 2), round(high, 2)
    (0.8, 1.0)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence is {confidence}; it must lie between 0 and 1, as 0.95 does")
    if resamples < 1:
        raise ValueError(f"the number of resamples is {resamples}; it must be at least 1")
    x, y = _pair(predictions, targets, least=1)
    metric(x, y)  # what has no value as a whole has none resampled
    rng, values = np.random.default_rng(seed), []
    for _ in range(100 * resamples):
        drawn = rng.integers(len(x), size=len(x))
        try:
            values.append(metric(x[drawn], y[drawn]))
        except ValueError:
            continue
        if len(values) == resamples:
            break
    else:
        raise ValueError(f"only {len(values)} of {100 * resamples} resamples of these {len(x)} scores have a value")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def evaluate(
    predictions, targets, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Every metric with its bootstrap interval: {"srcc": {"value": …, "low": …, "high": …}, "plcc": …, …}.

    The same images are drawn for every metric.

    >>> result = evaluate([1, 2, 3, 4], [1, 2, 4, 3], resamples=50)
    >>> list(result), round(result["srcc"]["value"], 6)
    (['srcc', 'plcc', 'krcc', 'rmse'], 0.8)
    """
    result = {}
    for name, metric in METRICS.items():
        value = metric(predictions, targets)
        low, high = bootstrap_interval(
            metric, predictions, targets, confidence=confidence, resamples=resamples, seed=seed
        )
        result[name] = {"value": value, "low": low, "high": high}
    return result


def _pair(predictions, targets, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (n,), checked."""
    pair = _numbers("predictions", predictions), _numbers("targets", targets)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
        raise ValueError(
            f"the predictions have shape {pair[0].shape} and the targets {pair[1].shape}; both must be the same (n,)"
        )
    if len(pair[0]) < least:
        raise ValueError(f"the number of scores is {len(pair[0])}; this metric needs at least {least}")
    for what, x in zip(("prediction", "target"), pair, strict=True):
        if not np.isfinite(x).all():
            i = int(np.argmin(np.isfinite(x)))
            raise ValueError(f"the {what} of image {i} is {x[i]}; it must be finite")
    return pair


def _numbers(what: str, values) -> np.ndarray:
    """As float64; what NumPy would make numbers of, such as texts, None and complex numbers, is refused."""
    if np.ma.is_masked(values):
        raise ValueError(f"some of the {what} are masked; leave out these images")
    try:
        array = np.asarray(values)
        if array.dtype.kind in "biuf" or all(isinstance(value, Real | Decimal) for value in array.flat):
            return array.astype(np.float64)
        kind = f"of type {array.dtype}"
    except (TypeError, ValueError, OverflowError, RuntimeError):
        kind = "no array of numbers, or one of them is too large"
    raise ValueError(f"the {what} are {kind}; pass a list of real numbers")


def _correlation(name: str, predictions, targets) -> float:
    """The statistic of scipy.stats of that name."""
    import scipy.stats  # half the time that the command line takes to start, so only where it is used

    x, y = _pair(predictions, targets, least=2)
    for what, scores in (("predictions", x), ("targets", y)):
        if (scores == scores[0]).all():
            raise ValueError(f"all {len(scores)} {what} are {scores[0]:.6g}; scores that are equal have no correlation")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error", scipy.stats.NearConstantInputWarning)
        try:
            value = float(getattr(scipy.stats, name)(x, y).statistic)
        except scipy.stats.NearConstantInputWarning:
            raise ValueError("the predictions or the targets differ only by rounding; rescale them first") from None
    return _finite(value, "correlation", len(x))


def _finite(value: float, what: str, count: int) -> float:
    if not np.isfinite(value):
        raise ValueError(f"the {what} of these {count} scores is {value}; they are too large or too close")
    return value
