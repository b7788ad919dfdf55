"""A stand-in for CuPy that needs no GPU: arrays that compute with NumPy and obey CuPy's rules.

What would fail on a GPU fails here, and what would be slow there is counted:

- a `Double` is no NumPy array, never turns into one by itself, and meets NumPy arrays nowhere (TypeError);
- its namespace `cp` has only CuPy's names, and its functions take only CuPy's arguments (as recorded, so that CuPy
  need not be installed: record_cupy.py);
- `counters.synchronisations` grows where the host would wait for the device, `counters.transfers` where data would
  cross between them (both at once for `float(x)`, `if x:`, `repr(x)`, `x.item()`, `x.get()`);
- results are arrays, never scalars; integer-array indices that are out of range wrap around without an error.

The rules were read in CuPy 14's source and signatures. Where CuPy is lenient by accident (`cupy.sum` of a NumPy array
is computed on the host, `x[:] = numpy_array` of one element works) the double refuses.
"""

from __future__ import annotations

import functools
import inspect
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from recorded_cupy import ARRAY, Recorded, cupy, signature

from musiq_ref.backend import Backend, erf, namespace


class Counters:
    """How often the host waited for the device, and how many arrays went from one to the other."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.synchronisations = 0
        self.transfers = 0

    def __repr__(self):
        return f"Counters(synchronisations={self.synchronisations}, transfers={self.transfers})"


counters = Counters()


def from_numpy(array) -> Double:
    """Upload: a copy on the "device", of what is not there already."""
    if isinstance(array, Double):
        return array
    counters.transfers += 1
    return Double(np.array(array))


def to_numpy(x) -> np.ndarray:
    """Download: wait for the device, then copy."""
    return x.get() if isinstance(x, Double) else np.asarray(x)


def _download(x: Double) -> np.ndarray:
    counters.synchronisations += 1
    counters.transfers += 1
    return x._host


def _wrap(result) -> Any:
    """NumPy's result as the device would return it: arrays, also of no axes, and tuples of them."""
    if isinstance(result, np.ndarray | np.generic):
        return Double(result)
    if isinstance(result, tuple | list):
        return type(result)(map(_wrap, result))
    return result


def _unwrap(value) -> Any:
    """The host arrays inside an argument; a NumPy array among them is the mixing that CuPy refuses."""
    if isinstance(value, Double):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {np.ndarray}: a NumPy array met an array of the device")
    if isinstance(value, tuple | list):
        return type(value)(map(_unwrap, value))
    return value


# ------------------------------------------------------------------------------------------------ signatures of CuPy


@functools.cache
def method_signature(name: str) -> inspect.Signature:
    """The arguments of a method of cupy.ndarray."""
    return signature(Recorded(f"cupy.ndarray.{name}", ARRAY[name]))


EINSUM_KEYWORDS = {"dtype", "optimize"}


def check_arguments(name: str, function: Any, args, kwargs) -> None:
    """TypeError where CuPy's function would not take these arguments.

    CuPy's ufuncs take out, dtype and casting, and no `where`; its other functions have Python signatures.
    """
    if isinstance(function, cupy.ufunc):
        unknown = sorted(set(kwargs) - {"out", "dtype", "casting"})
        if unknown:
            raise TypeError(f"cupy.{name} takes no argument {unknown[0]!r}")
        if not function.nin <= len(args) <= function.nargs:
            raise TypeError(f"cupy.{name} takes {function.nin} to {function.nargs} arguments, not {len(args)}")
    elif function is cupy.einsum:
        unknown = sorted(set(kwargs) - EINSUM_KEYWORDS)
        if unknown:
            raise TypeError(f"cupy.einsum takes no argument {unknown[0]!r}")
    else:
        try:
            signature(function).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"cupy.{name}: {error}") from None


# ------------------------------------------------------------------------------------------------------- the namespace

UPLOAD = {"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"}
WAIT = {"nonzero", "flatnonzero", "argwhere", "unique", "extract", "bincount", "histogram", "compress"}
"""Functions whose result's shape depends on the values, so that CuPy must wait for them."""
TRUTH = {"array_equal", "allclose"}
"""Functions that return a bool in NumPy and an array in CuPy."""
UNWRITTEN = {"empty", "empty_like"}
"""Functions that return memory as it is: full of NaN, here."""
TAKE = {"take", "take_along_axis"}
NOT_MODELLED = {"default_rng", "Generator", "RandomState"}
"""Random generators: CuPy's have other methods and other numbers than NumPy's; draw with NumPy and upload."""
NUMPY_ONLY = {"blocking"}
"""Arguments of CuPy that NumPy's functions do not know."""


