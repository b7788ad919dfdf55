"""The layout of the PyTorch port pyiqa, in .pth or .safetensors files (SPEC 6)."""

from __future__ import annotations

import numpy as np

from musiq_ref.checkpoint.layout import Layout, Tensors
from musiq_ref.config import PYIQA
from musiq_ref.model.parameters import fan_in

MODULES = {
    "stem/conv_root": "conv_root",
    "stem/gn_root": "gn_root",
    "stem/conv_proj": "block1.conv_proj",
    "stem/gn_proj": "block1.gn_proj",
    "stem/conv1": "block1.conv1",
    "stem/gn1": "block1.gn1",
    "stem/conv2": "block1.conv2",
    "stem/gn2": "block1.gn2",
    "stem/conv3": "block1.conv3",
    "stem/gn3": "block1.gn3",
    "patch_embedding": "embedding",
    "encoder/norm": "transformer_encoder.encoder_norm",
    "head": "head",
}
"""{our module: theirs}, outside the encoder blocks. Our kernels and scales are both called weight there."""

BLOCK = "transformer_encoder.transformer.encoderblock_{i}."

BLOCK_MODULES = {
    "norm1": "norm1",
    "attention/query": "attention.query",
    "attention/key": "attention.key",
    "attention/value": "attention.value",
    "attention/out": "attention.out",
    "norm2": "norm2",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}

SINGLE = {
    "spatial_embedding/table": "transformer_encoder.posembed_input.position_emb",
    "scale_embedding/table": "transformer_encoder.scaleembed_input.scale_emb",
    "class_token": "transformer_encoder.cls",
}

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def pyiqa_name(path: str) -> str:
    """pyiqa's name of one of our parameters (SPEC 6); the head is "head." even where a file has "head.0.".

    >>> pyiqa_name("encoder/block_13/attention/query/kernel")
    'transformer_encoder.transformer.encoderblock_13.attention.query.weight'
    """
    if path in SINGLE:
        return SINGLE[path]
    module, _, leaf = path.rpartition("/")
    if module in MODULES:
        return f"{MODULES[module]}.{LEAVES[leaf]}"
    number, module = module.removeprefix("encoder/block_").split("/", 1)
    return f"{BLOCK.format(i=int(number))}{BLOCK_MODULES[module]}.{LEAVES[leaf]}"


def plain_head(tensors: Tensors) -> Tensors:
    """Names with "head." instead of "head.0.", which a file has when a softmax follows the head.

    >>> plain_head({"head.0.bias": 1})
    {'head.bias': 1}
    """
    if "head.weight" in tensors or "head.bias" in tensors:
        return tensors
    return {name.replace("head.0.", "head.") if name.startswith("head.0.") else name: a for name, a in tensors.items()}


def numbered_head(tensors: Tensors) -> Tensors:
    """The inverse of `plain_head`: what pyiqa expects of a model with more than one output.

    >>> import numpy as np
    >>> list(numbered_head({"head.bias": np.zeros(10)}))
    ['head.0.bias']
    """
    if tensors["head.bias"].size == 1:
        return tensors
    return {f"head.0.{name[5:]}" if name.startswith("head.") else name: a for name, a in tensors.items()}


def to_file(path: str, array: np.ndarray) -> np.ndarray:
    """Our array as PyTorch keeps it.

    Convolutions (rows, columns, in, out) -> (out, in, rows, columns); linear (in, out) -> (out, in), where the heads'
    axes (H, D_h) are one axis D; spatial table (G², D) -> (1, G², D); class token (D,) -> (1, 1, D).
    """
    if path.startswith("stem/conv"):
        return array.transpose(3, 2, 0, 1)
    if path.endswith("/kernel"):
        return array.reshape(fan_in(path, array.shape), -1).T
    if path == "spatial_embedding/table":
        return array[None]
    if path == "class_token":
        return array[None, None]
    return array if path == "scale_embedding/table" else array.reshape(-1)


def to_native(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_file`; `shape` is ours."""
    if path.startswith("stem/conv"):
        return array.transpose(2, 3, 1, 0)
    return (array.T if path.endswith("/kernel") else array).reshape(shape)


PYIQA_LAYOUT = Layout(
    "pyiqa",
    PYIQA,
    r"^transformer_encoder\.transformer\.encoderblock_([0-9]{1,4})\.",
    pyiqa_name,
    plain_head,
    to_file,
    to_native,
)
