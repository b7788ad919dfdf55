"""Whether tokens fit a model, in one sentence if not."""

from __future__ import annotations

import numpy as np

from musiq_ref.backend import namespace, on_host
from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens
from musiq_ref.model.parameters import Params, check_params


def check_tokens(params: Params, tokens: Tokens, config: MusiqConfig, axes: int) -> np.dtype:
    """Checks that tokens of one image (axes 1) or of a batch (axes 2) fit the model; returns the parameters' dtype.

    Raises ValueError in one sentence. The values of indices are checked only in host memory (looking at them elsewhere
    would wait for the device).
    """
    dtype = check_params(params, config)
    check_fit(tokens, config, axes)
    return dtype


def check_fit(tokens: Tokens, config: MusiqConfig, axes: int) -> None:
    """What `check_tokens` checks of the tokens."""
    P = config.patch_size
    shape = tokens.mask.shape
    if len(shape) != axes:
        hint = "pass musiq_ref.batch([tokens, …])" if axes == 2 else "pass the tokens of one image"
        raise ValueError(f"tokens.mask has shape {shape}, but {axes} axes are needed; {hint}")
    wanted = {"patches": (*shape, P, P, 3), "hash_index": shape, "scale_index": shape}
    for name, expected in wanted.items():
        if getattr(tokens, name).shape != expected:
            raise ValueError(f"tokens.{name} has shape {getattr(tokens, name).shape}; the model needs {expected}")
    if config.attention == "linformer" and 1 + shape[-1] > config.attention_length:
        raise ValueError(
            f"{1 + shape[-1]:,} tokens with the class token, but this model's Linformer takes "
            f"{config.attention_length:,} (attention_length); reduce the image, or set max_native_patches"
        )
    if (
        tokens.patches.dtype.kind != "f"
        or tokens.hash_index.dtype.kind not in "iu"
        or tokens.scale_index.dtype.kind not in "iu"
    ):
        raise ValueError("tokens.patches must be floating and the two indices integers, as tokenize makes them")
    if on_host(tokens.patches) and not _all_finite(tokens.patches):
        raise ValueError("tokens.patches has values that are not finite; check the image")
    for name, limit in (("hash_index", config.grid_size**2), ("scale_index", config.scales)):
        index = getattr(tokens, name)
        if on_host(index) and index.size and not (index.min() >= 0 and index.max() < limit):
            raise ValueError(
                f"tokens.{name} runs from {index.min()} to {index.max()}; this model has rows 0 to {limit - 1}"
            )


def _all_finite(x: np.ndarray) -> bool:
    """Whether all values are finite: a product of x with itself, which is quick to make, is finite only if x is."""
    xp = namespace(x)
    return bool(xp.isfinite(xp.vdot(x, x)) or xp.isfinite(x).all())
