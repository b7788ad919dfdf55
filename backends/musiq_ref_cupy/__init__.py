"""The CuPy backend: the same functions of musiq_ref on an NVIDIA GPU.

CuPy offers NumPy's functions under NumPy's names, so a backend is three answers: which library a `cupy.ndarray` belongs
to, where its error function is, and how an array gets to the GPU and back. Memory comes from CuPy's default pool. Some
ops have kernels here, which do in one launch what would be several (kernels.cu; kernels.py and stem.py start them).
Importing this package touches neither CuPy nor a GPU; `backend()` does, and says in one sentence what is missing.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from musiq_ref.backend import VISIBLE, Backend, BackendError, erf, namespace
from musiq_ref.extras import needs

PRECISIONS = ("float32", "tf32", "float16")
OLDEST = 14  # major version of CuPy with NumPy 2's type promotion, which keeps float32 models in float32


def backend(precision: str = "float32") -> Backend:
    """The backend named "cupy"; `musiq_ref.backend.get_backend` finds it through its entry point.

    precision: of products of float32 arrays, in the whole process: "float32"; or "tf32" or "float16", to which the
        factors are rounded, and which the GPU multiplies faster; the sums are float32 in any case

    Raises BackendError when CuPy is missing, broken or too old, when it finds no driver or no GPU that works, and for a
    precision that is unknown, or that this cuBLAS cannot be asked for.

    >>> from musiq_ref.backend import BackendError, get_backend
    >>> try:
    ...     print(get_backend("cupy").name)
    ... except BackendError:  # no GPU here; the message says what is missing
    ...     print("cupy")
    cupy
    """
    if precision not in PRECISIONS:
        raise BackendError(f"the GPU has no precision {precision!r}; there are: {', '.join(PRECISIONS)}")
    cupy, special = _import_cupy()
    _check_device(cupy)
    namespace.register(cupy.ndarray)(lambda x: cupy)
    erf.register(cupy.ndarray)(special.erf)
    from musiq_ref_cupy.graphs import Graphs
    from musiq_ref_cupy.kernels import Kernels  # here, as it imports all of the ops
    from musiq_ref_cupy.launch import OPTIONS, SOURCE

    def compile(names: list[str]) -> Any:
        return cupy.RawModule(code=SOURCE, options=OPTIONS, name_expressions=names)

    Kernels(cupy.ndarray, cupy, compile, _products(cupy, precision)).register()
    return Backend("cupy", _guarded(cupy.asarray), _guarded(cupy.asnumpy), guard, Graphs(cupy))


def _products(cupy: Any, precision: str) -> Callable[[Any, Any], Any]:
    """Products by cuBLAS; by CuPy's own call of it where the library is not found, as on Windows."""
    from musiq_ref.ops.fused import product
    from musiq_ref_cupy.products import Products, load_cublas

    try:
        library = load_cublas(cupy)
    except OSError as error:
        if precision != "float32":
            raise BackendError(f"cuBLAS was not found for products in {precision} ({_first_line(error)})") from error
        return product.readable
    with guard():
        return Products(cupy, library, lambda: cupy.cuda.get_current_stream().ptr, precision)


@contextmanager
def guard() -> Iterator[None]:
    """In its block an error of the driver, or of a library on the GPU, is a BackendError; a lack of memory MemoryError.

    >>> with guard():
    ...     print("nothing goes wrong")
    nothing goes wrong
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__name__.startswith(("CUDA", "CUBLAS")):
            raise
        if "MemoryAllocation" in str(error) or "ALLOC_FAILED" in str(error):
            raise MemoryError(_first_line(error)) from error
        raise BackendError(
            f"the GPU stopped working ({_first_line(error)}); `nvidia-smi` shows whether it is still there; "
            "then start again: this process cannot use it any more"
        ) from error


def _guarded(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @wraps(function)
    def call(array: Any) -> Any:
        with guard():
            return function(array)

    return call


def _import_cupy() -> tuple[Any, Any]:
    """The modules cupy and cupyx.scipy.special, of a version that is new enough."""
    try:
        cupy = importlib.import_module("cupy")
        special = importlib.import_module("cupyx.scipy.special")
    except Exception as error:  # CuPy raises more than ImportError when its libraries do not fit the machine
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise BackendError(
                f"CuPy is not installed; run {needs('cuda12')}, or the same with cuda13 for a CUDA 13 driver"
            ) from error
        raise BackendError(
            f"CuPy is installed but cannot be imported ({_first_line(error)}); remove every cupy package with `pip "
            f"uninstall` and run {needs('cuda12')}, or the same with cuda13 for a CUDA 13 driver"
        ) from error
    if int(cupy.__version__.partition(".")[0]) < OLDEST:
        raise BackendError(
            f"CuPy {cupy.__version__} is too old, at least {OLDEST} is needed; "
            f"run {needs('cuda12')}, or the same with cuda13 for a CUDA 13 driver"
        )
    return cupy, special


def _check_device(cupy: Any) -> None:
    """That there is a driver and a GPU, and that a kernel runs on it."""
    runtime = cupy.cuda.runtime
    try:
        devices = runtime.getDeviceCount()
    except Exception as error:
        message = str(error)
        if "cudaErrorNoDevice" in message:
            devices = 0
        elif "cudaErrorInsufficientDriver" in message and _driver_version(runtime) == 0:
            raise BackendError(
                "CuPy finds no NVIDIA driver on this machine; install one, or use the backend 'numpy'"
            ) from error
        elif "cudaErrorInsufficientDriver" in message:
            raise BackendError(
                f"the NVIDIA driver supports CUDA {_driver_version(runtime)} at most, which is too old for this CuPy; "
                "update the driver, or use the backend 'numpy'"
            ) from error
        else:
            raise BackendError(f"CuPy cannot ask the NVIDIA driver for a GPU ({_first_line(error)})") from error
    if devices == 0 and os.environ.get(VISIBLE):
        raise BackendError(
            f"CuPy finds no NVIDIA GPU {os.environ[VISIBLE]} ({VISIBLE}, or --device); "
            "`nvidia-smi -L` lists those that there are"
        )
    if devices == 0:
        raise BackendError("CuPy finds no NVIDIA GPU on this machine; use the backend 'numpy'")
    try:
        ones = cupy.ones((2, 2), "float32")
        (cupy.exp(ones) @ ones).sum().item()  # compiles a kernel and calls the matrix library
    except Exception as error:
        raise BackendError(
            f"CuPy finds a GPU but cannot compute on it ({_first_line(error)}); if CUDA libraries are missing, "
            'run `pip install "cupy-cuda12x[ctk]"`, or "cupy-cuda13x[ctk]" for a CUDA 13 driver'
        ) from error


def _driver_version(runtime: Any) -> int | str:
    """The newest CUDA version that the driver supports, such as "11.8"; 0 without a driver."""
    version = runtime.driverGetVersion()
    return f"{version // 1000}.{version % 1000 // 10}" if version else 0


def _first_line(error: Exception) -> str:
    """Kind and first line of text of an error: CuPy's messages run over many lines, some of them rulers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip("= \t")]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
