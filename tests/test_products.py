"""Products by cuBLAS, on a stand-in that computes in the processor's memory what cuBLAS's documentation says."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest
from cupy_double import Double, cp, from_numpy, to_numpy
from musiq_ref_cupy import guard
from musiq_ref_cupy.products import COMPUTE, WORKSPACE, Products

from musiq_ref.backend import BackendError

N, T = 0, 1


class Function:
    """A function of a library, which has its arguments' types set and converts by them, as ctypes does."""

    argtypes: list | None = None

    def __init__(self, call):
        self.call = call

    def __call__(self, *arguments):
        assert self.argtypes is None or len(arguments) == len(self.argtypes)
        return self.call(*arguments)


class Cublas:
    """The five functions of cuBLAS that are called."""

    def __init__(self, status=0):
        self.status, self.calls, self.streams, self.workspaces = status, [], [], []
        self.cublasCreate_v2 = Function(lambda handle: 0)
        self.cublasSetStream_v2 = Function(lambda handle, stream: self.streams.append(stream) or 0)
        self.cublasSetWorkspace_v2 = Function(lambda handle, address, size: self.workspaces.append(size))
        self.cublasGemmStridedBatchedEx = Function(self.gemm)

    def gemm(self, handle, turn_a, turn_b, m, n, k, alpha, *rest):
        """C = α·op(A)·op(B), all with their columns one after another: (m, k), (k, n), (m, n)."""
        (a, a_type, lda, a_step, b, b_type, ldb, b_step, beta, c, c_type, ldc, c_step, count, compute, algorithm) = rest
        assert (beta._obj.value, algorithm) == (0, -1)
        assert a_type == b_type == c_type
        dtype = (np.float32, np.float64)[c_type]
        assert type(alpha._obj) is (ctypes.c_float, ctypes.c_double)[c_type]
        self.calls.append((compute, count))
        if self.status:
            return self.status
        for i in range(count):
            factors = []
            for address, step, ld, turned, shape in (
                (a, a_step, lda, turn_a, (m, k)),
                (b, b_step, ldb, turn_b, (k, n)),
            ):
                rows, columns = shape[::-1] if turned else shape
                factor = _matrix(address + i * step * dtype().itemsize, rows, columns, ld, dtype)
                factor = factor.astype("float16").astype(dtype) if compute == COMPUTE["float16"] else factor
                factors.append(factor.T if turned else factor)
            product = alpha._obj.value * (factors[0] @ factors[1])
            _matrix(c + i * c_step * dtype().itemsize, m, n, ldc, dtype)[...] = product
        return 0


def _matrix(address, rows, columns, ld, dtype):
    """A view (rows, columns) of memory in which columns begin `ld` numbers apart."""
    assert ld >= max(1, rows)
    size = (ld * (columns - 1) + rows) * dtype().itemsize
    memory = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
    return np.lib.stride_tricks.as_strided(memory, (rows, columns), (dtype().itemsize, ld * dtype().itemsize))


def products(precision="float32", library=None):
    return Products(cp, library or Cublas(), lambda: 7, precision)


@pytest.mark.parametrize("left", ["plain", "turned", "heads", "part", "repeated"])
@pytest.mark.parametrize("right", ["plain", "turned", "heads", "weights", "repeated"])
def test_products_are_numpys_however_the_factors_lie_in_memory(left, right):
    rng = np.random.default_rng(0)

    def lying(how, batch, rows, columns, dtype):
        if how == "weights":
            return rng.standard_normal((rows, columns)).astype(dtype)
        if how == "turned":
            return rng.standard_normal((*batch, columns, rows)).astype(dtype).swapaxes(-1, -2)
        if how == "part":
            return rng.standard_normal((*batch, 2 * rows, columns + 3)).astype(dtype)[..., ::2, 1 : columns + 1]
        if how == "repeated":
            row = rng.standard_normal((*batch, 1, columns)).astype(dtype)
            return np.broadcast_to(row, (*batch, rows, columns))
        if how == "heads" and len(batch) == 2:  # (B, N, H, D) seen as (B, H, N, D)
            return rng.standard_normal((batch[0], rows, batch[1], columns)).astype(dtype).swapaxes(1, 2)
        return rng.standard_normal((*batch, rows, columns)).astype(dtype)

    sizes = itertools.product((1, 3), (1, 4), (1, 2))
    for (n, k, m), batch, dtype in itertools.product(sizes, ((), (3,), (2, 3), (1, 3)), ("float32", "float64")):
        a, b = lying(left, batch, n, k, dtype), lying(right, batch, k, m, dtype)
        y = products()(Double(a), Double(b), 0.5)
        assert y.dtype == dtype
        half, eps = a @ b / 2, np.finfo(dtype).eps
        np.testing.assert_allclose(to_numpy(y), half, rtol=4 * eps, atol=4 * eps)


