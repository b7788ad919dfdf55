"""Lists of the chapters, made from the chapters: `python tutorials/index.py [--check]`.

Writes the tables between `<!-- course: … -->` and `<!-- end of course -->` in README.md and the pages of docs/, and
start.ipynb, the page with which JupyterLab opens. Titles, times and difficulties come from the sources.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nbformat

import notebooks

ROOT = notebooks.HERE.parent
START = notebooks.HERE / "start.ipynb"
TABLES = re.compile(r"(<!-- course: (\w+), .*? -->\n)(.*?)(<!-- end of course -->)", re.S)
EXERCISE = re.compile(r"^### Exercise (\d+): (.+?)(?: \((★+), (\d+) minutes\))?$", re.M)

GOALS = {  # learning goals of docs/teaching.md that a chapter serves; halves as their number
    "00": "1",
    "01": "1, 5",
    "02": "1, 2",
    "03": "3",
    "04": "2, 3",
    "05": "2, 3",
    "06": "2",
    "07": "2, 3",
    "08": "3, 6",
    "09": "6",
    "10": "4",
    "11": "5",
    "12": "2, 5",
    "13": "5",
    "14": "5",
    "15": "5, 6",
    "16": "2, 3",
}
WEEK = (  # a day's subject, its chapters
    ("what quality is, and how a photograph becomes tokens", "00 01 02 02b"),
    ("gradients by hand, and the stem", "03 03b 04 04b"),
    ("attention, and the whole model", "05 05b 06"),
    ("backward to the pixels, and what a map shows", "07 07b 10"),
    ("broken ports, and real weights", "11 11b 15"),
)
MONTH = (  # a session's subject, its chapters, and those that are read at home; two sessions a week
    ("what quality is, and what MUSIQ sees", "00 01", ""),
    ("places and scales; gradients by hand", "02 03 03b", "02b"),
    ("the stem", "04 04b", ""),
    ("attention, and the whole model", "05 05b 06", ""),
    ("backward to the pixels; rollout", "07 07b 10", ""),
    ("training, and ablations", "08 08b 09", "09b"),
    ("finding faults; a port of one's own", "11 11b 12", "12b"),
    ("numbers; real weights; cheaper attention", "13 15 16", "14"),
)


class Exercise(NamedTuple):
    """One exercise: its number, its title, stars for its difficulty, minutes."""

    number: int
    title: str
    stars: int
    minutes: int


class Chapter(NamedTuple):
    """What a list says of a chapter; minutes are what the chapter itself says, exercises included."""

    name: str
    number: str
    title: str
    minutes: int
    learn: str
    exercises: list[Exercise]

    @property
    def difficulty(self) -> str:
        """Stars: the mean of its exercises'."""
        stars = [exercise.stars for exercise in self.exercises if exercise.stars]
        return "★" * round(sum(stars) / len(stars)) if stars else ""

    @property
    def homework(self) -> int:
        """Minutes of its exercises."""
        return sum(exercise.minutes for exercise in self.exercises)


def chapter(path: Path) -> Chapter:
    """What a chapter's source says of it."""
    cells = notebooks.read(path).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    number = notebooks.number(path)
    title = re.match(rf"# {number} · (.+)", text)
    minutes = re.search(r"## What you need\n.*?[Aa]bout (\d+) minutes", text, re.S)
    learn = re.search(r"## What you will learn\n.*?^- (.+?)(?=\n- |\n\n|\Z)", text, re.S | re.M)
    if not (title and minutes and learn):
        raise SystemExit(f"{path.name} has no title, no time, or no list of what one learns")
    exercises = [
        Exercise(int(n), what, len(stars), int(time or 0))
        for n, what, stars, time in EXERCISE.findall(text)
    ]
    first = " ".join(learn[1].split()).rstrip(".;")
    return Chapter(path.stem, number, title[1], int(minutes[1]), first, exercises)


@functools.cache
def chapters() -> list[Chapter]:
    """All chapters, in order."""
    return [chapter(path) for path in notebooks.chapters()]


def table(columns: str, rows: list[tuple]) -> str:
    """A Markdown table; columns: headings, separated by "|"."""
    headings = columns.split("|")
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(
        f"| {' | '.join(str(part).replace('|', '&#124;') for part in line)} |\n" for line in lines
    )


def contents(folder: str) -> str:
    """The index of the course, with links into a folder."""
    rows = [
        (c.number, f"[{c.title}]({folder}{c.name}.ipynb)", c.minutes, c.difficulty, c.learn)
        for c in chapters()
    ]
    return table("|chapter|minutes|difficulty|you will learn", rows)


