"""Ports as callables: run freely, step by step on the reference's inputs, or bisected.

A port is a function `port(fixture, tap)`. It reads `fixture.image`, `fixture.params` and `fixture.config`, computes,
hands every stage it can to `tap(name, array)`, and goes on with what the tap returns; it may also return a dict of
further stages, with sentences for the report under "notes". A port that never calls the tap can be compared, but not
stepped or bisected.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from musiq_ref.suggest import did_you_mean, similar_file
from musiq_ref.verify.comparison.climb import compare, read_stages
from musiq_ref.verify.comparison.report import Comparison
from musiq_ref.verify.ladder.fixture import Fixture
from musiq_ref.verify.ladder.layouts import unfit
from musiq_ref.verify.ladder.stages import run_stages


class PortError(ValueError):
    """A port that raised, or returned what is no stages; the message says where.

    >>> issubclass(PortError, ValueError)
    True
    """


Port = Callable[[Fixture, Callable[[str, Any], Any]], Mapping[str, Any] | None]


def run_port(fixture: Fixture, port: Port, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The stages of a port; where `given` has a stage, the port goes on with that instead of its own.

    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture(image=np.zeros((40, 50, 3), np.uint8))
    >>> run_port(fixture, lambda fixture, tap: {"score": tap("head/logits", np.ones((1, 2))).sum(1)})["score"]
    array([2.])
    """
    seen: dict[str, Any] = {}

    def tap(name: str, array: Any) -> Any:
        seen[name] = np.array(array)  # of a stage that is shown part by part, the last time has all parts
        if given is None or name not in given or name not in fixture.stages:
            return array
        return unfit(np.asarray(given[name]), seen[name], fixture.stages[name], fixture)

    try:
        returned = port(fixture, tap) or {}
    except Exception as error:
        raise PortError(_raised(getattr(port, "__name__", "the port"), error)) from error
    if not isinstance(returned, Mapping) or not all(isinstance(name, str) for name in returned):
        raise PortError(f"the port returned a {type(returned).__name__}; let it return None or {{stage name: array}}")
    return {**returned, **seen}  # what the tap was shown is what the port computed


def _raised(name: str, error: BaseException) -> str:
    """What went wrong in somebody's code, and in which line of it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename] or frames
    where, what = f", {own[-1].filename} line {own[-1].lineno}" if own else "", str(error)
    if isinstance(error, SyntaxError):
        where, what = f", {error.filename} line {error.lineno}", error.msg
    return f"{name} raised {type(error).__name__}: {' '.join(what.split())}{where}"


def compare_port(fixture: Fixture, port: Port, **options: Any) -> Comparison:
    """`compare`, with its options, of the stages of a callable.

    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture(image=np.zeros((40, 50, 3), np.uint8))
    >>> compare_port(fixture, reference_port).passed
    True
    """
    return _compared(fixture, run_port(fixture, port), **options)


def _compared(fixture: Fixture, stages: dict[str, Any], **options: Any) -> Comparison:
    notes = stages.pop("notes", [])
    result = compare(fixture, stages, **options)
    return replace(result, notes=[*notes, *result.notes])


def reference_port(fixture: Fixture, tap: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The reference itself as a port, in float64: an example, and what the others are compared with.

    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture(image=np.zeros((40, 50, 3), np.uint8))
    >>> reference_port(fixture, lambda name, array: array)["score"].shape
    (1,)
    """
    return run_stages(fixture.params, fixture.image, fixture.config, tap=tap, gradients=False)


def single_step(fixture: Fixture, port: Port, **options: Any) -> Comparison:
    """Every stage computed from the reference's input: errors do not grow, and every wrong stage shows by itself.

    options: those of `compare`

    >>> from musiq_ref.verify import build_fixture
    >>> fixture = build_fixture(image=np.zeros((40, 50, 3), np.uint8))
    >>> single_step(fixture, reference_port).mode
    'single-step'
    """
    exact = run_stages(fixture.params, fixture.image, fixture.config, gradients=False)
    result = _compared(fixture, run_port(fixture, port, exact), diagnose=False, **options)
    return replace(result, mode="single-step")


