"""From rows of a table to a Dataset: targets checked, images looked for, the published split taken over."""

from __future__ import annotations

import os
import reprlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from musiq_ref.reprs import shown
from musiq_ref.training.datasets.dataset import Dataset, DatasetError, Example, Split
from musiq_ref.training.datasets.tables import LabelRow

PARTS = {"training": "train", "train": "train", "validation": "validation", "valid": "validation", "val": "validation"}
PARTS |= {"test": "test", "testing": "test"}


def image_folder(folder: Path, names: Sequence[str], dataset: str) -> Path:
    """The first of the named folders in `folder`, or one level below.  Raises DatasetError when there is none.

    >>> image_folder(Path("."), ["no such images"], "AVA")
    Traceback (most recent call last):
    musiq_ref.training.datasets.dataset.DatasetError: . has no folder no such images; put the images of AVA there
    """
    for name in names:
        for path in (folder / name, *sorted(child / name for child in folder.iterdir() if child.is_dir())):
            if path.is_dir():
                return path
    raise DatasetError(f"{folder} has no folder {' or '.join(names)}; put the images of {dataset} there")


def shares(row: LabelRow, columns: Sequence[str]) -> tuple[float, ...]:
    """The votes in those columns, counts or shares, divided by their sum.  Raises DatasetError if there are none.

    >>> shares(LabelRow(Path("a.csv"), 2, {"p1": "3", "p2": "1"}), ["p1", "p2"])
    (0.75, 0.25)
    """
    votes = [row.value(column, 0, 1e9) for column in columns]
    total = sum(votes)
    if total <= 0:
        raise row.error("there is not a single vote; remove the row")
    return tuple(vote / total for vote in votes)


def assemble(
    name: str,
    rows: Sequence[LabelRow],
    targets: Sequence[tuple[float, ...]],
    images: Path,
    image_column: str,
    score_range: tuple[float, float],
    remedy: str = "",
) -> Dataset:
    """The data set of rows and their targets: one example for every row whose image is there.

    images: the folder that the names in `image_column` are relative to
    remedy: what else to do where no image is there

    The column `set`, if there is one, is the published split, and `group` what must stay together.  A row that repeats
    an image becomes a problem.  Raises DatasetError if no image is there, if one group is in two parts, or if one image
    has two labels.

    >>> assemble("none", [LabelRow(Path("a.csv"), 2, {"image": "x.jpg"})], [(1.0,)], Path("."), "image", (0, 1))
    Traceback (most recent call last):
    musiq_ref.training.datasets.dataset.DatasetError: none has no image: x.jpg (a.csv, row 2) does not exist; ...
    """
    examples, problems = [], []
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    part_of: dict[str, str] = {}
    rows_of: dict[str, tuple[int, tuple[float, ...]]] = {}
    for row, target in zip(rows, targets, strict=True):
        file = _file(images, row.text(image_column))
        path, group = _there(images / file), row.text("group") if "group" in row.cells else Path(file).as_posix()
        part = _part(row) if "set" in row.cells else ""
        if part_of.setdefault(group, part) != part:
            raise row.error(f"{group} is in {part} and in {part_of[group]}; choose one")
        before, its_target = rows_of.setdefault(os.path.normpath(path), (row.number, target))
        if its_target != target:
            raise row.error(f"{path} has another label in row {before}; keep one of the rows")
        if problem := _problem(path, row.number, before):
            problems.append(shown(f"{path} ({row.path}, row {row.number}) {problem}"))
            continue
        if part:
            parts[part].append(len(examples))
        examples.append(Example(path, target, group))
    if not examples:
        raise DatasetError(f"{name} has no image: {problems[0]}{remedy}")
    published = Split(*(tuple(parts[part]) for part in Split._fields)) if "set" in rows[0].cells else None
    return Dataset(name, tuple(examples), len(targets[0]), score_range, published, tuple(problems))


def _file(images: Path, name: str) -> str:
    """The file's name; the back slashes of Windows are understood everywhere."""
    return name if name.endswith("\\") or os.path.isfile(images / name) else name.replace("\\", "/")


def _there(path: Path) -> Path:
    """The path as the disk has it, where é may be one character (NFC), or e and an accent (NFD)."""
    forms = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
    return next((form for form in (path, *forms) if os.path.isfile(form)), path)


def _problem(path: Path, row: int, before: int) -> str:
    if row != before:
        return f"is in row {before} already; remove one of the rows"
    if not os.path.isfile(path):
        return "does not exist; download it or remove the row"
    return "" if path.stat().st_size else "is empty; get a fresh copy"


def _part(row: LabelRow) -> str:
    text = row.text("set")
    if text.lower() not in PARTS:
        raise row.error(f"set is {reprlib.repr(text)}; use training, validation or test")
    return PARTS[text.lower()]
