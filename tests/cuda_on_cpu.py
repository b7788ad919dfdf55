"""kernels.cu compiled by g++ through cuda_on_cpu.h, as a module like cupy.RawModule, for arrays of the stand-in.

`compile_on_cpu(names, source)` takes a text of its own, so that tests can plant faults into it.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cupy_double import Double
from musiq_ref_cupy.kernels import SOURCE

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
MAIN = """
#include "%s"
#include "kernels.cu"
static const std::map<std::string, cpu::Runner> kernels = {%s};
extern "C" const char *run(const char *name, const unsigned *d, size_t shared_bytes, int descending, int count, const cpu::Argument *a) {
    cpu::descending = descending;
    return cpu::launch(kernels.at(name), {d[0], d[1], d[2]}, {d[3], d[4], d[5]}, shared_bytes, {a, a + count});
}
"""


class KernelError(RuntimeError):
    """A kernel did what it must not do on a GPU."""


class Argument(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("bytes", ctypes.c_longlong), ("item", ctypes.c_int))


class Module:
    """What cupy.RawModule is to a GPU. `descending`: the last warp goes first."""

    def __init__(self, library: ctypes.CDLL):
        self.library, self.descending, self.launches = library, False, 0
        library.run.restype = ctypes.c_char_p

    def get_function(self, name: str) -> Callable[..., None]:
        def function(grid, block, arguments, shared_mem=0):
            given = (Argument * len(arguments))(*map(_argument, arguments))
            dims = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
            order, self.launches = ctypes.c_int(self.descending), self.launches + 1
            said = self.library.run(
                name.encode(), dims, ctypes.c_size_t(shared_mem), order, ctypes.c_int(len(given)), given
            )
            if said:
                raise KernelError(f"{name}: {said.decode()}")

        return function


def _argument(value) -> Argument:
    if not isinstance(value, Double):
        host = np.asarray(value)
        return Argument(_address(host), -1, host.itemsize)
    if not value.flags.c_contiguous:
        raise TypeError("a kernel takes arrays in C order")
    return Argument(_address(value._host), value.nbytes, value.itemsize)


KEPT: list[np.ndarray] = []


def _address(host: np.ndarray) -> int:
    KEPT[:] = [*KEPT[-64:], host]  # scalars live until the launch that they are for is over
    return host.ctypes.data


def compile_on_cpu(names: list[str], source: str = SOURCE, optimisation: str = "-O1") -> Module:
    """The kernels of these names."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "kernels.cu").write_text(source, encoding="utf-8")
        entries = ", ".join(f'{{"{name}", cpu::runner({name})}}' for name in names)
        (path / "main.cpp").write_text(MAIN % (HEADER, entries), encoding="utf-8")
        options = ["-std=c++20", optimisation, "-w", "-shared", "-fPIC", "-U_FORTIFY_SOURCE"]
        done = subprocess.run(
            ["g++", *options, "main.cpp", "-o", "kernels.so"], cwd=path, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise KernelError(done.stderr)
        return Module(ctypes.CDLL(str(path / "kernels.so")))
