"""From pixels to tokens, as people get it wrong (SPEC 3)."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_array

from musiq_ref.image.hash import hash_axis
from musiq_ref.image.patches import extract_patches, patch_grid, same_padding
from musiq_ref.image.resize import resize
from musiq_ref.image.tokenize import Tokens, batch, scales_of
from musiq_ref.verify.mistakes.mistake import Mistake

# --- pixels ----------------------------------------------------------------------------------------------------------


def sides_with(rounding):
    """`resized_sides` in float64 with another rounding."""

    def resized_sides(height, width, longer_side, arithmetic="float32"):
        ratio = longer_side / max(height, width)
        return max(int(rounding(height * ratio)), 1), max(int(rounding(width * ratio)), 1)

    return resized_sides


def filter_matrix(kernel, support: float, antialias: bool):
    """The matrix of any filter kernel at half-pixel centres."""

    def matrix(n_in, n_out, dtype="float64"):
        wide = max(n_in / n_out, 1) if antialias else 1
        centre = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
        reach = math.ceil(support * wide)
        place = np.floor(centre)[:, None].astype(int) + np.arange(-reach, reach + 2)
        weight = kernel((place - centre[:, None]) / wide)
        if antialias:
            weight = np.where((place < 0) | (place >= n_in), 0, weight)
        weight = (weight / weight.sum(axis=1, keepdims=True)).astype(dtype)
        rows = np.repeat(np.arange(n_out), place.shape[1])
        return csr_array((weight.ravel(), (rows, np.clip(place, 0, n_in - 1).ravel())), shape=(n_out, n_in))

    return matrix


def triangle(d):
    return np.maximum(1 - np.abs(d), 0)


def box(d):
    return ((d >= -0.5) & (d < 0.5)).astype(float)


def gaussian(d):
    return np.where(np.abs(d) < 1.5, np.exp(-2 * d * d), 0)


def cubic(d):
    """Cubic convolution with a = −0.5 (Pillow, TensorFlow)."""
    d = np.abs(d)
    return np.where(d <= 1, (1.5 * d - 2.5) * d * d + 1, np.where(d < 2, ((-0.5 * d + 2.5) * d - 4) * d + 2, 0))


def corner_aligned(n_in, n_out, dtype="float64"):
    """Bilinear with align_corners=True."""
    centre = np.arange(n_out) * ((n_in - 1) / max(n_out - 1, 1))
    left = np.minimum(np.floor(centre).astype(int), max(n_in - 2, 0))
    t = centre - left
    rows = np.repeat(np.arange(n_out), 2)
    place = np.stack([left, np.minimum(left + 1, n_in - 1)], axis=1)
    return csr_array((np.stack([1 - t, t], 1).astype(dtype).ravel(), (rows, place.ravel())), shape=(n_out, n_in))


def resize_unless_same(image, height, width, kind="gaussian"):
    return image if image.shape[:2] == (height, width) else resize(image, height, width, kind)


def resize_in_8_bit(image, height, width, kind="gaussian"):
    levels = resize((image + 1) * image.dtype.type(127.5), height, width, kind)
    return np.clip(np.rint(levels), 0, 255) / image.dtype.type(127.5) - 1


def in_0_1(image, dtype="float32"):
    return image.astype(dtype) / np.dtype(dtype).type(255)


def in_0_255(image, dtype="float32"):
    return image.astype(dtype)


def imagenet_normalised(image, dtype="float32"):
    mean, std = np.array([0.485, 0.456, 0.406], dtype), np.array([0.229, 0.224, 0.225], dtype)
    return (in_0_1(image, dtype) - mean) / std


def bgr(image, dtype="float32"):
    return -1 + 2 * in_0_1(image[..., ::-1], dtype)


# --- patches ---------------------------------------------------------------------------------------------------------


def padded_at_the_end(image, patch_size):
    missing = [(0, -n % patch_size) for n in image.shape[:2]]
    return extract_patches(np.pad(image, (*missing, (0, 0))), patch_size)


def padded_with_black(image, patch_size):
    """Zero padding before the normalisation, which makes it −1."""
    return extract_patches(image + 1, patch_size) - 1


def padded_with_edge(image, patch_size):
    sides = [same_padding(n, patch_size, patch_size) for n in image.shape[:2]]
    return extract_patches(np.pad(image, (*sides, (0, 0)), mode="edge"), patch_size)


def without_padding(image, patch_size):
    """Pixels beyond the last whole patch are thrown away and come back as zeros: a floor instead of a ceil."""
    h, w = (max(n // patch_size, 1) * patch_size for n in image.shape[:2])
    kept = np.zeros_like(image)
    kept[:h, :w] = image[:h, :w]
    return extract_patches(kept, patch_size)


def channel_first(image, patch_size):
    """Values laid out channel, row, column, and read as row, column, channel."""
    tiles = extract_patches(image, patch_size)
    return np.moveaxis(tiles, -1, -3).reshape(tiles.shape)


def columns_first(image, patch_size):
    tiles = extract_patches(image, patch_size)
    rows, columns = patch_grid(image.shape[0], image.shape[1], patch_size)
    return tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(0, 1).reshape(tiles.shape)


# --- tokens ----------------------------------------------------------------------------------------------------------


def scales_without_native(height, width, config):
    scales = scales_of(height, width, config)
    return [s for s in scales if s.longer_side] or scales


def renumbered(number):
    """`scales_of` with number(index, count of scales) as the row of the scale table."""

    def scales(height, width, config):
        right = scales_of(height, width, config)
        return [s._replace(scale_index=number(s.scale_index, len(right))) for s in right]

    return scales


def padding_last(tokens):
    whole = batch(tokens)
    order = np.argsort(~whole.mask[0].astype(bool), kind="stable")
    return Tokens(*(a[:, order] for a in whole))


def masked(change):
    """`batch` with the mask passed through `change`."""

    def batched(tokens):
        whole = batch(tokens)
        return whole._replace(mask=change(whole.mask.astype(bool)))

    return batched


def half_pixel_hash(n, grid_size, rule="floor"):
    return np.minimum(((np.arange(n) + 0.5) * grid_size / n).astype(np.int64), grid_size - 1)


def integer_hash(n, grid_size, rule="floor"):
    return np.minimum(np.arange(n) * grid_size // n, grid_size - 1)


def corner_hash(n, grid_size, rule="floor"):
    """First patch in the first cell, last patch in the last."""
    return np.rint(np.arange(n) * ((grid_size - 1) / max(n - 1, 1))).astype(np.int64)


def transposed_hash(rows, columns, grid_size, rule="floor"):
    t_row, t_column = hash_axis(rows, grid_size, rule), hash_axis(columns, grid_size, rule)
    return (t_column[None] * grid_size + t_row[:, None]).ravel()


SIDES, PIXELS = "integers/sides", "pixels/scale_*"
FILTERS, RESCALE = "gaussian_matrix bicubic_matrix", "normalise to −1 … 1: x = 2·u/255 − 1"
ROUND, NUMBER = "round the resized sides half to even (np.rint)", "number the scales by size, the native one last"

MISTAKES = [
    Mistake("float64 rounding of sides", "compute the resized sides in float32, as the authors do", stage=SIDES,
            topic="resized sides", conventions={"resized_sides": "float64"}),
    Mistake("float32 rounding of sides", "compute the resized sides in float64", stage=SIDES,
            topic="resized sides", conventions={"resized_sides": "float32"}),
    Mistake("sides cut off, not rounded", ROUND, "resized_sides", sides_with(math.floor), SIDES, "resized sides"),
    Mistake("sides rounded half up", ROUND, "resized_sides", sides_with(lambda x: math.floor(x + 0.5)), SIDES,
            "resized sides"),
    Mistake("sides rounded up", ROUND, "resized_sides", sides_with(math.ceil), SIDES, "resized sides"),
    Mistake("gaussian resize", "resize with PyTorch's bicubic filter", stage=PIXELS,
            topic="resize", conventions={"resize": "gaussian"}),
    Mistake("bicubic resize", "resize with the authors' Gaussian filter", stage=PIXELS,
            topic="resize", conventions={"resize": "bicubic"}),
    Mistake("antialiased bicubic", "switch antialiasing off, and use the authors' filter",
            FILTERS, filter_matrix(cubic, 2, True), PIXELS, "resize"),
    Mistake("bicubic with a = −0.5", "use the filter of the reference",
            FILTERS, filter_matrix(cubic, 2, False), PIXELS, "resize"),
    Mistake("bilinear resize", "use the filter of the reference",
            FILTERS, filter_matrix(triangle, 1, False), PIXELS, "resize"),
    Mistake("antialiased bilinear", "switch antialiasing off, and use the filter of the reference",
            FILTERS, filter_matrix(triangle, 1, True), PIXELS, "resize"),
    Mistake("bilinear with aligned corners", "use half-pixel centres and the filter of the reference",
            FILTERS, corner_aligned, PIXELS, "resize"),
    Mistake("nearest-neighbour resize", "use the filter of the reference",
            FILTERS, filter_matrix(box, 1, False), PIXELS, "resize"),
    Mistake("antialiased gaussian", "switch antialiasing off",
            FILTERS, filter_matrix(gaussian, 1.5, True), PIXELS, "resize"),
    Mistake("skipped same-size blur", "apply the filter even when the size stays the same",
            "resize", resize_unless_same, PIXELS, "resize", under={"resize": "gaussian"}),
    Mistake("resized in 8 bit", "resize in floating point, after the normalisation", "resize", resize_in_8_bit, PIXELS),
    Mistake("[0, 1] input", RESCALE, "normalize", in_0_1, PIXELS),
    Mistake("[0, 255] input", RESCALE, "normalize", in_0_255, PIXELS),
    Mistake("ImageNet normalisation", RESCALE, "normalize", imagenet_normalised, PIXELS),
    Mistake("BGR", "give the channels as red, green, blue (OpenCV reads blue first)", "normalize", bgr, PIXELS),
    Mistake("channel-first patches", "order a patch's values row, column, channel",
            "extract_patches", channel_first, "patches"),
    Mistake("patches column by column", "order the patches row by row", "extract_patches", columns_first, "patches"),
    Mistake("padding at the right and bottom only", 'pad "SAME": the smaller half before',
            "extract_patches", padded_at_the_end, "patches"),
    Mistake("padded before the normalisation", "pad with 0 after the normalisation",
            "extract_patches", padded_with_black, "patches"),
    Mistake("padded by repeating the edge", "pad with 0", "extract_patches", padded_with_edge, "patches"),
    Mistake("incomplete patches dropped", "pad the last row and column of patches instead",
            "extract_patches", without_padding, "patches"),
    Mistake("native first", "put the native image last", stage="layout",
            topic="scale order", conventions={"scale_order": "native_first"}),
    Mistake("native last", "put the native image first", stage="layout",
            topic="scale order", conventions={"scale_order": "native_last"}),
    Mistake("missing native scale", "add the native image as the last scale",
            "scales_of", scales_without_native, "layout"),
    Mistake("third scale embedding unused", "give the native image the last row of the scale table",
            "scales_of", renumbered(lambda k, n: min(k, max(n - 2, 0))), "scale_index"),
    Mistake("scales numbered from the native one", NUMBER,
            "scales_of", renumbered(lambda k, n: (k + 1) % n), "scale_index"),
    Mistake("scales numbered backwards", NUMBER, "scales_of", renumbered(lambda k, n: n - 1 - k), "scale_index"),
    Mistake("padding all at the end", "pad every scale to its own length", "batch", padding_last, "hash_index"),
    Mistake("padding not marked in the mask", "set the mask to 0 at padded tokens",
            "batch", masked(np.ones_like), "mask"),
    Mistake("mask upside down", "1 means valid (PyTorch's key_padding_mask is the opposite)",
            "batch", masked(np.logical_not), "mask"),
    Mistake("rounded hash", "round the hash down", stage="integers/hash", topic="hash", conventions={"hash": "round"}),
    Mistake("hash rounded down", "round the hash to the nearest", stage="integers/hash",
            topic="hash", conventions={"hash": "floor"}),
    Mistake("integer hash", "compute i·(G/n) in float32, as the authors do",
            "hash_axis", integer_hash, "integers/hash", "hash"),
    Mistake("half-pixel hash", "hash the index of a patch, not its centre",
            "hash_axis", half_pixel_hash, "integers/hash", "hash"),
    Mistake("hash from corner to corner", "scale by G/n, not by (G − 1)/(n − 1)",
            "hash_axis", corner_hash, "integers/hash", "hash"),
    Mistake("transposed hash", "the index is row·G + column", "hash_index", transposed_hash, "hash_index", "hash"),
]  # fmt: skip
