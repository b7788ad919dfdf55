"""What a training run is: every number that shapes it, read from a recipe and overridable one by one."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from musiq_ref.config import PRESETS, MusiqConfig
from musiq_ref.pictures.synthetic import REDUCTION, TRAINING_PHOTOGRAPHS
from musiq_ref.suggest import did_you_mean, similar_file
from musiq_ref.training.limits import check_model, check_model_values, check_settings, short

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
    largest_side: int = 1024  # greatest shorter side of pictures made of a folder of photographs: pictures.world
    flip: bool = True  # mirror an image with probability 1/2
    clip: float = 0.0  # largest global norm of the gradient; 0: no limit
    ema: float = 0.0  # decay of the averaged weights, which are then the result; 0: no averaging
    normalize_targets: bool = False  # train on (score − mean)/deviation, folded back into the head of the result
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    patch_dropout: float = 0.0  # share of an image's patches that is left out, but for the last fifth of the epochs
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
        defaults = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(self)}
        check_settings({f.name: getattr(self, f.name) for f in fields(self)}, defaults)
        config = self.config()
        check_model(config, self.groups)
        if config.attention == "performer" and self.attention_dropout:
            raise ValueError(
                f"attention_dropout is {short(self.attention_dropout)}; set it to 0 with "
                "model.attention='performer', which computes no attention weights that could be dropped"
            )

    def config(self) -> MusiqConfig:
        """The model to train.

        >>> recipe("ava").config().outputs
        10
        """
        model = dict(self.model)
        preset = model.pop("preset", None)
        if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
            hint = did_you_mean(str(preset), PRESETS)
            raise ValueError(f"model.preset is {short(preset)}; choose one of {', '.join(PRESETS)}{hint}")
        check_model_values(model)
        return MusiqConfig.from_dict({**PRESETS.get(preset or "", {}), **model})

    def replace(self, **changes: Any) -> Settings:
        """A copy with some fields changed; `model`, and the other tables, are merged."""
        changes, known = renamed(changes), sorted(f.name for f in fields(self))
        for name, value in changes.items():
            if name not in known:
                hint = did_you_mean(name, known)
                raise ValueError(f"a training run has no setting {name!r}; there are: {', '.join(known)}{hint}")
            changes[name] = merged(getattr(self, name), value)
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


def merged(old: Any, new: Any) -> Any:
    """`new`; of two tables, the old one with the new one's entries put in.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{name: merged(old.get(name), value) for name, value in new.items()}}


def recipe(name: str, **changes: Any) -> Settings:
    """The settings of a recipe, with some changed.

    name: "koniq", "spaq", "ava", "paq2piq", "imagenet", "synthetic", or the path of a TOML file

    >>> recipe("synthetic", epochs=2).epochs
    2
    """
    own = str(name).endswith(".toml")
    path, known = Path(name) if own else RECIPES / f"{name}.toml", sorted(p.stem for p in RECIPES.glob("*.toml"))
    if not path.is_file():
        hint = similar_file(path) if own else did_you_mean(name, known)
        raise ValueError(
            f"there is no recipe {name!r}; choose one of {', '.join(known)}, or the path of a .toml file{hint}"
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not in UTF-8, as a TOML file must be; save it so") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a TOML file ({error}); mend it") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its rights") from None
    if own:
        try:
            Settings().replace(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return Settings().replace(**values).replace(**changes)
