"""What an evaluation leaves: a table of all images, a scatter plot, a sheet of the images that were judged worst."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musiq_ref.evaluation.rating import Rated, worst
from musiq_ref.image.decode import ImageLike, decode

COLUMNS = 4  # of the contact sheet
THUMBNAIL = 320  # pixels of its longer sides


def write_table(path: Path, rated: Sequence[Rated]) -> Path:
    """A CSV file with a line for every image: name, target, score (empty if there is none), error.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_table(Path(folder, "a.csv"), [Rated("a.png", 3.0, 2.5, "", None)]).read_text().splitlines())
    ['image,target,score,error', 'a.png,3.0,2.5,']
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "target", "score", "error"])
        writer.writerows([one.name, one.target, "" if one.error else one.score, one.error] for one in rated)
    return path


def draw_figures(folder: Path, rated: Sequence[Rated], title: str) -> list[Path]:
    """Draws scatter.png and worst.png; returns their paths, none when matplotlib is not installed.

    >>> draw_figures.__name__
    'draw_figures'
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    known = [one for one in rated if not one.error]
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.scatter([one.target for one in known], [one.score for one in known], s=9, alpha=0.5, linewidths=0)
    axes.set(xlabel="score in the data set", ylabel="score by the model", title=title)
    figure.savefig(folder / "scatter.png", dpi=110)

    shown = worst(known, 3 * COLUMNS)
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 3 * rows), layout="constrained")
    figure.suptitle("the images whose rank by the model is furthest from that in the data set")
    for axis, one in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, [*shown, *[None] * COLUMNS], strict=False):
        axis.set_axis_off()
        if one is not None and one.image is not None:
            axis.imshow(_thumbnail(one.image))
            axis.set_title(f"{Path(one.name).name}\ndata set {one.target:.2f}, model {one.score:.2f}", fontsize=8)
    figure.savefig(folder / "worst.png", dpi=110)
    return [folder / "scatter.png", folder / "worst.png"]


def _thumbnail(image: ImageLike) -> np.ndarray:
    pixels = decode(image)
    step = max(1, max(pixels.shape) // THUMBNAIL)
    return pixels[::step, ::step]
