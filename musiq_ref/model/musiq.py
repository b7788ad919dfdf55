"""The whole model: tokens to logits, and back."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

from musiq_ref.backend import Array, namespace, on_host
from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens
from musiq_ref.model.attention import allowed_keys, allowed_pairs
from musiq_ref.model.attention_fused import MSA_FUSED
from musiq_ref.model.attention_in_blocks import MSA_IN_BLOCKS
from musiq_ref.model.check import check_tokens
from musiq_ref.model.efficient import efficient_msa
from musiq_ref.model.embeddings import embed, embed_backward, patch_embedding, patch_embedding_backward
from musiq_ref.model.encoder import block, block_backward, encoder, encoder_backward
from musiq_ref.model.head import head, head_backward
from musiq_ref.model.noise import NO_NOISE, Noise
from musiq_ref.model.parameters import Params
from musiq_ref.model.recompute import IN_PIECES, RECOMPUTED, block_recomputed, block_recomputed_backward
from musiq_ref.model.stem import STEMS
from musiq_ref.model.taps import Tap, checked, no_tap, within
from musiq_ref.reprs import short_table, short_text


class Gradients(NamedTuple):
    """Gradients of a scalar: to the parameters (the same keys as `params`) and to the patches (B, N, P, P, 3), or None.

    >>> Gradients._fields
    ('params', 'patches')
    """

    params: Params
    patches: Any

    def __repr__(self) -> str:
        return short_text(self)

    def _repr_html_(self) -> str:
        return short_table(self)


class Parts(NamedTuple):
    """The pairs that are chosen by the configuration, and by how much a forward keeps for its backward."""

    stem: Any
    stem_backward: Any
    block: Any
    block_backward: Any
    allow: Any


def _parts(config: MusiqConfig, tapped: bool, there: bool, recompute: bool | Literal["attention"]) -> Parts:
    """What a tap sees must be there at once; a device (there) has no use for pieces, and kernels of its own."""
    msa = efficient_msa(config)  # a Linformer or Performer, which has no N² weights to save
    allow = allowed_keys if msa else allowed_pairs
    if recompute is True:
        (run, back), blocks = RECOMPUTED[config.stem], (block_recomputed, block_recomputed_backward)
    else:
        (run, back), blocks = (STEMS if tapped or there else IN_PIECES)[config.stem], (block, block_backward)
        msa = msa or (None if tapped else MSA_FUSED if there else MSA_IN_BLOCKS if recompute else None)
    return Parts(run, back, partial(blocks[0], msa=msa) if msa else blocks[0], blocks[1], allow)


def forward(
    params: Params,
    tokens: Tokens,
    config: MusiqConfig,
    tap: Tap | None = None,
    noise: Noise | None = None,
    recompute: bool | Literal["attention"] = False,
) -> tuple[Array, Any]:
    """The logits of a batch, and what `backward` needs                       (Eq. 1–11)

    tokens: (B, N, …) from `batch`
    tap: sees and may replace every intermediate
    noise: dropout in training
    recompute: keep little for the backward and compute the rest again there (then there is nothing to tap);
        "attention": do so with the N² attention weights alone, which only softmax attention has
    returns logits (B, C), cache

    Everything is computed in the dtype of the parameters. Raises ValueError when tokens and model do not fit.

    >>> import numpy as np
    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny", outputs=10)
    >>> tokens = mq.batch([mq.tokenize(np.zeros((60, 80, 3), np.uint8), config)])
    >>> logits, cache = mq.forward(mq.init_params(config), tokens, config)
    >>> logits.shape, mq.backward(logits, cache).patches.shape
    ((1, 10), (1, 199, 32, 32, 3))
    """
    if recompute and tap:
        raise ValueError(f"with recompute={recompute!r} nothing is kept to be tapped; leave out one of the two")
    noise = noise or NO_NOISE
    noise.check()
    tap = checked(tap) if tap else no_tap
    dtype = check_tokens(params, tokens, config, axes=2)
    patches = tokens.patches.astype(dtype)
    B, N = tokens.mask.shape
    parts = _parts(config, tap is not no_tap, not on_host(patches), recompute)
    cache: dict[str, Any] = {"parts": parts, "patches": patches.shape}

    features, cache["stem"] = parts.stem(
        tap("patches", patches).reshape(B * N, *patches.shape[2:]),
        params.get("stem", {}),  # the linear stem has none
        config.conventions,
        within(tap, "stem"),
    )  # (B·N, P/4, P/4, 256), of the linear stem (B·N, P, P, 3)
    features = features.reshape(B, N, *features.shape[1:])
    x, cache["patch_embedding"] = patch_embedding(features, params["patch_embedding"])  # (B, N, D)
    x = tap("patch_embedding", x)
    z, cache["embed"] = embed(x, tokens.hash_index, tokens.scale_index, params, config, tap, noise)  # (B, 1 + N, D)
    valid = with_class_token(tokens.mask)  # (B, 1 + N)
    y, cache["encoder"] = encoder(
        z, valid, params["encoder"], config.conventions, within(tap, "encoder"), noise, parts.block, parts.allow
    )
    logits, cache["head"] = head(y, params["head"], within(tap, "head"))  # (B, C)
    cache["logits"] = logits.shape, logits.dtype
    return logits, cache


def backward(dlogits: Array, cache: Any, tap: Tap | None = None, want_patches: bool = True) -> Gradients:
    """The lines of `forward` from the last to the first.

    dlogits: (B, C), gradient of a scalar to the logits
    cache: from `forward`
    tap: sees and may replace the gradient to every intermediate, under the names of the forward
    want_patches: False leaves the gradient to the patches out, as training does, and with it the stem's dearest step

    >>> import numpy as np
    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> params = mq.init_params(config, dtype="float64")
    >>> tokens = mq.batch([mq.tokenize(np.zeros((60, 80, 3), np.uint8), config)])
    >>> logits, cache = mq.forward(params, tokens, config)
    >>> mq.backward(np.ones_like(logits), cache).params["head"]["bias"]
    array([1.])
    """
    tap = checked(tap) if tap else no_tap
    parts, (shape, dtype) = cache["parts"], cache["logits"]
    if dlogits.shape != shape:
        raise ValueError(f"dlogits has shape {dlogits.shape}; the logits have {shape}")
    dlogits = dlogits.astype(dtype)  # all gradients get the dtype of the parameters
    dparams: Params = {}
    dy, dparams["head"] = head_backward(dlogits, cache["head"], within(tap, "head"))
    dz, dparams["encoder"] = encoder_backward(dy, cache["encoder"], within(tap, "encoder"), parts.block_backward)
    dx, dembed = embed_backward(dz, cache["embed"], tap)
    dparams.update(dembed)
    dx = tap("patch_embedding", dx)
    dfeatures, dparams["patch_embedding"] = patch_embedding_backward(dx, cache["patch_embedding"])
    dfeatures = dfeatures.reshape(-1, *dfeatures.shape[2:])  # (B·N, P/4, P/4, 256)
    dpatches, dstem = parts.stem_backward(dfeatures, cache["stem"], within(tap, "stem"), want_patches)
    if dstem:  # the linear stem has no parameters
        dparams["stem"] = dstem
    return Gradients(dparams, tap("patches", dpatches.reshape(cache["patches"])) if want_patches else None)


def with_class_token(mask: Array) -> Array:
    """The mask of the sequence with the class token, always valid, in front.  (B, N) -> (B, 1 + N)"""
    return namespace(mask).pad(mask.astype(bool), ((0, 0), (1, 0)), constant_values=True)
