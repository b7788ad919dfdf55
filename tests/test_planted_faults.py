"""Tests of the test: wrong backwards, as people really write them, must each be rejected by the gradient check."""

from __future__ import annotations

import numpy as np
import pytest
from op_table import HOST_OPS, OPS, SCALE

from musiq_ref.image.resize import resize_backward
from musiq_ref.model import attention, encoder
from musiq_ref.ops.convolution import pad_same, windows
from musiq_ref.ops.linear import linear_backward
from musiq_ref.verify import GradientError, check_vjp


def changed(name, f):
    """The op's own backward with its result passed through f (a list of the gradients)."""
    case = {**OPS, **HOST_OPS}[name]

    def backward(dy, cache):
        gradients = case.backward(dy, cache)
        return tuple(f(list(gradients))) if isinstance(gradients, tuple) else f([gradients])[0]

    return name, backward


def replaced(name, backward):
    return name, backward


def mapped(path, f):
    """Changes one leaf of the gradients to the parameters."""

    def change(gradients):
        *parents, last = path.split("/")
        node = gradients[1]
        for key in parents:
            node = node[key]
        node[last] = f(node[last])
        return gradients

    return change


def tapped(name, backward, at, f):
    """The op's own backward with one intermediate gradient changed on the way, through a tap."""
    return name, lambda dy, cache: backward(dy, cache, lambda n, a: f(a) if n == at else a)


def at_valid_rows(backward):
    """A backward for a case of `op_table.case` whose results at padded tokens nobody reads."""
    return lambda dy, cache, *tap: backward(dy * cache[1], cache[0], *tap)


def layer_norm_without(term):
    def backward(dy, cache):
        xhat, rho, gamma = cache
        dxhat = dy * gamma
        mean = 0 if term == "mean" else dxhat.mean(-1, keepdims=True)
        along = 0 if term == "projection" else (dxhat * xhat).mean(-1, keepdims=True)
        scale = 1 if term == "rho" else rho
        dx = scale * (dxhat - mean - xhat * along)
        return dx, (dy * xhat).sum((0, 1)), dy.sum((0, 1))

    return backward


def standardize_wrong(ddof=0, constant_sigma=False, keep_mean=False):
    def backward(dy, cache):
        centred, sigma, n = cache
        dsigma = 0 if constant_sigma else -(dy * centred).sum((0, 1, 2)) / (sigma + 1e-5) ** 2
        dc = dy / (sigma + 1e-5) + dsigma * centred / sigma / (n - ddof)
        return dc if keep_mean else dc - dc.mean((0, 1, 2))

    return backward


def group_norm_per_channel(dy, cache):
    xhat, rho, gamma, _ = cache
    dxhat = dy * gamma
    dx = rho * (dxhat - dxhat.mean((1, 2), keepdims=True) - xhat * (dxhat * xhat).mean((1, 2), keepdims=True))
    return dx, (dy * xhat).sum((0, 1, 2)), dy.sum((0, 1, 2))


def convolution_flipped(dy, cache):
    x, kernel, stride = cache
    right = OPS["convolution 3×3"].backward(dy, (x, kernel[::-1, ::-1], stride))
    return right[0], OPS["convolution 3×3"].backward(dy, cache)[1]


def convolution_kernel_only_first_example(dy, cache):
    dx, _ = OPS["convolution 3×3"].backward(dy, cache)
    x, kernel, stride = cache
    view = windows(pad_same(x, 3, stride), 3, stride)[:1]
    return dx, (view.reshape(-1, 45).T @ dy[:1].reshape(-1, 6)).reshape(kernel.shape)


def max_pool_as_average(dy, cache):
    dx = OPS["max_pool"].backward(dy, cache)
    return np.full_like(dx, dx.mean())


def block_without_residual(which):
    def backward(dz, cache):
        dparams = {}
        dx, dparams["mlp"] = encoder.mlp_backward(dz, cache["mlp"])
        dx, dparams["norm2"] = encoder.norm_backward(dx, cache["norm2"])
        dz = dx if which == 2 else dz + dx
        dx, dparams["attention"] = attention.attention_backward(dz, cache["attention"])
        dx, dparams["norm1"] = encoder.norm_backward(dx, cache["norm1"])
        return (dx if which == 1 else dz + dx), dparams

    return backward


