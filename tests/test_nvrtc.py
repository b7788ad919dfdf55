"""NVIDIA's own compiler takes the kernels, for every generation of GPUs that CuPy serves; no GPU is needed."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from musiq_ref_cupy.launch import OPTIONS, SOURCE, name_expressions

pytestmark = pytest.mark.frameworks("nvidia")


@pytest.fixture(scope="module")
def nvrtc(nvidia):
    """The compiler's library, from its wheel."""
    found = sorted(file for folder in nvidia.__path__ for file in Path(folder).rglob("libnvrtc.so.*"))
    if not found:
        pytest.skip("needs NVRTC; `make test-all` installs it")
    return ctypes.CDLL(str(found[0]))


def compile(nvrtc, source: str, names: list[str], architecture: int) -> tuple[int, str]:
    """NVRTC's result, 0 if all is well, and what it says."""
    program, length = ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    for name in names:
        assert nvrtc.nvrtcAddNameExpression(program, name.encode()) == 0
    given = [f"--gpu-architecture=sm_{architecture}", *OPTIONS]
    options = (ctypes.c_char_p * len(given))(*map(str.encode, given))
    result = nvrtc.nvrtcCompileProgram(program, len(options), options)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(length))
    text = ctypes.create_string_buffer(length.value)
    nvrtc.nvrtcGetProgramLog(program, text)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return result, text.value.decode()


@pytest.mark.parametrize("architecture", [75, 80, 86, 90, 100])
def test_every_kernel_compiles_without_a_warning(nvrtc, architecture):
    dtypes = ("float32", "float64") if architecture == 90 else ("float32",)
    names = [name for dtype in dtypes for name in name_expressions(np.dtype(dtype))]
    assert compile(nvrtc, SOURCE, names, architecture) == (0, "")


def test_an_error_is_found(nvrtc):
    result, said = compile(nvrtc, SOURCE.replace("threadIdx.x", "threadIdx.w"), ["softmax<float>"], 80)
    assert result != 0
    assert "threadIdx" in said or '"w"' in said
