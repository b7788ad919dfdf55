"""The state of a training run on disk: whole or not at all, and enough to go on as if nothing had happened."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.backend import Backend, to_host
from musiq_ref.checkpoint.layout import CheckpointError
from musiq_ref.checkpoint.sealed import read_sealed, write_sealed
from musiq_ref.model.parameters import Params, check_params, flatten, map_params, nest
from musiq_ref.training.limits import short
from musiq_ref.training.optimizers import OPTIMIZERS
from musiq_ref.training.settings import Settings, renamed

FREE = ("epochs", "threads", "save_every")
"""Settings that may change in mid-run; any other would make it another run."""


class TrainingError(RuntimeError):
    """A run that cannot go on; the message is one sentence that says what to do.

    >>> issubclass(TrainingError, RuntimeError)
    True
    """


class State(NamedTuple):
    """All that a run has come to.

    step: how many are done
    params, optimizer, average: nested dicts
    centre, spread: of normalised targets
    best: the best validation so far (a number that grows with quality), None before the first
    best_step: when that was
    log: the digest of the log's lines to this step
    data, held_out: `Stream.data` and `Stream.held_out` of the data set
    """

    step: int
    params: Params
    optimizer: Params
    average: Params
    centre: float
    spread: float
    best: float | None
    best_step: int | None = None
    log: str = ""
    data: Mapping[str, str] | None = None
    held_out: Sequence[str] = ()


ARRAYS = ("params", "optimizer", "average")
NUMBERS = tuple(name for name in State._fields if name not in ARRAYS)


def save_state(path: Path, state: State, settings: Settings) -> None:
    """Writes the state and the settings it belongs to; a crash while writing leaves the old file as it was."""
    arrays = {name: getattr(state, name) for name in ARRAYS}
    tensors = {name: np.asarray(to_host(array), order="C") for name, array in flatten(arrays)}
    numbers = {name: getattr(state, name) for name in NUMBERS}
    metadata = {"numbers": json.dumps(numbers), "settings": json.dumps(settings.to_dict())}
    try:
        write_sealed(path, tensors, metadata)
    except CheckpointError as error:
        raise TrainingError(str(error)) from None


def upload(state: State, device: Backend) -> State:
    """The state with its arrays on a device, but for the optimiser's number of steps, which the host reads."""
    there = {name: map_params(device.from_numpy, getattr(state, name)) for name in ARRAYS}
    there["optimizer"]["step"] = state.optimizer["step"]
    return state._replace(**there)


def load_state(path: Path, settings: Settings) -> State:
    """The state that `save_state` wrote. Raises TrainingError when the file is damaged or of other settings."""
    try:
        tensors, metadata = read_sealed(path)
        numbers = json.loads(metadata["numbers"])
        saved = {**Settings().to_dict(), **renamed(json.loads(metadata["settings"]))}
        state = State(**{"average": {}, "held_out": [], **nest(tensors), **numbers})
    except (CheckpointError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).partition(";")[0] if isinstance(error, CheckpointError) else "it is not of a training run"
        raise _unusable(path, reason) from None
    changed = differences(saved, json.loads(json.dumps(settings.to_dict())))
    if changed:
        changed[5:] = [f"{len(changed) - 5} more"] if len(changed) > 5 else []
        raise TrainingError(
            f"{path} is a run with {' and '.join(changed)}; set what it was, or name another folder (only "
            f"{', '.join(FREE)} may change in mid-run)"
        )
    try:
        _check(state, settings)
    except ValueError as error:
        raise _unusable(path, str(error)) from None
    except (TypeError, AttributeError, OverflowError):
        raise _unusable(path, "what is in it is of the wrong kind") from None
    return state


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Iterable[str] = FREE, prefix: str = ""
) -> list[str]:
    """The settings that differ, tables value by value, but for those that are free to.

    >>> differences({"epochs": 1, "seed": 1, "model": {"layers": 2}}, {"epochs": 2, "seed": 1, "model": {"layers": 3}})
    ['model.layers = 2, not 3']
    """
    found = []
    for name in sorted({*old, *new} - {*free}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, (), f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name} = {short(before)}, not {short(after)}")
    return found


def _unusable(path: Path, reason: str) -> TrainingError:
    return TrainingError(f"{path} cannot be gone on from: {reason}; name another folder to begin anew")


def _check(state: State, settings: Settings) -> None:
    """Raises ValueError or the like, with what is wrong with a state."""
    config, numbers = settings.config(), (state.centre, state.spread, state.best or 0.0)
    if type(state.step) is not int or state.step < 0 or not isinstance(state.best_step, int | None):
        raise ValueError(f"its step is {short(state.step)}")
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers) or not 0 < state.spread < math.inf:
        raise ValueError(f"its numbers are {short(numbers)}")
    kinds = {"log": str, "data": dict | None, "held_out": list}
    for name, kind in kinds.items():
        if not isinstance(getattr(state, name), kind):
            raise ValueError(f"its {name} is {short(getattr(state, name))}")
    for params in (state.params, *([state.average] if settings.ema else [])):
        if check_params(params, config) != settings.dtype:
            raise ValueError(f"its parameters are not {settings.dtype}")
    fresh, found = (dict(flatten(o)) for o in (OPTIMIZERS[settings.optimizer][0](state.params), state.optimizer))
    shapes = [{path: (a.shape, a.dtype) for path, a in one.items()} for one in (fresh, found)]
    if shapes[0] != shapes[1] or (not settings.ema and state.average):
        raise ValueError(f"its optimizer's arrays are not those of {settings.optimizer}")
    if int(found["step"]) != state.step:
        raise ValueError(f"its optimizer has done {int(found['step'])} steps, not {state.step}")
    for path, array in [*flatten(state.params), *flatten(state.average)]:
        if not np.isfinite(array).all():
            raise ValueError(f"its parameter {path} is not finite")
    for path, array in found.items():
        if np.isnan(array).any() or (path.startswith("square/") and (array < 0).any()):
            raise ValueError(f"its optimizer's {path} has values that cannot be")


def fold_targets(params: Params, centre: float, spread: float) -> Params:
    """The model that answers in scores, of one trained on (score − centre)/spread: its head times spread, plus centre.

    >>> params = {"head": {"kernel": np.array([[2.0]]), "bias": np.array([1.0])}}
    >>> fold_targets(params, centre=50.0, spread=10.0)["head"]
    {'kernel': array([[20.]]), 'bias': array([60.])}
    """
    head = params["head"]
    return {**params, "head": {"kernel": head["kernel"] * spread, "bias": head["bias"] * spread + centre}}
