"""Parameter groups: other learning rates and weight decays for some parameters.

{pattern: {"lr_scale": …, "weight_decay": …}}: the pattern matches paths as file names are matched ("*/bias", "stem/*"),
one of the two settings may be left out, and a later entry overrides an earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from musiq_ref.model.parameters import Params, flatten

Groups = Mapping[str, Mapping[str, float]]


class Setting(NamedTuple):
    """What multiplies the learning rate of a parameter (0: it is frozen), and its weight decay."""

    lr_scale: float = 1.0
    weight_decay: float = 0.0


def group_settings(params: Params, groups: Groups | None = None, weight_decay: float = 0.0) -> dict[str, Setting]:
    """The setting of every parameter, by its path; `weight_decay` where no group says otherwise.

    Raises ValueError for a pattern that matches no parameter, an unknown setting, and a negative one.

    >>> params = {"stem": {"kernel": 1}, "head": {"kernel": 2, "bias": 3}}
    >>> settings = group_settings(params, {"stem/*": {"lr_scale": 0}, "*/bias": {"weight_decay": 0}}, weight_decay=0.1)
    >>> settings["stem/kernel"], settings["head/bias"]
    (Setting(lr_scale=0.0, weight_decay=0.1), Setting(lr_scale=1.0, weight_decay=0.0))
    """
    settings = {path: Setting(weight_decay=float(weight_decay)) for path, _ in flatten(params)}
    for pattern, changes in (groups or {}).items():
        paths = [path for path in settings if fnmatchcase(path, pattern)]
        wrong = [f"{name}={value}" for name, value in changes.items() if name not in Setting._fields or not value >= 0]
        if wrong or not paths:
            why = f"{wrong[0]} is no setting" if wrong else "no parameter matches it"
            raise ValueError(f"the parameter group {pattern!r} cannot be applied: {why}")
        for path in paths:
            settings[path] = settings[path]._replace(**{name: float(value) for name, value in changes.items()})
    return settings
