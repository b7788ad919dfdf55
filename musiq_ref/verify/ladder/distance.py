"""How far two arrays are apart: the two numbers that tolerances are written for, and those that people ask for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

MEDIAN_OF = 10_000  # values that a median is taken of


class Distance(NamedTuple):
    """How far two arrays are apart.

    bulk: median error over median size, of the places that are not 0: blind to the few places where rounding lets a
        ReLU decide otherwise
    norm: length of the error over length of the reference, which also sees a few large errors
    rms: of the error
    max: its largest absolute value
    at: flat index of that
    cosine: of the angle between the two
    gain: by which part of the reference mine is longer along it, which random errors hardly move

    >>> d = distance(np.array([1.0, 2.0]), np.array([1.0, 2.2]))
    >>> d.at, round(d.max, 3), round(d.norm, 3)
    (1, 0.2, 0.089)
    """

    bulk: float
    norm: float
    rms: float
    max: float
    at: int
    cosine: float
    gain: float = 0.0


def distance(reference: Any, mine: Any, valid: np.ndarray | None = None) -> Distance:
    """The distance of two arrays of one shape at the valid places (all by default).

    A value of mine that is not finite makes every number infinite.

    >>> distance(np.ones(3), np.ones(3)).bulk
    0.0
    """
    r, m = np.asarray(reference, np.float64).ravel(), np.asarray(mine, np.float64).ravel()
    places = None if valid is None else np.flatnonzero(np.broadcast_to(valid, np.shape(reference)))
    if places is not None:
        r, m = r[places], m[places]
    if not r.size:
        return Distance(0, 0, 0, 0, 0, 1)
    if not np.isfinite(m).all():
        at = int(np.flatnonzero(~np.isfinite(m))[0] if places is None else places[np.flatnonzero(~np.isfinite(m))[0]])
        return Distance(np.inf, np.inf, np.inf, np.inf, at, 0, np.inf)
    error, size = np.abs(m - r), np.abs(r)
    used = np.flatnonzero((r != 0) | (m != 0))
    some = used[:: 1 + used.size // MEDIAN_OF]
    typical, bulk = (float(np.median(a[some])) if some.size else 0.0 for a in (size, error))
    length, other, off = (float(np.sqrt((a * a).sum())) for a in (r, m, error))  # not a @ a: its threads cost more
    worst, along = int(error.argmax()), (r * m).sum()
    return Distance(
        _ratio(bulk, typical),
        _ratio(off, length),
        off / np.sqrt(r.size),
        float(error[worst]),
        worst if places is None else int(places[worst]),
        float(along / (length * other)) if length and other else float(length == other),
        float(along / length**2 - 1) if length else 0.0,
    )


def ulps(reference: np.ndarray, mine: np.ndarray) -> float:
    """The median error in units of the last place of float32, of the places that are not 0.

    >>> ulps(np.ones(3), np.ones(3) + 2**-22)
    2.0
    """
    r, m = np.asarray(reference, np.float64).ravel(), np.asarray(mine, np.float64).ravel()
    used = r != 0
    unit = np.spacing(np.maximum(np.abs(r[used]), 1e-30).astype(np.float32))
    return float(np.median(np.abs(m[used] - r[used]) / unit)) if used.any() else 0.0


def _ratio(a: float, b: float) -> float:
    return a / b if b else (0.0 if a == 0 else np.inf)
