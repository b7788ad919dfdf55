"""Group normalisation: the channels of one example in groups, each group to mean 0 and variance 1."""

from __future__ import annotations

from musiq_ref.backend import namespace, op

GROUPS = 32


@op
def group_norm(x, gamma, beta, eps, groups=GROUPS):
    r"""y = γ·x̂ + β,  x̂ = (x − μ)·ρ,  ρ = (σ² + ε)^−½; μ, σ² per example and group   (stem, SPEC 4)

    x, y: (N, h, w, C)
    gamma, beta: (C,)
    groups: each is C/groups neighbouring channels at all h·w positions
    """
    xp, positions = namespace(x), x.shape[1] * x.shape[2]
    xhat = x - _group_mean(xp.sum(x, axis=(1, 2)) / positions, groups)  # (N, h, w, C)
    rho = 1 / xp.sqrt(_group_mean(_dot(xhat, xhat) / positions, groups) + eps)  # (N, 1, 1, C)
    xhat *= rho  # in place, here and below: a new array of this size costs more than the arithmetic
    y = gamma * xhat
    y += beta
    return y, (xhat, rho, gamma, groups)


@op
def group_norm_backward(dy, cache):
    r"""dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)), means per example and group,  dx̂ = dy·γ;  dγ = Σ dy·x̂;  dβ = Σ dy

    Since γ is the same at all positions, the sums over positions of dy and dy·x̂ serve the means as well as dβ and dγ.
    """
    xhat, rho, gamma, groups = cache
    xp, positions = namespace(dy), dy.shape[1] * dy.shape[2]
    dy_sum, dot = xp.sum(dy, axis=(1, 2)), _dot(dy, xhat)  # (N, C)
    mean, mean_dot = (_group_mean(gamma * sums / positions, groups) for sums in (dy_sum, dot))  # (N, 1, 1, C)
    dx = (rho * gamma) * dy  # (N, h, w, C)
    dx -= xhat * (rho * mean_dot)
    dx -= rho * mean
    return dx, xp.sum(dot, axis=0), xp.sum(dy_sum, axis=0)


def _dot(x, y):
    """(N, h, w, C) twice -> (N, C): Σ x·y over the positions, without an array of the products."""
    return namespace(x).einsum("nhwc,nhwc->nc", x, y)


def _group_mean(values, groups):
    """(N, C) -> (N, 1, 1, C): for every channel, the mean over its group."""
    xp = namespace(values)
    N, C = values.shape
    means = xp.mean(values.reshape(N, groups, -1), axis=-1)  # (N, G)
    return xp.repeat(means, C // groups, axis=-1).reshape(N, 1, 1, C)
