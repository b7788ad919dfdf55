"""Pictures without a camera: sharp, noiseless scenes drawn from a seed, to be spoilt on purpose.

Seven families, each a subject of its own: overlapping shapes, hills under a sky, a printed page, house fronts in
perspective, woven cloth, lit balls on a table, a meadow. Edges are one pixel wide, surfaces carry a 1/f texture as
natural ones do, and the light changes slowly across the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from musiq_ref.pictures.scenes_drawn import facade, leaves, meadow, page
from musiq_ref.pictures.scenes_painted import balls, cloth, hills

FAMILIES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    family.__name__: family for family in (leaves, hills, page, facade, cloth, balls, meadow)
}


def scene(seed: int | Sequence[int], height: int, width: int, family: str | None = None) -> np.ndarray:
    """A scene: uint8 (height, width, 3), the same for the same arguments.

    seed: one number or several
    family: a name in FAMILIES, by default drawn from the seed

    Raises ValueError for an unknown family or a side below 16.

    >>> scene(1, 48, 64).shape, scene(1, 48, 64, "meadow").dtype
    ((48, 64, 3), dtype('uint8'))
    """
    if min(height, width) < 16:
        raise ValueError(f"a scene of {height} x {width} pixels is too small; both sides need at least 16")
    if family is not None and family not in FAMILIES:
        raise ValueError(f"there is no scene family {family!r}; choose one of {', '.join(FAMILIES)}")
    rng = np.random.default_rng(seed)
    drawn = list(FAMILIES)[rng.integers(len(FAMILIES))]
    picture = FAMILIES[family or drawn](rng, height, width)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    slope = rng.normal(0, 0.06, 2).astype(np.float32)
    light = 1 + slope[0] * y + slope[1] * x  # (height, width)
    return np.clip(np.rint(picture * light[:, :, None]), 0, 255).astype(np.uint8)