class Namespace:
    """The names of a module of CuPy, computing with NumPy."""

    def __init__(self, real: ModuleType, host: ModuleType):
        self._real, self._host = real, host
        self.__name__ = f"{real.__name__} (double)"

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name, None)  # None, too, for names that CuPy keeps but does not support
        if real is None:
            if name == "newaxis":
                return None
            raise AttributeError(f"{self._real.__name__} has no attribute {name!r}")
        if real is cupy.ndarray:
            return Double
        if name == "asnumpy" and self._real is cupy:
            return to_numpy
        host = getattr(self._host, name, None)
        if host is None or name in NOT_MODELLED:
            raise AttributeError(f"the double does not model {self._real.__name__}.{name}")
        if isinstance(real, ModuleType):
            return Namespace(real, host)
        if real is host or isinstance(host, type) or not callable(host):
            return host  # dtypes and constants, which CuPy borrows from NumPy
        return Function(name, real, host)

    def __repr__(self):
        return f"<{self.__name__}>"


class Function:
    """One function of CuPy, computing with NumPy's function of the same name."""

    def __init__(self, name: str, real: Any, host: Any):
        self.name, self.real, self.host = name, real, host
        self.nin, self.nout = getattr(real, "nin", None), getattr(real, "nout", None)

    def __call__(self, *args, **kwargs):
        check_arguments(self.name, self.real, args, kwargs)
        if self.name in UPLOAD and args and not isinstance(args[0], Double):
            counters.transfers += 1
            args = (Double(np.array(args[0])), *args[1:])
        if self.name in WAIT or (self.name == "where" and len(args) + len(kwargs) == 1):
            counters.synchronisations += 1
        if self.name in TAKE:
            return self._take(*args, **kwargs)
        arguments = _unwrap(args)
        keywords = {key: _unwrap(value) for key, value in kwargs.items() if key not in NUMPY_ONLY}
        result = self.host(*arguments, **keywords)
        if self.name in TRUTH:
            result = np.bool_(result)
        if self.name in UNWRITTEN:
            result.fill(np.nan if result.dtype.kind == "f" else np.iinfo(result.dtype).max)
        out = kwargs.get("out") if not isinstance(self.real, cupy.ufunc) else kwargs.get("out", *args[self.nin :][:1])
        return out if isinstance(out, Double) else _wrap(result)

    def _take(self, a, indices, axis=None, out=None):
        if not isinstance(indices, Double | int | np.integer):
            counters.transfers += 1
        host, indices = _unwrap(a), np.asarray(getattr(indices, "_host", indices))
        length = host.size if axis is None else host.shape[axis]
        arguments = {} if out is None else {"out": _unwrap(out)}
        return _wrap(self.host(host, indices % length if length else indices, axis=axis, **arguments))

    def __getattr__(self, name):
        """Methods of ufuncs: CuPy has reduce and accumulate for add and multiply, and outer."""
        supported = {"reduce", "accumulate"} if self.name in ("add", "multiply") else set()
        if not isinstance(self.real, cupy.ufunc) or name not in {*supported, "outer"}:
            raise AttributeError(f"the double does not model cupy.{self.name}.{name}")

        def method(*args, **kwargs):
            check_arguments(f"{self.name}.{name}", getattr(self.real, name), args, kwargs)
            return _wrap(
                getattr(self.host, name)(*_unwrap(args), **{key: _unwrap(value) for key, value in kwargs.items()})
            )

        return method


cp = Namespace(cupy, np)
"""What `musiq_ref.backend.namespace` answers for a Double."""


# ------------------------------------------------------------------------------------------------------------ the array

SCALARS = (int, float, complex, bool, np.generic)


