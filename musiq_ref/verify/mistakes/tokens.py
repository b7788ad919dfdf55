"""From pixels to tokens, as people get them wrong: patches, padding, scales, mask and hash (SPEC 3)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from musiq_ref.image.hash import hash_axis, hash_index
from musiq_ref.image.patches import extract_patches, patch_grid
from musiq_ref.image.resize import resize
from musiq_ref.image.tokenize import Tokens, batch, scales_of
from musiq_ref.verify.mistakes.mistake import Mistake, family

# --- patches ---------------------------------------------------------------------------------------------------------


def padded(before=lambda total: total // 2, mode="constant", value=0.0):
    """`extract_patches` with another share of the padding before, or another padding."""

    def extract(image, patch_size):
        total = [-n % patch_size for n in image.shape[:2]]
        sides = [(before(t), t - before(t)) for t in total]
        options: Any = {"mode": mode, "constant_values": value} if mode == "constant" else {"mode": mode}
        return extract_patches(np.pad(image, (*sides, (0, 0)), **options), patch_size)

    return extract


def without_padding(image, patch_size):
    """Pixels beyond the last whole patch are thrown away and come back as zeros: a floor instead of a ceil."""
    h, w = (max(n // patch_size, 1) * patch_size for n in image.shape[:2])
    kept = np.zeros_like(image)
    kept[:h, :w] = image[:h, :w]
    return extract_patches(kept, patch_size)


def remainder_dropped(kept):
    """`patch_grid` and `extract_patches` of whole patches alone; kept(total) pixels are left out before them."""

    def either(*given):
        *sides, P = given if len(given) == 3 else (*given[0].shape[:2], given[1])
        whole = [max(n // P, 1) for n in sides]
        if len(given) == 3:
            return tuple(whole)
        image = given[0]
        for axis, (n, m) in enumerate(zip(sides, whole, strict=True)):
            before = kept(max(n - m * P, 0))
            image = image.take(range(before, before + min(n, m * P)), axis)
            short = max(m * P - n, 0)
            image = np.pad(image, [(short // 2, short - short // 2) if a == axis else (0, 0) for a in range(3)])
        tiles = image.reshape(whole[0], P, whole[1], P, 3).swapaxes(1, 2)
        return tiles.reshape(-1, P, P, 3)

    return either


def stretched(image, patch_size):
    """The picture resized to whole patches instead of padded."""
    h, w = (-(-n // patch_size) * patch_size for n in image.shape[:2])
    return extract_patches(resize(image, h, w), patch_size)


def reordered(change):
    """`extract_patches` with change(tiles (rows, columns, P, P, 3)) in the place of the tiles."""

    def extract(image, patch_size):
        tiles = extract_patches(image, patch_size)
        grid = patch_grid(image.shape[0], image.shape[1], patch_size)
        return change(tiles.reshape(*grid, *tiles.shape[1:])).reshape(tiles.shape)

    return extract


# --- tokens ----------------------------------------------------------------------------------------------------------


def of_three(numbers, order=(0, 1, 2)):
    """`scales_of` with three scales in another order, or with other rows of the scale table."""

    def scales(height, width, config):
        right = scales_of(height, width, config)
        given = [right[k] for k in order if k < len(right)]
        return [s._replace(scale_index=min(n, len(right) - 1)) for s, n in zip(given, numbers, strict=False)]

    return scales


def lengths(rule):
    """`scales_of` with another number of tokens of every resized scale, rule(scale, config)."""

    def scales(height, width, config):
        right = scales_of(height, width, config)
        count = [max(int(rule(s, config)), 1) if s.longer_side else s.length for s in right]
        return [s._replace(length=n, kept=min(s.rows * s.columns, n)) for s, n in zip(right, count, strict=True)]

    return scales


def padding_moved(last):
    """`batch` with all padded tokens last, or first."""

    def batched(tokens):
        whole = batch(tokens)
        order = np.argsort(whole.mask[0].astype(bool) != last, kind="stable")
        return Tokens(*(a[:, order] for a in whole))

    return batched


def masked(change):
    """`batch` with the mask passed through `change`."""

    def batched(tokens):
        whole = batch(tokens)
        return whole._replace(mask=change(whole.mask.astype(bool)))

    return batched


def cells(rule):
    """`hash_axis` with rule(i, n, G) -> cells, kept within the grid."""

    def axis(n, grid_size, hash_rule="floor"):
        i = np.arange(n, dtype=np.float64)
        return np.clip(np.asarray(rule(i, n, grid_size)).astype(np.int64), 0, grid_size - 1)

    return axis


def places(rule):
    """`hash_index` with rule(row cells, column cells, rows, columns, G) -> index, kept within the table."""

    def index(rows, columns, grid_size, hash_rule="floor"):
        def axis(n, most=0):
            return hash_axis(max(n, most), grid_size, hash_rule)[:n]

        t_row, t_column = axis(rows)[:, None], axis(columns)[None]
        found = rule(t_row, t_column, rows, columns, grid_size, axis)
        return np.mod(np.broadcast_to(found, (rows, columns)).ravel(), grid_size**2)

    return index


AXIS_RULES = {
    "integer hash": lambda i, n, G: i * G // n,
    "half-pixel hash": lambda i, n, G: (i + 0.5) * G / n,
    "hash from corner to corner": lambda i, n, G: np.rint(i * ((G - 1) / max(n - 1, 1))),
    "hash from corner to corner, rounded down": lambda i, n, G: np.floor(i / max(n - 1, 1) * (G - 1)),
    "hash rounded up": lambda i, n, G: np.ceil(i * (G / n)),
    "hash of i·(G − 1)/n": lambda i, n, G: i * (G - 1) / n,
    "hash of i·(G − 1)/n, rounded": lambda i, n, G: np.rint(i * (G - 1) / n),
    "hash of i·G/(n − 1)": lambda i, n, G: i * G / max(n - 1, 1),
    "hash off by one patch, from 1": lambda i, n, G: (i + 1) * G / n,
    "hash off by one cell": lambda i, n, G: np.floor(i * (G / n)) + 1,
    "hash cut off, not scaled": lambda i, n, G: i,
    "hash modulo G": lambda i, n, G: np.mod(i, G),
    "hash in reverse order": lambda i, n, G: G - 1 - np.floor(i * (G / n)),
}
INDEX_RULES = {
    "transposed hash": lambda r, c, rows, columns, G, axis: c * G + r,
    "hash with rows of as many cells as columns": lambda r, c, rows, columns, G, axis: r * columns + c,
    "hash with rows of as many cells as rows": lambda r, c, rows, columns, G, axis: r * rows + c,
    "hash with rows of G − 1 cells": lambda r, c, rows, columns, G, axis: r * (G - 1) + c,
    "hash with rows of G + 1 cells": lambda r, c, rows, columns, G, axis: r * (G + 1) + c,
    "hash of the row only": lambda r, c, rows, columns, G, axis: r * G,
    "hash of the column only": lambda r, c, rows, columns, G, axis: c,
    "hash from 1": lambda r, c, rows, columns, G, axis: r * G + c + 1,
    "hash of the longer side for both": lambda r, c, rows, columns, G, axis: (
        axis(rows, columns)[:, None] * G + axis(columns, rows)[None]),
    "hash of the row's and the column's number exchanged": lambda r, c, rows, columns, G, axis: (
        axis(columns, rows)[0] + np.floor(np.arange(rows) * (G / columns)).astype(int)[:, None] * G
        + np.floor(np.arange(columns) * (G / rows)).astype(int)[None]),
    "hash by running number": lambda r, c, rows, columns, G, axis: np.arange(rows * columns).reshape(rows, columns),
}  # fmt: skip

PAD, NUMBER = 'pad with 0 "SAME": the smaller half before', "number the scales by size, the native one last"
CELL = "the cell is min(⌊i·(G/n)⌋, G − 1) in float32"

MISTAKES = [
    *family("{}", PAD, {
                "padding at the right and bottom only": padded(lambda t: 0),
                "padding at the left and top only": padded(lambda t: t),
                "padding with the larger half first": padded(lambda t: (t + 1) // 2),
                "padded by repeating the edge": padded(mode="edge"),
                "padded with a mirror image (reflect)": padded(mode="reflect"),
                "padded with a mirror image (symmetric)": padded(mode="symmetric"),
                "padded with the other side (wrap)": padded(mode="wrap"),
                "padded before the normalisation": padded(value=-1.0),
                "padded with white": padded(value=1.0),
                "padded by repeating the edge, at the right and bottom": padded(lambda t: 0, mode="edge"),
                "padded with black at the right and bottom": padded(lambda t: 0, value=-1.0),
            }, "extract_patches", lambda f: f, "patches"),
    Mistake("incomplete patches dropped", "pad the last row and column of patches instead",
            "extract_patches", without_padding, "patches"),
    *family("{} of the picture dropped", "pad the last row and column of patches instead", {
                "remainder at the right and bottom": lambda rest: 0, "remainder on all sides": lambda rest: rest // 2,
            }, "patch_grid extract_patches", remainder_dropped, "layout"),
    Mistake("picture stretched to whole patches", PAD, "extract_patches", stretched, "patches"),
    *family("{}", "order the patches row by row, and a patch's values row, column, channel", {
                "channel-first patches": lambda t: np.moveaxis(t, -1, -3),
                "patches column by column": lambda t: t.swapaxes(0, 1),
                "patches transposed, rows and columns exchanged": lambda t: t.swapaxes(2, 3),
                "patches in reverse order": lambda t: t[::-1, ::-1],
                "patches upside down": lambda t: t[:, :, ::-1],
                "patches cut without moving the axes": lambda t: t.swapaxes(1, 2),
            }, "extract_patches", reordered, "patches"),
    Mistake("native first", "put the native image last", stage="layout",
            topic="scale order", conventions={"scale_order": "native_first"}),
    Mistake("native last", "put the native image first", stage="layout",
            topic="scale order", conventions={"scale_order": "native_last"}),
    Mistake("missing native scale", "add the native image as the last scale",
            "scales_of",
            lambda *given: [s for s in scales_of(*given) if s.longer_side] or scales_of(*given), "layout"),
    Mistake("third scale embedding unused", "give the native image the last row of the scale table",
            "scales_of", of_three((0, 1, 1)), "scale_index"),
    *family("scales numbered {}", NUMBER, {
                ", ".join(map(str, numbers)): numbers for numbers in itertools.product(range(3), repeat=3)
                if numbers not in ((0, 1, 2), (0, 1, 1))
            }, "scales_of", of_three, "scale_index", when=lambda config: config.scales == 3),
    *family("scales in the order {}", "number the scales by size, in the order of their tokens", {
                f"{', '.join(map(str, order))}{how}": (numbers, order)
                for order in itertools.permutations(range(3)) if order != (0, 1, 2)
                for how, numbers in ((", numbered anew", (0, 1, 2)), ("", order))
            }, "scales_of", lambda how: of_three(*how), "layout", when=lambda config: config.scales == 3),
    *family("{} tokens of every scale", "a scale of longer side L has ⌈L/P⌉² tokens", {
                "⌊L/P⌋²": lambda s, config: (s.longer_side // config.patch_size) ** 2,
                "as many as the largest has": lambda s, config: math.ceil(
                    max(config.longer_sides) / config.patch_size) ** 2,
                "⌈L/P⌉": lambda s, config: math.ceil(s.longer_side / config.patch_size),
            }, "scales_of", lengths, "layout", when=lambda config: bool(config.longer_sides)),
    Mistake("padding all at the end", "pad every scale to its own length", "batch", padding_moved(True), "hash_index"),
    Mistake("padding in front", "pad every scale at its end", "batch", padding_moved(False), "hash_index"),
    Mistake("padding not marked in the mask", "set the mask to 0 at padded tokens",
            "batch", masked(np.ones_like), "mask"),
    Mistake("mask upside down", "1 means valid (PyTorch's key_padding_mask is the opposite)",
            "batch", masked(np.logical_not), "mask"),
    Mistake("rounded hash", "round the hash down", stage="integers/hash", topic="hash", conventions={"hash": "round"}),
    Mistake("hash rounded down", "round the hash to the nearest", stage="integers/hash",
            topic="hash", conventions={"hash": "floor"}),
    *family("{}", CELL, AXIS_RULES, "hash_axis", cells, "integers/hash", "hash"),
    *family("hash on a grid of {} cells", CELL, (4, 7, 8, 9, 11, 12, 14, 16), "hash_axis",
            lambda G: cells(lambda i, n, _: np.floor(i * (G / n))), "integers/hash", "hash"),
    *family("hash on a grid of {} cells with rows of as many", CELL, (4, 7, 8, 9), "hash_index",
            lambda G: lambda rows, columns, grid_size, hash_rule="floor": hash_index(rows, columns, G, hash_rule),
            "hash_index", "hash"),
    *family("{}", "the index is row·G + column", INDEX_RULES, "hash_index", places, "hash_index", "hash"),
]  # fmt: skip
