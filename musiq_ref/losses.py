"""Losses: what training makes small, each as a forward/backward pair.

L = Σ_b w_b·ℓ_b over the examples of a batch; w_b = 1/B, the mean, unless `weight` says otherwise: a number for all
examples, or one for each. Weight 1/B of the whole batch, given to every chunk of it, makes the chunks' losses and
gradients add up to those of the whole.

A target is data and gets no gradient. Bad input raises ValueError in one sentence (`loss_inputs`).
"""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.backend import namespace
from musiq_ref.loss_inputs import distribution, example_weight, labels_or_distribution, residual
from musiq_ref.ops.softmax import softmax, softmax_backward


def l1(prediction, target, weight=None):
    r"""L = Σ_b w_b·mean|y_b − t_b|                                          (SPEC 7: PaQ-2-PiQ, KonIQ-10k, SPAQ)

    prediction y, target t: (B, ...), or t: (B,) for y: (B, 1)
    weight w: number or (B,), 1/B by default
    L: ()

    >>> float(l1(np.array([1.0, 5.0]), np.array([2.0, 2.0]))[0])
    2.0
    """
    d, w, shape = residual(prediction, target, weight)
    xp = namespace(d)
    return xp.sum(w * xp.abs(d)), (d, w, shape)


def l1_backward(dloss, cache):
    r"""dy = dL·w·sign(y − t), 0 at the corner y = t"""
    d, w, shape = cache
    return (dloss * w * namespace(d).sign(d)).reshape(shape)


def mse(prediction, target, weight=None):
    r"""L = Σ_b w_b·mean (y_b − t_b)²

    prediction y, target t: (B, ...), or t: (B,) for y: (B, 1)
    weight w: number or (B,), 1/B by default
    L: ()

    >>> float(mse(np.array([1.0, 5.0]), np.array([2.0, 2.0]))[0])
    5.0
    """
    d, w, shape = residual(prediction, target, weight)
    return namespace(d).sum(w * d * d), (d, w, shape)


def mse_backward(dloss, cache):
    r"""dy = dL·w·2(y − t)"""
    d, w, shape = cache
    return (dloss * w * 2 * d).reshape(shape)


def huber(prediction, target, weight=None, *, delta=1.0):
    r"""L = Σ_b w_b·mean h(y_b − t_b),  h(d) = d²/2 where |d| ≤ δ, else δ·(|d| − δ/2)   (as torch.nn.HuberLoss)

    prediction y, target t: (B, ...), or t: (B,) for y: (B, 1)
    weight w: number or (B,), 1/B by default
    L: ()

    >>> float(huber(np.array([2.5, 5.0]), np.array([2.0, 2.0]))[0])
    1.3125
    """
    if not (delta > 0 and math.isfinite(delta)):
        raise ValueError(f"delta of the Huber loss is {delta}; it must be a positive number")
    d, w, shape = residual(prediction, target, weight)
    xp = namespace(d)
    c = xp.clip(d, -delta, delta)
    return xp.sum(w * c * (d - c / 2)), (c, w, shape)  # c·(d − c/2) is h(d) on both sides of δ


def huber_backward(dloss, cache):
    r"""dy = dL·w·clip(y − t, −δ, δ)"""
    c, w, shape = cache
    return (dloss * w * c).reshape(shape)


def emd(logits, target, weight=None, *, r=2.0):
    r"""L = Σ_b w_b·e_b,  e = ((1/C) Σ_k |D_k|^r)^(1/r),  D = CDF_p − CDF_q,  p = softmax(x)      (SPEC 7: AVA, r = 2)

    The earth mover's distance between the predicted distribution p and the target q over ordered classes, any r ≥ 1.

    logits x: (B, C)
    target q: (B, C), rows that sum to 1
    weight w: number or (B,), 1/B by default
    L: ()

    >>> float(emd(np.array([[0.0, -999.0, -999.0]]), np.array([[0.0, 0.0, 1.0]]), r=1)[0])  # both CDFs differ by 1
    0.6666666666666666
    """
    if not (r >= 1 and math.isfinite(r)):
        raise ValueError(f"the exponent r of the EMD is {r}; it must be a number of at least 1")
    q, w = distribution(target, logits), example_weight(logits, weight)
    xp = namespace(logits)
    p, cache = softmax(logits)  # (B, C)
    D = xp.cumsum(p - q, axis=-1)  # (B, C)
    peak = xp.max(xp.abs(D), axis=-1, keepdims=True)  # (B, 1), taken out so that no power underflows
    powers = (xp.abs(D) / xp.where(peak == 0, 1, peak)) ** r  # (B, C)
    e = peak * xp.mean(powers, axis=-1, keepdims=True) ** (1 / r)  # (B, 1)
    return xp.sum(w * e), (D, peak, e, w, r, cache)


def emd_backward(dloss, cache):
    r"""dD = dL·w·sign(D)·(|D|/e)^(r−1)/C,  dp_j = Σ_{k≥j} dD_k,  dx = softmax_backward(dp)

    0 where the distributions coincide up to rounding: e has a corner there, and D no direction but the rounding's.
    """
    D, peak, e, w, r, cache_softmax = cache
    xp = namespace(D)
    C = D.shape[-1]
    apart = peak > C * float(np.finfo(D.dtype).eps)  # (B, 1)
    slope = apart * xp.sign(D) * (xp.abs(D) / xp.where(apart, e, 1)) ** (r - 1) / C  # (B, C), de/dD
    dp = xp.cumsum((dloss * w * slope)[:, ::-1], axis=-1)[:, ::-1]  # (B, C)
    return softmax_backward(dp, cache_softmax)


def cross_entropy(logits, target, weight=None, *, smoothing=0.0):
    r"""L = −Σ_b w_b Σ_k t_bk·log p_bk,  p = softmax(x),  t = (1 − s)·target + s/C     (SPEC 7: ImageNet)

    logits x: (B, C)
    target: (B,) integer labels 0 … C−1, or (B, C) rows that sum to 1
    smoothing s: 0 … 1
    weight w: number or (B,), 1/B by default
    L: ()

    >>> float(cross_entropy(np.log([[0.25, 0.75]]), np.array([0]))[0]) == -math.log(0.25)
    True
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"the label smoothing is {smoothing}; it must lie between 0 and 1")
    t, w = labels_or_distribution(target, logits), example_weight(logits, weight)
    t = (1 - smoothing) * t + smoothing / logits.shape[-1]  # (B, C)
    xp = namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)  # (B, C)
    log_p = shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))  # (B, C)
    return -xp.sum(w * t * log_p), (log_p, t, w)


def cross_entropy_backward(dloss, cache):
    r"""dx = dL·w·(p·Σt − t)"""
    log_p, t, w = cache
    xp = namespace(log_p)
    return dloss * w * (xp.exp(log_p) * xp.sum(t, axis=-1, keepdims=True) - t)


LOSSES = {
    "l1": (l1, l1_backward),
    "mse": (mse, mse_backward),
    "huber": (huber, huber_backward),
    "emd": (emd, emd_backward),
    "cross_entropy": (cross_entropy, cross_entropy_backward),
}
"""The pair of each loss. Targets are scores, for "emd" distributions, for "cross_entropy" those or labels."""

ON_LOGITS = ("emd", "cross_entropy")
"""The losses that read logits; the others compare scores."""
