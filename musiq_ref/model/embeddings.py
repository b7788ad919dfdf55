"""From the stem's features to the encoder's input: patch, spatial and scale embeddings, class token (Eq. 1 and 2)."""

from __future__ import annotations

from musiq_ref.backend import namespace
from musiq_ref.config import MusiqConfig
from musiq_ref.model.noise import NO_NOISE, Noise, drop, drop_backward
from musiq_ref.model.parameters import Params
from musiq_ref.model.taps import Tap, no_tap
from musiq_ref.ops.embedding import lookup, lookup_backward, sinusoidal_table
from musiq_ref.ops.linear import linear, linear_backward


def patch_embedding(features, params: Params):
    """One row of E_p per patch (Eq. 1): the features, flattened, through a linear layer.

    features: (..., P/4, P/4, 256), of the linear stem (..., P, P, 3)
    y: (..., D)
    """
    flat = features.reshape(*features.shape[:-3], -1)  # (..., P/4·P/4·256), or (..., P·P·3)
    y, cache = linear(flat, params["kernel"], params["bias"])
    return y, (features.shape, cache)


def patch_embedding_backward(dy, cache):
    """Returns (dfeatures, dparams)."""
    shape, cache_linear = cache
    dflat, dkernel, dbias = linear_backward(dy, cache_linear)
    return dflat.reshape(shape), {"kernel": dkernel, "bias": dbias}


def spatial_table(params: Params, config: MusiqConfig, like):
    """The table T of the hash-based spatial embedding, (G², D): learned, sinusoidal (appendix B.2), or None."""
    if config.spatial == "sinusoidal":
        table = sinusoidal_table(config.grid_size, config.width)
        return namespace(like).asarray(table.astype(like.dtype))
    return params["spatial_embedding"]["table"] if config.spatial == "learnable" else None


def scale_table(params: Params, config: MusiqConfig):
    """The table of the scale embedding, (S, D), or None."""
    return params["scale_embedding"]["table"] if config.scale_embedding else None


def embed(x, hash_index, scale_index, params: Params, config: MusiqConfig, tap: Tap = no_tap, noise: Noise = NO_NOISE):
    """z_0 = [class; E_p + E_HSE + E_SCE]                                     (Eq. 2)

    The taps "spatial_embedding" and "scale_embedding" see the sums E_p + E_HSE and E_p + E_HSE + E_SCE, as the authors'
    layers of those names return them; a term that the configuration leaves out is not added.

    x: E_p, (B, N, D)
    hash_index, scale_index: (B, N)
    z_0: (B, 1 + N, D)
    """
    xp, cache = namespace(x), {}
    tables = {"spatial_embedding": spatial_table(params, config, x), "scale_embedding": scale_table(params, config)}
    for (name, table), index in zip(tables.items(), (hash_index, scale_index), strict=True):
        if table is not None:
            rows, cache_rows = lookup(table, index)  # (B, N, D)
            x = x + rows
            if name in params:  # a learned table has a gradient, the sinusoidal one has none
                cache[name] = cache_rows
        x = tap(name, x)
    class_token = xp.broadcast_to(params["class_token"], (x.shape[0], 1, x.shape[2]))  # (B, 1, D)
    z = xp.concatenate([class_token, x], axis=1)  # (B, 1 + N, D)
    z, cache["drop"] = drop(z, noise.dropout, noise)
    return tap("encoder/input", z), cache


def embed_backward(dz, cache, tap: Tap = no_tap):
    """Returns (dx, dparams); dparams has the keys "spatial_embedding", "scale_embedding" only of tables learned."""
    xp = namespace(dz)
    dz = drop_backward(tap("encoder/input", dz), cache["drop"])
    dparams: Params = {"class_token": xp.sum(dz[:, 0], axis=0)}  # every image's class token is the same array
    dx = dz[:, 1:]
    for name in ("scale_embedding", "spatial_embedding"):
        dx = tap(name, dx)
        if name in cache:
            dparams[name] = {"table": lookup_backward(dx, cache[name])}
    return dx, dparams
