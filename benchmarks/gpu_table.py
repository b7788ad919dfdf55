"""docs/gpu.md, from the JSON of `benchmarks/gpu.py`: what was measured, and which targets it reaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

PRECISIONS = ("float32", "tf32", "float16")
OTHERS = {"plain": "without a graph", "untiled": "all weights at once", "numpy": "NumPy on 2 threads"}
Found = dict[str, dict[str, Any]]
"""The records of a precision, by task."""


class Target(NamedTuple):
    """What is to be reached: a number of the records, and its limit in each precision, where there is one.

    least: the limit is the least that will do; else it is the most
    """

    text: str
    number: Callable[[Found], float]
    limits: dict[str, float]
    least: bool = False


def of_time(task: str, other: str) -> Callable[[Found], float]:
    return lambda found: found[task][f"ratio to {other}"]


def of_memory(task: str, other: str) -> Callable[[Found], float]:
    return lambda found: found[task]["musiq_ref_bytes"] / found[task][f"{other}_bytes"]


ONE, LARGE, BUNDLED = "score 1 photograph", "score 12 megapixels", "training the bundled model, 16 pictures"
FLAT, STEP = "score 16 of different sizes", "training step, "
LARGE_TARGETS = [
    Target(f"{LARGE}: {what}, of {words}", of(LARGE, other), dict.fromkeys(PRECISIONS, limit))
    for other, words in (("torch", "PyTorch's"), ("untiled", "ours with all weights at once"))
    for what, of, limit in (("time", of_time, 0.5), ("memory", of_memory, 0.3))
]
TARGETS = [
    Target(f"{ONE}: time, of PyTorch's", of_time(ONE, "torch"), {"float32": 0.85, "tf32": 0.5, "float16": 0.5}),
    Target(f"{FLAT}: time, of PyTorch's", of_time(FLAT, "torch"), dict.fromkeys(PRECISIONS, 0.7)),
    *(
        Target(f"{STEP}{how}: time, of PyTorch's", of_time(STEP + how, "torch"), dict.fromkeys(PRECISIONS, 0.9))
        for how in ("1 photograph", "16 one by one", "16 together")
    ),
    *LARGE_TARGETS,
    Target(
        f"{ONE}: difference from NumPy's",
        lambda found: found[ONE]["difference from numpy"],
        {"float32": 1e-5, "tf32": 1e-3, "float16": 1e-3},
    ),
    Target(
        f"{BUNDLED}: times as fast as NumPy on 2 threads",
        lambda found: 1 / found[BUNDLED]["ratio to numpy"],
        {"float32": 50},
        least=True,
    ),
]


def targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """For each target and precision the limit, what was reached, and whether that is enough: None if not measured."""
    rows = []
    for text, number, limits, least in TARGETS:
        for precision, limit in limits.items():
            try:
                reached = number({one["task"]: one for one in report[precision]["records"]})
            except (KeyError, TypeError, ZeroDivisionError):  # not measured, or memory without a GPU
                reached = None
            met = None if reached is None else reached >= limit if least else reached <= limit
            rows.append({"target": text, "precision": precision, "limit": limit, "reached": reached, "met": met})
    return rows


def table(report: dict[str, Any]) -> str:
    """docs/gpu.md of a report."""
    lines = [
        *("---", "orphan: true", "---", "# On a GPU, measured", ""),
        f"{report['card'] or 'No GPU: a rehearsal, whose figures mean nothing'}; driver {report.get('driver') or '–'} "
        f"(CUDA {_cuda(report.get('driver_cuda'))}); CuPy {report.get('cupy', '–')}, PyTorch {report['torch']}, "
        f"NumPy {report['numpy']}, Python {report['python']}; {report['processor']}. "
        "Written by `make gpu` (benchmarks/gpu.py).",
        "",
        "Times begin with tokens in host memory. A ratio is the time of musiq_ref as a fraction of PyTorch's, eager, "
        "with TF32 except in the float32 rows; a difference is that of scores or losses, as a fraction of the largest. "
        "Memory is the most at a time, parameters included: of ours what CuPy's pool holds, without that of graphs, of "
        "PyTorch's what its tensors take.",
        "",
        "| precision | task | ms | PyTorch's | ratio | MiB | PyTorch's | difference | others |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for precision in PRECISIONS:
        lines += [f"| {precision} | {_cells(found)} |" for found in report.get(precision, {}).get("records", [])]
    lines += ["", "| target | float32 | tf32 | float16 |", "|---|---|---|---|"]
    rows = targets(report)
    for text, *_ in TARGETS:
        mine = {row["precision"]: _reached(row) for row in rows if row["target"] == text}
        lines.append(f"| {text} | {' | '.join(mine.get(precision, '') for precision in PRECISIONS)} |")
    lines += ["", "| step | | seconds | tests |", "|---|---|---|---|"]
    for name, how in report["steps"].items():
        lines.append(f"| {name} | {how} | {report['seconds'].get(name, '–')} | {report.get(name, {}).get('ran', '')} |")
    return "\n".join(lines) + "\n"


def _cells(found: dict[str, Any]) -> str:
    if "error" in found:
        error = " ".join(found["error"].split()).replace("|", "/")
        return f"{found['task']} | failed: {error[:120]} | | | | | |"
    ratio, apart = found.get("ratio to torch"), found.get("difference from torch")
    others = [_other(found, name) for name in OTHERS if f"{name}_seconds" in found]
    cells = [found["task"], _ms(found["musiq_ref_seconds"]), _ms(found.get("torch_seconds"))]
    cells += ["–" if ratio is None else f"{ratio:.2f}", _mib(found["musiq_ref_bytes"]), _mib(found.get("torch_bytes"))]
    return " | ".join([*cells, "–" if apart is None else f"{apart:.0e}", "; ".join(others)])


def _other(found: dict[str, Any], name: str) -> str:
    said = f"{OTHERS[name]} {_ms(found[f'{name}_seconds'])} ms"
    if name == "untiled":
        return f"{said}, {_mib(found[f'{name}_bytes'])} MiB"
    if name == "numpy":
        speeds = (found[f"{who}_images_per_second"] for who in (name, "musiq_ref"))
        return f"{said}, {' and here '.join(f'{speed:.0f}' for speed in speeds)} images a second"
    return said


def _reached(row: dict[str, Any]) -> str:
    if row["met"] is None:
        return "–"
    limit, number = row["limit"], row["reached"]
    form = ".0e" if limit < 0.01 else ".0f" if limit > 2 else ".2f"
    wanted = "" if row["met"] else f" ({'≥' if limit > 2 else '≤'} {limit:g})"
    return f"{'yes' if row['met'] else '**no**'}, {number:{form}}{wanted}"


def _cuda(number: int | None) -> str:
    """CUDA's 12080 is 12.8."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else "–"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.2f}"


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:.0f}"
