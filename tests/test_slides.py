"""The course's slides: every figure is found or drawn, every slide has notes, nothing is fetched, nothing is cut."""

from __future__ import annotations

import re
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS))

import decks  # noqa: E402

DECKS = sorted((DOCS / "slides").glob("*.md"))
each_deck = pytest.mark.parametrize("path", DECKS, ids=lambda path: path.stem)
typeset = pytest.mark.skipif(
    not (CHROMIUM and find_spec("sphinx-mathjax-offline")), reason="needs Chromium and sphinx-mathjax-offline"
)


@pytest.fixture(scope="module")
def names():
    return decks.drawing_names()


@each_deck
def test_every_slide_has_a_heading_notes_and_its_figures(path, names):
    text = path.read_text("utf-8")
    for slide in (found := decks.slides(text, names)):
        assert re.search(r"<h[12]>.+</h[12]>", slide)
        assert "<aside><p>" in slide, slide[:200]
        assert "Note:" not in slide
        assert not re.search(r'src="(?!data:)', slide), "a picture lies outside"
    images = "".join(found).count("<img ")
    assert images == len(decks.DRAWN.findall(text)) + len(decks.FROM_CHAPTER.findall(text)) > 0
    assert images == len(re.findall(r'alt="[^"]{10,}"', "".join(found))), "a figure without words"


def test_there_is_a_deck_for_each_of_four_weeks():
    assert [path.stem for path in DECKS] == ["week1", "week2", "week3", "week4"]


def test_a_figure_that_is_not_there_is_named():
    with pytest.raises(SystemExit, match="chapter 05 has no picture under a cell with 'no such thing'"):
        decks.slides('# A\n\n![words](05 "no such thing")\n', {})


def test_equations_reach_mathjax_as_they_were():
    [slide] = decks.slides("# A\n\n$a_1 < b_2$\n\n$$\\mathbf{A}$$\n\nNote: n\n", {})
    assert r"\(a_1 &lt; b_2\)" in slide
    assert r"\[\mathbf{A}\]" in slide


@typeset
@each_deck
def test_nothing_is_cut_off_or_fetched(path, names, tmp_path):
    (tmp_path / "deck.html").write_text(decks.deck(path, names), "utf-8")
    browser = Browser()
    try:
        browser.resize(1280, 720)
        browser.send("Page.navigate", url=(tmp_path / "deck.html").as_uri())
        end = time.monotonic() + 60
        while not browser.run("document.readyState === 'complete' && window.MathJax?.startup?.promise !== undefined"):
            assert time.monotonic() < end
            time.sleep(0.05)
        browser.run("MathJax.startup.promise.then(() => true)")
        parts = "slides.map((slide) => slide.firstElementChild)"
        cut = "part.scrollHeight > part.clientHeight + 1 || part.scrollWidth > part.clientWidth + 1"
        assert browser.run(f"{parts}.filter((part) => {cut}).map((part) => part.textContent.slice(0, 40))") == []
        assert browser.run("document.querySelectorAll('merror, [data-mjx-error]').length") == 0
        browser.run("show(3)")
        assert browser.run("document.querySelectorAll('section.now').length") == 1
        browser.resize(390, 844)  # a phone: one below the other, large enough to read, nothing to the side
        assert browser.run("document.documentElement.scrollWidth") == 390
        tops = "slides.map((slide) => slide.getBoundingClientRect().top)"
        assert browser.run(f"{tops}.every((top, i, all) => !i || top > all[i - 1] + 100)")
        assert browser.run("parseFloat(getComputedStyle(slides[1].querySelector('h2 + *')).fontSize)") >= 16
        assert [url for url in browser.requests if not url.startswith(("file:", "data:", "about:"))] == []
        assert browser.complaints == []
    finally:
        browser.close()


@pytest.mark.parametrize(("argument", "says"), [("--nonsense", "unrecognized"), ("a-file", "cannot be made a folder")])
def test_bad_arguments_are_refused(argument, says, tmp_path, monkeypatch, capsys):
    (tmp_path / "a-file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["decks.py", argument])
    with pytest.raises(SystemExit, match="2"):
        decks.main()
    assert says in capsys.readouterr().err
