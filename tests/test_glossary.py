"""The glossary and the code agree, both ways."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import musiq_ref as mq
from musiq_ref.model.parameters import parameter_shapes

ROOT = Path(__file__).parent.parent
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text("utf-8")
EQUATIONS = {
    int(n): re.findall(r"`([\w.]+)`", code)
    for n, code in re.findall(r"^\| \((\d+)\) \|[^|]*\|[^|]*\|(.*)\|$", GLOSSARY, re.M)
}
CITED = re.compile(r"Eq\. (\d+)(?:(?:–| and )(\d+))?")
CONFIG = mq.MusiqConfig.preset("tiny")


def thing(path: str):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def cited(docstring: str) -> set[int]:
    found: set[int] = set()
    for match in CITED.finditer(docstring):
        first, last = int(match[1]), int(match[2] or match[1])
        found |= set(range(first, last + 1)) if "–" in match[0] else {first, last}
    return found


def functions_that_compute():
    """(dotted name, function) of every public function of the ops and the model that cites an equation."""
    for folder in ("ops", "model"):
        for file in sorted((ROOT / "musiq_ref" / folder).glob("[a-z]*.py")):
            if file.stem in ("fused", "by_team"):  # the same equations once more, arranged for speed
                continue
            module = import_module(f"musiq_ref.{folder}.{file.stem}")
            for name, function in inspect.getmembers(module, inspect.isfunction):
                if function.__module__ == module.__name__ and not name.startswith("_"):
                    yield f"{module.__name__}.{name}", function


@pytest.mark.parametrize("number", EQUATIONS)
def test_the_code_of_an_equation_cites_it(number):
    assert EQUATIONS[number]
    for path in EQUATIONS[number]:
        assert number in cited(inspect.getdoc(thing(path)) or ""), f"{path} does not cite Eq. {number}"


def test_what_cites_an_equation_is_listed():
    listed = {path for paths in EQUATIONS.values() for path in paths} | {"musiq_ref.model.musiq.forward"}  # Eq. 1–11
    citing = {path for path, function in functions_that_compute() if cited(inspect.getdoc(function) or "")}
    assert citing == listed


def names(kind: str) -> list[str]:
    return re.findall(rf"{kind} `([^`]+)`", GLOSSARY)


def test_every_field_of_the_configuration_is_in_the_glossary():
    properties = [name for name, value in vars(mq.MusiqConfig).items() if isinstance(value, property)]
    listed = set(names("field"))
    assert {f.name for f in fields(mq.MusiqConfig)} <= listed
    assert listed <= {f.name for f in fields(mq.MusiqConfig)} | set(properties)


def test_parameters_and_taps_of_the_glossary_exist():
    image = np.zeros((40, 50, 3), np.uint8)
    tokens = mq.batch([mq.tokenize(image, CONFIG)])
    values, _ = mq.verify.trace(mq.init_params(CONFIG), tokens, CONFIG)
    assert set(names("parameter")) <= set(parameter_shapes(CONFIG))
    assert set(names("tap")) <= set(values)
    assert len(names("parameter")) >= 9
    assert len(names("tap")) >= 12


def test_shapes_of_the_glossary_are_those_of_the_code():
    """A row with one tap or parameter and a shape in letters: the letters are the axes."""
    image = np.zeros((40, 50, 3), np.uint8)
    tokens = mq.batch([mq.tokenize(image, CONFIG)] * 2)
    values, _ = mq.verify.trace(mq.init_params(CONFIG), tokens, CONFIG)
    arrays = {**{name: value.shape for name, value in values.items()}, **parameter_shapes(CONFIG)}
    sizes = {"B": 2, "N": tokens.mask.shape[1], "D": CONFIG.width, "H": CONFIG.heads, "D_h": CONFIG.head_width}
    sizes |= {"G²": CONFIG.grid_size**2, "S": CONFIG.scales, "1": 1, "1 + N": 1 + tokens.mask.shape[1]}
    rows = re.findall(r"^\|[^|]*\|[^|]*\| \(([^|]+)\) \|(.*)\|$", GLOSSARY, re.M)
    compared = 0
    for shape, code in rows:
        wanted = tuple(sizes[axis] for axis in re.split(r", ?", shape.strip(", ")) if axis)
        for name in re.findall(r"(?:tap|parameter) `([^`]+)`", code):
            assert arrays[name] == wanted, name
            compared += 1
    assert compared >= 20
