"""From the stem's features to the encoder's input: patch, spatial and scale embeddings, class token (Eq. 1 and 2)."""

from __future__ import annotations

from musiq_ref.backend import namespace
from musiq_ref.config import MusiqConfig
from musiq_ref.model.noise import Noise, drop, drop_backward
from musiq_ref.model.parameters import Params
from musiq_ref.model.taps import Tap, no_tap
from musiq_ref.ops.embedding import lookup, lookup_backward, sinusoidal_table
from musiq_ref.ops.linear import linear, linear_backward


def patch_embedding(features, params: Params):
    """One row of E_p per patch (Eq. 1): the features, flattened, through a linear layer.

    features: (..., P/4, P/4, 256);  y: (..., D)
    """
    flat = features.reshape(*features.shape[:-3], -1)  # (..., P/4·P/4·256)
    y, cache = linear(flat, params["kernel"], params["bias"])
    return y, (features.shape, cache)


def patch_embedding_backward(dy, cache):
    """Returns (dfeatures, dparams)."""
    shape, cache_linear = cache
    dflat, dkernel, dbias = linear_backward(dy, cache_linear)
    return dflat.reshape(shape), {"kernel": dkernel, "bias": dbias}


def spatial_table(params: Params, config: MusiqConfig, like):
    """The table T of the hash-based spatial embedding, (G², D): learned, or sinusoidal (appendix B.2)."""
    if config.spatial == "learnable":
        return params["spatial_embedding"]["table"]
    table = sinusoidal_table(config.grid_size, config.width)
    return namespace(like).asarray(table.astype(like.dtype))


def embed(
    x, hash_index, scale_index, params: Params, config: MusiqConfig, tap: Tap = no_tap, noise: Noise | None = None
):
    """z_0 = [class; E_p + E_HSE + E_SCE]                                     (Eq. 2)

    The taps "spatial_embedding" and "scale_embedding" see the sums E_p + E_HSE and E_p + E_HSE + E_SCE, as the authors'
    layers of those names return them.

    x = E_p: (B, N, D);  hash_index, scale_index: (B, N);  z_0: (B, 1 + N, D)
    """
    xp = namespace(x)
    spatial, cache_spatial = lookup(spatial_table(params, config, x), hash_index)  # (B, N, D)
    x = tap("spatial_embedding", x + spatial)
    scale, cache_scale = lookup(params["scale_embedding"]["table"], scale_index)  # (B, N, D)
    x = tap("scale_embedding", x + scale)
    class_token = xp.broadcast_to(params["class_token"], (x.shape[0], 1, x.shape[2]))  # (B, 1, D)
    z = xp.concatenate([class_token, x], axis=1)  # (B, 1 + N, D)
    z, cache_drop = drop(z, noise.dropout if noise else 0, noise)
    return tap("encoder/input", z), (cache_spatial, cache_scale, cache_drop, config.spatial)


def embed_backward(dz, cache, tap: Tap = no_tap):
    """Returns (dx, dparams); dparams has the key "spatial_embedding" only if that table is learned."""
    cache_spatial, cache_scale, cache_drop, kind = cache
    xp = namespace(dz)
    dz = drop_backward(tap("encoder/input", dz), cache_drop)
    dparams: Params = {"class_token": xp.sum(dz[:, 0], axis=0)}  # every image's class token is the same array
    dx = tap("scale_embedding", dz[:, 1:])
    dparams["scale_embedding"] = {"table": lookup_backward(dx, cache_scale)}
    dx = tap("spatial_embedding", dx)
    if kind == "learnable":
        dparams["spatial_embedding"] = {"table": lookup_backward(dx, cache_spatial)}
    return dx, dparams
