"""From pixels to tokens, as people get it wrong (SPEC 3)."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_array

from musiq_ref.image.hash import hash_axis
from musiq_ref.image.patches import extract_patches, patch_grid
from musiq_ref.image.resize import resize
from musiq_ref.image.tokenize import Tokens, batch, normalize, scales_of
from musiq_ref.verify.mistakes.mistake import Mistake, family

# --- pixels ----------------------------------------------------------------------------------------------------------


def sides_with(rule):
    """`resized_sides` with another rule (height, width, longer side) -> the two sides."""
    return lambda height, width, longer_side, arithmetic="float32": tuple(
        max(int(n), 1) for n in rule(height, width, longer_side)
    )


def rounded_with(rounding):
    return lambda h, w, side: (rounding(h * (side / max(h, w))), rounding(w * (side / max(h, w))))


def filter_matrix(kernel, support: float, antialias=False, edge="clamped", shift=0.0, corners=False, divided=True):
    """The matrix of any filter kernel.

    edge: what becomes of pixels beyond it: "clamped" onto it, or "left out"
    shift: of every position; corners: whether the first and last pixels are kept where they are
    divided: whether the weights of a position are divided by their sum
    """

    def matrix(n_in, n_out, dtype="float64"):
        wide = max(n_in / n_out, 1) if antialias else 1
        centre = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5 + shift * (n_in / n_out - 1)
        if corners:
            centre = np.arange(n_out) * ((n_in - 1) / max(n_out - 1, 1))
        reach = math.ceil(support * wide)
        place = np.floor(centre)[:, None].astype(int) + np.arange(-reach, reach + 2)
        weight = kernel((place - centre[:, None]) / wide)
        if edge == "left out":
            weight = np.where((place < 0) | (place >= n_in), 0, weight)
        weight = (weight / weight.sum(axis=1, keepdims=True) if divided else weight).astype(dtype)
        rows = np.repeat(np.arange(n_out), place.shape[1])
        return csr_array((weight.ravel(), (rows, np.clip(place, 0, n_in - 1).ravel())), shape=(n_out, n_in))

    return matrix


def triangle(d):
    return np.maximum(1 - np.abs(d), 0)


def box(d):
    return ((d >= -0.5) & (d < 0.5)).astype(float)


def gaussian(sigma=0.5, radius=1.5, inclusive=False):
    def kernel(d):
        inside = np.abs(d) <= radius if inclusive else np.abs(d) < radius
        return np.where(inside, np.exp(-d * d / (2 * sigma**2)), 0)

    return kernel


def cubic(a):
    """Cubic convolution: a = −0.5 in Pillow and TensorFlow, −0.75 in PyTorch and OpenCV."""

    def kernel(d):
        d = np.abs(d)
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))

    return kernel


def lanczos(d):
    return np.where(np.abs(d) < 3, np.sinc(d) * np.sinc(d / 3), 0)


def area(n_in, n_out, dtype="float64"):
    """The mean of all pixels that an output pixel touches (PyTorch's "area")."""
    first, last = np.arange(n_out) * n_in // n_out, -(-(np.arange(1, n_out + 1) * n_in) // n_out)
    inside = (np.arange(n_in) >= first[:, None]) & (np.arange(n_in) < last[:, None])
    return csr_array((inside / inside.sum(1, keepdims=True)).astype(dtype))


def nearest_floor(n_in, n_out, dtype="float64"):
    """Pixel ⌊i·in/out⌋ (PyTorch's "nearest")."""
    return csr_array((np.arange(n_in) == (np.arange(n_out) * n_in // n_out)[:, None]).astype(dtype))


FILTERS_OF = {
    "antialiased bicubic": filter_matrix(cubic(-0.5), 2, True, "left out"),
    "bicubic with a = −0.5": filter_matrix(cubic(-0.5), 2),
    "bicubic with a = −0.75 at the edge left out": filter_matrix(cubic(-0.75), 2, False, "left out"),
    "antialiased bicubic with a = −0.75": filter_matrix(cubic(-0.75), 2, True, "left out"),
    "bicubic with aligned corners": filter_matrix(cubic(-0.75), 2, corners=True),
    "bilinear resize": filter_matrix(triangle, 1),
    "antialiased bilinear": filter_matrix(triangle, 1, True, "left out"),
    "bilinear with aligned corners": filter_matrix(triangle, 1, corners=True),
    "bilinear without half-pixel centres": filter_matrix(triangle, 1, shift=-0.5),
    "Lanczos resize": filter_matrix(lanczos, 3),
    "antialiased Lanczos": filter_matrix(lanczos, 3, True, "left out"),
    "area resize": area,
    "antialiased box": filter_matrix(box, 1, True, "left out"),
    "nearest-neighbour resize": filter_matrix(box, 1),
    "nearest-neighbour resize, rounded down": nearest_floor,
    "antialiased gaussian": filter_matrix(gaussian(), 1.5, True, "left out"),
    "gaussian with taps clamped to the edge": filter_matrix(gaussian(), 1.5),
    "gaussian with an inclusive radius": filter_matrix(gaussian(inclusive=True), 1.5, False, "left out"),
    "gaussian not divided by the sum of its weights": filter_matrix(gaussian(), 1.5, False, "left out", divided=False),
    "gaussian with aligned corners": filter_matrix(gaussian(), 1.5, False, "left out", corners=True),
    "gaussian without half-pixel centres": filter_matrix(gaussian(), 1.5, False, "left out", shift=-0.5),
    **{f"gaussian with σ {s}": filter_matrix(gaussian(v), 1.5, False, "left out")
       for s, v in {"0.25": 0.25, "√½·0.5": math.sqrt(0.125), "0.7": 0.7, "√0.5": math.sqrt(0.5), "1": 1.0, "2": 2.0}.items()},
    **{f"gaussian with radius {r}": filter_matrix(gaussian(radius=r), r, False, "left out") for r in (1, 2, 2.5, 3)},
}  # fmt: skip


def resize_unless_same(image, height, width, kind="gaussian"):
    return image if image.shape[:2] == (height, width) else resize(image, height, width, kind)


def resize_in_8_bit(rounding):
    def resized(image, height, width, kind="gaussian"):
        levels = resize((image + 1) * image.dtype.type(127.5), height, width, kind)
        return np.clip(rounding(levels), 0, 255) / image.dtype.type(127.5) - 1

    return resized


def ranged(mean, std):
    """`normalize` to (u/255 − mean)/std; of single numbers or of one for every channel."""
    return lambda image, dtype="float32": (
        (image.astype(dtype) / np.dtype(dtype).type(255) - np.array(mean, dtype)) / np.array(std, dtype)
    )


def seen_as(change):
    """`normalize` of a changed picture."""
    return lambda image, dtype="float32": normalize(np.ascontiguousarray(change(image)), dtype)


def luma(image):
    grey = np.rint(image.astype(float) @ [0.299, 0.587, 0.114])
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)


def grey(x, dtype="float32"):
    x = normalize(x, dtype)
    return np.repeat(x.mean(axis=-1, keepdims=True), 3, axis=-1)


def linear_light(image, dtype="float32"):
    v = image.astype(dtype) / np.dtype(dtype).type(255)
    return (2 * np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4) - 1).astype(dtype)


# --- patches ---------------------------------------------------------------------------------------------------------


def padded(before=lambda total: total // 2, mode="constant", value=0.0):
    """`extract_patches` with another share of the padding before, or another padding."""

    def extract(image, patch_size):
        total = [-n % patch_size for n in image.shape[:2]]
        sides = [(before(t), t - before(t)) for t in total]
        options = {"constant_values": value} if mode == "constant" else {}
        return extract_patches(np.pad(image, (*sides, (0, 0)), mode=mode, **options), patch_size)

    return extract


def without_padding(image, patch_size):
    """Pixels beyond the last whole patch are thrown away and come back as zeros: a floor instead of a ceil."""
    h, w = (max(n // patch_size, 1) * patch_size for n in image.shape[:2])
    kept = np.zeros_like(image)
    kept[:h, :w] = image[:h, :w]
    return extract_patches(kept, patch_size)


def reordered(change):
    """`extract_patches` with change(tiles (rows, columns, P, P, 3)) in the place of the tiles."""

    def extract(image, patch_size):
        tiles = extract_patches(image, patch_size)
        grid = patch_grid(image.shape[0], image.shape[1], patch_size)
        return change(tiles.reshape(*grid, *tiles.shape[1:])).reshape(tiles.shape)

    return extract


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


def padding_first(tokens):
    whole = batch(tokens)
    order = np.argsort(whole.mask[0].astype(bool), kind="stable")
    return Tokens(*(a[:, order] for a in whole))


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

SIDES, PIXELS = "integers/sides", "pixels/scale_*"
FILTERS, RESCALE = "gaussian_matrix bicubic_matrix", "normalise to −1 … 1: x = 2·u/255 − 1"
ROUND, NUMBER = "round the resized sides half to even (np.rint)", "number the scales by size, the native one last"
FILTER, PAD = "use the filter of the reference", 'pad with 0 "SAME": the smaller half before'
CELL = "the cell is min(⌊i·(G/n)⌋, G − 1) in float32"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLIP = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

MISTAKES = [
    Mistake("float64 rounding of sides", "compute the resized sides in float32, as the authors do", stage=SIDES,
            topic="resized sides", conventions={"resized_sides": "float64"}),
    Mistake("float32 rounding of sides", "compute the resized sides in float64", stage=SIDES,
            topic="resized sides", conventions={"resized_sides": "float32"}),
    *family("sides {}", ROUND, {
                "cut off, not rounded": rounded_with(math.floor),
                "rounded half up": rounded_with(lambda x: math.floor(x + 0.5)),
                "rounded up": rounded_with(math.ceil),
                "rounded to even numbers": rounded_with(lambda x: 2 * round(x / 2)),
                "rounded to multiples of 32": rounded_with(lambda x: 32 * max(round(x / 32), 1)),
            }, "resized_sides", sides_with, SIDES, "resized sides"),
    *family("sides {}", "the longer side becomes L, the shorter one keeps the picture's shape", {
                "stretched to a square": lambda h, w, side: (side, side),
                "of which the shorter becomes L": lambda h, w, side: (round(h * side / min(h, w)), round(w * side / min(h, w))),
                "exchanged": lambda h, w, side: rounded_with(round)(w, h, side),
            }, "resized_sides", sides_with, SIDES, "resized sides"),
    Mistake("gaussian resize", "resize with PyTorch's bicubic filter", stage=PIXELS,
            topic="resize", conventions={"resize": "gaussian"}),
    Mistake("bicubic resize", "resize with the authors' Gaussian filter", stage=PIXELS,
            topic="resize", conventions={"resize": "bicubic"}),
    *family("{}", FILTER, FILTERS_OF, FILTERS, lambda matrix: matrix, PIXELS, "resize"),
    Mistake("skipped same-size blur", "apply the filter even when the size stays the same",
            "resize", resize_unless_same, PIXELS, "resize", under={"resize": "gaussian"}),
    *family("resized in 8 bit{}", "resize in floating point, after the normalisation",
            {"": np.rint, ", cut off": np.floor}, "resize", resize_in_8_bit, PIXELS),
    *family("{} input", RESCALE, {
                "[0, 1]": (0, 1), "[0, 255]": (0, 1 / 255), "[−0.5, 0.5]": (0.5, 1), "[−2, 2]": (0.5, 0.25),
                "[−128, 127]": (128 / 255, 1 / 255), "u/256": (128 / 256, 0.5 * 256 / 255), "u/128 − 1": (128 / 255, 128 / 255),
                "2·u/256 − 1": (127.5 / 255 * 256 / 255, 128 / 255), "inverted": (0.5, -0.5),
            }, "normalize", lambda v: ranged(*v), PIXELS),
    *family("{} normalisation", RESCALE, {
                "ImageNet": (MEAN, STD), "ImageNet mean only,": (MEAN, 1), "ImageNet normalisation on top of the": (
                    [(m + 1) / 2 for m in MEAN], [s / 2 for s in STD]), "CLIP": CLIP,
                "Caffe": ([123.68 / 255, 116.779 / 255, 103.939 / 255], 1 / 255),
            }, "normalize", lambda v: ranged(*v), PIXELS),
    *family("{}", "give the channels as red, green, blue (OpenCV reads blue first)", {
                "BGR": lambda u: u[..., ::-1], "channels in the order green, red, blue": lambda u: u[..., [1, 0, 2]],
                "channels in the order red, blue, green": lambda u: u[..., [0, 2, 1]],
                "channels in the order green, blue, red": lambda u: u[..., [1, 2, 0]],
                "channels in the order blue, red, green": lambda u: u[..., [2, 0, 1]],
                "grey by luma": luma, "first channel three times": lambda u: u[..., [0, 0, 0]],
            }, "normalize", seen_as, PIXELS),
    Mistake("grey, the mean of the channels", "keep the colours", "normalize", grey, PIXELS),
    Mistake("linear light", "keep the picture's gamma", "normalize", linear_light, PIXELS),
    *family("picture {}", "read the picture as it is", {
                "upside down": lambda u: u[::-1], "mirrored": lambda u: u[:, ::-1], "turned by 180°": lambda u: u[::-1, ::-1],
            }, "normalize", seen_as, PIXELS),
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
            "scales_of", scales_without_native, "layout"),
    Mistake("third scale embedding unused", "give the native image the last row of the scale table",
            "scales_of", renumbered(lambda k, n: min(k, max(n - 2, 0))), "scale_index"),
    *family("{}", NUMBER, {
                "scales numbered from the native one": lambda k, n: (k + 1) % n,
                "scales numbered backwards": lambda k, n: n - 1 - k,
                "scales numbered with the first two exchanged": lambda k, n: [1, 0, *range(2, n)][k] if n > 1 else k,
                "scales numbered with the last two exchanged": lambda k, n: [*range(n - 2), n - 1, n - 2][k] if n > 1 else k,
                "scales all numbered 0": lambda k, n: 0,
            }, "scales_of", renumbered, "scale_index"),
    Mistake("padding all at the end", "pad every scale to its own length", "batch", padding_last, "hash_index"),
    Mistake("padding in front", "pad every scale at its end", "batch", padding_first, "hash_index"),
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
    *family("{}", "the index is row·G + column", INDEX_RULES, "hash_index", places, "hash_index", "hash"),
]  # fmt: skip
