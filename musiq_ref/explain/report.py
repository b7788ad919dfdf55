"""One self-contained HTML page about one photograph: its score, and what the model saw, in plain words."""

from __future__ import annotations

import base64
import html
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from musiq_ref.backend import get_backend
from musiq_ref.checkpoint import Checkpoint
from musiq_ref.config import MusiqConfig
from musiq_ref.counts import Complexity, complexity
from musiq_ref.explain.gradient import gradient_over_photograph
from musiq_ref.explain.positions import hash_grid
from musiq_ref.explain.rollout_by_team import rollout_maps
from musiq_ref.explain.scales import multi_scale_patches, over_scales, scale_name
from musiq_ref.explain.style import COLOURS, new_figure, styled
from musiq_ref.image.decode import ImageLike, decode
from musiq_ref.image.tokenize import scales_of, tokens_for
from musiq_ref.model.parameters import map_params
from musiq_ref.outputs import GENERATOR
from musiq_ref.scoring import scorer

PATCHES = 2500  # at most, where all attention weights are kept for a gradient (about 6 GB for the small model)

BUNDLED = (
    "This is the model that comes with musiq_ref. It learned how much a picture was spoilt by eighteen synthetic "
    "flaws, such as blur, noise and compression. It does not know what people like: nobody rated the pictures it "
    "learned from. Whether the light, the moment or the composition is good does not count, nor do flaws that it has "
    "never seen, such as moiré or dirt on the lens."
)
"""What the pages and pictures say when the checkpoint is the bundled one (docs/demo-model.md)."""

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 16px/1.55 system-ui, sans-serif; color: #1c1c1c; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.4rem; border-top: 1px solid #ddd; padding-top: 1rem; }
.score { font-size: 2.6rem; font-weight: 700; color: #0072b2; }
.warning { background: #fff3d6; border-left: 5px solid #e69f00; padding: 0.6rem 1rem; }
figure { margin: 0.8rem 0; overflow-x: auto; }
figure img { width: 100%; min-width: 34rem; height: auto; }
.photo { min-width: 0; max-width: 34rem; }
table { border-collapse: collapse; } td, th { padding: 0.25rem 0.9rem 0.25rem 0; text-align: left; }
@media (max-width: 40rem) { table { font-size: 0.8rem; } td, th { padding-right: 0.5rem; } }
.wide { overflow-x: auto; } footer { margin: 3rem 0 1rem; color: #555; font-size: 0.9rem; }
"""


def check_patches(height: int, width: int, checkpoint: Checkpoint, backend: str = "numpy") -> None:
    """Raises ValueError for an image whose attention, where all of it is kept, would not fit into most memories.

    >>> import musiq_ref as mq
    >>> check_patches(4000, 6000, mq.Checkpoint({}, mq.MusiqConfig(attention="performer"), "native", None))
    Traceback (most recent call last):
    ValueError: an image of 4000×6000 pixels has 23631 patches; ... reduce it to 1250×1876 pixels, say
    """
    if checkpoint.config.attention == "softmax" and backend == "numpy":
        return  # `gradient_by_team` and `rollout_by_team` keep none of it

    patches = count_patches(height, width, checkpoint.config)
    if patches > PATCHES:
        shares = np.geomspace(1, 0.01, 500)
        smaller = ((max(1, round(height * share)), max(1, round(width * share))) for share in shares)
        fits = next((size for size in smaller if count_patches(*size, checkpoint.config) <= PATCHES), None)
        advice = f"reduce it to {fits[0]}×{fits[1]} pixels, say" if fits else "the resized scales alone have too many"
        raise ValueError(
            f"an image of {height}×{width} pixels has {patches} patches; their attention, kept for the gradient, would "
            f"take more memory than most machines have; {advice}"
        )


def count_patches(height: int, width: int, config: MusiqConfig) -> int:
    """How many patches the model gets of an image of that size.

    >>> count_patches(4000, 6000, MusiqConfig())
    23631
    """
    return sum(scale.kept for scale in scales_of(height, width, config))


def report(
    image: ImageLike,
    checkpoint: Checkpoint,
    name: str = "the photograph",
    follow: str = "",
    backend: str = "numpy",
    note: str = "",
) -> str:
    """The page as a string of HTML without links to anything outside it, but to `follow`.

    image: whatever `decode` reads
    checkpoint: the model
    name: the photograph's, for the title
    follow: the address of a page that `musiq_ref.explorer.page` made; every section then links to its station there
    backend: "numpy" or "cupy", where score and gradient are computed
    note: a sentence below the score, in plain text

    Raises ValueError for an image too large for a gradient, ImportError, saying what to install, without matplotlib.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> checkpoint = mq.Checkpoint(mq.verify.deterministic_params(config, seed=1), config, "native", None)
    >>> page = report(np.zeros((60, 80, 3), np.uint8), checkpoint, "black.png", note="0 < 1")
    >>> page.count("<img "), "black.png" in page, "0 &lt; 1" in page
    (5, True, True)
    """
    pixels, params, config = decode(image), checkpoint.params, checkpoint.config
    height, width = pixels.shape[:2]
    check_patches(height, width, checkpoint, backend)
    there = map_params(get_backend(backend).from_numpy, params)
    with warnings.catch_warnings(action="ignore"):  # that weights are made up is said on the page
        score = scorer(checkpoint, backend)(pixels)
    counts = complexity(config, (height, width), padded=False)

    def live(station: str) -> str:
        return f' <a href="{html.escape(f"{follow}#{station}")}">See it computed.</a>' if follow else ""

    parts = [
        _heading(name, pixels, score, checkpoint),
        *([f"<p>{html.escape(note)}</p>"] if note else []),
        _scale_table(height, width, config),
        _section(
            "What the model reads: patches at every scale",
            multi_scale_patches(pixels, config),
            f"The photograph is shown to the model {config.scales} times, in different sizes, each cut into squares of "
            f"{config.patch_size}×{config.patch_size} pixels: {counts.tokens} patches in all. In the small versions a "
            "patch shows whole objects, so composition and large-scale flaws are visible; at native size it shows "
            "grain, sharpness and compression. Grey borders are padding." + live("scales"),
        ),
        *([_places(pixels, config, live("place"))] if config.spatial != "none" else []),
        _rollout(pixels, params, config, live("block_00/attention/class")),
        _section(
            "What would change the score: the gradient",
            gradient_over_photograph(pixels, there, config),
            "The exact derivative of the score with respect to every pixel, computed by hand-written backward code. "
            "Bright in the middle picture: a small change there changes the score most. On the right: would making "
            "that pixel a little brighter raise or lower the score? The gradient describes tiny changes only; a strong "
            "gradient is not a flaw by itself. A raster in it shows the borders of the patches."
            + live("reverse/pixels"),
        ),
        _footer(config, counts),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'{GENERATOR}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(name)}: score {score.value:.2f}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _footer(config: MusiqConfig, counts: Complexity) -> str:
    return (
        f"<footer>Written by musiq_ref. Model: {config.layers} encoder blocks of width {config.width}, "
        f"{counts.parameters:,} parameters, {counts.macs / 1e9:.2f} billion multiply–accumulates for this photograph. "
        "A score is one model's estimate; it is not the opinion of a person.</footer>"
    )


def _heading(name, pixels, score, checkpoint) -> str:
    """The photograph, its score, and what kind of model it is from."""
    file = io.BytesIO()
    photo = Image.fromarray(pixels if pixels.dtype == np.uint8 else np.rint(255 * pixels.clip(0, 1)).astype(np.uint8))
    photo.thumbnail((1000, 1000))
    photo.save(file, "JPEG", quality=85)
    rows = [
        f"<h1>{html.escape(name)}</h1>",
        f'<p>Score <span class="score">{score.value:.2f}</span></p>',
    ]
    if checkpoint.format == "deterministic":
        rows.append(
            '<p class="warning"><strong>These weights were never trained: the score and the pictures mean '
            "nothing</strong>; they only show what is computed.</p>"
        )
    source = Path(checkpoint.path).name if checkpoint.path else "weights made on the spot"
    scale = (
        f"1 to {checkpoint.config.outputs}" if checkpoint.config.outputs > 1 else "that of the model's training data"
    )
    rows.append(f"<p>{pixels.shape[1]}×{pixels.shape[0]} pixels. Model: {html.escape(source)}; scale: {scale}.</p>")
    if checkpoint.bundled:
        rows.append(
            f'<p class="warning">{BUNDLED} For people\'s opinions: <code>musiq-ref download koniq</code>, then '
            "<code>--checkpoint koniq</code>.</p>"
        )
    picture = _image(file.getvalue(), "jpeg", "the photograph").replace("<img ", '<img class="photo" ')
    if score.distribution is not None:
        rows.append(_section("How sure it is: the distribution of scores", _distribution(score), DISTRIBUTION))
    return "\n".join([*rows[:2], f"<figure>{picture}</figure>", *rows[2:]])


DISTRIBUTION = (
    "The model predicts how large a part of the people asked would give each score; its score is the mean of these. A "
    "narrow distribution means that it expects agreement."
)


@styled
def _distribution(score) -> Any:
    figure = new_figure(7, 2.4)
    axis = figure.subplots()
    k = np.arange(1, len(score.distribution) + 1)
    axis.bar(k, score.distribution)
    axis.axvline(score.value, color=COLOURS[5], linestyle="--", label=f"mean {score.value:.2f}")
    axis.set(xlabel="score", ylabel="probability")
    axis.legend()
    return figure


def _places(pixels, config, link: str) -> str:
    return _section(
        "Where the patches are: the hash grid",
        hash_grid(pixels, config),
        f"Images of any size share one table of {config.grid_size}×{config.grid_size} learned places. Every "
        "patch gets the place of the cell it falls into. The colour says how many patches share a cell: those the "
        "model cannot tell apart by place, only by content." + link,
    )


def _rollout(pixels, params, config, link: str) -> str:
    maps = rollout_maps(params, tokens_for(pixels, config, params), config, pixels.shape[:2])
    shares = np.concatenate([laid_out[np.isfinite(laid_out)] for laid_out in maps])  # cut-off patches are NaN
    return _section(
        "Where the class token looked: attention rollout, by scale",
        over_scales(pixels, shares, config, "share of the class token", share=True),
        "The score is read from one extra token, the class token, which gathers information from all patches, layer by "
        "layer. Multiplying the attention of all layers (half of it staying where it is, for the residual path) "
        "estimates how much of that token was mixed from each patch: more from the brighter ones. It keeps "
        f"{1 - shares.sum():.0%} of itself; the percentages over the pictures are the rest, and a scale with more "
        "patches gets more for that alone. Whether a bright patch raised the score, lowered it or made no difference, "
        "this picture cannot say: it knows nothing of the part of the model that turns the token into a number." + link,
    )


def _scale_table(height, width, config) -> str:
    rows = "".join(
        f"<tr><td>{scale_name(s)}</td><td>{s.height}×{s.width}</td><td>{s.rows}×{s.columns}</td><td>{s.kept}</td></tr>"
        for s in scales_of(height, width, config)
    )
    head = "<tr><th>scale</th><th>pixels (height×width)</th><th>patches (rows×columns)</th><th>tokens</th></tr>"
    return f'<div class="wide"><table>{head}{rows}</table></div>'


def _section(title: str, figure: Any, words: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
    return f"<h2>{title}</h2>\n<p>{words}</p>\n<figure>{_image(file.getvalue(), 'png', title)}</figure>"


def _image(data: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
