"""`model.attention.attention` with its weights computed twice: forward and backward, some queries of a head at a time.

Of N tokens B·H·N² weights need not be kept, and a block of them stays in a core's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from musiq_ref.backend import namespace
from musiq_ref.config import Conventions
from musiq_ref.model.attention import attention, attention_backward, merge, merge_backward, project, project_backward
from musiq_ref.model.noise import NO_NOISE, Noise
from musiq_ref.model.parameters import Params
from musiq_ref.model.taps import Tap, no_tap
from musiq_ref.ops.softmax import mask_logits, mask_logits_backward, softmax, softmax_backward

WEIGHTS = 2**17  # attention weights in a block


def attention_in_blocks(
    z, allowed, params: Params, conventions: Conventions, tap: Tap = no_tap, noise: Noise = NO_NOISE
):
    """As `attention`, to rounding; there is nothing to tap. With dropout of the weights it is `attention` itself."""
    if noise.attention_dropout:
        y, whole = attention(z, allowed, params, conventions, tap, noise)
        return y, {"whole": whole}
    cache = {}
    q, cache["query"] = project(z, params["query"])  # (B, H, N, D_h)
    k, cache["key"] = project(z, params["key"])
    v, cache["value"] = project(z, params["value"])
    scale = 1 / math.sqrt(q.shape[-1])
    q = q * scale
    heads = namespace(z).empty_like(q)
    for head, rows in _blocks(q):
        heads[head][rows] = _weights(q[head][rows], k[head], allowed[head[0], 0, rows], conventions) @ v[head]
    y, cache["out"] = merge(heads, params["out"])
    cache["factors"] = q, k, v, allowed, scale, conventions
    return y, cache


def attention_in_blocks_backward(dy, cache, tap: Tap = no_tap):
    """The lines of `attention_backward`, of one block after the other. Returns (dz, dparams)."""
    if "whole" in cache:
        return attention_backward(dy, cache["whole"], tap)
    q, k, v, allowed, scale, conventions = cache["factors"]
    xp, dparams = namespace(dy), {}
    dheads, dparams["out"] = merge_backward(dy, cache["out"])
    dq, dk, dv = xp.empty_like(q), xp.zeros_like(k), xp.zeros_like(v)
    for head, rows in _blocks(q):
        here = allowed[head[0], 0, rows]
        weights = _weights(q[head][rows], k[head], here, conventions)
        dv[head] += weights.T @ dheads[head][rows]
        dweights = dheads[head][rows] @ v[head].T
        dlogits = mask_logits_backward(softmax_backward(dweights, weights), (here, conventions.mask))
        dk[head] += dlogits.T @ q[head][rows]
        dq[head][rows] = dlogits @ k[head]
    dz_v, dparams["value"] = project_backward(dv, cache["value"])
    dz_k, dparams["key"] = project_backward(dk, cache["key"])
    dz_q, dparams["query"] = project_backward(dq * scale, cache["query"])
    return dz_q + dz_k + dz_v, dparams


def _weights(q, k, allowed, conventions: Conventions):
    """(n, D_h), (N, D_h), boolean (n, N) -> the attention weights (n, N) of some queries."""
    logits = q @ k.T
    if not allowed.all():
        logits, _ = mask_logits(logits, allowed, conventions.mask, conventions.mask_value)
    return softmax(logits)[0]


def _blocks(q) -> Iterator[tuple[tuple[int, int], slice]]:
    """(image, head) and rows of every block of queries (B, H, N, D_h)."""
    B, H, N, _ = q.shape
    n = max(1, WEIGHTS // N)
    for image in range(B):
        for head in range(H):
            for start in range(0, N, n):
                yield (image, head), slice(start, start + n)


MSA_IN_BLOCKS = attention_in_blocks, attention_in_blocks_backward
