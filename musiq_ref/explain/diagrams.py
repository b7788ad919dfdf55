"""Drawings of the architecture, from bottom to top: figures 1 and 2 of the appendix."""

from __future__ import annotations

from typing import Any

from musiq_ref.config import MusiqConfig
from musiq_ref.explain.style import COLOURS, new_figure, styled

BLUE, ORANGE, GREEN, PINK, SKY = COLOURS[:5]
PARTS = {"input": "0.6", "norm": ORANGE, "attention": BLUE, "mlp": GREEN, "sum": "0.3", "head": PINK, "mask": SKY}
"""{what a box does: its colour}"""


@styled
def attention_diagram(masked: bool = True) -> Any:
    """A Figure of one head of self-attention, Eq. 6–8 and 11 (figure 2 of the appendix).

    masked: with the mask M of Eq. 10, which is added before the division, as Eq. 11 has it

    >>> texts = [text.get_text() for text in attention_diagram().axes[0].texts]
    >>> "softmax" in texts, "add $M$" in texts
    (True, True)
    """
    figure, axis = _sheet(5, 6.4, 10, 12.4)
    tokens = _box(axis, 5, 0.6, r"tokens $z$   ($N \times D$)", "input", 5.4)
    ends = []
    for x, name, letter in ((1.8, "queries", "q"), (5, "keys", "k"), (8.2, "values", "v")):
        projection = _box(axis, x, 2.6, rf"$\times\, U_{letter}$", "attention", 2.2)
        _arrow(axis, (x if x == 5 else 5 + (x - 5) * 0.7, tokens[1]), (x, projection[0]))
        ends.append(_label(axis, x, 4.0, rf"{name} $\mathbf{{{letter.upper()}}}$", projection[1]))
    steps = [(r"$\mathbf{Q}\mathbf{K}^T$   ($N \times N$)", "attention")]
    steps += [("add $M$", "mask")] if masked else []
    steps += [(r"divide by $\sqrt{D_h}$", "attention"), ("softmax", "attention")]
    height = 5.6
    starts = [(1.8, ends[0]), (5, ends[1])]  # of the arrows into the next box
    for text, part in steps:
        low, high = _box(axis, 3.4, height, text, part, 4.4)
        for start in starts:
            _arrow(axis, start, (start[0], low))
        starts = [(3.4, high)]
        height += 1.4
    shares = _label(axis, 3.4, height, r"weights $\mathbf{A}$", height - 0.98)
    low, high = _box(axis, 5.8, height + 1.5, r"$\mathbf{A}\mathbf{V}$", "attention", 6.8)
    _arrow(axis, (3.4, shares), (3.4, low))
    _arrow(axis, (8.2, ends[2]), (8.2, low))
    _label(axis, 5.8, height + 2.9, r"SA($z$)   ($N \times D_h$)", high)
    axis.set_ylim(0, height + 3.4)
    return figure


@styled
def block_diagram() -> Any:
    """A Figure of one block of the encoder, Eq. 3 and 4: two branches, and the residual path around each.

    >>> texts = [text.get_text() for text in block_diagram().axes[0].texts]
    >>> texts.count("LayerNorm"), texts.count("+")
    (2, 2)
    """
    figure, axis = _sheet(4, 5.6, 8, 11.4)
    below = _label(axis, 3, 0.4, r"$z_{q-1}$", None)
    height = 0.4
    for part, text, equation, after in (
        ("attention", "multi-head attention", "Eq. (3)", r"$z'_q$"),
        ("mlp", "MLP", "Eq. (4)", "$z_q$"),
    ):
        norm = _box(axis, 3, height + 1.7, "LayerNorm", "norm", 4.6)
        branch = _box(axis, 3, height + 3.0, text, part, 4.6)
        _arrow(axis, (3, below), (3, norm[0]))
        _arrow(axis, (3, norm[1]), (3, branch[0]))
        top = height + 4.2
        axis.plot([3], [top], "o", markersize=19, markerfacecolor="white", markeredgecolor=PARTS["sum"])
        axis.text(3, top, "+", ha="center", va="center_baseline", fontsize=14)
        _arrow(axis, (3, branch[1]), (3, top - 0.35))
        fork = height + 0.75  # where the residual path leaves
        axis.plot([3, 6.2, 6.2], [fork, fork, top], color=PARTS["sum"])
        _arrow(axis, (6.2, top), (3.38, top))
        axis.text(6.45, height + 2.4, f"residual\npath,\n{equation}", va="center", fontsize=9, color="0.3")
        below = _label(axis, 3, top + 1.2, after, top + 0.35)
        height = top + 1.2
    axis.set_ylim(0, height + 0.5)
    return figure


