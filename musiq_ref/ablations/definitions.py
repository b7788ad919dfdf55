"""What an ablation is: a table of models that differ in one thing; and the cells to train for it."""

from __future__ import annotations

import dataclasses
import tomllib
from fnmatch import fnmatchcase
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from musiq_ref.model.parameters import parameter_shapes
from musiq_ref.pictures.synthetic import held_out_examples
from musiq_ref.suggest import did_you_mean
from musiq_ref.training.limits import check_value, short
from musiq_ref.training.settings import Settings, merged, recipe

FOLDER = Path(__file__).parent
ABLATIONS = ("variants", "grid", "spatial", "patch_size", "native_patches", "scales", "embeddings", "stem", "attention")
"""In the order of the appendix, those that have no table there last."""
ALL = ABLATIONS[:-1]
"""What "all" stands for: the appendix's, and the parts of its model; not what the model may have in their place."""


class Row(NamedTuple):
    """One model of a table.

    setting: in words, the published value in brackets
    model: fields of MusiqConfig
    published: "srcc" and "plcc", or empty
    """

    setting: str
    model: dict[str, Any]
    published: dict[str, float]


class Ablation(NamedTuple):
    """One table.

    published_on: the data set of the published figures
    note: by which rule it is small
    """

    name: str
    title: str
    published_on: str
    note: str
    rows: tuple[Row, ...]


class Cell(NamedTuple):
    """One model to train with one seed.

    name: what sets its model apart, which is also the name of its folder
    """

    name: str
    seed: int
    settings: Settings

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


class Grid(NamedTuple):
    """Ablations, and all that is needed to run them.

    base: the settings of which each cell changes the model and the seed
    seeds: a cell is trained with each
    held_out: arguments of `held_out_examples`, the same for all cells
    """

    ablations: tuple[Ablation, ...]
    base: Settings
    seeds: tuple[int, ...]
    held_out: dict[str, Any]

    def cell(self, row: Row, seed: int) -> Cell:
        """The cell of a row; rows of several tables that say the same have the same."""
        model = merged(self.base.model, row.model)
        config = dataclasses.replace(self.base, model=model, groups={}).config()
        before, after = self.base.config().to_dict(), config.to_dict()
        changed = [f"{name}={_plain(after[name])}" for name in after if after[name] != before[name]]
        paths = list(parameter_shapes(config))
        groups = {  # without those of parts that this model lacks
            pattern: group
            for pattern, group in self.base.groups.items()
            if any(fnmatchcase(path, pattern) for path in paths)
        }
        settings = dataclasses.replace(self.base, model=model, groups=groups, seed=seed)
        return Cell(",".join(changed) or "base", seed, settings)

    def cells(self) -> list[Cell]:
        """All cells, seed by seed, each once."""
        every = [self.cell(row, seed) for seed in self.seeds for table in self.ablations for row in table.rows]
        return list({(cell.name, cell.seed): cell for cell in every}.values())


def ablation(name: str) -> Ablation:
    """The ablation of that name.

    >>> table = ablation("stem")
    >>> [(row.setting, row.published) for row in table.rows]
    [('ResNet', {'srcc': 0.726, 'plcc': 0.738}), ('linear', {})]
    """
    if name not in ABLATIONS:
        hint = did_you_mean(name, [*ABLATIONS, "all"])
        raise ValueError(f"there is no ablation {name!r}; choose one of {', '.join(ABLATIONS)}, or all{hint}")
    values = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    rows = tuple(Row(row["setting"], row["model"], row.get("published", {})) for row in values["rows"])
    return Ablation(name, values["title"], values["published_on"], values["note"], rows)


def grid(name: str, seeds: int | None = None, **changes: Any) -> Grid:
    """An ablation, or "all", ready to run.

    seeds: how many, counted from the settings' seed; 2 by default
    changes: of the settings, as for `recipe`, and of the table "held_out", the arguments of `held_out_examples`

    Raises ValueError, in one sentence, for what cannot be.

    >>> stem = grid("stem", seeds=1, epoch_images=64)
    >>> [(str(cell), cell.settings.epoch_images) for cell in stem.cells()]
    [('base, seed 0', 64), ('stem=linear, seed 0', 64)]
    """
    ablations = tuple(map(ablation, ALL if name == "all" else [name]))
    values = tomllib.loads((FOLDER / "base.toml").read_text(encoding="utf-8"))
    base = recipe(values["recipe"], **values["settings"])
    tested = changes.pop("held_out", {})
    if not isinstance(tested, dict):
        raise ValueError(f"held_out is {short(tested)}; set one of its values, such as held_out.crops=2")
    base = base.replace(**changes)
    held_out = {**({"size": base.side} if base.side else {}), **values["held_out"], **tested}
    if base.dataset != "synthetic":
        raise ValueError(f"dataset is {base.dataset!r}; the ablations are trained and tested on synthetic pictures")
    _check_held_out(held_out)
    count = values["seeds"] if seeds is None else seeds
    if count < 1:
        raise ValueError(f"seeds is {count}; it must be at least 1")
    made = Grid(ablations, base, tuple(range(base.seed, base.seed + count)), held_out)
    made.cells()  # a model that cannot be is an error here
    return made


def _check_held_out(options: dict[str, Any]) -> None:
    known = {p.name: p.default for p in signature(held_out_examples).parameters.values()}
    for option, value in options.items():
        if option not in known:
            hint = did_you_mean(option, known)
            raise ValueError(f"held_out has {option!r}, which is not one of {', '.join(known)}{hint}")
        check_value(f"held_out.{option}", value, list(d) if isinstance(d := known[option], tuple) else d)
    for severity in options.get("severities", ()):
        check_value("held_out.severities", severity, 0.5)
        if not 0 <= severity <= 1:
            raise ValueError(f"held_out.severities has {severity}; each must be from 0 to 1")
    if not options.get("crops", 1) + options.get("scenes", 1):
        raise ValueError("held_out makes no pictures without crops and scenes; set one of them above 0")
    next(held_out_examples(**options))


def _plain(value: Any) -> str:
    return "-".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
