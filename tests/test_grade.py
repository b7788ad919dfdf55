"""`tutorials/grade.py`: a right answer is right, and no notebook stops the grader, or fools it by a simple trick."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"
sys.path.insert(0, str(TUTORIALS))

import notebooks  # noqa: E402

CHAPTER = """# %% [markdown]
# # 05 · A small chapter

# %%
import time

import numpy as np
from course import exercise
from musiq_ref import verify
four = 4

# %% [markdown]
# ## Exercises

# %% [markdown]
# ### Exercise 1: double (★, 1 minutes)

# %% tags=["exercise-1"]
def my_double(x):
    return ...

# %% tags=["check-1"]
def check(double):
    for x in (2, 3):
        assert double(x) == 2 * x, f"of {x} it makes {double(x)}, not {2 * x}"
    np.testing.assert_allclose(double(np.ones(3)), 2)

exercise(1, my_double, check)

# %% [markdown]
# ### Exercise 2: the square, backward (★, 1 minutes)

# %%
five = four + 1

# %% tags=["exercise-2"]
def my_backward(dy, x):
    return ...

# %% tags=["check-2"]
def check(backward):
    assert five == 5
    verify.check_vjp(lambda x: (x**2, x), backward, [np.arange(1.0, 4.0)])

exercise(2, my_backward, check)
"""
DOUBLE = "def my_double(x):\n    return 2 * x"
TWICE = "def my_backward(dy, x):\n    return 2 * x * dy"
ANSWERS = {  # {student: (answer 1, answer 2, what grade.py says of the first, of the second)}
    "anna": (DOUBLE, TWICE, "right", "right"),
    "open": (None, None, "open", "open"),
    "wrong": (
        "def my_double(x):\n    return x + 2",
        "def my_backward(dy, x):\n    return x * dy",
        "of 3 it makes 5, not 6",
        "dx is wrong",
    ),
    "returns nothing": (
        "def my_double(x):\n    2 * x",
        "def my_backward(dy, x):\n    2",
        "of 2 it makes None",
        "the backward returns nothing",
    ),
    "syntax": ("def my_double(x:\n    return 2 * x", TWICE, "SyntaxError", "right"),
    "renamed": ("def double(x):\n    return 2 * x", TWICE, "does not define my_double", "right"),
    "loops": (
        "while True:\n    try:\n        time.sleep(9)\n    except BaseException:\n        pass",
        TWICE,
        "did not end within",
        "right",
    ),
    "loops when called": (
        DOUBLE,
        "def my_backward(dy, x):\n    while True:\n        print('x' * 10000)",
        "right",
        "did not end within",
    ),
    "exits": (
        "raise SystemExit(0)",
        "import os\ndef my_backward(dy, x):\n    os._exit(0)",
        "SystemExit",
        "ended with code 0",
    ),
    "crashes": ("import ctypes\nctypes.string_at(0)", TWICE, "was killed by SIG", "right"),
    "asks": ("n = input()\n" + DOUBLE, TWICE, "EOFError", "right"),
    "has magic": ("%timeit 1\n!ls\n" + DOUBLE, TWICE, "right", "right"),
    "renames exercise": (
        "def exercise(*args):\n    print('Exercise 1 is solved.')\n"
        "four = 7\nprint('Exercise 1 is solved.')\nmy_double = abs",
        "check = lambda f: None\nverify = None\nmy_backward = max",
        "of 2 it makes 2, not 4",
        "wrong",
    ),
    "replaces the check's tools": (
        "def my_double(x):\n    np.testing.assert_allclose = lambda *a, **k: None\n"
        "    return 2 * x if np.ndim(x) == 0 else 0",
        "verify.check_vjp = lambda *a: 0\ndef my_backward(dy, x):\n    return dy",
        "replaces numpy.testing.assert_allclose",
        "replaces musiq_ref.verify.check_vjp",
    ),
    "equals everything": (
        "class Any:\n    __eq__ = lambda self, other: True\n    __array__ = lambda self, *a, **k: np.full(3, 2.0)\n"
        "def my_double(x):\n    return Any()",
        "import course\ncourse.judge = lambda *a: ('solved', '')\ndef my_backward(dy, x):\n    return dy",
        "an object of a class of its own",
        "replaces course.judge",
    ),
    "uses the first answer in the second": (
        DOUBLE,
        "def my_backward(dy, x):\n    return my_double(x) * dy",
        "right",
        "right",
    ),
    "=formula()": ("def my_double(x):\n    assert False, '=1+1'", TWICE, "'=1+1", "right"),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """(what the grader printed, {(student, exercise): row}) of all students at once."""
    folder = tmp_path_factory.mktemp("grading")
    for student, (first, second, *_) in ANSWERS.items():
        write(folder, student, {1: first, 2: second})
    write(folder, "no tags", {1: "two = 2\nhelp_me = lambda x: two * x", 2: TWICE}, tags=False)
    changed = CHAPTER.replace("assert double(x) == 2 * x", "assert True").replace("assert_allclose(", "abs(")
    write(folder, "changes the check", {1: "my_double = abs", 2: TWICE}, chapter=changed)
    write(folder, "changes the chapter", {1: DOUBLE, 2: TWICE}, chapter=CHAPTER.replace("four = 4", "1 / 0"))
    (folder / "handed-in" / "damaged").mkdir()
    (folder / "handed-in" / "damaged" / "05_small.ipynb").write_text("{", "utf-8")
    write(folder, "another", {}, chapter="# %% [markdown]\n# # 77 · Another\n", name="other")
    done = subprocess.run(**grader(folder, seconds=8), timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, {(row["student"], row["exercise"]): row for row in table(folder)}


def grader(folder, chapter=CHAPTER, seconds=60):
    """How to run the grader on what was handed in, as if the course had one small chapter."""
    (folder / "sources").mkdir(exist_ok=True)
    (folder / "sources" / "05_small.py").write_text(chapter, "utf-8")
    code = (
        "import notebooks, grade, pathlib, sys; notebooks.SOURCES = pathlib.Path(sys.argv.pop(1)); "
        "raise SystemExit(grade.main())"
    )
    arguments = [folder / "sources", folder / "handed-in", "--seconds", str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TUTORIALS), *sys.path])}
    options = {"env": environment, "cwd": folder, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return {"args": [sys.executable, "-c", code, *arguments], **options}


def table(folder):
    """The rows of the table of grades; none while there is no table."""
    path = folder / "handed-in" / "grades.csv"
    return list(csv.DictReader(path.read_text("utf-8").splitlines())) if path.exists() else []


def write(folder, student, answers, tags=True, chapter=CHAPTER, name="05_small"):
    """A student's notebook: the chapter with its exercises filled in, as Jupyter would save it."""
    path = folder / "student.py"
    path.write_text(chapter, "utf-8")
    notebook = notebooks.read(path)
    for cell in notebook.cells:
        for number, answer in answers.items():
            if answer and f"exercise-{number}" in cell.metadata.get("tags", []):
                cell.source = answer
        if not tags:
            cell.metadata.pop("tags", None)
    if not tags:  # the answer is in a cell of its own, below a helper
        place = next(i for i, cell in enumerate(notebook.cells) if "help_me" in cell.source)
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("my_double = lambda x: help_me(x)"))
    (folder / "handed-in" / student).mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / "handed-in" / student / f"{name}.ipynb")


