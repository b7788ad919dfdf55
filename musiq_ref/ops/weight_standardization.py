"""Weight standardisation: every convolution kernel to mean 0 and standard deviation 1 per output channel."""

from __future__ import annotations

from musiq_ref.backend import namespace

EPS = 1e-5


def standardize(kernel, ddof=0):
    r"""ŵ = c/(σ + ε),  c = w − μ,  σ = (Σ c²/(n − ddof))^½; μ, σ per output channel         (stem, SPEC 4)

    kernel w, ŵ: (k, k, I, O), n = k·k·I
    ddof: 0 (official) or 1 (pyiqa)
    """
    xp = namespace(kernel)
    divisor = kernel.size // kernel.shape[-1] - ddof
    centred = kernel - xp.mean(kernel, axis=(0, 1, 2), keepdims=True)  # (k, k, I, O)
    sigma = xp.sqrt(xp.sum(centred * centred, axis=(0, 1, 2), keepdims=True) / divisor)  # (1, 1, 1, O)
    return centred / (sigma + EPS), (centred, sigma, divisor)


def standardize_backward(dy, cache):
    r"""dc = dŵ/(σ + ε) + dσ·c/((n − ddof)·σ),  dσ = −Σ dŵ·c/(σ + ε)²;  dw = dc − mean(dc)"""
    centred, sigma, divisor = cache
    xp = namespace(dy)
    dsigma = -xp.sum(dy * centred, axis=(0, 1, 2), keepdims=True) / (sigma + EPS) ** 2  # (1, 1, 1, O)
    direction = centred / xp.where(sigma == 0, 1, sigma)  # a constant kernel has c = 0 and no direction
    dcentred = dy / (sigma + EPS) + dsigma * direction / divisor  # (k, k, I, O)
    return dcentred - xp.mean(dcentred, axis=(0, 1, 2), keepdims=True)
