"""Learning-rate schedules: pure functions from a step, 0 … total − 1, to a factor of the base learning rate.

All start with a linear warm-up over `warmup` steps: the factor (step + 1)/(warmup + 1) leads from above 0 at step 0
to 1 at step `warmup`. SPEC 7 trains with cosine decay; the authors' warm-up is published nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def constant(step: int, total: int, warmup: int = 0) -> float:
    """Warm-up, then 1.

    >>> [constant(step, 10, warmup=3) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    _check(step, total, warmup)
    return _warm(step, warmup)


def cosine(step: int, total: int, warmup: int = 0, *, final: float = 0.0) -> float:
    """Warm-up, then half a cosine: f + (1 − f)·(1 + cos π·t)/2,  t = (step − warmup)/(total − warmup), f = final.

    >>> [round(cosine(step, 4), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    _check(step, total, warmup)
    if step < warmup:
        return _warm(step, warmup)
    t = min((step - warmup) / (total - warmup), 1)  # training on beyond the end keeps the final factor
    return final + (1 - final) * (1 + math.cos(math.pi * t)) / 2


def steps(
    step: int, total: int, warmup: int = 0, *, milestones: Sequence[float] = (0.5, 0.75), factor: float = 0.1
) -> float:
    """Warm-up, then 1, multiplied by `factor` at each milestone, a fraction of the total number of steps.

    >>> [round(steps(step, 4), 3) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    """
    _check(step, total, warmup)
    if not all(0 <= m <= 1 for m in milestones):
        raise ValueError(f"the milestones are {tuple(milestones)}; each must be a fraction of the steps, from 0 to 1")
    return _warm(step, warmup) * factor ** sum(step >= m * total for m in milestones)


SCHEDULES = {"constant": constant, "cosine": cosine, "steps": steps}


def _warm(step: int, warmup: int) -> float:
    return min((step + 1) / (warmup + 1), 1.0)


def _check(step: int, total: int, warmup: int) -> None:
    if step < 0:
        raise ValueError(f"the step is {step}; steps are counted from 0")
    if not 0 <= warmup < total:
        raise ValueError(f"{warmup} steps of warm-up do not fit into a training of {total} steps")
