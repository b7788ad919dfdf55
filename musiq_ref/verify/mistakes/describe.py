"""What is wrong with a stage that no mistake of the catalogue explains: what kind of error it is, and where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fnmatch import fnmatch

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import scales_of
from musiq_ref.model.parameters import flatten
from musiq_ref.verify.ladder.layouts import LayoutError
from musiq_ref.verify.ladder.stages import BACK, SEQUENCE, axes_of
from musiq_ref.verify.mistakes.evidence import Evidence
from musiq_ref.verify.mistakes.patterns import patterns
from musiq_ref.verify.mistakes.structure import (
    cells_in_words,
    made_of,
    of_picture,
    of_step,
    of_weights,
    scale_and_bias,
    tokens_in_words,
)
from musiq_ref.verify.mistakes.wiring import rewired, rows_added, terms

NEAR = 4  # tolerances within which numbers are the same


def described(examined: Evidence, here: str) -> list[str]:
    """What the numbers of an unexplained stage have in common with the right ones, and with others; never nothing."""
    stage = examined.stages[here]
    try:
        given, distance = examined.fitted(stage)
    except LayoutError:
        return [shapes(np.shape(examined.mine[here]), stage.shape, axes_of(here)), between(examined, here)]
    if stage.sample and here in examined.exact:
        right, mine = np.asarray(examined.exact[here]), np.asarray(examined.mine[here])
        if mine.size == right.size:  # the port gives all of it, not the sample alone
            given, stage = examined.fitted(stage._replace(array=right, sample=None))[0], stage._replace(array=right)
    right, mine, axes = stage.array, given, axes_of(here) if stage.array.ndim > 1 else ("value",)
    if right.dtype.kind in "iub":
        height, width = examined.fixture.image.shape[:2]
        scales = scales_of(height, width, examined.fixture.config)
        cells = cells_in_words(right, mine, scales) if here == "hash_index" else []
        return [*integers(right, mine, axes), *cells, *where(examined, here, right != mine), between(examined, here)]
    keep = valid_places(examined, here, right.shape)
    others = relatives(examined, here, right.shape, keep)
    near = NEAR * max(stage.tolerance.norm, stage.tolerance.bulk)
    numbers = factors(examined.fixture.config)
    x, y = right[keep], mine[keep]
    valid = np.r_[True, np.asarray(examined.frame(examined.stages).mask).astype(bool)]
    hints = list(of_weights(right, mine, valid)) if fnmatch(here, "encoder/*/attention/weights") else []
    hints += rows_added(here, mine, examined.exact, examined.fixture.params)
    if here.startswith("step/"):
        path, exact = here.removeprefix("step/"), examined.exact
        before, gradient = dict(flatten(examined.fixture.params))[path], exact[f"dparams/{path}"]
        hints += of_step(before, gradient, right, mine, near)
    hints += itertools.islice([] if hints else rewirings(examined, here, y, keep, near), 1)
    hints += [] if hints else itertools.islice(patterns(x, y, others, near, axes, numbers), 3)
    if here.startswith("pixels/") and all("like rounding" in words for words in hints):  # or like another filter
        hints = [words for words in of_picture(x, y) if not hints or "as sharp" not in words] or hints
    if not hints and here in examined.order:
        for term, first, second in terms(here, mine, examined.exact, list(examined.order)):
            found = patterns(first[keep], second[keep], {}, near, axes, numbers)
            hints += (f"its term {term}: {words}" for words in itertools.islice(found, 1) if "rotated" not in words)
        hints = hints or ["what is added is no row of the table"] * here.endswith(
            ("spatial_embedding", "scale_embedding")
        )
    affine = (
        scale_and_bias(here, examined.fixture.params) if right.ndim > 1 else None
    )  # of a sample no channel is known
    if not hints and affine:
        gamma, beta = affine
        found = patterns((x - beta) / gamma, (y - beta) / gamma, {}, 10 * near, axes, numbers)
        found = (words for words in found if "rotated" not in words)  # a norm's vectors always have one length
        hints = [f"before scale and bias {words}" for words in itertools.islice(found, 1)]
    hints = [*where(examined, here, np.abs(mine - right) > 10 * near * float(np.sqrt((x * x).mean()))), *hints]
    if not hints:
        hints = [f"it is off by {distance.norm:.2g} of its length, at all places, like nothing simple"]
        if abs(distance.cosine) < 0.2:
            hints = ["its values have nothing to do with the right ones"]
    return [*hints, between(examined, here)]


def rewirings(
    examined: Evidence, here: str, mine: np.ndarray, keep: tuple[np.ndarray, ...], near: float
) -> Iterator[str]:
    """Other inputs or parameters with which the stage's layer gives the port's numbers."""
    right, length = np.asarray(examined.exact.get(here, ())), float(np.linalg.norm(mine))
    if right.ndim != len(keep) or here not in examined.order or not length:
        return

    def fits(array: np.ndarray) -> bool:
        return array.shape == right.shape and float(np.linalg.norm(array[keep] - mine)) <= near * length

    if np.isfinite(mine).all() and not fits(right):
        order, fixture = list(examined.order), examined.fixture
        yield from rewired(here, examined.exact, order, fixture.params, fixture.config, fits)


def between(examined: Evidence, here: str) -> str:
    """Where to look: between the last stage that agrees and this one."""
    agreed, made = examined.agreed(here), made_of(here)
    place = f"look between {agreed[-1]} and {here}" if agreed else f"look at all that leads to {here}"
    return f"{place}, which is {made}" if made else place


def shapes(mine: tuple[int, ...], right: tuple[int, ...], axes: tuple[str, ...]) -> str:
    """Two shapes in words.

    >>> shapes((1, 16), (1, 19), ("batch", "token"))
    "its shape is (1, 16), the reference's (1, 19): 16 instead of 19 along token"
    """
    said = f"its shape is {mine}, the reference's {right}"
    off = [(m, r, axis) for m, r, axis in zip(mine, right, axes, strict=False) if m != r]
    if len(mine) != len(right) or len(right) != len(axes) or not off:
        return said
    return f"{said}: " + ", ".join(f"{m} instead of {r} along {axis}" for m, r, axis in off)


def where(examined: Evidence, here: str, wrong: np.ndarray) -> list[str]:
    """Which scales the wrong places are of, if they are not of all."""
    height, width = examined.fixture.image.shape[:2]
    labels = axes_of(here)[: wrong.ndim]
    axis = next((k for k, label in enumerate(labels) if label.startswith(("token", SEQUENCE))), None)
    if axis is None:
        return []
    tokens = np.asarray(wrong.any(axis=tuple(k for k in range(wrong.ndim) if k != axis)))
    tokens = tokens[1:] if labels[axis].startswith(SEQUENCE) else tokens
    mask = np.asarray(examined.frame(examined.stages).mask).astype(bool)
    if len(tokens) != len(mask):
        return []
    words = tokens_in_words(tokens & mask, mask, height, width, examined.fixture.config)
    return [words] if words else []


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
        own = dict(flatten(examined.fixture.params)).get(here.removeprefix("dparams/"))
        return floats if own is None else floats | {"the parameter itself (weight decay)": own}
    for path, array in flatten(examined.fixture.params):
        if path.endswith("_embedding/table") and here == "encoder/input":
            floats |= {f"row {k} of {path}": array[k] for k in range(min(len(array), 3))}
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
