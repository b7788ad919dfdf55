"""The gradient check: is a hand-written backward the transpose of its forward's derivative?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.model.parameters import flatten
from musiq_ref.verify.check.returned import (
    MalformedError,
    array,
    call,
    gradients_of,
    kind,
    pair,
    require_positive,
    require_whole,
    whole,
    wrong_shape,
)
from musiq_ref.verify.mistakes.patterns import patterns

ROUNDING = 100 * np.finfo(np.float64).eps  # relative error of a forward of many steps
ENTRIES = 64  # of a wrong gradient, up to which each is compared with a difference of its own


class GradientError(AssertionError):
    """A backward that disagrees with its forward; the message says which gradient is wrong, and by how much.

    >>> issubclass(GradientError, AssertionError)
    True
    """


class Gradient(NamedTuple):
    """What the backward gave for one array: the array's place among the inputs, the gradient's name, both arrays."""

    place: str
    name: str
    x: np.ndarray
    value: np.ndarray


def check_vjp(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    inputs: Sequence[Any],
    *,
    seed: int = 0,
    step: float = 1e-6,
    rtol: float = 1e-6,
) -> float:
    """Compares a backward with central differences of its forward along random directions, for a random cotangent.

    For y = f(x), a random direction v and a random cotangent c, both sides of
    ⟨c, (f(x + h·v) − f(x − h·v))/2h⟩ = ⟨backward(c), v⟩ must agree: along a direction through each input alone, so
    that the wrong gradient is named, then along one through all at once. A cotangent of ones would pass a softmax
    backward that returns zeros.

    forward: (*inputs) -> (y, cache), as all ops of this library; its arguments cannot be written to
    backward: (dy, cache) -> the gradients in the order of the inputs (a tuple, or a single one)
    inputs: float64 arrays, or nested dicts of them; whatever else (integers, booleans, strings, None) is passed on and
        has no gradient
    seed: of the directions and the cotangent
    step: h
    rtol: of the larger side, and of the size that a derivative along such a direction typically has

    Returns the largest relative error. Raises GradientError when it exceeds rtol, or when a function returns something
    that cannot be checked, in a sentence that says what; ValueError when an input is float32, in which differences
    drown in rounding, or when no number could be wrong (no values, a step or rtol not between 0 and 1).

    >>> from musiq_ref.ops.softmax import softmax, softmax_backward
    >>> x = np.random.default_rng(0).normal(size=(3, 5))
    >>> check_vjp(softmax, softmax_backward, [x]) < 1e-6
    True
    >>> check_vjp(softmax, lambda dy, cache: 0 * dy, [x])
    Traceback (most recent call last):
    musiq_ref.verify.check.gradient.GradientError: dx is wrong: along a random direction the backward gives 0, ...
    """
    require_positive("step", step, 1)
    require_positive("rtol", rtol, 1)
    require_whole("seed", seed, 0)
    rng = np.random.default_rng(seed)
    arrays = _arrays(inputs)
    try:
        y, cache = pair(call("forward", forward, *(_frozen(x) for x in inputs)))
        y = _output(array("y", y))
        cotangent = rng.standard_normal(y.shape)
        gradients = _gradients(forward, inputs, arrays, call("backward", backward, _frozen(cotangent), cache))
    except MalformedError as error:
        raise GradientError(str(error)) from error.__cause__
    rounding = ROUNDING / step * np.sqrt(((cotangent * y) ** 2).sum())  # of the differences, when the derivative is 0

    def compared(directions: dict[str, np.ndarray]) -> tuple[float, float, float]:
        """(the backward's, the differences' derivative along directions, by place; relative error)"""
        change = cotangent * _difference(forward, inputs, directions, step)
        numeric = change.sum()
        products = [(g.value * directions[g.place]).ravel() for g in gradients if g.place in directions]
        analytic = sum(product.sum() for product in products)
        typical = np.sqrt((change**2).sum()) + np.sqrt(sum((product**2).sum() for product in products))
        size = max(abs(numeric), abs(analytic), typical, rounding / rtol, 1e-300)
        return float(analytic), float(numeric), float(abs(numeric - analytic) / size)

    found = [compared({g.place: rng.standard_normal(g.x.shape)}) for g in gradients]
    wrong = [i for i, (_, _, error) in enumerate(found) if not error <= rtol]
    if not wrong:
        found.append(compared({g.place: rng.standard_normal(g.x.shape) for g in gradients}))
    along = "a random direction" if wrong else "a direction through all inputs"
    analytic, numeric, error = found[wrong[0] if wrong else -1]
    if error <= rtol:
        return max(error for _, _, error in found)
    if not np.array_equal(y, call("forward", forward, *inputs)[0]):
        raise GradientError(
            "the forward gives another result when it is called again with the same inputs; "
            "draw its random numbers from a fixed seed"
        )
    name = gradients[wrong[0]].name if wrong else "the gradient"
    digits = 6 if f"{analytic:.6g}" != f"{numeric:.6g}" else 12
    message = (
        f"{name} is wrong: along {along} the backward gives {analytic:.{digits}g}, "
        f"differences of the forward {numeric:.{digits}g} "
        f"(relative error {error:.1e}, allowed {rtol:.1e})"
    )
    if wrong:

        def numerically(g: Gradient) -> np.ndarray:
            units = np.eye(g.x.size).reshape(-1, *g.x.shape)
            steps = (_difference(forward, inputs, {g.place: unit}, step) for unit in units)
            return np.array([(cotangent * slope).sum() for slope in steps]).reshape(g.x.shape)

        message += "".join(_remarks(gradients, wrong, numerically))
    raise GradientError(message)


def _output(y: np.ndarray) -> np.ndarray:
    """The forward's output, of which a derivative can be taken."""
    if y.dtype.kind in "iub":
        raise MalformedError(
            "y", "dtype", f"y is an array of {y.dtype}; what is cut off to whole numbers has no derivative"
        )
    if y.dtype.itemsize < 8:
        raise MalformedError(
            "y", "dtype", f"y is {y.dtype} though the inputs are float64; differences drown in rounding"
        )
    return _finite("y", y)


