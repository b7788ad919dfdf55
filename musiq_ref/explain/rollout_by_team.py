"""`rollout.attention_rollout` of photographs with many patches, by a team of threads and without N² numbers.

Forward, every block keeps its queries, its keys, and what the softmax divides by; going back from the last block to the
first, the weights are made again from these, some queries at a time. `attention_rollout` says what is computed; the
tests compare the two.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.explain.rollout import attention_rollout
from musiq_ref.explain.scales import maps_by_scale
from musiq_ref.image.tokenize import Tokens, drop_padding
from musiq_ref.model.by_team import EMBEDDED, ROWS, attend, embedding, mlp, pieces, project, scratch_for, steps
from musiq_ref.model.folded import fold
from musiq_ref.model.parameters import Params
from musiq_ref.team import ONE_THREAD, share, together


class Kept(NamedTuple):
    """What makes the attention weights of one block again."""

    q: Any  # (N, D)
    keys: Any  # (D, N)
    peak: Any  # (N, H), the largest logit of every query and head
    total: Any  # (N, H), the sum of exp(logit − peak)


def rollout_maps(params: Params, tokens: Tokens, config: MusiqConfig, size: tuple[int, int]) -> list[np.ndarray]:
    """`attention_rollout` to rounding, for a model with softmax attention with memory that grows with N alone.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> tokens = mq.tokenize(np.zeros((96, 128, 3), np.uint8), config)
    >>> [m.shape for m in rollout_maps(mq.init_params(config), tokens, config, (96, 128))]
    [(6, 7), (9, 12), (3, 4)]
    """
    if config.attention != "softmax":
        return attention_rollout(params, tokens, config, size)
    return maps_by_scale(rollout_by_team(params, tokens, config)[1:], size, config)


def rollout_by_team(params: Params, tokens: Tokens, config: MusiqConfig, threads: int | None = None) -> np.ndarray:
    """The class token's row of R, (1 + N,): its own share, then those of the valid tokens.

    params: NumPy arrays of a model with softmax attention
    tokens: (N, …) of one image, from `tokenize`
    threads: that compute; None for as many as BLAS may use

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> tokens = mq.tokenize(np.zeros((96, 128, 3), np.uint8), config)
    >>> flow = rollout_by_team(mq.verify.deterministic_params(config, 1), tokens, config)
    >>> flow.shape, round(float(flow.sum()), 6)
    ((163,), 1.0)
    """
    tokens, folded = drop_padding(tokens), fold(params, config)
    N, D, H, D_h = 1 + len(tokens.mask), config.width, config.heads, config.head_width
    dtype = folded.params["class_token"].dtype
    z, values, patches = np.empty((N, D), dtype), np.empty((N, D), dtype), np.arange(N - 1)
    z[0] = folded.params["class_token"]
    shapes = (N, D), (D, N), (N, H), (N, H)
    blocks = [(block, Kept(*(np.empty(shape, dtype) for shape in shapes))) for block in folded.blocks]
    flow = np.eye(1, N)[0]  # from the last layer on

    def work(member: int, barrier: threading.Barrier) -> None:
        own, scratch = share(N, member, members), scratch_for(N, config, dtype)
        embed, step = embedding(tokens, folded, config, dtype), steps(barrier, 1, None)
        for rows in pieces(slice(max(own.start - 1, 0), own.stop - 1), EMBEDDED):
            embed(z[1:][rows], patches[rows])
            step(0)  # which stops where another has failed
        for block, kept in blocks:
            barrier.wait()  # until nobody reads the values of the block before
            for rows in pieces(own, ROWS):
                project(z[rows], block, kept.q[rows], kept.keys[:, rows], values[rows], scratch)
            barrier.wait()  # until all have written their keys and values
            for rows in pieces(own, ROWS):
                here = scratch._replace(peak=kept.peak[rows], total=kept.total[rows])
                attend(z[rows], kept.q[rows], kept.keys, values, block, config, here)
                mlp(z[rows], block, config, scratch)
                step(0)
        for _, kept in reversed(blocks):
            sums[member] = 0
            for rows in pieces(own, ROWS):
                if flow[rows].any():  # of the last block the class token alone
                    sums[member] += _passed_on(flow[rows], rows, kept, H, D_h, scratch.weights)
                step(0)
            barrier.wait()  # until all have passed on the parts of their tokens
            flow[own] = 0.5 * flow[own] + 0.5 * np.sum(sums[:, own], axis=0)  # half stays: the residual path
            barrier.wait()  # until all have read those of all

    with ONE_THREAD as before:
        members = min(threads or before or 1, N)
        sums = np.empty((members, N))
        together(work, members)
    return flow


def _passed_on(flow, rows: slice, kept: Kept, H: int, D_h: int, scratch):
    """flow·A of some queries, A being the mean over the heads.  (n,) -> (N,)"""
    weights, total = scratch[: len(flow)], 0.0
    for h in range(H):
        one = slice(h * D_h, (h + 1) * D_h)
        np.matmul(kept.q[rows, one], kept.keys[one], out=weights)
        weights -= kept.peak[rows, h : h + 1]
        np.exp(weights, out=weights)
        share_of_each = flow / kept.total[rows, h].astype(float)
        total = total + share_of_each.astype(weights.dtype) @ weights
    return total / H
