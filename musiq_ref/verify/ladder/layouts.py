"""Other programs' layouts of the same numbers: recognised, adapted and named, so that only values are compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from musiq_ref.checkpoint.layout import listed
from musiq_ref.checkpoint.official import OFFICIAL_LAYOUT
from musiq_ref.checkpoint.pyiqa import PYIQA_LAYOUT
from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import parameter_shapes
from musiq_ref.verify.ladder.distance import Distance, distance
from musiq_ref.verify.ladder.fixture import Fixture, Stage, sample_places
from musiq_ref.verify.ladder.numbers import as_numbers
from musiq_ref.verify.ladder.stages import SEQUENCE, axes_of, validity

SHARED = {"head/kernel", "head/bias"}  # names that are the authors' and ours
CLOSE = 0.05  # distance below which a layout is taken for the right one


class LayoutError(ValueError):
    """An array that cannot be the stage of its name in any layout.

    >>> issubclass(LayoutError, ValueError)
    True
    """


def parameters_by_our_names(mine: Mapping[str, Any], config: MusiqConfig) -> tuple[dict[str, Any], list[str]]:
    """The stages, gradients to parameters that have pyiqa's or the authors' names, all or some, being given ours.

    Under a program's own names nobody can say what they are: they are left out, with a note.

    >>> parameters_by_our_names({"dparams/fc.bias": 0, "score": 1}, MusiqConfig())
    ({'score': 1}, ['dparams/fc.bias: an unknown name, not compared'])
    """
    renamed: dict[str, Any] = dict(mine)
    notes = []
    shapes = parameter_shapes(config)
    for group in ("dparams", "step"):
        theirs = {n.removeprefix(f"{group}/"): np.asarray(a) for n, a in mine.items() if n.startswith(f"{group}/")}
        if set(theirs) & (set(shapes) - SHARED) or set(theirs) <= SHARED:
            continue
        layout = PYIQA_LAYOUT if any("." in n for n in theirs) else OFFICIAL_LAYOUT
        for name in theirs:
            del renamed[f"{group}/{name}"]
        known = dict(layout.canonical(theirs))
        for path, shape in shapes.items():
            if layout.name(path) in known:
                array = known.pop(layout.name(path))
                fits = array.size == np.prod(shape)
                renamed[f"{group}/{path}"] = layout.to_native(path, array, shape) if fits else array
        if len(known) < len(theirs):
            notes.append(f"{group}: {layout.format} names and shapes")
        if known:
            words = "an unknown name" if len(known) == 1 else "unknown names"
            notes.append(f"{group}/{listed(sorted(known))}: {words}, not compared")
    return renamed, notes


def split_fused(mine: Mapping[str, Any], config: MusiqConfig) -> tuple[dict[str, Any], list[str]]:
    """The stages, "…/attention/qkv" (B, N, 3·D) or (B, N, 3, H, D_h) split into query, key and value.

    >>> sorted(split_fused({"a/attention/qkv": np.zeros((1, 5, 36))}, MusiqConfig(width=12, heads=3))[0])
    ['a/attention/key', 'a/attention/query', 'a/attention/value']
    """
    result, notes = {}, []
    for name, value in mine.items():
        if not name.endswith("/qkv"):
            result[name] = value
            continue
        if np.size(value) != 3 * np.prod(np.shape(value)[:2]) * config.width:
            raise LayoutError(f"{name} has shape {np.shape(value)}; it must be (batch, sequence, {3 * config.width})")
        parts = np.asarray(value).reshape(*np.shape(value)[:2], 3, config.heads, config.head_width)
        for k, part in enumerate(("query", "key", "value")):
            result[f"{name[:-3]}{part}"] = parts[:, :, k].swapaxes(1, 2)
        notes.append("fused qkv")
    return result, sorted(set(notes))


def fit(stage: Stage, mine: Any, fixture: Fixture) -> tuple[np.ndarray, str, Distance]:
    """My array as the fixture holds the stage (whole, or its sample), what had to be done for it ("" for nothing), and
    how far it is from the fixture's at valid tokens.

    Of several layouts of the right size the closest is taken. Raises LayoutError when there is none.
    """
    try:
        array = as_numbers(stage, mine)
    except ValueError as error:
        raise LayoutError(str(error)) from None
    if stage.sample and array.shape == stage.array.shape:  # mine holds the sample only, as the fixture does
        return array, "", distance(stage.array, array, sampled_validity(stage, fixture))
    found: list[tuple[np.ndarray, str, Distance]] = []
    valid = sampled_validity(stage, fixture)
    for candidate, how in _layouts(array, stage, fixture):
        taken = candidate.reshape(-1)[sample_places(candidate.size, stage.sample)].reshape(stage.array.shape)
        d = distance(stage.array, taken, valid)
        found.append((taken, how, d))
        if min(d.norm, d.bulk) <= CLOSE:
            return found[-1]
    if not found:
        raise LayoutError(f"{stage.name} has shape {array.shape}; it must be {stage.shape}")
    return next((f for f in found if not f[1]), min(found, key=lambda f: f[2].norm))  # nothing fits: as it was given


def unfit(exact: np.ndarray, mine: np.ndarray, stage: Stage, fixture: Fixture) -> np.ndarray:
    """The reference's whole array, laid out as mine is, for a port to go on with.

    What padded tokens hold is left as it is: a port may have masked the logits already. Where mine has no layout that
    is known, all is left.

    exact: in the stage's shape
    mine: the port's array, by which its layout is known as in `fit`
    """
    valid = validity(stage.name, stage.shape, np.asarray(fixture.mask))
    use = np.broadcast_to(True if valid is None else valid, exact.shape)
    if mine.shape == exact.shape:
        return np.where(use, exact, mine).astype(mine.dtype)
    places = np.arange(1, mine.size + 1).reshape(mine.shape)  # 0 where a layout leaves something out
    pairs = zip(_layouts(mine, stage, fixture), _layouts(places, stage, fixture), strict=True)
    found = [(distance(exact, candidate, valid).norm, whence) for (candidate, _), (whence, _) in pairs]
    laid = mine.reshape(-1).copy()
    if found:
        whence = min(found, key=lambda f: f[0])[1]
        use = use & (whence > 0)
        laid[whence[use] - 1] = exact[use]
    return laid.reshape(mine.shape)


def _layouts(array: np.ndarray, stage: Stage, fixture: Fixture) -> Iterator[tuple[np.ndarray, str]]:
    """(array of the stage's shape, how it was brought into it) for every way that fits."""
    shape, mask = stage.shape, np.asarray(fixture.mask).astype(bool)
    if array.shape == shape:
        yield array, ""
    elif array.shape == shape[1:] and shape[:1] == (1,):
        yield array[None], ""
        array = array[None]
    elif array.size == int(np.prod(shape)) and array.size == 1:
        yield array.reshape(shape), ""
    axes = axes_of(stage.name)
    short = [(a, label) for a, label in enumerate(axes) if label.startswith(("token", SEQUENCE))]
    if short and not mask.all() and array.ndim + 1 == len(shape):
        array = array[None]
    if short and array.ndim == len(shape) and array.shape != shape:
        kept = {a: np.concatenate([[True], mask]) if label.startswith(SEQUENCE) else mask for a, label in short}
        wanted = tuple(int(kept[a].sum()) if a in kept else n for a, n in enumerate(shape))
        if array.shape == wanted:
            full = np.zeros(shape, array.dtype)
            full[np.ix_(*(np.flatnonzero(kept[a]) if a in kept else range(n) for a, n in enumerate(shape)))] = array
            yield full, "padding left out"
    if array.size == int(np.prod(shape)) and array.ndim >= 2:
        yield from _rearranged(array, shape, axes)


def _rearranged(array: np.ndarray, shape: tuple[int, ...], axes: tuple[str, ...]) -> Iterator[tuple[np.ndarray, str]]:
    """Axes in another order, and axes that are merged in mine."""
    if array.shape == shape:  # axes exchanged in a square array are a bug, not a layout
        return
    if array.ndim == len(shape) and sorted(array.shape) == sorted(shape):
        for order in itertools.permutations(range(len(shape))):
            if order != tuple(range(len(shape))) and array.transpose(order).shape == shape:
                names = [str(axes[order.index(k)] if axes else order.index(k)) for k in range(len(shape))]
                yield array.transpose(order), f"axes in the order {', '.join(names)}"
    yield array.reshape(shape), "other axes merged"
    if axes[-3:] == ("row", "column", "channel"):  # flat patches, channel first
        h, w, c = shape[-3:]
        yield np.moveaxis(array.reshape(*shape[:-3], c, h, w), -3, -1), "flat, channel first (channel, row, column)"
    if "head" in axes and SEQUENCE in axes:  # (B, N, H·D_h)
        B, H, N, D_h = shape
        yield array.reshape(B, N, H, D_h).swapaxes(1, 2), "heads side by side (B, N, H·D_h)"
    if len(shape) == 3 and not axes and array.ndim == 2:  # a kernel of attention, (out, in)
        D = array.shape[0]
        if array.shape == (D, D):
            yield array.T.reshape(shape), "kernel (out, in)"


def sampled_validity(stage: Stage, fixture: Fixture) -> np.ndarray | None:
    """`stages.validity`, for the values that are stored of the stage."""
    valid = validity(stage.name, stage.shape, np.asarray(fixture.mask))
    if valid is None or stage.sample is None:
        return valid
    return np.broadcast_to(valid, stage.shape).reshape(-1)[sample_places(int(np.prod(stage.shape)), stage.sample)]
