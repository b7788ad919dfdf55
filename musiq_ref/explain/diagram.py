"""A drawing of a model with the shape of everything that flows through it."""

from __future__ import annotations

from typing import Any, NamedTuple

from musiq_ref.config import MusiqConfig
from musiq_ref.counts import complexity
from musiq_ref.explain.style import COLOURS, new_figure, styled
from musiq_ref.image.tokenize import scales_of


class Step(NamedTuple):
    """A box of the diagram: what is computed, the shape that leaves it, how many parameters it has; the part's colour.

    >>> Step._fields
    ('title', 'detail', 'shape', 'parameters', 'part')
    """

    title: str
    detail: str
    shape: str
    parameters: int
    part: int


def diagram_steps(config: MusiqConfig, size: tuple[int, int]) -> list[Step]:
    """What `model_diagram` draws, from the pixels to the score; together the steps have all parameters of the model.

    >>> steps = diagram_steps(MusiqConfig(), (480, 640))
    >>> steps[-1].shape, sum(step.parameters for step in steps)
    ('(1,)', 27125825)
    """
    scales, counts = scales_of(*size, config), complexity(config, size).parameters_by_part
    N, P, D, C = sum(scale.kept for scale in scales), config.patch_size, config.width, config.outputs
    H, M, S, G = config.heads, config.mlp_width, config.scales, config.grid_size
    sizes = ", ".join(f"{s.height}×{s.width}" for s in scales)
    final_norm = 2 * D
    norms = counts["encoder/norms"] - final_norm
    blocks = counts["encoder/attention"] + counts["encoder/mlp"] + norms
    tables = counts.get("spatial_embedding", 0) + counts.get("scale_embedding", 0)
    added = {"E_HSE": (config.spatial != "none", f"{G}×{G} places"), "E_SCE": (config.scale_embedding, f"{S} scales")}
    sums = [name for name, (there, _) in added.items() if there]
    head = f"mean of the softmax, 1…{C}" if C > 1 else "the score itself"
    stem = Step(
        "stem", "7×7/2 convolution, max-pool/2, bottleneck", f"({N}, {P // 4}, {P // 4}, 256)", counts.get("stem", 0), 1
    )
    return [
        Step("photograph", "8-bit RGB to −1 … 1", f"({size[0]}, {size[1]}, 3)", 0, 0),
        Step(f"{S} scale{'s' if S > 1 else ''}", sizes, " + ".join(f"{s.rows}·{s.columns}" for s in scales), 0, 0),
        Step("patches", f"{P}×{P} pixels, zero-padded", f"({N}, {P}, {P}, 3)", 0, 0),
        *([stem] if config.stem == "resnet" else []),
        Step("patch embedding E_p", "flatten, linear (Eq. 1)", f"({N}, {D})", counts["patch_embedding"], 2),
        *(
            [Step(" + ".join(["", *sums]).strip(), ", ".join(added[n][1] for n in sums), f"({N}, {D})", tables, 2)]
            if sums
            else []
        ),
        Step("class token in front", "z_0 (Eq. 2)", f"({1 + N}, {D})", counts["class_token"], 2),
        Step(
            f"{config.layers} × encoder block",
            f"z + MSA(LN(z)): {H} heads of {config.head_width} (Eq. 3, 6–11)\nz + MLP(LN(z)): {D}, {M}, {D} (Eq. 4)",
            f"({1 + N}, {D})",
            blocks,
            3,
        ),
        Step("LayerNorm, row 0", "y (Eq. 5)", f"({D},)", final_norm, 4),
        Step("head", head, f"({C},)", counts["head"], 4),
    ]


@styled
def model_diagram(config: MusiqConfig, size: tuple[int, int] = (480, 640)) -> Any:
    """A Figure of the model, from top to bottom: each step, the shape that leaves it, its number of parameters.

    size: (height, width) of the photograph

    >>> texts = [text.get_text() for text in model_diagram(MusiqConfig()).axes[0].texts]
    >>> "(450, 32, 32, 3)" in texts, "27,125,825 parameters" in texts[-1]
    (True, True)
    """
    from matplotlib.patches import FancyBboxPatch

    steps = diagram_steps(config, size)
    figure = new_figure(7.2, 0.78 * len(steps) + 0.5)
    axis = figure.subplots()
    axis.set(xlim=(0, 10), ylim=(-len(steps) - 0.1, 0.5))
    axis.set_axis_off()
    for i, step in enumerate(steps):
        y = -i
        colour = COLOURS[(4, 1, 2, 0, 3)[step.part]]
        box = FancyBboxPatch(
            (0.1, y - 0.34), 5.6, 0.68, boxstyle="round,pad=0.02,rounding_size=0.1", facecolor=colour, alpha=0.25
        )
        axis.add_patch(box)
        axis.text(0.3, y + (0.13 if "\n" not in step.detail else 0.2), step.title, va="center", weight="bold")
        axis.text(0.3, y - (0.17 if "\n" not in step.detail else 0.12), step.detail, va="center", fontsize=8)
        axis.text(5.95, y - 0.48 if i < len(steps) - 1 else y, step.shape, va="center", family="monospace", fontsize=9)
        if step.parameters:
            axis.text(9.95, y, f"{step.parameters:,}", va="center", ha="right", fontsize=9)
        if i < len(steps) - 1:
            axis.annotate("", (2.9, y - 0.64), (2.9, y - 0.36), arrowprops={"arrowstyle": "->", "color": "0.3"})
    total = sum(step.parameters for step in steps)
    axis.text(9.95, 0.42, "parameters", ha="right", va="center", fontsize=8, color="0.3")
    axis.text(5.95, 0.42, "shape", va="center", fontsize=8, color="0.3")
    axis.text(9.95, -len(steps) + 0.1, f"{total:,} parameters in all", ha="right", va="center", weight="bold")
    return figure
