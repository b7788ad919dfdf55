"""Shrinking: a smaller input on which a pair fails in the same way, sizes first, then values.

The search is our own and not Hypothesis's. It needs no extra package, finds the same counterexample every time, can
draw thousands of parameters from one seed, keeps axes of different lengths while it searches, and shrinks sizes before
values, so that what is left can be checked with a pencil.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from musiq_ref.model.parameters import flatten, nest
from musiq_ref.verify.check.catalogue import Op
from musiq_ref.verify.check.checker import Checker, Failure, Trial

EFFORT = 1500  # inputs that are tried
SINGLY = 48  # values up to which an array's are simplified one by one


def shrink(checker: Checker, trial: Trial, failure: Failure, seed: int, fixed: dict[str, Any]) -> Trial:
    """A smaller input with the same failure: sizes first, then values."""
    left = [EFFORT]

    def still(candidate: Callable[[], Trial]) -> Trial | None:
        left[0] -= 1
        if left[0] < 0:
            return None
        try:
            smaller = candidate()
            found = checker.failure(smaller)
        except Exception:  # the library refuses such an input
            return None
        return smaller if found and (found.what, found.kind) == (failure.what, failure.kind) else None

    changed = True
    while changed:
        changed = False
        for name, value in smaller_sizes(checker.entry, trial.sizes, fixed):
            sizes = {**trial.sizes, name: value}
            smaller = still(lambda sizes=sizes: checker.trial(sizes, seed))
            if smaller:
                trial, changed = smaller, True
                break
    for candidates in simpler_values(trial, checker.entry.corners):
        found = (still(lambda f=f, t=trial: f(t)) for f in candidates)
        trial = next((smaller for smaller in found if smaller), trial)
    return trial


def smaller_sizes(entry: Op, sizes: dict[str, Any], fixed: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Single steps towards smaller: an axis to its minimum, half way or by one; an option to an earlier value."""
    for name, (low, _) in entry.axes.items():
        value = sizes[name]
        if name not in fixed:
            yield from ((name, v) for v in dict.fromkeys((low, (low + value) // 2, value - 1)) if low <= v < value)
    for name, values in entry.options.items():
        if name not in fixed:
            yield from ((name, v) for v in values[: values.index(sizes[name])])


def simpler_values(trial: Trial, corners: bool) -> Iterator[list[Callable[[Trial], Trial]]]:
    """For each array, then for each element, the steps towards numbers that are easy to work with, the best first."""
    simplifications = [lambda a: np.round(a, 1)]
    if not corners:  # at a corner, the wrong answer would be another one
        simplifications = [np.zeros_like, np.ones_like, lambda a: -np.ones_like(a), np.rint, *simplifications]
    places = [(i, path) for i, x in enumerate([*trial.inputs, trial.cotangent]) for path, a in _leaves(x)]
    sizes = [a.size for x in [*trial.inputs, trial.cotangent] for _, a in _leaves(x)]
    for place in places:
        yield [lambda t, place=place, simplify=simplify: _changed(t, place, simplify) for simplify in simplifications]
    for place, size in zip(places, sizes, strict=True):
        for k in range(size if size <= SINGLY else 0):
            steps = [_at(k, simplify) for simplify in simplifications]
            yield [lambda t, place=place, step=step: _changed(t, place, step) for step in steps]


def _at(k: int, f: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """f applied to element k alone."""

    def one(a: np.ndarray) -> np.ndarray:
        flat = a.ravel().copy()
        flat[k : k + 1] = f(flat[k : k + 1])
        return flat.reshape(a.shape)

    return one


def _leaves(x: Any) -> list[tuple[str, np.ndarray]]:
    if isinstance(x, dict):
        return [(path, a) for path, a in flatten(x) if a.dtype.kind == "f"]
    return [("", np.asarray(x))] if isinstance(x, np.ndarray | np.floating) and x.dtype.kind == "f" else []


def _changed(trial: Trial, place: tuple[int, str], f: Callable[[np.ndarray], np.ndarray]) -> Trial:
    """The trial with one of its arrays passed through f."""
    i, path = place
    values = [*trial.inputs, trial.cotangent]
    if isinstance(values[i], dict):
        leaves = dict(flatten(values[i]))
        leaves[path] = f(leaves[path])
        values[i] = nest(leaves)
    else:
        values[i] = f(np.asarray(values[i]))[()]
    return Trial(trial.sizes, values[:-1], values[-1])
