"""The page of scored pictures: what is on it, that it works in a browser, and what it is never written over."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import musiq_ref as mq
from musiq_ref.cli import main
from musiq_ref.explain.gallery import Picture, gallery, thumbnail
from musiq_ref.outputs import GENERATOR, check_output, write_output
from musiq_ref.verify import deterministic_params

CONFIG = mq.MusiqConfig.preset("tiny")
DEMO = mq.load_checkpoint("demo")
SMALL = thumbnail(np.zeros((30, 20, 3), np.uint8))
PICTURES = [
    Picture("night/10.jpg", 41.25, SMALL, None),
    Picture("<b>&\"'.png", 90.5, SMALL, None),
    Picture("broken<i>.png", None, b"", "broken<i>.png is damaged"),
    Picture("night/9.jpg", -3.0, b"", None),
]


class Elements(HTMLParser):
    """All elements of a page, as (tag, attributes), and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page():
    return gallery(PICTURES, DEMO, "3 left out: 3 .cr2")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    mq.save_checkpoint(tmp_path / "tiny.safetensors", deterministic_params(CONFIG, 4), CONFIG)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (500, 300, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(*arguments):
    return main(["score", "--checkpoint", "tiny.safetensors", *arguments])


# ---- the page


def test_the_best_come_first_and_names_are_escaped(page):
    cards = Elements(page).all("li")
    assert [card["data-name"] for card in cards[:3]] == ["<b>&\"'.png", "night/10.jpg", "night/9.jpg"]
    assert [float(card["data-score"]) for card in cards[:3]] == [90.5, 41.25, -3.0]
    assert not {"b", "i"} & {tag for tag, _ in Elements(page).elements}
    text = Elements(page).text
    for words in ("90.50", "-3.00", "1 could not be scored", "broken<i>.png is damaged", "3 left out: 3 .cr2"):
        assert words in text


def test_thumbnails_are_small_jpegs_in_the_page():
    with Image.open(io.BytesIO(thumbnail(np.full((900, 300, 3), 0.5)))) as image:
        assert (image.format, image.size) == ("JPEG", (85, 256))
    sources = [image["src"] for image in Elements(gallery(PICTURES, DEMO)).all("img")]
    prefix = "data:image/jpeg;base64,"
    assert [base64.b64decode(source.removeprefix(prefix)) for source in sources] == [SMALL, SMALL]
    assert thumbnail("missing.png") == b""


def test_it_asks_for_nothing_outside_itself(page):
    elements = Elements(page).elements
    links = [value for _, attributes in elements for name, value in attributes.items() if name in ("src", "href")]
    assert all(link.startswith("data:") for link in links)
    assert "url(" not in page
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in Elements(page).all("meta"))


def test_it_says_what_the_model_does_not_know(page):
    assert "It does not know people's taste" in page
    trained = mq.Checkpoint({}, CONFIG.replace(outputs=10), "official", None)
    assert "from 1 to 10; higher is better" in gallery(PICTURES, trained)
    assert "taste" not in gallery(PICTURES, trained)
    assert "the scores mean nothing" in gallery(PICTURES, mq.Checkpoint({}, CONFIG, "deterministic", None))


