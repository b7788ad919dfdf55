"""What the site adds to the chapters of the course: a bar, downloads, and words for figures."""

from __future__ import annotations

import html
import re
import shutil
import sys
import zipfile
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tutorials")]

import index  # noqa: E402

TAKEN_HOME = ("*.ipynb", "*.py", "quiz/*.toml", "solutions/*.py")


def write_course(course: Path, downloads: Path) -> None:
    """Copies the notebooks to course/, and what a reader may take home to downloads/."""
    for folder in (course, downloads):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    tutorials = ROOT / "tutorials"
    for chapter in index.chapters():
        for folder in (course, downloads):
            shutil.copy(tutorials / f"{chapter.name}.ipynb", folder)
    shipped = [path for pattern in TAKEN_HOME for path in tutorials.glob(pattern)]
    with zipfile.ZipFile(downloads / "musiq_ref_course.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(shipped):
            archive.write(path, Path("musiq_ref_course") / path.relative_to(tutorials))


LIST = re.compile(r"<!-- course: contents, .*? -->\n(.*?)<!-- end of course -->", re.S)


def lead_to_chapters(app, name: str, source: list[str]) -> None:
    """Links to files of the repository lead to their pages: from docs/ to chapters, from chapters to docs/."""
    if name.startswith("course/"):
        source[0] = source[0].replace("](../docs/", "](../")
    source[0] = LIST.sub(r"````{container} chapter-list\n\1````", source[0])  # for the style sheet
    source[0] = re.sub(r"\]\(\.\./tutorials/(\w+\.ipynb)\)", r"](course/\1)", source[0])


def add_bar(app, page: str, template: str, context: dict, doctree) -> None:
    """Puts time, difficulty, the notebook, the live page and the neighbours above and below a chapter."""
    found = [c for c in index.chapters() if page == f"course/{c.name}"]
    if found:
        [chapter] = found
        context["body"] = bar(chapter) + context["body"] + bar(chapter)


def bar(chapter: index.Chapter) -> str:
    """The bar of a chapter, as HTML."""
    all_of_them = index.chapters()
    at = all_of_them.index(chapter)
    parts = []
    if at > 0:
        parts.append(neighbour(all_of_them[at - 1], "prev", "← {}"))
    parts.append(f'<span title="exercises included">{chapter.minutes} minutes</span>')
    if chapter.difficulty:
        parts.append(f'<span title="difficulty of the exercises">{chapter.difficulty}</span>')
    parts.append(f'<a href="../notebooks/{chapter.name}.ipynb" download>Notebook</a>')
    parts.append(f'<a href="../follow_a_patch.html#chapter_{chapter.number[:2]}">Follow it live</a>')  # docs/follow.md
    if at + 1 < len(all_of_them):
        parts.append(neighbour(all_of_them[at + 1], "next", "{} →"))
    return f'<nav class="chapter-bar" aria-label="chapter">{"".join(parts)}</nav>'


def neighbour(chapter: index.Chapter, rel: str, arrow: str) -> str:
    """A link to the chapter before or after."""
    title = html.escape(chapter.title)
    return f'<a rel="{rel}" href="{chapter.name}.html" title="{title}">{arrow.format(chapter.number)}</a>'


TITLE = re.compile(r"""(?:suptitle\(|set_title\(|\btitle=)\s*f?(["'])(.+?)\1""")


def describe_figures(app, doctree) -> None:
    """Gives every figure of a chapter words: its title, if it has one, and the first sentence of what follows it."""
    for image in doctree.findall(nodes.image):
        if "alt" not in image and app.env.docname.startswith("course/"):
            image["alt"] = words_for(image)


def words_for(image: nodes.image) -> str:
    """What a figure shows, from the cell that drew it and the text around it."""
    cell = image.parent
    while cell.parent is not None and "cell" not in cell.get("classes", []):
        cell = cell.parent
    code = "".join(block.astext() for block in cell.findall(nodes.literal_block))
    titles = [match[2] for match in TITLE.finditer(code) if "{" not in match[2]]
    around = cell.parent.children if cell.parent is not None else []
    at = around.index(cell) if cell in around else -1
    after = next((n for n in around[at + 1 :] if isinstance(n, nodes.paragraph)), None) if at >= 0 else None
    before = next((n for n in reversed(around[: max(at, 0)]) if isinstance(n, nodes.paragraph)), None)
    verdict = after or before
    sentence = re.split(r"(?<=[.:?!])\s", " ".join(verdict.astext().split()))[0] if verdict else ""
    section = next((n.astext() for n in around if isinstance(n, nodes.title)), "")
    words = ". ".join([*(titles[:1] or [section]), sentence]).strip(". :")
    return re.sub(r"\\[a-z]+|[{}$]", "", words) or "a figure of this chapter"
