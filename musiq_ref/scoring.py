"""Scores of photographs, the one function most people need; and the gradient of a score to every pixel."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import PIL.Image
from numpy.typing import DTypeLike

from musiq_ref.backend import NUMPY, get_backend
from musiq_ref.checkpoint import Checkpoint, load_checkpoint
from musiq_ref.config import Conventions, MusiqConfig
from musiq_ref.image.decode import ImageError, ImageLike, decode
from musiq_ref.image.limits import too_many_patches
from musiq_ref.image.tokenize import scales_of, tokenize, tokenize_backward, tokens_for
from musiq_ref.model.folded import fold
from musiq_ref.model.gradient_by_team import patch_gradient
from musiq_ref.model.head import expected_score
from musiq_ref.model.inference import predict
from musiq_ref.model.parameters import Params, check_params, map_params
from musiq_ref.reprs import described, short_table, short_text

log = logging.getLogger(__name__)

NO_SCORE = ValueError, OSError, MemoryError  # what an image that has no score raises; an ImageError is a ValueError


class Score(NamedTuple):
    """What a model says of one image.

    value: the score
    distribution: the probabilities (C,) of the scores 1…C of which `value` is the mean, or None for a model with one
        output
    path: of the file, or None
    height, width: in pixels

    >>> Score(3.5, None, "photo.jpg", 480, 640)
    Score(value=3.5, distribution=None, path='photo.jpg', height=480, width=640)
    """

    value: float
    distribution: np.ndarray | None
    path: str | None
    height: int
    width: int

    def __repr__(self) -> str:
        return short_text(self)

    def _repr_html_(self) -> str:
        return short_table(self)


class Scorer:
    """A function from an image to its Score; `scorer` makes it and says what its arguments are.

    Several threads may call it. It can be copied and pickled, and so be sent to other processes: it then reads a named
    checkpoint or a file again, and brings the weights of a Checkpoint along.

    >>> import pickle
    >>> pickle.loads(pickle.dumps(scorer("demo")))
    Scorer('demo', backend='numpy', dtype='float32')
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | Checkpoint = "demo",
        backend: str = "numpy",
        dtype: str = "float32",
        conventions: Conventions | None = None,
        threads: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {dtype!r}; choose 'float32' or 'float64'")
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads is {threads!r}; choose a whole number of at least 1, or None for all")
        if max_pixels is not None and (not isinstance(max_pixels, int) or max_pixels < 1):
            raise ValueError(f"max_pixels is {max_pixels!r}; choose a whole number of at least 1, or None")
        self.device = get_backend(backend)
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint, dtype)
        if not isinstance(checkpoint, Checkpoint) and loaded.path == Path(checkpoint):  # a file, not a name
            checkpoint = Path(checkpoint).absolute()  # so that a process in another folder finds it
        self.arguments = checkpoint, backend, dtype, conventions, threads, max_pixels
        self.config = loaded.config.replace(conventions=conventions or loaded.config.conventions)
        params = map_params(lambda a: self.device.from_numpy(np.asarray(a, dtype)), loaded.params)
        self.model = fold(params, self.config) if self.device is NUMPY else params
        self.dtype, self.threads, self.max_pixels = dtype, threads, max_pixels
        self.trained = loaded.format != "deterministic"
        if dtype == "float64" and self.config.conventions.resize == "gaussian":
            log.info("8-bit images are resized in float32, in which the authors' filter is defined")

    def __call__(self, image: ImageLike, progress: Callable[[float], object] | None = None) -> Score:
        if isinstance(image, list | tuple):
            raise ImageError("a scorer takes one image at a time; call it for each, or pass them all to mq.score")
        path = str(os.fspath(image)) if isinstance(image, str | os.PathLike) else None
        try:
            pixels = decode(image, max_pixels=self.max_pixels)
            value, distribution = self._value(pixels, path or "the image", progress)
        except ImageError:
            raise
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if path else str(error)) from None
        except MemoryError:
            name = path or "the image"
            where = "this machine" if self.device is NUMPY else "the GPU"
            raise MemoryError(f"{name}: too large for the memory of {where}; reduce it, or use another") from None
        log.debug("%s scores %s", path or "the image", value)
        return Score(value, distribution, path, pixels.shape[0], pixels.shape[1])

    def _value(
        self, pixels: np.ndarray, name: str, progress: Callable[[float], object] | None
    ) -> tuple[float, np.ndarray | None]:
        """Score and distribution of pixels (H, W, 3)."""
        height, width = pixels.shape[:2]
        patches = max(scale.kept for scale in scales_of(height, width, self.config))
        if problem := too_many_patches(patches, self.config.patch_size, self.max_pixels):
            raise ImageError(f"{name} {problem}")
        tokens = tokens_for(pixels, self.config, self.dtype)
        logits = predict(self.model, tokens, self.config, self.device, progress, self.threads)
        expected, _ = expected_score(self.device.to_numpy(logits)[None])
        value, p = float(expected.score[0]), expected.distribution
        if not np.isfinite(value):
            raise ValueError(
                f"the score is {value}; the checkpoint's numbers overflow in {self.dtype}, try dtype='float64'"
            )
        return value, None if p is None else p[0]

    def __reduce__(self) -> tuple[type[Scorer], tuple]:
        return Scorer, self.arguments

    def __repr__(self) -> str:
        checkpoint, backend, dtype, *_ = self.arguments
        return f"Scorer({described(checkpoint)}, backend={backend!r}, dtype={dtype!r})"


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
    threads: that share the work on an image; None for as many as BLAS may use. The score is the same every time with
        the same number, and the same to rounding with another
    max_pixels: larger images, and those of as many patches, are refused; None: see `decode`
    returns a list of Score, with errors="return" also of ImageError, ValueError, OSError or MemoryError

    Raises ImageError, ValueError, CheckpointError or BackendError, saying what is wrong and what to do.

    The example scores a bundled photograph with the bundled model, which knows distortions, but not what people like
    (docs/demo-model.md); then it shows that a bad file does not cost the scores of the others.

    >>> from importlib.resources import files
    >>> coffee = str(files("musiq_ref") / "data" / "photographs" / "coffee.png")
    >>> [result] = score(coffee)
    >>> f"{result.value:.0f} of 100, {result.width}×{result.height} pixels"
    '95 of 100, 600×400 pixels'
    >>> good, bad = score([coffee, "missing.jpg"], errors="return")
    >>> print(bad)
    missing.jpg does not exist; check the path
    """
    if errors not in ("raise", "return"):
        raise ValueError(f"errors is {errors!r}; choose 'raise' or 'return'")
    one = Scorer(checkpoint, backend, dtype, conventions, threads, max_pixels)
    _warn_if_untrained(one)
    results: list[Score | Exception] = []
    for image in _one_by_one(images):
        try:
            results.append(one(image))
        except NO_SCORE as error:
            if errors == "raise":
                raise
            log.warning("%s", error)
            error.__traceback__ = error.__context__ = None  # their frames would keep the pixels in memory
            results.append(error)
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
