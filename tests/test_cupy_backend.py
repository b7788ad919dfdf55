"""The CuPy backend: how it is found, what it registers, and one clear sentence for everything that can be missing."""

import os
import re
import subprocess
import sys
from importlib.resources import files
from types import ModuleType, SimpleNamespace

import musiq_ref_cupy
import numpy as np
import pytest
from cupy_double import BACKEND
from musiq_ref_cupy import guard
from musiq_ref_cupy.kernels import Kernels

import musiq_ref as mq
from musiq_ref.backend import VISIBLE, BackendError, erf, get_backend, namespace, use_device
from musiq_ref.cli import main
from musiq_ref.model import inference
from musiq_ref.model.parameters import map_params
from musiq_ref.ops.fused import product

TINY = mq.MusiqConfig.preset("tiny")


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
        matmul=np.matmul,
        exp=exp,
        RawModule=lambda **options: None,
        cuda=SimpleNamespace(
            runtime=SimpleNamespace(
                getDeviceCount=device_count, driverGetVersion=lambda: driver, runtimeGetVersion=lambda: 987000
            ),
        ),
    )
    special = ModuleType("cupyx.scipy.special")
    special.__dict__["erf"] = lambda x: "the GPU's erf"
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", ModuleType("cupyx"))
    monkeypatch.setitem(sys.modules, "cupyx.scipy", ModuleType("cupyx.scipy"))
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", special)
    return FakeArray


def test_a_precision_is_named_after_a_colon(monkeypatch):
    plant(monkeypatch)
    asked = []
    monkeypatch.setattr("musiq_ref_cupy._products", lambda cupy, precision: asked.append(precision))
    assert [get_backend(name).name for name in ("cupy", "cupy:tf32", "cupy:float16")] == ["cupy"] * 3
    assert asked == ["float32", "tf32", "float16"]
    with pytest.raises(BackendError, match=r"no precision 'int8'; there are: float32, tf32, float16"):
        get_backend("cupy:int8")
    with pytest.raises(BackendError, match=r"no backend is called 'numpy:tf32'; there are: cupy, numpy"):
        get_backend("numpy:tf32")


def test_without_cublas_cupys_own_products_serve_but_for_another_precision(monkeypatch):
    plant(monkeypatch)
    assert musiq_ref_cupy._products(sys.modules["cupy"], "float32") is product.readable
    with pytest.raises(BackendError, match=r"cuBLAS was not found for products in tf32 \(OSError: libcublas.so.987"):
        get_backend("cupy:tf32")


def failing(error):
    def fail(*args):
        raise error if isinstance(error, Exception) else RuntimeError(error)

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


def test_the_kernels_are_those_of_cupys_arrays_alone(monkeypatch):
    array_type = plant(monkeypatch)
    get_backend("cupy")
    assert all(array_type in op.kernels and np.ndarray not in op.kernels for op in Kernels.OPS)


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


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


LOST = CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access")
SAID = r"stopped working \(CUDARuntimeError: cudaErrorIllegalAddress.*nvidia-smi.*start again"


@pytest.mark.parametrize(("way", "function"), [("from_numpy", "asarray"), ("to_numpy", "asnumpy")])
def test_a_gpu_that_disappears_is_told_in_a_sentence(monkeypatch, way, function):
    plant(monkeypatch)
    monkeypatch.setitem(sys.modules["cupy"].__dict__, function, failing(LOST))
    move = getattr(get_backend("cupy"), way)
    with pytest.raises(BackendError, match=SAID):
        move(np.ones(2))


def test_a_gpu_that_disappears_while_it_scores_is_told_in_a_sentence(monkeypatch):
    plant(monkeypatch)
    monkeypatch.setattr(inference, "_logits", failing(LOST))
    device = BACKEND._replace(guard=get_backend("cupy").guard)
    tokens, params = mq.tokenize(np.zeros((40, 50, 3), np.uint8), TINY), mq.init_params(TINY)
    params = map_params(device.from_numpy, params)
    with pytest.raises(BackendError, match=SAID):
        mq.predict(params, tokens, TINY, device)


@pytest.mark.parametrize("text", ["cudaErrorMemoryAllocation: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_a_lack_of_memory_on_the_gpu_is_a_memory_error(text):
    with pytest.raises(MemoryError), guard():
        raise CUDARuntimeError(text)


def test_other_errors_pass_the_guard():
    with pytest.raises(RuntimeError, match=r"^mine$"), guard():
        raise RuntimeError("mine")


def test_the_score_of_an_image_too_large_for_the_gpu_is_a_sentence(monkeypatch):
    monkeypatch.setattr("musiq_ref.scorers.get_backend", lambda name: BACKEND)
    one = mq.scorer(mq.Checkpoint(mq.init_params(TINY), TINY, "native", None), backend="cupy")
    monkeypatch.setattr(inference, "_logits", failing(MemoryError("Out of memory allocating 9,000,000,000 bytes")))
    with pytest.raises(MemoryError, match=r"^the image: too large for the memory of the GPU; reduce it"):
        one(np.zeros((40, 50, 3), np.uint8))


def test_a_device_is_one_of_those_that_are_visible(monkeypatch):
    monkeypatch.setenv(VISIBLE, "")
    use_device(1)
    assert os.environ[VISIBLE] == "1"
    monkeypatch.setenv(VISIBLE, "2, GPU-5c3f")
    use_device(1)
    assert os.environ[VISIBLE] == "GPU-5c3f"
    with pytest.raises(BackendError, match=r"no GPU 1: CUDA_VISIBLE_DEVICES is GPU-5c3f"):
        use_device(1)


def test_a_device_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setenv(VISIBLE, "")
    plant(monkeypatch, failing("cudaErrorNoDevice: no CUDA-capable device is detected"))
    photograph = str(files("musiq_ref") / "data" / "photographs" / "coffee.png")
    assert main(["score", photograph, "--backend", "cupy", "--device", "7"]) == 2
    assert "CuPy finds no NVIDIA GPU 7" in capsys.readouterr().err
    assert os.environ[VISIBLE] == "7"  # the test's own, restored by monkeypatch
    with pytest.raises(SystemExit):
        main(["score", photograph, "--device", "first"])
    assert "'first' is no GPU's number" in capsys.readouterr().err


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(BackendError, match=r"no backend is called 'tpu'; there are: .*numpy"):
        get_backend("tpu")
