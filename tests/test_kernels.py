"""Every CUDA kernel computes what its readable op says: on the GPU with `make gpu`, else on the CPU (cuda_on_cpu.h).

On the CPU each runs in both orders of its warps, and faults that a GPU would not report are errors. That this finds
faults is shown by planting some into the source.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import sys

import numpy as np
import pytest
from cuda_on_cpu import KernelError, compile_on_cpu, compile_variants
from cupy_double import BACKEND, Double, counters, cp
from hypothesis import given, settings
from hypothesis import strategies as st
from musiq_ref_cupy.kernels import LONG, Kernels
from musiq_ref_cupy.launch import MANY, SOURCE, Kept, name_expressions

import musiq_ref as mq
from musiq_ref.backend import get_backend
from musiq_ref.model import attention_fused
from musiq_ref.model.parameters import flatten, map_params
from musiq_ref.ops import activation, convolution, fused, group_norm, layer_norm, linear, max_pool, softmax
from musiq_ref.training import optimizers

ON_GPU = "cupy" in os.environ.get("MUSIQ_REF_TEST_BACKENDS", "")
pytestmark = pytest.mark.skipif(
    not ON_GPU and (not shutil.which("g++") or sys.platform != "linux"), reason="needs g++ on Linux, or a GPU"
)


class Draw:
    """Arrays of random numbers, and lengths: from Hypothesis, or from a seed."""

    def __init__(self, dtype: str, seed: int, length):
        self.rng, self.dtype, self.length = np.random.default_rng(seed), dtype, length

    def __call__(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def lengths(self, *highest):
        """Numbers from 1 to these."""
        return [self.length(1, high) for high in highest]


def rows(draw):
    """Lengths of (…, D). Of two or three values that are almost equal, float32 leaves few digits to normalise."""
    a, b, D = draw.lengths(3, 11, 70)
    return a, b, D if draw.dtype == "float64" else D + 8


def norm_inputs(draw):
    *shape, D = rows(draw)
    return draw(*shape, D) + 3, draw(D), draw(D)


def residual_inputs(draw):
    *shape, D = rows(draw)
    return draw(*shape, D), draw(D), draw(*shape, D), draw(D), draw(D)


def group_inputs(draw):
    N, h, w, size, groups = draw.lengths(3, 4, 5, 5, 9)
    h, w = (h, w) if draw.dtype == "float64" else (h + 2, w + 2)  # for the same reason
    return draw(N, h, w, size * groups) + 3, draw(size * groups), draw(size * groups), 1e-4, groups


def convolution_inputs(draw):
    N, h, w, I, O, size, stride = draw.lengths(3, 8, 9, 5, 4, 4, 3)
    return draw(N, h, w, I), draw(size, size, I, O), stride


def pool_inputs(draw):
    N, h, w, C, size, stride = draw.lengths(3, 8, 9, 40, 4, 3)
    return np.round(draw(N, h, w, C) * 2), size, stride  # rounded: several of a window are equal


def mask_inputs(draw):
    B, H, Q, N = draw.lengths(3, 4, 5, 70)
    how, value = [("add", -1e10), ("fill", -1e3), ("add", -math.inf)][draw.lengths(3)[0] - 1]
    of_pairs = draw.lengths(2)[0] == 2
    return draw(B, H, Q, N), draw.rng.random((B, 1, Q if of_pairs else 1, N)) < 0.7, how, value


def long_rows(draw):
    return *draw.lengths(1, 2), LONG + 1 + 700 * draw.lengths(6)[0]


def long_mask_inputs(draw):
    (_, M, N), (how, value) = long_rows(draw), [("add", -1e10), ("fill", -1e3)][draw.lengths(2)[0] - 1]
    return draw(1, 2, M, N), draw.rng.random((1, 1, 1, N)) < 0.7, how, value


def sgd_inputs(draw):
    shape = rows(draw)
    return draw(*shape), draw(*shape), draw(*shape), 0.1, 0.01, 0.9, bool(draw.lengths(2)[0] - 1)


def adam_inputs(draw):
    shape, (t, decoupled) = rows(draw), draw.lengths(5, 2)
    v = draw(*shape) ** 2
    return draw(*shape), draw(*shape), draw(*shape), v, t, 0.1, 0.01, 0.9, 0.999, 1e-8, decoupled == 2


def kernel_gradient_forward(x, kernel, stride):
    return convolution.convolution(x, kernel, stride)


def kernel_gradient_backward(dy, cache):
    return (convolution.kernel_gradient(dy, cache),)


CASES = {
    "product": (fused.product, None, lambda draw: (draw(2, 3, 5), draw(2, 5, 7), 1 + draw.rng.random())),
    "linear": (linear.linear, linear.linear_backward, lambda draw: (draw(2, 3, 5), draw(5, 7), draw(7))),
    "layer_norm": (layer_norm.layer_norm, layer_norm.layer_norm_backward, norm_inputs),
    "bias_residual_layer_norm": (
        fused.bias_residual_layer_norm,
        fused.bias_residual_layer_norm_backward,
        residual_inputs,
    ),
    "softmax": (softmax.softmax, softmax.softmax_backward, lambda draw: (draw(*draw.lengths(2, 5, 600)) * 5,)),
    "long softmax": (softmax.softmax, softmax.softmax_backward, lambda draw: (draw(*long_rows(draw)) * 5,)),
    "long masked_softmax": (fused.masked_softmax, fused.masked_softmax_backward, long_mask_inputs),
    "masked_softmax": (fused.masked_softmax, fused.masked_softmax_backward, mask_inputs),
    "gelu_tanh": (activation.gelu_tanh, activation.gelu_tanh_backward, lambda draw: (draw(*rows(draw)) * 2,)),
    "gelu_erf": (activation.gelu_erf, activation.gelu_erf_backward, lambda draw: (draw(*rows(draw)) * 2,)),
    "bias_gelu": (fused.bias_gelu, fused.bias_gelu_backward, lambda draw: (*norm_inputs(draw)[:2], "tanh")),
    "bias_gelu exact": (fused.bias_gelu, fused.bias_gelu_backward, lambda draw: (*norm_inputs(draw)[:2], "erf")),
    "group_norm": (group_norm.group_norm, group_norm.group_norm_backward, group_inputs),
    "group_norm_relu": (fused.group_norm_relu, fused.group_norm_relu_backward, group_inputs),
    "convolution": (convolution.convolution, convolution.convolution_backward, convolution_inputs),
    "kernel_gradient": (kernel_gradient_forward, kernel_gradient_backward, convolution_inputs),
    "max_pool": (max_pool.max_pool, max_pool.max_pool_backward, pool_inputs),
    "sgd_step": (optimizers.sgd_step, None, sgd_inputs),
    "adam_step": (optimizers.adam_step, None, adam_inputs),
}
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def leaves(value):
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, tuple | list) else [value]


def results(case, arguments, cotangents, place=lambda a: a):
    """The op's results and gradients, for arrays that are placed somewhere."""
    forward, backward, _ = case
    placed = [place(a) if isinstance(a, np.ndarray) else a for a in arguments]
    if backward is None:
        made = forward(*placed)
        return leaves(made if isinstance(made, tuple) else (made,))
    y, cache = forward(*placed)
    return [*leaves(y), *leaves(backward(*map(place, cotangents), cache))]


