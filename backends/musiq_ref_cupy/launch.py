"""How the kernels in kernels.cu are compiled and started, for arrays of one type."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from musiq_ref.ops.fused import product

SOURCE = files("musiq_ref_cupy").joinpath("kernels.cu").read_text(encoding="utf-8")
OPTIONS = ("--std=c++17", "--restrict")  # of NVRTC; no kernel is given one array both to read and to write
NAMES = (
    *("layer_norm", "layer_norm_backward", "layer_norm_sums", "bias_residual_layer_norm", "softmax"),
    *("softmax_backward", "gelu", "gelu_backward", "group_norm", "group_norm_backward"),
    *("im2col", "col2im", "max_pool", "max_pool_backward", "sgd_step", "adam_step", "column_sums"),
    "long_softmax",
)
C_NAMES = {"f": "float", "d": "double"}  # by NumPy's letters
WARPS = 8  # rows that a block takes, of kernels that give each a warp
STRIP = 256  # rows that one block adds up
MANY = 2048  # rows above which it pays to do so
C_TYPES = {int: np.int32, bool: np.int32, type(None): lambda _: np.uint64(0)}


def name_expressions(dtype: np.dtype) -> list[str]:
    """What to ask a compiler for: every kernel of one dtype.

    >>> name_expressions(np.dtype("float32"))[0]
    'layer_norm<float>'
    """
    return [f"{name}<{C_NAMES[dtype.char]}>" for name in NAMES]


class Kept(tuple):
    """What a kernel keeps for its backward, which so tells it from the readable op's cache."""


class Launcher:
    """Starts kernels for one array type.

    xp: its namespace
    compile: from a list of name expressions to a module as cupy.RawModule is: `get_function(name)(grid, block,
        arguments, shared_mem=bytes)`
    product: of two arrays, over their last two axes, and a number
    """

    def __init__(
        self,
        array_type: type,
        xp: Any,
        compile: Callable[[list[str]], Any],
        product: Callable[..., Any] = product.readable,
    ) -> None:
        self.array_type, self.xp, self.multiply = array_type, xp, product
        module = cache(lambda dtype: compile(name_expressions(dtype)))  # when a dtype is first used
        self.function = cache(lambda name, dtype: module(dtype).get_function(f"{name}<{C_NAMES[dtype.char]}>"))

    def launch(self, name: str, dtype: np.dtype, grid: tuple, block: tuple, *arguments: Any, shared: int = 0) -> None:
        """Starts a kernel, which runs by itself from here on.

        name: without the type
        arguments: arrays, None, integers (int in C), floats (T in C), NumPy scalars as they are
        shared: numbers of type T in shared memory
        """
        types = {**C_TYPES, float: dtype.type}
        values = tuple([types[type(a)](a) if type(a) in types else a for a in arguments])
        self.function(name, dtype)(grid, block, values, shared_mem=shared * dtype.itemsize)

    def by_row(self, name: str, rows: int, x: Any, *arguments: Any) -> None:
        """Starts a kernel that gives a warp to every row of x."""
        self.launch(name, x.dtype, (math.ceil(rows / WARPS),), (32, WARPS), x, *arguments)

    def fit(self, *arrays: Any) -> bool:
        """Whether kernels can take these: all of one dtype, float32 or float64, and not empty."""
        first = arrays[0].dtype
        return first.char in C_NAMES and all([a.dtype == first and a.size for a in arrays])

    def flat(self, *arrays: Any) -> list[Any]:
        """The arrays in C order; only those that are not are copied."""
        return [a if a.flags.c_contiguous else self.xp.ascontiguousarray(a) for a in arrays]

    def sum_rows(self, x):
        """Σ x over all axes but the last: (…, D) -> (D,)."""
        x = x.reshape(-1, x.shape[-1])
        rows, D = x.shape
        if rows > MANY and self.fit(x):
            (x,), sums = self.flat(x), self.xp.empty((math.ceil(rows / STRIP), D), x.dtype)
            grid = math.ceil(D / 32), len(sums)
            self.launch("column_sums", x.dtype, grid, (32, WARPS), x, sums, rows, D, STRIP, shared=32 * WARPS)
            x = sums
        return self.xp.sum(x, axis=0)


def threads(channels: int) -> int:
    """Of a block that shares out so many channels: whole warps, at most 256."""
    return min(256, 32 * math.ceil(channels / 32))
