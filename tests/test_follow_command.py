"""`musiq-ref follow` and `explain --follow`: what is written, what it links to, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from follow_page import (
    PHOTOGRAPHS,
    PICTURES,
    STATIONS,
    model,
    written,
)
from PIL import Image

import musiq_ref as mq
from musiq_ref.cli import main
from musiq_ref.explorer import page
from musiq_ref.model.parameters import flatten, map_params


@pytest.fixture(scope="module")
def demo():
    return mq.load_checkpoint("demo")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return written(tmp_path_factory.mktemp("follow"))


def test_the_page_is_not_too_large(html):
    text = html.read_text(encoding="utf-8")
    assert len(text) < 4e6
    assert 'content="musiq_ref"' in text


def test_a_page_of_four_mebibytes_of_weights_is_not_too_large(rng):
    """The largest that may be bundled."""
    larger = model(6, 96)
    room = 2**20 - sum(value.size for _, value in flatten(larger.params))
    assert room > 0
    larger.params["filler"] = {"kernel": rng.normal(size=room).astype(np.float32)}
    text = page(PHOTOGRAPHS / "raccoon.png", larger)
    assert len(text) < 4e6
    assert len(re.sub(r"data:image/[^\"]*", "", text)) < 3e6


def about(text):
    """What a page knows of its photograph."""
    return json.loads(text.split('id="model">')[1].split("</script>")[0])["about"]


def test_a_large_photograph_is_reduced_and_that_is_said(demo):
    text = page(np.zeros((1000, 1500, 3), np.uint8), demo, "large.png")
    assert "Reduced from 1500×1000 to 600×400" in about(text)["note"]


@dataclasses.dataclass(frozen=True)
class LaterConfig(mq.MusiqConfig):
    """What a later version may have: fields that this engine does not know."""

    attention: str = "softmax"
    memory_tokens: int = 0


def test_settings_that_the_engine_does_not_know_are_refused(demo):
    known = LaterConfig(**demo.config.__dict__)
    black = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(ValueError, match="cannot compute a model with memory_tokens=0"):
        page(black, mq.Checkpoint(demo.params, known, "native", None))
    performer = dataclasses.replace(known, attention="performer")
    with pytest.raises(ValueError, match="cannot compute a model with attention='performer'"):
        page(black, mq.Checkpoint(demo.params, performer, "native", None))


def test_the_report_of_explain_links_to_stations(tmp_path):
    Image.fromarray(PICTURES["tiny"]).save(tmp_path / "photo.png")
    (tmp_path / "reports").mkdir()
    command = ["explain", str(tmp_path / "photo.png"), "--follow", str(tmp_path / "my page.html")]
    assert main([*command, "-o", str(tmp_path / "reports" / "report.html")]) == 0
    links = re.findall(r'<a href="([^"]*)"', (tmp_path / "reports" / "report.html").read_text(encoding="utf-8"))
    assert len(links) == 4
    for address, station in (link.split("#") for link in links):
        assert address == "../my%20page.html"
        assert set(station.split("/")) & set(STATIONS)


def test_a_report_says_if_the_page_shows_a_reduced_photograph(demo, tmp_path):
    for name, size in (("large", (640, 500)), ("small", (600, 400))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    told = "shows the photograph reduced to 554×433 pixels"

    def explained(name, *more):
        command = ["explain", str(tmp_path / f"{name}.png"), "-o", str(tmp_path / "report.html"), "--force"]
        assert main([*command, *more]) == 0
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    there = "--follow", str(tmp_path / "page.html")
    assert told in explained("large", *there)
    assert told not in explained("large")
    assert "reduced" not in explained("small", *there)
    assert "Reduced from 640×500 to 554×433" in about(page(tmp_path / "large.png", demo))["note"]


def test_a_page_to_link_to_is_one_or_will_be(tmp_path, capsys):
    Image.fromarray(PICTURES["tiny"]).save(tmp_path / "photo.png")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "mine.html").write_text("<title>My diary</title>")

    photo, report = str(tmp_path / "photo.png"), str(tmp_path / "report.html")

    def explain(followed):
        return main(["explain", photo, "--follow", str(followed), "-o", report]), capsys.readouterr().err

    for name, words in {
        "folder.html": "is no page that musiq-ref follow wrote",
        "mine.html": "is no page that musiq-ref follow wrote",
        "photo.png": "does not end in .html",
        "none/page.html": "there is no folder",
        "report.html": "would replace the page",
        "": "does not end in .html",
    }.items():
        done, said = explain(name and tmp_path / name)
        assert (done, said.count("\n")) == (2, 1)
        assert words in said
        assert not (tmp_path / "report.html").exists()
    assert "writes it" in explain(f"{tmp_path / 'later.html'}#attention/head_2")[1]
    done, said = explain(tmp_path / "later.html")
    assert done == 0
    assert f"musiq-ref follow {tmp_path / 'photo.png'} -o {tmp_path / 'later.html'} writes it" in said
    done, said = explain("https://example.org/page#score/class")
    assert (done, "writes it" in said) == (0, False)
    assert 'href="https://example.org/page#scales"' in (tmp_path / "report.html").read_text(encoding="utf-8")
    done, said = explain("javascript://page.html")
    assert (done, "is no address of a page" in said) == (2, True)


def test_a_report_links_to_a_page_about_the_same(html, tmp_path, capsys):
    photo, other = html.parent / "photo.png", tmp_path / "other.png"
    Image.fromarray(PICTURES["landscape"][::-1]).save(other)
    musiq = model(1, 96)
    mq.save_checkpoint(tmp_path / "other.safetensors", musiq.params, musiq.config)
    bundled = mq.load_checkpoint("demo")
    nudged = map_params(lambda a: a * np.float32(1.01), bundled.params)
    mq.save_checkpoint(tmp_path / "nudged.safetensors", nudged, bundled.config)
    (tmp_path / "half.html").write_bytes(html.read_bytes()[:-100])

    def explain(photo, page, *more):
        done = main(["explain", str(photo), "--follow", str(page), "-o", str(tmp_path / "report.html"), *more])
        return done, capsys.readouterr().err

    for refused, words in (
        (explain(other, html), "follows another photograph"),
        (explain(photo, html, "--checkpoint", str(tmp_path / "other.safetensors")), "runs another model"),
        (explain(photo, html, "--checkpoint", str(tmp_path / "nudged.safetensors")), "runs another model"),
        (explain(photo, tmp_path / "half.html"), "is cut short"),
    ):
        assert (refused[0], refused[1].count("\n")) == (2, 1)
        assert words in refused[1]
    assert not (tmp_path / "report.html").exists()
    Image.open(photo).save(tmp_path / "copy.png", compress_level=1)  # the same pixels in another file
    assert explain(tmp_path / "copy.png", f"{html.as_uri()}#scales")[0] == 0


def test_names_are_text_not_markup(demo):
    text = page(np.zeros((30, 30, 3), np.uint8), demo, "</script><b>.png")
    assert "</script><b>" not in text


def test_what_cannot_be_followed_is_refused_in_one_sentence(tmp_path, capsys):
    (tmp_path / "photo.png").write_bytes((PHOTOGRAPHS / "cat.png").read_bytes())
    assert main(["follow", str(tmp_path / "photo.png"), "-o", str(tmp_path / "photo.png")]) == 2
    assert "does not end in .html" in capsys.readouterr().err
    (tmp_path / "mine.html").write_text("<p>mine")
    assert main(["follow", str(tmp_path / "photo.png"), "-o", str(tmp_path / "mine.html")]) == 2
    assert "was not written by musiq-ref" in capsys.readouterr().err
    assert main(["follow", str(tmp_path / "none.png"), "-o", str(tmp_path / "page.html")]) == 2
    assert "does not exist" in capsys.readouterr().err
    Image.new("RGB", (2000, 3)).save(tmp_path / "line.png")
    assert main(["follow", str(tmp_path / "line.png"), "-o", str(tmp_path / "page.html")]) == 2
    assert "too elongated" in capsys.readouterr().err
    large = mq.Checkpoint({"head": {"bias": np.full(2_000_000, 1e6)}}, mq.MusiqConfig(), "native", None)
    with pytest.raises(ValueError, match="float16 cannot hold"):
        page(tmp_path / "photo.png", large)
