"""Where the tokens of several images lie when these go through the model one after another, without padding.

The sequence is: a class token, the tokens of the first image, a class token, those of the second, … Attention alone
takes the images apart: those of similar length are laid side by side, the shorter filled up, and multiplied at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.image.tokenize import Tokens


class Places(NamedTuple):
    """Index arrays, for `a[index]`, made by `places` of B images with N tokens together, T = N + B with class tokens.

    first: (B,), the place of each image's class token
    source: (T,), which of (class token, token 1, … token N) comes at each place
    groups: of images that attend side by side, table (b, M): which tokens; valid (b, M): which of them are no filling
    back: (T,), where each token is in the tables, one after another
    """

    first: Any
    source: Any
    groups: tuple[tuple[Any, Any], ...]
    back: Any

    def moved(self, move: Callable[[np.ndarray], Any]) -> Places:
        """The same in another library."""
        groups = tuple((move(table), move(valid)) for table, valid in self.groups)
        return Places(move(self.first), move(self.source), groups, move(self.back))


def places(counts: Sequence[int]) -> Places:
    """The places of images of so many tokens. A group's longest is at most twice as long as its shortest.

    >>> found = places([2, 1])
    >>> found.source.tolist(), found.first.tolist()
    ([0, 1, 2, 0, 3], [0, 3])
    >>> found.groups[0][0].tolist(), found.back.tolist()
    ([[3, 4, 3], [0, 1, 2]], [3, 4, 5, 0, 1])
    """
    lengths = 1 + np.array(counts)
    first = np.cumsum(lengths) - lengths
    source = np.arange(lengths.sum())
    source -= np.repeat(np.arange(len(counts)), lengths)
    source[first] = 0
    groups, back, start = [], np.empty(len(source), np.intp), 0
    for some in _of_similar_length(lengths):
        offsets = np.arange(lengths[some].max())
        valid = offsets < lengths[some][:, None]
        table = first[some][:, None] + np.where(valid, offsets, 0)
        back[table[valid]] = start + np.flatnonzero(valid)
        groups.append((table, valid))
        start += table.size
    return Places(first, source, tuple(groups), back)


def valid_tokens(images: Sequence[Tokens]) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """What of several images is no padding: how many tokens of each, their rows among all, their two indices.

    >>> image = Tokens(None, np.array([7, 8, 9]), np.array([0, 1, 1]), np.array([True, False, True]))
    >>> counts, rows, hashes, scales = valid_tokens([image, image])
    >>> counts, rows.tolist(), hashes.tolist()
    ([2, 2], [0, 2, 3, 5], [7, 9, 7, 9])
    """
    kept = [np.flatnonzero(one.mask) for one in images]
    starts = accumulate((len(one.mask) for one in images[:-1]), initial=0)
    rows = np.concatenate([some + start for some, start in zip(kept, starts, strict=True)])
    hashes, scales = (
        np.concatenate([getattr(one, name)[some] for one, some in zip(images, kept, strict=True)])
        for name in ("hash_index", "scale_index")
    )
    return [len(some) for some in kept], rows, hashes, scales


def _of_similar_length(lengths: np.ndarray) -> list[list[int]]:
    """Numbers of images, those in a list differing in length by a factor of two at most."""
    groups: list[list[int]] = []
    for i in np.argsort(lengths, kind="stable").tolist():
        if groups and lengths[i] <= 2 * lengths[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
