"""Multi-head self-attention with a mask (Eq. 6–11)."""

from __future__ import annotations

import math

from musiq_ref.config import Conventions
from musiq_ref.model.noise import NO_NOISE, Noise, drop, drop_backward
from musiq_ref.model.parameters import Params
from musiq_ref.model.taps import Tap, no_tap
from musiq_ref.ops.linear import linear, linear_backward
from musiq_ref.ops.softmax import mask_logits, mask_logits_backward, softmax, softmax_backward


def allowed_pairs(valid):
    """Which token may attend to which: both must be valid (Eq. 10).

    valid: boolean (B, N)
    returns boolean (B, 1, N, N), the same for all heads
    """
    return valid[:, None, :, None] & valid[:, None, None, :]


def allowed_keys(valid):
    """The same without the N² pairs: every token, padding too (which nothing reads), may attend to the valid ones.

    valid: boolean (B, N)
    returns boolean (B, 1, 1, N), the same for all heads and queries
    """
    return valid[:, None, None, :]


def project(z, params: Params):
    """One of Q, K, V for all heads (Eq. 6).

    z: (B, N, D)
    params: kernel (D, H, D_h), bias (H, D_h)
    y: (B, H, N, D_h)
    """
    D, H, D_h = params["kernel"].shape
    y, cache = linear(z, params["kernel"].reshape(D, -1), params["bias"].reshape(-1))  # (B, N, H·D_h)
    return y.reshape(*z.shape[:-1], H, D_h).swapaxes(1, 2), (cache, params["kernel"].shape)


def project_backward(dy, cache):
    """Returns (dz, dparams)."""
    cache_linear, (D, H, D_h) = cache
    dflat = dy.swapaxes(1, 2).reshape(dy.shape[0], -1, H * D_h)  # (B, N, H·D_h)
    dz, dkernel, dbias = linear_backward(dflat, cache_linear)
    return dz, {"kernel": dkernel.reshape(D, H, D_h), "bias": dbias.reshape(H, D_h)}


def merge(heads, params: Params):
    """The heads side by side, times U_m (Eq. 9).

    heads: (B, H, N, D_h)
    params: kernel (H, D_h, D), bias (D,)
    y: (B, N, D)
    """
    H, D_h, D = params["kernel"].shape
    side_by_side = heads.swapaxes(1, 2).reshape(heads.shape[0], -1, H * D_h)  # (B, N, H·D_h)
    y, cache = linear(side_by_side, params["kernel"].reshape(-1, D), params["bias"])
    return y, (cache, params["kernel"].shape)


def merge_backward(dy, cache):
    """Returns (dheads, dparams)."""
    cache_linear, (H, D_h, D) = cache
    dside, dkernel, dbias = linear_backward(dy, cache_linear)
    dheads = dside.reshape(*dy.shape[:-1], H, D_h).swapaxes(1, 2)  # (B, H, N, D_h)
    return dheads, {"kernel": dkernel.reshape(H, D_h, D), "bias": dbias}


def attention(z, allowed, params: Params, conventions: Conventions, tap: Tap = no_tap, noise: Noise = NO_NOISE):
    """MSA(z) = [SA_1(z); …; SA_H(z)]·U_m,  SA = A·V,  A = softmax((Q·Kᵀ)/√D_h + M)            (Eq. 6–11)

    The authors divide Q, not the logits, by √D_h: the same but for rounding.

    z, y: (B, N, D)
    allowed: boolean (B, 1, N, N)
    """
    cache = {}
    q, cache["query"] = project(z, params["query"])  # (B, H, N, D_h)
    k, cache["key"] = project(z, params["key"])
    v, cache["value"] = project(z, params["value"])
    q, k, v = tap("query", q), tap("key", k), tap("value", v)
    scale = 1 / math.sqrt(q.shape[-1])
    logits = tap("logits", (q * scale) @ k.swapaxes(-1, -2))  # (B, H, N, N)
    masked, cache["mask"] = mask_logits(logits, allowed, conventions.mask, conventions.mask_value)
    weights, cache["softmax"] = softmax(masked)
    weights, cache["drop"] = drop(tap("weights", weights), noise.attention_dropout, noise)
    heads = tap("heads", weights @ v)  # (B, H, N, D_h)
    y, cache["out"] = merge(heads, params["out"])
    cache["factors"] = q, k, v, weights, scale  # of the two products
    return tap("out", y), cache


def attention_backward(dy, cache, tap: Tap = no_tap):
    """The lines of `attention` from the last to the first. Returns (dz, dparams)."""
    q, k, v, weights, scale = cache["factors"]
    dparams = {}
    dheads, dparams["out"] = merge_backward(tap("out", dy), cache["out"])
    dheads = tap("heads", dheads)
    dv = weights.swapaxes(-1, -2) @ dheads  # (B, H, N, D_h)
    dweights = dheads @ v.swapaxes(-1, -2)  # (B, H, N, N)
    dweights = tap("weights", drop_backward(dweights, cache["drop"]))
    dmasked = softmax_backward(dweights, cache["softmax"])
    dlogits = tap("logits", mask_logits_backward(dmasked, cache["mask"]))
    dk = dlogits.swapaxes(-1, -2) @ (q * scale)  # (B, H, N, D_h)
    dq = (dlogits @ k) * scale  # (B, H, N, D_h)
    dz_v, dparams["value"] = project_backward(tap("value", dv), cache["value"])
    dz_k, dparams["key"] = project_backward(tap("key", dk), cache["key"])
    dz_q, dparams["query"] = project_backward(tap("query", dq), cache["query"])
    return dz_q + dz_k + dz_v, dparams
