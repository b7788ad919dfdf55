"""Somebody's pair against the library's on one input: the first wrong result, and a name for it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.verify.check.catalogue import Draw, Op
from musiq_ref.verify.check.returned import MalformedError, array, call, gradients_of, pair, whole, wrong_shape
from musiq_ref.verify.mistakes.catalogue import mistakes_of
from musiq_ref.verify.mistakes.mistake import Mistake
from musiq_ref.verify.mistakes.patterns import patterns


class Failure(NamedTuple):
    """One wrong result: which, what kind of wrong, in a sentence, and the two arrays."""

    what: str
    kind: str
    sentence: str
    expected: Any = None
    actual: Any = None


class Trial(NamedTuple):
    """One input: sizes and options, the arguments, the cotangent of the result."""

    sizes: dict[str, Any]
    inputs: list[Any]
    cotangent: Any


class Checker(NamedTuple):
    """Somebody's pair against the library's."""

    name: str
    entry: Op
    forward: Callable[..., Any] | None
    backward: Callable[..., Any] | None
    dtype: str
    rtol: float

    def trial(self, sizes: dict[str, Any], seed: int) -> Trial:
        """The input of those sizes and that seed, with a cotangent for the library's result."""
        inputs = [_converted(x, self.dtype) for x in self.entry.inputs(Draw(seed), **sizes)]
        y, _ = self._reference(inputs)
        cotangent = np.random.default_rng((seed, 1)).standard_normal(np.shape(y))
        return Trial(sizes, inputs, np.asarray(cotangent, dtype=self.dtype)[()])

    def _reference(self, inputs: list[Any]) -> tuple[Any, Any]:
        result = self.entry.forward(*copy.deepcopy(inputs))
        return result if self.entry.backward else (result, None)

    def failure(self, trial: Trial) -> Failure | None:
        """The first wrong result of the pair, or None."""
        try:
            return self._failure(trial)
        except MalformedError as error:
            return Failure(error.what, error.kind, str(error))

    def _failure(self, trial: Trial) -> Failure | None:
        y, cache = self._reference(trial.inputs)
        if self.forward:
            given = attempt("forward", self.forward, *(frozen(x) for x in copy.deepcopy(trial.inputs)))
            if self.entry.backward:
                given, cache = pair(given)
            factor = self.entry.visible(trial.inputs) if self.entry.visible else None
            wrong = self._wrong("y", y, _result(given), factor)
            if wrong and self.entry.backward and self._swapped(y, cache, factor):
                return wrong._replace(kind="pair", sentence="the forward returns (cache, y); the order is (y, cache)")
            if wrong:
                return wrong
        return self._backward_failure(trial, cache) if self.backward and self.entry.backward else None

    def _swapped(self, y: Any, cache: Any, factor: Any) -> bool:
        """Whether what stands in the place of the cache is the right result."""
        return isinstance(cache, np.ndarray) and self._wrong("y", y, cache, factor) is None

    def _backward_failure(self, trial: Trial, cache: Any) -> Failure | None:
        """The first wrong gradient, or None."""
        given = attempt("backward", self.backward, frozen(self._cotangent(trial)), cache)  # type: ignore[arg-type]
        gradients = gradients_of(given, [f"d{name}" for name in self.entry.gradients])
        expected, actual = self._gradients(trial), as_dict(gradients, self.entry.gradients)
        floor = 1e-3 * max(float(np.abs(g).max(initial=0)) for g in expected.values())
        others = {name: np.shape(g) for name, g in expected.items() if len(expected) == len(gradients)}
        for what, numbers in expected.items():
            if what not in actual:
                return Failure(what, "missing", f"the backward returns no {what}")
            relatives = {name: shape for name, shape in others.items() if name != what}
            wrong = self._wrong(what, numbers, actual[what], None, floor, relatives)
            if wrong:
                return wrong
        return None

    def _wrong(
        self, what: str, expected: Any, actual: Any, factor: Any, floor: float = 0.0, others: dict | None = None
    ) -> Failure | None:
        plain = self.entry.backward is None  # a function that may give a list or a tuple of numbers
        actual = array(what, np.asarray(actual) if plain and isinstance(actual, list | tuple) else actual)
        expected = np.asarray(expected)
        if actual.shape != expected.shape:
            sentence = wrong_shape(what, actual.shape, expected.shape, others or {})
            return Failure(what, "shape", sentence, expected, actual)
        if expected.dtype == np.float32 and actual.dtype != np.float32:
            sentence = f"{what} is {actual.dtype} though the inputs are float32"
            return Failure(what, "dtype", sentence, expected.dtype, actual.dtype)
        if factor is not None:
            expected, actual = expected * factor, actual * factor
        with np.errstate(all="ignore"):
            gap = np.abs(actual.astype(float) - expected.astype(float))
        gap = np.where(actual == expected, 0, gap)
        size = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
        if (gap <= self.rtol * max(size, floor)).all():
            return None
        finite = np.isfinite(gap).all()
        by = f", by {gap.max():.2g} where values reach {size:.2g}" if finite else ": it is not finite everywhere"
        cut = whole(actual) if expected.dtype.kind == "f" else ""
        return Failure(what, "values", f"{what} is wrong{by}{cut}", expected, actual)

    def hint(self, trial: Trial, failure: Failure) -> str:
        """A known mistake that gives the same wrong numbers, or what they look like."""
        if failure.kind == "dtype":
            return "a NumPy float64 scalar turns float32 arrays into float64; use Python floats (math.sqrt)"
        if failure.kind not in ("values", "shape"):
            return ""
        known = mistakes_of(self.name if failure.what == "y" else f"{self.name}_backward")
        named = next((m.sentence for m in known if self._gives(m, trial, failure)), "")
        if named or failure.kind == "shape":
            transposed = failure.actual.shape == failure.expected.shape[::-1]
            return named or ("it is transposed" if transposed else "")
        relatives = {name: x for name, x in self.named_inputs(trial, failure.what).items() if name != failure.what}
        if failure.what != "y":
            relatives |= {k: v for k, v in self._gradients(trial).items() if k != failure.what}
        return next(patterns(failure.expected, failure.actual, relatives), "")

    def _gives(self, mistake: Mistake, trial: Trial, failure: Failure) -> bool:
        """Whether a mistake gives the wrong numbers of a failure."""
        inputs = copy.deepcopy(trial.inputs)
        if failure.what == "y":
            numbers = _planted(mistake.function, *inputs)  # type: ignore[arg-type]
            numbers = _result(numbers[0] if self.entry.backward and isinstance(numbers, tuple) else numbers)
        else:
            function = self.entry.like_backward(mistake.function)
            numbers = _planted(function, self._cotangent(trial), self._reference(inputs)[1])
        if numbers is None:  # it does not work on such an input
            return False
        if failure.what != "y":
            numbers = as_dict(numbers, self.entry.gradients).get(failure.what)
        factor = self.entry.visible(trial.inputs) if self.entry.visible and failure.what == "y" else None
        return numbers is not None and self._wrong("y", numbers, failure.actual, factor) is None

    def _cotangent(self, trial: Trial) -> Any:
        """The cotangent, 0 where the result is padding that nothing reads."""
        if self.entry.visible is None:
            return trial.cotangent
        return trial.cotangent * self.entry.visible(trial.inputs).astype(trial.cotangent.dtype)

    def _gradients(self, trial: Trial) -> dict[str, Any]:
        """The right gradients, by name."""
        right = self.entry.backward(self._cotangent(trial), self._reference(trial.inputs)[1])  # type: ignore[misc]
        return as_dict(right, self.entry.gradients)

    def named_inputs(self, trial: Trial, what: str) -> dict[str, Any]:
        """{name of the argument: value}, and dy where a gradient is wrong."""
        names = list(inspect.signature(self.entry.forward).parameters)
        shown = dict(zip(names, trial.inputs, strict=False))
        for name, value in list(shown.items()):
            if isinstance(value, dict):
                del shown[name]
                shown |= dict(flatten(value, f"{name}/"))
        gradient = self.backward is not None and what != "y" and what != "forward"
        return {**shown, "dy": trial.cotangent} if gradient else shown


