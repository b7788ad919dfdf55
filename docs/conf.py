"""The documentation site: `make docs` builds it into docs/_build/html, without a network, warnings being errors.

Three folders are made here from what lies elsewhere, so that nothing is written twice: course/, the executed notebooks
of the tutorials; reference/, a page for each part of the library with the docstrings of its modules; and live/, the
page on which the model runs, and the notebooks to take home.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT), str(ROOT / "backends")]

project = "musiq_ref"
author = "The musiq_ref maintainers"
copyright = "the musiq_ref maintainers, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]
exclude_patterns = ["_build", "measured_*.md", "live", "slides"]
html_theme = "furo"
html_title = "musiq_ref"
html_static_path = ["_static"]
html_extra_path = ["live"]
html_css_files = ["musiq_ref.css"]
html_theme_options = {"source_edit_link": ""}
html_show_sourcelink = False
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "attrs_block"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks were executed when they were written
nb_merge_streams = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures stay short; the docstrings say what everything is
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
autodoc_mock_imports = [name for name in ("torch", "mpi4py") if importlib.util.find_spec(name) is None]
default_role = "literal"

PARTS = (  # in reading order: page, title, modules or packages
    ("configuration", "Configuration and backends", ("config", "backend")),
    ("ops", "The ops, forward and backward", ("ops",)),
    ("image", "Pixels to tokens", ("image",)),
    ("model", "The model, Eq. 1–11", ("model",)),
    ("losses", "Losses and metrics", ("losses", "metrics")),
    ("checkpoint", "Checkpoints", ("checkpoint",)),
    ("scoring", "Scores, and counts", ("scorers", "scoring", "ordered", "score_table", "cluster", "counts")),
    ("training", "Training and evaluation", ("pictures", "training", "evaluation", "ablations")),
    ("explain", "Pictures", ("explain",)),
    ("verify", "Verification", ("verify",)),
    ("bench", "Benchmarks", ("bench",)),
)


def modules_of(name: str) -> list[str]:
    """The modules with functions of their own in a package, or the module itself."""
    path = ROOT / "musiq_ref" / name
    if not path.is_dir():
        return [f"musiq_ref.{name}"]
    files = (f for f in sorted(path.rglob("*.py")) if f.stem != "__init__" and not f.stem.startswith("_"))
    return [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files]


def write_reference() -> None:
    """Writes a page for every part of the library to reference/."""
    folder = DOCS / "reference"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for page, title, names in PARTS:
        text = [f"# {title}\n"]
        for module in (m for name in names for m in modules_of(name)):
            text.append(f"## {module.removeprefix('musiq_ref.')}\n")
            text.append(f"```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```\n")
        (folder / f"{page}.md").write_text("\n".join(text), encoding="utf-8")


def write_commands() -> None:
    """Writes what the command line says of itself to reference/commands.md."""
    from musiq_ref.cli import COMMANDS, main

    text = ["# The command line\n"]
    for name in COMMANDS:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            main([name, "--help"])
        text.append(f"## musiq-ref {name}\n\n```text\n{output.getvalue().rstrip()}\n```\n")
    (DOCS / "reference" / "commands.md").write_text("\n".join(text), encoding="utf-8")


def write_live_page() -> None:
    """Writes the page on which the model runs to live/."""
    from musiq_ref.checkpoint import load_checkpoint
    from musiq_ref.explorer import page

    (DOCS / "live").mkdir(exist_ok=True)
    photograph = ROOT / "musiq_ref" / "data" / "photographs" / "coffee.png"
    text = page(photograph, load_checkpoint("demo"), photograph.name)
    (DOCS / "live" / "follow_a_patch.html").write_text(text, encoding="utf-8")


def to_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """Our docstrings are plain text: an equation, perhaps, arguments, a line each, paragraphs, an example."""
    text = "\n".join(lines).strip("\n")
    prose, mark, example = text.partition(">>> ")
    paragraphs = [p for p in re.split(r"\n\s*\n", prose.strip()) if p.strip()]
    out: list[str] = []
    for i, paragraph in enumerate(paragraphs):
        if i == 0 and " = " in paragraph:
            lines_close = (re.sub(r" {3,}(?=\()", "    ", line) for line in paragraph.splitlines())
            out += [".. code-block:: text", "", *("   " + line for line in lines_close), ""]
        elif ARGUMENT.match(paragraph):
            out += [*argument_list(paragraph), ""]
        else:
            item = paragraph.startswith("- ")  # of a list, whose further lines stay indented
            out += [f"{'  ' * (item and line.startswith('  '))}{plain(line)}" for line in paragraph.splitlines()] + [""]
    if mark:
        out += [".. code-block:: pycon", "", *("   " + line for line in (mark + example).splitlines()), ""]
    lines[:] = out


ARGUMENT = re.compile(r"([^\s:,`]+(?: [^\s:,`]{1,3})?(?:, [^\s:,`]+(?: [^\s:,`]{1,3})?)*): (.+)|(returns) (.+)")
"""A line about arguments: "x, y: (B, N)", "kernel W: (I, O)", "returns (B,)"."""


def argument_list(paragraph: str) -> list[str]:
    """Lines about arguments as a list; what follows on an indented line belongs to the argument before."""
    out = []
    for line in paragraph.splitlines():
        names, text, returns, result = match.groups() if (match := ARGUMENT.fullmatch(line)) else [None] * 4
        if names:
            out.append(f"- `{names}`: {plain(text)}")
        elif returns:
            out.append(f"- {returns} {plain(result)}")
        else:
            out.append(f"  {plain(line)}")
    return out


def skip_alias(app, what, name, obj, skip, options) -> bool | None:
    """Leaves out the fields of named tuples: Python says only that they are fields, the class what they hold."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def plain(line: str) -> str:
    """A line of prose with reStructuredText's marks taken literally, and `code` as code."""
    parts = re.split(r"(`[^`]+`)", line.strip())
    return "".join(f"`{part}`" if part.startswith("`") else escape(part) for part in parts)


def escape(text: str) -> str:
    return re.sub(r"([*|_\\`\[\]])", r"\\\1", text)


def setup(app) -> None:
    """Called by Sphinx."""
    import chapters

    chapters.write_course(DOCS / "course", DOCS / "live" / "notebooks")
    write_reference()
    write_commands()
    write_live_page()
    app.connect("source-read", chapters.lead_to_chapters)
    app.connect("doctree-read", chapters.describe_figures)
    app.connect("html-page-context", chapters.add_bar)
    app.connect("autodoc-process-docstring", to_rst)
    app.connect("autodoc-skip-member", skip_alias)
