"""Attention rollout: how much of the class token's answer flows from each patch (appendix H, figure 5; SPEC 8)."""

from __future__ import annotations

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens, batch, drop_padding
from musiq_ref.model.musiq import forward
from musiq_ref.model.parameters import Params


def attention_rollout(params: Params, tokens: Tokens, config: MusiqConfig) -> list[np.ndarray]:
    r"""Ā_l = normalise((mean over heads of A_l + I)/2);  R = Ā_L · … · Ā_1;  the class token's row, by scale

    tokens: (N, …) of one image, from `tokenize`
    returns one map (rows, columns) of patches per scale, in the order of the scale index; together with the class
    token's own share all maps sum to 1. Patches that `max_native_patches` cut off are NaN.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> tokens = mq.tokenize(np.zeros((96, 128, 3), np.uint8), config)
    >>> [m.shape for m in mq.attention_rollout(mq.init_params(config), tokens, config)]
    [(6, 7), (9, 12), (3, 4)]
    """
    if config.grid_size == 1:
        raise ValueError("with grid_size 1 the tokens do not tell rows from columns; no map can be laid out")
    tokens = drop_padding(tokens)
    flow = np.eye(1 + len(tokens.mask))[:1]  # the class token's row of R, built up from the last layer
    layers = []

    def collect(name, array):
        if name.endswith("attention/weights"):
            layers.append(array[0].mean(axis=0).astype(np.float64))  # (1 + N, 1 + N)
        return array

    forward(params, batch([tokens]), config, tap=collect)
    for weights in reversed(layers):
        mixed = (weights + np.eye(len(weights))) / 2
        flow = flow @ (mixed / mixed.sum(axis=1, keepdims=True))  # (1, 1 + N)
    maps = []
    for scale in range(config.scales):
        here = tokens.scale_index == scale
        maps.append(_lay_out(flow[0, 1:][here], tokens.hash_index[here] % config.grid_size))
    return maps


def _lay_out(values: np.ndarray, grid_column: np.ndarray) -> np.ndarray:
    """Values in patch order as a map. A row of patches ends where the hashed column jumps back to the left."""
    ends = np.flatnonzero(np.diff(grid_column) < 0)
    if len(ends):
        columns = int(ends[0]) + 1
    else:  # a single row, or a single column (in which every hashed column is 0)
        columns = 1 if not grid_column.any() else len(values)
    filled = np.full(-(-len(values) // columns) * columns, np.nan)
    filled[: len(values)] = values
    return filled.reshape(-1, columns)
