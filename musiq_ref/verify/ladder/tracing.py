"""Every named intermediate of a run, as a dict."""

from __future__ import annotations

from typing import Any

from musiq_ref.backend import Array
from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens
from musiq_ref.model.musiq import backward, forward
from musiq_ref.model.parameters import Params


def trace(
    params: Params, tokens: Tokens, config: MusiqConfig, dlogits: Any = None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """All intermediates of a forward and, if dlogits is given, the gradients to them, by name in the order made.

    tokens: (B, N, …) from `batch`
    dlogits: (B, C)

    >>> import numpy as np
    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> tokens = mq.batch([mq.tokenize(np.zeros((60, 80, 3), np.uint8), config)])
    >>> values, gradients = trace(mq.init_params(config), tokens, config)
    >>> values["encoder/block_01/attention/weights"].shape
    (1, 4, 200, 200)
    """
    values: dict[str, Array] = {}
    gradients: dict[str, Array] = {}

    def into(store):
        def tap(name, array):
            store[name] = array
            return array

        return tap

    _, cache = forward(params, tokens, config, tap=into(values))
    if dlogits is not None:
        backward(dlogits, cache, tap=into(gradients))
    return values, gradients