BROWSER = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
LOOK = """
<script>
const set = (name, value) => { form[name].value = value; form.dispatchEvent(new Event("input")); };
const seen = () => [...document.querySelectorAll("#pictures li")].filter(c => c.offsetParent).map(c => c.dataset.name);
const result = { at_first: seen(), shown: !form.hidden };
set("order", "worst"); result.worst = seen();
set("order", "name"); result.name = seen();
set("words", "NIGHT"); result.words = seen(); result.count = form.count.value;
set("low", "0"); result.low = seen(); set("low", ""); set("high", "0"); result.high = seen();
set("words", ""); set("high", "41.25"); result.bound = seen();
result.wide = document.documentElement.scrollWidth > innerWidth;
result.colour = getComputedStyle(document.body).backgroundColor;
document.title = "RESULT" + JSON.stringify(result);
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(22, 22, 22)")])
def test_in_a_browser_on_a_phone(page, tmp_path, scheme, paper):
    (tmp_path / "page.html").write_text(page.replace("</body>", LOOK + "</body>"), "utf-8")
    assert BROWSER
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,800", f"--user-data-dir={tmp_path}/p"]
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    command = [BROWSER, *options, *dark, "--dump-dom", f"file://{tmp_path}/page.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search("<title>RESULT(.*)</title>", done.stdout)
    assert found, done.stderr
    odd, ten, nine = "<b>&\"'.png", "night/10.jpg", "night/9.jpg"
    assert json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")) == {
        "at_first": [odd, ten, nine],
        "shown": True,
        "worst": [nine, ten, odd],
        "name": [odd, nine, ten],
        "words": [nine, ten],
        "count": "2 of 3",
        "low": [ten],
        "high": [nine],
        "bound": [nine, ten],
        "wide": False,
        "colour": paper,
    }


# ---- the command, and what it is written over


def test_the_command_writes_the_page(folder, capsys):
    assert score("a.png", "b.png", "c.png", "--html", "gallery.html") == 1
    scores = [line.split()[0] for line in capsys.readouterr().out.splitlines()[:2]]
    page = (folder / "gallery.html").read_text("utf-8")
    cards = Elements(page).all("li")
    assert sorted(f"{float(card['data-score']):.4f}" for card in cards[:2]) == sorted(scores)
    assert "c.png is not an image" in page
    assert len(Elements(page).all("img")) == 2
    assert score("a.png", "--html", "gallery.html") == 0  # over its own page, without being asked
    assert len(Elements((folder / "gallery.html").read_text("utf-8")).all("img")) == 1
    assert [path.name for path in folder.iterdir() if path.suffix == ".part"] == []


def test_standard_input_is_shown_too(folder, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO((folder / "a.png").read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert score("-", "--html", "gallery.html") == 0
    page = Elements((folder / "gallery.html").read_text("utf-8"))
    assert (page.all("li")[0]["data-name"], len(page.all("img"))) == ("-", 1)


def test_results_come_before_a_page_that_cannot_be_written(folder, capsys, monkeypatch):
    def full(*args):
        raise ValueError("gallery.html: no space left")

    monkeypatch.setattr("musiq_ref.cli.score.write_output", full)
    assert score("a.png", "--html", "gallery.html", "--json") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["path"] == "a.png"
    assert "no space left" in err


def test_an_interruption_leaves_the_page_of_what_was_scored(folder, monkeypatch, capsys):
    def interrupted(path, **options):
        if path.name == "b.png":
            raise KeyboardInterrupt
        return mq.decode(path, **options)

    monkeypatch.setattr("musiq_ref.scorers.decode", interrupted)
    assert score("a.png", "b.png", "--html", "gallery.html") == 130
    assert "1 picture, scored" in (folder / "gallery.html").read_text("utf-8")


def test_another_file_is_replaced_with_force_only(folder, capsys):
    (folder / "mine.html").write_text("<p>mine</p>")
    assert score("a.png", "--html", "mine.html") == 2
    assert "was not written by musiq-ref; name another, or add --force" in capsys.readouterr().err
    assert (folder / "mine.html").read_text() == "<p>mine</p>"
    assert score("a.png", "--html", "mine.html", "--force") == 0
    assert GENERATOR in (folder / "mine.html").read_text()


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("a.png", "a.png does not end in .html or .htm"),
        ("new.txt", "new.txt does not end in .html"),
        ("no/page.html", "there is no folder no; make it first"),
        ("input.html", "is one of the files to read"),
        ("folder.html", "is no file"),
    ],
)
def test_what_is_never_written(folder, target, message, force, capsys):
    (folder / "input.html").write_bytes((folder / "a.png").read_bytes())
    (folder / "folder.html").mkdir()
    assert score("a.png", "input.html", "--html", target, *force) == 2
    out, err = capsys.readouterr()
    assert out == ""  # noticed before the work
    assert message in err
    assert len(err.splitlines()) == 1
    assert (folder / "input.html").read_bytes() == (folder / "a.png").read_bytes()


def test_a_failure_while_writing_keeps_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    write_output(path, f"{GENERATOR} old")
    check_output(path)
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ValueError, match=r"page\.html cannot be written \(No space left"):
        write_output(path, "new")
    assert path.read_text().endswith("old")
    assert len(list(tmp_path.iterdir())) == 1


def test_names_that_are_no_unicode(tmp_path):
    write_output(tmp_path / "page.html", gallery([Picture("\udcff.png", 1.0, b"", None)], DEMO))
    assert "\\udcff.png" in (tmp_path / "page.html").read_text("utf-8")
