"""What one mistake is: a name, a remedy, and a wrong function in the place of the right one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.backend import Array
from musiq_ref.config import MusiqConfig

Tap = Callable[[str, Array, dict[str, Array], MusiqConfig], Array]


class Mistake(NamedTuple):
    """One way to compute something else.

    name: what is wrong, as reports print it
    remedy: what to do
    op: the functions of ops, image or model that are got wrong, by name: "layer_norm", "layer_norm_backward",
        "gelu_tanh gelu_erf"
    function: what is computed instead, with the arguments of the right one
    stage: the first of the ladder that shows it; "" if none does, None if it is not looked for there
    topic: the convention that it is a value of; "" for a plain bug
    conventions: fields of `Conventions` that make the library do the same; they are changed, not the function
    where: the one module in which the function is replaced, such as "attention"; "" for all
    tap: (name, array, stages seen before, config) -> array, for what is no function of the library
    recognise: (reference, mine) -> whether this is it, for what chance decides and no planting can repeat
    under: conventions of the reference without which it is no mistake

    >>> Mistake("erf for tanh", "use tanh", "gelu_tanh", None, None).side
    'forward'
    """

    name: str
    remedy: str
    op: str = ""
    function: Callable[..., Any] | None = None
    stage: str | None = None
    topic: str = ""
    conventions: dict[str, Any] = {}  # noqa: RUF012
    where: str = ""
    tap: Tap | None = None
    recognise: Callable[[np.ndarray, np.ndarray], bool] | None = None
    under: dict[str, Any] = {}  # noqa: RUF012

    @property
    def side(self) -> str:
        """Whether the forward or the backward of the op is wrong."""
        return "backward" if self.op.endswith("_backward") else "forward"

    @property
    def sentence(self) -> str:
        """The name and what to do about it."""
        return f"{self.name}: {self.remedy}"

    def applies(self, config: MusiqConfig) -> bool:
        """Whether it would change anything under these conventions.

        >>> mistake = Mistake("erf for tanh", "use tanh", conventions={"gelu": "erf"})
        >>> mistake.applies(MusiqConfig())
        True
        """
        now = vars(config.conventions)
        asked = all(now[k] == v for k, v in self.under.items())
        return asked and (not self.conventions or any(now[k] != v for k, v in self.conventions.items()))


def at(end: str, change: Callable[[Array, dict[str, Array], MusiqConfig], Array]) -> Tap:
    """A tap that changes the stages whose names end so."""
    return lambda name, array, seen, config: change(array, seen, config) if name.endswith(end) else array


def latest(seen: dict[str, Array], end: str) -> Array:
    """The last stage seen whose name ends so."""
    return next(seen[name] for name in reversed(list(seen)) if name.endswith(end))
