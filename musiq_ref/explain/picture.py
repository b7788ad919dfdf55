"""One picture of what a model does with a photograph: its scales in patches, its attention, its gradient."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

from musiq_ref.backend import get_backend
from musiq_ref.checkpoint import Checkpoint
from musiq_ref.explain.report import BUNDLED, check_patches
from musiq_ref.explain.rollout_by_team import rollout_maps
from musiq_ref.explain.scales import draw_scale, scale_name
from musiq_ref.extras import needs
from musiq_ref.image.decode import decode
from musiq_ref.image.tokenize import scales_of, tokens_for
from musiq_ref.model.parameters import check_params, map_params
from musiq_ref.scoring import image_gradient


def picture(image: Any, checkpoint: Checkpoint, backend: str = "numpy") -> Any:
    """A matplotlib Figure: the photograph with its score, every scale cut into patches and shaded by attention rollout
    (appendix H), and the size of d score/d pixel.

    image: whatever `decode` reads
    checkpoint: the model
    backend: "numpy" or "cupy", where score and gradient are computed

    Raises ImportError, saying what to install, without matplotlib.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> checkpoint = mq.Checkpoint(mq.verify.deterministic_params(config, seed=1), config, "native", None)
    >>> len(picture(np.zeros((60, 80, 3), np.uint8), checkpoint).axes)
    5
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.gridspec import GridSpec
    except ImportError:
        raise ImportError(f"pictures need matplotlib; install it with: {needs('pictures')}") from None

    params, config, pixels = checkpoint.params, checkpoint.config, decode(image)
    height, width = pixels.shape[:2]
    check_patches(height, width, checkpoint, backend)
    value, dimage = image_gradient(pixels, map_params(get_backend(backend).from_numpy, params), config)
    rollout = rollout_maps(params, tokens_for(pixels, config, check_params(params, config)), config, (height, width))
    scales = scales_of(height, width, config)

    figure = Figure(figsize=(13, 2.2 + 8.4 * height / width), layout="constrained")
    grid = GridSpec(2, 6, figure)
    axes = [figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])]
    columns = 6 // len(scales) if len(scales) <= 3 else 1
    axes += [figure.add_subplot(grid[1, i * columns : (i + 1) * columns]) for i in range(min(len(scales), 6))]

    axes[0].imshow(pixels)
    axes[0].set_title(f"{width}×{height} photograph: score {value:.2f}")
    strength = np.abs(dimage).sum(axis=2)
    axes[1].imshow(strength, cmap="magma", vmax=max(np.quantile(strength, 0.995), 1e-30))
    axes[1].set_title("|d score/d pixel|: what the score is sensitive to")
    for axis, scale, weights in zip(axes[2:], scales, rollout, strict=False):
        draw_scale(axis, pixels, scale, config, light=0.25 + 0.75 * np.nan_to_num(weights / np.nanmax(weights)))
        patches = f"{scale.rows}×{scale.columns} patches"
        axis.set_title(f"{scale_name(scale)}\n{patches} get {np.nansum(weights):.0%} of the attention")
    for axis in axes:
        axis.set_axis_off()
    if checkpoint.bundled:
        figure.supxlabel(textwrap.fill(BUNDLED, 160), fontsize=9)
    return figure
