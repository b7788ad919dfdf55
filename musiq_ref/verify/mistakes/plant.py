"""Faults: what a port does otherwise, and how it is planted into the reference.

A fault is a change of `Conventions`, functions of the library replaced by wrong ones, or a tap. `fingerprint` plants
those of the catalogue until the reference computes what a port computed; the self-test plants each and requires that it
is named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from musiq_ref.backend import Array
from musiq_ref.config import MusiqConfig
from musiq_ref.model import musiq
from musiq_ref.model.parameters import Params
from musiq_ref.verify.ladder.stages import run_stages

Tap = Callable[[str, Array, dict[str, Array], MusiqConfig], Array]


class Fault(NamedTuple):
    """One way to compute something else.

    name: short, as reports print it;  about: what to do;  at: the first stage that shows it;
    topic: the convention that it is a value of, "" for a plain bug;  conventions: fields of `Conventions` to change;
    patches: (module, attribute, wrong function);  tap: (name, array, stages seen before, config) -> array;
    recognise: (reference, mine) -> whether this is it, for a fault of chance, which no planting can repeat;
    under: conventions of the reference without which it is no fault

    >>> Fault("erf for tanh", "use tanh", "encoder/block_00/mlp/gelu", "GELU", {"gelu": "erf"}).topic
    'GELU'
    """

    name: str
    about: str
    at: str
    topic: str = ""
    conventions: dict[str, Any] = {}  # noqa: RUF012
    patches: tuple[tuple[Any, str, Any], ...] = ()
    tap: Tap | None = None
    recognise: Callable[[np.ndarray, np.ndarray], bool] | None = None
    under: dict[str, Any] = {}  # noqa: RUF012


def run_planted(
    faults: Sequence[Fault],
    params: Params,
    image: np.ndarray,
    config: MusiqConfig,
    *,
    gradients: bool = False,
    until: str | None = None,
    features: Array | None = None,
) -> dict[str, np.ndarray]:
    """`run_stages` of the reference with faults planted into it.

    features: the stem's output, if no fault changes it, which saves computing it

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny", outputs=3, longer_sides=(64,))
    >>> image = np.zeros((40, 50, 3), np.uint8)
    >>> from musiq_ref.verify.mistakes.catalogue import FAULTS
    >>> run_planted([FAULTS["scores 0 … C−1"]], mq.init_params(config), image, config)["score"]
    array([1.], dtype=float32)
    """
    changes = {k: v for fault in faults for k, v in fault.conventions.items()}
    changed = config.replace(conventions=replace(config.conventions, **changes))
    seen: dict[str, Array] = {}
    taps = [fault.tap for fault in faults if fault.tap]

    def tap(name: str, array: Array) -> Array:
        seen[name] = array
        for one in taps:
            array = one(name, array, seen, config)
        return array

    with planted(faults), np.errstate(all="ignore"), contextlib.ExitStack() as stack:
        if features is not None:
            parts = musiq.PLAIN[config.stem]._replace(stem=lambda *_: (features, None))
            stack.enter_context(mock.patch.dict(musiq.PLAIN, {config.stem: parts}))
        return run_stages(params, image, changed, tap=tap if taps else None, gradients=gradients, until=until)


@contextlib.contextmanager
def planted(faults: Sequence[Fault]) -> Iterator[None]:
    """While it lasts, the library computes what the faults say. Not for several threads at once."""
    with contextlib.ExitStack() as stack:
        for fault in faults:
            for module, attribute, function in fault.patches:
                stack.enter_context(mock.patch.object(module, attribute, function))
        yield
