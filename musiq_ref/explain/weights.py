"""The attention weights of every block, whichever self-attention a model has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens, batch
from musiq_ref.model.musiq import forward
from musiq_ref.model.parameters import Params


def watch_weights(
    params: Params, tokens: Tokens, config: MusiqConfig, see: Callable[[int, np.ndarray], object]
) -> None:
    """Calls see(block, weights (H, 1 + N, 1 + N)) for every block, from the first; a row is what a token attends with.

    tokens: (N, …) of one image, all of them valid

    A Performer never computes its weights; these are the ones it implies, φ(q_i)·φ(k_n) by its normaliser, so weights
    times values are its output. Raises ValueError for a Linformer, which has none from token to token.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny", attention="performer")
    >>> tokens = mq.image.tokenize.drop_padding(mq.tokenize(np.zeros((60, 80, 3), np.uint8), config))
    >>> watch_weights(mq.init_params(config), tokens, config, lambda block, weights: print(block, weights.shape))
    0 (4, 157, 157)
    1 (4, 157, 157)
    """
    if config.attention == "linformer":
        raise ValueError(
            f"a Linformer has no attention weights from token to token: each token attends to {config.attention_rank} "
            f"sums over all of them; use a model with softmax attention or a Performer"
        )
    features: list[Any] = []
    block = 0

    def tap(name, array):
        nonlocal block
        if name.endswith("attention/query_features"):
            features.append(array[0])
        if name.endswith("attention/key_features"):
            products = features.pop() @ array[0].swapaxes(-1, -2)
            total = products.sum(axis=-1, keepdims=True)
            eps = config.attention_eps
            see(block, products / np.where(total == 0, 1, total + 2 * eps * (total <= eps)))
            block += 1
        if name.endswith("attention/weights"):
            see(block, array[0])
            block += 1
        return array

    forward(params, batch([tokens]), config, tap=tap)
