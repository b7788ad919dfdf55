"""Look-up of table rows by index, and the sinusoidal table."""

from __future__ import annotations

import numpy as np

from musiq_ref.backend import namespace
from musiq_ref.ops.fused import product


def lookup(table, index):
    r"""y[…] = T[index[…]]                                                    (E_HSE and E_SCE in Eq. 2)

    table T: (R, D)
    index: (...) integers in 0 … R−1, checked by the caller
    y: (..., D)
    """
    return table[index], (index, table.shape[0])


def lookup_backward(dy, cache):
    r"""dT[r] = Σ dy where index = r, as one-hot matrix times dy: deterministic, and fast on any device"""
    index, rows = cache
    xp = namespace(dy)
    one_hot = (index.reshape(-1, 1) == xp.arange(rows)).astype(dy.dtype)  # (n, R)
    return product(one_hot.T, dy.reshape(-1, dy.shape[-1]))


def sinusoidal_table(grid_size: int, width: int) -> np.ndarray:
    r"""T[p, j] = sin(p/10000^(2⌊j/2⌋/D)) for even j, cos of the same for odd j; p = row·G + column    (appendix B.2)

    Returns float64 (G², D).

    >>> sinusoidal_table(2, 4)[1].round(4)
    array([0.8415, 0.5403, 0.01  , 1.    ])
    """
    position, j = np.arange(grid_size**2)[:, None], np.arange(width)
    angle = position / 10000 ** (2 * (j // 2) / width)  # (G², D)
    return np.where(j % 2 == 0, np.sin(angle), np.cos(angle))
