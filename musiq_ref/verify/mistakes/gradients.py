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
from musiq_ref.ops.layer_norm import layer_norm_backward
from musiq_ref.ops.linear import linear_backward
from musiq_ref.ops.max_pool import _shifts
from musiq_ref.ops.weight_standardization import EPS
from musiq_ref.verify.mistakes.mistake import Mistake, family

# --- linear, softmax, norms ------------------------------------------------------------------------------------------


def linear_wrong(dkernel=lambda dkernel, dy, x: dkernel, dbias=lambda dbias, dy: dbias):
    """`linear_backward` with the gradient to the kernel or the bias changed."""

    def backward(dy, cache):
        right = linear_backward(dy, cache)
        return right[0], dkernel(right[1], dy, cache[0]), dbias(right[2], dy)

    return backward


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


def gamma_averaged(dy, cache):
    dx, dgamma, dbeta = layer_norm_backward(dy, cache)
    return dx, dgamma / (dy.size // dy.shape[-1]), dbeta


def group_norm_per_channel(dy, cache):
    xhat, rho, gamma, _ = cache
    dxhat = dy * gamma
    dx = rho * (dxhat - dxhat.mean((1, 2), keepdims=True) - xhat * (dxhat * xhat).mean((1, 2), keepdims=True))
    return dx, (dy * xhat).sum((0, 1, 2)), dy.sum((0, 1, 2))


def standardize_wrong(divisor=0, sigma_constant=False, mean_constant=False):
    """`standardize_backward` with a changed divisor, or with σ or μ taken as constant."""

    def backward(dy, cache):
        centred, sigma, right = cache
        dsigma = 0 if sigma_constant else -(dy * centred).sum((0, 1, 2)) / (sigma + EPS) ** 2
        dcentred = dy / (sigma + EPS) + dsigma * centred / sigma / (right + divisor)
        return dcentred if mean_constant else dcentred - dcentred.mean((0, 1, 2))

    return backward


# --- convolution, pooling, look-up -----------------------------------------------------------------------------------


def convolution_flipped(dy, cache):
    x, kernel, stride = cache
    return convolution_backward(dy, (x, kernel[::-1, ::-1], stride))[0], convolution_backward(dy, cache)[1]


def convolution_of_first_example(dy, cache):
    x, kernel, stride = cache
    return convolution_backward(dy, cache)[0], convolution_backward(dy[:1], (x[:1], kernel, stride))[1]


def convolution_shifted(dy, cache):
    dx, dkernel = convolution_backward(dy, cache)
    return np.roll(dx, 1, axis=1), dkernel


def pool_gradient_everywhere(dy, cache):
    padded, y, shape, size, stride = cache
    dpadded = np.zeros_like(padded)
    for here, d in zip(_shifts(padded, shape, size, stride), _shifts(dpadded, shape, size, stride), strict=True):
        d += dy * (here == y)
    return unpad_same(dpadded, shape, size, stride)


def pool_gradient_averaged(dy, cache):
    padded, _, shape, size, stride = cache
    dpadded = np.zeros_like(padded)
    for d in _shifts(dpadded, shape, size, stride):
        d += dy / size**2
    return unpad_same(dpadded, shape, size, stride)


def rows_overwritten(dy, cache):
    index, rows = cache
    dtable = np.zeros((rows, dy.shape[-1]), dy.dtype)
    dtable[index.ravel()] = dy.reshape(-1, dy.shape[-1])
    return dtable


# --- the model's parts -----------------------------------------------------------------------------------------------


def attention_wrong(change):
    """`attention_backward` of a changed cache: change(q, k, v, weights, scale) -> the same five."""

    def backward(dy, cache, *tap):
        factors = change(*cache["factors"])
        return attention_backward(dy, {**cache, "factors": factors}, *tap)

    return backward


def softmax_constant(dy, cache, *tap):
    weights = cache["softmax"]
    return attention_backward(dy, {**cache, "softmax": np.full_like(weights, 1 / weights.shape[-1])}, *tap)


def mask_forgotten(dy, cache, *tap):
    weights = cache["softmax"]
    return attention_backward(dy, {**cache, "softmax": np.where(weights > 0, weights, weights.mean())}, *tap)


def tapped(backward, name, change):
    """A backward with one gradient changed on its way."""
    return lambda dy, cache, tap=no_tap, *more: backward(
        dy, cache, lambda n, a: tap(n, change(a) if n == name else a), *more
    )


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


def embed_wrong(change):
    """`embed_backward` with its gradients to the parameters changed."""

    def backward(dz, cache, *tap):
        dx, dparams = embed_backward(dz, cache, *tap)
        return dx, {**dparams, **change(dparams, dz)}

    return backward


def every_token_read(dlogits, cache, *tap):
    dy, dparams = head_backward(dlogits, cache, *tap)
    return np.broadcast_to(dy[:, :1], dy.shape), dparams


def native_gradient_only(dpatches, height, width, config):
    kept, start = dpatches.copy(), 0
    for scale in scales_of(height, width, config):
        if scale.longer_side:
            kept[start : start + scale.length] = 0
        start += scale.length
    return tokenize_backward(kept, height, width, config)


def other_filter(dy, shape, kind="gaussian"):
    return resize_backward(dy, shape, "bicubic" if kind == "gaussian" else "gaussian")


def expected_width(cache):
    """The number of classes, from the cache of `expected_score`."""
    return int(cache[1])


KERNELS, IMAGE, FC1 = "dparams/stem/conv*/kernel", "gradient/image", "gradient/encoder/block_*/mlp/fc1"
ATTENTION, LOGITS = "gradient/encoder/block_*/attention/*", "gradient/encoder/block_*/attention/logits"
NORMED, RECTIFIED = "gradient/encoder/block_*/output", "gradient/stem/*"

MISTAKES = [
    Mistake("linear: bias gradient averaged", "sum over the rows", "linear_backward",
            linear_wrong(dbias=lambda db, dy: db / (dy.size // dy.shape[-1])), "dparams/encoder/block_*/bias"),
    Mistake("linear: kernel gradient of the first example only", "sum over the batch, too", "linear_backward",
            linear_wrong(dkernel=lambda dkernel, dy, x: x[0].T @ dy[0])),
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
    Mistake("LayerNorm: γ's gradient averaged", "sum over the rows", "layer_norm_backward", gamma_averaged,
            "dparams/encoder/*norm*/scale"),
    Mistake("GroupNorm: means per channel", "the means are over the group", "group_norm_backward",
            group_norm_per_channel, "gradient/stem/conv*"),
    Mistake("max-pool's gradient to all maxima", "of several equal maxima only the first gets it",
            "max_pool_backward", pool_gradient_everywhere, "gradient/stem/relu_root"),
    Mistake("max-pool's gradient averaged", "only the maximum gets it", "max_pool_backward", pool_gradient_averaged,
            "gradient/stem/relu_root"),
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
    Mistake("convolution: kernel flipped", "dx̃ uses the kernel as it is", "convolution_backward", convolution_flipped,
            "gradient/stem/relu*"),
    Mistake("convolution: kernel gradient of the first example only", "sum over the batch, too",
            "convolution_backward", convolution_of_first_example),
    Mistake("convolution: gradient shifted", "cut off the padding that was put before",
            "convolution_backward", convolution_shifted, "gradient/stem/relu*"),
    Mistake("look-up: repeated rows overwrite", "add up the gradients of a row", "lookup_backward", rows_overwritten,
            "dparams/*_embedding/table"),
    Mistake("dropout not rescaled", "the backward has the forward's factor 1/(1 − rate)",
            "dropout_backward", lambda dy, keep: dropout_backward(dy, keep > 0)),
    Mistake("dropped branches rescaled", "the forward does not rescale them (SPEC 4)",
            "drop_path_backward", lambda dy, keep: drop_path_backward(dy, keep) / 0.6),
    Mistake("attention: 1/√D_h forgotten", "dQ and dK have the factor of the logits", "attention_backward",
            attention_wrong(lambda q, k, v, weights, scale: (q, k, v, weights, 1.0)), ATTENTION),
    Mistake("attention: heads exchanged", "each head's gradient is its own", "attention_backward",
            attention_wrong(lambda q, k, v, weights, scale: (q, k, v[:, ::-1], weights, scale)), ATTENTION),
    Mistake("attention: weights not transposed", "dV = Aᵀ·dheads", "attention_backward",
            attention_wrong(lambda q, k, v, weights, scale: (q, k, v, weights.swapaxes(-1, -2), scale)), ATTENTION),
    Mistake("attention: softmax taken as constant", "differentiate the softmax at its own weights",
            "attention_backward", softmax_constant, ATTENTION),
    Mistake("attention: mask forgotten", "no gradient passes a masked pair", "attention_backward", mask_forgotten),
    Mistake("attention: key's gradient dropped", "K depends on z, too", "attention_backward",
            tapped(attention_backward, "key", np.zeros_like), ATTENTION),
    Mistake("attention: no gradient to the weights", "the weights depend on queries and keys", "attention_backward",
            tapped(attention_backward, "weights", np.zeros_like), ATTENTION),
    Mistake("block: first residual's gradient dropped", "add dz to the branch's gradient",
            "block_backward", block_without_residual(1), "gradient/encoder/*"),
    Mistake("block: second residual's gradient dropped", "add dz to the branch's gradient",
            "block_backward", block_without_residual(2), "gradient/encoder/*"),
    Mistake("class token's gradient averaged over the batch", "every image has the same class token: sum",
            "embed_backward", embed_wrong(lambda dparams, dz: {"class_token": dparams["class_token"] / len(dz)})),
    Mistake("no gradient to the scale embedding", "its rows are added to every token", "embed_backward",
            embed_wrong(lambda dparams, dz: {"scale_embedding": {"table": 0 * dparams["scale_embedding"]["table"]}}
                        if "scale_embedding" in dparams else {}), "dparams/scale_embedding/table"),
    Mistake("head: gradient to every token", "only the class token is read", "head_backward", every_token_read,
            "gradient/encoder/norm"),
    Mistake("stem: shortcut's gradient dropped", "both branches read the pooled features",
            "stem_backward", tapped(stem_backward, "gn_proj", np.zeros_like), "gradient/stem/gn_proj"),
    Mistake("stem: a ReLU's gradient passes everywhere", "none where its input was below 0",
            "stem_backward", tapped(stem_backward, "relu1", np.abs), "gradient/stem/relu1"),
    Mistake("resize: another filter's transpose", "transpose the matrix of the forward",
            "resize_backward", other_filter, IMAGE),
    *family("image gradient {}", "it is to an image in 0 … 1: x = 2·v − 1 has derivative 2", {
                "without the 2 of the normalisation": 0.5, "to values 0 … 255": 1 / 255, "divided by 127.5": 1 / 127.5,
                "times 255": 255.0, "of the wrong sign": -1.0, "times 2 once more": 2.0,
            }, "tokenize_backward", lambda k: lambda *arguments: k * tokenize_backward(*arguments), IMAGE),
    *family("all gradients {}", "differentiate the score itself", {
                "negated": lambda c: -1.0, "divided by C": lambda c: 1 / c, "times C": lambda c: float(c),
                "halved": lambda c: 0.5,
                "doubled": lambda c: 2.0, "times 1024 (a loss scale)": lambda c: 1024.0,
                "times 65536 (a loss scale)": lambda c: 65536.0,
            }, "expected_score_backward", lambda k: lambda dy,
            cache: k(expected_width(cache)) * expected_score_backward(
                dy, cache), "gradient/head/logits"),
    Mistake("image gradient of the native scale only", "add the gradients through the resized scales",
            "tokenize_backward", native_gradient_only, IMAGE),
]  # fmt: skip
