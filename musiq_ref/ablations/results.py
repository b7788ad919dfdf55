"""The tables of a grid, in the appendix's form, with the published figures beside."""

from __future__ import annotations

import statistics
from typing import Any

from musiq_ref.ablations.definitions import Grid

Results = dict[tuple[str, int], dict[str, Any]]
"""{(cell's name, seed): its result.json}"""


def report(grid: Grid, results: Results, problems: list[str]) -> dict[str, Any]:
    """Everything that was found, as plain values.

    A row has "srcc" and "plcc", each {"mean", "deviation", "values"}, mean and standard deviation over the seeds, or
    None where a seed is missing; the deviation is None with a single seed.

    >>> from musiq_ref.ablations.definitions import grid
    >>> found = {("base", 0): {"srcc": 0.5, "plcc": 0.25}, ("base", 1): {"srcc": 1.0, "plcc": 0.25}}
    >>> [resnet, linear] = report(grid("stem"), found, [])["tables"][0]["rows"]
    >>> resnet["plcc"], linear["plcc"]
    ({'mean': 0.25, 'deviation': 0.0, 'values': [0.25, 0.25]}, None)
    """
    tables = []
    for table in grid.ablations:
        rows = []
        for row in table.rows:
            cells = [grid.cell(row, seed) for seed in grid.seeds]
            found = [results.get((cell.name, cell.seed)) for cell in cells]
            metrics = {name: _over_seeds([one[name] if one else None for one in found]) for name in ("srcc", "plcc")}
            rows.append({**row._asdict(), "cell": cells[0].name, **metrics})
        tables.append({**table._asdict(), "rows": rows})
    images = next((one["images"] for one in results.values() if "images" in one), None)
    base = grid.base.to_dict()
    return {
        "tables": tables,
        "seeds": list(grid.seeds),
        "settings": base,
        "held_out": {**grid.held_out, "images": images},
        "problems": problems,
    }


def _over_seeds(values: list[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "deviation": deviation, "values": known}


def markdown(made: dict[str, Any]) -> str:
    """A report as a text to read: one table an ablation.

    >>> from musiq_ref.ablations.definitions import grid
    >>> found = {("base", 0): {"srcc": 0.5, "plcc": 0.25}}
    >>> print(markdown(report(grid("stem", seeds=1), found, [])))
    ### Stem
    <BLANKLINE>
    The appendix has figures of the ResNet stem alone. Linear: the patch flat into the patch embedding, as in ViT.
    <BLANKLINE>
    | setting (paper's) | SRCC  | PLCC  | paper, AVA: SRCC | PLCC  |
    |-------------------|-------|-------|------------------|-------|
    | ResNet            | 0.500 | 0.250 | 0.726            | 0.738 |
    | linear            | –     | –     | –                | –     |
    <BLANKLINE>
    ...
    """
    blocks = []
    for table in made["tables"]:
        head = ["setting (paper's)", "SRCC", "PLCC", f"paper, {table['published_on']}: SRCC", "PLCC"]
        body = [
            [row["setting"], _spread(row["srcc"]), _spread(row["plcc"]), *map(_printed(row), ("srcc", "plcc"))]
            for row in table["rows"]
        ]
        blocks += [f"### {table['title']}", table["note"], _table([head, *body])]
    settings, held_out = made["settings"], made["held_out"]
    count, seeds = len(made["seeds"]), ", ".join(map(str, made["seeds"]))
    spread = f"Mean ± standard deviation over {count} seeds ({seeds})" if count > 1 else f"One seed ({seeds})"
    blocks.append(
        f"{spread}, each of {settings['epochs'] * settings['epoch_images']:,} synthetic images of {settings['side']} "
        f"pixels to train on, tested with {held_out['images'] or 'no'} images of other sources. Trained so briefly on "
        f"distortions, only differences between rows may be compared with the paper's, and only where they are larger "
        f"than the spread."
    )
    blocks += [f"- failed: {problem}" for problem in made["problems"]]
    return "\n\n".join(blocks) + "\n"


def _spread(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{found['mean']:.3f}" + (f" ± {found['deviation']:.3f}" if found["deviation"] is not None else "")


def _printed(row: dict[str, Any]):
    return lambda name: f"{row['published'][name]:.3f}" if name in row["published"] else "–"


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(text.ljust(n) for text, n in zip(row, widths, strict=True)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (n + 2) for n in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
