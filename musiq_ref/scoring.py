"""Scores of photographs, the one function most people need; and the gradient of a score to every pixel."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import numpy as np
import PIL.Image
from numpy.typing import DTypeLike

from musiq_ref.checkpoint import Checkpoint
from musiq_ref.config import Conventions, MusiqConfig
from musiq_ref.image.decode import ImageError, ImageLike, decode
from musiq_ref.image.tokenize import tokenize, tokenize_backward, tokens_for
from musiq_ref.model.gradient_by_team import patch_gradient
from musiq_ref.model.parameters import Params, check_params
from musiq_ref.scorers import Score, Scorer

log = logging.getLogger(__name__)


def scorer(
    checkpoint: str | os.PathLike[str] | Checkpoint = "demo",
    backend: str = "numpy",
    dtype: str = "float32",
    conventions: Conventions | None = None,
    *,
    threads: int | None = None,
    max_pixels: int | None = None,
) -> Scorer:
    """A function from an image (whatever `decode` reads) to its Score, with the model loaded once.

    checkpoint: a name ("demo", "koniq", …), a path, or a loaded Checkpoint
    backend: "numpy" or "cupy"
    dtype: "float32" or "float64"
    conventions: others than the checkpoint's
    threads: that share the work on an image; None for as many as BLAS may use. The score is the same every time with
        the same number, and the same to rounding with another
    max_pixels: larger images, and those of as many patches, are refused; None: see `decode`
    returns a Scorer: call it with an image, from several threads if you like, and with a function that is told the
        share of the work done, 0 … 1, if it takes long; pickle it for other processes

    Raises CheckpointError, BackendError; the function raises ImageError and ValueError for an image that has no score.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> one = scorer(mq.Checkpoint(mq.init_params(config), config, "native", None))
    >>> one(np.zeros((60, 80, 3), np.uint8)).value
    0.0
    """
    one = Scorer(checkpoint, backend, dtype, conventions, threads, max_pixels)
    _warn_if_untrained(one)
    return one


@overload
def score(
    images: ImageLike | Iterable[ImageLike],
    checkpoint: str | os.PathLike[str] | Checkpoint = ...,
    backend: str = ...,
    dtype: str = ...,
    conventions: Conventions | None = ...,
    *,
    errors: Literal["raise"] = ...,
    threads: int | None = ...,
    max_pixels: int | None = ...,
) -> list[Score]: ...


@overload
def score(
    images: ImageLike | Iterable[ImageLike],
    checkpoint: str | os.PathLike[str] | Checkpoint = ...,
    backend: str = ...,
    dtype: str = ...,
    conventions: Conventions | None = ...,
    *,
    errors: Literal["return"],
    threads: int | None = ...,
    max_pixels: int | None = ...,
) -> list[Score | Exception]: ...


def score(
    images: ImageLike | Iterable[ImageLike],
    checkpoint: str | os.PathLike[str] | Checkpoint = "demo",
    backend: str = "numpy",
    dtype: str = "float32",
    conventions: Conventions | None = None,
    *,
    errors: Literal["raise", "return"] = "raise",
    threads: int | None = None,
    max_pixels: int | None = None,
) -> list[Score] | list[Score | Exception]:
    """The scores of images or files, in their order.

    images: a list, tuple, generator, NumPy array or pandas Series of paths, or of whatever else `decode` reads
        (arrays, Pillow images, file objects); a batch (B, H, W, 3); or a single image
    checkpoint: a name ("demo", "koniq", …), a path, or a loaded Checkpoint
    backend: "numpy" or "cupy"
    dtype: "float32" or "float64"
    conventions: others than the checkpoint's
    errors: "raise" stops at the first image that has no score; "return" puts its exception in its place and goes on
    threads: that share the work; None for as many as BLAS may use. The scores are the same every time for as many
        images with the same number, and the same to rounding otherwise
    max_pixels: larger images, and those of as many patches, are refused; None: see `decode`
    returns a list of Score, with errors="return" also of ImageError, ValueError, OSError or MemoryError

    Raises ImageError, ValueError, CheckpointError or BackendError, saying what is wrong and what to do.

    The example scores a bundled photograph with the bundled model, which knows distortions, but not what people like
    (docs/demo-model.md); then it shows that a bad file does not cost the scores of the others.

    >>> from importlib.resources import files
    >>> coffee = str(files("musiq_ref") / "data" / "photographs" / "coffee.png")
    >>> [result] = score(coffee)
    >>> f"{result.value:.0f} of 100, {result.width}×{result.height} pixels"
    '93 of 100, 600×400 pixels'
    >>> good, bad = score([coffee, "missing.jpg"], errors="return")
    >>> print(bad)
    missing.jpg does not exist; check the path
    """
    if errors not in ("raise", "return"):
        raise ValueError(f"errors is {errors!r}; choose 'raise' or 'return'")
    one = Scorer(checkpoint, backend, dtype, conventions, threads, max_pixels)
    _warn_if_untrained(one)
    results: list[Score | Exception] = []
    for result in one.map(_one_by_one(images)):
        if isinstance(result, Exception):
            if errors == "raise":
                raise result
            log.warning("%s", result)
        results.append(result)
    return results


def _warn_if_untrained(one: Scorer) -> None:
    """Warns the caller of `score` or `scorer`."""
    if not one.trained:
        warnings.warn("these weights were never trained: the scores mean nothing", stacklevel=3)


def _one_by_one(images: Any) -> Iterable[Any]:
    """The images of a collection, in its order; a single image is a collection of one."""
    if hasattr(images, "columns"):
        raise ImageError("a table is no list of images; pass the column of their paths, such as table['path']")
    if _is_image(images):
        return list(images) if hasattr(images, "__array__") and np.ndim(images) == 4 else [images]
    if not hasattr(images, "__array__"):  # a list, a generator, …
        return images if isinstance(images, Iterable) else [images]
    elements = list(images) if np.ndim(images) == 1 else [images]  # a Series, an array of paths
    return (
        elements if not elements or any(map(_is_image, elements)) else [images]
    )  # numbers: `decode` says what is wrong


def _is_image(thing: Any) -> bool:
    """Whether it is what `decode` takes for one image, readable or not."""
    if isinstance(thing, str | bytes | os.PathLike | PIL.Image.Image) or hasattr(thing, "read"):
        return True
    return hasattr(thing, "__array__") and np.ndim(thing) >= 2


def image_gradient(
    image: ImageLike,
    params: Params,
    config: MusiqConfig,
    pixel_dtype: DTypeLike | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> tuple[float, np.ndarray]:
    """The score of an image and its gradient to every pixel, in the dtype of the parameters.

    image: whatever `decode` reads: uint8 or floating in [0, 1] (H, W, 3), a path, a file object
    params: nested dict of arrays, of any library: what they are computed with
    config: the MusiqConfig that they belong to
    pixel_dtype: in which the pixels are resized: by default the parameters', but float32 for 8-bit images through the
        authors' filter, which is defined in float32
    threads: that share the work; None for as many as BLAS may use. The gradient is the same every time with the same
        number, and the same to rounding with another
    progress: called with the share that is done, 0 … 1
    returns score, d score/d image (H, W, 3), for an image measured in [0, 1]

    Memory grows with the number of patches: see docs/performance.md. Raises ImageError for what is no image, ValueError
    for parameters that are not those of `config`.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> params = mq.verify.deterministic_params(config, seed=1, dtype="float64")
    >>> value, dimage = mq.image_gradient(np.full((40, 50, 3), 0.5), params, config)
    >>> dimage.shape, dimage.dtype
    ((40, 50, 3), dtype('float64'))
    """
    pixels, dtype = decode(image), check_params(params, config)
    tokens = tokenize(pixels, config, pixel_dtype) if pixel_dtype else tokens_for(pixels, config, dtype)
    value, dpatches = patch_gradient(params, tokens, config, threads, progress)
    return value, tokenize_backward(dpatches, pixels.shape[0], pixels.shape[1], config)
