"""Matrix products by cuBLAS, through a handle of our own.

CuPy's `@` calls cuBLAS, too, but copies operands that are slices or transposes, has no float16 products of float32
arrays, and refuses while a graph is captured (graphs.py).
"""

from __future__ import annotations

import ctypes
import math
from ctypes import byref, c_double, c_float, c_int, c_longlong, c_size_t, c_void_p
from functools import lru_cache
from itertools import pairwise
from threading import Lock
from typing import Any

WORKSPACE = 32 << 20  # bytes that cuBLAS may use: what NVIDIA recommends for an H100
DATA = {"f": 0, "d": 1}  # CUDA_R_32F, CUDA_R_64F, by NumPy's letters
COMPUTE = {"float32": 68, "tf32": 77, "float16": 74, "float64": 70}  # CUBLAS_COMPUTE_32F, _FAST_TF32, _FAST_16F, _64F
NUMBER = {"f": c_float, "d": c_double}
ARGUMENTS = [
    *(c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p),  # handle, transposed?, m, n, k, alpha
    *(c_void_p, c_int, c_int, c_longlong) * 2,  # A and B: data, type, distance of columns, of matrices
    *(c_void_p, c_void_p, c_int, c_int, c_longlong),  # beta, C
    *(c_int, c_int, c_int),  # how many, compute type, algorithm
]


class Products:
    """Products of arrays of one library, float32 or float64; call it with two arrays, as `@`.

    xp: the arrays' namespace
    library: cuBLAS, as ctypes loads it
    stream: a function that gives the address of the stream that is used now
    precision: of products of float32: "float32", or "tf32" or "float16", to which factors are rounded (10 bits after
        the first digit instead of 23); sums are float32 in any case
    """

    def __init__(self, xp: Any, library: Any, stream: Any, precision: str = "float32") -> None:
        self.xp, self.library, self.stream, self.precision = xp, library, stream, precision
        self.handle, self.lock, self.now = c_void_p(), Lock(), None
        library.cublasSetStream_v2.argtypes = [c_void_p, c_void_p]
        library.cublasSetWorkspace_v2.argtypes = [c_void_p, c_void_p, c_size_t]
        library.cublasGemmStridedBatchedEx.argtypes = ARGUMENTS
        _check(library.cublasCreate_v2(byref(self.handle)))
        self.workspace = xp.empty(WORKSPACE, "uint8")

    def __call__(self, a, b, factor: float = 1.0):
        """factor·a·b over the last two axes; those before are the same, or b has none."""
        kind, k = a.dtype.char, a.shape[-1]
        if a.ndim < 2 or b.ndim < 2 or b.dtype != a.dtype or kind not in DATA or not a.size or not b.size:
            return self.xp.matmul(a, b) if factor == 1 else self.xp.matmul(a * factor, b)
        if b.ndim == 2 and a.ndim > 2:  # one large product instead of many small ones
            return self(a.reshape(-1, k), b, factor).reshape(*a.shape[:-1], b.shape[1])
        if b.shape[:-1] != (*a.shape[:-2], k):
            raise ValueError(f"arrays of shapes {a.shape} and {b.shape} have no product")
        (*batch, n, _), m = a.shape, b.shape[-1]
        y = self.xp.empty((*batch, n, m), a.dtype)
        a, a_turned, a_row, a_next = self._lying(a)
        b, b_turned, b_row, b_next = self._lying(b)
        dtype, alpha, beta = DATA[kind], NUMBER[kind](factor), NUMBER[kind](0)
        # cuBLAS counts along columns first: what it sees are transposes, and bᵀ·aᵀ = (a·b)ᵀ
        with self.lock:
            self._use_stream()
            status = self.library.cublasGemmStridedBatchedEx(
                *(self.handle, b_turned, a_turned, m, n, k, byref(alpha)),
                *(b.data.ptr, dtype, b_row, b_next, a.data.ptr, dtype, a_row, a_next),
                *(byref(beta), y.data.ptr, dtype, m, n * m),
                *(math.prod(batch), COMPUTE["float64" if kind == "d" else self.precision], -1),
            )
        _check(status)
        return y

    def _lying(self, x):
        """x, or a copy in C order where cuBLAS cannot take it as it lies, and `_layout`."""
        layout = _layout(x.shape, x.strides, x.itemsize)
        if layout is None:
            return self._lying(self.xp.ascontiguousarray(x))
        return x, *layout

    def _use_stream(self) -> None:
        stream = self.stream()
        if stream != self.now:
            _check(self.library.cublasSetStream_v2(self.handle, stream))  # which forgets the workspace
            _check(self.library.cublasSetWorkspace_v2(self.handle, self.workspace.data.ptr, WORKSPACE))
            self.now = stream


@lru_cache(4096)
def _layout(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, int, int] | None:
    """Whether an array lies by columns; how far these, or its rows, are apart, and its matrices; None if unevenly."""
    *batch, rows, columns = shape
    *outer, down, right = (stride // itemsize for stride in strides)
    if columns == 1:
        right = 1  # what is said of an axis of length 1 means nothing
    if rows == 1:
        down = columns if right == 1 else 1
    apart = [(length, stride) for length, stride in zip(batch, outer, strict=True) if length > 1]
    even = all(first == length * stride for (_, first), (length, stride) in pairwise(apart))
    step = apart[-1][1] if apart else 0
    if even and right == 1 and down >= columns:
        return 0, down, step
    if even and down == 1 and right >= rows:
        return 1, right, step
    return None


def _check(status: int) -> None:
    """Raises CUBLASStatus, which the backend's guard makes a sentence of, if cuBLAS could not do what it was asked."""
    if status:
        raise CUBLASStatus(f"cuBLAS returned status {status}" + (" (ALLOC_FAILED)" if status == 3 else ""))


class CUBLASStatus(RuntimeError):
    """A call to cuBLAS that failed."""


def load_cublas(cupy: Any) -> Any:
    """The library that CuPy uses; OSError where it is not to be found under its usual name."""
    return ctypes.CDLL(f"libcublas.so.{cupy.cuda.runtime.runtimeGetVersion() // 1000}")