class Double:
    """A NumPy-backed array that behaves like a cupy.ndarray. Make one with `from_numpy` or with functions of `cp`."""

    __slots__ = ("_host",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host):
        self._host = np.asarray(host)

    # what NumPy's functions and operators do with an array of the device

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if method != "__call__" or not hasattr(cp, ufunc.__name__):
            return NotImplemented
        out = kwargs.pop("out", None)
        if out is not None:
            kwargs["out"] = out[0]
        allowed = (Double, np.ndarray, *SCALARS)  # NumPy arrays come as far as the function, which refuses them
        if not all(isinstance(x, allowed) for x in (*inputs, *(out or ()))):
            return NotImplemented
        return getattr(cp, ufunc.__name__)(*inputs, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        if not all(issubclass(t, Double | np.ndarray) for t in types):
            return NotImplemented
        try:
            module = functools.reduce(getattr, function.__module__.split(".")[1:], cp)
            mine = getattr(module, function.__name__)
        except AttributeError:
            return NotImplemented
        return NotImplemented if mine is function else mine(*args, **kwargs)

    # metadata, known to the host without waiting

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))
    base = property(lambda self: None if self._host.base is None else Double(self._host.base))
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: Double(self._host.T))
    mT = property(lambda self: Double(self._host.mT))
    real = property(lambda self: Double(self._host.real))
    imag = property(lambda self: Double(self._host.imag))

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self.shape[0]))  # views: no waiting

    # looking at values: the host waits and downloads

    def get(self, stream=None, order: Any = "C", out=None, blocking=True):
        if out is not None:
            out[...] = _download(self)
            return out
        return np.array(_download(self), order=order)

    def item(self):
        return _download(self).item()

    def tolist(self):
        return _download(self).tolist()

    def __bool__(self):
        if self.size != 1:
            raise ValueError("The truth value of an array with more than one element is ambiguous.")
        return bool(_download(self))

    def __float__(self):
        return float(_download(self))

    def __int__(self):
        return int(_download(self))

    def __complex__(self):
        return complex(_download(self))

    def __repr__(self):
        return repr(_download(self))

    def __str__(self):
        return str(_download(self))

    def __format__(self, specification):
        return format(_download(self), specification)

    # changing values

    def __getitem__(self, index):
        return Double(self._host[self._index(index)])

    def __setitem__(self, index, value):
        if not isinstance(value, (Double, *SCALARS)):
            raise TypeError(f"Unsupported type {type(value)}: only arrays of the device and scalars can be assigned")
        self._host[self._index(index)] = getattr(value, "_host", value)

    def _index(self, index):
        """An index for NumPy: arrays out of range wrapped around; those that are not on the device are uploaded."""
        parts = list(index) if isinstance(index, tuple) else [index]
        for i, part in enumerate(parts):
            if isinstance(part, np.ndarray | list | tuple | bool | np.bool_):
                counters.transfers += 1
                part = np.asarray(part)
                parts[i] = Double(part.astype(int) if not part.size else part)
        consumed = [0 if p is None or p is Ellipsis else _axes(p) for p in parts]
        axis, host = 0, []
        for part, axes in zip(parts, consumed, strict=True):
            if isinstance(part, Double):
                if part.dtype.kind == "b":
                    counters.synchronisations += 1  # CuPy counts the True elements before it continues
                elif part.dtype.kind not in "iu":
                    raise IndexError("arrays used as indices must be of integer or boolean type")
                elif axis < self.ndim and self.shape[axis]:
                    part = Double(part._host % self.shape[axis])
                part = part._host
            host.append(part)
            axis += self.ndim - sum(consumed) if part is Ellipsis else axes
        if not any(part is Ellipsis for part in parts):
            host.append(Ellipsis)  # makes NumPy return a view of no axes where it would return a scalar
        return tuple(host)

    def fill(self, value):
        self[...] = value

    def set(self, array, stream=None):
        if not isinstance(array, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        counters.transfers += 1
        self._host[...] = array

    # copies and views

    def view(self, dtype=None):
        return Double(self._host.view() if dtype is None else self._host.view(dtype))

    def copy(self, order: Any = "C"):
        return Double(self._host.copy(order))

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        return from_numpy, (self.get(),)


def _axes(part) -> int:
    """How many axes one part of an index stands for."""
    return part.ndim if isinstance(part, Double) and part.dtype.kind == "b" else 1


METHODS = """
    all any argmax argmin argsort astype clip cumsum cumprod diagonal dot flatten max mean min prod ptp ravel repeat
    reshape round squeeze std sum swapaxes trace transpose var
"""
"""Methods that take CuPy's arguments and compute as NumPy's do."""


def _method(name):
    def method(self, *args, **kwargs):
        method_signature(name).bind(self, *args, **kwargs)
        keywords = {key: _unwrap(value) for key, value in kwargs.items()}
        source = np if not callable(getattr(np.ndarray, name, None)) else None  # ptp is a function only in NumPy 2
        function = getattr(np, name) if source else getattr(np.ndarray, name)
        result = function(self._host, *_unwrap(args), **keywords)
        return kwargs["out"] if kwargs.get("out") is not None else _wrap(result)

    method.__name__ = name
    return method


for _name in METHODS.split():
    setattr(Double, _name, _method(_name))


def _take_method(self, indices, axis=None, out=None):
    return cp.take(self, indices, axis, out)


Double.take = _take_method  # type: ignore[attr-defined]

OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "matmul": "matmul",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
COMPARISONS = {
    "lt": "less",
    "le": "less_equal",
    "eq": "equal",
    "ne": "not_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
UNARY = {"neg": "negative", "abs": "absolute", "invert": "invert"}


def _operators(ufunc):
    def forward(self, other):
        return ufunc(self, other)

    def reflected(self, other):
        return ufunc(other, self)

    def in_place(self, other):
        return ufunc(self, other, out=self)

    return forward, reflected, in_place


for _name, _function in {**OPERATORS, **COMPARISONS}.items():
    _forward, _reflected, _in_place = _operators(getattr(np, _function))
    setattr(Double, f"__{_name}__", _forward)
    if _name in OPERATORS:
        setattr(Double, f"__r{_name}__", _reflected)
        if _name != "matmul":  # CuPy's arrays have no __imatmul__: x @= y makes a new array
            setattr(Double, f"__i{_name}__", _in_place)

for _name, _function in UNARY.items():
    setattr(Double, f"__{_name}__", functools.partialmethod(lambda self, f: f(self), getattr(np, _function)))
Double.__pos__ = lambda self: self  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------------- the backend

BACKEND = Backend("double", from_numpy, to_numpy)

namespace.register(Double)(lambda x: cp)
erf.register(Double)(lambda x: Double(erf(x._host)))
