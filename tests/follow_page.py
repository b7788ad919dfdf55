"""The page of `musiq-ref follow` in a browser, for the tests: how it is written, opened and used."""

from __future__ import annotations

import base64
import json
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

import musiq_ref as mq
from musiq_ref.cli import main

PHOTOGRAPHS = Path(mq.__file__).parent / "data" / "photographs"
in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
STATIONS = ["pixels", "scales", "patches", "stem", "embedding", "place", "scale", "attention", "mlp", "score"]
SETTLED = "document.body.dataset.ready === location.hash && !document.querySelector('.busy')"


def crop(name, height, width):
    return np.asarray(Image.open(PHOTOGRAPHS / f"{name}.png").convert("RGB"))[:height, 40 : 40 + width]


PICTURES = {"landscape": crop("coffee", 70, 110), "portrait": crop("cat", 90, 50), "tiny": crop("flower", 20, 23)}


def written(folder):
    """A page about the landscape, and its photograph beside it."""
    Image.fromarray(PICTURES["landscape"]).save(folder / "photo.png")
    assert main(["follow", str(folder / "photo.png"), "-o", str(folder / "page.html")]) == 0
    return folder / "page.html"


@contextmanager
def opened(html):
    """A browser with the page."""
    one = Browser()
    try:
        one.resize(1400)
        one.open(html)
        yield one
    finally:
        one.close()


def as_pixels(image):
    height, width = image.shape[:2]
    rgba = np.concatenate([image, np.full((height, width, 1), 255, np.uint8)], axis=2)
    text = base64.b64encode(rgba.tobytes()).decode()
    data = f"Uint8ClampedArray.from(atob('{text}'), (letter) => letter.charCodeAt(0))"
    return f"{{width: {width}, height: {height}, data: {data}}}"


def go_to(browser, address):
    """Opens a deep link, and waits until the page shows it."""
    browser.run(f"location.hash = '{address}'")
    wait(browser, SETTLED)


def click(browser, selector, expected=SETTLED):
    """Clicks the first element that fits, and waits until what follows is drawn."""
    drawn = browser.run("document.body.dataset.drawn")
    browser.run(f"document.querySelector({json.dumps(selector)}).click()")
    wait(browser, f"document.body.dataset.drawn > {drawn} && {expected}")


def press(browser, selector, key):
    """A key, for the first element that fits."""
    event = f"new KeyboardEvent('keydown', {{ key: '{key}', bubbles: true }})"
    browser.run(f"document.querySelector('{selector}').dispatchEvent({event})")


def wait(browser, condition, seconds=60):
    end = time.monotonic() + seconds
    while not browser.run(f"Boolean({condition})"):
        assert time.monotonic() < end, f"{condition} does not become true"
        time.sleep(0.03)


def model(layers, width, outputs=1, spread=1.0):
    """A model as the bundled one may become, of random weights."""
    config = mq.MusiqConfig(
        layers=layers, width=width, mlp_width=3 * width, heads=4, outputs=outputs, patch_size=16, longer_sides=(48, 96)
    )
    params = mq.init_params(config, seed=4)
    params["head"]["kernel"] = np.random.default_rng(4).normal(0, spread, (width, outputs)).astype(np.float32)
    return mq.Checkpoint(params, config, "native", None)
