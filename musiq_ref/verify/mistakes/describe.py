"""What is wrong with a stage that no mistake of the catalogue explains: what kind of error it is, and where."""

from __future__ import annotations

import itertools
import math

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import flatten
from musiq_ref.verify.ladder.layouts import LayoutError
from musiq_ref.verify.ladder.stages import BACK, SEQUENCE, axes_of
from musiq_ref.verify.mistakes.evidence import Evidence
from musiq_ref.verify.mistakes.patterns import patterns

NEAR = 4  # tolerances within which numbers are the same


def described(examined: Evidence, here: str) -> list[str]:
    """What the numbers of an unexplained stage have in common with the right ones, and with others; never nothing."""
    stage = examined.stages[here]
    try:
        given, distance = examined.fitted(stage)
    except LayoutError:
        return [f"its shape is {np.shape(examined.mine[here])}, the reference's {stage.shape}", between(examined, here)]
    if stage.sample and here in examined.exact:
        right, mine = np.asarray(examined.exact[here]), np.asarray(examined.mine[here])
        if mine.size == right.size:  # the port gives all of it, not the sample alone
            given, stage = examined.fitted(stage._replace(array=right, sample=None))[0], stage._replace(array=right)
    right, mine, axes = stage.array, given, axes_of(here) if stage.array.ndim > 1 else ("value",)
    if right.dtype.kind in "iub":
        return [*integers(right, mine, axes), between(examined, here)]
    keep = valid_places(examined, here, right.shape)
    others = relatives(examined, here, right.shape, keep)
    near = NEAR * max(stage.tolerance.norm, stage.tolerance.bulk)
    found = patterns(right[keep], mine[keep], others, near, axes, factors(examined.fixture.config))
    hints = list(itertools.islice(found, 3))
    if not hints:
        hints = [f"it is off by {distance.norm:.2g} of its length, at all places, like nothing simple"]
        if abs(distance.cosine) < 0.2:
            hints = ["its values have nothing to do with the right ones"]
    return [*hints, between(examined, here)]


def between(examined: Evidence, here: str) -> str:
    """Where to look: between the last stage that agrees and this one."""
    agreed = examined.agreed(here)
    return f"look between {agreed[-1]} and {here}" if agreed else f"look at all that leads to {here}"


def integers(right: np.ndarray, mine: np.ndarray, axes: tuple[str, ...]) -> list[str]:
    """What wrong integers look like."""
    wrong = np.argwhere(right != mine)
    first = tuple(int(i) for i in wrong[0])
    off = np.unique((mine - right)[tuple(wrong.T)])
    by = f", all by {off[0]:g}" if len(off) == 1 else f", by {off.min():g} to {off.max():g}"
    place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, first, strict=False)) or str(first)
    return [
        f"{len(wrong)} of {right.size} integers are wrong{by}",
        f"the first at {place}: expected {right[first]:g}, got {mine[first]:g}",
    ]


def valid_places(examined: Evidence, here: str, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """An index of the valid tokens along every axis that has tokens."""
    mask = np.asarray(examined.frame(examined.stages).mask).astype(bool)
    index = [np.arange(n) for n in shape]
    for axis, label in enumerate(axes_of(here)[: len(shape)]):
        along = np.concatenate([[True], mask]) if label.startswith(SEQUENCE) else mask
        if label.startswith(("token", SEQUENCE)) and len(along) == shape[axis] and here != "patches":
            index[axis] = np.flatnonzero(along)
    return np.ix_(*index)


def relatives(
    examined: Evidence, here: str, shape: tuple[int, ...], keep: tuple[np.ndarray, ...]
) -> dict[str, np.ndarray]:
    """Other stages of the shape, nearest first, and parameters that could be added along the last axes."""
    place, back = examined.order[here], here.startswith(BACK)
    near = sorted(examined.exact, key=lambda n: abs(examined.order.get(n, 10**6) - place))
    same = {n: np.asarray(examined.exact[n])[keep] for n in near if n != here and np.shape(examined.exact[n]) == shape}
    floats = {n: a for n, a in same.items() if a.dtype.kind == "f"}
    if back:
        return floats
    for path, array in flatten(examined.fixture.params):
        if array.ndim == 1 and len(shape) > 1 and array.shape[0] == shape[-1]:
            floats[path] = array
        elif array.ndim == 2 and path.endswith("bias") and len(shape) == 4 and array.shape == (shape[1], shape[3]):
            floats[path] = array[:, None]
    return floats


def factors(config: MusiqConfig) -> dict[str, float]:
    """Numbers that are forgotten, or multiplied with once too often.

    >>> round(factors(MusiqConfig())["√(D/H)"])
    8
    """
    D, H, P = config.width, config.heads, config.patch_size
    numbers = {"√(D/H)": math.sqrt(D / H), "√D": math.sqrt(D), "D/H": D / H, "D": D, "H": H, "√H": math.sqrt(H)}
    numbers |= {
        "255": 255,
        "127.5": 127.5,
        "256": 256,
        "255/256": 255 / 256,
        "C": config.outputs,
        "P²": P * P,
        "L": config.layers,
    }
    return {name: number for name, number in numbers.items() if number not in (1, 2, 4)}
