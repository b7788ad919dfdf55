"""The parameters as inference uses them: what does not depend on the image is computed once."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.model.encoder import block_names
from musiq_ref.model.parameters import Params, check_params
from musiq_ref.ops.weight_standardization import standardize


class Linear(NamedTuple):
    """kernel (I, O), bias (O,)"""

    kernel: Any
    bias: Any


class Block(NamedTuple):
    """The products of one encoder block; `qkv` and `fc1` read tokens that are normalised, but not scaled or shifted."""

    qkv: Linear
    out: Linear
    fc1: Linear
    fc2: Linear


class Stem(NamedTuple):
    """Standardised kernels as matrices, and the GroupNorms' scales and shifts.

    root: (147, 64), each column times its `sign`
    sign: (64,), of the root's scale: a maximum may be taken before a scale that is not negative
    root_scale, root_shift: (64,), the scale without its sign
    entry: (64, 64 + 256), the first convolution of the bottleneck and that of its shortcut, which read the same
    conv2, conv3: (576, 64), (64, 256)
    scale1, shift1, scale2, shift2: (64,)
    scale3, scale_proj, shift_sum: (256,), of the two GroupNorms that are added
    """

    root: Any
    sign: Any
    root_scale: Any
    root_shift: Any
    entry: Any
    conv2: Any
    conv3: Any
    scale1: Any
    shift1: Any
    scale2: Any
    shift2: Any
    scale3: Any
    scale_proj: Any
    shift_sum: Any


class Folded(NamedTuple):
    """What `fold` makes of `params`; it holds for as long as nothing is written into those."""

    params: Params
    stem: Stem | None
    blocks: list[Block]


def fold(params: Params, config: MusiqConfig) -> Folded:
    """The parameters for `predict`, which folds them itself where it gets them plain: worth it for more than one image.

    params: NumPy arrays

    Raises ValueError for parameters that are not those of `config`.

    >>> from musiq_ref.model.parameters import init_params
    >>> config = MusiqConfig.preset("tiny")
    >>> fold(init_params(config), config).blocks[0].qkv.kernel.shape
    (48, 144)
    """
    check_params(params, config)
    encoder = params["encoder"]
    blocks = [_block(encoder[name], config.head_width) for name in block_names(encoder)]
    stem = _stem(params["stem"], config.conventions.weight_std_ddof) if config.stem == "resnet" else None
    return Folded(params, stem, blocks)


def _block(p: Params, head_width: int) -> Block:
    parts, D = [p["attention"][name] for name in ("query", "key", "value")], len(p["norm1"]["scale"])
    kernel = np.concatenate([part["kernel"].reshape(D, D) for part in parts], axis=1)  # one product, not three
    bias = np.concatenate([part["bias"].reshape(D) for part in parts])
    kernel[:, :D] *= 1 / math.sqrt(head_width)  # of the queries, not of the N² logits
    bias[:D] *= 1 / math.sqrt(head_width)
    out, fc1, fc2 = p["attention"]["out"], p["mlp"]["fc1"], p["mlp"]["fc2"]
    return Block(
        _after_norm(p["norm1"], kernel, bias),
        Linear(out["kernel"].reshape(D, D), out["bias"]),
        _after_norm(p["norm2"], fc1["kernel"], fc1["bias"]),
        Linear(fc2["kernel"], fc2["bias"]),
    )


def _after_norm(norm: Params, kernel, bias) -> Linear:
    """(γ·x̂ + β)·W + b = x̂·(γ·W) + (β·W + b): the layer's weights take over the LayerNorm's."""
    return Linear(norm["scale"][:, None] * kernel, norm["bias"] @ kernel + bias)


def _stem(p: Params, ddof: int) -> Stem:
    root, conv1, conv2, conv3, proj = (
        standardize(p[name]["kernel"], ddof)[0].reshape(-1, p[name]["kernel"].shape[-1])
        for name in ("conv_root", "conv1", "conv2", "conv3", "conv_proj")
    )
    gn_root, gn1, gn2, gn3, gn_proj = (p[name] for name in ("gn_root", "gn1", "gn2", "gn3", "gn_proj"))
    sign = np.where(gn_root["scale"] < 0, -1, 1).astype(root.dtype)
    return Stem(
        root * sign,
        sign,
        np.abs(gn_root["scale"]),
        gn_root["bias"],
        np.concatenate([conv1, proj], axis=1),
        conv2,
        conv3,
        *(gn1["scale"], gn1["bias"], gn2["scale"], gn2["bias"]),
        *(gn3["scale"], gn_proj["scale"], gn3["bias"] + gn_proj["bias"]),
    )
