"""The test of the kit itself: every fault of the catalogue is planted and must be found and named."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from musiq_ref.model.parameters import map_params
from musiq_ref.verify.comparison.climb import compare
from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.ladder.stages import BACK
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.plant import run_planted


class SelfTest(NamedTuple):
    """What became of one planted fault: whether it was detected and named, where, and what else was named.

    shows: False where the fixture's image is such that the fault changes no number

    >>> SelfTest("BGR", True, True, "pixels/scale_0", ("BGR",)).named
    True
    """

    fault: str
    detected: bool
    named: bool
    stage: str
    names: tuple[str, ...]
    shows: bool = True


def to_plant(fixture: Fixture) -> list[str]:
    """The names of the faults that the fixture's conventions allow.

    >>> from musiq_ref.verify import build_fixture
    >>> "BGR" in to_plant(build_fixture())
    True
    """
    return [name for name, fault in MISTAKES.items() if fault.stage is not None and fault.applies(fixture.config)]


def self_test(fixture: Fixture, faults: Iterable[str] | None = None) -> Iterator[SelfTest]:
    """Plants every fault that the fixture's conventions allow into a float32 run, and compares it with the fixture.

    fixture: a loaded one
    faults: names of mistakes; all by default

    >>> from musiq_ref.verify import build_fixture
    >>> next(self_test(build_fixture(), ["BGR"]))
    SelfTest(fault='BGR', detected=True, named=True, stage='pixels/scale_0', names=('BGR',), shows=True)
    """
    single = map_params(lambda a: a.astype(np.float32), fixture.params)
    possible = to_plant(fixture)
    for name in possible if faults is None else [name for name in faults if name in possible]:
        fault = MISTAKES[name]
        gradients = (fault.stage or "").startswith(BACK)
        stages = run_planted([fault], single, fixture.image, fixture.config, gradients=gradients)
        result = compare(fixture, stages, budget=math.inf)
        names = tuple(result.diagnosis.names if result.diagnosis else ())
        if fault.stage:
            first, findings = result.first, result.diagnosis.findings if result.diagnosis else []
            named = len(findings) == 1 and name in (findings[0].name, *findings[0].others)
            right = {} if first else run_planted([], single, fixture.image, fixture.config, gradients=gradients)
            shows = first is not None or not same(stages, right)
            yield SelfTest(name, first is not None, named, first.name if first else "", names, shows)
        else:  # harmless: it must be noted, and nothing be wrong
            noted = any(note.startswith(name) for note in result.notes)
            yield SelfTest(name, noted and result.passed, noted, "padded rows", names)


def same(stages: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> bool:
    """Whether the first stages are all among the others, to the bit.

    >>> same({"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(3)}), same({"a": np.ones(2)}, {"a": np.zeros(2)})
    (True, False)
    """
    return all(np.array_equal(array, others[name]) for name, array in stages.items())
