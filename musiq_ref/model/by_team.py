"""Inference by a team of threads on NumPy arrays: each takes its share of the tokens through the whole model.

A token needs the others in one place only, as keys and values; there the team meets. All else is done piece by piece,
in arrays that are made once and stay in a core's cache: fresh memory costs more than the arithmetic.
`model.musiq.forward` says what is computed; the tests compare the two.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens
from musiq_ref.model.embeddings import scale_table, spatial_table
from musiq_ref.model.folded import Block, Folded, Linear, Stem
from musiq_ref.model.parameters import STEM_OUT, STEM_WIDTH
from musiq_ref.model.stem import BLOCK_EPS, ROOT_EPS
from musiq_ref.ops.activation import GELU
from musiq_ref.ops.convolution import windows
from musiq_ref.ops.group_norm import GROUPS
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.linear import linear
from musiq_ref.team import share, together

PATCHES = 8  # that go through the stem at a time: its arrays stay in cache
EMBEDDED = 256  # patches that are embedded at a time, for which the largest kernel is read from memory once
ROWS = 192  # tokens that go through a block at a time: enough for BLAS, few enough for the cache
NORM_EPS = 1e-6  # ε of LayerNorm


def logits_by_team(
    folded: Folded, tokens: Tokens, config: MusiqConfig, members: int, progress: Callable[[float], object]
) -> np.ndarray:
    """The logits (C,) of one image.

    tokens: (N, …), of which those that the mask leaves out are not looked at
    members: threads, the caller's among them
    progress: called in the caller's thread with the share that is done
    """
    params, kept = folded.params, np.flatnonzero(tokens.mask)
    N, D, dtype = 1 + len(kept), config.width, params["class_token"].dtype
    z, keys, values = np.empty((N, D), dtype), np.empty((D, N), dtype), np.empty((N, D), dtype)
    z[0] = params["class_token"]
    members = min(members, N)  # then the first has the class token
    per_patch, per_token = costs(folded, N, config)
    progress(0.0)

    def work(member: int, barrier: threading.Barrier) -> None:
        own = share(N, member, members)
        total = (own.stop - own.start) * (per_patch + per_token * (config.layers - 1))  # the last block has one token
        x, step = z[own], steps(barrier, total, progress if member == 0 else None)

        patches = slice(max(own.start - 1, 0), own.stop - 1)  # the class token, in front of them, has none
        embed = embedding(tokens, folded, config, dtype)
        for rows in pieces(patches, EMBEDDED):
            embed(z[1:][rows], kept[rows])
            step(per_patch * (rows.stop - rows.start))
        q, scratch = np.empty_like(x), scratch_for(N, config, dtype)
        for block in folded.blocks:
            barrier.wait()  # until nobody reads the keys and values of the block before
            for rows in pieces(slice(0, len(x)), ROWS):
                project(x[rows], block, q[rows], keys[:, own][:, rows], values[own][rows], scratch)
            barrier.wait()  # until all have written theirs
            if block is folded.blocks[-1]:  # after which only the class token is read
                x = x[: int(member == 0)]
            for rows in pieces(slice(0, len(x)), ROWS):
                attend(x[rows], q[rows], keys, values, block, config, scratch)
                mlp(x[rows], block, config, scratch)
                step(per_token * (rows.stop - rows.start))

    together(work, members)
    norm, head = params["encoder"]["norm"], params["head"]
    y, _ = layer_norm(z[:1], norm["scale"], norm["bias"])
    progress(1.0)
    return linear(y, head["kernel"], head["bias"])[0][0]


def steps(barrier: threading.Barrier, total: float, progress: Callable[[float], object] | None):
    """A function that a member calls with the cost of what it has done, of that total."""
    done = 0.0

    def step(cost: float) -> None:
        nonlocal done
        done += cost
        if barrier.broken:  # somebody failed: stop now, not only at the next meeting
            raise threading.BrokenBarrierError
        if progress:
            progress(min(done / total, 1.0))

    return step


def pieces(rows: slice, most: int) -> list[slice]:
    """The rows in parts of about equal length, none longer than `most`."""
    n = rows.stop - rows.start
    count = math.ceil(n / most)
    parts = (share(n, i, count) for i in range(count))
    return [slice(rows.start + part.start, rows.start + part.stop) for part in parts]


def costs(folded: Folded, N: int, config: MusiqConfig) -> tuple[int, int]:
    """Multiply–accumulates of a patch before the encoder, and of a token in one of its blocks."""
    embedding, stem, block = folded.params["patch_embedding"]["kernel"].size, folded.stem, folded.blocks[0]
    convolutions = 0
    if stem:
        at_quarter = stem.entry.size + stem.conv2.size + stem.conv3.size
        convolutions = config.stem_side**2 * (4 * stem.root.size + at_quarter)
    return embedding + convolutions, 2 * N * config.width + sum(layer.kernel.size for layer in block)


# ---- Before the encoder


def embedding(
    tokens: Tokens, folded: Folded, config: MusiqConfig, dtype, stem: Callable | None = None, most: int = 0
) -> Callable:
    """A function that writes E_p + E_HSE + E_SCE of the tokens `kept`, at most EMBEDDED, into x.   (Eq. 1 and 2)

    stem: a function of at most `most` patches to their features, other than that of `folded`
    """
    params, p = folded.params, folded.params["patch_embedding"]
    features = np.empty((min(EMBEDDED, len(tokens.mask)), len(p["kernel"])), dtype)
    run = stem or (_stem(folded.stem, config, dtype) if folded.stem else lambda patches: patches)
    tables = spatial_table(params, config, features), scale_table(params, config)

    def embed(x, kept) -> None:
        for some in pieces(slice(0, len(kept)), most or PATCHES):
            features[some] = run(tokens.patches[kept[some]]).reshape(-1, features.shape[1])
        np.matmul(features[: len(kept)], p["kernel"], out=x)
        x += p["bias"]
        for table, index in zip(tables, (tokens.hash_index, tokens.scale_index), strict=True):
            if table is not None:
                x += table[index[kept]]

    return embed


def _stem(p: Stem, config: MusiqConfig, dtype) -> Callable:
    """The stem as a function of at most PATCHES patches (n, P, P, 3) to (n, P/4, P/4, 256), with arrays of its own.

    The affine part of the root's GroupNorm comes after the pooling, which leaves a quarter of the numbers.
    """
    P, side, width = config.patch_size, config.stem_side, STEM_WIDTH
    padded, padded2 = np.zeros((PATCHES, P + 5, P + 5, 3), dtype), np.zeros((PATCHES, side + 2, side + 2, width), dtype)
    views = windows(padded, 7, 2), windows(padded2, 3, 1)
    columns, columns2 = (np.empty(view.shape, dtype) for view in views)
    root, half = (np.empty((PATCHES, rows, 2 * side, width), dtype) for rows in (2 * side, side))
    pooled, middle = np.empty((2, PATCHES, side, side, width), dtype)
    entry, last = (np.empty((PATCHES, side, side, channels), dtype) for channels in (width + STEM_OUT, STEM_OUT))

    def run(patches):
        n = len(patches)
        padded[:n, 2:-3, 2:-3] = patches  # "SAME" for 7 × 7 windows in steps of 2; below for 3 × 3 in steps of 1
        np.copyto(columns[:n], views[0][:n])
        x = _product(columns[:n], p.root, root[:n])
        scale = p.root_scale * _centre(x, ROOT_EPS, p.sign)
        x = _max_pool(x, half[:n], pooled[:n])
        x = _relu(_affine(x, scale, p.root_shift))

        both = _product(x, p.entry, entry[:n])
        x, shortcut = both[..., :width], both[..., width:]
        padded2[:n, 1:-1, 1:-1] = _relu(_affine(x, p.scale1 * _centre(x, BLOCK_EPS), p.shift1))
        np.copyto(columns2[:n], views[1][:n])
        x = _product(columns2[:n], p.conv2, middle[:n])
        x = _relu(_affine(x, p.scale2 * _centre(x, BLOCK_EPS), p.shift2))
        x = _product(x, p.conv3, last[:n])
        x *= p.scale3 * _centre(x, BLOCK_EPS)
        shortcut *= p.scale_proj * _centre(shortcut, BLOCK_EPS)
        x += shortcut
        x += p.shift_sum  # of both GroupNorms at once
        return _relu(x)

    return run


def _product(x, kernel, out):
    """x·W over the last axes of x that have as many values as W has rows."""
    np.matmul(x.reshape(-1, len(kernel)), kernel, out=out.reshape(-1, out.shape[-1]))
    return out


def _centre(x, eps, sign=1):
    """Takes the means of GroupNorm from x (n, h, w, C) and returns its ρ (n, 1, 1, C).

    Only centred values are squared: the mean of the squares less the square of the mean would cancel in float32.
    sign: (C,), by which the channels of x were multiplied
    """
    n, h, w, C = x.shape
    flat, group_mean = x.reshape(n, h * w, C), _group_mean(C, h * w, x.dtype)
    flat -= (sign * ((np.add.reduce(flat, axis=1) * sign) @ group_mean))[:, None]
    return 1 / np.sqrt(np.einsum("npc,npc->nc", flat, flat) @ group_mean + eps)[:, None, None]


@cache
def _group_mean(C: int, positions: int, dtype):
    """(C, C): times it, sums over the positions become the mean of each channel's group; faster than means of pairs."""
    size = C // GROUPS
    return np.kron(np.eye(GROUPS, dtype=dtype), np.full((size, size), 1 / (size * positions), dtype))