def attention_wrong(fault):
    """attention_backward with one mistake."""

    def backward(dy, cache):
        q, k, v, weights, scale = cache["factors"]
        softmax = cache["softmax"]
        if fault == "scale":
            scale = 1.0
        elif fault == "unmasked":
            weights = softmax = np.where(weights > 0, weights, weights.mean())
        elif fault == "heads swapped":
            v = v[:, ::-1]
        elif fault == "weights transposed":
            weights = weights.swapaxes(-1, -2)
        elif fault == "softmax of ones":
            softmax = np.full_like(weights, 1 / weights.shape[-1])
        return attention.attention_backward(dy, {**cache, "factors": (q, k, v, weights, scale), "softmax": softmax})

    return backward


FAULTS = {
    "zero gradient": changed("softmax", lambda g: [0 * g[0]]),
    "softmax: missing mean term": replaced("softmax", lambda dy, y: y * dy),
    "softmax: sum over the wrong axis": replaced("softmax", lambda dy, y: y * (dy - (dy * y).sum(-2, keepdims=True))),
    "linear: missing transpose": changed("linear", lambda g: [g[0], g[1][::-1], g[2]]),
    "linear: bias averaged instead of summed": changed("linear", lambda g: [g[0], g[1], g[2] / 6]),
    "linear: gradient of the first example only": replaced(
        "linear", lambda dy, c: (linear_backward(dy, c)[0], c[0][0].T @ dy[0], dy.sum((0, 1)))
    ),
    "linear: input gradient dropped": changed("linear", lambda g: [0 * g[0], *g[1:]]),
    "linear: gradients in the wrong order": changed("linear", lambda g: [g[0], g[2], g[1]]),
    "relu: passes everything": replaced("relu", lambda dy, y: dy),
    "relu: wrong side": replaced("relu", lambda dy, y: dy * (y <= 0)),
    "gelu_tanh: derivative of the exact form": replaced("gelu_tanh", OPS["gelu_erf"].backward),
    "gelu_erf: derivative of the tanh form": replaced("gelu_erf", OPS["gelu_tanh"].backward),
    "gelu_erf: density forgotten": replaced(
        "gelu_erf", lambda dy, x: dy * OPS["gelu_erf"].forward(x)[0] / np.where(x == 0, 1, x)
    ),
    "fill: gradient flows through the mask": replaced("mask_logits fill", lambda dy, c: dy),
    "layer_norm: missing mean term": replaced("layer_norm", layer_norm_without("mean")),
    "layer_norm: missing projection term": replaced("layer_norm", layer_norm_without("projection")),
    "layer_norm: missing 1/σ": replaced("layer_norm", layer_norm_without("rho")),
    "layer_norm: γ not summed over rows": changed("layer_norm", lambda g: [g[0], g[1] / 2, g[2]]),
    "group_norm: statistics per channel": replaced("group_norm", group_norm_per_channel),
    "standardize: wrong ddof": replaced("standardize ddof 0", standardize_wrong(ddof=1)),
    "standardize: σ held constant": replaced("standardize ddof 0", standardize_wrong(constant_sigma=True)),
    "standardize: mean held constant": replaced("standardize ddof 0", standardize_wrong(keep_mean=True)),
    "convolution: kernel flipped": replaced("convolution 3×3", convolution_flipped),
    "convolution: first example only": replaced("convolution 3×3", convolution_kernel_only_first_example),
    "convolution: shifted by the padding": changed("convolution 3×3", lambda g: [np.roll(g[0], 1, axis=1), g[1]]),
    "max_pool: spread like an average": replaced("max_pool", max_pool_as_average),
    "lookup: repeated rows overwrite": replaced(
        "lookup", lambda dy, c: np.stack([dy[c[0] == r][-1] if (c[0] == r).any() else 0 * dy[0, 0] for r in range(9)])
    ),
    "dropout: not rescaled": replaced("dropout", lambda dy, keep: dy * (keep > 0)),
    "drop_path: rescaled": changed("drop_path", lambda g: [g[0] / 0.6]),
    "attention: no 1/√D_h": replaced("attention official", at_valid_rows(attention_wrong("scale"))),
    "attention: unmasked padding": replaced("attention official", at_valid_rows(attention_wrong("unmasked"))),
    "attention: heads swapped": replaced("attention official", at_valid_rows(attention_wrong("heads swapped"))),
    "attention: weights transposed": replaced(
        "attention official", at_valid_rows(attention_wrong("weights transposed"))
    ),
    "attention: softmax taken as constant": replaced(
        "attention official", at_valid_rows(attention_wrong("softmax of ones"))
    ),
    "attention: key gradient dropped": tapped(
        "attention official", at_valid_rows(attention.attention_backward), "key", np.zeros_like
    ),
    "attention: query bias wrong": changed("attention official", mapped("query/bias", lambda g: g + 0.01)),
    "block: first residual dropped": replaced("block", at_valid_rows(block_without_residual(1))),
    "block: second residual dropped": replaced("block", at_valid_rows(block_without_residual(2))),
    "block: MLP swaps its biases' signs": changed("block", mapped("mlp/fc1/bias", lambda g: -g)),
    "embed: class token not summed over the batch": changed("embed", mapped("class_token", lambda g: g / 2)),
    "embed without HSE: no gradient to the scales": changed(
        "embed without HSE", mapped("scale_embedding/table", np.zeros_like)
    ),
    "embed without SCE: the scales' gradient to the places": replaced(
        "embed without SCE",
        lambda dz, c: OPS["embed without SCE"].backward(
            dz, {**c, "spatial_embedding": (SCALE, c["spatial_embedding"][1])}
        ),
    ),
    "embed without HSE, SCE: class token's gradient to a patch": changed(
        "embed without HSE, SCE", lambda g: [np.roll(g[0], 1, axis=1), g[1]]
    ),
    "linear stem: rows and channels exchanged": changed("stem linear", lambda g: [g[0][..., ::-1]]),
    "head: every token read": replaced(
        "head", lambda dy, c: (OPS["head"].backward(dy, c)[0] + 0.1, OPS["head"].backward(dy, c)[1])
    ),
    "expected_score: halved": changed("expected_score", lambda g: [g[0] / 2]),
    "stem: shortcut dropped": tapped("stem", OPS["stem"].backward, "gn_proj", np.zeros_like),
    "stem: ReLU skipped": tapped("stem", OPS["stem"].backward, "relu1", np.abs),
    "resize: transposed without weights": replaced(
        "resize gaussian (5, 4)", lambda dy, shape: np.repeat(np.repeat(dy, 3, 0), 2, 1)[:11, :7] / 6
    ),
    "resize: another filter's transpose": replaced(
        "resize bicubic (5, 4)", lambda dy, cache: resize_backward(dy, cache[0], "gaussian")
    ),
    "extract_patches: padding on the wrong side": changed("extract_patches", lambda g: [np.roll(g[0], 1, axis=0)]),
    "tokenize: factor 2 of the normalisation": changed("tokenize official", lambda g: [g[0] / 2]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_rejected(fault):
    name, wrong = FAULTS[fault]
    case = {**OPS, **HOST_OPS}[name]
    assert check_vjp(*case) < 1e-6
    with pytest.raises(GradientError, match=r"along|gradient"):
        check_vjp(case.forward, wrong, case.inputs)


def test_there_are_enough_faults():
    assert len(FAULTS) >= 25


@pytest.mark.parametrize("size", [1e-2, 1e-4])
def test_small_relative_faults_are_rejected(size):
    case = OPS["layer_norm"]
    with pytest.raises(GradientError, match="along"):
        check_vjp(case.forward, lambda dy, c: tuple(g * (1 + size) for g in case.backward(dy, c)), case.inputs)


def test_a_cotangent_of_ones_would_miss_it():
    """Why the cotangent is random: the rows of a softmax sum to 1, so ones hide a backward that returns zeros."""
    case = OPS["softmax"]
    y, cache = case.forward(*case.inputs)
    assert np.abs(case.backward(np.ones_like(y), cache)).max() < 1e-15


def test_what_cannot_be_checked_is_refused():
    case = OPS["softmax"]
    with pytest.raises(ValueError, match="needs float64"):
        check_vjp(case.forward, case.backward, [case.inputs[0].astype("f4")])
    with pytest.raises(ValueError, match="no gradient to check"):
        check_vjp(case.forward, case.backward, [np.arange(3)])
    with pytest.raises(GradientError, match=r"is \(3, 5\), not of shape \(2, 3, 5\)"):
        check_vjp(case.forward, lambda dy, c: dy[0], case.inputs)
    with pytest.raises(GradientError, match="none is for input 1"):
        check_vjp(OPS["linear"].forward, lambda dy, c: OPS["linear"].backward(dy, c)[:1], OPS["linear"].inputs)
