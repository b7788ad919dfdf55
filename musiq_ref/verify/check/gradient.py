"""The gradient check: is a hand-written backward the transpose of its forward's derivative?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from musiq_ref.model.parameters import flatten

ROUNDING = 100 * np.finfo(np.float64).eps  # relative error of a forward of many steps


class GradientError(AssertionError):
    """A backward that disagrees with its forward; the message says by how much and for which input.

    >>> issubclass(GradientError, AssertionError)
    True
    """


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
    ⟨c, (f(x + h·v) − f(x − h·v))/2h⟩ = ⟨backward(c), v⟩ must agree: along a direction through all inputs at once, and
    along one through each input alone. A cotangent of ones would pass a softmax backward that returns zeros.

    forward: (*inputs) -> (y, cache), as all ops of this library
    backward: (dy, cache) -> the gradients in the order of the inputs (a tuple, or a single one)
    inputs: float64 arrays, or nested dicts of them; whatever else (integers, booleans, strings, None) is passed on and
        has no gradient
    seed: of the directions and the cotangent
    step: h
    rtol: of the larger side, and of the size that a derivative along such a direction typically has

    Returns the largest relative error. Raises GradientError when it exceeds rtol, or a gradient has the wrong
    shape; ValueError when an input is float32, in which differences drown in rounding.

    >>> from musiq_ref.ops.softmax import softmax, softmax_backward
    >>> x = np.random.default_rng(0).normal(size=(3, 5))
    >>> check_vjp(softmax, softmax_backward, [x]) < 1e-6
    True
    >>> check_vjp(softmax, lambda dy, cache: 0 * dy, [x])
    Traceback (most recent call last):
    musiq_ref.verify.check.gradient.GradientError: along all inputs: the backward gives 0, ...
    """
    rng = np.random.default_rng(seed)
    y, cache = forward(*inputs)
    cotangent = rng.standard_normal(np.shape(y))
    gradients = backward(cotangent, cache)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    pairs = _pair(inputs, gradients)
    if not pairs:
        raise ValueError("none of the inputs is a float64 array; there is no gradient to check")
    rounding = ROUNDING / step * np.sqrt(((cotangent * y) ** 2).sum())  # of the differences, when the derivative is 0
    worst = 0.0
    for label, only in [("all inputs", None), *((name, name) for name, _, _ in pairs)]:
        v = {name: rng.standard_normal(x.shape) if only in (None, name) else np.zeros(x.shape) for name, x, _ in pairs}
        ahead, behind = (forward(*_shift(inputs, v, sign * step))[0] for sign in (1, -1))
        change = cotangent * (ahead - behind) / (2 * step)
        numeric = change.sum()
        products = [(gradient * v[name]).ravel() for name, _, gradient in pairs]
        analytic = sum(product.sum() for product in products)
        typical = np.sqrt((change**2).sum()) + np.sqrt(sum((product**2).sum() for product in products))
        error = abs(numeric - analytic) / max(abs(numeric), abs(analytic), typical, rounding / rtol, 1e-300)
        if not error <= rtol:
            raise GradientError(
                f"along {label}: the backward gives {analytic:.9g}, differences of the forward {numeric:.9g} "
                f"(relative error {error:.1e}, allowed {rtol:.1e})"
            )
        worst = max(worst, float(error))
    return worst


def _pair(inputs, gradients) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, input, gradient) of every float64 array among the inputs."""
    pairs = []
    for i, x in enumerate(inputs):
        leaves = dict(flatten(x, f"input {i}/")) if isinstance(x, dict) else {f"input {i}": x}
        leaves = {
            name: leaf for name, leaf in leaves.items() if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"
        }
        if not leaves:
            continue
        if i >= len(gradients):
            raise GradientError(f"the backward returns {len(gradients)} gradients; none is for input {i}")
        given = dict(flatten(gradients[i], f"input {i}/")) if isinstance(x, dict) else {f"input {i}": gradients[i]}
        for name, leaf in leaves.items():
            if leaf.dtype != np.float64:
                raise ValueError(f"{name} is {leaf.dtype}; a gradient check needs float64")
            if name not in given or np.shape(given[name]) != leaf.shape:
                shape = np.shape(given[name]) if name in given else "missing"
                raise GradientError(f"the gradient to {name} is {shape}, not of shape {leaf.shape}")
            pairs.append((name, leaf, given[name]))
    return pairs


def _shift(inputs, v, h):
    """The inputs moved by h along the direction v."""

    def move(x, name):
        if isinstance(x, dict):
            return {key: move(value, f"{name}/{key}") for key, value in x.items()}
        return x + h * v[name] if name in v else x

    return [move(x, f"input {i}") for i, x in enumerate(inputs)]
