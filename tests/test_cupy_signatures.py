"""Every `xp.` call of the library fits CuPy: the function exists and takes these arguments.

This holds the promise "the same code on a GPU" without one, and, as the names are recorded, without CuPy. It reads the
source; what the calls compute is for tests/test_cupy_double_model.py.
"""

import ast
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import record_cupy
from recorded_cupy import cupy, signature

import musiq_ref

ROOT = Path(musiq_ref.__file__).parent

HOST = ("parameters", "noise", "folded", "by_team", "gradient_by_team", "places")
HOST_MODULES = {f"model/{name}.py" for name in HOST}
"""Files of ops/ and model/ that work on the host by design: initial values, random numbers, the team of threads."""

HOST_NAMES = {"ndarray", "generic", "dtype", "random.Generator"}
"""Names of NumPy that are only types: an annotation, an isinstance."""

HOST_FUNCTIONS = {"sinusoidal_table", "image_gradient", "random_features"}
"""Functions of ops/ and model/ that return NumPy arrays by design."""


class Call(NamedTuple):
    """One call `xp.<name>(…)` in the source: where, which, and with what (None: mentioned, but not called)."""

    place: str
    name: str
    positional: int | None
    keywords: tuple[str, ...] = ()
    starred: bool = False


def dotted(node: ast.expr) -> list[str]:
    """["xp", "linalg", "norm"] of the expression xp.linalg.norm; empty for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return [*owner, node.attr]
    return []


def is_namespace(node: ast.expr) -> bool:
    """Whether an expression is a look-up of the array library: namespace(…)."""
    return isinstance(node, ast.Call) and dotted(node.func)[-1:] == ["namespace"]


def xp_calls(source: str, place: str) -> list[Call]:
    """Every call of `xp.<name>` or `namespace(…).<name>`, and every other mention of such a name."""
    calls, seen = [], set()
    for node in ast.walk(ast.parse(source)):  # a call comes before its parts
        if isinstance(node, ast.Attribute) and node not in seen and (name := xp_name(node)):
            calls.append(Call(f"{place}:{node.lineno}", name, None))
            seen.update(ast.walk(node))
        elif isinstance(node, ast.Call) and (name := xp_name(node.func)):
            seen.update(ast.walk(node.func))
            starred = any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords)
            keywords = tuple(k.arg for k in node.keywords if k.arg)
            calls.append(Call(f"{place}:{node.lineno}", name, len(node.args), keywords, starred))
    return calls


def xp_name(node: ast.expr) -> str:
    """ "linalg.norm" of xp.linalg.norm or namespace(x).linalg.norm, else ""."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    is_xp = (isinstance(node, ast.Name) and node.id == "xp") or is_namespace(node)
    return ".".join(parts) if is_xp else ""


def complaint(call: Call) -> str:
    """What CuPy would object to in a call; empty when it fits."""
    function: Any = cupy
    for part in call.name.split("."):
        function = getattr(function, part, None)
        if function is None:
            return f"{call.place}: CuPy has no {call.name}"
    if call.positional is None:
        return ""
    if call.starred:
        return f"{call.place}: the arguments of xp.{call.name} cannot be checked; write them out"
    if isinstance(function, cupy.ufunc):
        unknown = sorted(set(call.keywords) - {"out", "dtype"})
        if unknown:
            return f"{call.place}: cupy.{call.name} takes no {unknown[0]}="
        if not function.nin <= call.positional <= function.nargs:
            return f"{call.place}: cupy.{call.name} takes {function.nin} arguments, not {call.positional}"
        return ""
    if function is cupy.einsum:
        unknown = sorted(set(call.keywords) - {"dtype", "optimize"})
        return f"{call.place}: cupy.einsum takes no {unknown[0]}=" if unknown else ""
    try:
        signature(function).bind(*[None] * call.positional, **dict.fromkeys(call.keywords))
    except TypeError as error:
        return f"{call.place}: cupy.{call.name}: {error}"
    return ""


def numpy_inside_functions(source: str, place: str) -> list[str]:
    """Places where a function uses the module np, whose result would lie on the host whatever its arguments."""
    found = set()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or function.name in HOST_FUNCTIONS:
            continue
        for statement in function.body:
            for node in ast.walk(statement):
                if isinstance(node, ast.Attribute) and (parts := dotted(node))[:1] == ["np"]:
                    name = ".".join(parts[1:])
                    if name not in HOST_NAMES and name != "random":
                        found.add(f"{place}:{node.lineno}: np.{name} in {function.name}")
    return sorted(found)


