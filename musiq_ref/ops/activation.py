"""ReLU, and GELU in its two forms: the tanh approximation (authors) and the exact one (pyiqa)."""

from __future__ import annotations

import math

from musiq_ref.backend import erf, namespace, op, rowwise

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
CUBIC = 0.044715


def relu(x):
    r"""y = max(x, 0)                                                        (stem, SPEC 4)

    x, y: any shape
    """
    xp = namespace(x)
    y = xp.maximum(x, 0)
    return y, y


def relu_backward(dy, cache):
    r"""dx = dy where y > 0, else 0 (also at the corner x = 0)"""
    y = cache
    return dy * (y > 0)


@op
def gelu_tanh(x):
    r"""y = x/2·(1 + tanh u),  u = √(2/π)·(x + 0.044715·x³)                  (MLP in Eq. 4, official)

    x, y: (..., D)
    """
    return rowwise(_gelu_tanh, x), x


@op
def gelu_tanh_backward(dy, cache):
    r"""dx = dy·[(1 + t)/2 + x/2·(1 − t²)·u′],  t = tanh u,  u′ = √(2/π)·(1 + 3·0.044715·x²)"""
    return rowwise(_gelu_tanh_backward, dy, cache)


def _gelu_tanh(x):
    u = SQRT_2_OVER_PI * (x + CUBIC * x * x * x)
    return 0.5 * x * (1 + namespace(x).tanh(u))


def _gelu_tanh_backward(dy, x):
    t = namespace(x).tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x))
    du = SQRT_2_OVER_PI * (1 + 3 * CUBIC * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du)


@op
def gelu_erf(x):
    r"""y = x·Φ(x),  Φ(x) = (1 + erf(x/√2))/2, the standard normal's distribution function   (MLP in Eq. 4, pyiqa)

    x, y: (..., D)
    """
    return rowwise(_gelu_erf, x), x


@op
def gelu_erf_backward(dy, cache):
    r"""dx = dy·[Φ(x) + x·φ(x)],  φ(x) = exp(−x²/2)/√(2π), the standard normal's density"""
    return rowwise(_gelu_erf_backward, dy, cache)


def _gelu_erf(x):
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def _gelu_erf_backward(dy, x):
    density = namespace(x).exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return dy * (0.5 * (1 + erf(x * math.sqrt(0.5))) + x * density)


GELU = {"tanh": (gelu_tanh, gelu_tanh_backward), "erf": (gelu_erf, gelu_erf_backward)}
"""The pair for each value of `Conventions.gelu`."""
