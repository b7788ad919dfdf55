"""Attention rollout: how much of the class token's answer flows from each patch (appendix H, figure 5; SPEC 8)."""

from __future__ import annotations

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.explain.weights import watch_weights
from musiq_ref.image.tokenize import Tokens, drop_padding, scales_of
from musiq_ref.model.parameters import Params


def attention_rollout(
    params: Params, tokens: Tokens, config: MusiqConfig, size: tuple[int, int] | None = None
) -> list[np.ndarray]:
    r"""Ā_l = mean over heads of A_l + I, rows normalised;  R = Ā_L · … · Ā_1;  the class token's row

    tokens: (N, …) of one image, from `tokenize`
    size: its (height, width), needed only where the tokens do not tell rows from columns: with grid_size 1, or when
        `max_native_patches` cut patches off
    returns one map (rows, columns) of patches per scale, in the order of the scale index

    Together with the class token's own share all maps sum to 1. Patches that were cut off are NaN. The weights of a
    Performer are those that it implies; a Linformer, which has none between tokens, is a ValueError.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> tokens = mq.tokenize(np.zeros((96, 128, 3), np.uint8), config)
    >>> [m.shape for m in mq.attention_rollout(mq.init_params(config), tokens, config)]
    [(6, 7), (9, 12), (3, 4)]
    """
    if size is None and (config.grid_size == 1 or config.max_native_patches >= 0):
        raise ValueError("with grid_size 1 or max_native_patches the tokens do not tell rows from columns; pass size=")
    tokens = drop_padding(tokens)
    flow = np.eye(1 + len(tokens.mask))[:1]  # the class token's row of R, built up from the last layer
    layers: list[np.ndarray] = []
    watch_weights(params, tokens, config, lambda _, weights: layers.append(weights.mean(axis=0)))  # (1 + N, 1 + N)
    for weights in reversed(layers):
        mixed = weights + np.eye(len(weights))  # the residual path lets every token keep as much as it attends to
        flow = flow @ (mixed / mixed.sum(axis=1, keepdims=True))  # (1, 1 + N)
    maps = []
    for scale in range(config.scales):
        here = tokens.scale_index == scale
        values, place = flow[0, 1:][here], tokens.hash_index[here]
        rows, columns = _patch_grid(place, config.grid_size) if size is None else _known_grid(size, config, scale)
        laid_out = np.full(rows * columns, np.nan)
        laid_out[: len(values)] = values
        maps.append(laid_out.reshape(rows, columns))
    return maps


def _known_grid(size: tuple[int, int], config: MusiqConfig, scale: int) -> tuple[int, int]:
    return next((s.rows, s.columns) for s in scales_of(*size, config) if s.scale_index == scale)


def _patch_grid(hash_index: np.ndarray, grid_size: int) -> tuple[int, int]:
    """Rows and columns of a scale: a row of patches ends where the hashed column jumps back to the left."""
    column = hash_index % grid_size
    ends = np.flatnonzero(np.diff(column) < 0)
    if not len(ends):  # a single row, or a single column (in which every hashed column is 0)
        return (1, len(column)) if column.any() else (len(column), 1)
    columns = int(ends[0]) + 1
    return len(column) // columns, columns
