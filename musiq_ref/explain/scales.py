"""The scales of a photograph, drawn: cut into patches, and coloured by a number per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.explain.style import COLOURS, OVERLAY, new_figure, styled
from musiq_ref.image.decode import decode
from musiq_ref.image.resize import resize
from musiq_ref.image.tokenize import Scale, normalize, scales_of


def maps_by_scale(values: np.ndarray, size: tuple[int, int], config: MusiqConfig) -> list[np.ndarray]:
    """Numbers of the valid tokens, laid out as their patches lie: one (rows, columns) per scale, NaN where cut off.

    values: (N,), the valid tokens in their order, without the class token
    size: (height, width) of the image

    >>> [m.shape for m in maps_by_scale(np.arange(203.0), (96, 128), MusiqConfig())]
    Traceback (most recent call last):
    ValueError: 203 values cannot belong to the 162 valid tokens of an image of 96×128 pixels
    >>> [m.shape for m in maps_by_scale(np.arange(162.0), (96, 128), MusiqConfig())]
    [(6, 7), (9, 12), (3, 4)]
    """
    scales, start, maps = scales_of(*size, config), 0, []
    count = sum(scale.kept for scale in scales)
    if len(values) != count:
        raise ValueError(
            f"{len(values)} values cannot belong to the {count} valid tokens of an image of {size[0]}×{size[1]} pixels"
        )
    for scale in scales:
        laid_out = np.full(scale.rows * scale.columns, np.nan)
        laid_out[: scale.kept] = values[start : start + scale.kept]
        maps.append(laid_out.reshape(scale.rows, scale.columns))
        start += scale.kept
    return maps


def scale_name(scale: Scale) -> str:
    """What a scale is called in titles.

    >>> scale_name(scales_of(480, 640, MusiqConfig())[0])
    'longer side 224'
    """
    return f"longer side {scale.longer_side}" if scale.longer_side else "native size"


@styled
def multi_scale_patches(image: Any, config: MusiqConfig, highlight: Sequence[int] = ()) -> Any:
    """A Figure of every scale as the model gets it: resized, padded (grey), and cut into patches   (SPEC 3, Eq. 1)

    image: whatever `decode` reads
    highlight: numbers of valid tokens, from 0, whose patches are framed

    >>> len(multi_scale_patches(np.zeros((60, 80, 3), np.uint8), MusiqConfig(), highlight=[7]).axes)
    3
    """
    pixels = decode(image)
    size = pixels.shape[0], pixels.shape[1]
    scales = scales_of(*size, config)
    framed = np.zeros(sum(scale.kept for scale in scales))
    framed[list(highlight)] = 1
    figure, axes = row_of_scales(scales)
    for axis, scale, marks in zip(axes, scales, maps_by_scale(framed, size, config), strict=True):
        draw_scale(axis, pixels, scale, config)
        for row, column in np.argwhere(marks > 0):
            _frame(axis, scale, config.patch_size, row, column)
        axis.set_title(
            f"{scale_name(scale)}: {scale.height}×{scale.width} pixels\n{scale.rows}×{scale.columns} patches"
            + (f", {scale.kept} kept" if scale.kept < scale.rows * scale.columns else "")
        )
    return figure


@styled
def over_scales(
    image: Any, values: np.ndarray, config: MusiqConfig, label: str, highlight: Sequence[int] = (), share: bool = False
) -> Any:
    """A Figure of a number per token, as a colour over the patch it belongs to: attention, rollout, an error, …

    image: whatever `decode` reads
    values: (N,) of the valid tokens, without the class token
    label: of the colours
    highlight: tokens to frame
    share: whether the values are parts of a whole: then titles give each scale's sum, and a line on the colour bar the
        value that every patch would have if all were alike

    >>> image = np.zeros((60, 80, 3), np.uint8)
    >>> figure = over_scales(image, np.full(156, 1 / 157), MusiqConfig(), "attention", share=True)
    >>> figure.axes[0].get_title()
    'longer side 224\\n27% of the whole'
    """
    pixels = decode(image)
    size = pixels.shape[0], pixels.shape[1]
    scales, maps = scales_of(*size, config), maps_by_scale(np.asarray(values), size, config)
    framed = np.zeros(len(values))
    framed[list(highlight)] = 1
    figure, axes = row_of_scales(scales)
    top = max(float(np.nanmax(m)) for m in maps)
    shown = None
    for axis, scale, values_here, marks in zip(axes, scales, maps, maps_by_scale(framed, size, config), strict=True):
        draw_scale(axis, pixels, scale, config, grey=True)
        shown = axis.imshow(
            values_here, cmap=OVERLAY, alpha=0.7, vmin=0, vmax=top or 1, extent=extent(scale, config.patch_size)
        )
        for row, column in np.argwhere(marks > 0):
            _frame(axis, scale, config.patch_size, row, column)
        part = f"\n{np.nansum(values_here):.0%} of the whole" if share else ""
        axis.set_title(scale_name(scale) + part)
    bar = figure.colorbar(shown, ax=list(axes), label=label, shrink=0.8)
    if share:
        bar.ax.axhline(np.sum(values) / len(values), color=COLOURS[4], linewidth=2)
        bar.set_label(f"{label}\n(line: all patches alike)")
    return figure


def draw_scale(
    axis: Any,
    pixels: np.ndarray,
    scale: Scale,
    config: MusiqConfig,
    grey: bool = False,
    light: np.ndarray | None = None,
) -> None:
    """One scale into a matplotlib axis: resized pixels, what padding adds (0, a medium grey), patches' edges.

    grey: without colour
    light: (rows, columns), what each patch's brightness is multiplied by
    """
    x, P = normalize(pixels), config.patch_size
    if scale.longer_side:
        x = resize(x, scale.height, scale.width, config.conventions.resize)
    unit = np.clip((x + 1) / 2, 0, 1)
    if grey:
        unit = np.repeat(unit @ np.array([[0.299], [0.587], [0.114]], unit.dtype), 3, axis=2)
    left, right, bottom, top = extent(scale, P)
    if light is not None:
        row, column = int(-0.5 - top), int(-0.5 - left)  # of the first pixel in the padded scale
        unit = unit * np.kron(light, np.ones((P, P)))[row : row + scale.height, column : column + scale.width, None]
    axis.set_facecolor("0.5")
    axis.imshow(unit)
    axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], anchor="N")
    for spine in axis.spines.values():
        spine.set_visible(False)
    width = min(0.5, 20 / max(scale.rows, scale.columns))
    for row in range(1, scale.rows):
        axis.axhline(top + row * P, color="white", linewidth=width)
    for column in range(1, scale.columns):
        axis.axvline(left + column * P, color="white", linewidth=width)


def row_of_scales(scales: list[Scale]) -> tuple[Any, Any]:
    """A figure with an axis per scale, side by side."""
    shape = max(scale.height / scale.width for scale in scales)
    width = 10 / len(scales)
    figure = new_figure(10, min(12.0, 0.9 + width * shape))
    return figure, figure.subplots(1, len(scales), squeeze=False)[0]


def extent(scale: Scale, P: int) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the padded scale, in the pixels of the unpadded one."""
    top, left = (scale.rows * P - scale.height) // 2, (scale.columns * P - scale.width) // 2
    return -left - 0.5, scale.columns * P - left - 0.5, scale.rows * P - top - 0.5, -top - 0.5


def _frame(axis: Any, scale: Scale, P: int, row: int, column: int) -> None:
    from matplotlib.patches import Rectangle

    left, _, _, top = extent(scale, P)
    place = (left + column * P, top + row * P)
    axis.add_patch(Rectangle(place, P, P, fill=False, edgecolor=COLOURS[4], linewidth=2.5))
