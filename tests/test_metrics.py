"""Metrics against their definitions, and bootstrap intervals against theory; no silent nan."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from musiq_ref.metrics import METRICS, bootstrap_interval, evaluate, krcc, plcc, rmse, srcc

X = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
Y = np.array([2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0])


def pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x @ y) / math.sqrt((x @ x) * (y @ y))


def ranks(x):
    """1 + the number of smaller values + half the number of equal others."""
    return np.array([1 + (x < a).sum() + ((x == a).sum() - 1) / 2 for a in x])


def kendall(x, y):
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]
    return sum(a * b for a, b in signs) / math.sqrt(sum(a * a for a, _ in signs) * sum(b * b for _, b in signs))


def test_against_the_definitions_with_ties():
    assert plcc(X, Y) == pytest.approx(pearson(X, Y), rel=1e-12)
    assert srcc(X, Y) == pytest.approx(pearson(ranks(X), ranks(Y)), rel=1e-12)
    assert krcc(X, Y) == pytest.approx(kendall(X, Y), rel=1e-12)
    assert rmse(X, Y) == pytest.approx(math.sqrt((1 + 36 + 9 + 49 + 9 + 1 + 1) / 7), rel=1e-12)


def test_hand_computed():
    assert srcc([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(1 - 6 * 2 / (4 * 15))  # no ties: 1 − 6Σd²/(n(n² − 1))
    assert krcc([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx((5 - 1) / 6)
    assert plcc([0, 1, 2], [0, 0, 3]) == pytest.approx(3 / math.sqrt(2 * 6))
    assert rmse([1], [3]) == 2


def test_what_does_and_does_not_change_them(rng):
    x, y = rng.normal(size=50), rng.normal(size=50)
    for metric in (srcc, krcc):
        assert metric(np.exp(x), y**3) == pytest.approx(metric(x, y), rel=1e-12)
    assert plcc(5 * x - 3, y) == pytest.approx(plcc(x, y), rel=1e-12)
    assert abs(plcc(np.exp(x), y) - plcc(x, y)) > 1e-3
    for metric in METRICS.values():
        assert metric(x, y) == pytest.approx(metric(y, x), rel=1e-12)
        assert type(metric(x.astype("f4"), list(y))) is float


BAD = {
    "constant predictions": (
        [2, 2, 2],
        [1, 2, 3],
        "all 3 predictions are 2; scores that are equal have no",
    ),
    "constant targets": ([1, 2, 3], [0.5, 0.5, 0.5], "all 3 targets are 0.5"),
    "too short": ([1], [1], "the number of scores is 1; this metric needs at least 2"),
    "nothing": ([], [], "the number of scores is 0"),
    "nan": ([1, math.nan, 3], [1, 2, 3], "the prediction of image 1 is nan; it must be finite"),
    "inf": ([1, 2, 3], [1, 2, math.inf], "the target of image 2 is inf"),
    "lengths": ([1, 2, 3], [1, 2], r"predictions have shape \(3,\) and the targets \(2,\)"),
    "texts": (["1", "2", "3"], [1, 2, 3], "the predictions are of type <U1; pass a list of real numbers"),
    "none": ([1, 2, 3], [1, None, 3], "the targets are of type object; pass a list of real numbers"),
    "complex": (np.array([1, 2, 3j]), [1, 2, 3], "the predictions are of type complex128"),
    "ragged": ([[1], [2, 3]], [1, 2], "the predictions are no array of numbers"),
    "too large": ([1, 2, 10**400], [1, 2, 3], "no array of numbers, or one of them is too large"),
    "masked": (np.ma.array([1, 2, 3], mask=[0, 1, 0]), [1, 2, 3], "some of the predictions are masked"),
    "no list": ({1, 2}, [1, 2], "the predictions are of type object"),
    "columns": (np.ones((3, 1)), np.ones((3, 1)), r"shape \(3, 1\).*must be the same \(n,\)"),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_gets_one_clear_sentence(name, bad):
    x, y, message = BAD[bad]
    if name == "rmse" and bad in ("constant predictions", "constant targets", "too short"):
        assert math.isfinite(rmse(x, y))
        return
    for call in (METRICS[name], lambda x, y: bootstrap_interval(METRICS[name], x, y, resamples=5)):
        with pytest.raises(ValueError, match=message) as error:
            call(x, y)
        assert "\n" not in str(error.value)


def test_two_scores_have_every_metric():
    assert evaluate([1, 2], [1, 3], resamples=5)["krcc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert [metric([1, 2], [3, 1]) for metric in (srcc, plcc, krcc)] == pytest.approx([-1, -1, -1])


def test_numbers_of_any_kind_are_numbers():
    x = [Fraction(1, 2), 2**70, Decimal(3)]
    assert srcc(x, np.array([1, 3, 2], np.uint8)) == srcc([0.5, 2.0**70, 3.0], [1, 3, 2])


def test_what_overflows_has_no_rmse_and_gives_no_warning():
    huge, opposite = [1e308, -1e308, 3], [-1e308, 1e308, 1]
    assert plcc(huge, opposite) == pytest.approx(-1)
    with pytest.raises(ValueError, match="the error of these 3 scores is inf; they are too large or too close"):
        rmse(huge, opposite)


def test_scores_that_differ_only_by_rounding_have_ranks_but_no_linear_correlation():
    x = 1e6 + np.array([0, 1, 2]) * 2.0**-33  # one unit in the last place apart
    assert srcc(x, [1, 2, 3]) == pytest.approx(1)
    with pytest.raises(ValueError, match="differ only by rounding"):
        plcc(x, [1, 2, 3])


def test_interval_is_reproducible_and_brackets_the_value(rng):
    x = rng.normal(size=60)
    y = x + rng.normal(size=60)
    for metric in METRICS.values():
        low, high = bootstrap_interval(metric, x, y, resamples=200)
        assert low < metric(x, y) < high
        assert (low, high) == bootstrap_interval(metric, x, y, resamples=200)
        assert (low, high) != bootstrap_interval(metric, x, y, resamples=200, seed=1)
        narrow = bootstrap_interval(metric, x, y, resamples=200, confidence=0.5)
        assert low < narrow[0] < narrow[1] < high


def test_interval_has_the_width_that_theory_gives(rng):
    x = rng.normal(size=400)
    y = 0.8 * x + 0.6 * rng.normal(size=400)  # correlation 0.8
    low, high = bootstrap_interval(plcc, x, y, resamples=400)
    half = 1.96 / math.sqrt(400 - 3)  # Fisher: artanh of the correlation has this standard error
    assert math.atanh(high) - math.atanh(low) == pytest.approx(2 * half, rel=0.25)


def test_an_interval_has_a_thousand_resamples_unless_asked():
    drawn = []
    bootstrap_interval(lambda x, y: drawn.append(x) or 0.0, X, Y)
    assert len(drawn) == 1 + 1000


def test_interval_is_the_middle_of_the_resampled_values():
    seen = []

    def noted(x, y):
        seen.append(rmse(x, y))
        return seen[-1]

    low, high = bootstrap_interval(noted, X, Y, resamples=300, confidence=0.8)
    resampled = np.array(seen[1:])  # the first is the whole sample's
    assert len(resampled) == 300
    assert (low, high) == pytest.approx((np.quantile(resampled, 0.1), np.quantile(resampled, 0.9)), rel=1e-12)


def test_interval_agrees_with_scipys_percentile_bootstrap(rng):
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    theirs = scipy.stats.bootstrap(
        (x, y),
        plcc,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        random_state=np.random.default_rng(5),
    ).confidence_interval
    ours = bootstrap_interval(plcc, x, y)
    assert ours == pytest.approx(tuple(theirs), abs=0.03)


def test_pairs_are_drawn_together():
    x = np.arange(20.0)
    assert bootstrap_interval(plcc, x, 3 * x, resamples=50) == pytest.approx((1, 1))
    assert bootstrap_interval(rmse, x, x + 2, resamples=50) == (2, 2)


def test_degenerate_resamples_are_drawn_again():
    low, high = bootstrap_interval(plcc, [1, 2], [3, 5], resamples=40)  # every other draw is one image twice
    assert (low, high) == (pytest.approx(1), pytest.approx(1))


def test_a_metric_without_values_is_reported():
    def only_as_a_whole(x, y):
        if len(set(x)) < 30:
            raise ValueError("too few different scores")
        return 1.0

    with pytest.raises(ValueError, match=r"only 0 of 200 resamples of these 30 scores have a value"):
        bootstrap_interval(only_as_a_whole, range(30), range(30), resamples=2)


@pytest.mark.parametrize("options", [{"confidence": 0}, {"confidence": 95}, {"resamples": 0}])
def test_bad_options_of_the_interval(options):
    with pytest.raises(ValueError, match=r"confidence is|number of resamples is"):
        bootstrap_interval(rmse, X, Y, **options)


def test_evaluate_is_all_metrics_with_their_intervals():
    result = evaluate(X, Y, resamples=30, seed=4, confidence=0.9)
    assert list(result) == ["srcc", "plcc", "krcc", "rmse"]
    for name, metric in METRICS.items():
        low, high = bootstrap_interval(metric, X, Y, resamples=30, seed=4, confidence=0.9)
        assert result[name] == {"value": metric(X, Y), "low": low, "high": high}
