"""Exact counts of parameters and multiply–accumulates, by part (appendix table 1 and section G)."""

from __future__ import annotations

import math
from typing import NamedTuple

from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import scales_of
from musiq_ref.model.parameters import parameter_shapes


class Complexity(NamedTuple):
    """Counts for one configuration and image size.

    parameters, macs: totals
    parameters_by_part, macs_by_part: the same, itemised
    tokens: without the class token

    >>> complexity(MusiqConfig(), (224, 224)).macs_by_part["head"]
    384
    """

    parameters: int
    macs: int
    parameters_by_part: dict[str, int]
    macs_by_part: dict[str, int]
    tokens: int


def complexity(config: MusiqConfig, size: tuple[int, int], padded: bool = True) -> Complexity:
    """Parameters, and multiply–accumulates of all convolutions, matrix products and attention for one image.

    size: (height, width)
    padded: whether padding tokens are computed, too, as in a batch; `score` leaves them out

    The paper's "FLOPS" of section G are multiply–accumulates: 8.86e9 printed, 8.899e9 exactly.

    >>> complexity(MusiqConfig(), (224, 224)).macs
    8898624384
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"the image size is {size}; it must be (height, width) of at least 1 pixel each")
    shapes = parameter_shapes(config)
    parameters: dict[str, int] = {}
    for path, shape in shapes.items():
        part = _part(path)
        parameters[part] = parameters.get(part, 0) + math.prod(shape)

    scales = scales_of(*size, config)
    tokens = sum(scale.length if padded else scale.kept for scale in scales)
    convolutions = [path for path in shapes if path.startswith("stem/") and path.endswith("/kernel")]
    positions = {path: config.stem_side**2 * (4 if path == "stem/conv_root/kernel" else 1) for path in convolutions}
    macs = {path.removesuffix("/kernel"): tokens * n * math.prod(shapes[path]) for path, n in positions.items()}
    macs["patch_embedding"] = tokens * math.prod(shapes["patch_embedding/kernel"])
    N, D, L = tokens + 1, config.width, config.layers  # with the class token
    macs["encoder/attention/projections"] = L * N * 4 * D * D  # Eq. 6 and 9
    m = config.attention_rank
    if config.attention == "softmax":
        macs["encoder/attention/products"] = L * 2 * N * N * D  # Eq. 7 and 8
    elif config.attention == "linformer":
        macs["encoder/attention/compression"] = L * 2 * m * N * D  # E·K and F·V
        macs["encoder/attention/products"] = L * 2 * N * m * D
    else:
        macs["encoder/attention/features"] = L * 2 * N * m * D  # of queries and keys
        macs["encoder/attention/products"] = L * N * m * (2 * D + config.heads)  # φ(K)ᵀ·V, φ(Q)·(…), the normaliser
    macs["encoder/mlp"] = L * N * 2 * D * config.mlp_width
    macs["head"] = D * config.outputs
    return Complexity(sum(parameters.values()), sum(macs.values()), parameters, macs, tokens)


def _part(path: str) -> str:
    """The row of the table in which a parameter is counted: "stem", "encoder/attention", "encoder/norms", …"""
    first, *rest = path.split("/")
    if first != "encoder":
        return first
    return next((f"encoder/{part}" for part in ("attention", "mlp") if part in rest), "encoder/norms")