def _affine(x, scale, shift):
    x *= scale
    x += shift
    return x


def _relu(x):
    return np.maximum(x, 0, out=x)


def _max_pool(x, half, out):
    """Max-pooling of 3 × 3 in steps of 2, "SAME": first over rows, then over columns; the last have no third."""
    np.maximum(x[:, ::2], x[:, 1::2], out=half)
    np.maximum(half[:, :-1], x[:, 2::2], out=half[:, :-1])
    np.maximum(half[:, :, ::2], half[:, :, 1::2], out=out)
    np.maximum(out[:, :, :-1], half[:, :, 2::2], out=out[:, :, :-1])
    return out


# ---- Encoder, of at most ROWS tokens


class Scratch(NamedTuple):
    """One member's arrays for ROWS tokens."""

    normed: Any  # (R, D)
    rho: Any  # (R, 1)
    qkv: Any  # (R, 3·D)
    weights: Any  # (R, N)
    peak: Any  # (R, H)
    total: Any  # (R, H)
    head: Any  # (R, D_h)
    heads: Any  # (R, D)
    hidden: Any  # (R, M)
    added: Any  # (R, D)


def scratch_for(N: int, config: MusiqConfig, dtype) -> Scratch:
    D, H = config.width, config.heads
    widths = D, 1, 3 * D, N, H, H, config.head_width, D, config.mlp_width, D
    return Scratch(*(np.empty((ROWS, width), dtype) for width in widths))


