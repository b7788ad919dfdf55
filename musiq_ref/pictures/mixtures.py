"""Two distortions one after the other, as pictures meet them on their way: out of focus, then compressed."""

from __future__ import annotations

import numpy as np

from musiq_ref.pictures.distortions import KINDS


def mixture_parts(severity: float, rng: np.random.Generator) -> tuple[tuple[str, float], tuple[str, float]]:
    """Two distortions of different kinds, as (name, severity), that together have the given severity.

    Together means 1 − (1 − s₁)(1 − s₂) = s: what the first leaves of the quality, the second reduces in proportion.
    They are in the order of DISTORTIONS.  Raises ValueError for a severity outside [0, 1].

    >>> (name1, s1), (name2, s2) = mixture_parts(0.75, np.random.default_rng(0))
    >>> name1 != name2, round(1 - (1 - s1) * (1 - s2), 12)
    (True, 0.75)
    """
    if not 0 <= severity <= 1:
        raise ValueError(f"mixture got severity {severity}; it goes from 0 (untouched) to 1")
    kinds = [KINDS[kind] for kind in sorted(rng.choice(len(KINDS), 2, replace=False))]
    names = [kind[rng.integers(len(kind))].__name__ for kind in kinds]
    share = rng.uniform(0.25, 0.75)
    return (names[0], 1 - (1 - severity) ** share), (names[1], 1 - (1 - severity) ** (1 - share))
