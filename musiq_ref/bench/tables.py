"""A report as it is read: a table for the terminal, the same in Markdown, and what the figures depend on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from musiq_ref.bench.contender import FLOOR, OURS

NO_RIVAL = "–"
DIFFERENT = 1e-3  # of a result; float32 makes 1e-5 of a score, 2e-4 of a gradient, where a ReLU may decide otherwise


def header(report: dict[str, Any]) -> list[str]:
    """Lines that say what the figures depend on."""
    m = report["machine"]
    libraries = [f"BLAS {m['blas']}, kernel {m['kernel']}", f"NumPy {m['numpy']}"]
    if "pytorch" in m:
        libraries.append(f"PyTorch {m['pytorch']} ({m['pytorch_cpu']})")
    if "pyiqa" in m:
        libraries.append(f"pyiqa {m['pyiqa']}")
    card = f"{m['card']}, {m['library']}, beside " if "card" in m else ""
    busy = "" if m["load"] is None else f"; load {m['load']} when it began"
    on = f" on {report['backend']}" if report.get("backend", "numpy") != "numpy" else ""
    lines = [
        f"{card}{m['processor']}, {m['threads']} of {m['cores']} cores{busy}",
        f"{'; '.join(libraries)}; Python {m['python']}, {m['system']}; musiq_ref {m['musiq_ref']}",
        f"{report['preset']} model, float32{on}" + ("; --quick: few rounds" if report["quick"] else ""),
    ]
    if m["load"] is not None and m["load"] > m["cores"] / 2:
        lines.append("WARNING: this machine had other work to do: all times are too long, and ratios not sure")
    for name, value in m["overrides"].items():
        lines.append(f"WARNING: {name}={value} is set, which makes BLAS slower or faster; measured WITHOUT it")
    lines += [f"left out: {name} ({reason})" for name, reason in report["left_out"].items()]
    return lines


def rivals(report: dict[str, Any]) -> list[str]:
    """Who is in the report beside ourselves and the products."""
    found = [name for row in report["results"] for name in row["runs"] if name not in (OURS, FLOOR)]
    return list(dict.fromkeys(found))


def rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The titles of the columns, and a list of texts for every case."""
    others = rivals(report)
    titles = ["case", "tokens", OURS]
    for name in others:
        titles += [name, f"of {name}'s time"]
    weighed = [OURS, *(name for name in others if any(name in row["peak_mib"] for row in report["results"]))]
    titles += ["of the products' time", "GFLOP/s", "products alone", "peak MiB", *(f"{name}'s" for name in weighed[1:])]
    return titles, [_row(row, others, weighed) for row in report["results"]]


def _row(row: dict[str, Any], others: Sequence[str], weighed: Sequence[str]) -> list[str]:
    cells = [row["name"], f"{row['tokens']:,}", f"{row['seconds'][OURS]['median']:.3g} s"]
    for name in others:
        known = name in row["seconds"]
        cells += [f"{row['seconds'][name]['median']:.3g} s", _ratio(row["ratios"][name])] if known else 2 * [NO_RIVAL]
    cells += [_ratio(row["ratios"][FLOOR]), f"{row['gflops'][OURS]:.0f}", f"{row['gflops'][FLOOR]:.0f}"]
    for name in weighed:
        mib = row["peak_mib"].get(name)
        cells.append(NO_RIVAL if mib is None else f"{mib:.0f}")
    return cells


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def notes(report: dict[str, Any]) -> list[str]:
    """How to read the table, and how far the ratios vary."""
    told = [
        "Seconds are medians, ratios medians over the rounds of one run, in brackets between what their middle half "
        "lies; below 1, musiq_ref is faster. The products' time is that of the matrix products alone, by as many "
        "threads; a multiply–accumulate counts as two operations. Memory is the peak of a process that does no more."
    ]
    widths = [
        (one["high"] - one["low"]) / one["median"]
        for row in report["results"]
        for one in row["ratios"].values()
        if len(row["runs"][OURS]) > 2
    ]
    if widths:
        told.append(f"The middle half of a case's ratios spans {min(widths):.0%} to {max(widths):.0%} of their median.")
    differ = [row["disagreement"] for row in report["results"] if row["disagreement"] is not None]
    if differ and max(differ) > DIFFERENT:
        told.append(
            f"WARNING: the contenders' results differ by {max(differ):.0e} of their size: they did not do the same."
        )
    elif differ:
        told.append(f"The contenders' results agree to {max(differ):.0e} of their size.")
    if not report["complete"]:
        told.append("It was stopped before its end.")
    return told


def parts(report: dict[str, Any]) -> list[tuple[str, str, list[list[str]]]]:
    """For every case whose parts were measured: its name, whose parts they are, and texts for every part."""
    found = []
    for row in report["results"]:
        for name, listed in row["parts"].items():
            lines = [
                [
                    part["name"],
                    f"{1000 * part['seconds']:.1f} ms",
                    f"{part['share']:.0%}",
                    f"{2e-9 * part['macs'] / part['seconds']:.0f}" if part["macs"] and part["seconds"] else NO_RIVAL,
                ]
                for part in listed
            ]
            found.append((row["name"], name, lines))
    return found


PART_TITLES = ["part", "time", "share", "GFLOP/s"]


def text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    blocks = ["\n".join(header(report))]
    if report["results"]:
        blocks.append(_aligned(*rows(report)))
        blocks += [f"{case}, {name}\n{_aligned(PART_TITLES, lines)}" for case, name, lines in parts(report)]
        blocks.append("\n".join(notes(report)))
    return "\n\n".join(blocks) + "\n"


def _aligned(titles: list[str], lines: list[list[str]]) -> str:
    """Columns as wide as they must be; titles broken into words to stay narrow."""
    words = [title.split(" ") for title in titles]
    tall = max(len(one) for one in words)
    head = [[one[i - tall + len(one)] if i >= tall - len(one) else "" for one in words] for i in range(tall)]
    table = [*head, *lines]
    wide = [max(len(line[i]) for line in table) for i in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, wide, strict=True))
        ).rstrip()
        for line in table
    )


def markdown(report: dict[str, Any]) -> str:
    """The table and its parts in Markdown, with the processor above."""
    lines = header(report)
    blocks = [f"**{lines[0]}.** {'. '.join(lines[1:])}.", _table(*rows(report))]
    blocks += [f"`{case}`, the parts of {name}:\n\n{_table(PART_TITLES, cells)}" for case, name, cells in parts(report)]
    return "\n\n".join([*blocks, " ".join(notes(report))]) + "\n"


def _table(titles: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *["--:"] * (len(titles) - 1)]
    shown = [[f"`{line[0]}`" if re.fullmatch(r"[\w-]+", line[0]) else line[0], *line[1:]] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, rule, *shown))


def short_markdown(report: dict[str, Any]) -> str:
    """The table's most asked for columns, for README."""
    titles, lines = rows(report)
    wanted = [
        i
        for i, title in enumerate(titles)
        if title in ("case", OURS, "of PyTorch's time", "of the products' time", "peak MiB")
    ]
    return _table([titles[i] for i in wanted], [[line[i] for i in wanted] for line in lines]) + "\n"


def file_name(processor: str) -> str:
    """Under what name the report of a processor is kept.

    >>> file_name("AMD EPYC (cpu family 25, AVX-512)")
    'amd-epyc-cpu-family-25-avx-512.json'
    """
    return "-".join(re.findall(r"[a-z0-9]+", processor.lower())) + ".json"
