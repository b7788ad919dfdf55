"""One self-contained HTML page of scored pictures: the best first, the worst first, or those looked for."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from musiq_ref.checkpoint import Checkpoint
from musiq_ref.checkpoint.load import DEMO
from musiq_ref.image.decode import decode
from musiq_ref.outputs import GENERATOR

SIDE = 256  # of a thumbnail, at most

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1c; --faint: #666; --line: #ddd; --card: #f5f5f5;
  --score: #0072b2; --warn: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --paper: #161616; --ink: #eee; --faint: #aaa; --line: #444;
  --card: #242424; --score: #6cc0f5; --warn: #3d3010; } }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; margin: 0.3rem 0; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.about { color: var(--faint); }
.warning { background: var(--warn); border-left: 5px solid #e69f00; padding: 0.6rem 1rem; }
form { position: sticky; top: 0; display: flex; flex-wrap: wrap; gap: 0.4rem 1rem; align-items: center;
  padding: 0.6rem 0; background: var(--paper); border-bottom: 1px solid var(--line); }
form input, form select { font: inherit; } form input[type=number] { width: 5.5rem; }
form input[type=search] { width: 10rem; }
#pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(10rem, 45%), 1fr)); gap: 0.8rem;
  padding: 0; margin: 1rem 0; list-style: none; }
#pictures li { background: var(--card); border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
#pictures li[hidden] { display: none; }
#pictures img { display: block; width: 100%; height: 10rem; object-fit: contain; }
#pictures p { margin: 0; padding: 0.3rem 0.6rem 0.5rem; overflow-wrap: anywhere; font-size: 0.85rem; line-height: 1.3; }
#pictures strong { display: block; font-size: 1.15rem; color: var(--score); }
.unread { overflow-wrap: anywhere; } footer { margin: 2rem 0 1rem; color: var(--faint); font-size: 0.9rem; }
"""

SCRIPT = """
const form = document.forms[0], list = document.getElementById("pictures"), cards = [...list.children];
const byScore = (a, b) => b.dataset.score - a.dataset.score;
const orders = { best: byScore, worst: (a, b) => byScore(b, a),
  name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }) };
function show() {
  const words = form.words.value.toLowerCase(), low = form.low.value, high = form.high.value;
  for (const card of cards) {
    const score = Number(card.dataset.score);
    card.hidden = !card.dataset.name.toLowerCase().includes(words)
      || (low !== "" && score < Number(low)) || (high !== "" && score > Number(high));
  }
  list.append(...cards.sort(orders[form.order.value]));
  form.count.value = `${cards.filter(card => !card.hidden).length} of ${cards.length}`;
}
form.hidden = false;
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
show();
"""

FORM = """<form hidden>
<label>Order <select name="order"><option value="best">best first</option><option value="worst">worst first</option>
<option value="name">by name</option></select></label>
<label>Name <input type="search" name="words" placeholder="part of a name"></label>
<label>Score from <input type="number" name="low" step="any"></label>
<label>to <input type="number" name="high" step="any"></label>
<output name="count"></output>
</form>"""


class Picture(NamedTuple):
    """What the page shows of one file: its score and thumbnail, or why there is none.

    >>> Picture("a.jpg", 71.2, b"", None).score
    71.2
    """

    name: str
    score: float | None
    thumbnail: bytes  # a JPEG; may be empty
    error: str | None


def thumbnail(source: Any, max_pixels: int | None = None) -> bytes:
    """A small JPEG of whatever `decode` reads, or nothing where it cannot be made.

    >>> thumbnail(np.zeros((300, 600, 3), np.uint8))[:2].hex()
    'ffd8'
    """
    try:
        pixels = decode(source, max_pixels=max_pixels)
    except (ValueError, OSError, MemoryError):
        return b""
    small = Image.fromarray(pixels if pixels.dtype == np.uint8 else np.rint(255 * pixels).astype(np.uint8))
    small.thumbnail((SIDE, SIDE), reducing_gap=2)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=75)
    return file.getvalue()


def gallery(pictures: Sequence[Picture], checkpoint: Checkpoint, left_out: str = "") -> str:
    """The page as a string of HTML that asks for nothing outside itself.

    pictures: in any order
    checkpoint: which model scored them
    left_out: a line on what was not looked at

    >>> import musiq_ref as mq
    >>> page = gallery([Picture("a<b.jpg", 71.2, b"", None)], mq.load_checkpoint("demo"))
    >>> "a&lt;b.jpg" in page, "a<b.jpg" in page
    (True, False)
    """
    scored = sorted((p for p in pictures if p.score is not None), key=lambda p: -(p.score or 0))
    failed = [p for p in pictures if p.score is None]
    title = f"{len(scored)} {'picture' if len(scored) == 1 else 'pictures'}, scored"
    parts = [f"<h1>{title}</h1>", _about(checkpoint), FORM, '<ul id="pictures">', *map(_card, scored), "</ul>"]
    if failed:
        errors = "".join(f"<li>{html.escape(p.error or p.name)}</li>" for p in failed)
        parts.append(f'<h2>{len(failed)} could not be scored</h2><ul class="unread">{errors}</ul>')
    if left_out:
        parts.append(f"<p>In folders, {html.escape(left_out)}.</p>")
    parts.append(
        "<footer>Written by musiq_ref. A score is one model's estimate, not the opinion of a person; it was computed "
        "from the whole picture, and the small ones here do not show fine blur or noise.</footer>"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{GENERATOR}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def _about(checkpoint: Checkpoint) -> str:
    """Which model it was, and what it does not know."""
    if checkpoint.format == "deterministic":
        return '<p class="warning"><strong>These weights were never trained: the scores mean nothing.</strong></p>'
    if checkpoint.path == DEMO:
        return (
            '<p class="warning">Scored by the bundled model. It learned to notice blur, noise, compression and other '
            "flaws that a computer can add to a photograph. It does not know people's taste: whether a picture is "
            "beautiful or interesting, or which of two good ones people would choose.</p>"
        )
    name = Path(checkpoint.path).name if checkpoint.path else "weights that come from no file"
    outputs = checkpoint.config.outputs
    scale = f"from 1 to {outputs}" if outputs > 1 else "on the scale of the data that the model was trained on"
    return f'<p class="about">Scored by {html.escape(name)}, {scale}; higher is better.</p>'


def _card(picture: Picture) -> str:
    name = html.escape(picture.name)
    source = f"data:image/jpeg;base64,{base64.b64encode(picture.thumbnail).decode()}" if picture.thumbnail else ""
    image = f'<img loading="lazy" alt="{name}" src="{source}">' if source else ""
    score = f"{picture.score:.2f}"
    return f'<li data-name="{name}" data-score="{picture.score!r}">{image}<p><strong>{score}</strong> {name}</p></li>'