def bisect(fixture: Fixture, port: Port) -> str:
    """The first encoder block that is wrong, found with about log2(blocks) runs; "" when the score is right.

    A run is given the reference's output of one block. If its score is right then, the fault lies before. Works for one
    fault; with several, it finds the last one. The port need only tap "encoder/input" and "encoder/block_XX/output",
    and give "head/logits" or "score".

    >>> from musiq_ref.verify import build_fixture
    >>> bisect(build_fixture(image=np.zeros((40, 50, 3), np.uint8)), reference_port)
    ''
    """
    exact = run_stages(fixture.params, fixture.image, fixture.config, gradients=False)
    places = ["encoder/input", *(f"encoder/block_{i:02d}/output" for i in range(fixture.config.layers))]

    def right(given: Mapping[str, Any] | None) -> bool:
        stages = run_port(fixture, port, given)
        last = "head/logits" if "head/logits" in stages else "score"
        return compare(fixture, {last: stages[last]}, diagnose=False).passed

    if right(None):
        return ""
    if right({places[0]: exact[places[0]]}):
        return "before the encoder"
    if not right({places[-1]: exact[places[-1]]}):
        return "after the encoder"
    good, bad = 0, len(places) - 1  # given `good`, the score is wrong; given `bad`, it is right
    while bad - good > 1:
        middle = (good + bad) // 2
        if right({places[middle]: exact[places[middle]]}):
            bad = middle
        else:
            good = middle
    return places[bad].rpartition("/")[0]


def load_callable(name: str) -> Port:
    """The port that "FILE.py:FUNCTION" or "MODULE:FUNCTION" names.

    What is imported is looked for as Python does it for a program: first in the file's folder, or in the current one.

    >>> load_callable("musiq_ref.verify.adapters:reference_port").__name__
    'reference_port'
    """
    place, _, attribute = name.rpartition(":")
    if place.endswith(".py") and not Path(place).is_file():
        raise ValueError(f"{name}: there is no file {place}{similar_file(Path(place))}")
    folder = str((Path(place).parent if place.endswith(".py") else Path()).resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise ValueError(f"{place}: cannot be read as Python")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except (ImportError, OSError) as error:
        raise ValueError(f"{name}: {error}") from None
    except (Exception, SystemExit) as error:
        raise PortError(_raised(place, error)) from error
    found: Any = getattr(module, attribute, None)
    if callable(found):
        return cast(Port, found)
    known = [one for one, value in vars(module).items() if callable(value)]
    raise ValueError(f"{name}: there is no function {attribute!r} in {place}{did_you_mean(attribute, known)}")


def run_command(command: str, fixture: Fixture, timeout: float = 3600) -> dict[str, np.ndarray]:
    """The stages that a program writes: it is run with the fixture's folder and an empty folder as its last arguments,
    and writes .npy files, named like the stages, into the second.

    Raises ValueError when it fails, with the last line that it printed or the last that speaks of an error, and when it
    writes nothing.
    """
    if fixture.path is None:
        raise ValueError("a program needs a fixture on disk; make one with make_fixture")
    with tempfile.TemporaryDirectory() as folder:
        try:
            arguments = [*shlex.split(command), str(fixture.path.resolve()), folder]
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{command}: was stopped after {timeout:g} seconds") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{command}: could not be run ({error})") from None
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
            why = next((line for line in reversed(lines) if re.search(r"error\b", line, re.IGNORECASE)), lines[-1])
            raise ValueError(f"{command}: ended with exit code {done.returncode}: {why.strip()}")
        if not any(Path(folder).rglob("*.npy")):
            raise ValueError(
                f"{command}: wrote no .npy file into the folder that is its last argument; write one for each stage, "
                "named like those of the fixture"
            )
        return read_stages(folder)
