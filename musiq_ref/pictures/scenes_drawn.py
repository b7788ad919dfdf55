"""Scenes drawn with a pen, shape over shape: overlapping leaves, a printed page, house fronts, a meadow.

Each is a function of (rng, height, width) to float (height, width, 3) in grey levels, which may leave 0 … 255 a little.
"""

from __future__ import annotations

import math

import numpy as np

from musiq_ref.pictures.drawing import around, canvas, finished, palette, rgb, texture


def leaves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Shapes that cover one another, their sizes distributed as those of things in nature (dead leaves).

    >>> leaves(np.random.default_rng(0), 32, 48).shape
    (32, 48, 3)
    """
    count, colours = 220, palette(rng, 12)
    image, draw = canvas(height, width, colours[0])
    corners = int(rng.choice([3, 4, 5, 20, 20, 20]))  # 20: discs
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    radius = 2 * min(height, width) * np.minimum(0.5, 0.02 / rng.uniform(0.02, 1, (count, 1)))
    turn, flat = rng.uniform(0, 6.3, (count, 1)), rng.uniform(0.5, 1, (count, 1))
    along, across = radius * np.cos(angles), radius * flat * np.sin(angles)  # (count, corners)
    x = rng.uniform(0, 2 * width, (count, 1)) + along * np.cos(turn) - across * np.sin(turn)
    y = rng.uniform(0, 2 * height, (count, 1)) + along * np.sin(turn) + across * np.cos(turn)
    shades = (colours[rng.integers(12, size=count)] * rng.uniform(0.7, 1.2, (count, 1))).tolist()
    for outline, colour in zip(np.stack([x, y], -1).reshape(count, -1).tolist(), shades, strict=True):
        draw.polygon(outline, rgb(colour), rgb(0.6 * value for value in colour))
    return finished(image) * (1 + rng.uniform(0.03, 0.15) * texture(rng, height, width)[:, :, None])


def page(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Print, a little askew: lines of strokes like letters in several sizes, and charts.

    >>> page(np.random.default_rng(0), 32, 48).shape
    (32, 48, 3)
    """
    paper, ink = np.full(3, 245.0) - rng.uniform(0, 40, 3), rng.uniform(0, 90, 3)
    if rng.random() < 0.3:
        paper, ink = ink, paper
    image, draw = canvas(height, width, paper)
    colours, angle = palette(rng, 4), rng.normal(0, 0.1)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    y, left = -0.3 * width + rng.uniform(0, 16), -0.3 * height
    while y < 2 * height + 0.3 * width:
        if rng.random() < 0.1:
            for x in np.arange(rng.uniform(8, 60), 2 * width, rng.uniform(16, 40)):
                top = y + rng.uniform(0, 60)
                bar = np.array([[x, top], [x + 12, top], [x + 12, y + 70], [x, y + 70]]) @ turn
                draw.polygon(bar.ravel().tolist(), rgb(colours[rng.integers(4)]), rgb(ink))
            y += 84
        else:
            letter = float(rng.choice([14, 16, 16, 20, 24, 44]))
            colour = rgb(ink if rng.random() < 0.8 else colours[0])
            bends = np.array([[0, 0], [0, 1], [0.5, 0.5], [1, 0], [1, 1], [0.5, 1], [0, 0.5], [1, 0.5], [0.5, 0]])
            alphabet = bends[rng.integers(9, size=(14, 5))] * (0.55 * letter, letter) @ turn  # (14, 5, 2)
            start = np.array([left + rng.uniform(4, 60), y])
            for place, glyph in enumerate(rng.integers(0, 17, int(2.6 * width / (0.8 * letter)))):
                if glyph < 14:  # otherwise a space
                    strokes = alphabet[glyph] + np.add(start, (0.8 * letter * place, 0)) @ turn
                    draw.line(strokes.ravel().tolist(), colour, max(2, round(letter / 8)))
            y += 1.5 * letter
    return finished(image) * (1 + 0.015 * texture(rng, height, width)[:, :, None])


