"""Scenes painted pixel by pixel, from formulas: hills under a sky, woven cloth, lit balls on a table.

Each is a function of (rng, height, width) to float (height, width, 3) in grey levels, which may leave 0 … 255 a little.
"""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.pictures.drawing import grid, inside, palette, texture


def hills(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Ridges of rock and forest, one behind the other, under a sky with clouds and a sun.

    >>> hills(np.random.default_rng(0), 32, 48).shape
    (32, 48, 3)
    """
    y, x = grid(height, width)
    low, high = np.array([235, 220, 200]) + rng.normal(0, 15, 3), np.array([70, 120, 190]) + rng.normal(0, 25, 3)
    picture = (high + (low - high) * np.clip(y / height * 1.4, 0, 1)[:, :, None]).astype(np.float32)  # (H, 1, 3)
    clouds = np.clip(texture(rng, height, width, 1.7, 1.5) - rng.uniform(-0.5, 1), 0, 0.9)[:, :, None]
    picture = picture + (245 - picture) * clouds
    radius, sun_y, sun_x = height * rng.uniform(0.03, 0.1), rng.uniform(0.1, 0.4) * height, rng.uniform(0, width)
    sun = inside(radius - np.hypot(y - sun_y, x - sun_x))
    picture += (np.array([255, 245, 210], np.float32) - picture) * sun
    ridges = int(rng.integers(2, 6))
    colours = (0.5 * palette(rng, ridges) + np.array([45, 55, 35])) * np.linspace(1.25, 0.8, ridges)[:, None]
    relief = texture(rng, height, width, rng.uniform(1.0, 1.3), rng.uniform(0.5, 1))
    lines = np.cumsum(rng.normal(0, 1, (ridges, width)), axis=1)  # random walks, (ridges, width)
    lines = (lines - lines.mean(1, keepdims=True)) / lines.std(1, keepdims=True) * rng.uniform(0.02, 0.09)
    for ridge, colour in enumerate(colours.astype(np.float32)):
        firs = np.abs((x / rng.uniform(3, 9)) % 2 - 1) * rng.uniform(0, 0.05)
        line = height * (0.35 + 0.55 * ridge / ridges + lines[ridge] - firs)
        start = max(0, int(line.min()) - 1)
        surface = colour * (1 + (0.06 + 0.25 * ridge / ridges) * np.roll(relief, 37 * ridge, 1)[start:, :, None])
        picture[start:] += (surface - picture[start:]) * inside(y[start:] - line)
    return picture


def cloth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Woven cloth: two crossing sequences of coloured stripes, every thread visible, in soft folds.

    >>> cloth(np.random.default_rng(0), 32, 48).shape
    (32, 48, 3)
    """
    y, x = grid(height, width)
    angle, thread = rng.uniform(0, math.pi), rng.uniform(2.5, 7)
    fold = texture(rng, height, width, 2.6)
    u = math.cos(angle) * x + math.sin(angle) * y + 4 * fold
    v = -math.sin(angle) * x + math.cos(angle) * y + 4 * np.roll(fold, 5, 1)
    stripes = palette(rng, 5)[rng.integers(0, 5, (2, 24))]
    stripes = np.repeat(stripes, rng.integers(1, 7, 24), axis=1)  # (2, n, 3) colour of every thread
    warp = stripes[0, np.floor(u / thread).astype(int) % stripes.shape[1]]
    weft = stripes[1, np.floor(v / thread).astype(int) % stripes.shape[1]]
    ripple_u, ripple_v = np.sin(u * (math.pi / thread)), np.sin(v * (math.pi / thread))
    over = np.clip(ripple_u * ripple_v * thread + 0.5, 0, 1)[:, :, None]
    relief = (0.8 + 0.2 * np.abs(ripple_u * ripple_v)) * (1 + 0.12 * fold)
    return (weft + (warp - weft) * over) * relief[:, :, None]


def balls(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Balls of different material on a wooden table before a wall, lit by one lamp.

    >>> balls(np.random.default_rng(0), 32, 48).shape
    (32, 48, 3)
    """
    y, x = grid(height, width)
    size, horizon, (wall, wood) = min(height, width), rng.uniform(0.3, 0.6) * height, palette(rng, 2)
    wall_light = 1 + 0.3 * np.cos((x / width - rng.uniform()) * 2) * np.cos(y / height)
    grain = texture(rng, height, width, 1.4, rng.uniform(5, 30))
    boards = 1 - 0.5 * np.clip(1 - np.abs((y - horizon) % max(size * rng.uniform(0.1, 0.3), 9) - 2), 0, 1)
    picture = (wall * wall_light[:, :, None]).astype(np.float32)
    picture += (wood * ((1 + 0.15 * grain) * boards)[:, :, None] - picture) * inside(y - horizon)
    light = np.array([-0.5, -0.6, 0.62])
    for bottom in np.sort(rng.uniform(horizon + 0.1 * size, height * 1.02, rng.integers(2, 8))):
        radius, cx, colour = size * rng.uniform(0.06, 0.22), rng.uniform(0, width), palette(rng, 2)
        rows = slice(max(0, int(bottom - 2 * radius - 1)), int(bottom + radius))
        columns = slice(max(0, int(cx - 1.5 * radius)), int(cx + 2.2 * radius))
        here, dy, dx = picture[rows, columns], (y[rows] - bottom) / radius + 1, (x[columns] - cx) / radius
        here *= 1 - 0.7 * np.clip(1.2 - np.hypot((dx - 0.4) / 1.3, (dy - 0.9) / 0.35), 0, 1)[:, :, None]  # shadow
        dz = np.sqrt(np.clip(1 - dx * dx - dy * dy, 0, 1))
        facing = np.clip(dx * light[0] + dy * light[1] + dz * light[2], 0, 1)
        stripes = inside(np.sin((dx * rng.normal() + dy * rng.normal()) * 9) * radius / 9)
        glint = 220 * np.clip(2 * facing * dz - light[2], 0, 1) ** rng.uniform(4, 80)
        surface = (colour[1] + (colour[0] - colour[1]) * stripes) * (0.3 + 0.8 * facing)[:, :, None] + glint[:, :, None]
        here += (surface - here) * inside(radius * (1 - np.hypot(dx, dy)))
    return picture
