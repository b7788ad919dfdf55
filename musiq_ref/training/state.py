"""The state of a training run on disk: whole or not at all, and enough to go on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from musiq_ref.checkpoint.layout import write_file
from musiq_ref.model.parameters import Params, flatten, nest
from musiq_ref.training.settings import Settings, renamed


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
    """

    step: int
    params: Params
    optimizer: Params
    average: Params
    centre: float
    spread: float
    best: float | None


def save_state(path: Path, state: State, settings: Settings) -> None:
    """Writes the state and the settings it belongs to; a crash while writing leaves the old file as it was."""
    arrays = {"params": state.params, "optimizer": state.optimizer, "average": state.average}
    tensors = {name: np.asarray(array, order="C") for name, array in flatten(arrays)}
    numbers = {name: getattr(state, name) for name in ("step", "centre", "spread", "best")}
    metadata = {"numbers": json.dumps(numbers), "settings": json.dumps(settings.to_dict())}
    write_file(path, lambda part: save_file(tensors, part, metadata))


def load_state(path: Path, settings: Settings) -> State:
    """The state that `save_state` wrote. Raises TrainingError when the file is damaged or of other settings."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays: Params = nest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        numbers, saved = json.loads(metadata["numbers"]), renamed(json.loads(metadata["settings"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); move it away to begin anew") from None
    now = json.loads(json.dumps(settings.to_dict()))
    free = {"epochs", "threads", "save_every"}  # may change in mid-run; all else would make it another run
    changed = sorted(name for name in now if name not in free and now[name] != saved.get(name))
    if changed:
        name = changed[0]
        raise TrainingError(
            f"{path} is a run with {name} = {saved.get(name)!r}, not {now[name]!r}; use another folder, or that value"
        )
    return State(params=arrays["params"], optimizer=arrays["optimizer"], average=arrays.get("average", {}), **numbers)


def fold_targets(params: Params, centre: float, spread: float) -> Params:
    """The model that answers in scores, of one trained on (score − centre)/spread: its head times spread, plus centre.

    >>> params = {"head": {"kernel": np.array([[2.0]]), "bias": np.array([1.0])}}
    >>> fold_targets(params, centre=50.0, spread=10.0)["head"]
    {'kernel': array([[20.]]), 'bias': array([60.])}
    """
    head = params["head"]
    return {**params, "head": {"kernel": head["kernel"] * spread, "bias": head["bias"] * spread + centre}}


class Log:
    """A file with a line of JSON for every step and epoch; going on from a step forgets what came after it."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = [line for line in _read_lines(path) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        write_file(path, lambda part: part.write_text(text, encoding="utf-8"))

    def last_validation(self) -> dict[str, float]:
        """The figures of the last epoch's line; none before the first."""
        for line in reversed(self.lines):
            if "epoch" in line:
                return {name: value for name, value in line.items() if name not in ("step", "epoch")}
        return {}

    def add(self, **values: Any) -> None:
        self.lines.append(values)
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self.path} cannot be written ({error.strerror}); check the folder and its space"
            ) from None


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # the line that a crash cut short
            break
    return lines
