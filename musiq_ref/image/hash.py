"""The hash of the spatial embedding: which cell of a G × G grid each patch falls into (SPEC 3).

Integers have no gradient; that of the table which they index is `lookup_backward` in ops/embedding.py.
"""

from __future__ import annotations

import numpy as np


def hash_axis(n: int, grid_size: int, rule: str = "floor") -> np.ndarray:
    """Grid row (or column) of each of n patches along an axis.

    rule "floor" (official, pyiqa): t_i = min(⌊i·(G/n)⌋, G − 1) in float32, which differs from exact arithmetic for
    some n. rule "round" (paper): the nearest integer instead, clipped to G − 1.

    Returns integers (n,) in 0 … G − 1.

    >>> hash_axis(4, 10)
    array([0, 2, 5, 7])
    >>> hash_axis(4, 10, "round")
    array([0, 2, 5, 8])
    """
    position = np.arange(n, dtype=np.float32) * (np.float32(grid_size) / np.float32(n))
    cell = np.floor(position) if rule == "floor" else np.rint(position)
    return np.minimum(cell.astype(np.int64), grid_size - 1)


def hash_index(rows: int, columns: int, grid_size: int, rule: str = "floor") -> np.ndarray:
    """t_row·G + t_column of every patch, row by row: (rows·columns,) integers in 0 … G² − 1.

    >>> hash_index(2, 3, grid_size=10)
    array([ 0,  3,  6, 50, 53, 56])
    """
    t_row, t_column = hash_axis(rows, grid_size, rule), hash_axis(columns, grid_size, rule)
    return (t_row[:, None] * grid_size + t_column).ravel()
