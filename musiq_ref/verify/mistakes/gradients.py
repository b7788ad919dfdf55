"""Backwards, as people get them wrong. Each takes what the right one takes."""

from __future__ import annotations

import numpy as np

from musiq_ref.image.resize import resize_backward
from musiq_ref.image.tokenize import scales_of, tokenize_backward
from musiq_ref.model.attention import attention_backward
from musiq_ref.model.embeddings import embed_backward
from musiq_ref.model.encoder import mlp_backward, norm_backward
from musiq_ref.model.head import expected_score_backward, head_backward
from musiq_ref.model.stem import stem_backward
from musiq_ref.model.taps import no_tap, within
from musiq_ref.ops.activation import gelu_erf, gelu_erf_backward, gelu_tanh_backward
from musiq_ref.ops.convolution import convolution_backward, unpad_same
from musiq_ref.ops.dropout import drop_path_backward, dropout_backward
from musiq_ref.ops.group_norm import group_norm_backward
from musiq_ref.ops.layer_norm import layer_norm_backward
from musiq_ref.ops.linear import linear_backward
from musiq_ref.ops.max_pool import _shifts
from musiq_ref.ops.weight_standardization import EPS
from musiq_ref.verify.mistakes.mistake import Mistake, family

# --- one result, or what the backward is given, changed --------------------------------------------------------------


def then(backward, change):
    """A backward with change(its gradients, its first two arguments) in the place of its gradients."""
    return lambda dy, cache, *more: change(backward(dy, cache, *more), dy, cache)


def given(backward, change):
    """A backward of change(its cache)."""
    return lambda dy, cache, *more: backward(dy, change(cache), *more)


def factor(backward, place, change):
    """A backward with one of the factors of its forward's products changed."""
    return given(backward, lambda cache: {**cache, "factors": tuple(
        change(f) if k == place else f for k, f in enumerate(cache["factors"]))})  # fmt: skip


def tapped(backward, name, change):
    """A backward with one gradient changed on its way."""
    return lambda dy, cache, tap=no_tap, *more: backward(
        dy, cache, lambda n, a: tap(n, change(a) if n == name else a), *more
    )


def rows(dy):
    """How many rows a gradient has."""
    return dy.size // dy.shape[-1]


# --- other formulas --------------------------------------------------------------------------------------------------


def layer_norm_without(*terms):
    """`layer_norm_backward` without the terms "mean", "projection" or the factor "rho"."""

    def backward(dy, cache):
        xhat, rho, gamma = cache
        dxhat = dy * gamma
        mean = 0 if "mean" in terms else dxhat.mean(-1, keepdims=True)
        along = 0 if "projection" in terms else (dxhat * xhat).mean(-1, keepdims=True)
        dx = (1 if "rho" in terms else rho) * (dxhat - mean - xhat * along)
        return dx, *layer_norm_backward(dy, cache)[1:]

    return backward


def standardize_wrong(divisor=0, sigma_constant=False, mean_constant=False):
    """`standardize_backward` with a changed divisor, or with σ or μ taken as constant."""

    def backward(dy, cache):
        centred, sigma, right = cache
        dsigma = 0 if sigma_constant else -(dy * centred).sum((0, 1, 2)) / (sigma + EPS) ** 2
        dcentred = dy / (sigma + EPS) + dsigma * centred / sigma / (right + divisor)
        return dcentred if mean_constant else dcentred - dcentred.mean((0, 1, 2))

    return backward


def pool_gradient(share):
    """`max_pool_backward` that gives share(dy, whether here is the maximum, places of a window) to every place."""

    def backward(dy, cache):
        padded, y, shape, size, stride = cache
        dpadded = np.zeros_like(padded)
        for here, d in zip(_shifts(padded, shape, size, stride), _shifts(dpadded, shape, size, stride), strict=True):
            d += share(dy, here == y, size**2)
        return unpad_same(dpadded, shape, size, stride)

    return backward


