"""The pages of the documentation: snippets run, links lead somewhere. (`make docs` checks the rest.)"""

from __future__ import annotations

import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import musiq_ref as mq

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.S)


IMPORT_TORCH = [pytest.mark.frameworks("torch")]


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.stem, marks=IMPORT_TORCH * (p.stem == "port-guide")) for p in PAGES]
)
def test_the_python_of_a_page_runs(page, monkeypatch, capsys):
    """With a small model where the bundled one would be, to be quick."""
    config = mq.MusiqConfig.preset("tiny", longer_sides=(64, 96))
    small = mq.Checkpoint(mq.verify.deterministic_params(config, 1), config, "native", None)
    monkeypatch.setattr(mq, "load_checkpoint", lambda *args, **kwargs: small)
    monkeypatch.chdir(ROOT)
    names: dict = {"np": np}
    for block in blocks(page, "python"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "these weights were never trained")
            exec(compile(block, page.name, "exec"), names)
        assert "print(" not in block or capsys.readouterr().out


@each_page
def test_what_a_page_names_exists(page):
    """Dotted names of the library, and files, in backticks."""
    entry_points = {"musiq_ref.backends"}  # a group of them, not a module
    for name in sorted(set(re.findall(r"`((?:mq|musiq_ref)(?:\.\w+)+)", page.read_text("utf-8"))) - entry_points):
        if "torch_" in name and not find_spec("torch"):
            continue
        thing, *rest = name.replace("musiq_ref.", "mq.", 1).split(".")[1:]
        here = mq
        for part in (thing, *rest):
            path = f"{here.__name__}.{part}" if hasattr(here, "__path__") else None
            if not hasattr(here, part) and path:
                __import__(path)
            here = getattr(here, part)
    for file in re.findall(r"`((?:tutorials|docs|benchmarks|tests|model|ops)/[\w./-]+)`", page.read_text("utf-8")):
        assert (ROOT / file).exists() or (ROOT / "musiq_ref" / file).exists(), f"{page.name} names {file}"


def test_the_pages_of_the_course_and_teaching_name_the_same_chapters():
    written = sorted(path.stem for path in (ROOT / "tutorials" / "sources").glob("[0-9]*_*.py"))
    for page in ("README.md", "docs/course.md", "docs/teaching.md"):
        text = (ROOT / page).read_text("utf-8")
        assert [c for c in written if not re.search(rf"\b{c.partition('_')[0]}\b", text)] == [], page


def test_the_measured_table_has_every_convention():
    table = (ROOT / "docs" / "measured_conventions.md").read_text("utf-8")
    for name in mq.Conventions.__dataclass_fields__:
        if name != "mask":  # listed as mask_value, too
            assert f"`{name}`" in table
    assert len(re.findall(r"^\| .* \| \d+ of \d+ \|", table, re.M)) >= 13


def test_an_equation_that_mathjax_refuses_is_reported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import check

    (tmp_path / "bad.html").write_text(r"\begin{split}a \\ b \tag{10}\end{split}", "utf-8")
    (tmp_path / "good.html").write_text(r"a \cr b \tag{10} \begin{split}c \\ d\end{split}", "utf-8")
    found = [problem for problem in check.problems(tmp_path) if "equation" in problem]
    assert found == [r"bad.html has an equation with both \tag and \\; write \cr for \\"]