def _finite(what: str, x: np.ndarray) -> np.ndarray:
    if not np.isfinite(x).all():
        at = np.argwhere(~np.isfinite(x))[0].tolist()
        raise MalformedError(what, "values", f"{what} is not finite: {x[tuple(at)]} at {at}")
    return x


def _arrays(inputs: Sequence[Any]) -> list[dict[str, np.ndarray]]:
    """For every input {place: array} of its float arrays; ValueError where there is no gradient to check."""
    if not isinstance(inputs, list | tuple):
        raise ValueError(f"inputs must be a list of arrays, such as [x], and not {kind(inputs)}")
    found = []
    for i, x in enumerate(inputs):
        parts = dict(flatten(x, f"{i}/")) if isinstance(x, dict) else {str(i): x}
        found.append({n: a for n, a in parts.items() if isinstance(a, np.ndarray) and a.dtype.kind == "f"})
        for place, a in found[-1].items():
            if a.dtype != np.float64:
                raise ValueError(f"input {place} is {a.dtype}; a gradient check needs float64")
            if not a.size:
                raise ValueError(f"input {place} has shape {a.shape}, so no values; there is no gradient to check")
    if not any(found):
        raise ValueError("none of the inputs is a float64 array; there is no gradient to check")
    return found


def _gradients(forward: Callable[..., Any], inputs: Sequence[Any], arrays: list, given: Any) -> list[Gradient]:
    """What the backward gave for every float array among the inputs."""
    names = _names(forward, len(inputs))
    values = gradients_of(given, names, least=1 + max(i for i, leaves in enumerate(arrays) if leaves))
    shapes = {name: np.shape(x) for name, x in zip(names, inputs, strict=True) if isinstance(x, np.ndarray)}
    return [
        g for i, value in enumerate(values) for g in _of_input(str(i), names[i], inputs[i], arrays[i], value, shapes)
    ]