def compare(name, draw, device):
    """AssertionError where a kernel differs from its op, which is computed by NumPy in float64."""
    case = CASES[name]
    arguments = case[2](draw)
    exact = [a.astype("float64") if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arguments]
    y = case[0](*exact)[0] if case[1] else ()
    cotangents = [draw(*a.shape) for a in leaves(y)]
    expected = results(case, exact, [c.astype("float64") for c in cotangents])
    computed = results(case, arguments, cotangents, device.from_numpy)
    assert len(computed) == len(expected)
    for mine, right in zip(computed, expected, strict=True):
        mine = device.to_numpy(mine)
        assert mine.dtype == draw.dtype
        scale = max(np.abs(right).max(), 1)
        np.testing.assert_allclose(mine / scale, right / scale, rtol=0, atol=TOLERANCE[draw.dtype])


MODULES = []
SMALL = mq.MusiqConfig(
    layers=2, width=12, mlp_width=10, heads=2, outputs=3, patch_size=8, grid_size=3, longer_sides=(16,)
)


def launches():
    return sum(module.launches for module in MODULES)


def compile_all(names):
    MODULES.append(compile_on_cpu(names))
    return MODULES[-1]


def registered(kernels):
    """The stand-in for CuPy with these kernels, until the test is over."""
    before = [dict(op.kernels) for op in kernels.OPS]
    kernels.register()
    yield BACKEND
    for op, those in zip(kernels.OPS, before, strict=True):
        op.kernels.clear()
        op.kernels.update(those)


