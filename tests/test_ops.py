"""Every op: its gradient, its dtype, its arguments left alone, and the same numbers on another array library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from op_table import HOST_OPS, OPS

from musiq_ref.backend import erf, namespace, rowwise
from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.ops.activation import gelu_erf, gelu_tanh
from musiq_ref.ops.convolution import convolution, same_padding
from musiq_ref.ops.dropout import drop_path, dropout
from musiq_ref.ops.embedding import sinusoidal_table
from musiq_ref.ops.group_norm import group_norm
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.max_pool import max_pool, max_pool_backward
from musiq_ref.ops.softmax import mask_logits, softmax
from musiq_ref.ops.weight_standardization import standardize, standardize_backward
from musiq_ref.verify import check_vjp


@pytest.mark.parametrize("name", [*OPS, *HOST_OPS])
def test_gradient(name):
    case = {**OPS, **HOST_OPS}[name]
    for seed in range(3):
        assert check_vjp(*case[:3], seed=seed) < 1e-6


def convert(value, f):
    return map_params(f, value) if isinstance(value, dict) else f(value)


def to_float32(a):
    return a.astype(np.float32) if a.dtype.kind == "f" else a


def leaves(value):
    """The arrays of a result: an array, a nested dict, or a tuple; without the key biases, whose gradient is 0.

    (Softmax ignores what is added to all logits of a row, so rounding is all that is left of that gradient.)
    """
    if isinstance(value, dict):
        return [leaf for path, leaf in sorted(flatten(value)) if not path.endswith("key/bias")]
    if isinstance(value, tuple):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def run(case, inputs, cotangent=None, from_numpy=np.asarray):
    y, cache = case.forward(*inputs)
    if cotangent is None:
        cotangent = np.random.default_rng(1).standard_normal(y.shape)
    return [y, *leaves(case.backward(from_numpy(cotangent.astype(y.dtype)), cache))]


@pytest.mark.parametrize("name", [*OPS, *HOST_OPS])
def test_float32_stays_float32_and_is_close(name):
    case = {**OPS, **HOST_OPS}[name]
    exact = run(case, case.inputs)
    single = run(case, [convert(x, to_float32) for x in case.inputs])
    for a, b in zip(exact, single, strict=True):
        assert a.dtype == np.float64
        assert b.dtype == np.float32
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a)


@pytest.mark.parametrize("name", OPS)
def test_same_numbers_on_the_device(name, device):
    case = OPS[name]
    here = run(case, case.inputs)
    there = run(case, [convert(x, device.from_numpy) for x in case.inputs], from_numpy=device.from_numpy)
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(device.to_numpy(b), a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [*OPS, *HOST_OPS])
def test_a_backward_leaves_its_cache_alone(name):
    case = {**OPS, **HOST_OPS}[name]
    y, cache = case.forward(*case.inputs)
    cotangent = np.random.default_rng(1).standard_normal(y.shape)
    first, second = (leaves(case.backward(cotangent, cache)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_tap_in_a_window_is_what_convolution_means(rng):
    x, w = rng.normal(size=(2, 7, 8, 3)), rng.normal(size=(3, 3, 3, 4))
    y, _ = convolution(x, w, 2)
    (top, _), (left, _) = same_padding(7, 3, 2), same_padding(8, 3, 2)
    for i, j in ((0, 0), (1, 2), (3, 3)):
        expected = np.zeros((2, 4))
        for a in range(3):
            for b in range(3):
                row, column = 2 * i + a - top, 2 * j + b - left
                if 0 <= row < 7 and 0 <= column < 8:
                    expected += x[:, row, column] @ w[a, b]
        np.testing.assert_allclose(y[:, i, j], expected, rtol=1e-12)


def test_max_pool_ignores_padding_and_sends_ties_to_the_first():
    x = np.full((1, 4, 4, 1), -5.0)
    y, cache = max_pool(x)
    assert (y == -5).all()  # padding with zeros would give 0 at the lower right
    dx = max_pool_backward(np.ones_like(y), cache)
    assert dx.sum() == 4
    assert dx[0, 0, 0, 0] == 1
    assert dx[0, 2, 2, 0] == 1


@pytest.mark.parametrize(("rows", "columns"), [(5, 8), (8, 5), (7, 3), (1, 2)])
def test_max_pool_is_its_definition_whatever_the_sides(rows, columns, rng):
    x = rng.normal(size=(2, rows, columns, 3))
    y, cache = max_pool(x)
    assert y.shape == (2, math.ceil(rows / 2), math.ceil(columns / 2), 3)
    padded = np.pad(x, ((0, 0), same_padding(rows, 3, 2), same_padding(columns, 3, 2), (0, 0)), constant_values=-np.inf)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            assert (y[:, i, j] == padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2))).all()
    assert max_pool_backward(np.ones_like(y), cache).sum() == y.size


def test_kernels_are_standardized_by_n_unless_asked(rng):
    kernel = rng.normal(size=(3, 3, 2, 4))
    np.testing.assert_allclose(standardize(kernel)[0].std(axis=(0, 1, 2)), 1, rtol=1e-4)
    assert np.array_equal(standardize(kernel)[0], standardize(kernel, 0)[0])


def test_softmax_of_large_numbers_and_of_nothing():
    y, _ = softmax(np.array([[1e4, 1e4 + 1], [-math.inf, -math.inf], [-math.inf, 3.0]]))
    np.testing.assert_allclose(y, [[1 / (1 + math.e), math.e / (1 + math.e)], [0, 0], [0, 1]], rtol=1e-12)


@pytest.mark.parametrize(("how", "value"), [("add", -1e10), ("fill", -1e3), ("add", -math.inf)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masked_pairs_get_no_weight(how, value, dtype, rng):
    allowed = np.array([[True, False, True], [True, True, False], [False, True, True]])
    logits, _ = mask_logits(rng.normal(size=(2, 3, 3)).astype(dtype), allowed, how, value)
    weights, _ = softmax(logits)
    assert logits.dtype == dtype
    assert (weights[:, ~allowed] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)


def test_norms_are_accurate_far_from_zero():
    x = 1e3 + np.random.default_rng(0).normal(size=(4, 384))
    exact, _ = layer_norm(x, np.ones(384), np.zeros(384))
    single, _ = layer_norm(x.astype("f4"), np.ones(384, "f4"), np.zeros(384, "f4"))
    assert np.abs(single - exact).max() < 1e-3  # E[x²] − E[x]² in float32 would be off by about 0.1
    grouped, _ = group_norm(x.reshape(4, 2, 6, 32), np.ones(32), np.zeros(32), 1e-6, groups=4)
    parts = grouped.reshape(4, 12, 4, 8)
    np.testing.assert_allclose(parts.mean(axis=(1, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(parts.std(axis=(1, 3)), 1, rtol=1e-5)


def test_constant_kernel_is_standardized_to_zero_with_finite_gradient():
    y, cache = standardize(np.full((3, 3, 2, 4), 0.25))
    assert (y == 0).all()
    assert np.isfinite(standardize_backward(np.random.default_rng(0).normal(size=(3, 3, 2, 4)), cache)).all()


def test_gelu_forms_differ_by_less_than_a_thousandth_but_do_differ():
    x = np.linspace(-6, 6, 1001)[:, None]
    exact = x * scipy.special.ndtr(x)
    np.testing.assert_allclose(gelu_erf(x)[0], exact, atol=1e-15)
    gap = np.abs(gelu_tanh(x)[0] - exact).max()
    assert 1e-4 < gap < 1e-3


def test_float32_error_function():
    x = np.linspace(-9, 9, 200_001, dtype="f4")
    assert np.abs(erf(x) - scipy.special.erf(x.astype("f8"))).max() < 1.5e-7
    assert erf(x).dtype == np.float32
    assert np.isnan(erf(np.array([np.nan], "f4"))).all()


@given(st.integers(1, 300), st.integers(1, 9), st.sampled_from(["float32", "float64"]))
def test_rowwise_is_the_function_itself(rows, width, dtype):
    x = np.random.default_rng(rows).normal(size=(rows, width)).astype(dtype)
    y = rowwise(lambda a, b: np.exp(a) + b.sum(axis=-1, keepdims=True), x, x[:, ::-1])
    assert y.dtype == dtype
    assert np.array_equal(y, np.exp(x) + x[:, ::-1].sum(axis=-1, keepdims=True))


def test_rowwise_of_nothing():
    assert rowwise(np.exp, np.zeros((0, 5))).shape == (0, 5)


def test_dropout_keeps_the_mean_and_drop_path_whole_examples(rng):
    x = np.ones((400, 25))
    y, _ = dropout(x, 0.3, rng)
    assert set(np.unique(y)) == {0.0, 1 / 0.7}
    assert abs(y.mean() - 1) < 0.03
    y, _ = drop_path(x, 0.3, rng)
    assert ((y == 0).all(axis=1) | (y == 1).all(axis=1)).all()
    assert 0.2 < (y == 0).all(axis=1).mean() < 0.4


def test_sinusoidal_table_against_its_definition():
    table = sinusoidal_table(3, 8)
    assert table.shape == (9, 8)
    for p, j in ((0, 0), (5, 2), (8, 5), (3, 7)):
        angle = p / 10000 ** (2 * (j // 2) / 8)
        assert table[p, j] == pytest.approx(math.cos(angle) if j % 2 else math.sin(angle), abs=1e-15)


def test_namespace_refuses_what_is_not_an_array():
    with pytest.raises(TypeError, match=r"not list; convert it with numpy\.asarray"):
        namespace([1.0])
