"""Photographs to learn from, in a folder: found, made sharp, cut.

Most photographs have more pixels than their lens and their sensor's colour filter can tell apart: seen pixel by pixel
they are soft, and nobody can tell such softness from a slight blur. So each is first reduced until its sharpest parts
are sharp from one pixel to the next, and that is then the largest size at which it is shown.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from musiq_ref.image.decode import decode
from musiq_ref.image.find import find_images

LONGEST = 1400  # pixels; no training picture is larger
SHARP = 0.9  # least `sharpness`: natural images have about 1.3, with a blur of sigma 0.5 pixels 1.0, of 0.7 pixels 0.75
STEP = 1.25  # by which a photograph is reduced until it is sharp
SHORTEST = 96
FILTERS = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.HAMMING, Image.Resampling.BOX)
NATIVE = 0.15  # how often a view is cut without being reduced
WHOLE = (0.45, 1.0)  # the part of a photograph's sides that a view shows, where it has enough pixels
ASPECT = 1.6  # of the longest views


class Photograph(NamedTuple):
    """A sharp photograph.

    name: the file's
    pixels: uint8 (H, W, 3), read-only
    """

    name: str
    pixels: np.ndarray


def sharpness(image: np.ndarray) -> float:
    """Contrast in the finest octave relative to the next one's, at the places with most of both; see SHARP.

    image: uint8 (H, W, 3)

    >>> noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    >>> sharpness(noise) > 2 > 0.6 > sharpness(ndimage.gaussian_filter(noise, (2, 2, 0)))
    True
    """
    grey = image.astype(np.float32).mean(axis=2)
    smooth = ndimage.gaussian_filter(grey, 0.8)
    smoother = ndimage.gaussian_filter(smooth, 1.4)
    fine, coarse = (
        ndimage.uniform_filter(band * band, 16)[8::16, 8::16] for band in (grey - smooth, smooth - smoother)
    )
    places = fine + coarse >= np.quantile(fine + coarse, 0.9)
    return float(np.sqrt(fine[places].mean() / max(float(coarse[places].mean()), 1e-6)))


def sharpened_by_reduction(image: np.ndarray) -> np.ndarray:
    """The image, its longer side at most LONGEST pixels, reduced step by step until it is sharp (or SHORTEST).

    >>> sharpened_by_reduction(np.full((300, 200, 3), 9, np.uint8)).shape
    (300, 200, 3)
    """
    small, factor = image, max(1.0, max(image.shape[:2]) / LONGEST)
    while True:
        h, w = (round(side / factor) for side in image.shape[:2])
        if (h, w) != small.shape[:2]:
            small = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.LANCZOS))
        value = sharpness(small)
        if value >= SHARP or value == 0 or min(h, w) < STEP * SHORTEST:
            return small
        factor *= STEP


def load_photographs(paths: Sequence[str | os.PathLike[str]]) -> tuple[Photograph, ...]:
    """The photographs in files and folders, sharp, in the order of their paths; what is no image is left out.

    Raises ImageError where nothing is found.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (120, 100)).save(Path(folder, "a.png"))
    ...     [one.name for one in load_photographs([folder])]
    ['a.png']
    """
    return tuple(_load(os.fspath(path)) for path in find_images([os.fspath(path) for path in paths]).files)


@cache
def _load(path: str) -> Photograph:
    pixels = np.ascontiguousarray(sharpened_by_reduction(decode(path)))
    pixels.setflags(write=False)
    return Photograph(Path(path).name, pixels)


def view(photograph: Photograph, rng: np.random.Generator, side: int) -> np.ndarray:
    """A picture of about that shorter side: most often a large part of the photograph, reduced.

    A photograph with fewer pixels gives a smaller picture, for none is enlarged. Of views cut without reduction,
    the one with most detail of three is taken: a part all out of focus could not be told from a spoilt picture.
    Returns uint8 (H, W, 3).

    >>> view(Photograph("grey", np.full((300, 400, 3), 9, np.uint8)), np.random.default_rng(0), 128).shape[2]
    3
    """
    pixels = photograph.pixels
    if rng.random() < 0.2:
        pixels = np.rot90(pixels, int(rng.choice([1, 3])))
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    h, w = pixels.shape[:2]
    long = rng.uniform(1, ASPECT)
    rows, columns = (1.0, long) if w >= h else (long, 1.0)
    largest = min(h / rows, w / columns)  # shorter side of the largest box of that shape
    side = int(min(side, largest))
    height, width = round(side * rows), round(side * columns)
    if rng.random() < NATIVE:
        places = [
            (rng.integers(0, h - height, endpoint=True), rng.integers(0, w - width, endpoint=True)) for _ in "abc"
        ]
        cuts = [pixels[top : top + height, left : left + width] for top, left in places]
        return np.ascontiguousarray(max(cuts, key=lambda cut: float(np.abs(np.diff(cut[..., 1].astype(int))).mean())))
    box = max(side, largest * rng.uniform(*WHOLE))
    top, left = rng.uniform(0, h - box * rows), rng.uniform(0, w - box * columns)
    corners = (left, top, min(left + box * columns, w), min(top + box * rows, h))
    resampling = FILTERS[rng.integers(len(FILTERS))]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(image.resize((width, height), resampling, corners, reducing_gap=3.0))
