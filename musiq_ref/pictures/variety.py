"""What makes good photographs differ without making one of them worse.

A model that has seen only photographs that are sharp to the corners takes every soft background for a blurred picture,
and every dark one for a hazy one. So training pictures are varied before they are spoilt, and keep their score.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from musiq_ref.pictures.drawing import texture

SIGMA = (0.7, 4.0)  # of the background's blur, in pixels
SHARP = (0.25, 0.75)  # the part of the picture that is in focus


def exposed(picture: np.ndarray, gamma: float) -> np.ndarray:
    """Another exposure: every value v becomes 255·(v/255)^gamma.

    >>> exposed(np.array([[[0, 64, 255]]], np.uint8), 2.0).tolist()
    [[[0, 16, 255]]]
    """
    return np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)[picture]


def defocused(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A lens wide open: some parts of the picture stay sharp, the rest is blurred.

    A smooth random field chooses the parts, and those with most of the detail are the ones in focus.
    picture: uint8 (H, W, 3), also the result

    >>> edge = np.zeros((64, 64, 3), np.uint8); edge[:, ::2] = 255
    >>> blurred = defocused(edge, np.random.default_rng(0))
    >>> bool((blurred == edge).any()), bool((blurred != edge).any())
    (True, True)
    """
    height, width = picture.shape[:2]
    depth = texture(rng, height, width, slope=3.0)  # (H, W)
    edge = np.quantile(depth, 1 - rng.uniform(*SHARP))
    focus = np.clip((depth - edge) / rng.uniform(0.1, 0.8) + 0.5, 0, 1)[:, :, None]  # 1 where it is sharp
    sigma = math.exp(rng.uniform(*np.log(SIGMA)))
    blurred = ndimage.gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0), truncate=3.0)
    detail = np.abs(picture - blurred)
    if (detail * focus).sum() < detail.sum() / 2:
        focus = 1 - focus
    return np.rint(blurred + focus * (picture - blurred)).astype(np.uint8)