def project(x, block: Block, q, keys, values, scratch: Scratch) -> None:
    """Writes the queries (n, D), keys (D, n) and values (n, D) of the tokens x."""
    n, D = x.shape
    qkv = _linear(normalize(x, scratch.normed[:n], scratch.rho[:n]), block.qkv, scratch.qkv[:n])
    q[:], values[:] = qkv[:, :D], qkv[:, 2 * D :]
    keys[:] = qkv[:, D : 2 * D].T  # once here, instead of in every product


def attend(x, q, keys, values, block: Block, config: MusiqConfig, scratch: Scratch) -> None:
    """x += MSA: the queries of x with the keys and values of all tokens, unmasked because unpadded."""
    n, D_h = len(x), config.head_width
    weights, head, heads = scratch.weights[:n], scratch.head[:n], scratch.heads[:n]
    for h in range(config.heads):
        one, peak, total = slice(h * D_h, (h + 1) * D_h), scratch.peak[:n, h : h + 1], scratch.total[:n, h : h + 1]
        np.matmul(q[:, one], keys[one], out=weights)
        weights -= np.max(weights, axis=1, keepdims=True, out=peak)
        np.exp(weights, out=weights)
        np.matmul(weights, values[:, one], out=head)
        np.divide(head, np.sum(weights, axis=1, keepdims=True, out=total), out=heads[:, one])  # D_h numbers, not N
    x += _linear(heads, block.out, scratch.added[:n])


def mlp(x, block: Block, config: MusiqConfig, scratch: Scratch) -> None:
    """x += MLP(LN(x))"""
    n = len(x)
    hidden = _linear(normalize(x, scratch.normed[:n], scratch.rho[:n]), block.fc1, scratch.hidden[:n])
    active, _ = GELU[config.conventions.gelu][0](hidden)
    x += _linear(active, block.fc2, scratch.added[:n])


def normalize(x, out, rho):
    """LN(x) without its scale and bias, which the next layer has taken over; writes ρ, too."""
    np.subtract(x, np.mean(x, axis=1, keepdims=True), out=out)
    rho[:] = 1 / np.sqrt(np.einsum("nd,nd->n", out, out)[:, None] / x.shape[1] + NORM_EPS)
    out *= rho
    return out


def _linear(x, layer: Linear, out):
    np.matmul(x, layer.kernel, out=out)
    out += layer.bias
    return out
