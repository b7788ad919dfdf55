"""Layer normalisation: every token to mean 0 and variance 1, then scaled and shifted."""

from __future__ import annotations

from musiq_ref.backend import namespace, op


@op
def layer_norm(x, gamma, beta, eps=1e-6):
    r"""y = γ·x̂ + β,  x̂ = (x − μ)·ρ,  ρ = (σ² + ε)^−½                       (LN in Eq. 3–5)

    x, y: (..., D)
    gamma, beta: (D,)
    """
    xp = namespace(x)
    centred = x - xp.mean(x, axis=-1, keepdims=True)  # (..., D)
    rho = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps)  # (..., 1)
    xhat = centred * rho  # (..., D)
    return gamma * xhat + beta, (xhat, rho, gamma)


@op
def layer_norm_backward(dy, cache):
    r"""dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)),  dx̂ = dy·γ;  dγ = Σ dy·x̂;  dβ = Σ dy"""
    xhat, rho, gamma = cache
    xp = namespace(dy)
    rows = tuple(range(dy.ndim - 1))
    dxhat = dy * gamma  # (..., D)
    mean, along = xp.mean(dxhat, axis=-1, keepdims=True), xp.mean(dxhat * xhat, axis=-1, keepdims=True)  # (..., 1)
    dx = rho * (dxhat - mean - xhat * along)  # (..., D)
    return dx, xp.sum(dy * xhat, axis=rows), xp.sum(dy, axis=rows)
