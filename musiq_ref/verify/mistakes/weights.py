"""Weights that are read wrongly: functions (parameters, config) -> parameters, for `Mistake.load`."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import Params, flatten, nest

Load = Callable[[Params, MusiqConfig], Params]
PARTS = ("query", "key", "value")


def part(params: Params, path: str) -> Any:
    """The array or the dict of a path.

    >>> part({"a": {"b": 1}}, "a/b")
    1
    """
    for key in path.split("/"):
        params = params[key]
    return params


def replaced(params: Params, path: str, value: Any) -> Params:
    """The parameters with another array or dict at a path.

    >>> replaced({"a": {"b": 1, "c": 2}}, "a/b", 3)
    {'a': {'b': 3, 'c': 2}}
    """
    first, _, rest = path.partition("/")
    return {**params, first: replaced(params[first], rest, value) if rest else value}


def changed(path: str, change: Callable[[Any, Callable[[str], Any]], Any]) -> Load:
    """change(what is at a path, look up another path) in its place."""
    return lambda params, config: replaced(params, path, change(part(params, path), lambda p: part(params, p)))


def exchanged(one: str, other: str) -> Load:
    """Two parts in each other's place."""
    return lambda params, config: replaced(
        replaced(params, one, part(params, other)), other, part(params, one)
    )  # fmt: skip


def everywhere(pattern: str, change: Callable[[np.ndarray], np.ndarray]) -> Load:
    """change(array) of all arrays whose path matches.

    >>> everywhere("*/b", lambda a: 0 * a)({"x": {"a": np.ones(1), "b": np.ones(1)}}, None)
    {'x': {'a': array([1.]), 'b': array([0.])}}
    """
    return lambda params, config: nest({p: change(a) if fnmatch(p, pattern) else a for p, a in flatten(params)})


def without(pattern: str) -> Load:
    """All arrays whose path matches are 0."""
    return everywhere(pattern, np.zeros_like)


def blocks(order: Callable[[list[str]], list[str]]) -> Load:
    """The encoder with the parameters of its blocks in another order."""

    def load(params: Params, config: MusiqConfig) -> Params:
        own = params["encoder"]
        names = [f"block_{k:02d}" for k in range(config.layers)]
        return {**params, "encoder": {**own, **dict(zip(names, [own[n] for n in order(names)], strict=True))}}

    return load


def turned(kernel):
    """A (D, H, D_h) kernel loaded as its transpose."""
    return kernel.reshape(len(kernel), -1).T.reshape(kernel.shape)


def in_blocks(*parts):
    """Parts of every block, (first, second), in each other's place, or the second's for both."""

    def load(params, config):
        for k in range(config.layers):
            params = exchanged(*(f"encoder/block_{k:02d}/{p}" for p in parts))(params, config)
        return params

    return load


def misread(attention, order):
    """Query, key and value as one kernel (D, 3, H, D_h), read as if its last three axes were in another order."""

    def one(part):
        arrays = np.stack([attention[n][part] for n in PARTS], -3)
        shape = [arrays.shape[k - 3] for k in order]
        read = arrays.reshape(*arrays.shape[:-3], *shape)
        lead = range(arrays.ndim - 3)
        return read.transpose(*lead, *(len(lead) + order.index(k) for k in range(3)))

    read = {part: one(part) for part in ("kernel", "bias")}
    return {**attention, **{n: {part: a[..., i, :, :] for part, a in read.items()} for i, n in enumerate(PARTS)}}


def fused(order):
    """`misread` in every block."""

    def load(params, config):
        blocks = {f"block_{k:02d}": params["encoder"][f"block_{k:02d}"] for k in range(config.layers)}
        read = {name: {**block, "attention": misread(block["attention"], order)} for name, block in blocks.items()}
        return {**params, "encoder": {**params["encoder"], **read}}

    return load
