"""A picture of a run: loss and learning rate by step, validation by epoch."""

from __future__ import annotations

import json
from pathlib import Path

from musiq_ref.outputs import SOFTWARE, write_output


def draw_curves(log: Path, output: Path) -> Path | None:
    """Draws the log of a run; returns the picture's path, or None when matplotlib is not installed.

    Raises OutputError when the picture cannot be written.

    >>> draw_curves.__name__
    'draw_curves'
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    epochs = [line for line in lines if "epoch" in line]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([line["step"] for line in steps], [line["loss"] for line in steps], color="tab:blue", linewidth=0.8)
    left.set(xlabel="step", ylabel="loss", title="training loss, and learning rate (dashed)")
    rate = left.twinx()
    rate.plot([line["step"] for line in steps], [line["learning_rate"] for line in steps], "--", color="tab:gray")
    rate.set_ylabel("learning rate")
    for name, marker in (("srcc", "o"), ("plcc", "s"), ("accuracy", "^")):
        points = [(line["epoch"], line[name]) for line in epochs if name in line]
        if points:
            right.plot(*zip(*points, strict=True), marker=marker, label=name.upper())
    right.set(xlabel="epoch", title="validation")
    if right.lines:
        right.legend()
    write_output(output, lambda part: figure.savefig(part, format="png", dpi=110, metadata={"Software": SOFTWARE}))
    return output
