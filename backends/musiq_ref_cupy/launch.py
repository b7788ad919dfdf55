"""How the kernels in kernels.cu are compiled and started, for arrays of one type."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

SOURCE = files("musiq_ref_cupy").joinpath("kernels.cu").read_text(encoding="utf-8")
NAMES = (
    *("layer_norm", "layer_norm_backward", "layer_norm_sums", "bias_residual_layer_norm", "softmax"),
    *("softmax_backward", "gelu", "gelu_backward", "group_norm", "group_norm_backward"),
    *("im2col", "col2im", "max_pool", "max_pool_backward", "sgd_step"),
    *("adam_step", "attention"),
)
C_NAMES = {"float32": "float", "float64": "double"}
WARPS = 8  # rows that a block takes, of kernels that give each a warp
NULL = np.uint64(0)


def name_expressions(dtype: np.dtype) -> list[str]:
    """What to ask a compiler for: every kernel of one dtype.

    >>> name_expressions(np.dtype("float32"))[0]
    'layer_norm<float>'
    """
    T = C_NAMES[dtype.name]
    return [f"{name}<{T}>" for name in NAMES] + [f"attention_backward<{T}, {key}>" for key in ("false", "true")]


class Kept(tuple):
    """What a kernel keeps for its backward, which so tells it from the readable op's cache."""


class Launcher:
    """Starts kernels for one array type.

    xp: its namespace
    compile: from a list of name expressions to a module as cupy.RawModule is: `get_function(name)(grid, block,
        arguments, shared_mem=bytes)`
    product: of two arrays, over their last two axes
    """

    def __init__(
        self,
        array_type: type,
        xp: Any,
        compile: Callable[[list[str]], Any],
        product: Callable[[Any, Any], Any] = operator.matmul,
    ) -> None:
        self.array_type, self.xp, self.multiply = array_type, xp, product
        module = cache(lambda dtype: compile(name_expressions(dtype)))  # when a dtype is first used
        self.function = cache(lambda name, dtype: module(dtype).get_function(name % C_NAMES[dtype.name]))

    def launch(self, name: str, dtype: np.dtype, grid: tuple, block: tuple, *arguments: Any, shared: int = 0) -> None:
        """Starts a kernel, which runs by itself from here on.

        name: with the type left open: "layer_norm<%s>"
        arguments: arrays, None, integers (int in C), floats (T in C), NumPy scalars as they are
        shared: numbers of type T in shared memory
        """
        convert = {int: np.int32, bool: np.int32, float: dtype.type, type(None): lambda _: NULL}
        values = tuple(convert.get(type(a), lambda a: a)(a) for a in arguments)
        self.function(name, dtype)(grid, block, values, shared_mem=shared * dtype.itemsize)

    def by_row(self, name: str, rows: int, x: Any, *arguments: Any) -> None:
        """Starts a kernel that gives a warp to every row of x."""
        self.launch(name, x.dtype, (math.ceil(rows / WARPS),), (32, WARPS), x, *arguments)

    def fit(self, *arrays: Any) -> bool:
        """Whether kernels can take these: all of one dtype, float32 or float64, and not empty."""
        first = arrays[0].dtype
        return first.name in ("float32", "float64") and all(a.dtype == first and a.size for a in arrays)

    def flat(self, *arrays: Any) -> list[Any]:
        """The arrays in C order; only those that are not are copied."""
        return [self.xp.ascontiguousarray(a) for a in arrays]


def threads(channels: int) -> int:
    """Of a block that shares out so many channels: whole warps, at most 256."""
    return min(256, 32 * math.ceil(channels / 32))