@pytest.fixture(scope="module")
def device():
    """CuPy, or its stand-in with the kernels on the CPU."""
    if ON_GPU:
        yield get_backend("cupy")
    else:
        kernels = Kernels(Double, cp, compile_all)
        for dtype in TOLERANCE:
            kernels.function("softmax<%s>", np.dtype(dtype))  # compiles all of that dtype
        yield from registered(kernels)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(max_examples=8)
@given(data=st.data())
def test_every_kernel_is_its_op(name, dtype, device, data):
    def length(low, high):
        return data.draw(st.integers(low, high))

    draw = Draw(dtype, data.draw(st.integers(0, 99)), length)
    descending = data.draw(st.booleans())
    for module in MODULES:
        module.descending = descending
    before = launches()
    compare(name, draw, device)
    free = name in ("product", "linear", "convolution", "kernel_gradient")  # of launches: products, 1 × 1 windows
    assert ON_GPU or free or launches() > before


def test_every_kernel_is_compared():
    compared = {op for case in CASES.values() for op in case[:2]}
    assert set(Kernels.OPS) == compared & set(Kernels.OPS) | {convolution.kernel_gradient}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sums_of_many_rows(device, dtype, rng):
    x = rng.standard_normal((3, MANY // 3 + 50, 45)).astype(dtype)
    assert x.shape[0] * x.shape[1] > MANY
    there = device.from_numpy(x)
    sums = device.to_numpy(fused.product.kernels[type(there)].__self__.sum_rows(there))
    tolerance = {"float64": 1e-12, "float32": 1e-4}[dtype]  # of sums of thousands
    np.testing.assert_allclose(sums, x.sum(axis=(0, 1), dtype="float64"), rtol=0, atol=tolerance)


@pytest.mark.parametrize("kept", [attention_fused.KEPT, 0], ids=["weights kept", "computed again"])
@pytest.mark.parametrize("conventions", [mq.OFFICIAL, mq.PYIQA], ids=["official", "pyiqa"])
def test_the_whole_model_through_the_kernels(device, conventions, kept, monkeypatch):
    """Scores, logits and gradients are NumPy's; between upload and result nothing is waited for."""
    monkeypatch.setattr(attention_fused, "KEPT", kept)
    params = mq.verify.deterministic_params(SMALL, 1, "float64")
    config = SMALL.replace(conventions=conventions)
    images = [mq.verify.deterministic_image(i, 9 + i, 16) for i in range(2)]
    tokens = [mq.tokenize(image, config, "float64") for image in images]
    logits, cache = mq.forward(params, mq.batch(tokens), config)
    dlogits = mq.verify.unit(2, "dlogits", logits.shape)
    gradients = mq.backward(dlogits, cache)

    there = map_params(device.from_numpy, params)
    batch, dlogits_there = mq.Tokens(*map(device.from_numpy, mq.batch(tokens))), device.from_numpy(dlogits)
    before = launches()
    counters.reset()
    logits_there, cache = mq.forward(there, batch, config)
    gradients_there = mq.backward(dlogits_there, cache)
    assert ON_GPU or (counters.synchronisations, counters.transfers) == (0, 0)
    predicted = mq.predict(there, tokens[0], config, device)
    assert ON_GPU or (counters.synchronisations, counters.transfers) == (0, 3)  # patches, hashes and scales
    assert ON_GPU or launches() - before > 50

    pairs = [(logits_there, logits), (predicted, logits[0]), (gradients_there.patches, gradients.patches)]
    expected, found = dict(flatten(gradients.params)), dict(flatten(gradients_there.params))
    for mine, right in [*pairs, *((found[path], expected[path]) for path in expected)]:
        np.testing.assert_allclose(device.to_numpy(mine), right, rtol=0, atol=1e-10 * max(1, np.abs(right).max()))


def test_what_a_kernel_does_not_take_goes_to_the_op(device):
    x = device.from_numpy(np.arange(6).reshape(2, 3))
    assert device.to_numpy(softmax.softmax(x)[0]).sum() == pytest.approx(2)
    wide = device.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 3, 2048)))
    ones = device.from_numpy(np.ones(2048))
    y, cache = group_norm.group_norm(wide, ones, ones, 1e-6)
    assert not isinstance(cache, Kept)
    assert group_norm.group_norm_backward(y, cache)[0].shape == wide.shape


# ------------------------------------------------------------------------------------------------------ planted faults

