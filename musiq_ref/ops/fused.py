"""Neighbours in the model as one op each, because a GPU's kernel does both for the memory traffic of one.

Here they are what they mean: the two ops, one after the other. `musiq_ref.backend.op` says how a kernel takes over.
"""

from __future__ import annotations

import math

from musiq_ref.backend import namespace, on_host, op
from musiq_ref.ops.activation import GELU, relu, relu_backward
from musiq_ref.ops.group_norm import GROUPS, group_norm, group_norm_backward
from musiq_ref.ops.layer_norm import layer_norm, layer_norm_backward
from musiq_ref.ops.softmax import mask_logits, mask_logits_backward, softmax, softmax_backward

WEIGHTS = 2**22  # attention weights that are in memory at a time
WEIGHTS_ON_DEVICE = 2**27  # the same on a device, where a large product costs less than many small ones


@op
def product(a, b, factor=1.0):
    r"""y = factor·a·b over the last two axes; a device may round a and b, if it was asked to

    a: (..., N, K)
    b: (..., K, M) or (K, M)
    y: (..., N, M)
    """
    return (a if factor == 1 else a * factor) @ b


@op
def bias_residual_layer_norm(x, bias, residual, gamma, beta, eps=1e-6):
    r"""z = r + (x + b),  y = LN(z): the end of a branch, and the beginning of the next     (Eq. 3–5)

    x, residual r, z, y: (..., D)
    bias b, gamma, beta: (D,)
    returns (z, y), cache
    """
    z = residual + (x + bias)
    y, cache = layer_norm(z, gamma, beta, eps)
    return (z, y), cache


@op
def bias_residual_layer_norm_backward(dz, dy, cache):
    r"""dx = dr = dz + LN's dx;  db = Σ dx;  returns dx, db, dr, dγ, dβ"""
    dx, dgamma, dbeta = layer_norm_backward(dy, cache)
    dx = dz + dx
    return dx, namespace(dx).sum(dx, axis=tuple(range(dx.ndim - 1))), dx, dgamma, dbeta


@op
def bias_gelu(x, bias, form):
    r"""y = GELU(x + b)                                                      (MLP in Eq. 4)

    x, y: (..., D)
    bias b: (D,)
    form: a key of GELU
    """
    y, cache = GELU[form][0](x + bias)
    return y, (cache, form)


@op
def bias_gelu_backward(dy, cache):
    r"""dx = dGELU(dy);  db = Σ dx"""
    cache_gelu, form = cache
    dx = GELU[form][1](dy, cache_gelu)
    return dx, namespace(dx).sum(dx, axis=tuple(range(dx.ndim - 1)))


@op
def masked_softmax(x, allowed, how, value):
    r"""y = softmax(mask(x)), see `mask_logits` and `softmax`                 (Eq. 7, 10 and 11)

    x, y: (B, H, N, N)
    allowed: boolean (B, 1, N, N)
    """
    masked, cache_mask = mask_logits(x, allowed, how, value)
    y, cache_softmax = softmax(masked)
    return y, (cache_mask, cache_softmax)


@op
def masked_softmax_backward(dy, cache):
    cache_mask, cache_softmax = cache
    return mask_logits_backward(softmax_backward(dy, cache_softmax), cache_mask)


@op
def group_norm_relu(x, gamma, beta, eps, groups=GROUPS):
    r"""y = max(GN(x), 0), see `group_norm`                                   (stem, SPEC 4)"""
    normed, cache_norm = group_norm(x, gamma, beta, eps, groups)
    y, cache_relu = relu(normed)
    return y, (cache_norm, cache_relu)


@op
def group_norm_relu_backward(dy, cache):
    cache_norm, cache_relu = cache
    return group_norm_backward(relu_backward(dy, cache_relu), cache_norm)


def attend(q, k, v, valid=None):
    r"""y = softmax(q·kᵀ/√D_h)·v over the valid keys, some queries at a time, so not all N² weights at once  (Eq. 7–8)

    q, k, v, y: (B, H, N, D_h)
    valid: boolean (B, N), or None if all are; a query that is not valid has a result that means nothing
    """
    B, H, N, _ = q.shape
    rows = max(1, (WEIGHTS if on_host(q) else WEIGHTS_ON_DEVICE) // (B * H * N))
    blocks = [product(_weights_of_some(q[:, :, i : i + rows], k, valid), v) for i in range(0, N, rows)]
    return blocks[0] if len(blocks) == 1 else namespace(q).concatenate(blocks, axis=2), (q, k, v, valid, rows)


def attend_backward(dy, cache):
    r"""dv = Aᵀ·dy;  dL = softmax's backward of dy·vᵀ;  dq = dL·k/√D_h;  dk = dLᵀ·q/√D_h, with A computed again"""
    q, k, v, valid, rows = cache
    xp, scale = namespace(q), 1 / math.sqrt(q.shape[-1])
    dq, dk, dv = [], xp.zeros_like(k), xp.zeros_like(v)
    for i in range(0, q.shape[2], rows):
        some, dsome = q[:, :, i : i + rows], dy[:, :, i : i + rows]
        weights = _weights_of_some(some, k, valid)  # (B, H, rows, N)
        dlogits = softmax_backward(product(dsome, v.swapaxes(-1, -2)), weights)
        dv += product(weights.swapaxes(-1, -2), dsome)
        dk += product(dlogits.swapaxes(-1, -2), some, scale)
        dq.append(product(dlogits, k, scale))
    return xp.concatenate(dq, axis=2), dk, dv


def _weights_of_some(q, k, valid):
    """Attention weights (B, H, n, N) of some queries (B, H, n, D_h)."""
    logits = product(q, k.swapaxes(-1, -2), 1 / math.sqrt(q.shape[-1]))
    if valid is None:
        return softmax(logits)[0]
    return masked_softmax(logits, valid[:, None, None, :], "fill", -math.inf)[0]