def short() -> str:
    """The index for README, without what is learnt."""
    rows = [
        (c.number, f"[{c.title}](tutorials/{c.name}.ipynb)", c.minutes, c.difficulty)
        for c in chapters()
    ]
    return table("|chapter|minutes|difficulty", rows)


def of(numbers: str) -> list[Chapter]:
    """The chapters with some numbers, such as "05 05b"."""
    return [c for number in numbers.split() for c in chapters() if c.number == number]


def links(found: list[Chapter]) -> str:
    """Numbers of chapters that lead there."""
    return ", ".join(f"[{c.number}](../tutorials/{c.name}.ipynb)" for c in found)


def time(minutes: int) -> str:
    """ "2 h 05", not to be broken over lines."""
    words = f"{minutes // 60} h {minutes % 60:02}" if minutes >= 60 else f"{minutes} min"
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def week() -> str:
    """The plan for five half days."""
    rows = [
        (day, what, links(found := of(numbers)), time(sum(c.minutes for c in found)))
        for day, (what, numbers) in enumerate(WEEK, 1)
    ]
    return table("day|subject|chapters|time, exercises included", rows)


def month() -> str:
    """The plan for four weeks: chapters in class; exercises, and what is read besides, at home."""
    rows = []
    for i, (what, in_class, at_home) in enumerate(MONTH):
        found, read = of(in_class), of(at_home)
        homework = sum(c.homework for c in found)
        times = [time(sum(c.minutes for c in found) - homework)]
        times += [time(homework + sum(c.minutes for c in read))]
        home = "exercises" + (f", and {links(read)}" if read else "")
        rows.append((i // 2 + 1, i % 2 + 1, what, links(found), times[0], home, times[1]))
    return table("week|session|subject|in class|time|at home|time", rows)


def exercises() -> str:
    """What each exercise asks for, and the goals it serves."""
    rows = []
    for c in chapters():
        asked = [
            f"{e.number} {e.title}" + (f" ({'★' * e.stars}, {e.minutes} min)" if e.stars else "")
            for e in c.exercises
        ]
        rows.append((links([c]), " · ".join(asked), GOALS.get(c.number[:2], "")))
    return table("chapter|exercises|goals", rows)


PAGES: dict[str, Callable[[], str]] = {
    "contents": lambda: contents("../tutorials/"),
    "short": short,
    "week": week,
    "month": month,
    "exercises": exercises,
}


def with_tables(text: str) -> str:
    """A page with its tables made anew."""
    return TABLES.sub(lambda match: f"{match[1]}\n{PAGES[match[2]]()}\n{match[4]}", text)


def start() -> nbformat.NotebookNode:
    """The page with which JupyterLab opens."""
    welcome = (
        "# MUSIQ, recomputed\n\n"
        "One photograph becomes a score, and you recompute every number on the way, forward and backward. Click a chapter. "
        "Run a cell with Shift+Enter; an exercise's check cell says whether it is solved, and what is wrong if it is not. "
        "Stars say how hard a chapter's exercises are, minutes how long all of it takes; sections that begin with "
        "*Optional* are folded away and cost no time.\n\n"
        f"{contents('')}\n"
        "Solutions are in [solutions](solutions), where each exercise also has a mistake that people make. Symbols and "
        "equations: the glossary of the documentation, which `make docs` builds.\n\n"
        "Is everything installed? This cell should print a score:"
    )
    notebook = nbformat.v4.new_notebook(metadata=nbformat.from_dict(notebooks.METADATA))
    notebook.nbformat_minor = 5
    code = (
        "import musiq_ref as mq\nfrom course import photograph\n\n"
        'print(mq.score([photograph("coffee")], mq.load_checkpoint("demo"))[0].value)'
    )
    notebook.cells = [nbformat.v4.new_markdown_cell(welcome), nbformat.v4.new_code_cell(code)]
    for i, cell in enumerate(notebook.cells):
        cell.id = f"start-{i}"
    return notebook


def written() -> dict[Path, str]:
    """All files that list chapters, as they should be."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = {path: with_tables(path.read_text("utf-8")) for path in pages}
    return found | {START: nbformat.writes(start()) + "\n"}


def main() -> int:
    """Writes the files, or with --check says which are not as they should be."""
    parser = argparse.ArgumentParser(description="write the lists of chapters, wherever they are")
    parser.add_argument(
        "--check", action="store_true", help="only say which are not as they should be"
    )
    check = parser.parse_args().check
    old = [p for p, text in written().items() if not p.exists() or p.read_text("utf-8") != text]
    if check:
        print("".join(f"{path.relative_to(ROOT)} lists other chapters\n" for path in old), end="")
        return 1 if old else 0
    for path, text in written().items():
        if path in old:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