def _result(y: Any) -> Any:
    """The array that is compared of a result: of expected_score's two parts the first."""
    return getattr(y, "score", y)


def attempt(what: str, f: Callable[..., Any], *args: Any) -> Any:
    """f(*args); MalformedError that says what it raised."""
    try:
        with np.errstate(all="ignore"):
            return call(what, f, *args)
    except MalformedError:
        raise
    except Exception as error:  # whatever a user's function raises is what the user wants to see
        raise MalformedError(what, "raised", f"the {what} raised {type(error).__name__}: {error}") from error


def _planted(mistake: Callable[..., Any], *args: Any) -> Any:
    """What a known mistake gives, or None where it does not work on such an input."""
    try:
        with np.errstate(all="ignore"):
            return mistake(*args)
    except Exception:
        return None


def as_dict(gradients: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """{"dx": array, "dparams/query/bias": array, …} of what a backward returns.

    >>> as_dict((1, {"bias": 2}), ("x", "params"))
    {'dx': 1, 'dparams/bias': 2}
    """
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    flat: dict[str, Any] = {}
    for name, gradient in zip(names, gradients, strict=False):
        if isinstance(gradient, dict):
            flat |= dict(flatten(gradient, f"d{name}/"))
        else:
            flat[f"d{name}"] = gradient
    return flat


def _converted(x: Any, dtype: str) -> Any:
    if isinstance(x, dict):
        return map_params(lambda a: _converted(a, dtype), x)
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def frozen(x: Any) -> Any:
    """The same arrays, which cannot be written to.

    >>> frozen(np.ones(2)).flags.writeable
    False
    """
    if isinstance(x, dict):
        return map_params(frozen, x)
    if isinstance(x, np.ndarray):
        x.flags.writeable = False
    return x