@styled
def encoder_diagram(config: MusiqConfig) -> Any:
    """A Figure of the whole encoder, Eq. 1–5: tokens of all scales, L blocks, and the one row that is read (figure 1).

    config: scales, blocks and embeddings are its own

    Three squares stand for the patches of a scale, however many there are.

    >>> texts = [text.get_text() for text in encoder_diagram(MusiqConfig()).axes[0].texts]
    >>> "14 × block (Eq. 3 and 4)" in texts
    True
    """
    names = [f"longer side {side}" for side in config.longer_sides] + ["native size"] * config.native
    if config.native and config.conventions.scale_order == "native_first":
        names = [names[-1], *names[:-1]]
    right = 2.6 + 3 * len(names)
    figure, axis = _sheet(max(5, 0.62 * right), 5.2, right, 10)
    middle = right / 2
    _square(axis, 1, 2.4, "white", "*")
    axis.text(1, 0.9, "class\ntoken", ha="center", va="center", fontsize=9)
    for s, name in enumerate(names):
        centre = 3.4 + 3 * s
        for i in (-1, 0, 1):
            _square(axis, centre + 0.85 * i, 2.4, COLOURS[s % 6], "…" if i == 1 else "")
            _arrow(axis, (centre + 0.85 * i, 2.85), (centre + 0.85 * i, 4.6))
        axis.text(centre, 0.9, f"patches,\n{name}", ha="center", va="center", fontsize=9)
    _arrow(axis, (1, 2.85), (1, 4.6))
    embeddings = {"E_p": True, "E_{HSE}": config.spatial != "none", "E_{SCE}": config.scale_embedding}
    text = "each patch: $" + " + ".join(name for name, there in embeddings.items() if there) + "$   (Eq. 2)"
    axis.text((right + 2) / 2, 3.7, text, ha="center", va="center", fontsize=9, bbox={"color": "white", "pad": 1})
    blocks = _box(axis, middle, 5.2, f"{config.layers} × block (Eq. 3 and 4)", "attention", right - 0.6)
    norm = _box(axis, 2.2, 7.2, "LayerNorm", "norm", 3.4)
    for s in range(len(names)):
        for i in (-1, 0, 1):
            _arrow(axis, (3.4 + 3 * s + 0.85 * i, blocks[1]), (3.4 + 3 * s + 0.85 * i, 6.25), "0.75", "-")
    axis.text((right + 4) / 2, 7.2, "the other rows are not read", ha="center", va="center", fontsize=9, color="0.4")
    head = _box(axis, 2.2, 9.2, "head", "head", 3.4)
    _arrow(axis, (1, blocks[1]), (1, norm[0]))
    _arrow(axis, (1, norm[1]), (1, head[0]))
    axis.text(1.3, 8.2, r"$y$ (Eq. 5)", va="center", fontsize=9)
    _arrow(axis, (3.9, 9.2), (5, 9.2))
    axis.text(5.2, 9.2, "score", va="center", weight="bold")
    return figure


def _sheet(width, height, right, top):
    """An empty figure and its axes, in units of our own."""
    figure = new_figure(width, height)
    axis = figure.subplots()
    axis.set(xlim=(0, right), ylim=(0, top))
    axis.set_axis_off()
    return figure, axis


def _box(axis, x, y, text, part, width):
    """A box around (x, y); returns its lower and its upper edge."""
    from matplotlib.patches import FancyBboxPatch

    colour, style = PARTS[part], "round,pad=0,rounding_size=0.2"
    corner = (x - width / 2, y - 0.42)
    axis.add_patch(FancyBboxPatch(corner, width, 0.84, boxstyle=style, facecolor=colour, alpha=0.25))
    axis.add_patch(FancyBboxPatch(corner, width, 0.84, boxstyle=style, fill=False, edgecolor=colour))
    axis.text(x, y, text, ha="center", va="center")
    return y - 0.42, y + 0.42


def _label(axis, x, y, text, below):
    """Words at the end of an arrow that comes from below; returns where the next arrow may begin."""
    if below is not None:
        _arrow(axis, (x, below), (x, y - 0.38))
    axis.text(x, y, text, ha="center", va="center", weight="bold")
    return y + 0.38


def _square(axis, x, y, colour, text):
    """A token."""
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((x - 0.36, y - 0.42), 0.72, 0.84, facecolor=colour, edgecolor="0.2", alpha=0.7))
    axis.text(x, y, text, ha="center", va="center")


def _arrow(axis, start, end, colour="0.3", style="->"):
    axis.annotate("", end, start, arrowprops={"arrowstyle": style, "color": colour, "shrinkA": 0, "shrinkB": 0})