def test_the_heads_of_one_image_are_not_copied(monkeypatch):
    q, k = (np.random.default_rng(i).standard_normal((1, 5, 3, 4)).swapaxes(1, 2) for i in range(2))
    multiply = products(library=(library := Cublas()))
    monkeypatch.setattr(type(cp), "ascontiguousarray", None, raising=False)  # whoever copies fails
    y = multiply(Double(q), Double(k.swapaxes(-1, -2)))
    np.testing.assert_allclose(to_numpy(y), q @ k.swapaxes(-1, -2), rtol=1e-14)
    assert library.calls == [(COMPUTE["float64"], 3)]


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
def test_factors_are_rounded_as_asked_and_only_those_of_float32(precision):
    a, b = (np.random.default_rng(i).standard_normal((5, 5)) for i in range(2))
    multiply = products(precision, library := Cublas())
    exact = to_numpy(multiply(from_numpy(a), from_numpy(b)))
    rounded = to_numpy(multiply(from_numpy(a.astype("float32")), from_numpy(b.astype("float32"))))
    assert [compute for compute, _ in library.calls] == [COMPUTE["float64"], COMPUTE[precision]]
    assert len(set(COMPUTE.values())) == len(COMPUTE)
    np.testing.assert_allclose(exact, a @ b, rtol=1e-14)
    error = np.abs(rounded - a @ b).max()
    assert (1e-5 < error < 1e-2) if precision == "float16" else error < 1e-6


def test_the_workspace_is_given_again_where_the_stream_changes():
    library, streams = Cublas(), iter([7, 7, 8, 8])
    multiply = Products(cp, library, lambda: next(streams))
    for _ in range(4):
        multiply(from_numpy(np.ones((2, 2))), from_numpy(np.ones((2, 2))))
    assert library.streams == [7, 8]
    assert library.workspaces == [WORKSPACE] * 2


def test_what_cublas_does_not_take_is_left_to_cupy():
    library = Cublas()
    whole = products(library=library)(from_numpy(np.arange(4).reshape(2, 2)), from_numpy(np.arange(4).reshape(2, 2)))
    np.testing.assert_array_equal(to_numpy(whole), [[2, 3], [6, 11]])
    assert products(library=library)(from_numpy(np.ones((0, 2))), from_numpy(np.ones((2, 3)))).shape == (0, 3)
    mixed = products(library=library)(from_numpy(np.ones((2, 2), "float32")), from_numpy(np.ones((2, 2))))
    assert mixed.dtype == np.float64
    assert not library.calls


def test_shapes_without_a_product_and_errors_of_cublas_are_sentences():
    with pytest.raises(ValueError, match=r"arrays of shapes \(2, 3\) and \(2, 3\) have no product"):
        products()(from_numpy(np.ones((2, 3))), from_numpy(np.ones((2, 3))))
    square = from_numpy(np.ones((2, 2)))
    with pytest.raises(MemoryError, match="status 3"), guard():
        products(library=Cublas(status=3))(square, square)
    with pytest.raises(BackendError, match=r"stopped working \(CUBLASStatus: cuBLAS returned status 14"), guard():
        products(library=Cublas(status=14))(square, square)
