"""What any array of wrong numbers can have in common with the right one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def patterns(expected: np.ndarray, actual: np.ndarray, relatives: dict[str, Any]) -> Iterator[str]:
    """What the wrong numbers have in common with the right ones, the most telling first.

    relatives: other arrays of the same check, by name

    >>> next(patterns(np.array([1.0, 2.0]), np.array([-1.0, -2.0]), {}))
    'the sign is turned everywhere'
    """
    if not np.isfinite(actual).all():
        yield "there are values that are not finite; look for exp of large numbers and for divisions by 0"
        return
    if not actual.any():
        yield "it is zero everywhere"
        return
    for name, other in relatives.items():
        if np.shape(other) == actual.shape and _close(actual, np.asarray(other)):
            yield f"it equals {name}: a mix-up"
    ratio = (expected * actual).sum() / max((expected * expected).sum(), 1e-300)
    if ratio and _close(actual, ratio * expected):
        if abs(ratio + 1) < 1e-6:
            yield "the sign is turned everywhere"
        else:
            yield f"it is {ratio:.6g} times what it should be, everywhere"
    if actual.ndim > 1:
        for a in range(actual.ndim - 1):
            if expected.shape[a] == expected.shape[-1] and _close(actual, expected.swapaxes(a, -1)):
                yield f"axes {a} and {actual.ndim - 1} are exchanged"
    for axis in range(actual.ndim):
        if actual.shape[axis] > 1 and _close(actual, np.flip(expected, axis)):
            yield f"axis {axis} is in reverse order"
    right = np.isclose(actual, expected, rtol=1e-6, atol=1e-12 + 1e-9 * float(np.abs(expected).max()))
    if right.any() and not right.all():
        for axis, n in enumerate(actual.shape):
            wrong = np.flatnonzero(~right.all(axis=tuple(a for a in range(actual.ndim) if a != axis)))
            if len(wrong) < n:
                yield f"only indices {wrong.tolist()} of axis {axis} (of {n}) have wrong values"
                return
        yield f"{(~right).sum()} of {right.size} values are wrong"


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, rtol=1e-7, atol=1e-9 * float(np.abs(b).max(initial=0))))
