"""Scoring without gradients: the same functions of the same parameters, arranged to need little memory and time.

Nothing is kept for a backward, padded tokens are left out (they are masked, so nothing depends on them), the stem works
through the patches in chunks, and attention through the queries in blocks, one head after the other. NumPy arrays go
through `model.by_team`, faster; those of other libraries, and NumPy's where BLAS does not let its threads be counted,
through the functions below.
`model.musiq.forward` says what is computed; the tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from musiq_ref.backend import NUMPY, Array, Backend, namespace, on_host, rowwise
from musiq_ref.config import Conventions, MusiqConfig
from musiq_ref.image.tokenize import Tokens, drop_padding
from musiq_ref.model.by_team import logits_by_team
from musiq_ref.model.check import check_tokens
from musiq_ref.model.embeddings import embed, patch_embedding
from musiq_ref.model.encoder import block_names
from musiq_ref.model.folded import Folded, fold
from musiq_ref.model.head import head
from musiq_ref.model.parameters import Params
from musiq_ref.model.stem import STEMS
from musiq_ref.ops.activation import GELU
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.linear import linear
from musiq_ref.team import ONE_THREAD

PATCHES = 32  # patches that the stem takes at a time
SCORES = 2**20  # attention weights that are in memory at a time


def predict(
    params: Params | Folded,
    tokens: Tokens,
    config: MusiqConfig,
    backend: Backend = NUMPY,
    progress: Callable[[float], object] | None = None,
    threads: int | None = None,
) -> Array:
    """The logits (C,) of one image, equal to `forward`'s to rounding.

    params: arrays of the backend, or what `model.folded.fold` makes of NumPy arrays, which saves time from the second
        image on
    tokens: (N, …) NumPy arrays from `tokenize`
    progress: called with the share that is done, 0 … 1
    threads: that compute, NumPy alone; None for as many as BLAS may use
    returns an array of the backend

    With the same number of threads the result is the same to the bit, with another the same to rounding.

    >>> import numpy as np
    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny", outputs=10)
    >>> tokens = mq.tokenize(np.zeros((60, 80, 3), np.uint8), config)
    >>> predict(mq.init_params(config), tokens, config).shape
    (10,)
    """
    plain = params.params if isinstance(params, Folded) else params
    dtype, say = check_tokens(plain, tokens, config, axes=1), progress or _silent
    if not tokens.mask.any():
        raise ValueError("all tokens are masked; there is nothing to score")
    if on_host(plain["class_token"]):
        with ONE_THREAD as before:
            if before:
                folded = params if isinstance(params, Folded) else fold(params, config)
                return logits_by_team(folded, tokens, config, threads or before, say)
    return _logits(plain, Tokens(*map(backend.from_numpy, drop_padding(tokens))), config, dtype, say)


def _silent(share: float) -> None:
    """Tells nobody."""


def _logits(params: Params, tokens: Tokens, config: MusiqConfig, dtype, say: Callable[[float], object]) -> Array:
    """As `predict`, in any array library."""
    names = block_names(params["encoder"])
    steps = 1 + len(names)
    x = _patch_embeddings(tokens.patches, params, config, dtype, lambda share: say(share / steps))  # (N, D)
    z, _ = embed(x[None], tokens.hash_index[None], tokens.scale_index[None], params, config)
    z, encoder = z[0], params["encoder"]  # (1 + N, D)
    for i, name in enumerate(names, 1):
        p = encoder[name]
        z = z + _attention(_norm(z, p["norm1"]), p["attention"], lambda share, i=i: say((i + share) / steps))
        z = z + _mlp(_norm(z, p["norm2"]), p["mlp"], config.conventions)
    logits, _ = head(_norm(z[:1], encoder["norm"])[None], params["head"])
    say(1.0)
    return logits[0]


def _patch_embeddings(patches, params: Params, config: MusiqConfig, dtype, say: Callable[[float], object]):
    """Stem and patch embedding, chunk by chunk.  (N, P, P, 3) -> (N, D)"""
    chunks, (stem, _) = [], STEMS[config.stem]
    for start in range(0, len(patches), PATCHES):
        say(start / len(patches))
        chunk = patches[start : start + PATCHES].astype(dtype)
        features, _ = stem(chunk, params.get("stem", {}), config.conventions)
        chunks.append(patch_embedding(features, params["patch_embedding"])[0])
    return namespace(patches).concatenate(chunks)


def _norm(z, params: Params):
    """LN of (N, D), row by row."""
    return rowwise(lambda rows: layer_norm(rows, params["scale"], params["bias"])[0], z)


def _mlp(z, params: Params, conventions: Conventions):
    """MLP of (N, D)."""
    hidden, _ = linear(z, params["fc1"]["kernel"], params["fc1"]["bias"])
    active, _ = GELU[conventions.gelu][0](hidden)
    return linear(active, params["fc2"]["kernel"], params["fc2"]["bias"])[0]


def _attention(z, params: Params, say: Callable[[float], object]):
    """MSA of (N, D), unmasked because unpadded; the weights of one head and one block of queries at a time."""
    xp = namespace(z)
    D, H, D_h = params["query"]["kernel"].shape
    q, k, v = (
        linear(z, params[name]["kernel"].reshape(D, -1), params[name]["bias"].reshape(-1))[0]
        for name in ("query", "key", "value")
    )  # (N, H·D_h)
    q *= 1 / math.sqrt(D_h)
    heads = xp.empty_like(q)
    rows = max(1, SCORES // len(z))
    for h in range(H):
        one = slice(h * D_h, (h + 1) * D_h)
        keys, values = xp.ascontiguousarray(k[:, one].T), xp.ascontiguousarray(v[:, one])  # (D_h, N), (N, D_h)
        for start in range(0, len(z), rows):
            say((h + start / len(z)) / H)
            weights = xp.ascontiguousarray(q[start : start + rows, one]) @ keys  # (rows, N)
            weights -= xp.max(weights, axis=-1, keepdims=True)
            xp.exp(weights, out=weights)
            weights /= xp.sum(weights, axis=-1, keepdims=True)
            heads[start : start + rows, one] = weights @ values
    return linear(heads, params["out"]["kernel"].reshape(-1, D), params["out"]["bias"])[0]
