"""What is wrong with a stage of MUSIQ in its own terms: which pairs are hidden, which scale, what kind of picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Scale, scales_of
from musiq_ref.verify.ladder.stages import BACK

MADE_OF = {  # the end of a stage's name: how it is made
    "hash_index": "row cell times G plus column cell, of every patch, and 0 at padding",
    "scale_index": "the number of the scale, of every patch",
    "mask": "1 at patches, 0 at padding",
    "pixels/*": "2·u/255 − 1, resized by rows and columns",
    "patches": "the pixels of every scale padded to whole patches, cut row by row, and zeros up to the scale's length",
    "stem/conv_root": "patches convolved with the standardised kernel, stride 2",
    "stem/conv_proj": "stem/pool convolved with the standardised kernel",
    "stem/conv1": "stem/pool convolved with the standardised kernel",
    "stem/conv2": "stem/relu1 convolved with the standardised kernel",
    "stem/conv3": "stem/relu2 convolved with the standardised kernel",
    "*/standardized": "(kernel − mean)/(deviation + 1e-5) per output channel",
    "stem/gn*": "GroupNorm of the convolution before it, 32 groups, with scale and bias",
    "stem/pool": "the maximum of 3 × 3 of stem/relu_root, stride 2",
    "stem/sum": "stem/gn3 + stem/gn_proj",
    "stem/output": "max(stem/sum, 0)",
    "stem/relu*": "max(x, 0) of the norm before it",
    "patch_embedding": "stem/output, flattened, times the kernel, plus the bias",
    "spatial_embedding": "patch_embedding + table[hash_index]",
    "scale_embedding": "spatial_embedding + table[scale_index]",
    "encoder/input": "the class token and scale_embedding, one after the other",
    "*/norm1": "LayerNorm of the block's input, with scale and bias",
    "*/norm2": "LayerNorm of residual1, with scale and bias",
    "*/query": "norm1 times the kernel, plus the bias, split into heads",
    "*/key": "norm1 times the kernel, plus the bias, split into heads",
    "*/value": "norm1 times the kernel, plus the bias, split into heads",
    "*/attention/logits": "query·keyᵀ/√(D/H)",
    "*/attention/weights": "the softmax over the keys of the logits, hidden pairs at 0",
    "*/attention/heads": "weights·value",
    "*/attention/out": "the heads side by side times the kernel, plus the bias",
    "*/residual1": "the block's input + attention/out",
    "*/mlp/fc1": "norm2 times the kernel, plus the bias",
    "*/mlp/gelu": "the GELU of fc1",
    "*/mlp/fc2": "gelu times the kernel, plus the bias",
    "encoder/block_*/output": "residual1 + mlp/fc2",
    "encoder/norm": "LayerNorm of the last block's output, with scale and bias",
    "head/class_token": "the first token of encoder/norm",
    "head/logits": "head/class_token times the kernel, plus the bias",
    "probabilities": "the softmax of the logits",
    "score": "Σ k·p_k, k = 1 … C (C = 1: the logit itself)",
}


def made_of(stage: str) -> str:
    """How a stage is made, in words; "" for one of the way back.

    >>> made_of("encoder/block_03/mlp/gelu")
    'the GELU of fc1'
    """
    found = (words for pattern, words in MADE_OF.items() if fnmatch(stage, pattern))
    return "" if stage.startswith(BACK) else next(found, "")


def tokens_in_words(wrong: np.ndarray, mask: np.ndarray, height: int, width: int, config: MusiqConfig) -> str:
    """Which scales the wrong tokens (N,) are of, where they are all of some scales or of one only; "" otherwise.

    wrong, mask: (N,), without the class token
    """
    start, whole, touched, scales = 0, [], [], scales_of(height, width, config)
    for k, scale in enumerate(scales):
        part = slice(start, start + scale.length)
        start += scale.length
        used = mask[part].astype(bool)
        if wrong[part].any():
            touched.append(k)
            whole.append(bool(wrong[part][used].all()))
    if start != len(mask) or not touched or len(touched) == len(scales):
        return ""
    listed = " and ".join(f"scale {k}" for k in touched)
    return f"{'all' if all(whole) else 'only'} tokens of {listed} are wrong"


def cells_in_words(right: np.ndarray, mine: np.ndarray, scales: Sequence[Scale]) -> list[str]:
    """The hash of the first scale where it is wrong (1, N), row by row."""
    start = 0
    for k, scale in enumerate(scales):
        part, start = slice(start, start + scale.kept), start + scale.length
        if (right[0, part] != mine[0, part]).any():
            shown = ["; ".join(" ".join(map(str, row[:9])) for row in a[0, part].reshape(scale.rows, -1)[:4])
                     for a in (mine, right)]  # fmt: skip
            return [f"scale {k}, row by row: {shown[0]} instead of {shown[1]}"] if scale.kept % scale.rows == 0 else []
    return []


def of_weights(right: np.ndarray, mine: np.ndarray, valid: np.ndarray) -> Iterator[str]:
    """What is wrong with attention weights (B, H, query, key).

    valid: (1 + N,), which tokens are valid, the class token first
    """
    if right.shape[2:] != (len(valid), len(valid)) or mine.shape != right.shape:
        return
    known = np.asarray((right > 1e-9).any(axis=(0, 1))) & valid[:, None] & valid  # pairs that are seen to be allowed
    hidden = np.asarray((mine < 1e-12).all(axis=(0, 1))) & known
    shown, rows = mine[:, :, valid][..., ~valid].sum(-1), mine[:, :, valid].sum(-1)
    if hidden.any():
        yield f"pairs are hidden that should not be: {pairs_in_words(hidden, known)}"
    if shown.size and shown.max() > 1e-6:
        yield f"padded tokens are seen: they get up to {shown.max():.2g} of a row"
    if np.abs(rows - 1).max() > 1e-3:
        yield f"rows do not sum to 1 but to {rows.min():.3g} … {rows.max():.3g}"


def pairs_in_words(hidden: np.ndarray, known: np.ndarray) -> str:
    """A pattern of hidden pairs (query, key), in words.

    known: the pairs of which it is known whether they are hidden

    >>> pairs_in_words(np.triu(np.ones((4, 4), bool), 1), np.ones((4, 4), bool))
    'every key after the query (a causal mask)'
    """
    n = len(hidden)
    for words, pattern in {
        "every key after the query (a causal mask)": np.triu(np.ones((n, n), bool), 1),
        "every key before the query": np.tril(np.ones((n, n), bool), -1),
        "every token from itself": np.eye(n, dtype=bool),
    }.items():
        if (hidden == pattern)[known].all():
            return words
    keys, queries = (np.flatnonzero((hidden | ~known).all(axis) & known.any(axis)) for axis in (0, 1))
    if len(keys) and not np.delete(hidden, keys, 1).any():
        return f"keys {keys.tolist()} from all"
    if len(queries) and not np.delete(hidden, queries, 0).any():
        return f"all keys from the queries {queries.tolist()}"
    rows = np.flatnonzero(hidden.any(1))
    few = f"from the queries {rows.tolist()}" if len(rows) <= n / 2 else "from most queries"
    return f"{hidden.sum()} of {known.sum()} pairs, {few}"


def of_picture(right: np.ndarray, mine: np.ndarray) -> Iterator[str]:
    """What kind of picture (row, column, channel) is another than the right one: brightness, sharpness, or place."""
    if mine.shape != right.shape or min(right.shape[:2]) < 16:
        return
    coarse_right, coarse_mine = blurred(right), blurred(mine)
    x, y = coarse_right.ravel(), coarse_mine.ravel()
    gap, all_of_it = np.linalg.norm(y - x), np.linalg.norm(mine - right)
    if gap < 0.25 * all_of_it * np.linalg.norm(x) / max(np.linalg.norm(right), 1e-12):
        ratio = detail(mine) / max(detail(right), 1e-12)
        kind = "sharper" if ratio > 1.002 else "softer" if ratio < 0.998 else "as sharp"
        yield f"only the fine detail differs, it is {kind} ({ratio:.3g} times as much): another filter of the resize"
        return
    curve = np.polynomial.Polynomial.fit(x, y, 5)
    rest = np.linalg.norm(y - curve(x))
    if rest < 0.2 * gap and rest < 0.1 * np.linalg.norm(y - y.mean()):
        yield "another brightness curve: its values are a function of the right ones, such as a gamma"


def of_step(
    parameter: np.ndarray, gradient: np.ndarray, right: np.ndarray, mine: np.ndarray, near: float
) -> Iterator[str]:
    """Which multiples of the gradient and of the parameter the port subtracts in a step of SGD.

    near: length of an error that is rounding, over the length of the parameter
    """
    rows = np.stack([gradient.ravel(), parameter.ravel()], 1)
    if len(rows) < 4 or mine.shape != right.shape or np.linalg.matrix_rank(rows) < 2:
        return
    steps = [parameter.ravel() - a.ravel() for a in (mine, right)]
    (ours, theirs), *_ = np.linalg.lstsq(rows, np.stack(steps, 1), rcond=None)
    if np.linalg.norm(rows @ [ours[0], theirs[0]] - steps[0]) <= near * np.linalg.norm(parameter):
        shown = [
            f"{g:.2g}·gradient + {abs(p):.2g}·parameter".replace("+ 0·parameter", "+ 0")
            for g, p in zip(ours, np.where(np.abs(theirs) < 1e-5, 0, theirs), strict=True)
        ]
        yield f"the step subtracts {shown[0]} instead of {shown[1]}: another rate, decay or momentum"


def blurred(picture: np.ndarray, size: int = 5) -> np.ndarray:
    """Means over windows of size × size.

    >>> blurred(np.ones((8, 9, 3))).shape
    (4, 5, 3)
    """
    return np.lib.stride_tricks.sliding_window_view(picture, (size, size), axis=(0, 1)).mean(axis=(-2, -1))


def detail(picture: np.ndarray) -> float:
    """Root mean square of the differences of neighbouring pixels."""
    down, right = np.diff(picture, axis=0), np.diff(picture, axis=1)
    return float(np.sqrt((down**2).mean() + (right**2).mean()))


def scale_and_bias(stage: str, params: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """γ and β of a norm, by the name of its stage; None for what is no norm, or has a γ of 0."""
    name = stage.rpartition("/")[2]
    if not name.startswith(("gn", "norm")):
        return None
    for key in stage.split("/"):
        params = params.get(key, {})
    gamma, beta = params.get("scale"), params.get("bias")
    if gamma is None or beta is None or (np.abs(gamma) < 1e-3 * np.abs(gamma).max()).any():
        return None
    return np.asarray(gamma), np.asarray(beta)
