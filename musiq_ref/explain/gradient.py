"""The gradient of the score to every pixel, drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.explain.style import DIVERGING, SEQUENTIAL, new_figure, styled
from musiq_ref.image.decode import decode
from musiq_ref.model.parameters import Params
from musiq_ref.scoring import image_gradient


@styled
def gradient_over_photograph(image: Any, params: Params, config: MusiqConfig) -> Any:
    """A Figure: the photograph and its score; how strongly the score depends on each pixel; whether brighter is better.

    Strength is the sum of |d score/d value| over red, green and blue, of values in [0, 1]; the sign is that of the sum.
    Both colour bars end at the 99.5th percentile, so that single pixels do not darken all others.

    image: whatever `decode` reads

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> params = mq.verify.deterministic_params(config, seed=1)
    >>> figure = gradient_over_photograph(np.zeros((60, 80, 3), np.uint8), params, config)
    >>> [axis.get_title() for axis in figure.axes[1:3]]
    ['how strongly the score depends on it', 'brighter here: score rises (+) or falls (−)']
    """
    pixels = decode(image)
    value, dimage = image_gradient(pixels, params, config)
    height, width = pixels.shape[:2]
    figure = new_figure(11, min(12.0, 0.9 + 3.1 * height / width))
    axes = figure.subplots(1, 3)
    axes[0].imshow(pixels)
    axes[0].set_title(f"{width}×{height} pixels, score {value:.4g}")
    strength, change = np.abs(dimage).sum(axis=2), dimage.sum(axis=2)
    top = max(float(np.quantile(strength, 0.995)), 1e-30)
    shown = axes[1].imshow(strength, cmap=SEQUENTIAL, vmin=0, vmax=top)
    axes[1].set_title("how strongly the score depends on it")
    figure.colorbar(shown, ax=axes[1], label="|d score / d pixel|", shrink=0.8, extend="max")
    limit = max(float(np.quantile(np.abs(change), 0.995)), 1e-30)
    shown = axes[2].imshow(change, cmap=DIVERGING, vmin=-limit, vmax=limit)
    axes[2].set_title("brighter here: score rises (+) or falls (−)")
    figure.colorbar(shown, ax=axes[2], label="d score / d brightness", shrink=0.8, extend="both")
    for axis in axes:
        axis.set_axis_off()
    return figure
