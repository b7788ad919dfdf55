"""The course: chapters keep the contract of tutorials/README.md and run; exercises tell right from wrong."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"
sys.path.insert(0, str(TUTORIALS))

with np.printoptions(), plt.rc_context():  # course sets both for its reader, and the tests after these are not
    import course
    import index
    import notebooks

CHAPTERS = notebooks.chapters()
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
HEADINGS = ("What you will learn", "What you need", "Exercises", "Quiz", "In practice", "References")  # in this order
WIDEST, LONGEST = 100, 30  # of code in a cell, in characters and lines, to be read without scrolling
CITED = re.compile(r"\b(?:Eq\.|Equations?) \(?(\d+)\)?(?:(?:–| and | or )\(?(\d+)\)?)?")


def text_of(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, kind: str) -> dict[int, nbformat.NotebookNode]:
    """{number: cell} of the cells tagged "kind-number"."""
    found = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag.startswith(f"{kind}-"):
                assert int(tag.removeprefix(f"{kind}-")) not in found, f"two cells are tagged {tag}"
                found[int(tag.removeprefix(f"{kind}-"))] = cell
    return found


def printed(cell) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@each_chapter
def test_the_stored_notebook_is_the_chapter(path):
    assert notebooks.problems(path) == []


@each_chapter
def test_the_chapter_keeps_the_contract(path):
    notebook = notebooks.read(path)
    text, code = text_of(notebook), code_cells(notebook)
    assert re.match(rf"# {notebooks.number(path)} · \S", text), f"the title is not '# {notebooks.number(path)} · …'"
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert [h for h in headings if h in HEADINGS] == list(HEADINGS)
    said = re.search(r"[Aa]bout (\d+) minutes", text.split("## What you need")[1].split("\n## ")[0])
    assert said, "the chapter does not say how long it takes"
    assert notebooks.minutes(path) - 5 <= int(said[1]) <= 60, f"it takes about {notebooks.minutes(path):.0f} minutes"
    assert sum(cell.source.count("assert") for cell in code) >= 3, "fewer than three asserts"
    for cell in code:
        lines = cell.source.splitlines()
        assert len(lines) <= LONGEST, f"a cell of {len(lines)} lines begins with {lines[0]!r}"
        too_wide = [line for line in lines if len(line) > WIDEST]
        assert not too_wide, f"wider than {WIDEST} characters: {too_wide[0]!r}"
    pictures = notebooks.picture_sizes(nbformat.read(notebooks.stored(path), as_version=4))
    assert len(pictures) >= 2, "fewer than two pictures"


@each_chapter
def test_every_exercise_has_all_its_parts(path):
    notebook = notebooks.read(path)
    exercises, checks = tagged(notebook, "exercise"), tagged(notebook, "check")
    numbers = list(range(1, len(exercises) + 1))
    assert 2 <= len(numbers) <= 4
    assert list(exercises) == list(checks) == numbers
    solutions = notebooks.read(TUTORIALS / "solutions" / path.name)
    assert list(tagged(solutions, "solution")) == numbers
    assert sorted(tagged(solutions, "wrong")) == numbers, "every exercise needs a wrong answer that its check rejects"
    parts = re.split(r"^### Exercise ", text_of(notebook), flags=re.M)[1:]
    assert [int(part.split(":")[0]) for part in parts] == numbers
    for part in parts:
        assert re.match(r"\d: .+ \(★{1,3}, \d+ minutes\)\n", part), f"{part.splitlines()[0]}: no difficulty and time"
        assert "<summary>Hint" in part
    for number, cell in exercises.items():
        assert "..." in cell.source, f"exercise {number} leaves nothing open"
        assert f"exercise({number}," in checks[number].source


@each_chapter
def test_the_quiz_can_be_answered(path):
    chapter = notebooks.number(path)
    asked = course.questions(chapter)
    assert len(asked) == 5
    for question in asked:
        assert set(question) == {"ask", "right", "why", "wrong"}
        assert 2 <= len(question["wrong"]) <= 4
        assert question["right"] not in question["wrong"]
        assert all(isinstance(text, str) and text.strip() for text in (*question["wrong"].values(), question["why"]))
    assert [f'quiz("{chapter}")'] == [c.source for c in code_cells(notebooks.read(path)) if "quiz(" in c.source]


QUICKER = {
    "09_ablations": {
        "epoch_images=96": "epoch_images=8",
        '"crops": 2': '"crops": 1',
        "size=192, crops=2": "size=192, crops=1",
    }
}
"""What is changed in a chapter that takes long; as it is, it is run by `make test-all`."""


def runs():
    """(chapter, changes) for every run."""
    for path in CHAPTERS:
        torch = [pytest.mark.frameworks("torch")] * ("import torch" in path.read_text("utf-8"))
        long = [pytest.mark.long] * (path.stem in QUICKER)
        yield pytest.param(path, {}, id=path.stem, marks=torch + long)
        if long:
            yield pytest.param(path, QUICKER[path.stem], id=f"{path.stem}, quicker", marks=torch)


@pytest.mark.parametrize(("path", "changes"), list(runs()))
def test_the_chapter_runs_and_its_exercises_tell_right_from_wrong(path, changes):
    """Each check is run three times: on the open exercise, on a wrong answer, and on the solution."""
    notebook, solutions = notebooks.read(path), notebooks.read(TUTORIALS / "solutions" / path.name)
    for old, new in changes.items():
        [cell] = [cell for cell in notebook.cells if old in cell.source]
        cell.source = cell.source.replace(old, new)
    answers = {kind: tagged(solutions, kind) for kind in ("wrong", "solution")}
    expected = {}
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        for number in [int(t[6:]) for t in cell.metadata.get("tags", []) if t.startswith("check-")]:
            expected[len(cells) - 1] = f"Exercise {number} is still open"
            for kind, says in (("wrong", "is not right yet: "), ("solution", "is solved.")):
                cells += [nbformat.v4.new_code_cell(answers[kind][number].source), cell.copy()]
                expected[len(cells) - 1] = f"Exercise {number} {says}"
    notebook.cells = cells
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"
    notebooks.execute(notebook)
    for i, says in expected.items():
        assert printed(cells[i]).startswith(says), f"the check says {printed(cells[i])!r}, not {says!r}"


# ---- equations


DERIVED = {
    notebooks.number(path): [int(n) for n in re.findall(r"\\tag\{(\d+)\}", path.read_text("utf-8"))]
    for path in CHAPTERS
}
GLOSSARY = (TUTORIALS.parent / "docs" / "glossary.md").read_text("utf-8")
EQUATIONS = {
    int(n): (chapter, re.findall(r"`([\w.]+)`", code))
    for n, chapter, code in re.findall(r"^\| \((\d+)\) \|[^|]*\| (\d\db?) \|(.*)\|$", GLOSSARY, re.M)
}


def cited(text: str) -> set[int]:
    """The equations that a text names: "Eq. 7", "Eq. (7)", "Eq. 6–11", "Eq. 10 and 11"."""
    found: set[int] = set()
    for match in CITED.finditer(text):
        first, last = int(match[1]), int(match[2] or match[1])
        found |= set(range(first, last + 1)) if "–" in match[0] else {first, last}
    return found


def test_citations_are_understood():
    assert cited("(Eq. 7), Eq. (2); Eq. 9–11 and Eq. (4) and (5)") == {7, 2, 9, 10, 11, 4, 5}


def test_every_equation_is_derived_in_one_chapter():
    assert sorted(EQUATIONS) == list(range(1, 12))
    for chapter, numbers in DERIVED.items():
        assert numbers == [n for n, (where, _) in EQUATIONS.items() if where == chapter], chapter


@each_chapter
def test_equations_that_are_cited_exist(path):
    assert cited(path.read_text("utf-8")) <= set(EQUATIONS)


# ---- the notebooks' own tools


def test_a_notebook_that_does_not_fit_is_noticed(tmp_path):
    path = tmp_path / "sources" / CHAPTERS[0].name
    path.parent.mkdir()
    shutil.copy(CHAPTERS[0], path)
    shutil.copy(notebooks.stored(CHAPTERS[0]), tmp_path)
    assert notebooks.problems(path) == []
    stored = nbformat.read(notebooks.stored(path), as_version=4)
    code_cells(stored)[0].outputs.append(nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[]))
    code_cells(stored)[1].execution_count = None
    nbformat.write(stored, notebooks.stored(path))
    path.write_text(path.read_text("utf-8") + "\n# %%\n1 + 1\n", "utf-8")
    differs, unexecuted, error = notebooks.problems(path)
    assert "differs from" in differs
    assert "was not executed" in unexecuted
    assert "holds an error" in error
    notebooks.stored(path).unlink()
    assert "does not exist" in notebooks.problems(path)[0]


def test_building_again_changes_nothing(tmp_path):
    path = tmp_path / "99_small.py"
    path.write_text(
        "# %%\nfrom course import show\nimport sys\nimport matplotlib.pyplot as plt\nfrom musiq_ref import verify\n"
        "print(1)\nprint('progress', file=sys.stderr)\nprint(2)\n"
        "# %%\nplt.plot([1, 2])\nplt.show()\n# %%\nshow(verify.bits)\n# %%\n1 + 1\n",
        "utf-8",
    )
    first = notebooks.build(path)
    assert nbformat.writes(first) == nbformat.writes(notebooks.build(path))
    nbformat.validate(first)
    cells = code_cells(first)
    assert [o.text for o in cells[0].outputs] == ["1\n2\n"]
    assert notebooks.picture_sizes(first)[0] > 500
    assert "def bits(" in cells[2].outputs[0].data["text/markdown"]
    assert cells[3].outputs[0].data["text/plain"] == "2"


def test_optional_sections_are_folded_and_cost_no_time(tmp_path):
    path = tmp_path / "99_corner.py"
    prose = "# " + "word " * 1300 + "\n"
    kept = f"# %% [markdown]\n# ## A section\n{prose}# %%\n1 + 1\n"
    path.write_text(kept, "utf-8")
    alone = notebooks.minutes(path)
    assert alone == pytest.approx(1300 / 130 + 1 / 15 + 4, abs=0.1)
    corner = f"# %% [markdown]\n# ### Optional: a corner\n{prose}# %%\n2 + 2\n"
    path.write_text(kept + corner + kept, "utf-8")
    assert notebooks.minutes(path) == pytest.approx(2 * alone - 4)
    cells = notebooks.read(path).cells
    assert [c.metadata.get("jp-MarkdownHeadingCollapsed", False) for c in cells] == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]
    assert ["hide-cell" in c.metadata.get("tags", []) for c in cells] == [False, False, False, True, False, False]
    path.write_text(kept + corner + kept.replace("## A", "### A") + corner.replace("###", "##") + corner, "utf-8")
    folded = [i for i, c in enumerate(notebooks.read(path).cells) if "hide-cell" in c.metadata.get("tags", [])]
    assert folded == [3, 7, 9]  # a heading of the same level ends it, one below does not


def test_prose_alone_keeps_outputs_and_other_code_does_not(tmp_path):
    path = tmp_path / "sources" / "99_prose.py"
    path.parent.mkdir()
    path.write_text("# %% [markdown]\n# one\n# %%\n1 + 1\n", "utf-8")
    nbformat.write(notebooks.build(path), notebooks.stored(path))
    path.write_text("# %% [markdown]\n# two\n# %%\n1 + 1\n", "utf-8")
    prose, code = notebooks.with_stored_outputs(path).cells
    assert prose.source == "two"
    assert code.outputs[0].data["text/plain"] == "2"
    path.write_text("# %%\n1 + 2\n", "utf-8")
    with pytest.raises(SystemExit, match="has other code than its notebook"):
        notebooks.with_stored_outputs(path)


def test_a_quiz_answers_for_itself(monkeypatch):
    asked = {"ask": "Is 1 < 2?", "right": "yes, `<` says so", "why": "It is less.", "wrong": {"no": "Count again."}}
    shown = []
    monkeypatch.setattr(course, "questions", lambda chapter: [asked])
    monkeypatch.setattr(course, "display", lambda html: shown.append(html.data))
    course.quiz("99")
    for part in (
        "<b>1.</b> Is 1 &lt; 2?",
        "<summary>yes, <code>&lt;</code> says so</summary><p><b>Right.</b> It is less.",
    ):
        assert part in shown[0]
    assert "<summary>no</summary><p><b>No.</b> Count again." in shown[0]


def test_folders_of_this_run_are_left_out(tmp_path):
    path = tmp_path / "99_folders.py"
    path.write_text("# %%\nimport tempfile\nprint(1)\nprint(tempfile.mkdtemp() + '/weights.pth: refused')\n", "utf-8")
    [cell] = notebooks.build(path).cells
    assert cell.outputs[0].text == "1\nweights.pth: refused\n"


def test_a_chapter_that_lacks_a_package_says_so_and_stays_as_it_is(tmp_path, monkeypatch, capsys):
    path = tmp_path / "sources" / "99_lacking.py"
    path.parent.mkdir()
    path.write_text("# %%\n1 + 1\n", "utf-8")
    nbformat.write(notebooks.build(path), notebooks.stored(path))
    before = notebooks.stored(path).read_bytes()
    path.write_text('# %%\nfrom course import needs\nneeds("no_such_package", "Such", "%pip install such")\n', "utf-8")
    monkeypatch.setattr(notebooks, "chapters", lambda names: [path])
    monkeypatch.setattr(sys, "argv", ["notebooks.py"])
    notebooks.main()
    assert notebooks.stored(path).read_bytes() == before
    assert capsys.readouterr().err.startswith(
        "99_lacking stays as it is. This chapter needs Such, which is not installed: run %pip install such in a cell, "
        "then restart the kernel.\n"
    )
    with pytest.raises(course.MissingPackage) as raised:
        course.needs("no_such_package", "Such", "%pip install such")
    assert raised.value._render_traceback_() == [str(raised.value)]
    course.needs("numpy", "NumPy", "")


@pytest.mark.parametrize(
    ("answer", "check", "says"),
    [
        (lambda x: ..., lambda f: f(1), "Exercise 2 is still open"),
        (lambda x: (x, ...), lambda f: f(1), "Exercise 2 is still open"),
        (..., abs, "Exercise 2 is still open"),
        ((1, ...), sum, "Exercise 2 is still open"),
        (lambda x: x, lambda f: f(1), "Exercise 2 is solved."),
        (np.ones(3), np.sum, "Exercise 2 is solved."),
        (lambda x: x / 0, lambda f: f(1), "Exercise 2 is not right yet: your code stopped with ZeroDivisionError"),
        (lambda x: None, lambda f: f(1)[0], "Exercise 2 is not right yet: your function returns nothing; is its `ret"),
    ],
)
def test_exercises_are_judged(answer, check, says, capsys):
    course.exercise(2, answer, check)
    assert capsys.readouterr().out.startswith(says)


def test_an_exercise_says_what_is_wrong(capsys):
    def check(f):
        assert f(2) == 4, f"of 2 it gives {f(2)}, not 4"

    course.exercise(1, lambda x: x + 3, check)
    assert capsys.readouterr().out.startswith("Exercise 1 is not right yet: of 2 it gives 5, not 4\n")


@pytest.mark.parametrize(("passed", "says"), [(True, "is solved."), (False, "is not right yet: dx is wrong")])
def test_the_result_of_verify_op_is_a_verdict(passed, says, capsys):
    class Result:
        def __str__(self):
            return "dx is wrong"

    Result.passed = passed  # type: ignore[attr-defined]
    course.exercise(1, lambda x: x, lambda f: Result())
    assert capsys.readouterr().out == f"Exercise 1 {says}\n"


def test_an_open_answer_stays_open_when_the_check_swallows_it(capsys):
    def check(f):
        try:
            f(1)
        except course.StillOpen as error:
            raise AssertionError("a counterexample was found") from error

    course.exercise(3, lambda x: ..., check)
    assert capsys.readouterr().out.startswith("Exercise 3 is still open")


# ---- lists of the chapters


def test_every_list_of_chapters_is_current():
    old = [path.name for path, text in index.written().items() if path.read_text("utf-8") != text]
    assert old == [], "run: python tutorials/index.py"


def test_a_chapter_that_changes_makes_the_lists_old(monkeypatch):
    first, *rest = index.chapters()
    assert f"]({first.name}.ipynb) | {first.minutes} |" in index.contents("")
    monkeypatch.setattr(index, "chapters", lambda: [first._replace(minutes=first.minutes + 1), *rest])
    old = {path.name for path, text in index.written().items() if path.read_text("utf-8") != text}
    assert old == {"README.md", "course.md", "teaching.md", "start.ipynb"}


def test_the_start_page_leads_to_every_chapter():
    words, code = index.start().cells
    assert re.findall(r"\]\((\w+)\.ipynb\)", words.source) == [path.stem for path in CHAPTERS]
    compile(code.source, "start", "exec")


def test_plans_have_every_chapter_once_and_goals():
    numbers = [number for _, in_class, at_home in index.MONTH for number in (in_class + " " + at_home).split()]
    assert sorted(numbers) == [c.number for c in index.chapters()], "the plan of four weeks has other chapters"
    assert {c.number[:2] for c in index.chapters()} <= set(index.GOALS), "a chapter serves no goal"
    assert {number for _, those in index.WEEK for number in those.split()} <= set(numbers)
    assert [index.time(minutes).split() for minutes in (125, 45)] == [["2", "h", "05"], ["45", "min"]]


def test_what_a_chapter_says_of_itself_is_read(tmp_path):
    path = tmp_path / "05b_small.py"
    path.write_text(
        "# %% [markdown]\n# # 05b · A title\n"
        "# %% [markdown]\n# ## What you will learn\n#\n# - to do\n#   this;\n# - that.\n"
        "# %% [markdown]\n# ## What you need\n#\n# About 40 minutes.\n"
        "# %% [markdown]\n# ### Exercise 1: one (★, 5 minutes)\n"
        "# %% [markdown]\n# ### Exercise 2: two (★★★, 20 minutes)\n",
        "utf-8",
    )
    found = index.chapter(path)
    assert found[:5] == ("05b_small", "05b", "A title", 40, "to do this")
    assert (found.difficulty, found.homework, found.exercises[1].title) == ("★★", 25, "two")
    path.write_text("# %% [markdown]\n# # 05b · A title\n", "utf-8")
    with pytest.raises(SystemExit, match=r"05b_small\.py has no title, no time"):
        index.chapter(path)


def test_a_quiz_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no chapter '99' has a quiz; there are 00, 01, 02, 02b, "):
        course.questions("99")


def test_the_lists_are_not_written_when_an_option_is_unknown(monkeypatch, capsys):
    monkeypatch.setattr(index, "written", lambda: pytest.fail("it went on"))
    monkeypatch.setattr(sys, "argv", ["index.py", "--chek"])
    with pytest.raises(SystemExit, match="2"):
        index.main()
    assert "unrecognized arguments: --chek" in capsys.readouterr().err
