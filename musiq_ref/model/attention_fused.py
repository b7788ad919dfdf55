"""`model.attention.attention` for a device: mask and softmax as one op, and no N² weights kept where they are many.

A GPU has kernels for these ops (`ops.fused`); the arithmetic is that of `attention`, and the tests compare the two.
"""

from __future__ import annotations

import math

from musiq_ref.backend import namespace
from musiq_ref.config import Conventions
from musiq_ref.model.attention import attention, attention_backward, merge, merge_backward, project, project_backward
from musiq_ref.model.noise import NO_NOISE, Noise
from musiq_ref.model.parameters import Params
from musiq_ref.model.taps import Tap, no_tap
from musiq_ref.ops.fused import attend, attend_backward, masked_softmax, masked_softmax_backward, product

KEPT = 2**26  # attention weights of a block that are kept: 256 MiB of float32


def attention_fused(z, allowed, params: Params, conventions: Conventions, tap: Tap = no_tap, noise: Noise = NO_NOISE):
    """As `attention`, to rounding; there is nothing to tap. With dropout of the weights it is `attention` itself."""
    if noise.attention_dropout:
        y, whole = attention(z, allowed, params, conventions, tap, noise)
        return y, {"whole": whole}
    cache = {}
    q, cache["query"] = project(z, params["query"])  # (B, H, N, D_h)
    k, cache["key"] = project(z, params["key"])
    v, cache["value"] = project(z, params["value"])
    B, H, N, D_h = q.shape
    if B * H * N * N <= KEPT:
        logits = product(q, k.swapaxes(-1, -2), 1 / math.sqrt(D_h))  # (B, H, N, N)
        weights, cache["softmax"] = masked_softmax(logits, allowed, conventions.mask, conventions.mask_value)
        heads, cache["factors"] = product(weights, v), (q, k, v, weights)  # (B, H, N, D_h)
    else:
        valid = namespace(allowed).diagonal(allowed[:, 0], axis1=1, axis2=2)  # (B, N)
        heads, cache["attend"] = attend(q, k, v, valid)
    y, cache["out"] = merge(heads, params["out"])
    return y, cache


def attention_fused_backward(dy, cache, tap: Tap = no_tap):
    """The lines of `attention_fused` from the last to the first. Returns (dz, dparams)."""
    if "whole" in cache:
        return attention_backward(dy, cache["whole"], tap)
    dparams = {}
    dheads, dparams["out"] = merge_backward(dy, cache["out"])
    if "attend" in cache:
        dq, dk, dv = attend_backward(dheads, cache["attend"])
    else:
        q, k, v, weights = cache["factors"]
        dv = product(weights.swapaxes(-1, -2), dheads)  # (B, H, N, D_h)
        dlogits = masked_softmax_backward(product(dheads, v.swapaxes(-1, -2)), cache["softmax"])  # (B, H, N, N)
        scale = 1 / math.sqrt(q.shape[-1])
        dk = product(dlogits.swapaxes(-1, -2), q, scale)
        dq = product(dlogits, k, scale)
    dz_v, dparams["value"] = project_backward(dv, cache["value"])
    dz_k, dparams["key"] = project_backward(dk, cache["key"])
    dz_q, dparams["query"] = project_backward(dq, cache["query"])
    return dz_q + dz_k + dz_v, dparams


MSA_FUSED = attention_fused, attention_fused_backward
