"""What is wrong with an array value by value: another function, range or number format."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from musiq_ref.ops.softmax import softmax

SORTED = 3000  # values that are looked at for whether one is a function of another
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all that is below 0 is 0: a ReLU too many": lambda x: np.maximum(x, 0),
    "it is the absolute value": np.abs,
    "it is cut off at 0 and 1": lambda x: np.clip(x, 0, 1),
    "it is cut off at −1 and 1": lambda x: np.clip(x, -1, 1),
    "it is at most 6 (ReLU6)": lambda x: np.clip(x, 0, 6),
    "it is rounded to integers": np.rint,
    "it is rounded down to integers": np.floor,
    "it is rounded to 8 bit": lambda x: np.clip(np.rint((x + 1) * 127.5), 0, 255) / 127.5 - 1,
    "it is rounded down to 8 bit": lambda x: np.clip(np.floor((x + 1) * 127.5), 0, 255) / 127.5 - 1,
    "it is the square": np.square,
    "it is the square root": np.sqrt,
    "it is the exponential": np.exp,
    "it is the logarithm": np.log,
    "it went through tanh": np.tanh,
    "it went through a sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "it went through a softmax": lambda x: softmax(x)[0],
    "its mean over the last axis is subtracted": lambda x: x - x.mean(-1, keepdims=True),
    "it is normalised once more over the last axis": lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1,
    keepdims=True),
    "it is divided by its sum over the last axis": lambda x: x / x.sum(-1, keepdims=True),
    "it is divided by its length": lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)),
}  # fmt: skip


class Look:
    """A right array, a wrong one, and how close counts as the same.

    axes: names of the axes
    tolerance: length of an error that is rounding, over the length of the array
    """

    def __init__(self, expected: Any, actual: Any, axes: Sequence[str] = (), tolerance: float = 1e-7) -> None:
        self.expected, self.actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
        self.axes = [axes[k] if k < len(axes) else f"axis {k}" for k in range(self.actual.ndim)]
        self.tolerance = tolerance
        self.off = float(np.linalg.norm(self.actual - self.expected))

    def fits(self, model: np.ndarray) -> bool:
        """Whether an array is the wrong one but for rounding, and much nearer to it than the right one is."""
        if np.shape(model) != self.actual.shape:
            return False
        gap = float(np.linalg.norm(self.actual - model))
        return gap <= 0.05 * self.off and gap <= self.tolerance * float(np.linalg.norm(self.actual))


def functions(look: Look) -> Iterator[str]:
    """A function too many."""
    if look.actual.size > 1:
        fit = (words for words, f in FUNCTIONS.items() if look.actual.ndim and look.fits(f(look.expected)))
        yield from itertools.islice(fit, 1)


def clipped(look: Look) -> Iterator[str]:
    """The right values, but for those beyond a limit."""
    x, y = look.expected, look.actual
    low, high = float(y.min()), float(y.max())
    if y.size < 8 or not look.fits(np.clip(x, low, high)):
        return
    ends = [f"above {high:.4g}"] if (x > high).any() else []
    ends += [f"below {low:.4g}"] if (x < low).any() else []
    yield f"what is {' or '.join(reversed(ends))} is cut off"


def stepped(look: Look) -> Iterator[str]:
    """Whole multiples of one step, near the right values."""
    y = look.actual
    size = np.unique(np.abs(y[y != 0]))
    if size.size < 4 or y.size < 4 * size.size**0.5:
        return
    gaps = np.diff(size)
    step = float(gaps[gaps > 1e-4 * size[-1]].min(initial=np.inf))
    if not np.isfinite(step) or size[-1] / step > 1024:
        return
    step = float(size[-1] / np.rint(size[-1] / step))
    whole = np.rint(y / step)
    if np.abs(y / step - whole).max() < 0.01 and np.abs(look.expected - y).max() < 1.01 * step:
        yield f"all values are multiples of {step:.4g}: it was rounded to {int(size[-1] / step)} steps"


def function_of(look: Look, relatives: Mapping[str, Any]) -> Iterator[str]:
    """Whether every value depends only on the right one, or on another array's, at the same place."""
    for name, other in {"the right one": look.expected, **relatives}.items():
        other = np.asarray(other, np.float64)
        if other.shape != look.actual.shape or other.size < 100:
            continue
        few = slice(None, None, 1 + other.size // SORTED)
        order = other.ravel()[few].argsort(kind="stable")
        order = order[len(order) // 40 : len(order) - len(order) // 40]  # between the ends neighbours are near
        y = look.actual.ravel()[few][order]
        more = y - look.expected.ravel()[few][order]
        if y.var() and (np.diff(y) ** 2).mean() < 1e-3 * y.var() and (np.diff(more) ** 2).mean() < 0.02 * more.var():
            yield f"every value is a function of {name} at the same place: another activation, unit or range"
            return


def rounded(look: Look) -> Iterator[str]:
    """Numbers of a coarser format, or an error like the rounding of one."""
    y = look.actual.astype(np.float32)
    if (fmt := coarse(y)) and not coarse(look.expected.astype(np.float32)):
        yield f"all values are numbers of {fmt}: it was computed or kept in that format"
        return
    more, length = look.actual - look.expected, float(np.linalg.norm(look.expected))
    rms = float(np.sqrt((more * more).mean()))
    size = look.off / length if length else 0.0
    noise = (
        more.size > 60 and abs((more * look.expected).sum()) < 0.3 * look.off * length and np.abs(more).max() < 8 * rms
    )
    if noise and 4e-5 < size < 8e-3:
        fmt = "bfloat16" if size > 6e-4 else "float16 or TF32"
        yield f"the error is like rounding, {size:.1g} of the values: it looks like {fmt}"


def coarse(y: np.ndarray) -> str:
    """The coarser format of which all values are, or "".

    >>> coarse(np.full(8, 1 / 3, np.float16).astype(np.float32))
    'float16'
    """
    used = np.ascontiguousarray(y[y != 0], np.float32)
    if used.size < 8 or (used == np.rint(used)).all():
        return ""
    whole = used.view(np.uint32)
    if not (whole & 0xFFFF).any():
        return "bfloat16"
    with np.errstate(all="ignore"):
        if (used.astype(np.float16) == used).all():
            return "float16"
    return "" if (whole & 0x1FFF).any() else "TF32"
