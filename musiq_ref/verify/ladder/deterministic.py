"""Tensors and images that any language can recompute from a seed and a name, so fixtures need no files (SPEC 9)."""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.model.parameters import Params, fan_in, nest, parameter_shapes

LINFORMER = ("/attention/E", "/attention/F")
"""How the paths of parameters end that the authors' model does not have."""


def bits(seed: int, name: str, count: int) -> np.ndarray:
    """The first `count` 24-bit integers of the stream (seed, name): SplitMix64 started at FNV-1a(name) XOR seed.

    >>> bits(7, "head/kernel", 4).tolist()
    [2802292, 16486782, 9837141, 14608650]
    """
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # wraps modulo 2^64
    z = steps + np.uint64(state ^ seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.int64)


def unit(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The stream as float32 in [−1, 1), exactly, row-major.

    >>> unit(7, "example", (2, 3)).dtype
    dtype('float32')
    """
    return ((bits(seed, name, math.prod(shape)) - 2**23) / 2**23).astype(np.float32).reshape(shape)


def deterministic_params(config: MusiqConfig, seed: int, dtype: str = "float32") -> Params:
    """Parameters of a model, each drawn from the stream named by its official name (SPEC 6 and 9), or by its path.

    >>> deterministic_params(MusiqConfig.preset("tiny"), seed=7)["class_token"][:3]
    array([ 0.01405501,  0.00612855, -0.35086352], dtype=float32)
    """
    from musiq_ref.checkpoint.official import official_name

    leaves = {}
    for path, shape in parameter_shapes(config).items():
        name = path if path.endswith(LINFORMER) else official_name(path)
        values, kind = unit(seed, name, shape), name.rpartition("/")[2]
        if kind == "kernel":
            values = values * np.float32(math.sqrt(3 / fan_in(path, shape)))
        elif path.endswith(LINFORMER):
            values = values * np.float32(math.sqrt(3 / shape[0]))
        elif kind == "bias":
            values = values * np.float32(0.125)
        elif kind == "scale":
            values = np.float32(1) + values * np.float32(0.25)
        else:
            values = values * np.float32(0.5)
        leaves[path] = values.astype(dtype)
    return nest(leaves)


def deterministic_image(seed: int, height: int, width: int) -> np.ndarray:
    """An image with gradients, texture and noise: uint8 (height, width, 3), from integers alone.

    >>> deterministic_image(3, 64, 96).shape
    (64, 96, 3)
    """
    y, x = np.mgrid[:height, :width]
    channels = []
    for c in range(3):
        noise = bits(seed, f"image/{c}", height * width).reshape(height, width) >> 18
        channels.append(_triangle((c + 2) * x + (5 - c) * y, 128) + _triangle((x * y) // (7 + c), 64) + noise)
    return np.stack(channels, axis=-1).astype(np.uint8)


def _triangle(t: np.ndarray, p: int) -> np.ndarray:
    """The triangle wave of period 2p that rises from 0 to p and falls back."""
    return p - np.abs(t % (2 * p) - p)
