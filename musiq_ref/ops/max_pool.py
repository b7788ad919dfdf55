"""Max-pooling with TensorFlow's "SAME" padding."""

from __future__ import annotations

import math

from musiq_ref.backend import namespace, op
from musiq_ref.ops.convolution import pad_same, unpad_same


@op
def max_pool(x, size=3, stride=2):
    r"""y[n,i,j,c] = max_ab x̃[n, i·s+a, j·s+b, c],  x̃ = x padded "SAME" with −inf            (stem, SPEC 4)

    x: (N, h, w, C)
    y: (N, ceil(h/s), ceil(w/s), C)
    """
    xp = namespace(x)
    padded = pad_same(x, size, stride, -math.inf)
    y = None
    for shifted in _shifts(padded, x.shape, size, stride):
        y = shifted if y is None else xp.maximum(y, shifted)
    return y, (padded, y, x.shape, size, stride)


@op
def max_pool_backward(dy, cache):
    r"""dx̃ += dy at the place of the maximum; of several equal ones, the first in row-major order"""
    padded, y, shape, size, stride = cache
    xp = namespace(dy)
    dpadded = xp.zeros_like(padded)
    left = dy  # what has not found its place yet
    shifts = zip(_shifts(padded, shape, size, stride), _shifts(dpadded, shape, size, stride), strict=True)
    for shifted, dshifted in shifts:
        here = shifted == y
        dshifted += left * here
        left = left * ~here
    return unpad_same(dpadded, shape, size, stride)


def _shifts(padded, shape, size, stride):
    """For each of the size² places (a, b) in a window, the values there of all windows: a view (N, h_out, w_out, C)."""
    rows, columns = math.ceil(shape[1] / stride), math.ceil(shape[2] / stride)
    for a in range(size):
        for b in range(size):
            yield padded[:, a : a + rows * stride : stride, b : b + columns * stride : stride]
