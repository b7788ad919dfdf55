"""Softmax over the last axis, and the mask that hides padding from it."""

from __future__ import annotations

import math

from musiq_ref.backend import namespace, op


@op
def softmax(x):
    r"""y = exp(x) / Σ exp(x) over the last axis                             (Eq. 7)

    The maximum is subtracted first, which changes nothing in exact arithmetic and keeps exp from overflowing.
    A row that is −inf everywhere (nothing may be attended to) gives zeros.

    x, y: (..., N)
    """
    xp = namespace(x)
    peak = xp.max(x, axis=-1, keepdims=True)  # (..., 1)
    y = xp.exp(x - xp.where(peak == -math.inf, 0, peak))  # (..., N)
    total = xp.sum(y, axis=-1, keepdims=True)  # (..., 1)
    y /= xp.where(total == 0, 1, total)  # in place: a new array of this size costs more than the arithmetic
    return y, y


@op
def softmax_backward(dy, cache):
    r"""dx = y·(dy − Σ dy·y)"""
    y = cache
    xp = namespace(dy)
    return y * (dy - xp.sum(dy * y, axis=-1, keepdims=True))


def mask_logits(x, allowed, how, value):
    r"""y = x + M with M = 0 where allowed, else value (how = "add"); or y = value where not allowed (how = "fill")

    Eq. 10 and 11; what M is differs between programs (`Conventions.mask`, `Conventions.mask_value`).

    x, y: (..., N, N)
    allowed: boolean, broadcast to x
    """
    xp = namespace(x)
    if how == "add":
        return x + xp.where(allowed, 0.0, value).astype(x.dtype), (allowed, how)
    return xp.where(allowed, x, value).astype(x.dtype), (allowed, how)


def mask_logits_backward(dy, cache):
    r"""dx = dy where something was added; dx = dy where allowed, else 0, where something was filled in"""
    allowed, how = cache
    return dy if how == "add" else dy * allowed
