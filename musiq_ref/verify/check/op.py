"""Checking one pair: a search for an input on which somebody's forward or backward differs from the library's."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from musiq_ref.verify.check.catalogue import Op, catalogue
from musiq_ref.verify.check.checker import Checker, Failure, Trial
from musiq_ref.verify.check.returned import require_positive, require_whole
from musiq_ref.verify.check.shrink import shrink

TOLERANCE = {"float64": 1e-7, "float32": 1e-3}  # relative to the largest value; faults of one part in a million show
SHOWN = 48  # values that are printed of an array


class OpError(AssertionError):
    """A pair that is wrong; the message shows the smallest input found.

    >>> issubclass(OpError, AssertionError)
    True
    """


@dataclass(frozen=True)
class OpResult:
    """What `verify.op` found. True when nothing is wrong; printed, it shows the counterexample.

    what: which result is wrong: "y", "dx", …
    sizes, inputs: of the smallest failing input
    expected, actual: that result
    hint: a known mistake that gives the same numbers, or what they look like

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

    Every try has axes of different lengths and a random cotangent. Arguments cannot be written to.

    name: of the library's function, such as "layer_norm"
    forward: (the arguments of that function) -> (y, cache), the cache being whatever your backward needs; plain
        functions such as "hash_index" return their result alone
    backward: (dy, cache) -> the gradients in the order of the arguments, a tuple or a single one; given alone, it gets
        the library's cache
    tries: inputs to look at
    seed: of the inputs
    dtype: "float32" also demands that float32 stays float32
    rtol: allowed error, relative to the largest value of a result
    check: raise OpError instead of returning a failed result
    fixed: sizes or options to hold, such as stride=1, values="normal" or conventions="official"

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
    require_whole("tries", tries, 1)
    require_whole("seed", seed, 0)
    checker = _checker(name, forward, backward, dtype, rtol, fixed)
    checked = " and ".join([*(["forward"] if forward else []), *(["backward"] if backward else [])])
    for k, sizes in enumerate(itertools.islice(all_sizes(checker.entry, np.random.default_rng(seed), fixed), tries)):
        trial = checker.trial(sizes, seed + k)
        failure = checker.failure(trial)
        if failure:
            result = _counterexample(checker, trial, failure, checked, k, seed + k, fixed)
            if check:
                raise OpError(str(result))
            return result
    return OpResult(name, True, tries, checked)


def _checker(name: str, forward: Any, backward: Any, dtype: str, rtol: float | None, fixed: dict[str, Any]) -> Checker:
    """The pair and what it is compared with; ValueError for what cannot be checked."""
    entry = find(name)
    if forward is None and backward is None:
        raise ValueError(f"verify.op({name!r}) needs a forward, a backward or both to check")
    if backward is not None and entry.backward is None:
        raise ValueError(f"{name} has no backward; check its forward alone")
    if dtype not in TOLERANCE:
        raise ValueError(f"dtype is {dtype!r}; choose 'float64' or 'float32'")
    if rtol is not None:
        require_positive("rtol", rtol, 1)
    unknown = sorted(set(fixed) - {*entry.axes, *entry.options})
    if unknown:
        known = ", ".join([*entry.axes, *entry.options])
        raise ValueError(f"{name} has no size or option called {unknown[0]!r}; it has {known}")
    for axis in fixed.keys() & entry.axes.keys():
        require_whole(axis, fixed[axis], 1)
    return Checker(name, entry, forward, backward, dtype, TOLERANCE[dtype] if rtol is None else rtol)


def _counterexample(
    checker: Checker, trial: Trial, failure: Failure, checked: str, k: int, seed: int, fixed: dict[str, Any]
) -> OpResult:
    """What there is to say of a failure: its name, from the large input, where fewer mistakes look alike, and the
    smallest input that shows it.
    """
    small = shrink(checker, trial, failure, seed, fixed)
    last = checker.failure(small) or failure
    return OpResult(
        checker.name,
        False,
        k + 1,
        checked,
        failure.what,
        last.sentence,
        small.sizes,
        checker.named_inputs(small, failure.what),
        last.expected,
        last.actual,
        checker.hint(trial, failure),
        equation(checker.entry, failure.what),
    )


def find(name: str) -> Op:
    """The entry of that name; ValueError, listing all, if there is none."""
    ops = catalogue()
    if not isinstance(name, str) or name not in ops:
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


def _show(x: Any, indent: int) -> str:
    if not isinstance(x, np.ndarray):
        return x if isinstance(x, str) else repr(x)
    if x.size > SHOWN:
        return f"array {x.shape} of {x.dtype}, from {x.min():.6g} to {x.max():.6g}"
    return np.array2string(x, precision=6, suppress_small=True, separator=", ").replace("\n", "\n" + " " * indent)
