"""The reference on the image of a fixture, run again and again with mistakes planted into it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import numpy as np

from musiq_ref.backend import Array
from musiq_ref.model.parameters import Params, map_params
from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.ladder.stages import BACK
from musiq_ref.verify.mistakes.mistake import Mistake
from musiq_ref.verify.mistakes.plant import run_planted


class Reference:
    """The reference on a fixture's image, to plant into."""

    def __init__(self, fixture: Fixture) -> None:
        self.fixture = fixture
        self.features: tuple[tuple[str, ...], np.ndarray] | None = None  # of the last whole run, and for which mistakes
        self.whole: dict[str, Any] = {}  # a port's arrays in its layout
        ends = max((i for i, name in enumerate(fixture.stages) if name == "stem/output"), default=-1)
        self.before = list(fixture.stages)[: ends + 1]

    def run(
        self,
        mistakes: Sequence[Mistake],
        dtype: str = "float64",
        until: str | None = None,
        back: bool = False,
        given: Mapping[str, Array] | None = None,
    ) -> dict[str, np.ndarray]:
        """The stages with mistakes planted, up to a stage; the way back is run if asked for, or if it lies there."""
        fixture, back = self.fixture, back if until is None else until.startswith(BACK)
        given = dict(given or {})
        key = tuple(sorted([m.name for m in mistakes if self._in_the_stem(m)] + [n for n in given if n in self.before]))
        if until is not None and until not in self.before and dtype == "float64" and self.features:
            given |= {"stem/output": self.features[1]} if self.features[0] == key else {}
        params = fixture.params if dtype == "float64" else self.single
        run = run_planted(mistakes, params, fixture.image, fixture.config, gradients=back, until=until, given=given)
        if until is None and dtype == "float64" and "stem/output" in run:
            self.features = key, run["stem/output"]
        return run

    def _in_the_stem(self, mistake: Mistake) -> bool:
        """Whether a mistake may change what comes out of the stem."""
        stage = "*" if mistake.stage is None else mistake.stage
        return mistake.op not in ("hash_axis", "hash_index") and any(fnmatch(name, stage) for name in self.before)

    @functools.cached_property
    def single(self) -> Params:
        """The parameters in float32."""
        return map_params(lambda a: a.astype(np.float32), self.fixture.params)