def rows_overwritten(dy, cache):
    index, count = cache
    dtable = np.zeros((count, dy.shape[-1]), dy.dtype)
    dtable[index.ravel()] = dy.reshape(-1, dy.shape[-1])
    return dtable


def block_without_residual(which):
    def backward(dz, cache, tap=no_tap):
        dparams = {}
        dz = tap("output", dz)
        dx, dparams["mlp"] = mlp_backward(dz, cache["mlp"], within(tap, "mlp"))
        dx, dparams["norm2"] = norm_backward(tap("norm2", dx), cache["norm2"])
        dz = tap("residual1", dx if which == 2 else dz + dx)
        dx, dparams["attention"] = attention_backward(dz, cache["attention"], within(tap, "attention"))
        dx, dparams["norm1"] = norm_backward(tap("norm1", dx), cache["norm1"])
        return (dx if which == 1 else dz + dx), dparams

    return backward


def without_rows(table):
    """`embed_backward` without a gradient to a table."""
    return then(embed_backward, lambda g, dz, cache: (
        g[0], {name: {"table": 0 * d["table"]} if name == table else d for name, d in g[1].items()}))  # fmt: skip


def native_gradient_only(dpatches, height, width, config):
    kept, start = dpatches.copy(), 0
    for scale in scales_of(height, width, config):
        if scale.longer_side:
            kept[start : start + scale.length] = 0
        start += scale.length
    return tokenize_backward(kept, height, width, config)


KERNELS, IMAGE, FC1 = "dparams/stem/conv*/kernel", "gradient/image", "gradient/encoder/block_*/mlp/fc1"
ATTENTION, LOGITS = "gradient/encoder/block_*/attention/*", "gradient/encoder/block_*/attention/logits"
NORMED, RECTIFIED = "gradient/encoder/block_*/output", "gradient/stem/*"

