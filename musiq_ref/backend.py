"""Which array library an array belongs to: the only file of the library that knows there is more than one.

An op asks `xp = namespace(x)` and then computes with `xp`; the array decides where it runs. A backend is a package
that registers its array type with `namespace` and `erf`, and announces a `Backend` through the entry-point group
"musiq_ref.backends".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import singledispatch, wraps
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import numpy as np
import scipy.special

Array = Any
"""An array of any backend: numpy.ndarray, cupy.ndarray, …"""


class BackendError(RuntimeError):
    """A backend that is not installed, or that cannot run on this machine; the message says what to do.

    >>> get_backend("abacus")
    Traceback (most recent call last):
    musiq_ref.backend.BackendError: no backend is called 'abacus'; there are: ...
    """


class Backend(NamedTuple):
    """Where arrays live: a name, the way there from NumPy, and the way back.

    guard: makes a `with` block in which a device that fails is a BackendError, one without memory a MemoryError
    repeat: repeat(f, key, arrays, taken), taken(f of arrays moved there), faster where key and shapes were seen before;
        f computes the same whenever its key is the same, and `taken` copies what it returns (by default an array)

    >>> backend = get_backend("numpy")
    >>> backend.to_numpy(backend.from_numpy(np.ones(2)))
    array([1., 1.])
    """

    name: str
    from_numpy: Callable[[np.ndarray], Array]
    to_numpy: Callable[[Array], np.ndarray]
    guard: Callable[[], AbstractContextManager] = nullcontext
    repeat: Callable[..., Any] | None = None


@singledispatch
def namespace(x: Array) -> Any:
    """The array library that `x` belongs to (numpy for a NumPy array).

    >>> namespace(np.zeros(3)) is np
    True
    """
    raise TypeError(
        f"expected an array of a known backend, not {type(x).__name__}; convert it with numpy.asarray first"
    )


@namespace.register(np.ndarray)
@namespace.register(np.generic)
def _(x):
    return np


def op(readable: Callable[..., Any]) -> Any:
    """Marks a function of arrays for which a backend may have a kernel: `f.kernels[type of its first argument]`.

    For all other arrays the function stays what it is, `f.readable`, and it says what a kernel has to compute.

    >>> double = op(lambda x: 2 * x)
    >>> double.kernels[complex] = lambda x: x + x
    >>> double(3), double(1j)
    (6, 2j)
    """
    kernels: dict[type, Callable[..., Any]] = {}

    @wraps(readable)
    def call(*arrays, **options):
        return kernels.get(type(arrays[0]) if arrays else object, readable)(*arrays, **options)

    call.__dict__.update(kernels=kernels, readable=readable)
    return call


@singledispatch
def erf(x: Array) -> Array:
    """The error function, elementwise, from the backend's own special functions."""
    raise TypeError(f"no error function is registered for {type(x).__name__}")


@erf.register(np.ndarray)
def _(x):
    return _erf_float32(x) if x.dtype == np.float32 else scipy.special.erf(x)


def _erf_float32(x: np.ndarray) -> np.ndarray:
    """erf(x) = tanh(x·P(x²)) with a polynomial P fitted to float32: error below 1.5e-7, much faster than SciPy's."""
    square = np.minimum(x * x, np.float32(17.64))  # beyond |x| = 4.2 the result is ±1 in float32
    poly = np.float32(1.5895365e-7)
    for c in (-5.9856084e-6, 8.9712230e-5, -6.2571891e-4, -1.8438424e-4, 0.10276548, 1.1283797):
        poly = poly * square + np.float32(c)
    return np.tanh(x * poly)


def on_host(x: Array) -> bool:
    """Whether `x` is a NumPy array, so that its values may be looked at without waiting for a device."""
    return isinstance(x, np.ndarray)


def to_host(x: Array) -> np.ndarray:
    """The values of an array of any library, in host memory; a device is waited for.

    >>> to_host(np.ones(2))
    array([1., 1.])
    """
    return x if on_host(x) else namespace(x).asnumpy(x)


ROWS = 64
"""Rows that `rowwise` takes at a time: a block of 64 rows of 1152 float32 values stays in a core's cache."""


def rowwise(f: Callable[..., Array], x: Array, *others: Array) -> Array:
    """f(x, *others) for an f that treats every row (all axes but the last) by itself and keeps the shape.

    On the CPU block by block, so that the temporaries of f stay in cache; on a device all at once.

    >>> rowwise(np.square, np.arange(6.0).reshape(3, 2))
    array([[ 0.,  1.],
           [ 4.,  9.],
           [16., 25.]])
    """
    if not on_host(x) or x.size <= ROWS * x.shape[-1]:
        return f(x, *others)
    flat = [a.reshape(-1, a.shape[-1]) for a in (x, *others)]
    y = np.empty_like(flat[0], order="C")
    for start in range(0, len(y), ROWS):
        y[start : start + ROWS] = f(*(a[start : start + ROWS] for a in flat))
    return y.reshape(x.shape)


NUMPY = Backend("numpy", np.asarray, np.asarray)


VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable of the environment that says which GPUs a process sees."""


def use_device(number: int) -> None:
    """From here on this process and its children see one GPU alone; to be called before a backend is first used.

    number: counted from 0 among the GPUs that were visible up to now

    Raises BackendError if there are fewer; those that CUDA itself counts, it counts later.

    >>> use_device(-1)
    Traceback (most recent call last):
    musiq_ref.backend.BackendError: there is no GPU -1; they are counted from 0
    """
    if number < 0:
        raise BackendError(f"there is no GPU {number}; they are counted from 0")
    visible = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    if visible and number >= len(visible):
        raise BackendError(f"there is no GPU {number}: {VISIBLE} is {','.join(visible)}, and counting begins at 0")
    os.environ[VISIBLE] = visible[number] if visible else str(number)


def get_backend(name: str = "numpy") -> Backend:
    """The backend of that name: "numpy", or one announced in the entry-point group "musiq_ref.backends".

    name: "cupy"; or, for faster products of rounded factors, "cupy:tf32" or "cupy:float16"

    Raises BackendError, saying what to do, when it is unknown or cannot run here.

    >>> get_backend("numpy").name
    'numpy'
    """
    if name == "numpy":
        return NUMPY
    found = {e.name: e for e in entry_points(group="musiq_ref.backends")}
    library, colon, precision = name.partition(":")
    if library not in found:
        idle = [entry.name for entry in found.values() if not _runs(entry)]
        known = ", ".join(sorted({"numpy", *found}.difference(idle)))
        rest = f" ({', '.join(sorted(idle))} cannot run here)" if idle else ""
        raise BackendError(f"no backend is called {name!r}; there are: {known}{rest}")
    return found[library].load()(*[precision] * bool(colon))


def _runs(entry: EntryPoint) -> bool:
    """Whether a backend can be used on this machine."""
    try:
        entry.load()()
    except Exception:  # whatever a plug-in lacks
        return False
    return True
