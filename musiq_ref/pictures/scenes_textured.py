"""Scenes that are all texture, or nearly dark: a photograph of them is as good as any, and is to be scored so.

Each is a function of (rng, height, width) to float (height, width, 3) in grey levels, which may leave 0 … 255 a little.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from musiq_ref.pictures.drawing import grid, inside, palette, texture


def gravel(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Stones side by side, each lit from one side, with dark gaps: a wall, a path or a beach by their size.

    >>> gravel(np.random.default_rng(0), 32, 48).shape
    (32, 48, 3)
    """
    size, flat = np.exp(rng.uniform(np.log(4), np.log(0.25 * min(height, width) + 4))), rng.uniform(1, 2.5)
    count = max(8, int(height * width / (size * size)))
    centres = rng.uniform(0, 1, (count, 2)) * (height * flat, width)
    y, x = grid(height, width)
    y, x = np.broadcast_arrays(y * flat, x + 0 * y)
    distance, nearest = KDTree(centres).query(np.stack([y, x], -1).reshape(-1, 2), k=2)
    nearest, shape = np.asarray(nearest), (height, width)
    gap = (distance[:, 1] - distance[:, 0]).reshape(shape)
    offset = (np.stack([y, x], -1).reshape(-1, 2) - centres[nearest[:, 0]]) @ rng.normal(0, 0.3, 2) / size
    colours = palette(rng, 1) + rng.normal(0, 25, (count, 1)) + rng.normal(0, 8, (count, 3))
    light = (1 - offset.reshape(shape)) * (
        1 + rng.uniform(0.05, 0.25) * texture(rng, height, width, rng.uniform(0.7, 1.2))
    )
    return colours[nearest[:, 0]].reshape(*shape, 3) * (light * (0.3 + 0.7 * np.clip(gap / 1.5, 0, 1)))[:, :, None]


def grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Wood, bark, sand, plaster or fur: random fields with or without a direction, coloured from dark to light.

    >>> grain(np.random.default_rng(0), 32, 48).shape
    (32, 48, 3)
    """
    h, w = (width, height) if (turned := rng.random() < 0.5) else (height, width)
    stretch = float(np.exp(rng.uniform(0, 3))) if rng.random() < 0.7 else 1.0
    field = texture(rng, h, w, rng.uniform(0.9, 1.4), stretch)
    if rng.random() < 0.5:  # rings: lines along which the field is the same
        field = np.sin(rng.uniform(2, 9) * texture(rng, h, w, rng.uniform(1.6, 2.2), stretch)) + 0.4 * field
    field = field.T if turned else field
    dark, light = np.sort(palette(rng, 2), axis=0) + rng.uniform(-20, 20, (2, 1))
    share = np.clip(0.5 + field * rng.uniform(0.15, 0.4), 0, 1)[:, :, None]
    return dark + (light - dark) * share


def night(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A town at night: black sky, dark fronts, lit windows, lamps with their glow.

    >>> night(np.random.default_rng(0), 32, 48).shape
    (32, 48, 3)
    """
    y, x = grid(height, width)
    top, bottom = rng.uniform(0, 25, 3), rng.uniform(5, 60, 3)
    picture = (top + (bottom - top) * (y / height)[:, :, None] + np.zeros((1, width, 1))).astype(np.float32)
    unit, colours = min(height, width), palette(rng, 4)
    for _ in range(int(rng.integers(3, 12))):
        left, roof = rng.uniform(-0.1, 1) * width, rng.uniform(0.3, 0.9) * height
        right = left + rng.uniform(0.1, 0.4) * unit
        front = inside(np.minimum(np.minimum(x - left, right - x), y - roof))
        picture += (rng.uniform(3, 40, 3) - picture) * front
        pitch, lit = max(4.0, unit * rng.uniform(0.02, 0.06)), rng.uniform(0.1, 0.7)
        u, v = (x - left) / pitch, (y - roof) / pitch
        pane = np.minimum(0.3 - np.abs(u % 1 - 0.5), 0.35 - np.abs(v % 1 - 0.5)) * pitch
        rows, columns = np.broadcast_arrays(np.floor(v).astype(int), np.floor(u).astype(int))
        on = (rng.random((64, 64)) < lit)[rows % 64, columns % 64][:, :, None]
        picture += (colours[rng.integers(4)] * rng.uniform(0.7, 1.3) - picture) * inside(pane) * front * on
    for _ in range(int(rng.integers(2, 20))):
        r, cy, cx = unit * rng.uniform(0.004, 0.015) + 0.6, rng.uniform(0.3, 1) * height, rng.uniform(0, width)
        distance = np.hypot(y - cy, x - cx)
        colour = np.array([255, 225, 170]) + rng.normal(0, 30, 3)
        picture += colour * 0.5 * np.exp(-distance / (rng.uniform(2, 8) * r))[:, :, None]
        picture += (np.clip(colour * 1.2, 0, 255) - picture) * inside(r - distance)
    return picture
