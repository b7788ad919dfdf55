"""Attention over the photograph: of one head, and rolled out through all layers (appendix H, figure 5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.explain.rollout import attention_rollout
from musiq_ref.explain.scales import over_scales
from musiq_ref.explain.weights import watch_weights
from musiq_ref.image.decode import decode
from musiq_ref.image.tokenize import drop_padding, tokens_for
from musiq_ref.model.parameters import Params, check_params


def attention_of_head(
    image: Any, params: Params, config: MusiqConfig, block: int = -1, head: int = 0, token: int | None = None
) -> np.ndarray:
    """The weights (N,) with which a token attends to every valid patch: a row of A (Eq. 7), without the class token.

    image: whatever `decode` reads
    block, head: their numbers from 0, or from the last, −1
    token: the attending patch, from 0, or None for the class token

    Raises ValueError for a block, head or token that is not there, and for a Linformer (see `watch_weights`).

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> attention_of_head(np.zeros((60, 80, 3), np.uint8), mq.init_params(config), config, head=3).shape
    (156,)
    """
    tokens = drop_padding(tokens_for(image, config, check_params(params, config)))
    for name, number, count in (
        ("block", block, config.layers),
        ("head", head, config.heads),
        ("token", token or 0, len(tokens.mask)),
    ):
        if not -count <= number < count:
            raise ValueError(f"there is no {name} {number}; this model and image have {count}, counted from 0")
    row = 0 if token is None else 1 + token % len(tokens.mask)
    rows: list[np.ndarray] = []
    watch_weights(params, tokens, config, lambda _, weights: rows.append(weights[head, row, 1:].copy()))
    return rows[block]


def head_over_photograph(
    image: Any, params: Params, config: MusiqConfig, block: int = -1, head: int = 0, token: int | None = None
) -> Any:
    """A Figure of what one head attends to, at every scale; the arguments are those of `attention_of_head`.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> len(head_over_photograph(np.zeros((60, 80, 3), np.uint8), mq.init_params(config), config).axes)
    4
    """
    weights = attention_of_head(image, params, config, block, head, token)
    who = "class token" if token is None else f"token {token}"
    label = f"share of the {who}'s attention\nblock {block % config.layers}, head {head % config.heads}"
    return over_scales(image, weights, config, label, [] if token is None else [token], share=True)


def rollout_over_photograph(image: Any, params: Params, config: MusiqConfig) -> Any:
    """A Figure of attention rollout at every scale: the share of the class token that comes from each patch (figure 5)

    image: whatever `decode` reads

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> len(rollout_over_photograph(np.zeros((60, 80, 3), np.uint8), mq.init_params(config), config).axes)
    4
    """
    pixels = decode(image)
    maps = attention_rollout(params, tokens_for(pixels, config, check_params(params, config)), config, pixels.shape[:2])
    values = np.concatenate([laid_out[np.isfinite(laid_out)] for laid_out in maps])  # cut-off patches are NaN
    return over_scales(pixels, values, config, "share of the class token", share=True)
