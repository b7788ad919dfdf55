"""Dropout and stochastic depth: regularisation by chance, from a generator that the caller passes in."""

from __future__ import annotations

import numpy as np

from musiq_ref.backend import namespace


def dropout(x, rate: float, rng: np.random.Generator):
    r"""y = x·k/(1 − rate),  k = 1 with probability 1 − rate, else 0, for every element by itself

    x, y: any shape
    """
    xp = namespace(x)
    # Drawn on the host: the same everywhere.
    keep = xp.asarray(rng.random(x.shape) >= rate).astype(x.dtype) / (1 - rate)
    return x * keep, keep


def dropout_backward(dy, cache):
    r"""dx = dy·k/(1 − rate)"""
    return dy * cache


def drop_path(x, rate: float, rng: np.random.Generator):
    r"""y = x·k,  k = 1 with probability 1 − rate, else 0, for every example by itself; not rescaled  (SPEC 4)

    x, y: (B, ...)
    """
    xp = namespace(x)
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    keep = xp.asarray(rng.random(shape) >= rate).astype(x.dtype)  # (B, 1, ...)
    return x * keep, keep


def drop_path_backward(dy, cache):
    r"""dx = dy·k"""
    return dy * cache
