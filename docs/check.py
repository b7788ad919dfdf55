"""Checks a built site: public names have entries, links lead somewhere, nothing is fetched, equations can be typeset.

python docs/check.py docs/_build/html
"""

from __future__ import annotations

import inspect
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import musiq_ref as mq
from musiq_ref import explain

LIVE = "follow_a_patch.html"  # whose addresses are states, not places


class Page(HTMLParser):
    """The ids and links of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.text = text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.update(filter(None, (given.get("id"), given.get("name"))))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        source = given.get("src") if tag in ("img", "script") else given.get("href") if tag == "link" else None
        if source:
            self.fetched.append(source)


def problems(site: Path) -> list[str]:
    """What is wrong with a site, in sentences."""
    pages = {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = unquote(link).partition("#")
            file = (path.parent / target).resolve() if target else path.resolve()
            file = file / "index.html" if file.is_dir() else file
            if not file.exists():
                found.append(f"{path.relative_to(site)} links to {link}, which does not exist")
            elif anchor and file in pages and file.name != LIVE and anchor not in pages[file].ids:
                found.append(f"{path.relative_to(site)} links to {link}, but there is no such place on that page")
        outside = [source for source in page.fetched if re.match(r"(?:https?:)?//", source)]
        found += [f"{path.relative_to(site)} fetches {source}" for source in outside]
        if any(r"\tag" in part for part in re.findall(r"\\begin\{split\}(.*?)\\end\{split\}", page.text, re.S)):
            found.append(rf"{path.relative_to(site)} has an equation with both \tag and \\; write \cr for \\")
        missing = [s for s in page.fetched if not re.match(r"(?:[a-z]+:|//|#)", s)]
        missing = [s for s in missing if not (path.parent / unquote(s.split("?")[0])).exists()]
        found += [f"{path.relative_to(site)} shows {source}, which does not exist" for source in missing]
    described = set().union(*(page.ids for page in pages.values()))
    for module in (mq, mq.verify, mq.checkpoint, explain):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                full = f"{thing.__module__}.{thing.__qualname__}"
                if full not in described:
                    found.append(f"{full} has no entry in the reference")
    return found


def main() -> int:
    """Prints what is wrong, and returns 1 if anything is."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/_build/html").resolve()
    if not (site / "index.html").exists():
        print(f"{site} holds no site; run: make docs", file=sys.stderr)
        return 2
    found = problems(site)
    print("\n".join(found) or f"{len(list(site.rglob('*.html')))} pages, no broken link, no name missing")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
