"""Linformer: self-attention to m learned mixtures of the keys and values (Wang et al. 2020; appendix G).

Two matrices E and F (m, longest sequence) sum the keys and the values over the sequence, and every query attends to
those m sums: N·m weights instead of N². The matrices are learned, one pair a block, the same for all heads; F may be E
("key-value sharing"). A shorter sequence uses their first columns.

E and F know places, which softmax attention does not: their column n belongs to the n-th token, and the order of the
tokens matters. Padding has no place. It is moved behind the valid tokens and zeroed before the projection, so column n
is the n-th valid token's, however much padding lies between them: a score does not depend on it.
"""

from __future__ import annotations

import math

from musiq_ref.backend import namespace
from musiq_ref.config import Conventions
from musiq_ref.model.attention import merge, merge_backward, project, project_backward
from musiq_ref.model.noise import NO_NOISE, Noise, drop, drop_backward
from musiq_ref.model.parameters import Params
from musiq_ref.model.taps import Tap, no_tap
from musiq_ref.ops.softmax import softmax, softmax_backward


def compress(x, matrix, valid):
    r"""y = E·x̃,  x̃: the valid rows of x in front, then zeros;  of E the first N columns

    x: (B, H, N, D_h), keys or values
    matrix E: (m, L), L ≥ N
    valid: boolean (B, 1, N)
    y: (B, H, m, D_h)
    """
    xp, N = namespace(x), x.shape[-2]
    if matrix.shape[1] < N:
        raise ValueError(f"a sequence of {N} tokens, but E has {matrix.shape[1]} columns; raise attention_length")
    order = xp.argsort(xp.arange(N) + N * ~valid[:, 0], axis=-1)  # (B, N), the valid ones first
    closed = _rows(x * valid[..., None], order)  # (B, H, N, D_h)
    return matrix[:, :N] @ closed, (closed, matrix, valid, order)


def compress_backward(dy, cache):
    r"""dx̃ = Eᵀ·dy, its rows back in their places;  dE = Σ dy·x̃ᵀ over batch and heads, 0 in the unused columns"""
    closed, matrix, valid, order = cache
    xp, N = namespace(dy), closed.shape[-2]
    dx = _rows(matrix[:, :N].T @ dy, xp.argsort(order, axis=-1)) * valid[..., None]  # (B, H, N, D_h)
    drows, rows = (a.transpose(2, 0, 1, 3).reshape(a.shape[2], -1) for a in (dy, closed))  # (m or N, B·H·D_h)
    return dx, xp.pad(drows @ rows.T, ((0, 0), (0, matrix.shape[1] - N)))


def _rows(x, order):
    """The rows of x (B, H, N, D_h) in an order (B, N) of each image's own."""
    images = namespace(x).arange(len(x))[:, None]
    return x.swapaxes(1, 2)[images, order].swapaxes(1, 2)


def linformer(z, allowed, params: Params, conventions: Conventions, tap: Tap = no_tap, noise: Noise = NO_NOISE):
    """SA = softmax(Q·(E·K)ᵀ/√D_h)·(F·V),  MSA = [SA_1; …; SA_H]·U_m

    z, y: (B, N, D)
    allowed: boolean (B, 1, N, N), or (B, 1, 1, N): which keys are valid
    params: those of `attention`, E (m, L), and F (m, L) if it is not E
    """
    cache = {}
    q, cache["query"] = project(z, params["query"])  # (B, H, N, D_h)
    k, cache["key"] = project(z, params["key"])
    v, cache["value"] = project(z, params["value"])
    q, k, v = tap("query", q), tap("key", k), tap("value", v)
    valid = allowed.any(axis=-2)  # (B, 1, N)
    k, cache["E"] = compress(k, params["E"], valid)  # (B, H, m, D_h)
    v, cache["F"] = compress(v, params["F" if "F" in params else "E"], valid)
    k, v = tap("compressed_key", k), tap("compressed_value", v)
    scale = 1 / math.sqrt(q.shape[-1])
    logits = tap("compressed_logits", (q * scale) @ k.swapaxes(-1, -2))  # (B, H, N, m)
    weights, cache["softmax"] = softmax(logits)
    weights, cache["drop"] = drop(tap("compressed_weights", weights), noise.attention_dropout, noise)
    heads = tap("heads", weights @ v)  # (B, H, N, D_h)
    y, cache["out"] = merge(heads, params["out"])
    cache["factors"] = q, k, v, weights, scale, "F" in params
    return tap("out", y), cache


def linformer_backward(dy, cache, tap: Tap = no_tap):
    """The lines of `linformer` from the last to the first. Returns (dz, dparams)."""
    q, k, v, weights, scale, two = cache["factors"]
    dparams = {}
    dheads, dparams["out"] = merge_backward(tap("out", dy), cache["out"])
    dheads = tap("heads", dheads)
    dv = weights.swapaxes(-1, -2) @ dheads  # (B, H, m, D_h)
    dweights = dheads @ v.swapaxes(-1, -2)  # (B, H, N, m)
    dweights = tap("compressed_weights", drop_backward(dweights, cache["drop"]))
    dlogits = tap("compressed_logits", softmax_backward(dweights, cache["softmax"]))
    dk = dlogits.swapaxes(-1, -2) @ (q * scale)  # (B, H, m, D_h)
    dq = (dlogits @ k) * scale  # (B, H, N, D_h)
    dv, dF = compress_backward(tap("compressed_value", dv), cache["F"])
    dk, dE = compress_backward(tap("compressed_key", dk), cache["E"])
    dparams |= {"E": dE, "F": dF} if two else {"E": dE + dF}
    dz_v, dparams["value"] = project_backward(tap("value", dv), cache["value"])
    dz_k, dparams["key"] = project_backward(tap("key", dk), cache["key"])
    dz_q, dparams["query"] = project_backward(tap("query", dq), cache["query"])
    return dz_q + dz_k + dz_v, dparams
