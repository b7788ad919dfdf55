"""Our own layout: safetensors whose metadata hold the configuration, so that a file says all about its model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from musiq_ref.checkpoint.infer import to_params
from musiq_ref.checkpoint.layout import CheckpointError, Layout
from musiq_ref.checkpoint.sealed import write_sealed
from musiq_ref.config import OFFICIAL, MusiqConfig
from musiq_ref.model.parameters import Params, flatten

METADATA_KEY = "musiq_ref_config"


def same_name(path: str) -> str:
    """A parameter's name in our files is its path."""
    return path


def same_array(path: str, array: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Our arrays are stored as they are."""
    return array


NATIVE_LAYOUT = Layout("native", OFFICIAL, r"^encoder/block_([0-9]{1,4})/", same_name, dict, same_array, same_array)


def config_to_json(config: MusiqConfig) -> str:
    """The configuration as JSON; an infinite mask value, which JSON lacks, becomes the string "-inf".

    >>> from musiq_ref.config import PAPER
    >>> "\\"mask_value\\": \\"-inf\\"" in config_to_json(MusiqConfig(conventions=PAPER))
    True
    """
    values = config.to_dict()
    mask_value = values["conventions"]["mask_value"]
    values["conventions"]["mask_value"] = mask_value if math.isfinite(mask_value) else str(mask_value)
    return json.dumps(values, allow_nan=False)


def config_from_json(text: str) -> MusiqConfig:
    """The inverse of `config_to_json`; raises CheckpointError for text that is not one of our configurations.

    >>> config_from_json(config_to_json(MusiqConfig(outputs=10))).outputs
    10
    """
    try:
        values = json.loads(text)
        values["conventions"]["mask_value"] = float(values["conventions"]["mask_value"])
        return MusiqConfig.from_dict(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the configuration in its metadata cannot be read ({type(error).__name__}: {str(error)[:200]}); "
            f"upgrade musiq_ref if a newer one wrote it, or pass config="
        ) from None


def save_checkpoint(path: str | Path, params: Params, config: MusiqConfig) -> None:
    """Writes params and their configuration as native safetensors, which `load_checkpoint` reads back bit by bit.

    Equal params and configurations make equal bytes, and a changed bit in the file is noticed when it is loaded.

    The file appears whole or not at all: a failed write leaves an old file as it was. Raises CheckpointError when the
    params are not those of `config`, are not finite, or are not NumPy arrays, and when the file cannot be written.

    >>> import tempfile
    >>> from musiq_ref.checkpoint import load_checkpoint
    >>> from musiq_ref.model.parameters import init_params
    >>> config = MusiqConfig.preset("tiny")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(f"{folder}/tiny.safetensors", init_params(config), config)
    ...     load_checkpoint(f"{folder}/tiny.safetensors").config == config
    True
    """
    try:
        leaves = dict(flatten(params))
        foreign = [name for name, array in leaves.items() if not isinstance(array, np.ndarray)]
        if foreign:
            kind = type(leaves[foreign[0]]).__name__
            raise CheckpointError(f"{foreign[0]} is a {kind}; bring the parameters back to NumPy arrays first")
        tensors = dict(flatten(to_params(leaves, NATIVE_LAYOUT, config, dtype=None)))
        metadata = {"format": "musiq_ref", METADATA_KEY: config_to_json(config)}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: not written, {error}") from None
    write_sealed(path, tensors, metadata)
