"""A report as a picture: every case's time as a multiple of that of its products, and what its parts take."""

from __future__ import annotations

from typing import Any

from musiq_ref.bench.contender import FLOOR, OURS
from musiq_ref.bench.measure import ratios
from musiq_ref.bench.tables import rivals
from musiq_ref.explain.style import COLOURS, new_figure, styled


@styled
def plot(report: dict[str, Any]) -> Any:
    """A matplotlib Figure; ImportError, saying what to install, without matplotlib.

    report: of `measure`, with at least one result
    """
    names, results = [OURS, *rivals(report)], report["results"]
    inside = [(row["name"], name, listed) for row in results for name, listed in row["parts"].items()]
    figure = new_figure(8, 1.2 + 0.3 * len(results) * len(names) + 0.5 * len(inside))
    tall = [len(results) * len(names), *([2 * len(inside)] if inside else [])]
    axes = figure.subplots(len(tall), 1, squeeze=False, height_ratios=tall)[:, 0]
    times, height = axes[0], 0.8 / len(names)
    for k, name in enumerate(names):
        known = [(y, row) for y, row in enumerate(results) if name in row["runs"]]
        places = [y + (k - (len(names) - 1) / 2) * height for y, _ in known]
        found = [ratios(row["runs"][name], row["runs"][FLOOR]) for _, row in known]
        spreads = [[one.median - one.low for one in found], [one.high - one.median for one in found]]
        look = {"fmt": "os^"[k % 3], "color": COLOURS[k], "label": name}
        times.errorbar([one.median for one in found], places, xerr=spreads, **look)
        for place, one, (_, row) in zip(places, found, known, strict=True):
            seconds = f"{row['seconds'][name]['median']:.2g} s"
            times.annotate(seconds, (one.high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    times.axvline(1, color="0.3", linestyle="--", linewidth=1)
    times.set(yticks=range(len(results)), yticklabels=[row["name"] for row in results], xscale="log")
    times.set(xlabel="time, in multiples of the matrix products alone (dashed)", title=report["machine"]["processor"])
    times.set_xticks([digit * 10**power for power in range(4) for digit in (1, 2, 5)], minor=False)
    times.xaxis.set_major_formatter("{x:g}")
    times.minorticks_off()
    times.invert_yaxis()
    most = max(
        ratios(row["runs"][name], row["runs"][FLOOR]).high for row in results for name in names if name in row["runs"]
    )
    times.set_xlim(0.8, 1.5 * most)
    times.legend()
    if inside:
        _draw_parts(axes[1], inside)
    return figure


def _draw_parts(axis: Any, inside: list[tuple[str, str, list[dict[str, Any]]]]) -> None:
    """A bar for each case and contender, cut into its parts."""
    for y, (_, _, listed) in enumerate(inside):
        start = 0.0
        for k, part in enumerate(listed):
            axis.barh(y, part["share"], 0.6, start, color=COLOURS[k % 6], edgecolor="white", alpha=0.7)
            if part["share"] > 0.06:
                label = part["name"].replace(", ", ",\n", 1)
                axis.text(start + part["share"] / 2, y, label, ha="center", va="center", fontsize=6)
            start += part["share"]
    axis.set(yticks=range(len(inside)), yticklabels=[f"{case}, {name}" for case, name, _ in inside], xlim=(0, 1))
    axis.set(xlabel="share of the time")
    axis.invert_yaxis()
