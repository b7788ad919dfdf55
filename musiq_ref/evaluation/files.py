"""What an evaluation leaves: a table of all images, a scatter plot, a sheet of the images that were judged worst."""

from __future__ import annotations

import contextlib
import csv
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musiq_ref.evaluation.rating import Rated, worst
from musiq_ref.image.decode import ImageLike, decode
from musiq_ref.outputs import SOFTWARE, OutputError, write_output
from musiq_ref.reprs import shown

TABLE, FIGURES = "images.csv", ("scatter.png", "worst.png")
COLUMNS = 4  # of the contact sheet
THUMBNAIL = 320  # pixels of its longer sides


def write_table(path: Path, rated: Sequence[Rated]) -> Path:
    """A CSV file with a line for every image: name, target, score (empty if there is none), error.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_table(Path(folder, "a.csv"), [Rated("a.png", 3.0, 2.5, "", None)]).read_text().splitlines())
    ['image,target,score,error', 'a.png,3.0,2.5,']
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "target", "score", "error"])
    writer.writerows([one.name, one.target, "" if one.error else one.score, one.error] for one in rated)
    write_output(path, text.getvalue())
    return path


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def draw_figures(folder: Path, rated: Sequence[Rated], title: str, max_pixels: int | None = None) -> list[Path]:
    """Draws scatter.png and worst.png; returns their paths, none where nothing was scored or matplotlib is missing.

    >>> draw_figures(Path("nowhere"), [], "nothing")
    []
    """
    known = [one for one in rated if not one.error]
    if not known or not can_draw():
        return []
    from matplotlib.figure import Figure

    scatter, sheet = (folder / name for name in FIGURES)
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.scatter([one.target for one in known], [one.score for one in known], s=9, alpha=0.5, linewidths=0)
    axes.set(xlabel="score in the data set", ylabel="score by the model")
    axes.set_title(shown(title), parse_math=False)
    _save(figure, scatter)

    furthest = worst(known, 3 * COLUMNS)
    rows = -(-len(furthest) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 3 * rows), layout="constrained")
    figure.suptitle("the images whose rank by the model is furthest from that in the data set")
    for axis, one in zip(
        figure.subplots(rows, COLUMNS, squeeze=False).flat, [*furthest, *[None] * COLUMNS], strict=False
    ):
        axis.set_axis_off()
        if one is not None and one.image is not None:
            axis.imshow(_thumbnail(one.image, max_pixels))
            name = shown(Path(one.name).name)
            axis.set_title(f"{name}\ndata set {one.target:.2f}, model {one.score:.2f}", fontsize=8, parse_math=False)
    _save(figure, sheet)
    return [scatter, sheet]


def _save(figure: Any, path: Path) -> None:
    def save(part: Path) -> None:
        figure.savefig(part, format="png", dpi=110, metadata={"Software": SOFTWARE})

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names in a script that the font lacks are drawn as boxes
        write_output(path, save)


def _thumbnail(image: ImageLike, max_pixels: int | None) -> np.ndarray:
    pixels = decode(image, max_pixels=max_pixels)
    step = max(1, max(pixels.shape) // THUMBNAIL)
    return pixels[::step, ::step]


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """In its block the folder is there; what had to be made and stays empty is removed.  Raises OutputError.

    >>> import tempfile
    >>> made = Path(tempfile.mkdtemp(), "made")
    >>> with made_folder(made / "here"):
    ...     (made / "here").is_dir()
    True
    >>> made.exists()
    False
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made ({error.strerror}); name another") from None
    try:
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it holds something
                path.rmdir()
