"""Recipes (TOML) and `--set`: what is accepted is what the text says, and can be used."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from musiq_ref.cli.train import parse_changes
from musiq_ref.losses import LOSSES
from musiq_ref.training.optimizers import OPTIMIZERS
from musiq_ref.training.schedules import SCHEDULES
from musiq_ref.training.settings import RECIPES, Settings, recipe

from .core import Kind, judge
from .mutate import NESTED, hostile, spoil

OPTIONS = ["learning_rate", "epochs", "batch", "warmup", "seed", "ema", "clip", "reduction", "photographs", "groups"]
OPTIONS += ["model.layers", "model.conventions", "model.longer_sides", "model.outputs", "model.preset", "model.x"]
OPTIONS += ["optimizer_options.beta1", "optimizer_options.weight_decay", "optimizer_options", "loss_options.delta"]
OPTIONS += ["loss_options", "groups.x", "groups.x.lr_scale", "model", "optimizer", "loss", "schedule", "flip", "x", ""]
OPTIONS += ["threads", "micro_batch", "save_every", "init", "dtype", "stochastic_depth", "fit_to_images"]


def prepare() -> dict[str, str]:
    """{name: the text of a recipe that comes with the library}"""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(RECIPES.glob("*.toml"))}


def case(prepared: dict[str, str], rng: Random, folder: Path) -> tuple[str, str]:
    name = rng.choice(list(prepared))
    if rng.random() < 0.4:
        return one_option(name, rng)
    text = prepared[name]
    data = spoil(text.encode(), rng) if rng.random() < 0.5 else toml(hostile(tomllib.loads(text), rng)).encode()
    path = folder / name
    path.write_bytes(data)

    def right(found: Settings) -> bool:
        return says(found, tomllib.loads(data.decode())) and usable(found)

    return judge(lambda: used(recipe(str(path))), right, (ValueError,), "")


def one_option(name: str, rng: Random) -> tuple[str, str]:
    """A recipe with one setting changed on the command line."""
    option, value = rng.choice(OPTIONS), rng.choice((toml_value(hostile(rng.random(), rng)), "nan", "-inf", "1e-400"))
    text = f"{option}={value}" if rng.random() < 0.95 else option
    return judge(lambda: used(recipe(name[:-5], **parse_changes([text]))), usable, (ValueError,), "")


def toml(values: Any) -> str:
    """TOML text of a table, as far as it can be said in TOML; what cannot is wrong there, too."""
    if not isinstance(values, dict):
        return toml_value(values)
    return "".join(f"{json.dumps(key)} = {toml_value(value)}\n" for key, value in values.items())


def toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str):
        return NESTED if value == "NESTED" else json.dumps(value)
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def says(found: Settings, values: dict[str, Any]) -> bool:
    """Whether the settings are those of the text; tables are merged with the defaults."""
    for name, value in values.items():
        held = getattr(found, {"part": "micro_batch"}.get(name, name))
        if held != ({**held, **value} if isinstance(value, dict) else value):
            return False
    return True


def used(settings: Settings) -> Settings:
    """What training does with settings first: a step of the optimiser, a loss, a rate."""
    params = {"head": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}, "stem": {"gn3": {"scale": np.ones(2)}}}
    begin, step = OPTIMIZERS[settings.optimizer]
    options = dict(groups=settings.groups or None, **settings.optimizer_options)
    step(params, params, begin(params), settings.learning_rate, **options)
    classes = settings.loss in ("emd", "cross_entropy")
    target = np.full((3, 4), 0.25) if classes else np.ones(3)
    LOSSES[settings.loss][0](np.zeros_like(target), target, **settings.loss_options)
    SCHEDULES[settings.schedule](0, 10, min(settings.warmup, 9))
    return settings


def usable(settings: Settings) -> bool:
    """Whether every number is finite, however deep."""
    return finite(settings.to_dict())


def finite(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


KIND = Kind(prepare, case)
