"""What any array of wrong numbers can have in common with the right one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from musiq_ref.verify.mistakes.places import elsewhere
from musiq_ref.verify.mistakes.pointwise import Look, clipped, function_of, functions, rounded, stepped

MIXED = 4000  # rows that a mixture is fitted to


def patterns(
    expected: np.ndarray,
    actual: np.ndarray,
    relatives: Mapping[str, Any],
    tolerance: float = 1e-7,
    axes: Sequence[str] = (),
    factors: Mapping[str, float] | None = None,
) -> Iterator[str]:
    """What the wrong numbers have in common with the right ones, the most telling first.

    relatives: other arrays, by name, that may have been taken instead, added or left out
    tolerance: length of an error that is rounding, over the length of the array
    axes: names of the axes
    factors: {name: number} that a factor may be

    >>> next(patterns(np.array([1.0, 2.0]), np.array([-1.0, -2.0]), {}))
    'the sign is turned everywhere'
    """
    if not np.isfinite(actual).all():
        bad = int((~np.isfinite(actual)).sum())
        yield f"{bad} of {actual.size} values are not finite; look for exp of large numbers and for divisions by 0"
        return
    if not actual.any():
        yield "it is zero everywhere"
        return
    look = Look(expected, actual, axes, tolerance)
    relatives = {name: np.asarray(a) for name, a in relatives.items() if np.asarray(a).dtype.kind in "fiub"}
    if look.off <= 0.1 * tolerance * float(np.linalg.norm(look.expected)):
        return
    with np.errstate(all="ignore"):
        wholes = (_same_as(look, relatives), _scaled(look, factors or {}), elsewhere(look), functions(look))
        for whole in (*wholes, clipped(look), stepped(look)):
            found = list(whole)
            yield from found
            if found:
                return
        yield from _somewhere(look, relatives, factors or {})
        found = list(_added(look, relatives))
        yield from found or _combined(look, relatives, factors or {})
        yield from _along(look)
        yield from _mixed(look)
        yield from _turned(look)
        found = list(function_of(look, relatives))
        yield from found or _rank_one(look)
        yield from rounded(look)


def _same_as(look: Look, relatives: Mapping[str, Any]) -> Iterator[str]:
    for name, other in relatives.items():
        other = np.asarray(other, np.float64)
        if other.size == look.actual.size > 1 and look.fits(other.reshape(look.actual.shape)):
            yield f"it equals {name}: a mix-up"


def factor(ratio: float, factors: Mapping[str, float], tolerance: float = 1e-5) -> str:
    """A factor in words.

    >>> factor(1 / 12, {"√D": 3.4641016, "D": 12.0})
    '1/D'
    """
    for name, value in factors.items():
        for text, number in ((name, value), (f"1/{name}", 1 / value)):
            if abs(ratio / number - 1) < tolerance:
                return text
    return f"{ratio:.5g}"


def _scaled(look: Look, factors: Mapping[str, float]) -> Iterator[str]:
    """y = a·x, or a·x + b."""
    x, y = look.expected, look.actual
    if x.size == 1 and not x.any():
        return
    ratio = float((x * y).sum() / max((x * x).sum(), 1e-300))
    if ratio and look.fits(ratio * x):
        words = factor(ratio, factors, max(look.tolerance, 1e-6))
        yield "the sign is turned everywhere" if words == "-1" else f"it is {words} times what it should be, everywhere"
    elif x.size > 3 and x.std():
        slope, offset = np.polyfit(x.ravel(), y.ravel(), 1)
        if look.fits(slope * x + offset):
            slope = factor(float(slope), factors, max(look.tolerance, 1e-6))
            times = "right" if slope == "1" else f"{slope} times what it should be,"
            yield f"it is {times} plus {offset:.6g}, everywhere"


def _added(look: Look, relatives: Mapping[str, Any]) -> Iterator[str]:
    """y = x + k·other: something is missing, or there too often."""
    more, found = look.actual - look.expected, []
    for name, other in relatives.items():
        try:
            other = np.broadcast_to(np.asarray(other, np.float64), more.shape)
        except ValueError:
            continue
        k = float((more * other).sum() / max((other * other).sum(), 1e-300))
        if other.size > 3 and other.std() and abs(k) > 1e-6 and look.fits(look.expected + k * other):
            found.append((abs(abs(k) - 1), name, k))
    for _, name, k in sorted(found)[:2]:
        whole = {-1: f"{name} is not added", 1: f"{name} is added once too often", -2: f"{name} has the wrong sign"}
        yield (
            whole[round(k)]
            if round(k) in whole and abs(k - round(k)) < 1e-3
            else f"it is right plus {k:.6g} times {name}"
        )


def _combined(look: Look, relatives: Mapping[str, Any], factors: Mapping[str, float]) -> Iterator[str]:
    """y = a·x + k·other, such as a kernel that is scaled, but not the bias."""
    x, y = look.expected.ravel(), look.actual.ravel()
    for name, other in relatives.items():
        try:
            other = np.broadcast_to(np.asarray(other, np.float64), look.actual.shape).ravel()
        except ValueError:
            continue
        if other.size < 8 or not other.std():
            continue
        (a, k), *_ = np.linalg.lstsq(np.stack([x, other], 1), y, rcond=None)
        if min(abs(a), abs(k)) > 1e-4 and look.fits((a * x + k * other).reshape(look.actual.shape)):
            a, k = float(a), float(k)
            words = factor(a, factors, max(look.tolerance, 1e-5))
            yield (
                f"it is {words} times what it should be without {name}, which is right"
                if abs(a + k - 1) < max(1e-3 * abs(k), 100 * look.tolerance)
                else f"it is {words} times what it should be, plus {k:.4g} times {name}"
            )
            return


def _mixed(look: Look) -> Iterator[str]:
    """Every value is a mixture of those along the last axis: y = x·M + b."""
    n = look.actual.shape[-1] if look.actual.ndim > 1 else 0
    if not 1 < n <= 256 or look.actual.size < 4 * n * (n + 1):
        return
    some = slice(None, None, 1 + look.actual.size // n // MIXED)
    x, y = (a.reshape(-1, n) for a in (look.expected, look.actual))
    rows = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    matrix, *_ = np.linalg.lstsq(rows[some], y[some], rcond=None)
    if look.fits((rows @ matrix).reshape(look.actual.shape)):
        shown = f": {n} × {n} matrix {np.round(matrix[:-1].T, 3).tolist()}, another colour space" if n == 3 else ""
        yield f"every {look.axes[-1]} is a mixture of the right ones, the same at all places{shown}"


def _turned(look: Look) -> Iterator[str]:
    """Vectors along the last axis that have the right length and another direction."""
    x, y = (np.sqrt((a * a).sum(-1)) for a in (look.expected, look.actual))
    if look.off < 0.03 * np.linalg.norm(x):  # so little may be anything
        return
    if x.size > 8 and look.actual.shape[-1] > 1 and np.abs(x - y).max() <= 4 * look.tolerance * x.max():
        yield f"every vector along {look.axes[-1]} has the right length, but another direction: it is rotated"


def _along(look: Look) -> Iterator[str]:
    """An error that is one constant, one factor, or both, for every channel, token, head, …"""
    x, y, n = look.expected, look.actual, look.actual.ndim
    for kept in (k for r in range(1, n) for k in itertools.combinations(range(n), r)):
        over = tuple(a for a in range(n) if a not in kept and y.shape[a] > 1)
        each = math.prod(y.shape[a] for a in over)
        if each < 3 or any(y.shape[a] == 1 for a in kept):
            continue
        name = " and ".join(look.axes[a] for a in kept)
        if look.fits(x + (y - x).mean(over, keepdims=True)):
            yield f"every {name} is off by a constant of its own: a bias, or another one's"
            return
        energy = (x * x).sum(over, keepdims=True)
        if look.fits((x * y).sum(over, keepdims=True) / np.where(energy, energy, 1) * x):
            yield f"every {name} is off by a factor of its own"
            return
        middle, centre = x.mean(over, keepdims=True), y.mean(over, keepdims=True)
        energy = ((x - middle) ** 2).sum(over, keepdims=True)
        slope = ((x - middle) * (y - centre)).sum(over, keepdims=True) / np.where(energy, energy, 1)
        if each > 4 and look.fits(centre + slope * (x - middle)):
            yield f"every {name} is off by a factor and a constant of its own: a mean, a deviation, or scale and bias"
            return


def _somewhere(look: Look, relatives: Mapping[str, Any], factors: Mapping[str, float]) -> Iterator[str]:
    """Which places are wrong, and what is wrong there."""
    x, y = look.expected, look.actual
    size = np.abs(x) + float(np.sqrt((x * x).mean()))
    right = np.abs(y - x) <= max(look.tolerance, 1e-9) * size
    if right.all() or not right.any():
        return
    index, said = [], []
    for axis, n in enumerate(y.shape):
        wrong = np.flatnonzero(~right.all(axis=tuple(a for a in range(y.ndim) if a != axis)))
        whole = len(wrong) > (n - 1 if look.axes[axis].startswith(("token", "sequence")) else 0.75 * n)
        index.append(np.arange(n) if whole else wrong)
        if not whole:
            said.append(f"only {indices(wrong, n)} of {look.axes[axis]} (of {n}) have wrong values")
    if not said:
        if right.mean() > 0.2:
            yield f"{(~right).sum()} of {right.size} values are wrong"
        return
    yield ", and ".join(said)
    part = np.ix_(*index)
    inside = {name: np.asarray(a)[part] for name, a in relatives.items() if np.shape(a) == y.shape}
    inside |= {n: np.asarray(a)[index[-1]] for n, a in relatives.items() if np.shape(a) == y.shape[-1:]}
    there = patterns(x[part], y[part], inside, look.tolerance, look.axes, factors)
    yield from (f"there {words}" for words in itertools.islice(there, 1) if "values are wrong" not in words)


def indices(wrong: np.ndarray, n: int) -> str:
    """Indices in words.

    >>> indices(np.array([2, 3, 4]), 9), indices(np.array([0, 8]), 9), indices(np.array([2]), 9)
    ('indices 2 … 4', 'indices [0, 8] (the border)', 'indices [2]')
    """
    if len(wrong) > 2 and (np.diff(wrong) == 1).all():
        return f"indices {wrong[0]} … {wrong[-1]}"
    if len(wrong) > 8:
        step = set(np.diff(wrong))
        return f"every {step.pop()}th index" if len(step) == 1 else f"{len(wrong)} indices, {wrong[0]} the first,"
    return f"indices {wrong.tolist()}" + (" (the border)" if wrong.tolist() == [0, n - 1] else "")


def _rank_one(look: Look) -> Iterator[str]:
    more = (look.actual - look.expected).reshape(-1, look.actual.shape[-1] if look.actual.ndim else 1)
    if min(more.shape) > 2 and more.size < 2**20:
        values = np.linalg.svd(more, compute_uv=False)
        if np.linalg.norm(values[1:]) <= max(0.01 * values[0], look.tolerance * np.linalg.norm(look.actual)):
            yield "the error is of rank one: a column times a row"
