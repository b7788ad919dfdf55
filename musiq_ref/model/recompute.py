"""Training in little memory: keep what goes into a part, not what happens inside, and compute it again going back.

A part's pair (forward, backward) becomes another pair of the same meaning whose cache is only its input. It costs one
more forward. `model.musiq.forward(…, recompute=True)` treats the stem (in chunks of patches) and every block so.
"""

from __future__ import annotations

import copy
from typing import Any

from musiq_ref.backend import namespace
from musiq_ref.config import Conventions
from musiq_ref.model.encoder import block, block_backward
from musiq_ref.model.noise import NO_NOISE, Noise
from musiq_ref.model.parameters import Params, add_params
from musiq_ref.model.stem import STEMS, stem, stem_backward
from musiq_ref.model.taps import Tap, no_tap

PATCHES = 64  # patches that the stem takes at a time


def stem_recomputed(patches, params: Params, conventions: Conventions, tap: Tap = no_tap):
    """`stem` in chunks of patches, keeping nothing but the patches.  (N, P, P, 3) -> (N, P/4, P/4, 256)"""
    chunks = [stem(patches[i : i + PATCHES], params, conventions)[0] for i in range(0, len(patches), PATCHES)]
    return namespace(patches).concatenate(chunks), (patches, params, conventions)


def stem_recomputed_backward(dy, cache, tap: Tap = no_tap, want_patches: bool = True):
    """Each chunk forward again, then backward. Returns (dpatches, dparams)."""
    patches, params, conventions = cache
    dchunks: list[Any] = []
    total: Params | None = None
    for i in range(0, len(patches), PATCHES):
        _, chunk_cache = stem(patches[i : i + PATCHES], params, conventions)
        dpatches, dparams = stem_backward(dy[i : i + PATCHES], chunk_cache, want_patches=want_patches)
        dchunks.append(dpatches)
        total = dparams if total is None else add_params(total, dparams)
    return (namespace(dy).concatenate(dchunks) if want_patches else None), total


RECOMPUTED_STEMS = {**STEMS, "resnet": (stem_recomputed, stem_recomputed_backward)}
"""{MusiqConfig.stem: the pair}; the linear stem keeps nothing anyway."""


def block_recomputed(
    z, allowed, params: Params, conventions: Conventions, tap: Tap = no_tap, noise: Noise = NO_NOISE, rate=0.0
):
    """`block`, keeping nothing but its input (and where the generator of the noise stood)."""
    before = copy.deepcopy(noise)
    y, _ = block(z, allowed, params, conventions, tap, noise, rate)
    return y, (z, allowed, params, conventions, before, rate)


def block_recomputed_backward(dz, cache, tap: Tap = no_tap):
    """The block forward again, with the same noise, then backward. Returns (dz, dparams)."""
    z, allowed, params, conventions, noise, rate = cache
    _, block_cache = block(z, allowed, params, conventions, noise=copy.deepcopy(noise), rate=rate)
    return block_backward(dz, block_cache, tap)
