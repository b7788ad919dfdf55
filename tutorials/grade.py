"""Grades notebooks: `python tutorials/grade.py FOLDER` puts students' answers to the chapters' own checks.

Only the cells between "## Exercises" and each check are taken from a notebook. Everything else, checks included, is
run from the chapter itself, once; every answer then runs in a process of its own, forked from that one, without a
terminal and within a time limit. A notebook may crash, loop or rename things; it costs nobody else a verdict. This
stops accidents and simple tricks. Answers run with your rights, though: grade strangers' notebooks in a container.

The table is whole on the disk after every answer. A second run goes on: it grades again only what changed since, the
notebook or its chapter. Delete a line, or the table, to have it graded again.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import notebooks
from handed_in import Row, Submission, submissions, tags
from musiq_ref.outputs import OutputError, write_output
from verdicts import Silent, in_own_process, names_of, run

SECONDS = 60.0  # that an answer may take, check included
VERDICTS = ("right", "open", "wrong", "unreadable")


def graded(
    path: Path, given: list[Submission], done: set[tuple[str, str]], seconds: float
) -> Iterator[Row]:
    """The rows of one chapter: its cells are run once, and at each check all answers are tried.

    done: (notebook, exercise) of answers that have a verdict already
    """
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
            for student, notebook, answers, fingerprint in given:
                if (notebook, str(n)) in done:
                    continue
                row = Row(student, notebook, chapter, str(n), "open", "", fingerprint)
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


def table(target: Path) -> list[Row]:
    """The rows of a table of grades; none where there is no file. Raises OutputError where it is something else."""
    try:
        if not target.exists():
            return []
        head, *lines = csv.reader(io.StringIO(target.read_bytes().decode(), newline=""))
        if tuple(head) != Row._fields:
            raise ValueError
        return [Row(*(re.sub("^'(?=[=+@-])", "", text) for text in line)) for line in lines]
    except (OSError, ValueError, TypeError, csv.Error):
        sentence = f"{target} is not a table of grades; name another with --csv"
        raise OutputError(sentence) from None


def save(target: Path, rows: list[Row]) -> None:
    """Writes the table, sorted; until it is whole, the one before it stays."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([Row._fields, *(map(plain, row) for row in sorted(rows))])
    write_output(target, text.getvalue())


def grade(folder: Path, target: Path, seconds: float) -> list[Row]:
    """The rows of all notebooks under a folder, each in the table as soon as it is known."""
    before = table(target)
    found, rows = submissions(folder)
    if not found and not rows:
        raise OutputError(f"there is no notebook in {folder}")
    prints = {s.notebook: s.fingerprint for given in found.values() for s in given}
    kept = [
        r for r in before if r.exercise and r.fingerprint == prints.get(r.notebook, r.fingerprint)
    ]
    done = {(row.notebook, row.exercise) for row in kept}
    if done:
        print(f"verdicts kept from {target}: {len(done)}", file=sys.stderr)
    save(target, rows := rows + kept)
    for chapter, given in sorted(found.items()):
        exercises = [str(n) for cell in notebooks.read(chapter).cells for n in tags(cell, "check")]
        left = [s for s in given if any((s.notebook, n) not in done for n in exercises)]
        if left:
            print(f"{chapter.stem}: {len(left)} …", file=sys.stderr, flush=True)
            with closing(_in_chapter(chapter, left, done, seconds)) as new:
                for row in new:
                    save(target, rows := [*rows, row])
    return sorted(rows)


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
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # a process with threads must not be forked
    os.environ |= {"MPLBACKEND": "agg", "MUSIQ_REF_STATIC": "1"}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        rows = grade(args.folder, target, args.seconds)
    except OutputError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from {target}", file=sys.stderr)
        return 130
    for row in rows:
        where = f"{row.chapter}/{row.exercise}" if row.chapter else row.notebook
        print(f"{row.student:20} {where:8} {row.verdict:10} {row.sentence[:200]}".rstrip())
    counts = Counter(row.verdict for row in rows)
    print(", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v]) + f"; {target}")
    return 0


def _in_chapter(chapter: Path, given: list[Submission], *task: Any) -> Generator[Row, None, None]:
    """The rows of a chapter, whose cells run in a process of their own, too; one more for each student if they crash."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_run_chapter, args=(there, chapter, given, *task))
    process.start()
    there.close()
    stopped = "it crashed"
    try:
        while isinstance(said := _received(here, process), list):
            yield Row(*said)
        stopped = said
        process.join(9)
    except EOFError:
        pass
    finally:
        if process.is_alive():
            process.terminate()  # it ends its answer, too
            process.join(9)
            process.kill()
    if stopped:
        sentence = f"the chapter itself does not run here: {' '.join(stopped.split())}"
        for s in given:
            number = notebooks.number(chapter)
            yield Row(s.student, s.notebook, number, "", "unreadable", sentence, s.fingerprint)


def _received(pipe: Any, process: Any) -> Any:
    """What a process says next. Raises EOFError if it ended, though a process of its own may keep the pipe open."""
    while not pipe.poll(0.2):
        if not process.is_alive() and not pipe.poll():
            raise EOFError
    return json.loads(pipe.recv_bytes())


def _run_chapter(pipe: Any, chapter: Path, *task: Any) -> None:
    """Sends the rows of a chapter, then "", or why there are no more."""
    os.chdir(notebooks.HERE)
    warnings.simplefilter("ignore")  # of figures that nobody sees
    stopped = ""
    try:
        with redirect_stdout(io.StringIO()):
            for row in graded(chapter, *task):
                pipe.send_bytes(json.dumps(row).encode())
    except (KeyboardInterrupt, BrokenPipeError):  # the grader was stopped, or is gone
        return
    except Exception as error:  # whatever the chapter raises
        stopped = str(error) or type(error).__name__
    pipe.send_bytes(json.dumps(stopped).encode())


if __name__ == "__main__":
    raise SystemExit(main())
