"""Training examples like the world's pictures: many photographs, and scenes, at sizes from 96 to over 1,000 pixels.

Example number i of seed s is the same whenever it is asked for. Small pictures are whole photographs seen small rather
than corners of large ones, as in real use. The shorter side s is drawn with density ∝ s^−3.5: half of the pictures
have less than 127 pixels, one in 18 more than 300, one in 80 more than 512, where 1,024 is the largest. A picture takes
time in proportion to s², and of the largest, where attention counts, to s⁴: so no octave of sizes takes much more of
the training than another.

Every picture comes twice, one after the other, with flaws of its own each time: what makes one of the two better than
the other is then not what it shows.

What cannot be known from pixels is taught with its right score: soft backgrounds, plain skies, night, fog and textures
are no flaws, nor are another exposure within reason, black and white, or the filter that a picture was reduced with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from musiq_ref.pictures.flaws import drawn_flaws, score_of, spoil
from musiq_ref.pictures.photographs import Photograph, view
from musiq_ref.pictures.scenes import FAMILIES, scene
from musiq_ref.pictures.scenes_textured import grain, gravel, night
from musiq_ref.pictures.synthetic import SyntheticExample
from musiq_ref.pictures.variety import defocused, exposed

TEXTURES = {family.__name__: family for family in (gravel, grain, night)}
SMALLEST, POWER = 96, 2.5  # of the shorter sides; the density falls with the power + 1
SCENES, UNTOUCHED, MIXED = 0.3, 0.2, 0.2  # how often an example is a scene, is not spoilt, is spoilt twice
DEFOCUSED, GREY, GAMMA = 0.15, 0.06, (0.8, 1.3)  # how often a photograph is so; exponents of its brightness


def world_example(
    seed: int, index: int, photographs: Sequence[Photograph], largest: int, power: float = POWER
) -> SyntheticExample:
    """Example number `index` of the training set `seed`.

    photographs: from load_photographs
    largest: greatest shorter side, in pixels
    power: of the sides' density, see drawn_side

    >>> grey = Photograph("grey", np.full((300, 400, 3), 9, np.uint8))
    >>> example = world_example(0, 3, [grey], largest=256)
    >>> min(example.image.shape[:2]) >= 96, 0 <= example.score <= 100
    (True, True)
    """
    rng = np.random.default_rng((2, seed, index // 2))
    source, picture = untouched(rng, photographs, drawn_side(rng, largest, power))
    rng = np.random.default_rng((3, seed, index))
    if rng.random() < UNTOUCHED:
        return SyntheticExample(source, "pristine", 0.0, picture, score_of(0.0))
    severity = float(rng.random())
    parts = drawn_flaws(severity, rng, MIXED)
    for name, part in parts:
        picture = spoil(picture, name, part, rng)
    return SyntheticExample(source, "+".join(name for name, _ in parts), severity, picture, score_of(severity))


def drawn_side(rng: np.random.Generator, largest: int, power: float = POWER) -> int:
    """A shorter side from SMALLEST to `largest`, with density ∝ side^−(power + 1).

    >>> sides = [drawn_side(np.random.default_rng(i), 1024) for i in range(1000)]
    >>> min(sides) >= 96, 120 < np.median(sides) < 134, max(sides) > 400
    (True, np.True_, True)
    """
    least = (SMALLEST / largest) ** power
    return int(SMALLEST / (1 - rng.random() * (1 - least)) ** (1 / power))


def untouched(rng: np.random.Generator, photographs: Sequence[Photograph], side: int) -> tuple[str, np.ndarray]:
    """A picture's source and the picture, uint8 (H, W, 3), before it is spoilt; the shorter side is `side`, or less.

    >>> untouched(np.random.default_rng(0), (), 100)[1].shape[2]
    3
    """
    if not photographs or rng.random() < SCENES:
        height, width = (side, round(side * rng.uniform(1, 1.5)))[:: int(rng.choice([1, -1]))]
        names = [*FAMILIES, *TEXTURES]
        name = names[rng.integers(len(names))]
        if name in TEXTURES:
            picture = np.clip(np.rint(TEXTURES[name](rng, height, width)), 0, 255).astype(np.uint8)
        else:
            picture = scene((2, int(rng.integers(2**31))), height, width, name)
        return name, defocused(picture, rng) if name not in TEXTURES and rng.random() < DEFOCUSED else picture
    photograph = photographs[int(rng.integers(len(photographs)))]
    picture = exposed(view(photograph, rng, side), math.exp(rng.uniform(*np.log(GAMMA))))
    if rng.random() < GREY:
        picture = np.repeat(np.rint(picture @ (0.299, 0.587, 0.114)).astype(np.uint8)[:, :, None], 3, axis=2)
    return photograph.name, defocused(picture, rng) if rng.random() < DEFOCUSED else picture
