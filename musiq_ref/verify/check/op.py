"""Checking one pair: a search for an input on which somebody's forward or backward differs from the library's.

The search is our own and not Hypothesis's. It needs no extra package, finds the same counterexample every time, can
draw thousands of parameters from one seed, keeps axes of different lengths while it searches, and shrinks sizes before
values, so that what is left can be checked with a pencil.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.model.parameters import flatten, map_params, nest
from musiq_ref.verify.check.catalogue import Draw, Op, catalogue
from musiq_ref.verify.mistakes.patterns import BACKWARD_RIVALS, RIVALS, patterns

TOLERANCE = {"float64": 1e-7, "float32": 1e-3}  # relative to the largest value; faults of one part in a million show
EFFORT = 1500  # inputs that the shrinking tries
SHOWN = 48  # values that are printed of an array


class OpError(AssertionError):
    """A pair that is wrong; the message shows the smallest input found.

    >>> issubclass(OpError, AssertionError)
    True
    """


@dataclass(frozen=True)
class OpResult:
    """What `verify.op` found. True when nothing is wrong; printed, it shows the counterexample.

    sizes, inputs: of the smallest failing input;  what: which result is wrong ("y", "dx", …);  expected, actual: that
    result;  hint: what the wrong numbers look like

    >>> bool(OpResult("softmax", True, 60, "forward"))
    True
    """

    name: str
    passed: bool
    tries: int
    checked: str
    what: str = ""
    problem: str = ""
    sizes: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    expected: Any = None
    actual: Any = None
    hint: str = ""
    equation: str = ""

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        if self.passed:
            return f"{self.name}: {self.checked} right on {self.tries} inputs"
        sizes = ", ".join(f"{name} = {value}" for name, value in self.sizes.items())
        lines = [f"{self.name}: {self.problem}", f"  smallest failing input found: {sizes}"]
        lines += [f"    {name} = {_show(value, 4 + len(name) + 3)}" for name, value in self.inputs.items()]
        if self.expected is not None:
            lines += [
                f"  {self.what} expected {_show(self.expected, len(self.what) + 12)}",
                f"  {' ' * len(self.what)} actual   {_show(self.actual, len(self.what) + 12)}",
            ]
        lines += [f"  hint: {self.hint}"] if self.hint else []
        lines += [f"  reference: {self.equation}"] if self.equation else []
        return "\n".join(lines)

    __repr__ = __str__


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


def op(
    name: str,
    forward: Callable[..., Any] | None = None,
    backward: Callable[..., Any] | None = None,
    *,
    tries: int = 60,
    seed: int = 0,
    dtype: str = "float64",
    rtol: float | None = None,
    check: bool = False,
    **fixed: Any,
) -> OpResult:
    """Compares your forward, your backward or both with the library's, and shrinks the first difference.

    forward: (the arguments of the library's function of that name) -> (y, cache), the cache being whatever your
    backward needs; plain functions such as "hash_index" return their result alone.  backward: (dy, cache) -> the
    gradients in the order of the arguments, a tuple or a single one. Given alone, it gets the library's cache.
    dtype: "float32" also demands that float32 stays float32;  rtol: allowed error, relative to the largest value of a
    result;  check: raise OpError instead of returning a failed result;  fixed: sizes or options to hold, such as
    stride=1, values="normal" or conventions="official"

    Every try has axes of different lengths and a random cotangent. Arguments cannot be written to.
    Raises ValueError for an unknown name, size or option.

    >>> def my_softmax(x):
    ...     y = np.exp(x - x.max(axis=-1, keepdims=True))
    ...     y = y / y.sum(axis=-1, keepdims=True)
    ...     return y, y
    >>> op("softmax", my_softmax, lambda dy, y: y * (dy - (dy * y).sum(axis=-1, keepdims=True)))
    softmax: forward and backward right on 60 inputs
    >>> op("softmax", my_softmax, lambda dy, y: y * dy)
    softmax: dx is wrong, by 1 where values reach 0
      smallest failing input found: B = 1, H = 1, N = 1, values = normal
        x = [[[0.]]]
        dy = [[[1.]]]
      dx expected [[[0.]]]
         actual   [[[1.]]]
      hint: the term −y·Σ dy·y is missing: every output depends on every input
      reference: dx = y·(dy − Σ dy·y)
    """
    entry = find(name)
    if forward is None and backward is None:
        raise ValueError(f"verify.op({name!r}) needs a forward, a backward or both to check")
    if backward is not None and entry.backward is None:
        raise ValueError(f"{name} has no backward; check its forward alone")
    if dtype not in TOLERANCE:
        raise ValueError(f"dtype is {dtype!r}; choose 'float64' or 'float32'")
    unknown = sorted(set(fixed) - {*entry.axes, *entry.options})
    if unknown:
        known = ", ".join([*entry.axes, *entry.options])
        raise ValueError(f"{name} has no size or option called {unknown[0]!r}; it has {known}")
    checker = Checker(name, entry, forward, backward, dtype, TOLERANCE[dtype] if rtol is None else rtol)
    checked = " and ".join([*(["forward"] if forward else []), *(["backward"] if backward else [])])
    for k, sizes in enumerate(itertools.islice(all_sizes(entry, np.random.default_rng(seed), fixed), tries)):
        trial = checker.trial(sizes, seed + k)
        failure = checker.failure(trial)
        if failure is None:
            continue
        hint = checker.hint(trial, failure)  # on the large input, where fewer mistakes look alike
        small = checker.shrink(trial, failure, seed + k, fixed)
        last = checker.failure(small) or failure
        result = OpResult(
            name,
            False,
            k + 1,
            checked,
            failure.what,
            last.sentence,
            small.sizes,
            checker.named_inputs(small, failure.what),
            last.expected,
            last.actual,
            hint,
            equation(entry, failure.what),
        )
        if check:
            raise OpError(str(result))
        return result
    return OpResult(name, True, tries, checked)


def find(name: str) -> Op:
    """The entry of that name; ValueError, listing all, if there is none."""
    ops = catalogue()
    if name not in ops:
        raise ValueError(f"no op is called {name!r}; choose one of {', '.join(sorted(ops))}")
    return ops[name]


def all_sizes(entry: Op, rng: np.random.Generator, fixed: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Sizes of different lengths, first the usual ones, each time with the next combination of options."""
    options = itertools.cycle(itertools.product(*entry.options.values()))
    largest = {name: high for name, (_, high) in entry.axes.items()}
    for k in itertools.count():
        sizes = dict(largest)
        for _ in range(50 if k else 0):
            sizes = {n: int(rng.integers(min(max(low, 2), high), high + 1)) for n, (low, high) in entry.axes.items()}
            if len(set(sizes.values())) == len(sizes):
                break
        yield {**sizes, **dict(zip(entry.options, next(options), strict=True)), **fixed}


def equation(entry: Op, what: str) -> str:
    """The first line of the docstring of the library's function."""
    f = entry.backward if what.startswith("d") and entry.backward else entry.forward
    return (inspect.getdoc(f) or "").split("\n")[0].strip()


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
        y, cache = self._reference(trial.inputs)
        factor = self.entry.visible(trial.inputs) if self.entry.visible else None
        if self.forward:
            given = attempt("forward", self.forward, *(frozen(x) for x in copy.deepcopy(trial.inputs)))
            if isinstance(given, Failure):
                return given
            if self.entry.backward:
                if not (isinstance(given, tuple) and len(given) == 2):
                    return Failure("y", "pair", f"the forward must return the pair (y, cache), not {_kind(given)}")
                given, cache = given
            given = getattr(given, "score", given)  # expected_score's result has two parts; the first is compared
            wrong = self._wrong("y", y, given, factor)
            if wrong:
                return wrong
        if self.backward is None or self.entry.backward is None:
            return None
        dy = trial.cotangent if factor is None else trial.cotangent * factor.astype(trial.cotangent.dtype)
        expected = as_dict(self.entry.backward(dy, self._reference(trial.inputs)[1]), self.entry.gradients)
        gradients = attempt("backward", self.backward, frozen(dy), cache)
        if isinstance(gradients, Failure):
            return gradients
        count = len(gradients) if isinstance(gradients, tuple) else 1
        if count != len(self.entry.gradients):
            wanted = ", ".join(f"d{g}" for g in self.entry.gradients)
            return Failure("gradients", "count", f"the backward returns {count} gradients; it must be {wanted}")
        actual = as_dict(gradients, self.entry.gradients)
        floor = 1e-3 * max(float(np.abs(g).max(initial=0)) for g in expected.values())
        for what, array in expected.items():
            if what not in actual:
                return Failure(what, "missing", f"the backward returns no {what}")
            wrong = self._wrong(what, array, actual[what], None, floor)
            if wrong:
                return wrong
        return None

    def _wrong(self, what: str, expected: Any, actual: Any, factor: Any, floor: float = 0.0) -> Failure | None:
        try:
            actual = np.asarray(actual)
        except ValueError:
            return Failure(what, "kind", f"{what} is {_kind(actual)}, not an array")
        expected = np.asarray(expected)
        if actual.dtype.kind not in "fiub":
            return Failure(what, "kind", f"{what} is not an array of numbers but of {actual.dtype}")
        if actual.shape != expected.shape:
            sentence = f"{what} has shape {actual.shape}; it must be {expected.shape}"
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
        return Failure(what, "values", f"{what} is wrong{by}", expected, actual)

    def hint(self, trial: Trial, failure: Failure) -> str:
        """A known mistake that gives the same wrong numbers, or what they look like."""
        if failure.kind == "raised":
            read_only = "read-only" in failure.sentence
            return "an op must not write into its arguments; make a copy first" if read_only else ""
        if failure.kind == "dtype":
            return "a NumPy float64 scalar turns float32 arrays into float64; use Python floats (math.sqrt)"
        if failure.kind not in ("values", "shape"):
            return ""
        rivals = RIVALS.get(self.name, {}) if failure.what == "y" else BACKWARD_RIVALS.get(self.name, {})
        for sentence, rival in rivals.items():
            with np.errstate(all="ignore"):
                inputs = copy.deepcopy(trial.inputs)
                if failure.what == "y":
                    wrong = self._wrong("y", rival(*inputs), failure.actual, None)
                else:
                    results = as_dict(rival(trial.cotangent, self._reference(inputs)[1]), self.entry.gradients)
                    wrong = self._wrong("y", results[failure.what], failure.actual, None)
            if wrong is None and self._wrong("y", failure.expected, failure.actual, None):
                return sentence
        if failure.kind == "shape":
            transposed = failure.actual.shape == failure.expected.shape[::-1]
            return "it is transposed" if transposed else ""
        relatives = {name: x for name, x in self.named_inputs(trial, failure.what).items() if name != failure.what}
        if failure.what != "y" and self.entry.backward:
            expected = self.entry.backward(trial.cotangent, self._reference(trial.inputs)[1])
            relatives |= {k: v for k, v in as_dict(expected, self.entry.gradients).items() if k != failure.what}
        return next(patterns(failure.expected, failure.actual, relatives), "")

    def shrink(self, trial: Trial, failure: Failure, seed: int, fixed: dict[str, Any]) -> Trial:
        """A smaller input with the same failure: sizes first, then values."""
        left = [EFFORT]

        def still(candidate: Callable[[], Trial]) -> Trial | None:
            left[0] -= 1
            if left[0] < 0:
                return None
            try:
                smaller = candidate()
                found = self.failure(smaller)
            except Exception:  # the library refuses such an input
                return None
            return smaller if found and (found.what, found.kind) == (failure.what, failure.kind) else None

        changed = True
        while changed:
            changed = False
            for name, value in smaller_sizes(self.entry, trial.sizes, fixed):
                sizes = {**trial.sizes, name: value}
                smaller = still(lambda sizes=sizes: self.trial(sizes, seed))
                if smaller:
                    trial, changed = smaller, True
                    break
        for candidates in simpler_values(trial, self.entry.corners):
            found = (still(lambda f=f, t=trial: f(t)) for f in candidates)
            trial = next((smaller for smaller in found if smaller), trial)
        return trial

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


def attempt(what: str, f: Callable[..., Any], *args: Any) -> Any:
    """f(*args), or a Failure that says what it raised."""
    try:
        with np.errstate(all="ignore"):
            return f(*args)
    except Exception as error:  # whatever a user's function raises is what the user wants to see
        return Failure(what, "raised", f"the {what} raised {type(error).__name__}: {error}")


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


def smaller_sizes(entry: Op, sizes: dict[str, Any], fixed: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Single steps towards smaller: an axis to its minimum, half way or by one; an option to an earlier value."""
    for name, (low, _) in entry.axes.items():
        value = sizes[name]
        if name not in fixed:
            yield from ((name, v) for v in dict.fromkeys((low, (low + value) // 2, value - 1)) if low <= v < value)
    for name, values in entry.options.items():
        if name not in fixed:
            yield from ((name, v) for v in values[: values.index(sizes[name])])


def simpler_values(trial: Trial, corners: bool) -> Iterator[list[Callable[[Trial], Trial]]]:
    """For each array, then for each element, the steps towards numbers that are easy to work with, the best first."""
    simplifications = [lambda a: np.round(a, 1)]
    if not corners:  # at a corner, the wrong answer would be another one
        simplifications = [np.zeros_like, np.ones_like, lambda a: -np.ones_like(a), np.rint, *simplifications]
    places = [(i, path) for i, x in enumerate([*trial.inputs, trial.cotangent]) for path, a in _leaves(x)]
    sizes = [a.size for x in [*trial.inputs, trial.cotangent] for _, a in _leaves(x)]
    for place in places:
        yield [lambda t, place=place, simplify=simplify: _changed(t, place, simplify) for simplify in simplifications]
    for place, size in zip(places, sizes, strict=True):
        for k in range(size if size <= SHOWN else 0):
            steps = [_at(k, simplify) for simplify in simplifications]
            yield [lambda t, place=place, step=step: _changed(t, place, step) for step in steps]


def _at(k: int, f: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """f applied to element k alone."""

    def one(a: np.ndarray) -> np.ndarray:
        flat = a.ravel().copy()
        flat[k : k + 1] = f(flat[k : k + 1])
        return flat.reshape(a.shape)

    return one


def _leaves(x: Any) -> list[tuple[str, np.ndarray]]:
    if isinstance(x, dict):
        return [(path, a) for path, a in flatten(x) if a.dtype.kind == "f"]
    return [("", np.asarray(x))] if isinstance(x, np.ndarray | np.floating) and x.dtype.kind == "f" else []


def _changed(trial: Trial, place: tuple[int, str], f: Callable[[np.ndarray], np.ndarray]) -> Trial:
    """The trial with one of its arrays passed through f."""
    i, path = place
    values = [*trial.inputs, trial.cotangent]
    if isinstance(values[i], dict):
        leaves = dict(flatten(values[i]))
        leaves[path] = f(leaves[path])
        values[i] = nest(leaves)
    else:
        values[i] = f(np.asarray(values[i]))[()]
    return Trial(trial.sizes, values[:-1], values[-1])


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


def _kind(x: Any) -> str:
    return f"a tuple of {len(x)}" if isinstance(x, tuple) else f"a {type(x).__name__}"


def _show(x: Any, indent: int) -> str:
    if not isinstance(x, np.ndarray):
        return x if isinstance(x, str) else repr(x)
    if x.size > SHOWN:
        return f"array {x.shape} of {x.dtype}, from {x.min():.6g} to {x.max():.6g}"
    return np.array2string(x, precision=6, suppress_small=True, separator=", ").replace("\n", "\n" + " " * indent)
