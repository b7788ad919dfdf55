"""The same parts of the model, arranged for less memory and time; `model.musiq.forward` chooses among them.

In pieces: the stem takes some patches at a time, for which its arrays stay in a core's cache.
Recomputed: of a part, what goes in is kept, not what happens inside, which is computed again going back. It costs one
more forward; `forward(…, recompute=True)` treats the stem and every block so.
"""

from __future__ import annotations

import copy
from functools import partial, reduce
from typing import Any

from musiq_ref.backend import namespace, on_host
from musiq_ref.config import Conventions
from musiq_ref.model.encoder import block, block_backward
from musiq_ref.model.noise import NO_NOISE, Noise
from musiq_ref.model.parameters import Params, add_params
from musiq_ref.model.stem import STEMS, stem, stem_backward
from musiq_ref.model.taps import Tap, no_tap
from musiq_ref.team import each, keep_memory

PATCHES = 32  # patches that the stem takes at a time


def _pieces(patches) -> list[slice]:
    return [slice(i, i + PATCHES) for i in range(0, max(len(patches), 1), PATCHES)]


def stem_in_pieces(patches, params: Params, conventions: Conventions, tap: Tap = no_tap, keep: bool = True):
    """`stem`, some patches at a time.  (N, P, P, 3) -> (N, P/4, P/4, 256)

    keep: False keeps nothing but the patches
    """

    def run(rows):
        y, cache = stem(patches[rows], params, conventions)
        return y, cache if keep else None

    ys, caches = zip(*_each(run, _pieces(patches), patches), strict=True)
    return namespace(patches).concatenate(ys), (patches, params, conventions, caches)


def stem_in_pieces_backward(dy, cache, tap: Tap = no_tap, want_patches: bool = True):
    """Each piece backward; its forward again if nothing was kept. Returns (dpatches, dparams).

    A tap sees all patches at once, as it does in `stem_backward`.
    """
    patches, params, conventions, caches = cache
    if tap is not no_tap:
        return stem_backward(dy, stem(patches, params, conventions)[1], tap, want_patches)

    def run(piece):
        rows, kept = piece
        kept = kept or stem(patches[rows], params, conventions)[1]
        return stem_backward(dy[rows], kept, want_patches=want_patches)

    dpieces, dparams = zip(*_each(run, list(zip(_pieces(patches), caches, strict=True)), patches), strict=True)
    return namespace(dy).concatenate(dpieces) if want_patches else None, reduce(add_params, dparams)


def _each(run, pieces, array) -> list[Any]:
    """run(piece) of every piece, on the host by a team of threads."""
    if not on_host(array):
        return list(map(run, pieces))
    keep_memory()
    return each(run, pieces)


IN_PIECES = {**STEMS, "resnet": (stem_in_pieces, stem_in_pieces_backward)}
RECOMPUTED = {**STEMS, "resnet": (partial(stem_in_pieces, keep=False), stem_in_pieces_backward)}
"""{MusiqConfig.stem: the pair}; the linear stem keeps nothing anyway."""


def block_recomputed(
    z, allowed, params: Params, conventions: Conventions, tap: Tap = no_tap, noise: Noise = NO_NOISE, rate=0.0, msa=None
):
    """`block`, keeping nothing but its input (and where the generator of the noise stood)."""
    before = copy.deepcopy(noise)
    y, _ = block(z, allowed, params, conventions, tap, noise, rate, msa)
    return y, (z, allowed, params, conventions, before, rate, msa)


def block_recomputed_backward(dz, cache, tap: Tap = no_tap):
    """The block forward again, with the same noise, then backward. Returns (dz, dparams)."""
    z, allowed, params, conventions, noise, rate, msa = cache
    _, block_cache = block(z, allowed, params, conventions, noise=copy.deepcopy(noise), rate=rate, msa=msa)
    return block_backward(dz, block_cache, tap)
