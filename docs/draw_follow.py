"""Photographs the live page for the documentation: `python docs/draw_follow.py` writes docs/images/follow.png.

Needs Chromium, which tests/browser.py finds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

import musiq_ref as mq
from musiq_ref.explorer import page

DOCS = Path(__file__).parent
PICTURE = DOCS / "images" / "follow.png"
sys.path.insert(0, str(DOCS.parent / "tests"))

from browser import CHROMIUM, Browser  # noqa: E402


def main() -> None:
    if not CHROMIUM:
        sys.exit("docs/draw_follow.py needs Chromium; install it, so that `chromium --version` answers")
    photograph = DOCS.parent / "musiq_ref" / "data" / "photographs" / "coffee.png"
    browser = Browser()
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "page.html"
            file.write_text(page(photograph, mq.load_checkpoint("demo"), photograph.name), encoding="utf-8")
            browser.resize(1400, 860)
            browser.open(file, "#block_01/attention/class")
        time.sleep(1)  # the card with the sum is drawn a moment later
        browser.screenshot(PICTURE)
    finally:
        browser.close()
    with Image.open(PICTURE) as picture:
        picture.convert("RGB").quantize(256).save(PICTURE, optimize=True)  # a third of the bytes


if __name__ == "__main__":
    main()