def facade(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two house fronts that meet at a corner, in perspective: courses of stone, rows of windows, one side in shade.

    >>> facade(np.random.default_rng(0), 32, 48).shape
    (32, 48, 3)
    """
    image, draw = canvas(height, width, np.array([120, 170, 220]) + rng.normal(0, 20, 3))
    walls, corner = palette(rng, 3) * 0.6 + 90, rng.uniform(0.15, 0.85)
    for far, wall in ((-0.1, walls[0]), (1.1, walls[1] * rng.uniform(0.45, 0.8))):
        shrink, top, bottom = rng.uniform(0.5, 0.9), rng.uniform(-0.3, 0.15), rng.uniform(0.9, 1.3)
        courses, floors, bays = int(rng.integers(14, 36)), int(rng.integers(2, 7)), int(rng.integers(2, 8))
        row, brick = (index.ravel() for index in np.mgrid[:courses, :10])
        u, v, tint = (brick + 0.5 * (row % 2)) / 10.5, row / courses, rng.uniform(0.85, 1.12, (len(row), 1))
        panels = [(0, 0, 1, 1, *wall), *np.column_stack([u, v, u + 0.09, v + 0.85 / courses, wall * tint])]
        du, dv = rng.uniform(0.4, 0.7) / bays, rng.uniform(0.4, 0.7) / floors
        for u, v in ((u, v) for v in (np.arange(floors) + 0.2) / floors for u in (np.arange(bays) + 0.2) / bays):
            glass = np.array([40, 55, 75]) * rng.uniform(0.4, 2.8)
            panels.append((u - 0.1 * du, v - 0.1 * dv, u + 1.1 * du, v + 1.15 * dv, *walls[2] * 1.1))
            panels.append((u, v, u + du, v + dv, *glass))
            panels.append((u, v + 0.55 * dv, u + du, v + dv, *glass * 0.7))
            panels.append((u + 0.46 * du, v, u + 0.54 * du, v + dv, *walls[2]))
        panels = np.array(panels)
        u, v = panels[:, [0, 2, 2, 0]], panels[:, [1, 1, 3, 3]]  # (n, 4) corners of every panel
        along = u * shrink / (1 - u + u * shrink)  # equal steps shrink with the distance
        half = (bottom - top) / 2 * (1 - along * (1 - shrink))
        x, y = 2 * width * (corner + (far - corner) * along), 2 * height * ((top + bottom) / 2 + (2 * v - 1) * half)
        for outline, colour in zip(np.stack([x, y], -1).reshape(-1, 8).tolist(), panels[:, 4:].tolist(), strict=True):
            draw.polygon(outline, rgb(colour))
    return finished(image) * (1 + 0.05 * texture(rng, height, width)[:, :, None])


def meadow(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blades of grass, and flowers among them, from the far ones to the near ones.

    >>> meadow(np.random.default_rng(0), 32, 48).shape
    (32, 48, 3)
    """
    count, greens = 600, palette(rng, 6) * 0.5 + np.array([60, 95, 25]) * rng.uniform(0.3, 1)
    image, draw = canvas(height, width, greens.mean(0) * 0.35)
    blossom, flowers = np.clip(palette(rng, 2) * 1.4, 0, 255), rng.uniform(0, 0.06)
    y, x = np.sort(rng.uniform(0, 2.3 * height, count)), rng.uniform(-20, 2 * width + 20, count)
    length, thick = height * rng.uniform(0.1, 0.4, count), rng.uniform(1.5, 6, count)
    tip = x + length * (rng.normal(0, 0.4) + rng.normal(0, 0.3, count))
    blades = np.column_stack([x - thick, y, (x + tip) / 2, y - 0.6 * length, tip, y - length, x + thick, y])
    shades = greens[rng.integers(6, size=count)] * ((0.45 + 0.4 * y / height) * rng.uniform(0.7, 1.3, count))[:, None]
    radius = np.where(rng.random(count) < flowers, rng.uniform(6, 0.07 * height + 8, count), 0)
    for blade, colour, r in zip(blades.tolist(), shades.tolist(), radius.tolist(), strict=True):
        draw.polygon(blade, rgb(colour))
        if r:
            for petal in np.linspace(0, 5.03, 5):
                centre = (blade[4] + r * math.cos(petal), blade[5] + r * math.sin(petal))
                draw.ellipse(around(centre, 0.7 * r), rgb(blossom[0]), rgb(blossom[0] * 0.7))
            draw.ellipse(around((blade[4], blade[5]), 0.5 * r), rgb(blossom[1]))
    return finished(image)
