"""The course's slides: `python docs/decks.py [FOLDER]` writes a self-contained HTML file for every docs/slides/*.md.

A deck is Markdown; a line `---` begins the next slide, and a paragraph `Note: …` is what the speaker sees. Figures are
made anew: a block ```figure ALT holds Python whose last line is a Figure, and ![ALT](05 "TEXT") is the picture under
the first cell of chapter 05 or its halves that has TEXT in its code.
"""

from __future__ import annotations

import argparse
import ast
import base64
import html
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

import musiq_ref as mq
from musiq_ref import explain
from musiq_ref.explain.style import STYLE
from musiq_ref.image.decode import decode
from musiq_ref.pictures.distortions import DISTORTIONS

DOCS = Path(__file__).parent
FROM_CHAPTER = re.compile(r'!\[([^\]]*)\]\((\d\d) "([^"]+)"\)')
DRAWN = re.compile(r"```figure ([^\n]+)\n(.*?)```", re.S)
NOTE = re.compile(r"^Note: (.+?)(?=\n\n|\Z)", re.S | re.M)


def from_chapter(number: str, text: str) -> tuple[str, str]:
    """(kind, base64) of the picture under the first cell with a text, in a chapter or its halves."""
    for path in sorted((DOCS.parent / "tutorials").glob(f"{number}*_*.ipynb")):
        found = False
        for cell in nbformat.read(path, as_version=4).cells:
            found = found or (cell.cell_type == "code" and text in cell.source)
            for output in cell.get("outputs", []) if found else []:
                for kind in ("image/png", "image/jpeg"):
                    if kind in output.get("data", {}):
                        return kind, output.data[kind].replace("\n", "")
    raise SystemExit(f"chapter {number} has no picture under a cell with {text!r}; mend docs/slides")


def drawing_names() -> dict[str, Any]:
    """What the code of a figure may use."""
    checkpoint = mq.load_checkpoint("demo")
    image = decode(DOCS.parent / "musiq_ref" / "data" / "photographs" / "coffee.png")
    names = {"mq": mq, "np": np, "plt": plt, "explain": explain, "DISTORTIONS": DISTORTIONS, "image": image}
    return names | {"checkpoint": checkpoint, "params": checkpoint.params, "config": checkpoint.config}


def drawn(code: str, names: dict[str, Any]) -> tuple[str, str]:
    """(kind, base64) of the Figure that the last line of some code gives."""
    *before, last = ast.parse(code).body
    assert isinstance(last, ast.Expr)
    with plt.rc_context(STYLE):
        exec(compile(ast.Module(before, []), "figure", "exec"), names)
        figure = eval(compile(ast.Expression(last.value), "figure", "eval"), names)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
    plt.close("all")
    return "image/png", base64.b64encode(file.getvalue()).decode()


def picture(alt: str, kind: str, data: str) -> str:
    """A picture that lies in the page, as HTML on lines of its own."""
    return f'\n\n<div class="picture"><img alt="{html.escape(alt)}" src="data:{kind};base64,{data}"></div>\n\n'


def slides(text: str, names: dict[str, Any]) -> list[str]:
    """The slides of a deck, as HTML."""
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin, renderer=_math)
    found = []
    for part in re.split(r"^---$", text, flags=re.M):
        notes = "".join(markdown.render(note) for note in NOTE.findall(part))
        part = NOTE.sub("", part)
        part = DRAWN.sub(lambda match: picture(match[1], *drawn(match[2], names)), part)
        part = FROM_CHAPTER.sub(lambda match: picture(match[1], *from_chapter(match[2], match[3])), part)
        found.append(f"<section><div>{markdown.render(part)}</div><aside>{notes}</aside></section>")
    return found


def _math(content: str, options: dict[str, Any]) -> str:
    left, right = (r"\[", r"\]") if options.get("display_mode") else (r"\(", r"\)")
    return f"{left}{html.escape(content)}{right}"


def mathjax() -> str:
    """The program that typesets equations, from the package that the site uses, too."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise SystemExit("equations need sphinx-mathjax-offline; run: pip install 'musiq_ref[docs]'")
    return (Path(spec.origin).parent / "static" / "mathjax" / "tex-svg.js").read_text("utf-8")


def deck(path: Path, names: dict[str, Any]) -> str:
    """A deck as one HTML page."""
    text = path.read_text("utf-8")
    title = re.search(r"^# (.+)", text, re.M)
    page = (DOCS / "slides" / "deck.html").read_text("utf-8")
    parts = {"TITLE": html.escape(title[1] if title else path.stem), "SLIDES": "\n".join(slides(text, names))}
    parts["MATHJAX"] = mathjax().replace("</script", r"<\/script")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def main() -> None:
    """Writes all decks."""
    parser = argparse.ArgumentParser(description="write the course's slides, an HTML file for every week")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=DOCS / "_build" / "slides", help="default: docs/_build/slides"
    )
    folder = parser.parse_args().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{folder} cannot be made a folder ({error.strerror}); name another")
    names = drawing_names()
    for path in sorted((DOCS / "slides").glob("*.md")):
        (folder / f"{path.stem}.html").write_text(deck(path, names), encoding="utf-8")
        print(folder / f"{path.stem}.html")


if __name__ == "__main__":
    main()
