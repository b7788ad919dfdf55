"""Draws the pictures of the documentation: `python docs/draw.py` writes docs/images/floors.svg and model.svg."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.patches import FancyBboxPatch

import musiq_ref as mq
from musiq_ref.explain import model_diagram
from musiq_ref.explain.style import COLOURS, STYLE, new_figure

IMAGES = Path(__file__).parent / "images"
FLOORS = (  # name, what is there, colour
    ("config.py, backend.py", "what varies between models and programs; which array library", 4),
    ("image/", "pixels to tokens: decode, resize, patches, hash, tokenize", 4),
    ("ops/", "linear, GELU, softmax, norms, convolution, pooling: a pair a file", 1),
    ("model/", "stem, embeddings, attention, encoder, head, and the whole (Eq. 1–11)", 1),
    ("losses.py, metrics.py", "L1, MSE, Huber, EMD, cross-entropy; SRCC, PLCC, KRCC, RMSE", 2),
    ("checkpoint/, scoring.py", "the authors' files, pyiqa's, our own; scores of photographs", 2),
    ("training/", "data sets, distortions, optimisers, the loop, evaluation", 2),
    ("explain/", "attention rollout, figures, the report", 3),
    ("verify/", "gradient check, traces, deterministic tensors, proving a port", 3),
    ("cli/", "one file a subcommand, no logic of its own", 6),
)


def floors():
    """The packages of the library in reading order, each resting on those above it."""
    figure = new_figure(8, 5.6)
    axis = figure.subplots()
    axis.set(xlim=(0, 10), ylim=(-len(FLOORS) + 0.4, 0.6))
    axis.set_axis_off()
    for i, (name, what, colour) in enumerate(FLOORS):
        style = "round,pad=0.02,rounding_size=0.1"
        axis.add_patch(FancyBboxPatch((0.1, -i - 0.4), 9.8, 0.76, boxstyle=style, facecolor=COLOURS[colour], alpha=0.2))
        axis.text(0.3, -i, f"{i + 1}", va="center", weight="bold", color="0.4")
        axis.text(0.8, -i, name, va="center", weight="bold", family="monospace", fontsize=9)
        axis.text(3.75, -i, what, va="center", fontsize=9)
    return figure


def main() -> None:
    with rc_context({**STYLE, "svg.hashsalt": "musiq_ref", "svg.fonttype": "path"}):
        for name, figure in (("floors", floors()), ("model", model_diagram(mq.MusiqConfig(), (480, 640)))):
            figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
