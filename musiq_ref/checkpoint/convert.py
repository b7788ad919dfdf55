"""Flat dicts of other programs' tensors from and to our nested parameters; every value stays bit by bit the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from musiq_ref.checkpoint.infer import from_params, stand_in_config, to_params
from musiq_ref.checkpoint.layout import Tensors
from musiq_ref.checkpoint.official import OFFICIAL_LAYOUT
from musiq_ref.checkpoint.pyiqa import PYIQA_LAYOUT, numbered_head
from musiq_ref.model.parameters import Params


def to_official(params: Params) -> Tensors:
    """{official name: array} of our nested params, without the prefix "opt/target/" of the files (SPEC 6).

    GroupNorm vectors (n,) become (1, 1, 1, n), the tables (1, G², D) and (1, S, D), the class token (1, 1, D).
    Raises CheckpointError for an array that MUSIQ does not have.

    >>> from musiq_ref import MusiqConfig, init_params
    >>> to_official(init_params(MusiqConfig.preset("tiny")))["Transformer/posembed_input/pos_embedding"].shape
    (1, 100, 48)
    """
    return from_params(params, OFFICIAL_LAYOUT)


def from_official(mapping: Mapping[str, np.ndarray], dtype: str | None = None) -> Params:
    """Our nested params of {official name: array}, with or without the prefix "opt/target/"; inverse of `to_official`.

    `dtype` None keeps each array's own. Without a spatial table the params are those of a sinusoidal model. Raises
    CheckpointError, listing the names, when arrays are missing, unexpected, misshapen or not floating point.

    >>> from musiq_ref import MusiqConfig, init_params
    >>> params = init_params(MusiqConfig.preset("tiny"))
    >>> from_official(to_official(params))["encoder"]["block_00"]["attention"]["query"]["kernel"].shape
    (48, 4, 12)
    """
    tensors = OFFICIAL_LAYOUT.canonical(dict(mapping))
    config = stand_in_config(tensors, OFFICIAL_LAYOUT)
    return to_params(tensors, OFFICIAL_LAYOUT, config, dtype, finite=False)


def to_pyiqa(params: Params) -> Tensors:
    """{pyiqa name: array} of our nested params (SPEC 6): what `torch.load` gives for its files, as NumPy arrays.

    Linear weights are (out, in), attention's (D, D), convolutions' (out, in, rows, columns). Raises CheckpointError
    for an array that MUSIQ does not have.

    >>> from musiq_ref import MusiqConfig, init_params
    >>> tensors = to_pyiqa(init_params(MusiqConfig.preset("tiny", outputs=10)))
    >>> tensors["conv_root.weight"].shape, tensors["head.0.weight"].shape
    ((64, 3, 7, 7), (10, 48))
    """
    return numbered_head(from_params(params, PYIQA_LAYOUT))


def from_pyiqa(mapping: Mapping[str, np.ndarray], heads: int | None = None, dtype: str | None = None) -> Params:
    """Our nested params of {pyiqa name: array}; the inverse of `to_pyiqa`.

    These arrays do not tell the number of attention heads: without `heads` it is that of the preset of the same
    layers, width and MLP width, and there must be one. Otherwise as `from_official`.

    >>> from musiq_ref import MusiqConfig, init_params
    >>> params = init_params(MusiqConfig.preset("tiny"))
    >>> from_pyiqa(to_pyiqa(params), heads=8)["encoder"]["block_00"]["attention"]["query"]["kernel"].shape
    (48, 8, 6)
    """
    tensors = PYIQA_LAYOUT.canonical(dict(mapping))
    config = stand_in_config(tensors, PYIQA_LAYOUT, heads)
    return to_params(tensors, PYIQA_LAYOUT, config, dtype, finite=False)
