"""The authors' layout: Flax names, in .npz files without pickles (SPEC 6)."""

from __future__ import annotations

import numpy as np

from musiq_ref.checkpoint.layout import Layout, Tensors
from musiq_ref.config import OFFICIAL

PREFIX = "opt/target/"
"""Stands before every parameter in the released files; other names there are the optimiser's."""

MODULES = {
    "stem/conv_root": "conv_root",
    "stem/gn_root": "gn_root",
    "stem/conv_proj": "block1/unit1/conv_proj",
    "stem/gn_proj": "block1/unit1/gn_proj",
    "stem/conv1": "block1/unit1/conv1",
    "stem/gn1": "block1/unit1/gn1",
    "stem/conv2": "block1/unit1/conv2",
    "stem/gn2": "block1/unit1/gn2",
    "stem/conv3": "block1/unit1/conv3",
    "stem/gn3": "block1/unit1/gn3",
    "patch_embedding": "embedding",
    "encoder/norm": "Transformer/encoder_norm",
    "head": "head",
}
"""{our module: theirs}, outside the encoder blocks. The last part of a name (kernel, bias, scale) is the same."""

BLOCK = "Transformer/encoderblock_{i}/"

BLOCK_MODULES = {
    "norm1": "LayerNorm_0",
    "attention/query": "MultiHeadDotProductAttention_1/query",
    "attention/key": "MultiHeadDotProductAttention_1/key",
    "attention/value": "MultiHeadDotProductAttention_1/value",
    "attention/out": "MultiHeadDotProductAttention_1/out",
    "norm2": "LayerNorm_2",
    "mlp/fc1": "MlpBlock_3/Dense_0",
    "mlp/fc2": "MlpBlock_3/Dense_1",
}

SINGLE = {
    "spatial_embedding/table": "Transformer/posembed_input/pos_embedding",
    "scale_embedding/table": "Transformer/scaleembed_input/scale_embedding",
    "class_token": "Transformer/cls",
}
"""{our parameter: theirs}, where the last part differs, too."""


def official_name(path: str) -> str:
    """The official name of one of our parameters (SPEC 6), without the prefix.

    >>> official_name("encoder/block_13/attention/query/bias")
    'Transformer/encoderblock_13/MultiHeadDotProductAttention_1/query/bias'
    """
    if path in SINGLE:
        return SINGLE[path]
    module, _, leaf = path.rpartition("/")
    if module in MODULES:
        return f"{MODULES[module]}/{leaf}"
    number, module = module.removeprefix("encoder/block_").split("/", 1)
    return f"{BLOCK.format(i=int(number))}{BLOCK_MODULES[module]}/{leaf}"


def without_prefix(tensors: Tensors) -> Tensors:
    """The parameters alone: names without the prefix, the optimiser's own state left out.

    >>> without_prefix({"opt/target/head/bias": 1, "opt/state/step": 2})
    {'head/bias': 1}
    """
    if any(name.startswith(PREFIX) for name in tensors):
        return {name.removeprefix(PREFIX): a for name, a in tensors.items() if name.startswith(PREFIX)}
    return {name: a for name, a in tensors.items() if not name.startswith("opt/")}


def to_file(path: str, array: np.ndarray) -> np.ndarray:
    """Our array in the official shape: leading axes of length 1 on the GroupNorms, the tables and the class token.

    (n,) -> (1, 1, 1, n) for a GroupNorm, (G², D) -> (1, G², D), (D,) -> (1, 1, D); all others as they are.
    """
    if path.startswith("stem/gn"):
        return array[None, None, None]
    if path.endswith("/table"):
        return array[None]
    return array[None, None] if path == "class_token" else array


def to_native(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_file`; `shape` is ours."""
    return array.reshape(shape)


OFFICIAL_LAYOUT = Layout(
    "official", OFFICIAL, r"^Transformer/encoderblock_([0-9]{1,4})/", official_name, without_prefix, to_file, to_native
)