@pytest.mark.parametrize("student", ANSWERS)
def test_every_answer_gets_its_verdict(graded, student):
    _, rows = graded
    for number, says in zip("12", ANSWERS[student][2:], strict=True):
        row = rows[student if student[0] != "=" else f"'{student}", number]
        if says in ("right", "open", "wrong"):
            assert row["verdict"] == says, row
        else:
            assert (row["verdict"], says in row["sentence"]) == ("wrong", True), row


def test_cells_without_tags_are_found_by_their_heading(graded):
    _, rows = graded
    assert [rows["no tags", n]["verdict"] for n in "12"] == ["right", "right"]


def test_the_chapters_own_checks_and_cells_count(graded):
    _, rows = graded
    assert rows["changes the check", "1"]["sentence"] == "of 2 it makes 2, not 4"
    assert [rows["changes the chapter", n]["verdict"] for n in "12"] == ["right", "right"]


def test_what_is_no_notebook_of_the_course_is_said(graded):
    printed, rows = graded
    assert "cannot be read as a notebook" in rows["damaged", ""]["sentence"]
    assert "is no chapter of the course" in rows["another", ""]["sentence"]
    assert re.fullmatch(r"\d+ right, 2 open, \d+ wrong, 2 unreadable; .*grades.csv", printed.splitlines()[-1])
    assert any(line.split()[:3] == ["anna", "05/1", "right"] for line in printed.splitlines())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["nowhere"], "there is no folder"), (["."], "there is no notebook in")]
    + [([".", "--seconds", n], "give a number above 0") for n in ("0", "-1", "nan", "inf")]
    + [([".", "--csv", "no/marks.csv"], "there is no folder no"), ([".", "--csv", ".."], "is not a table of grades")],
)
def test_bad_use_is_refused(tmp_path, arguments, says):
    command = [sys.executable, str(TUTORIALS / "grade.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("marks", ["my own marks", "student,notebook,chapter,exercise,verdict,sentence,marks", ""])
def test_a_table_of_somebody_else_is_kept(tmp_path, marks):
    (tmp_path / "grades.csv").write_text(marks)
    done = subprocess.run(
        [sys.executable, str(TUTORIALS / "grade.py"), "."], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, "is not a table of grades" in done.stderr) == (2, True)
    assert (tmp_path / "grades.csv").read_text() == marks


@pytest.mark.parametrize(("cell", "says"), [("import os; os._exit(3)", "it crashed"), ("{}['key']", "'key'")])
def test_what_was_graded_before_a_chapter_crashes_is_kept(tmp_path, cell, says):
    write(tmp_path, "anna", {1: DOUBLE, 2: TWICE})
    done = subprocess.run(**grader(tmp_path, CHAPTER.replace("five = four + 1", cell)), timeout=100)
    assert done.returncode == 0, done.stderr
    found = {row["exercise"]: (row["verdict"], row["sentence"]) for row in table(tmp_path)}
    assert found == {"1": ("right", ""), "": ("unreadable", f"the chapter itself does not run here: {says}")}
    done = subprocess.run(**grader(tmp_path), timeout=100)
    assert [(row["exercise"], row["verdict"]) for row in table(tmp_path)] == [("1", "right"), ("2", "right")]


def test_a_grader_that_was_stopped_goes_on(tmp_path):
    """Without asking again those who have a verdict, unless they handed in something else."""
    write(tmp_path, "ann", {1: "my_double = abs", 2: TWICE})
    write(tmp_path, "=ben", {1: DOUBLE, 2: TWICE})
    write(tmp_path, "chloe", {1: "while True:\n    time.sleep(1)", 2: TWICE})
    running = subprocess.Popen(**grader(tmp_path))
    while running.poll() is None and [row["exercise"] for row in table(tmp_path)] != ["1", "1"]:
        time.sleep(0.05)
    running.terminate()
    _, said = running.communicate(timeout=30)
    assert (running.returncode, said.count("\n"), "goes on from" in said) == (130, 2, True), said
    rows = {(row["student"], row["exercise"]): row["verdict"] for row in table(tmp_path)}
    assert rows == {("'=ben", "1"): "right", ("ann", "1"): "wrong"}

    path = tmp_path / "handed-in" / "grades.csv"
    on_paper = "zoe,zoe/05_small.ipynb,05,1,right,on paper,\r\n"
    path.write_text(path.read_text("utf-8").replace("right,", "right,seen by the teacher") + on_paper, "utf-8")
    for student in ("ann", "chloe"):
        write(tmp_path, student, {1: DOUBLE, 2: None})
    done = subprocess.run(**grader(tmp_path), timeout=100)
    assert re.search(r"^verdicts kept from .*grades.csv: 2$", done.stderr, re.MULTILINE)
    rows = [(row["student"], row["exercise"], row["verdict"], row["sentence"]) for row in table(tmp_path)]
    assert rows == [
        ("'=ben", "1", "right", "seen by the teacher"),
        ("'=ben", "2", "right", ""),
        *((student, n, says, "") for student in ("ann", "chloe") for n, says in (("1", "right"), ("2", "open"))),
        ("zoe", "1", "right", "on paper"),
    ]


def test_a_student_without_a_notebook_is_not_forgotten(tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "05_attention.py").write_text("my_double = abs\n")
    command = [sys.executable, str(TUTORIALS / "grade.py"), "."]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert re.search(r"anna .*unreadable this folder holds no notebook", done.stdout), done.stderr
