"""The CuPy backend: how it is found, what it registers, and one clear sentence for everything that can be missing."""

import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import musiq_ref_cupy
import numpy as np
import pytest

from musiq_ref.backend import BackendError, erf, get_backend, namespace


def plant(monkeypatch, device_count=lambda: 1, driver=12090, version="14.2.0", exp=np.exp):
    """Put a NumPy-backed module named cupy into sys.modules; returns the class of its arrays."""

    class FakeArray(np.ndarray):
        pass

    cupy = ModuleType("cupy")
    cupy.__dict__.update(
        __version__=version,
        ndarray=FakeArray,
        asarray=lambda a: np.asarray(a).view(FakeArray),
        asnumpy=np.asarray,
        ones=np.ones,
        exp=exp,
        cuda=SimpleNamespace(
            runtime=SimpleNamespace(getDeviceCount=device_count, driverGetVersion=lambda: driver),
        ),
    )
    special = ModuleType("cupyx.scipy.special")
    special.__dict__["erf"] = lambda x: "the GPU's erf"
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", ModuleType("cupyx"))
    monkeypatch.setitem(sys.modules, "cupyx.scipy", ModuleType("cupyx.scipy"))
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", special)
    return FakeArray


def failing(message):
    def fail(*args):
        raise RuntimeError(message)

    return fail


def sentence():
    """What `get_backend("cupy")` says when it refuses: one line, without a traceback's rulers."""
    with pytest.raises(BackendError) as caught:
        get_backend("cupy")
    message = str(caught.value)
    assert "\n" not in message
    assert "===" not in message
    return message


def test_a_working_cupy_is_registered_and_moves_arrays(monkeypatch):
    array_type = plant(monkeypatch)
    backend = get_backend("cupy")
    x = backend.from_numpy(np.arange(3.0))
    assert backend.name == "cupy"
    assert type(x) is array_type
    assert namespace(x) is sys.modules["cupy"]
    assert erf(x) == "the GPU's erf"
    np.testing.assert_array_equal(backend.to_numpy(x), [0, 1, 2])


def test_without_cupy_the_message_names_the_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # what Python leaves for a module that must not be found
    assert re.search(r"not installed; run pip install 'musiq_ref\[cuda12\]' .* the same with cuda13", sentence())


@pytest.mark.parametrize(
    "error",
    [
        ImportError("\n=====\nFailed to import CuPy.\n\nOriginal error:\n  ImportError: libcudart.so.12\n====="),
        ModuleNotFoundError("No module named 'fastrlock'", name="fastrlock"),
        RuntimeError("numpy.core.multiarray failed to import"),
    ],
)
def test_a_cupy_that_cannot_be_imported_is_told_apart_from_none(monkeypatch, error):
    def broken(name):
        raise error

    monkeypatch.setattr(musiq_ref_cupy.importlib, "import_module", broken)
    message = sentence()
    assert message.startswith("CuPy is installed but cannot be imported")
    assert str(error).strip("=\n ").splitlines()[0] in message


def test_an_old_cupy_is_refused_with_its_version(monkeypatch):
    plant(monkeypatch, version="13.4.1")
    assert re.search(r"CuPy 13\.4\.1 is too old, at least 14", sentence())


def test_no_driver_and_an_old_driver_are_different_sentences(monkeypatch):
    insufficient = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
    plant(monkeypatch, failing(insufficient), driver=0)
    assert "no NVIDIA driver" in sentence()
    plant(monkeypatch, failing(insufficient), driver=11080)
    assert "supports CUDA 11.8 at most, which is too old" in sentence()


@pytest.mark.parametrize("count", [lambda: 0, failing("cudaErrorNoDevice: no CUDA-capable device is detected")])
def test_no_gpu_is_said_so(monkeypatch, count):
    plant(monkeypatch, count)
    assert "no NVIDIA GPU" in sentence()


def test_any_other_driver_error_is_passed_on(monkeypatch):
    plant(monkeypatch, failing("cudaErrorUnknown: unknown error"))
    assert "cudaErrorUnknown: unknown error" in sentence()


def test_a_gpu_that_cannot_compute_is_refused(monkeypatch):
    plant(monkeypatch, exp=failing("CuPy failed to load libnvrtc.so.12"))
    assert re.search(r"cannot compute on it .*libnvrtc.*cupy-cuda12x\[ctk\]", sentence())


def test_the_installed_cupy_works_or_says_why_not():
    cupy = pytest.importorskip("cupy", reason="CuPy has no package for this platform")
    if cupy.cuda.is_available():
        assert get_backend("cupy").name == "cupy"
    else:
        assert re.search("no NVIDIA (driver|GPU)|too old", sentence())


def test_importing_the_package_does_not_import_cupy():
    code = "import sys, musiq_ref_cupy; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(BackendError, match=r"no backend is called 'tpu'; there are: .*numpy"):
        get_backend("tpu")
