"""Regularisation during training: which branches are dropped by chance, and from which generator."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from musiq_ref.ops.dropout import drop_path, drop_path_backward, dropout, dropout_backward


class Noise(NamedTuple):
    """Rates of what training drops by chance, with the generator that decides.

    rng: drawn from only where a rate is above 0
    dropout: of the elements of the embedded tokens, of the attention's output and inside the MLP
    attention_dropout: of the attention weights
    stochastic_depth: of whole residual branches in the last block, falling linearly to 0 in the first

    >>> Noise(np.random.default_rng(0), stochastic_depth=0.2).path_rate(1, layers=3)
    0.1
    """

    rng: np.random.Generator
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0

    def check(self) -> None:
        """Raises ValueError for a rate that is none."""
        for name in ("dropout", "attention_dropout", "stochastic_depth"):
            rate = getattr(self, name)
            if not 0 <= rate <= (1 if name == "stochastic_depth" else 0.999):
                raise ValueError(f"Noise.{name} is {rate}; it must be at least 0 and below 1")

    def path_rate(self, layer: int, layers: int) -> float:
        """Chance that a residual branch of block `layer` (from 0) is dropped."""
        return self.stochastic_depth * layer / max(layers - 1, 1)


NO_NOISE = Noise(np.random.default_rng(0))
"""The noise that drops nothing."""


def drop(x, rate: float, noise: Noise):
    """`ops.dropout.dropout`, or x itself (with cache None) when there is nothing to drop."""
    return dropout(x, rate, noise.rng) if rate else (x, None)


def drop_backward(dy, cache):
    """The backward of `drop`."""
    return dy if cache is None else dropout_backward(dy, cache)


def drop_branch(x, rate: float, noise: Noise):
    """`ops.dropout.drop_path`, or x itself (with cache None) when there is nothing to drop."""
    return drop_path(x, rate, noise.rng) if rate else (x, None)


def drop_branch_backward(dy, cache):
    """The backward of `drop_branch`."""
    return dy if cache is None else drop_path_backward(dy, cache)
