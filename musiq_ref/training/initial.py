"""First weights that a short training can start from, where the authors' (SPEC 4) would need ImageNet first.

Two things about the stem make the random ones slow to learn from. GroupNorm divides every pair of neighbouring channels
of the root convolution by their common energy, so a channel's energy survives only in proportion to its partner's; and
random filters all have the same spectrum, so that proportion is always about one half. Blur, noise and blocks are
changes of the spectrum: here every pair is a coarse and a fine filter, and their proportion tells. Then the patch
embedding sums over (P/4)²·256 features that are all positive, so every patch starts as nearly the same vector: here it
starts as the leading principal components of the mean features, each with mean 0 and variance 1.

Nothing is learned from targets, and nothing stays fixed: both are where the training starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens
from musiq_ref.model.parameters import STEM_WIDTH, Params
from musiq_ref.model.stem import STEMS

ROOT = 7  # side of the root convolution's kernel
GREY, RED_GREEN, BLUE_YELLOW = (1, 1, 1), (1, -1, 0), (-0.5, -0.5, 1)
COARSE, FINE = 8, 6  # the 8 lowest frequencies are the coarse filters; those from the 7th on are the fine ones
GREY_PAIRS, COLOUR_PAIRS = 24, 4  # 24 + 2·4 pairs, of which 4 for each of the two colour directions
COLOUR_COARSE, COLOUR_FINE = ((0, 1), (1, 0), (1, 1), (0, 2)), ((2, 2), (0, 4), (4, 0), (4, 4))
WEAKEST = 1e-3  # variance, relative to the largest, that is added to every component before it is scaled to 1


def cosine_filters() -> np.ndarray:
    """The root convolution's kernel (7, 7, 3, 64): channels 2g and 2g + 1 are a coarse and a fine cosine filter.

    Filters are products of the discrete cosine transform's basis vectors, of the brightness or of a colour difference,
    with mean 0 and LeCun's variance 1/147, float64.

    >>> kernel = cosine_filters()
    >>> kernel.shape, round(float(kernel.var() * 147), 6)
    ((7, 7, 3, 64), 1.0)
    """
    wave = np.cos(math.pi * np.arange(ROOT)[:, None] * (np.arange(ROOT) + 0.5) / ROOT)  # (frequency, position)
    rising = sorted(np.ndindex(ROOT, ROOT), key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv))[1:]  # without the mean
    fine = rising[FINE:]
    steps = np.linspace(0, len(fine) - 1, GREY_PAIRS).astype(int)
    pairs = [(rising[g % COARSE], fine[step], GREY) for g, step in enumerate(steps)]
    for colour in (RED_GREEN, BLUE_YELLOW):
        pairs += [(*pair, colour) for pair in zip(COLOUR_COARSE, COLOUR_FINE, strict=True)]
    channels = [(uv, colour) for coarse, fine, colour in pairs for uv in (coarse, fine)]
    assert len(channels) == STEM_WIDTH
    kernel = np.stack([wave[u][:, None, None] * wave[v][:, None] * np.array(c) for (u, v), c in channels], axis=-1)
    kernel -= kernel.mean(axis=(0, 1, 2))
    return kernel / kernel.std(axis=(0, 1, 2)) / math.sqrt(kernel[..., 0].size)


def whitened_embedding(params: Params, config: MusiqConfig, tokens: Sequence[Tokens]) -> Params:
    """A patch embedding {"kernel", "bias"} whose outputs for these images are uncorrelated, mean 0 and variance 1.

    The features of a patch, with the ResNet stem averaged over its (P/4)² places, are projected onto their D leading
    principal components; the variance of weak ones is kept below 1.

    tokens: of images that training may see

    >>> from musiq_ref.image.tokenize import tokenize
    >>> from musiq_ref.model.parameters import init_params
    >>> config = MusiqConfig.preset("tiny")
    >>> noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    >>> whitened_embedding(init_params(config), config, [tokenize(noise, config)])["kernel"].shape
    (16384, 48)
    """
    stem, places = STEMS[config.stem][0], config.stem_side**2 if config.stem == "resnet" else 1
    rows = []
    for one in tokens:
        features, _ = stem(one.patches[one.mask], params.get("stem", {}), config.conventions)  # (n, P/4, P/4, 256)
        rows.append(features.reshape(len(features), places, -1).mean(axis=1))
    features = np.concatenate(rows).astype(np.float64)  # (patches, F), F = 256, or 3·P² with the linear stem
    mean = features.mean(axis=0)
    variance, component = np.linalg.eigh(np.cov((features - mean).T))  # ascending
    variance, component = variance[::-1], component[:, ::-1]
    width = min(config.width, len(variance))
    projection = np.zeros((len(mean), config.width))
    projection[:, :width] = component[:, :width] / np.sqrt(variance[:width] + WEAKEST * variance[0])
    dtype = params["patch_embedding"]["kernel"].dtype
    kernel = np.tile(projection / places, (places, 1))  # the same at every place: their mean
    return {"kernel": kernel.astype(dtype), "bias": (-mean @ projection).astype(dtype)}


def fit_to_images(params: Params, config: MusiqConfig, tokens: Sequence[Tokens]) -> Params:
    """The parameters with cosine filters in the root convolution, if there is one, and a whitened patch embedding.

    >>> from musiq_ref.image.tokenize import tokenize
    >>> from musiq_ref.model.parameters import init_params
    >>> config = MusiqConfig.preset("tiny")
    >>> noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    >>> fitted = fit_to_images(init_params(config), config, [tokenize(noise, config)])
    >>> fitted["stem"]["conv_root"]["kernel"].dtype
    dtype('float32')
    """
    if config.stem == "resnet":
        root = cosine_filters().astype(params["stem"]["conv_root"]["kernel"].dtype)
        params = {**params, "stem": {**params["stem"], "conv_root": {"kernel": root}}}
    return {**params, "patch_embedding": whitened_embedding(params, config, tokens)}
