"""The ops that have a kernel: shapes and memory here, arithmetic in kernels.cu, products in cuBLAS.

`Kernels(array_type, xp, compile).register()` puts its methods in the place of the ops of the same names, for arrays of
that type. The op stays the specification (tests/test_kernels.py compares every kernel with it), and it is what runs
where a kernel does not fit: other dtypes than float32 and float64, more channels than a block has threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from musiq_ref.ops import activation, convolution, fused, group_norm, layer_norm, linear, max_pool, softmax
from musiq_ref.training import optimizers
from musiq_ref_cupy.launch import STRIP, WARPS, Kept, threads
from musiq_ref_cupy.stem import StemKernels

LONG, HELD = 4096, 64  # of softmax: the length from which a row gets a block, and what each of its threads can hold


class Kernels(StemKernels):
    """All kernels, as methods with the names and arguments of their ops; those of the stem are inherited."""

    OPS = (
        *(layer_norm.layer_norm, layer_norm.layer_norm_backward, group_norm.group_norm, group_norm.group_norm_backward),
        *(activation.gelu_tanh, activation.gelu_tanh_backward, activation.gelu_erf, activation.gelu_erf_backward),
        *(softmax.softmax, softmax.softmax_backward, max_pool.max_pool, max_pool.max_pool_backward),
        *(convolution.convolution, convolution.convolution_backward, convolution.kernel_gradient),
        *(fused.masked_softmax, fused.masked_softmax_backward, fused.group_norm_relu, fused.group_norm_relu_backward),
        *(fused.bias_gelu, fused.bias_gelu_backward),
        *(fused.bias_residual_layer_norm, fused.bias_residual_layer_norm_backward),
        *(linear.linear, linear.linear_backward, fused.product),
        *(optimizers.sgd_step, optimizers.adam_step),
    )

    def register(self) -> None:
        for op in self.OPS:
            op.kernels[self.array_type] = getattr(self, op.__name__)

    # ---- products

    def product(self, a, b, factor=1.0):
        return self.multiply(a, b, factor) if self.fit(a, b) else fused.product.readable(a, b, factor)

    def linear(self, x, kernel, bias):
        if not self.fit(x, kernel, bias):
            return linear.linear.readable(x, kernel, bias)
        y = self.multiply(x.reshape(-1, x.shape[-1]), kernel)
        y += bias
        return y.reshape(*x.shape[:-1], kernel.shape[-1]), (x, kernel)

    def linear_backward(self, dy, cache):
        x, kernel = cache
        if not self.fit(dy, x, kernel):
            return linear.linear_backward.readable(dy, cache)
        rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        dx, dkernel = self.multiply(drows, kernel.T), self.multiply(rows.T, drows)
        return dx.reshape(x.shape), dkernel, self.sum_rows(drows)

    # ---- LayerNorm

    def layer_norm(self, x, gamma, beta, eps=1e-6):
        if not self.fit(x, gamma, beta):
            return layer_norm.layer_norm.readable(x, gamma, beta, eps)
        x, gamma, beta = self.flat(x, gamma, beta)
        (y, mean, rho), (rows, D) = self._like(x), _rows(x)
        self.by_row("layer_norm", rows, x, gamma, beta, y, mean, rho, rows, D, float(eps))
        return y, Kept((x, mean, rho, gamma))

    def layer_norm_backward(self, dy, cache):
        if not isinstance(cache, Kept):
            return layer_norm.layer_norm_backward.readable(dy, cache)
        return self._layer_norm_backward(None, dy, *cache)

    def bias_residual_layer_norm(self, x, bias, residual, gamma, beta, eps=1e-6):
        if not self.fit(x, bias, residual, gamma, beta):
            return fused.bias_residual_layer_norm.readable(x, bias, residual, gamma, beta, eps)
        x, bias, residual, gamma, beta = self.flat(x, bias, residual, gamma, beta)
        z, (y, mean, rho), (rows, D) = self.xp.empty_like(x), self._like(x), _rows(x)
        arrays = x, bias, residual, gamma, beta, z, y, mean, rho
        self.by_row("bias_residual_layer_norm", rows, *arrays, rows, D, float(eps))
        return (z, y), Kept((z, mean, rho, gamma))

    def bias_residual_layer_norm_backward(self, dz, dy, cache):
        if not isinstance(cache, Kept):
            return fused.bias_residual_layer_norm_backward.readable(dz, dy, cache)
        dx, dgamma, dbeta = self._layer_norm_backward(dz, dy, *cache)
        return dx, self.sum_rows(dx), dx, dgamma, dbeta

    def _like(self, x):
        """Memory for y, mean and rho of rows x."""
        rows, _ = _rows(x)
        return self.xp.empty_like(x), self.xp.empty(rows, x.dtype), self.xp.empty(rows, x.dtype)

    def _layer_norm_backward(self, dz, dy, x, mean, rho, gamma):
        xp, (rows, D) = self.xp, _rows(x)
        dz, dy = None if dz is None else xp.ascontiguousarray(dz), xp.ascontiguousarray(dy)
        dx, strips = xp.empty_like(x), math.ceil(rows / STRIP)
        self.by_row("layer_norm_backward", rows, dy, x, mean, rho, gamma, dz, dx, rows, D)
        sums, grid = xp.empty((2, strips, D), x.dtype), (math.ceil(D / 32), strips)
        arrays = dy, x, mean, rho, sums[0], sums[1]
        self.launch("layer_norm_sums", x.dtype, grid, (32, WARPS), *arrays, rows, D, STRIP, shared=64 * WARPS)
        return dx, *xp.sum(sums, axis=1)

    # ---- softmax and GELU

    def softmax(self, x):
        if not self.fit(x):
            return softmax.softmax.readable(x)
        y = self._softmax(x, None, False, 0.0)
        return y, y

    def softmax_backward(self, dy, cache):
        if not self.fit(dy, cache):
            return softmax.softmax_backward.readable(dy, cache)
        return self._softmax_backward(dy, cache, None, False)

    def masked_softmax(self, x, allowed, how, value):
        B, _, M, N = (0, 0, 0, 0) if x.ndim != 4 else x.shape
        if not self.fit(x) or allowed.shape not in ((B, 1, M, N), (B, 1, 1, N)) or allowed.dtype != bool:
            return fused.masked_softmax.readable(x, allowed, how, value)
        allowed = self.xp.ascontiguousarray(allowed)
        y = self._softmax(x, allowed, how == "fill", float(value))
        return y, Kept((y, allowed, how))

    def masked_softmax_backward(self, dy, cache):
        if not isinstance(cache, Kept):
            return fused.masked_softmax_backward.readable(dy, cache)
        y, allowed, how = cache
        return self._softmax_backward(dy, y, allowed, how == "fill")

    def _softmax(self, x, allowed, fill, value):
        (x,) = self.flat(x)
        y, (rows, N), (Q, HM) = self.xp.empty_like(x), _rows(x), _queries(x, allowed)
        if LONG < N <= HELD * 256:
            block, arrays = (256,), (x, allowed, y)
            self.launch("long_softmax", x.dtype, (rows,), block, *arrays, N, Q, HM, fill, value, shared=8)
        else:
            self.by_row("softmax", rows, x, allowed, y, rows, N, Q, HM, fill, value)
        return y

    def _softmax_backward(self, dy, y, allowed, fill):
        dy, y = self.flat(dy, y)
        dx, (rows, N), (Q, HM) = self.xp.empty_like(y), _rows(y), _queries(y, allowed)
        self.by_row("softmax_backward", rows, dy, y, allowed, dx, rows, N, Q, HM, fill)
        return dx

    def gelu_tanh(self, x):
        return (self._gelu(x, None, False), x) if self.fit(x) else activation.gelu_tanh.readable(x)

    def gelu_tanh_backward(self, dy, x):
        fits = self.fit(dy, x)
        return self._gelu_backward(dy, x, None, False) if fits else activation.gelu_tanh_backward.readable(dy, x)

    def gelu_erf(self, x):
        return (self._gelu(x, None, True), x) if self.fit(x) else activation.gelu_erf.readable(x)

    def gelu_erf_backward(self, dy, x):
        fits = self.fit(dy, x)
        return self._gelu_backward(dy, x, None, True) if fits else activation.gelu_erf_backward.readable(dy, x)

    def bias_gelu(self, x, bias, form):
        if not self.fit(x, bias):
            return fused.bias_gelu.readable(x, bias, form)
        return self._gelu(x, bias, form == "erf"), Kept((x, bias, form))

    def bias_gelu_backward(self, dy, cache):
        if not isinstance(cache, Kept):
            return fused.bias_gelu_backward.readable(dy, cache)
        x, bias, form = cache
        dx = self._gelu_backward(dy, x, bias, form == "erf")
        return dx, self.sum_rows(dx)

    def _gelu(self, x, bias, exact):
        (x,), D = self.flat(x), x.shape[-1]
        y = self.xp.empty_like(x)
        self.launch("gelu", x.dtype, (x.size // D,), (threads(D),), x, bias, y, D, exact)
        return y

    def _gelu_backward(self, dy, x, bias, exact):
        (dy, x), D = self.flat(dy, x), x.shape[-1]
        dx = self.xp.empty_like(x)
        self.launch("gelu_backward", x.dtype, (x.size // D,), (threads(D),), dy, x, bias, dx, D, exact)
        return dx

    # ---- optimisers

    def sgd_step(self, theta, g, m, eta, decay, momentum, nesterov):
        if not self.fit(theta, g, m) or not momentum:
            return optimizers.sgd_step.readable(theta, g, m, eta, decay, momentum, nesterov)
        numbers = float(eta), float(decay), float(momentum), bool(nesterov)
        return self._by_element("sgd_step", (theta, g, m), 2, numbers)

    def adam_step(self, theta, g, m, v, t, eta, decay, beta1, beta2, eps, decoupled):
        if not self.fit(theta, g, m, v):
            return optimizers.adam_step.readable(theta, g, m, v, t, eta, decay, beta1, beta2, eps, decoupled)
        shrink, decay = (1 - eta * decay, 0.0) if decoupled else (1.0, decay)
        numbers = eta / (1 - beta1**t), shrink, decay, 1 - beta1, beta2, 1 - beta2, math.sqrt(1 - beta2**t), eps
        return self._by_element("adam_step", (theta, g, m, v), 3, map(float, numbers))

    def _by_element(self, name, arrays: Sequence[Any], results: int, numbers):
        arrays = self.flat(*arrays)
        n, made = arrays[0].size, [self.xp.empty_like(arrays[0]) for _ in range(results)]
        self.launch(name, arrays[0].dtype, (math.ceil(n / 256),), (256,), *arrays, *made, np.int64(n), *numbers)
        return tuple(made)


def _rows(x) -> tuple[int, int]:
    """How many rows, and how long."""
    return x.size // x.shape[-1], x.shape[-1]


def _queries(x, allowed) -> tuple[int, int]:
    """Q of a mask (B, 1, Q, N), and H·M of logits (B, H, M, N), which say which row of the mask is whose."""
    return (1, 1) if allowed is None else (allowed.shape[2], x.shape[1] * x.shape[2])
