"""Weight standardisation, as people get it wrong (SPEC 4)."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np

from musiq_ref.ops.weight_standardization import EPS, standardize
from musiq_ref.verify.mistakes.mistake import Mistake, family

RIGHT = (0, 1, 2)  # rows, columns and input channels of a kernel (row, column, input, output)
LIKELY = ((0, 1), (0, 1, 3), (0, 1, 2, 3), (2,), (2, 3), (0, 2, 3), (1, 2, 3))
SETS = dict.fromkeys([*LIKELY, *(axes for count in (1, 2, 3) for axes in combinations(range(4), count))])


def standardised(eps=EPS, axes=RIGHT, deviation_axes=None, centre=True, divide=True, divisor=None, around=None,
                 averaged=None, wide=False):  # fmt: skip
    """`standardize` with another ε, over other axes, or in part.

    axes, deviation_axes: over which the mean is taken, and the deviation; the same by default
    divisor: (variance, ε) -> what is divided by; √variance + ε by default
    around: over which axes the mean is taken that the deviation is from; the deviation's own by default
    averaged: axes over which the deviations are averaged
    wide: whether kernels of 1 × 1 are standardised rightly
    """

    def rule(kernel, ddof=0):
        if wide and kernel.shape[0] == 1:
            return standardize(kernel, ddof)
        over = deviation_axes or axes
        centred = kernel - kernel.mean(axis=axes, keepdims=True)
        spread = kernel - kernel.mean(axis=around or over, keepdims=True)
        n = math.prod(kernel.shape[a] for a in over)
        variance = (spread * spread).sum(axis=over, keepdims=True) / max(n - ddof, 1)
        by = (divisor or (lambda v, e: np.sqrt(v) + e))(variance, eps)
        by = by if averaged is None else by.mean(axis=averaged, keepdims=True)
        return (centred if centre else kernel) / (by if divide else 1), None

    return rule


def over(axes):
    """Axes in words.

    >>> over((0, 1)), over((0, 1, 3)), over((1, 2))
    ('over rows and columns only', 'per input channel', 'over columns and input channels only')
    """
    known = {RIGHT: "per output channel", (0, 1, 3): "per input channel", (0, 1, 2, 3): "over the whole kernel"}
    words = [("rows", "columns", "input channels", "output channels")[axis] for axis in axes]
    return known.get(axes) or f"over {' and '.join(filter(None, [', '.join(words[:-1]), words[-1]]))} only"


def wrong_axes():
    """{name: how `standardised` is called}: mean and deviation over the same wrong axes, or one of them over others.

    A deviation over other axes than the mean is from its own mean, or from that which was subtracted.
    """
    named: dict[str, dict[str, Any]] = {
        f"weights standardised {over(axes)}": {"axes": axes} for axes in SETS if axes != RIGHT
    }
    for axes in LIKELY:
        for mean, deviation in ((RIGHT, axes), (axes, RIGHT)):
            name = f"weights standardised with the mean {over(mean)}, the deviation {over(deviation)}"
            how = {"axes": mean, "deviation_axes": deviation}
            named |= {name: how, f"{name}, from that mean": {**how, "around": mean}}
    window = {"axes": RIGHT, "deviation_axes": (0, 1)}
    name = f"weights standardised with the deviation {over((0, 1))}"
    named[f"{name}, averaged over input channels"] = {**window, "averaged": 2}
    wide = {
        f"weights standardised {over((0, 1))}": {"axes": (0, 1)}, name: window,
        f"{name}, from the mean per output channel": {**window, "around": RIGHT},
        f"{name}, averaged over input channels": {**window, "averaged": 2},
    }  # fmt: skip
    return named | {f"{name}, where a kernel is wider than 1 × 1": {**how, "wide": True} for name, how in wide.items()}


KERNELS, TOPIC = "stem/*/standardized", "weight std"
REMEDY = "per output channel, subtract the mean, then divide by the standard deviation plus 1e-5"

MISTAKES = [
    Mistake("unbiased std", "divide by n (torch.std and var need correction=0)", "standardize",
            lambda kernel, ddof=0: standardize(kernel, 1), "stem/conv_root/standardized", TOPIC,
            {"weight_std_ddof": 1}),
    Mistake("biased std", "divide by n − 1", "standardize", lambda kernel, ddof=0: standardize(kernel, 0),
            "stem/conv_root/standardized", TOPIC, {"weight_std_ddof": 0}),
    Mistake("no weight standardisation", "standardise every kernel of the stem",
            "standardize", lambda kernel, ddof=0: (kernel, None), KERNELS, TOPIC),
    *family("{}", REMEDY, {
                "kernels centred only": {"divide": False}, "kernels divided by the deviation only": {"centre": False},
                "kernels divided by the variance, not by its root": {"divisor": lambda v, e: v + e},
            }, "standardize", lambda how: standardised(**how), KERNELS, TOPIC),
    *family("weight std {}", "add 1e-5 to the standard deviation", {
                "without ε": 0.0, "with ε 1e-8": 1e-8, "with ε 1e-6": 1e-6, "with ε 1e-4": 1e-4, "with ε 1e-3": 1e-3,
            }, "standardize", standardised, KERNELS, "eps"),
    *family("weight std with ε {} under the root", "add 1e-5 to the standard deviation, not to the variance",
            ("1e-5", "1e-6", "1e-4", "1e-3"), "standardize",
            lambda eps: standardised(float(eps), divisor=lambda v, e: np.sqrt(v + e)), KERNELS, "eps"),
    *family("{}", REMEDY, wrong_axes(), "standardize", lambda how: standardised(**how), KERNELS, TOPIC),
    Mistake("weights standardised twice", "standardise a kernel once", "standardize", lambda kernel, ddof=0: (
            standardize(standardize(kernel, ddof)[0], ddof)), KERNELS, TOPIC),
]  # fmt: skip
