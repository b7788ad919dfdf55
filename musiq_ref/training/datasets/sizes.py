"""The size at which a data set's images are trained on and scored."""

from __future__ import annotations

import numpy as np
from PIL import Image

SHORTER_SIDES = {"spaq": 512}  # to which images are reduced before they are scored (SPEC 7)


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """The image with its shorter side reduced to `side`, uint8 (H, W, 3); a smaller one, and side 0, change nothing.

    The paper resizes SPAQ "following" its authors, whose program (h4nwei/SPAQ, Prepare_image.py) reduces with Pillow's
    bilinear filter, which averages over the pixels that it leaves out, and rounds the longer side down; so it is here.

    >>> shrink(np.zeros((1000, 1501, 3), np.uint8), 512).shape
    (512, 768, 3)
    """
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    if not 0 < side < shorter:
        return pixels
    size = side * width // shorter, side * height // shorter
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
