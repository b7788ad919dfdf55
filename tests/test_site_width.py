"""The built documentation: nothing is broken, and in a browser nothing is wider than the window, whatever its width."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

ROOT = Path(__file__).parent.parent
WIDTHS = (360, 390, 768, 1024, 1280, 1440, 1600, 1920)

CUT = "[...document.querySelectorAll('mjx-container')].filter((one) => one.scrollWidth > one.clientWidth + 1).length"
TOO_WIDE = """[document.documentElement.scrollWidth, [...document.querySelectorAll('article *')]
  .filter((part) => part.getBoundingClientRect().right > innerWidth + 1)
  .slice(0, 3).map((part) => part.outerHTML.slice(0, 80))]"""


@pytest.fixture(scope="module")
def chapters():
    pytest.importorskip("docutils", reason="needs the extra docs")
    sys.path.insert(0, str(ROOT / "docs"))
    import chapters

    return chapters


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("sphinx", "furo", "myst_nb", "sphinx-mathjax-offline"):
        pytest.importorskip(name, reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("built")
    places = ["-d", str(folder / "doctrees"), "docs", str(folder / "site")]
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", *places], cwd=ROOT, check=True
    )
    return folder / "site"


@pytest.mark.long
def test_nothing_on_the_site_is_broken(site, chapters):
    import check

    assert check.problems(site) == []


@pytest.mark.long
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_no_page_is_wider_than_the_window(site):
    pages = [page for page in sorted(site.rglob("*.html")) if page.name != "follow_a_patch.html"]
    assert len(pages) > 30
    browser = Browser()
    found = []
    try:
        for page in pages:
            browser.resize(1280)
            browser.send("Page.navigate", url=page.as_uri())
            settled(browser)
            for width in WIDTHS:
                browser.resize(width)
                wide, parts = browser.run(TOO_WIDE)
                if wide > width:
                    found.append(f"{page.relative_to(site)} at {width} is {wide} wide: {parts}")
                if cut := browser.run(CUT):
                    found.append(f"{page.relative_to(site)} at {width} cuts {cut} equations")
        assert found == []
        assert [url for url in browser.requests if re.match("https?:", url)] == []
    finally:
        browser.close()


def settled(browser):
    """Waits until a page is loaded and its equations are typeset."""
    end = time.monotonic() + 60
    while not browser.run("document.readyState === 'complete' && location.protocol === 'file:'"):
        assert time.monotonic() < end
        time.sleep(0.05)
    browser.run("Promise.resolve(window.MathJax?.startup?.promise).then(() => true)")


def test_every_chapter_has_a_station_and_a_bar(chapters):
    found = chapters.index.chapters()
    told = (ROOT / "docs" / "follow.md").read_text("utf-8")  # which test_follow_page.py holds the live page to
    for chapter in found:
        [station] = re.findall(r"follow_a_patch\.html#(\w+)", chapters.bar(chapter))
        assert f"`#{station}`" in told
    first, second = (chapters.bar(c) for c in found[:2])
    assert 'rel="prev"' not in first
    assert f'rel="prev" href="{found[0].name}.html"' in second
    assert f'href="../notebooks/{found[1].name}.ipynb" download' in second
    assert f"{found[1].minutes} minutes" in second
