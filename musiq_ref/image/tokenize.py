"""From pixels to tokens: the image at every scale, in patches, each with its place and its scale (SPEC 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from musiq_ref.backend import NUMPY, Array, Backend, namespace
from musiq_ref.config import MusiqConfig
from musiq_ref.image.decode import ImageLike, decode
from musiq_ref.image.hash import hash_index
from musiq_ref.image.patches import extract_patches, extract_patches_backward, patch_grid
from musiq_ref.image.resize import resize, resize_backward, resized_sides
from musiq_ref.reprs import short_table, short_text


class Tokens(NamedTuple):
    """What the model reads: N tokens of one image, or (B, N) of a batch.

    patches: (N, P, P, 3), floating, −1 … 1
    hash_index: (N,), in 0 … G² − 1
    scale_index: (N,), in 0 … S − 1
    mask: (N,), True where a token is valid and False where it is padding

    >>> tokenize(np.zeros((480, 640, 3), np.uint8), MusiqConfig())  # doctest: +NORMALIZE_WHITESPACE
    Tokens(patches=float32 (493, 32, 32, 3), hash_index=int64 (493,), scale_index=int64 (493,),
           mask=bool (493,), 450 True)
    """

    patches: Any
    hash_index: Any
    scale_index: Any
    mask: Any

    def __repr__(self) -> str:
        return short_text(self)

    def _repr_html_(self) -> str:
        return short_table(self)


class Scale(NamedTuple):
    """One scale of the multi-scale input: its place in the token sequence and its size.

    longer_side: 0 for the native image
    scale_index: into the scale embedding
    height, width: in pixels
    rows, columns: of patches
    length: tokens of this scale
    kept: how many of the rows·columns patches are used
    """

    longer_side: int
    scale_index: int
    height: int
    width: int
    rows: int
    columns: int
    length: int
    kept: int


def scales_of(height: int, width: int, config: MusiqConfig) -> list[Scale]:
    """The scales of an image of that size, in the order of their tokens.

    >>> [(s.height, s.width, s.kept, s.length) for s in scales_of(480, 640, MusiqConfig())]
    [(168, 224, 42, 49), (288, 384, 108, 144), (480, 640, 300, 300)]
    """
    native_first = config.conventions.scale_order == "native_first"
    sides = list(config.longer_sides)
    if config.native:
        sides = [0, *sides] if native_first else [*sides, 0]
    scales = []
    for index, side in enumerate(sides):
        h, w = resized_sides(height, width, side, config.conventions.resized_sides) if side else (height, width)
        rows, columns = patch_grid(h, w, config.patch_size)
        length = math.ceil(side / config.patch_size) ** 2 if side else config.max_native_patches
        length = rows * columns if length < 0 else length
        scales.append(Scale(side, index, h, w, rows, columns, length, min(rows * columns, length)))
    return scales


def normalize(image: Array, dtype: DTypeLike = "float32") -> Array:
    """x = −1 + 2·(u/255) of 8-bit values u, or −1 + 2·v of floating values v in 0 … 1   (SPEC 3)

    image, x: (H, W, 3)
    """
    x = image.astype(dtype)  # a copy, so what follows may be in place: at 12 megapixels each array is 144 MB
    if image.dtype == np.uint8:
        x /= 255
    x *= 2
    x -= 1
    return x


def tokenize(
    image: ImageLike,
    config: MusiqConfig,
    dtype: DTypeLike | None = None,
    tap: Callable[[str, Any], Any] | None = None,
    backend: Backend = NUMPY,
) -> Tokens:
    """The tokens of one image.

    image: whatever `decode` reads: uint8 or floating (H, W, 3), a path, a file object
    dtype: of the pixels and of the resize: by default float32 for 8-bit images, as the authors compute, and the
        image's own for floating ones
    tap: sees and may replace the pixels of every scale, "pixels/scale_0", … in the order of the tokens
    backend: where pixels are resized and cut into patches, which stay there; indices and mask are NumPy arrays anyway

    Raises ImageError for what is no image, ValueError for another dtype or an image too elongated for a scale.

    >>> tokens = tokenize(np.zeros((480, 640, 3), np.uint8), MusiqConfig())
    >>> tokens.patches.shape, int(tokens.mask.sum())
    ((493, 32, 32, 3), 450)
    """
    image = decode(image)
    if dtype is not None and np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype!r}; choose 'float32' or 'float64'")
    if not isinstance(backend, Backend):
        raise TypeError(f"backend is {backend!r}; pass what musiq_ref.backend.get_backend gives for a name")
    dtype = dtype or (np.float64 if image.dtype == np.float64 else np.float32)
    with backend.guard():
        return _of_pixels(normalize(backend.from_numpy(image), dtype), config, tap)


def _of_pixels(x: Array, config: MusiqConfig, tap: Callable[[str, Any], Any] | None) -> Tokens:
    """The tokens of pixels (H, W, 3) in −1 … 1."""
    P, G = config.patch_size, config.grid_size
    parts = []
    for k, scale in enumerate(scales_of(x.shape[0], x.shape[1], config)):
        resized = resize(x, scale.height, scale.width, config.conventions.resize) if scale.longer_side else x
        resized = tap(f"pixels/scale_{k}", resized) if tap else resized
        index = hash_index(scale.rows, scale.columns, G, config.conventions.hash)
        parts.append(
            Tokens(
                _fit(extract_patches(resized, P), scale.length),
                _fit(index, scale.length),
                _fit(np.full(len(index), scale.scale_index), scale.length),
                _fit(np.ones(len(index), bool), scale.length),
            )
        )
    return Tokens(*(namespace(arrays[0]).concatenate(arrays) for arrays in zip(*parts, strict=True)))


def tokens_for(image: ImageLike, config: MusiqConfig, dtype: DTypeLike, backend: Backend = NUMPY) -> Tokens:
    """The tokens of one image for a model that computes in `dtype`.

    The pixels are resized in that dtype, but 8-bit ones through the authors' filter always in float32, in which that
    filter is defined: the one rule by which scoring, gradients, training and figures make their tokens.

    >>> tokens_for(np.zeros((5, 5, 3), np.uint8), MusiqConfig(), "float64").patches.dtype
    dtype('float32')
    """
    image = decode(image)
    float32 = image.dtype == np.uint8 and config.conventions.resize == "gaussian"
    return tokenize(image, config, "float32" if float32 else dtype, backend=backend)


def tokenize_backward(dpatches: np.ndarray, height: int, width: int, config: MusiqConfig) -> np.ndarray:
    """d/d image from the gradient to the patches: `tokenize`, linear in the pixels, transposed.

    dpatches: (N, P, P, 3)
    returns (H, W, 3), the gradient to an image in [0, 1]
    """
    dx, start, P = np.zeros((height, width, 3), dpatches.dtype), 0, config.patch_size
    for scale in scales_of(height, width, config):
        dscale = _fit(dpatches[start : start + scale.length], scale.rows * scale.columns)
        dresized = extract_patches_backward(dscale.reshape(-1, P, P, 3), scale.height, scale.width)
        if scale.longer_side:
            dx += resize_backward(dresized, dx.shape, config.conventions.resize)
        else:
            dx += dresized
        start += scale.length
    if start != len(dpatches):
        raise ValueError(f"{len(dpatches)} patches cannot be those of a {height}×{width} image, which has {start}")
    return 2 * dx


def drop_padding(tokens: Tokens) -> Tokens:
    """The valid tokens of one image alone: the model gives the same score without the others.

    Raises ValueError where none is valid.

    >>> len(drop_padding(tokenize(np.zeros((480, 640, 3), np.uint8), MusiqConfig())).mask)
    450
    """
    valid = tokens.mask.astype(bool)
    if not valid.any():
        raise ValueError("all tokens are masked; there is nothing to read")
    return tokens if valid.all() else Tokens(*(array[valid] for array in tokens))


def batch(tokens: Sequence[Tokens]) -> Tokens:
    """Tokens of several images as one (B, N, …), shorter ones padded with masked zeros at the end.

    Raises ValueError when there are none, or when they differ in patch size, dtype or backend.

    >>> images = [np.zeros((40, 70, 3), np.uint8), np.zeros((90, 60, 3), np.uint8)]
    >>> batch([tokenize(image, MusiqConfig()) for image in images]).patches.shape
    (2, 199, 32, 32, 3)
    """
    if not len(tokens):
        raise ValueError("batch needs the tokens of at least one image")
    if not all(isinstance(t, Tokens) for t in tokens):
        raise ValueError("batch needs a list of Tokens, one per image: musiq_ref.batch([musiq_ref.tokenize(…), …])")
    kinds = {(t.patches.shape[1:], t.patches.dtype.str) for t in tokens}
    if len(kinds) > 1:
        raise ValueError(f"tokens of one batch must share patch shape and dtype, not {sorted(kinds)}")
    if len({namespace(t.patches) for t in tokens}) > 1:
        raise ValueError("tokens of one batch must be on one device; make all of them with the same backend")
    length = max(len(t.mask) for t in tokens)

    def padded(arrays: Sequence[Array]) -> Array:
        y = namespace(arrays[0]).zeros((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
        for row, array in zip(y, arrays, strict=True):
            row[: len(array)] = array
        return y

    return Tokens(*map(padded, zip(*tokens, strict=True)))


def _fit(array: Array, length: int) -> Array:
    """The array cut, or padded with zeros, to that many rows."""
    if len(array) >= length:
        return array[:length]
    xp = namespace(array)
    return xp.concatenate([array, xp.zeros((length - len(array), *array.shape[1:]), array.dtype)])
