"""What a training run is: every number that shapes it, read from a recipe and overridable one by one."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

from musiq_ref.config import MusiqConfig
from musiq_ref.losses import LOSSES
from musiq_ref.pictures.synthetic import REDUCTION, TRAINING_PHOTOGRAPHS
from musiq_ref.training.optimizers import OPTIMIZERS, adam
from musiq_ref.training.schedules import SCHEDULES

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Settings:
    """A training run. The recipes (musiq_ref/training/recipes/*.toml) fill these fields; SPEC 7 has the published ones.

    >>> recipe("koniq").learning_rate
    0.002
    >>> recipe("koniq", batch=0)
    Traceback (most recent call last):
    ValueError: batch is 0; it must be above 0
    """

    dataset: str = "synthetic"  # a name of training.datasets, or "synthetic"
    model: dict[str, Any] = field(default_factory=dict)  # fields of MusiqConfig, and "preset"
    loss: str = "l1"
    loss_options: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = field(default_factory=dict)  # momentum, weight_decay, beta1, …
    groups: dict[str, dict[str, float]] = field(default_factory=dict)  # settings of some parameters: training.groups
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 0  # steps
    epochs: int = 1
    batch: int = 32
    # Images in an epoch: 0 for the whole data set; the synthetic set has no end and needs a number.
    epoch_images: int = 0
    side: int = 0  # of the synthetic set's square training images, in pixels; 0: both sides drawn from 96 … 160
    photographs: list[str] = field(default_factory=lambda: list(TRAINING_PHOTOGRAPHS))  # the synthetic set's
    reduction: list[float] = field(default_factory=lambda: list(REDUCTION))  # of these photographs: least, most
    variety: bool = False  # vary the synthetic set's pictures before they are spoilt: pictures.variety
    flip: bool = True  # mirror an image with probability 1/2
    clip: float = 0.0  # largest global norm of the gradient; 0: no limit
    ema: float = 0.0  # decay of the averaged weights, which are then the result; 0: no averaging
    normalize_targets: bool = False  # train on (score − mean)/deviation, folded back into the head of the result
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    init: str = ""  # checkpoint to start from; its head is replaced if the number of outputs differs
    fit_to_images: bool = False  # start from filters and a patch embedding that suit the images: training.initial
    seed: int = 0
    dtype: str = "float32"
    micro_batch: int = 1  # images that go forward and backward together
    recompute: bool = False  # keep little for the backward
    threads: int = 0  # 0: one per core
    save_every: int = 50  # steps between two saved states
    split: int = 0  # which of the seeded 80/20 splits, where no official one exists

    def __post_init__(self) -> None:
        for f in fields(self):
            value, default = getattr(self, f.name), f.default_factory() if callable(f.default_factory) else f.default
            kind = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, kind) or (isinstance(value, bool) and not isinstance(default, bool)):
                raise ValueError(f"{f.name} is {value!r}; it must be a value such as {default!r}")
        for name in ("learning_rate", "epochs", "batch", "micro_batch", "save_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("warmup", "epoch_images", "side", "clip", "threads", "seed", "split"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("ema", "dropout", "attention_dropout", "stochastic_depth"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name, known in (("loss", LOSSES), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")
        for name in self.photographs:
            if name not in TRAINING_PHOTOGRAPHS:
                raise ValueError(f"photographs has {name!r}; choose from {', '.join(TRAINING_PHOTOGRAPHS)}")
        if not self.photographs:
            raise ValueError("photographs is empty; name at least one")
        if len(self.reduction) != 2 or not 1 <= self.reduction[0] <= self.reduction[1]:
            raise ValueError(
                f"reduction is {self.reduction}; name the least and the most, such as [1.5, 2.0], 1 or more"
            )
        if self.fit_to_images and self.init:
            raise ValueError(f"fit_to_images is for training from scratch, not from the checkpoint {self.init}")
        optimizer = adam if self.optimizer == "adamw" else OPTIMIZERS[self.optimizer][1]  # adamw hands all on to adam
        _check_options("loss", self.loss, LOSSES[self.loss][0], self.loss_options)
        _check_options("optimizer", self.optimizer, optimizer, self.optimizer_options)
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {self.dtype!r}; choose 'float32' or 'float64'")
        self.config()

    def config(self) -> MusiqConfig:
        """The model to train.

        >>> recipe("ava").config().outputs
        10
        """
        model = dict(self.model)
        preset = model.pop("preset", None)
        return MusiqConfig.preset(preset, **model) if preset else MusiqConfig.from_dict(model)

    def replace(self, **changes: Any) -> Settings:
        """A copy with some fields changed; `model`, and the other tables, are merged."""
        changes, known = renamed(changes), {f.name for f in fields(self)}
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"a training run has no setting {name!r}; there are: {', '.join(sorted(known))}")
            if isinstance(value, dict):
                changes[name] = {**getattr(self, name), **value}
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Settings by today's names, of recipes, states and grids that an earlier version may have written.

    >>> renamed({"part": 8})
    {'micro_batch': 8}
    """
    return {{"part": "micro_batch"}.get(name, name): value for name, value in values.items()}


def _check_options(kind: str, name: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    known = {p.name for p in signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for option in options:
        if option not in known:
            raise ValueError(f"{kind}_options has {option!r}, which {name} does not know; it knows {sorted(known)}")


def recipe(name: str, **changes: Any) -> Settings:
    """The settings of a recipe, with some changed.

    name: "koniq", "spaq", "ava", "paq2piq", "imagenet", "synthetic", or the path of a TOML file

    >>> recipe("synthetic", epochs=2).epochs
    2
    """
    path = RECIPES / f"{name}.toml" if not str(name).endswith(".toml") else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ValueError(f"there is no recipe {name!r}; choose one of {known}, or the path of a .toml file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from None
    return Settings().replace(**values).replace(**changes)