MISTAKES = [
    Mistake("linear: bias gradient averaged", "sum over the rows", "linear_backward",
            then(linear_backward, lambda g, dy, cache: (g[0], g[1], g[2] / rows(dy))), "dparams/encoder/block_*/bias"),
    Mistake("linear: kernel gradient of the first example only", "sum over the batch, too", "linear_backward",
            then(linear_backward, lambda g, dy, cache: (g[0], cache[0][0].T @ dy[0], g[2]))),
    Mistake("ReLU: gradient passes everywhere", "none where x < 0", "relu_backward", lambda dy, y: dy, RECTIFIED),
    Mistake("ReLU: gradient on the wrong side", "it passes where x > 0", "relu_backward", lambda dy, y: dy * (y <= 0),
            RECTIFIED),
    Mistake("derivative of the exact GELU", "differentiate the GELU that is computed",
            "gelu_tanh_backward", gelu_erf_backward, FC1, under={"gelu": "tanh"}),
    Mistake("derivative of the tanh approximation", "differentiate the GELU that is computed",
            "gelu_erf_backward", gelu_tanh_backward, FC1, under={"gelu": "erf"}),
    Mistake("GELU's density forgotten", "the derivative of x·Φ(x) is Φ(x) + x·φ(x)", "gelu_erf_backward",
            lambda dy, x: dy * gelu_erf(x)[0] / np.where(x == 0, 1, x)),
    Mistake("the term −y·Σ dy·y is missing", "every output depends on every input",
            "softmax_backward", lambda dy, y: y * dy, LOGITS, where="attention"),
    Mistake("its sum runs over the wrong axis", "sum over the last axis",
            "softmax_backward", lambda dy, y: y * (dy - (dy * y).sum(-2, keepdims=True)), LOGITS,
            where="attention"),
    Mistake("gradient through a replaced logit", "nothing flows to a logit that was replaced",
            "mask_logits_backward", lambda dy, cache: dy),
    Mistake("the term −mean(dx̂) is missing", "μ depends on x",
            "layer_norm_backward", layer_norm_without("mean"), NORMED),
    Mistake("the term −x̂·mean(dx̂·x̂) is missing", "σ depends on x",
            "layer_norm_backward", layer_norm_without("projection"), NORMED),
    Mistake("LayerNorm's statistics taken as constants", "mean and deviation depend on the input",
            "layer_norm_backward", layer_norm_without("mean", "projection"), "gradient/encoder/block_*/output"),
    Mistake("the factor ρ = 1/σ is missing", "x̂ is x divided by σ",
            "layer_norm_backward", layer_norm_without("rho"), NORMED),
    Mistake("LayerNorm: γ's gradient averaged", "sum over the rows", "layer_norm_backward",
            then(layer_norm_backward, lambda g, dy, cache: (g[0], g[1] / rows(dy), g[2])),
            "dparams/encoder/*norm*/scale"),
    Mistake("GroupNorm: means per channel", "the means are over the group", "group_norm_backward",
            given(group_norm_backward, lambda c: (*c[:3], c[0].shape[-1])), "gradient/stem/conv*"),
    Mistake("max-pool's gradient to all maxima", "of several equal maxima only the first gets it",
            "max_pool_backward", pool_gradient(lambda dy, top, n: dy * top), "gradient/stem/relu_root"),
    Mistake("max-pool's gradient averaged", "only the maximum gets it", "max_pool_backward",
            pool_gradient(lambda dy, top, n: dy / n), "gradient/stem/relu_root"),
    Mistake("standardisation not differentiated", "the kernel's gradient goes through its standardisation",
            "standardize_backward", lambda dy, cache: dy, KERNELS),
    Mistake("standardisation's statistics taken as constants", "mean and deviation depend on the kernel",
            "standardize_backward", standardize_wrong(sigma_constant=True, mean_constant=True), KERNELS),
    Mistake("standardisation: wrong divisor", "the backward divides as the forward does",
            "standardize_backward", standardize_wrong(divisor=-1)),
    Mistake("standardisation: deviation taken as constant", "σ depends on the kernel",
            "standardize_backward", standardize_wrong(sigma_constant=True), KERNELS),
    Mistake("standardisation: mean taken as constant", "μ depends on the kernel",
            "standardize_backward", standardize_wrong(mean_constant=True), KERNELS),
    Mistake("convolution: kernel flipped", "dx̃ uses the kernel as it is", "convolution_backward",
            then(convolution_backward, lambda g, dy, c: (
                convolution_backward(dy, (c[0], c[1][::-1, ::-1], c[2]))[0], g[1])), "gradient/stem/relu*"),
    Mistake("convolution: kernel gradient of the first example only", "sum over the batch, too",
            "convolution_backward", then(convolution_backward, lambda g, dy, c: (
                g[0], convolution_backward(dy[:1], (c[0][:1], *c[1:]))[1]))),
    Mistake("convolution: gradient shifted", "cut off the padding that was put before",
            "convolution_backward", then(convolution_backward, lambda g, dy, c: (np.roll(g[0], 1, axis=1), g[1])),
            "gradient/stem/relu*"),
    Mistake("look-up: repeated rows overwrite", "add up the gradients of a row", "lookup_backward", rows_overwritten,
            "dparams/*_embedding/table"),
    Mistake("dropout not rescaled", "the backward has the forward's factor 1/(1 − rate)",
            "dropout_backward", lambda dy, keep: dropout_backward(dy, keep > 0)),
    Mistake("dropped branches rescaled", "the forward does not rescale them (SPEC 4)",
            "drop_path_backward", lambda dy, keep: drop_path_backward(dy, keep) / 0.6),
    Mistake("attention: 1/√D_h forgotten", "dQ and dK have the factor of the logits", "attention_backward",
            factor(attention_backward, 4, lambda scale: 1.0), ATTENTION),
    Mistake("attention: heads exchanged", "each head's gradient is its own", "attention_backward",
            factor(attention_backward, 2, lambda v: v[:, ::-1]), ATTENTION),
    Mistake("attention: weights not transposed", "dV = Aᵀ·dheads", "attention_backward",
            factor(attention_backward, 3, lambda weights: weights.swapaxes(-1, -2)), ATTENTION),
    Mistake("attention: softmax taken as constant", "differentiate the softmax at its own weights",
            "attention_backward", given(attention_backward, lambda c: {
                **c, "softmax": np.full_like(c["softmax"], 1 / c["softmax"].shape[-1])}), ATTENTION),
    Mistake("attention: mask forgotten", "no gradient passes a masked pair", "attention_backward",
            given(attention_backward, lambda c: {
                **c, "softmax": np.where(c["softmax"] > 0, c["softmax"], c["softmax"].mean())})),
    Mistake("attention: key's gradient dropped", "K depends on z, too", "attention_backward",
            tapped(attention_backward, "key", np.zeros_like), ATTENTION),
    Mistake("attention: no gradient to the weights", "the weights depend on queries and keys", "attention_backward",
            tapped(attention_backward, "weights", np.zeros_like), ATTENTION),
    Mistake("block: first residual's gradient dropped", "add dz to the branch's gradient",
            "block_backward", block_without_residual(1), "gradient/encoder/*"),
    Mistake("block: second residual's gradient dropped", "add dz to the branch's gradient",
            "block_backward", block_without_residual(2), "gradient/encoder/*"),
    Mistake("class token's gradient averaged over the batch", "every image has the same class token: sum",
            "embed_backward", then(embed_backward, lambda g, dz, cache: (
                g[0], {**g[1], "class_token": g[1]["class_token"] / len(dz)}))),
    *family("no gradient to the {} embedding", "its rows are added to every token", ("scale", "spatial"),
            "embed_backward", lambda table: without_rows(f"{table}_embedding"), "dparams/*_embedding/table"),
    Mistake("head: gradient to every token", "only the class token is read", "head_backward",
            then(head_backward, lambda g, dlogits, cache: (np.broadcast_to(g[0][:, :1], g[0].shape), g[1])),
            "gradient/encoder/norm"),
    Mistake("stem: shortcut's gradient dropped", "both branches read the pooled features",
            "stem_backward", tapped(stem_backward, "gn_proj", np.zeros_like), "gradient/stem/gn_proj"),
    Mistake("stem: a ReLU's gradient passes everywhere", "none where its input was below 0",
            "stem_backward", tapped(stem_backward, "relu1", np.abs), "gradient/stem/relu1"),
    Mistake("resize: another filter's transpose", "transpose the matrix of the forward",
            "resize_backward", lambda dy, shape, kind="gaussian": resize_backward(
                dy, shape, "bicubic" if kind == "gaussian" else "gaussian"), IMAGE),
    *family("image gradient {}", "it is to an image in 0 … 1: x = 2·v − 1 has derivative 2", {
                "without the 2 of the normalisation": 0.5, "to values 0 … 255": 1 / 255, "divided by 127.5": 1 / 127.5,
                "times 255": 255.0, "of the wrong sign": -1.0, "times 2 once more": 2.0,
            }, "tokenize_backward", lambda k: then(tokenize_backward, lambda g, *_: k * g), IMAGE),
    *family("all gradients {}", "differentiate the score itself", {
                "negated": lambda c: -1.0, "divided by C": lambda c: 1 / c, "times C": lambda c: float(c),
                "halved": lambda c: 0.5,
                "doubled": lambda c: 2.0, "times 1024 (a loss scale)": lambda c: 1024.0,
                "times 65536 (a loss scale)": lambda c: 65536.0,
            }, "expected_score_backward", lambda k: then(expected_score_backward, lambda g, dy, cache: (
                k(int(cache[1])) * g)), "gradient/head/logits"),
    Mistake("image gradient of the native scale only", "add the gradients through the resized scales",
            "tokenize_backward", native_gradient_only, IMAGE),
]  # fmt: skip
