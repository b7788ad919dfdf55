"""What a model says of one image or of many: a Scorer, and the Score that it returns."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import length_hint
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, NamedTuple, NoReturn

import numpy as np

from musiq_ref.backend import NUMPY, get_backend
from musiq_ref.checkpoint import Checkpoint, load_checkpoint
from musiq_ref.config import Conventions
from musiq_ref.image.decode import ImageError, ImageLike, decode
from musiq_ref.image.limits import too_many_patches
from musiq_ref.image.tokenize import Tokens, scales_of, tokens_for
from musiq_ref.model.folded import fold
from musiq_ref.model.head import expected_score
from musiq_ref.model.inference import predict, predict_packed
from musiq_ref.model.parameters import map_params
from musiq_ref.ordered import Shares, in_order
from musiq_ref.packing import Packer
from musiq_ref.reprs import described, short_table, short_text
from musiq_ref.team import ONE_THREAD

log = logging.getLogger("musiq_ref.scoring")

LARGE = 4096  # patches at an image's own size, 4 megapixels of 32 × 32: above, one image at a time
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
    """A function from an image to its Score; `scoring.scorer` makes it and says what its arguments are.

    Several threads may call it; `map` scores many images faster than calls one by one. It can be copied and pickled,
    and so be sent to other processes: it then reads a named checkpoint or a file again, and brings the weights of a
    Checkpoint along.

    >>> import pickle
    >>> pickle.loads(pickle.dumps(Scorer("demo")))
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
        _check_one(image)

        def logits(patches: int, tokens: Callable[[], Tokens]) -> Any:
            return predict(self.model, tokens(), self.config, self.device, progress, self.threads)

        return self._score(_path(image), lambda: decode(image, max_pixels=self.max_pixels), logits)

    def map(
        self,
        images: Iterable[ImageLike],
        progress: Callable[[float], object] | None = None,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Iterator[Score | Exception]:
        """The Score of every image, or the exception that it raises, in the order of the images.

        Several images are at work at once, each with a thread of its own that reads, resizes and scores it; one that
        is cut into more than LARGE patches is scored by all threads, after the one before. On a device those that are
        ready are scored together. The scores are those of a call for each image, to rounding.

        images: of which some are taken ahead; files are read in the threads, everything else where it is taken
        progress: called from one thread at a time with how many images are done, the shares of those at work included
        prepare: a function of pixels (H, W, 3), applied before the model's own resizing

        >>> [result] = Scorer("demo").map(["missing.jpg"])
        >>> print(result)
        missing.jpg does not exist; check the path
        """
        with ONE_THREAD as before:
            threads = (self.threads or before) if before else 1
            workers = min(threads, max(1, length_hint(images, threads)))
            shares, readied, computing = Shares(progress), BoundedSemaphore(2), Lock()
            packer = Packer(self._together)

            def work(opened: tuple[str | None, Callable[[], np.ndarray]]) -> Score | Exception:
                path, pixels = opened
                with shares.of_one() as say:

                    def logits(patches: int, tokens: Callable[[], Tokens]) -> Any:
                        if self.device is not NUMPY:
                            return packer(tokens())
                        if patches <= LARGE:
                            return predict(self.model, tokens(), self.config, NUMPY, say, threads // workers)
                        with readied:  # one is at work, and one more has its tokens
                            ready = tokens()
                            with computing:
                                return predict(self.model, ready, self.config, NUMPY, say, threads)

                    try:
                        return self._score(path, lambda: prepare(pixels()) if prepare else pixels(), logits)
                    except NO_SCORE as error:
                        error.__traceback__ = error.__context__ = None  # their frames would keep the pixels in memory
                        return error

            yield from in_order(work, map(self._opened, images), workers, stop=shares.stop)

    def _opened(self, image: ImageLike) -> tuple[str | None, Callable[[], np.ndarray]]:
        """The path of an image, and a function that gives its pixels: decoded here, if it is no file.

        A stream, or a picture of which the next frame comes next, would be another later on.
        """
        if (path := _path(image)) is not None:
            return path, lambda: decode(image, max_pixels=self.max_pixels)
        try:
            _check_one(image)
            pixels = decode(image, max_pixels=self.max_pixels)
        except NO_SCORE as error:
            return None, partial(_raise, error)
        return None, lambda: pixels

    def _score(
        self,
        path: str | None,
        read: Callable[[], np.ndarray],
        logits: Callable[[int, Callable[[], Tokens]], Any],
    ) -> Score:
        """The Score of the pixels that `read` gives.

        logits: from the number of patches at the image's own size, and a function that makes the tokens
        """
        name = path or "the image"
        try:
            pixels = read()
            height, width = pixels.shape[:2]
            patches = max(scale.kept for scale in scales_of(height, width, self.config))
            if problem := too_many_patches(patches, self.config.patch_size, self.max_pixels):
                raise ImageError(f"{name} {problem}")
            value, distribution = self._value(logits(patches, lambda: self._tokens(pixels)))
        except ImageError:
            raise
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if path else str(error)) from None
        except MemoryError:
            where = "this machine" if self.device is NUMPY else "the GPU"
            raise MemoryError(f"{name}: too large for the memory of {where}; reduce it, or use another") from None
        log.debug("%s scores %s", name, value)
        return Score(value, distribution, path, height, width)

    def _tokens(self, pixels: np.ndarray) -> Tokens:
        """The patches where the model is; if memory does not suffice, here, from where they go there in pieces."""
        try:
            return tokens_for(pixels, self.config, self.dtype, self.device)
        except MemoryError:
            if self.device is NUMPY:
                raise
            return tokens_for(pixels, self.config, self.dtype)

    def _together(self, tokens: Sequence[Tokens]) -> Any:
        """Logits of several images, on a device."""
        params: Any = self.model
        return predict_packed(params, tokens, self.config, self.device)

    def _value(self, logits: Any) -> tuple[float, np.ndarray | None]:
        """Score and distribution."""
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


def _path(image: Any) -> str | None:
    return str(os.fspath(image)) if isinstance(image, str | os.PathLike) else None


def _check_one(image: Any) -> None:
    if isinstance(image, list | tuple):
        raise ImageError("a scorer takes one image at a time; call it for each, or pass them all to mq.score")


def _raise(error: Exception) -> NoReturn:
    raise error
