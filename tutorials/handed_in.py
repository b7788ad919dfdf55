"""What students handed in: the notebooks under a folder, and the answers in them; `grade` asks for it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

import notebooks

EXERCISE = re.compile(r"^### Exercise (\d+)\b", re.MULTILINE)


class Submission(NamedTuple):
    """A notebook: whose, where it lies, the cells of each exercise, and what changes with it or with its chapter."""

    student: str
    notebook: str
    answers: dict[int, list[str]]
    fingerprint: str


class Row(NamedTuple):
    """A line of the table; verdict: one of VERDICTS; fingerprint: of what was graded."""

    student: str
    notebook: str
    chapter: str
    exercise: str
    verdict: str
    sentence: str
    fingerprint: str


def tags(cell: Any, kind: str) -> list[int]:
    """The numbers n of a cell's tags "kind-n"."""
    found = cell.metadata.get("tags", [])
    return [int(t.removeprefix(f"{kind}-")) for t in found if re.fullmatch(rf"{kind}-\d+", t)]


def answers_of(notebook: Any, chapter: Any) -> dict[int, list[str]]:
    """{exercise: the code cells that a student wrote for it}; what the chapter has, and its checks, are left out."""
    own = {cell.source.strip() for cell in chapter.cells if not tags(cell, "exercise")}
    found: dict[int, list[str]] = {}
    number = None
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = EXERCISE.search(cell.source)
            number = int(heading[1]) if heading else number
            number = None if cell.source.startswith("## ") and not heading else number
            continue
        number = next(iter(tags(cell, "exercise")), number)
        is_check = tags(cell, "check") or re.search(r"^exercise\(", cell.source, re.MULTILINE)
        if is_check and not tags(cell, "exercise"):
            number = None
        elif cell.cell_type == "code" and number and cell.source.strip() not in own:
            found.setdefault(number, []).append(cell.source)
    return found


def submissions(folder: Path) -> tuple[dict[Path, list[Submission]], list[Row]]:
    """({chapter: its submissions}, what cannot be read) of all notebooks under a folder."""
    chapters = {path: notebooks.read(path) for path in notebooks.chapters()}
    titles = {path: chapter.cells[0].source.split("\n")[0] for path, chapter in chapters.items()}
    found: dict[Path, list[Submission]] = {}
    unreadable: list[Row] = []

    def refuse(student: str, place: object, sentence: str) -> None:
        unreadable.append(Row(student, str(place), "", "", "unreadable", sentence, ""))

    for place in sorted(folder.iterdir()):
        if place.is_dir() and place.name[0] not in "._" and not any(place.rglob("*.ipynb")):
            refuse(place.name, place.name, "this folder holds no notebook (.ipynb)")
    for path in sorted(folder.rglob("*.ipynb")):
        place = path.relative_to(folder)
        if ".ipynb_checkpoints" in place.parts:
            continue
        student = str(place.parent) if place.parent.parts else place.stem
        try:
            notebook = nbformat.read(path, as_version=4)
            first = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        except Exception as error:  # whatever a damaged file makes nbformat raise
            refuse(student, place, f"it cannot be read as a notebook ({type(error).__name__})")
            continue
        numbers = re.findall(r"^# (\d\db?) · ", first, re.MULTILINE) or re.findall(
            r"(?:^|_)(\d\db?)_", path.stem
        )
        chapter = next((c for c in titles if notebooks.number(c) in numbers[:1]), None)
        if chapter is None:
            wanted = "its title should be '# 05 · …', or its name 05_…"
            refuse(student, place, f"it is no chapter of the course; {wanted}")
            continue
        answers = answers_of(notebook, chapters[chapter])
        fingerprint = hashlib.sha256(chapter.read_bytes() + path.read_bytes()).hexdigest()[:12]
        one = Submission(student, str(place), answers, fingerprint)
        found.setdefault(chapter, []).append(one)
    return found, unreadable
