"""What one mistake is: a name, a remedy, and a wrong function in the place of the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.backend import Array
from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import Params

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
    tap: (name, array, stages seen before and parameters, config) -> array, for what is no function of the library
    unseen: whether the tap changes only what goes on from a stage, which a port shows as it was
    recognise: (reference, mine) -> whether this is it, for what chance decides and no planting can repeat
    under: conventions of the reference without which it is no mistake
    load: (parameters, config) -> parameters, for weights that are read wrongly
    when: whether it is one in a model

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
    unseen: bool = False
    recognise: Callable[[np.ndarray, np.ndarray], bool] | None = None
    under: dict[str, Any] = {}  # noqa: RUF012
    load: Callable[[Params, MusiqConfig], Params] | None = None
    when: Callable[[MusiqConfig], bool] = lambda config: True

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
        asked = all(now[k] == v for k, v in self.under.items()) and self.when(config)
        return asked and (not self.conventions or any(now[k] != v for k, v in self.conventions.items()))


def family(
    name: str,
    remedy: str,
    values: Mapping[str, Any] | Iterable[Any],
    op: str = "",
    function: Callable[[Any], Callable[..., Any]] | None = None,
    stage: str | None = None,
    topic: str = "",
    tap: Callable[[Any], Tap] | None = None,
    load: Callable[[Any], Callable[[Params, MusiqConfig], Params]] | None = None,
    **more: Any,
) -> list[Mistake]:
    """One mistake for every value of a parameter, the search being over all of them.

    name: with {} for the value
    values: {how it reads in the name: value}, or values that are their own names
    function, tap, load: value -> that of the mistake

    >>> [m.name for m in family("LayerNorm with ε {}", "ε is 1e-6", ["1e-5", "1e-3"])]
    ['LayerNorm with ε 1e-5', 'LayerNorm with ε 1e-3']
    """
    named = values if isinstance(values, Mapping) else {str(value): value for value in values}
    return [
        Mistake(
            name.replace("{}", text),
            remedy,
            op,
            function and function(value),
            stage,
            topic,
            tap=tap and tap(value),
            load=load and load(value),
            **more,
        )
        for text, value in named.items()
    ]


def at(end: str, change: Callable[[Array, dict[str, Array], MusiqConfig], Array]) -> Tap:
    """A tap that changes the stages whose names end so."""
    return lambda name, array, seen, config: change(array, seen, config) if name.endswith(end) else array


def latest(seen: dict[str, Array], end: str) -> Array:
    """The last stage seen whose name ends so."""
    return next(seen[name] for name in reversed(list(seen)) if name.endswith(end))
