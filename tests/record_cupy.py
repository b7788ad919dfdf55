"""Writes the names and arguments of the installed CuPy into cupy_record.json: `python tests/record_cupy.py`.

CuPy's package imports without a GPU, but it weighs more than all else that the tests need: they read the record. With
the package installed, a test compares the two.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

RECORD = Path(__file__).with_name("cupy_record.json")
MODULES = ("cupy", "cupy.fft", "cupy.lib", "cupy.lib.stride_tricks", "cupy.linalg", "cupy.random")
OTHERS = ("cupyx.scipy.special.erf",)


def record() -> dict[str, Any]:
    """{"version": …, "names": {module: {name: what it is}}, "array": {method: its arguments}} of the installed CuPy."""
    import cupy

    names = {module: kinds(module) for module in MODULES}
    for path in OTHERS:
        module, name = path.rsplit(".", 1)
        names[module] = {name: kind(getattr(importlib.import_module(module), name), None)}
    array = {name: method_arguments(name, getattr(cupy.ndarray, name)) for name in sorted(dir(cupy.ndarray))}
    return {"version": cupy.__version__, "names": names, "array": array}


def kinds(module: str) -> dict[str, str]:
    """What every name of a module is; without those that CuPy keeps as None because it does not support them."""
    there = importlib.import_module(module)
    try:
        numpys = importlib.import_module(module.replace("cupy", "numpy", 1))
    except ModuleNotFoundError:
        numpys = None
    found = {name: getattr(there, name, None) for name in sorted(dir(there)) if not name.startswith("_")}
    return {
        name: kind(thing, getattr(numpys, name, None))
        for name, thing in found.items()
        if thing is not None and (not isinstance(thing, ModuleType) or thing.__name__ in MODULES)
    }


def kind(thing: Any, numpys: Any) -> str:
    """ "module", "numpy" (the same object), "class", "value", "ufunc 1 1 2" (nin, nout, nargs), or the arguments."""
    import cupy

    if isinstance(thing, ModuleType):
        return "module"
    if thing is numpys:
        return "numpy"
    if isinstance(thing, cupy.ufunc):
        return f"ufunc {thing.nin} {thing.nout} {thing.nargs}"
    if isinstance(thing, type):
        return "class"
    return arguments(thing) if callable(thing) else "value"


def arguments(function: Any) -> str:
    """ "(a, axis=None, *, keepdims=None)": which there are and which may be left out; "builtin" if it does not say."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return "builtin"
    plain = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None)
        for p in signature.parameters.values()
    ]
    return str(inspect.Signature(plain))


def method_arguments(name: str, method: Any) -> str:
    """The arguments of a method of cupy.ndarray, which CuPy writes in the first line of its docstring; or ""."""
    first = (getattr(method, "__doc__", "") or "").partition("\n")[0]
    found = re.fullmatch(r"\w+\." + name + r"\((.*)\)( -> .*)?", first)
    if not found:
        return ""
    parameters = re.sub(r"\b[A-Za-z_]\w* (?=\w+\s*[,=]|\w+$)", "", found[1])  # C types, as in "int axis=-1"
    return arguments(eval(f"lambda {parameters}: None", {"np": np}))


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
