"""Pictures that are dropped onto the page of `musiq-ref follow`: of all kinds, and what is none."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from follow_page import (
    PICTURES,
    SETTLED,
    as_pixels,
    click,
    crop,
    go_to,
    in_a_browser,
    opened,
    wait,
    written,
)
from PIL import Image, ImageCms

import musiq_ref as mq


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return written(tmp_path_factory.mktemp("follow"))


@pytest.fixture(scope="module")
def browser(html):
    with opened(html) as one:
        yield one


def open_files(browser, *files):
    """Drops files onto the page, one right after the other, and waits until it says something of the last."""
    given = json.dumps([[name, base64.b64encode(data).decode()] for name, data in files])
    browser.run(
        f"""for (const [name, text] of {given}) {{
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
        document.dispatchEvent(new DragEvent("drop", {{ dataTransfer, cancelable: true }}));
        }}"""
    )
    wait(browser, "!document.querySelector('#says').textContent.startsWith('Opening')")
    wait(browser, SETTLED)
    return browser.run("document.querySelector('#says').textContent")


def as_file(image, kind, **more):
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


@in_a_browser
def test_what_is_no_picture_is_refused_and_nothing_is_lost(browser, html):
    browser.open(html, "#pixels/token_4")
    browser.complaints.clear()
    click(browser, "#actions button:nth-child(1)")
    before = browser.run("[musiq.score, musiq.changes]")
    no_picture = "notes.txt cannot be used: this browser does not know it as a picture; save it as"
    for file, words in (
        (("notes.txt", b"no picture"), no_picture),
        (("line.png", as_file(Image.new("RGB", (5000, 1)), "PNG")), "too elongated; crop it"),
    ):
        assert words in open_files(browser, file)
        assert browser.run("[musiq.score, musiq.changes]") == before
        assert browser.array("musiq.stage('pixels/scale_0')").size > 0
    for pixels in ("null", "{ width: 2, height: 2, data: [1, 2, 3] }", "{ width: 1, height: 1, data: [0.5, 0, 0, 1] }"):
        with pytest.raises(RuntimeError, match="as an ImageData has them"):
            browser.run(f"musiq.load({pixels})")
    for name in ("nothing", "toString"):
        with pytest.raises(RuntimeError, match=f"is called “{name}”; names are such as patches"):
            browser.run(f"musiq.gradient('{name}')")
    assert browser.run("[musiq.score, musiq.changes]") == before
    go_to(browser, "stem/token_4")
    shown = browser.run("[location.hash, document.querySelector('#panel').textContent]")
    go_to(browser, "stem/token_4/toString/constructor")
    assert browser.run("[location.hash, document.querySelector('#panel').textContent]") == shown
    assert browser.complaints == []


@in_a_browser
def test_the_picture_opened_last_stays(browser, html):
    browser.open(html, "#pixels/class")
    small, large = crop("cat", 40, 60), Image.new("RGB", (5000, 4000), "red")
    said = open_files(
        browser, ("large.jpg", as_file(large, "JPEG")), ("small.png", as_file(Image.fromarray(small), "PNG"))
    )
    assert said == "60×40 pixels."
    assert browser.run("musiq.score") == pytest.approx(browser.run(f"musiq.load({as_pixels(small)})"), abs=1e-6)


def swapping_profile():
    """sRGB's profile, its red and blue exchanged: who applies it sees other colours."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"?").replace(b"bXYZ", b"rXYZ").replace(b"?", b"bXYZ")


TURNED = Image.Exif()
TURNED[274] = 6
FILES = {
    "turned.jpg": as_file(Image.fromarray(PICTURES["portrait"]), "JPEG", exif=TURNED, quality=95, subsampling=0),
    "print.jpg": as_file(Image.fromarray(PICTURES["landscape"]).convert("CMYK"), "JPEG", quality=95),
    "clear.png": as_file(Image.fromarray(np.dstack([PICTURES["landscape"], PICTURES["landscape"][..., :1]])), "PNG"),
    "moving.gif": as_file(
        Image.fromarray(PICTURES["tiny"]).quantize(64), "GIF", save_all=True, append_images=[Image.new("P", (23, 20))]
    ),
    "deep.png": as_file(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50), "PNG"),
    "wide.png": as_file(Image.fromarray(PICTURES["landscape"]), "PNG", icc_profile=swapping_profile()),
    "dot.png": as_file(Image.new("RGB", (1, 1), "blue"), "PNG"),
}


@in_a_browser
@pytest.mark.parametrize("name", FILES)
def test_pictures_of_all_kinds_are_those_of_musiq_ref(name, browser, html):
    browser.open(html, "#pixels")
    assert open_files(browser, (name, FILES[name])).endswith("pixels.")
    seen = browser.array("musiq.stage('pixels/scale_2')")
    wanted = mq.image.decode.decode(io.BytesIO(FILES[name])) / 127.5 - 1
    assert seen.shape == wanted.shape
    assert np.abs(seen - wanted).max() < 3 / 127.5
    assert browser.complaints == []
