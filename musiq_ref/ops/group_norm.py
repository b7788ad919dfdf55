"""Group normalisation: the channels of one example in groups, each group to mean 0 and variance 1."""

from __future__ import annotations

from musiq_ref.backend import namespace

GROUPS = 32


def group_norm(x, gamma, beta, eps, groups=GROUPS):
    r"""y = γ·x̂ + β,  x̂ = (x − μ)·ρ,  ρ = (σ² + ε)^−½; μ, σ² per example and group   (stem, SPEC 4)

    x, y: (N, h, w, C);  gamma, beta: (C,);  a group is C/groups neighbouring channels at all h·w positions
    """
    xp = namespace(x)
    centred = x - _group_mean(x, groups)  # (N, h, w, C)
    rho = 1 / xp.sqrt(_group_mean(centred * centred, groups) + eps)  # (N, 1, 1, C)
    xhat = centred * rho  # (N, h, w, C)
    return gamma * xhat + beta, (xhat, rho, gamma, groups)


def group_norm_backward(dy, cache):
    r"""dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)), means per example and group,  dx̂ = dy·γ;  dγ = Σ dy·x̂;  dβ = Σ dy"""
    xhat, rho, gamma, groups = cache
    xp = namespace(dy)
    dxhat = dy * gamma  # (N, h, w, C)
    dx = rho * (dxhat - _group_mean(dxhat, groups) - xhat * _group_mean(dxhat * xhat, groups))  # (N, h, w, C)
    return dx, xp.sum(dy * xhat, axis=(0, 1, 2)), xp.sum(dy, axis=(0, 1, 2))


def _group_mean(x, groups):
    """(N, h, w, C) -> (N, 1, 1, C): for every channel, the mean of its group in that example."""
    xp = namespace(x)
    N, _, _, C = x.shape
    means = xp.mean(x.reshape(N, -1, C), axis=1).reshape(N, groups, -1)  # (N, G, C/G) of the channels
    return xp.repeat(xp.mean(means, axis=-1), C // groups, axis=-1).reshape(N, 1, 1, C)
