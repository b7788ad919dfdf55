"""Convolution with TensorFlow's "SAME" padding, written as one matrix product over gathered windows."""

from __future__ import annotations

import math

from musiq_ref.backend import namespace, op


def same_padding(n: int, size: int, stride: int) -> tuple[int, int]:
    """What to add before and after an axis of length n so that it has ceil(n/stride) windows; the smaller half first.

    >>> same_padding(32, size=7, stride=2), same_padding(16, size=3, stride=2)
    ((2, 3), (0, 1))
    """
    total = max((math.ceil(n / stride) - 1) * stride + size - n, 0)
    return total // 2, total - total // 2


def pad_same(x, size, stride, value=0.0):
    """x: (N, h, w, C), padded on h and w."""
    xp = namespace(x)
    rows, columns = same_padding(x.shape[1], size, stride), same_padding(x.shape[2], size, stride)
    if rows == columns == (0, 0):
        return x
    return xp.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=value)


def windows(x, size, stride):
    """Every size × size window of x: (N, h, w, C) as a view (N, h_out, w_out, size, size, C)."""
    xp = namespace(x)
    view = xp.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return view.transpose(0, 1, 2, 4, 5, 3)


@op
def convolution(x, kernel, stride=1):
    r"""y[n,i,j,o] = Σ_abc x̃[n, i·s+a, j·s+b, c]·w[a,b,c,o],  x̃ = x zero-padded "SAME"      (stem, SPEC 4)

    x: (N, h, w, I)
    kernel: (k, k, I, O)
    y: (N, ceil(h/s), ceil(w/s), O)
    """
    size = kernel.shape[0]
    columns = windows(pad_same(x, size, stride), size, stride)  # (N, h_out, w_out, k, k, I)
    y = columns.reshape(-1, size * size * x.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*columns.shape[:3], kernel.shape[-1]), (x, kernel, stride)


@op
def convolution_backward(dy, cache):
    r"""dw[a,b,c,o] = Σ_nij x̃[n, i·s+a, j·s+b, c]·dy[n,i,j,o];  dx̃[n, i·s+a, j·s+b, c] += Σ_o dy[n,i,j,o]·w[a,b,c,o]"""
    return input_gradient(dy, cache), kernel_gradient(dy, cache)


def input_gradient(dy, cache):
    """The first half of `convolution_backward`, for a kernel that needs no gradient."""
    x, kernel, stride = cache
    xp = namespace(dy)
    size, (N, rows, columns, O) = kernel.shape[0], dy.shape
    dwindows = (dy.reshape(-1, O) @ kernel.reshape(-1, O).T).reshape(N, rows, columns, size, size, -1)
    height, width = (n + sum(same_padding(n, size, stride)) for n in x.shape[1:3])
    dstrips = xp.zeros((N, height, columns, size, x.shape[-1]), dtype=dy.dtype)  # added up over a, then over b
    for a in range(size):
        dstrips[:, a : a + rows * stride : stride] += dwindows[:, :, :, a]
    dpadded = xp.zeros((N, height, width, x.shape[-1]), dtype=dy.dtype)
    for b in range(size):
        dpadded[:, :, b : b + columns * stride : stride] += dstrips[:, :, :, b]
    return unpad_same(dpadded, x.shape, size, stride)


@op
def kernel_gradient(dy, cache):
    """The second half of `convolution_backward`, for a convolution whose input needs no gradient."""
    x, kernel, stride = cache
    size, flat = kernel.shape[0], dy.reshape(-1, dy.shape[-1])
    columns = windows(pad_same(x, size, stride), size, stride).reshape(len(flat), -1)
    return (columns.T @ flat).reshape(kernel.shape)


def unpad_same(padded, shape, size, stride):
    """The part of a padded array that is the original of that shape: the transpose of `pad_same`."""
    top, left = same_padding(shape[1], size, stride)[0], same_padding(shape[2], size, stride)[0]
    return padded[:, top : top + shape[1], left : left + shape[2]]