FAULTS = {
    "a barrier removed from the sums of LayerNorm": (
        "layer_norm",
        "own[0] = dot; own[1] = sum;\n    __syncthreads();",
        "own[0] = dot; own[1] = sum;",
    ),
    "a barrier for some": (
        "layer_norm",
        "own[0] = dot; own[1] = sum;\n    __syncthreads();",
        "own[0] = dot; own[1] = sum;\n    if (threadIdx.y) __syncthreads();",
    ),
    "group means read too early": (
        "group_norm",
        "= sum;\n    __syncthreads();\n    int first",
        "= sum;\n    int first",
    ),
    "group means overwritten too early": ("group_norm", "__syncthreads(); // until nobody reads what was there", "//"),
    "a wrong reduction width": (
        "softmax",
        "int mask = 16; mask; mask /= 2) x +=",
        "int mask = 8; mask; mask /= 2) x +=",
    ),
    "a shuffle for some": ("softmax", "total = warp_sum(", "if (threadIdx.x < 20) total = warp_sum("),
    "a sum that is not rescaled": ("softmax", "total *= exp(peak - origin);", "total *= 1;"),
    "a number behind the last one": ("softmax", "first + 32 * a < N ?", "first + 32 * a <= N ?"),
    "sums of lanes that are not rescaled": ("softmax", "warp_sum(total * exp(peak - origin))", "warp_sum(total)"),
    "the largest of a block too early": (
        "long softmax",
        "= x;\n    __syncthreads();\n    x = part[0]",
        "= x;\n    x = part[0]",
    ),
    "its parts overwritten too early": ("long softmax", "__syncthreads(); // until nobody reads the last one's", "//"),
    "a warp forgotten": ("long softmax", "w < blockDim.x / 32; w++) x", "w < blockDim.x / 32 - 1; w++) x"),
    "numbers behind the last one": ("long softmax", "kept[h] = j < N ?", "kept[h] = j <= N ?"),
    "a row too many": ("softmax", "if (row >= rows) return;", "if (row > rows) return;"),
    "a column too many": ("layer_norm", "d < D; d += 32) sum += x[d];", "d <= D; d += 32) sum += x[d];"),
    "a channel too many": ("group_norm", "c < first + size; c++", "c <= first + size; c++"),
    "no mask": ("masked_softmax", "!allowed || allowed[j] ? x[j]", "true ? x[j]"),
    "the mask of another image": ("masked_softmax", "row / HM * Q + row % Q", "row % Q"),
    "a row of padding too few": ("convolution", "row >= 0 && row < h &&", "row >= 0 && row <= h &&"),
    "windows that do not begin here": ("convolution", "row % stride || ", ""),
    "the last of equal ones": ("max_pool", "value > best", "value >= best"),
    "a column of padding too few": (
        "max_pool",
        "column >= w) continue;\n            T value",
        "column > w) continue;\n            T value",
    ),
    "a corner of ReLU": ("group_norm_relu", "y && !(y[i] > 0)", "y && !(y[i] >= 0)"),
    "a parameter too many": ("adam_step", "if (i >= n) return;", "if (i > n) return;"),
    "another β": ("adam_step", "less2 * slope * slope", "less1 * slope * slope"),
    "more shared memory than asked for": (
        "layer_norm",
        "2 * (threadIdx.y * 32 + threadIdx.x)",
        "2 * (threadIdx.y * 33 + threadIdx.x)",
    ),
}


KERNELS = {
    "long softmax": ("long_softmax", "softmax"),
    "masked_softmax": "softmax",
    "group_norm_relu": "group_norm",
    "convolution": ("im2col", "col2im"),
}
"""The kernels that a case is about begin so; elsewhere, as the case."""


@pytest.fixture(scope="module")
def faulty():
    """{fault: the module with it}, all compiled at once."""
    doubles, variants = name_expressions(np.dtype("float64")), {}
    for i, (name, right, wrong) in enumerate(FAULTS.values()):
        assert right in SOURCE
        names = [expression for expression in doubles if expression.startswith(KERNELS.get(name, name))]
        variants[f"fault_{i}"] = names, SOURCE.replace(right, wrong)
    return dict(zip(FAULTS, compile_variants(variants).values(), strict=True))


def compare_in_both_orders(name, module, device):
    for seed, module.descending in itertools.product(range(6), (False, True)):
        lengths = np.random.default_rng(seed)
        draw = Draw("float64", seed, lambda low, high, rng=lengths: int(rng.integers(low, high + 1)))
        compare(name, draw, device)


@pytest.mark.skipif(ON_GPU, reason="a GPU does not report faults")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, faulty):
    for device in registered(Kernels(Double, cp, lambda names: faulty[fault])):
        with pytest.raises((AssertionError, KernelError)):
            compare_in_both_orders(FAULTS[fault][0], faulty[fault], device)
