"""Performer: self-attention in linear time by random features (Choromanski et al. 2021, "FAVOR+"; appendix G).

Softmax attention weighs value n for query i in proportion to exp(q_i·k_n/√D_h). With w drawn from N(0, I),

    exp(q·k) = E[φ_w(q)·φ_w(k)],   φ_w(x) = exp(w·x − |x|²/2)

so m draws give every query and key m positive features whose inner product estimates the exponential without bias. Then
Σ_n (φ(q)·φ(k_n))·v_n = φ(q)·(Σ_n φ(k_n)·v_nᵀ), and the bracket is the same for all queries: no N² numbers anywhere.

Nothing here is learned: the parameters are those of `model.attention.attention`, whose result this estimates.
What the formula leaves open is as in the authors' code (google-research, performer/fast_attention/jax):

- q and k are divided by D_h^¼ each; the draws are orthogonal in blocks of D_h, with the lengths of Gaussian vectors.
- A maximum is subtracted from w·x before exp: a query's own, and for the keys of a head one over all of them.
- ε = 1e-6 is added to every exponential, and 2ε to a normaliser that is not above ε (`attention_eps`; without it the
  maxima cancel). The more features, the larger the maxima, and the smaller the normalisers. Of long queries and keys,
  such as a softmax model has learned, most may fall below ε: then the estimate gets worse with more features.

Three things are not. The authors draw anew in every call; here the draws belong to the configuration, the same for
all heads and blocks, as with their `redraw_features=False`. They take Q of a QR decomposition as LAPACK returns it; its
signs depend on the draw, which biases the estimate, and here R's diagonal is made positive. And padding, which they do
not know, is left out: of the maximum over the keys, and of both sums over them.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from musiq_ref.backend import namespace
from musiq_ref.config import Conventions
from musiq_ref.model.attention import merge, merge_backward, project, project_backward
from musiq_ref.model.noise import NO_NOISE, Noise
from musiq_ref.model.parameters import Params
from musiq_ref.model.taps import Tap, no_tap

EPS = 1e-6  # numerical_stabilizer of the authors' code


@cache
def random_features(rank: int, head_width: int, seed: int) -> np.ndarray:
    """The draws W (m, D_h), float64 and read-only: orthogonal rows, D_h at a time, each as long as a Gaussian vector.

    >>> W = random_features(5, 3, seed=0)
    >>> W.shape, bool(abs(W[0] @ W[1]) < 1e-12), bool(abs(W[0] @ W[3]) < 1e-12)
    ((5, 3), True, False)
    """
    rng, rows = np.random.default_rng(seed), []
    for _ in range(math.ceil(rank / head_width)):
        q, r = np.linalg.qr(rng.standard_normal((head_width, head_width)))
        rows.append((q * np.sign(np.diag(r))).T)
    lengths = np.linalg.norm(rng.standard_normal((rank, head_width)), axis=1, keepdims=True)
    drawn = lengths * np.concatenate(rows)[:rank]
    drawn.flags.writeable = False
    return drawn


def features(x, projection, valid=None, eps=EPS):
    r"""φ(x) = (exp(W·x̂ − |x̂|²/2 − c) + ε)/√m,  x̂ = x/D_h^¼

    x: (B, H, N, D_h), queries or keys
    projection W: (m, D_h)
    valid: for keys, boolean (B, 1, N, 1): c is the maximum of W·x̂ over the valid ones of a head, and the others get 0;
        None for queries: c is each one's own
    y: (B, H, N, m)
    """
    xp, (m, D_h) = namespace(x), projection.shape
    xhat = x * D_h**-0.25
    logits = xhat @ projection.T  # (B, H, N, m)
    if valid is not None:
        logits = xp.where(valid, logits, -math.inf).astype(x.dtype)
    axes = -1 if valid is None else (-2, -1)
    peak = xp.max(logits, axis=axes, keepdims=True)
    grown = xp.exp(logits - 0.5 * xp.sum(xhat * xhat, axis=-1, keepdims=True) - peak)  # (B, H, N, m)
    y = (grown + eps) * (1 / math.sqrt(m))
    return (y if valid is None else y * valid), (xhat, projection, grown, logits == peak, axes)


def features_backward(dy, cache):
    r"""dx̂ = dlogits·W − x̂·Σ dlogits;  the maximum is one of the logits, and gets −Σ dlogits of all it was taken from

    (Without ε the maxima would cancel between numerator and normaliser. Masked keys have exp(−∞) = 0.)
    """
    xhat, projection, grown, at_peak, axes = cache
    xp, (m, D_h) = namespace(dy), projection.shape
    dlogits = dy * grown * (1 / math.sqrt(m))  # (B, H, N, m)
    dxhat = -xhat * xp.sum(dlogits, axis=-1, keepdims=True)
    dpeak = -xp.sum(dlogits, axis=axes, keepdims=True) / xp.sum(at_peak, axis=axes, keepdims=True)
    dlogits = dlogits + at_peak * dpeak.astype(dy.dtype)
    dxhat = dxhat + dlogits @ projection  # (B, H, N, D_h)
    return dxhat * D_h**-0.25


def performer(
    z,
    allowed,
    params: Params,
    conventions: Conventions,
    tap: Tap = no_tap,
    noise: Noise = NO_NOISE,
    rank: int = 256,
    seed: int = 0,
    eps: float = EPS,
):
    """SA = φ(Q)·(φ(K)ᵀ·V) / φ(Q)·(Σ_n φ(k_n)),  an estimate of `attention`, MSA = [SA_1; …; SA_H]·U_m

    z, y: (B, N, D)
    allowed: boolean (B, 1, N, N), or (B, 1, 1, N): which keys are valid
    rank: m, the number of random features
    seed: of their draws
    eps: ε; with 0 a normaliser of 0, of numbers too small for the dtype, counts as 1
    """
    if noise.attention_dropout:
        raise ValueError("attention_dropout drops attention weights, which a Performer never computes; set it to 0")
    xp, cache = namespace(z), {}
    q, cache["query"] = project(z, params["query"])  # (B, H, N, D_h)
    k, cache["key"] = project(z, params["key"])
    v, cache["value"] = project(z, params["value"])
    q, k, v = tap("query", q), tap("key", k), tap("value", v)
    projection = xp.asarray(random_features(rank, q.shape[-1], seed).astype(z.dtype))
    valid = allowed.any(axis=-2)[..., None]  # (B, 1, N, 1)
    phi_q, cache["phi_q"] = features(q, projection, None, eps)  # (B, H, N, m)
    phi_k, cache["phi_k"] = features(k, projection, valid, eps)
    phi_q, phi_k = tap("query_features", phi_q), tap("key_features", phi_k)
    summary = phi_k.swapaxes(-1, -2) @ v  # (B, H, m, D_h), of all keys and values
    total = phi_q @ xp.sum(phi_k, axis=-2)[..., None]  # (B, H, N, 1)
    total = xp.where(total == 0, 1, total + 2 * eps * (total <= eps)).astype(z.dtype)
    heads = tap("heads", (phi_q @ summary) / total)  # (B, H, N, D_h)
    y, cache["out"] = merge(heads, params["out"])
    cache["factors"] = phi_q, phi_k, v, summary, total, heads
    return tap("out", y), cache


def performer_backward(dy, cache, tap: Tap = no_tap):
    """The lines of `performer` from the last to the first. Returns (dz, dparams)."""
    phi_q, phi_k, v, summary, total, heads = cache["factors"]
    xp, dparams = namespace(dy), {}
    dheads, dparams["out"] = merge_backward(tap("out", dy), cache["out"])
    dheads = tap("heads", dheads) / total  # (B, H, N, D_h)
    dtotal = -xp.sum(dheads * heads, axis=-1, keepdims=True)  # (B, H, N, 1)
    dphi_q = dheads @ summary.swapaxes(-1, -2) + dtotal * xp.sum(phi_k, axis=-2, keepdims=True)  # (B, H, N, m)
    dsummary = phi_q.swapaxes(-1, -2) @ dheads  # (B, H, m, D_h)
    dphi_k = v @ dsummary.swapaxes(-1, -2) + (phi_q.swapaxes(-1, -2) @ dtotal).swapaxes(-1, -2)  # (B, H, N, m)
    dv = phi_k @ dsummary  # (B, H, N, D_h)
    dk = features_backward(tap("key_features", dphi_k), cache["phi_k"])
    dq = features_backward(tap("query_features", dphi_q), cache["phi_q"])
    dz_v, dparams["value"] = project_backward(tap("value", dv), cache["value"])
    dz_k, dparams["key"] = project_backward(tap("key", dk), cache["key"])
    dz_q, dparams["query"] = project_backward(tap("query", dq), cache["query"])
    return dz_q + dz_k + dz_v, dparams
