"""The names and arguments of CuPy without CuPy: what record_cupy.py wrote, as modules, functions and an array type.

`from recorded_cupy import cupy`, then `cupy.linalg.norm`, `hasattr(cupy, "errstate")`, `signature(cupy.mean)`.
"""

from __future__ import annotations

import inspect
import json
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from record_cupy import RECORD

KNOWN = json.loads(RECORD.read_text(encoding="utf-8"))
ARRAY = KNOWN["array"]
"""{attribute: arguments or ""} of cupy.ndarray."""


class Recorded:
    """A function of CuPy, which is not run; `signature` reads its arguments."""

    def __init__(self, name: str, kind: str):
        self.name, self.kind = name, kind

    def __call__(self, *args, **kwargs):
        raise NotImplementedError(f"{self.name} is only a record")


class Ufunc(Recorded):
    def __init__(self, name: str, kind: str):
        super().__init__(name, kind)
        self.nin, self.nout, self.nargs = map(int, kind.split()[1:])


def signature(function: Recorded) -> inspect.Signature:
    """The arguments of a function or, given as Recorded(name, ARRAY[name]), of a method; TypeError if unknown."""
    if not function.kind.startswith("("):
        raise TypeError(f"{function.name} does not say which arguments it takes")
    return inspect.signature(eval(f"lambda {function.kind[1:-1]}: None"))


def _thing(module: str, name: str, kind: str) -> Any:
    path = f"{module}.{name}"
    if kind == "module":
        return _module(path)
    if kind == "numpy":
        owner: Any = np
        for part in path.split(".")[1:]:
            owner = getattr(owner, part)
        return owner
    if kind in ("class", "value"):
        return SimpleNamespace(path=path)
    return Ufunc(path, kind) if kind.startswith("ufunc") else Recorded(path, kind)


def _module(path: str) -> Any:
    module = ModuleType(path)
    module.__dict__.update({name: _thing(path, name, kind) for name, kind in KNOWN["names"][path].items()})
    return module


cupy = _module("cupy")
cupy.ufunc = Ufunc
