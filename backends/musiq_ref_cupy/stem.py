"""The stem's ops that have a kernel: GroupNorm with or without ReLU, convolution windows, max-pooling."""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.ops import convolution, fused, group_norm, max_pool
from musiq_ref.ops.convolution import same_padding
from musiq_ref.ops.group_norm import GROUPS
from musiq_ref_cupy.launch import Kept, Launcher, threads

MOST_CHANNELS = 1024  # a block has no more threads


class StemKernels(Launcher):
    """Methods with the names and arguments of the ops."""

    def group_norm(self, x, gamma, beta, eps, groups=GROUPS):
        return self._group_norm(group_norm.group_norm, False, x, gamma, beta, eps, groups)

    def group_norm_backward(self, dy, cache):
        return self._group_norm_backward(group_norm.group_norm_backward, dy, cache)

    def group_norm_relu(self, x, gamma, beta, eps, groups=GROUPS):
        return self._group_norm(fused.group_norm_relu, True, x, gamma, beta, eps, groups)

    def group_norm_relu_backward(self, dy, cache):
        return self._group_norm_backward(fused.group_norm_relu_backward, dy, cache)

    def _group_norm(self, op, rectified, x, gamma, beta, eps, groups):
        N, h, w, C = x.shape
        if not self.fit(x, gamma, beta) or C > MOST_CHANNELS:
            return op.readable(x, gamma, beta, eps, groups)
        x, gamma, beta = self.flat(x, gamma, beta)
        y, mean, rho = (self.xp.empty(shape, x.dtype) for shape in (x.shape, (N, groups), (N, groups)))
        block, arrays = _channels_and_slots(C), (x, gamma, beta, y, mean, rho)
        numbers = h * w, C // groups, rectified, float(eps)
        self.launch("group_norm", x.dtype, (N,), block, *arrays, *numbers, shared=math.prod(block))
        return y, Kept((x, y if rectified else None, mean, rho, gamma))

    def _group_norm_backward(self, op, dy, cache):
        if not isinstance(cache, Kept):
            return op.readable(dy, cache)
        xp, (x, y, mean, rho, gamma) = self.xp, cache
        N, h, w, C = x.shape
        (dy,) = self.flat(dy)
        dx, dgamma, dbeta = (xp.empty(shape, x.dtype) for shape in (x.shape, (N, C), (N, C)))
        block, arrays = _channels_and_slots(C), (dy, x, y, mean, rho, gamma, dx, dgamma, dbeta)
        numbers = h * w, C // mean.shape[1]
        self.launch("group_norm_backward", x.dtype, (N,), block, *arrays, *numbers, shared=math.prod(block))
        return dx, self.sum_rows(dgamma), self.sum_rows(dbeta)

    def convolution(self, x, kernel, stride=1):
        if not self.fit(x, kernel):
            return convolution.convolution.readable(x, kernel, stride)
        windows, O = _windows(x.shape, kernel.shape[0], stride), kernel.shape[-1]
        y = self.multiply(self._columns(x, windows), kernel.reshape(-1, O))
        return y.reshape(x.shape[0], windows[3], windows[4], O), (x, kernel, stride)

    def convolution_backward(self, dy, cache):
        x, kernel, stride = cache
        if not self.fit(dy, x, kernel):
            return convolution.convolution_backward.readable(dy, cache)
        windows, O = _windows(x.shape, kernel.shape[0], stride), kernel.shape[-1]
        (dcolumns,) = self.flat(self.multiply(dy.reshape(-1, O), kernel.reshape(-1, O).T))
        if _is_pointwise(windows):
            return dcolumns.reshape(x.shape), self.kernel_gradient(dy, cache)
        dx, pixels = self.xp.empty(x.shape, x.dtype), math.prod(x.shape[:3])
        self.launch("col2im", x.dtype, (pixels,), (threads(x.shape[3]),), dcolumns, dx, *windows)
        return dx, self.kernel_gradient(dy, cache)

    def kernel_gradient(self, dy, cache):
        x, kernel, stride = cache
        if not self.fit(dy, x, kernel):
            return convolution.kernel_gradient.readable(dy, cache)
        columns = self._columns(x, _windows(x.shape, kernel.shape[0], stride))
        return self.multiply(columns.T, dy.reshape(-1, kernel.shape[-1])).reshape(kernel.shape)

    def _columns(self, x, windows):
        """(N·h_out·w_out, size·size·C): every window as a row."""
        (x,), (_, _, C, h_out, w_out, size, *_) = self.flat(x), windows
        if _is_pointwise(windows):
            return x.reshape(-1, C)
        columns = self.xp.empty((x.shape[0] * h_out * w_out, size * size * C), x.dtype)
        self.launch("im2col", x.dtype, columns.shape[:1], (threads(columns.shape[1]),), x, columns, *windows)
        return columns

    def max_pool(self, x, size=3, stride=2):
        if not self.fit(x) or size > 15:
            return max_pool.max_pool.readable(x, size, stride)
        (x,), windows = self.flat(x), _windows(x.shape, size, stride)
        shape = x.shape[0], windows[3], windows[4], x.shape[3]
        y, place = self.xp.empty(shape, x.dtype), self.xp.empty(shape, np.uint8)
        block = (threads(shape[3]),)
        self.launch("max_pool", x.dtype, (math.prod(shape[:3]),), block, x, y, place, *windows)
        return y, Kept((place, x.shape, windows))

    def max_pool_backward(self, dy, cache):
        if not isinstance(cache, Kept):
            return max_pool.max_pool_backward.readable(dy, cache)
        (dy,), (place, shape, windows) = self.flat(dy), cache
        dx, block = self.xp.empty(shape, dy.dtype), (threads(shape[3]),)
        self.launch("max_pool_backward", dy.dtype, (math.prod(shape[:3]),), block, dy, place, dx, *windows)
        return dx


def _channels_and_slots(C: int) -> tuple[int, int]:
    """The block of the GroupNorm kernels: a thread a channel, several times if there are few."""
    return C, max(1, 256 // C)


def _windows(shape: tuple[int, ...], size: int, stride: int) -> tuple[int, ...]:
    """WINDOWS in kernels.cu, for x of that shape (N, h, w, C)."""
    _, h, w, C = shape
    padding = same_padding(h, size, stride)[0], same_padding(w, size, stride)[0]
    return h, w, C, math.ceil(h / stride), math.ceil(w / stride), size, stride, *padding


def _is_pointwise(windows: tuple[int, ...]) -> bool:
    """Whether every window is one pixel and every pixel one window."""
    return windows[5:7] == (1, 1)
