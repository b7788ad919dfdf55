"""From a picture to the pixels of every scale, as people get them wrong (SPEC 3)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from musiq_ref.image.resize import resize
from musiq_ref.image.tokenize import normalize
from musiq_ref.verify.mistakes.mistake import Mistake, family


def sides_with(rule):
    """`resized_sides` with another rule (height, width, longer side) -> the two sides."""
    return lambda height, width, longer_side, arithmetic="float32": tuple(
        max(int(n), 1) for n in rule(height, width, longer_side)
    )


def rounded_with(rounding, number: Any = np.float64):
    def rule(h, w, side):
        ratio = number(side) / number(max(h, w))
        return rounding(number(h) * ratio), rounding(number(w) * ratio)

    return rule


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


def area_in_parts(n_in, n_out, dtype="float64"):
    """The mean over n_in/n_out pixels, of the outermost only the parts inside (OpenCV's INTER_AREA)."""
    first, wide = np.arange(n_out)[:, None] * (n_in / n_out), n_in / n_out
    inside = np.minimum(np.arange(1, n_in + 1), first + wide) - np.maximum(np.arange(n_in), first)
    return csr_array((np.maximum(inside, 0) / wide).astype(dtype))


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
    "area resize": area, "area resize with parts of pixels": area_in_parts,
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
       for s, v in {"0.25": 0.25, "√½·0.5": math.sqrt(0.125), "0.7": 0.7, "√0.5": math.sqrt(0.5), "1": 1.0,
       "2": 2.0}.items()},
    **{f"gaussian with radius {r}": filter_matrix(gaussian(radius=r), r, False, "left out") for r in (1, 2, 2.5, 3)},
}  # fmt: skip


def resize_unless_same(image, height, width, kind="gaussian"):
    return image if image.shape[:2] == (height, width) else resize(image, height, width, kind)


def native_blurred(name, pixels, seen, config):
    native = 0 if config.conventions.scale_order == "native_first" else len(config.longer_sides)
    return resize(pixels, *pixels.shape[:2]) if name == f"pixels/scale_{native}" else pixels


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


SIDES, PIXELS = "integers/sides", "pixels/scale_*"
FILTERS, RESCALE = "gaussian_matrix bicubic_matrix", "normalise to −1 … 1: x = 2·u/255 − 1"
ROUND = "round the resized sides half to even (np.rint)"
FILTER = "use the filter of the reference"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLIP = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

MISTAKES = [
    Mistake("float64 rounding of sides", "compute the resized sides in float32, as the authors do", stage=SIDES,
            topic="resized sides", conventions={"resized_sides": "float64"}),
    Mistake("float32 rounding of sides", "compute the resized sides in float64", stage=SIDES,
            topic="resized sides", conventions={"resized_sides": "float32"}),
    *family("sides {}", ROUND, {
                f"{words}{how}": rounded_with(rounding, number) for how, number in (
                    ("", np.float32), (" in float64", np.float64)) for words, rounding in {
                        "cut off, not rounded": np.floor, "rounded up": np.ceil,
                        "rounded half up": lambda x: np.floor(x + 0.5),
                        "rounded to even numbers": lambda x: 2 * np.rint(x / 2),
                        "rounded to multiples of 32": lambda x: 32 * max(np.rint(x / 32), 1),
                    }.items()
            }, "resized_sides", sides_with, SIDES, "resized sides"),
    *family("sides {}", "the longer side becomes L, the shorter one keeps the picture's shape", {
                "stretched to a square": lambda h, w, side: (side, side),
                "of which the shorter becomes L": lambda h, w, side: (round(h * side / min(h, w)),
                round(w * side / min(h, w))),
                "exchanged": lambda h, w, side: rounded_with(round)(w, h, side),
            }, "resized_sides", sides_with, SIDES, "resized sides"),
    Mistake("gaussian resize", "resize with PyTorch's bicubic filter", stage=PIXELS,
            topic="resize", conventions={"resize": "gaussian"}),
    Mistake("bicubic resize", "resize with the authors' Gaussian filter", stage=PIXELS,
            topic="resize", conventions={"resize": "bicubic"}),
    *family("{}", FILTER, FILTERS_OF, FILTERS, lambda matrix: matrix, PIXELS, "resize"),
    Mistake("skipped same-size blur", "apply the filter even when the size stays the same",
            "resize", resize_unless_same, PIXELS, "resize", under={"resize": "gaussian"}),
    Mistake("native image blurred", "leave the native image as it is; the filter is for the resized scales alone",
            stage=PIXELS, tap=native_blurred, under={"resize": "gaussian"}, when=lambda config: config.native),
    *family("resized in 8 bit{}", "resize in floating point, after the normalisation",
            {"": np.rint, ", cut off": np.floor}, "resize", resize_in_8_bit, PIXELS),
    *family("{} input", RESCALE, {
                "[0, 1]": (0, 1), "[0, 255]": (0, 1 / 255), "[−0.5, 0.5]": (0.5, 1), "[−2, 2]": (0.5, 0.25),
                "[−128, 127]": (128 / 255, 1 / 255), "u/256": (128 / 256, 0.5 * 256 / 255),
                "u/128 − 1": (128 / 255, 128 / 255), "inverted": (0.5, -0.5),
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
                "upside down": lambda u: u[::-1], "mirrored": lambda u: u[:, ::-1],
                "turned by 180°": lambda u: u[::-1, ::-1],
            }, "normalize", seen_as, PIXELS),
    *family("picture {}", "read the picture as it is, rows first", {
                "transposed, height and width exchanged": lambda u: u.swapaxes(0, 1),
                "turned by 90°": np.rot90, "turned by −90°": lambda u: np.rot90(u, -1),
            }, "normalize", seen_as, "hash_index"),
]  # fmt: skip