def _of_input(place, name, x, leaves, value, shapes) -> Iterator[Gradient]:
    """The gradients of one input, an array or a nested dict of arrays."""
    if leaves and isinstance(x, dict) and not isinstance(value, dict):
        raise MalformedError(name, "kind", f"{name} is {kind(value)}, not a dict like {name.removeprefix('d')}")
    parts = dict(flatten(value, f"{place}/")) if isinstance(value, dict) else {place: value}
    for leaf, wanted in leaves.items():
        label = name + leaf.removeprefix(place)
        if leaf not in parts:
            raise MalformedError(label, "missing", f"{label} is missing among the gradients")
        gradient = array(label, parts[leaf])
        if gradient.shape != wanted.shape:
            others = {} if isinstance(x, dict) else {n: s for n, s in shapes.items() if n != name}
            raise MalformedError(label, "shape", wrong_shape(label, gradient.shape, wanted.shape, others))
        yield Gradient(leaf, label, wanted, _finite(label, gradient))


def _names(forward: Callable[..., Any], count: int) -> list[str]:
    """The gradients' names, after the forward's parameters: dx, dkernel, …"""
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [f"d{n}" for n in named[:count]] + [f"d(input {i})" for i in range(len(named), count)]


def _remarks(gradients: list[Gradient], wrong: list[int], numerically: Callable) -> Iterator[str]:
    """Which other gradients are wrong, too; where the first one is most wrong; what its numbers look like."""
    bad = gradients[wrong[0]]
    also = [gradients[i].name for i in wrong[1:]]
    right = [g.name for i, g in enumerate(gradients) if i not in wrong]
    yield f"; wrong, too: {', '.join(also[:5])}{' …' * (len(also) > 5)}" if also else ""
    yield f"; right: {', '.join(right[:5])}{' …' * (len(right) > 5)}" if right else ""
    yield whole(bad.value)
    if bad.x.size > ENTRIES:
        return
    numeric = numerically(bad)
    at = np.unravel_index(int(np.abs(bad.value - numeric).argmax()), bad.x.shape)
    index = f"[{', '.join(map(str, at))}]" if at else ""
    yield f". Most wrong is {bad.name}{index}: it is {bad.value[at]:.6g} and must be {numeric[at]:.6g}"
    if bad.x.size >= 4:
        alike = [g for g in gradients if g is not bad and g.x.size == bad.x.size]
        others = {g.name: numerically(g) for g in alike[:3]}
        hint = next(patterns(numeric, np.asarray(bad.value, float), others, tolerance=1e-5), "")
        yield f". Hint: {hint}" if hint else ""


def _frozen(x: Any) -> Any:
    """The same numbers, which cannot be written to."""
    if isinstance(x, dict):
        return {key: _frozen(value) for key, value in x.items()}
    if isinstance(x, np.ndarray):
        x = x.view()
        x.flags.writeable = False
    return x


def _difference(forward: Callable[..., Any], inputs: Sequence[Any], v: dict[str, np.ndarray], h: float) -> np.ndarray:
    """The central difference of the forward along directions, by place."""

    def move(x, place, by):
        if isinstance(x, dict):
            return {key: move(value, f"{place}/{key}", by) for key, value in x.items()}
        return x + by * v[place] if place in v else x

    try:
        ahead, behind = (
            array("y", pair(call("forward", forward, *(move(x, str(i), by) for i, x in enumerate(inputs))))[0])
            for by in (h, -h)
        )
    except MalformedError as error:
        raise GradientError(f"with inputs moved by {h:g}: {error}") from error.__cause__
    return (ahead - behind) / (2 * h)
