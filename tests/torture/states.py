"""The state of a training run and its log."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from musiq_ref.model.parameters import flatten
from musiq_ref.training.run import Log, train
from musiq_ref.training.settings import Settings, recipe
from musiq_ref.training.state import State, TrainingError, load_state

from .core import Kind, judge
from .mutate import as_json, hostile, spoil, spoil_header

STEPS = 4


def settings() -> Settings:
    model = {"layers": 1, "width": 8, "mlp_width": 8, "heads": 2, "patch_size": 8, "longer_sides": [16]}
    return recipe("synthetic", epochs=2, epoch_images=4, batch=2, warmup=0, fit_to_images=False, side=24, model=model)


def prepare() -> dict[str, Any]:
    """A finished run."""
    with tempfile.TemporaryDirectory() as name:
        result = train(settings(), name, progress=False)
        path = Path(name, "state.safetensors")
        return {
            "state": path.read_bytes(),
            "log": result.log.read_bytes(),
            "settings": settings(),
            "right": load_state(path, settings()),
        }


def case(prepared: dict[str, Any], rng: Random, folder: Path) -> tuple[str, str]:
    if rng.random() < 0.4:
        return log_case(prepared, rng, folder)
    path = folder / "state.safetensors"
    data = prepared["state"]
    data, other = (spoil(data, rng), False) if rng.random() < 0.5 else spoil_header(data, rng)
    path.write_bytes(data)
    return judge(
        lambda: load_state(path, prepared["settings"]),
        lambda found: equal(found, prepared["right"]) or (other and sane(found)),
        (TrainingError,),
        path.name,
    )


def equal(a: State, b: State) -> bool:
    """Whether two are the same to the bit, and of the same types."""
    one, two = (dict(flatten({"p": s.params, "o": s.optimizer, "a": s.average})) for s in (a, b))
    arrays = one.keys() == two.keys() and all(one[k].tobytes() == two[k].tobytes() for k in one)
    return arrays and repr((a.step, a.centre, a.spread, a.best)) == repr((b.step, b.centre, b.spread, b.best))


def sane(state: State) -> bool:
    """Whether a run could have come to that."""
    numbers = (state.centre, state.spread, state.best or 0.0)
    return type(state.step) is int and 0 <= state.step <= STEPS and all(map(math.isfinite, numbers))


def log_case(prepared: dict[str, Any], rng: Random, folder: Path) -> tuple[str, str]:
    """A spoilt log: going on from it keeps its lines up to the first that is damaged, or refuses."""
    path, data = folder / "log.jsonl", prepared["log"]
    if rng.random() < 0.5:
        data = spoil(data, rng)
    else:
        lines = [json.loads(line) for line in data.decode().splitlines()]
        data = "".join(as_json(line) + "\n" for line in list_of(hostile(lines, rng))).encode()
    path.write_bytes(data)
    step = prepared["right"].step
    return judge(
        lambda: Log(path, step, prepared["right"].log),
        lambda log: repr(log.lines) in (repr(kept(data, step)), repr(kept(prepared["log"], step))),
        (TrainingError,),
        path.name,
    )


def list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def kept(data: bytes, step: int) -> list[dict[str, Any]]:
    """The lines of a log, up to the first that is none, of steps until `step`."""
    lines: list[dict[str, Any]] = []
    for text in data.decode("utf-8", "replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or type(line.get("step")) is not int:
            break
        lines.append(line)
    return [line for line in lines if line["step"] <= step]


KIND = Kind(prepare, case)
