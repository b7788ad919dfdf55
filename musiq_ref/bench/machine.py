"""What a timing depends on: processor, BLAS and its kernel, versions, memory; and how much memory a process has had."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from musiq_ref.backend import NUMPY, Backend, namespace
from musiq_ref.version import __version__

OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""What makes OpenBLAS run another kernel than the processor's own; measurements go without."""

THREADS = ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM")


@contextmanager
def environment(threads: int) -> Iterator[None]:
    """In its block, processes are started with that many threads and the BLAS's own choice of kernel."""
    wanted: dict[str, str | None] = {f"{library}_NUM_THREADS": str(threads) for library in THREADS}
    wanted |= dict.fromkeys(OVERRIDES)
    before = {name: os.environ.get(name) for name in wanted}
    _set(wanted)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def machine(threads: int) -> dict[str, Any]:
    """What the header says of this machine before anything has run."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "musiq_ref": __version__,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "overrides": {name: os.environ[name] for name in OVERRIDES if name in os.environ},
    }


def blas() -> dict[str, str]:
    """NumPy's version, its BLAS, and the kernel that runs in this process.

    >>> blas()["numpy"] == np.__version__
    True
    """
    found = [one for one in threadpool_info() if one["user_api"] == "blas"]
    libraries = [one for one in found if "numpy" in one["filepath"]] or found  # SciPy may have one of its own
    kernels = ", ".join(sorted({str(one.get("architecture") or "not known") for one in libraries}))
    names = ", ".join(sorted({f"{one['internal_api']} {one['version']}" for one in libraries}))
    return {"numpy": np.__version__, "blas": names or "not known to threadpoolctl", "kernel": kernels or "not known"}


def card(device: Backend) -> dict[str, str]:
    """The name of a backend's GPU and the versions of its library; of NumPy nothing.

    >>> card(NUMPY)
    {}
    """
    if device is NUMPY:
        return {}
    library = namespace(device.from_numpy(np.zeros(1)))
    name = library.cuda.runtime.getDeviceProperties(library.cuda.Device().id)["name"].decode()
    return {"card": name, "library": f"{device.name} {library.__version__}"}


def pool_mib(device: Backend) -> float:
    """What the pool of a backend's GPU holds, in MiB."""
    library = namespace(device.from_numpy(np.zeros(1)))
    return library.get_default_memory_pool().total_bytes() / 2**20


def processor() -> str:
    """The processor's name, with what tells its generation where the name alone does not."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = dict(re.findall(r"^(.+?)\s*: (.*)$", info.read_text("utf-8").partition("\n\n")[0], re.M))
        flags = found.get("flags", "").split()
        more = [f"{key} {found[key]}" for key in ("cpu family", "model") if key in found]
        more += [name for name, flag in (("AVX-512", "avx512f"), ("AVX2", "avx2")) if flag in flags][:1]
        name = found.get("model name") or found.get("Hardware") or platform.machine()
        return f"{name} ({', '.join(more)})" if more else name
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


def peak_mib() -> float | None:
    """The most memory that this process has had so far, in MiB; None where the system does not tell (Windows).

    On Linux `ru_maxrss` begins at what the process had that started this one, so its own mark is read.

    >>> peak_mib() is None or peak_mib() > 1
    True
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text("utf-8"))):
        return int(found[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
