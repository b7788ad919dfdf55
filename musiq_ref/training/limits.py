"""What a setting may be: its kind, its range, and the names that it may have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from math import prod
from typing import Any

from musiq_ref.config import MusiqConfig
from musiq_ref.losses import LOSSES
from musiq_ref.model.parameters import nest, parameter_shapes
from musiq_ref.pictures.synthetic import LARGEST, TRAINING_PHOTOGRAPHS
from musiq_ref.suggest import did_you_mean
from musiq_ref.training.datasets import LOADERS
from musiq_ref.training.groups import Setting, group_settings
from musiq_ref.training.optimizers import OPTIMIZERS, adam
from musiq_ref.training.schedules import SCHEDULES

CHOICES: dict[str, Iterable[str]] = {
    "dataset": dict.fromkeys(("synthetic", "csv", "imagenet", *LOADERS)),
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "dtype": ("float32", "float64"),
}
ABOVE_0 = "above 0", lambda x: x > 0
NOT_NEGATIVE = "0 or more", lambda x: x >= 0
BELOW_1 = "at least 0 and below 1", lambda x: 0 <= x < 1
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("learning_rate", "epochs", "batch", "micro_batch", "save_every", "eps", "delta"), ABOVE_0),
    **dict.fromkeys(("warmup", "epoch_images", "clip", "seed", "split", "lr_scale", "weight_decay"), NOT_NEGATIVE),
    **dict.fromkeys(("crops", "scenes", "mixtures"), NOT_NEGATIVE),
    **dict.fromkeys(("ema", "dropout", "attention_dropout", "stochastic_depth", "patch_dropout"), BELOW_1),
    **dict.fromkeys(("momentum", "beta1", "beta2"), BELOW_1),
    "threads": ("from 0 to 1024", lambda x: 0 <= x <= 1024),
    "side": (f"0, or from 16 to {LARGEST}", lambda x: x == 0 or 16 <= x <= LARGEST),
    "largest_side": ("from 96 to 4096", lambda x: 96 <= x <= 4096),
    "r": ("at least 1", lambda x: x >= 1),
    "smoothing": ("from 0 to 1", lambda x: 0 <= x <= 1),
}
"""{a setting, or an option of an optimiser, a loss or a parameter group: (in words, whether a number is in range)}"""

MOST, LONGEST = 10**15, 1000
"""No number needs to be larger, and no text longer."""
TABLES = {
    "model": "model.layers=6",
    "model.conventions": "model.conventions.gelu=erf",
    "loss_options": "loss_options.delta=1.0",
    "optimizer_options": "optimizer_options.momentum=0.9",
    "groups": "groups.head/*.lr_scale=5.0",
}
"""{a setting that is a table: how one of its values is set}"""
MOST_PARAMETERS = 2_000_000_000


def short(value: Any) -> str:
    """A value as an error shows it, at most 80 characters.

    >>> short(10**5000)
    'a very large number'
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no integer of more than 4300 digits
        return "a very large number"
    return text if len(text) <= 80 else f"{text[:77]}…"


def check_value(name: str, value: Any, default: Any) -> None:
    """Raises ValueError where a value is not of its default's kind, or out of the range that its name has in RANGES.

    >>> check_value("optimizer_options.beta1", 5, 0.9)
    Traceback (most recent call last):
    ValueError: optimizer_options.beta1 is 5; it must be at least 0 and below 1
    """
    kind = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, kind) or (isinstance(value, bool) and not isinstance(default, bool)):
        must = (
            f"a table; set a value in it, such as {TABLES[name]}" if name in TABLES else f"a value such as {default!r}"
        )
        raise ValueError(f"{name} is {short(value)}; it must be {must}")
    if isinstance(value, str) and len(value) > LONGEST:
        raise ValueError(f"{name} is {short(value)}; it is too long")
    if isinstance(value, int | float):
        words, fits = RANGES.get(name.rpartition(".")[2], ("", lambda _: True))
        if not -MOST < value < MOST and name != "model.conventions.mask_value":  # NaN is not, either
            raise ValueError(f"{name} is {short(value)}; it must be a finite number{words and f', {words}'}")
        if not fits(value):
            raise ValueError(f"{name} is {short(value)}; it must be {words}")


