"""Group normalisation: the channels of one example in groups, each group to mean 0 and variance 1."""

from __future__ import annotations

from musiq_ref.backend import namespace

GROUPS = 32


def group_norm(x, gamma, beta, eps, groups=GROUPS):
    r"""y = γ·x̂ + β,  x̂ = (x − μ)·ρ,  ρ = (σ² + ε)^−½; μ, σ² per example and group   (stem, SPEC 4)

    x, y: (N, h, w, C);  gamma, beta: (C,);  a group is C/groups neighbouring channels at all h·w positions
    """
    xp = namespace(x)
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)  # (N, h·w, G, C/G)
    centred = grouped - _group_mean(grouped)  # (N, h·w, G, C/G)
    rho = 1 / xp.sqrt(_group_mean(centred * centred) + eps)  # (N, 1, G, 1)
    xhat = centred * rho  # (N, h·w, G, C/G)
    return gamma * xhat.reshape(x.shape) + beta, (xhat, rho, gamma)


def group_norm_backward(dy, cache):
    r"""dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)), means per example and group,  dx̂ = dy·γ;  dγ = Σ dy·x̂;  dβ = Σ dy"""
    xhat, rho, gamma = cache
    xp = namespace(dy)
    dxhat = (dy * gamma).reshape(xhat.shape)  # (N, h·w, G, C/G)
    dx = rho * (dxhat - _group_mean(dxhat) - xhat * _group_mean(dxhat * xhat))  # (N, h·w, G, C/G)
    dgamma = xp.sum(dy * xhat.reshape(dy.shape), axis=(0, 1, 2))  # (C,)
    return dx.reshape(dy.shape), dgamma, xp.sum(dy, axis=(0, 1, 2))


def _group_mean(grouped):
    """(N, h·w, G, C/G) -> (N, 1, G, 1), positions first: several times faster than both axes at once."""
    xp = namespace(grouped)
    return xp.mean(xp.mean(grouped, axis=1, keepdims=True), axis=3, keepdims=True)
