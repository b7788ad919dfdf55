"""The gradient of a score to the patches of one image, by a team of threads on NumPy arrays.

No gradient of a parameter is needed, so the folded parameters of inference serve, and its functions go forward; what
the backward reads is written into arrays that stay. The attention weights, N² numbers a head, do not stay, and of large
images neither do the stem's activations: they are computed again, some queries or patches at a time. In the backward
every query adds to the gradients of all keys and values. So each member of the team sums the parts of its own queries,
and when all have done so, the parts of all members, in their order, for its own tokens.
`model.musiq.backward` says what is computed; the tests compare the two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.backend import namespace, on_host, to_host
from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens, batch
from musiq_ref.model.by_team import (
    EMBEDDED,
    ROWS,
    Scratch,
    attend,
    costs,
    embedding,
    mlp,
    pieces,
    project,
    scratch_for,
    steps,
)
from musiq_ref.model.check import check_tokens
from musiq_ref.model.folded import Block, Folded, fold
from musiq_ref.model.head import expected_score, expected_score_backward, head, head_backward
from musiq_ref.model.musiq import backward, forward
from musiq_ref.model.parameters import Params
from musiq_ref.model.stem import STEMS
from musiq_ref.ops.activation import GELU
from musiq_ref.ops.layer_norm import layer_norm, layer_norm_backward
from musiq_ref.team import ONE_THREAD, keep_memory, share, together

PATCHES = 32  # that go through the stem at a time
KEPT = 1024  # patches whose activations in the stem, half a megabyte each, stay for the backward
BACKWARD = 1.5  # cost of a backward: two products where the forward has one, less those of the parameters' gradients


def patch_gradient(
    params: Params,
    tokens: Tokens,
    config: MusiqConfig,
    threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> tuple[float, np.ndarray]:
    """The score of one image, and its gradient to the patches (N, P, P, 3), which is 0 where they are masked.

    params: nested dict of arrays; those of other libraries than NumPy compute with them, and know no team
    tokens: (N, …) from `tokenize`
    threads: that compute; None for as many as BLAS may use
    progress: called with the share that is done, 0 … 1

    With the same number of threads the result is the same to the bit, with another the same to rounding. Where BLAS
    does not let its threads be counted, and for a Linformer or Performer, `forward` and `backward` compute.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> tokens = mq.tokenize(np.zeros((60, 80, 3), np.uint8), config)
    >>> patch_gradient(mq.verify.deterministic_params(config, 1), tokens, config)[1].shape
    (199, 32, 32, 3)
    """
    check_tokens(params, tokens, config, axes=1)
    if on_host(params["class_token"]) and config.attention == "softmax":
        with ONE_THREAD as before:
            if before:
                return gradient_by_team(fold(params, config), tokens, config, threads or before, progress)
    upload = namespace(params["class_token"]).asarray
    logits, cache = forward(params, Tokens(*map(upload, batch([tokens]))), config)
    expected, cache_score = expected_score(logits)
    dlogits = expected_score_backward(np.ones_like(expected.score), cache_score)
    return float(expected.score[0]), to_host(backward(dlogits, cache).patches[0])


class Kept(NamedTuple):
    """What the backward of one block reads."""

    q: Any  # (N, D)
    keys: Any  # (D, N)
    values: Any  # (N, D)
    peak: Any  # (N, H), the largest logit of every query and head
    total: Any  # (N, H), the sum of exp(logit − peak)
    heads: Any  # (N, D)
    normed1: Any  # (N, D)
    rho1: Any  # (N, 1)
    normed2: Any  # (N, D)
    rho2: Any  # (N, 1)
    hidden: Any  # (N, M)

    def for_attention(self, rows: slice, scratch: Scratch) -> Scratch:
        """The scratch with which LN and MSA of some tokens write here what is kept."""
        kept = {name: getattr(self, name)[rows] for name in ("peak", "total", "heads")}
        return scratch._replace(normed=self.normed1[rows], rho=self.rho1[rows], **kept)

    def for_mlp(self, rows: slice, scratch: Scratch) -> Scratch:
        """The same of LN and MLP."""
        return scratch._replace(normed=self.normed2[rows], rho=self.rho2[rows], hidden=self.hidden[rows])


def gradient_by_team(
    folded: Folded,
    tokens: Tokens,
    config: MusiqConfig,
    members: int,
    progress: Callable[[float], object] | None = None,
) -> tuple[float, np.ndarray]:
    """As `patch_gradient`.

    members: threads, the caller's among them
    """
    keep_memory()
    params, valid = folded.params, np.flatnonzero(tokens.mask)
    N, D, H, M, dtype = 1 + len(valid), config.width, config.heads, config.mlp_width, params["class_token"].dtype
    z, dz, dpatches = np.empty((N, D), dtype), np.zeros((N, D), dtype), np.zeros(tokens.patches.shape, dtype)
    z[0] = params["class_token"]
    shapes = (N, D), (D, N), (N, D), (N, H), (N, H), (N, D), (N, D), (N, 1), (N, D), (N, 1), (N, M)
    blocks = [(block, Kept(*(np.empty(shape, dtype) for shape in shapes))) for block in folded.blocks]
    members = min(members, N)
    dkeys_values = np.empty((members, 2, N, D), dtype)
    per_patch, per_token = costs(folded, N, config)
    scores = []

    def work(member: int, barrier: threading.Barrier) -> None:
        own = share(N, member, members)
        cost = (1 + BACKWARD) * (own.stop - own.start) * (per_patch + per_token * (config.layers - 1))
        step = steps(barrier, cost, progress if member == 0 else None)
        scratch, dlogits = scratch_for(N, config, dtype), np.empty((ROWS, N), dtype)

        def asked(block: Block) -> slice:
            """Which of the own tokens are read after a block: of the last one, the class token alone."""
            return slice(own.start, max(own.start, min(own.stop, 1)) if block is folded.blocks[-1] else own.stop)

        patches = slice(max(own.start - 1, 0), own.stop - 1)
        stem = _Stem(params.get("stem", {}), config, dtype, KEPT // members)
        embed = embedding(tokens, folded, config, dtype, stem.forward, PATCHES)
        for rows in pieces(patches, EMBEDDED):
            embed(z[1:][rows], valid[rows])
            step(per_patch * (rows.stop - rows.start))
        for block, kept in blocks:
            for rows in pieces(own, ROWS):
                here = kept.for_attention(rows, scratch)
                project(z[rows], block, kept.q[rows], kept.keys[:, rows], kept.values[rows], here)
            barrier.wait()  # until all have written their keys and values
            for rows in pieces(asked(block), ROWS):
                here = kept.for_attention(rows, scratch)
                attend(z[rows], kept.q[rows], kept.keys, kept.values, block, config, here)
                mlp(z[rows], block, config, kept.for_mlp(rows, scratch))
                step(per_token * (rows.stop - rows.start))

        if member == 0:
            score, dz[0] = _score(z[0], params)
            scores.append(score)
        dqkv = np.zeros((own.stop - own.start, 3 * D), dtype)  # of tokens that are not asked, dq stays 0
        for block, kept in reversed(blocks):
            dkeys_values[member] = 0
            for rows in pieces(asked(block), ROWS):
                _mlp_backward(dz[rows], block, config, kept.for_mlp(rows, scratch))
                dq = dqkv[rows.start - own.start : rows.stop - own.start, :D]
                _attend_backward(dz[rows], dq, dkeys_values[member], rows, block, kept, config, scratch, dlogits)
                step(BACKWARD * per_token * (rows.stop - rows.start))
            barrier.wait()  # until all have summed the parts of their queries
            dqkv[:, D : 2 * D], dqkv[:, 2 * D :] = np.sum(dkeys_values[:, :, own], axis=0)
            dz[own] += _normalize_backward(dqkv @ block.qkv.kernel.T, kept.normed1[own], kept.rho1[own])
            barrier.wait()  # until all have read those of all
        for rows in pieces(patches, EMBEDDED):
            dfeatures = dz[1:][rows] @ params["patch_embedding"]["kernel"].T
            for some in pieces(slice(0, len(dfeatures)), PATCHES):
                here = valid[rows][some]
                dpatches[here] = stem.backward(dfeatures[some], tokens.patches[here])
            step(BACKWARD * per_patch * len(dfeatures))

    if progress:
        progress(0.0)
    together(work, members)
    if progress:
        progress(1.0)
    return scores[0], dpatches


class _Stem:
    """The stem of pieces of patches, forward and then, in the same order, backward; keeps what it may of the first."""

    def __init__(self, params: Params, config: MusiqConfig, dtype, most: int) -> None:
        self.params, self.config, self.dtype, self.left = params, config, dtype, most
        self.stem, self.stem_backward = STEMS[config.stem]
        self.caches = []

    def forward(self, patches):
        y, cache = self.stem(patches.astype(self.dtype), self.params, self.config.conventions)
        self.left -= len(patches)
        self.caches.append((y.shape, cache if self.left >= 0 else None))
        return y

    def backward(self, dy, patches):
        shape, cache = self.caches.pop(0)
        cache = cache or self.stem(patches.astype(self.dtype), self.params, self.config.conventions)[1]
        return self.stem_backward(dy.reshape(shape), cache, want_params=False)[0]


def _score(token, params: Params) -> tuple[float, Any]:
    """The score, and its gradient to the class token (D,)."""
    norm = params["encoder"]["norm"]
    y, cache_norm = layer_norm(token[None, None], norm["scale"], norm["bias"])
    logits, cache_head = head(y, params["head"])
    expected, cache_score = expected_score(logits)
    dy, _ = head_backward(expected_score_backward(np.ones_like(expected.score), cache_score), cache_head)
    return float(expected.score[0]), layer_norm_backward(dy, cache_norm)[0][0, 0]


# ---- The lines of `by_team`'s functions from the last to the first, of at most ROWS tokens


def _mlp_backward(dx, block: Block, config: MusiqConfig, kept: Scratch) -> None:
    """dx += the gradient through LN and MLP."""
    dhidden = GELU[config.conventions.gelu][1](dx @ block.fc2.kernel.T, kept.hidden)
    dx += _normalize_backward(dhidden @ block.fc1.kernel.T, kept.normed, kept.rho)


def _attend_backward(
    dx, dq, dkeys_values, rows: slice, block: Block, kept: Kept, config: MusiqConfig, scratch: Scratch, dlogits
) -> None:
    """Writes dq (n, D) of some queries, and adds their parts to those of the keys and of the values (2, N, D)."""
    n, D_h = len(dx), config.head_width
    weights, dlogits, dheads = scratch.weights[:n], dlogits[:n], dx @ block.out.kernel.T
    for h in range(config.heads):
        one = slice(h * D_h, (h + 1) * D_h)
        q, dhead = kept.q[rows, one], dheads[:, one]
        np.matmul(q, kept.keys[one], out=weights)
        weights -= kept.peak[rows, h : h + 1] + np.log(kept.total[rows, h : h + 1])
        np.exp(weights, out=weights)
        np.matmul(dhead, kept.values[:, one].T, out=dlogits)
        dlogits -= np.einsum("nd,nd->n", dhead, kept.heads[rows, one])[:, None]  # Σ dy·y of the softmax, over D_h
        dlogits *= weights
        np.matmul(dlogits, kept.keys[one].T, out=dq[:, one])
        dkeys_values[0][:, one] += dlogits.T @ q
        dkeys_values[1][:, one] += weights.T @ dhead


def _normalize_backward(dy, normed, rho):
    """The gradient to what `normalize` was given, in place of dy."""
    along = np.einsum("nd,nd->n", dy, normed)[:, None] / dy.shape[1]
    dy -= np.mean(dy, axis=1, keepdims=True)
    dy -= normed * along
    dy *= rho
    return dy
