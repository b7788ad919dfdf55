"""Grades notebooks: `python tutorials/grade.py FOLDER` puts students' answers to the chapters' own checks.

Only the cells between "## Exercises" and each check are taken from a notebook. Everything else, checks included, is
run from the chapter itself, once; every answer then runs in a process of its own, forked from that one, without a
terminal and within a time limit. A notebook may crash, loop or rename things; it costs nobody else a verdict. This
stops accidents and simple tricks. Answers run with your rights, though: grade strangers' notebooks in a container.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

import notebooks
from verdicts import Silent, in_own_process, names_of, run

SECONDS = 60.0  # that an answer may take, check included
EXERCISE = re.compile(r"^### Exercise (\d+)\b", re.MULTILINE)
VERDICTS = ("right", "open", "wrong", "unreadable")


class Submission(NamedTuple):
    """A notebook: whose, where it lies, and the cells of each exercise."""

    student: str
    notebook: str
    answers: dict[int, list[str]]


class Row(NamedTuple):
    """A line of the result; verdict: one of VERDICTS."""

    student: str
    notebook: str
    chapter: str
    exercise: str
    verdict: str
    sentence: str


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
        unreadable.append(Row(student, str(place), "", "", "unreadable", sentence))

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
        found.setdefault(chapter, []).append(Submission(student, str(place), answers))
    return found, unreadable


def graded(path: Path, given: list[Submission], seconds: float) -> Iterator[Row]:
    """The rows of one chapter: its cells are run once, and at each check all answers are tried."""
    chapter = notebooks.number(path)
    cells = [cell for cell in notebooks.read(path).cells if cell.cell_type == "code"]
    exercises = {n: cell.source for cell in cells for n in tags(cell, "exercise")}
    namespace: dict[str, Any] = {
        "__name__": "__main__",
        "display": Silent().show,
        "get_ipython": Silent,
    }
    for k, cell in enumerate(cells):
        for n in tags(cell, "check"):
            wanted = names_of(exercises[n])
            for student, notebook, answers in given:
                row = Row(student, notebook, chapter, str(n), "open", "")
                if answers.get(n, [exercises[n]]) == [exercises[n]]:
                    yield row
                    continue
                said = "wrong", ""
                for before in ([], [c for m in sorted(answers) if m < n for c in answers[m]]):
                    task = (namespace, before + answers[n], wanted, cell.source)
                    said = in_own_process(seconds, *task)
                    if "NameError" not in said[1]:  # it may need what an earlier answer defines
                        break
                yield row._replace(verdict=said[0], sentence=" ".join(said[1].split()))
            run(exercises[n], namespace, f"exercise {n}")  # left open, as in the chapter
        if not tags(cell, "exercise") and "quiz(" not in cell.source:
            run(cell.source, namespace, f"chapter {k}")
        for name in (name for n in tags(cell, "check") for name in names_of(exercises[n])):
            del namespace[name]  # nothing in the chapter needs it; an answer may need the student's


def plain(text: str) -> str:
    """Text that a spreadsheet takes for text, and not for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def main() -> int:
    """Grades all notebooks under a folder, prints a line for every exercise, and writes a table."""
    parser = argparse.ArgumentParser(
        description="grade students' notebooks",
        epilog="example: python tutorials/grade.py handed-in/",
    )
    parser.add_argument("folder", type=Path, help="with notebooks, as STUDENT/05_attention.ipynb")
    parser.add_argument("--csv", type=Path, help="the table to write; default: FOLDER/grades.csv")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="an answer may take")
    args = parser.parse_args()
    if not hasattr(os, "fork"):
        parser.error("grading needs Linux or macOS; on Windows, use WSL")
    if not args.folder.is_dir():
        parser.error(f"there is no folder {args.folder}")
    if not 0 < args.seconds < float("inf"):
        parser.error(f"--seconds is {args.seconds:g}; give a number above 0, such as {SECONDS:g}")
    target = args.csv or args.folder / "grades.csv"
    if not target.parent.is_dir():
        parser.error(f"there is no folder {target.parent} to write {target.name} in")
    head = ",".join(Row._fields).encode()
    if target.is_dir() or (target.exists() and not target.read_bytes().startswith(head)):
        parser.error(f"{target} is not a table of grades; name another with --csv")
    found, rows = submissions(args.folder)
    if not found and not rows:
        parser.error(f"there is no notebook in {args.folder}")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # a process with threads must not be forked
    os.environ |= {"MPLBACKEND": "agg", "MUSIQ_REF_STATIC": "1"}
    for chapter, given in sorted(found.items()):
        print(f"{chapter.stem}: {len(given)} …", file=sys.stderr, flush=True)
        rows += _in_chapter(chapter, given, args.seconds)
    rows.sort()
    for row in rows:
        where = f"{row.chapter}/{row.exercise}" if row.chapter else row.notebook
        print(f"{row.student:20} {where:8} {row.verdict:10} {row.sentence[:200]}".rstrip())
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([Row._fields, *([plain(text) for text in row] for row in rows)])
    counts = Counter(row.verdict for row in rows)
    print(", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v]) + f"; {target}")
    return 0


def _rows(chapter: Path, given: list[Submission], seconds: float) -> list[Row]:
    os.chdir(notebooks.HERE)
    warnings.simplefilter("ignore")  # of figures that nobody sees
    with redirect_stdout(io.StringIO()):
        return list(graded(chapter, given, seconds))


def _in_chapter(chapter: Path, given: list[Submission], seconds: float) -> list[Row]:
    """The rows of a chapter, whose cells run in a process of their own, too."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            return pool.submit(_rows, chapter, given, seconds).result()
    except Exception as error:  # whatever the chapter raises
        stopped = "it crashed" if isinstance(error, BrokenProcessPool) else str(error)
    number, sentence = notebooks.number(chapter), f"the chapter itself does not run here: {stopped}"
    return [Row(s.student, s.notebook, number, "", "unreadable", sentence) for s in given]


if __name__ == "__main__":
    raise SystemExit(main())
