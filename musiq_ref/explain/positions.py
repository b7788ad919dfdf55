"""The hash-based spatial embedding, drawn: the grid over the photograph, and how alike its rows are (appendix B.3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from musiq_ref.config import MusiqConfig
from musiq_ref.explain.scales import draw_scale, extent, row_of_scales, scale_name
from musiq_ref.explain.style import OVERLAY, SEQUENTIAL, new_figure, styled
from musiq_ref.image.decode import decode
from musiq_ref.image.hash import hash_axis
from musiq_ref.image.tokenize import scales_of


@styled
def hash_grid(image: Any, config: MusiqConfig) -> Any:
    """A Figure of every scale with the cells of the G × G grid that its patches fall into   (SPEC 3)

    Thick lines part the cells, numbers at the edges name their rows and columns, the colour says how many patches share
    a cell, that is, cannot be told apart by their place.

    image: whatever `decode` reads

    >>> figure = hash_grid(np.zeros((480, 640, 3), np.uint8), MusiqConfig())
    >>> figure.axes[2].get_title()
    'native size: 15×20 patches\\nin 10×10 cells, up to 4 in one'
    """
    pixels = decode(image)
    height, width = pixels.shape[:2]
    scales = scales_of(height, width, config)
    G, P, rule = config.grid_size, config.patch_size, config.conventions.hash
    cells = [(hash_axis(s.rows, G, rule), hash_axis(s.columns, G, rule)) for s in scales]
    sharing = [np.outer(_sharing(rows), _sharing(columns)) for rows, columns in cells]
    most = max(int(counts.max()) for counts in sharing)
    figure, axes = row_of_scales(scales)
    shown = None
    for axis, scale, (rows, columns), counts in zip(axes, scales, cells, sharing, strict=True):
        draw_scale(axis, pixels, scale, config, grey=True)
        left, right, bottom, top = extent(scale, P)
        shown = axis.imshow(
            counts, cmap=OVERLAY, alpha=0.5, vmin=0, vmax=max(most, 2), extent=(left, right, bottom, top)
        )
        axis.set_yticks(*_ticks(rows, top, P))
        axis.set_xticks(*_ticks(columns, left, P))
        axis.tick_params(length=0, labelsize=7)
        for edge in np.flatnonzero(np.diff(rows)) + 1:
            axis.axhline(top + edge * P, color="white", linewidth=1.5)
        for edge in np.flatnonzero(np.diff(columns)) + 1:
            axis.axvline(left + edge * P, color="white", linewidth=1.5)
        used = f"{len(np.unique(rows))}×{len(np.unique(columns))}"
        axis.set_title(
            f"{scale_name(scale)}: {scale.rows}×{scale.columns} patches\nin {used} cells, up to {counts.max()} in one"
        )
        axis.set_xlabel("column of the grid")
    axes[0].set_ylabel("row of the grid")
    figure.colorbar(
        shown, ax=list(axes), label="patches in the same cell", shrink=0.8, ticks=range(0, most + 1, 1 + most // 6)
    )
    return figure


def embedding_similarity(table: np.ndarray) -> np.ndarray:
    """Cosine similarity of every two rows of a spatial embedding's table: (G², D) -> (G², G²)

    >>> embedding_similarity(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])).round(2)[0]
    array([1.  , 1.  , 0.  , 0.71])
    """
    length = np.linalg.norm(table, axis=1, keepdims=True)
    unit = table / np.where(length == 0, 1, length)
    return unit @ unit.T


@styled
def similarity_grid(table: np.ndarray) -> Any:
    """A Figure of G × G small maps: the map in row r, column c shows how alike cell (r, c) is to every cell   (figures
    3 and 4 of the appendix)

    table: (G², D), such as params["spatial_embedding"]["table"].  Raises ValueError where G² is no square.

    >>> similarity_grid(np.eye(25)).axes[0].get_xlabel()
    'column of the cell'
    """
    G = round(len(table) ** 0.5)
    if len(table) != G**2:
        raise ValueError(f"the table has {len(table)} rows, which is no square; pass the one of the spatial embedding")
    maps = embedding_similarity(table).reshape(G, G, G, G)  # (row, column) of the cell, then of the one compared
    gap = max(1, G // 8)
    tiles = np.full((G, G + gap, G, G + gap), np.nan)
    tiles[:, :G, :, :G] = maps.transpose(0, 2, 1, 3)
    picture = tiles.reshape(G * (G + gap), G * (G + gap))[:-gap, :-gap]
    figure = new_figure(6.4, 5.4)
    axis = figure.subplots()
    low = min(0.0, float(np.nanmin(picture)))
    shown = axis.imshow(picture, cmap=SEQUENTIAL, vmin=low, vmax=1)
    middles = np.arange(G) * (G + gap) + (G - 1) / 2
    axis.set_xticks(middles, range(G))
    axis.set_yticks(middles, range(G))
    axis.tick_params(length=0)
    axis.set(xlabel="column of the cell", ylabel="row of the cell", title=f"Each map: one of {G}×{G} cells against all")
    for spine in axis.spines.values():
        spine.set_visible(False)
    figure.colorbar(shown, ax=axis, label="cosine similarity of the embeddings")
    return figure


def _sharing(cells: np.ndarray) -> np.ndarray:
    """For each patch along an axis, how many fall into its cell."""
    return np.bincount(cells)[cells]


def _ticks(cells: np.ndarray, start: float, P: int) -> tuple[list[float], list[str]]:
    """Where each cell's middle lies along an axis, and its number; every other one where they would collide."""
    named = np.unique(cells)
    middles = [start + P * (np.flatnonzero(cells == cell).mean() + 0.5) for cell in named]
    return middles, [str(cell) for cell in named]
