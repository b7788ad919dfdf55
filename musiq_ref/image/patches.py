"""Cutting an image into patches, and putting gradients of patches back together (SPEC 3)."""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.backend import Array
from musiq_ref.ops.convolution import pad_same, same_padding


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches that cover an image.

    >>> patch_grid(97, 384, 32)
    (4, 12)
    """
    return math.ceil(height / patch_size), math.ceil(width / patch_size)


def extract_patches(image: Array, patch_size: int) -> Array:
    """Non-overlapping P × P patches, row by row; the image is zero-padded "SAME", the smaller half before.

    image: (H, W, 3)
    returns (n, P, P, 3)

    >>> extract_patches(np.ones((33, 64, 3)), 32).shape
    (4, 32, 32, 3)
    """
    P = patch_size
    rows, columns = patch_grid(image.shape[0], image.shape[1], P)
    padded = pad_same(image[None], P, P)[0]  # (rows·P, columns·P, 3)
    tiles = padded.reshape(rows, P, columns, P, 3).swapaxes(1, 2)  # (rows, columns, P, P, 3)
    return tiles.reshape(-1, P, P, 3)


def extract_patches_backward(dpatches: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every pixel's gradient is that of the one patch it lies in.

    dpatches: (n, P, P, 3)
    returns (H, W, 3)
    """
    P = dpatches.shape[1]
    rows, columns = patch_grid(height, width, P)
    tiles = dpatches.reshape(rows, columns, P, P, 3).swapaxes(1, 2)  # (rows, P, columns, P, 3)
    top, left = same_padding(height, P, P)[0], same_padding(width, P, P)[0]
    return tiles.reshape(rows * P, columns * P, 3)[top : top + height, left : left + width]


def flatten_patches(patches: np.ndarray, layout: str = "row_column_channel") -> np.ndarray:
    """Patches as flat vectors in the order of `Conventions.patch_layout`.  (..., P, P, 3) -> (..., P·P·3)

    >>> flatten_patches(np.arange(12).reshape(1, 2, 2, 3), "channel_row_column")
    array([[ 0,  3,  6,  9,  1,  4,  7, 10,  2,  5,  8, 11]])
    """
    if layout == "channel_row_column":
        patches = np.moveaxis(patches, -1, -3)
    return patches.reshape(*patches.shape[:-3], -1)
