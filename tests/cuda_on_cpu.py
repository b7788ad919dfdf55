"""kernels.cu compiled by g++ through cuda_on_cpu.h, as a module like cupy.RawModule, for arrays of the stand-in.

`compile_variants` compiles several texts at once, each in a namespace of its own, so that tests can plant faults.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cupy_double import Double
from musiq_ref_cupy.launch import SOURCE

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
MAIN = """
#include "%s"
%s
static const std::map<std::string, cpu::Runner> table = {%s};
extern "C" const char *run(const char *name, const unsigned *d, size_t bytes, int order, int count, cpu::Argument *a) {
    cpu::descending = order;
    return cpu::launch(table.at(name), {d[0], d[1], d[2]}, {d[3], d[4], d[5]}, bytes, {a, a + count});
}
"""


class KernelError(RuntimeError):
    """A kernel did what it must not do on a GPU."""


class Argument(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("bytes", ctypes.c_longlong), ("item", ctypes.c_int))


class Module:
    """What cupy.RawModule is to a GPU. `descending`: the last warp goes first."""

    def __init__(self, library: ctypes.CDLL, namespace: str):
        self.library, self.namespace, self.descending, self.launches = library, namespace, False, 0
        library.run.restype = ctypes.c_char_p

    def get_function(self, name: str) -> Callable[..., None]:
        def function(grid, block, arguments, shared_mem=0):
            given = (Argument * len(arguments))(*map(_argument, arguments))
            dims = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
            order, self.launches = ctypes.c_int(self.descending), self.launches + 1
            path, size, count = f"{self.namespace}::{name}", ctypes.c_size_t(shared_mem), ctypes.c_int(len(given))
            said = self.library.run(path.encode(), dims, size, order, count, given)
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


def compile_variants(variants: dict[str, tuple[list[str], str]]) -> dict[str, Module]:
    """{namespace: its module}, from {namespace: (the kernels that are called for, the text)}."""
    with tempfile.TemporaryDirectory() as folder:
        path, includes, entries = Path(folder), [], []
        for space, (names, source) in variants.items():
            text = source.replace("extern __shared__ double shared[];", "using ::shared;")
            (path / f"{space}.cu").write_text(text, encoding="utf-8")
            includes.append(f'namespace {space} {{\n#include "{space}.cu"\n}}\n#undef WINDOWS\n#undef PIXEL\n')
            entries += [f'{{"{space}::{name}", cpu::runner({space}::{name})}}' for name in names]
        (path / "main.cpp").write_text(MAIN % (HEADER, "".join(includes), ",\n".join(entries)), encoding="utf-8")
        options = ["-std=c++20", "-O0", "-w", "-shared", "-fPIC"]
        command = ["g++", *options, "main.cpp", "-o", "kernels.so"]
        done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KernelError(done.stderr)
        library = ctypes.CDLL(str(path / "kernels.so"))
        return {space: Module(library, space) for space in variants}


def compile_on_cpu(names: list[str]) -> Module:
    """The kernels of these names, as they are."""
    return compile_variants({"kernels": (names, SOURCE)})["kernels"]
