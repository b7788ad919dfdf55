"""Which stage is which array of a port: proposed from values, parameters and sizes, printed, and open to correction."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from musiq_ref.suggest import did_you_mean
from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.ladder.stages import SEQUENCE, run_stages, validity
from musiq_ref.verify.recognition import CLASS_LAST, PARTS, Placement, as_numbers, axes_and_order, error_of, layout_name

Hook = tuple[str, str]  # stage, and the layout: "", "NCHW", "heads" or names of axes (`recognition.axes_and_order`)
CLOSE = 0.05  # error below which an array is taken for a stage
AGREES = 1e-3  # error below which there is no mistake before it
KEPT_ORDER = (("row", "column"), (f"{SEQUENCE} (query)", f"{SEQUENCE} (key)"))  # exchanged, they are a bug


class HookMap(dict[str, Hook]):
    """{place in a port: (stage, layout)}, which prints as a table.

    errors: {place: how far its array was from the stage}

    >>> print(HookMap({"conv_root": ("stem/conv_root", "NCHW")}, {"conv_root": 2e-7}))
    conv_root                                       stem/conv_root                    NCHW              agrees
    """

    def __init__(self, hooks: Mapping[str, Hook] = {}, errors: Mapping[str, float] | None = None) -> None:
        super().__init__(hooks)
        self.errors = dict(errors or {})

    def __str__(self) -> str:
        def seems(error: float) -> str:
            return "by hand" if error < 0 else "agrees" if error < AGREES else f"off by {error:.1g}"

        return "\n".join(
            f"{place:<47} {stage:<33} {layout:<17} {seems(self.errors.get(place, -1.0))}"
            for place, (stage, layout) in self.items()
        )

    def corrected(self, corrections: Mapping[str, Hook | None]) -> HookMap:
        """The map with other hooks in some places, or none (None); a stage is in one place only.

        >>> dict(HookMap({"a": ("score", "")}).corrected({"b": ("score", "")}))
        {'b': ('score', '')}
        """
        theirs = {place: hook for place, hook in corrections.items() if hook is not None}
        taken = {stage for stage, _ in theirs.values()}
        kept = {p: hook for p, hook in self.items() if p not in corrections and hook[0] not in taken}
        return HookMap(kept | theirs, {p: e for p, e in self.errors.items() if p in kept})

    def stages(self, arrays: Mapping[str, Any], fixture: Fixture) -> dict[str, np.ndarray]:
        """{stage: array} of {place: array}; an array whose place is the name of a stage is that stage.

        >>> from musiq_ref.verify import build_fixture
        >>> hooks = HookMap({"final": ("encoder/norm", "batch, width, sequence")})
        >>> hooks.stages({"final": np.ones((1, 48, 20))}, build_fixture())["encoder/norm"].shape
        (1, 20, 48)
        """
        found = {name: np.asarray(a) for name, a in arrays.items() if name in fixture.stages}
        for name, (stage, layout) in self.items():
            array = as_numbers(arrays[name]) if name in arrays else None
            place = Placement(fixture, stage, layout)
            index = None if array is None else place.locate(array.size)
            if array is None or index is None:
                continue
            found |= place.named(place.put(place.ours(array, index), index))
        return found


def check_corrections(corrections: Mapping[str, Hook | None], places: Iterable[str], fixture: Fixture) -> None:
    """Raises ValueError, one sentence, where a place, a stage or a layout of corrections does not exist.

    corrections: those of `HookMap.corrected`; a place may end in ":item" and "#call"
    places: the names of the submodules

    >>> from musiq_ref.verify import build_fixture
    >>> check_corrections({"head": ("head/logit", "")}, ["head"], build_fixture())
    Traceback (most recent call last):
    ValueError: corrections: the fixture has no stage 'head/logit'; did you mean 'head/logits'?
    """
    places = [place for place in places if place]
    for place, hook in corrections.items():
        name = place.partition("#")[0].partition(":")[0]
        if name not in places:
            meant = did_you_mean(name, places) or "; print(module) shows the names"
            raise ValueError(f"corrections: the module has no submodule {name!r}{meant}")
        if hook is None:
            continue
        if not isinstance(hook, tuple) or len(hook) != 2 or not all(isinstance(part, str) for part in hook):
            raise ValueError(
                f"corrections: {place!r} has {hook!r}; give (stage, layout), for example "
                '("stem/conv_root", "NCHW"), or None for no stage'
            )
        stage, layout = hook
        if stage.removesuffix("qkv") + "query" * stage.endswith("/qkv") not in fixture.stages:
            raise ValueError(f"corrections: the fixture has no stage {stage!r}{did_you_mean(stage, fixture.stages)}")
        axes_and_order(stage, layout)


def propose(
    arrays: Iterable[tuple[str, np.ndarray]], fixture: Fixture, owners: Mapping[str, Iterable[str]] | None = None
) -> HookMap:
    """Which stages the arrays of a run are, the first of several that are the same one.

    arrays: (place, array) in the order in which they were computed, from the fixture's image and weights
    owners: {place: paths of our parameters that are used there}, which tell where values do not, after a mistake

    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture()
    >>> norm = fixture.stages["encoder/norm"].array
    >>> print(propose([("final", norm.transpose(0, 2, 1))], fixture))
    final                                           encoder/norm                      batch, width, sequence agrees
    """
    exact = _candidates(fixture)
    views = functools.cache(lambda stage, size: _views(stage, exact[stage], size, fixture))
    hooks, errors, taken = {}, {}, set()
    last: bool | None = None  # whether this port's class token is last, as what is right so far shows
    for place, array in arrays:
        if array.size < 2 or not np.isfinite(array).any():
            continue
        owned = stage_of(owners.get(place, ()), fixture) if owners else ""
        near = [
            (*_nearest(array, s, views(s, array.size)), s) for s in exact if s not in taken and views(s, array.size)
        ]
        best = min(near, default=(np.inf, "", ""), key=lambda row: (row[0], row[2] != owned))
        own = next((row for row in near if row[2] == owned), None)
        whole = owned.endswith("/output")  # of all parameters of a block, or of the stem
        chosen = own if own and (whole or own[0] < CLOSE or best[0] >= CLOSE) else best
        if own and chosen is own and own[0] >= CLOSE:  # of what is wrong everywhere, the nearest order is chance
            alike = [view for view in views(owned, array.size) if last in (None, view[0])]
            chosen = own = (*_nearest(array, owned, alike), owned)
        elif chosen[0] < CLOSE and SEQUENCE in axes_and_order(chosen[2])[0]:
            last = CLASS_LAST in chosen[1]
        if chosen[0] < CLOSE or chosen is own:
            hooks[place], errors[place] = (chosen[2], chosen[1]), chosen[0]
            taken.add(chosen[2])
    return HookMap(hooks, errors)


def stage_of(paths: Iterable[str], fixture: Fixture) -> str:
    """The stage that comes out of what has exactly these parameters; "" where it is none.

    >>> from musiq_ref.verify import build_fixture
    >>> stage_of(["encoder/block_01/mlp/fc1/kernel", "encoder/block_01/mlp/fc2/bias"], build_fixture())
    'encoder/block_01/mlp/fc2'
    """
    modules = {path.rpartition("/")[0] for path in paths if not path.endswith(("table", "class_token"))}
    if len(modules) == 1:
        [module] = modules
        known = "head/logits" if module == "head" else module
        return known if known in fixture.stages else ""
    attention, mlp = {f"attention/{part}" for part in PARTS}, {"mlp/fc1", "mlp/fc2"}
    ends = {"attention/qkv": attention, "attention/out": attention | {"attention/out"}, "mlp/fc2": mlp}
    ends |= {"output": attention | mlp | {"norm1", "norm2", "attention/out"}}
    block = "/".join(min(modules, default="").split("/")[:2])
    inside = {m.removeprefix(f"{block}/") for m in modules}
    for end, parts in ends.items() if block.startswith("encoder/block") else ():
        if inside == parts:
            return f"{block}/{end}"
    bottleneck = {f"stem/{kind}{name}" for kind in ("conv", "gn") for name in ("1", "2", "3", "_proj")}
    return "stem/output" if modules - {"stem/conv_root", "stem/gn_root"} == bottleneck else ""


def _candidates(fixture: Fixture) -> dict[str, np.ndarray]:
    """The exact stages on the way to the score, query, key and value also as one."""
    exact = run_stages(fixture.params, fixture.image, fixture.config, gradients=False)
    found = {n: a for n, a in exact.items() if a.dtype.kind == "f" and not n.startswith("loss/") and a.size > 1}
    for i in range(fixture.config.layers):
        block = f"encoder/block_{i:02d}/attention"
        found[f"{block}/qkv"] = np.stack([found[f"{block}/{part}"] for part in PARTS])
    return found


View = tuple[bool, bool, np.ndarray, np.ndarray | None]  # class token last, no padding; exact values, which are valid


def _views(stage: str, exact: np.ndarray, size: int, fixture: Fixture) -> list[View]:
    """A stage with all its tokens or the valid ones, the class token first and last; nothing of another size."""
    place = Placement(fixture, stage)
    index = place.locate(size)
    if index is None or not place.complete:
        return []
    name, shape = (stage.replace("/qkv", "/query"), exact.shape[1:]) if stage.endswith("/qkv") else (stage, exact.shape)
    valid = validity(name, shape, fixture.mask)
    short = any(len(i) < n for i, n in zip(index, exact.shape, strict=True))
    if valid is not None:
        valid = np.broadcast_to(valid, exact.shape)
    if short:
        exact, valid = exact[np.ix_(*index)], None
    axes = [k for k, label in enumerate(place.axes) if label.startswith(SEQUENCE)]
    views: list[View] = [(False, short, exact, valid)]
    if axes:
        views.append((True, short, np.roll(exact, -1, axes), None if valid is None else np.roll(valid, -1, axes)))
    return views


def _nearest(array: np.ndarray, stage: str, views: list[View]) -> tuple[float, str]:
    """(error, layout) of the layout of a stage in which an array is nearest to it."""
    found = (np.inf, "")
    for last, short, ours, valid in views:
        for order in _orders(*axes_and_order(stage), array.shape, ours.shape):
            error = error_of(array, ours.transpose(order), None if valid is None else valid.transpose(order))
            if error < found[0]:
                found = (error, layout_name(stage, order, last, short))
    return found


@functools.cache
def _orders(
    axes: tuple[str, ...], usual: tuple[int, ...], theirs: tuple[int, ...], ours: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """The orders of our axes that an array of their shape may have, the usual one first."""
    if theirs == ours:  # axes exchanged in an array of our shape are a bug, not a layout
        return [usual]
    return [
        usual,
        *(o for o in itertools.permutations(range(len(axes))) if o != usual and _fits(o, axes, theirs, ours)),
    ]


def _fits(order: tuple[int, ...], axes: tuple[str, ...], theirs: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    """Whether our axes in this order, some of them merged, have that shape."""
    names = [axes[k] for k in order]
    if any(a in names and names.index(a) > names.index(b) for a, b in KEPT_ORDER):
        return False
    ends = set(itertools.accumulate((ours[k] for k in order), int.__mul__))
    return set(itertools.accumulate(theirs, int.__mul__)) <= ends | {1}


def joined(calls: list[Any]) -> np.ndarray | None:
    """The outputs of several calls as one, if they differ along one axis only: a stage that is made in parts.

    >>> joined([np.zeros((2, 5)), np.zeros((3, 5))]).shape, joined([np.zeros(2), np.zeros((2, 2))])
    ((5, 5), None)
    """
    if len({a.ndim for a in calls}) > 1 or not calls[0].ndim:
        return None
    axes = [k for k, sizes in enumerate(zip(*(a.shape for a in calls), strict=True)) if len(set(sizes)) > 1]
    return np.concatenate(calls, axes[0]) if len(axes) == 1 else None