def check_settings(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises ValueError, in one sentence, for the first of the settings that cannot be; of the model, see check_model.

    values, defaults: {name: value} of all settings
    """
    for name, default in defaults.items():
        check_value(name, values[name], default)
        if name in CHOICES and values[name] not in CHOICES[name]:
            choices, hint = ", ".join(CHOICES[name]), did_you_mean(values[name], CHOICES[name])
            raise ValueError(f"{name} is {short(values[name])}; choose one of {choices}{hint}")
    photographs, reduction = values["photographs"], values["reduction"]
    for name in photographs:
        if name not in TRAINING_PHOTOGRAPHS:
            hint = did_you_mean(str(name), TRAINING_PHOTOGRAPHS)
            raise ValueError(f"photographs has {short(name)}; choose from {', '.join(TRAINING_PHOTOGRAPHS)}{hint}")
    if not photographs:
        raise ValueError("photographs is empty; name at least one")
    numbers = [one for one in reduction if isinstance(one, int | float) and not isinstance(one, bool)]
    if not len(numbers) == len(reduction) == 2 or not 1 <= numbers[0] <= numbers[1] < MOST:
        raise ValueError(f"reduction is {short(reduction)}; name the least and the most, such as [1.5, 2.0], 1 or more")
    if values["fit_to_images"] and values["init"]:
        raise ValueError(f"fit_to_images is for training from scratch, not from the checkpoint {short(values['init'])}")
    optimizer = values["optimizer"]
    step = adam if optimizer == "adamw" else OPTIMIZERS[optimizer][1]  # adamw hands all on to adam
    ours = ("groups", "decoupled") if optimizer == "adamw" else ("groups",)  # what the training itself hands over
    check_options("loss", values["loss"], LOSSES[values["loss"]][0], values["loss_options"])
    check_options("optimizer", optimizer, step, values["optimizer_options"], ours)
    for pattern, group in values["groups"].items():
        if not isinstance(group, dict):
            raise ValueError(f"groups.{pattern} is {short(group)}; it must be a table, such as {{ lr_scale = 5.0 }}")
        for name in group:
            if name not in Setting._fields:
                hint = did_you_mean(name, Setting._fields)
                raise ValueError(f"groups.{pattern} has {name!r}; choose from {', '.join(Setting._fields)}{hint}")
            check_value(f"groups.{pattern}.{name}", group[name], 0.0)


def check_options(
    kind: str, name: str, function: Callable[..., Any], options: Mapping[str, Any], ours: tuple[str, ...] = ()
) -> None:
    """Raises ValueError for an option that a function does not have as a keyword, or of the wrong kind or range.

    kind, name: of what, for the message
    ours: keywords that are no options

    >>> from musiq_ref.losses import huber
    >>> check_options("loss", "huber", huber, {"delta": -1.0})
    Traceback (most recent call last):
    ValueError: loss_options.delta is -1.0; it must be above 0
    """
    every = signature(function).parameters.values()
    known = {p.name: p.default for p in every if p.kind is p.KEYWORD_ONLY and p.name not in ours}
    for option, value in options.items():
        if option not in known:
            hint = did_you_mean(option, known)
            knows = f"it knows {', '.join(sorted(known))}" if known else "it knows none"
            raise ValueError(f"{kind}_options has {option!r}, which {name} does not know; {knows}{hint}")
        check_value(f"{kind}_options.{option}", value, known[option])


def check_model_values(model: Mapping[str, Any]) -> None:
    """Raises ValueError for a value of the table `model` that is no field of MusiqConfig, or not of its kind.

    >>> check_model_values({"conventions": 5})
    Traceback (most recent call last):
    ValueError: model.conventions is 5; it must be a table; set a value in it, such as model.conventions.gelu=erf
    """
    known = MusiqConfig().to_dict()
    for name, value in model.items():
        if name not in known:
            raise ValueError(f"MusiqConfig has no field {short(name)}{did_you_mean(name, known)}")
        check_value(f"model.{name}", list(value) if isinstance(value, tuple) else value, known[name])
    for name, value in model.get("conventions", {}).items():
        if name in known["conventions"]:
            check_value(f"model.conventions.{name}", value, known["conventions"][name])


def check_model(config: MusiqConfig, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Raises ValueError for a model beyond all reason, or parameter groups that do not fit it.

    >>> check_model(MusiqConfig(layers=1000, width=6144), {})
    Traceback (most recent call last):
    ValueError: model has 165,308,579,393 parameters; make it smaller, 2,000,000,000 are the most
    """
    shapes = parameter_shapes(config)
    count = sum(map(prod, shapes.values()))
    if count > MOST_PARAMETERS:
        raise ValueError(f"model has {count:,} parameters; make it smaller, {MOST_PARAMETERS:,} are the most")
    settings = group_settings(nest(shapes), groups)
    if not any(setting.lr_scale for setting in settings.values()):
        raise ValueError("groups have lr_scale 0 for every parameter; leave one to train")
