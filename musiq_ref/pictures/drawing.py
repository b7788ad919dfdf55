"""The means of the procedural scenes: textures like nature's, colours that go together, antialiased edges."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw
from scipy import fft


def texture(rng: np.random.Generator, height: int, width: int, slope: float = 1.3, stretch: float = 1.0) -> np.ndarray:
    """A random field (height, width), mean 0 and deviation 1, whose amplitudes fall as 1/frequency^slope.

    slope: near 1 on natural surfaces (Field 1987, the amplitude spectra of natural images); a larger one is smoother
    stretch: how much longer the grain is along the rows than across them

    >>> texture(np.random.default_rng(0), 32, 48).shape
    (32, 48)
    """
    h, w = fft.next_fast_len(height, real=True), fft.next_fast_len(width, real=True)
    fy, fx = fft.fftfreq(h).astype(np.float32)[:, None], stretch * fft.rfftfreq(w).astype(np.float32)
    squared = fy * fy + fx * fx  # (h, w/2 + 1)
    squared[0, 0] = np.inf
    parts = rng.standard_normal((*squared.shape, 2), dtype=np.float32)
    spectrum = parts.view(np.complex64)[:, :, 0] * squared ** np.float32(-slope / 2)
    field = np.asarray(fft.irfft2(spectrum, (h, w)))[:height, :width]
    return (field - field.mean()) / field.std()


def palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` colours of one mood, (count, 3) in grey levels: points around a random circle in colour space.

    >>> palette(np.random.default_rng(0), 5).shape
    (5, 3)
    """
    angle = rng.uniform(0, 2 * math.pi) + np.linspace(0, rng.uniform(2, 6), count)[:, None]
    wave = np.cos(angle + rng.uniform(0, 2 * math.pi, 3))  # (count, 3)
    return np.clip(rng.uniform(40, 215, (count, 1)) + rng.uniform(15, 60) * wave, 5, 250).astype(np.float32)


def rgb(colour: Iterable[float]) -> tuple[int, int, int]:
    """A colour as Pillow wants it.

    >>> rgb([12.7, -3, 300])
    (12, 0, 255)
    """
    r, g, b = (min(255, max(0, int(value))) for value in colour)
    return r, g, b


def canvas(height: int, width: int, colour: Iterable[float]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A canvas of twice the size, and the pen for it; `finished` averages it down, which makes the edges smooth.

    >>> canvas(10, 20, (0, 0, 0))[0].size
    (40, 20)
    """
    image = Image.new("RGB", (2 * width, 2 * height), rgb(colour))
    return image, ImageDraw.Draw(image)


def around(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    """The box around a circle, which Pillow draws ellipses in.

    >>> around((5, 6), 2)
    (3, 4, 7, 8)
    """
    x, y = centre
    return x - radius, y - radius, x + radius, y + radius


def finished(image: Image.Image) -> np.ndarray:
    """A canvas as float32 (height, width, 3).

    >>> finished(canvas(10, 20, (0, 0, 9))[0])[0, 0].tolist()
    [0.0, 0.0, 9.0]
    """
    return np.asarray(image.reduce(2)).astype(np.float32)


def inside(distance: np.ndarray) -> np.ndarray:
    """How much of a pixel lies in a shape, (H, W, 1), from its signed distance to the edge in pixels, positive inside.

    >>> inside(np.array([[-3.0, 0.0, 0.25, 8.0]]))[0, :, 0].tolist()
    [0.0, 0.5, 0.75, 1.0]
    """
    return np.clip(distance + 0.5, 0, 1).astype(np.float32)[:, :, None]


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows (height, 1) and columns (width,) as float32.

    >>> [a.shape for a in grid(2, 3)]
    [(2, 1), (3,)]
    """
    return np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