def sources(*folders: str) -> dict[str, str]:
    """{place: text} of every file of the library, or of some of its folders."""
    files = sorted(f for folder in folders or ("",) for f in (ROOT / folder).rglob("*.py"))
    return {str(f.relative_to(ROOT)): f.read_text(encoding="utf-8") for f in files}


# --------------------------------------------------------------------------------------------------------- the library


def test_the_record_is_true_of_the_installed_cupy(cupy):
    stored = json.loads(record_cupy.RECORD.read_text(encoding="utf-8"))
    assert record_cupy.record() == stored, "CuPy changed: look at the difference that tests/record_cupy.py makes"


def test_every_xp_call_fits_cupy():
    calls = [call for place, text in sources().items() for call in xp_calls(text, place)]
    assert [problem for call in calls if (problem := complaint(call))] == []


def test_the_check_sees_the_library():
    names = {call.name for place, text in sources("ops", "model").items() for call in xp_calls(text, place)}
    assert len(names) >= 10
    assert {"mean", "sum", "exp", "where"} <= names


def test_ops_and_model_compute_with_the_namespace_of_their_arguments():
    texts = {place: text for place, text in sources("ops", "model").items() if place not in HOST_MODULES}
    assert [problem for place, text in texts.items() for problem in numpy_inside_functions(text, place)] == []


# ------------------------------------------------------------------------------------------------------ planted faults


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("xp.errstate(all='ignore')", "CuPy has no errstate"),
        ("xp.lib.array_utils.normalize_axis_index(0, 1)", "CuPy has no lib.array_utils.normalize_axis_index"),
        ("xp.linalg.matrix_norms(x)", "CuPy has no linalg.matrix_norms"),
        ("xp.exp(x, where=x > 0)", "takes no where="),
        ("xp.maximum(x, y, order='C')", "takes no order="),
        ("xp.maximum(x)", "takes 2 arguments, not 1"),
        ("xp.exp(x, x, x)", "takes 1 arguments, not 3"),
        ("xp.sum(x, where=mask)", "unexpected keyword argument 'where'"),
        ("xp.max(x, initial=0)", "unexpected keyword argument 'initial'"),
        ("xp.take(x, i, mode='wrap')", "unexpected keyword argument 'mode'"),
        ("xp.swapaxes(x, 0)", "missing a required argument"),
        ("xp.mean(x, 0, None, None, True, 5)", "too many positional arguments"),
        ("xp.einsum('i,i', x, x, out=y)", "takes no out="),
        ("xp.concatenate(*arrays)", "cannot be checked"),
        ("xp.mean(x, **options)", "cannot be checked"),
        ("namespace(x).tanh(x, where=True)", "takes no where="),
        ("backend.namespace(x).nothing(x)", "CuPy has no nothing"),
        ("reduce(xp.logical_nothing, arrays)", "CuPy has no logical_nothing"),
    ],
)
def test_planted_faults_are_found(code, message):
    (call,) = xp_calls(f"def f(x):\n    return {code}\n", "planted.py")
    assert message in complaint(call)
    assert complaint(call).startswith("planted.py:2: ")


@pytest.mark.parametrize(
    "code",
    [
        "xp.exp(x, out=x)",
        "xp.exp(x, x)",
        "xp.add(x, y, dtype='float64')",
        "xp.mean(x, axis=(1, 3), keepdims=True)",
        "xp.linalg.norm(x, axis=0)",
        "xp.einsum('ij,jk->ik', x, y, optimize=True)",
        "xp.matmul(x, y, out=z)",
        "xp.pad(x, ((0, 0),), constant_values=0.0)",
        "namespace(x).tanh(x)",
        "reduce(xp.maximum, arrays)",
    ],
)
def test_good_calls_pass(code):
    (call,) = xp_calls(code, "good.py")
    assert complaint(call) == ""


@pytest.mark.parametrize("code", ["np.exp(x, where=x > 0)", "x.sum(where=m)", "exp.xp(x)", "self.xp.exp(x)", "xp"])
def test_other_code_is_left_alone(code):
    assert xp_calls(code, "other.py") == []


def test_planted_uses_of_numpy_are_found():
    code = "import numpy as np\n\ndef f(x: np.ndarray):\n    if isinstance(x, np.ndarray):\n        return np.exp(x)\n"
    assert numpy_inside_functions(code, "planted.py") == ["planted.py:5: np.exp in f"]
    assert numpy_inside_functions(code + "\nTABLE = np.zeros(3)\n", "planted.py") == ["planted.py:5: np.exp in f"]
