"""What can be done on the page of `musiq-ref follow`, at every station and in every view."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from follow_page import (
    SETTLED,
    STATIONS,
    click,
    go_to,
    in_a_browser,
    opened,
    press,
    wait,
    written,
)
from PIL import Image

ROOT = Path(__file__).parent.parent
QUESTIONS = 15


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return written(tmp_path_factory.mktemp("follow"))


@pytest.fixture(scope="module")
def browser(html):
    with opened(html) as one:
        yield one


@in_a_browser
def test_every_station_and_view_at_two_widths(browser, html, tmp_path):
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(html)
    for width in (1400, 390):
        browser.resize(width)
        views = [f"{back}{name}/token_3" for back in ("", "reverse/") for name in STATIONS] + [
            "predict/1",
            "doubt",
            "spoil",
        ]
        for view in views:
            go_to(browser, view)
            assert browser.run("document.documentElement.scrollWidth") <= width, (view, width)
            assert browser.run("document.querySelector('#panel h2').textContent.length") > 3
            browser.screenshot(tmp_path / f"{width}_{view.replace('/', '_')}.png")
    titles = {browser.run("document.title"), "Follow a patch: photo.png"}
    assert len(titles) == 1
    assert [
        address for address in browser.requests if not address.startswith(("file:", "data:", "blob:", "about:"))
    ] == []
    assert browser.complaints == []


@in_a_browser
def test_the_tour_goes_to_the_score_and_back_to_the_pixels(browser, html):
    browser.resize(1400)
    browser.open(html)
    for name in STATIONS[1:]:
        click(browser, "#next")
        assert browser.run("document.querySelector('#rail [aria-current]').id") == f"stop-{name}"
        assert browser.run(
            "document.querySelector('#announce').textContent === document.querySelector('h2').textContent"
        )
    click(browser, ".onward .strong")
    assert browser.run("location.hash") == "#reverse/score/class"
    for name in reversed(STATIONS[:-1]):
        click(browser, "#next")
        assert browser.run("location.hash").startswith("#reverse/")
        assert browser.run("document.querySelector('#rail [aria-current]').id") == f"stop-{name}"


@in_a_browser
def test_the_sum_of_a_number_is_shown(browser, html):
    browser.resize(1400)
    browser.open(html, "#block_01/mlp/token_5")
    wait(browser, "document.querySelector('#sum .total')")
    browser.run("document.querySelector('.strip').focus()")
    wait(browser, "document.querySelector('#sum .what').textContent.includes('cell 0')")
    press(browser, ".strip", "ArrowRight")
    wait(browser, "document.querySelector('#sum .what').textContent.includes('cell 1')")
    numbers = "['#sum .what b', '#sum .total .number'].map((where) => document.querySelector(where).textContent)"
    value, total = (float(text.replace("−", "-")) for text in browser.run(numbers))
    assert value == pytest.approx(total, rel=3e-3)


@in_a_browser
def test_on_a_phone_every_number_is_reached_by_tapping(browser, html):
    browser.resize(390)
    browser.open(html, "#embedding/token_4")
    wait(browser, "document.querySelector('#sum .total')")
    assert not browser.run("document.querySelector('#sum details').open")
    seen = "document.querySelector('#sum').getBoundingClientRect().bottom <= innerHeight"
    browser.run("document.querySelector('.strip').scrollIntoView({ block: 'center' })")
    assert browser.run(seen)
    browser.run("document.querySelector('#sum summary').click()")
    cell = int(browser.run("document.querySelector('#sum .what').textContent.match(/cell ([0-9]+)/)[1]"))
    browser.run("document.querySelector('#sum .beside button:nth-child(1)').click()")
    wait(browser, f"document.querySelector('#sum .what').textContent.includes('cell {max(0, cell - 1)}:')")
    assert browser.run("document.querySelector('#sum details').open")
    assert browser.run(seen)
    small = """[...document.querySelectorAll("button, summary, .file, [role=slider]")].filter((one) => {
        const { width, height } = one.getBoundingClientRect();
        return one.offsetParent && getComputedStyle(one).display !== "none" && Math.min(width, height) < 24;
    }).length"""
    for view in ("embedding", "block_01/attention/head_1", "reverse/mlp", "predict/3", "spoil"):
        go_to(browser, view)
        assert browser.run(small) == 0, view
    browser.resize(1400)


@in_a_browser
@pytest.mark.parametrize("line", ["if (typeof DecompressionStream ===", "const CELL ="])
def test_a_browser_that_is_too_old_says_so(line, html, tmp_path):
    """One that cannot unpack the weights, and one that does not understand the script."""
    text = html.read_text(encoding="utf-8")
    assert text.count(line) == 1
    instead = "if (typeof Missing ===" if line.startswith("if") else "const ="
    (tmp_path / "page.html").write_text(text.replace(line, instead), encoding="utf-8")
    old = Browser()
    try:
        old.send("Page.navigate", url=(tmp_path / "page.html").as_uri())
        wait(old, "document.querySelector('#panel')?.textContent.startsWith('This browser is too old for this page')")
    finally:
        old.close()


@in_a_browser
def test_every_chapter_has_its_station(browser, html):
    told = re.findall(r"`#(chapter_\d\d)` \| `#([^`]+)`", (ROOT / "docs" / "follow.md").read_text(encoding="utf-8"))
    assert [name for name, _ in told] == [f"chapter_{n:02d}" for n in range(17)]
    browser.complaints.clear()
    browser.open(html, "#chapter_05")
    assert browser.run("location.hash").startswith("#block_00/attention/head_0/token_")
    for name, station in told:
        browser.run(f"location.hash = '{name}'")
        wait(browser, f"location.hash.startsWith('#{station}') && {SETTLED}")
        assert browser.run("document.querySelector('#panel h2').textContent.length") > 3
    assert browser.complaints == []


@in_a_browser
def test_the_class_token_is_at_home_at_every_station(browser, html):
    browser.complaints.clear()
    browser.open(html, "#score/class")
    for view in (f"{back}{name}/class" for back in ("", "reverse/") for name in STATIONS):
        browser.run(f"location.hash = '{view}'")
        wait(browser, f"{SETTLED} && document.querySelector('#sum .what')")
    press(browser, "#drawing", "c")
    press(browser, "#drawing", "s")
    wait(browser, SETTLED)
    assert browser.complaints == []


@in_a_browser
def test_every_number_of_the_stem_is_reached_by_keys(browser, html):
    browser.open(html, "#reverse/stem/token_2")
    browser.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    for number in range(16):
        click(browser, f".steps button:nth-child({number + 1})")
        press(browser, "details .maps", "End")
        name = browser.run("document.querySelector('details .maps').getAttribute('aria-label')").split(":")[0]
        wait(browser, f"document.querySelector('#sum .source').textContent.startsWith('gradient/{name} ')")
        assert browser.run("document.querySelectorAll('#sum .terms li').length") > 0


@in_a_browser
def test_all_questions_can_be_answered(browser, html):
    browser.open(html, "#predict/1")
    for number in range(QUESTIONS):
        click(browser, f".dots button:nth-child({number + 1})")
        click(browser, ".option", "document.querySelector('.verdict')")
    assert browser.run("document.querySelectorAll('.dots .right, .dots .wrong').length") == QUESTIONS
    assert "All 15 answered" in browser.run("document.querySelector('.count').textContent")
    assert browser.complaints == []


@in_a_browser
def test_doubt_and_spoil(browser, html):
    browser.open(html, "#doubt")
    click(browser, "#panel .strong", "document.querySelectorAll('.map').length === 6")
    before = browser.run("musiq.score")
    go_to(browser, "spoil")
    click(
        browser,
        "#panel .row:nth-of-type(2) .pill",
        "document.querySelector('.verdict').textContent.includes('noticed')",
    )
    assert browser.run("musiq.score") != before
    click(browser, "#view-follow", f"musiq.score === {before}")
    assert browser.complaints == []


@in_a_browser
def test_a_question_does_not_disturb_another(browser, html):
    """Two that are answered at once: one on the photograph blurred, one on shares of attention."""
    browser.complaints.clear()
    done, verdicts = "document.querySelector('.verdict')?.textContent.includes('%')", []
    for first in (5, 9):
        browser.open(html, f"#predict/{first}")
        browser.run(
            """(async () => {
            const answer = () => document.querySelector(".option").click();
            answer();
            document.querySelector(".dots button:nth-child(5)").click();
            while (!document.querySelector(".question").textContent.startsWith("5.")) await new Promise(setTimeout);
            answer();
            })()"""
        )
        wait(browser, f"{done} && {SETTLED}")
        verdicts.append(browser.run("document.querySelector('.verdict').textContent"))
    assert verdicts[0] == verdicts[1]
    assert browser.complaints == []


@in_a_browser
def test_what_was_brushed_on_is_there_after_a_look_elsewhere(browser, html):
    browser.open(html, "#spoil")
    before, browser.complaints[:] = browser.run("musiq.score"), []
    press(browser, ".brushable", "Enter")
    browser.run("document.querySelector('#view-reverse').click()")
    wait(browser, f"document.body.dataset.view === 'reverse' && {SETTLED}")
    assert browser.array("musiq.stage('score')") == pytest.approx(before)
    browser.run("document.querySelector('#view-spoil').focus(); document.querySelector('#view-spoil').click()")
    wait(browser, "document.querySelector('.verdict')?.textContent.includes('noticed')")
    wait(browser, f"musiq.score !== {before} && {SETTLED}")
    assert browser.run("document.activeElement.id") == "view-spoil"
    assert browser.complaints == []


@in_a_browser
def test_pictures_and_numbers_can_be_saved(browser, html, tmp_path):
    browser.open(html, "#embedding/token_4")
    browser.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for button, ending in (("#npy", "npy"), ("#svg", "svg"), ("#png", "png")):
        browser.run(f"document.querySelector('{button}').click()")
        end = time.monotonic() + 30
        while not list(tmp_path.glob(f"*.{ending}")):
            assert time.monotonic() < end
            time.sleep(0.05)
    time.sleep(0.2)
    [numbers] = tmp_path.glob("*.npy")
    np.testing.assert_array_equal(np.load(numbers), browser.array("musiq.stage('patch_embedding')"))
    [drawing], [picture] = tmp_path.glob("*.svg"), tmp_path.glob("*.png")
    assert drawing.read_text(encoding="utf-8").startswith("<svg")
    with Image.open(picture) as image:
        assert image.size[0] == 1200
