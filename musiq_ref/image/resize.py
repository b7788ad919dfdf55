"""Aspect-preserving resize. A separable filter is two sparse matrices: y = R_rows · x · R_columnsᵀ; its backward is
their transposes. Two filters: the authors' Gaussian, and the bicubic one that pyiqa inherits from PyTorch (SPEC 3, 5).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from musiq_ref.backend import Array, namespace, on_host

RADIUS, SIGMA = 1.5, 0.5  # of the Gaussian, in pixels of the input
CUBIC_A = -0.75  # PyTorch's bicubic kernel


def resized_sides(height: int, width: int, longer_side: int, arithmetic: str = "float32") -> tuple[int, int]:
    """Height and width after the longer side has become `longer_side`, rounded half to even   (SPEC 3)

    arithmetic: "float32" (official) or "float64" (pyiqa); they differ for some sizes. Raises ValueError for an image so
    elongated that a side would become 0.

    >>> resized_sides(1375, 1600, 224), resized_sides(1375, 1600, 224, "float64")
    ((192, 224), (193, 224))
    """
    real = np.dtype(arithmetic).type
    ratio = real(longer_side) / real(max(height, width))
    sides = int(np.rint(real(height) * ratio)), int(np.rint(real(width) * ratio))
    if 0 in sides:
        raise ValueError(
            f"an image of {height}×{width} pixels is too elongated: resized to a longer side of {longer_side}, its "
            f"shorter side would be 0 pixels; crop it, or use a model without that scale"
        )
    return sides


def gaussian_matrix(n_in: int, n_out: int, dtype: Any = "float32") -> csr_array:
    """R (n_out, n_in): a Gaussian of sigma 0.5 and radius 1.5 input pixels around each output position, without
    antialiasing, every row divided by its sum (SPEC 3). With n_out = n_in it is a blur, not the identity.

    >>> gaussian_matrix(3, 3).toarray()[1].round(4)
    array([0.1065, 0.787 , 0.1065], dtype=float32)
    """
    real = np.dtype(dtype).type
    scale = real(1) / (real(n_out) / real(n_in))
    centre = (np.arange(n_out, dtype=dtype) + real(0.5)) * scale  # s, in input coordinates
    first = np.clip(np.ceil(centre - real(RADIUS) - real(0.5)).astype(int), 0, n_in - 1)
    last = np.clip(np.floor(centre + real(RADIUS) - real(0.5)).astype(int), 0, n_in - 1)
    source = first[:, None] + np.arange(4)  # the filter spans at most four input pixels
    distance = np.abs(source.astype(dtype) + real(0.5) - centre[:, None])
    weight = np.exp(-distance * distance / real(2 * SIGMA**2))
    weight[(distance >= RADIUS) | (source > last[:, None])] = 0
    weight = weight / weight.sum(axis=1, keepdims=True)
    return _sparse(np.minimum(source, n_in - 1), weight, n_in)


def bicubic_matrix(n_in: int, n_out: int, dtype: Any = "float64") -> csr_array:
    """R (n_out, n_in): cubic convolution with a = −0.75 at half-pixel centres, pixels beyond the edge moved onto it,
    without antialiasing; the identity when n_out = n_in (SPEC 5, pyiqa).

    >>> bicubic_matrix(4, 2).toarray()[0]
    array([ 0.5    ,  0.59375, -0.09375,  0.     ])
    """
    real = np.dtype(dtype).type
    centre = (np.arange(n_out, dtype=dtype) + real(0.5)) * (real(n_in) / real(n_out)) - real(0.5)
    left = np.floor(centre)
    t = (centre - left)[:, None]  # how far the centre lies beyond the second of its four pixels
    near, far = _cubic_near, _cubic_far
    weight = np.concatenate([far(t + 1), near(t), near(1 - t), far(2 - t)], axis=1)
    source = np.clip(left.astype(int)[:, None] + np.arange(-1, 3), 0, n_in - 1)
    return _sparse(source, weight, n_in)


def _cubic_near(d):
    """Cubic convolution kernel for 0 ≤ d ≤ 1."""
    return ((CUBIC_A + 2) * d - (CUBIC_A + 3)) * d * d + 1


def _cubic_far(d):
    """Cubic convolution kernel for 1 ≤ d ≤ 2."""
    return ((CUBIC_A * d - 5 * CUBIC_A) * d + 8 * CUBIC_A) * d - 4 * CUBIC_A


def _sparse(source: np.ndarray, weight: np.ndarray, n_in: int) -> csr_array:
    """The matrix (n_out, n_in) of the pixels that each output position reads (n_out, k), and of their weights."""
    rows = np.repeat(np.arange(len(source)), source.shape[1])
    matrix = csr_array((weight.ravel(), (rows, source.ravel())), shape=(len(source), n_in))  # adds up repeated pixels
    matrix.eliminate_zeros()
    return matrix


FILTER = {"gaussian": gaussian_matrix, "bicubic": bicubic_matrix}
"""The matrix for each value of `Conventions.resize`."""


def resize(image: Array, height: int, width: int, kind: str = "gaussian") -> Array:
    """The image at another size, filtered first along its height, then along its width.

    image: (H, W, 3), floating, of any array library
    returns (height, width, 3) of the same dtype

    >>> resize(np.ones((5, 7, 3)), 3, 4, "bicubic").shape
    (3, 4, 3)
    """
    rows, columns = FILTER[kind](image.shape[0], height, image.dtype), FILTER[kind](image.shape[1], width, image.dtype)
    return _apply_to_axis_1(columns, _apply_to_axis_0(rows, image))


def resize_backward(dy: np.ndarray, shape: tuple[int, ...], kind: str = "gaussian") -> np.ndarray:
    """dx = R_rowsᵀ · dy · R_columns

    dy: (height, width, 3)
    shape: (H, W, 3) of the original
    dx: (H, W, 3)
    """
    rows, columns = FILTER[kind](shape[0], dy.shape[0], dy.dtype), FILTER[kind](shape[1], dy.shape[1], dy.dtype)
    return _apply_to_axis_0(rows.T, _apply_to_axis_1(columns.T, dy))


def _apply_to_axis_0(matrix: csr_array, image: Array) -> Array:
    """matrix (n, H) times image (H, W, 3); on a device, which has no use for zeros left out, with all of them."""
    there = matrix if on_host(image) else namespace(image).asarray(matrix.toarray())
    return (there @ image.reshape(len(image), -1)).reshape(-1, *image.shape[1:])


def _apply_to_axis_1(matrix: csr_array, image: Array) -> Array:
    """matrix (n, W) times image (H, W, 3) along its second axis."""
    return namespace(image).ascontiguousarray(_apply_to_axis_0(matrix, image.swapaxes(0, 1)).swapaxes(0, 1))
