"""Scores of photographs, the one function most people need; and the gradient of a score to every pixel."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from musiq_ref.backend import get_backend
from musiq_ref.checkpoint import Checkpoint, load_checkpoint
from musiq_ref.config import Conventions, MusiqConfig
from musiq_ref.image.decode import decode
from musiq_ref.image.tokenize import batch, tokenize, tokenize_backward, tokens_for
from musiq_ref.model.head import expected_score, expected_score_backward
from musiq_ref.model.inference import predict
from musiq_ref.model.musiq import backward, forward
from musiq_ref.model.parameters import Params, check_params, map_params


class Score(NamedTuple):
    """What a model says of one image.

    value: the score;  distribution: the probabilities (C,) of the scores 1…C of which `value` is the mean, or None for
    a model with one output;  path: of the file, or None;  height, width: in pixels

    >>> Score(3.5, None, "photo.jpg", 480, 640).value
    3.5
    """

    value: float
    distribution: np.ndarray | None
    path: str | None
    height: int
    width: int


def scorer(
    checkpoint: str | os.PathLike | Checkpoint = "demo",
    backend: str = "numpy",
    dtype: str = "float32",
    conventions: Conventions | None = None,
) -> Callable[[Any], Score]:
    """A function from an image (whatever `decode` reads) to its Score, with the model loaded once.

    Raises CheckpointError, BackendError; the function raises ImageError and ValueError for an image that has no score.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> one = scorer(mq.Checkpoint(mq.init_params(config), config, "native", None))
    >>> one(np.zeros((60, 80, 3), np.uint8)).value
    0.0
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}; choose 'float32' or 'float64'")
    device = get_backend(backend)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint, dtype)
    if checkpoint.format == "deterministic":
        warnings.warn("these weights were never trained: the scores mean nothing", stacklevel=2)
    config = checkpoint.config.replace(conventions=conventions or checkpoint.config.conventions)
    params = map_params(lambda a: device.from_numpy(np.asarray(a, dtype)), checkpoint.params)

    def score_one(image: Any) -> Score:
        pixels = decode(image)
        path = os.fspath(image) if isinstance(image, str | os.PathLike) else None
        try:
            tokens = tokens_for(pixels, config, dtype)
            logits = predict(params, tokens, config, device)
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if path else str(error)) from None
        expected, _ = expected_score(device.to_numpy(logits)[None])
        value, p = float(expected.score[0]), expected.distribution
        if not np.isfinite(value):
            raise ValueError(
                f"{path or 'the image'}: the score is {value}; the checkpoint's numbers overflow in {dtype}, "
                f"try dtype='float64'"
            )
        return Score(value, None if p is None else p[0], path, pixels.shape[0], pixels.shape[1])

    return score_one


def score(
    images: Any,
    checkpoint: str | os.PathLike | Checkpoint = "demo",
    backend: str = "numpy",
    dtype: str = "float32",
    conventions: Conventions | None = None,
) -> list[Score]:
    """The scores of images or files, in their order.

    images: a list of whatever `decode` reads (paths, arrays, file objects), or a single one;  checkpoint: a name
    ("demo", "koniq", …), a path, or a loaded Checkpoint;  backend: "numpy" or "cupy";  dtype: "float32" or "float64";
    conventions: others than the checkpoint's

    Raises ImageError, CheckpointError or BackendError, saying what is wrong and what to do.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny", outputs=10)
    >>> checkpoint = mq.Checkpoint(mq.verify.deterministic_params(config, seed=1), config, "native", None)
    >>> [result] = mq.score([np.zeros((60, 80, 3), np.uint8)], checkpoint)
    >>> 1 <= result.value <= 10, result.distribution.shape
    (True, (10,))
    """
    one = scorer(checkpoint, backend, dtype, conventions)
    if hasattr(images, "__array__") and np.ndim(images) == 4:
        images = list(images)
    alone = str, bytes, os.PathLike, PIL.Image.Image
    if isinstance(images, alone) or hasattr(images, "read") or hasattr(images, "__array__"):
        images = [images]
    return [one(image) for image in images]


def image_gradient(
    image: Any, params: Params, config: MusiqConfig, pixel_dtype: Any = None
) -> tuple[float, np.ndarray]:
    """The score of an image and its gradient to every pixel, in the dtype of the parameters.

    image: whatever `decode` reads: uint8 or floating in [0, 1] (H, W, 3), a path, a file object;  pixel_dtype: in which
    the pixels are resized: by default the parameters', but float32 for 8-bit images through the authors' filter, which
    is defined in float32
    Everything is kept for the backward, so memory grows with the square of the number of patches: about 0.7 GB for the
    small model and 500 patches, 8 GB for 3000.
    returns score, d score/d image (H, W, 3), for an image measured in [0, 1]

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> params = mq.verify.deterministic_params(config, seed=1, dtype="float64")
    >>> value, dimage = mq.image_gradient(np.full((40, 50, 3), 0.5), params, config)
    >>> dimage.shape, dimage.dtype
    ((40, 50, 3), dtype('float64'))
    """
    image, dtype = decode(image), check_params(params, config)
    tokens = tokenize(image, config, pixel_dtype) if pixel_dtype else tokens_for(image, config, dtype)
    logits, cache = forward(params, batch([tokens]), config)
    expected, cache_score = expected_score(logits)
    dlogits = expected_score_backward(np.ones_like(expected.score), cache_score)
    dpatches = backward(dlogits, cache).patches[0]
    return float(expected.score[0]), tokenize_backward(dpatches, image.shape[0], image.shape[1], config)
