"""Synthetic examples without end: pristine pictures spoilt by known degrees, made on the fly from (seed, index).

The target is a score from 100 (untouched) to 0, 100·(1 − severity), equal for all distortions because their severities
are made comparable (musiq_ref.pictures.distortions). Pristine pictures are crops of the bundled photographs and
procedural scenes. Training and test share no source: two photographs, and scenes of other seeds, are for the test
alone. The same arguments give the same examples wherever NumPy, SciPy and Pillow are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from musiq_ref.image.decode import decode
from musiq_ref.pictures.distortions import DISTORTIONS
from musiq_ref.pictures.mixtures import mixture_parts
from musiq_ref.pictures.scenes import FAMILIES, scene

PHOTOGRAPHS = Path(__file__).parents[1] / "data" / "photographs"
TRAINING_PHOTOGRAPHS = ("astronaut", "coffee", "flower", "hopper", "raccoon", "temple")
TEST_PHOTOGRAPHS = ("cat", "rocket")
TRAINING, TEST = 0, 1  # the first number of every random seed
PRISTINE, MIXED, PHOTOGRAPHED = 0.12, 0.2, 0.4  # how often a training example is untouched, a mixture, a photograph
SIDES, STEP = (96, 160), 8  # of training examples, in pixels; multiples of 8, as cameras and JPEG blocks have them
REDUCTION = (1.5, 2.0)  # of photographs, before they are cropped: their pixels are softer than the scenes'
TEST_REDUCTION = (2.0, 2.5)  # the photographs for the test are softer still
LARGEST = 300  # the shorter side of the smallest photograph


class SyntheticExample(NamedTuple):
    """An image with its score, and how it came about.

    source: the pristine picture's name
    distortion: a name in DISTORTIONS, two joined by "+", or "pristine"
    severity: 0 … 1
    image: uint8 (H, W, 3)
    score: 0 … 100
    """

    source: str
    distortion: str
    severity: float
    image: np.ndarray
    score: float


def training_example(
    seed: int,
    index: int,
    size: int | None = None,
    photographs: Sequence[str] = TRAINING_PHOTOGRAPHS,
    reduction: Sequence[float] = REDUCTION,
) -> SyntheticExample:
    """Example number `index`, any number from 0, of the endless training set `seed`.

    size: the side of a square image, from 16 to 300; by default both sides are drawn from 96, 104, … 160 pixels
    photographs: of which crops are taken, by default all that are for training
    reduction: see photograph_crop

    Raises ValueError for negative numbers and for other sizes.

    >>> example = training_example(seed=0, index=5, size=64)
    >>> example.image.shape, 0 <= example.score <= 100
    ((64, 64, 3), True)
    """
    _check(size, seed, index)
    rng = np.random.default_rng((TRAINING, seed, index))
    drawn = STEP * rng.integers(SIDES[0] // STEP, SIDES[1] // STEP, 2, endpoint=True)
    height, width = (size, size) if size is not None else drawn.tolist()
    photograph = rng.random() < PHOTOGRAPHED
    if photograph:
        source = photographs[int(rng.integers(len(photographs)))]
        picture = photograph_crop(source, rng, height, width, reduction)
    else:
        source = f"scene {TRAINING} {seed} {index}"
        picture = scene((TRAINING, seed, index, 1), height, width)
    kind = rng.random()
    if kind < PRISTINE:
        return SyntheticExample(source, "pristine", 0.0, picture, score_of(0.0))
    name = "mixture" if kind < PRISTINE + MIXED else str(rng.choice(list(DISTORTIONS)))
    return _spoilt(source, picture, name, rng.random(), rng)


def held_out_examples(
    seed: int = 0,
    size: int = 144,
    crops: int = 4 * len(TEST_PHOTOGRAPHS),
    scenes: int = 4 * len(FAMILIES),
    severities: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
    mixtures: int = 5,
) -> Iterator[SyntheticExample]:
    """The test set, source by source: each picture untouched, spoilt by every distortion at every severity, and mixed.

    crops: of the held-out photographs in turn
    scenes: procedural ones, the families in turn
    mixtures: per source, of random severity

    Of one source and distortion only the severity changes, not the noise or the direction, so that scores can be
    compared. By default 36 sources with 56 examples each.  Raises ValueError as training_example does.

    >>> examples = list(held_out_examples(size=64, crops=1, scenes=1, severities=(0.5, 1.0), mixtures=1))
    >>> len(examples), examples[0].source, examples[0].distortion
    (44, 'cat 0', 'pristine')
    """
    _check(size, seed)
    for number in range(crops + scenes):
        if number < crops:
            name = TEST_PHOTOGRAPHS[number % len(TEST_PHOTOGRAPHS)]
            source, rng = f"{name} {number}", np.random.default_rng((TEST, seed, number))
            picture = photograph_crop(name, rng, size, size, TEST_REDUCTION)
        else:
            source, family = f"scene {TEST} {seed} {number}", list(FAMILIES)[(number - crops) % len(FAMILIES)]
            picture = scene((TEST, seed, number), size, size, family)
        yield SyntheticExample(source, "pristine", 0.0, picture, score_of(0.0))
        for kind, name in enumerate(DISTORTIONS):
            for severity in severities:
                yield _spoilt(source, picture, name, severity, np.random.default_rng((TEST, seed, number, kind, 1)))
        for mix in range(mixtures):
            rng = np.random.default_rng((TEST, seed, number, mix, 2))
            yield _spoilt(source, picture, "mixture", rng.random(), rng)


def score_of(severity: float) -> float:
    """The target score of a severity: 100·(1 − severity).

    >>> score_of(0.25)
    75.0
    """
    return 100 * (1 - severity)


def photograph_crop(
    name: str, rng: np.random.Generator, height: int, width: int, reduction: Sequence[float] = REDUCTION
) -> np.ndarray:
    """A random part of a bundled photograph, reduced, perhaps mirrored and its channels exchanged.

    reduction: the least and the most by which the photograph is reduced, as far as the crop's size allows. Lenses and
    the interpolation of colours leave photographs soft pixel by pixel, and reducing them makes an untouched crop
    sharper.
    Returns uint8 (height, width, 3).  Raises ValueError if the photograph is too small.

    >>> photograph_crop("cat", np.random.default_rng(0), 64, 96).shape
    (64, 96, 3)
    """
    photograph = _photograph(name)
    h, w = photograph.shape[:2]
    if not (0 < height <= min(h, LARGEST) and 0 < width <= min(w, LARGEST)):
        raise ValueError(f"a crop of {height} x {width} pixels was asked for; sides go from 1 to {LARGEST}")
    most = min(reduction[1], h / height, w / width)
    factor = rng.uniform(min(reduction[0], most), most)
    box_h, box_w = height * factor, width * factor
    top, left = rng.uniform(0, h - box_h), rng.uniform(0, w - box_w)
    if factor < 1.1:  # no resampling at all, which would blur
        top, left = int(min(top, h - height)), int(min(left, w - width))
        crop = photograph[top : top + height, left : left + width]
    else:
        box = (left, top, left + box_w, top + box_h)
        crop = np.asarray(Image.fromarray(photograph).resize((width, height), Image.Resampling.LANCZOS, box))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.5:
        crop = crop[:, :, rng.permutation(3)]
    return np.ascontiguousarray(crop)


def _check(size: int | None, seed: int, index: int = 0) -> None:
    if size is not None and not 16 <= size <= LARGEST:
        raise ValueError(f"size is {size}; the sides of synthetic images go from 16 to {LARGEST}")
    if min(seed, index) < 0:
        raise ValueError(f"an example was asked for with seed {seed} and index {index}; both must be 0 or more")


@cache
def _photograph(name: str) -> np.ndarray:
    pixels = decode(PHOTOGRAPHS / f"{name}.png")
    pixels.setflags(write=False)
    return pixels


def _spoilt(source: str, picture: np.ndarray, name: str, severity: float, rng: np.random.Generator) -> SyntheticExample:
    parts = mixture_parts(severity, rng) if name == "mixture" else ((name, severity),)
    image = picture
    for part, part_severity in parts:
        image = DISTORTIONS[part](image, part_severity, rng)
    name = "+".join(part for part, _ in parts)
    return SyntheticExample(source, name, float(severity), image, score_of(float(severity)))
