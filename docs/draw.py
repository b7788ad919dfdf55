"""Draws the pictures of the documentation: `python docs/draw.py` writes docs/images/floors.svg and model.svg."""

from __future__ import annotations

from pathlib import Path

from floors import FLOORS
from matplotlib import rc_context
from matplotlib.patches import FancyBboxPatch

import musiq_ref as mq
from musiq_ref.explain import model_diagram
from musiq_ref.explain.style import COLOURS, STYLE, new_figure

IMAGES = Path(__file__).parent / "images"


def floors():
    """The packages of the library in reading order, each resting on those above it."""
    figure = new_figure(8, 0.4 * len(FLOORS))
    axis = figure.subplots()
    axis.set(xlim=(0, 10), ylim=(-len(FLOORS) + 0.4, 0.6))
    axis.set_axis_off()
    for i, (paths, what, colour) in enumerate(FLOORS):
        style = "round,pad=0.02,rounding_size=0.1"
        axis.add_patch(FancyBboxPatch((0.1, -i - 0.4), 9.8, 0.76, boxstyle=style, facecolor=COLOURS[colour], alpha=0.2))
        axis.text(0.3, -i, f"{i + 1}", va="center", weight="bold", color="0.4")
        axis.text(0.8, -i, ", ".join(paths), va="center", weight="bold", family="monospace", fontsize=8)
        axis.text(4.4, -i, what, va="center", fontsize=8.5)
    return figure


def main() -> None:
    with rc_context({**STYLE, "svg.hashsalt": "musiq_ref", "svg.fonttype": "path"}):
        in_words = "; ".join(f"{', '.join(paths)}: {what}" for paths, what, _ in FLOORS)
        model = model_diagram(mq.MusiqConfig(), (480, 640))
        for name, figure, words in (("floors", floors(), in_words), ("model", model, None)):
            metadata = {"Date": None, "Creator": None, "Description": words}
            figure.savefig(IMAGES / f"{name}.svg", metadata=metadata)


if __name__ == "__main__":
    main()
